"""Tests of level 1: local response normalisation, and the whole VGG, against differences."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vgg_numpy
from conv_numpy import conv2d_forward
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import Adam
from utils.gradient_check import GradientMismatch, check_backward, numerical_gradient
from utils.parity import max_difference, perturb
from vgg_numpy import (
    TABLE_1,
    VGG,
    VGGConfig,
    channel_window_sum,
    local_response_norm_backward,
    local_response_norm_forward,
)

RNG = np.random.default_rng(0)
SMALL = {"width": 2, "hidden": 6, "classes": 5}
PAPER = {"width": 64, "hidden": 4096, "classes": 1000, "image_size": 224}


def make_model(net="A", **sizes):
    model = VGG(VGGConfig(net, **(SMALL | sizes)), np.random.default_rng(0))
    perturb(model.params)
    return model


# --- gradients, by central differences


@pytest.mark.parametrize("n", [1, 3, 5])
def test_local_response_norm_gradients(n):
    # A large alpha: with the paper's 1e-4 the second term of eq. 4.13 would hardly count.
    x = RNG.standard_normal((2, 6, 3, 4))
    forward, backward = local_response_norm_forward, local_response_norm_backward
    check_backward(forward, backward, {"x": x}, n=n, alpha=0.5, beta=0.75, k=2.0)


def direct_term_only(dy, cache):
    _, s, _, _, _, beta = cache
    return dy * s**-beta


def own_channel_only(dy, cache):
    x, s, y, _, alpha, beta = cache
    return dy * s**-beta - 2 * alpha * beta * x * dy * y / s


def without_the_two_of_the_square(dy, cache):
    x, s, y, n, alpha, beta = cache
    others = channel_window_sum(dy * y / s, n)
    return dy * s**-beta - alpha * beta * x * others


@pytest.mark.parametrize(
    "fault", [direct_term_only, own_channel_only, without_the_two_of_the_square]
)
def test_the_gradient_check_can_fail(fault):
    x = RNG.standard_normal((2, 6, 3, 4))
    check_backward(local_response_norm_forward, local_response_norm_backward, {"x": x}, alpha=0.5)
    with pytest.raises(GradientMismatch, match="dx"):
        check_backward(local_response_norm_forward, fault, {"x": x}, alpha=0.5)


def assert_directional_gradients(model, x, dy, **options):
    """One random direction tests all numbers of a parameter: f'(0) = <gradient, direction>."""

    def scalar():
        return float((model.forward(x, **{k: make() for k, make in options.items()}) * dy).sum())

    scalar()
    grads = model.backward(dy)
    assert set(grads) == set(model.params)
    for name, parameter in model.params.items():
        # Where every ReLU is off, all gradients are zero, and any way back would do.
        assert np.abs(grads[name]).max() > 1e-3, f"{name} is out of reach"
        start, direction = parameter.copy(), RNG.standard_normal(parameter.shape)
        direction /= np.linalg.norm(direction)

        def along(t, parameter=parameter, start=start, direction=direction):
            parameter[...] = start + t[0] * direction
            return scalar()

        want = numerical_gradient(along, np.zeros(1), h=1e-6)[0]
        parameter[...] = start
        got = (grads[name] * direction).sum()
        assert abs(got - want) <= 1e-7 * max(1.0, abs(want)), name


@pytest.mark.parametrize(
    ("net", "sizes"),
    [("A", {}), ("A-LRN", {}), ("C", {"width": 4}), ("A", {"image_size": 64})],
    ids=["A", "A-LRN", "C", "A-64"],  # at 64, four places are flattened, not one
)
def test_vgg_gradients_along_random_directions(net, sizes):
    model = make_model(net, **sizes)
    side = model.config.image_size
    x, dy = RNG.random((2, 3, side, side)), RNG.standard_normal((2, 5))
    assert_directional_gradients(model, x, dy)


def test_vgg_gradients_with_dropout():
    x, dy = RNG.random((2, 3, 32, 32)), RNG.standard_normal((2, 5))
    model = make_model(hidden=16)
    options = {"train": lambda: True, "rng": lambda: np.random.default_rng(1)}
    assert_directional_gradients(model, x, dy, **options)
    assert not np.array_equal(model.forward(x, True, np.random.default_rng(1)), model.forward(x))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_rate_of_dropout_is_the_configured_one(rate):
    model = make_model(width=4, hidden=500, dropout=rate)
    model.forward(RNG.random((2, 3, 32, 32)), True, np.random.default_rng(1))
    masks = [cache[0] for kind, _, cache in model._caches if kind == "dropout"]
    assert len(masks) == 2
    for mask in masks:  # none is drawn for a rate of 0
        dropped = 0.0 if mask is None else (mask == 0).mean()
        assert dropped == pytest.approx(rate, abs=0.05)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("relu_backward", lambda dy, cache: dy),
        ("max_pool2d_backward", lambda dy, cache: dy.repeat(2, axis=2).repeat(2, axis=3)),
        ("dropout_backward", lambda dy, cache: dy),
        ("local_response_norm_backward", lambda dy, cache: dy),
    ],
    ids=["relu-forgotten", "pooling-to-all", "dropout-forgotten", "norm-forgotten"],
)
def test_a_faulty_way_back_is_noticed(name, fault, monkeypatch):
    x, dy = RNG.random((2, 3, 32, 32)), RNG.standard_normal((2, 5))
    model = make_model("A-LRN", hidden=16)
    options = {"train": lambda: True, "rng": lambda: np.random.default_rng(1)}
    assert_directional_gradients(model, x, dy, **options)
    monkeypatch.setattr(vgg_numpy, name, fault)
    with pytest.raises(AssertionError):
        assert_directional_gradients(model, x, dy, **options)


