"""Judges the exercises: your files (skipped until you start) and the solutions."""

import numpy as np
import pytest
from sklearn import datasets, linear_model

from linear_numpy import (
    LinearConfig,
    LinearRegression,
    gradient_descent,
    solve_least_squares,
    squared_error_backward,
    squared_error_forward,
    standardise,
)
from logistic_numpy import LogisticConfig, LogisticRegression, log_softmax
from utils.exercises import diagnose, exercise
from utils.gradient_check import check_backward, numerical_gradient

ex01 = exercise(__file__, "ex01_regularization")
ex02 = exercise(__file__, "ex02_softmax")
ex03 = exercise(__file__, "ex03_stable_rate")
ex04 = exercise(__file__, "ex04_newton")
ex05 = exercise(__file__, "ex05_huber")

SQUARED_ERROR = squared_error_forward, squared_error_backward


def rng(seed=0):
    return np.random.default_rng(seed)


def diabetes():
    """Standardised x (442, 10) and targets y (442, 1)."""
    x, y = datasets.load_diabetes(return_X_y=True)
    return standardise(x)[0], y[:, None]


# --- 01 regularization


def ridge_case(ex01, alpha=3.0):
    model = ex01.RidgeRegression(LinearConfig(5, 2), rng(), alpha, examples=7)
    model.params["weight"] = rng(1).standard_normal((2, 5))
    model.params["bias"] = np.array([0.5, -1.0])
    return model, model.params["weight"].copy(), rng(2).standard_normal((7, 5))


def test_ridge_penalty(ex01):
    model, w, _ = ridge_case(ex01)
    diagnose(
        model.penalty(),
        1.5 / 7 * (w**2).sum(),
        {
            "forget to divide by N": 1.5 * (w**2).sum(),
            "forget the factor 1/2": 3 / 7 * (w**2).sum(),
            "take absolute values instead of squares": 1.5 / 7 * np.abs(w).sum(),
            "take the mean of the squares instead of the sum": 1.5 / 7 * (w**2).mean(),
            "charge the bias too": 1.5 / 7 * ((w**2).sum() + 1.25),
        },
        what="penalty",
    )


def test_ridge_gradient(ex01):
    model, w, x = ridge_case(ex01)
    x = x[:4]  # a mini-batch: alpha is still divided by all N = 7
    model.forward(x)
    dy = rng(3).standard_normal((4, 2))
    grads = model.backward(dy)
    assert set(grads) == {"weight", "bias"}, f"expected weight and bias, got {sorted(grads)}"
    diagnose(
        grads["weight"],
        dy.T @ x + 3 / 7 * w,
        {
            "forget the penalty": dy.T @ x,
            "forget to divide by N": dy.T @ x + 3 * w,
            "divide by the size of the batch instead of N": dy.T @ x + 3 / 4 * w,
            "forget that the derivative of w^2 / 2 is w, not 2 w": dy.T @ x + 6 / 7 * w,
            "halve it: the derivative of w^2 / 2 is w": dy.T @ x + 1.5 / 7 * w,
            "use the gradient of the absolute value": dy.T @ x + 3 / 7 * np.sign(w),
            "subtract the penalty's gradient": dy.T @ x - 3 / 7 * w,
        },
        what="dweight",
    )
    diagnose(
        grads["bias"],
        dy.sum(axis=0),
        {"charge the bias too": dy.sum(axis=0) + 3 / 7 * model.params["bias"]},
        what="dbias",
    )


def test_ridge_by_gradient_descent_equals_scikit_learn(ex01):
    x, y = diabetes()
    model = ex01.RidgeRegression(LinearConfig(10), rng(), 20.0, len(x))
    gradient_descent(model, *SQUARED_ERROR, x, y, lr=0.4, steps=2000)
    reference = linear_model.Ridge(20.0).fit(x, y[:, 0])
    diagnose(model.params["weight"], reference.coef_[None], tol=1e-6, what="fitted weight")


