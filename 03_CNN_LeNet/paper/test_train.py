"""The training script of level 3 does what a plain loop does, for both networks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lenet5_paper
import lenet_paper
from utils.data_loaders import enlarge_digits, load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics

train = load_module(Path(__file__).parent / "train.py", "train_lenet_paper")
MODELS = {
    "lenet5": (lenet5_paper.LeNet5, lenet5_paper.loss_function, lenet5_paper.prepare),
    "lenet": (lenet_paper.LeNet, lenet_paper.loss_function, lambda x: x),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_script_is_the_plain_loop(tmp_path, name):
    words = f"--model {name} --seed 3 --lr 0.01 --device cpu"
    words += f" --batch-size 16 --limit 40 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    make, loss_function, prepare = MODELS[name]
    data = load_arrays("digits")
    x, x_test = (prepare(torch.from_numpy(enlarge_digits(a))) for a in (data.x_train, data.x_test))
    torch.manual_seed(3)
    model = make()
    optimizer, wanted = torch.optim.Adam(model.parameters()), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * (i + 1)]
        optimizer.param_groups[0]["lr"] = 0.005 * (1 + math.cos(math.pi * step / 6))
        optimizer.zero_grad()
        loss = loss_function(model, (x[index], torch.from_numpy(data.y_train[index])))
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == pytest.approx(
        wanted, rel=1e-4
    )
    right = (model(x_test).argmax(dim=1).numpy() == data.y_test).mean()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right, abs=0.003)
    assert summary["metrics"]["test_error"] == pytest.approx(1 - right, abs=0.003)
