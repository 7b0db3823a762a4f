"""The Transformer, encoder and decoder, in NumPy (level 1): every formula, forward and backward.

Paper: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, sections 3 (the
model), 5.3 (learning rate) and 5.4 (dropout, label smoothing).

Map of this file:
    TransformerConfig
    smoothed_cross_entropy        the loss, which leaves padding out
    initial_params
    Transformer                   embeddings, both stacks of layers, logits; forward and backward
    shift_right, warmup_rate      the decoder's input; the learning rate

Sentences are rows of ints, padded at the end with ``pad_id``. The labels are a sentence and
``eos_id``; the decoder's input is ``bos_id`` and the same sentence: :func:`shift_right`.

Shapes: B batch; S source length, T target length; D width, nH heads, F width of the hidden layer,
V vocabulary.

Read before: attention_numpy.py, transformer_layers_numpy.py; 06_LSTM_GRU/numpy/recurrent_numpy.py
(its embedding only); 07_Transformer/theory.md, sections 7, 8, 11 and 12.

Deviations from the paper: it does not say how weights start: here Glorot's rule for the linear
layers and a standard deviation of 1/√D for the embedding, as in the authors' tensor2tensor. The
epsilon of the layer norms, 1e-5, is PyTorch's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import (
    LAYOUTS,
    PROJECTIONS,
    Params,
    attention_weights,
    causal_mask,
    padding_mask,
    sinusoidal_positions,
)
from logistic_numpy import log_softmax
from mlp_numpy import (
    dropout_backward,
    dropout_forward,
    glorot_uniform,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from recurrent_numpy import embedding_backward, embedding_forward
from transformer_layers_numpy import (
    decoder_layer_backward,
    decoder_layer_forward,
    encoder_layer_backward,
    encoder_layer_forward,
    part,
    whole,
)


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


# --- loss


def smoothed_cross_entropy_forward(
    logits: np.ndarray, labels: np.ndarray, pad_id: int, label_smoothing: float = 0.1
) -> tuple[np.floating, tuple]:
    """Mean cross-entropy over all labels but padding, in nats (eq. 7.27).

    Args:
        logits: (B, T, V). labels: (B, T) ints.
        label_smoothing: share of the target that is spread evenly over the vocabulary.

    Raises:
        ValueError: there is nothing but padding.
    """
    real = labels != pad_id
    if not real.any():
        raise ValueError("expected labels other than padding, got none")
    loss, cache = softmax_cross_entropy_forward(logits[real], labels[real], label_smoothing)
    return loss, (real, cache)


def smoothed_cross_entropy_backward(cache: tuple) -> np.ndarray:
    """Gradient of the loss with respect to the logits (B, T, V); zero at padding."""
    real, cache = cache
    rows = softmax_cross_entropy_backward(cache)
    dlogits = np.zeros((*real.shape, rows.shape[1]), rows.dtype)
    dlogits[real] = rows  # eq. 7.52
    return dlogits


# --- the model


def initial_params(config: TransformerConfig, rng: np.random.Generator) -> Params:
    """Fresh weights in float64: Glorot's rule, biases 0, gains 1, embedding N(0, 1/D)."""
    V, D, F = config.vocabulary, config.width, config.hidden
    # Scaled by √D on the way in, this gives vectors as large as the positions' (eq. 7.19).
    params = {"shared.weight": rng.standard_normal((V, D)) / math.sqrt(D)}

    def linear(name: str, shape: tuple[int, int]) -> None:
        params[f"{name}.weight"] = glorot_uniform(shape, rng)
        params[f"{name}.bias"] = np.zeros(shape[0])

    for stack, attentions in (("encoder", ("self",)), ("decoder", ("self", "encoder"))):
        for i in range(config.layers):
            layer = f"{stack}.layers.{i}"
            for kind in attentions:
                for projection in PROJECTIONS:
                    linear(f"{layer}.{kind}_attn.{projection}", (D, D))
            linear(f"{layer}.fc1", (F, D))
            linear(f"{layer}.fc2", (D, F))
            for norm in (*(f"{kind}_attn" for kind in attentions), "final"):
                params[f"{layer}.{norm}_layer_norm.weight"] = np.ones(D)
                params[f"{layer}.{norm}_layer_norm.bias"] = np.zeros(D)
    return params


