"""Measure a model: recall in both directions, and zero-shot accuracy where labels are (level 3).

    python 12_CLIP/paper/evaluate.py --model RUN_FOLDER
        The generated captions: retrieval on the validation set, zero-shot classification of the
        combinations that no training image showed, among all forty names (zero_shot_accuracy) and
        among the eight (held_out_accuracy, which train.py calls test_accuracy).

    python 12_CLIP/paper/evaluate.py --model RUN_FOLDER --data flickr8k
        Flickr8k's test set: 1,000 photographs, 5,000 captions.

    python 12_CLIP/paper/evaluate.py --model RUN_FOLDER --data csv --csv mine.csv --image-root pics
        Your own pairs: columns image_path, caption; of a column split, the rows with "test", or
        another word with --split. Without such a column all rows count, also those that a model
        was trained on.

    python 12_CLIP/paper/evaluate.py --model RUN_FOLDER --data folder --image-root labelled
        Your own classes: labelled/<class>/*.jpg and so on; the folders' names are the prompts.

R@K is the share of images with one of their captions among the K best (image to text), and of
captions with their image among the K best (text to image). Of equal scores any could come first: a
right one counts with the chance that it is among the K best.

Prints the figures, and writes them to evaluation.json and evaluation.txt in --out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import utils  # noqa: F401  (puts the chapters on the import path)
from clip_paper import CLIP
from clip_retrieval_paper import class_vectors, recall_at
from clip_tokenizer_numpy import CLIPTokenizer
from utils.caption_data import (
    HELD_OUT,
    SHAPE_TEMPLATES,
    BadCaptions,
    Captioned,
    find_images,
    load_captions,
    read_csv,
)
from utils.options import option, parse_options
from utils.runs import run_script
from utils.training_utils import pick_device
from zero_shot import (
    image_vectors,
    load_model,
    output_folder,
    read_templates,
    readable,
    text_vectors,
)


@dataclass(frozen=True)
class Options:
    model: str = option("", "run folder, folder or name of a model")
    data: Literal["captions", "flickr8k", "csv", "folder"] = option("captions", "the data set")
    data_dir: Path | None = option(None, "where downloaded data sets lie")
    seed: int = option(0, "of the generated set", least=0)
    csv: Path | None = option(None, "with --data csv: the file")
    image_root: Path | None = option(None, "where the images of the file lie, or the folder")
    split: str = option("test", "with --data csv: the word in the column split, if there is one")
    skip_bad: bool = option(False, "leave out rows and files that can't be used, and count them")
    ks: tuple[int, ...] = option((1, 5, 10), "numbers of answers that count")
    limit: int = option(0, "use only so many images, spread over all; 0 = all", least=0)
    templates: Path | None = option(None, "file of templates with {} for the name, one a line")
    tokenizer: Path | None = option(None, "vocabulary, if the model has none beside it")
    batch_size: int = option(64, "images at a time", above=0)
    device: str = option("auto", "auto, cpu, cuda, mps ...")
    out: Path = option(Path("runs/evaluation"), "folder for evaluation.json and evaluation.txt")

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("expected --model")
        if (self.data == "csv") != (self.csv is not None):
            raise ValueError("expected --csv FILE with --data csv, and only with it")
        if self.data not in ("csv", "folder") and self.image_root is not None:
            raise ValueError("expected --image-root only with --data csv or --data folder")
        if self.data == "folder" and self.image_root is None:
            raise ValueError("expected --image-root FOLDER with --data folder")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"expected --ks of at least 1, got {','.join(map(str, self.ks))}")


def positives_of(data: Captioned, same_text: bool = False) -> tuple[list[str], torch.Tensor]:
    """All captions, and which belong to which image: bool (N, M).

    Args:
        same_text: a caption belongs to every image that has one of the same words; of generated
            captions that is the truth.
    """
    texts, owners = data.texts()
    positives = torch.from_numpy(owners[None] == np.arange(len(data))[:, None])
    if same_text:
        numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        kind = torch.tensor([numbers[text] for text in texts])
        known = torch.zeros(len(data), len(numbers), dtype=torch.bool)
        known[torch.from_numpy(owners), kind] = True
        positives = known[:, kind]
    return texts, positives


def retrieval(
    model: CLIP,
    tokenizer: CLIPTokenizer,
    data: Captioned,
    ks: Sequence[int] = (1, 5, 10),
    same_text: bool = False,
    batch: int = 64,
) -> dict[str, float]:
    """Recall from images to texts and back: ``text_r1_recall``, ..., ``image_r1_recall``, ..."""
    texts, positives = positives_of(data, same_text)
    vectors = image_vectors(model, data.images, batch)
    scores = vectors @ text_vectors(model, tokenizer, texts).T  # (N, M)
    found = {f"text_r{k}_recall": v for k, v in recall_at(scores, positives, ks).items()}
    back = recall_at(scores.T, positives.T, ks)
    return found | {f"image_r{k}_recall": v for k, v in back.items()}


def zero_shot_accuracy(
    model: CLIP,
    tokenizer: CLIPTokenizer,
    data: Captioned,
    templates: Sequence[str],
    batch: int = 64,
    among: Sequence[int] | None = None,
) -> float:
    """Share of images whose nearest class is their own.

    Args:
        among: the numbers of the classes that compete; None = all.
    """
    assert data.labels is not None
    numbers = torch.tensor(range(len(data.classes)) if among is None else among)
    names = [data.classes[i] for i in numbers]
    classes = class_vectors(lambda texts: text_vectors(model, tokenizer, texts), names, templates)
    nearest = (image_vectors(model, data.images, batch) @ classes.T).argmax(dim=1)
    return float((numbers[nearest] == torch.from_numpy(data.labels)).float().mean())


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of the folders in ``root``, without hidden ones.

    Raises:
        BadCaptions: no such folder, or no folders in it.
    """
    if not root.is_dir():
        raise BadCaptions(f"{root}: expected a folder of classes, found none")
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise BadCaptions(f"{root}: expected a folder for each class, found none")
    return tuple(names)


