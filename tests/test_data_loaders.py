"""Data sets: what comes out, and that a missing, broken or half-fetched file is never used."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import utils
from utils import data_loaders
from utils.data_loaders import (
    DATASETS,
    ArrayDataset,
    DatasetCorrupt,
    DatasetMissing,
    DownloadFailed,
    RemoteFile,
    collate,
    data_folder,
    download,
    enlarge_digits,
    load_arrays,
    load_dataset,
    main,
    read_idx,
)

HERE = [name for name, info in DATASETS.items() if info.kind in ("built-in", "generated")]
IMAGES = {"train": (5, 28, 28), "t10k": (3, 28, 28)}


def idx_bytes(array: np.ndarray) -> bytes:
    """The array in the IDX format, as MNIST is published."""
    return (
        bytes((0, 0, 8, array.ndim))
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def tiny() -> dict[str, bytes]:
    """A data set in MNIST's format: five training and three test images, by file name."""
    rng = np.random.default_rng(0)
    files = {}
    for part, shape in IMAGES.items():
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        images[0, 0, :2] = 0, 255
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(np.arange(shape[0], dtype=np.uint8))
    return files


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch, tiny: dict[str, bytes]):
    """Make "mnist" mean the tiny files, with their checksums, published at the given address."""

    def put(url: str = "http://127.0.0.1:9/") -> dict[str, bytes]:
        # mtime: else the header holds the present second, and two calls give other checksums.
        packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in tiny.items()}
        files = tuple(
            RemoteFile(
                f"MNIST/raw/{name}.gz",
                md5(packed[f"{name}.gz"]),
                (f"{url}{name}.gz",),
                md5(content),
            )
            for name, content in tiny.items()
        )
        entry = dataclasses.replace(DATASETS["mnist"], files=files)
        monkeypatch.setitem(DATASETS, "mnist", entry)
        return packed

    return put


def write(folder: Path, files: dict[str, bytes]) -> Path:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    return raw


@contextlib.contextmanager
def server(files: dict[str, bytes], cut: dict[str, int] | None = None) -> Iterator[str]:
    """Serve the files at 127.0.0.1; those named in ``cut`` break off after so many bytes."""
    cuts = cut or {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(send=False)

        def do_GET(self) -> None:
            self.answer(send=True)

        def answer(self, send: bool) -> None:
            name = self.path.lstrip("/")
            if name not in files:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(files[name])))
            self.end_headers()
            if send:
                self.wfile.write(files[name][: cuts.get(name)])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/"
        finally:
            httpd.shutdown()
            thread.join()


# --- built-in and generated sets


@pytest.mark.parametrize(
    ("name", "train", "test", "classes"),
    [
        ("digits", (1437, 1, 8, 8), (360, 1, 8, 8), 10),
        ("diabetes", (353, 10), (89, 10), 0),
        ("breast-cancer", (455, 30), (114, 30), 2),
        ("iris", (120, 4), (30, 4), 3),
        ("wine", (142, 13), (36, 13), 3),
        ("xor", (4, 2), (4, 2), 2),
        ("symmetry", (64, 6), (64, 6), 2),
        ("encoder", (8, 8), (8, 8), 0),
        ("moons", (400, 2), (200, 2), 2),
        ("shapes", (4000, 3, 32, 32), (1000, 3, 32, 32), 10),
    ],
)
def test_shapes_types_and_classes(
    name: str, train: tuple[int, ...], test: tuple[int, ...], classes: int
) -> None:
    data = load_arrays(name)
    assert data.x_train.shape == train
    assert data.x_test.shape == test
    assert len(data.y_train) == train[0]
    assert len(data.y_test) == test[0]
    assert data.x_train.dtype == data.x_test.dtype
    assert data.x_train.dtype == (np.float32 if len(train) == 4 else np.float64)
    assert data.y_train.dtype == data.y_test.dtype == (np.int64 if classes else np.float64)
    assert len(data.classes) == classes
    if classes:
        assert set(data.y_train) == set(data.y_test) == set(range(classes))


