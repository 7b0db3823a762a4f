"""LSTM from tensors (level 2): autograd goes back through time, parameters and update rule by hand.

Papers: as 06_LSTM_GRU/numpy/lstm_numpy.py (S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory",
1997; F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget", 2000).

Map of this file:
    LSTMConfig            sizes, layers, directions, the head
    init_params           a dict of leaf tensors
    lstm_layer            one direction of one layer, step by step; autograd keeps every step
    forward               embedding, layers x directions, head
    length_mask, dropout

Loss, clipping and update rule are in updates_lowlevel.py.

Shapes: B batch, T steps, D input width, M recurrent width, L layers, K outputs, V vocabulary.

Read before: 06_LSTM_GRU/numpy/lstm_numpy.py, which writes out what autograd does here.

Deviations from the paper: as at level 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Params = dict[str, Tensor]
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LSTMConfig:
    """Sizes and kind of an LSTM network.

    Args:
        inputs: D, width of the input vectors, or of the embedding.
        width: M, recurrent width of each direction. outputs: K.
        vocabulary: V, symbols that may come in; 0 = the inputs are vectors and not symbols.
        layers: L. bidirectional: a second set of layers reads from the end.
        head: what the output layer sees: "last" state, "mean" of all steps, or "every" step.
        dropout: share of the units dropped in training, at the input of each layer and of the head.
        forget_bias, input_bias: initial biases of these gates.
    """

    inputs: int
    width: int
    outputs: int
    vocabulary: int = 0
    layers: int = 1
    bidirectional: bool = False
    head: str = "last"
    dropout: float = 0.0
    forget_bias: float = 1.0
    input_bias: float = 0.0

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
    def suffixes(self) -> list[str]:
        """The names of all layers and directions, in the order of their states: l0, l0_reverse."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{d}" for layer in range(self.layers) for d in directions]


