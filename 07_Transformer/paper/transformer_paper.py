"""The Transformer (level 3): the encoder-decoder of "Attention Is All You Need", base and big.

Paper: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3 and
Table 3.

Map of this file:
    TransformerConfig                   base() and big(), Table 3
    sinusoidal_positions                section 3.5
    MultiHeadAttention                  section 3.2
    EncoderLayer, DecoderLayer, Stack   section 3.1, with the network of section 3.3
    Transformer                         section 3.4: one table for both languages and the output
    convert_marian_state_dict           weights of transformers' MarianMTModel

Sections 5 and 6 are beside this file: training_paper.py (loss, optimiser, averaging) and
decoding_paper.py (the searches).

Shapes: B batch; S source length, T target length; D width, nH heads, Dh = D / nH, F width of the
hidden layer, V vocabulary. Masks are bool, True = may attend.

Read before: 07_Transformer/numpy/transformer_numpy.py,
07_Transformer/pytorch_lowlevel/transformer_lowlevel.py; 07_Transformer/theory.md.

Deviations from the paper: it does not say how weights start, nor the epsilon of the layer norms;
here Glorot's rule, a standard deviation of 1/√D for the table, and PyTorch's 1e-5.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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

    @classmethod
    def base(cls, **options: object) -> "TransformerConfig":
        """Table 3's base model."""
        return cls(**options)

    @classmethod
    def big(cls, **options: object) -> "TransformerConfig":
        """Table 3's big model; for English to French the paper took a dropout of 0.1."""
        return cls(**{"width": 1024, "heads": 16, "hidden": 4096, "dropout": 0.3} | options)


def sinusoidal_positions(T: int, D: int, layout: str = "interleaved") -> Tensor:
    """Sines and cosines at places 0 to T-1, float64 (eq. 7.12): (T, D)."""
    frequencies = 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    angles = torch.arange(T)[:, None] * frequencies  # (T, 1) and (D/2,) -> (T, D/2)
    both = torch.stack([angles.sin(), angles.cos()])  # (2, T, D/2)
    order = (1, 2, 0) if layout == "interleaved" else (1, 0, 2)
    return both.permute(order).reshape(T, D)


class MultiHeadAttention(nn.Module):
    """Section 3.2: softmax(Q Kᵀ / √Dh) V in nH subspaces (eqs. 7.4 and 7.6 to 7.8)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D, self.heads = config.width, config.heads
        self.q_proj, self.k_proj = nn.Linear(D, D), nn.Linear(D, D)
        self.v_proj, self.out_proj = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x_q: Tensor, x_kv: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries from x_q (B, T, D), keys and values from x_kv (B, S, D).

        Args:
            mask: bool, broadcasts to (B, nH, T, S); a query without any True gets zeros.

        Returns:
            (B, T, D), and the weights (B, nH, T, S).
        """
        B, T, D = x_q.shape
        pairs = ((self.q_proj, x_q), (self.k_proj, x_kv), (self.v_proj, x_kv))
        # (B, T, D) -> (B, nH, T, Dh)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, x in pairs)
        scores = q @ k.mT / math.sqrt(D // self.heads)  # (B, nH, T, S)
        # A row of -inf alone would be 0/0, NaN, here and on the way back.
        empty = ~mask.any(dim=-1, keepdim=True)
        weights = scores.masked_fill(~(mask | empty), -math.inf).softmax(dim=-1)
        weights = weights.masked_fill(empty, 0)
        y = (weights @ v).transpose(1, 2).reshape(B, T, D)  # (B, nH, T, Dh) -> (B, T, D)
        return self.out_proj(y), weights


class EncoderLayer(nn.Module):
    """Section 3.1: self-attention and a position-wise network, each in LayerNorm(x + ...)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D, F = config.width, config.hidden
        self.self_attn = MultiHeadAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(D)
        self.fc1, self.fc2 = nn.Linear(D, F), nn.Linear(F, D)
        self.final_layer_norm = nn.LayerNorm(D)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D) (eq. 7.22)."""
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, x, mask)[0]))
        return self.final_layer_norm(x + self.dropout(self.fc2(self.fc1(x).relu())))


class DecoderLayer(EncoderLayer):
    """The same with attention to the encoder's output between the two (section 3.1)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.encoder_attn = MultiHeadAttention(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), looking at the memory (B, S, D) (eq. 7.23)."""
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, x, mask)[0]))
        h, _ = self.encoder_attn(x, memory, memory_mask)
        x = self.encoder_attn_layer_norm(x + self.dropout(h))
        return self.final_layer_norm(x + self.dropout(self.fc2(self.fc1(x).relu())))


