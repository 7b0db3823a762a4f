"""The exercise runner on a made-up chapter, then the exercises of this repository."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import ROOT, chapters
from utils.exercises import (
    Exercise,
    Outcome,
    back_up,
    diagnose,
    find_exercise,
    find_exercises,
    hints,
    main,
    make_stub,
    progress,
    run_tests,
    stub_state,
    write_stubs,
)
from utils.exercises import main as exercises_main

SOLUTION = '''\
"""Solution: the derivative of x**2 (eq. 42.1)."""


def square_backward(dy, x):
    """dx of y = x**2."""
    # --- your code: compute dx from dy and x
    dx = 2 * x * dy
    # --- end
    return dx
'''

TESTS = """\
import numpy as np

from utils.exercises import diagnose, exercise

ex01 = exercise(__file__, "ex01_square")
ex02 = exercise(__file__, "ex02_cube")


def test_square(ex01):
    x = np.array([1.0, 2.0, 3.0])
    wrong = {"forgot the factor 2": x * 5.0}
    diagnose(ex01.square_backward(5.0, x), 2 * x * 5.0, wrong, what="dx")


def test_square_at_zero(ex01):
    assert ex01.square_backward(5.0, 0.0) == 0.0


def test_cube(ex02):
    assert ex02.cube(2) == 8
"""

PAGE = """\
# Square

Difficulty: ●○○○○ · 5 minutes · stub `ex01_square.py`

<details><summary>Hint 1</summary>

Think of the product rule.

</details>
<details>
<summary>Hint 2</summary>

x appears twice.