def init_params(
    config: LSTMConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves: names and shapes as PyTorch's ``nn.LSTM`` has them."""
    M, directions = config.width, 1 + config.bidirectional
    params: Params = {}
    if config.vocabulary:
        params["embedding.weight"] = torch.randn(
            config.vocabulary, config.inputs, generator=generator
        )

    def uniform(*shape: int, width: int = M) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(width)

    for i, suffix in enumerate(config.suffixes):
        D = config.inputs if i < directions else M * directions
        params[f"rnn.weight_ih_{suffix}"] = uniform(4 * M, D)
        params[f"rnn.weight_hh_{suffix}"] = uniform(4 * M, M)
        bias = torch.zeros(4 * M)
        bias[:M] = config.input_bias  # in bias_ih alone: the two are added (eq. 6.35)
        bias[M : 2 * M] = config.forget_bias
        params[f"rnn.bias_ih_{suffix}"] = bias
        params[f"rnn.bias_hh_{suffix}"] = torch.zeros(4 * M)
    params["head.weight"] = uniform(config.outputs, M * directions, width=M * directions)
    params["head.bias"] = torch.zeros(config.outputs)
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def lstm_layer(
    params: Params, suffix: str, x: Tensor, h: Tensor, c: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one layer (eqs. 6.23 to 6.26): y (B, T, M), the last h and c (B, M).

    Args:
        x: (B, T, D). h, c: (B, M). mask: (B, T) bool, True = a real step.
    """
    weight_ih, weight_hh, bias_ih, bias_hh = (
        params[f"rnn.{name}_{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    from_x = x @ weight_ih.T + (bias_ih + bias_hh)  # all steps in one product: (B, T, 4M)
    y = []
    # unbind, not from_x[:, t], whose backward pass would fill an array of all steps for each step
    for t, a in enumerate(from_x.unbind(dim=1)):
        a = a + h @ weight_hh.T  # eq. 6.23: one product for all gates
        a_i, a_f, a_g, a_o = a.chunk(4, dim=1)  # (B, 4M) -> four times (B, M)
        i, f, o = torch.sigmoid(a_i), torch.sigmoid(a_f), torch.sigmoid(a_o)  # eq. 6.24
        new_c = f * c + i * torch.tanh(a_g)  # eq. 6.25
        new_h = o * torch.tanh(new_c)  # eq. 6.26
        if mask is None:
            h, c = new_h, new_c
            y.append(h)
        else:
            real = mask[:, t, None]
            h, c = torch.where(real, new_h, h), torch.where(real, new_c, c)  # eq. 6.17
            y.append(h * real)  # eq. 6.18
    return torch.stack(y, dim=1), h, c


def forward(
    params: Params,
    x: Tensor,
    config: LSTMConfig,
    lengths: Tensor | None = None,
    state: State | None = None,
    train: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, State]:
    """Outputs (B, K), or (B, T, K) for the head "every"; and the last state.

    Args:
        x: tokens (B, T), or vectors (B, T, D). lengths: (B,), real steps; None = all.
        state: (h, c) to go on from, each (L * directions, B, M); detach it, or the gradient goes
            back into the batch before (eq. 6.16). None = zeros.
        train: switches dropout on, which ``generator`` draws.

    Raises:
        ValueError: the input has another shape, or a length is not in 1 to T.
    """
    axes = 2 if config.vocabulary else 3
    if x.ndim != axes or (axes == 3 and x.shape[2] != config.inputs):
        expected = "tokens (B, T)" if axes == 2 else f"vectors (B, T, {config.inputs})"
        raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
    (B, T), directions = x.shape[:2], 1 + config.bidirectional
    mask = None if lengths is None else length_mask(lengths, T)
    rate = config.dropout if train else 0.0
    if config.vocabulary:
        x = params["embedding.weight"][x]  # eq. 6.1, (B, T) -> (B, T, D)
    if state is None:
        zeros = x.new_zeros(len(config.suffixes), B, config.width)
        state = (zeros, zeros)
    last_h, last_c, sides = [], [], []
    for suffix, h, c in zip(config.suffixes, *state, strict=True):
        if not suffix.endswith("_reverse"):
            x, sides = dropout(x, rate, generator), []
            y, h, c = lstm_layer(params, suffix, x, h, c, mask)
        else:  # reversed, the padding comes first; there the mask carries the first state on
            steps = None if mask is None else mask.flip(1)
            y, h, c = lstm_layer(params, suffix, x.flip(1), h, c, steps)  # eq. 6.22
            y = y.flip(1)
        sides, last_h, last_c = [*sides, y], [*last_h, h], [*last_c, c]
        if len(sides) == directions:
            x = torch.cat(sides, dim=2)  # eq. 6.21, -> (B, T, M * directions)
    if config.head == "last":
        x = torch.cat(last_h[-directions:], dim=1)  # -> (B, M * directions)
    elif config.head == "mean":
        x = x.sum(dim=1) / (T if lengths is None else lengths[:, None])  # eq. 6.20
    x = dropout(x, rate, generator) @ params["head.weight"].T + params["head.bias"]  # eq. 6.3
    return x, (torch.stack(last_h), torch.stack(last_c))


def length_mask(lengths: Tensor, T: int) -> Tensor:
    """True where a step is real: (B, T) for lengths (B,).

    Raises:
        ValueError: a length outside 1 to T.
    """
    if lengths.min() < 1 or lengths.max() > T:
        raise ValueError(f"expected lengths 1 to {T}, got {lengths.min()} to {lengths.max()}")
    return torch.arange(T, device=lengths.device) < lengths[:, None]  # (T,) and (B, 1) -> (B, T)


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Set each element to zero with probability ``rate``, scale the others up (eq. 2.9)."""
    if rate == 0:
        return x
    kept = torch.rand(x.shape, generator=generator).to(x.device) >= rate
    return x * kept / (1 - rate)
