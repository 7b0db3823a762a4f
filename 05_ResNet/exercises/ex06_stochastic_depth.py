"""Exercise: stochastic depth in timm's ResNet (modifying production code, 2 of 3).

Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", 2016, arXiv:1603.09382.
In training the branch of a block is left out at random, image by image; what remains of the block
is its shortcut. timm's blocks have a place for it: the attribute ``drop_path``.
"""

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn


class DropBranch(nn.Module):
    """In training, sets the whole branch of an image to zero with probability ``rate``.

    What is kept is divided by 1 - rate, so that the expectation stays and nothing has to be done in
    eval mode.
    """

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        """(B, C, H, W) -> the same shape."""
        # TODO: one random decision for each IMAGE, not for each number
        raise NotImplementedError("one random decision for each IMAGE, not for each number")


def rates_by_depth(count, rate):
    """The rates of ``count`` blocks, two or more: 0 for the first, then in equal steps to ``rate``.

    (The linear rule as timm has it. In the paper, block l of L has l/L of the rate, l from 1.)
    """
    # TODO: a list of count numbers
    raise NotImplementedError("a list of count numbers")


def add_stochastic_depth(model, rate):
    """Give each block of a timm ResNet its DropBranch, in place; returns the model."""
    blocks = [m for m in model.modules() if isinstance(m, BasicBlock | Bottleneck)]
    # TODO: the blocks stand in order of depth
    raise NotImplementedError("the blocks stand in order of depth")
    return model
