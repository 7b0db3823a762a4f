"""Linear regression in NumPy (level 1): the model, its squared error, three ways to fit it.

Papers:
- A.-M. Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes", 1805, appendix
  "Sur la méthode des moindres quarrés": least squares and the normal equations.
- C. F. Gauss, "Theoria motus corporum coelestium", 1809, book II, section 3: why squares.

Map of this file:
    LinearConfig, LinearRegression      the model: forward, backward
    standardise                         zero mean and unit variance for every feature
    squared_error_forward/backward      the loss
    gradient_descent                    full-batch and mini-batch, for every model of this chapter
    back_substitution                   solve a triangular system
    solve_least_squares                 the exact minimum, by a QR decomposition

Shapes: N examples in all, B in the batch, D features, K outputs (one, unless several targets are
fitted at once).

Read before: nothing, this is the first file; 01_Linear_Logistic/theory.md derives the equations.

Deviations from the paper: none in the model. Legendre and Gauss solve the normal equations; this
file solves the same problem by QR, which loses half as many digits (theory.md, section 4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LinearConfig:
    """Size of an affine map.

    Args:
        features: D, numbers that describe one example.
        outputs: K, numbers predicted for it.

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


class LinearRegression:
    """``y = x @ weight.T + bias`` (eq. 1.1).

    ``params`` holds ``weight`` (K, D) and ``bias`` (K,), as ``torch.nn.Linear`` has them.

    Args:
        config: the sizes.
        rng: draws the initial weight. The loss is convex, so the start decides only how long the
            way is; small random numbers are used because every later chapter needs them.
        dtype: of the parameters.
    """

    def __init__(
        self, config: LinearConfig, rng: np.random.Generator, dtype: type = np.float64
    ) -> None:
        self.config = config
        shape = (config.outputs, config.features)
        self.params: dict[str, np.ndarray] = {
            "weight": (0.01 * rng.standard_normal(shape)).astype(dtype),
            "bias": np.zeros(config.outputs, dtype),
        }

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Predictions (B, K) for ``x`` (B, D).

        Raises:
            ValueError: ``x`` has another shape.
        """
        if x.ndim != 2 or x.shape[1] != self.config.features:
            raise ValueError(f"expected x (B, {self.config.features}), got {x.shape}")
        self._cache = (x,)
        return x @ self.params["weight"].T + self.params["bias"]  # (B, D) -> (B, K)

    def backward(self, dy: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of the parameters from the gradient ``dy`` (B, K) of the predictions."""
        (x,) = self._cache
        return {
            "weight": dy.T @ x,  # eq. 1.4, (K, B) @ (B, D) -> (K, D)
            "bias": dy.sum(axis=0),  # eq. 1.5, (B, K) -> (K,)
        }


