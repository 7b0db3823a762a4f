"""Cases of 03_CNN_LeNet: one convolution, loops against GEMM, and a training step of LeNet."""

import numpy as np
import torch
from torch import nn

import conv_numpy
import lenet_lowlevel
import lenet_numpy
import lenet_paper
from benchmarks.case import Case, Work, array_step, module_step, tensor_step
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward

IMAGES, KERNELS = (64, 6, 28, 28), (16, 6, 5, 5)
BATCH = 64


def _convolution_inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = IMAGES, KERNELS, KERNELS[:1], (64, 16, 24, 24)
    x, weight, bias, dy = (rng.standard_normal(s, dtype=np.float32) for s in shapes)
    return x, weight, bias, dy


def gemm_convolution() -> Work:
    x, weight, bias, dy = _convolution_inputs()

    def work() -> None:
        _, cache = conv_numpy.conv2d_forward(x, weight, bias)
        conv_numpy.conv2d_backward(dy, cache)

    return work


def loop_convolution() -> Work:
    x, weight, bias, dy = _convolution_inputs()

    def work() -> None:
        _, cache = conv_numpy.conv2d_loops_forward(x, weight, bias)
        conv_numpy.conv2d_loops_backward(dy, cache)

    return work


def torch_convolution() -> Work:
    x, weight, bias, dy = (torch.from_numpy(a) for a in _convolution_inputs())
    leaves = [a.requires_grad_() for a in (x, weight, bias)]

    def work() -> None:
        y = nn.functional.conv2d(x, weight, bias)
        torch.autograd.grad(y, leaves, dy)

    return work


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((BATCH, 1, 28, 28), dtype=np.float32), rng.integers(10, size=BATCH)


def numpy_step() -> Work:
    x, y = _batch()
    config = lenet_numpy.LeNetConfig()
    model = lenet_numpy.LeNet(config, np.random.default_rng(0), np.float32)

    def gradients() -> dict[str, np.ndarray]:
        _, cache = softmax_cross_entropy_forward(model.forward(x), y)
        return model.backward(softmax_cross_entropy_backward(cache))

    return array_step(model.params, gradients)


def lowlevel_step() -> Work:
    x, y = (torch.from_numpy(a) for a in _batch())
    config = lenet_lowlevel.LeNetConfig()
    params = lenet_lowlevel.init_params(config)

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(lenet_lowlevel.forward(params, x, config), y)

    return tensor_step(params, loss)


def _module_step(model: nn.Module) -> Work:
    x, y = (torch.from_numpy(a) for a in _batch())
    return module_step(model, lambda: nn.functional.cross_entropy(model(x), y))


def paper_step() -> Work:
    return _module_step(lenet_paper.LeNet(lenet_paper.LeNetConfig()))


def plain_step() -> Work:
    return _module_step(
        nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )
    )


_CONV = "forward and backward, (64, 6, 28, 28) to 16 maps by 5x5, float32"
_STEP = "forward, backward and SGD of LeNet, batch 64, float32"
CASES = [
    Case("03 numpy conv2d", _CONV, gemm_convolution, torch_convolution, "torch conv2d", 4.0),
    Case("03 conv2d, GEMM to loops", _CONV, gemm_convolution, loop_convolution, "loops", 0.01, 1),
    Case("03 numpy step", _STEP, numpy_step, plain_step, "torch.nn modules", 6.0),
    Case("03 lowlevel step", _STEP, lowlevel_step, plain_step, "torch.nn modules", 6.0),
    Case("03 paper step", _STEP, paper_step, plain_step, "torch.nn modules", 1.05),
]
