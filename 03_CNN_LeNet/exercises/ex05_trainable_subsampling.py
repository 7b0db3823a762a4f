"""Exercise: give the modern LeNet the paper's sub-sampling: you change a working model.

``SubSamplingLeNet`` is level 1's LeNet (tanh, average pooling) with gaps where the pooling stood.
Fill them with layers that have a trainable coefficient and bias for each map and are squashed by
the network's activation (eq. 3.22 to 3.24), forward and backward.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from conv_numpy import avg_pool2d_backward, avg_pool2d_forward, conv2d_backward, conv2d_forward
from lenet_numpy import LeNet, LeNetConfig
from mlp_numpy import linear_backward, linear_forward, tanh_backward, tanh_forward


def subsample_forward(x, weight, bias):
    """y = weight * (sum of each 2x2 window) + bias, map by map; not squashed yet.

    Args:
        x: (B, C, H, W). weight, bias: (C,).

    Returns:
        y (B, C, H/2, W/2) and a cache.
    """
    # TODO: avg_pool2d_forward does most of it; mind that the paper adds, not averages
    raise NotImplementedError(
        "avg_pool2d_forward does most of it; mind that the paper adds, not averages"
    )


def subsample_backward(dy, cache):
    """Gradients dx (B, C, H, W), dweight (C,), dbias (C,)."""
    # TODO: eq. 3.23 and 3.24
    raise NotImplementedError("eq. 3.23 and 3.24")


class SubSamplingLeNet(LeNet):
    """LeNet with tanh and trainable sub-sampling: 61,706 parameters and 44 more."""

    def __init__(self, rng):
        super().__init__(LeNetConfig("tanh", "avg"), rng)
        # TODO: params s2.weight, s2.bias (6,) and s4.* (16,); weight 0.25, bias 0 at first
        raise NotImplementedError(
            "params s2.weight, s2.bias (6,) and s4.* (16,); weight 0.25, bias 0 at first"
        )

    def forward(self, x):
        """Logits (B, 10) of images (B, 1, 28, 28)."""
        p = self.params
        x, c1 = conv2d_forward(x, p["c1.weight"], p["c1.bias"], padding=2)  # -> (B, 6, 28, 28)
        x, a1 = tanh_forward(x)
        # TODO: S2 and its activation, where LeNet has x, s2 = avg_pool2d_forward(x, 2)
        raise NotImplementedError(
            "S2 and its activation, where LeNet has x, s2 = avg_pool2d_forward(x, 2)"
        )
        x, c3 = conv2d_forward(x, p["c3.weight"], p["c3.bias"])  # -> (B, 16, 10, 10)
        x, a3 = tanh_forward(x)
        # TODO: S4 and its activation, where LeNet has x, s4 = avg_pool2d_forward(x, 2)
        raise NotImplementedError(
            "S4 and its activation, where LeNet has x, s4 = avg_pool2d_forward(x, 2)"
        )
        maps = x.shape
        x, c5 = linear_forward(x.reshape(len(x), -1), p["c5.weight"], p["c5.bias"])
        x, a5 = tanh_forward(x)
        x, f6 = linear_forward(x, p["f6.weight"], p["f6.bias"])
        x, a6 = tanh_forward(x)
        x, output = linear_forward(x, p["output.weight"], p["output.bias"])
        # TODO: keep all caches in self._cache, as backward will need them
        raise NotImplementedError("keep all caches in self._cache, as backward will need them")
        return x

    def backward(self, dy):
        """Gradients of all parameters from that of the logits (B, 10)."""
        g = {}
        # TODO: the caches; then the layers in reverse, with g["s2.weight"] and so on
        raise NotImplementedError(
            'the caches; then the layers in reverse, with g["s2.weight"] and so on'
        )
        return {name: g[name] for name in self.params}
