"""Texts as documents of sentences, and as packed rows of tokens: what BERT is trained on.

:func:`load_documents` gives a registered set as documents, for pre-training; :class:`PackedTexts`
is the data set of rows that a tokenizer packed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils import data_loaders
from utils.translation_data import pad

NAMES = ("python-docs", "reviews", "imdb")
# After a full stop and white space, or at an empty line, a new sentence begins.
_BREAK = re.compile(r"(?<=[.!?])\s+|\n\s*\n")

DocumentList = list[list[str]]


@dataclass(frozen=True, eq=False)
class Documents:
    """Texts in two parts, each a list of documents, a document being a list of sentences."""

    train: DocumentList
    test: DocumentList


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, as far as its marks show them; HTML line breaks are dropped."""
    plain = text.replace("<br />", " ")
    return [" ".join(part.split()) for part in _BREAK.split(plain) if part.strip()]


def load_documents(name: str, data_dir: str | Path | None = None, *, seed: int = 0) -> Documents:
    """A registered set of texts, to be read without labels.

    Args:
        name: python-docs (two documents: the first nine tenths of it, and the rest), or reviews or
            imdb (a document for each review).
        data_dir, seed: as for :func:`utils.data_loaders.load_arrays`.

    Raises:
        ValueError: another name.
        DatasetMissing: it has to be downloaded first.
    """
    if name not in NAMES:
        raise ValueError(f"expected documents of {', '.join(NAMES)}; got {name!r}")
    if name == "python-docs":
        from utils.text_data import load_corpus

        corpus = load_corpus(name, data_dir)
        parts = [[corpus.decode(part)] for part in (corpus.train, corpus.test)]
    else:
        data = data_loaders.load_arrays(name, data_dir, seed=seed)
        parts = [list(data.x_train), list(data.x_test)]
    return Documents(*([split_sentences(text) for text in part] for part in parts))


class PackedTexts(data_loaders.ArrayDataset):
    """A torch data set of packed texts with a label each; a batch is cut to its longest text.

    Args:
        rows: (tokens, segments) of each text. labels: one of each.
        pad_id: the token of padding.

    Attributes:
        tokens, segments: (N, T) int64, padded with ``pad_id`` and 0. labels: (N,) int64.
        lengths: (N,) tokens; :meth:`utils.runs.Run.batches` puts like with like.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Sequence[int], Sequence[int]]],
        labels: Sequence[int],
        pad_id: int = 0,
    ) -> None:
        self.tokens = pad([tokens for tokens, _ in rows], pad_id)
        self.segments = pad([segments for _, segments in rows])
        self.labels = np.asarray(labels, dtype=np.int64)
        self.lengths = np.array([len(tokens) for tokens, _ in rows])
        super().__init__(self.tokens, self.segments, self.labels)

    def arrays(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The batch of these texts: tokens and segments (B, T), labels (B,)."""
        T = self.lengths[index].max()
        return self.tokens[index, :T], self.segments[index, :T], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> "tuple[torch.Tensor, ...]":
        """The same as tensors."""
        tokens, segments, labels = self.arrays(np.asarray(indices))
        return torch.from_numpy(tokens), torch.from_numpy(segments), torch.from_numpy(labels)
