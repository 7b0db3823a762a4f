"""Exercise: the largest stable learning rate of linear regression, predicted and then seen."""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from linear_numpy import (
    LinearConfig,
    LinearRegression,
    gradient_descent,
    squared_error_backward,
    squared_error_forward,
)


def hessian(x):
    """Hessian (D+1, D+1) of the loss of eq. 1.2 with one output, in the weights and then the bias.

    Args:
        x: (N, D).
    """
    # TODO: A^T A / N, where A is x with one more column
    raise NotImplementedError("A^T A / N, where A is x with one more column")


def largest_eigenvalue(h, steps=500):
    """Largest eigenvalue of a symmetric h (P, P) with eigenvalues >= 0, by power iteration.

    Multiply a vector by h again and again, and scale it to length 1 after each time: it turns
    towards the eigenvector of the largest eigenvalue.
    """
    v = np.random.default_rng(0).standard_normal(len(h))
    # TODO: `steps` multiplications, then the eigenvalue; without np.linalg.eig...
    raise NotImplementedError(
        "`steps` multiplications, then the eigenvalue; without np.linalg.eig..."
    )


def largest_stable_rate(x):
    """The learning rate at which full-batch gradient descent begins to diverge (eq. 1.12)."""
    # TODO: one line, from the two functions above
    raise NotImplementedError("one line, from the two functions above")


def losses_at(rate, x, y, steps=200):
    """The losses of full-batch gradient descent at a learning rate: plot them!

    Args:
        x: (N, D). y: (N, 1).
    """
    model = LinearRegression(LinearConfig(x.shape[1]), np.random.default_rng(0))
    # TODO: train `model` with gradient_descent of linear_numpy.py, return the losses
    raise NotImplementedError(
        "train `model` with gradient_descent of linear_numpy.py, return the losses"
    )
