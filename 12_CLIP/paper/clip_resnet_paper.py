"""CLIP's ResNets (level 3): three convolutions in the stem, blurred strides, attention pooling.

Paper: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020, section 2.4 and Table 19. From K. He et al., "Bag of Tricks for Image
Classification with Convolutional Neural Networks", 2018, arXiv:1812.01187, the ResNet-D; from
R. Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, arXiv:1904.11486, the blur.

Map of this file:
    Bottleneck        averages where the ResNet of chapter 05 strides
    AttentionPool     the mean asks, all places answer
    ModifiedResNet    RN50 to RN50x64 by their sizes

    CLIP(config, ModifiedResNet.of(config)) with the config and the CLIP of clip_paper.py.

Shapes: B batch; C channels; H, W height and width; D = 32 * width channels at the end; nH heads; E
width of the common space.

Read before: 05_ResNet/paper/resnet_paper.py; 12_CLIP/theory.md, section 4.

Deviations from the paper: none known; the convolutions start as PyTorch's do, as in the authors'
program.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Sizes(Protocol):
    """What :meth:`ModifiedResNet.of` reads: the fields of ``CLIPConfig``."""

    vision_layers: Any
    vision_width: Any
    vision_heads: Any
    image_size: Any
    embed: Any


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, all with stride 1: a mean over 2x2 halves the map, on both ways (eq. 12.9)."""

    expansion = 4

    def __init__(self, C: int, width: int, stride: int) -> None:
        super().__init__()
        Co = self.expansion * width
        self.conv1 = nn.Conv2d(C, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(stride)
        self.conv3 = nn.Conv2d(width, Co, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(Co)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride > 1 or Co != C:
            # OpenAI's names: the mean has none of its own, "-1" stands before "0" and "1".
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride))
            self.downsample.add_module("0", nn.Conv2d(C, Co, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(Co))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4*width, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.avgpool(self.relu(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    """The mean over all places asks, it and the places answer (eqs. 12.10 and 12.11)."""

    def __init__(self, side: int, width: int, heads: int, embed: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) / width**0.5)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, E)."""
        x = x.flatten(2).mT  # (B, D, H, W) -> (B, H*W, D)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding
        B, _, D = x.shape
        q, k, v = (
            layer(part).view(B, -1, self.heads, D // self.heads).transpose(1, 2)
            for layer, part in ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x))
        )  # (B, 1 or T, D) -> (B, nH, 1 or T, Dh)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.c_proj(y.transpose(1, 2).reshape(B, D))  # (B, nH, 1, Dh) -> (B, E)


class ModifiedResNet(nn.Module):
    """The image encoder of RN50, RN101, RN50x4, RN50x16 and RN50x64; parameters as OpenAI's.

    Args:
        layers: blocks in each of the four stages. width: channels behind the stem.
        heads: nH of the attention pooling. image_size: H = W, a multiple of 32. embed: E.
    """

    def __init__(
        self, layers: tuple[int, ...], width: int, heads: int, image_size: int, embed: int
    ) -> None:
        super().__init__()
        if image_size % 32 or 32 * width % heads:
            raise ValueError(
                "expected a side that 32 divides and heads that divide 32 times the width, "
                f"got {image_size}, {heads} and {width}"
            )
        self.image_size = image_size
        half = width // 2
        self.conv1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu, self.avgpool = nn.ReLU(), nn.AvgPool2d(2)
        C = width
        for i, blocks in enumerate(layers):
            stage = []
            for j in range(blocks):
                stage.append(Bottleneck(C, width * 2**i, 2 if i > 0 and j == 0 else 1))
                C = Bottleneck.expansion * width * 2**i
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.attnpool = AttentionPool(image_size // 32, C, heads, embed)
        for block in (m for m in self.modules() if isinstance(m, Bottleneck)):
            nn.init.zeros_(block.bn3.weight)  # at first a branch adds nothing

    @classmethod
    def of(cls, config: Sizes) -> "ModifiedResNet":
        """The encoder that a ``CLIPConfig`` describes."""
        return cls(
            config.vision_layers,
            config.vision_width,
            config.vision_heads,
            config.image_size,
            config.embed,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, E)."""
        if x.ndim != 4 or x.shape[1:] != (3, self.image_size, self.image_size):
            side = self.image_size
            raise ValueError(f"expected images (B, 3, {side}, {side}), got {tuple(x.shape)}")
        for i in (1, 2, 3):
            conv, norm = getattr(self, f"conv{i}"), getattr(self, f"bn{i}")
            x = self.relu(norm(conv(x)))
        x = self.avgpool(x)  # (B, width, H/4, W/4)
        for i in (1, 2, 3, 4):
            x = getattr(self, f"layer{i}")(x)
        return self.attnpool(x)  # (B, 32*width, H/32, W/32) -> (B, E)
