"""Multilayer perceptron in NumPy (level 1): every formula, forward and backward.

Papers:
- D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by back-propagating
  errors", Nature 323, 1986: the network and the backward pass.
- X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
  AISTATS 2010, equation (16): initialisation for tanh and sigmoid.
- K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, section
  2.2: initialisation for ReLU.
- D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415: GELU.
- N. Srivastava et al., "Dropout", JMLR 15, 2014: dropout.

Map of this file:
    linear                                   y = x Wᵀ + b
    sigmoid, tanh, ReLU, leaky ReLU, GELU    element by element
    dropout
    softmax cross-entropy                    with label smoothing
    initialisation                           Glorot, He
    MLP                                      the model made of these

Each primitive is a pair: ``y, cache = f_forward(x, ...)`` and ``dx = f_backward(dy, cache)``, where
``dy`` is the gradient of the loss with respect to ``y``, of y's shape.

Shapes: B batch, D input width, M output width of a layer, K classes.

Read before: 01_Linear_Logistic (gradient descent, log-softmax); 02_MLP/theory.md.

Deviations from the paper: the 1986 network has sigmoid units and squared error throughout; this one
takes any of the activations, and softmax cross-entropy. Dropout scales in training (inverted
dropout), so that nothing needs to be done at test time.
"""

import math
from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from logistic_numpy import log_softmax, sigmoid

Params = dict[str, np.ndarray]


@dataclass(frozen=True)
class MLPConfig:
    """Widths and kind of a multilayer perceptron.

    Args:
        sizes: width of the input, of each hidden layer, and of the output.
        activation: of the hidden layers, a key of ``ACTIVATIONS``.
        output_activation: of the output; None gives logits.
        dropout: share of hidden units dropped in training.
    """

    sizes: tuple[int, ...] = (64, 128, 10)
    activation: str = "relu"
    output_activation: str | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"expected at least two positive sizes, got {self.sizes}")
        for name in (self.activation, self.output_activation or "relu"):
            if name not in ACTIVATIONS:
                raise ValueError(f"expected an activation of {sorted(ACTIVATIONS)}, got {name!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")


# --- linear


def linear_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Affine map of the last axis, ``y = x @ weight.T + bias`` (eq. 2.1).

    Args:
        x: (..., D). Any leading axes: a linear layer treats each row alike.
        weight: (M, D), PyTorch's layout. bias: (M,).

    Returns:
        y: (..., M), and the cache for :func:`linear_backward`.

    Raises:
        ValueError: the widths do not fit.
    """
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"expected inputs of width {weight.shape[1]}, got shape {x.shape}")
    y = x @ weight.T + bias  # (..., D) -> (..., M)
    return y, (x, weight)


def linear_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of :func:`linear_forward`: dx (..., D), dweight (M, D), dbias (M,)."""
    x, weight = cache
    M, D = weight.shape
    dx = dy @ weight  # eq. 2.13: (..., M) -> (..., D)
    # Every row of every leading axis used the same weight, so their gradients add up.
    dy, x = dy.reshape(-1, M), x.reshape(-1, D)
    dweight = dy.T @ x  # eq. 2.14: (M, D)
    dbias = dy.sum(axis=0)  # eq. 2.15: (M,)
    return dx, dweight, dbias


# --- activations: arrays of any shape, element by element; backward is eq. 2.16


def sigmoid_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """1 / (1 + exp(-x)) (eq. 2.3); keeps its output, which is all the derivative needs."""
    y = sigmoid(x)
    return y, (y,)


def sigmoid_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`sigmoid_forward`."""
    (y,) = cache
    return dy * y * (1 - y)  # eq. 2.17


def tanh_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Hyperbolic tangent (eq. 2.4)."""
    y = np.tanh(x)
    return y, (y,)


