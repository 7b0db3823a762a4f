"""Adagrad, and a prior over the decoder's parameters, in NumPy (level 1).

Papers:
- J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
  Optimization", JMLR 12, 2011: the update rule, in its diagonal form.
- D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, section 5:
  which uses it, with "a small weight decay term" for a prior N(0, I).

Map of this file: add_prior, Adagrad.

Shapes: every parameter keeps its own; the rule works element by element.

Read before: 02_MLP/numpy/optimizers_numpy.py; 11_VAE/theory.md section 13.

Deviations from the paper: none of substance. Duchi et al. have a small constant under the root or
beside it; here it stands beside it, as in PyTorch.
"""

import numpy as np

Params = dict[str, np.ndarray]


def add_prior(grads: Params, params: Params, examples: int) -> Params:
    """The gradients with that of a standard normal prior over the decoder added (eq. 11.43).

    Args:
        grads: of minus the mean bound.
        examples: N, size of the training set.
    """
    return {
        name: g + params[name] / examples if name.startswith("decoder.") else g
        for name, g in grads.items()
    }


class Adagrad:
    """Steps divided by the root of the sum of all squared gradients so far (eq. 11.44).

    Args:
        params: name -> array; changed in place by :meth:`step`.
        lr: learning rate; may be set anew between steps.
        eps: keeps the division finite where the gradient was always zero.

    Attributes:
        state: ``squares.<name>`` per parameter; saved in checkpoints.
    """

    def __init__(self, params: Params, lr: float, eps: float = 1e-10) -> None:
        self.params, self.lr, self.eps = params, lr, eps
        self.state = {f"squares.{name}": np.zeros_like(p) for name, p in params.items()}

    def step(self, grads: Params) -> None:
        """Change every parameter in place by its gradient (same names and shapes)."""
        for name, p in self.params.items():
            squares = self.state[f"squares.{name}"]
            squares += grads[name] ** 2  # eq. 11.44
            p -= self.lr * grads[name] / (np.sqrt(squares) + self.eps)
