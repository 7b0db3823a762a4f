"""The rules of the house, each a function from a folder to a list of complaints.

Every rule is used twice: on this repository, where it must find nothing, and on small bad
examples, where it must find the fault.
"""

import ast
import configparser
import glob
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils import LEVELS, ROOT, chapters

SUFFIX = {"numpy": "_numpy", "pytorch_lowlevel": "_lowlevel", "paper": "_paper"}
TEST_NAME = {"numpy": "test_numpy.py", "pytorch_lowlevel": "test_lowlevel.py"} | {
    "paper": "test_paper.py"
}
CEILING = {"numpy": 400, "pytorch_lowlevel": 250, "paper": 300}
SECTIONS = ("Map of this file", "Shapes", "Read before", "Deviations from the paper")
STANDARD_LIBRARY = sys.stdlib_module_names
# What a requirement is called in an import, where the two differ, and packages that come along.
IMPORT_NAMES = {"scikit_learn": "sklearn", "pytest_xdist": "xdist", "open_clip_torch": "open_clip"}
OTHER_MODULES = {"scipy", "PIL", "jax", "autograd", "pandas", "timm", "transformers", "setuptools"}
LIBRARIES_OF_WEIGHTS = {"torchvision", "timm", "transformers", "open_clip", "safetensors"}
COMMANDS = {"zero_shot", "evaluate"}  # scripts that use a trained model


