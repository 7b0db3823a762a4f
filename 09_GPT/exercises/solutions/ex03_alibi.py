"""Solution: ALiBi, positions as a slope in the scores, for texts longer than any in training.

O. Press, N. A. Smith, M. Lewis, "Train Short, Test Long: Attention with Linear Biases Enables Input
Length Extrapolation", 2021, arXiv:2108.12409, section 3. Sizes: q, k, v (B, nH, T, Dh).
"""

import math

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from attention_numpy import causal_mask, masked_softmax_backward, masked_softmax_forward


def slopes(n_heads):
    """One slope for each head, (nH,), for nH a power of 2: 2^(-8/nH), 2^(-16/nH), ..., 2^-8."""
    # --- your code: a power of 2 for each head, the first head being number 1
    return 2.0 ** (-8 * np.arange(1, n_heads + 1) / n_heads)
    # --- end


def distance_bias(T, n_heads):
    """What the scores get, (nH, T, T): 0 for the token itself, -slope for the one before."""
    # --- your code: minus the slope, times how far the key is before the query
    places = np.arange(T)
    return -slopes(n_heads)[:, None, None] * (places[:, None] - places)
    # --- end


def alibi_attention_forward(q, k, v):
    """Causal attention with the distance in the scores: y (B, nH, T, Dh), and the cache."""
    nH, T, Dh = q.shape[1:]
    # --- your code: the scores (B, nH, T, T); the bias is not divided by √Dh
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(Dh) + distance_bias(T, nH)
    # --- end
    weights, softmax = masked_softmax_forward(scores, causal_mask(T))
    return weights @ v, (q, k, v, weights, softmax)


def alibi_attention_backward(dy, cache):
    """Gradients dq, dk, dv of alibi_attention_forward."""
    q, k, v, weights, softmax = cache
    # --- your code: what of eqs. 7.32 to 7.36 changes by the bias?
    dv = weights.swapaxes(-1, -2) @ dy
    dscores = masked_softmax_backward(dy @ v.swapaxes(-1, -2), softmax)
    dq = dscores @ k / math.sqrt(q.shape[-1])
    dk = dscores.swapaxes(-1, -2) @ q / math.sqrt(q.shape[-1])
    # --- end
    return dq, dk, dv
