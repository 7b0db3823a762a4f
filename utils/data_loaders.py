"""Every data set of the repository by name, as NumPy arrays or as a torch data set.

    from utils.data_loaders import load_arrays, load_dataset

    data = load_arrays("digits")               # data.x_train, data.y_train, data.x_test, ...
    train = load_dataset("mnist", "train")     # batches: DataLoader(train, 64, collate_fn=collate)

``python -m utils.data_loaders`` lists the data sets; ``--download NAME`` fetches one. Nothing else
ever downloads: for a data set that isn't on the machine :class:`DatasetMissing` says what to do.

Images are float32 (N, C, H, W) in [0, 1] with int64 labels; tables are float64 (N, D). Sequences
are int64 (N, T) or float32 (N, T, D), padded, with their lengths; texts are arrays of str, and
:mod:`utils.text_data` turns them into numbers. For translation, x and y are both texts, see
:mod:`utils.translation_data`; images with captions are in :mod:`utils.caption_data`. A corpus of
characters is one int64 (N,), each character with its successor as the label.

Adding a data set takes two steps:

1. a loader: a function ``(info, folder, seed) -> Arrays``. One that needs files reads them with
   :func:`read_verified`, which looks in ``folder`` and checks the checksum;
2. an entry in the ``REGISTRY`` list below, with one :class:`RemoteFile` for each file to download.

This module loads fast: torch, torchvision and scikit-learn are imported where they are needed.
"""

import argparse
import difflib
import gzip
import hashlib
import os
import socket
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import utils
from utils import generated_data, image_data, sequence_data, text_data

if TYPE_CHECKING:
    import torch


class DatasetMissing(RuntimeError):
    """A data set is not on this machine as a whole; the message says how to get it."""


class DatasetCorrupt(DatasetMissing):
    """A file of a data set is there, but cut off or changed."""


class DownloadFailed(DatasetMissing):
    """A file could not be fetched; nothing of it was kept."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """One data set, split into train and test.

    Attributes:
        x_train, x_test: images float32 (N, C, H, W) in [0, 1], or tables float64 (N, D), or
            sequences (N, T) or (N, T, D), or texts (N,) of str.
        y_train, y_test: int64 labels (N,) or (N, T), or float targets (N,) or (N, K), or texts
            (N,) of str.
        classes: the name of each label; empty for regression.
        lengths_train, lengths_test: for padded sequences, int64 (N,), how many steps are real.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...] = ()
    lengths_train: np.ndarray | None = None
    lengths_test: np.ndarray | None = None


@dataclass(frozen=True)
class RemoteFile:
    """A file of a downloadable data set.

    Attributes:
        path: where it lies below the data folder.
        md5: checksum of the file as downloaded.
        urls: where it is published; tried in this order.
        unpacked_md5: for a ``.gz`` file, the checksum of what is in it; that file serves too.
        folder: for an archive, what it unpacks to below the data folder; that serves too.
    """

    path: str
    md5: str
    urls: tuple[str, ...]
    unpacked_md5: str = ""
    folder: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """What the registry knows about a data set.

    Attributes:
        name: what ``--data`` and :func:`load_arrays` call it.
        what: one line for the reader.
        size: examples and their shape.
        source: publication.
        licence: as far as its authors state one.
        kind: "built-in" comes with scikit-learn or Python, "generated" is computed, "download" is
            fetched, "folder" is read from a folder of images that the user puts there.
        load: makes the arrays from (this entry, the data folder, a seed).
        builtin_substitute: for a download or a folder, the set that serves when it isn't there.
        files: for a download, what has to be fetched.
        title: how tables of results call it, if its name does not say enough.
    """

    name: str
    what: str
    size: str
    source: str
    licence: str
    kind: Literal["built-in", "generated", "download", "folder"]
    load: Callable[["DatasetInfo", Path, int], Arrays]
    builtin_substitute: str = ""
    files: tuple[RemoteFile, ...] = ()
    title: str = ""


# --- what a chapter calls


def load_arrays(name: str, data_dir: str | Path | None = None, *, seed: int = 0) -> Arrays:
    """A data set as NumPy arrays.

    Args:
        name: a key of :data:`DATASETS`.
        data_dir: folder of the downloaded sets; None takes the environment variable DATA_DIR, and
            ``data/`` in the repository if that is not set.
        seed: of generated sets that are random. The split of the others is always the same.

    Raises:
        ValueError: no data set has this name.
        DatasetMissing: it has to be downloaded first.
        DatasetCorrupt: a file is cut off or changed.
    """
    info = dataset_info(name)
    return info.load(info, data_folder(data_dir), seed)


