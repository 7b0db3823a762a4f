"""How good is the bound, and which latents are used? Estimates in NumPy (level 1).

Papers:
- Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", 2015, arXiv:1509.00519,
  section 3: the importance-weighted bound; section 5.1: active units.
- D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114.

Map of this file:
    log_mean_exp                    logarithm of a mean of large or tiny numbers
    log_weights                     log p(x, z) / q(z|x) at samples of q
    importance_weighted             a bound that rises with the number of samples
    active_latents                  how many latents say something of x
    observe                         binary or continuous data out of grey values

Shapes: B batch, D pixels, Z latents, K samples of z for each example.

Read before: 11_VAE/numpy/vae_numpy.py; theory.md sections 10, 11 and 14.

Deviations from the paper: Burda et al. call a latent active by the variance of its mean over the
data; here the mean KL divergence decides, which is what the bound pays for it.
"""

import math

import numpy as np

from vae_numpy import (
    VAE,
    bernoulli_log_likelihood_forward,
    gaussian_log_likelihood_forward,
    reparameterise_forward,
)


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    """log of the mean of exp(values) over the first axis, (K, ...) -> (...) (eq. 11.37)."""
    largest = values.max(axis=0)
    return largest + np.log(np.exp(values - largest).mean(axis=0))


def log_weights(model: VAE, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """log p(x, z) - log q(z|x) (K, B) at the samples that ``noise`` (K, B, Z) makes (eq. 11.36)."""
    mean, log_var, _ = model.encode(x)
    z, _ = reparameterise_forward(mean, log_var, noise)
    decoded, _ = model.decode(z)
    if model.config.decoder == "bernoulli":
        log_p, _ = bernoulli_log_likelihood_forward(*decoded, x)
    else:
        log_p, _ = gaussian_log_likelihood_forward(*decoded, x)
    return log_p + 0.5 * (noise * noise + log_var - z * z).sum(axis=-1)


def importance_weighted(
    model: VAE, x: np.ndarray, samples: int, rng: np.random.Generator, chunk: int = 100
) -> np.ndarray:
    """The bound of K samples (B,) for x (B, D) (eq. 11.34); ``chunk`` of them in memory at once.

    Raises:
        ValueError: fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f"expected at least one sample, got {samples}")
    total = np.full(len(x), -np.inf)
    for start in range(0, samples, chunk):
        shape = (min(chunk, samples - start), len(x), model.config.latents)
        noise = rng.standard_normal(shape).astype(x.dtype)
        part = log_mean_exp(log_weights(model, x, noise)) + math.log(shape[0])
        total = np.logaddexp(total, part)
    return total - math.log(samples)


def active_latents(kl: np.ndarray, threshold: float = 0.01) -> int:
    """How many latents have a mean KL divergence above ``threshold`` nats; kl is (B, Z)."""
    return int((kl.mean(axis=0) > threshold).sum())


def observe(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    """Data for a likelihood out of grey values in [0, 1], drawn anew at each call.

    Args:
        images: any shape. With ``levels`` 0 each value is the probability of a 1. Otherwise the
            image has so many grey values, from 0 to 1 in equal steps, and each becomes a number
            drawn evenly from its own share 1 / levels of [0, 1] (eq. 11.45).
    """
    drawn = rng.random(images.shape)
    if levels == 0:
        return (drawn < images).astype(images.dtype)
    return ((np.rint(images * (levels - 1)) + drawn) / levels).astype(images.dtype)
