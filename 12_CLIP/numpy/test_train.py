"""The training script of level 1 does what a plain loop does."""

import json
from pathlib import Path

import numpy as np
import pytest

import utils  # noqa: F401  (puts the chapters on the import path)
from clip_layers_numpy import contrastive_loss_backward, contrastive_loss_forward
from clip_numpy import CLIP, CLIPConfig
from clip_tokenizer_numpy import CLIPTokenizer
from optimizers_numpy import AdamW
from utils.caption_data import CLASSES, HELD_OUT, MEAN, STD, CaptionSplits, captioned_shapes
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights
from vit_numpy import clip_gradients, warmup_cosine

train = load_module(Path(__file__).parent / "train.py", "train_clip_numpy")


def test_the_script_is_the_plain_loop(tmp_path, monkeypatch):
    data = captioned_shapes(50, seed=0)
    test = captioned_shapes(40, seed=0, held_out=True)
    splits, asked = CaptionSplits(data, data.part(range(9)), test), []
    monkeypatch.setattr(train, "load_captions", lambda *a, **k: asked.append((a[0], k)) or splits)
    # So small that it binds from the first step; 100 is far away in so few.
    clamp = CLIP.clamp_scale
    monkeypatch.setattr(CLIP, "clamp_scale", lambda model: clamp(model, 13.0))
    words = "--seed 3 --lr 0.01 --warmup 3 --weight-decay 0.2 --clip-norm 0.5 --patch-size 16"
    words += " --vision-width 12 --vision-layers 1 --text-width 8 --text-layers 1 --embed 6"
    words += f" --vocabulary 540 --batch-size 16 --limit 40 --epochs 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")

    assert asked == [("captions", {"seed": 3})]
    mean, std = (np.array(v)[:, None, None] for v in (MEAN, STD))
    x = ((data.images - mean) / std).astype(np.float32)
    texts = [text for captions in data.captions for text in captions]  # five for each image
    tokenizer = CLIPTokenizer.train(texts, 540)
    tokens = tokenizer.encode_batch(texts, 24)
    tokens = tokens[:, : (tokens == tokenizer.END).argmax(axis=1).max() + 1]
    config = CLIPConfig(6, 32, 16, 12, 1, vocabulary=540, text_width=8, text_layers=1)
    assert len(tokenizer) == 540
    model = CLIP(config, np.random.default_rng(3), np.float32)
    parts = [{n: p for n, p in model.params.items() if (p.ndim < 2) == i} for i in (False, True)]
    optimizers = [
        AdamW(p, 0.01, (0.9, 0.98), 1e-6, d) for p, d in zip(parts, (0.2, 0), strict=True)
    ]
    wanted = []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * i + 16]
        chosen = np.random.default_rng([3, 1, step]).integers(5 * index, 5 * index + 5)
        loss, cache = contrastive_loss_forward(*model.forward(x[index], tokens[chosen]))
        grads = model.backward(contrastive_loss_backward(cache))
        clip_gradients(grads, 0.5)
        for optimizer in optimizers:
            optimizer.lr = 0.01 * warmup_cosine(step, 6, 3)
            optimizer.step(grads)
        model.clamp_scale()
        wanted.append(float(loss))
    losses = [r["loss"] for r in read_metrics(folder) if "loss" in r]
    assert losses == pytest.approx(wanted, rel=1e-5)
    trained = load_weights(folder / "model.safetensors")
    for name, p in model.params.items():
        np.testing.assert_allclose(trained[name], p, rtol=0, atol=1e-4)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == train.accuracy(model, test, tokenizer)
    scale = float(np.exp(model.params["logit_scale"]))
    assert summary["metrics"]["scale"] == pytest.approx(scale, rel=1e-4) and scale < 13.01


def test_accuracy_counts_images_whose_class_is_nearest():
    data = captioned_shapes(80, seed=0, held_out=True)
    tokenizer = CLIPTokenizer.train([c for captions in data.captions for c in captions], 560)
    config = CLIPConfig(6, 32, 16, 12, 1, vocabulary=len(tokenizer), text_width=8, text_layers=1)
    model = CLIP(config, np.random.default_rng(0))
    names = [CLASSES[i] for i in HELD_OUT]
    prompts = [f"{start} {name}" for name in names for start in ("a", "a picture of a")]
    classes = model.encode_text(tokenizer.encode_batch(prompts, 24)).reshape(8, 2, 6).mean(1)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    nearest = (model.encode_image(train.normalised(data.images)) @ classes.T).argmax(1)
    assert (
        train.accuracy(model, data, tokenizer)
        == (np.array(HELD_OUT)[nearest] == data.labels).mean()
    )


def test_the_recipe():
    assert train.SHAPE_TEMPLATES == ("a {}", "a picture of a {}")
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.limit) == (40, 64, 0)
    assert (o.lr, o.warmup, o.weight_decay, o.clip_norm) == (0.001, 100, 0.1, 1.0)
    c = o.network(600)
    assert (c.patch_size, c.vision_width, c.vision_layers, c.vision_heads) == (8, 64, 3, 4)
    assert (c.text_width, c.text_layers, c.text_heads, c.embed) == (48, 2, 4, 48)
    assert (c.image_size, c.context) == (32, 24)


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--patch-size", "5"])
    assert "expected a patch size that divides 32, got 5" in capsys.readouterr().err
