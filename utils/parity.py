"""Parity: do two implementations of one model agree on outputs, loss, gradients and training?

Freshly initialised models hide errors: biases are zero, gains are one, some branches are zero. So a
comparison starts with :func:`perturb`, in float64, and holds every named tensor to 1e-9.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utils.weights import copy_value, named_arrays, to_array

TOLERANCE = 1e-9


class ParityError(AssertionError):
    """Two implementations differ; the message names the first tensor that does."""


@dataclass(frozen=True)
class Result:
    """What one forward and backward pass gave: arrays or tensors of any level."""

    outputs: Any
    loss: Any = 0.0
    grads: Mapping[str, Any] = field(default_factory=dict)


def perturb(source: Any, scale: float = 0.1, seed: int = 0) -> None:
    """Add normal noise to every parameter and floating buffer, in place.

    Args:
        source: dict of arrays or tensors, or a module (its ``state_dict()`` shares memory).
        scale: standard deviation of the noise. Running variances are multiplied by
            ``exp(noise)`` instead, so that they stay positive.
    """
    rng = np.random.default_rng(seed)
    for name, value in named_arrays(source).items():
        array = to_array(value)
        if not np.issubdtype(array.dtype, np.floating):
            continue
        noise = scale * rng.standard_normal(array.shape)
        changed = array * np.exp(noise) if name.endswith("running_var") else array + noise
        copy_value(value, changed.astype(array.dtype))


def max_difference(got: Any, want: Any) -> float:
    """Largest absolute difference, relative to the largest magnitude in either tensor.

    Magnitudes under 1e-3 count as 1e-3, so that gradients that are zero but for rounding agree. NaN
    and infinity count as different from everything, themselves included.
    """
    got, want = to_array(got).astype(np.float64), to_array(want).astype(np.float64)
    if got.shape != want.shape or not (np.isfinite(got).all() and np.isfinite(want).all()):
        return float("inf")
    scale = max(1e-3, np.abs(got).max(initial=0.0), np.abs(want).max(initial=0.0))
    return float(np.abs(got - want).max(initial=0.0) / scale)


def _require_close(name: str, got: Any, want: Any, tol: float) -> None:
    if to_array(got).shape != to_array(want).shape:
        raise ParityError(
            f"{name}: expected shape {to_array(want).shape}, got {to_array(got).shape}"
        )
    difference = max_difference(got, want)
    if not difference <= tol:
        raise ParityError(f"{name} differs by {difference:.3e}, more than {tol:.0e}")


def assert_same(got: Any, want: Any, tol: float = TOLERANCE, what: str = "tensor") -> None:
    """Compare two mappings (or modules), name by name, in the order of ``want``.

    Raises:
        ParityError: the names differ, or a value does; the message names the first one.
    """
    got, want = named_arrays(got), named_arrays(want)
    if set(got) != set(want):
        missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
        raise ParityError(f"{what} names differ: missing {missing}, unexpected {extra}")
    for name in want:
        _require_close(f"{what} {name}", got[name], want[name], tol)


def assert_parity(got: Result, want: Result, tol: float = TOLERANCE) -> None:
    """Compare two passes: names of gradients, then outputs, loss and every gradient.

    Raises:
        ParityError: naming the first tensor that differs.
    """
    if set(got.grads) != set(want.grads):
        different = sorted(set(got.grads) ^ set(want.grads))
        raise ParityError(f"gradient names differ: {', '.join(different)}")
    _require_close("outputs", got.outputs, want.outputs, tol)
    _require_close("loss", got.loss, want.loss, tol)
    assert_same(got.grads, want.grads, tol, "gradient of")


def assert_trajectory(got: Sequence[Any], want: Sequence[Any], tol: float = TOLERANCE) -> None:
    """Compare the losses of two trainings, step by step.

    Raises:
        ParityError: naming the first step at which they part.
    """
    if len(got) != len(want):
        raise ParityError(f"expected {len(want)} steps, got {len(got)}")
    for step, (a, b) in enumerate(zip(got, want, strict=True), start=1):
        _require_close(f"loss at step {step}", a, b, tol)
