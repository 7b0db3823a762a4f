"""Train a ResNet for small images, or its plain counterpart, with the paper's recipe (level 3).

    python 05_ResNet/paper/train.py
        ResNet-20 on generated images of shapes. Two to three minutes on one core.

    python 05_ResNet/paper/train.py --no-residual
        Plain-20, to compare.

The paper's training of section 4.2: CIFAR-10, 64,000 steps of 128 images (164 passes), after which
20 layers had a test error of 8.75 % and 110 layers 6.43 %. It wants a GPU. CIFAR-10 has to be
downloaded once: python -m utils.data_loaders --download cifar10

    python 05_ResNet/paper/train.py --data cifar10 --augment --batch-size 128 --epochs 164

A fourteenth of it, for a CPU and patience; the rate falls after half and three quarters here too:

    python 05_ResNet/paper/train.py --data cifar10 --augment --batch-size 128 --epochs 12

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/05_ResNet-paper/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from cifar_resnet_paper import (
    CifarResNet,
    ResNetConfig,
    augment,
    loss_function,
    paper_optimizer,
    paper_schedule,
)
from utils.data_loaders import ArrayDataset, load_arrays
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import accuracy, fit, set_seed

# Table 6: test error of the residual networks; for the plain ones the paper has curves only.
PAPER_ERRORS = {20: 0.0875, 32: 0.0751, 44: 0.0717, 56: 0.0697, 110: 0.0643}


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["shapes", "digits", "cifar10", "cifar10-jpeg"] = option("shapes", "the data set")
    epochs: int = option(10, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.1, "learning rate at the start; falls as the paper's")
    depth: int = option(20, "6n + 2 layers: 8, 20, 32, 44, 56, 110")
    residual: bool = option(True, "with shortcuts; without them, the paper's plain network")
    augment: bool = option(False, "random crops and mirror images, the paper's for CIFAR-10")

    def __post_init__(self) -> None:
        self.model_config(3)  # says which depth would do, before any data are read

    def model_config(self, channels: int) -> ResNetConfig:
        """The configuration of the model; every data set here has ten classes."""
        return ResNetConfig(self.depth, self.residual, channels=channels)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    mean = data.x_train.mean(axis=0)  # of every pixel: (C, H, W), as in section 4.2
    train_set = ArrayDataset(data.x_train - mean, data.y_train)
    test_set = ArrayDataset(data.x_test - mean, data.y_test)
    set_seed(options.seed)
    model = CifarResNet(options.model_config(channels=len(mean)))

    def loss_of_batch(
        model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        x, y = batch
        return loss_function(model, (augment(x) if options.augment else x, y))

    def evaluate(model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        right = accuracy(model, test_set, device)
        return {"test_accuracy": right, "test_error": 1 - right}

    name = f"{'resnet' if options.residual else 'plain'}{options.depth}"
    with Run(options, __file__, model=name) as run:
        total = options.epochs * run.steps_per_epoch(len(train_set))
        fit(
            model,
            loss_of_batch,
            train_set,
            options,
            run,
            paper_optimizer(model.parameters(), options.lr),
            paper_schedule(total, options.depth),
            evaluate,
        )
        # The JPEG copy of CIFAR-10 is another data set: the paper's error is not set beside it.
        published = options.data == "cifar10" and options.residual and options.depth in PAPER_ERRORS
        run.finish(paper={"test_error": PAPER_ERRORS[options.depth]} if published else None)


if __name__ == "__main__":
    run_script(main)
