"""Judges the exercises: your files (skipped until you start) and the solutions."""

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from cifar_resnet_paper import CifarResNet, ResNetConfig
from resnet_paper import ResNet
from resnet_paper import ResNetConfig as ImageNetConfig
from utils.exercises import diagnose, exercise
from utils.gradient_check import GradientMismatch, check_backward
from utils.parity import perturb

ex01 = exercise(__file__, "ex01_gradient_analysis")
ex02 = exercise(__file__, "ex02_ablation_study")
ex03 = exercise(__file__, "ex03_preactivation")
ex04 = exercise(__file__, "ex04_zero_init")
ex05 = exercise(__file__, "ex05_se_block")
ex06 = exercise(__file__, "ex06_stochastic_depth")
ex07 = exercise(__file__, "ex07_feature_pyramid")


def rng():
    return np.random.default_rng(0)


def make_cifar(depth=8, residual=True):
    torch.manual_seed(0)
    model = CifarResNet(ResNetConfig(depth, residual)).double()
    perturb(model)
    return model


def images(size=3, side=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, side, side, generator=generator, dtype=torch.float64)


def small_timm(name="resnet18", **options):
    """timm's network with narrow stages, perturbed."""
    torch.manual_seed(0)
    layers = {"layers": (2, 1, 1, 1)} | options
    model = timm.create_model(name, num_classes=7, channels=(16, 24, 32, 40), **layers).double()
    perturb(model)
    return model


# --- 01 gradients by depth


@pytest.mark.parametrize("residual", [True, False])
def test_gradient_norms(ex01, residual):
    model, x, targets = make_cifar(14, residual).train(), images(), torch.tensor([1, 0, 2])
    reference = copy.deepcopy(model)
    # Block by block with autograd.grad, in place of hooks
    h, outputs = F.relu(reference.bn1(reference.conv1(x))), {}
    for stage in ("layer1", "layer2", "layer3"):
        for i, block in enumerate(getattr(reference, stage)):
            h = outputs[f"{stage}.{i}"] = block(h)
    loss = F.cross_entropy(reference.fc(h.mean(dim=(2, 3))), targets)
    grads = torch.autograd.grad(loss, list(outputs.values()))
    got = ex01.gradient_norms(model, x, targets)
    assert got is not None, "gradient_norms returned None: is a return statement missing?"
    assert list(got) == list(outputs), (
        f"expected the blocks {list(outputs)}, got {list(got)} (one name for all? see hint 3)"
    )
    diagnose(
        list(got.values()),
        [g.norm().item() for g in grads],
        {
            "take the square of the norm": [g.square().sum().item() for g in grads],
            "take the mean magnitude": [g.abs().mean().item() for g in grads],
            "take the root of the mean square": [g.square().mean().sqrt().item() for g in grads],
            "take the norm of the output instead of its gradient": [
                y.norm().item() for y in outputs.values()
            ],
        },
        what="list of norms",
    )
    assert not any(module._forward_hooks for module in model.modules()), (
        "a hook is still there afterwards: append what register_forward_hook returns to hooks"
    )
    model.zero_grad()
    again = ex01.gradient_norms(model, x, targets)
    diagnose(list(again.values()), list(got.values()), what="list of norms in a second call")


def test_growth_per_block(ex01):
    norms = {"a": 8.0, "b": 1.0, "c": 3.0, "d": 1.0}
    diagnose(
        ex01.growth_per_block(norms),
        2.0,
        {
            "go forward instead of back": 0.5,
            "take the k-th root where there are k - 1 ratios": 8 ** (1 / 4),
            "average the ratios instead of their logarithms": np.mean([8, 1 / 3, 3]),
            "divide by the number of ratios instead of taking a root": 8 / 3,
        },
        what="factor",
    )


# --- 02 ablation


def handed_on_but_for(block, right, x, *kept):
    """The output of ``right``, which hands on, if it kept some of the tensors of ``block``."""
    state = right.state_dict() | {name: block.state_dict()[name] for name in kept}
    changed = copy.deepcopy(right)
    changed.load_state_dict(state)
    with torch.no_grad():
        return changed(x)


