"""Long short-term memory (level 3): as printed in 1997, with forget gate (2000), with peepholes.

Papers:
- S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (8), 1997: the cell
  (section 4), the truncated gradient (appendix A.1), the experiments (section 5).
- F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget: Continual Prediction with LSTM",
  Neural Computation 12 (10), 2000: the forget gate.
- F. A. Gers, N. N. Schraudolph, J. Schmidhuber, "Learning Precise Timing with LSTM Recurrent
  Networks", JMLR 3, 2002: peephole connections.
- R. Jozefowicz, W. Zaremba, I. Sutskever, "An Empirical Exploration of Recurrent Network
  Architectures", 2015: a forget bias of 1.

Map of this file:
    LSTMConfig                  sizes, and what makes the LSTM of 1997, of 2000, of today
    LSTM                        layers x directions; run_steps is the cell, step by step
    LSTMFunction                today's cell with the backward pass of theory.md, for speed

sequence_network_paper.py puts an embedding below and a head on top.

Shapes: B batch, T steps, D input width, M recurrent width, G gates, L layers.

Read before: numpy/lstm_numpy.py; 06_LSTM_GRU/theory.md, sections 7 to 10.

Deviations from the paper: a memory block holds one cell, where 1997 and 2000 have blocks of several
cells that share their gates. Gates read all h of the step before, where the papers' networks also
connect gates with each other. With peepholes the tanh of the cell's output stays, which the paper
of 2002 leaves out. Training is by mini-batches with Adam.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

State = tuple[Tensor, Tensor]

# dy, y -> dy y (1 - y) and dy (1 - y²), each in one pass over memory
sigmoid_slope, tanh_slope = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


@dataclass(frozen=True)
class LSTMConfig:
    """Sizes and kind of an LSTM; the defaults are ``nn.LSTM``'s cell.

    Args:
        inputs: D. width: M. layers, bidirectional: as for ``nn.LSTM``.
        dropout: share of the units dropped in training, at the input of each layer.
        forget_gate: without it the state is never forgotten (1997).
        peepholes: the gates see the state c through a weight for each cell (2002).
        squashing: "tanh" for the cell's input and output; "1997": -2 to 2, and -1 to 1.
        truncated: the gradient of 1997, which does not go back through the gates' inputs.
        forget_bias: initial bias of the forget gates.
        input_bias: initial bias of the input gates; negative, it keeps the state from drifting
            before there is anything to keep (1997, section 4).
    """

    inputs: int
    width: int
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    forget_gate: bool = True
    peepholes: bool = False
    squashing: str = "tanh"
    truncated: bool = False
    forget_bias: float = 1.0
    input_bias: float = 0.0

    def __post_init__(self) -> None:
        for name in ("inputs", "width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.squashing not in ("tanh", "1997"):
            raise ValueError(f"expected squashing 'tanh' or '1997', got {self.squashing!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    @classmethod
    def hochreiter1997(cls, **sizes: Any) -> "LSTMConfig":
        """Input and output gate only, the squashing functions and the gradient of 1997."""
        return cls(forget_gate=False, squashing="1997", truncated=True, **sizes)

    @classmethod
    def gers2000(cls, **sizes: Any) -> "LSTMConfig":
        """The same with a forget gate, whose bias starts at 1."""
        return cls(squashing="1997", truncated=True, **sizes)

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 1 + self.bidirectional

    @property
    def standard(self) -> bool:
        """Whether the cell is that of ``nn.LSTM``."""
        plain = self.forget_gate and self.squashing == "tanh"
        return plain and not (self.peepholes or self.truncated)


class LSTM(nn.Module):
    """Layers x directions of LSTM cells.

    State: ``weight_ih_l0`` (G*M, D), ``weight_hh_l0`` (G*M, M), ``bias_ih_l0``, ``bias_hh_l0``
    (G*M,), ``..._l0_reverse``, ``..._l1``, as ``nn.LSTM`` has them: gates i, f, g, o, or i, g, o
    without forget gate; with peepholes also ``weight_ch_l0``, a row (M,) for each of i, (f,) o.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        M, G = config.width, 4 if config.forget_gate else 3
        ends = ("", "_reverse") if config.bidirectional else ("",)
        self.suffixes = [f"l{layer}{end}" for layer in range(config.layers) for end in ends]
        for i, suffix in enumerate(self.suffixes):
            D = config.inputs if i < config.directions else M * config.directions
            shapes = {"weight_ih": (G * M, D), "weight_hh": (G * M, M)}
            shapes |= {"bias_ih": (G * M,), "bias_hh": (G * M,)}
            if config.peepholes:
                shapes["weight_ch"] = (G - 1, M)
            for name, shape in shapes.items():
                self.register_parameter(f"{name}_{suffix}", nn.Parameter(torch.empty(shape)))
        self.initialise()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Weights uniform in ±1/√M; biases zero but for the input and forget gates' (eq. 6.35)."""
        M = self.config.width
        for name, p in self.named_parameters():
            if name.startswith("weight"):
                p.uniform_(-(M**-0.5), M**-0.5, generator=generator)
            else:
                p.zero_()
            if name.startswith("bias_ih"):  # in one of the two biases, which the cell adds
                p[:M] = self.config.input_bias
                if self.config.forget_gate:
                    p[M : 2 * M] = self.config.forget_bias

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """y (B, T, M * directions) and the last (h, c), each (L * directions, B, M).

        Args:
            x: (B, T, D). lengths: (B,), real steps; y is zero after them. state: where to go on.
        """
        B, T, _ = x.shape
        if state is None:
            zeros = x.new_zeros(len(self.suffixes), B, self.config.width)
            state = (zeros, zeros)
        last: list[Tensor] = []
        for i, suffix in enumerate(self.suffixes):
            backwards = suffix.endswith("_reverse")
            if not backwards:
                x, outputs = F.dropout(x, self.config.dropout, self.training), []
            steps = reverse(x, lengths) if backwards else x
            h, c = self._direction(suffix, steps, state[0][i], state[1][i])  # each (T, B, M)
            rows = torch.arange(B, device=x.device)
            end = torch.full_like(rows, T - 1) if lengths is None else lengths - 1
            last += [h[end, rows], c[end, rows]]  # the state after each sequence's own last step
            y = h.transpose(0, 1)  # (T, B, M) -> (B, T, M)
            outputs.append(reverse(y, lengths) if backwards else y)
            if len(outputs) == self.config.directions:
                x = torch.cat(outputs, dim=2) if len(outputs) > 1 else y  # eq. 6.21
                if lengths is not None:
                    x = x * length_mask(lengths, T)[:, :, None]  # eq. 6.18
        return x, (torch.stack(last[0::2]), torch.stack(last[1::2]))

    def _direction(self, suffix: str, x: Tensor, h: Tensor, c: Tensor) -> State:
        """All h and all c of one direction of one layer, (T, B, M) each, for x (B, T, D)."""
        p = {name.removesuffix(f"_{suffix}"): value for name, value in self.named_parameters()}
        x, bias = x.transpose(0, 1).contiguous(), p["bias_ih"] + p["bias_hh"]  # -> (T, B, D)
        if self.config.standard:
            return LSTMFunction.apply(x, p["weight_ih"], p["weight_hh"], bias, h, c)
        from_x = F.linear(x, p["weight_ih"], bias)
        return run_steps(from_x, p["weight_hh"], h, c, self.config, p.get("weight_ch"))