```python
dx = ... * dy
```
</details>
"""


@pytest.fixture
def made_up(tmp_path):
    """A repository with one chapter and two exercises, not started."""
    folder = tmp_path / "42_Made_Up" / "exercises"
    (folder / "solutions").mkdir(parents=True)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["utils.exercises"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (folder / "solutions" / "ex01_square.py").write_text(SOLUTION)
    cube = "def cube(x):\n    # --- your code: cube it\n    return x**3\n    # --- end\n"
    (folder / "solutions" / "ex02_cube.py").write_text(cube)
    (folder / "test_exercises.py").write_text(TESTS)
    (folder / "01_square.md").write_text(PAGE, encoding="utf-8")
    assert main(["sync"], tmp_path) == 0
    return tmp_path


def by_test(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {outcome.test: outcome for outcome in outcomes}


# Stubs


def test_stub_replaces_the_region_and_keeps_the_rest():
    stub = make_stub(SOLUTION)
    assert stub == SOLUTION.replace("Solution:", "Exercise:").replace(
        "    # --- your code: compute dx from dy and x\n    dx = 2 * x * dy\n    # --- end\n",
        "    # TODO: compute dx from dy and x\n"
        '    raise NotImplementedError("compute dx from dy and x")\n',
    )


def test_long_tasks_are_wrapped_to_100_columns_and_keep_their_words():
    task = 'say "yes" to ' + " ".join(f"word{i}" for i in range(40))
    stub = make_stub(f"def f():\n        # --- your code: {task}\n        return 1\n# --- end\n")
    assert max(map(len, stub.splitlines())) <= 100
    namespace: dict = {}
    exec(compile(stub, "stub", "exec"), namespace)
    with pytest.raises(NotImplementedError) as caught:
        namespace["f"]()
    assert str(caught.value) == task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "no region"),
        ("# --- your code: a\nx = 1\n", "no '# --- end'"),
        ("# --- your code: a\nx = 1\n# --- your code: b\n", "opened in line 1"),
        ("# --- end\n", "without a '# --- your code:'"),
        ("# --- your code: a\n# --- end\n", "empty"),
        ("# --- your code\nx = 1\n# --- end\n", "expected '# --- your code: <what to do>'"),
        ("  # --- your code: a\nx = 1\n  # --- end\n", "indented less"),
    ],
)
def test_a_misspelt_region_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_stub(text)


# The learner's way: not started, wrong, right


def test_not_started_is_skipped_wrong_fails_with_a_diagnosis_right_passes(made_up):
    both = find_exercises(made_up)
    square = both[0]
    outcomes = run_tests(both, made_up)
    assert [o.status for o in outcomes] == ["skipped"] * 3
    assert outcomes[0].message == "not started: compute dx from dy and x"
    assert outcomes[0].label == "42_Made_Up/ex01_square"

    square.stub.write_text("def square_backward(dy, x):\n    return x * dy\n")
    wrong = by_test(run_tests([square], made_up))
    assert wrong["test_square"].status == "failed"
    assert "dx: equals what comes out if you forgot the factor 2" in (wrong["test_square"].message)
    assert wrong["test_square_at_zero"].status == "passed"

    square.stub.write_text("def square_backward(dy, x):\n    return 2 * x * dy\n")
    both[1].stub.write_text("def cube(x):\n    return 3 * x\n")
    assert progress(made_up) == {square.label: "done", both[1].label: "started"}


def test_only_the_learners_own_not_implemented_error_counts_as_not_started(made_up):
    square = find_exercises(made_up)[0]
    # raised by a library: a mistake, to be shown
    library = (
        "from made_up_library import abstract\n\n\n"
        "def square_backward(dy, x):\n    return abstract()\n"
    )
    (made_up / "conftest.py").write_text(
        'import sys\nfrom pathlib import Path\n\npytest_plugins = ["utils.exercises"]\n'
        "sys.path.append(str(Path(__file__).parent))\n"
    )
    (made_up / "made_up_library.py").write_text(
        "def abstract():\n    raise NotImplementedError('no such kernel')\n"
    )
    square.stub.write_text(library)
    outcome = by_test(run_tests([square], made_up))["test_square"]
    assert outcome.status == "failed"
    assert "no such kernel" in outcome.message
    assert outcome.where == "ex01_square.py:5"
    # wrapped with `from` on its way up: still not started
    square.stub.write_text(
        "def square_backward(dy, x):\n    try:\n        raise NotImplementedError('later')\n"
        "    except NotImplementedError as error:\n        raise RuntimeError('outer') from error\n"
    )
    assert by_test(run_tests([square], made_up))["test_square"].status == "skipped"


def test_an_unfinished_solution_fails(made_up):
    square = find_exercises(made_up)[0]
    square.solution.write_text(
        "def square_backward(dy, x):\n    # --- your code: a\n    raise NotImplementedError\n"
        "    # --- end\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-k", "solution", str(square.tests)]
    done = subprocess.run(command, cwd=made_up, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2 failed, 1 passed, 3 deselected" in done.stdout


def test_a_syntax_error_is_shown_with_its_line(made_up, capsys):
    square = find_exercises(made_up)[0]
    square.stub.write_text("def square_backward(dy, x):\n    return 2 *\n")
    assert main(["check", "42/ex01"], made_up) == 1
    told = capsys.readouterr().out
    assert "SyntaxError" in told
    assert "[ex01_square.py:2]" in told


# The commands


def test_check_tells_each_test_and_what_to_do_next(made_up, capsys):
    square = find_exercises(made_up)[0]
    assert main(["check", "42", "ex01"], made_up) == 1
    assert "Not started. The task: 42_Made_Up/exercises/01_square.md" in capsys.readouterr().out
    square.stub.write_text("def square_backward(dy, x):\n    return x * dy\n")
    assert main(["check", "42/ex01"], made_up) == 1
    told = capsys.readouterr().out
    assert "✗ test_square\n" in told
    assert "✓ test_square_at_zero" in told
    assert "forgot the factor 2" in told
    assert "hint 42/ex01" in told
    square.stub.write_text("def square_backward(dy, x):\n    return 2 * x * dy\n")
    assert main(["check", "42/ex01"], made_up) == 0
    assert "Passed: all 2 tests" in capsys.readouterr().out


def test_progress_is_a_table_with_ticks(made_up, capsys):
    find_exercises(made_up)[0].stub.write_text(
        "def square_backward(dy, x):\n    return 2 * x * dy\n"
    )
    assert main([], made_up) == 0
    told = capsys.readouterr().out
    assert "42_Made_Up  1 of 2 done" in told
    assert "[✓] 42/ex01  square  done" in told
    assert "[ ] 42/ex02  cube    not started" in told
    assert "Next: 42/ex02" in told


def test_hints_come_one_at_a_time(made_up, capsys):
    assert main(["hint", "42/ex01"], made_up) == 0
    told = capsys.readouterr().out
    assert "product rule" in told
    assert "twice" not in told
    assert "hint 42/ex01 2" in told
    assert main(["hint", "42", "ex01", "2"], made_up) == 0
    assert "dx = ... * dy" in capsys.readouterr().out
    assert main(["hint", "42/ex01", "3"], made_up) == 2
    assert "has hints 1 to 2, got 3" in capsys.readouterr().err
    assert main(["hint", "42/ex02"], made_up) == 2
    assert "02_cube.md has no hints" in capsys.readouterr().err


def test_reset_keeps_the_old_version(made_up, capsys):
    square = find_exercises(made_up)[0]
    assert main(["reset", "42/ex01"], made_up) == 0
    assert "nothing to do" in capsys.readouterr().out
    square.stub.write_text("mine = 1\n")
    assert main(["reset", "42/ex01", "--yes"], made_up) == 0
    assert "git ignores it" in capsys.readouterr().out
    assert square.stub.read_text() == square.generated()
    (kept,) = square.folder.glob("*.bak")
    assert kept.read_text() == "mine = 1\n"


def test_reset_without_a_yes_changes_nothing(made_up, monkeypatch):
    square = find_exercises(made_up)[0]
    square.stub.write_text("mine = 1\n")
    monkeypatch.setattr("builtins.input", lambda _: "")
    assert main(["reset", "42/ex01"], made_up) == 1
    assert square.stub.read_text() == "mine = 1\n"


def test_sync_never_overwrites_a_learners_work_unasked(made_up, capsys):
    square = find_exercises(made_up)[0]
    assert main(["sync", "--check"], made_up) == 0
    square.stub.write_text("mine = 1\n")
    assert stub_state(square, made_up) == "changed"
    assert main(["sync", "--check"], made_up) == 0
    assert main(["sync"], made_up) == 1
    assert square.stub.read_text() == "mine = 1\n"
    assert main(["sync", "--force"], made_up) == 0
    assert square.stub.read_text() == square.generated()
    assert [p.read_text() for p in square.folder.glob("*.bak")] == ["mine = 1\n"]
    # a solution that has moved on
    square.solution.write_text(SOLUTION.replace("dx of y", "The dx of y"))
    capsys.readouterr()
    assert main(["sync", "--check"], made_up) == 1
    assert "42/ex01: 42_Made_Up/exercises/ex01_square.py is stale" in capsys.readouterr().out
    square.stub.unlink()
    assert main(["sync"], made_up) == 0
    assert stub_state(square, made_up) == "current"


@pytest.mark.parametrize(
    "name",
    ["42/ex01", "42 ex1", "made_up/square", "ex01_square", "42_Made_Up/exercises/ex01_square.py"],
)
def test_an_exercise_goes_by_many_names(made_up, name):
    assert find_exercise(name, made_up).name == "ex01_square"


def test_an_unknown_name_gets_a_suggestion_and_the_list(made_up, capsys):
    assert main(["hint", "ex01_sqare"], made_up) == 2
    told = capsys.readouterr().err
    assert "did you mean 42/ex01 (square)?" in told
    assert "42/ex02  cube" in told
    assert main(["check", "42/ex07"], made_up) == 2
    told = capsys.readouterr().err
    assert "there is no exercise '42/ex07'\n" in told
    assert main(["check", "42"], made_up) == 2
    assert "'42' is a chapter: say which exercise, such as 42/ex01" in capsys.readouterr().err


# Diagnosis


def diagnosis(got, want, wrong=None, **options):
    with pytest.raises(AssertionError) as caught:
        diagnose(got, want, wrong, what="dx", **options)
    return str(caught.value)


WANT = np.array([[1.0, 2.0, 3.0], [4.0, -5.0, 6.5]])


def test_the_right_answer_passes():
    diagnose(WANT + 1e-11, WANT, {"did nothing": WANT})
    diagnose(np.array([-np.inf, 1.0]), np.array([-np.inf, 1.0]))
    diagnose(3, 3)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (WANT * 4.0, "forgot to divide by B"),
        (WANT.sum(0), "summed over the batch"),
        (-WANT, "wrong sign"),
        (WANT * 3.0, "3 times the right answer"),
        (WANT.T, "shape (2, 3), got (3, 2); it is the right answer transposed"),
        (WANT.ravel(), "shape (2, 3), got (6,); the numbers are right"),
        (WANT[:, :2], "shape (2, 3), got (2, 2)"),
        (WANT * np.nan, "NaN at 6 of 6 places, first at (0, 0)"),
        (None, "got None; is a return statement missing?"),
        ("text", "dx: expected numbers, got str"),
        (WANT + [[0, 0, 0], [0, 0.5, 0]], "wrong at 1 of 6 places; most at (1, 1): expected -5, "),
        ((WANT + 1e-5).astype(np.float32), "float32 where float64 is expected"),
    ],
)
def test_diagnosis_names_the_mistake(got, message):
    wrong = {"forgot to divide by B": WANT * 4.0, "summed over the batch": WANT.sum(0)}
    assert message in diagnosis(got, WANT, wrong)


def test_diagnosis_reads_tensors():

    wrong = {"forgot to divide by B": torch.tensor(WANT) * 4}
    got = (torch.tensor(WANT) * 4).requires_grad_()
    assert "forgot to divide by B" in diagnosis(got, torch.tensor(WANT), wrong)


# The exercises of this repository

EXERCISES = find_exercises()


def hold(complaints: list[str]) -> None:
    """Fail with the complaints, all of them, and nothing else."""
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def too_few(chapter: Path, exercises: list[Exercise]) -> list[str]:
    """A chapter has four exercises or more."""
    number = sum(e.chapter == chapter for e in exercises)
    if number >= 4:
        return []
    return [f"{chapter.name}: {number} exercises, expected at least 4 (CONTRIBUTING.md, Exercises)"]


def faults(e: Exercise, root: Path = ROOT) -> list[str]:
    """What an exercise lacks: its page and what stands on it, its tests, a stub of today."""
    where = f"{e.chapter.name}/exercises/{e.page.name}"
    complaints = []
    if not e.page.is_file():
        complaints.append(f"{where} is missing: goal, equation, difficulty, check, hints")
    else:
        page = e.page.read_text(encoding="utf-8")
        if not page.startswith("# "):
            complaints.append(
                f"{where}: its first line is {page[:40].splitlines()[:1]}, not '# Title'"
            )
        line = rf"^Difficulty: (?=[●○]{{5}} )●+○* · \d+ minutes · stub .*{e.name}\.py"
        if not re.search(line, page, re.MULTILINE):
            complaints.append(
                f"{where}: no line like 'Difficulty: ●●○○○ · 25 minutes · stub `{e.name}.py`'"
            )
        if len(hints(e)) < 3:
            complaints.append(
                f"{where}: {len(hints(e))} hints, expected at least 3, each like "
                "<details><summary>Hint 1</summary> ... </details>"
            )
    if not has_tests(e):
        short = e.name[:4]
        complaints.append(
            f"{e.label}: exercises/test_exercises.py needs "
            f'{short} = exercise(__file__, "{e.name}") and a test that takes {short}'
        )
    state = stub_state(e, root)
    if state not in ("current", "changed"):
        stub = f"{e.chapter.name}/exercises/{e.stub.name}"
        complaints.append(f"{stub} is {state}; run python -m utils.exercises sync")
    return complaints


def has_tests(e: Exercise) -> bool:
    """Whether some function takes the exercise's fixture."""
    tree = ast.parse(e.tests.read_text(encoding="utf-8") if e.tests.is_file() else "")
    fixtures = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        and any(isinstance(a, ast.Constant) and a.value == e.name for a in node.value.args)
        for target in node.targets
        if isinstance(target, ast.Name)
    }  # fmt: skip
    return any(
        argument.arg in fixtures
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for argument in node.args.args
    )


