"""BERT from tensors (level 2): parameters in a dict, attention by hand, autograd for the way back.

Paper: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, arXiv:1810.04805, section 3.

Map of this file:
    BertConfig
    init_params, head_params              the encoder's parameters, and those of a head
    dropout, linear, layer_norm, attention, add_norm
    encode                                embeddings, layers, pooler
    forward, classify                     with the heads of pre-training, or one for K classes

Shapes: B batch, T tokens, D width, nH heads, F hidden width, V vocabulary, K classes, R chosen
tokens. Masks are bool, True = a real token, which may be attended to.

Read before: 08_BERT/numpy/bert_numpy.py; 07_Transformer/pytorch_lowlevel/transformer_lowlevel.py.

Deviations from the paper: as at level 1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
TABLE = "bert.embeddings.word_embeddings.weight"
HEAD, NEXT = "cls.predictions", "cls.seq_relationship"


@dataclass(frozen=True)
class BertConfig:
    """Sizes of BERT; the defaults are the base model's, uncased.

    Args:
        vocabulary: V. width: D. heads: nH. hidden: F. layers: L.
        longest: tokens at most, the number of learned positions. segments: kinds of segment.
        dropout: of embeddings and of what each sub-layer adds. attention_dropout: of the weights.
        activation: of the hidden layers, a key of ``ACTIVATIONS``. eps: of the layer norms.
    """

    vocabulary: int = 30_522
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    layers: int = 12
    longest: int = 512
    segments: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    eps: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "heads", "hidden", "layers", "longest", "segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"expected a width that {self.heads} heads divide, got {self.width}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"expected {name} in [0, 1), got {getattr(self, name)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"expected an activation of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )


# --- parameters: linear layers and tables N(0, 0.02²), biases 0, gains 1


def init_params(
    config: BertConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Leaves for the encoder and both heads of pre-training."""
    V, D, F_ = config.vocabulary, config.width, config.hidden
    shapes = {
        "bert.embeddings.word_embeddings": (V, D),
        "bert.embeddings.position_embeddings": (config.longest, D),
        "bert.embeddings.token_type_embeddings": (config.segments, D),
        "bert.embeddings.LayerNorm": (D,),
    }
    for i in range(config.layers):
        layer = f"bert.encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}.attention.{name}"] = (D, D)
        shapes[f"{layer}.attention.output.LayerNorm"] = (D,)
        shapes[f"{layer}.intermediate.dense"] = (F_, D)
        shapes[f"{layer}.output.dense"] = (D, F_)
        shapes[f"{layer}.output.LayerNorm"] = (D,)
    shapes["bert.pooler.dense"] = (D, D)
    shapes[f"{HEAD}.transform.dense"] = (D, D)
    shapes[f"{HEAD}.transform.LayerNorm"] = (D,)
    params = {}
    for name, shape in shapes.items():
        weight = torch.ones(shape)
        if len(shape) == 2:
            weight = 0.02 * torch.randn(shape, generator=generator)
        params[f"{name}.weight"] = weight
        if not name.endswith("_embeddings"):
            params[f"{name}.bias"] = torch.zeros(shape[0])
    params[f"{HEAD}.bias"] = torch.zeros(V)
    # Only now, for a tensor that asks for a gradient and is then scaled is no leaf any more.
    leaves = {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}
    return leaves | head_params(NEXT, 2, D, generator, dtype, device)


