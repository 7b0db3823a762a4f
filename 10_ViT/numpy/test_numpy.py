"""Tests of level 1: patches, blocks and the model against central differences and torch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vit_layers_numpy as layers
from conv_numpy import conv2d_backward, conv2d_forward
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import AdamW
from utils.gradient_check import GradientMismatch, check_backward, check_model
from utils.parity import ParityError, Result, assert_parity, max_difference, perturb
from vit_layers_numpy import (
    block_backward,
    block_forward,
    mlp_backward,
    mlp_forward,
    patch_embed_backward,
    patch_embed_forward,
    patches_backward,
    patches_forward,
    pool_backward,
    pool_forward,
    prefix_and_positions_backward,
    prefix_and_positions_forward,
    self_attention_backward,
    self_attention_forward,
)
from vit_numpy import (
    VisionTransformer,
    ViTConfig,
    attention_rollout,
    clip_gradients,
    initial_params,
    position_similarity,
    warmup_cosine,
)

RNG = np.random.default_rng(0)

# All sizes differ, so that a wrong transpose shows.
B, C, T, D, NH, HIDDEN = 2, 3, 5, 12, 4, 7
SMALL = {"image_size": 8, "patch_size": 4, "width": D, "layers": 2, "heads": NH}
SMALL |= {"hidden": HIDDEN, "classes": 6, "channels": 2}


def normal(*shape):
    return RNG.standard_normal(shape)


def block_params():
    p = {"norm1.weight": 1 + 0.3 * normal(D), "norm1.bias": normal(D)}
    p |= {"attn.qkv.weight": 0.4 * normal(3 * D, D), "attn.qkv.bias": normal(3 * D)}
    p |= {"attn.proj.weight": 0.4 * normal(D, D), "attn.proj.bias": normal(D)}
    p |= {"norm2.weight": 1 + 0.3 * normal(D), "norm2.bias": normal(D)}
    p |= {"mlp.fc1.weight": 0.4 * normal(HIDDEN, D), "mlp.fc1.bias": normal(HIDDEN)}
    return p | {"mlp.fc2.weight": 0.4 * normal(D, HIDDEN), "mlp.fc2.bias": normal(D)}


def of(p, prefix):
    return layers.part(p, prefix)


def check_with_params(forward, backward, x, p, *more):
    """Central differences for x and for every entry of p."""
    names = list(p)

    def forward_of(x, *values):
        return forward(x, dict(zip(names, values, strict=True)), *more)

    def backward_of(dy, cache):
        dx, grads = backward(dy, cache)
        assert set(grads) == set(names)
        return dx, *(grads[name] for name in names)

    return check_backward(forward_of, backward_of, {"x": x} | p)


class SameDropout:
    """Draws the same numbers again in every pass, so that differences can be taken."""

    def __init__(self, seed=3):
        self.seed, self.shapes = seed, []

    def random(self, shape):
        self.shapes.append(shape)
        return np.random.default_rng([self.seed, *shape]).random(shape)


# --- gradients, by central differences


def test_patches_gradients():
    check_backward(patches_forward, patches_backward, {"x": normal(B, C, 4, 6)}, P=2)


def test_patch_embed_gradients():
    inputs = {"x": normal(B, C, 4, 6), "weight": normal(5, C, 2, 2), "bias": normal(5)}
    check_backward(patch_embed_forward, patch_embed_backward, inputs)


def test_prefix_and_positions_gradients():
    inputs = {"x": normal(B, T, D), "cls": normal(1, 1, D), "pos": normal(1, T + 1, D)}
    check_backward(prefix_and_positions_forward, prefix_and_positions_backward, inputs)
    dx, dcls, dpos = prefix_and_positions_backward(
        dy := normal(B, T, D), prefix_and_positions_forward(inputs["x"], None, normal(1, T, D))[1]
    )
    assert dx is dy and dcls is None and np.allclose(dpos, dy.sum(axis=0), rtol=0, atol=1e-14)


def test_attention_and_mlp_gradients():
    p, x = block_params(), normal(B, T, D)
    check_with_params(self_attention_forward, self_attention_backward, x, of(p, "attn."), NH)
    for drop in ((0.0, None, False), (0.3, SameDropout(), True)):
        check_with_params(mlp_forward, mlp_backward, x, of(p, "mlp."), drop)


@pytest.mark.parametrize(
    "drop", [(0.0, None, False), (0.3, SameDropout(), True)], ids=["plain", "dropout"]
)
def test_block_gradients(drop):
    check_with_params(block_forward, block_backward, normal(B, T, D), block_params(), NH, 0.1, drop)


@pytest.mark.parametrize("kind", ["cls", "gap"])
def test_pool_gradients(kind):
    check_backward(pool_forward, pool_backward, {"x": normal(B, T, D)}, kind=kind)


@pytest.mark.parametrize(("pool", "dropout"), [("cls", 0.2), ("gap", 0.0)])
def test_model_gradients(pool, dropout):
    sizes = SMALL | {"width": 8}
    model = VisionTransformer(ViTConfig(**sizes, pool=pool, dropout=dropout), RNG)
    perturb(model.params)
    check_model(model, normal(B, 2, 8, 8), train=dropout > 0, rng=SameDropout())


def positions_of_one_image(dy, cache):
    dx, dcls, dpos = prefix_and_positions_backward(dy, cache)
    return dx, dcls, dpos / len(dy)


def forgotten_shortcut(dy, cache):
    dx, grads = block_backward(dy, cache)
    return dx - dy, grads


def norm_left_out(dy, cache):
    attn, mlp = cache[1], cache[4]
    dh, _ = mlp_backward(dy, mlp)
    _, grads = block_backward(dy, cache)
    dx = dy + dh
    return dx + self_attention_backward(dx, attn)[0], grads


def thirds_in_another_order(dy, cache):
    n_heads, qkv, proj, attention = cache
    q, k, v, *rest = attention
    return self_attention_backward(dy, (n_heads, qkv, proj, (k, q, v, *rest)))


def mean_over_the_patches_without_dividing(dy, cache):
    shape, _ = cache
    return np.broadcast_to(dy[:, None], shape)


def test_the_gradient_check_can_fail():
    p, x = block_params(), normal(B, T, D)
    check_with_params(block_forward, block_backward, x, p, NH)
    for fault in (forgotten_shortcut, norm_left_out):
        with pytest.raises(GradientMismatch, match="dx"):
            check_with_params(block_forward, fault, x, p, NH)
    attn = of(p, "attn.")
    check_with_params(self_attention_forward, self_attention_backward, x, attn, NH)
    with pytest.raises(GradientMismatch):
        check_with_params(self_attention_forward, thirds_in_another_order, x, attn, NH)
    inputs = {"x": x, "cls": normal(1, 1, D), "pos": normal(1, T + 1, D)}
    check_backward(prefix_and_positions_forward, prefix_and_positions_backward, inputs)
    with pytest.raises(GradientMismatch, match="dpos"):
        check_backward(prefix_and_positions_forward, positions_of_one_image, inputs)
    check_backward(pool_forward, pool_backward, {"x": x}, kind="gap")
    with pytest.raises(GradientMismatch, match="dx"):
        fault = mean_over_the_patches_without_dividing
        check_backward(pool_forward, fault, {"x": x}, kind="gap")


# --- against chapter 03 and torch


def test_patch_embedding_is_a_convolution_with_a_stride_as_large_as_its_kernel():
    x, weight, bias = normal(B, C, 8, 12), normal(5, C, 4, 4), normal(5)
    y, cache = patch_embed_forward(x, weight, bias)
    want, conv = conv2d_forward(x, weight, bias, stride=4)
    assert np.allclose(y, want.reshape(B, 5, -1).swapaxes(1, 2), rtol=0, atol=1e-12)
    dy = normal(*y.shape)
    wanted = conv2d_backward(dy.swapaxes(1, 2).reshape(want.shape), conv)
    for got, grad in zip(patch_embed_backward(dy, cache), wanted, strict=True):
        assert np.allclose(got, grad, rtol=0, atol=1e-12)


def torch_block(x, p, gelu="none", eps=1e-6, order="pre", bias=True, rate=0.0):
    """The block from torch's own functions; differentiable."""

    def drop(x):
        return x * (torch.from_numpy(SameDropout().random(tuple(x.shape))) >= rate) / (1 - rate)

    def norm(x, name):
        return F.layer_norm(x, (D,), p[f"{name}.weight"], p[f"{name}.bias"], eps)

    def attend(x):
        qkv = F.linear(x, p["attn.qkv.weight"], p["attn.qkv.bias"] if bias else None)
        q, k, v = qkv.view(B, T, 3, NH, D // NH).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)
        return drop(F.linear(y, p["attn.proj.weight"], p["attn.proj.bias"]))

    def mlp(x):
        h = F.linear(x, p["mlp.fc1.weight"], p["mlp.fc1.bias"])
        h = drop(F.gelu(h, approximate=gelu))
        return drop(F.linear(h, p["mlp.fc2.weight"], p["mlp.fc2.bias"]))

    if order == "post":
        x = norm(x + attend(x), "norm1")
        return norm(x + mlp(x), "norm2")
    names = ("norm2", "norm1") if order == "swapped" else ("norm1", "norm2")
    x = x + attend(norm(x, names[0]))
    return x + mlp(norm(x, names[1]))


def compare_block(drop=(0.0, None, False), **fault):
    x, p, dy = normal(B, T, D), block_params(), normal(B, T, D)
    y, cache = block_forward(x, p, NH, drop=drop)
    dx, grads = block_backward(dy, cache)
    leaves = {n: torch.tensor(v, requires_grad=True) for n, v in p.items()}
    leaf = torch.tensor(x, requires_grad=True)
    want = torch_block(leaf, leaves, **fault)
    want.backward(torch.tensor(dy))
    wanted = {n: v.grad for n, v in leaves.items()} | {"x": leaf.grad}
    assert_parity(Result(y, 0.0, grads | {"x": dx}), Result(want, 0.0, wanted))


def test_block_equals_torch():
    compare_block()
    compare_block((0.3, SameDropout(), True), rate=0.3)
    with pytest.raises(ParityError, match="outputs"):
        compare_block((0.3, SameDropout(), True), rate=0.2)


@pytest.mark.parametrize(
    "fault",
    [{"gelu": "tanh"}, {"eps": 1e-5}, {"order": "post"}, {"order": "swapped"}, {"bias": False}],
    ids=str,
)
def test_sabotage_is_noticed(fault):
    compare_block()
    with pytest.raises(ParityError, match="outputs"):
        compare_block(**fault)


# --- the paper's and other figures


def test_parameter_count_is_that_of_the_formula():
    c = ViTConfig(patch_size=8, layers=3)
    model = VisionTransformer(c, np.random.default_rng(0))
    N, P, width, hidden = 16, 8, c.width, c.hidden
    block = 4 * (width**2 + width) + 2 * width * hidden + hidden + width + 4 * width
    want = width * (3 * P * P + 1) + width + (N + 1) * width
    want += 3 * block + 2 * width + 10 * (width + 1)
    assert sum(p.size for p in model.params.values()) == want


# --- properties


def test_initial_loss_is_that_of_guessing():
    model = VisionTransformer(ViTConfig(**SMALL), np.random.default_rng(0))
    logits = model.forward(normal(4, 2, 8, 8))
    loss, _ = softmax_cross_entropy_forward(logits, np.array([0, 5, 2, 2]))
    assert not logits.any() and np.isclose(loss, math.log(6), rtol=1e-12)


def test_initial_weights():
    config = ViTConfig(patch_size=8, width=96, layers=2, hidden=200)
    params = initial_params(config, np.random.default_rng(0))
    spreads = {"pos_embed": 0.02, "patch_embed.proj.weight": (3 * 64) ** -0.5}
    glorot = {"attn.qkv": 96 + 96, "attn.proj": 96 + 96, "mlp.fc1": 96 + 200, "mlp.fc2": 200 + 96}
    for i in range(2):  # queries, keys and values each by itself
        spreads |= {f"blocks.{i}.{n}.weight": (2 / s) ** 0.5 for n, s in glorot.items()}
        spreads |= {f"blocks.{i}.mlp.{n}.bias": 1e-6 for n in ("fc1", "fc2")}
    for name, p in params.items():
        if std := spreads.get(name):
            loose = 0.06 if p.size > 1000 else 0.3
            assert abs(p.std() / std - 1) < loose and abs(p.mean()) < 4 * std / p.size**0.5, name
            uniform = name.startswith("blocks") and name.endswith("weight")
            assert not uniform or 0.99 < abs(p).max() / (3**0.5 * std) <= 1, name
        else:
            assert (p == ("norm" in name and name.endswith("weight"))).all(), name


def test_without_positions_shuffled_patches_are_the_same():
    model = VisionTransformer(ViTConfig(**SMALL), np.random.default_rng(0))
    perturb(model.params)
    x = normal(B, 2, 8, 8)
    rows, cache = patches_forward(x, 4)
    shuffled = patches_backward(rows[:, [2, 0, 3, 1]], cache)
    assert max_difference(model.forward(shuffled), model.forward(x)) > 1e-3
    model.params["pos_embed"][:, 1:] = model.params["pos_embed"][:, 1:2]
    assert max_difference(model.forward(shuffled), model.forward(x)) < 1e-12


def test_an_image_does_not_depend_on_its_neighbours():
    model = VisionTransformer(ViTConfig(**SMALL), np.random.default_rng(0))
    perturb(model.params)
    x = normal(3, 2, 8, 8)
    alone = np.concatenate([model.forward(x[i : i + 1]) for i in range(3)])
    assert np.allclose(model.forward(x), alone, rtol=0, atol=1e-12)


def test_class_token_and_its_position_have_one_gradient():
    model = VisionTransformer(ViTConfig(**SMALL), np.random.default_rng(0))
    perturb(model.params)
    model.forward(normal(B, 2, 8, 8))
    grads = model.backward(normal(B, 6))
    assert np.array_equal(grads["cls_token"], grads["pos_embed"][:, :1])
    assert not np.shares_memory(grads["cls_token"], grads["pos_embed"])


def test_the_bias_of_the_keys_learns_nothing():
    model = VisionTransformer(ViTConfig(**SMALL), np.random.default_rng(0))
    perturb(model.params)
    model.forward(normal(B, 2, 8, 8))
    bias = model.backward(normal(B, 6))["blocks.0.attn.qkv.bias"]
    assert np.abs(bias[D : 2 * D]).max() < 1e-13 < 1e-3 < np.abs(bias[:D]).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_input(dtype):
    model = VisionTransformer(ViTConfig(**SMALL, dropout=0.1), np.random.default_rng(0), dtype)
    rng = np.random.default_rng(1)
    logits = model.forward(normal(B, 2, 8, 8).astype(dtype), train=True, rng=rng)
    _, cache = softmax_cross_entropy_forward(logits, np.array([3, 1]))
    grads = model.backward(softmax_cross_entropy_backward(cache))
    assert logits.dtype == dtype
    assert {g.dtype for g in grads.values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("pool", ["cls", "gap"])
def test_overfits_one_batch(pool):
    rng = np.random.default_rng(0)
    model = VisionTransformer(ViTConfig(**SMALL, pool=pool), rng, np.float32)
    optimizer = AdamW(model.params, lr=0.01)
    x, targets = rng.standard_normal((12, 2, 8, 8), np.float32), rng.integers(6, size=12)
    for _ in range(60):
        loss, cache = softmax_cross_entropy_forward(model.forward(x), targets)
        optimizer.step(model.backward(softmax_cross_entropy_backward(cache)))
    assert loss < 0.02


def test_dropout_is_for_training_only_and_drawn_from_the_generator():
    model = VisionTransformer(ViTConfig(**SMALL, dropout=0.3), np.random.default_rng(0))
    perturb(model.params)
    x = normal(B, 2, 8, 8)
    plain = model.forward(x)
    assert np.array_equal(model.forward(x), plain)
    one, two = (model.forward(x, True, np.random.default_rng(s)) for s in (1, 1))
    assert np.array_equal(one, two) and not np.array_equal(one, plain)
    assert not np.array_equal(model.forward(x, True, np.random.default_rng(2)), one)
    model.forward(x, True, rng := SameDropout())
    tokens, hidden = (B, 5, D), (B, 5, HIDDEN)
    assert rng.shapes == [tokens] + 2 * [tokens, hidden, tokens]


def test_rollout_rows_are_shares_and_start_from_the_first_layer():
    maps = [RNG.random((B, NH, T, T)) for _ in range(3)]
    maps = [m / m.sum(axis=-1, keepdims=True) for m in maps]
    rollout = attention_rollout(maps)
    assert np.allclose(rollout.sum(axis=-1), 1, rtol=0, atol=1e-14)
    same = np.eye(T)
    first, second, third = (0.5 * m.mean(axis=1) + 0.5 * same for m in maps)
    assert np.allclose(rollout, third @ second @ first, rtol=0, atol=1e-14)
    assert not np.allclose(rollout, first @ second @ third)


def test_rollout_of_attention_to_itself_is_the_identity():
    maps = [np.broadcast_to(np.eye(T), (B, NH, T, T))] * 3
    assert np.array_equal(attention_rollout(maps)[0], np.eye(T))


def test_attention_maps_are_the_weights_of_every_block():
    model = VisionTransformer(ViTConfig(**SMALL), np.random.default_rng(0))
    perturb(model.params)
    model.forward(x := normal(B, 2, 8, 8))
    maps = model.attention_maps()
    assert [m.shape for m in maps] == [(B, NH, 5, 5)] * 2
    assert all(np.allclose(m.sum(axis=-1), 1, rtol=0, atol=1e-14) for m in maps)
    lower = VisionTransformer(ViTConfig(**(SMALL | {"layers": 1})), np.random.default_rng(0))
    lower.params = {n: model.params[n] for n in lower.params}
    lower.forward(x)
    assert np.array_equal(lower.attention_maps()[0], maps[0])
    assert max_difference(maps[1], maps[0]) > 1e-3


def test_position_similarity_leaves_out_the_class_token():
    pos = np.zeros((1, 5, 2))
    pos[0] = [[9, 9], [2, 0], [0, 1], [3, 0], [0, -1]]
    alike = position_similarity(pos)
    assert alike.shape == (4, 2, 2)
    want = [[[1, 0], [1, 0]], [[0, 1], [0, -1]]]
    assert np.allclose(alike[:2], want, rtol=0, atol=1e-14)
    assert position_similarity(pos[:, 1:], prefix=False).shape == (4, 2, 2)


def test_the_rate_rises_and_falls():
    rates = [warmup_cosine(s, 10, 4) for s in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)])
    assert warmup_cosine(0, 10, 0) == 1 and warmup_cosine(10, 10, 4) < 1e-12


