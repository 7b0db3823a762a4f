"""Exercise: several prompts for each class, on transformers' CLIPModel."""

import torch


def text_vectors(clip, tokens, mask):
    """Vectors of length 1 of token numbers: (M, T) and (M, T) -> (M, E), without a gradient.

    Args:
        clip: ``transformers.CLIPModel``. mask: 1 where a token is no padding.
    """
    # TODO: get_text_features returns an object in version 5
    raise NotImplementedError("get_text_features returns an object in version 5")


def ensemble(vectors, templates):
    """Mean of each class's prompts, brought to length 1 (eqs. 12.31 and 12.32).

    Args:
        vectors: (K * templates, E), of length 1; the prompts of the first class come first.

    Returns:
        (K, E).
    """
    # TODO: the mean over the prompts of a class, and its length
    raise NotImplementedError("the mean over the prompts of a class, and its length")


def ensemble_of_probabilities(images, vectors, templates, scale):
    """The other way: softmax for each template by itself, then the mean of the probabilities.

    Args:
        images: (N, E), of length 1. vectors: as for :func:`ensemble`.

    Returns:
        (N, K). It needs as many products as there are templates.
    """
    # TODO: cosines (N, K, templates), softmax over the classes, mean over the templates
    raise NotImplementedError(
        "cosines (N, K, templates), softmax over the classes, mean over the templates"
    )
