"""Variational autoencoder in NumPy (level 1): the lower bound, and its gradient through the sample.

Paper: D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114:
Algorithm 1, section 3 (the model), appendix B (the KL divergence), appendix C (the networks).

Map of this file:
    VAEConfig                       sizes, and the kind of decoder
    gaussian_kl                     KL(q || p) of each latent, in closed form
    reparameterise                  z = mean + deviation * noise
    bernoulli_log_likelihood        log p(x|z) for data of 0 and 1
    gaussian_log_likelihood         log p(x|z) for real data
    tanh_layers                     the hidden layers of encoder and decoder
    VAE                             the model: the bound of each example, and its gradient

Each primitive is a pair: ``y, cache = f_forward(x, ...)`` and ``dx = f_backward(dy, cache)``.

Shapes: B batch, D pixels, M hidden units, Z latents, K samples of z for each example (the paper's
L). ``...`` in front of B stands for any number of sample axes.

Read before: 02_MLP/numpy/mlp_numpy.py (linear, tanh, sigmoid); 11_VAE/theory.md sections 1 to 8.

Deviations from the paper: data in [0, 1] throughout, so the Gaussian decoder's means always pass a
sigmoid, as in the paper's experiments. Several hidden layers are possible; the paper has one.
N(0, 0.01), the initial distribution of all parameters, is read as a variance.
"""

import math
from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from logistic_numpy import sigmoid
from mlp_numpy import (
    linear_backward,
    linear_forward,
    sigmoid_backward,
    sigmoid_forward,
    tanh_backward,
    tanh_forward,
)

Params = dict[str, np.ndarray]
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


# --- the latents


def gaussian_kl_forward(mean: np.ndarray, log_var: np.ndarray) -> tuple[np.ndarray, tuple]:
    """KL divergence of N(mean, exp(log_var)) from N(0, 1), number by number (eq. 11.7).

    Args:
        mean, log_var: (B, Z).

    Returns:
        kl: (B, Z), in nats, never negative; and the cache for :func:`gaussian_kl_backward`.
    """
    variance = np.exp(log_var)
    return 0.5 * (mean * mean + variance - log_var - 1), (mean, variance)


def gaussian_kl_backward(dkl: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dmean, dlog_var) of :func:`gaussian_kl_forward`."""
    mean, variance = cache
    dmean = dkl * mean  # eq. 11.24
    dlog_var = dkl * 0.5 * (variance - 1)  # eq. 11.25
    return dmean, dlog_var


def reparameterise_forward(
    mean: np.ndarray, log_var: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, tuple]:
    """Samples of N(mean, exp(log_var)) as a function of mean and variance (eq. 11.8).

    Args:
        mean, log_var: (B, Z). noise: (K, B, Z), standard normal.

    Returns:
        z: (K, B, Z), and the cache for :func:`reparameterise_backward`.
    """
    moved = np.exp(0.5 * log_var) * noise  # (B, Z), (K, B, Z) -> (K, B, Z)
    return mean + moved, (moved,)


def reparameterise_backward(dz: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dmean, dlog_var), (B, Z) each: all K samples came from the same two."""
    (moved,) = cache
    dmean = dz.sum(axis=0)  # eq. 11.22: (K, B, Z) -> (B, Z)
    dlog_var = (dz * 0.5 * moved).sum(axis=0)  # eq. 11.23
    return dmean, dlog_var


# --- the data given the latents


