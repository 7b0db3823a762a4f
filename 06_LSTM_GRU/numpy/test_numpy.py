"""Tests of level 1: gradients by central differences; nn.RNN, nn.LSTM, nn.GRU; padding, state."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_numpy
from gru_numpy import GRUNetwork, gru_backward, gru_forward
from lstm_numpy import LSTMNetwork, lstm_backward, lstm_forward
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import Adam
from recurrent_network_numpy import WEIGHTS, RecurrentConfig, RNNNetwork, generate
from recurrent_numpy import (
    clip_by_norm,
    embedding_backward,
    embedding_forward,
    length_mask,
    rnn_backward,
    rnn_forward,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from utils.gradient_check import GradientMismatch, check_backward, check_model
from utils.parity import ParityError, Result, assert_parity, assert_same, max_difference, perturb

RNG = np.random.default_rng(0)
B, T, D, M = 3, 5, 4, 2  # all sizes differ, so that a wrong transpose shows
LENGTHS = np.array([5, 1, 3])

LAYERS = {
    "rnn": (rnn_forward, rnn_backward, 1, 1),
    "lstm": (lstm_forward, lstm_backward, 4, 2),
    "gru": (gru_forward, gru_backward, 3, 1),
}
NETWORKS = {
    "rnn": (RNNNetwork, torch.nn.RNN),
    "lstm": (LSTMNetwork, torch.nn.LSTM),
    "gru": (GRUNetwork, torch.nn.GRU),
}
KINDS = list(LAYERS)
SHAPES = list(itertools.product((1, 2), (False, True), (None, LENGTHS)))
SHAPE_NAMES = [
    f"{layers}-{'both' if both else 'one'}-{'whole' if lengths is None else 'packed'}"
    for layers, both, lengths in SHAPES
]


def layer_inputs(kind):
    _, _, G, states = LAYERS[kind]
    shapes = [(B, T, D), *[(B, M)] * states, (G * M, D), (G * M, M), (G * M,), (G * M,)]
    names = ["x", *["h", "c"][:states], *WEIGHTS]
    return {n: RNG.standard_normal(s) for n, s in zip(names, shapes, strict=True)}


def as_one_array(kind, backward=None):
    """The layer as the gradient check wants it: all outputs in one array, states as inputs."""
    forward, right, _, states = LAYERS[kind]
    backward = backward or right

    def whole_forward(x, *rest, mask=None):
        (y, last), cache = forward(x, rest[:states], *rest[states:], mask)
        return np.concatenate([y.ravel(), *[s.ravel() for s in last]]), cache

    def whole_backward(d, cache):
        dy, *dlast = np.split(d, [B * T * M + i * B * M for i in range(states)])
        dlast = tuple(part.reshape(B, M) for part in dlast)
        dx, dstate, *dweights = backward(dy.reshape(B, T, M), dlast, cache)
        return dx, *dstate, *dweights

    return whole_forward, whole_backward


# --- gradients, by central differences


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_gradients(kind, lengths):
    mask = None if lengths is None else length_mask(lengths, T)
    check_backward(*as_one_array(kind), layer_inputs(kind), mask=mask)


def test_embedding_gradient():
    tokens = np.array([[1, 2, 1], [0, 1, 1]])  # one symbol often, another (3) never
    check_backward(
        lambda weight: embedding_forward(tokens, weight),
        embedding_backward,
        {"weight": RNG.standard_normal((4, 3))},
    )


def test_sequence_cross_entropy_gradient():
    targets, mask = RNG.integers(7, size=(B, T)), length_mask(LENGTHS, T)
    check_backward(
        lambda logits: sequence_cross_entropy_forward(logits, targets, mask),
        sequence_cross_entropy_backward,
        {"logits": RNG.standard_normal((B, T, 7))},
    )


@pytest.mark.parametrize("head", ["last", "mean", "every"])
@pytest.mark.parametrize("kind", KINDS)
def test_network_gradients(kind, head):
    config = RecurrentConfig(3, 2, 4, vocabulary=5, layers=2, bidirectional=True, head=head)
    model = NETWORKS[kind][0](config, np.random.default_rng(0))
    perturb(model.params)
    check_model(model, RNG.integers(5, size=(B, T)), lengths=LENGTHS)


class WithDropout:
    """A network in training, with the same masks at every call."""

    def __init__(self, model):
        self.model, self.params, self.backward = model, model.params, model.backward

    def forward(self, x, **options):
        return self.model.forward(x, train=True, rng=np.random.default_rng(5), **options)


@pytest.mark.parametrize("head", ["last", "mean"])
def test_network_gradients_with_dropout(head):
    config = RecurrentConfig(3, 2, 4, 5, layers=2, bidirectional=True, head=head, dropout=0.4)
    model = GRUNetwork(config, np.random.default_rng(0))
    perturb(model.params)
    check_model(WithDropout(model), RNG.integers(5, size=(B, T)), lengths=LENGTHS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_gradient_is_an_array_of_its_own(kind):
    """Clipping scales gradients in place: what two of them shared would be scaled twice."""
    model, _ = make_pair(kind, 2, True)
    y = model.forward(RNG.standard_normal((B, T, D)))
    grads = model.backward(RNG.standard_normal(y.shape))
    for (one, a), (two, b) in itertools.combinations(grads.items(), 2):
        assert not np.may_share_memory(a, b), f"{one} and {two}"


def no_carry(dy, dlast, cache):
    """The gradient of c goes back a step without the forget gate."""
    inputs, gates, h, c, tanh_c, weight_hh, mask = cache
    gates = gates.copy()
    _, dstate, *rest = lstm_backward(dy, dlast, cache)
    gates[..., M : 2 * M] = 1.0  # f where it multiplies dc; da_f becomes 0
    wrong = lstm_backward(dy, dlast, (inputs, gates, h, c, tanh_c, weight_hh, mask))
    return wrong[0], dstate, *rest


def last_step_alone(dy, dlast, cache):
    """Backpropagation that goes back one step: no path through weight_hh."""
    *head, weight_hh, mask = cache
    return lstm_backward(dy, dlast, (*head, np.zeros_like(weight_hh), mask))


def bias_of_one_step(dy, dlast, cache):
    *grads, dbias_ih, _ = lstm_backward(dy, dlast, cache)
    return *grads, dbias_ih, dbias_ih / T


@pytest.mark.parametrize(
    ("fault", "message"),
    [(no_carry, "dx"), (last_step_alone, "dx"), (bias_of_one_step, "dbias_hh")],
)
def test_the_gradient_check_can_fail(fault, message):
    inputs = layer_inputs("lstm")
    check_backward(*as_one_array("lstm"), inputs)
    with pytest.raises(GradientMismatch, match=message):
        check_backward(*as_one_array("lstm", fault), inputs)


# --- the library: layers x directions x packed lengths


def make_pair(kind, layers, both):
    """Our network and PyTorch's layer with the same perturbed weights."""
    ours, theirs = NETWORKS[kind]
    model = ours(RecurrentConfig(D, M, 3, layers=layers, bidirectional=both, head="every"), RNG)
    perturb(model.params)
    module = theirs(D, M, layers, batch_first=True, bidirectional=both).double()
    weights = {n[4:]: torch.tensor(p) for n, p in model.params.items() if n.startswith("rnn.")}
    module.load_state_dict(weights)  # strict: the key sets are equal
    return model, module


