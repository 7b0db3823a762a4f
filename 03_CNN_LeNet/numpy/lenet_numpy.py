"""LeNet in NumPy (level 1): the modern reading of LeNet-5, trained by hand-written backward passes.

Paper: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86 (11), 1998, section II.B.

Map of this file:
    LeNetConfig     activation and pooling
    LeNet           convolution, pooling, convolution, pooling, three linear layers

Shapes: B batch, K classes.

Read before: conv_numpy.py (convolution and pooling), 02_MLP/numpy/mlp_numpy.py (linear layers,
activations); 03_CNN_LeNet/theory.md sections 1 to 6.

Deviations from the paper: this is the network that today is called LeNet. It has ReLU (or tanh) for
the scaled tanh, plain pooling for trainable sub-sampling, all six maps under every map of C3, and
ten linear outputs for the RBF units: 61,706 parameters for the paper's 60,000. The paper's own
network is paper/lenet5_paper.py.
"""

from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from conv_numpy import (
    avg_pool2d_backward,
    avg_pool2d_forward,
    conv2d_backward,
    conv2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from mlp_numpy import (
    glorot_uniform,
    he_normal,
    linear_backward,
    linear_forward,
    relu_backward,
    relu_forward,
    tanh_backward,
    tanh_forward,
)

Params = dict[str, np.ndarray]

ACTIVATIONS = {"relu": (relu_forward, relu_backward), "tanh": (tanh_forward, tanh_backward)}
POOLINGS = {
    "max": (max_pool2d_forward, max_pool2d_backward),
    "avg": (avg_pool2d_forward, avg_pool2d_backward),
}


@dataclass(frozen=True)
class LeNetConfig:
    """Kind of the network; its sizes are the paper's.

    Args:
        activation: "relu" or "tanh", after every layer but pooling and the last.
        pooling: "max" or "avg", over windows of 2x2.
    """

    activation: str = "relu"
    pooling: str = "max"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"expected activation 'relu' or 'tanh', got {self.activation!r}")
        if self.pooling not in POOLINGS:
            raise ValueError(f"expected pooling 'max' or 'avg', got {self.pooling!r}")

    @classmethod
    def smooth(cls) -> "LeNetConfig":
        """tanh and average pooling, the two choices nearer to the paper."""
        return cls(activation="tanh", pooling="avg")


# c5 could as well be a convolution of 5x5 on the 5x5 maps: the same 48,120 numbers (eq. 3.20). As a
# linear layer it is what everybody ships.
SHAPES = {
    "c1": (6, 1, 5, 5),
    "c3": (16, 6, 5, 5),
    "c5": (120, 400),
    "f6": (84, 120),
    "output": (10, 84),
}


class LeNet:
    """The modern LeNet: 61,706 parameters (eq. 3.20).

    Args:
        config: activation and pooling.
        rng: source of the initial weights; biases start at zero.
        dtype: of the parameters; images should have the same.

    Attributes:
        params: ``<layer>.weight`` and ``<layer>.bias`` for the layers c1, c3, c5, f6 and output.
    """

    def __init__(
        self, config: LeNetConfig, rng: np.random.Generator, dtype: type = np.float64
    ) -> None:
        self.config = config
        self.params: Params = {}
        initial = he_normal if config.activation == "relu" else glorot_uniform
        for name, shape in SHAPES.items():
            # A convolution is initialised as the linear layer that all its positions share.
            rows = initial((shape[0], int(np.prod(shape[1:]))), rng)
            self.params[f"{name}.weight"] = rows.reshape(shape).astype(dtype)
            self.params[f"{name}.bias"] = np.zeros(shape[0], dtype=dtype)
        self._cache: tuple = ()

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Logits (B, 10) of images (B, 1, 28, 28).

        Raises:
            ValueError: the images have another shape.
        """
        if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
            raise ValueError(f"expected images (B, 1, 28, 28), got {x.shape}")
        activate, _ = ACTIVATIONS[self.config.activation]
        pool, _ = POOLINGS[self.config.pooling]
        p = self.params
        # padding=2 stands for the paper's frame, which makes 32x32 of the 28x28 image
        x, c1 = conv2d_forward(x, p["c1.weight"], p["c1.bias"], padding=2)  # -> (B, 6, 28, 28)
        x, a1 = activate(x)
        x, s2 = pool(x, 2)  # (B, 6, 28, 28) -> (B, 6, 14, 14)
        x, c3 = conv2d_forward(x, p["c3.weight"], p["c3.bias"])  # -> (B, 16, 10, 10)
        x, a3 = activate(x)
        x, s4 = pool(x, 2)  # (B, 16, 10, 10) -> (B, 16, 5, 5)
        maps = x.shape
        x, c5 = linear_forward(x.reshape(len(x), -1), p["c5.weight"], p["c5.bias"])  # -> (B, 120)
        x, a5 = activate(x)
        x, f6 = linear_forward(x, p["f6.weight"], p["f6.bias"])  # (B, 120) -> (B, 84)
        x, a6 = activate(x)
        x, output = linear_forward(x, p["output.weight"], p["output.bias"])  # (B, 84) -> (B, 10)
        self._cache = (c1, a1, s2, c3, a3, s4, maps, c5, a5, f6, a6, output)
        return x

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the logits (B, 10)."""
        if not self._cache:
            raise RuntimeError("expected forward before backward")
        _, d_activate = ACTIVATIONS[self.config.activation]
        _, d_pool = POOLINGS[self.config.pooling]
        c1, a1, s2, c3, a3, s4, maps, c5, a5, f6, a6, output = self._cache
        g: Params = {}
        dx, g["output.weight"], g["output.bias"] = linear_backward(dy, output)  # -> (B, 84)
        dx = d_activate(dx, a6)
        dx, g["f6.weight"], g["f6.bias"] = linear_backward(dx, f6)  # (B, 84) -> (B, 120)
        dx = d_activate(dx, a5)
        dx, g["c5.weight"], g["c5.bias"] = linear_backward(dx, c5)  # (B, 120) -> (B, 400)
        dx = d_pool(dx.reshape(maps), s4)  # (B, 400) -> (B, 16, 5, 5) -> (B, 16, 10, 10)
        dx = d_activate(dx, a3)
        dx, g["c3.weight"], g["c3.bias"] = conv2d_backward(dx, c3)  # -> (B, 6, 14, 14)
        dx = d_pool(dx, s2)  # (B, 6, 14, 14) -> (B, 6, 28, 28)
        dx = d_activate(dx, a1)
        _, g["c1.weight"], g["c1.bias"] = conv2d_backward(dx, c1)  # the images need no gradient
        return {name: g[name] for name in self.params}
