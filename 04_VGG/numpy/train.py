"""Train VGG at level 1: NumPy, every gradient by hand.

    python 04_VGG/numpy/train.py
        net A with a quarter of the channels on generated shapes, 32x32; some 7 seconds of one core
        for each of the ten passes. The README has the measured accuracy.

    python 04_VGG/numpy/train.py --net A-LRN
    python 04_VGG/numpy/train.py --net B
        the other columns of Table 1; deeper ones take longer.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/04_VGG-numpy/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD
from utils.data_loaders import load_arrays
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from vgg_numpy import VGG, VGGConfig


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["shapes", "cifar10", "cifar10-jpeg"] = option("shapes", "the data set")
    epochs: int = option(10, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.02, "learning rate at the start; falls to 0 like half a cosine")
    momentum: float = option(0.9, "share of the velocity that is kept", least=0)
    weight_decay: float = option(5e-4, "strength of the L2 term", least=0)
    net: Literal["A", "A-LRN", "B", "C", "D", "E"] = option("A", "the column of Table 1")
    width: int = option(16, "channels of the first block (the paper: 64)")
    hidden: int = option(128, "width of the hidden linear layers (the paper: 4096)")
    dropout: float = option(0.2, "share of the hidden linear units dropped (the paper: 0.5)")

    def __post_init__(self) -> None:
        self.network()  # refuses sizes that make no network

    def network(self) -> VGGConfig:
        """The configuration of the network."""
        return VGGConfig(self.net, self.width, self.hidden, dropout=self.dropout)


def accuracy(model: VGG, x: np.ndarray, y: np.ndarray) -> float:
    """Share of images whose largest logit is the label. x: (N, 3, 32, 32), y: (N,)."""
    right = [
        (model.forward(x[i : i + 250]).argmax(axis=1) == y[i : i + 250]).sum()
        for i in range(0, len(x), 250)
    ]
    return sum(right) / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    # The paper subtracts the mean of each colour; with pixels in [0, 1] their spread matters too.
    mean = data.x_train.mean(axis=(0, 2, 3), keepdims=True)
    std = data.x_train.std(axis=(0, 2, 3), keepdims=True)
    x_train, x_test = (data.x_train - mean) / std, (data.x_test - mean) / std

    model = VGG(options.network(), np.random.default_rng(options.seed), dtype=np.float32)
    optimizer = SGD(model.params, options.lr, options.momentum, options.weight_decay)

    with Run(options, __file__, model=f"vgg-{options.net.lower()}") as run:
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
