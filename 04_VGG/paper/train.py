"""Train level 3: any network of Table 1, with or without batch normalisation.

    python 04_VGG/paper/train.py
        net A with a quarter of the channels on generated shapes, 32x32; 97 % of the test images
        right, after less than a minute of one core.

    python 04_VGG/paper/train.py --net D --init glorot --epochs 20
    python 04_VGG/paper/train.py --net D --init paper --lr 0.0001 --epochs 20
    python 04_VGG/paper/train.py --net D --net-a runs/04_VGG-paper/<run> --init paper \\
        --lr 0.0001 --epochs 20
        section 3.1: does a deep net start by itself, from Glorot's weights, from the paper's, or
        from a trained net A (the run folder of the first command)? The paper's weights, with or
        without net A, make the loss NaN within four steps at the default rate, hence the smaller
        one (theory.md, section 5). The README has what came of each.

    python 04_VGG/paper/train.py --data cifar10 --net D --batch-norm --width 64 --hidden 512 \\
        --augment --epochs 60 --batch-size 128 --lr 0.05 --mixed-precision bf16
        VGG-16 with batch normalisation on CIFAR-10; use a GPU. CIFAR-10 has to be downloaded once:
        python -m utils.data_loaders --download cifar10
        --data cifar10-jpeg takes it from an image folder instead.

The paper trains with momentum 0.9, weight decay 0.0005 and batches of 256, at a rate of 0.01 that
is divided by 10 three times. --schedule steps does so after 1/2, 3/4 and 7/8 of the steps.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/04_VGG-paper/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.checkpoints import CheckpointError
from utils.data_loaders import ArrayDataset, load_arrays
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import Schedule, accuracy, cosine, fit, set_seed, step_decay
from utils.weights import load_weights, to_torch
from vgg_paper import VGG, VGGConfig, initialise, initialise_from_net_a, loss_function


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["shapes", "cifar10", "cifar10-jpeg"] = option("shapes", "the data set")
    epochs: int = option(10, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.02, "learning rate at the start")
    schedule: Literal["cosine", "steps"] = option("cosine", "how the learning rate falls")
    momentum: float = option(0.9, "share of the velocity that is kept", least=0)
    weight_decay: float = option(5e-4, "strength of the L2 term", least=0)
    net: Literal["A", "A-LRN", "B", "C", "D", "E"] = option("A", "the column of Table 1")
    batch_norm: bool = option(False, "batch normalisation after each convolution")
    width: int = option(16, "channels of the first block (the paper: 64)")
    hidden: int = option(128, "width of the hidden linear layers (the paper: 4096)")
    dropout: float = option(0.2, "share of the hidden linear units dropped (the paper: 0.5)")
    init: Literal["he", "glorot", "paper"] = option("he", "initial weights")
    net_a: Path | None = option(None, "run folder of a net A whose layers to start from")
    augment: bool = option(False, "mirror and shift the training images at random")

    def __post_init__(self) -> None:
        self.network()  # refuses sizes that make no network

    def network(self) -> VGGConfig:
        """The configuration of the network."""
        sizes = {"width": self.width, "hidden": self.hidden, "dropout": self.dropout}
        return VGGConfig(self.net, self.batch_norm, classes=10, image_size=32, **sizes)


def augment(x: Tensor, shift: int = 4) -> Tensor:
    """Images (B, 3, H, W), half of them mirrored, each moved by up to ``shift`` pixels."""
    B, _, H, W = x.shape
    mirrored = torch.rand(B, 1, 1, 1, device=x.device) < 0.5
    x = torch.where(mirrored, x.flip(3), x)
    padded = F.pad(x, (shift, shift, shift, shift)).permute(0, 2, 3, 1)  # -> (B, H, W, C), framed
    down, right = torch.randint(2 * shift + 1, (2, B, 1), device=x.device)
    rows = down + torch.arange(H, device=x.device)  # (B, H)
    columns = right + torch.arange(W, device=x.device)  # (B, W)
    images = torch.arange(B, device=x.device)[:, None, None]
    return padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def augmented_loss(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss on images that are changed anew at every step (``fit`` seeds each step)."""
    x, targets = batch
    return loss_function(model, (augment(x), targets))


def make_model(options: Options) -> VGG:
    """The network with the initial weights that were asked for.

    Raises:
        CheckpointError: there are no weights of net A, or of another size.
    """
    model = VGG(options.network())
    initialise(model, options.init)
    if options.net_a is not None:
        weights = options.net_a / "model.safetensors"
        if not weights.is_file():
            raise CheckpointError(f"--net-a: no model.safetensors in {options.net_a}")
        try:
            net_a = to_torch(load_weights(weights))
            initialise_from_net_a(model, net_a)
        except ValueError as error:
            raise CheckpointError(f"--net-a {options.net_a}: {error}") from error
    return model


def make_schedule(options: Options, total: int) -> Schedule:
    """The factor of the learning rate at each of ``total`` steps."""
    if options.schedule == "cosine":
        return cosine(total)
    return step_decay([total // 2, total * 3 // 4, total * 7 // 8])


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    # The paper subtracts the mean of each colour; with pixels in [0, 1] their spread matters too.
    mean = data.x_train.mean(axis=(0, 2, 3), keepdims=True)
    std = data.x_train.std(axis=(0, 2, 3), keepdims=True)
    train_set = ArrayDataset((data.x_train - mean) / std, data.y_train)
    test_set = ArrayDataset((data.x_test - mean) / std, data.y_test)

    set_seed(options.seed)
    model = make_model(options)
    optimizer = torch.optim.SGD(
        model.parameters(),
        options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )

    def evaluate(model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        return {"test_accuracy": accuracy(model, test_set, device)}

    name = f"vgg-{options.net.lower()}" + ("-bn" if options.batch_norm else "")
    with Run(options, __file__, model=name) as run:
        schedule = make_schedule(options, options.epochs * run.steps_per_epoch(len(train_set)))
        loss = augmented_loss if options.augment else loss_function
        fit(model, loss, train_set, options, run, optimizer, schedule, evaluate)
        run.finish()


if __name__ == "__main__":
    run_script(main)
