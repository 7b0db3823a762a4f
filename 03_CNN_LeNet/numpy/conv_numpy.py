"""Convolution and pooling in NumPy (level 1): every formula, forward and backward.

Paper: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86 (11), 1998, section II.A.

Map of this file:
    correlate                           the definition alone: no padding, stride, dilation, groups
    output_size                         how large the result is
    conv2d_loops_forward, _backward     the definition with everything: four loops
    im2col, col2im                      all patches as the columns of one matrix, and the adjoint
    conv2d_forward, _backward           convolution as one matrix product; some hundred times faster
    max_pool2d_forward, _backward       the largest of each window
    avg_pool2d_forward, _backward       the mean of each window

Shapes: B batch, C and Co input and output channels, G groups, H, W and Ho, Wo input and output
size, kH, kW kernel size, Q = C*kH*kW numbers in a patch, and Ho*Wo*B places where a kernel is laid.

Read before: 02_MLP/numpy/mlp_numpy.py (forward/backward pairs and their caches);
03_CNN_LeNet/theory.md sections 1 to 5.

Deviations from the paper: none in the convolution; the paper's own pooling has trainable
coefficients and stands in paper/lenet5_paper.py. The layouts are PyTorch's: images (B, C, H, W),
kernels (Co, C/groups, kH, kW).
"""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Pair = tuple[int, int]  # (rows, columns)
Size = int | Pair  # one number for both directions, or a pair


# --- the definition


