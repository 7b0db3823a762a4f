r"""Say what pictures show, with classes that are nothing but words (level 3).

    python 12_CLIP/paper/zero_shot.py --model RUN_FOLDER --images my_pictures \
        --classes "red circle,blue square"

--images is a folder, searched with all folders in it (jpg, jpeg, png, bmp, webp), or one picture.
--model is a run folder of train.py, a folder of transformers' CLIPModel, a .pt file of OpenAI's,
or a name such as ViT-B/32, which has to be fetched from the network:

    python 12_CLIP/paper/zero_shot.py --model ViT-B/32 --images my_pictures --classes "cat,dog"

Every class is put into several templates ("a photo of a {}."), whose vectors are averaged; for
your own templates, one a line, give --templates FILE. A published model needs its vocabulary:
--tokenizer FOLDER with vocab.json and merges.txt, or bpe_simple_vocab_16e6.txt.gz; without it
that of the folder of the model, or of the installed open_clip, is taken.

Prints path, class and probability of every picture, and writes predictions.csv and montage.png to
--out.
"""

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ftfy
import numpy as np
import torch
from tqdm import tqdm

import utils  # noqa: F401  (puts the chapters on the import path)
from clip_paper import CLIP
from clip_resnet_paper import ModifiedResNet
from clip_retrieval_paper import TEMPLATES, class_vectors, fill, zero_shot_probabilities
from clip_tokenizer_numpy import CLIPTokenizer
from clip_weights_paper import from_pretrained
from utils.caption_data import BadCaptions, find_images, image_problem, normalised, pixels
from utils.checkpoints import CheckpointError
from utils.options import option, parse_options
from utils.runs import run_script
from utils.training_utils import pick_device
from utils.visualization import plot_image_grid

build: Callable[..., CLIP] = partial(CLIP.of, ModifiedResNet.of)


# --- what the three commands of this folder share


