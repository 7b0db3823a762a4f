"""What stands around a recurrent layer (level 3): embedding, heads, loss, writing; a vanilla RNN.

Papers:
- J. L. Elman, "Finding Structure in Time", Cognitive Science 14, 1990: the vanilla RNN, and to
  predict the next symbol as a task.
- A. Graves, "Generating Sequences With Recurrent Neural Networks", 2013, arXiv:1308.0850: a
  language model of characters that writes by feeding in what it drew.

Map of this file:
    NetworkConfig               what comes in and what goes out
    SequenceNetwork             embedding (if any), any recurrent layer, linear head
    VanillaRNN                  nn.RNN in the form of this chapter's layers, to compare with
    length_mask
    loss_function               one for classes, values, and a class at every step
    generate                    a language model writes

Shapes: B batch, T steps, D input width, M recurrent width, L layers, K outputs, V symbols.

Read before: numpy/recurrent_network_numpy.py; lstm_paper.py.

Deviations from the paper: none of consequence; Elman trains on the squared error of bits.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class NetworkConfig:
    """What comes in and what goes out.

    Args:
        outputs: K.
        vocabulary: V, symbols that may come in; 0 = the inputs are vectors and not symbols.
        head: what the output layer sees: "last", the last state of the top layer (of both
            directions); "mean", the mean of its outputs over the real steps; "every", each step's
            output by itself, which gives an answer at every step (language models).
        dropout: share of the head's inputs dropped in training.
    """

    outputs: int
    vocabulary: int = 0
    head: str = "last"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.outputs < 1:
            raise ValueError(f"expected outputs of at least 1, got {self.outputs}")
        if self.vocabulary < 0:
            raise ValueError(f"expected a vocabulary of at least 0, got {self.vocabulary}")
        if self.head not in ("last", "mean", "every"):
            raise ValueError(f"expected head 'last', 'mean' or 'every', got {self.head!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")


class SequenceNetwork(nn.Module):
    """Embedding (if the inputs are symbols), a recurrent layer, linear head.

    Args:
        rnn: ``LSTM`` of lstm_paper.py, ``GRU`` of gru_paper.py or ``VanillaRNN``: a module with a
            ``config`` (inputs D, width M, directions) that maps (x, lengths, state) to (y, state).
        config: the rest.

    State: ``embedding.weight`` (V, D), ``rnn.*``, ``head.weight`` (K, M * directions),
    ``head.bias`` (K,). Attribute ``state``: the last state after ``forward``, without gradient.
    """

    def __init__(self, rnn: nn.Module, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        if config.vocabulary:
            self.embedding = nn.Embedding(config.vocabulary, rnn.config.inputs)
        self.rnn = rnn
        self.head = nn.Linear(rnn.config.width * rnn.config.directions, config.outputs)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> Tensor:
        """Outputs (B, K), or (B, T, K) for the head "every".

        Args:
            x: tokens (B, T), or vectors (B, T, D).
            lengths: (B,), how many steps of each sequence are real; None = all.
            state: where to go on, as the attribute ``state`` has it; None = zeros (eq. 6.16).

        Raises:
            ValueError: the input has another shape, or a length is not in 1 to T.
        """
        config, D = self.config, self.rnn.config.inputs
        axes = 2 if config.vocabulary else 3
        if x.ndim != axes or (axes == 3 and x.shape[2] != D):
            expected = "tokens (B, T)" if axes == 2 else f"vectors (B, T, {D})"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        if lengths is not None and not 1 <= int(lengths.min()) <= int(lengths.max()) <= x.shape[1]:
            raise ValueError(
                f"expected lengths 1 to {x.shape[1]}, got {lengths.min()} to {lengths.max()}"
            )
        y, state = self.rnn(self.embedding(x) if config.vocabulary else x, lengths, state)
        self.state = tuple(part.detach() for part in state)
        if config.head == "last":
            h = state[0][-self.rnn.config.directions :]
            y = torch.cat(list(h), dim=1)  # (directions, B, M) -> (B, M * directions)
        elif config.head == "mean":
            y = y.sum(dim=1) / (x.shape[1] if lengths is None else lengths[:, None])  # eq. 6.20
        return self.head(F.dropout(y, config.dropout, self.training))  # eq. 6.3


@dataclass(frozen=True)
class RNNConfig:
    """Sizes of a vanilla RNN; see LSTMConfig."""

    inputs: int
    width: int
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("inputs", "width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 1 + self.bidirectional


class VanillaRNN(nn.RNN):
    """``nn.RNN`` with this chapter's call: lengths in the place of packed sequences.

    Packed, a batch is one row of its real steps, with the number of sequences at each step; so
    PyTorch's layers never see padding.
    """

    def __init__(self, config: RNNConfig) -> None:
        super().__init__(
            config.inputs,
            config.width,
            config.layers,
            batch_first=True,
            bidirectional=config.bidirectional,
            # between the layers; forward drops the first one's input
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.config = config

    def forward(  # type: ignore[override]
        self, x: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """y (B, T, M * directions) and the last (h,), (L * directions, B, M)."""
        x = F.dropout(x, self.config.dropout, self.training)
        start = None if state is None else state[0]
        if lengths is None:
            y, h = super().forward(x, start)
            return y, (h,)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, h = super().forward(packed, start)
        return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], (h,)


def length_mask(lengths: Tensor, T: int) -> Tensor:
    """True where a step is real: (B, T) for lengths (B,)."""
    return torch.arange(T, device=lengths.device) < lengths[:, None]


def loss_function(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The loss on a batch ``(x, lengths, y)``; what y is decides which.

    y (B,) float: half the squared error. (B,) int: cross-entropy. (B, T) int: cross-entropy over
    all real steps (eq. 6.4).
    """
    x, lengths, y = batch
    T = int(lengths.max())  # what is padding in every sequence need not be read
    outputs = model(x[:, :T], lengths)
    if y.is_floating_point():
        return 0.5 * (outputs[:, 0] - y).square().mean()
    if y.ndim == 2:
        real = length_mask(lengths, T)
        outputs, y = outputs[real], y[:, :T][real]  # (B, T, K) -> (real steps, K)
    return F.cross_entropy(outputs, y)


@torch.no_grad()
def generate(
    model: SequenceNetwork,
    tokens: Tensor,
    count: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Let a language model go on after ``tokens`` (T,): ``count`` symbols, each drawn from its own
    softmax of logits / temperature and fed back in."""
    written, state = [], None
    for _ in range(count):
        logits = model(tokens[None], state=state)[0, -1]  # -> (K,)
        state = model.state
        p = (logits / temperature).softmax(dim=0).cpu()  # eq. 6.4b
        tokens = torch.multinomial(p, 1, generator=generator).to(tokens.device)
        written.append(tokens)
    return torch.cat(written)
