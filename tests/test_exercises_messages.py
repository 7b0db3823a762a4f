"""What a learner reads: the words of ``diagnose`` and ``check``, and what is not started."""

import re
import subprocess
import sys

import numpy as np
import pytest

from utils import ROOT
from utils.exercises import diagnose, find_exercises, load_module, main, run_tests

TWO_GAPS = """\
def double(x):
    # --- your code: double x
    return 2 * x
    # --- end


def refuse(x):
    # --- your code: refuse what is negative
    if x < 0:
        raise RuntimeError("negative")
    # --- end
"""

TESTS = """\
import contextlib

import numpy as np
import pytest

from utils.exercises import diagnose, exercise

ex01 = exercise(__file__, "ex01_two_gaps")


"""


@pytest.fixture
def told(tmp_path, capsys):
    """``told(tests, text)``: what ``check`` prints for these tests and this file of the learner."""
    folder = tmp_path / "42_Made_Up" / "exercises"
    (folder / "solutions").mkdir(parents=True)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["utils.exercises"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (folder / "solutions" / "ex01_two_gaps.py").write_text(TWO_GAPS)
    assert main(["sync"], tmp_path) == 0
    (e,) = find_exercises(tmp_path)

    def check(tests: str, text: str = "") -> str:
        (folder / "test_exercises.py").write_text(TESTS + tests)
        if text:
            e.stub.write_text(text)
        capsys.readouterr()
        main(["check", "42/ex01"], tmp_path)
        return capsys.readouterr().out

    check.exercise, check.root = e, tmp_path
    return check


def diagnosis(got, want, wrong=None, what="logits"):
    with pytest.raises(AssertionError) as caught:
        diagnose(got, want, wrong, what=what)
    return str(caught.value)


WANT = np.array([[1.0, 2.0, 3.0], [4.0, -5.0, 6.5]])
CLOSE = (WANT + 1e-5).astype(np.float32)


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        (0.5, 0.25, "logits: is wrong: expected 0.25, got 0.5 (difference 0.25, allowed 1e-09)"),
        ([1.0], [2.0], "logits: is wrong: expected 2, got 1 (difference 1, allowed 2e-09)"),
        (np.nan, 1.0, "logits: NaN (a division 0/0"),
        (WANT + [[0, 0, 1], [0, 2, 0]], WANT, "logits: wrong at 2 of 6 places; most at (1, 1): "),
        (WANT * np.nan, WANT, "logits: NaN at 6 of 6 places, first at (0, 0) (a division 0/0"),
        (WANT * 7, WANT, "logits: equals what comes out if you forget to divide by B"),
        (-WANT, WANT, "logits: wrong sign: minus the right answer"),
        (-2.0, 2.0, "logits: wrong sign: minus the right answer"),
        (WANT * 3, WANT, "logits: 3 times the right answer, everywhere"),
        (WANT[:, :2].T, WANT[:, :2], "logits: the right answer transposed"),
        (WANT.T, WANT, "logits: expected shape (2, 3), got (3, 2); it is the right answer tr"),
        (WANT, 1.0, "logits: expected a number, without axes, got (2, 3)"),
        ([1.0], 1.0, "logits: expected a number, without axes, got (1,); the numbers are right"),
        (1.0, WANT, "logits: expected shape (2, 3), got a number"),
        (None, WANT, "logits: got None; is a return statement missing?"),
        ("text", WANT, "logits: expected numbers, got str"),
        ((WANT, {"cache": 1}), WANT, "logits: expected numbers, got tuple"),
        (CLOSE, WANT, "; close, but float32 where float64 is expected"),
        (WANT > 2, WANT, "logits: wrong at 6 of 6 places; most at (1, 2): expected 6.5, got 1 "),
        (False, True, "logits: is wrong: expected 1, got 0"),
    ],
)
def test_a_diagnosis_begins_with_the_name_and_reads_for_one_and_many(got, want, message):
    words = diagnosis(got, want, {"forget to divide by B": WANT * 7})
    assert words.startswith("logits: ")
    assert message in words


def test_the_words_of_an_assert_are_told_without_its_code(told):
    words = told(
        "def test_it(ex01):\n    assert ex01.double(3) == 6, f'expected 6, got {ex01.double(3)}'\n",
        "def double(x):\n    return x\n",
    )
    assert "✗ test_it\n      expected 6, got 3\n\n0 of 1" in words
    # of an assert without words, the code is all there is
    assert "\n      assert 3 == 6\n" in told("def test_it(ex01):\n    assert ex01.double(3) == 6\n")


def test_a_message_that_comes_again_is_the_same(told):
    case = "def test_{}(ex01):\n    assert ex01.double({}) == 6, 'expected {}'\n\n\n"
    words = told(
        "".join(case.format(*c) for c in [("a", 1, 6), ("b", 2, 6), ("c", 3, 7), ("d", 1, 6)]),
        "def double(x):\n    return x\n",
    )
    assert "a\n      expected 6\n  ✗ test_b\n      (the same)\n  ✗ test_c\n      ex" in words
    # the same as the one before, that is: with another between, it is told again
    assert "✗ test_d\n      expected 6\n" in words


BOTH = """\
def test_double(ex01):
    assert ex01.double(ex01.refuse(0) or 1) == 2


def test_refuse(ex01):
    ex01.refuse(3)
"""


def test_with_one_gap_of_two_written_it_has_been_started(told):
    assert "Not started. The task: 42_Made_Up" in told(BOTH)
    stub = told.exercise.generated()
    half = re.sub(r"    # TODO: double x\n.*\n", "    return 2 * x\n", stub)
    words = told(BOTH, half)
    assert "Started; next gap: refuse what is negative" in words
    assert "Not started" not in words
    assert "(the same)" in words


@pytest.mark.parametrize(
    "swallowing",
    [
        "with pytest.raises(RuntimeError):",
        "with pytest.raises(NotImplementedError):",
        "with pytest.raises(Exception):",
        "with contextlib.suppress(Exception):",
    ],
)
def test_no_test_can_swallow_that_nothing_is_written(told, swallowing):
    words = told(f"def test_it(ex01):\n    {swallowing}\n        ex01.refuse(-1)\n")
    assert "· test_it\n      not started: refuse what is negative\n" in words
    (outcome,) = run_tests([told.exercise], told.root)
    assert outcome.status == "skipped"


def test_a_solution_with_a_gap_passes_no_test_either(told):
    path = told.root / "solution.py"
    path.write_text("def refuse(x):\n    raise NotImplementedError('later')\n")
    module = load_module(path, "made_up_solution")
    del sys.modules["made_up_solution"]
    with pytest.raises(BaseException, match="later") as caught:
        module.refuse(1)
    assert not isinstance(caught.value, Exception)


def test_a_reader_that_closes_the_pipe_gets_no_traceback():
    command = [sys.executable, "-m", "utils.exercises"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
