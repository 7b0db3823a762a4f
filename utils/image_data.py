"""Colour images of 32×32 pixels: generated shapes, the batches of CIFAR-10, and image folders.

Each function returns whole arrays; :mod:`utils.data_loaders` finds the files, checks them and
registers the data sets by name.

Images are (N, 3, 32, 32): float32 in [0, 1] from :func:`shapes`, uint8 from files.
"""

import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32  # pixels
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "blue")
SHAPE_CLASSES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


# --- generated shapes


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with one shape each: circle, square, triangle, cross or ring, in red or blue.

    Place, size, angle, shade and background differ from image to image, and each has three specks
    of either colour and noise on it. No pixel says by itself what an image shows, so a linear
    model does badly, and a network has to find edges and put them together.

    Args:
        count: number of images.
        seed: decides everything that is random.

    Returns:
        images (count, 3, 32, 32) float32 in [0, 1]; labels (count,) int64, the index in
        ``SHAPE_CLASSES``.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(SHAPE_CLASSES))
    kind, colour = labels // len(COLOURS), labels % len(COLOURS)

    grey = rng.uniform(0.2, 0.8, (count, 1))
    background = grey + rng.uniform(-0.1, 0.1, (count, 3))
    images = np.empty((count, 3, SIDE, SIDE), np.float32)
    images[:] = background[:, :, None, None]
    for _ in range(3):
        x, y = _coordinates(rng, count, margin=2)
        speck = np.hypot(x, y) - rng.uniform(1.0, 2.5, (count, 1, 1)).astype(np.float32)
        _paint(images, speck, _shades(rng, rng.integers(len(COLOURS), size=count)))

    x, y = _coordinates(rng, count, margin=11)
    radius = rng.uniform(7.5, 11.0, (count, 1, 1)).astype(np.float32)
    outside = np.empty_like(x)
    for number, distance in enumerate(_DISTANCES):
        these = kind == number
        outside[these] = distance(x[these], y[these], radius[these])
    _paint(images, outside, _shades(rng, colour))
    images += np.float32(0.04) * rng.standard_normal(images.shape, dtype=np.float32)
    return np.clip(images, 0.0, 1.0, out=images), labels.astype(np.int64)


def _coordinates(
    rng: np.random.Generator, count: int, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's x and y, (N, H, W), from a random centre and turned by a random angle."""
    centre = rng.uniform(margin, SIDE - 1 - margin, (2, count, 1, 1))
    angle = rng.uniform(0.0, 2 * np.pi, (count, 1, 1))
    pixels = np.arange(SIDE, dtype=np.float32)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    left, top = centre.astype(np.float32)
    across, down = pixels[None, None, :] - left, pixels[None, :, None] - top
    return cos * across + sin * down, cos * down - sin * across


def _shades(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """A random shade (N, 3) of red (0) or blue (1) for each image."""
    base = np.array([[0.8, 0.2, 0.25], [0.2, 0.3, 0.8]])[colour]
    shades = base + rng.uniform(-0.15, 0.15, (len(colour), 3))
    return np.clip(shades, 0.0, 1.0).astype(np.float32)


def _paint(images: np.ndarray, outside: np.ndarray, shade: np.ndarray) -> None:
    """Colour, in place, the pixels that lie inside; those on the edge by their share."""
    cover = np.clip(0.5 - outside, 0.0, 1.0)[:, None]  # (N, 1, H, W)
    images += cover * (shade[:, :, None, None] - images)


# About how far a point lies outside a shape, in pixels (negative inside). The factors give all
# shapes nearly the same area, so that brightness alone tells nothing.
_DISTANCES: tuple[Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda x, y, r: np.hypot(x, y) - 0.8 * r,
    lambda x, y, r: np.maximum(abs(x), abs(y)) - 0.71 * r,
    lambda x, y, r: np.maximum(y, 0.866 * abs(x) - 0.5 * y) - 0.62 * r,
    lambda x, y, r: np.maximum(
        np.minimum(abs(x), abs(y)) - 0.29 * r, np.maximum(abs(x), abs(y)) - r
    ),
    lambda x, y, r: abs(np.hypot(x, y) - 0.75 * r) - 0.215 * r,
)


# --- CIFAR-10


class _BatchUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and NumPy arrays, and refuses to make anything else.

    Unpickling calls whatever a file names; a file from elsewhere could name anything. This one
    knows the three names by which a NumPy array is stored, and no others.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # its module has another name in each NumPy
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a batch of images")


def read_cifar_batch(content: bytes, name: str = "batch") -> tuple[np.ndarray, np.ndarray]:
    """One file of ``cifar-10-batches-py``: a pickled dict with ``data`` and ``labels``.

    Args:
        content: the whole file.
        name: for error messages.

    Returns:
        images (N, 3, 32, 32) uint8; labels (N,) int64.

    Raises:
        ValueError: not such a file, or one that asks for more than arrays.
    """
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="latin1").load()
        data = np.asarray(batch["data"])
        labels = np.asarray(batch["labels"], dtype=np.int64)
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: not a batch of CIFAR-10 ({error!r})") from error
    expected = (len(labels), 3 * SIDE * SIDE)
    if data.dtype != np.uint8 or data.shape != expected:
        raise ValueError(
            f"{name}: expected bytes {expected}, one row for each label, "
            f"got {data.dtype} {data.shape}"
        )
    return data.reshape(-1, 3, SIDE, SIDE), labels  # (N, 3072) -> (N, 3, H, W)


def tar_members(content: bytes, name: str = "archive") -> Iterator[tuple[str, bytes]]:
    """The files in a tar archive, as (path in the archive, content); nothing is unpacked to disk.

    Raises:
        ValueError: not a tar archive.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name, file.read()
    except tarfile.TarError as error:
        raise ValueError(f"{name}: not a tar archive ({error})") from error


# --- image folders


def read_image_folder(folder: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All JPEG and PNG images below ``folder/<class>/``, by class and then by name.

    Args:
        folder: holds one folder for each class.
        classes: their names; the place in this list is the label.

    Returns:
        images (N, 3, 32, 32) uint8; labels (N,) int64.

    Raises:
        FileNotFoundError: a class has no folder, or no images in it.
        ValueError: a file can't be read as an image, or has another size.
    """
    from PIL import Image

    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(
            path for end in ("jpg", "jpeg", "png") for path in (folder / name).glob(f"*.{end}")
        )
        if not found:
            raise FileNotFoundError(f"no .jpg or .png images in {folder / name}")
        paths += found
        labels += [label] * len(found)
    images = np.empty((len(paths), 3, SIDE, SIDE), np.uint8)
    for row, path in zip(images, paths, strict=True):
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise ValueError(f"{path}: not a whole image ({error})") from error
        if pixels.shape != (SIDE, SIDE, 3):
            raise ValueError(f"{path}: expected an image (32, 32, 3), got {pixels.shape}")
        row[:] = pixels.transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
    return images, np.array(labels, dtype=np.int64)
