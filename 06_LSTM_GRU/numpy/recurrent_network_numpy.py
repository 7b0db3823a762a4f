"""A network of recurrent layers in NumPy (level 1): several layers, both directions, three heads.

Papers:
- J. L. Elman, "Finding Structure in Time", Cognitive Science 14, 1990: the vanilla RNN.
- M. Schuster, K. K. Paliwal, "Bidirectional Recurrent Neural Networks", IEEE Transactions on Signal
  Processing 45, 1997: both directions.
- R. J. Williams, J. Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent
  Network Trajectories", Neural Computation 2, 1990: truncated backpropagation through time.

Map of this file:
    RecurrentConfig     sizes, number of layers and directions, the head
    RNNNetwork          embedding (if any), layers x directions, head; forward and backward
    generate            a language model writes

``LSTMNetwork`` (lstm_numpy.py) and ``GRUNetwork`` (gru_numpy.py) change nothing but the layer.

Shapes: B batch, T steps, D input width, M recurrent width, G affine maps a step, L layers,
K outputs, V vocabulary.

Read before: recurrent_numpy.py; 06_LSTM_GRU/theory.md, section 6.

Deviations from the paper: none known for the parts named above; Elman's learning rule is replaced,
see recurrent_numpy.py.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from mlp_numpy import dropout_backward, dropout_forward, linear_backward, linear_forward
from recurrent_numpy import (
    Params,
    State,
    embedding_backward,
    embedding_forward,
    length_mask,
    rnn_backward,
    rnn_forward,
)

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class RecurrentConfig:
    """Sizes and kind of a recurrent network.

    Args:
        inputs: D, width of the input vectors, or of the embedding.
        width: M, recurrent width of each direction.
        outputs: K.
        vocabulary: V, symbols that may come in; 0 = the inputs are vectors and not symbols.
        layers: L, one above the other.
        bidirectional: a second set of layers reads from the end.
        head: what the linear output layer sees: "last", the last state of the top layer (of both
            directions); "mean", the mean of its outputs over the real steps; "every", each step's
            output by itself, which gives an answer at every step (language models).
        dropout: share of the units dropped in training, at the input of each layer and of the head.
    """

    inputs: int
    width: int
    outputs: int
    vocabulary: int = 0
    layers: int = 1
    bidirectional: bool = False
    head: str = "last"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("inputs", "width", "outputs", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.vocabulary < 0:
            raise ValueError(f"expected a vocabulary of at least 0, got {self.vocabulary}")
        if self.head not in ("last", "mean", "every"):
            raise ValueError(f"expected head 'last', 'mean' or 'every', got {self.head!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 1 + self.bidirectional

    @property
    def suffixes(self) -> list[str]:
        """The names of all layers and directions, in the order of their states: l0, l0_reverse."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{d}" for layer in range(self.layers) for d in directions]


