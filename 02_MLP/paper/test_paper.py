"""Tests of level 3: equal to levels 1 and 2 and to plain torch.nn; the paper's rule and tasks."""

import numpy as np
import pytest
import torch
from torch import nn

import mlp_lowlevel as low
import mlp_numpy as np_level
from mlp_paper import (
    ACTIVATIONS,
    MLP,
    GradientDescent1986,
    MLPConfig,
    initialise_1986,
    loss_function,
    squared_error,
)
from optimizers_numpy import Adam
from utils.data_loaders import load_arrays
from utils.parity import ParityError, Result, assert_parity, assert_trajectory, perturb
from utils.weights import load_into, to_torch

SIZES = (6, 7, 5, 4)


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, SIZES[0], generator=generator, dtype=torch.float64)
    return x, torch.randint(SIZES[-1], (3,), generator=generator)


def make_model(config=None):
    torch.manual_seed(0)
    model = MLP(config or MLPConfig(SIZES)).double()
    perturb(model, scale=0.3)
    return model


def result_of(model, batch):
    model.zero_grad()
    loss = loss_function(model, batch)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return Result(model(batch[0]), loss, grads)


def lowlevel_result(model, batch):
    params = to_torch(model, requires_grad=True)
    config = low.MLPConfig(SIZES, model.config.activation, model.config.output_activation)
    logits = low.forward(params, batch[0], config)
    loss = low.cross_entropy(logits, batch[1])
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


def plain_torch(activation="relu", bias=True):
    """The network in the plainest torch.nn; the production library of this chapter."""
    layers = []
    for D, M in zip(SIZES[:-1], SIZES[1:], strict=True):
        layers += [nn.Linear(D, M, bias=bias), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1]).double()


def convert_plain_torch_state_dict(state):
    """Names of ``nn.Sequential`` (0, 2, 4: every second layer is an activation) to ours."""
    return {
        f"layers.{int(name.split('.')[0]) // 2}.{name.split('.')[1]}": value
        for name, value in state.items()
    }


def plain_result(sequential, batch):
    logits = sequential(batch[0])
    loss = nn.functional.cross_entropy(logits, batch[1])
    loss.backward()
    grads = {name: p.grad for name, p in sequential.named_parameters()}
    return Result(logits, loss, convert_plain_torch_state_dict(grads))


# --- across levels


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_level_2(activation):
    model, batch = make_model(MLPConfig(SIZES, activation)), make_batch()
    assert_parity(result_of(model, batch), lowlevel_result(model, batch))


