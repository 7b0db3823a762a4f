"""What the documents say is true: links, code, equation numbers, commands, results.

As in test_layout.py, each rule is a function from a folder to a list of complaints, shown to bite
on small bad examples.
"""

import ast
import contextlib
import importlib.util
import io
import re
import shlex
import sys
import textwrap
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from utils import LEVELS, ROOT, chapters
from utils.exercises import find_exercises
from utils.options import RunOptions, parse_options
from utils.results import BETTER, END, START, outdated

# Folders at the root that are not part of the product.
NOT_OURS = {"runs", "data", "build", "dist", "venv", "env", "node_modules"}
TEXT = {".md", ".py", ".toml", ".txt", ".ini", ".json", ".yml", ".yaml", ".cfg", ".sh", ".csv", ""}

FENCE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^\s*```\s*$", re.M | re.S
)
MATHS = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", re.S)
INLINE_CODE = re.compile(r"`+[^`\n]+`+")
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HTML_LINK = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$", re.M)
TAG = re.compile(r"\\tag\{(\d+)\.(\d+)([a-z]?)\}")
NUMBER = r"\d+\.\d+[a-z]?"
# `test_x`, `numpy/test_numpy.py::test_x`, `test_x[case]`; and `fault`, a sabotage test.
TEST = re.compile(r"`(?:[\w/.]+::)?(test_\w+)(?:\[[^`\n]*\])?`")
SABOTAGE = re.compile(
    r"(`\w+`),\s+a\s+sabotage\s+test\b"
    r"|(`\w+`(?:(?:,\s+|,?\s+and\s+)`\w+`)+),\s+sabotage\s+tests\b"
)
CITATION = re.compile(rf"\beqs?\.\s*({NUMBER}(?:(?:\s*(?:,|and|or|to|-|–)\s*)+{NUMBER})*)", re.I)
# The name of a folder of one machine; written in pieces so that this file passes its own rule.
MACHINE_FOLDERS = "|".join(("wor" + "k", "tm" + "p", "roo" + "t", "hom" + "e"))
MACHINE = re.compile(rf"(?<![\w.:/])/(?:{MACHINE_FOLDERS})\b(?!\()")
SHARED = re.compile(r"(?<!\w)shared" + "/")

README_SECTIONS = (
    "The model",
    "Files",
    "Run it",
    "Results",
    "What differs",
    "Pitfalls",
    "Exercises",
    "Read before",
)
CHANGES = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


# ------------------------------------------------------------------------- reading the documents
def files(root: Path) -> Iterator[Path]:
    """Every file of the product, hidden and generated folders left out (but for .ci)."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
        generated = any(part == "__pycache__" or part.endswith(".egg-info") for part in parts)
        if path.is_file() and not hidden and not generated and parts[0] not in NOT_OURS:
            yield path


def markdown(root: Path) -> list[Path]:
    return [path for path in files(root) if path.suffix == ".md"]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def show(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def blocks(text: str, *languages: str) -> list[tuple[int, str]]:
    """(line of the first line, code) of the fenced blocks in these languages."""
    return [
        (text.count("\n", 0, match.start("code")) + 1, textwrap.dedent(match["code"]))
        for match in FENCE.finditer(text)
        if match["language"] in languages
    ]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings, and those set by hand."""
    text = FENCE.sub("", text)
    found: set[str] = set(re.findall(r"<[^>]+\b(?:id|name)=\"([^\"]+)\"", text))
    seen: Counter[str] = Counter()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


# -------------------------------------------------------------------------------------- the rules
def broken_links(root: Path) -> list[str]:
    """Every relative link and picture is there, and so is its anchor."""
    complaints = []
    for document in markdown(root):
        text = FENCE.sub("", read(document))
        text = INLINE_CODE.sub("", MATHS.sub("", text))
        for target in [*LINK.findall(text), *HTML_LINK.findall(text)]:
            if re.match(r"[a-z][a-z+.-]*:", target, re.I):
                continue
            name, _, anchor = unquote(target).partition("#")
            where = f"{show(document, root)}: link to {target}"
            path = (document.parent / name).resolve() if name else document
            if root.resolve() not in (path, *path.parents):
                complaints.append(f"{where} leads out of the repository")
            elif not path.exists():
                complaints.append(f"{where} leads nowhere")
            elif anchor and path.suffix == ".md" and anchor not in anchors(read(path)):
                complaints.append(f"{where}: no such heading")
    return complaints


def wrong_equations(root: Path) -> list[str]:
    """Each equation has its own number, in order, and each that is cited exists."""
    complaints: list[str] = []
    tags: dict[int, list[tuple[int, int, str]]] = {}
    for chapter in chapters(root):
        number = int(chapter.name[:2])
        theory = chapter / "theory.md"
        text = read(theory) if theory.is_file() else ""
        tags[number] = [(int(a), int(b), letter) for a, b, letter in TAG.findall(text)]
        where = f"{chapter.name}/theory.md"
        for before, after in zip([(number, 0, ""), *tags[number]], tags[number], strict=False):
            if after[0] != number:
                complaints.append(f"{where}: tag {spell(after)} is not of chapter {number}")
            elif after <= before:
                complaints.append(f"{where}: tag {spell(after)} after {spell(before)}")
    known = {spell(tag) for of_chapter in tags.values() for tag in of_chapter}
    for path in files(root):
        parts = path.relative_to(root).parts
        ours = re.match(r"\d\d_\w+$", parts[0]) or parts[0] in ("docs", "00_Overview.md")
        if not ours or path.suffix not in (".py", ".md"):
            continue
        for citation in CITATION.finditer(read(path)):
            for number in re.findall(NUMBER, citation[1]):
                if number not in known:
                    complaints.append(f"{show(path, root)}: eq. {number} is in no theory.md")
    return list(dict.fromkeys(complaints))


def spell(tag: tuple[int, int, str]) -> str:
    return f"{tag[0]}.{tag[1]}{tag[2]}"


def machine_paths(root: Path) -> list[str]:
    """Nothing depends on the machine on which it was written."""
    complaints = []
    for path in files(root):
        if path.suffix not in TEXT or path.name.endswith(".bak"):
            continue
        for number, line in enumerate(read(path).splitlines(), start=1):
            # Tests may have made-up folders as examples.
            example = "tests" in path.relative_to(root).parts or path.name.startswith("test_")
            found = SHARED.search(line) or (None if example else MACHINE.search(line))
            if found:
                complaints.append(f"{show(path, root)}:{number}: names {found[0]!r}")
    return complaints


def commands(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every command quoted in a document or in a training script's docstring."""
    for document in markdown(root):
        text = read(document)
        where = show(document, root)
        for line, code in blocks(text, "bash", "sh", "shell", "console"):
            for words in split_commands(code):
                yield f"{where}:{line}", words
        for code in INLINE_CODE.findall(FENCE.sub("", text)):
            code = code.strip("`").strip()
            if code.startswith(("python ", "make ", "pytest ", "torchrun ", "accelerate ")):
                for words in split_commands(code):
                    yield where, words
    for script in sorted(root.glob("[0-9][0-9]_*/*/train*.py")):
        docstring = ast.get_docstring(ast.parse(read(script))) or ""
        # A remark after the command stands in brackets, or two spaces away.
        lines = "\n".join(
            re.split(r"\s{2,}|\s\(", line.strip())[0]
            for line in re.sub(r"\s*\\\n\s*", " ", docstring).splitlines()
            if line.strip().startswith("python ")
        )
        for words in split_commands(lines):
            yield show(script, root), words


def split_commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell script, without assignments and comments."""
    for line in re.sub(r"\\\s*\n", " ", code).splitlines():
        try:
            lexer = shlex.shlex(
                line.strip().removeprefix("$ "), posix=True, punctuation_chars="|&;"
            )
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:
            words = line.split()
        command: list[str] = []
        for word in [*words, ";"]:
            if word and set(word) <= set("|&;"):
                if command:
                    yield command
                command = []
            elif command or not re.match(r"\w+=", word):
                command.append(word)


def wrong_commands(root: Path) -> list[str]:
    """Each quoted command names what exists, and only options that its script knows."""
    makefile = root / "Makefile"
    targets = set(
        re.findall(r"^([\w%-]+)\s*:(?!=)", read(makefile) if makefile.is_file() else "", re.M)
    )
    complaints = []
    for where, words in commands(root):
        problem = ""
        if words[0] == "make":
            for name in words[1:]:
                made = name in targets or any(
                    re.fullmatch(target.replace("%", ".+"), name) for target in targets
                )
                if not made and not name.startswith("-") and "=" not in name:
                    problem = f"the Makefile has no target {name}"
        elif words[0] == "pytest":
            problem = missing_tests(root, words[1:])
        elif words[0] in ("python", "python3", "torchrun", "accelerate"):
            problem = wrong_python(root, words)
        if problem:
            complaints.append(f"{where}: {' '.join(words)}: {problem}")
    return complaints


def missing_tests(root: Path, words: list[str]) -> str:
    for word in words:
        path, _, test = word.partition("::")
        if "/" not in path and not re.match(r"\d\d_|tests$", path):
            continue
        if is_placeholder(path):
            continue
        if not (root / path).exists():
            return f"{path} does not exist"
        name = re.sub(r"\[.*", "", test.split("::")[-1])
        if name and not re.search(rf"def {name}\b|class {name}\b", read(root / path)):
            return f"{path} has no {name}"
    return ""


def is_placeholder(word: str) -> bool:
    return bool(re.search(r"NN|[<>…*{}]|\.\.\.", word))


def wrong_python(root: Path, words: list[str]) -> str:
    script = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    if "-m" in words and (script is None or words.index("-m") < script):
        name = words[words.index("-m") + 1]
        return "" if module_exists(root, name) else f"there is no module {name}"
    if script is None or is_placeholder(words[script]):
        return ""
    path = root / words[script]
    if not path.is_file():
        return f"{words[script]} does not exist"
    is_training = path.stem == "train" or path.stem.startswith("train_")
    return wrong_options(path, words[script + 1 :]) if is_training else ""


def module_exists(root: Path, name: str) -> bool:
    place = root / name.replace(".", "/")
    if place.with_suffix(".py").is_file() or (place / "__main__.py").is_file():
        return True
    # utils.* stands in this very folder; anything else may be installed (pip, venv, pytest, ...)
    return not name.startswith("utils") and importlib.util.find_spec(name.split(".")[0]) is not None


def wrong_options(script: Path, words: list[str]) -> str:
    """What the script's own parser says to these options; nothing if all is well."""
    kept: list[str] = []
    skip = False
    for word in words:
        # Folders and placeholders of the reader's machine can't be checked here.
        if word in ("--resume", "--data-dir", "--out"):
            skip = True
        elif skip:
            skip = False
        elif not word.startswith("#"):
            kept.append(word)
        else:
            break
    if any(is_placeholder(word) for word in kept):
        return ""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parse_options(options_of(script), kept)
    except ValueError as error:
        return str(error)
    except SystemExit as error:
        if error.code:
            return said.getvalue().splitlines()[0]
    return ""


OPTIONS: dict[Path, type] = {}


def options_of(script: Path) -> type:
    """The dataclass of options of a training script (which is loaded, but not run)."""
    if script not in OPTIONS:
        name = f"options_of_{len(OPTIONS)}_{script.parent.parent.name}_{script.parent.name}"
        spec = importlib.util.spec_from_file_location(name, script)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        # As when Python starts a script: its folder comes first.
        sys.path.insert(0, str(script.parent))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(script.parent))
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, RunOptions)
            and value.__module__ == name
        ]
        if len(found) != 1:
            names = ", ".join(kind.__name__ for kind in found) or "none"
            raise ValueError(f"expected one dataclass of options in {script.name}, got {names}")
        OPTIONS[script] = found[0]
    return OPTIONS[script]


