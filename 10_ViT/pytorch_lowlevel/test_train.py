"""The training script of level 2 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vit_lowlevel as low
import vit_training_lowlevel as training
from utils.data_loaders import Arrays, load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_vit_lowlevel")


@pytest.mark.parametrize(("augment", "pool"), [(False, "cls"), (True, "gap")])
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, augment, pool):
    data = load_arrays("shapes")
    few = Arrays(data.x_train[:60], data.y_train[:60], data.x_test[:30], data.y_test[:30])
    accuracy, tested = train.accuracy, []
    monkeypatch.setattr(train, "load_arrays", lambda *_: few)
    monkeypatch.setattr(train, "accuracy", lambda *a: tested.append(a[1:3]) or accuracy(*a))
    words = "--seed 3 --lr 0.01 --warmup 3 --weight-decay 0.2 --clip-norm 0.5 --patch-size 16"
    words += " --width 12 --heads 3 --hidden 10 --layers 2 --dropout 0.2 --label-smoothing 0.1"
    words += f" --pool {pool} --batch-size 16 --limit 40 --epochs 2 --device cpu --out {tmp_path}"
    train.main([*words.split(), *([] if augment else ["--no-augment"])])
    (folder,) = tmp_path.glob("*/*")

    mean, std = few.x_train.mean((0, 2, 3)), few.x_train.std((0, 2, 3))
    x_train = torch.from_numpy((few.x_train - mean[:, None, None]) / std[:, None, None])
    config = low.ViTConfig(32, 16, 12, 2, 3, 10, pool=pool, dropout=0.2)
    params = low.init_params(config, torch.Generator().manual_seed(3))
    optimizer, wanted = training.AdamW(params, weight_decay=0.2), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * i + 16]
        noise = int(np.random.default_rng([3, 1, step]).integers(2**63))
        generator = torch.Generator().manual_seed(noise)
        x, y = x_train[index], torch.from_numpy(few.y_train[index])
        if augment:
            x = training.augment(x, generator)
        loss = training.cross_entropy(low.forward(params, x, config, generator), y, 0.1)
        optimizer.lr = 0.01 * training.warmup_cosine(step, 6, 3)
        wanted.append(training.update(optimizer, loss, 0.5).item())
    losses = [r["loss"] for r in read_metrics(folder) if "loss" in r]
    assert losses == pytest.approx(wanted, rel=1e-5)
    trained = load_weights(folder / "model.safetensors")
    for name, p in params.items():
        np.testing.assert_allclose(trained[name], p.detach(), rtol=0, atol=1e-4)
    # The figures of the test images: prepared like the training images, all of them, no dropout.
    x_test = torch.from_numpy((few.x_test - mean[:, None, None]) / std[:, None, None])
    assert len(tested) == 2
    np.testing.assert_allclose(tested[1][0], x_test, rtol=0, atol=1e-5)
    assert np.array_equal(tested[1][1], few.y_test)
    summary = json.loads((folder / "summary.json").read_text())
    right = (low.forward(params, x_test, config).argmax(dim=1).numpy() == few.y_test).mean()
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right, abs=0.04)  # or one more


def test_accuracy_counts_every_image():
    config = low.ViTConfig(8, 4, 12, 1, 3, 10, 7, dropout=0.5)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    params["head.weight"] = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
    x = torch.randn(600, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    y = low.forward(params, x, config).argmax(dim=1)
    assert train.accuracy(params, x, y, config) == 1
    y[540:] = (y[540:] + 1) % 7
    assert train.accuracy(params, x, y, config) == pytest.approx(0.9)


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.limit, o.augment) == ("shapes", 60, 64, 0, True)
    assert (o.lr, o.warmup, o.weight_decay, o.clip_norm) == (0.003, 100, 0.05, 1.0)
    assert (o.patch_size, o.width, o.layers, o.heads, o.hidden) == (8, 64, 4, 4, 128)
    assert (o.pool, o.dropout, o.label_smoothing) == ("cls", 0.0, 0.0)


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--heads", "5"])
    assert "expected a width that 5 heads divide, got 64" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main(["--label-smoothing", "2"])
    assert "expected a number of at most 1, got 2" in capsys.readouterr().err
