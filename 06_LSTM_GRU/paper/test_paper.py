"""Tests of level 3: equal to the other levels and torch.nn; the units as the papers print them."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gru_lowlevel
import lstm_lowlevel
import lstm_paper
import optimizers_numpy
import rnn_lowlevel
from gru_numpy import GRUNetwork
from gru_paper import GRU, GRUConfig
from lstm_numpy import LSTMNetwork
from lstm_paper import LSTM, LSTMConfig, run_steps
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from recurrent_network_numpy import RecurrentConfig, RNNNetwork
from recurrent_network_numpy import generate as generate_numpy
from recurrent_numpy import (
    clip_by_norm,
    length_mask,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from sequence_network_paper import (
    NetworkConfig,
    RNNConfig,
    SequenceNetwork,
    VanillaRNN,
    generate,
    loss_function,
)
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_same,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch

B, T, D, M, K, V = 3, 5, 4, 2, 6, 7  # all differ, so that a wrong transpose shows
LENGTHS = torch.tensor([5, 1, 3])

KINDS = {
    "rnn": (lambda **s: VanillaRNN(RNNConfig(**s)), nn.RNN, RNNNetwork),
    "lstm": (lambda **s: LSTM(LSTMConfig(**s)), nn.LSTM, LSTMNetwork),
    "gru": (lambda **s: GRU(GRUConfig(**s)), nn.GRU, GRUNetwork),
}
LOWLEVEL = {
    "rnn": (rnn_lowlevel, rnn_lowlevel.RNNConfig),
    "lstm": (lstm_lowlevel, lstm_lowlevel.LSTMConfig),
    "gru": (gru_lowlevel, gru_lowlevel.GRUConfig),
}
VARIANTS = {
    "today": LSTMConfig,
    "1997": LSTMConfig.hochreiter1997,
    "2000": LSTMConfig.gers2000,
    "peepholes": lambda **s: LSTMConfig(peepholes=True, **s),
    "1997 with peepholes": lambda **s: LSTMConfig.hochreiter1997(peepholes=True, **s),
    "1997, whole gradient": lambda **s: LSTMConfig(forget_gate=False, squashing="1997", **s),
}
SHAPES = list(itertools.product((1, 2), (False, True), (None, LENGTHS)))
SHAPE_NAMES = [
    f"{layers}-{'both' if both else 'one'}-{'whole' if lengths is None else 'packed'}"
    for layers, both, lengths in SHAPES
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def perturbed(module):
    module = module.double()
    perturb(module, scale=0.3)
    return module


def make_network(kind, vocabulary=0, head="last", **sizes):
    torch.manual_seed(0)
    rnn = KINDS[kind][0](inputs=D, width=M, **sizes)
    return perturbed(SequenceNetwork(rnn, NetworkConfig(K, vocabulary, head)))


def inputs(vocabulary=0, seed=0):
    if vocabulary:
        return torch.randint(vocabulary, (B, T), generator=seeded(seed))
    return normal(B, T, D, seed=seed)


def layer_result(layer, x, lengths=None, state=None, seed=5):
    """Outputs, last states and all gradients, of x and the first state too.

    The loss is a random combination of the outputs and of all last states, so that the gradient
    comes in by every way there is.
    """
    layer.zero_grad()
    leaves = {"x": x.clone().requires_grad_()}
    if state is not None:
        leaves |= {f"start {i}": s.clone().requires_grad_() for i, s in enumerate(state)}
    start = None if state is None else tuple(list(leaves.values())[1:])
    y, last = call(layer, leaves["x"], lengths, start)
    loss = (y * normal(*y.shape, seed=seed)).sum()
    for i, s in enumerate(last):
        loss = loss + (s * normal(*s.shape, seed=seed + 1 + i)).sum()
    loss.backward()
    grads = {name: p.grad.clone() for name, p in (*layer.named_parameters(), *leaves.items())}
    return Result(y, loss, grads | {f"state {i}": s for i, s in enumerate(last)})


def call(layer, x, lengths, state):
    """Our layers and PyTorch's by one call."""
    if type(layer) not in (nn.RNN, nn.LSTM, nn.GRU):
        return layer(x, lengths, state)
    if state is not None and len(state) == 1:
        (state,) = state
    if lengths is not None:
        x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, last = layer(x, state)
    if lengths is not None:
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=T)
    return y, last if isinstance(last, tuple) else (last,)


