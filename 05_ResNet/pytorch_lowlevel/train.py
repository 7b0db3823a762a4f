"""Train a ResNet at level 2: tensors and autograd, batch normalisation and update rule by hand.

    python 05_ResNet/pytorch_lowlevel/train.py
        ResNet-8 on generated images of shapes. One to two minutes on one core.

    python 05_ResNet/pytorch_lowlevel/train.py --no-residual
        The plain network of the same size, to compare.

    python 05_ResNet/pytorch_lowlevel/train.py --data cifar10 --depth 20 --augment --epochs 30 \\
        --batch-size 128
        ResNet-20 on CIFAR-10, which has to be downloaded once:
        python -m utils.data_loaders --download cifar10
        Best on a GPU.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to
runs/05_ResNet-pytorch_lowlevel/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from resnet_lowlevel import (
    SGD,
    Params,
    ResNetConfig,
    augment,
    forward,
    init_buffers,
    init_params,
    train_step,
)
from utils.data_loaders import load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["shapes", "digits", "cifar10", "cifar10-jpeg"] = option("shapes", "the data set")
    epochs: int = option(8, "passes over the training data")
    batch_size: int = option(64, "examples in one step")
    lr: float = option(0.1, "learning rate; a tenth after half of all steps, and after 3/4 again")
    depth: int = option(8, "6n + 2 layers: 8, 20, 32, 44, 56, 110")
    residual: bool = option(True, "with shortcuts; without them, the paper's plain network")
    augment: bool = option(False, "random crops and mirror images, the paper's for CIFAR-10")
    weight_decay: float = option(0.0001, "L2 term on every parameter", least=0)

    def __post_init__(self) -> None:
        self.model_config(3)  # says which depth would do, before any data are read

    def model_config(self, channels: int) -> ResNetConfig:
        """The configuration of the model; every data set here has ten classes."""
        return ResNetConfig(self.depth, self.residual, channels=channels)


@torch.no_grad()
def accuracy(
    params: Params, buffers: Params, x: torch.Tensor, y: torch.Tensor, config: ResNetConfig
) -> float:
    """Share of images whose largest logit is the label. x: (N, C, H, W), y: (N,)."""
    right = sum(
        (forward(params, buffers, part, config).argmax(dim=1) == labels).sum().item()
        for part, labels in zip(x.split(500), y.split(500), strict=True)
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
    mean = x_train.mean(dim=0)  # of every pixel: (C, H, W), as in section 4.2
    x_train, x_test = x_train - mean, x_test - mean

    config = options.model_config(channels=x_train.shape[1])
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    buffers = init_buffers(config, device=device)
    optimizer = SGD(params, options.lr, momentum=0.9, weight_decay=options.weight_decay)
    name = f"{'resnet' if options.residual else 'plain'}{options.depth}"

    with Run(options, __file__, model=name) as run:
        run.restore(params | buffers, optimizer.state)
        # The running statistics are saved with the weights, but nothing trains them.
        run.parameters = sum(p.numel() for p in params.values())
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                index = torch.from_numpy(index).to(device)
                x, y = x_train[index], y_train[index]
                if options.augment:
                    x = augment(x, run.torch_generator())
                falls = (run.step >= total / 2) + (run.step >= total * 3 / 4)
                optimizer.lr = options.lr * 0.1**falls  # eq. 5.34
                loss = train_step(params, buffers, optimizer, x, y, config)
                run.log(loss=loss, lr=optimizer.lr)
            run.evaluate(test_accuracy=accuracy(params, buffers, x_test, y_test, config))
        run.finish()


if __name__ == "__main__":
    run_script(main)
