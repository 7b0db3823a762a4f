"""VGG in NumPy (level 1): a deep stack of 3x3 convolutions, forward and backward by hand.

Papers:
- K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
  2014, arXiv:1409.1556, section 2 and Table 1.
- A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional Neural
  Networks", NIPS 2012, section 3.3: local response normalisation.

Map of this file:
    TABLE_1                         the six networks of the paper, as its Table 1 has them
    VGGConfig                       one of them, and its sizes
    local_response_norm             the one primitive that is new here, forward and backward
    VGG                             the model: convolutions and pooling, then three linear layers

Shapes: B batch, C channels (Co: of the output), H, W height and width, kH = kW size of a kernel; D
inputs and M outputs of a linear layer, K classes; n channels in the window of the normalisation.

Read before: 03_CNN_LeNet/numpy/conv_numpy.py (convolution, pooling), 02_MLP/numpy/mlp_numpy.py
(linear, ReLU, dropout); 04_VGG/theory.md sections 1 to 4.

Deviations from the paper: images of 32x32, a quarter of the channels and small linear layers by
default, so that NumPy can train it (the paper's own sizes are options); He initialisation, which
came five months later and makes pre-training from net A unnecessary (theory.md, section 5).
"""

from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from conv_numpy import conv2d_backward, conv2d_forward, max_pool2d_backward, max_pool2d_forward
from mlp_numpy import (
    dropout_backward,
    dropout_forward,
    he_normal,
    linear_backward,
    linear_forward,
    relu_backward,
    relu_forward,
)

Params = dict[str, np.ndarray]

# "3-64" is a convolution of 3x3 to 64 channels, with its ReLU; "|" is max pooling of 2x2, and there
# is one more at the end. Every column goes on with the same three linear layers.
TABLE_1 = {
    "A": "3-64 | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "A-LRN": "3-64 LRN | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "B": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512",
    "C": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 1-256 | 3-512 3-512 1-512 | 3-512 3-512 1-512",
    "D": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 | 3-512 3-512 3-512 | 3-512 3-512 3-512",
    "E": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 3-256 | 3-512 3-512 3-512 3-512 "
    "| 3-512 3-512 3-512 3-512",
}


