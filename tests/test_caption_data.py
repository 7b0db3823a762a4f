"""Images with captions: the generated ones are true, files are read or refused with their row."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from utils import caption_data
from utils.caption_data import (
    CLASSES,
    COLOURS,
    HELD_OUT,
    SHAPES,
    BadCaptions,
    CaptionDataset,
    Captioned,
    captioned_shapes,
    find_images,
    load_captions,
    normalised,
    pixels,
    read_csv,
    read_flickr8k,
)
from utils.data_loaders import DatasetMissing, load_arrays, load_dataset

# --- generated


def named_in(caption):
    """The combinations of colour and shape that a caption names."""
    words = caption.split()
    return [f"{a} {b}" for a, b in zip(words, words[1:], strict=False) if f"{a} {b}" in CLASSES]


def test_held_out_combinations_are_nowhere_in_training():
    data, held_out = captioned_shapes(600, seed=0), {CLASSES[i] for i in HELD_OUT}
    assert len(held_out) == 8
    for word in {w for name in held_out for w in name.split()}:  # neither word gives it away
        assert sum(word in name for name in held_out) == 2
    named = {name for captions in data.captions for c in captions for name in named_in(c)}
    assert named == set(CLASSES) - held_out
    assert {w for name in named for w in name.split()} == {*COLOURS, *SHAPES}
    assert set(data.labels) == {-1, *range(len(CLASSES))} - set(HELD_OUT)
    test = captioned_shapes(40, seed=0, held_out=True)
    assert np.bincount(test.labels, minlength=len(CLASSES))[list(HELD_OUT)].tolist() == [5] * 8
    for label, captions in zip(test.labels, test.captions, strict=True):
        assert all(named_in(c) == [CLASSES[label]] for c in captions[:3])
        colour, shape = CLASSES[label].split()
        assert captions[3:] == (f"a {shape}", f"something {colour}")


def colour_places(image, colour):
    """Where pixels are near the colour's shade: mean row and column, and how many."""
    shade = caption_data._SHADES[COLOURS.index(colour)][:, None, None]
    near = np.abs(image - shade).max(axis=0) < 0.2
    rows, columns = np.nonzero(near)
    return rows.mean(), columns.mean(), near.sum()


def test_captions_are_true_of_their_images():
    data, checked = captioned_shapes(400, seed=1), 0
    for i, (turn, image, captions) in enumerate(
        zip([0, 1, 2, 2] * 100, data.images, data.captions, strict=True)
    ):
        names = named_in(captions[0])
        assert len(names) == (1, 2, 0)[turn] and len(captions) == 5
        assert data.labels[i] == (-1 if turn == 2 else CLASSES.index(names[0]))
        if turn == 0:
            count = colour_places(image, names[0].split()[0])[2]
            assert ("small" in captions[0] and 20 < count < 95) or count > 55
            continue
        colours = [name.split()[0] for name in names]
        if turn == 2 or colours[0] == colours[1]:
            continue
        (row1, column1, count1), (row2, column2, count2) = (
            colour_places(image, c) for c in colours
        )
        sizes = [captions[0].split()[i] for i in (1, -3)]
        for size, count in zip(sizes, (count1, count2), strict=True):
            assert (size == "small" and 10 < count < 95) or (size == "large" and count > 40)
        (relation,) = (r for r in caption_data.RELATIONS if f" {r} a " in captions[0])
        true = {"left of": column1 < column2, "right of": column1 > column2}
        true |= {"above": row1 < row2, "below": row1 > row2}
        assert true[relation], captions[0]
        checked += 1
    assert checked > 70


