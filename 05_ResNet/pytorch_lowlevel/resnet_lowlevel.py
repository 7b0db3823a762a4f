"""ResNet for small images from tensors (level 2): batch normalisation and SGD by hand.

Papers: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385, section 4.2; S. Ioffe, C. Szegedy, "Batch Normalization", 2015, arXiv:1502.03167.

Map of this file:
    ResNetConfig                 depth, plain or residual, classes
    init_params, init_buffers    a dict of leaf tensors; the running statistics
    batch_norm, basic_block, forward    the network
    cross_entropy                from log-softmax
    SGD, train_step              momentum and weight decay; forward, backward, update
    augment                      the paper's random crops and mirror images

Shapes: B batch; C, Co input and output channels; H, W height and width; K classes.

Read before: 05_ResNet/numpy/batch_norm_numpy.py and resnet_numpy.py, the same without autograd.

Deviations from the paper: as at level 1 (running averages in batch normalisation, small initial
weights in the last layer).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]

WIDTHS = (16, 32, 64)  # channels of the three stages
LAST_LAYER_STD = 0.01


@dataclass(frozen=True)
class ResNetConfig:
    """A network of section 4.2.

    Args:
        depth: 6n + 2 layers with weights: 8, 20, 32, 44, 56, 110.
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
            got = f"{self.classes} and {self.channels}"
            raise ValueError(f"expected positive classes and channels, got {got}")

    def blocks(self) -> list[tuple[str, int, int, int]]:
        """(name, input channels, output channels, stride) of every block, in order."""
        found, C = [], WIDTHS[0]
        for stage, Co in enumerate(WIDTHS, start=1):
            for i in range((self.depth - 2) // 6):
                stride = 2 if i == 0 and stage > 1 else 1
                found.append((f"layer{stage}.{i}.", C, Co, stride))
                C = Co
        return found

    def convolutions(self) -> dict[str, tuple[int, int, int, int]]:
        """The shape (Co, C, 3, 3) of every convolution by its name."""
        shapes = {"conv1": (WIDTHS[0], self.channels, 3, 3)}
        for name, C, Co, _ in self.blocks():
            shapes[f"{name}conv1"] = (Co, C, 3, 3)
            shapes[f"{name}conv2"] = (Co, Co, 3, 3)
        return shapes


def init_params(
    config: ResNetConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves: He initialisation, gains 1, biases 0.

    The numbers are drawn on the CPU, so that a seed gives the same network on every device.
    """
    params = {}
    for name, shape in config.convolutions().items():
        weight = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        params[f"{name}.weight"] = weight
        norm = name.replace("conv", "bn")
        params[f"{norm}.weight"] = torch.ones(shape[0])
        params[f"{norm}.bias"] = torch.zeros(shape[0])
    last = torch.randn(config.classes, WIDTHS[-1], generator=generator)
    params["fc.weight"] = LAST_LAYER_STD * last
    params["fc.bias"] = torch.zeros(config.classes)
    # Only now, for a tensor that asks for a gradient and is then scaled is no leaf any more.
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def init_buffers(
    config: ResNetConfig, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Params:
    """Running statistics of every batch normalisation: mean 0, variance 1, no batch seen."""
    buffers = {}
    for name, shape in config.convolutions().items():
        norm = name.replace("conv", "bn")
        buffers[f"{norm}.running_mean"] = torch.zeros(shape[0], dtype=dtype, device=device)
        buffers[f"{norm}.running_var"] = torch.ones(shape[0], dtype=dtype, device=device)
        buffers[f"{norm}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64, device=device)
    return buffers


def batch_norm(
    x: Tensor,
    name: str,
    params: Params,
    buffers: Params,
    train: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of x (B, C, H, W), scale and shift it; equal to ``F.batch_norm``.

    Args:
        name: such as ``layer1.0.bn1``; its entries in ``params`` and ``buffers`` are used.
        train: take the batch's statistics, and move the running ones towards them, in place.
    """
    m = x.numel() // x.shape[1]  # numbers of one channel in the batch
    if train and m < 2:
        raise ValueError(f"expected more than one number a channel in training, got {m}")
    if train:
        mean = x.mean(dim=(0, 2, 3))  # (B, C, H, W) -> (C,)
        var = (x - mean[:, None, None]).square().mean(dim=(0, 2, 3))
        # No gradient flows into the running statistics: they are a record, not a part of the loss.
        with torch.no_grad():
            buffers[f"{name}.running_mean"].lerp_(mean, momentum)  # eq. 5.5, a share of the way
            buffers[f"{name}.running_var"].lerp_(var * (m / (m - 1)), momentum)  # eq. 5.6
            buffers[f"{name}.num_batches_tracked"] += 1
    else:
        mean, var = buffers[f"{name}.running_mean"], buffers[f"{name}.running_var"]
    scale = params[f"{name}.weight"] / torch.sqrt(var + eps)
    shift = params[f"{name}.bias"] - mean * scale
    return x * scale[:, None, None] + shift[:, None, None]


def basic_block(
    x: Tensor, name: str, stride: int, params: Params, buffers: Params, train: bool, residual: bool
) -> Tensor:
    """ReLU(F(x) + shortcut(x)): (B, C, H, W) -> (B, Co, H/stride, W/stride)."""
    h = F.conv2d(x, params[f"{name}conv1.weight"], stride=stride, padding=1)
    h = torch.relu(batch_norm(h, f"{name}bn1", params, buffers, train))
    h = F.conv2d(h, params[f"{name}conv2.weight"], padding=1)
    h = batch_norm(h, f"{name}bn2", params, buffers, train)
    if residual:
        # Option A: every stride-th pixel, and zeros for the channels that x lacks.
        seen = x[:, :, ::stride, ::stride]
        h = h + F.pad(seen, (0, 0, 0, 0, 0, h.shape[1] - x.shape[1]))
    return torch.relu(h)


def forward(
    params: Params, buffers: Params, x: Tensor, config: ResNetConfig, train: bool = False
) -> Tensor:
    """Logits (B, K) of images (B, C, H, W).

    ``train`` normalises by the batch and updates ``buffers``; without it they are used.

    Raises:
        ValueError: the images have another shape.
    """
    if x.ndim != 4 or x.shape[1] != config.channels:
        raise ValueError(f"expected images (B, {config.channels}, H, W), got {tuple(x.shape)}")
    x = F.conv2d(x, params["conv1.weight"], padding=1)  # -> (B, 16, H, W)
    x = torch.relu(batch_norm(x, "bn1", params, buffers, train))
    for name, _, _, stride in config.blocks():
        x = basic_block(x, name, stride, params, buffers, train, config.residual)
    x = x.mean(dim=(2, 3))  # (B, 64, H/4, W/4) -> (B, 64)
    return x @ params["fc.weight"].T + params["fc.bias"]  # (B, 64) -> (B, K)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats. logits: (B, K); targets: (B,) int labels.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"expected logits (B, K) and targets (B,), got {shapes}")
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    return -log_p[torch.arange(len(targets), device=logits.device), targets].mean()


class SGD:
    """Gradient descent with momentum and L2 weight decay, ``torch.optim.SGD``'s rule.

    Args:
        params: name -> leaf tensor; changed in place by :meth:`step`.

    Attributes:
        lr: may be set anew between steps.
        state: ``velocity.<name>``, for checkpoints.
    """

    def __init__(
        self, params: Params, lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        self.params, self.lr = params, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state = {f"velocity.{n}": torch.zeros_like(p).detach() for n, p in params.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter in place by its ``.grad``."""
        for name, p in self.params.items():
            velocity = self.state[f"velocity.{name}"]
            velocity.mul_(self.momentum).add_(p.grad).add_(self.weight_decay * p)
            p -= self.lr * velocity


def train_step(
    params: Params,
    buffers: Params,
    optimizer: SGD,
    x: Tensor,
    targets: Tensor,
    config: ResNetConfig,
) -> Tensor:
    """One step on one batch, x (B, C, H, W) and targets (B,); returns the loss before it."""
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in params.values():
        p.grad = None
    loss = cross_entropy(forward(params, buffers, x, config, train=True), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()


def augment(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """A random crop of each image (B, C, H, W) in a frame of zeros, mirrored half the time."""
    B, C, H, W = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (B, 1), generator=generator) + torch.arange(H)  # (B, H)
    columns = torch.randint(2 * padding + 1, (B, 1), generator=generator) + torch.arange(W)
    mirrored = torch.rand(B, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)  # (B, W)
    # One index for each axis; together they broadcast to (B, C, H, W).
    image, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(C).view(1, C, 1, 1)
    index = image, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)
    return padded[tuple(i.to(images.device) for i in index)]
