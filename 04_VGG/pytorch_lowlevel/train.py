"""Train VGG at level 2: parameters in a dict, autograd, momentum by hand.

    python 04_VGG/pytorch_lowlevel/train.py
        net A with a quarter of the channels on generated shapes, 32x32; less than a minute of one
        core. The README has the measured accuracy.

    python 04_VGG/pytorch_lowlevel/train.py --data cifar10 --width 64 --hidden 512 --epochs 40 \\
        --batch-size 128
        the paper's channels on CIFAR-10; use a GPU. CIFAR-10 has to be downloaded once:
        python -m utils.data_loaders --download cifar10

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/04_VGG-pytorch_lowlevel/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from utils.data_loaders import load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device
from vgg_lowlevel import SGD, Params, VGGConfig, forward, init_params, train_step


@dataclass(frozen=True)
class Options(TorchOptions):
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


@torch.no_grad()
def accuracy(params: Params, x: torch.Tensor, y: torch.Tensor, config: VGGConfig) -> float:
    """Share of images whose largest logit is the label. x: (N, 3, 32, 32), y: (N,)."""
    right = sum(
        (forward(params, part, config).argmax(dim=1) == labels).sum().item()
        for part, labels in zip(x.split(250), y.split(250), strict=True)
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
    # The paper subtracts the mean of each colour; with pixels in [0, 1] their spread matters too.
    mean = x_train.mean(dim=(0, 2, 3), keepdim=True)
    std = x_train.std(dim=(0, 2, 3), keepdim=True)
    x_train, x_test = (x_train - mean) / std, (x_test - mean) / std

    config = options.network()
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    optimizer = SGD(params, options.lr, options.momentum, options.weight_decay)

    with Run(options, __file__, model=f"vgg-{options.net.lower()}") as run:
        run.restore(params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                index = torch.from_numpy(index).to(device)
                optimizer.lr = options.lr * 0.5 * (1 + math.cos(math.pi * run.step / total))
                batch = x_train[index], y_train[index]
                loss = train_step(params, optimizer, *batch, config, run.torch_generator())
                run.log(loss=loss)
            run.evaluate(test_accuracy=accuracy(params, x_test, y_test, config))
        run.finish()


if __name__ == "__main__":
    run_script(main)