def wrong_readmes(root: Path) -> list[str]:
    """A chapter's README has its sections, in order, and a place for results."""
    complaints = []
    for chapter in chapters(root):
        path = chapter / "README.md"
        where = f"{chapter.name}/README.md"
        if not path.is_file():
            complaints.append(f"{where} is missing")
            continue
        text = FENCE.sub("", read(path))
        if not text.startswith(f"# {chapter.name[:2]} · "):
            complaints.append(f"{where}: expected '# {chapter.name[:2]} · Name' as its first line")
        headings = re.findall(r"^## (.*)$", text, re.M)
        at = -1
        for section in README_SECTIONS:
            later = [i for i, name in enumerate(headings) if name.startswith(section)]
            if not later:
                complaints.append(f"{where}: no section '## {section}'")
            elif later[0] < at:
                complaints.append(f"{where}: '## {section}' comes too early")
            else:
                at = later[0]
        if text.count(START) != 1 or text.count(END) != 1:
            complaints.append(f"{where}: expected one block {START} ... {END}")
    return complaints


def wrong_test_names(root: Path) -> list[str]:
    """Each test that a chapter's README or theory names is in that chapter's tests."""
    complaints = []
    for chapter in chapters(root):
        there = {
            node.name
            for file in chapter.rglob("test_*.py")
            for node in ast.walk(ast.parse(read(file)))
            if isinstance(node, ast.FunctionDef)
        }
        for name in ("README.md", "theory.md"):
            text = FENCE.sub("", read(chapter / name)) if (chapter / name).is_file() else ""
            faults = [f for found in SABOTAGE.finditer(text) for f in found[0].split("`")[1::2]]
            complaints += [
                f"{chapter.name}/{name}: no function {quoted} in the chapter's test_*.py"
                for quoted in dict.fromkeys([*TEST.findall(text), *faults])
                # `test_accuracy` is a metric.
                if quoted not in there and quoted.removeprefix("test_") not in BETTER
            ]
    return complaints


