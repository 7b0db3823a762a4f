"""Shared machinery of the repository: data, training, checks, pictures, exercises.

``import utils`` makes the model code of every chapter importable by its plain module name::

    import utils
    from mlp_numpy import linear_forward

Chapter folders start with a digit (``02_MLP``), so they can't be Python packages; each level folder
(``02_MLP/numpy`` and so on) goes on the import path instead. Module names are therefore unique
across the repository, and a test keeps them so.
"""

from __future__ import annotations  # so that even an old Python gets as far as the doctor

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("numpy", "pytorch_lowlevel", "paper")


def chapters(root: Path = ROOT) -> list[Path]:
    """The chapter folders (``NN_Name``) in order; any number of them."""
    return sorted(p for p in root.glob("[0-9][0-9]_*") if p.is_dir())


def chapter_of(file: str | Path) -> Path:
    """The chapter folder that holds ``file``.

    Raises:
        ValueError: if the file lies in no chapter.
    """
    path = Path(file).resolve()
    for chapter in chapters():
        if chapter in path.parents or chapter == path:
            return chapter
    raise ValueError(
        f"expected a file in a chapter folder of {ROOT}, got {path}; if that is another copy of "
        "the repository, run pip install -e . there"
    )


def _add_levels_to_import_path() -> None:
    # Appended, not inserted: no folder here may ever hide an installed package.
    for chapter in chapters():
        for level in LEVELS:
            folder = str(chapter / level)
            if (chapter / level).is_dir() and folder not in sys.path:
                sys.path.append(folder)


_add_levels_to_import_path()
