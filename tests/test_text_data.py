"""Texts: reviews that no single word decides, vocabularies, character corpora, IMDB."""

import dataclasses
import hashlib
import io
import re
import sysconfig
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from utils import text_data
from utils.data_loaders import (
    DATASETS,
    DatasetCorrupt,
    DatasetMissing,
    RemoteFile,
    load_arrays,
)
from utils.sequence_data import load_task
from utils.text_data import (
    Vocabulary,
    characters,
    encode,
    even_starts,
    load_corpus,
    python_docs,
    python_source,
    read_imdb,
    reviews,
    rows,
    split_words,
    windows,
)

# --- words


def test_split_words() -> None:
    text = "It's GOOD, isn't it?<br /><br />8 of 10 -- (really)!"
    assert split_words(text) == [
        *("it's", "good", ",", "isn't", "it", "?", "8", "of", "10", "really", "!"),
    ]
    assert split_words("") == []


def test_a_vocabulary_has_the_most_frequent_words() -> None:
    table = Vocabulary.of_texts(["b b b a a", "c a z"], size=5)
    assert table.words == ("<padding>", "<unknown>", "a", "b", "c")  # c before z: alphabetical
    assert table.numbers["a"] == 2
    assert len(Vocabulary.of_texts(["a b"], size=100).words) == 4


def test_encode_pads_at_the_end_and_keeps_the_end_of_what_is_too_long() -> None:
    table = Vocabulary.of_texts(["a b c"], size=5)
    tokens, lengths = encode(["b a", "c c b a", "", "strange b"], table, max_length=3)
    assert tokens.tolist() == [[3, 2, 0], [4, 3, 2], [1, 0, 0], [1, 3, 0]]
    assert lengths.tolist() == [2, 3, 1, 2]
    assert tokens.dtype == lengths.dtype == np.int64


def test_sizes_without_place_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a size of at least 3 .*, got 2"):
        Vocabulary.of_texts(["a"], size=2)
    with pytest.raises(ValueError, match="expected a max_length of at least 1, got 0"):
        encode(["a"], Vocabulary.of_texts(["a"], size=3), max_length=0)


# --- template reviews

NEGATIONS = {"not", "never", "nobody", "wrong"}
GOOD = {"good", "moving", "clever", "funny", "brilliant", "gripping", "fresh", "charming"}
BAD = {"bad", "boring", "stupid", "dull", "awful", "tedious", "stale", "clumsy"}


def test_labels_are_true() -> None:
    texts, labels = reviews(1_000, np.random.default_rng(0))
    cases = np.zeros((2, 2), dtype=int)
    for text, label in zip(texts, labels, strict=True):
        words = split_words(text)
        good, bad, negated = (sum(w in group for w in words) for group in (GOOD, BAD, NEGATIONS))
        assert good + bad == 1 and negated <= 1, text
        assert label == (good != negated), text
        cases[good, negated] += 1
    assert cases.min() > 200


def test_no_single_word_tells_the_label() -> None:
    data = load_arrays("reviews")
    counter = CountVectorizer(token_pattern=r"[a-z]+", binary=True)
    x = counter.fit_transform(data.x_train).toarray()
    for word, column in zip(counter.get_feature_names_out(), x.T, strict=True):
        share, count = data.y_train[column == 1].mean(), column.sum()
        assert abs(share - 0.5) < 4 * 0.5 / count**0.5, f"{word}: {share:.2f} of {count} positive"
    # Counted words, weighted: no better than guessing on texts that are new.
    model = LogisticRegression(max_iter=200).fit(x, data.y_train)
    accuracy = model.score(counter.transform(data.x_test).toarray(), data.y_test)
    assert 0.42 < accuracy < 0.58


def test_a_model_that_sees_pairs_of_words_does_better() -> None:
    # The check above can fail: the same model with one column for word and negation together.
    data = load_arrays("reviews")

    def pairs(texts: np.ndarray) -> list[str]:
        sets = [set(split_words(text)) for text in texts]
        return [f"{' '.join(words & (GOOD | BAD))}{bool(words & NEGATIONS)}" for words in sets]

    counter = CountVectorizer(token_pattern=r"\w+")
    model = LogisticRegression().fit(counter.fit_transform(pairs(data.x_train)), data.y_train)
    assert model.score(counter.transform(pairs(data.x_test)), data.y_test) == 1.0


