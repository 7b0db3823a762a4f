"""ResNet for small images in NumPy (level 1): every formula, forward and backward.

Paper: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385, sections 3.1 to 3.3 (the block) and 4.2 (the networks for CIFAR-10).

Map of this file:
    ResNetConfig                          depth, plain or residual, classes
    zero_padded_shortcut_forward, _backward    option A: the identity, with zeros for new channels
    basic_block_forward, _backward        two convolutions and the way around them
    ResNet                                6n + 2 layers in three stages of 16, 32 and 64 channels
    augment                               the paper's random crops and mirror images

Shapes: B batch; C, Co input and output channels; H, W height and width; K classes.

Read before: batch_norm_numpy.py; 03_CNN_LeNet/numpy/conv_numpy.py; 02_MLP/numpy/mlp_numpy.py;
05_ResNet/theory.md sections 4 and 5, and 8 on the initial weights.

Deviations from the paper: it does not say how the last layer is initialised; here its weights are
normal with standard deviation 0.01, after Goyal et al. 2017 (arXiv:1706.02677).
"""

from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from batch_norm_numpy import batch_norm2d_backward, batch_norm2d_forward
from conv_numpy import avg_pool2d_backward, avg_pool2d_forward, conv2d_backward, conv2d_forward
from mlp_numpy import he_normal, linear_backward, linear_forward, relu_backward, relu_forward

Params = dict[str, np.ndarray]

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
            raise ValueError(
                f"expected positive classes and channels, got {self.classes} and {self.channels}"
            )

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


# --- the shortcut


def zero_padded_shortcut_forward(
    x: np.ndarray, channels: int, stride: int
) -> tuple[np.ndarray, tuple]:
    """Option A: every ``stride``-th pixel, and zeros for the channels that x lacks (eq. 5.20).

    Args:
        x: (B, C, H, W). channels: Co, at least C.

    Returns:
        y (B, Co, ceil(H/stride), ceil(W/stride)) and the cache.
    """
    if stride == 1 and channels == x.shape[1]:
        return x, (x.shape, stride)
    seen = x[:, :, ::stride, ::stride]
    B, C, Ho, Wo = seen.shape
    y = np.zeros((B, channels, Ho, Wo), x.dtype)
    y[:, :C] = seen
    return y, (x.shape, stride)


def zero_padded_shortcut_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`zero_padded_shortcut_forward`: what was copied goes back."""
    shape, stride = cache
    if stride == 1 and dy.shape == shape:
        return dy
    dx = np.zeros(shape, dy.dtype)
    dx[:, :, ::stride, ::stride] = dy[:, : shape[1]]  # eq. 5.24
    return dx


# --- the block


def _normalise(
    h: np.ndarray, name: str, p: Params, running: Params, train: bool
) -> tuple[np.ndarray, tuple]:
    """Batch normalisation ``name`` with its parameters and its running statistics."""
    mean, var = running[f"{name}.running_mean"], running[f"{name}.running_var"]
    return batch_norm2d_forward(h, p[f"{name}.weight"], p[f"{name}.bias"], mean, var, train)


def basic_block_forward(
    x: np.ndarray, p: Params, running: Params, stride: int, train: bool, residual: bool = True
) -> tuple[np.ndarray, tuple]:
    """y = ReLU(F(x) + shortcut(x)), F two normalised convolutions (eqs. 5.18 and 5.19).

    Args:
        x: (B, C, H, W).
        p: ``conv1.weight`` (Co, C, 3, 3), ``bn1.weight``, ``bn1.bias`` (Co,), and the same for
            ``conv2`` (Co, Co, 3, 3) and ``bn2``.
        running: ``bn1.running_mean``, ... (Co,); changed in place in training.
        stride: of the first convolution, and of the shortcut.
        residual: False leaves the shortcut out.

    Returns:
        y (B, Co, H/stride, W/stride) and the cache.
    """
    # F(x), eq. 5.18
    h, conv1 = conv2d_forward(x, p["conv1.weight"], None, stride=stride, padding=1)
    h, bn1 = _normalise(h, "bn1", p, running, train)
    h, relu1 = relu_forward(h)  # (B, Co, H/stride, W/stride)
    h, conv2 = conv2d_forward(h, p["conv2.weight"], None, padding=1)
    h, bn2 = _normalise(h, "bn2", p, running, train)
    shortcut = None
    if residual:
        identity, shortcut = zero_padded_shortcut_forward(x, h.shape[1], stride)
        h = h + identity  # eq. 5.19
    y, relu2 = relu_forward(h)
    return y, (conv1, bn1, relu1, conv2, bn2, shortcut, relu2)


def basic_block_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`basic_block_forward`: dx, and a dict with the names of ``p``."""
    conv1, bn1, relu1, conv2, bn2, shortcut, relu2 = cache
    g: Params = {}
    dz = relu_backward(dy, relu2)  # eq. 5.21
    # F in reverse (eq. 5.22); the layers' own equations beside them
    dh, g["bn2.weight"], g["bn2.bias"] = batch_norm2d_backward(dz, bn2)  # eq. 5.16
    dh, g["conv2.weight"], _ = conv2d_backward(dh, conv2)  # eqs. 3.7, 3.9, 3.10
    dh = relu_backward(dh, relu1)  # eq. 2.19
    dh, g["bn1.weight"], g["bn1.bias"] = batch_norm2d_backward(dh, bn1)  # eq. 5.16
    dx, g["conv1.weight"], _ = conv2d_backward(dh, conv1)  # eqs. 3.7, 3.9, 3.10
    if shortcut is not None:
        dx = dx + zero_padded_shortcut_backward(dz, shortcut)  # eq. 5.23: the two ways add up
    return dx, g


