"""What BERT is pre-trained on: texts with tokens hidden, and pairs of segments (level 1).

Paper: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, arXiv:1810.04805, sections 3.1, A.1 and A.2.

Map of this file:
    mask_tokens            task 1: 15 % of the tokens, of these 80 % masked, 10 % random, 10 % kept
    next_sentence_pairs    task 2: half of the pairs follow each other, half do not
    pack_pairs             documents as rows of tokens, ready for the model

All three levels use it.

Shapes: B batch, T tokens, V vocabulary.

Read before: wordpiece_numpy.py; 08_BERT/theory.md, sections 3 and 4.

Deviations from the paper: a text is masked anew each time it is seen; the authors' program stores
ten masked copies of each. Segments fill the room as far as their document goes; the program makes
one pair in ten shorter.
"""

from collections.abc import Sequence

import numpy as np

from wordpiece_numpy import WordPiece

IGNORED = -100  # the label of a token that was not chosen

Pair = tuple[list[int], list[int], int]


def mask_tokens(
    tokens: np.ndarray,
    maskable: np.ndarray,
    vocabulary: int,
    mask_id: int,
    rng: np.random.Generator,
    share: float = 0.15,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose tokens to be guessed, and hide most of them (eq. 8.8).

    Args:
        tokens: (B, T) ints. maskable: (B, T) bool, False at [CLS], [SEP] and padding.
        vocabulary: V; a random token is one of these.
        share: of a text's tokens that are chosen; at least one, if it has any.

    Returns:
        inputs: (B, T), the tokens with those changes; labels: (B, T), the tokens that were chosen,
        ``IGNORED`` elsewhere.

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share in [0, 1], got {share}")
    # A random number for every token; the lowest of each text are chosen.
    order = np.where(maskable, rng.random(tokens.shape), 2.0).argsort(axis=1).argsort(axis=1)
    possible = maskable.sum(axis=1, keepdims=True)
    wanted = np.maximum(np.rint(share * possible), 1 if share else 0)
    chosen = maskable & (order < wanted)  # (B, T) and (B, 1) -> (B, T)
    labels = np.where(chosen, tokens, IGNORED)
    fate = rng.random(tokens.shape)
    random_tokens = rng.integers(vocabulary, size=tokens.shape)
    inputs = np.where(chosen & (fate < 0.8), mask_id, tokens)
    inputs = np.where(chosen & (fate >= 0.8) & (fate < 0.9), random_tokens, inputs)
    return inputs, labels


def next_sentence_pairs(
    documents: Sequence[Sequence[Sequence[int]]], longest: int, rng: np.random.Generator
) -> list[Pair]:
    """Pairs of segments: with probability 1/2 the second is what follows the first.

    Args:
        documents: each a list of sentences, each the numbers of its tokens.
        longest: tokens of both segments together, special ones not counted.

    Returns:
        (first, second, label); label 0: it follows; 1: it comes from elsewhere.

    Raises:
        ValueError: nothing to pair, or room for less than two tokens.
    """
    kept = [[s for s in document if len(s)] for document in documents]
    kept = [document for document in kept if document]
    places = [(d, i) for d, document in enumerate(kept) for i in range(len(document))]
    if longest < 2 or len(places) < 3:
        raise ValueError(
            f"expected room for 2 tokens and 3 sentences, got {longest} and {len(places)}"
        )
    pairs: list[Pair] = []
    for d, document in enumerate(kept):
        i = 0
        while i < len(document) - 1:
            first, i = _take(document, i, longest // 2, leave=1)
            room = longest - len(first)
            if rng.random() < 0.5:
                second, i = _take(document, i, room)
                pairs.append((first, second, 0))
                continue
            elsewhere = (d, i)
            while elsewhere == (d, i):  # any place but the one that follows
                elsewhere = places[rng.integers(len(places))]
            second, _ = _take(kept[elsewhere[0]], elsewhere[1], room)
            pairs.append((first, second, 1))
    return pairs


def _take(
    document: Sequence[Sequence[int]], i: int, room: int, leave: int = 0
) -> tuple[list[int], int]:
    """Sentences from the i-th on until ``room`` is full, and which comes next; cut to the room.

    At least one sentence is taken, and the last ``leave`` are left.
    """
    taken = list(document[i])
    i += 1
    while i < len(document) - leave and len(taken) < room:
        taken += document[i]
        i += 1
    return taken[:room], i


def pack_pairs(
    documents: Sequence[Sequence[str]],
    tokenizer: WordPiece,
    longest: int,
    rng: np.random.Generator,
) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """The pairs of :func:`next_sentence_pairs`, packed: (tokens, segments) of each, and labels.

    Args:
        documents: each a list of sentences, as text.
        longest: tokens of a row, special ones included.
    """
    numbers = [[tokenizer.encode(sentence) for sentence in document] for document in documents]
    pairs = next_sentence_pairs(numbers, longest - 3, rng)
    return [tokenizer.pack(a, b) for a, b, _ in pairs], [label for _, _, label in pairs]
