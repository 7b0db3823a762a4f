"""Judges the exercises: your files (skipped until you start) and the solutions."""

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import vit_paper
from utils.exercises import diagnose, exercise
from utils.gradient_check import GradientMismatch, check_backward
from utils.parity import perturb

ex01 = exercise(__file__, "ex01_patch_embedding")
ex02 = exercise(__file__, "ex02_attention_maps")
ex03 = exercise(__file__, "ex03_position_interpolation")
ex04 = exercise(__file__, "ex04_cls_against_pooling")
ex05 = exercise(__file__, "ex05_layer_scale")
ex06 = exercise(__file__, "ex06_registers")
ex07 = exercise(__file__, "ex07_patch_dropout")

SIZES = {"image_size": 24, "patch_size": 8, "width": 12, "layers": 2, "heads": 3}
SIZES |= {"hidden": 20, "classes": 7}
TIMM = {"img_size": 24, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}
TIMM |= {"mlp_ratio": 2, "num_classes": 7}


def rng():
    return np.random.default_rng(0)


def make_model(**changes):
    torch.manual_seed(0)
    model = vit_paper.VisionTransformer.of(**(SIZES | changes)).double().eval()
    perturb(model)
    return model


def timm_model(**changes):
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(**(TIMM | changes)).double().eval()
    perturb(model)
    return model


def images(size=3, side=24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, side, side, generator=generator, dtype=torch.float64)


def require(result, name):
    assert result is not None, f"{name} returned None: is a return statement missing?"
    return result


# --- 01 patches


def patch_case():
    x = rng().standard_normal((2, 3, 8, 12))
    return x, rng().standard_normal((5, 3, 4, 4)), rng().standard_normal(5)


def torch_embed(x, weight, bias, stride=4):
    y = F.conv2d(*(torch.tensor(a) for a in (x, weight)), torch.tensor(bias), stride=stride)
    return y.flatten(2).mT


@pytest.mark.parametrize("name", ["embed_as_product", "embed_as_convolution"])
def test_embed(ex01, name):
    x, weight, bias = patch_case()
    want = torch_embed(x, weight, bias).numpy()
    square = x.reshape(2, 3, 2, 4, 3, 4)
    flat = weight.reshape(5, -1)
    wrong = {
        "forget the bias": want - bias,
        "go through the grid column by column": want.reshape(2, 2, 3, 5)
        .swapaxes(1, 2)
        .reshape(want.shape),
        "reshape without a transpose first": x.reshape(2, 6, 48) @ flat.T + bias,
        "put the channel last in a patch": square.transpose(0, 2, 4, 3, 5, 1).reshape(2, 6, 48)
        @ flat.T
        + bias,
        "exchange rows and columns inside a patch": square.transpose(0, 2, 4, 1, 5, 3).reshape(
            2, 6, 48
        )
        @ flat.T
        + bias,
        "leave the result as a map: tokens (B, G*G, D) are wanted": torch_embed(x, weight, bias)
        .mT.reshape(2, 5, 2, 3)
        .numpy(),
        "leave the width before the tokens": want.swapaxes(1, 2),
        "reshape (B, D, G, G) to (B, G*G, D) without exchanging axes": want.swapaxes(1, 2).reshape(
            want.shape
        ),
        "use a stride of 1, not of P": torch_embed(x, weight, bias, 1).numpy(),
        "split a side into (P, G), not into (G, P)": x.reshape(2, 3, 4, 2, 4, 3)
        .transpose(0, 3, 5, 1, 2, 4)
        .reshape(2, 6, 48)
        @ flat.T
        + bias,
        "reshape the weight to (C*P*P, D) instead of transposing it": square.transpose(
            0, 2, 4, 1, 3, 5
        ).reshape(2, 6, 48)
        @ weight.reshape(48, 5)
        + bias,
    }
    got = require(getattr(ex01, name)(x, weight, bias), name)
    diagnose(got, want, wrong, what="tokens")


