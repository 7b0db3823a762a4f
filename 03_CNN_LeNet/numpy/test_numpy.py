"""Tests of level 1: convolution twice and pooling against central differences and torch; LeNet."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conv_numpy import (
    avg_pool2d_backward,
    avg_pool2d_forward,
    col2im,
    conv2d_backward,
    conv2d_forward,
    conv2d_loops_backward,
    conv2d_loops_forward,
    correlate,
    im2col,
    max_pool2d_backward,
    max_pool2d_forward,
    output_size,
)
from lenet_numpy import LeNet, LeNetConfig
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import Adam
from utils.gradient_check import GradientMismatch, check_backward, numerical_gradient
from utils.parity import Result, assert_parity, max_difference, perturb

RNG = np.random.default_rng(0)

LOOPS = (conv2d_loops_forward, conv2d_loops_backward)
GEMM = (conv2d_forward, conv2d_backward)
MAX = (max_pool2d_forward, max_pool2d_backward)
AVG = (avg_pool2d_forward, avg_pool2d_backward)

# All sizes differ, so that a wrong transpose shows: B=2, C=6, Co=4, H=7, W=8.
KNOBS = {
    "plain": {},
    "stride and padding": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "stride": 2},
    "pairs": {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 3), "groups": 2},
}


def conv_inputs(groups=1, kernel=(3, 2)):
    return {
        "x": RNG.standard_normal((2, 6, 7, 8)),
        "weight": RNG.standard_normal((4, 6 // groups, *kernel)),
        "bias": RNG.standard_normal(4),
    }


# --- gradients, by central differences


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=list(KNOBS))
def test_convolution_gradients(knobs):
    check_backward(*GEMM, conv_inputs(knobs.get("groups", 1)), **knobs)


def test_gradients_of_the_loops():
    inputs = {
        "x": RNG.standard_normal((1, 2, 5, 4)),
        "weight": RNG.standard_normal((2, 1, 3, 2)),
        "bias": RNG.standard_normal(2),
    }
    check_backward(*LOOPS, inputs, stride=(2, 1), padding=1, groups=2)


POOLS = {
    "side by side": (2, None, 0),
    "stride 1": (2, 1, 0),
    "overlapping, padded": (3, 2, 1),
    "pairs": ((2, 3), (3, 1), (1, 0)),
}


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS.values(), ids=list(POOLS))
@pytest.mark.parametrize("pooling", [MAX, AVG], ids=["max", "avg"])
def test_pooling_gradients(pooling, kernel, stride, padding):
    # A permutation of whole numbers: no two are near each other, where max has its kink.
    x = RNG.permutation(2 * 3 * 6 * 8).reshape(2, 3, 6, 8).astype(np.float64)
    check_backward(*pooling, {"x": x / 50}, kernel_size=kernel, stride=stride, padding=padding)


@pytest.mark.parametrize("config", [LeNetConfig(), LeNetConfig.smooth()], ids=["relu", "tanh"])
def test_lenet_gradients_along_random_directions(config):
    """One random direction tests all numbers of a parameter at once: f'(0) = <gradient, direction>.

    Element by element, the 61,706 parameters would take a minute.
    """
    model = LeNet(config, np.random.default_rng(0))
    perturb(model.params)
    x, dy = RNG.random((2, 1, 28, 28)), RNG.standard_normal((2, 10))
    model.forward(x)
    grads = model.backward(dy)
    assert set(grads) == set(model.params)
    for name, parameter in model.params.items():
        start, direction = parameter.copy(), RNG.standard_normal(parameter.shape)

        def along(t, parameter=parameter, start=start, direction=direction):
            parameter[...] = start + t[0] * direction
            return float((model.forward(x) * dy).sum())

        want = numerical_gradient(along, np.zeros(1), h=1e-6)[0]
        parameter[...] = start
        got = (grads[name] * direction).sum()
        assert abs(got - want) <= 1e-7 * max(1.0, abs(want)), name


def unflipped(dy, cache):
    dx, dweight, dbias = conv2d_backward(dy, cache)
    return dx, dweight[:, :, ::-1, ::-1], dbias


def one_image_only(dy, cache):
    dx, dweight, _ = conv2d_backward(dy, cache)
    return dx, dweight, dy[0].sum(axis=(1, 2))


def wrong_padding_removed(dy, cache):
    dx, dweight, dbias = conv2d_backward(dy, cache)
    return np.roll(dx, 1, axis=2), dweight, dbias


@pytest.mark.parametrize(
    ("fault", "message"),
    [(unflipped, "dweight"), (one_image_only, "dbias"), (wrong_padding_removed, "dx")],
    ids=["unflipped", "one image only", "wrong padding removed"],
)
def test_the_gradient_check_can_fail(fault, message):
    with pytest.raises(GradientMismatch, match=message):
        check_backward(conv2d_forward, fault, conv_inputs(), padding=1)


# --- the loops, the matrix product and torch agree


def numpy_result(pair, x, weight, bias, dy, **knobs):
    y, cache = pair[0](x, weight, bias, **knobs)
    dx, dweight, dbias = pair[1](dy, cache)
    return Result(y, 0.0, {"x": dx, "weight": dweight, "bias": dbias})


def torch_result(x, weight, bias, dy, **knobs):
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = F.conv2d(*leaves, **knobs)
    y.backward(torch.tensor(dy))
    grads = dict(zip(("x", "weight", "bias"), [leaf.grad for leaf in leaves], strict=True))
    return Result(y, 0.0, grads)


@st.composite
def convolutions(draw):
    """Random shapes and knobs of a convolution that fits."""
    small = st.integers(1, 3)
    groups = draw(small)
    knobs = {
        "stride": (draw(small), draw(small)),
        "padding": (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        "dilation": (draw(small), draw(small)),
        "groups": groups,
    }
    shape = (draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), *draw_size(draw))
    kernels = (groups * draw(st.integers(1, 2)), shape[1] // groups, draw(small), draw(small))
    for axis in (0, 1):
        span = knobs["dilation"][axis] * (kernels[2 + axis] - 1) + 1
        assume(span <= shape[2 + axis] + 2 * knobs["padding"][axis])
    return shape, kernels, knobs


def draw_size(draw):
    return draw(st.integers(1, 7)), draw(st.integers(1, 7))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions())
def test_loops_equal_gemm_equal_torch(case):
    shape, kernels, knobs = case
    x, weight = RNG.standard_normal(shape), RNG.standard_normal(kernels)
    bias = RNG.standard_normal(len(weight))
    dy = RNG.standard_normal(conv2d_forward(x, weight, bias, **knobs)[0].shape)
    reference = torch_result(x, weight, bias, dy, **knobs)
    assert_parity(numpy_result(LOOPS, x, weight, bias, dy, **knobs), reference, tol=1e-12)
    assert_parity(numpy_result(GEMM, x, weight, bias, dy, **knobs), reference, tol=1e-12)


def test_the_bare_definition_equals_torch():
    inputs = conv_inputs()
    y = correlate(**inputs)
    assert max_difference(y, F.conv2d(*[torch.tensor(a) for a in inputs.values()])) < 1e-13


@pytest.mark.parametrize("pair", [LOOPS, GEMM], ids=["loops", "gemm"])
def test_without_bias(pair):
    inputs = conv_inputs()
    y, cache = pair[0](inputs["x"], inputs["weight"], None, padding=1)
    want = F.conv2d(torch.tensor(inputs["x"]), torch.tensor(inputs["weight"]), padding=1)
    assert max_difference(y, want) < 1e-13
    assert pair[1](y, cache)[2] is None


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS.values(), ids=list(POOLS))
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_equals_torch_ties_included(kind, kernel, stride, padding):
    # Few different numbers, so that most windows have several largest ones.
    x = RNG.integers(3, size=(2, 3, 8, 7)).astype(np.float64)
    ours, reference = {"max": (MAX, F.max_pool2d), "avg": (AVG, F.avg_pool2d)}[kind]
    leaf = torch.tensor(x, requires_grad=True)
    want = reference(leaf, kernel, stride, padding)
    dy = RNG.standard_normal(tuple(want.shape))
    want.backward(torch.tensor(dy))
    y, cache = ours[0](x, kernel, stride, padding)
    dx = ours[1](dy, cache)
    assert_parity(Result(y, 0.0, {"x": dx}), Result(want, 0.0, {"x": leaf.grad}), tol=1e-13)


# --- properties


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=list(KNOBS))
def test_col2im_is_the_adjoint_of_im2col(knobs):
    knobs = {name: value for name, value in knobs.items() if name != "groups"}
    x = RNG.standard_normal((2, 6, 7, 8))
    columns = im2col(x, (3, 2), **knobs)
    y = RNG.standard_normal(columns.shape)
    back = col2im(y, x.shape, (3, 2), **knobs)
    assert (columns * y).sum() == pytest.approx((x * back).sum(), rel=1e-12)


@given(*[st.integers(1, 12)] * 2, *[st.integers(1, 3)] * 2, st.integers(0, 2))
def test_output_size_counts_the_places_that_fit(size, kernel, stride, dilation, padding):
    span = dilation * (kernel - 1) + 1
    places = [i for i in range(0, 40, stride) if i + span <= size + 2 * padding]
    assume(places)
    assert output_size(size, kernel, stride, padding, dilation) == len(places)


def test_translation_equivariance():
    """A shifted image gives the shifted result (eq. 3.21); after pooling, for even shifts only."""
    image = np.zeros((1, 1, 28, 28))
    image[:, :, 8:16, 8:16] = RNG.random((8, 8))
    weight, bias = RNG.standard_normal((3, 1, 5, 5)), RNG.standard_normal(3)

    def features(x):
        return conv2d_forward(x, weight, bias, padding=2)[0]

    def pooled(x):
        return max_pool2d_forward(features(x), 2)[0]

    shifted = np.roll(image, (2, 4), axis=(2, 3))
    assert np.allclose(features(shifted), np.roll(features(image), (2, 4), axis=(2, 3)))
    assert np.allclose(pooled(shifted), np.roll(pooled(image), (1, 2), axis=(2, 3)))
    odd = np.roll(image, 1, axis=2)
    assert not any(np.allclose(pooled(odd), np.roll(pooled(image), s, axis=2)) for s in (0, 1))


def test_a_pixel_reaches_only_the_units_whose_window_holds_it():
    weight = np.ones((1, 1, 5, 5))
    image = np.zeros((1, 1, 28, 28))
    image[0, 0, 10, 20] = 1.0
    y, _ = conv2d_forward(image, weight, None, padding=2)
    assert y[0, 0, 8:13, 18:23].sum() == y.sum() == 25


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("config", [LeNetConfig(), LeNetConfig.smooth()], ids=["relu", "tanh"])
def test_dtype_follows_the_input(config, dtype):
    model = LeNet(config, np.random.default_rng(0), dtype)
    logits = model.forward(RNG.random((2, 1, 28, 28)).astype(dtype))
    loss, cache = softmax_cross_entropy_forward(logits, np.array([3, 1]))
    grads = model.backward(softmax_cross_entropy_backward(cache))
    assert logits.dtype == dtype and np.asarray(loss).dtype == dtype
    assert {g.dtype for g in grads.values()} == {np.dtype(dtype)}


# A 1x1 kernel, or an image of one row: im2col's windows could then be a view of the image itself.
@pytest.mark.parametrize("kernel", [(3, 2), (1, 1), (7, 3), (1, 8)], ids=str)
def test_backward_changes_nothing_and_can_be_repeated(kernel):
    inputs = conv_inputs(kernel=kernel)
    y, cache = conv2d_forward(**inputs)
    kept = {name: array.copy() for name, array in inputs.items()}
    first, second = conv2d_backward(y, cache), conv2d_backward(y, cache)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(np.array_equal(kept[name], inputs[name]) for name in kept)


def test_parameter_count():
    model = LeNet(LeNetConfig(), np.random.default_rng(0))
    assert sum(p.size for p in model.params.values()) == 61_706


def test_initial_loss_is_that_of_guessing():
    model = LeNet(LeNetConfig(), np.random.default_rng(0))
    model.params["output.weight"] *= 0.01
    logits = model.forward(RNG.random((64, 1, 28, 28)))
    loss, _ = softmax_cross_entropy_forward(logits, RNG.integers(10, size=64))
    assert abs(loss - np.log(10)) < 0.05


@pytest.mark.parametrize("config", [LeNetConfig(), LeNetConfig.smooth()], ids=["relu", "tanh"])
def test_overfits_one_batch(config):
    rng = np.random.default_rng(0)
    model = LeNet(config, rng, np.float32)
    optimizer = Adam(model.params, lr=0.003)
    x, targets = rng.random((16, 1, 28, 28), dtype=np.float32), rng.integers(10, size=16)
    for _ in range(100):
        loss, cache = softmax_cross_entropy_forward(model.forward(x), targets)
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
    assert loss < 0.02


def test_backward_needs_forward():
    with pytest.raises(RuntimeError, match="expected forward before backward"):
        LeNet(LeNetConfig(), np.random.default_rng(0)).backward(np.zeros((2, 10)))


# --- bad input


def images(*shape):
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LeNetConfig("gelu"), "expected activation 'relu' or 'tanh', got 'gelu'"),
        (lambda: LeNetConfig(pooling="min"), "expected pooling 'max' or 'avg', got 'min'"),
        (
            lambda: LeNet(LeNetConfig(), RNG).forward(images(8, 3, 28, 28)),
            r"expected images \(B, 1, 28, 28\), got \(8, 3, 28, 28\)",
        ),
        (
            lambda: conv2d_forward(images(2, 3, 9, 9), images(4, 2, 3, 3), None),
            r"expected 2 x 1 input channels .* got images \(2, 3, 9, 9\)",
        ),
        (
            lambda: conv2d_forward(images(2, 4, 9, 9), images(5, 2, 3, 3), None, groups=2),
            "output channels divisible by 2",
        ),
        (
            lambda: conv2d_forward(images(3, 9, 9), images(4, 3, 3, 3), None),
            r"expected images \(B, C, H, W\) and kernels",
        ),
        (
            lambda: conv2d_forward(images(2, 3, 9, 9), images(4, 3, 3, 3), np.zeros(3)),
            r"expected a bias \(4,\), got \(3,\)",
        ),
        (
            lambda: conv2d_loops_forward(images(2, 3, 4, 4), images(4, 3, 5, 5), None),
            r"expected a window no wider than the padded input \(4 \+ 2\*0\), got 5",
        ),
        (lambda: output_size(8, 3, stride=0), "expected kernel, stride and dilation of at least 1"),
        (
            lambda: max_pool2d_forward(images(2, 3, 8, 8), 2, padding=2),
            "expected padding of at most half the window",
        ),
        (lambda: avg_pool2d_forward(images(8, 8), 2), r"expected images \(B, C, H, W\), got"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_biases_start_at_zero():
    for name, value in LeNet(LeNetConfig(), np.random.default_rng(0)).params.items():
        assert name.endswith("weight") == bool(value.any()), name
