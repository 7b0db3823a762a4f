"""utils.guides: what it finds, and what it complains of; and the guides in docs/."""

from pathlib import Path

import pytest
import timm
import transformers
from transformers import cache_utils, masking_utils, modeling_utils, pytorch_utils
from transformers.models.auto import modeling_auto

from utils import ROOT
from utils.guides import Guide, resolve


class Layer:
    scale: float  # the constructor sets it

    def __init__(self, width, bias=True):
        self.scale = width**0.5 if bias else 1.0

    def forward(self, x, scaled=False):
        return x


KNOWN = {"Layer": Layer}
PAGE = """# Page

`Layer.forward` takes `Layer.forward(scaled=)`, sets `scale` and `Layer.scale`; run `python x.py`.

```python
print(`not this`)
```
"""


@pytest.fixture
def guide(tmp_path: Path) -> Guide:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return Guide(path, {"python x.py"}, {"scale": Layer, "self.width": Layer})


def test_spans_are_those_of_the_prose(guide):
    assert guide.spans == [
        "Layer.forward",
        "Layer.forward(scaled=)",
        "Layer.scale",
        "python x.py",
        "scale",
    ]
    assert not any(guide.complaint(span, KNOWN) for span in guide.spans)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ("Layer.backward", "Layer.backward is not in"),
        ("Block.forward", "Block.forward is not in"),
        ("Layer.forward(mask=)", "takes no mask"),
        ("a b", "is no name"),
    ],
)
def test_what_is_not_there_is_told(guide, span, message):
    assert message in guide.complaint(span, KNOWN)


def test_a_word_is_looked_for_where_the_guide_says(guide):
    assert not guide.complaint("self.width", KNOWN)
    guide.mentioned_in["gone"] = Layer
    assert "does not mention gone" in guide.complaint("gone", KNOWN)


def test_arguments_without_an_explanation(guide):
    assert guide.unexplained(Layer.forward) == ["x"]
    assert guide.unexplained(Layer) == ["width", "bias"]


def test_resolve():
    assert resolve("Layer.forward", {"Layer": Layer}) is Layer.forward
    with pytest.raises(KeyError):
        resolve("Other", {"Layer": Layer})


# --- the guides in docs/

HUGGING_FACE_NAMES = {
    "transformers": transformers,
    "ALL_ATTENTION_FUNCTIONS": modeling_utils.ALL_ATTENTION_FUNCTIONS,
    "AttentionInterface": modeling_utils.AttentionInterface,
    "AutoModel": transformers.AutoModel,
    "AutoModelForCausalLM": transformers.AutoModelForCausalLM,
    "CONFIG_MAPPING_NAMES": modeling_auto.CONFIG_MAPPING_NAMES,
    "GPT2Config": transformers.GPT2Config,
    "PreTrainedModel": transformers.PreTrainedModel,
    "cache_utils": cache_utils,
    "masking_utils": masking_utils,
    "pytorch_utils": pytorch_utils,
}
HUGGING_FACE = Guide(
    ROOT / "docs" / "03_Reading_HuggingFace_Code.md",
    texts={
        "code type",
        "tests/test_guides.py",
        "configuration_*.py",
        "modeling_*.py",
        "tokenization_*.py",
        "image_processing_*.py",
        "modular_*.py",
        "config.json",
        "# Copied from",
        "embeddings…",
        "bert.embeddings…",
        "convert_*",
        "paper/",
        "eager",
        "sdpa",
        "meta",
        "print(model)",
        "breakpoint()",
        "output_attentions=True",
        "model.encoder.layer[0].attention = mine",
    },
    mentioned_in={
        "forward": transformers.BertModel,
        "hidden_size": transformers.BertConfig,
        "n_embd": transformers.GPT2Config,
        "model_type": transformers.BertConfig,
        "architectures": transformers.PreTrainedConfig,
        "from_pretrained": transformers.PreTrainedModel,
    },
)
TIMM_NAMES = {
    "timm": timm,
    "ResNet": timm.models.ResNet,
    "VisionTransformer": timm.models.VisionTransformer,
    "vision_transformer": timm.models.vision_transformer,
    "build_model_with_cfg": timm.models.build_model_with_cfg,
    "register_model": timm.models.register_model,
    "adapt_input_conv": timm.models.adapt_input_conv,
    "FeatureListNet": timm.models.FeatureListNet,
    "FeatureGetterNet": timm.models._features.FeatureGetterNet,
}
TIMM = Guide(
    ROOT / "docs" / "04_Reading_timm_Code.md",
    texts={
        "code type",
        "tests/test_guides.py",
        "resnet50.a1_in1k",
        "**kwargs",
        "features_only=True",
        "state_dict",
        "from_pretrained",
        "model.layer1[0].act2 = torch.nn.SiLU()",
    },
    mentioned_in={
        "features_only": timm.models.build_model_with_cfg,
        "pretrained_strict": timm.models.build_model_with_cfg,
        "feature_info": timm.models.ResNet,
        "forward_intermediates": timm.models._features.FeatureGetterNet,
        "block=": timm.models.ResNet,
        "norm_layer=": timm.models.VisionTransformer,
        "act_layer=": timm.models.VisionTransformer,
        "mlp_layer=": timm.models.VisionTransformer,
    },
)
GUIDES = ((HUGGING_FACE, HUGGING_FACE_NAMES), (TIMM, TIMM_NAMES))
SPANS = [(guide, known, span) for guide, known in GUIDES for span in guide.spans]


@pytest.mark.parametrize(("guide", "known", "span"), SPANS, ids=[span for *_, span in SPANS])
def test_every_name_of_the_guides_is_found(guide, known, span):
    said = guide.complaint(span, known)
    assert not said, said


@pytest.mark.parametrize(("guide", "known"), GUIDES, ids=["hugging_face", "timm"])
def test_a_stale_name_would_be_noticed(guide, known):
    for stale in ("transformers.BertModelX", "timm.create", "VisionTransformer.cut", "a b"):
        assert guide.complaint(stale, known)
    assert not guide.texts - set(guide.spans), "texts that the guide no longer has"
    assert not set(guide.mentioned_in) - set(guide.spans)