def test_the_opinion_is_at_any_place_among_the_sentences() -> None:
    texts, _ = reviews(1_000, np.random.default_rng(0))
    places, every = set(), set()
    for text in texts:
        sentences = text.removesuffix(" .").split(" . ")
        (place,) = (i for i, s in enumerate(sentences) if set(split_words(s)) & (GOOD | BAD))
        places.add((place, len(sentences)))
        every |= set(split_words(text))
    assert places == {(place, length) for length in range(2, 6) for place in range(length)}
    degrees = {"very", "really", "quite", "all", "that", "altogether"}
    assert every >= GOOD | BAD | NEGATIONS | degrees


def test_reviews_depend_on_the_seed_alone() -> None:
    one, two, other = (load_arrays("reviews", seed=seed) for seed in (1, 1, 2))
    assert one.x_train.tolist() == two.x_train.tolist()
    assert one.x_train.tolist() != other.x_train.tolist()
    assert one.x_train[:100].tolist() != one.x_test[:100].tolist()
    assert one.classes == ("negative", "positive") and one.y_test.dtype == np.int64


# --- corpora


def test_a_corpus_gives_its_text_back() -> None:
    text = "the cat sat on the mat; " * 10
    corpus = characters(text)
    assert corpus.decode(np.concatenate([corpus.train, corpus.test])) == text
    assert len(corpus.train) == 216
    assert corpus.decode(corpus.encode("mat")) == "mat"
    assert corpus.characters == tuple(sorted(set(text)))
    with pytest.raises(ValueError, match="expected characters of the corpus, got 'Z'"):
        corpus.encode("tZ")