def tanh_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`tanh_forward`."""
    (y,) = cache
    return dy * (1 - y * y)  # eq. 2.18


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """max(x, 0) (eq. 2.5)."""
    return np.maximum(x, 0), (x,)


def relu_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`relu_forward`; 0 at x = 0, as PyTorch has it."""
    (x,) = cache
    return dy * (x > 0)  # eq. 2.19


def leaky_relu_forward(x: np.ndarray, slope: float = 0.01) -> tuple[np.ndarray, tuple]:
    """x where positive, slope * x elsewhere (eq. 2.6)."""
    return np.where(x > 0, x, slope * x), (x, slope)


def leaky_relu_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`leaky_relu_forward`."""
    x, slope = cache
    return np.where(x > 0, dy, slope * dy)  # eq. 2.20


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Probability that a standard normal variable is below x: (1 + erf(x / √2)) / 2."""
    # NumPy has no erf; Python's is exact to the last digit, one element at a time.
    erf = np.frompyfunc(math.erf, 1, 1)(x / math.sqrt(2))
    return (0.5 * (1 + np.asarray(erf, dtype=np.float64))).astype(x.dtype)


def gelu_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """GELU, exact form: x times the normal distribution function at x (eq. 2.7)."""
    cdf = normal_cdf(x)
    return x * cdf, (x, cdf)


def gelu_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`gelu_forward`."""
    x, cdf = cache
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return dy * (cdf + x * density)  # eq. 2.21


GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def gelu_tanh_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """GELU, tanh form, which GPT-2 uses (eq. 2.8). Not equal to the exact form: up to 5e-4 off."""
    # x * x * x, for NumPy computes x**3 by logarithm and exponential, many times as slowly.
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x))
    return 0.5 * x * (1 + t), (x, t)


def gelu_tanh_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`gelu_tanh_forward`."""
    x, t = cache
    inner = GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner)  # eq. 2.22


ACTIVATIONS = {
    "sigmoid": (sigmoid_forward, sigmoid_backward),
    "tanh": (tanh_forward, tanh_backward),
    "relu": (relu_forward, relu_backward),
    "leaky_relu": (leaky_relu_forward, leaky_relu_backward),
    "gelu": (gelu_forward, gelu_backward),
    "gelu_tanh": (gelu_tanh_forward, gelu_tanh_backward),
}


# --- dropout


def dropout_forward(
    x: np.ndarray, rate: float, rng: np.random.Generator | None = None, train: bool = False
) -> tuple[np.ndarray, tuple]:
    """Set each element to zero with probability ``rate``, scale the others up (eq. 2.9).

    Args:
        x: any shape.
        rate: probability of dropping, in [0, 1).
        rng: source of the mask; needed in training with a rate above 0.
        train: without it, x passes unchanged.

    Raises:
        ValueError: training without an ``rng``.
    """
    if not train or rate == 0:
        return x, (None,)
    if rng is None:
        raise ValueError("expected rng for dropout in training, got None")
    mask = (rng.random(x.shape) >= rate).astype(x.dtype) / x.dtype.type(1 - rate)
    return x * mask, (mask,)


def dropout_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """Gradient of :func:`dropout_forward`: what was dropped gets none."""
    (mask,) = cache
    return dy if mask is None else dy * mask  # eq. 2.23


# --- loss


