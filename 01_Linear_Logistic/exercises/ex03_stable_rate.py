"""Exercise: the largest stable learning rate of linear regression, predicted and then seen.

    python 01_Linear_Logistic/exercises/ex03_stable_rate.py

draws, once the tests pass, the losses on diabetes just below and just above the predicted rate
(runs/exercises/01_stable_rate.png).
"""

import numpy as np

import utils
from linear_numpy import (
    LinearConfig,
    LinearRegression,
    gradient_descent,
    squared_error_backward,
    squared_error_forward,
    standardise,
)
from utils.data_loaders import load_arrays
from utils.visualization import plot_loss_curves


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


def main():
    data = load_arrays("diabetes")
    (x,), y = standardise(data.x_train), data.y_train[:, None]
    limit = largest_stable_rate(x)
    print(f"predicted limit: {limit:.3f}")
    curves = {f"{f} x limit": losses_at(f * limit, x, y) for f in (0.5, 0.99, 1.01)}
    path = utils.ROOT / "runs" / "exercises" / "01_stable_rate.png"
    plot_loss_curves(curves, log_scale=True, path=path)
    print(f"the losses are drawn in {path}")


if __name__ == "__main__":
    main()
