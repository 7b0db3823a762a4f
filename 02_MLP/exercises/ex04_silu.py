"""Exercise: backpropagation of one more activation: SiLU (or swish), x times sigmoid(x)."""

import utils  # noqa: F401  (puts the chapters on the import path)
from logistic_numpy import sigmoid


def silu_forward(x):
    """y = x * sigmoid(x), element by element.

    Returns:
        y, of x's shape, and a cache (whatever ``silu_backward`` needs).
    """
    # TODO: y and the cache
    raise NotImplementedError("y and the cache")


def silu_backward(dy, cache):
    """Gradient dx of :func:`silu_forward`; derive it with the product rule."""
    # TODO: dx from dy and the cache
    raise NotImplementedError("dx from dy and the cache")


def silu_minimum(steps=200, lr=0.5):
    """Where SiLU is lowest, found by gradient descent from x = -0.5 with your own backward.

    Returns:
        x as a plain number.
    """
    # TODO: start at x = -0.5 and follow silu_backward downhill
    raise NotImplementedError("start at x = -0.5 and follow silu_backward downhill")
