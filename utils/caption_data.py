"""Images with captions: generated shapes whose truth is known, CSV files, and Flickr8k.

    from utils.caption_data import load_captions, read_csv

    splits = load_captions("captions")           # generated
    mine, skipped = read_csv("mine.csv", "my_images")

An image may have several captions. :class:`Captioned` holds them together,
:class:`CaptionDataset` makes (image, tokens) of them for training, with one caption at random.
:mod:`utils.data_loaders` registers the two named sets.
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import data_loaders, image_data

if TYPE_CHECKING:
    import torch

NAMES = ("captions", "flickr8k")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# Mean and deviation of the channels that OpenAI's models were trained with.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class BadCaptions(data_loaders.DatasetMissing):
    """A caption file or an image in it can't be used; the message names file and row."""


@dataclass(frozen=True, eq=False)
class Captioned:
    """Images and their captions.

    Attributes:
        images: float32 (N, 3, H, W) in [0, 1], or the N paths of files.
        captions: for each image its captions, one or more.
        labels: (N,) int64, where the class of an image is known. classes: their names.
    """

    images: "np.ndarray | list[Path]"
    captions: list[tuple[str, ...]]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, index: Sequence[int] | np.ndarray) -> "Captioned":
        """These images alone, in this order."""
        images: np.ndarray | list[Path]
        if isinstance(self.images, np.ndarray):
            images = self.images[np.asarray(index, dtype=np.int64)]
        else:
            images = [self.images[i] for i in index]
        labels = None if self.labels is None else self.labels[np.asarray(index, dtype=np.int64)]
        return replace(
            self, images=images, captions=[self.captions[i] for i in index], labels=labels
        )

    def texts(self) -> tuple[list[str], np.ndarray]:
        """All captions in one list, and of which image each is (M,)."""
        counts = [len(captions) for captions in self.captions]
        owners = np.repeat(np.arange(len(self)), counts)
        return [text for captions in self.captions for text in captions], owners


@dataclass(frozen=True, eq=False)
class CaptionSplits:
    """Training, validation and test set."""

    train: Captioned
    val: Captioned
    test: Captioned


# --- generated shapes

SHAPES = image_data.SHAPES  # circle, square, triangle, cross, ring
COLOURS = ("red", "green", "blue", "yellow", "purple", "white", "orange", "turquoise")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
# Red and green circles and squares, blue and yellow triangles and crosses: no training image shows
# them, no training caption names them. Two colours with two shapes each, so that neither the colour
# nor the shape alone tells them apart.
HELD_OUT = tuple(
    len(SHAPES) * colour + shape
    for colours, shapes in (((0, 1), (0, 1)), ((2, 3), (2, 3)))
    for colour in colours
    for shape in shapes
)
CAPTIONS_TRAIN, CAPTIONS_VAL, CAPTIONS_TEST = 6000, 400, 400
SHAPE_TEMPLATES = ("a {}", "a picture of a {}")  # the captions that name a class
_SHADES = np.array(
    [
        [0.85, 0.15, 0.15],
        [0.15, 0.70, 0.20],
        [0.20, 0.30, 0.90],
        [0.90, 0.85, 0.20],
        [0.60, 0.20, 0.75],
        [0.95, 0.95, 0.95],
        [0.95, 0.50, 0.10],
        [0.15, 0.80, 0.80],
    ]
)
_RADII = np.array([[4.5, 5.5], [7.0, 8.0]])  # least and most, of small and large


