"""Update rules in NumPy (level 1): SGD, momentum, Adam, AdamW.

Papers:
- D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by back-propagating
  errors", Nature 323, 1986: momentum, equation (9).
- D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980,
  Algorithm 1.
- I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101,
  Algorithm 2.

Map of this file: SGD (plain, with momentum), Adam, AdamW.

Shapes: every parameter keeps its own; all the rules work element by element.

Read before: 01_Linear_Logistic/theory.md (gradient descent), 02_MLP/theory.md sections 8 and 9.

Deviations from the paper: momentum is kept as a running sum of gradients and multiplied by the
learning rate of the moment, as PyTorch does; the 1986 form keeps a running sum of updates. With a
constant learning rate the two are the same. Adam corrects the root of the running square instead of
the square, sqrt(s / (1 - beta^t)) = sqrt(s) / sqrt(1 - beta^t), as PyTorch does.
"""

import numpy as np

Params = dict[str, np.ndarray]


class SGD:
    """Gradient descent, with momentum and L2 weight decay where asked (eq. 2.27, 2.28).

    Args:
        params: name -> array; changed in place by :meth:`step`.
        lr: learning rate; may be set anew between steps.
        momentum: share of the last velocity that is kept, 0 to 1.
        weight_decay: strength of the L2 term, added to the gradient (eq. 2.32).

    Attributes:
        state: ``velocity.<name>`` per parameter if there is momentum; saved in checkpoints.
    """

    def __init__(
        self, params: Params, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.params, self.lr = params, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state: Params = {}
        if momentum:
            self.state = {f"velocity.{name}": np.zeros_like(p) for name, p in params.items()}

    def step(self, grads: Params) -> None:
        """Change every parameter in place by its gradient (same names and shapes)."""
        for name, p in self.params.items():
            g = grads[name]
            if self.weight_decay:
                g = g + self.weight_decay * p  # eq. 2.32
            if self.momentum:
                v = self.state[f"velocity.{name}"]
                v *= self.momentum  # eq. 2.28
                v += g
                g = v
            p -= self.lr * g  # eq. 2.27


class Adam:
    """Adam: steps scaled by the running mean and size of each gradient (eq. 2.29 to 2.31).

    Args:
        params: name -> array; changed in place by :meth:`step`.
        lr: learning rate; may be set anew between steps.
        betas: how much of the running mean and of the running square is kept.
        eps: keeps the division finite.
        weight_decay: strength of the L2 term, added to the gradient (eq. 2.32).

    Attributes:
        state: ``step``, and ``mean.<name>`` and ``square.<name>`` per parameter.
    """

    decoupled = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.params, self.lr = params, lr
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.state: Params = {"step": np.zeros((), dtype=np.int64)}
        for name, p in params.items():
            self.state[f"mean.{name}"] = np.zeros_like(p)
            self.state[f"square.{name}"] = np.zeros_like(p)

    def step(self, grads: Params) -> None:
        """Change every parameter in place by its gradient (same names and shapes)."""
        self.state["step"] += 1
        t = int(self.state["step"])
        beta1, beta2 = self.betas
        for name, p in self.params.items():
            g = grads[name]
            if self.weight_decay and self.decoupled:
                p *= 1 - self.lr * self.weight_decay  # eq. 2.33
            elif self.weight_decay:
                g = g + self.weight_decay * p  # eq. 2.32
            m, s = self.state[f"mean.{name}"], self.state[f"square.{name}"]
            m *= beta1  # eq. 2.29; in place, for these arrays are as large as the model
            m += (1 - beta1) * g
            s *= beta2
            s += (1 - beta2) * g * g
            root = np.sqrt(s)
            root /= np.sqrt(1 - beta2**t)  # eq. 2.30
            root += self.eps
            p -= (self.lr / (1 - beta1**t)) * m / root  # eq. 2.31


class AdamW(Adam):
    """Adam with decoupled weight decay: the decay does not pass through the scaling (eq. 2.33).

    Arguments as :class:`Adam`; PyTorch's default ``weight_decay`` is 0.01.
    """

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