def results(model, module, x, lengths, dy):
    """Outputs, last states and all gradients of both, the head's too; the loss is sum(y * dy)."""
    y = model.forward(x, lengths)
    grads = model.backward(dy)
    state = {f"state {i}": s for i, s in enumerate(model.state)}
    ours = Result(y, (y * dy).sum(), grads | state)

    head = [torch.tensor(model.params[f"head.{n}"], requires_grad=True) for n in ("weight", "bias")]
    inputs = torch.tensor(x)
    if lengths is not None:
        inputs = pack_padded_sequence(
            inputs, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
    every, last = module(inputs)
    if lengths is not None:
        every, _ = pad_packed_sequence(every, batch_first=True, total_length=x.shape[1])
    logits = every @ head[0].T + head[1]
    loss = (logits * torch.tensor(dy)).sum()
    loss.backward()
    theirs = {f"rnn.{n}": p.grad for n, p in module.named_parameters()}
    theirs |= {"head.weight": head[0].grad, "head.bias": head[1].grad}
    last = last if isinstance(last, tuple) else (last,)
    theirs |= {f"state {i}": s for i, s in enumerate(last)}
    return ours, Result(logits, loss, theirs)


@pytest.mark.parametrize(("layers", "both", "lengths"), SHAPES, ids=SHAPE_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch(kind, layers, both, lengths):
    model, module = make_pair(kind, layers, both)
    x, dy = RNG.standard_normal((B, T, D)), RNG.standard_normal((B, T, 3))
    assert_parity(*results(model, module, x, lengths, dy))


@pytest.mark.parametrize("kind", KINDS)
def test_first_state_and_its_gradient_equal_torch(kind):
    forward, backward, _, states = LAYERS[kind]
    inputs = layer_inputs(kind)
    x, *rest = inputs.values()
    (y, last), cache = forward(x, tuple(rest[:states]), *rest[states:])
    dy, dlast = RNG.standard_normal(y.shape), [RNG.standard_normal((B, M)) for _ in last]
    dx, dstate, *dweights = backward(dy, tuple(dlast), cache)
    module = NETWORKS[kind][1](D, M, batch_first=True).double()
    for name in WEIGHTS:
        getattr(module, f"{name}_l0").data = torch.tensor(inputs[name])
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, *rest[:states])]
    start = tuple(leaf[None] for leaf in leaves[1:])
    every, end = module(leaves[0], start if states == 2 else start[0])
    end = end if states == 2 else (end,)
    loss = (every * torch.tensor(dy)).sum()
    for s, d in zip(end, dlast, strict=True):
        loss = loss + (s[0] * torch.tensor(d)).sum()
    loss.backward()
    names = ("x", "h", "c")[: 1 + states]
    ours = dict(zip((*names, *WEIGHTS), (dx, *dstate, *dweights), strict=True))
    theirs = {n: leaf.grad for n, leaf in zip(names, leaves, strict=True)}
    theirs |= {n: getattr(module, f"{n}_l0").grad for n in WEIGHTS}
    assert_parity(Result(y, 0.0, ours), Result(every, 0.0, theirs))


