"""utils.guides: what it finds, and what it complains of."""

from pathlib import Path

import pytest

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

