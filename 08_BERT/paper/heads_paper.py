"""What is put on BERT's encoder (level 3): the heads of pre-training and of fine-tuning.

Paper: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, arXiv:1810.04805: section 3.1 (pre-training),
section 4 and Figure 4 (fine-tuning).

Map of this file:
    MaskedLMHead                     which token was here?
    BertForPreTraining               that, and: did the second segment follow the first?
    BertForTokenClassification       a class for every token
    BertForSequenceClassification    a class for a text or a pair of texts
    BertForQuestionAnswering         where an answer begins and ends
    span_loss, best_span             for question answering

Each takes the encoder, a ``BertModel`` of bert_paper.py, and keeps it as ``bert``. The names of the
state are those of transformers' classes of the same names.

Shapes: B batch, T tokens, D width, V vocabulary, K classes, R chosen tokens.

Read before: bert_paper.py; 08_BERT/theory.md, sections 3, 4 and 6.

Deviations from the paper: no class for choosing among endings (section 4.4), which is
BertForSequenceClassification with K = 1 on each ending and a softmax over them; and no "has no
answer" for questions (section 4.3).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A fresh linear layer: weights N(0, 0.02²), biases 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def _with_pooler(bert: nn.Module) -> nn.Module:
    if bert.pooler is None:
        raise ValueError("expected an encoder with a pooler, got one without")
    return bert


class MaskedLMHead(nn.Module):
    """A layer, a norm, and the table of the tokens as output layer (eqs. 8.6 and 8.7)."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        D = bert.config.width
        norm = nn.LayerNorm(D, eps=bert.config.eps)
        self.transform = nn.ModuleDict({"dense": _linear(D, D), "LayerNorm": norm})
        self.bias = nn.Parameter(torch.zeros(bert.config.vocabulary))
        self.activation = bert.activation

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(..., D) and the table (V, D) -> logits (..., V)."""
        h = self.transform["LayerNorm"](self.activation(self.transform["dense"](x)))
        return h @ table.T + self.bias


class BertForPreTraining(nn.Module):
    """Section 3.1: which token was here, and did the second segment follow the first?"""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = _with_pooler(bert)
        nsp = _linear(bert.config.width, 2)
        self.cls = nn.ModuleDict({"predictions": MaskedLMHead(bert), "seq_relationship": nsp})

    def forward(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of the tokens (B, T, V) and of "follows", "does not follow" (B, 2).

        With ``chosen`` (B, T) bool, logits (R, V) of those tokens alone, row by row: the loss asks
        for no others, and they cost V·D multiplications each.
        """
        x, pooled = self.bert(tokens, segments, mask)
        x = x if chosen is None else x[chosen]
        logits = self.cls["predictions"](x, self.bert.embeddings.word_embeddings.weight)
        return logits, self.cls["seq_relationship"](pooled)


class BertForTokenClassification(nn.Module):
    """A linear layer on every token: K classes, such as names or parts of speech."""

    def __init__(self, bert: nn.Module, classes: int = 2) -> None:
        super().__init__()
        self.bert = bert
        self.dropout = nn.Dropout(bert.config.dropout)
        self.classifier = _linear(bert.config.width, classes)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Arguments as of ``bert``; logits (B, T, K)."""
        return self.classifier(self.dropout(self.bert(*inputs)[0]))


class BertForSequenceClassification(nn.Module):
    """A linear layer on the pooled vector: K classes for a text, or for a pair of texts."""

    def __init__(self, bert: nn.Module, classes: int = 2) -> None:
        super().__init__()
        self.bert = _with_pooler(bert)
        self.dropout = nn.Dropout(bert.config.dropout)
        self.classifier = _linear(bert.config.width, classes)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Arguments as of ``bert``; logits (B, K) (eq. 8.10)."""
        return self.classifier(self.dropout(self.bert(*inputs)[1]))


class BertForQuestionAnswering(nn.Module):
    """Two numbers for every token: does the answer begin here, does it end here (eq. 8.13)?"""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert
        self.qa_outputs = _linear(bert.config.width, 2)

    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Arguments as of ``bert``; logits of beginning and end, (B, T) each."""
        start, end = self.qa_outputs(self.bert(*inputs)[0]).unbind(dim=-1)  # (B, T, 2)
        return start, end


# --- question answering


def span_loss(start: Tensor, end: Tensor, spans: Tensor) -> Tensor:
    """Mean cross-entropy of the two ends (eq. 8.14): logits (B, T) each, spans (B, 2) ints."""
    return (F.cross_entropy(start, spans[:, 0]) + F.cross_entropy(end, spans[:, 1])) / 2


def best_span(start: Tensor, end: Tensor, allowed: Tensor, longest: int = 30) -> Tensor:
    """The span i..j with i <= j and the largest start_i + end_j (eq. 8.15): (B, 2) ints.

    Args:
        start, end: logits (B, T). allowed: (B, T) bool, the tokens that may belong to an answer.
        longest: tokens of an answer at most.

    Raises:
        ValueError: a text without an allowed token.
    """
    if not allowed.any(dim=1).all():
        raise ValueError("expected an allowed token in every text, got a text without one")
    T = start.shape[1]
    scores = start[:, :, None] + end[:, None, :]  # (B, T) and (B, T) -> (B, T, T)
    i, j = torch.arange(T, device=start.device)[:, None], torch.arange(T, device=start.device)
    possible = (i <= j) & (j < i + longest) & allowed[:, :, None] & allowed[:, None, :]
    best = scores.masked_fill(~possible, -math.inf).flatten(1).argmax(dim=1)
    return torch.stack([best // T, best % T], dim=1)
