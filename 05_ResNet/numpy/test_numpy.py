"""Tests of level 1: batch normalisation and the block against central differences and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from batch_norm_numpy import batch_norm2d_backward, batch_norm2d_forward
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD
from resnet_numpy import (
    ResNet,
    ResNetConfig,
    augment,
    basic_block_backward,
    basic_block_forward,
    zero_padded_shortcut_backward,
    zero_padded_shortcut_forward,
)
from utils.gradient_check import GradientMismatch, check_backward, numerical_gradient
from utils.parity import ParityError, Result, assert_parity, assert_same, perturb

RNG = np.random.default_rng(0)

# All sizes differ, so that a wrong transpose shows.
B, C, H, W = 3, 4, 5, 2


def norm_inputs():
    return {
        "x": 2 + 3 * RNG.standard_normal((B, C, H, W)),
        "weight": RNG.standard_normal(C),
        "bias": RNG.standard_normal(C),
    }


def statistics(channels=C):
    return {
        "running_mean": RNG.standard_normal(channels),
        "running_var": RNG.uniform(0.5, 2, channels),
    }


# --- gradients, by central differences


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_gradients(train):
    check_backward(
        batch_norm2d_forward, batch_norm2d_backward, norm_inputs(), train=train, **statistics()
    )


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (4, 2), (7, 1), (7, 2)])
def test_shortcut_gradients(channels, stride):
    check_backward(
        zero_padded_shortcut_forward,
        zero_padded_shortcut_backward,
        {"x": RNG.standard_normal((B, C, H, W))},
        channels=channels,
        stride=stride,
    )


def block_case(stride=2, Co=5):
    p = {
        "conv1.weight": 0.3 * RNG.standard_normal((Co, C, 3, 3)),
        "conv2.weight": 0.3 * RNG.standard_normal((Co, Co, 3, 3)),
    }
    running = {}
    for bn in ("bn1", "bn2"):
        p[f"{bn}.weight"], p[f"{bn}.bias"] = 1 + RNG.random(Co), RNG.standard_normal(Co)
        running |= {f"{bn}.{name}": value for name, value in statistics(Co).items()}
    return RNG.standard_normal((B, C, H, W)), p, running


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("stride", "Co"), [(2, 5), (1, 4)])
def test_block_gradients(stride, Co, train, residual):
    x, p, running = block_case(stride, Co)
    names = list(p)

    def forward(x, *values):
        p = dict(zip(names, values, strict=True))
        return basic_block_forward(x, p, running, stride, train, residual)

    def backward(dy, cache):
        dx, grads = basic_block_backward(dy, cache)
        return dx, *(grads[name] for name in names)

    check_backward(forward, backward, {"x": x} | p)


@pytest.mark.parametrize("config", [ResNetConfig(8), ResNetConfig(8, residual=False)], ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_model_gradients_along_random_directions(config, train):
    """One random direction tests all numbers of a parameter at once: f'(0) = <gradient, direction>.

    Element by element, the 75,290 parameters would take minutes.
    """
    model = ResNet(config, np.random.default_rng(0))
    perturb(model.state())
    x, dy = RNG.standard_normal((3, 3, 8, 8)), RNG.standard_normal((3, 10))
    model.forward(x, train)
    grads = model.backward(dy)
    assert set(grads) == set(model.params)
    for name, parameter in model.params.items():
        start, direction = parameter.copy(), RNG.standard_normal(parameter.shape)

        def along(t, parameter=parameter, start=start, direction=direction):
            parameter[...] = start + t[0] * direction
            return float((model.forward(x, train) * dy).sum())

        want = numerical_gradient(along, np.zeros(1), h=1e-6)[0]
        parameter[...] = start
        got = (grads[name] * direction).sum()
        assert abs(got - want) <= 1e-7 * max(1.0, abs(want)), name


def through_the_mean_only(dy, cache):
    dx, dweight, dbias = batch_norm2d_backward(dy, cache)
    x_hat, weight, std, _ = cache
    m = B * H * W
    return dx + (weight / std * dweight / m)[:, None, None] * x_hat, dweight, dbias


def statistics_are_constants(dy, cache):
    _, dweight, dbias = batch_norm2d_backward(dy, cache)
    _, weight, std, _ = cache
    return dy * (weight / std)[:, None, None], dweight, dbias


def means_over_the_batch_alone(dy, cache):
    x_hat, weight, std, _ = cache
    dx = dy - dy.mean(axis=0) - x_hat * (dy * x_hat).mean(axis=0)
    _, dweight, dbias = batch_norm2d_backward(dy, cache)
    return dx * (weight / std)[:, None, None], dweight, dbias


def weight_by_the_output(dy, cache):
    dx, _, dbias = batch_norm2d_backward(dy, cache)
    x_hat, weight, _, _ = cache
    return dx, (dy * x_hat * weight[:, None, None]).sum(axis=(0, 2, 3)), dbias


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (through_the_mean_only, "dx"),
        (statistics_are_constants, "dx"),
        (means_over_the_batch_alone, "dx"),
        (weight_by_the_output, "dweight"),
    ],
)
def test_the_gradient_check_can_fail(fault, message):
    kept = norm_inputs(), statistics()
    check_backward(batch_norm2d_forward, batch_norm2d_backward, kept[0], train=True, **kept[1])
    with pytest.raises(GradientMismatch, match=message):
        check_backward(batch_norm2d_forward, fault, kept[0], train=True, **kept[1])


def test_a_gradient_of_ones_would_test_little():
    """The outputs of a channel have a fixed sum, so an upstream gradient of ones gives dx = 0.

    Code without the last term of eq. 5.16 gives zero as well, and would pass.
    """
    y, cache = batch_norm2d_forward(**norm_inputs(), **statistics(), train=True)
    for backward in (batch_norm2d_backward, through_the_mean_only):
        dx, _, _ = backward(np.ones_like(y), cache)
        assert np.abs(dx).max() < 1e-14


# --- batch normalisation against torch


def norm_results(train, steps=3):
    """Ours and torch's after ``steps`` batches: (last result, running statistics) of each."""
    ours = statistics()
    theirs = {name: torch.tensor(value) for name, value in ours.items()}
    for _ in range(steps):
        inputs = norm_inputs()
        y, cache = batch_norm2d_forward(**inputs, **ours, train=train)
        leaves = {name: torch.tensor(a, requires_grad=True) for name, a in inputs.items()}
        want = F.batch_norm(
            leaves["x"], *theirs.values(), leaves["weight"], leaves["bias"], training=train
        )
    dy = RNG.standard_normal(y.shape)
    want.backward(torch.tensor(dy))
    grads = dict(zip(inputs, batch_norm2d_backward(dy, cache), strict=True))
    reference = Result(want, 0.0, {name: leaf.grad for name, leaf in leaves.items()})
    return (Result(y, 0.0, grads), ours), (reference, theirs)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_torch_running_statistics_included(train):
    (got, ours), (want, theirs) = norm_results(train)
    assert_parity(got, want, tol=1e-12)
    assert_same(ours, theirs, tol=1e-13)


