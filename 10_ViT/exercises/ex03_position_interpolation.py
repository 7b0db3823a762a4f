"""Exercise: positions for another grid, by two matrices, forward and backward."""

import numpy as np


def interpolation_matrix(old, new):
    """R (new, old) of linear interpolation (section 10 of the theory); rows sum to 1.

    New place i lies at q = (i + 1/2) * old / new - 1/2 on the old grid, held in [0, old - 1].
    """
    R = np.zeros((new, old))
    # TODO: two entries in each row
    raise NotImplementedError("two entries in each row")
    return R


def resize_positions_forward(pos_embed, new):
    """Positions for a grid of new x new patches (eq. 10.24).

    Args:
        pos_embed: (1, G*G + 1, D); the first is the class token's and stays as it is.

    Returns:
        (1, new*new + 1, D), and a cache.
    """
    _, T, D = pos_embed.shape
    G = round((T - 1) ** 0.5)
    R = interpolation_matrix(G, new)
    # TODO: each of the D components is a picture (G, G)
    raise NotImplementedError("each of the D components is a picture (G, G)")
    return y, (R,)


def resize_positions_backward(dy, cache):
    """Gradient of ``resize_positions_forward``: (1, G*G + 1, D) (eq. 10.25)."""
    (R,) = cache
    new, G = R.shape
    D = dy.shape[2]
    # TODO: the two matrices, transposed
    raise NotImplementedError("the two matrices, transposed")
