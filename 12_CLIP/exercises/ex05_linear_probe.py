"""Exercise: a linear probe on transformers' CLIPModel."""

import torch
from torch import nn


class LinearProbe(nn.Module):
    """CLIP's image encoder, frozen, and one linear layer that learns.

    Args:
        clip: ``transformers.CLIPModel``; it is shared, not copied.
        classes: K.

    The features are those *before* the projection into the common space, as in section 3.2 of the
    paper: ``pooler_output`` of ``clip.vision_model``, (B, D).
    """

    def __init__(self, clip, classes):
        super().__init__()
        # TODO: keep the vision model, take it out of training, make the layer ``head``
        raise NotImplementedError(
            "keep the vision model, take it out of training, make the layer ``head``"
        )

    def features(self, images):
        """(B, 3, H, W) -> (B, D), without a gradient, and in eval mode whatever ``train`` said."""
        # TODO: eval mode, no gradient, the vector before the projection
        raise NotImplementedError("eval mode, no gradient, the vector before the projection")

    def forward(self, images):
        """Logits: (B, 3, H, W) -> (B, K)."""
        # TODO: the head on the features
        raise NotImplementedError("the head on the features")


def fit_probe(probe, images, labels, decay=1e-2, steps=60):
    """Train ``probe.head`` on all images at once with L-BFGS, and leave everything else alone.

    Args:
        decay: times half the squared length of the head's *weight* is added to the loss.

    Returns:
        the loss after the last step, a number.
    """
    features = probe.features(images)
    optimizer = torch.optim.LBFGS(
        probe.head.parameters(), max_iter=steps, line_search_fn="strong_wolfe"
    )

    def objective():
        # TODO: cross-entropy of the head on the features, plus the decay
        raise NotImplementedError("cross-entropy of the head on the features, plus the decay")

    def closure():
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(objective().detach())
