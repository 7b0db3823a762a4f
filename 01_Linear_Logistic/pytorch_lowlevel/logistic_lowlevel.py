"""Logistic and softmax regression from tensors and autograd (level 2), without nn or torch.optim.

Paper: D. R. Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical
Society B 20(2), 1958, pages 215-242.

Map of this file:
    LogisticConfig      sizes: one output is logistic regression, K outputs are softmax regression
    init_params         leaf tensors that collect gradients
    forward             the logits
    logistic_loss       negative log likelihood of two classes
    softmax_loss        negative log likelihood of K classes
    predict             the likeliest class
    gradient_step       the update
    train_step          forward, backward, update, and why the gradients are cleared

Shapes: B examples in the batch, D features, K classes.

Read before: linear_lowlevel.py beside this file; 01_Linear_Logistic/numpy/logistic_numpy.py.

Deviations from the paper: D explanatory variables instead of one; the fit alone, no tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogisticConfig:
    """``features`` D in; ``outputs`` 1 for two classes by one logit, or K for K classes.

    Raises:
        ValueError: a size below 1.
    """

    features: int
    outputs: int = 1

    def __post_init__(self) -> None:
        if self.features < 1 or self.outputs < 1:
            raise ValueError(
                "expected features and outputs of at least 1, "
                f"got features={self.features}, outputs={self.outputs}"
            )


def init_params(
    config: LogisticConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Small random ``weight`` (K, D) and zero ``bias`` (K,), each a leaf that requires grad."""
    # Drawn on the CPU, so that a seed means the same weights on every device.
    weight = 0.01 * torch.randn(config.outputs, config.features, generator=generator, dtype=dtype)
    return {
        "weight": weight.to(device).requires_grad_(),
        "bias": torch.zeros(config.outputs, dtype=dtype, device=device).requires_grad_(),
    }


def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Logits (B, K) for ``x`` (B, D): eq. 1.19 and 1.24.

    Raises:
        ValueError: ``x`` has another shape.
    """
    features = params["weight"].shape[1]
    if x.ndim != 2 or x.shape[1] != features:
        raise ValueError(f"expected x (B, {features}), got {tuple(x.shape)}")
    return x @ params["weight"].T + params["bias"]  # (B, D) -> (B, K)


def _check_labels(logits: Tensor, labels: Tensor, classes: int) -> None:
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"expected labels ({len(logits)},), got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"expected labels of an integer dtype, got {labels.dtype}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"expected labels in 0 ... {classes - 1}, got {labels.min()} ... {labels.max()}"
        )


def logistic_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log likelihood of two classes, from logits (B, 1) and labels (B,): eq. 1.22.

    Raises:
        ValueError: wrong shapes, or labels other than 0 and 1.
    """
    if logits.ndim != 2 or logits.shape[1] != 1:
        raise ValueError(f"expected logits (B, 1), got {tuple(logits.shape)}")
    _check_labels(logits, labels, 2)
    z = logits[:, 0]  # (B, 1) -> (B,)
    # relu(z) + log1p(exp(-|z|)) is log(1 + exp(z)); torch.clamp(z, min=0) would do for the value,
    # but at z = 0 the two terms' one-sided derivatives must add up to 1/2: relu has 0 there, abs 0,
    # which gives 0. logaddexp knows the derivative of the whole.
    return (torch.logaddexp(z, torch.zeros_like(z)) - labels * z).mean()


def softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log likelihood of K classes, from logits (B, K) and labels (B,): eq. 1.28.

    Raises:
        ValueError: wrong shapes, or labels outside 0 ... K - 1.
    """
    if logits.ndim != 2:
        raise ValueError(f"expected logits (B, K), got {tuple(logits.shape)}")
    B, K = logits.shape
    _check_labels(logits, labels, K)
    # Any shift gives the same loss (eq. 1.26), so this one needs no gradient.
    shifted = logits - logits.max(dim=1, keepdim=True).values.detach()
    log_p = shifted - shifted.exp().sum(dim=1, keepdim=True).log()
    return -log_p[torch.arange(B, device=labels.device), labels].mean()


@torch.no_grad()
def predict(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The likeliest class (B,) for ``x`` (B, D)."""
    logits = forward(params, x)
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).long()
    return logits.argmax(dim=1)


@torch.no_grad()
def gradient_step(params: Mapping[str, Tensor], lr: float) -> None:
    """``p <- p - lr * p.grad`` for every parameter (eq. 1.10).

    Raises:
        ValueError: a parameter has no gradient.
    """
    for name, p in params.items():
        if p.grad is None:
            raise ValueError(f"expected a gradient of {name}, got none: is it a leaf, and used?")
        p -= lr * p.grad


def train_step(params: Mapping[str, Tensor], x: Tensor, labels: Tensor, lr: float) -> Tensor:
    """One step on one batch, x (B, D) and labels (B,); returns the loss before the update.

    One logit takes the loss of logistic regression, several that of softmax regression.
    """
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in params.values():
        p.grad = None
    logits = forward(params, x)
    loss_function = logistic_loss if logits.shape[1] == 1 else softmax_loss
    loss = loss_function(logits, labels)
    loss.backward()
    gradient_step(params, lr)
    return loss.detach()
