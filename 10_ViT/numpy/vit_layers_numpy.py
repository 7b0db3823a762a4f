"""The layers of the Vision Transformer in NumPy (level 1): forward and backward.

Paper: A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale", 2020, arXiv:2010.11929, section 3.1 and appendix A.

Map of this file:
    patches                 images into rows of numbers, and back
    patch_embed             the same, then a linear layer
    prefix_and_positions    class token before, positions added
    self_attention          with one product for queries, keys and values
    mlp, block              normalised before each branch
    pool                    the class token, or the mean

Attention itself, layer norm, GELU, dropout and linear layers are those of chapters 02 and 07. A
block's parameters come as a dict ``p`` and its gradients go out as a dict with the same names;
chapter 07's ``part`` and ``whole`` take a prefix such as "attn." off the names and put it on. What
dropout needs goes through as one tuple, ``drop`` = (rate, rng, train).

Shapes: B batch; C, H, W channels, height, width; P patch side; G = H/P patches along a side; T
tokens (G*G, and the class token); D width; nH heads of width Dh; F width of the MLP.

Read before: 02_MLP/numpy/mlp_numpy.py, 07_Transformer/numpy/attention_numpy.py;
10_ViT/theory.md, sections 1 to 8.

Deviations from the paper: none. It does not say which GELU it has; here it is the exact one.
"""

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import (
    Params,
    attention_backward,
    attention_forward,
    layer_norm_backward,
    layer_norm_forward,
    merge_heads,
    split_heads,
)
from mlp_numpy import (
    dropout_backward,
    dropout_forward,
    gelu_backward,
    gelu_forward,
    linear_backward,
    linear_forward,
)
from transformer_layers_numpy import part, whole

# --- patches