def unlisted_exercises(root: Path) -> list[str]:
    """Each exercise has a row, with a link to its page, in its chapter's README."""
    complaints = []
    for e in find_exercises(root):
        path = e.chapter / "README.md"
        text = read(path) if path.is_file() else ""
        section = re.search(r"^## Exercises\b(.*?)(?=^## |\Z)", text, re.M | re.S)
        rows = re.findall(r"^\|.*$", section[1] if section else "", re.M)
        link = f"exercises/{e.page.name}"
        if not any(f"]({link})" in row for row in rows):
            where = f"{e.chapter.name}/README.md"
            complaints.append(f"{where}: no row under '## Exercises' with a link to {link}")
    return complaints


def unexplained_terms(root: Path) -> list[str]:
    """Each term of the glossary is found in the chapters that it names."""
    glossary = root / "docs" / "glossary.md"
    words: dict[str, str] = {}
    complaints = []
    for row in re.findall(r"^\|.*$", read(glossary) if glossary.is_file() else "", re.M)[2:]:
        term, _, links = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"\]\(\.\./(\w+)/README\.md\)", links) or ["no chapter"]:
            if name not in words:
                texts = (read(p) for p in (root / name).rglob("*") if p.suffix in (".md", ".py"))
                words[name] = plain_words(" ".join(texts))
            # "byte-pair encoding (BPE)" and "top-k, top-p" stand for two spellings each
            spellings = [plain_words(part) for part in re.split(r"[(,)]", term) if part.strip()]
            if not any(spelling in words[name] for spelling in spellings):
                complaints.append(f"docs/glossary.md: {name} does not have the term {term!r}")
    return complaints


