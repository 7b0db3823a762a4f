"""Judges the exercises: your files (skipped until you start) and the solutions."""

import numpy as np
import pytest
import torch

import vae_lowlevel as low
from utils.exercises import diagnose, exercise
from utils.gradient_check import check_backward
from utils.parity import perturb
from utils.weights import to_torch
from vae_numpy import VAE, VAEConfig

ex01 = exercise(__file__, "ex01_latent_space")
ex02 = exercise(__file__, "ex02_interpolation")
ex03 = exercise(__file__, "ex03_beta_vae")
ex04 = exercise(__file__, "ex04_score_function")
ex05 = exercise(__file__, "ex05_importance_backward")

K, B, D, Z = 4, 3, 5, 2


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def binary(*shape, seed=1):
    return (np.random.default_rng(seed).random(shape) < 0.4).astype(float)


def several(got, count, what):
    """The parts of a tuple, or a plain word on what came instead."""
    assert isinstance(got, tuple | list) and len(got) == count, (
        f"{what}: expected {count} results, got {type(got).__name__}"
    )
    return got


# --- 01 latent space


def test_aggregate_moments(ex01):
    mean, log_var = 1 + 2 * numbers(7, 3), numbers(7, 3, seed=1)
    centre, covariance = several(ex01.aggregate_moments(mean, log_var), 2, "aggregate_moments")
    between = np.cov(mean.T, bias=True)
    within = np.diag(np.exp(log_var).mean(axis=0))
    diagnose(centre, mean.mean(axis=0), what="mean")
    diagnose(
        covariance,
        between + within,
        {
            "forget the spread within the examples": between,
            "forget the spread between the examples": within,
            "take log_var for the variance": between + np.diag(log_var.mean(axis=0)),
            "take the deviation for the variance": between
            + np.diag(np.exp(0.5 * log_var).mean(axis=0)),
            "take exp of the mean log_var; the mean is over the variances": between
            + np.diag(np.exp(log_var.mean(axis=0))),
            "divide by N - 1": np.cov(mean.T) + within,
            "forget to subtract the mean": mean.T @ mean / 7 + within,
            "add the variances to every element, not to the diagonal alone": between
            + np.exp(log_var).mean(axis=0),
        },
        what="covariance",
    )


def test_aggregate_moments_are_those_of_samples(ex01):
    mean, log_var = numbers(7, 2), numbers(7, 2, seed=1)
    drawn = (mean + np.exp(0.5 * log_var) * numbers(40_000, 7, 2, seed=2)).reshape(-1, 2)
    _, covariance = ex01.aggregate_moments(mean, log_var)
    off = np.abs(np.cov(drawn.T) - covariance).max()
    assert off < 0.05, f"expected the covariance of samples to within 0.05, got {off:.3f} off"


def test_manifold_latents(ex01):
    got = ex01.manifold_latents(4)
    probabilities = torch.tensor([1, 3, 5, 7], dtype=torch.float64) / 8
    line = torch.special.ndtri(probabilities).numpy()
    even = np.linspace(line[0], line[-1], 4)

    def grid(across, up):
        return np.stack(np.broadcast_arrays(across[None, :], up[:, None]), axis=-1)

    diagnose(
        got,
        grid(line, line[::-1]),
        {
            "let the second latent rise from top to bottom": grid(line, line),
            "exchange the two latents": grid(line, line[::-1])[..., ::-1],
            "let the first latent run down the columns": grid(line, line[::-1]).swapaxes(0, 1),
            "take equal steps of z instead of equal steps of probability": grid(even, even[::-1]),
            "leave out the inverse of the distribution function": grid(
                probabilities.numpy(), probabilities.numpy()[::-1]
            ),
        },
        what="grid",
    )


