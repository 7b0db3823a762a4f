"""Tests of level 2: equal to level 1 and to autograd's and PyTorch's own; training by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clip_lowlevel as low
import clip_numpy as np_level
import clip_training_lowlevel as training
from clip_layers_numpy import (
    contrastive_loss_backward,
    contrastive_loss_forward,
    sigmoid_loss_forward,
)
from optimizers_numpy import AdamW as NumpyAdamW
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch
from vit_numpy import clip_gradients
from vit_numpy import warmup_cosine as numpy_warmup_cosine

SIZES = {"embed": 10, "image_size": 16, "patch_size": 8, "vision_width": 12, "vision_layers": 2}
SIZES |= {"vision_heads": 3, "context": 7, "vocabulary": 20, "text_width": 8, "text_layers": 2}
SIZES |= {"text_heads": 2}
CONFIG = low.CLIPConfig(**SIZES)


def make_batch(B=4, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 18, (B, 7))
    tokens[:, 0] = 18
    tokens[np.arange(B), 2 + np.arange(B) % 5] = 19
    return torch.from_numpy(rng.standard_normal((B, 3, 16, 16))), torch.from_numpy(tokens)


def make_pair():
    one = np_level.CLIP(np_level.CLIPConfig(**SIZES), np.random.default_rng(0))
    perturb(one.params)
    return one, to_torch(one.params, requires_grad=True)


def step(params, batch, **changes):
    for p in params.values():
        p.grad = None
    image, text, scale = low.forward(params, *batch, low.CLIPConfig(**(SIZES | changes)))
    loss = low.contrastive_loss(image, text, scale)
    loss.backward()
    return Result(scale * image @ text.T, loss, {name: p.grad for name, p in params.items()})


def numpy_step(one, batch):
    image, text, scale = one.forward(*(part.numpy() for part in batch))
    loss, cache = contrastive_loss_forward(image, text, scale)
    grads = one.backward(contrastive_loss_backward(cache))
    return Result(scale * image @ text.T, loss, grads)


def test_equals_level_1():
    one, params = make_pair()
    batch = make_batch()
    assert_parity(step(params, batch), numpy_step(one, batch))


def test_ten_steps_equal_level_1():
    one, params = make_pair()
    optimizer = training.AdamW(params, weight_decay=0.3)
    parts = [{n: p for n, p in one.params.items() if (p.ndim < 2) == plain} for plain in (0, 1)]
    numpy_optimizers = [
        NumpyAdamW(part, betas=(0.9, 0.98), eps=1e-6, weight_decay=decay)
        for part, decay in zip(parts, (0.3, 0.0), strict=True)
    ]
    losses, numpy_losses = [], []
    for i in range(10):
        batch = make_batch(6, seed=i)
        optimizer.lr = 0.02 * training.warmup_cosine(i, 10, 3)
        image, text, scale = low.forward(params, *batch, CONFIG)
        loss = low.contrastive_loss(image, text, scale)
        losses.append(training.update(optimizer, loss, clip_norm=0.7))
        low.clamp_scale(params, 13.0)
        result = numpy_step(one, batch)
        clip_gradients(result.grads, 0.7)
        for numpy_optimizer in numpy_optimizers:
            numpy_optimizer.lr = 0.02 * numpy_warmup_cosine(i, 10, 3)
            numpy_optimizer.step(result.grads)
        one.clamp_scale(13.0)
        numpy_losses.append(result.loss)
    assert_trajectory(losses, numpy_losses)


def test_sigmoid_loss_equals_level_1():
    generator = torch.Generator().manual_seed(0)
    image, text = low.unit(torch.randn(2, 5, 4, generator=generator, dtype=torch.float64))
    got = low.sigmoid_loss(image, text, torch.tensor(7.0), torch.tensor(-3.0))
    want, _ = sigmoid_loss_forward(image.numpy(), text.numpy(), 7.0, -3.0)
    assert got.item() == pytest.approx(float(want), rel=1e-13)


def exact_gelu(monkeypatch):
    monkeypatch.setattr(low, "quick_gelu", F.gelu)


def no_mask(monkeypatch):
    attention = low.attention
    monkeypatch.setattr(low, "attention", lambda x, n, p, h, causal: attention(x, n, p, h, False))


def mask_in_the_image(monkeypatch):
    attention = low.attention
    monkeypatch.setattr(low, "attention", lambda x, n, p, h, causal: attention(x, n, p, h, True))


def lengths_kept(monkeypatch):
    monkeypatch.setattr(low, "unit", lambda x: x)


def other_epsilon(monkeypatch):
    norm = low.layer_norm
    monkeypatch.setattr(low, "layer_norm", lambda x, name, params: norm(x, name, params, 1e-3))


@pytest.mark.parametrize(
    "fault", [exact_gelu, no_mask, mask_in_the_image, lengths_kept, other_epsilon]
)
def test_sabotage_is_noticed(fault, monkeypatch):
    one, params = make_pair()
    batch = make_batch()
    want = numpy_step(one, batch)
    assert_parity(step(params, batch), want)
    fault(monkeypatch)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(step(params, batch), want)


# --- losses and update


def test_the_contrastive_loss_is_two_cross_entropies():
    generator = torch.Generator().manual_seed(0)
    image, text = low.unit(torch.randn(2, 5, 4, generator=generator, dtype=torch.float64))
    logits, labels = 9.0 * image @ text.T, torch.arange(5)
    want = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    got = low.contrastive_loss(image, text, torch.tensor(9.0))
    assert got.item() == pytest.approx(want.item(), rel=1e-13)


def test_adamw_is_torchs_with_two_groups():
    _, params = make_pair()
    copies = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    groups = [
        {"params": [p for p in copies.values() if p.ndim >= 2], "weight_decay": 0.4},
        {"params": [p for p in copies.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, 0.01, betas=(0.9, 0.98), eps=1e-6)
    ours = training.AdamW(params, 0.01, weight_decay=0.4)
    for i in range(3):
        batch = make_batch(seed=i)
        for p in copies.values():
            p.grad = None
        low.contrastive_loss(*low.forward(copies, *batch, CONFIG)).backward()
        theirs.step()
        training.update(ours, low.contrastive_loss(*low.forward(params, *batch, CONFIG)))
    for name, p in params.items():
        assert torch.allclose(p, copies[name], rtol=0, atol=1e-12), name


def test_clipping_is_torchs():
    _, params = make_pair()
    step(params, make_batch())
    grads = {n: p.grad.clone() for n, p in params.items()}
    stand_ins = [g.clone().requires_grad_() for g in grads.values()]
    for p, g in zip(stand_ins, grads.values(), strict=True):
        p.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(stand_ins, 0.1)
    optimizer = training.AdamW(params, lr=0.0)
    loss = low.contrastive_loss(*low.forward(params, *make_batch(), CONFIG))
    training.update(optimizer, loss, 0.1)
    for p, theirs in zip(params.values(), stand_ins, strict=True):
        assert torch.allclose(p.grad, theirs.grad, rtol=1e-9, atol=1e-15)


def test_crops_are_parts_of_the_widened_image():
    x = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    cropped = training.crop(x, torch.Generator().manual_seed(0))
    wide = F.pad(x, (2, 2, 2, 2), mode="replicate")
    places = []
    for image, whole in zip(cropped, wide, strict=True):
        found = [(i, j) for i in range(5) for j in range(5)
                 if torch.equal(image, whole[:, i : i + 8, j : j + 8])]  # fmt: skip
        assert found
        places += found[:1]
    rows, columns = ({place[axis] for place in places} for axis in (0, 1))
    assert rows == columns == set(range(5))  # up to two pixels to each side
    assert any(i != j for i, j in places)  # drawn for each axis by itself


# --- properties and bad input


def test_init_params():
    generator = torch.Generator().manual_seed(0)
    params = low.init_params(low.CLIPConfig(), generator)
    assert all(p.is_leaf and p.requires_grad for p in params.values())
    one = np_level.CLIP(np_level.CLIPConfig(), np.random.default_rng(0))
    load_into(one.params, params)  # the same names and shapes
    assert params["logit_scale"].exp().item() == pytest.approx(1 / 0.07)
    assert vars(low.CLIPConfig()) == vars(np_level.CLIPConfig())
    fresh = np_level.initial_params(np_level.CLIPConfig(), np.random.default_rng(0))
    for name, p in params.items():
        if fresh[name].std():  # the same spread, within the error of both
            rel = 6 / (2 * p.numel()) ** 0.5
            assert p.std().item() == pytest.approx(fresh[name].std(), rel=rel), name
            assert abs(p.mean().item()) < 4 * fresh[name].std() / p.numel() ** 0.5, name
        else:
            assert max_difference(p, fresh[name]) < 1e-6, name


def test_the_defaults_of_adamw():
    optimizer = training.AdamW({})
    assert (optimizer.lr, optimizer.weight_decay) == (5e-4, 0.2)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.98), 1e-6)


def test_the_scale_is_clamped():
    params = {"logit_scale": torch.tensor(9.0, requires_grad=True)}
    low.clamp_scale(params)
    assert params["logit_scale"].item() == pytest.approx(math.log(100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed": 0}, "expected embed of at least 1, got 0"),
        ({"patch_size": 3}, "expected a patch size that divides 16, got 3"),
        ({"text_heads": 3}, "expected a text width that 3 heads divide, got 8"),
    ],
)
def test_impossible_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        low.CLIPConfig(**(SIZES | changes))


def test_bad_images_and_tokens():
    _, params = make_pair()
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 16, 16\), got \(2, 3, 8, 8\)"):
        low.encode_image(params, torch.zeros(2, 3, 8, 8).double(), CONFIG)
    with pytest.raises(ValueError, match=r"expected tokens \(B, T\), T at most 7, got \(1, 8\)"):
        low.encode_text(params, torch.full((1, 8), 19), CONFIG)
    with pytest.raises(ValueError, match="expected the end of text, 19, in each row"):
        low.encode_text(params, torch.zeros(1, 4, dtype=torch.long), CONFIG)
