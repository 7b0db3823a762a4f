"""Solution: what the temperature learns from, and what clamping does."""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)
from clip_layers_numpy import contrastive_loss_backward, contrastive_loss_forward


def gradient_of_theta(image, text, theta):
    """The gradient of the contrastive loss with respect to the logarithm of the scale.

    Args:
        image, text: (B, E), vectors of length 1. theta: the scale is exp(theta).
    """
    # --- your code: chapter's forward and backward, and the chain rule through exp (eq. 12.19)
    scale = np.exp(theta)
    _, cache = contrastive_loss_forward(image, text, scale)
    return scale * contrastive_loss_backward(cache)[2]
    # --- end


def gradient_from_means(logits):
    """The same from the logits (B, B) alone: expected minus right logit (eq. 12.35)."""

    # --- your code: softmax of rows and columns, the mean logit under each, minus the diagonal
    def softmax(x, axis):
        p = np.exp(x - x.max(axis=axis, keepdims=True))
        return p / p.sum(axis=axis, keepdims=True)

    right = np.diagonal(logits)
    of_rows = (softmax(logits, 1) * logits).sum(axis=1) - right
    of_columns = (softmax(logits, 0) * logits).sum(axis=0) - right
    return (of_rows + of_columns).mean() / 2
    # --- end


def train_temperature(image, text, theta, lr, steps, largest):
    """Plain gradient descent on theta alone, with the vectors as they are.

    Args:
        largest: the scale is kept at most so large after each step (eq. 12.36).

    Returns:
        scales (steps + 1,), the first before any step.
    """
    scales = [np.exp(theta)]
    # --- your code: a step against the gradient, then the clamp
    for _ in range(steps):
        theta = theta - lr * gradient_of_theta(image, text, theta)
        theta = min(theta, np.log(largest))
        scales.append(np.exp(theta))
    # --- end
    return np.array(scales)


def share_of_largest(dimage):
    """The share of the pair that is pulled most in the gradients' total length.

    Args:
        dimage: (B, E), the gradients of the images' vectors.

    Returns:
        a number in [1/B, 1]: near 1, a single pair decides the step.
    """
    # --- your code: the lengths of the rows, the largest over their sum
    lengths = np.linalg.norm(dimage, axis=1)
    return float(lengths.max() / lengths.sum())
    # --- end