def test_neighbour_agreement(ex01):
    z = np.array([[0.0, 0], [0.1, 0], [5, 5], [5, 5.3], [0, 0.3], [5, 5.1]])
    labels = np.array([0, 0, 1, 2, 1, 1])
    # neighbours: 1, 0, 5, 5, 0, 2
    diagnose(
        ex01.neighbour_agreement(z, labels),
        4 / 6,
        {
            "let every example be its own neighbour": 1.0,
            "count instead of taking the share": 4,
            "take the share that does not agree": 2 / 6,
        },
        what="share",
    )
    z = numbers(40, 3, seed=3)
    labels = np.arange(40) % 3
    distance = np.abs(z[:, None] - z[None]).sum(axis=-1) + 1e9 * np.eye(40)
    squares = ((z[:, None] - z[None]) ** 2).sum(axis=-1) + 1e9 * np.eye(40)
    diagnose(
        ex01.neighbour_agreement(z, labels),
        (labels[squares.argmin(1)] == labels).mean(),
        {
            "add up absolute differences instead of squares": (
                labels[distance.argmin(1)] == labels
            ).mean()
        },
        what="share",
    )


# --- 02 interpolation

T = np.array([0.0, 0.2, 0.5, 1.0])


def test_lerp(ex02):
    a, b = numbers(Z), numbers(Z, seed=1)
    want = np.stack([(1 - t) * a + t * b for t in T])
    wrong = {
        "walk from b to a": np.stack([t * a + (1 - t) * b for t in T]),
        "add t times b without taking the difference": np.stack([a + t * b for t in T]),
    }
    diagnose(ex02.lerp(a, b, T), want, wrong, what="points")


def test_slerp(ex02):
    a, b = 2 * numbers(4), numbers(4, seed=1)
    w = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    first, second = np.sin((1 - T) * w)[:, None], np.sin(T * w)[:, None]
    straight = np.stack([(1 - t) * a + t * b for t in T])
    unnormalised = np.arccos(np.clip(a @ b, -1, 1))
    diagnose(
        ex02.slerp(a, b, T),
        (first * a + second * b) / np.sin(w),
        {
            "forget to divide by sin w": first * a + second * b,
            "return the straight line": straight,
            "walk from b to a": (second * a + first * b) / np.sin(w),
            "forget to divide a . b by the lengths": (
                np.sin((1 - T) * unnormalised)[:, None] * a + np.sin(T * unnormalised)[:, None] * b
            )
            / (np.sin(unnormalised) or 1),
        },
        what="points",
    )


def test_slerp_keeps_the_length_and_knows_vectors_that_agree(ex02):
    a = np.array([3.0, 0, 0])
    lengths = np.linalg.norm(ex02.slerp(a, np.array([0, 3.0, 0]), T), axis=1)
    diagnose(lengths, np.full(4, 3.0), what="lengths along the arc")
    diagnose(
        ex02.slerp(a, a, T),
        np.tile(a, (4, 1)),
        what="points between a vector and itself (there sin w = 0: take lerp)",
    )
    a = np.array([0.7, 0.3, 0.3])  # its cosine with 3 a comes out as 1.0000000000000002
    diagnose(
        ex02.slerp(a, 3 * a, T),
        ex02.lerp(a, 3 * a, T),
        what="points where rounding makes the cosine larger than 1",
    )


def test_expected_square(ex02):
    diagnose(
        ex02.expected_square(T, 10),
        10 * ((1 - T) ** 2 + T**2),
        {
            "forget Z, the number of latents": (1 - T) ** 2 + T**2,
            "take it for Z everywhere (the mixed term has mean zero)": np.full(4, 10.0),
            "forget the squares of t and 1 - t": 10 * ((1 - T) + T),
            "take the root": np.sqrt(10 * ((1 - T) ** 2 + T**2)),
        },
        what="mean square",
    )
    a, b = numbers(20_000, 6), numbers(20_000, 6, seed=1)
    middle = ((0.5 * a + 0.5 * b) ** 2).sum(axis=1).mean()
    assert abs(ex02.expected_square(np.array([0.5]), 6)[0] - middle) < 0.1


