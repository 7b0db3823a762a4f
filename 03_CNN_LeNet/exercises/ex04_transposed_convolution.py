"""Exercise: transposed convolution, the adjoint of convolution, forward and backward.

Sizes: x (B, Ci, H, W) is the small image, y (B, Co, H', W') the large one. The weight is
(Ci, Co, kH, kW): seen from the convolution whose adjoint this is, its outputs come first.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from conv_numpy import conv2d_forward


def transposed_size(size, kernel, stride=1, padding=0):
    """Width of the large image (eq. 3.13 with dilation 1 and r = 0)."""
    # TODO: solve eq. 3.3 for the input size
    raise NotImplementedError("solve eq. 3.3 for the input size")


def conv_transpose2d_forward(x, weight, bias, stride=1, padding=0):
    """Lay a copy of the kernel down at every place, weighted by x there, and add them up.

    Pixel (i, j) of x puts its kernel's corner on pixel (stride*i, stride*j) of a canvas; at the end
    ``padding`` pixels are cut off on each side.

    Returns:
        y (B, Co, H', W') and the cache (x, weight, stride, padding).
    """
    B, _, H, W = x.shape
    _, Co, kH, kW = weight.shape
    canvas = np.zeros((B, Co, stride * (H - 1) + kH, stride * (W - 1) + kW))
    # TODO: add the copies (a loop over the places i, j will do), cut, add the bias
    raise NotImplementedError(
        "add the copies (a loop over the places i, j will do), cut, add the bias"
    )
    return y, (x, weight, stride, padding)


def conv_transpose2d_backward(dy, cache):
    """Gradients dx, dweight, dbias. The adjoint of the adjoint is the convolution itself."""
    x, weight, stride, padding = cache
    # TODO: dx with one call of conv2d_forward
    raise NotImplementedError("dx with one call of conv2d_forward")
    B, _, H, W = x.shape
    kH, kW = weight.shape[2:]
    dweight = np.zeros(weight.shape)
    # TODO: dweight: each place contributes x there times the window of dy it wrote on
    raise NotImplementedError(
        "dweight: each place contributes x there times the window of dy it wrote on"
    )
    dbias = dy.sum(axis=(0, 2, 3))
    return dx, dweight, dbias


def adjoint_gap(A, At, x_shape, y_shape, seed=0):
    """|<A x, y> - <x, At y>| for random x and y, relative to <A x, y>: zero for an adjoint.

    Args:
        A, At: functions from arrays of x_shape to arrays of y_shape, and back.
    """
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(x_shape), rng.standard_normal(y_shape)
    # TODO: eq. 3.12
    raise NotImplementedError("eq. 3.12")
