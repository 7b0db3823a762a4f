"""Searching for good translations (level 3): greedy search and beam search, many at a time.

Papers: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 6.1: beams
of 4, a length penalty of 0.6, outputs at most 50 symbols longer than the source; Y. Wu et al.,
"Google's Neural Machine Translation System", 2016, arXiv:1609.08144, equation (14).

Map of this file:
    length_penalty
    greedy_search    the most probable symbol, one after the other
    beam_search      several beginnings of every sentence at a time

Both know nothing of the model but a function ``log_probs(beginnings, rows)``, such as
``Transformer.predictor`` gives.

Shapes: B sentences, N = B * beam beginnings, T their length, V vocabulary.

Read before: 07_Transformer/numpy/decoding_numpy.py, which takes one sentence at a time;
07_Transformer/theory.md, section 14.

Deviations from the paper: it does not say when the search ends, only "early when possible"; here it
ends when no unfinished beginning can win any more. The penalty counts the end symbol too.
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
        symbols = log_probs(found, rows).argmax(dim=-1)
        found = torch.cat([found, symbols[:, None]], dim=1)  # (B, T) -> (B, T + 1)
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
    B = sentences
    rows = torch.arange(B, device=device).repeat_interleave(beam)  # (N,)
    alive = torch.full((B, beam, 1), bos_id, device=device)  # (B, beam, T)
    # All beginnings are equal at first, so all but one must not count.
    so_far = torch.full((B, beam), -math.inf, device=device)
    so_far[:, 0] = 0.0
    best = [[bos_id]] * B
    best_score = torch.full((B,), -math.inf, device=device)
    for length in range(1, limit + 1):
        total = so_far[..., None] + log_probs(alive.flatten(0, 1), rows).unflatten(0, (B, beam))
        # Each beginning can end in one way, so of twice as many as needed enough will go on.
        values, order = total.flatten(1).topk(2 * beam, dim=1)  # (B, beam, V) -> (B, 2 beam)
        which, symbols = order // total.shape[2], order % total.shape[2]
        before = alive.gather(1, which[..., None].expand(-1, -1, alive.shape[2]))
        extended = torch.cat([before, symbols[..., None]], dim=2)  # (B, 2 beam, T + 1)
        complete = symbols == eos_id if length < limit else torch.ones_like(symbols).bool()

        scores = (values / length_penalty(length, alpha)).masked_fill(~complete, -math.inf)
        score, place = scores.max(dim=1)
        for b in (score > best_score).nonzero()[:, 0].tolist():
            best[b] = extended[b, place[b]].tolist()
        best_score = torch.maximum(score, best_score)

        so_far, going_on = values.masked_fill(complete, -math.inf).topk(beam, dim=1)
        alive = extended.gather(1, going_on[..., None].expand(-1, -1, length + 1))
        # Log-probabilities only fall, and the largest divisor is that of the limit (eq. 7.61).
        if (so_far[:, 0] / length_penalty(limit, alpha) <= best_score).all():
            break
    cut = (_cut(tokens, eos_id) for tokens in best)
    return list(zip(cut, best_score.tolist(), strict=True))


def _cut(tokens: list[int], eos_id: int) -> list[int]:
    """What stands between the first symbol and the first ``eos_id``, or the end."""
    tokens = tokens[1:]
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens
