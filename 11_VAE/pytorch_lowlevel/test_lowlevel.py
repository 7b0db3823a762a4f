"""Tests of level 2: the same weights and noise as level 1, the same bounds, gradients, training."""

import numpy as np
import pytest
import torch
from torch import distributions

import vae_lowlevel as low
import vae_numpy as np_level
from adagrad_numpy import Adagrad, add_prior
from estimates_numpy import importance_weighted, log_mean_exp, log_weights
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

K, B, D, Z = 4, 3, 5, 2
DECODERS = ("bernoulli", "gaussian")


def config_of(decoder="bernoulli", level=low):
    return level.VAEConfig(D, (7, 6), Z, decoder)


def make_batch(decoder="bernoulli", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((B, D))
    x = (x < 0.4).astype(float) if decoder == "bernoulli" else x
    return x, rng.standard_normal((K, B, Z))


def perturbed_params(decoder="bernoulli"):
    params = low.init_params(config_of(decoder), torch.Generator().manual_seed(0))
    params = to_numpy(params, np.float64)
    perturb(params, scale=0.3)
    return params


def numpy_model(params, decoder="bernoulli"):
    model = np_level.VAE(config_of(decoder, np_level), np.random.default_rng(0))
    load_into(model.params, params)
    return model


def numpy_result(params, batch, decoder="bernoulli", beta=1.0):
    model = numpy_model(params, decoder)
    bound = model.forward(*batch, beta)
    return Result(bound, -bound.mean(), model.backward(np.full(B, -1 / B)))


def lowlevel_result(params, batch, decoder="bernoulli", beta=1.0):
    params = to_torch(params, requires_grad=True)
    x, noise = map(torch.from_numpy, batch)
    bound = low.elbo(*low.forward(params, x, noise, config_of(decoder)), beta)
    loss = -bound.mean()
    loss.backward()
    return Result(bound, loss, {name: p.grad for name, p in params.items()})


# --- across levels


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_equals_level_1(decoder, beta):
    params, batch = perturbed_params(decoder), make_batch(decoder)
    assert_parity(
        lowlevel_result(params, batch, decoder, beta), numpy_result(params, batch, decoder, beta)
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_both_terms_and_the_weights_equal_level_1(decoder):
    params, (x, noise) = perturbed_params(decoder), make_batch(decoder)
    model = numpy_model(params, decoder)
    model.forward(x, noise)
    tensors, x_, noise_ = to_torch(params), torch.from_numpy(x), torch.from_numpy(noise)
    log_p, kl = low.forward(tensors, x_, noise_, config_of(decoder))
    assert max_difference(log_p, model.log_likelihood) < 1e-12
    assert max_difference(kl, model.kl) < 1e-12
    weights = low.log_weights(tensors, x_, noise_, config_of(decoder))
    assert max_difference(weights, log_weights(model, x, noise)) < 1e-12
    image = low.mean_image(tensors, noise_, config_of(decoder))
    assert max_difference(image, model.mean_image(noise)) < 1e-12


def trajectories(decoder="bernoulli", rule=low.Adagrad, prior=True, fresh_gradients=True):
    """Losses of ten steps at both levels, from the same weights with the same data and noise."""
    params = perturbed_params(decoder)
    model, tensors = numpy_model(params, decoder), to_torch(params, requires_grad=True)
    optimizer, low_optimizer = Adagrad(model.params, 0.1), rule(tensors, 0.1)
    losses, low_losses = [], []
    for step in range(10):
        x, noise = make_batch(decoder, step)
        losses.append(-model.forward(x, noise).mean())
        optimizer.step(add_prior(model.backward(np.full(B, -1 / B)), model.params, 50))
        batch = torch.from_numpy(x), torch.from_numpy(noise)
        low_losses.append(
            low.train_step(
                tensors,
                low_optimizer,
                *batch,
                config_of(decoder),
                examples=50 if prior else 0,
            )
        )
    return low_losses, losses


@pytest.mark.parametrize("decoder", DECODERS)
def test_ten_steps_equal_level_1(decoder):
    assert_trajectory(*trajectories(decoder))


def test_a_file_of_level_1_loads_here(tmp_path):
    params, batch = perturbed_params(), make_batch()
    model = numpy_model(params)
    loaded = load_weights(save_weights(tmp_path / "model.safetensors", model.params))
    assert_parity(lowlevel_result(loaded, batch), numpy_result(params, batch), tol=1e-12)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_bound_is_that_of_torch_distributions(decoder):
    """The production library of this chapter: distributions that sample and take logarithms."""
    params, (x, noise) = perturbed_params(decoder), make_batch(decoder)
    config, tensors = config_of(decoder), to_torch(params)
    x, noise = torch.from_numpy(x), torch.from_numpy(noise)
    mean, log_var = low.encode(tensors, x, config)
    q = distributions.Normal(mean, (0.5 * log_var).exp())
    prior = distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    decoded = low.decode(tensors, mean + q.scale * noise, config)
    if decoder == "bernoulli":
        p = distributions.Bernoulli(logits=decoded[0])
    else:
        p = distributions.Normal(decoded[0], (0.5 * decoded[1]).exp())
    log_p, kl = low.forward(tensors, x, noise, config)
    assert max_difference(log_p, p.log_prob(x).sum(-1)) < 1e-12
    assert max_difference(kl, distributions.kl_divergence(q, prior)) < 1e-12


# --- sabotage: the comparison can fail


def deviation_for_variance(mean, log_var, noise):
    return mean + torch.exp(log_var) * noise


def one_sample_for_all(mean, log_var, noise):
    return mean + torch.exp(0.5 * log_var) * noise[:1]


def detached_sample(mean, log_var, noise):
    return (mean + torch.exp(0.5 * log_var) * noise).detach()


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (deviation_for_variance, "outputs"),
        (one_sample_for_all, "outputs"),
        (detached_sample, "gradient of encoder"),
    ],
)
def test_a_sabotaged_sample_is_noticed(fault, what, monkeypatch):
    params, batch = perturbed_params(), make_batch()
    want = numpy_result(params, batch)
    assert_parity(lowlevel_result(params, batch), want)
    monkeypatch.setattr(low, "reparameterise", fault)
    with pytest.raises(ParityError, match=what):
        assert_parity(lowlevel_result(params, batch), want)