def softmax_cross_entropy_forward(
    logits: np.ndarray, targets: np.ndarray, label_smoothing: float = 0.0
) -> tuple[np.floating, tuple]:
    """Mean cross-entropy between softmax(logits) and the (smoothed) labels (eq. 2.10, 2.11).

    Args:
        logits: (B, K). targets: (B,) int labels in [0, K).
        label_smoothing: share of the target spread evenly over all classes.

    Returns:
        loss: scalar, in nats, and the cache for :func:`softmax_cross_entropy_backward`.

    Raises:
        ValueError: shapes do not fit or a label is outside [0, K).
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (B, K) and targets (B,), got {logits.shape} and {targets.shape}"
        )
    B, K = logits.shape
    if targets.min() < 0 or targets.max() >= K:
        raise ValueError(f"expected labels 0 to {K - 1}, got {targets.min()} to {targets.max()}")
    wanted = np.full((B, K), label_smoothing / K, dtype=logits.dtype)
    wanted[np.arange(B), targets] += 1 - label_smoothing  # eq. 2.10
    log_p = log_softmax(logits)
    loss = -(wanted * log_p).sum() / B  # eq. 2.11
    return loss, (log_p, wanted)


def softmax_cross_entropy_backward(cache: tuple) -> np.ndarray:
    """Gradient of the loss with respect to the logits: (B, K)."""
    log_p, wanted = cache
    return (np.exp(log_p) - wanted) / len(wanted)  # eq. 2.24


# --- initialisation: weights (M, D) that keep the variance from layer to layer


def glorot_uniform(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Uniform with variance 2 / (D + M) (eq. 2.25), for tanh and sigmoid. Returns float64."""
    M, D = shape
    bound = math.sqrt(6 / (D + M))
    return rng.uniform(-bound, bound, size=shape)


def he_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal with variance 2 / fan-in (eq. 2.26), for ReLU; fan-in is all axes but the first."""
    return rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), size=shape)


# --- the model


class MLP:
    """Linear layers with an activation (and dropout) between them (eq. 2.2).

    Args:
        config: widths and kind.
        rng: source of the initial weights; biases start at zero.
        dtype: of the parameters; inputs should have the same.

    Attributes:
        params: ``layers.<i>.weight`` (M, D) and ``layers.<i>.bias`` (M,), i from 0.
    """

    def __init__(
        self, config: MLPConfig, rng: np.random.Generator, dtype: type = np.float64
    ) -> None:
        self.config = config
        self.params: Params = {}
        saturating = config.activation in ("sigmoid", "tanh")
        initial = glorot_uniform if saturating else he_normal
        for i, (D, M) in enumerate(zip(config.sizes[:-1], config.sizes[1:], strict=True)):
            self.params[f"layers.{i}.weight"] = initial((M, D), rng).astype(dtype)
            self.params[f"layers.{i}.bias"] = np.zeros(M, dtype=dtype)
        self._caches: list[tuple] = []

    def forward(
        self, x: np.ndarray, train: bool = False, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Outputs (B, K) for inputs (B, D); ``train`` switches dropout on, ``rng`` draws it.

        Raises:
            ValueError: the input is not (B, D).
        """
        if x.ndim != 2 or x.shape[1] != self.config.sizes[0]:
            raise ValueError(f"expected inputs (B, {self.config.sizes[0]}), got {x.shape}")
        self._caches = []
        last = len(self.config.sizes) - 2
        for i in range(last + 1):
            weight, bias = self.params[f"layers.{i}.weight"], self.params[f"layers.{i}.bias"]
            x, linear = linear_forward(x, weight, bias)  # (B, D_i) -> (B, D_{i+1})
            activation, dropout = None, None
            name = self.config.activation if i < last else self.config.output_activation
            if name is not None:
                x, activation = ACTIVATIONS[name][0](x)
            if i < last:
                x, dropout = dropout_forward(x, self.config.dropout, rng, train)
            self._caches.append((linear, name, activation, dropout))
        return x

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the outputs (B, K): the layers in reverse."""
        if not self._caches:
            raise RuntimeError("expected forward before backward")
        grads = {}
        for i, (linear, name, activation, dropout) in reversed(list(enumerate(self._caches))):
            if dropout is not None:
                dy = dropout_backward(dy, dropout)
            if name is not None:
                dy = ACTIVATIONS[name][1](dy, activation)
            dy, dweight, dbias = linear_backward(dy, linear)
            grads[f"layers.{i}.weight"], grads[f"layers.{i}.bias"] = dweight, dbias
        return grads