@pytest.mark.parametrize("residual", [True, False])
def test_hand_on(ex02, residual):
    block = make_cifar(14, residual).layer2[1].eval()
    x = torch.rand(2, 32, 5, 4, dtype=torch.float64)
    untouched = copy.deepcopy(block)
    ex02.hand_on(block)
    root = (1 + block.bn1.eps) ** -0.5
    wrong = {"hand on nothing": torch.zeros_like(x)}
    if residual:
        right = copy.deepcopy(untouched)
        nn.init.zeros_(right.bn2.weight)
        nn.init.zeros_(right.bn2.bias)
        wrong |= {
            "let the branch hand x on too, so that it is doubled": 2 * x,
            "forget the bias of bn2": handed_on_but_for(untouched, right, x, "bn2.bias"),
            "forget the weight of bn2": handed_on_but_for(untouched, right, x, "bn2.weight"),
        }
    else:
        right = copy.deepcopy(untouched)
        for conv, norm in ((right.conv1, right.bn1), (right.conv2, right.bn2)):
            nn.init.dirac_(conv.weight)
            norm.reset_parameters()
            nn.init.constant_(norm.weight, 1 / root)
        wrong |= {
            f"forget {what}": handed_on_but_for(untouched, right, x, f"bn1.{name}", f"bn2.{name}")
            for name, what in {
                "running_mean": "the running means",
                "running_var": "the running variances",
                "weight": "the weights (gains) of the normalisations",
                "bias": "the biases of the normalisations",
            }.items()
        }
        wrong |= {
            "forget epsilon: a variance of 1 divides by the root of 1 + eps": x * root * root,
            "shift by one pixel (the middle of a 3x3 kernel is [1, 1])": F.pad(x, (1, 0, 1, 0))[
                ..., :-1, :-1
            ],
            "add up all channels (one kernel for each channel, zero for the others)": x.sum(
                dim=1, keepdim=True
            ).expand_as(x),
        }
    diagnose(block(x), x, wrong, tol=1e-12, what="output of a block that should hand on")


@pytest.mark.parametrize("residual", [True, False])
def test_deepen(ex02, residual):
    model = make_cifar(14, residual).eval()
    deep = ex02.deepen(model, 26)
    assert isinstance(deep, CifarResNet) and deep.config.depth == 26
    x = images()
    wrong = {}
    for name, part in {"conv1": model.conv1, "bn1": model.bn1, "fc": model.fc}.items():
        fresh = copy.deepcopy(model)
        getattr(fresh, name).load_state_dict(getattr(deep, name).state_dict())
        if any(not torch.equal(a, b) for a, b in zip(
            part.state_dict().values(), getattr(deep, name).state_dict().values(), strict=True
        )):  # fmt: skip
            wrong[f"forget to copy {name}"] = fresh(x)
    fresh = copy.deepcopy(model)
    for name, norm in fresh.named_modules():
        if isinstance(norm, nn.BatchNorm2d) and name.startswith("layer"):
            norm.reset_running_stats()
    wrong["copy the blocks' parameters, but forget their running statistics"] = fresh(x)
    diagnose(deep(x), model(x), wrong, what="logits of the deeper network")
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.state_dict().values(), make_cifar(14, residual).state_dict().values(), strict=True
        )
    ), "deepen changed the network it was given"


# --- 03 pre-activation


def preact_case(stride, Co):
    generator = rng()
    C = 3
    p, running = {}, {}
    for name, channels in (("bn1", C), ("bn2", Co)):
        p[f"{name}.weight"] = 1 + generator.random(channels)
        p[f"{name}.bias"] = generator.standard_normal(channels)
        running[f"{name}.running_mean"] = generator.standard_normal(channels)
        running[f"{name}.running_var"] = 0.5 + generator.random(channels)
    p["conv1.weight"] = 0.3 * generator.standard_normal((Co, C, 3, 3))
    p["conv2.weight"] = 0.3 * generator.standard_normal((Co, Co, 3, 3))
    return generator.standard_normal((2, C, 5, 4)), p, running


def torch_preact(x, p, running, stride, train, kind="right"):
    """The block and its usual relatives, from torch; differentiable."""

    def norm(h, name):
        stats = (torch.tensor(running[f"{name}.running_{s}"]) for s in ("mean", "var"))
        h = F.batch_norm(h, *stats, p[f"{name}.weight"], p[f"{name}.bias"], training=train)
        if kind == f"no relu backward after {name}":
            return h + (F.relu(h) - h).detach()  # ReLU forward, the identity backward
        return F.relu(h)

    first = norm(x, "bn1")
    h = F.conv2d(first, p["conv1.weight"], stride=stride, padding=1)
    h = F.conv2d(norm(h, "bn2"), p["conv2.weight"], padding=1)
    source = first if kind == "activated shortcut" else x
    seen = source[:, :, ::stride, ::stride]
    y = h + F.pad(seen, (0, 0, 0, 0, 0, h.shape[1] - x.shape[1]))
    if kind == "no shortcut":
        return h
    return F.relu(y) if kind == "last relu" else y


