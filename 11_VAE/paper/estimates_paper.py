"""How probable are the data? Estimates of the marginal likelihood p(x) (level 3).

Papers:
- D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendix D
  (the estimator) and E (the settings of its sampler).
- Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", 2015, arXiv:1509.00519,
  section 3: the importance-weighted bound.
- R. M. Neal, "MCMC using Hamiltonian dynamics", 2010, arXiv:1206.1901: the sampler.

Map of this file:
    log_mean_exp, importance_weighted    a bound that rises with the number of samples
    leapfrog, hmc                   samples from the posterior p(z|x)
    fit_gaussian, log_gaussian      the density that appendix D fits to them
    posterior_estimate              appendix D

Nothing here knows a network: the functions take ``log_joint(z)``, (B, Z) -> (B,), which is
log p(x, z) for a batch of fixed x, or ``log_weights(noise)``, (K, B, Z) -> (K, B).

Shapes: B batch, Z latents, K samples for each example.

Read before: vae_paper.py; theory.md sections 10 and 12.

Deviations from the paper: it says neither which density is fitted (here a Gaussian with all
covariances) nor how long the sampler runs before its samples count (here ``burn_in`` steps, which
also settle the step size at 90 % acceptance, as appendix E wants).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    """Logarithm of the mean of exp(values) along an axis; safe for values of any size."""
    return values.logsumexp(dim) - math.log(values.shape[dim])


@torch.no_grad()
def importance_weighted(
    log_weights: LogDensity,
    shape: tuple[int, int],
    samples: int,
    generator: torch.Generator,
    chunk: int = 100,
    like: Tensor | None = None,
) -> Tensor:
    """The importance-weighted bound (B,): log of the mean of K weights p(x, z) / q(z|x).

    Args:
        log_weights: gives (K, B) for noise (K, B, Z).
        shape: B and Z.
        samples: K.
        generator: of the noise, on the CPU.
        chunk: samples that are in memory at once.
        like: a tensor whose device and dtype the noise takes.

    Raises:
        ValueError: fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f"expected at least one sample, got {samples}")
    sums = []
    for start in range(0, samples, chunk):
        size = min(chunk, samples - start)
        noise = torch.randn(size, *shape, generator=generator)
        sums.append(log_weights(noise if like is None else noise.to(like)).logsumexp(dim=0))
    return torch.stack(sums).logsumexp(dim=0) - math.log(samples)


# --- Hamiltonian Monte Carlo


def gradient(log_joint: LogDensity, z: Tensor) -> Tensor:
    """The gradient (B, Z) of log p(x, z) with respect to z (B, Z)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(log_joint(z).sum(), z)[0]


def leapfrog(
    log_joint: LogDensity, z: Tensor, momentum: Tensor, step: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Follow the motion of z (B, Z) in the potential -log p(x, z) for some steps.

    Half a step of the momentum, whole steps of place and momentum in turn, half a step again: so
    the motion can be reversed and keeps volumes, which :func:`hmc` needs.

    Args:
        momentum: (B, Z). step: (B, 1), the length of a step, for each example its own.
    """
    momentum = momentum + 0.5 * step * gradient(log_joint, z)
    for i in range(steps):
        z = z + step * momentum
        share = 1.0 if i < steps - 1 else 0.5
        momentum = momentum + share * step * gradient(log_joint, z)
    return z, momentum


def hmc(
    log_joint: LogDensity,
    z: Tensor,
    samples: int,
    generator: torch.Generator,
    burn_in: int = 100,
    leapfrog_steps: int = 4,
    step: float = 0.1,
    target: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """Samples of z from the posterior p(z|x), one Markov chain for each example.

    Args:
        z: (B, Z), where the chains begin; the encoder's mean, say.
        samples: K, after ``burn_in`` steps during which each chain's step length is settled.
        target: the acceptance rate that the step length aims at (appendix E: 90 %).

    Returns:
        The samples (K, B, Z), and the share of proposals accepted (B,).
    """
    z = z.detach()
    step_size = torch.full_like(z[:, :1], step)
    # Balanced where the acceptance is the target: 0.9 ln 1.02 = 0.1 * 9 ln 1.02.
    up, down = step_size.new_tensor([1.02, 1.02 ** -(target / (1 - target))])
    kept, accepted = [], torch.zeros_like(z[:, 0])
    energy = -log_joint(z).detach()
    for i in range(burn_in + samples):
        momentum = torch.randn(z.shape, generator=generator).to(z)
        new_z, new_momentum = leapfrog(log_joint, z, momentum, step_size, leapfrog_steps)
        new_energy = -log_joint(new_z).detach()
        before = energy + 0.5 * momentum.square().sum(dim=1)
        after = new_energy + 0.5 * new_momentum.square().sum(dim=1)
        accept = torch.rand(len(z), generator=generator).to(z) < torch.exp(before - after)
        z = torch.where(accept[:, None], new_z, z)
        energy = torch.where(accept, new_energy, energy)
        if i < burn_in:
            step_size = step_size * torch.where(accept, up, down)[:, None]
        else:
            kept.append(z)
            accepted += accept
    return torch.stack(kept), accepted / samples


# --- appendix D


def fit_gaussian(samples: Tensor, jitter: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean (B, Z) and Cholesky factor of the covariance (B, Z, Z) of samples (K, B, Z).

    Raises:
        ValueError: not more samples than latents: the covariance would be singular.
    """
    K, _, Z = samples.shape
    if K <= Z:
        raise ValueError(f"expected more than {Z} samples for {Z} latents, got {K}")
    mean = samples.mean(dim=0)
    centred = samples - mean
    covariance = torch.einsum("kbi,kbj->bij", centred, centred) / (K - 1)
    eye = jitter * torch.eye(Z, dtype=samples.dtype, device=samples.device)
    return mean, torch.linalg.cholesky(covariance + eye)


def log_gaussian(z: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Log-density (K, B) at z (K, B, Z) of Gaussians with mean (B, Z) and factor (B, Z, Z)."""
    centred = (z - mean).unsqueeze(-1)  # (K, B, Z, 1)
    whitened = torch.linalg.solve_triangular(factor, centred, upper=False).squeeze(-1)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    constant = 0.5 * math.log(2 * math.pi) * z.shape[-1]
    return -0.5 * whitened.square().sum(dim=-1) - log_det - constant


def posterior_estimate(
    log_joint: LogDensity,
    z: Tensor,
    generator: torch.Generator,
    samples: int = 50,
    burn_in: int = 100,
    leapfrog_steps: int = 4,
) -> tuple[Tensor, Tensor]:
    """log p(x) (B,) by appendix D, and the sampler's acceptance (B,).

    Sample the posterior, fit a density ρ to the samples, sample anew, and average ρ(z) / p(x, z):
    under the posterior its mean is 1 / p(x) (eq. 11.40). Reliable only for few latents. The paper
    calls the density q; here q is the encoder's.

    Args:
        z: (B, Z), where the chains begin.
    """
    first, _ = hmc(log_joint, z, samples, generator, burn_in, leapfrog_steps)
    mean, factor = fit_gaussian(first)
    second, accepted = hmc(log_joint, first[-1], samples, generator, burn_in, leapfrog_steps)
    with torch.no_grad():
        log_p = torch.stack([log_joint(part) for part in second])
        return -log_mean_exp(log_gaussian(second, mean, factor) - log_p), accepted
