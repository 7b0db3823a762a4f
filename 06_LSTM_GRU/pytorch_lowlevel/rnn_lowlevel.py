"""Vanilla RNN from tensors (level 2): autograd goes back through time, parameters by hand.

Papers: as 06_LSTM_GRU/numpy/recurrent_numpy.py (J. L. Elman, "Finding Structure in Time", 1990;
M. Schuster, K. K. Paliwal, "Bidirectional Recurrent Neural Networks", 1997).

Map of this file:
    RNNConfig             sizes, layers, directions, the head
    init_params           a dict of leaf tensors
    rnn_layer             one direction of one layer, step by step; autograd keeps every step
    forward               embedding, layers x directions, head
    length_mask, dropout

lstm_lowlevel.py and gru_lowlevel.py change the layer and nothing else. Loss, clipping and update
rule are in updates_lowlevel.py.

Shapes: B batch, T steps, D input width, M recurrent width, L layers, K outputs, V vocabulary.

Read before: 06_LSTM_GRU/numpy/recurrent_numpy.py and recurrent_network_numpy.py, which write out
what autograd does here.

Deviations from the paper: as at level 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Params = dict[str, Tensor]
State = tuple[Tensor]


@dataclass(frozen=True)
class RNNConfig:
    """Sizes and kind of a vanilla RNN.

    Args:
        inputs: D, width of the input vectors, or of the embedding.
        width: M, recurrent width of each direction. outputs: K.
        vocabulary: V, symbols that may come in; 0 = the inputs are vectors and not symbols.
        layers: L. bidirectional: a second set of layers reads from the end.
        head: what the output layer sees: "last" state, "mean" of all steps, or "every" step.
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
    def suffixes(self) -> list[str]:
        """The names of all layers and directions, in the order of their states: l0, l0_reverse."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{d}" for layer in range(self.layers) for d in directions]


def init_params(
    config: RNNConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves: names and shapes as PyTorch's ``nn.RNN`` has them."""
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
        params[f"rnn.weight_ih_{suffix}"] = uniform(M, D)
        params[f"rnn.weight_hh_{suffix}"] = uniform(M, M)
        params[f"rnn.bias_ih_{suffix}"] = torch.zeros(M)
        params[f"rnn.bias_hh_{suffix}"] = torch.zeros(M)
    params["head.weight"] = uniform(config.outputs, M * directions, width=M * directions)
    params["head.bias"] = torch.zeros(config.outputs)
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def rnn_layer(
    params: Params, suffix: str, x: Tensor, h: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One direction of one layer (eq. 6.2): y (B, T, M), the last h (B, M).

    Args:
        x: (B, T, D). h: (B, M). mask: (B, T) bool, True = a real step.
    """
    weight_ih, weight_hh, bias_ih, bias_hh = (
        params[f"rnn.{name}_{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    from_x = x @ weight_ih.T + (bias_ih + bias_hh)  # all steps in one product: (B, T, M)
    y = []
    # unbind, not from_x[:, t], whose backward pass would fill an array of all steps for each step
    for t, a in enumerate(from_x.unbind(dim=1)):
        new_h = torch.tanh(a + h @ weight_hh.T)  # eq. 6.2
        if mask is None:
            h = new_h
            y.append(h)
        else:
            real = mask[:, t, None]
            h = torch.where(real, new_h, h)  # eq. 6.17
            y.append(h * real)  # eq. 6.18
    return torch.stack(y, dim=1), h


def forward(
    params: Params,
    x: Tensor,
    config: RNNConfig,
    lengths: Tensor | None = None,
    state: State | None = None,
    train: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, State]:
    """Outputs (B, K), or (B, T, K) for the head "every"; and the last state.

    Args:
        x: tokens (B, T), or vectors (B, T, D). lengths: (B,), real steps; None = all.
        state: (h,) to go on from, (L * directions, B, M); detach it, or the gradient goes back
            into the batch before (eq. 6.16). None = zeros.
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
        state = (x.new_zeros(len(config.suffixes), B, config.width),)
    last, sides = [], []
    for suffix, h in zip(config.suffixes, state[0], strict=True):
        if not suffix.endswith("_reverse"):
            x, sides = dropout(x, rate, generator), []
            y, h = rnn_layer(params, suffix, x, h, mask)
        else:  # reversed, the padding comes first; there the mask carries the first state on
            steps = None if mask is None else mask.flip(1)
            y, h = rnn_layer(params, suffix, x.flip(1), h, steps)  # eq. 6.22
            y = y.flip(1)
        sides, last = [*sides, y], [*last, h]
        if len(sides) == directions:
            x = torch.cat(sides, dim=2)  # eq. 6.21, -> (B, T, M * directions)
    if config.head == "last":
        x = torch.cat(last[-directions:], dim=1)  # -> (B, M * directions)
    elif config.head == "mean":
        x = x.sum(dim=1) / (T if lengths is None else lengths[:, None])  # eq. 6.20
    x = dropout(x, rate, generator) @ params["head.weight"].T + params["head.bias"]  # eq. 6.3
    return x, (torch.stack(last),)


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
