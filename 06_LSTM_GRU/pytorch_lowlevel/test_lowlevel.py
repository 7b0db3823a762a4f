"""Tests of level 2: the same weights as level 1 and as PyTorch's layers, the same everything."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gru_lowlevel
import lstm_lowlevel
import optimizers_numpy
import rnn_lowlevel
from gru_numpy import GRUNetwork
from linear_numpy import squared_error_backward, squared_error_forward
from lstm_numpy import LSTMNetwork
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from recurrent_network_numpy import RecurrentConfig, RNNNetwork
from recurrent_numpy import (
    clip_by_norm,
    length_mask,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from updates_lowlevel import Adam, sequence_loss, train_step
from updates_lowlevel import clip_by_norm as clip_tensors
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_same,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, load_weights, save_weights, to_numpy, to_torch

B, T, D, M, K, V = 3, 5, 4, 2, 6, 7  # all differ, so that a wrong transpose shows
LENGTHS = np.array([5, 1, 3])

MODULES = {
    "rnn": (rnn_lowlevel, rnn_lowlevel.RNNConfig, RNNNetwork, torch.nn.RNN),
    "lstm": (lstm_lowlevel, lstm_lowlevel.LSTMConfig, LSTMNetwork, torch.nn.LSTM),
    "gru": (gru_lowlevel, gru_lowlevel.GRUConfig, GRUNetwork, torch.nn.GRU),
}
KINDS = list(MODULES)
SHAPES = list(itertools.product((1, 2), (False, True), (None, LENGTHS)))
SHAPE_NAMES = [
    f"{layers}-{'both' if both else 'one'}-{'whole' if lengths is None else 'packed'}"
    for layers, both, lengths in SHAPES
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(kind, **options):
    """Level 2's module, its config, and perturbed weights as arrays."""
    module, config_class, *_ = MODULES[kind]
    config = config_class(D, M, K, **options)
    params = to_numpy(module.init_params(config, seeded()), np.float64)
    perturb(params, scale=0.3)
    return module, config, params


def make_batch(vocabulary, seed=0, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    x = rng.integers(V, size=(B, T)) if vocabulary else rng.standard_normal((B, T, D))
    return x, lengths, rng


def lowlevel_result(kind, params, x, lengths, dy, **options):
    """Outputs, last states and all gradients; the loss is sum(outputs * dy)."""
    module, config_class, *_ = MODULES[kind]
    tensors = to_torch(params, requires_grad=True)
    steps = None if lengths is None else torch.tensor(lengths)
    y, state = module.forward(tensors, torch.tensor(x), config_class(D, M, K, **options), steps)
    loss = (y * torch.tensor(dy)).sum()
    loss.backward()
    grads = {name: p.grad for name, p in tensors.items()}
    return Result(y, loss, grads | {f"state {i}": s for i, s in enumerate(state)})


def numpy_model(kind, params, **options):
    model = MODULES[kind][2](RecurrentConfig(D, M, K, **options), np.random.default_rng(0))
    load_into(model.params, params)  # strict: names and shapes are equal
    return model


def numpy_result(kind, params, x, lengths, dy, **options):
    model = numpy_model(kind, params, **options)
    y = model.forward(x, lengths)
    grads = model.backward(dy)
    states = {f"state {i}": s for i, s in enumerate(model.state)}
    return Result(y, (y * dy).sum(), grads | states)


def torch_result(kind, params, x, lengths, dy, layers=1, bidirectional=False):
    """PyTorch's layer on packed sequences, with our head on every step."""
    layer = MODULES[kind][3](D, M, layers, batch_first=True, bidirectional=bidirectional).double()
    layer.load_state_dict(
        {n[4:]: torch.tensor(p) for n, p in params.items() if n.startswith("rnn.")}
    )
    head = {n: torch.tensor(params[n], requires_grad=True) for n in ("head.weight", "head.bias")}
    inputs = torch.tensor(x)
    if lengths is not None:
        inputs = pack_padded_sequence(inputs, torch.tensor(lengths), True, enforce_sorted=False)
    y, last = layer(inputs)
    if lengths is not None:
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=T)
    logits = y @ head["head.weight"].T + head["head.bias"]
    loss = (logits * torch.tensor(dy)).sum()
    loss.backward()
    grads = {f"rnn.{n}": p.grad for n, p in layer.named_parameters()}
    grads |= {n: p.grad for n, p in head.items()}
    last = last if isinstance(last, tuple) else (last,)
    return Result(logits, loss, grads | {f"state {i}": s for i, s in enumerate(last)})


