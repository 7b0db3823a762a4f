"""GPT in NumPy (level 1): a language model forward and backward, as GPT-1 and as GPT-2.

Papers:
- A. Radford, K. Narasimhan, T. Salimans, I. Sutskever, "Improving Language Understanding by
  Generative Pre-Training", OpenAI 2018: sections 3.1 and 4.1 (GPT-1).
- A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever, "Language Models are Unsupervised
  Multitask Learners", OpenAI 2019: sections 2.2 and 2.3 (GPT-2).

Map of this file:
    GPTConfig
    causal_self_attention    one product makes queries, keys and values
    mlp                      with GELU in its tanh form
    block                    pre-norm (GPT-2) or post-norm (GPT-1)
    initial_params
    GPT                      embeddings, blocks, logits by the tied table; forward and backward
    cosine_rate              the learning rate

What is not here: attention, heads and layer norm are chapter 07's, GELU, linear layers and dropout
02's, the embedding, the loss (``sequence_cross_entropy_forward``) and clipping 06's. Sampling is
gpt_sampling_numpy.py, the tokenizer byte_bpe_numpy.py.

Shapes: B batch, T tokens; D width, nH heads, Dh = D / nH, V vocabulary. ``drop`` is a tuple (rate,
rng, train), the arguments of ``dropout_forward``; ``p`` has the parameters of one part, and the
gradients of a part have the same names.

Read before: 07_Transformer/numpy/attention_numpy.py, 07_Transformer/numpy/transformer_numpy.py;
09_GPT/theory.md, sections 1 to 8.

Deviations from the paper: none in the model. The papers leave open how the table of positions
starts (here like all weights) and the epsilon of the norms (1e-5, as in the published models).
"""

import math
from dataclasses import dataclass

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import (
    Params,
    attention_backward,
    attention_forward,
    causal_mask,
    layer_norm_backward,
    layer_norm_forward,
    merge_heads,
    split_heads,
)
from mlp_numpy import (
    dropout_backward,
    dropout_forward,
    gelu_tanh_backward,
    gelu_tanh_forward,
    linear_backward,
    linear_forward,
)
from recurrent_numpy import embedding_backward, embedding_forward
from transformer_layers_numpy import part, whole


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT; the defaults are GPT-2 small.

    Args:
        vocabulary: V. context: most tokens that it can look at. width: D. heads: nH. layers: L.
        dropout: share dropped from embeddings, attention weights and what a sub-layer adds.
        norm: "pre", before each sub-layer and once at the end (GPT-2); "post", behind each sum
            (GPT-1).
    """

    vocabulary: int = 50_257
    context: int = 1024
    width: int = 768
    heads: int = 12
    layers: int = 12
    dropout: float = 0.1
    norm: str = "pre"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "width", "heads", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"expected a width that {self.heads} heads divide, got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")
        if self.norm not in ("pre", "post"):
            raise ValueError(f"expected norm 'pre' or 'post', got {self.norm!r}")


# --- the parts of a block


def causal_self_attention_forward(
    x: np.ndarray, p: Params, n_heads: int, drop: tuple
) -> tuple[np.ndarray, tuple]:
    """Every token looks at itself and at those before (eqs. 9.6 to 9.8).

    Args:
        x: (B, T, D). p: ``c_attn.weight`` (3D, D), ``c_attn.bias`` (3D,), ``c_proj.weight`` (D, D),
            ``c_proj.bias`` (D,).

    Returns:
        (B, T, D), and the cache; its last entry is that of ``attention_forward``.
    """
    T = x.shape[1]
    qkv, c_attn = linear_forward(x, p["c_attn.weight"], p["c_attn.bias"])  # eq. 9.6
    # (B, T, 3D) -> three times (B, nH, T, Dh)
    heads = (split_heads(third, n_heads) for third in np.split(qkv, 3, axis=-1))
    y, attention = attention_forward(*heads, causal_mask(T), *drop)  # eq. 9.7
    # (B, nH, T, Dh) -> (B, T, D)
    y, c_proj = linear_forward(merge_heads(y), p["c_proj.weight"], p["c_proj.bias"])  # eq. 9.8
    return y, (n_heads, c_attn, c_proj, attention)


def causal_self_attention_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients: dx (B, T, D), and a dict with the names of ``p``."""
    n_heads, c_attn, c_proj, attention = cache
    g: Params = {}
    dy, g["c_proj.weight"], g["c_proj.bias"] = linear_backward(dy, c_proj)  # eq. 9.22
    dheads = attention_backward(split_heads(dy, n_heads), attention)  # eq. 9.23
    dqkv = np.concatenate([merge_heads(dx) for dx in dheads], axis=-1)  # eq. 9.24
    dx, g["c_attn.weight"], g["c_attn.bias"] = linear_backward(dqkv, c_attn)  # eq. 9.25
    return dx, g