def _part(values: Params, prefix: str) -> Params:
    """The entries whose names begin with ``prefix``, without it; the arrays are shared."""
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}


# --- the model


class ResNet:
    """conv1, three stages of blocks, global average pooling, one linear layer.

    Args:
        config: depth and kind.
        rng: source of the initial weights.
        dtype: of the parameters; images should have the same.

    Attributes:
        params: what is trained: ``conv1.weight``, ``bn1.weight``, ``bn1.bias``,
            ``layer1.0.conv1.weight``, ..., ``fc.weight``, ``fc.bias``.
        buffers: what is kept besides: ``running_mean``, ``running_var`` and
            ``num_batches_tracked`` of every batch normalisation. PyTorch counts the batches;
            nothing here uses the count, but a file of weights needs it to load at level 3.
    """

    def __init__(
        self,
        config: ResNetConfig,
        rng: np.random.Generator,
        dtype: np.typing.DTypeLike = np.float64,
    ) -> None:
        self.config = config
        self.params: Params = {}
        self.buffers: Params = {}
        for name, shape in config.convolutions().items():
            # No bias: batch normalisation would subtract it again (eq. 5.9).
            self.params[f"{name}.weight"] = he_normal(shape, rng).astype(dtype)  # eq. 5.32
            norm, Co = name.replace("conv", "bn"), shape[0]
            self.params[f"{norm}.weight"] = np.ones(Co, dtype)
            self.params[f"{norm}.bias"] = np.zeros(Co, dtype)
            self.buffers[f"{norm}.running_mean"] = np.zeros(Co, dtype)
            self.buffers[f"{norm}.running_var"] = np.ones(Co, dtype)
            self.buffers[f"{norm}.num_batches_tracked"] = np.zeros((), np.int64)
        last = LAST_LAYER_STD * rng.standard_normal((config.classes, WIDTHS[-1]))
        self.params["fc.weight"] = last.astype(dtype)
        self.params["fc.bias"] = np.zeros(config.classes, dtype)
        self._cache: tuple = ()

    def state(self) -> Params:
        """Parameters and buffers together, under the names of level 3; the arrays are shared."""
        return self.params | self.buffers

    def forward(self, x: np.ndarray, train: bool = False) -> np.ndarray:
        """Logits (B, K) of images (B, C, H, W).

        ``train`` normalises by the batch and updates the running statistics; without it, the
        running statistics are used and stay as they are.

        Raises:
            ValueError: the images have another shape.
        """
        if x.ndim != 4 or x.shape[1] != self.config.channels:
            raise ValueError(f"expected images (B, {self.config.channels}, H, W), got {x.shape}")
        p, s = self.params, self.buffers
        if train:
            for name, count in s.items():
                if name.endswith("num_batches_tracked"):
                    count += 1  # an array without axes, so += changes it in place
        x, conv1 = conv2d_forward(x, p["conv1.weight"], None, padding=1)  # -> (B, 16, H, W)
        x, bn1 = _normalise(x, "bn1", p, s, train)
        x, relu = relu_forward(x)
        caches = []
        for name, _, _, stride in self.config.blocks():
            part = _part(p, name), _part(s, name)
            x, cache = basic_block_forward(x, *part, stride, train, self.config.residual)
            caches.append((name, cache))
        # (B, 64, H/4, W/4) -> (B, 64, 1, 1): the mean of each map
        x, pool = avg_pool2d_forward(x, x.shape[2:])
        maps = x.shape
        x, fc = linear_forward(x.reshape(len(x), -1), p["fc.weight"], p["fc.bias"])  # -> (B, K)
        self._cache = (conv1, bn1, relu, caches, pool, maps, fc)
        return x

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the logits (B, K)."""
        if not self._cache:
            raise RuntimeError("expected forward before backward")
        conv1, bn1, relu, caches, pool, maps, fc = self._cache
        g: Params = {}
        dx, g["fc.weight"], g["fc.bias"] = linear_backward(dy, fc)  # eq. 2.13: -> (B, 64)
        dx = avg_pool2d_backward(dx.reshape(maps), pool)  # eq. 3.17: -> (B, 64, H/4, W/4)
        for name, cache in reversed(caches):
            dx, grads = basic_block_backward(dx, cache)  # eq. 5.23
            g |= {name + local: grad for local, grad in grads.items()}
        dx = relu_backward(dx, relu)  # eq. 2.19
        dx, g["bn1.weight"], g["bn1.bias"] = batch_norm2d_backward(dx, bn1)  # eq. 5.16
        _, g["conv1.weight"], _ = conv2d_backward(dx, conv1)  # eq. 3.7
        return {name: g[name] for name in self.params}


# --- images


def augment(images: np.ndarray, rng: np.random.Generator, padding: int = 4) -> np.ndarray:
    """A random crop of each image in a frame of zeros, mirrored with probability one half.

    Section 4.2: 4 pixels are padded on each side, and a crop of the old size is taken from the
    padded image or its mirror image. With the mean subtracted, zeros are the mean.

    Args:
        images: (B, C, H, W).
    """
    B, _, H, W = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    tops, lefts = rng.integers(2 * padding + 1, size=(2, B))
    mirrored = rng.random(B) < 0.5
    cropped = np.empty_like(images)
    for b, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        crop = padded[b, :, top : top + H, left : left + W]
        cropped[b] = crop[:, :, ::-1] if mirrored[b] else crop
    return cropped
