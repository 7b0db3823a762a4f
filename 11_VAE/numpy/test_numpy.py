"""Tests of level 1: gradients by central differences, through the sample too; bounds; Adagrad."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import distributions

from adagrad_numpy import Adagrad, add_prior
from estimates_numpy import (
    active_latents,
    importance_weighted,
    log_mean_exp,
    log_weights,
    observe,
)
from utils.gradient_check import GradientMismatch, check_backward, check_model
from utils.parity import max_difference, perturb
from utils.weights import load_into
from vae_numpy import (
    VAE,
    VAEConfig,
    bernoulli_log_likelihood_backward,
    bernoulli_log_likelihood_forward,
    gaussian_kl_backward,
    gaussian_kl_forward,
    gaussian_log_likelihood_backward,
    gaussian_log_likelihood_forward,
    reparameterise_backward,
    reparameterise_forward,
    tanh_layers_backward,
    tanh_layers_forward,
)

K, B, D, Z = 4, 3, 5, 2
DECODERS = ("bernoulli", "gaussian")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def data(decoder="bernoulli", shape=(B, D), seed=1):
    rng = np.random.default_rng(seed)
    return (rng.random(shape) < 0.4).astype(float) if decoder == "bernoulli" else rng.random(shape)


def make_model(decoder="bernoulli", hidden=(7, 6), latents=Z, pixels=D):
    model = VAE(VAEConfig(pixels, hidden, latents, decoder), np.random.default_rng(0))
    perturb(model.params, scale=0.3)
    return model


# --- gradients, by central differences


def test_kl_gradients():
    inputs = {"mean": numbers(B, Z), "log_var": numbers(B, Z, seed=1)}
    check_backward(gaussian_kl_forward, gaussian_kl_backward, inputs)


@pytest.mark.parametrize("samples", [1, K])
def test_the_gradient_goes_through_the_sample(samples):
    inputs = {"mean": numbers(B, Z), "log_var": numbers(B, Z, seed=1)}
    check_backward(
        reparameterise_forward,
        reparameterise_backward,
        inputs,
        noise=numbers(samples, B, Z, seed=2),
    )


@pytest.mark.parametrize("lead", [(), (K,), (2, K)])
def test_bernoulli_gradient(lead):
    check_backward(
        bernoulli_log_likelihood_forward,
        bernoulli_log_likelihood_backward,
        {"logits": 2 * numbers(*lead, B, D)},
        x=data(),
    )


@pytest.mark.parametrize("lead", [(), (K,), (2, K)])
def test_gaussian_gradients(lead):
    inputs = {"mean": numbers(*lead, B, D), "log_var": numbers(*lead, B, D, seed=1)}
    check_backward(
        gaussian_log_likelihood_forward,
        gaussian_log_likelihood_backward,
        inputs,
        x=data("gaussian"),
    )


def test_tanh_layers_gradients():
    params = make_model().params
    names = [name for name in params if name.startswith("encoder.layers")]

    def forward(x, *values):
        return tanh_layers_forward(x, dict(zip(names, values, strict=True)), "encoder", 2)

    def backward(dy, caches):
        dx, grads = tanh_layers_backward(dy, caches)
        return (dx, *(grads[name] for name in names))

    check_backward(forward, backward, {"x": numbers(B, D)} | {n: params[n] for n in names})


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("samples", [1, K])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_model_gradients_with_common_random_numbers(decoder, samples, beta):
    """The same noise at every evaluation: the estimate is then a smooth function."""
    noise = numbers(samples, B, Z, seed=3)
    check_model(make_model(decoder), data(decoder), noise=noise, beta=beta)


def without_the_sample(dz, cache):
    dmean, dlog_var = reparameterise_backward(dz, cache)
    return dmean, np.zeros_like(dlog_var)


def whole_exponent(dz, cache):
    dmean, dlog_var = reparameterise_backward(dz, cache)
    return dmean, 2 * dlog_var


def mean_over_samples(dz, cache):
    return tuple(g / len(dz) for g in reparameterise_backward(dz, cache))


@pytest.mark.parametrize("fault", [without_the_sample, whole_exponent, mean_over_samples])
def test_the_gradient_check_can_fail(fault):
    inputs = {"mean": numbers(B, Z), "log_var": numbers(B, Z, seed=1)}
    noise = numbers(K, B, Z, seed=2)
    check_backward(reparameterise_forward, reparameterise_backward, inputs, noise=noise)
    with pytest.raises(GradientMismatch):
        check_backward(reparameterise_forward, fault, inputs, noise=noise)


def test_the_model_check_can_fail():
    """The divergence's part of the encoder's gradient is forgotten."""
    model, noise = make_model(), numbers(K, B, Z, seed=3)
    check_model(model, data(), noise=noise)
    forgetful = model.backward

    def backward(dy):
        *kept, divergence, samples, _ = model._caches
        model._caches = (*kept, divergence, samples, 0.0)
        return forgetful(dy)

    model.backward = backward
    with pytest.raises(GradientMismatch, match="encoder"):
        check_model(model, data(), noise=noise)


# --- values, against torch.distributions


def normal(mean, log_var):
    mean, log_var = torch.from_numpy(mean), torch.from_numpy(log_var)
    return distributions.Normal(mean, torch.exp(0.5 * log_var))


def test_kl_is_torchs():
    mean, log_var = 2 * numbers(B, Z), numbers(B, Z, seed=1)
    prior = distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    want = distributions.kl_divergence(normal(mean, log_var), prior)
    assert max_difference(gaussian_kl_forward(mean, log_var)[0], want) < 1e-14


def test_kl_is_the_mean_of_the_log_ratio():
    mean, log_var = np.array([[0.7, -1.2]]), np.array([[-0.5, 0.4]])
    noise = numbers(50_000, 1, 2)
    z, _ = reparameterise_forward(mean, log_var, noise)
    log_ratio = 0.5 * (z**2 - noise**2 - log_var)
    kl = gaussian_kl_forward(mean, log_var)[0]
    error = log_ratio.std(axis=0) / math.sqrt(len(noise))
    assert (np.abs(log_ratio.mean(axis=0) - kl) < 4 * error).all()


@given(arrays(np.float64, (2, 3), elements=st.floats(-20, 20)))
def test_kl_is_never_negative_and_zero_only_at_the_prior(values):
    kl, _ = gaussian_kl_forward(*values[:, None])
    assert (kl >= -1e-12).all()
    assert (gaussian_kl_forward(np.zeros((1, 2)), np.zeros((1, 2)))[0] == 0).all()


def test_likelihoods_are_torchs():
    first, second = numbers(K, B, D), numbers(K, B, D, seed=1)
    x = data()
    want = distributions.Bernoulli(logits=torch.from_numpy(first)).log_prob(torch.from_numpy(x))
    got, _ = bernoulli_log_likelihood_forward(first, x)
    assert got.shape == (K, B) and max_difference(got, want.sum(-1)) < 1e-13
    x = data("gaussian")
    want = normal(first, second).log_prob(torch.from_numpy(x)).sum(-1)
    assert max_difference(gaussian_log_likelihood_forward(first, second, x)[0], want) < 1e-13


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_likelihood_is_finite_for_large_logits(size):
    logits, x = np.full((1, 2), size), np.array([[0.0, 1.0]])
    log_p, cache = bernoulli_log_likelihood_forward(logits, x)
    assert log_p == [-1e4]  # one pixel right, the other wrong
    assert np.isfinite(bernoulli_log_likelihood_backward(np.ones(1), cache)).all()


def test_samples_have_the_mean_and_variance_asked_for():
    mean, log_var = np.array([[1.0, -2.0]]), np.array([[0.5, -1.0]])
    z, _ = reparameterise_forward(mean, log_var, numbers(100_000, 1, 2))
    assert np.abs(z.mean(axis=0) - mean).max() < 0.02
    assert np.abs(z.var(axis=0) / np.exp(log_var) - 1).max() < 0.02


# --- the bound


def grid_bounds(model, x, points=301, reach=8.0):
    """For one latent: log p(x) by summing over a grid, and the exact bound."""
    z = np.linspace(-reach, reach, points)
    dz = z[1] - z[0]
    decoded, _ = model.decode(z[:, None, None] + np.zeros((1, len(x), 1)))
    log_p, _ = bernoulli_log_likelihood_forward(*decoded, x)  # (points, B)
    log_prior = -0.5 * (z**2 + math.log(2 * math.pi))
    log_joint = log_p + log_prior[:, None]
    exact = log_mean_exp(log_joint) + math.log(points * dz)
    mean, log_var, _ = model.encode(x)
    log_q = -0.5 * ((z - mean) ** 2 / np.exp(log_var) + log_var + math.log(2 * math.pi)).T
    bound = (np.exp(log_q) * (log_joint - log_q) * dz).sum(axis=0)
    return exact, bound


def test_the_bound_is_below_log_p_by_the_divergence_from_the_posterior():
    model, x = make_model(latents=1), data()
    exact, bound = grid_bounds(model, x)
    assert (bound < exact).all()
    noise = numbers(20_000, B, 1)
    estimate = model.forward(x, noise)
    error = model.log_likelihood.std(axis=0) / math.sqrt(len(noise))
    assert (np.abs(estimate - bound) < 4 * error).all()


def test_the_monte_carlo_gradient_is_unbiased():
    """Its mean over many samples is the slope of the exact bound, which a grid gives."""
    model, x = make_model(latents=1), data()
    noise = numbers(1000, 10, B, 1)
    name, at, h = "encoder.log_var.bias", (0,), 1e-4
    parts = []
    for part in noise:
        model.forward(x, part)
        parts.append(model.backward(np.ones(B))[name][at])
    kept = model.params[name][at]
    slopes = []
    for value in (kept + h, kept - h):
        model.params[name][at] = value
        slopes.append(grid_bounds(model, x)[1].sum())
    want = (slopes[0] - slopes[1]) / (2 * h)
    error = np.std(parts) / math.sqrt(len(parts))
    assert abs(np.mean(parts) - want) < 4 * error
    assert abs(want) > 20 * error  # so the comparison says something


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_bound_of_one_sample_is_its_weight_on_average(decoder):
    model, x, noise = make_model(decoder), data(decoder), numbers(10_000, B, Z)
    weights = log_weights(model, x, noise)
    bound = model.forward(x, noise)
    # The weight has the sampled divergence, the bound the exact one.
    error = weights.std(axis=0) / math.sqrt(len(noise))
    assert (np.abs(weights.mean(axis=0) - bound) < 4 * error).all()


def test_log_weights_by_their_definition():
    model, x, noise = make_model(), data(), numbers(K, B, Z)
    mean, log_var, _ = model.encode(x)
    z = torch.from_numpy(mean + np.exp(0.5 * log_var) * noise)
    (logits,), _ = model.decode(z.numpy())
    pixels = distributions.Bernoulli(logits=torch.from_numpy(logits))
    log_p = pixels.log_prob(torch.from_numpy(x)).sum(-1)
    prior = distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    want = log_p + prior.log_prob(z).sum(-1) - normal(mean, log_var).log_prob(z).sum(-1)
    assert max_difference(log_weights(model, x, noise), want) < 1e-13


def test_the_importance_weighted_bound_rises_with_k():
    """Not only on average: the same samples in larger groups never give less (Jensen)."""
    model, x = make_model(), data(seed=5)
    weights = log_weights(model, x, numbers(4096, B, Z))
    bounds = [
        log_mean_exp(weights.reshape(size, -1, B, order="F")).mean(axis=0)
        for size in (1, 2, 16, 256, 4096)
    ]
    assert all((after > before).all() for before, after in zip(bounds, bounds[1:], strict=False))
    exact = model.forward(x, numbers(20_000, B, Z, seed=9))
    assert (exact < bounds[-1]).all()


def test_many_samples_reach_log_p():
    model, x = make_model(latents=1), data()
    exact, bound = grid_bounds(model, x)
    got = importance_weighted(model, x, 20_000, np.random.default_rng(0), chunk=3000)
    assert np.abs(got - exact).max() < 0.02 < (exact - bound).max()


def test_chunks_do_not_change_the_estimate():
    model, x = make_model(), data()
    want = importance_weighted(model, x, 50, np.random.default_rng(0), chunk=50)
    noise = np.random.default_rng(0).standard_normal((50, B, Z))
    assert max_difference(want, log_mean_exp(log_weights(model, x, noise))) < 1e-13
    got = importance_weighted(model, x, 50, np.random.default_rng(0), chunk=20)
    assert max_difference(got, want) < 1e-13


def test_log_mean_exp_of_numbers_that_underflow():
    assert log_mean_exp(np.array([-1000.0, -1000.0])) == -1000
    assert log_mean_exp(np.array([[0.0], [math.log(3)]])) == pytest.approx(math.log(2))


def test_beta_weighs_the_divergence_alone():
    model, x, noise = make_model(), data(), numbers(K, B, Z)
    one, half = model.forward(x, noise), model.forward(x, noise, beta=0.5)
    assert np.allclose(half - one, 0.5 * model.kl.sum(axis=1), rtol=0, atol=1e-12)
    assert model.kl.shape == (B, Z) and model.log_likelihood.shape == (K, B)


def test_active_latents():
    kl = np.array([[0.0, 0.02, 3.0], [0.001, 0.02, 0.0]])
    assert active_latents(kl) == 2
    assert active_latents(kl, threshold=1.0) == 1


# --- data


def test_observed_pixels_are_binary_with_their_grey_values_as_probabilities():
    images = np.array([0.0, 0.25, 1.0], dtype=np.float32)
    drawn = observe(np.tile(images, (20_000, 1)), 0, np.random.default_rng(0))
    assert set(np.unique(drawn)) == {0, 1} and drawn.dtype == np.float32
    assert np.abs(drawn.mean(axis=0) - images).max() < 0.02


def test_observed_grey_values_fill_their_share():
    images = np.arange(17)[:, None] / 16 + np.zeros((17, 1000))
    drawn = observe(images, 17, np.random.default_rng(0))
    assert np.array_equal(np.floor(drawn * 17), images * 16)
    assert 0 <= drawn.min() < 0.001 and 0.999 < drawn.max() < 1


# --- learning


def test_adagrad_equals_torch_for_20_steps():
    rng = np.random.default_rng(4)
    params = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(5)}
    tensors = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}
    ours, theirs = Adagrad(params, 0.1), torch.optim.Adagrad(tensors.values(), 0.1)
    for _ in range(20):
        grads = {n: rng.standard_normal(p.shape) for n, p in params.items()}
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(grads[name])
        ours.step(grads)
        theirs.step()
        assert all(max_difference(params[n], tensors[n]) < 1e-13 for n in params)


def test_adagrads_first_step_has_the_size_of_the_rate():
    params = {"a": np.zeros(3)}
    Adagrad(params, 0.1).step({"a": np.array([1e-3, -50.0, 0.0])})
    assert np.allclose(params["a"], [-0.1, 0.1, 0.0], rtol=1e-6)


def test_the_state_holds_all_that_a_resumed_training_needs():
    grads = [{"a": numbers(4, seed=i)} for i in range(6)]
    whole, cut = {"a": np.ones(4)}, {"a": np.ones(4)}
    one, first = Adagrad(whole, 0.1), Adagrad(cut, 0.1)
    for g in grads:
        one.step(g)
    for g in grads[:3]:
        first.step(g)
    second = Adagrad(cut, 0.1)
    load_into(second.state, {name: np.array(s) for name, s in first.state.items()})
    for g in grads[3:]:
        second.step(g)
    assert np.array_equal(cut["a"], whole["a"])


def test_the_prior_pulls_at_the_decoder_alone():
    model = make_model()
    zeros = {name: np.zeros_like(p) for name, p in model.params.items()}
    for name, g in add_prior(zeros, model.params, 50).items():
        want = model.params[name] / 50 if name.startswith("decoder.") else zeros[name]
        assert np.array_equal(g, want), name


@pytest.mark.parametrize("decoder", DECODERS)
def test_overfits_one_batch(decoder):
    x = data(decoder, (6, 16))
    model = VAE(VAEConfig(16, (32,), 3, decoder), np.random.default_rng(0))
    optimizer, rng = Adagrad(model.params, 0.1), np.random.default_rng(1)
    first = model.forward(x, numbers(100, 6, 3)).mean()
    for _ in range(400):
        model.forward(x, rng.standard_normal((1, 6, 3)))
        optimizer.step(model.backward(np.full(6, -1 / 6)))
    last = model.forward(x, numbers(100, 6, 3)).mean()
    # Patterns known by heart cost ln 6 = 1.8 nats at the least; a density has no such limit.
    if decoder == "bernoulli":
        assert first < -9 and -4.5 < last < -1.8
    else:
        assert last > first + 20


def test_latents_that_are_not_needed_collapse():
    """Data with two yes-or-no causes, eight latents: most say nothing of x, KL near 0."""
    rng = np.random.default_rng(0)
    causes = rng.integers(2, size=(400, 2))
    x = np.repeat(causes, 8, axis=1).astype(float)
    model = VAE(VAEConfig(16, (16,), 8), np.random.default_rng(0))
    optimizer = Adagrad(model.params, 0.1)
    for _ in range(500):
        batch = x[rng.integers(400, size=50)]
        model.forward(batch, rng.standard_normal((1, 50, 8)))
        optimizer.step(model.backward(np.full(50, -1 / 50)))
    model.forward(x, np.zeros((1, 400, 8)))
    kl = np.sort(model.kl.mean(axis=0))
    assert (kl[:6] < 0.05).all() and (kl[6:] > 0.5).all()
    assert active_latents(model.kl, 0.05) == 2


def test_initial_parameters():
    params = VAE(VAEConfig(300, (200,), 100), np.random.default_rng(0)).params
    for name, p in params.items():
        assert p.std() == pytest.approx(0.1, rel=0.15), name
    again = VAE(VAEConfig(300, (200,), 100), np.random.default_rng(0)).params
    other = VAE(VAEConfig(300, (200,), 100), np.random.default_rng(1)).params
    assert all(np.array_equal(params[name], again[name]) for name in params)
    assert not any(np.array_equal(params[name], other[name]) for name in params)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_input(decoder, dtype):
    model = VAE(VAEConfig(D, (7,), Z, decoder), np.random.default_rng(0), dtype)
    x, noise = data(decoder).astype(dtype), numbers(K, B, Z).astype(dtype)
    bound = model.forward(x, noise)
    assert bound.dtype == dtype
    assert {g.dtype for g in model.backward(np.ones(B, dtype)).values()} == {np.dtype(dtype)}
    optimizer = Adagrad(model.params, 0.1)
    optimizer.step(model.backward(np.ones(B, dtype)))
    assert {p.dtype for p in model.params.values()} == {np.dtype(dtype)}


def test_a_later_layer_of_the_decoder_has_the_widths_in_reverse():
    shapes = VAEConfig(10, (7, 6), 3).shapes
    assert shapes["encoder.layers.1"] == (6, 7) and shapes["decoder.layers.0"] == (6, 3)
    assert shapes["decoder.layers.1"] == (7, 6) and shapes["decoder.logits"] == (10, 7)


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VAEConfig(5, ()), "expected positive sizes and at least one hidden layer"),
        (lambda: VAEConfig(5, (0,)), r"got pixels 5, hidden \(0,\), latents 10"),
        (lambda: VAEConfig(latents=0), "latents 0"),
        (lambda: VAEConfig(decoder="poisson"), "expected a decoder of .*, got 'poisson'"),
        (
            lambda: make_model().forward(np.ones((3, 4)), np.ones((1, 3, 2))),
            r"expected inputs \(B, 5\), got \(3, 4\)",
        ),
        (
            lambda: make_model().forward(np.ones((3, 5)), np.ones((3, 2))),
            r"expected noise \(K, 3, 2\), got \(3, 2\)",
        ),
        (
            lambda: make_model().forward(np.ones((3, 5)), np.ones((1, 3, 4))),
            r"expected noise \(K, 3, 2\), got \(1, 3, 4\)",
        ),
        (
            lambda: importance_weighted(make_model(), data(), 0, np.random.default_rng(0)),
            "expected at least one sample, got 0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_backward_needs_forward():
    with pytest.raises(RuntimeError, match="expected forward before backward"):
        make_model().backward(np.ones(B))
