"""Tests of level 1: gradients by central differences, exact solutions, scikit-learn, stability."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import datasets, linear_model

from linear_numpy import (
    LinearConfig,
    LinearRegression,
    back_substitution,
    gradient_descent,
    solve_least_squares,
    squared_error_backward,
    squared_error_forward,
    standardise,
)
from logistic_numpy import (
    LogisticConfig,
    LogisticRegression,
    SoftmaxConfig,
    SoftmaxRegression,
    log_softmax,
    logistic_loss_backward,
    logistic_loss_forward,
    sigmoid,
    softmax_loss_backward,
    softmax_loss_forward,
)
from utils.gradient_check import GradientMismatch, check_backward, check_model
from utils.parity import max_difference, perturb

SQUARED_ERROR = squared_error_forward, squared_error_backward
LOGISTIC_LOSS = logistic_loss_forward, logistic_loss_backward
SOFTMAX_LOSS = softmax_loss_forward, softmax_loss_backward

MODELS = {
    "linear": lambda rng: LinearRegression(LinearConfig(5, 3), rng),
    "logistic": lambda rng: LogisticRegression(LogisticConfig(5), rng),
    "softmax": lambda rng: SoftmaxRegression(SoftmaxConfig(5, 4), rng),
}


@pytest.fixture
def rng():
    # Not seed 0: check_model draws its upstream gradient from that, and it must not equal x.
    return np.random.default_rng(1)


def table(name):
    """All examples of one of scikit-learn's tables: standardised (N, D), and the targets."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return standardise(x)[0], y


# --- gradients, by central differences


@pytest.mark.parametrize("name", MODELS)
def test_model_gradients(name, rng):
    model = MODELS[name](rng)
    perturb(model.params)
    check_model(model, rng.standard_normal((7, 5)))


def test_squared_error_gradient(rng):
    targets = rng.standard_normal((5, 3))
    check_backward(
        lambda predictions: squared_error_forward(predictions, targets),
        squared_error_backward,
        {"predictions": rng.standard_normal((5, 3))},
    )


def test_logistic_loss_gradient(rng):
    labels = np.array([0, 1, 1, 0, 1])
    logits = 3 * rng.standard_normal((5, 1))
    logits[2] = 0  # where max(z, 0) and |z| have a kink, but their sum has none
    check_backward(
        lambda z: logistic_loss_forward(z, labels), logistic_loss_backward, {"logits": logits}
    )


def test_softmax_loss_gradient(rng):
    labels = np.array([0, 2, 2, 1, 3])
    check_backward(
        lambda logits: softmax_loss_forward(logits, labels),
        softmax_loss_backward,
        {"logits": 3 * rng.standard_normal((5, 4))},
    )


def test_the_gradient_check_can_fail(rng):
    class ForgetsBatch(LinearRegression):
        def backward(self, dy):
            return super().backward(dy) | {"bias": dy.mean(axis=0)}

    class Transposed(LinearRegression):
        def backward(self, dy):
            grads = super().backward(dy)
            return grads | {"weight": grads["weight"].T}

    x = rng.standard_normal((7, 4))
    with pytest.raises(GradientMismatch, match="bias"):
        check_model(ForgetsBatch(LinearConfig(4, 4), rng), x)
    with pytest.raises(GradientMismatch, match="weight"):
        check_model(Transposed(LinearConfig(4, 4), rng), x)
    labels = np.array([0, 2, 1])
    with pytest.raises(GradientMismatch, match="logits"):
        check_backward(
            lambda logits: softmax_loss_forward(logits, labels),
            lambda cache: np.exp(cache[0]),  # p without the - y
            {"logits": rng.standard_normal((3, 3))},
        )


# --- values


def test_sigmoid_and_log_softmax_by_their_definitions(rng):
    x = 3 * rng.standard_normal((4, 6))
    assert max_difference(sigmoid(x), 1 / (1 + np.exp(-x))) < 1e-15
    exponentials = np.exp(x)
    plain = np.log(exponentials / exponentials.sum(axis=1, keepdims=True))
    assert max_difference(log_softmax(x), plain) < 1e-14


