"""The training scripts of level 3 do what plain loops do."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mlp_paper import MLP, GradientDescent1986, MLPConfig, initialise_1986, squared_error
from utils.data_loaders import load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

HERE = Path(__file__).parent
train = load_module(HERE / "train.py", "train_mlp_paper")
train_1986 = load_module(HERE / "train_1986.py", "train_mlp_1986")


def result(out):
    (folder,) = out.glob("*/*")
    steps = [r for r in read_metrics(folder) if "loss" in r]
    return (
        steps,
        load_weights(folder / "model.safetensors"),
        json.loads((folder / "summary.json").read_text()),
    )


def test_the_script_trains_the_modern_mlp(tmp_path):
    words = "--width 16 --dropout 0 --weight-decay 0.5 --seed 3 --lr 0.01 --device cpu"
    words += f" --limit 100 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    steps, trained, summary = result(tmp_path)

    data = load_arrays("digits")
    torch.manual_seed(3)
    model = MLP(MLPConfig((64, 16, 16, 10), "relu", None, 0.0))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.5)
    wanted = []
    for step in range(8):  # 2 epochs of 4 batches
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(100)[32 * i : 32 * (i + 1)]
        optimizer.param_groups[0]["lr"] = 0.005 * (1 + math.cos(math.pi * step / 8))
        torch.manual_seed(int(np.random.SeedSequence([3, step, 0]).generate_state(1)[0]))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            model(torch.from_numpy(data.x_train[index])), torch.from_numpy(data.y_train[index])
        )
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert [r["loss"] for r in steps] == pytest.approx(wanted, rel=1e-5)
    for name, p in model.state_dict().items():
        assert np.allclose(trained[name], p, atol=1e-5), name
    right = model.eval()(torch.from_numpy(data.x_test)).argmax(dim=1).numpy() == data.y_test
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize(("task", "seed"), [("xor", 3), ("symmetry", 3), ("encoder", 1)])
def test_the_script_repeats_1986(tmp_path, capsys, task, seed):
    epsilon = {"xor": 1.0, "symmetry": 0.2, "encoder": 0.5}[task]
    words = (
        f"--data {task} --epsilon {epsilon} --alpha 0.8 --seed {seed} --epochs 600 --out {tmp_path}"
    )
    train_1986.main(words.split())
    steps, _, summary = result(tmp_path)

    data = load_arrays(task)
    x = torch.from_numpy(data.x_train).float()
    desired = torch.from_numpy(data.y_train).float().reshape(len(x), -1)
    model = MLP(getattr(MLPConfig, task)())
    initialise_1986(model, torch.Generator().manual_seed(seed))
    optimizer = GradientDescent1986(model.parameters(), epsilon, 0.8)
    wanted, needed = [], 0
    for sweep in range(600):
        outputs = model(x)
        if not needed and ((outputs > 0.5) == (desired > 0.5)).all():
            needed = sweep
        error = squared_error(outputs, desired)
        model.zero_grad()
        error.backward()
        optimizer.step()
        wanted.append(error.item())
    assert needed  # learnt, within these sweeps
    assert [r["loss"] for r in steps] == pytest.approx(wanted, rel=1e-6)
    assert summary["metrics"]["sweeps_needed"] == needed
    printed = capsys.readouterr().out
    assert f"sweeps until all cases were right: {needed}\n" in printed
    assert len(printed.split("by case:\n")[1].splitlines()) == min(16, len(x))


def test_the_dropout_asked_for_reaches_the_network(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "MLP", lambda config: seen.append(config) or MLP(config))
    words = f"--width 16 --dropout 0.3 --device cpu --limit 32 --epochs 1 --out {tmp_path}"
    train.main(words.split())
    assert seen == [MLPConfig((64, 16, 16, 10), "relu", None, 0.3)]


def test_the_recipes():
    o = train.Options()
    assert (o.epochs, o.batch_size, o.lr, o.width) == (30, 32, 0.005, 256)
    assert (o.dropout, o.weight_decay) == (0.2, 0.01)
    o = train_1986.Options()
    assert (o.data, o.epochs, o.epsilon, o.alpha) == ("symmetry", 4000, 0.1, 0.9)
