"""Train level 3: a modern MLP for images, by the shared loop.

    python 02_MLP/paper/train.py
        ReLU, dropout and AdamW on scikit-learn's digits; about 98 % test accuracy in a few seconds.

    python 02_MLP/paper/train.py --data mnist --width 512 --epochs 12 --batch-size 128 --lr 0.001
        the same on MNIST; the README has the measured accuracy and time. MNIST has to be downloaded
        once: python -m utils.data_loaders --download mnist

The loop is ``fit`` in utils/training_utils.py, fifty lines worth reading: the loop of levels 1 and
2, and what a longer training needs. The experiments of 1986 are in train_1986.py, beside this file.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/02_MLP-paper/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mlp_paper import MLP, MLPConfig, loss_function
from utils.data_loaders import ArrayDataset, load_arrays
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import accuracy, cosine, fit, set_seed


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["digits", "mnist", "fashion-mnist"] = option("digits", "the data set")
    epochs: int = option(30, "passes over the training data")
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.005, "learning rate at the start; falls to 0 like half a cosine")
    width: int = option(256, "units in each of the two hidden layers", above=0)
    dropout: float = option(0.2, "share of hidden units dropped in training")
    weight_decay: float = option(0.01, "AdamW's", least=0)

    def __post_init__(self) -> None:
        self.network(1)  # refuses a --dropout that is no share

    def network(self, pixels: int) -> MLPConfig:
        """The network for images of so many pixels."""
        return MLPConfig.images(pixels, self.width, self.dropout)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    train_set = ArrayDataset(data.x_train, data.y_train)
    test_set = ArrayDataset(data.x_test, data.y_test)

    set_seed(options.seed)
    model = MLP(options.network(math.prod(data.x_train.shape[1:])))
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=options.weight_decay)

    def evaluate(model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        return {"test_accuracy": accuracy(model, test_set, device)}

    with Run(options, __file__, model="mlp") as run:
        schedule = cosine(options.epochs * run.steps_per_epoch(len(train_set)))
        fit(model, loss_function, train_set, options, run, optimizer, schedule, evaluate)
        run.finish()


if __name__ == "__main__":
    run_script(main)