def correlate(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Convolution, the definition and nothing else (eq. 3.1); start reading here.

    Args:
        x: (B, C, H, W). weight: (Co, C, kH, kW). bias: (Co,).

    Returns:
        (B, Co, H - kH + 1, W - kW + 1), as many places as the kernel can lie on the image.
    """
    B, _, H, W = x.shape
    Co, _, kH, kW = weight.shape
    y = np.zeros((B, Co, H - kH + 1, W - kW + 1), x.dtype)
    for b in range(B):
        for o in range(Co):
            for i in range(H - kH + 1):
                for j in range(W - kW + 1):
                    patch = x[b, :, i : i + kH, j : j + kW]  # (C, kH, kW), as one kernel
                    y[b, o, i, j] = (weight[o] * patch).sum() + bias[o]  # eq. 3.1
    return y


# --- sizes


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """How many positions a window of ``kernel`` taps has along an axis of ``size`` (eq. 3.3).

    Raises:
        ValueError: a number is out of range or the window does not fit.
    """
    if kernel < 1 or stride < 1 or dilation < 1 or padding < 0:
        raise ValueError(
            "expected kernel, stride and dilation of at least 1 and padding of at least 0, "
            f"got {kernel}, {stride}, {dilation} and {padding}"
        )
    span = dilation * (kernel - 1) + 1
    if span > size + 2 * padding:
        raise ValueError(
            f"expected a window no wider than the padded input ({size} + 2*{padding}), got {span}"
        )
    return (size + 2 * padding - span) // stride + 1  # eq. 3.3


def _pair(value: Size) -> Pair:
    return value if isinstance(value, tuple) else (value, value)


def _geometry(
    size: Pair, kernel: Size, stride: Size, padding: Size, dilation: Size = 1
) -> tuple[Pair, ...]:
    """Kernel, stride, padding, dilation and output size, each as (rows, columns)."""
    pairs = [_pair(kernel), _pair(stride), _pair(padding), _pair(dilation)]
    kernels, strides, paddings, dilations = pairs
    out = tuple(
        output_size(size[axis], kernels[axis], strides[axis], paddings[axis], dilations[axis])
        for axis in (0, 1)
    )
    return (*pairs, out)


def _taps(
    kernel: Pair, stride: Pair, dilation: Pair, out: Pair
) -> Iterator[tuple[int, int, slice, slice]]:
    """For each kernel position (u, v): the rows and columns it meets, one for each output.

    ``x[..., rows, columns]`` has the output's size: its element (i, j) is what tap (u, v) sees
    when the window stands at output (i, j).
    """
    for u in range(kernel[0]):
        for v in range(kernel[1]):
            row, column = u * dilation[0], v * dilation[1]
            rows = slice(row, row + stride[0] * (out[0] - 1) + 1, stride[0])
            columns = slice(column, column + stride[1] * (out[1] - 1) + 1, stride[1])
            yield u, v, rows, columns


def _check_convolution(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, groups: int
) -> None:
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(
            "expected images (B, C, H, W) and kernels (Co, C/groups, kH, kW), "
            f"got {x.shape} and {weight.shape}"
        )
    Co, Cg = weight.shape[:2]
    if groups < 1 or Co % groups != 0 or x.shape[1] != Cg * groups:
        raise ValueError(
            f"expected {Cg} x {groups} input channels and output channels divisible by {groups} "
            f"for kernels {weight.shape} in {groups} groups, got images {x.shape}"
        )
    if bias is not None and bias.shape != (Co,):
        raise ValueError(f"expected a bias ({Co},), got {bias.shape}")


# --- convolution as loops


def _patch(
    i: int, j: int, o: int, weight: np.ndarray, stride: Pair, dilation: Pair, groups: int
) -> tuple[slice, slice, slice]:
    """The index of what output channel ``o`` sees of one padded image at position (i, j)."""
    Co, Cg, kH, kW = weight.shape
    first = o // (Co // groups) * Cg  # eq. 3.4: the group of o owns Cg neighbouring channels
    top, left = i * stride[0], j * stride[1]
    return (
        slice(first, first + Cg),
        slice(top, top + dilation[0] * (kH - 1) + 1, dilation[0]),
        slice(left, left + dilation[1] * (kW - 1) + 1, dilation[1]),
    )


def conv2d_loops_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> tuple[np.ndarray, tuple]:
    """Cross-correlation, one output number at a time (eq. 3.2): slow, and plain enough to trust.

    Args:
        x: (B, C, H, W). weight: (Co, C/groups, kH, kW). bias: (Co,) or None.
        stride, padding, dilation: an int, or a pair (rows, columns).

    Returns:
        y (B, Co, Ho, Wo) and the cache.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check_convolution(x, weight, bias, groups)
    B, _, H, W = x.shape
    Co, _, kH, kW = weight.shape
    _, stride, padding, dilation, (Ho, Wo) = _geometry((H, W), (kH, kW), stride, padding, dilation)
    pH, pW = padding
    padded = np.pad(x, ((0, 0), (0, 0), (pH, pH), (pW, pW)))
    y = np.zeros((B, Co, Ho, Wo), x.dtype)
    for b, o, i, j in np.ndindex(y.shape):  # four loops in one
        patch = padded[b][_patch(i, j, o, weight, stride, dilation, groups)]
        y[b, o, i, j] = (weight[o] * patch).sum()  # eq. 3.2
        if bias is not None:
            y[b, o, i, j] += bias[o]
    return y, (padded, weight, bias, stride, padding, dilation, groups)


def conv2d_loops_backward(
    dy: np.ndarray, cache: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Gradients of ``conv2d_loops_forward``: dx, dweight, dbias (None without a bias)."""
    padded, weight, bias, stride, padding, dilation, groups = cache
    dpadded, dweight = np.zeros_like(padded), np.zeros_like(weight)
    for b, o, i, j in np.ndindex(dy.shape):
        where = _patch(i, j, o, weight, stride, dilation, groups)
        # y = (weight * patch).sum() is a product: each factor receives the other.
        dweight[o] += dy[b, o, i, j] * padded[b][where]  # eq. 3.7
        dpadded[b][where] += dy[b, o, i, j] * weight[o]  # eqs. 3.9 and 3.10
    dbias = None if bias is None else dy.sum(axis=(0, 2, 3))  # eq. 3.8
    pH, pW = padding
    H, W = padded.shape[2] - 2 * pH, padded.shape[3] - 2 * pW
    return dpadded[:, :, pH : pH + H, pW : pW + W], dweight, dbias


# --- convolution as one matrix product
#
# The batch is the LAST axis of everything below. Neighbouring patches then read long unbroken runs
# of memory (Wo*B numbers where the stride is 1), which makes the copy in im2col and the additions
# in col2im two to three times faster than with the batch first; and all images share one product.


def im2col(
    x: np.ndarray, kernel: Size, stride: Size = 1, padding: Size = 0, dilation: Size = 1
) -> np.ndarray:
    """Every patch of every image as one column (eq. 3.5).

    Args:
        x: (B, C, H, W). kernel, stride, padding, dilation: an int, or a pair (rows, columns).

    Returns:
        (C*kH*kW, Ho*Wo*B): rows ordered as a kernel's numbers, columns by (i, j, b).
    """
    B, C, H, W = x.shape
    kernel, stride, (pH, pW), dilation, (Ho, Wo) = _geometry(
        (H, W), kernel, stride, padding, dilation
    )
    padded = np.zeros((C, H + 2 * pH, W + 2 * pW, B), x.dtype)
    padded[:, pH : pH + H, pW : pW + W] = x.transpose(1, 2, 3, 0)  # (B, C, H, W) -> (C, H, W, B)
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    # A view: the windows overlap in memory, and nothing is copied yet.
    windows = sliding_window_view(padded, span, axis=(1, 2))  # (C, rows, columns, B, spanH, spanW)
    windows = windows[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    # An explicit copy: reshape alone makes one only where it must, and callers write into this.
    columns = windows.transpose(0, 4, 5, 1, 2, 3).copy()  # -> (C, kH, kW, Ho, Wo, B)
    return columns.reshape(C * kernel[0] * kernel[1], Ho * Wo * B)


def col2im(
    columns: np.ndarray,
    x_shape: tuple[int, ...],
    kernel: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
) -> np.ndarray:
    """The adjoint of ``im2col``: add every column back to the place its patch came from (eq. 3.10).

    Args:
        columns: (C*kH*kW, Ho*Wo*B). x_shape: (B, C, H, W), the images that im2col read.

    Returns:
        (B, C, H, W); numbers that lay in several patches are summed.
    """
    B, C, H, W = x_shape
    kernel, stride, (pH, pW), dilation, out = _geometry((H, W), kernel, stride, padding, dilation)
    columns = columns.reshape(C, *kernel, *out, B)  # (Q, places) -> (C, kH, kW, Ho, Wo, B)
    padded = np.zeros((C, H + 2 * pH, W + 2 * pW, B), columns.dtype)
    for u, v, rows, cols in _taps(kernel, stride, dilation, out):
        padded[:, rows, cols] += columns[:, u, v]
    inner = padded[:, pH : pH + H, pW : pW + W]
    return inner.transpose(3, 0, 1, 2)  # (C, H, W, B) -> (B, C, H, W)


def conv2d_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> tuple[np.ndarray, tuple]:
    """Cross-correlation as a matrix product (eq. 3.6); equal to ``conv2d_loops_forward``.

    Args:
        x: (B, C, H, W). weight: (Co, C/groups, kH, kW). bias: (Co,) or None.
        stride, padding, dilation: an int, or a pair (rows, columns).

    Returns:
        y (B, Co, Ho, Wo) and the cache. The result is a view of an array with the batch last, so it
        is not C-contiguous; the next convolution reads it without a copy.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check_convolution(x, weight, bias, groups)
    B, _, H, W = x.shape
    Co, Cg, kH, kW = weight.shape
    Ho, Wo = _geometry((H, W), (kH, kW), stride, padding, dilation)[-1]
    columns = im2col(x, (kH, kW), stride, padding, dilation)  # (B, C, H, W) -> (Q, places)
    columns = columns.reshape(groups, Cg * kH * kW, Ho * Wo * B)  # -> (G, Q/G, places)
    rows = weight.reshape(groups, Co // groups, Cg * kH * kW)  # -> (G, Co/G, Q/G)
    y = (rows @ columns).reshape(Co, Ho, Wo, B)  # eq. 3.6: -> (Co, Ho, Wo, B)
    if bias is not None:
        y += bias[:, None, None, None]
    # The patches are not kept: they are kH*kW times as large as x, and quick to collect again.
    return y.transpose(3, 0, 1, 2), (x, weight, bias, stride, padding, dilation, groups)


def conv2d_backward(
    dy: np.ndarray, cache: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Gradients of ``conv2d_forward``: dx, dweight, dbias (None without a bias)."""
    x, weight, bias, stride, padding, dilation, groups = cache
    B, Co, Ho, Wo = dy.shape
    _, Cg, kH, kW = weight.shape
    columns = im2col(x, (kH, kW), stride, padding, dilation)
    columns = columns.reshape(groups, Cg * kH * kW, Ho * Wo * B)  # -> (G, Q/G, places)
    rows = weight.reshape(groups, Co // groups, Cg * kH * kW)  # -> (G, Co/G, Q/G)
    # (B, Co, Ho, Wo) -> (G, Co/G, places)
    dy_rows = dy.transpose(1, 2, 3, 0).reshape(groups, Co // groups, Ho * Wo * B)

    dbias = None if bias is None else dy_rows.sum(axis=2).reshape(Co)  # eq. 3.8
    dweight = (dy_rows @ columns.transpose(0, 2, 1)).reshape(weight.shape)  # eq. 3.7
    # Written over the patches, which are done with: a second array of this size would double the
    # memory, and fetching fresh pages from the system takes about as long as the product itself.
    dcolumns = np.matmul(rows.transpose(0, 2, 1), dy_rows, out=columns)  # eq. 3.9
    dx = col2im(dcolumns, x.shape, (kH, kW), stride, padding, dilation)  # eq. 3.10
    return dx, dweight, dbias


# --- pooling


def _check_pooling(x: np.ndarray, kernel: Pair, padding: Pair) -> None:
    if x.ndim != 4:
        raise ValueError(f"expected images (B, C, H, W), got {x.shape}")
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"expected padding of at most half the window {kernel}, got {padding}")


def max_pool2d_forward(
    x: np.ndarray, kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> tuple[np.ndarray, tuple]:
    """The largest number of each window (eq. 3.14).

    Args:
        x: (B, C, H, W). kernel_size, padding: an int or a pair. stride: the same, or None for
            windows side by side. Padding cannot win: it counts as minus infinity.

    Returns:
        y (B, C, Ho, Wo) and the cache.
    """
    size = x.shape[2:]
    _check_pooling(x, _pair(kernel_size), _pair(padding))
    stride = kernel_size if stride is None else stride
    kernel, stride, (pH, pW), dilation, out = _geometry(size, kernel_size, stride, padding)
    padded = x
    if pH or pW:
        padded = np.pad(x, ((0, 0), (0, 0), (pH, pH), (pW, pW)), constant_values=-np.inf)
    y = np.full((*x.shape[:2], *out), -np.inf, x.dtype)
    for _, _, rows, columns in _taps(kernel, stride, dilation, out):
        np.maximum(y, padded[:, :, rows, columns], out=y)  # eq. 3.14
    return y, (padded, y, kernel, stride, (pH, pW), dilation)


def max_pool2d_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of ``max_pool2d_forward``: all of dy goes to the winner, the first one in a tie."""
    padded, y, kernel, stride, (pH, pW), dilation = cache
    dpadded = np.zeros_like(padded)
    unclaimed = np.ones_like(y, dtype=bool)
    for _, _, rows, columns in _taps(kernel, stride, dilation, y.shape[2:]):
        won = (padded[:, :, rows, columns] == y) & unclaimed
        dpadded[:, :, rows, columns] += dy * won  # eq. 3.15
        unclaimed &= ~won
    H, W = padded.shape[2] - 2 * pH, padded.shape[3] - 2 * pW
    return dpadded[:, :, pH : pH + H, pW : pW + W]


def avg_pool2d_forward(
    x: np.ndarray, kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> tuple[np.ndarray, tuple]:
    """The mean of each window (eq. 3.16); zeros of the padding count, as in PyTorch's default.

    Args and returns: as ``max_pool2d_forward``.
    """
    size = x.shape[2:]
    _check_pooling(x, _pair(kernel_size), _pair(padding))
    stride = kernel_size if stride is None else stride
    kernel, stride, (pH, pW), dilation, out = _geometry(size, kernel_size, stride, padding)
    padded = np.pad(x, ((0, 0), (0, 0), (pH, pH), (pW, pW))) if pH or pW else x
    y = np.zeros((*x.shape[:2], *out), x.dtype)
    for _, _, rows, columns in _taps(kernel, stride, dilation, out):
        y += padded[:, :, rows, columns]  # (B, C, Hp, Wp) -> (B, C, Ho, Wo)
    y /= kernel[0] * kernel[1]  # eq. 3.16
    return y, (padded, kernel, stride, (pH, pW), dilation)


def avg_pool2d_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of ``avg_pool2d_forward``: each number of a window receives an equal share."""
    padded, kernel, stride, (pH, pW), dilation = cache
    dpadded = np.zeros_like(padded)
    share = dy / (kernel[0] * kernel[1])
    for _, _, rows, columns in _taps(kernel, stride, dilation, dy.shape[2:]):
        dpadded[:, :, rows, columns] += share  # eq. 3.17
    H, W = padded.shape[2] - 2 * pH, padded.shape[3] - 2 * pW
    return dpadded[:, :, pH : pH + H, pW : pW + W]
