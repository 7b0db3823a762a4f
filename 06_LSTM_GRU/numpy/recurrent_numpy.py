"""Recurrent networks in NumPy (level 1): embedding, vanilla RNN, backpropagation through time.

Papers:
- J. L. Elman, "Finding Structure in Time", Cognitive Science 14, 1990: the vanilla RNN.
- P. J. Werbos, "Backpropagation Through Time: What It Does and How to Do It", Proceedings of the
  IEEE 78, 1990: the backward pass.
- R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training Recurrent Neural Networks",
  2013, arXiv:1211.5063, section 3.2: clipping by norm.

Map of this file:
    length_mask                      which steps of a padded batch are real
    embedding                        rows of a table, one for each symbol
    rnn                              one layer, all steps: h_t = tanh(W x_t + b + U h_{t-1} + b')
    inputs, recurrent_gradient       its products that take all steps at once
    masked, carry_over, divide       its padding: outputs, states, and the gradient of states
    sequence_cross_entropy           the loss where every step has a target
    clip_by_norm

The layers of lstm_numpy.py and gru_numpy.py have the same form; recurrent_network_numpy.py stacks
layers of any kind and puts an embedding below and a head on top.

A recurrent layer is a pair of functions like every primitive, with a state besides its input:
``(y, last), cache = rnn_forward(x, state, weight_ih, weight_hh, bias_ih, bias_hh, mask)`` and
``dx, dstate, dweight_ih, dweight_hh, dbias_ih, dbias_hh = rnn_backward(dy, dlast, cache)``. The
state is a tuple of arrays (B, M): one array here, two for the LSTM.

Shapes: B batch, T steps, D input width, M recurrent width, G affine maps a step, K outputs, V
vocabulary. Arrays are (B, T, ...) outside; inside a layer (T, B, ...), so that a step is one block
of memory.

Read before: 02_MLP/numpy/mlp_numpy.py (linear, dropout, cross-entropy); 06_LSTM_GRU/theory.md,
sections 1 to 5.

Deviations from the paper: Elman's network learns by one step of backpropagation, his context units
being inputs; here the gradient goes back through all steps. tanh takes the place of the logistic.
"""

import math

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from mlp_numpy import (
    linear_backward,
    linear_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)

Params = dict[str, np.ndarray]
State = tuple[np.ndarray, ...]


# --- padding


def length_mask(lengths: np.ndarray, T: int) -> np.ndarray:
    """True where a step is real, False where it is padding: (B, T) for lengths (B,).

    Raises:
        ValueError: a length outside 1 to T.
    """
    if lengths.min() < 1 or lengths.max() > T:
        raise ValueError(f"expected lengths 1 to {T}, got {lengths.min()} to {lengths.max()}")
    return np.arange(T) < lengths[:, None]  # (T,) and (B, 1) -> (B, T)


# --- embedding


