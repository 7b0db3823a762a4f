"""Variational autoencoder from tensors (level 2): autograd, sampling and update rules by hand.

Papers: as at level 1 (Kingma & Welling 2013, arXiv:1312.6114; Duchi et al. 2011; Burda et al. 2015,
arXiv:1509.00519).

Map of this file:
    VAEConfig, init_params          sizes; a dict of leaf tensors
    encode, reparameterise, decode  q(z|x), a sample of it, and p(x|z)
    log_likelihood, gaussian_kl     the two terms of the bound
    forward, elbo                   both for a batch, and the bound of each example
    log_weights, importance_weighted    a tighter bound
    mean_image                      pictures
    add_prior, Adagrad              update rules under torch.no_grad()
    train_step                      forward, backward, update

Shapes: B batch, D pixels, M hidden units, Z latents, K samples of z for each example (the paper's
L). ``...`` stands for any leading axes.

Read before: 11_VAE/numpy/vae_numpy.py, which writes out what autograd does here.

Deviations from the paper: as at level 1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]
DECODERS = ("bernoulli", "gaussian")


@dataclass(frozen=True)
class VAEConfig:
    """Sizes and kind of a variational autoencoder.

    Args:
        pixels: D, width of the data.
        hidden: M, widths of the encoder's hidden layers; the decoder has them in reverse.
        latents: Z, width of the latent vector.
        decoder: ``bernoulli`` for data of 0 and 1, ``gaussian`` for data in [0, 1].
    """

    pixels: int = 64
    hidden: tuple[int, ...] = (128,)
    latents: int = 10
    decoder: str = "bernoulli"

    def __post_init__(self) -> None:
        sizes = (self.pixels, *self.hidden, self.latents)
        if not self.hidden or min(sizes) < 1:
            raise ValueError(
                f"expected positive sizes and at least one hidden layer, got pixels {self.pixels}, "
                f"hidden {self.hidden}, latents {self.latents}"
            )
        if self.decoder not in DECODERS:
            raise ValueError(f"expected a decoder of {DECODERS}, got {self.decoder!r}")

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Each linear layer and the shape (outputs, inputs) of its weight."""
        down = (self.pixels, *self.hidden)
        up = (self.latents, *reversed(self.hidden))
        found = {}
        for side, sizes in (("encoder", down), ("decoder", up)):
            for i, (D, M) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
                found[f"{side}.layers.{i}"] = (M, D)
        for name in ("mean", "log_var"):
            found[f"encoder.{name}"] = (self.latents, self.hidden[-1])
        for name in ("logits",) if self.decoder == "bernoulli" else ("mean", "log_var"):
            found[f"decoder.{name}"] = (self.pixels, self.hidden[0])
        return found