def load_dataset(
    name: str,
    split: Literal["train", "test"] = "train",
    data_dir: str | Path | None = None,
    *,
    seed: int = 0,
) -> "ArrayDataset":
    """One split of a data set for ``torch.utils.data.DataLoader``; see :func:`load_arrays`.

    Raises:
        ValueError: no data set has this name, or the split is neither "train" nor "test", or the
            data are texts, which have to become numbers first.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected the split 'train' or 'test', got {split!r}")
    data = load_arrays(name, data_dir, seed=seed)
    if name in ("captions", "flickr8k"):
        raise ValueError(f"{name} holds captions; utils.caption_data.load_captions has them")
    if data.y_train.dtype == object:
        raise ValueError(f"{name} holds pairs of texts; utils.translation_data.load_pairs has them")
    if data.x_train.dtype == object:
        raise ValueError(f"{name} holds texts; utils.sequence_data.load_task makes numbers of them")
    if split == "train":
        return ArrayDataset(data.x_train, data.y_train)
    return ArrayDataset(data.x_test, data.y_test)


class ArrayDataset:
    """A torch data set over arrays in memory whose first axes match.

    It hands out a whole batch in one indexing operation. Give the loader :func:`collate`, which
    leaves that batch as it is::

        DataLoader(ArrayDataset(x, y), batch_size=64, shuffle=True, collate_fn=collate)
    """

    # Not a subclass of torch's Dataset, which would load torch for every reader of this module;
    # DataLoader asks for nothing but these three methods.

    def __init__(self, *arrays: "np.ndarray | torch.Tensor") -> None:
        import torch

        lengths = [len(array) for array in arrays]
        if not arrays or len(set(lengths)) != 1:
            raise ValueError(f"expected one or more arrays of one length, got lengths {lengths}")
        self.tensors = tuple(torch.as_tensor(array) for array in arrays)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> "tuple[torch.Tensor, ...]":
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Sequence[int]) -> "tuple[torch.Tensor, ...]":
        """The batch of these examples: (N, ...) -> (len(indices), ...) for each array."""
        import torch

        index = torch.as_tensor(indices)
        return tuple(tensor[index] for tensor in self.tensors)


def load_image_folder(
    folder: str | Path, size: int, augment: bool = False
) -> "tuple[torch.utils.data.Dataset, torch.utils.data.Dataset, tuple[str, ...]]":
    """The user's own images, of any size: training set, test set, and the names of the classes.

    They are read one at a time, as float32 (3, size, size) in [-1, 1], from ``train/<class>/`` and
    ``val/<class>/`` (or ``test/<class>/``) below the folder.

    Args:
        size: the short side is brought to 8/7 of it, and the middle cut out.
        augment: training images are random crops of 8 to 100 % of the area, half of them mirrored,
            by torch's global random numbers.

    Raises:
        DatasetMissing: a folder is not there, holds no images, or has other classes.
    """
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    root = Path(folder)
    test = next((root / name for name in ("val", "test") if (root / name).is_dir()), root / "val")
    to_tensor = [transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    middle = [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size)]
    cropped = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    try:
        sets = [
            ImageFolder(str(path), transforms.Compose(steps + to_tensor))
            for path, steps in ((root / "train", cropped if augment else middle), (test, middle))
        ]
    except FileNotFoundError as error:
        raise DatasetMissing(
            f"expected images in {root}/train/<class>/ and {root}/val/<class>/; {error}"
        ) from error
    if sets[0].classes != sets[1].classes:
        raise DatasetMissing(
            f"expected the same classes in {root}/train and {test}, "
            f"got {sets[0].classes} and {sets[1].classes}"
        )
    return sets[0], sets[1], tuple(sets[0].classes)


def collate(batch: Any) -> Any:
    """For ``DataLoader(collate_fn=...)``: an :class:`ArrayDataset` has made the batch already."""
    return batch


def enlarge_digits(images: np.ndarray) -> np.ndarray:
    """scikit-learn's digits (N, 1, 8, 8) in the size of MNIST, (N, 1, 28, 28).

    Each pixel becomes 3x3, and a frame of 2 zeros goes around. Images that are (N, 1, 28, 28)
    already come back as they are.

    Raises:
        ValueError: the images have another shape.
    """
    if images.ndim == 4 and images.shape[1:] == (1, 28, 28):
        return images
    if images.ndim != 4 or images.shape[1:] != (1, 8, 8):
        raise ValueError(f"expected images (N, 1, 8, 8) or (N, 1, 28, 28), got {images.shape}")
    large = images.repeat(3, axis=2).repeat(3, axis=3)  # (N, 1, 8, 8) -> (N, 1, 24, 24)
    return np.pad(large, ((0, 0), (0, 0), (2, 2), (2, 2)))  # -> (N, 1, 28, 28)


def dataset_info(name: str) -> DatasetInfo:
    """The registry's entry for ``name``.

    Raises:
        ValueError: there is none; the message lists the names and the nearest one.
    """
    if name in DATASETS:
        return DATASETS[name]
    close = difflib.get_close_matches(name, DATASETS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"expected a data set of {', '.join(DATASETS)}; got {name!r}.{hint}")


def data_folder(data_dir: str | Path | None = None) -> Path:
    """The folder of downloaded data: the argument, else DATA_DIR, else ``data/`` here."""
    return Path(data_dir or os.environ.get("DATA_DIR") or utils.ROOT / "data").expanduser()


# --- files on disk


def read_verified(info: DatasetInfo, file: RemoteFile, folder: Path) -> bytes:
    """The unpacked content of a downloaded file whose checksum is right.

    A ``.gz`` file and the same file unpacked (without ``.gz``) serve alike.

    Raises:
        DatasetMissing: neither is there.
        DatasetCorrupt: the checksum is wrong, or what came out of the archive is.
    """
    packed = folder / file.path
    unpacked = packed.with_suffix("") if packed.suffix == ".gz" else packed
    if packed.is_file():
        content = _checked(info, packed, file.md5, folder)
        if packed.suffix != ".gz":
            return content
        try:
            return gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetCorrupt(f"{packed}: not a whole gzip file ({error})") from error
    if unpacked.is_file():
        return _checked(info, unpacked, file.unpacked_md5, folder)
    raise DatasetMissing(_missing_message(info, folder))


def _checked(info: DatasetInfo, path: Path, md5: str, folder: Path) -> bytes:
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DatasetCorrupt(
            f"{path}: cut off or changed ({len(content)} bytes, wrong checksum). Delete it, then "
            f"fetch it anew: {_download_command(info, folder)}"
        )
    return content


def _download_command(info: DatasetInfo, folder: Path) -> str:
    moved = "" if folder == data_folder() else f' --data-dir "{folder}"'
    return f"python -m utils.data_loaders --download {info.name}{moved}"


def _missing_message(info: DatasetInfo, folder: Path) -> str:
    paths = [folder / file.path for file in info.files]
    absent = [path for path in paths if not (path.exists() or path.with_suffix("").exists())]
    absent += [folder / file.folder for file in info.files if file.folder]
    looked_for = "\n".join(f"    {path}" for path in absent)
    packed = ", packed or without .gz" if any(file.unpacked_md5 for file in info.files) else ""
    return (
        f"the data set {info.name!r} is not on this machine. Looked in vain for\n{looked_for}\n"
        f"  To download it: {_download_command(info, folder)}\n"
        f"  By hand: put the files at those paths{packed} (DATA_DIR or --data-dir "
        "moves the folder).\n"
        f"  Without network: --data {info.builtin_substitute} is built in and serves instead."
    )


def read_idx(content: bytes, name: str = "file") -> np.ndarray:
    """Parse the IDX format of MNIST: two zero bytes, type, number of axes, lengths, then the data.

    Args:
        content: the whole unpacked file, holding unsigned bytes.
        name: for error messages.

    Returns:
        uint8 array of the shape that the header states.

    Raises:
        DatasetCorrupt: not such a file, or more or fewer bytes than its header says.
    """
    unsigned_byte = 8
    if len(content) < 4 or content[:3] != bytes((0, 0, unsigned_byte)):
        raise DatasetCorrupt(
            f"{name}: expected an IDX file of bytes, got {content[:4]!r} at its start"
        )
    axes = content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise DatasetCorrupt(f"{name}: cut off within its header")
    shape = struct.unpack(f">{axes}I", content[4:start])
    data = np.frombuffer(content, dtype=np.uint8, offset=start)
    if data.size != np.prod(shape, dtype=np.int64):
        raise DatasetCorrupt(f"{name}: expected {shape} bytes, got {data.size}")
    return data.reshape(shape)


# --- download


def download(name: str, data_dir: str | Path | None = None) -> list[Path]:
    """Fetch the files of a data set that aren't there yet.

    A file gets its name only when it is complete and its checksum is right.

    Returns:
        where the files lie.

    Raises:
        ValueError: no such data set, or one that needs no download.
        DownloadFailed: a file could not be fetched; whatever was whole before still is.
    """
    info = dataset_info(name)
    if not info.files:
        raise ValueError(f"{name} is {info.kind}: there is nothing to download")
    folder = data_folder(data_dir)
    return [_download_file(info, file, folder) for file in info.files]


def _download_file(info: DatasetInfo, file: RemoteFile, folder: Path) -> Path:
    from torchvision.datasets.utils import check_integrity, download_url

    target = folder / file.path
    if file.folder and (folder / file.folder).is_dir():
        return folder / file.folder
    if check_integrity(target, file.md5):
        return target
    failures = []
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without a byte: a dead network must not hang for ever
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for url in file.urls:
            # In the target's own folder, so that os.replace is one indivisible step.
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as part:
                try:
                    download_url(url, part, target.name, file.md5)
                except (OSError, HTTPException, RuntimeError) as error:
                    failures.append(f"{url} ({_one_line(error)})")
                    continue
                os.replace(Path(part) / target.name, target)
                return target
    except OSError as error:  # the folder can't be made or written
        failures.append(_one_line(error))
    finally:
        socket.setdefaulttimeout(before)
    raise DownloadFailed(
        f"{info.name}: could not fetch {'; nor '.join(failures)}. Put the file at {target} "
        f"by hand, or use the built-in data set instead: --data {info.builtin_substitute}"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# --- the loaders


def _split(
    x: np.ndarray, y: np.ndarray, test: int, classes: Sequence[str] = (), stratify: bool = True
) -> Arrays:
    """A fixed split with ``test`` test examples, the share of each class kept."""
    from sklearn.model_selection import train_test_split

    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=test, random_state=0, stratify=y if stratify else None
    )
    return Arrays(x_train, y_train, x_test, y_test, tuple(str(name) for name in classes))


def _load_digits(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images[:, None] / 16).astype(np.float32)  # (N, 8, 8) -> (N, 1, 8, 8)
    return _split(x, bunch.target.astype(np.int64), 360, bunch.target_names)


def _load_diabetes(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    return _split(bunch.data, bunch.target, 89, stratify=False)


def _load_table(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    from sklearn import datasets

    loaders = {
        "breast-cancer": datasets.load_breast_cancer,
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
    }
    bunch = loaders[info.name]()
    test = round(len(bunch.data) / 5)
    return _split(bunch.data, bunch.target.astype(np.int64), test, bunch.target_names)


def _load_xor(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    x, y = generated_data.xor()
    return Arrays(x, y, x, y, ("equal", "different"))


def _load_symmetry(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    x, y = generated_data.symmetry()
    return Arrays(x, y, x, y, ("not symmetric", "symmetric"))


def _load_encoder(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    x, y = generated_data.encoder()
    return Arrays(x, y, x, y)


def _load_moons(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    train, test = 400, 200
    x, y = generated_data.moons(train + test, noise=0.2, seed=seed)
    return Arrays(x[:train], y[:train], x[train:], y[train:], ("upper", "lower"))


def _load_mnist(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    """MNIST and all in its format; ``info.files`` are images and labels of train, then of test."""
    content = [
        read_idx(read_verified(info, file, folder), str(folder / file.path)) for file in info.files
    ]
    images, labels = content[0::2], content[1::2]
    x_train, x_test = (array[:, None].astype(np.float32) for array in images)  # -> (N, 1, H, W)
    y_train, y_test = (array.astype(np.int64) for array in labels)
    x_train /= 255
    x_test /= 255
    classes = FASHION_CLASSES if info.name == "fashion-mnist" else map(str, range(10))
    return Arrays(x_train, y_train, x_test, y_test, tuple(classes))


def _load_sequences(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    """The tasks of the 1997 paper; training and test set come from two streams of one seed."""
    train_rng, test_rng = (np.random.default_rng([seed, part]) for part in (0, 1))
    classes: tuple[str, ...] = ()
    if info.name == "reber":
        train = sequence_data.reber(256, train_rng)
        test = sequence_data.reber(256, test_rng, apart_from=train[0])
        classes = sequence_data.REBER_SYMBOLS
    elif info.name == "adding":
        train = sequence_data.adding(10_000, 100, train_rng)
        test = sequence_data.adding(2_000, 100, test_rng)
    else:
        train = sequence_data.temporal_order(10_000, train_rng)
        test = sequence_data.temporal_order(2_000, test_rng)
        classes = sequence_data.ORDER_CLASSES
    (x, lengths, y), (x_test, lengths_test, y_test) = train, test
    return Arrays(x, y, x_test, y_test, classes, lengths, lengths_test)


SENTIMENTS = ("negative", "positive")


def _load_reviews(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    train = text_data.reviews(4_000, np.random.default_rng([seed, 0]))
    test = text_data.reviews(1_000, np.random.default_rng([seed, 1]))
    return Arrays(*train, *test, SENTIMENTS)


def _load_imdb(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    (file,) = info.files
    place = folder / file.folder
    if not place.is_dir():
        text_data.unpack_imdb(read_verified(info, file, folder), place)
    try:
        parts = [text_data.read_imdb(place / part) for part in ("train", "test")]
    except FileNotFoundError as error:
        raise DatasetCorrupt(f"{error}; delete {place} and unpack {file.path} anew") from error
    for part, (_, labels) in zip(("train", "test"), parts, strict=True):
        counts = np.bincount(labels, minlength=2).tolist()
        if counts != [text_data.IMDB_REVIEWS] * 2:
            raise DatasetCorrupt(
                f"{place / part}: expected {text_data.IMDB_REVIEWS} reviews each in neg and pos, "
                f"got {counts[0]} and {counts[1]}; delete {place} and unpack {file.path} anew"
            )
    return Arrays(*_mixed(*parts[0]), *parts[1], SENTIMENTS)


def _load_corpus(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    """A text as (character, next character), the first nine tenths for training."""
    built_in = {"python-docs": text_data.python_docs, "python-source": text_data.python_source}
    if info.name in built_in:
        try:
            text = built_in[info.name]()
        except FileNotFoundError as error:
            raise DatasetMissing(f"{info.name}: {error}") from error
    else:
        text = read_verified(info, info.files[0], folder).decode("utf-8")
    corpus = text_data.characters(text)
    train, test = corpus.train, corpus.test
    return Arrays(train[:-1], train[1:], test[:-1], test[1:], corpus.characters)


def _load_number_words(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    """The last pairs are for testing; those before them, left out here, for validation."""
    from utils import translation_data

    sources, targets = translation_data.number_pairs(seed)
    test = len(sources) - translation_data.NUMBER_TEST
    train = test - translation_data.NUMBER_VALIDATION
    return Arrays(sources[:train], targets[:train], sources[test:], targets[test:])


def _load_multi30k(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    from utils import translation_data

    train, test = (
        translation_data.multi30k_part(info, folder, part) for part in ("train", "test_2016_flickr")
    )
    return Arrays(*train, *test)


def _load_captioned(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    """Images (or the paths of their files), and their captions, a line each, in one text."""
    from utils import caption_data

    splits = caption_data.load_captions(info.name, folder, seed=seed)

    def arrays(part: caption_data.Captioned) -> tuple[np.ndarray, np.ndarray]:
        images, texts = part.images, ["\n".join(captions) for captions in part.captions]
        if not isinstance(images, np.ndarray):
            images = np.array([str(path) for path in images], dtype=object)
        return images, np.array(texts, dtype=object)

    return Arrays(*arrays(splits.train), *arrays(splits.test), splits.train.classes)


FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _load_shapes(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    train, test = 4000, 1000
    x, y = image_data.shapes(train + test, seed)
    return Arrays(x[:train], y[:train], x[train:], y[train:], image_data.SHAPE_CLASSES)


def _load_cifar10(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    """From the unpacked folder if that is there, else from the archive, which stays packed."""
    (archive,) = info.files
    unpacked = folder / CIFAR10_FOLDER
    if (unpacked / CIFAR10_TEST).is_file():
        absent = [str(unpacked / name) for name in CIFAR10_MD5 if not (unpacked / name).is_file()]
        if absent:
            raise DatasetMissing(f"the data set 'cifar10' lacks {', '.join(absent)}")
        # The checksum comes first: these files are pickles, and only known ones are opened.
        content = {
            name: _checked(info, unpacked / name, md5, folder) for name, md5 in CIFAR10_MD5.items()
        }
    else:
        tar = read_verified(info, archive, folder)
        content = {Path(path).name: data for path, data in image_data.tar_members(tar)}
    batches = {name: image_data.read_cifar_batch(content[name], name) for name in CIFAR10_MD5}
    x_test, y_test = batches.pop(CIFAR10_TEST)
    x_train, y_train = map(np.concatenate, zip(*batches.values(), strict=True))
    classes = image_data.CIFAR10_CLASSES
    return Arrays(_unit_range(x_train), y_train, _unit_range(x_test), y_test, classes)


def _load_cifar10_jpeg(info: DatasetInfo, folder: Path, seed: int) -> Arrays:
    root, classes = folder / "cifar10", image_data.CIFAR10_CLASSES
    try:
        x_train, y_train = image_data.read_image_folder(root / "train", classes)
        x_test, y_test = image_data.read_image_folder(root / "test", classes)
    except FileNotFoundError as error:
        raise DatasetMissing(
            f"the data set {info.name!r} is not on this machine: {error}.\n"
            f"  Put the images at {root}/{{train,test}}/<class>/*.jpg or *.png (DATA_DIR or "
            "--data-dir moves the folder).\n"
            f"  Without them: --data {info.builtin_substitute} is built in and serves instead."
        ) from error
    except ValueError as error:
        raise DatasetCorrupt(str(error)) from error
    x_train, y_train = _mixed(x_train, y_train)
    return Arrays(_unit_range(x_train), y_train, _unit_range(x_test), y_test, classes)


def _mixed(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Examples that lie in folders by class, in another order: else ``--limit`` takes one class.

    The order is always the same, whatever the seed, as it is in a set that comes in one file.
    """
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], y[order]


