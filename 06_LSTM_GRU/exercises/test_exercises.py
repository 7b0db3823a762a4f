"""Judges the exercises: your files (skipped until you start) and the solutions."""

import copy
import math

import numpy as np
import pytest
import torch

from linear_numpy import squared_error_backward, squared_error_forward
from lstm_numpy import LSTMNetwork, lstm_backward, lstm_forward
from lstm_paper import LSTM, LSTMConfig
from optimizers_numpy import SGD
from recurrent_network_numpy import RecurrentConfig
from recurrent_numpy import clip_by_norm, rnn_backward, rnn_forward
from sequence_network_paper import NetworkConfig, SequenceNetwork
from utils.exercises import diagnose, exercise
from utils.gradient_check import GradientMismatch, check_backward
from utils.parity import perturb
from utils.weights import load_into

ex01 = exercise(__file__, "ex01_gradient_flow")
ex02 = exercise(__file__, "ex02_sequence_tasks")
ex03 = exercise(__file__, "ex03_peephole")
ex04 = exercise(__file__, "ex04_gru_backward")
ex05 = exercise(__file__, "ex05_variational_dropout")

T, B, D, M = 5, 2, 3, 4


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


# --- 01 gradient flow


LAYERS = {"rnn": (rnn_forward, rnn_backward), "lstm": (lstm_forward, lstm_backward)}


def way_back(layer, x, start, weights, dlast):
    """The gradient of every state, each by one pass over all steps behind it."""
    every = [dlast]
    for t in reversed(range(T)):
        before = layer[0](x[:, :t], start, *weights)[0][1] if t else start
        _, cache = layer[0](x[:, t:], before, *weights)
        _, dstate, *_ = layer[1](np.zeros((B, T - t, M)), dlast, cache)
        every.append(dstate)
    return every[::-1]


def steps_back(layer, x, state, weights, dlast, fault):
    """The same, step by step, with a fault."""
    caches, dstate, every = [], dlast, [dlast]
    for t in range(T):
        (_, after), cache = layer[0](x[:, t : t + 1], state, *weights)
        caches.append(cache)
        state = state if fault == "first state" else after
    for t in reversed(range(T)):
        dy = dlast[0][:, None] if fault == "enters as dy" else np.zeros((B, 1, M))
        _, dstate, *_ = layer[1](
            dy, dlast if fault == "dlast" else dstate, caches[t if fault != "last cache" else -1]
        )
        if fault == "h alone":
            dstate = (dstate[0], *(np.zeros_like(d) for d in dstate[1:]))
        if fault == "add dlast":
            dstate = tuple(d + more for d, more in zip(dstate, dlast, strict=True))
        every.append(dstate)
    return every[::-1]


@pytest.mark.parametrize("kind", LAYERS)
def test_gradient_norms(ex01, kind):
    G, states = (1, 1) if kind == "rnn" else (4, 2)
    x = normal(B, T, D)
    weights = normal(G * M, D), normal(G * M, M), normal(G * M), normal(G * M, seed=1)
    state = tuple(normal(B, M, seed=i) for i in range(states))
    dlast = tuple(normal(B, M, seed=2 + i) for i in range(states))
    problem = LAYERS[kind], x, state, weights, dlast

    def norms(every, norm=np.linalg.norm):
        return np.array([[norm(d) for d in dstate] for dstate in every])

    right = way_back(*problem)
    faults = {
        "begin every step with the first state instead of the last step's": "first state",
        "hand dlast to every step instead of what came back from the step after": "dlast",
        "add dlast anew at every step": "add dlast",
        "give dlast as dy, too, at every step": "enters as dy",
        "hand on the gradient of h alone, and zeros for c": "h alone",
        "go back through the last step's cache every time": "last cache",
    }
    wrong = {text: norms(steps_back(*problem, fault)) for text, fault in faults.items()}
    wrong["write the norm of h's gradient for c, too"] = norms(
        [*(d[:1] * states for d in right[:-1]), dlast]
    )
    wrong["write the norms in reverse order"] = norms(right)[::-1]
    late = np.concatenate([np.zeros((1, states)), norms(right)[:-1]])
    wrong["write each norm one row too late: t steps have been done before step t"] = late
    wrong["take the square of the norms"] = norms(right, lambda d: np.square(d).sum())
    wrong["take the mean magnitude"] = norms(right, lambda d: np.abs(d).mean())
    wrong = {text: rows for text, rows in wrong.items() if not np.allclose(rows, norms(right))}
    diagnose(ex01.gradient_norms(*problem), norms(right), wrong, what="norms")


