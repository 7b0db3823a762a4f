"""Tests of level 3: equality with levels 1 and 2, Newton and the exact solutions, scikit-learn."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import datasets, linear_model

import linear_lowlevel
import linear_numpy
import linear_paper
import logistic_lowlevel
import logistic_numpy
import logistic_paper
from linear_paper import LinearConfig, LinearRegression, solve_normal_equations, solve_ridge
from logistic_paper import (
    LogisticConfig,
    LogisticRegression,
    NoMaximum,
    SoftmaxRegression,
    derivatives,
    fit_newton,
    newton_step,
)
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_same,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, load_weights, save_weights, to_numpy, to_torch

B, D, K = 6, 5, 4

MODELS = {
    "linear": lambda: LinearRegression(LinearConfig(D, K)),
    "logistic": lambda: LogisticRegression(LogisticConfig(D)),
    "softmax": lambda: SoftmaxRegression(LogisticConfig(D, K)),
}
LEVEL_1 = {
    "linear": (
        lambda: linear_numpy.LinearRegression(linear_numpy.LinearConfig(D, K), rng()),
        (linear_numpy.squared_error_forward, linear_numpy.squared_error_backward),
    ),
    "logistic": (
        lambda: logistic_numpy.LogisticRegression(logistic_numpy.LogisticConfig(D), rng()),
        (logistic_numpy.logistic_loss_forward, logistic_numpy.logistic_loss_backward),
    ),
    "softmax": (
        lambda: logistic_numpy.SoftmaxRegression(logistic_numpy.SoftmaxConfig(D, K), rng()),
        (logistic_numpy.softmax_loss_forward, logistic_numpy.softmax_loss_backward),
    ),
}
LEVEL_2 = {
    "linear": (linear_lowlevel, linear_lowlevel.squared_error),
    "logistic": (logistic_lowlevel, logistic_lowlevel.logistic_loss),
    "softmax": (logistic_lowlevel, logistic_lowlevel.softmax_loss),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def perturbed(name, seed=0):
    model = MODELS[name]().double()
    perturb(model, seed=seed)
    return model


def batch(name, seed=1, size=B):
    """x (B, D) and targets as the model wants them, as tensors."""
    generator = rng(seed)
    x = torch.from_numpy(generator.standard_normal((size, D)))
    if name == "linear":
        return x, torch.from_numpy(generator.standard_normal((size, K)))
    return x, torch.from_numpy(generator.integers(2 if name == "logistic" else K, size=size))


def loss_of(model):
    return (linear_paper if isinstance(model, LinearRegression) else logistic_paper).loss_function


def paper_pass(model, x, y):
    model.zero_grad()
    loss = loss_of(model)(model, (x, y))
    loss.backward()
    return Result(model(x), loss, {name: p.grad for name, p in model.named_parameters()})


def numpy_pass(name, weights, x, y):
    model = LEVEL_1[name][0]()
    load_into(model.params, weights)
    loss_forward, loss_backward = LEVEL_1[name][1]
    outputs = model.forward(x.numpy())
    loss, cache = loss_forward(outputs, y.numpy())
    return Result(outputs, loss, model.backward(loss_backward(cache)))


def lowlevel_pass(name, weights, x, y):
    level, loss_function = LEVEL_2[name]
    params = to_torch(weights, requires_grad=True)
    outputs = level.forward(params, x)
    loss = loss_function(outputs, y)
    loss.backward()
    return Result(outputs, loss, {key: value.grad for key, value in params.items()})


def table(name, columns=slice(None)):
    """All examples of one of scikit-learn's tables: standardised x (N, D), targets y; arrays."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return linear_numpy.standardise(x[:, columns])[0], y


# --- equal to levels 1 and 2


@pytest.mark.parametrize("name", MODELS)
def test_parity_with_levels_1_and_2(name):
    model = perturbed(name)
    x, y = batch(name)
    got = paper_pass(model, x, y)
    assert_parity(got, numpy_pass(name, model, x, y))
    assert_parity(got, lowlevel_pass(name, model, x, y))