def test_rows_are_consecutive_pieces() -> None:
    assert rows(np.arange(11), 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_windows_and_what_comes_next_in_each() -> None:
    text = 10 * np.arange(30)  # a token is not its place
    x, y = windows(text, np.array([7, 0, 25]), 4)
    assert x.tolist() == [[70, 80, 90, 100], [0, 10, 20, 30], [250, 260, 270, 280]]
    assert np.array_equal(y, x + 10) and x.dtype == y.dtype == text.dtype


def test_even_starts() -> None:
    text = np.zeros(30)
    assert even_starts(text, 4, 100).tolist() == [0, 4, 8, 12, 16, 20, 24]
    assert even_starts(text, 4, 7).tolist() == [0, 4, 8, 12, 16, 20, 24]
    assert even_starts(text, 4, 3).tolist() == [0, 8, 16]
    assert even_starts(text, 29, 3).tolist() == [0]
    for T in range(1, 30):  # the last window has a target for each of its tokens
        windows(text, even_starts(text, T, 100), T)
    with pytest.raises(ValueError, match="expected a text of more than 30 tokens, got 30"):
        even_starts(text, 30, 3)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A short text in the place of Tiny Shakespeare, in tmp_path, registered with its checksum."""
    text = "ROMEO:\nO, she doth teach the torches to burn bright!\n\n" * 5
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(text, encoding="utf-8", newline="\n")
    (file,) = DATASETS["tiny-shakespeare"].files
    file = dataclasses.replace(file, md5=hashlib.md5(text.encode()).hexdigest())
    entry = dataclasses.replace(DATASETS["tiny-shakespeare"], files=(file,))
    monkeypatch.setitem(DATASETS, "tiny-shakespeare", entry)
    return text


def test_a_registered_corpus_is_the_whole_text(play: str, tmp_path: Path) -> None:
    corpus = load_corpus("tiny-shakespeare", tmp_path)
    assert corpus.decode(corpus.train) + corpus.decode(corpus.test) == play
    data = load_arrays("tiny-shakespeare", tmp_path)
    np.testing.assert_array_equal(data.x_train[1:], data.y_train[:-1])  # the next character


def test_a_corpus_that_is_cut_off_or_not_there(play: str, tmp_path: Path) -> None:
    path = tmp_path / "tinyshakespeare" / "input.txt"
    path.write_text(play[:-9], encoding="utf-8")
    with pytest.raises(DatasetCorrupt, match="cut off or changed"):
        load_corpus("tiny-shakespeare", tmp_path)
    path.unlink()
    with pytest.raises(DatasetMissing) as caught:
        load_corpus("tiny-shakespeare", tmp_path)
    message = str(caught.value)
    assert str(path) in message and "--data python-docs" in message
    assert "--download tiny-shakespeare" in message


def test_python_docs_are_docstrings_of_the_standard_library() -> None:
    text = python_docs()
    assert text.isascii() and "\t" not in text and len(text) > 500_000
    assert textwrap.dedent(textwrap.dedent.__doc__ or "").strip()[:60] in text
    assert "def __init__(self" not in text[:2_000]  # no code, but what the code says of itself
    corpus = load_corpus("python-docs")
    assert corpus.decode(corpus.train) + corpus.decode(corpus.test) == text


def test_python_docs_are_in_the_order_of_their_files_and_none_comes_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in "cadbfe":
        own = f"Module {name} " + "that has something to say. " * 4
        twice = "A sentence that more than one class of this library repeats. " * 2
        short = "Less than a line. " * 4
        lines = [f'"""{own}"""', "class A:", f'    """{twice}"""', "def f():", f'    """{short}"""']
        (tmp_path / f"{name}.py").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    python_docs.cache_clear()
    try:
        parts = python_docs().removesuffix("\n").split("\n\n")
    finally:
        python_docs.cache_clear()
    assert [part[:8] for part in parts] == [
        "Module a",
        "A senten",
        *(f"Module {n}" for n in "bcdef"),
    ]


def test_python_source_is_the_source_of_the_standard_library() -> None:
    text = python_source()
    assert text.isascii() and "\t" not in text and len(text) > 1_000_000
    assert Path(textwrap.__file__).read_text(encoding="utf-8").expandtabs() in text
    data = load_arrays("python-source")
    assert len(data.x_train) + len(data.x_test) == len(text) - 2  # each part's last has no next
    assert "".join(data.classes[i] for i in data.x_train[:200]) == text[:200]
    assert np.array_equal(data.x_train[1:], data.y_train[:-1])


def test_python_source_is_in_the_order_of_its_modules_without_packages_in_ascii(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in "cadbfe":
        (tmp_path / f"{name}.py").write_text(f"if {name}:\n\tpass\n", encoding="utf-8")
    (tmp_path / "b.py").write_text("café = 1\n", encoding="utf-8")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    python_source.cache_clear()
    try:
        assert python_source() == "\n\n".join(f"if {name}:\n        pass\n" for name in "acdef")
    finally:
        python_source.cache_clear()


@pytest.mark.parametrize(
    ("name", "text"), [("python-docs", python_docs), ("python-source", python_source)]
)
def test_a_python_without_sources(name, text, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    text.cache_clear()
    try:
        with pytest.raises(DatasetMissing, match="expected the sources of Python's standard"):
            load_arrays(name)
    finally:
        text.cache_clear()


# --- IMDB

PARTS = [f"{split}/{side}" for split in ("train", "test") for side in ("neg", "pos")]


def imdb_files() -> dict[str, bytes]:
    """Two reviews in each part, as IMDB names them, and files that are not wanted."""
    files = {
        f"aclImdb/{part}/{i}_{8 if part.endswith('pos') else 2}.txt": f"{part} {i} é".encode()
        for part in PARTS
        for i in range(2)
    }
    unwanted = ("train/unsup/0_0.txt", "imdb.vocab", "train/labeledBow.feat")
    return files | {f"aclImdb/{name}": b"not a labelled review" for name in unwanted}


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An IMDB of two reviews a part, packed, in tmp_path and registered with its checksum."""
    monkeypatch.setattr(text_data, "IMDB_REVIEWS", 2)
    return put_archive(monkeypatch, tmp_path, imdb_files())


def put_archive(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, bytes]) -> Path:
    path, content = folder / "aclImdb_v1.tar.gz", tar_gz(files)
    path.write_bytes(content)
    md5 = hashlib.md5(content).hexdigest()
    file = RemoteFile(path.name, md5, ("http://127.0.0.1:9/",), folder="aclImdb")
    monkeypatch.setitem(DATASETS, "imdb", dataclasses.replace(DATASETS["imdb"], files=(file,)))
    return path


