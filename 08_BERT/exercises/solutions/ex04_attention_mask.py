"""Solution: a mask that is added to the scores, forward and backward.

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
    # --- your code: scores, weights (subtract the largest score of each row first), answer
    scores = q @ k.swapaxes(-1, -2) * scale + bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    y = weights @ v
    # --- end
    return y, (q, k, v, scale, weights, np.shape(bias))


def sum_to_shape(x, shape):
    """Undo a broadcast: sum ``x`` over the axes along which something of ``shape`` was repeated."""
    # --- your code: axes that were put in front, and axes of size 1
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] > 1)
    return x.sum(axis=repeated, keepdims=True)
    # --- end


def biased_attention_backward(dy, cache):
    """Gradients dq, dk, dv, and dbias in the shape that the bias had."""
    q, k, v, scale, weights, shape = cache
    # --- your code: values, weights, scores; then queries, keys and the bias
    dv = weights.swapaxes(-1, -2) @ dy
    dweights = dy @ v.swapaxes(-1, -2)
    dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True))
    dq = dscores @ k * scale
    dk = dscores.swapaxes(-1, -2) @ q * scale
    dbias = sum_to_shape(dscores, shape)
    # --- end
    return dq, dk, dv, dbias
