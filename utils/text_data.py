"""Texts: words and their numbers, template reviews with negation, Python's own texts, IMDB.

:mod:`utils.data_loaders` registers the data sets under a name. Texts come as arrays of str; what
turns them into numbers is here too: :class:`Vocabulary` and :func:`encode` for words,
:func:`characters` for a corpus read letter by letter.
"""

import ast
import io
import os
import re
import sysconfig
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[.,!?]")


def split_words(text: str) -> list[str]:
    """Lower-case words and the marks . , ! ? of a text; HTML line breaks are dropped."""
    return _WORD.findall(text.lower().replace("<br />", " "))


@dataclass(frozen=True)
class Vocabulary:
    """Words by their number; number 0 is padding, number 1 any word that is not listed."""

    words: tuple[str, ...]

    PADDING = 0
    UNKNOWN = 1

    @classmethod
    def of_texts(cls, texts: Sequence[str] | np.ndarray, size: int) -> "Vocabulary":
        """The ``size - 2`` most frequent words of some texts; ties in alphabetical order.

        Raises:
            ValueError: a size in which no word has a place.
        """
        if size < 3:
            raise ValueError(f"expected a size of at least 3 (two numbers are taken), got {size}")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(("<padding>", "<unknown>", *ranked[: size - 2]))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: i for i, word in enumerate(self.words)}


