"""Exercise: attention in tiles, with a softmax that is computed while the scores come in.

T. Dao, D. Fu, S. Ermon, A. Rudra, C. Ré, "FlashAttention: Fast and Memory-Efficient Exact Attention
with IO-Awareness", 2022, arXiv:2205.14135, Algorithm 1; the softmax is that of M. Milakov,
N. Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867.

Sizes: q (..., T, Dh), k (..., S, Dh), v (..., S, Dv); the leading axes are batch and heads.
"""

import math
import tracemalloc

import numpy as np


def start_state(rows, Dv):
    """Nothing seen yet, for queries of shape ``rows`` = (..., t): m = -inf, ell = 0, o = 0."""
    return np.full(rows, -np.inf), np.zeros(rows), np.zeros((*rows, Dv))


def add_tile(state, scores, v):
    """Take one more tile of keys into account.

    Args:
        state: (m, ell, o): of all scores so far, for each query, the largest m (..., t), the sum
            ell (..., t) of exp(score - m), and the sum o (..., t, Dv) of exp(score - m) * value.
        scores: (..., t, s), of these queries with the tile's keys. -inf means "may not attend"; but
            every query has had a finite score, in this tile or before.
        v: (..., s, Dv), the tile's values.

    Returns:
        the new (m, ell, o).
    """
    m, ell, o = state
    # TODO: the new maximum; what was summed relative to the old one; the tile's own share
    raise NotImplementedError(
        "the new maximum; what was summed relative to the old one; the tile's own share"
    )


def flash_attention(q, k, v, tile=64, causal=False):
    """softmax(q kᵀ / √Dh) v without ever holding more than tile x tile scores for a head.

    Args:
        causal: query i may attend to keys 0 to i only (T = S); tiles of keys that no query of the
            tile may see are left out.

    Returns:
        y (..., T, Dv).
    """
    *heads, T, Dh = q.shape
    S, Dv = v.shape[-2:]
    y = np.empty((*heads, T, Dv))
    for i in range(0, T, tile):
        queries = q[..., i : i + tile, :]
        state = start_state(queries.shape[:-1], Dv)
        # TODO: loop over the tiles of keys, add each to the state; then fill y's rows
        raise NotImplementedError(
            "loop over the tiles of keys, add each to the state; then fill y's rows"
        )
    return y


def peak_bytes(function, *arrays, **options):
    """The most memory that a call has at one time, beyond what was there before."""
    tracemalloc.start()
    try:
        function(*arrays, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