def head_params(
    name: str,
    classes: int,
    width: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Leaves of a linear layer on the pooled vector: weight (K, D) and bias (K,)."""
    weight = (0.02 * torch.randn(classes, width, generator=generator)).to(device, dtype)
    bias = torch.zeros(classes, dtype=dtype, device=device)
    return {f"{name}.weight": weight.requires_grad_(), f"{name}.bias": bias.requires_grad_()}


# --- the parts; `name` says whose parameters, a generator means training


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Without a generator, x; with one, a share of zeros and the rest scaled up (eq. 2.9)."""
    if generator is None or rate == 0:
        return x
    kept = torch.rand(x.shape, generator=generator).to(x.device) >= rate
    return x * kept / (1 - rate)


def linear(x: Tensor, p: Params, name: str) -> Tensor:
    """(..., inputs) -> (..., outputs)."""
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(x: Tensor, p: Params, name: str, eps: float) -> Tensor:
    """Each vector (..., D) to mean 0 and variance 1, scaled, shifted (eqs. 7.15 to 7.18)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    var = centred.square().mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(var + eps) * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(
    x: Tensor,
    p: Params,
    name: str,
    config: BertConfig,
    mask: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Self-attention in nH subspaces (eqs. 7.4 and 7.6), no last projection: (B, T, D), the same.

    ``mask`` is bool and broadcasts to (B, nH, T, T); a text without any True gets zeros.
    """
    B, T, D = x.shape
    q, k, v = (
        linear(x, p, f"{name}.{kind}").unflatten(-1, (config.heads, -1)).transpose(1, 2)
        for kind in ("query", "key", "value")
    )  # (B, T, D) -> (B, nH, T, Dh)
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, nH, T, T)
    if mask is not None:
        # A row of -inf alone would be 0/0, NaN, here and on the way back.
        empty = ~mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~(mask | empty), -math.inf)
    weights = scores.softmax(dim=-1)  # eq. 7.2
    if mask is not None:
        weights = weights.masked_fill(empty, 0)
    y = dropout(weights, config.attention_dropout, generator) @ v
    return y.transpose(1, 2).reshape(B, T, D)  # (B, nH, T, Dh) -> (B, T, D)


def add_norm(
    h: Tensor, x: Tensor, p: Params, name: str, c: BertConfig, generator: torch.Generator | None
) -> Tensor:
    """LayerNorm(x + Dropout(linear(h))) (eq. 8.3)."""
    h = dropout(linear(h, p, f"{name}.dense"), c.dropout, generator)
    return layer_norm(x + h, p, f"{name}.LayerNorm", c.eps)


# --- the model


def encode(
    p: Params,
    config: BertConfig,
    tokens: Tensor,
    segments: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The vectors of all tokens (B, T, D), and the pooled one (B, D).

    Args:
        tokens: (B, T) ints. segments: (B, T), 0 or 1; None is all 0.
        mask: (B, T) bool, False at padding. generator: draws dropout; None: none is dropped.
    """
    c, tables = config, "bert.embeddings"
    if tokens.ndim != 2 or tokens.shape[1] > c.longest:
        raise ValueError(
            f"expected tokens (B, T) with T of at most {c.longest}, got {tuple(tokens.shape)}"
        )
    segments = torch.zeros_like(tokens) if segments is None else segments
    x = p[TABLE][tokens] + p[f"{tables}.token_type_embeddings.weight"][segments]
    x = x + p[f"{tables}.position_embeddings.weight"][: tokens.shape[1]]
    x = dropout(layer_norm(x, p, f"{tables}.LayerNorm", c.eps), c.dropout, generator)  # eq. 8.1
    seen = None if mask is None else mask[:, None, None, :]  # eq. 8.2: (B, T) -> (B, 1, 1, T)
    for layer in (f"bert.encoder.layer.{i}" for i in range(c.layers)):
        h = attention(x, p, f"{layer}.attention.self", c, seen, generator)
        x = add_norm(h, x, p, f"{layer}.attention.output", c, generator)  # eq. 8.3
        h = ACTIVATIONS[c.activation](linear(x, p, f"{layer}.intermediate.dense"))
        x = add_norm(h, x, p, f"{layer}.output", c, generator)  # eq. 8.4
    return x, linear(x[:, 0], p, "bert.pooler.dense").tanh()  # eq. 8.5


def forward(
    p: Params,
    config: BertConfig,
    tokens: Tensor,
    segments: Tensor | None = None,
    mask: Tensor | None = None,
    chosen: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits of the tokens (B, T, V), or of the ``chosen`` ones (R, V), and of the pair (B, 2)."""
    x, pooled = encode(p, config, tokens, segments, mask, generator)
    x = x if chosen is None else x[chosen]
    h = ACTIVATIONS[config.activation](linear(x, p, f"{HEAD}.transform.dense"))
    h = layer_norm(h, p, f"{HEAD}.transform.LayerNorm", config.eps)  # eq. 8.6
    return h @ p[TABLE].T + p[f"{HEAD}.bias"], linear(pooled, p, NEXT)  # eqs. 8.7 and 8.10


def classify(
    p: Params, config: BertConfig, *inputs: Tensor | None, generator: torch.Generator | None = None
) -> Tensor:
    """Logits (B, K) of a text, from ``classifier``; inputs as of :func:`encode`."""
    pooled = encode(p, config, *inputs, generator=generator)[1]
    return linear(dropout(pooled, config.dropout, generator), p, "classifier")
