"""Look for what is wrong with the set-up: ``python -m utils.doctor``.

One line for each check: ``ok``, ``note`` (worth knowing, not in the way) or ``FAULT``, and behind
those two what mends it. The exit status is 1 if there is a fault.

The doctor must run when the patient is ill: it imports nothing but the standard library and
:mod:`utils` itself. Whatever may be broken is tried in a process of its own.

To add a check, write a function that returns a :class:`Check` (or several) and list it in
:func:`examine`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import utils

OLDEST_PYTHON = (3, 10)
LEAST_FREE_GB = 1.0
INSTALL = "python -m pip install -r requirements.txt"
INSTALL_TORCH = (
    "python -m pip uninstall -y torch torchvision; then both in one command, so that they come "
    "from one index: python -m pip install torch torchvision"
)


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what was looked at.
        ok: nothing is wrong.
        message: the finding.
        mend: what to do; with ``ok`` it is advice.
    """

    name: str
    ok: bool
    message: str
    mend: str = ""

    def __str__(self) -> str:
        status = "FAULT" if not self.ok else "note" if self.mend else "ok"
        line = f"{status:<5}  {self.name}: {self.message}"
        return f"{line}. Mend: {self.mend}" if self.mend else line


# --- Python itself


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Is this Python new enough?"""
    text, oldest = ".".join(map(str, version)), ".".join(map(str, OLDEST_PYTHON))
    if version[:2] >= OLDEST_PYTHON:
        return Check("python", True, text)
    return Check(
        "python",
        False,
        f"{text} is too old",
        f"make the virtual environment with Python {oldest} or later",
    )


def check_environment() -> Check:
    """Does this Python belong to a virtual (or conda) environment?"""
    if sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX"):
        return Check("environment", True, sys.prefix)
    return Check(
        "environment",
        True,
        "not in a virtual environment, so other projects' packages may interfere",
        "python -m venv .venv, activate it, and install there",
    )


# --- requirements


def check_requirements(file: Path = utils.ROOT / "requirements.txt") -> list[Check]:
    """Is each requirement installed, in a version that serves? One check for each."""
    if not file.is_file():
        return [Check("requirements", False, f"{file} is missing", "git checkout requirements.txt")]
    return [_check_requirement(*requirement) for requirement in read_requirements(file.read_text())]


def read_requirements(text: str) -> Iterator[tuple[str, str]]:
    """Name and range of each requirement, like ("numpy", ">=1.24,<3"); options are passed over."""
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        match = re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:\[.*?\])?\s*([^;]*)", line)
        if match:
            yield match[1], match[2].strip(" ()")


def _check_requirement(name: str, wanted: str) -> Check:
    installed = installed_version(name)
    mend = INSTALL_TORCH if name in ("torch", "torchvision") else INSTALL
    if installed is None:
        return Check(name, False, "not installed", INSTALL)
    if not in_range(installed, wanted):
        return Check(name, False, f"{installed} is installed, {wanted} is needed", mend)
    return Check(name, True, installed)


def installed_version(name: str) -> str | None:
    """The version that pip installed, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def in_range(version: str, wanted: str) -> bool:
    """Is ``version`` within a range like ``>=1.24,<3``?"""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # it comes with matplotlib and pytest: without it those are faults anyway
        return True
    return SpecifierSet(wanted).contains(version, prereleases=True)


def check_torch_pair() -> Check:
    """Are torch and torchvision built for each other?"""
    torch, torchvision = _build("torch"), _build("torchvision")
    if torch is None or torchvision is None:
        return Check("torch pair", False, "torch or torchvision is not installed", INSTALL)
    both = f"torch {torch}, torchvision {torchvision}"
    tags = [version.partition("+")[2] for version in (torch, torchvision)]
    if all(tags) and tags[0] != tags[1]:
        message = f"{both}: one is built for {tags[0]}, the other for {tags[1]}"
        return Check("torch pair", False, message, INSTALL_TORCH)
    for name, wanted in read_requirements("\n".join(_requires("torchvision"))):
        if name == "torch" and not in_range(torch.partition("+")[0], wanted):
            message = f"{both}: this torchvision needs torch {wanted}"
            return Check("torch pair", False, message, INSTALL_TORCH)
    return Check("torch pair", True, both)


