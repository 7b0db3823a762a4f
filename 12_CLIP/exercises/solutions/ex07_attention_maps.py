"""Solution: what CLIP's image encoder looks at, from transformers' model."""

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
        # --- your code: ask for the attentions, take the last; the class token's row without itself
        with torch.no_grad():
            output = clip.vision_model(pixel_values=images, output_attentions=True)
        row = output.attentions[-1][:, :, 0, 1:].mean(dim=1)  # (B, nH, T, T) -> (B, G*G)
        row = row / row.sum(dim=-1, keepdim=True)
        G = round(row.shape[-1] ** 0.5)
        return row.unflatten(-1, (G, G))
        # --- end
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
        # --- your code: cosines of pairs, backward, and the picture without the class token
        image = clip.get_image_features(pixel_values=images).pooler_output
        text = clip.get_text_features(input_ids=tokens).pooler_output
        cosines = torch.nn.functional.cosine_similarity(image, text.detach(), dim=-1)
        cosines.sum().backward()
        (z,) = kept
        seen = (z * z.grad).sum(dim=-1)[:, 1:].relu()  # (B, T, D) -> (B, G*G)
        G = round(seen.shape[-1] ** 0.5)
        return seen.unflatten(-1, (G, G)).detach()
        # --- end
    finally:
        hook.remove()
        clip.zero_grad()
