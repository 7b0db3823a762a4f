"""Solution: rotary position embeddings, which turn queries and keys instead of adding a table.

J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
arXiv:2104.09864, section 3.2.2. Sizes: x (..., T, Dh), Dh even; angles (T, Dh/2).
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from attention_numpy import attention_backward, attention_forward


def rotation_angles(positions, Dh):
    """By how much each pair of features is turned: position * 10000^(-2i/Dh), (T, Dh/2)."""
    # --- your code: the frequency of each pair i = 0 ... Dh/2 - 1, times each position
    frequencies = 10000.0 ** (-2 * np.arange(Dh // 2) / Dh)
    return np.asarray(positions)[:, None] * frequencies
    # --- end


def rotate_forward(x, angles):
    """Turn each pair of neighbouring features (2i, 2i+1) of x (..., T, Dh) by its angle.

    Returns:
        y (..., T, Dh) and the cache.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = np.cos(angles), np.sin(angles)
    y = np.empty_like(x)
    # --- your code: the two coordinates of each pair after a turn to the left (counter-clockwise)
    y[..., 0::2] = cos * even - sin * odd
    y[..., 1::2] = sin * even + cos * odd
    # --- end
    return y, (angles,)


def rotate_backward(dy, cache):
    """Gradient dx (..., T, Dh) of rotate_forward."""
    (angles,) = cache
    # --- your code: the transpose of a rotation is a rotation too (one line)
    dx, _ = rotate_forward(dy, -angles)
    # --- end
    return dx


def rotary_attention_forward(q, k, v, positions, mask=None):
    """Attention (..., T, Dh) of a sequence to itself, with positions in queries and keys."""
    angles = rotation_angles(positions, q.shape[-1])
    # --- your code: turn what has to know its place, then attend
    q, q_cache = rotate_forward(q, angles)
    k, k_cache = rotate_forward(k, angles)
    y, attention = attention_forward(q, k, v, mask)
    # --- end
    return y, (q_cache, k_cache, attention)


def rotary_attention_backward(dy, cache):
    """Gradients dq, dk, dv of rotary_attention_forward."""
    q_cache, k_cache, attention = cache
    # --- your code: back through the attention, then through the rotations
    dq, dk, dv = attention_backward(dy, attention)
    dq, dk = rotate_backward(dq, q_cache), rotate_backward(dk, k_cache)
    # --- end
    return dq, dk, dv
