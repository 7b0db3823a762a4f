"""Solution: softmax, forward and backward, for any upstream gradient."""

import numpy as np


def softmax_forward(z):
    """Probabilities over the last axis (eq. 1.25), for numbers of any size.

    Args:
        z: (..., K).

    Returns:
        p: (..., K), and a cache (whatever ``softmax_backward`` needs).
    """
    # --- your code: p and the cache; nothing may overflow for numbers of 1e4
    exponentials = np.exp(z - z.max(axis=-1, keepdims=True))
    p = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return p, (p,)
    # --- end


def softmax_backward(dp, cache):
    """Gradient dz (..., K) of :func:`softmax_forward`, from any gradient dp (..., K) of p."""
    # --- your code: dz; every p depends on every z of its row
    (p,) = cache
    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    # --- end


def loss_gradient_the_long_way(logits, labels):
    """Gradient of the mean of -log p[label] with respect to the logits, through the probabilities.

    logistic_numpy.py goes straight to eq. 1.29. Go the long way, and see that it leads there.

    Args:
        logits: (B, K). labels: (B,) integers.

    Returns:
        dlogits (B, K).
    """
    p, cache = softmax_forward(logits)
    # --- your code: dp, zero but at the labels; then dlogits by softmax_backward
    rows = np.arange(len(labels))
    dp = np.zeros_like(p)
    dp[rows, labels] = -1 / (len(labels) * p[rows, labels])
    return softmax_backward(dp, cache)
    # --- end
