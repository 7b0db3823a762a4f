"""The layers of the Transformer's encoder and decoder in NumPy (level 1): forward and backward.

Paper: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, sections 3.1, 3.3
and 5.4 (dropout).

Map of this file:
    add_norm          LayerNorm(x + Dropout(branch)), around every sub-layer
    position_wise     two linear layers, the same at every position
    encoder_layer     self-attention, position-wise network
    decoder_layer     self-attention, attention to the encoder, position-wise network

A layer's parameters come as a dict ``p`` and its gradients go out as a dict with the same names.
What dropout needs goes through as one tuple, ``drop`` = (rate, rng, train).

Shapes: B batch; S source length, T target length; D width, nH heads, F width of the hidden layer.

Read before: attention_numpy.py; 02_MLP/numpy/mlp_numpy.py; 07_Transformer/theory.md, sections 7
and 11.

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
from mlp_numpy import (
    dropout_backward,
    dropout_forward,
    linear_backward,
    linear_forward,
    relu_backward,
    relu_forward,
)

# --- the parts of a layer


def part(values: Params, prefix: str) -> Params:
    """The entries whose names begin with ``prefix``, without it; the arrays are shared."""
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}


def whole(values: Params, prefix: str) -> Params:
    """The same entries with ``prefix`` before their names."""
    return {prefix + name: value for name, value in values.items()}


def add_norm_forward(
    x: np.ndarray, branch: np.ndarray, p: Params, drop: tuple
) -> tuple[np.ndarray, tuple]:
    """LayerNorm(x + Dropout(branch)) (eq. 7.20): both (B, T, D); ``p`` has weight and bias."""
    branch, dropped = dropout_forward(branch, *drop)
    y, norm = layer_norm_forward(x + branch, p["weight"], p["bias"])
    return y, (dropped, norm)


def add_norm_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, Params]:
    """Gradients of :func:`add_norm_forward`: dx, dbranch, and those of weight and bias."""
    dropped, norm = cache
    dz, dweight, dbias = layer_norm_backward(dy, norm)  # eq. 7.43
    return dz, dropout_backward(dz, dropped), {"weight": dweight, "bias": dbias}  # eq. 7.44


def position_wise_forward(x: np.ndarray, p: Params) -> tuple[np.ndarray, tuple]:
    """Linear, ReLU, linear, at each position by itself (eq. 7.21): (B, T, D) -> (B, T, D)."""
    h, fc1 = linear_forward(x, p["fc1.weight"], p["fc1.bias"])  # (B, T, D) -> (B, T, F)
    h, relu = relu_forward(h)
    y, fc2 = linear_forward(h, p["fc2.weight"], p["fc2.bias"])  # (B, T, F) -> (B, T, D)
    return y, (fc1, relu, fc2)


def position_wise_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`position_wise_forward`: dx, and a dict with the names of ``p``."""
    fc1, relu, fc2 = cache
    g: Params = {}
    dh, g["fc2.weight"], g["fc2.bias"] = linear_backward(dy, fc2)  # eqs. 2.13 to 2.15
    dh = relu_backward(dh, relu)  # eq. 7.45, the hidden layer
    dx, g["fc1.weight"], g["fc1.bias"] = linear_backward(dh, fc1)  # eq. 7.45, the input
    return dx, g


# --- layers


def encoder_layer_forward(
    x: np.ndarray, p: Params, n_heads: int, mask: np.ndarray | None, drop: tuple
) -> tuple[np.ndarray, tuple]:
    """Self-attention, then the position-wise network, each with add & norm (eq. 7.22).

    Args:
        x: (B, S, D).
        p: ``self_attn.q_proj.weight``, ..., ``self_attn_layer_norm.weight``, ..., ``fc1.weight``,
            ..., ``fc2.weight``, ..., ``final_layer_norm.weight``, ...
        mask: bool, broadcasts to (B, nH, S, S).
        drop: (rate, rng, train).
    """
    h, attn = multi_head_attention_forward(x, x, part(p, "self_attn."), n_heads, mask)
    x, norm1 = add_norm_forward(x, h, part(p, "self_attn_layer_norm."), drop)
    h, mlp = position_wise_forward(x, p)
    x, norm2 = add_norm_forward(x, h, part(p, "final_layer_norm."), drop)
    return x, (attn, norm1, mlp, norm2)


