"""Loss, clipping and update rule for recurrent networks (level 2), from tensors.

Papers:
- R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training Recurrent Neural Networks",
  2013, arXiv:1211.5063, section 3.2: clipping by norm.
- D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980.

Map of this file:
    sequence_loss       for values, classes, and a class at every step
    clip_by_norm
    Adam
    train_step          forward, backward, clip, update; why the state is detached

Shapes: B batch, T steps, K outputs.

Read before: lstm_lowlevel.py or gru_lowlevel.py; 02_MLP (Adam).

Deviations from the paper: none.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]
State = tuple[Tensor, ...]


def sequence_loss(outputs: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The loss that fits the targets.

    Args:
        outputs: (B, K) or (B, T, K).
        y: (B,) float: half the squared error. (B,) int: cross-entropy. (B, T) int: cross-entropy
            over the real steps alone (eq. 6.4).
        lengths: (B,), real steps; None = all.
    """
    if y.is_floating_point():
        return 0.5 * (outputs[:, 0] - y).square().mean()
    if y.ndim == 2 and lengths is not None:
        real = torch.arange(y.shape[1], device=y.device) < lengths[:, None]  # (B, T)
        outputs, y = outputs[real], y[real]  # (B, T, K) -> (real steps, K)
    return F.cross_entropy(outputs.flatten(0, -2), y.flatten())


@torch.no_grad()
def clip_by_norm(params: Params, limit: float) -> Tensor:
    """Scale all ``.grad`` together if their norm is above ``limit`` (eq. 6.15).

    Returns:
        the norm before.
    """
    norm = torch.stack([p.grad.square().sum() for p in params.values()]).sum().sqrt()
    if norm > limit:
        for p in params.values():
            p.grad *= limit / norm
    return norm


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
            m = self.state[f"mean.{name}"].mul_(beta1).add_((1 - beta1) * p.grad)  # eq. 2.29
            s = self.state[f"square.{name}"].mul_(beta2).add_((1 - beta2) * p.grad * p.grad)
            root = s.sqrt() / math.sqrt(1 - beta2**t) + self.eps  # eq. 2.30
            p -= self.lr / (1 - beta1**t) * m / root  # eq. 2.31


def train_step(
    forward: Callable[..., tuple[Tensor, State]],
    params: Params,
    optimizer: Adam,
    batch: tuple[Tensor, Tensor | None, Tensor],
    clip: float = 1.0,
) -> tuple[Tensor, State]:
    """One step on a batch ``(x, lengths, y)``.

    Args:
        forward: ``(params, x, lengths=...) -> outputs, state``; a model's forward with its other
            arguments filled in.
        clip: the largest norm of the gradient.

    Returns:
        the loss before the step, and the last state without its history. A state that keeps its
        history would lead the next backward pass into this batch, whose graph is gone by then.
    """
    x, lengths, y = batch
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in params.values():
        p.grad = None
    outputs, state = forward(params, x, lengths=lengths)
    loss = sequence_loss(outputs, y, lengths)
    loss.backward()
    clip_by_norm(params, clip)
    optimizer.step()
    return loss.detach(), tuple(part.detach() for part in state)  # eq. 6.16
