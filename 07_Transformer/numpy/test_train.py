"""The training script of level 1 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest

import utils  # noqa: F401  (puts the chapters on the import path)
from bpe_numpy import BPE
from decoding_numpy import greedy_search
from optimizers_numpy import Adam
from transformer_numpy import (
    Transformer,
    TransformerConfig,
    shift_right,
    smoothed_cross_entropy_backward,
    smoothed_cross_entropy_forward,
    warmup_rate,
)
from utils.exercises import load_module
from utils.runs import by_length, read_metrics
from utils.translation_data import Pairs, encode_pairs, load_pairs, pad
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_transformer_numpy")


def with_other_parts(pairs):
    """The training pairs; in the other parts letters that a tokenizer must not learn from them."""
    return Pairs(pairs.train, *(tuple(np.array([t], object) for t in s) for s in ("жд", "ßø")))


def test_the_script_is_the_plain_loop(tmp_path, monkeypatch):
    pairs, asked, measured, drawn = with_other_parts(load_pairs("number-words")), [], [], []
    monkeypatch.setattr(train, "load_pairs", lambda *a: asked.append(a) or pairs)

    def exact_match(model, bpe, part):
        measured.append((part, model.params["shared.weight"].copy()))
        return len(measured) / 4

    def plot_attention(weights, queries, keys, title, path):
        drawn.append((weights, queries, keys, path))

    monkeypatch.setattr(train, "exact_match", exact_match)
    monkeypatch.setattr(train, "plot_attention", plot_attention)
    words = "--seed 3 --lr 0.7 --warmup 5 --width 12 --heads 3 --hidden 10 --layers 2 --dropout 0.2"
    words += " --label-smoothing 0.2 --batch-size 16 --limit 40 --epochs 2 --vocabulary 120"
    train.main([*words.split(), "--out", str(tmp_path), "--data-dir", str(tmp_path)])
    assert asked == [("number-words", tmp_path)]
    (folder,) = tmp_path.glob("*/*")

    bpe = BPE.train([*pairs.train[0], *pairs.train[1]], 120)
    sources, targets = encode_pairs(pairs.train, bpe.encode, bpe.END)
    lengths = np.array([len(a) + len(b) for a, b in zip(sources, targets, strict=True)])
    config = TransformerConfig(len(bpe), 12, 3, 10, 2, dropout=0.2)
    model = Transformer(config, np.random.default_rng(3), np.float32)
    optimizer, wanted = Adam(model.params, betas=(0.9, 0.98), eps=1e-9), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        rng = np.random.default_rng([3, 0, epoch])
        index = by_length(rng.permutation(40), lengths, 16, rng)[i]
        source, labels = (pad([rows[j] for j in index]) for rows in (sources, targets))
        rng = np.random.default_rng([3, 1, step])
        logits = model.forward(source, shift_right(labels, 1), train=True, rng=rng)
        loss, cache = smoothed_cross_entropy_forward(logits, labels, 0, 0.2)
        optimizer.lr = 0.7 * warmup_rate(step + 1, 12, 5)
        optimizer.step(model.backward(smoothed_cross_entropy_backward(cache)))
        wanted.append(float(loss))
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == wanted
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p) for name, p in model.params.items())
    assert {p.dtype for p in trained.values()} == {np.dtype(np.float32)}
    # Validation pairs after each epoch, test pairs once, with the weights of the end.
    assert [part is pairs.test for part, _ in measured] == [False, False, True]
    assert all(part is pairs.val for part, _ in measured[:2])
    assert np.array_equal(measured[2][1], model.params["shared.weight"])
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert metrics == {
        "train_loss": pytest.approx(np.mean(wanted[3:])),
        "val_exact_match": 0.5,
        "test_exact_match": 0.75,
    }
    # What is drawn: the last decoder layer, while it writes the translation of the example.
    ((weights, queries, keys, path),) = drawn
    source = pad([[*bpe.encode(train.EXAMPLE), bpe.END]])
    (found,) = greedy_search(model.predictor(source), 1, 12, bpe.BEGIN, bpe.END)
    model.forward(source, np.array([[bpe.BEGIN, *found]]))
    want = model.attention_maps()["decoder.layers.1.encoder_attn"][0]
    assert np.array_equal(weights, want) and path == folder / "attention.png"
    assert queries == [bpe.tokens[i] for i in (*found, bpe.END)]
    assert keys == [bpe.tokens[i] for i in source[0]]


class Parrot:
    """Writes, whatever the source, the tokens of one text."""

    def __init__(self, bpe, text):
        self.tokens = [*bpe.encode(text), bpe.END]

    def predictor(self, source):
        def log_probs(beginnings, rows):
            log_p = np.full((len(rows), 99), -np.inf)
            log_p[:, self.tokens[beginnings.shape[1] - 1]] = 0
            return log_p

        return log_probs


def test_exact_match_counts_every_pair():
    bpe = BPE.train(["two three 3 2 0 1"] * 2, 60)
    targets = np.array(["3 2 0", "3 2", "3 2 0", "3 2 1", "3 2 0"], dtype=object)
    sources = np.array(["three", "two", "two three", "three", "two"], dtype=object)
    score = train.exact_match(Parrot(bpe, "3 2 0"), bpe, (sources, targets), batch_size=2)
    assert score == 3 / 5
    longest = "3 2 0 1 3 2 0 1 3 2 0"  # with its end 12 tokens, the limit
    assert train.exact_match(Parrot(bpe, longest), bpe, (["two"], [longest])) == 1


def test_the_picture_is_drawn(tmp_path):
    bpe = BPE.train([train.EXAMPLE], 60)
    model = Transformer(TransformerConfig(len(bpe), 12, 3, 10, 2), np.random.default_rng(0))
    train.draw_attention(model, bpe, tmp_path / "attention.png")
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.lr, o.warmup) == (30, 64, 0.15, 150)
    assert (o.width, o.heads, o.hidden, o.layers, o.dropout) == (64, 4, 128, 1, 0.0)
    assert (o.label_smoothing, o.vocabulary, o.data) == (0.1, 200, "number-words")


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--width", "10", "--heads", "4"])
    assert "an even width that 4 heads divide, got 10" in capsys.readouterr().err


def test_label_smoothing_of_1_or_more_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--label-smoothing", "1"])
    assert "expected a number below 1, got 1" in capsys.readouterr().err
