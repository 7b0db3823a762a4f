"""Solution: give the modern LeNet the paper's sub-sampling: you change a working model.

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
    # --- your code: avg_pool2d_forward does most of it; mind that the paper adds, not averages
    mean, pool = avg_pool2d_forward(x, 2)
    total = 4 * mean
    return total * weight[:, None, None] + bias[:, None, None], (total, weight, pool)
    # --- end


def subsample_backward(dy, cache):
    """Gradients dx (B, C, H, W), dweight (C,), dbias (C,)."""
    # --- your code: eq. 3.23 and 3.24
    total, weight, pool = cache
    dweight = (dy * total).sum(axis=(0, 2, 3))
    dbias = dy.sum(axis=(0, 2, 3))
    dx = avg_pool2d_backward(4 * dy * weight[:, None, None], pool)
    return dx, dweight, dbias
    # --- end


class SubSamplingLeNet(LeNet):
    """LeNet with tanh and trainable sub-sampling: 61,706 parameters and 44 more."""

    def __init__(self, rng):
        super().__init__(LeNetConfig("tanh", "avg"), rng)
        # --- your code: params s2.weight, s2.bias (6,) and s4.* (16,); weight 0.25, bias 0 at first
        for name, maps in (("s2", 6), ("s4", 16)):
            self.params[f"{name}.weight"] = np.full(maps, 0.25)
            self.params[f"{name}.bias"] = np.zeros(maps)
        # --- end

    def forward(self, x):
        """Logits (B, 10) of images (B, 1, 28, 28)."""
        p = self.params
        x, c1 = conv2d_forward(x, p["c1.weight"], p["c1.bias"], padding=2)  # -> (B, 6, 28, 28)
        x, a1 = tanh_forward(x)
        # --- your code: S2 and its activation, where LeNet has x, s2 = avg_pool2d_forward(x, 2)
        x, s2 = subsample_forward(x, p["s2.weight"], p["s2.bias"])  # -> (B, 6, 14, 14)
        x, a2 = tanh_forward(x)
        # --- end
        x, c3 = conv2d_forward(x, p["c3.weight"], p["c3.bias"])  # -> (B, 16, 10, 10)
        x, a3 = tanh_forward(x)
        # --- your code: S4 and its activation, where LeNet has x, s4 = avg_pool2d_forward(x, 2)
        x, s4 = subsample_forward(x, p["s4.weight"], p["s4.bias"])  # -> (B, 16, 5, 5)
        x, a4 = tanh_forward(x)
        # --- end
        maps = x.shape
        x, c5 = linear_forward(x.reshape(len(x), -1), p["c5.weight"], p["c5.bias"])
        x, a5 = tanh_forward(x)
        x, f6 = linear_forward(x, p["f6.weight"], p["f6.bias"])
        x, a6 = tanh_forward(x)
        x, output = linear_forward(x, p["output.weight"], p["output.bias"])
        # --- your code: keep all caches in self._cache, as backward will need them
        self._cache = (c1, a1, s2, a2, c3, a3, s4, a4, maps, c5, a5, f6, a6, output)
        # --- end
        return x

    def backward(self, dy):
        """Gradients of all parameters from that of the logits (B, 10)."""
        g = {}
        # --- your code: the caches; then the layers in reverse, with g["s2.weight"] and so on
        c1, a1, s2, a2, c3, a3, s4, a4, maps, c5, a5, f6, a6, output = self._cache
        dx, g["output.weight"], g["output.bias"] = linear_backward(dy, output)
        dx = tanh_backward(dx, a6)
        dx, g["f6.weight"], g["f6.bias"] = linear_backward(dx, f6)
        dx = tanh_backward(dx, a5)
        dx, g["c5.weight"], g["c5.bias"] = linear_backward(dx, c5)
        dx = tanh_backward(dx.reshape(maps), a4)
        dx, g["s4.weight"], g["s4.bias"] = subsample_backward(dx, s4)
        dx = tanh_backward(dx, a3)
        dx, g["c3.weight"], g["c3.bias"] = conv2d_backward(dx, c3)
        dx = tanh_backward(dx, a2)
        dx, g["s2.weight"], g["s2.bias"] = subsample_backward(dx, s2)
        dx = tanh_backward(dx, a1)
        _, g["c1.weight"], g["c1.bias"] = conv2d_backward(dx, c1)
        # --- end
        return {name: g[name] for name in self.params}
