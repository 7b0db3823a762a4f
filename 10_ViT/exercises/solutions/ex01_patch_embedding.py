"""Solution: patches as a matrix product and as a convolution, and patches that overlap."""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from conv_numpy import conv2d_forward


def embed_as_product(x, weight, bias):
    """Patch embedding by reshape, transpose and one matrix product (eqs. 10.1 and 10.2).

    Args:
        x: (B, C, H, W). weight: (D, C, P, P). bias: (D,).

    Returns:
        (B, G*G, D), the patches row by row.
    """
    B, C, H, W = x.shape
    D, _, P, _ = weight.shape
    # --- your code: cut x into rows of numbers, and multiply them
    rows = x.reshape(B, C, H // P, P, W // P, P).transpose(0, 2, 4, 1, 3, 5)
    rows = rows.reshape(B, -1, C * P * P)
    return rows @ weight.reshape(D, -1).T + bias
    # --- end


def embed_as_convolution(x, weight, bias):
    """The same with ``conv2d_forward`` of chapter 03: (B, G*G, D)."""
    # --- your code: which stride? and bring the map (B, D, G, G) into the form of tokens
    y, _ = conv2d_forward(x, weight, bias, stride=weight.shape[2])
    B, D, _, _ = y.shape
    return y.reshape(B, D, -1).swapaxes(1, 2)
    # --- end


def overlapping_patches_forward(x, P, stride):
    """Patches whose corners are ``stride`` pixels apart, stride at most P (eq. 10.31).

    Returns:
        (B, G*G, C*P*P) with G = (H - P) / stride + 1, and a cache.
    """
    B, C, H, W = x.shape
    G = (H - P) // stride + 1
    rows = np.zeros((B, G * G, C * P * P), x.dtype)
    # --- your code: fill the rows, patch by patch
    for i in range(G):
        for j in range(G):
            top, left = i * stride, j * stride
            patch = x[:, :, top : top + P, left : left + P]
            rows[:, G * i + j] = patch.reshape(B, -1)
    # --- end
    return rows, (x.shape, P, stride)


def overlapping_patches_backward(dy, cache):
    """Gradient of ``overlapping_patches_forward``: dx (B, C, H, W) (eq. 10.32)."""
    shape, P, stride = cache
    B, C, H, W = shape
    G = (H - P) // stride + 1
    dx = np.zeros(shape, dy.dtype)
    # --- your code: every patch gives its gradient back to its pixels
    for i in range(G):
        for j in range(G):
            top, left = i * stride, j * stride
            dx[:, :, top : top + P, left : left + P] += dy[:, G * i + j].reshape(B, C, P, P)
    # --- end
    return dx