def _build(package: str) -> str | None:
    """The package's ``__version__`` with its build tag (2.4.0+cpu), read without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    for folder in spec.submodule_search_locations:
        file = Path(folder) / "version.py"
        found = re.search(
            r"^__version__\s*=\s*['\"](.+?)['\"]", file.read_text() if file.is_file() else "", re.M
        )
        if found:
            return found[1]
    return installed_version(package)


def _requires(package: str) -> list[str]:
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []


# --- do they run? (each in a process of its own)

NUMPY_PROBE = """
import json, numpy
print(json.dumps({"file": numpy.__file__, "version": getattr(numpy, "__version__", "")}))
"""

UTILS_PROBE = """
import json, utils
print(json.dumps({"file": utils.__file__}))
"""

TORCH_PROBE = """
import json, torch
cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
mps = torch.backends.mps.is_available()
found = {"threads": torch.get_num_threads(), "cuda": cuda, "mps": mps, "torchvision": ""}
try:
    import torchvision
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]
except Exception as error:
    found["torchvision"] = f"{type(error).__name__}: {error}" or "error"
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Probe:
    """What came of trying something: its findings, or the last line of the error."""

    found: dict | None
    error: str = ""


def try_in_process(code: str, folder: Path) -> Probe:
    """Run Python code that prints JSON, in a fresh process with ``folder`` as working directory."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=180,
        )
    except subprocess.TimeoutExpired:
        return Probe(None, "no answer within three minutes")
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return Probe(json.loads(lines[-1]))
    complaint = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return Probe(None, complaint[-1])


def check_numpy(folder: Path = utils.ROOT) -> Check:
    """Does ``import numpy`` give the library, even from within a chapter with a folder ``numpy/``?

    Args:
        folder: the repository; the first chapter's folder is where the import is tried.
    """
    chapters = utils.chapters(folder)
    probe = try_in_process(NUMPY_PROBE, chapters[0] if chapters else folder)
    if probe.found is None:
        return Check("numpy import", False, probe.error, f"{INSTALL} --force-reinstall")
    file = probe.found["file"]
    if file is None:  # a folder without __init__.py is taken only when there is no library
        message = "import numpy finds a chapter's folder, because the library is not installed"
        return Check("numpy import", False, message, INSTALL)
    inside = [chapter for chapter in chapters if chapter.resolve() in Path(file).resolve().parents]
    if inside:
        message = f"import numpy finds {file} instead of the library"
        return Check("numpy import", False, message, f"delete or rename {file}")
    return Check("numpy import", True, f"{probe.found['version']} from {Path(file).parent}")


def check_utils(root: Path = utils.ROOT) -> Check:
    """Do scripts in any folder import ``utils`` from this checkout?"""
    with tempfile.TemporaryDirectory() as elsewhere:
        probe = try_in_process(UTILS_PROBE, Path(elsewhere))
    mend = f'python -m pip install -e "{root}"'
    if probe.found is None:
        return Check("utils", False, f"not installed ({probe.error})", mend)
    file = probe.found["file"]
    if file is None or Path(file).resolve().parent.parent != root.resolve():
        return Check("utils", False, f"import utils finds {file}, not this checkout", mend)
    return Check("utils", True, f"installed from {root}")


def probe_torch() -> Probe:
    """Load torch and torchvision, which takes seconds: once for the checks below."""
    with tempfile.TemporaryDirectory() as elsewhere:
        return try_in_process(TORCH_PROBE, Path(elsewhere))


def check_torch(probe: Probe) -> Check:
    """Does torch load?"""
    if probe.found is None:
        absent = "No module named 'torch'" in probe.error
        return Check("torch import", False, probe.error, INSTALL if absent else INSTALL_TORCH)
    return Check("torch import", True, "loads")


def check_torchvision(probe: Probe) -> Check:
    """Does torchvision load, and do its compiled operations run?"""
    if probe.found is None:
        return Check("torchvision import", False, "torch does not load", "mend torch first")
    if probe.found["torchvision"]:
        error = " ".join(probe.found["torchvision"].split())
        return Check("torchvision import", False, error, INSTALL_TORCH)
    return Check("torchvision import", True, "loads, and its compiled operations run")


def check_devices(probe: Probe) -> Check:
    """What could a training run on? For information: never a fault."""
    if probe.found is None:
        return Check("devices", True, "unknown, because torch does not load")
    devices = [f"cpu ({probe.found['threads']} threads)"]
    devices += [f"cuda:{i} ({name})" for i, name in enumerate(probe.found["cuda"])]
    devices += ["mps"] if probe.found["mps"] else []
    return Check("devices", True, ", ".join(devices))


# --- this checkout


def check_no_packages(root: Path = utils.ROOT) -> Check:
    """No ``__init__.py`` in a chapter: it would turn ``numpy/`` into a rival of the library."""
    found = [
        file.relative_to(root).as_posix()
        for chapter in utils.chapters(root)
        for file in sorted(chapter.rglob("__init__.py"))
    ]
    if found:
        return Check(
            "packages", False, f"a chapter has {', '.join(found)}", f"delete {' and '.join(found)}"
        )
    return Check("packages", True, "no __init__.py in a chapter")


def check_modules(root: Path = utils.ROOT) -> Check:
    """Does each model's module name lead to its file?"""
    total = 0
    for chapter in utils.chapters(root):
        for file in _model_files(chapter):
            total += 1
            spec = importlib.util.find_spec(file.stem)
            shown = file.relative_to(root).as_posix()
            if spec is None or spec.origin is None:
                message = f"import {file.stem} does not find {shown}"
                return Check("chapters", False, message, f"run the doctor in {root}")
            if Path(spec.origin).resolve() != file.resolve():
                message = f"import {file.stem} finds {spec.origin}, not {shown}"
                return Check("chapters", False, message, f"rename one of the two {file.name}")
    chapters = len(utils.chapters(root))
    return Check("chapters", True, f"{total} modules in {chapters} chapters can be imported")


