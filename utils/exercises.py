"""Exercises: stubs made from solutions, tests that diagnose, progress at a glance.

For learners::

    python -m utils.exercises                 your progress, chapter by chapter
    python -m utils.exercises check 02/ex01   judge your file
    python -m utils.exercises hint 02/ex01    the first hint; add 2 or 3 for more help
    python -m utils.exercises reset 02/ex01   start again (your version is kept beside it)

For maintainers: ``python -m utils.exercises sync`` writes every stub from its solution, and
``sync --check`` only says which stubs have fallen behind.

An exercise is a solution ``NN_Name/exercises/solutions/exNN_topic.py``. Its stub
``exercises/exNN_topic.py`` is generated, its page is ``exercises/NN_topic.md``, and its tests stand
in ``exercises/test_exercises.py``. What the learner writes is marked in the solution::

    # --- your code: compute dx from dy and the cache (eq. 2.9)
    ...
    # --- end

In ``test_exercises.py``, ``ex01 = exercise(__file__, "ex01_topic")`` makes a fixture that runs each
test twice: on the learner's file and on the solution. This module is also the pytest plugin that
turns "not started" into a skipped test; the root ``conftest.py`` registers it.
"""

import argparse
import difflib
import functools
import linecache
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from utils import ROOT, chapters

WIDTH = 100
SIDES = ("yours", "solution")

# Settings of a pytest run, passed through the environment so that xdist's workers see them too.
ONLY_VARIABLE = "EXERCISES_ONLY"  # comma-separated labels: judge the learner's side of these only
FOLDER_VARIABLE = "EXERCISES_FOLDER"  # take the learner's files from FOLDER/<chapter>/ instead

_START = re.compile(r"^(?P<indent>\s*)# --- your code: (?P<task>.+?)\s*$")
_LOOSE_START = re.compile(r"^\s*#\s*-+\s*your code\b", re.IGNORECASE)
_RAISE = "raise NotImplementedError("
_END = re.compile(r"^\s*# --- end\s*$")
_HINT = re.compile(
    r"<details>\s*<summary>\s*Hint\s*(\d+)[^<]*</summary>(.*?)</details>", re.DOTALL | re.IGNORECASE
)


# ------------------------------------------------------------------------------------ discovery
@dataclass(frozen=True)
class Exercise:
    """One exercise: a chapter folder and a name such as ``ex01_add_dropout``."""

    chapter: Path
    name: str

    @property
    def folder(self) -> Path:
        """The chapter's ``exercises`` folder."""
        return self.chapter / "exercises"

    @property
    def solution(self) -> Path:
        """The solution, from which the stub is made."""
        return self.folder / "solutions" / f"{self.name}.py"

    @property
    def stub(self) -> Path:
        """The learner's file."""
        return self.folder / f"{self.name}.py"

    @property
    def page(self) -> Path:
        """The page that states the exercise (``01_add_dropout.md``)."""
        return self.folder / f"{self.name.removeprefix('ex')}.md"

    @property
    def tests(self) -> Path:
        """The file of tests, one for the whole chapter."""
        return self.folder / "test_exercises.py"

    @property
    def topic(self) -> str:
        """The name without its number: ``add_dropout``."""
        return self.name.split("_", 1)[1]

    @property
    def label(self) -> str:
        """The full name, ``02_MLP/ex01_add_dropout``."""
        return f"{self.chapter.name}/{self.name}"

    @property
    def short(self) -> str:
        """What one types: ``02/ex01``."""
        return f"{self.chapter.name[:2]}/{self.name[:4]}"

    def generated(self) -> str:
        """The stub as the solution gives it."""
        return make_stub(self.solution.read_text(encoding="utf-8"), str(self.solution))


def find_exercises(root: Path = ROOT) -> list[Exercise]:
    """Every exercise of every chapter, in order."""
    return [
        Exercise(chapter, path.stem)
        for chapter in chapters(root)
        for path in sorted(chapter.glob("exercises/solutions/ex[0-9][0-9]_*.py"))
    ]