# --- local response normalisation against torch


@pytest.mark.parametrize("n", [1, 3, 5, 9])
def test_local_response_norm_equals_torch_whose_alpha_is_divided_by_n(n):
    x = RNG.standard_normal((2, 6, 3, 4))
    y, cache = local_response_norm_forward(x, n, alpha=0.3)
    leaf = torch.tensor(x, requires_grad=True)
    want = F.local_response_norm(leaf, n, alpha=0.3 * n, beta=0.75, k=2.0)
    dy = RNG.standard_normal(x.shape)
    want.backward(torch.tensor(dy))
    assert max_difference(y, want) < 1e-13
    assert max_difference(local_response_norm_backward(dy, cache), leaf.grad) < 1e-13


def test_the_constants_of_the_normalisation_are_the_papers():
    x = 100 * RNG.standard_normal((2, 9, 3, 4))  # so large that an alpha of 1e-4 counts
    want = F.local_response_norm(torch.from_numpy(x), 5, alpha=5e-4, beta=0.75, k=2.0)
    assert max_difference(local_response_norm_forward(x)[0], want) < 1e-13


def test_the_window_sum_is_its_own_adjoint():
    x, y = RNG.standard_normal((2, 2, 7, 3, 4))
    left, right = (channel_window_sum(x, 5) * y).sum(), (x * channel_window_sum(y, 5)).sum()
    assert left == pytest.approx(right, rel=1e-12)
    assert channel_window_sum(np.ones((1, 7, 1, 1)), 5).ravel().tolist() == [3, 4, 5, 5, 5, 4, 3]


# --- the paper's figures


# Table 2 in millions, and to the last parameter.
PARAMETERS = {
    "A": (133, 132_863_336),
    "A-LRN": (133, 132_863_336),
    "B": (133, 133_047_848),
    "C": (134, 133_638_952),
    "D": (138, 138_357_544),
    "E": (144, 143_667_240),
}


@pytest.mark.parametrize("net", TABLE_1)
def test_parameters_of_table_2(net):
    shapes = [shape for _, _, shape in VGGConfig(net, **PAPER).layers() if shape]
    count = sum(math.prod(shape) + shape[0] for shape in shapes)  # weights and biases
    assert (round(count / 1e6), count) == PARAMETERS[net]


@pytest.mark.parametrize(
    ("net", "depth"), [("A", 11), ("A-LRN", 11), ("B", 13), ("C", 16), ("D", 16), ("E", 19)]
)
def test_weight_layers_of_table_1(net, depth):
    kinds = [kind for kind, _, _ in VGGConfig(net).layers()]
    assert kinds.count("conv") + kinds.count("linear") == depth
    assert kinds.count("pool") == 5 and kinds.count("dropout") == 2
    assert kinds.count("relu") == depth - 1  # every layer with weights but the last
    assert [i for i, kind in enumerate(kinds) if kind == "lrn"] == ([2] if net == "A-LRN" else [])


def test_sizes_of_every_stage():
    model = make_model("D", image_size=64)
    model.forward(np.zeros((1, 3, 64, 64)))
    # what pooling read, from its cache: the channels of Table 1 / 32, the size halved five times
    seen = [cache[0].shape[1:] for kind, _, cache in model._caches if kind == "pool"]
    assert seen == [(2, 64, 64), (4, 32, 32), (8, 16, 16), (16, 8, 8), (16, 4, 4)]
    assert model.params["classifier.0.weight"].shape == (6, 16 * 2 * 2)


def test_defaults():
    model = VGG(VGGConfig(), np.random.default_rng(0))
    assert sum(p.size for p in model.params.values()) == 611_434
    assert model.config.dropout == 0.5  # the paper's


# --- properties