def divided_by_m_in_the_running_variance(x, statistic):
    m = B * H * W
    statistic["running_var"] -= 0.1 * x.var(axis=(0, 2, 3)) / (m - 1)


def momentum_the_other_way_round(x, statistic):
    old = (statistic["running_mean"] - 0.1 * x.mean(axis=(0, 2, 3))) / 0.9
    statistic["running_mean"][...] = 0.1 * old + 0.9 * x.mean(axis=(0, 2, 3))


@pytest.mark.parametrize(
    "fault", [divided_by_m_in_the_running_variance, momentum_the_other_way_round]
)
def test_sabotaged_running_statistics_are_noticed(fault):
    ours, inputs = statistics(), norm_inputs()
    theirs = {name: torch.tensor(value) for name, value in ours.items()}
    batch_norm2d_forward(**inputs, **ours, train=True)
    F.batch_norm(torch.tensor(inputs["x"]), *theirs.values(), training=True)
    assert_same(ours, theirs, tol=1e-13)
    fault(inputs["x"], ours)
    with pytest.raises(ParityError, match="running"):
        assert_same(ours, theirs, tol=1e-13)


# --- properties of batch normalisation


def test_every_channel_has_mean_bias_and_deviation_weight():
    inputs = norm_inputs()
    y, _ = batch_norm2d_forward(**inputs, **statistics(), train=True, eps=0.0)
    assert np.allclose(y.mean(axis=(0, 2, 3)), inputs["bias"], rtol=0, atol=1e-12)
    assert np.allclose(y.std(axis=(0, 2, 3)), np.abs(inputs["weight"]), rtol=0, atol=1e-12)


def test_scale_and_shift_of_the_input_change_nothing():
    """Equations 5.8 and 5.9: why convolutions here have no bias."""
    inputs = norm_inputs()
    y, _ = batch_norm2d_forward(**inputs, **statistics(), train=True, eps=0.0)
    inputs["x"] = 7 * inputs["x"] + RNG.standard_normal(C)[:, None, None]
    again, _ = batch_norm2d_forward(**inputs, **statistics(), train=True, eps=0.0)
    assert np.allclose(y, again, rtol=0, atol=1e-12)


