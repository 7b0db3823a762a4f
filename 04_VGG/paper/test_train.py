"""The training script of level 3 does what a plain loop does, with each of its options."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from utils.checkpoints import CheckpointError
from utils.data_loaders import ArrayDataset, Arrays, collate
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights, save_weights
from vgg_paper import VGG, VGGConfig, initialise, initialise_from_net_a

train = load_module(Path(__file__).parent / "train.py", "train_vgg_paper")


def make_data():
    """Every colour has another mean and spread, and the test images have others than training's."""
    rng = np.random.default_rng(0)
    size = np.array([0.2, 0.5, 1.0], np.float32)[:, None, None]
    x_train = size * rng.random((60, 3, 32, 32), np.float32)
    x_test = 0.3 + size[::-1] * rng.random((40, 3, 32, 32), np.float32)
    labels = rng.integers(10, size=100)
    return Arrays(x_train, labels[:60], x_test, labels[60:], tuple("abcdefghij"))


def normalised(x, x_train):
    """Minus the mean of each colour, over its spread: of all training images, in both sets."""
    places = (0, 2, 3)
    return (x - x_train.mean(places, keepdims=True)) / x_train.std(places, keepdims=True)


def cosine(step):
    return 0.5 * (1 + math.cos(math.pi * step / 8))


def steps(step):
    """A tenth after 1/2, 3/4 and 7/8 of the eight steps."""
    return (1, 1, 1, 1, 0.1, 0.1, 0.01, 0.001)[step]


def small_config(net, batch_norm=False):
    return VGGConfig(net, batch_norm, 2, 16, classes=10, image_size=32, dropout=0.3)


def write_net_a(folder):
    """A run folder of a net A with weights of its own."""
    torch.manual_seed(9)
    net_a = VGG(small_config("A"))
    save_weights(folder / "model.safetensors", net_a)
    return net_a


CASES = {
    "defaults": ("", "A", False, "he", cosine),
    "batch-norm": ("--net B --batch-norm --augment", "B", True, "he", cosine),
    "steps": ("--net C --init glorot --schedule steps", "C", False, "glorot", steps),
    "net-a": ("--net B --init paper --net-a {net_a}", "B", False, "paper", cosine),
}


@pytest.mark.parametrize("case", CASES)
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, case):
    more, net, batch_norm, init, factor = CASES[case]
    net_a, data, tested, accuracy = write_net_a(tmp_path), make_data(), [], train.accuracy
    monkeypatch.setattr(train, "load_arrays", lambda name, folder: data)
    monkeypatch.setattr(train, "accuracy", lambda *args: tested.append(args) or accuracy(*args))
    words = "--width 2 --hidden 16 --dropout 0.3 --momentum 0.8 --weight-decay 0.5 --seed 3"
    words += " --lr 0.01 --batch-size 12 --limit 40 --epochs 2 --device cpu "
    out = ["--out", str(tmp_path / "runs")]
    train.main([*(words + more).format(net_a=tmp_path).split(), *out])
    (folder,) = tmp_path.glob("runs/*/*")

    x, x_test = (normalised(a, data.x_train) for a in (data.x_train, data.x_test))
    train_set = ArrayDataset(x, data.y_train)
    torch.manual_seed(3)
    model = VGG(small_config(net, batch_norm))
    initialise(model, init)
    if case == "net-a":
        initialise_from_net_a(model, net_a.state_dict())
    optimizer, wanted = torch.optim.SGD(model.parameters(), 0.01, 0.8, weight_decay=0.5), []
    for step in range(8):  # 2 epochs of 4 batches
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[12 * i : 12 * (i + 1)]
        torch.manual_seed(int(np.random.SeedSequence([3, step, 0]).generate_state(1)[0]))
        # A DataLoader as in fit: it takes a random number of its own before dropout takes others.
        ((images, labels),) = DataLoader(
            train_set, batch_sampler=[index.tolist()], collate_fn=collate
        )
        if case == "batch-norm":
            images = train.augment(images)
        optimizer.param_groups[0]["lr"] = 0.01 * factor(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    losses = [r["loss"] for r in read_metrics(folder) if "loss" in r]
    assert losses == pytest.approx(wanted, rel=1e-5)
    trained = load_weights(folder / "model.safetensors")
    for name, value in model.state_dict().items():
        assert np.allclose(trained[name], value, rtol=1e-5, atol=1e-5), name
    assert all(np.array_equal(examples.tensors[0], x_test) for _, examples, _ in tested)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(x_test))
    right = logits.argmax(dim=1).numpy() == data.y_test
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right.mean())
    assert summary["model"] == f"vgg-{net.lower()}" + ("-bn" if batch_norm else "")


def test_the_rate_falls_after_a_half_three_quarters_and_seven_eighths():
    schedule = train.make_schedule(train.Options(schedule="steps"), 800)
    found = [schedule(step) for step in (399, 400, 599, 600, 699, 700)]
    assert found == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_augment_mirrors_half_and_shifts_each_image_by_itself():
    B, H, W, shift = 400, 10, 12, 2
    x = torch.rand(B, 3, H, W, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    y = train.augment(x, shift)
    assert y.shape == x.shape
    framed = F.pad(x, (shift,) * 4)
    found = []
    for b in range(B):
        for mirrored in (False, True):
            source = framed[b].flip(2) if mirrored else framed[b]
            for i in range(2 * shift + 1):
                for j in range(2 * shift + 1):
                    if torch.equal(y[b], source[:, i : i + H, j : j + W]):
                        found.append((mirrored, i, j))
    assert len(found) == B  # each is one mirrored or shifted view of its own image
    assert len(set(found)) == 2 * 5 * 5  # and all of them come up
    assert 0.4 < np.mean([mirrored for mirrored, _, _ in found]) < 0.6


def test_net_a_of_another_size_is_one_error(tmp_path):
    write_net_a(tmp_path)
    options = train.Options(net="B", width=4, hidden=16, net_a=tmp_path)
    with pytest.raises(CheckpointError, match="--net-a .*: expected conv1_1 of net A"):
        train.make_model(options)


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.lr) == ("shapes", 10, 32, 0.02)
    assert (o.schedule, o.momentum, o.weight_decay) == ("cosine", 0.9, 5e-4)
    assert (o.init, o.net_a, o.augment) == ("he", None, False)
    assert o.network() == VGGConfig("A", False, 16, 128, 10, 32, dropout=0.2)


def test_options_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected dropout in \[0, 1\), got 1.5"):
        train.Options(dropout=1.5)
    with pytest.raises(CheckpointError, match="--net-a: no model.safetensors in"):
        train.make_model(train.Options(net_a=tmp_path))
