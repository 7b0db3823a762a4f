"""Pairs of texts: number words and digits, Multi30k, and pairs of token sequences."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import data_loaders
from utils.data_loaders import (
    DATASETS,
    DatasetCorrupt,
    DatasetInfo,
    DatasetMissing,
    RemoteFile,
    collate,
    load_arrays,
    load_dataset,
)
from utils.translation_data import (
    LARGEST,
    MULTI30K_PAIRS,
    NUMBER_PAIRS,
    TokenPairs,
    digits,
    encode_pairs,
    load_pairs,
    number_pairs,
    number_words,
    pad,
)

# --- number words

ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
VALUES = {word: value for value, word in enumerate(ONES.split())}
VALUES |= {word: 10 * (i + 2) for i, word in enumerate(TENS.split())}


def parse(text: str) -> int:
    """The number behind the words, found by another way than they were made."""
    total, group = 0, 0
    for word in text.replace("-", " ").split():
        if word == "hundred":
            group *= 100
        elif word == "thousand":
            total, group = 1000 * group, 0
        elif word != "and":
            group += VALUES[word]
    return total + group


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "zero"),
        (7, "seven"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (307, "three hundred and seven"),
        (1000, "one thousand"),
        (1066, "one thousand and sixty-six"),
        (20_100, "twenty thousand one hundred"),
        (300_007, "three hundred thousand and seven"),
        (
            999_999,
            "nine hundred and ninety-nine thousand nine hundred and ninety-nine",
        ),
    ],
)
def test_number_words(n: int, words: str) -> None:
    assert number_words(n) == words
    assert parse(words) == n


def test_every_number_says_what_it_is() -> None:
    for n in (*range(3_000), *range(3_000, LARGEST + 1, 997)):
        assert parse(number_words(n)) == n
        assert digits(n).replace(" ", "") == str(n)
    assert digits(307) == "3 0 7"


@pytest.mark.parametrize("n", [-1, 1_000_000])
def test_numbers_out_of_range(n: int) -> None:
    with pytest.raises(ValueError, match=f"expected a number from 0 to 999999, got {n}"):
        number_words(n)


def test_pairs_belong_together_and_come_once() -> None:
    pairs = load_pairs("number-words", seed=3)
    sizes = [len(part[0]) for part in (pairs.train, pairs.val, pairs.test)]
    assert sizes == [10_000, 500, 2_000] and sum(sizes) == NUMBER_PAIRS
    numbers = []
    for sources, targets in (pairs.train, pairs.val, pairs.test):
        assert [parse(s) for s in sources] == [int(t.replace(" ", "")) for t in targets]
        numbers += [parse(s) for s in sources]
    assert len(set(numbers)) == NUMBER_PAIRS  # so no number is in two parts
    assert set(range(1000)) <= set(numbers) and max(numbers) <= LARGEST


def test_each_length_of_number_is_met_often() -> None:
    _, targets = load_pairs("number-words").test
    counts = np.bincount([len(t.split()) for t in targets], minlength=7)
    assert (counts[4:] > 400).all() and counts[3] > 100


def test_the_seed_decides() -> None:
    one, two, other = number_pairs(1), number_pairs(1), number_pairs(2)
    assert (one[0] == two[0]).all() and (one[1] == two[1]).all()
    assert (one[0] != other[0]).any()


def test_the_registry_gives_train_and_test() -> None:
    data, pairs = load_arrays("number-words", seed=1), load_pairs("number-words", seed=1)
    assert (data.x_train == pairs.train[0]).all() and (data.y_train == pairs.train[1]).all()
    assert (data.x_test == pairs.test[0]).all() and (data.y_test == pairs.test[1]).all()


def test_other_names_and_torch_data_sets() -> None:
    with pytest.raises(ValueError, match="of number-words, multi30k; got 'digits'"):
        load_pairs("digits")
    with pytest.raises(ValueError, match="number-words holds pairs of texts; .*load_pairs"):
        load_dataset("number-words")


# --- Multi30k

TINY = {
    "train.de": "Ein Hund.\nZwei\u2028Katzen . \n Ein Kind\n",
    "train.en": "A dog.\nTwo cats .\nA child\n",
    "val.de": "Ein Mann\n",
    "val.en": "A man\n",
    "test_2016_flickr.de": "Größe\nzwei",
    "test_2016_flickr.en": "size\ntwo",
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a few sentences in Multi30k's files, and a registry that expects them."""
    (tmp_path / "multi30k").mkdir()
    files = []
    for name, text in TINY.items():
        packed = gzip.compress(text.encode(), mtime=0)
        (tmp_path / f"multi30k/{name}.gz").write_bytes(packed)
        sums = [hashlib.md5(content).hexdigest() for content in (packed, text.encode())]
        files.append(RemoteFile(f"multi30k/{name}.gz", sums[0], ("http://127.0.0.1:9/",), sums[1]))
    info = DATASETS["multi30k"]
    changed = DatasetInfo(**{**vars(info), "files": tuple(files)})
    monkeypatch.setitem(data_loaders.DATASETS, "multi30k", changed)
    return tmp_path


