"""Solution: layer scale in timm's Vision Transformer (modifying production code, 1 of 3).

Touvron et al., "Going deeper with Image Transformers", 2021, arXiv:2103.17239, section 2. timm's
blocks have a place for it: the attributes ``ls1`` and ``ls2``, which ``Block.forward`` calls on the
results of the two branches; they are ``nn.Identity`` when it is off.
"""

import torch
from timm.models.vision_transformer import Block
from torch import nn


class LayerScale(nn.Module):
    """Multiplies each of the D features by a number of its own, all ``initial`` at first.

    The numbers are the parameter ``gamma`` (D,), as in timm, so that its weights fit.
    """

    def __init__(self, width, initial):
        super().__init__()
        # --- your code: self.gamma
        self.gamma = nn.Parameter(initial * torch.ones(width))
        # --- end

    def forward(self, x):
        """(B, T, D) -> the same shape."""
        # --- your code: scale
        return x * self.gamma
        # --- end


def add_layer_scale(model, initial=1e-5):
    """Give both branches of each block of a timm ViT their own LayerScale, in place."""
    for block in model.modules():
        if isinstance(block, Block):
            # --- your code: how wide is this block?
            width = block.norm1.normalized_shape[0]
            block.ls1 = LayerScale(width, initial)
            block.ls2 = LayerScale(width, initial)
            # --- end
    return model