def bernoulli_log_likelihood_forward(logits: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """log p(x|z) of independent pixels that are 1 with probability sigmoid(logits) (eq. 11.10).

    Args:
        logits: (..., B, D). x: (B, D), 0 or 1 (values between are taken as shares).

    Returns:
        (..., B), in nats, and the cache for :func:`bernoulli_log_likelihood_backward`.
    """
    # eq. 11.11: exp only ever sees numbers <= 0
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    return (x * logits - softplus).sum(axis=-1), (logits, x)


def bernoulli_log_likelihood_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`bernoulli_log_likelihood_forward` with respect to the logits."""
    logits, x = cache
    return dy[..., None] * (x - sigmoid(logits))  # eq. 11.19: (..., B) -> (..., B, D)


def gaussian_log_likelihood_forward(
    mean: np.ndarray, log_var: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, tuple]:
    """The logarithm of the density of x under independent Gaussian pixels (eq. 11.13).

    Args:
        mean, log_var: (..., B, D). x: (B, D).

    Returns:
        (..., B), in nats, and the cache for :func:`gaussian_log_likelihood_backward`.
    """
    precision = np.exp(-log_var)
    error = x - mean
    log_p = -0.5 * (math.log(2 * math.pi) + log_var + error * error * precision)
    return log_p.sum(axis=-1), (error, precision)


def gaussian_log_likelihood_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dmean, dlog_var) of :func:`gaussian_log_likelihood_forward`."""
    error, precision = cache
    dmean = dy[..., None] * error * precision  # eq. 11.20
    dlog_var = dy[..., None] * 0.5 * (error * error * precision - 1)  # eq. 11.21
    return dmean, dlog_var


# --- hidden layers


def tanh_layers_forward(
    x: np.ndarray, params: Params, side: str, count: int
) -> tuple[np.ndarray, list]:
    """``count`` linear layers ``<side>.layers.<i>``, a tanh after each: (..., D) -> (..., M)."""
    caches = []
    for i in range(count):
        name = f"{side}.layers.{i}"
        x, linear = linear_forward(x, params[f"{name}.weight"], params[f"{name}.bias"])
        x, tanh = tanh_forward(x)
        caches.append((name, linear, tanh))
    return x, caches


def tanh_layers_backward(dy: np.ndarray, caches: list) -> tuple[np.ndarray, Params]:
    """dx and the gradients of the layers' parameters, by name."""
    grads: Params = {}
    for name, linear, tanh in reversed(caches):
        dy = tanh_backward(dy, tanh)
        dy, grads[f"{name}.weight"], grads[f"{name}.bias"] = linear_backward(dy, linear)
    return dy, grads


# --- the model


class VAE:
    """Encoder, sample, decoder; the value is the lower bound of each example (eq. 11.14).

    Args:
        config: sizes and kind.
        rng: source of the initial parameters, normal with variance 0.01.
        dtype: of the parameters; inputs should have the same.

    Attributes:
        params: ``encoder.layers.<i>``, ``encoder.mean``, ``encoder.log_var``,
            ``decoder.layers.<i>`` and ``decoder.logits`` (or ``decoder.mean`` and
            ``decoder.log_var``), each with ``.weight`` (M, D) and ``.bias`` (M,).
        log_likelihood: log p(x|z) (K, B) of the last forward pass.
        kl: KL divergence of each latent (B, Z) in the last forward pass.
    """

    def __init__(
        self, config: VAEConfig, rng: np.random.Generator, dtype: type = np.float64
    ) -> None:
        self.config = config
        self.params: Params = {}
        for name, (M, D) in config.shapes.items():
            self.params[f"{name}.weight"] = rng.normal(0, 0.1, (M, D)).astype(dtype)
            self.params[f"{name}.bias"] = rng.normal(0, 0.1, M).astype(dtype)
        self._caches: tuple = ()

    def _linear(self, name: str, x: np.ndarray) -> tuple[np.ndarray, tuple]:
        return linear_forward(x, self.params[f"{name}.weight"], self.params[f"{name}.bias"])

    def encode(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Mean and log-variance (B, Z) of q(z|x) for x (B, D) (eq. 11.5), and a cache.

        Raises:
            ValueError: x is not (B, D).
        """
        if x.ndim != 2 or x.shape[1] != self.config.pixels:
            raise ValueError(f"expected inputs (B, {self.config.pixels}), got {x.shape}")
        h, layers = tanh_layers_forward(x, self.params, "encoder", len(self.config.hidden))
        mean, to_mean = self._linear("encoder.mean", h)
        log_var, to_log_var = self._linear("encoder.log_var", h)
        return mean, log_var, (layers, to_mean, to_log_var)

    def decode(self, z: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple]:
        """What the decoder says of z (..., Z), and a cache: (logits,), or (mean, log-variance)."""
        h, layers = tanh_layers_forward(z, self.params, "decoder", len(self.config.hidden))
        if self.config.decoder == "bernoulli":
            logits, to_logits = self._linear("decoder.logits", h)
            return (logits,), (layers, to_logits)
        mean, to_mean = self._linear("decoder.mean", h)
        mean, squash = sigmoid_forward(mean)  # eq. 11.12
        log_var, to_log_var = self._linear("decoder.log_var", h)
        return (mean, log_var), (layers, to_mean, squash, to_log_var)

    def forward(self, x: np.ndarray, noise: np.ndarray, beta: float = 1.0) -> np.ndarray:
        """The bound (B,) for x (B, D), estimated with the samples that ``noise`` (K, B, Z) makes.

        ``beta`` weighs the KL divergence (eq. 11.16); the bound is that of beta = 1.

        Raises:
            ValueError: the input is not (B, D), or the noise does not fit it.
        """
        mean, log_var, encoder = self.encode(x)
        if noise.ndim != 3 or noise.shape[1:] != mean.shape:
            B, Z = mean.shape
            raise ValueError(f"expected noise (K, {B}, {Z}), got {noise.shape}")
        z, sample = reparameterise_forward(mean, log_var, noise)
        decoded, decoder = self.decode(z)
        likelihood = (
            bernoulli_log_likelihood_forward
            if self.config.decoder == "bernoulli"
            else gaussian_log_likelihood_forward
        )
        self.log_likelihood, pixels = likelihood(*decoded, x)  # (K, B)
        self.kl, divergence = gaussian_kl_forward(mean, log_var)  # (B, Z)
        self._caches = (encoder, sample, decoder, pixels, divergence, len(noise), beta)
        return self.log_likelihood.mean(axis=0) - beta * self.kl.sum(axis=1)

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the bound (B,)."""
        if not self._caches:
            raise RuntimeError("expected forward before backward")
        encoder, sample, decoder, pixels, divergence, K, beta = self._caches
        grads: Params = {}
        dlog_likelihood = np.broadcast_to(dy / K, (K, len(dy)))  # eq. 11.17
        dz = self._decoder_backward(dlog_likelihood, pixels, decoder, grads)
        dmean, dlog_var = reparameterise_backward(dz, sample)
        # Mean and variance were used twice, in the sample and in the divergence: eq. 11.18
        dkl = np.broadcast_to(-beta * dy[:, None], dmean.shape)
        dmean_kl, dlog_var_kl = gaussian_kl_backward(dkl, divergence)
        layers, to_mean, to_log_var = encoder
        dh, *grads_mean = linear_backward(dmean + dmean_kl, to_mean)
        dh_too, *grads_log_var = linear_backward(dlog_var + dlog_var_kl, to_log_var)
        _store(grads, "encoder.mean", grads_mean)
        _store(grads, "encoder.log_var", grads_log_var)
        _, grads_layers = tanh_layers_backward(dh + dh_too, layers)  # eq. 11.26
        return grads | grads_layers

    def _decoder_backward(
        self, dy: np.ndarray, pixels: tuple, decoder: tuple, grads: Params
    ) -> np.ndarray:
        """dz (K, B, Z) from the gradient of log p(x|z) (K, B); fills in the decoder's gradients."""
        if self.config.decoder == "bernoulli":
            layers, to_logits = decoder
            dlogits = bernoulli_log_likelihood_backward(dy, pixels)
            dh, *found = linear_backward(dlogits, to_logits)
            _store(grads, "decoder.logits", found)
        else:
            layers, to_mean, squash, to_log_var = decoder
            dmean, dlog_var = gaussian_log_likelihood_backward(dy, pixels)
            dh, *found = linear_backward(sigmoid_backward(dmean, squash), to_mean)
            _store(grads, "decoder.mean", found)
            dh_too, *found = linear_backward(dlog_var, to_log_var)
            _store(grads, "decoder.log_var", found)
            dh = dh + dh_too  # eq. 11.26
        dz, grads_layers = tanh_layers_backward(dh, layers)
        grads |= grads_layers
        return dz

    def mean_image(self, z: np.ndarray) -> np.ndarray:
        """The mean (..., D) of p(x|z) for z (..., Z): probabilities of a 1, or grey values."""
        decoded, _ = self.decode(z)
        return sigmoid(decoded[0]) if self.config.decoder == "bernoulli" else decoded[0]


def _store(grads: Params, name: str, found: list[np.ndarray]) -> None:
    grads[f"{name}.weight"], grads[f"{name}.bias"] = found