def test_largest_factor(ex01):
    U = normal(M, M)
    largest = np.linalg.norm(U, 2)
    diagnose(
        ex01.largest_factor(U, 7),
        largest**7,
        {
            "take the largest eigenvalue, which lengthens its own eigenvector only": (
                np.abs(np.linalg.eigvals(U)).max() ** 7
            ),
            "take the root of the sum of squares, which is too large": np.linalg.norm(U) ** 7,
            "multiply by the number of steps instead of raising to its power": 7 * largest,
            "forget the power": largest,
            "take the largest element": np.abs(U).max() ** 7,
            "take the norm of the power, which leaves the slopes of tanh between out of account": (
                np.linalg.norm(np.linalg.matrix_power(U, 7), 2)
            ),
            "take the largest column sum: ord=1 is another norm": np.linalg.norm(U, 1) ** 7,
        },
        what="factor",
    )


def test_forget_bias_for(ex01):
    gate = 0.5 ** (1 / 100)
    diagnose(
        ex01.forget_bias_for(100, 0.5),
        math.log(gate / (1 - gate)),
        {
            "return the gate instead of its bias": gate,
            "forget that each of the steps has its factor: take no root": 0.0,
            "take 1 + exp(bias) for the number of steps": math.log(99),
            "take exp(bias) for the number of steps": math.log(100),
            "invert tanh instead of σ": math.atanh(gate),
            "divide the share by the steps instead of taking a root": math.log(0.005 / 0.995),
        },
        what="bias",
    )
    assert ex01.forget_bias_for(10, 0.9) == pytest.approx(math.log(0.9**0.1 / (1 - 0.9**0.1)))


# --- 02 sequence tasks


def marked_places(x):
    """The two marked steps of each sequence, (N, 2)."""
    marked = x[:, :, 1] == 1
    count = marked.sum(axis=1)
    assert count.max() == 2, f"expected two marked steps, got {count.max()} in some sequences"
    assert count.min() == 2, (
        "some sequences have less than two marked steps: do you draw the second step from all, so "
        "that it may be the first one again?"
    )
    return np.array([np.flatnonzero(row) for row in marked])


def test_multiplication_marks(ex02):
    x, lengths, y = ex02.multiplication(3000, 20, np.random.default_rng(0))
    assert x.shape == (3000, 22, 2), f"x: expected shape (3000, 22, 2), got {x.shape}"
    assert x.dtype == y.dtype == np.float32
    after = np.arange(22) >= lengths[:, None]
    assert not x[after].any(), "x is not zero after the end of some sequences"
    marked = x[:, :, 1] == 1
    assert (x[:, :, 1] == marked).all(), "markers: expected 0 and 1 alone"
    places = marked_places(x)
    assert places[:, 0].max() < 10, "no marked step among the first ten, in some sequences"
    assert places[:, 1].max() < 10, (
        f"with T = 20 both marked steps are among the first ten, got one at {places[:, 1].max()}"
    )
    assert set(places[:, 0]) == set(range(9)) and set(places[:, 1]) == set(range(1, 10)), (
        f"expected marks at all of the first ten steps, got {sorted(set(places.ravel().tolist()))}"
    )


