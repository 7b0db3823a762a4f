"""CLIP (level 3): an image encoder and a text encoder that meet in one space.

Paper: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020, sections 2.3 to 2.5 and Tables 18 to 20. Beside this file:
clip_resnet_paper.py, the modified ResNets; clip_loss_paper.py, the losses and the optimiser;
clip_retrieval_paper.py, zero-shot classifiers and recall; clip_weights_paper.py, published weights.

Map of this file:
    CLIPConfig            sizes; ``published`` has those of the paper
    QuickGELU, Attention, Block, Transformer
    VisionTransformer     images to vectors of width E
    CLIP                  both encoders; ``encode_image``, ``encode_text``

Shapes: B batch; H = W side of an image, P of a patch, G = H/P; T tokens of a text, or patches and
the class token; D width; nH heads of width Dh; V vocabulary; E width of the common space.

Read before: 12_CLIP/numpy/clip_numpy.py, 12_CLIP/pytorch_lowlevel/clip_lowlevel.py;
12_CLIP/theory.md; 10_ViT/paper/vit_paper.py.

Deviations from the paper: the ViT starts by the rule of the text encoder, which the authors'
program leaves at PyTorch's defaults; no vocabulary comes along, and one that was learnt
(12_CLIP/numpy/clip_tokenizer_numpy.py) or another's file serves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Image encoder: side, patch (0 = ResNet), width, layers; common width; text: width. Tables 19, 20.
_SIZES: dict[str, tuple[Any, ...]] = {
    "ViT-B/32": (224, 32, 768, 12, 512, 512),
    "ViT-B/16": (224, 16, 768, 12, 512, 512),
    "ViT-L/14": (224, 14, 1024, 24, 768, 768),
    "ViT-L/14@336px": (336, 14, 1024, 24, 768, 768),
    "RN50": (224, 0, 64, (3, 4, 6, 3), 1024, 512),
    "RN101": (224, 0, 64, (3, 4, 23, 3), 512, 512),
    "RN50x4": (288, 0, 80, (4, 6, 10, 6), 640, 640),
    "RN50x16": (384, 0, 96, (6, 8, 18, 8), 768, 768),
    "RN50x64": (448, 0, 128, (3, 15, 36, 10), 1024, 1024),
}
PUBLISHED = tuple(_SIZES)
HEAD = 64  # width of a head in all published models
ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of both encoders; the defaults are ViT-B/32.

    Args:
        embed: E, width of the common space. image_size: H = W.
        patch_size: P; 0 for a ResNet, which is given to :class:`CLIP` as a module.
        vision_width: D of the ViT, or channels behind the ResNet's stem.
        vision_layers: blocks of the ViT, or four numbers of blocks of a ResNet.
        vision_heads: nH of the ViT, or of the ResNet's attention pooling.
        context: T, tokens of a text at most. vocabulary: V; the last token is the end of text.
        text_width, text_layers, text_heads: of the text encoder.
        activation: "quick_gelu" (the published models), or "gelu", exact.
        logit_bias: a bias of the logits, for the pairwise sigmoid loss.
    """

    embed: int = 512
    image_size: int = 224
    patch_size: int = 32
    vision_width: int = 768
    vision_layers: int | tuple[int, ...] = 12
    vision_heads: int = 12
    context: int = 77
    vocabulary: int = 49_408
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    activation: str = "quick_gelu"
    logit_bias: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            lowest = 0 if name in ("patch_size", "logit_bias") else 1
            if isinstance(value, int) and value < lowest:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"expected activation of {ACTIVATIONS}, got {self.activation!r}")
        if self.text_width % self.text_heads:
            raise ValueError(
                f"expected a text width that {self.text_heads} heads divide, got {self.text_width}"
            )
        resnet, blocks = not self.patch_size, self.vision_layers
        numbers = (blocks,) if isinstance(blocks, int) else blocks
        if len(numbers) != (4 if resnet else 1) or min(numbers) < 1:
            raise ValueError(f"expected one number of blocks, of a ResNet four, got {blocks}")
        unit = self.patch_size or 32
        if self.image_size % unit:
            raise ValueError(f"expected a side that {unit} divides, got {self.image_size}")
        width = self.vision_width * (32 if resnet else 1)
        if width % self.vision_heads or (resnet and self.vision_width % 2):
            raise ValueError(
                f"expected a vision width that {self.vision_heads} heads divide, got {width}"
            )

    @classmethod
    def published(cls, name: str, **changes: Any) -> "CLIPConfig":
        """A model of the paper by OpenAI's name, with changed fields if wanted."""
        if name not in _SIZES:
            raise ValueError(f"expected a model of {', '.join(PUBLISHED)}; got {name!r}")
        side, patch, width, layers, embed, text = _SIZES[name]
        heads = (width if patch else 32 * width) // HEAD
        sizes = cls(
            embed, side, patch, width, layers, heads, text_width=text, text_heads=text // HEAD
        )
        return replace(sizes, **changes)


