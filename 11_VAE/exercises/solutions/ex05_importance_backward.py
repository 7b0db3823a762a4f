"""Solution: the gradient of the importance-weighted bound, by hand (eqs. 11.34 to 11.38)."""

import numpy as np


def weighted_bound_forward(log_weights):
    """The logarithm of the mean of K weights, for each example (eq. 11.37).

    Args:
        log_weights: (K, B), as low as -1000: their exponentials are 0 in any float.

    Returns:
        bound (B,), and a cache.
    """
    # --- your code: take the largest out before exp
    largest = log_weights.max(axis=0)
    scaled = np.exp(log_weights - largest)
    return largest + np.log(scaled.mean(axis=0)), (scaled,)
    # --- end


def weighted_bound_backward(dy, cache):
    """Gradient (K, B) of :func:`weighted_bound_forward` with respect to log_weights (eq. 11.38)."""
    # --- your code: each weight's share of the sum
    (scaled,) = cache
    return dy * scaled / scaled.sum(axis=0)
    # --- end


def log_weights_forward(log_likelihood, mean, log_var, noise):
    """log w (K, B) from its parts (eq. 11.36), with z = mean + deviation * noise.

    Args:
        log_likelihood: (K, B). mean, log_var: (B, Z). noise: (K, B, Z).
    """
    z = mean + np.exp(0.5 * log_var) * noise
    log_w = log_likelihood + 0.5 * (noise**2 + log_var - z**2).sum(axis=-1)
    return log_w, (z, log_var, noise)


def log_weights_backward(dlog_w, cache):
    """Gradients (dlog_likelihood (K, B), dmean (B, Z), dlog_var (B, Z)).

    dlog_likelihood leads on into the decoder; here only the last three terms of eq. 11.36 count for
    dmean and dlog_var, the prior and q, both where log_var stands alone and where it moves z.
    """
    # --- your code: dz first, then mean and log_var; sum over the samples
    z, log_var, noise = cache
    dz = -dlog_w[..., None] * z
    dmean = dz.sum(axis=0)
    through_z = (dz * 0.5 * np.exp(0.5 * log_var) * noise).sum(axis=0)
    alone = 0.5 * dlog_w.sum(axis=0)[:, None]
    return dlog_w, dmean, through_z + alone
    # --- end


def effective_samples(log_weights):
    """How many equal weights would count as much: (sum of w)^2 / sum of w^2, (B,) from (K, B)."""
    # --- your code: between 1 (one weight has it all) and K
    scaled = np.exp(log_weights - log_weights.max(axis=0))
    return scaled.sum(axis=0) ** 2 / (scaled**2).sum(axis=0)
    # --- end
