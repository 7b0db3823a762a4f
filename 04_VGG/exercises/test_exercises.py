"""Judges the exercises: your files (skipped until you start) and the solutions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conv_numpy import conv2d_forward
from utils.exercises import diagnose, exercise
from utils.gradient_check import check_backward
from utils.parity import perturb
from utils.weights import load_into
from vgg_dense_paper import score_map
from vgg_numpy import VGG as NumpyVGG
from vgg_numpy import VGGConfig as NumpyConfig
from vgg_paper import VGG, VGGConfig

ex01 = exercise(__file__, "ex01_stacked_kernels")
ex02 = exercise(__file__, "ex02_feature_visualization")
ex03 = exercise(__file__, "ex03_transfer_learning")
ex04 = exercise(__file__, "ex04_fc_to_convolution")
ex05 = exercise(__file__, "ex05_global_average_pooling")

SMALL = {"width": 2, "hidden": 6, "classes": 5}


def rng():
    return np.random.default_rng(0)


def paper_model(**options):
    torch.manual_seed(0)
    model = VGG(VGGConfig(image_size=32, **(SMALL | options))).double()
    perturb(model)
    return model.eval()


def images(size=3, side=32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, 3, side, side, generator=generator, dtype=torch.float64)


# --- 01 stacked kernels


@pytest.mark.parametrize(("layers", "k"), [(1, 5), (2, 3), (3, 3), (4, 5)])
def test_field(ex01, layers, k):
    diagnose(
        ex01.field(layers, k),
        1 + layers * (k - 1),
        {
            "add a whole kernel with each layer": layers * k,
            "forget the pixel in the middle, from which you start": layers * (k - 1),
            "take the kernel of a single layer": k,
            "add 2 with each layer, as if every kernel were 3x3": k + 2 * (layers - 1),
        },
        what="field",
    )


@pytest.mark.parametrize(("layers", "k"), [(2, 3), (3, 3), (4, 5)])
def test_weights(ex01, layers, k):
    C, r = 6, 1 + layers * (k - 1)
    diagnose(
        ex01.weights_of_stack(layers, k, C),
        layers * k * k * C * C,
        {
            "count one kernel a layer, not C of them": layers * k * k * C,
            "forget that each kernel has C channels and each layer C kernels": layers * k * k,
            "take k instead of k squared": layers * k * C * C,
            "count a single layer": k * k * C * C,
            "count the biases": layers * (k * k * C * C + C),
        },
        what="number of weights of the stack",
    )
    diagnose(
        ex01.weights_of_one(layers, k, C),
        r * r * C * C,
        {
            "take kernels of the stack's size": k * k * C * C,
            "take r instead of r squared": r * C * C,
            "count one kernel, not C of them": r * r * C,
            "multiply by the number of layers": layers * r * r * C * C,
            "take layers times k for the field, instead of (4.1)": (layers * k * C) ** 2,
        },
        what="number of weights of the one layer",
    )


def test_eighty_one_per_cent_more(ex01):
    more = ex01.weights_of_one(3, 3, 64) / ex01.weights_of_stack(3, 3, 64) - 1
    diagnose(round(100 * more), 81, what="percentage of section 2.3")


def test_multiply_adds(ex01):
    weights = 3 * 9 * 36
    diagnose(
        ex01.multiply_adds(3, 3, 6, 10, 7),
        70 * weights,
        {
            "forget the places": weights,
            "take the height alone": 10 * weights,
            "count a single layer": 70 * weights // 3,
            "take only the places that a kernel without padding has": 8 * 5 * weights,
        },
        what="number of multiply-adds",
    )


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (1, 3), (3, 1), (2, 4)])
def test_merged_kernel(ex01, k1, k2):
    first, second = rng().standard_normal((4, 3, k1, k1)), rng().standard_normal((2, 4, k2, k2))
    want, overwritten, flipped = (np.zeros((2, 3, k1 + k2 - 1, k1 + k2 - 1)) for _ in range(3))
    for u in range(k2):
        for v in range(k2):
            here = np.s_[:, :, u : u + k1, v : v + k1]
            share = np.einsum("om,mcij->ocij", second[:, :, u, v], first)
            want[here] += share
            overwritten[here] = share
            flipped[here] += np.einsum("om,mcij->ocij", second[:, :, k2 - 1 - u, k2 - 1 - v], first)
    wrong = {
        "write with = where copies overlap and += is needed": overwritten,
        "flip the second kernel": flipped,
    }
    # With a 1x1 kernel some mistakes change nothing.
    wrong = {name: kernel for name, kernel in wrong.items() if not np.allclose(kernel, want)}
    diagnose(ex01.merge_kernels(first.copy(), second.copy()), want, wrong, what="merged kernel")
    x = rng().standard_normal((2, 3, 9, 8))
    two, _ = conv2d_forward(conv2d_forward(x, first, None)[0], second, None)
    one, _ = conv2d_forward(x, ex01.merge_kernels(first, second), None)
    diagnose(one, two, what="result of the merged kernel")


# --- 02 feature visualization


@pytest.mark.parametrize("layer", ["relu3_2", "conv2_1"])
def test_maps_and_gradients(ex02, layer):
    model, x, labels = paper_model(), images(), torch.tensor([4, 0, 2])
    found = model.features_at(x, [layer, "fc8"])
    of_labels = found["fc8"][torch.arange(3), labels]

    def gradient(y):
        return torch.autograd.grad(y, found[layer], retain_graph=True)[0]

    want = gradient(of_labels.sum())
    maps, gradients = ex02.maps_and_gradients(model, x, labels, layer)
    diagnose(maps.detach(), found[layer].detach(), what="array of maps")
    diagnose(
        gradients,
        want,
        {
            "average over the batch": want / 3,
            "take all logits instead of those of the labels": gradient(found["fc8"].sum()),
            "take the largest logit of each image, whatever its label": gradient(
                found["fc8"].amax(dim=1).sum()
            ),
            "take the probabilities instead of the logits": gradient(
                found["fc8"].softmax(dim=1)[torch.arange(3), labels].sum()
            ),
            "take the loss, whose gradient points the other way": gradient(
                F.cross_entropy(found["fc8"], labels)
            ),
            "write [:, labels], which takes the logits of all the labels for each image": gradient(
                found["fc8"][:, labels].sum()
            ),
            "take the logit of the first label for all images": gradient(
                found["fc8"][:, labels[0]].sum()
            ),
        },
        what="array of gradients",
    )


def test_grad_cam(ex02):
    maps = torch.from_numpy(rng().standard_normal((2, 3, 4, 5)))
    gradients = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 4, 5)))
    w = gradients.mean(dim=(2, 3), keepdim=True)
    total = (w * maps).sum(dim=1)
    diagnose(
        ex02.grad_cam(maps.clone(), gradients.clone()),
        total.clamp(min=0),
        {
            "keep what speaks against the class": total,
            "cut each map off before you add them up": (w * maps).clamp(min=0).sum(dim=1),
            "sum the gradient over the places instead of averaging it": 20 * total.clamp(min=0),
            "weigh each pixel by its own gradient": (gradients * maps).sum(dim=1).clamp(min=0),
            "average over the maps instead of adding": total.clamp(min=0) / 3,
            "leave out the maps": gradients.mean(dim=1).clamp(min=0),
            "average the gradient over the batch too": (
                (gradients.mean(dim=(0, 2, 3), keepdim=True) * maps).sum(dim=1).clamp(min=0)
            ),
            "take the magnitude instead of the positive part": total.abs(),
            "leave out the maps whose weight is negative": (
                (w.clamp(min=0) * maps).sum(dim=1).clamp(min=0)
            ),
        },
        what="map",
    )


def climbed(
    model, x, labels, steps, lr, decay, sign=1.0, batch=1.0, probabilities=False, unit=False
):
    """Ascent as eq. 4.24 has it, or with a mistake."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        logits = model(x).softmax(dim=1) if probabilities else model(x)
        (gradient,) = torch.autograd.grad(logits[torch.arange(len(x)), labels].sum(), x)
        length = gradient.norm() if unit else batch
        x = x + lr * (sign * gradient / length - decay * x)
    return x.detach()


