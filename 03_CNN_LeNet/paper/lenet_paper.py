"""LeNet as it is taught today (level 3): the modern reading of LeNet-5 in torch.nn.

Paper: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86 (11), 1998, section II.B. The network as the paper prints
it is lenet5_paper.py, beside this file.

Map of this file:
    LeNetConfig       activation and pooling
    LeNet             the network, 61,706 parameters
    loss_function     softmax cross-entropy, for the shared training loop

Shapes: B batch.

Read before: 03_CNN_LeNet/numpy/lenet_numpy.py, 03_CNN_LeNet/pytorch_lowlevel/lenet_lowlevel.py.

Deviations from the paper: ReLU (or tanh) for the scaled tanh, plain pooling for trainable
sub-sampling, all six maps under every map of C3, ten linear outputs with softmax for the RBF units,
He or Glorot initialisation, and images of 28x28 with a frame of zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
POOLINGS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


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


class LeNet(nn.Module):
    """Convolution, pooling, convolution, pooling, three linear layers.

    State: ``<layer>.weight`` and ``<layer>.bias`` for c1 (6, 1, 5, 5), c3 (16, 6, 5, 5),
    c5 (120, 400), f6 (84, 120) and output (10, 84). c5 could as well be the paper's convolution of
    5x5 on the 5x5 maps of S4, with the same 48,120 numbers; as a linear layer it is what everybody
    ships.
    """

    def __init__(self, config: LeNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or LeNetConfig()
        # padding=2 stands for the paper's frame, which makes 32x32 of the 28x28 image
        self.c1 = nn.Conv2d(1, 6, kernel_size=5, padding=2)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.c5 = nn.Linear(16 * 5 * 5, 120)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)
        self.pool = POOLINGS[self.config.pooling](2)
        self.activation = ACTIVATIONS[self.config.activation]()
        self.initialise()

    def initialise(self) -> None:
        """He initialisation for ReLU, Glorot's for tanh; biases zero."""
        for layer in (self.c1, self.c3, self.c5, self.f6, self.output):
            # A kernel is initialised as the matrix (Co, C*kH*kW) that it is at every position.
            rows = layer.weight.detach().flatten(start_dim=1)
            if self.config.activation == "relu":
                nn.init.kaiming_normal_(rows, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(rows)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10) of images (B, 1, 28, 28).

        Raises:
            ValueError: the images have another shape.
        """
        if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
            raise ValueError(f"expected images (B, 1, 28, 28), got {tuple(x.shape)}")
        x = self.pool(self.activation(self.c1(x)))  # (B, 1, 28, 28) -> (B, 6, 14, 14)
        x = self.pool(self.activation(self.c3(x)))  # (B, 6, 14, 14) -> (B, 16, 5, 5)
        x = self.activation(self.c5(x.flatten(start_dim=1)))  # (B, 16, 5, 5) -> (B, 120)
        x = self.activation(self.f6(x))  # (B, 120) -> (B, 84)
        return self.output(x)  # (B, 84) -> (B, 10)


def loss_function(model: LeNet, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean softmax cross-entropy of a batch ``(images, labels)``, in nats."""
    x, targets = batch
    return F.cross_entropy(model(x), targets)
