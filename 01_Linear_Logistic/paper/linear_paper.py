"""Least squares as its inventors solved it, and as one solves it now (level 3).

Papers:
- A.-M. Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes", 1805, appendix
  "Sur la méthode des moindres quarrés": the principle and the normal equations.
- C. F. Gauss, "Theoria motus corporum coelestium", 1809, book II, section 3: least squares
  maximises the likelihood of normally distributed errors.
- A. E. Hoerl, R. W. Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
  Technometrics 12(1), 1970: the penalty.

Map of this file:
    LinearConfig, LinearRegression      the model
    loss_function                       half the mean squared error, and the ridge penalty
    solve_normal_equations              Legendre 1805
    solve_ridge                         the same minimum by QR, with or without a penalty

Shapes: N examples in the training set, B in the batch, D features, K outputs.

Read before: linear_numpy.py and linear_lowlevel.py of this chapter; theory.md, sections 3 to 6.

Deviations from the paper: `solve_ridge` uses QR; Legendre and Gauss eliminate by hand in the normal
equations (`solve_normal_equations` does it by Cholesky's method, which is that elimination).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LinearConfig:
    """Size of an affine map: ``features`` D in, ``outputs`` K out.

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


class LinearRegression(nn.Linear):
    """``y = x @ weight.T + bias`` (eq. 1.1): one ``nn.Linear``, whose names every level uses.

    State: ``weight`` (K, D), ``bias`` (K,).
    """

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config.features, config.outputs)
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (B, K) for ``x`` (B, D).

        Raises:
            ValueError: ``x`` has another shape.
        """
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"expected x (B, {self.in_features}), got {tuple(x.shape)}")
        return super().forward(x)  # (B, D) -> (B, K)


def loss_function(
    model: LinearRegression,
    batch: tuple[Tensor, Tensor],
    ridge: float = 0.0,
    examples: int | None = None,
) -> Tensor:
    """Half the mean squared error (eq. 1.2) plus the ridge penalty (eq. 1.16).

    Args:
        batch: ``x`` (B, D) and targets (B, K).
        ridge: alpha, counted against the *sum* of squared errors over the training set.
        examples: N, by which that sum, and so alpha, is divided; None if the batch is the whole
            training set. In mini-batches it has to be given: divided by B instead, the penalty
            would depend on the batch size.

    Raises:
        ValueError: the targets have another shape than the predictions.
    """
    x, targets = batch
    predictions = model(x)
    if predictions.shape != targets.shape:
        raise ValueError(f"expected targets {tuple(predictions.shape)}, got {tuple(targets.shape)}")
    data = 0.5 * (predictions - targets).square().sum() / len(targets)
    return data + 0.5 * ridge / (examples or len(x)) * model.weight.square().sum()


def _design(x: Tensor, y: Tensor) -> Tensor:
    """``x`` with a last column of ones for the bias: (N, D) -> (N, D+1)."""
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"expected x (N, D), y (N, K), got {tuple(x.shape)}, {tuple(y.shape)}")
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def _parameters(theta: Tensor) -> dict[str, Tensor]:
    return {"weight": theta[:-1].T.clone(), "bias": theta[-1].clone()}  # (D+1, K) -> (K, D), (K,)


@torch.no_grad()
def solve_normal_equations(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Legendre's way: set each derivative to zero and solve the linear system (eq. 1.6).

    Squaring the matrix squares its condition number (eq. 1.9): in float64 a matrix of condition 1e8
    leaves no digit right. :func:`solve_ridge` has no such loss.

    Args:
        x: (N, D). y: (N, K).

    Returns:
        ``weight`` (K, D) and ``bias`` (K,).

    Raises:
        ValueError: wrong shapes, or the normal equations are singular to rounding.
    """
    a = _design(x, y)
    lower, failed = torch.linalg.cholesky_ex(a.T @ a)  # (D+1, D+1)
    if failed:
        raise ValueError("expected linearly independent columns, got singular normal equations")
    return _parameters(torch.cholesky_solve(a.T @ y, lower))  # (D+1, K)


@torch.no_grad()
def solve_ridge(x: Tensor, y: Tensor, ridge: float = 0.0) -> dict[str, Tensor]:
    """Minimise ``sum |y - prediction|^2 + ridge * |weight|^2`` exactly (eq. 1.16), by QR.

    The penalty is D more rows of the least-squares problem: ``sqrt(ridge) * weight`` should be 0
    (eq. 1.17). The bias is free, so their last column is zero. ``ridge=0`` is plain least squares.

    Args:
        x: (N, D). y: (N, K). ridge: alpha >= 0, as ``sklearn.linear_model.Ridge`` counts it.

    Returns:
        ``weight`` (K, D) and ``bias`` (K,).

    Raises:
        ValueError: wrong shapes, a negative penalty, or (without penalty) dependent columns.
    """
    if not ridge >= 0:
        raise ValueError(f"expected ridge of at least 0, got {ridge}")
    a = _design(x, y)
    D = x.shape[1]
    rows = ridge**0.5 * torch.eye(D, D + 1, dtype=x.dtype, device=x.device)
    a = torch.cat([a, rows])  # (N, D+1) -> (N+D, D+1)
    y = torch.cat([y, y.new_zeros(D, y.shape[1])])  # (N, K) -> (N+D, K)
    q, r = torch.linalg.qr(a)  # (N+D, D+1), (D+1, D+1)
    diagonal = r.diagonal().abs()
    if diagonal.min() <= len(r) * torch.finfo(r.dtype).eps * diagonal.max():
        raise ValueError(
            "expected linearly independent columns, got one that the others determine "
            f"(column {int(diagonal.argmin())}; the intercept's column of ones is the last)"
        )
    return _parameters(torch.linalg.solve_triangular(r, q.T @ y, upper=True))
