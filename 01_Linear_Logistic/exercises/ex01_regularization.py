"""Exercise: give linear regression a penalty, ridge first, then lasso.

    python 01_Linear_Logistic/exercises/ex01_regularization.py

fits the lasso to diabetes and, once the tests pass, says which measurements are left.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from linear_numpy import (
    LinearConfig,
    LinearRegression,
    squared_error_backward,
    squared_error_forward,
    standardise,
)
from utils.data_loaders import load_arrays

# The columns of diabetes: age, sex, body mass index, blood pressure, and six of the blood serum.
MEASUREMENTS = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]


class RidgeRegression(LinearRegression):
    """Linear regression with the penalty ``alpha / (2 N) * sum of squared weights``.

    That is the ridge penalty of eq. 1.16 beside a loss that is a mean over N examples. The bias is
    not charged.

    Args:
        alpha: strength of the penalty.
        examples: N, the size of the training set.
    """

    def __init__(self, config, rng, alpha, examples):
        super().__init__(config, rng)
        self.alpha = alpha
        self.examples = examples

    def penalty(self):
        """What is added to the squared error: a number."""
        # TODO: the penalty of the present weight
        raise NotImplementedError("the penalty of the present weight")

    def backward(self, dy):
        """Gradients of squared error plus penalty, given ``dy``, that of the squared error."""
        grads = super().backward(dy)
        # TODO: add the gradient of the penalty to grads, then return grads
        raise NotImplementedError("add the gradient of the penalty to grads, then return grads")


def soft_threshold(w, threshold):
    """Move every number of ``w`` towards 0 by ``threshold``, and stop there (eq. 1.18)."""
    # TODO: one line, without a loop
    raise NotImplementedError("one line, without a loop")


def lasso_step(model, x, y, lr, alpha):
    """One step of eq. 1.18 on ``squared error + alpha * sum of |weight|``, in place.

    The squared error is the mean over the examples, as in linear_numpy.py (and scikit-learn's
    Lasso). The bias makes an ordinary gradient step.

    Args:
        model: a LinearRegression.
        x: (N, D). y: (N, 1). lr: learning rate. alpha: strength of the penalty.
    """
    _, cache = squared_error_forward(model.forward(x), y)
    grads = model.backward(squared_error_backward(cache))
    # TODO: change model.params["weight"] and model.params["bias"]
    raise NotImplementedError('change model.params["weight"] and model.params["bias"]')


def main():
    data = load_arrays("diabetes")
    (x,), y = standardise(data.x_train), data.y_train[:, None]
    for alpha in (0.1, 1.0, 10.0):
        model = LinearRegression(LinearConfig(len(MEASUREMENTS)), np.random.default_rng(0))
        for _ in range(3000):
            lasso_step(model, x, y, lr=0.1, alpha=alpha)
        weight = model.params["weight"][0]
        left = [name for name, w in zip(MEASUREMENTS, weight, strict=True) if w != 0]
        print(f"alpha {alpha:4}: {len(left)} left: {', '.join(left)}")


if __name__ == "__main__":
    main()
