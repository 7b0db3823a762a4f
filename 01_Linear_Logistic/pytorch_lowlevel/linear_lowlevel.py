"""Linear regression from tensors and autograd (level 2): no nn.Module, no torch.optim.

Papers:
- A.-M. Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes", 1805, appendix
  "Sur la méthode des moindres quarrés".
- C. F. Gauss, "Theoria motus corporum coelestium", 1809, book II, section 3.

Map of this file:
    LinearConfig            sizes
    init_params             leaf tensors that collect gradients
    forward                 the affine map
    squared_error           the loss
    gradient_step           the update
    train_step              forward, backward, update, and why the gradients are cleared
    solve_least_squares     the exact minimum, by a QR decomposition

Shapes: B examples in the batch, D features, K outputs.

Read before: 01_Linear_Logistic/numpy/linear_numpy.py. There ``backward`` is written out; here
autograd derives it.

Deviations from the paper: none in the model; solved by QR instead of the normal equations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


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


def init_params(
    config: LinearConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Small random ``weight`` (K, D) and zero ``bias`` (K,), each a leaf that requires a gradient.

    The scale is applied *before* ``requires_grad_``. In
    ``torch.randn(K, D, requires_grad=True) * 0.01`` the product is a result, not a leaf:
    ``backward`` would fill the ``grad`` of the nameless tensor that ``randn`` made, and the one
    kept here would never get one, and never move (theory.md, section 11).
    """
    # Drawn on the CPU, so that a seed means the same weights on every device.
    weight = 0.01 * torch.randn(config.outputs, config.features, generator=generator, dtype=dtype)
    return {
        "weight": weight.to(device).requires_grad_(),
        "bias": torch.zeros(config.outputs, dtype=dtype, device=device).requires_grad_(),
    }


def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Predictions (B, K) for ``x`` (B, D): eq. 1.1.

    Raises:
        ValueError: ``x`` has another shape.
    """
    features = params["weight"].shape[1]
    if x.ndim != 2 or x.shape[1] != features:
        raise ValueError(f"expected x (B, {features}), got {tuple(x.shape)}")
    return x @ params["weight"].T + params["bias"]  # (B, D) -> (B, K)


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Half the squared error, summed over the K outputs, averaged over the batch: eq. 1.2.

    Raises:
        ValueError: the shapes (both (B, K)) differ; broadcasting would hide it.
    """
    if predictions.shape != targets.shape:
        raise ValueError(f"expected targets {tuple(predictions.shape)}, got {tuple(targets.shape)}")
    return 0.5 * (predictions - targets).square().sum() / len(targets)


@torch.no_grad()
def gradient_step(params: Mapping[str, Tensor], lr: float) -> None:
    """``p <- p - lr * p.grad`` for every parameter (eq. 1.10).

    ``no_grad`` keeps the update itself out of the graph.

    Raises:
        ValueError: a parameter has no gradient.
    """
    for name, p in params.items():
        if p.grad is None:
            raise ValueError(f"expected a gradient of {name}, got none: is it a leaf, and used?")
        p -= lr * p.grad


def train_step(params: Mapping[str, Tensor], x: Tensor, targets: Tensor, lr: float) -> Tensor:
    """One step on one batch, x (B, D) and targets (B, K); returns the loss before the update."""
    # backward() adds to .grad; without this, gradients of earlier steps would stay in it.
    for p in params.values():
        p.grad = None
    loss = squared_error(forward(params, x), targets)
    loss.backward()
    gradient_step(params, lr)
    return loss.detach()


@torch.no_grad()
def solve_least_squares(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The parameters that minimise the squared error exactly, by QR (eq. 1.7 and 1.8).

    Args:
        x: (N, D), N > D, with linearly independent columns.
        y: (N, K).

    Returns:
        ``weight`` (K, D) and ``bias`` (K,), without gradients.

    Raises:
        ValueError: wrong shapes, too few examples, or linearly dependent columns.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"expected x (N, D), y (N, K), got {tuple(x.shape)}, {tuple(y.shape)}")
    N, D = x.shape
    if N <= D:
        raise ValueError(f"expected more examples than the {D} features, got {N}")
    a = torch.cat([x, x.new_ones(N, 1)], dim=1)  # (N, D) -> (N, D+1)
    q, r = torch.linalg.qr(a)  # (N, D+1) -> (N, D+1), (D+1, D+1)
    diagonal = r.diagonal().abs()
    if diagonal.min() <= len(r) * torch.finfo(r.dtype).eps * diagonal.max():
        raise ValueError(
            "expected linearly independent columns, got one that the others determine "
            f"(column {int(diagonal.argmin())}; the intercept's column of ones is the last)"
        )
    theta = torch.linalg.solve_triangular(r, q.T @ y, upper=True)  # (D+1, K)
    return {"weight": theta[:D].T.clone(), "bias": theta[D].clone()}
