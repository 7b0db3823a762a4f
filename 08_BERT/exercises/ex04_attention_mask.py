"""Exercise: a mask that is added to the scores, forward and backward.

Libraries write the mask as numbers that are added to the scores: 0 where a query may look, a huge
negative number where not. Numbers can also be learnt: a bias for each distance, or a soft mask.
Then they need a gradient.

Shapes: q (B, nH, T, Dh), k and v (B, nH, S, Dh); bias broadcasts to (B, nH, T, S).
"""

import numpy as np


def biased_attention_forward(q, k, v, bias):
    """softmax(q kᵀ / √Dh + bias) v.

    Returns:
        y (B, nH, T, Dh) and the cache.
    """
    scale = 1 / np.sqrt(q.shape[-1])
    # TODO: scores, weights (subtract the largest score of each row first), answer
    raise NotImplementedError(
        "scores, weights (subtract the largest score of each row first), answer"
    )
    return y, (q, k, v, scale, weights, np.shape(bias))


def sum_to_shape(x, shape):
    """Undo a broadcast: sum ``x`` over the axes along which something of ``shape`` was repeated."""
    # TODO: axes that were put in front, and axes of size 1
    raise NotImplementedError("axes that were put in front, and axes of size 1")


def biased_attention_backward(dy, cache):
    """Gradients dq, dk, dv, and dbias in the shape that the bias had."""
    q, k, v, scale, weights, shape = cache
    # TODO: values, weights, scores; then queries, keys and the bias
    raise NotImplementedError("values, weights, scores; then queries, keys and the bias")
    return dq, dk, dv, dbias
