"""Cases of 04_VGG: a training step of net A on 32x32 images, and local response normalisation."""

import numpy as np
import torch
from torch import nn
from torchvision.models import vgg as torchvision_vgg

import vgg_lowlevel
import vgg_numpy
import vgg_paper
from benchmarks.case import Case, Work, array_step, module_step, tensor_step
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward

BATCH, WIDTH, HIDDEN = 32, 16, 128
MAPS = (32, 16, 32, 32)


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((BATCH, 3, 32, 32), dtype=np.float32), rng.integers(10, size=BATCH)


def numpy_step() -> Work:
    x, y = _batch()
    config = vgg_numpy.VGGConfig("A", WIDTH, HIDDEN, dropout=0.0)
    model = vgg_numpy.VGG(config, np.random.default_rng(0), np.float32)

    def gradients() -> dict[str, np.ndarray]:
        _, cache = softmax_cross_entropy_forward(model.forward(x), y)
        return model.backward(softmax_cross_entropy_backward(cache))

    return array_step(model.params, gradients)


def lowlevel_step() -> Work:
    x, y = (torch.from_numpy(a) for a in _batch())
    config = vgg_lowlevel.VGGConfig("A", WIDTH, HIDDEN, dropout=0.0)
    params = vgg_lowlevel.init_params(config)

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(vgg_lowlevel.forward(params, x, config), y)

    return tensor_step(params, loss)


def _module_step(model: nn.Module) -> Work:
    x, y = (torch.from_numpy(a) for a in _batch())
    return module_step(model, lambda: nn.functional.cross_entropy(model(x), y))


def paper_step() -> Work:
    config = vgg_paper.VGGConfig("A", False, WIDTH, HIDDEN, 10, 32, dropout=0.0)
    return _module_step(vgg_paper.VGG(config))


def torchvision_step() -> Work:
    """torchvision's layers with the same channels, and linear layers of the same widths."""
    narrow = [word if word == "M" else word * WIDTH // 64 for word in torchvision_vgg.cfgs["A"]]
    return _module_step(
        nn.Sequential(
            *(torchvision_vgg.make_layers(narrow), nn.Flatten()),
            *(nn.Linear(8 * WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()),
            nn.Linear(HIDDEN, 10),
        )
    )


def _maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random(MAPS, dtype=np.float32), rng.random(MAPS, dtype=np.float32)


def numpy_norm() -> Work:
    x, dy = _maps()

    def work() -> None:
        _, cache = vgg_numpy.local_response_norm_forward(x)
        vgg_numpy.local_response_norm_backward(dy, cache)

    return work


def torch_norm() -> Work:
    x, dy = (torch.from_numpy(a) for a in _maps())
    x.requires_grad_()

    def work() -> None:
        y = nn.functional.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
        torch.autograd.grad(y, x, dy)

    return work


_STEP = "forward, backward and SGD of net A, width 16, 32x32, batch 32, float32"
_NORM = "local response normalisation, forward and backward, (32, 16, 32, 32), float32"
CASES = [
    Case("04 numpy step", _STEP, numpy_step, torchvision_step, "torchvision's layers", 6.0),
    Case("04 lowlevel step", _STEP, lowlevel_step, torchvision_step, "torchvision's layers", 1.2),
    Case("04 paper step", _STEP, paper_step, torchvision_step, "torchvision's layers", 1.1),
    Case("04 numpy LRN", _NORM, numpy_norm, torch_norm, "torch", 4.0),
]
