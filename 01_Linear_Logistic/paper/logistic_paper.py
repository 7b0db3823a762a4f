"""Logistic regression by maximum likelihood (level 3): Cox's model, fitted by Newton's method.

Papers:
- D. R. Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical Society
  B 20(2), 1958, pages 215-242: the logit of the probability is linear, and the labels enter the
  likelihood only through the sums of y and of x y.
- J. A. Nelder, R. W. M. Wedderburn, "Generalized Linear Models", Journal of the Royal Statistical
  Society A 135(3), 1972: the fit by iteratively reweighted least squares (IRLS).

Map of this file:
    LogisticConfig                          sizes
    LogisticRegression, SoftmaxRegression   two classes by one logit; K classes
    loss_function                           mean negative log likelihood, and the ridge penalty
    derivatives                             gradient and Hessian of the summed loss, by formula
    newton_step, fit_newton                 Newton's method; for one logit it is IRLS
    NoMaximum                               raised where the likelihood has no maximum

Shapes: N examples in the training set, B in the batch, D features, K logits, P = K (D+1)
parameters.

Read before: logistic_numpy.py and logistic_lowlevel.py of this chapter; theory.md, sections 7 to
10.

Deviations from the paper: D explanatory variables at once instead of one; the fit alone, without
Cox's conditional tests; softmax regression and the ridge penalty are not in the paper.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NoMaximum(ValueError):
    """The likelihood has no maximum: the classes can be separated, or look as if they could."""


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


class _Classifier(nn.Linear):
    """The affine map from features to logits. State: ``weight`` (K, D), ``bias`` (K,)."""

    def __init__(self, config: LogisticConfig) -> None:
        super().__init__(config.features, config.outputs)
        self.config = config
        # The likelihood is concave, so the start doesn't matter: zero says "all equally likely".
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) for ``x`` (B, D).

        Raises:
            ValueError: ``x`` has another shape.
        """
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"expected x (B, {self.in_features}), got {tuple(x.shape)}")
        return super().forward(x)  # (B, D) -> (B, K)


class LogisticRegression(_Classifier):
    """Two classes: ``log(p / (1 - p)) = x @ weight.T + bias`` (eq. 1.19)."""

    def __init__(self, config: LogisticConfig) -> None:
        if config.outputs != 1:
            raise ValueError(f"expected outputs=1 (one logit), got outputs={config.outputs}")
        super().__init__(config)

    def predict(self, x: Tensor) -> Tensor:
        """The likelier class (B,), 0 or 1."""
        return (self(x)[:, 0] > 0).long()


class SoftmaxRegression(_Classifier):
    """K classes: ``p = softmax(x @ weight.T + bias)`` (eq. 1.25)."""

    def __init__(self, config: LogisticConfig) -> None:
        if config.outputs < 2:
            raise ValueError(f"expected at least 2 classes, got outputs={config.outputs}")
        super().__init__(config)

    def predict(self, x: Tensor) -> Tensor:
        """The likeliest class (B,)."""
        return self(x).argmax(dim=1)


def loss_function(
    model: LogisticRegression | SoftmaxRegression,
    batch: tuple[Tensor, Tensor],
    ridge: float = 0.0,
    examples: int | None = None,
) -> Tensor:
    """Mean negative log likelihood (eq. 1.22 or 1.28) plus the ridge penalty.

    Args:
        batch: ``x`` (B, D) and integer labels (B,).
        ridge: alpha, counted against the *sum* over the training set; scikit-learn's ``1 / C``.
        examples: N, by which that sum, and so alpha, is divided; None if the batch is the whole
            training set.

    Raises:
        ValueError: the labels are not (B,).
    """
    x, labels = batch
    logits = model(x)
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"expected labels ({len(logits)},), got {tuple(labels.shape)}")
    if isinstance(model, LogisticRegression):
        data = F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
    else:
        data = F.cross_entropy(logits, labels)
    return data + 0.5 * ridge / (examples or len(x)) * model.weight.square().sum()


# --- Newton's method


