"""The training script of level 2 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import utils  # noqa: F401  (puts the chapters on the import path)
from bert_lowlevel import BertConfig, forward, init_params
from masking_numpy import mask_tokens, pack_pairs
from pretraining_lowlevel import AdamW, linear_decay, masked_cross_entropy, update
from utils.document_data import Documents, PackedTexts
from utils.exercises import load_module
from utils.runs import by_length, read_metrics
from utils.weights import load_weights
from wordpiece_numpy import WordPiece

train = load_module(Path(__file__).parent / "train.py", "train_bert_lowlevel")
LETTERS, RNG = list("abcdefghij"), np.random.default_rng(0)
WORDS = ["".join(RNG.choice(LETTERS, size=n)) for n in RNG.integers(2, 9, size=150)]
SENTENCES = [" ".join(RNG.choice(WORDS, size=n)) + " ." for n in RNG.integers(1, 7, size=240)]
DOCUMENTS = [SENTENCES[i : i + 4] for i in range(0, 240, 4)]
# The second part has letters that a tokenizer must not learn from it.
FEW = Documents(DOCUMENTS[:40], [*DOCUMENTS[40:], ["xyz zyx", "xyz", "zyx zyx"]])


def test_the_script_is_the_plain_loop(tmp_path, monkeypatch):
    asked, padded = [], 0
    monkeypatch.setattr(train, "load_documents", lambda *a: asked.append(a) or FEW)
    words = "--seed 3 --lr 0.01 --warmup 0.5 --width 12 --heads 3 --hidden 10 --layers 2"
    words += " --dropout 0.2 --batch-size 5 --limit 14 --epochs 2 --longest 20 --device cpu"
    words += f" --vocabulary 300 --out {tmp_path} --data-dir {tmp_path}"
    train.main(words.split())
    assert asked == [("python-docs", tmp_path)]
    (folder,) = tmp_path.glob("*/*")

    tokenizer = WordPiece.train(SENTENCES[:160], 300)
    assert len(tokenizer) == 300
    rng = np.random.default_rng(3)
    data, test_set = (
        PackedTexts(*pack_pairs(part, tokenizer, 20, rng)) for part in (FEW.train, FEW.test)
    )
    sizes = (len(tokenizer), 12, 3, 10, 2, 20)
    config = BertConfig(*sizes, dropout=0.2, attention_dropout=0.2)
    params = init_params(config, torch.Generator().manual_seed(3))
    count = min(14, len(data))
    steps = -(-count // 5)
    optimizer, wanted = AdamW(params), []
    schedule = linear_decay(2 * steps, steps)
    for step in range(2 * steps):
        epoch, i = divmod(step, steps)
        rng = np.random.default_rng([3, 0, epoch])
        index = by_length(rng.permutation(count), data.lengths, 5, rng)[i]
        tokens, segments, follows = data.arrays(index)
        padded += (tokens == 0).any()
        maskable = (tokens != 0) & (tokens != 2) & (tokens != 3)
        rng = np.random.default_rng([3, 1, step])
        inputs, labels = mask_tokens(tokens, maskable, len(tokenizer), 4, rng)
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([3, 1, step]).integers(2**63))
        )
        arrays = (inputs, segments, tokens != 0, labels != -100)
        logits, pair = forward(params, config, *map(torch.from_numpy, arrays), generator)
        mlm_loss = masked_cross_entropy(logits, torch.from_numpy(labels[labels != -100]))
        loss = mlm_loss + masked_cross_entropy(pair, torch.from_numpy(follows))
        optimizer.lr = 0.01 * schedule(step)
        wanted.append((update(optimizer, loss).item(), mlm_loss.item(), optimizer.lr))
    logged = [r for r in read_metrics(folder) if "loss" in r]
    got = [(r["loss"], r["mlm_loss"], r["lr"]) for r in logged]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert padded
    trained = load_weights(folder / "model.safetensors")
    for name, p in params.items():
        np.testing.assert_allclose(trained[name], p.detach().numpy(), rtol=0, atol=1e-6)
    assert (folder / "vocab.txt").read_text().split("\n") == list(tokenizer.tokens)
    summary = json.loads((folder / "summary.json").read_text())
    measured = train.measure(params, config, test_set, tokenizer)
    measured["train_loss"] = np.mean([loss for loss, *_ in wanted[steps:]])
    assert summary["metrics"] == pytest.approx(measured, rel=1e-5)


def test_measure_counts_every_chosen_token():
    tokenizer = WordPiece.train(SENTENCES, 300)
    data = PackedTexts(*pack_pairs(DOCUMENTS * 2, tokenizer, 24, np.random.default_rng(0)))
    config = BertConfig(len(tokenizer), 12, 3, 10, 1, 24)  # its dropout must not act
    params = init_params(config, torch.Generator().manual_seed(0), torch.float64)
    got, losses, hits, follow = train.measure(params, config, data, tokenizer), [], [], []
    assert len(data) > 100 and (data.tokens == 0).any()
    rng = np.random.default_rng(0)
    for start in range(0, len(data), 100):
        tokens, segments, follows = data.arrays(np.arange(len(data))[start : start + 100])
        maskable = (tokens != 0) & (tokens != 2) & (tokens != 3)
        inputs, labels = mask_tokens(tokens, maskable, len(tokenizer), 4, rng)
        logits, pair = forward(
            params, config, *map(torch.from_numpy, (inputs, segments, tokens != 0))
        )
        for b, t in zip(*np.nonzero(labels != -100), strict=True):
            losses.append(-logits[b, t].log_softmax(0)[labels[b, t]].item())
            hits.append(logits[b, t].argmax().item() == labels[b, t])
        follow += (pair.argmax(dim=1).numpy() == follows).tolist()
    want = np.mean(losses), np.mean(hits), np.mean(follow)
    assert list(got) == ["test_mlm_loss", "test_mlm_accuracy", "test_nsp_accuracy"]
    assert list(got.values()) == pytest.approx(want)


def test_the_recipe_is_level_1s():
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.lr, o.warmup) == (6, 32, 2e-3, 0.1)
    assert (o.vocabulary, o.longest) == (1000, 32)
    assert (o.width, o.heads, o.hidden, o.layers, o.dropout) == (64, 4, 128, 2, 0.0)


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--width", "10", "--heads", "4"])
    assert "expected a width that 4 heads divide, got 10" in capsys.readouterr().err