@dataclass(frozen=True)
class VGGConfig:
    """One of the six networks, and its sizes.

    Args:
        net: a key of ``TABLE_1``.
        width: channels of the first block, 64 in the paper; the others keep their proportion.
        hidden: width of the two hidden linear layers, 4096 in the paper.
        classes: number of outputs, 1000 in the paper.
        image_size: height and width of the images, 224 in the paper; a multiple of 32.
        dropout: share of the hidden linear units dropped in training.
    """

    net: str = "A"
    width: int = 16
    hidden: int = 128
    classes: int = 10
    image_size: int = 32
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.net not in TABLE_1:
            raise ValueError(f"expected a net of {', '.join(TABLE_1)}; got {self.net!r}")
        if min(self.width, self.hidden, self.classes) < 1:
            raise ValueError(
                "expected width, hidden and classes of at least 1, "
                f"got {self.width}, {self.hidden} and {self.classes}"
            )
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(
                f"expected an image_size that five halvings divide (32, 64 ...), got "
                f"{self.image_size}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    def layers(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(kind, name, shape of the weight) of every layer, from the image to the logits.

        The name is ``features.<i>`` or ``classifier.<i>`` with i the place in its part, layers
        without parameters counted, as torchvision names them.
        """
        plan: list[tuple[str, tuple[int, ...]]] = []
        C = 3
        for block in TABLE_1[self.net].split("|"):
            for word in block.split():
                if word == "LRN":
                    plan.append(("lrn", ()))
                    continue
                k, channels = map(int, word.split("-"))
                Co = channels * self.width // 64
                plan += [("conv", (Co, C, k, k)), ("relu", ())]
                C = Co
            plan.append(("pool", ()))
        side = self.image_size // 32  # what five poolings leave of it
        head: list[tuple[str, tuple[int, ...]]] = []
        D = C * side * side
        for M in (self.hidden, self.hidden):
            head += [("linear", (M, D)), ("relu", ()), ("dropout", ())]
            D = M
        head.append(("linear", (self.classes, D)))
        return [
            *((kind, f"features.{i}", shape) for i, (kind, shape) in enumerate(plan)),
            ("flatten", "", ()),
            *((kind, f"classifier.{i}", shape) for i, (kind, shape) in enumerate(head)),
        ]


# --- local response normalisation


def channel_window_sum(x: np.ndarray, n: int) -> np.ndarray:
    """For each channel, the sum over the n channels around it (fewer at both ends). (B, C, H, W).

    A window that reaches from c to m reaches from m to c too, so the sum is its own adjoint.
    """
    C = x.shape[1]
    padded = np.pad(x, ((0, 0), (n // 2, n // 2), (0, 0), (0, 0)))
    return sum(padded[:, i : i + C] for i in range(n))


def local_response_norm_forward(
    x: np.ndarray, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> tuple[np.ndarray, tuple]:
    """Divide each number by a power of what its neighbour channels hold there (eqs. 4.10, 4.11).

    Args:
        x: (B, C, H, W).
        n: channels in the window, odd. alpha, beta, k: the paper's constants.

    Returns:
        y of x's shape, and the cache.

    Raises:
        ValueError: x is no batch of images, or n is even.
    """
    if x.ndim != 4 or n % 2 == 0:
        raise ValueError(f"expected images (B, C, H, W) and an odd n, got {x.shape} and {n}")
    s = k + alpha * channel_window_sum(x * x, n)  # eq. 4.10
    y = x * s**-beta  # eq. 4.11
    return y, (x, s, y, n, alpha, beta)


def local_response_norm_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`local_response_norm_forward`."""
    x, s, y, n, alpha, beta = cache
    direct = dy * s**-beta  # eq. 4.13, first term: through the numerator
    others = channel_window_sum(dy * y / s, n)  # eq. 4.13, the sum over every window x lies in
    return direct - 2 * alpha * beta * x * others  # eq. 4.13


# --- the model


class VGG:
    """Five blocks of convolutions, each ended by pooling, then three linear layers (eq. 4.5).

    Args:
        config: which network, and its sizes.
        rng: source of the initial weights; biases start at zero.
        dtype: of the parameters; images should have the same.

    Attributes:
        params: ``features.<i>.weight`` (Co, C, kH, kW) and ``classifier.<i>.weight`` (M, D), each
            with its ``.bias``; i as in :meth:`VGGConfig.layers`.
    """

    def __init__(
        self,
        config: VGGConfig,
        rng: np.random.Generator,
        dtype: np.typing.DTypeLike = np.float64,
    ) -> None:
        self.config = config
        self.params: Params = {}
        for kind, name, shape in config.layers():
            if kind in ("conv", "linear"):
                self.params[f"{name}.weight"] = he_normal(shape, rng).astype(dtype)
                self.params[f"{name}.bias"] = np.zeros(shape[0], dtype=dtype)
        self._caches: list[tuple] = []

    def forward(
        self, x: np.ndarray, train: bool = False, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Logits (B, K) of images (B, 3, H, W); ``train`` switches dropout on, ``rng`` draws it.

        Raises:
            ValueError: the images have another shape.
        """
        size = self.config.image_size
        if x.ndim != 4 or x.shape[1:] != (3, size, size):
            raise ValueError(f"expected images (B, 3, {size}, {size}), got {x.shape}")
        self._caches = []
        for kind, name, shape in self.config.layers():
            weight, bias = self.params.get(f"{name}.weight"), self.params.get(f"{name}.bias")
            if kind == "conv":
                # A frame of 1 keeps the size for 3x3 kernels; 1x1 kernels of net C need none.
                x, cache = conv2d_forward(x, weight, bias, padding=shape[2] // 2)  # -> Co channels
            elif kind == "relu":
                x, cache = relu_forward(x)
            elif kind == "lrn":
                x, cache = local_response_norm_forward(x)
            elif kind == "pool":
                x, cache = max_pool2d_forward(x, 2)  # (B, C, H, W) -> (B, C, H/2, W/2)
            elif kind == "flatten":
                cache = x.shape
                x = x.reshape(len(x), -1)  # eq. 4.7: (B, C, H, W) -> (B, C*H*W)
            elif kind == "linear":
                x, cache = linear_forward(x, weight, bias)  # (B, D) -> (B, M)
            else:
                x, cache = dropout_forward(x, self.config.dropout, rng, train)
            self._caches.append((kind, name, cache))
        return x

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the logits (B, K): the layers in reverse.

        Each line takes the gradient behind a layer to the gradient before it (eq. 4.8).
        """
        if not self._caches:
            raise RuntimeError("expected forward before backward")
        grads: Params = {}
        dx = dy
        for kind, name, cache in reversed(self._caches):
            if kind == "conv":
                dx, grads[f"{name}.weight"], grads[f"{name}.bias"] = conv2d_backward(dx, cache)
            elif kind == "relu":
                dx = relu_backward(dx, cache)
            elif kind == "lrn":
                dx = local_response_norm_backward(dx, cache)
            elif kind == "pool":
                dx = max_pool2d_backward(dx, cache)  # (B, C, H/2, W/2) -> (B, C, H, W)
            elif kind == "flatten":
                dx = dx.reshape(cache)  # eq. 4.9: (B, C*H*W) -> (B, C, H, W)
            elif kind == "linear":
                dx, grads[f"{name}.weight"], grads[f"{name}.bias"] = linear_backward(dx, cache)
            else:
                dx = dropout_backward(dx, cache)
        return {name: grads[name] for name in self.params}
