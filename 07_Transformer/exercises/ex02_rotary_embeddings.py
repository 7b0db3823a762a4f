"""Exercise: rotary position embeddings, which turn queries and keys instead of adding a table.

J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
arXiv:2104.09864, section 3.2.2. Sizes: x (..., T, Dh), Dh even; angles (T, Dh/2).
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from attention_numpy import attention_backward, attention_forward


def rotation_angles(positions, Dh):
    """By how much each pair of features is turned: position * 10000^(-2i/Dh), (T, Dh/2)."""
    # TODO: the frequency of each pair i = 0 ... Dh/2 - 1, times each position
    raise NotImplementedError("the frequency of each pair i = 0 ... Dh/2 - 1, times each position")


def rotate_forward(x, angles):
    """Turn each pair of neighbouring features (2i, 2i+1) of x (..., T, Dh) by its angle.

    Returns:
        y (..., T, Dh) and the cache.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = np.cos(angles), np.sin(angles)
    y = np.empty_like(x)
    # TODO: the two coordinates of each pair after a turn to the left (counter-clockwise)
    raise NotImplementedError(
        "the two coordinates of each pair after a turn to the left (counter-clockwise)"
    )
    return y, (angles,)


def rotate_backward(dy, cache):
    """Gradient dx (..., T, Dh) of rotate_forward."""
    (angles,) = cache
    # TODO: the transpose of a rotation is a rotation too (one line)
    raise NotImplementedError("the transpose of a rotation is a rotation too (one line)")
    return dx


def rotary_attention_forward(q, k, v, positions, mask=None):
    """Attention (..., T, Dh) of a sequence to itself, with positions in queries and keys."""
    angles = rotation_angles(positions, q.shape[-1])
    # TODO: turn what has to know its place, then attend
    raise NotImplementedError("turn what has to know its place, then attend")
    return y, (q_cache, k_cache, attention)


def rotary_attention_backward(dy, cache):
    """Gradients dq, dk, dv of rotary_attention_forward."""
    q_cache, k_cache, attention = cache
    # TODO: back through the attention, then through the rotations
    raise NotImplementedError("back through the attention, then through the rotations")
    return dq, dk, dv
