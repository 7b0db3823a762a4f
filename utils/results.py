"""Results: committed run summaries, and the tables of the documents made from them.

::

    python -m utils.results add RUN_DIR    keep a run's summary and loss curve under results/
    python -m utils.results                write docs/results.md and the tables of the READMEs
    python -m utils.results --check        only say which of them are out of date
    python -m utils.results compare test_error RUN_DIR RUN_DIR
                                           a picture of one metric, epoch by epoch, of several runs

No measured number is typed by hand: a document has the lines ``<!-- results -->`` and
``<!-- /results -->``, and what stands between them comes from ``results/<chapter>/*.json``.

To remove a result, delete its ``.json`` and its ``.png``, then run ``python -m utils.results``.

The front page shows the best run of each chapter: held-out figures first, then runs on the paper's
own task, then those on data that nobody generated, then by the metrics of ``BETTER``. The last
words of a metric's name (``test_accuracy``, ``val_loss``) say which way is better; the metrics are

- higher: ``accuracy``, ``exact_match``, ``f1``, ``recall``, ``bleu``, ``r2``, ``elbo``;
- lower: ``error``, ``error_rate``, ``perplexity``, ``nats``, ``bits_per_character``, ``mse``,
  ``rmse``, ``loss``.

Any other metric is shown, but never decides; a new one that should gets its line in ``BETTER``.
"""

import argparse
import json
import math
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from utils import LEVELS, ROOT, chapters
from utils.data_loaders import DATASETS

REQUIRED: dict[str, type | tuple[type, ...]] = {
    "chapter": str,
    "level": str,
    "model": str,
    "data": str,
    "command": str,
    "seed": int,
    "versions": dict,
    "hardware": str,
    "duration_s": (int, float),
    "steps": int,
    "parameters": int,
    "metrics": dict,
    "finished": str,
}
OPTIONAL: dict[str, type | tuple[type, ...]] = {"paper": dict, "note": str, "prolonged": bool}

# Which way a metric is better: +1 higher, -1 lower. Of two runs with different metrics, the one
# whose metric stands further up comes first.
BETTER = {
    "accuracy": +1,
    "exact_match": +1,
    "f1": +1,
    "recall": +1,
    "bleu": +1,
    "r2": +1,
    "elbo": +1,
    "error": -1,
    "error_rate": -1,
    "perplexity": -1,
    "nats": -1,
    "bits_per_character": -1,
    "mse": -1,
    "rmse": -1,
    "loss": -1,
}

START, END = "<!-- results -->", "<!-- /results -->"
NO_RESULTS = "No results yet."
HELD_OUT = ("test_", "val_", "validation_")

# A path that belongs to one machine: /Users/ann/x, ~/x, C:\x, file:///x; not https://x, not a/b.
_MACHINE_PATH = re.compile(
    r"(?:^|[\s\"'`=,:;(\[])(/(?:[\w.+-]+/)*[\w.+-]+|~/\S*|[A-Za-z]:[\\/]\S*|file://\S*)"
)
_FRACTIONS = re.compile(
    r"(^|_)(accuracy|exact_match|recall)$|^(train|test|val|validation)_error$|^error_rate$"
)


@dataclass(frozen=True)
class Summary:
    """One committed result: the JSON file and what it holds."""

    path: Path
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def picture(self) -> Path:
        """The loss curve beside the summary (there may be none)."""
        return self.path.with_suffix(".png")

    @property
    def paper(self) -> Mapping[str, float]:
        """The paper's figures by metric."""
        return self.values.get("paper") or {}

    @property
    def note(self) -> str:
        """A remark on the run, or nothing."""
        return self.values.get("note") or ""