def test_climb(ex02):
    model, start, labels = paper_model(), images(), torch.tensor([4, 0, 2])
    kept = start.clone()
    got = ex02.climb(model, start, labels, steps=3, lr=0.5, decay=0.2)
    options = {"steps": 3, "lr": 0.5, "decay": 0.2}
    diagnose(
        got,
        climbed(model, start, labels, **options),
        {
            "go down instead of up": climbed(model, start, labels, **options, sign=-1.0),
            "forget the decay": climbed(model, start, labels, 3, 0.5, 0.0),
            "add the decay instead of taking it away": climbed(model, start, labels, 3, 0.5, -0.2),
            "leave the learning rate out of the decay": climbed(model, start, labels, 3, 0.5, 0.4),
            "average over the batch": climbed(model, start, labels, **options, batch=3.0),
            "climb the probabilities instead of the logits": climbed(
                model, start, labels, **options, probabilities=True
            ),
            "divide the gradient by its length": climbed(
                model, start, labels, **options, unit=True
            ),
            "make one step only": climbed(model, start, labels, 1, 0.5, 0.2),
        },
        what="array of images",
    )
    assert torch.equal(start, kept), "climb changed the images that it was given"


def test_climbing_raises_the_logits(ex02):
    model, labels = paper_model(), torch.tensor([4, 0, 2])
    start = torch.zeros(3, 3, 32, 32, dtype=torch.float64)
    before = model(start)[torch.arange(3), labels]
    after = model(ex02.climb(model, start, labels, 20, 0.1, 0.0))[torch.arange(3), labels]
    assert (after > before).all(), "the logits of the labels did not rise"