def unpack(folder: Path, leave_out: str = "nothing") -> Path:
    for name, content in imdb_files().items():
        if leave_out not in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder / "aclImdb"


def check_whole(folder: Path) -> None:
    data = load_arrays("imdb", folder)
    assert sorted(data.x_train) == [
        "train/neg 0 é",
        "train/neg 1 é",
        "train/pos 0 é",
        "train/pos 1 é",
    ]
    assert data.x_test[3] == "test/pos 1 é"
    assert data.y_test.tolist() == [0, 0, 1, 1]
    # Mixed, or --limit would take the negative ones alone; each text keeps its label.
    assert data.y_train.tolist() == ["pos" in text for text in data.x_train] != [0, 0, 1, 1]
    assert data.y_train.dtype == np.int64 and data.classes == ("negative", "positive")


def test_imdb_packed(archive: Path, tmp_path: Path) -> None:
    check_whole(tmp_path)
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.txt")}
    assert names == {name for name in imdb_files() if re.search("/(neg|pos)/", name)}
    archive.unlink()  # from now on the folder serves
    check_whole(tmp_path)
    assert load_task("imdb", tmp_path).outputs == 2


def test_imdb_unpacked(archive: Path, tmp_path: Path) -> None:
    archive.unlink()
    unpack(tmp_path)
    check_whole(tmp_path)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("test/", "test.neg is not there"),
        ("train/pos", "train.pos is not there"),
        ("test/pos/1_8", "test: expected 2 reviews each in neg and pos, got 2 and 1"),
        ("train/neg/0_2", "train: expected 2 reviews each in neg and pos, got 1 and 2"),
    ],
)
def test_half_unpacked_is_never_taken_for_whole(archive, tmp_path, lost, message) -> None:
    place = unpack(tmp_path, leave_out=lost)
    with pytest.raises(DatasetCorrupt, match=message) as caught:
        load_arrays("imdb", tmp_path)
    assert f"delete {place} and unpack aclImdb_v1.tar.gz anew" in str(caught.value)


def test_unpacking_that_breaks_off_leaves_nothing(archive, monkeypatch, tmp_path: Path) -> None:
    written: list[Path] = []
    write = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 6:
            raise OSError("no space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space left"):
        load_arrays("imdb", tmp_path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [archive.name]


def test_nothing_of_the_archive_gets_out_of_its_folder(archive, monkeypatch, tmp_path) -> None:
    files = imdb_files()
    files["aclImdb/train/pos/../../../../evil_1.txt"] = b"x"
    files["../train/pos/7_7.txt"] = b"x"
    put_archive(monkeypatch, tmp_path, files)
    check_whole(tmp_path)
    assert not list(tmp_path.parent.glob("evil*")) and not list(tmp_path.rglob("7_7.txt"))


def test_an_archive_with_another_checksum_is_never_opened(archive, monkeypatch, tmp_path) -> None:
    archive.write_bytes(archive.read_bytes()[:-10])
    monkeypatch.setattr(text_data, "unpack_imdb", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(DatasetCorrupt, match="cut off or changed"):
        load_arrays("imdb", tmp_path)


def test_imdb_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing) as caught:
        load_arrays("imdb", tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "aclImdb_v1.tar.gz") in message and str(tmp_path / "aclImdb") in message
    assert "--download imdb" in message and "--data reviews" in message


def test_read_imdb_needs_both_folders(tmp_path: Path) -> None:
    (tmp_path / "neg").mkdir()
    with pytest.raises(FileNotFoundError, match="pos is not there"):
        read_imdb(tmp_path)
