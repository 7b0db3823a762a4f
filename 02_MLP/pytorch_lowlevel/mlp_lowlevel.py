"""Multilayer perceptron from tensors (level 2): autograd, parameters and update rules by hand.

Papers: as 02_MLP/numpy/mlp_numpy.py and optimizers_numpy.py (Rumelhart et al. 1986; Glorot & Bengio
2010; He et al. 2015, arXiv:1502.01852; Kingma & Ba 2014, arXiv:1412.6980; Loshchilov & Hutter 2017,
arXiv:1711.05101).

Map of this file:
    init_params           a dict of leaf tensors
    forward               the network as tensor operations; autograd derives its backward pass
    cross_entropy         from log-softmax, with label smoothing
    SGD, Adam             update rules under torch.no_grad(); Adam also as AdamW
    train_step            forward, backward, update, and why the gradients are cleared

Shapes: B batch, D input width, M output width of a layer, K classes.

Read before: 02_MLP/numpy/mlp_numpy.py, which writes out what autograd does here.

Deviations from the paper: as at level 1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]

ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
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


def init_params(
    config: MLPConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters: ``layers.<i>.weight`` (M, D) and ``layers.<i>.bias`` (M,), all leaves.

    He initialisation for the ReLU family, Glorot's for sigmoid and tanh, biases zero. The numbers
    are drawn on the CPU, so that a seed gives the same network on every device.
    """
    params = {}
    for i, (D, M) in enumerate(zip(config.sizes[:-1], config.sizes[1:], strict=True)):
        if config.activation in ("sigmoid", "tanh"):
            bound = math.sqrt(6 / (D + M))
            weight = (2 * torch.rand(M, D, generator=generator) - 1) * bound
        else:
            weight = torch.randn(M, D, generator=generator) * math.sqrt(2 / D)
        params[f"layers.{i}.weight"] = weight
        params[f"layers.{i}.bias"] = torch.zeros(M)
    # Only now: a tensor that asks for a gradient and is then scaled or moved is no leaf any more,
    # and autograd leaves no gradient in it.
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def forward(
    params: Params,
    x: Tensor,
    config: MLPConfig,
    train: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Outputs (B, K) for inputs (B, D); ``train`` switches dropout on, ``generator`` draws it.

    Raises:
        ValueError: the input is not (B, D).
    """
    if x.ndim != 2 or x.shape[1] != config.sizes[0]:
        raise ValueError(f"expected inputs (B, {config.sizes[0]}), got {tuple(x.shape)}")
    last = len(config.sizes) - 2
    for i in range(last + 1):
        weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
        x = x @ weight.T + bias  # eq. 2.1, (B, D) -> (B, M)
        name = config.activation if i < last else config.output_activation
        if name is not None:
            x = ACTIVATIONS[name](x)
        if train and i < last and config.dropout > 0:
            kept = torch.rand(x.shape, generator=generator).to(x.device) >= config.dropout
            x = x * kept / (1 - config.dropout)  # eq. 2.9
    return x


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats. logits: (B, K); targets: (B,) int labels.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (B, K) and targets (B,), "
            f"got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    B = len(targets)
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    of_label = log_p[torch.arange(B, device=logits.device), targets]  # (B, K) -> (B,)
    of_all = log_p.mean(dim=1)
    return -((1 - label_smoothing) * of_label + label_smoothing * of_all).mean()  # eq. 2.11


class SGD:
    """Gradient descent with optional momentum and L2 weight decay (``torch.optim.SGD``'s rule).

    Args as :class:`torch.optim.SGD`; ``state`` holds ``velocity.<name>`` for checkpoints.
    """

    def __init__(
        self, params: Params, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.params, self.lr = params, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state: Params = {}
        if momentum:
            self.state = {
                f"velocity.{name}": torch.zeros_like(p).detach() for name, p in params.items()
            }

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter in place by its ``.grad``."""
        for name, p in self.params.items():
            g = p.grad + self.weight_decay * p  # eq. 2.32
            if self.momentum:
                g = self.state[f"velocity.{name}"].mul_(self.momentum).add_(g)  # eq. 2.28
            p -= self.lr * g  # eq. 2.27


class Adam:
    """Adam, or AdamW with ``decoupled=True`` (``torch.optim``'s rules).

    Args:
        params: name -> leaf tensor.
        decoupled: apply weight decay to the parameter itself (AdamW), not through the gradient.

    Attributes:
        state: ``step``, ``mean.<name>`` and ``square.<name>``, for checkpoints.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.params, self.lr, self.betas, self.eps = params, lr, betas, eps
        self.weight_decay, self.decoupled = weight_decay, decoupled
        self.state: Params = {"step": torch.zeros((), dtype=torch.int64)}
        for name, p in params.items():
            self.state[f"mean.{name}"] = torch.zeros_like(p).detach()
            self.state[f"square.{name}"] = torch.zeros_like(p).detach()

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter in place by its ``.grad``."""
        self.state["step"] += 1
        t = int(self.state["step"])
        beta1, beta2 = self.betas
        for name, p in self.params.items():
            g = p.grad
            if self.decoupled:
                p *= 1 - self.lr * self.weight_decay  # eq. 2.33
            else:
                g = g + self.weight_decay * p  # eq. 2.32
            m = self.state[f"mean.{name}"].mul_(beta1).add_((1 - beta1) * g)  # eq. 2.29
            s = self.state[f"square.{name}"].mul_(beta2).add_((1 - beta2) * g * g)
            root = s.sqrt() / math.sqrt(1 - beta2**t) + self.eps  # eq. 2.30
            p -= self.lr / (1 - beta1**t) * m / root  # eq. 2.31


def train_step(
    params: Params,
    optimizer: SGD | Adam,
    x: Tensor,
    targets: Tensor,
    config: MLPConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One step on one batch, x (B, D) and targets (B,); returns the loss before the update."""
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in params.values():
        p.grad = None
    loss = cross_entropy(forward(params, x, config, train=True, generator=generator), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()
