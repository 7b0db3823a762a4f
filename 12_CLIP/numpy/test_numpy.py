"""Tests of level 1: every gradient against central differences, properties, bad input.

That the model equals levels 2 and 3, and the libraries, is tested there.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clip_layers_numpy as layers
import utils  # noqa: F401  (puts the chapters on the import path)
from clip_layers_numpy import (
    block_backward,
    block_forward,
    contrastive_loss_backward,
    contrastive_loss_forward,
    end_of_text_backward,
    end_of_text_forward,
    project_backward,
    project_forward,
    quick_gelu_backward,
    quick_gelu_forward,
    sigmoid_loss_backward,
    sigmoid_loss_forward,
    unit_backward,
    unit_forward,
)
from clip_numpy import CLIP, CLIPConfig, class_vectors, initial_params
from mlp_numpy import gelu_backward, gelu_forward
from optimizers_numpy import AdamW
from utils.gradient_check import (
    GradientMismatch,
    check_backward,
    numerical_gradient,
    relative_error,
)
from utils.parity import perturb

SIZES = {"embed": 5, "image_size": 8, "patch_size": 4, "vision_width": 6, "vision_layers": 1}
SIZES |= {"vision_heads": 3, "context": 7, "vocabulary": 11, "text_width": 4, "text_layers": 1}
SIZES |= {"text_heads": 2}
V = SIZES["vocabulary"]
TOKENS = np.array([[9, 3, 10, 0, 0, 0], [9, 2, 3, 3, 10, 4], [9, 10, 10, 10, 10, 10]])


def rng(seed=0):
    return np.random.default_rng(seed)


def unit_rows(*shape, seed=0):
    return unit_forward(rng(seed).standard_normal(shape))[0]


def make_model(**changes):
    model = CLIP(CLIPConfig(**(SIZES | changes)), rng())
    perturb(model.params)
    return model


def images(B=3):
    return rng(1).standard_normal((B, 3, 8, 8))


# --- primitives


def test_quick_gelu_and_its_gradient():
    x = rng().standard_normal((3, 4))
    check_backward(quick_gelu_forward, quick_gelu_backward, {"x": 3 * x})
    assert np.allclose(quick_gelu_forward(x)[0], x / (1 + np.exp(-1.702 * x)), atol=1e-15)


def test_unit():
    x = rng().standard_normal((3, 4))
    check_backward(unit_forward, unit_backward, {"x": x})
    y, cache = unit_forward(x)
    assert np.allclose(np.linalg.norm(y, axis=1), 1)
    # Along the vector nothing comes back: a longer one has the same direction.
    assert np.abs((unit_backward(x + 1, cache) * y).sum(axis=1)).max() < 1e-15


def test_project():
    inputs = {"x": rng().standard_normal((3, 4)), "weight": rng(1).standard_normal((4, 5))}
    check_backward(project_forward, project_backward, inputs)


def test_end_of_text():
    x = rng().standard_normal((3, 6, 4))
    check_backward(end_of_text_forward, end_of_text_backward, {"x": x}, tokens=TOKENS, end=10)
    y, _ = end_of_text_forward(x, TOKENS, 10)
    assert np.array_equal(y, x[[0, 1, 2], [2, 4, 1]])  # the first end of each
    with pytest.raises(ValueError, match="expected the end of text, 10, in each row"):
        end_of_text_forward(x, TOKENS.clip(max=9), 10)


def block_params(width=6):
    shapes = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
    shapes |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
    shapes |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,)}
    shapes |= {"mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
    for norm in ("ln_1", "ln_2"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {name: rng(i).standard_normal(s) / 2 for i, (name, s) in enumerate(shapes.items())}


@pytest.mark.parametrize("causal", [False, True])
def test_block(causal):
    p, x = block_params(), rng().standard_normal((2, 4, 6))

    def forward(x, *values):
        return block_forward(x, dict(zip(p, values, strict=True)), 3, causal)

    def backward(dy, cache):
        dx, grads = block_backward(dy, cache)
        return dx, *(grads[name] for name in p)

    check_backward(forward, backward, {"x": x} | p)


def test_a_causal_block_does_not_look_ahead():
    p, x = block_params(), rng().standard_normal((2, 4, 6))
    changed = x.copy()
    changed[:, 2:] = rng(5).standard_normal((2, 2, 6))
    for causal in (True, False):
        same = np.allclose(
            block_forward(x, p, 3, causal)[0][:, :2], block_forward(changed, p, 3, causal)[0][:, :2]
        )
        assert same == causal


# --- losses

LOSSES = [
    (contrastive_loss_forward, contrastive_loss_backward, {"scale": np.array(3.0)}),
    (
        sigmoid_loss_forward,
        sigmoid_loss_backward,
        {"scale": np.array(3.0), "bias": np.array(-2.0)},
    ),
]


@pytest.mark.parametrize(("forward", "backward", "more"), LOSSES)
def test_gradients_of_the_losses(forward, backward, more):
    inputs = {"image": unit_rows(4, 5), "text": unit_rows(4, 5, seed=1)} | more
    check_backward(forward, backward, inputs)
    one = {"image": unit_rows(1, 5), "text": unit_rows(1, 5, seed=1)} | more
    check_backward(forward, backward, one)


def test_losses_equal_torchs():
    image, text, scale, bias = unit_rows(4, 5), unit_rows(4, 5, seed=1), 7.0, -3.0
    logits = torch.tensor(scale * image @ text.T)
    labels = torch.arange(4)
    want = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    assert contrastive_loss_forward(image, text, scale)[0] == pytest.approx(want.item(), rel=1e-13)
    want = F.binary_cross_entropy_with_logits(logits + bias, torch.eye(4).double(), reduction="sum")
    got = sigmoid_loss_forward(image, text, scale, bias)[0]
    assert got == pytest.approx(want.item() / 4, rel=1e-13)


def test_large_scales_do_not_overflow():
    image = unit_rows(4, 5).astype(np.float32)
    for forward, backward, more in LOSSES:
        loss, cache = forward(image, image[::-1].copy(), np.float32(1e4), *list(more)[1:] and [0.0])
        assert np.isfinite(loss) and all(np.isfinite(g).all() for g in backward(cache))


def without_the_columns(cache):
    image, text, scale, cosines, rows, _ = cache
    dlogits = layers.softmax_cross_entropy_backward(rows)
    return layers._logits_backward(dlogits, image, text, scale, cosines)


def without_the_half(cache):
    return tuple(2 * g for g in contrastive_loss_backward(cache))


def columns_not_turned(cache):
    image, text, scale, cosines, rows, columns = cache
    dlogits = sum(map(layers.softmax_cross_entropy_backward, (rows, columns))) / 2
    return layers._logits_backward(dlogits, image, text, scale, cosines)


def scale_forgotten(cache):
    dimage, dtext, dscale = contrastive_loss_backward(cache)
    return dimage / cache[2], dtext / cache[2], dscale


@pytest.mark.parametrize(
    "fault", [without_the_columns, without_the_half, columns_not_turned, scale_forgotten]
)
def test_a_sabotaged_loss_is_noticed(fault):
    inputs = {"image": unit_rows(4, 5), "text": unit_rows(4, 5, seed=1), "scale": np.array(3.0)}
    check_backward(contrastive_loss_forward, contrastive_loss_backward, inputs)
    with pytest.raises(GradientMismatch):
        check_backward(contrastive_loss_forward, fault, inputs)


def test_other_sabotage_is_noticed():
    x = rng().standard_normal((3, 4))
    check_backward(quick_gelu_forward, quick_gelu_backward, {"x": x})
    check_backward(unit_forward, unit_backward, {"x": x})
    with pytest.raises(GradientMismatch):
        check_backward(quick_gelu_forward, lambda dy, c: gelu_backward(dy, gelu_forward(c[0])[1]),
                       {"x": x})  # fmt: skip
    with pytest.raises(GradientMismatch):
        check_backward(unit_forward, lambda dy, cache: dy / cache[1], {"x": x})


# --- the model


def loss_of(model, x, tokens):
    loss, cache = contrastive_loss_forward(*model.forward(x, tokens))
    return loss, lambda: model.backward(contrastive_loss_backward(cache))


def test_every_gradient_of_the_model():
    model, x = make_model(), images()
    grads = loss_of(model, x, TOKENS)[1]()
    assert set(grads) == set(model.params)
    for name, p in model.params.items():
        want = numerical_gradient(lambda _: float(loss_of(model, x, TOKENS)[0]), p)
        assert relative_error(grads[name], want) < 1e-6, name
        assert np.abs(want).max() > 1e-9, name


def test_what_stands_behind_the_end_has_no_influence_and_no_gradient():
    model = make_model()
    other = TOKENS.copy()
    other[0, 3:] = [5, 6, 7]
    assert np.array_equal(model.encode_text(TOKENS), model.encode_text(other))
    short = model.encode_text(TOKENS[:1, :3])
    assert np.allclose(short, model.encode_text(TOKENS)[:1], atol=1e-15)
    grads = loss_of(model, images(1), TOKENS[:1])[1]()
    assert not grads["positional_embedding"][3:].any()
    assert not grads["token_embedding.weight"][5:9].any()


def test_initial_loss_and_scale():
    model = CLIP(CLIPConfig(**(SIZES | {"embed": 64, "text_width": 32, "vision_width": 48})), rng())
    _, _, scale = model.forward(images(), TOKENS)
    assert scale == pytest.approx(1 / 0.07)
    assert abs(loss_of(model, images(), TOKENS)[0] - math.log(3)) < 0.6


def test_a_batch_can_be_learnt_by_heart_and_the_scale_is_clamped():
    model = CLIP(CLIPConfig(**SIZES), rng())
    optimizer = AdamW(model.params, 0.01, weight_decay=0.0)
    for _ in range(120):
        loss, backward = loss_of(model, images(), TOKENS)
        optimizer.step(backward())
        model.clamp_scale()
    assert loss < 0.05
    assert 12 < np.exp(model.params["logit_scale"]) < 100
    model.clamp_scale(12.0)
    assert np.exp(model.params["logit_scale"]) == pytest.approx(12)
    model.params["logit_scale"][...] = 9.0
    model.clamp_scale()
    assert np.exp(model.params["logit_scale"]) == pytest.approx(100)


def test_fresh_weights_follow_the_rules_of_the_authors_program():
    params = initial_params(CLIPConfig(embed=40, vision_width=48, text_width=32), rng())
    spread = {f"visual.{n}": 48**-0.5 for n in ("class_embedding", "positional_embedding", "proj")}
    spread |= {"visual.conv1.weight": (3 * 8 * 8) ** -0.5, "token_embedding.weight": 0.02}
    spread |= {"positional_embedding": 0.01, "text_projection": 32**-0.5}
    for prefix, width, depth in (("visual.", 48, 3), ("", 32, 2)):
        for i in range(depth):
            name = f"{prefix}transformer.resblocks.{i}."
            spread |= {f"{name}attn.in_proj_weight": width**-0.5}
            spread |= {f"{name}attn.out_proj.weight": (2 * depth * width) ** -0.5}
            spread |= {f"{name}mlp.c_fc.weight": (2 * width) ** -0.5}
            spread |= {f"{name}mlp.c_proj.weight": (2 * depth * width) ** -0.5}
    assert spread.keys() < params.keys()
    for name, p in params.items():
        if name in spread:  # within four standard errors
            assert p.std() == pytest.approx(spread[name], rel=4 / (2 * p.size) ** 0.5), name
            assert abs(p.mean()) < 4 * spread[name] / p.size**0.5, name
        elif name != "logit_scale":
            assert (p == (0 if name.endswith("bias") else 1)).all(), name


def test_float32_stays_float32():
    model = CLIP(CLIPConfig(**SIZES), rng(), np.float32)
    outputs = model.forward(images().astype(np.float32), TOKENS)
    _, cache = contrastive_loss_forward(*outputs)
    grads = model.backward(contrastive_loss_backward(cache))
    assert {o.dtype for o in outputs} == {g.dtype for g in grads.values()} == {np.dtype("float32")}


def test_class_vectors_are_means_of_length_1():
    table = {"a cat": [1.0, 0.0], "the cat": [0.0, 1.0], "a dog": [0.6, 0.8], "the dog": [0.6, 0.8]}
    got = class_vectors(
        lambda texts: np.array([table[t] for t in texts]), ["cat", "dog"], ["a {}", "the {}"]
    )
    assert np.allclose(got, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]])


# --- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed": 0}, "expected embed of at least 1, got 0"),
        ({"patch_size": 3}, "expected a patch size that divides 8, got 3"),
        ({"text_heads": 3}, "expected a text width that 3 heads divide, got 4"),
        ({"vision_heads": 4}, "expected a vision width that 4 heads divide, got 6"),
    ],
)
def test_impossible_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        CLIPConfig(**(SIZES | changes))


def test_bad_images_tokens_and_pairs():
    model = make_model()
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 8, 8\), got \(2, 3, 9, 9\)"):
        model.encode_image(np.zeros((2, 3, 9, 9)))
    with pytest.raises(ValueError, match=r"expected tokens \(B, T\), T at most 7, got \(1, 8\)"):
        model.encode_text(np.full((1, 8), V - 1))
    with pytest.raises(RuntimeError, match="expected forward before backward"):
        make_model().backward((0, 0, 0))
    for forward, _, more in LOSSES:
        with pytest.raises(ValueError, match=r"expected images and texts \(B, E\) alike"):
            forward(unit_rows(3, 5), unit_rows(4, 5), *more.values())
