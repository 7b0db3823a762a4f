"""Exercise: recall at k, where a question may have several right answers."""

import numpy as np


def rank_of_best(scores, positives):
    """How many wrong answers come before the best right one, for each question.

    Args:
        scores: (N, M), no two alike in a row. positives: bool (N, M), one True or more in each row.

    Returns:
        (N,) ints; 0 = a right answer comes first.
    """
    # TODO: the best right score of each row, and how many scores are above it
    raise NotImplementedError("the best right score of each row, and how many scores are above it")


def recall(scores, positives, k):
    """Share of questions with a right answer among the k best; k may be larger than M."""
    # TODO: one line with rank_of_best
    raise NotImplementedError("one line with rank_of_best")


def both_ways(images, texts, owners, k):
    """Recall at k from images to texts, and from texts to images.

    Args:
        images: (N, E), texts: (M, E), vectors of length 1.
        owners: (M,) ints, the image that each text belongs to.

    Returns:
        two numbers: image to text, text to image.
    """
    # TODO: scores (N, M), which are right, and the transpose of both
    raise NotImplementedError("scores (N, M), which are right, and the transpose of both")


def median_rank(scores, positives):
    """Median over the questions of the place of the best right answer, counted from 1."""
    # TODO: rank_of_best, counted from 1
    raise NotImplementedError("rank_of_best, counted from 1")
