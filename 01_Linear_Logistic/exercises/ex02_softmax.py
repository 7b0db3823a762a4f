"""Exercise: softmax, forward and backward, for any upstream gradient."""

import numpy as np


def softmax_forward(z):
    """Probabilities over the last axis (eq. 1.25), for numbers of any size.

    Args:
        z: (..., K).

    Returns:
        p: (..., K), and a cache (whatever ``softmax_backward`` needs).
    """
    # TODO: p and the cache; nothing may overflow for numbers of 1e4
    raise NotImplementedError("p and the cache; nothing may overflow for numbers of 1e4")


def softmax_backward(dp, cache):
    """Gradient dz (..., K) of :func:`softmax_forward`, from any gradient dp (..., K) of p."""
    # TODO: dz; every p depends on every z of its row
    raise NotImplementedError("dz; every p depends on every z of its row")


def loss_gradient_the_long_way(logits, labels):
    """Gradient of the mean of -log p[label] with respect to the logits, through the probabilities.

    logistic_numpy.py goes straight to eq. 1.29. Go the long way, and see that it leads there.

    Args:
        logits: (B, K). labels: (B,) integers.

    Returns:
        dlogits (B, K).
    """
    p, cache = softmax_forward(logits)
    # TODO: dp, zero but at the labels; then dlogits by softmax_backward
    raise NotImplementedError("dp, zero but at the labels; then dlogits by softmax_backward")
