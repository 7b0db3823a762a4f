"""GPT-2's byte-level byte-pair encoding (level 1, plain Python): no text has unknown characters.

Paper: A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever, "Language Models are
Unsupervised Multitask Learners", OpenAI 2019: section 2.2.

The tokens of chapter 07 are made of the characters that occurred in training, and a strange one is
unknown. Here they are made of bytes: there are 256, and every text in UTF-8 is made of them. A
space belongs to the word behind it. No merge joins letters to digits or to marks, or "dog.", "dog!"
and "dog?" would each take a place in the vocabulary.

Map of this file:
    BYTE_CHARACTERS      each byte as a character that can be seen
    to_characters, to_text    a text as such characters, and back
    split_pieces         a text cut up into words, numbers, marks and space
    ByteBPE              train, encode, decode; published vocabularies

Learning the merges, and joining, is chapter 07's.

Shapes: none; a text is a str, its encoding a list of token numbers.

Read before: 07_Transformer/numpy/bpe_numpy.py; 09_GPT/theory.md, section 11.

Deviations from the paper: none known. What is a letter or a digit is looked up in Python's own
Unicode tables, which may be older or newer than another program's.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from bpe_numpy import apply_merges, learn_merges, rank_merges


def _byte_characters() -> tuple[str, ...]:
    """Bytes that Latin-1 shows stay as they are; the other 68 become characters from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return tuple(chr(b) if b in shown else chr(next(others)) for b in range(256))


BYTE_CHARACTERS = _byte_characters()
_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
ALPHABET = tuple(sorted(BYTE_CHARACTERS))  # the first 256 tokens, in GPT-2's order


def to_characters(text: str) -> str:
    """The bytes of a text in UTF-8, each as its character: " é" becomes "ĠÃ©"."""
    return "".join(BYTE_CHARACTERS[byte] for byte in text.encode("utf-8"))


def to_text(characters: str) -> str:
    """The text behind the characters; bytes that are no UTF-8 become U+FFFD."""
    return bytes(_BYTES[c] for c in characters).decode("utf-8", errors="replace")


class _Kinds(dict):
    """What a character counts as: L a letter, 0 a number, blank or newline, . anything else.

    Letters that can stand in a shortened form ('s, 've ...), and the apostrophe, stay themselves.
    """

    WHITE = (*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
             0x202F, 0x205F, 0x3000)  # fmt: skip

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in " 'strevmld":
            kind = character
        elif code in self.WHITE:
            kind = "\n"
        else:
            kind = {"L": "L", "N": "0"}.get(unicodedata.category(character)[0], ".")
        self[code] = kind
        return kind


_KINDS = _Kinds()
# GPT-2's expression, for a text of kinds: Python's re does not know \p{L}. Of several blanks the
# last one goes with the word behind it.
_PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[Lstrevmld]+| ?0+| ?['.]+|[ \n]+(?![^ \n])|[ \n]+")


def split_pieces(text: str) -> list[str]:
    """Words, numbers and marks, each with a space before it, and what white space remains.

    Put one after the other they are the text.
    """
    kinds = text.translate(_KINDS)
    return [text[m.start() : m.end()] for m in _PIECE.finditer(kinds)]


class ByteBPE:
    """A byte-level encoding: 256 bytes, what the merges make of them, and an end-of-text token.

    Args:
        merges: pairs of tokens, written in BYTE_CHARACTERS, in the order they were learnt.

    Attributes:
        tokens: each token by its number (V,), in BYTE_CHARACTERS; the last one is the end of text.
        END: the number of the end of text, V - 1. No text is encoded as it.

    Raises:
        ValueError: a merge of tokens that are not there yet.
    """

    END_TEXT = "<|endoftext|>"

    def __init__(self, merges: Iterable[tuple[str, str]]) -> None:
        self.merges = tuple((left, right) for left, right in merges)
        texts = list(ALPHABET)
        numbers = {character: i for i, character in enumerate(texts)}
        self._ranks = rank_merges(self.merges, texts, numbers)
        self.tokens = (*texts, self.END_TEXT)
        self.END = len(texts)
        self._numbers = numbers
        self._known_pieces: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int, min_frequency: int = 2) -> "ByteBPE":
        """Learn the merges from some texts.

        Args:
            vocabulary_size: V to reach; training ends before if no pair is left that occurs
                ``min_frequency`` times.

        Raises:
            ValueError: fewer than the bytes and the end of text.
        """
        room = vocabulary_size - len(ALPHABET) - 1
        if room < 0:
            raise ValueError(
                f"expected a vocabulary of at least {len(ALPHABET) + 1} tokens (the bytes and the "
                f"end of text), got {vocabulary_size}"
            )
        pieces: Counter[str] = Counter()
        for text in texts:
            pieces.update(split_pieces(text))
        words = Counter({to_characters(piece): n for piece, n in pieces.items()})
        return cls(learn_merges(words, ALPHABET, room, min_frequency))

    @classmethod
    def from_published(cls, vocabulary: str, merges: str) -> "ByteBPE":
        """An encoding from the text of GPT-2's two files, vocab.json and merges.txt.

        Raises:
            ValueError: the vocabulary does not follow from the merges.
        """
        lines = [line for line in merges.splitlines() if line and not line.startswith("#version")]
        made = cls(tuple(line.split(" ")) for line in lines)  # type: ignore[misc]
        numbers = json.loads(vocabulary)
        if [numbers.get(token) for token in made.tokens] != list(range(len(numbers))):
            raise ValueError(
                f"expected the vocabulary of {len(made)} tokens that the merges make, with "
                f"{cls.END_TEXT} at the end, got {len(numbers)} others"
            )
        return made

    def encode(self, text: str) -> list[int]:
        """The token numbers of any text."""
        numbers: list[int] = []
        for piece in split_pieces(text):
            if piece not in self._known_pieces:
                symbols = [self._numbers[character] for character in to_characters(piece)]
                self._known_pieces[piece] = apply_merges(symbols, self._ranks)
            numbers += self._known_pieces[piece]
        return numbers

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of some tokens; the end of text is silent.

        A cut within a character leaves bytes that are no UTF-8; each such place becomes U+FFFD.

        Raises:
            ValueError: a number that no token has.
        """
        pieces = []
        for number in numbers:
            if not 0 <= number < len(self.tokens):
                raise ValueError(f"expected tokens 0 to {len(self.tokens) - 1}, got {number}")
            if number != self.END:
                pieces.append(self.tokens[number])
        return to_text("".join(pieces))
