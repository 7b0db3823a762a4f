"""Carry one set of weights between the levels.

A level's weights are always a flat mapping from name to array: ``model.params`` at L1 (NumPy), a
dict of tensors at L2, ``model.state_dict()`` at L3. Names and layouts are the same at all three, so
moving weights is copying values; a file that one level saves, every other level loads.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def named_arrays(source: Any) -> Mapping[str, Any]:
    """The flat mapping behind ``source``: itself, or the ``state_dict()`` of a module.

    A parameter that a module uses under two names (an embedding tied to the output, say) counts
    once, under the first; that is its name at L1 and L2 too.
    """
    if isinstance(source, Mapping):
        return source
    if hasattr(source, "named_parameters"):
        kept = {name for name, _ in source.named_parameters()}
        every = {name for name, _ in source.named_parameters(remove_duplicate=False)}
        tied = every - kept
        return {n: value for n, value in source.state_dict().items() if n not in tied}
    raise TypeError(f"expected a mapping or a module, got {type(source).__name__}")


def to_array(value: Any) -> np.ndarray:
    """A NumPy array with the values of an array or a tensor (on any device)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def to_numpy(source: Any, dtype: Any = None) -> Arrays:
    """Copies of all weights as NumPy arrays, for L1.

    Args:
        source: dict of arrays or tensors, or a module.
        dtype: floating arrays are cast to it; None keeps theirs.
    """
    arrays = {}
    for name, value in named_arrays(source).items():
        array = np.array(to_array(value))
        if dtype is not None and np.issubdtype(array.dtype, np.floating):
            array = array.astype(dtype)
        arrays[name] = array
    return arrays


def to_torch(source: Any, dtype: Any = None, requires_grad: bool = False) -> dict[str, Any]:
    """Copies of all weights as leaf tensors, for L2 (and for ``load_state_dict`` at L3).

    Args:
        source: dict of arrays or tensors, or a module.
        dtype: floating tensors are cast to it; None keeps theirs.
        requires_grad: make each floating tensor a leaf that collects a gradient.
    """
    import torch

    tensors = {}
    for name, value in named_arrays(source).items():
        tensor = torch.from_numpy(np.array(to_array(value)))
        if tensor.is_floating_point():
            tensor = tensor.to(dtype or tensor.dtype).requires_grad_(requires_grad)
        tensors[name] = tensor
    return tensors


def copy_value(target: Any, source: Any) -> None:
    """Overwrite the values of one array or tensor in place; dtype and device of ``target`` stay."""
    if hasattr(target, "detach"):
        import torch

        with torch.no_grad():
            target.copy_(torch.as_tensor(np.array(to_array(source))))
    else:
        target[...] = to_array(source)


def check_same_names(target: Mapping[str, Any], source: Mapping[str, Any], what: str) -> None:
    """Raise ValueError, naming the entries, unless both have the same names and shapes."""
    problems = []
    missing = sorted(set(target) - set(source))
    unexpected = sorted(set(source) - set(target))
    if missing:
        problems.append(f"missing {', '.join(missing)}")
    if unexpected:
        problems.append(f"unexpected {', '.join(unexpected)}")
    for name in target:
        if name in source and tuple(target[name].shape) != tuple(source[name].shape):
            expected, got = tuple(target[name].shape), tuple(source[name].shape)
            problems.append(f"{name}: expected shape {expected}, got {got}")
    if problems:
        raise ValueError(f"{what} does not fit this model: " + "; ".join(problems))


def load_into(target: Any, source: Any, what: str = "the set of weights") -> None:
    """Copy the weights of ``source`` into ``target`` in place, whatever levels they come from.

    Raises:
        ValueError: names or shapes differ; nothing is copied then.
    """
    target, source = named_arrays(target), named_arrays(source)
    check_same_names(target, source, what)
    for name in target:
        copy_value(target[name], source[name])


def save_weights(path: str | Path, source: Any, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write all weights to one safetensors file.

    Args:
        metadata: small JSON-able facts kept in the file's header.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    arrays = {
        # The reshape keeps a single number (a count of batches) one: () and not (1,).
        name: np.ascontiguousarray(array).reshape(array.shape)
        for name, array in to_numpy(source).items()
    }
    header = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    save_file(arrays, str(path), metadata=header)
    return path


def load_weights(path: str | Path) -> Arrays:
    """Read a safetensors file that any level saved.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut short or is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a safetensors file, found nothing at {path}")
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or is not a safetensors file ({error})") from error
