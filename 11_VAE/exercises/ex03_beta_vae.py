"""Exercise: change a working model: a factor beta, and free bits against posterior collapse.

``BetaVAE`` works as the VAE of level 1 does, but for its objective, which you write with its
gradient. Run the file: it trains the model with several betas and prints what each gives.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from mlp_numpy import linear_backward
from vae_numpy import (
    VAE,
    bernoulli_log_likelihood_forward,
    gaussian_kl_backward,
    gaussian_kl_forward,
    reparameterise_backward,
    reparameterise_forward,
    tanh_layers_backward,
)


def objective_forward(log_likelihood, kl, beta, free):
    """What is to be made large, one number.

        mean of log_likelihood - beta * sum over latents of max(free, mean of that latent's kl)

    The means are over the batch (and the samples). With free = 0 and beta = 1 it is the mean lower
    bound. A latent whose mean divergence is below ``free`` nats pays ``free`` all the same, so it
    has no reason to collapse further (free bits; Kingma et al. 2016, arXiv:1606.04934).

    Args:
        log_likelihood: (K, B). kl: (B, Z). beta, free: numbers of at least 0.

    Returns:
        the number, and a cache.
    """
    # TODO: the mean over the batch comes before the max
    raise NotImplementedError("the mean over the batch comes before the max")


def objective_backward(cache):
    """Gradients (dlog_likelihood (K, B), dkl (B, Z)) of :func:`objective_forward`."""
    # TODO: a latent that pays the flat price feels no pull
    raise NotImplementedError("a latent that pays the flat price feels no pull")


class BetaVAE(VAE):
    """The VAE of level 1 (Bernoulli pixels) with the objective above in place of the bound."""

    def forward(self, x, noise, beta=1.0, free=0.0):
        """The objective, one number, for x (B, D) and noise (K, B, Z)."""
        mean, log_var, encoder = self.encode(x)
        z, sample = reparameterise_forward(mean, log_var, noise)
        (logits,), decoder = self.decode(z)
        self.log_likelihood, pixels = bernoulli_log_likelihood_forward(logits, x)
        self.kl, divergence = gaussian_kl_forward(mean, log_var)
        value, objective = objective_forward(self.log_likelihood, self.kl, beta, free)
        self._caches = encoder, sample, decoder, pixels, divergence, objective
        return value

    def backward(self):
        """Gradients of all parameters from that of the objective, which is 1."""
        encoder, sample, decoder, pixels, divergence, objective = self._caches
        grads = {}
        dlog_likelihood, dkl = objective_backward(objective)
        dz = self._decoder_backward(dlog_likelihood, pixels, decoder, grads)
        # TODO: dmean and dlog_var; two paths lead to each
        raise NotImplementedError("dmean and dlog_var; two paths lead to each")
        layers, to_mean, to_log_var = encoder
        dh, *mean_grads = linear_backward(dmean, to_mean)
        dh_too, *log_var_grads = linear_backward(dlog_var, to_log_var)
        grads["encoder.mean.weight"], grads["encoder.mean.bias"] = mean_grads
        grads["encoder.log_var.weight"], grads["encoder.log_var.bias"] = log_var_grads
        return grads | tanh_layers_backward(dh + dh_too, layers)[1]


if __name__ == "__main__":
    from adagrad_numpy import Adagrad
    from estimates_numpy import observe
    from utils.data_loaders import load_arrays
    from vae_numpy import VAEConfig

    images = load_arrays("digits").x_train.reshape(-1, 64).astype(np.float64)
    print(" beta  free   -log p(x|z)     KL   latents with more than 0.1 nats")
    for beta, free in ((0.25, 0), (1, 0), (4, 0), (1, 0.5)):
        rng = np.random.default_rng(0)
        model = BetaVAE(VAEConfig(64, (128,), 10), rng)
        optimizer = Adagrad(model.params, 0.1)
        for _ in range(1500):
            x = observe(images[rng.integers(len(images), size=100)], 0, rng)
            model.forward(x, rng.standard_normal((1, 100, 10)), beta, free)
            optimizer.step({name: -g for name, g in model.backward().items()})
        x = observe(images, 0, rng)
        model.forward(x, rng.standard_normal((1, len(x), 10)))
        kl = model.kl.mean(axis=0)
        error, used = -model.log_likelihood.mean(), (kl > 0.1).sum()
        print(f"{beta:5} {free:5} {error:13.2f} {kl.sum():6.2f} {used:8}")
