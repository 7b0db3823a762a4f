"""Exercise: what the heads of a Vision Transformer look at, and how far."""

import torch


def collect_maps(model, images):
    """The weights of every block, without a change to the model and without ``attention_maps``.

    Args:
        model: ``vit_paper.VisionTransformer``; ``model.blocks[i].attn`` is called with
            (B, T, D), and its method ``weights`` gives (B, nH, T, T) of the same input.
        images: (B, C, H, W).

    Returns:
        list of (B, nH, T, T), first block first. No hook is left behind.
    """
    maps = []
    # TODO: a forward hook on each block's attention; one pass; take the hooks off
    raise NotImplementedError(
        "a forward hook on each block's attention; one pass; take the hooks off"
    )
    return maps


def class_token_maps(weights):
    """How much each head's class token looks at each patch, as pictures.

    Args:
        weights: (B, nH, T, T) of a block; token 0 is the class token.

    Returns:
        (B, nH, G, G); the entries of a picture sum to 1.
    """
    # TODO: one row of the weights, without the class token itself
    raise NotImplementedError("one row of the weights, without the class token itself")


def mean_attention_distance(weights, patch_size):
    """How many pixels away each head looks, on average (eq. 10.28), without the class token.

    Args:
        weights: (B, nH, T, T). patch_size: P.

    Returns:
        (B, nH).
    """
    patches = weights[:, :, 1:, 1:]
    G = round(patches.shape[-1] ** 0.5)
    # TODO: the distances (G*G, G*G) of all pairs of patches, and their weighted mean
    raise NotImplementedError(
        "the distances (G*G, G*G) of all pairs of patches, and their weighted mean"
    )
