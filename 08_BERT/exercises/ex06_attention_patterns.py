"""Exercise: what do the heads look at? (modifying production code, 2 of 3)

Clark, Khandelwal, Levy, Manning, "What Does BERT Look At?", 2019, arXiv:1906.04341, section 3: many
heads of BERT look at the token before, at the next one, or at [SEP].
"""

import torch

from utils.visualization import plot_attention


def attention_of(model, input_ids, attention_mask):
    """All attention weights of a ``transformers.BertModel``: (L, B, nH, T, T).

    The model must not have been made with sdpa, which never holds the weights in one piece.
    """
    # TODO: ask the model for them, without gradients, in eval mode
    raise NotImplementedError("ask the model for them, without gradients, in eval mode")


def pattern_shares(attention, mask):
    """How much of its weight each head gives to itself, the token before, the next, the first.

    Args:
        attention: (L, B, nH, T, T). mask: (B, T) of 1 and 0; queries at padding do not count, nor
            does the first query for "previous" and the last real one for "next": they have none.

    Returns:
        {"self": (L, nH), "previous": ..., "next": ..., "first": ...}, means over those queries.
    """
    real = mask.bool()
    T = mask.shape[1]
    place = torch.arange(T)
    has_next = real & torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)
    # TODO: for each pattern, which queries count (B, T), and which key each looks at (T,)
    raise NotImplementedError(
        "for each pattern, which queries count (B, T), and which key each looks at (T,)"
    )
    shares = {}
    for name, (queries, keys) in patterns.items():
        weights = attention[..., place, keys.clamp(0, T - 1)]  # (L, B, nH, T)
        # TODO: the mean over the queries that count, of all texts together: (L, nH)
        raise NotImplementedError(
            "the mean over the queries that count, of all texts together: (L, nH)"
        )
    return shares


def draw_best_head(attention, shares, pattern, tokens, path):
    """Picture of the head with the largest share of a pattern, for the first text.

    Args:
        tokens: (T,) texts of the tokens. path: where to save it.

    Returns:
        (layer, head) of that head.
    """
    # TODO: which layer and which head?
    raise NotImplementedError("which layer and which head?")
    weights = attention[layer, 0, head]
    plot_attention(weights, tokens, tokens, title=f"layer {layer}, head {head}", path=path)
    return layer, head
