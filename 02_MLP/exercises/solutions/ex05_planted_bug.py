"""Solution: find the planted bugs in a backward pass with the gradient check, and mend them.

The layer below is a gated layer: one linear map says what, another says how much.

    what = tanh(x @ weight.T + bias)          (B, M)
    gate = sigmoid(x @ gate_weight.T)         (B, M)
    y = gate * what                           (B, M)

``gated_forward`` is right. ``planted_backward`` is not; leave it as it is.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from logistic_numpy import sigmoid
from utils.gradient_check import numerical_gradient, relative_error

NAMES = ("x", "weight", "bias", "gate_weight")


def gated_forward(x, weight, bias, gate_weight):
    """y (B, M) of x (B, D), weight (M, D), bias (M,), gate_weight (M, D); and a cache."""
    what = np.tanh(x @ weight.T + bias)
    gate = sigmoid(x @ gate_weight.T)
    return gate * what, (x, weight, gate_weight, what, gate)


def planted_backward(dy, cache):
    """Gradients (dx, dweight, dbias, dgate_weight), some of them wrong."""
    x, weight, gate_weight, what, gate = cache
    dwhat = dy * gate
    dgate = dy * what
    dz = dwhat * (1 - what**2)
    dg = dgate * gate * (1 - gate)
    dx = dz @ weight
    dweight = dz.T @ x
    dbias = dz.mean(axis=0)
    dgate_weight = dg.T @ x
    return dx, dweight, dbias, dgate_weight


def wrong_gradients(forward, backward, inputs, seed=0):
    """Names of the inputs whose gradient ``backward`` gets wrong (relative error above 1e-7).

    Args:
        forward, backward: a pair such as ``gated_forward`` and ``planted_backward``.
        inputs: dict name -> float64 array, in the order of forward's arguments.

    Returns:
        set of names.
    """
    y, cache = forward(*inputs.values())
    dy = np.random.default_rng(seed).standard_normal(y.shape)
    grads = dict(zip(inputs, backward(dy, cache), strict=True))
    # --- your code: compare each with numerical_gradient of sum(y * dy); relative_error helps
    wrong = set()
    for name, x in inputs.items():
        expected = numerical_gradient(lambda _: float((forward(*inputs.values())[0] * dy).sum()), x)
        if relative_error(grads[name], expected) > 1e-7:
            wrong.add(name)
    return wrong
    # --- end


def mended_backward(dy, cache):
    """Gradients (dx, dweight, dbias, dgate_weight), all of them right."""
    # --- your code: planted_backward without its bugs
    x, weight, gate_weight, what, gate = cache
    dz = dy * gate * (1 - what**2)
    dg = dy * what * gate * (1 - gate)
    dx = dz @ weight + dg @ gate_weight
    return dx, dz.T @ x, dz.sum(axis=0), dg.T @ x
    # --- end
