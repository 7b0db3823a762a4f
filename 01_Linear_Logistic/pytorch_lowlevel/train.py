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
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import linear_lowlevel
import logistic_lowlevel
from utils.data_loaders import Arrays, load_arrays
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device

# What each model can be trained on; the first is its default.
FITTING = {
    "linear": ("diabetes",),
    "logistic": ("breast-cancer",),
    "softmax": ("digits", "iris", "wine", "breast-cancer", "mnist", "fashion-mnist"),
}
IMAGES = ("digits", "mnist", "fashion-mnist")
RATES = {"linear": 0.02, "logistic": 0.1, "softmax": 0.5}


@dataclass(frozen=True)
class Options(TorchOptions):
    model: Literal["auto", "linear", "logistic", "softmax"] = option(
        "auto", "what to train; auto takes what fits --data"
    )
    data: Literal[
        "auto", "diabetes", "breast-cancer", "digits", "iris", "wine", "mnist", "fashion-mnist"
    ] = option("auto", "the data set; auto takes one that fits --model")
    epochs: int = option(0, "passes over the training data; 0 = 20 images, 100 tables", least=0)
    batch_size: int = option(64, "examples in one step")
    lr: float = option(0.0, "learning rate; 0 = 0.02 linear, 0.1 logistic, 0.5 softmax", least=0)

    def __post_init__(self) -> None:
        by_data = {"diabetes": "linear", "breast-cancer": "logistic"}
        model = by_data.get(self.data, "softmax") if self.model == "auto" else self.model
        data = FITTING[model][0] if self.data == "auto" else self.data
        if data not in FITTING[model]:
            raise ValueError(
                f"--model {model} is trained on {' or '.join(FITTING[model])}, got --data {data}"
            )
        if self.epochs < 0 or self.lr < 0:
            raise ValueError(f"--epochs and --lr can't be negative, got {self.epochs}, {self.lr}")
        epochs = self.epochs or (20 if data in IMAGES else 100)
        lr = self.lr or RATES[model]
        settled = {"model": model, "data": data, "epochs": epochs, "lr": lr}
        for name, value in settled.items():  # the class is frozen for everybody else
            object.__setattr__(self, name, value)


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
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    data = load_arrays(options.data, options.data_dir)
    x_train, y_train, x_test, y_test = prepare(data, options.model, device)
    D = x_train.shape[1]
    generator = torch.Generator().manual_seed(options.seed)
    if options.model == "linear":
        level, loss_function = linear_lowlevel, linear_lowlevel.squared_error
        config = linear_lowlevel.LinearConfig(D)
    elif options.model == "logistic":
        level, loss_function = logistic_lowlevel, logistic_lowlevel.logistic_loss
        config = logistic_lowlevel.LogisticConfig(D)
    else:
        level, loss_function = logistic_lowlevel, logistic_lowlevel.softmax_loss
        config = logistic_lowlevel.LogisticConfig(D, len(data.classes))
    params = level.init_params(config, generator, device=device)

    with Run(options, __file__, model=options.model) as run:
        run.restore(params)
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                index = torch.from_numpy(index).to(device)
                loss = loss_function(level.forward(params, x_train[index]), y_train[index])
                loss.backward()
                level.gradient_step(params, options.lr)
                run.log(loss=loss)
            run.evaluate(**measure(options.model, params, x_test, y_test))
        run.finish()


if __name__ == "__main__":
    run_script(main)