def embedding_forward(tokens: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Row ``tokens[b, t]`` of the table for each symbol (eq. 6.1).

    Args:
        tokens: (B, T) ints in [0, V). weight: (V, D).

    Returns:
        y: (B, T, D), and the cache for :func:`embedding_backward`.

    Raises:
        ValueError: no ints, or one outside the table.
    """
    V = len(weight)
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.min() < 0 or tokens.max() >= V:
        raise ValueError(
            f"expected int tokens 0 to {V - 1}, "
            f"got {tokens.dtype} from {tokens.min()} to {tokens.max()}"
        )
    return weight[tokens], (tokens, weight)


def embedding_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of the table (V, D); symbols have none."""
    tokens, weight = cache
    dweight = np.zeros_like(weight)
    # dweight[tokens] += dy would count a symbol once, however often it occurs.
    np.add.at(dweight, tokens, dy)  # eq. 6.12
    return dweight


# --- one layer of a vanilla RNN


def rnn_forward(
    x: np.ndarray,
    state: State,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: np.ndarray,
    bias_hh: np.ndarray,
    mask: np.ndarray | None = None,
) -> tuple[tuple[np.ndarray, State], tuple]:
    """All steps of one layer (eq. 6.2); where the mask is False the state is carried on (eq. 6.17).

    Args:
        x: (B, T, D). state: ``(h,)`` before the first step, h (B, M).
        weight_ih: (M, D). weight_hh: (M, M). bias_ih, bias_hh: (M,).
        mask: (B, T) bool, True = a real step; None = all are.

    Returns:
        (y, (h,)): the states of all steps (B, T, M), zero at padding, and the last; and the cache.
    """
    B, T, _ = x.shape
    a, inputs = inputs_forward(x, weight_ih, bias_ih + bias_hh)  # -> (T, B, M)
    h = np.empty((T + 1, B, len(weight_hh)), dtype=a.dtype)  # h[t] is the state before step t
    h[0] = state[0]
    recurrent = np.ascontiguousarray(weight_hh.T)  # T products with it: worth a copy
    for t in range(T):
        h[t + 1] = np.tanh(a[t] + h[t] @ recurrent)  # eq. 6.2
        if mask is not None:
            carry_over(mask[:, t], h, t)  # eq. 6.17
    y = masked(h[1:], mask)  # eq. 6.18
    return (time_first(y), (h[T],)), (inputs, h, weight_hh, mask)


def rnn_backward(dy: np.ndarray, dlast: State, cache: tuple) -> tuple:
    """Backpropagation through time: dx, (dh,), dweight_ih, dweight_hh, dbias_ih, dbias_hh.

    Args:
        dy: (B, T, M). dlast: the gradient of the last state, (B, M) in a tuple; zeros if unused.
    """
    inputs, h, weight_hh, mask = cache
    dy = masked(time_first(dy), mask)  # eq. 6.18, backward
    da = np.empty_like(h[1:])
    (dh,) = dlast
    for t in reversed(range(len(dy))):
        dh = dh + dy[t]  # eq. 6.5
        if mask is not None:
            dh, carried = divide(mask[:, t], dh)  # eq. 6.19
        da[t] = dh * (1 - h[t + 1] ** 2)  # eq. 6.6
        dh = da[t] @ weight_hh  # eq. 6.7
        if mask is not None:
            dh = dh + carried  # eq. 6.19
    dx, dweight_ih, dbias = inputs_backward(da, inputs)
    dweight_hh = recurrent_gradient(da, h)
    return dx, (dh,), dweight_ih, dweight_hh, dbias, dbias.copy()


# --- what needs no step before it, and so one product for all steps


def inputs_forward(x: np.ndarray, weight_ih: np.ndarray, bias: np.ndarray) -> tuple:
    """W x + b of all steps: x (B, T, D) -> (T, B, G*M) for G affine maps a step, and the cache."""
    B, T, D = x.shape
    # As one matrix of T*B rows: NumPy would multiply a stack of matrices one by one.
    rows, cache = linear_forward(time_first(x).reshape(T * B, D), weight_ih, bias)
    return rows.reshape(T, B, -1), cache  # (T*B, G*M) -> (T, B, G*M)


def inputs_backward(da: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx (B, T, D), dweight_ih and dbias, from the gradients of all steps (T, B, G*M)."""
    T, B, _ = da.shape
    dx, dweight_ih, dbias = linear_backward(da.reshape(T * B, -1), cache)  # eqs. 6.8, 6.9, 6.11
    return time_first(dx.reshape(T, B, -1)), dweight_ih, dbias


def recurrent_gradient(da: np.ndarray, h: np.ndarray) -> np.ndarray:
    """dweight_hh (G*M, M) from all da (T, B, G*M) and all states h (T + 1, B, M)."""
    rows, before = da.reshape(-1, da.shape[2]), h[:-1].reshape(-1, h.shape[2])
    return rows.T @ before  # eq. 6.10


def time_first(x: np.ndarray) -> np.ndarray:
    """(B, T, ...) -> (T, B, ...), or back; a copy, so that products find their rows in order."""
    return np.ascontiguousarray(x.swapaxes(0, 1))


def masked(y: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """y (T, B, M) with zeros where the mask (B, T) is False (eq. 6.18)."""
    return y if mask is None else y * mask.T[:, :, None]


def carry_over(real: np.ndarray, h: np.ndarray, t: int) -> None:
    """Put the state before step t in the place of the one after it where ``real`` (B,) is False."""
    h[t + 1] = np.where(real[:, None], h[t + 1], h[t])  # eq. 6.17


def divide(real: np.ndarray, dh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dh (B, M) of a state in two: what its step made, and what it carried on (eq. 6.19)."""
    return dh * real[:, None], dh * ~real[:, None]


# --- loss and clipping


def sequence_cross_entropy_forward(
    logits: np.ndarray, targets: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.floating, tuple]:
    """Mean cross-entropy over all real steps of the batch (eq. 6.4).

    Args:
        logits: (B, T, K). targets: (B, T) int labels. mask: (B, T), True = a real step.
    """
    if mask is None:
        mask = np.ones(targets.shape, dtype=bool)
    loss, cache = softmax_cross_entropy_forward(logits[mask], targets[mask])  # (steps, K)
    return loss, (mask, cache)


def sequence_cross_entropy_backward(cache: tuple) -> np.ndarray:
    """Gradient of the loss with respect to the logits (B, T, K); zero at padding."""
    mask, cache = cache
    drows = softmax_cross_entropy_backward(cache)
    dlogits = np.zeros((*mask.shape, drows.shape[1]), dtype=drows.dtype)
    dlogits[mask] = drows  # eq. 6.4a: a step that is not in the sum has no gradient
    return dlogits


def clip_by_norm(grads: Params, limit: float) -> float:
    """Scale all gradients together, in place, if their norm is above ``limit`` (eq. 6.15).

    Returns:
        the norm before.
    """
    norm = math.sqrt(sum(float(np.square(g).sum()) for g in grads.values()))
    if norm > limit:
        for g in grads.values():
            g *= limit / norm
    return norm