@pytest.mark.parametrize("name", HERE)
def test_the_same_every_time(name: str) -> None:
    one, two = load_arrays(name, seed=3), load_arrays(name, seed=3)
    for field in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_the_seed_changes_random_sets_only() -> None:
    assert not np.array_equal(
        load_arrays("moons", seed=0).x_train, load_arrays("moons", seed=1).x_train
    )
    assert np.array_equal(
        load_arrays("digits", seed=0).x_train, load_arrays("digits", seed=1).x_train
    )


def test_digits_lie_between_zero_and_one_and_keep_the_share_of_each_class() -> None:
    data = load_arrays("digits")
    assert data.x_train.min() == 0.0
    assert data.x_train.max() == 1.0
    whole = np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert np.abs(np.bincount(data.y_test) - whole * 360 / 1797).max() < 1


def test_no_example_is_in_both_splits() -> None:
    for name in ("diabetes", "breast-cancer"):
        data = load_arrays(name)
        assert not {tuple(row) for row in data.x_train} & {tuple(row) for row in data.x_test}


def test_diabetes_keeps_its_units() -> None:
    age = load_arrays("diabetes").x_train[:, 0]
    assert 19 <= age.min() < age.max() <= 79


def test_generated_truth() -> None:
    xor = load_arrays("xor")
    assert {tuple(x): y for x, y in zip(xor.x_train, xor.y_train, strict=True)} == {
        (0, 0): 0,
        (0, 1): 1,
        (1, 0): 1,
        (1, 1): 0,
    }
    symmetry = load_arrays("symmetry")
    assert len({tuple(x) for x in symmetry.x_train}) == 64
    assert symmetry.y_train.sum() == 8  # three free bits make a symmetric pattern of six
    assert all(tuple(x) == tuple(x)[::-1] for x in symmetry.x_train[symmetry.y_train == 1])
    encoder = load_arrays("encoder")
    np.testing.assert_array_equal(encoder.x_train, np.eye(8))
    np.testing.assert_array_equal(encoder.y_train, encoder.x_train)


# --- names and folders


def test_unknown_name_says_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"a data set of digits, .* Did you mean 'digits'"):
        load_arrays("digit")


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="'train' or 'test', got 'valid'"):
        load_dataset("xor", "valid")  # type: ignore[arg-type]


def test_the_argument_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    assert data_folder() == utils.ROOT / "data"
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert data_folder() == tmp_path
    assert data_folder(tmp_path / "mine") == tmp_path / "mine"


def test_each_entry_is_complete() -> None:
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.what and info.size and info.source and info.licence
        assert bool(info.files) == (info.kind == "download")
        if info.kind == "download":
            assert info.builtin_substitute in HERE
            assert all(file.urls and len(file.md5) == 32 for file in info.files)


def test_checksums_are_torchvisions() -> None:
    from torchvision import datasets

    for name, theirs in (("mnist", datasets.MNIST), ("fashion-mnist", datasets.FashionMNIST)):
        ours = [(Path(file.path).name, file.md5) for file in DATASETS[name].files]
        assert ours == theirs.resources
    theirs = datasets.CIFAR10
    (archive,) = DATASETS["cifar10"].files
    assert (archive.path, archive.md5) == (theirs.filename, theirs.tgz_md5)
    assert theirs.base_folder == data_loaders.CIFAR10_FOLDER
    assert list(map(list, data_loaders.CIFAR10_MD5.items())) == theirs.train_list + theirs.test_list


def test_arrays_do_not_load_torch() -> None:
    code = (
        "import sys; from utils.data_loaders import load_arrays; load_arrays('xor');"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=utils.ROOT)