# --- 03 transfer learning


def transfer_model():
    model = paper_model(batch_norm=True)
    return model, {name: value.clone() for name, value in model.state_dict().items()}


def test_new_head(ex03):
    model, before = transfer_model()
    ex03.new_head(model, 3)
    assert len(model.classifier) == 7, "expected a new fc8 in the place of the old, not behind it"
    last = model.classifier[6]
    assert isinstance(last, nn.Linear), f"expected a linear layer as fc8, got {last}"
    assert last.weight.shape == (3, 6), (
        "expected an fc8 whose weight is (3, 6), 3 classes from the 6 inputs that the old one had; "
        f"got {tuple(last.weight.shape)}"
    )
    assert last.out_features == 3, f"expected 3 outputs, got {last.out_features}"
    for name, value in model.state_dict().items():
        if not name.startswith("classifier.6"):
            assert torch.equal(value, before[name]), f"new_head changed {name}"
    assert last.weight.requires_grad, "the new layer does not ask for a gradient"


def test_freeze_features(ex03):
    model, _ = transfer_model()
    ex03.freeze_features(model)
    for name, parameter in model.named_parameters():
        frozen = name.startswith("features")
        if frozen and parameter.requires_grad:
            raise AssertionError(f"{name} still asks for a gradient")
        if not frozen and not parameter.requires_grad:
            raise AssertionError(f"{name} asks for no gradient any more: freeze the features alone")


def test_train_mode_leaves_the_running_statistics_alone(ex03):
    model, before = transfer_model()
    ex03.freeze_features(model)
    ex03.train_mode(model)
    model(images(4))
    for name, value in model.state_dict().items():
        if not torch.equal(value, before[name]):
            raise AssertionError(
                f"{name} moved when a batch passed, as it does if you put the whole model into "
                "training mode: the features belong in eval mode"
            )
    if not (model.classifier[2].training and model.classifier[5].training):
        raise AssertionError("dropout is off: the classifier belongs in training mode")


def test_extract(ex03):
    model, before = transfer_model()
    model.train()  # as training left it
    x = images(4)
    got = ex03.extract(model, x)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        maps = model.eval().features(x)
        for name, value in before.items():
            model.state_dict()[name].copy_(value)
        in_training = model.train().features(x).flatten(start_dim=1)
    diagnose(
        got.detach(),
        maps.flatten(start_dim=1),
        {
            "leave batch normalisation in training mode": in_training,
            "go on through the classifier": model.eval().classifier(maps.flatten(1)).detach(),
        },
        what="array of features",
    )
    assert not got.requires_grad, "the result drags a graph along: use torch.no_grad()"
    assert all(torch.equal(after[n], before[n]) for n in before), "extract moved a running mean"


# --- 04 linear layers as convolutions


def numpy_model(side=64):
    model = NumpyVGG(NumpyConfig("A", image_size=side, **SMALL), rng())
    perturb(model.params)
    return model


@pytest.mark.parametrize(("M", "C", "k"), [(5, 4, 3), (6, 3, 1), (2, 6, 2)])
def test_linear_to_kernels(ex04, M, C, k):
    weight = rng().standard_normal((M, C * k * k))
    want = weight.reshape(M, C, k, k)
    wrong = {
        "read the maps as (rows, columns, C)": weight.reshape(M, k, k, C).transpose(0, 3, 1, 2),
        "exchange rows and columns": want.transpose(0, 1, 3, 2),
        "flip the kernels": want[:, :, ::-1, ::-1],
    }
    wrong = {name: kernels for name, kernels in wrong.items() if not np.array_equal(kernels, want)}
    diagnose(ex04.linear_to_kernels(weight, C), want, wrong, what="array of kernels")


