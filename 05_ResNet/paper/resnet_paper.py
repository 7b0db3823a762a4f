"""ResNet for ImageNet (level 3): 18, 34, 50, 101 and 152 layers, as Table 1 of the paper has them.

Paper: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385, sections 3 and 4.1. The networks for CIFAR-10 (section 4.2) are
cifar_resnet_paper.py, beside this file.

Map of this file:
    ResNetConfig              blocks, version, kind of shortcut
    ZeroPaddedShortcut        option A: the identity, with zeros for new channels
    make_shortcut             which shortcut a block gets: identity, option A, or a projection
    BasicBlock, Bottleneck    the two blocks of Fig. 5
    ResNet                    the network
    multiply_adds             counts them, as the last row of Table 1 does
    ten_crop, ten_crop_probabilities    the paper's test procedure
    paper_optimizer           SGD with the paper's numbers
    from_pretrained           weights of torchvision or timm

Shapes: B batch; C channels; H, W height and width; K classes.

Read before: 05_ResNet/numpy/resnet_numpy.py, 05_ResNet/pytorch_lowlevel/resnet_lowlevel.py;
05_ResNet/theory.md sections 4 to 8 and 10.

Deviations from the paper: running averages in batch normalisation, where the paper computes the
statistics anew after training; the last layer starts with a standard deviation of 0.01, after Goyal
et al. 2017 (arXiv:1706.02677), for the paper does not say. There is no schedule of the
learning rate, which the paper divides by 10 "when the error plateaus".
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
LAYERS |= {101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)  # channels of the 3x3 convolutions in the four stages
VERSIONS, SHORTCUTS = ("v1", "v1.5"), ("A", "B", "C", "none")


@dataclass(frozen=True)
class ResNetConfig:
    """One of the networks of Table 1, or one between.

    Args:
        layers: blocks in each of the four stages.
        bottleneck: blocks of three convolutions, 1x1, 3x3, 1x1; otherwise of two, 3x3 and 3x3.
        version: where a bottleneck halves the map: "v1" in its first 1x1, as the paper; "v1.5" in
            its 3x3, as torchvision and timm.
        shortcut: where the size changes, "A" pads with zeros and "B" projects; "C" projects
            everywhere; "none" gives the plain network.
        classes: K.
    """

    layers: tuple[int, ...] = LAYERS[50]
    bottleneck: bool = True
    version: str = "v1"
    shortcut: str = "B"
    classes: int = 1000

    def __post_init__(self) -> None:
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ValueError(f"expected four positive numbers of blocks, got {self.layers}")
        for name, known in (("version", VERSIONS), ("shortcut", SHORTCUTS)):
            if getattr(self, name) not in known:
                got = getattr(self, name)
                raise ValueError(f"expected {name} of {', '.join(known)}; got {got!r}")
        if self.classes < 1:
            raise ValueError(f"expected a positive number of classes, got {self.classes}")

    @classmethod
    def published(cls, depth: int, version: str = "v1", shortcut: str = "B") -> "ResNetConfig":
        """The network of 18, 34, 50, 101 or 152 layers."""
        if depth not in LAYERS:
            raise ValueError(f"expected a depth of {', '.join(map(str, LAYERS))}, got {depth}")
        return cls(LAYERS[depth], depth >= 50, version, shortcut)


class ZeroPaddedShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, and zeros for the channels that x lacks (eq. 5.20)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H/stride, W/stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))


def make_shortcut(C: int, Co: int, stride: int, kind: str) -> nn.Module | None:
    """What stands beside the branch: None for the identity, else the module ``downsample``."""
    changes = stride != 1 or Co != C
    if kind == "none" or (not changes and kind != "C"):
        return None
    if kind == "A":
        return ZeroPaddedShortcut(Co, stride)
    conv = nn.Conv2d(C, Co, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(Co))  # eq. 5.28


class BasicBlock(nn.Module):
    """Two convolutions of 3x3 (Fig. 5, left): C channels to ``width``."""

    expansion = 1

    def __init__(self, C: int, width: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(C, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.residual = config.shortcut != "none"
        self.downsample = make_shortcut(C, width, stride, config.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H/stride, W/stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        if not self.residual:
            return self.relu(branch)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(branch + shortcut)  # eq. 5.19


class Bottleneck(nn.Module):
    """1x1 to ``width`` channels, 3x3, and 1x1 to four times as many (Fig. 5, right)."""

    expansion = 4

    def __init__(self, C: int, width: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        Co = self.expansion * width
        first, second = (stride, 1) if config.version == "v1" else (1, stride)
        self.conv1 = nn.Conv2d(C, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, Co, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(Co)
        self.relu = nn.ReLU()
        self.residual = config.shortcut != "none"
        self.downsample = make_shortcut(C, Co, stride, config.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H/stride, W/stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        if not self.residual:
            return self.relu(branch)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(branch + shortcut)


class ResNet(nn.Module):
    """7x7 convolution, max pooling, four stages of blocks, global average pooling, one layer.

    The names of the state are torchvision's, and timm's: conv1, bn1, layer1.0.conv1, ..., fc.
    """

    def __init__(self, config: ResNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or ResNetConfig()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        block = Bottleneck if self.config.bottleneck else BasicBlock
        C = 64
        for stage, (width, count) in enumerate(zip(WIDTHS, self.config.layers, strict=True)):
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and stage > 0 else 1
                blocks.append(block(C, width, stride, self.config))
                C = block.expansion * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(C, self.config.classes)
        self.initialise()

    def initialise(self) -> None:
        """He initialisation of the convolutions, gains 1, biases 0; a small last layer."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """The maps after conv1 and after each stage, by name: Table 1's column "output size"."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"expected images (B, 3, H, W), got {tuple(x.shape)}")
        x = self.relu(self.bn1(self.conv1(x)))  # (B, 3, H, W) -> (B, 64, H/2, W/2)
        maps = {"conv1": x}
        x = self.maxpool(x)  # -> (B, 64, H/4, W/4)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = maps[name] = getattr(self, name)(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W).

        Raises:
            ValueError: the images have another shape.
        """
        x = self.stages(x)["layer4"]  # (B, 512 or 2048, H/32, W/32)
        return self.fc(x.mean(dim=(2, 3)))  # -> (B, 512 or 2048) -> (B, K)


# --- the paper's figures


def multiply_adds(model: nn.Module, shape: tuple[int, int, int] = (3, 224, 224)) -> int:
    """Multiply-adds of convolutions and linear layers for one image (C, H, W) (eq. 5.30).

    Works on the ``meta`` device too, where nothing is computed.
    """
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal total
        # Each output number takes as many products as its output channel has weights.
        total += y.numel() * layer.weight[0].numel()

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape, device=next(model.parameters()).device))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return total


# --- the paper's test procedure


def ten_crop(images: Tensor, size: int = 224) -> Tensor:
    """Four corners and the centre, of the images and of their mirrors: (10, B, C, size, size).

    Raises:
        ValueError: the images (B, C, H, W) are smaller than the crops.
    """
    H, W = images.shape[-2:]
    if min(H, W) < size:
        raise ValueError(f"expected images of at least {size}x{size}, got {H}x{W}")
    bottom, right = H - size, W - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    corners.append((round(bottom / 2), round(right / 2)))
    crops = [
        view[..., top : top + size, left : left + size]
        for view in (images, images.flip(-1))
        for top, left in corners
    ]
    return torch.stack(crops)


@torch.no_grad()
def ten_crop_probabilities(model: nn.Module, images: Tensor, size: int = 224) -> Tensor:
    """The mean of the ten crops' probabilities: (B, K)."""
    return torch.stack([model(crop).softmax(dim=1) for crop in ten_crop(images, size)]).mean(dim=0)


# --- training and weights


def paper_optimizer(parameters: Iterable[nn.Parameter], lr: float = 0.1) -> torch.optim.SGD:
    """SGD as in section 3.4: momentum 0.9, weight decay 0.0001 on every parameter."""
    return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=0.0001)


def from_pretrained(depth: int, library: str = "torchvision") -> ResNet:
    """A network with the weights that torchvision or timm publishes for ImageNet; downloads them.

    Both trained the version "v1.5" with option B, and with other recipes than the paper's; the
    images have to be prepared as the library says.

    Raises:
        ValueError: another depth or library.
    """
    model = ResNet(ResNetConfig.published(depth, version="v1.5"))
    if library == "torchvision":
        from torchvision.models import get_model

        source = get_model(f"resnet{depth}", weights="DEFAULT")
    elif library == "timm":
        from timm import create_model

        source = create_model(f"resnet{depth}", pretrained=True)
    else:
        raise ValueError(f"expected library 'torchvision' or 'timm', got {library!r}")
    model.load_state_dict(source.state_dict())
    return model.eval()