def test_soft_threshold(ex01):
    w = np.array([[-3.0, -0.5, -0.2, 0.0], [0.2, 0.5, 0.7, 3.0]])
    diagnose(
        ex01.soft_threshold(w, 0.5),
        np.array([[-2.5, 0, 0, 0], [0, 0, 0.2, 2.5]]),
        {
            "only zero the small ones, and leave the others (the hard threshold)": w
            * (np.abs(w) > 0.5),
            "lose the negative ones": np.maximum(w - 0.5, 0),
            "forget to stop at zero": w - 0.5 * np.sign(w),
            "forget the sign": np.maximum(np.abs(w) - 0.5, 0),
            "clip to ±threshold": np.clip(w, -0.5, 0.5),
        },
        what="result",
    )


def test_lasso_step(ex01):
    x, y = rng().standard_normal((9, 4)), rng(1).standard_normal((9, 1))
    model = LinearRegression(LinearConfig(4), rng())
    w, b = np.array([[0.9, -0.6, 0.1, -0.05]]), np.array([0.3])  # two weights below the threshold
    model.params = {"weight": w.copy(), "bias": b.copy()}
    residual = x @ w.T + b - y
    dweight = residual.T @ x / 9

    def soft(w, threshold):
        return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)

    ex01.lasso_step(model, x, y, 0.1, 2.0)
    diagnose(
        model.params["weight"],
        soft(w - 0.1 * dweight, 0.2),
        {
            "use alpha as the threshold instead of lr * alpha": soft(w - 0.1 * dweight, 2.0),
            "use lr as the threshold instead of lr * alpha": soft(w - 0.1 * dweight, 0.1),
            "use the threshold before the gradient step": soft(w, 0.2) - 0.1 * dweight,
            "subtract lr * alpha * sign(w), and step over zero": (
                w - 0.1 * dweight - 0.2 * np.sign(w)
            ),
            "forget the threshold": w - 0.1 * dweight,
            "forget the gradient step": soft(w, 0.2),
        },
        what="weight after the step",
    )
    free = b - 0.1 * residual.mean(axis=0)
    diagnose(
        model.params["bias"],
        free,
        {"use the threshold on the bias too": soft(free, 0.2), "leave the bias as it is": b},
        what="bias after the step",
    )


def test_lasso_equals_scikit_learn_and_has_exact_zeros(ex01):
    x, y = diabetes()
    model = LinearRegression(LinearConfig(10), rng())
    for _ in range(1500):
        ex01.lasso_step(model, x, y, 0.4, 2.0)
    reference = linear_model.Lasso(2.0, tol=1e-12, max_iter=100_000).fit(x, y[:, 0])
    diagnose(model.params["weight"], reference.coef_[None], tol=1e-6, what="fitted weight")
    zeros = int((model.params["weight"] == 0).sum())
    assert zeros == (reference.coef_ == 0).sum() > 0, f"expected exact zeros, got {zeros}"


# --- 02 softmax


def test_softmax_forward(ex02):
    z = 2 * rng().standard_normal((3, 5, 4))
    want = np.exp(log_softmax(z))
    p, _ = ex02.softmax_forward(z)
    diagnose(
        p,
        want,
        {
            "forget to divide by the sum": np.exp(z),
            "divide by the sum over everything": np.exp(z) / np.exp(z).sum(),
            "sum over the first axis": np.exp(z) / np.exp(z).sum(axis=0),
            "sum over the second axis": np.exp(z) / np.exp(z).sum(axis=1, keepdims=True),
            "return the logarithms": log_softmax(z),
            "subtract the maximum, but forget to divide": np.exp(z - z.max(-1, keepdims=True)),
        },
        what="p",
    )


def test_softmax_of_large_numbers(ex02):
    z = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4 - np.log(2)]])
    with np.errstate(all="ignore"):
        p, _ = ex02.softmax_forward(z)
    assert not np.isnan(p).any(), (
        "your p is NaN for numbers of 1e4, where exp overflows: subtract each row's maximum first"
    )
    # Not one maximum for all rows: the second row would underflow to 0/0.
    diagnose(p, np.array([[1.0, 0, 0], [0.4, 0.4, 0.2]]), tol=1e-9, what="p for numbers of 1e4")