def plain_words(text: str) -> str:
    return re.sub(r"[\s_*-]+", " ", text.lower()).strip()


def wrong_front_page(root: Path) -> list[str]:
    """The table of the front page has a row for every chapter, with a link."""
    path = root / "README.md"
    text = read(path) if path.is_file() else ""
    complaints = []
    for chapter in chapters(root):
        number, link = chapter.name[:2], f"({chapter.name}/README.md)"
        if not re.search(rf"^\| *{number} *\|.*\]{re.escape(link)}", text, re.M):
            complaints.append(f"README.md: its table has no row | {number} | [...]{link} | ...")
    return complaints


def wrong_changelog(root: Path) -> list[str]:
    """CHANGELOG.md has the form of keepachangelog.com."""
    path = root / "CHANGELOG.md"
    if not path.is_file():
        return ["CHANGELOG.md is missing"]
    text = read(path)
    complaints = (
        [] if text.startswith("# Changelog\n") else ["CHANGELOG.md: first line not '# Changelog'"]
    )
    versions = re.findall(r"^## (.*)$", text, re.M)
    if not versions:
        complaints.append("CHANGELOG.md: no '## [Unreleased]' and no version")
    for version in versions:
        if not re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version):
            complaints.append(f"CHANGELOG.md: expected '[1.2.3] - 2025-01-31', got {version!r}")
    for kind in re.findall(r"^### (.*)$", text, re.M):
        if kind not in CHANGES:
            complaints.append(f"CHANGELOG.md: {kind!r} is none of {', '.join(sorted(CHANGES))}")
    return complaints


def wrong_guide(root: Path) -> list[str]:
    """00_Overview.md links every chapter that exists, and calls none of them still to come."""
    path = root / "00_Overview.md"
    rows = [line for line in read(path).splitlines() if re.match(r"\| *\d\d *\|", line)]
    complaints = []
    for chapter in chapters(root):
        number = chapter.name[:2]
        row = next((r for r in rows if re.match(rf"\| *{number} *\|", r)), "")
        if f"({chapter.name}/README.md)" not in row:
            complaints.append(
                f"00_Overview.md: row {number} of its table does not link {chapter.name}/README.md"
            )
        if "to come" in row:
            complaints.append(f"00_Overview.md: row {number} says that {chapter.name} is to come")
    return complaints


RULES = (
    broken_links,
    wrong_equations,
    machine_paths,
    wrong_commands,
    wrong_readmes,
    wrong_test_names,
    unlisted_exercises,
    unexplained_terms,
    wrong_front_page,
    wrong_changelog,
    wrong_guide,
)


def hold(complaints: list[str]) -> None:
    """Fail with the complaints, all of them, and nothing else."""
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


# ---------------------------------------------------------------------------- on this repository
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_documents_keep_the_rule(rule):
    hold(rule(ROOT))


def test_results_are_those_of_the_committed_summaries():
    try:
        behind = outdated(ROOT)
    except ValueError as error:
        hold(str(error).splitlines())
    else:
        hold([f"{name} is out of date; run python -m utils.results" for name in behind])


def with_python(root: Path) -> list[Path]:
    """Documents with Python blocks; the pages of exercises have fragments only."""
    return [
        path
        for path in markdown(root)
        if "exercises" not in path.relative_to(root).parts and blocks(read(path), "python")
    ]


def failing_block(document: Path, root: Path) -> list[str]:
    """Run the Python blocks of a document in order, in one namespace, up to the first that fails.

    What is said of that one: the line where it begins, the line that failed, and the error.
    """
    namespace: dict[str, object] = {"__name__": "__document__"}
    for first, code in blocks(read(document), "python"):
        try:
            # Empty lines in front, so that a traceback gives the line in the document.
            exec(compile("\n" * (first - 1) + code, str(document), "exec"), namespace)
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            inside = [frame.lineno for frame in frames if frame.filename == str(document)]
            if isinstance(error, SyntaxError) and error.filename == str(document):
                inside = [error.lineno]
            line = (inside or [first])[-1] or first
            complaints = [
                f"{show(document, root)}: the python block that begins in line {first} fails in "
                f"line {line}: {read(document).splitlines()[line - 1].strip()}",
                "".join(traceback.format_exception_only(error)).strip(),
            ]
            if frames[-1].filename not in (str(document), __file__):
                complaints.append(f"raised in {frames[-1].filename}:{frames[-1].lineno}")
            return complaints
    return []


@pytest.mark.parametrize("document", with_python(ROOT), ids=lambda path: show(path, ROOT))
def test_the_python_blocks_run(document, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    hold(failing_block(document, ROOT))


# -------------------------------------------------------------------------------- on bad examples
README = (
    "# 02 · Two\n\n"
    + "".join(f"## {name}\n\n" for name in README_SECTIONS).replace(
        "Exercises\n", "Exercises\n\n| [01 topic](exercises/01_topic.md) | easy |\n"
    )
    + "`test_x`, `numpy/test_numpy.py::test_x[2-3]`, `test_numpy.py`, `test_accuracy`, "
    + "`shifted` and\n`fault`, sabotage tests; `fault`, a sabotage test\n\n"
    + f"{START}\n{END}\n\n```bash\n"
    + "python 02_Two/numpy/train.py --epochs 3 --data wine  # try\n```\n"
)
TRAIN = (
    '"""Train.\n\n    python 02_Two/numpy/train.py --lr 0.1\n"""\n'
    "from dataclasses import dataclass\nfrom typing import Literal\n\n"
    "from utils.options import RunOptions, option\n\n\n"
    "@dataclass(frozen=True)\nclass Options(RunOptions):\n"
    '    data: Literal["digits", "wine"] = option("digits", "the data set")\n'
)
GOOD = {
    "02_Two/README.md": README,
    "02_Two/theory.md": "# T\n\n$$ y = x \\tag{2.1} $$\n$$ z = y \\tag{2.2} $$\n\n## The end\n",
    "02_Two/numpy/two_numpy.py": "x = 1  # eq. 2.1\n",
    "02_Two/numpy/train.py": TRAIN,
    "02_Two/numpy/test_numpy.py": "class TestIt:\n    def test_x(self):\n        pass\n\n\n"
    "def fault():\n    pass\n\n\ndef shifted():\n    pass\n",
    "02_Two/exercises/01_topic.md": "# Topic\n",
    "02_Two/exercises/solutions/ex01_topic.py": "",
    "README.md": "# Title\n\n| | Model |\n|---|---|\n| 02 | [Two](02_Two/README.md) |\n",
    "00_Overview.md": "| 02 | [Two](02_Two/README.md) |\n| 03 | Three (to come) |\n",
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n### Added\n- x\n\n## [0.1.0] - 2025-01-31\n",
    "Makefile": "demo: setup\n\techo\n\ntest-%:\n\techo\n",
    "utils/doctor.py": "",
    "docs/glossary.md": "| Term | Meaning | Chapter |\n| --- | --- | --- |\n"
    "| end (finish) | . | [02](../02_Two/README.md) |\n",
    "docs/page.md": "# Page\n\n[theory](../02_Two/theory.md#the-end), [x](#page), [w](https://x.org)\n"
    "```bash\nmake demo test-02 && python -m utils.doctor\npytest 02_Two -q -k 'yours or mine'\n"
    "torchrun --nproc_per_node=2 02_Two/numpy/train.py --resume runs/x --seed 1\n"
    "python -m pip install -e .\n```\n",
}

PAGE = "docs/page.md"
BAD = [
    (broken_links, PAGE, "[a](nowhere.md)\n", "nowhere.md leads nowhere"),
    (broken_links, PAGE, "![a](../02_Two/loss.png)\n", "loss.png leads nowhere"),
    (broken_links, PAGE, '<img src="loss.png">\n', "loss.png leads nowhere"),
    (broken_links, PAGE, "[a](../02_Two/theory.md#the-start)\n", "no such heading"),
    (broken_links, PAGE, "[a](../../other.md)\n", "leads out of the repository"),
    (wrong_equations, "02_Two/numpy/two_numpy.py", "x = 1  # eq. 2.3\n", "eq. 2.3 is in no theory"),
    (wrong_equations, "02_Two/README.md", "by eqs. 2.1, 2.2 and 2.9\n", "eq. 2.9 is in no theory"),
    (wrong_equations, "02_Two/theory.md", "\\tag{2.1} \\tag{2.1}\n", "tag 2.1 after 2.1"),
    (wrong_equations, "02_Two/theory.md", "\\tag{2.2} \\tag{2.1}\n", "tag 2.1 after 2.2"),
    (wrong_equations, "02_Two/theory.md", "\\tag{3.1}\n", "tag 3.1 is not of chapter 2"),
    (machine_paths, PAGE, "see /" + "tmp/x\n", "names '/" + "tmp'"),
    (machine_paths, "utils/more.py", "PLACE = '../" + "shared" + "/data'\n", "names 'sha"),
    (wrong_commands, PAGE, "```bash\nmake dinner\n```\n", "no target dinner"),
    (wrong_commands, PAGE, "```bash\npython -m utils.nurse\n```\n", "no module utils.nurse"),
    (wrong_commands, PAGE, "Run `python 02_Two/numpy/tain.py`.\n", "tain.py does not exist"),
    (wrong_commands, PAGE, "```bash\npytest 03_Three -q\n```\n", "03_Three does not exist"),
    (wrong_commands, PAGE, "`pytest 02_Two/numpy/train.py::test_x`\n", "has no test_x"),
    (
        wrong_commands,
        PAGE,
        "```bash\nX=1 python 02_Two/numpy/train.py \\\n  --epoch 3\n```\n",
        "unrecognized arguments: --epoch",
    ),
    (wrong_commands, PAGE, "`python 02_Two/numpy/train.py --data beer`\n", "invalid choice"),
    (
        wrong_commands,
        "02_Two/numpy/train_1986.py",
        TRAIN.replace("train.py --lr 0.1", "train_1986.py --rate 0.1"),
        "unrecognized arguments: --rate",
    ),
    (
        wrong_commands,
        "02_Two/numpy/train.py",
        TRAIN.replace("class Options(RunOptions)", "class Options"),
        "expected one dataclass of options in train.py, got none",
    ),
    (
        wrong_readmes,
        "02_Two/README.md",
        README.replace("## Pitfalls", ""),
        "no section '## Pitfalls'",
    ),
    (wrong_readmes, "02_Two/README.md", README.replace(END, ""), "expected one block"),
    (
        wrong_readmes,
        "02_Two/README.md",
        README.replace("Files", "Run").replace("Run it", "Files").replace("## Run", "## Run it"),
        "'## Run it' comes too early",
    ),
    (wrong_test_names, "02_Two/README.md", "as `test_y`\n", "no function test_y in the chapter's"),
    (wrong_test_names, "02_Two/theory.md", "as `a.py::test_y[1]`\n", "no function test_y in"),
    (wrong_test_names, "02_Two/README.md", "`wrong`, a sabotage test\n", "no function wrong in"),
    (
        wrong_test_names,
        "02_Two/README.md",
        "`off`, `fault` and\n`x`, sabotage tests",
        "function off",
    ),
    (
        unlisted_exercises,
        "02_Two/exercises/solutions/ex02_more.py",
        "",
        "link to exercises/02_more",
    ),
    (
        unlisted_exercises,
        "02_Two/README.md",
        "[01](exercises/01_topic.md)\n\n## Exercises\n\n| 01 topic | easy |\n",
        "with a link to exercises/01_topic.md",
    ),
    (
        unexplained_terms,
        "docs/glossary.md",
        "| Term | |\n| - | - |\n| x | . | [02](../02_Two/README.md) |\n"
        "| zebra | . | [02](../02_Two/README.md) |\n",
        "02_Two does not have the term 'zebra'",
    ),
    (
        unexplained_terms,
        "docs/glossary.md",
        "| Term | |\n| - | - |\n| x | . | 02 |\n",
        "no chapter does not have the term 'x'",
    ),
    (wrong_front_page, "README.md", "| 02 | Two |\n", "no row | 02 | [...](02_Two/README.md)"),
    (wrong_front_page, "README.md", "| [02_Two](02_Two/README.md) | 98 % |\n", "no row | 02 |"),
    (wrong_front_page, "03_Three/theory.md", "", "no row | 03 | [...](03_Three/README.md)"),
    (
        wrong_guide,
        "00_Overview.md",
        "| 02 | Two (to come) |\n",
        "row 02 says that 02_Two is to come",
    ),
    (
        wrong_guide,
        "00_Overview.md",
        "| 02 | [x](02_VGG/README.md) |\n",
        "does not link 02_Two/README",
    ),
    (wrong_changelog, "CHANGELOG.md", None, "is missing"),
    (wrong_changelog, "CHANGELOG.md", "# Changelog\n\n## Version 1\n", "got 'Version 1'"),
    (wrong_changelog, "CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n### New\n", "'New' is none"),
]


def build(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
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


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("  assert x == 1", []),
        ("  y = 2\n  assert x == 2, 'no'", [": assert x == 2, 'no'", "AssertionError: no"]),
        ("  y = 2\n  y = = 1", [": y = = 1", "SyntaxError: invalid syntax"]),
        ("  y = 2\n  json.loads('{')", [": json.loads('{')", "JSONDecodeError", "raised in "]),
    ],
)
def test_blocks_of_one_document_share_a_namespace_and_know_their_line(code, complaint, tmp_path):
    document = tmp_path / "theory.md"
    document.write_text(
        f"# T\n\n```python\nimport json\nx = 1\n```\n\n- item\n  ```python\n{code}\n  ```\n"
    )
    told = failing_block(document, tmp_path)
    assert len(told) == len(complaint)
    if told:
        start = "theory.md: the python block that begins in line 10 fails in line 11"
        assert told[0] == start + complaint[0]
        assert all(part in line for part, line in zip(complaint[1:], told[1:], strict=True))


def test_anchors_are_githubs():
    text = "# A `b` (c)!\n## 2.1 The loss: how?\n## Twice\n## Twice\n```\n# no heading\n```\n"
    assert anchors(text) == {"a-b-c", "21-the-loss-how", "twice", "twice-1"}


def test_levels_have_the_folders_that_these_rules_expect():
    assert LEVELS == ("numpy", "pytorch_lowlevel", "paper")
