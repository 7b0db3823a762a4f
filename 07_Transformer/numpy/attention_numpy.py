"""Attention, layer normalisation and positions in NumPy (level 1): forward and backward.

Papers:
- A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, sections 3.2 (attention)
  and 3.5 (positions).
- J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450, section 3.1.

Map of this file:
    padding_mask, causal_mask    who may attend to whom
    sinusoidal_positions         the table that is added to the embeddings
    masked_softmax               the weights of attention
    attention                    scaled dot-product attention, for any number of heads
    split_heads, merge_heads     each the way back of the other
    multi_head_attention         with its four projections
    layer_norm

What a model with another layout needs are the parts: one that makes queries, keys and values by a
single product (GPT, ViT) calls ``linear_forward``, ``split_heads``, ``attention_forward`` and
``merge_heads`` itself.

Shapes: B batch; T queries, S keys (T = S where a sequence attends to itself); D width; nH heads of
width Dh = D / nH. Masks are bool, True = may attend, of any shape that broadcasts to (B, nH, T, S).

Read before: 02_MLP/numpy/mlp_numpy.py (linear, dropout); 07_Transformer/theory.md, sections 1 to 6,
9 and 10.

Deviations from the paper: a query that may attend to nothing gets zeros. Dropout on the attention
weights is there for the models of later chapters; the paper has none.
"""

import math

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from mlp_numpy import dropout_backward, dropout_forward, linear_backward, linear_forward

Params = dict[str, np.ndarray]

LAYOUTS = ("interleaved", "halves")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


# --- masks


def padding_mask(tokens: np.ndarray, pad_id: int) -> np.ndarray:
    """True where a key is no padding (eq. 7.10): (B, S) -> (B, 1, 1, S), for all heads, queries."""
    return (tokens != pad_id)[:, None, None, :]


def causal_mask(T: int, S: int | None = None) -> np.ndarray:
    """True where a key is not later than the query (eq. 7.9): (T, S).

    Args:
        S: number of keys, by default T. The queries are the last T of the S places.
    """
    S = T if S is None else S
    return np.tril(np.ones((T, S), dtype=bool), k=S - T)


# --- positions


def sinusoidal_positions(
    T: int, D: int, layout: str = "interleaved", dtype: np.typing.DTypeLike = np.float64
) -> np.ndarray:
    """Sines and cosines of D/2 wavelengths, 2π to 20000π, at places 0 to T-1 (eq. 7.12): (T, D).

    Args:
        layout: "interleaved", sin and cos of a wavelength side by side, as the paper has them;
            "halves", all sines and then all cosines, as tensor2tensor and Marian have them.

    Raises:
        ValueError: an odd width, or another layout.
    """
    if D % 2 or layout not in LAYOUTS:
        raise ValueError(f"expected an even width and a layout of {LAYOUTS}, got {D}, {layout!r}")
    frequencies = 10000.0 ** (-np.arange(0, D, 2) / D)
    angles = np.arange(T)[:, None] * frequencies  # (T, 1) and (D/2,) -> (T, D/2)
    table = np.empty((T, D), dtype)
    sines, cosines = (
        (slice(0, None, 2), slice(1, None, 2))
        if layout == "interleaved"
        else (slice(None, D // 2), slice(D // 2, None))
    )
    table[:, sines], table[:, cosines] = np.sin(angles), np.cos(angles)
    return table


# --- attention


def masked_softmax_forward(
    scores: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, tuple]:
    """Softmax over the last axis, of the scores that the mask allows (eq. 7.2).

    Args:
        scores: (..., S). mask: bool, broadcasts to it; None allows all.

    Returns:
        weights (..., S): exactly zero where the mask is False; a row without any True is all zeros.
    """
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    # Subtracting the largest score keeps exp finite; -inf, the top of an empty row, would give NaN.
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=-1, keepdims=True)
    weights /= np.where(total == 0, 1, total)
    return weights, (weights,)


def masked_softmax_backward(dweights: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of the scores (..., S); zero where the mask was False, for the weight is."""
    (weights,) = cache
    inner = (dweights * weights).sum(axis=-1, keepdims=True)
    return weights * (dweights - inner)  # eq. 7.32


def attention_forward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    train: bool = False,
) -> tuple[np.ndarray, tuple]:
    """Scaled dot-product attention, softmax(q kᵀ / √Dh) v (eqs. 7.1 to 7.4).

    Args:
        q: (..., T, Dh). k: (..., S, Dh). v: (..., S, Dv); the leading axes are batch and heads.
        mask: bool, broadcasts to (..., T, S); True = may attend.
        dropout: share of the weights dropped in training.

    Returns:
        y: (..., T, Dv), and the cache, from which :func:`attention_weights` reads the weights.

    Raises:
        ValueError: the widths of q and k, or the numbers of keys and values, differ.
    """
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            "expected q (..., T, Dh), k (..., S, Dh), v (..., S, Dv), "
            f"got {q.shape}, {k.shape}, {v.shape}"
        )
    scale = 1 / math.sqrt(q.shape[-1])
    scores = (q @ k.swapaxes(-1, -2)) * scale  # eq. 7.1: (..., T, S)
    weights, softmax = masked_softmax_forward(scores, mask)  # eq. 7.2
    kept, dropped = dropout_forward(weights, dropout, rng, train)
    y = kept @ v  # eq. 7.3: (..., T, S) and (..., S, Dv) -> (..., T, Dv)
    return y, (q, k, v, scale, kept, dropped, softmax)


def attention_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of :func:`attention_forward`: dq, dk, dv."""
    q, k, v, scale, kept, dropped, softmax = cache
    dv = kept.swapaxes(-1, -2) @ dy  # eq. 7.33
    dweights = dropout_backward(dy @ v.swapaxes(-1, -2), dropped)  # eqs. 7.34 and 2.23
    dscores = masked_softmax_backward(dweights, softmax)  # eq. 7.32
    dq = (dscores @ k) * scale  # eq. 7.35
    dk = (dscores.swapaxes(-1, -2) @ q) * scale  # eq. 7.36
    return dq, dk, dv


def attention_weights(cache: tuple) -> np.ndarray:
    """Weights (..., T, S) of :func:`attention_forward`, before dropout, out of its cache."""
    (weights,) = cache[-1]
    return weights


# --- several heads


def split_heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    """(B, T, D) -> (B, nH, T, Dh): head h has the columns h*Dh to (h+1)*Dh (eq. 7.7).

    Raises:
        ValueError: the heads do not divide the width.
    """
    B, T, D = x.shape
    if D % n_heads:
        raise ValueError(f"expected a width that {n_heads} heads divide, got {D}")
    return x.reshape(B, T, n_heads, D // n_heads).swapaxes(1, 2)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """(B, nH, T, Dh) -> (B, T, D), undoing :func:`split_heads`."""
    B, nH, T, Dh = x.shape
    return x.swapaxes(1, 2).reshape(B, T, nH * Dh)


def multi_head_attention_forward(
    x_q: np.ndarray,
    x_kv: np.ndarray,
    p: Params,
    n_heads: int,
    mask: np.ndarray | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    train: bool = False,
) -> tuple[np.ndarray, tuple]:
    """Attention in ``n_heads`` subspaces at once (eqs. 7.6 to 7.8).

    Args:
        x_q: (B, T, D), what asks. x_kv: (B, S, D), what is looked at; x_q itself in self-attention.
        p: ``q_proj.weight`` (D, D), ``q_proj.bias`` (D,), and the same for ``k_proj``, ``v_proj``,
            ``out_proj``.
        mask: bool, broadcasts to (B, nH, T, S).

    Returns:
        y: (B, T, D), and the cache; its last entry is that of :func:`attention_forward`.
    """
    q, q_cache = linear_forward(x_q, p["q_proj.weight"], p["q_proj.bias"])  # eq. 7.6
    k, k_cache = linear_forward(x_kv, p["k_proj.weight"], p["k_proj.bias"])
    v, v_cache = linear_forward(x_kv, p["v_proj.weight"], p["v_proj.bias"])
    heads = (split_heads(x, n_heads) for x in (q, k, v))  # eq. 7.7: (B, T, D) -> (B, nH, T, Dh)
    y, attention = attention_forward(*heads, mask, dropout, rng, train)
    # (B, nH, T, Dh) -> (B, T, D)
    y, out_cache = linear_forward(merge_heads(y), p["out_proj.weight"], p["out_proj.bias"])
    return y, (n_heads, q_cache, k_cache, v_cache, out_cache, attention)


def multi_head_attention_backward(
    dy: np.ndarray, cache: tuple
) -> tuple[np.ndarray, np.ndarray, Params]:
    """Gradients: dx_q, dx_kv, and a dict with the names of ``p``.

    In self-attention, where x_q and x_kv are one array, its gradient is dx_q + dx_kv.
    """
    n_heads, q_cache, k_cache, v_cache, out_cache, attention = cache
    g: Params = {}
    dy, g["out_proj.weight"], g["out_proj.bias"] = linear_backward(dy, out_cache)  # eq. 2.13
    dheads = attention_backward(split_heads(dy, n_heads), attention)  # eqs. 7.33 to 7.36
    dq, dk, dv = (merge_heads(dx) for dx in dheads)  # eq. 7.7, backward
    dx_q, g["q_proj.weight"], g["q_proj.bias"] = linear_backward(dq, q_cache)  # eq. 7.37
    dx_k, g["k_proj.weight"], g["k_proj.bias"] = linear_backward(dk, k_cache)  # eq. 7.38
    dx_v, g["v_proj.weight"], g["v_proj.bias"] = linear_backward(dv, v_cache)  # eq. 7.38
    return dx_q, dx_k + dx_v, g  # eq. 7.38


# --- layer normalisation


def layer_norm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, tuple]:
    """Bring every vector to mean 0 and variance 1, then scale and shift it (eqs. 7.15 to 7.18).

    Args:
        x: (..., D). weight, bias: (D,), one gain and one shift for each feature.
        eps: keeps the division finite. Libraries differ: 1e-5 (torch), 1e-6 (timm), 1e-12 (BERT).

    Raises:
        ValueError: the widths do not fit.
    """
    if x.shape[-1:] != weight.shape:
        raise ValueError(f"expected vectors of width {len(weight)}, got shape {x.shape}")
    centred = x - x.mean(axis=-1, keepdims=True)  # eq. 7.15
    var = np.square(centred).mean(axis=-1, keepdims=True)  # eq. 7.16
    std = np.sqrt(var + eps)
    x_hat = centred / std  # eq. 7.17
    return weight * x_hat + bias, (x_hat, weight, std)  # eq. 7.18


def layer_norm_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of :func:`layer_norm_forward`: dx (..., D), dweight (D,), dbias (D,)."""
    x_hat, weight, std = cache
    rows = tuple(range(dy.ndim - 1))  # every vector had the same gain and shift
    dbias = dy.sum(axis=rows)  # eq. 7.39
    dweight = (dy * x_hat).sum(axis=rows)  # eq. 7.40
    dx_hat = dy * weight  # eq. 7.41
    along = (dx_hat * x_hat).mean(axis=-1, keepdims=True)
    dx = (dx_hat - dx_hat.mean(axis=-1, keepdims=True) - x_hat * along) / std  # eq. 7.43
    return dx, dweight, dbias
