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
from dataclasses import dataclass, replace
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

# What each model can be trained on, its default first, and its default learning rate.
FITTING = {
    "linear": ("diabetes",),
    "logistic": ("breast-cancer",),
    "softmax": ("digits", "iris", "wine", "breast-cancer", "mnist", "fashion-mnist"),
}
RATES = {"linear": 0.02, "logistic": 0.1, "softmax": 0.5}
IMAGES = ("digits", "mnist", "fashion-mnist")
LOSSES = {
    "linear": (squared_error_forward, squared_error_backward),
    "logistic": (logistic_loss_forward, logistic_loss_backward),
    "softmax": (softmax_loss_forward, softmax_loss_backward),
}


@dataclass(frozen=True)
class Options(RunOptions):
    model: Literal["linear", "logistic", "softmax"] = option("softmax", "what to train")
    data: Literal[
        "auto", "diabetes", "breast-cancer", "digits", "iris", "wine", "mnist", "fashion-mnist"
    ] = option("auto", "auto = diabetes, breast-cancer or digits, by --model")
    epochs: int = option(0, "passes over the training data; 0 = 20 images, 100 tables", least=0)
    lr: float = option(0.0, "learning rate; 0 = 0.02 linear, 0.1 logistic, 0.5 softmax", least=0)

    def __post_init__(self) -> None:
        fitting = FITTING[self.model]
        if self.data not in ("auto", *fitting):
            raise ValueError(
                f"--model {self.model} is trained on {' or '.join(fitting)}, got --data {self.data}"
            )


def settle(options: Options) -> Options:
    """The options with a number or name for what the command line left open."""
    data = FITTING[options.model][0] if options.data == "auto" else options.data
    epochs = options.epochs or (20 if data in IMAGES else 100)
    return replace(options, data=data, epochs=epochs, lr=options.lr or RATES[options.model])


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
    options = settle(parse_options(Options, argv, __doc__))
    data = load_arrays(options.data, options.data_dir)
    x_train, y_train, x_test, y_test = prepare(data, options.model)
    model = make_model(options, x_train.shape[1], len(data.classes), x_train.dtype.type)
    loss_forward, loss_backward = LOSSES[options.model]

    # Run keeps the books (top of utils/runs.py): folder, checkpoints, --resume. batches() shuffles
    # by the seed and takes --batch-size.
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
            exact = solve_least_squares(x_train, y_train)
            least, _ = loss_forward(x_train @ exact["weight"].T + exact["bias"], y_train)
            print(f"loss {reached:.4f}; the exact minimum (QR) is {least:.4f}")
            run.finish(loss_above_minimum=reached - least)
        else:
            run.finish()


if __name__ == "__main__":
    run_script(main)