@pytest.mark.parametrize("chapter", chapters(), ids=lambda path: path.name)
def test_every_chapter_has_four_exercises(chapter):
    hold(too_few(chapter, EXERCISES))


@pytest.mark.parametrize("e", EXERCISES, ids=lambda e: e.label)
def test_every_exercise_has_page_stub_tests_and_hints(e: Exercise):
    hold(faults(e))


def test_what_a_faulty_exercise_is_told(made_up):
    square, cube = find_exercises(made_up)
    assert too_few(square.chapter, [square, cube]) == [
        "42_Made_Up: 2 exercises, expected at least 4 (CONTRIBUTING.md, Exercises)"
    ]
    assert too_few(square.chapter, [square] * 4) == []
    hint = "<details><summary>Hint 3</summary>2</details>\n"
    square.page.write_text(PAGE + hint, encoding="utf-8")
    assert faults(square, made_up) == []

    for wrong, right, told in [
        ("Square\n", "# Square\n", "01_square.md: its first line is ['Square'], not '# Title'"),
        ("●○○○ ·", "●○○○○ ·", "like 'Difficulty: ●●○○○ · 25 minutes · stub `ex01_square.py`'"),
        ("5 mins", "5 minutes", "01_square.md: no line like 'Difficulty:"),
        ("ex02_square.py", "ex01_square.py", "01_square.md: no line like 'Difficulty:"),
        ("<details><summary>Tip</summary>2</details>", hint, "01_square.md: 2 hints, expected"),
    ]:  # fmt: skip
        page = (PAGE + hint).replace(right, wrong)
        assert page != PAGE + hint
        square.page.write_text(page, encoding="utf-8")
        (complaint,) = faults(square, made_up)
        assert told in complaint
    square.page.write_text(PAGE + hint, encoding="utf-8")

    for tests in (TESTS.replace("(ex01)", "()"), TESTS.replace('"ex01_square"', '"ex01"'), ""):
        square.tests.write_text(tests)
        assert faults(square, made_up) == [
            "42_Made_Up/ex01_square: exercises/test_exercises.py needs "
            'ex01 = exercise(__file__, "ex01_square") and a test that takes ex01'
        ]
    square.tests.write_text(TESTS)

    cube.stub.unlink()
    assert faults(cube, made_up) == [
        "42_Made_Up/exercises/02_cube.md is missing: goal, equation, difficulty, check, hints",
        "42_Made_Up/exercises/ex02_cube.py is missing; run python -m utils.exercises sync",
    ]