def test_softmax_backward(ex02):
    z, dp = rng().standard_normal((3, 4)), rng(1).standard_normal((3, 4))
    p, cache = ex02.softmax_forward(z)
    p = p.copy()
    inner = (dp * p).sum(axis=1, keepdims=True)
    diagnose(
        ex02.softmax_backward(dp, cache),
        p * (dp - inner),
        {
            "keep only the diagonal p (1 - p), as for a sigmoid": p * (1 - p) * dp,
            "forget the second term": p * dp,
            "forget the first term": -p * inner,
            "forget to multiply by p": dp - inner,
            "sum dp without weighing it by p": p * (dp - dp.sum(axis=1, keepdims=True)),
            "take the mean instead of the sum": p * (dp - inner / 4),
            "sum over the batch instead of the classes": p * (dp - (dp * p).sum(axis=0)),
            "sum over the batch as well": p * (dp - (dp * p).sum()),
        },
        what="dz",
    )


def test_softmax_gradient_check(ex02):
    check_backward(
        ex02.softmax_forward, ex02.softmax_backward, {"z": rng(5).standard_normal((2, 3, 4))}
    )


def test_the_long_way_leads_to_p_minus_y(ex02):
    logits, labels = rng().standard_normal((6, 4)), np.array([0, 3, 1, 1, 2, 0])
    p = np.exp(log_softmax(logits))
    y = np.eye(4)[labels]
    diagnose(
        ex02.loss_gradient_the_long_way(logits, labels),
        (p - y) / 6,
        {
            "forget to divide by B": p - y,
            "forget the minus of -log p": (y - p) / 6,
            "use the gradient of -p instead of -log p": -(p * (y - (y * p).sum(1, keepdims=True)))
            / 6,
            "return dp": -y / (6 * p),
        },
        what="dlogits",
    )


# --- 03 the largest stable rate


def test_hessian(ex03):
    x = rng().standard_normal((20, 3)) + 1
    a = np.concatenate([x, np.ones((20, 1))], axis=1)
    first = np.concatenate([np.ones((20, 1)), x], axis=1)
    diagnose(
        ex03.hessian(x),
        a.T @ a / 20,
        {
            "forget to divide by N": a.T @ a,
            "forget the column of ones": x.T @ x / 20,
            "put the column of ones first": first.T @ first / 20,
            "multiply in the other order, A A^T": a @ a.T / 20,
            "double it: the loss of eq. 1.2 has a factor 1/2": 2 * a.T @ a / 20,
        },
        what="Hessian",
    )


def test_largest_eigenvalue(ex03):
    h = np.diag([0.5, 4.0, 1.0])
    q, _ = np.linalg.qr(rng().standard_normal((3, 3)))
    with np.errstate(all="ignore"):
        # 4 ** 1000 is more than a float64 can hold.
        got = ex03.largest_eigenvalue(q @ h @ q.T, steps=1000)
    assert got is None or np.isfinite(got).all(), (
        "v overflowed: scale it to length 1 after each multiplication"
    )
    diagnose(
        got,
        4.0,
        {
            "return the smallest eigenvalue": 0.5,
            "return the length of v, which is 1": 1.0,
            "return its square": 16.0,
        },
        what="largest eigenvalue",
    )


def test_largest_stable_rate(ex03):
    x, _ = diabetes()
    a = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    eigenvalues = np.linalg.eigvalsh(a.T @ a / len(a))
    diagnose(
        ex03.largest_stable_rate(x),
        2 / eigenvalues[-1],
        {
            "take 1 / lambda, which is the fastest rate along that direction": 1 / eigenvalues[-1],
            "take the smallest eigenvalue": 2 / eigenvalues[0],
            "return lambda": eigenvalues[-1],
            "multiply by lambda instead of dividing": 2 * eigenvalues[-1],
        },
        tol=1e-6,
        what="largest stable rate",
    )


