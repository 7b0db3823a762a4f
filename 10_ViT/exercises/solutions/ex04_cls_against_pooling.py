"""Solution: the head sees the class token, the mean, or the mean of the patches."""

import numpy as np

from vit_paper import VisionTransformer


def pool_forward(x, kind):
    """What the head sees of x (B, T, D), of which token 0 is the class token: (B, D).

    Args:
        kind: "cls", the class token; "mean", the mean of all tokens; "patches", the mean of all
            but the class token.
    """
    # --- your code: the three kinds
    if kind == "cls":
        y = x[:, 0]
    elif kind == "mean":
        y = x.mean(axis=1)
    else:
        y = x[:, 1:].mean(axis=1)
    # --- end
    return y, (x.shape, kind)


def pool_backward(dy, cache):
    """Gradient of ``pool_forward``: (B, T, D)."""
    shape, kind = cache
    dx = np.zeros(shape, dy.dtype)
    # --- your code: who contributed to y, and how much?
    if kind == "cls":
        dx[:, 0] = dy
    elif kind == "mean":
        dx += dy[:, None] / shape[1]
    else:
        dx[:, 1:] += dy[:, None] / (shape[1] - 1)
    # --- end
    return dx


class PatchPooling(VisionTransformer):
    """A model with a class token whose head sees the mean of the patches instead.

    Its weights are those of a model with ``pool="cls"``, so a trained one can be changed over.
    """

    def forward(self, x):
        """Logits (B, K) of images (B, C, H, W); see ``VisionTransformer.forward``."""
        # --- your code: as in the base class, but for one line
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, 1:].mean(dim=1)
        return self.head(self.pre_logits(x))
        # --- end


def reached_by_the_head(model, images):
    """The number of tokens (of T) at the last block's output that get a gradient from the logits.

    Args:
        model: a ``VisionTransformer``. images: (B, C, H, W).
    """
    kept = []
    hook = model.blocks[-1].register_forward_hook(lambda module, inputs, y: kept.append(y))
    logits = model(images)
    hook.remove()
    # --- your code: the gradient of the sum of squares of the logits at kept[0], and count
    kept[0].retain_grad()
    logits.square().sum().backward()
    return int((kept[0].grad != 0).any(dim=2).all(dim=0).sum())
    # --- end