# --- against torch.nn: layers x directions x packed lengths


def make_pair(kind, layers=1, both=False):
    """Our layer and PyTorch's with the same perturbed weights."""
    ours, theirs, _ = KINDS[kind]
    layer = perturbed(ours(inputs=D, width=M, layers=layers, bidirectional=both))
    reference = theirs(D, M, layers, batch_first=True, bidirectional=both).double()
    reference.load_state_dict(layer.state_dict())  # strict: the key sets are equal
    return layer, reference


def start_of(kind, layers, both):
    states = 2 if kind == "lstm" else 1
    return tuple(normal(layers * (1 + both), B, M, seed=8 + i) for i in range(states))


@pytest.mark.parametrize("start", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize(("layers", "both", "lengths"), SHAPES, ids=SHAPE_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch(kind, layers, both, lengths, start):
    layer, reference = make_pair(kind, layers, both)
    state = start_of(kind, layers, both) if start else None
    x = inputs()
    assert_parity(
        layer_result(layer, x, lengths, state), layer_result(reference, x, lengths, state)
    )


@pytest.mark.parametrize("unused", ["outputs", "states"])
def test_equals_torch_where_only_some_results_are_used(unused):
    """autograd then hands None to LSTMFunction for what was not used."""
    grads = []
    for layer in make_pair("lstm", 2, True):
        y, (_, c) = layer(inputs())
        loss = (y if unused == "states" else c).square().sum()
        loss.backward()
        grads.append({name: p.grad for name, p in layer.named_parameters()})
    assert_same(*grads)


def steps_of(layer):
    """The same layer with autograd in the place of LSTMFunction."""

    class StepByStep(LSTM):
        def _direction(self, suffix, x, h, c):
            p = {n.removesuffix(f"_{suffix}"): value for n, value in self.named_parameters()}
            from_x = x.transpose(0, 1) @ p["weight_ih"].T + p["bias_ih"] + p["bias_hh"]
            return run_steps(from_x, p["weight_hh"], h, c, self.config)

    copy = StepByStep(layer.config).double()
    copy.load_state_dict(layer.state_dict())
    return copy


def test_the_fast_cell_equals_the_cell_step_by_step():
    layer, _ = make_pair("lstm", 2, True)
    state = start_of("lstm", 2, True)
    fast, slow = (layer_result(m, inputs(), LENGTHS, state) for m in (layer, steps_of(layer)))
    assert_parity(fast, slow)


def test_the_fast_cell_passes_the_gradient_check():
    shapes = [(T, B, D), (4 * M, D), (4 * M, M), (4 * M,), (B, M), (B, M)]
    arguments = tuple(normal(*shape, seed=i) for i, shape in enumerate(shapes))
    arguments = tuple(a.requires_grad_() for a in arguments)
    assert torch.autograd.gradcheck(lstm_paper.LSTMFunction.apply, arguments)


def test_the_fast_cell_refuses_a_second_derivative():
    """Its backward pass is no graph; without the refusal the second derivative would be wrong."""
    layer, _ = make_pair("lstm")
    (gradient,) = torch.autograd.grad(
        layer(inputs())[0].sum(), [layer.weight_hh_l0], create_graph=True
    )
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


# --- sabotage: the comparison can fail


def gates_in_another_order(layer, monkeypatch):
    """g before f, as some libraries have them."""
    for p in layer.parameters():
        i, f, g, o = p.data.chunk(4)
        p.data = torch.cat([i, g, f, o])


def one_bias_forgotten(layer, monkeypatch):
    layer.bias_hh_l0.data.zero_()


def reversed_as_a_rectangle(layer, monkeypatch):
    """The second direction starts in the padding."""
    monkeypatch.setattr(lstm_paper, "reverse", lambda x, lengths: x.flip(1))


def state_of_the_last_column(layer, monkeypatch):
    """The last states are read after the padding."""
    right = layer.forward

    def wrong(x, lengths=None, state=None):
        y, _ = right(x, lengths, state)
        return y, right(x, None, state)[1]

    layer.forward = wrong


def gradient_cut_at_the_gates(layer, monkeypatch):
    """The gradient of 1997 in the place of the whole one (eq. 6.38)."""
    config = LSTMConfig(D, M, bidirectional=True, truncated=True)
    layer.config = config


SABOTAGE = {
    gates_in_another_order: "outputs",
    one_bias_forgotten: "outputs",
    reversed_as_a_rectangle: "outputs",
    state_of_the_last_column: "loss",
    gradient_cut_at_the_gates: "gradient of",
}


@pytest.mark.parametrize("fault", SABOTAGE, ids=lambda fault: fault.__name__)
def test_sabotage_is_noticed(fault, monkeypatch):
    layer, reference = make_pair("lstm", 1, True)
    want = layer_result(reference, inputs(), LENGTHS)
    assert_parity(layer_result(layer, inputs(), LENGTHS), want)
    fault(layer, monkeypatch)
    with pytest.raises(ParityError, match=SABOTAGE[fault]):
        assert_parity(layer_result(layer, inputs(), LENGTHS), want)


def test_the_reset_gate_before_the_product_is_noticed():
    """Cho's unit and cuDNN's differ, with the same weights (eqs. 6.42 and 6.44)."""
    layer, reference = make_pair("gru")
    want = layer_result(reference, inputs())
    assert_parity(layer_result(layer, inputs()), want)
    layer.config = GRUConfig(D, M, reset="before")
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(layer_result(layer, inputs()), want)


# --- across levels


def network_result(model, x, lengths, dy):
    model.zero_grad()
    y = model(x, lengths)
    loss = (y * dy).sum()
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return Result(y, loss, grads | {f"state {i}": s for i, s in enumerate(model.state)})


def numpy_model(kind, model):
    c = model.rnn.config
    config = RecurrentConfig(
        D, M, K, model.config.vocabulary, c.layers, c.bidirectional, model.config.head
    )
    reference = KINDS[kind][2](config, np.random.default_rng(0))
    load_into(reference.params, model)  # strict: names and shapes are equal
    return reference


def numpy_result(kind, model, x, lengths, dy):
    reference = numpy_model(kind, model)
    y = reference.forward(x.numpy(), None if lengths is None else lengths.numpy())
    grads = reference.backward(dy.numpy())
    states = {f"state {i}": s for i, s in enumerate(reference.state)}
    return Result(y, (y * dy.numpy()).sum(), grads | states)


def lowlevel_result(kind, model, x, lengths, dy):
    module, config_class = LOWLEVEL[kind]
    c, params = model.rnn.config, to_torch(model, requires_grad=True)
    config = config_class(
        D, M, K, model.config.vocabulary, c.layers, c.bidirectional, model.config.head
    )
    y, state = module.forward(params, x, config, lengths)
    loss = (y * dy).sum()
    loss.backward()
    grads = {name: p.grad for name, p in params.items()}
    return Result(y, loss, grads | {f"state {i}": s for i, s in enumerate(state)})


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
@pytest.mark.parametrize("head", ["last", "mean", "every"])
@pytest.mark.parametrize("vocabulary", [0, V], ids=["vectors", "symbols"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_levels_1_and_2(kind, vocabulary, head, lengths):
    model = make_network(kind, vocabulary, head, layers=2, bidirectional=True)
    x, dy = inputs(vocabulary), normal(B, T, K) if head == "every" else normal(B, K)
    ours = network_result(model, x, lengths, dy)
    assert_parity(ours, numpy_result(kind, model, x, lengths, dy))
    assert_parity(ours, lowlevel_result(kind, model, x, lengths, dy))


@pytest.mark.parametrize("head", ["last", "every"])
@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_equal_level_1(kind, head):
    model = make_network(kind, V, head, layers=2)
    reference = numpy_model(kind, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    numpy_optimizer = optimizers_numpy.Adam(reference.params, lr=0.05)
    losses, numpy_losses = [], []
    for step in range(10):
        x, lengths = inputs(V, seed=step), torch.randint(1, T + 1, (B,), generator=seeded(step))
        shape = (B, T) if head == "every" else (B,)
        y = torch.randint(K, shape, generator=seeded(100 + step))
        optimizer.zero_grad()
        loss = loss_function(model, (x, lengths, y))
        loss.backward()
        norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
        for p in model.parameters():  # PyTorch's own clipping adds 1e-6 to the norm
            p.grad *= min(1.0, 0.5 / norm.item())
        optimizer.step()
        losses.append(loss)

        outputs = reference.forward(x.numpy(), lengths.numpy())
        if head == "every":
            mask = length_mask(lengths.numpy(), T)
            loss, cache = sequence_cross_entropy_forward(outputs, y.numpy(), mask)
            doutputs = sequence_cross_entropy_backward(cache)
        else:
            loss, cache = softmax_cross_entropy_forward(outputs, y.numpy())
            doutputs = softmax_cross_entropy_backward(cache)
        grads = reference.backward(doutputs)
        clip_by_norm(grads, 0.5)
        numpy_optimizer.step(grads)
        numpy_losses.append(loss)
    assert_trajectory(losses, numpy_losses)


def test_the_loss_of_values_is_half_the_mean_squared_error():
    torch.manual_seed(0)
    model = SequenceNetwork(LSTM(LSTMConfig(D, M)), NetworkConfig(1)).double()
    x, y = inputs(), normal(B)
    loss = loss_function(model, (x, LENGTHS, y))
    want = 0.5 * (model(x, LENGTHS)[:, 0] - y).square().mean().item()
    assert loss.item() == pytest.approx(want, rel=1e-12)


# --- the papers


def unit(a):
    return torch.sigmoid(a)


def lstm_1997(layer, x, h, c):
    """Section 4 of the 1997 paper, cell by cell: net inputs, gates, internal state, output."""
    W, U = layer.weight_ih_l0, layer.weight_hh_l0
    net = x @ W.T + h @ U.T + layer.bias_ih_l0 + layer.bias_hh_l0
    net_in, net_c, net_out = net[:, :M], net[:, M : 2 * M], net[:, 2 * M :]
    c = c + unit(net_in) * (4 * unit(net_c) - 2)
    return unit(net_out) * (2 * unit(c) - 1), c


def lstm_2000(layer, x, h, c):
    """The same with the forget gate of Gers et al., 2000."""
    W, U = layer.weight_ih_l0, layer.weight_hh_l0
    net = x @ W.T + h @ U.T + layer.bias_ih_l0 + layer.bias_hh_l0
    net_in, net_forget, net_c, net_out = net.split(M, dim=1)
    c = unit(net_forget) * c + unit(net_in) * (4 * unit(net_c) - 2)
    return unit(net_out) * (2 * unit(c) - 1), c


def lstm_peepholes(layer, x, h, c):
    """Gers et al., 2002: input and forget gate see the state before, the output gate the new."""
    W, U = layer.weight_ih_l0, layer.weight_hh_l0
    net = x @ W.T + h @ U.T + layer.bias_ih_l0 + layer.bias_hh_l0
    net_in, net_forget, net_c, net_out = net.split(M, dim=1)
    p_in, p_forget, p_out = layer.weight_ch_l0
    new = unit(net_forget + p_forget * c) * c + unit(net_in + p_in * c) * torch.tanh(net_c)
    return unit(net_out + p_out * new) * torch.tanh(new), new


PRINTED = {"1997": lstm_1997, "2000": lstm_2000, "peepholes": lstm_peepholes}


@pytest.mark.parametrize("variant", PRINTED)
def test_lstm_as_printed(variant):
    layer, x = perturbed(LSTM(VARIANTS[variant](inputs=D, width=M))), inputs()
    h, c = torch.zeros(2, B, M, dtype=torch.float64)
    every = []
    for t in range(T):
        h, c = PRINTED[variant](layer, x[:, t], h, c)
        every.append(h)
    y, (last_h, last_c) = layer(x)
    assert max_difference(y, torch.stack(every, dim=1)) < 1e-12
    assert max_difference(last_h[0], h) < 1e-12 and max_difference(last_c[0], c) < 1e-12
    # Other squashing functions are noticed.
    other = "tanh" if layer.config.squashing == "1997" else "1997"
    layer.config = dataclasses.replace(layer.config, squashing=other)
    assert max_difference(layer(x)[0], y) > 1e-3


def cho_2014(layer, x, h):
    """Equations (5) to (8) of Cho et al., 2014, with their names; no biases."""
    (W_r, W_z, W), (U_r, U_z, U) = layer.weight_ih_l0.chunk(3), layer.weight_hh_l0.chunk(3)
    r = unit(x @ W_r.T + h @ U_r.T)
    z = unit(x @ W_z.T + h @ U_z.T)
    proposal = torch.tanh(x @ W.T + (r * h) @ U.T)
    return z * h + (1 - z) * proposal


def test_gru_as_printed():
    layer, x = perturbed(GRU(GRUConfig.cho2014(inputs=D, width=M))), inputs()
    assert set(layer.state_dict()) == {"weight_ih_l0", "weight_hh_l0"}
    h, every = torch.zeros(B, M, dtype=torch.float64), []
    for t in range(T):
        h = cho_2014(layer, x[:, t], h)
        every.append(h)
    y, (last,) = layer(x)
    assert max_difference(y, torch.stack(every, dim=1)) < 1e-12
    assert max_difference(last[0], h) < 1e-12
    layer.config = GRUConfig(D, M, bias=False)  # cuDNN's unit with the same weights
    assert max_difference(layer(x)[0], y) > 1e-3


def test_reset_before_with_biases_is_the_same_as_cudnns_where_nothing_is_reset():
    """With r = 1 the two forms are one; so the biases stand at the same places."""
    layer = perturbed(GRU(GRUConfig(D, M)))
    layer.bias_ih_l0.data[:M] = 50.0
    y, _ = layer(inputs())
    layer.config = GRUConfig(D, M, reset="before")
    assert max_difference(layer(inputs())[0], y) < 1e-12


def test_the_gradient_of_1997_goes_back_through_the_cells_alone():
    """Equation 6.38: cut at the gates' and proposals' inputs, it is that of c = c + i φ alone."""
    layer = perturbed(LSTM(LSTMConfig.hochreiter1997(inputs=D, width=M)))
    x = inputs().requires_grad_()
    y, (_, c) = layer(x)
    dx = torch.autograd.grad(c.sum(), x, retain_graph=True)[0]
    # By hand: each step's i φ(a) has a gradient of 1, whatever came between it and the end.
    every_h = torch.cat([torch.zeros(B, 1, M, dtype=torch.float64), y[:, :-1]], dim=1).detach()
    net = x @ layer.weight_ih_l0.T + every_h @ layer.weight_hh_l0.T
    net = net + layer.bias_ih_l0 + layer.bias_hh_l0
    added = unit(net[..., :M]) * (4 * unit(net[..., M : 2 * M]) - 2)
    want = torch.autograd.grad(added.sum(), x)[0]
    assert max_difference(dx, want) < 1e-12
    layer.config = LSTMConfig(D, M, forget_gate=False, squashing="1997")
    whole = torch.autograd.grad(layer(x)[1][1].sum(), x)[0]
    assert max_difference(whole, want) > 1e-3


def cells_alone(layer, x):
    """y and the last c, where the gates read h and c as numbers, without a way back."""
    numbers = [torch.zeros(2, 1, B, M, dtype=torch.float64)]
    with torch.no_grad():
        for t in range(T):
            numbers.append(torch.stack(layer(x[:, t : t + 1], None, tuple(numbers[-1]))[1]))
    (p_in, *p_forget, p_out) = getattr(layer, "weight_ch_l0", [0] * (len(layer.bias_ih_l0) // M))
    c, every = numbers[0][1, 0], []
    for t in range(T):
        (h, before), (_, now) = numbers[t][:, 0], numbers[t + 1][:, 0]
        net = x[:, t] @ layer.weight_ih_l0.T + h @ layer.weight_hh_l0.T
        net = net + layer.bias_ih_l0 + layer.bias_hh_l0
        net_in, *net_forget, net_c, net_out = net.split(M, dim=1)
        keep = unit(net_forget[0] + p_forget[0] * before) if net_forget else 1
        c = keep * c + unit(net_in + p_in * before) * (4 * unit(net_c) - 2)
        every.append(unit(net_out + p_out * now) * (2 * unit(c) - 1))
    return torch.stack(every, dim=1), c


@pytest.mark.parametrize("variant", ["1997", "2000", "1997 with peepholes"])
def test_the_gradient_that_is_cut_short_reaches_all_weights(variant):
    """Equation 6.38 for h, and for what the peepholes see of c."""
    layer, x = perturbed(LSTM(VARIANTS[variant](inputs=D, width=M))), inputs().requires_grad_()
    names, leaves = zip(("x", x), *layer.named_parameters(), strict=True)

    def result(y, c):
        loss = (y * normal(B, T, M, seed=5)).sum() + (c * normal(B, M, seed=6)).sum()
        return Result(y, loss, dict(zip(names, torch.autograd.grad(loss, leaves), strict=True)))

    y, (_, c) = layer(x)
    want = result(*cells_alone(layer, x))
    assert_parity(result(y, c[0]), want)
    layer.config = dataclasses.replace(layer.config, truncated=False)
    y, (_, c) = layer(x)
    with pytest.raises(ParityError, match="gradient of"):
        assert_parity(result(y, c[0]), want)


@pytest.mark.parametrize("variant", ["1997, whole gradient", "peepholes"])
def test_gradients_of_the_variants_by_central_differences(variant):
    layer = perturbed(LSTM(VARIANTS[variant](inputs=D, width=M, bidirectional=True)))
    names = list(dict(layer.named_parameters()))

    def outputs(x, *weights):
        state = dict(zip(names, weights, strict=True))
        y, (h, c) = torch.func.functional_call(layer, state, (x, LENGTHS))
        return y, h, c

    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(outputs, (inputs().requires_grad_(), *weights), fast_mode=True)


def test_parameter_counts_and_names():
    """G (M D + M M + 2 M) a layer and direction; the peepholes, G - 1 rows of M more."""
    with torch.device("meta"):
        D, M = 10, 20
        maps = M * D + M * M + 2 * M
        counts = {"today": 4 * maps, "1997": 3 * maps, "2000": 4 * maps}
        counts |= {"peepholes": 4 * maps + 3 * M, "1997 with peepholes": 3 * maps + 2 * M}
        for variant, count in counts.items():
            layer = LSTM(VARIANTS[variant](inputs=D, width=M))
            assert sum(p.numel() for p in layer.parameters()) == count, variant
        for config, count in (
            (GRUConfig(D, M), 3 * maps),
            (GRUConfig.cho2014(inputs=D, width=M), 3 * (M * D + M * M)),
        ):
            assert sum(p.numel() for p in GRU(config).parameters()) == count
        large = LSTM(LSTMConfig(D, M, layers=2, bidirectional=True))
        counts = sum(p.numel() for p in large.parameters())
        assert counts == 2 * 4 * maps + 2 * 4 * (2 * M * M + M * M + 2 * M)


def test_initialisation():
    layer = LSTM(LSTMConfig(50, 100, layers=2, bidirectional=True))
    layer.initialise(seeded())
    for name, p in layer.named_parameters():
        if name.startswith("weight"):
            assert p.abs().max() <= 0.1  # 1/√M
            assert abs(p.var().item() / (0.01 / 3) - 1) < 0.06
        else:
            total = 100.0 if name.startswith("bias_ih") else 0.0  # of the forget gates alone
            assert p.sum() == total and p[100:200].sum() == total
    again = LSTM(layer.config)
    again.initialise(seeded())
    assert_same(again, layer, tol=0)
    layer = LSTM(LSTMConfig(D, 2, forget_bias=3.0, input_bias=-2.0))
    assert layer.bias_ih_l0.tolist() == [-2, -2, 3, 3, 0, 0, 0, 0]
    layer = LSTM(LSTMConfig.hochreiter1997(inputs=D, width=2, input_bias=-2.0))
    assert layer.bias_ih_l0.tolist() == [-2, -2, 0, 0, 0, 0]


def test_initialisation_of_the_gru():
    layer = GRU(GRUConfig(50, 100, layers=2, bidirectional=True, update_bias=3.0))
    layer.initialise(seeded())
    for name, p in layer.named_parameters():
        if name.startswith("weight"):
            assert p.abs().max() <= 0.1  # 1/√M
            assert abs(p.var().item() / (0.01 / 3) - 1) < 0.06
        else:
            total = 300.0 if name.startswith("bias_ih") else 0.0  # of the update gates alone
            assert p.abs().sum() == total and p[100:200].sum() == total
    again = GRU(layer.config)
    again.initialise(seeded())
    assert_same(again, layer, tol=0)


# --- padding and state


def all_layers():
    """A layer of each kind and variant."""
    sizes = {"inputs": D, "width": M, "layers": 2, "bidirectional": True}
    layers = {f"lstm {n}": (lambda c=c: LSTM(c(**sizes))) for n, c in VARIANTS.items()}
    layers["gru"] = lambda: GRU(GRUConfig(**sizes))
    layers["gru before"] = lambda: GRU(GRUConfig(reset="before", **sizes))
    layers["cho2014"] = lambda: GRU(GRUConfig.cho2014(**sizes))
    layers["rnn"] = lambda: VanillaRNN(RNNConfig(**sizes))
    return layers


@pytest.mark.parametrize("name", all_layers())
def test_padding_changes_nothing(name):
    """What stands in the padding is of no matter, nor which sequences are beside one."""
    layer, x = perturbed(all_layers()[name]()), inputs()
    real = torch.arange(T) < LENGTHS[:, None]
    other = torch.where(real[:, :, None], x, 100 * normal(B, T, D, seed=3))
    one, two = layer_result(layer, x, LENGTHS), layer_result(layer, other, LENGTHS)
    assert_same(two.grads, one.grads, tol=1e-12)
    assert max_difference(two.outputs, one.outputs) < 1e-12
    assert not one.outputs[~real].any() and not one.grads["x"][~real].any()
    for b, length in enumerate(LENGTHS):
        y, last = layer(x[b : b + 1, :length])
        assert max_difference(y[0], one.outputs[b, :length]) < 1e-12
        for i, s in enumerate(last):
            assert max_difference(s[:, 0], one.grads[f"state {i}"][:, b]) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_handed_on_continues_the_sequence_without_a_gradient(kind):
    model = make_network(kind, V, "every", layers=2)
    tokens = torch.randint(V, (2, 9), generator=seeded())
    whole = model(tokens)
    first = model(tokens[:, :4])
    assert not any(part.requires_grad for part in model.state)
    second = model(tokens[:, 4:], state=model.state)
    assert max_difference(torch.cat([first, second], dim=1), whole) < 1e-14


# --- properties


@pytest.mark.parametrize("kind", KINDS)
def test_overfits_one_batch(kind):
    torch.manual_seed(0)
    rnn = KINDS[kind][0](inputs=8, width=24)
    model = SequenceNetwork(rnn, NetworkConfig(5, 9))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    tokens, targets = torch.randint(9, (16, 7)), torch.randint(5, (16,))
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_function(model, (tokens, torch.full((16,), 7), targets))
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_initial_loss_is_that_of_guessing():
    torch.manual_seed(0)
    model = SequenceNetwork(LSTM(LSTMConfig(8, 16)), NetworkConfig(10, 20))
    nn.init.normal_(model.head.weight, std=0.001)
    nn.init.zeros_(model.head.bias)
    batch = torch.randint(20, (64, 12)), torch.full((64,), 12), torch.randint(10, (64,))
    assert abs(loss_function(model, batch).item() - np.log(10)) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_only_in_training_at_the_input_of_each_layer_and_of_the_head(kind):
    x = inputs().float()

    def varies(rnn_dropout, head_dropout, layers):
        torch.manual_seed(0)
        rnn = KINDS[kind][0](inputs=D, width=M, layers=layers, dropout=rnn_dropout)
        model = SequenceNetwork(rnn, NetworkConfig(K, dropout=head_dropout))
        model.eval()
        assert torch.equal(model(x), model(x))
        model.train()
        return not torch.equal(model(x), model(x))

    assert varies(0.5, 0.0, 1) and varies(0.0, 0.5, 1) and not varies(0.0, 0.0, 2)
    # Between the layers too: inputs of zero leave the first layer's dropout nothing to drop.
    rnn = KINDS[kind][0](inputs=D, width=M, layers=2, dropout=0.5).train()
    zeros = torch.zeros(50, T, D)
    rnn.bias_hh_l0.data += 1.0
    assert not torch.equal(rnn(zeros)[0], rnn(zeros)[0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_dropout_is_that_of_one_layer_after_another(kind):
    """The noise drawn in the same order: a layer's input, the next one's, the head's."""
    model = make_network(kind, layers=2)
    model.rnn.config = dataclasses.replace(model.rnn.config, dropout=0.4)
    model.config = dataclasses.replace(model.config, dropout=0.3)
    layers = []
    for suffix, width in (("l0", D), ("l1", M)):
        layer = KINDS[kind][0](inputs=width, width=M).double()
        weights = {n: p for n, p in model.rnn.state_dict().items() if n.endswith(suffix)}
        load_into(layer, {n.replace("l1", "l0"): p for n, p in weights.items()})
        layers.append(layer)
    torch.manual_seed(1)
    y = model.train()(inputs())
    torch.manual_seed(1)
    every = inputs()
    for layer in layers:
        every, (h, *_) = layer(nn.functional.dropout(every, 0.4))
    want = model.head(nn.functional.dropout(h[0], 0.3))
    assert max_difference(y, want) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_layers_run_in_mixed_precision(kind):
    """--mixed_precision: half as many bits in the products, gradients as wide as the weights."""
    layer = KINDS[kind][0](inputs=D, width=M, layers=2, bidirectional=True)
    perturb(layer, scale=0.3)
    x = inputs().float()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x, LENGTHS)
    y.float().square().sum().backward()
    assert max_difference(y.float(), layer(x, LENGTHS)[0]) < 0.05
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}


def test_a_language_model_writes_what_it_learnt():
    torch.manual_seed(0)
    model = SequenceNetwork(GRU(GRUConfig(4, 16)), NetworkConfig(4, 4, "every"))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    text = torch.tensor([0, 1, 2, 3, 2, 1]).repeat(5)[None]
    for _ in range(60):
        optimizer.zero_grad()
        loss_function(model, (text[:, :-1], torch.tensor([29]), text[:, 1:])).backward()
        optimizer.step()
    written = generate(model, text[0, :6], 12, seeded(), temperature=0.1)
    assert written.tolist() == [0, 1, 2, 3, 2, 1] * 2
    one, same, other = (generate(model, text[0, :6], 30, seeded(s), 3.0) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_levels_1_and_3_give_each_next_character_the_same_probability():
    """The two draw from different generators; nearly without temperature they write the same."""
    model = make_network("lstm", K, "every")
    tokens = torch.tensor([1, 0, 3])
    ours = generate(model, tokens, 8, seeded(), temperature=1e-6)
    theirs = generate_numpy(
        numpy_model("lstm", model), tokens.numpy(), 8, np.random.default_rng(0), temperature=1e-6
    )
    assert ours.tolist() == theirs.tolist()


# --- bad input


def forward_of(x, lengths=None, vocabulary=0):
    network = SequenceNetwork(LSTM(LSTMConfig(4, 2)), NetworkConfig(3, vocabulary))
    return network(x, lengths)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LSTMConfig(4, 0), "expected width of at least 1, got 0"),
        (lambda: LSTMConfig(4, 2, squashing="2000"), "expected squashing .*, got '2000'"),
        (lambda: LSTMConfig(0, 2), "expected inputs of at least 1, got 0"),
        (lambda: LSTMConfig(4, 2, layers=0), "expected layers of at least 1, got 0"),
        (lambda: LSTMConfig(4, 2, dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: LSTMConfig(4, 2, dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: GRUConfig(0, 2), "expected inputs of at least 1, got 0"),
        (lambda: GRUConfig(4, 2, reset="both"), "expected reset 'before' or 'after', got 'both'"),
        (lambda: GRUConfig(4, 2, dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: RNNConfig(4, 2, layers=0), "expected layers of at least 1, got 0"),
        (lambda: RNNConfig(4, 2, dropout=2.0), r"expected dropout in \[0, 1\), got 2.0"),
        (lambda: NetworkConfig(0), "expected outputs of at least 1, got 0"),
        (lambda: NetworkConfig(3, -1), "expected a vocabulary of at least 0, got -1"),
        (lambda: NetworkConfig(3, head="max"), "'last', 'mean' or 'every', got 'max'"),
        (lambda: NetworkConfig(3, dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (
            lambda: forward_of(torch.zeros(2, 5, 3)),
            r"expected vectors \(B, T, 4\), got \(2, 5, 3\)",
        ),
        (
            lambda: forward_of(torch.zeros(2, 5, 4), vocabulary=7),
            r"expected tokens \(B, T\), got \(2, 5, 4\)",
        ),
        (
            lambda: forward_of(torch.zeros(2, 5, 4), torch.tensor([6, 1])),
            "expected lengths 1 to 5, got 1 to 6",
        ),
        (lambda: forward_of(torch.zeros(2, 5, 4), torch.tensor([0, 1])), "got 0 to 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