def test_unless_told_to_train_batch_normalisation_uses_the_running_statistics():
    inputs, running = norm_inputs(), statistics()
    before = {name: value.copy() for name, value in running.items()}
    y, _ = batch_norm2d_forward(**inputs, **running)
    want, _ = batch_norm2d_forward(**inputs, **before, train=False)
    assert np.array_equal(y, want)
    assert all(np.array_equal(before[name], value) for name, value in running.items())


def test_running_statistics_arrive_at_those_of_the_data():
    running = {"running_mean": np.zeros(C), "running_var": np.ones(C)}
    mean, std = np.arange(C, dtype=float), 1 + np.arange(C, dtype=float)
    rng = np.random.default_rng(1)
    for _ in range(200):
        x = mean[:, None, None] + std[:, None, None] * rng.standard_normal((16, C, 4, 4))
        batch_norm2d_forward(x, np.ones(C), np.zeros(C), **running, train=True)
    assert np.abs(running["running_mean"] / std - mean / std).max() < 0.1
    assert np.abs(running["running_var"] / std**2 - 1).max() < 0.1


def test_without_train_an_image_does_not_depend_on_its_neighbours():
    model = ResNet(ResNetConfig(8), np.random.default_rng(0))
    perturb(model.state())
    x = RNG.standard_normal((4, 3, 8, 8))
    before = {name: value.copy() for name, value in model.buffers.items()}
    alone = np.concatenate([model.forward(x[i : i + 1]) for i in range(4)])
    assert np.allclose(model.forward(x), alone, rtol=0, atol=1e-12)
    assert all(np.array_equal(before[name], value) for name, value in model.buffers.items())
    assert not np.allclose(model.forward(x, train=True), model.forward(x[:2], train=True)[:1])


# --- the block and the network


def test_the_shortcut_is_the_identity_where_sizes_agree():
    x = RNG.standard_normal((B, C, H, W))
    y, _ = zero_padded_shortcut_forward(x, C, 1)
    assert y is x
    y, _ = zero_padded_shortcut_forward(x, 7, 2)
    assert y.shape == (B, 7, 3, 1)
    assert np.array_equal(y[:, :C], x[:, :, ::2, ::2]) and not y[:, C:].any()


def test_a_block_with_a_silent_branch_hands_its_input_on():
    """If the last batch normalisation is zero, what is left is ReLU of the shortcut."""
    x, p, running = block_case(stride=1, Co=C)
    p["bn2.weight"], p["bn2.bias"] = np.zeros(C), np.zeros(C)
    y, _ = basic_block_forward(x, p, running, 1, train=True)
    assert np.array_equal(y, np.maximum(x, 0))
    y, _ = basic_block_forward(x, p, running, 1, train=True, residual=False)
    assert not y.any()


# Table 6 of the paper gives 0.27 M for 20 layers, 0.46, 0.66, 0.85 and 1.7 M for 32 to 110.
PARAMETERS = {8: 75_290, 20: 269_722, 32: 464_154, 56: 853_018}


@pytest.mark.parametrize(("depth", "count"), PARAMETERS.items())
def test_parameter_counts(depth, count):
    for residual in (True, False):  # option A has no parameters of its own
        model = ResNet(ResNetConfig(depth, residual), np.random.default_rng(0))
        assert sum(p.size for p in model.params.values()) == count


