"""Colour images: the generated shapes, CIFAR-10's batches and archive, and image folders."""

import dataclasses
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils import data_loaders, image_data
from utils.data_loaders import (
    CIFAR10_FOLDER,
    CIFAR10_MD5,
    CIFAR10_TEST,
    DATASETS,
    DatasetCorrupt,
    DatasetMissing,
    RemoteFile,
    load_arrays,
    load_image_folder,
)
from utils.image_data import CIFAR10_CLASSES, SHAPE_CLASSES, read_cifar_batch, shapes

# --- shapes


def test_shapes_lie_between_zero_and_one_and_come_equally_often() -> None:
    images, labels = shapes(200, seed=0)
    assert images.dtype == np.float32 and images.shape == (200, 3, 32, 32)
    assert images.min() >= 0.0 and images.max() <= 1.0
    assert np.bincount(labels).tolist() == [20] * 10


def test_shapes_depend_on_the_seed_alone() -> None:
    one, two, other = shapes(20, seed=1), shapes(20, seed=1), shapes(20, seed=2)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])


def test_red_shapes_are_redder_and_brightness_tells_nothing() -> None:
    images, labels = shapes(2000, seed=0)
    redness = (images[:, 0] - images[:, 2]).mean(axis=(1, 2))
    red = np.array([name.startswith("red") for name in SHAPE_CLASSES])[labels]
    assert redness[red].mean() > redness[~red].mean() + 0.1
    brightness = images.mean(axis=(1, 2, 3))
    means = [brightness[labels // 2 == shape].mean() for shape in range(5)]
    assert np.ptp(means) < 0.05 < brightness.std()


def test_a_linear_model_stays_far_below_a_convolutional_network() -> None:
    # Ridge regression on the pixels; a small VGG gets over 90 % right (04_VGG's results).
    data = load_arrays("shapes")
    x, y = data.x_train[:1500].reshape(1500, -1), data.y_train[:1500]
    mean = x.mean(axis=0)
    x = x - mean
    dual = np.linalg.solve(x @ x.T + 100 * np.eye(len(x)), np.eye(10)[y] - 0.1)
    scores = (data.x_test.reshape(1000, -1) - mean) @ (x.T @ dual)
    accuracy = (scores.argmax(axis=1) == data.y_test).mean()
    assert 0.15 < accuracy < 0.45  # more than the 0.1 of guessing: the colour shows


# --- the batches of CIFAR-10


def batch_bytes(count: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    batch = {
        "batch_label": "a batch",
        "labels": rng.integers(0, 10, count).tolist(),
        "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        "filenames": [f"{i}.png" for i in range(count)],
    }
    return pickle.dumps(batch, protocol=4)


def python2_batch(pixels: bytes, label: int) -> bytes:
    """One image as Python 2 pickled it, opcode by opcode, which is how CIFAR-10 is published."""

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(text)) + text

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b")
    array += b"\x87R(K\x01K\x01M\x00\x0c\x86" + dtype + b"\x89" + string(pixels) + b"tb"
    labels = b"](K" + bytes([label]) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + labels + b"u."


def test_a_batch_as_python_2_wrote_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, 3072, dtype=np.uint8)
    images, labels = read_cifar_batch(python2_batch(pixels.tobytes(), 7))
    assert images.shape == (1, 3, 32, 32) and labels.tolist() == [7]
    assert images[0, 0, 0, 1] == pixels[1]  # a row of red, then the next row
    assert images[0, 1, 0, 0] == pixels[1024]  # green comes after all of red


class Harmful:
    def __reduce__(self):
        return print, ("this must not be called",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            pickle.dumps({"data": Harmful()}), "print has no place", id="calls-a-function"
        ),
        pytest.param(pickle.dumps({"data": np.float64(1)}), "no place", id="another-numpy-name"),
        pytest.param(batch_bytes(2, 0)[:-40], "not a batch", id="cut-off"),
        pytest.param(b"nothing of the kind", "not a batch", id="no-pickle"),
        pytest.param(pickle.dumps([1]), "not a batch", id="no-dict"),
        pytest.param(pickle.dumps({"labels": [1]}), "not a batch", id="no-data"),
        pytest.param(
            pickle.dumps({"labels": [1], "data": np.zeros((2, 3072), np.uint8)}),
            r"expected bytes \(1, 3072\).*got uint8 \(2, 3072\)",
            id="another-number-of-rows",
        ),
    ],
)
def test_what_is_no_batch_is_refused(content: bytes, message: str, capsys) -> None:
    with pytest.raises(ValueError, match=message):
        read_cifar_batch(content, "data_batch_1")
    assert capsys.readouterr().out == ""


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A CIFAR-10 of two images a batch, registered with its own checksums; its files by name."""
    files = {name: batch_bytes(2, seed) for seed, name in enumerate(CIFAR10_MD5)}
    checksums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(data_loaders, "CIFAR10_MD5", checksums)
    return files


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{CIFAR10_FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    (folder / CIFAR10_FOLDER).mkdir()
    for name, content in files.items():
        (folder / CIFAR10_FOLDER / name).write_bytes(content)
    return folder / CIFAR10_FOLDER


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "unpacked"])
def test_cifar10_packed_or_not(batches, monkeypatch, tmp_path: Path, packed: bool) -> None:
    if packed:
        content = tar_gz(batches)
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
        file = RemoteFile("cifar-10-python.tar.gz", hashlib.md5(content).hexdigest(), ("x",))
        entry = dataclasses.replace(DATASETS["cifar10"], files=(file,))
        monkeypatch.setitem(DATASETS, "cifar10", entry)
    else:
        write_unpacked(tmp_path, batches)
    data = load_arrays("cifar10", tmp_path)
    assert data.x_train.shape == (10, 3, 32, 32) and data.x_test.shape == (2, 3, 32, 32)
    assert data.x_train.dtype == np.float32 and data.y_train.dtype == np.int64
    images, labels = read_cifar_batch(batches["data_batch_2"])
    np.testing.assert_array_equal(data.x_train[2:4], images / np.float32(255))
    np.testing.assert_array_equal(data.y_train[2:4], labels)
    np.testing.assert_array_equal(data.y_test, read_cifar_batch(batches[CIFAR10_TEST])[1])
    assert data.classes == CIFAR10_CLASSES


def test_a_batch_with_another_checksum_is_never_opened(batches, monkeypatch, tmp_path) -> None:
    folder = write_unpacked(tmp_path, batches)
    (folder / "data_batch_3").write_bytes(pickle.dumps(Harmful()))
    opened: list[str] = []
    monkeypatch.setattr(image_data, "read_cifar_batch", lambda _, name: opened.append(name))
    with pytest.raises(DatasetCorrupt, match="data_batch_3: cut off or changed"):
        load_arrays("cifar10", tmp_path)
    assert opened == []


def test_a_missing_batch_is_named(batches, tmp_path: Path) -> None:
    folder = write_unpacked(tmp_path, batches)
    (folder / "data_batch_4").unlink()
    with pytest.raises(DatasetMissing, match="lacks .*data_batch_4"):
        load_arrays("cifar10", tmp_path)


def test_cifar10_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing) as caught:
        load_arrays("cifar10", tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "cifar-10-python.tar.gz") in message
    assert "--download cifar10" in message and "--data shapes" in message
    assert "without .gz" not in message


# --- the image folder


def write_images(root: Path, per_class: int = 1) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CIFAR10_CLASSES:
            (root / "cifar10" / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "cifar10" / split / name / f"{i}.png")


def test_image_folder(tmp_path: Path) -> None:
    write_images(tmp_path, per_class=2)
    data = load_arrays("cifar10-jpeg", tmp_path)
    assert data.x_train.shape == data.x_test.shape == (20, 3, 32, 32)
    assert sorted(data.y_train) == sorted(2 * list(range(10)))
    # Mixed, or --limit would take the first classes alone; always in the same order.
    assert len(set(data.y_train[:10].tolist())) > 5
    again = load_arrays("cifar10-jpeg", tmp_path, seed=3)
    np.testing.assert_array_equal(again.x_train, data.x_train)
    root = tmp_path / "cifar10" / "train"
    for x, y in zip(data.x_train, data.y_train, strict=True):
        files = [np.asarray(Image.open(root / CIFAR10_CLASSES[y] / f"{i}.png")) for i in (0, 1)]
        assert any(np.array_equal(x, f.transpose(2, 0, 1) / np.float32(255)) for f in files)
    picture = Image.open(tmp_path / "cifar10" / "test" / "bird" / "1.png")
    np.testing.assert_array_equal(
        data.x_test[5], np.asarray(picture).transpose(2, 0, 1) / np.float32(255)
    )
    assert data.classes == CIFAR10_CLASSES


def test_image_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing, match=r"(?s)train.*airplane.*<class>.*--data shapes"):
        load_arrays("cifar10-jpeg", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "not a whole image"),
        (None, r"expected an image \(32, 32, 3\), got \(8, 8, 3\)"),
    ],
    ids=["no-image", "another-size"],
)
def test_a_bad_image_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    write_images(tmp_path)
    victim = tmp_path / "cifar10" / "test" / "frog" / "0.png"
    if content is None:
        Image.new("RGB", (8, 8)).save(victim)
    else:
        victim.write_bytes(content)
    with pytest.raises(DatasetCorrupt, match=message) as caught:
        load_arrays("cifar10-jpeg", tmp_path)
    assert str(victim) in str(caught.value)


# --- the user's own images


def write_pictures(root: Path, split: str, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for label, name in enumerate(classes):
        (root / split / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.full((40 + 9 * i, 50, 3), 60 + 100 * label, np.uint8)
            Image.fromarray(pixels).save(root / split / name / f"{i}.png")


@pytest.mark.parametrize("test", ["val", "test"])
@pytest.mark.parametrize("augment", [False, True])
def test_images_of_any_size_come_as_squares(tmp_path: Path, test: str, augment: bool) -> None:
    write_pictures(tmp_path, "train")
    write_pictures(tmp_path, test)
    train_set, test_set, classes = load_image_folder(tmp_path, 24, augment)
    assert classes == ("cat", "dog") and len(train_set) == len(test_set) == 4
    for one in (train_set, test_set):
        image, label = one[3]
        assert label == 1 and image.shape == (3, 24, 24)
        assert np.allclose(image, (160 / 255 - 0.5) / 0.5, rtol=0, atol=1e-6)


def write_one_picture(root: Path, pixels: np.ndarray, splits: tuple[str, ...]) -> None:
    for split in splits:
        (root / split / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(root / split / "a" / "0.png")


def test_the_middle_of_an_image_with_a_margin_and_without_squeezing(tmp_path: Path) -> None:
    # The short side is 8/7 of 28 already, so that nothing is interpolated.
    pixels = np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)
    write_one_picture(tmp_path, pixels, ("train", "val"))
    middle = pixels[2:30, 10:38].transpose(2, 0, 1) / np.float32(127.5) - 1
    for one in load_image_folder(tmp_path, 28)[:2]:
        assert np.allclose(one[0][0], middle, rtol=0, atol=1e-6)


def test_random_crops_are_for_training_only(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(60, 60, 3), dtype=np.uint8)
    write_one_picture(tmp_path, pixels, ("train", "val"))
    plain, test_set, _ = load_image_folder(tmp_path, 24)
    train_set, augmented_test, _ = load_image_folder(tmp_path, 24, augment=True)
    assert not np.array_equal(train_set[0][0], train_set[0][0])
    assert np.array_equal(plain[0][0], test_set[0][0])
    assert np.array_equal(augmented_test[0][0], test_set[0][0])


def test_random_crops_are_small_and_large_and_half_of_them_mirrored(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    write_one_picture(tmp_path, ramp, ("train", "val"))
    train_set = load_image_folder(tmp_path, 24, augment=True)[0]
    torch.manual_seed(0)
    # From the left edge to the right one: the width of the crop, as a share, with its direction.
    edges = [train_set[0][0][0, 0, [0, -1]] for _ in range(60)]
    spans = np.array([float(right - left) / 2 for left, right in edges])
    assert 15 < (spans < 0).sum() < 45
    assert np.abs(spans).min() < 0.45 and np.abs(spans).max() > 0.8
    torch.manual_seed(0)
    assert torch.equal(train_set[0][0][0, 0, [0, -1]], edges[0])


def test_the_folder_val_goes_before_test(tmp_path: Path) -> None:
    for split, level in (("train", 0), ("val", 100), ("test", 200)):
        write_one_picture(tmp_path, np.full((32, 32, 3), level, np.uint8), (split,))
    image, _ = load_image_folder(tmp_path, 28)[1][0]
    assert np.allclose(image, 100 / 127.5 - 1, rtol=0, atol=1e-6)


def test_an_image_folder_that_is_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing, match="expected images in .*train/<class>/"):
        load_image_folder(tmp_path, 24)
    write_pictures(tmp_path, "train")
    with pytest.raises(DatasetMissing, match="expected images in .*val/<class>/"):
        load_image_folder(tmp_path, 24)
    write_pictures(tmp_path, "val", ("cat", "mouse"))
    with pytest.raises(DatasetMissing, match=r"expected the same classes.*'dog'.*'mouse'"):
        load_image_folder(tmp_path, 24)
    (tmp_path / "val" / "dog").mkdir()
    with pytest.raises(DatasetMissing, match="expected images in .*dog"):
        load_image_folder(tmp_path, 24)