def test_multiplication_uses_the_whole_first_half(ex02):
    x, _, _ = ex02.multiplication(3000, 40, np.random.default_rng(0))
    places = marked_places(x)
    assert places[:, 0].max() < 10, "no marked step among the first ten, in some sequences"
    assert places[:, 1].max() == 19, (
        f"the second step is one of the first T // 2 = 20; the last marked one is step "
        f"{places[:, 1].max()} (counting from 0)"
    )
    early = (places[:, 1] < 10).mean()
    assert early > 0.3, (
        "the second step seems never to be among the first ten: it may be any of the first "
        "T // 2 but the first one"
    )


def test_multiplication_targets(ex02):
    x, _, y = ex02.multiplication(500, 30, np.random.default_rng(0))
    two = np.take_along_axis(x[:, :, 0], marked_places(x), axis=1)
    assert x[:, :, 0].min() >= 0 and x[:, :, 0].max() <= 1
    diagnose(
        y,
        two[:, 0] * two[:, 1],
        {
            "add instead of multiplying": two.sum(axis=1),
            "take the adding problem's target": 0.5 + two.sum(axis=1) / 4,
            "forget to set y": np.zeros(500),
        },
        tol=1e-6,
        what="y",
    )


def test_guess_errors(ex02):
    errors = ex02.guess_errors()
    assert errors is not None and len(errors) == 2, "guess_errors returns two numbers"
    constant, one_number = errors
    diagnose(
        constant,
        7 / 144,
        {
            "guess 0 or one half; the mean of the product is 1/4": 1 / 9,
            "multiply the two variances": 1 / 144,
            "take the variance of one number": 1 / 12,
            "add the two variances, as for a sum": 1 / 6,
            "take the standard deviation": math.sqrt(7 / 144),
            "take half of the squared error": 7 / 288,
        },
        what="error of the best constant",
    )
    diagnose(
        one_number,
        1 / 36,
        {
            "forget that the error is multiplied by X1, so its square by X1²": 1 / 12,
            "take the square of the mean of X1 for the mean of its square": 1 / 48,
            "take half of the squared error": 1 / 72,
            "take the error of the best constant again": 7 / 144,
        },
        what="error with the first number known",
    )


def test_train_step(ex02):
    x, y = normal(6, 8, 2), 10 * normal(6)  # a gradient longer than 1
    lengths = np.array([8, 3, 5, 8, 1, 6])

    def step(lengths=lengths, limit=0.01, targets=y[:, None], order="before", factor=1.0):
        model = LSTMNetwork(RecurrentConfig(2, 5, 1), np.random.default_rng(0))
        perturb(model.params)
        optimizer = SGD(model.params, lr=0.5)
        loss, loss_cache = squared_error_forward(model.forward(x, lengths), targets)
        grads = model.backward(factor * squared_error_backward(loss_cache))
        if order == "before":
            clip_by_norm(grads, limit)
        if order == "each":
            for name in grads:
                clip_by_norm({name: grads[name]}, limit)
        optimizer.step(grads)
        return 2 * loss, np.concatenate([p.ravel() for p in model.params.values()])

    model = LSTMNetwork(RecurrentConfig(2, 5, 1), np.random.default_rng(0))
    perturb(model.params)
    got = ex02.train_step(model, SGD(model.params, lr=0.5), x, lengths, y, limit=0.01)
    error, params = step()
    diagnose(
        got,
        error,
        {
            "return half of the mean squared error": error / 2,
            "forget the lengths, so that padding is read": step(lengths=None)[0],
        },
        what="error",
    )
    diagnose(
        np.concatenate([p.ravel() for p in model.params.values()]),
        params,
        {
            "forget to clip, or clip after the update": step(limit=np.inf)[1],
            "clip each parameter by itself": step(order="each")[1],
            "clip to 1 whatever the limit": step(limit=1.0)[1],
            "forget the update": step(factor=0.0)[1],
            "go uphill": step(factor=-1.0)[1],
        },
        what="parameters after the step",
    )
    # Far below the limit nothing is clipped, and a factor in the gradient shows.
    model = LSTMNetwork(RecurrentConfig(2, 5, 1), np.random.default_rng(0))
    perturb(model.params)
    ex02.train_step(model, SGD(model.params, lr=0.5), x, lengths, y, limit=100.0)
    diagnose(
        np.concatenate([p.ravel() for p in model.params.values()]),
        step(limit=100.0)[1],
        {
            "double the gradient: the loss is half of the squared error": (
                step(limit=100.0, factor=2.0)[1]
            ),
            "scale every gradient to the limit, also a short one": (
                step(limit=100.0, factor=100 / length_of_gradient(x, lengths, y))[1]
            ),
        },
        what="parameters after a step that needs no clipping",
    )


