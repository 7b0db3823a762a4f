"""Variational autoencoder as the paper has it (level 3): encoder, two decoders, the lower bound.

Paper: D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114:
Algorithm 1, section 3 (the model), section 5 (sizes and training), appendices B and C. One preset
is of Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", 2015,
arXiv:1509.00519.

Map of this file:
    VAEConfig                       presets: MNIST, Frey faces, Fig. 3, and Burda et al.
    TanhLayers                      the hidden layers of all that follow
    Encoder                         q(z|x): the mean and the logarithm of the variance
    BernoulliDecoder, GaussianDecoder    p(x|z), for binary and for real numbers
    VAE                             the bound's two terms, reconstructions, samples
    elbo, vae_loss                  the bound of each example; what is minimised
    observe                         binary or continuous data out of grey values
    initialise, adagrad             the paper's start and its update rule, with its prior

Shapes: B batch, D pixels, M hidden units, Z latents, K samples of z for each example (the paper's
L). ``...`` in front of B stands for any number of sample axes.

Read before: 11_VAE/numpy/vae_numpy.py, 11_VAE/pytorch_lowlevel/vae_lowlevel.py.

Deviations from the paper: it leaves open how grey values become binary; ``observe`` draws them
anew each time. N(0, 0.01), the initial distribution of the parameters, is read as a variance. The
prior over the parameters is put on those of the decoder, where the paper defines it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DECODERS = ("bernoulli", "gaussian")


@dataclass(frozen=True)
class VAEConfig:
    """Sizes and kind of a variational autoencoder.

    Args:
        pixels: D, width of the data.
        hidden: M, widths of the encoder's hidden layers; the decoder has them in reverse.
        latents: Z, width of the latent vector.
        decoder: ``bernoulli`` for data of 0 and 1, ``gaussian`` for data in [0, 1].

    Raises:
        ValueError: a size below 1, no hidden layer, or an unknown decoder.
    """

    pixels: int = 784
    hidden: tuple[int, ...] = (500,)
    latents: int = 20
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

    @classmethod
    def mnist(cls, latents: int = 20) -> "VAEConfig":
        """MNIST: 500 hidden units; 2 to 200 latents (section 5, Fig. 2 and 5)."""
        return cls(784, (500,), latents)

    @classmethod
    def frey_faces(cls, latents: int = 10) -> "VAEConfig":
        """Frey faces, 20 x 28 grey values: 200 hidden units, Gaussian outputs (section 5)."""
        return cls(560, (200,), latents, "gaussian")

    @classmethod
    def marginal(cls) -> "VAEConfig":
        """MNIST for the marginal likelihood, Fig. 3: 100 hidden units, 3 latents (section 5)."""
        return cls(784, (100,), 3)

    @classmethod
    def burda2015(cls) -> "VAEConfig":
        """The network of Burda et al. with one stochastic layer: 2 x 200 hidden, 50 latents."""
        return cls(784, (200, 200), 50)


class TanhLayers(nn.Module):
    """Linear layers, a tanh after each. State: ``layers.<i>.weight`` (M, D) and ``.bias`` (M,)."""

    def __init__(self, sizes: Iterable[int]) -> None:
        super().__init__()
        sizes = tuple(sizes)
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(nn.Linear(D, M) for D, M in pairs)

    def hidden(self, x: Tensor) -> Tensor:
        """The last hidden layer (..., M) of x (..., D)."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class Encoder(TanhLayers):
    """q(z|x), a Gaussian with independent latents (appendix C.2).

    State: ``layers.<i>``, ``mean`` and ``log_var``, each with weight and bias.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__((config.pixels, *config.hidden))
        self.mean = nn.Linear(config.hidden[-1], config.latents)
        self.log_var = nn.Linear(config.hidden[-1], config.latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance (B, Z) of x (B, D)."""
        h = self.hidden(x)  # (B, D) -> (B, M)
        return self.mean(h), self.log_var(h)


class BernoulliDecoder(TanhLayers):
    """p(x|z) of independent binary pixels (appendix C.1). State: ``layers.<i>``, ``logits``."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__((config.latents, *reversed(config.hidden)))
        self.logits = nn.Linear(config.hidden[0], config.pixels)

    def forward(self, z: Tensor) -> Tensor:
        """Logits (..., D) of z (..., Z)."""
        return self.logits(self.hidden(z))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) (..., B) of x (B, D) and z (..., B, Z)."""
        logits = self(z)
        return -F.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(dim=-1)

    def mean_image(self, z: Tensor) -> Tensor:
        """The probability (..., D) that each pixel is 1."""
        return torch.sigmoid(self(z))


