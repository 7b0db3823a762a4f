"""Training the Vision Transformer at level 2: loss, AdamW, learning rate and images by hand.

Papers: A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929, appendix
B.1; I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.

Map of this file:
    cross_entropy    with label smoothing
    warmup_cosine    the learning rate's factor
    AdamW, update    the update rule; zero the gradients, backward, clip, step
    augment          random crops and mirror images

Shapes: B batch; C, H, W channels, height, width; K classes.

Read before: vit_lowlevel.py, beside this file; 10_ViT/theory.md, section 9.

Deviations from the paper: the rate falls along a cosine also where the paper lets it fall linearly
(pre-training on more than ImageNet); random crops are those that are usual for CIFAR-10.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats. logits: (B, K); targets: (B,) int labels.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"expected logits (B, K) and targets (B,), got {shapes}")
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    right = log_p[torch.arange(len(targets), device=logits.device), targets]
    return -((1 - label_smoothing) * right + label_smoothing * log_p.mean(dim=1)).mean()


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Factor of the learning rate at step 0, 1, ...: a rise, then half a cosine (eq. 10.23)."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1 + math.cos(math.pi * done))


class AdamW:
    """Adam with decoupled weight decay on every parameter, ``torch.optim.AdamW``'s rule.

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
        weight_decay: float = 0.1,
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


def augment(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """A random crop of each image (B, C, H, W) in a frame of zeros; every second one mirrored."""
    B, C, H, W = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (B, 1), generator=generator) + torch.arange(H)  # (B, H)
    columns = torch.randint(2 * padding + 1, (B, 1), generator=generator) + torch.arange(W)
    mirrored = torch.rand(B, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)  # (B, W)
    # One index for each axis; together they broadcast to (B, C, H, W).
    image, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(C).view(1, C, 1, 1)
    index = image, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)
    return padded[tuple(i.to(images.device) for i in index)]
