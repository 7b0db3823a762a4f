"""zero_shot.py and evaluate.py on small models and pictures made here."""

import csv
import dataclasses
import gzip
import json

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import utils  # noqa: F401  (puts the chapters on the import path)
import zero_shot
from clip_retrieval_paper import TEMPLATES
from clip_tokenizer_numpy import CLIPTokenizer
from utils.caption_data import HELD_OUT, BadCaptions, Captioned, CaptionSplits, captioned_shapes
from utils.checkpoints import CheckpointError
from utils.parity import perturb
from utils.weights import save_weights

SIZES = {"embed": 6, "image_size": 16, "patch_size": 8, "vision_width": 12, "vision_layers": 1}
SIZES |= {"vision_heads": 2, "context": 12, "text_width": 8, "text_layers": 1, "text_heads": 2}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tokenizer = CLIPTokenizer.train(["a red cat", "a photo of a blue dog"] * 3, 540)
    torch.manual_seed(0)
    model = zero_shot.build(**SIZES, vocabulary=len(tokenizer))
    perturb(model)
    (folder / "clip.json").write_text(json.dumps(dataclasses.asdict(model.config)))
    (folder / "merges.txt").write_text(tokenizer.published_merges())
    save_weights(folder / "model.safetensors", model)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures in two folders and one within, each kind of file, and two that are none."""
    root = tmp_path / "pictures"
    names = ["red/a.jpg", "red/b.PNG", "red/deep/c.webp", "blue_dog/d.bmp", "blue_dog/e.jpeg"]
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(255, size=(20 + i, 30 - 4 * i, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no picture")
    return root


def words(run_folder, out, *more):
    return ["--model", str(run_folder), "--device", "cpu", "--out", str(out), *map(str, more)]


# --- zero_shot.py


def test_zero_shot_prints_and_saves_every_picture(run_folder, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    more = ("--images", pictures, "--classes", "cat, blue dog,car", "--batch-size", 2)
    zero_shot.main(words(run_folder, out, *more))
    with (out / "predictions.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "class", "probability"]
    assert [row[0] for row in rows] == ["blue_dog/d.bmp", "blue_dog/e.jpeg", "red/a.jpg",
                                        "red/b.PNG", "red/deep/c.webp"]  # fmt: skip
    said = capsys.readouterr().out
    assert all("  ".join(row) in said for row in rows)
    assert (out / "montage.png").read_bytes().startswith(b"\x89PNG")

    model, tokenizer = zero_shot.load_model(str(run_folder))
    names = ["cat", "blue dog", "car"]
    x = zero_shot.pixels(pictures / "red/a.jpg", 16)
    image = model.encode_image(torch.from_numpy(zero_shot.normalised(x[None])))
    prompts = [t.replace("{}", n) for n in names for t in TEMPLATES]
    texts = model.encode_text(torch.from_numpy(tokenizer.encode_batch(prompts, 12)))
    means = torch.nn.functional.normalize(texts.view(3, len(TEMPLATES), 6).mean(1), dim=-1)
    p = (model.logit_scale.exp() * image @ means.T).softmax(-1)[0]
    assert rows[2][1] == names[int(p.argmax())]
    assert float(rows[2][2]) == pytest.approx(p.max().item(), abs=1e-4)


def test_one_picture_with_own_templates(run_folder, pictures, tmp_path, capsys):
    file = tmp_path / "templates.txt"
    file.write_text("a {}\n\nthe {} here\n")
    more = ("--images", pictures / "red/a.jpg", "--classes", "cat,dog", "--templates", file)
    zero_shot.main(words(run_folder, tmp_path / "out", *more))
    assert capsys.readouterr().out.startswith("a.jpg  ")
    file.write_text("no place for a name")
    with pytest.raises(BadCaptions, match="templates.txt: expected one {} in each template"):
        zero_shot.main(words(run_folder, tmp_path / "out", *more))


def test_templates_as_other_programs_write_them(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_bytes("a {}\r\n\r\nthe {} here".encode("utf-8-sig"))
    assert zero_shot.read_templates(file) == ("a {}", "the {} here")
    file.write_bytes("für {}".encode("latin-1"))
    with pytest.raises(BadCaptions, match="templates.txt: not a text in UTF-8"):
        zero_shot.read_templates(file)


def test_an_output_that_is_no_folder(run_folder, pictures, tmp_path):
    (tmp_path / "out").write_text("a file")
    for command, more in (
        (zero_shot, ("--images", pictures, "--classes", "cat,dog")),
        (evaluate, ("--data", "folder", "--image-root", pictures)),
    ):
        with pytest.raises(BadCaptions, match="--out .*out: expected a folder"):
            command.main(words(run_folder, tmp_path / "out", *more))


def test_help_shows_commands_on_several_lines_as_they_are_typed(capsys):
    with pytest.raises(SystemExit):
        zero_shot.main(["--help"])
    assert "my_pictures \\\n" in capsys.readouterr().out


def test_a_broken_picture_is_named_or_counted(run_folder, pictures, tmp_path, capsys):
    whole = (pictures / "red/a.jpg").read_bytes()
    (pictures / "red/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "red/text.png").write_text("no picture")
    more = ("--images", pictures, "--classes", "cat,dog")
    with pytest.raises(BadCaptions, match="cut.jpg is not an image .*; --skip-bad leaves"):
        zero_shot.main(words(run_folder, tmp_path / "out", *more))
    zero_shot.main(words(run_folder, tmp_path / "out", *more, "--skip-bad"))
    assert "left out 2 of 7 files" in capsys.readouterr().out


def test_no_pictures(run_folder, tmp_path):
    more = ("--classes", "cat,dog", "--images")
    with pytest.raises(BadCaptions, match="expected a folder of images, found none"):
        zero_shot.main(words(run_folder, tmp_path / "out", *more, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadCaptions, match="expected images .* found none"):
        zero_shot.main(words(run_folder, tmp_path / "out", *more, tmp_path / "empty"))


def test_the_montage_has_so_many_pictures(run_folder, pictures, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        zero_shot, "plot_image_grid", lambda x, titles, **_: drawn.append((x, titles))
    )
    more = ("--images", pictures, "--classes", "cat,dog", "--shown", 2)
    zero_shot.main(words(run_folder, tmp_path, *more))
    ((images, titles),) = drawn
    assert images.shape == (2, 3, 112, 112) and len(titles) == 2
    with (tmp_path / "predictions.csv").open() as file:
        _, first, *rest = csv.reader(file)
    assert titles[0] == "\n".join(first[1:]) and len(rest) == 4


def test_the_montage_draws_any_class(run_folder, pictures, tmp_path):
    """Dollars would begin a formula of matplotlib's, which a broken one stops."""
    assert zero_shot.label("a cat") == "a cat" and zero_shot.label("$5") == r"\$5"
    assert zero_shot.label("a name of many words") == "a name of many…"
    more = ("--images", pictures / "red/a.jpg", "--classes", r"$\frac$,$\sqrt$")
    zero_shot.main(words(run_folder, tmp_path, *more))
    assert (tmp_path / "montage.png").is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--images x --classes a", "expected --model"),
        ("--model m --classes a", "expected --images"),
        ("--model m --images x", "expected --classes"),
        ("--model m --images x --classes a,b,a", "expected different class names, got a,b,a"),
    ],
)
def test_missing_options(given, message, capsys):
    with pytest.raises(SystemExit):
        zero_shot.main(given.split())
    assert message in capsys.readouterr().err


