"""Solution: from one image to another, through the latent space.

Run this file: it trains a model on the digits and draws a path from one digit to another.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)


def lerp(a, b, t):
    """The straight line from a to b: (1 - t) a + t b.

    Args:
        a, b: (Z,). t: (T,), from 0 to 1.

    Returns:
        (T, Z).
    """
    # --- your code: one line
    return (1 - t)[:, None] * a + t[:, None] * b
    # --- end


def slerp(a, b, t):
    """The arc from a to b: the angle changes evenly, and between vectors of one length so it stays.

        sin((1 - t) w) / sin(w) * a + sin(t w) / sin(w) * b

    w is the angle between a and b. Where it is below 1e-6, take :func:`lerp`.

    Returns:
        (T, Z).
    """
    # --- your code: the angle first; rounding may carry its cosine beyond 1
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    w = np.arccos(np.clip(cosine, -1, 1))
    if w < 1e-6:
        return lerp(a, b, t)
    first, second = np.sin((1 - t) * w) / np.sin(w), np.sin(t * w) / np.sin(w)
    return first[:, None] * a + second[:, None] * b
    # --- end


def expected_square(t, Z):
    """The mean of |lerp(a, b, t)|^2 over a and b drawn independently from the prior N(0, I_Z).

    Args:
        t: (T,).

    Returns:
        (T,). Compare it with the mean of |a|^2, which is Z.
    """
    # --- your code: expand the square; what is the mean of a . b?
    return ((1 - t) ** 2 + t**2) * Z
    # --- end


def path(model, x_from, x_to, steps):
    """Mean images along the straight line between the encoder's means of two images.

    Args:
        model: VAE of level 1. x_from, x_to: (D,). steps: number of images, ends included.

    Returns:
        (steps, D).
    """
    # --- your code: encode both, walk, decode with model.mean_image
    mean, _, _ = model.encode(np.stack([x_from, x_to]))
    return model.mean_image(lerp(mean[0], mean[1], np.linspace(0, 1, steps)))
    # --- end


if __name__ == "__main__":
    from adagrad_numpy import Adagrad
    from estimates_numpy import observe
    from utils.data_loaders import load_arrays
    from utils.visualization import plot_mosaic
    from vae_numpy import VAE, VAEConfig

    data, rng = load_arrays("digits"), np.random.default_rng(0)
    images = data.x_train.reshape(-1, 64).astype(np.float64)
    model = VAE(VAEConfig(64, (128,), 10), rng)
    optimizer = Adagrad(model.params, 0.1)
    for _ in range(3000):
        batch = observe(images[rng.integers(len(images), size=100)], 0, rng)
        model.forward(batch, rng.standard_normal((1, 100, 10)))
        optimizer.step(model.backward(np.full(100, -0.01)))
    x = observe(data.x_test.reshape(-1, 64) * 1.0, 0, rng)
    rows = [path(model, x[i], x[i + 1], 10) for i in range(0, 12, 2)]
    straight = [(1 - t) * x[0] + t * x[1] for t in np.linspace(0, 1, 10)]
    pictures = np.concatenate([*rows, straight]).reshape(-1, 8, 8)
    plot_mosaic(pictures, columns=10, path="runs/11_VAE-exercises/paths.png")
    print("runs/11_VAE-exercises/paths.png: six paths, and below them one through pixel space")
