"""The training script of level 1 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from adagrad_numpy import Adagrad, add_prior
from estimates_numpy import active_latents, importance_weighted, observe
from utils.data_loaders import load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights
from vae_numpy import VAE, VAEConfig

train = load_module(Path(__file__).parent / "train.py", "train_vae_numpy")


@pytest.mark.parametrize(("decoder", "levels"), [("bernoulli", 0), ("gaussian", 17)])
def test_the_script_is_the_plain_loop(tmp_path, capsys, decoder, levels):
    words = f"--decoder {decoder} --seed 3 --lr 0.05 --latents 3 --hidden 16,12 --samples 2"
    words += " --beta 0.5 --importance-samples 50 --importance-examples 40"
    words += f" --batch-size 32 --limit 100 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    images = data.x_train.reshape(-1, 64)
    model = VAE(VAEConfig(64, (16, 12), 3, decoder), np.random.default_rng(3), np.float32)
    optimizer, wanted = Adagrad(model.params, 0.05), []
    for step in range(8):  # 2 epochs of 4 batches
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(100)[32 * i : 32 * (i + 1)]
        rng = np.random.default_rng([3, 1, step])
        x = observe(images[index], levels, rng)
        noise = rng.standard_normal((2, len(x), 3)).astype(np.float32)
        wanted.append(-model.forward(x, noise, 0.5).mean())
        grads = model.backward(np.full(len(x), -1 / len(x), np.float32))
        optimizer.step(add_prior(grads, model.params, 1437))
    records = [r for r in read_metrics(folder) if "loss" in r]
    assert [r["loss"] for r in records] == [float(w) for w in wanted]
    trained = load_weights(folder / "model.safetensors")
    assert set(trained) == set(model.params)
    assert all(np.array_equal(trained[name], p) for name, p in model.params.items())

    summary = json.loads((folder / "summary.json").read_text())
    x = observe(data.x_test.reshape(-1, 64), levels, np.random.default_rng(0))
    offset = -64 * math.log(levels) if levels else 0
    noise = np.random.default_rng(1).standard_normal((1, 360, 3)).astype(np.float32)
    metrics = summary["metrics"]
    bound = model.forward(x, noise).mean() + offset
    assert metrics["test_elbo"] == pytest.approx(bound, rel=1e-5)
    assert metrics["test_kl"] == pytest.approx(model.kl.sum(axis=1).mean(), rel=1e-5)
    assert metrics["test_active_latents"] == active_latents(model.kl)
    tight = importance_weighted(model, x[:40], 50, np.random.default_rng(2)).mean() + offset
    assert metrics["test_iw50_elbo"] == pytest.approx(tight, rel=1e-5)
    assert summary["note"] == "K = 50 on the first 40 test images"
    assert summary["model"] == ("vae-3" if decoder == "bernoulli" else "vae-3-gaussian")
    assert (folder / "samples.png").is_file() and (folder / "kl.png").is_file()
    assert f"bound with 50 samples: {tight:.2f} nats" in capsys.readouterr().out


def test_every_image_is_in_the_estimates():
    """A thousand at a time for the bound, a hundred for the tighter one, and what is left."""
    model = VAE(VAEConfig(4, (5,), 2), np.random.default_rng(0), np.float32)
    x = (np.random.default_rng(1).random((1130, 4)) < 0.5).astype(np.float32)
    bound, kl = train.evaluate(model, x, 3.0)
    noise = np.random.default_rng(1).standard_normal((1, 1130, 2)).astype(np.float32)
    assert bound == pytest.approx(model.forward(x, noise).mean() + 3, rel=1e-5)
    assert np.allclose(kl, model.kl, rtol=1e-5, atol=1e-6)
    rng = np.random.default_rng(2)
    parts = [importance_weighted(model, x[i : i + 100], 3, rng) for i in range(0, 1130, 100)]
    got = train.importance_estimate(model, x, 3, 0.0)
    assert got == pytest.approx(np.concatenate(parts).mean(), rel=1e-6)


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.lr, o.hidden) == ("digits", 300, 100, 0.02, (128,))
    assert (o.latents, o.decoder, o.samples, o.beta) == (10, "bernoulli", 1, 1.0)
    assert (o.importance_samples, o.importance_examples, o.levels) == (5000, 0, 0)
    assert train.Options(data="mnist", decoder="gaussian").levels == 256


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--latents", "0"])
    assert "latents 0" in capsys.readouterr().err