def test_no_stub_passes(tmp_path):
    assert len(write_stubs(tmp_path)) == len(EXERCISES)
    complaints = []
    outcomes = run_tests(EXERCISES, folder=tmp_path)
    for o in outcomes:
        if o.status == "passed":
            complaints.append(f"{o.label}: {o.test} passes on an untouched stub")
        if o.status == "error":
            complaints.append(f"{o.label}: {o.test}: the stub cannot be loaded: {o.message}")
    not_started = {o.label for o in outcomes if o.status == "skipped"}
    complaints += [
        f"{e.label}: no test says of the untouched stub that it is not started"
        for e in EXERCISES
        if e.label not in not_started
    ]
    hold(complaints)


def test_solutions_are_read_by_exercise_tests_only():
    names = {e.name for e in EXERCISES}
    complaints = []
    for chapter in chapters():
        for file in chapter.rglob("*.py"):
            if "exercises" in file.relative_to(chapter).parts:
                continue
            text = file.read_text(encoding="utf-8")
            used = [name for name in sorted(names) if re.search(rf"\b{name}\b", text)]
            complaints += [
                f"{file.relative_to(ROOT).as_posix()} uses the exercise {name}" for name in used
            ]
    hold(complaints)


def test_backups_are_ignored_by_git():
    if "*.bak" not in (ROOT / ".gitignore").read_text().splitlines():
        hold([".gitignore: the line *.bak is missing (learners' old versions of exercises)"])


