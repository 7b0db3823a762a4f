"""Exercise: LeNet-5's output units and loss by hand: penalties, equation (9), gradients."""

import numpy as np


def rbf_forward(x, codes):
    """Penalties (B, K): squared distance of each row of x (B, D) to each code (K, D) (eq. 3.28).

    Returns:
        penalties and the cache (x, codes).
    """
    # TODO: y[b, k] = sum over d of (x[b, d] - codes[k, d])**2
    raise NotImplementedError("y[b, k] = sum over d of (x[b, d] - codes[k, d])**2")
    return penalties, (x, codes)


def rbf_backward(dy, cache):
    """Gradient dx (B, D) from dy (B, K) (eq. 3.31, second factor); the fixed codes get none."""
    x, codes = cache
    # TODO: dx
    raise NotImplementedError("dx")


def map_loss_forward(penalties, targets, j=1.0):
    """Mean over the batch of y_target + log(exp(-j) + sum_k exp(-y_k)) (eq. 3.29).

    Penalties and a j of 10,000 must give no infinity and no NaN.

    Args:
        penalties: (B, K). targets: (B,) int. j: the penalty of the rubbish class.

    Returns:
        the loss, a number, and the cache (p, targets) with p (B, K), p_k as in eq. 3.30.
    """
    B = len(targets)
    # TODO: shift the exponents by their largest, as in log-softmax; then loss and p
    raise NotImplementedError(
        "shift the exponents by their largest, as in log-softmax; then loss and p"
    )
    return loss, (p, targets)


def map_loss_backward(cache):
    """Gradient with respect to the penalties (B, K) (eq. 3.30; the loss is a mean over B)."""
    p, targets = cache
    # TODO: the gradient
    raise NotImplementedError("the gradient")
