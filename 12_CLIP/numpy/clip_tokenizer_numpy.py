"""CLIP's tokenizer (plain Python): byte-pair encoding of lower-case words that know their end.

Paper: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020, section 2.4: "a lower-cased byte pair encoding (BPE) representation of the
text with a 49,152 vocab size"; the rest is in the authors' program.

The bytes, and the way to join them, are those of chapter 09. Here the text is cleaned and written
small first, a space belongs to no token, every digit stands alone, and the last byte of a word is
another token than the same byte within: "a" before the end of a word is "a</w>", as in the paper
on BPE of 2016.

Map of this file:
    clean                 what is the same caption becomes the same text
    split_words           words, digits, marks
    CLIPTokenizer         train, encode, encode_batch, decode; published vocabularies

Shapes: a text is a str, its encoding a list of token numbers; a batch of texts is (B, T) ints.

Read before: 09_GPT/numpy/byte_bpe_numpy.py; 12_CLIP/theory.md, section 11.

Deviations from the paper: the program repairs broken text with the library ftfy; here ``repair``
takes such a function (``ftfy.fix_text``). What is a letter is looked up in Python's own Unicode
tables, which may be older or newer than another program's. A text that holds "<|endoftext|>" does
not end there: it is encoded as what it is, some letters and marks.
"""

import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from bpe_numpy import apply_merges, learn_merges, rank_merges
from byte_bpe_numpy import ALPHABET, to_characters, to_text

WORD_END = "</w>"
# While merges are learnt, a word's last byte is one character: its own, moved up by this much.
_MOVED = 0x1000


def clean(text: str, repair: Callable[[str], str] | None = None) -> str:
    """HTML's "&amp;" and the like read, white space made single spaces, all in small letters."""
    text = html.unescape(html.unescape(repair(text) if repair else text))
    return " ".join(text.split()).lower()