def test_the_tolerance_is_relative_to_the_right_answer_and_small():
    want = np.array([1.0, 2.0, 3.0])
    diagnose(want * (1 + 5e-10), want)
    for wrong in (want + 1e-8, np.array([1.0 + 1e-8, 2.0, 3.0])):
        with pytest.raises(AssertionError):
            diagnose(wrong, want)
    with pytest.raises(AssertionError):
        diagnose(np.array([1e9, 2.0 + 0.1]), np.array([1e9 * 0, 2.0]))  # got's size must not matter


def test_one_passed_test_of_two_is_not_done(made_up):
    square, cube = find_exercises(made_up)
    square.stub.write_text("def square_backward(dy, x):\n    return x * dy\n")  # right at 0 only
    assert progress(made_up) == {square.label: "started", cube.label: "not started"}


def test_check_fails_while_a_test_fails(made_up):
    square = find_exercises(made_up)[0]
    square.stub.write_text("def square_backward(dy, x):\n    return x * dy\n")
    assert exercises_main(["check", "42/ex01"], made_up) == 1


def test_two_backups_in_one_second_are_both_kept(tmp_path):
    kept = []
    for text in ("one", "two", "three"):
        (tmp_path / "a.py").write_text(text)
        kept.append(back_up(tmp_path / "a.py"))
    assert [path.read_text() for path in kept] == ["one", "two", "three"]


def test_a_file_with_one_region_written_is_somebodys_work(made_up):
    cube = find_exercises(made_up)[1]
    two = "\n\n".join(
        f"def {name}():\n    # --- your code: {name}\n    return {i}\n    # --- end\n"
        for i, name in enumerate("ab", start=1)
    )
    cube.solution.write_text(two)
    cube.stub.write_text(
        make_stub(two).replace('    raise NotImplementedError("a")', "    return 1")
    )
    assert stub_state(cube, made_up) == "changed"
    assert exercises_main(["sync"], made_up) == 1 and "return 1" in cube.stub.read_text()
