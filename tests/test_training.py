"""Runs, checkpoints and the shared loop: stop anywhere, resume, and get the same numbers."""

import json
import os
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
from utils.options import TrainerOptions
from utils.runs import Interrupted, NonFiniteLoss, Run, read_metrics, run_script
from utils.training_utils import (
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
