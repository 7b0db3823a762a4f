"""Exercise: the GRU of the paper, whose reset gate acts before the product, backward (eq. 6.51)."""

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
        # TODO: da_n, da_z, the gradient that arrives at (r * h[t]), and with it da_r
        raise NotImplementedError(
            "da_n, da_z, the gradient that arrives at (r * h[t]), and with it da_r"
        )
        da[t] = np.concatenate([da_r, da_z, da_n], axis=1)
        # TODO: add this step's share to each third of dweight_hh
        raise NotImplementedError("add this step's share to each third of dweight_hh")
        # TODO: dh of the state before; there are four ways to it
        raise NotImplementedError("dh of the state before; there are four ways to it")
    rows = da.reshape(T * B, 3 * M)
    return da @ weight_ih, dh, rows.T @ x.reshape(T * B, -1), dweight_hh  # eqs. 6.8 and 6.9
