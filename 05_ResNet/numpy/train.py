"""Train a ResNet at level 1: NumPy, every gradient by hand.

    python 05_ResNet/numpy/train.py
        ResNet-8 on 2,000 generated images of shapes. One to three minutes on one core.

    python 05_ResNet/numpy/train.py --no-residual
        The plain network of the same size, to compare.

    python 05_ResNet/numpy/train.py --data cifar10 --depth 20 --augment --epochs 10 --limit 0
        ResNet-20 on CIFAR-10, which has to be downloaded once:
        python -m utils.data_loaders --download cifar10
        Slow, with 50,000 images in a pass: the other levels are for long trainings.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/05_ResNet-numpy/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD
from resnet_numpy import ResNet, ResNetConfig, augment
from utils.data_loaders import load_arrays
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["shapes", "digits", "cifar10", "cifar10-jpeg"] = option("shapes", "the data set")
    epochs: int = option(8, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.1, "learning rate; a tenth after half of all steps, and after 3/4 again")
    limit: int = option(2000, "use only so many training examples; 0 = all", least=0)
    depth: int = option(8, "6n + 2 layers: 8, 20, 32, 44, 56, 110")
    residual: bool = option(True, "with shortcuts; without them, the paper's plain network")
    augment: bool = option(False, "random crops and mirror images, the paper's for CIFAR-10")
    weight_decay: float = option(0.0001, "L2 term on every parameter", least=0)

    def __post_init__(self) -> None:
        self.model_config(3)  # says which depth would do, before any data are read

    def model_config(self, channels: int) -> ResNetConfig:
        """The configuration of the model; every data set here has ten classes."""
        return ResNetConfig(self.depth, self.residual, channels=channels)


def accuracy(model: ResNet, x: np.ndarray, y: np.ndarray) -> float:
    """Share of images whose largest logit is the label. x: (N, C, H, W), y: (N,)."""
    right = [
        (model.forward(x[i : i + 250]).argmax(axis=1) == y[i : i + 250]).sum()
        for i in range(0, len(x), 250)
    ]
    return sum(right) / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    mean = data.x_train.mean(axis=0)  # of every pixel: (C, H, W), as in section 4.2
    x_train, x_test = data.x_train - mean, data.x_test - mean

    config = options.model_config(channels=x_train.shape[1])
    model = ResNet(config, np.random.default_rng(options.seed), dtype=np.float32)
    optimizer = SGD(model.params, options.lr, momentum=0.9, weight_decay=options.weight_decay)
    name = f"{'resnet' if options.residual else 'plain'}{options.depth}"

    with Run(options, __file__, model=name) as run:
        run.restore(model.state(), optimizer.state)
        # The running statistics are saved with the weights, but nothing trains them.
        run.parameters = sum(p.size for p in model.params.values())
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                x, y = x_train[index], data.y_train[index]
                if options.augment:
                    x = augment(x, run.rng())
                loss, cache = softmax_cross_entropy_forward(model.forward(x, train=True), y)
                grads = model.backward(softmax_cross_entropy_backward(cache))
                falls = (run.step >= total / 2) + (run.step >= total * 3 / 4)
                optimizer.lr = options.lr * 0.1**falls  # eq. 5.34
                optimizer.step(grads)
                run.log(loss=loss, lr=optimizer.lr)
            run.evaluate(test_accuracy=accuracy(model, x_test, data.y_test))
        run.finish()


if __name__ == "__main__":
    run_script(main)
