"""Solution: the pairwise sigmoid loss, forward and backward, and in pieces."""

import numpy as np


def sigmoid_loss_forward(image, text, scale, bias):
    """Does this text belong to this image? Asked of every pair by itself (eq. 12.28).

    Args:
        image, text: (B, E), vectors of length 1; row i belongs to row i.
        scale, bias: numbers.

    Returns:
        sum over the texts, mean over the images; and a cache. No overflow for large logits.
    """
    # --- your code: logits, the sign of each pair, log(1 + exp(-sign * logit))
    logits = scale * image @ text.T + bias
    signs = 2 * np.eye(len(image)) - 1
    loss = np.logaddexp(0, -signs * logits).sum() / len(image)
    return loss, (image, text, scale, logits)
    # --- end


def sigmoid_loss_backward(cache):
    """Gradients: dimage (B, E), dtext (B, E), dscale, dbias (eqs. 12.29, 12.16 to 12.18, 12.30)."""
    # --- your code: the gradient of the logits, and from it the four others
    image, text, scale, logits = cache
    dlogits = (1 / (1 + np.exp(-logits)) - np.eye(len(image))) / len(image)
    dimage = scale * dlogits @ text
    dtext = scale * dlogits.T @ image
    return dimage, dtext, (dlogits * (image @ text.T)).sum(), dlogits.sum()
    # --- end


def loss_in_pieces(images, texts, scale, bias):
    """The same loss from pieces of the batch, as machines have them, two pieces at a time.

    Args:
        images, texts: lists of arrays (B_r, E) that make up the batch, in the same order.

    Returns:
        the loss of the whole batch; never more than one block (B_r, B_q) of logits is there.
    """
    total, count = 0.0, sum(len(piece) for piece in images)
    # --- your code: every piece of images with every piece of texts; which pairs belong together?
    for r, image in enumerate(images):
        for q, text in enumerate(texts):
            signs = -np.ones((len(image), len(text)))
            if r == q:
                signs += 2 * np.eye(len(image))
            logits = scale * image @ text.T + bias
            total += np.logaddexp(0, -signs * logits).sum()
    # --- end
    return total / count
