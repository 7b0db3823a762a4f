"""BERT in NumPy (level 1): every formula, forward and backward.

Paper: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, arXiv:1810.04805, section 3.

Map of this file:
    BertConfig
    initial_params, linear_params
    encoder                          embeddings, layers, pooler
    BertForPreTraining               which token was here, and did the second segment follow?
    BertForSequenceClassification    a class for a text

Texts are rows of ints, [CLS] first, padded at the end. ``mask`` says what is no padding.

Shapes: B batch, T tokens, D width, nH heads, F hidden width, V vocabulary, K classes, R chosen
tokens.

Read before: bert_layers_numpy.py; 08_BERT/theory.md.

Deviations from the paper: it does not say how weights start, nor the epsilon of the layer norms;
here as in the authors' program N(0, 0.02²) and 1e-12, but the normal distribution is not cut off.
"""

from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import Params, attention_weights
from bert_layers_numpy import (
    embeddings_backward,
    embeddings_forward,
    layer_backward,
    layer_forward,
    masked_lm_head_backward,
    masked_lm_head_forward,
    pooler_backward,
    pooler_forward,
)
from mlp_numpy import dropout_backward, dropout_forward, linear_backward, linear_forward
from transformer_layers_numpy import part, whole

# What transformers calls an activation, and what chapter 02 calls it.
ACTIVATION_NAMES = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}
TABLE = "bert.embeddings.word_embeddings.weight"
HEAD, NEXT, CLASSIFIER = "cls.predictions.", "cls.seq_relationship.", "classifier."


@dataclass(frozen=True)
class BertConfig:
    """Sizes of BERT; the defaults are the base model's, uncased.

    Args:
        vocabulary: V. width: D. heads: nH. hidden: F. layers: L.
        longest: tokens at most, the number of learned positions. segments: kinds of segment.
        dropout: of embeddings and of what each sub-layer adds. attention_dropout: of the weights.
        activation: of the hidden layers, a key of ``ACTIVATION_NAMES``. eps: of the layer norms.
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
        if self.activation not in ACTIVATION_NAMES:
            raise ValueError(
                f"expected an activation of {', '.join(ACTIVATION_NAMES)}, got {self.activation!r}"
            )


# --- initialisation


def linear_params(name: str, shape: tuple[int, int], rng: np.random.Generator) -> Params:
    """A fresh linear layer: weights N(0, 0.02²), biases 0."""
    weight = 0.02 * rng.standard_normal(shape)
    return {f"{name}.weight": weight, f"{name}.bias": np.zeros(shape[0])}


def _norm_params(name: str, D: int) -> Params:
    return {f"{name}.weight": np.ones(D), f"{name}.bias": np.zeros(D)}


def initial_params(config: BertConfig, rng: np.random.Generator) -> Params:
    """Fresh weights of the encoder and its pooler, in float64, all named ``bert.``..."""
    D, F = config.width, config.hidden
    params: Params = {}
    for name, rows in (
        ("word", config.vocabulary),
        ("position", config.longest),
        ("token_type", config.segments),
    ):
        params[f"embeddings.{name}_embeddings.weight"] = 0.02 * rng.standard_normal((rows, D))
    params |= _norm_params("embeddings.LayerNorm", D)
    for i in range(config.layers):
        layer = f"encoder.layer.{i}"
        for projection in ("self.query", "self.key", "self.value", "output.dense"):
            params |= linear_params(f"{layer}.attention.{projection}", (D, D), rng)
        params |= _norm_params(f"{layer}.attention.output.LayerNorm", D)
        params |= linear_params(f"{layer}.intermediate.dense", (F, D), rng)
        params |= linear_params(f"{layer}.output.dense", (D, F), rng)
        params |= _norm_params(f"{layer}.output.LayerNorm", D)
    return whole(params | linear_params("pooler.dense", (D, D), rng), "bert.")


# --- the encoder


def encoder_forward(
    params: Params,
    config: BertConfig,
    tokens: np.ndarray,
    segments: np.ndarray | None,
    mask: np.ndarray | None,
    drop: tuple,
) -> tuple[np.ndarray, np.ndarray, tuple]:
    """The vectors of all tokens (B, T, D), the pooled one (B, D) (eq. 8.5), and the cache.

    Args:
        params: with the names of :func:`initial_params`; others are left alone.
        tokens: (B, T) ints. segments: (B, T), 0 or 1; None is all 0.
        mask: (B, T) bool, False at padding; None takes every token for real.
        drop: (rng, train).
    """
    c = config
    segments = np.zeros_like(tokens) if segments is None else segments
    p = part(params, "bert.")
    table = part(p, "embeddings.")
    x, embedded = embeddings_forward(tokens, segments, table, c.dropout, c.eps, drop)
    seen = None if mask is None else mask[:, None, None, :]  # eq. 8.2: (B, T) -> (B, 1, 1, T)
    layers = []
    for i in range(c.layers):
        x, cache = layer_forward(
            x,
            part(p, f"encoder.layer.{i}."),
            c.heads,
            seen,
            ACTIVATION_NAMES[c.activation],
            (c.dropout, c.attention_dropout),
            c.eps,
            drop,
        )
        layers.append(cache)
    pooled, pooler = pooler_forward(x, part(p, "pooler."))
    return x, pooled, (embedded, layers, pooler)


def encoder_backward(dx: np.ndarray, dpooled: np.ndarray, cache: tuple) -> Params:
    """Gradients of the encoder's parameters from those of its two outputs."""
    embedded, layers, pooler = cache
    from_pooler, pooler_grads = pooler_backward(dpooled, pooler)  # eq. 8.23
    dx = dx + from_pooler  # eq. 8.24
    g = whole(pooler_grads, "pooler.")
    for i, layer in reversed(list(enumerate(layers))):
        dx, grads = layer_backward(dx, layer)  # eqs. 8.25 and 8.26
        g |= whole(grads, f"encoder.layer.{i}.")
    g |= whole(embeddings_backward(dx, embedded), "embeddings.")  # eqs. 8.27 and 8.28
    return whole(g, "bert.")


