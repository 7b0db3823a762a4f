"""GPT (level 3): the decoder that predicts the next token, as GPT-1 and as GPT-2.

Papers:
- A. Radford, K. Narasimhan, T. Salimans, I. Sutskever, "Improving Language Understanding by
  Generative Pre-Training", OpenAI 2018: sections 3.1 and 4.1 (GPT-1).
- A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever, "Language Models are Unsupervised
  Multitask Learners", OpenAI 2019: sections 2.2 and 2.3, Table 2 (GPT-2).

Map of this file:
    GPTConfig                         gpt1() and gpt2("small" ... "xl")
    KVCache                           keys and values of the tokens so far
    CausalSelfAttention, MLP, Block   pre-norm (GPT-2) or post-norm (GPT-1)
    GPT                               embeddings, blocks, logits by the tied table
    next_token_loss, paper_optimizer  training
    convert_transformers_state_dict, from_pretrained

Shapes: B batch, T tokens, S tokens that can be looked at (those of a cache too); D width, nH heads,
Dh = D / nH, V vocabulary, L layers.

Read before: 09_GPT/numpy/gpt_numpy.py, 09_GPT/pytorch_lowlevel/gpt_lowlevel.py; 09_GPT/theory.md.

Deviations from the paper: none in the model. The papers leave open how the table of positions
starts (here like all weights) and the epsilon of the norms (1e-5, as in the published models).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100  # a target that does not count, such as padding
GPT2_SIZES = {"small": (12, 768), "medium": (24, 1024), "large": (36, 1280), "xl": (48, 1600)}


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

    @classmethod
    def gpt1(cls, **options: object) -> "GPTConfig":
        """GPT-1: post-norm, 116,534,784 parameters."""
        return cls(**{"vocabulary": 40_478, "context": 512, "norm": "post"} | options)

    @classmethod
    def gpt2(cls, size: str = "small", **options: object) -> "GPTConfig":
        """Table 2 of the paper of 2019; heads are 64 wide.

        Raises:
            ValueError: a size other than small, medium, large, xl.
        """
        if size not in GPT2_SIZES:
            raise ValueError(f"expected a size of {', '.join(GPT2_SIZES)}, got {size!r}")
        layers, width = GPT2_SIZES[size]
        return cls(**{"width": width, "heads": width // 64, "layers": layers} | options)


class KVCache:
    """Room for the keys and values of every layer, filled as tokens come.

    Attributes:
        length: tokens so far.
    """

    def __init__(self, config: GPTConfig, batch: int, like: Tensor) -> None:
        D, nH = config.width, config.heads
        shape = (config.layers, 2, batch, nH, config.context, D // nH)
        self.store = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.length = 0

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put in those of T further tokens (B, nH, T, Dh); get all so far, (B, nH, S, Dh)."""
        S = self.length + k.shape[2]
        for kind, new in enumerate((k, v)):
            self.store[layer, kind, :, :, self.length : S] = new.detach()
        return self.store[layer, 0, :, :, :S], self.store[layer, 1, :, :, :S]


class CausalSelfAttention(nn.Module):
    """Every token looks at itself and at those before (eqs. 9.6 to 9.8)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        D, self.heads, self.layer = config.width, config.heads, layer
        self.c_attn, self.c_proj = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.dropout = config.dropout

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); with a cache, x are the tokens that come after those in it."""
        B, T, D = x.shape
        # (B, T, 3D) -> three times (B, nH, T, Dh)
        q, k, v = self.c_attn(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.add(self.layer, k, v)
        S = k.shape[2]
        mask = None
        if 1 < T < S:  # a single token may look at everything
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)  # eq. 9.34
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, rate, is_causal=T == S)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, D))  # (B, nH, T, Dh) -> (B, T, D)


