"""Gradient checking: is a hand-written backward pass the derivative of its forward pass?

For a function y = f(x) and any upstream gradient dy, backward must return the gradient of the
scalar s(x) = sum(f(x) * dy). Central differences give that gradient one element at a time:

    ds/dx_i = (s(x + h e_i) - s(x - h e_i)) / 2h + O(h^2)

dy is random. An all-ones dy would hide errors: the gradient of sum(softmax(x)), for one, is zero.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

TOLERANCE = 1e-7
# A stream of its own: tests like to draw their inputs from seed 0 too, and a dy that is a multiple
# of x would hide errors (the gradient of a normalisation is zero along its own output).
_UPSTREAM = 20260131


class GradientMismatch(AssertionError):
    """A backward pass differs from the central differences of its forward pass."""


def numerical_gradient(
    f: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-5
) -> np.ndarray:
    """Central differences of a scalar function, element by element.

    Args:
        f: function of one array; called with ``x`` itself, changed in place and put back.
        x: float64 array of any shape.
        h: step. At 1e-5 truncation (h^2) and rounding (1e-16 / h) are of the same small size.

    Raises:
        ValueError: ``x`` is not float64; float32 has too few digits for a difference.
    """
    if x.dtype != np.float64:
        raise ValueError(f"expected a float64 array, got {x.dtype}")
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above = f(x)
        x[index] = kept - h
        below = f(x)
        x[index] = kept
        gradient[index] = (above - below) / (2 * h)
    return gradient


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude of either array."""
    scale = max(np.abs(got).max(initial=0.0), np.abs(want).max(initial=0.0))
    # Two gradients that are both zero to rounding (a bias before a softmax shift, say) agree.
    return float(np.abs(got - want).max(initial=0.0) / max(scale, 1e-8))


def _require_match(name: str, got: np.ndarray, want: np.ndarray, tolerance: float) -> float:
    got = np.asarray(got)
    if got.shape != want.shape:
        raise GradientMismatch(f"d{name}: expected shape {want.shape}, got {got.shape}")
    error = relative_error(got, want)
    # Written so that a NaN fails too.
    if not error <= tolerance:
        worst = np.unravel_index(
            np.argmax(np.nan_to_num(np.abs(got - want), nan=np.inf)), got.shape
        )
        index = tuple(int(i) for i in worst)
        raise GradientMismatch(
            f"d{name}: relative error {error:.2e} exceeds {tolerance:.0e}; worst at {index}: "
            f"got {got[index]:.10g}, central differences say {want[index]:.10g}"
        )
    return error


def check_backward(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Mapping[str, np.ndarray],
    seed: int = 0,
    tolerance: float = TOLERANCE,
    **kwargs: Any,
) -> dict[str, float]:
    """Check a forward/backward pair of L1 against central differences.

    Args:
        forward: called as ``forward(*inputs.values(), **kwargs)``, returns ``(y, cache)``.
        backward: called as ``backward(dy, cache)``, returns one gradient per input, in order; a
            scalar loss has no upstream gradient, so its backward is called as ``backward(cache)``.
        inputs: name -> float64 array, in the order of forward's arguments.
        kwargs: further arguments of forward that are not differentiated.

    Returns:
        Relative error per input.

    Raises:
        GradientMismatch: an error above ``tolerance``, named by input and index.
    """
    inputs = {name: np.array(x) for name, x in inputs.items()}
    y, cache = forward(*inputs.values(), **kwargs)
    scalar = np.ndim(y) == 0
    dy = (
        np.float64(1.0)
        if scalar
        else np.random.default_rng([seed, _UPSTREAM]).standard_normal(y.shape)
    )
    grads = backward(cache) if scalar else backward(dy, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    if len(grads) != len(inputs):
        raise GradientMismatch(f"expected {len(inputs)} gradients, got {len(grads)}")

    def scalar_function(_: np.ndarray) -> float:
        return float(np.sum(forward(*inputs.values(), **kwargs)[0] * dy))

    return {
        name: _require_match(name, got, numerical_gradient(scalar_function, x), tolerance)
        for (name, x), got in zip(inputs.items(), grads, strict=True)
    }


def check_model(
    model: Any, x: np.ndarray, seed: int = 0, tolerance: float = TOLERANCE, **kwargs: Any
) -> dict[str, float]:
    """Check ``model.backward`` for every entry of ``model.params`` against central differences.

    Args:
        model: L1 model with ``params``, ``forward(x, **kwargs)`` and ``backward(dy)``.
        x: input of forward, float64 parameters in the model.

    Returns:
        Relative error per parameter.

    Raises:
        GradientMismatch: wrong keys, or an error above ``tolerance``.
    """
    y = model.forward(x, **kwargs)
    dy = np.random.default_rng([seed, _UPSTREAM]).standard_normal(y.shape)
    grads = model.backward(dy)
    if set(grads) != set(model.params):
        different = sorted(set(grads) ^ set(model.params))
        raise GradientMismatch(f"gradients and params differ in their keys: {', '.join(different)}")

    def scalar_function(_: np.ndarray) -> float:
        return float(np.sum(model.forward(x, **kwargs) * dy))

    return {
        name: _require_match(name, grads[name], numerical_gradient(scalar_function, p), tolerance)
        for name, p in model.params.items()
    }