class _Kinds(dict):
    """What a character counts as: L a letter, 0 a number, . anything else; some stay themselves."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = {"L": "L", "N": "0"}.get(unicodedata.category(character)[0], ".")
        self[code] = kind = character if character in " 'strevmld" else kind
        return kind


_KINDS = _Kinds()
# The program's expression, for a text of kinds: Python's re does not know \p{L}.
_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[Lstrevmld]+|0|['.]+")


def split_words(text: str) -> list[str]:
    """The words, single digits and runs of marks of a clean text; spaces are left out."""
    kinds = text.translate(_KINDS)
    return [text[m.start() : m.end()] for m in _WORD.finditer(kinds)]


class CLIPTokenizer:
    """256 bytes, the same at the end of a word, what the merges make of them, begin and end.

    Args:
        merges: pairs of tokens as published, the end of a word marked by ``</w>``, in the order
            they were learnt.
        repair: applied to each text first, such as ``ftfy.fix_text``.

    Attributes:
        tokens: each token by its number (V,). BEGIN, END: the numbers of the last two; no text is
            encoded as them.

    Raises:
        ValueError: a merge of tokens that are not there yet.
    """

    SPECIAL = ("<|startoftext|>", "<|endoftext|>")
    CONTEXT = 77

    def __init__(
        self, merges: Iterable[tuple[str, str]], repair: Callable[[str], str] | None = None
    ) -> None:
        self.merges = tuple((left, right) for left, right in merges)
        self.repair = repair
        texts = [*ALPHABET, *(character + WORD_END for character in ALPHABET)]
        numbers = {token: i for i, token in enumerate(texts)}
        self._ranks = rank_merges(self.merges, texts, numbers)
        self.tokens = (*texts, *self.SPECIAL)
        self.BEGIN, self.END = len(texts), len(texts) + 1
        self._numbers = numbers
        self._known_words: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocabulary_size: int,
        min_frequency: int = 2,
        repair: Callable[[str], str] | None = None,
    ) -> "CLIPTokenizer":
        """Learn the merges from some texts; fewer if no pair occurs ``min_frequency`` times.

        Raises:
            ValueError: a vocabulary without room for the bytes, twice, and begin and end.
        """
        least = 2 * len(ALPHABET) + len(cls.SPECIAL)
        if vocabulary_size < least:
            raise ValueError(
                f"expected a vocabulary of at least {least} tokens, got {vocabulary_size}"
            )
        words = Counter(w for text in texts for w in split_words(clean(text, repair)))
        moved: Counter[str] = Counter()
        for word, n in words.items():
            characters = to_characters(word)
            moved[characters[:-1] + chr(ord(characters[-1]) + _MOVED)] += n
        last = tuple(chr(ord(character) + _MOVED) for character in ALPHABET)
        room = vocabulary_size - least
        learnt = learn_merges(moved, ALPHABET + last, room, min_frequency)
        return cls(((_marked(left), _marked(right)) for left, right in learnt), repair)

    @classmethod
    def from_published(
        cls, merges: str, vocabulary: str = "", repair: Callable[[str], str] | None = None
    ) -> "CLIPTokenizer":
        """An encoding from published files.

        Args:
            merges: text of merges.txt (transformers), or of the unpacked
                bpe_simple_vocab_16e6.txt (OpenAI), of which the first 48,894 merges count.
            vocabulary: text of vocab.json, if there is one: it has to agree.

        Raises:
            ValueError: the vocabulary does not follow from the merges.
        """
        lines = [line for line in merges.splitlines()[:48_895] if not line.startswith("#version")]
        if lines and "bpe_simple_vocab" in lines[0]:
            lines = lines[1:]
        pairs = [tuple(line.split()) for line in lines if line.strip()]
        wrong = [pair for pair in pairs if len(pair) != 2]
        if wrong:
            raise ValueError(f"expected two tokens in each line of the merges, got {wrong[0]}")
        made = cls(pairs, repair)  # type: ignore[arg-type]
        if vocabulary:
            numbers = json.loads(vocabulary)
            if len(numbers) != len(made) or any(
                numbers.get(token) != made.number(token) for token in set(made.tokens)
            ):
                raise ValueError(
                    f"expected the vocabulary of {len(made)} tokens that the merges make, "
                    f"got {len(numbers)} others"
                )
        return made

    def number(self, token: str) -> int:
        """The number of a token as it is published: ``cat</w>``, ``<|endoftext|>``."""
        if token in self.SPECIAL:
            return self.BEGIN + self.SPECIAL.index(token)
        return self._numbers[token]

    def published_merges(self) -> str:
        """The text of a merges.txt; :meth:`from_published` reads it back."""
        return "".join(f"{line}\n" for line in ["#version: 0.2", *map(" ".join, self.merges)])

    def encode(self, text: str) -> list[int]:
        """The token numbers of any text, without begin and end."""
        numbers: list[int] = []
        for word in split_words(clean(text, self.repair)):
            if word not in self._known_words:
                *characters, last = to_characters(word)
                symbols = [self._numbers[c] for c in (*characters, last + WORD_END)]
                self._known_words[word] = apply_merges(symbols, self._ranks)
            numbers += self._known_words[word]
        return numbers

    def encode_batch(self, texts: Sequence[str], context: int = CONTEXT) -> np.ndarray:
        """Begin, text, end, and zeros up to ``context``: (B, context) int64.

        A text that is too long loses its last tokens and keeps its end.

        Raises:
            ValueError: no room for begin and end.
        """
        if context < 2:
            raise ValueError(f"expected a context of at least 2 tokens, got {context}")
        batch = np.zeros((len(texts), context), dtype=np.int64)
        for row, text in zip(batch, texts, strict=True):
            numbers = [self.BEGIN, *self.encode(text)[: context - 2], self.END]
            row[: len(numbers)] = numbers
        return batch

    def decode(self, numbers: Iterable[int]) -> str:
        """Readable text of some tokens up to the first end; a space behind each word.

        Raises:
            ValueError: a number that no token has.
        """
        characters, texts = "", []
        for number in numbers:
            if not 0 <= number < len(self.tokens):
                raise ValueError(f"expected tokens 0 to {len(self.tokens) - 1}, got {number}")
            if number == self.END:
                break
            if number == self.BEGIN:
                continue
            token = self.tokens[number]
            characters += token.removesuffix(WORD_END)
            if token.endswith(WORD_END):
                texts.append(to_text(characters))
                characters = ""
        return " ".join([*texts, to_text(characters)] if characters else texts)


def _marked(token: str) -> str:
    """A token as it is published: a moved character is the byte, and the end of its word."""
    if ord(token[-1]) < _MOVED:
        return token
    return token[:-1] + chr(ord(token[-1]) - _MOVED) + WORD_END
