"""Vision Transformer (level 3): the models of Table 1, and their use at other resolutions.

Paper: A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale", 2020, arXiv:2010.11929, sections 3.1 (the model), 3.2 (resolution), appendix B.1 (training).
Beside this file: hybrid_paper.py, the hybrid's ResNet; rollout_paper.py, what the model looks at;
vit_weights_paper.py, weights of timm, torchvision and transformers.

Map of this file:
    ViTConfig                       sizes; ``published`` has those of Table 1
    PatchEmbed, Attention, MLP, Block
    VisionTransformer               the model; ``attention_maps``
    resize_positions, resized       the same weights at another resolution
    loss_function, paper_optimizer

Shapes: B batch; C, H, W channels, height, width; P patch side; G = H/P patches along a side; T
tokens (G*G, and the class token); D width; nH heads of width Dh; K classes.

Read before: 10_ViT/numpy/vit_numpy.py, 10_ViT/pytorch_lowlevel/vit_lowlevel.py; 10_ViT/theory.md.

Deviations from the paper: it does not say how weights start; here as in the authors' program. Its
Adam has weight decay, and we take the decoupled one of AdamW. Positions are interpolated
bicubically with antialiasing, as timm does; the authors did it bilinearly.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Table 1: layers, width, width of the MLP, heads.
SIZES = {"B": (12, 768, 3072, 12), "L": (24, 1024, 4096, 16), "H": (32, 1280, 5120, 16)}
PUBLISHED = ("B/16", "B/32", "L/16", "L/32", "H/14")
POOLS = ("cls", "gap")


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a Vision Transformer; the defaults are B/16.

    Args:
        image_size: H = W. patch_size: P. width: D. layers: L. heads: nH. hidden: F.
        classes: K; 0 leaves the head out, and the model gives features. channels: C.
        pool: what the head sees, "cls", the class token, or "gap", the mean of all patches; then
            there is no class token.
        representation: width of a hidden layer with tanh before the head (pre-training); 0 = none.
        dropout: after the positions are added, and after every linear layer of the blocks but qkv.
        eps: of the layer norms.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    classes: int = 1000
    channels: int = 3
    pool: str = "cls"
    representation: int = 0
    dropout: float = 0.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "width", "layers", "heads", "hidden", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"expected a patch size that divides {self.image_size}, got {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"expected a width that {self.heads} heads divide, got {self.width}")
        if self.pool not in POOLS:
            raise ValueError(f"expected a pool of {POOLS}, got {self.pool!r}")
        if self.classes < 0 or self.representation < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "expected classes and representation of at least 0 and dropout in [0, 1), "
                f"got {self.classes}, {self.representation}, {self.dropout}"
            )

    @classmethod
    def published(cls, name: str, **changes: Any) -> "ViTConfig":
        """A model of the paper: B/16, B/32, L/16, L/32 or H/14, with changed fields if wanted."""
        if name not in PUBLISHED:
            raise ValueError(f"expected a model of {', '.join(PUBLISHED)}; got {name!r}")
        size, patch = name.split("/")
        layers, width, hidden, heads = SIZES[size]
        return replace(cls(224, int(patch), width, layers, heads, hidden), **changes)

    @property
    def grid(self) -> int:
        """G, patches along a side."""
        return self.image_size // self.patch_size

    @property
    def prefix(self) -> int:
        """Tokens before the patches: the class token, or none."""
        return int(self.pool == "cls")


class PatchEmbed(nn.Module):
    """Cut the image into patches, and map each to a vector (eqs. 10.1, 10.2): a convolution."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        P = config.patch_size
        self.proj = nn.Conv2d(config.channels, config.width, kernel_size=P, stride=P)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, G*G, D), row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, D, G, G) -> (B, G*G, D)


class Attention(nn.Module):
    """Multi-head self-attention; one product makes queries, keys, values (eqs. 10.4, 10.5)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, nH, T, Dh) of x (B, T, D)."""
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.heads, D // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, T, 3, nH, Dh) -> 3 times (B, nH, T, Dh)

    def weights(self, x: Tensor) -> Tensor:
        """Who looks at whom: (B, nH, T, T), each row sums to 1.

        For pictures alone: the fused kernel of :meth:`forward` does not give them out.
        """
        q, k, _ = self.split(x)
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        y = F.scaled_dot_product_attention(*self.split(x))
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, nH, T, Dh) -> (B, T, D)


