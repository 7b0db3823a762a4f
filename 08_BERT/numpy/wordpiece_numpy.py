"""WordPiece: BERT's tokenizer, which learns its own vocabulary (level 1, plain Python).

Papers:
- M. Schuster, K. Nakajima, "Japanese and Korean Voice Search", ICASSP 2012: WordPiece.
- Y. Wu et al., "Google's Neural Machine Translation System", 2016, arXiv:1609.08144, section 4.1.
- J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT", 2018, arXiv:1810.04805, section 3: a
  vocabulary of 30,000, [CLS] and [SEP]. How a text is cut into words is not in the paper; it is in
  the authors' program, tokenization.py.

A text is cleaned, cut into words and marks, and each word into the longest pieces that the
vocabulary has, from left to right. A piece that does not begin its word is written with ## before
it: "unwanted" may be un ##want ##ed. In byte-pair encoding (07) the order of the merges decides how
a word is cut; here the vocabulary alone does.

Map of this file:
    spell           what one character becomes; with spaces where it stands apart
    split_words     a text as words, each letter with its place in the text
    WordPiece       train, encode, encode_with_offsets, decode, pack

Shapes: none; a text is a str, its encoding a list of token numbers. V tokens in the vocabulary.

Read before: 07_Transformer/numpy/bpe_numpy.py (learn_merges).

Deviations from the paper:
- Training: in the papers a pair is joined if that raises the likelihood of the training text most;
  Google's program was not published. Here, as in the tokenizers library, the most frequent pair
  is joined, which is byte-pair encoding with other symbols.
- A special token in a text, somebody's "[SEP]", is text like any other.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from bpe_numpy import learn_merges

PREFIX = "##"  # before a piece that continues a word
# Marks a continuing letter while training. No text has it: control characters are taken out.
_CONTINUED = "\0"

# Ideographs, which stand apart as if each were a word (the ranges of the authors' program).
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def is_mark(c: str) -> bool:
    """Whether a character stands apart from words: punctuation, and ASCII signs such as $ or +."""
    code = ord(c)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(c).startswith("P")


@lru_cache(maxsize=100_000)
def spell(c: str, lower_case: bool = True, strip_accents: bool = True) -> str:
    """What one character of a text becomes.

    Nothing for control characters, a space for white space, a mark or an ideograph with spaces
    around it; other letters without their accents and in lower case, if that is asked for.
    """
    # Control and format characters, and those for private use.
    if c not in "\t\n\r" and (c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co")):
        return ""
    if c.isspace():
        return " "
    # A letter with an accent is taken apart; the accent is a character of the category Mn.
    letters = unicodedata.normalize("NFD", c) if strip_accents else c
    if strip_accents:
        letters = "".join(x for x in letters if unicodedata.category(x) != "Mn")
    if lower_case:
        letters = letters.lower()
    spelt = "".join(f" {x} " if is_mark(x) else x for x in letters)
    ideograph = any(first <= ord(c) <= last for first, last in _IDEOGRAPHS)
    return f" {spelt} " if ideograph else spelt


def split_words(
    text: str, lower_case: bool = True, strip_accents: bool = True
) -> list[tuple[str, list[int]]]:
    """The words and marks of a text: each as it is spelt, and where in the text each letter was."""
    words: list[tuple[str, list[int]]] = []
    word, places = "", []
    for place, c in enumerate(text + " "):
        for letter in spell(c, lower_case, strip_accents):
            if letter != " ":
                word += letter
                places.append(place)
            elif word:
                words.append((word, places))
                word, places = "", []
    return words


class WordPiece:
    """A vocabulary, and how a text is written with it.

    Args:
        tokens: the text of each token by its number; the special ones must be among them.
        lower_case: write all in lower case (BERT's "uncased").
        strip_accents: leave accents out; None does if ``lower_case`` does.
        longest_word: words of more letters are unknown.

    Attributes:
        tokens: as above, (V,).
        pad_id, unknown_id, cls_id, sep_id, mask_id: numbers of the special tokens.

    Raises:
        ValueError: a token twice, or a special one missing.
    """

    SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

    def __init__(
        self,
        tokens: Iterable[str],
        lower_case: bool = True,
        strip_accents: bool | None = None,
        longest_word: int = 100,
    ) -> None:
        self.tokens = tuple(tokens)
        self._numbers = {token: i for i, token in enumerate(self.tokens)}
        missing = [token for token in self.SPECIAL if token not in self._numbers]
        if missing or len(self._numbers) < len(self.tokens):
            raise ValueError(
                f"expected different tokens with {', '.join(self.SPECIAL)} among them, "
                f"got {len(self.tokens)} with {len(self._numbers)} different ones, "
                f"and without {', '.join(missing) or 'none of these'}"
            )
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (
            self._numbers[token] for token in self.SPECIAL
        )
        self.lower_case, self.longest_word = lower_case, longest_word
        self.strip_accents = lower_case if strip_accents is None else strip_accents
        self._known_words: dict[str, tuple[list[int], list[int]]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocabulary_size: int,
        min_frequency: int = 2,
        lower_case: bool = True,
    ) -> "WordPiece":
        """Learn a vocabulary: the special tokens, the letters, and the most frequent pairs.

        Args:
            vocabulary_size: V to reach; fewer if no pair is left that occurs ``min_frequency``
                times.

        Raises:
            ValueError: the letters and the special tokens alone are more than that.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update("".join(spell(c, lower_case, lower_case) for c in text).split())
        words = Counter({_symbols(word): count for word, count in counts.items()})
        # Every letter can begin a word and continue one, whether or not the texts show it.
        letters = sorted({letter for word in counts for letter in word})
        alphabet = [*letters, *(_CONTINUED + letter for letter in letters)]
        room = vocabulary_size - len(cls.SPECIAL) - len(alphabet)
        if room < 0:
            raise ValueError(
                f"expected a vocabulary of at least {vocabulary_size - room} tokens (the letters "
                f"and {len(cls.SPECIAL)} special ones), got {vocabulary_size}"
            )
        merges = learn_merges(words, alphabet, room, min_frequency)
        joined = dict.fromkeys(left + right for left, right in merges)
        return cls([*cls.SPECIAL, *map(_as_token, [*alphabet, *joined])], lower_case)

    def encode(self, text: str) -> list[int]:
        """The token numbers of a text, without [CLS] and [SEP]."""
        spelt = "".join(spell(c, self.lower_case, self.strip_accents) for c in text)
        return [number for word in spelt.split() for number in self._pieces(word)[0]]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The token numbers, and where each token is in the text: ``text[start:end]``."""
        numbers: list[int] = []
        offsets: list[tuple[int, int]] = []
        for word, places in split_words(text, self.lower_case, self.strip_accents):
            pieces, ends = self._pieces(word)
            numbers += pieces
            starts = [0, *ends[:-1]]
            offsets += [(places[a], places[b - 1] + 1) for a, b in zip(starts, ends, strict=True)]
        return numbers, offsets

    def _pieces(self, word: str) -> tuple[list[int], list[int]]:
        """The tokens of one word, and behind which letter each ends: longest match first."""
        if word not in self._known_words:
            self._known_words[word] = self._match(word)
        return self._known_words[word]

    def _match(self, word: str) -> tuple[list[int], list[int]]:
        unknown = [self.unknown_id], [len(word)]
        if len(word) > self.longest_word:
            return unknown
        numbers: list[int] = []
        ends: list[int] = []
        start = 0
        while start < len(word):
            prefix = PREFIX if start else ""
            for end in range(len(word), start, -1):
                number = self._numbers.get(prefix + word[start:end])
                if number is not None:
                    break
            else:
                return unknown  # one strange letter makes the whole word unknown
            numbers.append(number)
            ends.append(end)
            start = end
        return numbers, ends

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of some tokens, words and marks with spaces between them.

        Special tokens are left out, but [UNK] and [MASK], which stand for something.

        Raises:
            ValueError: a number that no token has.
        """
        silent = {self.pad_id, self.cls_id, self.sep_id}
        text = ""
        for number in numbers:
            if not 0 <= number < len(self.tokens):
                raise ValueError(f"expected tokens 0 to {len(self.tokens) - 1}, got {number}")
            if number not in silent:
                token = self.tokens[number]
                continued = token.startswith(PREFIX) and text
                text += token.removeprefix(PREFIX) if continued else f" {token}" if text else token
        return text

    def pack(
        self, a: Sequence[int], b: Sequence[int] | None = None, longest: int = 0
    ) -> tuple[list[int], list[int]]:
        """The model's input, [CLS] a [SEP] or [CLS] a [SEP] b [SEP]: tokens and segments.

        Args:
            a, b: token numbers of one text, or of two.
            longest: T at most; the longer of the two loses its end, token by token. 0 = no limit.

        Raises:
            ValueError: no room for the special tokens.
        """
        special = 2 if b is None else 3
        if longest and longest < special:
            raise ValueError(f"expected room for {special} special tokens, got {longest}")
        kept_a, kept_b = len(a), len(b or ())
        while longest and kept_a + kept_b + special > longest:
            kept_a, kept_b = (kept_a - 1, kept_b) if kept_a > kept_b else (kept_a, kept_b - 1)
        tokens = [self.cls_id, *a[:kept_a], self.sep_id]
        segments = [0] * len(tokens)
        if b is not None:
            tokens += [*b[:kept_b], self.sep_id]
            segments += [1] * (kept_b + 1)
        return tokens, segments


def _symbols(word: str) -> tuple[str, ...]:
    """The letters of a word as symbols to be joined; all but the first are marked."""
    return (word[0], *(_CONTINUED + letter for letter in word[1:]))


def _as_token(symbol: str) -> str:
    """A joined symbol as it stands in the vocabulary."""
    text = symbol.replace(_CONTINUED, "")
    return PREFIX + text if symbol.startswith(_CONTINUED) else text