@pytest.mark.parametrize("name", MODELS)
def test_ten_steps_have_the_losses_of_level_1(name):
    model = perturbed(name)
    mine = LEVEL_1[name][0]()
    load_into(mine.params, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    got, want = [], []
    for step in range(10):
        x, y = batch(name, seed=step)
        want += linear_numpy.gradient_descent(
            mine, *LEVEL_1[name][1], x.numpy(), y.numpy(), lr=0.1, steps=1
        )
        optimizer.zero_grad()
        loss = loss_of(model)(model, (x, y))
        loss.backward()
        optimizer.step()
        got.append(loss)
    assert_trajectory(got, want)
    assert_same(model, mine.params)


def test_a_saved_file_loads_in_every_level(tmp_path):
    model = perturbed("linear")
    loaded = load_weights(save_weights(tmp_path / "linear.safetensors", model))
    mine = LEVEL_1["linear"][0]()
    load_into(mine.params, loaded)
    other = perturbed("linear", seed=9)
    load_into(other, loaded)
    assert_same(mine.params, model)
    assert_same(other, model)


# --- least squares


def test_all_solutions_of_least_squares_agree():
    x, y = rng(0).standard_normal((30, D)), rng(1).standard_normal((30, K))
    want = linear_numpy.solve_least_squares(x, y)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    assert_same(solve_ridge(x, y), want, 1e-12)
    assert_same(solve_normal_equations(x, y), want, 1e-12)


def test_ridge_sets_the_gradient_of_its_loss_to_zero():
    x, y = batch("linear", size=30)
    model = MODELS["linear"]().double()
    model.load_state_dict(solve_ridge(x, y, ridge=3.0))
    linear_paper.loss_function(model, (x, y), ridge=3.0, examples=30).backward()
    assert model.weight.grad.abs().max() < 1e-14 and model.bias.grad.abs().max() < 1e-14


def test_ridge_shrinks_each_direction_by_its_own_factor():
    """theory.md, section 6: s^2 / (s^2 + alpha), for columns with mean zero."""
    x, y = batch("linear", size=30)
    x = x - x.mean(dim=0)
    _, s, vh = torch.linalg.svd(x, full_matrices=False)
    free = solve_ridge(x, y)["weight"] @ vh.T
    shrunk = solve_ridge(x, y, ridge=7.0)["weight"] @ vh.T
    assert max_difference(shrunk, free * s**2 / (s**2 + 7.0)) < 1e-12


def test_normal_equations_lose_twice_the_digits():
    first, second = rng(0).standard_normal((200, 1)), rng(1).standard_normal((200, 1))
    x = torch.from_numpy(np.hstack([first, first + 1e-7 * second]))
    true = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    y = x @ true.T + 3
    assert max_difference(solve_ridge(x, y)["weight"], true) < 1e-7
    assert max_difference(solve_normal_equations(x, y)["weight"], true) > 1e-4


@pytest.mark.parametrize("ridge", [0.0, 1.0, 100.0])
def test_diabetes_equals_scikit_learn(ridge):
    x, y = table("diabetes")
    reference = linear_model.Ridge(ridge) if ridge else linear_model.LinearRegression()
    reference.fit(x, y)
    got = solve_ridge(torch.from_numpy(x), torch.from_numpy(y)[:, None], ridge)
    assert max_difference(got["weight"], np.atleast_2d(reference.coef_)) < 1e-9
    assert max_difference(got["bias"], np.atleast_1d(reference.intercept_)) < 1e-9


# --- Newton's method


@pytest.mark.parametrize("name", ["logistic", "softmax"])
@pytest.mark.parametrize("ridge", [0.0, 2.5])
def test_derivatives_equal_autograd(name, ridge):
    model = perturbed(name)
    x, labels = batch(name, size=20)

    level, loss_function = LEVEL_2[name]

    def summed_loss(flat):
        theta = flat.reshape(model.out_features, D + 1)
        params = {"weight": theta[:, :-1], "bias": theta[:, -1]}
        data = 20 * loss_function(level.forward(params, x), labels)
        return data + 0.5 * ridge * params["weight"].square().sum()

    flat = torch.cat([model.weight, model.bias[:, None]], dim=1).detach().flatten()
    gradient, hessian = derivatives(model, x, labels, ridge)
    assert max_difference(gradient, torch.func.grad(summed_loss)(flat)) < 1e-12
    assert max_difference(hessian, torch.autograd.functional.hessian(summed_loss, flat)) < 1e-12


def test_a_newton_step_is_a_weighted_least_squares_fit():
    """eq. 1.33, solved by NumPy's lstsq instead of eq. 1.32."""
    model = perturbed("logistic")
    x, labels = batch("logistic", size=40)
    a = np.concatenate([x.numpy(), np.ones((40, 1))], axis=1)
    z = model(x).detach().numpy()[:, 0]
    p = logistic_numpy.sigmoid(z)
    s = p * (1 - p)
    working_response = z + (labels.numpy() - p) / s
    root = np.sqrt(s)
    theta, *_ = np.linalg.lstsq(root[:, None] * a, root * working_response, rcond=None)
    newton_step(model, x, labels)
    assert max_difference(model.weight[0], theta[:D]) < 1e-9
    assert max_difference(model.bias, theta[D:]) < 1e-9


def test_newton_doubles_the_right_digits_with_each_step():
    x, y = (torch.from_numpy(a) for a in table("breast_cancer", slice(0, 10)))
    best = LogisticRegression(LogisticConfig(10)).double()
    fit_newton(best, x, y)
    model = LogisticRegression(LogisticConfig(10)).double()
    errors = []
    for _ in range(9):
        newton_step(model, x, y)
        errors.append(max_difference(model.weight, best.weight))
    near = [e for e in errors if 1e-7 < e < 0.1]
    assert len(near) >= 2 and errors[-1] < 1e-9
    for before, after in zip(errors[:-1], errors[1:], strict=True):
        if 1e-7 < before < 0.1:
            assert after < 10 * before**2


def test_a_step_that_would_raise_the_loss_is_halved():
    x, labels = batch("logistic", size=60)
    model = MODELS["logistic"]().double()
    with torch.no_grad():  # far out the logits saturate: a flat parabola, its minimum far away
        model.weight.fill_(4.0)
    gradient, hessian = derivatives(model, x, labels)
    step = torch.linalg.solve(hessian, gradient)
    too_far = MODELS["logistic"]().double()
    load_into(too_far, {"weight": (4.0 - step[:D])[None], "bias": -step[D:]})
    before, after = (loss_of(m)(m, (x, labels)).item() for m in (model, too_far))
    assert after > before
    losses = fit_newton(model, x, labels)
    assert losses[0] == before and all(np.diff(losses) < 1e-12)


def test_the_fit_reproduces_the_sufficient_statistics():
    """Cox 1958: at the maximum the sums of p and of p x equal those of y and of y x."""
    x, y = (torch.from_numpy(a) for a in table("breast_cancer", slice(0, 10)))
    model = LogisticRegression(LogisticConfig(10)).double()
    fit_newton(model, x, y)
    p = torch.sigmoid(model(x)[:, 0]).detach()
    assert abs(float(p.sum() - y.sum())) < 1e-8
    assert (p @ x - y.double() @ x).abs().max() < 1e-8


# --- against scikit-learn, at convergence: coefficients agree to 1e-6
# With C=inf there is no penalty (this was penalty=None before scikit-learn 1.8); then the classes
# have to overlap.


FITS = {
    "breast_cancer_all_30_penalised": ("breast_cancer", slice(None), 1.0),
    "breast_cancer_ten_means": ("breast_cancer", slice(0, 10), 0.0),
    "iris_penalised": ("iris", slice(None), 1.0),
    "iris_hardly_penalised": ("iris", slice(None), 1e-3),
    "iris_sepal_length": ("iris", slice(0, 1), 0.0),
    "iris_sepal_width": ("iris", slice(1, 2), 0.0),
}


def assert_fit_agrees(x, y, ridge):
    reference = linear_model.LogisticRegression(
        C=1 / ridge if ridge else np.inf, solver="newton-cg", tol=1e-12, max_iter=1000
    ).fit(x, y)
    classes = int(y.max()) + 1
    if classes == 2:
        model = LogisticRegression(LogisticConfig(x.shape[1])).double()
    else:
        model = SoftmaxRegression(LogisticConfig(x.shape[1], classes)).double()
    fit_newton(model, torch.from_numpy(x), torch.from_numpy(y), ridge)
    weight, bias = to_numpy(model)["weight"], to_numpy(model)["bias"]
    if classes > 2:  # only differences between classes have a meaning (eq. 1.26)
        weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
    assert max_difference(weight, reference.coef_) < 1e-6
    assert max_difference(bias, reference.intercept_) < 1e-6
    assert (model.predict(torch.from_numpy(x)).numpy() == reference.predict(x)).all()


@pytest.mark.parametrize("fit", FITS)
def test_coefficients_equal_scikit_learn(fit):
    name, columns, ridge = FITS[fit]
    x, y = table(name, columns)
    assert_fit_agrees(x, y, ridge)


def test_versicolor_against_virginica_equals_scikit_learn():
    x, y = datasets.load_iris(return_X_y=True)
    (x,) = linear_numpy.standardise(x[y > 0])
    assert_fit_agrees(x, y[y > 0] - 1, 0.0)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("breast_cancer", "puts? every example on its side"),
        ("wine", "puts? every example on its side"),
        ("iris", "expected convergence in 25 Newton steps"),  # only setosa can be split off
    ],
    ids=["breast_cancer", "wine", "iris"],
)
def test_separable_classes_have_no_maximum_of_the_likelihood(name, match):
    x, y = (torch.from_numpy(a) for a in table(name))
    if name == "breast_cancer":
        model = LogisticRegression(LogisticConfig(x.shape[1])).double()
    else:
        model = SoftmaxRegression(LogisticConfig(x.shape[1], 3)).double()
    with pytest.raises(NoMaximum, match=match):
        fit_newton(model, x, y)