@pytest.mark.parametrize("depth", [2, 3])
def test_a_stack_of_3x3_sees_what_one_large_kernel_sees(depth):
    """Section 2.3: two layers see 5x5, three see 7x7 (eq. 4.1)."""
    x = np.zeros((1, 1, 15, 15))
    x[0, 0, 7, 7] = 1.0
    for _ in range(depth):
        x, _ = conv2d_forward(x, np.ones((1, 1, 3, 3)), None, padding=1)
    rows = np.flatnonzero(x[0, 0].any(axis=1))
    assert len(rows) == 2 * depth + 1 and rows.mean() == 7


@pytest.mark.parametrize("net", ["A", "E"])
def test_he_initialisation_keeps_the_signal_at_every_depth(net):
    model = VGG(VGGConfig(net, width=16), np.random.default_rng(0))
    x = RNG.standard_normal((8, 3, 32, 32))
    logits = model.forward(x)
    assert 0.05 < np.square(logits).mean() < 20
    for name, p in model.params.items():
        if name.endswith("weight"):
            p *= 0.5  # a quarter of the variance in each layer
    shrunk = model.forward(x)
    depth = len(model.params) // 2
    assert max_difference(shrunk, 0.5**depth * logits) < 1e-12


def test_initial_weights_are_hes_and_follow_the_generator():
    one, same, other = (
        VGG(VGGConfig("C"), np.random.default_rng(seed)).params for seed in (1, 1, 2)
    )
    for name, p in one.items():
        assert np.array_equal(p, same[name]), name
        if name.endswith("bias"):
            assert not p.any(), name
        else:
            assert p.std() == pytest.approx(math.sqrt(2 / math.prod(p.shape[1:])), rel=0.1), name
            assert not np.array_equal(p, other[name]), name


def test_dropout_needs_training_and_a_generator():
    model, x = make_model(), RNG.random((2, 3, 32, 32))
    assert np.array_equal(model.forward(x), model.forward(x, rng=np.random.default_rng(0)))
    with pytest.raises(ValueError, match="expected rng for dropout"):
        model.forward(x, train=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_input(dtype):
    model = VGG(VGGConfig("A-LRN", **SMALL), np.random.default_rng(0), dtype)
    logits = model.forward(RNG.random((2, 3, 32, 32)).astype(dtype), True, RNG)
    loss, cache = softmax_cross_entropy_forward(logits, np.array([3, 1]))
    grads = model.backward(softmax_cross_entropy_backward(cache))
    assert logits.dtype == dtype and np.asarray(loss).dtype == dtype
    assert {g.dtype for g in grads.values()} == {np.dtype(dtype)}


def test_initial_loss_is_that_of_guessing():
    model = VGG(VGGConfig(width=4), np.random.default_rng(0))
    model.params["classifier.6.weight"] *= 0.01
    logits = model.forward(RNG.random((64, 3, 32, 32)))
    loss, _ = softmax_cross_entropy_forward(logits, RNG.integers(10, size=64))
    assert abs(loss - np.log(10)) < 0.05


@pytest.mark.parametrize("net", ["A", "A-LRN"])
def test_overfits_one_batch(net):
    rng = np.random.default_rng(0)
    model = VGG(VGGConfig(net, width=4, hidden=32, dropout=0.0), rng, np.float32)
    optimizer = Adam(model.params, lr=0.003)
    x, targets = rng.random((12, 3, 32, 32), dtype=np.float32), rng.integers(10, size=12)
    x = x - x.mean()
    for _ in range(100):
        loss, cache = softmax_cross_entropy_forward(model.forward(x), targets)
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
    assert loss < 0.02


def test_backward_needs_forward():
    with pytest.raises(RuntimeError, match="expected forward before backward"):
        VGG(VGGConfig(**SMALL), RNG).backward(np.zeros((2, 5)))


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VGGConfig("F"), "expected a net of A, A-LRN, B, C, D, E; got 'F'"),
        (lambda: VGGConfig(image_size=48), "five halvings divide .* got 48"),
        (lambda: VGGConfig(image_size=0), "five halvings divide .* got 0"),
        (lambda: VGGConfig(dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: VGGConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: VGGConfig(width=0), "of at least 1, got 0, 128 and 10"),
        (lambda: VGGConfig(hidden=0), "of at least 1, got 16, 0 and 10"),
        (lambda: VGGConfig(classes=0), "of at least 1, got 16, 128 and 0"),
        (
            lambda: make_model().forward(np.zeros((8, 1, 28, 28))),
            r"expected images \(B, 3, 32, 32\), got \(8, 1, 28, 28\)",
        ),
        (lambda: local_response_norm_forward(np.zeros((2, 3, 4, 4)), n=4), "an odd n, got"),
        (lambda: local_response_norm_forward(np.zeros((2, 3))), r"expected images \(B, C, H, W\)"),
    ],
    ids=[
        *("net", "image-size", "no-size", "dropout-1", "dropout-negative", "width", "hidden"),
        *("classes", "images", "even-n", "no-images"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