def test_path(ex02):
    model = VAE(VAEConfig(D, (7,), Z), np.random.default_rng(0))
    perturb(model.params, scale=0.5)
    x = binary(2, D, seed=3)
    mean, log_var, _ = model.encode(x)
    t = np.linspace(0, 1, 5)[:, None]
    images = model.mean_image(mean)
    (logits,), _ = model.decode((1 - t) * mean[0] + t * mean[1])
    diagnose(
        ex02.path(model, x[0], x[1], 5),
        model.mean_image((1 - t) * mean[0] + t * mean[1]),
        {
            "mix the two decoded images instead of the latents": (1 - t) * images[0]
            + t * images[1],
            "mix the pixels and code the mixture": model.mean_image(
                model.encode((1 - t) * x[0] + t * x[1])[0]
            ),
            "leave the logits as they are": logits,
            "walk between the log-variances": model.mean_image(
                (1 - t) * log_var[0] + t * log_var[1]
            ),
            "walk from the second image to the first": model.mean_image(
                t * mean[0] + (1 - t) * mean[1]
            ),
        },
        what="images",
    )


# --- 03 beta-VAE


def objective_case():
    kl = [[0.1, 0.9, 4.0], [0.7, 0.2, 0.3], [0.1, 0.8, 2.0]]  # (B, Z): means 0.3, 0.63, 2.1
    return numbers(K, B), np.array(kl)


def test_objective_forward(ex03):
    log_p, kl = objective_case()
    beta, free = 0.7, 0.5
    got = several(ex03.objective_forward(log_p, kl, beta, free), 2, "objective_forward")[0]
    per_latent = kl.mean(axis=0)
    assert (per_latent < free).any() and (per_latent > free).any()
    diagnose(
        got,
        log_p.mean() - beta * np.maximum(free, per_latent).sum(),
        {
            "forget free": log_p.mean() - beta * kl.sum(axis=1).mean(),
            "forget beta": log_p.mean() - np.maximum(free, per_latent).sum(),
            "weigh the likelihood with beta too": beta
            * (log_p.mean() - np.maximum(free, per_latent).sum()),
            "take the max for each example before the mean over the batch": log_p.mean()
            - beta * np.maximum(free, kl).sum(axis=1).mean(),
            "take the max of the sum instead of each latent": log_p.mean()
            - beta * max(free, per_latent.sum()),
            "average over the latents too": log_p.mean()
            - beta * np.maximum(free, per_latent).mean(),
            "add up the likelihood over the batch": log_p.mean(axis=0).sum()
            - beta * np.maximum(free, per_latent).sum(),
            "take the minimum": log_p.mean() - beta * np.minimum(free, per_latent).sum(),
            "add the divergence": log_p.mean() + beta * np.maximum(free, per_latent).sum(),
        },
        what="objective",
    )


def test_objective_without_free_bits_is_the_bound(ex03):
    log_p, kl = objective_case()
    value, _ = ex03.objective_forward(log_p, kl, 1.0, 0.0)
    diagnose(value, (log_p.mean(axis=0) - kl.sum(axis=1)).mean(), what="objective at free = 0")


def test_objective_backward(ex03):
    log_p, kl = objective_case()
    beta, free = 0.7, 0.5
    _, cache = ex03.objective_forward(log_p, kl, beta, free)
    dlog_p, dkl = several(ex03.objective_backward(cache), 2, "objective_backward")
    pays = kl.mean(axis=0) > free
    want = np.broadcast_to(-beta / B * pays, kl.shape)
    diagnose(
        dlog_p,
        np.full((K, B), 1 / (K * B)),
        {
            "forget the mean over the batch": np.full((K, B), 1 / K),
            "forget the mean over the samples": np.full((K, B), 1 / B),
            "forget both means": np.ones((K, B)),
        },
        what="dlog_likelihood",
    )
    diagnose(
        dkl,
        want,
        {
            "let latents that pay the flat price feel a pull": np.full(kl.shape, -beta / B),
            "forget the mean over the batch": want * B,
            "forget the minus sign": -want,
            "forget beta": want / beta,
            "pull only at the latents that pay the flat price": -beta / B - want,
            "look at each example instead of the batch's mean": -beta / B * (kl > free),
        },
        what="dkl",
    )
    check_backward(
        lambda a, b: ex03.objective_forward(a, b, beta, free),
        ex03.objective_backward,
        {"log_likelihood": log_p, "kl": kl},
    )