def run_steps(
    from_x: Tensor,
    weight_hh: Tensor,
    h: Tensor,
    c: Tensor,
    config: LSTMConfig,
    weight_ch: Tensor | None = None,
) -> State:
    """The cell, step by step, of every kind.

    Args:
        from_x: (T, B, G*M), W x + b of all steps. weight_hh: (G*M, M). h, c: (B, M).
        weight_ch: (G-1, M), the peepholes of i, (f,) o.

    Returns:
        all h and all c, (T, B, M) each.
    """
    all_h, all_c = [], []
    peepholes = list(weight_ch) if weight_ch is not None else [0.0] * 3
    for a in from_x:
        seen = h.detach() if config.truncated else h  # eq. 6.38
        a_i, *a_f, a_g, a_o = (a + seen @ weight_hh.T).chunk(4 if config.forget_gate else 3, dim=1)
        before = c.detach() if config.truncated else c
        i = torch.sigmoid(a_i + peepholes[0] * before)  # eqs. 6.24 and 6.39
        f = torch.sigmoid(a_f[0] + peepholes[1] * before) if a_f else 1.0  # eq. 6.36: no f
        if config.squashing == "1997":
            c = f * c + i * (4 * torch.sigmoid(a_g) - 2)  # eqs. 6.36 and 6.37
            squashed = 2 * torch.sigmoid(c) - 1
        else:
            c = f * c + i * torch.tanh(a_g)  # eq. 6.25
            squashed = torch.tanh(c)
        now = c.detach() if config.truncated else c
        h = torch.sigmoid(a_o + peepholes[-1] * now) * squashed  # eqs. 6.26 and 6.39
        all_h.append(h)
        all_c.append(c)
    return torch.stack(all_h), torch.stack(all_c)


