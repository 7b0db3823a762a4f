"""Train a Vision Transformer at level 2: tensors and autograd, AdamW by hand.

    python 10_ViT/pytorch_lowlevel/train.py
        four blocks and patches of 8x8 on 4,000 generated images of shapes, randomly cropped. It
        should take minutes on two cores; the README has the accuracy that was measured.

    python 10_ViT/pytorch_lowlevel/train.py --pool gap
        The mean of the patches in place of a class token.

    python 10_ViT/pytorch_lowlevel/train.py --data cifar10 --patch-size 4 --width 128 --layers 6 \
        --hidden 256 --lr 0.001 --batch-size 128 --epochs 30
        CIFAR-10, which has to be downloaded once: python -m utils.data_loaders --download cifar10
        Best on a GPU.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/10_ViT-pytorch_lowlevel/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from utils.data_loaders import load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device
from vit_lowlevel import Params, ViTConfig, forward, init_params
from vit_training_lowlevel import AdamW, augment, cross_entropy, update, warmup_cosine


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["shapes", "cifar10", "cifar10-jpeg"] = option("shapes", "the data set")
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
    patch_size: int = option(8, "P, side of a patch")
    width: int = option(64, "D, width of the model")
    layers: int = option(4, "L, blocks")
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


@torch.no_grad()
def accuracy(params: Params, x: torch.Tensor, y: torch.Tensor, config: ViTConfig) -> float:
    """Share of images whose largest logit is the label. x: (N, C, H, W), y: (N,)."""
    right = sum(
        (forward(params, part, config).argmax(dim=1) == labels).sum().item()
        for part, labels in zip(x.split(500), y.split(500), strict=True)
    )
    return right / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    data = load_arrays(options.data, options.data_dir)
    mean = data.x_train.mean(axis=(0, 2, 3), keepdims=True)  # of every channel
    std = data.x_train.std(axis=(0, 2, 3), keepdims=True)
    x_train, y_train, x_test, y_test = (
        torch.from_numpy(a).to(device)
        for a in (
            (data.x_train - mean) / std,
            data.y_train,
            (data.x_test - mean) / std,
            data.y_test,
        )
    )
    config = options.network()
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    optimizer = AdamW(params, options.lr, weight_decay=options.weight_decay)

    with Run(options, __file__, model="vit") as run:
        run.restore(params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                index = torch.from_numpy(index).to(device)
                x, y = x_train[index], y_train[index]
                generator = run.torch_generator()
                if options.augment:
                    x = augment(x, generator)
                logits = forward(params, x, config, generator)
                loss = cross_entropy(logits, y, options.label_smoothing)
                optimizer.lr = options.lr * warmup_cosine(run.step, total, options.warmup)
                run.log(loss=update(optimizer, loss, options.clip_norm), lr=optimizer.lr)
            run.evaluate(test_accuracy=accuracy(params, x_test, y_test, config))
        run.finish()


if __name__ == "__main__":
    run_script(main)