class Transformer:
    """Encoder and decoder, with one table for source, target and output.

    Args:
        config: sizes. rng: source of the initial weights. dtype: of the parameters.

    Attributes:
        params: ``shared.weight`` (V, D), ``encoder.layers.<i>...``, ``decoder.layers.<i>...``.
    """

    def __init__(
        self,
        config: TransformerConfig,
        rng: np.random.Generator,
        dtype: np.typing.DTypeLike = np.float64,
    ) -> None:
        self.config = config
        self.params = {n: p.astype(dtype) for n, p in initial_params(config, rng).items()}
        self._caches: dict[str, tuple] = {}

    def _embed(self, tokens: np.ndarray, name: str, drop: tuple) -> np.ndarray:
        """√D times the rows of the table, plus positions (eq. 7.19): (B, T) -> (B, T, D)."""
        if tokens.ndim != 2:
            raise ValueError(f"expected tokens (B, T), got {tokens.shape}")
        D, weight = self.config.width, self.params["shared.weight"]
        x, table = embedding_forward(tokens, weight)
        positions = sinusoidal_positions(tokens.shape[1], D, self.config.positions, weight.dtype)
        x, dropped = dropout_forward(math.sqrt(D) * x + positions, *drop)
        self._caches[name] = (table, dropped)
        return x

    def _embed_backward(self, dx: np.ndarray, name: str) -> np.ndarray:
        table, dropped = self._caches[name]
        dx = math.sqrt(self.config.width) * dropout_backward(dx, dropped)  # eq. 2.23
        return embedding_backward(dx, table)  # eq. 7.51

    def _layers(self, stack: str) -> list[str]:
        return [f"{stack}.layers.{i}." for i in range(self.config.layers)]

    def encode(
        self, source: np.ndarray, train: bool = False, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """The memory (B, S, D) of source sentences (B, S)."""
        drop = (self.config.dropout, rng, train)
        x = self._embed(source, "source", drop)
        mask = padding_mask(source, self.config.pad_id)
        for name in self._layers("encoder"):
            x, self._caches[name] = encoder_layer_forward(
                x, part(self.params, name), self.config.heads, mask, drop
            )
        return x

    def decode(
        self,
        target: np.ndarray,
        memory: np.ndarray,
        source: np.ndarray,
        train: bool = False,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Logits (B, T, V): at t, those of what follows ``target[:, : t + 1]``, given the memory.

        Padding of the target needs no mask: it comes after all that is real, where no real position
        looks.
        """
        drop = (self.config.dropout, rng, train)
        x = self._embed(target, "target", drop)
        mask = causal_mask(target.shape[1])
        memory_mask = padding_mask(source, self.config.pad_id)
        for name in self._layers("decoder"):
            x, self._caches[name] = decoder_layer_forward(
                x, memory, part(self.params, name), self.config.heads, mask, memory_mask, drop
            )
        self._caches["decoded"] = (x,)
        return x @ self.params["shared.weight"].T  # eq. 7.24: (B, T, D) -> (B, T, V)

    def forward(
        self,
        source: np.ndarray,
        target: np.ndarray,
        train: bool = False,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Logits (B, T, V) of decoder inputs (B, T) for sources (B, S), both ints.

        ``train`` switches dropout on, ``rng`` draws it.
        """
        return self.decode(target, self.encode(source, train, rng), source, train, rng)

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the logits (B, T, V)."""
        if "decoded" not in self._caches:
            raise RuntimeError("expected forward before backward")
        (decoded,) = self._caches["decoded"]
        V, D = self.params["shared.weight"].shape
        g: Params = {}
        dx = dy @ self.params["shared.weight"]  # eq. 7.49
        dshared = dy.reshape(-1, V).T @ decoded.reshape(-1, D)  # eq. 7.50
        dmemory = 0
        for name in reversed(self._layers("decoder")):
            dx, dlayer, grads = decoder_layer_backward(dx, self._caches[name])  # eq. 7.47
            dmemory = dmemory + dlayer  # eq. 7.48
            g |= whole(grads, name)
        dshared += self._embed_backward(dx, "target")  # eq. 7.51
        for name in reversed(self._layers("encoder")):
            dmemory, grads = encoder_layer_backward(dmemory, self._caches[name])  # eq. 7.46
            g |= whole(grads, name)
        g["shared.weight"] = dshared + self._embed_backward(dmemory, "source")  # eq. 7.51
        return {name: g[name] for name in self.params}

    def attention_maps(self) -> dict[str, np.ndarray]:
        """Weights (B, nH, T, S) of the last pass, by name: ``decoder.layers.0.self_attn``, ..."""
        maps = {}
        for name, cache in self._caches.items():
            if ".layers." in name:
                maps[f"{name}self_attn"] = attention_weights(cache[0][-1])
                if name.startswith("decoder"):
                    maps[f"{name}encoder_attn"] = attention_weights(cache[2][-1])
        return maps

    def predictor(self, source: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """What a search needs: a function that says what may follow.

        It takes N beginnings (N, T) and the row of ``source`` (N,) that each translates, and gives
        the log-probabilities of the next symbol (N, V); padding and ``bos_id`` have -inf.
        """
        memory = self.encode(source)

        def log_probs(beginnings: np.ndarray, rows: np.ndarray) -> np.ndarray:
            log_p = log_softmax(self.decode(beginnings, memory[rows], source[rows])[:, -1])
            log_p[:, [self.config.pad_id, self.config.bos_id]] = -np.inf
            return log_p

        return log_probs


# --- training


def shift_right(labels: np.ndarray, bos_id: int) -> np.ndarray:
    """The decoder's input for labels (B, T): ``bos_id`` first, the last label left out."""
    return np.concatenate([np.full_like(labels[:, :1], bos_id), labels[:, :-1]], axis=1)


def warmup_rate(step: int, width: int, warmup: int = 4000) -> float:
    """Learning rate of step 1, 2, ...: rises for ``warmup`` steps, then falls (eq. 7.53).

    Raises:
        ValueError: a step below 1.
    """
    if step < 1:
        raise ValueError(f"expected steps counted from 1, got {step}")
    return width**-0.5 * min(step**-0.5, step * warmup**-1.5)