def captioned_shapes(count: int, seed: int, held_out: bool = False) -> Captioned:
    """Images of one or two shapes, each with five captions that are true of it.

    By turns an image has one shape, "a small red circle", anywhere; two, "a small red circle left
    of a blue square"; and twice one in any colour at all, of which nothing is said, "a small
    circle". Some captions leave something out, "a circle" and "something red": they say what the
    words mean by themselves. Shade, angle, exact size and place differ, and there is noise.

    Args:
        count: number of images.
        seed: decides everything that is random.
        held_out: images of one shape in the combinations of ``HELD_OUT``, all equally often;
            otherwise these occur nowhere.

    Returns:
        images (count, 3, 32, 32); labels (count,), the class in ``CLASSES`` of the one shape, or
        of the one named first in the first caption; -1 where no colour is named.
    """
    rng = np.random.default_rng([seed, int(held_out)])
    seen = np.setdiff1d(np.arange(len(CLASSES)), HELD_OUT)
    if held_out:
        first = np.array(HELD_OUT)[rng.permutation(np.arange(count) % len(HELD_OUT))]
    else:
        first = seen[rng.integers(len(seen), size=count)]
    second = seen[rng.integers(len(seen), size=count)]
    turn = np.zeros(count, int) if held_out else np.arange(count) % 4
    single, nameless = turn != 1, turn >= 2
    relation = rng.integers(len(RELATIONS), size=count)
    sizes = rng.integers(len(SIZES), size=(2, count))

    images = np.empty((count, 3, image_data.SIDE, image_data.SIDE), np.float32)
    grey = rng.uniform(0.15, 0.4, (count, 1)) + rng.uniform(-0.05, 0.05, (count, 3))
    images[:] = grey[:, :, None, None]
    centres = _centres(rng, relation, single)
    for kinds, size, centre, drawn in (
        (first, sizes[0], centres[0], np.ones(count, bool)),
        (second, sizes[1], centres[1], ~single),
    ):
        radius = rng.uniform(*_RADII[size].T)
        outside = _outside(rng, kinds % len(SHAPES), centre, radius)
        outside[~drawn] = np.inf
        shades = _SHADES[kinds // len(SHAPES)] + rng.uniform(-0.07, 0.07, (count, 3))
        plain = nameless & drawn
        shades[plain] = _any_shade(rng, kinds[plain] % len(SHAPES), grey[plain])
        image_data._paint(images, outside, np.clip(shades, 0, 1).astype(np.float32))
    images += np.float32(0.03) * rng.standard_normal(images.shape, dtype=np.float32)
    captions = [
        _caption(*(int(v) for v in values))
        for values in zip(first, second, sizes[0], sizes[1], relation, turn, strict=True)
    ]
    labels = np.where(nameless, -1, first).astype(np.int64)
    return Captioned(np.clip(images, 0, 1, out=images), captions, labels, CLASSES)


def _any_shade(rng: np.random.Generator, kind: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Colours (N, 3) that stand out from the background and are none held out for the shape."""
    shades = rng.uniform(0, 1, (len(kind), 3))
    for _ in range(50):
        bad = np.abs(shades - grey).max(axis=1) < 0.35
        for number in HELD_OUT:
            near = np.abs(shades - _SHADES[number // len(SHAPES)]).max(axis=1) < 0.3
            bad |= near & (kind == number % len(SHAPES))
        if not bad.any():
            break
        shades[bad] = rng.uniform(0, 1, (int(bad.sum()), 3))
    return shades


def _centres(rng: np.random.Generator, relation: np.ndarray, single: np.ndarray) -> np.ndarray:
    """(2, N, 2): x and y of both shapes; the first is where the relation says."""
    N, middle = len(relation), (image_data.SIDE - 1) / 2
    apart = rng.uniform(7.0, 8.0, (2, N))  # each so far from the middle, on its side
    along = rng.uniform(-3.0, 3.0, (2, N))
    sideways = relation < 2  # left of, right of; else above, below
    sign = np.where(relation % 2 == 0, -1.0, 1.0)  # left and above: the smaller number
    centres = np.empty((2, N, 2))
    for i, side in enumerate((sign, -sign)):
        centres[i, :, 0] = middle + np.where(sideways, side * apart[i], along[i])
        centres[i, :, 1] = middle + np.where(sideways, along[i], side * apart[i])
    anywhere = middle + rng.uniform(-7.0, 7.0, (N, 2))
    centres[0, single] = anywhere[single]
    return centres


def _outside(
    rng: np.random.Generator, kind: np.ndarray, centre: np.ndarray, radius: np.ndarray
) -> np.ndarray:
    """How far each pixel lies outside the shape of each image: (N, H, W)."""
    pixels = np.arange(image_data.SIDE, dtype=np.float32)
    angle = rng.uniform(-0.25, 0.25, (len(kind), 1, 1)).astype(np.float32)
    centre, radius = centre.astype(np.float32), radius.astype(np.float32)
    across = pixels[None, None, :] - centre[:, 0, None, None]
    down = pixels[None, :, None] - centre[:, 1, None, None]
    x = np.cos(angle) * across + np.sin(angle) * down
    y = np.cos(angle) * down - np.sin(angle) * across
    outside = np.empty(x.shape, np.float32)
    for number, distance in enumerate(image_data._DISTANCES):
        these = kind == number
        outside[these] = distance(x[these], y[these], radius[these, None, None])
    return outside


def _caption(
    first: int, second: int, size1: int, size2: int, relation: int, turn: int
) -> tuple[str, ...]:
    one, (colour1, shape1) = f"{SIZES[size1]} {CLASSES[first]}", CLASSES[first].split()
    if turn >= 2:
        bare = f"a {SIZES[size1]} {shape1}", f"a picture of a {SIZES[size1]} {shape1}"
        return *bare, f"a {shape1}", f"a picture of a {shape1}", f"something {SIZES[size1]}"
    if turn == 0:
        short = f"a {shape1}", f"something {colour1}"
        return f"a {one}", f"a picture of a {one}", f"a {CLASSES[first]}", *short
    two, (colour2, shape2) = f"{SIZES[size2]} {CLASSES[second]}", CLASSES[second].split()
    return (
        f"a {one} {RELATIONS[relation]} a {two}",
        f"a {two} {RELATIONS[relation ^ 1]} a {one}",
        f"a {CLASSES[first]} {RELATIONS[relation]} a {CLASSES[second]}",
        f"a {shape1} and a {shape2}",
        f"something {colour1} and something {colour2}",
    )


# --- files


def read_csv(
    path: str | Path,
    root: str | Path | None = None,
    skip_bad: bool = False,
    check_images: bool = True,
    repeats: bool = False,
) -> tuple[dict[str, Captioned], list[str]]:
    """Images and captions from a file with the columns ``image_path`` and ``caption``.

    Rows of the same image are its several captions. A column ``split`` (train, val, test, or
    another word, by which a row belongs to none of the three) may divide the images.

    Args:
        path: the file, in UTF-8. root: where the images lie; None takes the file's own folder.
        skip_bad: leave out rows that can't be used instead of raising an error.
        check_images: read every image once, to its end; otherwise a broken one is found later.
        repeats: keep a caption that an image has twice, as a published set counts it.

    Returns:
        the parts by name, {"": all} without a column ``split``; and what was left out, a line each.

    Raises:
        BadCaptions: no such file, a missing column, no rows; without ``skip_bad`` also an empty
            caption, or an image that is missing or broken, with the row's number.
    """
    file = Path(path)
    folder = Path(root) if root is not None else file.parent
    if not file.is_file():
        raise BadCaptions(f"{file}: expected a CSV file with image_path,caption; found nothing")
    skipped: list[str] = []
    found: dict[str, dict[Path, list[str]]] = {}
    problems: dict[Path, str] = {}
    rows = 0
    for number, row in _rows(file):
        rows += 1
        picture = Path(os.path.normpath(folder / row["image_path"]))  # a/../b.jpg is b.jpg
        problem = next((what for what, bad in _faults(row) if bad), "")
        if not problem and check_images:
            if picture not in problems:
                problems[picture] = image_problem(picture)
            problem = problems[picture]
        if problem:
            if not skip_bad:
                raise BadCaptions(f"{file}, row {number}: {problem}")
            skipped.append(f"{file}, row {number}: {problem}")
            continue
        captions = found.setdefault(row.get("split", ""), {}).setdefault(picture, [])
        if repeats or row["caption"] not in captions:  # the same row again says nothing new
            captions.append(row["caption"])
    if not found:
        what = f"none of {rows} rows can be used" if rows else "no rows"
        raise BadCaptions(f"{file}: expected captions, got {what}")
    return {
        split: Captioned(list(images), [tuple(c) for c in images.values()])
        for split, images in found.items()
    }, skipped


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, columns) of each row without blank ones; what is beyond the header is under "".

    The header is row 1 and blank rows are counted, as in a spreadsheet.
    """
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)  # else an open quote takes in the rest
        try:
            header = [name.strip() for name in next(reader, [])]
            for column in ("image_path", "caption"):
                if column not in header:
                    got = ", ".join(header) or "an empty file"
                    got += "; commas have to stand between the columns" * (len(header) == 1)
                    raise BadCaptions(f"{file}: expected a column {column} in row 1, got {got}")
            for number, fields in enumerate(reader, start=2):
                fields = [field.strip() for field in fields]
                if any(fields):
                    named = dict(zip_longest(header, fields[: len(header)], fillvalue=""))
                    yield number, named | {"": ",".join(fields[len(header) :])}
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadCaptions(f"{file}: not a CSV file in UTF-8 ({error})") from error


def _faults(row: dict[str, str]) -> Iterator[tuple[str, bool]]:
    """What may be wrong with a row, and whether it is."""
    # Without its quotation marks a caption ends at the first comma, and still looks like one.
    beyond = row[""].strip(",")
    yield f"{beyond!r} is in no column; a caption with a comma needs quotation marks", bool(beyond)
    yield "the caption is empty", not row["caption"]
    yield "the image path is empty", not row["image_path"]


def image_problem(path: Path) -> str:
    """Why a file is no picture, in one line; nothing if it can be read to its end."""
    if not path.is_file():
        return f"there is no image {path}"
    try:
        _open(path, 1)
    except BadCaptions as error:
        return str(error)
    return ""


def _open(path: Path, side: int) -> Any:
    """A picture in colour, the right way up; above side 1, its middle square at this size."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I;16"):  # convert would cut all that is above 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            picture = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadCaptions(f"{path} is not an image ({error})") from error
    if side > 1:
        # Rounded as torchvision's Resize and CenterCrop do, which OpenAI's program calls.
        width, height = (side * length // min(picture.size) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (round((length - side) / 2) for length in picture.size)
        picture = picture.crop((left, top, left + side, top + side))
    return picture


def find_images(folder: str | Path) -> list[Path]:
    """All pictures below a folder, by their path: jpg, jpeg, png, bmp, webp; no hidden files.

    Raises:
        BadCaptions: no such folder, or no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadCaptions(f"{root}: expected a folder of images, found none")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    )
    if not found:
        raise BadCaptions(f"{root}: expected images ({', '.join(SUFFIXES)}), found none")
    return found


