"""The parts of CLIP in NumPy (level 1): forward and backward.

Papers:
- A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
  arXiv:2103.00020, section 2 and Fig. 3.
- X. Zhai, B. Mustafa, A. Kolesnikov, L. Beyer, "Sigmoid Loss for Language Image Pre-Training",
  2023, arXiv:2303.15343, section 3: the other loss.

Map of this file:
    quick_gelu            x σ(1.702 x)
    block                 chapter 10's or chapter 09's attention, and an MLP
    project               into the common space
    unit                  to length 1
    end_of_text           the vector at the end of each text
    contrastive_loss      which belongs to which?
    sigmoid_loss          does this belong to that?

Attention, layer norm and linear layers are those of chapters 02, 07, 09 and 10. A block's
parameters come as a dict ``p`` and its gradients go out as a dict with the same names.

Shapes: B pairs in a batch; T tokens; D width of an encoder, nH heads; E width of the common space.

Read before: 10_ViT/numpy/vit_layers_numpy.py, 09_GPT/numpy/gpt_numpy.py; 12_CLIP/theory.md,
sections 1 to 8.

Deviations from the paper: none.
"""

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import Params, layer_norm_backward, layer_norm_forward
from gpt_numpy import causal_self_attention_backward, causal_self_attention_forward
from mlp_numpy import (
    linear_backward,
    linear_forward,
    sigmoid,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from transformer_layers_numpy import part, whole
from vit_layers_numpy import self_attention_backward, self_attention_forward

NO_DROPOUT = (0.0, None, False)
# OpenAI's names of the parts of attention, and those that chapters 10 and 09 have for them.
PLAIN = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
PLAIN |= {"out_proj.weight": "proj.weight", "out_proj.bias": "proj.bias"}
CAUSAL = {"in_proj_weight": "c_attn.weight", "in_proj_bias": "c_attn.bias"}
CAUSAL |= {"out_proj.weight": "c_proj.weight", "out_proj.bias": "c_proj.bias"}


# --- a block


def quick_gelu_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """A cheap stand-in for GELU, elementwise (eq. 12.1)."""
    gate = sigmoid(1.702 * x)
    return x * gate, (x, gate)


def quick_gelu_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`quick_gelu_forward`."""
    x, gate = cache
    return dy * (gate + 1.702 * x * gate * (1 - gate))  # eq. 12.25


def block_forward(x: np.ndarray, p: Params, n_heads: int, causal: bool) -> tuple[np.ndarray, tuple]:
    """x plus attention, plus MLP, each of the normalised x (eqs. 12.2 and 12.3).

    Args:
        x: (B, T, D).
        p: ``ln_1.weight``, ..., ``attn.in_proj_weight`` (3D, D), ``attn.in_proj_bias``,
            ``attn.out_proj.weight``, ..., ``ln_2.weight``, ..., ``mlp.c_fc.weight`` (4D, D), ...,
            ``mlp.c_proj.bias``.
        causal: a token looks at nothing that comes later.

    Returns:
        y: (B, T, D), and the cache.
    """
    h, ln_1 = layer_norm_forward(x, p["ln_1.weight"], p["ln_1.bias"])
    names = CAUSAL if causal else PLAIN
    own = {theirs: p[f"attn.{ours}"] for ours, theirs in names.items()}
    if causal:
        h, attn = causal_self_attention_forward(h, own, n_heads, NO_DROPOUT)
    else:
        h, attn = self_attention_forward(h, own, n_heads)
    x = x + h  # eq. 12.2
    h, ln_2 = layer_norm_forward(x, p["ln_2.weight"], p["ln_2.bias"])
    h, c_fc = linear_forward(h, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"])  # -> (B, T, 4D)
    h, gelu = quick_gelu_forward(h)
    h, c_proj = linear_forward(h, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])  # -> (B, T, D)
    return x + h, (causal, ln_1, attn, ln_2, c_fc, gelu, c_proj)  # eq. 12.3


def block_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`block_forward`: dx, and a dict with the names of ``p``."""
    causal, ln_1, attn, ln_2, c_fc, gelu, c_proj = cache
    g: Params = {}
    dh, g["mlp.c_proj.weight"], g["mlp.c_proj.bias"] = linear_backward(dy, c_proj)  # eq. 2.13
    dh = quick_gelu_backward(dh, gelu)  # eq. 12.25
    dh, g["mlp.c_fc.weight"], g["mlp.c_fc.bias"] = linear_backward(dh, c_fc)
    dh, g["ln_2.weight"], g["ln_2.bias"] = layer_norm_backward(dh, ln_2)  # eq. 7.43
    dx = dy + dh  # eq. 12.26, the second sum
    way_back = causal_self_attention_backward if causal else self_attention_backward
    dh, grads = way_back(dx, attn)  # eqs. 10.15 and 10.16
    names = CAUSAL if causal else PLAIN
    g |= whole({ours: grads[theirs] for ours, theirs in names.items()}, "attn.")
    dh, g["ln_1.weight"], g["ln_1.bias"] = layer_norm_backward(dh, ln_1)  # eq. 7.43
    return dx + dh, g  # eq. 12.26, the first sum


def transformer_forward(
    x: np.ndarray, p: Params, n_heads: int, causal: bool
) -> tuple[np.ndarray, tuple]:
    """All blocks of an encoder: ``p`` has ``0.ln_1.weight``, ..., ``1.ln_1.weight``, ..."""
    caches = []
    for i in range(len({name.partition(".")[0] for name in p})):
        x, cache = block_forward(x, part(p, f"{i}."), n_heads, causal)
        caches.append(cache)
    return x, tuple(caches)


def transformer_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`transformer_forward`: dx, and a dict with the names of ``p``."""
    g: Params = {}
    for i in reversed(range(len(cache))):
        dy, grads = block_backward(dy, cache[i])  # eq. 12.26
        g |= whole(grads, f"{i}.")
    return dy, g


# --- from an encoder into the common space


def project_forward(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple]:
    """A linear map without a bias, the weight as OpenAI keeps it: (B, D) and (D, E) -> (B, E)."""
    return x @ weight, (x, weight)


def project_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of :func:`project_forward`: dx (B, D), dweight (D, E)."""
    x, weight = cache
    return dy @ weight.T, x.T @ dy  # eq. 12.21


def unit_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """The same direction, length 1 (eq. 12.8): (B, E)."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    y = x / length
    return y, (y, length)


def unit_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`unit_forward`: what points along the vector is lost."""
    y, length = cache
    return (dy - y * (y * dy).sum(axis=-1, keepdims=True)) / length  # eq. 12.20


def end_of_text_forward(x: np.ndarray, tokens: np.ndarray, end: int) -> tuple[np.ndarray, tuple]:
    """The vector at the first token ``end`` of each text (eq. 12.7): (B, T, D) -> (B, D).

    Raises:
        ValueError: a text without an end.
    """
    ends = tokens == end  # (B, T)
    if not ends.any(axis=1).all():
        raise ValueError(f"expected the end of text, {end}, in each row")
    places = ends.argmax(axis=1)
    return x[np.arange(len(x)), places], (x.shape, places)


def end_of_text_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`end_of_text_forward`: (B, T, D)."""
    shape, places = cache
    dx = np.zeros(shape, dy.dtype)
    dx[np.arange(len(dy)), places] = dy  # eq. 12.22
    return dx


# --- losses


def contrastive_loss_forward(
    image: np.ndarray, text: np.ndarray, scale: np.floating | float
) -> tuple[np.floating, tuple]:
    """Which text belongs to an image, and which image to a text? (eqs. 12.12 to 12.14)

    Args:
        image, text: (B, E), vectors of length 1; row i of one belongs to row i of the other.
        scale: what the cosines are multiplied by.

    Returns:
        mean of the two cross-entropies, in nats, and the cache.

    Raises:
        ValueError: shapes that differ.
    """
    _check(image, text)
    cosines = image @ text.T  # (B, B): images down, texts across
    logits, labels = scale * cosines, np.arange(len(image))  # eq. 12.12
    of_image, rows = softmax_cross_entropy_forward(logits, labels)  # eq. 12.13
    of_text, columns = softmax_cross_entropy_forward(logits.T, labels)
    cache = (image, text, scale, cosines, rows, columns)
    return (of_image + of_text) / 2, cache  # eq. 12.14


def contrastive_loss_backward(cache: tuple) -> tuple[np.ndarray, np.ndarray, np.floating]:
    """Gradients of :func:`contrastive_loss_forward`: dimage, dtext (B, E), dscale."""
    image, text, scale, cosines, rows, columns = cache
    dlogits = softmax_cross_entropy_backward(rows)
    dlogits = (dlogits + softmax_cross_entropy_backward(columns).T) / 2  # eq. 12.15
    return _logits_backward(dlogits, image, text, scale, cosines)


def _logits_backward(
    dlogits: np.ndarray, image: np.ndarray, text: np.ndarray, scale: float, cosines: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.floating]:
    dimage = scale * dlogits @ text  # eq. 12.16
    dtext = scale * dlogits.T @ image  # eq. 12.17
    return dimage, dtext, (dlogits * cosines).sum()  # eq. 12.18


def sigmoid_loss_forward(
    image: np.ndarray, text: np.ndarray, scale: np.floating | float, bias: np.floating | float
) -> tuple[np.floating, tuple]:
    """Does this text belong to this image? Asked of every pair by itself (eqs. 12.27, 12.28).

    Returns:
        sum over the texts, mean over the images, and the cache.
    """
    _check(image, text)
    cosines = image @ text.T
    logits = scale * cosines + bias  # (B, B)
    belongs = np.eye(len(image), dtype=logits.dtype)
    # -log σ(z) = log(1 + exp(-z)), and logaddexp does not overflow
    losses = np.logaddexp(0, -(2 * belongs - 1) * logits)
    return losses.sum() / len(image), (image, text, scale, cosines, logits, belongs)  # eq. 12.28


def sigmoid_loss_backward(
    cache: tuple,
) -> tuple[np.ndarray, np.ndarray, np.floating, np.floating]:
    """Gradients of :func:`sigmoid_loss_forward`: dimage, dtext (B, E), dscale, dbias."""
    image, text, scale, cosines, logits, belongs = cache
    dlogits = (sigmoid(logits) - belongs) / len(image)  # eq. 12.29
    gradients = _logits_backward(dlogits, image, text, scale, cosines)
    return (*gradients, dlogits.sum())  # eq. 12.30


def _check(image: np.ndarray, text: np.ndarray) -> None:
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(
            f"expected images and texts (B, E) alike, got {image.shape} and {text.shape}"
        )