def load_tokenizer(place: str | Path) -> CLIPTokenizer:
    """The tokenizer of a folder (merges.txt, with or without vocab.json), or of a file of merges.

    Args:
        place: a string may also name a published model, whose vocabulary open_clip has; a path
            has to be there.

    Raises:
        CheckpointError: none there, or a broken one.
    """
    path = Path(place)
    if isinstance(place, Path) and not place.exists():
        raise CheckpointError(f"{place}: expected a tokenizer's folder or file, found nothing")
    folders = [p for p in (path, *path.resolve().parents[:2]) if (p / "merges.txt").is_file()]
    vocabulary = ""
    if path.suffix in (".gz", ".txt") and path.is_file():
        file = path
    elif path.exists() and folders:
        file = folders[0] / "merges.txt"
        if (folders[0] / "vocab.json").is_file():
            vocabulary = (folders[0] / "vocab.json").read_text(encoding="utf-8")
    elif isinstance(place, Path) or (path.is_dir() and not (path / "config.json").is_file()):
        raise CheckpointError(
            f"{place}: expected merges.txt there, or --tokenizer; the folder of one run has it"
        )
    else:
        from open_clip.tokenizer import default_bpe

        file = Path(default_bpe())
    try:
        content = file.read_bytes()
        text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8")
        return CLIPTokenizer.from_published(text, vocabulary, repair=ftfy.fix_text)
    except (OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{file}: not the merges of a tokenizer ({error})") from error


def load_model(name: str, tokenizer: Path | None = None) -> tuple[CLIP, CLIPTokenizer]:
    """Model, in eval mode, and its tokenizer; see ``from_pretrained`` for the names.

    Raises:
        CheckpointError: not to be had, or the two do not fit.
    """
    path = Path(name)
    if path.is_file() and path.suffix != ".pt":
        raise CheckpointError(
            f"{name}: expected a folder or a .pt file of OpenAI's; for a model.safetensors give "
            "the folder it lies in"
        )
    made = load_tokenizer(tokenizer or name)
    try:
        model = from_pretrained(build, name)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        where = "" if path.exists() else "no such folder here, and as a published name: "
        raise CheckpointError(f"{name}: {where}{' '.join(str(error).split())}") from error
    if len(made) != model.config.vocabulary:
        raise CheckpointError(
            f"{name} has {model.config.vocabulary} tokens and the tokenizer {len(made)}; "
            "--tokenizer names another"
        )
    return model, made


@torch.no_grad()
def text_vectors(
    model: CLIP, tokenizer: CLIPTokenizer, texts: list[str], batch: int = 256
) -> torch.Tensor:
    """Vectors of length 1 of some texts: (M, E), on the CPU."""
    tokens = torch.from_numpy(tokenizer.encode_batch(texts, model.config.context))
    longest = int((tokens == tokenizer.END).int().argmax(dim=1).max()) + 1
    device = model.logit_scale.device
    parts = [model.encode_text(t.to(device)).cpu() for t in tokens[:, :longest].split(batch)]
    return torch.cat(parts)


@torch.no_grad()
def image_vectors(
    model: CLIP, images: "Sequence[Path] | np.ndarray", batch: int = 64, show: bool = False
) -> torch.Tensor:
    """Vectors of length 1 of pictures (paths, or arrays (N, 3, H, W)): (N, E), on the CPU."""
    side, device, parts = model.config.image_size, model.logit_scale.device, []
    starts = range(0, len(images), batch)
    for start in tqdm(starts, leave=False, disable=None if show else True):
        some = np.stack([pixels(source, side) for source in images[start : start + batch]])
        x = torch.from_numpy(normalised(some)).to(device)
        parts.append(model.encode_image(x).cpu())
    return torch.cat(parts)


def output_folder(folder: Path) -> Path:
    """Make it; before the work, so that nothing is lost if that fails.

    Raises:
        BadCaptions: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadCaptions(f"--out {folder}: expected a folder ({error.strerror})") from error
    return folder


# --- this command


@dataclass(frozen=True)
class Options:
    model: str = option("", "run folder, folder or name of a model")
    images: Path | None = option(None, "folder of pictures, or one picture")
    classes: tuple[str, ...] = option((), "names of the classes, a comma between")
    templates: Path | None = option(None, "file of templates with {} for the name, one a line")
    tokenizer: Path | None = option(None, "vocabulary, if the model has none beside it")
    skip_bad: bool = option(False, "leave out files that are no pictures, and count them")
    shown: int = option(24, "pictures in montage.png at most", above=0)
    batch_size: int = option(64, "pictures at a time", above=0)
    device: str = option("auto", "auto, cpu, cuda, mps ...")
    out: Path = option(Path("runs/zero_shot"), "folder for predictions.csv and montage.png")

    def __post_init__(self) -> None:
        for name in ("model", "images", "classes"):
            if not getattr(self, name):
                raise ValueError(f"expected --{name}")
        names = self.names
        if len(names) < 2:
            raise ValueError("expected at least two classes: a single one has probability 1")
        if "" in names or len(set(names)) < len(names):
            raise ValueError(f"expected different class names, got {','.join(self.classes)}")

    @property
    def names(self) -> list[str]:
        """The classes without the space around them."""
        return [name.strip() for name in self.classes]


def read_templates(file: Path | None) -> tuple[str, ...]:
    """The lines of a file, or the usual templates.

    Raises:
        BadCaptions: no such file, no text in UTF-8, no lines, or one without {}.
    """
    if file is None:
        return TEMPLATES
    if not file.is_file():
        raise BadCaptions(f"{file}: expected a file of templates, found none")
    try:
        # A mark at the start of the file, as spreadsheets write it, is no part of a template.
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        templates = tuple(line for line in lines if line)
        fill(templates, ["name"])
    except UnicodeDecodeError as error:
        raise BadCaptions(f"{file}: not a text in UTF-8 ({error})") from error
    except ValueError as error:
        raise BadCaptions(f"{file}: {error}") from error
    return templates


def readable(paths: list[Path], skip_bad: bool) -> list[Path]:
    """The paths of whole pictures.

    Raises:
        BadCaptions: one is broken, without ``skip_bad``; or there is none.
    """
    kept, skipped = [], []
    for path in paths:
        problem = image_problem(path)
        if problem and not skip_bad:
            raise BadCaptions(f"{problem}; --skip-bad leaves such files out")
        (skipped if problem else kept).append(problem or path)
    for problem in skipped:
        print(f"left out: {problem}")
    if skipped:
        print(f"left out {len(skipped)} of {len(paths)} files")
    if not kept:
        raise BadCaptions("expected at least one picture, got none")
    return kept  # type: ignore[return-value]


def label(name: str) -> str:
    """A class for the montage: as much as fits over a picture, and no formula between dollars."""
    return (name if len(name) <= 15 else name[:14] + "…").replace("$", r"\$")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    assert options.images is not None
    one = options.images.is_file()
    paths = readable([options.images] if one else find_images(options.images), options.skip_bad)
    templates, names = read_templates(options.templates), options.names
    model, tokenizer = load_model(options.model, options.tokenizer)
    model.to(pick_device(options.device))
    out = output_folder(options.out)

    classes = class_vectors(lambda texts: text_vectors(model, tokenizer, texts), names, templates)
    vectors = image_vectors(model, paths, options.batch_size, show=True)
    scale = model.logit_scale.exp().item()
    probabilities = zero_shot_probabilities(vectors, classes, scale)
    best, index = probabilities.max(dim=1)

    root = options.images.parent if one else options.images
    rows = [
        (path.relative_to(root).as_posix(), names[int(i)], f"{float(p):.4f}")
        for path, i, p in zip(paths, index, best, strict=True)
    ]
    with (out / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "class", "probability"), *rows])
    for row in rows:
        print("  ".join(row))
    few = slice(options.shown)
    plot_image_grid(
        np.stack([pixels(path, 112) for path in paths[few]]),
        titles=[f"{label(name)}\n{p}" for _, name, p in rows[few]],
        columns=6,
        path=out / "montage.png",
    )
    print(f"{len(rows)} pictures; everything is in {out}")


if __name__ == "__main__":
    run_script(main)
