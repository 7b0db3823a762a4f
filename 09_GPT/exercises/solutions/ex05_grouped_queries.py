"""Solution: grouped-query attention, in which several heads share their keys and values.

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
    # --- your code: the heads of one group stand side by side
    return np.repeat(x, times, axis=1), (times,)
    # --- end


def repeat_heads_backward(dy, cache):
    """Gradient dx (B, G, T, Dh) of repeat_heads_forward."""
    (times,) = cache
    B, nH, T, Dh = dy.shape
    # --- your code: one array was used by several heads, so its gradient is ...
    return dy.reshape(B, nH // times, times, T, Dh).sum(axis=2)
    # --- end


def grouped_attention_forward(q, k, v):
    """Causal attention of nH heads of queries to G heads of keys and values: y, and the cache."""
    times = q.shape[1] // k.shape[1]
    # --- your code: repeat what is shared, then attend causally
    k, k_cache = repeat_heads_forward(k, times)
    v, v_cache = repeat_heads_forward(v, times)
    y, attention = attention_forward(q, k, v, causal_mask(q.shape[2]))
    # --- end
    return y, (k_cache, v_cache, attention)


def grouped_attention_backward(dy, cache):
    """Gradients dq (B, nH, T, Dh), dk and dv (B, G, T, Dh)."""
    k_cache, v_cache, attention = cache
    # --- your code: the way back of each step, in reverse order
    dq, dk, dv = attention_backward(dy, attention)
    dk, dv = repeat_heads_backward(dk, k_cache), repeat_heads_backward(dv, v_cache)
    # --- end
    return dq, dk, dv


def cache_numbers(layers, groups, Dh, T):
    """How many numbers a key-value cache of one text of T tokens holds."""
    # --- your code: compare eq. 9.33
    return 2 * layers * T * groups * Dh
    # --- end
