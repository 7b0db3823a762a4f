"""Cases of 07_Transformer: attention forward and backward, and a training step of every level."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import MarianConfig, MarianMTModel

import attention_numpy
import training_lowlevel
import training_paper
import transformer_lowlevel
import transformer_numpy
import transformer_paper
from benchmarks.case import Case, Work, array_step, module_step, tensor_step

HEADS = (8, 8, 64, 32)  # batch, heads, tokens, width of a head
V, D, NH, HIDDEN, LAYERS = 1000, 128, 4, 256, 2
BATCH, S, T = 16, 20, 18


def _heads() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(HEADS, np.float32) for _ in range(4)]


def numpy_attention() -> Work:
    q, k, v, dy = _heads()
    mask = attention_numpy.causal_mask(HEADS[2])

    def work() -> None:
        _, cache = attention_numpy.attention_forward(q, k, v, mask)
        attention_numpy.attention_backward(dy, cache)

    return work


def _torch_attention(attend) -> Work:
    q, k, v, dy = (torch.from_numpy(a) for a in _heads())
    leaves = [a.requires_grad_() for a in (q, k, v)]

    def work() -> None:
        torch.autograd.grad(attend(*leaves), leaves, dy)

    return work


def lowlevel_attention() -> Work:
    mask = torch.ones(HEADS[2], HEADS[2], dtype=torch.bool).tril()
    return _torch_attention(lambda q, k, v: transformer_lowlevel.attention(q, k, v, mask))


def torch_attention() -> Work:
    return _torch_attention(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(3, V, (BATCH, S)), rng.integers(3, V, (BATCH, T))


SIZES = (V, D, NH, HIDDEN, LAYERS, 0.0)


def numpy_step() -> Work:
    source, labels = _batch()
    config = transformer_numpy.TransformerConfig(*SIZES)
    model = transformer_numpy.Transformer(config, np.random.default_rng(0), np.float32)

    def gradients() -> dict[str, np.ndarray]:
        logits = model.forward(source, transformer_numpy.shift_right(labels, 1), train=True)
        _, cache = transformer_numpy.smoothed_cross_entropy_forward(logits, labels, 0)
        return model.backward(transformer_numpy.smoothed_cross_entropy_backward(cache))

    return array_step(model.params, gradients)


def lowlevel_step() -> Work:
    source, labels = (torch.from_numpy(a) for a in _batch())
    config = transformer_lowlevel.TransformerConfig(*SIZES)
    params = transformer_lowlevel.init_params(config)

    def loss() -> torch.Tensor:
        inputs = training_lowlevel.shift_right(labels, 1)
        logits = transformer_lowlevel.forward(params, source, inputs, config)
        return training_lowlevel.smoothed_cross_entropy(logits, labels, 0)

    return tensor_step(params, loss)


def _module_step(model: nn.Module, logits) -> Work:
    source, labels = (torch.from_numpy(a) for a in _batch())
    inputs = training_paper.shift_right(labels, 1)
    return module_step(
        model, lambda: training_paper.smoothed_cross_entropy(logits(source, inputs), labels, 0)
    )


def paper_step() -> Work:
    model = transformer_paper.Transformer(transformer_paper.TransformerConfig(*SIZES))
    return _module_step(model, model)


class TorchTransformer(nn.Module):
    """The same model around nn.Transformer: post-norm, one table, sinusoidal positions."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(V, D)
        self.layers = nn.Transformer(D, NH, LAYERS, LAYERS, HIDDEN, 0.0, batch_first=True)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = transformer_paper.sinusoidal_positions(tokens.shape[1], D)
        return self.shared(tokens) * D**0.5 + positions.float()

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        padding = source == 0
        y = self.layers(
            self.embed(source),
            self.embed(target),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.shape[1]),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return y @ self.shared.weight.T


def torch_step() -> Work:
    model = TorchTransformer()
    return _module_step(model, model)


def marian_step() -> Work:
    config = MarianConfig(
        vocab_size=V,
        d_model=D,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=NH,
        decoder_attention_heads=NH,
        encoder_ffn_dim=HIDDEN,
        decoder_ffn_dim=HIDDEN,
        dropout=0.0,
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation="sdpa",
    )
    model = MarianMTModel(config)

    def logits(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mask = (source != 0).long()
        return model(
            input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False
        ).logits

    return _module_step(model, logits)


_ATTENTION = f"causal attention forward and backward, {HEADS}, float32"
_STEP = (
    f"forward, backward and SGD, {LAYERS}+{LAYERS} layers, width {D}, {V} tokens, "
    f"{BATCH} pairs of {S} and {T}, float32"
)
_FUSED = "F.scaled_dot_product_attention"
CASES = [
    Case("07 numpy attention", _ATTENTION, numpy_attention, torch_attention, _FUSED, 8.0),
    Case("07 lowlevel attention", _ATTENTION, lowlevel_attention, torch_attention, _FUSED, 3.0),
    Case("07 numpy step", _STEP, numpy_step, paper_step, "our torch.nn modules", 4.0),
    Case("07 lowlevel step", _STEP, lowlevel_step, paper_step, "our torch.nn modules", 1.5),
    Case("07 paper step", _STEP, paper_step, torch_step, "nn.Transformer", 1.3),
    Case("07 paper step, Marian", _STEP, paper_step, marian_step, "MarianMTModel", 1.2),
]