def read_flickr8k(folder: Path) -> dict[str, Captioned]:
    """Flickr8k from ``folder``: train 6,000, val 1,000 and test 1,000 images, 5 captions each.

    It holds the pictures in ``images`` or ``Flicker8k_Dataset``, and either ``captions.csv``
    (image_path,caption,split) or, as published, ``Flickr8k.token.txt`` and the three lists
    ``Flickr_8k.trainImages.txt``, ``...devImages.txt`` and ``...testImages.txt``.

    Raises:
        FileNotFoundError: a file or folder is not there.
        BadCaptions: a file is there and can't be used.
    """
    if (folder / "captions.csv").is_file():
        parts, _ = read_csv(folder / "captions.csv", check_images=False, repeats=True)
        wanted = ("train", "val", "test")
        if absent := [name for name in wanted if name not in parts]:
            raise BadCaptions(f"{folder / 'captions.csv'}: no row of the split {absent[0]}")
        return {name: parts[name] for name in wanted}
    pictures = next(
        (folder / n for n in ("images", "Flicker8k_Dataset", "Flickr8k_Dataset")
         if (folder / n).is_dir()),
        None,
    )  # fmt: skip
    tokens = folder / "Flickr8k.token.txt"
    if pictures is None or not tokens.is_file():
        raise FileNotFoundError(f"no images/ and Flickr8k.token.txt (or captions.csv) in {folder}")
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(tokens.read_text(encoding="utf-8").splitlines(), start=1):
        name, tab, caption = line.partition("\t")
        if not tab or not caption.strip():
            raise BadCaptions(f"{tokens}, row {number}: expected image.jpg#0, a tab and a caption")
        captions.setdefault(name.partition("#")[0], []).append(caption.strip())
    parts = {}
    for part, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        listed = folder / f"Flickr_8k.{word}Images.txt"
        if not listed.is_file():
            raise FileNotFoundError(f"no {listed.name} in {folder}")
        names = listed.read_text(encoding="utf-8").split()
        lacking = [n for n in names if n not in captions or not (pictures / n).is_file()]
        if lacking:
            raise BadCaptions(f"{listed}: no picture or no caption of {lacking[0]}")
        parts[part] = Captioned([pictures / n for n in names], [tuple(captions[n]) for n in names])
    return parts


