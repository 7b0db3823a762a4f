"""Texts as documents of sentences, and packed rows of tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from utils import data_loaders, text_data
from utils.data_loaders import Arrays, DatasetMissing, collate, load_arrays
from utils.document_data import PackedTexts, load_documents, split_sentences
from utils.text_data import Corpus, characters, python_docs

# --- sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? four", ["One.", "Two!", "Three?", "four"]),
        ("One.Two costs 3.5 a piece", ["One.Two costs 3.5 a piece"]),
        ("Really?! Well...\nyes", ["Really?!", "Well...", "yes"]),
        ("a line\nand the next", ["a line and the next"]),
        ("a title\n\nits text\n \t\nmore", ["a title", "its text", "more"]),
        ("  wide \t spaces  ", ["wide spaces"]),
        ("good<br /><br />or bad.<br />Bad", ["good or bad.", "Bad"]),
        ("a. \n\n b", ["a.", "b"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_split_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


# --- documents


def test_a_corpus_is_one_document_a_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table, asked = characters("abc. "), []

    def numbers(text: str) -> np.ndarray:
        return np.array([table.characters.index(c) for c in text])

    def load(*arguments: object) -> Corpus:
        asked.append(arguments)
        return Corpus(numbers("a. b c."), numbers("c. a"), table.characters)

    monkeypatch.setattr(text_data, "load_corpus", load)
    documents = load_documents("python-docs", tmp_path)
    assert documents.train == [["a.", "b c."]] and documents.test == [["c.", "a"]]
    assert asked == [("python-docs", tmp_path)]


def test_the_documentation_of_python() -> None:
    documents = load_documents("python-docs")
    assert len(documents.train) == len(documents.test) == 1
    (train,), (test,) = documents.train, documents.test
    whole = " ".join(python_docs().split())
    assert whole.startswith(" ".join(train)[:1000]) and whole.endswith(" ".join(test)[-1000:])
    assert len(train) > 5 * len(test) > 1000


@pytest.mark.parametrize("name", ["reviews", "imdb"])
def test_a_review_is_a_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    asked = []

    def load(*arguments: object, **options: object) -> Arrays:
        asked.append((arguments, options))
        train, test = (np.array(texts, dtype=object) for texts in (["a. b", "c"], ["d! e. f"]))
        return Arrays(train, np.array([0, 1]), test, np.array([1]), ("bad", "good"))

    monkeypatch.setattr(data_loaders, "load_arrays", load)
    documents = load_documents(name, tmp_path, seed=4)
    assert documents.train == [["a.", "b"], ["c"]] and documents.test == [["d!", "e.", "f"]]
    assert asked == [((name, tmp_path), {"seed": 4})]


def test_template_reviews_and_their_seed() -> None:
    documents = load_documents("reviews", seed=1)
    assert (len(documents.train), len(documents.test)) == (4000, 1000)
    assert all(sentence.endswith(".") for d in documents.train for sentence in d)
    texts = load_arrays("reviews", seed=1).x_test
    assert [" ".join(d) for d in documents.test] == [" ".join(text.split()) for text in texts]
    assert load_documents("reviews").test != documents.test


def test_other_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="documents of python-docs, reviews, imdb; got 'iris'"):
        load_documents("iris")
    with pytest.raises(DatasetMissing):
        load_documents("imdb", tmp_path)


# --- packed texts

ROWS = [([2, 7, 3, 8, 3], [0, 0, 0, 1, 1]), ([2, 3], [0, 0]), ([2, 9, 3], [0, 0, 0])]


def test_packed_texts_are_padded_at_the_end() -> None:
    data = PackedTexts(ROWS, [1, 0, 2])
    assert data.tokens.tolist() == [[2, 7, 3, 8, 3], [2, 3, 0, 0, 0], [2, 9, 3, 0, 0]]
    assert data.segments.tolist() == [[0, 0, 0, 1, 1], [0] * 5, [0] * 5]
    assert data.labels.tolist() == [1, 0, 2] and data.lengths.tolist() == [5, 2, 3]
    assert {a.dtype for a in (data.tokens, data.segments, data.labels)} == {np.dtype(np.int64)}
    assert len(data) == 3
    tokens, segments, label = data[2]
    assert (tokens.tolist(), segments.tolist(), int(label)) == ([2, 9, 3, 0, 0], [0] * 5, 2)


def test_a_batch_is_cut_to_its_longest_text() -> None:
    data = PackedTexts(ROWS, [1, 0, 2])
    want = [[2, 9, 3], [2, 3, 0]], [[0] * 3, [0] * 3], [2, 0]
    assert tuple(a.tolist() for a in data.arrays(np.array([2, 1]))) == want
    batch = data.__getitems__([2, 1])
    assert tuple(t.tolist() for t in batch) == want
    assert all(t.dtype == torch.int64 for t in batch)
    (loaded,) = DataLoader(data, batch_sampler=[[2, 1]], collate_fn=collate)
    assert tuple(t.tolist() for t in loaded) == want
    tokens, segments, labels = data.arrays(np.array([1, 0]))  # the longest is not the first
    assert tokens.tolist() == [[2, 3, 0, 0, 0], [2, 7, 3, 8, 3]]
    assert segments.tolist() == [[0] * 5, [0, 0, 0, 1, 1]] and labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([], [], "expected at least one row of tokens, got none"),
        (ROWS, [1, 0], "arrays of one length"),
    ],
)
def test_texts_that_make_no_data_set(rows: list, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackedTexts(rows, labels)


def test_padding_is_the_token_that_the_vocabulary_has_for_it() -> None:
    data = PackedTexts([([5, 6, 7], [0, 0, 1]), ([5], [0])], [0, 1], pad_id=9)
    assert data.tokens.tolist() == [[5, 6, 7], [5, 9, 9]]
    assert data.segments.tolist() == [[0, 0, 1], [0, 0, 0]]
