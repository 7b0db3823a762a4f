"""Vision Transformer in NumPy (level 1): every formula, forward and backward.

Papers: A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale", 2020, arXiv:2010.11929, sections 3.1 and 3.2; attention rollout: S. Abnar, W. Zuidema,
"Quantifying Attention Flow in Transformers", 2020, arXiv:2005.00928.

Map of this file:
    ViTConfig
    initial_params
    VisionTransformer                forward and backward
    attention_rollout                which patch the output comes from
    position_similarity              what the positions have learnt
    warmup_cosine, clip_gradients    for training

Its layers are vit_layers_numpy.py; the loss is chapter 02's.

Shapes: B batch; C, H, W channels, height, width; P patch side; G = H/P patches along a side; T
tokens (G*G, and the class token); D width; nH heads of width Dh; F width of the MLP; K classes.

Read before: vit_layers_numpy.py; 10_ViT/theory.md.

Deviations from the paper: it does not say how weights start; here as in the authors' program. Only
square images.
"""

import math
from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import Params, attention_weights, layer_norm_backward, layer_norm_forward
from mlp_numpy import (
    dropout_backward,
    dropout_forward,
    glorot_uniform,
    linear_backward,
    linear_forward,
)
from transformer_layers_numpy import part, whole
from vit_layers_numpy import (
    block_backward,
    block_forward,
    patch_embed_backward,
    patch_embed_forward,
    pool_backward,
    pool_forward,
    prefix_and_positions_backward,
    prefix_and_positions_forward,
)

POOLS = ("cls", "gap")


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a Vision Transformer.

    Args:
        image_size: H = W. patch_size: P. width: D. layers: L. heads: nH. hidden: F.
        classes: K. channels: C.
        pool: what the head sees, "cls", the class token, or "gap", the mean of all patches; then
            there is no class token.
        dropout: after the positions are added, and after every linear layer of the blocks but qkv.
        eps: of the layer norms.
    """

    image_size: int = 32
    patch_size: int = 4
    width: int = 64
    layers: int = 4
    heads: int = 4
    hidden: int = 128
    classes: int = 10
    channels: int = 3
    pool: str = "cls"
    dropout: float = 0.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("pool", "dropout", "eps") and value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"expected a patch size that divides {self.image_size}, got {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"expected a width that {self.heads} heads divide, got {self.width}")
        if self.pool not in POOLS:
            raise ValueError(f"expected a pool of {POOLS}, got {self.pool!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    @property
    def tokens(self) -> int:
        """T: the patches, and the class token if there is one."""
        return (self.image_size // self.patch_size) ** 2 + (self.pool == "cls")


# --- the model


def initial_params(config: ViTConfig, rng: np.random.Generator) -> Params:
    """Fresh weights in float64: Glorot's rule, positions 0.02, head and class token zero."""
    D, C, P = config.width, config.channels, config.patch_size
    params = {"cls_token": np.zeros((1, 1, D))} if config.pool == "cls" else {}
    params["pos_embed"] = 0.02 * rng.standard_normal((1, config.tokens, D))
    patch = rng.standard_normal((D, C, P, P)) / math.sqrt(C * P * P)
    params["patch_embed.proj.weight"], params["patch_embed.proj.bias"] = patch, np.zeros(D)

    def norm(name: str) -> None:
        params[f"{name}.weight"], params[f"{name}.bias"] = np.ones(D), np.zeros(D)

    for i in range(config.layers):
        block = f"blocks.{i}"
        norm(f"{block}.norm1")
        # Queries, keys and values are three layers that happen to lie in one matrix.
        thirds = [glorot_uniform((D, D), rng) for _ in range(3)]
        params[f"{block}.attn.qkv.weight"] = np.concatenate(thirds)
        params[f"{block}.attn.qkv.bias"] = np.zeros(3 * D)
        params[f"{block}.attn.proj.weight"] = glorot_uniform((D, D), rng)
        params[f"{block}.attn.proj.bias"] = np.zeros(D)
        norm(f"{block}.norm2")
        for name, shape in (("fc1", (config.hidden, D)), ("fc2", (D, config.hidden))):
            params[f"{block}.mlp.{name}.weight"] = glorot_uniform(shape, rng)
            params[f"{block}.mlp.{name}.bias"] = 1e-6 * rng.standard_normal(shape[0])
    norm("norm")
    params["head.weight"] = np.zeros((config.classes, D))
    params["head.bias"] = np.zeros(config.classes)
    return params