@pytest.mark.parametrize(("P", "stride"), [(4, 4), (4, 2), (5, 1)])
def test_overlapping_patches(ex01, P, stride):
    x = rng().standard_normal((2, 3, 8, 8))
    want = F.unfold(torch.tensor(x), P, stride=stride).mT.numpy()
    rows, cache = ex01.overlapping_patches_forward(x, P, stride)
    G = (8 - P) // stride + 1
    near = np.zeros_like(want)
    for i in range(G):
        for j in range(G):
            near[:, G * i + j] = x[:, :, i : i + P, j : j + P].reshape(2, -1)
    wrong = {
        "go through the grid column by column": want.reshape(2, G, G, -1)
        .swapaxes(1, 2)
        .reshape(want.shape)
    }
    if stride > 1:
        wrong["put the corners 1 pixel apart, not stride"] = near
    if stride != P and P * (G - 1) + P <= 8:
        wrong["put the corners P pixels apart"] = F.unfold(torch.tensor(x), P, stride=P).mT.numpy()
    diagnose(rows, want, wrong, what="rows")

    dy = np.random.default_rng(1).standard_normal(want.shape)
    folded = F.fold(torch.tensor(dy).mT, (8, 8), P, stride=stride).numpy()
    count = F.fold(torch.ones(dy.shape, dtype=torch.float64).mT, (8, 8), P, stride=stride).numpy()
    last = np.zeros_like(x)
    for i in range(G):
        for j in range(G):
            part = dy[:, G * i + j].reshape(2, 3, P, P)
            last[:, :, i * stride : i * stride + P, j * stride : j * stride + P] = part
    got = require(ex01.overlapping_patches_backward(dy, cache), "overlapping_patches_backward")
    wrong = {
        "overwrite instead of adding: a pixel in several patches gets the sum": last,
        "take the mean of a pixel's patches instead of the sum": folded / np.maximum(count, 1),
    }
    diagnose(got, folded, wrong if stride < P else {}, what="dx")
    try:
        check_backward(
            ex01.overlapping_patches_forward,
            ex01.overlapping_patches_backward,
            {"x": x[:1, :1]},
            P=P,
            stride=stride,
        )
    except GradientMismatch as error:
        raise AssertionError(str(error)) from None


# --- 02 attention maps


def test_collect_maps(ex02):
    model, x = make_model(), images()
    want = model.attention_maps(x)
    got = require(ex02.collect_maps(model, x), "collect_maps")
    assert len(got) == 2, f"expected a map of each of 2 blocks, got {len(got)}"
    without_norm = [model.blocks[0].attn.weights(model.tokens(x)).detach()]
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        wrong = {"take the maps in reverse order": want[1 - i]}
        if i == 0:
            wrong["give the attention what has not been normalised"] = without_norm[0]
        diagnose(a, b, wrong, what=f"map of block {i}")
    assert not any(b.attn._forward_hooks for b in model.blocks), "a hook was left behind"
    again = ex02.collect_maps(model, x)
    assert len(again) == 2, "a second call gives more maps: are the old ones kept?"


def attention_case(heads=2, G=3):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, heads, G * G + 1, G * G + 1, generator=generator, dtype=torch.float64)
    return (2 * scores).softmax(dim=-1)


def test_class_token_maps(ex02):
    weights = attention_case()
    row = weights[:, :, 0, 1:]
    want = (row / row.sum(dim=-1, keepdim=True)).reshape(2, 2, 3, 3)
    column = weights[:, :, 1:, 0]
    whole = weights[:, :, 0, :9].reshape(2, 2, 3, 3)
    got = require(ex02.class_token_maps(weights), "class_token_maps")
    wrong = {
        "forget to divide by the sum": row.reshape(2, 2, 3, 3),
        "take the column (who looks at the class token) instead of the row": (
            column / column.sum(dim=-1, keepdim=True)
        ).reshape(2, 2, 3, 3),
        "keep the class token and drop the last patch": whole,
        "divide by the largest entry": (row / row.amax(dim=-1, keepdim=True)).reshape(2, 2, 3, 3),
        "exchange rows and columns of the picture": want.mT,
    }
    diagnose(got, want, wrong, what="pictures")


