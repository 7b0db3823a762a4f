"""The training script of level 2 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import vae_lowlevel as low
from estimates_numpy import active_latents, observe
from utils.data_loaders import load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_vae_lowlevel")


@pytest.mark.parametrize(("decoder", "levels"), [("bernoulli", 0), ("gaussian", 17)])
def test_the_script_is_the_plain_loop(tmp_path, decoder, levels):
    words = f"--decoder {decoder} --seed 3 --lr 0.05 --latents 3 --hidden 16,12 --samples 2"
    words += " --beta 0.5 --importance-samples 50 --importance-examples 40 --device cpu"
    words += f" --batch-size 32 --limit 100 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data = load_arrays("digits")
    images = data.x_train.reshape(-1, 64)
    config = low.VAEConfig(64, (16, 12), 3, decoder)
    params = low.init_params(config, torch.Generator().manual_seed(3))
    optimizer, wanted = low.Adagrad(params, 0.05), []
    for step in range(8):  # 2 epochs of 4 batches
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(100)[32 * i : 32 * (i + 1)]
        x = torch.from_numpy(observe(images[index], levels, np.random.default_rng([3, 1, step])))
        seed = int(np.random.default_rng([3, 1, step]).integers(2**63))
        noise = torch.randn(2, len(x), 3, generator=torch.Generator().manual_seed(seed))
        wanted.append(low.train_step(params, optimizer, x, noise, config, 0.5, examples=1437))
    records = [r for r in read_metrics(folder) if "loss" in r]
    assert [r["loss"] for r in records] == [w.item() for w in wanted]
    trained = load_weights(folder / "model.safetensors")
    assert set(trained) == set(params)
    assert all(np.array_equal(trained[name], p.detach()) for name, p in params.items())

    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    x = torch.from_numpy(observe(data.x_test.reshape(-1, 64), levels, np.random.default_rng(0)))
    offset = -64 * math.log(levels) if levels else 0
    with torch.no_grad():
        noise = torch.randn(1, 360, 3, generator=torch.Generator().manual_seed(1))
        log_p, kl = low.forward(params, x, noise, config)
    assert metrics["test_elbo"] == pytest.approx(
        low.elbo(log_p, kl).mean().item() + offset, rel=1e-5
    )
    assert metrics["test_kl"] == pytest.approx(kl.sum(1).mean().item(), rel=1e-5)
    assert metrics["test_active_latents"] == active_latents(kl.numpy())
    generator = torch.Generator().manual_seed(2)
    tight = low.importance_weighted(params, x[:40], config, 50, generator).mean().item() + offset
    assert metrics["test_iw50_elbo"] == pytest.approx(tight, rel=1e-5)
    assert (folder / "samples.png").is_file() and (folder / "kl.png").is_file()


def test_every_image_is_in_the_estimates():
    config = low.VAEConfig(4, (5,), 2)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    x = (torch.rand(1130, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    bound, kl = train.evaluate(params, x, config, 3.0)
    noise = torch.randn(1, 1130, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = low.elbo(*low.forward(params, x, noise, config)).mean().item()
    assert bound == pytest.approx(want + 3, rel=1e-5) and kl.shape == (1130, 2)
    generator = torch.Generator().manual_seed(2)
    parts = [low.importance_weighted(params, p, config, 3, generator) for p in x.split(100)]
    got = train.importance_estimate(params, x, config, 3, 0.0)
    assert got == pytest.approx(torch.cat(parts).mean().item(), rel=1e-6)


def test_the_recipe():
    o = train.Options()
    assert (o.data, o.epochs, o.batch_size, o.lr, o.hidden) == ("digits", 300, 100, 0.02, (128,))
    assert (o.latents, o.decoder, o.samples, o.beta) == (10, "bernoulli", 1, 1.0)
    assert (o.importance_samples, o.importance_examples, o.levels) == (5000, 0, 0)


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--hidden", "0"])
    assert "hidden (0,)" in capsys.readouterr().err
