"""Adam as BERT uses it, and its learning rate (level 1).

Paper: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, arXiv:1810.04805, section A.2.

Map of this file:
    BertAdam        AdamW, where biases and layer norms do not decay
    linear_decay    up, then down in a straight line

Shapes: every parameter keeps its own.

Read before: 02_MLP/numpy/optimizers_numpy.py; 08_BERT/theory.md, section 10.

Deviations from the paper: as in 08_BERT/paper/pretraining_paper.py.
"""

from collections.abc import Callable

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from attention_numpy import Params
from optimizers_numpy import AdamW


class BertAdam:
    """Two AdamW: one for what has two axes, which decays; one for biases and norms, which do not.

    Args:
        params: name -> array; changed in place by :meth:`step`.
        lr: learning rate; may be set anew between steps.

    Attributes:
        state: that of both, for checkpoints.
    """

    def __init__(self, params: Params, lr: float = 1e-4, weight_decay: float = 0.01) -> None:
        self.lr = lr
        matrices = {name: p for name, p in params.items() if p.ndim > 1}
        others = {name: p for name, p in params.items() if p.ndim <= 1}
        self.parts = [
            AdamW(matrices, lr, eps=1e-6, weight_decay=weight_decay),
            AdamW(others, lr, eps=1e-6, weight_decay=0.0),
        ]
        self.state = {f"{i}.{n}": s for i, a in enumerate(self.parts) for n, s in a.state.items()}

    def step(self, grads: Params) -> None:
        """Change every parameter in place by its gradient (eqs. 2.29 to 2.33)."""
        for part in self.parts:
            part.lr = self.lr
            part.step(grads)


def linear_decay(total: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate at step 0, 1, ... (eq. 8.30): up to 1, then down to 0."""

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (total - step) / max(1, total - warmup))

    return schedule
