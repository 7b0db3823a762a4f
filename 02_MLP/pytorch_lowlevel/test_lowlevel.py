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
