"""Solution: a squeeze-and-excitation block in timm's ResNet (modifying production code, 1 of 3).

Hu, Shen, Sun, "Squeeze-and-Excitation Networks", 2017, arXiv:1709.01507, section 3. timm's blocks
have a place for it: the attribute ``se``, which ``BasicBlock.forward`` and ``Bottleneck.forward``
call after the last batch normalisation, unless it is None.
"""

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn


def reduced_width(channels):
    """timm's width of the middle layer: a sixteenth, rounded to a multiple of 8, at least 8."""
    return max(8, (channels // 16 + 4) // 8 * 8)


class SqueezeExcite(nn.Module):
    """Weighs each channel by a number in (0, 1) that depends on the whole image.

    squeeze: the mean of each channel over H and W; excite: ``fc1`` to ``reduced_width(channels)``,
    ReLU, ``fc2`` back, sigmoid. Both are 1x1 convolutions with a bias, as in timm, so that its
    weights fit.
    """

    def __init__(self, channels):
        super().__init__()
        # --- your code: self.fc1 and self.fc2
        self.fc1 = nn.Conv2d(channels, reduced_width(channels), 1)
        self.fc2 = nn.Conv2d(reduced_width(channels), channels, 1)
        # --- end

    def forward(self, x):
        """(B, C, H, W) -> the same shape."""
        # --- your code: squeeze, excite, and weigh x
        s = x.mean(dim=(2, 3), keepdim=True)  # (B, C, H, W) -> (B, C, 1, 1)
        s = self.fc2(torch.relu(self.fc1(s)))
        return x * s.sigmoid()
        # --- end


def add_se(model):
    """Give each block of a timm ResNet its own SqueezeExcite, in place; returns the model."""
    for block in model.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            # --- your code: how many channels come out of this block's branch?
            last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
            block.se = SqueezeExcite(last.out_channels)
            # --- end
    return model