class Stack(nn.Module):
    """Layers one above the other; no layer norm after the last, for it ends in one."""

    def __init__(self, kind: type[EncoderLayer], config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(kind(config) for _ in range(config.layers))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); ``context`` goes to every layer."""
        for layer in self.layers:
            x = layer(x, *context)
        return x


class Transformer(nn.Module):
    """Encoder, decoder, and one table for source, target and output (section 3.4).

    The names of the state are those of transformers' MarianMTModel, without its ``model.``.
    """

    def __init__(self, config: TransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config or TransformerConfig()
        self.shared = nn.Embedding(self.config.vocabulary, self.config.width)
        self.encoder = Stack(EncoderLayer, self.config)
        self.decoder = Stack(DecoderLayer, self.config)
        self.dropout = nn.Dropout(self.config.dropout)
        nn.init.normal_(self.shared.weight, std=self.config.width**-0.5)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def embed(self, tokens: Tensor) -> Tensor:
        """√D times the rows of the table, plus positions (eq. 7.19): (B, T) -> (B, T, D)."""
        if tokens.ndim != 2:
            raise ValueError(f"expected tokens (B, T), got {tuple(tokens.shape)}")
        D = self.config.width
        x = self.shared(tokens) * math.sqrt(D)
        positions = sinusoidal_positions(tokens.shape[1], D, self.config.positions)
        return self.dropout(x + positions.to(x.dtype).to(x.device))

    def encode(self, source: Tensor) -> Tensor:
        """The memory (B, S, D) of source sentences (B, S)."""
        return self.encoder(self.embed(source), self.padding_mask(source))

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """Logits (B, T, V): at t, those of what follows ``target[:, : t + 1]``, given the memory.

        Padding of the target needs no mask: it comes after all that is real, where no real position
        looks.
        """
        T = target.shape[1]
        causal = torch.ones(T, T, dtype=torch.bool, device=target.device).tril()  # eq. 7.9
        x = self.decoder(self.embed(target), causal, memory, self.padding_mask(source))
        return x @ self.shared.weight.T  # eq. 7.24: (B, T, D) -> (B, T, V)

    def padding_mask(self, source: Tensor) -> Tensor:
        """True at what is no padding (eq. 7.10): (B, S) -> (B, 1, 1, S)."""
        return (source != self.config.pad_id)[:, None, None, :]

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (B, T, V) of decoder inputs (B, T) for sources (B, S)."""
        return self.decode(target, self.encode(source), source)

    @torch.no_grad()
    def attention_maps(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Weights (B, nH, T, S) of every attention, by name: ``decoder.layers.0.encoder_attn``, ...

        Call ``eval()`` before, or they are those of a pass with dropout.
        """
        maps: dict[str, Tensor] = {}
        hooks = [  # PyTorch calls a hook after its module, with what went in and what came out
            layer.register_forward_hook(lambda _, __, y, name=name: maps.update({name: y[1]}))
            for name, layer in self.named_modules()
            if isinstance(layer, MultiHeadAttention)
        ]
        self(source, target)
        for hook in hooks:
            hook.remove()
        return maps

    def predictor(self, source: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """What a search needs: log-probabilities (N, V) after beginnings (N, T) for rows (N,)."""
        with torch.no_grad():
            memory = self.encode(source)

        @torch.no_grad()
        def log_probs(beginnings: Tensor, rows: Tensor) -> Tensor:
            log_p = self.decode(beginnings, memory[rows], source[rows])[:, -1].log_softmax(dim=-1)
            log_p[:, [self.config.pad_id, self.config.bos_id]] = -math.inf  # never written
            return log_p

        return log_probs


# --- weights


def convert_marian_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the weights of transformers' MarianMTModel; needs ``positions="halves"``.

    Raises:
        ValueError: the model has an output bias, or several tables; the paper's has neither.
    """
    kept = {name.removeprefix("model."): value for name, value in state.items()}
    bias = kept.pop("final_logits_bias", None)
    if bias is not None and bias.any():
        raise ValueError("expected final_logits_bias of zeros, got others: the paper has no bias")
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        table = kept.pop(name, kept["shared.weight"])
        if not torch.equal(table, kept["shared.weight"]):
            raise ValueError(f"expected one shared table, got another as {name}")
    return {name: value for name, value in kept.items() if "embed_positions" not in name}
