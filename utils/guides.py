"""Reading guides stay true: each name that one writes in ``code type`` is in the library.

A guide is a Markdown file about production code. Its tests make a :class:`Guide` of it and ask, for
each span of code in the prose, whether the installed library has such a name:

    guide = Guide(path, texts={"code type"})
    @pytest.mark.parametrize("span", guide.spans)
    def test_every_name_is_found(span):
        assert not guide.complaint(span, {"nn": torch.nn})

Three kinds of span are names: ``a.b.c``, looked up from ``known``; ``a.b(argument=)``, an argument
that ``a.b`` takes; and those that are told where to be looked for, in the source of a class or
function (``mentioned_in``): local variables, and arguments that are handed through.
"""

import inspect
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```.*?^```", re.M | re.S)
_SPAN = re.compile(r"`([^`\n]+)`")


def resolve(name: str, known: Mapping[str, Any]) -> Any:
    """The object that a dotted name stands for, from what ``known`` has.

    An attribute that a class only declares, and its constructor sets, counts as found.

    Raises:
        AttributeError, KeyError: there is none.
    """
    first, *rest = name.split(".")
    found = known[first]
    for part in rest:
        if part in getattr(found, "__annotations__", {}) and not hasattr(found, part):
            return found
        found = getattr(found, part)
    return found


class Guide:
    """The names in a reading guide.

    Args:
        path: the Markdown file.
        texts: spans of code that are no names: files, commands, pieces of code.
        mentioned_in: spans, and the class or function whose source has the word.

    Attributes:
        text: the whole page. spans: what stands in code type outside of fenced blocks, sorted.
    """

    def __init__(
        self,
        path: Path,
        texts: Collection[str] = (),
        mentioned_in: Mapping[str, Any] | None = None,
    ) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.texts, self.mentioned_in = texts, mentioned_in or {}
        self.spans = sorted(set(_SPAN.findall(_FENCE.sub("", self.text))))

    def complaint(self, span: str, known: Mapping[str, Any]) -> str:
        """What is wrong with a span; nothing if all is well.

        Args:
            known: what a name may begin with, and the object it stands for.
        """
        if span in self.texts:
            return ""
        if span in self.mentioned_in:
            place = self.mentioned_in[span]
            word = re.findall(r"\w+", span)[-1]
            there = re.search(rf"\b{word}\b", inspect.getsource(place))
            return "" if there else f"{place.__name__} does not mention {word}"
        call = re.fullmatch(r"([\w.]+)\((\w+)=\)", span)
        name, argument = (call[1], call[2]) if call else (span, None)
        if not re.fullmatch(r"[\w.]+", name):
            return f"{span} is no name; list it among the texts if it is meant as text"
        try:
            found = resolve(name, known)
        except (AttributeError, KeyError):
            return f"{name} is not in the installed library"
        if argument and argument not in inspect.signature(found).parameters:
            return f"{name} of the installed library takes no {argument}"
        return ""

    def unexplained(self, kind: Any, skipped: Collection[str] = ("self", "kwargs")) -> list[str]:
        """The arguments of a class or function that the guide does not name as ``kind(x=)``."""
        return [
            name
            for name in inspect.signature(inspect.unwrap(kind)).parameters
            if name not in skipped and f"`{kind.__qualname__}({name}=)`" not in self.text
        ]
