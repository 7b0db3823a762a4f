"""Gated recurrent unit in NumPy (level 1): the layer forward and backward, and its network.

Papers:
- K. Cho, B. van Merriënboer, C. Gulcehre, D. Bahdanau, F. Bougares, H. Schwenk, Y. Bengio,
  "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
  2014, arXiv:1406.1078, section 2.3: the unit.
- J. Chung, C. Gulcehre, K. Cho, Y. Bengio, "Empirical Evaluation of Gated Recurrent Neural Networks
  on Sequence Modeling", 2014, arXiv:1412.3555: GRU beside LSTM.

Map of this file:
    gru_forward, gru_backward     one layer, all steps
    GRUNetwork                    recurrent_network_numpy.py with this layer

Shapes: B batch, T steps, D input width, M recurrent width. The gates lie side by side in the order
r, z, n (PyTorch's), so that a step takes one product for all of them.

Read before: recurrent_numpy.py; recurrent_network_numpy.py; 06_LSTM_GRU/theory.md, sections 11, 12.

Deviations from the paper: this is cuDNN's variant, which PyTorch has too: the reset gate scales the
product U h, where Cho et al. scale h before the product; and there are biases. paper/gru_paper.py
has both.
"""

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from logistic_numpy import sigmoid
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


def gru_forward(
    x: np.ndarray,
    state: State,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: np.ndarray,
    bias_hh: np.ndarray,
    mask: np.ndarray | None = None,
) -> tuple[tuple[np.ndarray, State], tuple]:
    """All steps of one layer (eqs. 6.41 to 6.43).

    Args:
        x: (B, T, D). state: ``(h,)`` before the first step, h (B, M).
        weight_ih: (3M, D). weight_hh: (3M, M). bias_ih, bias_hh: (3M,).
        mask: (B, T) bool, True = a real step; None = all are.

    Returns:
        (y, (h,)): the states of all steps (B, T, M), zero at padding, and the last; and the cache.
    """
    (B, T, _), M = x.shape, weight_hh.shape[1]
    # bias_hh can't join bias_ih here: for n it stands inside the bracket that r scales.
    from_x, inputs = inputs_forward(x, weight_ih, bias_ih)  # -> (T, B, 3M)
    h = np.empty((T + 1, B, M), dtype=from_x.dtype)
    h[0] = state[0]
    gates, q = np.empty_like(from_x), np.empty_like(h[1:])
    recurrent = np.ascontiguousarray(weight_hh.T)
    for t in range(T):
        from_h = h[t] @ recurrent + bias_hh  # (B, M) -> (B, 3M)
        r, z, n = split(gates[t])  # views, to be filled
        gates[t, :, : 2 * M] = sigmoid(from_x[t, :, : 2 * M] + from_h[:, : 2 * M])  # eq. 6.41
        q[t] = from_h[:, 2 * M :]
        n[...] = np.tanh(from_x[t, :, 2 * M :] + r * q[t])  # eq. 6.42
        h[t + 1] = (1 - z) * n + z * h[t]  # eq. 6.43
        if mask is not None:
            carry_over(mask[:, t], h, t)  # eq. 6.17
    y = masked(h[1:], mask)  # eq. 6.18
    return (time_first(y), (h[T],)), (inputs, gates, q, h, weight_hh, mask)


def gru_backward(dy: np.ndarray, dlast: State, cache: tuple) -> tuple:
    """Backpropagation through time: dx, (dh,), dweight_ih, dweight_hh, dbias_ih, dbias_hh.

    Args:
        dy: (B, T, M). dlast: the gradient of the last state, (B, M) in a tuple; zeros if unused.
    """
    inputs, gates, q, h, weight_hh, mask = cache
    dy = masked(time_first(dy), mask)  # eq. 6.18, backward
    # The gradients of W x + b and of U h + b' differ in their last third, by the factor r.
    dfrom_x, dfrom_h = np.empty_like(gates), np.empty_like(gates)
    (dh,) = dlast
    for t in reversed(range(len(dy))):
        r, z, n = split(gates[t])
        da_r, da_z, da_n = split(dfrom_x[t])  # views, to be filled
        dh = dh + dy[t]  # eq. 6.5
        if mask is not None:
            dh, carried = divide(mask[:, t], dh)  # eq. 6.19
        da_n[...] = dh * (1 - z) * (1 - n * n)  # eq. 6.45
        da_z[...] = dh * (h[t] - n) * z * (1 - z)  # eq. 6.46
        da_r[...] = da_n * q[t] * r * (1 - r)  # eq. 6.47
        dfrom_h[t] = dfrom_x[t]
        split(dfrom_h[t])[2][...] *= r  # eq. 6.48
        dh = dh * z + dfrom_h[t] @ weight_hh  # eq. 6.49
        if mask is not None:
            dh = dh + carried  # eq. 6.19
    dx, dweight_ih, dbias_ih = inputs_backward(dfrom_x, inputs)
    dbias_hh = dfrom_h.sum(axis=(0, 1))  # eq. 6.11
    return dx, (dh,), dweight_ih, recurrent_gradient(dfrom_h, h), dbias_ih, dbias_hh


def split(a: np.ndarray) -> list[np.ndarray]:
    """The gates r, z, n of (B, 3M) as views (B, M)."""
    M = a.shape[1] // 3
    return [a[:, k * M : (k + 1) * M] for k in range(3)]


class GRUNetwork(RNNNetwork):
    """The network with GRU layers; ``rnn.weight_ih_l0`` is (3M, D), and so on.

    Args:
        update_bias: initial bias of the update gates, in ``bias_ih``; positive, it keeps the state,
            as an LSTM's forget bias does.
    """

    GATES, STATES = 3, 1
    LAYER = (gru_forward, gru_backward)

    def __init__(
        self,
        config: RecurrentConfig,
        rng: np.random.Generator,
        dtype: type = np.float64,
        update_bias: float = 0.0,
    ) -> None:
        super().__init__(config, rng, dtype)
        M = config.width
        for suffix in config.suffixes:
            self.params[f"rnn.bias_ih_{suffix}"][M : 2 * M] = update_bias