def standardise(x_train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shift and scale each feature to mean 0 and deviation 1 over the training set (eq. 1.15).

    Args:
        x_train: (N, D), decides means and standard deviations.
        others: more arrays (any, D), e.g. the test set: given the *training* set's shift and scale,
            because nothing about the test set may be known while fitting.

    Returns:
        All arrays, changed, in the same order. A feature that is constant in ``x_train`` becomes 0.
    """
    mean = x_train.mean(axis=0)
    deviation = x_train.std(axis=0)
    deviation[deviation == 0] = 1
    return tuple((x - mean) / deviation for x in (x_train, *others))


# --- the loss


def squared_error_forward(
    predictions: np.ndarray, targets: np.ndarray
) -> tuple[np.floating, tuple[Any, ...]]:
    """Half the squared error, summed over the K outputs, averaged over the batch (eq. 1.2).

    Args:
        predictions: (B, K).
        targets: (B, K). Never (B,): NumPy would broadcast (B, 1) - (B,) to (B, B) in silence.

    Returns:
        The loss, a scalar, and the cache.

    Raises:
        ValueError: the shapes differ.
    """
    if predictions.shape != targets.shape:
        raise ValueError(f"expected targets {predictions.shape}, got {targets.shape}")
    residual = predictions - targets
    loss = 0.5 * (residual**2).sum() / len(residual)
    return loss, (residual,)


def squared_error_backward(cache: tuple[Any, ...]) -> np.ndarray:
    """Gradient (B, K) of the loss with respect to the predictions."""
    (residual,) = cache
    return residual / len(residual)  # eq. 1.3


# --- fitting by gradient descent


def gradient_descent(
    model: Any,
    loss_forward: Callable[..., Any],
    loss_backward: Callable[..., np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    lr: float,
    steps: int,
    batch_size: int | None = None,
    rng: np.random.Generator | None = None,
) -> list[float]:
    """Move ``model.params`` in place against the gradient, ``steps`` times (eq. 1.10).

    Args:
        model: has ``params``, ``forward`` and ``backward``; any model of this chapter.
        loss_forward: ``(outputs, targets) -> loss, cache``.
        loss_backward: ``cache -> gradient of the outputs``.
        x: (N, D).
        y: the N targets, as ``loss_forward`` wants them.
        lr: the learning rate, eta. Too large a one diverges: eq. 1.12 says what is too large.
        batch_size: None computes each step's gradient on all N examples; a number, on so many that
            are drawn without replacement until all N had their turn (eq. 1.14).
        rng: shuffles the mini-batches; needed with ``batch_size``.

    Returns:
        The loss of each step, measured before the step moves the parameters.

    Raises:
        ValueError: ``batch_size`` without ``rng``, or not in 1 ... N.
    """
    n = len(x)
    if batch_size is not None and (rng is None or not 1 <= batch_size <= n):
        raise ValueError(
            f"expected an rng and a batch_size in 1 ... {n}, got batch_size={batch_size}, rng={rng}"
        )
    losses: list[float] = []
    order = np.arange(0)  # empty, so that the first mini-batch draws a permutation
    for _ in range(steps):
        if batch_size is None:
            x_batch, y_batch = x, y
        else:
            if len(order) == 0:
                order = rng.permutation(n)
            index, order = order[:batch_size], order[batch_size:]
            x_batch, y_batch = x[index], y[index]
        loss, cache = loss_forward(model.forward(x_batch), y_batch)
        grads = model.backward(loss_backward(cache))
        for name, gradient in grads.items():
            model.params[name] -= lr * gradient
        losses.append(float(loss))
    return losses


# --- fitting exactly


def back_substitution(r: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Solve ``r @ theta = c`` for an upper triangular ``r`` (eq. 1.8), last unknown first.

    Args:
        r: (P, P), upper triangular.
        c: (P, K).

    Returns:
        theta (P, K).

    Raises:
        ValueError: a number on the diagonal is zero to rounding; then no unique solution exists.
    """
    diagonal = np.abs(np.diag(r))
    if diagonal.min() <= len(r) * np.finfo(r.dtype).eps * diagonal.max():
        raise ValueError(
            "expected linearly independent columns, got one that the others determine "
            f"(column {int(diagonal.argmin())}; the intercept's column of ones is the last)"
        )
    theta = np.zeros_like(c)
    for j in reversed(range(len(r))):
        theta[j] = (c[j] - r[j, j + 1 :] @ theta[j + 1 :]) / r[j, j]
    return theta


def solve_least_squares(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters that minimise the squared error exactly, by QR (eq. 1.7 and 1.8).

    Args:
        x: (N, D), N > D.
        y: (N, K).

    Returns:
        ``weight`` (K, D) and ``bias`` (K,), in the dtype of ``x``.

    Raises:
        ValueError: wrong shapes, too few examples, or linearly dependent columns.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"expected x (N, D) and y (N, K), got {x.shape} and {y.shape}")
    N, D = x.shape
    if N <= D:
        raise ValueError(f"expected more examples than the {D} features, got {N}")
    a = np.concatenate([x, np.ones((N, 1), x.dtype)], axis=1)  # (N, D) -> (N, D+1)
    q, r = np.linalg.qr(a)  # (N, D+1) -> (N, D+1), (D+1, D+1)
    theta = back_substitution(r, q.T @ y)  # (D+1, K)
    return {"weight": theta[:D].T.copy(), "bias": theta[D].copy()}