def problems_of(values: Any) -> list[str]:
    """What is wrong with a run summary; an empty list if nothing is."""
    if not isinstance(values, dict):
        return [f"expected an object with the keys {', '.join(REQUIRED)}"]
    problems = []
    missing = [key for key in REQUIRED if key not in values]
    if missing:
        problems.append(f"missing {', '.join(missing)}")
    for key, kind in (REQUIRED | OPTIONAL).items():
        value = values.get(key)
        bad = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if key in values and bad:
            problems.append(f"{key}: unexpected value {value!r}")
    for group in ("metrics", "paper"):
        entries = values.get(group)
        for name, value in entries.items() if isinstance(entries, dict) else ():
            problems += _bad_metric(f"{group}.{name}", value)
    if "metrics" in values and not values["metrics"]:
        problems.append("metrics is empty")
    if isinstance(values.get("steps"), int) and values["steps"] < 1:
        problems.append("steps is 0: the run trained nothing")
    if values.get("prolonged") is True:
        problems.append(
            "prolonged: it was resumed with another --epochs, so its command does not make this "
            "result; run it in one go"
        )
    if isinstance(values.get("finished"), str):
        try:
            datetime.fromisoformat(values["finished"].replace("Z", "+00:00"))
        except ValueError:
            problems.append(f"finished: expected an ISO time, got {values['finished']!r}")
    problems += [f"{key}: {path!r} is a path of one machine" for key, path in _paths(values)]
    return problems


def _bad_metric(name: str, value: Any) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return [f"{name}: expected a finite number, got {value!r}"]
    if _FRACTIONS.search(name.split(".")[-1]) and not 0 <= value <= 1:
        return [f"{name}: expected a fraction between 0 and 1, got {value}"]
    return []


