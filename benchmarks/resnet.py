"""Cases of 05_ResNet: batch normalisation, and a training step of ResNet-8 and ResNet-18."""

import numpy as np
import torch
import torchvision
from torch import nn

import batch_norm_numpy
import cifar_resnet_paper
import resnet_lowlevel
import resnet_numpy
import resnet_paper
from benchmarks.case import Case, Work, array_step, module_step, tensor_step
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward

MAPS = (32, 16, 32, 32)
BATCH = 16


def numpy_batch_norm() -> Work:
    rng = np.random.default_rng(0)
    # As a convolution of level 1 leaves its result: a view of memory with the batch last.
    x, dy = (rng.standard_normal((*MAPS[1:], MAPS[0]), np.float32) for _ in range(2))
    x, dy = x.transpose(3, 0, 1, 2), dy.transpose(3, 0, 1, 2)
    ones, zeros = np.ones(MAPS[1], np.float32), np.zeros(MAPS[1], np.float32)
    running = zeros.copy(), ones.copy()

    def work() -> None:
        _, cache = batch_norm_numpy.batch_norm2d_forward(x, ones, zeros, *running, train=True)
        batch_norm_numpy.batch_norm2d_backward(dy, cache)

    return work


def torch_batch_norm() -> Work:
    torch.manual_seed(0)
    x, dy = torch.randn(MAPS, requires_grad=True), torch.randn(MAPS)
    layer = nn.BatchNorm2d(MAPS[1])
    leaves = [x, layer.weight, layer.bias]

    def work() -> None:
        torch.autograd.grad(layer(x), leaves, dy)

    return work


def _batch(side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, 3, side, side), np.float32), rng.integers(10, size=BATCH)


def numpy_step() -> Work:
    x, y = _batch()
    config = resnet_numpy.ResNetConfig(8)
    model = resnet_numpy.ResNet(config, np.random.default_rng(0), np.float32)

    def gradients() -> dict[str, np.ndarray]:
        _, cache = softmax_cross_entropy_forward(model.forward(x, train=True), y)
        return model.backward(softmax_cross_entropy_backward(cache))

    return array_step(model.params, gradients)


def lowlevel_step() -> Work:
    x, y = (torch.from_numpy(a) for a in _batch())
    config = resnet_lowlevel.ResNetConfig(8)
    params, buffers = resnet_lowlevel.init_params(config), resnet_lowlevel.init_buffers(config)

    def loss() -> torch.Tensor:
        logits = resnet_lowlevel.forward(params, buffers, x, config, train=True)
        return nn.functional.cross_entropy(logits, y)

    return tensor_step(params, loss)


def _module_step(model: nn.Module, side: int = 32) -> Work:
    x, y = (torch.from_numpy(a) for a in _batch(side))
    return module_step(model, lambda: nn.functional.cross_entropy(model(x), y))


def cifar_step() -> Work:
    return _module_step(cifar_resnet_paper.CifarResNet(cifar_resnet_paper.ResNetConfig(8)))


def imagenet_step() -> Work:
    config = resnet_paper.ResNetConfig.published(18, "v1.5")
    return _module_step(resnet_paper.ResNet(config), 64)


def torchvision_step() -> Work:
    return _module_step(torchvision.models.resnet18(), 64)


_STEP = "forward, backward and SGD of ResNet-8, batch 16 of 32x32, float32"
_LARGE = "forward, backward and SGD of ResNet-18, batch 16 of 64x64, float32"
CASES = [
    Case(
        "05 numpy batch norm",
        f"forward and backward, {MAPS}, float32",
        numpy_batch_norm,
        torch_batch_norm,
        "torch batch norm",
        5.0,
    ),
    Case("05 numpy step", _STEP, numpy_step, cifar_step, "our torch.nn modules", 6.0),
    Case("05 lowlevel step", _STEP, lowlevel_step, cifar_step, "our torch.nn modules", 2.5),
    Case("05 paper step", _LARGE, imagenet_step, torchvision_step, "torchvision resnet18", 1.2),
]
