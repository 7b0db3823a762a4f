"""The doctor: each fault is simulated and must be found, with its mend; a sound set-up passes."""

import os
import re
import subprocess
import sys
import tempfile
import venv
from collections import namedtuple
from pathlib import Path

import pytest

import utils
from utils import data_loaders, doctor
from utils.doctor import Check, Probe

SOUND = {"threads": 2, "cuda": [], "mps": False, "torchvision": ""}


def assert_fault(check: Check, message: str, mend: str) -> None:
    assert not check.ok
    assert re.search(message, check.message), check.message
    assert re.search(mend, check.mend), check.mend
    line = str(check)
    assert line.startswith(f"FAULT  {check.name}: ")
    assert "Mend: " in line
    assert "\n" not in line


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A repository with one chapter."""
    level = tmp_path / "01_Tiny" / "numpy"
    level.mkdir(parents=True)
    (level / "tiny_doctor_patient.py").write_text("")
    (level / "train.py").write_text("")
    (level / "test_numpy.py").write_text("")
    return tmp_path


def answers(monkeypatch: pytest.MonkeyPatch, probe: Probe) -> None:
    monkeypatch.setattr(doctor, "try_in_process", lambda code, folder: probe)


# --- Python


def test_old_python() -> None:
    assert_fault(doctor.check_python((3, 9, 18)), "3.9.18 is too old", "3.10 or later")
    assert doctor.check_python((3, 10, 0)).ok


def test_oldest_python_is_that_of_the_package() -> None:
    oldest = ".".join(map(str, doctor.OLDEST_PYTHON))
    assert f'requires-python = ">={oldest}"' in (utils.ROOT / "pyproject.toml").read_text()


def test_no_virtual_environment_is_a_note(monkeypatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    check = doctor.check_environment()
    assert check.ok
    assert str(check).startswith("note   environment: not in a virtual environment")
    assert "python -m venv" in check.mend
    monkeypatch.setattr(sys, "prefix", "/somewhere/.venv")
    assert str(doctor.check_environment()) == "ok     environment: /somewhere/.venv"


# --- requirements


def test_requirements_file_is_read() -> None:
    text = """
    # a comment
    -e .
    numpy>=1.24,<3   # why
    Some-Package [extra] >= 2 ; python_version > "3"
    plain
    """
    assert list(doctor.read_requirements(text)) == [
        ("numpy", ">=1.24,<3"),
        ("Some-Package", ">= 2"),
        ("plain", ""),
    ]
    assert list(doctor.read_requirements("torch (>=2.14.0)")) == [("torch", ">=2.14.0")]


def test_our_requirements_are_all_checked() -> None:
    names = [check.name for check in doctor.check_requirements()]
    assert {"numpy", "torch", "torchvision", "accelerate", "pytest-xdist"} <= set(names)


def test_missing_and_unfit_requirements(tmp_path: Path, monkeypatch) -> None:
    versions = {"numpy": "1.20.0", "torch": "1.9.0+cpu", "tqdm": "4.70.1"}
    monkeypatch.setattr(doctor, "installed_version", versions.get)
    file = tmp_path / "requirements.txt"
    file.write_text("numpy>=1.24,<3\ntorch>=2.4\ntqdm>=4\nno-such-package\n")
    numpy, torch, tqdm, none = doctor.check_requirements(file)
    assert_fault(numpy, "1.20.0 is installed, >=1.24,<3 is needed", "pip install -r requirements")
    assert_fault(torch, "1.9.0.cpu is installed", "uninstall -y torch torchvision")
    assert str(tqdm) == "ok     tqdm: 4.70.1"
    assert_fault(none, "not installed", "pip install -r requirements.txt")


def test_missing_requirements_file(tmp_path: Path) -> None:
    [check] = doctor.check_requirements(tmp_path / "requirements.txt")
    assert_fault(check, "is missing", "git checkout")


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.4.6", ">=1.24,<3", True),
        ("3.0", ">=1.24,<3", False),
        ("2.4.0+cpu", ">=2.4", True),
        ("2.10.0", ">=2.4", True),
        ("2.5.0a0+git12", ">=2.4", True),
        ("1.0", "", True),
    ],
)
def test_ranges(version: str, wanted: str, fits: bool) -> None:
    assert doctor.in_range(version, wanted) is fits


# --- torch and torchvision


def test_builds_for_different_hardware(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_requires", lambda name: [])
    builds = {"torch": "2.4.0+cpu", "torchvision": "0.19.0+cu121"}
    monkeypatch.setattr(doctor, "_build", builds.get)
    assert_fault(
        doctor.check_torch_pair(),
        "built for cpu, the other for cu121",
        "uninstall -y torch torchvision; then both in one command",
    )
    builds["torchvision"] = "0.19.0+cpu"
    assert doctor.check_torch_pair().ok
    builds["torchvision"] = "0.19.0"  # some wheels carry no tag: only trying can tell
    assert doctor.check_torch_pair().ok


def test_torchvision_for_another_torch(monkeypatch) -> None:
    builds = {"torch": "2.4.0+cpu", "torchvision": "0.19.1+cpu"}
    monkeypatch.setattr(doctor, "_build", builds.get)
    monkeypatch.setattr(doctor, "_requires", lambda name: ["numpy", "torch (==2.4.1)"])
    assert_fault(doctor.check_torch_pair(), "needs torch ==2.4.1", "in one command")
    builds["torch"] = "2.4.1+cpu"
    assert doctor.check_torch_pair().ok


def test_torch_pair_incomplete(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_build", {"torch": "2.4.0"}.get)
    assert_fault(doctor.check_torch_pair(), "is not installed", "pip install -r requirements.txt")


def test_build_tag_is_read_without_importing(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "broken_doctor_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('do not import me')")
    (package / "version.py").write_text("x = 1\n__version__ = '1.2.3+cu99'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._build("broken_doctor_package") == "1.2.3+cu99"
    assert doctor._build("no_such_doctor_package") is None


def fake_package(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)


FAKE_TORCH = """
class cuda:
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda i: "Fake GPU")
class backends:
    class mps:
        is_available = staticmethod(lambda: False)
