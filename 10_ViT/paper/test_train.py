"""The training script of level 3 does what a plain loop does, and reads image folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rollout_paper import attention_rollout, seen_of_patches
from utils.data_loaders import ArrayDataset, Arrays, load_arrays
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.training_utils import _seed_step, cosine
from utils.weights import load_into, load_weights
from vit_paper import VisionTransformer, ViTConfig, loss_function, paper_optimizer
from vit_training_paper import augment

train = load_module(Path(__file__).parent / "train.py", "train_vit_paper")
SMALL = "--device cpu --seed 3 --patch-size 16 --width 12 --heads 3 --hidden 10 --layers 2"
SMALL += " --batch-size 16 --epochs 2"


@pytest.mark.parametrize(("augmented", "pool"), [(False, "cls"), (True, "gap")])
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, augmented, pool):
    data = load_arrays("shapes")
    few = Arrays(
        data.x_train[:60], data.y_train[:60], data.x_test[:30], data.y_test[:30], data.classes
    )
    accuracy, plot, tested, drawn = train.accuracy, train.plot_image_grid, [], []
    monkeypatch.setattr(train, "load_arrays", lambda *_: few)
    monkeypatch.setattr(train, "accuracy", lambda *a: tested.append(a[1]) or accuracy(*a))
    monkeypatch.setattr(train, "plot_image_grid", lambda x, **o: drawn.append(x) or plot(x, **o))
    words = f"{SMALL} --lr 0.01 --warmup 3 --weight-decay 0.2 --clip-norm 0.5 --limit 40"
    words += f" --label-smoothing 0.1 --dropout 0.2 --pool {pool} --out {tmp_path}"
    train.main([*words.split(), *(["--erase", "0.5"] if augmented else ["--no-augment"])])
    (folder,) = tmp_path.glob("*/*")

    mean, std = few.x_train.mean((0, 2, 3)), few.x_train.std((0, 2, 3))
    x_train = torch.from_numpy((few.x_train - mean[:, None, None]) / std[:, None, None])
    torch.manual_seed(3)
    model = VisionTransformer(ViTConfig(32, 16, 12, 2, 3, 10, 10, pool=pool, dropout=0.2))
    optimizer, wanted = paper_optimizer(model.parameters(), weight_decay=0.2), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * i + 16]
        optimizer.param_groups[0]["lr"] = 0.01 * cosine(6, 3)(step)
        _seed_step(3, step, 0)
        torch.empty((), dtype=torch.int64).random_()  # what a DataLoader draws when it starts
        x = augment(x_train[index], 0.5) if augmented else x_train[index]
        loss = loss_function(model, (x, torch.from_numpy(few.y_train[index])), 0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        wanted.append(loss.item())
    losses = [r["loss"] for r in read_metrics(folder) if "loss" in r]
    assert losses == pytest.approx(wanted, rel=1e-5)
    trained = load_weights(folder / "model.safetensors")
    for name, p in model.named_parameters():
        np.testing.assert_allclose(trained[name], p.detach(), rtol=0, atol=1e-4)

    # The test images: prepared like the training images, all of them.
    load_into(model.eval(), trained)
    x_test = torch.from_numpy((few.x_test - mean[:, None, None]) / std[:, None, None])
    assert len(tested) == 2
    np.testing.assert_allclose(tested[1].tensors[0], x_test, rtol=0, atol=1e-5)
    assert np.array_equal(tested[1].tensors[1], few.y_test)
    summary = json.loads((folder / "summary.json").read_text())
    right = (model(x_test).argmax(dim=1).numpy() == few.y_test).mean()
    assert summary["metrics"]["test_accuracy"] == pytest.approx(right, abs=0.04)  # or one more

    # The picture: eight of them, and below each what the head has seen of its 2x2 patches.
    shown = x_test[[0, 4, 8, 12, 16, 20, 24, 29]]
    seen = seen_of_patches(attention_rollout(model.attention_maps(shown)), pool == "cls")
    seen = seen[:, None].repeat_interleave(16, 2).repeat_interleave(16, 3)
    low, high = shown.amin((1, 2, 3), keepdim=True), shown.amax((1, 2, 3), keepdim=True)
    np.testing.assert_allclose(drawn[0][:8], (shown - low) / (high - low), rtol=0, atol=1e-5)
    np.testing.assert_allclose(drawn[0][8:], seen.expand(-1, 3, -1, -1), rtol=0, atol=1e-5)
    assert (folder / "rollout.png").read_bytes().startswith(b"\x89PNG")


def test_an_image_folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("dark", "light", "white")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = 90 * label + rng.integers(20, size=(30 + i, 40, 3))
                picture = Image.fromarray(pixels.astype(np.uint8))
                picture.save(tmp_path / "images" / split / name / f"{i}.jpg")
    words = f"{SMALL} --data folder --images {tmp_path / 'images'} --size 32 --no-augment"
    train.main([*words.split(), "--epochs", "12", "--lr", "0.01", "--out", str(tmp_path / "runs")])
    (folder,) = (tmp_path / "runs").glob("*/*")
    weights = load_weights(folder / "model.safetensors")
    assert weights["head.bias"].shape == (3,) and weights["pos_embed"].shape == (1, 5, 12)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] > 0.6

    # Its images are cropped where they are read; erasing comes after that.
    shares = []
    monkeypatch.setattr(train, "random_erase", lambda x, share: shares.append(share) or x)
    words = words.replace("--no-augment", "--erase 0.5")
    train.main([*words.split(), "--epochs", "1", "--out", str(tmp_path / "erased")])
    assert shares == [0.5]


@pytest.mark.parametrize("augmented", [True, False])
def test_images_of_a_folder_are_cropped_where_they_are_read_and_nowhere_else(
    tmp_path, monkeypatch, augmented
):
    asked, images = [], ArrayDataset(torch.rand(20, 3, 48, 48), torch.arange(20) % 3)

    def load_image_folder(*words):
        asked.append(words)
        return images, images, ("a", "b", "c")

    monkeypatch.setattr(train, "load_image_folder", load_image_folder)
    monkeypatch.setattr(train, "augment", lambda *_: pytest.fail("cropped a second time"))
    words = f"{SMALL} --data folder --images {tmp_path / 'images'} --size 48 --epochs 1"
    more = [] if augmented else ["--no-augment"]
    train.main([*words.split(), *more, "--out", str(tmp_path / "runs")])
    assert asked == [(tmp_path / "images", 48, augmented)]


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.batch_size, o.limit, o.augment) == ("shapes", 60, 64, 0, True)
    assert (o.images, o.size) == (None, 64)
    assert (o.lr, o.warmup, o.weight_decay, o.clip_norm) == (0.003, 100, 0.05, 1.0)
    assert (o.patch_size, o.width, o.layers, o.heads, o.hidden) == (8, 64, 4, 4, 128)
    assert (o.pool, o.dropout, o.label_smoothing, o.erase) == ("cls", 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--patch-size 5", "expected a patch size that divides 32, got 5"),
        ("--erase 2", "expected a number of at most 1, got 2"),
        ("--label-smoothing 1.5", "expected a number of at most 1, got 1.5"),
        ("--data folder", "expected --images FOLDER with --data folder, and only with it"),
        ("--images there", "expected --images FOLDER with --data folder, and only with it"),
        (
            "--data folder --images there --size 60 --patch-size 16",
            "expected a patch size that divides 60, got 16",
        ),
    ],
)
def test_impossible_options_are_an_error_of_one_line(words, message, capsys):
    with pytest.raises(SystemExit):
        train.main(words.split())
    assert message in capsys.readouterr().err
