"""Exercise: the backward pass of a convolution, in one dimension: sound, text, time series.

The forward pass is im2col and a matrix product, as in conv_numpy.py, with one axis less. Sizes:
x (B, C, T), weight (Co, C, k), bias (Co,), y (B, Co, To).
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from conv_numpy import output_size


def conv1d_forward(x, weight, bias, stride=1, dilation=1):
    """y (B, Co, To): y[b, o, i] = bias[o] + sum over c, u of weight[o, c, u] x[b, c, s i + d u]."""
    B, C, T = x.shape
    Co, _, k = weight.shape
    To = output_size(T, k, stride, 0, dilation)
    columns = np.empty((C, k, To, B))
    for u in range(k):
        # all that tap u sees, for every output at once
        columns[:, u] = x[:, :, tap(u, To, stride, dilation)].transpose(1, 2, 0)
    columns = columns.reshape(C * k, To * B)
    y = weight.reshape(Co, C * k) @ columns + bias[:, None]  # -> (Co, To*B)
    return y.reshape(Co, To, B).transpose(2, 0, 1), (columns, x.shape, weight, stride, dilation)


def tap(u, To, stride, dilation):
    """The places of the input that tap u of the kernel meets, one for each output."""
    return slice(u * dilation, u * dilation + stride * (To - 1) + 1, stride)


def conv1d_parameters_backward(dy, cache):
    """Gradients dweight (Co, C, k) and dbias (Co,) from dy (B, Co, To)."""
    columns, (B, C, T), weight, stride, dilation = cache
    Co, _, k = weight.shape
    To = dy.shape[2]
    # TODO: dy as the matrix that y was in forward; then dbias and dweight (eq. 3.8, 3.7)
    raise NotImplementedError(
        "dy as the matrix that y was in forward; then dbias and dweight (eq. 3.8, 3.7)"
    )
    return dweight, dbias


def conv1d_input_backward(dy, cache):
    """Gradient dx (B, C, T) from dy (B, Co, To)."""
    columns, (B, C, T), weight, stride, dilation = cache
    Co, _, k = weight.shape
    To = dy.shape[2]
    dx = np.zeros((B, C, T))
    # TODO: the gradient of the columns, and each tap's share added to dx (eq. 3.9, 3.10)
    raise NotImplementedError(
        "the gradient of the columns, and each tap's share added to dx (eq. 3.9, 3.10)"
    )
    return dx
