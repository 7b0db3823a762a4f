"""The shared training loop of level 3, on accelerate, and what every PyTorch script needs.

:func:`fit` is the loop that L1's and L2's scripts write out, plus what a longer training needs: any
device, mixed precision, gradients accumulated over parts of a batch, clipping, learning-rate
schedules, several processes. One rule keeps all of these the same training: **a step is one global
batch**. It is cut into one share per process and each share into ``grad_accumulation`` parts, and
every part's mean loss is weighted by its size; so the gradient is that of the whole batch, however
it was cut. (Batch normalisation is the exception: it sees one part at a time.)
"""

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset

from utils.data_loaders import ArrayDataset, collate
from utils.options import TrainerOptions
from utils.runs import DeviceMissing, Run

Schedule = Callable[[int], float]
LossFunction = Callable[[torch.nn.Module, Any], torch.Tensor | tuple[torch.Tensor, dict[str, Any]]]


def set_seed(seed: int) -> torch.Generator:
    """Seed Python, NumPy and PyTorch (all devices); returns a CPU generator with the same seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        DeviceMissing: no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        expected = "expected a device such as auto, cpu, cuda or mps"
        raise DeviceMissing(f"{expected}, got {name}") from error
    no_cuda = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    no_mps = device.type == "mps" and not torch.backends.mps.is_available()
    if no_cuda or no_mps:
        raise DeviceMissing(f"this machine has no device {name}; --device cpu always works")
    return device


# --- schedules: step -> factor of the base learning rate; step 0 is the first


def constant() -> Schedule:
    """The base rate throughout."""
    return lambda step: 1.0


def step_decay(boundaries: Sequence[int], factor: float = 0.1) -> Schedule:
    """Multiply by ``factor`` at each step named in ``boundaries``."""
    return lambda step: factor ** sum(step >= boundary for boundary in boundaries)


def piecewise(values: Sequence[tuple[int, float]]) -> Schedule:
    """``(number of steps, factor)`` one after the other; the last factor holds from then on."""

    def schedule(step: int) -> float:
        for length, factor in values:
            if step < length:
                return factor
            step -= length
        return values[-1][1]

    return schedule


def cosine(total: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear rise over ``warmup`` steps, then half a cosine down to ``floor`` at ``total``."""

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return schedule


# --- the loop


