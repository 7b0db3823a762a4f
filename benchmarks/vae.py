"""Cases of 11_VAE: a training step of the paper's network on MNIST at each level against torch."""

import numpy as np
import torch
from torch import distributions, nn

import vae_lowlevel
import vae_numpy
import vae_paper
from adagrad_numpy import Adagrad
from benchmarks.case import RATE, Case, Work, module_step

D, M, Z, BATCH = 784, 500, 20, 100


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = (rng.random((BATCH, D)) < 0.2).astype(np.float32)
    return x, rng.standard_normal((1, BATCH, Z)).astype(np.float32)


def numpy_step() -> Work:
    x, noise = _batch()
    config = vae_numpy.VAEConfig(D, (M,), Z)
    model = vae_numpy.VAE(config, np.random.default_rng(0), np.float32)
    optimizer = Adagrad(model.params, RATE)
    dy = np.full(BATCH, -1 / BATCH, np.float32)

    def step() -> None:
        model.forward(x, noise)
        optimizer.step(model.backward(dy))

    return step


def lowlevel_step() -> Work:
    x, noise = (torch.from_numpy(a) for a in _batch())
    config = vae_lowlevel.VAEConfig(D, (M,), Z)
    params = vae_lowlevel.init_params(config)
    optimizer = vae_lowlevel.Adagrad(params, RATE)
    return lambda: vae_lowlevel.train_step(params, optimizer, x, noise, config)


def paper_step() -> Work:
    x, noise = (torch.from_numpy(a) for a in _batch())
    model = vae_paper.VAE.of(vae_paper.VAEConfig.mnist(Z))
    return module_step(model, lambda: -vae_paper.elbo(*model(x, noise)).mean(), torch.optim.Adagrad)


def plain_step() -> Work:
    """As a user of PyTorch would write it, with torch.distributions."""
    x, noise = (torch.from_numpy(a) for a in _batch())
    encoder = nn.Sequential(nn.Linear(D, M), nn.Tanh(), nn.Linear(M, 2 * Z))
    decoder = nn.Sequential(nn.Linear(Z, M), nn.Tanh(), nn.Linear(M, D))
    prior = distributions.Normal(torch.zeros(Z), torch.ones(Z))

    def loss() -> torch.Tensor:
        mean, log_var = encoder(x).chunk(2, dim=1)
        q = distributions.Normal(mean, (0.5 * log_var).exp())
        pixels = distributions.Bernoulli(logits=decoder(mean + q.scale * noise))
        kl = distributions.kl_divergence(q, prior).sum(dim=-1)
        return (kl - pixels.log_prob(x).sum(dim=-1)).mean()

    return module_step(nn.ModuleList([encoder, decoder]), loss, torch.optim.Adagrad)


_WHAT = "bound, backward and Adagrad, 784-500-20-500-784, batch 100, float32"
_LIBRARY = "torch.nn and distributions"
CASES = [
    Case("11 numpy step", _WHAT, numpy_step, plain_step, _LIBRARY, 4.0),
    Case("11 lowlevel step", _WHAT, lowlevel_step, plain_step, _LIBRARY, 2.0),
    Case("11 paper step", _WHAT, paper_step, plain_step, _LIBRARY, 1.1),
]
