"""Exercise: let level 1's VGG read images of any size: its linear layers as convolutions.

    python 04_VGG/exercises/ex04_fc_to_convolution.py

prints, once the tests pass, how many places the score map has for images of several sizes.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from conv_numpy import conv2d_forward, max_pool2d_forward
from mlp_numpy import relu_forward
from vgg_numpy import VGG, VGGConfig


def features(model, x):
    """All that comes before fc6: maps (B, C, H/32, W/32) of images (B, 3, H, W) of any size.

    Any net but A-LRN, whose normalisation is left out here.
    """
    for kind, name, shape in model.config.layers():
        if kind == "flatten":
            return x
        if kind == "conv":
            weight, bias = model.params[f"{name}.weight"], model.params[f"{name}.bias"]
            x, _ = conv2d_forward(x, weight, bias, padding=shape[2] // 2)
        else:
            x, _ = relu_forward(x) if kind == "relu" else max_pool2d_forward(x, 2)


def linear_to_kernels(weight, C):
    """The weight of a linear layer that reads C square maps, as kernels (eq. 4.19).

    Args:
        weight: (M, D) with D = C * k * k.

    Returns:
        (M, C, k, k).
    """
    # TODO: find k; mind the order in which the maps were flattened (eq. 4.7)
    raise NotImplementedError("find k; mind the order in which the maps were flattened (eq. 4.7)")


def score_map(model, x):
    """Logits at every place (eq. 4.20), without dropout.

    Args:
        x: (B, 3, H, W), at least as large as ``model.config.image_size``.

    Returns:
        (B, K, rows, columns).
    """
    x = features(model, x)
    p = model.params
    # TODO: classifier.0, ReLU, classifier.3, ReLU, classifier.6, as convolutions
    raise NotImplementedError(
        "classifier.0, ReLU, classifier.3, ReLU, classifier.6, as convolutions"
    )


def mean_scores(scores):
    """One vector of logits an image (eq. 4.21): (B, K, rows, columns) -> (B, K)."""
    # TODO: one line
    raise NotImplementedError("one line")


def main():
    model = VGG(VGGConfig(width=8, image_size=64), np.random.default_rng(0))
    for H, W in ((64, 64), (64, 96), (100, 160)):
        scores = score_map(model, np.random.default_rng(0).random((1, 3, H, W)))
        print(f"image {H}x{W}: score map {scores.shape[2]}x{scores.shape[3]}")
    x = np.random.default_rng(1).random((2, 3, 64, 64))
    same = np.allclose(mean_scores(score_map(model, x)), model.forward(x))
    print(f"at the training size the same as before: {same}")


if __name__ == "__main__":
    main()
