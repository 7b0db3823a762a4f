"""Solution: positions for another grid, by two matrices, forward and backward."""

import numpy as np


def interpolation_matrix(old, new):
    """R (new, old) of linear interpolation (section 10 of the theory); rows sum to 1.

    New place i lies at q = (i + 1/2) * old / new - 1/2 on the old grid, held in [0, old - 1].
    """
    R = np.zeros((new, old))
    # --- your code: two entries in each row
    for i in range(new):
        q = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
        k = int(q)
        R[i, k] += 1 - (q - k)
        R[i, min(k + 1, old - 1)] += q - k
    # --- end
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
    # --- your code: each of the D components is a picture (G, G)
    grid = pos_embed[0, 1:].reshape(G, G, D)
    grid = np.einsum("ik,jl,kld->ijd", R, R, grid)
    y = np.concatenate([pos_embed[:, :1], grid.reshape(1, -1, D)], axis=1)
    # --- end
    return y, (R,)


def resize_positions_backward(dy, cache):
    """Gradient of ``resize_positions_forward``: (1, G*G + 1, D) (eq. 10.25)."""
    (R,) = cache
    new, G = R.shape
    D = dy.shape[2]
    # --- your code: the two matrices, transposed
    dgrid = np.einsum("ik,jl,ijd->kld", R, R, dy[0, 1:].reshape(new, new, D))
    return np.concatenate([dy[:, :1], dgrid.reshape(1, -1, D)], axis=1)
    # --- end
