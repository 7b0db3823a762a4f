"""Fit the models of level 3: exactly, by Newton's method, or by the shared training loop.

    python 01_Linear_Logistic/paper/train.py --model linear
        ridge regression on diabetes by QR: one step.

    python 01_Linear_Logistic/paper/train.py --model logistic
        breast cancer by Newton's method (IRLS): about 98 % test accuracy after ten steps.
        With --ridge 0 it says that the classes are separable (theory.md, section 10).

    python 01_Linear_Logistic/paper/train.py
        softmax regression on scikit-learn's digits by stochastic gradient descent: about 96 %.

    python 01_Linear_Logistic/paper/train.py --data mnist
        the same on MNIST: about 92 % in half a minute. MNIST has to be downloaded once:
        python -m utils.data_loaders --download mnist

--solver auto takes qr for linear regression, newton for labelled tables and sgd for images. One
epoch of newton is one Newton step on the whole training set; qr always has one epoch. Ctrl-C saves;
--resume RUN_FOLDER goes on. Everything is written to runs/01_Linear_Logistic-paper/.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

import linear_paper
import logistic_paper
from utils.data_loaders import ArrayDataset, Arrays, load_arrays
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import fit, set_seed

# What each model can be trained on, its default first, and its default learning rate.
FITTING = {
    "linear": ("diabetes",),
    "logistic": ("breast-cancer",),
    "softmax": ("digits", "iris", "wine", "breast-cancer", "mnist", "fashion-mnist"),
}
RATES = {"linear": 0.02, "logistic": 0.1, "softmax": 0.5}
SOLVERS = {"linear": ("qr", "sgd"), "logistic": ("newton", "sgd"), "softmax": ("newton", "sgd")}
IMAGES = ("digits", "mnist", "fashion-mnist")


@dataclass(frozen=True)
class Options(TrainerOptions):
    model: Literal["linear", "logistic", "softmax"] = option("softmax", "what to train")
    data: Literal[
        "auto", "diabetes", "breast-cancer", "digits", "iris", "wine", "mnist", "fashion-mnist"
    ] = option("auto", "auto = diabetes, breast-cancer or digits, by --model")
    solver: Literal["auto", "qr", "newton", "sgd"] = option("auto", "how to fit")
    ridge: float = option(1.0, "penalty alpha on squared weights, against the summed loss", least=0)
    epochs: int = option(
        0, "passes over the training data; 0 = 10 newton, else 20 images, 100 tables", least=0
    )
    lr: float = option(
        0.0, "learning rate of sgd; 0 = 0.02 linear, 0.1 logistic, 0.5 softmax", least=0
    )

    def __post_init__(self) -> None:
        fitting, solvers = FITTING[self.model], SOLVERS[self.model]
        if self.data not in ("auto", *fitting):
            raise ValueError(
                f"--model {self.model} is trained on {' or '.join(fitting)}, got --data {self.data}"
            )
        if self.solver not in ("auto", *solvers):
            raise ValueError(
                f"--model {self.model} is fitted by {' or '.join(solvers)}, "
                f"got --solver {self.solver}"
            )
        if self.solver == "newton" and self.data in ("mnist", "fashion-mnist"):
            raise ValueError(
                f"--solver newton needs the square of {self.data}'s 7850 parameters in memory; "
                "use sgd"
            )


def settle(options: Options) -> Options:
    """The options with a number or name for what the command line left open."""
    data = FITTING[options.model][0] if options.data == "auto" else options.data
    solver = options.solver
    if solver == "auto":
        solver = "sgd" if data in IMAGES else SOLVERS[options.model][0]
    epochs = options.epochs or (10 if solver == "newton" else 20 if data in IMAGES else 100)
    if solver == "qr":
        epochs = 1
    lr = options.lr or RATES[options.model]
    return replace(options, data=data, solver=solver, epochs=epochs, lr=lr)


def prepare(data: Arrays, options: Options) -> tuple[Tensor, ...]:
    """x_train (N, D), y_train, x_test, y_test: float32 for sgd, float64 for the exact solvers."""
    x_train, x_test = torch.from_numpy(data.x_train), torch.from_numpy(data.x_test)
    y_train, y_test = torch.from_numpy(data.y_train), torch.from_numpy(data.y_test)
    dtype = torch.float32 if options.solver == "sgd" else torch.float64
    if x_train.ndim > 2:
        # Pixels share one scale already; see level 1.
        x_train, x_test = x_train.flatten(1), x_test.flatten(1)  # (N, C, H, W) -> (N, D)
    else:
        deviation, mean = torch.std_mean(x_train, dim=0, correction=0)
        deviation[deviation == 0] = 1
        x_train, x_test = ((x - mean) / deviation for x in (x_train, x_test))
    if options.model == "linear":
        y_train, y_test = y_train.to(dtype)[:, None], y_test.to(dtype)[:, None]  # (N,) -> (N, 1)
    return x_train.to(dtype), y_train, x_test.to(dtype), y_test


def make_model(options: Options, features: int, classes: int) -> nn.Linear:
    """A fresh model for ``options.model``."""
    if options.model == "linear":
        return linear_paper.LinearRegression(linear_paper.LinearConfig(features))
    if options.model == "logistic":
        config = logistic_paper.LogisticConfig(features)
        return logistic_paper.LogisticRegression(config)
    config = logistic_paper.LogisticConfig(features, classes)
    return logistic_paper.SoftmaxRegression(config)


@torch.no_grad()
def measure(model: nn.Linear, device: torch.device, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Quality on the test set: share of variance explained (R²), or accuracy."""
    x, y = x.to(device), y.to(device)
    if not isinstance(model, linear_paper.LinearRegression):
        return {"test_accuracy": (model.predict(x) == y).float().mean()}
    residual = model(x) - y
    return {"test_r2": 1 - residual.square().sum() / (y - y.mean(dim=0)).square().sum()}


