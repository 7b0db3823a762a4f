"""Runs, checkpoints and the shared loop: stop anywhere, resume, and get the same numbers."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import utils
from utils.checkpoints import CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint
from utils.data_loaders import ArrayDataset
from utils.exercises import load_module
from utils.options import TrainerOptions
from utils.runs import Interrupted, NonFiniteLoss, Run, by_length, read_metrics, run_script
from utils.training_utils import (
    _seed_step,
    accuracy,
    constant,
    cosine,
    fit,
    pick_device,
    piecewise,
    set_seed,
    step_decay,
)
from utils.weights import load_weights

SCRIPT = utils.ROOT / "02_MLP" / "numpy" / "train.py"  # any script of a chapter
PAPER_SCRIPT = utils.ROOT / "02_MLP" / "paper" / "train.py"


@dataclass(frozen=True)
class Small(TrainerOptions):
    epochs: int = 3
    batch_size: int = 8
    device: str = "cpu"


def numpy_training(options, stop_at=None, die_at=None):
    """Momentum on a quadratic with noise: stands for an L1 script. Returns the weights."""
    params = {"w": np.ones((3, 2))}
    state = {"velocity.w": np.zeros((3, 2))}
    with Run(options, str(SCRIPT), model="toy", quiet=True) as run:
        run.restore(params, state)
        for _ in run.epochs():
            for index in run.batches(20):
                gradient = params["w"] + index.mean() + run.rng().standard_normal((3, 2))
                state["velocity.w"] *= 0.9
                state["velocity.w"] += gradient
                params["w"] -= 0.01 * state["velocity.w"]
                if run.step + 1 == stop_at:
                    signal.raise_signal(signal.SIGINT)
                run.log(loss=(params["w"] ** 2).sum())
                if run.step == die_at:
                    raise MemoryError("stands for a crash")
            run.evaluate(norm=np.abs(params["w"]).max())
        run.finish()
    return params["w"], run.folder


def only_folder(out):
    (chapter,) = out.iterdir()
    (folder,) = chapter.iterdir()
    return folder


# --- run folders


def test_a_run_leaves_everything_that_is_promised(tmp_path):
    _, folder = numpy_training(Small(out=tmp_path))
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "summary.json",
        "loss.png",
    }
    records = read_metrics(folder)
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 10))  # 3 epochs of 3
    assert sum("norm" in r for r in records) == 3
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["chapter"] == "02_MLP" and summary["level"] == "numpy"
    assert summary["parameters"] == 6 and summary["steps"] == 9
    assert summary["versions"]["numpy"] == np.__version__
    assert str(Path.home()) not in json.dumps(summary)
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["batch_size"] == 8


def test_two_runs_in_one_second_get_two_folders(tmp_path):
    folders = {numpy_training(Small(out=tmp_path, epochs=1))[1] for _ in range(2)}
    assert len(folders) == 2


def test_limit_uses_fewer_examples(tmp_path):
    _, folder = numpy_training(Small(out=tmp_path, epochs=1, limit=9))
    assert len([r for r in read_metrics(folder) if "loss" in r]) == 2


def test_batches_cover_each_example_once_and_differ_by_epoch_and_seed(tmp_path):
    def orders(seed):
        with Run(Small(out=tmp_path, epochs=2, seed=seed), str(SCRIPT), "toy", quiet=True) as run:
            run.restore({"w": np.zeros(1)})
            return [np.concatenate(list(run.batches(20))) for _ in run.epochs()]

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(20))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, orders(1)[0])
    assert np.array_equal(first, orders(0)[0])


# --- stop and resume


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5, 8])
def test_ctrl_c_then_resume_is_the_same_run(tmp_path, stop_at):
    want, whole = numpy_training(Small(out=tmp_path / "whole"))
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at}; go on with: .*--resume"):
        numpy_training(Small(out=tmp_path / "cut"), stop_at=stop_at)
    folder = only_folder(tmp_path / "cut")
    got, _ = numpy_training(Small(resume=folder))
    assert np.array_equal(got, want)
    assert read_metrics(folder) == read_metrics(whole)


@pytest.mark.parametrize("die_at", [4, 7])
def test_after_a_crash_the_steps_since_the_checkpoint_are_made_again(tmp_path, die_at, monkeypatch):
    monkeypatch.setattr("utils.runs._SECONDS_BETWEEN_SAVES", 0)
    want, whole = numpy_training(Small(out=tmp_path / "whole"))
    with pytest.raises(MemoryError):
        numpy_training(Small(out=tmp_path / "cut"), die_at=die_at)
    folder = only_folder(tmp_path / "cut")
    got, _ = numpy_training(Small(resume=folder))
    assert np.array_equal(got, want)
    assert read_metrics(folder) == read_metrics(whole)


def test_a_finished_run_can_go_on_for_more_epochs(tmp_path):
    want, _ = numpy_training(Small(out=tmp_path / "five", epochs=5))
    _, folder = numpy_training(Small(out=tmp_path / "three"))
    got, _ = numpy_training(Small(resume=folder, epochs=5))
    assert np.array_equal(got, want)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == 5 and summary["prolonged"] is True


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    _, folder = numpy_training(Small(out=tmp_path))
    before = snapshot(folder)
    numpy_training(Small(resume=folder))
    assert snapshot(folder) == before
    assert json.loads((folder / "summary.json").read_text())["prolonged"] is False


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    with Run(Small(out=tmp_path), str(SCRIPT), "toy", quiet=True) as run:
        run.restore({"w": np.zeros(1)})
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_of_signals_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    numpy_training(Small(out=tmp_path, epochs=1))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_non_finite_loss_stops_the_run_and_says_at_which_step(tmp_path):
    with (
        pytest.raises(NonFiniteLoss, match="the loss is nan at step 2"),
        Run(Small(out=tmp_path), str(SCRIPT), "toy", quiet=True) as run,
    ):
        run.restore({"w": np.zeros(1)})
        for _ in run.epochs():
            for i, _ in enumerate(run.batches(20)):
                run.log(loss=float("nan") if i == 1 else 1.0)


def test_restore_must_come_first(tmp_path):
    with (
        pytest.raises(RuntimeError, match="expected run.restore"),
        Run(Small(out=tmp_path), str(SCRIPT), "toy", quiet=True) as run,
    ):
        next(run.epochs())


def test_run_script_leaves_the_group_of_processes(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    run_script(
        lambda: torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    )
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("error", "code"),
    [(Interrupted("go on with"), 130), (NonFiniteLoss("nan"), 1), (CheckpointError("cut"), 1)],
)
def test_run_script_turns_expected_errors_into_one_line(error, code, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_script(main)
    assert stopped.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- checkpoints


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


DAMAGE = {
    "weights cut short": ("model.safetensors", lambda b: b[: len(b) // 2]),
    "state cut short": ("state.pt", lambda b: b[:-10]),
    "one byte changed": ("model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
    "manifest cut short": ("manifest.json", lambda b: b[: len(b) // 2]),
    "manifest empty": ("manifest.json", lambda b: b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_a_clear_error_and_nothing_changes(tmp_path, damage):
    _, folder = numpy_training(Small(out=tmp_path))
    name, change = DAMAGE[damage]
    file = latest_checkpoint(folder / "checkpoints") / name
    file.write_bytes(change(file.read_bytes()))
    before = snapshot(folder)
    with pytest.raises(CheckpointError, match=f"{name}.*cut short"):
        numpy_training(Small(resume=folder, epochs=5))
    assert snapshot(folder) == before


def test_a_checkpoint_with_a_missing_file_is_a_clear_error(tmp_path):
    _, folder = numpy_training(Small(out=tmp_path))
    (latest_checkpoint(folder / "checkpoints") / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"state\.pt is missing"):
        numpy_training(Small(resume=folder, epochs=5))


def resume_with(folder, params, state, model="toy"):
    with Run(Small(resume=folder, epochs=5), str(SCRIPT), model, quiet=True) as run:
        run.restore(params, state)


@pytest.mark.parametrize(
    ("params", "state", "model", "message"),
    [
        ({"w": np.ones((3, 2))}, {"velocity.w": np.ones((3, 2))}, "other", "belongs to .*toy"),
        ({"w": np.ones((4, 2))}, {"velocity.w": np.ones((3, 2))}, "toy", "w: expected shape"),
        ({"v": np.ones((3, 2))}, {"velocity.w": np.ones((3, 2))}, "toy", "missing v"),
        ({"w": np.ones((3, 2))}, {"velocity.w": np.ones((4, 2))}, "toy", "velocity.w: expected"),
        ({"w": np.ones((3, 2))}, {}, "toy", "unexpected velocity.w"),
    ],
)
def test_another_models_checkpoint_is_refused(tmp_path, params, state, model, message):
    _, folder = numpy_training(Small(out=tmp_path))
    before, weights = snapshot(folder), {name: p.copy() for name, p in params.items()}
    with pytest.raises(CheckpointError, match=message):
        resume_with(folder, params, state, model)
    assert snapshot(folder) == before
    assert all(np.array_equal(params[name], weights[name]) for name in params)


def test_a_run_without_checkpoint_says_so(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        resume_with(tmp_path, {"w": np.ones(2)}, {})


def test_a_checkpoint_that_fails_while_being_written_leaves_the_last_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, "me", {"w": np.ones(2)}, {}, {"step": 1})

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path, 2, "me", {"w": np.zeros(2)}, {}, {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert load_checkpoint(latest_checkpoint(tmp_path), "me").weights["w"].tolist() == [1, 1]


def test_a_checkpoint_never_runs_code(tmp_path):
    import hashlib
    import pickle

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = save_checkpoint(tmp_path, 1, "me", {"w": np.ones(2)}, {}, {"step": 1})
    torch.save({"optimizer": Malicious()}, path / "state.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["state.pt"] = hashlib.sha256((path / "state.pt").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(path, "me")
    assert not (tmp_path / "ran").exists()


# --- the shared loop


def toy_data(n=50):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    return ArrayDataset(x, (x.sum(dim=1) > 0).long())


def toy_model(dropout=0.0):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 2)
    )


def toy_loss(model, batch):
    x, y = batch
    return torch.nn.functional.cross_entropy(model(x), y)


def train_toy(options, dropout=0.0, loss=toy_loss, schedule=None, data=None, after_step=None):
    model = toy_model(dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with Run(options, str(PAPER_SCRIPT), "toy", quiet=True) as run:
        fit(model, loss, data or toy_data(), options, run, optimizer, schedule, None, after_step)
        run.finish()
    return model, run.folder


def losses(folder):
    return [r["loss"] for r in read_metrics(folder) if "loss" in r]


def test_fit_is_the_plain_loop(tmp_path):
    model, folder = train_toy(Small(out=tmp_path))
    plain, data = toy_model(), toy_data()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    wanted = []
    for epoch in range(3):
        order = np.random.default_rng([0, 0, epoch]).permutation(50)
        for i in range(0, 50, 8):
            optimizer.zero_grad()
            loss = toy_loss(plain, data.__getitems__(order[i : i + 8].tolist()))
            loss.backward()
            optimizer.step()
            wanted.append(loss.item())
    assert losses(folder) == pytest.approx(wanted, rel=1e-5)
    for got, want in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_gradient_accumulation_changes_nothing_but_memory(tmp_path, parts):
    _, whole = train_toy(Small(out=tmp_path / "whole"))
    _, cut = train_toy(Small(out=tmp_path / "cut", grad_accumulation=parts))
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-4)


def test_clipping_bounds_the_step(tmp_path):
    def huge(model, batch):
        return 1e6 * toy_loss(model, batch)

    model = toy_model()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    options = Small(out=tmp_path, clip_norm=0.5, limit=8, epochs=1)
    with Run(options, str(PAPER_SCRIPT), "toy", quiet=True) as run:
        fit(model, huge, toy_data(), options, run, optimizer)
    step = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert step.norm().item() == pytest.approx(0.5, rel=1e-3)
    assert read_metrics(run.folder)[0]["grad_norm"] > 1e4


def test_the_schedule_sets_the_learning_rate(tmp_path):
    _, folder = train_toy(Small(out=tmp_path, epochs=1), schedule=cosine(7, warmup=2))
    rates = [r["lr"] for r in read_metrics(folder) if "loss" in r]
    assert rates == pytest.approx([0.01 * cosine(7, warmup=2)(i) for i in range(7)])


def test_metrics_of_the_loss_function_are_logged_and_after_step_sees_the_bare_model(tmp_path):
    def with_metric(model, batch):
        return toy_loss(model, batch), {"twice": 2 * toy_loss(model, batch)}

    seen = []
    _, folder = train_toy(
        Small(out=tmp_path, epochs=1), loss=with_metric, after_step=lambda m: seen.append(type(m))
    )
    records = [r for r in read_metrics(folder) if "loss" in r]
    assert all(r["twice"] == pytest.approx(2 * r["loss"], rel=1e-5) for r in records)
    assert set(seen) == {torch.nn.Sequential} and len(seen) == 7


def test_bf16_trains(tmp_path):
    _, plain = train_toy(Small(out=tmp_path / "plain"))
    _, half = train_toy(Small(out=tmp_path / "bf16", mixed_precision="bf16"))
    assert losses(half) != losses(plain)
    assert losses(half) == pytest.approx(losses(plain), rel=0.1)


def test_fit_resumes_bit_for_bit_in_the_middle_of_an_epoch(tmp_path):
    model, whole = train_toy(Small(out=tmp_path / "whole"), dropout=0.5)

    def stops(model, batch, calls=[]):  # noqa: B006  (counts its calls)
        calls.append(1)
        if len(calls) == 11:
            signal.raise_signal(signal.SIGINT)
        return toy_loss(model, batch)

    with pytest.raises(Interrupted):
        train_toy(Small(out=tmp_path / "cut"), dropout=0.5, loss=stops)
    folder = only_folder(tmp_path / "cut")
    resumed, _ = train_toy(Small(resume=folder), dropout=0.5)
    for got, want in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(got, want)
    assert losses(folder) == losses(whole)


# --- whole processes


def command(script, *words):
    return [sys.executable, str(script), *map(str, words)]


def quiet_environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def run_command(words, **kwargs):
    return subprocess.run(
        words, capture_output=True, text=True, env=quiet_environment(), timeout=240, **kwargs
    )


def test_killed_and_resumed_ends_with_the_same_weights_bit_for_bit(tmp_path):
    paper = ["--width", "16", "--limit", "200", "--batch-size", "16", "--epochs", "12"]
    options = [*paper, "--device", "cpu", "--checkpoint-steps", "5", "--dropout", "0.3"]
    whole = run_command(command(PAPER_SCRIPT, *options, "--out", tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr

    # SIGKILL gives no time to tidy up; it comes after the checkpoint of step 20 is in place.
    process = subprocess.Popen(
        command(PAPER_SCRIPT, *options, "--out", tmp_path / "cut"),
        env=quiet_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        found = [int(p.name[-8:]) for p in (tmp_path / "cut").glob("*/*/checkpoints/step-*")]
        if max(found, default=0) >= 20:
            break
        time.sleep(0.001)
    process.kill()
    assert process.wait() != 0, "it ended before it could be killed"

    folder = only_folder(tmp_path / "cut")
    assert not (folder / "model.safetensors").exists()
    resumed = run_command(command(PAPER_SCRIPT, "--resume", folder))
    assert resumed.returncode == 0, resumed.stderr
    want = load_weights(only_folder(tmp_path / "whole") / "model.safetensors")
    got = load_weights(folder / "model.safetensors")
    assert all(np.array_equal(got[name], want[name]) for name in want)
    assert losses(folder) == losses(only_folder(tmp_path / "whole"))


def test_two_processes_train_to_the_losses_of_one(tmp_path):
    # 200 examples by 48: the last batch has 8, and 48 is no multiple of 2 x 5.
    options = ["--width", "16", "--limit", "200", "--batch-size", "48", "--epochs", "4"]
    options += ["--device", "cpu", "--dropout", "0", "--grad-accumulation", "5"]
    one = run_command(command(PAPER_SCRIPT, *options, "--out", tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    two = run_command(
        [*torchrun, "--nproc_per_node=2", str(PAPER_SCRIPT), *options, "--out", tmp_path / "two"]
    )
    assert two.returncode == 0, two.stderr
    one_folder, two_folder = only_folder(tmp_path / "one"), only_folder(tmp_path / "two")
    assert len(losses(one_folder)) == 20
    assert losses(two_folder) == pytest.approx(losses(one_folder), rel=1e-5)
    want, got = (load_weights(f / "model.safetensors") for f in (one_folder, two_folder))
    assert all(np.allclose(got[name], want[name], atol=1e-5) for name in want)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--lerning-rate", "1"], 2, "unrecognized arguments: --lerning-rate"),
        (["--epoch", "1"], 2, "did you mean --epochs?"),
        (["--epochs", "many"], 2, "invalid int value: 'many'"),
        (["--epochs", "-1"], 2, "expected a number above 0, got -1"),
        (["--lr", "-1"], 2, "expected a number above 0, got -1"),
        (["--hidden", "0"], 2, "expected at least two positive sizes"),
        (["--dropout", "1.5"], 2, "expected dropout in [0, 1), got 1.5"),
        (["--data", "imagenet"], 2, "invalid choice: 'imagenet'"),
        (["--resume", "nowhere"], 2, "--resume: no run in nowhere"),
    ],
)
def test_wrong_options_are_one_clear_line(words, code, message):
    result = run_command(command(SCRIPT, *words))
    assert result.returncode == code
    assert message in result.stderr and "Traceback" not in result.stderr


def test_a_missing_device_is_one_clear_line():
    result = run_command(command(PAPER_SCRIPT, "--device", "cuda:99"))
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: this machine has no device")
    assert "Traceback" not in result.stderr


def test_missing_data_is_one_clear_line(tmp_path):
    result = run_command(command(SCRIPT, "--data", "mnist", "--data-dir", tmp_path))
    assert result.returncode == 1
    assert "--download mnist" in result.stderr and "digits" in result.stderr
    assert "Traceback" not in result.stderr


# --- small things


def test_seeds_repeat_everything():
    def draw():
        set_seed(3)
        return [np.random.rand(), torch.rand(1).item()]

    assert draw() == draw()


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(ValueError, match="expected a device"):
        pick_device("abacus")
    with pytest.raises(ValueError, match="this machine has no device cuda:99"):
        pick_device("cuda:99")


def test_schedules():
    assert [constant()(i) for i in (0, 10)] == [1, 1]
    assert [step_decay([3, 5], 0.1)(i) for i in (0, 2, 3, 5)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [piecewise([(2, 1.0), (1, 0.5)])(i) for i in range(5)] == [1, 1, 0.5, 0.5, 0.5]
    rise_and_fall = [cosine(10, warmup=4, floor=0.1)(i) for i in range(12)]
    assert rise_and_fall[:4] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert rise_and_fall[4] == pytest.approx(1)
    assert rise_and_fall[7] == pytest.approx(0.55)
    assert rise_and_fall[10] == rise_and_fall[11] == pytest.approx(0.1)


def test_accuracy_counts_and_restores_the_mode():
    model = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Identity()).train()
    x = torch.eye(4)[[0, 1, 2, 3, 3]]
    assert accuracy(model, ArrayDataset(x, torch.tensor([0, 1, 2, 3, 0])), batch_size=2) == 0.8
    assert model.training


def training(options, stop_at=None, number=signal.SIGINT):
    params = {"w": np.ones((3, 2))}
    with Run(options, str(SCRIPT), model="toy", quiet=True) as run:
        run.restore(params, {})
        for _ in run.epochs():
            for _ in run.batches(20):
                params["w"] -= 0.01 * (params["w"] + run.rng().standard_normal((3, 2)))
                if run.step + 1 == stop_at:
                    signal.raise_signal(number)
                run.log(loss=(params["w"] ** 2).sum())
            run.evaluate(norm=np.abs(params["w"]).max())
        summary = run.finish(paper={"norm": 0.5}, last=1.0)
    return run.folder, summary


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


# --- runs


def test_the_summary_has_the_last_metrics_the_mean_loss_and_the_papers_figures(tmp_path):
    folder, _ = training(Small(out=tmp_path))
    records = read_metrics(folder)
    summary = summary_of(folder)
    mean = np.mean([r["loss"] for r in records if "loss" in r][-3:])  # of the last epoch
    norm = [r["norm"] for r in records if "norm" in r][-1]
    assert summary["metrics"] == {"norm": norm, "train_loss": pytest.approx(mean), "last": 1.0}
    assert summary["paper"] == {"norm": 0.5}


@pytest.mark.parametrize("stop_at", [4, 8, 9])
def test_a_resumed_run_has_the_same_summary_and_counts_all_its_seconds(tmp_path, stop_at):
    _, whole = training(Small(out=tmp_path / "whole"))
    with pytest.raises(Interrupted):
        training(Small(out=tmp_path / "cut"), stop_at)
    (folder,) = (tmp_path / "cut").glob("*/*")
    manifest = latest_checkpoint(folder / "checkpoints") / "manifest.json"
    content = json.loads(manifest.read_text())
    content["progress"]["seconds"] = 1000.0
    manifest.write_text(json.dumps(content))
    _, resumed = training(Small(resume=folder))
    assert resumed["metrics"] == whole["metrics"]
    assert 1000 <= resumed["duration_s"] < 1100


def test_a_finished_run_resumed_without_more_epochs_keeps_its_metrics(tmp_path):
    folder, whole = training(Small(out=tmp_path))
    _, again = training(Small(resume=folder))
    assert again["metrics"] == whole["metrics"]


def test_noise_depends_on_seed_and_step_and_is_not_the_shuffle(tmp_path):
    draws = {}
    for seed in (0, 1):
        with Run(Small(out=tmp_path, seed=seed), str(SCRIPT), "toy", quiet=True) as run:
            run.restore({"w": np.zeros(1)})
            for _ in run.epochs():
                for index in run.batches(8):
                    assert not np.array_equal(run.rng().permutation(8), index)
                    assert run.rng().random() == run.rng().random()  # of one step: the same
                    draws[seed, run.step] = run.rng().random()
                    run.log(loss=1.0)
    assert len(set(draws.values())) == len(draws) == 6


def test_batches_by_length_cover_each_example_once_and_save_padding(tmp_path):
    lengths = np.random.default_rng(0).integers(1, 60, size=1000)

    def epochs(by, seed=0):
        with Run(
            Small(out=tmp_path, batch_size=8, seed=seed, epochs=2), str(SCRIPT), "toy", True
        ) as run:
            run.restore({"w": np.zeros(1)}, {})
            return [list(run.batches(1000, by)) for _ in run.epochs()]

    plain, sorted_ = epochs(None), epochs(lengths)
    for batches in sorted_:
        assert sorted(np.concatenate(batches)) == list(range(1000))
        assert [len(b) for b in batches] == [8] * 125
    waste = [sum(len(b) * lengths[b].max() for b in epoch) / lengths.sum() for epoch in
             (plain[0], sorted_[0])]  # fmt: skip
    assert waste[0] > 1.5 and waste[1] < 1.1
    # Not from short to long: that would be another training.
    means = [lengths[b].mean() for b in sorted_[0]]
    assert abs(np.corrcoef(means, np.arange(125))[0, 1]) < 0.3
    again, other = epochs(lengths), epochs(lengths, seed=1)
    assert all((a == b).all() for a, b in zip(sorted_[1], again[1], strict=True))
    assert {tuple(sorted(b)) for b in sorted_[0]} != {tuple(sorted(b)) for b in sorted_[1]}
    assert {tuple(sorted(b)) for b in sorted_[0]} != {tuple(sorted(b)) for b in other[0]}


def test_batches_by_length_mix_anew_in_each_epoch():
    """With lengths that all differ: one sort of everything would give the same batches for ever."""
    lengths = 1 + np.random.default_rng(0).permutation(1003)
    seen, places = [], set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        batches = by_length(rng.permutation(1003), lengths, 8, rng)
        assert sorted(np.concatenate(batches)) == list(range(1003))
        assert sorted(map(len, batches)) == [3] + [8] * 125
        seen.append({tuple(sorted(b)) for b in batches})
        places.add(int(np.argmin([lengths[b].mean() for b in batches])))
    assert len(seen[0] & seen[1]) < 5
    assert len(places) > 4  # the shortest batch comes anywhere


def test_batches_by_length_go_on_where_they_stopped(tmp_path):
    lengths = np.arange(20) % 7

    def seen(stop_after):
        options = Small(out=tmp_path / str(stop_after), batch_size=3, epochs=1)
        batches, folder = [], None
        for _ in range(1 if stop_after is None else 2):
            if folder is not None:
                options = dataclasses.replace(options, resume=folder)
            with contextlib.suppress(Interrupted), Run(options, str(SCRIPT), "toy", True) as run:
                run.restore({"w": np.zeros(1)}, {})
                folder = run.folder
                for _ in run.epochs():
                    for index in run.batches(20, lengths):
                        batches.append(index.tolist())
                        if len(batches) == stop_after:
                            run._stop_requested = True
                        run.log(loss=1.0)
        return batches

    assert seen(4) == seen(None)


def test_a_note_is_in_the_summary(tmp_path):
    with Run(Small(out=tmp_path), str(SCRIPT), "toy", True) as run:
        run.restore({"w": np.zeros(1)}, {})
        assert "note" not in run.finish()
        assert run.finish(note="as nobody counts")["note"] == "as nobody counts"


@pytest.mark.parametrize(("n", "limit", "steps"), [(20, 0, 3), (16, 0, 2), (20, 9, 2), (5, 9, 1)])
def test_steps_per_epoch_are_the_batches(tmp_path, n, limit, steps):
    with Run(Small(out=tmp_path, limit=limit), str(SCRIPT), "toy", quiet=True) as run:
        run.restore({"w": np.zeros(1)})
        assert run.steps_per_epoch(n) == len(list(run.batches(n))) == steps
        sorted_ = list(run.batches(n, np.arange(n) % 4))
        assert len(sorted_) == steps
        assert sorted(np.concatenate(sorted_)) == list(range(min(n, limit or n)))


def test_the_last_epoch_is_saved_and_older_checkpoints_go(tmp_path):
    folder, _ = training(Small(out=tmp_path))
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-00000009"]


def test_parameters_are_those_that_are_trained(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    model[0].bias.requires_grad_(False)
    with Run(Small(out=tmp_path), str(PAPER_SCRIPT), "toy", quiet=True) as run:
        run.restore(model)
    assert run.parameters == 3 * 4 + 2 * 4


def test_sigterm_saves_too(tmp_path):
    with pytest.raises(Interrupted, match="stopped at step 4"):
        training(Small(out=tmp_path), 4, signal.SIGTERM)


def test_a_metrics_line_that_was_cut_off_does_not_stop_the_resume(tmp_path):
    with pytest.raises(Interrupted):
        training(Small(out=tmp_path), 4)
    (folder,) = tmp_path.glob("*/*")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    training(Small(resume=folder))
    assert [r["step"] for r in read_metrics(folder) if "loss" in r] == list(range(1, 10))


# --- checkpoints


def save(folder, step):
    return save_checkpoint(folder, step, "me", {"w": np.full(2, float(step))}, {}, {"step": step})


def test_the_same_step_can_be_saved_again(tmp_path):
    save(tmp_path, 1)
    save_checkpoint(tmp_path, 1, "me", {"w": np.zeros(2)}, {}, {"step": 1})
    assert load_checkpoint(latest_checkpoint(tmp_path), "me").weights["w"].tolist() == [0, 0]


def test_the_newest_of_two_checkpoints_is_taken(tmp_path):
    # A process that is killed between the renaming and the tidying leaves two.
    for step in (9, 10):
        (tmp_path / f"step-{step:08d}").mkdir()
    assert latest_checkpoint(tmp_path).name == "step-00000010"


def test_ctrl_c_while_writing_leaves_the_last_checkpoint_alone(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    for name in ("torch.save", "os.replace"):
        with monkeypatch.context() as patched:
            patched.setattr(name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, 2)
        assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_every_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("flush") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *a: calls.append("rename") or replace(*a))
    save(tmp_path, 1)
    assert calls[-1] == "rename" and calls.count("flush") >= 3


# --- the shared loop


def run_fit(
    tmp_path, loss, model=None, groups=None, schedule=None, evaluate=None, after=None, **options
):
    model = model or torch.nn.Linear(6, 2)
    optimizer = torch.optim.SGD(groups(model) if groups else model.parameters(), lr=0.1)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    data = ArrayDataset(x, (x.sum(dim=1) > 0).long())
    o = Small(out=tmp_path, **options)
    with Run(o, str(PAPER_SCRIPT), "toy", quiet=True) as run:
        got = fit(model, loss, data, o, run, optimizer, schedule, evaluate, after)
    return got, optimizer, read_metrics(run.folder)


def plain(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_each_step_and_process_draws_its_own_dropout(tmp_path):
    drawn = []

    def loss(model, batch):
        drawn.append(torch.rand(1).item())
        return plain(model, batch)

    run_fit(tmp_path, loss)
    assert len(set(drawn)) == len(drawn) == 9

    def draw(*key):
        _seed_step(*key)
        return torch.rand(1).item()

    assert draw(0, 1, 0) == draw(0, 1, 0)
    assert len({draw(*key) for key in [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]}) == 4


def test_the_schedule_reaches_every_group(tmp_path):
    def groups(model):
        return [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}]

    _, optimizer, _ = run_fit(tmp_path, plain, groups=groups, schedule=lambda step: 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 0.005])


def test_training_mode_in_training_and_eval_mode_in_evaluation(tmp_path):
    modes = []

    def loss(model, batch):
        modes.append(model.training)
        return plain(model, batch)

    got, _, _ = run_fit(
        tmp_path, loss, evaluate=lambda model, device: modes.append(model.training) or {}
    )
    assert modes == 3 * [True, True, True, False]
    assert not got.training


def test_after_step_sees_the_new_weights(tmp_path):
    seen = []
    model = torch.nn.Linear(6, 2)
    before = model.weight.detach().clone()
    run_fit(
        tmp_path, plain, model, after=lambda m: seen.append(m.weight.detach().clone()), epochs=1
    )
    assert not torch.equal(seen[0], before) and torch.equal(seen[-1], model.weight)


def test_logged_metrics_are_means_over_examples_however_the_batch_was_cut(tmp_path):
    def loss(model, batch):
        return plain(model, batch), {"mean": batch[0].mean()}

    torch.manual_seed(0)
    _, _, whole = run_fit(tmp_path / "a", loss, epochs=1)
    _, _, cut = run_fit(tmp_path / "b", loss, epochs=1, grad_accumulation=3)
    assert [r["mean"] for r in cut if "mean" in r] == pytest.approx(
        [r["mean"] for r in whole if "mean" in r], rel=1e-4
    )


def test_set_seed_reaches_all_three_libraries():
    def draw():
        generator = set_seed(3)
        return [
            random.random(),
            np.random.rand(),
            torch.rand(1).item(),
            torch.rand(1, generator=generator).item(),
        ]

    assert draw() == draw()
    assert torch.equal(
        torch.rand(2, generator=set_seed(3)),
        torch.rand(2, generator=torch.Generator().manual_seed(3)),
    )


SCRIPTS = [
    ("02_MLP/numpy", "--optimizer adam --dropout 0.3 --hidden 8"),
    ("02_MLP/numpy", "--optimizer momentum --dropout 0.3 --hidden 8"),
    ("02_MLP/pytorch_lowlevel", "--optimizer adamw --dropout 0.3 --hidden 8 --device cpu"),
    ("02_MLP/pytorch_lowlevel", "--optimizer momentum --dropout 0.3 --hidden 8 --device cpu"),
    ("02_MLP/paper", "--width 8 --dropout 0.3 --device cpu"),
]


@pytest.mark.parametrize(("level", "words"), SCRIPTS)
def test_a_script_that_is_stopped_and_resumed_is_the_same_run(tmp_path, monkeypatch, level, words):
    script = load_module(utils.ROOT / level / "train.py", f"train_{level.replace('/', '_')}")
    words = [*["--epochs", "2", "--limit", "100"], *words.split()]
    script.main([*words, "--out", str(tmp_path / "whole")])
    stop = 600 if "xor" in words else 5  # xor is learnt before, within an epoch for the others
    with monkeypatch.context() as patched:
        patched.setattr(Run, "should_stop", lambda self: self.step == stop)
        with pytest.raises(Interrupted):
            script.main([*words, "--out", str(tmp_path / "cut")])
    whole, cut = (next((tmp_path / name).glob("*/*")) for name in ("whole", "cut"))
    script.main(["--resume", str(cut)])
    want, got = (load_weights(folder / "model.safetensors") for folder in (whole, cut))
    assert all(np.array_equal(got[name], want[name]) for name in want)
    assert read_metrics(cut) == read_metrics(whole)


@pytest.mark.parametrize("level", ["numpy", "pytorch_lowlevel", "paper"])
def test_the_data_folder_asked_for_is_looked_in(tmp_path, level):
    from utils.data_loaders import DatasetMissing

    script = load_module(utils.ROOT / "02_MLP" / level / "train.py", f"train_{level}")
    with pytest.raises(DatasetMissing) as caught:
        script.main(["--data", "mnist", "--data-dir", str(tmp_path)])
    assert str(tmp_path) in str(caught.value)