def init_params(
    config: VAEConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves: normal with variance 0.01, biases too; drawn on the CPU."""
    params = {}
    for name, (M, D) in config.shapes.items():
        params[f"{name}.weight"] = 0.1 * torch.randn(M, D, generator=generator)
        params[f"{name}.bias"] = 0.1 * torch.randn(M, generator=generator)
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """The linear layer called ``name``: (..., D) -> (..., M)."""
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]  # eq. 2.1


def hidden(params: Params, side: str, x: Tensor, config: VAEConfig) -> Tensor:
    """The tanh layers of one side, ``encoder`` or ``decoder``: (..., D) -> (..., M)."""
    for i in range(len(config.hidden)):
        x = torch.tanh(linear(params, f"{side}.layers.{i}", x))
    return x


def encode(params: Params, x: Tensor, config: VAEConfig) -> tuple[Tensor, Tensor]:
    """Mean and log-variance (B, Z) of q(z|x) for x (B, D) (eq. 11.5).

    Raises:
        ValueError: x is not (B, D).
    """
    if x.ndim != 2 or x.shape[1] != config.pixels:
        raise ValueError(f"expected inputs (B, {config.pixels}), got {tuple(x.shape)}")
    h = hidden(params, "encoder", x, config)
    return linear(params, "encoder.mean", h), linear(params, "encoder.log_var", h)


def reparameterise(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Samples z (K, B, Z) from mean and log-variance (B, Z) and noise (K, B, Z) (eq. 11.8)."""
    return mean + torch.exp(0.5 * log_var) * noise


def decode(params: Params, z: Tensor, config: VAEConfig) -> tuple[Tensor, ...]:
    """What the decoder says of z (..., Z): (logits,), or (mean, log-variance) (eq. 11.12)."""
    h = hidden(params, "decoder", z, config)
    if config.decoder == "bernoulli":
        return (linear(params, "decoder.logits", h),)
    mean = torch.sigmoid(linear(params, "decoder.mean", h))
    return mean, linear(params, "decoder.log_var", h)


def log_likelihood(decoded: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """log p(x|z) (..., B) of x (B, D), from what :func:`decode` gave."""
    if len(decoded) == 1:
        (logits,) = decoded
        return (x * logits - F.softplus(logits)).sum(dim=-1)  # eq. 11.10
    mean, log_var = decoded
    squares = (x - mean) ** 2 * torch.exp(-log_var)
    return -0.5 * (math.log(2 * math.pi) + log_var + squares).sum(dim=-1)  # eq. 11.13


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL divergence (B, Z) of each latent from the standard normal prior (eq. 11.7)."""
    return 0.5 * (mean**2 + torch.exp(log_var) - log_var - 1)


def forward(params: Params, x: Tensor, noise: Tensor, config: VAEConfig) -> tuple[Tensor, Tensor]:
    """The two terms of the bound: log p(x|z) (K, B) and the KL of each latent (B, Z).

    Args:
        x: (B, D). noise: (K, B, Z), standard normal.

    Raises:
        ValueError: the noise does not fit x and the latents.
    """
    if noise.ndim != 3 or noise.shape[1:] != (len(x), config.latents):
        raise ValueError(
            f"expected noise (K, {len(x)}, {config.latents}), got {tuple(noise.shape)}"
        )
    mean, log_var = encode(params, x, config)
    z = reparameterise(mean, log_var, noise)  # (B, Z) -> (K, B, Z)
    return log_likelihood(decode(params, z, config), x), gaussian_kl(mean, log_var)


def elbo(log_p: Tensor, kl: Tensor, beta: float = 1.0) -> Tensor:
    """The bound of each example (B,) from its terms (K, B) and (B, Z) (eqs. 11.14 and 11.16)."""
    return log_p.mean(dim=0) - beta * kl.sum(dim=1)


def log_weights(params: Params, x: Tensor, noise: Tensor, config: VAEConfig) -> Tensor:
    """log p(x, z) - log q(z|x) (K, B) at the samples that ``noise`` (K, B, Z) makes (eq. 11.36)."""
    mean, log_var = encode(params, x, config)
    z = reparameterise(mean, log_var, noise)
    log_p = log_likelihood(decode(params, z, config), x)
    return log_p + 0.5 * (noise**2 + log_var - z**2).sum(dim=-1)


@torch.no_grad()
def importance_weighted(
    params: Params,
    x: Tensor,
    config: VAEConfig,
    samples: int,
    generator: torch.Generator,
    chunk: int = 100,
) -> Tensor:
    """The bound of K samples (B,) for x (B, D) (eq. 11.34); ``chunk`` of them in memory at once."""
    sums = []
    for start in range(0, samples, chunk):
        shape = (min(chunk, samples - start), len(x), config.latents)
        noise = torch.randn(shape, generator=generator).to(x)
        sums.append(log_weights(params, x, noise, config).logsumexp(dim=0))
    return torch.stack(sums).logsumexp(dim=0) - math.log(samples)  # eq. 11.37


def mean_image(params: Params, z: Tensor, config: VAEConfig) -> Tensor:
    """The mean (..., D) of p(x|z): probabilities of a 1, or grey values."""
    decoded = decode(params, z, config)
    return torch.sigmoid(decoded[0]) if config.decoder == "bernoulli" else decoded[0]


# --- learning


@torch.no_grad()
def add_prior(params: Params, examples: int) -> None:
    """Add the gradient of a standard normal prior over the decoder's parameters (eq. 11.43)."""
    for name, p in params.items():
        if name.startswith("decoder."):
            p.grad += p / examples


class Adagrad:
    """Steps divided by the root of all squared gradients so far (eq. 11.44).

    ``state`` holds ``squares.<name>`` for checkpoints.
    """

    def __init__(self, params: Params, lr: float, eps: float = 1e-10) -> None:
        self.params, self.lr, self.eps = params, lr, eps
        self.state = {f"squares.{name}": torch.zeros_like(p).detach() for name, p in params.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter in place by its ``.grad``."""
        for name, p in self.params.items():
            squares = self.state[f"squares.{name}"].add_(p.grad**2)
            p -= self.lr * p.grad / (squares.sqrt() + self.eps)


def train_step(
    params: Params,
    optimizer: Adagrad,
    x: Tensor,
    noise: Tensor,
    config: VAEConfig,
    beta: float = 1.0,
    examples: int = 0,
) -> Tensor:
    """One step on x (B, D) with noise (K, B, Z); returns minus the mean bound before it.

    ``examples`` is the size of the training set for the prior (0: no prior).
    """
    for p in params.values():
        p.grad = None
    loss = -elbo(*forward(params, x, noise, config), beta).mean()  # eq. 11.15
    loss.backward()
    if examples:
        add_prior(params, examples)
    optimizer.step()
    return loss.detach()
