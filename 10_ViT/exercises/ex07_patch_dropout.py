"""Exercise: patch dropout in timm's Vision Transformer (modifying production code, 3 of 3).

Liu et al., "PatchDropout", 2022, arXiv:2208.07220: in training, leave out some of the patches. A
Transformer does not need a full grid, and fewer tokens are less work. timm's model calls the
attribute ``patch_drop`` right after the positions were added.
"""

import torch
from torch import nn


class PatchDropout(nn.Module):
    """Keeps a random part of the patches of each image in training, and all of them in use.

    Args:
        rate: share of the patches that is left out, at least 0 and below 1; at least one stays.
        prefix: tokens before the patches, which always stay.
    """

    def __init__(self, rate, prefix=1):
        super().__init__()
        self.rate, self.prefix = rate, prefix

    def forward(self, x):
        """(B, T, D) -> (B, prefix + kept, D); kept = max(1, int(N * (1 - rate))) of N patches.

        The patches that stay do so in their old order; each image draws its own.
        """
        # TODO: draw, sort, gather; and mind self.training
        raise NotImplementedError("draw, sort, gather; and mind self.training")


def add_patch_dropout(model, rate):
    """Put a PatchDropout into a timm ViT, in place; returns the model."""
    # TODO: which attribute, and how many tokens are no patches?
    raise NotImplementedError("which attribute, and how many tokens are no patches?")
    return model
