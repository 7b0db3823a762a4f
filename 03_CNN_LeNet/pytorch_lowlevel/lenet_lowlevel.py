"""LeNet from tensors (level 2): convolution as unfold and matmul, autograd, Adam by hand.

Papers: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86 (11), 1998, section II.B; D. P. Kingma, J. Ba, "Adam: A
Method for Stochastic Optimization", 2014, arXiv:1412.6980, Algorithm 1.

Map of this file:
    LeNetConfig           activation and pooling
    conv2d                patches as columns (unfold), then one matrix product for each image
    pool2d                the same patches, and their maximum or mean
    init_params           a dict of leaf tensors
    forward               the network
    cross_entropy         from log-softmax
    Adam                  the update rule under torch.no_grad()
    train_step            forward, backward, update

Shapes: B batch, K classes; C, Co input and output channels; H, W, Ho, Wo input and output size;
kH, kW kernel size.

Read before: 03_CNN_LeNet/numpy/conv_numpy.py and lenet_numpy.py, which write out what autograd does
here; 02_MLP/pytorch_lowlevel/mlp_lowlevel.py. cross_entropy, Adam and train_step are known from
there: they stand here again because a file of level 2 stands alone, for a reader to carry away.

Deviations from the paper: as at level 1 (the modern reading of LeNet-5, 61,706 parameters).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}
POOLINGS = ("max", "avg")


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


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, padding: int = 0) -> Tensor:
    """Convolution with stride 1; equal to ``F.conv2d``.

    Args:
        x: (B, C, H, W). weight: (Co, C, kH, kW). bias: (Co,).

    Returns:
        (B, Co, Ho, Wo).

    Raises:
        ValueError: the channels do not fit.
    """
    if x.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"expected images (B, {weight.shape[1]}, H, W), got {tuple(x.shape)}")
    B, _, H, W = x.shape
    Co, _, kH, kW = weight.shape
    Ho, Wo = H + 2 * padding - kH + 1, W + 2 * padding - kW + 1
    columns = F.unfold(x, (kH, kW), padding=padding)  # (B, C, H, W) -> (B, C*kH*kW, Ho*Wo)
    y = weight.reshape(Co, -1) @ columns + bias[:, None]  # -> (B, Co, Ho*Wo)
    return y.reshape(B, Co, Ho, Wo)


def pool2d(x: Tensor, kind: str) -> Tensor:
    """Maximum or mean of each window of 2x2: (B, C, H, W) -> (B, C, H/2, W/2)."""
    B, C, H, W = x.shape
    # As if every channel were an image of its own, so that unfold does not mix the channels.
    windows = F.unfold(x.reshape(B * C, 1, H, W), 2, stride=2)  # -> (B*C, 4, H/2*W/2)
    # max(dim) sends the gradient to one winner, as level 1 does; amax would share it among ties.
    y = windows.max(dim=1).values if kind == "max" else windows.mean(dim=1)
    return y.reshape(B, C, H // 2, W // 2)


SHAPES = {
    "c1": (6, 1, 5, 5),
    "c3": (16, 6, 5, 5),
    "c5": (120, 400),
    "f6": (84, 120),
    "output": (10, 84),
}


def init_params(
    config: LeNetConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters: ``<layer>.weight`` and ``<layer>.bias``, all leaves.

    He initialisation for ReLU, Glorot's for tanh, biases zero. The numbers are drawn on the CPU, so
    that a seed gives the same network on every device.
    """
    params = {}
    for name, shape in SHAPES.items():
        M, D = shape[0], math.prod(shape[1:])
        if config.activation == "tanh":
            weight = (2 * torch.rand(shape, generator=generator) - 1) * math.sqrt(6 / (D + M))
        else:
            weight = torch.randn(shape, generator=generator) * math.sqrt(2 / D)
        params[f"{name}.weight"] = weight
        params[f"{name}.bias"] = torch.zeros(M)
    # Only now, for a tensor that asks for a gradient and is then scaled is no leaf any more.
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def forward(params: Params, x: Tensor, config: LeNetConfig) -> Tensor:
    """Logits (B, 10) of images (B, 1, 28, 28).

    Raises:
        ValueError: the images have another shape.
    """
    if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
        raise ValueError(f"expected images (B, 1, 28, 28), got {tuple(x.shape)}")
    activate = ACTIVATIONS[config.activation]
    p = params
    x = activate(conv2d(x, p["c1.weight"], p["c1.bias"], padding=2))  # -> (B, 6, 28, 28)
    x = pool2d(x, config.pooling)  # (B, 6, 28, 28) -> (B, 6, 14, 14)
    x = activate(conv2d(x, p["c3.weight"], p["c3.bias"]))  # -> (B, 16, 10, 10)
    x = pool2d(x, config.pooling)  # (B, 16, 10, 10) -> (B, 16, 5, 5)
    x = x.flatten(start_dim=1)  # (B, 16, 5, 5) -> (B, 400)
    x = activate(x @ p["c5.weight"].T + p["c5.bias"])  # (B, 400) -> (B, 120)
    x = activate(x @ p["f6.weight"].T + p["f6.bias"])  # (B, 120) -> (B, 84)
    return x @ p["output.weight"].T + p["output.bias"]  # (B, 84) -> (B, 10)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats. logits: (B, K); targets: (B,) int labels.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (B, K) and targets (B,), "
            f"got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    return -log_p[torch.arange(len(targets), device=logits.device), targets].mean()


class Adam:
    """Adam with ``torch.optim.Adam``'s rule and defaults.

    Args:
        params: name -> leaf tensor; changed in place by :meth:`step`.

    Attributes:
        lr: may be set anew between steps.
        state: ``step``, ``mean.<name>`` and ``square.<name>``, for checkpoints.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.params, self.lr, self.betas, self.eps = params, lr, betas, eps
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
            m = self.state[f"mean.{name}"].mul_(beta1).add_((1 - beta1) * p.grad)
            s = self.state[f"square.{name}"].mul_(beta2).add_((1 - beta2) * p.grad * p.grad)
            root = s.sqrt() / math.sqrt(1 - beta2**t) + self.eps
            p -= self.lr / (1 - beta1**t) * m / root


def train_step(
    params: Params, optimizer: Adam, x: Tensor, targets: Tensor, config: LeNetConfig
) -> Tensor:
    """One step on one batch, x (B, 1, 28, 28) and targets (B,); returns the loss before it."""
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in params.values():
        p.grad = None
    loss = cross_entropy(forward(params, x, config), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()