def find_exercise(name: str, root: Path = ROOT) -> Exercise:
    """The exercise called ``02/ex01``, ``02_MLP/ex01_topic``, ``ex01_topic``, ``topic`` or a path.

    Raises:
        ValueError: if no exercise, or several, have that name; the message lists what there is.
    """
    everything = find_exercises(root)
    if not everything:
        raise ValueError(f"there are no exercises under {root}")
    parts = [
        part.removesuffix(".py").removesuffix(".md")
        for part in re.split(r"[/\\\s]+", name.strip())
        if part not in ("", ".", "exercises", "solutions")
    ]
    wanted = parts[-1].lower() if parts else ""
    wanted_chapter = parts[-2].lower() if len(parts) > 1 else ""
    found = [
        e
        for e in everything
        if wanted in _exercise_names(e)
        and (not wanted_chapter or wanted_chapter in _chapter_names(e))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(e.short for e in found)
        raise ValueError(f"{name!r} is the name of several exercises: say which of {choices}")
    raise ValueError(_unknown(name, wanted_chapter, everything))


def _exercise_names(exercise: Exercise) -> set[str]:
    number = exercise.name[2:4]
    name = exercise.name.lower()
    return {name, name[2:], f"ex{number}", f"ex{int(number)}", exercise.topic.lower()}


def _chapter_names(exercise: Exercise) -> set[str]:
    number, _, title = exercise.chapter.name.lower().partition("_")
    return {number, str(int(number)), title, exercise.chapter.name.lower()}


def _unknown(name: str, wanted_chapter: str, everything: list[Exercise]) -> str:
    spellings = {
        spelling: e
        for e in reversed(everything)  # of two with the same topic, the first counts
        for spelling in (e.short, e.label.lower(), e.name.lower(), e.topic.lower())
    }
    asked = name.strip().lower()
    close = difflib.get_close_matches(asked, list(spellings), n=1, cutoff=0.6)
    lines = [f"there is no exercise {name!r}"]
    of_chapter = [e for e in everything if asked in _chapter_names(e)]
    if of_chapter:
        lines = [f"{name!r} is a chapter: say which exercise, such as {of_chapter[0].short}"]
        wanted_chapter = asked
    elif close and not re.search(r"(^|/)(ex)?\d+$", asked):  # a wrong number is like every other
        lines[0] += f"; did you mean {spellings[close[0]].short} ({spellings[close[0]].topic})?"
    same_chapter = [e for e in everything if wanted_chapter in _chapter_names(e)]
    lines.append("The exercises are:")
    lines += [f"  {e.short}  {e.topic}" for e in same_chapter or everything]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------- stubs
def make_stub(solution: str, where: str = "solution") -> str:
    """The stub of a solution: each marked region becomes a TODO that raises NotImplementedError.

    A docstring that begins with ``Solution:`` begins with ``Exercise:`` in the stub.

    Raises:
        ValueError: if there is no region, or one is not closed, is empty, or is misspelt.
    """
    lines: list[str] = []
    start = 0  # line number of the open region's marker, 0 when outside
    indent = ""
    body = 0
    regions = 0
    for number, line in enumerate(solution.splitlines(), start=1):
        opening = _START.match(line)
        if opening or _LOOSE_START.match(line):
            if not opening:
                raise ValueError(
                    f"{where}:{number}: expected '# --- your code: <what to do>', got {line!r}"
                )
            if start:
                raise ValueError(
                    f"{where}:{number}: the region opened in line {start} has no '# --- end'"
                )
            start, indent, body = number, opening["indent"], 0
            lines += _todo(indent, opening["task"])
        elif _END.match(line):
            if not start:
                raise ValueError(
                    f"{where}:{number}: '# --- end' without a '# --- your code:' before"
                )
            if not body:
                raise ValueError(f"{where}:{start}: the region is empty")
            start = 0
            regions += 1
        elif start:
            body += bool(line.strip())
            if line.strip() and not line.startswith(indent):
                raise ValueError(f"{where}:{number}: the line is indented less than its region")
        else:
            lines.append(line)
    if start:
        raise ValueError(f"{where}:{start}: the region has no '# --- end'")
    if not regions:
        raise ValueError(f"{where}: no region '# --- your code: ...' for the learner to write")
    text = "\n".join(lines) + "\n"
    return re.sub(r'\A(\s*[rR]?""")Solution:', r"\1Exercise:", text)


def _todo(indent: str, task: str) -> list[str]:
    wrap = functools.partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
    comment = wrap(
        task, WIDTH, initial_indent=f"{indent}# TODO: ", subsequent_indent=f"{indent}#     "
    )
    one_line = f"{indent}raise NotImplementedError({_quoted(task)})"
    if len(one_line) <= WIDTH:
        return [*comment, one_line]
    inner = f"{indent}    "
    rows = wrap(task, WIDTH - len(inner) - 4)
    pieces = [f"{row} " for row in rows[:-1]] + rows[-1:]
    return [
        *comment,
        f"{indent}raise NotImplementedError(",
        *(inner + _quoted(piece) for piece in pieces),
        f"{indent})",
    ]


def _quoted(text: str) -> str:
    # Double quotes, unless that would need escapes and single ones would not: ruff's format.
    quote = "'" if '"' in text and "'" not in text else '"'
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


def stub_state(exercise: Exercise, root: Path = ROOT) -> str:
    """How the stub on disk stands to the generated one.

    Returns:
        ``"current"`` (equal), ``"missing"``, ``"stale"`` (nobody has worked on it, but the solution
        has moved on) or ``"changed"`` (somebody is working on it).
    """
    if not exercise.stub.is_file():
        return "missing"
    text = exercise.stub.read_text(encoding="utf-8")
    generated = exercise.generated()
    if text == generated:
        return "current"
    # A file that still holds every TODO has not been worked on, whatever else differs.
    still_open = text.count(_RAISE) >= generated.count(_RAISE)
    return "stale" if still_open or _made_by_machine(exercise, text, root) else "changed"


def _made_by_machine(exercise: Exercise, text: str, root: Path) -> bool:
    """Whether ``text`` is the stub of the committed solution, so that nothing is lost with it."""
    try:
        name = exercise.solution.relative_to(root).as_posix()
        done = subprocess.run(
            ["git", "-C", str(root), "show", f"HEAD:./{name}"], capture_output=True, check=False
        )
        if done.returncode:
            return False
        return text == make_stub(done.stdout.decode("utf-8").replace("\r\n", "\n"))
    except (OSError, ValueError):
        return False


def back_up(path: Path) -> Path:
    """Move ``path`` beside itself under the next free ``<name>.1.bak`` (which git ignores)."""
    number = 1
    while (target := path.with_name(f"{path.name}.{number}.bak")).exists():
        number += 1
    path.rename(target)
    return target


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def write_stubs(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write a fresh stub of every exercise as ``folder/<chapter>/<name>.py``."""
    written = []
    for exercise in find_exercises(root):
        path = folder / exercise.chapter.name / f"{exercise.name}.py"
        _write(path, exercise.generated())
        written.append(path)
    return written


# --------------------------------------------------------------------------- the pytest fixture
@dataclass(frozen=True)
class _Side:
    exercise: Exercise
    side: str

    @property
    def path(self) -> Path:
        if self.side == "solution":
            return self.exercise.solution
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder:
            return Path(folder) / self.exercise.chapter.name / f"{self.exercise.name}.py"
        return self.exercise.stub


def exercise(file: str | Path, name: str) -> Any:
    """A fixture that yields the module ``name`` twice: the learner's file, then the solution.

    Args:
        file: ``__file__`` of the chapter's ``test_exercises.py``.
        name: such as ``"ex01_add_dropout"``.

    Raises:
        ValueError: if there is no such solution.
    """
    one = Exercise(Path(file).resolve().parent.parent, name)
    if not one.solution.is_file():
        there = ", ".join(p.stem for p in sorted(one.solution.parent.glob("ex*.py"))) or "none"
        raise ValueError(f"expected a solution {one.solution}, got {there}")

    @pytest.fixture(params=[_Side(one, side) for side in SIDES], ids=SIDES)
    def fixture(request: pytest.FixtureRequest) -> Generator[ModuleType, None, None]:
        side: _Side = request.param
        module = load_module(side.path, f"exercise_{one.chapter.name}_{name}_{side.side}")
        yield module
        sys.modules.pop(module.__name__, None)

    return fixture


class NotStarted(BaseException):
    """What ``raise NotImplementedError`` raises in the file of an exercise.

    Python's own is a RuntimeError: a test that expects one would pass on a stub. Nothing that
    catches Exceptions swallows this one.
    """


def load_module(path: Path, name: str) -> ModuleType:
    """Run the file ``path`` as a module called ``name``, always from its present text.

    No bytecode is kept: an edit within the same second would be missed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; `python -m utils.exercises reset` and its name write it anew"
        )
    module = ModuleType(name)
    module.__dict__.update(__file__=str(path), NotImplementedError=NotStarted)
    sys.modules[name] = module  # dataclasses look their module up there
    linecache.checkcache(str(path))
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# ---------------------------------------------------------------------------- the pytest plugin
def _sides(item: pytest.Item) -> list[_Side]:
    callspec = getattr(item, "callspec", None)
    values = callspec.params.values() if callspec is not None else ()
    return [value for value in values if isinstance(value, _Side)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Label each test with its exercise, and keep those that the environment asks for."""
    for item in items:
        for side in _sides(item):
            item.user_properties.append(("exercise", side.exercise.label))
    only = os.environ.get(ONLY_VARIABLE)
    if not only:
        return
    labels = only.split(",")
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        sides = _sides(item)
        wanted = any(side.exercise.label in labels for side in sides) and all(
            side.side == "yours" for side in sides
        )
        (kept if wanted else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A learner's NotStarted is skipped, not failed; a failure keeps its message and its place."""
    report = yield
    learners = [side for side in _sides(item) if side.side == "yours"]
    if not learners or call.excinfo is None or report.outcome != "failed":
        return report
    paths = [side.path for side in learners]
    error = call.excinfo.value
    unwritten = _unwritten(error, paths)
    if unwritten is not None:
        path, line, message = unwritten
        report.outcome = "skipped"
        report.longrepr = (str(path), line, f"Skipped: not started: {message}")
        return report
    # On the item, not the report: the XML takes the properties that the teardown report carries.
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, AssertionError):
        # After the words of an assert, pytest repeats its code; that says no more.
        text = str(error).split("\nassert ")[0]
    item.user_properties.append(("message", text))
    place = _last_place(error, paths)
    if place:
        item.user_properties.append(("where", f"{place[0].name}:{place[1]}"))
    return report


def _last_place(error: BaseException, paths: list[Path]) -> tuple[Path, int] | None:
    """The deepest line of the learner's own files that the error came through."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) in paths:
        return Path(error.filename), error.lineno or 0
    trace = traceback.walk_tb(error.__traceback__)
    frames = [(Path(frame.f_code.co_filename), line) for frame, line in trace]
    return next((place for place in reversed(frames) if place[0] in paths), None)


def _unwritten(error: BaseException | None, paths: list[Path]) -> tuple[Path, int, str] | None:
    """Where the learner's file raised NotStarted, also behind ``raise ... from``."""
    while error is not None:
        place = _last_place(error, paths)
        if isinstance(error, NotStarted) and place:
            return *place, str(error) or "nothing written yet"
        error = error.__cause__
    return None


# ------------------------------------------------------------------------------------ diagnosis
def diagnose(
    got: Any,
    want: Any,
    wrong: Mapping[str, Any] | None = None,
    tol: float = 1e-9,
    what: str = "result",
) -> None:
    """Compare ``got`` with ``want``; if they differ, say which usual mistake gives ``got``.

    Args:
        got: what the learner's code returned (array, tensor or number).
        want: the right answer.
        wrong: usual mistakes, ``{"forget to divide by B": array, ...}``. Each key completes the
            sentence "dx: equals what comes out if you ...".
        tol: largest difference allowed, relative to max(1, largest value of ``want``).
        what: the name of the quantity in messages, such as ``"dx"``.

    Raises:
        AssertionError: with the diagnosis.
    """
    __tracebackhide__ = True
    complaint = _complaint(got, _array(want), wrong or {}, tol)
    if complaint:
        raise AssertionError(f"{what}: {complaint}")


def _complaint(got: Any, want: np.ndarray, wrong: Mapping[str, Any], tol: float) -> str:
    """What is the matter with ``got``; nothing ("") if it is right."""
    if got is None:
        return "got None; is a return statement missing?"
    kind = type(got).__name__
    try:
        got = _array(got)
    except (TypeError, ValueError):  # such as an array and a cache
        return f"expected numbers, got {kind}"
    if got.dtype.kind not in "biuf":
        return f"expected numbers, got {kind}"
    if got.shape == want.shape and _close(got, want, tol):
        return ""
    nan = np.isnan(got)
    if nan.any() and not np.isnan(want).any():
        places = f" at {nan.sum()} of {nan.size} places, first at {_largest(nan)}"
        why = "(a division 0/0, inf - inf, or the log of a negative number)"
        return f"NaN{places if nan.size > 1 else ''} {why}"
    for mistake, candidate in wrong.items():
        outcome = _array(candidate)
        if outcome.shape == got.shape and _close(got, outcome, tol):
            return f"equals what comes out if you {mistake}"
    transposed = got.T.shape == want.shape and _close(got.T, want, tol)
    if got.shape != want.shape:
        shape = f"shape {want.shape}" if want.shape else "a number, without axes"
        note = ""
        if transposed:
            note = "; it is the right answer transposed"
        elif got.size == want.size and _close(got.reshape(want.shape), want, tol):
            note = "; the numbers are right"
        return f"expected {shape}, got {got.shape or 'a number'}{note}"
    if transposed:
        return "the right answer transposed"
    return _difference(got, want, tol)


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor, without importing torch for it
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def _close(a: np.ndarray, b: np.ndarray, tol: float) -> bool:
    return bool((_gap(a, b) <= tol * _scale(b)).all())


def _scale(want: np.ndarray) -> float:
    finite = np.abs(want[np.isfinite(want)].astype(np.float64))
    return max(1.0, float(finite.max())) if finite.size else 1.0


def _gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|, with 0 where both are the same infinity or both NaN, and inf where only one is."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))


def _largest(values: np.ndarray) -> tuple[int, ...]:
    """The place of the largest value; in a mask, the first that is set."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))


def _difference(got: np.ndarray, want: np.ndarray, tol: float) -> str:
    if _close(-1.0 * got, want, tol):
        return "wrong sign: minus the right answer"
    large = np.abs(want) > 1e-3 * _scale(want)
    if large.sum() > 1 and np.isfinite(got).all() and np.isfinite(want).all():
        factor = float(np.median(got[large] / want[large]))
        if factor and _close(got / factor, want, 10 * tol):
            return f"{factor:.6g} times the right answer, everywhere"
    gap = _gap(got, want)
    allowed = tol * _scale(want)
    worst = _largest(gap)
    places = f"wrong at {(gap > allowed).sum()} of {gap.size} places; most at {worst}"
    message = (
        f"{places if gap.size > 1 else 'is wrong'}: "
        f"expected {float(want[worst]):.10g}, got {float(got[worst]):.10g} "
        f"(difference {gap[worst]:.3g}, allowed {allowed:.3g})"
    )
    if got.dtype == np.float32 and want.dtype == np.float64 and _close(got, want, 1e-4):
        message += "; close, but float32 where float64 is expected"
    return message


# ------------------------------------------------------------------------------- running the tests
@dataclass(frozen=True)
class Outcome:
    """One test on a learner's file. ``status``: passed, failed, skipped (not started) or error."""

    label: str
    test: str
    status: str
    message: str
    where: str


def run_tests(
    exercises: Iterable[Exercise], root: Path = ROOT, folder: Path | None = None
) -> list[Outcome]:
    """Run the tests of these exercises on the learner's files, in one pytest process.

    Args:
        exercises: which ones.
        root: the repository.
        folder: where the learner's files are, as ``folder/<chapter>/<name>.py``; default: in place.

    Raises:
        RuntimeError: if pytest could not run; the message holds its output.
    """
    chosen = list(exercises)
    files = sorted({str(e.tests) for e in chosen})
    if not files:
        return []
    environment = dict(os.environ)
    environment[ONLY_VARIABLE] = ",".join(e.label for e in chosen)
    environment.pop("PYTEST_ADDOPTS", None)
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and it is a second faster
    if folder is not None:
        environment[FOLDER_VARIABLE] = str(folder)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(root), *files]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        # 0: all passed; 1: some failed; 5: nothing to run. Anything else: pytest itself broke.
        if done.returncode not in (0, 1, 5) or not report.is_file():
            raise RuntimeError(f"the tests did not run:\n{done.stdout}\n{done.stderr}")
        return _read_report(report)


