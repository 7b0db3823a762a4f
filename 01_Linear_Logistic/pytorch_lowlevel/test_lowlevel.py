"""Tests of level 2: leaves, equality with level 1, torch's own losses, scikit-learn."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import datasets, linear_model

import linear_lowlevel
import linear_numpy
import logistic_lowlevel
import logistic_numpy
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_same,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, load_weights, save_weights, to_torch

B, D, K = 6, 5, 4

# name: L1 model, L1 loss pair, L2 module, L2 configuration, L2 loss
CASES = {
    "linear": (
        lambda rng: linear_numpy.LinearRegression(linear_numpy.LinearConfig(D, K), rng),
        (linear_numpy.squared_error_forward, linear_numpy.squared_error_backward),
        linear_lowlevel,
        linear_lowlevel.LinearConfig(D, K),
        linear_lowlevel.squared_error,
    ),
    "logistic": (
        lambda rng: logistic_numpy.LogisticRegression(logistic_numpy.LogisticConfig(D), rng),
        (logistic_numpy.logistic_loss_forward, logistic_numpy.logistic_loss_backward),
        logistic_lowlevel,
        logistic_lowlevel.LogisticConfig(D),
        logistic_lowlevel.logistic_loss,
    ),
    "softmax": (
        lambda rng: logistic_numpy.SoftmaxRegression(logistic_numpy.SoftmaxConfig(D, K), rng),
        (logistic_numpy.softmax_loss_forward, logistic_numpy.softmax_loss_backward),
        logistic_lowlevel,
        logistic_lowlevel.LogisticConfig(D, K),
        logistic_lowlevel.softmax_loss,
    ),
}


def batch(name, seed=1):
    """x (B, D) and targets as the model wants them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((B, D))
    if name == "linear":
        return x, rng.standard_normal((B, K))
    return x, rng.integers(2 if name == "logistic" else K, size=B)


def numpy_pass(name, model, x, y):
    loss_forward, loss_backward = CASES[name][1]
    outputs = model.forward(x)
    loss, cache = loss_forward(outputs, y)
    return Result(outputs, loss, model.backward(loss_backward(cache)))


def lowlevel_pass(name, params, x, y, loss_function=None):
    """One forward and backward pass of level 2; leaves no gradients behind."""
    level = CASES[name][2]
    outputs = level.forward(params, torch.from_numpy(x))
    loss = (loss_function or CASES[name][4])(outputs, torch.from_numpy(y))
    grads = torch.autograd.grad(loss, list(params.values()))
    return Result(outputs, loss, dict(zip(params, grads, strict=True)))


def pair(name):
    """The same perturbed weights in both levels."""
    model = CASES[name][0](np.random.default_rng(0))
    perturb(model.params)
    return model, to_torch(model.params, requires_grad=True)


# --- leaves


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_is_a_leaf_and_receives_a_gradient(name):
    *_, level, config, loss_function = CASES[name]
    params = level.init_params(config, torch.Generator().manual_seed(0), torch.float64)
    x, y = (torch.from_numpy(a) for a in batch(name))
    loss_function(level.forward(params, x), y).backward()
    assert set(params) == {"weight", "bias"}
    for parameter in params.values():
        assert parameter.is_leaf and parameter.requires_grad
        assert parameter.grad is not None and parameter.grad.abs().min() > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("name", CASES)
def test_the_classic_mistake_leaves_a_weight_without_a_gradient(name):
    *_, level, config, loss_function = CASES[name]
    params = level.init_params(config, dtype=torch.float64)
    shape = params["weight"].shape
    params["weight"] = torch.randn(shape, requires_grad=True, dtype=torch.float64) * 0.01
    x, y = (torch.from_numpy(a) for a in batch(name))
    loss_function(level.forward(params, x), y).backward()  # no error, no warning
    assert not params["weight"].is_leaf and params["weight"].grad is None
    with pytest.raises(ValueError, match="expected a gradient of weight, got none: is it a leaf"):
        level.gradient_step(params, lr=0.1)


@pytest.mark.parametrize("name", CASES)
def test_initial_weights_are_small_and_follow_the_seed(name):
    *_, level, config, _ = CASES[name]
    first, again, other = (
        level.init_params(config, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first["weight"], again["weight"])
    assert not torch.equal(first["weight"], other["weight"])
    assert 0 < first["weight"].abs().max() < 0.1 and (first["bias"] == 0).all()


# --- equal to level 1


@pytest.mark.parametrize("name", CASES)
def test_parity_with_level_1(name):
    model, params = pair(name)
    x, y = batch(name)
    assert_parity(lowlevel_pass(name, params, x, y), numpy_pass(name, model, x, y))


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_have_the_losses_of_level_1(name):
    model, params = pair(name)
    loss_pair, level = CASES[name][1], CASES[name][2]
    got, want = [], []
    for step in range(10):
        x, y = batch(name, seed=step)
        want += linear_numpy.gradient_descent(model, *loss_pair, x, y, lr=0.1, steps=1)
        got.append(level.train_step(params, torch.from_numpy(x), torch.from_numpy(y), lr=0.1))
    assert_trajectory(got, want)
    assert_same(params, model.params)


def test_least_squares_equal_level_1():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, D)), rng.standard_normal((20, K))
    got = linear_lowlevel.solve_least_squares(torch.from_numpy(x), torch.from_numpy(y))
    assert_same(got, linear_numpy.solve_least_squares(x, y))