# --- sabotage: named faults that the comparison must catch


class NoBias(LinearRegression):
    def forward(self, x):
        return x @ self.weight.T


class TanhForSigmoid(LogisticRegression):
    def forward(self, x):
        return torch.tanh(super().forward(x))


class SharesOneBias(SoftmaxRegression):
    def forward(self, x):
        return super().forward(x) - self.bias + self.bias.mean()


class SwapsTwoClasses(SoftmaxRegression):
    def forward(self, x):
        return super().forward(x).roll(1, dims=1)


SABOTAGE = {
    "missing_bias": ("linear", lambda: NoBias(LinearConfig(D, K))),
    "squashed_logit": ("logistic", lambda: TanhForSigmoid(LogisticConfig(D))),
    "one_bias_for_all_classes": ("softmax", lambda: SharesOneBias(LogisticConfig(D, K))),
    "classes_in_another_order": ("softmax", lambda: SwapsTwoClasses(LogisticConfig(D, K))),
}


@pytest.mark.parametrize("fault", SABOTAGE)
def test_sabotage_is_noticed(fault):
    name, make = SABOTAGE[fault]
    model = make().double()
    load_into(model, perturbed(name))
    x, y = batch(name)
    with pytest.raises(ParityError):
        assert_parity(paper_pass(model, x, y), numpy_pass(name, model, x, y))