class _Together:
    """Optimiser and gradient scaler as one thing to save."""

    def __init__(self, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
        self.optimizer = optimizer
        self.scaler = accelerator.scaler

    def state_dict(self) -> dict[str, Any]:
        scaler = self.scaler.state_dict() if self.scaler is not None else {}
        return {"optimizer": self.optimizer.state_dict(), "scaler": scaler}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def make_accelerator(options: TrainerOptions) -> Accelerator:
    """The accelerator for these options; under torchrun each process gets its own device."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone:
        # accelerate keeps one global state a process; a second training starts afresh.
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(pick_device(options.device))
    return Accelerator(cpu=options.device == "cpu" or None, mixed_precision=options.mixed_precision)


def _parts(index: np.ndarray, processes: int, rank: int, accumulation: int) -> list[list[int]]:
    """This process's share of a global batch, cut into the parts of gradient accumulation."""
    share = np.array_split(index, processes)[rank]
    return [part.tolist() for part in np.array_split(share, accumulation)]


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout and augmentation depend on seed, step and process alone: resuming repeats them."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def _collate(dataset: Dataset) -> Callable[[Any], Any] | None:
    return collate if isinstance(dataset, ArrayDataset) else None


def _fetch(dataset: Dataset, parts: list[list[int]]) -> Iterator[Any]:
    # An empty part (a batch smaller than the number of parts) borrows an example; its weight is 0.
    sampler = [part or [0] for part in parts]
    return iter(DataLoader(dataset, batch_sampler=sampler, collate_fn=_collate(dataset)))


def fit(
    model: torch.nn.Module,
    loss_function: LossFunction,
    train_set: Dataset,
    options: TrainerOptions,
    run: Run,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule | None = None,
    evaluate: Callable[[torch.nn.Module, torch.device], Mapping[str, float]] | None = None,
    after_step: Callable[[torch.nn.Module], None] | None = None,
) -> torch.nn.Module:
    """Train ``model`` in place for ``options.epochs`` epochs.

    Args:
        loss_function: ``(model, batch) -> loss`` or ``(loss, metrics)``; the mean over the batch.
        train_set: sized data set; an attribute ``lengths`` of it, if there is one, puts examples
            of like length into a batch.
        run: an entered :class:`utils.runs.Run`; ``fit`` restores from and saves to it.
        optimizer: its learning rates are the base that ``schedule`` multiplies.
        evaluate: ``(model, device) -> metrics``, called in eval mode after each epoch.
        after_step: called with the bare model after each update (constraints and the like).

    Returns:
        The trained model, on its device, in eval mode.

    Raises:
        NonFiniteLoss, Interrupted, CheckpointError: see :class:`utils.runs.Run`.
    """
    accelerator = make_accelerator(options)
    rank, processes = accelerator.process_index, accelerator.num_processes
    schedule = schedule or constant()
    bare = model.to(accelerator.device)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    prepared, prepared_optimizer = accelerator.prepare(bare, optimizer)
    run.restore(bare, _Together(optimizer, accelerator))
    stop_everywhere = torch.zeros((), device=accelerator.device)
    if processes > 1:
        run.should_stop = lambda: bool(stop_everywhere)  # type: ignore[method-assign]

    lengths = getattr(train_set, "lengths", None)

    for _ in run.epochs():
        prepared.train()
        for index in run.batches(len(train_set), lengths):  # type: ignore[arg-type]
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * schedule(run.step)
            _seed_step(options.seed, run.step, rank)
            parts = _parts(index, processes, rank, options.grad_accumulation)
            totals = _accumulate(
                accelerator, prepared, loss_function, train_set, parts, processes / len(index)
            )
            metrics: dict[str, Any] = {"lr": optimizer.param_groups[0]["lr"]}
            if options.clip_norm > 0:
                norm = accelerator.clip_grad_norm_(prepared.parameters(), options.clip_norm)
                metrics["grad_norm"] = norm
            prepared_optimizer.step()
            prepared_optimizer.zero_grad()
            if after_step is not None:
                after_step(bare)
            if processes > 1:
                totals["stop"] = torch.tensor(float(run._stop_requested), device=accelerator.device)
                totals = accelerator.reduce(totals, reduction="mean")
                stop_everywhere.copy_(totals.pop("stop") > 0)
            run.log(**(totals | metrics))
            if options.checkpoint_steps and run.step % options.checkpoint_steps == 0:
                run.save()
        bare.eval()
        if evaluate is not None:
            run.evaluate(**evaluate(bare, accelerator.device))
        else:
            run.evaluate()
    return bare.eval()


def _accumulate(
    accelerator: Accelerator,
    model: torch.nn.Module,
    loss_function: LossFunction,
    train_set: Dataset,
    parts: list[list[int]],
    weight: float,
) -> dict[str, torch.Tensor]:
    """Forward and backward over all parts; the mean loss and metrics of this process's share.

    ``weight`` is (number of processes) / (size of the global batch): DDP averages gradients over
    processes, so ``weight`` x (size of the part) makes each example count the same.
    """
    totals: dict[str, torch.Tensor] = {}
    for i, batch in enumerate(_fetch(train_set, parts)):
        batch = send_to_device(batch, accelerator.device)
        last = i == len(parts) - 1
        # Only the last part's backward pass waits for the other processes.
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                result = loss_function(model, batch)
            loss, metrics = result if isinstance(result, tuple) else (result, {})
            scale = weight * len(parts[i])
            accelerator.backward(loss * scale)
        for name, value in {"loss": loss.detach(), **metrics}.items():
            totals[name] = totals.get(name, 0.0) + torch.as_tensor(value).detach() * scale
    return totals


@torch.no_grad()
def accuracy(
    model: torch.nn.Module,
    dataset: Dataset,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> float:
    """Share of ``(x, label)`` examples whose largest output is the label; in eval mode."""
    was_training = model.training
    model.eval()
    right, count = 0, 0
    for x, y in DataLoader(dataset, batch_size=batch_size, collate_fn=_collate(dataset)):
        x, y = x.to(device), y.to(device)
        right += int((model(x).argmax(dim=-1) == y).sum())
        count += len(y)
    model.train(was_training)
    return right / count
