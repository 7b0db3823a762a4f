"""The whole idea in one minute: train LeNet at three levels, and see that they are one model.

    python demo.py

trains today's LeNet (03_CNN_LeNet) on scikit-learn's handwritten digits three times: in NumPy with
hand-written backward passes, in PyTorch from bare tensors, and in torch.nn. All three start from
the same weights and see the same batches in float64, so their losses must agree at every step.
Prints a table and saves a picture of the three loss curves, one on top of the other:
runs/demo/demo.png. Exits with status 1 if the curves part.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # comes with scikit-learn
from tqdm import tqdm

import utils  # noqa: F401  (puts the chapters on the import path)
from lenet_lowlevel import Adam as LowlevelAdam
from lenet_lowlevel import LeNetConfig as LowlevelConfig
from lenet_lowlevel import forward, train_step
from lenet_numpy import LeNet as NumpyLeNet
from lenet_numpy import LeNetConfig, Params
from lenet_paper import LeNet as PaperLeNet
from lenet_paper import loss_function
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import Adam
from utils.data_loaders import Arrays, enlarge_digits, load_arrays
from utils.options import option, parse_options
from utils.visualization import plot_loss_curves
from utils.weights import load_into, to_torch

TOLERANCE = 1e-9  # float64 carries 16 digits; some are lost in each of several hundred steps
SHOWN_STEPS = (1, 10, 100)


@dataclass(frozen=True)
class Options:
    epochs: int = option(12, "passes over the training data", above=0)
    batch_size: int = option(64, "images in one step", above=0)
    lr: float = option(0.003, "Adam's rate at the start; falls to 0 like half a cosine", above=0)
    limit: int = option(0, "use only so many training images; 0 = all", least=0)
    seed: int = option(0, "seed of the initial weights and of the order of the images", least=0)
    out: Path = option(Path("runs/demo"), "folder of the picture")


@dataclass(frozen=True)
class Trained:
    """What one level's training gave."""

    parameters: int
    losses: list[float]  # one a step
    accuracy: float  # on the test set
    seconds: float


@dataclass(frozen=True)
class Level:
    """One level's model, ready to train: the rest of this file does not know which level it is."""

    name: str
    parameters: int
    step: Callable[[np.ndarray, np.ndarray, float], float]  # images, labels, rate -> loss
    predict: Callable[[np.ndarray], np.ndarray]  # images -> labels


def numpy_level(weights: Params) -> Level:
    """Level 1: NumPy, every gradient by hand."""
    model = NumpyLeNet(LeNetConfig(), np.random.default_rng())
    load_into(model.params, weights)
    optimizer = Adam(model.params)

    def step(x: np.ndarray, y: np.ndarray, lr: float) -> float:
        loss, cache = softmax_cross_entropy_forward(model.forward(x), y)
        optimizer.lr = lr
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
        return float(loss)

    count = sum(p.size for p in model.params.values())
    return Level("L1 numpy", count, step, lambda x: model.forward(x).argmax(axis=1))


def lowlevel_level(weights: Params) -> Level:
    """Level 2: tensors and autograd."""
    config = LowlevelConfig()
    params = to_torch(weights, requires_grad=True)
    optimizer = LowlevelAdam(params)

    def step(x: np.ndarray, y: np.ndarray, lr: float) -> float:
        optimizer.lr = lr
        batch = torch.from_numpy(x), torch.from_numpy(y)
        return train_step(params, optimizer, *batch, config).item()

    @torch.no_grad()
    def predict(x: np.ndarray) -> np.ndarray:
        return forward(params, torch.from_numpy(x), config).argmax(dim=1).numpy()

    return Level("L2 pytorch_lowlevel", sum(p.numel() for p in params.values()), step, predict)


def paper_level(weights: Params) -> Level:
    """Level 3: torch.nn."""
    model = PaperLeNet().double()
    load_into(model, weights)
    optimizer = torch.optim.Adam(model.parameters())

    def step(x: np.ndarray, y: np.ndarray, lr: float) -> float:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = loss_function(model, (torch.from_numpy(x), torch.from_numpy(y)))
        loss.backward()
        optimizer.step()
        return loss.item()

    @torch.no_grad()
    def predict(x: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(x)).argmax(dim=1).numpy()

    return Level("L3 paper", sum(p.numel() for p in model.parameters()), step, predict)