class QuickGELU(nn.Module):
    """A cheap stand-in for GELU (eq. 12.1): x σ(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.silu(1.702 * x) / 1.702  # SiLU is y σ(y), in one operation


class Attention(nn.Module):
    """Multi-head self-attention, queries, keys and values by one product; PyTorch's names."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, nH, T, Dh) of x (B, T, D)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, T, D) -> (B, T, 3D)
        parts = qkv.chunk(3, dim=-1)  # -> 3 times (B, T, D)
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        y = F.scaled_dot_product_attention(*self.split(x), is_causal=self.causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))  # (B, nH, T, Dh) -> (B, T, D)


class Block(nn.Module):
    """Attention, then an MLP four times as wide, each normalised before (eqs. 12.2 and 12.3)."""

    def __init__(self, width: int, heads: int, causal: bool, activation: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, causal)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(width, 4 * width),
                "gelu": QuickGELU() if activation == "quick_gelu" else nn.GELU(),
                "c_proj": nn.Linear(4 * width, width),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.attn(self.ln_1(x))
        h = self.mlp["c_fc"](self.ln_2(x))  # (B, T, D) -> (B, T, 4D)
        return x + self.mlp["c_proj"](self.mlp["gelu"](h))


class Transformer(nn.Module):
    """Blocks one after the other; those of the text look at nothing that comes later."""

    def __init__(
        self, width: int, layers: int, heads: int, causal: bool, activation: str = "quick_gelu"
    ) -> None:
        super().__init__()
        blocks = (Block(width, heads, causal, activation) for _ in range(layers))
        self.resblocks = nn.ModuleList(blocks)
        for block in self.resblocks:
            # What is added to the sum gets smaller with the number of terms.
            for layer, std in (
                (block.attn.out_proj, (2 * layers * width) ** -0.5),
                (block.mlp["c_fc"], (2 * width) ** -0.5),
                (block.mlp["c_proj"], (2 * layers * width) ** -0.5),
            ):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        for block in self.resblocks:
            x = block(x)
        return x


