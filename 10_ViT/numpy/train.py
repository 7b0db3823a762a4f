"""Train a Vision Transformer at level 1: NumPy, every gradient by hand.

    python 10_ViT/numpy/train.py
        three blocks and patches of 8x8 on 2,000 of the generated images of shapes. It should take
        minutes on two cores; the README has the accuracy that was measured.

    python 10_ViT/numpy/train.py --pool gap
        The mean of the patches in place of a class token.

    python 10_ViT/numpy/train.py --data cifar10 --patch-size 4 --layers 6 --epochs 10 --limit 0
        CIFAR-10, which has to be downloaded once: python -m utils.data_loaders --download cifar10
        Long here: the other levels are for such trainings.

At the end positions.png in the run folder shows how alike the learnt positions are, a picture for
each patch, as the middle of the paper's Fig. 7 does.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/10_ViT-numpy/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import AdamW
from utils.data_loaders import load_arrays
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from utils.visualization import plot_image_grid
from vit_numpy import (
    VisionTransformer,
    ViTConfig,
    clip_gradients,
    position_similarity,
    warmup_cosine,
)


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["shapes", "cifar10", "cifar10-jpeg"] = option("shapes", "the data set")
    epochs: int = option(20, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.001, "largest learning rate; rises at first, then falls along a cosine")
    limit: int = option(2000, "use only so many training examples; 0 = all", least=0)
    warmup: int = option(100, "steps over which the learning rate rises", least=0)
    weight_decay: float = option(0.05, "decoupled, on every parameter", least=0)
    clip_norm: float = option(1.0, "largest norm of the gradient", above=0)
    patch_size: int = option(8, "P, side of a patch")
    width: int = option(64, "D, width of the model")
    layers: int = option(3, "L, blocks")
    heads: int = option(4, "nH, attention heads")
    hidden: int = option(128, "F, width inside the MLPs")
    pool: Literal["cls", "gap"] = option("cls", "what the head sees: class token or mean")
    dropout: float = option(0.0, "share dropped after each linear layer in training")

    def __post_init__(self) -> None:
        self.network()  # refuses sizes that make no network, before any data are read

    def network(self) -> ViTConfig:
        """The model; every data set here has ten classes of 32x32 pixels."""
        return ViTConfig(
            patch_size=self.patch_size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            pool=self.pool,
            dropout=self.dropout,
        )


def accuracy(model: VisionTransformer, x: np.ndarray, y: np.ndarray) -> float:
    """Share of images whose largest logit is the label. x: (N, C, H, W), y: (N,)."""
    right = [
        (model.forward(x[i : i + 250]).argmax(axis=1) == y[i : i + 250]).sum()
        for i in range(0, len(x), 250)
    ]
    return sum(right) / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    mean = data.x_train.mean(axis=(0, 2, 3), keepdims=True)  # of every channel
    std = data.x_train.std(axis=(0, 2, 3), keepdims=True)
    x_train, x_test = (data.x_train - mean) / std, (data.x_test - mean) / std

    model = VisionTransformer(options.network(), np.random.default_rng(options.seed), np.float32)
    optimizer = AdamW(model.params, options.lr, weight_decay=options.weight_decay)

    with Run(options, __file__, model="vit") as run:
        run.restore(model.params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                logits = model.forward(x_train[index], train=True, rng=run.rng())
                loss, cache = softmax_cross_entropy_forward(logits, data.y_train[index])
                grads = model.backward(softmax_cross_entropy_backward(cache))
                norm = clip_gradients(grads, options.clip_norm)
                optimizer.lr = options.lr * warmup_cosine(run.step, total, options.warmup)
                optimizer.step(grads)
                run.log(loss=loss, lr=optimizer.lr, grad_norm=norm)
            run.evaluate(test_accuracy=accuracy(model, x_test, data.y_test))
        run.finish()
        alike = position_similarity(model.params["pos_embed"], options.pool == "cls")
        plot_image_grid(
            alike,
            columns=alike.shape[1],
            title="Similarity of each position to all",
            path=run.folder / "positions.png",
        )


if __name__ == "__main__":
    run_script(main)
