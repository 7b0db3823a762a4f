"""Writing with a GPT (level 3): greedy, temperature, top-k, top-p; with a cache.

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

Read before: gpt_paper.py; 09_GPT/numpy/gpt_sampling_numpy.py; 09_GPT/theory.md, sections 9 and 10.

Deviations from the paper: none.
"""

import torch
from torch import Tensor, nn


def next_distribution(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Probabilities (B, V) of logits (B, V): temperature, then top-k, top-p (eqs. 9.35 to 9.37).

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
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    p = logits.softmax(dim=-1)
    if top_p < 1:
        ranked, order = p.sort(dim=-1, descending=True, stable=True)
        # A token goes if those before it have the share already; the first one never does.
        ranked = ranked.masked_fill(ranked.cumsum(dim=-1) - ranked >= top_p, 0)
        p = torch.zeros_like(p).scatter(-1, order, ranked)
        p = p / p.sum(dim=-1, keepdim=True)
    return p


def pick(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token (B,) for each row of logits (B, V); temperature 0 takes the most probable."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    p = next_distribution(logits, temperature, top_k, top_p)
    # Drawn on the CPU, so that a seed gives the same text on every device.
    return torch.multinomial(p.cpu(), 1, generator=generator)[:, 0].to(logits.device)


@torch.inference_mode()
def generate(
    model: nn.Module,
    tokens: Tensor,
    count: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    stop: int | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Go on after ``tokens`` (B, T) by ``count`` tokens: (B, T + count), or fewer with ``stop``.

    The model sees the last ``context`` tokens at most. With positions that are learnt, a window
    that moves on changes every key; so the cache serves until the context is full, and from then on
    the window is computed anew for each token.

    Args:
        model: a GPT of gpt_paper.py. temperature: 0 = greedy.
        stop: a token at which to end, when every sequence has had it.
        use_cache: False computes everything anew for each token; the logits are the same.

    Raises:
        ValueError: nothing to go on from.
    """
    B, T = tokens.shape
    if not T:
        raise ValueError("expected at least one token to go on from, got none")
    was_training = model.training
    model.eval()
    context = model.config.context
    cache = model.empty_cache(B) if use_cache and context >= T else None
    ended = torch.zeros(B, dtype=torch.bool, device=tokens.device)
    new = tokens
    for _ in range(count):
        if cache is not None and cache.length + new.shape[1] > context:
            cache = None
        logits = model(new, cache) if cache is not None else model(tokens[:, -context:])
        new = pick(logits[:, -1], temperature, top_k, top_p, generator)[:, None]
        tokens = torch.cat([tokens, new], dim=1)  # (B, T) -> (B, T + 1)
        if stop is not None:
            ended |= new[:, 0] == stop
            if ended.all():
                break
    model.train(was_training)
    return tokens
