"""The parts of BERT in NumPy (level 1): embeddings, layer, pooler, heads; forward and backward.

Papers:
- J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT", 2018, arXiv:1810.04805, section 3.
- A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762: the encoder layer.

Map of this file:
    embeddings              three learned tables, summed and normalised
    layer                   self-attention and two linear layers, each with add & norm
    pooler                  the vector that stands for the whole text
    masked_lm_head          the output layer, which is the table of the tokens
    masked_cross_entropy    the loss of the chosen tokens

A part's parameters come as a dict ``p`` and its gradients go out as a dict with the same names.
What dropout needs goes through as one tuple, ``drop`` = (rng, train).

Shapes: B batch, T tokens, D width, nH heads, F hidden width, V vocabulary, R chosen tokens.

Read before: 07_Transformer/numpy/attention_numpy.py; 06_LSTM_GRU/numpy/recurrent_numpy.py (its
embedding only); 08_BERT/theory.md, sections 1 to 3 and 8.

Deviations from the paper: none.
"""

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import (
    Params,
    layer_norm_backward,
    layer_norm_forward,
    multi_head_attention_backward,
    multi_head_attention_forward,
)
from masking_numpy import IGNORED
from mlp_numpy import (
    ACTIVATIONS,
    dropout_backward,
    dropout_forward,
    linear_backward,
    linear_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    tanh_backward,
    tanh_forward,
)
from recurrent_numpy import embedding_backward, embedding_forward

# BERT's names of the four projections of attention, and 07's.
PROJECTIONS = {
    "self.query": "q_proj",
    "self.key": "k_proj",
    "self.value": "v_proj",
    "output.dense": "out_proj",
}

# --- embeddings


def embeddings_forward(
    tokens: np.ndarray, segments: np.ndarray, p: Params, dropout: float, eps: float, drop: tuple
) -> tuple[np.ndarray, tuple]:
    """LayerNorm of token + segment + position, then dropout (eq. 8.1).

    Args:
        tokens, segments: (B, T) ints.
        p: ``word_embeddings.weight`` (V, D), ``position_embeddings.weight``,
            ``token_type_embeddings.weight``, ``LayerNorm.weight`` and ``.bias`` (D,).

    Returns:
        x: (B, T, D), and the cache.

    Raises:
        ValueError: not (B, T), or more tokens than there are positions.
    """
    longest = len(p["position_embeddings.weight"])
    if tokens.ndim != 2 or tokens.shape[1] > longest:
        raise ValueError(f"expected tokens (B, T) with T of at most {longest}, got {tokens.shape}")
    T = tokens.shape[1]
    words, word_cache = embedding_forward(tokens, p["word_embeddings.weight"])
    kinds, kind_cache = embedding_forward(segments, p["token_type_embeddings.weight"])
    positions = p["position_embeddings.weight"]
    summed = words + kinds + positions[:T]  # (T, D) is the same for every text
    x, norm = layer_norm_forward(summed, p["LayerNorm.weight"], p["LayerNorm.bias"], eps)
    x, dropped = dropout_forward(x, dropout, *drop)
    return x, (word_cache, kind_cache, positions, norm, dropped)


def embeddings_backward(dx: np.ndarray, cache: tuple) -> Params:
    """Gradients of the three tables and of the norm."""
    word_cache, kind_cache, positions, norm, dropped = cache
    g: Params = {}
    dx = dropout_backward(dx, dropped)  # eq. 2.23
    dsum, g["LayerNorm.weight"], g["LayerNorm.bias"] = layer_norm_backward(dx, norm)  # eq. 8.27
    g["word_embeddings.weight"] = embedding_backward(dsum, word_cache)  # eq. 8.28
    g["token_type_embeddings.weight"] = embedding_backward(dsum, kind_cache)  # eq. 8.28
    dpositions = np.zeros_like(positions)
    dpositions[: dsum.shape[1]] = dsum.sum(axis=0)  # eq. 8.28: all texts used the same rows
    g["position_embeddings.weight"] = dpositions
    return g


# --- the encoder layer


def _norm_forward(x: np.ndarray, p: Params, name: str, eps: float) -> tuple[np.ndarray, tuple]:
    return layer_norm_forward(x, p[f"{name}.weight"], p[f"{name}.bias"], eps)


def layer_forward(
    x: np.ndarray,
    p: Params,
    n_heads: int,
    mask: np.ndarray | None,
    activation: str,
    dropouts: tuple[float, float],
    eps: float,
    drop: tuple,
) -> tuple[np.ndarray, tuple]:
    """Self-attention, then linear, GELU, linear; each with add & norm (eqs. 8.3 and 8.4).

    Args:
        x: (B, T, D).
        p: ``attention.self.query.weight``, ..., ``attention.output.dense.weight``, ...,
            ``attention.output.LayerNorm.weight``, ..., ``intermediate.dense.weight`` (F, D), ...,
            ``output.dense.weight`` (D, F), ..., ``output.LayerNorm.weight``, ...
        mask: bool, broadcasts to (B, nH, T, T); True = may attend.
        activation: a key of ``ACTIVATIONS`` of chapter 02.
        dropouts: of what a sub-layer adds, and of the attention weights.
    """
    dropout, of_weights = dropouts
    attention = {
        f"{name_07}.{kind}": p[f"attention.{name}.{kind}"]
        for name, name_07 in PROJECTIONS.items()
        for kind in ("weight", "bias")
    }
    h, attn = multi_head_attention_forward(x, x, attention, n_heads, mask, of_weights, *drop)
    h, dropped1 = dropout_forward(h, dropout, *drop)
    x, norm1 = _norm_forward(x + h, p, "attention.output.LayerNorm", eps)  # eq. 8.3
    h, fc1 = linear_forward(x, p["intermediate.dense.weight"], p["intermediate.dense.bias"])
    h, act = ACTIVATIONS[activation][0](h)  # (B, T, F)
    h, fc2 = linear_forward(h, p["output.dense.weight"], p["output.dense.bias"])
    h, dropped2 = dropout_forward(h, dropout, *drop)
    x, norm2 = _norm_forward(x + h, p, "output.LayerNorm", eps)  # eq. 8.4
    return x, (attn, dropped1, norm1, fc1, activation, act, fc2, dropped2, norm2)


