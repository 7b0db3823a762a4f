"""GPT from tensors (level 2): embeddings, masked attention, GELU, layer norms, by hand.

Papers:
- A. Radford, K. Narasimhan, T. Salimans, I. Sutskever, "Improving Language Understanding by
  Generative Pre-Training", OpenAI 2018: sections 3.1 and 4.1 (GPT-1).
- A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever, "Language Models are Unsupervised
  Multitask Learners", OpenAI 2019: sections 2.2 and 2.3 (GPT-2).

Loss, update rule and learning rate are gpt_training_lowlevel.py, sampling is
gpt_sampling_lowlevel.py.

Map of this file:
    GPTConfig
    init_params                                     a dict of leaf tensors
    dropout, linear, layer_norm, gelu, attention    the parts
    block, forward                                  the model

Shapes: B batch, T tokens; D width, nH heads, Dh = D / nH, V vocabulary.

Read before: 09_GPT/numpy/gpt_numpy.py, which writes out what autograd does here.

Deviations from the paper: as at level 1 (how the table of positions starts, epsilon of the norms).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Params = dict[str, Tensor]


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


def init_params(
    config: GPTConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Params:
    """Initial parameters, all leaves: N(0, 0.02²), biases 0, gains 1.

    In GPT-2 the layers whose output is added to the sum start smaller (eq. 9.15). The numbers are
    drawn on the CPU, so that a seed gives the same network on every device.
    """
    V, D = config.vocabulary, config.width
    shrink = math.sqrt(2 * config.layers) if config.norm == "pre" else 1.0
    params = {
        "wte.weight": 0.02 * torch.randn(V, D, generator=generator),
        "wpe.weight": 0.02 * torch.randn(config.context, D, generator=generator),
    }
    norms = []
    for layer in (f"h.{i}." for i in range(config.layers)):
        shapes = {
            "attn.c_attn": (3 * D, D),
            "attn.c_proj": (D, D),
            "mlp.c_fc": (4 * D, D),
            "mlp.c_proj": (D, 4 * D),
        }
        for name, shape in shapes.items():
            std = 0.02 / shrink if name.endswith("c_proj") else 0.02
            params[f"{layer}{name}.weight"] = std * torch.randn(shape, generator=generator)
            params[f"{layer}{name}.bias"] = torch.zeros(shape[0])
        norms += [f"{layer}ln_1", f"{layer}ln_2"]
    for name in [*norms, "ln_f"] if config.norm == "pre" else norms:
        params[f"{name}.weight"], params[f"{name}.bias"] = torch.ones(D), torch.zeros(D)
    # Only now, for a tensor that asks for a gradient and is then scaled is no leaf any more.
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


# --- the parts; `name` says whose parameters, a generator means training


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Without a generator, x; with one, a share of zeros and the rest scaled up (eq. 2.9)."""
    if generator is None or rate == 0:
        return x
    kept = torch.rand(x.shape, generator=generator).to(x.device) >= rate
    return x * kept / (1 - rate)


def linear(x: Tensor, p: Params, name: str) -> Tensor:
    """(..., inputs) -> (..., outputs)."""
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(x: Tensor, p: Params, name: str, eps: float = 1e-5) -> Tensor:
    """Each vector (..., D) to mean 0 and variance 1, scaled, shifted (eqs. 7.15 to 7.18)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    var = centred.square().mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(var + eps) * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (eq. 2.8), which is not quite the exact one."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(
    x: Tensor, p: Params, name: str, config: GPTConfig, generator: torch.Generator | None
) -> Tensor:
    """Every token looks at itself and those before (eqs. 9.6 to 9.8): (B, T, D) -> (B, T, D)."""
    B, T, D = x.shape
    # (B, T, 3D) -> three times (B, nH, T, Dh)
    qkv = linear(x, p, f"{name}.c_attn").view(B, T, 3, config.heads, D // config.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
    scores = (q @ k.mT / math.sqrt(D // config.heads)).masked_fill(later, -math.inf)
    weights = dropout(scores.softmax(dim=-1), config.dropout, generator)
    y = (weights @ v).transpose(1, 2).reshape(B, T, D)  # (B, nH, T, Dh) -> (B, T, D)
    return linear(y, p, f"{name}.c_proj")


# --- the model


def block(
    x: Tensor, p: Params, name: str, config: GPTConfig, generator: torch.Generator | None
) -> Tensor:
    """Attention and MLP, each with a shortcut and a norm (eq. 9.10 or 9.11)."""

    def attend(x: Tensor) -> Tensor:
        y = attention(x, p, f"{name}attn", config, generator)
        return dropout(y, config.dropout, generator)

    def mlp(x: Tensor) -> Tensor:  # eq. 9.9
        y = linear(gelu(linear(x, p, f"{name}mlp.c_fc")), p, f"{name}mlp.c_proj")
        return dropout(y, config.dropout, generator)

    if config.norm == "pre":
        x = x + attend(layer_norm(x, p, f"{name}ln_1"))
        return x + mlp(layer_norm(x, p, f"{name}ln_2"))
    x = layer_norm(x + attend(x), p, f"{name}ln_1")
    return layer_norm(x + mlp(x), p, f"{name}ln_2")


def forward(
    p: Params, tokens: Tensor, config: GPTConfig, generator: torch.Generator | None = None
) -> Tensor:
    """Logits (B, T, V): at t, those of what follows ``tokens[:, : t + 1]`` (eq. 9.12).

    Args:
        tokens: (B, T) ints. generator: draws the dropout; without one there is none.

    Raises:
        ValueError: tokens of another shape, or more than the context holds.
    """
    if tokens.ndim != 2:
        raise ValueError(f"expected tokens (B, T), got {tuple(tokens.shape)}")
    T = tokens.shape[1]
    if config.context < T:
        raise ValueError(f"sequence of {T} tokens exceeds the context of {config.context}")
    x = p["wte.weight"][tokens] + p["wpe.weight"][:T]  # eq. 9.5
    x = dropout(x, config.dropout, generator)
    for i in range(config.layers):
        x = block(x, p, f"h.{i}.", config, generator)
    if config.norm == "pre":
        x = layer_norm(x, p, "ln_f")
    return x @ p["wte.weight"].T  # (B, T, D) -> (B, T, V)
