"""Exercise: what CLIP's image encoder looks at, from transformers' model."""

import torch


def class_token_attention(clip, images):
    """How much the class token looks at each patch in the last block, averaged over the heads.

    Args:
        clip: ``transformers.CLIPModel`` in eval mode. Its attention may be "sdpa", which never has
            the weights in its hands; "eager" has. It is put back as it was.
        images: (B, 3, H, W).

    Returns:
        (B, G, G), without a gradient; each picture sums to 1.
    """
    before = clip.vision_model.config._attn_implementation
    clip.vision_model.set_attn_implementation("eager")
    try:
        # TODO: ask for the attentions, take the last; the class token's row without itself
        raise NotImplementedError(
            "ask for the attentions, take the last; the class token's row without itself"
        )
    finally:
        clip.vision_model.set_attn_implementation(before)


def text_saliency(clip, images, tokens):
    """Which patches does an image's likeness to a text hang on: gradient times activation.

    The class token alone leaves the last block, and the patches reach it through that block's
    attention: with z (B, T, D) what ``layer_norm1`` of the last layer of
    ``clip.vision_model.encoder.layers`` gives to the attention, and c the sum over the batch of the
    cosines of image i and text i, the picture has relu(sum over D of z * dc/dz) at each patch.

    Args:
        images: (B, 3, H, W). tokens: (B, T), one text for each image.

    Returns:
        (B, G, G), without a gradient, not negative.
    """
    kept = []

    def keep(module, args, z):
        z.retain_grad()
        kept.append(z)

    norm = clip.vision_model.encoder.layers[-1].layer_norm1
    hook = norm.register_forward_hook(keep)
    try:
        # TODO: cosines of pairs, backward, and the picture without the class token
        raise NotImplementedError(
            "cosines of pairs, backward, and the picture without the class token"
        )
    finally:
        hook.remove()
        clip.zero_grad()
