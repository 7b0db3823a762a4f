"""The demonstration at a tiny size, and that it says so when the levels part."""

import sys

import numpy as np
import pytest

from utils import ROOT

sys.path.append(str(ROOT))

import demo

TINY = ["--limit", "48", "--epochs", "2", "--batch-size", "16"]


def test_the_three_levels_coincide(tmp_path, capsys):
    assert demo.main([*TINY, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith(("L1", "L2", "L3"))]
    assert len(rows) == 3
    assert {row[2] for row in rows} == {"61,706"}
    assert len({tuple(row[2:-1]) for row in rows}) == 1  # everything but the seconds is the same
    assert rows[0][5] == "-"  # there is no step 100
    assert "in 6 steps" in printed
    assert (tmp_path / "demo.png").stat().st_size > 10_000


def test_a_level_that_differs_is_noticed(tmp_path, monkeypatch, capsys):
    def faulty(weights):
        return demo.paper_level(weights | {"c3.bias": weights["c3.bias"] + 1e-6})

    monkeypatch.setattr(demo, "LEVELS", (demo.numpy_level, faulty))
    assert demo.main([*TINY, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the levels part: their losses differ by")
    assert (tmp_path / "demo.png").exists()


def test_a_loss_that_is_not_finite_is_noticed(tmp_path, monkeypatch, capsys):
    def broken(weights):
        return demo.paper_level(weights | {"c3.bias": weights["c3.bias"] + np.nan})

    monkeypatch.setattr(demo, "LEVELS", (demo.numpy_level, broken))
    assert demo.main([*TINY, "--out", str(tmp_path)]) == 1
    assert "differ by inf at step 1" in capsys.readouterr().err


def test_wrong_options_are_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--epoch", "2"])
    assert stopped.value.code == 2
    assert "did you mean --epochs?" in capsys.readouterr().err