def _read_report(report: Path) -> list[Outcome]:
    outcomes = []
    for case in ElementTree.parse(report).iter("testcase"):
        properties = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
        status, message = "passed", ""
        for tag, name in (("skipped", "skipped"), ("failure", "failed"), ("error", "error")):
            child = case.find(tag)
            if child is not None:
                status, message = name, properties.get("message", child.get("message", ""))
        outcomes.append(
            Outcome(
                properties.get("exercise", ""),
                re.sub(r"\[yours(?:-(.*))?\]$", r"[\1]", case.get("name", "")).removesuffix("[]"),
                status,
                message,
                properties.get("where", ""),
            )
        )
    return outcomes


def progress(root: Path = ROOT) -> dict[str, str]:
    """The state of each exercise by label: ``done``, ``started`` or ``not started``.

    Files that are as generated are not run, so this is quick for somebody who has just begun.
    """
    everything = find_exercises(root)
    touched = [e for e in everything if stub_state(e, root) == "changed"]
    outcomes = run_tests(touched, root)
    states = {}
    for e in everything:
        if e not in touched:
            states[e.label] = "not started"
            continue
        of_this = [o.status for o in outcomes if o.label == e.label]
        done = bool(of_this) and all(status == "passed" for status in of_this)
        states[e.label] = "done" if done else "started"
    return states