def test_clipping_changes_the_length_and_nothing_else():
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert clip_gradients(grads, 10) == 5 and grads["b"] == 4
    assert clip_gradients(grads, 1) == 5
    want = np.array([3, 0, 4]) / (5 + 1e-6)
    assert np.allclose([*grads["a"], grads["b"][0, 0]], want, rtol=0, atol=1e-14)


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ViTConfig(patch_size=5), "expected a patch size that divides 32, got 5"),
        (lambda: ViTConfig(heads=5), "expected a width that 5 heads divide, got 64"),
        (lambda: ViTConfig(layers=0), "expected layers of at least 1, got 0"),
        (lambda: ViTConfig(pool="max"), r"expected a pool of \('cls', 'gap'\), got 'max'"),
        (lambda: ViTConfig(dropout=1), r"expected dropout in \[0, 1\), got 1"),
        (lambda: ViTConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (
            lambda: patches_forward(np.zeros((1, 3, 9, 8)), 4),
            r"expected images \(B, C, H, W\) that patches of 4 fill, got \(1, 3, 9, 8\)",
        ),
        (
            lambda: patches_forward(np.zeros((1, 3, 8, 9)), 4),
            r"expected images \(B, C, H, W\) that patches of 4 fill, got \(1, 3, 8, 9\)",
        ),
        (
            lambda: patch_embed_forward(np.zeros((1, 1, 8, 8)), np.zeros((5, 3, 4, 4)), 0),
            r"expected images \(B, 3, H, W\), got \(1, 1, 8, 8\)",
        ),
        (
            lambda: VisionTransformer(ViTConfig(**SMALL), RNG).forward(np.zeros((1, 3, 8, 8))),
            r"expected images \(B, 2, 8, 8\), got \(1, 3, 8, 8\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("method", ["backward", "attention_maps"])
def test_forward_comes_first(method):
    model = VisionTransformer(ViTConfig(**SMALL), RNG)
    with pytest.raises(RuntimeError, match="expected forward before"):
        getattr(model, method)(*([np.zeros((1, 6))] if method == "backward" else []))
