"""The training script of level 2 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lenet_lowlevel as low
from utils.data_loaders import enlarge_digits, load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics

train = load_module(Path(__file__).parent / "train.py", "train_lenet_lowlevel")


def test_the_script_is_the_plain_loop(tmp_path):
    words = "--activation tanh --pooling avg --seed 3 --lr 0.01 --device cpu"
    words += f" --batch-size 16 --limit 40 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    x, y = torch.from_numpy(enlarge_digits(data.x_train)), torch.from_numpy(data.y_train)
    config = low.LeNetConfig("tanh", "avg")
    params = low.init_params(config, torch.Generator().manual_seed(3))
    optimizer, wanted = low.Adam(params), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * (i + 1)]
        optimizer.lr = 0.005 * (1 + math.cos(math.pi * step / 6))
        wanted.append(low.train_step(params, optimizer, x[index], y[index], config).item())
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == pytest.approx(wanted)
    logits = low.forward(params, torch.from_numpy(enlarge_digits(data.x_test)), config)
    right = (logits.argmax(dim=1).numpy() == data.y_test).mean()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right, abs=0.003)
