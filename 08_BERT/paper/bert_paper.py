"""BERT (level 3): the encoder of base and large, and published weights for it.

Paper: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, arXiv:1810.04805, section 3.

Map of this file:
    BertConfig                        base() and large()
    Embeddings                        Figure 2
    SelfAttention, AddNorm, Layer     the encoder layer of "Attention Is All You Need", with GELU
    BertModel                         the encoder, and the pooled vector of [CLS]
    initialise
    convert_transformers_state_dict, from_pretrained

Beside this file: heads_paper.py (what is put on the encoder, to pre-train it and to fine-tune it)
and pretraining_paper.py (losses, optimiser, schedule).

Shapes: B batch, T tokens, D width, nH heads, Dh = D / nH, F hidden width, V vocabulary. Masks are
bool, True = a real token, which may be attended to.

Read before: 07_Transformer/paper/transformer_paper.py; 08_BERT/numpy/bert_numpy.py,
08_BERT/pytorch_lowlevel/bert_lowlevel.py; 08_BERT/theory.md.

Deviations from the paper: it does not say how weights start, nor the epsilon of the layer norms;
here as in the authors' program N(0, 0.02²) and 1e-12, but the normal distribution is not cut off.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


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

    @classmethod
    def base(cls, **options: object) -> "BertConfig":
        """12 layers of width 768."""
        return cls(**options)

    @classmethod
    def large(cls, **options: object) -> "BertConfig":
        """24 layers of width 1024."""
        return cls(**{"width": 1024, "heads": 16, "hidden": 4096, "layers": 24} | options)


class Embeddings(nn.Module):
    """Figure 2: token, segment and position, each from a learned table, summed (eq. 8.1)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.width
        self.word_embeddings = nn.Embedding(config.vocabulary, D)
        self.position_embeddings = nn.Embedding(config.longest, D)
        self.token_type_embeddings = nn.Embedding(config.segments, D)
        self.LayerNorm = nn.LayerNorm(D, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        """(B, T) ints -> (B, T, D)."""
        longest = len(self.position_embeddings.weight)
        if tokens.ndim != 2 or tokens.shape[1] > longest:
            raise ValueError(
                f"expected tokens (B, T) with T of at most {longest}, got {tuple(tokens.shape)}"
            )
        segments = torch.zeros_like(tokens) if segments is None else segments
        x = self.word_embeddings(tokens) + self.token_type_embeddings(segments)
        x = x + self.position_embeddings.weight[: tokens.shape[1]]  # the same for every text
        return self.dropout(self.LayerNorm(x))


class SelfAttention(nn.Module):
    """softmax(Q Kᵀ / √Dh) V in nH subspaces (eqs. 7.4 and 7.6), without the last projection."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D, self.heads = config.width, config.heads
        self.query, self.key, self.value = (nn.Linear(D, D) for _ in range(3))
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, D), and the weights (B, nH, T, T).

        ``mask`` is bool and broadcasts to (B, nH, T, T); a text without any True gets zeros.
        """
        B, T, D = x.shape
        # (B, T, D) -> (B, nH, T, Dh)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.mT / math.sqrt(D // self.heads)  # (B, nH, T, T)
        if mask is not None:
            # A row of -inf alone would be 0/0, NaN, here and on the way back.
            empty = ~mask.any(dim=-1, keepdim=True)
            scores = scores.masked_fill(~(mask | empty), -math.inf)
        weights = scores.softmax(dim=-1)
        if mask is not None:
            weights = weights.masked_fill(empty, 0)
        y = self.dropout(weights) @ v
        return y.transpose(1, 2).reshape(B, T, D), weights  # (B, nH, T, Dh) -> (B, T, D)


class AddNorm(nn.Module):
    """LayerNorm(x + Dropout(linear(h))), the end of each sub-layer (eq. 8.3)."""

    def __init__(self, inputs: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(x + self.dropout(self.dense(h)))


class Layer(nn.Module):
    """Self-attention, then two linear layers with GELU between them (eqs. 8.3 and 8.4)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.width
        parts = {"self": SelfAttention(config), "output": AddNorm(D, config)}
        self.attention = nn.ModuleDict(parts)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(D, config.hidden)})
        self.output = AddNorm(config.hidden, config)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.attention["output"](self.attention["self"](x, mask)[0], x)
        return self.output(self.activation(self.intermediate["dense"](x)), x)


class BertModel(nn.Module):
    """The encoder, and over it the pooled vector of [CLS].

    The names of the state are those of transformers' BertModel.

    Args:
        pooler: without it, no pooled vector: heads that look at every token need none.
    """

    def __init__(self, config: BertConfig | None = None, pooler: bool = True) -> None:
        super().__init__()
        self.config = config or BertConfig()
        D = self.config.width
        self.activation = ACTIVATIONS[self.config.activation]  # for heads
        self.embeddings = Embeddings(self.config)
        layers = [Layer(self.config) for _ in range(self.config.layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(D, D)}) if pooler else None
        initialise(self)

    def forward(
        self, tokens: Tensor, segments: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The vectors of all tokens (B, T, D), and the pooled one (B, D) (eq. 8.5).

        Args:
            tokens: (B, T) ints. segments: (B, T), 0 or 1; None is all 0.
            mask: (B, T) bool, False at padding; None takes every token for real.
        """
        x = self.embeddings(tokens, segments)
        seen = None if mask is None else mask[:, None, None, :]  # (B, T) -> (B, 1, 1, T)
        for layer in self.encoder["layer"]:
            x = layer(x, seen)
        return x, None if self.pooler is None else self.pooler["dense"](x[:, 0]).tanh()

    @torch.no_grad()
    def attention_maps(self, tokens: Tensor, *rest: Tensor) -> Tensor:
        """Weights (L, B, nH, T, T) of all layers, before dropout; arguments as of a call."""
        maps: list[Tensor] = []
        hooks = [
            layer.attention["self"].register_forward_hook(lambda _, __, y: maps.append(y[1]))
            for layer in self.encoder["layer"]
        ]
        self(tokens, *rest)
        for hook in hooks:
            hook.remove()
        return torch.stack(maps)


def initialise(model: nn.Module) -> None:
    """Linear layers and tables N(0, 0.02²), biases 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)


# --- weights


def convert_transformers_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the weights of transformers' BERT classes: theirs, tied ones once.

    Raises:
        ValueError: the output layer is not the table of the tokens.
    """
    kept = {n: v for n, v in state.items() if not n.endswith(("position_ids", "token_type_ids"))}
    for name, twin in (
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ):
        if name in kept and not torch.equal(kept.pop(name), kept[twin]):
            raise ValueError(f"expected {name} to be {twin}, got another tensor")
    return kept


def from_pretrained(
    name: str, head: Callable[..., nn.Module] | None = None
) -> tuple[nn.Module, dict[str, object] | None]:
    """A published BERT, or one that transformers' ``save_pretrained`` wrote into a folder.

    Args:
        name: of a model on the Hub, such as google-bert/bert-base-uncased, or a folder.
        head: a class of heads_paper.py; None reads the encoder alone. Weights that the checkpoint
            lacks, such as those of a new head, start anew.

    Returns:
        The model, in eval mode, and the arguments of a ``WordPiece`` with its vocabulary; None
        instead of these if the checkpoint has no vocabulary of this kind.

    Raises:
        ValueError: another kind of model, or a BERT that reads in one direction only.
    """
    import transformers

    c = transformers.AutoConfig.from_pretrained(name)
    if c.model_type != "bert" or c.is_decoder or c.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"expected a BERT encoder with {', '.join(ACTIVATIONS)}, got {c.model_type} "
            f"with {getattr(c, 'hidden_act', None)}, is_decoder={getattr(c, 'is_decoder', None)}"
        )
    kind = getattr(transformers, "BertModel" if head is None else head.__name__)
    theirs = kind.from_pretrained(name)
    config = BertConfig(
        *(c.vocab_size, c.hidden_size, c.num_attention_heads, c.intermediate_size),
        *(c.num_hidden_layers, c.max_position_embeddings, c.type_vocab_size),
        *(c.hidden_dropout_prob, c.attention_probs_dropout_prob, c.hidden_act, c.layer_norm_eps),
    )
    model: nn.Module = BertModel(config, getattr(theirs, "bert", theirs).pooler is not None)
    if head is not None:
        classes = getattr(theirs, "classifier", None)
        model = head(model) if classes is None else head(model, classes.out_features)
    model.load_state_dict(convert_transformers_state_dict(theirs.state_dict()))
    t = transformers.AutoTokenizer.from_pretrained(name)
    names = {number: token for token, number in t.get_vocab().items()}
    rules = getattr(getattr(t, "backend_tokenizer", None), "normalizer", None)
    if len(names) <= len(t.all_special_tokens) or not hasattr(rules, "lowercase"):
        return model.eval(), None  # without a file transformers makes up special tokens alone
    # A token that stands twice in vocab.txt leaves a number unused. No word has a space in it.
    tokens = [names.get(i, f"[unused {i}]") for i in range(max(names) + 1)]
    spelling = {"lower_case": rules.lowercase, "strip_accents": rules.strip_accents}
    return model.eval(), {"tokens": tokens} | spelling
