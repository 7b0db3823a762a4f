"""Exercise: root mean square normalisation, forward and backward.

B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467. Sizes:
x (..., D), weight (D,).
"""

import numpy as np


def rms_norm_forward(x, weight, eps=1e-5):
    """y = weight * x / r with r = sqrt(mean of x² over the features + eps).

    Returns:
        y (..., D) and the cache (x_hat, weight, r): x_hat = x / r, and r (..., 1).
    """
    # TODO: r, x_hat and y
    raise NotImplementedError("r, x_hat and y")
    return y, (x_hat, weight, r)


def rms_norm_backward(dy, cache):
    """Gradients dx (..., D) and dweight (D,) of rms_norm_forward."""
    x_hat, weight, r = cache
    # TODO: dweight, a sum over all vectors; then dx
    raise NotImplementedError("dweight, a sum over all vectors; then dx")
    return dx, dweight