CASES = pytest.mark.parametrize(("stride", "Co"), [(1, 3), (2, 5)])


@CASES
@pytest.mark.parametrize("train", [True, False])
def test_preact_forward(ex03, stride, Co, train):
    x, p, running = preact_case(stride, Co)
    tensors = {name: torch.tensor(value) for name, value in p.items()}

    def want(kind="right"):
        return torch_preact(torch.tensor(x), tensors, running, stride, train, kind)

    results = {
        "put a ReLU after the sum, as in 2015": want("last relu"),
        "leave out the shortcut": want("no shortcut"),
        "take the shortcut after the first normalisation and ReLU": want("activated shortcut"),
    }
    right = want()
    kept = {name: value.copy() for name, value in running.items()}
    diagnose(ex03.preact_block_forward(x, p, kept, stride, train)[0], right, results, what="y")
    changed = any(not np.array_equal(kept[n], running[n]) for n in kept)
    assert changed == train, "the running statistics should change in training, and only then"


@CASES
@pytest.mark.parametrize("train", [True, False])
def test_preact_backward(ex03, stride, Co, train):
    x, p, running = preact_case(stride, Co)
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in p.items()}
    leaf = torch.tensor(x, requires_grad=True)
    y, cache = ex03.preact_block_forward(
        x, p, {n: v.copy() for n, v in running.items()}, stride, train
    )
    dy = np.random.default_rng(1).standard_normal(y.shape)
    want = torch_preact(leaf, leaves, running, stride, train)
    no_shortcut = torch_preact(leaf, leaves, running, stride, train, "no shortcut")
    (branch_only,) = torch.autograd.grad(no_shortcut, leaf, torch.tensor(dy), retain_graph=True)
    want.backward(torch.tensor(dy))
    dx, grads = ex03.preact_block_backward(dy, cache)
    mistakes = {
        f"forget relu_backward on the way to {bn}": torch.autograd.grad(
            torch_preact(leaf, leaves, running, stride, train, f"no relu backward after {bn}"),
            list(leaves.values()),
            torch.tensor(dy),
        )
        for bn in ("bn2", "bn1")
    }
    wrong = {
        "forget what comes back through the shortcut": branch_only,
        "forget what comes back through the branch": leaf.grad - branch_only,
    }
    if dy.shape == x.shape:
        wrong["subtract the shortcut's gradient"] = branch_only - torch.tensor(dy)
    # From the output back: the first gradient that is wrong stands next to the mistake.
    for name in (
        "conv2.weight",
        "bn2.weight",
        "bn2.bias",
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
    ):
        assert name in grads, f"backward returns no gradient for {name}"
        usual = {m: dict(zip(p, g, strict=True))[name] for m, g in mistakes.items()}
        diagnose(grads[name], leaves[name].grad, usual, what=f"gradient of {name}")
    diagnose(dx, leaf.grad, wrong, what="dx")
    names = list(p)

    def forward(x, *values):
        return ex03.preact_block_forward(
            x, dict(zip(names, values, strict=True)), running, stride, train
        )

    def backward(dy, cache):
        dx, g = ex03.preact_block_backward(dy, cache)
        return dx, *(g[name] for name in names)

    try:
        check_backward(forward, backward, {"x": x} | p)
    except GradientMismatch as error:
        raise AssertionError(str(error)) from None


# --- 04 zero init

FRESH = {
    "cifar": lambda: CifarResNet(ResNetConfig(14)),
    "basic": lambda: ResNet(ImageNetConfig((2, 1, 1, 1), False, classes=7)),
    "bottleneck": lambda: ResNet(ImageNetConfig((2, 1, 1, 1), True, classes=7)),
}


@pytest.mark.parametrize("kind", FRESH)
def test_zero_init_last(ex04, kind):
    torch.manual_seed(0)
    model = FRESH[kind]()
    before = {name: p.clone() for name, p in model.named_parameters()}
    ex04.zero_init_last(model)
    last = "bn3.weight" if kind == "bottleneck" else "bn2.weight"
    for name, p in model.named_parameters():
        stays = torch.equal(p, before[name])
        if name.startswith("layer") and name.endswith(last):
            assert not p.any(), f"{name} should be zero: it scales the whole branch"
        elif "downsample" in name:
            assert stays, f"{name} is on the shortcut: leave it"
        else:
            assert stays, f"{name} should stay as it was: only {last} ends a branch here"


