"""Solution: batch normalisation of a (B, D) array in training mode, forward and backward."""

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
    # --- your code: the four lines above, and the cache
    mu = x.mean(axis=0)
    std = np.sqrt(((x - mu) ** 2).mean(axis=0) + eps)
    xhat = (x - mu) / std
    return weight * xhat + bias, (xhat, std, weight)
    # --- end


def batch_norm_backward(dy, cache):
    """Gradients (dx, dweight, dbias) of :func:`batch_norm_forward`.

    dx has three parts: x reaches y directly, through mu, and through var.
    """
    # --- your code: dweight and dbias first, then dxhat, then dx
    xhat, std, weight = cache
    dweight = (dy * xhat).sum(axis=0)
    dbias = dy.sum(axis=0)
    dxhat = dy * weight
    dx = (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0)) / std
    return dx, dweight, dbias
    # --- end
