"""Solution: a rule of your own in transformers' generate: no run of n tokens twice.

Sizes: B texts, T tokens so far, V tokens in the vocabulary.
"""

import torch
from transformers import LogitsProcessor, LogitsProcessorList


def forbidden(tokens, n):
    """The tokens that would complete a run of n that is there already: a set.

    Args:
        tokens: a list of ints, the text so far.
    """
    # --- your code: with n = 3 and ... a b x ... a b, the token x is forbidden
    if len(tokens) < n:
        return set()
    end = tokens[len(tokens) - n + 1 :]
    runs = (tokens[i : i + n] for i in range(len(tokens) - n + 1))
    return {run[-1] for run in runs if run[:-1] == end}
    # --- end


class NoRunTwice(LogitsProcessor):
    """Forbids every token that would repeat a run of n tokens."""

    def __init__(self, n):
        if n < 1:
            raise ValueError(f"expected n of at least 1, got {n}")
        self.n = n

    def __call__(self, input_ids, scores):
        """Scores (B, V) of the next token, given the texts (B, T)."""
        # --- your code: minus infinity where a token is forbidden, in each text its own
        scores = scores.clone()
        for row, tokens in zip(scores, input_ids.tolist(), strict=True):
            row[list(forbidden(tokens, self.n))] = -torch.inf
        return scores
        # --- end


def write(model, tokens, count, n):
    """Greedy continuation by transformers' own generate, without repeated runs: (B, T + count)."""
    # --- your code: model.generate takes a list of processors
    return model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        logits_processor=LogitsProcessorList([NoRunTwice(n)]),
    )
    # --- end
