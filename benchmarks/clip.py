"""Cases of 12_CLIP: the loss, a training step of every level, ViT-B/32 against transformers."""

import numpy as np
import torch
import transformers
from open_clip.loss import ClipLoss
from torch import nn

import clip_layers_numpy
import clip_lowlevel
import clip_numpy
from benchmarks.case import Case, Work, array_step, module_step, tensor_step
from clip_loss_paper import contrastive_loss
from clip_paper import CLIP, CLIPConfig

BATCH, SIDE = 32, 32
SIZES = {"embed": 64, "image_size": SIDE, "patch_size": 8, "vision_width": 64, "vision_layers": 3}
SIZES |= {"vision_heads": 4, "context": 16, "vocabulary": 600, "text_width": 64, "text_layers": 2}
SIZES |= {"text_heads": 4}


def _batch(batch: int, side: int, context: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, vocabulary - 2, (batch, context))
    tokens[:, -1] = vocabulary - 1
    return rng.standard_normal((batch, 3, side, side), np.float32), tokens


def _vectors() -> list[np.ndarray]:
    x = np.random.default_rng(0).standard_normal((2, 256, 128)).astype(np.float32)
    return list(x / np.linalg.norm(x, axis=-1, keepdims=True))


def numpy_loss() -> Work:
    image, text = _vectors()

    def work() -> None:
        _, cache = clip_layers_numpy.contrastive_loss_forward(image, text, np.float32(14.0))
        clip_layers_numpy.contrastive_loss_backward(cache)

    return work


def open_clip_loss() -> Work:
    leaves = [torch.from_numpy(a).requires_grad_() for a in _vectors()]
    scale, loss = torch.tensor(14.0, requires_grad=True), ClipLoss()

    def work() -> None:
        torch.autograd.grad(loss(*leaves, scale), [*leaves, scale])

    return work


def numpy_step() -> Work:
    x, tokens = _batch(BATCH, SIDE, 16, 600)
    model = clip_numpy.CLIP(clip_numpy.CLIPConfig(**SIZES), np.random.default_rng(0), np.float32)

    def gradients() -> dict[str, np.ndarray]:
        _, cache = clip_layers_numpy.contrastive_loss_forward(*model.forward(x, tokens))
        return model.backward(clip_layers_numpy.contrastive_loss_backward(cache))

    return array_step(model.params, gradients)


def lowlevel_step() -> Work:
    x, tokens = (torch.from_numpy(a) for a in _batch(BATCH, SIDE, 16, 600))
    config = clip_lowlevel.CLIPConfig(**SIZES)
    params = clip_lowlevel.init_params(config)

    def loss() -> torch.Tensor:
        return clip_lowlevel.contrastive_loss(*clip_lowlevel.forward(params, x, tokens, config))

    return tensor_step(params, loss)


def _module_step(model: CLIP, batch: tuple[np.ndarray, np.ndarray]) -> Work:
    x, tokens = (torch.from_numpy(a) for a in batch)
    return module_step(model, lambda: contrastive_loss(*model(x, tokens)))


def paper_step() -> Work:
    return _module_step(CLIP(CLIPConfig(**SIZES)), _batch(BATCH, SIDE, 16, 600))


LARGE = (8, 224, 77, 49_408)  # batch, side, tokens, vocabulary


def large_step() -> Work:
    return _module_step(CLIP(CLIPConfig.published("ViT-B/32")), _batch(*LARGE))


def transformers_step() -> Work:
    x, tokens = (torch.from_numpy(a) for a in _batch(*LARGE))
    model: nn.Module = transformers.CLIPModel(transformers.CLIPConfig())
    inputs = {"input_ids": tokens, "pixel_values": x, "return_loss": True}
    return module_step(model, lambda: model(**inputs).loss)


_STEP = f"forward, backward and SGD, small encoders, batch {BATCH} of 32x32 and 16 tokens, float32"
CASES = [
    Case(
        "12 numpy loss",
        "contrastive loss forward and backward, 256 pairs of width 128, float32",
        numpy_loss,
        open_clip_loss,
        "open_clip",
        6.0,
    ),
    Case("12 numpy step", _STEP, numpy_step, paper_step, "our torch.nn modules", 12.0),
    Case("12 lowlevel step", _STEP, lowlevel_step, paper_step, "our torch.nn modules", 1.6),
    Case(
        "12 paper step",
        "forward, backward and SGD of ViT-B/32, batch 8 of 224x224 and 77 tokens, float32",
        large_step,
        transformers_step,
        "transformers' CLIPModel",
        1.0,
        rounds=5,
    ),
]
