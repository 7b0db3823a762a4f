"""Tests of level 1: each backward pass against central differences, update rules, the whole MLP."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlp_numpy import (
    ACTIVATIONS,
    MLP,
    MLPConfig,
    dropout_backward,
    dropout_forward,
    gelu_forward,
    gelu_tanh_forward,
    glorot_uniform,
    he_normal,
    linear_backward,
    linear_forward,
    relu_forward,
    sigmoid_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from optimizers_numpy import SGD, Adam, AdamW
from utils.gradient_check import GradientMismatch, check_backward, check_model
from utils.parity import max_difference, perturb
from utils.weights import load_into

RNG = np.random.default_rng(0)


def away_from_zero(*shape):
    """Random numbers at least 0.1 from 0, where ReLU has its kink."""
    x = RNG.standard_normal(shape)
    return x + 0.1 * np.sign(x)


# --- gradients, by central differences


@pytest.mark.parametrize("lead", [(2,), (2, 5), (2, 5, 7)])
def test_linear_gradients(lead):
    inputs = {
        "x": RNG.standard_normal((*lead, 3)),
        "weight": RNG.standard_normal((4, 3)),
        "bias": RNG.standard_normal(4),
    }
    check_backward(linear_forward, linear_backward, inputs)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_gradients(name):
    forward, backward = ACTIVATIONS[name]
    check_backward(forward, backward, {"x": 2 * away_from_zero(3, 4, 5)})


def test_dropout_gradient():
    def forward(x):
        return dropout_forward(x, 0.4, np.random.default_rng(3), train=True)

    check_backward(forward, dropout_backward, {"x": RNG.standard_normal((5, 6))})


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_gradient(label_smoothing):
    targets = np.array([0, 2, 2, 1, 3])
    check_backward(
        lambda logits: softmax_cross_entropy_forward(logits, targets, label_smoothing),
        softmax_cross_entropy_backward,
        {"logits": 3 * RNG.standard_normal((5, 4))},
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_model_gradients(activation):
    config = MLPConfig((5, 7, 6, 4), activation, "sigmoid", dropout=0.3)
    model = MLP(config, np.random.default_rng(1))
    perturb(model.params)

    class FixedDropout:
        params = model.params

        def forward(self, x):
            return model.forward(x, train=True, rng=np.random.default_rng(2))

        def backward(self, dy):
            return model.backward(dy)

    check_model(FixedDropout(), RNG.standard_normal((3, 5)))


def test_the_gradient_check_can_fail():
    def transposed(dy, cache):
        dx, dweight, dbias = linear_backward(dy, cache)
        return dx, dweight.T, dbias

    def no_mask(dy, cache):
        return dy

    square = {"x": RNG.standard_normal((2, 3)), "weight": np.eye(3), "bias": np.zeros(3)}
    with pytest.raises(GradientMismatch, match="dweight"):
        check_backward(linear_forward, transposed, square)
    with pytest.raises(GradientMismatch, match="dx"):
        check_backward(relu_forward, no_mask, {"x": away_from_zero(4, 5)})


# --- values


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_torch(name):
    x = 4 * RNG.standard_normal((6, 7))
    reference = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": torch.nn.functional.leaky_relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda t: torch.nn.functional.gelu(t, approximate="tanh"),
    }[name]
    y, _ = ACTIVATIONS[name][0](x)
    assert max_difference(y, reference(torch.from_numpy(x))) < 1e-13


def test_the_two_gelus_differ():
    x = np.linspace(-4, 4, 801)
    difference = np.abs(gelu_forward(x)[0] - gelu_tanh_forward(x)[0]).max()
    assert 1e-4 < difference < 5e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_input(dtype):
    model = MLP(MLPConfig((5, 7, 4), "gelu", dropout=0.5), np.random.default_rng(0), dtype)
    x = RNG.standard_normal((3, 5)).astype(dtype)
    logits = model.forward(x, train=True, rng=np.random.default_rng(0))
    loss, cache = softmax_cross_entropy_forward(logits, np.array([0, 1, 2]))
    grads = model.backward(softmax_cross_entropy_backward(cache))
    assert logits.dtype == dtype and np.asarray(loss).dtype == dtype
    assert {g.dtype for g in grads.values()} == {np.dtype(dtype)}


@given(arrays(np.float64, (3, 4), elements=st.floats(-1e4, 1e4)))
def test_loss_is_finite_for_any_logits(logits):
    loss, cache = softmax_cross_entropy_forward(logits, np.array([0, 1, 3]))
    grad = softmax_cross_entropy_backward(cache)
    assert np.isfinite(loss) and loss >= 0
    assert np.isfinite(grad).all()
    # Each row of softmax minus target sums to zero: shifting all logits changes nothing.
    assert np.abs(grad.sum(axis=1)).max() < 1e-12


# --- properties


def test_dropout_keeps_the_mean_and_does_nothing_at_test_time():
    x = np.ones((200, 500))
    y, _ = dropout_forward(x, 0.3, np.random.default_rng(0), train=True)
    assert abs((y == 0).mean() - 0.3) < 0.01
    assert abs(y.mean() - 1) < 0.01
    unchanged, cache = dropout_forward(x, 0.3)
    assert unchanged is x and dropout_backward(x, cache) is x


def test_dropout_acts_only_in_training():
    model = MLP(MLPConfig((5, 50, 4), dropout=0.5), np.random.default_rng(0))
    x = RNG.standard_normal((3, 5))
    test_time = model.forward(x)
    assert np.array_equal(test_time, model.forward(x))
    assert not np.allclose(test_time, model.forward(x, train=True, rng=np.random.default_rng(0)))


def test_initial_loss_is_that_of_guessing():
    config = MLPConfig((20, 50, 10))
    model = MLP(config, np.random.default_rng(0))
    model.params["layers.1.weight"] *= 0.01
    logits = model.forward(RNG.standard_normal((256, 20)))
    loss, _ = softmax_cross_entropy_forward(logits, RNG.integers(10, size=256))
    assert abs(loss - np.log(10)) < 0.05


@pytest.mark.parametrize(("initial", "activation"), [(glorot_uniform, "tanh"), (he_normal, "relu")])
def test_initialisation_keeps_the_size_of_the_signal(initial, activation):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 300))
    before = np.square(x).mean()
    for _ in range(5):
        x, _ = linear_forward(x, initial((300, 300), rng), np.zeros(300))
        signal = np.square(x).mean()
        x, _ = ACTIVATIONS[activation][0](x)
    # Twice the mean square for ReLU, which halves it; tanh shrinks it a little with each layer.
    low, high = (1.4, 2.8) if activation == "relu" else (0.1, 1.0)
    assert low < signal / before < high


def test_initialisation_variances():
    rng = np.random.default_rng(0)
    assert abs(glorot_uniform((400, 600), rng).var() / (2 / 1000) - 1) < 0.02
    assert abs(he_normal((400, 600), rng).var() / (2 / 600) - 1) < 0.02


def test_overfits_one_batch():
    rng = np.random.default_rng(0)
    model = MLP(MLPConfig((8, 32, 5)), rng)
    optimizer = Adam(model.params, lr=0.01)
    x, targets = rng.standard_normal((16, 8)), rng.integers(5, size=16)
    for _ in range(300):
        loss, cache = softmax_cross_entropy_forward(model.forward(x), targets)
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
    assert loss < 0.01


# --- update rules against torch.optim: 100 steps in float64

OPTIMISERS = {
    "sgd": (lambda p: SGD(p, 0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "momentum": (
        lambda p: SGD(p, 0.05, momentum=0.9),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    ),
    "momentum with L2": (
        lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
    ),
    "adam": (lambda p: Adam(p, 0.02), lambda p: torch.optim.Adam(p, 0.02)),
    "adam with L2": (
        lambda p: Adam(p, 0.02, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.02, weight_decay=0.1),
    ),
    "adam, other betas": (
        lambda p: Adam(p, 0.02, betas=(0.8, 0.98), eps=1e-4),
        lambda p: torch.optim.Adam(p, 0.02, betas=(0.8, 0.98), eps=1e-4),
    ),
    "adamw": (
        lambda p: AdamW(p, 0.02, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.1),
    ),
    "adamw by default": (lambda p: AdamW(p, 0.02), lambda p: torch.optim.AdamW(p, 0.02)),
}


def hundred_steps(ours, theirs):
    """Largest difference of the parameters over 100 steps on random gradients."""
    rng = np.random.default_rng(4)
    params = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(5)}
    tensors = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}
    optimizer, reference = ours(params), theirs(list(tensors.values()))
    worst = 0.0
    for step in range(100):
        lr = optimizer.lr if step < 50 else 0.01  # a rate changed on the way
        optimizer.lr = reference.param_groups[0]["lr"] = lr
        grads = {n: rng.standard_normal(p.shape) + 0.3 * p for n, p in params.items()}
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(grads[name].copy())
        optimizer.step(grads)
        reference.step()
        worst = max(worst, *(max_difference(params[n], tensors[n]) for n in params))
    return worst


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser_equals_torch_for_100_steps(name):
    assert hundred_steps(*OPTIMISERS[name]) < 1e-12


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("adamw", "adam with L2"), ("adam with L2", "adamw"), ("sgd", "momentum")],
)
def test_the_comparison_of_optimisers_can_fail(ours, theirs):
    assert hundred_steps(OPTIMISERS[ours][0], OPTIMISERS[theirs][1]) > 1e-3


def test_optimisers_do_not_change_the_gradients():
    params = {"a": RNG.standard_normal(4)}
    grads = {"a": RNG.standard_normal(4)}
    kept = grads["a"].copy()
    for optimizer in (SGD(params, 0.1, 0.9, 0.1), Adam(params, weight_decay=0.1), AdamW(params)):
        optimizer.step(grads)
        assert np.array_equal(grads["a"], kept)


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLPConfig((5,)), r"expected at least two positive sizes, got \(5,\)"),
        (lambda: MLPConfig((5, 0)), r"expected at least two positive sizes, got \(5, 0\)"),
        (lambda: MLPConfig((5, 4), "swish"), "expected an activation of .*, got 'swish'"),
        (lambda: MLPConfig((5, 4), dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (
            lambda: linear_forward(np.ones((2, 3)), np.ones((4, 5)), np.ones(4)),
            r"expected inputs of width 5, got shape \(2, 3\)",
        ),
        (
            lambda: MLP(MLPConfig((5, 4)), RNG).forward(np.ones((2, 6))),
            r"expected inputs \(B, 5\), got \(2, 6\)",
        ),
        (
            lambda: softmax_cross_entropy_forward(np.ones((2, 3)), np.ones(3, dtype=int)),
            r"expected logits \(B, K\) and targets \(B,\), got \(2, 3\) and \(3,\)",
        ),
        (
            lambda: softmax_cross_entropy_forward(np.ones((2, 3)), np.array([0, 3])),
            "expected labels 0 to 2, got 0 to 3",
        ),
        (lambda: dropout_forward(np.ones(3), 0.5, train=True), "expected rng for dropout"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_the_gradient_at_the_kink_is_torchs(name):
    x = np.array([-1.0, -0.0, 0.0, 2.0])
    tensor = torch.from_numpy(x).requires_grad_()
    getattr(torch.nn.functional, name)(tensor).sum().backward()
    forward, backward = ACTIVATIONS[name]
    assert np.array_equal(backward(np.ones(4), forward(x)[1]), tensor.grad.numpy())


def test_dropout_acts_after_the_activation_of_hidden_units_and_not_on_the_outputs():
    model = MLP(MLPConfig((5, 6, 7, 4), "sigmoid", dropout=0.3), np.random.default_rng(0))
    h = x = RNG.standard_normal((3, 5))
    rng = np.random.default_rng(1)
    for i in range(3):
        h, _ = linear_forward(
            h, model.params[f"layers.{i}.weight"], model.params[f"layers.{i}.bias"]
        )
        if i < 2:
            h, _ = dropout_forward(sigmoid_forward(h)[0], 0.3, rng, train=True)
    assert np.array_equal(model.forward(x, train=True, rng=np.random.default_rng(1)), h)


def test_no_rng_is_needed_at_rate_zero():
    model = MLP(MLPConfig((5, 6, 4)), np.random.default_rng(0))
    x = RNG.standard_normal((3, 5))
    assert np.array_equal(model.forward(x, train=True), model.forward(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_new_model_has_the_initialisation_of_its_activation(activation):
    config = MLPConfig((600, 400, 400, 400), activation)
    params = MLP(config, np.random.default_rng(0)).params
    for i, (D, M) in enumerate([(600, 400), (400, 400), (400, 400)]):
        weight = params[f"layers.{i}.weight"]
        glorot = activation in ("sigmoid", "tanh")
        assert weight.shape == (M, D)
        assert abs(weight.var() * (D + M if glorot else D) / 2 - 1) < 0.02
        # a uniform distribution ends at sqrt(3) standard deviations; a normal one goes on
        assert (np.abs(weight).max() < 1.8 * weight.std()) == glorot
        assert not params[f"layers.{i}.bias"].any()
    assert not np.array_equal(params["layers.1.weight"], params["layers.2.weight"])
    again, other = (MLP(config, np.random.default_rng(seed)).params for seed in (0, 1))
    assert all(np.array_equal(params[name], again[name]) for name in params)
    assert not np.array_equal(params["layers.0.weight"], other["layers.0.weight"])


def test_he_counts_all_axes_but_the_first():
    weight = he_normal((200, 10, 5, 3), np.random.default_rng(0))  # a convolution's
    assert abs(weight.var() / (2 / 150) - 1) < 0.03


def test_defaults():
    assert MLPConfig() == MLPConfig((64, 128, 10), "relu", None, 0.0)
    params = {"a": np.ones(1)}
    for rule, decay in ((Adam, 0.0), (AdamW, 0.01)):
        o = rule(params)
        assert (o.lr, o.betas, o.eps, o.weight_decay) == (1e-3, (0.9, 0.999), 1e-8, decay)


@pytest.mark.parametrize(
    "make",
    [lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p, 0.1), lambda p: AdamW(p, 0.1)],
    ids=["momentum", "adam", "adamw"],
)
def test_state_holds_all_that_a_resumed_training_needs(make):
    """Five steps, then five by a new optimiser that got only ``state``: the same as ten."""
    grads = [{"a": RNG.standard_normal(4)} for _ in range(10)]
    whole, cut = {"a": np.ones(4)}, {"a": np.ones(4)}
    one, first = make(whole), make(cut)
    for g in grads:
        one.step(g)
    for g in grads[:5]:
        first.step(g)
    second = make(cut)
    load_into(second.state, {name: np.array(a) for name, a in first.state.items()})
    for g in grads[5:]:
        second.step(g)
    assert np.array_equal(cut["a"], whole["a"])


def test_a_training_in_float32_stays_in_float32():
    for make in (lambda p: SGD(p, 0.1, 0.9, 0.1), lambda p: Adam(p, weight_decay=0.1), AdamW):
        params = {"a": np.ones(4, dtype=np.float32)}
        optimizer = make(params)
        optimizer.step({"a": np.ones(4, dtype=np.float32)})
        assert params["a"].dtype == np.float32
        assert {s.dtype for n, s in optimizer.state.items() if n != "step"} == {
            np.dtype(np.float32)
        }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLPConfig((5, 4), dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (
            lambda: MLPConfig((5, 4), output_activation="swish"),
            "expected an activation of .*, got 'swish'",
        ),
        (
            lambda: MLP(MLPConfig((5, 4)), RNG).forward(np.ones(5)),
            r"expected inputs \(B, 5\), got \(5,\)",
        ),
        (
            lambda: MLP(MLPConfig((5, 4)), RNG).forward(np.ones((2, 3, 5))),
            r"\(B, 5\), got \(2, 3, 5\)",
        ),
        (
            lambda: softmax_cross_entropy_forward(np.ones((2, 3)), np.array([-1, 2])),
            "expected labels 0 to 2, got -1 to 2",
        ),
    ],
)
def test_bad_input_too(call, message):
    with pytest.raises(ValueError, match=message):
        call()
