"""The training script of level 1 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest

import utils  # noqa: F401  (puts the chapters on the import path)
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import AdamW
from utils.data_loaders import Arrays, load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights
from vit_numpy import (
    VisionTransformer,
    ViTConfig,
    clip_gradients,
    position_similarity,
    warmup_cosine,
)

train = load_module(Path(__file__).parent / "train.py", "train_vit_numpy")


@pytest.mark.parametrize("pool", ["cls", "gap"])
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, pool):
    data = load_arrays("shapes")
    few = Arrays(data.x_train[:60], data.y_train[:60], data.x_test[:30], data.y_test[:30])
    accuracy, plot, tested, drawn = train.accuracy, train.plot_image_grid, [], []
    monkeypatch.setattr(train, "load_arrays", lambda *_: few)
    monkeypatch.setattr(train, "accuracy", lambda *a: tested.append(a[1:]) or accuracy(*a))
    monkeypatch.setattr(train, "plot_image_grid", lambda x, **o: drawn.append(x) or plot(x, **o))
    words = "--seed 3 --lr 0.01 --warmup 3 --weight-decay 0.2 --clip-norm 0.5 --patch-size 16"
    words += f" --width 12 --heads 3 --hidden 10 --layers 2 --dropout 0.2 --pool {pool}"
    words += f" --batch-size 16 --limit 40 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    mean, std = few.x_train.mean((0, 2, 3)), few.x_train.std((0, 2, 3))
    x_train = (few.x_train - mean[:, None, None]) / std[:, None, None]
    config = ViTConfig(32, 16, 12, 2, 3, 10, pool=pool, dropout=0.2)
    model = VisionTransformer(config, np.random.default_rng(3), np.float32)
    optimizer, wanted = AdamW(model.params, weight_decay=0.2), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * i + 16]
        rng = np.random.default_rng([3, 1, step])
        logits = model.forward(x_train[index], train=True, rng=rng)
        loss, cache = softmax_cross_entropy_forward(logits, few.y_train[index])
        grads = model.backward(softmax_cross_entropy_backward(cache))
        clip_gradients(grads, 0.5)
        optimizer.lr = 0.01 * warmup_cosine(step, 6, 3)
        optimizer.step(grads)
        wanted.append(float(loss))
    losses = [r["loss"] for r in read_metrics(folder) if "loss" in r]
    assert losses == pytest.approx(wanted, rel=1e-6)
    trained = load_weights(folder / "model.safetensors")
    for name, p in model.params.items():
        np.testing.assert_allclose(trained[name], p, rtol=0, atol=1e-5)
    assert {p.dtype for p in trained.values()} == {np.dtype(np.float32)}
    # The figures of the test images: prepared like the training images, all of them, no dropout.
    x_test = (few.x_test - mean[:, None, None]) / std[:, None, None]
    assert len(tested) == 2
    np.testing.assert_allclose(tested[1][0], x_test, rtol=0, atol=1e-5)
    assert np.array_equal(tested[1][1], few.y_test)
    summary = json.loads((folder / "summary.json").read_text())
    right = (model.forward(x_test).argmax(axis=1) == few.y_test).mean()
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right, abs=0.04)  # or one more
    alike = position_similarity(trained["pos_embed"], pool == "cls")
    np.testing.assert_allclose(drawn, [alike], rtol=0, atol=1e-6)
    assert (folder / "positions.png").read_bytes().startswith(b"\x89PNG")


def test_accuracy_counts_every_image():
    model = VisionTransformer(ViTConfig(8, 4, 12, 1, 3, 10, 7), np.random.default_rng(0))
    model.params["head.weight"][...] = np.random.default_rng(1).standard_normal((7, 12))
    x = np.random.default_rng(2).standard_normal((300, 3, 8, 8))
    y = model.forward(x).argmax(axis=1)
    assert train.accuracy(model, x, y) == 1
    y[:30] = (y[:30] + 1) % 7
    assert train.accuracy(model, x, y) == pytest.approx(0.9)


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.limit) == ("shapes", 20, 32, 2000)
    assert (o.lr, o.warmup, o.weight_decay, o.clip_norm) == (0.001, 100, 0.05, 1.0)
    assert (o.patch_size, o.width, o.layers, o.heads, o.hidden) == (8, 64, 3, 4, 128)
    assert (o.pool, o.dropout) == ("cls", 0.0)


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--patch-size", "5"])
    assert "expected a patch size that divides 32, got 5" in capsys.readouterr().err