# ----------------------------------------------------------------------------- reading the house
def show(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def python_files(root: Path) -> list[Path]:
    """The Python files of the product: chapters, utils, benchmarks, tests."""
    folders = [*chapters(root), root / "utils", root / "benchmarks", root / "tests"]
    found = [path for folder in folders for path in folder.rglob("*.py")]
    return sorted([*found, *root.glob("*.py")])


def level_files(root: Path) -> Iterator[tuple[Path, str, Path]]:
    """(chapter, level, file) of every Python file of every level."""
    for chapter in chapters(root):
        for level in LEVELS:
            for file in sorted((chapter / level).glob("*.py")):
                yield chapter, level, file


def model_files(root: Path) -> Iterator[tuple[Path, str, Path]]:
    """The same without training scripts and tests."""
    for chapter, level, file in level_files(root):
        if not is_script(file) and not file.name.startswith("test_"):
            yield chapter, level, file


def is_script(file: Path) -> bool:
    """Whether this is a script: ``train.py``, one more, ``train_1986.py``, or a command."""
    return file.stem == "train" or file.stem.startswith("train_") or file.stem in COMMANDS


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(tree: ast.AST, functions: tuple[str, ...] = ()) -> Iterator[tuple[str, int, tuple]]:
    """(dotted name, line, names of the functions around it) of every import.

    ``from torch import nn`` is ``torch.nn``, and ``import_module("x")`` is ``x``.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, functions
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{'.' * node.level}{node.module or ''}.{alias.name}", node.lineno, functions
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            name = first.value if isinstance(first, ast.Constant) else "<computed>"
            yield str(name), node.lineno, functions
        inner = functions
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = (*functions, node.name)
        yield from imports(node, inner)


def called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def top(name: str) -> str:
    return name.split(".")[0]


def l1_modules(root: Path) -> dict[str, Path]:
    """The chapter of each L1 module."""
    return {file.stem: chapter for chapter, level, file in model_files(root) if level == "numpy"}


def chapter_modules(chapter: Path) -> set[str]:
    """The model files of all levels of a chapter, which its training scripts may import."""
    found = (file for level in LEVELS for file in (chapter / level).glob("*.py"))
    return {f.stem for f in found if not is_script(f) and not f.name.startswith("test_")}


def read_graph(root: Path) -> set[tuple[str, str]]:
    """The edges ("01", "02") of the Mermaid graph in 00_Overview.md."""
    text = (root / "00_Overview.md").read_text(encoding="utf-8")
    block = re.search(r"```mermaid\n\s*graph TD\n(.*?)```", text, re.DOTALL)
    node = r"(\d\d)(?:\[[^\]]*\])?"
    return set(re.findall(rf"^\s*{node}\s*-->\s*{node}\s*$", block[1] if block else "", re.M))


def read_labels(root: Path) -> dict[str, list[str]]:
    """What the graph calls each chapter, by its number: ``"02": ["02 MLP"]``."""
    text = (root / "00_Overview.md").read_text(encoding="utf-8")
    block = re.search(r"```mermaid\n\s*graph TD\n(.*?)```", text, re.DOTALL)
    labels: dict[str, list[str]] = {}
    for number, label in re.findall(r"\b(\d\d)\[\"?([^\]\"]*)", block[1] if block else ""):
        labels.setdefault(number, []).append(label)
    return labels


def ancestors(chapter: str, edges: set[tuple[str, str]]) -> set[str]:
    """All chapters from which a path leads to this one."""
    found: set[str] = set()
    waiting = [chapter]
    while waiting:
        here = waiting.pop()
        before = {a for a, b in edges if b == here} - found
        found |= before
        waiting += before
    return found


# -------------------------------------------------------------------------------------- the rules
def package_markers(root: Path) -> list[str]:
    """A chapter folder is no package: its name starts with a digit."""
    found = [p for chapter in chapters(root) for p in chapter.rglob("__init__.py")]
    return [f"{show(path, root)}: chapters have no __init__.py" for path in found]


def third_party(root: Path) -> set[str]:
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {re.split(r"[<>=!~;\[\s#]", line, maxsplit=1)[0] for line in lines}
    plain = {name.replace("-", "_").lower() for name in names if name and name[0] != "-"}
    return {IMPORT_NAMES.get(name, name) for name in plain} | OTHER_MODULES


def shadowing_names(root: Path) -> list[str]:
    """A file called like a standard or third-party module would be imported in its place."""
    taken = set(STANDARD_LIBRARY) | third_party(root)
    return [
        f"{show(path, root)}: {path.stem} is the name of a standard or third-party module"
        for path in python_files(root)
        if path.stem in taken
    ]


def duplicate_modules(root: Path) -> list[str]:
    """The levels of all chapters share one import path."""
    first: dict[str, Path] = {name: root / name for name in ("utils", "benchmarks", "tests")}
    complaints = []
    for _, _, file in model_files(root):
        if file.stem in first:
            complaints.append(
                f"{show(file, root)}: the name is taken by {show(first[file.stem], root)}"
            )
        first.setdefault(file.stem, file)
    return complaints


def wrong_names(root: Path) -> list[str]:
    """``<model>_numpy.py``, ``<model>_lowlevel.py``, ``<model>_paper.py``."""
    return [
        f"{show(file, root)}: expected a name that ends in {SUFFIX[level]}.py"
        for _, level, file in model_files(root)
        if not file.stem.endswith(SUFFIX[level])
    ]


def l1_imports(root: Path) -> list[str]:
    """L1 uses NumPy and what earlier chapters taught, along the dependency graph."""
    modules, edges = l1_modules(root), read_graph(root)
    complaints = []
    for chapter, level, file in level_files(root):
        if level != "numpy" or file.name.startswith("test_"):
            continue
        script = is_script(file)
        utils_line: int | None = None
        for name, line, _ in imports(parse(file)):
            where, package = f"{show(file, root)}:{line}", top(name)
            if package == "utils":
                utils_line = line if utils_line is None else utils_line
                if name != "utils" and not script:
                    complaints.append(f"{where}: a model file has only `import utils`")
            elif package in modules:
                complaints += _prerequisite(where, chapter, modules[package], edges)
                if modules[package] != chapter and utils_line is None:
                    complaints.append(
                        f"{where}: `import utils` (with  # noqa: F401) has to come before {package}"
                    )
            elif package != "numpy" and package not in STANDARD_LIBRARY:
                complaints.append(f"{where}: level 1 may not import {name}")
    return complaints


def _prerequisite(where: str, chapter: Path, taught: Path, edges: set) -> list[str]:
    here, there = chapter.name[:2], taught.name[:2]
    if here == there or there in ancestors(here, edges):
        return []
    return [f"{where}: 00_Overview.md has no path {there} --> {here}, which this import needs"]


def l2_imports(root: Path) -> list[str]:
    """L2 is tensors and autograd: no layers, no modules, no ready-made optimiser."""
    complaints = []
    for chapter, level, file in level_files(root):
        if level != "pytorch_lowlevel" or file.name.startswith("test_"):
            continue
        tree = parse(file)
        own = {"torch"} | ({"numpy", "utils"} if is_script(file) else set())
        own_chapter = chapter_modules(chapter)
        for name, line, _ in imports(tree):
            where = f"{show(file, root)}:{line}"
            if name.startswith(("torch.nn", "torch.optim")):
                if name != "torch.nn.functional":
                    complaints.append(f"{where}: level 2 may not import {name}")
            elif top(name) in own_chapter and is_script(file):
                continue  # such as the tokenizer, which is written once, at level 1
            elif top(name) not in own and top(name) not in STANDARD_LIBRARY:
                complaints.append(f"{where}: level 2 may not import {name}")
        for node in ast.walk(tree):
            chain = dotted(node) if isinstance(node, ast.Attribute) else ""
            if chain in ("torch.nn", "torch.optim"):
                complaints.append(f"{show(file, root)}:{node.lineno}: level 2 may not use {chain}")
    return complaints


def dotted(node: ast.AST) -> str:
    """``torch.nn`` for that expression; nothing for anything but names and dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def l3_imports(root: Path) -> list[str]:
    """L3 is torch; another library gives its weights, and only inside ``from_pretrained``."""
    complaints = []
    for _, level, file in model_files(root):
        if level != "paper":
            continue
        for name, line, functions in imports(parse(file)):
            where = f"{show(file, root)}:{line}"
            if top(name) in LIBRARIES_OF_WEIGHTS:
                if "from_pretrained" not in functions:
                    complaints.append(f"{where}: import {name} inside from_pretrained only")
            elif top(name) != "torch" and top(name) not in STANDARD_LIBRARY:
                complaints.append(f"{where}: level 3 may not import {name}")
    return complaints


def late_utils(root: Path) -> list[str]:
    """A script finds its own folder; modules of the others are found once utils is imported."""
    complaints = []
    for chapter, _, file in level_files(root):
        if not is_script(file):
            continue
        elsewhere = chapter_modules(chapter) - {f.stem for f in file.parent.glob("*.py")}
        known = False
        for name, line, _ in imports(parse(file)):
            known |= top(name) == "utils"
            if top(name) in elsewhere and not known:
                where = f"{show(file, root)}:{line}"
                complaints.append(f"{where}: `import utils` has to come before {top(name)}")
    return complaints


def side_effects(root: Path) -> list[str]:
    """A model file computes: no printing, files, options or choice of device."""
    complaints = []
    for _, _, file in model_files(root):
        tree = parse(file)
        found = [
            (line, f"import {name}") for name, line, _ in imports(tree) if top(name) == "argparse"
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = called(node)
                plain = isinstance(node.func, ast.Name) and name in ("print", "open", "input")
                if plain or name in ("cuda", "is_available"):
                    found.append((node.lineno, f"{name}()"))
        complaints += [
            f"{show(file, root)}:{line}: a model file has no {what}" for line, what in found
        ]
    return complaints


def headers(root: Path) -> list[str]:
    """The docstring at the top of a model file names its source, its parts and its letters."""
    complaints = []
    for chapter, _, file in model_files(root):
        text = ast.get_docstring(parse(file)) or ""
        where = show(file, root)
        complaints += [
            f"{where}: no section {s!r} in its docstring" for s in SECTIONS if s not in text
        ]
        if not re.search(r"\b(1[89]|20)\d\d\b", text):
            complaints.append(f"{where}: the docstring names no source with its year")
        before = re.search(r"Read before(.*?)(?:\n\n|\nDeviations|\Z)", text, re.DOTALL)
        for name in re.findall(
            r"\d\d_\w+[\w/.]*\w|[\w/.]*\w\.(?:py|md)", before[1] if before else ""
        ):
            places = [file.parent / name, chapter / name, root / name]
            places += [chapter / level / name for level in LEVELS]
            if not any(place.exists() for place in places):
                complaints.append(f"{where}: Read before names {name}, which does not exist")
    return complaints


def type_checker_path(root: Path) -> list[str]:
    """``mypy_path`` lists the folders that ``import utils`` adds, no more and no fewer."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^mypy_path\s*=\s*\[(.*?)\]", text, re.DOTALL | re.MULTILINE)
    listed = re.findall(r'"([^"]+)"', block[1]) if block else []
    there = [
        f"{c.name}/{level}" for c in chapters(root) for level in LEVELS if (c / level).is_dir()
    ]
    complaints = [f"pyproject.toml: mypy_path lacks {name}" for name in there if name not in listed]
    return complaints + [
        f"pyproject.toml: mypy_path has {name}, which is no level folder"
        for name in listed
        if name not in there
    ]


def missing_files(root: Path) -> list[str]:
    """Every chapter has all three levels, its texts and its exercises."""
    complaints = []
    models = list(model_files(root))
    for chapter in chapters(root):
        wanted = ["README.md", "theory.md", "exercises/test_exercises.py"]
        for level in LEVELS:
            wanted += [f"{level}/train.py", f"{level}/{TEST_NAME[level]}"]
            if not any(c == chapter and at == level for c, at, _ in models):
                complaints.append(f"{chapter.name}/{level}: no *{SUFFIX[level]}.py")
        complaints += [
            f"{chapter.name}/{name} is missing" for name in wanted if not (chapter / name).is_file()
        ]
    return complaints


def long_files(root: Path) -> list[str]:
    """A model file is short enough to be read in one sitting."""
    complaints = []
    for _, level, file in model_files(root):
        count = len(file.read_text(encoding="utf-8").splitlines())
        if count > CEILING[level]:
            complaints.append(f"{show(file, root)}: {count} lines, at most {CEILING[level]}")
    return complaints


def undocumented(root: Path) -> list[str]:
    """Public functions and classes say what they are."""
    files = [file for _, _, file in model_files(root)] + sorted((root / "utils").glob("*.py"))
    return [
        f"{show(file, root)}:{node.lineno}: {node.name} has no docstring"
        for file in files
        for node in parse(file).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]


def thawed_configs(root: Path) -> list[str]:
    """A model's configuration does not change after the model was built."""
    return [
        f"{show(file, root)}:{node.lineno}: {node.name} needs @dataclass(frozen=True)"
        for _, _, file in model_files(root)
        for node in ast.walk(parse(file))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config") and not frozen(node)
    ]


def frozen(node: ast.ClassDef) -> bool:
    return any(
        isinstance(decorator, ast.Call)
        and called(decorator) == "dataclass"
        and any(
            keyword.arg == "frozen"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value is True
            for keyword in decorator.keywords
        )
        for decorator in node.decorator_list
    )


def duplicate_numbers(root: Path) -> list[str]:
    """A chapter goes by its number: in equations, exercises, the graph and `make test-02`."""
    first: dict[str, str] = {}
    complaints = []
    for chapter in chapters(root):
        number = chapter.name[:2]
        if number in first:
            complaints.append(f"{chapter.name}: {first[number]} has the number {number} already")
        first.setdefault(number, chapter.name)
    return complaints


def faulty_graph(root: Path) -> list[str]:
    """The dependency graph is there, without circles, and holds every chapter by its name."""
    edges, labels = read_graph(root), read_labels(root)
    nodes = {node for edge in edges for node in edge}
    complaints = [
        f"00_Overview.md: {n} depends on itself" for n in sorted(nodes) if n in ancestors(n, edges)
    ]
    for chapter in chapters(root):
        number, *words = chapter.name.split("_")
        called_there = labels.get(number, [])
        if number not in nodes:
            complaints.append(f"00_Overview.md: the graph lacks {chapter.name}")
        elif not called_there:
            complaints.append(
                f"00_Overview.md: the graph gives {chapter.name} no name; "
                f"write {number}[{' '.join([number, *words])}] where it is first"
            )
        for label in called_there:
            lacking = [w for w in words if not re.search(rf"\b{w}\b", label, re.IGNORECASE)]
            if lacking:
                complaints.append(
                    f"00_Overview.md: the graph's {number}[{label}] does not name {chapter.name}: "
                    f"it lacks {' and '.join(lacking)}"
                )
    return complaints


RULES = (
    package_markers,
    shadowing_names,
    duplicate_modules,
    wrong_names,
    l1_imports,
    l2_imports,
    l3_imports,
    late_utils,
    side_effects,
    headers,
    type_checker_path,
    missing_files,
    long_files,
    undocumented,
    thawed_configs,
    duplicate_numbers,
    faulty_graph,
)


def hold(complaints: list[str]) -> None:
    """Fail with the complaints, all of them, and nothing else."""
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


# ---------------------------------------------------------------------------- on this repository
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule):
    hold(rule(ROOT))


def test_level_1_loads_no_torch():
    # The walk above reads import statements; this one sees what really gets loaded.
    names = sorted(l1_modules(ROOT))
    program = (
        f"import sys, importlib, utils\nfor name in {names}:\n    importlib.import_module(name)\n"
        "print([m for m in ('torch', 'scipy', 'jax', 'autograd') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.stdout.strip() != "[]":
        hold([f"importing {', '.join(names)} loads {done.stdout.strip() or 'nothing: it fails'}"]
             + done.stderr.splitlines())  # fmt: skip


# ----------------------------------------------------------------------------- on bad examples
HEADER = '''"""Title (A. Author, "Paper", 1986).

Map of this file: nothing.

Shapes: B batch.

Read before: theory.md.

Deviations from the paper: none.
"""
'''

GRAPH = "```mermaid\ngraph TD\n  01[One] --> 02[Two]\n  02 --> 03[Three]\n```\n"
GOOD = {
    "requirements.txt": "-e .\nnumpy>=1.24\ntorch>=2.4\nscikit-learn>=1.4  # data\n",
    "pyproject.toml": "[tool.mypy]\nmypy_path = [\n"
    + "".join(f'    "{c}/{level}",\n' for c in ("01_One", "02_Two", "03_Three") for level in LEVELS)
    + "]\n",
    "00_Overview.md": GRAPH,
    "utils/__init__.py": "def public():\n    'Documented.'\n",
}
for _number, _name in enumerate(("One", "Two", "Three"), start=1):
    _chapter, _stem = f"0{_number}_{_name}", _name.lower()
    GOOD |= {
        f"{_chapter}/README.md": "# Title\n",
        f"{_chapter}/theory.md": "# Title\n",
        f"{_chapter}/exercises/test_exercises.py": "",
        f"{_chapter}/numpy/{_stem}_numpy.py": HEADER + "import numpy as np\n",
        f"{_chapter}/numpy/train.py": f"from {_stem}_numpy import x\nfrom utils.runs import Run\n",
        f"{_chapter}/numpy/test_numpy.py": "import torch\n",
        f"{_chapter}/pytorch_lowlevel/{_stem}_lowlevel.py": HEADER
        + "import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import Tensor\n"
        + "@dataclass(frozen=True)\nclass Config:\n    'Sizes.'\n",
        f"{_chapter}/pytorch_lowlevel/train.py": f"import utils\nfrom {_stem}_lowlevel import x\n",
        f"{_chapter}/pytorch_lowlevel/test_lowlevel.py": "from torch import nn\n",
        f"{_chapter}/paper/{_stem}_paper.py": HEADER
        + "import torch\nfrom torch import nn\n\n\n"
        + "def from_pretrained():\n    'Weights.'\n    from torchvision.models import resnet18\n",
        f"{_chapter}/paper/train.py": "import accelerate\n",
        f"{_chapter}/paper/train_1986.py": "import utils\nprint()\n",
        f"{_chapter}/paper/test_paper.py": "import torchvision\n",
    }

TWO = "02_Two/numpy/two_numpy.py"
TWO_L2 = "02_Two/pytorch_lowlevel/two_lowlevel.py"
TWO_L3 = "02_Two/paper/two_paper.py"
DOCUMENTED = "def f():\n    'Documented.'\n"

BAD = [
    (package_markers, "02_Two/numpy/__init__.py", "", "no __init__.py"),
    (shadowing_names, "02_Two/numpy/torch.py", "", "torch is the name"),
    (shadowing_names, "02_Two/exercises/random.py", "", "random is the name"),
    (shadowing_names, "utils/sklearn.py", "", "sklearn is the name"),
    (duplicate_modules, "03_Three/numpy/two_numpy.py", "", "taken by 02_Two/numpy/two_numpy.py"),
    (duplicate_modules, "03_Three/paper/utils.py", "", "taken by utils"),
    (wrong_names, "02_Two/paper/two.py", "", "ends in _paper.py"),
    (l1_imports, TWO, "import torch\n", "level 1 may not import torch"),
    (l1_imports, TWO, "def f():\n    from scipy import linalg\n", "may not import scipy.linalg"),
    (l1_imports, TWO, "import importlib\nimportlib.import_module('jax')\n", "may not import jax"),
    (l1_imports, TWO, "__import__('to' + 'rch')\n", "may not import <computed>"),
    (l1_imports, TWO, "from utils.parity import perturb\n", "only `import utils`"),
    (l1_imports, TWO, "from . import other\n", "may not import ..other"),
    (l1_imports, TWO, "import two_lowlevel\n", "may not import two_lowlevel"),
    (
        l1_imports,
        TWO,
        "from one_numpy import x\n",
        "(with  # noqa: F401) has to come before one_numpy",
    ),
    (l1_imports, TWO, "import utils\nfrom three_numpy import x\n", "has no path 03 --> 02"),
    (l1_imports, "02_Two/numpy/train.py", "import torch\n", "level 1 may not import torch"),
    (l1_imports, "02_Two/numpy/train.py", "import two_paper\n", "may not import two_paper"),
    (l2_imports, TWO_L2, "from torch import nn\n", "may not import torch.nn"),
    (l2_imports, TWO_L2, "import torch.nn as nn\n", "may not import torch.nn"),
    (l2_imports, TWO_L2, "from torch.nn.functional import relu\n", "torch.nn.functional.relu"),
    (l2_imports, TWO_L2, "from torch.optim import SGD\n", "may not import torch.optim.SGD"),
    (l2_imports, TWO_L2, "import torch\nx = torch.nn.Linear(1, 1)\n", "may not use torch.nn"),
    (l2_imports, TWO_L2, "import torch\nx = torch.optim.SGD\n", "may not use torch.optim"),
    (l2_imports, TWO_L2, "import numpy as np\n", "may not import numpy"),
    (l2_imports, TWO_L2, "import utils\n", "may not import utils"),
    (l2_imports, TWO_L2, "from one_lowlevel import x\n", "may not import one_lowlevel"),
    (l2_imports, TWO_L2, "from two_numpy import x\n", "may not import two_numpy"),
    (l2_imports, "02_Two/pytorch_lowlevel/train.py", "import torch.optim\n", "torch.optim"),
    (l2_imports, "02_Two/pytorch_lowlevel/train.py", "import one_numpy\n", "may not import one_n"),
    (l2_imports, "02_Two/pytorch_lowlevel/train_1986.py", "import torch.optim\n", "torch.optim"),
    (l3_imports, TWO_L3, "import torchvision\n", "inside from_pretrained only"),
    (l3_imports, TWO_L3, "def f():\n    import timm\n", "inside from_pretrained only"),
    (l3_imports, TWO_L3, "import numpy as np\n", "may not import numpy"),
    (l3_imports, TWO_L3, "import utils\n", "may not import utils"),
    (l3_imports, TWO_L3, "import two_numpy\n", "may not import two_numpy"),
    (
        late_utils,
        "02_Two/paper/train.py",
        "import two_paper\nimport two_numpy\nimport utils\n",
        "train.py:2: `import utils` has to come before two_numpy",
    ),
    (side_effects, TWO, "print(1)\n", "no print()"),
    (side_effects, TWO_L2, "def f():\n    with open('x'):\n        pass\n", "no open()"),
    (side_effects, TWO_L3, "import argparse\n", "no import argparse"),
    (side_effects, TWO_L3, "import torch\ntorch.cuda.is_available()\n", "no is_available()"),
    (headers, TWO, '"""Title, 1986. Shapes, Read before, Map of this file."""\n', "'Deviations"),
    (headers, TWO, HEADER.replace("1986", "n.d."), "no source with its year"),
    (headers, TWO, HEADER.replace("theory.md", "04_Four"), "names 04_Four, which does not exist"),
    (headers, TWO, HEADER.replace("theory.md", "one_numpy.py"), "names one_numpy.py"),
    (type_checker_path, "pyproject.toml", 'mypy_path = ["01_One/numpy"]\n', "lacks 02_Two/paper"),
    (
        type_checker_path,
        "pyproject.toml",
        GOOD["pyproject.toml"].replace("]", '"04_Four/numpy"]'),
        "has 04_Four/numpy",
    ),
    (missing_files, "02_Two/theory.md", None, "02_Two/theory.md is missing"),
    (missing_files, "02_Two/paper/test_paper.py", None, "test_paper.py is missing"),
    (missing_files, TWO_L2, None, "02_Two/pytorch_lowlevel: no *_lowlevel.py"),
    (long_files, TWO, "x = 1\n" * 401, "401 lines, at most 400"),
    (long_files, TWO_L2, "x = 1\n" * 251, "251 lines, at most 250"),
    (long_files, TWO_L3, "x = 1\n" * 301, "301 lines, at most 300"),
    (undocumented, TWO_L3, DOCUMENTED + "class Two:\n    x = 1\n", "Two has no docstring"),
    (undocumented, "utils/more.py", DOCUMENTED + "def g():\n    pass\n", "g has no docstring"),
    (thawed_configs, TWO, "class TwoConfig:\n    x = 1\n", "TwoConfig needs @dataclass(frozen"),
    (thawed_configs, TWO_L2, "@dataclass\nclass TwoConfig:\n    x: int\n", ":2: TwoConfig needs"),
    (thawed_configs, TWO_L3, "@dataclass(frozen=False)\nclass Config:\n    x: int\n", "Config nee"),
    (duplicate_numbers, "02_Other/README.md", "", "02_Two: 02_Other has the number 02 already"),
    (faulty_graph, "00_Overview.md", "```mermaid\ngraph TD\n  01 --> 02\n```\n", "lacks 03_Three"),
    (faulty_graph, "00_Overview.md", GRAPH.replace("[Two]", ""), "write 02[02 Two]"),
    (
        faulty_graph,
        "00_Overview.md",
        GRAPH.replace("Two", "VGG"),
        "does not name 02_Two: it lacks Two",
    ),
    (faulty_graph, "03_Three_More/README.md", "", "03[Three] does not name 03_Three_More"),
    (
        faulty_graph,
        "00_Overview.md",
        "```mermaid\ngraph TD\n  01 --> 02\n  02 --> 03\n  03[x] --> 01\n```\n",
        "02 depends on itself",
    ),
]


def build(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_has_no_objection_to_a_good_example(rule, tmp_path):
    build(tmp_path, GOOD)
    hold(rule(tmp_path))


@pytest.mark.parametrize(
    ("rule", "name", "text", "complaint"),
    BAD,
    ids=[f"{rule.__name__}-{i}" for i, (rule, *_) in enumerate(BAD)],
)
def test_the_rule_bites(rule, name, text, complaint, tmp_path):
    build(tmp_path, GOOD)
    if text is None:
        (tmp_path / name).unlink()
    else:
        build(tmp_path, {name: text})
    complaints = rule(tmp_path)
    if not any(complaint in line for line in complaints):
        hold([f"{rule.__name__} does not say {complaint!r}; it says:", *complaints])


def test_every_rule_is_shown_to_bite():
    shown = {rule for rule, *_ in BAD}
    hold([f"{rule.__name__} has no example in BAD" for rule in RULES if rule not in shown])
    hold([f"{rule.__name__} is missing in RULES" for rule in shown if rule not in RULES])


def test_imports_may_follow_a_path_of_the_graph(tmp_path):
    three = {"03_Three/numpy/three_numpy.py": "import utils\nfrom one_numpy import x\n"}
    build(tmp_path, GOOD | three)
    assert l1_imports(tmp_path) == []  # 01 --> 02 --> 03


@pytest.mark.parametrize("level", LEVELS)
def test_a_script_may_import_its_own_chapters_modules(level, tmp_path):
    script = f"02_Two/{level}/train.py"
    text = "from two_numpy import x\n"
    if level != "numpy":  # level 1 stays without torch
        text += "from two_lowlevel import y\nfrom two_paper import z\n"
    build(tmp_path, GOOD | {script: text})
    assert l1_imports(tmp_path) == l2_imports(tmp_path) == l3_imports(tmp_path) == []


def test_a_bare_pytest_collects_tests_and_every_chapter():
    ini = configparser.ConfigParser()
    ini.read(ROOT / "pytest.ini")
    patterns = ini["pytest"]["testpaths"].split()
    found = {Path(path).resolve() for p in patterns for path in glob.glob(f"{ROOT}/{p}")}
    # pytest refuses to start when a pattern matches a file that holds no tests, such as a document.
    assert all(path.is_dir() for path in found), sorted(p.name for p in found if p.is_file())
    assert {ROOT / "tests", *chapters(ROOT)} <= found