# --- across levels, and against PyTorch's layers


@pytest.mark.parametrize(("layers", "both", "lengths"), SHAPES, ids=SHAPE_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch(kind, layers, both, lengths):
    shape = {"layers": layers, "bidirectional": both}
    _, _, params = make(kind, head="every", **shape)
    x, _, rng = make_batch(False)
    dy = rng.standard_normal((B, T, K))
    assert_parity(
        lowlevel_result(kind, params, x, lengths, dy, head="every", **shape),
        torch_result(kind, params, x, lengths, dy, **shape),
    )


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
@pytest.mark.parametrize("head", ["last", "mean", "every"])
@pytest.mark.parametrize("vocabulary", [0, V], ids=["vectors", "symbols"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_level_1(kind, vocabulary, head, lengths):
    options = {"vocabulary": vocabulary, "head": head, "layers": 2, "bidirectional": True}
    _, _, params = make(kind, **options)
    x, _, rng = make_batch(vocabulary)
    dy = rng.standard_normal((B, T, K) if head == "every" else (B, K))
    assert_parity(
        lowlevel_result(kind, params, x, lengths, dy, **options),
        numpy_result(kind, params, x, lengths, dy, **options),
    )


TASKS = {
    "value": {"head": "mean"},
    "class": {"head": "last", "vocabulary": V, "bidirectional": True},
    "next": {"head": "every", "vocabulary": V, "layers": 2},
}


def task_batch(task, seed):
    """(x, lengths, y) of one of the three kinds of task."""
    x, _, rng = make_batch(TASKS[task].get("vocabulary"), seed)
    lengths = rng.integers(1, T + 1, size=B)
    y = {
        "value": rng.standard_normal(B),
        "class": rng.integers(K, size=B),
        "next": rng.integers(K, size=(B, T)),
    }[task]
    return x, lengths, y


def numpy_loss(outputs, lengths, y):
    """Level 1's loss, and its gradient with respect to the outputs."""
    if y.dtype.kind == "f":
        loss, cache = squared_error_forward(outputs, y[:, None])
        return loss, squared_error_backward(cache)
    if y.ndim == 1:
        loss, cache = softmax_cross_entropy_forward(outputs, y)
        return loss, softmax_cross_entropy_backward(cache)
    loss, cache = sequence_cross_entropy_forward(outputs, y, length_mask(lengths, T))
    return loss, sequence_cross_entropy_backward(cache)


def trajectories(kind, task, clip=0.5, numpy_clip=0.5, keep_state=False):
    """Losses of ten steps of Adam at both levels, from the same weights over the same batches.

    Args:
        keep_state: truncated backpropagation through time: each step goes on where the last ended.
    """
    options = TASKS[task]
    module, config, params = make(kind, **options)
    if task == "value":  # one output
        config = type(config)(D, M, 1, **options)
        params |= {"head.weight": params["head.weight"][:1], "head.bias": params["head.bias"][:1]}
    model = MODULES[kind][2](
        RecurrentConfig(D, M, config.outputs, **options), np.random.default_rng(0)
    )
    load_into(model.params, params)
    tensors = to_torch(params, requires_grad=True)
    optimizer, low_optimizer = optimizers_numpy.Adam(model.params, 0.05), Adam(tensors, 0.05)
    losses, low_losses, state, low_state = [], [], None, None
    for step in range(10):
        x, lengths, y = task_batch(task, step)
        outputs = model.forward(x, lengths, state)
        loss, doutputs = numpy_loss(outputs, lengths, y)
        grads = model.backward(doutputs)
        clip_by_norm(grads, numpy_clip)
        optimizer.step(grads)
        losses.append(loss)
        forward = partial(module.forward, config=config, state=low_state)
        batch = tuple(torch.tensor(a) for a in (x, lengths, y))
        low_loss, new = train_step(forward, tensors, low_optimizer, batch, clip)
        low_losses.append(low_loss)
        if keep_state:
            state, low_state = model.state, new
    return low_losses, losses


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_equal_level_1(kind, task):
    assert_trajectory(*trajectories(kind, task))


@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_of_truncated_backpropagation_equal_level_1(kind):
    assert_trajectory(*trajectories(kind, "next", keep_state=True))


def test_a_file_of_level_1_loads_here(tmp_path):
    model = LSTMNetwork(RecurrentConfig(D, M, K, head="every"), np.random.default_rng(0))
    perturb(model.params)
    loaded = load_weights(save_weights(tmp_path / "model.safetensors", model.params))
    x, lengths, rng = make_batch(False)
    dy = rng.standard_normal((B, T, K))
    assert_parity(
        lowlevel_result("lstm", loaded, x, lengths, dy, head="every"),
        numpy_result("lstm", model.params, x, lengths, dy, head="every"),
        tol=1e-12,
    )


def test_clipping_equals_torch_and_spares_a_short_gradient():
    rng = np.random.default_rng(0)
    grads = {n: torch.tensor(rng.standard_normal(s)) for n, s in (("a", (3, 2)), ("b", (4,)))}
    for limit in (0.1, 100.0):
        ours, theirs = (
            {n: torch.zeros_like(g, requires_grad=True) for n, g in grads.items()} for _ in range(2)
        )
        for params in (ours, theirs):
            for n, p in params.items():
                p.grad = grads[n].clone()
        norm = clip_tensors(ours, limit)
        want = torch.nn.utils.clip_grad_norm_(list(theirs.values()), limit)
        assert max_difference(norm, want) < 1e-12
        # PyTorch adds 1e-6 to the norm that it divides by.
        off = 1 + 1e-6 / norm.item() if norm > limit else 1.0
        assert all(max_difference(ours[n].grad, off * theirs[n].grad) < 1e-12 for n in grads)


# --- sabotage: the comparison can fail


def gates_in_another_order(params, monkeypatch):
    """g before f, as some libraries have them."""
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        i, f, g, o = np.split(params[f"rnn.{name}_l0"], 4)
        params[f"rnn.{name}_l0"] = np.concatenate([i, g, f, o])


def one_bias_forgotten(params, monkeypatch):
    params["rnn.bias_hh_l0"] = np.zeros_like(params["rnn.bias_hh_l0"])


def padding_read(params, monkeypatch):
    """As if all sequences were as long as the longest."""
    monkeypatch.setattr(lstm_lowlevel, "length_mask", lambda lengths, T: torch.ones(B, T) > 0)


def second_direction_not_put_back(params, monkeypatch):
    right = lstm_lowlevel.lstm_layer

    def wrong(weights, suffix, x, h, c, mask):
        y, h, c = right(weights, suffix, x, h, c, mask)
        return y.flip(1) if suffix.endswith("_reverse") else y, h, c

    monkeypatch.setattr(lstm_lowlevel, "lstm_layer", wrong)


def gradient_cut_between_steps(params, monkeypatch):
    """As if every step were its own piece: no way back through the state."""
    right = lstm_lowlevel.lstm_layer

    def wrong(weights, suffix, x, h, c, mask):
        every = []
        for t in range(x.shape[1]):
            step = None if mask is None else mask[:, t : t + 1]
            y, h, c = right(weights, suffix, x[:, t : t + 1], h.detach(), c.detach(), step)
            every.append(y)
        return torch.cat(every, dim=1), h, c

    monkeypatch.setattr(lstm_lowlevel, "lstm_layer", wrong)


SABOTAGE = {
    gates_in_another_order: "outputs",
    one_bias_forgotten: "outputs",
    padding_read: "outputs",
    second_direction_not_put_back: "outputs",
    gradient_cut_between_steps: "gradient of",
}


@pytest.mark.parametrize("fault", SABOTAGE, ids=lambda fault: fault.__name__)
def test_sabotage_is_noticed(fault, monkeypatch):
    shape = {"layers": 1, "bidirectional": True}
    _, _, params = make("lstm", head="every", **shape)
    x, lengths, rng = make_batch(False)
    dy = rng.standard_normal((B, T, K))
    want = torch_result("lstm", params, x, lengths, dy, **shape)
    assert_parity(lowlevel_result("lstm", params, x, lengths, dy, head="every", **shape), want)
    fault(params, monkeypatch)
    with pytest.raises(ParityError, match=SABOTAGE[fault]):
        assert_parity(lowlevel_result("lstm", params, x, lengths, dy, head="every", **shape), want)


def test_the_two_biases_of_a_gru_are_not_one():
    """For n, bias_hh stands inside the bracket that r scales (eq. 6.42)."""
    _, _, params = make("gru", head="every")
    x, lengths, rng = make_batch(False)
    dy = rng.standard_normal((B, T, K))
    want = torch_result("gru", params, x, lengths, dy)
    assert_parity(lowlevel_result("gru", params, x, lengths, dy, head="every"), want)
    moved = params | {
        "rnn.bias_ih_l0": params["rnn.bias_ih_l0"] + params["rnn.bias_hh_l0"],
        "rnn.bias_hh_l0": np.zeros(3 * M),
    }
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(lowlevel_result("gru", moved, x, lengths, dy, head="every"), want)


def test_a_missing_clip_is_noticed_by_the_trajectory():
    assert_trajectory(*trajectories("lstm", "next"))
    # Adam divides by the size of the gradient, so the first step would be the same.
    with pytest.raises(ParityError, match="loss at step [3-9]"):
        assert_trajectory(*trajectories("lstm", "next", clip=1e9))


def test_a_state_that_is_not_handed_on_is_noticed_by_the_trajectory():
    kept, want = trajectories("gru", "next", keep_state=True)
    assert_trajectory(kept, want)
    forgotten, _ = trajectories("gru", "next", keep_state=False)
    with pytest.raises(ParityError, match="loss at step 2"):
        assert_trajectory(forgotten, want)


# --- padding and state


@pytest.mark.parametrize("head", ["last", "mean", "every"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, head):
    """What stands in the padding, and how much of it there is, is of no matter."""
    options = {"head": head, "layers": 2, "bidirectional": True}
    _, _, params = make(kind, **options)
    x, lengths, rng = make_batch(False)
    dy = rng.standard_normal((B, T, K) if head == "every" else (B, K))
    longer = 100 * rng.standard_normal((B, T + 3, D))
    for b, length in enumerate(lengths):
        longer[b, :length] = x[b, :length]
    d_longer = dy
    if head == "every":
        dy[np.arange(T) >= lengths[:, None]] = 0
        d_longer = np.pad(dy, ((0, 0), (0, 3), (0, 0)))
    one = lowlevel_result(kind, params, x, lengths, dy, **options)
    two = lowlevel_result(kind, params, longer, lengths, d_longer, **options)
    assert_same(two.grads, one.grads, tol=1e-12)
    assert max_difference(two.loss, one.loss) < 1e-12
    # A longer batch changes nothing for the sequences that are in it.
    for b, length in enumerate(lengths):
        alone = lowlevel_result(
            kind, params, x[b : b + 1, :length], None, dy[b : b + 1][:, :length], **options
        ) if head == "every" else lowlevel_result(
            kind, params, x[b : b + 1, :length], None, dy[b : b + 1], **options
        )  # fmt: skip
        got, want = alone.outputs[0], one.outputs[b]
        assert max_difference(got, want[:length] if head == "every" else want) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_handed_on_continues_the_sequence_and_with_its_history_the_gradient(kind):
    module, config, params = make(kind, vocabulary=V, layers=2, head="every")
    tensors = to_torch(params, requires_grad=True)
    tokens = torch.randint(V, (2, 9), generator=seeded())
    whole, last = module.forward(tensors, tokens, config)
    first, state = module.forward(tensors, tokens[:, :4], config)
    second, end = module.forward(tensors, tokens[:, 4:], config, state=state)
    assert max_difference(torch.cat([first, second], dim=1), whole) < 1e-14
    assert all(max_difference(a, b) < 1e-14 for a, b in zip(end, last, strict=True))
    dy = torch.tensor(np.random.default_rng(0).standard_normal((2, 5, K)))
    leaves = list(tensors.values())
    want = torch.autograd.grad((whole[:, 4:] * dy).sum(), leaves)
    got = torch.autograd.grad((second * dy).sum(), leaves)
    assert all(max_difference(a, b) < 1e-12 for a, b in zip(got, want, strict=True))


def test_the_state_that_a_step_hands_on_has_no_history():
    """Handed on with its history, it leads the next backward pass into a graph that is gone."""
    module, config, params = make("lstm", vocabulary=V, head="every")
    tensors = to_torch(params, requires_grad=True)
    tokens = torch.randint(V, (2, 9), generator=seeded())
    batch = tokens[:, :-1], None, tokens[:, 1:].clamp(max=K - 1)
    optimizer = Adam(tensors)
    _, state = train_step(partial(module.forward, config=config), tensors, optimizer, batch)
    assert not any(part.requires_grad for part in state)
    train_step(partial(module.forward, config=config, state=state), tensors, optimizer, batch)

    _, history = module.forward(tensors, batch[0], config)
    sequence_loss(history[0][0], torch.zeros(2, dtype=torch.int64)).backward()
    forward = partial(module.forward, config=config, state=history)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        train_step(forward, tensors, optimizer, batch)


# --- parameters


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_a_leaf_and_receives_a_gradient(kind):
    module, config_class, *_ = MODULES[kind]
    config = config_class(D, M, K, vocabulary=V, layers=2, bidirectional=True)
    params = module.init_params(config, seeded())
    tokens = torch.arange(2 * V).reshape(2, V) % V
    module.forward(params, tokens, config)[0].square().sum().backward()
    for name, p in params.items():
        assert p.is_leaf and p.requires_grad, name
        assert p.grad is not None and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_initial_parameters(kind):
    module, config_class, *_ = MODULES[kind]
    config = config_class(50, 100, 10, vocabulary=300, bidirectional=True)
    params = module.init_params(config, seeded())
    assert abs(params["embedding.weight"].std().item() - 1) < 0.02
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0_reverse"):
        weight = params[name]
        assert weight.abs().max() <= 0.1  # 1/√M
        assert abs(weight.var().item() / (0.01 / 3) - 1) < 0.06
    head = params["head.weight"]  # uniform in ±1/√(2M)
    assert head.abs().max() <= 200**-0.5 and abs(head.var().item() * 3 * 200 - 1) < 0.06
    biases = torch.cat([p.flatten() for n, p in params.items() if "bias" in n])
    assert biases.sum() == (2 * 100 if kind == "lstm" else 0)  # the forget gates' alone
    again, other = module.init_params(config, seeded()), module.init_params(config, seeded(1))
    assert all(torch.equal(params[name], again[name]) for name in params)
    assert not torch.equal(params["head.weight"], other["head.weight"])
    double = module.init_params(config, seeded(), torch.float64)
    assert all(torch.equal(p, double[name].float()) for name, p in params.items())


@pytest.mark.parametrize(
    ("kind", "biases", "gates"),
    [
        ("lstm", {"forget_bias": 3.0, "input_bias": -2.0}, [-2, -2, 3, 3, 0, 0, 0, 0]),
        ("gru", {"update_bias": 3.0}, [0, 0, 3, 3, 0, 0]),
    ],
)
def test_initial_biases_are_at_their_gates_and_once(kind, biases, gates):
    module, config_class, *_ = MODULES[kind]
    config = config_class(D, M, K, layers=2, bidirectional=True, **biases)
    params = module.init_params(config, seeded())
    for suffix in config.suffixes:
        total = params[f"rnn.bias_ih_{suffix}"] + params[f"rnn.bias_hh_{suffix}"]
        assert total.tolist() == gates


# --- properties


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_alone_and_its_generator_decides(kind):
    module, config, params = make(kind, vocabulary=V, layers=2, dropout=0.5)
    tensors, tokens = to_torch(params), torch.randint(V, (2, 9), generator=seeded())

    def outputs(train, seed=0):
        return module.forward(tensors, tokens, config, train=train, generator=seeded(seed))[0]

    assert torch.equal(outputs(False), outputs(False, 1))
    assert torch.equal(outputs(True), outputs(True))
    assert not torch.equal(outputs(True), outputs(True, 1))
    assert not torch.equal(outputs(True), outputs(False))
    kept = module.dropout(torch.ones(100_000), 0.3, seeded())
    assert abs(kept.mean().item() - 1) < 0.01 and len(kept.unique()) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_at_the_input_of_each_layer_and_of_the_head(kind):
    module, config, params = make(kind, layers=2, dropout=0.4)
    tensors, (x, _, _) = to_torch(params), make_batch(False)
    y, _ = module.forward(tensors, torch.tensor(x), config, train=True, generator=seeded())

    generator, layer = seeded(), getattr(module, f"{kind}_layer")

    def drop(a):
        return a * (torch.rand(a.shape, generator=generator) >= 0.4) / 0.6

    every = torch.tensor(x)
    start = [torch.zeros(B, M, dtype=torch.float64)] * (2 if kind == "lstm" else 1)
    for suffix in config.suffixes:
        every, h, *_ = layer(tensors, suffix, drop(every), *start, None)
    want = drop(h) @ tensors["head.weight"].T + tensors["head.bias"]
    assert max_difference(y, want) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_overfits_one_batch(kind):
    module, config_class, *_ = MODULES[kind]
    config = config_class(8, 24, 5, vocabulary=9)
    params = module.init_params(config, seeded())
    optimizer = Adam(params, lr=0.02)
    tokens = torch.randint(9, (16, 7), generator=seeded())
    batch = tokens, None, torch.randint(5, (16,), generator=seeded(1))
    for _ in range(60):
        loss, _ = train_step(partial(module.forward, config=config), params, optimizer, batch)
    assert loss < 0.05 and not loss.requires_grad


def test_initial_loss_is_that_of_guessing():
    config = lstm_lowlevel.LSTMConfig(8, 16, 10, vocabulary=20)
    params = lstm_lowlevel.init_params(config, seeded())
    with torch.no_grad():
        params["head.weight"] *= 0.01
    tokens = torch.randint(20, (64, 12), generator=seeded())
    logits, _ = lstm_lowlevel.forward(params, tokens, config)
    loss = sequence_loss(logits, torch.randint(10, (64,), generator=seeded(1)))
    assert abs(loss.item() - np.log(10)) < 0.05


def test_adam_with_its_defaults_equals_torch():
    ours, theirs = (torch.ones(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer, reference = Adam({"a": ours}), torch.optim.Adam([theirs])
    rng = np.random.default_rng(0)
    for _ in range(5):
        # so small that eps counts
        ours.grad = torch.tensor(1e-7 * rng.standard_normal(5))
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    assert max_difference(ours, theirs) < 1e-12


def test_state_of_adam_holds_all_that_a_resumed_training_needs():
    grads = torch.randn(10, 4, generator=seeded())
    whole, cut = ({"a": torch.ones(4, requires_grad=True)} for _ in range(2))

    def steps(params, optimizer, grads):
        for g in grads:
            params["a"].grad = g.clone()
            optimizer.step()

    steps(whole, Adam(whole, 0.1), grads)
    first = Adam(cut, 0.1)
    steps(cut, first, grads[:5])
    second = Adam(cut, 0.1)
    load_into(second.state, {name: s.clone() for name, s in first.state.items()})
    steps(cut, second, grads[5:])
    assert torch.equal(cut["a"], whole["a"])


# --- bad input


def forward_of(kind, x, lengths=None, **options):
    module, config_class, *_ = MODULES[kind]
    config = config_class(4, 2, 3, **options)
    return module.forward(module.init_params(config), x, config, lengths)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": 0}, "expected inputs of at least 1, got 0"),
        ({"width": 0}, "expected width of at least 1, got 0"),
        ({"outputs": 0}, "expected outputs of at least 1, got 0"),
        ({"layers": 0}, "expected layers of at least 1, got 0"),
        ({"vocabulary": -1}, "expected a vocabulary of at least 0, got -1"),
        ({"head": "max"}, "expected head 'last', 'mean' or 'every', got 'max'"),
        ({"dropout": 1.0}, r"expected dropout in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"expected dropout in \[0, 1\), got -0.1"),
    ],
)
def test_bad_configs(kind, change, message):
    with pytest.raises(ValueError, match=message):
        MODULES[kind][1](**({"inputs": 4, "width": 2, "outputs": 3} | change))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "lengths", "vocabulary", "message"),
    [
        ((2, 5, 3), None, 0, r"expected vectors \(B, T, 4\), got \(2, 5, 3\)"),
        ((5, 4), None, 0, r"expected vectors \(B, T, 4\), got \(5, 4\)"),
        ((2, 5, 4), None, 7, r"expected tokens \(B, T\), got \(2, 5, 4\)"),
        ((2, 5, 4), [6, 1], 0, "expected lengths 1 to 5, got 1 to 6"),
        ((2, 5, 4), [0, 1], 0, "expected lengths 1 to 5, got 0 to 1"),
    ],
)
def test_bad_input(kind, shape, lengths, vocabulary, message):
    lengths = None if lengths is None else torch.tensor(lengths)
    with pytest.raises(ValueError, match=message):
        forward_of(kind, torch.zeros(shape), lengths, vocabulary=vocabulary)