@given(arrays(np.float64, (3, 4), elements=st.floats(-1e4, 1e4)))
def test_losses_and_gradients_are_finite_and_right_for_logits_up_to_1e4(logits):
    with np.errstate(all="raise", under="ignore"):
        loss, cache = softmax_loss_forward(logits, np.array([0, 1, 3]))
        gradient = softmax_loss_backward(cache)
        binary, binary_cache = logistic_loss_forward(logits[:, :1], np.array([0, 1, 1]))
        binary_gradient = logistic_loss_backward(binary_cache)
    assert np.isfinite(loss) and loss >= 0 and np.isfinite(binary) and binary >= 0
    assert np.abs(gradient).max() <= 1 / 3 and np.abs(binary_gradient).max() <= 1 / 3
    # Each row of p - y sums to zero, because shifting all logits changes nothing.
    assert np.abs(gradient.sum(axis=1)).max() < 1e-15


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_at_the_extremes(dtype):
    z = np.array([[1e4], [-1e4], [1e4], [-1e4]], dtype)
    loss, cache = logistic_loss_forward(z, np.array([1, 0, 0, 1]))
    assert loss == 5000.0  # 0, 0, 1e4 and 1e4, averaged
    assert logistic_loss_backward(cache).ravel().tolist() == [0.0, 0.0, 0.25, -0.25]
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0]], dtype)
    loss, cache = softmax_loss_forward(logits, np.array([0, 1]))
    assert loss == 10000.0  # 0 and 2e4, averaged
    assert softmax_loss_backward(cache).tolist() == [[0.0, 0.0, 0.0], [0.5, -0.5, 0.0]]
    assert sigmoid(z).ravel().tolist() == [1.0, 0.0, 1.0, 0.0]


def test_the_textbook_formulas_would_fail_there():
    z = np.array([1e4])
    with np.errstate(all="ignore"):
        p = 1 / (1 + np.exp(-z))
        assert np.isinf(-np.log(1 - p)).all()
        assert np.isnan(np.exp(z) / np.exp(z).sum()).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_input(dtype, rng):
    x = rng.standard_normal((6, 5)).astype(dtype)
    labels = rng.integers(2, size=6)
    numbers = labels[:, None].astype(dtype)
    cases = [
        (LinearRegression(LinearConfig(5), rng, dtype), SQUARED_ERROR, numbers),
        (LogisticRegression(LogisticConfig(5), rng, dtype), LOGISTIC_LOSS, labels),
        (SoftmaxRegression(SoftmaxConfig(5, 3), rng, dtype), SOFTMAX_LOSS, labels),
    ]
    for model, (loss_forward, loss_backward), targets in cases:
        outputs = model.forward(x)
        loss, cache = loss_forward(outputs, targets)
        grads = model.backward(loss_backward(cache))
        assert {np.asarray(loss).dtype, outputs.dtype} == {np.dtype(dtype)}
        assert {gradient.dtype for gradient in grads.values()} == {np.dtype(dtype)}
    assert {part.dtype for part in standardise(x, x)} == {np.dtype(dtype)}


# --- properties


def test_standardise_uses_the_training_set_alone(rng):
    x_train = rng.standard_normal((50, 3)) * [1, 1e-3, 1e3] + [0, 5, -1e4]
    x_train = np.concatenate([x_train, np.full((50, 1), 7.0)], axis=1)
    x_test = x_train + 1
    train, test = standardise(x_train, x_test)
    assert np.abs(train.mean(axis=0)).max() < 1e-9
    assert max_difference(train.std(axis=0), np.array([1.0, 1, 1, 0])) < 1e-9
    by_one = np.ones((50, 3)) / x_train[:, :3].std(axis=0)
    assert max_difference(test[:, :3] - train[:, :3], by_one) < 1e-9
    assert (train[:, 3] == 0).all() and (test[:, 3] == 1).all()


def test_initial_loss_is_that_of_guessing(rng):
    x = rng.standard_normal((500, 20))
    model = SoftmaxRegression(SoftmaxConfig(20, 10), rng)
    loss, _ = softmax_loss_forward(model.forward(x), rng.integers(10, size=500))
    assert abs(loss - np.log(10)) < 0.02
    binary = LogisticRegression(LogisticConfig(20), rng)
    loss, _ = logistic_loss_forward(binary.forward(x), rng.integers(2, size=500))
    assert abs(loss - np.log(2)) < 0.02


def test_softmax_with_two_classes_is_logistic_regression(rng):
    x, labels = rng.standard_normal((30, 4)), rng.integers(2, size=30)
    softmax = SoftmaxRegression(SoftmaxConfig(4, 2), rng)
    perturb(softmax.params)
    logistic = LogisticRegression(LogisticConfig(4), rng)
    for name, value in softmax.params.items():
        logistic.params[name] = value[1:] - value[:1]
    assert max_difference(softmax.probability(x)[:, 1], logistic.probability(x)) < 1e-14
    assert (softmax.predict(x) == logistic.predict(x)).all()
    two, _ = softmax_loss_forward(softmax.forward(x), labels)
    one, _ = logistic_loss_forward(logistic.forward(x), labels)
    assert abs(two - one) < 1e-14