class VisionTransformer(nn.Module):
    """Chapter 10's, with a norm before the blocks and a projection at the end (eqs. 12.4, 12.5)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        D, P, layers = config.vision_width, config.patch_size, config.vision_layers
        if not isinstance(layers, int):
            raise ValueError("expected a ViT; a ResNet is given as CLIP(config, visual)")
        self.image_size = config.image_size
        self.conv1 = nn.Conv2d(3, D, kernel_size=P, stride=P, bias=False)
        std, tokens = D**-0.5, (config.image_size // P) ** 2 + 1
        self.class_embedding = nn.Parameter(std * torch.randn(D))
        self.positional_embedding = nn.Parameter(std * torch.randn(tokens, D))
        self.ln_pre = nn.LayerNorm(D)
        self.transformer = Transformer(D, layers, config.vision_heads, False, config.activation)
        self.ln_post = nn.LayerNorm(D)
        self.proj = nn.Parameter(std * torch.randn(D, config.embed))

    def tokens(self, x: Tensor) -> Tensor:
        """What enters the first block: (B, 3, H, W) -> (B, G*G + 1, D)."""
        x = self.conv1(x).flatten(2).mT  # (B, D, G, G) -> (B, G*G, D)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        return self.ln_pre(x + self.positional_embedding)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, E)."""
        if x.ndim != 4 or x.shape[1:] != (3, self.image_size, self.image_size):
            side = self.image_size
            raise ValueError(f"expected images (B, 3, {side}, {side}), got {tuple(x.shape)}")
        x = self.transformer(self.tokens(x))
        return self.ln_post(x[:, 0]) @ self.proj  # (B, T, D) -> (B, D) -> (B, E)


class CLIP(nn.Module):
    """Both encoders and the temperature; parameters have OpenAI's names.

    Args:
        visual: the image encoder, (B, 3, H, W) -> (B, E); by default the ViT of ``config``.

    Attributes:
        logit_scale: the logarithm of what the cosines are multiplied by, at first ln(1 / 0.07).
        logit_bias: if there is one, at first -10, and the scale ln 10.
    """

    def __init__(self, config: CLIPConfig | None = None, visual: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config = config or CLIPConfig()
        self.visual = visual if visual is not None else VisionTransformer(config)
        D, heads = config.text_width, config.text_heads
        self.token_embedding = nn.Embedding(config.vocabulary, D)
        self.positional_embedding = nn.Parameter(torch.empty(config.context, D))
        self.transformer = Transformer(D, config.text_layers, heads, True, config.activation)
        self.ln_final = nn.LayerNorm(D)
        self.text_projection = nn.Parameter(torch.empty(D, config.embed))
        first = 10.0 if config.logit_bias else 1 / 0.07
        self.logit_scale = nn.Parameter(torch.tensor(math.log(first)))
        if config.logit_bias:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=D**-0.5)

    @classmethod
    def of(cls, resnet: Callable[[CLIPConfig], nn.Module], **sizes: Any) -> "CLIP":
        """The model with these fields of :class:`CLIPConfig`; ``resnet`` builds if P is 0."""
        config = CLIPConfig(**sizes)
        return cls(config, None if config.patch_size else resnet(config))

    def encode_image(self, images: Tensor) -> Tensor:
        """Vectors of length 1 (eq. 12.8): (B, 3, H, W) -> (B, E)."""
        return F.normalize(self.visual(images), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """The same of token numbers (eqs. 12.6 to 12.8): (B, T) -> (B, E).

        The vector is read off at the first end of text; what stands behind it does not matter.

        Raises:
            ValueError: tokens of another shape, or a text without an end.
        """
        T, end = self.config.context, self.config.vocabulary - 1
        if tokens.ndim != 2 or tokens.shape[1] > T:
            raise ValueError(f"expected tokens (B, T), T at most {T}, got {tuple(tokens.shape)}")
        ends = tokens == end
        if not ends.any(dim=1).all():
            raise ValueError(f"expected the end of text, {end}, in each row")
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer(x))
        x = x[torch.arange(len(x)), ends.int().argmax(dim=1)]  # (B, T, D) -> (B, D)
        return F.normalize(x @ self.text_projection, dim=-1)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """Image vectors and text vectors (B, E), the scale, and the bias if there is one."""
        vectors = self.encode_image(images), self.encode_text(tokens)
        bias = (self.logit_bias,) if self.config.logit_bias else ()
        return (*vectors, self.logit_scale.exp(), *bias)

    @torch.no_grad()
    def clamp_scale(self, largest: float = 100.0) -> None:
        """After each step: cosines are multiplied by at most so much (section 2.5)."""
        self.logit_scale.clamp_(max=math.log(largest))