def _model_files(chapter: Path) -> Iterator[Path]:
    for level in utils.LEVELS:
        for file in sorted((chapter / level).glob("*.py")):
            if file.stem != "__init__" and not file.stem.startswith(("train", "test_")):
                yield file


def data_folder() -> Path:
    """As :func:`utils.data_loaders.data_folder`, which can't be had without NumPy."""
    return Path(os.environ.get("DATA_DIR") or utils.ROOT / "data").expanduser()


def check_folder(name: str, folder: Path, least_gb: float = LEAST_FREE_GB) -> Check:
    """Can files be written to ``folder`` (or could it be made), and is there room?"""
    mend = "give yourself write permission there"
    if name == "data folder":
        mend += ", or let DATA_DIR name another folder"
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return Check(name, False, f"{place} is a file, not a folder", f"move {place} away")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check(name, False, f"can't write to {place} ({error.strerror})", mend)
    free_gb = shutil.disk_usage(place).free / 1e9
    if free_gb < least_gb:
        message = f"{free_gb:.1f} GB free in {place}, {least_gb:g} GB is needed"
        return Check(name, False, message, "delete old run folders, or free some space")
    return Check(name, True, f"{folder} can be written, {free_gb:.0f} GB free")


# --- all together


def examine() -> Iterator[Check]:
    """Every check, in the order in which faults are best mended."""
    yield check_python()
    yield check_environment()
    yield from check_requirements()
    yield check_numpy()
    torch = probe_torch()
    yield check_torch_pair()
    yield check_torch(torch)
    yield check_torchvision(torch)
    yield check_utils()
    yield check_no_packages()
    yield check_modules()
    yield check_folder("data folder", data_folder())
    yield check_folder("run folder", utils.ROOT / "runs")
    yield check_devices(torch)


def report(checks: Iterable[Check]) -> int:
    """Print the checks as they come. Returns the number of faults."""
    faults = 0
    for check in checks:
        print(check, flush=True)
        faults += not check.ok
    print("all is well" if not faults else f"{faults} fault{'s' if faults > 1 else ''}")
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the set-up. Returns the exit status."""
    argparse.ArgumentParser(
        prog="python -m utils.doctor", description="Look for what is wrong with the set-up."
    ).parse_args(argv)
    return 1 if report(examine()) else 0


if __name__ == "__main__":
    sys.exit(main())
