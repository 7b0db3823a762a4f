"""Run summaries and the tables made from them."""

import json
from pathlib import Path

import pytest

import utils
import utils.results
from utils import results
from utils.results import (
    BETTER,
    END,
    START,
    Summary,
    add,
    better,
    format_metric,
    format_time,
    load_summaries,
    main,
    root_block,
)

SUMMARY = {
    "chapter": "42_Made_Up",
    "level": "numpy",
    "model": "cube",
    "data": "digits",
    "command": "python 42_Made_Up/numpy/train.py --data digits",
    "seed": 0,
    "versions": {"numpy": "2.0.0"},
    "hardware": "2 cores",
    "duration_s": 75.2,
    "steps": 230,
    "parameters": 1290,
    "metrics": {"train_loss": 0.01234567, "test_accuracy": 0.98333},
    "finished": "2025-01-02T03:04:05+00:00",
}


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "42_Made_Up").mkdir()
    page = f"# Title\n\n{START}\n{END}\n\nThe end.\n"
    (tmp_path / "README.md").write_text(page)
    (tmp_path / "42_Made_Up" / "README.md").write_text(page)
    return tmp_path


def run_folder(root, name="run", **changes):
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(SUMMARY | changes))
    (folder / "loss.png").write_bytes(b"picture")
    return folder


def test_add_keeps_summary_and_picture(repository):
    target = add(run_folder(repository), name="small-lr", note="half the data", root=repository)
    assert target == repository / "results/42_Made_Up/numpy-cube-digits-small-lr.json"
    assert json.loads(target.read_text()) == SUMMARY | {"note": "half the data"}
    assert target.with_suffix(".png").read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": "python train.py --data-dir /Users/ann/data"}, "'/Users/ann/data' is a path"),
        ({"hardware": "C:\\Users\\ann"}, "is a path of one machine"),
        ({"versions": {"torch": "2.0 (file:///opt/torch.whl)"}}, "versions.torch"),
        ({"note": "see ~/notes"}, "'~/notes' is a path"),
        ({"metrics": {"test_accuracy": 98.3}}, "expected a fraction between 0 and 1, got 98.3"),
        ({"metrics": {"test_exact_match": 99.1}}, "expected a fraction between 0 and 1, got 99.1"),
        ({"metrics": {"test_loss": float("nan")}}, "metrics.test_loss: expected a finite number"),
        ({"metrics": {"test_r2": float("inf")}}, "metrics.test_r2: expected a finite number"),
        ({"metrics": {}}, "metrics is empty"),
        ({"steps": 0}, "steps is 0: the run trained nothing"),
        ({"prolonged": True}, "prolonged: it was resumed with another --epochs"),
        ({"prolonged": "no"}, "prolonged: unexpected value 'no'"),
        ({"seed": "0"}, "seed: unexpected value '0'"),
        ({"finished": "yesterday"}, "expected an ISO time, got 'yesterday'"),
        ({"chapter": "99_Nowhere"}, "there is no chapter 99_Nowhere"),
    ],
)
def test_add_refuses_a_bad_summary(repository, capsys, changes, message):
    folder = run_folder(repository, **changes)
    assert main(["add", str(folder)], repository) == 2
    assert message in capsys.readouterr().err
    assert not (repository / "results").exists()


def test_addresses_and_units_are_no_machine_paths(repository):
    add(run_folder(repository, note="1200 images/s, https://arxiv.org/abs/1 and/or 1 / 2"), None,
        root=repository)  # fmt: skip


def test_add_names_every_missing_key(repository, capsys):
    folder = run_folder(repository)
    values = {k: v for k, v in SUMMARY.items() if k not in ("seed", "steps", "hardware")}
    (folder / "summary.json").write_text(json.dumps(values))
    assert main(["add", str(folder)], repository) == 2
    assert "missing seed, hardware, steps" in capsys.readouterr().err


