"""The training script of level 3 does what a plain loop does, also with files of one's own."""

import csv
import json
import math
from pathlib import Path

import ftfy
import numpy as np
import pytest
import torch
from PIL import Image

import utils  # noqa: F401  (puts the chapters on the import path)
from clip_loss_paper import contrastive_loss, paper_optimizer, sigmoid_loss
from clip_tokenizer_numpy import CLIPTokenizer
from utils.caption_data import (
    HELD_OUT,
    BadCaptions,
    CaptionDataset,
    Captioned,
    CaptionSplits,
    captioned_shapes,
)
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.training_utils import _seed_step, cosine
from utils.weights import load_weights
from zero_shot import build, load_model

train = load_module(Path(__file__).parent / "train.py", "train_clip_paper")
SMALL = "--device cpu --seed 3 --vision-heads 2 --text-width 8 --text-heads 2 --text-layers 1"
SMALL += " --embed 6 --batch-size 16 --epochs 2 --warmup 3 --lr 0.01 --vocabulary 540"
VIT = "--encoder vit --patch-size 16 --vision-width 12 --vision-layers 2"
RESNET = "--encoder resnet --vision-width 4 --vision-layers 1,1,1,1"


def few_shapes():
    data = captioned_shapes(60, seed=0)
    test = captioned_shapes(40, seed=0, held_out=True)
    return CaptionSplits(data.part(range(40)), data.part(range(40, 60)), test)


@pytest.mark.parametrize(
    ("words", "augmented"),
    [(VIT, False), (f"{RESNET} --loss sigmoid", True)],
    ids=["vit", "resnet-sigmoid"],
)
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, words, augmented):
    splits, asked = few_shapes(), []
    monkeypatch.setattr(train, "load_captions", lambda *a, **k: asked.append((a[0], k)) or splits)
    words = f"{SMALL} {words} --clip-norm 0.5 --weight-decay 0.3 --max-scale 12 --out {tmp_path}"
    train.main([*words.split(), *([] if augmented else ["--no-augment"])])
    (folder,) = tmp_path.glob("*/*")
    assert asked == [("captions", {"seed": 3})]

    texts = [text for captions in splits.train.captions for text in captions]
    tokenizer = CLIPTokenizer.train(texts, 540, repair=ftfy.fix_text)
    sizes = json.loads((folder / "clip.json").read_text())
    assert sizes["vocabulary"] == len(tokenizer) and sizes["context"] == 24
    torch.manual_seed(3)
    layers = sizes["vision_layers"]
    model = build(**sizes | {"vision_layers": tuple(layers) if augmented else layers}).train()
    data = CaptionDataset(
        splits.train, lambda texts: tokenizer.encode_batch(texts, 24), 32, augmented
    )
    optimizer, wanted = paper_optimizer(model, weight_decay=0.3), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * i + 16]
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * cosine(6, 3)(step)
        _seed_step(3, step, 0)
        torch.empty((), dtype=torch.int64).random_()  # what a DataLoader draws when it starts
        images, tokens = (torch.stack(x) for x in zip(*(data[int(i)] for i in index), strict=True))
        loss = (sigmoid_loss if augmented else contrastive_loss)(*model(images, tokens))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        model.clamp_scale(12.0)
        wanted.append(loss.item())
    losses = [r["loss"] for r in read_metrics(folder) if "loss" in r]
    assert losses == pytest.approx(wanted, rel=1e-4)
    trained = load_weights(folder / "model.safetensors")
    for name, p in model.named_parameters():
        np.testing.assert_allclose(trained[name], p.detach(), rtol=0, atol=1e-4)
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert {"val_text_r1_recall", "val_image_r10_recall", "test_accuracy", "scale"} <= set(metrics)
    assert metrics["scale"] <= 12.001
    loaded, vocabulary = load_model(str(folder))
    assert not loaded.training and vocabulary.merges == tokenizer.merges
    found = train.retrieval(loaded, vocabulary, splits.val, same_text=True)
    want = {f"val_{name}": value for name, value in found.items()}
    case = (loaded, vocabulary, splits.test, ("a {}", "a picture of a {}"))
    want["test_accuracy"] = train.zero_shot_accuracy(*case, among=HELD_OUT)
    want["among_all_accuracy"] = train.zero_shot_accuracy(*case)
    assert want["test_accuracy"] > want["among_all_accuracy"]
    for name, value in want.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name