def test_mean_attention_distance(ex02):
    weights = attention_case()
    places = torch.tensor([[i, j] for i in range(3) for j in range(3)], dtype=torch.float64)
    distance = 8 * torch.cdist(places, places)
    patches = weights[:, :, 1:, 1:]
    shares = patches / patches.sum(dim=-1, keepdim=True)

    def mean(shares, distance):
        return (shares * distance).sum(dim=-1).mean(dim=-1)

    wrong = {
        "count patches, not pixels": mean(shares, distance / 8),
        "forget that rows without the class token no longer sum to 1": mean(patches, distance),
        "take squared distances": mean(shares, distance**2 / 8),
        "add rows and columns up instead of the root of squares": mean(
            shares, 8 * torch.cdist(places, places, p=1)
        ),
        "divide by the columns' sums": mean(patches / patches.sum(dim=-2, keepdim=True), distance),
        "divide once by the sum of all weights, not row by row": (patches * distance).sum(
            dim=(-1, -2)
        )
        / patches.sum(dim=(-1, -2)),
    }
    got = require(ex02.mean_attention_distance(weights, 8), "mean_attention_distance")
    diagnose(got, mean(shares, distance), wrong, what="distances")


# --- 03 positions


@pytest.mark.parametrize(("old", "new"), [(3, 6), (4, 6), (2, 5), (5, 3), (4, 4), (1, 3)])
def test_interpolation_matrix(ex03, old, new):
    eye = torch.eye(old, dtype=torch.float64)[:, None]  # (old, 1, old): each unit vector

    def matrix(**kind):
        return F.interpolate(eye, new, mode="linear", **kind)[:, 0].T.numpy()

    def two_entries(place, put):
        R = np.zeros((new, old))
        for i in range(new):
            q = min(max(place(i), 0), old - 1)
            put(R[i], int(q), min(int(q) + 1, old - 1), q - int(q))
        return R

    def halves(i):
        return (i + 0.5) * old / new - 0.5

    def add(row, k, after, f):
        row[k] += 1 - f
        row[after] += f

    def exchanged(row, k, after, f):
        add(row, k, after, 1 - f)

    def overwrite(row, k, after, f):
        row[k] = 1 - f
        row[after] = f

    nearest = F.interpolate(eye, new, mode="nearest")[:, 0].T.numpy()
    wrong = {
        "forget the halves": two_entries(lambda i: i * old / new, add),
        "exchange the two shares": two_entries(halves, exchanged),
        "overwrite the last entry, where f is 0": two_entries(halves, overwrite),
        "let the centres of the corners coincide, not the edges": matrix(align_corners=True),
        "take the nearest place instead of two": nearest,
        "make the matrix (old, new)": matrix(align_corners=False).T,
    }
    got = require(ex03.interpolation_matrix(old, new), "interpolation_matrix")
    diagnose(got, matrix(align_corners=False), wrong, what="matrix")


