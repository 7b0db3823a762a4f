"""Options of the training scripts: one dataclass in, one command line out.

A script lists its options as fields of a frozen dataclass, each with a default and a line of help::

    @dataclass(frozen=True)
    class Options(RunOptions):
        data: Literal["digits", "mnist"] = option("digits", "the data set")
        hidden: tuple[int, ...] = option((128,), "widths of the hidden layers, e.g. 512,512")

and calls ``parse_options(Options, argv, __doc__)``. The field's type decides what the command line
accepts; a field ``batch_size`` becomes ``--batch-size``; a ``bool`` becomes ``--flag/--no-flag``.
"""

import argparse
import dataclasses
import difflib
import json
import shlex
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Options = TypeVar("Options")


def option(
    default: Any,
    help: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Any:
    """A dataclass field that becomes a command-line option.

    Args:
        default: the value when the option is not given.
        help: one line, shown by ``--help``.
        above, least, below, most: numbers must be above ``above``, at least ``least``, below
            ``below``, at most ``most``. A field that overrides one of a base class and says none
            of them keeps the base's limits.
    """
    limits = {"above": above, "least": least, "below": below, "most": most}
    return field(default=default, metadata={"help": help, "limits": limits})


@dataclass(frozen=True)
class RunOptions:
    """What every training script takes. Scripts override ``data`` with their own choices."""

    data: str = option("digits", "the data set")
    data_dir: Path | None = option(
        None, "where downloaded data sets lie (default: DATA_DIR, else data/ in the repository)"
    )
    epochs: int = option(10, "passes over the training data", above=0)
    batch_size: int = option(64, "examples in one step", above=0)
    lr: float = option(0.1, "learning rate", above=0)
    seed: int = option(0, "seed of initial weights, batches and dropout", least=0)
    limit: int = option(0, "use only so many training examples; 0 = all", least=0)
    out: Path = option(Path("runs"), "folder that collects the run folders")
    resume: Path | None = option(
        None,
        "run folder to go on with; all its options hold, but --data-dir, --device and a larger "
        "--epochs (which stretches a schedule over the new number)",
    )


@dataclass(frozen=True)
class TorchOptions(RunOptions):
    """What the PyTorch levels take besides."""

    device: str = option(
        "auto", "auto, cpu, cuda, cuda:1, mps ...; auto takes the fastest there is"
    )


@dataclass(frozen=True)
class TrainerOptions(TorchOptions):
    """What the shared loop of :mod:`utils.training_utils` (level 3) takes besides."""

    mixed_precision: typing.Literal["no", "bf16", "fp16"] = option(
        "no", "number format of the step"
    )
    grad_accumulation: int = option(1, "parts that a batch is cut into to save memory", above=0)
    clip_norm: float = option(0.0, "largest norm of the gradient; 0 = no clipping", least=0)
    checkpoint_steps: int = option(0, "steps between extra checkpoints; 0 = none", least=0)


# Options that may differ between the run and its continuation: they don't change what is learnt,
# except --epochs, which says how much longer to go on.
RESUME_MAY_CHANGE = ("resume", "epochs", "data_dir", "device", "out")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            unknown = [word for word in message.split() if word.startswith("--")]
            known = [text for action in self._actions for text in action.option_strings]
            for word in unknown:
                close = difflib.get_close_matches(word.split("=")[0], known, n=1, cutoff=0.7)
                if close:
                    message += f" (did you mean {close[0]}?)"
        self.exit(2, f"error: {message}\nTry {self.prog} --help\n")


def _is_optional(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _converter(annotation: Any) -> Callable[[str], Any]:
    """The function from command-line text to a value of the annotated type."""
    if _is_optional(annotation):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _converter(inner[0])
    if typing.get_origin(annotation) is tuple:
        item = typing.get_args(annotation)[0]

        def to_tuple(text: str) -> tuple[Any, ...]:
            try:
                return tuple(item(part) for part in text.split(",") if part)
            except ValueError:
                raise argparse.ArgumentTypeError(
                    f"expected numbers such as 512,256, got {text!r}"
                ) from None

        return to_tuple
    if annotation in (int, float, str, Path):
        return annotation
    raise TypeError(f"no command-line form for the type {annotation}")


_RULES: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "above": ("above", lambda value, limit: limit < value < float("inf")),
    "least": ("of at least", lambda value, limit: limit <= value < float("inf")),
    "below": ("below", lambda value, limit: value < limit),
    "most": ("of at most", lambda value, limit: value <= limit),
}


def _limits(cls: type, name: str) -> dict[str, float]:
    """The limits of a field: its own, or those of the base class that it overrides."""
    for base in cls.__mro__:
        own = vars(base).get("__dataclass_fields__", {}).get(name)
        given = own.metadata["limits"] if own is not None else {}
        found = {kind: limit for kind, limit in given.items() if limit is not None}
        if found:
            return found
    return {}


def _within(convert: Callable[[str], Any], limits: dict[str, float]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        value = convert(text)
        for kind, limit in limits.items():
            words, holds = _RULES[kind]
            if not holds(value, limit):  # which NaN never does
                raise argparse.ArgumentTypeError(f"expected a number {words} {limit:g}, got {text}")
        return value

    checked.__name__ = convert.__name__
    return checked


def _make_parser(cls: type, description: str) -> _Parser:
    parser = _Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    annotations = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        annotation = annotations[f.name]
        name = "--" + f.name.replace("_", "-")
        shown = ",".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
        help_text = f.metadata["help"].replace("%", "%%") + (
            "" if f.default is None else f" (default: {shown})"
        )
        if annotation is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, help=help_text)
        elif typing.get_origin(annotation) is typing.Literal:
            choices = typing.get_args(annotation)
            kind = type(choices[0])
            parser.add_argument(name, type=kind, choices=choices, help=help_text)
        else:
            convert = _converter(annotation)
            limits = _limits(cls, f.name)
            if limits:
                convert = _within(convert, limits)
            meta = f.name.upper()
            parser.add_argument(name, type=convert, metavar=meta, help=help_text)
    return parser


def parse_options(
    cls: type[Options], argv: Sequence[str] | None = None, description: str | None = None
) -> Options:
    """Read the command line into a dataclass.

    With ``--resume RUN`` all options come from the run's ``config.json``; giving another value for
    one that would change what is learnt is an error.

    Args:
        cls: frozen dataclass whose fields are made with :func:`option`.
        argv: words of the command line; None takes the script's own.
        description: shown by ``--help``; the script's docstring.

    Returns:
        An instance of ``cls``.

    Exits:
        with status 2 and one line that says what is wrong with which option.
    """
    parser = _make_parser(cls, description or "")
    given = vars(parser.parse_args(argv))
    if given.get("resume") is not None:
        given = _resumed(parser, cls, given)
    try:
        return cls(**given)
    except ValueError as error:
        parser.error(str(error))


def _resumed(parser: _Parser, cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the run to be resumed, with those of ``given`` that may change."""
    folder = Path(given["resume"])
    config_file = folder / "config.json"
    if not config_file.is_file():
        parser.error(f"--resume: no run in {folder} (expected {config_file})")
    try:
        stored = from_json(cls, json.loads(config_file.read_text())["options"])
    except (ValueError, KeyError, TypeError) as error:
        parser.error(f"--resume: {config_file} does not hold this script's options ({error})")
    if given.get("epochs", stored["epochs"]) < stored["epochs"]:
        parser.error(
            f"--epochs {given['epochs']}: the run in {folder} has {stored['epochs']} already"
        )
    for name, value in given.items():
        if name not in RESUME_MAY_CHANGE and value != stored.get(name):
            flag = "--" + name.replace("_", "-")
            parser.error(f"{flag} {value}: the run in {folder} has {stored.get(name)}")
    return stored | given


def to_json(options: Any) -> dict[str, Any]:
    """The options as JSON-able values; :func:`from_json` reads them back."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(options).items()
    }


def from_json(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """Values for the fields of ``cls`` from JSON (paths and tuples get their types back).

    Raises:
        ValueError: a value has no field.
    """
    annotations = typing.get_type_hints(cls)
    unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(f"unknown options {', '.join(unknown)}")
    result = {}
    for name, value in values.items():
        wanted = typing.get_args(annotations[name]) or (annotations[name],)
        if Path in wanted and value is not None:
            value = Path(value)
        elif isinstance(value, list):
            value = tuple(value)
        result[name] = value
    return result


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command that started this process, as a person would type it in the repository.

    The place of the data and the output are left out: they belong to one machine.
    """
    from utils import ROOT

    words = list(sys.argv if argv is None else argv)
    script = Path(words[0]).resolve()
    shown = script.relative_to(ROOT).as_posix() if ROOT in script.parents else script.name
    kept, skip = [shown], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in ("--data-dir", "--out", "--resume"):
            skip = True
        elif not word.startswith(("--data-dir=", "--out=", "--resume=")):
            kept.append(word)
    return shlex.join(["python", *kept])
