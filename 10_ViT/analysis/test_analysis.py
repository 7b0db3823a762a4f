"""The reading guide is true of the installed timm: every name in it is found there.

The Python blocks of the guide are run by tests/test_docs.py.
"""

import inspect
from pathlib import Path

import pytest
import timm
import torch
from timm.models import vision_transformer as timm_vit
from torch import nn

import vit_paper
from utils.guides import Guide

# Words that are no names: files, commands, pieces of code.
TEXTS = {
    "paper/vit_paper.py",
    "code type",
    'python -c "import timm.models.vision_transformer as v; print(v.__file__)"',
    'global_pool="avg"',
}
SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}


GUIDE = Guide(Path(__file__).parent / "README.md", TEXTS)


@pytest.fixture(scope="module")
def names():
    """What a name in the guide may begin with."""
    model = timm_vit.VisionTransformer(**SMALL)
    known = vars(timm_vit) | {"timm": timm, "vit_paper": vit_paper, "nn": nn}
    return known | {"model": model, "block": model.blocks[0]}


@pytest.mark.parametrize("span", GUIDE.spans)
def test_every_name_of_the_guide_is_found(span, names):
    said = GUIDE.complaint(span, names)
    assert not said, said


@pytest.mark.parametrize(
    "stale", ["VisionTransformer.forward_patches", "Block(scale=)", "block.ls3", "PatchCut", "a b"]
)
def test_a_stale_name_would_be_noticed(stale, names):
    assert GUIDE.complaint(stale, names)


@pytest.mark.parametrize("kind", [timm_vit.VisionTransformer, timm_vit.Block])
def test_every_argument_is_explained(kind):
    lacking = GUIDE.unexplained(kind)
    assert not lacking, f"the guide does not say what {kind.__name__}'s {lacking} are for"


def test_the_counts_of_the_guide():
    assert len(inspect.signature(timm_vit.Block).parameters) == 19
    assert len(inspect.signature(timm_vit.VisionTransformer).parameters) == 42
    lines = [
        line
        for line in inspect.getsource(timm_vit.Block.forward).splitlines()
        if line.strip().startswith("x = ")
    ]
    assert len(lines) == 2


def test_the_answers_to_the_questions():
    model = timm_vit.VisionTransformer(**SMALL)
    assert model.no_weight_decay() == {"pos_embed", "cls_token", "reg_token", "dist_token"}
    assert "resample_abs_pos_embed" in inspect.getsource(timm_vit.checkpoint_filter_fn)
    assert "resample_abs_pos_embed" in inspect.getsource(model.set_input_size)
    clip = timm_vit.VisionTransformer(**SMALL, pre_norm=True)
    assert clip.patch_embed.proj.bias is None and model.patch_embed.proj.bias is not None
    # Nor is it true that the norm behind would take a bias of the patches out.
    x, norm = torch.randn(2, 5, 12), nn.LayerNorm(12)
    assert (norm(x + torch.randn(12)) - norm(x)).abs().max() > 1e-2


def test_norm_and_mean_do_not_commute():
    x, norm = torch.randn(2, 5, 12), nn.LayerNorm(12)
    assert (norm(x).mean(dim=1) - norm(x.mean(dim=1))).abs().max() > 1e-2
    options = SMALL | {"class_token": False, "global_pool": "avg"}
    assert isinstance(timm_vit.VisionTransformer(**options).norm, nn.Identity)
    ours = timm_vit.VisionTransformer(**options, fc_norm=False)
    assert isinstance(ours.fc_norm, nn.Identity) and isinstance(ours.norm, nn.LayerNorm)


def test_stochastic_depth_rises_from_block_to_block():
    model = timm_vit.VisionTransformer(**(SMALL | {"depth": 3}), drop_path_rate=0.2)
    assert isinstance(model.blocks[0].drop_path1, nn.Identity)
    rates = [model.blocks[i].drop_path1.drop_prob for i in (1, 2)]
    assert rates == pytest.approx([0.1, 0.2])