def _paths(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Every machine path in the strings of a JSON value, with the key it stands at."""
    if isinstance(value, str):
        return [(key, match[1]) for match in _MACHINE_PATH.finditer(value)]
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in _paths(v, f"{key}.{k}".strip("."))]
    if isinstance(value, list):
        return [found for v in value for found in _paths(v, key)]
    return []


def load_summaries(root: Path = ROOT) -> list[Summary]:
    """The committed summaries, in the order of chapter, level and name.

    Raises:
        ValueError: if some are not as they should be; the message has a line for each file.
    """
    summaries, complaints = [], []
    for path in sorted((root / "results").glob("*/*.json")):
        values, problems = _read(path)
        if not problems and values["chapter"] != path.parent.name:
            problems = [f"it is of chapter {values['chapter']}, and lies in {path.parent.name}/"]
        if problems:
            complaints.append(f"{path.relative_to(root).as_posix()}: {'; '.join(problems)}")
        summaries.append(Summary(path, values))
    if complaints:
        raise ValueError("\n".join(complaints))
    return sorted(summaries, key=lambda s: (s["chapter"], _rank(s["level"]), s.path.name))


def _read(path: Path) -> tuple[Any, list[str]]:
    """What a summary holds, and what is wrong with it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        return None, [f"not JSON ({error})"]
    return values, problems_of(values)


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def add(
    run_dir: Path,
    name: str | None = None,
    note: str | None = None,
    root: Path = ROOT,
    replace: bool = False,
) -> Path:
    """Copy a finished run's summary, and its loss curve, to ``results/``.

    Args:
        run_dir: the run folder.
        name: suffix of the file's name, for several results of one model on one data set:
            ``"dropout"`` gives ``numpy-mlp-digits-dropout.json``.
        note: a remark that the tables show.
        root: the repository.
        replace: also replace the result of another command or seed.

    Returns:
        The new JSON file.

    Raises:
        ValueError: if the run is not finished, its summary is not fit to be kept, or the result of
            another run has the same name.
    """
    source = run_dir / "summary.json"
    values = read_summary(run_dir)
    if note is not None:
        values["note"] = note
        if problems := problems_of(values):
            raise ValueError("; ".join(problems))
    if values["chapter"] not in [chapter.name for chapter in chapters(root)]:
        raise ValueError(f"{source}: there is no chapter {values['chapter']}")
    if name is not None and not re.fullmatch(r"[a-z0-9]+([_-][a-z0-9]+)*", name):
        raise ValueError(f"expected a name of small letters, digits and hyphens, got {name!r}")
    parts = [values["level"], values["model"], values["data"], *([name] if name else [])]
    target = root / "results" / values["chapter"] / ("-".join(parts) + ".json")
    if target.is_file() and not replace:
        _check_same_run(target, target.relative_to(root).as_posix(), values)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    target.write_text(text, encoding="utf-8", newline="\n")
    picture = target.with_suffix(".png")
    picture.unlink(missing_ok=True)  # of the result that is replaced
    if (run_dir / "loss.png").is_file():
        shutil.copyfile(run_dir / "loss.png", picture)
    return target


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        ValueError: the run is not finished, or its summary is not fit to be kept.
    """
    source = run_dir / "summary.json"
    if not source.is_file():
        raise ValueError(f"{run_dir} holds no summary.json: is it the folder of a finished run?")
    values, problems = _read(source)
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems)}")
    return values


def _check_same_run(target: Path, shown: str, values: Mapping[str, Any]) -> None:
    """Refuse to replace a result of another command or seed."""
    kept, problems = _read(target)
    if problems:
        raise ValueError(f"{shown} is there and faulty ({'; '.join(problems)}); give --replace")
    if (kept["command"], kept["seed"]) != (values["command"], values["seed"]):
        raise ValueError(
            f"{shown} is the result of another run:\n"
            f"  kept: {kept['command']} (seed {kept['seed']})\n"
            f"  new:  {values['command']} (seed {values['seed']})\n"
            "Keep both with --name SUFFIX, or give --replace."
        )


# -------------------------------------------------------------------------------------- formats
def compare(
    metric: str, run_dirs: Sequence[Path], name: str | None = None, root: Path = ROOT
) -> Path:
    """Draw one metric of several finished runs of a chapter, epoch by epoch, into one picture.

    Args:
        metric: what the runs measured after each epoch, such as ``test_error``.
        run_dirs: the run folders, in the order of the legend.
        name: of the picture; without it, the runs' models and the metric.
        root: the repository.

    Returns:
        The new PNG file in ``results/<chapter>/``.

    Raises:
        ValueError: a folder holds no finished run, a run has not measured the metric, or the runs
            are of several chapters.
    """
    from utils.runs import read_metrics
    from utils.visualization import plot_loss_curves

    summaries, curves = [], {}
    for run_dir in run_dirs:
        summary = read_summary(run_dir)
        records = [r for r in read_metrics(run_dir) if metric in r and "epoch" in r]
        if not records:
            raise ValueError(f"{run_dir} has no {metric} after its epochs")
        label = summary["model"]
        if label in curves:  # two runs of one model: the whole command tells them apart
            label = summary["command"]
        curves[label] = ([r["epoch"] for r in records], [r[metric] for r in records])
        summaries.append(summary)
    found = sorted({summary["chapter"] for summary in summaries})
    if len(found) > 1:
        raise ValueError(f"expected runs of one chapter, got {', '.join(found)}")
    data = sorted({data_title(summary["data"]) for summary in summaries})
    words = [*dict.fromkeys(summary["model"] for summary in summaries), metric]
    target = root / "results" / found[0] / f"{name or '-'.join(words).replace('_', '-')}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    what = metric.replace("_", " ")
    title = f"{what} on {', '.join(data)}"
    plot_loss_curves(curves, title=title, xlabel="epoch", ylabel=what, path=target)
    return target


def format_metric(name: str, value: float) -> str:
    """``("test_accuracy", 0.98333)`` as ``98.33 %``; other figures with four significant digits."""
    if _FRACTIONS.search(name):
        return f"{100 * value:.2f} %"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e4):
        return str(int(value))
    text = f"{value:#.4g}"
    if "e" in text:
        return text
    return text.rstrip(".")


def format_time(seconds: float) -> str:
    """Seconds below two minutes, minutes above."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 119.5 else f"{seconds / 60:.1f} min"


def format_metrics(metrics: Mapping[str, float]) -> str:
    """The figures on held-out data (all, if there are none), with their names.

    The test set comes first, and what was measured on it is not told of the validation set too.
    Recall at several K, ``test_text_r1_recall`` and so on, is one entry: R@1/5/10.
    """
    held_out = {
        k: v
        for k, v in metrics.items()
        if k.startswith(HELD_OUT)
        and (k.startswith("test_") or f"test_{k.partition('_')[2]}" not in metrics)
    }
    shown = sorted((held_out or metrics).items(), key=lambda item: not item[0].startswith("test_"))
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, value in shown:
        recall = re.fullmatch(r"(.+)_r(\d+)_recall", name)
        group, k = (recall[1], recall[2]) if recall else (name, "")
        groups.setdefault(group, []).append((k, format_metric(name, value)))
    parts = []
    for group, entries in groups.items():
        at = "/".join(k for k, _ in entries)
        label = group.replace("_", " ") + (f" R@{at}" if at else "")
        figures = " / ".join(text for _, text in entries).replace(" % /", " /")
        parts.append(f"{label} {figures}")
    return ", ".join(parts)


def level_name(level: str) -> str:
    """``numpy`` as ``L1``, and so on."""
    return f"L{LEVELS.index(level) + 1}" if level in LEVELS else level


def data_title(name: str) -> str:
    """How the tables call a data set: by its title in the registry, or else by its name."""
    info = DATASETS.get(name)
    return info.title if info and info.title else name


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join(lines)


def _paper_figure(summary: Summary) -> str:
    return (
        ", ".join(f"{k.replace('_', ' ')} {format_metric(k, v)}" for k, v in summary.paper.items())
        or "–"
    )


# ------------------------------------------------------------------------------------ documents
def chapter_block(summaries: Sequence[Summary]) -> str:
    """The table of one chapter's README, from that chapter's summaries."""
    if not summaries:
        return NO_RESULTS
    noted = any(s.note for s in summaries)
    header = ["Level", "Model", "Data", "Paper", "Ours", "Parameters", "Seed", "Time", "Run"]
    rows = []
    for s in summaries:
        place = f"../results/{s.path.parent.name}/{s.path.stem}"
        links = f"[summary]({place}.json)"
        if s.picture.is_file():
            links += f", [curve]({place}.png)"
        row = [level_name(s["level"]), s["model"], data_title(s["data"]), _paper_figure(s)]
        row += [format_metrics(s["metrics"]), f"{s['parameters']:,}", str(s["seed"])]
        row += [format_time(s["duration_s"]), links]
        rows.append(row + ([s.note] if noted else []))
    return _table(header + (["Note"] if noted else []), rows)


def root_block(summaries: Sequence[Summary]) -> str:
    """The table of the front page: one line per chapter, its best result."""
    rows = []
    for chapter in dict.fromkeys(s["chapter"] for s in summaries):
        s = max((s for s in summaries if s["chapter"] == chapter), key=_goodness)
        row = [f"[{chapter}]({chapter}/README.md)", f"{s['model']} ({level_name(s['level'])})"]
        row += [data_title(s["data"]), _paper_figure(s), format_metrics(s["metrics"])]
        rows.append([*row, format_time(s["duration_s"])])
    if not rows:
        return NO_RESULTS
    return _table(["Chapter", "Model", "Data", "Paper", "Ours", "Time"], rows)


def better(metric: str) -> int:
    """+1 if a metric is better when higher, -1 when lower, 0 if ``BETTER`` does not have it."""
    known = _known(metric)
    return BETTER[known] if known else 0


def _known(metric: str) -> str:
    """The name under which ``BETTER`` has a metric, or nothing."""
    return next((name for name in BETTER if f"_{metric}".endswith(f"_{name}")), "")


def _goodness(summary: Summary) -> tuple[bool, bool, bool, int, float, int]:
    """What orders the runs of a chapter; the best has the largest."""
    names = list(BETTER)
    metrics = {name: value for name, value in summary["metrics"].items() if better(name)}
    held_out = {name: value for name, value in metrics.items() if name.startswith(HELD_OUT)}
    place, score = len(names), 0.0
    if metrics:
        # The first in the table; of several such (test_accuracy, test_top5_accuracy) the shortest.
        name = min(held_out or metrics, key=lambda name: (names.index(_known(name)), len(name)))
        place, score = names.index(_known(name)), better(name) * metrics[name]
    info = DATASETS.get(summary["data"])
    real = info is None or info.kind != "generated"
    return bool(held_out), bool(summary.paper), real, -place, score, _rank(summary["level"])


def results_page(summaries: Sequence[Summary]) -> str:
    """The text of ``docs/results.md``."""
    folder = "[`results/`](../results)" if summaries else "`results/`"
    lines = [
        "# Results",
        "",
        f"Every line comes from a run summary under {folder}. The page is written by",
        "`python -m utils.results`, not by hand. L1 is NumPy, L2 low-level PyTorch, L3 the paper's",
        "implementation.",
        "",
    ]
    if not summaries:
        return "\n".join([*lines, NO_RESULTS, ""])
    header = ["Model", "Level", "Data", "Paper", "Ours", "Seed", "Hardware", "Time", "Command"]
    rows = [
        [
            f"[{s['chapter']}](../{s['chapter']}/README.md) {s['model']}",
            level_name(s["level"]),
            data_title(s["data"]),
            _paper_figure(s),
            format_metrics(s["metrics"]),
            str(s["seed"]),
            s["hardware"],
            format_time(s["duration_s"]),
            f"`{s['command']}`",
        ]
        for s in summaries
    ]
    return "\n".join([*lines, _table(header, rows), ""])


def fill_block(text: str, content: str, where: str) -> str:
    """Put ``content`` between the results lines of ``text``.

    Raises:
        ValueError: if the two lines are not there exactly once.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"{where}: expected one block {START} ... {END}")
    before, rest = text.split(START)
    return f"{before}{START}\n\n{content}\n\n{END}{rest.split(END)[1]}"


def documents(root: Path = ROOT) -> dict[Path, str]:
    """What each document that shows results should hold, by its path.

    Raises:
        ValueError: if summaries are faulty, or READMEs have no place for their results; the
            message has a line for each.
    """
    complaints, summaries = [], []
    try:
        summaries = load_summaries(root)
    except ValueError as error:
        complaints.append(str(error))
    pages = {root / "docs" / "results.md": results_page(summaries)}
    blocks = {root / "README.md": root_block(summaries)}
    for chapter in chapters(root):
        own = [s for s in summaries if s["chapter"] == chapter.name]
        blocks[chapter / "README.md"] = chapter_block(own)
    for path, content in blocks.items():
        name = path.relative_to(root).as_posix()
        if not path.is_file():
            complaints.append(f"{name} is missing")
            continue
        try:
            pages[path] = fill_block(path.read_text(encoding="utf-8"), content, name)
        except ValueError as error:
            complaints.append(str(error))
    if complaints:
        raise ValueError("\n".join(complaints))
    return pages


def outdated(root: Path = ROOT) -> list[str]:
    """The documents whose results are not those of the summaries."""
    return [
        path.relative_to(root).as_posix()
        for path, text in documents(root).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line; the exit status is 0 if all is well."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.results",
        description="Write docs/results.md and the READMEs' tables from the summaries in results/.",
    )
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    adding = commands.add_parser(
        "add",
        help="keep the summary of a finished run under results/",
        description="Keep the summary of a finished run as results/CHAPTER/LEVEL-MODEL-DATA.json.",
    )
    adding.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the run folder")
    adding.add_argument(
        "--name",
        metavar="SUFFIX",
        help="suffix of the file's name, to keep several results of one model and data set; "
        "for example --name dropout gives numpy-mlp-digits-dropout.json",
    )
    adding.add_argument(
        "--replace", action="store_true", help="replace the result of another command or seed"
    )
    adding.add_argument("--note", help="a remark, shown in the tables")
    comparing = commands.add_parser(
        "compare",
        help="draw one metric of several runs into one picture under results/",
        description="Draw one metric of several finished runs of a chapter, epoch by epoch, as "
        "results/CHAPTER/NAME.png.",
    )
    comparing.add_argument("metric", metavar="METRIC", help="for example test_error")
    comparing.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR", help="run folders")
    comparing.add_argument("--name", help="of the picture; without it, the models and the metric")
    options = parser.parse_args(argv)
    try:
        if options.command == "compare":
            target = compare(options.metric, options.run_dirs, options.name, root)
            print(f"drawn as {target.relative_to(root).as_posix()}")
            return 0
        if options.command == "add":
            target = add(options.run_dir, options.name, options.note, root, options.replace)
            print(f"kept as {target.relative_to(root).as_posix()}")
            print("Now bring the documents up to date: python -m utils.results")
            return 0
        behind = outdated(root)
        if options.check:
            for name in behind:
                print(f"{name} is out of date; run python -m utils.results")
            return 1 if behind else 0
        for path, text in documents(root).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        print("written: " + ", ".join(behind) if behind else "all documents were up to date")
        return 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