get_num_threads = lambda: 3
class tensor(list):
    tolist = lambda self: list(self)
"""


def test_torchvision_that_breaks_at_import(tmp_path: Path, monkeypatch) -> None:
    """As happens with a torch from one index and a torchvision from another."""
    fake_package(tmp_path, "torch", FAKE_TORCH)
    error = "operator torchvision::nms does not exist"
    fake_package(tmp_path, "torchvision", f"raise RuntimeError('{error}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    probe = doctor.probe_torch()
    assert doctor.check_torch(probe).ok
    assert_fault(doctor.check_torchvision(probe), error, "one index")
    assert str(doctor.check_devices(probe)) == (
        "ok     devices: cpu (3 threads), cuda:0 (Fake GPU)"
    )


def test_torchvision_that_computes_wrongly(tmp_path: Path, monkeypatch) -> None:
    fake_package(tmp_path, "torch", FAKE_TORCH)
    fake_package(
        tmp_path,
        "torchvision",
        "import torch\nclass ops:\n    nms = staticmethod(lambda *_: torch.tensor([0, 1]))",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert_fault(doctor.check_torchvision(doctor.probe_torch()), "AssertionError", "torchvision")


def test_torch_that_breaks_at_import(tmp_path: Path, monkeypatch) -> None:
    fake_package(tmp_path, "torch", "raise ImportError('libtorch_cpu.so: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    probe = doctor.probe_torch()
    assert_fault(doctor.check_torch(probe), "libtorch_cpu.so: cannot open", "in one command")
    assert_fault(doctor.check_torchvision(probe), "torch does not load", "mend torch first")
    assert doctor.check_devices(probe).ok


def test_torch_that_kills_its_process(tmp_path: Path, monkeypatch) -> None:
    fake_package(tmp_path, "torch", "import os; os._exit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert_fault(doctor.check_torch(doctor.probe_torch()), "exit status 9", "torch")


def test_torch_missing() -> None:
    probe = Probe(None, "ModuleNotFoundError: No module named 'torch'")
    assert_fault(doctor.check_torch(probe), "No module", "pip install -r requirements.txt")


def test_a_process_that_never_answers(monkeypatch, tmp_path: Path) -> None:
    def endless(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 180)

    monkeypatch.setattr(subprocess, "run", endless)
    assert "three minutes" in doctor.try_in_process("", tmp_path).error


def test_apple_device() -> None:
    check = doctor.check_devices(Probe(SOUND | {"mps": True}))
    assert check.message == "cpu (2 threads), mps"


# --- numpy and utils


def test_numpy_shadowed_by_a_chapter(house: Path) -> None:
    level = house / "01_Tiny" / "numpy"
    (level / "__init__.py").write_text("")
    assert_fault(doctor.check_numpy(house), r"finds .*01_Tiny.*numpy.*instead", "delete or rename")
    (level / "__init__.py").unlink()
    check = doctor.check_numpy(house)
    assert check.ok, check  # the folder is still there and does no harm


def test_numpy_missing_or_broken(house: Path, monkeypatch) -> None:
    answers(monkeypatch, Probe({"file": None, "version": ""}))
    assert_fault(doctor.check_numpy(house), "the library is not installed", "pip install -r")
    answers(monkeypatch, Probe(None, "ImportError: DLL load failed"))
    assert_fault(doctor.check_numpy(house), "DLL load failed", "--force-reinstall")


def test_utils_of_another_checkout(tmp_path: Path, monkeypatch) -> None:
    fake_package(tmp_path, "utils", "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor.check_utils()
    assert_fault(check, "not this checkout", "pip install -e")
    assert str(utils.ROOT) in check.mend
    assert doctor.check_utils(tmp_path).ok


def test_utils_not_installed(monkeypatch) -> None:
    answers(monkeypatch, Probe(None, "ModuleNotFoundError: No module named 'utils'"))
    assert_fault(doctor.check_utils(), "not installed .*No module named 'utils'", "pip install -e")


# --- the checkout


def test_package_file_in_a_chapter(house: Path) -> None:
    assert doctor.check_no_packages(house).ok
    (house / "01_Tiny" / "numpy" / "__init__.py").write_text("")
    check = doctor.check_no_packages(house)
    assert_fault(check, "01_Tiny/numpy/__init__.py", "delete 01_Tiny/numpy/__init__.py")


def test_modules_of_the_chapters(house: Path, tmp_path: Path, monkeypatch) -> None:
    assert_fault(doctor.check_modules(house), "tiny_doctor_patient does not find", "run the doctor")
    monkeypatch.syspath_prepend(house / "01_Tiny" / "numpy")
    assert doctor.check_modules(house).message == "1 modules in 1 chapters can be imported"
    rival = tmp_path / "rival"
    rival.mkdir()
    (rival / "tiny_doctor_patient.py").write_text("")
    monkeypatch.syspath_prepend(rival)
    assert_fault(doctor.check_modules(house), "finds .*rival", "rename one of the two")


def test_chapters_of_this_checkout_can_be_imported() -> None:
    check = doctor.check_modules()
    assert check.ok, check


# --- folders


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("")
    assert_fault(doctor.check_folder("data folder", file), "is a file, not a folder", "move")
    assert_fault(doctor.check_folder("data folder", file / "MNIST"), "is a file", "move")


def test_folder_that_can_not_be_written(tmp_path: Path, monkeypatch) -> None:
    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    check = doctor.check_folder("data folder", tmp_path / "data")
    assert_fault(check, r"can't write to .*Permission denied", "DATA_DIR")
    check = doctor.check_folder("run folder", tmp_path / "runs")
    assert_fault(check, "can't write", "permission there$")


def test_full_disk(tmp_path: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(10, 9, 3e8))
    check = doctor.check_folder("run folder", tmp_path)
    assert_fault(check, r"0.3 GB free in .*, 1 GB is needed", "free some space")


def test_folder_that_does_not_exist_yet_is_fine_and_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    assert doctor.check_folder("data folder", folder, least_gb=0).ok
    assert not folder.parent.exists()


def test_data_folder_is_that_of_the_loaders(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    assert doctor.data_folder() == data_loaders.data_folder()
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert doctor.data_folder() == data_loaders.data_folder() == tmp_path


# --- all together


def test_report_and_exit_status(monkeypatch, capsys) -> None:
    good, bad = Check("a", True, "well"), Check("b", False, "ill", "rest")
    monkeypatch.setattr(doctor, "examine", lambda: iter([good]))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out == "ok     a: well\nall is well\n"
    monkeypatch.setattr(doctor, "examine", lambda: iter([good, bad]))
    assert doctor.main([]) == 1
    assert capsys.readouterr().out == "ok     a: well\nFAULT  b: ill. Mend: rest\n1 fault\n"


def test_this_set_up_is_sound() -> None:
    faults = [str(check) for check in doctor.examine() if not check.ok]
    assert not faults, "\n".join(faults)


def test_doctor_runs_where_nothing_is_installed(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = next((tmp_path / "bare").glob("[bS]*/python*"))
    # A PYTHONPATH of whoever runs this would make utils importable.
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-m", "utils.doctor"]
    done = subprocess.run(
        command, cwd=utils.ROOT, env=bare, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == ""
    faults = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]
    named = {line.split()[1].rstrip(":") for line in faults}
    assert {"numpy", "torch", "torchvision", "utils"} <= named
    assert all("Mend: " in line for line in faults)
