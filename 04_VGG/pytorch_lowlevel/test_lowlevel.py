"""Tests of level 2: the same weights as level 1, the same outputs, gradients and training."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mlp_numpy
import vgg_lowlevel as low
import vgg_numpy as np_level
from optimizers_numpy import SGD
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, load_weights, save_weights, to_numpy, to_torch

SMALL = {"width": 2, "hidden": 6, "classes": 5}


class SameNumbers:
    """Gives level 1 the random numbers that level 2 draws from a generator of this seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, shape):
        return torch.rand(shape, generator=self.generator).numpy()


def make_batch(seed=0, size=3):
    rng = np.random.default_rng(seed)
    return rng.random((size, 3, 32, 32)), rng.integers(5, size=size)


def perturbed_params(net="A", **sizes):
    config = low.VGGConfig(net, **(SMALL | sizes))
    params = to_numpy(low.init_params(config, torch.Generator().manual_seed(0)), np.float64)
    perturb(params)
    return params


def make_numpy_model(params, net="A", **sizes):
    model = np_level.VGG(np_level.VGGConfig(net, **(SMALL | sizes)), np.random.default_rng(0))
    load_into(model.params, params)
    return model


def numpy_step(model, x, targets, seed=None):
    """Logits, loss and gradients of level 1; with a seed, in training."""
    logits = model.forward(x) if seed is None else model.forward(x, True, SameNumbers(seed))
    loss, cache = mlp_numpy.softmax_cross_entropy_forward(logits, targets)
    return Result(logits, loss, model.backward(mlp_numpy.softmax_cross_entropy_backward(cache)))


def lowlevel_result(params, batch, net="A", seed=None, **sizes):
    params = to_torch(params, requires_grad=True)
    x, targets = (torch.from_numpy(a) for a in batch)
    config = low.VGGConfig(net, **(SMALL | sizes))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    logits = low.forward(params, x, config, seed is not None, generator)
    loss = low.cross_entropy(logits, targets)
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


# --- across levels


@pytest.mark.parametrize("net", low.TABLE_1)
def test_equals_level_1(net):
    params, batch = perturbed_params(net), make_batch()
    want = numpy_step(make_numpy_model(params, net), *batch)
    assert_parity(lowlevel_result(params, batch, net), want)


@pytest.mark.parametrize("rate", [0.3, 0.5])  # at one half, the kept share is the dropped one
def test_equals_level_1_in_training_with_the_same_dropout(rate):
    sizes = {"hidden": 16, "dropout": rate}
    params, batch = perturbed_params(**sizes), make_batch()
    want = numpy_step(make_numpy_model(params, **sizes), *batch, seed=7)
    assert_parity(lowlevel_result(params, batch, seed=7, **sizes), want)


def test_equals_level_1_on_larger_images():
    sizes = {"image_size": 64}
    rng = np.random.default_rng(0)
    params, batch = perturbed_params("B", **sizes), (rng.random((2, 3, 64, 64)), np.array([4, 0]))
    want = numpy_step(make_numpy_model(params, "B", **sizes), *batch)
    assert_parity(lowlevel_result(params, batch, "B", **sizes), want)


def trajectories(lowlevel_sgd):
    """Losses of ten steps in training at both levels, from the same weights and dropout."""
    params = perturbed_params(hidden=16)
    model, tensors = make_numpy_model(params, hidden=16), to_torch(params, requires_grad=True)
    optimizer = SGD(model.params, lr=0.02, momentum=0.9, weight_decay=5e-4)
    low_optimizer, config = lowlevel_sgd(tensors), low.VGGConfig(**(SMALL | {"hidden": 16}))
    losses, low_losses = [], []
    for step in range(10):
        x, targets = make_batch(step, size=6)
        result = numpy_step(model, x, targets, seed=step)
        optimizer.step(result.grads)
        losses.append(result.loss)
        batch = torch.from_numpy(x), torch.from_numpy(targets)
        generator = torch.Generator().manual_seed(step)
        low_losses.append(low.train_step(tensors, low_optimizer, *batch, config, generator))
    return low_losses, losses


def test_ten_steps_equal_level_1():
    assert_trajectory(*trajectories(lambda p: low.SGD(p, lr=0.02)))


