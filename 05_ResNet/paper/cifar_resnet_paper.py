"""ResNet for CIFAR-10 (level 3): 20, 32, 44, 56, 110 layers, and their plain counterparts.

Paper: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385, section 4.2.

Map of this file:
    ResNetConfig        depth, plain or residual, classes
    BasicBlock          two convolutions and the way around them (option A)
    CifarResNet         the network
    loss_function       softmax cross-entropy, for the shared training loop
    augment             random crops and mirror images
    paper_optimizer     SGD with the paper's numbers
    paper_schedule      when the learning rate falls, and the warm-up for 110 layers

Shapes: B batch; C channels; H, W height and width; K classes.

Read before: 05_ResNet/numpy/resnet_numpy.py, 05_ResNet/pytorch_lowlevel/resnet_lowlevel.py;
05_ResNet/theory.md sections 4, 7 and 9.

Deviations from the paper: running averages in batch normalisation, where the paper computes the
statistics anew after training; the last layer starts with a standard deviation of 0.01, after Goyal
et al. 2017 (arXiv:1706.02677), for the paper does not say. The warm-up has a fixed length, where
the paper waits until the training error is below 80 %.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)  # channels of the three stages


@dataclass(frozen=True)
class ResNetConfig:
    """A network of section 4.2.

    Args:
        depth: 6n + 2 layers with weights: 20, 32, 44, 56, 110, 1202 in the paper; 8 is for tries.
        residual: False leaves the shortcuts out, which gives the paper's plain networks.
        classes: K. channels: of the images.
    """

    depth: int = 20
    residual: bool = True
    classes: int = 10
    channels: int = 3

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6 != 0:
            raise ValueError(f"expected a depth of 6n + 2, such as 8 or 20, got {self.depth}")
        if self.classes < 1 or self.channels < 1:
            raise ValueError(
                f"expected positive classes and channels, got {self.classes} and {self.channels}"
            )


class BasicBlock(nn.Module):
    """Two convolutions of 3x3, C channels to Co, and a shortcut without parameters (option A)."""

    def __init__(self, C: int, Co: int, stride: int, residual: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(C, Co, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(Co)
        self.conv2 = nn.Conv2d(Co, Co, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(Co)
        self.stride, self.residual = stride, residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Co, H/stride, W/stride)."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        if not self.residual:
            return F.relu(branch)
        seen = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(seen, (0, 0, 0, 0, 0, branch.shape[1] - x.shape[1]))  # eq. 5.20
        return F.relu(branch + shortcut)  # eq. 5.19


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of n blocks, global average pooling, one linear layer.

    State: conv1, bn1, layer1.0.conv1, ..., layer3.(n-1).bn2, fc, as at levels 1 and 2.
    """

    def __init__(self, config: ResNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or ResNetConfig()
        self.conv1 = nn.Conv2d(self.config.channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        C = WIDTHS[0]
        for stage, Co in enumerate(WIDTHS, start=1):
            blocks = []
            for i in range((self.config.depth - 2) // 6):
                stride = 2 if i == 0 and stage > 1 else 1
                blocks.append(BasicBlock(C, Co, stride, self.config.residual))
                C = Co
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(C, self.config.classes)
        self.initialise()

    def initialise(self) -> None:
        """He initialisation of the convolutions, gains 1, biases 0; a small last layer."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W).

        Raises:
            ValueError: the images have another shape.
        """
        if x.ndim != 4 or x.shape[1] != self.config.channels:
            wanted = f"(B, {self.config.channels}, H, W)"
            raise ValueError(f"expected images {wanted}, got {tuple(x.shape)}")
        x = F.relu(self.bn1(self.conv1(x)))  # -> (B, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # -> (B, 64, H/4, W/4)
        return self.fc(x.mean(dim=(2, 3)))  # -> (B, 64) -> (B, K)


def loss_function(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean softmax cross-entropy of a batch ``(images, labels)``, in nats."""
    x, targets = batch
    return F.cross_entropy(model(x), targets)


# --- the paper's training


def augment(images: Tensor, padding: int = 4) -> Tensor:
    """A random crop of each image (B, C, H, W) in a frame of zeros, mirrored half the time.

    Draws from torch's global generator on the CPU, which the training loop seeds at every step.
    """
    B, C, H, W = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (B, 1)) + torch.arange(H)  # (B, H)
    columns = torch.randint(2 * padding + 1, (B, 1)) + torch.arange(W)
    columns = torch.where(torch.rand(B, 1) < 0.5, columns.flip(1), columns)  # (B, W)
    # One index for each axis; together they broadcast to (B, C, H, W).
    image, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(C).view(1, C, 1, 1)
    index = image, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)
    return padded[tuple(i.to(images.device) for i in index)]


def paper_optimizer(parameters: Iterable[nn.Parameter], lr: float = 0.1) -> torch.optim.SGD:
    """SGD with momentum 0.9 and a weight decay of 0.0001 on every parameter."""
    return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=0.0001)


def paper_schedule(total: int, depth: int) -> Callable[[int], float]:
    """Step -> factor of the learning rate: a tenth from half of the steps on, then a hundredth.

    The paper has 64,000 steps and lets the rate fall after 32,000 and 48,000 (eq. 5.34); 110 layers
    and more begin with a tenth for 400 of them. A shorter training keeps these proportions.
    """
    warm_up = total * 400 // 64_000 if depth >= 110 else 0

    def factor(step: int) -> float:
        if step < warm_up:
            return 0.1
        return 0.1 ** ((step >= total / 2) + (step >= total * 3 / 4))

    return factor
