"""Solution: a key-value cache for the GPT of level 1, for one further token or for several at once.

Works on the model as it is. Sizes: B texts, T new tokens, S tokens with those before; keys and
values (B, nH, ..., Dh).
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from attention_numpy import (
    attention_forward,
    causal_mask,
    layer_norm_forward,
    merge_heads,
    split_heads,
)
from gpt_numpy import mlp_forward
from mlp_numpy import linear_forward
from transformer_layers_numpy import part


def empty_cache(model, batch):
    """A list with (k, v) for each block, each (B, nH, 0, Dh): nothing so far."""
    nH, D = model.config.heads, model.config.width
    none = np.zeros((batch, nH, 0, D // nH), model.params["wte.weight"].dtype)
    return [(none, none) for _ in range(model.config.layers)]


def attend(x, p, n_heads, cached):
    """Self-attention of T new tokens x (B, T, D), behind those whose (k, v) are cached.

    Args:
        p: ``c_attn.weight``, ``c_attn.bias``, ``c_proj.weight``, ``c_proj.bias``.

    Returns:
        y (B, T, D), and (k, v) of all S tokens.
    """
    T = x.shape[1]
    qkv, _ = linear_forward(x, p["c_attn.weight"], p["c_attn.bias"])
    q, k, v = (split_heads(a, n_heads) for a in np.split(qkv, 3, axis=-1))
    # --- your code: k and v of all tokens; y (B, nH, T, Dh), for which T new tokens need a mask
    k, v = (np.concatenate([old, new], axis=2) for old, new in zip(cached, (k, v), strict=True))
    y, _ = attention_forward(q, k, v, causal_mask(T, k.shape[2]))
    # --- end
    y, _ = linear_forward(merge_heads(y), p["c_proj.weight"], p["c_proj.bias"])
    return y, (k, v)


def forward_cached(model, tokens, cache):
    """Logits (B, T, V) of T further tokens (B, T); ``cache`` grows by them, in place."""
    p, T = model.params, tokens.shape[1]
    # --- your code: x (B, T, D), the embedded tokens at their places in the whole text
    before = cache[0][0].shape[2]
    x = p["wte.weight"][tokens] + p["wpe.weight"][before : before + T]
    # --- end
    for i in range(model.config.layers):
        own = part(p, f"h.{i}.")
        # --- your code: x through block i, pre-norm (eq. 9.10), with the cache
        h, _ = layer_norm_forward(x, own["ln_1.weight"], own["ln_1.bias"])
        h, cache[i] = attend(h, part(own, "attn."), model.config.heads, cache[i])
        x = x + h
        h, _ = layer_norm_forward(x, own["ln_2.weight"], own["ln_2.bias"])
        x = x + mlp_forward(h, part(own, "mlp."))[0]
        # --- end
    x, _ = layer_norm_forward(x, p["ln_f.weight"], p["ln_f.bias"])
    return x @ p["wte.weight"].T


def write_greedily(model, tokens, count):
    """Go on after ``tokens`` (B, T) by ``count`` tokens, each computed once: (B, T + count)."""
    cache = empty_cache(model, len(tokens))
    new = tokens
    for _ in range(count):
        # --- your code: only what is not in the cache yet goes in; then the most probable token
        logits = forward_cached(model, new, cache)
        new = logits[:, -1].argmax(axis=-1)[:, None]
        # --- end
        tokens = np.concatenate([tokens, new], axis=1)
    return tokens