# ---------------------------------------------------------------------------------- the commands
def hints(exercise: Exercise) -> list[str]:
    """The hints of the exercise's page, in order, as plain Markdown."""
    if not exercise.page.is_file():
        return []
    found = _HINT.findall(exercise.page.read_text(encoding="utf-8"))
    return [textwrap.dedent(text).strip() for _, text in found]


def _show_progress(root: Path) -> int:
    everything = find_exercises(root)
    if not everything:
        print("There are no exercises yet.")
        return 0
    states = progress(root)
    ticks = {"done": "✓", "started": "·", "not started": " "}
    width = max(len(e.topic) for e in everything)
    for chapter in dict.fromkeys(e.chapter for e in everything):
        of_this = [e for e in everything if e.chapter == chapter]
        done = sum(states[e.label] == "done" for e in of_this)
        print(f"{chapter.name}  {done} of {len(of_this)} done")
        for e in of_this:
            state = states[e.label]
            print(f"  [{ticks[state]}] {e.short}  {e.topic:<{width}}  {state}")
        print()
    done = sum(state == "done" for state in states.values())
    print(f"{done} of {len(states)} done.", end=" ")
    following = next((e for e in everything if states[e.label] != "done"), None)
    if following is None:
        print("That is all of them.")
    else:
        print(f"Next: {following.short}; read {_relative(following.page, root)}")
    return 0


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _check(e: Exercise, root: Path) -> int:
    print(f"{e.short} {e.topic}: {_relative(e.stub, root)}\n")
    outcomes = run_tests([e], root)
    if not outcomes:
        print(f"There are no tests for it in {_relative(e.tests, root)}.")
        return 1
    ticks = {"passed": "✓", "failed": "✗", "error": "✗", "skipped": "·"}
    last = ""
    for outcome in outcomes:
        print(f"  {ticks[outcome.status]} {outcome.test}")
        message = outcome.message + (f" [{outcome.where}]" if outcome.where else "")
        for line in ["(the same)"] if message and message == last else message.splitlines():
            print(textwrap.fill(line, 92, initial_indent=" " * 6, subsequent_indent=" " * 6))
        last = message
    passed = sum(o.status == "passed" for o in outcomes)
    print()
    if passed == len(outcomes):
        print(f"Passed: all {passed} tests. Well done; compare with {_relative(e.solution, root)}")
        return 0
    if all(o.status == "skipped" for o in outcomes):
        if stub_state(e, root) == "changed":
            print(f"Started; next gap: {outcomes[0].message.removeprefix('not started: ')}")
        else:
            print(f"Not started. The task: {_relative(e.page, root)}")
        return 1
    print(f"{passed} of {len(outcomes)} tests pass.")
    print(f"A hint: python -m utils.exercises hint {e.short}")
    if any(o.status in ("failed", "error") for o in outcomes):
        tests = shlex.quote(_relative(e.tests, root))
        print(f"The whole story of a failure: pytest {tests} -k yours")
    return 1


