"""CLIP's losses and optimiser (level 3), in one process or in several.

Papers:
- A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
  arXiv:2103.00020, section 2.5 and Fig. 3.
- X. Zhai, B. Mustafa, A. Kolesnikov, L. Beyer, "Sigmoid Loss for Language Image Pre-Training",
  2023, arXiv:2303.15343, section 3: the pairwise loss.

Map of this file:
    Gather             the vectors of all processes, and their gradients back
    contrastive_loss   symmetric cross-entropy
    sigmoid_loss       every pair on its own
    paper_optimizer    AdamW, without decay on gains, biases and the temperature

Shapes: B pairs in this process, N in all; E width of the common space.

Read before: clip_paper.py; 12_CLIP/theory.md, sections 5 to 8.

Deviations from the paper: none known.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def _processes() -> int:
    # A torch that was built without torch.distributed lacks the function.
    together = getattr(dist, "is_initialized", bool)()
    return dist.get_world_size() if together else 1


class Gather(torch.autograd.Function):
    """The rows of all processes, in the order of their ranks: (B, E) -> (N, E) (eq. 12.33).

    Backward, a row collects the gradients of all processes that looked at it. The processes may
    have different numbers of rows.
    """

    @staticmethod
    def forward(ctx, x: Tensor, sizes: list[int]) -> Tensor:  # type: ignore[no-untyped-def, override]
        """``sizes`` are the numbers of rows by rank."""
        rank = dist.get_rank()
        ctx.start, ctx.count = sum(sizes[:rank]), len(x)
        # All processes must send equally much: pad, and cut again.
        padded = F.pad(x.detach(), (0, 0, 0, max(sizes) - len(x))).contiguous()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def, override]
        """(N, E) -> (B, E)."""
        dy = dy.contiguous().clone()
        dist.all_reduce(dy)
        return dy[ctx.start : ctx.start + ctx.count], None


def gathered(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, int]:
    """Image and text vectors (N, E) of all processes, and how many rows come before ours."""
    if _processes() == 1:
        return image, text, 0
    count = torch.tensor([len(image)], device=image.device)
    counts = [torch.zeros_like(count) for _ in range(_processes())]
    dist.all_gather(counts, count)
    sizes = [int(n) for n in counts]
    start = sum(sizes[: dist.get_rank()])
    return Gather.apply(image, sizes), Gather.apply(text, sizes), start


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Which text belongs to an image, and which image to a text? (eqs. 12.12 to 12.14)

    Args:
        image, text: (B, E), vectors of length 1; row i of one belongs to row i of the other.
        scale: what the cosines are multiplied by.

    Returns:
        mean over the B pairs. In several processes the others' vectors are candidates too; the
        mean over the processes, weighted by B, is the loss of the whole batch.

    Raises:
        ValueError: shapes that differ.
    """
    _check(image, text)
    images, texts, start = gathered(image, text)
    labels = torch.arange(start, start + len(image), device=image.device)
    of_image = F.cross_entropy(scale * image @ texts.T, labels)  # (B, N)
    of_text = F.cross_entropy(scale * text @ images.T, labels)
    return (of_image + of_text) / 2


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Does this text belong to this image? Asked of every pair by itself (eq. 12.28).

    Args:
        bias: added to all logits; -10 at first, since nearly all pairs do not belong together.

    Returns:
        sum over the texts, mean over the B images.

    Raises:
        ValueError: shapes that differ.
    """
    _check(image, text)
    _, texts, start = gathered(image, text)
    logits = scale * image @ texts.T + bias  # (B, N)
    signs = -torch.ones_like(logits)
    rows = torch.arange(len(image), device=image.device)
    signs[rows, rows + start] = 1
    return -F.logsigmoid(signs * logits).sum() / len(image)


def _check(image: Tensor, text: Tensor) -> None:
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(
            f"expected images and texts (B, E) alike, got {tuple(image.shape)} and "
            f"{tuple(text.shape)}"
        )


def paper_optimizer(
    model: nn.Module, lr: float = 5e-4, weight_decay: float = 0.2, beta2: float = 0.98
) -> torch.optim.AdamW:
    """AdamW with β of 0.9 and 0.98 and ε of 1e-6, those of the ViTs (Table 18).

    Weight decay is on matrices, kernels and tables; gains, biases, the class token and the
    temperature, all with fewer than two axes, have none ("all weights that are not gains or
    biases", section 2.5).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr, betas=(0.9, beta2), eps=1e-6)
