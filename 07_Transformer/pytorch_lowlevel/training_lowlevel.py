"""Training a Transformer from tensors (level 2): the loss, Adam and its learning rate by hand.

Paper: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, sections 5.3 and 5.4.

Map of this file:
    shift_right               the decoder's input, made of the labels
    smoothed_cross_entropy    label smoothing; leaves padding out
    Adam, warmup_rate, update

Shapes: B batch, T target length, V vocabulary.

Read before: transformer_lowlevel.py; 02_MLP/numpy/optimizers_numpy.py (Adam);
07_Transformer/theory.md, sections 8 and 12.

Deviations from the paper: none.
"""

import math

import torch
from torch import Tensor

Params = dict[str, Tensor]


def shift_right(labels: Tensor, bos_id: int) -> Tensor:
    """The decoder's input for labels (B, T): ``bos_id`` first, the last label left out."""
    return torch.cat([torch.full_like(labels[:, :1], bos_id), labels[:, :-1]], dim=1)


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, pad_id: int, label_smoothing: float = 0.1
) -> Tensor:
    """Mean over all labels (B, T) but padding, of logits (B, T, V), in nats (eq. 7.27)."""
    real = labels != pad_id
    if not real.any():
        raise ValueError("expected labels other than padding, got none")
    log_p = logits[real].log_softmax(dim=-1)  # (B, T, V) -> (labels, V)
    of_label = log_p.gather(1, labels[real][:, None])[:, 0]
    return -((1 - label_smoothing) * of_label + label_smoothing * log_p.mean(dim=1)).mean()


class Adam:
    """Adam with the paper's numbers; ``lr`` may be set anew between steps.

    Args:
        params: name -> leaf tensor; changed in place by :meth:`step`.

    Attributes:
        state: ``step``, ``mean.<name>`` and ``square.<name>``, for checkpoints.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-9,
    ) -> None:
        self.params, self.lr, self.betas, self.eps = params, lr, betas, eps
        self.state: Params = {"step": torch.zeros((), dtype=torch.int64)}
        for kind in ("mean", "square"):
            self.state |= {f"{kind}.{n}": torch.zeros_like(p).detach() for n, p in params.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter in place by its ``.grad``."""
        self.state["step"] += 1
        t, (beta1, beta2) = int(self.state["step"]), self.betas
        for name, p in self.params.items():
            # eq. 2.29: lerp_ goes the share 1 - beta of the way to the new value
            m = self.state[f"mean.{name}"].lerp_(p.grad, 1 - beta1)
            s = self.state[f"square.{name}"].lerp_(p.grad.square(), 1 - beta2)
            root = s.sqrt() / math.sqrt(1 - beta2**t) + self.eps  # eq. 2.30
            p -= self.lr / (1 - beta1**t) * m / root  # eq. 2.31


def warmup_rate(step: int, width: int, warmup: int = 4000) -> float:
    """Learning rate of step 1, 2, ...: rises for ``warmup`` steps, then falls (eq. 7.53)."""
    if step < 1:
        raise ValueError(f"expected steps counted from 1, got {step}")
    return width**-0.5 * min(step**-0.5, step * warmup**-1.5)


def update(optimizer: Adam, loss: Tensor) -> Tensor:
    """One step down the gradient of ``loss``; returns its value, without a graph."""
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in optimizer.params.values():
        p.grad = None
    loss.backward()
    optimizer.step()
    return loss.detach()
