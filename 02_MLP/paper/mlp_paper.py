"""Multilayer perceptron as the papers have it (level 3): 1986's experiments and a modern MLP.

Paper: D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by back-propagating
errors", Nature 323, 533-536, 1986; the longer account with XOR and the encoder is chapter 8 of
"Parallel Distributed Processing", volume 1, MIT Press 1986, by the same authors.

Map of this file:
    MLPConfig                       presets: XOR, symmetry, 8-3-8 encoder; a modern MLP for images
    MLP                             the network
    initialise_1986                 uniform in ±0.3
    squared_error                   equation (3)
    GradientDescent1986             equations (8) and (9), an optimiser

Shapes: B batch, D input width, M output width of a layer, K outputs.

Read before: 02_MLP/numpy/mlp_numpy.py, 02_MLP/pytorch_lowlevel/mlp_lowlevel.py.

Deviations from the paper: the modern MLP (``MLPConfig.images``) is not in it: ReLU, dropout, He
initialisation and softmax cross-entropy came later; README.md lists them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
}


@dataclass(frozen=True)
class MLPConfig:
    """Widths and kind of a multilayer perceptron.

    Args:
        sizes: width of the input, of each hidden layer, and of the output.
        activation: of the hidden layers, a key of ``ACTIVATIONS``.
        output_activation: of the output; None gives logits.
        dropout: share of hidden units dropped in training.
    """

    sizes: tuple[int, ...] = (64, 128, 10)
    activation: str = "relu"
    output_activation: str | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"expected at least two positive sizes, got {self.sizes}")
        for name in (self.activation, self.output_activation or "relu"):
            if name not in ACTIVATIONS:
                raise ValueError(f"expected an activation of {sorted(ACTIVATIONS)}, got {name!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    @classmethod
    def xor(cls) -> "MLPConfig":
        """Exclusive or: 2-2-1 sigmoid units (PDP chapter 8)."""
        return cls((2, 2, 1), "sigmoid", "sigmoid")

    @classmethod
    def symmetry(cls) -> "MLPConfig":
        """Mirror symmetry of six bits: 6-2-1 sigmoid units (Nature, Fig. 1)."""
        return cls((6, 2, 1), "sigmoid", "sigmoid")

    @classmethod
    def encoder(cls) -> "MLPConfig":
        """The 8-3-8 encoder: eight one-hot patterns through three sigmoid units (PDP chapter 8)."""
        return cls((8, 3, 8), "sigmoid", "sigmoid")

    @classmethod
    def images(cls, pixels: int = 784, width: int = 512, dropout: float = 0.2) -> "MLPConfig":
        """A modern MLP for small images: two hidden layers of ReLU, dropout, ten classes."""
        return cls((pixels, width, width, 10), "relu", None, dropout)


class MLP(nn.Module):
    """Linear layers with an activation, and dropout, between them.

    State: ``layers.<i>.weight`` (M, D), ``layers.<i>.bias`` (M,).
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        pairs = zip(config.sizes[:-1], config.sizes[1:], strict=True)
        self.layers = nn.ModuleList(nn.Linear(D, M) for D, M in pairs)
        self.activation = ACTIVATIONS[config.activation]()
        output = config.output_activation
        self.output_activation = ACTIVATIONS[output]() if output else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.initialise()

    def initialise(self) -> None:
        """He initialisation for the ReLU family, Glorot's for sigmoid and tanh; biases zero."""
        for layer in self.layers:
            if self.config.activation in ("sigmoid", "tanh"):
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, K) for inputs (B, D) or images (B, C, H, W) with C·H·W = D.

        Raises:
            ValueError: the input has another width.
        """
        if x.ndim > 2:
            x = x.flatten(start_dim=1)  # (B, C, H, W) -> (B, D)
        if x.ndim != 2 or x.shape[1] != self.config.sizes[0]:
            raise ValueError(f"expected inputs (B, {self.config.sizes[0]}), got {tuple(x.shape)}")
        for layer in self.layers[:-1]:
            x = self.dropout(self.activation(layer(x)))  # (B, D) -> (B, M)
        return self.output_activation(self.layers[-1](x))  # (B, M) -> (B, K)


def loss_function(model: MLP, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean softmax cross-entropy of a batch ``(x, labels)``, in nats."""
    x, targets = batch
    return F.cross_entropy(model(x), targets)


# --- 1986


def initialise_1986(
    model: MLP, generator: torch.Generator | None = None, bound: float = 0.3
) -> None:
    """Weights and biases uniform in ±``bound``: small and different, to break the symmetry."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-bound, bound, generator=generator)


def squared_error(outputs: Tensor, desired: Tensor) -> Tensor:
    """Equation (3): half the sum over all cases and outputs of the squared difference.

    Args: both (B, K).
    """
    return 0.5 * (outputs - desired).square().sum()


class GradientDescent1986(torch.optim.Optimizer):
    """Equation (9): Δw(t) = -ε ∂E/∂w(t) + α Δw(t-1); with α = 0, equation (8).

    Args:
        parameters: what is changed.
        epsilon: learning rate.
        alpha: share of the last change that is made again (momentum).
    """

    def __init__(
        self, parameters: Iterable[Tensor], epsilon: float = 0.1, alpha: float = 0.9
    ) -> None:
        super().__init__(parameters, {"lr": epsilon, "alpha": alpha})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Change every parameter by equation (9)."""
        for group in self.param_groups:
            for p in group["params"]:
                if "change" not in self.state[p]:
                    self.state[p]["change"] = torch.zeros_like(p)
                change = self.state[p]["change"]
                change.mul_(group["alpha"]).sub_(group["lr"] * p.grad)
                p.add_(change)
