"""Attention rollout (level 3): how much of the output comes from which patch.

Papers: S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", 2020, arXiv:2005.00928,
section 3; A. Dosovitskiy et al., 2020, arXiv:2010.11929, appendix D.8, which makes its Fig. 6 so.

Map of this file:
    attention_rollout    mixes the maps of all layers into one
    seen_of_patches      what the head has seen of each patch, as a picture

Shapes: B batch; nH heads; T tokens, the class token first; G patches along a side.

Read before: vit_paper.py (``attention_maps``); 10_ViT/theory.md, section 11.

Deviations from the papers: none. The second does not say how it counts the shortcut; here it is as
in the first.
"""

import torch
from torch import Tensor


def attention_rollout(maps: list[Tensor]) -> Tensor:
    """How much each token's output is made of each token's input (eqs. 10.26 and 10.27).

    Args:
        maps: the weights (B, nH, T, T) of every layer, the first layer first.

    Returns:
        (B, T, T); each row sums to 1.

    Raises:
        ValueError: no maps, or maps of another shape.
    """
    if not maps or any(m.ndim != 4 or m.shape != maps[0].shape for m in maps):
        raise ValueError(f"expected maps (B, nH, T, T), got {[tuple(m.shape) for m in maps]}")
    same = torch.eye(maps[0].shape[-1]).to(maps[0])
    total = same
    for weights in maps:
        # Half of what leaves a layer came along the shortcut.
        total = (0.5 * weights.mean(dim=1) + 0.5 * same) @ total
    return total


def seen_of_patches(rollout: Tensor, class_token: bool = True) -> Tensor:
    """How much of each patch has reached the head, largest value 1: (B, T, T) -> (B, G, G).

    Args:
        class_token: the head sees the first token; otherwise the mean of all.
    """
    seen = rollout[:, 0, 1:] if class_token else rollout.mean(dim=1)  # (B, G*G)
    G = round(seen.shape[1] ** 0.5)
    return (seen / seen.amax(dim=1, keepdim=True)).view(-1, G, G)