def patches_forward(x: np.ndarray, P: int) -> tuple[np.ndarray, tuple]:
    """Cut images into patches, row by row, and write each as one row of numbers (eq. 10.1).

    Args:
        x: (B, C, H, W). P: side of a patch.

    Returns:
        y: (B, H/P * W/P, C*P*P), and the cache.

    Raises:
        ValueError: patches of this size do not fill the images.
    """
    if x.ndim != 4 or x.shape[2] % P or x.shape[3] % P:
        raise ValueError(f"expected images (B, C, H, W) that patches of {P} fill, got {x.shape}")
    B, C, H, W = x.shape
    y = x.reshape(B, C, H // P, P, W // P, P)
    y = y.transpose(0, 2, 4, 1, 3, 5)  # -> (B, H/P, W/P, C, P, P)
    return y.reshape(B, (H // P) * (W // P), C * P * P), (x.shape, P)


def patches_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`patches_forward`: every pixel was in one patch, and goes back there."""
    (B, C, H, W), P = cache
    dx = dy.reshape(B, H // P, W // P, C, P, P).transpose(0, 3, 1, 4, 2, 5)  # eq. 10.11
    return dx.reshape(B, C, H, W)


def patch_embed_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, tuple]:
    """A linear layer on each patch (eq. 10.2): (B, C, H, W) -> (B, G*G, D).

    Args:
        weight: (D, C, P, P), the layout of the convolution that it equals. bias: (D,).

    Raises:
        ValueError: the channels differ, or the patches do not fill the images.
    """
    D, C, P, _ = weight.shape
    if x.ndim != 4 or x.shape[1] != C:
        raise ValueError(f"expected images (B, {C}, H, W), got {x.shape}")
    rows, cut = patches_forward(x, P)
    # (D, C, P, P) -> (D, C*P*P), in the order of the patches' numbers
    y, linear = linear_forward(rows, weight.reshape(D, -1), bias)
    return y, (cut, linear, weight.shape)


def patch_embed_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of :func:`patch_embed_forward`: dx, dweight (D, C, P, P), dbias (D,)."""
    cut, linear, shape = cache
    drows, dweight, dbias = linear_backward(dy, linear)  # eq. 10.12
    return patches_backward(drows, cut), dweight.reshape(shape), dbias  # eq. 10.11


def prefix_and_positions_forward(
    x: np.ndarray, cls_token: np.ndarray | None, pos_embed: np.ndarray
) -> tuple[np.ndarray, tuple]:
    """Put the class token before the patches, and add the positions (eq. 10.3).

    Args:
        x: (B, G*G, D). cls_token: (1, 1, D), or None. pos_embed: (1, T, D).

    Returns:
        y: (B, T, D), and the cache.
    """
    B, _, D = x.shape
    if cls_token is not None:
        x = np.concatenate([np.broadcast_to(cls_token, (B, 1, D)), x], axis=1)  # (B, G*G + 1, D)
    return x + pos_embed, (cls_token is not None,)


def prefix_and_positions_backward(
    dy: np.ndarray, cache: tuple
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Gradients: dx (B, G*G, D), dcls_token (1, 1, D) or None, dpos_embed (1, T, D)."""
    (has_prefix,) = cache
    dpos = dy.sum(axis=0, keepdims=True)  # eq. 10.13: every image had the same positions
    if not has_prefix:
        return dy, None, dpos
    # A copy: whoever scales one gradient in place should not scale the other as well.
    return dy[:, 1:], dpos[:, :1].copy(), dpos  # eq. 10.14


# --- a block


def self_attention_forward(x: np.ndarray, p: Params, n_heads: int) -> tuple[np.ndarray, tuple]:
    """Multi-head self-attention with one product for queries, keys and values (eqs. 10.4, 10.5).

    Args:
        x: (B, T, D).
        p: ``qkv.weight`` (3D, D), ``qkv.bias`` (3D,), ``proj.weight`` (D, D), ``proj.bias`` (D,).

    Returns:
        y: (B, T, D), and the cache; its last entry is that of ``attention_forward``.
    """
    h, qkv = linear_forward(x, p["qkv.weight"], p["qkv.bias"])  # (B, T, D) -> (B, T, 3D)
    # eq. 10.4: three times (B, T, D) -> (B, nH, T, Dh)
    heads = (split_heads(third, n_heads) for third in np.split(h, 3, axis=-1))
    h, attention = attention_forward(*heads)
    y, proj = linear_forward(merge_heads(h), p["proj.weight"], p["proj.bias"])  # eq. 10.5
    return y, (n_heads, qkv, proj, attention)


def self_attention_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`self_attention_forward`: dx, and a dict with the names of ``p``."""
    n_heads, qkv, proj, attention = cache
    g: Params = {}
    dh, g["proj.weight"], g["proj.bias"] = linear_backward(dy, proj)  # eq. 2.13
    dheads = attention_backward(split_heads(dh, n_heads), attention)  # eqs. 7.32 to 7.36
    dqkv = np.concatenate([merge_heads(d) for d in dheads], axis=-1)  # eq. 10.15
    dx, g["qkv.weight"], g["qkv.bias"] = linear_backward(dqkv, qkv)  # eq. 10.16
    return dx, g


def mlp_forward(x: np.ndarray, p: Params, drop: tuple) -> tuple[np.ndarray, tuple]:
    """Linear, GELU, linear, at each token by itself (eq. 10.6): (B, T, D) -> (B, T, D)."""
    h, fc1 = linear_forward(x, p["fc1.weight"], p["fc1.bias"])  # (B, T, D) -> (B, T, F)
    h, gelu = gelu_forward(h)
    h, dropped = dropout_forward(h, *drop)
    y, fc2 = linear_forward(h, p["fc2.weight"], p["fc2.bias"])  # (B, T, F) -> (B, T, D)
    return y, (fc1, gelu, dropped, fc2)


def mlp_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`mlp_forward`: dx, and a dict with the names of ``p``."""
    fc1, gelu, dropped, fc2 = cache
    g: Params = {}
    # eq. 10.17: eqs. 2.13, 2.23, 2.21 and 2.13 again
    dh, g["fc2.weight"], g["fc2.bias"] = linear_backward(dy, fc2)
    dh = gelu_backward(dropout_backward(dh, dropped), gelu)
    dx, g["fc1.weight"], g["fc1.bias"] = linear_backward(dh, fc1)
    return dx, g


def block_forward(
    x: np.ndarray, p: Params, n_heads: int, eps: float = 1e-6, drop: tuple = (0.0, None, False)
) -> tuple[np.ndarray, tuple]:
    """x plus attention, plus MLP, each of the normalised x (eqs. 10.7 and 10.8).

    Args:
        x: (B, T, D).
        p: ``norm1.weight``, ..., ``attn.qkv.weight``, ..., ``norm2.weight``, ...,
            ``mlp.fc1.weight``, ...
        drop: (rate, rng, train) of dropout.

    Returns:
        y: (B, T, D), and the cache.
    """
    h, norm1 = layer_norm_forward(x, p["norm1.weight"], p["norm1.bias"], eps)
    h, attn = self_attention_forward(h, part(p, "attn."), n_heads)
    h, drop1 = dropout_forward(h, *drop)
    x = x + h  # eq. 10.7
    h, norm2 = layer_norm_forward(x, p["norm2.weight"], p["norm2.bias"], eps)
    h, mlp = mlp_forward(h, part(p, "mlp."), drop)
    h, drop2 = dropout_forward(h, *drop)
    return x + h, (norm1, attn, drop1, norm2, mlp, drop2)  # eq. 10.8


def block_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`block_forward`: dx, and a dict with the names of ``p``."""
    norm1, attn, drop1, norm2, mlp, drop2 = cache
    g: Params = {}
    dh, grads = mlp_backward(dropout_backward(dy, drop2), mlp)  # eqs. 2.23 and 10.17
    g |= whole(grads, "mlp.")
    dh, g["norm2.weight"], g["norm2.bias"] = layer_norm_backward(dh, norm2)  # eq. 7.43
    dx = dy + dh  # eq. 10.18
    dh, grads = self_attention_backward(dropout_backward(dx, drop1), attn)  # eq. 10.16
    g |= whole(grads, "attn.")
    dh, g["norm1.weight"], g["norm1.bias"] = layer_norm_backward(dh, norm1)  # eq. 7.43
    return dx + dh, g  # eq. 10.19


def pool_forward(x: np.ndarray, kind: str) -> tuple[np.ndarray, tuple]:
    """The class token, or the mean of all tokens (eq. 10.9): (B, T, D) -> (B, D)."""
    y = x[:, 0] if kind == "cls" else x.mean(axis=1)
    return y, (x.shape, kind)


def pool_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`pool_forward`: (B, T, D)."""
    shape, kind = cache
    dx = np.zeros(shape, dy.dtype)
    if kind == "cls":
        dx[:, 0] = dy  # eq. 10.20
    else:
        dx += dy[:, None] / shape[1]  # eq. 10.21
    return dx