def test_the_result_of_another_run_is_not_overwritten_unasked(repository, capsys):
    first = run_folder(repository, "a")
    target = add(first, root=repository)
    again = run_folder(repository, "b", duration_s=60.0, prolonged=False)
    assert main(["add", str(again)], repository) == 0  # the same command and seed
    assert json.loads(target.read_text())["duration_s"] == 60.0
    capsys.readouterr()
    for changes in ({"command": "python other.py"}, {"seed": 1}):
        other = run_folder(repository, f"c{len(changes)}{next(iter(changes))}", **changes)
        (other / "loss.png").unlink()
        assert main(["add", str(other)], repository) == 2
        told = capsys.readouterr().err
        assert "results/42_Made_Up/numpy-cube-digits.json is the result of another run" in told
        assert "--name SUFFIX" in told and "--replace" in told
        assert json.loads(target.read_text())["duration_s"] == 60.0
    assert main(["add", str(other), "--name", "again"], repository) == 0
    assert main(["add", str(other), "--replace"], repository) == 0
    assert json.loads(target.read_text())["seed"] == 1
    assert not target.with_suffix(".png").exists()  # it was that of the first run


def test_a_result_is_removed_by_deleting_its_files(repository):
    target = add(run_folder(repository), root=repository)
    assert main([], repository) == 0
    target.unlink()
    target.with_suffix(".png").unlink()
    assert main([], repository) == 0
    assert "No results yet." in (repository / "README.md").read_text()


def test_an_unfinished_run_is_refused(repository, capsys):
    assert main(["add", str(repository)], repository) == 2
    assert "holds no summary.json" in capsys.readouterr().err


def test_documents_are_written_and_checked(repository, capsys):
    assert main(["--check"], repository) == 1
    assert main([], repository) == 0
    assert "No results yet." in (repository / "README.md").read_text()
    assert main(["--check"], repository) == 0

    add(run_folder(repository, "a"), root=repository)
    add(
        run_folder(repository, "b", level="paper", data="mnist", paper={"test_accuracy": 0.9905},
                   duration_s=400.0),
        root=repository,
    )  # fmt: skip
    assert main(["--check"], repository) == 1
    assert "42_Made_Up/README.md is out of date" in capsys.readouterr().out
    assert main([], repository) == 0
    assert main(["--check"], repository) == 0

    chapter = (repository / "42_Made_Up" / "README.md").read_text()
    assert chapter.startswith("# Title") and chapter.endswith("\n\nThe end.\n")
    assert (
        "| L1 | cube | digits | – | test accuracy 98.33 % | 1,290 | 0 | 75 s | "
        "[summary](../results/42_Made_Up/numpy-cube-digits.json), "
        "[curve](../results/42_Made_Up/numpy-cube-digits.png) |"
    ) in chapter
    front = (repository / "README.md").read_text()
    assert "test accuracy 99.05 % | test accuracy 98.33 % | 6.7 min" in front
    assert "digits" not in front  # the run on the paper's task is the chapter's line
    page = (repository / "docs" / "results.md").read_text()
    assert page.count("`python 42_Made_Up/numpy/train.py --data digits`") == 2
    # a number changed by hand is noticed
    (repository / "README.md").write_text(front.replace("98.33", "99.99"))
    assert main(["--check"], repository) == 1


def test_all_readmes_without_a_place_for_results_are_named(repository, capsys):
    (repository / "42_Made_Up" / "README.md").write_text("# Title\n")
    (repository / "43_Other").mkdir()
    add(run_folder(repository), root=repository).write_text("{")
    assert main([], repository) == 2
    told = capsys.readouterr().err
    assert "42_Made_Up/README.md: expected one block" in told
    assert "43_Other/README.md is missing" in told
    assert "results/42_Made_Up/numpy-cube-digits.json: not JSON" in told


def test_a_summary_in_the_wrong_folder_is_an_error(repository):
    target = add(run_folder(repository), root=repository)
    wrong = repository / "results" / "43_Other" / target.name
    wrong.parent.mkdir()
    target.rename(wrong)
    with pytest.raises(ValueError, match="it is of chapter 42_Made_Up, and lies in 43_Other/"):
        load_summaries(repository)


