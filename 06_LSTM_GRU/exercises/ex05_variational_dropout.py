"""Exercise: dropout through time, built into the LSTM of level 3.

    python 06_LSTM_GRU/exercises/ex05_variational_dropout.py

prints, once the tests pass, what is left of a remembered number after 50 steps with three ways to
drop units. A second.
"""

import torch
import torch.nn.functional as F

import utils  # noqa: F401  (puts the chapters on the import path)
from lstm_paper import LSTM, LSTMConfig


def sequence_mask(shape, rate, like):
    """What to multiply with: 0 with probability ``rate``, else 1 / (1 - rate) (eq. 2.9).

    Args:
        shape: of the mask. like: a tensor that has the dtype and device wanted.
    """
    # TODO: a tensor of this shape
    raise NotImplementedError("a tensor of this shape")


def variational_steps(from_x, weight_hh, h, c, drop_h):
    """The standard cell, step by step, with one dropout mask for the state at all steps.

    The mask acts on what the gates see of h (eq. 6.23), not on h that is put out, nor on c.

    Args:
        from_x: (T, B, 4M), W x + b of all steps. weight_hh: (4M, M). h, c: (B, M).
        drop_h: (B, M), 0 or 1 / (1 - rate).

    Returns:
        all h and all c, (T, B, M) each.
    """
    all_h, all_c = [], []
    for a in from_x:
        # TODO: eqs. 6.23 to 6.26, with the mask in its place
        raise NotImplementedError("eqs. 6.23 to 6.26, with the mask in its place")
        all_h.append(h)
        all_c.append(c)
    return torch.stack(all_h), torch.stack(all_c)


class VariationalLSTM(LSTM):
    """The LSTM of level 3 with the dropout of Gal and Ghahramani (2015) in training.

    Each direction of each layer draws two masks for each sequence of a batch, one for its inputs
    and one for its states, and keeps them for all steps.

    Args:
        config: with ``dropout`` 0, which would draw anew at each step. rate: share dropped.
    """

    def __init__(self, config: LSTMConfig, rate: float):
        if config.dropout:
            raise ValueError(f"expected a config with dropout 0, got {config.dropout}")
        super().__init__(config)
        self.rate = rate

    def _direction(self, suffix, x, h, c):
        """All h and all c of one direction of one layer, (T, B, M) each, for x (B, T, D)."""
        if not self.training or self.rate == 0:
            return super()._direction(suffix, x, h, c)
        weight_ih, weight_hh, bias_ih, bias_hh = (
            getattr(self, f"{name}_{suffix}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        B, T, D = x.shape
        # TODO: draw the mask of the inputs, then that of the states; drop in x
        raise NotImplementedError("draw the mask of the inputs, then that of the states; drop in x")
        from_x = F.linear(x.transpose(0, 1), weight_ih, bias_ih + bias_hh)  # -> (T, B, 4M)
        return variational_steps(from_x, weight_hh, h, c, drop_h)


def main():
    torch.manual_seed(0)
    T, B, M, rate = 50, 1000, 1, 0.25
    # Shut input gate, open forget gate, open output gate: the cell keeps the 1 that it has.
    from_x = torch.tensor([-20.0, 20.0, 0.0, 20.0]).expand(T, B, 4)
    zero, one = torch.zeros(B, M), torch.ones(B, M)
    _, kept = variational_steps(
        from_x, torch.zeros(4, M), zero, one, sequence_mask((B, M), rate, one)
    )
    anew, same, mask = one, one, sequence_mask((B, M), rate, one)
    for _ in range(T):
        anew, same = anew * sequence_mask((B, M), rate, one), same * mask
    print(f"a number remembered for {T} steps, rate {rate}: share of {B} cells that still have it")
    for name, c in (
        ("mask on what gates see", kept[-1]),
        ("new mask on c", anew),
        ("one on c", same),
    ):
        print(f"{name:>24}: {((c - 1).abs() < 0.01).float().mean():.3f}, largest {c.max():.3g}")


if __name__ == "__main__":
    main()
