"""Exercise: an LSTM whose gates see the cell, forward and backward (eqs. 6.39 and 6.40)."""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from logistic_numpy import sigmoid


def peephole_forward(x, state, weight_ih, weight_hh, weight_ch, bias):
    """All steps of one LSTM layer with peepholes.

    Args:
        x: (T, B, D), time first. state: ``(h, c)`` before the first step, each (B, M).
        weight_ih: (4M, D). weight_hh: (4M, M). bias: (4M,). Gates in the order i, f, g, o.
        weight_ch: (3, M), the peepholes of i, f and o, one weight for each cell.

    Returns:
        h of all steps (T, B, M), and the cache.
    """
    T, B, _ = x.shape
    M = weight_hh.shape[1]
    h, c = np.zeros((T + 1, B, M)), np.zeros((T + 1, B, M))  # h[t] is the state before step t
    h[0], c[0] = state
    gates = np.zeros((4, T, B, M))  # i, f, g, o, squashed
    for t in range(T):
        a_i, a_f, a_g, a_o = np.split(x[t] @ weight_ih.T + h[t] @ weight_hh.T + bias, 4, axis=1)
        # TODO: i, f, g, the new cell state c[t + 1], o (it comes last), h[t + 1]
        raise NotImplementedError(
            "i, f, g, the new cell state c[t + 1], o (it comes last), h[t + 1]"
        )
        gates[:, t] = i, f, g, o
    return h[1:], (x, h, c, gates, weight_ih, weight_hh, weight_ch)


def peephole_backward(dy, cache):
    """Back through all steps.

    Args:
        dy: (T, B, M), the gradient of each step's h.

    Returns:
        dx, dweight_ih, dweight_hh, dweight_ch, dbias.
    """
    x, h, c, gates, weight_ih, weight_hh, weight_ch = cache
    T, B, M = dy.shape
    da = np.zeros((T, B, 4 * M))
    dweight_ch = np.zeros_like(weight_ch)
    dh, dc = np.zeros((B, M)), np.zeros((B, M))
    for t in reversed(range(T)):
        i, f, g, o = gates[:, t]
        tanh_c = np.tanh(c[t + 1])
        dh = dh + dy[t]  # eq. 6.5
        # TODO: da_o, dc (now from three sides), da_i, da_f, da_g
        raise NotImplementedError("da_o, dc (now from three sides), da_i, da_f, da_g")
        da[t] = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
        # TODO: add this step's share to dweight_ch; dc for the step before
        raise NotImplementedError("add this step's share to dweight_ch; dc for the step before")
        dh = da[t] @ weight_hh  # eq. 6.33
    rows = da.reshape(T * B, 4 * M)
    dweight_ih = rows.T @ x.reshape(T * B, -1)  # eq. 6.9
    dweight_hh = rows.T @ h[:-1].reshape(T * B, M)  # eq. 6.10
    return da @ weight_ih, dweight_ih, dweight_hh, dweight_ch, rows.sum(axis=0)