def test_multi30k_is_read_line_by_line(tiny: Path) -> None:
    pairs = load_pairs("multi30k", tiny)
    assert pairs.train[0].tolist() == ["Ein Hund.", "Zwei\u2028Katzen .", "Ein Kind"]
    assert pairs.train[1].tolist() == ["A dog.", "Two cats .", "A child"]
    assert [part.tolist() for part in pairs.val] == [["Ein Mann"], ["A man"]]
    assert [part.tolist() for part in pairs.test] == [["Größe", "zwei"], ["size", "two"]]


def test_unpacked_files_serve(tiny: Path) -> None:
    for name, text in TINY.items():
        (tiny / f"multi30k/{name}.gz").unlink()
        (tiny / f"multi30k/{name}").write_bytes(text.encode())
    assert load_pairs("multi30k", tiny).test[1].tolist() == ["size", "two"]


def test_a_missing_and_a_changed_file(tiny: Path) -> None:
    (tiny / "multi30k/val.de.gz").write_bytes(gzip.compress(b"Eine Frau\n"))
    with pytest.raises(DatasetCorrupt, match="val.de.gz: cut off or changed"):
        load_pairs("multi30k", tiny)
    (tiny / "multi30k/train.en.gz").unlink()
    with pytest.raises(DatasetMissing, match="--data number-words is built in"):
        load_pairs("multi30k", tiny)


def test_the_registry_knows_the_files() -> None:
    paths = {file.path for file in DATASETS["multi30k"].files}
    parts = [
        f"multi30k/{part}.{language}.gz" for part in MULTI30K_PAIRS for language in ("de", "en")
    ]
    assert paths == set(parts)
    assert all(
        url.endswith(Path(f.path).name) for f in DATASETS["multi30k"].files for url in f.urls
    )


# --- tokens


def test_pad() -> None:
    assert pad([[5, 6], [7]]).tolist() == [[5, 6], [7, 0]]
    filled = pad([[5], [7, 8], []], padding=9)
    assert filled.tolist() == [[5, 9], [7, 8], [9, 9]] and filled.dtype == np.int64
    with pytest.raises(ValueError, match="at least one row"):
        pad([])


def test_encode_pairs_ends_sentences_and_leaves_long_ones_out() -> None:
    part = np.array(["ab", "abcd", "a"]), np.array(["b", "c", "abc"])
    encode = lambda text: [ord(c) - 90 for c in text]  # noqa: E731
    sources, targets = encode_pairs(part, encode, end=2)
    assert sources == [[7, 8, 2], [7, 8, 9, 10, 2], [7, 2]]
    assert targets == [[8, 2], [9, 2], [7, 8, 9, 2]]
    assert encode_pairs(part, encode, 2, longest=4) == (
        [[7, 8, 2], [7, 2]],
        [[8, 2], [7, 8, 9, 2]],
    )


def test_batches_are_cut_to_their_longest_sentences() -> None:
    pairs = TokenPairs([[3, 4, 5], [6], [7, 8]], [[1], [1, 2], [1, 2, 3, 4]])
    assert pairs.lengths.tolist() == [4, 3, 6] and len(pairs) == 3
    source, target = collate(pairs.__getitems__([2, 1]))
    assert source.tolist() == [[7, 8], [6, 0]]
    assert target.tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]]
    assert source.dtype == torch.int64
