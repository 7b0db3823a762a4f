"""The training script of level 1 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mlp_numpy import MLP, MLPConfig, softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD, Adam, AdamW
from utils.data_loaders import load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_mlp_numpy")
RULES = {
    "sgd": lambda p: SGD(p, 0.01),
    "momentum": lambda p: SGD(p, 0.01, momentum=0.9),
    "adam": lambda p: Adam(p, 0.01),
    "adamw": lambda p: AdamW(p, 0.01, weight_decay=0.01),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_script_is_the_plain_loop(tmp_path, rule):
    words = f"--optimizer {rule} --activation tanh --dropout 0.3 --seed 3"
    words += f" --hidden 16,12 --lr 0.01 --batch-size 32 --limit 100 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    x, y = data.x_train.reshape(-1, 64), data.y_train
    config = MLPConfig((64, 16, 12, 10), "tanh", dropout=0.3)
    model = MLP(config, np.random.default_rng(3), np.float32)
    optimizer, wanted = RULES[rule](model.params), []
    for step in range(8):  # 2 epochs of 4 batches
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(100)[32 * i : 32 * (i + 1)]
        logits = model.forward(x[index], train=True, rng=np.random.default_rng([3, 1, step]))
        loss, cache = softmax_cross_entropy_forward(logits, y[index])
        optimizer.lr = 0.005 * (1 + math.cos(math.pi * step / 8))
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
        wanted.append(float(loss))
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == wanted
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p) for name, p in model.params.items())
    assert {p.dtype for p in trained.values()} == {np.dtype(np.float32)}
    right = model.forward(data.x_test.reshape(-1, 64)).argmax(axis=1) == data.y_test
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right.mean())


def test_accuracy_counts_every_example():
    class Copies:
        forward = staticmethod(lambda x: x)

    x, y = np.eye(2)[np.arange(2500) % 2], np.arange(2500) % 2
    y[-100:] = 1 - y[-100:]
    assert train.accuracy(Copies(), x, y) == 2400 / 2500


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.lr, o.hidden, o.activation) == (30, 32, 0.005, (256,), "relu")
    assert (o.dropout, o.optimizer) == (0.2, "adam")