@pytest.mark.parametrize("kind", FRESH)
def test_asleep_at_first(ex04, kind):
    torch.manual_seed(0)
    model = FRESH[kind]()
    last = "bn3" if kind == "bottleneck" else "bn2"
    for name, p in model.named_parameters():
        if name.startswith("layer") and name.endswith(f"{last}.weight"):
            nn.init.zeros_(p)
    side = 8 if kind == "cifar" else 34
    loss = F.cross_entropy(model(torch.randn(3, 3, side, side)), torch.tensor([1, 0, 2]))
    loss.backward()
    want = {name for name, p in model.named_parameters() if not p.grad.any()}
    got = ex04.asleep_at_first(model)
    assert got is not None, "asleep_at_first returned None: is a return statement missing?"
    extra, missing = sorted(got - want), sorted(want - got)
    if any(f"{last}.weight" in name for name in extra):
        raise AssertionError(
            f"{last}.weight is zero itself, but its gradient is not: eq. 5.11 does not contain it"
        )
    if any(f"{last}.bias" in name for name in extra):
        raise AssertionError(f"{last}.bias is added to every output: look at eq. 5.10 again")
    if any("downsample" in name for name in extra):
        raise AssertionError("downsample stands on the shortcut, which the zeros do not touch")
    assert not extra, f"these do get a gradient: {', '.join(extra)}"
    assert not missing, f"these get none, and are missing: {', '.join(missing)}"


# --- 05 squeeze and excitation


def test_squeeze_excite(ex05):
    torch.manual_seed(0)
    reference = timm.layers.SEModule(24).double()
    perturb(reference)
    module = ex05.SqueezeExcite(24).double()
    names = {n: tuple(p.shape) for n, p in reference.named_parameters()}
    got = {n: tuple(p.shape) for n, p in module.named_parameters()}
    assert got == names, f"expected the parameters {names}, got {got}"
    module.load_state_dict(reference.state_dict())
    x = torch.randn(2, 24, 5, 3, dtype=torch.float64)
    p = dict(reference.named_parameters())

    def gate(s, middle=torch.relu, last=torch.sigmoid):
        s = middle(F.conv2d(s, p["fc1.weight"], p["fc1.bias"]))
        return last(F.conv2d(s, p["fc2.weight"], p["fc2.bias"]))

    mean = x.mean(dim=(2, 3), keepdim=True)
    diagnose(
        module(x),
        reference(x),
        {
            "squeeze with the maximum instead of the mean": x * gate(x.amax((2, 3), keepdim=True)),
            "forget the ReLU between the two layers": x * gate(mean, middle=lambda s: s),
            "forget the sigmoid": x * gate(mean, last=lambda s: s),
            "return the weights without multiplying x by them": gate(mean).expand_as(x),
            "add the weights instead of multiplying by them": x + gate(mean),
            "leave out the squeeze, so that each place has weights of its own": x * gate(x),
        },
        what="y",
    )


@pytest.mark.parametrize("kind", ["seresnet18", "seresnet50"])
def test_add_se_gives_timms_own_network(ex05, kind):
    reference = small_timm(kind).eval()
    model = ex05.add_se(small_timm(kind.removeprefix("se")))
    assert model is not None, "add_se returned None: is the return statement gone?"
    want, got = (
        {name: tuple(value.shape) for name, value in net.state_dict().items()}
        for net in (reference, model)
    )
    differ = sorted(set(want) ^ set(got))[:4]
    assert not differ, f"names differ from {kind}'s: {differ} ..."
    for name, shape in want.items():
        assert got[name] == shape, (
            f"{name}: expected shape {shape}, got {got[name]}; "
            "se weighs the channels that come OUT of the branch"
        )
    model.double().load_state_dict(reference.state_dict())
    x = images(2, 64)
    diagnose(model.eval()(x), reference(x), what=f"output with {kind}'s weights")


# --- 06 stochastic depth


def test_drop_branch(ex06):
    torch.manual_seed(0)
    module, x = ex06.DropBranch(0.25), torch.rand(4000, 2, 3, 1) + 1
    y = module.train()(x)
    assert y is not None, "forward returned None: is a return statement missing?"
    ratio = y / x
    same = (ratio - ratio[:, :1, :1, :1]).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert same.all(), "one decision for each image: here parts of an image are kept, others not"
    factor = ratio[:, 0, 0, 0]
    values = sorted({round(v, 4) for v in factor.tolist()})
    assert len(values) > 1, "every image has the same factor: draw one decision for each image"
    assert values != [0, 1], "what is kept has to be divided by 1 - rate"
    assert values != [0, 4], "what is kept was divided by rate instead of 1 - rate"
    assert values != [0, 0.75], "what is kept was multiplied by 1 - rate instead of divided"
    assert len(values) == 2 and values == pytest.approx([0, 4 / 3], abs=1e-3), (
        f"expected images multiplied by 0 or 1.3333, got {values[:4]}"
    )
    dropped = (factor == 0).float().mean().item()
    assert abs(dropped - 0.75) > 0.05, "dropped with probability 1 - rate: it should be rate"
    assert abs(dropped - 0.25) < 0.05, f"expected a share of 0.25 dropped, got {dropped:.3f}"
    diagnose(module.eval()(x), x, what="output in eval mode, where nothing is dropped or divided")
    diagnose(ex06.DropBranch(0.0).train()(x), x, what="output at rate 0")


