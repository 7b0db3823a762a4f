"""Checkpoints that are either whole or not there.

A checkpoint is a folder ``step-00000120`` with three files: ``model.safetensors`` (the weights),
``state.pt`` (optimiser state; read with ``weights_only=True``, so nothing in it can run code) and
``manifest.json`` (what wrote it, and the SHA-256 of the other two). It is written under a temporary
name, flushed to disk and renamed: a process killed half-way leaves no checkpoint by that name, and
a file damaged later no longer matches its sum.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.weights import Arrays, load_weights, save_weights

_PREFIX = "step-"


class CheckpointError(RuntimeError):
    """A checkpoint is cut short, damaged, or belongs to another model."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back and verified.

    Attributes:
        weights: name -> array.
        state: what the caller gave to :func:`save_checkpoint`; arrays come back as tensors.
        progress: the caller's counters.
    """

    weights: Arrays
    state: Any
    progress: dict[str, Any]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _arrays_to_tensors(tree: Any) -> Any:
    """``torch.load(weights_only=True)`` refuses NumPy arrays; tensors pass."""
    import torch

    if isinstance(tree, np.ndarray):
        return torch.from_numpy(np.array(tree))
    if isinstance(tree, Mapping):
        return {key: _arrays_to_tensors(value) for key, value in tree.items()}
    return tree


def save_checkpoint(
    folder: Path, step: int, owner: str, weights: Any, state: Any, progress: Mapping[str, Any]
) -> Path:
    """Write one checkpoint into ``folder`` and remove the older ones.

    Args:
        step: number in the name of the checkpoint.
        owner: what trains, e.g. ``02_MLP/numpy/mlp``; checked when the checkpoint is read.
        weights: mapping of arrays or tensors, or a module.
        state: optimiser state: nested dicts and lists of arrays, tensors and plain numbers.
        progress: counters that JSON can hold.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        save_weights(temporary / "model.safetensors", weights)
        torch.save(_arrays_to_tensors(state), temporary / "state.pt")
        sums = {name: _sha256(temporary / name) for name in ("model.safetensors", "state.pt")}
        manifest = {"owner": owner, "step": step, "progress": dict(progress), "sha256": sums}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for name in (*sums, "manifest.json"):
            _flush(temporary / name)
        if final.exists():  # the same step once more, after a resume that made no step
            shutil.rmtree(final)
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in folder.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the highest step in ``folder``, or None."""
    found = sorted(folder.glob(f"{_PREFIX}*")) if folder.is_dir() else []
    return found[-1] if found else None


def load_checkpoint(path: Path, owner: str) -> Checkpoint:
    """Read and verify a checkpoint; nothing on disk changes.

    Raises:
        CheckpointError: a file is missing or differs from its recorded sum, or another model's
            training wrote it.
    """
    import torch

    try:
        manifest = json.loads((path / "manifest.json").read_text())
        sums = dict(manifest["sha256"])
        written_by, progress = str(manifest["owner"]), dict(manifest["progress"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: manifest.json is missing or cut short") from error
    for name, expected in sums.items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path}: {name} is missing")
        if _sha256(path / name) != expected:
            raise CheckpointError(f"{path}: {name} is cut short or damaged (its SHA-256 differs)")
    if written_by != owner:
        raise CheckpointError(f"{path} belongs to {written_by}, expected one of {owner}")
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return Checkpoint(load_weights(path / "model.safetensors"), state, progress)
