"""Exercise: a feature pyramid on timm's ResNet (modifying production code, 3 of 3).

Lin, Dollar, Girshick, He, Hariharan, Belongie, "Feature Pyramid Networks for Object Detection",
2016, arXiv:1612.03144, section 3. A detector wants maps of several sizes, each of which knows what
the deepest one knows: the deep maps are enlarged and added to the shallow ones.
"""

import torch.nn.functional as F
from torch import nn


class FeaturePyramid(nn.Module):
    """Maps of strides 4, 8, 16 and 32 with ``width`` channels each.

    Args:
        model: a timm ResNet; its ``feature_info`` lists the stem and the four stages, each with
            ``num_chs``.
        width: channels of all outputs.

    Attributes:
        lateral: four 1x1 convolutions, from each stage's channels to ``width``.
        output: four 3x3 convolutions with padding 1, from ``width`` to ``width``.
    """

    def __init__(self, model, width):
        super().__init__()
        self.model = model
        channels = [info["num_chs"] for info in model.feature_info[1:]]
        # TODO: self.lateral and self.output, each an nn.ModuleList
        raise NotImplementedError("self.lateral and self.output, each an nn.ModuleList")

    def stages(self, x):
        """The outputs of layer1 to layer4 for images (B, 3, H, W)."""
        # TODO: see ResNet.forward_intermediates in timm/models/resnet.py
        raise NotImplementedError("see ResNet.forward_intermediates in timm/models/resnet.py")

    def forward(self, x):
        """Images (B, 3, H, W) -> four maps (B, width, H/4, W/4) to (B, width, H/32, W/32)."""
        maps = self.stages(x)
        merged = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        # TODO: from the deepest to the shallowest: enlarge (nearest), add to the next
        raise NotImplementedError(
            "from the deepest to the shallowest: enlarge (nearest), add to the next"
        )
        return [output(m) for output, m in zip(self.output, merged, strict=True)]