def autograd(model, x, noise, beta, free, keep=lambda mean, log_var, z: (mean, log_var, z)):
    """The gradients by level 2; ``keep`` may cut a path."""
    params = to_torch(model.params, requires_grad=True)
    config = low.VAEConfig(D, (7,), Z)
    x, noise = torch.from_numpy(x), torch.from_numpy(noise)
    mean, log_var = low.encode(params, x, config)
    z = low.reparameterise(mean, log_var, noise)
    mean, log_var, z = keep(mean, log_var, z)
    log_p = low.log_likelihood(low.decode(params, z, config), x)
    per_latent = low.gaussian_kl(mean, log_var).mean(dim=0)
    value = log_p.mean() - beta * per_latent.clamp(min=free).sum()
    value.backward()
    return {name: p.grad for name, p in params.items()}


@pytest.mark.parametrize("free", [0.0, 0.05])
def test_the_changed_model(ex03, free):
    model = ex03.BetaVAE(VAEConfig(D, (7,), Z), np.random.default_rng(0))
    perturb(model.params, scale=0.3)
    x, noise = binary(B, D), numbers(K, B, Z)
    model.forward(x, noise, 0.7, free)
    assert free == 0 or 0 < (model.kl.mean(axis=0) > free).sum() < Z
    got, want = model.backward(), autograd(model, x, noise, 0.7, free)
    no_sample = autograd(
        model, x, noise, 0.7, free, lambda mean, log_var, z: (mean, log_var, z.detach())
    )
    no_divergence = autograd(
        model, x, noise, 0.7, free, lambda mean, log_var, z: (mean.detach(), log_var.detach(), z)
    )
    assert set(got) == set(want)
    for name in ("encoder.mean.bias", "encoder.log_var.bias", *want):
        wrong = {}
        if name.startswith("encoder"):
            zero = torch.zeros_like(want[name])
            of = {n: g[name] if g[name] is not None else zero for n, g in
                  {"sample": no_sample, "divergence": no_divergence}.items()}  # fmt: skip
            wrong = {
                "forget the path through the sample": of["sample"],
                "forget the path through the divergence": of["divergence"],
            }
        diagnose(got[name], want[name], wrong, what=f"gradient of {name}")


# --- 04 score function


def score_case():
    weights = np.array([1.0, -0.5, 2.0])

    def f(z):
        return (weights * z**2).sum(axis=1) + 0.3 * z[:, 0] * z[:, 1] + 1

    def slope(z):
        return 2 * weights * z + 0.3 * z[:, [1, 0, 2]] * np.array([1, 1, 0])

    return f, slope, np.array([0.5, -1.0, 0.2]), np.array([-0.4, 0.3, 0.9]), numbers(6, 3)


def test_score_gradient(ex04):
    f, _, mean, log_var, noise = score_case()
    dmean, dlog_var = several(ex04.score_gradient(f, mean, log_var, noise), 2, "score_gradient")
    deviation = np.exp(0.5 * log_var)
    value = f(mean + deviation * noise)[:, None]
    diagnose(
        dmean,
        value * noise / deviation,
        {
            "forget to divide by the deviation": value * noise,
            "divide by the variance": value * noise / deviation**2,
            "multiply by the deviation": value * noise * deviation,
            "forget f": noise / deviation,
            "average over the samples": (value * noise / deviation).mean(axis=0),
            "take f at the mean": f(mean[None]) * noise / deviation,
            "take f at the noise": f(noise)[:, None] * noise / deviation,
            "take the variance for the deviation in z": f(mean + deviation**2 * noise)[:, None]
            * noise
            / deviation,
        },
        what="dmean",
    )
    diagnose(
        dlog_var,
        value * 0.5 * (noise**2 - 1),
        {
            "forget the factor 1/2": value * (noise**2 - 1),
            "forget the -1, which the normalisation of the density gives": value * 0.5 * noise**2,
            "take the derivative with respect to the deviation": value * (noise**2 - 1) / deviation,
            "take the derivative with respect to the variance": value
            * 0.5
            * (noise**2 - 1)
            / deviation**2,
        },
        what="dlog_var",
    )