def load_captions(name: str, data_dir: str | Path | None = None, *, seed: int = 0) -> CaptionSplits:
    """A registered set of images with captions.

    Args:
        name: captions, whose test set has the held-out combinations; or flickr8k.
        data_dir, seed: as for :func:`utils.data_loaders.load_arrays`.

    Raises:
        ValueError: another name.
        DatasetMissing: it is not on this machine.
    """
    if name not in NAMES:
        raise ValueError(f"expected images with captions of {', '.join(NAMES)}; got {name!r}")
    if name == "captions":
        both = captioned_shapes(CAPTIONS_TRAIN + CAPTIONS_VAL, seed)
        test = captioned_shapes(CAPTIONS_TEST, seed, held_out=True)
        train = both.part(np.arange(CAPTIONS_TRAIN))
        return CaptionSplits(train, both.part(np.arange(CAPTIONS_TRAIN, len(both))), test)
    folder = data_loaders.data_folder(data_dir) / name
    try:
        return CaptionSplits(**read_flickr8k(folder))
    except FileNotFoundError as error:
        raise data_loaders.DatasetMissing(
            f"the data set {name!r} is not on this machine: {error}.\n"
            "  Its authors give it on request: put it there (DATA_DIR or --data-dir moves the "
            "folder).\n  Without it: --data captions is built in and serves instead."
        ) from error


