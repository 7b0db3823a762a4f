"""Train LeNet at level 2: tensors and autograd, convolution and update rule by hand.

    python 03_CNN_LeNet/pytorch_lowlevel/train.py
        scikit-learn's digits, enlarged to 28x28; about 98 % test accuracy in some ten seconds.

    python 03_CNN_LeNet/pytorch_lowlevel/train.py --data mnist --epochs 10 --batch-size 64
        MNIST in a few minutes; the README has the measured accuracy and time. MNIST has to be
        downloaded once: python -m utils.data_loaders --download mnist

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to
runs/03_CNN_LeNet-pytorch_lowlevel/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from lenet_lowlevel import Adam, LeNetConfig, Params, forward, init_params, train_step
from utils.data_loaders import enlarge_digits, load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["digits", "mnist", "fashion-mnist"] = option("digits", "the data set")
    epochs: int = option(20, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.002, "learning rate at the start; falls to 0 like half a cosine")
    activation: Literal["relu", "tanh"] = option("relu", "after every layer but the last")
    pooling: Literal["max", "avg"] = option("max", "over windows of 2x2")


@torch.no_grad()
def accuracy(params: Params, x: torch.Tensor, y: torch.Tensor, config: LeNetConfig) -> float:
    """Share of images whose largest logit is the label. x: (N, 1, 28, 28), y: (N,)."""
    right = sum(
        (forward(params, part, config).argmax(dim=1) == labels).sum().item()
        for part, labels in zip(x.split(500), y.split(500), strict=True)
    )
    return right / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    data = load_arrays(options.data, options.data_dir)
    x_train, y_train, x_test, y_test = (
        torch.from_numpy(a).to(device)
        for a in (
            enlarge_digits(data.x_train),  # (N, 1, 8, 8) or (N, 1, 28, 28) -> (N, 1, 28, 28)
            data.y_train,
            enlarge_digits(data.x_test),
            data.y_test,
        )
    )

    config = LeNetConfig(options.activation, options.pooling)
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    optimizer = Adam(params, options.lr)

    with Run(options, __file__, model="lenet") as run:
        run.restore(params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                index = torch.from_numpy(index).to(device)
                optimizer.lr = options.lr * 0.5 * (1 + math.cos(math.pi * run.step / total))
                loss = train_step(params, optimizer, x_train[index], y_train[index], config)
                run.log(loss=loss)
            run.evaluate(test_accuracy=accuracy(params, x_test, y_test, config))
        run.finish()


if __name__ == "__main__":
    run_script(main)