class RNNNetwork:
    """Embedding (if any), recurrent layers, linear head.

    Attributes:
        params: ``embedding.weight`` (V, D); ``rnn.weight_ih_l0`` (G*M, D), ``rnn.weight_hh_l0``
            (G*M, M), ``rnn.bias_ih_l0``, ``rnn.bias_hh_l0`` (G*M,) and so on for each layer and
            ``_reverse``; ``head.weight`` (K, M or 2M), ``head.bias`` (K,).
        state: after ``forward``, the last states, each (L * directions, B, M).
    """

    GATES = 1  # G: how many affine maps a step needs
    STATES = 1  # arrays in the state
    LAYER: tuple[Any, Any] = (rnn_forward, rnn_backward)

    def __init__(
        self, config: RecurrentConfig, rng: np.random.Generator, dtype: type = np.float64
    ) -> None:
        self.config = config
        M, directions = config.width, config.directions
        self.params: Params = {}
        if config.vocabulary:
            table = rng.standard_normal((config.vocabulary, config.inputs))
            self.params["embedding.weight"] = table.astype(dtype)
        for i, suffix in enumerate(config.suffixes):
            D = config.inputs if i < directions else M * directions
            for name, shape in (("weight_ih", (D,)), ("weight_hh", (M,)), ("bias_ih", ())):
                bound = 1 / math.sqrt(M) if shape else 0.0  # PyTorch's, biases at zero
                array = rng.uniform(-bound, bound, size=(self.GATES * M, *shape)).astype(dtype)
                self.params[f"rnn.{name}_{suffix}"] = array
            self.params[f"rnn.bias_hh_{suffix}"] = np.zeros(self.GATES * M, dtype=dtype)
        bound = 1 / math.sqrt(M * directions)
        head = rng.uniform(-bound, bound, size=(config.outputs, M * directions))
        self.params["head.weight"] = head.astype(dtype)
        self.params["head.bias"] = np.zeros(config.outputs, dtype=dtype)
        self._cache: tuple = ()

    def forward(
        self,
        x: np.ndarray,
        lengths: np.ndarray | None = None,
        state: State | None = None,
        train: bool = False,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Outputs (B, K), or (B, T, K) for the head "every".

        Args:
            x: tokens (B, T), or vectors (B, T, D).
            lengths: (B,), how many steps of each sequence are real; None = all.
            state: where to go on, as :attr:`state` has it; None = zeros. No gradient goes into it:
                that is what truncates backpropagation through time (eq. 6.16).

        Raises:
            ValueError: the input has another shape, or the lengths don't fit.
        """
        config, axes = self.config, 2 if self.config.vocabulary else 3
        if x.ndim != axes or (axes == 3 and x.shape[2] != config.inputs):
            expected = "tokens (B, T)" if axes == 2 else f"vectors (B, T, {config.inputs})"
            raise ValueError(f"expected {expected}, got {x.shape}")
        B, T = x.shape[:2]
        mask = None if lengths is None else length_mask(lengths, T)
        embedding = None
        if config.vocabulary:
            x, embedding = embedding_forward(x, self.params["embedding.weight"])
        if state is None:
            shape = (len(config.suffixes), B, config.width)
            state = tuple(np.zeros(shape, dtype=x.dtype) for _ in range(self.STATES))
        x, layers = self._layers_forward(x, state, mask, train, rng)
        pooled = self._pool(x, mask)
        pooled, dropped = dropout_forward(pooled, config.dropout, rng, train)
        weight, bias = self.params["head.weight"], self.params["head.bias"]
        y, head = linear_forward(pooled, weight, bias)  # eq. 6.3
        self._cache = (embedding, layers, x.shape, mask, dropped, head)
        return y

    def _layers_forward(
        self, x: np.ndarray, state: State, mask: np.ndarray | None, train: bool, rng: Any
    ) -> tuple[np.ndarray, list]:
        """Outputs of the top layer (B, T, M * directions) and the caches; sets ``self.state``."""
        layers, last, directions = [], [], self.config.directions
        for i, suffix in enumerate(self.config.suffixes):
            backwards = suffix.endswith("_reverse")
            if not backwards:
                x, dropped = dropout_forward(x, self.config.dropout, rng, train)
                outputs: list[np.ndarray] = []
            weights = [self.params[f"rnn.{name}_{suffix}"] for name in WEIGHTS]
            order = -1 if backwards else 1  # a reversed padded sequence starts with its padding,
            steps = None if mask is None else mask[:, ::order]  # which carries the first state on
            start = tuple(s[i] for s in state)
            (y, end), cache = self.LAYER[0](x[:, ::order], start, *weights, steps)  # eq. 6.22
            outputs.append(y[:, ::order])
            last.append(end)
            layers.append((suffix, order, dropped, cache))
            if len(outputs) == directions:
                x = np.concatenate(outputs, axis=2)  # eq. 6.21
        self.state = tuple(np.stack(arrays) for arrays in zip(*last, strict=True))
        return x, layers

    def _pool(self, y: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """What the head sees of the top layer's outputs."""
        if self.config.head == "every":
            return y
        if self.config.head == "mean":
            steps = y.shape[1] if mask is None else mask.sum(axis=1, keepdims=True)
            return y.sum(axis=1) / np.asarray(steps, dtype=y.dtype)  # eq. 6.20
        directions = self.config.directions
        return np.concatenate(list(self.state[0][-directions:]), axis=1)  # -> (B, M * directions)

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the outputs."""
        if not self._cache:
            raise RuntimeError("expected forward before backward")
        embedding, layers, (B, T, width), mask, dropped, head = self._cache
        config, grads = self.config, {}
        # eqs. 2.13 to 2.15, then eq. 2.23
        dpooled, grads["head.weight"], grads["head.bias"] = linear_backward(dy, head)
        dpooled = dropout_backward(dpooled, dropped)
        dx = np.zeros((B, T, width), dtype=dy.dtype)
        dlast = np.zeros((len(layers), B, config.width), dtype=dy.dtype)
        if config.head == "every":
            dx = dpooled
        elif config.head == "mean":
            steps = np.full((B, 1), T) if mask is None else mask.sum(axis=1, keepdims=True)
            dx += (dpooled / steps.astype(dy.dtype))[:, None, :]  # eq. 6.20
        else:
            parts = np.split(dpooled, 1 + config.bidirectional, axis=1)
            dlast[-len(parts) :] = parts  # eq. 6.5: where the way back begins
        dx = self._layers_backward(dx, dlast, layers, grads)
        if embedding is not None:
            grads["embedding.weight"] = embedding_backward(dx, embedding)
        return {name: grads[name] for name in self.params}

    def _layers_backward(
        self, dy: np.ndarray, dlast: np.ndarray, layers: list, grads: Params
    ) -> np.ndarray:
        """The layers in reverse; fills ``grads``, returns the gradient of the first one's input."""
        M, directions = self.config.width, self.config.directions
        dx: Any = 0.0
        for i, (suffix, order, dropped, cache) in reversed(list(enumerate(layers))):
            part = dy[:, :, M : 2 * M] if order < 0 else dy[:, :, :M]  # eq. 6.21
            # Only h of the last state is used by the head; an LSTM's c has no gradient.
            end = (dlast[i], *[np.zeros_like(dlast[i])] * (self.STATES - 1))
            d, _, *gradients = self.LAYER[1](part[:, ::order], end, cache)
            grads |= {f"rnn.{n}_{suffix}": g for n, g in zip(WEIGHTS, gradients, strict=True)}
            dx = dx + d[:, ::order]  # eq. 6.22a: both directions read the same input
            if i % directions == 0:
                dy, dx = dropout_backward(dx, dropped), 0.0
        return dy


def generate(
    model: RNNNetwork,
    tokens: np.ndarray,
    count: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
) -> np.ndarray:
    """Let a language model go on after ``tokens`` (T,): ``count`` symbols, each drawn from its own
    softmax of logits / temperature and fed back in."""
    written, state = [], None
    for _ in range(count):
        logits = model.forward(tokens[None], state=state)[0, -1] / temperature  # eq. 6.4b, (K,)
        state = model.state
        p = np.exp(logits - logits.max())
        tokens = rng.choice(len(p), size=1, p=p / p.sum())
        written.append(tokens[0])
    return np.array(written)