# --- what the training and the commands work with


def pixels(source: "Path | np.ndarray", side: int, margin: int = 0) -> np.ndarray:
    """One image, uint8 (3, side + margin, side + margin): of a file, its middle square.

    An array (3, H, W) in [0, 1] is brought to ``side``, and its edges are repeated in the margin.

    Raises:
        BadCaptions: the file is no picture.
    """
    if isinstance(source, np.ndarray):
        array = np.clip(np.rint(source * 255), 0, 255).astype(np.uint8)
        if array.shape != (3, side, side):
            from PIL import Image

            picture = Image.fromarray(array.transpose(1, 2, 0))
            large = picture.resize((side, side), Image.Resampling.BICUBIC)
            array = np.asarray(large).transpose(2, 0, 1)
        return np.pad(array, [(0, 0), *[(margin // 2, margin - margin // 2)] * 2], mode="edge")
    return np.asarray(_open(source, side + margin)).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def normalised(images: np.ndarray) -> np.ndarray:
    """Images (..., 3, H, W), uint8 or in [0, 1], minus the mean, over the deviation: float32."""
    x = images.astype(np.float32, order="C")
    if images.dtype == np.uint8:
        x /= 255
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std


_CACHE_BYTES = 2**30


@dataclass(eq=False)
class CaptionDataset:
    """A torch data set: image i, and one of its captions as tokens, drawn by torch's global seed.

    Attributes:
        data: images and captions.
        encode: texts to tokens, (M, T) int64.
        side: H = W that the model wants.
        augment: crop squares of this side at random places of an image an eighth larger.
    """

    data: Captioned
    encode: Callable[[list[str]], np.ndarray]
    side: int
    augment: bool = False
    _kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        texts, owners = self.data.texts()
        self._tokens = self.encode(texts)
        self._first = np.searchsorted(owners, np.arange(len(self.data) + 1))
        self._margin = self.side // 8 if self.augment else 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        first, end = int(self._first[i]), int(self._first[i + 1])
        chosen = first + int(torch.randint(end - first, ()))
        x = torch.from_numpy(normalised(self.image(i)))
        return x, torch.from_numpy(self._tokens[chosen])

    def image(self, i: int) -> np.ndarray:
        """Image i as uint8 (3, side, side), cropped at random if ``augment``."""
        if i not in self._kept:
            array = pixels(self.data.images[i], self.side, self._margin)
            if len(self.data) * array.nbytes > _CACHE_BYTES:
                return self._cropped(array)
            self._kept[i] = array
        return self._cropped(self._kept[i])

    def _cropped(self, array: np.ndarray) -> np.ndarray:
        import torch

        if not self._margin:
            return array
        top, left = torch.randint(self._margin + 1, (2,)).tolist()
        return array[:, top : top + self.side, left : left + self.side]
