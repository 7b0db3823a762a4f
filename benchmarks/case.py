"""What a benchmark case is. Each module of this folder with a list ``CASES`` is a chapter's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

Work = Callable[[], object]
RATE = 0.01  # of the steps of gradient descent that most cases time


@dataclass(frozen=True)
class Case:
    """Our code beside a reference on the same task.

    Attributes:
        name: short, such as ``conv2d step``.
        what: the task, with its sizes.
        ours, reference: functions that set the task up and return the work to be timed; they
            must do the same work on the same numbers.
        reference_name: such as ``torch``.
        target: our time must be at most so many times the reference's.
        rounds: how often the two are timed in turn.
    """

    name: str
    what: str
    ours: Callable[[], Work]
    reference: Callable[[], Work]
    reference_name: str
    target: float
    rounds: int = 15


def array_step(
    params: Mapping[str, np.ndarray], gradients: Callable[[], Mapping[str, np.ndarray]]
) -> Work:
    """A step of gradient descent at level 1; ``gradients`` goes forward and backward."""

    def step() -> None:
        grads = gradients()
        for name, p in params.items():
            p -= RATE * grads[name]

    return step


def tensor_step(params: Mapping[str, Tensor], loss: Callable[[], Tensor]) -> Work:
    """The same at level 2; ``loss`` goes forward."""

    def step() -> None:
        grads = torch.autograd.grad(loss(), list(params.values()))
        with torch.no_grad():
            for p, g in zip(params.values(), grads, strict=True):
                p -= RATE * g

    return step


def module_step(
    model: nn.Module,
    loss: Callable[[], Tensor],
    rule: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
) -> Work:
    """The same for a module, ours or a library's, or a step of another ``rule``."""
    optimizer = rule(model.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