def test_it_converges_below_and_diverges_above(ex03):
    x, y = diabetes()
    limit = 2 / np.linalg.eigvalsh(x.T @ x / len(x))[-1]
    model = LinearRegression(LinearConfig(10), rng())
    want = gradient_descent(model, *SQUARED_ERROR, x, y, 0.5 * limit, 200)
    got = ex03.losses_at(0.5 * limit, x, y, steps=200)
    assert len(got) == 200, f"expected one loss for each of 200 steps, got {len(got)}"
    diagnose(np.array(got), np.array(want), what="losses")
    below, above = (ex03.losses_at(f * limit, x, y, steps=2000) for f in (0.99, 1.01))
    assert below[-1] < below[0], f"expected convergence at 0.99 x limit, got a loss of {below[-1]}"
    assert above[-1] > 1e6 * above[0], f"expected divergence at 1.01 x limit, got {above[-1]}"


# --- 04 Newton's method


def newton_case():
    x, labels = rng().standard_normal((40, 3)), rng(1).integers(2, size=40)
    model = LogisticRegression(LogisticConfig(3), rng())
    model.params = {"weight": rng(2).standard_normal((1, 3)), "bias": np.array([0.4])}
    return model, x, labels


def derivatives(model, x, labels):
    """Gradient and Hessian by the formulas, for one logit."""
    a = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    p = model.probability(x)[:, None]
    gradient = (a * (p - labels[:, None])).mean(axis=0)
    return a, p, gradient, a.T @ (p * (1 - p) * a) / len(a)


def test_newton_hessian(ex04):
    model, x, labels = newton_case()
    a, p, _, want = derivatives(model, x, labels)
    diagnose(
        ex04.hessian(model, x),
        want,
        {
            "forget to divide by N (the gradient is that of the mean)": want * len(x),
            "forget the weights p (1 - p)": a.T @ a / len(x),
            "weigh by p instead of p (1 - p)": a.T @ (p * a) / len(x),
            "weigh twice (the root of the weights belongs to each side)": a.T
            @ ((p * (1 - p)) ** 2 * a)
            / len(x),
            "use the logits instead of the probabilities": a.T
            @ (model.forward(x) * (1 - model.forward(x)) * a)
            / len(x),
            "forget the column of ones": want[:3, :3],
        },
        what="Hessian",
    )


def test_newton_hessian_is_the_derivative_of_the_gradient(ex04):
    model, x, labels = newton_case()
    theta = np.concatenate([model.params["weight"][0], model.params["bias"]])

    def first_of_gradient(theta):
        model.params = {"weight": theta[None, :3], "bias": theta[3:]}
        return ex04.gradient(model, x, labels)[0]

    want = numerical_gradient(first_of_gradient, theta)
    diagnose(ex04.hessian(model, x)[0], want, tol=1e-8, what="first row of the Hessian")


def test_newton_step(ex04):
    model, x, labels = newton_case()
    before = np.concatenate([model.params["weight"][0], model.params["bias"]])
    _, _, gradient, hessian = derivatives(model, x, labels)
    step = np.linalg.solve(hessian, gradient)
    change = ex04.newton_step(model, x, labels)
    shapes = model.params["weight"].shape, model.params["bias"].shape
    assert shapes == ((1, 3), (1,)), f"expected weight (1, 3) and bias (1,), got {shapes}"
    after = np.concatenate([model.params["weight"][0], model.params["bias"]])
    diagnose(
        after,
        before - step,
        {
            "add the step instead of subtracting it": before + step,
            "make a gradient step instead": before - gradient,
            "multiply by the Hessian instead of its inverse": before - hessian @ gradient,
            "leave the parameters as they are": before,
            "leave the bias as it is": np.append(before[:3] - step[:3], before[3]),
        },
        what="parameters after the step",
    )
    diagnose(change, np.abs(step).max(), {"return a signed change": step.max()}, what="change")


def test_newton_fit_equals_scikit_learn(ex04, monkeypatch):
    x, labels = datasets.load_breast_cancer(return_X_y=True)
    (x,) = standardise(x[:, :10])
    model = LogisticRegression(LogisticConfig(10), rng())
    calls, newton_step = [], ex04.newton_step

    def counted(*args, **kwargs):
        calls.append(newton_step(*args, **kwargs))
        return calls[-1]

    monkeypatch.setattr(ex04, "newton_step", counted)
    steps = ex04.fit(model, x, labels)
    reference = linear_model.LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-12)
    reference.fit(x, labels)
    diagnose(model.params["weight"], reference.coef_, tol=1e-7, what="fitted weight")
    assert steps == len(calls), (
        f"expected the number of Newton steps that were made, {len(calls)}, got {steps}"
    )
    assert 5 <= steps <= 15, f"expected about ten steps, got {steps}"