class MLP(nn.Module):
    """Linear, GELU in its exact form, linear (eq. 10.6)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.fc2(self.drop(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """The encoder's layer, normalised before each branch (eqs. 10.7 and 10.8)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, config.eps)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Patches, class token, positions, blocks, norm, head (eqs. 10.3 to 10.10); timm's names.

    Args:
        embed: what makes (B, G*G, D) of images, in place of linear patches: the hybrid's.
    """

    def __init__(self, config: ViTConfig | None = None, embed: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config = config or ViTConfig()
        self.patch_embed = embed or PatchEmbed(config)
        D = config.width
        if config.pool == "cls":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.pos_embed = nn.Parameter(torch.empty(1, config.prefix + config.grid**2, D))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(D, config.eps)
        R = config.representation
        self.pre_logits = nn.Sequential(nn.Linear(D, R), nn.Tanh()) if R else nn.Identity()
        self.head = nn.Linear(R or D, config.classes) if config.classes else nn.Identity()
        self.initialise()

    @classmethod
    def of(cls, embed: nn.Module | None = None, **sizes: Any) -> "VisionTransformer":
        """The model with these fields of :class:`ViTConfig`."""
        return cls(ViTConfig(**sizes), embed)

    def initialise(self) -> None:
        """Glorot's rule, biases of the MLP about 1e-6, positions 0.02; the head is zero."""
        nn.init.normal_(self.pos_embed, std=0.02)
        if isinstance(self.patch_embed, PatchEmbed):
            weight = self.patch_embed.proj.weight
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
            nn.init.zeros_(self.patch_embed.proj.bias)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                # Queries, keys and values are three layers that happen to lie in one matrix.
                for weight in layer.weight.data.chunk(3 if name.endswith("qkv") else 1):
                    nn.init.xavier_uniform_(weight)
                nn.init.normal_(layer.bias, std=1e-6 if ".mlp." in name else 0.0)
        if self.config.classes:
            nn.init.zeros_(self.head.weight)

    def tokens(self, x: Tensor) -> Tensor:
        """What enters the first block: (B, C, H, W) -> (B, T, D).

        Raises:
            ValueError: the images have another shape.
        """
        C, H = self.config.channels, self.config.image_size
        if x.ndim != 4 or x.shape[1:] != (C, H, H):
            raise ValueError(f"expected images (B, {C}, {H}, {H}), got {tuple(x.shape)}")
        x = self.patch_embed(x)
        if self.config.pool == "cls":
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # -> (B, G*G + 1, D)
        return self.drop(x + self.pos_embed)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W); without a head, features (B, D)."""
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        x = x[:, 0] if self.config.pool == "cls" else x.mean(dim=1)  # (B, T, D) -> (B, D)
        return self.head(self.pre_logits(x))

    @torch.no_grad()
    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """The weights (B, nH, T, T) of every block for images (B, C, H, W)."""
        x, maps = self.tokens(x), []
        for block in self.blocks:
            maps.append(block.attn.weights(block.norm1(x)))
            x = block(x)
        return maps


# --- other resolutions


def resize_positions(pos_embed: Tensor, grid: int, prefix: int = 1) -> Tensor:
    """Positions for ``grid`` patches along a side (eq. 10.24): (1, T, D) -> another T.

    Args:
        prefix: tokens before the patches; theirs stay as they are.
    """
    first, patches = pos_embed[:, :prefix], pos_embed[:, prefix:]
    _, N, D = patches.shape
    old = round(N**0.5)
    if old == grid:
        return pos_embed
    patches = patches.view(1, old, old, D).permute(0, 3, 1, 2)  # (1, N, D) -> (1, D, old, old)
    patches = F.interpolate(patches, (grid, grid), mode="bicubic", antialias=True)
    return torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)


def resized(model: VisionTransformer, image_size: int) -> VisionTransformer:
    """A new model for other images, its weights copied, positions interpolated (section 3.2)."""
    config = replace(model.config, image_size=image_size)
    embed = None if isinstance(model.patch_embed, PatchEmbed) else deepcopy(model.patch_embed)
    other = VisionTransformer(config, embed).to(model.pos_embed)
    state = model.state_dict()
    state["pos_embed"] = resize_positions(state["pos_embed"], config.grid, config.prefix)
    other.load_state_dict(state)
    return other.train(model.training)


# --- training


def loss_function(
    model: nn.Module, batch: tuple[Tensor, Tensor], label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of images (B, C, H, W) and labels (B,)."""
    return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=label_smoothing)


def paper_optimizer(
    parameters: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.1
) -> torch.optim.AdamW:
    """Adam with β of 0.9 and 0.999 and high weight decay (section 4.1), on every parameter."""
    return torch.optim.AdamW(parameters, lr, betas=(0.9, 0.999), weight_decay=weight_decay)
