"""Train level 3: the experiments of 1986, or a modern MLP for images.

    python 02_MLP/paper/train.py
        a modern MLP (ReLU, dropout, AdamW) on scikit-learn's digits; about 98 % in a few seconds.

    python 02_MLP/paper/train.py --data mnist --width 512 --epochs 12 --batch-size 128 --lr 0.001
        the same on MNIST (download once: python -m utils.data_loaders --download mnist).

    python 02_MLP/paper/train.py --data symmetry --seed 3
        Fig. 1 of the paper: 6-2-1 sigmoid units tell mirror-symmetric patterns. Also --data xor and
        --data encoder. One epoch is one sweep through all cases, with equation (9) after it.
        Prints the sweeps until every output is on its side of one half, and the hidden codes.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/02_MLP-paper/.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from mlp_paper import (
    MLP,
    GradientDescent1986,
    MLPConfig,
    initialise_1986,
    loss_function,
    squared_error,
)
from utils.data_loaders import ArrayDataset, Arrays, load_arrays
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import accuracy, cosine, fit, set_seed

TASKS_OF_1986 = {"xor": MLPConfig.xor, "symmetry": MLPConfig.symmetry, "encoder": MLPConfig.encoder}


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["digits", "mnist", "fashion-mnist", "xor", "symmetry", "encoder"] = option(
        "digits", "the data set, or the task of 1986"
    )
    epochs: int = option(
        0, "passes over the training data; 0 = 30 for images, 4000 for 1986", least=0
    )
    batch_size: int = option(32, "examples in one step")
    lr: float = option(0.005, "learning rate for images; falls to 0 like half a cosine")
    width: int = option(256, "units in each of the two hidden layers, for images", above=0)
    dropout: float = option(0.2, "share of hidden units dropped in training, for images")
    weight_decay: float = option(0.01, "AdamW's, for images", least=0)
    epsilon: float = option(0.1, "equation (9)'s learning rate, for 1986", above=0)
    alpha: float = option(0.9, "equation (9)'s momentum, for 1986", least=0)

    def __post_init__(self) -> None:
        MLPConfig.images(1, self.width, self.dropout)  # refuses a --dropout that is no share
        if self.epochs == 0:
            object.__setattr__(self, "epochs", 4000 if self.data in TASKS_OF_1986 else 30)


def train_on_images(options: Options) -> None:
    """The modern MLP, by the shared loop."""
    data = load_arrays(options.data, options.data_dir)
    set_seed(options.seed)
    pixels = int(np.prod(data.x_train.shape[1:]))
    model = MLP(MLPConfig.images(pixels, options.width, options.dropout))
    train_set = ArrayDataset(data.x_train, data.y_train)
    test_set = ArrayDataset(data.x_test, data.y_test)
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=options.weight_decay)
    with Run(options, __file__, model="mlp") as run:
        total = options.epochs * run.steps_per_epoch(len(train_set))
        fit(
            model,
            loss_function,
            train_set,
            options,
            run,
            optimizer,
            cosine(total),
            evaluate=lambda model, device: {"test_accuracy": accuracy(model, test_set, device)},
        )
        run.finish()


def all_right(outputs: torch.Tensor, desired: torch.Tensor) -> bool:
    """Whether every output is on its side of one half. Both (B, K)."""
    return bool(((outputs > 0.5) == (desired > 0.5)).all())


def train_as_in_1986(options: Options, data: Arrays) -> None:
    """Full sweeps with equation (9), from weights within ±0.3."""
    x = torch.from_numpy(data.x_train).float()
    desired = torch.from_numpy(data.y_train).float().reshape(len(x), -1)
    model = MLP(TASKS_OF_1986[options.data]())
    initialise_1986(model, torch.Generator().manual_seed(options.seed))
    optimizer = GradientDescent1986(model.parameters(), options.epsilon, options.alpha)
    needed = torch.zeros(())  # sweeps until all cases were right; 0 = not yet. Kept in checkpoints
    with Run(replace(options, batch_size=len(x)), __file__, model=options.data) as run:
        run.restore(model, Kept(optimizer, needed))
        for _ in run.epochs():
            for _ in run.batches(len(x)):
                outputs = model(x)
                if needed == 0 and all_right(outputs, desired):
                    needed.fill_(run.step)
                optimizer.zero_grad()
                error = squared_error(outputs, desired)
                error.backward()
                optimizer.step()
                run.log(loss=error)
            if run.epoch % 500 == 499:
                run.evaluate(largest_error=(model(x) - desired).abs().max(), sweeps_needed=needed)
        with torch.no_grad():
            hidden = model.activation(model.layers[0](x))
            run.finish(largest_error=(model(x) - desired).abs().max(), sweeps_needed=needed)
    print("sweeps until all cases were right:", int(needed) or "not learnt; try another --seed")
    print("hidden units (columns), by case:")
    for case, code in zip(x[:16].int().tolist(), hidden[:16].tolist(), strict=True):
        print("  ", "".join(map(str, case)), " ".join(f"{value:.2f}" for value in code))


class Kept:
    """The optimiser's state and the count of sweeps, saved together."""

    def __init__(self, optimizer: torch.optim.Optimizer, needed: torch.Tensor) -> None:
        self.optimizer, self.needed = optimizer, needed

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "needed": self.needed}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.needed.copy_(state["needed"])


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    if options.data in TASKS_OF_1986:
        train_as_in_1986(options, load_arrays(options.data))
    else:
        train_on_images(options)


if __name__ == "__main__":
    run_script(main)
