"""Solution: other ways to one vector for a text (modifying production code, 1 of 3).

Reimers, Gurevych, "Sentence-BERT", 2019, arXiv:1908.10084, section 3: the mean of all vectors is a
better vector of a sentence than that of [CLS].
"""

import torch
from torch import nn


def mean_pool(vectors, mask):
    """Mean of the vectors (B, T, D) of real tokens, mask (B, T) of 1 and 0: (B, D)."""
    # --- your code: padding counts neither in the sum nor in the number
    weights = mask[..., None].to(vectors.dtype)
    return (vectors * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    # --- end


def max_pool(vectors, mask):
    """Largest value of each feature among the real tokens: (B, T, D) -> (B, D)."""
    # --- your code: padding must not win, though all real values may be negative
    return vectors.masked_fill(mask[..., None] == 0, -torch.inf).amax(dim=1)
    # --- end


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
        # --- your code: self.classifier
        self.classifier = nn.Linear(bert.config.hidden_size, classes)
        # --- end

    def forward(self, input_ids, attention_mask):
        """Logits (B, K) of token numbers (B, T) and a mask (B, T) of 1 and 0."""
        # --- your code: the encoder's last vectors, pooled, classified
        out = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        return self.classifier(self.pool(out.last_hidden_state, attention_mask))
        # --- end