# --- models and tokenizers


def test_a_vocabulary_that_does_not_fit(run_folder, tmp_path):
    other = tmp_path / "merges.txt.gz"
    other.write_bytes(gzip.compress(CLIPTokenizer([("a", "b")]).published_merges().encode()))
    assert len(zero_shot.load_tokenizer(other)) == 515
    with pytest.raises(CheckpointError, match="tokens and the tokenizer 515; --tokenizer names"):
        zero_shot.load_model(str(run_folder), other)
    other.write_bytes(b"nothing packed")
    with pytest.raises(CheckpointError, match="not the merges of a tokenizer"):
        zero_shot.load_tokenizer(other)


def test_a_vocabulary_that_is_named_has_to_be_there(run_folder, tmp_path):
    with pytest.raises(CheckpointError, match="none: expected a tokenizer's folder or file"):
        zero_shot.load_model(str(run_folder), tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected merges.txt there, or --tokenizer"):
        zero_shot.load_model(str(run_folder), tmp_path)


def test_a_model_without_a_vocabulary_takes_the_one_that_is_named(run_folder, pictures, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("clip.json", "model.safetensors"):
        (bare / name).write_bytes((run_folder / name).read_bytes())
    for command, more in (
        (zero_shot, ("--images", pictures, "--classes", "cat,dog")),
        (evaluate, ("--data", "folder", "--image-root", pictures)),
    ):
        given = words(bare, tmp_path / "out", *more)
        with pytest.raises(CheckpointError, match="expected merges.txt there, or --tokenizer"):
            command.main(given)
        command.main([*given, "--tokenizer", str(run_folder)])


def test_what_is_no_model(run_folder, tmp_path):
    with pytest.raises(CheckpointError, match="for a model.safetensors give the folder"):
        zero_shot.load_model(str(run_folder / "model.safetensors"))
    with pytest.raises(CheckpointError, match="none: no such folder here, and as a published"):
        zero_shot.load_model(str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="expected merges.txt there, or --tokenizer"):
        zero_shot.load_model(str(tmp_path))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match="expected clip.json and model.safetensors of a run"):
        zero_shot.load_model(str(tmp_path))


def test_a_published_name_gets_open_clips_vocabulary():
    tokenizer = zero_shot.load_tokenizer("ViT-B/32")
    assert len(tokenizer) == 49_408
    want = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.encode_batch(["a photo of a cat"], 7).tolist() == [want]
    assert tokenizer.encode("doesnâ€™t") == tokenizer.encode("doesn't")  # ftfy repairs it


# --- evaluate.py


def read(out):
    return json.loads((out / "evaluation.json").read_text())


def test_generated_captions(run_folder, tmp_path, monkeypatch, capsys):
    train, val = captioned_shapes(30, seed=1), captioned_shapes(30, seed=0)
    test, asked = captioned_shapes(48, seed=0, held_out=True), []
    splits = CaptionSplits(train, val, test)
    monkeypatch.setattr(
        evaluate, "load_captions", lambda *a, **k: asked.append((a[0], k)) or splits
    )
    more = ("--ks", "1,5,1000", "--seed", 7)
    evaluate.main(words(run_folder, tmp_path, *more, "--limit", 20))
    found = read(tmp_path)
    assert asked == [("captions", {"seed": 7})]
    assert (found["images"], found["captions"], found["labelled_images"]) == (20, 100, 20)
    assert found["text_r1000_recall"] == found["image_r1000_recall"] == 1
    assert (tmp_path / "evaluation.txt").read_text() in capsys.readouterr().out

    model, tokenizer = zero_shot.load_model(str(run_folder))
    spread = [i * 30 // 20 for i in range(20)]
    want = evaluate.retrieval(model, tokenizer, val.part(spread), (1, 5, 1000), same_text=True)
    assert {name: found[name] for name in want} == pytest.approx(want)
    own = tmp_path / "templates.txt"
    own.write_text("a photo with {} in it\n")
    evaluate.main(words(run_folder, tmp_path, *more, "--templates", own))
    for templates, result, data in (
        (["a {}", "a picture of a {}"], found, test.part([i * 48 // 20 for i in range(20)])),
        (["a photo with {} in it"], read(tmp_path), test),
    ):
        scores = scores_of_names(model, tokenizer, data, templates)  # of all forty names
        among_all = np.mean(scores.argmax(1) == data.labels)
        others = np.setdiff1d(np.arange(40), HELD_OUT)
        scores[:, others] = -2
        among_eight = np.mean(scores.argmax(1) == data.labels)
        assert result["zero_shot_accuracy"] == pytest.approx(among_all)
        assert result["held_out_accuracy"] == pytest.approx(among_eight)
        assert among_eight > 0


def scores_of_names(model, tokenizer, data, templates):
    """Cosines (N, 40) of every image with the mean of the prompts of every name."""
    vectors = []
    with torch.no_grad():
        for name in data.classes:
            tokens = tokenizer.encode_batch([t.replace("{}", name) for t in templates], 12)
            vectors.append(model.encode_text(torch.from_numpy(tokens)).mean(0))
        classes = torch.nn.functional.normalize(torch.stack(vectors), dim=1)
        x = np.stack([zero_shot.pixels(image, 16) for image in data.images])
        return (model.encode_image(torch.from_numpy(zero_shot.normalised(x))) @ classes.T).numpy()


def test_recall_counts_all_captions_of_an_image(run_folder):
    """By hand, with a loop over the questions; no text occurs twice, and no score."""
    model, tokenizer = zero_shot.load_model(str(run_folder))
    shapes = captioned_shapes(12, seed=0)
    texts = [(f"cat {i}", f"{i} dogs", f"blue {i}")[: 1 + i % 3] for i in range(12)]
    data = Captioned(shapes.images, texts)
    found = evaluate.retrieval(model, tokenizer, data, (1, 3, 5))
    texts, owners = data.texts()
    scores = (
        zero_shot.image_vectors(model, data.images)
        @ zero_shot.text_vectors(model, tokenizer, texts).T
    ).numpy()
    assert len(np.unique(scores)) == scores.size == 12 * 24
    want = {}
    for k in (1, 3, 5):
        hits = [any(owners[j] == i for j in row.argsort()[-k:]) for i, row in enumerate(scores)]
        back = [owners[j] in column.argsort()[-k:] for j, column in enumerate(scores.T)]
        want |= {f"text_r{k}_recall": np.mean(hits), f"image_r{k}_recall": np.mean(back)}
    assert found == pytest.approx(want)
    assert want["text_r5_recall"] != want["image_r5_recall"]


def test_the_same_words_belong_to_every_image_that_has_them():
    data = Captioned(np.zeros((2, 3, 8, 8)), [("a cat", "a dog"), ("a dog",)])
    texts, positives = evaluate.positives_of(data)
    assert texts == ["a cat", "a dog", "a dog"]
    assert positives.tolist() == [[True, True, False], [False, False, True]]
    _, positives = evaluate.positives_of(data, same_text=True)
    assert positives.tolist() == [[True, True, True], [False, True, True]]


def test_a_single_class_is_no_question(run_folder, pictures, tmp_path):
    more = ("--data", "folder", "--image-root", pictures / "red")
    with pytest.raises(BadCaptions, match="expected at least two classes, got deep alone"):
        evaluate.main(words(run_folder, tmp_path / "out", *more))


def test_own_pairs_and_own_classes(run_folder, pictures, tmp_path):
    file = tmp_path / "pairs.csv"
    rows = "image_path,caption\nred/a.jpg,a cat\nred/a.jpg,the cat\nblue_dog/d.bmp,a dog\n"
    file.write_text(rows + "red/none.jpg,a car\n")
    more = ("--data", "csv", "--csv", file, "--image-root", pictures)
    with pytest.raises(BadCaptions, match=r"pairs.csv, row 5: there is no image .*none.jpg"):
        evaluate.main(words(run_folder, tmp_path / "csv", *more))
    evaluate.main(words(run_folder, tmp_path / "csv", *more, "--skip-bad"))
    found = read(tmp_path / "csv")
    assert (found["images"], found["captions"], found["left_out"]) == (2, 3, 1)
    assert found["text_r5_recall"] == 1 and "zero_shot_accuracy" not in found

    lines = rows.splitlines()
    parted = zip(lines, ("split", "train", "train", "test"), strict=True)
    file.write_text("".join(f"{line},{part}\n" for line, part in parted))
    evaluate.main(words(run_folder, tmp_path / "csv", *more))
    assert (read(tmp_path / "csv")["images"], read(tmp_path / "csv")["captions"]) == (1, 1)
    file.write_text(file.read_text().replace(",test", ",val"))
    with pytest.raises(BadCaptions, match="expected rows with the split test, got .*'val'"):
        evaluate.main(words(run_folder, tmp_path / "csv", *more))
    file.write_text(file.read_text().replace(",train", ","))  # rows of no part are not those asked
    with pytest.raises(BadCaptions, match="expected rows with the split test, got .*'val'"):
        evaluate.main(words(run_folder, tmp_path / "csv", *more))

    more = ("--data", "folder", "--image-root", pictures)
    evaluate.main(words(run_folder, tmp_path / "folder", *more))
    found = read(tmp_path / "folder")
    assert (found["labelled_images"], found["classes"]) == (5, 2) and "images" not in found
    model, tokenizer = zero_shot.load_model(str(run_folder))
    (pictures / "red" / "broken.jpg").write_text("no picture")
    evaluate.main(words(run_folder, tmp_path / "folder", *more, "--skip-bad"))
    assert read(tmp_path / "folder") == found | {"left_out": 1}
    data, left_out = evaluate.labelled_folder(pictures, True)
    assert (len(data), left_out) == (5, 1)
    assert data.classes == ("blue dog", "red") and data.labels.tolist() == [0, 0, 1, 1, 1]
    classes = zero_shot.class_vectors(
        lambda texts: zero_shot.text_vectors(model, tokenizer, texts), data.classes, TEMPLATES
    )
    right = (zero_shot.image_vectors(model, data.images) @ classes.T).argmax(1).numpy()
    assert found["zero_shot_accuracy"] == pytest.approx((right == data.labels).mean())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "expected --model"),
        ("--model m --data csv", "expected --csv FILE with --data csv"),
        ("--model m --data folder", "expected --image-root FOLDER with --data folder"),
        ("--model m --ks 0,5", "expected --ks of at least 1, got 0,5"),
    ],
)
def test_missing_options_of_evaluate(given, message, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(given.split())
    assert message in capsys.readouterr().err