@pytest.mark.parametrize(("old", "new"), [(3, 5), (4, 2)])
def test_resize_positions(ex03, old, new):
    pos = rng().standard_normal((1, old * old + 1, 6))
    grid = torch.tensor(pos[:, 1:]).mT.reshape(1, 6, old, old)

    def whole(grid, first):
        return np.concatenate([first, grid.flatten(2).mT.numpy()], axis=1)

    large = F.interpolate(grid, (new, new), mode="bilinear")
    want = whole(large, pos[:, :1])
    mixed = torch.tensor(pos[:, 1:]).reshape(1, 6, old, old)
    mixed = F.interpolate(mixed, (new, new), mode="bilinear").reshape(1, new * new, 6)
    no_transposition = np.concatenate([pos[:, :1], mixed.numpy()], axis=1)
    wrong = {
        "exchange rows and columns of the grid": whole(large.mT, pos[:, :1]),
        "drop the class token's position": want[:, 1:],
        "put the class token's position last": np.concatenate([want[:, 1:], want[:, :1]], axis=1),
        "reshape (G*G, D) to (D, G, G) without a transposition": no_transposition,
    }
    y, cache = require(ex03.resize_positions_forward(pos, new), "resize_positions_forward")
    diagnose(y, want, wrong, what="positions")

    leaf = torch.tensor(pos, requires_grad=True)
    dy = np.random.default_rng(1).standard_normal(want.shape)
    inner = leaf[:, 1:].mT.reshape(1, 6, old, old)
    resized = F.interpolate(inner, (new, new), mode="bilinear").flatten(2).mT
    resized.backward(torch.tensor(dy[:, 1:]))
    grad = leaf.grad.numpy()
    grad[:, 0] = dy[:, 0]
    no_first = grad.copy()
    no_first[:, 0] = 0
    back = F.interpolate(
        torch.tensor(dy[:, 1:]).mT.reshape(1, 6, new, new), (old, old), mode="bilinear"
    )
    wrong = {
        "let no gradient through to the class token's position": no_first,
        "exchange rows and columns of the grid": np.concatenate(
            [dy[:, :1], grad[:, 1:].reshape(1, old, old, 6).swapaxes(1, 2).reshape(1, -1, 6)],
            axis=1,
        ),
        "interpolate the gradient down instead of multiplying by the transposed matrix": whole(
            back, dy[:, :1]
        ),
    }
    got = require(ex03.resize_positions_backward(dy, cache), "resize_positions_backward")
    diagnose(got, grad, wrong, what="gradient")


# --- 04 class token or pooling


@pytest.mark.parametrize("kind", ["cls", "mean", "patches"])
def test_pooling(ex04, kind):
    x = rng().standard_normal((2, 5, 4))
    kinds = {"cls": x[:, 0], "mean": x.mean(axis=1), "patches": x[:, 1:].mean(axis=1)}
    wrong = {f"do what belongs to '{other}'": y for other, y in kinds.items() if other != kind}
    wrong["add up instead of taking the mean"] = x.sum(axis=1)
    wrong["add up the patches instead of taking their mean"] = x[:, 1:].sum(axis=1)
    wrong["divide the patches by all T, not by T - 1"] = x[:, 1:].sum(axis=1) / 5
    y, cache = ex04.pool_forward(x, kind)
    diagnose(y, kinds[kind], wrong, what=f"result of '{kind}'")

    dy = np.random.default_rng(1).standard_normal((2, 4))
    shares = {"cls": [1, 0, 0, 0, 0], "mean": [0.2] * 5, "patches": [0, *[0.25] * 4]}

    def gradient(share):
        return np.array(share)[None, :, None] * dy[:, None]

    wrong = {
        "forget to divide by the number of tokens": gradient([float(s > 0) for s in shares[kind]])
    }
    if kind == "patches":
        wrong["divide by all T, not by T - 1"] = gradient([0, *[0.2] * 4])
        wrong["give the class token a share"] = gradient([0.25] * 5)
    if kind == "cls":
        wrong = {"give every token the gradient": gradient([1] * 5)}
    got = require(ex04.pool_backward(dy, cache), "pool_backward")
    diagnose(got, gradient(shares[kind]), wrong, what=f"gradient of '{kind}'")


def test_patch_pooling(ex04):
    model = make_model()
    other = ex04.PatchPooling(model.config).double().eval()
    other.load_state_dict(model.state_dict())
    x = images()
    h = model.tokens(x)
    for block in model.blocks:
        h = block(h)
    normed = model.norm(h)
    wrong = {
        "still read the class token": model(x),
        "count the class token among the patches": model.head(normed.mean(dim=1)),
        "leave the last norm out": model.head(h[:, 1:].mean(dim=1)),
        "take the mean before the norm": model.head(model.norm(h[:, 1:].mean(dim=1))),
    }
    got = require(other(x), "forward")
    diagnose(got, model.head(normed[:, 1:].mean(dim=1)), wrong, what="logits")
    assert got.requires_grad, "the logits have no gradient: was the pass made without one?"


