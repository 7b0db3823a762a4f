"""Training a GPT from tensors (level 2): loss, AdamW, clipping and learning rate by hand.

Papers:
- A. Radford et al., "Improving Language Understanding by Generative Pre-Training", OpenAI 2018,
  section 4.1.
- I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.

Map of this file:
    next_token_loss
    AdamW, clip_by_norm, cosine_rate, update

Shapes: B batch, T tokens, V vocabulary.

Read before: gpt_lowlevel.py; 02_MLP/numpy/optimizers_numpy.py (AdamW); 09_GPT/theory.md, section 7.

Deviations from the paper: none.
"""

import math

import torch
from torch import Tensor

Params = dict[str, Tensor]
IGNORED = -100  # a target that does not count, such as padding


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, over the targets (B, T) that are not ``IGNORED`` (eq. 9.3)."""
    real = targets != IGNORED
    if not real.any():
        raise ValueError("expected targets that count, got none")
    log_p = logits[real].log_softmax(dim=-1)  # (B, T, V) -> (targets, V)
    return -log_p.gather(1, targets[real][:, None]).mean()


class AdamW:
    """Adam with decoupled weight decay, on matrices alone: not on biases and gains.

    Args:
        params: name -> leaf tensor; changed in place by :meth:`step`.

    Attributes:
        lr: may be set anew between steps.
        state: ``step``, ``mean.<name>`` and ``square.<name>``, for checkpoints.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 2.5e-4,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.params, self.lr, self.weight_decay = params, lr, weight_decay
        self.betas, self.eps = betas, eps
        self.state: Params = {"step": torch.zeros((), dtype=torch.int64)}
        for kind in ("mean", "square"):
            self.state |= {f"{kind}.{n}": torch.zeros_like(p).detach() for n, p in params.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter in place by its ``.grad``."""
        self.state["step"] += 1
        t, (beta1, beta2) = int(self.state["step"]), self.betas
        for name, p in self.params.items():
            if p.ndim >= 2:
                p *= 1 - self.lr * self.weight_decay  # eq. 2.33
            m = self.state[f"mean.{name}"].lerp_(p.grad, 1 - beta1)  # eq. 2.29
            s = self.state[f"square.{name}"].lerp_(p.grad.square(), 1 - beta2)
            root = s.sqrt() / math.sqrt(1 - beta2**t) + self.eps  # eq. 2.30
            p -= self.lr / (1 - beta1**t) * m / root  # eq. 2.31


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


def cosine_rate(step: int, total: int, warmup: int, floor: float = 0.1) -> float:
    """Factor of the learning rate at step 0, 1, ...: a rise, then half a cosine (eq. 9.18)."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def update(optimizer: AdamW, loss: Tensor, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """One step down the gradient of ``loss``; returns its value and the gradient's norm."""
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in optimizer.params.values():
        p.grad = None
    loss.backward()
    norm = clip_by_norm(optimizer.params, clip)
    optimizer.step()
    return loss.detach(), norm
