"""Tests of level 2: the same weights as level 1, the same outputs, gradients and training."""

import numpy as np
import pytest
import torch

import mlp_lowlevel as low
import mlp_numpy as np_level
from optimizers_numpy import SGD, Adam, AdamW
from utils.parity import ParityError, Result, assert_parity, assert_trajectory, perturb
from utils.weights import load_into, load_weights, save_weights, to_numpy, to_torch

SIZES = (6, 7, 5, 4)


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((3, SIZES[0])), rng.integers(SIZES[-1], size=3)


def perturbed_params(activation="relu"):
    params = low.init_params(low.MLPConfig(SIZES, activation), torch.Generator().manual_seed(0))
    params = to_numpy(params, np.float64)
    perturb(params, scale=0.3)
    return params


def numpy_result(params, x, targets, activation="relu", label_smoothing=0.0):
    model = np_level.MLP(np_level.MLPConfig(SIZES, activation), np.random.default_rng(0))
    load_into(model.params, params)
    logits = model.forward(x)
    loss, cache = np_level.softmax_cross_entropy_forward(logits, targets, label_smoothing)
    grads = model.backward(np_level.softmax_cross_entropy_backward(cache))
    return Result(logits, loss, grads)


def lowlevel_result(params, x, targets, activation="relu", label_smoothing=0.0):
    params = to_torch(params, requires_grad=True)
    logits = low.forward(params, torch.from_numpy(x), low.MLPConfig(SIZES, activation))
    loss = low.cross_entropy(logits, torch.from_numpy(targets), label_smoothing)
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


# --- across levels


