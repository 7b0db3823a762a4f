"""Solution: several prompts for each class, on transformers' CLIPModel."""

import torch


def text_vectors(clip, tokens, mask):
    """Vectors of length 1 of token numbers: (M, T) and (M, T) -> (M, E), without a gradient.

    Args:
        clip: ``transformers.CLIPModel``. mask: 1 where a token is no padding.
    """
    # --- your code: get_text_features returns an object in version 5
    with torch.no_grad():
        output = clip.get_text_features(input_ids=tokens, attention_mask=mask)
    vectors = output.pooler_output
    return vectors / vectors.norm(dim=-1, keepdim=True)
    # --- end


def ensemble(vectors, templates):
    """Mean of each class's prompts, brought to length 1 (eqs. 12.31 and 12.32).

    Args:
        vectors: (K * templates, E), of length 1; the prompts of the first class come first.

    Returns:
        (K, E).
    """
    # --- your code: the mean over the prompts of a class, and its length
    mean = vectors.unflatten(0, (-1, templates)).mean(dim=1)
    return mean / mean.norm(dim=-1, keepdim=True)
    # --- end


def ensemble_of_probabilities(images, vectors, templates, scale):
    """The other way: softmax for each template by itself, then the mean of the probabilities.

    Args:
        images: (N, E), of length 1. vectors: as for :func:`ensemble`.

    Returns:
        (N, K). It needs as many products as there are templates.
    """
    # --- your code: cosines (N, K, templates), softmax over the classes, mean over the templates
    classes = vectors.unflatten(0, (-1, templates))  # (K, templates, E)
    cosines = torch.einsum("ne,kre->nkr", images, classes)
    return (scale * cosines).softmax(dim=1).mean(dim=2)
    # --- end
