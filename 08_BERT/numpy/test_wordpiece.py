"""The tokenizer: by hand, and against the tokenizers library on the same vocabulary."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from utils.text_data import python_docs
from wordpiece_numpy import WordPiece, split_words

# Scripts from right to left, marks that combine, emoji of several characters, no-break spaces.
HARD = (
    "Unwanted, unaffable! Don't-stop... $3.50 50% a_b_c [CLS] [MASK]##x ##ed",
    "Straße STRASSE ﬁ ŒUVRE İstanbul ΣΊΣΥΦΟΣ ǅ",
    "e\u0301 é n\u0303 ñ \u0301 Ångström ệ ỗ naïve",
    "שָׁלוֹם עולם مَرحبا بالعالم नमस्ते हिन्दी",
    "日本語のテキスト 中文文本 한국어 𠀋 豈 x中y",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 \U0001f600\U0001f600",
    "a\u00a0b\u2003c\td\ne \u200b f\x1cg h\u2028i",
    "\x00\x07\ufffd\ufeff a\u00adb \x85 ≠ \u037e ½ №",
    "word" * 30 + " ok " + "a" * 100 + " " + "b" * 101,
)
LETTERS = sorted({c for text in HARD for w, _ in split_words(text) for c in w})
KNOWN = [c for c in LETTERS if c not in "№½👍"]
PIECES = [
    "un",
    "##aff",
    "##able",
    "##want",
    "##ed",
    "word",
    "##word",
    "don",
    "naive",
    "##ssе",
    "a" * 50,
]
PIECES += ["##" + "a" * 50, "strasse", "##asse", "is", "##tan", "##bul", "unwanted"]
CASED = ["İ", "S", "T", "R", "A", "E", "É", "é", "ñ", "Å", "Σ", "Œ", "U", "##E", "##S", "##é"]


def vocabulary(lower_case=True):
    tokens = [*WordPiece.SPECIAL, *KNOWN, *("##" + c for c in KNOWN), *PIECES]
    return list(dict.fromkeys(tokens if lower_case else tokens + CASED))


def library(tokens, lower_case=True, strip_accents=None):
    numbers = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=strip_accents,
        lowercase=lower_case,
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    return made


@pytest.mark.parametrize(
    ("lower_case", "strip_accents"), [(True, None), (False, None), (True, False), (False, True)]
)
def test_numbers_and_offsets_are_the_librarys(lower_case, strip_accents):
    tokens = vocabulary(lower_case)
    ours = WordPiece(tokens, lower_case, strip_accents)
    theirs = library(tokens, lower_case, strip_accents)
    seen = set()
    for text in HARD:
        want = theirs.encode(text, add_special_tokens=False)
        numbers, offsets = ours.encode_with_offsets(text)
        assert numbers == want.ids == ours.encode(text)
        assert offsets == want.offsets
        assert ours.decode(numbers) == theirs.decode(numbers, skip_special_tokens=False)
        seen |= set(numbers)
    assert ours.unknown_id in seen and len(seen) > 75


OURS, THEIRS = WordPiece(vocabulary()), library(vocabulary())
# Characters that both know: the library's tables are older than Python's.
OLD = st.characters(max_codepoint=0x2FFFF, exclude_categories=("Cs", "Cn", "Mn", "P", "Cf", "Mc"))


@settings(max_examples=150, deadline=None)
@given(st.text(OLD | st.sampled_from("ab .,-'[]#é\u0301\t中"), max_size=30))
def test_any_text_is_the_librarys(text):
    if any(0x2B820 <= ord(c) <= 0x2B91F or c == "᙭" for c in text):
        return
    want = THEIRS.encode(text, add_special_tokens=False)
    assert OURS.encode_with_offsets(text) == (want.ids, want.offsets)


def test_single_characters_are_the_librarys():
    """One in 97 of all, but those that were assigned after the library's tables were made."""
    theirs = library(vocabulary())

    def words(text):
        normal = theirs.normalizer.normalize_str(text)
        return [word for word, _ in theirs.pre_tokenizer.pre_tokenize_str(normal)]

    different = []
    for code in range(0, sys.maxunicode, 97):
        if not 0xD800 <= code < 0xE000:
            text = f"a{chr(code)}b"
            if words(text) != [word for word, _ in split_words(text)]:
                different.append(code)
    kinds = {unicodedata.category(chr(code)) for code in different}
    assert len(different) < 12 and kinds <= {"Mn", "Po", "Cf", "Lo", "Pd", "Ps", "Pe"}


# The first and the last of each range that are assigned. The library leaves out U+2B820 to U+2B91F.
ENDS = "\u3400\u4db5\u4e00\u9fd5\U00020000\U0002a6d6\U0002a700\U0002b734\U0002b740\U0002b81d"
ENDS += "\uf900\ufad9\U0002f800\U0002fa1d"


@pytest.mark.parametrize("c", ENDS)
def test_ideographs_stand_apart(c):
    text = f"a{c}b"
    normal = THEIRS.normalizer.normalize_str(text)
    want = [word for word, _ in THEIRS.pre_tokenizer.pre_tokenize_str(normal)]
    assert [word for word, _ in split_words(text)] == want and len(want) == 3


def test_rare_ideographs_stand_apart_too():
    for c in "\U0002b820\U0002cea1":
        assert split_words(f"a{c}b") == [("a", [0]), (c, [1]), ("b", [2])]


