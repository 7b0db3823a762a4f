"""Train the MLP of level 2: tensors and autograd, the update rule by hand.

    python 02_MLP/pytorch_lowlevel/train.py
        scikit-learn's digits (8x8), 64-256-10; about 98 % test accuracy in a few seconds.

    python 02_MLP/pytorch_lowlevel/train.py --data mnist --hidden 512,512 --epochs 12 \\
        --batch-size 128 --lr 0.001
        MNIST, 784-512-512-10; the README has the measured accuracy and time. MNIST has to be
        downloaded once: python -m utils.data_loaders --download mnist

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/02_MLP-pytorch_lowlevel/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mlp_lowlevel import SGD, Adam, MLPConfig, Params, forward, init_params, train_step
from utils.data_loaders import load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device

OPTIMISERS = {
    "sgd": lambda params, lr: SGD(params, lr),
    "momentum": lambda params, lr: SGD(params, lr, momentum=0.9),
    "adam": lambda params, lr: Adam(params, lr),
    "adamw": lambda params, lr: Adam(params, lr, weight_decay=0.01, decoupled=True),
}


@dataclass(frozen=True)
class Options(TorchOptions):
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


@torch.no_grad()
def accuracy(params: Params, x: torch.Tensor, y: torch.Tensor, config: MLPConfig) -> float:
    """Share of examples whose largest logit is the label. x: (N, D), y: (N,)."""
    right = sum(
        (forward(params, part, config).argmax(dim=1) == labels).sum().item()
        for part, labels in zip(x.split(1000), y.split(1000), strict=True)
    )
    return right / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    data = load_arrays(options.data, options.data_dir)
    x_train, y_train, x_test, y_test = (
        torch.from_numpy(a).to(device)
        for a in (data.x_train, data.y_train, data.x_test, data.y_test)
    )
    x_train, x_test = x_train.flatten(1), x_test.flatten(1)  # (N, 1, H, W) -> (N, D)

    config = options.network(x_train.shape[1], len(data.classes))
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    optimizer = OPTIMISERS[options.optimizer](params, options.lr)

    with Run(options, __file__, model="mlp") as run:
        run.restore(params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                index = torch.from_numpy(index).to(device)
                optimizer.lr = options.lr * 0.5 * (1 + math.cos(math.pi * run.step / total))
                # Seed and step decide the dropout masks, so a resumed run repeats them.
                generator = run.torch_generator()
                x, y = x_train[index], y_train[index]
                loss = train_step(params, optimizer, x, y, config, generator)
                run.log(loss=loss)
            run.evaluate(test_accuracy=accuracy(params, x_test, y_test, config))
        run.finish()


if __name__ == "__main__":
    run_script(main)