def encode(
    texts: Sequence[str] | np.ndarray, vocabulary: Vocabulary, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Texts as numbers of their words.

    A text that is too long keeps its end, where a review says what it thinks. An empty one becomes
    one unknown word, since a sequence has at least one step.

    Returns:
        tokens (N, T) int64, padded at the end with 0, T the longest length; lengths (N,) int64.

    Raises:
        ValueError: a max_length below 1.
    """
    if max_length < 1:
        raise ValueError(f"expected a max_length of at least 1, got {max_length}")
    numbers = vocabulary.numbers
    rows = [
        [numbers.get(word, Vocabulary.UNKNOWN) for word in split_words(text)[-max_length:]]
        or [Vocabulary.UNKNOWN]
        for text in texts
    ]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    tokens = np.full((len(rows), lengths.max()), Vocabulary.PADDING, dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens, lengths


# --- template reviews

_OPENINGS = (
    "i saw it {when}",
    "we watched it {when} with {whom}",
    "{whom} took me to see it {when}",
    "it runs for two hours",
    "it is set in a small town",
    "the story begins on a train",
)
_WHEN = ("on a monday", "last week", "in the old cinema", "at home", "two years ago")
_WHOM = ("my sister", "a friend", "our neighbours", "the children")
_PARTS = ("plot", "acting", "music", "ending", "dialogue", "camera work", "story", "cast")
_GOOD = ("good", "moving", "clever", "funny", "brilliant", "gripping", "fresh", "charming")
_BAD = ("bad", "boring", "stupid", "dull", "awful", "tedious", "stale", "clumsy")
_DEGREES = ("", "very ", "really ", "quite ", "all that ", "altogether ")
# Pairs that differ in a negation and in nothing else that could give it away.
_OPINIONS = (
    ("the {part} was {degree}{word}", "the {part} was not {degree}{word}"),
    ("i found the {part} {degree}{word}", "i never found the {part} {degree}{word}"),
    ("everybody called the {part} {degree}{word}", "nobody called the {part} {degree}{word}"),
    ("it is true: the {part} is {degree}{word}", "it is wrong: the {part} is {degree}{word}"),
)


def reviews(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Short film reviews whose opinion hangs on a negation.

    Each has one opinion among sentences that say nothing: a good or bad word, negated or not, all
    four cases equally likely. So neither the word nor the negation tells the label by itself, and
    whoever only counts words guesses.

    Returns:
        texts (count,) of str; labels (count,) int64, 1 = positive.
    """
    texts = np.empty(count, dtype=object)
    labels = np.zeros(count, dtype=np.int64)
    for n in range(count):
        good, negated = (bool(b) for b in rng.integers(2, size=2))
        opinion = _pick(_OPINIONS, rng)[negated].format(
            part=_pick(_PARTS, rng),
            degree=_pick(_DEGREES, rng),
            word=_pick(_GOOD if good else _BAD, rng),
        )
        sentences = [
            _pick(_OPENINGS, rng).format(when=_pick(_WHEN, rng), whom=_pick(_WHOM, rng))
            for _ in range(rng.integers(1, 5))
        ]
        sentences.insert(int(rng.integers(len(sentences) + 1)), opinion)
        texts[n] = " . ".join(sentences) + " ."
        labels[n] = good != negated
    return texts, labels


def _pick(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


# --- corpora of characters


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as numbers of its characters, in two parts.

    Attributes:
        train, test: (N,) int64, the first nine tenths and the rest.
        characters: the character of each number.
    """

    train: np.ndarray
    test: np.ndarray
    characters: tuple[str, ...]

    def decode(self, numbers: np.ndarray) -> str:
        """The text behind the numbers."""
        return "".join(self.characters[i] for i in numbers)

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text.

        Raises:
            ValueError: a character that does not occur in the corpus.
        """
        strange = sorted(set(text) - set(self.characters))
        if strange:
            raise ValueError(f"expected characters of the corpus, got {''.join(strange)!r}")
        return np.array([self.characters.index(c) for c in text], dtype=np.int64)


def characters(text: str) -> Corpus:
    """A text as a corpus; the first nine tenths are for training."""
    letters = tuple(sorted(set(text)))
    numbers = {letter: i for i, letter in enumerate(letters)}
    coded = np.array([numbers[letter] for letter in text], dtype=np.int64)
    cut = len(text) * 9 // 10
    return Corpus(coded[:cut], coded[cut:], letters)


# What a model of a corpus may go on from.
PROMPTS = {"python-source": "def ", "python-docs": "Return ", "tiny-shakespeare": "ROMEO:"}


def load_corpus(name: str, data_dir: str | Path | None = None) -> Corpus:
    """A registered text corpus, letter by letter.

    Args:
        name: python-docs, python-source or tiny-shakespeare.

    Raises:
        DatasetMissing: it has to be downloaded first.
    """
    from utils.data_loaders import load_arrays

    data = load_arrays(name, data_dir)
    # Registered as pairs (character, next character); the last target completes the text.
    train = np.concatenate([data.x_train, data.y_train[-1:]])
    test = np.concatenate([data.x_test, data.y_test[-1:]])
    return Corpus(train, test, data.classes)


def rows(text: np.ndarray, batch_size: int) -> np.ndarray:
    """A long text cut into ``batch_size`` rows of equal length, to be read side by side.

    Returns:
        (batch_size, N // batch_size); what is left over at the end is dropped.
    """
    length = len(text) // batch_size
    return text[: batch_size * length].reshape(batch_size, length)


def windows(text: np.ndarray, starts: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of a text for a model that predicts at each place what comes next.

    Args:
        text: (N,). starts: (B,), where the pieces begin, at most N - T - 1.

    Returns:
        x (B, T), and y (B, T), the same one place further on.
    """
    index = starts[:, None] + np.arange(T)  # (B, 1) and (T,) -> (B, T)
    return text[index], text[index + 1]


def even_starts(text: np.ndarray, T: int, most: int) -> np.ndarray:
    """Starts of windows of T that lie one behind the other; of more than ``most``, an even choice.

    Raises:
        ValueError: the text is too short for a single window.
    """
    count = (len(text) - 1) // T
    if count < 1:
        raise ValueError(f"expected a text of more than {T} tokens, got {len(text)}")
    chosen = np.arange(count) if count <= most else np.arange(most) * count // most
    return chosen * T


@cache
def python_source() -> str:
    """The source of Python's standard library: its modules, without packages, in ASCII.

    In the order of their names. The text differs a little from one version of Python to the next,
    and is always the same for one.

    Raises:
        FileNotFoundError: this Python came without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(root.glob("*.py"))
    texts = [file.read_text(encoding="utf-8").expandtabs() for file in files]
    parts = [text for text in texts if text.isascii()]
    if not parts:
        raise FileNotFoundError(f"expected the sources of Python's standard library in {root}")
    return "\n\n".join(parts)


@cache
def python_docs() -> str:
    """What the modules, classes and functions of Python's standard library say of themselves.

    Docstrings of this Python's own sources, in the order of their files, without those that are
    shorter than a line or not ASCII. The text differs a little from one version of Python to the
    next, and is always the same for one.

    Raises:
        FileNotFoundError: this Python came without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    parts = []
    for file in sorted(root.glob("*.py")):  # packages below it would double the text and the time
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) >= 80 and text.isascii():
                    parts.append(text.expandtabs())
    if not parts:
        raise FileNotFoundError(f"expected the sources of Python's standard library in {root}")
    return "\n\n".join(dict.fromkeys(parts)) + "\n"


# --- IMDB

IMDB_REVIEWS = 12_500  # in each of train/neg, train/pos, test/neg, test/pos


def unpack_imdb(archive: bytes, folder: Path) -> None:
    """Unpack the labelled reviews of a tar archive; ``folder`` is there only when it is whole."""
    review = re.compile(r"aclImdb/(train|test)/(neg|pos)/\d+_\d+\.txt")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as place:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                if member.isfile() and review.fullmatch(member.name):
                    content = tar.extractfile(member)
                    assert content is not None
                    target = Path(place) / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content.read())
        os.replace(Path(place) / "aclImdb", folder)


def read_imdb(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The reviews in ``folder/neg`` and ``folder/pos``.

    Returns:
        texts (N,) of str; labels (N,) int64, 1 = positive.

    Raises:
        FileNotFoundError: a folder is not there.
    """
    texts: list[str] = []
    labels: list[int] = []
    for label, part in enumerate(("neg", "pos")):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder / part} is not there")
        files = sorted((folder / part).glob("*.txt"))
        texts += [file.read_text(encoding="utf-8") for file in files]
        labels += [label] * len(files)
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array, np.array(labels, dtype=np.int64)