def test_a_saved_file_loads_in_the_other_level(tmp_path):
    model, params = pair("softmax")
    perturb(params, seed=5)
    load_into(model.params, load_weights(save_weights(tmp_path / "w.safetensors", params)))
    assert_same(model.params, params)


# --- equal to torch's own functions


def test_losses_and_gradients_equal_torch():
    functional = torch.nn.functional
    references = {
        # torch's mean is over all B * K numbers, and has no factor 1/2.
        "linear": lambda outputs, y: functional.mse_loss(outputs, y) * K / 2,
        "logistic": lambda z, y: functional.binary_cross_entropy_with_logits(z[:, 0], y.double()),
        "softmax": functional.cross_entropy,
    }
    for name, reference in references.items():
        _, params = pair(name)
        x, y = batch(name)
        assert_parity(
            lowlevel_pass(name, params, x, y), lowlevel_pass(name, params, x, y, reference), 1e-12
        )


def test_losses_and_gradients_at_the_extremes():
    z = torch.tensor([[1e4], [-1e4], [0.0], [-1e4]], requires_grad=True)
    loss = logistic_lowlevel.logistic_loss(z, torch.tensor([1, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx((np.log(2) + 1e4) / 4)
    assert z.grad.ravel().tolist() == [0.0, 0.0, -0.125, -0.25]
    logits = torch.tensor([[1e4, -1e4, 0], [1e4, -1e4, 0]], requires_grad=True)
    loss = logistic_lowlevel.softmax_loss(logits, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 10000.0
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0], [0.5, -0.5, 0.0]]


# --- against scikit-learn


def test_diabetes_and_breast_cancer_equal_scikit_learn():
    x, y = datasets.load_diabetes(return_X_y=True)
    reference = linear_model.LinearRegression().fit(x, y)
    got = linear_lowlevel.solve_least_squares(torch.from_numpy(x), torch.from_numpy(y)[:, None])
    assert max_difference(got["weight"], reference.coef_[None]) < 1e-9
    assert max_difference(got["bias"], np.array([reference.intercept_])) < 1e-9

    # Three features for which the classes overlap (theory.md, section 10).
    x, labels = datasets.load_breast_cancer(return_X_y=True)
    (x,) = linear_numpy.standardise(x[:, [0, 1, 4]])
    params = logistic_lowlevel.init_params(logistic_lowlevel.LogisticConfig(3), dtype=torch.float64)
    for _ in range(1500):
        logistic_lowlevel.train_step(params, torch.from_numpy(x), torch.from_numpy(labels), lr=2.0)
    reference = linear_model.LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-12)
    reference.fit(x, labels)
    assert max_difference(params["weight"], reference.coef_) < 1e-6
    assert max_difference(params["bias"], reference.intercept_) < 1e-6
    predicted = logistic_lowlevel.predict(params, torch.from_numpy(x))
    assert (predicted.numpy() == reference.predict(x)).all()


# --- sabotage: named faults that the comparison must catch


def naive_logistic_loss(logits, labels):
    """The right value, but at z = 0 autograd takes 0 for the slope of relu(z) and of |z|."""
    z = logits[:, 0]
    return (torch.relu(z) - labels * z + torch.log1p(torch.exp(-z.abs()))).mean()


SABOTAGE = {
    "sum_instead_of_mean": ("softmax", lambda z, y: B * logistic_lowlevel.softmax_loss(z, y)),
    "no_factor_one_half": ("linear", lambda z, y: 2 * linear_lowlevel.squared_error(z, y)),
    "mean_over_outputs_too": ("linear", lambda z, y: 0.5 * (z - y).square().mean()),
    "softmax_over_the_batch": (
        "softmax",
        lambda z, y: -torch.log_softmax(z, dim=0)[torch.arange(B), y].mean(),
    ),
    "shift_inside_the_sum_only": (
        "softmax",
        lambda z, y: (torch.logsumexp(z - z.amax(1, True), 1) - z[torch.arange(B), y]).mean(),
    ),
}


@pytest.mark.parametrize("fault", SABOTAGE)
def test_sabotage_is_noticed(fault):
    name, loss_function = SABOTAGE[fault]
    model, params = pair(name)
    x, y = batch(name)
    with pytest.raises(ParityError):
        assert_parity(
            lowlevel_pass(name, params, x, y, loss_function), numpy_pass(name, model, x, y)
        )


def test_sabotage_a_kink_at_logit_zero_is_noticed_at_zero_weights():
    model, params = pair("logistic")
    x, y = batch("logistic")
    for weights in (model.params, params):
        load_into(weights, {"weight": np.zeros((1, D)), "bias": np.zeros(1)})
    want = numpy_pass("logistic", model, x, y)
    assert_parity(lowlevel_pass("logistic", params, x, y), want)
    with pytest.raises(ParityError, match="gradient of weight"):
        assert_parity(lowlevel_pass("logistic", params, x, y, naive_logistic_loss), want)


def test_sabotage_gradients_that_are_never_cleared_are_noticed_in_the_second_step():
    model, params = pair("softmax")
    x, y = batch("softmax")
    want = linear_numpy.gradient_descent(model, *CASES["softmax"][1], x, y, lr=0.1, steps=3)
    got = []
    for _ in range(3):
        loss = logistic_lowlevel.softmax_loss(
            logistic_lowlevel.forward(params, torch.from_numpy(x)), torch.from_numpy(y)
        )
        loss.backward()  # no parameter.grad = None before it
        logistic_lowlevel.gradient_step(params, lr=0.1)
        got.append(loss)
    with pytest.raises(ParityError, match="loss at step 3"):
        assert_trajectory(got, want)


# --- the training script


@pytest.mark.parametrize("model", ["linear", "logistic", "softmax"])
def test_training_script(model, tmp_path):
    main = runpy.run_path(str(Path(__file__).with_name("train.py")))["main"]
    main(["--model", model, "--epochs", "2", "--out", str(tmp_path)])
    (summary,) = tmp_path.rglob("summary.json")
    values = json.loads(summary.read_text())
    assert values["model"] == model and values["parameters"] > 10
    assert {path.name for path in summary.parent.iterdir()} >= {"model.safetensors", "loss.png"}


def test_training_script_refuses_data_that_do_not_fit(tmp_path, capsys):
    main = runpy.run_path(str(Path(__file__).with_name("train.py")))["main"]
    with pytest.raises(SystemExit):
        main(["--model", "logistic", "--data", "iris", "--out", str(tmp_path)])
    assert (
        "--model logistic is trained on breast-cancer, got --data iris" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


# --- bad input


def test_bad_input():
    params = linear_lowlevel.init_params(linear_lowlevel.LinearConfig(D, K))
    for level in (linear_lowlevel, logistic_lowlevel):
        with pytest.raises(ValueError, match=r"expected x \(B, 5\), got \(8, 3\)"):
            level.forward(params, torch.zeros(8, 3))
    with pytest.raises(ValueError, match=r"expected targets \(8, 1\), got \(8,\)"):
        linear_lowlevel.squared_error(torch.zeros(8, 1), torch.zeros(8))
    with pytest.raises(ValueError, match=r"expected logits \(B, 1\), got \(8, 2\)"):
        logistic_lowlevel.logistic_loss(torch.zeros(8, 2), torch.zeros(8).long())
    with pytest.raises(ValueError, match=r"expected logits \(B, K\), got \(8,\)"):
        logistic_lowlevel.softmax_loss(torch.zeros(8), torch.zeros(8).long())
    with pytest.raises(ValueError, match=r"expected labels \(8,\), got \(7,\)"):
        logistic_lowlevel.softmax_loss(torch.zeros(8, 2), torch.zeros(7).long())
    with pytest.raises(ValueError, match=r"integer dtype, got torch\.float32"):
        logistic_lowlevel.logistic_loss(torch.zeros(8, 1), torch.zeros(8))
    with pytest.raises(ValueError, match=r"expected labels in 0 \.\.\. 1, got 0 \.\.\. 2"):
        logistic_lowlevel.softmax_loss(torch.zeros(3, 2), torch.arange(3))
    for config in (linear_lowlevel.LinearConfig, logistic_lowlevel.LogisticConfig):
        with pytest.raises(ValueError, match="got features=3, outputs=0"):
            config(3, 0)


def test_bad_least_squares():
    x, y = torch.randn(9, 3), torch.randn(9, 1)
    with pytest.raises(ValueError, match=r"got \(9, 3\), \(9,\)"):
        linear_lowlevel.solve_least_squares(x, y[:, 0])
    with pytest.raises(ValueError, match="more examples than the 3 features, got 2"):
        linear_lowlevel.solve_least_squares(x[:2], y[:2])
    with pytest.raises(ValueError, match="linearly independent"):
        linear_lowlevel.solve_least_squares(torch.cat([x, x[:, :1]], dim=1), y)
