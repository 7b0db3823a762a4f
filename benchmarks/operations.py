"""The same operation in NumPy and in PyTorch: how long each takes, as a table for the guide.

    python -m benchmarks.operations            measure, and write the table into docs/02
    python -m benchmarks.operations --dry-run  measure and print

The figures go to results/operations.json. Both sides of a pair are timed in turn; the median of
the ratios counts. Each pair is checked to give the same numbers.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.run import timed
from utils import ROOT
from utils.runs import hardware, versions

PAGE = ROOT / "docs" / "02_NumPy_vs_PyTorch_Comparison.md"
FIGURES = ROOT / "results" / "operations.json"
START, END = "<!-- speed -->", "<!-- /speed -->"
ROUNDS = 9


@dataclass(frozen=True)
class Pair:
    """One operation, written in both.

    Attributes:
        what: name and sizes. in_numpy, in_torch: take the same inputs, as arrays and as tensors.
        inputs: makes the inputs, float32 unless they are indices.
    """

    what: str
    in_numpy: Callable[..., Any]
    in_torch: Callable[..., Any]
    inputs: Callable[[np.random.Generator], tuple[np.ndarray, ...]]


def _normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], tuple[np.ndarray, ...]]:
    return lambda rng: tuple(rng.standard_normal(s, dtype=np.float32) for s in shapes)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _layer_norm(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def _rows(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return rng.standard_normal((5000, 128), dtype=np.float32), rng.integers(5000, size=(32, 64))


PAIRS = (
    Pair("sum of two arrays, 4", np.add, torch.add, _normal((4,), (4,))),
    Pair("sum of two arrays, 1000×1000", np.add, torch.add, _normal((1000, 1000), (1000, 1000))),
    Pair("row added to 1000×1000", np.add, torch.add, _normal((1000, 1000), (1000,))),
    Pair(
        "sum over the rows of 1000×1000",
        lambda a: a.sum(axis=0),
        lambda t: t.sum(dim=0),
        _normal((1000, 1000)),
    ),
    Pair("matrix product, 8×8 by 8×8", np.matmul, torch.matmul, _normal((8, 8), (8, 8))),
    Pair(
        "matrix product, 512×512 by 512×512",
        np.matmul,
        torch.matmul,
        _normal((512, 512), (512, 512)),
    ),
    Pair(
        "64 products of 64×32 by 32×64",
        np.matmul,
        torch.matmul,
        _normal((64, 64, 32), (64, 32, 64)),
    ),
    Pair("exp, 1000×1000", np.exp, torch.exp, _normal((1000, 1000))),
    Pair("softmax, 1000×1000", _softmax, lambda t: t.softmax(dim=-1), _normal((1000, 1000))),
    Pair(
        "layer norm, 1000×512",
        _layer_norm,
        lambda t: F.layer_norm(t, t.shape[-1:]),
        _normal((1000, 512)),
    ),
    Pair(
        "GELU in its tanh form, 1000×512",
        _gelu,
        lambda t: F.gelu(t, approximate="tanh"),
        _normal((1000, 512)),
    ),
    Pair(
        "2048 rows of a table of 5000×128", lambda a, i: a[i], lambda t, i: F.embedding(i, t), _rows
    ),
    Pair(
        "transpose and copy, 1000×1000",
        lambda a: np.ascontiguousarray(a.T),
        lambda t: t.T.contiguous(),
        _normal((1000, 1000)),
    ),
)


def measure(pair: Pair, rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds of both, and the median of NumPy's time over PyTorch's.

    Raises:
        ValueError: the two do not give the same numbers.
    """
    arrays = pair.inputs(np.random.default_rng(0))
    tensors = [torch.from_numpy(array) for array in arrays]
    if not np.allclose(pair.in_numpy(*arrays), pair.in_torch(*tensors), rtol=1e-3, atol=1e-3):
        raise ValueError(f"{pair.what}: expected the same numbers of both")
    with torch.no_grad():
        times = [
            (timed(lambda: pair.in_numpy(*arrays)), timed(lambda: pair.in_torch(*tensors)))
            for _ in range(rounds)
        ]
    return {
        "what": pair.what,
        "numpy_s": statistics.median(a for a, _ in times),
        "torch_s": statistics.median(b for _, b in times),
        "ratio": statistics.median(a / b for a, b in times),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = ["| Operation | NumPy | PyTorch | NumPy / PyTorch |", "| --- | --- | --- | --- |"]
    for row in figures["pairs"]:
        times = [f"{1e6 * row[side]:.3g} µs" for side in ("numpy_s", "torch_s")]
        lines.append(f"| {row['what']} | {times[0]} | {times[1]} | {row['ratio']:.2g} |")
    place = figures["hardware"]
    packages = ", ".join(f"{name} {figures['versions'][name]}" for name in ("numpy", "torch"))
    return "\n".join([*lines, "", f"Measured on: {place}; {packages}."])


def filled(text: str, figures: dict[str, Any]) -> str:
    """The page with the table of these figures."""
    before, rest = text.split(START)
    return f"{before}{START}\n\n{table(figures)}\n\n{END}{rest.split(END)[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="print the table, write nothing")
    arguments = parser.parse_args(argv)
    rows = [measure(pair) for pair in PAIRS]
    threads = torch.get_num_threads()
    place = f"{hardware()}, {threads} thread{'s' if threads > 1 else ''}"
    figures = {"hardware": place, "versions": versions(), "pairs": rows}
    print(table(figures))
    if not arguments.dry_run:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
