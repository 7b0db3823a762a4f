"""Exercise: the layer norms before the sub-layers instead of behind them.

R. Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020, arXiv:2002.04745.
The model here is an encoder alone, which has to read sentences backwards: a symbol out for each
symbol in. Sizes: tokens (B, T), x (B, T, D), V symbols.
"""

import torch
from torch import nn

import utils  # noqa: F401  (puts the chapters on the import path)
from training_paper import paper_optimizer, smoothed_cross_entropy
from transformer_paper import EncoderLayer, Stack, Transformer, TransformerConfig


class PreNormLayer(EncoderLayer):
    """An encoder layer with the same parameters as the paper's, in another order."""

    def forward(self, x, mask):
        """(B, T, D) -> (B, T, D): x plus attention of a normalised x, and so on."""
        # TODO: each sub-layer reads a normalised x; what is added to stays as it is
        raise NotImplementedError(
            "each sub-layer reads a normalised x; what is added to stays as it is"
        )


class PreNormStack(Stack):
    """The layers, and what has to come after the last one."""

    def __init__(self, config):
        super().__init__(PreNormLayer, config)
        # TODO: one more module, called self.layer_norm
        raise NotImplementedError("one more module, called self.layer_norm")

    def forward(self, x, *context):
        """(B, T, D) -> (B, T, D)."""
        x = super().forward(x, *context)
        # TODO: use it
        raise NotImplementedError("use it")


def reader(stack, depth=12, seed=0):
    """A small model whose encoder is a ``stack``, PreNormStack or the paper's (None).

    Only its table and its encoder are used.
    """
    torch.manual_seed(seed)
    config = TransformerConfig(12, 32, 4, 64, depth, dropout=0.0)
    model = Transformer(config)
    if stack is not None:
        fresh = stack(config)
        fresh.load_state_dict(model.encoder.state_dict(), strict=False)  # the same first weights
        model.encoder = fresh
    return model


def batch(step, size=32, T=6):
    """Sentences of symbols 3 to 11, and the same backwards: both (B, T)."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(3, 12, (size, T), generator=generator)
    return tokens, tokens.flip(1)


def loss_of(model, step):
    """The mean cross-entropy of a symbol, in nats."""
    tokens, labels = batch(step)
    logits = model.encode(tokens) @ model.shared.weight.T  # (B, T, D) -> (B, T, V)
    return smoothed_cross_entropy(logits, labels, 0, 0.0)


def gradient_norms(model):
    """For each layer the norm of the gradient of fc2.weight, at the first batch: (depth,)."""
    # TODO: one backward pass of loss_of(model, 0), then a list over model.encoder.layers
    raise NotImplementedError(
        "one backward pass of loss_of(model, 0), then a list over model.encoder.layers"
    )


def train_without_warmup(model, steps=60, lr=5e-3):
    """Losses of Adam with a constant rate from the first step on: (steps,)."""
    optimizer = paper_optimizer([model.shared.weight, *model.encoder.parameters()], lr)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