def write_pictures(folder, rows, columns=("image_path", "caption")):
    """Pictures a.png, b.png ... of one colour each, and a CSV file of (name, caption, ...)."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in {row[0] for row in rows}:
        pixels = np.broadcast_to(rng.integers(255, size=3), (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / "captions.csv"


ROWS = [(f"{name}.png", f"{word} {name}") for name in "abc" for word in ("one", "a picture of")]


def test_own_pairs_fewer_than_a_batch_and_fine_tuning(tmp_path):
    file = write_pictures(tmp_path / "mine", ROWS)
    words = f"{SMALL} {VIT} --data csv --csv {file} --batch-size 128 --out {tmp_path / 'runs'}"
    train.main(words.split())
    (folder,) = (tmp_path / "runs").glob("*/*")
    records = [r for r in read_metrics(folder) if "loss" in r]
    assert len(records) == 2 and all(math.isfinite(r["loss"]) for r in records)  # one batch each
    before = load_weights(folder / "model.safetensors")

    words = f"--data csv --csv {file} --pretrained {folder} --lr 0.001 --epochs 1 --device cpu"
    train.main([*words.split(), "--out", str(tmp_path / "tuned")])
    (tuned,) = (tmp_path / "tuned").glob("*/*")
    after = load_weights(tuned / "model.safetensors")
    assert (tuned / "clip.json").read_text() == (folder / "clip.json").read_text()
    assert (tuned / "merges.txt").read_text() == (folder / "merges.txt").read_text()
    change = max(np.abs(after[n] - before[n]).max() for n in before)
    assert 0 < change < 0.01

    # The other loss has a bias, and its own scale to start with.
    options = train.Options(data="csv", csv=file, pretrained=str(folder), loss="sigmoid")
    model, tokenizer = train.start(options, [])
    assert model.config.logit_bias and model.logit_bias == -10
    assert tokenizer.published_merges() == (folder / "merges.txt").read_text()
    assert model.logit_scale.item() == pytest.approx(math.log(10))
    for name, p in before.items():
        if name != "logit_scale":
            np.testing.assert_array_equal(model.state_dict()[name], p)

    # A vocabulary of one's own is not learnt again, and the model has its size.
    options = train.Options(data="csv", csv=file, tokenizer=folder, encoder="vit")
    model, tokenizer = train.start(options, ["other words"] * 9)
    assert tokenizer.published_merges() == (folder / "merges.txt").read_text()
    assert model.config.vocabulary == len(tokenizer)


def test_own_files_are_measured_on_their_test_set(tmp_path):
    places = ["train", "train", "val", "val", "test", "test"]
    rows = [(n, c, s) for (n, c), s in zip(ROWS, places, strict=True)]
    file = write_pictures(tmp_path / "mine", rows, ("image_path", "caption", "split"))
    words = f"{SMALL} {VIT} --data csv --csv {file} --epochs 1 --out {tmp_path / 'runs'}"
    asked, measure = [], train.retrieval

    def retrieval(model, tokenizer, data, **options):
        asked.append(([path.name for path in data.images], options))
        return measure(model, tokenizer, data, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "retrieval", retrieval)
        train.main(words.split())
    assert asked == [(["b.png"], {"same_text": False}), (["c.png"], {"same_text": False})]
    (folder,) = (tmp_path / "runs").glob("*/*")
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert {"val_text_r1_recall", "test_text_r1_recall"} <= set(metrics)
    assert "test_accuracy" not in metrics


def test_broken_captions_are_repaired():
    tokenizer = train.start(train.Options(encoder="vit"), ["doesnâ€™t matter"] * 3)[1]
    assert "doesn</w>" in tokenizer.tokens and tokenizer.repair is ftfy.fix_text


def test_splits_of_a_file(tmp_path):
    places = ["train", "train", "val", "val", "test", "test"]
    rows = [(n, c, s) for (n, c), s in zip(ROWS, places, strict=True)]
    file = write_pictures(tmp_path / "mine", rows, ("image_path", "caption", "split"))
    options = train.Options(data="csv", csv=file)
    splits = train.load(options)
    names = [[p.name for p in part.images] for part in (splits.train, splits.val, splits.test)]
    assert names == [["a.png"], ["b.png"], ["c.png"]]
    plain = write_pictures(tmp_path / "other", ROWS)
    splits = train.load(train.Options(data="csv", csv=plain))
    assert (len(splits.train), len(splits.val)) == (2, 1) and splits.test is splits.val
    assert set(splits.train.images).isdisjoint(splits.val.images)
    splits = train.load(train.Options(data="csv", csv=plain, val_csv=file))
    assert len(splits.train) == 3 and [p.name for p in splits.val.images] == ["b.png"]


def test_help_shows_commands_on_several_lines_as_they_are_typed(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "--vision-width 32 \\\n" in capsys.readouterr().out


def test_a_split_is_in_every_row_or_in_none(tmp_path):
    places = ["train", "train", "", "", "val", "val"]
    rows = [(n, c, s) for (n, c), s in zip(ROWS, places, strict=True)]
    file = write_pictures(tmp_path / "mine", rows, ("image_path", "caption", "split"))
    with pytest.raises(BadCaptions, match="expected a split in every row or in none; 1 images"):
        train.load(train.Options(data="csv", csv=file))


def test_an_image_on_both_sides_is_an_error(tmp_path):
    places = ["train", "train", "val", "train", "val", "val"]
    rows = [(n, c, s) for (n, c), s in zip(ROWS, places, strict=True)]
    file = write_pictures(tmp_path / "mine", rows, ("image_path", "caption", "split"))
    with pytest.raises(BadCaptions, match=r"\.png is there to train and to validate"):
        train.load(train.Options(data="csv", csv=file))


def test_bad_rows_stop_the_run_or_are_counted(tmp_path, capsys):
    rows = [*ROWS, ("d.png", " ")]
    file = write_pictures(tmp_path / "mine", rows)
    with pytest.raises(BadCaptions, match=r"captions.csv, row 8: the caption is empty"):
        train.load(train.Options(data="csv", csv=file))
    splits = train.load(train.Options(data="csv", csv=file, skip_bad=True))
    assert len(splits.train) + len(splits.val) == 3
    assert "left out 1 rows" in capsys.readouterr().out


def test_one_image_is_its_own_validation(tmp_path):
    file = write_pictures(tmp_path / "mine", ROWS[:2])
    splits = train.load(train.Options(data="csv", csv=file))
    assert splits.train.images == splits.val.images and isinstance(splits.train, Captioned)


def test_a_last_batch_too_small_for_the_processes(tmp_path, monkeypatch):
    file = write_pictures(tmp_path / "mine", ROWS)
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = f"{SMALL} {VIT} --data csv --csv {file} --val-csv {file} --batch-size 2"
    with pytest.raises(BadCaptions, match="the last batch has 1 pairs for 2 processes"):
        train.main(words.split())


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.limit, o.augment) == (40, 64, 0, True)
    assert (o.lr, o.warmup, o.weight_decay, o.clip_norm, o.max_scale) == (0.001, 100, 0.1, 1, 100)
    assert (o.encoder, o.loss, o.embed, o.image_size) == ("resnet", "contrastive", 64, 32)
    c = o.network(600)
    assert (c.vision_width, c.vision_layers, c.vision_heads) == (16, (1, 1, 1, 1), 4)
    assert (c.text_width, c.text_layers, c.text_heads, c.context) == (64, 2, 4, 24)
    v = train.Options(encoder="vit").network(600)
    assert (v.patch_size, v.vision_width, v.vision_layers) == (8, 96, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--context 1", "argument --context: expected a number above 1, got 1"),
        ("--data csv", "expected --csv FILE with --data csv, and only with it"),
        ("--csv mine.csv", "expected --csv FILE with --data csv, and only with it"),
        ("--grad-accumulation 2", "expected --grad-accumulation 1: pairs in different parts"),
        ("--text-heads 3", "expected a text width that 3 heads divide, got 64"),
        ("--encoder vit --patch-size 5", "expected a side that 5 divides, got 32"),
        ("--vision-layers 1,2", "expected one number of blocks, of a ResNet four, got (1, 2)"),
        ("--vocabulary 513", "expected a number above 513"),
    ],
)
def test_impossible_options_are_an_error_of_one_line(words, message, capsys):
    with pytest.raises(SystemExit):
        train.main(words.split())
    assert message in capsys.readouterr().err
