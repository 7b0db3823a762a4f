"""The hybrid's ResNet (level 3): what makes the tokens of R50+ViT-B/16, in place of patches.

Papers: A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929, sections 3.1
(hybrid architecture) and 4.1; Y. Wu, K. He, "Group Normalization", 2018, arXiv:1803.08494: mean and
variance over a group of channels of one image, not over the batch as in chapter 05; S. Qiao et al.,
"Weight Standardization", 2019, arXiv:1903.10520.

Map of this file:
    same_padding      as TensorFlow pads: what is odd goes to the right and below
    StdConv2d         a convolution whose kernels are standardised
    Bottleneck        1x1, 3x3 with the stride, 1x1, each with group normalisation
    ResNetV2          stem and stages
    HybridEmbed       the map's cells as tokens

    model = VisionTransformer(ViTConfig.published("B/16"), HybridEmbed())

Shapes: B batch; C channels; H, W height and width; D width of the Transformer; G tokens along a
side. The names of the state are timm's, ``patch_embed.backbone.stem.conv.weight``, ...

Read before: vit_paper.py; 05_ResNet/theory.md, section 6 (bottlenecks).

Deviations from the paper: none. It has two ways: a whole ResNet50, ``layers=(3, 4, 6, 3)``, whose
map has a 32nd of the image's side (R50+ViT-B/32); or, the default here, no fourth stage and a third
one longer by the fourth's three blocks, so that the map has a sixteenth (R50+ViT-B/16).
"""

import torch.nn.functional as F
from torch import Tensor, nn

R50 = (3, 4, 9)  # blocks of each stage: 3, 4, 6 and the 3 of the stage that was left out
GROUPS = 32


def same_padding(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad (B, C, H, W) so that a kernel gives ceil(H/stride) x ceil(W/stride) places."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        lacking = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [lacking // 2, lacking - lacking // 2]
    return F.pad(x, pads, value=value)


class StdConv2d(nn.Conv2d):
    """A convolution without bias; each kernel has mean 0 and variance 1 when it is used."""

    def __init__(self, C: int, Co: int, kernel: int, stride: int = 1) -> None:
        super().__init__(C, Co, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Co, ceil(H/stride), ceil(W/stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        axes = (1, 2, 3)
        centred = self.weight - self.weight.mean(axes, keepdim=True)
        var = centred.square().mean(axes, keepdim=True)
        return F.conv2d(
            same_padding(x, kernel, stride), centred / (var + 1e-8).sqrt(), None, stride
        )


class Downsample(nn.Module):
    """The shortcut where the size changes: a 1x1 convolution, normalised."""

    def __init__(self, C: int, Co: int, stride: int) -> None:
        super().__init__()
        self.conv, self.norm = StdConv2d(C, Co, 1, stride), nn.GroupNorm(GROUPS, Co)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Co, H/stride, W/stride)."""
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """The block of 2015 with the stride in its 3x3; ReLU after the sum."""

    def __init__(self, C: int, width: int, stride: int) -> None:
        super().__init__()
        Co = 4 * width
        self.downsample = Downsample(C, Co, stride) if Co != C or stride > 1 else None
        self.conv1, self.norm1 = StdConv2d(C, width, 1), nn.GroupNorm(GROUPS, width)
        self.conv2, self.norm2 = StdConv2d(width, width, 3, stride), nn.GroupNorm(GROUPS, width)
        self.conv3, self.norm3 = StdConv2d(width, Co, 1), nn.GroupNorm(GROUPS, Co)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(self.norm3(self.conv3(x)) + shortcut)


class Stage(nn.Module):
    """Bottlenecks one after the other; the first may halve the map."""

    def __init__(self, C: int, width: int, stride: int, count: int) -> None:
        super().__init__()
        first = Bottleneck(C, width, stride)
        self.blocks = nn.Sequential(
            first, *(Bottleneck(4 * width, width, 1) for _ in range(count - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H/stride, W/stride)."""
        return self.blocks(x)


class ResNetV2(nn.Module):
    """7x7 convolution and max pooling, then the stages: a sixteenth of the side for three."""

    def __init__(self, layers: tuple[int, ...] = R50, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.ModuleDict(
            {"conv": StdConv2d(channels, width, 7, 2), "norm": nn.GroupNorm(GROUPS, width)}
        )
        stages, C = [], width
        for i, count in enumerate(layers):
            stages.append(Stage(C, width * 2**i, 1 if i == 0 else 2, count))
            C = 4 * width * 2**i
        self.stages = nn.Sequential(*stages)
        self.out_channels, self.reduction = C, 4 * 2 ** (len(layers) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H/reduction, W/reduction)."""
        x = F.relu(self.stem["norm"](self.stem["conv"](x)))
        # Padded with what no maximum ever is.
        x = F.max_pool2d(same_padding(x, 3, 2, float("-inf")), 3, 2)
        return self.stages(x)


class HybridEmbed(nn.Module):
    """A ResNet's map, its cells mapped to vectors of width D: takes the place of ``PatchEmbed``.

    Args:
        width: D. layers, channels, stem: see :class:`ResNetV2`.
        patch: cells along a side of one token; the patch size of the model is this times the
            ResNet's reduction.
    """

    def __init__(
        self,
        width: int = 768,
        layers: tuple[int, ...] = R50,
        channels: int = 3,
        stem: int = 64,
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = ResNetV2(layers, channels, stem)
        self.proj = nn.Conv2d(self.backbone.out_channels, width, patch, patch)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, G*G, D), row by row."""
        return self.proj(self.backbone(x)).flatten(2).transpose(1, 2)
