"""Judges the exercises: your files (skipped until you start) and the solutions."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conv_numpy import conv2d_forward
from lenet5_paper import LeNet5, LeNet5Config
from utils.exercises import diagnose, exercise
from utils.gradient_check import check_backward
from utils.parity import perturb
from utils.weights import load_into

ex01 = exercise(__file__, "ex01_visualize_filters")
ex02 = exercise(__file__, "ex02_receptive_field")
ex03 = exercise(__file__, "ex03_convolution_backward")
ex04 = exercise(__file__, "ex04_transposed_convolution")
ex05 = exercise(__file__, "ex05_trainable_subsampling")
ex06 = exercise(__file__, "ex06_rbf_loss")


def rng():
    return np.random.default_rng(0)


# --- 01 filters


def test_normalised_filters(ex01):
    weight = rng().standard_normal((3, 2, 5, 5))
    weight[1] *= 100
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    low = weight.min(axis=(1, 2, 3), keepdims=True)
    span = weight.max(axis=(1, 2, 3), keepdims=True) - low
    per_channel = np.abs(weight).max(axis=(2, 3), keepdims=True)
    diagnose(
        ex01.normalise_filters(weight.copy()),
        0.5 + 0.5 * weight / largest,
        {
            "scale all kernels by one number": 0.5 + 0.5 * weight / np.abs(weight).max(),
            "map the smallest weight to 0, so that zero is no longer grey": (weight - low) / span,
            "scale each input channel by itself": 0.5 + 0.5 * weight / per_channel,
            "leave out the shift to 0..1": weight / largest,
            "shift by a half without halving": 0.5 + weight / largest,
        },
        what="picture",
    )


def test_a_kernel_of_zeros_stays_grey(ex01):
    weight = np.zeros((2, 1, 3, 3))
    weight[0] = rng().standard_normal((1, 3, 3))
    diagnose(ex01.normalise_filters(weight)[1], np.full((1, 3, 3), 0.5), what="kernel of zeros")


def test_strongest_patches(ex01):
    images = rng().standard_normal((3, 1, 9, 8))
    weight, bias = rng().standard_normal((4, 1, 3, 3)), rng().standard_normal(4)
    y, _ = conv2d_forward(images, weight, bias)
    ascending, strongest, largest_magnitude = [], [], []
    for o in range(4):
        for places, sort_by in (
            (ascending, y[:, o]),
            (strongest, -y[:, o]),
            (largest_magnitude, -np.abs(y[:, o])),
        ):
            order = np.argsort(sort_by, axis=None)[:5]
            b, i, j = np.unravel_index(order, sort_by.shape)
            cut = [images[n, 0, r : r + 3, c : c + 3] for n, r, c in zip(b, i, j, strict=True)]
            places.append(cut)
    diagnose(
        ex01.strongest_patches(images, weight, bias, 5),
        np.array(strongest),
        {
            "take the weakest answers": np.array(ascending),
            "put the weakest of the five first": np.array(strongest)[:, ::-1],
            "take the largest magnitudes, whatever their sign": np.array(largest_magnitude),
            "transpose the patches": np.array(strongest).transpose(0, 1, 3, 2),
        },
        what="array of patches",
    )


# --- 02 receptive field

STACKS = {
    "lenet": None,
    "strides": ({"kernel": 3, "stride": 2, "padding": 1}, {"kernel": 3, "stride": 3}),
    "padding behind a stride": (
        {"kernel": 3, "stride": 2, "padding": 1},
        {"kernel": 3, "stride": 3, "padding": 2},
    ),
    "dilation": ({"kernel": 3, "dilation": 2}, {"kernel": 2, "dilation": 4, "stride": 2}),
}


def true_fields(layers):
    r, j, result = 1, 1, []
    for layer in layers:
        r += layer.get("dilation", 1) * (layer["kernel"] - 1) * j
        j *= layer.get("stride", 1)
        result.append((r, j))
    return result


@pytest.mark.parametrize("stack", STACKS)
def test_receptive_field(ex02, stack):
    layers = STACKS[stack] or ex02.LENET
    own_stride, no_dilation, r, s, j = [], [], 1, 1, 1
    for layer in layers:
        step = layer["kernel"] - 1
        s, before = s + step * j, j
        j *= layer.get("stride", 1)
        r += layer.get("dilation", 1) * step * j
        own_stride.append((r, j))
        no_dilation.append((s, j))
        assert before >= 1
    diagnose(
        ex02.receptive_field(layers),
        true_fields(layers),
        {
            "use the jump after this layer's stride for this layer's window": own_stride,
            "leave out the dilation": no_dilation,
        },
        what="list of (r, j)",
    )


@pytest.mark.parametrize("stack", STACKS)
def test_first_pixel(ex02, stack):
    layers = STACKS[stack] or ex02.LENET
    for i in (0, 1, 3):
        want, unpadded, upwards, unscaled = i, i, i, i
        for layer in reversed(layers):
            want = want * layer.get("stride", 1) - layer.get("padding", 0)
            unpadded = unpadded * layer.get("stride", 1)
        jump = true_fields(layers)[-1][1]
        unscaled = i * jump - sum(layer.get("padding", 0) for layer in layers)
        for layer in layers:
            upwards = upwards * layer.get("stride", 1) - layer.get("padding", 0)
        wrong = {
            "add up the paddings without the strides below them": unscaled,
            "walk up from the first layer": upwards,
            "leave out the padding": unpadded,
        }
        diagnose(ex02.first_pixel(layers, i), want, wrong, what="first pixel")


@pytest.mark.parametrize("stack", STACKS)
def test_measured_field_is_the_predicted_one(ex02, stack):
    layers = STACKS[stack] or ex02.LENET
    size = 44
    units = size
    for layer in layers:
        span = layer.get("dilation", 1) * (layer["kernel"] - 1) + 1
        units = (units + 2 * layer.get("padding", 0) - span) // layer.get("stride", 1) + 1
    r, _ = true_fields(layers)[-1]
    for i in (0, units // 2, units - 1):
        first = i
        for layer in reversed(layers):
            first = first * layer.get("stride", 1) - layer.get("padding", 0)
        inside = (max(first, 0), min(first + r - 1, size - 1))
        diagnose(
            ex02.measured_field(layers, size, i),
            inside,
            {"return the width instead of the last pixel": (inside[0], inside[1] - inside[0] + 1)},
            what="(first, last)",
        )


# --- 03 convolution backward


KNOBS_1D = {
    "plain": {},
    "stride": {"stride": 2},
    "dilation": {"dilation": 2},
    "both": {"stride": 3, "dilation": 2},
}


def conv1d_case(ex03, knobs):
    """dy and the cache, the right gradients, and what comes out of the usual mistakes."""
    generator = rng()
    x, bias = generator.standard_normal((2, 3, 14)), generator.standard_normal(4)
    weight = generator.standard_normal((4, 3, 5))
    y, cache = ex03.conv1d_forward(x, weight, bias, **knobs)
    dy = generator.standard_normal(y.shape)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    F.conv1d(*leaves, **knobs).backward(torch.from_numpy(dy))
    want = dict(zip(("x", "weight", "bias"), [leaf.grad for leaf in leaves], strict=True))
    return dy, cache, want, wrong_conv1d_gradients(dy, cache, ex03.tap)


@pytest.mark.parametrize("knobs", KNOBS_1D.values(), ids=list(KNOBS_1D))
def test_conv1d_parameters_backward(ex03, knobs):
    dy, cache, want, wrong = conv1d_case(ex03, knobs)
    dweight, dbias = ex03.conv1d_parameters_backward(dy, cache)
    diagnose(dbias, want["bias"], wrong["bias"], what="dbias")
    diagnose(dweight, want["weight"], wrong["weight"], what="dweight")


@pytest.mark.parametrize("knobs", KNOBS_1D.values(), ids=list(KNOBS_1D))
def test_conv1d_input_backward(ex03, knobs):
    dy, cache, want, wrong = conv1d_case(ex03, knobs)
    diagnose(ex03.conv1d_input_backward(dy, cache), want["x"], wrong["x"], what="dx")


def wrong_conv1d_gradients(dy, cache, tap):
    """What comes out of the usual mistakes."""
    columns, (B, C, T), weight, stride, dilation = cache
    Co, _, k = weight.shape
    To = dy.shape[2]
    batch_first = dy.transpose(1, 0, 2).reshape(Co, B * To)
    rows = dy.transpose(1, 2, 0).reshape(Co, To * B)
    reshaped = dy.reshape(Co, To * B)
    overwritten, flipped, unordered, mixed = (np.zeros((B, C, T)) for _ in range(4))
    good, bad, worse = (weight.reshape(Co, C * k).T @ d for d in (rows, batch_first, reshaped))
    for u in range(k):
        place = tap(u, To, stride, dilation)
        overwritten[:, :, place] = good.reshape(C, k, To, B)[:, u].transpose(2, 0, 1)
        flipped[:, :, place] += good.reshape(C, k, To, B)[:, k - 1 - u].transpose(2, 0, 1)
        unordered[:, :, place] += bad.reshape(C, k, To, B)[:, u].transpose(2, 0, 1)
        mixed[:, :, place] += worse.reshape(C, k, To, B)[:, u].transpose(2, 0, 1)
    order = "order dy's columns by (b, i) where the forward pass has (i, b)"
    mix = "reshape dy without transposing it first, which mixes channels and examples"
    return {
        "x": {
            "write with = where windows overlap and += is needed": overwritten,
            "flip the kernel": flipped,
            order: unordered,
            mix: mixed,
        },
        "weight": {
            "average over the batch": (rows @ columns.T).reshape(Co, C, k) / B,
            "flip the kernel": (rows @ columns.T).reshape(Co, C, k)[:, :, ::-1],
            order: (batch_first @ columns.T).reshape(Co, C, k),
            mix: (reshaped @ columns.T).reshape(Co, C, k),
        },
        "bias": {
            "sum over the batch alone": dy.sum(axis=0),
            "average over the batch": dy.sum(axis=(0, 2)) / B,
            mix: reshaped.sum(axis=1),
        },
    }


# --- 04 transposed convolution

KNOBS = {
    "plain": {},
    "stride": {"stride": 2},
    "padding": {"stride": 2, "padding": 1},
    "more of both": {"stride": 3, "padding": 2},
}


def transposed_case():
    generator = rng()
    x = generator.standard_normal((2, 3, 4, 5))
    return x, generator.standard_normal((3, 2, 4, 3)), generator.standard_normal(2)


def test_transposed_size(ex04):
    for size, kernel, stride, padding in ((5, 3, 1, 0), (5, 4, 2, 1), (4, 5, 3, 2)):
        uncut = stride * (size - 1) + kernel
        diagnose(
            ex04.transposed_size(size, kernel, stride, padding),
            uncut - 2 * padding,
            {
                "add the padding instead of cutting it": uncut + 2 * padding,
                "cut the padding on one side only": uncut - padding,
                "take stride * size": uncut + stride - 2 * padding,
            }
            if padding
            else {"take stride * size": uncut + stride},
            what="size",
        )


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=list(KNOBS))
def test_conv_transpose2d_forward(ex04, knobs):
    x, weight, bias = transposed_case()
    t = [torch.from_numpy(a) for a in (x, weight, bias)]
    want = F.conv_transpose2d(*t, **knobs)
    y, _ = ex04.conv_transpose2d_forward(x, weight, bias, **knobs)
    if y is not None and np.size(y) == 0:
        raise AssertionError("y is empty: is your slice p:-p? With p = 0 that is nothing")
    diagnose(
        y,
        want,
        {
            "flip the kernel": F.conv_transpose2d(t[0], t[1].flip(2, 3), t[2], **knobs),
            "leave out the bias": F.conv_transpose2d(t[0], t[1], **knobs),
            "forget to cut the padding off": F.conv_transpose2d(*t, stride=knobs.get("stride", 1)),
            "overwrite where kernels overlap": overwritten(x, weight, bias, **knobs),
        },
        what="y",
    )


def overwritten(x, weight, bias, stride=1, padding=0):
    _, _, H, W = x.shape
    kH, kW = weight.shape[2:]
    canvas = np.zeros((len(x), len(bias), stride * (H - 1) + kH, stride * (W - 1) + kW))
    for i in range(H):
        for j in range(W):
            rows, columns = slice(stride * i, stride * i + kH), slice(stride * j, stride * j + kW)
            canvas[:, :, rows, columns] = np.einsum("bc,couv->bouv", x[:, :, i, j], weight)
    height, width = canvas.shape[2:]
    return canvas[:, :, padding : height - padding, padding : width - padding] + bias[:, None, None]


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=list(KNOBS))
def test_it_is_the_adjoint_of_convolution(ex04, knobs):
    small, weight, _ = transposed_case()
    y, _ = ex04.conv_transpose2d_forward(small, weight, np.zeros(2), **knobs)

    def convolution(x):
        return conv2d_forward(x, weight, None, **knobs)[0]

    def transposed(y):
        return ex04.conv_transpose2d_forward(y, weight, np.zeros(2), **knobs)[0]

    def flipped(y):
        return F.conv_transpose2d(
            torch.from_numpy(y), torch.from_numpy(weight).flip(2, 3), **knobs
        ).numpy()

    gap = ex04.adjoint_gap(convolution, transposed, y.shape, small.shape)
    assert gap is not None, "adjoint_gap returned None: is a return statement missing?"
    if not gap < 1e-12:
        raise AssertionError(f"<A x, y> and <x, At y> differ by {gap:.2e} of their size")
    gap = ex04.adjoint_gap(convolution, flipped, y.shape, small.shape)
    if not gap > 1e-3:
        raise AssertionError("your adjoint_gap does not notice a kernel the wrong way round")


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=list(KNOBS))
def test_conv_transpose2d_backward(ex04, knobs):
    x, weight, bias = transposed_case()
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    want = F.conv_transpose2d(*leaves, **knobs)
    dy = rng().standard_normal(tuple(want.shape))
    want.backward(torch.from_numpy(dy))
    _, cache = ex04.conv_transpose2d_forward(x, weight, bias, **knobs)
    try:
        dx, dweight, dbias = ex04.conv_transpose2d_backward(dy, cache)
    except ValueError as error:
        if "padding" not in knobs:
            raise
        # Windows at the rim of an unpadded dy are too small, and NumPy says no more than that.
        raise AssertionError(
            f"{error}; is dy padded back to the size of the canvas before its windows are cut out?"
        ) from error
    flipped = weight[:, :, ::-1, ::-1]
    diagnose(
        dx,
        leaves[0].grad,
        {"flip the kernel": conv2d_forward(dy, flipped, None, **knobs)[0]},
        what="dx",
    )
    wrong = {"average over the batch": leaves[1].grad / len(x)}
    diagnose(dweight, leaves[1].grad, wrong, what="dweight")
    diagnose(dbias, leaves[2].grad, what="dbias")


# --- 05 trainable sub-sampling


def subsampling_case():
    generator = rng()
    x = generator.standard_normal((2, 3, 6, 4))
    return x, generator.standard_normal(3), generator.standard_normal(3)


def test_subsample_forward(ex05):
    x, weight, bias = subsampling_case()
    total = x.reshape(2, 3, 3, 2, 2, 2).sum(axis=(3, 5))
    w, b = weight[:, None, None], bias[:, None, None]
    diagnose(
        ex05.subsample_forward(x, weight, bias)[0],
        w * total + b,
        {
            "average where the paper adds": w * total / 4 + b,
            "multiply the bias too": w * (total + b),
            "squash already (the model does it after this layer)": np.tanh(w * total + b),
            "leave out the bias": w * total,
        },
        what="y",
    )


def test_subsample_backward(ex05):
    x, weight, bias = subsampling_case()
    total = x.reshape(2, 3, 3, 2, 2, 2).sum(axis=(3, 5))
    y, cache = ex05.subsample_forward(x, weight, bias)
    dy = rng().standard_normal(y.shape)
    dx, dweight, dbias = ex05.subsample_backward(dy, cache)
    want = (dy * weight[:, None, None]).repeat(2, axis=2).repeat(2, axis=3)
    diagnose(
        dx,
        want,
        {
            "divide by 4, as for an average": want / 4,
            "leave out the coefficient": dy.repeat(2, axis=2).repeat(2, axis=3),
        },
        what="dx",
    )
    product = dy * total
    diagnose(
        dweight,
        product.sum(axis=(0, 2, 3)),
        {
            "average over the batch": product.sum(axis=(0, 2, 3)) / 2,
            "multiply by the mean of the window instead of its sum": product.sum(axis=(0, 2, 3))
            / 4,
        },
        what="dweight",
    )
    diagnose(dbias, dy.sum(axis=(0, 2, 3)), what="dbias")
    check_backward(
        ex05.subsample_forward, ex05.subsample_backward, {"x": x, "weight": weight, "bias": bias}
    )


def test_model_with_subsampling(ex05):
    model = ex05.SubSamplingLeNet(rng())
    count = sum(p.size for p in model.params.values())
    assert count == 61_706 + 44, f"expected 61750 parameters, got {count}"
    for name in ("s2", "s4"):
        # A quarter of the sum of four: the network begins as average pooling.
        first = model.params[f"{name}.weight"]
        wrong = {"begin with coefficients of 1, four times an average": np.ones_like(first)}
        diagnose(first, np.full_like(first, 0.25), wrong, what=f"initial {name}.weight")
        bias = model.params[f"{name}.bias"]
        diagnose(bias, np.zeros_like(bias), what=f"initial {name}.bias")
    perturb(model.params)
    # Level 3's LeNet-5 has this network among its options.
    config = LeNet5Config("full", "trainable", "tanh", "linear")
    reference = LeNet5(config).double()
    weights = {name: p.copy() for name, p in model.params.items()}
    weights["c5.weight"] = weights["c5.weight"].reshape(120, 16, 5, 5)
    load_into(reference, weights)
    images, dy = rng().random((2, 1, 28, 28)), rng().standard_normal((2, 10))
    framed = F.pad(torch.from_numpy(images), (2, 2, 2, 2))
    wrong = {
        "leave out the tanh after S2 and S4": unsquashed(reference, framed, "s2", "s4"),
        "leave out the tanh after S2": unsquashed(reference, framed, "s2"),
        "leave out the tanh after S4": unsquashed(reference, framed, "s4"),
    }
    logits = reference(framed)
    logits.backward(torch.from_numpy(dy))
    diagnose(model.forward(images), logits, wrong, what="output of forward")
    grads = model.backward(dy)
    # From the output back: the first gradient that is wrong stands next to the mistake.
    for name, p in reversed(list(reference.named_parameters())):
        assert name in grads, f"backward returns no gradient for {name}"
        diagnose(np.reshape(grads[name], tuple(p.shape)), p.grad, what=f"gradient of {name}")


def unsquashed(reference, images, *layers):
    """What the network gives without the squashing after these layers."""
    faulty = copy.deepcopy(reference)
    for name in layers:
        getattr(faulty, name).activation = torch.nn.Identity()
    with torch.no_grad():
        return faulty(images)


# --- 06 the loss of LeNet-5


def rbf_case():
    generator = rng()
    codes = np.sign(generator.standard_normal((4, 7)))
    return generator.standard_normal((3, 7)), codes


def test_rbf_forward(ex06):
    x, codes = rbf_case()
    differences = x[:, None] - codes
    squared = np.square(differences).sum(axis=2)
    diagnose(
        ex06.rbf_forward(x, codes)[0],
        squared,
        {
            "take the distance, not its square": np.sqrt(squared),
            "average over the components": squared / 7,
            "halve it": squared / 2,
        },
        what="array of penalties",
    )


def test_rbf_backward(ex06):
    x, codes = rbf_case()
    _, cache = ex06.rbf_forward(x, codes)
    dy = rng().standard_normal((3, 4))
    differences = x[:, None] - codes
    want = 2 * (dy[:, :, None] * differences).sum(axis=1)
    diagnose(
        ex06.rbf_backward(dy, cache),
        want,
        {
            "forget the 2 of the square": want / 2,
            "have the sign of the codes' gradient": -want,
            "add the codes where they are subtracted": 2
            * (dy.sum(axis=1, keepdims=True) * x + dy @ codes),
            "leave out dy": 2 * differences.sum(axis=1),
        },
        what="dx",
    )


@pytest.mark.parametrize("j", [0.5, 5.0])
def test_map_loss_forward(ex06, j):
    penalties, targets = 8 * rng().random((3, 4)), np.array([2, 0, 3])
    right = penalties[np.arange(3), targets]
    sums = np.exp(-penalties).sum(axis=1)
    each = right + np.log(np.exp(-j) + sums)
    loss, _ = ex06.map_loss_forward(penalties, targets, j)
    diagnose(
        loss,
        each.mean(),
        {
            "sum over the batch where the mean is wanted": each.sum(),
            "leave out the rubbish class": (right + np.log(sums)).mean(),
            "use exp(+j)": (right + np.log(np.exp(j) + sums)).mean(),
            "return only the penalty of the right class": right.mean(),
            "use exp(+penalty)": (
                right + np.log(np.exp(-j) + np.exp(penalties).sum(axis=1))
            ).mean(),
        },
        what="loss",
    )


def test_map_loss_far_away(ex06):
    # np.exp(-5000) is 0, and its logarithm minus infinity, unless the exponents are shifted.
    penalties = np.array([[1e4, 2e4, 3e4], [5000.0, 1e4, 2e4]])
    loss, cache = ex06.map_loss_forward(penalties, np.array([1, 0]), 5000.0)
    diagnose(loss, (15_000 + np.log(2)) / 2, what="loss for penalties in the thousands")
    p = np.array([[0, 0, 0], [0.5, 0, 0]])
    diagnose(cache[0], p, what="p for penalties in the thousands")
    # exp(-j) is 0 too, and so is every other term.
    loss, _ = ex06.map_loss_forward(np.array([[1e4, 2e4, 3e4]]), np.array([1]), 1e4)
    diagnose(loss, 1e4 + np.log(2), what="loss with a j of ten thousand")


def test_map_loss_backward(ex06):
    penalties, targets = 5 * rng().random((3, 4)), np.array([2, 0, 3])
    _, cache = ex06.map_loss_forward(penalties, targets, 2.0)
    p = np.exp(-penalties)
    p /= np.exp(-2.0) + p.sum(axis=1, keepdims=True)
    want = (np.eye(4)[targets] - p) / 3
    softmax = np.exp(-penalties) / np.exp(-penalties).sum(axis=1, keepdims=True)
    diagnose(
        ex06.map_loss_backward(cache),
        want,
        {
            "forget to divide by B": 3 * want,
            "have the sign of logits, which penalties are the negative of": -want,
            "leave out the rubbish class": (np.eye(4)[targets] - softmax) / 3,
            "leave out the right class's own term": -p / 3,
        },
        what="dy",
    )
    check_backward(
        lambda y: ex06.map_loss_forward(y, targets, 2.0),
        ex06.map_loss_backward,
        {"penalties": penalties},
    )