def _hint(e: Exercise, number: int, root: Path) -> int:
    texts = hints(e)
    if not texts:
        raise ValueError(f"{_relative(e.page, root)} has no hints")
    if not 1 <= number <= len(texts):
        raise ValueError(f"{e.short} has hints 1 to {len(texts)}, got {number}")
    print(f"Hint {number} of {len(texts)} for {e.short} ({e.topic})\n")
    print(texts[number - 1])
    if number < len(texts):
        print(f"\nMore help: python -m utils.exercises hint {e.short} {number + 1}")
    else:
        print(f"\nThat is the last hint. The solution: {_relative(e.solution, root)}")
    return 0


def _reset(e: Exercise, yes: bool, root: Path) -> int:
    state = stub_state(e, root)
    if state == "current":
        print(f"{_relative(e.stub, root)} is as it was at the start; nothing to do.")
        return 0
    if state != "missing":
        if not yes:
            try:
                answer = input(f"Start {e.short} ({e.topic}) again from the stub? [y/N] ")
            except EOFError:
                answer = ""
            if answer.strip().lower() not in ("y", "yes"):
                print("Nothing changed.")
                return 1
        print(f"Your version is kept as {_relative(back_up(e.stub), root)} (git ignores it).")
    _write(e.stub, e.generated())
    print(f"{_relative(e.stub, root)} is a fresh stub again.")
    return 0


