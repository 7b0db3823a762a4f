"""Exercise: grouped-query attention, in which several heads share their keys and values.

J. Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
Checkpoints", 2023, arXiv:2305.13245. Sizes: q (B, nH, T, Dh); k, v (B, G, T, Dh), G groups of
nH / G neighbouring heads.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from attention_numpy import attention_backward, attention_forward, causal_mask


def repeat_heads_forward(x, times):
    """(B, G, T, Dh) -> (B, G * times, T, Dh): group 0 for the first heads, then group 1, ...

    Returns:
        y, and the cache.
    """
    # TODO: the heads of one group stand side by side
    raise NotImplementedError("the heads of one group stand side by side")


def repeat_heads_backward(dy, cache):
    """Gradient dx (B, G, T, Dh) of repeat_heads_forward."""
    (times,) = cache
    B, nH, T, Dh = dy.shape
    # TODO: one array was used by several heads, so its gradient is ...
    raise NotImplementedError("one array was used by several heads, so its gradient is ...")


def grouped_attention_forward(q, k, v):
    """Causal attention of nH heads of queries to G heads of keys and values: y, and the cache."""
    times = q.shape[1] // k.shape[1]
    # TODO: repeat what is shared, then attend causally
    raise NotImplementedError("repeat what is shared, then attend causally")
    return y, (k_cache, v_cache, attention)


def grouped_attention_backward(dy, cache):
    """Gradients dq (B, nH, T, Dh), dk and dv (B, G, T, Dh)."""
    k_cache, v_cache, attention = cache
    # TODO: the way back of each step, in reverse order
    raise NotImplementedError("the way back of each step, in reverse order")
    return dq, dk, dv


def cache_numbers(layers, groups, Dh, T):
    """How many numbers a key-value cache of one text of T tokens holds."""
    # TODO: compare eq. 9.33
    raise NotImplementedError("compare eq. 9.33")