def test_reparameterised_gradient(ex04):
    _, slope, mean, log_var, noise = score_case()
    got = ex04.reparameterised_gradient(slope, mean, log_var, noise)
    dmean, dlog_var = several(got, 2, "reparameterised_gradient")
    deviation = np.exp(0.5 * log_var)
    dz = slope(mean + deviation * noise)
    diagnose(
        dmean,
        dz,
        {
            "multiply by the deviation": dz * deviation,
            "multiply by the noise": dz * noise,
            "average over the samples": dz.mean(axis=0),
            "take the slope at the mean": np.broadcast_to(slope(mean[None]), dz.shape),
        },
        what="dmean",
    )
    diagnose(
        dlog_var,
        dz * 0.5 * deviation * noise,
        {
            "forget the factor 1/2": dz * deviation * noise,
            "forget the deviation": dz * 0.5 * noise,
            "forget the noise": dz * 0.5 * deviation,
            "take the derivative with respect to the deviation": dz * noise,
        },
        what="dlog_var",
    )


def test_score_gradient_with_baseline(ex04):
    f, _, mean, log_var, noise = score_case()
    got = ex04.score_gradient_with_baseline(f, mean, log_var, noise)
    dmean, dlog_var = several(got, 2, "score_gradient_with_baseline")
    deviation = np.exp(0.5 * log_var)
    value = f(mean + deviation * noise)
    score = {"dmean": noise / deviation, "dlog_var": 0.5 * (noise**2 - 1)}
    others = (value.sum() - value) / (len(value) - 1)
    for name, result in (("dmean", dmean), ("dlog_var", dlog_var)):
        diagnose(
            result,
            (value - others)[:, None] * score[name],
            {
                "leave the baseline out": value[:, None] * score[name],
                "take the mean over all samples, the sample itself too": (value - value.mean())[
                    :, None
                ]
                * score[name],
                "add the baseline": (value + others)[:, None] * score[name],
                "divide by K instead of K - 1": (value - others * (1 - 1 / len(value)))[:, None]
                * score[name],
                "return the baseline's part alone": others[:, None] * score[name],
            },
            what=name,
        )


def test_all_three_agree_on_average_and_scatter_as_they_should(ex04):
    f, slope = (lambda z: (z**2).sum(axis=1)), (lambda z: 2 * z)
    mean, log_var, noise = np.array([1.0]), np.zeros(1), numbers(100_000, 1)
    parts = [
        ex04.score_gradient(f, mean, log_var, noise)[0],
        ex04.score_gradient_with_baseline(f, mean, log_var, noise)[0],
        ex04.reparameterised_gradient(slope, mean, log_var, noise)[0],
    ]
    for part in parts:
        assert abs(part.mean() - 2) < 0.1, f"expected a mean near 2, got {part.mean():.3f}"
    variances = [part.var() for part in parts]
    assert abs(variances[0] / 30 - 1) < 0.15  # eq. 11.30 at 1
    assert abs(variances[2] - 4) < 0.1
    assert variances[0] > variances[1] > variances[2]


# --- 05 the importance-weighted bound


def test_weighted_bound_forward(ex05):
    log_w = 2 * numbers(K, B)
    want = torch.from_numpy(log_w).logsumexp(0).numpy() - np.log(K)
    got = several(ex05.weighted_bound_forward(log_w), 2, "weighted_bound_forward")[0]
    diagnose(
        got,
        want,
        {
            "average the log-weights: that is the ELBO": log_w.mean(axis=0),
            "add the weights up instead of averaging them": want + np.log(K),
            "average over the batch": torch.from_numpy(log_w).logsumexp(1).numpy() - np.log(B),
            "forget to add the largest back": want - log_w.max(axis=0),
        },
        what="bound",
    )
    diagnose(
        ex05.weighted_bound_forward(log_w - 1000)[0],
        want - 1000,
        {"let exp underflow; take the largest out first": np.full(B, -np.inf)},
        what="bound of tiny weights",
    )


