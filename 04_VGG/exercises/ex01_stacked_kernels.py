"""Exercise: what a stack of small kernels sees and costs, beside one large kernel.

    python 04_VGG/exercises/ex01_stacked_kernels.py

prints both for stacks of one to five layers of 3x3 once the tests pass.
"""

import numpy as np


def field(layers, k):
    """Width of what a stack of ``layers`` convolutions of k x k with stride 1 sees (eq. 4.1)."""
    # TODO: each layer adds so many pixels to the one that we start from
    raise NotImplementedError("each layer adds so many pixels to the one that we start from")


def weights_of_stack(layers, k, C):
    """Weights of the stack, C channels in and out of every layer, biases left aside (eq. 4.2)."""
    # TODO: a layer has C kernels, each with C channels
    raise NotImplementedError("a layer has C kernels, each with C channels")


def weights_of_one(layers, k, C):
    """Weights of one layer, C channels in and out, that sees as much as the stack (eq. 4.2)."""
    # TODO: a kernel as wide as the field of the stack
    raise NotImplementedError("a kernel as wide as the field of the stack")


def multiply_adds(layers, k, C, H, W):
    """Multiply-adds of the stack on maps of H x W whose size padding keeps (eq. 4.3)."""
    # TODO: every weight is used once at each place
    raise NotImplementedError("every weight is used once at each place")


def merge_kernels(first, second):
    """The one kernel that does what two convolutions without a ReLU between them do (eq. 4.4).

    Args:
        first: (Cm, C, k1, k1), applied first. second: (Co, Cm, k2, k2), applied to its result.

    Returns:
        (Co, C, k1 + k2 - 1, k1 + k2 - 1).
    """
    _, C, k1, _ = first.shape
    Co, _, k2, _ = second.shape
    merged = np.zeros((Co, C, k1 + k2 - 1, k1 + k2 - 1))
    # TODO: each tap (u, v) of second lays a copy of first there; sum over Cm
    raise NotImplementedError("each tap (u, v) of second lays a copy of first there; sum over Cm")
    return merged


def main():
    C = 64
    print(f"{'layers':>6}  {'sees':>5}  {'weights':>9}  {'one kernel':>10}  {'more':>5}")
    for layers in range(1, 6):
        r = field(layers, 3)
        stack, one = weights_of_stack(layers, 3, C), weights_of_one(layers, 3, C)
        print(f"{layers:6}  {r:>2}x{r:<2}  {stack:9,}  {one:10,}  {one / stack - 1:5.0%}")


if __name__ == "__main__":
    main()
