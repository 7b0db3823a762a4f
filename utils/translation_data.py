"""Pairs of texts, source and target: number words and their digits, and Multi30k's captions.

:mod:`utils.data_loaders` registers both under a name; :func:`load_pairs` gives them with their
validation set. :class:`TokenPairs` holds pairs whose tokens have become numbers, and cuts each
batch to the longest of its sentences.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils import data_loaders

if TYPE_CHECKING:
    import torch

    from utils.data_loaders import Arrays, DatasetInfo

NAMES = ("number-words", "multi30k")

# --- number words

_BELOW_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen
fourteen fifteen sixteen seventeen eighteen nineteen"""
_TENS = {
    2: "twenty", 3: "thirty", 4: "forty", 5: "fifty", 6: "sixty", 7: "seventy", 8: "eighty",
    9: "ninety",
}  # fmt: skip

LARGEST = 999_999
# How many of each length there are, by the number of digits; all of up to three digits.
_NUMBERS = {4: 3_500, 5: 4_000, 6: 4_000}
NUMBER_PAIRS = 1_000 + sum(_NUMBERS.values())
NUMBER_TEST, NUMBER_VALIDATION = 2_000, 500


def number_words(n: int) -> str:
    """A number in English words, the British way: 307 is "three hundred and seven".

    Raises:
        ValueError: it is below 0 or above 999,999.
    """
    if not 0 <= n <= LARGEST:
        raise ValueError(f"expected a number from 0 to {LARGEST}, got {n}")
    if n < 20:
        return _BELOW_TWENTY.split()[n]
    if n < 100:
        tens, ones = divmod(n, 10)
        return _TENS[tens] + (f"-{number_words(ones)}" if ones else "")
    size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    head, rest = divmod(n, size)
    words = f"{number_words(head)} {name}"
    if not rest:
        return words
    return f"{words} {'and ' if rest < 100 else ''}{number_words(rest)}"


def digits(n: int) -> str:
    """The digits of a number, a space between them: 307 is "3 0 7"."""
    return " ".join(str(n))


def number_pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Number words and digits, no number twice, in random order.

    There are all numbers below 1,000 and some thousands each of four, five and six digits, so that
    every length of number is met often.

    Returns:
        sources, targets: (NUMBER_PAIRS,) of str.
    """
    rng = np.random.default_rng(seed)
    parts = [np.arange(1000)]
    for length, count in _NUMBERS.items():
        low = 10 ** (length - 1)
        parts.append(low + rng.choice(9 * low, size=count, replace=False))
    numbers = rng.permutation(np.concatenate(parts)).tolist()
    return _texts(map(number_words, numbers)), _texts(map(digits, numbers))


def _texts(texts: "Sequence[str] | map[str]") -> np.ndarray:
    texts = list(texts)
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


# --- Multi30k

MULTI30K_PAIRS = {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}
MULTI30K_LANGUAGES = ("de", "en")  # source, target


def multi30k_part(info: "DatasetInfo", folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The sentences of one part of Multi30k, German and English.

    Args:
        part: train, val or test_2016_flickr.

    Raises:
        DatasetMissing, DatasetCorrupt: a file is not there, or not what was published.
    """
    sides = []
    for language in MULTI30K_LANGUAGES:
        (file,) = (f for f in info.files if f.path == f"multi30k/{part}.{language}.gz")
        text = data_loaders.read_verified(info, file, folder).decode("utf-8")
        # Not splitlines: a sentence may hold a character that str takes for the end of a line.
        sides.append(_texts([line.strip() for line in text.removesuffix("\n").split("\n")]))
    source, target = sides
    return source, target


# --- what the training scripts work with


@dataclass(frozen=True, eq=False)
class Pairs:
    """Parallel texts in three parts, each a pair (sources (N,), targets (N,)) of arrays of str."""

    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def load_pairs(name: str, data_dir: str | Path | None = None, *, seed: int = 0) -> Pairs:
    """A registered set of text pairs, with its validation set.

    Args:
        name: number-words or multi30k (German to English, tested on test_2016_flickr).
        data_dir, seed: as for :func:`utils.data_loaders.load_arrays`.

    Raises:
        ValueError: another name.
        DatasetMissing: it has to be downloaded first.
    """
    if name not in NAMES:
        raise ValueError(f"expected pairs of texts of {', '.join(NAMES)}; got {name!r}")
    data: Arrays = data_loaders.load_arrays(name, data_dir, seed=seed)
    if name == "multi30k":
        info = data_loaders.dataset_info(name)
        val = multi30k_part(info, data_loaders.data_folder(data_dir), "val")
    else:
        sources, targets = number_pairs(seed)
        between = slice(-NUMBER_TEST - NUMBER_VALIDATION, -NUMBER_TEST)
        val = sources[between], targets[between]
    return Pairs((data.x_train, data.y_train), val, (data.x_test, data.y_test))


def pad(rows: Sequence[Sequence[int]], padding: int = 0) -> np.ndarray:
    """Rows of token numbers as one array (N, T) int64, filled up at the end.

    Raises:
        ValueError: there is no row.
    """
    if not len(rows):
        raise ValueError("expected at least one row of tokens, got none")
    array = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int64)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array


def encode_pairs(
    part: tuple[np.ndarray, np.ndarray],
    encode: Callable[[str], list[int]],
    end: int,
    longest: int = 0,
) -> tuple[list[list[int]], list[list[int]]]:
    """Text pairs as token numbers, each sentence with an end: sources, targets.

    Args:
        encode: text -> token numbers.
        longest: leave out pairs of which one side has more tokens; 0 = keep all.
    """
    coded = [([*encode(a), end], [*encode(b), end]) for a, b in zip(*part, strict=True)]
    kept = [pair for pair in coded if longest == 0 or max(map(len, pair)) <= longest]
    return [source for source, _ in kept], [target for _, target in kept]


class TokenPairs(data_loaders.ArrayDataset):
    """A torch data set of pairs of token sequences; a batch is cut to its longest sequences.

    Attributes:
        lengths: (N,) tokens of both sides; :meth:`utils.runs.Run.batches` puts like with like.
    """

    def __init__(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> None:
        super().__init__(pad(sources), pad(targets))
        self._lengths = tuple(np.array([len(r) for r in rows]) for rows in (sources, targets))
        self.lengths = sum(self._lengths)

    def __getitems__(self, indices: Sequence[int]) -> "tuple[torch.Tensor, ...]":
        """The batch of these pairs: sources (B, S) and targets (B, T)."""
        index = np.asarray(indices)
        batch = super().__getitems__(indices)
        return tuple(
            side[:, : lengths[index].max()]
            for side, lengths in zip(batch, self._lengths, strict=True)
        )