def test_a_file_of_level_1_loads_here(tmp_path):
    model = make_numpy_model(perturbed_params())
    loaded = load_weights(save_weights(tmp_path / "model.safetensors", model.params))
    batch = make_batch()
    assert_parity(lowlevel_result(loaded, batch), numpy_step(model, *batch), tol=1e-12)


def test_local_response_norm_equals_torch_whose_alpha_is_divided_by_n():
    x = torch.randn(2, 7, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = F.local_response_norm(x, 5, alpha=5 * 0.3, beta=0.75, k=2.0)
    assert (low.local_response_norm(x, 5, alpha=0.3) - want).abs().max() < 1e-13
    x *= 100  # so large that the paper's alpha counts
    want = F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
    assert max_difference(low.local_response_norm(x), want) < 1e-13


# --- the comparison can fail


def without_bias(params):
    return params | {"features.3.bias": np.zeros_like(params["features.3.bias"])}


def transposed_kernels(params):
    weight = params["features.3.weight"].transpose(0, 1, 3, 2).copy()
    return params | {"features.3.weight": weight}


def swapped_convolutions(params):
    """Both have 16 channels in and out, so no shape gives it away."""
    one, other = "features.16.weight", "features.18.weight"
    return params | {one: params[other], other: params[one]}


def channels_last_flattening(params):
    """As if the maps were flattened as (2, 2, 16): every number is there, in another order."""
    weight = params["classifier.0.weight"].reshape(-1, 16, 2, 2).transpose(0, 2, 3, 1)
    return params | {"classifier.0.weight": weight.reshape(len(weight), -1).copy()}


@pytest.mark.parametrize(
    "fault", [without_bias, transposed_kernels, swapped_convolutions, channels_last_flattening]
)
def test_sabotaged_weights_are_noticed(fault):
    rng = np.random.default_rng(0)
    batch = rng.random((2, 3, 64, 64)), np.array([4, 0])
    params = perturbed_params(image_size=64)
    want = numpy_step(make_numpy_model(params, image_size=64), *batch)
    assert_parity(lowlevel_result(params, batch, image_size=64), want)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(lowlevel_result(fault(params), batch, image_size=64), want)


def torchs_alpha(x):
    """As if PyTorch's function had the paper's constants."""
    return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=2.0)


def norm_over_places(x):
    """A window in the image instead of one over the channels."""
    s = 2.0 + 1e-4 * 25 * F.avg_pool2d(x * x, 5, stride=1, padding=2)
    return x * s**-0.75


@pytest.mark.parametrize("fault", [torchs_alpha, norm_over_places])
def test_a_sabotaged_normalisation_is_noticed(fault, monkeypatch):
    params, batch = perturbed_params("A-LRN"), make_batch()
    want = numpy_step(make_numpy_model(params, "A-LRN"), *batch)
    assert_parity(lowlevel_result(params, batch, "A-LRN"), want)
    monkeypatch.setattr(low, "local_response_norm", fault)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(lowlevel_result(params, batch, "A-LRN"), want)


def test_dropout_that_does_not_scale_is_noticed():
    params, batch = perturbed_params(hidden=16), make_batch()
    want = numpy_step(make_numpy_model(params, hidden=16), *batch, seed=7)
    assert_parity(lowlevel_result(params, batch, seed=7, hidden=16), want)
    # Weights twice as small behind each dropout of one half undo its scaling.
    halved = {
        name: p / 2 if name in ("classifier.3.weight", "classifier.6.weight") else p
        for name, p in params.items()
    }
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(lowlevel_result(halved, batch, seed=7, hidden=16), want)


@pytest.mark.parametrize(
    "wrong",
    [
        {"momentum": 0.0},
        {"weight_decay": 0.0},
        {"momentum": 0.99},
    ],
    ids=["no-momentum", "no-weight-decay", "other-momentum"],
)
def test_a_wrong_update_rule_is_noticed_by_the_trajectory(wrong):
    assert_trajectory(*trajectories(lambda p: low.SGD(p, lr=0.02)))
    with pytest.raises(ParityError, match="loss at step"):
        assert_trajectory(*trajectories(lambda p: low.SGD(p, lr=0.02, **wrong)))


# --- leaves and initial weights