def test_words_by_hand():
    assert [w for w, _ in split_words("Don't  STOP, é!")] == [
        "don",
        "'",
        "t",
        "stop",
        ",",
        "e",
        "!",
    ]
    assert split_words("É中b") == [("e", [0]), ("中", [1]), ("b", [2])]
    assert split_words("") == split_words(" \n\x00") == []


def test_longest_match_first_by_hand():
    tokens = [*WordPiece.SPECIAL, "un", "una", "##aff", "##ff", "##able", "##a"]
    tokenizer = WordPiece(tokens)
    names = [tokens[i] for i in tokenizer.encode("Unaffable unaffabl una")]
    assert names == ["una", "##ff", "##able", "[UNK]", "una"]
    # un ##aff ##able would do, but the longest beginning is taken, and never given back.
    assert tokenizer.encode("unaffa") == [6, 8, 10]
    assert tokenizer.encode_with_offsets("x unaffable")[1] == [(0, 1), (2, 5), (5, 7), (7, 11)]


def test_training_by_hand():
    # "e r" occurs 9 times, "l o" and then "lo w" 7; of three pairs with 6, n ##e has the lowest
    # numbers.
    text = "low " * 5 + "lowest " * 2 + "newer " * 6 + "wider " * 3
    tokenizer = WordPiece.train([text], 5 + 2 * 10 + 4)
    assert tokenizer.tokens[25:] == ("##er", "lo", "low", "ne")
    assert tokenizer.tokens[:6] == (*WordPiece.SPECIAL, "d")
    assert tokenizer.tokens[15] == "##d"
    assert tokenizer.decode(tokenizer.encode("lower newest")) == "lower newest"


def test_training_with_capitals_and_accents():
    tokenizer = WordPiece.train(["Éa éa Éa"], 40, lower_case=False)
    assert tokenizer.tokens[5:] == ("a", "É", "é", "##a", "##É", "##é", "Éa")
    assert tokenizer.decode(tokenizer.encode("Éa éa")) == "Éa éa"
    assert WordPiece.train(["Éa éa Éa"], 40).tokens[5:] == ("a", "e", "##a", "##e", "ea")


def test_a_pair_that_occurs_once_is_not_joined():
    assert WordPiece.train(["ab ac ac"], 40).tokens[-2:] == ("##c", "ac")
    assert set(WordPiece.train(["ab ac ac"], 40, min_frequency=1).tokens[-2:]) == {"ac", "ab"}


def test_training_finds_the_librarys_pieces():
    text = "low " * 50 + "lowest " * 20 + "newer " * 61 + "wider " * 33 + "widest " * 7
    ours = WordPiece.train([text], 60, min_frequency=30)
    theirs = library([*WordPiece.SPECIAL])
    trainer = trainers.WordPieceTrainer(
        vocab_size=60, min_frequency=30, special_tokens=[*WordPiece.SPECIAL], show_progress=False
    )
    theirs.train_from_iterator([text], trainer)
    longer = {t for t in theirs.get_vocab() if len(t.removeprefix("##")) > 1 and t[0] != "["}
    assert {t for t in ours.tokens if len(t.removeprefix("##")) > 1 and t[0] != "["} == longer
    assert len(longer) > 6


def test_documentation_trained_encoded_and_decoded():
    text = python_docs()[:40_000]
    tokenizer = WordPiece.train([text], 500)
    assert len(tokenizer) == 500
    theirs = library(tokenizer.tokens)
    want = theirs.encode(text, add_special_tokens=False)
    numbers, offsets = tokenizer.encode_with_offsets(text)
    assert (numbers, offsets) == (want.ids, want.offsets)
    assert tokenizer.unknown_id not in numbers
    plain = " ".join(word for word, _ in split_words(text))
    assert tokenizer.decode(numbers) == plain
    assert all(text[a:b].lower() == tokenizer.tokens[n].removeprefix("##")
               for n, (a, b) in zip(numbers, offsets, strict=True))  # fmt: skip


def test_pack():
    tokenizer = WordPiece([*WordPiece.SPECIAL, "a", "b"])
    assert tokenizer.pack([5, 5]) == ([2, 5, 5, 3], [0, 0, 0, 0])
    assert tokenizer.pack([5, 5], [6]) == ([2, 5, 5, 3, 6, 3], [0, 0, 0, 0, 1, 1])
    assert tokenizer.pack([5] * 9, [6, 6, 6], longest=8) == (
        [2, 5, 5, 5, 3, 6, 6, 3], [0, 0, 0, 0, 0, 1, 1, 1]
    )  # fmt: skip
    assert tokenizer.pack([5] * 9, longest=4)[0] == [2, 5, 5, 3]


def test_decode_leaves_special_tokens_out():
    tokenizer = WordPiece([*WordPiece.SPECIAL, "a", "##b", "."])
    assert tokenizer.decode([2, 5, 6, 4, 7, 3, 1, 0]) == "ab [MASK] . [UNK]"
    assert tokenizer.decode([2, 6, 5]) == "##b a"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WordPiece(["a", "[PAD]"]), r"without \[UNK\], \[CLS\], \[SEP\], \[MASK\]"),
        (lambda: WordPiece([*WordPiece.SPECIAL, "a", "a"]), "got 7 with 6 different ones"),
        (lambda: WordPiece.train(["abc"], 10), "at least 11 tokens .*, got 10"),
        (lambda: OURS.decode([10_000]), "expected tokens 0 to .*, got 10000"),
        (lambda: OURS.decode([-1]), "expected tokens 0 to .*, got -1"),
        (lambda: OURS.pack([5], longest=1), "room for 2 special tokens, got 1"),
        (lambda: OURS.pack([5], [5], longest=2), "room for 3 special tokens, got 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
