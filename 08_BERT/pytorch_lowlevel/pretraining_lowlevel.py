"""Pre-training BERT from tensors (level 2): the loss, Adam with weight decay and its rate, by hand.

Paper: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, arXiv:1810.04805, sections 3.1 and A.2.

Map of this file:
    masked_cross_entropy    the loss of the chosen tokens
    AdamW, update           biases and norms do not decay
    linear_decay            the learning rate: up, then down in a straight line

Shapes: B batch, T tokens, V vocabulary, R chosen tokens.

Read before: bert_lowlevel.py; 02_MLP/numpy/optimizers_numpy.py (AdamW); 08_BERT/theory.md.

Deviations from the paper: as in 08_BERT/paper/pretraining_paper.py.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Params = dict[str, Tensor]

IGNORED = -100  # the label of a token that was not chosen


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels (...) that are not ``IGNORED``, of logits (..., V); 0 if none (eq. 8.9).

    Next-sentence labels (B,) with logits (B, 2) are a case of it.
    """
    chosen = labels != IGNORED
    log_p = logits[chosen].log_softmax(dim=-1)  # (..., V) -> (R, V)
    of_label = log_p.gather(1, labels[chosen][:, None])
    return -of_label.sum() / max(1, len(of_label))


class AdamW:
    """Adam with decoupled weight decay of all that has two axes (eqs. 2.29 to 2.33).

    Args:
        params: name -> leaf tensor; changed in place by :meth:`step`.
        lr: learning rate; may be set anew between steps.

    Attributes:
        state: ``step``, ``mean.<name>`` and ``square.<name>``, for checkpoints.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        self.params, self.lr, self.weight_decay = params, lr, weight_decay
        self.betas, self.eps = betas, eps
        self.state: Params = {"step": torch.zeros((), dtype=torch.int64)}
        for kind in ("mean", "square"):
            self.state |= {f"{kind}.{n}": torch.zeros_like(p).detach() for n, p in params.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter in place by its ``.grad``; one without a gradient stays."""
        self.state["step"] += 1
        t, (beta1, beta2) = int(self.state["step"]), self.betas
        for name, p in self.params.items():
            if p.grad is None:
                continue
            if p.ndim > 1:
                p *= 1 - self.lr * self.weight_decay  # eq. 2.33
            m = self.state[f"mean.{name}"].lerp_(p.grad, 1 - beta1)  # eq. 2.29
            s = self.state[f"square.{name}"].lerp_(p.grad.square(), 1 - beta2)
            root = s.sqrt() / math.sqrt(1 - beta2**t) + self.eps  # eq. 2.30
            p -= self.lr / (1 - beta1**t) * m / root  # eq. 2.31


def update(optimizer: AdamW, loss: Tensor) -> Tensor:
    """One step down the gradient of ``loss``; returns its value, without a graph."""
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in optimizer.params.values():
        p.grad = None
    loss.backward()
    optimizer.step()
    return loss.detach()


def linear_decay(total: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate at step 0, 1, ... (eq. 8.30): up to 1, then down to 0."""

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (total - step) / max(1, total - warmup))

    return schedule