def test_the_other_captions_say_the_same_in_another_way_or_less():
    opposite = {"left of": "right of", "above": "below"}
    opposite |= {b: a for a, b in opposite.items()}
    for turn, captions in zip(
        [0, 1, 2, 2] * 15, captioned_shapes(60, seed=2).captions, strict=True
    ):
        names = [named_in(c) for c in captions]
        if turn == 2:
            assert (
                names == [[]] * 5 and captions[0] == f"a {captions[4].split()[1]} {captions[2][2:]}"
            )
        elif turn == 0:
            colour, shape = names[0][0].split()
            assert names[:3] == [names[0]] * 3
            assert captions[3:] == (f"a {shape}", f"something {colour}")
        else:
            assert names[0] == names[2] == names[1][::-1]
            (colour1, shape1), (colour2, shape2) = (name.split() for name in names[0])
            assert captions[3] == f"a {shape1} and a {shape2}"
            assert captions[4] == f"something {colour1} and something {colour2}"
            (relation,) = (r for r in opposite if f" {r} a " in captions[0])
            assert opposite[relation] in captions[1] and relation in captions[2]


def test_colours_that_are_not_named_are_none_that_is_held_out_for_the_shape():
    rng = np.random.default_rng(0)
    kind = np.arange(500) % len(SHAPES)
    grey = rng.uniform(0.1, 0.45, (500, 3))
    shades = caption_data._any_shade(rng, kind, grey)
    assert np.abs(shades - grey).max(axis=1).min() >= 0.35
    for number in HELD_OUT:
        own = shades[kind == number % len(SHAPES)]
        shade = caption_data._SHADES[number // len(SHAPES)]
        assert np.abs(own - shade).max(axis=1).min() >= 0.3


def test_images_without_a_named_colour_have_any():
    """Many of their shapes are near none of the eight shades; and every image has noise."""
    data = captioned_shapes(200, seed=3)
    shades = caption_data._SHADES[:, :, None, None]
    near = np.array([(np.abs(x - shades).max(axis=1) < 0.2).any(axis=0).sum() for x in data.images])
    turn = np.arange(200) % 4
    assert (near[turn < 2] > 10).all() and (near[turn >= 2] < 10).mean() > 0.3
    corner = data.images[turn != 1][:, :, :3, :3]
    within = corner.std(axis=(2, 3))  # of each channel, in a corner
    assert 0.02 < np.median(within) < 0.04


def test_images_are_the_same_for_the_same_seed_only():
    one, two, other = (captioned_shapes(9, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.images, two.images) and one.captions == two.captions
    assert not np.array_equal(one.images, other.images)
    assert one.images.dtype == np.float32 and one.images.shape == (9, 3, 32, 32)
    assert one.images.min() >= 0 and one.images.max() <= 1


def test_splits_and_registry(monkeypatch):
    counts = {"CAPTIONS_TRAIN": 6000, "CAPTIONS_VAL": 400, "CAPTIONS_TEST": 400}
    for (name, count), few in zip(counts.items(), (40, 9, 16), strict=True):
        assert getattr(caption_data, name) == count
        monkeypatch.setattr(caption_data, name, few)
    splits = load_captions("captions", seed=5)
    whole, test = captioned_shapes(49, 5), captioned_shapes(16, 5, held_out=True)
    wanted = (whole.part(range(40)), whole.part(range(40, 49)), test)  # no image in two of them
    for part, want in zip((splits.train, splits.val, splits.test), wanted, strict=True):
        assert np.array_equal(part.images, want.images) and part.captions == want.captions
        assert np.array_equal(part.labels, want.labels)
    arrays = load_arrays("captions", seed=5)
    assert np.array_equal(arrays.x_train, splits.train.images)
    assert not np.array_equal(load_arrays("captions").x_train, splits.train.images)
    assert arrays.y_test[0] == "\n".join(splits.test.captions[0])
    with pytest.raises(ValueError, match="captions holds captions; utils.caption_data.load_capti"):
        load_dataset("captions")
    with pytest.raises(ValueError, match="expected images with captions of captions, flickr8k"):
        load_captions("coco")


# --- files


def write(folder, rows, columns=("image_path", "caption")):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(("a.jpg", "b.png")):
        array = np.random.default_rng(i).integers(255, size=(20, 30, 3)).astype(np.uint8)
        Image.fromarray(array).save(folder / name)
    (folder / "text.png").write_text("no picture")
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / "captions.csv"


def test_several_captions_of_an_image(tmp_path):
    rows = [("a.jpg", "one, with a comma"), ("b.png", "two"), ("a.jpg", " three ")]
    parts, skipped = read_csv(write(tmp_path, rows))
    assert skipped == [] and list(parts) == [""]
    data = parts[""]
    assert [p.name for p in data.images] == ["a.jpg", "b.png"]
    assert data.captions == [("one, with a comma", "three"), ("two",)]
    texts, owners = data.texts()
    assert texts == ["one, with a comma", "three", "two"] and owners.tolist() == [0, 0, 1]
    other = data.part([1])
    assert other.captions == [("two",)] and [p.name for p in other.images] == ["b.png"]


def test_a_file_as_a_spreadsheet_writes_it(tmp_path):
    """A mark before the first column, Windows' ends of line, spaces around a split."""
    file = write(tmp_path, [("a.jpg", "x", " train "), ("b.png", "caf\xe9", "val")])
    text = file.read_text(encoding="utf-8").replace(
        "image_path,caption", "image_path,caption,split"
    )
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    parts, _ = read_csv(file)
    assert [*parts] == ["train", "val"] and parts["val"].captions == [("caf\xe9",)]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (
            [("a.jpg", "x")],
            ("image", "caption"),
            r"csv: expected a column image_path in row 1, got",
        ),
        (
            [("a.jpg", "x")],
            ("image_path", "text"),
            r"expected a column caption in row 1, got image",
        ),
        ([], (), r"expected a column image_path in row 1, got an empty file"),
        ([], ("image_path", "caption"), r"csv: expected captions, got no rows"),
        ([("a.jpg", "x"), ("b.png", "  ")], None, r"captions.csv, row 3: the caption is empty"),
        ([("", "x")], None, r"captions.csv, row 2: the image path is empty"),
        ([("none.jpg", "x")], None, r"captions.csv, row 2: there is no image .*none.jpg"),
        ([("a.jpg", "x"), ("text.png", "x")], None, r"row 3: .*text.png is not an image"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, columns, message):
    file = write(tmp_path, rows, ("image_path", "caption") if columns is None else columns)
    with pytest.raises(BadCaptions, match=message):
        read_csv(file)


def test_bad_rows_are_left_out_and_counted(tmp_path):
    rows = [("a.jpg", "x"), ("b.png", ""), ("none.jpg", "y"), ("text.png", "z"), ("b.png", "w")]
    file = write(tmp_path, rows)
    parts, skipped = read_csv(file, skip_bad=True)
    assert [p.name for p in parts[""].images] == ["a.jpg", "b.png"] and len(skipped) == 3
    assert [line.split("row ")[1][0] for line in skipped] == ["3", "4", "5"]
    file = write(tmp_path, rows[1:4])
    with pytest.raises(BadCaptions, match="expected captions, got none of 3 rows can be used"):
        read_csv(file, skip_bad=True)


def test_a_comma_without_quotation_marks_is_noticed(tmp_path):
    """It would cut the caption short. An empty field at the end is what spreadsheets leave."""
    file = write(tmp_path, [])
    file.write_text("image_path, caption\na.jpg,a circle,,\nb.png,a circle, a red one\n")
    with pytest.raises(BadCaptions, match="row 3: 'a red one' is in no column; a caption with a"):
        read_csv(file)
    parts, skipped = read_csv(file, skip_bad=True)
    assert parts[""].captions == [("a circle",)] and len(skipped) == 1


def test_an_open_quotation_mark_does_not_take_in_the_rest(tmp_path):
    file = write(tmp_path, [])
    file.write_text('image_path,caption\na.jpg,"a circle\nb.png,a square\n')
    with pytest.raises(BadCaptions, match="not a CSV file in UTF-8"):
        read_csv(file)


def test_other_signs_between_the_columns_are_noticed(tmp_path):
    file = write(tmp_path, [])
    file.write_text("image_path;caption\na.jpg;x\n")
    with pytest.raises(BadCaptions, match="got image_path;caption; commas have to stand between"):
        read_csv(file)


def test_a_row_that_is_there_twice_counts_once(tmp_path):
    """Two equal captions would be two right answers, and one of them a mistake at R@1."""
    rows = [("a.jpg", "one"), ("a.jpg", "one"), ("deep/../a.jpg", "two")]
    (data,) = read_csv(write(tmp_path, rows))[0].values()
    assert data.captions == [("one", "two")] and data.images == [tmp_path / "a.jpg"]


def test_blank_rows_are_counted_and_no_fault(tmp_path):
    file = write(tmp_path, [])
    file.write_text('image_path,caption\n\na.jpg,"two\nlines"\n , \nb.png\n')
    with pytest.raises(BadCaptions, match="row 5: the caption is empty"):
        read_csv(file)
    assert read_csv(file, skip_bad=True)[0][""].captions == [("two\nlines",)]


def test_a_picture_too_large_to_open_is_a_bad_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(BadCaptions, match=r"row 2: .*a.jpg is not an image \(Image size"):
        read_csv(write(tmp_path, [("a.jpg", "x")]))


def test_no_file_and_no_utf8(tmp_path):
    with pytest.raises(BadCaptions, match="expected a CSV file with image_path,caption; found no"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("image_path,caption\na.jpg,caf\xe9\n".encode("latin-1"))
    with pytest.raises(BadCaptions, match="not a CSV file in UTF-8"):
        read_csv(tmp_path / "latin.csv")


def test_images_are_found_in_all_folders(tmp_path):
    write(tmp_path, [])
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "deep" / "er" / "C.JPEG")
    for hidden in ("._a.jpg", ".thumbnails/a.jpg"):  # what systems leave beside pictures
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes((tmp_path / "a.jpg").read_bytes())
    names = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)]
    assert names == ["a.jpg", "b.png", "deep/er/C.JPEG", "text.png"]


@pytest.mark.parametrize("published", [False, True])
def test_flickr8k_in_both_forms(tmp_path, published, monkeypatch):
    names = [f"{i}.jpg" for i in range(4)]
    pictures = tmp_path / "flickr8k" / ("Flicker8k_Dataset" if published else "images")
    pictures.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(pictures / name)
    folder = pictures.parent
    lines = [
        (name, f"caption {k % 4} of {name} .") for name in names for k in range(5)
    ]  # one twice
    if published:
        text = "".join(f"{n}#{i % 5}\t{c}\n" for i, (n, c) in enumerate(lines))
        (folder / "Flickr8k.token.txt").write_text(text)
        for word, part in (("train", names[:2]), ("dev", names[2:3]), ("test", names[3:])):
            (folder / f"Flickr_8k.{word}Images.txt").write_text("\n".join(part) + "\n")
    else:
        where = dict(zip(names, ("train", "train", "val", "test"), strict=True))
        with (folder / "captions.csv").open("w", newline="") as file:
            rows = [(f"images/{n}", c, i % 5, where[n]) for i, (n, c) in enumerate(lines)]
            csv.writer(file).writerows([("image_path", "caption", "caption_id", "split"), *rows])
    splits = load_captions("flickr8k", tmp_path)
    parts = (splits.train, splits.val, splits.test)
    assert [[p.name for p in s.images] for s in parts] == [names[:2], names[2:3], names[3:]]
    assert splits.test.captions == [tuple(c for n, c in lines if n == "3.jpg")]
    assert load_arrays("flickr8k", tmp_path).y_test[0].count("\n") == 4