# Each run is better than those after it.
RANKED = [
    {"test_error": 0.02, "paper": {"test_error": 0.01}},
    {"test_accuracy": 0.9, "test_error": 0.1},
    {"test_accuracy": 0.8, "train_accuracy": 1.0},
    {"test_r2": 0.5},
    {"test_r2": -0.5, "test_loss": 0.1},
    {"test_mean_squared_error": 1.0, "train_loss": 9.0},
    {"test_mean_squared_error": 2.0, "train_loss": 1.0},
    {"val_nats": 5.0},
    {"test_loss": 0.01},
    {"train_loss": 0.5, "epochs_to_solve": 9},
    {"train_loss": 0.6, "epochs_to_solve": 3},
    {"epochs_to_solve": 1},
]


@pytest.mark.parametrize("place", range(len(RANKED) - 1))
def test_runs_are_ranked_by_the_table_of_metrics(place):
    pair = []
    for i, metrics in enumerate(RANKED[place : place + 2]):
        metrics = dict(metrics)
        values = SUMMARY | {"paper": metrics.pop("paper", {}), "metrics": metrics}
        pair.append(Summary(Path(f"results/{i}.json"), values | {"model": f"model-{i}"}))
    for summaries in (pair, pair[::-1]):
        assert "model-0 (L1)" in root_block(summaries)


def test_the_table_of_metrics_is_documented():
    assert [better(m) for m in ("test_r2", "val_loss", "nats", "paper2", "sweeps_needed")] == [
        1, -1, -1, 0, 0,
    ]  # fmt: skip
    for name in BETTER:
        assert f"``{name}``" in (utils.results.__doc__ or ""), f"{name} is not in the docstring"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("test_accuracy", 0.9, "90.00 %"),
        ("test_error", 0.0095, "0.95 %"),
        ("test_mean_squared_error", 2859.6963, "2860"),
        ("test_loss", 0.0512345, "0.05123"),
        ("test_loss", 2.0000004e-5, "2.000e-05"),
        ("test_r2", 0.5, "0.5000"),
        ("epochs_to_solve", 558, "558"),
    ],
)
def test_metrics_in_print(name, value, text):
    assert format_metric(name, value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.14, "3.1 s"), (75.2, "75 s"), (119.9, "2.0 min"), (400.0, "6.7 min")]
)
def test_times_in_print(seconds, text):
    assert format_time(seconds) == text


def test_figures_of_the_test_set_come_first_and_recall_is_one_entry():
    metrics = {"train_loss": 1.0, "val_loss": 2.5, "val_text_r1_recall": 0.5}
    metrics |= {"val_text_r10_recall": 1.0, "val_accuracy": 0.5, "test_accuracy": 0.75}
    text = "test accuracy 75.00 %, val loss 2.500, val text R@1/10 50.00 / 100.00 %"
    assert results.format_metrics(metrics) == text
    assert results.format_metrics({"train_loss": 1.5}) == "train loss 1.500"


def write_summary(root, name, **changes):
    return results.add(run_folder(root, name, **changes), name=name, root=root)


def test_the_front_page_takes_the_lower_loss_where_there_is_no_accuracy(repository):
    for name, loss in (("low", 1.0), ("high", 2.0)):
        write_summary(repository, name, metrics={"test_loss": loss, "train_loss": 0.5})
    front = results.root_block(results.load_summaries(repository))
    assert "test loss 1 |" in front and "test loss 2" not in front and "train loss" not in front


def test_rows_are_in_the_order_of_the_levels_and_show_notes(repository):
    for level in ("paper", "numpy", "pytorch_lowlevel"):
        write_summary(repository, f"of-{level.replace('_', '-')}", level=level, note="a | b")
    table = results.chapter_block(results.load_summaries(repository))
    assert [row.split(" | ")[0] for row in table.splitlines()[2:]] == ["| L1", "| L2", "| L3"]
    assert table.count(r"a \| b |") == 3