class GaussianDecoder(TanhLayers):
    """p(x|z) of independent real pixels; means between 0 and 1 (appendix C.2, section 5).

    State: ``layers.<i>``, ``mean`` and ``log_var``, each with weight and bias.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__((config.latents, *reversed(config.hidden)))
        self.mean = nn.Linear(config.hidden[0], config.pixels)
        self.log_var = nn.Linear(config.hidden[0], config.pixels)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance (..., D) of z (..., Z)."""
        h = self.hidden(z)
        return torch.sigmoid(self.mean(h)), self.log_var(h)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """The logarithm of the density p(x|z) (..., B) of x (B, D) and z (..., B, Z)."""
        mean, log_var = self(z)
        squares = (x - mean).square() * torch.exp(-log_var)
        return -0.5 * (math.log(2 * math.pi) + log_var + squares).sum(dim=-1)

    def mean_image(self, z: Tensor) -> Tensor:
        """The means (..., D)."""
        return self(z)[0]


class VAE(nn.Module):
    """An encoder and a decoder, with a standard normal prior over the latents.

    Args:
        encoder: module; gives mean and log-variance (B, Z) of x (B, D).
        decoder: module with ``log_likelihood(x, z)`` and ``mean_image(z)``.
        latents: Z.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latents: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.latents = encoder, decoder, latents

    @classmethod
    def of(cls, config: VAEConfig) -> "VAE":
        """The paper's networks, with its initial parameters."""
        kind = BernoulliDecoder if config.decoder == "bernoulli" else GaussianDecoder
        model = cls(Encoder(config), kind(config), config.latents)
        initialise(model)
        return model

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of the bound, equation (10) of the paper.

        Args:
            x: (B, D). noise: (K, B, Z), standard normal.

        Returns:
            log p(x|z) of each sample (K, B), and the KL divergence of each latent (B, Z).

        Raises:
            ValueError: the noise does not fit x and the latents.
        """
        if noise.ndim != 3 or noise.shape[1:] != (len(x), self.latents):
            raise ValueError(
                f"expected noise (K, {len(x)}, {self.latents}), got {tuple(noise.shape)}"
            )
        mean, log_var = self.encoder(x)
        z = mean + torch.exp(0.5 * log_var) * noise  # (B, Z) -> (K, B, Z)
        kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1)
        return self.decoder.log_likelihood(x, z), kl

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) (..., B) of x (B, D) and z (..., B, Z)."""
        log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(dim=-1)
        return self.decoder.log_likelihood(x, z) + log_prior

    def log_weights(self, x: Tensor, noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z|x) (K, B) at the samples that ``noise`` (K, B, Z) makes."""
        mean, log_var = self.encoder(x)
        z = mean + torch.exp(0.5 * log_var) * noise
        log_q = -0.5 * (noise.square() + log_var + math.log(2 * math.pi)).sum(dim=-1)
        return self.log_joint(x, z) - log_q

    def reconstruct(self, x: Tensor) -> Tensor:
        """The decoder's mean (B, D) at the encoder's mean for x (B, D)."""
        return self.decoder.mean_image(self.encoder(x)[0])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Mean images (n, D) of latents drawn from the prior, on the CPU's generator."""
        place = next(self.parameters())
        z = torch.randn(n, self.latents, generator=generator).to(place.device, place.dtype)
        return self.decoder.mean_image(z)


def elbo(log_likelihood: Tensor, kl: Tensor, beta: float = 1.0) -> Tensor:
    """The lower bound of each example (B,) from its terms (K, B) and (B, Z); with a beta of 1."""
    return log_likelihood.mean(dim=0) - beta * kl.sum(dim=1)


def vae_loss(
    model: nn.Module, x: Tensor, samples: int = 1, beta: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the mean bound of a batch x (B, D), noise drawn here; and its two terms, in nats."""
    latents = model.module.latents if hasattr(model, "module") else model.latents
    noise = torch.randn(samples, len(x), latents, device=x.device, dtype=x.dtype)
    log_likelihood, kl = model(x, noise)
    terms = {"log_likelihood": log_likelihood.mean(), "kl": kl.sum(dim=1).mean()}
    return -elbo(log_likelihood, kl, beta).mean(), terms


def observe(images: Tensor, levels: int = 0) -> Tensor:
    """Data for a likelihood out of grey values in [0, 1], drawn anew at each call.

    Args:
        images: any shape. With ``levels`` 0 each value is the probability of a 1. Otherwise the
            image has so many grey values, from 0 to 1 in equal steps, and each becomes a number
            drawn evenly from its own share 1 / levels of [0, 1] (theory.md, section 14).
    """
    if levels == 0:
        return torch.bernoulli(images)
    return ((images * (levels - 1)).round() + torch.rand_like(images)) / levels


def initialise(model: nn.Module, std: float = 0.1) -> None:
    """All parameters, biases too, from a normal distribution of variance 0.01 (section 5)."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, std)


def adagrad(model: VAE, lr: float, examples: int) -> torch.optim.Adagrad:
    """The paper's update rule; a standard normal prior over the decoder's parameters (MAP).

    The loss is the mean over examples, so the prior's gradient, the parameter, counts 1 / N.
    """
    prior = {"params": model.decoder.parameters(), "weight_decay": 1 / examples}
    return torch.optim.Adagrad([{"params": model.encoder.parameters()}, prior], lr)
