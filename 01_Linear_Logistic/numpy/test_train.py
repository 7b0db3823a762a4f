"""The training script of level 1 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest

from logistic_numpy import (
    SoftmaxConfig,
    SoftmaxRegression,
    softmax_loss_backward,
    softmax_loss_forward,
)
from utils.data_loaders import load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics

train = load_module(Path(__file__).parent / "train.py", "train_linear_numpy")


def test_the_script_is_the_plain_loop(tmp_path):
    words = f"--seed 3 --lr 0.2 --batch-size 16 --limit 40 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    x, y = data.x_train.reshape(-1, 64), data.y_train
    model = SoftmaxRegression(SoftmaxConfig(64, 10), np.random.default_rng(3), np.float32)
    wanted = []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * (i + 1)]
        loss, cache = softmax_loss_forward(model.forward(x[index]), y[index])
        for name, gradient in model.backward(softmax_loss_backward(cache)).items():
            model.params[name] -= 0.2 * gradient
        wanted.append(float(loss))
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == pytest.approx(wanted)
    right = model.predict(data.x_test.reshape(-1, 64)) == data.y_test
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right.mean())