def kl_without_the_minus_1(mean, log_var):
    return 0.5 * (mean**2 + torch.exp(log_var) - log_var)


def kl_the_other_way_round(mean, log_var):
    return 0.5 * ((1 + mean**2) * torch.exp(-log_var) + log_var - 1)


@pytest.mark.parametrize("fault", [kl_without_the_minus_1, kl_the_other_way_round])
def test_a_sabotaged_divergence_is_noticed(fault, monkeypatch):
    params, batch = perturbed_params(), make_batch()
    want = numpy_result(params, batch)
    assert_parity(lowlevel_result(params, batch), want)
    monkeypatch.setattr(low, "gaussian_kl", fault)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(lowlevel_result(params, batch), want)


def test_a_constant_that_was_left_out_shows_in_the_values_alone(monkeypatch):
    """Without -log(2 pi) / 2 a pixel the density is wrong and every gradient right."""
    params, batch = perturbed_params("gaussian"), make_batch("gaussian")
    want, whole = numpy_result(params, batch, "gaussian"), low.log_likelihood
    assert_parity(lowlevel_result(params, batch, "gaussian"), want)
    constant = 0.5 * D * np.log(2 * np.pi)
    monkeypatch.setattr(low, "log_likelihood", lambda *a: whole(*a) + constant)
    got = lowlevel_result(params, batch, "gaussian")
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(got, want)
    assert_same(got.grads, want.grads)


def test_a_forgotten_prior_is_noticed_by_the_trajectory():
    assert_trajectory(*trajectories())
    with pytest.raises(ParityError, match="loss at step [2-9]"):
        assert_trajectory(*trajectories(prior=False))


def test_squares_that_do_not_add_up_are_noticed_by_the_trajectory():
    class Forgetful(low.Adagrad):
        """As if only the last gradient counted."""

        def step(self):
            for squares in self.state.values():
                squares.zero_()
            super().step()

    with pytest.raises(ParityError, match="loss at step 3"):
        assert_trajectory(*trajectories(rule=Forgetful))


# --- properties


