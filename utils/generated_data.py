"""Small data sets made on the spot, with a known truth: the loaders of the "generated" kind.

Each function returns whole arrays; :mod:`utils.data_loaders` registers them under a name.
"""

import numpy as np


def xor() -> tuple[np.ndarray, np.ndarray]:
    """The four cases of exclusive or.

    Returns:
        patterns (4, 2) float64 of 0 and 1; labels (4,) int64.
    """
    x = _bit_patterns(2)
    return x, (x.sum(axis=1) % 2).astype(np.int64)


def symmetry(bits: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """All patterns of ``bits`` bits; is a pattern the same read from both ends?

    From Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986.

    Returns:
        patterns (2**bits, bits) float64 of 0 and 1; labels (2**bits,) int64, 1 = symmetric.
    """
    x = _bit_patterns(bits)
    return x, (x == x[:, ::-1]).all(axis=1).astype(np.int64)


def encoder(size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """One-hot patterns, each to be given back through a narrow hidden layer (8-3-8).

    From Rumelhart, Hinton & Williams, "Learning internal representations by error propagation",
    1986.

    Returns:
        patterns (size, size) float64; targets (size, size) float64, equal to the patterns.
    """
    return np.eye(size), np.eye(size)


def moons(count: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved half circles in the plane.

    Args:
        count: number of points.
        noise: standard deviation of the noise on both coordinates.
        seed: decides noise and order.

    Returns:
        points (count, 2) float64; labels (count,) int64.
    """
    from sklearn.datasets import make_moons

    x, y = make_moons(n_samples=count, noise=noise, random_state=seed)
    return x, y.astype(np.int64)


def _bit_patterns(bits: int) -> np.ndarray:
    numbers = np.arange(2**bits)[:, None]
    places = np.arange(bits)[::-1]
    return ((numbers >> places) & 1).astype(np.float64)  # (2**bits, bits)
