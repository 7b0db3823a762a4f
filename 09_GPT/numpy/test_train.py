"""The training script of level 1 is the plain loop that its docstring describes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gpt_numpy import GPT, GPTConfig, cosine_rate
from gpt_sampling_numpy import generate
from optimizers_numpy import AdamW
from recurrent_numpy import (
    clip_by_norm,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.text_data import Corpus, characters, even_starts, windows
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_gpt_numpy")


def small_corpus() -> Corpus:
    return characters("def f(x):\n    return x + 1\n\n" * 30)


def test_the_script_is_the_plain_loop(tmp_path, monkeypatch):
    corpus = small_corpus()
    texts = {("python-source", tmp_path): corpus}
    monkeypatch.setattr(train, "load_corpus", lambda name, folder: texts[name, folder])
    words = "--seed 3 --lr 0.02 --warmup 2 --width 12 --heads 3 --layers 2 --context 8 --clip 0.5"
    words += f" --batch-size 4 --steps 3 --epochs 2 --dropout 0.2 --beta2 0.9 --out {tmp_path}"
    words += f" --weight-decay 0.3 --norm post --temperature 0.7 --data-dir {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    V = len(corpus.characters)
    model = GPT(GPTConfig(V, 8, 12, 3, 2, 0.2, "post"), np.random.default_rng(3), np.float32)
    decayed = AdamW(
        {n: p for n, p in model.params.items() if p.ndim == 2}, betas=(0.9, 0.9), weight_decay=0.3
    )
    plain = AdamW(
        {n: p for n, p in model.params.items() if p.ndim == 1}, betas=(0.9, 0.9), weight_decay=0.0
    )
    wanted, noted, val = [], [], []
    for step in range(6):
        rng = np.random.default_rng([3, 1, step])
        x, y = windows(corpus.train, rng.integers(len(corpus.train) - 8, size=4), 8)
        logits = model.forward(x, train=True, rng=rng)
        loss, cache = sequence_cross_entropy_forward(logits, y)
        grads = model.backward(sequence_cross_entropy_backward(cache))
        norm = clip_by_norm(grads, 0.5)
        for optimizer in (decayed, plain):
            optimizer.lr = 0.02 * cosine_rate(step, 6, 2)
            optimizer.step(grads)
        wanted.append(float(loss))
        noted.append((optimizer.lr, float(norm)))
        if step % 3 == 2:
            val.append(train.measure(model, corpus.test)["val_loss"])
    lines = read_metrics(folder)
    assert [r["loss"] for r in lines if "loss" in r] == wanted
    assert [(r["lr"], r["grad_norm"]) for r in lines if "loss" in r] == noted
    assert [r["val_loss"] for r in lines if "val_loss" in r] == val
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p) for name, p in model.params.items())
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["metrics"]) == {"train_loss", "val_loss", "val_bits_per_character"}
    start, rng = corpus.encode("def ")[None], np.random.default_rng(3)
    sample = corpus.decode(generate(model, start, 500, 0.7, rng=rng)[0])
    assert (folder / "sample.txt").read_text() == sample + "\n"


def test_measure_is_the_mean_over_the_windows():
    text = small_corpus().test
    model = GPT(GPTConfig(30, 8, 12, 3, 1, dropout=0.5), np.random.default_rng(0))
    x, y = windows(text, even_starts(text, 8, 5), 8)
    want = sequence_cross_entropy_forward(model.forward(x), y)[0]
    got = train.measure(model, text, most=5, batch_size=2)  # the last batch is smaller
    assert got["val_loss"] == pytest.approx(want, rel=1e-12)
    assert got["val_bits_per_character"] == pytest.approx(want / math.log(2), rel=1e-12)


def test_measure_looks_at_2000_windows():
    model = GPT(GPTConfig(30, 1, 12, 3, 1), np.random.default_rng(0))
    text = np.random.default_rng(1).integers(30, size=4001)
    got, fewer = train.measure(model, text), train.measure(model, text, most=1999)
    assert got == train.measure(model, text, most=2000) != fewer


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.steps, o.batch_size, o.context) == ("python-source", 5, 400, 12, 64)
    assert (o.width, o.heads, o.layers, o.dropout, o.norm) == (128, 4, 4, 0.0, "pre")
    assert (o.lr, o.warmup, o.weight_decay, o.beta2, o.clip) == (0.003, 100, 0.1, 0.99, 1.0)
    assert (o.temperature, o.network(9)) == (0.8, GPTConfig(9, 64, 128, 4, 4, 0.0, "pre"))
    prompts = {"python-source": "def ", "python-docs": "Return ", "tiny-shakespeare": "ROMEO:"}
    assert prompts == train.PROMPTS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--heads 3", "expected a width that 3 heads divide"),
        ("--beta2 1", "expected a number below 1"),
    ],
)
def test_an_impossible_option_is_an_error_of_one_line(words, message, capsys):
    with pytest.raises(SystemExit):
        train.main(words.split())
    assert message in capsys.readouterr().err