def test_rates_by_depth(ex06):
    diagnose(
        ex06.rates_by_depth(5, 0.4),
        [0, 0.1, 0.2, 0.3, 0.4],
        {
            "divide by the number of blocks, so that the last has less than the full rate": [
                0.4 * i / 5 for i in range(5)
            ],
            "begin with 1, as the paper does": [0.4 * i / 5 for i in range(1, 6)],
            "give every block the full rate": [0.4] * 5,
            "begin with the full rate and fall": [0.4, 0.3, 0.2, 0.1, 0],
        },
        what="list of rates",
    )


def test_add_stochastic_depth(ex06):
    reference = small_timm(drop_path_rate=0.3)
    plain = small_timm()
    model = ex06.add_stochastic_depth(copy.deepcopy(plain), 0.3)
    assert model is not None, "add_stochastic_depth returned None: is the return statement gone?"

    def blocks(net):
        return [b for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for b in stage]

    want = [0.0 if b.drop_path is None else b.drop_path.drop_prob for b in blocks(reference)]
    got = [getattr(b.drop_path, "rate", 0.0) for b in blocks(model)]
    diagnose(got, want, {"have the order of the blocks reversed": want[::-1]}, what="list of rates")
    x = images(2, 64)
    diagnose(model.eval()(x), plain.eval()(x), what="output in eval mode")
    # With a rate of nearly 1 in the last block, what comes out of it is ReLU of its shortcut.
    last, seen = blocks(model)[-1].train(), torch.randn(3, 32, 4, 4, dtype=torch.float64)
    last.drop_path.rate = 1 - 1e-12
    shortcut = F.relu(last.downsample(seen))
    diagnose(last(seen), shortcut, what="output of a block whose branch is dropped")


# --- 07 feature pyramid


def test_feature_pyramid(ex07):
    model = small_timm().eval()
    pyramid = ex07.FeaturePyramid(model, 6).double()
    reference = FeaturePyramidNetwork([16, 24, 32, 40], 6).double()
    perturb(reference)
    for i in range(4):
        for ours, theirs in (
            (pyramid.lateral[i], reference.inner_blocks[i][0]),
            (pyramid.output[i], reference.layer_blocks[i][0]),
        ):
            want, got = tuple(theirs.weight.shape), tuple(ours.weight.shape)
            assert got == want, f"expected a convolution with weights {want}, got {got}"
            assert ours.bias is not None, "the convolutions of the pyramid have a bias"
            ours.load_state_dict(theirs.state_dict())
    x = images(2, 72)  # 18, 9, 5 and 3 pixels: nothing is just doubled
    with torch.no_grad():
        h = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        maps = []
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            h = stage(h)
            maps.append(h)
        got = pyramid.eval().stages(x)
        assert len(got) == 4, f"expected four maps, got {len(got)}; the stem's is none of them"
        for name, a, b in zip(("layer1", "layer2", "layer3", "layer4"), got, maps, strict=True):
            diagnose(a, b, what=f"map of {name}")
        want = list(reference({str(i): m for i, m in enumerate(maps)}).values())
        lateral = [block[0](m) for block, m in zip(reference.inner_blocks, maps, strict=True)]
        alone = [layer[0](m) for layer, m in zip(reference.layer_blocks, lateral, strict=True)]
        one, smooth = list(lateral), list(lateral)
        for i in (2, 1, 0):
            size = lateral[i].shape[-2:]
            one[i] = lateral[i] + F.interpolate(lateral[i + 1], size=size)
            smooth[i] = lateral[i] + F.interpolate(smooth[i + 1], size=size, mode="bilinear")
        for i, y in enumerate(pyramid(x)):
            wrong = {
                "forget to add the deeper maps": alone[i],
                "add only the next deeper map, not all that lie below it": (
                    reference.layer_blocks[i][0](one[i])
                ),
                "enlarge bilinearly instead of with the nearest pixel": (
                    reference.layer_blocks[i][0](smooth[i])
                ),
            }
            diagnose(y, want[i], wrong, what=f"output {i}")
