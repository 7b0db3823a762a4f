"""The training script of level 2 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import mlp_lowlevel as low
from utils.data_loaders import load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_mlp_lowlevel")
LOW_RULES = {
    "sgd": lambda p: low.SGD(p, 0.01),
    "momentum": lambda p: low.SGD(p, 0.01, momentum=0.9),
    "adam": lambda p: low.Adam(p, 0.01),
    "adamw": lambda p: low.Adam(p, 0.01, weight_decay=0.01, decoupled=True),
}


@pytest.mark.parametrize("rule", LOW_RULES)
def test_the_script_is_the_plain_loop(tmp_path, rule):
    words = f"--optimizer {rule} --activation tanh --dropout 0.3 --seed 3 --device cpu"
    words += f" --hidden 16,12 --lr 0.01 --batch-size 32 --limit 100 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    x, y = torch.from_numpy(data.x_train).flatten(1), torch.from_numpy(data.y_train)
    config = low.MLPConfig((64, 16, 12, 10), "tanh", dropout=0.3)
    params = low.init_params(config, torch.Generator().manual_seed(3))
    optimizer, wanted = LOW_RULES[rule](params), []
    for step in range(8):  # 2 epochs of 4 batches
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(100)[32 * i : 32 * (i + 1)]
        noise = int(np.random.default_rng([3, 1, step]).integers(2**63))
        optimizer.lr = 0.005 * (1 + math.cos(math.pi * step / 8))
        generator = torch.Generator().manual_seed(noise)
        wanted.append(low.train_step(params, optimizer, x[index], y[index], config, generator))
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == [w.item() for w in wanted]
    trained = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(trained[name], p.detach()) for name, p in params.items())
    logits = low.forward(params, torch.from_numpy(data.x_test).flatten(1), config)
    right = (logits.argmax(dim=1).numpy() == data.y_test).mean()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right)


def test_the_recipe():
    o = train.Options()
    assert (o.epochs, o.batch_size, o.lr, o.hidden, o.activation) == (30, 32, 0.005, (256,), "relu")
    assert (o.dropout, o.optimizer) == (0.2, "adam")