def test_weighted_bound_backward(ex05):
    log_w, dy = 2 * numbers(K, B), numbers(B, seed=1)
    _, cache = ex05.weighted_bound_forward(log_w)
    share = torch.softmax(torch.from_numpy(log_w), 0).numpy()
    diagnose(
        ex05.weighted_bound_backward(dy, cache),
        dy * share,
        {
            "give every sample the same share: that is the ELBO's gradient": np.tile(
                dy / K, (K, 1)
            ),
            "forget to multiply by dy": share,
            "divide by K once more": dy * share / K,
            "normalise over the batch instead of the samples": dy
            * torch.softmax(torch.from_numpy(log_w), 1).numpy(),
            "forget to divide by the sum": dy * np.exp(log_w - log_w.max(axis=0)),
        },
        what="dlog_weights",
    )
    check_backward(
        ex05.weighted_bound_forward, ex05.weighted_bound_backward, {"log_weights": log_w}
    )
    _, cache = ex05.weighted_bound_forward(log_w - 1000)
    diagnose(ex05.weighted_bound_backward(dy, cache), dy * share, what="gradient of tiny weights")


def test_log_weights_backward(ex05):
    arguments = numbers(K, B), numbers(B, Z, seed=1), numbers(B, Z, seed=2)
    noise, dlog_w = numbers(K, B, Z, seed=3), numbers(K, B, seed=4)
    log_w, cache = ex05.log_weights_forward(*arguments, noise)
    found = several(ex05.log_weights_backward(dlog_w, cache), 3, "log_weights_backward")
    tensors = [torch.tensor(a, requires_grad=True) for a in arguments]
    z = tensors[1] + torch.exp(0.5 * tensors[2]) * torch.from_numpy(noise)
    parts = torch.from_numpy(noise) ** 2 + tensors[2] - z**2
    want = tensors[0] + 0.5 * parts.sum(-1)
    assert np.allclose(log_w, want.detach(), atol=1e-12)
    want.backward(torch.from_numpy(dlog_w))
    dz = -dlog_w[..., None] * z.detach().numpy()
    deviation = np.exp(0.5 * arguments[2])
    through_z = (dz * 0.5 * deviation * noise).sum(axis=0)
    alone = 0.5 * dlog_w.sum(axis=0)[:, None] + np.zeros((B, Z))
    diagnose(found[0], dlog_w, what="dlog_likelihood")
    diagnose(
        found[1],
        tensors[1].grad,
        {
            "forget the minus sign of the prior": -dz.sum(axis=0),
            "average over the samples": dz.mean(axis=0),
            "forget that the factor 1/2 cancels": 0.5 * dz.sum(axis=0),
        },
        what="dmean",
    )
    diagnose(
        found[2],
        tensors[2].grad,
        {
            "forget where log_var stands alone": through_z,
            "forget the way through z": alone,
            "subtract where log_var stands alone": through_z - alone,
            "forget the factor 1/2 of the deviation": 2 * through_z + alone,
            "forget the factor 1/2 where log_var stands alone": through_z + 2 * alone,
        },
        what="dlog_var",
    )


def test_effective_samples(ex05):
    log_w = 2 * numbers(K, B)
    w = np.exp(log_w)
    want = w.sum(axis=0) ** 2 / (w**2).sum(axis=0)
    diagnose(
        ex05.effective_samples(log_w),
        want,
        {
            "forget to square the sum": w.sum(axis=0) / (w**2).sum(axis=0),
            "turn the fraction over": 1 / want,
            "divide by K": want / K,
            "add up over the batch": w.sum(axis=1) ** 2 / (w**2).sum(axis=1),
        },
        what="effective number",
    )
    diagnose(ex05.effective_samples(np.full((K, 2), -1000.0)), [K, K], what="number, equal weights")
    one = np.full((K, 1), -900.0)
    one[2] = -800
    diagnose(ex05.effective_samples(one), [1.0], tol=1e-6, what="number, one weight has it all")
