"""Train a Vision Transformer from scratch, with a recipe for small data (level 3).

    python 10_ViT/paper/train.py
        four blocks and patches of 8x8 on 4,000 generated images of shapes, randomly cropped. It
        should take minutes on two cores; the README has the accuracy that was measured.

    python 10_ViT/paper/train.py --pool gap
        The mean of the patches in place of a class token.

CIFAR-10 from scratch. The paper has no such run: it trains on 1 to 300 million images first. With
50,000 it takes random crops, mirror images, erased squares, smoothed labels and weight decay to
keep the model from learning the images by heart. It has to be downloaded once:
python -m utils.data_loaders --download cifar10

    python 10_ViT/paper/train.py --data cifar10 --erase 0.25 --label-smoothing 0.1 --pool gap \\
        --patch-size 4 --width 128 --layers 6 --hidden 256 --lr 0.001 --batch-size 128 --epochs 30
        Best on a GPU.

Your own images, or a part of ImageNet: a folder with train/<class>/ and val/<class>/. The random
crops are those usual for ImageNet, of 8 to 100 % of the area.

    python 10_ViT/paper/train.py --data folder --images my_images --size 64

At the end rollout.png in the run folder shows test images and, below each, which patches the class
token has seen most (attention rollout); with --pool gap it is which patches the mean has seen.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/10_ViT-paper/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from rollout_paper import attention_rollout, seen_of_patches
from utils.data_loaders import ArrayDataset, load_arrays, load_image_folder
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import accuracy, cosine, fit, set_seed
from utils.visualization import plot_image_grid
from vit_paper import VisionTransformer, ViTConfig, loss_function, paper_optimizer
from vit_training_paper import augment, random_erase

SHOWN = 8  # images in rollout.png


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["shapes", "cifar10", "cifar10-jpeg", "folder"] = option("shapes", "the data set")
    images: Path | None = option(None, "with --data folder: the folder")
    size: int = option(64, "with --data folder: the side that the images are brought to", above=0)
    epochs: int = option(60, "passes over the training data")
    batch_size: int = option(64, "examples in one step")
    lr: float = option(0.003, "largest learning rate; rises at first, then falls along a cosine")
    warmup: int = option(100, "steps over which the learning rate rises", least=0)
    weight_decay: float = option(0.05, "decoupled, on every parameter", least=0)
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 = no clipping", least=0)
    label_smoothing: float = option(
        0.0, "share of the target spread over all classes", least=0, most=1
    )
    augment: bool = option(True, "random crops and mirror images")
    erase: float = option(
        0.0, "with --augment: share of images with an erased square", least=0, most=1
    )
    patch_size: int = option(8, "P, side of a patch")
    width: int = option(64, "D, width of the model")
    layers: int = option(4, "L, blocks")
    heads: int = option(4, "nH, attention heads")
    hidden: int = option(128, "F, width inside the MLPs")
    pool: Literal["cls", "gap"] = option("cls", "what the head sees: class token or mean")
    dropout: float = option(0.0, "share dropped after each linear layer in training")

    def __post_init__(self) -> None:
        if (self.data == "folder") != (self.images is not None):
            raise ValueError("expected --images FOLDER with --data folder, and only with it")
        self.network(10)  # refuses sizes that make no network, before any data are read

    def network(self, classes: int) -> ViTConfig:
        """The model for so many classes."""
        return ViTConfig(
            image_size=self.size if self.data == "folder" else 32,
            patch_size=self.patch_size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            classes=classes,
            pool=self.pool,
            dropout=self.dropout,
        )


def load(options: Options) -> tuple[Dataset, Dataset, int]:
    """Training set, test set, number of classes; channels of arrays have mean 0, variance 1."""
    if options.images is not None:
        train_set, test_set, classes = load_image_folder(
            options.images, options.size, options.augment
        )
        return train_set, test_set, len(classes)
    data = load_arrays(options.data, options.data_dir)
    mean = data.x_train.mean(axis=(0, 2, 3), keepdims=True)
    std = data.x_train.std(axis=(0, 2, 3), keepdims=True)
    train_set = ArrayDataset((data.x_train - mean) / std, data.y_train)
    return train_set, ArrayDataset((data.x_test - mean) / std, data.y_test), len(data.classes)


def draw_rollout(model: VisionTransformer, images: torch.Tensor, path: Path) -> None:
    """The images, and below each how much of every patch has reached the head."""
    side = model.config.image_size
    rollout = attention_rollout(model.attention_maps(images))
    seen = seen_of_patches(rollout, model.config.pool == "cls")
    maps = torch.nn.functional.interpolate(seen[:, None], (side, side))  # (N, G, G) -> (N, 1, H, W)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    shown = (images - low) / (high - low).clamp(min=1e-6)  # an image of one colour stays finite
    pictures = torch.cat([shown, maps.expand(-1, 3, -1, -1)])
    plot_image_grid(
        pictures.cpu().numpy(), columns=len(images), title="Attention rollout", path=path
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    train_set, test_set, classes = load(options)
    set_seed(options.seed)
    model = VisionTransformer(options.network(classes))

    def loss_of_batch(
        model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        x, y = batch
        if options.augment:
            # An image folder's images were cropped and mirrored when they were read.
            folder = options.data == "folder"
            x = random_erase(x, options.erase) if folder else augment(x, options.erase)
        return loss_function(model, (x, y), options.label_smoothing)

    def evaluate(model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        return {"test_accuracy": accuracy(model, test_set, device)}

    with Run(options, __file__, model="vit") as run:
        total = options.epochs * run.steps_per_epoch(len(train_set))
        fit(
            model,
            loss_of_batch,
            train_set,
            options,
            run,
            paper_optimizer(model.parameters(), options.lr, options.weight_decay),
            cosine(total, options.warmup),
            evaluate,
        )
        run.finish()
        chosen = np.linspace(0, len(test_set) - 1, SHOWN).astype(int)
        shown = torch.stack([torch.as_tensor(test_set[int(i)][0]) for i in chosen])
        draw_rollout(model, shown.to(model.pos_embed.device), run.folder / "rollout.png")


if __name__ == "__main__":
    run_script(main)
