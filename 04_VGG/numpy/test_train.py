"""The training script of level 1 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD
from utils.data_loaders import Arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights
from vgg_numpy import VGG, VGGConfig

train = load_module(Path(__file__).parent / "train.py", "train_vgg_numpy")


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
    return (x - x_train.mean(places, keepdims=True)) / x_train.std(places, keepdims=True)


def test_the_script_is_the_plain_loop(tmp_path, monkeypatch):
    data, tested, accuracy = make_data(), [], train.accuracy
    monkeypatch.setattr(train, "load_arrays", lambda name, folder: data)
    monkeypatch.setattr(train, "accuracy", lambda *args: tested.append(args) or accuracy(*args))
    words = "--net C --width 2 --hidden 16 --dropout 0.3 --momentum 0.8 --weight-decay 0.5 --seed 3"
    words += f" --lr 0.01 --batch-size 16 --limit 40 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    x, x_test = (normalised(a, data.x_train) for a in (data.x_train, data.x_test))
    model = VGG(VGGConfig("C", 2, 16, dropout=0.3), np.random.default_rng(3), np.float32)
    optimizer, wanted = SGD(model.params, 0.01, momentum=0.8, weight_decay=0.5), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * (i + 1)]
        logits = model.forward(x[index], train=True, rng=np.random.default_rng([3, 1, step]))
        loss, cache = softmax_cross_entropy_forward(logits, data.y_train[index])
        optimizer.lr = 0.005 * (1 + math.cos(math.pi * step / 6))
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
        wanted.append(float(loss))
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == wanted
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p) for name, p in model.params.items())
    assert {p.dtype for p in trained.values()} == {np.dtype(np.float32)}
    assert all(np.array_equal(a, x_test) and b is data.y_test for _, a, b in tested)
    right = model.forward(x_test).argmax(axis=1) == data.y_test
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right.mean())
    assert summary["model"] == "vgg-c"


def test_accuracy_counts_every_example():
    class Copies:
        forward = staticmethod(lambda x: x)

    x, y = np.eye(2)[np.arange(600) % 2], np.arange(600) % 2
    y[-100:] = 1 - y[-100:]
    assert train.accuracy(Copies(), x, y) == 500 / 600


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.lr) == ("shapes", 10, 32, 0.02)
    assert (o.momentum, o.weight_decay) == (0.9, 5e-4)
    assert o.network() == VGGConfig("A", width=16, hidden=128, classes=10, dropout=0.2)


def test_a_network_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"expected dropout in \[0, 1\), got 1.5"):
        train.Options(dropout=1.5)
