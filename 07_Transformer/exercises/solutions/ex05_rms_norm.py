"""Solution: root mean square normalisation, forward and backward.

B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467. Sizes:
x (..., D), weight (D,).
"""

import numpy as np


def rms_norm_forward(x, weight, eps=1e-5):
    """y = weight * x / r with r = sqrt(mean of x² over the features + eps).

    Returns:
        y (..., D) and the cache (x_hat, weight, r): x_hat = x / r, and r (..., 1).
    """
    # --- your code: r, x_hat and y
    r = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)
    x_hat = x / r
    y = weight * x_hat
    # --- end
    return y, (x_hat, weight, r)


def rms_norm_backward(dy, cache):
    """Gradients dx (..., D) and dweight (D,) of rms_norm_forward."""
    x_hat, weight, r = cache
    # --- your code: dweight, a sum over all vectors; then dx
    dweight = (dy * x_hat).reshape(-1, len(weight)).sum(axis=0)
    dx_hat = dy * weight
    dx = (dx_hat - x_hat * (dx_hat * x_hat).mean(axis=-1, keepdims=True)) / r
    # --- end
    return dx, dweight
