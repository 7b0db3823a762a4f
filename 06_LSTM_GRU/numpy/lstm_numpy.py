"""Long short-term memory in NumPy (level 1): the layer forward and backward, and its network.

Papers:
- S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (8), 1997: the
  memory cell with input and output gate.
- F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget: Continual Prediction with LSTM",
  Neural Computation 12 (10), 2000: the forget gate.
- A. Graves, J. Schmidhuber, "Framewise Phoneme Classification with Bidirectional LSTM", 2005: the
  full gradient, as here.
- R. Jozefowicz, W. Zaremba, I. Sutskever, "An Empirical Exploration of Recurrent Network
  Architectures", 2015: a forget bias of 1.

Map of this file:
    lstm_forward, lstm_backward     one layer, all steps
    LSTMNetwork                     recurrent_network_numpy.py with this layer

Shapes: B batch, T steps, D input width, M recurrent width. The four gates lie side by side in the
order i, f, g, o (PyTorch's), so that a step takes one product for all of them.

Read before: recurrent_numpy.py; recurrent_network_numpy.py; 06_LSTM_GRU/theory.md, sections 7 to 9.

Deviations from the paper: this is the LSTM of today, which PyTorch has. Those of 1997 and 2000
squash by other functions, cut the gradient short, and come without forget gate (1997) or in blocks
of several cells: see paper/lstm_paper.py.
"""

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from recurrent_network_numpy import RecurrentConfig, RNNNetwork
from recurrent_numpy import (
    State,
    carry_over,
    divide,
    inputs_backward,
    inputs_forward,
    masked,
    recurrent_gradient,
    time_first,
)


def lstm_forward(
    x: np.ndarray,
    state: State,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: np.ndarray,
    bias_hh: np.ndarray,
    mask: np.ndarray | None = None,
) -> tuple[tuple[np.ndarray, State], tuple]:
    """All steps of one layer (eqs. 6.23 to 6.26).

    Args:
        x: (B, T, D). state: ``(h, c)`` before the first step, both (B, M).
        weight_ih: (4M, D). weight_hh: (4M, M). bias_ih, bias_hh: (4M,).
        mask: (B, T) bool, True = a real step; None = all are.

    Returns:
        (y, (h, c)): all h (B, T, M), zero at padding, and the last h and c; and the cache.
    """
    (B, T, _), M = x.shape, weight_hh.shape[1]
    gates, inputs = inputs_forward(x, weight_ih, bias_ih + bias_hh)  # -> (T, B, 4M)
    h, c = (np.empty((T + 1, B, M), dtype=gates.dtype) for _ in range(2))
    h[0], c[0] = state
    tanh_c = np.empty_like(c[1:])
    recurrent = np.ascontiguousarray(weight_hh.T)
    # sigmoid(a) = 1/2 + 1/2 tanh(a/2) (eq. 6.24): with a scale and a shift for each column, one
    # tanh over the whole row serves all four gates.
    scale = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], dtype=gates.dtype), M)
    shift = np.repeat(np.array([0.5, 0.5, 0.0, 0.5], dtype=gates.dtype), M)
    for t in range(T):
        a = gates[t]  # a view: what is done to it is kept for the backward pass
        a += h[t] @ recurrent  # eq. 6.23
        a *= scale
        np.tanh(a, out=a)
        a *= scale
        a += shift
        i, f, g, o = split(a)  # eq. 6.24
        c[t + 1] = f * c[t] + i * g  # eq. 6.25
        np.tanh(c[t + 1], out=tanh_c[t])
        h[t + 1] = o * tanh_c[t]  # eq. 6.26
        if mask is not None:
            carry_over(mask[:, t], h, t)  # eq. 6.17
            carry_over(mask[:, t], c, t)
    y = masked(h[1:], mask)  # eq. 6.18
    return (time_first(y), (h[T], c[T])), (inputs, gates, h, c, tanh_c, weight_hh, mask)


def lstm_backward(dy: np.ndarray, dlast: State, cache: tuple) -> tuple:
    """Backpropagation through time: dx, (dh, dc), dweight_ih, dweight_hh, dbias_ih, dbias_hh.

    Args:
        dy: (B, T, M). dlast: gradients of the last h and c, both (B, M); zeros where unused.
    """
    inputs, gates, h, c, tanh_c, weight_hh, mask = cache
    dy = masked(time_first(dy), mask)  # eq. 6.18, backward
    da = np.empty_like(gates)
    dh, dc = dlast
    for t in reversed(range(len(dy))):
        i, f, g, o = split(gates[t])
        da_i, da_f, da_g, da_o = split(da[t])  # views, to be filled
        dh = dh + dy[t]  # eq. 6.5
        if mask is not None:
            dh, carried_h = divide(mask[:, t], dh)  # eq. 6.19
            dc, carried_c = divide(mask[:, t], dc)
        dc = dc + dh * o * (1 - tanh_c[t] ** 2)  # eq. 6.28
        da_o[...] = dh * tanh_c[t] * o * (1 - o)  # eq. 6.27
        da_i[...] = dc * g * i * (1 - i)  # eq. 6.29
        da_f[...] = dc * c[t] * f * (1 - f)  # eq. 6.30
        da_g[...] = dc * i * (1 - g * g)  # eq. 6.31
        dc = dc * f  # eq. 6.32
        dh = da[t] @ weight_hh  # eq. 6.33
        if mask is not None:
            dh, dc = dh + carried_h, dc + carried_c  # eq. 6.19
    dx, dweight_ih, dbias = inputs_backward(da, inputs)
    return dx, (dh, dc), dweight_ih, recurrent_gradient(da, h), dbias, dbias.copy()


def split(a: np.ndarray) -> list[np.ndarray]:
    """The gates i, f, g, o of (B, 4M) as views (B, M)."""
    M = a.shape[1] // 4
    return [a[:, k * M : (k + 1) * M] for k in range(4)]


class LSTMNetwork(RNNNetwork):
    """The network with LSTM layers; ``rnn.weight_ih_l0`` is (4M, D), and so on.

    Args:
        forget_bias: initial bias of the forget gates, in ``bias_ih`` alone: the layer adds
            ``bias_hh``, so a 1 in both would be a 2 (eq. 6.35).
        input_bias: the same of the input gates; negative, it keeps the state from drifting before
            there is anything to keep (section 4 of the 1997 paper).
    """

    GATES, STATES = 4, 2
    LAYER = (lstm_forward, lstm_backward)

    def __init__(
        self,
        config: RecurrentConfig,
        rng: np.random.Generator,
        dtype: type = np.float64,
        forget_bias: float = 1.0,
        input_bias: float = 0.0,
    ) -> None:
        super().__init__(config, rng, dtype)
        M = config.width
        for suffix in config.suffixes:
            bias = self.params[f"rnn.bias_ih_{suffix}"]
            bias[:M], bias[M : 2 * M] = input_bias, forget_bias
