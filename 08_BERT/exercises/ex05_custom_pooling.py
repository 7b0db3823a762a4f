"""Exercise: other ways to one vector for a text (modifying production code, 1 of 3).

Reimers, Gurevych, "Sentence-BERT", 2019, arXiv:1908.10084, section 3: the mean of all vectors is a
better vector of a sentence than that of [CLS].
"""

import torch
from torch import nn


def mean_pool(vectors, mask):
    """Mean of the vectors (B, T, D) of real tokens, mask (B, T) of 1 and 0: (B, D)."""
    # TODO: padding counts neither in the sum nor in the number
    raise NotImplementedError("padding counts neither in the sum nor in the number")


def max_pool(vectors, mask):
    """Largest value of each feature among the real tokens: (B, T, D) -> (B, D)."""
    # TODO: padding must not win, though all real values may be negative
    raise NotImplementedError("padding must not win, though all real values may be negative")


class PooledClassifier(nn.Module):
    """transformers' encoder, pooled by one of these functions, and a linear layer.

    Args:
        bert: a ``transformers.BertModel``, which may have been built without a pooler.
        classes: K. pool: ``mean_pool`` or ``max_pool``.

    Attributes:
        bert; classifier: a linear layer from the width of ``bert.config`` to K.
    """

    def __init__(self, bert, classes, pool=mean_pool):
        super().__init__()
        self.bert, self.pool = bert, pool
        # TODO: self.classifier
        raise NotImplementedError("self.classifier")

    def forward(self, input_ids, attention_mask):
        """Logits (B, K) of token numbers (B, T) and a mask (B, T) of 1 and 0."""
        # TODO: the encoder's last vectors, pooled, classified
        raise NotImplementedError("the encoder's last vectors, pooled, classified")