@pytest.mark.parametrize(("H", "W"), [(64, 64), (96, 130)])
def test_score_map(ex04, H, W):
    model, x = numpy_model(), rng().random((2, 3, H, W))
    reference = VGG(VGGConfig("A", image_size=64, **SMALL)).double().eval()
    load_into(reference, model.params)
    want = score_map(reference, torch.from_numpy(x)).detach()
    no_relu = reference.features(torch.from_numpy(x))
    relu_at_the_end = want.clamp(min=0)
    for place in (0, 3, 6):
        layer = reference.classifier[place]
        kernels = (
            layer.weight.reshape(len(layer.weight), no_relu.shape[1], 2, 2)
            if place == 0
            else layer.weight[:, :, None, None]
        )
        no_relu = F.conv2d(no_relu, kernels, layer.bias)
    diagnose(
        ex04.score_map(model, x),
        want,
        {
            "leave out the ReLUs between the layers": no_relu,
            "put a ReLU after the last layer too": relu_at_the_end,
        },
        what="score map",
    )
    if (H, W) == (64, 64):
        diagnose(ex04.score_map(model, x)[:, :, 0, 0], model.forward(x), what="the one place")


def test_mean_scores(ex04):
    scores = rng().standard_normal((2, 5, 3, 4))
    diagnose(
        ex04.mean_scores(scores),
        scores.mean(axis=(2, 3)),
        {
            "add instead of averaging": scores.sum(axis=(2, 3)),
            "take the largest": scores.max(axis=(2, 3)),
            "take the first place alone": scores[:, :, 0, 0],
            "average over the classes": scores.mean(axis=1),
            "average over the rows alone": scores.mean(axis=2),
        },
        what="array of logits",
    )


# --- 05 global average pooling


def test_global_avg_pool_forward(ex05):
    x = rng().standard_normal((2, 3, 4, 5))
    diagnose(
        ex05.global_avg_pool_forward(x)[0],
        x.mean(axis=(2, 3)),
        {
            "add instead of averaging": x.sum(axis=(2, 3)),
            "take the largest": x.max(axis=(2, 3)),
            "average over the channels": x.mean(axis=1),
        },
        what="y",
    )


def test_global_avg_pool_backward(ex05):
    x = rng().standard_normal((2, 3, 4, 5))
    _, cache = ex05.global_avg_pool_forward(x)
    dy = rng().standard_normal((2, 3))
    spread = np.broadcast_to(dy[:, :, None, None], x.shape)
    diagnose(
        ex05.global_avg_pool_backward(dy, cache),
        spread / 20,
        {
            "forget to divide by H*W": spread,
            "divide by H alone": spread / 4,
            "divide by W alone": spread / 5,
            "divide by B too": spread / 40,
            "divide by all of C*H*W": spread / 60,
        },
        what="dx",
    )
    check_backward(ex05.global_avg_pool_forward, ex05.global_avg_pool_backward, {"x": x})


@pytest.mark.parametrize("side", [32, 64])
def test_model_with_global_average_pooling(ex05, side):
    config = NumpyConfig("A", image_size=side, **SMALL)
    model = ex05.GapVGG(config, rng())
    theirs = VGG(VGGConfig("A", image_size=side, **SMALL)).features
    reference = nn.Sequential(theirs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    reference = reference.double()
    ours = {"0": "features", "3": "classifier.0"}

    def our_name(name):
        first, rest = name.split(".", 1)
        return f"{ours[first]}.{rest}"

    names = {our_name(name): p for name, p in reference.named_parameters()}
    left = sorted(n for n in model.params if n not in names)
    assert not left, f"expected no {', '.join(left)} any more"
    lacking = sorted(n for n in names if n not in model.params)
    assert not lacking, f"params lacks {', '.join(lacking)}"
    for name, p in names.items():
        diagnose(model.params[name].shape, tuple(p.shape), what=f"shape of {name}")
    perturb(model.params)
    load_into(names, model.params)
    x, dy = rng().random((2, 3, side, side)), rng().standard_normal((2, 5))
    logits = reference(torch.from_numpy(x))
    logits.backward(torch.from_numpy(dy))
    diagnose(model.forward(x), logits.detach(), what="output of forward")
    grads = model.backward(dy)
    # From the output back: the first gradient that is wrong stands next to the mistake.
    for name, p in reversed(list(names.items())):
        assert name in grads, f"backward returns no gradient for {name}"
        diagnose(grads[name], p.grad, what=f"gradient of {name}")