# --- the comparison can fail


def gates_in_another_order(model, monkeypatch):
    """g before f, as some libraries have them."""
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        i, f, g, o = np.split(model.params[f"rnn.{name}_l0"].copy(), 4)
        model.params[f"rnn.{name}_l0"][...] = np.concatenate([i, g, f, o])


def c_without_tanh(model, monkeypatch):
    """h = o c for h = o tanh(c)."""

    def wrong(*args):
        (y, last), cache = lstm_forward(*args)
        _, gates, _, c, _, _, _ = cache
        y = (gates[..., 3 * M :] * c[1:]).swapaxes(0, 1)
        return (y, last), cache

    model.LAYER = (wrong, lstm_backward)


def reversed_without_mask(model, monkeypatch):
    """The second direction starts in the padding, and carries on what it saw there."""
    forward = model.LAYER[0]
    calls = itertools.count()

    def wrong(*args):
        second = next(calls) % 2
        return forward(*args[:-1], None if second else args[-1])

    model.LAYER = (wrong, lstm_backward)


def one_bias_forgotten(model, monkeypatch):
    model.params["rnn.bias_hh_l0"][...] = 0


def state_not_carried_over_padding(model, monkeypatch):
    monkeypatch.setattr(lstm_numpy, "carry_over", lambda *_: None)


SABOTAGE = [
    gates_in_another_order,
    c_without_tanh,
    reversed_without_mask,
    one_bias_forgotten,
    state_not_carried_over_padding,
]


