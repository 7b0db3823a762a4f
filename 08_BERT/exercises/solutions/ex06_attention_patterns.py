"""Solution: what do the heads look at? (modifying production code, 2 of 3)

Clark, Khandelwal, Levy, Manning, "What Does BERT Look At?", 2019, arXiv:1906.04341, section 3: many
heads of BERT look at the token before, at the next one, or at [SEP].
"""

import torch

from utils.visualization import plot_attention


def attention_of(model, input_ids, attention_mask):
    """All attention weights of a ``transformers.BertModel``: (L, B, nH, T, T).

    The model must not have been made with sdpa, which never holds the weights in one piece.
    """
    # --- your code: ask the model for them, without gradients, in eval mode
    model.eval()
    with torch.no_grad():
        out = model(input_ids=input_ids, attention_mask=attention_mask, output_attentions=True)
    return torch.stack(out.attentions)
    # --- end


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
    # --- your code: for each pattern, which queries count (B, T), and which key each looks at (T,)
    patterns = {
        "self": (real, place),
        "previous": (real & (place > 0), place - 1),
        "next": (has_next, place + 1),
        "first": (real, torch.zeros_like(place)),
    }
    # --- end
    shares = {}
    for name, (queries, keys) in patterns.items():
        weights = attention[..., place, keys.clamp(0, T - 1)]  # (L, B, nH, T)
        # --- your code: the mean over the queries that count, of all texts together: (L, nH)
        counted = weights * queries[None, :, None, :]
        shares[name] = counted.sum(dim=(1, 3)) / queries.sum()
        # --- end
    return shares


def draw_best_head(attention, shares, pattern, tokens, path):
    """Picture of the head with the largest share of a pattern, for the first text.

    Args:
        tokens: (T,) texts of the tokens. path: where to save it.

    Returns:
        (layer, head) of that head.
    """
    # --- your code: which layer and which head?
    layer, head = divmod(int(shares[pattern].argmax()), shares[pattern].shape[1])
    # --- end
    weights = attention[layer, 0, head]
    plot_attention(weights, tokens, tokens, title=f"layer {layer}, head {head}", path=path)
    return layer, head
