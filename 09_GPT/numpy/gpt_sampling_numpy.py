"""Writing with a GPT in NumPy (level 1): greedy, temperature, top-k, top-p.

Papers:
- A. Radford et al., "Language Models are Unsupervised Multitask Learners", OpenAI 2019: top-k
  sampling with k = 40 (appendix 8).
- A. Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019, arXiv:1904.09751,
  section 3.1: top-p (nucleus) sampling.

Map of this file:
    next_distribution    logits to the probabilities that are drawn from
    pick                 one token for each sequence
    generate             token after token

Shapes: B sequences, T tokens, V vocabulary.

Read before: gpt_numpy.py; 09_GPT/theory.md, section 10.

Deviations from the paper: none.
"""

import numpy as np

from gpt_numpy import GPT


def next_distribution(
    logits: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> np.ndarray:
    """Probabilities (B, V) of logits (B, V): temperature, then top-k, then top-p.

    Args:
        top_k: keep so many of the most probable tokens (and any as probable as the last of them);
            0 keeps all.
        top_p: keep the fewest most probable tokens that together have this probability; 1 keeps
            all.

    Raises:
        ValueError: a value out of range.
    """
    if not (temperature > 0 and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(
            "expected temperature above 0, top_k of at least 0, top_p in (0, 1], "
            f"got {temperature}, {top_k}, {top_p}"
        )
    logits = logits / temperature  # eq. 9.35
    if 0 < top_k < logits.shape[-1]:
        least = np.sort(logits, axis=-1)[:, -top_k, None]
        logits = np.where(logits < least, -np.inf, logits)  # eq. 9.36
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-p, axis=-1, kind="stable")
        ranked = np.take_along_axis(p, order, axis=-1)
        # A token goes if those before it have the share already; the first one never does.
        ranked = np.where(ranked.cumsum(axis=-1) - ranked >= top_p, 0, ranked)  # eq. 9.37
        np.put_along_axis(p, order, ranked, axis=-1)
        p /= p.sum(axis=-1, keepdims=True)
    return p


def pick(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """One token (B,) for each row of logits (B, V); temperature 0 takes the most probable.

    Raises:
        ValueError: a draw without ``rng``.
    """
    if temperature == 0:
        return logits.argmax(axis=-1)
    if rng is None:
        raise ValueError("expected rng to draw a token, got None")
    p = next_distribution(logits.astype(np.float64), temperature, top_k, top_p)
    return np.array([rng.choice(len(row), p=row) for row in p])


def generate(
    model: GPT,
    tokens: np.ndarray,
    count: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Go on after ``tokens`` (B, T) by ``count`` tokens: (B, T + count).

    The model sees the last ``context`` tokens at most, and computes all of them anew for each
    token; what that costs, and how to save it, is exercise 2.

    Raises:
        ValueError: nothing to go on from.
    """
    if not tokens.shape[1]:
        raise ValueError("expected at least one token to go on from, got none")
    for _ in range(count):
        logits = model.forward(tokens[:, -model.config.context :])[:, -1]  # (B, V)
        new = pick(logits, temperature, top_k, top_p, rng)
        tokens = np.concatenate([tokens, new[:, None]], axis=1)  # (B, T) -> (B, T + 1)
    return tokens
