"""Searching for a good output sentence in NumPy (level 1): greedy search and beam search.

Papers:
- A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 6.1: beams of 4, a
  length penalty of 0.6, outputs at most 50 symbols longer than the source.
- Y. Wu et al., "Google's Neural Machine Translation System", 2016, arXiv:1609.08144, equation (14):
  the length penalty.

Map of this file:
    length_penalty
    greedy_search    the most probable symbol, one after the other
    beam_search      several beginnings at a time

Both know nothing of the model but a function ``log_probs(beginnings, rows)``, such as
``Transformer.predictor`` gives: it takes N beginnings (N, T) of ints, with the sentence (N,) that
each belongs to, and returns the log-probabilities (N, V) of the next symbol.

Shapes: N beginnings, T their length, V vocabulary.

Read before: transformer_numpy.py; 07_Transformer/theory.md, section 14.

Deviations from the paper: it does not say when the search ends, only "early when possible"; here it
ends when no unfinished beginning can win any more. The penalty counts the end symbol too.
"""

from collections.abc import Callable

import numpy as np

LogProbs = Callable[[np.ndarray, np.ndarray], np.ndarray]


def length_penalty(length: int, alpha: float = 0.6) -> float:
    """What the log-probability of ``length`` symbols is divided by (eq. 7.59)."""
    return ((5 + length) / 6) ** alpha


def greedy_search(
    log_probs: LogProbs, sentences: int, limit: int, bos_id: int, eos_id: int
) -> list[list[int]]:
    """The most probable next symbol, again and again (eq. 7.58), for rows 0 to ``sentences`` - 1.

    Args:
        limit: symbols at most, the end symbol included.

    Returns:
        the sentences, without begin and end.
    """
    found = np.full((sentences, 1), bos_id)
    ended = np.zeros(sentences, dtype=bool)
    for _ in range(limit):
        symbols = log_probs(found, np.arange(sentences)).argmax(axis=-1)  # eq. 7.58
        found = np.concatenate([found, symbols[:, None]], axis=1)  # (N, T) -> (N, T + 1)
        ended |= symbols == eos_id
        if ended.all():
            break
    return [_cut(tokens, eos_id) for tokens in found.tolist()]


def beam_search(
    log_probs: LogProbs,
    sentences: int,
    limit: int,
    bos_id: int,
    eos_id: int,
    beam: int = 4,
    alpha: float = 0.6,
) -> list[tuple[list[int], float]]:
    """The best sentence that ``beam`` beginnings at a time lead to, for each row.

    Args:
        limit: symbols at most, the end symbol included; what is unfinished then counts as it is.
        alpha: strength of the length penalty; 0 compares plain log-probabilities.

    Returns:
        for each row the sentence, without begin and end, and its score (eq. 7.60).

    Raises:
        ValueError: no beam, or a negative penalty.
    """
    if beam < 1 or alpha < 0:
        raise ValueError(
            f"expected beam of at least 1 and alpha of at least 0, got {beam}, {alpha}"
        )
    return [
        _search_one(log_probs, row, limit, bos_id, eos_id, beam, alpha) for row in range(sentences)
    ]


def _search_one(
    log_probs: LogProbs, row: int, limit: int, bos_id: int, eos_id: int, beam: int, alpha: float
) -> tuple[list[int], float]:
    alive = [([bos_id], 0.0)]  # beginnings and their log-probabilities, the best one first
    best, best_score = [bos_id], -np.inf
    for length in range(1, limit + 1):
        beginnings = np.array([tokens for tokens, _ in alive])
        so_far = np.array([log_p for _, log_p in alive])
        total = so_far[:, None] + log_probs(beginnings, np.full(len(alive), row))  # (n, V)
        # Each beginning can end in one way, so of twice as many as needed enough will go on.
        order = np.argsort(-total, axis=None, kind="stable")[: 2 * beam]
        going_on = []
        for i, symbol in zip(*np.unravel_index(order, total.shape), strict=True):
            tokens, log_p = [*alive[i][0], int(symbol)], float(total[i, symbol])
            if log_p == -np.inf:
                break
            if symbol != eos_id and length < limit:
                going_on.append((tokens, log_p))
            elif log_p / length_penalty(length, alpha) > best_score:
                best, best_score = tokens, log_p / length_penalty(length, alpha)  # eq. 7.60
        alive = going_on[:beam]
        # Log-probabilities only fall, and the largest divisor is that of the limit (eq. 7.61).
        if not alive or alive[0][1] / length_penalty(limit, alpha) <= best_score:
            break
    return _cut(best, eos_id), best_score


def _cut(tokens: list[int], eos_id: int) -> list[int]:
    """What stands between the first symbol and the first ``eos_id``, or the end."""
    tokens = tokens[1:]
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens
