"""How BERT is pre-trained and fine-tuned (level 3): losses, optimiser, learning rate.

Paper: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, arXiv:1810.04805, sections 3.1 and A.2.

Map of this file:
    masked_lm_loss, pretraining_loss
    paper_optimizer                     Adam with weight decay, but not of biases and norms
    linear_decay                        up, then down in a straight line

Which tokens are masked, and the pairs of the next-sentence task, come from
08_BERT/numpy/masking_numpy.py, which all levels use.

Shapes: B batch, T tokens, V vocabulary, R chosen tokens.

Read before: bert_paper.py, heads_paper.py; 08_BERT/theory.md, sections 3, 4 and 10.

Deviations from the paper: it says Adam with "L2 weight decay of 0.01"; the authors' program decays
the weights apart from the gradient, as AdamW does, and so does this. Their Adam leaves out the
correction of the running means (2.30); this one has it, as everybody's since.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100  # the label of a token that was not chosen


def masked_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the chosen tokens, in nats; 0 if there are none (eq. 8.9).

    Args:
        logits: (..., V). labels: (...), the tokens that were there, ``IGNORED`` where none is
            asked for.
    """
    logits, labels = logits.flatten(0, -2), labels.flatten()
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def pretraining_loss(
    logits: Tensor, next_logits: Tensor, labels: Tensor, next_labels: Tensor
) -> Tensor:
    """Both tasks (eq. 8.11): masked_lm_loss, and next_labels (B,), 0 = follows, 1 = does not."""
    return masked_lm_loss(logits, labels) + F.cross_entropy(next_logits, next_labels)


def paper_optimizer(
    model: nn.Module, lr: float = 1e-4, weight_decay: float = 0.01
) -> torch.optim.AdamW:
    """Adam with beta 0.9 and 0.999, epsilon 1e-6; biases and layer norms do not decay (A.2)."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr, betas=(0.9, 0.999), eps=1e-6)


def linear_decay(total: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate at step 0, 1, ... (eq. 8.30): up to 1, then down to 0."""

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (total - step) / max(1, total - warmup))

    return schedule
