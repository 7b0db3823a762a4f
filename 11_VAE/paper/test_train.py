"""The training script of level 3 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from conv_vae_paper import ConvConfig, ConvDecoder, ConvEncoder
from estimates_numpy import active_latents
from estimates_numpy import observe as observe_once
from estimates_paper import importance_weighted, posterior_estimate
from utils.data_loaders import Arrays, load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights
from vae_paper import VAE, VAEConfig, adagrad, elbo, observe

train = load_module(Path(__file__).parent / "train.py", "train_vae_paper")
CASES = [
    ("mlp", "bernoulli", "adagrad"),
    ("mlp", "gaussian", "adam"),
    ("conv", "bernoulli", "adam"),
]


@pytest.mark.parametrize(("kind", "decoder", "rule"), CASES)
def test_the_script_is_the_plain_loop(tmp_path, capsys, kind, decoder, rule):
    words = f"--model {kind} --decoder {decoder} --optimizer {rule} --seed 3 --lr 0.01"
    words += " --latents 2 --hidden 16,12 --channels 3 --width 9 --samples 2 --beta 0.5"
    words += " --importance-samples 50 --importance-examples 40"
    words += " --marginal-examples 5" if rule == "adagrad" else ""
    words += f" --device cpu --batch-size 32 --limit 100 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    data, levels = load_arrays("digits"), 17 if decoder == "gaussian" else 0
    train_set = TensorDataset(torch.from_numpy(data.x_train).flatten(1))
    torch.manual_seed(3)
    if kind == "conv":
        config = ConvConfig(8, 3, 9, 2)
        model = VAE(ConvEncoder(config), ConvDecoder(config), 2)
    else:
        model = VAE.of(VAEConfig(64, (16, 12), 2, decoder))
    parameters = list(model.parameters())
    optimizer = adagrad(model, 0.01, 1437) if rule == "adagrad" else torch.optim.Adam(parameters)
    wanted = []
    for step in range(8):  # 2 epochs of 4 batches
        epoch, i = divmod(step, 4)
        index = np.random.default_rng([3, 0, epoch]).permutation(100)[32 * i : 32 * (i + 1)]
        torch.manual_seed(int(np.random.SeedSequence([3, step, 0]).generate_state(1)[0]))
        # As in fit, for making the iterator takes a number from torch's generator.
        ((x,),) = DataLoader(train_set, batch_sampler=[index.tolist()])
        x = observe(x, levels)
        noise = torch.randn(2, len(x), 2)
        for group in optimizer.param_groups:
            falling = 0.5 * (1 + math.cos(math.pi * step / 8))
            group["lr"] = 0.01 * (1 if rule == "adagrad" else falling)
        optimizer.zero_grad()
        loss = -elbo(*model(x, noise), 0.5).mean()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    records = [r for r in read_metrics(folder) if "loss" in r]
    assert [r["loss"] for r in records] == pytest.approx(wanted, rel=1e-5)
    trained = load_weights(folder / "model.safetensors")
    for name, p in model.state_dict().items():
        assert np.allclose(trained[name], p, rtol=0, atol=1e-5), name

    summary = json.loads((folder / "summary.json").read_text())
    x = torch.from_numpy(
        observe_once(data.x_test.reshape(-1, 64), levels, np.random.default_rng(0))
    )
    offset = -64 * math.log(levels) if levels else 0
    with torch.no_grad():
        log_p, kl = model(x, torch.randn(1, 360, 2, generator=torch.Generator().manual_seed(1)))
    metrics = summary["metrics"]
    bound = elbo(log_p, kl).mean().item() + offset
    assert metrics["test_elbo"] == pytest.approx(bound, rel=1e-4)
    assert metrics["test_kl"] == pytest.approx(kl.sum(1).mean().item(), rel=1e-4)
    assert metrics["test_active_latents"] == active_latents(kl.numpy())
    tight = importance_weighted(
        lambda noise: model.log_weights(x[:40], noise),
        (40, 2),
        50,
        torch.Generator().manual_seed(2),
    )
    assert metrics["test_iw50_elbo"] == pytest.approx(tight.mean().item() + offset, rel=1e-4)
    note = "K = 50 on the first 40 test images"
    if rule == "adagrad":
        exact, _ = posterior_estimate(
            lambda z: model.log_joint(x[:5], z),
            model.encoder(x[:5])[0].detach(),
            torch.Generator().manual_seed(3),
        )
        # A chain that differs in the last digit soon goes another way.
        assert metrics["test_appendix_d"] == pytest.approx(exact.mean().item(), abs=1.0)
        note += "; appendix D on the first 5"
    assert summary["note"] == note
    name = {"gaussian": "vae-2-gaussian", "bernoulli": "vae-2"}[decoder]
    assert summary["model"] == ("conv-vae-2" if kind == "conv" else name)
    assert summary["paper"] == {}
    for picture in ("samples", "reconstructions", "kl", "manifold"):
        assert (folder / f"{picture}.png").is_file()
    assert "KL of each latent, sorted:" in capsys.readouterr().out


def test_every_image_is_in_the_estimates():
    torch.manual_seed(0)
    model = VAE.of(VAEConfig(4, (5,), 2))
    x = (torch.rand(1130, 4) < 0.5).float()
    got, kl = train.bounds(model, x)
    noise = torch.randn(1, 1130, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        log_p, want_kl = model(x, noise)
    assert torch.allclose(got, elbo(log_p, want_kl), atol=1e-5)
    assert torch.allclose(kl, want_kl, atol=1e-6)
    generator = torch.Generator().manual_seed(2)
    noise = torch.cat(
        [torch.randn(3, min(100, 1130 - i), 2, generator=generator) for i in range(0, 1130, 100)], 1
    )
    with torch.no_grad():
        want = (model.log_weights(x, noise).logsumexp(0) - math.log(3)).mean().item()
    assert train.importance_estimate(model, x, 3) == pytest.approx(want, rel=1e-5)


def test_the_manifold_goes_through_the_prior_in_equal_steps(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(train, "plot_mosaic", lambda x, *, path, **o: drawn.update({path.name: x}))
    torch.manual_seed(0)
    model = VAE.of(VAEConfig(16, (5,), 2))
    x = (torch.rand(60, 16) < 0.5).float()
    train.draw(model, x, np.ones((60, 2)), 4, 0, tmp_path)
    pictures = drawn["manifold.png"].reshape(20, 20, 16)
    normal = torch.distributions.Normal(0, 1)
    for row, column in ((0, 0), (3, 17), (19, 4)):
        z = normal.icdf(torch.tensor([(column + 0.5) / 20, (19.5 - row) / 20]))
        want = model.decoder.mean_image(z)  # first latent to the right, second upwards
        assert torch.allclose(pictures[row, column], want, atol=1e-5)
    rows = drawn["reconstructions.png"].reshape(5, 2, 10, 16)
    assert torch.equal(rows[1, 0], x[10:20])
    assert torch.allclose(rows[1, 1], model.reconstruct(x[10:20]), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "published"),
    [
        ("--hidden 8", {}),
        ("--hidden 200,200 --latents 50", {"test_iw5000_elbo": -86.76}),
        ("--hidden 200,200 --latents 50 --importance-samples 10", {}),
        ("--hidden 200,200 --latents 50 --data digits", {}),
    ],
)
def test_the_published_figure_stands_beside_its_own_network_alone(words, published):
    given = words.split()
    options = train.parse_options(train.Options, ["--data", "mnist", *given], "")
    assert options.paper == published


def test_few_images_still_make_a_run(tmp_path, monkeypatch):
    x, y = np.random.default_rng(0).random((12, 1, 8, 8), dtype=np.float32), np.zeros(12, int)
    monkeypatch.setattr(train, "load_arrays", lambda name, folder: Arrays(x, y, x, y))
    words = "--hidden 5 --importance-samples 5 --device cpu --epochs 1 --importance-examples 50"
    words += " --decoder gaussian --marginal-examples 3 --latents 2"
    train.main([*words.split(), "--out", str(tmp_path)])
    (folder,) = tmp_path.glob("*/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["note"] == "appendix D on the first 3"
    metrics = summary["metrics"]
    # Both are of the grey values, not of a density: below 0.
    assert metrics["test_appendix_d"] < 0 and 0 < metrics["test_acceptance"] <= 1


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.lr, o.hidden) == ("digits", 300, 100, 0.02, (500,))
    assert (o.model, o.optimizer, o.latents, o.decoder) == ("mlp", "adagrad", 10, "bernoulli")
    assert (o.samples, o.beta, o.channels, o.width) == (1, 1.0, 32, 256)
    assert (o.importance_samples, o.importance_examples, o.marginal_examples) == (5000, 0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model conv --decoder gaussian", "expected --decoder bernoulli with --model conv"),
        ("--latents 0", "latents 0"),
        ("--model conv --channels 0", "channels 0"),
        ("--latents 50 --marginal-examples 5", "expected fewer than 50 latents for appendix D"),
    ],
)
def test_an_impossible_network_is_an_error_of_one_line(words, message, capsys):
    with pytest.raises(SystemExit):
        train.main(words.split())
    assert message in capsys.readouterr().err
