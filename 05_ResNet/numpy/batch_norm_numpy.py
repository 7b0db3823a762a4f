"""Batch normalisation of images in NumPy (level 1): training, running statistics, backward.

Paper: S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift", 2015, arXiv:1502.03167, Algorithms 1 and 2, section 3.2 (convolutions).

Map of this file:
    batch_norm2d_forward, _backward    every channel to mean 0 and variance 1, then scaled, shifted

Shapes: B batch, C channels, H, W height and width; m = B*H*W, the numbers that one channel has in a
batch.

Read before: 02_MLP/exercises/02_batch_norm.md (the same for a table, as an exercise),
03_CNN_LeNet/numpy/conv_numpy.py; 05_ResNet/theory.md sections 1 to 3.

Deviations from the paper: Algorithm 2 averages the statistics of several batches after training;
like every library today, this keeps running averages during it.
"""

import numpy as np

AXES = (0, 2, 3)  # all numbers of one channel: every image, row and column


def _per_channel(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]  # (C,) -> (C, 1, 1), which fits (B, C, H, W)


def batch_norm2d_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    train: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[np.ndarray, tuple]:
    """Normalise each channel, then scale and shift it (eqs. 5.1 to 5.7).

    Args:
        x: (B, C, H, W). weight, bias: (C,), the paper's gamma and beta.
        running_mean, running_var: (C,). In training they are CHANGED IN PLACE, towards the
            statistics of this batch; without ``train`` they are used instead of the batch's.
        momentum: how far they move, PyTorch's sense of the word (eq. 5.5).
        eps: keeps the division finite.

    Returns:
        y (B, C, H, W) and the cache.

    Raises:
        ValueError: the shapes do not fit, or a channel has a single number in training.
    """
    if x.ndim != 4 or weight.shape != x.shape[1:2]:
        raise ValueError(f"expected images (B, {len(weight)}, H, W), got {x.shape}")
    B, _, H, W = x.shape
    m = B * H * W
    if train and m < 2:
        raise ValueError(f"expected more than one number a channel in training, got {x.shape}")
    if train:
        mean = x.mean(axis=AXES)  # eq. 5.1: (B, C, H, W) -> (C,)
        centred = x - _per_channel(mean)
        var = np.square(centred).mean(axis=AXES)  # eq. 5.2: divided by m
        running_mean += momentum * (mean - running_mean)  # eq. 5.5
        running_var += momentum * (var * (m / (m - 1)) - running_var)  # eq. 5.6: by m - 1
    else:
        centred = x - _per_channel(running_mean)  # eq. 5.7
        var = running_var
    std = np.sqrt(var + eps)
    x_hat = centred / _per_channel(std)  # eq. 5.3
    y = _per_channel(weight) * x_hat + _per_channel(bias)  # eq. 5.4
    return y, (x_hat, weight, std, train)


def batch_norm2d_backward(
    dy: np.ndarray, cache: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of :func:`batch_norm2d_forward`: dx (B, C, H, W), dweight (C,), dbias (C,)."""
    x_hat, weight, std, train = cache
    B, _, H, W = dy.shape
    m = B * H * W
    dbias = dy.sum(axis=AXES)  # eq. 5.10
    dweight = (dy * x_hat).sum(axis=AXES)  # eq. 5.11
    if not train:
        return dy * _per_channel(weight / std), dweight, dbias  # eq. 5.17
    # The two sums above are also what flows back through the mean and through the variance.
    dx = dy - _per_channel(dbias / m) - x_hat * _per_channel(dweight / m)
    dx *= _per_channel(weight / std)  # eq. 5.16
    return dx, dweight, dbias
