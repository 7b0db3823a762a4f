"""Solution: backpropagation of one more activation: SiLU (or swish), x times sigmoid(x)."""

import utils  # noqa: F401  (puts the chapters on the import path)
from logistic_numpy import sigmoid


def silu_forward(x):
    """y = x * sigmoid(x), element by element.

    Returns:
        y, of x's shape, and a cache (whatever ``silu_backward`` needs).
    """
    # --- your code: y and the cache
    s = sigmoid(x)
    return x * s, (x, s)
    # --- end


def silu_backward(dy, cache):
    """Gradient dx of :func:`silu_forward`; derive it with the product rule."""
    # --- your code: dx from dy and the cache
    x, s = cache
    return dy * (s + x * s * (1 - s))
    # --- end


def silu_minimum(steps=200, lr=0.5):
    """Where SiLU is lowest, found by gradient descent from x = -0.5 with your own backward.

    Returns:
        x as a plain number.
    """
    # --- your code: start at x = -0.5 and follow silu_backward downhill
    import numpy as np

    x = np.array([-0.5])
    for _ in range(steps):
        _, cache = silu_forward(x)
        x = x - lr * silu_backward(np.ones_like(x), cache)
    return float(x[0])
    # --- end
