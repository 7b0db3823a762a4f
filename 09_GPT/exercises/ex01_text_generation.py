"""Exercise: a text that does not repeat itself: min-p sampling and a penalty for repetition.

Min-p: M. N. Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024, arXiv:2407.01082. The
penalty: N. S. Keskar et al., "CTRL", 2019, arXiv:1909.05858, section 4.1. Sizes: V tokens, T so
far.
"""

import numpy as np

import utils  # noqa: F401  (puts the chapters on the import path)


def penalise(logits, written, penalty):
    """Make every token that was written already less likely.

    Args:
        logits: (V,). written: (T,) tokens. penalty: 1 changes nothing, larger ones more.

    Returns:
        new logits (V,); the array given stays as it is.
    """
    # TODO: divide a positive logit by the penalty, multiply a negative one; each once
    raise NotImplementedError(
        "divide a positive logit by the penalty, multiply a negative one; each once"
    )


def keep_min_p(p, min_p):
    """Drop the tokens that have less than ``min_p`` times the largest probability.

    Args:
        p: (V,), sums to 1. min_p: 0 keeps all, 1 the most probable alone.

    Returns:
        (V,), sums to 1.
    """
    # TODO: the limit depends on the largest probability
    raise NotImplementedError("the limit depends on the largest probability")


def write(model, tokens, count, rng, temperature=1.0, min_p=0.0, penalty=1.0, stop=None):
    """Go on after ``tokens`` (T,), drawing each token, up to ``count`` of them or to ``stop``.

    The penalty comes first, then the temperature, then min-p. The model sees the last
    ``model.config.context`` tokens; the penalty looks at all.

    Returns:
        (T + n,), n up to ``count``; ``stop`` is the last token if it was drawn.
    """
    for _ in range(count):
        # TODO: logits of the next token, the three rules, a draw (rng.choice)
        raise NotImplementedError("logits of the next token, the three rules, a draw (rng.choice)")
        tokens = np.append(tokens, token)
        if token == stop:
            break
    return tokens