def test_a_name_is_no_path(repository):
    with pytest.raises(ValueError, match="expected a name of small letters"):
        results.add(run_folder(repository), name="../x", root=repository)


def test_true_is_no_metric(repository):
    with pytest.raises(ValueError, match="metrics.solved: expected a finite number, got True"):
        results.add(run_folder(repository, metrics={"solved": True}), root=repository)


def test_two_blocks_are_an_error():
    block = f"{results.START}\n{results.END}\n"
    with pytest.raises(ValueError, match="expected one block"):
        results.fill_block(block + block, "x", "README.md")


def test_the_papers_task_comes_before_a_better_accuracy(repository):
    write_summary(repository, "easy", metrics={"test_accuracy": 0.99})
    write_summary(repository, "hard", metrics={"test_accuracy": 0.9}, paper={"test_accuracy": 0.9})
    assert "90.00 %" in results.root_block(results.load_summaries(repository))


def test_data_that_nobody_generated_come_before_a_better_accuracy(repository):
    generated = {"data": "shapes", "metrics": {"test_accuracy": 0.99}}
    for name, changes in (("easy", generated), ("real", {"metrics": {"test_accuracy": 0.8}})):
        add(run_folder(repository, name, **changes), name=name, root=repository)
    assert "80.00 %" in root_block(load_summaries(repository))


def test_a_compressed_copy_is_named_as_such_in_every_table(repository):
    add(run_folder(repository, data="cifar10-jpeg"), root=repository)
    assert main([], repository) == 0
    for page in ("README.md", "42_Made_Up/README.md", "docs/results.md"):
        assert "| CIFAR-10 (JPEG q75) |" in (repository / page).read_text()


# --- several runs in one picture


def measured(root, name, errors, **changes):
    """The folder of a run that measured an error after each epoch."""
    folder = run_folder(root, name, **changes)
    records = [{"step": 10 * i, "epoch": i, "test_error": e} for i, e in enumerate(errors, 1)]
    lines = [json.dumps(r) for r in [{"step": 1, "epoch": 1, "loss": 2.0}, *records]]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_compare_draws_a_curve_for_each_run(repository, monkeypatch, capsys):
    from utils import visualization

    drawn, draw = {}, visualization.plot_loss_curves
    monkeypatch.setattr(
        visualization,
        "plot_loss_curves",
        lambda curves, **how: drawn.update(curves=curves, how=how) or draw(curves, **how),
    )
    runs = [
        measured(repository, "a", [0.5, 0.25]),
        measured(repository, "b", [0.5, 0.375, 0.125], model="ball"),
        measured(repository, "c", [0.25], model="ball", command="python train.py --round"),
    ]
    assert main(["compare", "test_error", *map(str, runs)], repository) == 0
    picture = repository / "results/42_Made_Up/cube-ball-test-error.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "drawn as results/42_Made_Up/cube-ball-test-error.png" in capsys.readouterr().out
    assert drawn["curves"] == {
        "cube": ([1, 2], [0.5, 0.25]),
        "ball": ([1, 2, 3], [0.5, 0.375, 0.125]),
        "python train.py --round": ([1], [0.25]),
    }
    assert (drawn["how"]["xlabel"], drawn["how"]["ylabel"]) == ("epoch", "test error")
    assert "digits" in drawn["how"]["title"]


def test_compare_refuses_what_it_cannot_draw(repository, capsys):
    one = measured(repository, "a", [0.5])
    other = measured(repository, "b", [0.5], chapter="43_Other")
    for folders, metric, message in (
        ([one], "test_loss", "a has no test_loss after its epochs"),
        ([one, other], "test_error", "runs of one chapter, got 42_Made_Up, 43_Other"),
        ([repository], "test_error", "holds no summary.json"),
    ):
        assert main(["compare", metric, *map(str, folders)], repository) == 2
        assert message in capsys.readouterr().err