@torch.no_grad()
def derivatives(
    model: LogisticRegression | SoftmaxRegression, x: Tensor, labels: Tensor, ridge: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Gradient (P,) and Hessian (P, P) of the *summed* loss (eq. 1.30 and 1.31).

    The parameters count class by class: first the D weights of a class, then its bias.
    """
    (N, D), K = x.shape, model.out_features
    a = torch.cat([x, x.new_ones(N, 1)], dim=1)  # (N, D) -> (N, D+1)
    if isinstance(model, LogisticRegression):
        p = torch.sigmoid(model(x))  # (N, 1)
        residual = p - labels[:, None]
        s = (p * (1 - p))[:, :, None]  # (N, 1, 1)
    else:
        p = torch.softmax(model(x), dim=1)  # (N, K)
        residual = p - F.one_hot(labels, K)
        s = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # (N, K, K)
    penalised = torch.ones(D + 1, dtype=x.dtype, device=x.device)
    penalised[D] = 0  # the bias is free
    theta = torch.cat([model.weight, model.bias[:, None]], dim=1)  # (K, D+1)
    gradient = residual.T @ a + ridge * penalised * theta  # (K, D+1)
    weighted = torch.einsum("njk,nd->njkd", s, a)  # (N, K, K), (N, D+1) -> (N, K, K, D+1)
    hessian = torch.einsum("njkd,ne->jdke", weighted, a)  # -> (K, D+1, K, D+1)
    P = K * (D + 1)
    return gradient.reshape(P), hessian.reshape(P, P) + ridge * torch.diag(penalised.repeat(K))


@torch.no_grad()
def newton_step(
    model: LogisticRegression | SoftmaxRegression, x: Tensor, labels: Tensor, ridge: float = 0.0
) -> tuple[float, float]:
    """Move the parameters to the minimum of the loss's parabola (eq. 1.32).

    The step is halved until the loss does not grow. For one logit it is a weighted least-squares
    fit, whence "iteratively reweighted" (eq. 1.33).

    Args:
        model: changed in place.
        x: (N, D), float64. labels: (N,). ridge: see :func:`loss_function`.

    Returns:
        The mean loss before the step, and the largest change of a parameter.

    Raises:
        ValueError: ``x`` is not float64.
        NoMaximum: without a penalty, the parameters separate the classes.
    """
    if x.dtype != torch.float64:
        raise ValueError(f"expected x and model in float64, got x in {x.dtype}")
    before = loss_function(model, (x, labels), ridge)
    gradient, hessian = derivatives(model, x, labels, ridge)
    # Adding one vector to all K rows of softmax regression changes nothing, so without a penalty
    # the Hessian is singular in these directions; the pseudo-inverse takes no step along them.
    step = -(torch.linalg.pinv(hessian, hermitian=True) @ gradient)  # (P,)
    step = step.reshape(model.out_features, -1)  # (P,) -> (K, D+1)
    start = model.weight.clone(), model.bias.clone()
    for _ in range(30):
        model.weight.copy_(start[0] + step[:, :-1])
        model.bias.copy_(start[1] + step[:, -1])
        after = loss_function(model, (x, labels), ridge)
        # At the minimum the two are equal but for rounding.
        if after <= before + 1e-14 * before.abs():
            break
        step = step / 2
    if ridge == 0 and _separates(model, x, labels):
        raise NoMaximum(
            "expected classes that overlap, got parameters that put every example on its side: "
            "along them the likelihood grows for ever, it has no maximum; with a penalty "
            "(ridge > 0) it has one"
        )
    return float(before), float(step.abs().max())


def _separates(model: LogisticRegression | SoftmaxRegression, x: Tensor, labels: Tensor) -> bool:
    """Whether every label's logit is strictly the largest."""
    logits = model(x)
    if isinstance(model, LogisticRegression):
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # (N, 1) -> (N, 2)
    own = logits.gather(1, labels[:, None])  # (N, 1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return bool((own > others).all())


def fit_newton(
    model: LogisticRegression | SoftmaxRegression,
    x: Tensor,
    labels: Tensor,
    ridge: float = 0.0,
    tolerance: float = 1e-9,
    max_steps: int = 25,
) -> list[float]:
    """Newton steps until no parameter changes by more than ``tolerance`` times the largest weight.

    The size of the step decides, never that of the gradient: on separable data the gradient goes to
    zero while the parameters grow by about one logit in each step.

    Returns:
        The mean loss before each step.

    Raises:
        NoMaximum: no convergence in ``max_steps`` steps, or classes that are separated.
    """
    losses = []
    for _ in range(max_steps):
        loss, change = newton_step(model, x, labels, ridge)
        losses.append(loss)
        if change <= tolerance * max(1.0, float(model.weight.detach().abs().max())):
            return losses
    raise NoMaximum(
        f"expected convergence in {max_steps} Newton steps, got a last change of {change:.1e}: the "
        "classes are probably separable along some direction; a penalty (ridge > 0) helps"
    )
