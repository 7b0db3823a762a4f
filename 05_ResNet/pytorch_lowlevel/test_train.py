"""The training script of level 2 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import resnet_lowlevel as low
from utils.data_loaders import load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_resnet_lowlevel")
RATES = 6 * [0.05] + 3 * [0.005] + 3 * [0.0005]  # eq. 5.34 for 12 steps


@pytest.mark.parametrize(
    ("residual", "changed"), [(True, True), (False, False)], ids=["residual-augment", "plain"]
)
def test_the_script_is_the_plain_loop(tmp_path, residual, changed):
    words = "--data digits --weight-decay 0.3 --seed 3 --lr 0.05 --device cpu"
    words += "" if residual else " --no-residual"
    words += " --augment" if changed else ""
    words += f" --batch-size 16 --limit 60 --epochs 3 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    x_train, y_train = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    mean = x_train.mean(dim=0)
    config = low.ResNetConfig(8, residual, classes=10, channels=1)
    params = low.init_params(config, torch.Generator().manual_seed(3))
    buffers = low.init_buffers(config)
    optimizer, wanted = low.SGD(params, 0.05, momentum=0.9, weight_decay=0.3), []
    for step in range(12):  # 3 epochs of 4 batches, the last of them smaller
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(60)[16 * i : 16 * (i + 1)]
        x = x_train[index] - mean
        if changed:
            noise = int(np.random.default_rng([3, 1, step]).integers(2**63))
            x = low.augment(x, torch.Generator().manual_seed(noise))
        optimizer.lr = 0.05 * 0.1 ** ((step >= 6) + (step >= 9))
        loss = low.train_step(params, buffers, optimizer, x, y_train[index], config)
        wanted.append(loss.item())
    records = [r for r in read_metrics(folder) if "loss" in r]
    assert [r["loss"] for r in records] == wanted
    assert [r["lr"] for r in records] == pytest.approx(RATES)
    trained, state = load_weights(folder / "model.safetensors"), params | buffers
    assert set(trained) == set(state)
    assert all(np.array_equal(trained[name], p.detach()) for name, p in state.items())
    logits = low.forward(params, buffers, torch.from_numpy(data.x_test) - mean, config)
    right = (logits.argmax(dim=1).numpy() == data.y_test).mean()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right)
    assert summary["model"] == ("resnet8" if residual else "plain8")
    assert summary["parameters"] == sum(p.numel() for p in params.values())


def test_the_test_images_lose_the_mean_of_the_training_images(tmp_path, monkeypatch):
    """Accuracies after a few steps are too coarse to show it."""
    seen = []
    monkeypatch.setattr(train, "accuracy", lambda *given: seen.append(given) or 0.5)
    train.main(f"--data digits --device cpu --epochs 1 --limit 16 --out {tmp_path}".split())
    ((_, _, x, y, _),) = seen
    data = load_arrays("digits")
    assert np.allclose(x, data.x_test - data.x_train.mean(axis=0), rtol=0, atol=1e-6)
    assert np.array_equal(y, data.y_test)


def test_accuracy_counts_every_example_and_normalises_by_the_running_statistics(monkeypatch):
    def copies(params, buffers, x, config, train=False):
        assert not train
        return x

    monkeypatch.setattr(train, "forward", copies)
    y = torch.arange(1120) % 2
    x = torch.eye(2)[y]
    y[-100:] = 1 - y[-100:]
    assert train.accuracy({}, {}, x, y, low.ResNetConfig(8)) == 1020 / 1120


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.lr) == ("shapes", 8, 64, 0.1)
    assert (o.limit, o.depth, o.residual, o.augment) == (0, 8, True, False)
    assert o.weight_decay == 0.0001


def test_an_impossible_depth_is_refused_before_any_data_are_read():
    with pytest.raises(ValueError, match="expected a depth of 6n [+] 2, such as 8 or 20, got 18"):
        train.Options(depth=18)
