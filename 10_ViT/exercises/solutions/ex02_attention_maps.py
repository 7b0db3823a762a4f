"""Solution: what the heads of a Vision Transformer look at, and how far."""

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
    # --- your code: a forward hook on each block's attention; one pass; take the hooks off
    hooks = [
        block.attn.register_forward_hook(
            lambda module, inputs, _: maps.append(module.weights(inputs[0]))
        )
        for block in model.blocks
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    # --- end
    return maps


def class_token_maps(weights):
    """How much each head's class token looks at each patch, as pictures.

    Args:
        weights: (B, nH, T, T) of a block; token 0 is the class token.

    Returns:
        (B, nH, G, G); the entries of a picture sum to 1.
    """
    # --- your code: one row of the weights, without the class token itself
    seen = weights[:, :, 0, 1:]
    seen = seen / seen.sum(dim=-1, keepdim=True)
    G = round(seen.shape[-1] ** 0.5)
    return seen.unflatten(-1, (G, G))
    # --- end


def mean_attention_distance(weights, patch_size):
    """How many pixels away each head looks, on average (eq. 10.28), without the class token.

    Args:
        weights: (B, nH, T, T). patch_size: P.

    Returns:
        (B, nH).
    """
    patches = weights[:, :, 1:, 1:]
    G = round(patches.shape[-1] ** 0.5)
    # --- your code: the distances (G*G, G*G) of all pairs of patches, and their weighted mean
    rows, columns = torch.meshgrid(torch.arange(G), torch.arange(G), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1).to(weights)  # (G*G, 2)
    distance = patch_size * (places[:, None] - places).square().sum(dim=-1).sqrt()
    shares = patches / patches.sum(dim=-1, keepdim=True)
    return (shares * distance).sum(dim=-1).mean(dim=-1)
    # --- end