# --- downloaded sets


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_files_packed_or_not(register, tiny, tmp_path: Path, packed: bool) -> None:
    zipped = register()
    write(tmp_path, zipped if packed else tiny)
    data = load_arrays("mnist", tmp_path)
    assert data.x_train.shape == (5, 1, 28, 28)
    assert data.x_test.shape == (3, 1, 28, 28)
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.int64
    assert data.x_train[0, 0, 0, 0] == 0.0
    assert data.x_train[0, 0, 0, 1] == 1.0
    content = read_idx(tiny["t10k-images-idx3-ubyte"])
    np.testing.assert_allclose(data.x_test[:, 0], content / 255, rtol=1e-6)
    np.testing.assert_array_equal(data.y_train, np.arange(5))
    assert data.classes == tuple("0123456789")


def test_missing_set_says_what_to_do(register, monkeypatch, tmp_path: Path) -> None:
    zipped = register()
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    name = "t10k-images-idx3-ubyte.gz"
    raw = write(tmp_path, {n: c for n, c in zipped.items() if n != name})
    with pytest.raises(DatasetMissing) as caught:
        load_arrays("mnist")
    message = str(caught.value)
    assert str(raw / name) in message
    assert "train-images" not in message  # that one is there
    assert "python -m utils.data_loaders --download mnist\n" in message
    assert "--data digits" in message


def test_missing_set_in_a_folder_of_ones_own(register, tmp_path: Path) -> None:
    register()
    with pytest.raises(DatasetMissing, match=r'--download mnist --data-dir ".*mine"'):
        load_arrays("mnist", tmp_path / "mine")


@pytest.mark.parametrize("packed", [True, False])
def test_cut_off_file_is_refused(register, tiny, tmp_path: Path, packed: bool) -> None:
    zipped = register()
    raw = write(tmp_path, zipped if packed else tiny)
    victim = raw / ("train-images-idx3-ubyte" + (".gz" if packed else ""))
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(DatasetCorrupt, match="cut off or changed") as caught:
        load_arrays("mnist", tmp_path)
    assert str(victim) in str(caught.value)


def test_one_changed_byte_is_refused(register, tiny, tmp_path: Path) -> None:
    register()
    raw = write(tmp_path, tiny)
    victim = raw / "t10k-images-idx3-ubyte"
    content = bytearray(victim.read_bytes())
    content[100] ^= 1
    victim.write_bytes(content)
    with pytest.raises(DatasetCorrupt, match="wrong checksum"):
        load_arrays("mnist", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00", "expected an IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "within its header"),
        (idx_bytes(np.zeros((2, 3), np.uint8))[:-1], r"expected \(2, 3\) bytes, got 5"),
        (idx_bytes(np.zeros((2, 3), np.uint8)) + b"\x00", r"expected \(2, 3\) bytes, got 7"),
    ],
)
def test_idx_reader_refuses(content: bytes, message: str) -> None:
    with pytest.raises(DatasetCorrupt, match=f"some file: .*{message}"):
        read_idx(content, "some file")


# --- download


def test_download_then_load(register, tmp_path: Path) -> None:
    zipped = register()
    with server(zipped) as url:
        register(url)
        paths = download("mnist", tmp_path)
    assert sorted(paths) == sorted((tmp_path / "MNIST" / "raw").iterdir())
    assert {path.name: path.read_bytes() for path in paths} == zipped
    assert len(load_arrays("mnist", tmp_path).x_train) == 5
    assert download("mnist", tmp_path) == paths  # the server is gone: nothing is fetched again


