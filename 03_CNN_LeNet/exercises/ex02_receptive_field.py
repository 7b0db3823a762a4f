"""Exercise: which pixels can a unit see? Predict the receptive field, then measure it."""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from conv_numpy import conv2d_backward, conv2d_forward

# Layers as dictionaries: kernel, and stride, padding, dilation where they are not 1, 0, 1.
LENET = (
    {"kernel": 5, "padding": 2},  # C1
    {"kernel": 2, "stride": 2},  # S2
    {"kernel": 5},  # C3
    {"kernel": 2, "stride": 2},  # S4
    {"kernel": 5},  # C5
)


def receptive_field(layers):
    """Width of the receptive field and the jump after each layer (eq. 3.18 and 3.19).

    Returns:
        list of (r, j), one pair a layer.
    """
    r, j, result = 1, 1, []
    for layer in layers:
        kernel, stride = layer["kernel"], layer.get("stride", 1)
        dilation = layer.get("dilation", 1)
        # TODO: bring r and j one layer up
        raise NotImplementedError("bring r and j one layer up")
        result.append((r, j))
    return result


def first_pixel(layers, i):
    """The first input pixel (along one axis) that unit i of the last layer can see.

    It is negative if the unit sees padding. With (r, j) of the last layer, the unit then sees the
    pixels first_pixel to first_pixel + r - 1.
    """
    # TODO: walk down from the last layer; unit i of a layer starts at which unit below?
    raise NotImplementedError(
        "walk down from the last layer; unit i of a layer starts at which unit below?"
    )


def measured_field(layers, size, i):
    """The input pixels (along one axis) that unit i really depends on, by a backward pass.

    Every layer is a convolution with one channel and weights of 1, so that no gradient cancels.

    Args:
        size: width of the input. i: the unit of the last layer, in the middle row and column i.

    Returns:
        (first, last) pixel with a gradient that is not zero.
    """
    x, caches = np.zeros((1, 1, size, size)), []
    for layer in layers:
        ones = np.ones((1, 1, layer["kernel"], layer["kernel"]))
        knobs = {name: value for name, value in layer.items() if name != "kernel"}
        x, cache = conv2d_forward(x, ones, None, **knobs)
        caches.append(cache)
    middle = x.shape[2] // 2
    # TODO: send a gradient of 1 back from unit (middle, i), and see where it arrives
    raise NotImplementedError(
        "send a gradient of 1 back from unit (middle, i), and see where it arrives"
    )