def _sync_check(root: Path) -> int:
    everything = find_exercises(root)
    behind = 0
    for e in everything:
        state = stub_state(e, root)
        if state == "changed":
            print(f"{e.short}: somebody is working on it; left out of the check")
        elif state != "current":
            behind += 1
            print(f"{e.short}: {_relative(e.stub, root)} is {state}")
    if behind:
        print("Bring them up to date with: python -m utils.exercises sync")
        return 1
    print(f"{len(everything)} exercises: every untouched stub is what its solution gives.")
    return 0


def _sync(force: bool, root: Path) -> int:
    everything = find_exercises(root)
    written = refused = 0
    for e in everything:
        state = stub_state(e, root)
        if state == "current":
            continue
        if state != "missing" and not _made_by_machine(e, e.stub.read_text(encoding="utf-8"), root):
            if not force:
                refused += 1
                print(f"{e.short}: {_relative(e.stub, root)} has changes of its own; left alone")
                continue
            print(f"{e.short}: the version there is kept as {back_up(e.stub).name}")
        _write(e.stub, e.generated())
        written += 1
        print(f"{e.short}: wrote {_relative(e.stub, root)}")
    print(f"{written} written, {len(everything) - written - refused} already right.")
    if refused:
        print("To overwrite the changed ones as well (a copy is kept): sync --force")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utils.exercises",
        description="Your progress through the exercises; without a command, the overview.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    check = commands.add_parser("check", help="judge your file: check 02/ex01")
    hint = commands.add_parser("hint", help="a hint: hint 02/ex01, then hint 02/ex01 2")
    reset = commands.add_parser("reset", help="start an exercise again: reset 02/ex01")
    for command in (check, hint, reset):
        command.add_argument("name", nargs="+", help="the exercise: 02/ex01, or its name")
    reset.add_argument("--yes", action="store_true", help="do not ask")
    sync = commands.add_parser("sync", help="maintainers: write the stubs from the solutions")
    sync.add_argument("--check", action="store_true", help="only say which stubs are behind")
    sync.add_argument("--force", action="store_true", help="overwrite changed stubs too")
    return parser


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Run a command; the exit status is 0 if all is well."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Windows console that knows no ✓ shows ? instead
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(argv)
    try:
        if options.command is None:
            return _show_progress(root)
        if options.command == "sync":
            return _sync_check(root) if options.check else _sync(options.force, root)
        names = list(options.name)
        number = 1
        if options.command == "hint" and len(names) > 1 and re.fullmatch(r"-?\d+", names[-1]):
            number = int(names.pop())
        e = find_exercise("/".join(names), root)
        if options.command == "check":
            return _check(e, root)
        if options.command == "hint":
            return _hint(e, number, root)
        return _reset(e, options.yes, root)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # "... | head" ends it without a word, as it ends other commands
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
