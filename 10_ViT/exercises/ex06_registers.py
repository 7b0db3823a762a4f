"""Exercise: register tokens in timm's Vision Transformer (modifying production code, 2 of 3).

Darcet et al., "Vision Transformers Need Registers", 2023, arXiv:2309.16588: a few more learnt
tokens that stand for no patch and that nobody reads at the end. Without them large models write
notes into patches of empty background, which shows in the maps.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn


class RegisterViT(VisionTransformer):
    """timm's model with ``registers`` tokens between the class token and the patches.

    The new parameter is ``reg_token`` (1, registers, D). Registers have no positions, so all old
    weights keep their shapes.
    """

    def __init__(self, registers=4, **options):
        super().__init__(**options)
        # TODO: the parameter, of normal numbers with standard deviation 1e-6
        raise NotImplementedError("the parameter, of normal numbers with standard deviation 1e-6")
        self.registers = registers

    def forward_features(self, x, attn_mask=None, is_causal=False):
        """(B, C, H, W) -> (B, T + registers, D): class token, registers, patches.

        The two further arguments are timm's, for masks; here there are none.
        """
        x = self.patch_embed(x)
        x = self._pos_embed_of_patches_and_class_token(x)
        # TODO: put the registers in after the class token, then the blocks and the norm
        raise NotImplementedError(
            "put the registers in after the class token, then the blocks and the norm"
        )

    def _pos_embed_of_patches_and_class_token(self, x):
        # (B, G*G, D) -> (B, 1 + G*G, D), as timm's own _pos_embed does by default
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.pos_drop(x + self.pos_embed)

    def pool(self, x, pool_type=None):
        """What the head sees, (B, D): the class token, or with "avg" the mean of the patches."""
        kind = self.global_pool if pool_type is None else pool_type
        # TODO: neither kind may look at the registers
        raise NotImplementedError("neither kind may look at the registers")
