"""Exercise: two gradients of a mean, and how far they scatter.

Wanted is the gradient of E[f(z)], z ~ N(mean, exp(log_var)), with respect to mean and log_var. Run
the file for a table of variances.
"""

import numpy as np


def score_gradient(f, mean, log_var, noise):
    """Score-function estimates (eqs. 11.27 to 11.29), one for each sample.

    Args:
        f: function of z (K, Z), gives (K,); it is called once, and has no gradient.
        mean, log_var: (Z,). noise: (K, Z), standard normal; z = mean + deviation * noise.

    Returns:
        (dmean, dlog_var), each (K, Z): their means over K estimate the gradient.
    """
    # TODO: f(z) times the score, for both parameters
    raise NotImplementedError("f(z) times the score, for both parameters")


def reparameterised_gradient(slope, mean, log_var, noise):
    """Estimates through the sample (eqs. 11.22 and 11.23), one for each sample.

    Args:
        slope: the derivative of f, (K, Z) -> (K, Z).

    Returns:
        (dmean, dlog_var), each (K, Z).
    """
    # TODO: z depends on mean and log_var; the chain rule does the rest
    raise NotImplementedError("z depends on mean and log_var; the chain rule does the rest")


def score_gradient_with_baseline(f, mean, log_var, noise):
    """As :func:`score_gradient`, with the mean of f over the other samples subtracted (eq. 11.31).

    The others: a baseline that holds the sample itself makes the estimate wrong on average.
    """
    # TODO: for sample k the mean of f over all samples but k
    raise NotImplementedError("for sample k the mean of f over all samples but k")


if __name__ == "__main__":
    f, slope = (lambda z: (z**2).sum(axis=1)), (lambda z: 2 * z)
    noise = np.random.default_rng(0).standard_normal((100_000, 1))
    print("f(z) = z^2, deviation 1; variance of one sample's gradient for the mean")
    print("  mean   score  by eq. 11.30   with baseline   reparameterised")
    for m in (0.0, 1.0, 3.0, 10.0):
        mean, log_var = np.array([m]), np.zeros(1)
        parts = [
            score_gradient(f, mean, log_var, noise),
            score_gradient_with_baseline(f, mean, log_var, noise),
            reparameterised_gradient(slope, mean, log_var, noise),
        ]
        a, b, c = (part[0].var() for part in parts)
        print(f"{m:6.1f} {a:7.1f} {m**4 + 14 * m**2 + 15:13.1f} {b:15.1f} {c:17.2f}")
