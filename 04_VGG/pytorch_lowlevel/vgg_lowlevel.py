"""VGG from tensors (level 2): parameters in a dict, F.conv2d, autograd, momentum by hand.

Papers:
- K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
  2014, arXiv:1409.1556, sections 2 and 3.1, Table 1.
- A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional Neural
  Networks", NIPS 2012, section 3.3: local response normalisation.

Map of this file:
    TABLE_1                 the six networks of the paper, as its Table 1 has them
    VGGConfig               one of them, and its sizes
    init_params             a dict of leaf tensors
    local_response_norm     every number divided by what its neighbour channels hold
    forward                 the network
    cross_entropy           from log-softmax
    SGD                     momentum and weight decay, under torch.no_grad()
    train_step              forward, backward, update

Shapes: B batch, C channels (Co: of the output), H, W height and width; D inputs and M outputs of a
linear layer, K classes; n channels in the window of the normalisation.

Read before: 04_VGG/numpy/vgg_numpy.py, which writes out what autograd does here;
03_CNN_LeNet/pytorch_lowlevel/lenet_lowlevel.py (convolution as unfold and matmul, which F.conv2d
takes the place of from here on).

Deviations from the paper: as at level 1 (small sizes by default, He initialisation).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]

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


def init_params(
    config: VGGConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves: He's normal weights (eq. 2.26), biases zero.

    The numbers are drawn on the CPU, so that a seed gives the same network on every device.
    """
    params = {}
    for kind, name, shape in config.layers():
        if kind in ("conv", "linear"):
            std = math.sqrt(2 / math.prod(shape[1:]))
            params[f"{name}.weight"] = std * torch.randn(shape, generator=generator)
            params[f"{name}.bias"] = torch.zeros(shape[0])
    # Only now, for a tensor that asks for a gradient and is then scaled is no leaf any more.
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def local_response_norm(
    x: Tensor, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Tensor:
    """Divide each number by a power of what its neighbour channels hold there (eqs. 4.10, 4.11).

    Not ``F.local_response_norm(x, n, alpha, beta, k)``, which divides alpha by n. x: (B, C, H, W).
    """
    C = x.shape[1]
    squares = F.pad(x * x, (0, 0, 0, 0, n // 2, n // 2))  # -> (B, C + n - 1, H, W)
    s = k + alpha * sum(squares[:, i : i + C] for i in range(n))  # eq. 4.10
    return x * s**-beta  # eq. 4.11


def forward(
    params: Params,
    x: Tensor,
    config: VGGConfig,
    train: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Logits (B, K) of images (B, 3, H, W); ``train`` switches dropout on, ``generator`` draws it.

    Raises:
        ValueError: the images have another shape.
    """
    size = config.image_size
    if x.ndim != 4 or x.shape[1:] != (3, size, size):
        raise ValueError(f"expected images (B, 3, {size}, {size}), got {tuple(x.shape)}")
    for kind, name, shape in config.layers():
        weight, bias = params.get(f"{name}.weight"), params.get(f"{name}.bias")
        if kind == "conv":
            x = F.conv2d(x, weight, bias, padding=shape[2] // 2)  # -> Co channels, size kept
        elif kind == "relu":
            x = torch.relu(x)
        elif kind == "lrn":
            x = local_response_norm(x)
        elif kind == "pool":
            x = F.max_pool2d(x, 2)  # (B, C, H, W) -> (B, C, H/2, W/2)
        elif kind == "flatten":
            x = x.flatten(start_dim=1)  # eq. 4.7: (B, C, H, W) -> (B, C*H*W)
        elif kind == "linear":
            x = x @ weight.T + bias  # (B, D) -> (B, M)
        elif train and config.dropout > 0:
            # Drawn on the CPU, so that a seed drops the same units on every device.
            kept = torch.rand(x.shape, generator=generator).to(x.device) >= config.dropout
            x = x * kept / (1 - config.dropout)  # eq. 2.9
    return x


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


class SGD:
    """Gradient descent with momentum and L2 weight decay, as the paper trains.

    Args:
        params: name -> leaf tensor; changed in place by :meth:`step`.
        lr: may be set anew between steps.

    Attributes:
        state: ``velocity.<name>``, for checkpoints.
    """

    def __init__(
        self, params: Params, lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 5e-4
    ) -> None:
        self.params, self.lr = params, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state: Params = {
            f"velocity.{name}": torch.zeros_like(p).detach() for name, p in params.items()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter in place by its ``.grad``."""
        for name, p in self.params.items():
            g = p.grad + self.weight_decay * p  # eq. 2.32
            p -= self.lr * self.state[f"velocity.{name}"].mul_(self.momentum).add_(g)  # eq. 2.28


def train_step(
    params: Params,
    optimizer: SGD,
    x: Tensor,
    targets: Tensor,
    config: VGGConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One step on one batch, x (B, 3, H, W) and targets (B,); returns the loss before it."""
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in params.values():
        p.grad = None
    loss = cross_entropy(forward(params, x, config, train=True, generator=generator), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()
