"""Exercise: a classifier made of words."""

import numpy as np


def class_weights(encode, names, template):
    """One vector of length 1 for each class (section 9 of the theory, with a single template).

    Args:
        encode: list of M texts -> (M, E), vectors of any length.
        names: K class names. template: such as "a photo of a {}.".

    Returns:
        (K, E), rows of length 1.
    """
    # TODO: fill the template with each name, encode, bring to length 1
    raise NotImplementedError("fill the template with each name, encode, bring to length 1")


def probabilities(images, weights, scale):
    """Softmax over the classes of scaled cosines.

    Args:
        images: (N, E), vectors of any length. weights: (K, E), of length 1. scale: positive.

    Returns:
        (N, K), rows that sum to 1.
    """
    # TODO: cosines, times the scale, softmax over the classes that does not overflow
    raise NotImplementedError(
        "cosines, times the scale, softmax over the classes that does not overflow"
    )


def top_classes(p, names, k):
    """The k most probable names of each image, best first; of equal ones, the first in ``names``.

    Args:
        p: (N, K). names: K names.

    Returns:
        list of N lists of k names.
    """
    # TODO: sort each row
    raise NotImplementedError("sort each row")
