"""Training CLIP at level 2: AdamW with and without decay, learning rate, clipping, by hand.

Papers: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020, section 2.5; I. Loshchilov, F. Hutter, "Decoupled Weight Decay
Regularization", 2017, arXiv:1711.05101.

Map of this file:
    warmup_cosine    the learning rate's factor
    AdamW, update    the update rule; zero the gradients, backward, clip, step
    crop             random places of padded images

Shapes: B batch; C, H, W channels, height, width.

Read before: clip_lowlevel.py, beside this file; 12_CLIP/theory.md, section 12.

Deviations from the paper: none known.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Factor of the learning rate at step 0, 1, ...: a rise, then half a cosine (eq. 10.23)."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1 + math.cos(math.pi * done))


class AdamW:
    """Adam with decoupled weight decay on what has two axes or more.

    Gains, biases, the class token and the scale have no decay.

    Args:
        params: name -> leaf tensor; changed in place by :meth:`step`.

    Attributes:
        lr: may be set anew between steps.
        state: ``step``, ``mean.<name>`` and ``square.<name>``, for checkpoints.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
    ) -> None:
        self.params, self.lr = params, lr
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.state = {"step": torch.zeros((), dtype=torch.int64)}
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
            mean, square = self.state[f"mean.{name}"], self.state[f"square.{name}"]
            if p.ndim >= 2:
                p *= 1 - self.lr * self.weight_decay
            mean.lerp_(p.grad, 1 - beta1)
            square.lerp_(p.grad.square(), 1 - beta2)
            root = (square / (1 - beta2**t)).sqrt() + self.eps
            p -= self.lr / (1 - beta1**t) * mean / root


def update(optimizer: AdamW, loss: Tensor, clip_norm: float = 0.0) -> Tensor:
    """Backward and one step; returns the loss.

    Args:
        clip_norm: the gradient of all parameters together is made at most so long; 0 = no limit.
    """
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in optimizer.params.values():
        p.grad = None
    loss.backward()
    if clip_norm:
        grads = [p.grad for p in optimizer.params.values()]
        norm = torch.stack([g.norm() for g in grads]).norm()
        for g in grads:
            g *= min(1.0, clip_norm / (norm.item() + 1e-6))  # eq. 10.22
    optimizer.step()
    return loss.detach()


def crop(images: Tensor, generator: torch.Generator, padding: int = 2) -> Tensor:
    """A random crop of each image (B, C, H, W) whose edges were repeated outwards."""
    B, C, H, W = images.shape
    padded = F.pad(images, (padding,) * 4, mode="replicate")
    rows = torch.randint(2 * padding + 1, (B, 1), generator=generator) + torch.arange(H)  # (B, H)
    columns = torch.randint(2 * padding + 1, (B, 1), generator=generator) + torch.arange(W)
    # One index for each axis; together they broadcast to (B, C, H, W).
    image, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(C).view(1, C, 1, 1)
    index = image, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)
    return padded[tuple(i.to(images.device) for i in index)]
