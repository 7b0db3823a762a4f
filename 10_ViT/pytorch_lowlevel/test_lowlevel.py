"""Tests of level 2: the same weights as level 1, the same outputs, gradients and training."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vit_lowlevel as low
import vit_numpy as np_level
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import AdamW
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, load_weights, save_weights, to_torch
from vit_layers_numpy import patches_forward
from vit_training_lowlevel import AdamW as LowAdamW
from vit_training_lowlevel import augment, cross_entropy, update, warmup_cosine

SIZES = {"image_size": 12, "patch_size": 4, "width": 12, "layers": 2, "heads": 3}
SIZES |= {"hidden": 10, "classes": 7, "channels": 2, "eps": 0.01}  # no default of either level
POOLS = pytest.mark.parametrize("pool", ["cls", "gap"])


def make_batch(seed=0, size=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((size, 2, 12, 12)), rng.integers(7, size=size)


def make_numpy_model(pool="cls"):
    model = np_level.VisionTransformer(
        np_level.ViTConfig(**SIZES, pool=pool), np.random.default_rng(0)
    )
    perturb(model.params)
    return model


def numpy_step(model, batch, smoothing=0.0):
    logits = model.forward(batch[0])
    loss, cache = softmax_cross_entropy_forward(logits, batch[1], smoothing)
    return Result(logits, loss, model.backward(softmax_cross_entropy_backward(cache)))


def lowlevel_step(params, batch, pool="cls", smoothing=0.0):
    x, targets = (torch.from_numpy(a) for a in batch)
    for p in params.values():
        p.grad = None
    logits = low.forward(params, x, low.ViTConfig(**SIZES, pool=pool))
    loss = cross_entropy(logits, targets, smoothing)
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


# --- against level 1


@POOLS
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_equals_level_1(pool, smoothing):
    model, batch = make_numpy_model(pool), make_batch()
    params = to_torch(model.params, requires_grad=True)
    got = lowlevel_step(params, batch, pool, smoothing)
    assert_parity(got, numpy_step(model, batch, smoothing))


class SameDropout:
    """Keeps and drops the same elements of every array of one shape, whatever the generator."""

    def random(self, shape):
        return np.random.default_rng([3, *shape]).random(shape)

    def __call__(self, x, rate, generator):
        return x * (torch.from_numpy(self.random(tuple(x.shape))) >= rate) / (1 - rate)


def test_dropout_is_where_level_1_has_it(monkeypatch):
    config = low.ViTConfig(**SIZES, dropout=0.3)
    model = np_level.VisionTransformer(np_level.ViTConfig(**vars(config)), np.random.default_rng(0))
    perturb(model.params)
    x = make_batch()[0]
    want = Result(model.forward(x, train=True, rng=SameDropout()))
    monkeypatch.setattr(low, "dropout", SameDropout())
    params = to_torch(model.params)
    assert_parity(Result(low.forward(params, torch.from_numpy(x), config)), want)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(Result(model.forward(x)), want)


def no_scale(x, name, params, heads):
    B, T, D = x.shape
    qkv = low.linear(x, f"{name}qkv", params).view(B, T, 3, heads, D // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT).softmax(dim=-1)
    return low.linear((weights @ v).transpose(1, 2).flatten(2), f"{name}proj", params), weights


def columns_first(x, P):
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // P, P, W // P, P)
    return x.permute(0, 4, 2, 1, 3, 5).flatten(1, 2).flatten(2)


def divided_by_d_less_1(x, name, params, eps):
    centred = x - x.mean(dim=-1, keepdim=True)
    var = centred.square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)
    return params[f"{name}.weight"] * centred / torch.sqrt(var + eps) + params[f"{name}.bias"]


def no_class_token(params, x, config, *_):
    return low_forward(params | {"cls_token": params["cls_token"] * 0}, x, config)


low_forward = low.forward


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("attention", no_scale),
        ("patches", columns_first),
        ("layer_norm", divided_by_d_less_1),
        ("forward", no_class_token),
    ],
)
def test_sabotage_is_noticed(name, fault, monkeypatch):
    model, batch = make_numpy_model(), make_batch()
    want = numpy_step(model, batch)
    assert_parity(lowlevel_step(to_torch(model.params, requires_grad=True), batch), want)
    monkeypatch.setattr(low, name, fault)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(lowlevel_step(to_torch(model.params, requires_grad=True), batch), want)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_ten_steps_equal_level_1(clip):
    model = make_numpy_model()
    params = to_torch(model.params, requires_grad=True)
    optimizer = AdamW(model.params, lr=0.01, weight_decay=0.1)
    low_optimizer = LowAdamW(params, lr=0.01, weight_decay=0.1)
    losses, low_losses = [], []
    for i in range(10):
        batch = make_batch(i, size=8)
        optimizer.lr = 0.01 * np_level.warmup_cosine(i, 10, 3)
        low_optimizer.lr = 0.01 * warmup_cosine(i, 10, 3)
        result = numpy_step(model, batch)
        if clip:
            np_level.clip_gradients(result.grads, clip)
        optimizer.step(result.grads)
        losses.append(result.loss)
        x, targets = (torch.from_numpy(a) for a in batch)
        logits = low.forward(params, x, low.ViTConfig(**SIZES))
        low_losses.append(update(low_optimizer, cross_entropy(logits, targets), clip))
    assert_trajectory(low_losses, losses)
    assert losses[-1] != losses[0]


def test_weights_of_a_file_fit_both_levels(tmp_path):
    model = make_numpy_model()
    arrays = load_weights(save_weights(tmp_path / "model.safetensors", model.params))
    params = to_torch(arrays)
    x = make_batch()[0]
    got = low.forward(params, torch.from_numpy(x), low.ViTConfig(**SIZES))
    assert max_difference(got, model.forward(x)) < 1e-12
    other = np_level.VisionTransformer(model.config, np.random.default_rng(1))
    load_into(other.params, params)
    assert np.array_equal(other.forward(x), model.forward(x))


# --- against torch


def test_cross_entropy_equals_torch():
    logits, targets = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 6, 3, 3, 1])
    for smoothing in (0.0, 0.1):
        want = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        assert abs(cross_entropy(logits, targets, smoothing) - want) < 1e-12


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_update_equals_torch(clip):
    start = {"a": torch.randn(3, 4).double(), "b": torch.randn(5).double()}
    ours = {n: p.clone().requires_grad_() for n, p in start.items()}
    theirs = {n: p.clone().requires_grad_() for n, p in start.items()}
    optimizer = LowAdamW(ours, lr=0.1, weight_decay=0.2)
    reference = torch.optim.AdamW(theirs.values(), lr=0.1, weight_decay=0.2)

    def loss(params):
        return (params["a"] ** 3).sum() + params["b"].sin().sum()

    for _ in range(6):
        update(optimizer, loss(ours), clip)
        reference.zero_grad()
        loss(theirs).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
        reference.step()
    assert all(max_difference(ours[n], theirs[n]) < 1e-12 for n in ours)


def test_the_rate_rises_and_falls():
    rates = [warmup_cosine(s, 10, 4) for s in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)])
    assert warmup_cosine(0, 10, 0) == 1 and warmup_cosine(10, 10, 4) < 1e-12


# --- initialisation and properties


def test_initial_parameters_have_the_names_shapes_and_spread_of_level_1():
    for pool in ("cls", "gap"):
        config = low.ViTConfig(patch_size=8, width=96, layers=2, pool=pool)
        params = low.init_params(config, torch.Generator().manual_seed(0))
        reference = np_level.initial_params(
            np_level.ViTConfig(patch_size=8, width=96, layers=2, pool=pool),
            np.random.default_rng(0),
        )
        assert {n: tuple(p.shape) for n, p in params.items()} == {
            n: p.shape for n, p in reference.items()
        }
        for name, p in params.items():
            assert p.is_leaf and p.requires_grad
            ours, theirs = p.detach().numpy(), reference[name]
            std = theirs.std()
            if not std:
                assert np.array_equal(ours, theirs), name
                continue
            assert abs(ours.std() - std) <= (0.1 * std if p.numel() > 1000 else 0.3 * std), name
            assert abs(ours.mean()) < 5 * std / p.numel() ** 0.5, name
            if p.numel() > 5000:  # a uniform distribution has an edge, a normal one has none
                assert abs(abs(ours).max() / abs(theirs).max() - 1) < 0.2, name


def test_a_seed_gives_the_same_parameters():
    one, two, other = (
        low.init_params(low.ViTConfig(**SIZES), torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert all(torch.equal(one[n], two[n]) for n in one)
    drawn = {n for n in one if one[n].std() > 0}
    assert len(drawn) == 2 + 2 * 6 and not any(torch.equal(one[n], other[n]) for n in drawn)


def test_patches_equal_level_1():
    x = make_batch()[0]
    assert np.array_equal(low.patches(torch.from_numpy(x), 4).numpy(), patches_forward(x, 4)[0])


def test_maps_are_collected_and_dropout_needs_a_generator():
    config = low.ViTConfig(**SIZES, dropout=0.4)
    params = to_torch(make_numpy_model().params)
    x, maps = torch.from_numpy(make_batch()[0]), []
    plain = low.forward(params, x, config, maps=maps)
    assert [m.shape for m in maps] == [(3, 3, 10, 10)] * 2
    assert all(max_difference(m.sum(dim=-1), torch.ones(3, 3, 10)) < 1e-12 for m in maps)
    assert torch.equal(low.forward(params, x, config), plain)
    one, two = (low.forward(params, x, config, torch.Generator().manual_seed(1)) for _ in "ab")
    assert torch.equal(one, two) and not torch.equal(one, plain)


def test_dropout_keeps_the_mean():
    x = torch.ones(200, 200)
    y = low.dropout(x, 0.25, torch.Generator().manual_seed(0))
    assert torch.allclose(y[y != 0], torch.tensor(1 / 0.75), rtol=0, atol=1e-6)
    assert abs(y.mean() - 1) < 0.01 and abs((y == 0).float().mean() - 0.25) < 0.01


def test_augmented_images_are_crops_or_their_mirror_images():
    images = torch.rand(30, 3, 6, 6)
    padded = F.pad(images, (4, 4, 4, 4))
    changed = augment(images, torch.Generator().manual_seed(0))
    mirrored = 0
    for b in range(30):
        crops = [padded[b, :, i : i + 6, j : j + 6] for i in range(9) for j in range(9)]
        if any(torch.equal(changed[b], crop.flip(2)) for crop in crops):
            mirrored += 1
        else:
            assert any(torch.equal(changed[b], crop) for crop in crops)
    assert 5 < mirrored < 25


def test_every_image_has_a_crop_of_its_own_and_all_are_as_likely():
    image = torch.rand(1, 3, 6, 6)
    padded = F.pad(image, (4, 4, 4, 4))[0]
    seen = {}
    for i in range(9):
        for j in range(9):
            crop = padded[:, i : i + 6, j : j + 6]
            seen[crop.numpy().tobytes()] = seen[crop.flip(2).contiguous().numpy().tobytes()] = 0
    for one in augment(image.expand(4000, -1, -1, -1), torch.Generator().manual_seed(0)):
        seen[one.numpy().tobytes()] += 1
    assert len(seen) == 2 * 81 and min(seen.values()) > 5 and max(seen.values()) < 50  # 25 each


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low.ViTConfig(patch_size=5), "expected a patch size that divides 32, got 5"),
        (lambda: low.ViTConfig(heads=5), "expected a width that 5 heads divide, got 64"),
        (lambda: low.ViTConfig(hidden=0), "expected hidden of at least 1, got 0"),
        (lambda: low.ViTConfig(pool="max"), "expected a pool of"),
        (lambda: low.ViTConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: low.ViTConfig(dropout=1), r"expected dropout in \[0, 1\), got 1"),
        (
            lambda: low.forward({}, torch.zeros(1, 3, 28, 28), low.ViTConfig()),
            r"expected images \(B, 3, 32, 32\), got \(1, 3, 28, 28\)",
        ),
        (
            lambda: cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)),
            r"expected logits \(B, K\) and targets \(B,\), got \(2, 3\) and \(3,\)",
        ),
        (
            lambda: cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64)),
            r"expected logits \(B, K\) and targets \(B,\), got \(2, 3, 4\) and \(2,\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