def test_every_parameter_is_a_leaf_and_receives_a_gradient():
    for decoder in DECODERS:
        config = config_of(decoder)
        params = low.init_params(config, torch.Generator().manual_seed(0))
        x, noise = (torch.from_numpy(a).float() for a in make_batch(decoder))
        low.elbo(*low.forward(params, x, noise, config)).sum().backward()
        for name, p in params.items():
            assert p.is_leaf and p.requires_grad and p.dtype == torch.float32, name
            assert p.grad.abs().sum() > 0, name


def test_initial_parameters_have_variance_0_01():
    params = low.init_params(low.VAEConfig(300, (200,), 100), torch.Generator().manual_seed(0))
    for name, p in params.items():
        assert p.std().item() == pytest.approx(0.1, rel=0.15), name
    again = low.init_params(low.VAEConfig(300, (200,), 100), torch.Generator().manual_seed(0))
    assert all(torch.equal(params[name], again[name]) for name in params)


def test_the_importance_weighted_bound_is_that_of_level_1():
    params, (x, _) = perturbed_params(), make_batch()
    tensors, generator = to_torch(params), torch.Generator().manual_seed(0)
    got = low.importance_weighted(tensors, torch.from_numpy(x), config_of(), 70, generator, 30)
    generator = torch.Generator().manual_seed(0)
    noise = torch.cat([torch.randn(n, B, Z, generator=generator) for n in (30, 30, 10)])
    want = log_mean_exp(log_weights(numpy_model(params), x, noise.double().numpy()))
    assert max_difference(got, want) < 1e-12
    many = importance_weighted(numpy_model(params), x, 5000, np.random.default_rng(0))
    assert np.abs(many - got.numpy()).max() < 1


def test_overfits_one_batch():
    config = low.VAEConfig(16, (32,), 3)
    generator = torch.Generator().manual_seed(0)
    params = low.init_params(config, generator)
    optimizer = low.Adagrad(params, 0.1)
    x = (torch.rand(6, 16, generator=generator) < 0.4).float()
    losses = [
        low.train_step(params, optimizer, x, torch.randn(1, 6, 3, generator=generator), config)
        for _ in range(400)
    ]
    assert losses[0] > 9 and sum(losses[-50:]) / 50 < 4.5


def test_train_step_returns_a_plain_loss_and_weighs_the_divergence():
    config = config_of()
    x, noise = (torch.from_numpy(a).float() for a in make_batch())
    losses = []
    for beta in (1.0, 0.0):
        params = low.init_params(config, torch.Generator().manual_seed(0))
        log_p, kl = low.forward(params, x, noise, config)
        losses.append(low.train_step(params, low.Adagrad(params, 0.1), x, noise, config, beta))
        assert not losses[-1].requires_grad
    assert losses[0] - losses[1] == pytest.approx(kl.sum(1).mean().item(), abs=1e-6)
    assert losses[1] == pytest.approx(-log_p.mean().item(), abs=1e-6)


def test_the_state_holds_all_that_a_resumed_training_needs():
    grads = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    whole, cut = ({"a": torch.ones(4, requires_grad=True)} for _ in range(2))

    def steps(params, optimizer, grads):
        for g in grads:
            params["a"].grad = g.clone()
            optimizer.step()

    steps(whole, low.Adagrad(whole, 0.1), grads)
    first = low.Adagrad(cut, 0.1)
    steps(cut, first, grads[:3])
    second = low.Adagrad(cut, 0.1)
    load_into(second.state, {name: s.clone() for name, s in first.state.items()})
    steps(cut, second, grads[3:])
    assert torch.equal(cut["a"], whole["a"])


def test_the_dtype_is_that_asked_for():
    params = low.init_params(config_of(), dtype=torch.float64)
    assert {p.dtype for p in params.values()} == {torch.float64}


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low.VAEConfig(5, ()), "expected positive sizes and at least one hidden layer"),
        (lambda: low.VAEConfig(5, (7,), 0), r"got pixels 5, hidden \(7,\), latents 0"),
        (lambda: low.VAEConfig(decoder="poisson"), "expected a decoder of .*, got 'poisson'"),
        (
            lambda: low.forward({}, torch.ones(3, 5), torch.ones(3, 2), config_of()),
            r"expected noise \(K, 3, 2\), got \(3, 2\)",
        ),
        (
            lambda: low.encode({}, torch.ones(3, 4), config_of()),
            r"expected inputs \(B, 5\), got \(3, 4\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
