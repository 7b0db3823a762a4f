"""Tests of level 2: the same weights as level 1, the same outputs, gradients and training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lenet_lowlevel as low
import lenet_numpy as np_level
import mlp_numpy
from optimizers_numpy import Adam
from utils.parity import ParityError, Result, assert_parity, assert_trajectory, perturb
from utils.weights import load_into, load_weights, save_weights, to_numpy, to_torch

CONFIGS = [
    pytest.param(activation, pooling, id=f"{activation}-{pooling}")
    for activation in low.ACTIVATIONS
    for pooling in low.POOLINGS
]


def make_batch(seed=0, size=3):
    rng = np.random.default_rng(seed)
    return rng.random((size, 1, 28, 28)), rng.integers(10, size=size)


def perturbed_params(activation="relu"):
    params = low.init_params(low.LeNetConfig(activation), torch.Generator().manual_seed(0))
    params = to_numpy(params, np.float64)
    perturb(params)
    return params


def make_numpy_model(params, activation="relu", pooling="max"):
    config = np_level.LeNetConfig(activation, pooling)
    model = np_level.LeNet(config, np.random.default_rng(0))
    load_into(model.params, params)
    return model


def numpy_step(model, x, targets):
    """Logits, loss and gradients of level 1."""
    logits = model.forward(x)
    loss, cache = mlp_numpy.softmax_cross_entropy_forward(logits, targets)
    return Result(logits, loss, model.backward(mlp_numpy.softmax_cross_entropy_backward(cache)))


def lowlevel_result(params, batch, activation="relu", pooling="max"):
    params = to_torch(params, requires_grad=True)
    x, targets = (torch.from_numpy(a) for a in batch)
    logits = low.forward(params, x, low.LeNetConfig(activation, pooling))
    loss = low.cross_entropy(logits, targets)
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


# --- across levels


@pytest.mark.parametrize(("activation", "pooling"), CONFIGS)
def test_equals_level_1(activation, pooling):
    params, batch = perturbed_params(activation), make_batch()
    assert_parity(
        lowlevel_result(params, batch, activation, pooling),
        numpy_step(make_numpy_model(params, activation, pooling), *batch),
    )


def trajectories(lowlevel_adam, config=("relu", "max")):
    """Losses of ten steps at both levels, from the same weights over the same batches."""
    params = perturbed_params(config[0])
    model, tensors = make_numpy_model(params, *config), to_torch(params, requires_grad=True)
    optimizer, low_optimizer = Adam(model.params, lr=0.003), lowlevel_adam(tensors)
    losses, low_losses = [], []
    for step in range(10):
        x, targets = make_batch(step, size=8)
        result = numpy_step(model, x, targets)
        optimizer.step(result.grads)
        losses.append(result.loss)
        batch = torch.from_numpy(x), torch.from_numpy(targets)
        low_losses.append(low.train_step(tensors, low_optimizer, *batch, low.LeNetConfig(*config)))
    return low_losses, losses


@pytest.mark.parametrize("config", [("relu", "max"), ("tanh", "avg")], ids="-".join)
def test_ten_steps_equal_level_1(config):
    assert_trajectory(*trajectories(lambda p: low.Adam(p, lr=0.003), config))


def test_a_file_of_level_1_loads_here(tmp_path):
    model = make_numpy_model(perturbed_params())
    loaded = load_weights(save_weights(tmp_path / "model.safetensors", model.params))
    batch = make_batch()
    assert_parity(lowlevel_result(loaded, batch), numpy_step(model, *batch), tol=1e-12)


@pytest.mark.parametrize(("kernel", "padding"), [((5, 5), 2), ((3, 2), 0), ((1, 4), 1)], ids=str)
def test_convolution_equals_torch(kernel, padding):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 9, 7), (4, 3, *kernel), (4,)]
    x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    difference = low.conv2d(x, weight, bias, padding) - F.conv2d(x, weight, bias, padding=padding)
    assert difference.abs().max() < 1e-12


@pytest.mark.parametrize("kind", low.POOLINGS)
def test_pooling_equals_torch_ties_included(kind):
    reference = {"max": F.max_pool2d, "avg": F.avg_pool2d}[kind]
    x = torch.randint(3, (2, 3, 8, 6), generator=torch.Generator().manual_seed(0)).double()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, want = low.pool2d(ours, kind), reference(theirs, 2)
    dy = torch.randn(y.shape, dtype=torch.float64)
    y.backward(dy)
    want.backward(dy)
    assert torch.equal(y, want) and torch.equal(ours.grad, theirs.grad)


# --- the comparison can fail


def without_bias(params):
    return params | {"c3.bias": np.zeros_like(params["c3.bias"])}


def flipped_kernels(params):
    return params | {"c1.weight": params["c1.weight"][:, :, ::-1, ::-1].copy()}


def transposed_kernels(params):
    return params | {"c3.weight": params["c3.weight"].transpose(0, 1, 3, 2).copy()}


def channels_last_flattening(params):
    """As if the maps were flattened as (5, 5, 16): every number is there, in another order."""
    weight = params["c5.weight"].reshape(120, 16, 5, 5).transpose(0, 2, 3, 1)
    return params | {"c5.weight": weight.reshape(120, 400).copy()}


@pytest.mark.parametrize(
    "fault", [without_bias, flipped_kernels, transposed_kernels, channels_last_flattening]
)
def test_sabotaged_weights_are_noticed(fault):
    params, batch = perturbed_params(), make_batch()
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(
            lowlevel_result(fault(params), batch), numpy_step(make_numpy_model(params), *batch)
        )


@pytest.mark.parametrize("wrong", [("tanh", "max"), ("relu", "avg")], ids="-".join)
def test_sabotaged_configuration_is_noticed(wrong):
    params, batch = perturbed_params(), make_batch()
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(
            lowlevel_result(params, batch, *wrong), numpy_step(make_numpy_model(params), *batch)
        )


def test_shared_ties_are_noticed(monkeypatch):
    """amax gives the outputs of max pooling, but other gradients where a window has ties."""

    def pool_by_amax(x, kind):
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2)  # (B, C, H, W) -> (B, C, H/2, W/2, 2, 2)
        return windows.amax(dim=(4, 5))

    # With weights of +-1 and images of whole numbers, many sums are equal and positive.
    params, batch = perturbed_params(), make_batch()
    params["c1.weight"] = np.sign(params["c1.weight"])
    params["c1.bias"] = np.zeros(6)
    x = np.floor(2 * batch[0])
    reference = numpy_step(make_numpy_model(params), x, batch[1])
    assert_parity(lowlevel_result(params, (x, batch[1])), reference)
    monkeypatch.setattr(low, "pool2d", pool_by_amax)
    with pytest.raises(ParityError, match="gradient of c1"):
        assert_parity(lowlevel_result(params, (x, batch[1])), reference)


def test_a_forgotten_bias_correction_is_noticed_by_the_trajectory():
    class Uncorrected(low.Adam):
        @torch.no_grad()
        def step(self):
            self.state["step"] += 10_000  # the corrections are 1 from here on
            super().step()

    with pytest.raises(ParityError, match="loss at step 2"):
        assert_trajectory(*trajectories(lambda p: Uncorrected(p, lr=0.003)))


# --- leaves


@pytest.mark.parametrize(("activation", "pooling"), CONFIGS)
def test_every_parameter_is_a_leaf_and_receives_a_gradient(activation, pooling):
    config = low.LeNetConfig(activation, pooling)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    x, targets = (torch.from_numpy(a) for a in make_batch())
    low.cross_entropy(low.forward(params, x.float(), config), targets).backward()
    for name, p in params.items():
        assert p.is_leaf and p.requires_grad, name
        assert p.grad is not None and p.grad.abs().sum() > 0, name


# --- properties


@pytest.mark.parametrize("activation", low.ACTIVATIONS)
def test_initialisation_has_the_size_of_level_1(activation):
    params = low.init_params(low.LeNetConfig(activation), torch.Generator().manual_seed(0))
    model = np_level.LeNet(np_level.LeNetConfig(activation), np.random.default_rng(0))
    assert {n: tuple(p.shape) for n, p in params.items()} == {
        n: p.shape for n, p in model.params.items()
    }
    for name in ("c3.weight", "c5.weight", "f6.weight"):
        assert abs(params[name].std().item() / model.params[name].std() - 1) < 0.06, name


def test_overfits_one_batch():
    config = low.LeNetConfig()
    params = low.init_params(config, torch.Generator().manual_seed(0))
    optimizer = low.Adam(params, lr=0.003)
    x, targets = (torch.from_numpy(a) for a in make_batch(size=16))
    for _ in range(100):
        loss = low.train_step(params, optimizer, x.float(), targets, config)
    assert loss < 0.02


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low.LeNetConfig("gelu"), "expected activation 'relu' or 'tanh', got 'gelu'"),
        (lambda: low.LeNetConfig(pooling="min"), "expected pooling 'max' or 'avg', got 'min'"),
        (
            lambda: low.forward({}, torch.zeros(8, 3, 28, 28), low.LeNetConfig()),
            r"expected images \(B, 1, 28, 28\), got \(8, 3, 28, 28\)",
        ),
        (
            lambda: low.conv2d(torch.zeros(2, 4, 9, 9), torch.zeros(5, 3, 3, 3), torch.zeros(5)),
            r"expected images \(B, 3, H, W\), got \(2, 4, 9, 9\)",
        ),
        (
            lambda: low.cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
            r"expected logits \(B, K\) and targets \(B,\), got \(2, 3\) and \(3,\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_biases_start_at_zero():
    for name, value in low.init_params(low.LeNetConfig()).items():
        assert name.endswith("weight") == bool((value != 0).any()), name
