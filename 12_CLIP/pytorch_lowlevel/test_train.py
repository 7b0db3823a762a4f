"""The training script of level 2 does what a plain loop does."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import clip_lowlevel as low
import clip_training_lowlevel as training
from clip_tokenizer_numpy import CLIPTokenizer
from utils.caption_data import CLASSES, HELD_OUT, MEAN, STD, CaptionSplits, captioned_shapes
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.weights import load_weights, to_torch

train = load_module(Path(__file__).parent / "train.py", "train_clip_lowlevel")


@pytest.mark.parametrize("loss_name", ["contrastive", "sigmoid"])
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, loss_name):
    data = captioned_shapes(50, seed=0)
    test = captioned_shapes(40, seed=0, held_out=True)
    splits, asked = CaptionSplits(data, data.part(range(9)), test), []
    monkeypatch.setattr(train, "load_captions", lambda *a, **k: asked.append((a[0], k)) or splits)
    # So small that it binds from the first step; 100 is far away in so few.
    monkeypatch.setattr(train, "clamp_scale", partial(low.clamp_scale, largest=9.5))
    words = "--seed 3 --lr 0.01 --warmup 3 --weight-decay 0.2 --clip-norm 0.5 --patch-size 16"
    words += " --vision-width 12 --vision-layers 1 --text-width 8 --text-layers 1 --embed 6"
    words += f" --vocabulary 540 --batch-size 16 --limit 40 --epochs 2 --out {tmp_path}"
    augmented = loss_name == "sigmoid"
    more = ["--loss", loss_name, "--device", "cpu", *([] if augmented else ["--no-augment"])]
    train.main([*words.split(), *more])
    (folder,) = tmp_path.glob("*/*")

    assert asked == [("captions", {"seed": 3})]
    mean, std = (np.array(v)[:, None, None] for v in (MEAN, STD))
    x = torch.from_numpy((data.images - mean) / std).float()
    tokenizer = CLIPTokenizer.train([c for captions in data.captions for c in captions], 540)
    tokens = tokenizer.encode_batch([c for captions in data.captions for c in captions], 24)
    tokens = torch.from_numpy(tokens[:, : (tokens == tokenizer.END).argmax(axis=1).max() + 1])
    config = low.CLIPConfig(
        6, 32, 16, 12, 1, vocabulary=len(tokenizer), text_width=8, text_layers=1
    )
    params = low.init_params(config, torch.Generator().manual_seed(3))
    if augmented:
        params["logit_bias"] = torch.tensor(-10.0, requires_grad=True)
        params["logit_scale"].data.fill_(np.log(10))
    optimizer, wanted = training.AdamW(params, weight_decay=0.2), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(40)[16 * i : 16 * i + 16]
        noise = int(np.random.default_rng([3, 1, step]).integers(2**63))
        generator = torch.Generator().manual_seed(noise)
        own = (5 * torch.rand(len(index), generator=generator)).long()  # five captions each
        batch = x[index]
        if augmented:
            batch = training.crop(batch, generator)
        outputs = low.forward(params, batch, tokens[5 * torch.from_numpy(index) + own], config)
        if augmented:
            loss = low.sigmoid_loss(*outputs, params["logit_bias"])
        else:
            loss = low.contrastive_loss(*outputs)
        optimizer.lr = 0.01 * training.warmup_cosine(step, 6, 3)
        wanted.append(training.update(optimizer, loss, 0.5).item())
        low.clamp_scale(params, 9.5)
    losses = [r["loss"] for r in read_metrics(folder) if "loss" in r]
    assert losses == pytest.approx(wanted, rel=1e-5)
    trained = load_weights(folder / "model.safetensors")
    for name, p in params.items():
        np.testing.assert_allclose(trained[name], p.detach(), rtol=0, atol=1e-4)
    metrics = next(r for r in read_metrics(folder)[::-1] if "test_accuracy" in r)
    scale = params["logit_scale"].exp().item()
    assert metrics["scale"] == pytest.approx(scale, rel=1e-4) and scale < 9.51
    assert metrics["test_accuracy"] == train.accuracy(to_torch(trained), test, tokenizer, config)


def test_accuracy_counts_images_whose_class_is_nearest():
    data = captioned_shapes(160, seed=0, held_out=True)
    tokenizer = CLIPTokenizer.train([c for captions in data.captions for c in captions], 560)
    config = low.CLIPConfig(
        6, 32, 16, 12, 1, vocabulary=len(tokenizer), text_width=8, text_layers=1
    )
    params = low.init_params(config, torch.Generator().manual_seed(0))
    names = [CLASSES[i] for i in HELD_OUT]
    prompts = [f"{start} {name}" for name in names for start in ("a", "a picture of a")]
    tokens = torch.from_numpy(tokenizer.encode_batch(prompts, 24))
    texts = low.encode_text(params, tokens, config).view(8, 2, 6)
    images = low.encode_image(params, torch.from_numpy(train.normalised(data.images)), config)

    def share(classes):
        nearest = (images @ classes.T).argmax(1).numpy()
        return (np.array(HELD_OUT)[nearest] == data.labels).mean()

    mean = texts.mean(dim=1)
    want = share(mean / mean.norm(dim=1, keepdim=True))
    # One prompt of the two, or a mean that is not of length 1, gives something else.
    assert want > 0 and want not in {share(c) for c in (mean, texts[:, 0], texts[:, 1])}
    got = train.accuracy(params, data, tokenizer, config)
    assert got == pytest.approx(want, abs=1e-6)


def test_the_recipe():
    assert train.SHAPE_TEMPLATES == ("a {}", "a picture of a {}")
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.limit, o.augment) == (40, 64, 0, True)
    assert (o.lr, o.warmup, o.weight_decay, o.clip_norm) == (0.001, 100, 0.1, 1.0)
    c = o.network(600)
    assert (c.patch_size, c.vision_width, c.vision_layers, c.vision_heads) == (8, 96, 4, 4)
    assert (c.text_width, c.text_layers, c.text_heads, c.embed) == (64, 2, 4, 64)
    assert (c.image_size, c.context) == (32, 24)


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--vision-width", "10"])
    assert "expected a vision width that 4 heads divide, got 10" in capsys.readouterr().err