def length_of_gradient(x, lengths, y):
    model = LSTMNetwork(RecurrentConfig(2, 5, 1), np.random.default_rng(0))
    perturb(model.params)
    _, cache = squared_error_forward(model.forward(x, lengths), y[:, None])
    return clip_by_norm(model.backward(squared_error_backward(cache)), np.inf)


# --- 03 peepholes


def peephole_inputs():
    return {
        "x": normal(T, B, D),
        "weight_ih": normal(4 * M, D),
        "weight_hh": normal(4 * M, M),
        "weight_ch": normal(3, M),
        "bias": normal(4 * M),
    }


STATE = normal(B, M, seed=7), normal(B, M, seed=8)


def reference_lstm(i_sees="before", o_sees="after", f_sees="before", rows=(0, 1, 2), out=np.tanh):
    """The layer by itself, with a choice for what each gate sees."""
    p, (h, c) = peephole_inputs(), STATE
    every = []
    for x in p["x"]:
        a = np.split(x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"], 4, axis=1)
        w_i, w_f, w_o = (p["weight_ch"][k] for k in rows)
        before, seen = c, {"before": c, "nothing": np.zeros_like(c)}
        i = sigmoid(a[0] + w_i * seen[i_sees])
        f = sigmoid(a[1] + w_f * seen[f_sees])
        c = f * before + i * np.tanh(a[2])
        seen |= {"after": c, "tanh": np.tanh(c)}
        h = sigmoid(a[3] + w_o * seen[o_sees]) * out(c)
        every.append(h)
    return np.array(every)


def test_peephole_forward(ex03):
    p = peephole_inputs()
    y, _ = ex03.peephole_forward(
        p["x"], STATE, p["weight_ih"], p["weight_hh"], p["weight_ch"], p["bias"]
    )
    diagnose(
        y,
        reference_lstm(),
        {
            "show the output gate the old cell state instead of the new one": (
                reference_lstm(o_sees="before")
            ),
            "show the output gate tanh(c) instead of c": reference_lstm(o_sees="tanh"),
            "forget the output gate's peephole": reference_lstm(o_sees="nothing"),
            "forget the input gate's peephole": reference_lstm(i_sees="nothing"),
            "forget the forget gate's peephole": reference_lstm(f_sees="nothing"),
            "forget all peepholes": reference_lstm("nothing", "nothing", "nothing"),
            "mix up the peepholes of i and f": reference_lstm(rows=(1, 0, 2)),
            "forget the tanh around c": reference_lstm(out=lambda c: c),
        },
        what="h",
    )
    layer = LSTM(LSTMConfig(D, M, peepholes=True)).double()
    names = ("weight_ih", "weight_hh", "weight_ch", "bias")
    weights = {f"{name}_l0".replace("bias", "bias_ih"): p[name] for name in names}
    load_into(layer, weights | {"bias_hh_l0": np.zeros(4 * M)})
    state = tuple(torch.tensor(s)[None] for s in STATE)
    with torch.no_grad():
        level_3, _ = layer(torch.tensor(p["x"]).transpose(0, 1), state=state)
    diagnose(y, level_3.transpose(0, 1), what="h, beside level 3's")


def reference_backward(dy, cache, fault=""):
    x, h, c, gates, weight_ih, weight_hh, w = cache
    da, dw = np.zeros((T, B, 4 * M)), np.zeros_like(w)
    dh = dc = np.zeros((B, M))
    for t in reversed(range(T)):
        i, f, g, o = gates[:, t]
        tanh_c = np.tanh(c[t + 1])
        dh = dh + dy[t]
        da_o = dh * tanh_c * o * (1 - o)
        early = dc + dh * o * (1 - tanh_c**2)
        dc = early + da_o * w[2] * (fault not in ("no o", "none"))
        used = early if fault == "o late" else dc
        da_i = used * g * i * (1 - i)
        da_f = used * c[t + (fault == "new c in f")] * f * (1 - f)
        da_g = used * i * (g * (1 - g) if fault == "slope of g" else 1 - g**2)
        da[t] = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
        seen = [c[t], c[t], c[t + 1]]
        if fault in ("all old", "all new"):
            seen = [c[t + (fault == "all new")]] * 3
        if fault == "step 1 alone":
            dw[:] = 0
        dw += [(d * at).sum(axis=0) for d, at in zip((da_i, da_f, da_o), seen, strict=True)]
        dc = dc * f
        if fault not in ("no i and f", "none"):
            dc = dc + da_i * w[0] + da_f * w[1]
        if fault == "o in the step before":
            dc = dc + da_o * w[2]
        dh = da[t] @ weight_hh
    rows = da.reshape(T * B, 4 * M)
    return (
        da @ weight_ih,
        rows.T @ x.reshape(T * B, -1),
        rows.T @ h[:-1].reshape(T * B, M),
        dw,
        rows.sum(axis=0),
    )


PEEPHOLE_FAULTS = {
    "forget what the output gate's peephole hands to dc": "no o",
    "add the output gate's share to dc too late, after i, f and g have used it": "o late",
    "hand the output gate's share to the step before, too": "o in the step before",
    "forget what the peepholes of i and f hand to the step before": "no i and f",
    "forget both shares of dc": "none",
    "multiply da_o by the old cell state in dweight_ch": "all old",
    "multiply da_i and da_f by the new cell state in dweight_ch": "all new",
    "keep the share of one step of dweight_ch instead of adding up": "step 1 alone",
    "multiply by the new cell state in da_f": "new c in f",
    "take the slope of σ for the proposal g, which is a tanh": "slope of g",
}


def test_peephole_backward(ex03):
    p = peephole_inputs()
    # Its own forward pass, so that a fault of the learner's forward pass is not blamed on this.
    cache = reference_cache(p)
    dy = normal(T, B, M, seed=3)
    got, want = ex03.peephole_backward(dy, cache), reference_backward(dy, cache)
    assert got is not None, "peephole_backward returned None: is the return statement gone?"
    wrong = {k: reference_backward(dy, cache, fault) for k, fault in PEEPHOLE_FAULTS.items()}
    names = ("dx", "dweight_ih", "dweight_hh", "dweight_ch", "dbias")
    for k in (3, 0, 1, 2, 4):
        diagnose(got[k], want[k], {text: w[k] for text, w in wrong.items()}, what=names[k])


def reference_cache(p):
    h, c = (np.concatenate([s[None], np.zeros((T, B, M))]) for s in STATE)
    gates = np.zeros((4, T, B, M))
    for t in range(T):
        a = np.split(p["x"][t] @ p["weight_ih"].T + h[t] @ p["weight_hh"].T + p["bias"], 4, axis=1)
        w = p["weight_ch"]
        i, f, g = sigmoid(a[0] + w[0] * c[t]), sigmoid(a[1] + w[1] * c[t]), np.tanh(a[2])
        c[t + 1] = f * c[t] + i * g
        o = sigmoid(a[3] + w[2] * c[t + 1])
        h[t + 1] = o * np.tanh(c[t + 1])
        gates[:, t] = i, f, g, o
    return p["x"], h, c, gates, p["weight_ih"], p["weight_hh"], p["weight_ch"]


def test_peephole_gradients(ex03):
    def forward(x, weight_ih, weight_hh, weight_ch, bias):
        return ex03.peephole_forward(x, STATE, weight_ih, weight_hh, weight_ch, bias)

    try:
        check_backward(forward, ex03.peephole_backward, peephole_inputs())
    except GradientMismatch as error:
        raise AssertionError(f"forward and backward do not fit together: {error}") from error


# --- 04 GRU backward


def cho_inputs():
    return {
        "x": normal(T, B, D),
        "h0": normal(B, M),
        "weight_ih": normal(3 * M, D),
        "weight_hh": normal(3 * M, M),
    }


def cho_cache(p):
    h, gates = np.concatenate([p["h0"][None], np.zeros((T, B, M))]), np.zeros((3, T, B, M))
    U_r, U_z, U_n = np.split(p["weight_hh"], 3)
    for t in range(T):
        x_r, x_z, x_n = np.split(p["x"][t] @ p["weight_ih"].T, 3, axis=1)
        r, z = sigmoid(x_r + h[t] @ U_r.T), sigmoid(x_z + h[t] @ U_z.T)
        n = np.tanh(x_n + (r * h[t]) @ U_n.T)
        h[t + 1] = (1 - z) * n + z * h[t]
        gates[:, t] = r, z, n
    return p["x"], h, gates, p["weight_ih"], p["weight_hh"]


def cho_reference(dy, cache, fault=""):
    x, h, gates, weight_ih, weight_hh = cache
    U_r, U_z, U_n = np.split(weight_hh, 3)
    da, dU, dh = np.zeros((T, B, 3 * M)), np.zeros_like(weight_hh), np.zeros((B, M))
    for t in reversed(range(T)):
        r, z, n = gates[:, t]
        dh = dh + dy[t]
        da_n = dh * (z if fault in ("z in n", "swapped") else 1 - z) * (1 - n**2)
        da_z = dh * (h[t] - n) * z * (1 - z) * (-1 if fault == "sign" else 1)
        at_reset = da_n @ (U_n.T if fault == "transposed" else U_n)
        da_r = at_reset * h[t] * (1 if fault == "slope of r" else r * (1 - r))
        if fault in ("da_r after", "all after"):
            da_r = da_n * (h[t] @ U_n.T) * r * (1 - r)
        da[t] = np.concatenate([da_r, da_z, da_n], axis=1)
        seen = h[t] if fault in ("dU of h", "all after") else r * h[t]
        if fault == "one step":
            dU[:] = 0
        dU += np.concatenate([da_r.T @ h[t], da_z.T @ h[t], da_n.T @ seen])
        ways = {
            "no r": da_r @ U_r,
            "no z": da_z @ U_z,
            "no proposal": at_reset * (1 if fault == "no factor r" else r),
            "no direct": dh * (1 - z if fault in ("z in h", "swapped") else z),
        }
        if fault == "all after":
            ways["no proposal"] = (da_n * r) @ U_n
        dh = sum(way for name, way in ways.items() if name != fault)
    rows = da.reshape(T * B, 3 * M)
    return da @ weight_ih, dh, rows.T @ x.reshape(T * B, -1), dU


CHO_FAULTS = {
    "forget the way through the reset gate, da_r U_r": "no r",
    "forget the way through the update gate, da_z U_z": "no z",
    "forget the way through the proposal": "no proposal",
    "forget the direct way, dh * z": "no direct",
    "forget the factor r on the way through the proposal": "no factor r",
    "forget in dU_n that the product saw r * h": "dU of h",
    "keep the share of one step of dweight_hh instead of adding up": "one step",
    "multiply by U_n transposed, as forward does": "transposed",
    "forget the slope of σ in da_r": "slope of r",
    "take PyTorch's da_r, with the reset gate after the product": "da_r after",
    "take PyTorch's GRU, with the reset gate after the product": "all after",
    "have the sign of da_z wrong: it is h - n": "sign",
    "take z for 1 - z in da_n": "z in n",
    "take 1 - z for z in the direct way": "z in h",
    "mix up z and 1 - z": "swapped",
}


def test_cho_gru_backward(ex04):
    cache, dy = cho_cache(cho_inputs()), normal(T, B, M, seed=3)
    got, want = ex04.cho_gru_backward(dy, cache), cho_reference(dy, cache)
    assert got is not None, "cho_gru_backward returned None: is the return statement gone?"
    wrong = {k: cho_reference(dy, cache, fault) for k, fault in CHO_FAULTS.items()}
    names = ("dx", "dh0", "dweight_ih", "dweight_hh")
    for k in (3, 1, 2, 0):
        diagnose(got[k], want[k], {text: w[k] for text, w in wrong.items()}, what=names[k])


def test_cho_gru_gradients(ex04):
    try:
        check_backward(ex04.cho_gru_forward, ex04.cho_gru_backward, cho_inputs())
    except GradientMismatch as error:
        raise AssertionError(f"backward does not fit forward: {error}") from error


# --- 05 variational dropout


def test_sequence_mask(ex05):
    torch.manual_seed(0)
    like = torch.zeros(1, dtype=torch.float64)
    mask = ex05.sequence_mask((400, 50), 0.2, like)
    assert mask is not None, "sequence_mask returned None: is a return statement missing?"
    assert mask.shape == (400, 50), f"expected shape (400, 50), got {tuple(mask.shape)}"
    assert mask.dtype == torch.float64, f"expected the dtype of `like`, float64, got {mask.dtype}"
    values = sorted({round(v, 6) for v in mask.flatten().tolist()})
    assert values != [0, 1], "what is kept has to be divided by 1 - rate"
    assert values != [0, 5], "what is kept was divided by rate instead of 1 - rate"
    assert values == [0, 1.25], f"expected the values 0 and 1.25, got {values[:4]}"
    dropped = (mask == 0).double().mean().item()
    assert abs(dropped - 0.8) > 0.05, "dropped with probability 1 - rate: it should be rate"
    assert abs(dropped - 0.2) < 0.02, f"expected a share of 0.2 zeros, got {dropped:.3f}"
    assert len({tuple(row) for row in mask.tolist()}) == 400, "every sequence has a mask of its own"


def tensors(*shape, seed=0):
    return torch.tensor(normal(*shape, seed=seed))


def lstm_steps(from_x, U, h, c, drop, where="seen"):
    every_h, every_c = [], []
    for a in from_x:
        seen = h if where in ("nowhere", "out", "c alone") else h * drop
        i, f, g, o = (a + seen @ U.T).chunk(4, dim=1)
        before = c * drop if where == "old c" else c
        c = torch.sigmoid(f) * before + torch.sigmoid(i) * torch.tanh(g)
        if where in ("c", "c alone"):
            c = c * drop
        h = torch.sigmoid(o) * torch.tanh(c)
        if where in ("out", "both"):
            h = h * drop
        every_h.append(h)
        every_c.append(c)
    return torch.stack(every_h), torch.stack(every_c)


def test_variational_steps(ex05):
    from_x, U = tensors(T, B, 4 * M), tensors(4 * M, M)
    h, c = tensors(B, M, seed=1), tensors(B, M, seed=2)
    drop = torch.tensor([[0, 1.25, 1.25, 0], [1.25, 0, 1.25, 1.25]], dtype=torch.float64)
    got = ex05.variational_steps(from_x, U, h, c, drop)
    want = lstm_steps(from_x, U, h, c, drop)
    faults = {
        "forget the mask": "nowhere",
        "drop in c, too, which then is lost for good": "c",
        "drop in c instead of h": "c alone",
        "drop in the old c, too, which then is lost for good": "old c",
        "drop in the h that is put out": "out",
        "drop in h twice, where it is seen and where it is put out": "both",
    }
    wrong = {text: lstm_steps(from_x, U, h, c, drop, where) for text, where in faults.items()}
    for k, name in enumerate(("h", "c")):
        diagnose(got[k], want[k], {text: w[k] for text, w in wrong.items()}, what=name)


def given_masks(shapes):
    """A stand-in for sequence_mask: known masks, the shapes that were asked for in ``shapes``."""

    def mask(shape, rate, like):
        assert len(shape) == 2, (
            f"expected masks (B, D) and (B, M), one for all steps; got the shape {tuple(shape)}"
        )
        shapes.append(tuple(shape))
        kept = np.random.default_rng([len(shapes), *shape]).random(tuple(shape)) >= rate
        return torch.tensor(kept / (1 - rate)).to(like.dtype)

    return mask


@pytest.mark.parametrize("both", [False, True], ids=["one-way", "both-ways"])
def test_variational_lstm(ex05, monkeypatch, both):
    config = LSTMConfig(D, M, bidirectional=both)
    layer = ex05.VariationalLSTM(config, 0.4).double()
    perturb(layer)
    x, shapes = tensors(B, T, D), []
    monkeypatch.setattr(ex05, "sequence_mask", given_masks(shapes))
    got, _ = layer.train()(x)
    count = 2 if both else 1
    assert len(shapes) != T * count * 2, "the masks are drawn anew at each step"
    assert shapes == [(B, D), (B, M)] * count, (
        f"expected masks of the shapes {[(B, D), (B, M)] * count} (inputs, then states), "
        f"got {shapes}"
    )
    masks, sides = given_masks([]), []
    for suffix in layer.suffixes:
        p = {n: getattr(layer, f"{n}_{suffix}") for n in ("weight_ih", "weight_hh")}
        bias = getattr(layer, f"bias_ih_{suffix}") + getattr(layer, f"bias_hh_{suffix}")
        order = [1] if suffix.endswith("_reverse") else []
        steps, zero = x.flip(order), torch.zeros(B, M, dtype=torch.float64)
        drop_x, drop_h = masks((B, D), 0.4, x)[:, None], masks((B, M), 0.4, x)
        variants = []
        for seen, drop in ((steps * drop_x, drop_h), (steps, drop_h), (steps * drop_x, zero + 1)):
            from_x = seen.transpose(0, 1) @ p["weight_ih"].T + bias
            h, _ = lstm_steps(from_x, p["weight_hh"], zero, zero, drop)
            variants.append(h.transpose(0, 1).flip(order))
        sides.append(variants)
    want, no_x, no_h = (torch.cat(parts, dim=2) for parts in zip(*sides, strict=True))
    diagnose(
        got,
        want,
        {
            "forget to drop in the inputs": no_x,
            "forget to hand the states' mask on": no_h,
            "forget both masks": LSTM.forward(copy.deepcopy(layer).eval(), x)[0],
        },
        what="y in training",
    )


def test_variational_lstm_at_test_time(ex05):
    config = LSTMConfig(D, M, layers=2, bidirectional=True)
    layer = ex05.VariationalLSTM(config, 0.4).double()
    perturb(layer)
    plain = LSTM(config).double()
    load_into(plain, layer)
    x, lengths = tensors(B, T, D), torch.tensor([T, 2])
    want = plain(x, lengths)[0]
    assert not torch.allclose(layer.train()(x, lengths)[0], want), "nothing is dropped in training"
    diagnose(layer.eval()(x, lengths)[0], want, what="y in eval mode")


def test_variational_lstm_in_a_network_ignores_padding(ex05):
    torch.manual_seed(0)
    rnn = ex05.VariationalLSTM(LSTMConfig(D, M), 0.3)
    model = SequenceNetwork(rnn, NetworkConfig(3, vocabulary=7, head="mean")).double().train()
    tokens, lengths = torch.randint(7, (B, T)), torch.tensor([T, 2])
    torch.manual_seed(1)
    one = model(tokens, lengths)
    tokens = tokens.clone()
    tokens[1, 2:] = 6 - tokens[1, 2:]
    torch.manual_seed(1)
    diagnose(model(tokens, lengths), one, what="output after a change in the padding")
    one.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in rnn.parameters()), (
        "some parameters of the layer get no gradient"
    )
