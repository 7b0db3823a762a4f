"""The training script of level 1 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lenet_numpy import LeNet, LeNetConfig
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD, Adam
from utils.data_loaders import enlarge_digits, load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics

train = load_module(Path(__file__).parent / "train.py", "train_lenet_numpy")
RULES = {"momentum": lambda p: SGD(p, 0.01, momentum=0.9), "adam": lambda p: Adam(p, 0.01)}


@pytest.mark.parametrize("rule", RULES)
def test_the_script_is_the_plain_loop(tmp_path, rule):
    words = f"--optimizer {rule} --activation tanh --pooling avg --seed 3 --lr 0.01"
    words += f" --batch-size 16 --limit 40 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    x = enlarge_digits(data.x_train)
    model = LeNet(LeNetConfig("tanh", "avg"), np.random.default_rng(3), np.float32)
    optimizer, wanted = RULES[rule](model.params), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * (i + 1)]
        loss, cache = softmax_cross_entropy_forward(model.forward(x[index]), data.y_train[index])
        optimizer.lr = 0.005 * (1 + math.cos(math.pi * step / 6))
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
        wanted.append(float(loss))
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == wanted
    right = model.forward(enlarge_digits(data.x_test)).argmax(axis=1) == data.y_test
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right.mean())