def test_flickr8k_that_is_not_there_or_not_whole(tmp_path):
    with pytest.raises(DatasetMissing, match="'flickr8k' is not on this machine: no images/ and"):
        load_captions("flickr8k", tmp_path)
    folder = tmp_path / "flickr8k"
    (folder / "images").mkdir(parents=True)
    (folder / "Flickr8k.token.txt").write_text("1.jpg#0\ta dog\n")
    with pytest.raises(FileNotFoundError, match="no Flickr_8k.trainImages.txt"):
        read_flickr8k(folder)
    (folder / "Flickr_8k.trainImages.txt").write_text("1.jpg\n")
    with pytest.raises(BadCaptions, match="no picture or no caption of 1.jpg"):
        read_flickr8k(folder)
    (folder / "Flickr8k.token.txt").write_text("1.jpg#0 a dog\n")
    with pytest.raises(BadCaptions, match="row 1: expected image.jpg#0, a tab and a caption"):
        read_flickr8k(folder)
    (folder / "captions.csv").write_text("image_path,caption,split\na.jpg,x,train\nb.jpg,x,val\n")
    with pytest.raises(BadCaptions, match=r"captions.csv: no row of the split test"):
        read_flickr8k(folder)


# --- for training


def test_pixels_are_the_middle_square(tmp_path):
    array = np.zeros((20, 40, 3), np.uint8)
    array[:, 10:30] = (200, 100, 50)
    Image.fromarray(array).save(tmp_path / "wide.png")
    got = pixels(tmp_path / "wide.png", 10)
    assert got.shape == (3, 10, 10) and got.dtype == np.uint8
    assert np.abs(got[:, 2:-2, 2:-2].astype(int) - [[[200]], [[100]], [[50]]]).max() <= 2
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadCaptions, match="text.png is not an image"):
        pixels(tmp_path / "text.png", 10)