class MLP(nn.Module):
    """Linear, GELU in its tanh form, linear; four times as wide inside (eq. 9.9)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        D = config.width
        self.c_fc, self.c_proj = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each with a shortcut and a norm: eq. 9.10 (pre) or 9.11 (post)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(config.width), CausalSelfAttention(config, layer)
        self.ln_2, self.mlp = nn.LayerNorm(config.width), MLP(config)
        self.drop = nn.Dropout(config.dropout)
        self.pre = config.norm == "pre"

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self.pre:
            x = x + self.drop(self.attn(self.ln_1(x), cache))
            return x + self.drop(self.mlp(self.ln_2(x)))
        x = self.ln_1(x + self.drop(self.attn(x, cache)))
        return self.ln_2(x + self.drop(self.mlp(x)))


class GPT(nn.Module):
    """Tokens in, logits of the next token out, at every place.

    The names of the state are those of transformers' GPT-2, without ``transformer.``; the layout of
    the linear layers is PyTorch's. The logits use the table ``wte`` again.
    """

    def __init__(self, config: GPTConfig | None = None) -> None:
        super().__init__()
        self.config = config or GPTConfig()
        self.wte = nn.Embedding(self.config.vocabulary, self.config.width)
        self.wpe = nn.Embedding(self.config.context, self.config.width)
        self.drop = nn.Dropout(self.config.dropout)
        self.h = nn.ModuleList(Block(self.config, i) for i in range(self.config.layers))
        if self.config.norm == "pre":
            self.ln_f = nn.LayerNorm(self.config.width)
        self.initialise()

    def initialise(self) -> None:
        """N(0, 0.02²), biases 0; in GPT-2 what is added to the sum is smaller (eq. 9.15)."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                small = self.config.norm == "pre" and name.endswith("c_proj.weight")
                shrink = math.sqrt(2 * self.config.layers) if small else 1.0
                nn.init.normal_(p, std=0.02 / shrink)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V): at t, those of what follows ``tokens[:, : t + 1]`` (eq. 9.12).

        Padding at the end needs no mask: no token before it looks there.

        Args:
            tokens: (B, T) ints. cache: of the tokens before these; it takes these in.

        Raises:
            ValueError: tokens of another shape, or more than the context holds.
        """
        if tokens.ndim != 2:
            raise ValueError(f"expected tokens (B, T), got {tuple(tokens.shape)}")
        before, T = cache.length if cache is not None else 0, tokens.shape[1]
        if before + T > self.config.context:
            raise ValueError(
                f"sequence of {before + T} tokens exceeds the context of {self.config.context}"
            )
        x = self.drop(self.wte(tokens) + self.wpe.weight[before : before + T])  # eq. 9.5
        for block in self.h:
            x = block(x, cache)
        if cache is not None:
            cache.length += T
        if self.config.norm == "pre":
            x = self.ln_f(x)
        return F.linear(x, self.wte.weight)  # (B, T, D) -> (B, T, V)

    def empty_cache(self, batch: int) -> KVCache:
        """A cache for ``batch`` sequences, with nothing in it."""
        return KVCache(self.config, batch, self.wte.weight)


# --- training


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, over the targets (B, T) that are not ``IGNORED`` (eq. 9.3)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def paper_optimizer(
    model: nn.Module,
    lr: float = 2.5e-4,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.AdamW:
    """AdamW as GPT-1 was trained: weight decay on all but biases and gains."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr, betas, weight_decay=weight_decay)


# --- weights


def convert_transformers_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and layouts for the weights of GPT2LMHeadModel or OpenAIGPTLMHeadModel.

    Their linear layers within the blocks (Conv1D) keep their weights as (in, out), ours as
    (out, in).

    Raises:
        ValueError: the output has a table of its own.
    """
    kept = {name.removeprefix("transformer."): value for name, value in state.items()}
    kept = {n.replace("tokens_embed.", "wte.").replace("positions_embed.", "wpe."): v
            for n, v in kept.items()}  # fmt: skip
    if not torch.equal(kept.pop("lm_head.weight", kept["wte.weight"]), kept["wte.weight"]):
        raise ValueError("expected an output tied to the embedding, got a table of its own")
    buffers = (".attn.bias", ".attn.masked_bias", "position_ids")  # masks of old versions
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {
        name: value.T.contiguous() if name.endswith(turned) else value
        for name, value in kept.items()
        if not name.endswith(buffers)
    }


def from_pretrained(name: str | Path) -> GPT:
    """A GPT-1 or GPT-2 with published weights, in eval mode.

    Args:
        name: of a model on the Hugging Face hub, such as "gpt2" or "openai-gpt", which is
            downloaded; or a folder that ``save_pretrained`` of transformers wrote.

    Raises:
        ValueError: another kind of model, or a GPT-2 with something that ours does not have.
    """
    from transformers import AutoModelForCausalLM

    source = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    theirs = source.config
    if theirs.model_type not in ("gpt2", "openai-gpt"):
        raise ValueError(f"expected a gpt2 or openai-gpt model, got {theirs.model_type}")
    wanted = {"layer_norm_epsilon": (1e-5,), "n_inner": (None, 4 * theirs.n_embd),
              "afn": ("gelu",),  # the name of the tanh form in GPT-1's file
              "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
              "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
              "add_cross_attention": (False,)}  # fmt: skip
    for option, values in wanted.items():
        if getattr(theirs, option, values[0]) not in values:
            raise ValueError(f"expected {option} of {values}, got {getattr(theirs, option)!r}")
    norm = "pre" if theirs.model_type == "gpt2" else "post"
    sizes = (theirs.vocab_size, theirs.n_positions, theirs.n_embd, theirs.n_head, theirs.n_layer)
    model = GPT(GPTConfig(*sizes, theirs.resid_pdrop, norm)).to(source.dtype)
    model.load_state_dict(convert_transformers_state_dict(source.state_dict()))
    return model.eval()
