"""The tokenizer is CLIP's: equal to open_clip's and transformers', and it learns its own."""

import gzip
import json
import random

import ftfy
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer, default_bpe

import utils  # noqa: F401  (puts the chapters on the import path)
from clip_tokenizer_numpy import CLIPTokenizer, clean, split_words

TEXTS = [
    "a photo of a cat",
    "A Photo of 2 CATS, 1995!",
    "it's the dog's; they've  \t they'll\n I'd 'tis",
    "caf\u00e9 na\u00efve stra\u00dfe \u65e5\u672c\u8a9e \U0001f600 ...?!",
    "AT&amp;T &lt;b&gt; &amp;amp; x",
    "\u00bd \u0664\u0662 3.14 #tag @me a_b",
    "supercalifragilisticexpialidocious",
    "",
]
CLIP_VOCABULARY = 49_408


@pytest.fixture(scope="module")
def published():
    """CLIP's own vocabulary, from the installed open_clip; it is not in this repository."""
    with gzip.open(default_bpe()) as file:
        return CLIPTokenizer.from_published(file.read().decode("utf-8"), repair=ftfy.fix_text)


@pytest.fixture(scope="module")
def trained():
    words = ["red", "green", "blue", "cat", "dog", "house", "small", "large", "of", "left"]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=5)) + ", " for _ in range(200)]
    return CLIPTokenizer.train(texts, 620)


# --- CLIP's vocabulary


def test_a_photo_of_a_cat(published):
    assert len(published) == CLIP_VOCABULARY
    assert (published.BEGIN, published.END) == (49_406, 49_407)
    (row,) = published.encode_batch(["a photo of a cat"], 7).tolist()
    assert row == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert published.decode(row) == "a photo of a cat"


def test_every_text_equals_open_clips(published):
    theirs = SimpleTokenizer()
    for text in TEXTS:
        assert published.encode(text) == theirs.encode(text), text
    assert published.encode_batch(TEXTS).tolist() == theirs(TEXTS).tolist()
    long = ["many words " * 60]
    assert published.encode_batch(long).tolist() == theirs(long).tolist()


# Characters that are newer than Python's tables count as marks here.
KNOWN = st.characters(exclude_categories=("Cn", "Cs", "Co"))


@settings(max_examples=30, deadline=None)
@given(st.text(KNOWN, max_size=30))
def test_strange_texts_equal_open_clips(published, text):
    text = text.replace("\u017f", "")  # the long s, which their expression takes for an s
    assert published.encode(text) == their_tokenizer().encode(text)


def their_tokenizer(made=[]):  # noqa: B006  (made once: it reads 49,000 lines)
    if not made:
        made.append(SimpleTokenizer())
    return made[0]


def test_decoding_says_what_open_clips_says(published):
    theirs = their_tokenizer()
    for text in TEXTS:
        numbers = published.encode(text)
        assert published.decode(numbers) == theirs.decode(numbers).strip()


def test_an_end_in_the_text_is_text(published):
    """In their program it ends the text, and the rest is not read."""
    numbers = published.encode("cat<|endoftext|> dog")
    assert published.END not in numbers
    assert published.decode(numbers) == "cat <| endoftext |> dog"
    assert their_tokenizer().encode("a <end_of_text> dog")[1] == published.END


# --- files of transformers


def write_transformers(folder, tokenizer):
    numbers = {token: tokenizer.number(token) for token in tokenizer.tokens}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text(tokenizer.published_merges())


def test_equals_transformers(trained, tmp_path):
    write_transformers(tmp_path, trained)
    theirs = transformers.CLIPTokenizer(
        vocab=json.loads((tmp_path / "vocab.json").read_text()),
        merges=[tuple(pair) for pair in trained.merges],
    )
    for text in [*TEXTS[:3], "a small red dog left of two cats"]:
        assert theirs(text)["input_ids"] == [trained.BEGIN, *trained.encode(text), trained.END]


def test_published_files_there_and_back(trained, tmp_path):
    write_transformers(tmp_path, trained)
    texts = [(tmp_path / name).read_text() for name in ("merges.txt", "vocab.json")]
    again = CLIPTokenizer.from_published(*texts)
    assert again.tokens == trained.tokens and again.merges == trained.merges


def test_another_vocabulary_is_refused(trained):
    merges = trained.published_merges()
    with pytest.raises(ValueError, match=r"expected the vocabulary of \d+ tokens that the merges"):
        CLIPTokenizer.from_published(merges, json.dumps({"a": 0}))
    with pytest.raises(ValueError, match="expected two tokens in each line of the merges, got"):
        CLIPTokenizer.from_published("#version: 0.2\na b c\n")
    with pytest.raises(ValueError, match="merge 0 joins 'xy' and 'z': no such token yet"):
        CLIPTokenizer.from_published("xy z\n")


# --- one's own vocabulary


def test_frequent_words_become_one_token(trained):
    assert len(trained.encode("a red dog left of the small house")) <= 10
    assert all(len(trained.encode(word)) == 1 for word in ("red", "dog", "house"))
    assert trained.tokens[trained.encode("red")[0]] == "red</w>"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_decoding_gives_the_words_of_the_clean_text(trained, text):
    assert trained.decode(trained.encode(text)) == " ".join(split_words(clean(text)))


def test_a_pair_has_to_occur_twice_and_the_repair_is_kept():
    repair = str.swapcase
    tokenizer = CLIPTokenizer.train(["ab ab cd"], 600, repair=repair)
    assert tokenizer.merges == (("a", "b</w>"),) and tokenizer.repair is repair
    assert len(CLIPTokenizer.train(["ab ab cd"], 600, min_frequency=1).merges) == 2


def test_the_same_texts_give_the_same_merges():
    texts = ["a red cat", "a blue dog"] * 3
    assert CLIPTokenizer.train(texts, 540).merges == CLIPTokenizer.train(texts, 540).merges


def test_batches_are_padded_and_cut_to_their_end(trained):
    batch = trained.encode_batch(["red", "red " * 20], 6)
    assert batch.shape == (2, 6) and batch.dtype == "int64"
    word = trained.encode("red")[0]
    assert batch.tolist() == [
        [trained.BEGIN, word, trained.END, 0, 0, 0],
        [trained.BEGIN, *[word] * 4, trained.END],
    ]
    assert trained.encode_batch(["red"]).shape == (1, 77)
    assert trained.decode(batch[0]) == "red"  # what stands behind the end is not read


def test_cleaning():
    assert clean("  A&amp;B\n\t &amp;lt; C ") == "a&b < c"
    assert clean("x", repair=lambda text: text + "!") == "x!"
    assert split_words("it's 1995 don't'") == ["it", "'s", "1", "9", "9", "5", "don", "'t", "'"]


def test_bad_input(trained):
    with pytest.raises(ValueError, match="expected a vocabulary of at least 514 tokens, got 513"):
        CLIPTokenizer.train(["a"], 513)
    with pytest.raises(ValueError, match="expected a context of at least 2 tokens, got 1"):
        trained.encode_batch(["red"], 1)
    with pytest.raises(ValueError, match=r"expected tokens 0 to \d+, got -1"):
        trained.decode([-1])
