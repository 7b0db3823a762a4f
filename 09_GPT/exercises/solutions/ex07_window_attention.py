"""Solution: another attention for transformers' GPT-2: a window over the last tokens.

As in I. Beltagy et al., "Longformer", 2020, arXiv:2004.05150, section 3.1, but causal. Sizes: query
(B, nH, T, Dh), key and value (B, nH, S, Dh), S = T without a cache.
"""

import torch
from transformers import AttentionInterface

NAME = "window"  # what attn_implementation calls it


def window_mask(T, S, window, device=None):
    """True where query t may look, (T, S): at itself and the window - 1 tokens before it.

    The queries are the last T of S places.
    """
    # --- your code: the place of each query among the S, and the distance to each key
    places = torch.arange(S - T, S, device=device)[:, None]
    distance = places - torch.arange(S, device=device)
    return (distance >= 0) & (distance < window)
    # --- end


def window_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs
):
    """Attention as transformers wants it; the window is ``module.config.window``.

    Returns:
        the result (B, T, nH, Dh), heads not merged yet, and the weights (B, nH, T, S).
    """
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    # --- your code: scores, mask, softmax, dropout of the weights, values
    scores = query @ key.mT * scaling
    mask = window_mask(query.shape[2], key.shape[2], module.config.window, query.device)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    weights = torch.nn.functional.dropout(weights, dropout, module.training)
    y = (weights @ value).transpose(1, 2).contiguous()
    # --- end
    return y, weights


def use_window(model, window):
    """Let a GPT2LMHeadModel attend in windows, and return it."""
    # --- your code: enter the function under NAME, tell the config the window, switch over
    AttentionInterface.register(NAME, window_attention)
    model.config.window = window
    model.set_attn_implementation(NAME)
    return model
    # --- end
