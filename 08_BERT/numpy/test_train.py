"""The training script of level 1 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest

import utils  # noqa: F401  (puts the chapters on the import path)
from bert_layers_numpy import masked_cross_entropy_backward, masked_cross_entropy_forward
from bert_numpy import BertConfig, BertForPreTraining
from masking_numpy import mask_tokens, pack_pairs
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from pretraining_numpy import BertAdam, linear_decay
from utils.document_data import Documents, PackedTexts
from utils.exercises import load_module
from utils.runs import by_length, read_metrics
from utils.weights import load_weights
from wordpiece_numpy import WordPiece

train = load_module(Path(__file__).parent / "train.py", "train_bert_numpy")
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
    words += " --dropout 0.2 --batch-size 5 --limit 14 --epochs 2 --longest 20 --vocabulary 300"
    train.main([*words.split(), "--out", str(tmp_path), "--data-dir", str(tmp_path)])
    assert asked == [("python-docs", tmp_path)]
    (folder,) = tmp_path.glob("*/*")

    tokenizer = WordPiece.train(SENTENCES[:160], 300)
    assert len(tokenizer) == 300
    rng = np.random.default_rng(3)
    data, test_set = (
        PackedTexts(*pack_pairs(part, tokenizer, 20, rng)) for part in (FEW.train, FEW.test)
    )
    sizes = (len(tokenizer), 12, 3, 10, 2, 20)
    model = BertForPreTraining(
        BertConfig(*sizes, dropout=0.2, attention_dropout=0.2), rng, np.float32
    )
    count = min(14, len(data))
    steps = -(-count // 5)
    optimizer, wanted = BertAdam(model.params), []
    schedule = linear_decay(2 * steps, steps)
    for step in range(2 * steps):
        epoch, i = divmod(step, steps)
        rng = np.random.default_rng([3, 0, epoch])
        index = by_length(rng.permutation(count), data.lengths, 5, rng)[i]
        tokens, segments, follows = data.arrays(index)
        padded += (tokens == 0).any()
        rng = np.random.default_rng([3, 1, step])
        maskable = (tokens != 0) & (tokens != 2) & (tokens != 3)
        inputs, labels = mask_tokens(tokens, maskable, len(tokenizer), 4, rng)
        chosen = labels != -100
        logits, pair = model.forward(inputs, segments, tokens != 0, chosen, True, rng)
        loss, cache = masked_cross_entropy_forward(logits, labels[chosen])
        pair_loss, pair_cache = softmax_cross_entropy_forward(pair, follows)
        optimizer.lr = 0.01 * schedule(step)
        optimizer.step(
            model.backward(
                masked_cross_entropy_backward(cache), softmax_cross_entropy_backward(pair_cache)
            )
        )
        wanted.append((float(loss + pair_loss), float(loss), optimizer.lr))
    logged = [r for r in read_metrics(folder) if "loss" in r]
    assert [(r["loss"], r["mlm_loss"], r["lr"]) for r in logged] == wanted and padded
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p) for name, p in model.params.items())
    assert (folder / "vocab.txt").read_text().split("\n") == list(tokenizer.tokens)
    summary = json.loads((folder / "summary.json").read_text())
    train_loss = np.mean([loss for loss, *_ in wanted[steps:]])
    measured = train.measure(model, test_set, tokenizer)
    assert summary["metrics"] == measured | {"train_loss": pytest.approx(train_loss)}


def test_measure_counts_every_chosen_token():
    tokenizer = WordPiece.train(SENTENCES, 300)
    data = PackedTexts(*pack_pairs(DOCUMENTS * 2, tokenizer, 24, np.random.default_rng(0)))
    config = BertConfig(len(tokenizer), 12, 3, 10, 1, 24)
    model = BertForPreTraining(config, np.random.default_rng(0))
    got, losses, hits, follow = train.measure(model, data, tokenizer), [], [], []
    rng = np.random.default_rng(0)
    assert len(data) > 100 and (data.tokens == 0).any()
    for start in range(0, len(data), 100):
        tokens, segments, follows = data.arrays(np.arange(len(data))[start : start + 100])
        maskable = (tokens != 0) & (tokens != 2) & (tokens != 3)
        inputs, labels = mask_tokens(tokens, maskable, len(tokenizer), 4, rng)
        logits, pair = model.forward(inputs, segments, tokens != 0)
        for b, t in zip(*np.nonzero(labels != -100), strict=True):
            losses.append(masked_cross_entropy_forward(logits[b, t][None], labels[b, t][None])[0])
            hits.append(logits[b, t].argmax() == labels[b, t])
        follow += (pair.argmax(axis=1) == follows).tolist()
    want = np.mean(losses), np.mean(hits), np.mean(follow)
    assert list(got) == ["test_mlm_loss", "test_mlm_accuracy", "test_nsp_accuracy"]
    assert list(got.values()) == pytest.approx(want)


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.lr, o.warmup) == (6, 32, 2e-3, 0.1)
    assert (o.vocabulary, o.longest) == (1000, 32)
    assert (o.width, o.heads, o.hidden, o.layers, o.dropout) == (64, 4, 128, 2, 0.0)


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--width", "10", "--heads", "4"])
    assert "expected a width that 4 heads divide, got 10" in capsys.readouterr().err
