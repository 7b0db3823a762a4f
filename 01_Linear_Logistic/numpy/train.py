"""Train the models of level 1: NumPy, gradient and update by hand.

    python 01_Linear_Logistic/numpy/train.py
        softmax regression on scikit-learn's digits: about 96 % test accuracy in two seconds.

    python 01_Linear_Logistic/numpy/train.py --model linear
        linear regression on diabetes; also says how far the loss is above the exact minimum (QR).

    python 01_Linear_Logistic/numpy/train.py --model logistic
        logistic regression on breast cancer: about 97 % test accuracy.

    python 01_Linear_Logistic/numpy/train.py --data mnist
        softmax regression on MNIST: about 92 % test accuracy in ten seconds. MNIST has to be
        downloaded once: python -m utils.data_loaders --download mnist

Full-batch gradient descent is --batch-size 1000000. Ctrl-C saves; --resume RUN_FOLDER goes on.
Everything is written to runs/01_Linear_Logistic-numpy/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from linear_numpy import (
    LinearConfig,
    LinearRegression,
    solve_least_squares,
    squared_error_backward,
    squared_error_forward,
    standardise,
)
from logistic_numpy import (
    LogisticConfig,
    LogisticRegression,
    SoftmaxConfig,
    SoftmaxRegression,
    logistic_loss_backward,
    logistic_loss_forward,
    softmax_loss_backward,
    softmax_loss_forward,
)
from utils.data_loaders import Arrays, load_arrays
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script

# What each model can be trained on; the first is its default.
FITTING = {
    "linear": ("diabetes",),
    "logistic": ("breast-cancer",),
    "softmax": ("digits", "iris", "wine", "breast-cancer", "mnist", "fashion-mnist"),
}
IMAGES = ("digits", "mnist", "fashion-mnist")
RATES = {"linear": 0.02, "logistic": 0.1, "softmax": 0.5}
LOSSES = {
    "linear": (squared_error_forward, squared_error_backward),
    "logistic": (logistic_loss_forward, logistic_loss_backward),
    "softmax": (softmax_loss_forward, softmax_loss_backward),
}


@dataclass(frozen=True)
class Options(RunOptions):
    model: Literal["auto", "linear", "logistic", "softmax"] = option(
        "auto", "what to train; auto takes what fits --data"
    )
    data: Literal[
        "auto", "diabetes", "breast-cancer", "digits", "iris", "wine", "mnist", "fashion-mnist"
    ] = option("auto", "the data set; auto takes one that fits --model")
    epochs: int = option(0, "passes over the training data; 0 = 20 images, 100 tables", least=0)
    batch_size: int = option(64, "examples in one step")
    lr: float = option(0.0, "learning rate; 0 = 0.02 linear, 0.1 logistic, 0.5 softmax", least=0)

    def __post_init__(self) -> None:
        by_data = {"diabetes": "linear", "breast-cancer": "logistic"}
        model = by_data.get(self.data, "softmax") if self.model == "auto" else self.model
        data = FITTING[model][0] if self.data == "auto" else self.data
        if data not in FITTING[model]:
            raise ValueError(
                f"--model {model} is trained on {' or '.join(FITTING[model])}, got --data {data}"
            )
        if self.epochs < 0 or self.lr < 0:
            raise ValueError(f"--epochs and --lr can't be negative, got {self.epochs}, {self.lr}")
        epochs = self.epochs or (20 if data in IMAGES else 100)
        lr = self.lr or RATES[model]
        settled = {"model": model, "data": data, "epochs": epochs, "lr": lr}
        for name, value in settled.items():  # the class is frozen for everybody else
            object.__setattr__(self, name, value)


def prepare(data: Arrays, model: str) -> tuple[np.ndarray, ...]:
    """Arrays x_train (N, D), y_train, x_test, y_test as ``model`` wants them."""
    if data.x_train.ndim > 2:
        # Pixels already share one scale. Dividing each by its own deviation would blow up those
        # that are hardly ever lit.
        x_train = data.x_train.reshape(len(data.x_train), -1)  # (N, C, H, W) -> (N, D)
        x_test = data.x_test.reshape(len(data.x_test), -1)
    else:
        x_train, x_test = standardise(data.x_train, data.x_test)
    if model == "linear":
        return x_train, data.y_train[:, None], x_test, data.y_test[:, None]  # (N,) -> (N, 1)
    return x_train, data.y_train, x_test, data.y_test


def make_model(options: Options, features: int, classes: int, dtype: type) -> LinearRegression:
    """A fresh model for ``options.model``."""
    rng = np.random.default_rng(options.seed)
    if options.model == "linear":
        return LinearRegression(LinearConfig(features), rng, dtype)
    if options.model == "logistic":
        return LogisticRegression(LogisticConfig(features), rng, dtype)
    return SoftmaxRegression(SoftmaxConfig(features, classes), rng, dtype)


def measure(model: LinearRegression, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Quality on the test set: share of variance explained (R²), or accuracy."""
    if isinstance(model, (LogisticRegression, SoftmaxRegression)):
        return {"test_accuracy": (model.predict(x) == y).mean()}
    residual = model.forward(x) - y
    return {"test_r2": 1 - (residual**2).sum() / ((y - y.mean(axis=0)) ** 2).sum()}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    x_train, y_train, x_test, y_test = prepare(data, options.model)
    model = make_model(options, x_train.shape[1], len(data.classes), x_train.dtype.type)
    loss_forward, loss_backward = LOSSES[options.model]

    with Run(options, __file__, model=options.model) as run:
        run.restore(model.params)
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                loss, cache = loss_forward(model.forward(x_train[index]), y_train[index])
                grads = model.backward(loss_backward(cache))
                for name, gradient in grads.items():
                    model.params[name] -= options.lr * gradient
                run.log(loss=loss)
            run.evaluate(**measure(model, x_test, y_test))
        if options.model == "linear":
            reached, _ = loss_forward(model.forward(x_train), y_train)
            exact = make_model(options, x_train.shape[1], 0, np.float64)
            exact.params = solve_least_squares(x_train, y_train)
            least, _ = loss_forward(exact.forward(x_train), y_train)
            print(f"loss {reached:.4f}; the exact minimum (QR) is {least:.4f}")
            run.finish(loss_above_minimum=reached - least)
        else:
            run.finish()


if __name__ == "__main__":
    run_script(main)
