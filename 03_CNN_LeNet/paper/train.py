"""Train level 3: LeNet-5 as printed in 1998, LeNet as it is taught today, or anything between.

    python 03_CNN_LeNet/paper/train.py
        LeNet-5 of the paper on scikit-learn's digits, enlarged to 28x28; less than a minute.

    python 03_CNN_LeNet/paper/train.py --data mnist --batch-size 64
        the same on MNIST, in some minutes; the paper reports 0.95 % test error. The README has the
        measured errors. MNIST has to be downloaded once:
        python -m utils.data_loaders --download mnist

    python 03_CNN_LeNet/paper/train.py --data mnist --batch-size 64 --model lenet \\
        --lr 0.002
        the modern network. --activation tanh --subsampling avg bring it nearer to 1998.

    python 03_CNN_LeNet/paper/train.py --data mnist --batch-size 64 --output linear
        LeNet-5 with one difference undone, to see what it does to the error; the others are
        --connection-table full, --subsampling max (or avg) and --activation relu (or tanh).

The paper trains on one example at a time by diagonal Levenberg-Marquardt, at global rates of 0.0005
(2 passes), 0.0002 (3), 0.0001 (3), 0.00005 (4) and 0.00001 (8). Here Adam takes the place of the
second-order method, on mini-batches. --schedule paper has those rates, relative to the first; the
default is --schedule cosine, with which the README's results were made.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/03_CNN_LeNet-paper/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from lenet5_paper import LeNet5, LeNet5Config, prepare
from lenet5_paper import loss_function as lenet5_loss
from lenet_paper import LeNet, LeNetConfig
from lenet_paper import loss_function as lenet_loss
from utils.data_loaders import ArrayDataset, enlarge_digits, load_arrays
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import Schedule, accuracy, cosine, fit, piecewise, set_seed

# What "published" means for each model.
PUBLISHED = {"lenet5": LeNet5Config.lecun1998(), "lenet": LeNet5Config.modern()}
PAPER_PASSES = ((2, 0.0005), (3, 0.0002), (3, 0.0001), (4, 0.00005), (8, 0.00001))  # section III.B


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["digits", "mnist", "fashion-mnist"] = option("digits", "the data set")
    epochs: int = option(20, "passes over the training data")
    batch_size: int = option(16, "examples in one step")
    lr: float = option(0.003, "learning rate at the start")
    schedule: Literal["cosine", "paper"] = option("cosine", "how the learning rate falls")
    model: Literal["lenet5", "lenet"] = option("lenet5", "the paper's network or today's")
    connection_table: Literal["published", "table1", "full"] = option(
        "published", "which maps of S2 a map of C3 sees"
    )
    subsampling: Literal["published", "trainable", "avg", "max"] = option(
        "published", "kind of S2 and S4"
    )
    activation: Literal["published", "scaled_tanh", "tanh", "relu"] = option(
        "published", "the squashing function"
    )
    output: Literal["published", "rbf", "linear"] = option("published", "output units and loss")
    rubbish_penalty: float = option(1.0, "the constant j of equation (9)", above=0)

    def __post_init__(self) -> None:
        for name in ("connection_table", "subsampling", "activation", "output"):
            if getattr(self, name) == "published":
                # The way to set a field of a frozen dataclass, here while it is being made.
                object.__setattr__(self, name, getattr(PUBLISHED[self.model], name))
        if self.model == "lenet" and (self.connection_table, self.output) != ("full", "linear"):
            raise ValueError("--connection-table and --output are options of --model lenet5")
        self.model_config()  # says what else doesn't fit, before any data are read

    def model_config(self) -> LeNet5Config | LeNetConfig:
        """The configuration of the chosen model."""
        if self.model == "lenet":
            return LeNetConfig(self.activation, self.subsampling)
        return LeNet5Config(
            self.connection_table,
            self.subsampling,
            self.activation,
            self.output,
            self.rubbish_penalty,
        )


def make_schedule(options: Options, steps_per_epoch: int) -> Schedule:
    """The factor of the learning rate at each step."""
    if options.schedule == "cosine":
        return cosine(options.epochs * steps_per_epoch)
    first = PAPER_PASSES[0][1]
    return piecewise([(passes * steps_per_epoch, rate / first) for passes, rate in PAPER_PASSES])


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    # (N, 1, 8, 8) or (N, 1, 28, 28) -> (N, 1, 28, 28)
    x_train, x_test = (torch.from_numpy(enlarge_digits(x)) for x in (data.x_train, data.x_test))
    set_seed(options.seed)
    if options.model == "lenet5":
        model, loss_function = LeNet5(options.model_config()), lenet5_loss
        x_train, x_test = prepare(x_train), prepare(x_test)  # -> (N, 1, 32, 32)
    else:
        model, loss_function = LeNet(options.model_config()), lenet_loss
    train_set, test_set = ArrayDataset(x_train, data.y_train), ArrayDataset(x_test, data.y_test)

    def evaluate(model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        right = accuracy(model, test_set, device)
        return {"test_accuracy": right, "test_error": 1 - right}

    with Run(options, __file__, model=options.model) as run:
        fit(
            model,
            loss_function,
            train_set,
            options,
            run,
            torch.optim.Adam(model.parameters(), options.lr),
            make_schedule(options, run.steps_per_epoch(len(train_set))),
            evaluate,
        )
        of_the_paper = options.model == "lenet5" and options.data == "mnist"
        run.finish(paper={"test_error": 0.0095} if of_the_paper else None)


if __name__ == "__main__":
    run_script(main)
