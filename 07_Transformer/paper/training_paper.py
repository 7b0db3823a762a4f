"""Training the Transformer (level 3): loss, optimiser, learning rate, averaging of checkpoints.

Paper: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, sections 5.3, 5.4
and 6.1.

Map of this file:
    shift_right                     the decoder's input, made of the labels
    smoothed_cross_entropy          section 5.4
    paper_optimizer, warmup_rate    section 5.3
    average_checkpoints             section 6.1

Shapes: B batch, T target length, V vocabulary.

Read before: transformer_paper.py; 07_Transformer/theory.md, sections 8, 12 and 13.

Deviations from the paper: none.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def shift_right(labels: Tensor, bos_id: int) -> Tensor:
    """The decoder's input for labels (B, T): ``bos_id`` first, the last label left out."""
    return torch.cat([torch.full_like(labels[:, :1], bos_id), labels[:, :-1]], dim=1)


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, pad_id: int, label_smoothing: float = 0.1
) -> Tensor:
    """Mean over all labels (B, T) but padding, of logits (B, T, V), in nats (eq. 7.27)."""
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=pad_id, label_smoothing=label_smoothing
    )


def paper_optimizer(parameters: Iterable[nn.Parameter], lr: float = 1.0) -> torch.optim.Adam:
    """Adam as in section 5.3; its rate, ``lr`` times :func:`warmup_rate`, is set at each step."""
    return torch.optim.Adam(parameters, lr, betas=(0.9, 0.98), eps=1e-9)


def warmup_rate(step: int, width: int, warmup: int = 4000) -> float:
    """Learning rate of step 1, 2, ...: rises for ``warmup`` steps, then falls (eq. 7.53)."""
    if step < 1:
        raise ValueError(f"expected steps counted from 1, got {step}")
    return width**-0.5 * min(step**-0.5, step * warmup**-1.5)


def average_checkpoints(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each parameter over several states of one model (eq. 7.57).

    The paper takes the last 5 checkpoints of a base model and the last 20 of a big one.

    Raises:
        ValueError: no states, or states with different names.
    """
    total: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    count = 0
    for state in states:
        if count and set(state) != set(total):
            raise ValueError("expected states with the same names, got others")
        for name, value in state.items():
            dtypes[name] = value.dtype
            total[name] = total.get(name, 0) + value.detach().to("cpu", torch.float64)
        count += 1
    if not count:
        raise ValueError("expected at least one state, got none")
    return {name: (value / count).to(dtypes[name]) for name, value in total.items()}