def mlp_forward(x: np.ndarray, p: Params) -> tuple[np.ndarray, tuple]:
    """Linear, GELU in its tanh form, linear; four times as wide inside (eq. 9.9)."""
    h, c_fc = linear_forward(x, p["c_fc.weight"], p["c_fc.bias"])  # (B, T, D) -> (B, T, 4D)
    h, gelu = gelu_tanh_forward(h)
    y, c_proj = linear_forward(h, p["c_proj.weight"], p["c_proj.bias"])
    return y, (c_fc, gelu, c_proj)


def mlp_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`mlp_forward`: dx, and a dict with the names of ``p``."""
    c_fc, gelu, c_proj = cache
    g: Params = {}
    dh, g["c_proj.weight"], g["c_proj.bias"] = linear_backward(dy, c_proj)  # eq. 9.26
    dh = gelu_tanh_backward(dh, gelu)  # eq. 9.26
    dx, g["c_fc.weight"], g["c_fc.bias"] = linear_backward(dh, c_fc)  # eq. 9.26
    return dx, g


# --- a block


def block_forward(
    x: np.ndarray, p: Params, n_heads: int, norm: str, drop: tuple
) -> tuple[np.ndarray, tuple]:
    """Attention and MLP, each with a shortcut and a norm: eq. 9.10 ("pre") or 9.11 ("post").

    Args:
        x: (B, T, D). p: ``ln_1.weight``, ..., ``attn.c_attn.weight``, ..., ``mlp.c_proj.bias``.
    """
    y, caches = x, []
    for ln, name in (("ln_1", "attn"), ("ln_2", "mlp")):
        gain, shift, own = p[f"{ln}.weight"], p[f"{ln}.bias"], part(p, f"{name}.")
        h, normed = layer_norm_forward(y, gain, shift) if norm == "pre" else (y, ())
        if name == "attn":
            h, inner = causal_self_attention_forward(h, own, n_heads, drop)
        else:
            h, inner = mlp_forward(h, own)
        h, dropped = dropout_forward(h, *drop)
        y = y + h
        if norm == "post":
            y, normed = layer_norm_forward(y, gain, shift)
        caches.append((normed, inner, dropped))
    return y, (norm, *caches)


def block_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, Params]:
    """Gradients of :func:`block_forward`: dx (B, T, D), and a dict with the names of ``p``."""
    norm, attention, mlp = cache
    g: Params = {}
    for ln, name, way_back, (normed, inner, dropped) in (
        ("ln_2", "mlp", mlp_backward, mlp),
        ("ln_1", "attn", causal_self_attention_backward, attention),
    ):
        if norm == "post":
            dy, g[f"{ln}.weight"], g[f"{ln}.bias"] = layer_norm_backward(dy, normed)  # eq. 9.28
        dh, grads = way_back(dropout_backward(dy, dropped), inner)
        if norm == "pre":
            dh, g[f"{ln}.weight"], g[f"{ln}.bias"] = layer_norm_backward(dh, normed)  # eq. 9.27
        dy = dy + dh  # eq. 9.27 or 9.28: the shortcut's gradient and the branch's
        g |= whole(grads, f"{name}.")
    return dy, g


# --- the model


def initial_params(config: GPTConfig, rng: np.random.Generator) -> Params:
    """Fresh weights in float64: N(0, 0.02²), biases 0, gains 1.

    In GPT-2 the layers whose output is added to the sum start smaller (eq. 9.15).
    """
    V, D = config.vocabulary, config.width
    shrink = math.sqrt(2 * config.layers) if config.norm == "pre" else 1.0
    params = {"wte.weight": rng.normal(0, 0.02, (V, D))}
    params["wpe.weight"] = rng.normal(0, 0.02, (config.context, D))
    for layer in (f"h.{i}." for i in range(config.layers)):
        for name, shape in (
            ("attn.c_attn", (3 * D, D)),
            ("attn.c_proj", (D, D)),
            ("mlp.c_fc", (4 * D, D)),
            ("mlp.c_proj", (D, 4 * D)),
        ):
            std = 0.02 / shrink if name.endswith("c_proj") else 0.02
            params[f"{layer}{name}.weight"] = rng.normal(0, std, shape)
            params[f"{layer}{name}.bias"] = np.zeros(shape[0])
        for name in ("ln_1", "ln_2"):
            params[f"{layer}{name}.weight"] = np.ones(D)
            params[f"{layer}{name}.bias"] = np.zeros(D)
    if config.norm == "pre":
        params |= {"ln_f.weight": np.ones(D), "ln_f.bias": np.zeros(D)}
    return params


class GPT:
    """Tokens in, logits of the next token out, at every place.

    Args:
        config: sizes. rng: source of the initial weights. dtype: of the parameters.

    Attributes:
        params: ``wte.weight`` (V, D), ``wpe.weight`` (context, D), ``h.<i>...``, and in GPT-2
            ``ln_f.weight``, ``ln_f.bias`` (D,).
    """

    def __init__(
        self,
        config: GPTConfig,
        rng: np.random.Generator,
        dtype: np.typing.DTypeLike = np.float64,
    ) -> None:
        self.config = config
        self.params = {n: p.astype(dtype) for n, p in initial_params(config, rng).items()}
        self._caches: dict[str, tuple] = {}

    def forward(
        self, tokens: np.ndarray, train: bool = False, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Logits (B, T, V): at t, those of what follows ``tokens[:, : t + 1]`` (eq. 9.12).

        Args:
            tokens: (B, T) ints. train, rng: switch dropout on, and draw it.

        Raises:
            ValueError: tokens of another shape, or more than the context holds.
        """
        if tokens.ndim != 2:
            raise ValueError(f"expected tokens (B, T), got {tokens.shape}")
        config, p, T = self.config, self.params, tokens.shape[1]
        if config.context < T:
            raise ValueError(f"sequence of {T} tokens exceeds the context of {config.context}")
        drop = (config.dropout, rng, train)
        x, table = embedding_forward(tokens, p["wte.weight"])
        x, dropped = dropout_forward(x + p["wpe.weight"][:T], *drop)  # eq. 9.5
        for name in self._layers():
            x, self._caches[name] = block_forward(x, part(p, name), config.heads, config.norm, drop)
        normed: tuple = ()
        if config.norm == "pre":
            x, normed = layer_norm_forward(x, p["ln_f.weight"], p["ln_f.bias"])
        self._caches["ends"] = (table, dropped, normed, x)
        return x @ p["wte.weight"].T  # eq. 9.12: (B, T, D) -> (B, T, V)

    def backward(self, dy: np.ndarray) -> Params:
        """Gradients of all parameters from that of the logits (B, T, V)."""
        if "ends" not in self._caches:
            raise RuntimeError("expected forward before backward")
        table, dropped, normed, x = self._caches["ends"]
        V, D = self.params["wte.weight"].shape
        g: Params = {}
        dx = dy @ self.params["wte.weight"]  # eq. 9.20
        dtable = dy.reshape(-1, V).T @ x.reshape(-1, D)  # eq. 9.21
        if self.config.norm == "pre":
            # eqs. 7.39 to 7.43
            dx, g["ln_f.weight"], g["ln_f.bias"] = layer_norm_backward(dx, normed)
        for name in reversed(self._layers()):
            dx, grads = block_backward(dx, self._caches[name])
            g |= whole(grads, name)
        dx = dropout_backward(dx, dropped)  # the mask in eqs. 9.29 and 9.30
        g["wpe.weight"] = np.zeros_like(self.params["wpe.weight"])
        g["wpe.weight"][: dx.shape[1]] = dx.sum(axis=0)  # eq. 9.29
        g["wte.weight"] = dtable + embedding_backward(dx, table)  # eq. 9.30
        return {name: g[name] for name in self.params}

    def _layers(self) -> list[str]:
        return [f"h.{i}." for i in range(self.config.layers)]


# --- training


def cosine_rate(step: int, total: int, warmup: int, floor: float = 0.1) -> float:
    """Factor of the learning rate at step 0, 1, ...: a rise, then half a cosine (eq. 9.18)."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