class VisionTransformer:
    """Patches, class token, positions, blocks, a last norm, a linear head (eqs. 10.3 to 10.10).

    Args:
        config: sizes. rng: source of the initial weights. dtype: of the parameters.

    Attributes:
        params: ``cls_token``, ``pos_embed``, ``patch_embed.proj.weight``, ...,
            ``blocks.<i>.norm1.weight``, ..., ``norm.weight``, ..., ``head.bias``.
    """

    def __init__(
        self,
        config: ViTConfig,
        rng: np.random.Generator,
        dtype: np.typing.DTypeLike = np.float64,
    ) -> None:
        self.config = config
        self.params = {n: p.astype(dtype) for n, p in initial_params(config, rng).items()}
        self._cache: tuple = ()

    def forward(
        self, x: np.ndarray, train: bool = False, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Logits (B, K) of images (B, C, H, W); ``train`` switches dropout on, ``rng`` draws it.

        Raises:
            ValueError: the images have another shape.
        """
        c, p = self.config, self.params
        if x.ndim != 4 or x.shape[1:] != (c.channels, c.image_size, c.image_size):
            raise ValueError(
                f"expected images (B, {c.channels}, {c.image_size}, {c.image_size}), got {x.shape}"
            )
        drop = (c.dropout, rng, train)
        weight, bias = p["patch_embed.proj.weight"], p["patch_embed.proj.bias"]
        x, embed = patch_embed_forward(x, weight, bias)  # -> (B, G*G, D)
        x, prefix = prefix_and_positions_forward(x, p.get("cls_token"), p["pos_embed"])
        x, dropped = dropout_forward(x, *drop)  # (B, T, D)
        blocks = []
        for i in range(c.layers):
            x, cache = block_forward(x, part(p, f"blocks.{i}."), c.heads, c.eps, drop)
            blocks.append(cache)
        x, norm = layer_norm_forward(x, p["norm.weight"], p["norm.bias"], c.eps)
        x, pool = pool_forward(x, c.pool)  # -> (B, D)
        x, head = linear_forward(x, p["head.weight"], p["head.bias"])  # eq. 10.10: -> (B, K)
        self._cache = (embed, prefix, dropped, blocks, norm, pool, head)
        return x

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the logits (B, K)."""
        if not self._cache:
            raise RuntimeError("expected forward before backward")
        embed, prefix, dropped, blocks, norm, pool, head = self._cache
        g: Params = {}
        dx, g["head.weight"], g["head.bias"] = linear_backward(dy, head)  # eq. 2.13
        dx = pool_backward(dx, pool)  # eqs. 10.20 and 10.21
        dx, g["norm.weight"], g["norm.bias"] = layer_norm_backward(dx, norm)  # eq. 7.43
        for i in reversed(range(len(blocks))):
            dx, grads = block_backward(dx, blocks[i])  # eqs. 10.18 and 10.19
            g |= whole(grads, f"blocks.{i}.")
        dx = dropout_backward(dx, dropped)  # eq. 2.23
        # eqs. 10.13 and 10.14
        dx, g["cls_token"], g["pos_embed"] = prefix_and_positions_backward(dx, prefix)
        _, dweight, dbias = patch_embed_backward(dx, embed)  # eq. 10.12
        g["patch_embed.proj.weight"], g["patch_embed.proj.bias"] = dweight, dbias
        return {name: g[name] for name in self.params}

    def attention_maps(self) -> list[np.ndarray]:
        """The weights (B, nH, T, T) of every block in the last pass."""
        if not self._cache:
            raise RuntimeError("expected forward before attention_maps")
        return [attention_weights(cache[1][-1]) for cache in self._cache[3]]


def attention_rollout(maps: list[np.ndarray]) -> np.ndarray:
    """How much each token's output is made of each token's input (eqs. 10.26, 10.27): (B, T, T)."""
    same = total = np.eye(maps[0].shape[-1], dtype=maps[0].dtype)
    for weights in maps:
        total = (0.5 * weights.mean(axis=1) + 0.5 * same) @ total
    return total


def position_similarity(pos_embed: np.ndarray, prefix: bool = True) -> np.ndarray:
    """Cosine of the angle between each patch's position and all of them: (1, T, D) -> (G*G, G, G).

    Args:
        prefix: whether the first position is the class token's, which is left out.
    """
    x = pos_embed[0, int(prefix) :]  # (G*G, D)
    G = math.isqrt(len(x))
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (x @ x.T).reshape(-1, G, G)


# --- training


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Factor of the learning rate at step 0, 1, ...: a rise, then half a cosine (eq. 10.23)."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1 + math.cos(math.pi * done))


def clip_gradients(grads: Params, largest: float) -> float:
    """Make the gradient of all parameters together at most so long (eq. 10.22), in place.

    Returns:
        its length before.
    """
    norm = math.sqrt(sum(float(np.square(g).sum()) for g in grads.values()))
    for g in grads.values():
        g *= min(1.0, largest / (norm + 1e-6))
    return norm