@pytest.mark.parametrize("net", ["A", "C"])
def test_every_parameter_is_a_leaf_and_receives_a_gradient(net):
    config = low.VGGConfig(net, width=8, hidden=32, dropout=0.0)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    x, targets = (torch.from_numpy(a) for a in make_batch())
    low.cross_entropy(low.forward(params, x.float(), config), targets).backward()
    for name, p in params.items():
        assert p.is_leaf and p.requires_grad, name
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_initialisation_has_the_size_of_level_1():
    params = low.init_params(low.VGGConfig("C"), torch.Generator().manual_seed(0))
    model = np_level.VGG(np_level.VGGConfig("C"), np.random.default_rng(0))
    assert {n: tuple(p.shape) for n, p in params.items()} == {
        n: p.shape for n, p in model.params.items()
    }
    for name, p in params.items():
        if name.endswith("bias"):
            assert not p.any() and not model.params[name].any(), name
        else:
            he = math.sqrt(2 / math.prod(p.shape[1:]))
            assert p.std().item() == pytest.approx(he, rel=0.1), name
            assert model.params[name].std() == pytest.approx(he, rel=0.1), name


def test_initialisation_follows_the_generator_and_the_dtype():
    def drawn(seed, dtype=torch.float32):
        return low.init_params(low.VGGConfig(**SMALL), torch.Generator().manual_seed(seed), dtype)

    one, same, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["features.0.weight"], other["features.0.weight"])
    assert {p.dtype for p in drawn(1, torch.float64).values()} == {torch.float64}


def test_the_papers_constants():
    optimizer = low.SGD({})
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.01, 0.9, 5e-4)
    c, other = low.VGGConfig(), np_level.VGGConfig()
    assert (c.net, c.width, c.hidden, c.classes, c.image_size) == ("A", 16, 128, 10, 32)
    assert c.dropout == 0.5 and vars(c) == vars(other)


# --- properties


def test_overfits_one_batch():
    config = low.VGGConfig(width=8, hidden=32, dropout=0.0)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    optimizer = low.SGD(params, lr=0.01)
    x, targets = (torch.from_numpy(a) for a in make_batch(size=12))
    for _ in range(120):
        loss = low.train_step(params, optimizer, x.float() - 0.5, targets, config)
    assert loss < 0.02


def test_dropout_is_off_at_test_time_and_depends_on_the_generator():
    config = low.VGGConfig(**(SMALL | {"hidden": 16}))
    params, x = to_torch(perturbed_params(hidden=16)), torch.from_numpy(make_batch()[0])

    def trained(seed):
        return low.forward(params, x, config, True, torch.Generator().manual_seed(seed))

    assert torch.equal(low.forward(params, x, config), low.forward(params, x, config))
    assert torch.equal(trained(1), trained(1)) and not torch.equal(trained(1), trained(2))


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low.VGGConfig("F"), "expected a net of A, A-LRN, B, C, D, E; got 'F'"),
        (lambda: low.VGGConfig(image_size=48), "five halvings divide .* got 48"),
        (lambda: low.VGGConfig(image_size=0), "five halvings divide .* got 0"),
        (lambda: low.VGGConfig(dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: low.VGGConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: low.VGGConfig(width=0), "of at least 1, got 0, 128 and 10"),
        (lambda: low.VGGConfig(hidden=0), "of at least 1, got 16, 0 and 10"),
        (lambda: low.VGGConfig(classes=0), "of at least 1, got 16, 128 and 0"),
        (
            lambda: low.forward({}, torch.zeros(8, 1, 28, 28), low.VGGConfig()),
            r"expected images \(B, 3, 32, 32\), got \(8, 1, 28, 28\)",
        ),
        (
            lambda: low.cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
            r"expected logits \(B, K\) and targets \(B,\), got \(2, 3\) and \(3,\)",
        ),
        (
            lambda: low.cross_entropy(torch.zeros(2, 3, 1), torch.zeros(2, dtype=torch.long)),
            r"expected logits \(B, K\) and targets \(B,\), got \(2, 3, 1\) and \(2,\)",
        ),
    ],
    ids=[
        *("net", "image-size", "no-size", "dropout-1", "dropout-negative", "width", "hidden"),
        *("classes", "images", "targets", "logits"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
