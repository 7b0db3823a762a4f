"""VGG on images of any size (level 3): the paper's dense evaluation.

Paper: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, arXiv:1409.1556, section 3.2.

Map of this file:
    linear_as_convolution   the same numbers with another shape
    score_map               logits at every step of 32 pixels
    dense_scores            their average, over the image and its mirror image

Everything takes a ``model`` with ``features`` and ``classifier``: ours or torchvision's.

Shapes: B batch, C channels, H, W height and width of the image, K classes; M, D output and input
width of a linear layer; k side of the maps that the first linear layer reads (7 for images of 224).

Read before: vgg_paper.py, beside this file; 04_VGG/theory.md section 7.

Deviations from the paper: the score map is averaged before the softmax; the paper says "class
scores" and leaves open which. One scale at a time; the paper's best figures average several.
"""

import math

from torch import Tensor, nn, stack
from torch.nn import functional as F


def linear_as_convolution(layer: nn.Linear, C: int) -> Tensor:
    """The weight (M, D) of a linear layer as M kernels (M, C, k, k), D = C*k*k (eq. 4.19).

    A view: the two share their numbers, and nothing has to be trained again.

    Raises:
        ValueError: the inputs of the layer are no square maps of C channels.
    """
    M, D = layer.weight.shape
    k = math.isqrt(D // C)
    if C * k * k != D:
        raise ValueError(f"expected a layer that reads {C} square maps, got {D} inputs")
    return layer.weight.reshape(M, C, k, k)


def score_map(model: nn.Module, x: Tensor) -> Tensor:
    """Logits of every window of the training size, one for each step of 32 pixels.

    Args:
        x: (B, 3, H, W), at least as large as the images of training.

    Returns:
        (B, K, rows, columns), see eq. 4.20; one place if the images have the training size.

    Raises:
        ValueError: the images are smaller.
    """
    x = model.features(x)  # -> (B, C, H/32, W/32)
    for layer in model.classifier:
        if not isinstance(layer, nn.Linear):
            x = layer(x)
            continue
        kernels = linear_as_convolution(layer, x.shape[1])
        k = kernels.shape[2]
        if min(x.shape[2:]) < k:
            raise ValueError(f"expected maps of {k}x{k} or more, got {tuple(x.shape[2:])}")
        x = F.conv2d(x, kernels, layer.bias)  # (B, C, H, W) -> (B, M, H - k + 1, W - k + 1)
    return x


def dense_scores(model: nn.Module, x: Tensor, flip: bool = True) -> Tensor:
    """Class probabilities (B, K) of whole images of any size.

    The score map is averaged over its places (eq. 4.21); with ``flip``, the probabilities of the
    image and of its mirror image are averaged too. Put the model in eval mode first.
    """
    views = [x, x.flip(3)] if flip else [x]
    p = [score_map(model, view).mean(dim=(2, 3)).softmax(dim=1) for view in views]
    return stack(p).mean(dim=0)  # (2, B, K) -> (B, K)