@pytest.mark.parametrize("length", [53, 55, 58])  # 6, 7 and 9 columns are cut off
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pixels_are_prepared_as_openais_program_does(tmp_path, length, mode):
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from torchvision import transforms

    rng = np.random.default_rng(0)
    array = rng.integers(255, size=(37, length, 3)).astype(np.uint8)
    Image.fromarray(array).convert(mode).save(tmp_path / "a.png")
    theirs = transforms.Compose([
        transforms.Resize(16, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(16),
        transforms.ToTensor(), transforms.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
    ])  # fmt: skip
    with Image.open(tmp_path / "a.png") as picture:
        want = theirs(picture.convert("RGB"))
    array = pixels(tmp_path / "a.png", 16)
    got = normalised(array)
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(normalised(array / 255), got, rtol=0, atol=1e-6)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side: turn it clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    want = np.rot90(np.asarray(picture), -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png", 4), want)


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    grey = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096 + 77
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png", 4)[0], grey // 256)


def test_arrays_are_enlarged_or_padded():
    image = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
    assert pixels(image, 16).shape == (3, 16, 16)
    padded = pixels(image, 8, 3)
    assert padded.shape == (3, 11, 11)
    assert np.array_equal(padded[:, 1:9, 1:9], np.rint(image * 255).astype(np.uint8))
    assert np.array_equal(padded[:, 0, 1:9], padded[:, 1, 1:9])


def test_a_caption_and_a_crop_are_drawn_by_torchs_seed():
    images = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    data = Captioned(images, [("a", "bb", "ccc"), ("dddd",)])

    def encode(texts):
        return np.array([[len(text)] for text in texts])

    plain, augmented = (CaptionDataset(data, encode, 16, augment) for augment in (False, True))
    assert len(plain) == 2
    torch.manual_seed(0)
    drawn = [plain[0] for _ in range(40)]
    assert {int(tokens) for _, tokens in drawn} == {1, 2, 3} and int(plain[1][1]) == 4
    assert all(torch.equal(x, drawn[0][0]) for x, _ in drawn)
    torch.manual_seed(1)
    crops = [augmented[0][0] for _ in range(20)]
    torch.manual_seed(1)
    assert all(torch.equal(augmented[0][0], x) for x in crops)
    assert len({x.numpy().tobytes() for x in crops}) > 3 and crops[0].shape == (3, 16, 16)


@pytest.mark.parametrize("kept", [True, False])
def test_crops_come_from_an_image_an_eighth_larger(monkeypatch, kept):
    if not kept:  # more pictures than memory may hold: each is read anew
        monkeypatch.setattr(caption_data, "_CACHE_BYTES", 0)
    images = np.random.default_rng(0).random((1, 3, 16, 16)).astype(np.float32)
    data = CaptionDataset(Captioned(images, [("a",)]), lambda t: np.zeros((len(t), 1)), 16, True)
    large = pixels(images[0], 16, 2)
    places = {(i, j): large[:, i : i + 16, j : j + 16] for i in range(3) for j in range(3)}
    torch.manual_seed(0)
    crops = [data.image(0) for _ in range(60)]
    found = [{p for p, want in places.items() if np.array_equal(x, want)} for x in crops]
    assert set().union(*found) == set(places) and all(len(one) == 1 for one in found)
    assert bool(data._kept) == kept
