"""Solution: a key-value cache, so that one more symbol costs one position instead of all of them.

Works on the Transformer of level 1 as it is. Sizes: B sentences, S source length, t symbols so far;
keys and values (B, nH, ..., Dh).
"""

import math

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from attention_numpy import (
    attention_forward,
    merge_heads,
    padding_mask,
    sinusoidal_positions,
    split_heads,
)
from mlp_numpy import linear_forward
from transformer_layers_numpy import add_norm_forward, part, position_wise_forward

NO_DROPOUT = (0.0, None, False)


def project(x, p, name, n_heads):
    """Queries, keys or values of x (B, T, D): (B, nH, T, Dh). ``name``: q_proj, k_proj, v_proj."""
    y, _ = linear_forward(x, p[f"{name}.weight"], p[f"{name}.bias"])
    return split_heads(y, n_heads)


def attend(x, k, v, p, n_heads, mask=None):
    """Attention of x (B, T, D) to keys and values that are there already: (B, T, D)."""
    y, _ = attention_forward(project(x, p, "q_proj", n_heads), k, v, mask)
    y, _ = linear_forward(merge_heads(y), p["out_proj.weight"], p["out_proj.bias"])
    return y


def layer_params(model, i):
    """The parameters of decoder layer i, by their names within the layer."""
    return part(model.params, f"decoder.layers.{i}.")


def start_cache(model, source):
    """What is known before the first symbol is written.

    Returns:
        a dict: ``layers``, for each decoder layer a dict of ``k``, ``v`` (B, nH, 0, Dh), its own
        keys and values, none so far, and ``memory_k``, ``memory_v`` (B, nH, S, Dh), those of the
        encoder's output; ``mask``, that of the source; ``length``, 0.
    """
    nH, memory = model.config.heads, model.encode(source)
    none = np.zeros((len(source), nH, 0, model.config.width // nH), memory.dtype)
    layers = []
    for i in range(model.config.layers):
        p = part(layer_params(model, i), "encoder_attn.")
        # --- your code: memory_k and memory_v, once for the whole translation
        memory_k = project(memory, p, "k_proj", nH)
        memory_v = project(memory, p, "v_proj", nH)
        # --- end
        layers.append({"k": none, "v": none, "memory_k": memory_k, "memory_v": memory_v})
    return {"layers": layers, "mask": padding_mask(source, model.config.pad_id), "length": 0}


def decode_step(model, cache, symbols):
    """Logits (B, V) of what follows one more symbol (B,); the cache grows by one position."""
    D, nH, t = model.config.width, model.config.heads, cache["length"]
    table = model.params["shared.weight"]
    # --- your code: the embedding x (B, 1, D) of the new symbols alone, at their position
    positions = sinusoidal_positions(t + 1, D, model.config.positions, table.dtype)
    x = math.sqrt(D) * table[symbols][:, None] + positions[t]
    # --- end
    for i, layer in enumerate(cache["layers"]):
        p = layer_params(model, i)
        own = part(p, "self_attn.")
        # --- your code: the new position's k and v join the layer's; then h, self-attention of x
        layer["k"] = np.concatenate([layer["k"], project(x, own, "k_proj", nH)], axis=2)
        layer["v"] = np.concatenate([layer["v"], project(x, own, "v_proj", nH)], axis=2)
        h = attend(x, layer["k"], layer["v"], own, nH)
        # --- end
        x, _ = add_norm_forward(x, h, part(p, "self_attn_layer_norm."), NO_DROPOUT)
        # --- your code: h, attention of x to the encoder's output
        other = part(p, "encoder_attn.")
        h = attend(x, layer["memory_k"], layer["memory_v"], other, nH, cache["mask"])
        # --- end
        x, _ = add_norm_forward(x, h, part(p, "encoder_attn_layer_norm."), NO_DROPOUT)
        h, _ = position_wise_forward(x, p)
        x, _ = add_norm_forward(x, h, part(p, "final_layer_norm."), NO_DROPOUT)
    cache["length"] += 1
    return x[:, 0] @ table.T  # (B, 1, D) -> (B, V)


def greedy_with_cache(model, source, limit):
    """Greedy translations (B, T), T up to ``limit``, of sources (B, S); after an end, anything."""
    cache = start_cache(model, source)
    symbols, found = np.full(len(source), model.config.bos_id), []
    ended = np.zeros(len(source), dtype=bool)
    while len(found) < limit and not ended.all():
        logits = decode_step(model, cache, symbols)
        logits[:, [model.config.pad_id, model.config.bos_id]] = -np.inf
        symbols = logits.argmax(axis=1)
        found.append(symbols)
        ended |= symbols == model.config.eos_id
    return np.stack(found, axis=1)
