"""Time and peak memory of our code against the production libraries, as ratios, in one run.

    python -m benchmarks.run              every case
    python -m benchmarks.run --only conv  the cases whose name contains "conv"
    python -m benchmarks.run --json FILE  write the figures as well

Both sides of a case are timed in turn, in one process on one machine, and the median of the ratios
counts: whatever else the machine is doing slows both. Memory is the peak of a fresh process that
sets the case up and runs it, above what it had before. Exits with status 1 if a ratio misses its
target.
"""

import argparse
import importlib
import json
import pkgutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.benchmark import Timer

import benchmarks
import utils
from benchmarks.case import Case, Work
from utils.runs import hardware, versions

SECONDS_PER_TIMING = 0.2


def find_cases() -> list[Case]:
    """The cases of all modules in this folder."""
    modules = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    cases: list[Case] = []
    for name in modules:
        if name not in ("run", "case", "operations"):
            cases += importlib.import_module(f"benchmarks.{name}").CASES
    return cases


def timed(work: Work) -> float:
    """Seconds of one call of ``work``, median of as many calls as fit."""
    # Timer sets torch's threads to one by default; here both sides get all cores.
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=SECONDS_PER_TIMING).median


def compare(case: Case) -> dict[str, float]:
    """Median seconds of both sides, and the median of the ratios of neighbouring timings."""
    ours, reference = case.ours(), case.reference()
    ours(), reference()  # the first call fills caches and starts threads
    pairs = [(timed(ours), timed(reference)) for _ in range(case.rounds)]
    return {
        "ours_s": statistics.median(a for a, _ in pairs),
        "reference_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def _status_mib(field: str) -> float | None:
    """A figure of this process's memory in MiB, on Linux."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return None


def peak_of_this_process(setup: Callable[[], Work]) -> float | None:
    """MiB that setting up and three calls take at their peak; None if the system can't tell.

    Only Linux lets a process forget its peak so far.
    """
    # A first product loads the libraries' kernels, which are no part of the work.
    np.ones((64, 64)) @ np.ones((64, 64))
    tensor = torch.ones(64, 64, requires_grad=True)
    (tensor @ tensor).sum().backward()
    before = _status_mib("VmRSS")
    if before is None:
        return None
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # a container may forbid it
        return None
    work = setup()
    for _ in range(3):
        work()
    peak = _status_mib("VmHWM")
    return None if peak is None else max(0.0, peak - before)


def peak_memory(case: Case, side: str) -> float | None:
    """The same, in a process of its own, so that neither side finds memory the other left."""
    command = [sys.executable, "-m", "benchmarks.run", "--memory", case.name, side]
    result = subprocess.run(command, capture_output=True, text=True, cwd=utils.ROOT, check=True)
    return json.loads(result.stdout)


def _row(cells: Sequence[str]) -> str:
    widths = (34, 11, 11, 8, 8, 12, 12, 6)
    return "  ".join(
        c.ljust(w) if i == 0 else c.rjust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    )


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} MiB"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    cases = find_cases()
    if arguments.memory:
        name, side = arguments.memory
        (case,) = (case for case in cases if case.name == name)
        print(json.dumps(peak_of_this_process(getattr(case, side))))
        return 0
    cases = [case for case in cases if arguments.only in case.name]
    if not cases:
        parser.error(f"no case is called {arguments.only!r}")

    print(f"{hardware()}; {torch.get_num_threads()} threads")
    head = ("case", "ours", "reference", "ratio", "target", "our memory", "its memory", "")
    print(_row(head))
    rows = []
    for case in cases:
        row = compare(case) | {"target": case.target}
        row |= {f"{side}_mib": peak_memory(case, side) for side in ("ours", "reference")}
        good = row["ratio"] <= case.target
        rows.append({"case": case.name, "what": case.what, "reference": case.reference_name} | row)
        times = [f"{1000 * row[side]:.2f} ms" for side in ("ours_s", "reference_s")]
        ratios = [f"{row['ratio']:.3g}", f"{case.target:g}"]
        memory = [_mib(row["ours_mib"]), _mib(row["reference_mib"])]
        print(_row([case.name, *times, *ratios, *memory, "ok" if good else "MISSED"]), flush=True)
        print(f"    {case.what}; reference: {case.reference_name}")
    if arguments.json:
        figures = {"hardware": hardware(), "versions": versions(), "cases": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(row["ratio"] <= row["target"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
