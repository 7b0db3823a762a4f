"""Cases of 02_MLP: a training step of the MNIST network at each level against torch."""

import numpy as np
import torch
from torch import nn

import mlp_lowlevel
import mlp_numpy
import mlp_paper
from benchmarks.case import Case, Work
from optimizers_numpy import Adam

SIZES, BATCH = (784, 512, 512, 10), 128


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.random((BATCH, SIZES[0]), dtype=np.float32)
    return x, rng.integers(SIZES[-1], size=BATCH)


def _tensors() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = _batch()
    return torch.from_numpy(x), torch.from_numpy(y)


def numpy_step() -> Work:
    x, y = _batch()
    model = mlp_numpy.MLP(mlp_numpy.MLPConfig(SIZES), np.random.default_rng(0), np.float32)
    optimizer = Adam(model.params)

    def step() -> None:
        _, cache = mlp_numpy.softmax_cross_entropy_forward(model.forward(x), y)
        optimizer.step(model.backward(mlp_numpy.softmax_cross_entropy_backward(cache)))

    return step


def lowlevel_step() -> Work:
    x, y = _tensors()
    config = mlp_lowlevel.MLPConfig(SIZES)
    params = mlp_lowlevel.init_params(config)
    optimizer = mlp_lowlevel.Adam(params)
    return lambda: mlp_lowlevel.train_step(params, optimizer, x, y, config)


def _module_step(model: nn.Module) -> Work:
    x, y = _tensors()
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def paper_step() -> Work:
    return _module_step(mlp_paper.MLP(mlp_paper.MLPConfig(SIZES)))


def plain_step() -> Work:
    D, M, N, K = SIZES
    return _module_step(
        nn.Sequential(nn.Linear(D, M), nn.ReLU(), nn.Linear(M, N), nn.ReLU(), nn.Linear(N, K))
    )


_WHAT = "forward, backward and Adam, 784-512-512-10, batch 128, float32"
CASES = [
    Case("02 numpy step", _WHAT, numpy_step, plain_step, "torch.nn modules", 4.0),
    Case("02 lowlevel step", _WHAT, lowlevel_step, plain_step, "torch.nn modules", 2.0),
    Case("02 paper step", _WHAT, paper_step, plain_step, "torch.nn modules", 1.1),
]