def test_stages_halve_the_map_and_double_the_channels():
    model = ResNet(ResNetConfig(20), np.random.default_rng(0))
    shapes = []
    x = RNG.standard_normal((2, 16, 32, 32))
    for name, _, _, stride in model.config.blocks():
        p = {n.removeprefix(name): v for n, v in model.params.items() if n.startswith(name)}
        s = {n.removeprefix(name): v for n, v in model.buffers.items() if n.startswith(name)}
        x, _ = basic_block_forward(x, p, s, stride, train=False)
        shapes.append(x.shape[1:])
    assert shapes == 3 * [(16, 32, 32)] + 3 * [(32, 16, 16)] + 3 * [(64, 8, 8)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_input(dtype):
    model = ResNet(ResNetConfig(8), np.random.default_rng(0), dtype)
    logits = model.forward(RNG.random((2, 3, 8, 8)).astype(dtype), train=True)
    _, cache = softmax_cross_entropy_forward(logits, np.array([3, 1]))
    grads = model.backward(softmax_cross_entropy_backward(cache))
    assert logits.dtype == dtype
    assert {g.dtype for g in grads.values()} == {np.dtype(dtype)}
    kinds = {b.dtype for n, b in model.buffers.items() if not n.endswith("tracked")}
    assert kinds == {np.dtype(dtype)}


def test_initialisation():
    """He's deviation by the inputs of an output, gains 1, biases 0, statistics 0 and 1."""
    config = ResNetConfig(8)
    model = ResNet(config, np.random.default_rng(0))
    assert_same(model.state(), ResNet(config, np.random.default_rng(0)).state(), tol=0.0)
    for name, value in model.state().items():
        if "conv" in name or name == "fc.weight":
            want = 0.01 if name == "fc.weight" else np.sqrt(2 / value[0].size)
            assert abs(value.std() / want - 1) < 0.1 and abs(value.mean() / want) < 0.1, name
        else:
            ones = name.endswith(("running_var", ".weight"))
            assert (value == float(ones)).all(), name


def test_the_usual_network_is_the_papers_smallest():
    config = ResNetConfig()
    assert (config.depth, config.residual, config.classes, config.channels) == (20, True, 10, 3)


def test_batches_are_counted_in_training_alone():
    model = ResNet(ResNetConfig(8), np.random.default_rng(0))
    for train in (True, False, True):
        model.forward(RNG.standard_normal((2, 3, 8, 8)), train)
    counts = [v for n, v in model.buffers.items() if n.endswith("num_batches_tracked")]
    assert len(counts) == 7 and all(count == 2 for count in counts)


def test_initial_loss_is_that_of_guessing():
    model = ResNet(ResNetConfig(20), np.random.default_rng(0))
    logits = model.forward(RNG.standard_normal((32, 3, 16, 16)), train=True)
    loss, _ = softmax_cross_entropy_forward(logits, RNG.integers(10, size=32))
    assert abs(loss - np.log(10)) < 0.05


@pytest.mark.parametrize("residual", [True, False])
def test_overfits_one_batch(residual):
    rng = np.random.default_rng(0)
    model = ResNet(ResNetConfig(8, residual), rng, np.float32)
    optimizer = SGD(model.params, lr=0.05, momentum=0.9)
    x, targets = rng.random((16, 3, 8, 8), dtype=np.float32), rng.integers(10, size=16)
    for _ in range(40):
        loss, cache = softmax_cross_entropy_forward(model.forward(x, train=True), targets)
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
    assert loss < 0.02


def test_backward_needs_forward():
    with pytest.raises(RuntimeError, match="expected forward before backward"):
        ResNet(ResNetConfig(8), np.random.default_rng(0)).backward(np.zeros((2, 10)))


# --- images


def test_augmented_images_are_crops_or_their_mirror_images():
    """Every image draws its own of the 162 cases, rows apart from columns; half are mirrored."""
    images = RNG.random((2000, 3, 6, 7))
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    changed = augment(images, np.random.default_rng(0))
    counts = np.zeros((2, 9, 9), int)
    for top in range(9):
        for left in range(9):
            crop = padded[:, :, top : top + 6, left : left + 7]
            for mirrored, want in ((0, crop), (1, crop[..., ::-1])):
                counts[mirrored, top, left] = (changed == want).all(axis=(1, 2, 3)).sum()
    assert counts.sum() == 2000 and counts.min() > 0
    assert 900 < counts[1].sum() < 1100
    assert np.array_equal(changed, augment(images, np.random.default_rng(0)))


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResNetConfig(18), "expected a depth of 6n [+] 2, such as 8 or 20, got 18"),
        (lambda: ResNetConfig(2), "expected a depth of 6n [+] 2, such as 8 or 20, got 2"),
        (lambda: ResNetConfig(classes=0), "expected positive classes and channels, got 0 and 3"),
        (lambda: ResNetConfig(channels=0), "expected positive classes and channels, got 10 and 0"),
        (
            lambda: ResNet(ResNetConfig(8), RNG).forward(np.zeros((8, 1, 28, 28))),
            r"expected images \(B, 3, H, W\), got \(8, 1, 28, 28\)",
        ),
        (
            lambda: ResNet(ResNetConfig(8), RNG).forward(np.zeros((8, 3, 28))),
            r"expected images \(B, 3, H, W\), got \(8, 3, 28\)",
        ),
        (
            lambda: batch_norm2d_forward(np.zeros((2, 3)), *4 * [np.ones(3)]),
            r"expected images \(B, 3, H, W\), got \(2, 3\)",
        ),
        (
            lambda: batch_norm2d_forward(
                np.zeros((2, 3, 4, 4)), np.ones(5), np.ones(5), np.ones(5), np.ones(5)
            ),
            r"expected images \(B, 5, H, W\), got \(2, 3, 4, 4\)",
        ),
        (
            lambda: batch_norm2d_forward(
                np.zeros((1, 3, 1, 1)), np.ones(3), np.ones(3), np.ones(3), np.ones(3), train=True
            ),
            "expected more than one number a channel in training",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