def test_reached_by_the_head(ex04):
    for model, want in ((make_model(), 1), (make_model(pool="gap"), 9)):
        got = require(ex04.reached_by_the_head(model, images()), "reached_by_the_head")
        if got == 1 + 9 - want or got == 10:
            raise AssertionError(f"expected {want} tokens, got {got}: count tokens, not zeros")
        if got in (want * 12, want * 3, want * 36):
            raise AssertionError(
                f"expected {want} tokens, got {got}: numbers or images, not tokens"
            )
        assert got == want, f"expected {want} of the tokens to get a gradient, got {got}"
        assert not model.blocks[-1]._forward_hooks, "a hook was left behind"


# --- 05 layer scale


def test_layer_scale(ex05):
    layer = ex05.LayerScale(12, 0.25).double()
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["gamma"], f"expected the parameter gamma, got {names}"
    assert layer.gamma.shape == (12,), f"expected one number a feature, got {layer.gamma.shape}"
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    wrong = {"start at 1, not at the given number": x, "add instead of multiplying": x + 0.25}
    diagnose(layer(x), 0.25 * x, wrong, what="output")
    with torch.no_grad():
        layer.gamma.copy_(torch.arange(12))
    wrong = {"add instead of multiplying": x + torch.arange(12)}
    diagnose(layer(x), x * torch.arange(12), wrong, what="output")


def test_add_layer_scale(ex05):
    reference = timm_model(init_values=1e-5)
    model = ex05.add_layer_scale(timm.models.VisionTransformer(**TIMM).double().eval())
    model = require(model, "add_layer_scale")
    got, want = model.state_dict(), reference.state_dict()
    missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
    assert not missing and not extra, f"names differ from timm's: missing {missing}, extra {extra}"
    assert torch.all(got["blocks.0.ls1.gamma"] == torch.tensor(1e-5).to(got["blocks.0.ls1.gamma"]))
    model = model.double()
    model.load_state_dict(want)
    assert model.blocks[0].ls1 is not model.blocks[0].ls2, "the branches share one scale"
    x = images()
    swapped = copy.deepcopy(reference)
    for block in swapped.blocks:
        block.ls1, block.ls2 = block.ls2, block.ls1
    one = copy.deepcopy(reference)
    for block in one.blocks:
        block.ls2 = nn.Identity()
    wrong = {"exchange ls1 and ls2": swapped(x), "scale the first branch only": one(x)}
    diagnose(model(x), reference(x), wrong, what="logits")


# --- 06 registers

REGISTERS = 2


def register_pair(ex06, **changes):
    reference = timm_model(reg_tokens=REGISTERS, no_embed_class=True, **changes)
    torch.manual_seed(0)
    model = ex06.RegisterViT(registers=REGISTERS, **(TIMM | changes)).double().eval()
    state = reference.state_dict()
    # timm adds no position to the class token here; ours has one: zero does the same.
    first = torch.zeros(1, 1, 12, dtype=torch.float64)
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    missing, extra = model.load_state_dict(state, strict=False)
    assert not missing and not extra, f"names differ: missing {missing}, unexpected {extra}"
    return model, reference


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_registers(ex06, pool):
    changes = {"global_pool": pool, "fc_norm": False}
    model, reference = register_pair(ex06, **changes)
    assert model.reg_token.shape == (1, REGISTERS, 12)
    x = images()
    features = require(model.forward_features(x), "forward_features")
    want = reference.forward_features(x)
    plain = timm.models.VisionTransformer(**TIMM, **changes).double().eval()
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if n != "reg_token"})
    order = list(range(want.shape[1]))
    unnormed = copy.deepcopy(reference)
    unnormed.norm = nn.Identity()
    before_the_norm = unnormed.forward_features(x)
    wrong = {
        "leave the registers out": plain.forward_features(x),
        "put the registers before the class token": want[:, [1, 2, 0, *order[3:]]],
        "put the registers at the end": want[:, [0, *order[3:], 1, 2]],
        "forget the last norm": before_the_norm,
    }
    diagnose(features, want, wrong, what="features")
    tokens = reference.head(want[:, 0])
    wrong = {
        "count the registers among the patches": reference.head(want[:, 1:].mean(dim=1)),
        "take the mean of all tokens": reference.head(want.mean(dim=1)),
        "read the class token for 'avg' too": tokens,
        "read a register in place of the class token": reference.head(want[:, 1]),
    }
    diagnose(model(x), reference(x), wrong, what="logits")


