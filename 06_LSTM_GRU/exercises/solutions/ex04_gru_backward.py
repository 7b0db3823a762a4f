"""Solution: the GRU of the paper, whose reset gate acts before the product, backward (eq. 6.51)."""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from logistic_numpy import sigmoid


def cho_gru_forward(x, h0, weight_ih, weight_hh):
    """All steps of one GRU layer as Cho et al. print it: no biases, r inside the product.

    Args:
        x: (T, B, D), time first. h0: (B, M).
        weight_ih: (3M, D). weight_hh: (3M, M). Gates in the order r, z, n.

    Returns:
        h of all steps (T, B, M), and the cache.
    """
    T, B, _ = x.shape
    M = weight_hh.shape[1]
    U_r, U_z, U_n = np.split(weight_hh, 3)  # (3M, M) -> three times (M, M)
    h, gates = np.zeros((T + 1, B, M)), np.zeros((3, T, B, M))
    h[0] = h0  # h[t] is the state before step t
    for t in range(T):
        x_r, x_z, x_n = np.split(x[t] @ weight_ih.T, 3, axis=1)
        r, z = sigmoid(x_r + h[t] @ U_r.T), sigmoid(x_z + h[t] @ U_z.T)  # eq. 6.41
        n = np.tanh(x_n + (r * h[t]) @ U_n.T)  # eq. 6.44
        h[t + 1] = (1 - z) * n + z * h[t]  # eq. 6.43
        gates[:, t] = r, z, n
    return h[1:], (x, h, gates, weight_ih, weight_hh)


def cho_gru_backward(dy, cache):
    """Back through all steps.

    Args:
        dy: (T, B, M), the gradient of each step's h.

    Returns:
        dx, dh0, dweight_ih, dweight_hh.
    """
    x, h, gates, weight_ih, weight_hh = cache
    T, B, M = dy.shape
    U_r, U_z, U_n = np.split(weight_hh, 3)
    da = np.zeros((T, B, 3 * M))  # of what stands in the three brackets, all steps
    dweight_hh = np.zeros_like(weight_hh)
    dh = np.zeros((B, M))
    for t in reversed(range(T)):
        r, z, n = gates[:, t]
        dh = dh + dy[t]  # eq. 6.5
        # --- your code: da_n, da_z, the gradient that arrives at (r * h[t]), and with it da_r
        da_n = dh * (1 - z) * (1 - n**2)  # eq. 6.45
        da_z = dh * (h[t] - n) * z * (1 - z)  # eq. 6.46
        at_reset = da_n @ U_n
        da_r = at_reset * h[t] * r * (1 - r)  # eq. 6.50
        # --- end
        da[t] = np.concatenate([da_r, da_z, da_n], axis=1)
        # --- your code: add this step's share to each third of dweight_hh
        dweight_hh[:M] += da_r.T @ h[t]  # eq. 6.10
        dweight_hh[M : 2 * M] += da_z.T @ h[t]
        dweight_hh[2 * M :] += da_n.T @ (r * h[t])  # eq. 6.50
        # --- end
        # --- your code: dh of the state before; there are four ways to it
        dh = da_r @ U_r + da_z @ U_z + at_reset * r + dh * z  # eq. 6.51
        # --- end
    rows = da.reshape(T * B, 3 * M)
    return da @ weight_ih, dh, rows.T @ x.reshape(T * B, -1), dweight_hh  # eqs. 6.8 and 6.9
