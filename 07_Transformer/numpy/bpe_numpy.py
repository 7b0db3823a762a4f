"""Byte-pair encoding: a tokenizer that learns its own vocabulary (level 1, plain Python).

Papers:
- R. Sennrich, B. Haddow, A. Birch, "Neural Machine Translation of Rare Words with Subword Units",
  ACL 2016, arXiv:1508.07909: section 3.2 and Algorithm 1.
- A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762: section 5.1, one
  vocabulary for source and target.

A vocabulary of whole words is huge and still lacks the next name; one of letters makes long
sequences. BPE lies between: it begins with letters and joins, again and again, the pair of
neighbours that is most frequent in the training text. Frequent words end up as one token, a rare
one as a few pieces, and no word of known letters is unknown.

Map of this file:
    split_words     a text as words, each with its end-of-word mark
    BPE             train, encode, decode
    rank_merges, apply_merges     encoding, step by step
    neighbours, count_pairs, join, learn_merges     the training, step by step

Shapes: none; a text is a str, its encoding a list of token numbers. V tokens in the vocabulary.

Read before: 07_Transformer/theory.md, section 15.

Deviations from the paper:
- The end-of-word mark, </w> in the paper, is the space itself, which no word contains. So decoding
  is to write the tokens one after the other, and a mark cannot be taken for text.
- Marks such as . , - stand apart from words without a mark between them ("end." is "end" and
  ". "); the paper expects text that a tokenizer has cut up before.
- Ties between equally frequent pairs, which the paper leaves open: the pair of lowest numbers.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

Pair = tuple[int, int]

MARK = " "  # the end of a word
_ASCII_MARKS = r"!-/:-@\[-`{-~"
# A run of anything but ASCII marks, or a run of those; with the space behind it, if there is one.
_WORD = re.compile(f"[^ {_ASCII_MARKS}]+ ?|[{_ASCII_MARKS}]+ ?")


def split_words(text: str) -> list[str]:
    """The words and marks of a text; a space follows where the text had any white space.

    Put one after the other they are the text, with single spaces, and one more at its end.
    """
    joined = " ".join(text.split())
    return _WORD.findall(joined + MARK) if joined else []


class BPE:
    """A byte-pair encoding: its alphabet, and the pairs to join, in the order they were learnt.

    Args:
        alphabet: single characters, the first tokens after the special ones.
        merges: pairs of tokens; a later one may join what earlier ones made.

    Attributes:
        tokens: the text of each token by its number (V,).

    Raises:
        ValueError: a character twice, or a merge of tokens that are not there yet.
    """

    SPECIAL = ("<padding>", "<begin>", "<end>", "<unknown>")
    PADDING, BEGIN, END, UNKNOWN = range(4)

    def __init__(self, alphabet: Iterable[str], merges: Iterable[tuple[str, str]]) -> None:
        self.alphabet = tuple(alphabet)
        self.merges = tuple((left, right) for left, right in merges)
        if len(set(self.alphabet)) < len(self.alphabet) or any(len(c) != 1 for c in self.alphabet):
            raise ValueError(f"expected distinct single characters, got {self.alphabet}")
        # The special tokens have no text: whoever writes "<end>" in a text does not end it.
        texts = [*self.SPECIAL, *self.alphabet]
        self._numbers = {c: i for i, c in enumerate(texts) if i >= len(self.SPECIAL)}
        self._ranks = rank_merges(self.merges, texts, self._numbers)
        self.tokens = tuple(texts)
        self._known_words: dict[str, tuple[int, ...]] = {}  # a text repeats its words

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int, min_frequency: int = 2) -> "BPE":
        """Learn the merges from some texts (Algorithm 1).

        Args:
            texts: for translation, those of both languages.
            vocabulary_size: V to reach, special tokens and alphabet included; training ends before
                if no pair is left that occurs ``min_frequency`` times.

        Raises:
            ValueError: the alphabet and the special tokens alone are more than that.
        """
        words: Counter[str] = Counter()
        for text in texts:
            words.update(split_words(text))
        alphabet = sorted({character for word in words for character in word})
        room = vocabulary_size - len(cls.SPECIAL) - len(alphabet)
        if room < 0:
            raise ValueError(
                f"expected a vocabulary of at least {vocabulary_size - room} tokens (the alphabet "
                f"and {len(cls.SPECIAL)} special ones), got {vocabulary_size}"
            )
        return cls(alphabet, learn_merges(words, alphabet, room, min_frequency))

    def encode(self, text: str) -> list[int]:
        """The token numbers of a text, without begin and end; a strange character is UNKNOWN."""
        numbers: list[int] = []
        for word in split_words(text):
            if word not in self._known_words:
                self._known_words[word] = self._encode_word(word)
            numbers += self._known_words[word]
        return numbers

    def _encode_word(self, word: str) -> tuple[int, ...]:
        symbols = [self._numbers.get(character, self.UNKNOWN) for character in word]
        return apply_merges(symbols, self._ranks)

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of some tokens; padding, begin and end are silent, UNKNOWN is U+FFFD.

        Raises:
            ValueError: a number that no token has.
        """
        pieces = []
        for number in numbers:
            if not 0 <= number < len(self.tokens):
                raise ValueError(f"expected tokens 0 to {len(self.tokens) - 1}, got {number}")
            if number >= len(self.SPECIAL):
                pieces.append(self.tokens[number])
            elif number == self.UNKNOWN:
                pieces.append("\N{REPLACEMENT CHARACTER}")
        return "".join(pieces).removesuffix(MARK)


def rank_merges(
    merges: Sequence[tuple[str, str]], texts: list[str], numbers: dict[str, int]
) -> dict[Pair, tuple[int, int]]:
    """For each pair its turn, and the token that it becomes.

    Args:
        merges: pairs of tokens, in the order they were learnt.
        texts, numbers: the tokens so far; what the merges make is added to both.

    Raises:
        ValueError: a merge of tokens that are not there yet.
    """
    ranks: dict[Pair, tuple[int, int]] = {}
    for turn, (left, right) in enumerate(merges):
        if left not in numbers or right not in numbers:
            raise ValueError(f"merge {turn} joins {left!r} and {right!r}: no such token yet")
        # Two ways may lead to the same text, "ab" + "c" and "a" + "bc": it is one token.
        number = numbers.setdefault(left + right, len(texts))
        if number == len(texts):
            texts.append(left + right)
        ranks.setdefault((numbers[left], numbers[right]), (turn, number))
    return ranks


def apply_merges(symbols: list[int], ranks: Mapping[Pair, tuple[int, int]]) -> tuple[int, ...]:
    """Join the pair learnt first, wherever it stands, until no known pair is left."""
    while known := [pair for pair in neighbours(symbols) if pair in ranks]:
        first = min(known, key=lambda pair: ranks[pair])
        symbols = join(symbols, first, ranks[first][1])
    return tuple(symbols)


def neighbours(symbols: Sequence[int]) -> list[Pair]:
    """The pairs of neighbours of a word, from left to right."""
    return list(zip(symbols[:-1], symbols[1:], strict=True))


def count_pairs(symbols: Sequence[int]) -> Counter[Pair]:
    """How often each pair of neighbours occurs in a word."""
    return Counter(neighbours(symbols))


def join(symbols: Sequence[int], pair: Pair, number: int) -> list[int]:
    """Replace each occurrence of ``pair``, from left to right, by the token ``number``."""
    joined, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            joined.append(number)
            i += 2
        else:
            joined.append(symbols[i])
            i += 1
    return joined


def learn_merges(
    words: Counter[str], alphabet: Sequence[str], room: int, min_frequency: int = 2
) -> list[tuple[str, str]]:
    """The merges that fill ``room`` new tokens, most frequent pair first.

    Counting all pairs anew after each merge, as Algorithm 1 does, would take hours. A merge changes
    the words that hold its pair and no others, so the counts are kept up to date, and a heap has
    the most frequent pair on top. An entry of the heap may be out of date; it is recognised by its
    count.
    """
    first = len(BPE.SPECIAL)
    texts = [*BPE.SPECIAL, *alphabet]
    numbers = {character: first + i for i, character in enumerate(alphabet)}
    spelt = [[numbers[character] for character in word] for word in words]
    frequency = list(words.values())
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)  # the words that hold a pair
    for w, symbols in enumerate(spelt):
        for pair, n in count_pairs(symbols).items():
            counts[pair] += n * frequency[w]
            places[pair].add(w)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    while heap and len(texts) < first + len(alphabet) + room:
        negative, pair = heapq.heappop(heap)
        count = counts[pair]
        if count != -negative:
            if 0 < count < -negative:  # it became rarer; a higher count has its own entry
                heapq.heappush(heap, (-count, pair))
            continue
        if count < min_frequency:
            break
        left, right = texts[pair[0]], texts[pair[1]]
        merges.append((left, right))
        # Two ways may lead to the same text, "ab" + "c" and "a" + "bc": it is one token.
        number = numbers.setdefault(left + right, len(texts))
        if number == len(texts):
            texts.append(left + right)
        changed: set[Pair] = set()
        for w in places.pop(pair):
            before = count_pairs(spelt[w])
            spelt[w] = join(spelt[w], pair, number)
            after = count_pairs(spelt[w])
            for other in before.keys() | after.keys():
                difference = after[other] - before[other]
                if difference:
                    counts[other] += difference * frequency[w]
                    if difference > 0:
                        changed.add(other)
                        places[other].add(w)
        for other in changed:
            heapq.heappush(heap, (-counts[other], other))
    return merges