def _unit_range(pixels: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1]."""
    images = pixels.astype(np.float32)
    images /= 255
    return images


# --- the registry


def _mnist_files(
    folder: str, mirrors: tuple[str, ...], checksums: dict[str, tuple[str, str]]
) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(
            f"{folder}/raw/{name}.gz",
            packed,
            tuple(f"{mirror}{name}.gz" for mirror in mirrors),
            unpacked,
        )
        for name, (packed, unpacked) in checksums.items()
    )


# Folders, addresses and checksums (of the .gz file and of what is in it) are torchvision's own, so
# that a folder that torchvision filled serves here, and the other way round.
MNIST_FILES = _mnist_files(
    "MNIST",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    {
        "train-images-idx3-ubyte": (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "6bbc9ace898e44ae57da46a324031adb",
        ),
        "train-labels-idx1-ubyte": (
            "d53e105ee54ea40749a09fcbcd1e9432",
            "a25bea736e30d166cdddb491f175f624",
        ),
        "t10k-images-idx3-ubyte": (
            "9fb629c4189551a2d022fa330f9573f3",
            "2646ac647ad5339dbf082846283269ea",
        ),
        "t10k-labels-idx1-ubyte": (
            "ec29112dd5afa0611ce80d1b7f02629c",
            "27ae3e4e09519cfbb04c329615203637",
        ),
    },
)
FASHION_MNIST_FILES = _mnist_files(
    "FashionMNIST",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    {
        "train-images-idx3-ubyte": (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        ),
        "train-labels-idx1-ubyte": (
            "25c81989df183df01b3e8a0aad5dffbe",
            "9018921c3c673c538a1fc5bad174d6f9",
        ),
        "t10k-images-idx3-ubyte": (
            "bef4ecab320f06d8554ea6380940ec79",
            "8181f5470baa50b63fa0f6fddb340f0a",
        ),
        "t10k-labels-idx1-ubyte": (
            "bb300cfdad3c16e7a12a480ee83cd310",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
    },
)

# As torchvision has them too. The archive is what is fetched; unpacked, each file is checked.
CIFAR10_FILES = (
    RemoteFile(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    ),
)
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_TEST = "test_batch"
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    CIFAR10_TEST: "40351d587109b95175f43aff81a1287e",
}

# Of the .gz files as published, and of what is in them.
MULTI30K_URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
MULTI30K_FILES = tuple(
    RemoteFile(f"multi30k/{name}.gz", packed, (f"{MULTI30K_URL}{name}.gz",), unpacked)
    for name, packed, unpacked in (
        ("train.de", "81ff90b99829c0cd4b1b587d394afd39", "d3b4bc1671cfb805267f97f16884beba"),
        ("train.en", "0065d13af80720a55ca8153d126e6627", "053a34ece7c904dbc8c7361799afbe4c"),
        ("val.de", "6e0e229eb049e3fc99a1ef02fb2d5f91", "9f139b15d9d11936dea7af2904e57d8c"),
        ("val.en", "2b69aa9253948ac9f67e94917272dd40", "2234730e7925354b766681b029b347ec"),
        (
            "test_2016_flickr.de",
            "efd67d314d98489b716b145475101932",
            "cde61d7401b116652ee84099c7858ca3",
        ),
        (
            "test_2016_flickr.en",
            "ff2c0fcb4893a13bd73414306bc250ae",
            "2022a6c31e2418047a0511333d55ed42",
        ),
    )
)

REGISTRY = [
    DatasetInfo(
        name="digits",
        what="handwritten digits",
        size="1,437 + 360 images (1, 8, 8)",
        source="Alpaydin & Kaynak 1998, UCI; scikit-learn",
        licence="CC BY 4.0",
        kind="built-in",
        load=_load_digits,
    ),
    DatasetInfo(
        name="diabetes",
        what="progress of diabetes after a year from ten measurements, in their own units",
        size="353 + 89 rows of 10",
        source="Efron et al. 2004; scikit-learn",
        licence="none stated",
        kind="built-in",
        load=_load_diabetes,
    ),
    DatasetInfo(
        name="breast-cancer",
        what="malignant or benign from measurements of cell nuclei",
        size="455 + 114 rows of 30, 2 classes",
        source="Wolberg et al. 1995, UCI; scikit-learn",
        licence="CC BY 4.0",
        kind="built-in",
        load=_load_table,
    ),
    DatasetInfo(
        name="iris",
        what="species of iris from the sizes of petals and sepals",
        size="120 + 30 rows of 4, 3 classes",
        source="Fisher 1936, UCI; scikit-learn",
        licence="CC BY 4.0",
        kind="built-in",
        load=_load_table,
    ),
    DatasetInfo(
        name="wine",
        what="cultivar of a wine from its chemical analysis",
        size="142 + 36 rows of 13, 3 classes",
        source="Aeberhard & Forina 1992, UCI; scikit-learn",
        licence="CC BY 4.0",
        kind="built-in",
        load=_load_table,
    ),
    DatasetInfo(
        name="xor",
        what="exclusive or; train and test are the same four cases",
        size="4 rows of 2, 2 classes",
        source="utils/generated_data.py",
        licence="MIT",
        kind="generated",
        load=_load_xor,
    ),
    DatasetInfo(
        name="symmetry",
        what="is a pattern of six bits its own mirror image? train and test are all 64",
        size="64 rows of 6, 2 classes",
        source="utils/generated_data.py; Rumelhart et al. 1986",
        licence="MIT",
        kind="generated",
        load=_load_symmetry,
    ),
    DatasetInfo(
        name="encoder",
        what="8-3-8 encoder: the target is the one-hot input itself; train and test are all eight",
        size="8 rows of 8, target (8,)",
        source="utils/generated_data.py; Rumelhart et al. 1986",
        licence="MIT",
        kind="generated",
        load=_load_encoder,
    ),
    DatasetInfo(
        name="moons",
        what="two interleaved half circles, noise 0.2",
        size="400 + 200 rows of 2, 2 classes",
        source="scikit-learn make_moons",
        licence="MIT",
        kind="generated",
        load=_load_moons,
    ),
    DatasetInfo(
        name="shapes",
        what="red and blue shapes on a noisy background",
        size="4,000 + 1,000 images (3, 32, 32), 10 classes",
        source="utils/image_data.py",
        licence="MIT",
        kind="generated",
        load=_load_shapes,
    ),
    DatasetInfo(
        name="adding",
        what="the sum of two marked numbers in a sequence of a hundred",
        size="10,000 + 2,000 sequences of 100 to 110 pairs, target (1)",
        source="utils/sequence_data.py; Hochreiter & Schmidhuber 1997, section 5.4",
        licence="MIT",
        kind="generated",
        load=_load_sequences,
    ),
    DatasetInfo(
        name="reber",
        what="embedded Reber grammar: which symbol comes next?",
        size="256 + 256 strings of 7 symbols",
        source="utils/sequence_data.py; Hochreiter & Schmidhuber 1997, section 5.1",
        licence="MIT",
        kind="generated",
        load=_load_sequences,
    ),
    DatasetInfo(
        name="temporal-order",
        what="in which order did X and Y come, far apart among distractors?",
        size="10,000 + 2,000 strings of 100 to 110 symbols, 4 classes",
        source="utils/sequence_data.py; Hochreiter & Schmidhuber 1997, section 5.6",
        licence="MIT",
        kind="generated",
        load=_load_sequences,
    ),
    DatasetInfo(
        name="reviews",
        what="film reviews from templates; the opinion hangs on a negation",
        size="4,000 + 1,000 texts, 2 classes",
        source="utils/text_data.py",
        licence="MIT",
        kind="generated",
        load=_load_reviews,
    ),
    DatasetInfo(
        name="python-docs",
        what="docstrings of Python's standard library, character by character",
        size="about 0.8 million characters, nine tenths for training",
        source="this Python's own sources",
        licence="PSF",
        kind="built-in",
        load=_load_corpus,
    ),
    DatasetInfo(
        name="python-source",
        what="the source of Python's standard library, character by character",
        size="about 4.4 million characters, nine tenths for training",
        source="this Python's own sources",
        licence="PSF",
        kind="built-in",
        load=_load_corpus,
    ),
    DatasetInfo(
        name="number-words",
        what="numbers in English words, to be written in digits",
        size="10,000 + 2,000 pairs of texts, and 500 for validation",
        source="utils/translation_data.py",
        licence="MIT",
        kind="generated",
        load=_load_number_words,
    ),
    DatasetInfo(
        name="captions",
        what="coloured shapes with captions; some combinations of the two in the test only",
        size="6,000 + 400 images (3, 32, 32) with five captions each, and 400 for validation",
        source="utils/caption_data.py",
        licence="MIT",
        kind="generated",
        load=_load_captioned,
    ),
    DatasetInfo(
        name="mnist",
        what="handwritten digits",
        size="60,000 + 10,000 images (1, 28, 28)",
        source="LeCun et al. 1998",
        licence="CC BY-SA 3.0 (commonly given)",
        kind="download",
        load=_load_mnist,
        builtin_substitute="digits",
        files=MNIST_FILES,
    ),
    DatasetInfo(
        name="fashion-mnist",
        what="articles of clothing",
        size="60,000 + 10,000 images (1, 28, 28)",
        source="Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747",
        licence="MIT",
        kind="download",
        load=_load_mnist,
        builtin_substitute="digits",
        files=FASHION_MNIST_FILES,
    ),
    DatasetInfo(
        name="cifar10",
        what="photographs of vehicles and animals",
        size="50,000 + 10,000 images (3, 32, 32), 10 classes",
        source="Krizhevsky 2009",
        licence="none stated; research use customary",
        kind="download",
        load=_load_cifar10,
        builtin_substitute="shapes",
        files=CIFAR10_FILES,
    ),
    DatasetInfo(
        name="cifar10-jpeg",
        what="CIFAR-10 as JPEG images, which lose a little",
        size="images (3, 32, 32) in cifar10/{train,test}/<class>/",
        source="Krizhevsky 2009, compressed",
        licence="none stated; research use customary",
        kind="folder",
        load=_load_cifar10_jpeg,
        builtin_substitute="shapes",
        title="CIFAR-10 (JPEG q75)",  # the quality of the copy with which we measured
    ),
    DatasetInfo(
        name="imdb",
        what="film reviews, positive or negative",
        size="25,000 + 25,000 texts, 2 classes",
        source="Maas et al. 2011, ACL",
        licence="none stated; cite the paper",
        kind="download",
        load=_load_imdb,
        builtin_substitute="reviews",
        files=(
            RemoteFile(
                "aclImdb_v1.tar.gz",
                "7c2ac02c03563afcf9b574c7e56c153a",
                ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
                folder="aclImdb",
            ),
        ),
    ),
    DatasetInfo(
        name="tiny-shakespeare",
        what="40,000 lines of Shakespeare, character by character",
        size="1,115,394 characters, nine tenths for training",
        source="Karpathy 2015, char-rnn",
        licence="public domain",
        kind="download",
        load=_load_corpus,
        builtin_substitute="python-docs",
        files=(
            RemoteFile(
                "tinyshakespeare/input.txt",
                "6fb458f1232090904fb40fe944165e91",
                (
                    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
                    "tinyshakespeare/input.txt",
                ),
            ),
        ),
    ),
    DatasetInfo(
        name="multi30k",
        what="captions of photographs, German to English",
        size="29,000 + 1,000 pairs of sentences, and 1,014 for validation",
        source="Elliott, Frank, Sima'an & Specia 2016, arXiv:1605.00459",
        licence="none stated; cite the paper",
        kind="download",
        load=_load_multi30k,
        builtin_substitute="number-words",
        files=MULTI30K_FILES,
    ),
    DatasetInfo(
        name="flickr8k",
        what="photographs of people and animals, with five captions each",
        size="6,000 + 1,000 images with captions, and 1,000 for validation; in flickr8k/",
        source="Hodosh, Young & Hockenmaier 2013, JAIR 47",
        licence="the photographers'; non-commercial research and education",
        kind="folder",
        load=_load_captioned,
        builtin_substitute="captions",
    ),
]

DATASETS: dict[str, DatasetInfo] = {info.name: info for info in REGISTRY}


# --- the command line


def registry_table() -> str:
    """The registry as a text table: name, size, kind, source, licence."""
    rows = [("name", "size", "kind", "source", "licence")]
    rows += [(d.name, d.size, d.kind, d.source, d.licence) for d in DATASETS.values()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main(argv: Sequence[str] | None = None) -> int:
    """List the data sets, or download some. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.data_loaders",
        description="List the data sets of the repository, or download some of them.",
    )
    parser.add_argument("--download", nargs="+", metavar="NAME", help="fetch these data sets")
    parser.add_argument(
        "--data-dir", type=Path, help="where they go (default: DATA_DIR, else data/ here)"
    )
    options = parser.parse_args(argv)
    folder = data_folder(options.data_dir)
    if not options.download:
        print(registry_table())
        print(f"\nDownloaded sets belong in {folder}; to fetch one: --download NAME")
        return 0
    try:
        for name in options.download:
            for path in download(name, folder):
                print(f"{name}: {path}")
    except ValueError as error:
        parser.error(str(error))
    except DatasetMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the file that was on its way is not kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
