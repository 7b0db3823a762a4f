"""What small data need besides a Vision Transformer (level 3): changed images.

Papers: K. He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385,
section 4.2 (crops and mirror images); Z. Zhong et al., "Random Erasing Data Augmentation", 2017,
arXiv:1708.04896.

Map of this file:
    augment         random crops and mirror images, then erased parts
    random_erase    a part of an image replaced by zeros

Shapes: B batch; C, H, W channels, height, width.

Read before: vit_paper.py; 10_ViT/theory.md, section 9.

Deviations from the papers: the ViT paper has more data instead of these. Random erasing draws size
and shape of the rectangle and fills it with noise; ours is always half the sides, and zeros, which
is the mean of the prepared images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_erase(images: Tensor, share: float) -> Tensor:
    """Zeros in a part of half the height and width, somewhere in an image (B, C, H, W).

    Args:
        share: probability that an image is changed. Draws from torch's global generator.
    """
    B, _, H, W = images.shape
    h, w = H // 2, W // 2
    top = torch.randint(H - h + 1, (B, 1, 1))
    left = torch.randint(W - w + 1, (B, 1, 1))
    rows, columns = torch.arange(H).view(1, H, 1), torch.arange(W).view(1, 1, W)
    inside = (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)
    inside &= torch.rand(B, 1, 1) < share  # (B, H, W)
    return images.masked_fill(inside[:, None].to(images.device), 0.0)


def augment(images: Tensor, erase: float = 0.0, padding: int = 4) -> Tensor:
    """A random crop of each image in a frame of zeros, every second one mirrored; then erasing.

    Args:
        images: (B, C, H, W). erase: share of the images with an erased square.
    """
    B, C, H, W = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (B, 1)) + torch.arange(H)  # (B, H)
    columns = torch.randint(2 * padding + 1, (B, 1)) + torch.arange(W)
    columns = torch.where(torch.rand(B, 1) < 0.5, columns.flip(1), columns)  # (B, W)
    # One index for each axis; together they broadcast to (B, C, H, W).
    image, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(C).view(1, C, 1, 1)
    index = image, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)
    return random_erase(padded[tuple(i.to(images.device) for i in index)], erase)
