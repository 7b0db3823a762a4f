"""The training script of level 1 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD
from resnet_numpy import ResNet, ResNetConfig, augment
from utils.data_loaders import load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_resnet_numpy")
RATES = 6 * [0.05] + 3 * [0.005] + 3 * [0.0005]  # eq. 5.34 for 12 steps


@pytest.mark.parametrize(
    ("residual", "changed"), [(True, True), (False, False)], ids=["residual-augment", "plain"]
)
def test_the_script_is_the_plain_loop(tmp_path, residual, changed):
    words = "--data digits --weight-decay 0.3 --seed 3 --lr 0.05"
    words += "" if residual else " --no-residual"
    words += " --augment" if changed else ""
    words += f" --batch-size 16 --limit 60 --epochs 3 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    mean = data.x_train.mean(axis=0)
    config = ResNetConfig(8, residual, classes=10, channels=1)
    model = ResNet(config, np.random.default_rng(3), np.float32)
    optimizer, wanted = SGD(model.params, 0.05, momentum=0.9, weight_decay=0.3), []
    for step in range(12):  # 3 epochs of 4 batches, the last of them smaller
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(60)[16 * i : 16 * (i + 1)]
        x = data.x_train[index] - mean
        if changed:
            x = augment(x, np.random.default_rng([3, 1, step]))
        logits = model.forward(x, train=True)
        loss, cache = softmax_cross_entropy_forward(logits, data.y_train[index])
        optimizer.lr = 0.05 * 0.1 ** ((step >= 6) + (step >= 9))
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
        wanted.append(float(loss))
    records = [r for r in read_metrics(folder) if "loss" in r]
    assert [r["loss"] for r in records] == wanted
    assert [r["lr"] for r in records] == pytest.approx(RATES)
    trained = load_weights(folder / "model.safetensors")
    assert set(trained) == set(model.state())
    assert all(np.array_equal(trained[name], p) for name, p in model.state().items())
    right = model.forward(data.x_test - mean).argmax(axis=1) == data.y_test
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right.mean())
    assert summary["model"] == ("resnet8" if residual else "plain8")
    assert summary["parameters"] == sum(p.size for p in model.params.values())


def test_the_test_images_lose_the_mean_of_the_training_images(tmp_path, monkeypatch):
    """Accuracies after a few steps are too coarse to show it."""
    seen = []
    monkeypatch.setattr(train, "accuracy", lambda model, *images: seen.append(images) or 0.5)
    train.main(f"--data digits --epochs 1 --limit 16 --out {tmp_path}".split())
    ((x, y),) = seen
    data = load_arrays("digits")
    assert np.array_equal(x, data.x_test - data.x_train.mean(axis=0))
    assert np.array_equal(y, data.y_test)


def test_accuracy_counts_every_example_and_normalises_by_the_running_statistics():
    class Copies:
        def forward(self, x, train=False):
            assert not train
            return x

    x, y = np.eye(2)[np.arange(620) % 2], np.arange(620) % 2
    y[-100:] = 1 - y[-100:]
    assert train.accuracy(Copies(), x, y) == 520 / 620


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.lr) == ("shapes", 8, 32, 0.1)
    assert (o.limit, o.depth, o.residual, o.augment) == (2000, 8, True, False)
    assert o.weight_decay == 0.0001


def test_an_impossible_depth_is_refused_before_any_data_are_read():
    with pytest.raises(ValueError, match="expected a depth of 6n [+] 2, such as 8 or 20, got 18"):
        train.Options(depth=18)
