"""Exercise: the pre-activation block of 2016 in NumPy, forward and backward (eq. 5.36 and 5.37)."""

import utils  # noqa: F401  (puts the chapters on the import path)
from batch_norm_numpy import batch_norm2d_backward, batch_norm2d_forward
from conv_numpy import conv2d_backward, conv2d_forward
from mlp_numpy import relu_backward, relu_forward
from resnet_numpy import zero_padded_shortcut_backward, zero_padded_shortcut_forward


def normalise(h, name, p, running, train):
    """Batch normalisation ``name`` with its parameters and running statistics."""
    mean, var = running[f"{name}.running_mean"], running[f"{name}.running_var"]
    return batch_norm2d_forward(h, p[f"{name}.weight"], p[f"{name}.bias"], mean, var, train)


def preact_block_forward(x, p, running, stride, train):
    """y = shortcut(x) + conv2(ReLU(bn2(conv1(ReLU(bn1(x))))))  (eq. 5.36)

    Args:
        x: (B, C, H, W).
        p: bn1.weight, bn1.bias (C,), conv1.weight (Co, C, 3, 3), bn2.weight, bn2.bias (Co,),
            conv2.weight (Co, Co, 3, 3). Both convolutions have padding 1; conv1 has the stride.
        running: bn1.running_mean, ...; changed in place in training.
        stride: 1, or 2 where the map is halved. The shortcut is option A, from x as it comes in.

    Returns:
        y (B, Co, H/stride, W/stride) and a cache.
    """
    # TODO: the branch, the shortcut, their sum, and all the caches
    raise NotImplementedError("the branch, the shortcut, their sum, and all the caches")


def preact_block_backward(dy, cache):
    """Gradients of ``preact_block_forward``: dx, and a dict with the names of ``p``."""
    g = {}
    # TODO: the branch in reverse, then what came through the shortcut (eq. 5.37)
    raise NotImplementedError(
        "the branch in reverse, then what came through the shortcut (eq. 5.37)"
    )
    return dx, g
