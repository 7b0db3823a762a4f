"""The reading guide is true of the installed transformers and open_clip.

The Python blocks of the guide are run by tests/test_docs.py.
"""

import importlib
import inspect
from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from open_clip import loss, tokenizer, transformer
from torch import nn
from transformers.models.clip import modeling_clip

import clip_loss_paper
import clip_paper
import clip_resnet_paper
import clip_weights_paper
import utils  # noqa: F401  (puts the chapters on the import path)
from utils.guides import Guide
from utils.parity import max_difference

importlib.import_module("open_clip.modified_resnet")

# Words that are no names: files, pieces of code, what they are about.
TEXTS = {
    "paper/clip_paper.py",
    "paper/clip_loss_paper.py",
    "code type",
    'attn_implementation="sdpa"',
    "&amp;",
    "&",
    "openai",
    "test_two_processes_equal_one_with_the_whole_batch",
    "ViT-B-32-quickgelu",  # a model of open_clip: its own test is below
}
# Local variables, attributes and keyword arguments, and where they are found.
MENTIONED_IN = {
    "create_causal_mask": modeling_clip.CLIPTextModel,
    "is_causal": modeling_clip.CLIPTextModel,
    "eos_token_id": modeling_clip.CLIPTextModel,
    "pooler_output": modeling_clip.CLIPVisionModel,
    "pre_layrnorm": modeling_clip.CLIPVisionModel,
    "hidden_act": modeling_clip.CLIPMLP,
    "all_gather": loss.gather_features,
}
GUIDE = Guide(Path(__file__).parent / "README.md", TEXTS, MENTIONED_IN)


@pytest.fixture(scope="module")
def names():
    """What a name in the guide may begin with."""
    import clip_tokenizer_numpy

    known = dict(vars(modeling_clip)) | vars(loss) | vars(tokenizer)
    known |= {
        "ResidualAttentionBlock": transformer.ResidualAttentionBlock,
        "LayerNormFp32": transformer.LayerNormFp32,
        "text_global_pool": transformer.text_global_pool,
        "CLIPVisionCfg": open_clip.CLIPVisionCfg,
        "CLIPTextCfg": open_clip.CLIPTextCfg,
        "modeling_clip": modeling_clip,
        "transformers": transformers,
        "open_clip": open_clip,
        "clip_paper": clip_paper,
        "clip_loss_paper": clip_loss_paper,
        "clip_resnet_paper": clip_resnet_paper,
        "clip_weights_paper": clip_weights_paper,
        "clip_tokenizer_numpy": clip_tokenizer_numpy,
        "nn": nn,
        "torch": torch,
    }
    return known


@pytest.mark.parametrize("span", GUIDE.spans)
def test_every_name_of_the_guide_is_found(span, names):
    said = GUIDE.complaint(span, names)
    assert not said, said


@pytest.mark.parametrize(
    "stale",
    ["CLIPModel.get_sound_features", "open_clip.model.CLIP(sound_cfg=)", "CLIPFusion", "a b"],
)
def test_a_stale_name_would_be_noticed(stale, names):
    assert GUIDE.complaint(stale, names)


def test_the_model_that_the_guide_names_is_there():
    assert "ViT-B-32-quickgelu" in open_clip.list_models()


def test_every_argument_is_explained():
    lacking = [
        name
        for name in inspect.signature(open_clip.model.CLIP).parameters
        if f"`open_clip.model.CLIP({name}=)`" not in GUIDE.text
    ]
    assert not lacking, f"the guide does not say what {lacking} are for"


def test_only_the_text_model_makes_a_mask():
    source = inspect.getsource(modeling_clip.CLIPVisionModel)
    assert "create_causal_mask" not in source and "is_causal" not in source
    assert "eos_token_id == 2" in inspect.getsource(modeling_clip.CLIPTextModel.forward)


def test_the_eager_softmax_is_in_float32():
    assert "dtype=torch.float32" in inspect.getsource(modeling_clip.eager_attention_forward)


def test_transformers_does_not_clamp_its_scale():
    assert "clamp" not in inspect.getsource(modeling_clip)


def test_gathered_constants_with_local_rows_would_give_another_gradient():
    """The last row of the table: the vector as a candidate in the other process is left out."""
    torch.manual_seed(0)
    image, text = torch.randn(2, 4, 5, dtype=torch.float64)
    image, text = (nn.functional.normalize(x, dim=1) for x in (image, text))
    scale = torch.tensor(9.0, dtype=torch.float64)

    def gradient(constants: bool) -> torch.Tensor:
        """Of the images, in two processes of two pairs each."""
        leaf, total = image.clone().requires_grad_(), torch.zeros((), dtype=torch.float64)
        for own in (slice(0, 2), slice(2, 4)):
            images, labels = leaf.detach() if constants else leaf, torch.arange(4)[own]
            of_image = nn.functional.cross_entropy(scale * leaf[own] @ text.T, labels)
            of_text = nn.functional.cross_entropy(scale * text[own] @ images.T, labels)
            total = total + (of_image + of_text) / 4
        return torch.autograd.grad(total, leaf)[0]

    leaf = image.clone().requires_grad_()
    (want,) = torch.autograd.grad(clip_loss_paper.contrastive_loss(leaf, text, scale), leaf)
    assert max_difference(gradient(constants=False), want) < 1e-9
    assert max_difference(gradient(constants=True), want) > 0.01
