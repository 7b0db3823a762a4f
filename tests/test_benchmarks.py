"""The benchmarks: every case runs on both sides, and a missed target is told."""

import dataclasses
import json
import mmap
import time

import numpy as np
import pytest
import torch

import benchmarks.run as bench
import utils
from benchmarks import clip, operations
from benchmarks.case import Case

CASES = bench.find_cases()


def fake(target):
    """A case whose work does nothing; :func:`clock` says how long it takes."""
    ours, reference = (lambda: ours_work), (lambda: reference_work)
    return Case("fake", "nothing", ours, reference, "nothing, faster", target, 3)


def ours_work():
    pass


def reference_work():
    pass


@pytest.fixture
def clock(monkeypatch):
    """Timings of a machine that is slower in the second round: ratios of 4, 3 and 1."""
    timings = {ours_work: iter((4e-3, 30e-3, 5e-3)), reference_work: iter((1e-3, 10e-3, 5e-3))}
    monkeypatch.setattr(bench, "timed", lambda work: next(timings[work]))


def test_the_time_of_a_call_is_measured(monkeypatch):
    monkeypatch.setattr(bench, "SECONDS_PER_TIMING", 0.02)
    assert bench.timed(lambda: time.sleep(0.004)) >= 0.004


def test_cases_have_unique_names_and_cover_every_chapter():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    missing = [c.name for c in utils.chapters() if not any(n.startswith(c.name[:2]) for n in names)]
    assert not missing, f"expected a case 'NN ...' for each chapter, none for {missing}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_sides_run(case, monkeypatch):
    monkeypatch.setattr(clip, "LARGE", (1, *clip.LARGE[1:]))  # ViT-B/32 takes seconds for eight
    case.ours()()
    if case.reference_name != "loops":  # these take seconds, and the chapter tests them
        case.reference()()


def test_ratios_are_of_neighbouring_timings(clock):
    row = bench.compare(fake(3.5))
    assert row == pytest.approx({"ours_s": 5e-3, "reference_s": 5e-3, "ratio": 3.0})


@pytest.mark.parametrize(("target", "status", "word"), [(3.5, 0, "ok"), (2.5, 1, "MISSED")])
def test_a_missed_target_is_told(clock, monkeypatch, tmp_path, capsys, target, status, word):
    monkeypatch.setattr(bench, "find_cases", lambda: [fake(target)])
    monkeypatch.setattr(bench, "peak_memory", lambda case, side: 3.0)
    assert bench.main(["--json", str(tmp_path / "figures.json")]) == status
    assert word in capsys.readouterr().out
    (figures,) = json.loads((tmp_path / "figures.json").read_text())["cases"]
    assert figures["case"] == "fake" and figures["ours_mib"] == 3.0


def test_memory_counts_what_the_case_sets_up():
    def setup():
        # Straight from the system: an array may lie in what earlier tests have given back.
        block = np.frombuffer(mmap.mmap(-1, 64 * 2**20), np.uint8)
        block[:] = 1
        return lambda: len(block)

    # A system short of memory may take pages away meanwhile.
    peaks = [bench.peak_of_this_process(setup) for _ in range(3)]
    assert None in peaks or any(60 < peak < 90 for peak in peaks)


def test_an_unknown_case_is_an_error(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "nothing of that name"])
    assert "no case is called" in capsys.readouterr().err


# --- NumPy beside PyTorch


@pytest.mark.parametrize("pair", operations.PAIRS, ids=lambda pair: pair.what)
def test_both_ways_of_an_operation_give_the_same(pair, monkeypatch):
    monkeypatch.setattr(operations, "timed", lambda work: work() is None or 1.0)
    row = operations.measure(pair, rounds=1)
    assert row["ratio"] == 1.0 and row["what"] == pair.what


def test_an_operation_that_differs_is_refused(monkeypatch):
    monkeypatch.setattr(operations, "timed", lambda work: 1.0)
    wrong = dataclasses.replace(operations.PAIRS[0], in_torch=torch.sub)
    with pytest.raises(ValueError, match="same numbers of both"):
        operations.measure(wrong, rounds=1)


def test_the_guide_shows_the_committed_speeds():
    page = operations.PAGE.read_text(encoding="utf-8")
    figures = json.loads(operations.FIGURES.read_text(encoding="utf-8"))
    assert [row["what"] for row in figures["pairs"]] == [pair.what for pair in operations.PAIRS]
    assert operations.filled(page, figures) == page, "run python -m benchmarks.operations"
    figures["pairs"][0]["ratio"] *= 2
    assert operations.filled(page, figures) != page
