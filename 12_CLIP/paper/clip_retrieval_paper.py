"""Using CLIP (level 3): classifiers made of words, and how often the right one is found.

Paper: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020, sections 3.1.2 (zero-shot), 3.1.4 (prompts) and Table 13 (retrieval). Recall
at K: M. Hodosh, P. Young, J. Hockenmaier, "Framing Image Description as a Ranking Task", 2013.

Map of this file:
    TEMPLATES, fill           "a photo of a {}." and others, with a class's name
    class_vectors             a classifier from prompts
    zero_shot_probabilities   what an image shows
    recall_at                 R@1, R@5, R@10 with several right answers

Shapes: N images, M texts, K classes; E width of the common space.

Read before: clip_paper.py; 12_CLIP/theory.md, sections 9 and 10.

Deviations from the paper: seven templates instead of its eighty for ImageNet.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPLATES = (
    "a photo of a {}.",
    "a bad photo of a {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
    "a cropped photo of a {}.",
    "a drawing of a {}.",
    "a {} in a picture.",
)


def fill(templates: Sequence[str], names: Sequence[str]) -> list[str]:
    """Every template with every name: those of the first name first.

    Raises:
        ValueError: no names, no templates, or a template without {}.
    """
    if not names or not templates:
        raise ValueError("expected at least one class name and one template, got none")
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong:
        raise ValueError(f"expected one {{}} in each template, got {wrong[0]!r}")
    return [template.replace("{}", name) for name in names for template in templates]


def class_vectors(
    encode: Callable[[list[str]], Tensor], names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """One vector of length 1 for each class (eqs. 12.31 and 12.32): (K, E).

    Args:
        encode: texts to vectors of length 1, (M, E).
    """
    vectors = encode(fill(templates, names)).unflatten(0, (len(names), len(templates)))
    return F.normalize(vectors.mean(dim=1), dim=-1)  # (K, templates, E) -> (K, E)


def zero_shot_probabilities(images: Tensor, classes: Tensor, scale: Tensor | float) -> Tensor:
    """Softmax over the classes of the scaled cosines: (N, E) and (K, E) -> (N, K)."""
    return (scale * images @ classes.T).softmax(dim=-1)


def recall_at(
    scores: Tensor, positives: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Share of the questions with a right answer among the k best (eq. 12.34), for each of ``ks``.

    Args:
        scores: (N, M), of every answer to every question; the transpose asks the other way.
        positives: bool (N, M), which answers are right: one or more in each row.
        ks: numbers of answers that count; one above M counts as M.

    Ties: of equal answers any could come first, so a right one counts with the chance that it is
    among the k best. A model that gives all answers one score gets what guessing gets.

    Raises:
        ValueError: shapes that differ, a question without a right answer, or a k below 1.
    """
    if scores.ndim != 2 or scores.shape != positives.shape or 0 in scores.shape:
        raise ValueError(
            "expected scores (N, M) and positives of the same shape, got "
            f"{tuple(scores.shape)} and {tuple(positives.shape)}"
        )
    if not positives.any(dim=1).all():
        question = int((~positives.any(dim=1)).nonzero()[0])
        raise ValueError(f"expected a right answer to each question, got none to {question}")
    if any(k < 1 for k in ks):
        raise ValueError(f"expected K of at least 1, got {tuple(ks)}")
    if not torch.isfinite(scores).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    best = scores.masked_fill(~positives, -torch.inf).amax(dim=1, keepdim=True)
    better = (scores > best).sum(dim=1)  # wrong answers that surely come first
    tied = (scores == best).sum(dim=1)
    right = ((scores == best) & positives).sum(dim=1)
    found = {}
    for k in ks:
        free = (k - better).clamp(min=0).minimum(tied)  # places left for those that are tied
        missed = torch.ones(len(scores), dtype=torch.float64)
        for i in range(int(free.max())):
            # Draw without putting back: the chance that draw i too is a wrong one.
            left = (tied - i).clamp(min=1)
            wrong = (tied - right - i).clamp(min=0)
            missed = torch.where((i < free).cpu(), missed * (wrong / left).cpu(), missed)
        found[k] = float((1 - missed).mean())
    return found
