"""Exercise: logistic regression by Newton's method, in NumPy."""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from logistic_numpy import logistic_loss_backward, logistic_loss_forward, sigmoid


def gradient(model, x, labels):
    """Gradient (D+1,) of the mean loss: the weights, then the bias.

    Args:
        model: a LogisticRegression. x: (N, D). labels: (N,) of 0 and 1.
    """
    _, cache = logistic_loss_forward(model.forward(x), labels)
    grads = model.backward(logistic_loss_backward(cache))
    return np.concatenate([grads["weight"][0], grads["bias"]])


def hessian(model, x):
    """Hessian (D+1, D+1) of the *mean* loss, in the weights and then the bias (eq. 1.31 over N)."""
    # TODO: from A (x with a column of ones) and the probabilities
    raise NotImplementedError("from A (x with a column of ones) and the probabilities")


def newton_step(model, x, labels):
    """Move ``model.params`` by eq. 1.32, in place; return the largest change of a parameter."""
    # TODO: solve for the step; change weight (1, D) and bias (1,); return the change
    raise NotImplementedError(
        "solve for the step; change weight (1, D) and bias (1,); return the change"
    )


def fit(model, x, labels, tolerance=1e-10, max_steps=25):
    """Newton steps until the largest change is below ``tolerance``; return their number.

    Raises:
        RuntimeError: no convergence in ``max_steps`` steps. On which data does that happen?
    """
    # TODO: the loop
    raise NotImplementedError("the loop")
