"""Solution: recall at k, where a question may have several right answers."""

import numpy as np


def rank_of_best(scores, positives):
    """How many wrong answers come before the best right one, for each question.

    Args:
        scores: (N, M), no two alike in a row. positives: bool (N, M), one True or more in each row.

    Returns:
        (N,) ints; 0 = a right answer comes first.
    """
    # --- your code: the best right score of each row, and how many scores are above it
    best = np.where(positives, scores, -np.inf).max(axis=1, keepdims=True)
    return (scores > best).sum(axis=1)
    # --- end


def recall(scores, positives, k):
    """Share of questions with a right answer among the k best; k may be larger than M."""
    # --- your code: one line with rank_of_best
    return float((rank_of_best(scores, positives) < k).mean())
    # --- end


def both_ways(images, texts, owners, k):
    """Recall at k from images to texts, and from texts to images.

    Args:
        images: (N, E), texts: (M, E), vectors of length 1.
        owners: (M,) ints, the image that each text belongs to.

    Returns:
        two numbers: image to text, text to image.
    """
    # --- your code: scores (N, M), which are right, and the transpose of both
    scores = images @ texts.T
    positives = owners[None] == np.arange(len(images))[:, None]
    return recall(scores, positives, k), recall(scores.T, positives.T, k)
    # --- end


def median_rank(scores, positives):
    """Median over the questions of the place of the best right answer, counted from 1."""
    # --- your code: rank_of_best, counted from 1
    return float(np.median(rank_of_best(scores, positives) + 1))
    # --- end
