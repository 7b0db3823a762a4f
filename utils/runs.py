"""The bookkeeping of a training run, so that a training script can show its loop and nothing else.

A run folder ``runs/02_MLP-numpy/20260131-154500-digits-seed0`` collects

- ``config.json``: the options, the command, versions and hardware;
- ``metrics.jsonl``: one line a step (loss and so on) and one an evaluation;
- ``checkpoints/``: the last checkpoint, written whole or not at all;
- at the end ``model.safetensors``, ``loss.png`` and ``summary.json``.

The loop itself stays with the script::

    with Run(options, __file__, model="mlp") as run:
        run.restore(model.params, optimizer.state)   # --resume: copies the checkpoint in
        for _ in run.epochs():                       # checkpoints at the end of each
            for index in run.batches(len(x_train)):  # shuffled by seed and epoch
                ...                                  # forward, backward, update
                run.log(loss=loss)                   # this step is done
            run.evaluate(test_accuracy=...)
        run.finish()

Everything random depends on the seed and a counter (epoch or step) alone, never on what was drawn
before; so a run that was stopped and resumed is the same run, bit for bit.
"""

import json
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm import tqdm

from utils import chapter_of
from utils.checkpoints import CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint
from utils.options import RunOptions, command_line, to_json
from utils.weights import check_same_names, copy_value, load_into, named_arrays, save_weights

if TYPE_CHECKING:
    import torch

_SHUFFLE, _NOISE = 0, 1  # separate random streams: the order of examples, and everything else
_SECONDS_BETWEEN_SAVES = 1.0  # epochs of a tiny problem take less; the last one is always saved


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite."""


class DeviceMissing(ValueError):
    """The device that was asked for is not on this machine."""


class Interrupted(RuntimeError):
    """Ctrl-C (or SIGTERM) arrived; raised between two steps, never within one."""


class Stateful(Protocol):
    """An optimiser (or several things bundled) as PyTorch has them."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