def test_sabotage_a_fresh_model_would_hide_a_missing_bias():
    """Why the weights are perturbed first: with biases of zero the outputs agree all the same."""
    model = NoBias(LinearConfig(D, K)).double()
    torch.nn.init.zeros_(model.bias)
    x, y = batch("linear")
    assert max_difference(model(x), numpy_pass("linear", model, x, y).outputs) < 1e-12


def test_sabotage_a_penalty_on_the_bias_is_noticed():
    x, y = table("diabetes")
    centre = solve_ridge(torch.from_numpy(x), torch.from_numpy(y)[:, None], 10.0)
    a = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalised = np.linalg.solve(a.T @ a + 10 * np.eye(11), a.T @ y)
    with pytest.raises(ParityError, match="bias"):
        assert_same({"bias": penalised[10:]}, {"bias": centre["bias"]})


# --- sizes, shapes


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: LinearRegression(LinearConfig(10)), 11),
        (lambda: LogisticRegression(LogisticConfig(30)), 31),
        (lambda: SoftmaxRegression(LogisticConfig(4, 3)), 15),
        (lambda: SoftmaxRegression(LogisticConfig(784, 10)), 7850),
    ],
    ids=["diabetes", "breast_cancer", "iris", "mnist"],
)
def test_parameter_counts_and_shapes(make, expected):
    with torch.device("meta"):
        model = make()
        outputs = model(torch.empty(7, model.in_features))
    assert sum(p.numel() for p in model.parameters()) == expected
    assert outputs.shape == (7, model.out_features)
    assert list(model.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_initial_loss_is_exactly_that_of_guessing(name):
    model = MODELS[name]().double()
    loss = logistic_paper.loss_function(model, batch(name))
    assert abs(loss.item() - np.log(2 if name == "logistic" else K)) < 1e-12


@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_losses_are_finite_at_the_extremes(name):
    model = MODELS[name]()
    with torch.no_grad():
        model.weight.copy_(1e4 * torch.sign(torch.randn_like(model.weight)))
    x, y = batch(name)
    loss = logistic_paper.loss_function(model, (x.float(), y))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(model.weight.grad).all()


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


def test_training_script_says_when_there_is_no_maximum(tmp_path):
    script = runpy.run_path(str(Path(__file__).with_name("train.py")))
    with pytest.raises(NoMaximum):
        script["main"](["--model", "logistic", "--ridge", "0", "--out", str(tmp_path)])


def test_training_script_says_when_newton_has_not_converged(tmp_path, capsys):
    script = runpy.run_path(str(Path(__file__).with_name("train.py")))
    script["main"](["--data", "iris", "--ridge", "0", "--out", str(tmp_path)])
    assert "not converged" in capsys.readouterr().out


# --- bad input


def test_bad_input():
    for make in MODELS.values():
        with pytest.raises(ValueError, match=r"expected x \(B, 5\), got \(8, 3\)"):
            make()(torch.zeros(8, 3))
    linear, softmax = MODELS["linear"](), MODELS["softmax"]()
    with pytest.raises(ValueError, match=r"expected targets \(8, 4\), got \(8,\)"):
        linear_paper.loss_function(linear, (torch.zeros(8, 5), torch.zeros(8)))
    with pytest.raises(ValueError, match=r"expected labels \(8,\), got \(8, 1\)"):
        logistic_paper.loss_function(softmax, (torch.zeros(8, 5), torch.zeros(8, 1).long()))
    with pytest.raises(ValueError, match="expected outputs=1"):
        LogisticRegression(LogisticConfig(5, 2))
    with pytest.raises(ValueError, match="at least 2 classes, got outputs=1"):
        SoftmaxRegression(LogisticConfig(5))
    for config in (LinearConfig, LogisticConfig):
        with pytest.raises(ValueError, match="got features=0, outputs=1"):
            config(0)


def test_newton_wants_float64():
    x, labels = batch("logistic")
    with pytest.raises(ValueError, match="float64, got x in torch.float32"):
        newton_step(MODELS["logistic"](), x.float(), labels)


def test_the_penalty_does_not_depend_on_the_batch_size():
    model, (x, y) = perturbed("linear"), batch("linear")
    whole = linear_paper.loss_function(model, (x, y), ridge=3.0)
    parts = [
        linear_paper.loss_function(model, (x[i : i + 2], y[i : i + 2]), ridge=3.0, examples=B)
        for i in range(0, B, 2)
    ]
    assert max_difference(whole, sum(parts) / 3) < 1e-12


def test_bad_least_squares():
    x, y = torch.randn(9, 3), torch.randn(9, 1)
    with pytest.raises(ValueError, match=r"got \(9, 3\), \(9,\)"):
        solve_ridge(x, y[:, 0])
    with pytest.raises(ValueError, match=r"expected ridge of at least 0, got -1\.0"):
        solve_ridge(x, y, -1.0)
    dependent = torch.ones(9, 3)
    with pytest.raises(ValueError, match="linearly independent"):
        solve_ridge(dependent, y)
    with pytest.raises(ValueError, match="singular normal equations"):
        solve_normal_equations(dependent, y)
    assert torch.isfinite(solve_ridge(dependent, y, 1e-3)["weight"]).all()
