"""Solution: an LSTM whose gates see the cell, forward and backward (eqs. 6.39 and 6.40)."""

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
        # --- your code: i, f, g, the new cell state c[t + 1], o (it comes last), h[t + 1]
        i = sigmoid(a_i + weight_ch[0] * c[t])  # eq. 6.39
        f = sigmoid(a_f + weight_ch[1] * c[t])
        g = np.tanh(a_g)
        c[t + 1] = f * c[t] + i * g  # eq. 6.25
        o = sigmoid(a_o + weight_ch[2] * c[t + 1])  # eq. 6.39
        h[t + 1] = o * np.tanh(c[t + 1])  # eq. 6.26
        # --- end
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
        # --- your code: da_o, dc (now from three sides), da_i, da_f, da_g
        da_o = dh * tanh_c * o * (1 - o)  # eq. 6.27
        dc = dc + dh * o * (1 - tanh_c**2) + da_o * weight_ch[2]  # eqs. 6.28 and 6.40
        da_i = dc * g * i * (1 - i)  # eq. 6.29
        da_f = dc * c[t] * f * (1 - f)  # eq. 6.30
        da_g = dc * i * (1 - g**2)  # eq. 6.31
        # --- end
        da[t] = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
        # --- your code: add this step's share to dweight_ch; dc for the step before
        dweight_ch[0] += (da_i * c[t]).sum(axis=0)  # eq. 6.40
        dweight_ch[1] += (da_f * c[t]).sum(axis=0)
        dweight_ch[2] += (da_o * c[t + 1]).sum(axis=0)
        dc = dc * f + da_i * weight_ch[0] + da_f * weight_ch[1]  # eqs. 6.32 and 6.40
        # --- end
        dh = da[t] @ weight_hh  # eq. 6.33
    rows = da.reshape(T * B, 4 * M)
    dweight_ih = rows.T @ x.reshape(T * B, -1)  # eq. 6.9
    dweight_hh = rows.T @ h[:-1].reshape(T * B, M)  # eq. 6.10
    return da @ weight_ih, dweight_ih, dweight_hh, dweight_ch, rows.sum(axis=0)