class LSTMFunction(torch.autograd.Function):
    """The standard cell with the gradient of theory.md in autograd's place: x (T, B, D) -> h, c.

    Autograd keeps a node for each operation of each step, and adds up weight_hh's gradient step by
    step. Written out, that gradient is one product at the end (eq. 6.10), and nothing is kept but
    the gates and states. ``ctx`` hands on what ``backward`` needs, which gets the gradients of
    all h and all c, None for one that is not used. ``a.addmm_(b, c)`` adds b @ c to a in place,
    ``a.addcmul_(b, c)`` adds b * c.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, h: Tensor,
                c: Tensor) -> State:  # fmt: skip
        T, B, M = *x.shape[:2], weight_hh.shape[1]
        gates = F.linear(x, weight_ih, bias)  # (T, B, 4M), its own memory: the gates overwrite it
        all_h, all_c = (gates.new_empty(T + 1, B, M) for _ in range(2))
        all_h[0], all_c[0] = h, c
        tanh_c = gates.new_empty(T, B, M)
        recurrent = weight_hh.t().contiguous().to(gates.dtype)
        # Lists of views, made once: indexing a tensor costs as much as adding one this small.
        rows = gates.unbind()
        i, f, g, o = (part.unbind() for part in gates.chunk(4, dim=2))
        i_and_f, hs = gates[:, :, : 2 * M].unbind(), all_h.unbind()
        cs, tanhs = all_c.unbind(), tanh_c.unbind()
        for t in range(T):
            rows[t].addmm_(hs[t], recurrent)  # eq. 6.23
            i_and_f[t].sigmoid_(), g[t].tanh_(), o[t].sigmoid_()  # eq. 6.24
            torch.mul(f[t], cs[t], out=cs[t + 1]).addcmul_(i[t], g[t])  # eq. 6.25
            torch.mul(o[t], torch.tanh(cs[t + 1], out=tanhs[t]), out=hs[t + 1])  # eq. 6.26
        ctx.save_for_backward(x, weight_ih, weight_hh, gates, all_h, all_c, tanh_c)
        ctx.set_materialize_grads(False)
        return all_h[1:], all_c[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor | None, dc: Tensor | None) -> tuple:
        x, weight_ih, weight_hh, gates, all_h, all_c, tanh_c = ctx.saved_tensors
        T, B, M = tanh_c.shape
        x, weight_ih, weight_hh = (a.to(gates.dtype) for a in (x, weight_ih, weight_hh))
        i, f, g, o = gates.chunk(4, dim=2)
        # What multiplies dc and dh does not depend on them: all steps at once (eqs. 6.27 to 6.31).
        da = torch.empty_like(gates)
        to_i, to_f, to_g, to_o = da.chunk(4, dim=2)
        sigmoid_slope(g, i, grad_input=to_i)  # eq. 6.29: g i (1 - i)
        sigmoid_slope(all_c[:-1], f, grad_input=to_f)  # eq. 6.30
        tanh_slope(i, g, grad_input=to_g)  # eq. 6.31: i (1 - g²)
        sigmoid_slope(tanh_c, o, grad_input=to_o)  # eq. 6.27
        through_h = tanh_slope(o, tanh_c)  # eq. 6.28
        of_c, of_h = da[:, :, : 3 * M].view(T, B, 3, M).unbind(), da[:, :, 3 * M :].unbind()
        rows, through, keep = da.unbind(), through_h.unbind(), f.unbind()
        dh_t, dc_t, back = (gates.new_zeros(B, M) for _ in range(3))
        for t in reversed(range(T)):
            if dc is not None:
                dc_t += dc[t]
            dh_t = back if dh is None else torch.add(dh[t], back, out=dh_t)  # eq. 6.5
            dc_t.addcmul_(dh_t, through[t])  # eq. 6.28
            of_h[t].mul_(dh_t), of_c[t].mul_(dc_t[:, None])  # eqs. 6.27, 6.29, 6.30 and 6.31
            dc_t.mul_(keep[t])  # eq. 6.32
            back = torch.mm(rows[t], weight_hh)  # eq. 6.33
        da = da.flatten(0, 1)  # (T, B, 4M) -> (T*B, 4M)
        dx = (da @ weight_ih).view(x.shape) if ctx.needs_input_grad[0] else None  # eq. 6.8
        dweight_ih = da.t() @ x.flatten(0, 1)  # eq. 6.9
        dweight_hh = da.t() @ all_h[:-1].flatten(0, 1)  # eq. 6.10
        return dx, dweight_ih, dweight_hh, da.sum(dim=0), back, dc_t  # eq. 6.11


def length_mask(lengths: Tensor, T: int) -> Tensor:
    """True where a step is real: (B, T) for lengths (B,)."""
    return torch.arange(T, device=lengths.device) < lengths[:, None]


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x (B, T, ...) with each sequence reversed within its own length; padding stays (eq. 6.22)."""
    if lengths is None:
        return x.flip(1)
    t = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    order = torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)  # (B, T)
    return x.gather(1, order[:, :, None].expand_as(x))
