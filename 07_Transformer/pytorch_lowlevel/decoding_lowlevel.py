"""Searching for a good output sentence with tensors (level 2): greedy search and beam search.

Papers: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 6.1;
Y. Wu et al., "Google's Neural Machine Translation System", 2016, arXiv:1609.08144, equation (14).

Map of this file:
    length_penalty
    greedy_search    the most probable symbol, one after the other
    beam_search      several beginnings at a time

Both know nothing of the model but a function ``log_probs(beginnings, rows)``, such as
``predictor`` of transformer_lowlevel.py gives.

Shapes: N beginnings, T their length, V vocabulary.

Read before: 07_Transformer/numpy/decoding_numpy.py; 07_Transformer/theory.md, section 14.

Deviations from the paper: as at level 1 (when the search ends; the penalty counts the end symbol).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

LogProbs = Callable[[Tensor, Tensor], Tensor]


def length_penalty(length: int, alpha: float = 0.6) -> float:
    """What the log-probability of ``length`` symbols is divided by (eq. 7.59)."""
    return ((5 + length) / 6) ** alpha


def greedy_search(
    log_probs: LogProbs,
    sentences: int,
    limit: int,
    bos_id: int,
    eos_id: int,
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """The most probable next symbol, again and again (eq. 7.58), for rows 0 to ``sentences`` - 1.

    Args:
        limit: symbols at most, the end symbol included.

    Returns:
        the sentences, without begin and end.
    """
    rows = torch.arange(sentences, device=device)
    found = torch.full((sentences, 1), bos_id, device=device)
    for _ in range(limit):
        symbols = log_probs(found, rows).argmax(dim=-1)  # eq. 7.58
        found = torch.cat([found, symbols[:, None]], dim=1)  # (N, T) -> (N, T + 1)
        if (found == eos_id).any(dim=1).all():
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
    device: torch.device | str = "cpu",
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
    results = []
    for row in range(sentences):
        beginnings = torch.full((1, 1), bos_id, device=device)
        so_far = torch.zeros(1, device=device)
        best, best_score = [bos_id], -math.inf
        for length in range(1, limit + 1):
            rows = torch.full((len(beginnings),), row, device=device)
            following = log_probs(beginnings, rows)
            total = so_far[:, None] + following  # (n, V)
            # Each beginning can end in one way, so of twice as many as needed enough will go on.
            values, order = total.flatten().topk(min(2 * beam, total.numel()))
            which, symbols = order // total.shape[1], order % total.shape[1]
            extended = torch.cat([beginnings[which], symbols[:, None]], dim=1)  # (2 beam, T + 1)
            complete = (symbols == eos_id) | torch.tensor(length == limit, device=device)
            scores = (values / length_penalty(length, alpha)).masked_fill(~complete, -math.inf)
            if scores.max() > best_score:  # eq. 7.60
                best, best_score = extended[scores.argmax()].tolist(), float(scores.max())
            going_on = ~complete & values.isfinite()
            beginnings, so_far = extended[going_on][:beam], values[going_on][:beam]
            # Log-probabilities only fall, and the largest divisor is the limit's (eq. 7.61).
            bound = so_far[0] / length_penalty(limit, alpha) if len(so_far) else -math.inf
            if bound <= best_score:
                break
        results.append((_cut(best, eos_id), best_score))
    return results


def _cut(tokens: list[int], eos_id: int) -> list[int]:
    """What stands between the first symbol and the first ``eos_id``, or the end."""
    tokens = tokens[1:]
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens
