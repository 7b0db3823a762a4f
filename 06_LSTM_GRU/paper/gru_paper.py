"""Gated recurrent unit (level 3): as Cho et al. print it, and as cuDNN and PyTorch compute it.

Papers:
- K. Cho, B. van Merriënboer, C. Gulcehre, D. Bahdanau, F. Bougares, H. Schwenk, Y. Bengio,
  "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
  2014, arXiv:1406.1078: section 2.3, equations (5) to (8); no biases.
- J. Chung, C. Gulcehre, K. Cho, Y. Bengio, "Empirical Evaluation of Gated Recurrent Neural Networks
  on Sequence Modeling", 2014, arXiv:1412.3555, section 3.2: the update gate with the opposite
  meaning.

Map of this file:
    GRUConfig       sizes, and what makes Cho's unit and cuDNN's
    GRU             layers x directions
    run_steps       the unit, step by step

sequence_network_paper.py puts an embedding below and a head on top.

Shapes: B batch, T steps, D input width, M recurrent width, L layers. Gates in PyTorch's order r, z,
n.

Read before: numpy/gru_numpy.py; 06_LSTM_GRU/theory.md, sections 11 and 12.

Deviations from the paper: none in the unit. Cho et al. use it in an encoder and a decoder for
phrases, with further inputs; here it is a layer by itself.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class GRUConfig:
    """Sizes and kind of a GRU; the defaults are ``nn.GRU``'s unit.

    Args:
        inputs: D. width: M. layers, bidirectional: as for ``nn.GRU``.
        dropout: share of the units dropped in training, at the input of each layer.
        reset: "after": r scales U h + b' (cuDNN, PyTorch); "before": r scales h (Cho et al.).
        bias: without it there are no biases (Cho et al.).
        update_bias: initial bias of the update gates, where there are biases; positive, it keeps
            the state, as an LSTM's forget bias does.
    """

    inputs: int
    width: int
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    reset: str = "after"
    bias: bool = True
    update_bias: float = 0.0

    def __post_init__(self) -> None:
        for name in ("inputs", "width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.reset not in ("before", "after"):
            raise ValueError(f"expected reset 'before' or 'after', got {self.reset!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    @classmethod
    def cho2014(cls, **sizes: Any) -> "GRUConfig":
        """The unit as printed: reset before the product, no biases."""
        return cls(reset="before", bias=False, **sizes)

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 1 + self.bidirectional


class GRU(nn.Module):
    """Layers x directions of gated recurrent units.

    State: ``weight_ih_l0`` (3M, D), ``weight_hh_l0`` (3M, M), ``bias_ih_l0``, ``bias_hh_l0`` (3M,),
    ``..._l0_reverse``, ``..._l1``, as ``nn.GRU`` has them; the biases only with ``config.bias``.
    """

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.config = config
        M = config.width
        ends = ("", "_reverse") if config.bidirectional else ("",)
        self.suffixes = [f"l{layer}{end}" for layer in range(config.layers) for end in ends]
        for i, suffix in enumerate(self.suffixes):
            D = config.inputs if i < config.directions else M * config.directions
            shapes: dict[str, tuple] = {"weight_ih": (3 * M, D), "weight_hh": (3 * M, M)}
            if config.bias:
                shapes |= {"bias_ih": (3 * M,), "bias_hh": (3 * M,)}
            for name, shape in shapes.items():
                self.register_parameter(f"{name}_{suffix}", nn.Parameter(torch.empty(shape)))
        self.initialise()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Weights uniform in ±1/√M, biases zero but for the update gates'."""
        M = self.config.width
        for name, p in self.named_parameters():
            if name.startswith("weight"):
                p.uniform_(-(M**-0.5), M**-0.5, generator=generator)
            else:
                p.zero_()
            if name.startswith("bias_ih"):  # in one of the two biases, which the cell adds
                p[M : 2 * M] = self.config.update_bias

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: tuple[Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor]]:
        """y (B, T, M * directions) and the last (h,), (L * directions, B, M).

        Args:
            x: (B, T, D). lengths: (B,), real steps; y is zero after them. state: where to go on.
        """
        B, T, _ = x.shape
        start = x.new_zeros(len(self.suffixes), B, self.config.width) if state is None else state[0]
        last: list[Tensor] = []
        for i, suffix in enumerate(self.suffixes):
            backwards = suffix.endswith("_reverse")
            if not backwards:
                x, outputs = F.dropout(x, self.config.dropout, self.training), []
            steps = reverse(x, lengths) if backwards else x
            p = {n.removesuffix(f"_{suffix}"): value for n, value in self.named_parameters()}
            from_x = F.linear(steps.transpose(0, 1), p["weight_ih"], p.get("bias_ih"))
            h = run_steps(from_x, p["weight_hh"], p.get("bias_hh"), start[i], self.config.reset)
            rows = torch.arange(B, device=x.device)
            end = torch.full_like(rows, T - 1) if lengths is None else lengths - 1
            last.append(h[end, rows])  # the state after each sequence's own last step
            y = h.transpose(0, 1)  # (T, B, M) -> (B, T, M)
            outputs.append(reverse(y, lengths) if backwards else y)
            if len(outputs) == self.config.directions:
                x = torch.cat(outputs, dim=2)  # eq. 6.21
                if lengths is not None:
                    real = torch.arange(T, device=x.device) < lengths[:, None]  # (B, T)
                    x = x * real[:, :, None]  # eq. 6.18
        return x, (torch.stack(last),)


def run_steps(
    from_x: Tensor, weight_hh: Tensor, bias_hh: Tensor | None, h: Tensor, reset: str
) -> Tensor:
    """The unit, step by step.

    Args:
        from_x: (T, B, 3M), W x + b of all steps. weight_hh: (3M, M). bias_hh: (3M,) or None.
        h: (B, M). reset: "before" or "after".

    Returns:
        all h, (T, B, M).
    """
    M = weight_hh.shape[1]
    every = []
    for x_r, x_z, x_n in (a.chunk(3, dim=1) for a in from_x):
        if reset == "after":
            h_r, h_z, h_n = F.linear(h, weight_hh, bias_hh).chunk(3, dim=1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)  # eq. 6.41
            n = torch.tanh(x_n + r * h_n)  # eq. 6.42
        else:
            bias_g, bias_n = (None, None) if bias_hh is None else bias_hh.split((2 * M, M))
            h_r, h_z = F.linear(h, weight_hh[: 2 * M], bias_g).chunk(2, dim=1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)  # eq. 6.41
            # r stands inside the product, so U_n has to wait for r: a second product a step
            n = torch.tanh(x_n + F.linear(r * h, weight_hh[2 * M :], bias_n))  # eq. 6.44
        h = (1 - z) * n + z * h  # eq. 6.43; Chung et al. write z for our 1 - z
        every.append(h)
    return torch.stack(every)


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x (B, T, ...) with each sequence reversed within its own length; padding stays (eq. 6.22)."""
    if lengths is None:
        return x.flip(1)
    t = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    order = torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)  # (B, T)
    return x.gather(1, order[:, :, None].expand_as(x))
