"""Exercise: batch normalisation of a (B, D) array in training mode, forward and backward."""

import numpy as np


def batch_norm_forward(x, weight, bias, eps=1e-5):
    """Normalise each column over the batch, then scale and shift.

        mu = mean of x over the batch          (D,)
        var = mean of (x - mu)^2               (D,)   divided by B, not by B - 1
        xhat = (x - mu) / sqrt(var + eps)      (B, D)
        y = weight * xhat + bias               (B, D)

    Args:
        x: (B, D). weight, bias: (D,).

    Returns:
        y: (B, D), and a cache (whatever ``batch_norm_backward`` needs).
    """
    # TODO: the four lines above, and the cache
    raise NotImplementedError("the four lines above, and the cache")


def batch_norm_backward(dy, cache):
    """Gradients (dx, dweight, dbias) of :func:`batch_norm_forward`.

    dx has three parts: x reaches y directly, through mu, and through var.
    """
    # TODO: dweight and dbias first, then dxhat, then dx
    raise NotImplementedError("dweight and dbias first, then dxhat, then dx")