def encoder_layer_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`encoder_layer_forward`: dx, and a dict with the names of ``p``."""
    attn, norm1, mlp, norm2 = cache
    dx, dh, norm2_grads = add_norm_backward(dy, norm2)  # eq. 7.44
    dbranch, g = position_wise_backward(dh, mlp)  # eq. 7.45
    dx, dh, norm1_grads = add_norm_backward(dx + dbranch, norm1)  # eq. 7.46
    dx_q, dx_kv, attn_grads = multi_head_attention_backward(dh, attn)  # eqs. 7.37 and 7.38
    g |= whole(attn_grads, "self_attn.") | whole(norm1_grads, "self_attn_layer_norm.")
    g |= whole(norm2_grads, "final_layer_norm.")
    return dx + dx_q + dx_kv, g  # eq. 7.46


def decoder_layer_forward(
    x: np.ndarray,
    memory: np.ndarray,
    p: Params,
    n_heads: int,
    mask: np.ndarray | None,
    memory_mask: np.ndarray | None,
    drop: tuple,
) -> tuple[np.ndarray, tuple]:
    """Self-attention, attention to the encoder's output, position-wise network (eq. 7.23).

    Args:
        x: (B, T, D). memory: (B, S, D), the encoder's output.
        p: as in :func:`encoder_layer_forward`, and ``encoder_attn.q_proj.weight``, ...,
            ``encoder_attn_layer_norm.weight``, ...
        mask: for self-attention, broadcasts to (B, nH, T, T).
        memory_mask: for attention to the encoder, broadcasts to (B, nH, T, S).
    """
    h, attn = multi_head_attention_forward(x, x, part(p, "self_attn."), n_heads, mask)
    x, norm1 = add_norm_forward(x, h, part(p, "self_attn_layer_norm."), drop)
    h, cross = multi_head_attention_forward(
        x, memory, part(p, "encoder_attn."), n_heads, memory_mask
    )
    x, norm2 = add_norm_forward(x, h, part(p, "encoder_attn_layer_norm."), drop)
    h, mlp = position_wise_forward(x, p)
    x, norm3 = add_norm_forward(x, h, part(p, "final_layer_norm."), drop)
    return x, (attn, norm1, cross, norm2, mlp, norm3)


def decoder_layer_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, Params]:
    """Gradients of :func:`decoder_layer_forward`: dx, dmemory, and those of ``p``."""
    attn, norm1, cross, norm2, mlp, norm3 = cache
    dx, dh, norm3_grads = add_norm_backward(dy, norm3)  # eq. 7.44
    dbranch, g = position_wise_backward(dh, mlp)  # eq. 7.45
    dx, dh, norm2_grads = add_norm_backward(dx + dbranch, norm2)  # eq. 7.47
    # eqs. 7.37 and 7.38: to the queries, and to the memory
    dbranch, dmemory, cross_grads = multi_head_attention_backward(dh, cross)
    dx, dh, norm1_grads = add_norm_backward(dx + dbranch, norm1)  # eq. 7.47
    dx_q, dx_kv, attn_grads = multi_head_attention_backward(dh, attn)  # eqs. 7.37 and 7.38
    g |= whole(attn_grads, "self_attn.") | whole(norm1_grads, "self_attn_layer_norm.")
    g |= whole(cross_grads, "encoder_attn.") | whole(norm2_grads, "encoder_attn_layer_norm.")
    g |= whole(norm3_grads, "final_layer_norm.")
    return dx + dx_q + dx_kv, dmemory, g  # eq. 7.47
