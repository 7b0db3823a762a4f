"""The reading guide is true of the installed transformers: every name in it is found there.

The Python blocks of the guide are run by tests/test_docs.py.
"""

import inspect
from pathlib import Path

import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, cache_utils
from transformers.models.gpt2 import modeling_gpt2

import gpt_paper
from utils.guides import Guide

# Words that are no names: files, commands, pieces of text, and what they are about.
TEXTS = {
    "paper/gpt_paper.py",
    "code type",
    'python -c "import transformers.models.gpt2.modeling_gpt2 as m; print(m.__file__)"',
    'python -m benchmarks.run --only "09 generation"',
    "<\\|endoftext\\|>",
}
# Arguments and local names, with the function that mentions them.
MENTIONED_IN = {
    "attn_implementation": transformers.PreTrainedModel.set_attn_implementation,
    "attention_mask": modeling_gpt2.GPT2Model.forward,
    "labels": modeling_gpt2.GPT2LMHeadModel.forward,
    "position_ids": modeling_gpt2.GPT2Model.forward,
    "past_key_values.update": cache_utils.Cache.update,
    "is_causal": transformers.integrations.sdpa_attention.sdpa_attention_forward,
    "GPT2LMHeadModel(labels=)": modeling_gpt2.GPT2LMHeadModel.forward,
}


def small_model():
    sizes = {"vocab_size": 11, "n_positions": 9, "n_embd": 12, "n_head": 3, "n_layer": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))


GUIDE = Guide(Path(__file__).parent / "README.md", TEXTS, MENTIONED_IN)


@pytest.fixture(scope="module")
def names():
    """What a name in the guide may begin with."""
    model = small_model()
    known = vars(transformers.generation.logits_process) | vars(cache_utils)
    known |= vars(modeling_gpt2) | {"transformers": transformers, "gpt_paper": gpt_paper}
    known |= {"AttentionInterface": transformers.AttentionInterface, "torch": torch}
    known |= {"LogitsProcessorList": transformers.LogitsProcessorList}
    known |= {"lm_head": model.lm_head, "transformer": model.transformer}
    known |= {"c_proj": model.transformer.h[0].attn.c_proj, "generate": model.generate}
    known |= {"_tied_weights_keys": model._tied_weights_keys}
    known["sdpa_attention_forward"] = MENTIONED_IN["is_causal"]
    return known


@pytest.mark.parametrize("span", GUIDE.spans)
def test_every_name_of_the_guide_is_found(span, names):
    said = GUIDE.complaint(span, names)
    assert not said, said


@pytest.mark.parametrize(
    "stale", ["GPT2Attention.attend", "GPT2Config(n_heads=)", "DynamicLayer.append", "GPT3", "a b"]
)
def test_a_stale_name_would_be_noticed(stale, names):
    assert GUIDE.complaint(stale, names)


def test_every_option_is_explained():
    own = GPT2Config.__annotations__
    options = [n for n in own if n in inspect.signature(GPT2Config).parameters]
    assert len(options) > 20
    lacking = [name for name in options if f"`GPT2Config({name}=)`" not in GUIDE.text]
    assert not lacking, f"the guide does not say what {lacking} are for"


def test_the_answers_to_the_questions():
    model = small_model().eval()
    tokens = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(0))
    out = model(tokens, labels=tokens)
    shifted = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    assert torch.allclose(out.loss, shifted, atol=1e-6)
    assert model.double()(tokens, labels=tokens).loss.dtype == torch.float32
    source = inspect.getsource(modeling_gpt2.GPT2PreTrainedModel._init_weights)
    assert "c_proj.weight" in source and "math.sqrt(2 * self.config.n_layer)" in source


def test_the_head_is_the_table():
    model = small_model()
    assert model.lm_head.weight is model.transformer.wte.weight
    assert {"lm_head.weight", "transformer.wte.weight"} <= set(model.state_dict())


def test_a_dynamic_layer_copies_and_a_static_one_does_not():
    assert inspect.getsource(cache_utils.DynamicLayer.update).count("torch.cat") == 2
    assert "torch.cat" not in inspect.getsource(cache_utils.StaticLayer.update)


def test_the_order_of_the_processors():
    source = inspect.getsource(transformers.GenerationMixin._get_logits_processor)
    order = [source.index(f"{kind}LogitsWarper(") for kind in ("Temperature", "TopK", "TopP")]
    assert order == sorted(order)