@pytest.mark.parametrize("fault", SABOTAGE)
def test_sabotage_is_noticed(fault, monkeypatch):
    model, module = make_pair("lstm", 1, True)
    x, dy = RNG.standard_normal((B, T, D)), RNG.standard_normal((B, T, 3))
    assert_parity(*results(model, module, x, LENGTHS, dy))
    fault(model, monkeypatch)
    with pytest.raises(ParityError):
        assert_parity(*results(model, module, x, LENGTHS, dy))


def test_the_reset_gate_before_the_product_is_noticed():
    """Cho's unit and cuDNN's differ, with the same weights (eqs. 6.42 and 6.44)."""
    inputs = layer_inputs("gru")
    x, h, weight_ih, weight_hh, bias_ih, bias_hh = inputs.values()
    (_, (ours,)), _ = gru_forward(x[:, :1], (h,), weight_ih, weight_hh, bias_ih, bias_hh)
    a = x[:, 0] @ weight_ih.T + bias_ih
    both = 1 / (1 + np.exp(-(a + h @ weight_hh.T + bias_hh)[:, : 2 * M]))
    r, z = np.split(both, 2, axis=1)
    U, b = weight_hh[2 * M :], bias_hh[2 * M :]
    after = np.tanh(a[:, 2 * M :] + r * (h @ U.T + b))
    before = np.tanh(a[:, 2 * M :] + (r * h) @ U.T + b)
    assert max_difference(ours, (1 - z) * after + z * h) < 1e-12
    assert max_difference(ours, (1 - z) * before + z * h) > 1e-3


# --- padding and state


