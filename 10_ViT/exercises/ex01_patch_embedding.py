"""Exercise: patches as a matrix product and as a convolution, and patches that overlap."""

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
    # TODO: cut x into rows of numbers, and multiply them
    raise NotImplementedError("cut x into rows of numbers, and multiply them")


def embed_as_convolution(x, weight, bias):
    """The same with ``conv2d_forward`` of chapter 03: (B, G*G, D)."""
    # TODO: which stride? and bring the map (B, D, G, G) into the form of tokens
    raise NotImplementedError(
        "which stride? and bring the map (B, D, G, G) into the form of tokens"
    )


def overlapping_patches_forward(x, P, stride):
    """Patches whose corners are ``stride`` pixels apart, stride at most P (eq. 10.31).

    Returns:
        (B, G*G, C*P*P) with G = (H - P) / stride + 1, and a cache.
    """
    B, C, H, W = x.shape
    G = (H - P) // stride + 1
    rows = np.zeros((B, G * G, C * P * P), x.dtype)
    # TODO: fill the rows, patch by patch
    raise NotImplementedError("fill the rows, patch by patch")
    return rows, (x.shape, P, stride)


def overlapping_patches_backward(dy, cache):
    """Gradient of ``overlapping_patches_forward``: dx (B, C, H, W) (eq. 10.32)."""
    shape, P, stride = cache
    B, C, H, W = shape
    G = (H - P) // stride + 1
    dx = np.zeros(shape, dy.dtype)
    # TODO: every patch gives its gradient back to its pixels
    raise NotImplementedError("every patch gives its gradient back to its pixels")
    return dx