def test_newton_fit_gives_up_on_separable_classes(ex04):
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    model = LogisticRegression(LogisticConfig(1), rng())
    with pytest.raises(RuntimeError) as caught:
        ex04.fit(model, x, np.array([0, 0, 1, 1]))
    if isinstance(caught.value, NotImplementedError):  # a RuntimeError too: nothing written yet
        raise caught.value


# --- 05 Huber's loss


def huber_case():
    predictions = np.array([[0.5, -0.5], [3.0, -4.0], [1.2, 0.1]])
    return predictions, np.zeros((3, 2))


def test_huber_forward(ex05):
    predictions, targets = huber_case()
    r = np.abs(predictions)
    small = 0.5 * r**2

    def loss(losses):
        return losses.sum() / 3

    right = np.where(r <= 1.2, small, 1.2 * (r - 0.6))
    got, _ = ex05.huber_forward(predictions, targets, delta=1.2)
    diagnose(
        got,
        loss(right),
        {
            "average over all elements instead of dividing by B": right.mean(),
            "forget to divide by B": right.sum(),
            "forget the - delta / 2, so that the loss jumps": loss(
                np.where(r <= 1.2, small, 1.2 * r)
            ),
            "swap the two cases": loss(np.where(r > 1.2, small, 1.2 * (r - 0.6))),
            "forget the factor 1/2 of the parabola": loss(
                np.where(r <= 1.2, r**2, 1.2 * (r - 0.6))
            ),
            "forget the absolute value": loss(np.where(r <= 1.2, small, 1.2 * (predictions - 0.6))),
            "use the squared error everywhere": loss(small),
        },
        what="loss",
    )


def test_huber_backward(ex05):
    predictions, targets = huber_case()
    _, cache = ex05.huber_forward(predictions, targets, delta=1.3)
    clipped = np.clip(predictions, -1.3, 1.3)
    diagnose(
        ex05.huber_backward(cache),
        clipped / 3,
        {
            "forget to divide by B": clipped,
            "divide by B * K": clipped / 6,
            "use the gradient of the squared error": predictions / 3,
            "forget the sign of large residuals": np.where(
                np.abs(predictions) <= 1.3, predictions, 1.3
            )
            / 3,
            "forget delta: the slope of the straight lines is ±delta, not ±1": np.where(
                np.abs(predictions) <= 1.3, predictions, np.sign(predictions)
            )
            / 3,
            "set the gradient of large residuals to zero": predictions
            * (np.abs(predictions) <= 1.3)
            / 3,
        },
        what="gradient",
    )


def test_huber_gradient_check(ex05):
    targets = rng().standard_normal((5, 2))
    check_backward(
        lambda predictions: ex05.huber_forward(predictions, targets, 0.7),
        ex05.huber_backward,
        {"predictions": 2 * rng(4).standard_normal((5, 2))},
    )


def test_huber_survives_wrong_targets(ex05):
    x, y = diabetes()
    clean = solve_least_squares(x, y)["weight"]
    spoilt = y.copy()
    spoilt[::20] += 5000  # every twentieth target mistyped
    by_squares = solve_least_squares(x, spoilt)["weight"]
    model = LinearRegression(LinearConfig(10), rng())

    def forward(predictions, targets):
        return ex05.huber_forward(predictions, targets, delta=50.0)

    gradient_descent(model, forward, ex05.huber_backward, x, spoilt, lr=0.4, steps=3000)
    far, near = (np.abs(w - clean).max() for w in (by_squares, model.params["weight"]))
    assert near < far / 5, (
        f"your weights are {near:.0f} from those of clean data; squared error is {far:.0f} away, "
        f"expected below {far / 5:.0f}"
    )
