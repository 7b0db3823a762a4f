"""Exercise: give a working network dropout.

``TwoLayer`` works and is trained by its own gradients; it only lacks dropout on its hidden units.
Write the pair of functions, then use them in the model (two places: forward and backward).
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from mlp_numpy import he_normal, linear_backward, linear_forward, relu_backward, relu_forward


def dropout_forward(x, rate, rng, train):
    """Drop each element of x with probability ``rate``, scale the others up (eq. 2.9).

    Draw the mask with ``rng.random(x.shape) >= rate``: True is kept.

    Returns:
        y, of x's shape, and a cache (whatever ``dropout_backward`` needs).
    """
    # TODO: zero and scale when training; return x itself when not (or when rate is 0)
    raise NotImplementedError(
        "zero and scale when training; return x itself when not (or when rate is 0)"
    )


def dropout_backward(dy, cache):
    """Gradient dx of :func:`dropout_forward` (eq. 2.23)."""
    # TODO: let the gradient through where the element was kept
    raise NotImplementedError("let the gradient through where the element was kept")


class TwoLayer:
    """linear -> ReLU -> linear, with dropout of rate ``rate`` after the ReLU."""

    def __init__(self, D, M, K, rate, rng):
        self.rate = rate
        self.params = {
            "layers.0.weight": he_normal((M, D), rng),
            "layers.0.bias": np.zeros(M),
            "layers.1.weight": he_normal((K, M), rng),
            "layers.1.bias": np.zeros(K),
        }

    def forward(self, x, train=False, rng=None):
        """Logits (B, K) of x (B, D)."""
        p = self.params
        x, first = linear_forward(x, p["layers.0.weight"], p["layers.0.bias"])  # (B, D) -> (B, M)
        x, relu = relu_forward(x)
        # TODO: drop hidden units here (x, dropout = ...); the last line keeps the caches
        raise NotImplementedError(
            "drop hidden units here (x, dropout = ...); the last line keeps the caches"
        )
        x, second = linear_forward(x, p["layers.1.weight"], p["layers.1.bias"])  # (B, M) -> (B, K)
        self._caches = first, relu, dropout, second
        return x

    def backward(self, dy):
        """Gradients of all params from dy (B, K)."""
        first, relu, dropout, second = self._caches
        grads = {}
        dx, grads["layers.1.weight"], grads["layers.1.bias"] = linear_backward(dy, second)
        # TODO: go back through the dropout (dx = ...)
        raise NotImplementedError("go back through the dropout (dx = ...)")
        dx = relu_backward(dx, relu)
        _, grads["layers.0.weight"], grads["layers.0.bias"] = linear_backward(dx, first)
        return grads
