"""Sequences made on the spot, with a known truth, and one form for all sequence tasks.

From section 5 of S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (8),
1997: the embedded Reber grammar (5.1), the adding problem (5.4), temporal order (5.6, task 6a).
:mod:`utils.data_loaders` registers them under a name.

:func:`load_task` gives any registered sequence set, texts included, as a :class:`Task`, which is
what the training scripts work with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Sequences = tuple[np.ndarray, np.ndarray, np.ndarray]  # x (N, T, ...), lengths (N,), y

# --- embedded Reber grammar

REBER_SYMBOLS = ("B", "T", "S", "X", "P", "V", "E")
# A node's ways out: symbol -> next node. The grammar of Reber (1967), from B to E.
_REBER = (
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": 7},
)
REBER_LONGEST = 60  # longer strings are rarer than one in a million and are drawn again


def reber(count: int, rng: np.random.Generator, apart_from: np.ndarray | None = None) -> Sequences:
    """Strings of the embedded Reber grammar: B, T or P, a Reber string, the same T or P, E.

    The last symbol but one can be told from the second alone, which is the task: to predict at
    each step what may come next.

    Args:
        count: number of distinct strings.
        apart_from: strings (N, REBER_LONGEST) that may not occur: the training set, for a test set.

    Returns:
        x: (count, REBER_LONGEST) int64, numbers of ``REBER_SYMBOLS``, all but the last of a string,
        then padding of 0; lengths (count,); y: the next symbol for each of x, padded likewise.
    """
    known = set() if apart_from is None else {tuple(row) for row in apart_from.tolist()}
    x, y = (np.zeros((count, REBER_LONGEST), dtype=np.int64) for _ in range(2))
    lengths = np.zeros(count, dtype=np.int64)
    n = 0
    while n < count:
        symbols = _embedded_reber_string(rng)
        steps = len(symbols) - 1
        if steps > REBER_LONGEST:
            continue
        numbers = [REBER_SYMBOLS.index(s) for s in symbols]
        x[n] = y[n] = 0  # a string that came before may have left its end here
        x[n, :steps], y[n, :steps], lengths[n] = numbers[:-1], numbers[1:], steps
        if tuple(x[n].tolist()) not in known:
            known.add(tuple(x[n].tolist()))
            n += 1
    return x, lengths, y


def _embedded_reber_string(rng: np.random.Generator) -> list[str]:
    branch = "TP"[rng.integers(2)]
    inner, node = [], 0
    while node < len(_REBER):
        symbols = list(_REBER[node])
        inner.append(symbols[rng.integers(len(symbols))])
        node = _REBER[node][inner[-1]]
    return ["B", branch, *inner, branch, "E"]


def reber_legal(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Which symbols may come next, by the grammar.

    Args:
        x, lengths: strings as :func:`reber` gives them.

    Returns:
        (N, T, 7) bool; nothing is legal at padding.
    """
    legal = np.zeros((*x.shape, len(REBER_SYMBOLS)), dtype=bool)
    for n, length in enumerate(lengths):
        symbols = [REBER_SYMBOLS[i] for i in x[n, :length]]
        for t in range(length):
            for symbol in _may_follow(symbols[: t + 1]):
                legal[n, t, REBER_SYMBOLS.index(symbol)] = True
    return legal


def _may_follow(start: list[str]) -> list[str]:
    if len(start) == 1:
        return ["T", "P"]
    node = 0
    for i, symbol in enumerate(start[2:], start=2):
        node = _REBER[node][symbol]
        if node == len(_REBER):  # the inner string has ended: now the second symbol again, then E
            return [start[1]] if i == len(start) - 1 else ["E"]
    return list(_REBER[node])


# --- adding