def test_download_that_breaks_off_leaves_nothing(register, tmp_path: Path) -> None:
    zipped = register()
    name = "train-images-idx3-ubyte.gz"
    with server(zipped, cut={name: len(zipped[name]) // 2}) as url:
        register(url)
        with pytest.raises(DownloadFailed) as caught:
            download("mnist", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{url}{name}" in message
    assert str(tmp_path / "MNIST" / "raw" / name) in message
    assert "--data digits" in message
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []
    with pytest.raises(DatasetMissing, match="not on this machine"):
        load_arrays("mnist", tmp_path)


def test_download_of_other_bytes_is_refused(register, tmp_path: Path) -> None:
    name = "train-images-idx3-ubyte.gz"
    zipped = register()
    with server(zipped | {name: zipped[name][:-1] + b"?"}) as url:
        register(url)
        with pytest.raises(DownloadFailed, match=name):
            download("mnist", tmp_path)
    assert not (tmp_path / "MNIST" / "raw" / name).exists()


def test_killed_download_is_not_taken_for_a_whole_one(register, monkeypatch, tmp_path) -> None:
    from torchvision.datasets import utils as torchvision_utils

    def killed(url: str, root: str, filename: str, md5: str) -> None:
        (Path(root) / filename).write_bytes(b"half")
        raise KeyboardInterrupt

    register()
    monkeypatch.setattr(torchvision_utils, "download_url", killed)
    with pytest.raises(KeyboardInterrupt):
        download("mnist", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_download_mends_a_cut_off_file_and_leaves_it_if_it_cannot(register, tmp_path) -> None:
    zipped = register()
    name = "train-images-idx3-ubyte.gz"
    raw = write(tmp_path, zipped | {name: b"half"})
    with pytest.raises(DownloadFailed):  # nobody listens at the registered address
        download("mnist", tmp_path)
    assert (raw / name).read_bytes() == b"half"
    with server(zipped) as url:
        register(url)
        download("mnist", tmp_path)
    assert (raw / name).read_bytes() == zipped[name]


def test_second_address_serves_when_the_first_fails(register, monkeypatch, tmp_path: Path) -> None:
    zipped = register()
    with server(zipped) as url:
        register(url)
        entry = DATASETS["mnist"]
        files = tuple(
            dataclasses.replace(file, urls=("http://127.0.0.1:9/gone", *file.urls))
            for file in entry.files
        )
        monkeypatch.setitem(DATASETS, "mnist", dataclasses.replace(entry, files=files))
        assert len(download("mnist", tmp_path)) == 4


def test_nothing_to_download() -> None:
    with pytest.raises(ValueError, match="iris is built-in"):
        download("iris")


# --- torch data sets


def test_batches_are_whole_and_in_order() -> None:
    from torch.utils.data import DataLoader

    data = load_dataset("iris", "test")
    assert len(data) == 30
    batches = list(DataLoader(data, batch_size=8, collate_fn=collate))
    assert [len(x) for x, _ in batches] == [8, 8, 8, 6]
    whole = load_arrays("iris")
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), torch.tensor(whole.x_test))
    assert torch.cat([y for _, y in batches]).tolist() == whole.y_test.tolist()
    x, y = data[3]
    assert x.tolist() == whole.x_test[3].tolist()
    assert y.item() == whole.y_test[3]


def test_a_batch_is_fetched_at_once() -> None:
    from torch.utils.data import DataLoader

    class Counting(ArrayDataset):
        calls = 0

        def __getitems__(self, indices):
            type(self).calls += 1
            return super().__getitems__(indices)

        def __getitem__(self, index):
            raise AssertionError("fetched one by one")

    data = Counting(np.arange(12.0))
    loader = DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate)
    seen = [value for (batch,) in loader for value in batch.tolist()]
    assert sorted(seen) == list(range(12))
    assert Counting.calls == 3


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one length, got lengths \[3, 4\]"):
        ArrayDataset(np.zeros(3), np.zeros(4))


# --- digits in the size of MNIST


def test_enlarged_digits() -> None:
    images = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
    large = enlarge_digits(images)
    assert large.shape == (2, 1, 28, 28) and large.dtype == np.float32
    for row in range(3):
        for column in range(3):  # each of the nine pixels that one became
            assert np.array_equal(large[:, :, 2 + row : 26 : 3, 2 + column : 26 : 3], images)
    frame = large.copy()
    frame[:, :, 2:26, 2:26] = 0
    assert frame.sum() == 0
    assert enlarge_digits(large) is large


@pytest.mark.parametrize("shape", [(2, 64), (2, 8, 8), (2, 3, 8, 8), (2, 1, 32, 32)], ids=str)
def test_other_images_are_not_enlarged(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images \(N, 1, 8, 8\) or .*, got"):
        enlarge_digits(np.zeros(shape))


# --- the command line


def test_table_has_a_line_for_each_set(capsys) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "size", "kind", "source", "licence"]
    assert [line.split()[0] for line in lines[2 : 2 + len(DATASETS)]] == list(DATASETS)


def test_command_line_download(register, tmp_path: Path, capsys) -> None:
    zipped = register()
    with server(zipped) as url:
        register(url)
        assert main(["--download", "mnist", "--data-dir", str(tmp_path)]) == 0
    assert str(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz") in capsys.readouterr().out


def test_command_line_offline_is_one_line(register, tmp_path: Path, capsys) -> None:
    register()
    assert main(["--download", "mnist", "--data-dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: mnist: could not fetch http://127.0.0.1:9/train-images")
    assert error.count("\n") == 1


def test_command_line_unknown_name(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--download", "mnits"])
    assert caught.value.code == 2
    assert "Did you mean 'mnist'?" in capsys.readouterr().err


def test_ctrl_c_during_a_download(monkeypatch, capsys) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_loaders, "download", stopped)
    assert main(["--download", "mnist"]) == 130
    assert "not kept" in capsys.readouterr().err


def test_train_and_test_of_moons_are_different_points_and_the_upper_moon_is_above():
    data = load_arrays("moons")
    assert not {tuple(p) for p in data.x_train} & {tuple(p) for p in data.x_test}
    upper, lower = (data.x_train[data.y_train == k, 1] for k in (0, 1))
    assert data.classes == ("upper", "lower") and upper.mean() > lower.mean() + 0.5
    # The half circles, without noise, are at 1 from (0, 0) and at 1 from (1, 0.5).
    away = np.hypot(*(data.x_train - np.where(data.y_train[:, None] == 0, [0, 0], [1, 0.5])).T)
    assert 0.18 < (away - 1).std() < 0.22


def test_class_names_are_those_of_their_labels():
    xor, symmetry = load_arrays("xor"), load_arrays("symmetry")
    assert xor.classes == ("equal", "different") and symmetry.classes == (
        "not symmetric",
        "symmetric",
    )
    assert load_arrays("iris").classes == ("setosa", "versicolor", "virginica")


def test_fashion_mnist_has_torchvisions_classes(register, tiny, tmp_path, monkeypatch):
    import dataclasses

    from torchvision.datasets import FashionMNIST

    zipped = register()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in zipped.items():
        (raw / name).write_bytes(content)
    entry = dataclasses.replace(DATASETS["fashion-mnist"], files=DATASETS["mnist"].files)
    monkeypatch.setitem(DATASETS, "fashion-mnist", entry)
    assert list(load_arrays("fashion-mnist", tmp_path).classes) == FashionMNIST.classes


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "iris", "wine"])
def test_every_class_keeps_its_share(name):
    data = load_arrays(name)
    whole = np.bincount(np.concatenate([data.y_train, data.y_test]))
    wanted = whole * len(data.y_test) / whole.sum()
    assert np.abs(np.bincount(data.y_test) - wanted).max() < 1


def test_the_splits_do_not_depend_on_the_process():
    # Measured once; another split would make every figure in results/ that of other data.
    assert load_arrays("digits").y_test[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


def test_a_dataset_is_of_its_split_seed_and_folder(register, tiny, tmp_path):
    for split in ("train", "test"):
        data, got = load_arrays("moons", seed=3), load_dataset("moons", split, seed=3)
        np.testing.assert_array_equal(got.tensors[0], getattr(data, f"x_{split}"))
        np.testing.assert_array_equal(got.tensors[1], getattr(data, f"y_{split}"))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in register().items():
        (raw / name).write_bytes(content)
    assert len(load_dataset("mnist", "train", tmp_path)) == 5


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("DATA_DIR", "~/sets")
    assert data_folder() == Path.home() / "sets"


def test_a_download_puts_the_socket_timeout_back(register, tmp_path):
    register()
    before = socket.getdefaulttimeout()
    with pytest.raises(data_loaders.DownloadFailed):
        download("mnist", tmp_path)
    assert socket.getdefaulttimeout() == before