def solve(options: Options, run: Run, model: nn.Linear, data: tuple[Tensor, ...]) -> None:
    """Fit by qr or newton, on the CPU in float64, one step an epoch; all is measured after it."""
    x_train, y_train, x_test, y_test = data
    level = linear_paper if options.model == "linear" else logistic_paper
    n = options.limit or len(x_train)
    x, y = x_train[:n], y_train[:n]
    change = 0.0
    run.restore(model)
    for _ in run.epochs():
        if options.solver == "qr":
            model.load_state_dict(linear_paper.solve_ridge(x, y, options.ridge))
        else:
            _, change = logistic_paper.newton_step(model, x, y, options.ridge)
        run.log(loss=level.loss_function(model, (x, y), options.ridge))
        metrics = measure(model, torch.device("cpu"), x_test, y_test)
        if options.solver == "newton":
            metrics["largest_change"] = torch.tensor(change)
        run.evaluate(**metrics)
    if change > 1e-6:
        print(
            f"not converged: the last Newton step still changed a parameter by {change:.1e}; more "
            "--epochs, or a --ridge above 0 if the classes are separable, will help"
        )


def main(argv: Sequence[str] | None = None) -> None:
    options = settle(parse_options(Options, argv, __doc__))
    set_seed(options.seed)
    data = load_arrays(options.data, options.data_dir)
    x_train, y_train, x_test, y_test = prepare(data, options)
    model = make_model(options, x_train.shape[1], len(data.classes)).to(x_train.dtype)
    with Run(options, __file__, model=options.model) as run:
        if options.solver == "sgd":
            level = linear_paper if options.model == "linear" else logistic_paper
            examples = min(len(x_train), options.limit or len(x_train))
            loss_function = partial(level.loss_function, ridge=options.ridge, examples=examples)
            fit(
                model,
                loss_function,
                ArrayDataset(x_train, y_train),
                options,
                run,
                torch.optim.SGD(model.parameters(), options.lr),
                evaluate=partial(measure, x=x_test, y=y_test),
            )
        else:
            solve(options, run, model, (x_train, y_train, x_test, y_test))
        run.finish()


if __name__ == "__main__":
    try:
        run_script(main)
    except logistic_paper.NoMaximum as error:
        sys.exit(f"error: {error}")
