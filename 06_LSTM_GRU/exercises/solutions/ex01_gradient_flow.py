"""Solution: how far back a gradient gets, in a vanilla RNN and in an LSTM.

    python 06_LSTM_GRU/exercises/ex01_gradient_flow.py

prints, once the tests pass, how much of the gradient is left after 25, 50, 75 and 100 steps back,
for vanilla RNNs with weights of several sizes and for LSTMs with several forget biases, and draws
the curves (runs/exercises/06_gradient_flow.png). A few seconds.
"""

import math

import numpy as np
from matplotlib.figure import Figure

import utils
from lstm_numpy import lstm_backward, lstm_forward
from recurrent_numpy import rnn_backward, rnn_forward

RNN, LSTM = (rnn_forward, rnn_backward), (lstm_forward, lstm_backward)


def gradient_norms(layer, x, state, weights, dlast):
    """The norm of the gradient of every state, on its way back through all steps.

    The loss uses the last state alone: nothing enters at the steps before.

    Args:
        layer: RNN or LSTM from above: the forward and the backward pass of a layer.
        x: (B, T, D). state: before the first step, (h,) or (h, c), each (B, M).
        weights: weight_ih, weight_hh, bias_ih, bias_hh.
        dlast: the gradient of the last state, a tuple like ``state``.

    Returns:
        (T + 1, len(state)): row t has the norms of the gradients of h (and c) after t steps. Row T
        is dlast's, row 0 that of the state before the first step.
    """
    forward, backward = layer
    B, T, _ = x.shape
    caches, no_output = [], np.zeros((B, 1, state[0].shape[1]))
    # --- your code: forward one step at a time, x[:, t : t + 1], and keep the cache of each
    for t in range(T):
        (_, state), cache = forward(x[:, t : t + 1], state, *weights)
        caches.append(cache)
    # --- end
    norms = np.zeros((T + 1, len(state)))
    norms[T] = [np.linalg.norm(d) for d in dlast]
    # --- your code: back one step at a time, from dlast; dy is no_output
    dstate = dlast
    for t in reversed(range(T)):
        _, dstate, *_ = backward(no_output, dstate, caches[t])
        norms[t] = [np.linalg.norm(d) for d in dstate]
    # --- end
    return norms


def largest_factor(weight_hh, steps):
    """The most by which a vanilla RNN can lengthen a gradient in so many steps (eq. 6.14)."""
    # --- your code: one number, from weight_hh (M, M)
    return np.linalg.norm(weight_hh, 2) ** steps
    # --- end


def forget_bias_for(steps, share):
    """The forget bias with which ``share`` of the cell's gradient is left after ``steps`` steps.

    Inputs and states are taken for zero, so that the gate is σ(bias) at every step (eqs. 6.34 and
    6.35), and only the way along the cell counts.
    """
    # --- your code: solve σ(bias)^steps = share for the bias
    gate = share ** (1 / steps)
    return math.log(gate / (1 - gate))
    # --- end


def main():
    rng, M, T = np.random.default_rng(0), 32, 100
    x, zeros = rng.standard_normal((1, T, 4)), np.zeros((1, M))
    d = rng.standard_normal((1, M))
    orthogonal = np.linalg.qr(rng.standard_normal((M, M)))[0]
    curves = {}
    for size in (0.9, 1.0, 1.2):
        weights = 0.1 * rng.standard_normal((M, 4)), size * orthogonal, np.zeros(M), np.zeros(M)
        name = f"RNN, singular values {size:g}"
        curves[name] = gradient_norms(RNN, x, (zeros,), weights, (d,))[:, 0]
    for bias in (0.0, 1.0, forget_bias_for(T, 0.5)):
        biases = np.repeat([0.0, bias, 0.0, 0.0], M)
        shapes = (4 * M, 4), (4 * M, M)
        weights = *(0.1 * rng.standard_normal(shape) for shape in shapes), biases, 0 * biases
        norms = gradient_norms(LSTM, x, (zeros, zeros), weights, (0 * d, d))
        curves[f"LSTM, forget bias {bias:.2f}"] = norms[:, 1]
    back = (25, 50, 75, 100)
    print("share of the gradient that is left, so many steps back" + " " * 7)
    print(f"{'':28}" + "".join(f"{k:>10}" for k in back))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, norms in curves.items():
        print(f"{name:28}" + "".join(f"{norms[T - k] / norms[T]:>10.0e}" for k in back))
        axes.semilogy(np.arange(T + 1), norms[::-1] / norms[T], label=name)
    axes.set(xlabel="steps back", ylabel="share of the gradient", ylim=(1e-12, 1e2))
    axes.legend()
    folder = utils.ROOT / "runs" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "06_gradient_flow.png")
    print(f"the curves are in {folder / '06_gradient_flow.png'}")


if __name__ == "__main__":
    main()