LEVELS = (numpy_level, lowlevel_level, paper_level)


def train(level: Level, data: Arrays, options: Options) -> Trained:
    """Train one level; the order of the images depends on the seed alone."""
    start = time.perf_counter()
    x, y = data.x_train, data.y_train
    per_epoch = math.ceil(len(x) / options.batch_size)
    total, losses = options.epochs * per_epoch, []
    with tqdm(total=total, desc=level.name, leave=False, disable=None) as bar:
        for epoch in range(options.epochs):
            order = np.random.default_rng([options.seed, epoch]).permutation(len(x))
            for i in range(per_epoch):
                index = order[i * options.batch_size : (i + 1) * options.batch_size]
                lr = options.lr * 0.5 * (1 + math.cos(math.pi * len(losses) / total))
                losses.append(level.step(x[index], y[index], lr))
                bar.update()
    accuracy = float((level.predict(data.x_test) == data.y_test).mean())
    return Trained(level.parameters, losses, accuracy, time.perf_counter() - start)


def load_images(limit: int) -> Arrays:
    """scikit-learn's digits as float64 images of 28x28."""
    data = load_arrays("digits")
    end = limit or len(data.x_train)
    return Arrays(
        enlarge_digits(data.x_train[:end].astype(np.float64)),
        data.y_train[:end],
        enlarge_digits(data.x_test.astype(np.float64)),
        data.y_test,
        data.classes,
    )


def table(results: dict[str, Trained]) -> str:
    """The results as aligned text, one line a level."""
    header = ["level", "parameters", *(f"loss at step {s}" for s in SHOWN_STEPS)]
    rows = [[*header, "test accuracy", "seconds"]]
    for name, r in results.items():
        losses = [f"{r.losses[s - 1]:.12f}" if s <= len(r.losses) else "-" for s in SHOWN_STEPS]
        rows.append(
            [name, f"{r.parameters:,}", *losses, f"{100 * r.accuracy:.2f} %", f"{r.seconds:.1f}"]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def largest_difference(results: dict[str, Trained]) -> tuple[float, int]:
    """The largest gap between the three losses of one step, and that step (from 1).

    A loss that is not finite counts as an infinite gap.
    """
    curves = np.array([r.losses for r in results.values()])  # (3, steps)
    with np.errstate(invalid="ignore"):
        gaps = np.nan_to_num(np.ptp(curves, axis=0), nan=np.inf)
    step = int(gaps.argmax())
    return float(gaps[step]), step + 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit status is 0 if the three levels agree."""
    options = parse_options(Options, argv, __doc__)
    # The arrays are small: a second thread would mostly wait for the first one, and on a busy
    # machine for other programs too.
    torch.set_num_threads(1)
    threadpool_limits(1)
    data = load_images(options.limit)
    rng = np.random.default_rng(options.seed)
    weights = NumpyLeNet(LeNetConfig(), rng).params
    print(f"LeNet on {len(data.x_train)} handwritten digits, {options.epochs} epochs, three times")
    results = {}
    for make in LEVELS:
        level = make(weights)
        results[level.name] = train(level, data, options)
    print("\n" + table(results))

    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / "demo.png"
    difference, step = largest_difference(results)
    if math.isfinite(difference):
        plot_loss_curves(
            {name: r.losses for name, r in results.items()},
            title="One model, three implementations: the loss at every step",
            log_scale=True,
            path=picture,
        )
        print(f"\nthe three loss curves: {picture}")
    steps = len(results["L1 numpy"].losses)
    print(f"largest difference between them in {steps} steps: {difference:.1e} (step {step})")
    if difference > TOLERANCE:
        print(
            f"error: the levels part: their losses differ by {difference:.1e} at step {step}, more "
            f"than {TOLERANCE:.0e}; `pytest 03_CNN_LeNet` names the first tensor that differs",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
