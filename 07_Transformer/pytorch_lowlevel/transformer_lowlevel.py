"""The Transformer, encoder and decoder, from tensors (level 2): attention and layer norms by hand.

Paper: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, sections 3 and 5.4.
Loss, update rule and learning rate are training_lowlevel.py, the searches decoding_lowlevel.py.

Map of this file:
    TransformerConfig
    init_params                          a dict of leaf tensors
    sinusoidal_positions, layer_norm, attention, add_norm, position_wise    the parts
    encode, decode, forward              the model
    predictor                            what the searches of decoding_lowlevel.py need

Shapes: B batch; S source length, T target length; D width, nH heads, Dh = D / nH, F width of the
hidden layer, V vocabulary. Masks are bool, True = may attend.

Read before: 07_Transformer/numpy/attention_numpy.py, transformer_layers_numpy.py and
transformer_numpy.py, which write out what autograd does here.

Deviations from the paper: as at level 1 (initial weights, epsilon of the norms).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Params = dict[str, Tensor]
LAYOUTS = ("interleaved", "halves")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of an encoder-decoder; the defaults are the paper's base model.

    Args:
        vocabulary: V, shared by both languages. width: D. heads: nH. hidden: F.
        layers: in the encoder, and as many in the decoder.
        dropout: share dropped from each sub-layer's output and from the embedded sentences.
        positions: order of sines and cosines, "interleaved" (the paper) or "halves" (Marian).
        pad_id, bos_id, eos_id: the symbols for padding, beginning and end.
    """

    vocabulary: int = 37_000
    width: int = 512
    heads: int = 8
    hidden: int = 2048
    layers: int = 6
    dropout: float = 0.1
    positions: str = "interleaved"
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "heads", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.width % self.heads or self.width % 2:
            raise ValueError(
                f"expected an even width that {self.heads} heads divide, got {self.width}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")
        if self.positions not in LAYOUTS:
            raise ValueError(f"expected positions of {LAYOUTS}, got {self.positions!r}")
        special = {self.pad_id, self.bos_id, self.eos_id}
        if len(special) < 3 or not special <= set(range(self.vocabulary)):
            raise ValueError(
                f"expected three different special symbols below {self.vocabulary}, "
                f"got {self.pad_id}, {self.bos_id}, {self.eos_id}"
            )


def init_params(
    config: TransformerConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves: Glorot's rule, biases 0, gains 1, embedding N(0, 1/D).

    The numbers are drawn on the CPU, so that a seed gives the same network on every device.
    """
    V, D, F = config.vocabulary, config.width, config.hidden
    params = {"shared.weight": torch.randn(V, D, generator=generator) / math.sqrt(D)}
    for stack, attentions in (("encoder", ("self",)), ("decoder", ("self", "encoder"))):
        for i in range(config.layers):
            layer = f"{stack}.layers.{i}."
            names = [f"{kind}_attn.{x}_proj" for kind in attentions for x in ("q", "k", "v", "out")]
            shapes = dict.fromkeys(names, (D, D)) | {"fc1": (F, D), "fc2": (D, F)}
            for name, shape in shapes.items():
                bound = math.sqrt(6 / sum(shape))
                weight = (2 * torch.rand(shape, generator=generator) - 1) * bound
                params[f"{layer}{name}.weight"] = weight
                params[f"{layer}{name}.bias"] = torch.zeros(shape[0])
            for name in (*(f"{kind}_attn" for kind in attentions), "final"):
                params[f"{layer}{name}_layer_norm.weight"] = torch.ones(D)
                params[f"{layer}{name}_layer_norm.bias"] = torch.zeros(D)
    # Only now, for a tensor that asks for a gradient and is then scaled is no leaf any more.
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


# --- the parts; `name` says whose parameters, a generator means training


def sinusoidal_positions(T: int, D: int, layout: str = "interleaved") -> Tensor:
    """Sines and cosines at places 0 to T-1, float64 (eq. 7.12): (T, D)."""
    frequencies = 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    angles = torch.arange(T)[:, None] * frequencies  # (T, 1) and (D/2,) -> (T, D/2)
    both = torch.stack([angles.sin(), angles.cos()])  # (2, T, D/2)
    order = (1, 2, 0) if layout == "interleaved" else (1, 0, 2)
    return both.permute(order).reshape(T, D)


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Without a generator, x; with one, a share of zeros and the rest scaled up (eq. 2.9)."""
    if generator is None or rate == 0:
        return x
    kept = torch.rand(x.shape, generator=generator).to(x.device) >= rate
    return x * kept / (1 - rate)


def linear(x: Tensor, p: Params, name: str) -> Tensor:
    """(..., inputs) -> (..., outputs)."""
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(x: Tensor, p: Params, name: str, eps: float = 1e-5) -> Tensor:
    """Each vector (..., D) to mean 0 and variance 1, scaled, shifted (eqs. 7.15 to 7.18)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    var = centred.square().mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(var + eps) * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q kᵀ / √Dh) v (eq. 7.4), with zeros for a query that may attend to nothing.

    q: (B, nH, T, Dh). k, v: (B, nH, S, Dh). mask: broadcasts to (B, nH, T, S).
    """
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, nH, T, S)
    # A row of -inf alone would be 0/0, NaN, here and on the way back.
    empty = ~mask.any(dim=-1, keepdim=True)
    weights = scores.masked_fill(~(mask | empty), -math.inf).softmax(dim=-1)  # eq. 7.2
    return weights.masked_fill(empty, 0) @ v


