"""The training script of level 2 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import vgg_lowlevel as low
from utils.data_loaders import Arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_vgg_lowlevel")


def make_data():
    """Every colour has another mean and spread, and the test images have others than training's."""
    rng = np.random.default_rng(0)
    size = np.array([0.2, 0.5, 1.0], np.float32)[:, None, None]
    x_train = size * rng.random((60, 3, 32, 32), np.float32)
    x_test = 0.3 + size[::-1] * rng.random((40, 3, 32, 32), np.float32)
    labels = rng.integers(10, size=100)
    return Arrays(x_train, labels[:60], x_test, labels[60:], tuple("abcdefghij"))


def normalised(x, x_train):
    """Minus the mean of each colour, over its spread: of all training images, in both sets."""
    places = (0, 2, 3)
    return (x - x_train.mean(places, keepdim=True)) / x_train.std(places, keepdim=True)


def test_the_script_is_the_plain_loop(tmp_path, monkeypatch):
    data, tested, accuracy = make_data(), [], train.accuracy
    monkeypatch.setattr(train, "load_arrays", lambda name, folder: data)
    monkeypatch.setattr(train, "accuracy", lambda *args: tested.append(args) or accuracy(*args))
    words = "--net C --width 2 --hidden 16 --dropout 0.3 --momentum 0.8 --weight-decay 0.5 --seed 3"
    words += " --lr 0.01 --batch-size 16 --limit 40 --epochs 2 --device cpu"
    train.main([*words.split(), "--out", str(tmp_path)])
    (folder,) = tmp_path.glob("*/*")

    x_train, y, y_test = map(torch.from_numpy, (data.x_train, data.y_train, data.y_test))
    x, x_test = (normalised(a, x_train) for a in (x_train, torch.from_numpy(data.x_test)))
    config = low.VGGConfig("C", 2, 16, dropout=0.3)
    params = low.init_params(config, torch.Generator().manual_seed(3))
    optimizer, wanted = low.SGD(params, 0.01, momentum=0.8, weight_decay=0.5), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * (i + 1)]
        noise = int(np.random.default_rng([3, 1, step]).integers(2**63))
        optimizer.lr = 0.005 * (1 + math.cos(math.pi * step / 6))
        generator = torch.Generator().manual_seed(noise)
        wanted.append(low.train_step(params, optimizer, x[index], y[index], config, generator))
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == [w.item() for w in wanted]
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p.detach()) for name, p in params.items())
    assert {p.dtype for p in trained.values()} == {np.dtype(np.float32)}
    assert all(torch.equal(a, x_test) and torch.equal(b, y_test) for _, a, b, _ in tested)
    right = (low.forward(params, x_test, config).argmax(dim=1) == y_test).double().mean().item()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right)
    assert summary["model"] == "vgg-c"


def test_accuracy_counts_every_example(monkeypatch):
    monkeypatch.setattr(train, "forward", lambda params, x, config: x)
    y = torch.arange(600) % 2
    x = torch.eye(2)[y]
    y[-100:] = 1 - y[-100:]
    assert train.accuracy({}, x, y, low.VGGConfig()) == 500 / 600


def test_the_recipe():
    o = train.Options()  # that of level 1
    assert (o.data, o.epochs, o.batch_size, o.lr) == ("shapes", 10, 32, 0.02)
    assert (o.momentum, o.weight_decay) == (0.9, 5e-4)
    assert o.network() == low.VGGConfig("A", width=16, hidden=128, classes=10, dropout=0.2)


def test_a_network_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"expected dropout in \[0, 1\), got 1.5"):
        train.Options(dropout=1.5)