class _ArrayState:
    """The optimiser state of L1 and L2, a flat dict of arrays or tensors, as a Stateful."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = arrays

    def state_dict(self) -> dict[str, Any]:
        return dict(self.arrays)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_same_names(self.arrays, state, "the optimiser state of the checkpoint")
        for name, value in self.arrays.items():
            copy_value(value, state[name])


class Run:
    """One training run and its folder; see the module's docstring for the loop.

    Args:
        options: what the command line said; with ``options.resume`` this continues that run.
        file: the training script's ``__file__``; gives chapter and level.
        model: name of what is trained, e.g. ``mlp``.
        quiet: print nothing (tests).
    """

    def __init__(self, options: RunOptions, file: str, model: str, quiet: bool = False) -> None:
        self.options = options
        self.chapter = chapter_of(file).name
        self.level = Path(file).resolve().parent.name
        self.model = model
        self.quiet = quiet
        # torchrun and accelerate number their processes; only the first one writes.
        self.is_main = int(os.environ.get("RANK", "0")) == 0
        self.step = 0
        self.epoch = 0
        self._batches_done = 0  # of this epoch
        self._seconds_before = 0.0  # spent by earlier processes of this run
        self._prolonged = False  # went on for more --epochs than it was started with
        self._stop_requested = False
        self._restored = False
        self._nothing_left = False  # a finished run was resumed
        self._last_save = -math.inf
        self._epoch_losses: list[float] = []
        self._metrics: dict[str, float] = {}
        self._bar: Any = None
        self.folder = Path(options.resume) if options.resume else self._new_folder()

    @property
    def owner(self) -> str:
        """What trains here; a checkpoint of anything else is refused."""
        return f"{self.chapter}/{self.level}/{self.model}"

    def _new_folder(self) -> Path:
        o = self.options
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        parent = Path(o.out) / f"{self.chapter}-{self.level}"
        name = f"{stamp}-{self.model}-{o.data}-seed{o.seed}"
        folder, again = parent / name, 1
        while folder.exists():
            again += 1
            folder = parent / f"{name}-{again}"
        return folder

    # --- entering and leaving

    def __enter__(self) -> "Run":
        if self.options.resume is None and self.is_main:
            self.folder.mkdir(parents=True)
            config = {
                "owner": self.owner,
                "command": command_line(),
                "options": to_json(self.options),
                "versions": versions(),
                "hardware": hardware(),
            }
            (self.folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        self._old_handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old_handlers[number] = signal.signal(number, self._request_stop)
        return self

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop_requested:  # a second Ctrl-C: now
            raise KeyboardInterrupt
        self._stop_requested = True
        self._say("\nStopping after this step (Ctrl-C again: at once, without saving).")

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._close_bar()
        if isinstance(error, Interrupted) and self.is_main:
            self.save()
            script = command_line().split(" --", 1)[0]
            error.args = (
                f"stopped at step {self.step}; go on with: {script} --resume {self.folder}",
            )
        elif getattr(self, "_metrics_file", None):
            self._metrics_file.flush()
        if getattr(self, "_metrics_file", None):
            self._metrics_file.close()

    # --- start, or continuation

    def restore(self, weights: Any, state: Mapping[str, Any] | Stateful | None = None) -> None:
        """Say what is trained; with ``--resume``, also copy the last checkpoint into it.

        Args:
            weights: ``params`` of L1 or L2, or a module: changed in place, saved in checkpoints.
            state: the optimiser's: a flat dict of arrays or tensors, or an object with
                ``state_dict()`` and ``load_state_dict()``.

        Raises:
            CheckpointError: none there, cut short, or another model's; the folder stays as it was.
        """
        self._weights = weights
        if state is None:
            state = {}
        self._state: Stateful = _ArrayState(state) if isinstance(state, Mapping) else state
        self.parameters = int(
            sum(np.prod(tuple(value.shape)) for value in _trainable(weights).values())
        )
        if self.options.resume is not None:
            self._load()
        if self.is_main:
            self._metrics_file = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._say(f"run folder: {self.folder}")
        import torch  # noqa: F401  (checkpoints need it; loading it is no part of the training)

        self._started = time.perf_counter()
        self._restored = True

    def _load(self) -> None:
        path = latest_checkpoint(self.folder / "checkpoints")
        if path is None:
            raise CheckpointError(f"{self.folder} holds no checkpoint to resume from")
        checkpoint = load_checkpoint(path, self.owner)
        try:
            check_same_names(named_arrays(self._weights), checkpoint.weights, str(path))
            self._state.load_state_dict(checkpoint.state)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is of another model: {error}") from error
        load_into(self._weights, checkpoint.weights)
        self.step = int(checkpoint.progress["step"])
        self.epoch = int(checkpoint.progress["epoch"])
        self._batches_done = int(checkpoint.progress["batches_done"])
        self._seconds_before = float(checkpoint.progress["seconds"])
        self._prolonged = bool(checkpoint.progress["prolonged"])
        self._prolonged |= self.options.epochs != int(checkpoint.progress["epochs"])
        self._metrics = dict(checkpoint.progress["metrics"])
        self._epoch_losses = list(checkpoint.progress["epoch_losses"])
        if self.is_main:
            self._forget_metrics_after(self.step)

    def _forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that were made after the checkpoint, and are made again."""
        file = self.folder / "metrics.jsonl"
        kept = [r for r in read_metrics(self.folder) if r["step"] <= step]
        temporary = file.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(temporary, file)

    # --- the loop

    def epochs(self) -> Iterator[int]:
        """The epochs still to go; a checkpoint is written after each (at most one a second).

        Raises:
            RuntimeError: :meth:`restore` was not called.
        """
        if not self._restored:
            raise RuntimeError("expected run.restore(weights, state) before run.epochs()")
        self._nothing_left = self.epoch >= self.options.epochs
        while self.epoch < self.options.epochs:
            yield self.epoch
            self._close_bar()
            self.epoch += 1
            self._batches_done = 0
            self._epoch_losses = []
            last = self.epoch == self.options.epochs
            if last or time.perf_counter() - self._last_save > _SECONDS_BETWEEN_SAVES:
                self.save()

    def batches(self, n: int, lengths: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Index arrays of this epoch's mini-batches, in an order that seed and epoch decide.

        Args:
            n: number of training examples; ``--limit`` may use fewer. One batch may be small.
            lengths: (n,), of sequences; examples of like length then share a batch, which saves
                padding. See :func:`by_length`.
        """
        n = min(n, self.options.limit) if self.options.limit else n
        size = self.options.batch_size
        rng = np.random.default_rng([self.options.seed, _SHUFFLE, self.epoch])
        order = rng.permutation(n)
        total = math.ceil(n / size)
        parts = [order[i * size : (i + 1) * size] for i in range(total)]
        if lengths is not None:
            parts = by_length(order, lengths, size, rng)
        self._bar = tqdm(
            total=total,
            initial=self._batches_done,
            desc=f"epoch {self.epoch + 1}/{self.options.epochs}",
            leave=False,
            disable=True if self.quiet or not self.is_main else None,  # None: only on a terminal
        )
        yield from parts[self._batches_done :]

    def steps_per_epoch(self, n: int) -> int:
        """Number of mini-batches that :meth:`batches` gives for ``n`` examples."""
        n = min(n, self.options.limit) if self.options.limit else n
        return math.ceil(n / self.options.batch_size)

    def rng(self) -> np.random.Generator:
        """Random numbers for this step (dropout, noise): seed and step decide them."""
        return np.random.default_rng([self.options.seed, _NOISE, self.step])

    def torch_generator(self) -> "torch.Generator":
        """The same for PyTorch, on the CPU."""
        import torch

        return torch.Generator().manual_seed(int(self.rng().integers(2**63)))

    def log(self, loss: Any, **metrics: Any) -> None:
        """A step is done: write its line, check its loss, and stop here if Ctrl-C asked for it.

        ``run.step`` counts the steps that are done; this call adds one.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite.
            Interrupted: Ctrl-C; the run can be resumed.
        """
        self.step += 1
        self._batches_done += 1
        loss = _number(loss)
        self._write({"loss": loss} | {name: _number(value) for name, value in metrics.items()})
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss} at step {self.step} (epoch {self.epoch + 1}); a smaller --lr "
                "is the usual mend"
            )
        self._epoch_losses.append(loss)
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        if self.should_stop():
            raise Interrupted

    # Processes that train together replace this by one that asks them all.
    def should_stop(self) -> bool:
        """Whether to stop after this step."""
        return self._stop_requested

    def evaluate(self, **metrics: Any) -> None:
        """Write the metrics measured at the end of an epoch, and print a line of them.

        Names say what they are: ``test_accuracy`` and ``test_error`` are shares of 1. Those that
        :mod:`utils.results` ranks are listed there.
        """
        values = {name: _number(value) for name, value in metrics.items()}
        self._metrics |= values
        if self._epoch_losses:
            self._metrics["train_loss"] = float(np.mean(self._epoch_losses))
        self._write(values)
        self._close_bar()
        shown = "  ".join(f"{name} {_short(value)}" for name, value in self._metrics.items())
        time_so_far = f"{self.seconds():.1f} s so far"
        self._say(f"epoch {self.epoch + 1}/{self.options.epochs}  {shown}  {time_so_far}")

    def save(self) -> None:
        """Write a checkpoint of this moment (between two steps)."""
        if not self.is_main:
            return
        self._metrics_file.flush()
        progress = {
            "step": self.step,
            "epoch": self.epoch,
            "batches_done": self._batches_done,
            "seconds": self.seconds(),
            "epochs": self.options.epochs,
            "prolonged": self._prolonged,
            "metrics": self._metrics,
            "epoch_losses": self._epoch_losses,
        }
        save_checkpoint(
            self.folder / "checkpoints",
            self.step,
            self.owner,
            self._weights,
            self._state.state_dict(),
            progress,
        )
        self._last_save = time.perf_counter()

    def finish(
        self, paper: Mapping[str, float] | None = None, note: str = "", **metrics: Any
    ) -> dict[str, Any]:
        """Write ``model.safetensors``, ``loss.png`` and ``summary.json``; return the summary.

        Args:
            paper: the paper's own figures, by the names of our metrics.
            note: a remark that belongs to the figures, such as how a score was computed.
            metrics: final figures besides those of the last :meth:`evaluate`.
        """
        if self._nothing_left and (self.folder / "summary.json").exists():
            self._say("nothing was left to do; a larger --epochs goes on")
            return dict(json.loads((self.folder / "summary.json").read_text()))
        self._metrics |= {name: _number(value) for name, value in metrics.items()}
        summary = {
            "chapter": self.chapter,
            "level": self.level,
            "model": self.model,
            "data": self.options.data,
            "command": self._command(),
            "seed": self.options.seed,
            "epochs": self.epoch,
            "steps": self.step,
            "parameters": self.parameters,
            "metrics": self._metrics,
            "paper": dict(paper or {}),
            **({"note": note} if note else {}),
            "prolonged": self._prolonged,
            "duration_s": round(self.seconds(), 1),
            "hardware": hardware(),
            "versions": versions(),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        if not self.is_main:
            return summary
        self._metrics_file.flush()
        save_weights(self.folder / "model.safetensors", self._weights)
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        draw_losses(
            self.folder, f"{self.chapter} {self.level}: {self.model} on {self.options.data}"
        )
        self._say(f"finished in {self.seconds():.1f} s; everything is in {self.folder}")
        return summary

    def _command(self) -> str:
        """The command that started this run; if it was prolonged, that is not the whole story."""
        if not self.is_main:
            return ""
        return json.loads((self.folder / "config.json").read_text())["command"]

    def seconds(self) -> float:
        """Seconds of this run so far, those before a resume included."""
        return self._seconds_before + time.perf_counter() - self._started

    # --- small things

    def _write(self, values: Mapping[str, float]) -> None:
        if self.is_main:
            record = {"step": self.step, "epoch": self.epoch + 1, **values}
            self._metrics_file.write(json.dumps(record) + "\n")

    def _say(self, text: str) -> None:
        if self.is_main and not self.quiet:
            print(text, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


_POOL = 50  # batches that are sorted by length together


def by_length(
    order: np.ndarray, lengths: np.ndarray, size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Batches of ``size`` examples of like length, in random order.

    The examples are taken in the given, random order, 50 batches' worth at a time, sorted by length
    and cut. So who shares a batch with whom still changes from epoch to epoch.
    """
    pools = [order[i : i + _POOL * size] for i in range(0, len(order), _POOL * size)]
    sorted_order = np.concatenate(
        [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    )
    parts = [sorted_order[i : i + size] for i in range(0, len(order), size)]
    return [parts[i] for i in rng.permutation(len(parts))]


def _number(value: Any) -> float:
    """A plain number from one of NumPy or a tensor, on any device, with or without a gradient."""
    return float(value.detach() if hasattr(value, "detach") else value)


def _short(value: float) -> str:
    """Four digits; a diverging run gives hundreds."""
    return f"{value:.4g}"


def _trainable(weights: Any) -> Mapping[str, Any]:
    """The parameters without the buffers (running statistics and the like)."""
    if hasattr(weights, "named_parameters"):
        return {name: p for name, p in weights.named_parameters() if p.requires_grad}
    return named_arrays(weights)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run's ``metrics.jsonl``; a last line that was cut off is left out."""
    file = Path(folder) / "metrics.jsonl"
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def draw_losses(folder: Path, title: str) -> None:
    """Draw ``loss.png`` of a run from its ``metrics.jsonl``."""
    from utils.visualization import plot_loss_curves

    records = [r for r in read_metrics(folder) if "loss" in r]
    if not records:
        return
    losses = [r["loss"] for r in records]
    # Single batches scatter; over thousands of steps they would be one solid band. And a loss that
    # falls to a twentieth shows only its first steps on a linear axis.
    smooth = 0.98 if len(records) > 2000 else 0.9 if len(records) > 200 else 0.0
    log_scale = min(losses) > 0 and max(losses) > 20 * float(np.median(losses[-100:]))
    plot_loss_curves(
        {"training": ([r["step"] for r in records], losses)},
        title=title,
        smooth=smooth,
        log_scale=log_scale,
        path=folder / "loss.png",
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "torch", "torchvision", "accelerate", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """One line on the processor and, where PyTorch is in use and sees one, the accelerator."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    line = f"{name}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")  # L1 need not load it
    if torch is not None and torch.cuda.is_available():
        line += f", {torch.cuda.get_device_name()}"
    return line


def run_script(main: Callable[[], Any]) -> None:
    """Call a script's ``main`` and turn the errors that a user can mend into one line each.

    Exits:
        with status 130 after Ctrl-C, 1 after another expected error.
    """
    from utils.data_loaders import DatasetMissing

    try:
        main()
        _leave_group()
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("stopped at once; the last checkpoint, if any, is kept", file=sys.stderr)
        sys.exit(130)
    except (CheckpointError, DatasetMissing, DeviceMissing, NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _leave_group() -> None:
    """Of several processes: end the connections, or their threads may abort this one at its end."""
    distributed = sys.modules.get("torch.distributed")  # level 1 has no torch
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