def labelled_folder(root: Path, skip_bad: bool) -> tuple[Captioned, int]:
    """Pictures in ``root/<class>/``, and how many were left out.

    Raises:
        BadCaptions: no such folder, fewer than two folders in it, or nothing that can be read.
    """
    names = class_folders(root)
    if len(names) < 2:
        raise BadCaptions(f"{root}: expected at least two classes, got {names[0]} alone")
    there = [path for name in names for path in find_images(root / name)]
    paths = readable(there, skip_bad)
    labels = np.array([names.index(p.relative_to(root).parts[0]) for p in paths])
    words = tuple(name.replace("_", " ") for name in names)
    data = Captioned(list(paths), [(words[i],) for i in labels], labels, words)
    return data, len(there) - len(paths)


def load(options: Options) -> tuple[Captioned | None, Captioned | None, int]:
    """What to retrieve from, what to classify, and how many rows were left out."""
    skipped = 0
    pairs: Captioned | None = None
    labelled: Captioned | None = None
    if options.data == "folder":
        assert options.image_root is not None
        labelled, skipped = labelled_folder(options.image_root, options.skip_bad)
    elif options.data == "csv":
        assert options.csv is not None
        parts, lines = read_csv(options.csv, options.image_root, options.skip_bad)
        for line in lines:
            print(f"left out: {line}")
        pairs, skipped = parts.get("" if [*parts] == [""] else options.split), len(lines)
        if pairs is None:
            raise BadCaptions(
                f"{options.csv}: expected rows with the split {options.split}, got {[*parts]}; "
                "--split names another"
            )
    else:
        splits = load_captions(options.data, options.data_dir, seed=options.seed)
        generated = options.data == "captions"
        pairs, labelled = (splits.val, splits.test) if generated else (splits.test, None)
    return few(pairs, options.limit), few(labelled, options.limit), skipped


def few(data: Captioned | None, limit: int) -> Captioned | None:
    """So many of the images, at equal distances: the first ones may all be of one class."""
    if data is None or not 0 < limit < len(data):
        return data
    return data.part([i * len(data) // limit for i in range(limit)])


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    generated = options.data == "captions"
    templates: Sequence[str] = read_templates(options.templates)
    if generated and options.templates is None:
        templates = SHAPE_TEMPLATES
    pairs, labelled, skipped = load(options)
    model, tokenizer = load_model(options.model, options.tokenizer)
    model.to(pick_device(options.device))
    out = output_folder(options.out)
    result: dict[str, Any] = {"model": options.model, "data": options.data, "left_out": skipped}
    if pairs is not None:
        result |= {"images": len(pairs), "captions": len(pairs.texts()[0])}
        result |= retrieval(model, tokenizer, pairs, options.ks, generated, options.batch_size)
    if labelled is not None:
        result |= {"labelled_images": len(labelled), "classes": len(labelled.classes)}
        case = (model, tokenizer, labelled, templates, options.batch_size)
        result["zero_shot_accuracy"] = zero_shot_accuracy(*case)
        if generated:
            result["held_out_accuracy"] = zero_shot_accuracy(*case, HELD_OUT)
    lines = [
        f"{name:22} {100 * value:.2f} %" if isinstance(value, float) else f"{name:22} {value}"
        for name, value in result.items()
    ]
    text = "\n".join(lines) + "\n"
    (out / "evaluation.txt").write_text(text, encoding="utf-8")
    (out / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(text + f"everything is in {out}")


if __name__ == "__main__":
    run_script(main)