def multi_head(x_q: Tensor, x_kv: Tensor, p: Params, name: str, nH: int, mask: Tensor) -> Tensor:
    """Queries from x_q (B, T, D), keys and values from x_kv (B, S, D) (eqs. 7.6 to 7.8)."""
    B, T, D = x_q.shape
    q, k, v = (
        linear(x, p, f"{name}.{kind}_proj").unflatten(-1, (nH, D // nH)).transpose(1, 2)
        for kind, x in (("q", x_q), ("k", x_kv), ("v", x_kv))
    )  # (B, T, D) -> (B, nH, T, Dh)
    y = attention(q, k, v, mask).transpose(1, 2).reshape(B, T, D)  # (B, nH, T, Dh) -> (B, T, D)
    return linear(y, p, f"{name}.out_proj")


def position_wise(x: Tensor, p: Params, name: str) -> Tensor:
    """Linear, ReLU, linear, at each position by itself (eq. 7.21): (B, T, D) -> (B, T, D)."""
    return linear(torch.relu(linear(x, p, f"{name}fc1")), p, f"{name}fc2")


def embed(
    p: Params, tokens: Tensor, config: TransformerConfig, generator: torch.Generator | None
) -> Tensor:
    """√D times the rows of the table, plus positions (eq. 7.19): (B, T) -> (B, T, D)."""
    if tokens.ndim != 2:
        raise ValueError(f"expected tokens (B, T), got {tuple(tokens.shape)}")
    x = p["shared.weight"][tokens] * math.sqrt(config.width)
    positions = sinusoidal_positions(tokens.shape[1], config.width, config.positions)
    return dropout(x + positions.to(x.dtype).to(x.device), config.dropout, generator)


# --- the model


def encode(
    p: Params, source: Tensor, config: TransformerConfig, generator: torch.Generator | None = None
) -> Tensor:
    """The memory (B, S, D) of source sentences (B, S)."""
    x, nH, rate = embed(p, source, config, generator), config.heads, config.dropout
    mask = (source != config.pad_id)[:, None, None, :]  # (B, S) -> (B, 1, 1, S)
    for name in (f"encoder.layers.{i}." for i in range(config.layers)):
        h = multi_head(x, x, p, f"{name}self_attn", nH, mask)  # eq. 7.22
        x = layer_norm(x + dropout(h, rate, generator), p, f"{name}self_attn_layer_norm")
        h = position_wise(x, p, name)
        x = layer_norm(x + dropout(h, rate, generator), p, f"{name}final_layer_norm")
    return x


def decode(
    p: Params,
    target: Tensor,
    memory: Tensor,
    source: Tensor,
    config: TransformerConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Logits (B, T, V): at t, those of what follows ``target[:, : t + 1]``, given the memory."""
    x, nH, rate = embed(p, target, config, generator), config.heads, config.dropout
    T = target.shape[1]
    mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
    memory_mask = (source != config.pad_id)[:, None, None, :]  # (B, S) -> (B, 1, 1, S)
    for name in (f"decoder.layers.{i}." for i in range(config.layers)):
        h = multi_head(x, x, p, f"{name}self_attn", nH, mask)  # eq. 7.23
        x = layer_norm(x + dropout(h, rate, generator), p, f"{name}self_attn_layer_norm")
        h = multi_head(x, memory, p, f"{name}encoder_attn", nH, memory_mask)
        x = layer_norm(x + dropout(h, rate, generator), p, f"{name}encoder_attn_layer_norm")
        h = position_wise(x, p, name)
        x = layer_norm(x + dropout(h, rate, generator), p, f"{name}final_layer_norm")
    return x @ p["shared.weight"].T  # eq. 7.24: (B, T, D) -> (B, T, V)


def forward(
    p: Params,
    source: Tensor,
    target: Tensor,
    config: TransformerConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Logits (B, T, V) of decoder inputs (B, T) for sources (B, S); dropout with a generator."""
    return decode(p, target, encode(p, source, config, generator), source, config, generator)


def predictor(
    p: Params, source: Tensor, config: TransformerConfig
) -> Callable[[Tensor, Tensor], Tensor]:
    """What a search needs: log-probabilities (N, V) after beginnings (N, T) for rows (N,)."""
    memory = encode(p, source, config)

    @torch.no_grad()
    def log_probs(beginnings: Tensor, rows: Tensor) -> Tensor:
        logits = decode(p, beginnings, memory[rows], source[rows], config)[:, -1]
        log_p = logits - logits.logsumexp(dim=-1, keepdim=True)
        log_p[:, [config.pad_id, config.bos_id]] = -math.inf  # never written
        return log_p

    return log_probs