def layer_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`layer_forward`: dx, and a dict with the names of ``p``."""
    attn, dropped1, norm1, fc1, activation, act, fc2, dropped2, norm2 = cache
    g: Params = {}
    # eq. 8.25: what comes out of a norm is dx over the shortcut, and goes into the branch too.
    dx, g["output.LayerNorm.weight"], g["output.LayerNorm.bias"] = layer_norm_backward(dy, norm2)
    dh = dropout_backward(dx, dropped2)  # eq. 8.25
    dh, g["output.dense.weight"], g["output.dense.bias"] = linear_backward(dh, fc2)  # eq. 8.25
    dh = ACTIVATIONS[activation][1](dh, act)  # eq. 8.26, and the next line
    dh, g["intermediate.dense.weight"], g["intermediate.dense.bias"] = linear_backward(dh, fc1)
    dx = dx + dh  # eq. 8.26
    norm = "attention.output.LayerNorm"
    dx, g[f"{norm}.weight"], g[f"{norm}.bias"] = layer_norm_backward(dx, norm1)  # eq. 8.25
    dh = dropout_backward(dx, dropped1)  # eq. 8.25
    dx_q, dx_kv, attention = multi_head_attention_backward(dh, attn)  # eqs. 7.37 and 7.38
    for name, name_07 in PROJECTIONS.items():
        for kind in ("weight", "bias"):
            g[f"attention.{name}.{kind}"] = attention[f"{name_07}.{kind}"]
    return dx + dx_q + dx_kv, g  # eq. 8.26


# --- pooler


def pooler_forward(x: np.ndarray, p: Params) -> tuple[np.ndarray, tuple]:
    """tanh of a linear layer on the first token, [CLS] (eq. 8.5): (B, T, D) -> (B, D)."""
    h, linear = linear_forward(x[:, 0], p["dense.weight"], p["dense.bias"])
    y, tanh = tanh_forward(h)
    return y, (x.shape, linear, tanh)


def pooler_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`pooler_forward`: dx (B, T, D), zero but for the first token."""
    shape, linear, tanh = cache
    g: Params = {}
    dx = np.zeros(shape, dy.dtype)
    dh = tanh_backward(dy, tanh)  # eq. 8.23
    dx[:, 0], g["dense.weight"], g["dense.bias"] = linear_backward(dh, linear)  # eq. 8.23
    return dx, g


# --- the head of the masked language model


def masked_lm_head_forward(
    x: np.ndarray, table: np.ndarray, p: Params, activation: str, eps: float
) -> tuple[np.ndarray, tuple]:
    """Linear, GELU, norm (eq. 8.6), then the table of the tokens (eq. 8.7).

    Args:
        x: (..., D). table: (V, D), the word embeddings.
        p: ``transform.dense.weight`` (D, D), ..., ``transform.LayerNorm.weight``, ..., ``bias``
            (V,).

    Returns:
        logits (..., V), and the cache.
    """
    h, dense = linear_forward(x, p["transform.dense.weight"], p["transform.dense.bias"])
    h, act = ACTIVATIONS[activation][0](h)
    h, norm = _norm_forward(h, p, "transform.LayerNorm", eps)  # eq. 8.6
    logits, output = linear_forward(h, table, p["bias"])  # eq. 8.7: (..., D) -> (..., V)
    return logits, (dense, activation, act, norm, output)


def masked_lm_head_backward(
    dlogits: np.ndarray, cache: tuple
) -> tuple[np.ndarray, np.ndarray, Params]:
    """Gradients of :func:`masked_lm_head_forward`: dx, dtable (V, D), and those of ``p``."""
    dense, activation, act, norm, output = cache
    g: Params = {}
    dh, dtable, g["bias"] = linear_backward(dlogits, output)  # eqs. 8.18 to 8.20
    name = "transform.LayerNorm"
    dh, g[f"{name}.weight"], g[f"{name}.bias"] = layer_norm_backward(dh, norm)  # eq. 8.21
    dh = ACTIVATIONS[activation][1](dh, act)  # eq. 8.21, and the next line
    dx, g["transform.dense.weight"], g["transform.dense.bias"] = linear_backward(dh, dense)
    return dx, dtable, g


# --- loss


def masked_cross_entropy_forward(
    logits: np.ndarray, labels: np.ndarray
) -> tuple[np.floating, tuple]:
    """Mean cross-entropy of the chosen tokens, in nats; 0 if there are none (eq. 8.9).

    Args:
        logits: (..., V). labels: (...) ints, the tokens that were there, ``IGNORED`` elsewhere.
    """
    chosen = labels != IGNORED
    like = (logits.shape, logits.dtype)
    if not chosen.any():
        return logits.dtype.type(0), (chosen, like, None)
    loss, rows = softmax_cross_entropy_forward(logits[chosen], labels[chosen])
    return loss, (chosen, like, rows)


def masked_cross_entropy_backward(cache: tuple) -> np.ndarray:
    """Gradient of the loss with respect to the logits (..., V); zero where none was chosen."""
    chosen, like, rows = cache
    dlogits = np.zeros(*like)
    if rows is not None:
        dlogits[chosen] = softmax_cross_entropy_backward(rows)  # eq. 8.17
    return dlogits
