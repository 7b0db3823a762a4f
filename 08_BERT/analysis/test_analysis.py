"""The reading guide is true of the installed transformers: every name in it is found there.

The Python blocks of the guide are run by tests/test_docs.py.
"""

import inspect
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.bert import modeling_bert

import bert_paper
import heads_paper
from utils.guides import Guide

# Words that are no names: files, commands, pieces of code, and what they are about.
TEXTS = {
    "paper/bert_paper.py",
    "paper/heads_paper.py",
    "code type",
    'python -c "from transformers.models.bert import modeling_bert as m; print(m.__file__)"',
    '"eager"',
    '"sdpa"',
    '"bert"',
    "output_attentions=True",
    "add_pooling_layer=False",
    "[PAD]",
    "encoder.layer.0.attention.output.LayerNorm.weight",
}
# Names inside a class or a function, and keyword arguments that transformers takes elsewhere.
MENTIONED_IN = {
    "decoder": modeling_bert.BertLMPredictionHead,
    "bias": modeling_bert.BertLMPredictionHead,
    "decoder.bias": modeling_bert.BertForPreTraining,
    "padding_idx": modeling_bert.BertEmbeddings,
    "bert": modeling_bert.BertForTokenClassification,
    "forward": modeling_bert.BertForTokenClassification,
    "self.bert": modeling_bert.BertForTokenClassification,
    "post_init": modeling_bert.BertForTokenClassification,
    "base_model_prefix": modeling_bert.BertPreTrainedModel,
    "config._attn_implementation": modeling_bert.BertSelfAttention,
    "attention_mask": modeling_bert.BertModel,
    "LayerNorm": modeling_bert.BertSelfOutput,
    "attn_implementation": transformers.PreTrainedModel,
    "from_pretrained": transformers.PreTrainedModel,
    "save_pretrained": transformers.PreTrainedModel,
}


GUIDE = Guide(Path(__file__).parent / "README.md", TEXTS, MENTIONED_IN)


@pytest.fixture(scope="module")
def names():
    """What a name in the guide may begin with."""
    known = {"transformers": transformers, "torch": torch}
    return vars(modeling_bert) | known | {"bert_paper": bert_paper, "heads_paper": heads_paper}


@pytest.mark.parametrize("span", GUIDE.spans)
def test_every_name_of_the_guide_is_found(span, names):
    said = GUIDE.complaint(span, names)
    assert not said, said


@pytest.mark.parametrize(
    "stale", ["BertModel.encode", "BertModel.forward(head_mask=)", "BertStack", "a b"]
)
def test_a_stale_name_would_be_noticed(stale, names):
    assert GUIDE.complaint(stale, names)


def test_every_class_of_the_file_is_on_the_map():
    classes = [
        name
        for name, kind in vars(modeling_bert).items()
        if inspect.isclass(kind) and kind.__module__ == modeling_bert.__name__
    ]
    listed = {"BertOnlyMLMHead", "BertOnlyNSPHead", "BertForPreTrainingOutput"}  # small change
    lacking = [name for name in classes if f"`{name}`" not in GUIDE.text and name not in listed]
    assert not lacking, f"the guide does not say what {lacking} are for"


def test_every_argument_of_the_encoder_is_explained():
    lacking = GUIDE.unexplained(modeling_bert.BertModel.forward)
    assert not lacking, f"the guide does not say what {lacking} are for"


def small(attention="eager"):
    return transformers.BertConfig(
        vocab_size=30,
        hidden_size=12,
        num_attention_heads=3,
        intermediate_size=16,
        num_hidden_layers=1,
        attn_implementation=attention,
    )


def test_the_answers_to_the_questions():
    tokens = torch.tensor([[2, 7, 0, 3]])
    model = modeling_bert.BertForPreTraining(small()).eval()
    nothing = torch.full_like(tokens, -100)
    out = model(tokens, labels=nothing, next_sentence_label=torch.tensor([0]))
    assert out.loss.isnan()
    names = set(model.state_dict()) - set(modeling_bert.BertForMaskedLM(small()).state_dict())
    assert {name.split(".")[1] for name in names} == {"pooler", "seq_relationship"}
    head = model.cls.predictions
    assert head.bias is head.decoder.bias
    table = model.bert.embeddings.word_embeddings.weight
    assert head.decoder.weight is table
    model.bert(tokens).last_hidden_state.square().sum().backward()
    assert not table.grad[0].any() and table.grad[7].any()
    model.zero_grad()
    model(tokens).prediction_logits.exp().sum().backward()
    assert table.grad[0].any()


def test_eager_adds_the_mask_and_sdpa_gets_truth_values_or_nothing(monkeypatch):
    tokens, mask = torch.tensor([[2, 7, 3, 0]]), torch.tensor([[1, 1, 1, 0]])
    for attention in ("eager", "sdpa"):
        model, seen = modeling_bert.BertModel(small(attention)), []
        forward = modeling_bert.BertLayer.forward
        monkeypatch.setattr(
            modeling_bert.BertLayer,
            "forward",
            lambda self, x, m, *a, forward=forward, seen=seen, **k: (
                seen.append(m), forward(self, x, m, *a, **k)
            )[1],
        )  # fmt: skip
        model(tokens, mask)
        assert seen[0].shape == (1, 1, 4, 4)
        if attention == "eager":
            assert seen[0].dtype == torch.float32 and seen[0].max() == 0 and seen[0].min() < -1e30
        else:
            assert seen[0].dtype == torch.bool
            model(tokens)
            assert seen[1] is None
        monkeypatch.undo()
