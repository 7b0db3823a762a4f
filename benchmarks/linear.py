"""Cases of 01_Linear_Logistic: exact fits against scikit-learn's."""

import numpy as np
import torch
from sklearn import linear_model

import linear_numpy
import logistic_paper
from benchmarks.case import Case, Work

N, D = 20_000, 50


def _regression() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, D))
    y = x @ rng.standard_normal((D, 1)) + rng.standard_normal((N, 1))
    return x, y


def _classification() -> tuple[np.ndarray, np.ndarray]:
    x, y = _regression()
    return x, (y[:, 0] > 0).astype(np.int64)


def qr() -> Work:
    x, y = _regression()
    return lambda: linear_numpy.solve_least_squares(x, y)


def sklearn_regression() -> Work:
    x, y = _regression()
    return lambda: linear_model.LinearRegression().fit(x, y)


def newton() -> Work:
    x, y = (torch.from_numpy(a) for a in _classification())

    def work() -> None:
        config = logistic_paper.LogisticConfig(D)
        model = logistic_paper.LogisticRegression(config).double()
        logistic_paper.fit_newton(model, x, y, ridge=1.0)

    return work


def sklearn_newton() -> Work:
    x, y = _classification()
    model = linear_model.LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-9)
    return lambda: model.fit(x, y)


_REGRESSION = f"least squares, {N} examples, {D} features, float64"
_CLASSIFICATION = f"logistic regression with a penalty to 1e-9, {N} examples, {D} features"
CASES = [
    Case("01 numpy QR", _REGRESSION, qr, sklearn_regression, "scikit-learn", 4.0),
    Case("01 paper Newton", _CLASSIFICATION, newton, sklearn_newton, "scikit-learn", 4.0),
]
