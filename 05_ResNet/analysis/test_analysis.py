"""The reading guide is true of the installed timm: every name in it is found there.

The Python blocks of the guide are run by tests/test_docs.py.
"""

import inspect
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import resnet as timm_resnet
from torch import nn

import resnet_paper
from utils.guides import Guide

# Words that are no names: files, commands, pieces of code, and what they are about.
TEXTS = {
    "paper/resnet_paper.py",
    "code type",
    'python -c "import timm.models.resnet as r; print(r.__file__)"',
    "if self.se is not None",
    "x += shortcut",
    "inplace=True",
}
# Local variables of make_blocks, and keyword arguments that build_model_with_cfg takes.
MENTIONED_IN = {
    "stage_name": timm_resnet.make_blocks,
    "attn_layer": timm_resnet.BasicBlock,
    "num_classes": timm.models.build_model_with_cfg,
    "in_chans": timm.models.build_model_with_cfg,
    "features_only": timm.models.build_model_with_cfg,
    "pretrained": timm.models.build_model_with_cfg,
    "load_pretrained": timm.models.build_model_with_cfg,
}


GUIDE = Guide(Path(__file__).parent / "README.md", TEXTS, MENTIONED_IN)


@pytest.fixture(scope="module")
def names():
    """What a name in the guide may begin with."""
    model = timm.create_model("resnet50")
    known = vars(timm_resnet) | {"timm": timm, "resnet_paper": resnet_paper, "nn": nn}
    known |= {"model": model, "block": timm.create_model("resnet18").layer1[0]}
    block = model.layer1[0]
    known |= {"downsample": block.downsample, "conv2": block.conv2, "forward": block.forward}
    return known


@pytest.mark.parametrize("span", GUIDE.spans)
def test_every_name_of_the_guide_is_found(span, names):
    said = GUIDE.complaint(span, names)
    assert not said, said


@pytest.mark.parametrize(
    "stale", ["ResNet.forward_pyramid", "ResNet(stem=)", "block.squeeze", "make_stages", "a b"]
)
def test_a_stale_name_would_be_noticed(stale, names):
    assert GUIDE.complaint(stale, names)


@pytest.mark.parametrize("kind", [timm_resnet.ResNet, timm_resnet.BasicBlock])
def test_every_argument_is_explained(kind):
    lacking = GUIDE.unexplained(kind)
    assert not lacking, f"the guide does not say what {kind.__name__}'s {lacking} are for"


def test_both_blocks_take_the_same_arguments():
    block, bottleneck = (
        list(inspect.signature(kind).parameters)
        for kind in (timm_resnet.BasicBlock, timm_resnet.Bottleneck)
    )
    assert block == bottleneck


def test_the_comment_on_the_name_is_there():
    assert "never liked this name" in inspect.getsource(timm_resnet.make_blocks)


def test_the_answers_to_the_questions():
    model = timm.create_model("resnet50")
    first = model.layer2[0]
    assert (first.conv1.stride, first.conv2.stride) == ((1, 1), (2, 2))
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 53
    assert sum("downsample" in name for name in convolutions) == 4
    assert first.act1.inplace and isinstance(model.layer1[0].downsample, nn.Sequential)
    ours = resnet_paper.ResNet(resnet_paper.ResNetConfig.published(50, "v1"))
    ours.load_state_dict(model.state_dict())
    # A fresh timm model would hide the difference: its branches are silent.
    for net in (ours, model):
        torch.manual_seed(0)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1)
    x = torch.randn(1, 3, 64, 64)
    assert (ours.eval()(x) - model.eval()(x)).abs().max() > 1e-2


def test_option_a_can_be_handed_to_timms_block():
    shortcut = resnet_paper.ZeroPaddedShortcut(12, 2)
    block = timm_resnet.BasicBlock(5, 12, stride=2, downsample=shortcut)
    assert block(torch.randn(2, 5, 8, 8)).shape == (2, 12, 4, 4)


def test_forward_has_the_calls_that_the_guide_counts():
    """Eleven modules are called in BasicBlock.forward; the paper has six layers in its branch."""
    source = inspect.getsource(timm_resnet.BasicBlock.forward)
    calls = re.findall(r"self\.(\w+)\(", source)
    assert len(calls) == 11, calls
