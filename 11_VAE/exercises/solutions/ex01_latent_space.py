"""Solution: what a latent space looks like: its moments, a walk through it, and who are neighbours.

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
    # --- your code: the spread has two parts, that within the examples and that between them
    centre = mean.mean(axis=0)
    between = (mean - centre).T @ (mean - centre) / len(mean)
    within = np.diag(np.exp(log_var).mean(axis=0))
    return centre, between + within
    # --- end


def manifold_latents(n):
    """Latents for a picture of n x n cells that shows the prior with its weights (eq. 11.46).

    Returns:
        z: (n, n, 2). Row i has the second latent, from high (top) to low; column j the first, from
        low to high. The cells' middles, in probability: 1/(2n), 3/(2n), ...
    """
    # --- your code: statistics.NormalDist().inv_cdf takes one number between 0 and 1
    from statistics import NormalDist

    line = np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])
    z = np.empty((n, n, 2))
    z[..., 0] = line[None, :]
    z[..., 1] = line[::-1, None]
    return z
    # --- end


def neighbour_agreement(z, labels):
    """Share of the examples whose nearest neighbour in latent space has the same label.

    Args:
        z: (N, Z) places. labels: (N,) integers; the model never saw them.
    """
    # --- your code: distances between all pairs; nobody is his own neighbour
    squares = (z**2).sum(axis=1)
    distance = squares[:, None] + squares[None, :] - 2 * z @ z.T
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(axis=1)] == labels).mean())
    # --- end


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
