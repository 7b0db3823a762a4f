"""Solution: transposed convolution, the adjoint of convolution, forward and backward.

Sizes: x (B, Ci, H, W) is the small image, y (B, Co, H', W') the large one. The weight is
(Ci, Co, kH, kW): seen from the convolution whose adjoint this is, its outputs come first.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from conv_numpy import conv2d_forward


def transposed_size(size, kernel, stride=1, padding=0):
    """Width of the large image (eq. 3.13 with dilation 1 and r = 0)."""
    # --- your code: solve eq. 3.3 for the input size
    return stride * (size - 1) + kernel - 2 * padding
    # --- end


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
    # --- your code: add the copies (a loop over the places i, j will do), cut, add the bias
    for i in range(H):
        for j in range(W):
            top, left = stride * i, stride * j
            copies = np.einsum("bc,couv->bouv", x[:, :, i, j], weight)
            canvas[:, :, top : top + kH, left : left + kW] += copies
    height, width = canvas.shape[2] - 2 * padding, canvas.shape[3] - 2 * padding
    y = canvas[:, :, padding : padding + height, padding : padding + width]
    y = y + bias[:, None, None]
    # --- end
    return y, (x, weight, stride, padding)


def conv_transpose2d_backward(dy, cache):
    """Gradients dx, dweight, dbias. The adjoint of the adjoint is the convolution itself."""
    x, weight, stride, padding = cache
    # --- your code: dx with one call of conv2d_forward
    dx, _ = conv2d_forward(dy, weight, None, stride=stride, padding=padding)
    # --- end
    B, _, H, W = x.shape
    kH, kW = weight.shape[2:]
    dweight = np.zeros(weight.shape)
    # --- your code: dweight: each place contributes x there times the window of dy it wrote on
    padded = np.pad(dy, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for i in range(H):
        for j in range(W):
            top, left = stride * i, stride * j
            window = padded[:, :, top : top + kH, left : left + kW]
            dweight += np.einsum("bc,bouv->couv", x[:, :, i, j], window)
    # --- end
    dbias = dy.sum(axis=(0, 2, 3))
    return dx, dweight, dbias


def adjoint_gap(A, At, x_shape, y_shape, seed=0):
    """|<A x, y> - <x, At y>| for random x and y, relative to <A x, y>: zero for an adjoint.

    Args:
        A, At: functions from arrays of x_shape to arrays of y_shape, and back.
    """
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(x_shape), rng.standard_normal(y_shape)
    # --- your code: eq. 3.12
    left, right = (A(x) * y).sum(), (x * At(y)).sum()
    return abs(left - right) / abs(left)
    # --- end
