"""Logistic and softmax regression in NumPy (level 1): probabilities from an affine map.

Paper: D. R. Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical
Society B 20(2), 1958, pages 215-242: the logit of a probability is linear in the explanatory
variables; the parameters are those of maximum likelihood. Softmax regression is the same model for
more than two classes.

Map of this file:
    sigmoid, log_softmax            stable for numbers of any size; later chapters import them
    LogisticConfig, SoftmaxConfig   sizes
    LogisticRegression              two classes, one logit
    SoftmaxRegression               K classes, K logits
    logistic_loss_forward/backward  negative log likelihood of two classes
    softmax_loss_forward/backward   negative log likelihood of K classes (cross-entropy)

Shapes: B examples in the batch, D features, K classes.

Read before: 01_Linear_Logistic/numpy/linear_numpy.py; theory.md, sections 7 and 8.

Deviations from the paper: Cox treats one explanatory variable at a time and exact conditional tests
besides; here are D variables and the fit alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from linear_numpy import LinearConfig, LinearRegression


def sigmoid(x: np.ndarray) -> np.ndarray:
    """``1 / (1 + exp(-x))``, elementwise, same shape and dtype (eq. 1.20).

    ``exp`` only ever sees numbers <= 0, so it can't overflow.
    """
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis, same shape and dtype (eq. 1.27)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class LogisticConfig(LinearConfig):
    """Sizes of a logistic regression: ``features`` D, and always one output.

    Raises:
        ValueError: ``features`` below 1, or several outputs.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs != 1:
            raise ValueError(f"expected outputs=1 (one logit), got outputs={self.outputs}")


@dataclass(frozen=True)
class SoftmaxConfig(LinearConfig):
    """Sizes of a softmax regression: ``features`` D and ``outputs`` K, one for each class.

    Raises:
        ValueError: fewer than two classes.
    """

    outputs: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs < 2:
            raise ValueError(f"expected at least 2 classes, got outputs={self.outputs}")


class LogisticRegression(LinearRegression):
    """One logit for each example, ``z = x @ weight.T + bias`` (eq. 1.19).

    ``forward`` and ``backward`` are those of the linear model: the loss makes it a classifier.
    """

    def probability(self, x: np.ndarray) -> np.ndarray:
        """Probability (B,) of class 1."""
        return sigmoid(self.forward(x)[:, 0])  # (B, D) -> (B,)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The likelier class (B,), 0 or 1."""
        return (self.forward(x)[:, 0] > 0).astype(np.int64)


class SoftmaxRegression(LinearRegression):
    """K logits for each example, ``z = x @ weight.T + bias`` (eq. 1.24)."""

    def probability(self, x: np.ndarray) -> np.ndarray:
        """Probabilities (B, K), each row summing to 1."""
        return np.exp(log_softmax(self.forward(x)))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The likeliest class (B,)."""
        return self.forward(x).argmax(axis=1)  # (B, K) -> (B,)


# --- losses


def _check_labels(logits: np.ndarray, labels: np.ndarray, classes: int) -> None:
    """Raise ValueError unless there is one whole number in 0 ... classes - 1 for each row."""
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"expected labels ({len(logits)},), got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected labels of an integer dtype, got {labels.dtype}")
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"expected labels in 0 ... {classes - 1}, got {labels.min()} ... {labels.max()}"
        )


def logistic_loss_forward(
    logits: np.ndarray, labels: np.ndarray
) -> tuple[np.floating, tuple[Any, ...]]:
    """Mean negative log likelihood of two classes, from logits (eq. 1.22).

    Args:
        logits: (B, 1).
        labels: (B,), integers 0 and 1.

    Returns:
        The loss, a scalar, and the cache.

    Raises:
        ValueError: wrong shapes, or other labels.
    """
    if logits.ndim != 2 or logits.shape[1] != 1:
        raise ValueError(f"expected logits (B, 1), got {logits.shape}")
    _check_labels(logits, labels, 2)
    z = logits[:, 0]  # (B, 1) -> (B,)
    y = labels.astype(z.dtype)  # with integers, NumPy would go on in float64
    losses = np.maximum(z, 0) - y * z + np.log1p(np.exp(-np.abs(z)))
    return losses.mean(), (z, y)


def logistic_loss_backward(cache: tuple[Any, ...]) -> np.ndarray:
    """Gradient (B, 1) of the loss with respect to the logits."""
    z, y = cache
    dz = (sigmoid(z) - y) / len(z)  # eq. 1.23
    return dz[:, None]  # (B,) -> (B, 1)


def softmax_loss_forward(
    logits: np.ndarray, labels: np.ndarray
) -> tuple[np.floating, tuple[Any, ...]]:
    """Mean negative log likelihood of K classes, from logits (eq. 1.28).

    Args:
        logits: (B, K).
        labels: (B,), integers in 0 ... K - 1.

    Returns:
        The loss, a scalar, and the cache.

    Raises:
        ValueError: wrong shapes, or other labels.
    """
    if logits.ndim != 2:
        raise ValueError(f"expected logits (B, K), got {logits.shape}")
    B, K = logits.shape
    _check_labels(logits, labels, K)
    log_p = log_softmax(logits)
    return -log_p[np.arange(B), labels].mean(), (log_p, labels)


def softmax_loss_backward(cache: tuple[Any, ...]) -> np.ndarray:
    """Gradient (B, K) of the loss with respect to the logits."""
    log_p, labels = cache
    dlogits = np.exp(log_p)
    dlogits[np.arange(len(labels)), labels] -= 1
    return dlogits / len(labels)  # eq. 1.29