def test_mini_batches_visit_every_example_and_average_to_the_full_gradient(rng):
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((12, 1))
    seen = []

    class Watched(LinearRegression):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    model = Watched(LinearConfig(3), rng)
    gradient_descent(model, *SQUARED_ERROR, x, y, lr=0.0, steps=3, batch_size=4, rng=rng)
    visited = np.concatenate(seen)
    order = np.argsort(visited[:, 0])
    assert np.array_equal(visited[order], x[np.argsort(x[:, 0])])

    def gradient(rows):
        _, cache = squared_error_forward(model.forward(x[rows]), y[rows])
        return model.backward(squared_error_backward(cache))["weight"]

    batches = np.arange(12).reshape(3, 4)
    mean = np.mean([gradient(rows) for rows in batches], axis=0)
    assert max_difference(mean, gradient(np.arange(12))) < 1e-14  # eq. 1.14


def test_the_error_shrinks_by_the_predicted_factor_in_each_step(rng):
    """eq. 1.11 and 1.12: along an eigenvector the error is multiplied by 1 - lr * eigenvalue."""
    x, _ = table("diabetes")
    y = rng.standard_normal((len(x), 1))
    eigenvalues, vectors = np.linalg.eigh(x.T @ x / len(x))
    best = solve_least_squares(x, y)
    limit = 2 / eigenvalues[-1]
    for which, lr in [(-1, 0.1), (0, 0.1), (-1, 0.99 * limit), (-1, 1.01 * limit)]:
        model = LinearRegression(LinearConfig(10), rng)
        model.params = {"weight": best["weight"] + vectors[:, which], "bias": best["bias"].copy()}
        gradient_descent(model, *SQUARED_ERROR, x, y, lr, steps=10)
        error = (model.params["weight"] - best["weight"]) @ vectors[:, which]
        assert error == pytest.approx((1 - lr * eigenvalues[which]) ** 10, rel=1e-9)


def test_back_substitution_equals_numpy(rng):
    r = np.triu(rng.standard_normal((6, 6))) + 3 * np.eye(6)
    c = rng.standard_normal((6, 2))
    assert max_difference(back_substitution(r, c), np.linalg.solve(r, c)) < 1e-12


# --- against scikit-learn, at convergence: coefficients agree to 1e-6


def assert_coefficients_agree(params, reference, tolerance=1e-6):
    """Compare with a fitted model of scikit-learn; softmax after removing the mean over classes."""
    weight, bias = params["weight"], params["bias"]
    if len(weight) > 1:
        weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
    assert max_difference(weight, np.atleast_2d(reference.coef_)) < tolerance
    assert max_difference(bias, np.atleast_1d(reference.intercept_)) < tolerance


def test_least_squares_on_diabetes_by_qr_and_by_gradient_descent():
    x, y = table("diabetes")
    reference = linear_model.LinearRegression().fit(x, y)
    exact = solve_least_squares(x, y[:, None])
    assert_coefficients_agree(exact, reference, 1e-12)
    model = LinearRegression(LinearConfig(10), np.random.default_rng(0))
    gradient_descent(model, *SQUARED_ERROR, x, y[:, None], lr=0.45, steps=5000)
    assert_coefficients_agree(model.params, reference)


def maximum_likelihood(x, y):
    """scikit-learn's unpenalised fit; ``C=inf`` means what ``penalty=None`` meant."""
    return linear_model.LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-12).fit(x, y)


def test_logistic_regression_on_breast_cancer():
    # Three features for which the classes overlap; with all 30 no maximum exists (theory.md, 10).
    x, y = table("breast_cancer")
    x = x[:, [0, 1, 4]]
    model = LogisticRegression(LogisticConfig(3), np.random.default_rng(0))
    gradient_descent(model, *LOGISTIC_LOSS, x, y, lr=2.0, steps=3000)
    assert_coefficients_agree(model.params, maximum_likelihood(x, y))


def test_softmax_regression_on_iris():
    # One feature, again so that a maximum exists: petals, or two features, split setosa off.
    x, y = table("iris")
    x = x[:, :1]
    model = SoftmaxRegression(SoftmaxConfig(1, 3), np.random.default_rng(0))
    gradient_descent(model, *SOFTMAX_LOSS, x, y, lr=2.0, steps=3000)
    assert_coefficients_agree(model.params, maximum_likelihood(x, y))


