"""Exercise: ALiBi, positions as a slope in the scores, for texts longer than any in training.

O. Press, N. A. Smith, M. Lewis, "Train Short, Test Long: Attention with Linear Biases Enables Input
Length Extrapolation", 2021, arXiv:2108.12409, section 3. Sizes: q, k, v (B, nH, T, Dh).
"""

import math

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from attention_numpy import causal_mask, masked_softmax_backward, masked_softmax_forward


def slopes(n_heads):
    """One slope for each head, (nH,), for nH a power of 2: 2^(-8/nH), 2^(-16/nH), ..., 2^-8."""
    # TODO: a power of 2 for each head, the first head being number 1
    raise NotImplementedError("a power of 2 for each head, the first head being number 1")


def distance_bias(T, n_heads):
    """What the scores get, (nH, T, T): 0 for the token itself, -slope for the one before."""
    # TODO: minus the slope, times how far the key is before the query
    raise NotImplementedError("minus the slope, times how far the key is before the query")


def alibi_attention_forward(q, k, v):
    """Causal attention with the distance in the scores: y (B, nH, T, Dh), and the cache."""
    nH, T, Dh = q.shape[1:]
    # TODO: the scores (B, nH, T, T); the bias is not divided by √Dh
    raise NotImplementedError("the scores (B, nH, T, T); the bias is not divided by √Dh")
    weights, softmax = masked_softmax_forward(scores, causal_mask(T))
    return weights @ v, (q, k, v, weights, softmax)


def alibi_attention_backward(dy, cache):
    """Gradients dq, dk, dv of alibi_attention_forward."""
    q, k, v, weights, softmax = cache
    # TODO: what of eqs. 7.32 to 7.36 changes by the bias?
    raise NotImplementedError("what of eqs. 7.32 to 7.36 changes by the bias?")
    return dq, dk, dv
