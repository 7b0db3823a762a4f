"""Train the models of level 2: tensors and autograd, the update rule by hand.

    python 01_Linear_Logistic/pytorch_lowlevel/train.py
        softmax regression on scikit-learn's digits: about 96 % test accuracy in a few seconds.

    python 01_Linear_Logistic/pytorch_lowlevel/train.py --model linear      (diabetes)
    python 01_Linear_Logistic/pytorch_lowlevel/train.py --model logistic    (breast cancer)

    python 01_Linear_Logistic/pytorch_lowlevel/train.py --data mnist
        softmax regression on MNIST: about 92 % test accuracy in ten seconds. MNIST has to be
        downloaded once: python -m utils.data_loaders --download mnist

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to
runs/01_Linear_Logistic-pytorch_lowlevel/.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

import linear_lowlevel
import logistic_lowlevel
from utils.data_loaders import Arrays, load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device

# What each model can be trained on, its default first, and its default learning rate.
FITTING = {
    "linear": ("diabetes",),
    "logistic": ("breast-cancer",),
    "softmax": ("digits", "iris", "wine", "breast-cancer", "mnist", "fashion-mnist"),
}
RATES = {"linear": 0.02, "logistic": 0.1, "softmax": 0.5}
IMAGES = ("digits", "mnist", "fashion-mnist")


@dataclass(frozen=True)
class Options(TorchOptions):
    model: Literal["linear", "logistic", "softmax"] = option("softmax", "what to train")
    data: Literal[
        "auto", "diabetes", "breast-cancer", "digits", "iris", "wine", "mnist", "fashion-mnist"
    ] = option("auto", "auto = diabetes, breast-cancer or digits, by --model")
    epochs: int = option(0, "passes over the training data; 0 = 20 images, 100 tables", least=0)
    lr: float = option(0.0, "learning rate; 0 = 0.02 linear, 0.1 logistic, 0.5 softmax", least=0)

    def __post_init__(self) -> None:
        fitting = FITTING[self.model]
        if self.data not in ("auto", *fitting):
            raise ValueError(
                f"--model {self.model} is trained on {' or '.join(fitting)}, got --data {self.data}"
            )


def settle(options: Options) -> Options:
    """The options with a number or name for what the command line left open."""
    data = FITTING[options.model][0] if options.data == "auto" else options.data
    epochs = options.epochs or (20 if data in IMAGES else 100)
    return replace(options, data=data, epochs=epochs, lr=options.lr or RATES[options.model])


def prepare(data: Arrays, model: str, device: torch.device) -> tuple[Tensor, ...]:
    """Float32 x_train (N, D), y_train, x_test, y_test on ``device``, as ``model`` wants them."""
    x_train, y_train, x_test, y_test = (
        torch.from_numpy(array) for array in (data.x_train, data.y_train, data.x_test, data.y_test)
    )
    if x_train.ndim > 2:
        # Pixels share one scale already; see level 1.
        x_train, x_test = x_train.flatten(1), x_test.flatten(1)  # (N, C, H, W) -> (N, D)
    else:
        deviation, mean = torch.std_mean(x_train, dim=0, correction=0)
        deviation[deviation == 0] = 1
        # Float32 only now: raw columns of 1000 ± 0.1 would lose their digits.
        x_train, x_test = ((x - mean) / deviation for x in (x_train, x_test))
    if model == "linear":
        y_train, y_test = y_train.float()[:, None], y_test.float()[:, None]  # (N,) -> (N, 1)
    return tuple(t.to(device) for t in (x_train.float(), y_train, x_test.float(), y_test))


@torch.no_grad()
def measure(model: str, params: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Quality on the test set: share of variance explained (R²), or accuracy."""
    if model != "linear":
        return {"test_accuracy": (logistic_lowlevel.predict(params, x) == y).float().mean()}
    residual = linear_lowlevel.forward(params, x) - y
    return {"test_r2": 1 - residual.square().sum() / (y - y.mean(dim=0)).square().sum()}


def main(argv: Sequence[str] | None = None) -> None:
    options = settle(parse_options(Options, argv, __doc__))
    device = pick_device(options.device)
    data = load_arrays(options.data, options.data_dir)
    x_train, y_train, x_test, y_test = prepare(data, options.model, device)
    D = x_train.shape[1]
    generator = torch.Generator().manual_seed(options.seed)
    if options.model == "linear":
        level, config = linear_lowlevel, linear_lowlevel.LinearConfig(D)
    else:
        K = 1 if options.model == "logistic" else len(data.classes)
        level, config = logistic_lowlevel, logistic_lowlevel.LogisticConfig(D, K)
    params = level.init_params(config, generator, device=device)

    with Run(options, __file__, model=options.model) as run:
        run.restore(params)
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                index = torch.from_numpy(index).to(device)
                loss = level.train_step(params, x_train[index], y_train[index], options.lr)
                run.log(loss=loss)
            run.evaluate(**measure(options.model, params, x_test, y_test))
        run.finish()


if __name__ == "__main__":
    run_script(main)
