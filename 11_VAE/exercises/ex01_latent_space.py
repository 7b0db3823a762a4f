"""Exercise: what a latent space looks like: its moments, a walk through it, and who are neighbours.

Run this file: it trains a model with two latents on the digits, prints the moments and the share of
neighbours that agree, and draws the manifold.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)


def aggregate_moments(mean, log_var):
    """Mean and covariance of the latents of all examples together.

    The distribution is the mixture of the N normal distributions N(mean[n], exp(log_var[n])): pick
    an example at random, then draw its z.

    Args:
        mean, log_var: (N, Z), what the encoder says of each example.

    Returns:
        mean (Z,) and covariance (Z, Z) of the mixture.
    """
    # TODO: the spread has two parts, that within the examples and that between them
    raise NotImplementedError(
        "the spread has two parts, that within the examples and that between them"
    )


def manifold_latents(n):
    """Latents for a picture of n x n cells that shows the prior with its weights (eq. 11.46).

    Returns:
        z: (n, n, 2). Row i has the second latent, from high (top) to low; column j the first, from
        low to high. The cells' middles, in probability: 1/(2n), 3/(2n), ...
    """
    # TODO: statistics.NormalDist().inv_cdf takes one number between 0 and 1
    raise NotImplementedError("statistics.NormalDist().inv_cdf takes one number between 0 and 1")


def neighbour_agreement(z, labels):
    """Share of the examples whose nearest neighbour in latent space has the same label.

    Args:
        z: (N, Z) places. labels: (N,) integers; the model never saw them.
    """
    # TODO: distances between all pairs; nobody is his own neighbour
    raise NotImplementedError("distances between all pairs; nobody is his own neighbour")


if __name__ == "__main__":
    from adagrad_numpy import Adagrad
    from estimates_numpy import observe
    from utils.data_loaders import load_arrays
    from utils.visualization import plot_mosaic
    from vae_numpy import VAE, VAEConfig

    data, rng = load_arrays("digits"), np.random.default_rng(0)
    images = data.x_train.reshape(-1, 64).astype(np.float64)
    model = VAE(VAEConfig(64, (128,), 2), rng)
    optimizer = Adagrad(model.params, 0.1)
    for _ in range(3000):
        batch = observe(images[rng.integers(len(images), size=100)], 0, rng)
        model.forward(batch, rng.standard_normal((1, 100, 2)))
        optimizer.step(model.backward(np.full(100, -0.01)))
    mean, log_var, _ = model.encode(observe(data.x_test.reshape(-1, 64) * 1.0, 0, rng))
    centre, covariance = aggregate_moments(mean, log_var)
    print("the prior has mean 0 and covariance I; all test images together have\n", centre)
    print(covariance.round(2))
    print(f"nearest neighbours of one class: {neighbour_agreement(mean, data.y_test):.2f}")
    pictures = model.mean_image(manifold_latents(20)).reshape(-1, 8, 8)
    plot_mosaic(pictures, columns=20, path="runs/11_VAE-exercises/manifold.png")
    print("runs/11_VAE-exercises/manifold.png is drawn")
