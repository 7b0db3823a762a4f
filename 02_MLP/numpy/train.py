"""Train the MLP of level 1: NumPy, every gradient and the update rule by hand.

    python 02_MLP/numpy/train.py
        scikit-learn's digits (8x8), 64-256-10; about 98 % test accuracy in a few seconds.

    python 02_MLP/numpy/train.py --data mnist --hidden 512,512 --epochs 12 --batch-size 128 \\
        --lr 0.001
        MNIST, 784-512-512-10; the README has the measured accuracy and time. MNIST has to be
        downloaded once: python -m utils.data_loaders --download mnist

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/02_MLP-numpy/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlp_numpy import (
    MLP,
    MLPConfig,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from optimizers_numpy import SGD, Adam, AdamW
from utils.data_loaders import load_arrays
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script

OPTIMISERS = {
    "sgd": lambda params, lr: SGD(params, lr),
    "momentum": lambda params, lr: SGD(params, lr, momentum=0.9),
    "adam": lambda params, lr: Adam(params, lr),
    "adamw": lambda params, lr: AdamW(params, lr, weight_decay=0.01),
}


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["digits", "mnist", "fashion-mnist"] = option("digits", "the data set")
    epochs: int = option(30, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.005, "learning rate at the start; falls to 0 like half a cosine")
    hidden: tuple[int, ...] = option((256,), "widths of the hidden layers, e.g. 512,512")
    activation: Literal["relu", "leaky_relu", "gelu", "gelu_tanh", "tanh", "sigmoid"] = option(
        "relu", "of the hidden layers"
    )
    dropout: float = option(0.2, "share of hidden units dropped in training")
    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = option("adam", "update rule")

    def __post_init__(self) -> None:
        self.network(1, 1)  # refuses --hidden and --dropout that make no network

    def network(self, D: int, K: int) -> MLPConfig:
        """The network for inputs of width D and K classes."""
        return MLPConfig((D, *self.hidden, K), self.activation, dropout=self.dropout)


def accuracy(model: MLP, x: np.ndarray, y: np.ndarray) -> float:
    """Share of examples whose largest logit is the label. x: (N, D), y: (N,)."""
    right = [
        (model.forward(x[i : i + 1000]).argmax(axis=1) == y[i : i + 1000]).sum()
        for i in range(0, len(x), 1000)
    ]
    return sum(right) / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    x_train = data.x_train.reshape(len(data.x_train), -1)  # (N, 1, H, W) -> (N, D)
    x_test = data.x_test.reshape(len(data.x_test), -1)

    config = options.network(x_train.shape[1], len(data.classes))
    model = MLP(config, np.random.default_rng(options.seed), dtype=np.float32)
    optimizer = OPTIMISERS[options.optimizer](model.params, options.lr)

    with Run(options, __file__, model="mlp") as run:
        run.restore(model.params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                x, y = x_train[index], data.y_train[index]
                logits = model.forward(x, train=True, rng=run.rng())
                loss, cache = softmax_cross_entropy_forward(logits, y)
                grads = model.backward(softmax_cross_entropy_backward(cache))
                optimizer.lr = options.lr * 0.5 * (1 + math.cos(math.pi * run.step / total))
                optimizer.step(grads)
                run.log(loss=loss)
            run.evaluate(test_accuracy=accuracy(model, x_test, data.y_test))
        run.finish()


if __name__ == "__main__":
    run_script(main)
