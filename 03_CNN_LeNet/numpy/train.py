"""Train LeNet at level 1: NumPy, every gradient by hand.

    python 03_CNN_LeNet/numpy/train.py
        scikit-learn's digits, enlarged to 28x28; about 98 % test accuracy in some ten seconds.

    python 03_CNN_LeNet/numpy/train.py --data mnist --epochs 10 --batch-size 64
        MNIST in a few minutes; the README has the measured accuracy and time. MNIST has to be
        downloaded once: python -m utils.data_loaders --download mnist

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/03_CNN_LeNet-numpy/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from lenet_numpy import LeNet, LeNetConfig
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD, Adam
from utils.data_loaders import enlarge_digits, load_arrays
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script

OPTIMISERS = {
    "momentum": lambda params, lr: SGD(params, lr, momentum=0.9),
    "adam": lambda params, lr: Adam(params, lr),
}


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["digits", "mnist", "fashion-mnist"] = option("digits", "the data set")
    epochs: int = option(20, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.002, "learning rate at the start; falls to 0 like half a cosine")
    activation: Literal["relu", "tanh"] = option("relu", "after every layer but the last")
    pooling: Literal["max", "avg"] = option("max", "over windows of 2x2")
    optimizer: Literal["momentum", "adam"] = option("adam", "update rule")


def accuracy(model: LeNet, x: np.ndarray, y: np.ndarray) -> float:
    """Share of images whose largest logit is the label. x: (N, 1, 28, 28), y: (N,)."""
    right = [
        (model.forward(x[i : i + 500]).argmax(axis=1) == y[i : i + 500]).sum()
        for i in range(0, len(x), 500)
    ]
    return sum(right) / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    # (N, 1, 8, 8) or (N, 1, 28, 28) -> (N, 1, 28, 28)
    x_train, x_test = enlarge_digits(data.x_train), enlarge_digits(data.x_test)

    config = LeNetConfig(options.activation, options.pooling)
    model = LeNet(config, np.random.default_rng(options.seed), dtype=np.float32)
    optimizer = OPTIMISERS[options.optimizer](model.params, options.lr)

    with Run(options, __file__, model="lenet") as run:
        run.restore(model.params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                x, y = x_train[index], data.y_train[index]
                loss, cache = softmax_cross_entropy_forward(model.forward(x), y)
                grads = model.backward(softmax_cross_entropy_backward(cache))
                optimizer.lr = options.lr * 0.5 * (1 + math.cos(math.pi * run.step / total))
                optimizer.step(grads)
                run.log(loss=loss)
            run.evaluate(test_accuracy=accuracy(model, x_test, data.y_test))
        run.finish()


if __name__ == "__main__":
    run_script(main)
