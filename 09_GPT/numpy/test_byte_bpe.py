"""The byte-level tokenizer: by hand, and against the tokenizers library, hard texts included."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from byte_bpe_numpy import (
    ALPHABET,
    BYTE_CHARACTERS,
    ByteBPE,
    split_pieces,
    to_characters,
    to_text,
)
from utils.text_data import python_docs

# Scripts from right to left, marks that combine, emoji of several characters, all kinds of blanks.
HARD = (
    "Zwei junge weiße Männer, Straße STRASSE ﬁ",
    "e\u0301 é n\u0303 ñ \u0301 \u200d",
    "שלום עולם مرحبا بالعالم नमस्ते",
    "日本語のテキスト ½ ² Ⅷ ٣ 中文123文本",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 \U0001f600\U0001f600",
    "it's we've I'll he'd you're can't I'm 'S 'sx ''s 's12 'tis",
    "a  b   c\t\td \n\n  e \r\n f\u00a0g \u3000h \u2028 i\u200bj \x1c k\x85l   ",
    "can't stop--won't stop... (really?!) $3.50 50% a_b_c x**2 <|endoftext|>",
    "k\u1680\u1680l\u2000\u2000m\u200a\u200an\u2029\u2029o\u202f\u202fp\u205f\u205fq\x0b\x0br\x0c\x0cs",
    "\x00\x07\ufffd\ufeff",
    "",
    " ",
)


@pytest.fixture(scope="module")
def documents():
    return [*python_docs()[:120_000].split("\n\n"), *HARD]


@pytest.fixture(scope="module")
def library(documents):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def ours(documents):
    return ByteBPE.train(documents, 701)  # with the end of text, which the library was not given


def test_bytes_as_characters():
    assert len(set(BYTE_CHARACTERS)) == 256
    assert BYTE_CHARACTERS[ord("A")] == "A" and BYTE_CHARACTERS[ord(" ")] == "Ġ"
    assert set(ALPHABET) == set(pre_tokenizers.ByteLevel.alphabet())
    assert to_characters(" é\n") == "ĠÃ©Ċ" and to_text("ĠÃ©Ċ") == " é\n"
    assert to_text("Ã") == "\ufffd"


def test_pieces_by_hand():
    assert split_pieces("Two dogs, it's 2026!") == ["Two", " dogs", ",", " it", "'s", " 2026", "!"]
    assert split_pieces("a  b\n\n c ") == ["a", " ", " b", "\n\n", " c", " "]
    assert split_pieces("x_1'S") == ["x", "_", "1", "'", "S"]


@pytest.mark.parametrize("text", HARD)
def test_pieces_are_the_librarys(text):
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert [to_characters(piece) for piece in split_pieces(text)] == [piece for piece, _ in cut]


def test_merges_and_numbers_are_the_librarys(library, ours):
    merges = json.loads(library.to_str())["model"]["merges"]
    assert [tuple(pair) for pair in merges] == list(ours.merges) and len(merges) == 444
    numbers = library.get_vocab()
    assert [numbers[token] for token in ours.tokens[:-1]] == list(range(700))


def test_encoding_is_the_librarys(library, ours, documents):
    for text in documents:
        assert ours.encode(text) == library.encode(text).ids
        assert ours.decode(ours.encode(text)) == text == library.decode(ours.encode(text))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab'sve \n\t1.é日\U0001f600\u00a0"), max_size=25))
def test_any_text_is_encoded_as_the_library_does(library, ours, text):
    assert ours.encode(text) == library.encode(text).ids
    assert ours.decode(ours.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_every_text_comes_back(ours, text):
    text = text.encode("utf-8", errors="replace").decode()  # no halves of surrogates
    assert ours.decode(ours.encode(text)) == text


def test_the_first_merge_comes_first():
    bpe = ByteBPE([("b", "c"), ("a", "b"), ("a", "bc")])
    assert [bpe.tokens[i] for i in bpe.encode("abc")] == ["abc"]
    assert [bpe.tokens[i] for i in bpe.encode("abab")] == ["ab", "ab"]
    assert len(bpe) == 260 and bpe.tokens[-1] == "<|endoftext|>" and bpe.END == 259


def test_a_token_that_two_merges_make_has_one_number():
    bpe = ByteBPE([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("a", "b")])
    assert bpe.tokens[256:] == ("ab", "bc", "abc", "<|endoftext|>") and bpe.END == 259
    again = ByteBPE([("a", "b"), ("b", "c"), ("a", "b")])  # the first turn counts
    assert [again.tokens[i] for i in again.encode("abc")] == ["ab", "c"]


def test_a_pair_is_joined_only_if_it_is_frequent_enough():
    texts = ["ab ab cd"]  # "a" and "b" stand together twice, all other pairs once
    assert ByteBPE.train(texts, 300).merges == (("a", "b"),)
    assert ByteBPE.train(texts, 300, min_frequency=3).merges == ()
    assert len(ByteBPE.train(texts, 300, min_frequency=1).merges) > 1


def test_the_end_of_text_is_no_text():
    bpe = ByteBPE([])
    assert bpe.END not in bpe.encode("<|endoftext|>")
    assert bpe.decode([*bpe.encode("a"), bpe.END, *bpe.encode("b")]) == "ab"


def test_a_published_vocabulary(ours):
    vocabulary = json.dumps({token: i for i, token in enumerate(ours.tokens)})
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in ours.merges)
    read = ByteBPE.from_published(vocabulary, merges)
    assert read.tokens == ours.tokens and read.merges == ours.merges
    moved = {token: len(ours) - 1 - i for i, token in enumerate(ours.tokens)}
    with pytest.raises(ValueError, match="expected the vocabulary of 701 tokens"):
        ByteBPE.from_published(json.dumps(moved), merges)
    with pytest.raises(ValueError, match="expected the vocabulary of 701 tokens"):
        ByteBPE.from_published(vocabulary.replace("<|endoftext|>", "<end>"), merges)
    more = json.loads(vocabulary) | {"one more": len(ours)}
    with pytest.raises(ValueError, match="expected the vocabulary of 701 tokens.* got 702 others"):
        ByteBPE.from_published(json.dumps(more), merges)


def test_published_merges_may_begin_with_a_hash():
    bpe = ByteBPE([("#", "#"), ("##", "a")])
    vocabulary = json.dumps({token: i for i, token in enumerate(bpe.tokens)})
    read = ByteBPE.from_published(vocabulary, "#version: 0.2\n# #\n## a\n")
    assert read.merges == bpe.merges and read.encode("##a") == bpe.encode("##a")


def test_bad_input(ours):
    with pytest.raises(ValueError, match="expected a vocabulary of at least 257 tokens.* got 256"):
        ByteBPE.train(["a"], 256)
    with pytest.raises(ValueError, match="merge 0 joins 'ab' and 'c': no such token yet"):
        ByteBPE([("ab", "c")])
    for number in (-1, len(ours)):
        with pytest.raises(ValueError, match=f"expected tokens 0 to 700, got {number}"):
            ours.decode([number])