@pytest.mark.parametrize("head", ["last", "mean", "every"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, head):
    """What stands in the padding, and how much of it there is, is of no matter."""
    config = RecurrentConfig(D, M, 3, layers=2, bidirectional=True, head=head)
    model = NETWORKS[kind][0](config, np.random.default_rng(0))
    perturb(model.params)
    x = RNG.standard_normal((B, T, D))
    y = model.forward(x, LENGTHS)
    dy = RNG.standard_normal(y.shape)
    if head == "every":
        dy[~length_mask(LENGTHS, T)] = 0
    grads = model.backward(dy)

    longer = 100 * RNG.standard_normal((B, T + 3, D))
    for b, length in enumerate(LENGTHS):
        longer[b, :length] = x[b, :length]
    y_longer = model.forward(longer, LENGTHS)
    d_longer = dy if head != "every" else np.pad(dy, ((0, 0), (0, 3), (0, 0)))
    assert_same(model.backward(d_longer), grads, tol=1e-12)
    if head == "every":
        y, y_longer = (a[:, :T][length_mask(LENGTHS, T)] for a in (y, y_longer))
    assert max_difference(y_longer, y) < 1e-12
    for b, length in enumerate(LENGTHS):  # and each sequence by itself gives the same
        alone = model.forward(x[b : b + 1, :length])
        want = model.forward(x, LENGTHS)[b]
        assert max_difference(alone[0], want[:length] if head == "every" else want) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_handed_on_continues_the_sequence(kind):
    config = RecurrentConfig(3, M, 7, vocabulary=7, layers=2, head="every")
    model = NETWORKS[kind][0](config, np.random.default_rng(0))
    perturb(model.params)
    tokens = RNG.integers(7, size=(2, 9))
    whole = model.forward(tokens)
    first = model.forward(tokens[:, :4])
    second = model.forward(tokens[:, 4:], state=model.state)
    assert max_difference(np.concatenate([first, second], axis=1), whole) < 1e-14


def test_truncated_gradient_stays_in_its_piece():
    """The gradient of the second piece is that of a network whose first state is a constant."""
    config = RecurrentConfig(3, M, 7, vocabulary=7, head="every")
    model = LSTMNetwork(config, np.random.default_rng(0))
    tokens = RNG.integers(7, size=(2, 9))
    dy = RNG.standard_normal((2, 5, 7))
    model.forward(tokens)
    full = model.backward(np.concatenate([np.zeros((2, 4, 7)), dy], axis=1))
    model.forward(tokens[:, :4])
    model.forward(tokens[:, 4:], state=model.state)
    cut = model.backward(dy)
    assert max_difference(cut["head.weight"], full["head.weight"]) < 1e-14
    assert max_difference(cut["rnn.weight_hh_l0"], full["rnn.weight_hh_l0"]) > 1e-6


# --- properties


def test_constant_error_carousel():
    """Forget gate open, input gate shut: the cell keeps its content, and its gradient, for ever."""
    steps, wide = 1000, 3
    weight_ih, weight_hh = np.zeros((4 * wide, D)), np.zeros((4 * wide, wide))
    bias = np.repeat([-50.0, 50.0, 0.0, 50.0], wide)
    c = RNG.standard_normal((2, wide))
    x = RNG.standard_normal((2, steps, D))
    (_, (_, last)), cache = lstm_forward(
        x, (np.zeros((2, wide)), c), weight_ih, weight_hh, bias, np.zeros(4 * wide)
    )
    assert max_difference(last, c) < 1e-12
    dc = RNG.standard_normal((2, wide))
    zeros = np.zeros((2, steps, wide))
    _, (_, dfirst), *_ = lstm_backward(zeros, (np.zeros((2, wide)), dc), cache)
    assert max_difference(dfirst, dc) < 1e-12


def test_gradient_of_a_vanilla_rnn_vanishes_within_its_bound():
    """eq. 6.14: over k steps the gradient shrinks at least by the k-th power of U's norm."""
    inputs = layer_inputs("rnn") | {"x": RNG.standard_normal((B, 60, D))}
    inputs["weight_hh"] *= 0.9 / np.linalg.norm(inputs["weight_hh"], 2)
    x, h, *weights = inputs.values()
    _, cache = rnn_forward(x, (h,), *weights)
    dh = RNG.standard_normal((B, M))
    _, (dfirst,), *_ = rnn_backward(np.zeros((B, 60, M)), (dh,), cache)
    assert 0 < np.linalg.norm(dfirst) <= 0.9**60 * np.linalg.norm(dh)


def test_clipping_keeps_the_direction():
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert clip_by_norm(grads, 10.0) == 5.0
    assert grads["b"][0, 0] == 4.0  # short enough
    assert clip_by_norm(grads, 0.5) == 5.0
    assert max_difference(grads["a"], np.array([0.3, 0.0])) < 1e-15
    assert max_difference(grads["b"], np.array([[0.4]])) < 1e-15


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_dtype_follows_the_input(kind, dtype):
    config = RecurrentConfig(D, M, 3, bidirectional=True, head="mean")
    model = NETWORKS[kind][0](config, np.random.default_rng(0), dtype)
    y = model.forward(RNG.standard_normal((B, T, D)).astype(dtype), LENGTHS)
    grads = model.backward(np.ones_like(y))
    assert y.dtype == dtype and {g.dtype for g in grads.values()} == {np.dtype(dtype)}


def test_forget_bias_is_1_in_sum():
    model = LSTMNetwork(RecurrentConfig(D, M, 3, layers=2), np.random.default_rng(0))
    for suffix in ("l0", "l1"):
        total = model.params[f"rnn.bias_ih_{suffix}"] + model.params[f"rnn.bias_hh_{suffix}"]
        assert np.array_equal(total, np.repeat([0.0, 1.0, 0.0, 0.0], M))


def test_other_initial_biases_are_at_their_gates():
    config = RecurrentConfig(D, M, 3, bidirectional=True)
    lstm = LSTMNetwork(config, np.random.default_rng(0), forget_bias=3.0, input_bias=-2.0)
    gru = GRUNetwork(config, np.random.default_rng(0), update_bias=3.0)
    for suffix in ("l0", "l0_reverse"):
        for model, gates in ((lstm, [-2.0, 3.0, 0.0, 0.0]), (gru, [0.0, 3.0, 0.0])):
            total = model.params[f"rnn.bias_ih_{suffix}"] + model.params[f"rnn.bias_hh_{suffix}"]
            assert np.array_equal(total, np.repeat(gates, M))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_parameters(kind):
    config = RecurrentConfig(50, 100, 40, vocabulary=300, layers=2, bidirectional=True)
    params = NETWORKS[kind][0](config, np.random.default_rng(0)).params
    assert abs(params["embedding.weight"].std() - 1) < 0.02
    for name, p in params.items():
        if "weight" in name and not name.startswith("embedding"):  # uniform in ±1/√(its inputs)
            bound = 200**-0.5 if name == "head.weight" else 0.1
            assert np.abs(p).max() <= bound
            assert abs(p.var() / (bound**2 / 3) - 1) < 0.06, name
        elif "bias" in name:
            forget = kind == "lstm" and "bias_ih" in name
            assert np.abs(p).sum() == (100 if forget else 0), name
    again, other = (NETWORKS[kind][0](config, np.random.default_rng(s)).params for s in (0, 1))
    assert_same(again, params, tol=0)
    assert not np.array_equal(other["head.weight"], params["head.weight"])


def test_parameter_counts():
    """G (M D + M M + 2 M) a direction and layer."""
    for kind, G in (("rnn", 1), ("lstm", 4), ("gru", 3)):
        config = RecurrentConfig(10, 20, 2, layers=2, bidirectional=True)
        model = NETWORKS[kind][0](config, RNG)
        layers = 2 * G * (20 * 10 + 20 * 20 + 40) + 2 * G * (20 * 40 + 20 * 20 + 40)
        assert sum(p.size for p in model.params.values()) == layers + 2 * 40 + 2


def test_initial_loss_is_that_of_guessing():
    config = RecurrentConfig(8, 16, 10, vocabulary=20)
    model = LSTMNetwork(config, np.random.default_rng(0))
    model.params["head.weight"] *= 0.01
    logits = model.forward(RNG.integers(20, size=(64, 12)))
    loss, _ = softmax_cross_entropy_forward(logits, RNG.integers(10, size=64))
    assert abs(loss - np.log(10)) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_overfits_one_batch(kind):
    config = RecurrentConfig(8, 24, 5, vocabulary=9, dropout=0.0)
    model = NETWORKS[kind][0](config, np.random.default_rng(0), np.float32)
    optimizer = Adam(model.params, lr=0.02)
    tokens, targets = RNG.integers(9, size=(16, 7)), RNG.integers(5, size=16)
    for _ in range(60):
        loss, cache = softmax_cross_entropy_forward(model.forward(tokens), targets)
        grads = model.backward(softmax_cross_entropy_backward(cache))
        clip_by_norm(grads, 1.0)
        optimizer.step(grads)
    assert loss < 0.05


def test_dropout_needs_a_generator_and_does_nothing_at_test_time():
    config = RecurrentConfig(8, 4, 5, vocabulary=9, layers=2, dropout=0.5)
    model = GRUNetwork(config, np.random.default_rng(0))
    tokens = RNG.integers(9, size=(2, 7))
    assert np.array_equal(model.forward(tokens), model.forward(tokens))
    with pytest.raises(ValueError, match="expected rng for dropout in training, got None"):
        model.forward(tokens, train=True)
    dropped = model.forward(tokens, train=True, rng=np.random.default_rng(1))
    assert not np.allclose(dropped, model.forward(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_at_the_input_of_each_layer_and_of_the_head(kind):
    config = RecurrentConfig(D, M, 3, layers=2, dropout=0.4)
    model = NETWORKS[kind][0](config, np.random.default_rng(0))
    perturb(model.params)
    x = RNG.standard_normal((B, T, D))
    y = model.forward(x, train=True, rng=np.random.default_rng(1))

    rng, (layer, _, _, states) = np.random.default_rng(1), LAYERS[kind]

    def drop(a):
        return a * (rng.random(a.shape) >= 0.4) / 0.6

    every, start = x, (np.zeros((B, M)),) * states
    for suffix in ("l0", "l1"):
        weights = [model.params[f"rnn.{name}_{suffix}"] for name in WEIGHTS]
        (every, (h, *_)), _ = layer(drop(every), start, *weights)
    want = drop(h) @ model.params["head.weight"].T + model.params["head.bias"]
    assert max_difference(y, want) < 1e-12


def test_a_language_model_writes_what_it_learnt():
    config = RecurrentConfig(4, 16, 4, vocabulary=4, head="every")
    model = GRUNetwork(config, np.random.default_rng(0))
    optimizer = Adam(model.params, lr=0.03)
    text = np.tile([0, 1, 2, 3, 2, 1], 5)[None]
    for _ in range(60):
        _, cache = sequence_cross_entropy_forward(model.forward(text[:, :-1]), text[:, 1:])
        optimizer.step(model.backward(sequence_cross_entropy_backward(cache)))
    written = generate(model, text[0, :6], 12, np.random.default_rng(0), temperature=0.1)
    assert written.tolist() == [0, 1, 2, 3, 2, 1] * 2
    one, same, other = (
        generate(model, text[0, :6], 30, np.random.default_rng(s), 3.0).tolist() for s in (1, 1, 2)
    )
    assert one == same != other


def test_what_is_written_has_the_probabilities_of_the_softmax_at_this_temperature():
    model = RNNNetwork(RecurrentConfig(1, 1, 2, vocabulary=2, head="every"), RNG)
    model.params["head.weight"][...] = 0
    start = np.zeros(1, dtype=np.int64)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9), (2.0, 0.634)):
        model.params["head.bias"][...] = [0, np.log(3)]  # 1 : 3, 1 : 9, 1 : √3
        written = generate(model, start, 2000, np.random.default_rng(0), temperature)
        assert abs(written.mean() - share) < 0.03  # a standard deviation is 0.011
    model.params["head.bias"][...] = [0, 1e4]  # whose exponential is no number
    assert generate(model, start, 5, np.random.default_rng(0)).all()


# --- bad input


def network(**options):
    return LSTMNetwork(RecurrentConfig(4, 2, 3, **options), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RecurrentConfig(4, 0, 3), "expected width of at least 1, got 0"),
        (lambda: RecurrentConfig(0, 2, 3), "expected inputs of at least 1, got 0"),
        (lambda: RecurrentConfig(4, 2, 0), "expected outputs of at least 1, got 0"),
        (lambda: RecurrentConfig(4, 2, 3, layers=0), "expected layers of at least 1, got 0"),
        (lambda: RecurrentConfig(4, 2, 3, vocabulary=-1), "expected a vocabulary of at least 0"),
        (lambda: RecurrentConfig(4, 2, 3, head="max"), "'last', 'mean' or 'every', got 'max'"),
        (lambda: RecurrentConfig(4, 2, 3, dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: RecurrentConfig(4, 2, 3, dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (
            lambda: network().forward(np.zeros((2, 5, 3))),
            r"expected vectors \(B, T, 4\), got \(2, 5, 3\)",
        ),
        (
            lambda: network(vocabulary=7).forward(np.zeros((2, 5, 4))),
            r"expected tokens \(B, T\), got \(2, 5, 4\)",
        ),
        (
            lambda: network(vocabulary=7).forward(np.full((2, 5), 7)),
            "expected int tokens 0 to 6, got int64 from 7 to 7",
        ),
        (
            lambda: network(vocabulary=7).forward(np.full((2, 5), -1)),
            "expected int tokens 0 to 6, got int64 from -1 to -1",
        ),
        (
            lambda: network(vocabulary=7).forward(np.ones((2, 5))),
            "expected int tokens 0 to 6, got float64 from 1.0 to 1.0",
        ),
        (lambda: network().forward(np.zeros((5, 4))), r"expected vectors .*, got \(5, 4\)"),
        (
            lambda: network().forward(np.zeros((2, 5, 4)), np.array([6, 1])),
            "expected lengths 1 to 5, got 1 to 6",
        ),
        (lambda: network().forward(np.zeros((2, 5, 4)), np.array([0, 1])), "got 0 to 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_backward_needs_forward():
    with pytest.raises(RuntimeError, match="expected forward before backward"):
        network().backward(np.zeros((2, 3)))
