"""Vision Transformer from tensors (level 2): patches, attention and layer norm by hand.

Paper: A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale", 2020, arXiv:2010.11929, section 3.1.

Map of this file:
    ViTConfig      sizes
    init_params    a dict of leaf tensors
    patches, layer_norm, attention, block, forward    the model

The loss, the update rule and what is done to the images are vit_training_lowlevel.py.

Shapes: B batch; C, H, W channels, height, width; P patch side; G = H/P patches along a side; T
tokens (G*G, and the class token); D width; nH heads of width Dh; F width of the MLP; K classes.

Read before: 10_ViT/numpy/vit_numpy.py, which writes out what autograd does here.

Deviations from the paper: as at level 1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]

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


def init_params(
    config: ViTConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves: Glorot's rule, positions 0.02, head and class token zero.

    The numbers are drawn on the CPU, so that a seed gives the same network on every device.
    """
    D, hidden, P = config.width, config.hidden, config.patch_size

    def normal(*shape: int, std: float) -> Tensor:
        return std * torch.randn(shape, generator=generator)

    def glorot(M: int, N: int) -> Tensor:
        return math.sqrt(6 / (M + N)) * (2 * torch.rand(M, N, generator=generator) - 1)

    params = {"cls_token": torch.zeros(1, 1, D)} if config.pool == "cls" else {}
    params["pos_embed"] = normal(1, config.tokens, D, std=0.02)
    fan_in = config.channels * P * P
    params["patch_embed.proj.weight"] = normal(D, config.channels, P, P, std=fan_in**-0.5)
    params["patch_embed.proj.bias"] = torch.zeros(D)
    norms = []
    for i in range(config.layers):
        name = f"blocks.{i}."
        norms += [f"{name}norm1", f"{name}norm2"]
        # Queries, keys and values are three layers that happen to lie in one matrix.
        params[f"{name}attn.qkv.weight"] = torch.cat([glorot(D, D) for _ in range(3)])
        params[f"{name}attn.qkv.bias"] = torch.zeros(3 * D)
        params[f"{name}attn.proj.weight"] = glorot(D, D)
        params[f"{name}attn.proj.bias"] = torch.zeros(D)
        params[f"{name}mlp.fc1.weight"] = glorot(hidden, D)
        params[f"{name}mlp.fc1.bias"] = normal(hidden, std=1e-6)
        params[f"{name}mlp.fc2.weight"] = glorot(D, hidden)
        params[f"{name}mlp.fc2.bias"] = normal(D, std=1e-6)
    for norm in (*norms, "norm"):
        params[f"{norm}.weight"], params[f"{norm}.bias"] = torch.ones(D), torch.zeros(D)
    params["head.weight"] = torch.zeros(config.classes, D)
    params["head.bias"] = torch.zeros(config.classes)
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Drop elements and scale the others up; without a generator, x itself."""
    if generator is None or rate == 0:
        return x
    kept = torch.rand(x.shape, generator=generator).to(x.device) >= rate
    return x * kept / (1 - rate)


def patches(x: Tensor, P: int) -> Tensor:
    """Cut images into patches, row by row: (B, C, H, W) -> (B, G*G, C*P*P)."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // P, P, W // P, P)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)  # (B, G, G, C, P, P) -> ...


def linear(x: Tensor, name: str, params: Params) -> Tensor:
    """(..., D) -> (..., M)."""
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def layer_norm(x: Tensor, name: str, params: Params, eps: float) -> Tensor:
    """Every vector to mean 0 and variance 1, then scaled and shifted: (..., D)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    var = centred.square().mean(dim=-1, keepdim=True)
    return params[f"{name}.weight"] * centred / torch.sqrt(var + eps) + params[f"{name}.bias"]


def attention(x: Tensor, name: str, params: Params, heads: int) -> tuple[Tensor, Tensor]:
    """Self-attention of x (B, T, D): the result (B, T, D), and the weights (B, nH, T, T)."""
    B, T, D = x.shape
    qkv = linear(x, f"{name}qkv", params).view(B, T, 3, heads, D // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, T, 3, nH, Dh) -> 3 times (B, nH, T, Dh)
    weights = (q @ k.mT / math.sqrt(D // heads)).softmax(dim=-1)
    y = (weights @ v).transpose(1, 2).flatten(2)  # (B, nH, T, Dh) -> (B, T, D)
    return linear(y, f"{name}proj", params), weights


def block(
    x: Tensor, name: str, params: Params, config: ViTConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """x plus attention, plus MLP, each of the normalised x: (B, T, D), and the weights."""
    h = layer_norm(x, f"{name}norm1", params, config.eps)
    h, weights = attention(h, f"{name}attn.", params, config.heads)
    x = x + dropout(h, config.dropout, generator)
    h = linear(layer_norm(x, f"{name}norm2", params, config.eps), f"{name}mlp.fc1", params)
    h = linear(dropout(F.gelu(h), config.dropout, generator), f"{name}mlp.fc2", params)
    return x + dropout(h, config.dropout, generator), weights


def forward(
    params: Params,
    x: Tensor,
    config: ViTConfig,
    generator: torch.Generator | None = None,
    maps: list[Tensor] | None = None,
) -> Tensor:
    """Logits (B, K) of images (B, C, H, W).

    Args:
        generator: draws dropout; without one, nothing is dropped.
        maps: a list that collects the weights (B, nH, T, T) of every block.

    Raises:
        ValueError: the images have another shape.
    """
    C, H, P = config.channels, config.image_size, config.patch_size
    if x.ndim != 4 or x.shape[1:] != (C, H, H):
        raise ValueError(f"expected images (B, {C}, {H}, {H}), got {tuple(x.shape)}")
    kernels = params["patch_embed.proj.weight"].flatten(1)  # (D, C, P, P) -> (D, C*P*P)
    x = patches(x, P) @ kernels.T + params["patch_embed.proj.bias"]  # -> (B, G*G, D)
    if config.pool == "cls":
        x = torch.cat([params["cls_token"].expand(len(x), -1, -1), x], dim=1)  # -> (B, G*G + 1, D)
    x = dropout(x + params["pos_embed"], config.dropout, generator)
    for i in range(config.layers):
        x, weights = block(x, f"blocks.{i}.", params, config, generator)
        if maps is not None:
            maps.append(weights.detach())
    x = layer_norm(x, "norm", params, config.eps)
    x = x[:, 0] if config.pool == "cls" else x.mean(dim=1)  # (B, T, D) -> (B, D)
    return linear(x, "head", params)  # -> (B, K)