@pytest.mark.parametrize("activation", low.ACTIVATIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_equals_level_1(activation, label_smoothing):
    params, (x, targets) = perturbed_params(activation), make_batch()
    assert_parity(
        lowlevel_result(params, x, targets, activation, label_smoothing),
        numpy_result(params, x, targets, activation, label_smoothing),
    )


RULES = {
    "sgd": (lambda p: SGD(p, 0.1), lambda p: low.SGD(p, 0.1)),
    "momentum": (lambda p: SGD(p, 0.1, 0.9, 0.01), lambda p: low.SGD(p, 0.1, 0.9, 0.01)),
    "adam": (
        lambda p: Adam(p, 0.01, weight_decay=0.1),
        lambda p: low.Adam(p, 0.01, weight_decay=0.1),
    ),
    "adamw": (
        lambda p: AdamW(p, 0.01, weight_decay=0.1),
        lambda p: low.Adam(p, 0.01, weight_decay=0.1, decoupled=True),
    ),
}


def trajectories(numpy_rule, lowlevel_rule):
    """Losses of ten steps at both levels, from the same weights over the same batches."""
    params = perturbed_params()
    model = np_level.MLP(np_level.MLPConfig(SIZES), np.random.default_rng(0))
    load_into(model.params, params)
    tensors = to_torch(params, requires_grad=True)
    optimizer, low_optimizer = numpy_rule(model.params), lowlevel_rule(tensors)
    losses, low_losses = [], []
    for step in range(10):
        x, targets = make_batch(step)
        logits = model.forward(x)
        loss, cache = np_level.softmax_cross_entropy_forward(logits, targets)
        optimizer.step(model.backward(np_level.softmax_cross_entropy_backward(cache)))
        losses.append(loss)
        batch = torch.from_numpy(x), torch.from_numpy(targets)
        low_losses.append(low.train_step(tensors, low_optimizer, *batch, low.MLPConfig(SIZES)))
    return low_losses, losses


@pytest.mark.parametrize("rule", RULES)
def test_ten_steps_equal_level_1(rule):
    assert_trajectory(*trajectories(*RULES[rule]))


def test_a_file_of_level_1_loads_here(tmp_path):
    params, (x, targets) = perturbed_params(), make_batch()
    loaded = load_weights(save_weights(tmp_path / "model.safetensors", params))
    assert_parity(lowlevel_result(loaded, x, targets), numpy_result(params, x, targets), tol=1e-12)


# --- sabotage: the comparison can fail


def without_bias(params):
    return params | {"layers.1.bias": np.zeros_like(params["layers.1.bias"])}


def swapped_units(params):
    return params | {"layers.0.weight": params["layers.0.weight"][::-1].copy()}


@pytest.mark.parametrize("fault", [without_bias, swapped_units])
def test_sabotaged_weights_are_noticed(fault):
    params, (x, targets) = perturbed_params(), make_batch()
    with pytest.raises(ParityError):
        assert_parity(lowlevel_result(fault(params), x, targets), numpy_result(params, x, targets))


@pytest.mark.parametrize(
    ("wrong", "right"), [("gelu_tanh", "gelu"), ("leaky_relu", "relu"), ("tanh", "sigmoid")]
)
def test_sabotaged_activation_is_noticed(wrong, right):
    params, (x, targets) = perturbed_params(right), make_batch()
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(
            lowlevel_result(params, x, targets, wrong), numpy_result(params, x, targets, right)
        )


def test_coupled_weight_decay_is_noticed_by_the_trajectory():
    with pytest.raises(ParityError, match="loss at step [2-9]"):
        assert_trajectory(*trajectories(RULES["adamw"][0], RULES["adam"][1]))


def test_gradients_left_from_the_last_step_are_noticed():
    class NeverCleared(low.SGD):
        """As if train_step did not clear .grad: each gradient is the sum of all so far."""

        def step(self):
            for name, p in self.params.items():
                p.grad += self.state.get(f"sum.{name}", 0)
                self.state[f"sum.{name}"] = p.grad.clone()
            super().step()

    with pytest.raises(ParityError, match="loss at step 3"):
        assert_trajectory(*trajectories(RULES["sgd"][0], lambda p: NeverCleared(p, 0.1)))


# --- leaves


def test_every_parameter_is_a_leaf_and_receives_a_gradient():
    config = low.MLPConfig(SIZES)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    x, targets = make_batch()
    low.cross_entropy(
        low.forward(params, torch.from_numpy(x).float(), config), torch.from_numpy(targets)
    ).backward()
    for name, p in params.items():
        assert p.is_leaf and p.requires_grad, name
        assert p.grad is not None and p.grad.abs().sum() > 0, name


# --- properties


def test_initialisation_has_the_variance_of_level_1():
    config = low.MLPConfig((600, 400, 300))
    params = low.init_params(config, torch.Generator().manual_seed(0))
    assert abs(params["layers.0.weight"].var().item() / (2 / 600) - 1) < 0.02
    config = low.MLPConfig((600, 400, 300), "tanh")
    params = low.init_params(config, torch.Generator().manual_seed(0))
    assert abs(params["layers.0.weight"].var().item() / (2 / 1000) - 1) < 0.02


def test_dropout_keeps_the_mean_and_acts_only_in_training():
    config = low.MLPConfig((4, 20_000, 1), dropout=0.4)
    params = {
        "layers.0.weight": torch.zeros(20_000, 4),
        "layers.0.bias": torch.ones(20_000),
        "layers.1.weight": torch.full((1, 20_000), 1 / 20_000),
        "layers.1.bias": torch.zeros(1),
    }
    x = torch.ones(1, 4)
    generator = torch.Generator().manual_seed(0)
    dropped = low.forward(params, x, config, train=True, generator=generator).item()
    assert abs(dropped - 1) < 0.03 and dropped != pytest.approx(1, abs=1e-6)
    assert low.forward(params, x, config).item() == pytest.approx(1, abs=1e-5)


def test_overfits_one_batch():
    config = low.MLPConfig((8, 32, 5))
    generator = torch.Generator().manual_seed(0)
    params = low.init_params(config, generator)
    optimizer = low.Adam(params, lr=0.01)
    x = torch.randn(16, 8, generator=generator)
    targets = torch.randint(5, (16,), generator=generator)
    for _ in range(300):
        loss = low.train_step(params, optimizer, x, targets, config)
    assert loss < 0.01


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low.MLPConfig((5,)), r"expected at least two positive sizes, got \(5,\)"),
        (lambda: low.MLPConfig((5, 4), "swish"), "expected an activation of .*, got 'swish'"),
        (lambda: low.MLPConfig((5, 4), dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (
            lambda: low.forward({}, torch.ones(2, 6), low.MLPConfig((5, 4))),
            r"expected inputs \(B, 5\), got \(2, 6\)",
        ),
        (
            lambda: low.cross_entropy(torch.ones(2, 3), torch.ones(3, dtype=torch.long)),
            r"expected logits \(B, K\) and targets \(B,\), got \(2, 3\) and \(3,\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("activation", low.ACTIVATIONS)
def test_a_new_model_has_the_initialisation_of_its_activation(activation):
    config = low.MLPConfig((600, 400, 400, 400), activation)
    params = low.init_params(config, seeded())
    for i, (D, M) in enumerate([(600, 400), (400, 400), (400, 400)]):
        weight = params[f"layers.{i}.weight"].detach()
        glorot = activation in ("sigmoid", "tanh")
        assert abs(weight.var().item() * (D + M if glorot else D) / 2 - 1) < 0.02
        assert (weight.abs().max() < 1.8 * weight.std()).item() == glorot
        assert not params[f"layers.{i}.bias"].any()
    assert not torch.equal(params["layers.1.weight"], params["layers.2.weight"])
    again, other = low.init_params(config, seeded()), low.init_params(config, seeded(1))
    assert all(torch.equal(params[name], again[name]) for name in params)
    assert not torch.equal(params["layers.0.weight"], other["layers.0.weight"])


def test_the_dtype_is_that_asked_for_and_the_numbers_are_the_same():
    config = low.MLPConfig((6, 5, 4))
    single, double = (
        low.init_params(config, seeded()),
        low.init_params(config, seeded(), torch.float64),
    )
    assert {p.dtype for p in single.values()} == {torch.float32}
    assert {p.dtype for p in double.values()} == {torch.float64}
    assert all(torch.equal(single[n].double(), double[n]) and double[n].is_leaf for n in single)


def test_dropout_acts_after_the_activation_of_hidden_units_and_its_generator_decides():
    config = low.MLPConfig((5, 6, 7, 4), "sigmoid", dropout=0.3)
    params = low.init_params(config, seeded(), torch.float64)
    h = x = torch.randn(3, 5, generator=seeded(2), dtype=torch.float64)
    generator = seeded(1)
    for i in range(3):
        h = h @ params[f"layers.{i}.weight"].T + params[f"layers.{i}.bias"]
        if i < 2:
            h = torch.sigmoid(h)
            h = h * (torch.rand(h.shape, generator=generator) >= 0.3) / 0.7
    got = low.forward(params, x, config, train=True, generator=seeded(1))
    assert torch.allclose(got, h, atol=1e-12)
    assert not torch.allclose(got, low.forward(params, x, config, train=True, generator=seeded(2)))


def test_train_step_uses_dropout_with_its_generator_and_returns_a_plain_loss():
    config = low.MLPConfig((5, 50, 4), dropout=0.5)
    x, targets = torch.randn(3, 5, generator=seeded()), torch.tensor([0, 1, 3])

    def loss_of(seed, config=config):
        params = low.init_params(config, seeded())
        loss = low.train_step(params, low.SGD(params, 0.1), x, targets, config, seeded(seed))
        assert not loss.requires_grad  # a loss kept for the log must not keep its graph
        return loss.item()

    params = low.init_params(config, seeded())
    want = low.cross_entropy(low.forward(params, x, config, True, seeded(1)), targets).item()
    assert loss_of(1) == loss_of(1) == pytest.approx(want, rel=1e-6)
    assert loss_of(2) != loss_of(1)
    assert loss_of(1, low.MLPConfig((5, 50, 4))) != loss_of(1)


def test_loss_is_finite_for_large_logits():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    loss = low.cross_entropy(logits, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(3) / 2, rel=1e-4) and logits.grad.isfinite().all()


def test_defaults():
    assert low.MLPConfig() == low.MLPConfig((64, 128, 10), "relu", None, 0.0)
    o = low.Adam({"a": torch.ones(1)})
    assert (o.lr, o.betas, o.eps, o.weight_decay, o.decoupled) == (
        1e-3,
        (0.9, 0.999),
        1e-8,
        0.0,
        False,
    )


@pytest.mark.parametrize(
    "make", [lambda p: low.SGD(p, 0.1, 0.9), lambda p: low.Adam(p, 0.1)], ids=["momentum", "adam"]
)
def test_state_holds_all_that_a_resumed_training_needs(make):
    grads = torch.randn(10, 4, generator=seeded())
    whole, cut = ({"a": torch.ones(4, requires_grad=True)} for _ in range(2))

    def steps(params, optimizer, grads):
        for g in grads:
            params["a"].grad = g.clone()
            optimizer.step()

    steps(whole, make(whole), grads)
    first = make(cut)
    steps(cut, first, grads[:5])
    second = make(cut)
    load_into(second.state, {name: s.clone() for name, s in first.state.items()})
    steps(cut, second, grads[5:])
    assert torch.equal(cut["a"], whole["a"])


def test_dropout_of_one_is_refused():
    with pytest.raises(ValueError, match=r"expected dropout in \[0, 1\), got 1.0"):
        low.MLPConfig((5, 4), dropout=1.0)