# --- models


class BertForPreTraining:
    """The encoder with both heads of section 3.1.

    Args:
        config: sizes. rng: source of the initial weights. dtype: of the parameters.

    Attributes:
        params: ``bert.embeddings...``, ``bert.encoder.layer.<i>...``, ``bert.pooler.dense...``,
            ``cls.predictions...``, ``cls.seq_relationship...``, as transformers names them.
    """

    def __init__(
        self,
        config: BertConfig,
        rng: np.random.Generator,
        dtype: np.typing.DTypeLike = np.float64,
    ) -> None:
        self.config, D = config, config.width
        params = initial_params(config, rng)
        params |= linear_params(f"{HEAD}transform.dense", (D, D), rng)
        params |= _norm_params(f"{HEAD}transform.LayerNorm", D)
        params[f"{HEAD}bias"] = np.zeros(config.vocabulary)
        params |= linear_params(NEXT[:-1], (2, D), rng)
        self.params = {n: p.astype(dtype) for n, p in params.items()}
        self._cache: tuple = ()

    def forward(
        self,
        tokens: np.ndarray,
        segments: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        chosen: np.ndarray | None = None,
        train: bool = False,
        rng: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits of the tokens (B, T, V) and of "follows", "does not follow" (B, 2).

        With ``chosen`` (B, T) bool, logits (R, V) of those tokens alone, row by row: the loss asks
        for no others, and they cost V·D multiplications each. Other arguments as of
        :func:`encoder_forward`; ``train`` switches dropout on, ``rng`` draws it.
        """
        c, p = self.config, self.params
        x, pooled, encoder = encoder_forward(p, c, tokens, segments, mask, (rng, train))
        rows = x if chosen is None else x[chosen]  # (B, T, D) -> (R, D)
        kind = ACTIVATION_NAMES[c.activation]
        logits, head = masked_lm_head_forward(rows, p[TABLE], part(p, HEAD), kind, c.eps)
        follows, linear = linear_forward(pooled, p[f"{NEXT}weight"], p[f"{NEXT}bias"])  # eq. 8.10
        self._cache = (x.shape, chosen, encoder, head, linear)
        return logits, follows

    def backward(self, dlogits: np.ndarray, dfollows: np.ndarray) -> Params:
        """Gradients of all parameters from those of the two outputs of :meth:`forward`."""
        if not self._cache:
            raise RuntimeError("expected forward before backward")
        shape, chosen, encoder, head, linear = self._cache
        g: Params = {}
        # eq. 2.13, for (8.10)
        dpooled, g[f"{NEXT}weight"], g[f"{NEXT}bias"] = linear_backward(dfollows, linear)
        drows, dtable, grads = masked_lm_head_backward(dlogits, head)  # eqs. 8.18 to 8.21
        g |= whole(grads, HEAD)
        dx = drows
        if chosen is not None:
            dx = np.zeros(shape, drows.dtype)
            dx[chosen] = drows  # eq. 8.22: (R, D) -> (B, T, D)
        g |= encoder_backward(dx, dpooled, encoder)
        g[TABLE] = g[TABLE] + dtable  # eq. 8.29: input and output are one table
        return {name: g[name] for name in self.params}

    def attention_maps(self) -> np.ndarray:
        """Attention weights (L, B, nH, T, T) of the last pass, before dropout."""
        _, layers, _ = self._cache[2]  # of the encoder; a layer's cache begins with its attention
        return np.stack([attention_weights(layer[0][-1]) for layer in layers])


class BertForSequenceClassification:
    """A linear layer on the pooled vector; arguments as of :class:`BertForPreTraining`.

    Attributes:
        params: ``bert...``, ``classifier.weight`` (K, D), ``classifier.bias`` (K,).
    """

    def __init__(
        self,
        config: BertConfig,
        classes: int,
        rng: np.random.Generator,
        dtype: np.typing.DTypeLike = np.float64,
    ) -> None:
        self.config = config
        params = initial_params(config, rng)
        params |= linear_params(CLASSIFIER[:-1], (classes, config.width), rng)
        self.params = {n: p.astype(dtype) for n, p in params.items()}
        self._cache: tuple = ()

    def forward(
        self,
        tokens: np.ndarray,
        segments: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        train: bool = False,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Logits (B, K); arguments as of :func:`encoder_forward`."""
        c, p, drop = self.config, self.params, (rng, train)
        _, pooled, encoder = encoder_forward(p, c, tokens, segments, mask, drop)
        pooled, dropped = dropout_forward(pooled, c.dropout, *drop)
        logits, linear = linear_forward(pooled, p[f"{CLASSIFIER}weight"], p[f"{CLASSIFIER}bias"])
        self._cache = ((*tokens.shape, c.width), encoder, dropped, linear)
        return logits

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the logits (B, K)."""
        if not self._cache:
            raise RuntimeError("expected forward before backward")
        shape, encoder, dropped, linear = self._cache
        g: Params = {}
        # eq. 2.13, for (8.10) with K outputs
        dpooled, g[f"{CLASSIFIER}weight"], g[f"{CLASSIFIER}bias"] = linear_backward(dy, linear)
        dpooled = dropout_backward(dpooled, dropped)  # eq. 2.23
        g |= encoder_backward(np.zeros(shape, dy.dtype), dpooled, encoder)
        return {name: g[name] for name in self.params}
