"""Tests of level 3: equal to levels 1 and 2 and to torch.distributions; estimates of p(x)."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import distributions, nn

import vae_lowlevel as low
import vae_numpy as np_level
from adagrad_numpy import Adagrad, add_prior
from conv_vae_paper import ConvConfig, ConvDecoder, ConvEncoder
from estimates_paper import (
    fit_gaussian,
    gradient,
    hmc,
    importance_weighted,
    leapfrog,
    log_gaussian,
    log_mean_exp,
    posterior_estimate,
)
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch
from vae_paper import VAE, VAEConfig, adagrad, elbo, initialise, observe, vae_loss

K, B, D, Z = 4, 3, 5, 2
DECODERS = ("bernoulli", "gaussian")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def config_of(decoder="bernoulli", kind=VAEConfig):
    return kind(D, (7, 6), Z, decoder)


def make_batch(decoder="bernoulli", seed=0, pixels=D):
    generator = seeded(seed)
    x = torch.rand(B, pixels, generator=generator, dtype=torch.float64)
    x = (x < 0.4).double() if decoder == "bernoulli" else x
    return x, torch.randn(K, B, Z, generator=generator, dtype=torch.float64)


def make_model(decoder="bernoulli"):
    torch.manual_seed(0)
    model = VAE.of(config_of(decoder)).double()
    perturb(model, scale=0.3)
    return model


def result_of(model, batch, beta=1.0):
    model.zero_grad()
    bound = elbo(*model(*batch), beta)
    loss = -bound.mean()
    loss.backward()
    return Result(bound, loss, {name: p.grad.clone() for name, p in model.named_parameters()})


def lowlevel_result(model, batch, decoder, beta=1.0):
    params = to_torch(model, requires_grad=True)
    terms = low.forward(params, *batch, config_of(decoder, low.VAEConfig))
    bound = low.elbo(*terms, beta)
    loss = -bound.mean()
    loss.backward()
    return Result(bound, loss, {name: p.grad for name, p in params.items()})


# --- across levels


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_equals_level_2(decoder, beta):
    model, batch = make_model(decoder), make_batch(decoder)
    assert_parity(result_of(model, batch, beta), lowlevel_result(model, batch, decoder, beta))


@pytest.mark.parametrize("decoder", DECODERS)
def test_ten_steps_equal_level_1(decoder):
    model = make_model(decoder)
    config = config_of(decoder, np_level.VAEConfig)
    reference = np_level.VAE(config, np.random.default_rng(0))
    load_into(reference.params, model)
    optimizer, numpy_optimizer = adagrad(model, 0.1, 50), Adagrad(reference.params, 0.1)
    losses, numpy_losses = [], []
    for step in range(10):
        x, noise = make_batch(decoder, step)
        optimizer.zero_grad()
        loss = -elbo(*model(x, noise)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss)
        numpy_losses.append(-reference.forward(x.numpy(), noise.numpy()).mean())
        grads = reference.backward(np.full(B, -1 / B))
        numpy_optimizer.step(add_prior(grads, reference.params, 50))
    assert_trajectory(losses, numpy_losses)


# --- against the library: torch.nn for the networks, torch.distributions for the rest


def tanh_net(first, second, last):
    """As a user of PyTorch would write it: the networks as one Sequential each."""
    layers = [nn.Linear(first, second[0]), nn.Tanh(), nn.Linear(second[0], second[1]), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(second[1], last)).double()


def plain_vae(decoder):
    """(encoder, decoder) with both heads in one last layer, as most code in the wild has it."""
    outputs = D if decoder == "bernoulli" else 2 * D
    return tanh_net(D, (7, 6), 2 * Z), tanh_net(Z, (6, 7), outputs)


def convert_plain_state_dict(state, side, decoder):
    """Names of a plain ``nn.Sequential`` to ours; the last layer is cut into its two heads."""
    heads = ("mean", "log_var")
    if side == "decoder" and decoder == "bernoulli":
        heads = ("logits",)
    found = {}
    for name, value in state.items():
        number, kind = name.split(".")
        if number == "4":
            for head, part in zip(heads, value.chunk(len(heads)), strict=True):
                found[f"{side}.{head}.{kind}"] = part
        else:
            found[f"{side}.layers.{int(number) // 2}.{kind}"] = value
    return found


def plain_result(networks, batch, decoder):
    encoder, generator = networks
    x, noise = batch
    mean, log_var = encoder(x).chunk(2, dim=-1)
    q = distributions.Independent(distributions.Normal(mean, (0.5 * log_var).exp()), 1)
    prior = distributions.Independent(
        distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1
    )
    outputs = generator(mean + q.base_dist.scale * noise)
    if decoder == "bernoulli":
        p = distributions.Bernoulli(logits=outputs)
    else:
        of_mean, of_log_var = outputs.chunk(2, dim=-1)
        p = distributions.Normal(of_mean.sigmoid(), (0.5 * of_log_var).exp())
    log_p = distributions.Independent(p, 1).log_prob(x)
    bound = log_p.mean(dim=0) - distributions.kl_divergence(q, prior)
    loss = -bound.mean()
    loss.backward()
    grads = {}
    for side, network in (("encoder", encoder), ("decoder", generator)):
        own = {name: p.grad for name, p in network.named_parameters()}
        grads |= convert_plain_state_dict(own, side, decoder)
    return Result(bound, loss, grads)


def both(decoder, fault=lambda model: None):
    """Our result, with a fault built in, and the library's, from the same weights."""
    torch.manual_seed(0)
    networks = plain_vae(decoder)
    model = make_model(decoder)
    state = {}
    for side, network in zip(("encoder", "decoder"), networks, strict=True):
        perturb(network, scale=0.3)
        state |= convert_plain_state_dict(network.state_dict(), side, decoder)
    load_into(model, state)
    fault(model)
    batch = make_batch(decoder)
    return result_of(model, batch), plain_result(networks, batch, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_equals_torch_distributions(decoder):
    assert_parity(*both(decoder))


def heads_swapped(model):
    encoder = model.encoder
    encoder.mean, encoder.log_var = encoder.log_var, encoder.mean


def missing_bias(model):
    nn.init.zeros_(model.encoder.layers[0].bias)


def deterministic_latents(model):
    forward = model.forward
    model.forward = lambda x, noise: forward(x, torch.zeros_like(noise))


def decoder_with_another_link(model):
    output = model.decoder.forward
    model.decoder.forward = lambda z: F.logsigmoid(output(z))


@pytest.mark.parametrize(
    "fault", [heads_swapped, missing_bias, deterministic_latents, decoder_with_another_link]
)
def test_sabotage_is_noticed(fault):
    assert_parity(*both("bernoulli"))
    with pytest.raises(ParityError):
        assert_parity(*both("bernoulli", fault))


def test_a_gaussian_mean_without_its_sigmoid_is_noticed():
    def fault(model):
        decoder = model.decoder
        decoder.forward = lambda z: (
            decoder.mean(decoder.hidden(z)),
            decoder.log_var(decoder.hidden(z)),
        )

    assert_parity(*both("gaussian"))
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(*both("gaussian", fault))


@pytest.mark.parametrize("decoder", DECODERS)
def test_joint_and_weights_are_those_of_torch_distributions(decoder):
    model, (x, noise) = make_model(decoder), make_batch(decoder)
    prior = distributions.Normal(torch.zeros(Z).double(), torch.ones(Z).double())
    mean, log_var = model.encoder(x)
    q = distributions.Normal(mean, (0.5 * log_var).exp())
    z = mean + q.scale * noise
    joint = prior.log_prob(z).sum(-1) + model.decoder.log_likelihood(x, z)
    assert max_difference(model.log_joint(x, z), joint) < 1e-12
    want = joint - q.log_prob(z).sum(-1)
    assert max_difference(model.log_weights(x, noise), want) < 1e-12
    tensors, config = to_torch(model), config_of(decoder, low.VAEConfig)
    assert max_difference(want, low.log_weights(tensors, x, noise, config)) < 1e-12


# --- the paper


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_sizes_of_the_paper():
    """Parameters by hand: each layer has (inputs + 1) * outputs."""
    with torch.device("meta"):
        for latents in (2, 5, 10, 20, 200):
            model = VAE.of(VAEConfig.mnist(latents))
            want = 785 * 500 + 2 * 501 * latents + (latents + 1) * 500 + 501 * 784
            assert count(model) == want
            log_p, kl = model(torch.empty(100, 784), torch.empty(1, 100, latents))
            assert log_p.shape == (1, 100) and kl.shape == (100, latents)
        assert count(VAE.of(VAEConfig.mnist(20))) == 815_824
        frey = VAE.of(VAEConfig.frey_faces(2))
        assert count(frey) == 561 * 200 + 2 * 201 * 2 + 3 * 200 + 2 * 201 * 560
        assert frey.sample(4).shape == (4, 560)
        assert count(VAE.of(VAEConfig.marginal())) == 785 * 100 + 2 * 101 * 3 + 400 + 101 * 784
        burda = 785 * 200 + 201 * 200 + 2 * 201 * 50 + 51 * 200 + 201 * 200 + 201 * 784
        assert count(VAE.of(VAEConfig.burda2015())) == burda


def test_presets():
    assert VAEConfig() == VAEConfig.mnist() == VAEConfig(784, (500,), 20, "bernoulli")
    assert VAEConfig.frey_faces(5) == VAEConfig(560, (200,), 5, "gaussian")
    assert VAEConfig.marginal() == VAEConfig(784, (100,), 3)
    assert VAEConfig.burda2015() == VAEConfig(784, (200, 200), 50)


def test_initial_parameters_have_variance_0_01():
    torch.manual_seed(0)
    for name, p in VAE.of(VAEConfig(300, (200,), 100)).named_parameters():
        assert p.std().item() == pytest.approx(0.1, rel=0.15), name
    model = VAE.of(VAEConfig(300, (200,), 100))
    initialise(model, 0.5)
    assert model.decoder.logits.weight.std().item() == pytest.approx(0.5, rel=0.05)


def test_the_update_rule_is_adagrad_with_a_prior_on_the_decoder():
    encoder, decoder = adagrad(make_model(), 0.02, 50).param_groups
    assert (encoder["lr"], encoder["weight_decay"]) == (0.02, 0)
    assert (decoder["lr"], decoder["weight_decay"]) == (0.02, 1 / 50)
    assert (decoder["eps"], decoder["lr_decay"]) == (1e-10, 0)
    assert len(encoder["params"]) == 8 and len(decoder["params"]) == 6


def test_the_loss_draws_its_noise_from_torchs_generator():
    model, (x, _) = make_model(), make_batch()
    torch.manual_seed(1)
    loss, terms = vae_loss(model, x, samples=6, beta=0.5)
    torch.manual_seed(1)
    log_p, kl = model(x, torch.randn(6, B, Z, dtype=torch.float64))
    assert loss.item() == pytest.approx(-elbo(log_p, kl, 0.5).mean().item())
    assert terms["kl"].item() == pytest.approx(kl.sum(1).mean().item())
    assert terms["log_likelihood"].item() == pytest.approx(log_p.mean().item())


# --- estimates of the marginal likelihood


W = torch.randn(D, Z, generator=seeded(), dtype=torch.float64)
X = torch.randn(B, D, generator=seeded(1), dtype=torch.float64)


def joint_of(x):
    """log p(x, z) of x = W z + noise of deviation 1/2; here p(x) and p(z|x) are known."""
    constant = (D + Z) / 2 * math.log(2 * math.pi) + D * math.log(0.5)
    return lambda z: -2 * (x - z @ W.T).square().sum(-1) - 0.5 * z.square().sum(-1) - constant


def exact_solution():
    """log p(X), and mean and covariance of the posterior."""
    eye = torch.eye(D, dtype=torch.float64)
    marginal = distributions.MultivariateNormal(torch.zeros(D).double(), W @ W.T + 0.25 * eye)
    covariance = torch.linalg.inv(torch.eye(Z, dtype=torch.float64) + 4 * W.T @ W)
    return marginal.log_prob(X), 4 * X @ W @ covariance, covariance


def test_the_gradient_of_the_joint_vanishes_at_the_posterior_mean():
    _, mean, _ = exact_solution()
    assert gradient(joint_of(X), mean).abs().max() < 1e-12
    assert gradient(joint_of(X), mean + 0.1).abs().max() > 0.1


def test_leapfrog_can_be_reversed_and_keeps_the_energy():
    _, mean, _ = exact_solution()
    z, momentum = mean + 0.3, torch.randn(B, Z, generator=seeded(), dtype=torch.float64)
    step = torch.full((B, 1), 0.05, dtype=torch.float64)
    there, faster = leapfrog(joint_of(X), z, momentum, step, 20)
    back, _ = leapfrog(joint_of(X), there, -faster, step, 20)
    assert max_difference(back, z) < 1e-12 and (there - z).abs().max() > 0.1
    energies = [
        -joint_of(X)(place) + 0.5 * moving.square().sum(-1)
        for place, moving in ((z, momentum), (there, faster))
    ]
    assert (energies[0] - energies[1]).abs().max() < 0.05


def test_hmc_samples_the_posterior():
    """A hundred chains on one x, thirty samples each."""
    _, mean, covariance = exact_solution()
    start = torch.zeros(100, Z).double()
    samples, accepted = hmc(joint_of(X[0].expand(100, D)), start, 30, seeded(), burn_in=60)
    assert samples.shape == (30, 100, Z) and accepted.shape == (100,)
    drawn = samples.flatten(0, 1)
    assert (drawn.mean(0) - mean[0]).abs().max() < 0.03
    assert (torch.cov(drawn.T) / covariance - 1).diagonal().abs().max() < 0.15
    assert 0.8 < accepted.mean() < 0.97


def test_appendix_d_finds_p_of_x():
    exact, _, _ = exact_solution()
    start = torch.zeros(B, Z).double()
    got, accepted = posterior_estimate(joint_of(X), start, seeded(), 80, burn_in=60)
    assert (got - exact).abs().max() < 0.15
    assert accepted.shape == (B,)


def test_with_the_posterior_itself_a_single_sample_is_exact():
    """Then q(z) / p(x, z) = 1 / p(x) whatever z is: no variance at all, in both estimates."""
    exact, mean, covariance = exact_solution()
    factor = torch.linalg.cholesky(covariance).expand(B, Z, Z)

    def log_weights(noise):
        z = mean + torch.einsum("bij,kbj->kbi", factor, noise)
        return torch.stack([joint_of(X)(part) for part in z]) - log_gaussian(z, mean, factor)

    like = torch.zeros((), dtype=torch.float64)
    for samples in (1, 7):
        got = importance_weighted(log_weights, (B, Z), samples, seeded(), like=like)
        assert max_difference(got, exact) < 1e-12


def test_a_fitted_gaussian_is_torchs():
    samples = torch.randn(60, B, Z, generator=seeded(), dtype=torch.float64)
    mean, factor = fit_gaussian(samples, jitter=0.0)
    for b in range(B):
        covariance = torch.cov(samples[:, b].T)
        reference = distributions.MultivariateNormal(samples[:, b].mean(0), covariance)
        want = reference.log_prob(samples[:, b])
        assert max_difference(log_gaussian(samples, mean, factor)[:, b], want) < 1e-12


def grid_log_p(model, x, points=161, reach=5.0):
    """log p(x) of a model with two latents, by summing over a grid."""
    line = torch.linspace(-reach, reach, points, dtype=x.dtype)
    z = torch.cartesian_prod(line, line)[:, None] + torch.zeros(len(x), 2, dtype=x.dtype)
    with torch.no_grad():
        return model.log_joint(x, z).logsumexp(0) + 2 * math.log(2 * reach / (points - 1))


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_bounds_and_the_estimates_close_in_on_log_p(decoder):
    model, (x, _) = make_model(decoder), make_batch(decoder)
    exact = grid_log_p(model, x)
    noise = torch.randn(8192, B, Z, generator=seeded(3), dtype=torch.float64)
    with torch.no_grad():
        weights = model.log_weights(x, noise)
    # The same samples in larger and larger groups: each bound is at least the last (Jensen).
    bounds = [weights.mean(0)] + [
        log_mean_exp(weights.reshape(size, -1, B)).mean(0) for size in (2, 32, 1024, 8192)
    ]
    assert all((b > a).all() for a, b in zip(bounds[:-1], bounds[1:], strict=True))
    assert (bounds[-1] - exact).abs().max() < 0.1 and (bounds[0] < exact).all()
    start = model.encoder(x)[0]
    got, _ = posterior_estimate(lambda z: model.log_joint(x, z), start, seeded(), 60, burn_in=60)
    assert (got - exact).abs().max() < 0.4


def test_chunks_do_not_change_the_estimate():
    model, (x, _) = make_model(), make_batch()
    parts = [torch.randn(n, B, Z, generator=g) for g in [seeded()] for n in (30, 30, 10)]
    with torch.no_grad():
        want = log_mean_exp(model.log_weights(x, torch.cat(parts).double()))
    got = importance_weighted(
        lambda noise: model.log_weights(x, noise), (B, Z), 70, seeded(), 30, like=x
    )
    assert max_difference(got, want) < 1e-12


# --- convolutions


def make_conv(side=8):
    torch.manual_seed(0)
    config = ConvConfig(side, channels=3, width=7, latents=Z)
    model = VAE(ConvEncoder(config), ConvDecoder(config), Z).double()
    perturb(model)
    return model


def conv_reference(model, x, noise):
    """The same from functions of torch alone, one sample at a time."""
    p, (batch, side) = dict(model.named_parameters()), (len(x), math.isqrt(x.shape[1]))

    def of(name):
        return p[f"{name}.weight"], p[f"{name}.bias"]

    h = x.view(batch, 1, side, side)
    for name in ("conv1", "conv2"):
        h = F.conv2d(h, *of(f"encoder.{name}"), stride=2, padding=1).tanh()
    h = F.linear(h.reshape(batch, -1), *of("encoder.hidden")).tanh()
    mean, log_var = (F.linear(h, *of(f"encoder.{head}")) for head in ("mean", "log_var"))
    q = distributions.Normal(mean, (0.5 * log_var).exp())
    prior = distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    log_p = []
    for e in noise:
        h = mean + q.scale * e
        for name in ("hidden", "maps"):
            h = F.linear(h, *of(f"decoder.{name}")).tanh()
        h = h.view(batch, -1, side // 4, side // 4)
        h = F.conv_transpose2d(h, *of("decoder.conv1"), stride=2, padding=1).tanh()
        h = F.conv_transpose2d(h, *of("decoder.conv2"), stride=2, padding=1)
        log_p.append(distributions.Bernoulli(logits=h.reshape(batch, -1)).log_prob(x).sum(-1))
    bound = torch.stack(log_p).mean(0) - distributions.kl_divergence(q, prior).sum(-1)
    grads = torch.autograd.grad(-bound.mean(), list(p.values()))
    return Result(bound, -bound.mean(), dict(zip(p, grads, strict=True)))


@pytest.mark.parametrize("side", [8, 12])
def test_convolutional_equals_plain_torch(side):
    model, batch = make_conv(side), make_batch(pixels=side * side)
    assert_parity(result_of(model, batch), conv_reference(model, *batch))


def kernels_upside_down(model):
    with torch.no_grad():
        model.decoder.conv1.weight.copy_(model.decoder.conv1.weight.flip(2, 3))


def samples_for_examples(model):
    decode = model.decoder.forward
    model.decoder.forward = lambda z: decode(z).reshape(B, K, -1).transpose(0, 1)


@pytest.mark.parametrize("fault", [kernels_upside_down, samples_for_examples])
def test_sabotaged_convolutions_are_noticed(fault):
    model, batch = make_conv(), make_batch(pixels=64)
    want = conv_reference(model, *batch)
    assert_parity(result_of(model, batch), want)
    fault(model)
    with pytest.raises(ParityError):
        assert_parity(result_of(model, batch), want)


def test_convolutional_sizes():
    for side in (8, 28):
        config = ConvConfig(side)
        model = VAE(ConvEncoder(config), ConvDecoder(config), 20)
        x = torch.rand(2, side * side)
        assert model.reconstruct(x).shape == (2, side * side)
        assert model.sample(3).shape == (3, side * side)
        log_p, kl = model(x, torch.randn(5, 2, 20))
        assert log_p.shape == (5, 2) and kl.shape == (2, 20)
    convolutions = (16 * 1 + 1) * 32 + (16 * 32 + 1) * 64 + (16 * 64 + 1) * 32 - 32 + 32
    maps = 7 * 7 * 64
    linear = (maps + 1) * 256 + 2 * 257 * 20 + 21 * 256 + 257 * maps
    assert count(model) == convolutions + 16 * 32 + 1 + linear


# --- properties


@pytest.mark.parametrize("make", [make_model, make_conv])
def test_reconstructions_and_samples_are_probabilities(make):
    model = make()
    x = make_batch(pixels=D if make is make_model else 64)[0]
    got = model.reconstruct(x)
    assert got.shape == x.shape and ((got > 0) & (got < 1)).all()
    z = torch.randn(6, Z, generator=seeded()).double()
    assert torch.equal(model.sample(6, seeded()), model.decoder.mean_image(z))


def test_a_gaussian_reconstruction_is_the_mean():
    model, (x, _) = make_model("gaussian"), make_batch("gaussian")
    mean, _ = model.decoder(model.encoder(x)[0])
    assert torch.equal(model.reconstruct(x), mean) and ((mean > 0) & (mean < 1)).all()


def test_observed_data():
    images = torch.tensor([0.0, 0.25, 1.0]).repeat(20_000, 1)
    torch.manual_seed(0)
    drawn = observe(images)
    assert set(drawn.unique().tolist()) == {0, 1}
    assert (drawn.mean(0) - images[0]).abs().max() < 0.02
    grey = torch.arange(17)[:, None] / 16 + torch.zeros(17, 100)
    drawn = observe(grey, 17)
    assert torch.equal((drawn * 17).floor(), (grey * 16).round())


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = VAE.of(VAEConfig(16, (32,), 3))
    optimizer = adagrad(model, 0.1, 10**9)
    x = (torch.rand(6, 16) < 0.4).float()
    losses = []
    for _ in range(400):
        optimizer.zero_grad()
        loss, _ = vae_loss(model, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 9 and sum(losses[-50:]) / 50 < 4.5


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VAEConfig(5, ()), "expected positive sizes and at least one hidden layer"),
        (lambda: VAEConfig(0), r"got pixels 0, hidden \(500,\), latents 20"),
        (lambda: VAEConfig(decoder="poisson"), "expected a decoder of .*, got 'poisson'"),
        (lambda: ConvConfig(27), "expected a side that is a multiple of 4, got 27"),
        (lambda: ConvConfig(0), "expected a side that is a multiple of 4, got 0"),
        (lambda: ConvConfig(channels=0), "expected positive sizes, got channels 0"),
        (
            lambda: make_model()(make_batch()[0], torch.ones(3, 2)),
            r"expected noise \(K, 3, 2\), got \(3, 2\)",
        ),
        (
            lambda: make_model()(make_batch()[0], torch.ones(1, 2, 2)),
            r"expected noise \(K, 3, 2\), got \(1, 2, 2\)",
        ),
        (
            lambda: importance_weighted(None, (3, 2), 0, seeded()),
            "expected at least one sample, got 0",
        ),
        (lambda: fit_gaussian(torch.ones(2, 3, 2)), "expected more than 2 samples for 2 latents"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
