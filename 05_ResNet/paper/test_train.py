"""The training script of level 3 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from cifar_resnet_paper import CifarResNet, ResNetConfig, augment
from utils.data_loaders import Arrays, load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_resnet_paper")
RATES = 6 * [0.05] + 3 * [0.005] + 3 * [0.0005]  # eq. 5.34 for 12 steps


@pytest.mark.parametrize(
    ("residual", "changed"), [(True, True), (False, False)], ids=["residual-augment", "plain"]
)
def test_the_script_is_the_plain_loop(tmp_path, residual, changed):
    words = "--data digits --depth 8 --seed 3 --lr 0.05 --device cpu"
    words += "" if residual else " --no-residual"
    words += " --augment" if changed else ""
    words += f" --batch-size 16 --limit 60 --epochs 3 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    mean = data.x_train.mean(axis=0)
    x_train, x_test = torch.from_numpy(data.x_train - mean), torch.from_numpy(data.x_test - mean)
    train_set = TensorDataset(x_train, torch.from_numpy(data.y_train))
    torch.manual_seed(3)
    model = CifarResNet(ResNetConfig(8, residual, classes=10, channels=1)).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.0001)
    wanted = []
    for step in range(12):  # 3 epochs of 4 batches, the last of them smaller
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(60)[16 * i : 16 * (i + 1)]
        torch.manual_seed(int(np.random.SeedSequence([3, step, 0]).generate_state(1)[0]))
        # As in fit, for making the iterator takes a number from torch's generator.
        ((x, y),) = DataLoader(train_set, batch_sampler=[index.tolist()])
        x = augment(x) if changed else x
        optimizer.param_groups[0]["lr"] = RATES[step]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    records = [r for r in read_metrics(folder) if "loss" in r]
    assert [r["loss"] for r in records] == pytest.approx(wanted, rel=1e-5)
    assert [r["lr"] for r in records] == pytest.approx(RATES)
    trained, state = load_weights(folder / "model.safetensors"), model.state_dict()
    assert set(trained) == set(state)
    for name, p in state.items():
        assert np.allclose(trained[name], p, rtol=0, atol=1e-5), name
    right = (model.eval()(x_test).argmax(dim=1).numpy() == data.y_test).mean()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right)
    assert summary["metrics"]["test_error"] == pytest.approx(1 - right)
    assert summary["model"] == ("resnet8" if residual else "plain8")
    assert summary["paper"] == {}


def test_the_test_images_lose_the_mean_of_the_training_images(tmp_path, monkeypatch):
    """Accuracies after a few steps are too coarse to show it."""
    seen = []
    monkeypatch.setattr(train, "accuracy", lambda *given: seen.append(given) or 0.5)
    words = "--data digits --depth 8 --device cpu --epochs 1 --limit 16"
    train.main(f"{words} --out {tmp_path}".split())
    ((_, test_set, _),) = seen
    x, y = zip(*(test_set[i] for i in range(len(test_set))), strict=True)
    data = load_arrays("digits")
    assert np.array_equal(np.stack(x), data.x_test - data.x_train.mean(axis=0))
    assert np.array_equal(y, data.y_test)


@pytest.mark.parametrize(
    ("words", "published"),
    [
        ("--data cifar10", {"test_error": 0.0875}),
        ("--data cifar10 --no-residual", {}),
        ("--data cifar10 --depth 8", {}),
        ("--data cifar10-jpeg", {}),
        ("--data shapes", {}),
    ],
)
def test_the_papers_error_stands_beside_its_own_networks_alone(
    tmp_path, monkeypatch, words, published
):
    rng = np.random.default_rng(0)
    x, y = rng.random((4, 3, 8, 8), dtype=np.float32), np.arange(4)
    monkeypatch.setattr(train, "load_arrays", lambda name, folder: Arrays(x, y, x, y))
    train.main([*words.split(), *f"--device cpu --epochs 1 --out {tmp_path}".split()])
    (folder,) = tmp_path.glob("*/*")
    assert json.loads((folder / "summary.json").read_text())["paper"] == published


def test_the_errors_of_table_6():
    assert train.PAPER_ERRORS == {20: 0.0875, 32: 0.0751, 44: 0.0717, 56: 0.0697, 110: 0.0643}


def test_the_schedule_knows_the_depth(monkeypatch, tmp_path):
    """110 layers warm up, and 64,000 steps are what the paper's numbers are of."""
    seen = []
    monkeypatch.setattr(train, "CifarResNet", lambda config: torch.nn.Linear(1, 1))
    monkeypatch.setattr(train, "fit", lambda *arguments: seen.append(arguments[6]))
    monkeypatch.setattr(train.Run, "finish", lambda *arguments, **named: None)
    words = f"--data digits --depth 110 --limit 640 --batch-size 1 --epochs 100 --out {tmp_path}"
    train.main(words.split())
    (schedule,) = seen
    rates = [schedule(step) for step in (0, 399, 400, 31_999, 32_000, 48_000)]
    assert rates == pytest.approx([0.1, 0.1, 1, 1, 0.1, 0.01])


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.lr) == ("shapes", 10, 32, 0.1)
    assert (o.limit, o.depth, o.residual, o.augment) == (0, 20, True, False)


def test_an_impossible_depth_is_refused_before_any_data_are_read():
    with pytest.raises(ValueError, match="expected a depth of 6n [+] 2, such as 8 or 20, got 18"):
        train.Options(depth=18)