def test_ten_steps_equal_level_1():
    model = make_model()
    reference = np_level.MLP(np_level.MLPConfig(SIZES), np.random.default_rng(0))
    load_into(reference.params, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    numpy_optimizer = Adam(reference.params, lr=0.01, weight_decay=0.1)
    losses, numpy_losses = [], []
    for step in range(10):
        x, targets = make_batch(step)
        optimizer.zero_grad()
        loss = loss_function(model, (x, targets))
        loss.backward()
        optimizer.step()
        losses.append(loss)
        logits = reference.forward(x.numpy())
        loss, cache = np_level.softmax_cross_entropy_forward(logits, targets.numpy())
        numpy_optimizer.step(reference.backward(np_level.softmax_cross_entropy_backward(cache)))
        numpy_losses.append(loss)
    assert_trajectory(losses, numpy_losses)


@pytest.mark.parametrize("preset", ["xor", "symmetry", "encoder"])
def test_networks_of_1986_equal_level_1(preset):
    config = getattr(MLPConfig, preset)()
    data = load_arrays(preset)
    desired = data.y_train.reshape(len(data.x_train), -1).astype(np.float64)
    model = make_model(config)
    x = torch.from_numpy(data.x_train)
    error = squared_error(model(x), torch.from_numpy(desired))
    error.backward()
    reference = np_level.MLP(
        np_level.MLPConfig(config.sizes, "sigmoid", "sigmoid"), np.random.default_rng(0)
    )
    load_into(reference.params, model)
    outputs = reference.forward(data.x_train)
    grads = reference.backward(outputs - desired)  # eq. 2.12 with E = half the squared difference
    assert_parity(
        Result(model(x), error, {name: p.grad for name, p in model.named_parameters()}),
        Result(outputs, 0.5 * np.square(outputs - desired).sum(), grads),
    )


# --- against the library


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_plain_torch(activation):
    torch.manual_seed(0)
    sequential = plain_torch(activation)
    perturb(sequential, scale=0.3)
    model = make_model(MLPConfig(SIZES, activation))
    load_into(model, convert_plain_torch_state_dict(sequential.state_dict()))
    batch = make_batch()
    assert_parity(result_of(model, batch), plain_result(sequential, batch))


def sabotage(fault):
    """Our result with one fault built in, beside plain torch's."""
    torch.manual_seed(0)
    sequential = plain_torch()
    perturb(sequential, scale=0.3)
    model = make_model()
    load_into(model, convert_plain_torch_state_dict(sequential.state_dict()))
    fault(model)
    return result_of(model, make_batch()), plain_result(sequential, make_batch())


def no_bias(model):
    nn.init.zeros_(model.layers[1].bias)


def activation_on_the_output(model):
    model.output_activation = nn.ReLU()


def wrong_activation(model):
    model.activation = nn.GELU()


def dropout_at_test_time(model):
    torch.manual_seed(0)
    model.dropout = nn.Dropout(0.5)


@pytest.mark.parametrize(
    "fault", [no_bias, activation_on_the_output, wrong_activation, dropout_at_test_time]
)
def test_sabotage_is_noticed(fault):
    assert_parity(*sabotage(lambda model: None))
    with pytest.raises(ParityError):
        assert_parity(*sabotage(fault))


# --- the paper


def test_shapes_and_parameter_counts():
    counts = {"xor": 9, "symmetry": 17, "encoder": 59}
    with torch.device("meta"):
        for preset, count in counts.items():
            model = MLP(getattr(MLPConfig, preset)())
            assert sum(p.numel() for p in model.parameters()) == count
        images = MLP(MLPConfig.images())
        assert sum(p.numel() for p in images.parameters()) == 669_706
        assert images(torch.empty(2, 1, 28, 28)).shape == (2, 10)


def test_initial_weights_of_1986_are_uniform_within_their_bound():
    model = MLP(MLPConfig((50, 200, 10), "sigmoid", "sigmoid"))
    initialise_1986(model, torch.Generator().manual_seed(0))
    weights = torch.cat([p.flatten() for p in model.parameters()])
    assert weights.abs().max() <= 0.3
    assert abs(weights.var().item() / (0.3**2 / 3) - 1) < 0.03


def test_equation_9_is_momentum_of_level_2():
    model = make_model()
    params = to_torch(model, requires_grad=True)
    ours = GradientDescent1986(model.parameters(), epsilon=0.1, alpha=0.9)
    reference = low.SGD(params, lr=0.1, momentum=0.9)
    losses, low_losses = [], []
    for step in range(10):
        x, targets = make_batch(step)
        model.zero_grad()
        loss = loss_function(model, (x, targets))
        loss.backward()
        ours.step()
        losses.append(loss)
        low_losses.append(low.train_step(params, reference, x, targets, low.MLPConfig(SIZES)))
    assert_trajectory(losses, low_losses)


def learn(task, epsilon, sweeps, seed):
    """Sweeps until every output is on its side of one half, or None."""
    data = load_arrays(task)
    x = torch.from_numpy(data.x_train).float()
    desired = torch.from_numpy(data.y_train.reshape(len(x), -1)).float()
    model = MLP(getattr(MLPConfig, task)())
    initialise_1986(model, torch.Generator().manual_seed(seed))
    optimizer = GradientDescent1986(model.parameters(), epsilon, 0.9)
    for sweep in range(sweeps):
        outputs = model(x)
        if ((outputs > 0.5) == (desired > 0.5)).all():
            return sweep
        optimizer.zero_grad()
        squared_error(outputs, desired).backward()
        optimizer.step()
    return None


@pytest.mark.parametrize(
    ("task", "epsilon", "seed"), [("xor", 0.5, 3), ("symmetry", 0.1, 3), ("encoder", 0.1, 0)]
)
def test_the_tasks_of_1986_are_learnt(task, epsilon, seed):
    assert learn(task, epsilon, 1000, seed) is not None


# --- properties


def test_initial_loss_is_that_of_guessing():
    torch.manual_seed(0)
    model = MLP(MLPConfig((20, 50, 10)))
    nn.init.normal_(model.layers[-1].weight, std=0.01)
    loss = loss_function(model, (torch.randn(256, 20), torch.randint(10, (256,))))
    assert abs(loss.item() - np.log(10)) < 0.05


def test_dropout_acts_only_in_training():
    model = make_model(MLPConfig(SIZES, dropout=0.5))
    x, _ = make_batch()
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_images_are_flattened():
    model = make_model(MLPConfig((12, 4)))
    images = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(model(images), model(images.reshape(2, 12)))


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLPConfig((5,)), r"expected at least two positive sizes, got \(5,\)"),
        (lambda: MLPConfig((5, 4), "swish"), "expected an activation of .*, got 'swish'"),
        (lambda: MLPConfig((5, 4), dropout=1.5), r"expected dropout in \[0, 1\), got 1.5"),
        (
            lambda: MLP(MLPConfig((5, 4)))(torch.ones(2, 1, 2, 3)),
            r"expected inputs \(B, 5\), got \(2, 6\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_new_model_has_the_initialisation_of_its_activation(activation):
    torch.manual_seed(0)
    model = MLP(MLPConfig((600, 400, 400), activation))
    glorot = activation in ("sigmoid", "tanh")
    for layer in model.layers:
        M, D = layer.weight.shape
        assert abs(layer.weight.var().item() * (D + M if glorot else D) / 2 - 1) < 0.02
        assert (layer.weight.abs().max() < 1.8 * layer.weight.std()).item() == glorot
        assert not layer.bias.any()


def test_presets_and_defaults():
    assert MLPConfig() == MLPConfig((64, 128, 10), "relu", None, 0.0)
    assert MLPConfig.images() == MLPConfig((784, 512, 512, 10), "relu", None, 0.2)
    assert MLPConfig.images(64, 32, 0.4) == MLPConfig((64, 32, 32, 10), "relu", None, 0.4)
    group = GradientDescent1986([nn.Parameter(torch.ones(1))]).param_groups[0]
    assert (group["lr"], group["alpha"]) == (0.1, 0.9)


def test_dropout_acts_after_the_activation_of_hidden_units_and_not_on_the_outputs():
    torch.manual_seed(0)
    model = MLP(MLPConfig((5, 6, 7, 4), "sigmoid", dropout=0.3)).double().train()
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.manual_seed(1)
    got = model(x)
    torch.manual_seed(1)
    want = x
    for layer in model.layers[:-1]:
        want = nn.functional.dropout(torch.sigmoid(layer(want)), 0.3)
    assert torch.equal(got, model.layers[-1](want))


def test_a_new_rate_does_not_change_the_changes_already_made():
    """Equation (9) keeps a sum of changes; PyTorch's momentum, one of gradients."""
    p = nn.Parameter(torch.zeros(1))
    rule = GradientDescent1986([p], epsilon=0.1, alpha=0.5)
    p.grad = torch.ones(1)
    rule.step()
    assert p.item() == pytest.approx(-0.1)
    rule.param_groups[0]["lr"] = 0.01
    rule.step()
    assert p.item() == pytest.approx(-0.1 + (0.5 * -0.1 - 0.01))


def test_dropout_of_one_is_refused():
    with pytest.raises(ValueError, match=r"expected dropout in \[0, 1\), got 1.0"):
        MLPConfig((5, 4), dropout=1.0)
