"""The training script of level 2 is the plain loop that its docstring describes."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import gpt_lowlevel as low
import gpt_training_lowlevel as training
from gpt_sampling_lowlevel import generate
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.text_data import characters, even_starts, windows
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_gpt_lowlevel")


def small_corpus():
    return characters("def f(x):\n    return x + 1\n\n" * 30)


def test_the_script_is_the_plain_loop(tmp_path, monkeypatch):
    corpus = small_corpus()
    texts = {("python-source", tmp_path): corpus}
    monkeypatch.setattr(train, "load_corpus", lambda name, folder: texts[name, folder])
    words = "--seed 3 --lr 0.02 --warmup 2 --width 12 --heads 3 --layers 2 --context 8 --clip 0.5"
    words += f" --batch-size 4 --steps 3 --epochs 2 --dropout 0.2 --beta2 0.9 --out {tmp_path}"
    words += f" --weight-decay 0.3 --norm post --temperature 0.7 --data-dir {tmp_path}"
    train.main([*words.split(), "--device", "cpu"])
    (folder,) = tmp_path.glob("*/*")

    config = low.GPTConfig(len(corpus.characters), 8, 12, 3, 2, 0.2, "post")
    params = low.init_params(config, torch.Generator().manual_seed(3))
    optimizer = training.AdamW(params, 0.02, 0.3, (0.9, 0.9))
    wanted, noted, val = [], [], []
    for step in range(6):
        noise = int(np.random.default_rng([3, 1, step]).integers(2**63))
        generator = torch.Generator().manual_seed(noise)
        starts = torch.randint(len(corpus.train) - 8, (4,), generator=generator).numpy()
        x, y = (torch.from_numpy(part) for part in windows(corpus.train, starts, 8))
        loss = training.next_token_loss(low.forward(params, x, config, generator), y)
        optimizer.lr = 0.02 * training.cosine_rate(step, 6, 2)
        loss, norm = training.update(optimizer, loss, 0.5)
        wanted.append(loss.item())
        noted.append((optimizer.lr, norm.item()))
        if step % 3 == 2:
            val.append(train.measure(params, config, corpus.test)["val_loss"])
    lines = read_metrics(folder)
    assert [r["loss"] for r in lines if "loss" in r] == wanted
    assert [(r["lr"], r["grad_norm"]) for r in lines if "loss" in r] == noted
    assert [r["val_loss"] for r in lines if "val_loss" in r] == val
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p.detach()) for name, p in params.items())
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["metrics"]) == {"train_loss", "val_loss", "val_bits_per_character"}
    logits_of, start = partial(low.forward, params, config=config), corpus.encode("def ")
    how = {"temperature": 0.7, "generator": torch.Generator().manual_seed(3)}
    sample = generate(logits_of, torch.from_numpy(start)[None], 500, 8, **how)[0]
    assert (folder / "sample.txt").read_text() == corpus.decode(sample.tolist()) + "\n"


def test_measure_is_the_mean_over_the_windows():
    text = small_corpus().test
    config = low.GPTConfig(30, 8, 12, 3, 1, dropout=0.5)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    x, y = (torch.from_numpy(a) for a in windows(text, even_starts(text, 8, 5), 8))
    want = training.next_token_loss(low.forward(params, x, config), y).item()
    got = train.measure(params, config, text, most=5, batch_size=2)  # the last batch is smaller
    assert got["val_loss"] == pytest.approx(want, rel=1e-6)
    assert got["val_bits_per_character"] == pytest.approx(want / math.log(2), rel=1e-6)


def test_measure_looks_at_2000_windows():
    config = low.GPTConfig(30, 1, 12, 3, 1)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    text = np.random.default_rng(1).integers(30, size=4001)
    got, fewer = (train.measure(params, config, text, **m) for m in ({}, {"most": 1999}))
    assert got == train.measure(params, config, text, most=2000) != fewer


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.steps, o.batch_size, o.context) == ("python-source", 5, 400, 12, 64)
    assert (o.width, o.heads, o.layers, o.dropout, o.norm) == (128, 4, 4, 0.0, "pre")
    assert (o.lr, o.warmup, o.weight_decay, o.beta2, o.clip) == (0.003, 100, 0.1, 0.99, 1.0)
    assert (o.temperature, o.network(9)) == (0.8, low.GPTConfig(9, 64, 128, 4, 4, 0.0, "pre"))
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