def adding(count: int, T: int, rng: np.random.Generator) -> Sequences:
    """The adding problem: what is the sum of the two numbers that are marked?

    Each step is a pair: a number uniform in [-1, 1], and a marker: 1 at two steps, -1 at the first
    and last, 0 elsewhere. One marked step is among the first ten, the other among the first T/2 - 1
    that are not marked yet. If the first step is marked, its number is 0.

    Returns:
        x: (count, T + T // 10, 2) float32, padded with zeros; lengths (count,) from T to T + T/10;
        y: (count,) float32, 0.5 + (X1 + X2) / 4, in [0, 1].

    Raises:
        ValueError: a T in which the marked steps have no place.
    """
    if T < 20:
        raise ValueError(f"expected T of at least 20, got {T}")
    longest = T + T // 10
    lengths = rng.integers(T, longest + 1, size=count)
    values = rng.uniform(-1, 1, size=(count, longest))
    markers = np.zeros((count, longest))
    rows = np.arange(count)
    first = rng.integers(10, size=count)
    second = rng.integers(T // 2 - 1, size=count)
    second += second >= first  # counts the unmarked steps only
    values[(first == 0) | (second == 0), 0] = 0.0
    markers[:, 0] = -1
    markers[rows, lengths - 1] = -1
    markers[rows, first] = markers[rows, second] = 1
    y = 0.5 + (values[rows, first] + values[rows, second]) / 4
    x = np.stack([values, markers], axis=2)
    x[np.arange(longest) >= lengths[:, None]] = 0
    return x.astype(np.float32), lengths.astype(np.int64), y.astype(np.float32)


# --- temporal order

ORDER_SYMBOLS = ("E", "B", "a", "b", "c", "d", "X", "Y")
ORDER_CLASSES = ("XX", "XY", "YX", "YY")


def temporal_order(count: int, rng: np.random.Generator) -> Sequences:
    """Task 6a of the paper: in which order did X and Y come, far apart among distractors?

    Strings of 100 to 110 symbols begin with E and end with B. One X or Y stands at step 10 to 20,
    another at 50 to 60 (counting from 1); all others are a, b, c or d.

    Returns:
        x: (count, 110) int64, numbers of ``ORDER_SYMBOLS``, padded with 0; lengths (count,);
        y: (count,) int64, numbers of ``ORDER_CLASSES``.
    """
    lengths = rng.integers(100, 111, size=count)
    rows = np.arange(count)
    x = rng.integers(2, 6, size=(count, 110))
    y = rng.integers(4, size=count)
    x[:, 0] = ORDER_SYMBOLS.index("E")
    x[rows, lengths - 1] = ORDER_SYMBOLS.index("B")
    x[rows, rng.integers(10, 21, size=count) - 1] = ORDER_SYMBOLS.index("X") + y // 2
    x[rows, rng.integers(50, 61, size=count) - 1] = ORDER_SYMBOLS.index("X") + y % 2
    x[np.arange(110) >= lengths[:, None]] = 0
    return x, lengths.astype(np.int64), y


# --- one form for all tasks


@dataclass(frozen=True, eq=False)
class Task:
    """A sequence task for a network that reads padded batches.

    Attributes:
        kind: "class": one label a sequence; "value": one number a sequence; "next": a label at
            every step.
        x_train, x_test: (N, T) int64 symbols, or (N, T, D) float32 vectors.
        lengths_train, lengths_test: (N,) int64, steps that are real.
        y_train, y_test: (N,) or, for "next", (N, T).
        vocabulary: V, number of symbols; 0 = the inputs are vectors.
        outputs: K, classes, or 1 for a value.
        symbols: the symbols by their number, where there is a vocabulary.
    """

    kind: Literal["class", "value", "next"]
    x_train: np.ndarray
    lengths_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    lengths_test: np.ndarray
    y_test: np.ndarray
    vocabulary: int
    outputs: int
    symbols: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        """D of the inputs that are vectors; 0 for symbols."""
        return 0 if self.vocabulary else self.x_train.shape[2]

    def batch(self, index: np.ndarray) -> Sequences:
        """Training examples ``(x, lengths, y)``, cut to the longest of them."""
        return _cut(self.x_train[index], self.lengths_train[index], self.y_train[index])

    def measure(
        self, predict: Callable[[np.ndarray, np.ndarray], np.ndarray], batch_size: int = 250
    ) -> dict[str, float]:
        """How good the outputs for the test set are.

        Args:
            predict: ``(x, lengths) -> outputs``, (B, K) or (B, T, K).

        Returns:
            ``test_accuracy``: the share of examples that are right. A class is right if its output
            is the largest; a value, if it is off by less than 0.04 (the paper's limit); a string of
            the grammar, if at every step each legal symbol is ahead of every other. For values also
            ``test_mse``, the mean squared error.
        """
        right, squares = 0.0, 0.0
        for i in range(0, len(self.x_test), batch_size):
            part = slice(i, i + batch_size)
            x, lengths, y = _cut(self.x_test[part], self.lengths_test[part], self.y_test[part])
            outputs = predict(x, lengths)
            if self.kind == "class":
                right += (outputs.argmax(axis=1) == y).sum()
            elif self.kind == "value":
                right += (np.abs(outputs[:, 0] - y) < 0.04).sum()
                squares += np.square(outputs[:, 0] - y).sum()
            else:
                legal = reber_legal(x, lengths)
                lowest = np.where(legal, outputs, np.inf).min(axis=2)
                highest = np.where(legal, -np.inf, outputs).max(axis=2)
                padding = np.arange(x.shape[1]) >= lengths[:, None]
                right += ((lowest > highest) | padding).all(axis=1).sum()
        metrics = {"test_accuracy": float(right) / len(self.x_test)}
        if self.kind == "value":
            metrics["test_mse"] = float(squares) / len(self.x_test)
        return metrics


def _cut(x: np.ndarray, lengths: np.ndarray, y: np.ndarray) -> Sequences:
    longest = lengths.max()
    return x[:, :longest], lengths, y[:, :longest] if y.ndim == 2 else y


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    *,
    seed: int = 0,
    vocabulary: int = 20_000,
    max_length: int = 400,
) -> Task:
    """A registered sequence set as a task; texts become numbers of their words.

    Args:
        name: adding, reber, temporal-order, reviews or imdb.
        data_dir, seed: as for :func:`utils.data_loaders.load_arrays`.
        vocabulary: for texts, at most so many words, the most frequent of the training texts.
        max_length: for texts, only the last so many words are read.

    Raises:
        ValueError: another name.
        DatasetMissing: it has to be downloaded first.
    """
    from utils.data_loaders import load_arrays
    from utils.text_data import Vocabulary, encode

    symbols = {"adding": (), "reber": REBER_SYMBOLS, "temporal-order": ORDER_SYMBOLS}
    if name not in symbols and name not in ("reviews", "imdb"):
        raise ValueError(
            f"expected a task of adding, reber, temporal-order, reviews, imdb; got {name!r}"
        )
    data = load_arrays(name, data_dir, seed=seed)
    if name in symbols:
        kind: Literal["class", "value", "next"] = "class"
        outputs = len(data.classes)
        if name != "temporal-order":
            kind, outputs = ("value", 1) if name == "adding" else ("next", len(REBER_SYMBOLS))
        assert data.lengths_train is not None and data.lengths_test is not None
        train, test = (data.x_train, data.lengths_train), (data.x_test, data.lengths_test)
        words = symbols[name]
    else:
        kind, outputs = "class", len(data.classes)
        table = Vocabulary.of_texts(data.x_train, vocabulary)
        train = encode(data.x_train, table, max_length)
        test = encode(data.x_test, table, max_length)
        words = table.words
    return Task(
        kind, *train, data.y_train, *test, data.y_test, len(words), outputs, tuple(words)
    )  # fmt: skip
