"""Every training script of every chapter: help, a seed that counts, and stop and resume."""

import dataclasses

import numpy as np
import pytest

import utils
from utils import caption_data
from utils.document_data import Documents
from utils.exercises import load_module
from utils.runs import Interrupted, Run, read_metrics
from utils.weights import load_weights

SCRIPTS = sorted(
    script
    for chapter in utils.chapters()
    for level in utils.LEVELS
    for pattern in ("train.py", "train_*.py")  # and no training_paper.py, which is a model file
    for script in (chapter / level).glob(pattern)
)
NAMES = [script.relative_to(utils.ROOT).as_posix() for script in SCRIPTS]


def words(script, out, *more):
    device = [] if script.parent.name == "numpy" else ["--device", "cpu"]
    sizes = ["--epochs", "2", "--limit", "80", "--batch-size", "16"]
    return [*sizes, *device, *more, "--out", str(out)]


def weights_and_losses(out):
    (folder,) = out.glob("*/*")
    return load_weights(folder / "model.safetensors"), read_metrics(folder), folder


@pytest.fixture(params=SCRIPTS, ids=NAMES)
def script(request):
    return request.param


@pytest.fixture
def main(script, monkeypatch):
    module = load_module(script, "script_" + "_".join(script.parts[-3:])[:-3])
    # --limit leaves the test set whole, which takes most of the time.
    for name, shorten in (
        ("load_arrays", few_test_examples),
        ("load_corpus", short_corpus),
        ("load_documents", short_documents),
        ("load_pairs", few_test_pairs),
    ):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, shorten(getattr(module, name)))
    for name, count in (("CAPTIONS_TRAIN", 200), ("CAPTIONS_VAL", 40), ("CAPTIONS_TEST", 40)):
        monkeypatch.setattr(caption_data, name, count)
    if hasattr(module, "generate"):  # a sample of 500 characters, at the end of each run
        monkeypatch.setattr(module, "generate", few_tokens(module.generate))
    return module.main


def few_test_examples(load):
    def load_few(*args, **options):
        data = load(*args, **options)
        return dataclasses.replace(data, x_test=data.x_test[:60], y_test=data.y_test[:60])

    return load_few


def few_test_pairs(load):
    def load_few(*args, **options):
        pairs = load(*args, **options)
        val, test = (tuple(side[:20] for side in part) for part in (pairs.val, pairs.test))
        return dataclasses.replace(pairs, val=val, test=test)

    return load_few


def short_corpus(load):
    def load_short(*args, **options):
        corpus = load(*args, **options)
        return dataclasses.replace(corpus, train=corpus.train[:40_000], test=corpus.test[:3_000])

    return load_short


def short_documents(load):
    def load_short(*args, **options):
        documents = load(*args, **options)
        parts = (documents.train, documents.test)
        return Documents(*([text[:400] for text in part[:300]] for part in parts))

    return load_short


def few_tokens(generate):
    def generate_few(model, start, count, *args, **options):
        return generate(model, start, min(count, 20), *args, **options)

    return generate_few


def test_help_shows_the_docstring_and_the_common_options(main, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    for wanted in (
        "--resume",
        "--data-dir",
        "--seed",
        "--epochs",
        "--lr",
        "--batch-size",
        "python ",
    ):
        assert wanted in shown


def test_a_seed_decides_a_run_even_if_it_is_stopped_and_resumed(
    script, main, tmp_path, monkeypatch
):
    main(words(script, tmp_path / "whole", "--seed", "3"))
    want, records, _ = weights_and_losses(tmp_path / "whole")
    last = max(record["step"] for record in records)
    with monkeypatch.context() as patched:
        patched.setattr(Run, "should_stop", lambda self: self.step == max(1, last // 2))
        with pytest.raises(Interrupted):
            main(words(script, tmp_path / "cut", "--seed", "3"))
    (folder,) = (tmp_path / "cut").glob("*/*")
    main(["--resume", str(folder)])
    got = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(got[name], want[name]) for name in want)
    assert read_metrics(folder) == records

    main(words(script, tmp_path / "other", "--seed", "4"))
    other, _, _ = weights_and_losses(tmp_path / "other")
    assert any(not np.array_equal(other[name], want[name]) for name in want)