def test_on_separable_classes_the_weights_grow_for_ever():
    x, y = table("iris")
    model = SoftmaxRegression(SoftmaxConfig(4, 3), np.random.default_rng(0))
    sizes = []
    for _ in range(3):
        gradient_descent(model, *SOFTMAX_LOSS, x, y, lr=0.5, steps=1000)
        sizes.append(np.abs(model.params["weight"]).max())
    assert sizes[0] + 0.3 < sizes[1] and sizes[1] + 0.3 < sizes[2]


def test_mini_batches_come_close_and_stay_away():
    x, y = table("diabetes")
    best = solve_least_squares(x, y[:, None])
    model = LinearRegression(LinearConfig(10), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    gradient_descent(model, *SQUARED_ERROR, x, y[:, None], 0.02, 3000, batch_size=32, rng=rng)
    distance = max_difference(model.forward(x), x @ best["weight"].T + best["bias"])
    assert 1e-4 < distance < 0.1


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


def test_bad_input(rng):
    linear = LinearRegression(LinearConfig(5), rng)
    logistic = LogisticRegression(LogisticConfig(5), rng)
    with pytest.raises(ValueError, match=r"expected x \(B, 5\), got \(8, 3\)"):
        linear.forward(np.zeros((8, 3)))
    with pytest.raises(ValueError, match=r"expected x \(B, 5\), got \(5,\)"):
        logistic.forward(np.zeros(5))
    with pytest.raises(ValueError, match=r"expected targets \(8, 1\), got \(8,\)"):
        squared_error_forward(np.zeros((8, 1)), np.zeros(8))
    with pytest.raises(ValueError, match=r"expected logits \(B, 1\), got \(8, 2\)"):
        logistic_loss_forward(np.zeros((8, 2)), np.zeros(8, int))
    with pytest.raises(ValueError, match=r"expected labels \(8,\), got \(8, 1\)"):
        logistic_loss_forward(np.zeros((8, 1)), np.zeros((8, 1), int))
    with pytest.raises(ValueError, match="expected labels of an integer dtype, got float64"):
        softmax_loss_forward(np.zeros((8, 2)), np.zeros(8))
    with pytest.raises(ValueError, match=r"expected labels in 0 \.\.\. 1, got 0 \.\.\. 2"):
        softmax_loss_forward(np.zeros((3, 2)), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"expected labels in 0 \.\.\. 1, got -1 \.\.\. 1"):
        logistic_loss_forward(np.zeros((2, 1)), np.array([-1, 1]))
    with pytest.raises(ValueError, match=r"expected logits \(B, K\), got \(3,\)"):
        softmax_loss_forward(np.zeros(3), np.zeros(3, int))


def test_bad_configurations():
    with pytest.raises(ValueError, match="got features=0, outputs=1"):
        LinearConfig(0)
    with pytest.raises(ValueError, match="expected outputs=1"):
        LogisticConfig(3, 2)
    with pytest.raises(ValueError, match="at least 2 classes, got outputs=1"):
        SoftmaxConfig(3, 1)


def test_bad_least_squares(rng):
    x, y = rng.standard_normal((9, 3)), rng.standard_normal((9, 1))
    with pytest.raises(ValueError, match=r"expected x \(N, D\) and y \(N, K\), got .* \(9,\)"):
        solve_least_squares(x, y[:, 0])
    with pytest.raises(ValueError, match="more examples than the 3 features, got 3"):
        solve_least_squares(x[:3], y[:3])
    with pytest.raises(ValueError, match=r"column 2; .*ones is the last"):
        solve_least_squares(np.stack([x[:, 0], x[:, 1], x[:, 0] + x[:, 1]], axis=1), y)
    with pytest.raises(ValueError, match="linearly independent"):
        solve_least_squares(np.ones((9, 1)), y)


def test_bad_batch_size(rng):
    model = LinearRegression(LinearConfig(3), rng)
    data = rng.standard_normal((9, 3)), rng.standard_normal((9, 1))
    for wrong in ({"batch_size": 10, "rng": rng}, {"batch_size": 4}, {"batch_size": 0, "rng": rng}):
        with pytest.raises(ValueError, match=r"batch_size in 1 \.\.\. 9"):
            gradient_descent(model, *SQUARED_ERROR, *data, lr=0.1, steps=1, **wrong)