def test_fresh_registers_are_small_and_learn(ex06):
    torch.manual_seed(0)
    model = ex06.RegisterViT(registers=REGISTERS, **TIMM)
    assert isinstance(model.reg_token, nn.Parameter), "reg_token should be an nn.Parameter"
    assert 0 < model.reg_token.std() < 1e-5, "expected a standard deviation of 1e-6"
    model(images().float()).square().sum().backward()
    assert model.reg_token.grad is not None and model.reg_token.grad.any()


# --- 07 patch dropout


def test_patch_dropout_in_training(ex07):
    torch.manual_seed(0)
    B, N = 40, 10
    x = torch.arange(N + 2.0).view(1, -1, 1).expand(B, -1, 3).contiguous()  # each token its number
    layer = ex07.PatchDropout(0.35, prefix=2).train()
    y = require(layer(x), "forward")
    assert y.shape[1] != N + 2, "no patch was left out in training"
    assert y.shape[1] != 2 + 3, "rate is the share that is left out, not the share that stays"
    assert y.shape == (B, 2 + 6, 3), f"expected 2 tokens and int(10 * 0.65) patches, got {y.shape}"
    assert (y == y[..., :1]).all(), "the features of one token come from different tokens"
    numbers = y[..., 0]
    assert (numbers[:, :2] == torch.tensor([0.0, 1.0])).all(), "the tokens before the patches stay"
    patches = numbers[:, 2:]
    assert (patches.diff(dim=1) != 0).all() and all(len(set(p.tolist())) == 6 for p in patches), (
        "a patch appears twice: draw without repetition"
    )
    assert (patches.diff(dim=1) > 0).all(), "the patches that stay should keep their order: sort"
    assert (patches >= 2).all(), "a token of the prefix was taken for a patch"
    assert len({tuple(p.tolist()) for p in patches}) > 10, "each image should draw its own patches"
    counts = torch.bincount(patches.flatten().long() - 2, minlength=N)
    assert counts.min() > 10, f"some patches hardly ever stay: {counts.tolist()} of {B} times"
    one = ex07.PatchDropout(0.99, prefix=1).train()(x)
    assert one.shape[1] == 2, "at least one patch stays"


def test_patch_dropout_in_use(ex07):
    x = torch.randn(2, 6, 3)
    y = require(ex07.PatchDropout(0.5).eval()(x), "forward")
    assert torch.equal(y, x), "in eval mode all patches stay, unchanged"


@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 2}], ids=str)
def test_add_patch_dropout(ex07, changes):
    reference = timm_model(patch_drop_rate=0.5, **changes)
    model = require(ex07.add_patch_dropout(timm_model(**changes), 0.5), "add_patch_dropout").eval()
    assert type(model.patch_drop).__name__ == "PatchDropout", "model.patch_drop is the place"
    assert model.patch_drop.prefix == model.num_prefix_tokens, (
        "the class token and the registers are no patches: num_prefix_tokens"
    )
    x = images()
    diagnose(model(x), reference(x), what="logits in use")
    lengths = []
    hook = model.blocks[0].register_forward_hook(lambda m, inputs, y: lengths.append(y.shape[1]))
    model.train()(x)
    hook.remove()
    assert lengths == [model.num_prefix_tokens + 4], f"expected 4 of 9 patches, got {lengths}"
