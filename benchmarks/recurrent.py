"""Cases of 06_LSTM_GRU: an LSTM's training step at each level against torch.nn."""

import numpy as np
import torch
from torch import Tensor, nn

import lstm_lowlevel
import lstm_numpy
import lstm_paper
from benchmarks.case import Case, Work
from recurrent_network_numpy import RecurrentConfig

BATCH, STEPS, WIDTH = 32, 100, 128


def _batch() -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and the gradient of the outputs."""
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((BATCH, STEPS, WIDTH), np.float32) for _ in range(2))
    return x, dy / (BATCH * STEPS)


def _tensors() -> tuple[Tensor, Tensor]:
    x, dy = _batch()
    # The layer below wants the gradient of the inputs, and level 1 always computes it.
    return torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)


def numpy_step() -> Work:
    x, dy = _batch()
    config = RecurrentConfig(WIDTH, WIDTH, 1)
    model = lstm_numpy.LSTMNetwork(config, np.random.default_rng(0), np.float32)
    weights = [model.params[f"rnn.{name}_l0"] for name in ("weight_ih", "weight_hh")]
    weights += [model.params[f"rnn.{name}_l0"] for name in ("bias_ih", "bias_hh")]
    zeros = np.zeros((BATCH, WIDTH), dtype=np.float32)

    def step() -> None:
        _, cache = lstm_numpy.lstm_forward(x, (zeros, zeros), *weights)
        _, _, *grads = lstm_numpy.lstm_backward(dy, (zeros, zeros), cache)
        for p, g in zip(weights, grads, strict=True):
            p -= 0.1 * g

    return step


def lowlevel_step() -> Work:
    x, dy = _tensors()
    config = lstm_lowlevel.LSTMConfig(WIDTH, WIDTH, 1)
    params = lstm_lowlevel.init_params(config)
    weights = {name: p for name, p in params.items() if name.startswith("rnn.")}
    zeros = torch.zeros(BATCH, WIDTH)

    def step() -> None:
        y, _, _ = lstm_lowlevel.lstm_layer(weights, "l0", x, zeros, zeros, None)
        _, *grads = torch.autograd.grad(y, [x, *weights.values()], dy)
        with torch.no_grad():
            for p, g in zip(weights.values(), grads, strict=True):
                p -= 0.1 * g

    return step


def _module_step(model: nn.Module) -> Work:
    x, dy = _tensors()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(x)[0].backward(dy)
        optimizer.step()

    return step


def paper_step() -> Work:
    return _module_step(lstm_paper.LSTM(lstm_paper.LSTMConfig(WIDTH, WIDTH)))


def torch_step() -> Work:
    return _module_step(nn.LSTM(WIDTH, WIDTH, batch_first=True))


class CellByCell(nn.Module):
    """``nn.LSTMCell`` in a loop: PyTorch's LSTM written step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, D) -> all h (B, T, M) and the last state."""
        h = c = x.new_zeros(len(x), WIDTH)
        every = []
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
            every.append(h)
        return torch.stack(every, dim=1), (h, c)


class StepByStep(lstm_paper.LSTM):
    """Level 3 in the form that shows the cell, and that all its variants use."""

    def _direction(self, suffix: str, x: Tensor, h: Tensor, c: Tensor) -> lstm_paper.State:
        p = {name.removesuffix(f"_{suffix}"): value for name, value in self.named_parameters()}
        from_x = nn.functional.linear(
            x.transpose(0, 1), p["weight_ih"], p["bias_ih"] + p["bias_hh"]
        )
        return lstm_paper.run_steps(from_x, p["weight_hh"], h, c, self.config)


def paper_steps() -> Work:
    return _module_step(StepByStep(lstm_paper.LSTMConfig(WIDTH, WIDTH)))


def cell_steps() -> Work:
    return _module_step(CellByCell())


_WHAT = f"LSTM: forward, backward and SGD, batch {BATCH}, {STEPS} steps, width {WIDTH}, float32"
CASES = [
    Case("06 numpy lstm step", _WHAT, numpy_step, torch_step, "nn.LSTM", 3.0),
    Case("06 lowlevel lstm step", _WHAT, lowlevel_step, torch_step, "nn.LSTM", 4.0),
    Case("06 paper lstm step", _WHAT, paper_step, torch_step, "nn.LSTM", 1.5),
    Case("06 paper lstm step by step", _WHAT, paper_steps, cell_steps, "nn.LSTMCell", 1.3),
]
