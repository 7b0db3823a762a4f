"""Exercise: give VGG the end of the networks that came after it. You change a working model.

``GapVGG`` is level 1's VGG with gaps where the three linear layers stood. Fill them with global
average pooling and one linear layer, forward and backward (eqs. 4.25 and 4.26).
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from conv_numpy import conv2d_backward, conv2d_forward, max_pool2d_backward, max_pool2d_forward
from mlp_numpy import he_normal, linear_backward, linear_forward, relu_backward, relu_forward
from vgg_numpy import VGG


def global_avg_pool_forward(x):
    """One mean for each map (eq. 4.25): (B, C, H, W) -> (B, C), and a cache."""
    # TODO: what will the way back have to know?
    raise NotImplementedError("what will the way back have to know?")


def global_avg_pool_backward(dy, cache):
    """Gradient dx (B, C, H, W) from dy (B, C) (eq. 4.26)."""
    # TODO: every pixel of a map receives the same share
    raise NotImplementedError("every pixel of a map receives the same share")


class GapVGG(VGG):
    """VGG whose maps are averaged and read by one linear layer, ``classifier.0``.

    Any net but A-LRN, whose normalisation is left out here.
    """

    def __init__(self, config, rng):
        super().__init__(config, rng)
        # TODO: drop all classifier.* of self.params; add classifier.0.weight and .bias
        raise NotImplementedError(
            "drop all classifier.* of self.params; add classifier.0.weight and .bias"
        )

    def forward(self, x):
        """Logits (B, K) of images (B, 3, H, W)."""
        self._caches = []
        for kind, name, shape in self.config.layers():
            if kind == "conv":
                weight, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
                x, cache = conv2d_forward(x, weight, bias, padding=shape[2] // 2)
            elif kind == "relu":
                x, cache = relu_forward(x)
            elif kind == "pool":
                x, cache = max_pool2d_forward(x, 2)
            else:  # flatten: the maps are complete
                break
            self._caches.append((kind, name, cache))
        # TODO: the new end; keep its two caches for backward
        raise NotImplementedError("the new end; keep its two caches for backward")
        return x

    def backward(self, dy):
        """Gradients of all parameters from that of the logits (B, K)."""
        g = {}
        # TODO: back through the new end, as far as dx, the gradient of the maps
        raise NotImplementedError(
            "back through the new end, as far as dx, the gradient of the maps"
        )
        for kind, name, cache in reversed(self._caches):
            if kind == "conv":
                dx, g[f"{name}.weight"], g[f"{name}.bias"] = conv2d_backward(dx, cache)
            elif kind == "relu":
                dx = relu_backward(dx, cache)
            else:
                dx = max_pool2d_backward(dx, cache)
        return {name: g[name] for name in self.params}
