"""Exercise: a rule of your own in transformers' generate: no run of n tokens twice.

Sizes: B texts, T tokens so far, V tokens in the vocabulary.
"""

import torch
from transformers import LogitsProcessor, LogitsProcessorList


def forbidden(tokens, n):
    """The tokens that would complete a run of n that is there already: a set.

    Args:
        tokens: a list of ints, the text so far.
    """
    # TODO: with n = 3 and ... a b x ... a b, the token x is forbidden
    raise NotImplementedError("with n = 3 and ... a b x ... a b, the token x is forbidden")


class NoRunTwice(LogitsProcessor):
    """Forbids every token that would repeat a run of n tokens."""

    def __init__(self, n):
        if n < 1:
            raise ValueError(f"expected n of at least 1, got {n}")
        self.n = n

    def __call__(self, input_ids, scores):
        """Scores (B, V) of the next token, given the texts (B, T)."""
        # TODO: minus infinity where a token is forbidden, in each text its own
        raise NotImplementedError("minus infinity where a token is forbidden, in each text its own")


def write(model, tokens, count, n):
    """Greedy continuation by transformers' own generate, without repeated runs: (B, T + count)."""
    # TODO: model.generate takes a list of processors
    raise NotImplementedError("model.generate takes a list of processors")
