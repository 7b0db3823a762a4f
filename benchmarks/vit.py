"""Cases of 10_ViT: patch embedding, and a training step of every level against timm."""

import numpy as np
import torch
from timm.models import VisionTransformer as TimmViT
from torch import nn

import vit_layers_numpy
import vit_lowlevel
import vit_numpy
import vit_paper
from benchmarks.case import Case, Work, array_step, module_step, tensor_step
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward

BATCH = 16
SIZES = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "heads": 4}
SIZES |= {"hidden": 128, "classes": 10}


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, 3, 32, 32), np.float32), rng.integers(10, size=BATCH)


def _patch_arrays() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    shapes = (BATCH, 3, 32, 32), (64, 3, 8, 8), (64,), (BATCH, 16, 64)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def numpy_patches() -> Work:
    x, weight, bias, dy = _patch_arrays()

    def work() -> None:
        _, cache = vit_layers_numpy.patch_embed_forward(x, weight, bias)
        vit_layers_numpy.patch_embed_backward(dy, cache)

    return work


def torch_patches() -> Work:
    x, weight, bias, dy = (torch.from_numpy(a) for a in _patch_arrays())
    leaves = [a.requires_grad_() for a in (x, weight, bias)]

    def work() -> None:
        y = nn.functional.conv2d(x, weight, bias, stride=8).flatten(2).mT
        torch.autograd.grad(y, leaves, dy)

    return work


def numpy_step() -> Work:
    x, y = _batch()
    config = vit_numpy.ViTConfig(**SIZES)
    model = vit_numpy.VisionTransformer(config, np.random.default_rng(0), np.float32)

    def gradients() -> dict[str, np.ndarray]:
        _, cache = softmax_cross_entropy_forward(model.forward(x, train=True), y)
        return model.backward(softmax_cross_entropy_backward(cache))

    return array_step(model.params, gradients)


def lowlevel_step() -> Work:
    x, y = (torch.from_numpy(a) for a in _batch())
    config = vit_lowlevel.ViTConfig(**SIZES)
    params = vit_lowlevel.init_params(config)

    def loss() -> torch.Tensor:
        logits = vit_lowlevel.forward(params, x, config)
        return nn.functional.cross_entropy(logits, y)

    return tensor_step(params, loss)


def _module_step(model: nn.Module) -> Work:
    x, y = (torch.from_numpy(a) for a in _batch())
    return module_step(model, lambda: nn.functional.cross_entropy(model(x), y))


def paper_step() -> Work:
    return _module_step(vit_paper.VisionTransformer.of(**SIZES))


def timm_step() -> Work:
    return _module_step(
        TimmViT(
            img_size=32,
            patch_size=8,
            embed_dim=64,
            depth=3,
            num_heads=4,
            mlp_ratio=2,
            num_classes=10,
        )
    )


_STEP = f"forward, backward and SGD, 3 blocks of width 64, batch {BATCH} of 32x32, float32"
CASES = [
    Case(
        "10 numpy patches",
        f"patch embedding forward and backward, batch {BATCH}, 16 patches, float32",
        numpy_patches,
        torch_patches,
        "F.conv2d",
        3.0,
    ),
    Case("10 numpy step", _STEP, numpy_step, paper_step, "our torch.nn modules", 12.0),
    Case("10 lowlevel step", _STEP, lowlevel_step, paper_step, "our torch.nn modules", 1.6),
    Case("10 paper step", _STEP, paper_step, timm_step, "timm", 1.2),
]
