"""Solution: a linear probe on transformers' CLIPModel."""

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
        # --- your code: keep the vision model, take it out of training, make the layer ``head``
        self.vision = clip.vision_model
        for p in self.vision.parameters():
            p.requires_grad_(False)
        self.head = nn.Linear(clip.config.vision_config.hidden_size, classes)
        # --- end

    def features(self, images):
        """(B, 3, H, W) -> (B, D), without a gradient, and in eval mode whatever ``train`` said."""
        # --- your code: eval mode, no gradient, the vector before the projection
        self.vision.eval()
        with torch.no_grad():
            return self.vision(pixel_values=images).pooler_output
        # --- end

    def forward(self, images):
        """Logits: (B, 3, H, W) -> (B, K)."""
        # --- your code: the head on the features
        return self.head(self.features(images))
        # --- end


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
        # --- your code: cross-entropy of the head on the features, plus the decay
        loss = nn.functional.cross_entropy(probe.head(features), labels)
        return loss + decay / 2 * probe.head.weight.square().sum()
        # --- end

    def closure():
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(objective().detach())
