"""The benchmarks: every case runs on both sides, and a missed target is told."""

import json
import time

import pytest

import benchmarks.run as bench
import utils
from benchmarks.case import Case

CASES = bench.find_cases()


def sleeper(seconds):
    def setup():
        return lambda: time.sleep(seconds)

    return setup


def fake(target):
    return Case("fake", "sleeping", sleeper(0.004), sleeper(0.002), "a shorter sleep", target, 3)


def test_cases_have_unique_names_and_cover_every_chapter():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    missing = [c.name for c in utils.chapters() if not any(n.startswith(c.name[:2]) for n in names)]
    assert not missing, f"expected a case 'NN ...' for each chapter, none for {missing}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_sides_run(case):
    case.ours()()
    if case.reference_name != "loops":  # these take seconds, and the chapter tests them
        case.reference()()


def test_ratios_are_of_neighbouring_timings(monkeypatch):
    monkeypatch.setattr(bench, "SECONDS_PER_TIMING", 0.02)
    row = bench.compare(fake(3.0))
    assert 1.5 < row["ratio"] < 2.6
    assert row["ours_s"] == pytest.approx(0.004, rel=0.5)


@pytest.mark.parametrize(("target", "status", "word"), [(3.0, 0, "ok"), (1.2, 1, "MISSED")])
def test_a_missed_target_is_told(monkeypatch, tmp_path, capsys, target, status, word):
    monkeypatch.setattr(bench, "SECONDS_PER_TIMING", 0.02)
    monkeypatch.setattr(bench, "find_cases", lambda: [fake(target)])
    monkeypatch.setattr(bench, "peak_memory", lambda case, side: 3.0)
    assert bench.main(["--json", str(tmp_path / "figures.json")]) == status
    assert word in capsys.readouterr().out
    (figures,) = json.loads((tmp_path / "figures.json").read_text())["cases"]
    assert figures["case"] == "fake" and figures["ours_mib"] == 3.0


def test_memory_counts_what_the_case_sets_up():
    def setup():
        block = bytearray(64 * 2**20)
        return lambda: len(block)

    peak = bench.peak_of_this_process(setup)
    assert peak is None or 60 < peak < 90


def test_an_unknown_case_is_an_error(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "nothing of that name"])
    assert "no case is called" in capsys.readouterr().err
