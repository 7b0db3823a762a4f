"""The training script of level 2 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import training_lowlevel as training
import transformer_lowlevel as low
from bpe_numpy import BPE
from decoding_lowlevel import greedy_search
from utils.exercises import load_module
from utils.runs import by_length, read_metrics
from utils.translation_data import Pairs, encode_pairs, load_pairs, pad
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_transformer_lowlevel")


def with_other_parts(pairs):
    """The training pairs; in the other parts letters that a tokenizer must not learn from them."""
    return Pairs(pairs.train, *(tuple(np.array([t], object) for t in s) for s in ("жд", "ßø")))


def test_the_script_is_the_plain_loop(tmp_path, monkeypatch):
    pairs, asked, measured = with_other_parts(load_pairs("number-words")), [], []
    monkeypatch.setattr(train, "load_pairs", lambda *a: asked.append(a) or pairs)

    def exact_match(params, config, bpe, part):
        measured.append((part, params["shared.weight"].detach().clone()))
        return len(measured) / 4

    monkeypatch.setattr(train, "exact_match", exact_match)
    words = "--seed 3 --lr 0.7 --warmup 5 --width 12 --heads 3 --hidden 10 --layers 2 --dropout 0.2"
    words += " --label-smoothing 0.2 --batch-size 16 --limit 40 --epochs 2 --vocabulary 120"
    words += f" --device cpu --out {tmp_path} --data-dir {tmp_path}"
    train.main(words.split())
    assert asked == [("number-words", tmp_path)]
    (folder,) = tmp_path.glob("*/*")

    bpe = BPE.train([*pairs.train[0], *pairs.train[1]], 120)
    sources, targets = encode_pairs(pairs.train, bpe.encode, bpe.END)
    lengths = np.array([len(a) + len(b) for a, b in zip(sources, targets, strict=True)])
    config = low.TransformerConfig(len(bpe), 12, 3, 10, 2, dropout=0.2)
    params = low.init_params(config, torch.Generator().manual_seed(3))
    optimizer, wanted = training.Adam(params), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        rng = np.random.default_rng([3, 0, epoch])
        index = by_length(rng.permutation(40), lengths, 16, rng)[i]
        source, labels = (
            torch.from_numpy(pad([rows[j] for j in index])) for rows in (sources, targets)
        )
        noise = int(np.random.default_rng([3, 1, step]).integers(2**63))
        generator = torch.Generator().manual_seed(noise)
        logits = low.forward(params, source, training.shift_right(labels, 1), config, generator)
        loss = training.smoothed_cross_entropy(logits, labels, 0, 0.2)
        optimizer.lr = 0.7 * training.warmup_rate(step + 1, 12, 5)
        wanted.append(training.update(optimizer, loss).item())
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == wanted
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p.detach()) for name, p in params.items())
    # Validation pairs after each epoch, test pairs once, with the weights of the end.
    assert [part is pairs.test for part, _ in measured] == [False, False, True]
    assert all(part is pairs.val for part, _ in measured[:2])
    assert torch.equal(measured[2][1], params["shared.weight"])
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert metrics == {
        "train_loss": pytest.approx(np.mean(wanted[3:])),
        "val_exact_match": 0.5,
        "test_exact_match": 0.75,
    }


def test_exact_match_counts_every_pair():
    bpe = BPE.train([*load_pairs("number-words").train[0][:200], *"0123456789"], 200)
    config = low.TransformerConfig(len(bpe), 12, 3, 10, 1, dropout=0.0)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    sources = np.array(["two", "three hundred", "one", "ten", "six"], dtype=object)
    tokens = torch.from_numpy(pad([[*bpe.encode(text), bpe.END] for text in sources]))
    found = greedy_search(low.predictor(params, tokens, config), 5, 12, 1, 2)
    targets = np.array([bpe.decode(f) for f in found], dtype=object)
    assert train.exact_match(params, config, bpe, (sources, targets), batch_size=2) == 1
    targets[1] += "!"
    assert train.exact_match(params, config, bpe, (sources, targets), batch_size=2) == 4 / 5


def test_the_longest_number_can_be_written(monkeypatch):
    bpe = BPE.train(["two three 3 2 0 1"] * 2, 60)
    longest = "3 2 0 1 3 2 0 1 3 2 0"  # with its end 12 tokens, the limit
    tokens = torch.tensor([*bpe.encode(longest), bpe.END])

    def parrot(params, source, config):
        one_hot = torch.eye(len(bpe))
        return lambda beginnings, rows: one_hot[tokens[beginnings.shape[1] - 1]].expand(2, -1)

    monkeypatch.setattr(train, "predictor", parrot)
    params = {"shared.weight": torch.zeros(1)}
    assert train.exact_match(params, None, bpe, (["two"] * 2, [longest] * 2)) == 1


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.lr, o.warmup) == (30, 64, 0.15, 150)
    assert (o.width, o.heads, o.hidden, o.layers, o.dropout) == (64, 4, 128, 1, 0.0)
    assert (o.label_smoothing, o.vocabulary, o.data) == (0.1, 200, "number-words")


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--dropout", "1"])
    assert "expected dropout in [0, 1), got 1.0" in capsys.readouterr().err


def test_label_smoothing_of_1_or_more_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--label-smoothing", "1"])
    assert "expected a number below 1, got 1" in capsys.readouterr().err
