"""Tests of level 3: equal to levels 1 and 2, to torchvision and to timm, and to the paper's tables.

A fresh timm ResNet has zeros in the last batch normalisation of each block, so that its branches
could be anything. Every comparison perturbs all parameters and running statistics first.
"""

import copy
from unittest import mock

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.models import resnet as timm_resnet
from torch import nn
from torchvision.models import resnet as torchvision_resnet
from torchvision.transforms import functional as transforms

import cifar_resnet_paper as cifar
import resnet_lowlevel as low
import resnet_numpy as np_level
import resnet_paper
from cifar_resnet_paper import CifarResNet, augment, paper_schedule
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD
from resnet_paper import (
    ResNet,
    ResNetConfig,
    ZeroPaddedShortcut,
    from_pretrained,
    multiply_adds,
    ten_crop,
    ten_crop_probabilities,
)
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_same,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch

LIBRARIES = {"torchvision": torchvision_resnet, "timm": timm_resnet}
TRAIN = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


def make_batch(seed=0, size=3, side=8, classes=10):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, side, side + 1, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (size,), generator=generator)


def step(model, batch, train):
    """Logits, loss and gradients of one pass; in training the running statistics move."""
    model.train(train)
    model.zero_grad()
    logits = model(batch[0])
    loss = F.cross_entropy(logits, batch[1])
    loss.backward()
    return Result(logits, loss, {name: p.grad.clone() for name, p in model.named_parameters()})


def buffers(model):
    return dict(model.named_buffers())


def compare(model, reference, train, batch):
    """Outputs, gradients and, afterwards, every running statistic."""
    assert set(model.state_dict()) == set(reference.state_dict())
    assert_parity(step(model, batch, train), step(reference, batch, train))
    assert_same(buffers(model), buffers(reference), what="buffer")


# --- the CIFAR family across levels


def make_cifar(residual=True, depth=8):
    torch.manual_seed(0)
    model = CifarResNet(cifar.ResNetConfig(depth, residual)).double()
    perturb(model)
    return model


def numpy_model(model):
    config = np_level.ResNetConfig(model.config.depth, model.config.residual)
    reference = np_level.ResNet(config, np.random.default_rng(0))
    load_into(reference.state(), model)
    return reference


def numpy_step(reference, batch, train):
    logits = reference.forward(batch[0].numpy(), train)
    loss, cache = softmax_cross_entropy_forward(logits, batch[1].numpy())
    return Result(logits, loss, reference.backward(softmax_cross_entropy_backward(cache)))


@TRAIN
@pytest.mark.parametrize("residual", [True, False])
def test_equals_levels_1_and_2(residual, train):
    """Two blocks a stage: with one, a stride at the wrong block would not show."""
    model, batch = make_cifar(residual, depth=14), make_batch()
    one, state = numpy_model(model), to_torch(model)
    parameters = {name for name, _ in model.named_parameters()}
    assert set(one.state()) == set(state)
    params = {n: v.requires_grad_() for n, v in state.items() if n in parameters}
    two = {n: v for n, v in state.items() if n not in parameters}
    config = low.ResNetConfig(14, residual)
    logits = low.forward(params, two, batch[0], config, train)
    loss = low.cross_entropy(logits, batch[1])
    loss.backward()
    got = step(model, batch, train)
    assert_parity(got, numpy_step(one, batch, train))
    assert_parity(got, Result(logits, loss, {name: p.grad for name, p in params.items()}))
    assert_same(buffers(model), one.buffers, what="buffer")
    assert_same(buffers(model), two, what="buffer")


def test_ten_steps_equal_level_1():
    model = make_cifar()
    reference = numpy_model(model)
    optimizer = cifar.paper_optimizer(model.parameters(), lr=0.05)
    numpy_optimizer = SGD(reference.params, lr=0.05, momentum=0.9, weight_decay=0.0001)
    losses, numpy_losses = [], []
    for i in range(10):
        batch = make_batch(i, size=8)
        losses.append(step(model, batch, True).loss)
        optimizer.step()
        want = numpy_step(reference, batch, True)
        numpy_optimizer.step(want.grads)
        numpy_losses.append(want.loss)
    assert_trajectory(losses, numpy_losses)
    assert_same(buffers(model), reference.buffers, what="buffer")


# --- the CIFAR family from the libraries' blocks (neither has the networks themselves)


class LibraryCifar(nn.Module):
    """Section 4.2 put together from torchvision's or timm's BasicBlock."""

    def __init__(self, library, depth=8):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        C = 16
        for stage, Co in enumerate((16, 32, 64), start=1):
            blocks = []
            for i in range((depth - 2) // 6):
                stride = 2 if i == 0 and stage > 1 else 1
                shortcut = ZeroPaddedShortcut(Co, stride) if Co != C else None
                blocks.append(LIBRARIES[library].BasicBlock(C, Co, stride, shortcut))
                C = Co
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@TRAIN
@pytest.mark.parametrize("library", LIBRARIES)
def test_cifar_equals_the_libraries_blocks(library, train):
    model = make_cifar()
    reference = LibraryCifar(library).double()
    load_into(reference, model)
    compare(model, reference, train, make_batch())


# --- the ImageNet family against torchvision and timm

SMALL = {"basic": ((2, 1, 1, 1), False), "bottleneck": ((2, 1, 1, 1), True)}


NARROW = (16, 24, 32, 40)  # timm takes other widths than 64 to 512, which saves time


class Silent(nn.Module):
    def forward(self, x):
        return 0.0


def give_shortcuts(reference, kind):
    """Give each block of a library's network, which has option B, another one of Table 3."""
    for block in (b for i in range(1, 5) for b in getattr(reference, f"layer{i}")):
        last = block.bn3 if hasattr(block, "bn3") else block.bn2
        C, Co = block.conv1.in_channels, last.num_features
        if kind == "none":
            block.downsample = Silent()
        elif kind == "A" and block.downsample is not None:
            stride, _ = block.downsample[0].stride
            block.downsample = ZeroPaddedShortcut(Co, stride)
        elif kind == "C" and block.downsample is None:
            block.downsample = nn.Sequential(nn.Conv2d(C, Co, 1, bias=False), nn.BatchNorm2d(Co))


def imagenet_pair(library, kind="bottleneck", **options):
    """Our network and the library's, of one block a stage (two in the first), perturbed alike."""
    layers, bottleneck = SMALL[kind]
    source = LIBRARIES[library]
    block = source.Bottleneck if bottleneck else source.BasicBlock
    torch.manual_seed(1)
    narrow = library == "timm"
    reference = source.ResNet(block, layers, 7, **({"channels": NARROW} if narrow else {}))
    give_shortcuts(reference, options.get("shortcut", "B"))
    reference = reference.double()
    perturb(reference, scale=0.05)
    config = {"version": "v1.5", "shortcut": "B"} | options
    widths = NARROW if narrow else resnet_paper.WIDTHS
    with torch.device("meta"), mock.patch.object(resnet_paper, "WIDTHS", widths):
        model = ResNet(ResNetConfig(layers, bottleneck, classes=7, **config))
    model = model.to_empty(device="cpu").double()
    load_into(model, reference)
    return model, reference


# Odd sizes, so that rounding shows; the last stage still has several pixels.
IMAGES = {"size": 2, "side": 34, "classes": 7}


@TRAIN
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("library", LIBRARIES)
def test_imagenet_family_equals_the_library(library, kind, train):
    compare(*imagenet_pair(library, kind), train, make_batch(**IMAGES))


@TRAIN
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("shortcut", ["A", "C", "none"])
def test_the_other_shortcuts_equal_the_librarys_blocks_with_them(shortcut, kind, train):
    compare(*imagenet_pair("timm", kind, shortcut=shortcut), train, make_batch(**IMAGES))


@pytest.mark.parametrize("depth", resnet_paper.LAYERS)
def test_every_published_network_has_the_names_and_shapes_of_both_libraries(depth):
    with torch.device("meta"):
        ours = ResNet(ResNetConfig.published(depth, "v1.5")).state_dict()
        theirs = torchvision.models.get_model(f"resnet{depth}").state_dict()
        timms = timm.create_model(f"resnet{depth}", device="meta").state_dict()
    for reference in (theirs, timms):
        assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in reference.items()}


def stride_in_the_1x1(model):
    model.layer2[0].conv1.stride, model.layer2[0].conv2.stride = (2, 2), (1, 1)


def wrong_epsilon(model):
    model.bn1.eps = 1e-3


def relu_after_the_branch(model):
    block = model.layer1[1]

    def forward(x):
        branch = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))))
        return F.relu(F.relu(block.bn3(block.conv3(branch))) + x)

    block.forward = forward


def forgotten_shortcut(model):
    model.layer1[1].residual = False


@pytest.mark.parametrize(
    "fault", [stride_in_the_1x1, wrong_epsilon, relu_after_the_branch, forgotten_shortcut]
)
def test_sabotage_is_noticed(fault):
    model, reference = imagenet_pair("timm")
    batch = make_batch(**IMAGES)
    compare(model, reference, True, batch)
    fault(model)
    with pytest.raises(ParityError, match="outputs"):
        compare(model, reference, True, batch)


def other_momentum(model):
    model.layer1[0].bn2.momentum = 0.2


def test_a_sabotaged_running_statistic_is_noticed_by_the_buffers_alone():
    model, reference = imagenet_pair("timm")
    batch = make_batch(**IMAGES)
    compare(model, reference, True, batch)
    other_momentum(model)
    assert_parity(step(model, batch, True), step(reference, batch, True))
    with pytest.raises(ParityError, match="buffer layer1.0.bn2.running_mean"):
        assert_same(buffers(model), buffers(reference), what="buffer")


def test_a_fresh_timm_model_hides_a_scrambled_branch():
    """Why everything is perturbed: zeros in the last gain of a block silence its branch."""
    torch.manual_seed(0)
    fresh = timm_resnet.ResNet(timm_resnet.BasicBlock, (2, 1, 1, 1), num_classes=7).double()
    scrambled = copy.deepcopy(fresh)
    nn.init.normal_(scrambled.layer1[1].conv1.weight)
    x = make_batch(**IMAGES)[0]
    assert torch.equal(fresh(x), scrambled(x))
    perturb(fresh)
    perturb(scrambled)
    assert max_difference(fresh(x), scrambled(x)) > 1e-3


@pytest.mark.parametrize("library", LIBRARIES)
def test_from_pretrained_takes_the_librarys_weights(library, monkeypatch):
    """Without a network: the library's function gives a network with random weights instead."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18()
    perturb(theirs, scale=0.01)  # with more, the maps grow until a wrong bias is lost in rounding

    wanted = {"weights": "DEFAULT"} if library == "torchvision" else {"pretrained": True}

    def give(name, **options):
        assert name == "resnet18" and options == wanted
        return theirs

    monkeypatch.setattr(torchvision.models, "get_model", give)
    monkeypatch.setattr(timm, "create_model", give)
    model = from_pretrained(18, library)
    assert not model.training and model.config.version == "v1.5"
    assert_same(model, theirs, tol=0.0)
    x = torch.randn(2, 3, 64, 64)
    assert max_difference(model(x), theirs.eval()(x)) < 1e-5


# --- versions and shortcuts


def test_versions_differ_in_the_place_of_the_stride_alone():
    model, reference = imagenet_pair("timm")
    paper, _ = imagenet_pair("timm", version="v1")
    load_into(paper, reference)
    x = make_batch(**IMAGES)[0]
    assert max_difference(paper(x), model(x)) > 1e-3
    assert (paper.layer2[0].conv1.stride, paper.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (model.layer2[0].conv1.stride, model.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    shapes = [{n: m.shape for n, m in net.eval().stages(x).items()} for net in (paper, model)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("shortcut", "projections"), [("A", 0), ("B", 4), ("C", 16), ("none", 0)])
def test_shortcuts_of_table_3(shortcut, projections):
    with torch.device("meta"):
        model = ResNet(ResNetConfig.published(50, shortcut=shortcut))
        y = model.eval()(torch.zeros(2, 3, 64, 64))
    assert y.shape == (2, 1000)
    names = [n for n, _ in model.named_parameters() if n.endswith("downsample.0.weight")]
    assert len(names) == projections


def test_option_a_shortcut_equals_level_1():
    x = make_batch(side=7)[0]
    for stride, channels in ((1, 3), (2, 3), (2, 6)):
        want, _ = np_level.zero_padded_shortcut_forward(x.numpy(), channels, stride)
        assert np.array_equal(ZeroPaddedShortcut(channels, stride)(x).numpy(), want)


# --- the paper's figures

PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
# Table 1's last row; its 18 and 34 layers have shortcuts of option A.
FLOPS = {18: (1.8, "A"), 34: (3.6, "A"), 50: (3.8, "B"), 101: (7.6, "B"), 152: (11.3, "B")}


@pytest.mark.parametrize(("depth", "count"), PARAMETERS.items())
def test_parameter_counts(depth, count):
    with torch.device("meta"):
        model = ResNet(ResNetConfig.published(depth))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("depth", "row"), FLOPS.items())
def test_multiply_adds_of_table_1(depth, row):
    printed, shortcut = row
    with torch.device("meta"):
        counted = multiply_adds(ResNet(ResNetConfig.published(depth, shortcut=shortcut)))
    # 50 layers count 3.86; the paper prints 3.8. All others are rounded as usual.
    assert abs(counted / 1e9 - printed) < (0.06 if depth == 50 else 0.05)


def test_multiply_adds_of_the_version():
    with torch.device("meta"):
        counts = [
            multiply_adds(ResNet(ResNetConfig.published(50, version)))
            for version in resnet_paper.VERSIONS
        ]
    assert counts == [3_857_973_248, 4_089_184_256]


@pytest.mark.parametrize("train", [True, False])
def test_multiply_adds_by_hand(train):
    layer = nn.Sequential(nn.Conv2d(3, 4, (5, 2), groups=1), nn.Flatten(), nn.Linear(4 * 2 * 5, 7))
    layer.train(train)
    assert multiply_adds(layer, (3, 6, 6)) == (4 * 2 * 5) * (3 * 5 * 2) + 7 * (4 * 2 * 5)
    # The network is handed back as it came.
    assert all(m.training == train and not m._forward_hooks for m in layer.modules())


def test_multiply_adds_of_groups():
    assert multiply_adds(nn.Conv2d(6, 4, 3, groups=2), (6, 5, 5)) == (4 * 3 * 3) * (3 * 3 * 3)


@pytest.mark.parametrize("depth", resnet_paper.LAYERS)
def test_output_sizes_of_table_1(depth):
    with torch.device("meta"):
        model = ResNet(ResNetConfig.published(depth)).eval()
        sizes = {
            name: tuple(m.shape[1:])
            for name, m in model.stages(torch.zeros(1, 3, 224, 224)).items()
        }
    wide = 4 if depth >= 50 else 1
    assert sizes == {
        "conv1": (64, 112, 112),
        "layer1": (64 * wide, 56, 56),
        "layer2": (128 * wide, 28, 28),
        "layer3": (256 * wide, 14, 14),
        "layer4": (512 * wide, 7, 7),
    }
    with_weights = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in name
    ]
    assert len(with_weights) == depth


# Table 6: 0.27, 0.46, 0.66, 0.85, 1.7 and 19.4 million.
CIFAR = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}


@pytest.mark.parametrize(("depth", "count"), CIFAR.items())
def test_parameter_counts_of_table_6(depth, count):
    for residual in (True, False) if depth < 1000 else (True,):
        with torch.device("meta"):
            model = CifarResNet(cifar.ResNetConfig(depth, residual))
        assert sum(p.numel() for p in model.parameters()) == count
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth


# --- test procedure and training


def test_ten_crop_equals_torchvision():
    images = torch.rand(2, 3, 21, 18)
    want = torch.stack(transforms.ten_crop(images, 15))
    assert torch.equal(ten_crop(images, 15), want)


def test_ten_crop_probabilities_are_a_mean_of_probabilities():
    model = make_cifar().eval()
    images = make_batch(side=12)[0]
    p = ten_crop_probabilities(model, images, 9)
    assert not p.requires_grad
    assert p.shape == (3, 10) and max_difference(p.sum(dim=1), torch.ones(3)) < 1e-12
    one = torch.stack([model(crop).softmax(dim=1) for crop in ten_crop(images, 9)])
    assert max_difference(p, one.mean(dim=0)) < 1e-12
    assert max_difference(p, one[4]) > 1e-6  # the crops do differ


def test_paper_schedule():
    factor = paper_schedule(64_000, 56)
    steps = (0, 31_999, 32_000, 47_999, 48_000, 63_999)
    assert [factor(i) for i in steps] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    warm = paper_schedule(64_000, 110)
    assert [warm(i) for i in (0, 399, 400, 32_000)] == pytest.approx([0.1, 0.1, 1, 0.1])
    short = paper_schedule(640, 110)
    steps = (3, 4, 319, 320, 479, 480)
    assert [short(i) for i in steps] == pytest.approx([0.1, 1, 1, 0.1, 0.1, 0.01])


def test_augmented_images_are_crops_or_their_mirror_images():
    """Every image draws its own of the 162 cases, rows apart from columns; half are mirrored."""
    images = torch.rand(2000, 3, 6, 7)
    padded = F.pad(images, (4, 4, 4, 4))
    torch.manual_seed(0)
    changed = augment(images)
    counts = torch.zeros(2, 9, 9, dtype=torch.int64)
    for top in range(9):
        for left in range(9):
            crop = padded[:, :, top : top + 6, left : left + 7]
            for mirrored, want in ((0, crop), (1, crop.flip(3))):
                counts[mirrored, top, left] = (changed == want).flatten(1).all(dim=1).sum()
    assert counts.sum() == 2000 and counts.min() > 0
    assert 900 < counts[1].sum() < 1100


@pytest.mark.parametrize("module", [cifar, resnet_paper])
def test_the_optimizer_decays_every_parameter(module):
    model = make_cifar()
    (group,) = module.paper_optimizer(model.parameters()).param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 0.0001)
    assert not group["nesterov"] and not group["dampening"]


# --- properties


@pytest.mark.parametrize(
    "model",
    [lambda: ResNet(ResNetConfig(*SMALL["bottleneck"])), lambda: CifarResNet()],
    ids=["imagenet", "cifar"],
)
def test_he_initialisation(model):
    """Deviations by the inputs of an output, gains 1, biases 0; the last layer's is 0.01."""
    torch.manual_seed(0)
    model = model()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000:
            want = np.sqrt(2 / layer.weight[0].numel())
            assert abs(layer.weight.std().item() / want - 1) < 0.06
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
    assert abs(model.fc.weight.std().item() / 0.01 - 1) < 0.1
    assert (model.fc.bias == 0).all()


def test_the_usual_networks():
    assert ResNetConfig() == ResNetConfig((3, 4, 6, 3), True, "v1", "B", 1000)
    assert ResNetConfig() == ResNetConfig.published(50)
    assert cifar.ResNetConfig() == cifar.ResNetConfig(20, True, 10, 3)
    assert CifarResNet().config == cifar.ResNetConfig() and ResNet().config == ResNetConfig()


def test_initial_loss_is_that_of_guessing():
    torch.manual_seed(0)
    model = CifarResNet().train()
    loss = cifar.loss_function(model, (torch.randn(32, 3, 16, 16), torch.arange(32) % 10))
    assert abs(loss.item() - np.log(10)) < 0.05


@pytest.mark.parametrize("residual", [True, False])
def test_overfits_one_batch(residual):
    torch.manual_seed(0)
    model = CifarResNet(cifar.ResNetConfig(8, residual))
    optimizer = cifar.paper_optimizer(model.parameters(), lr=0.05)
    x, targets = make_batch(size=16)
    for _ in range(40):
        loss = step(model, (x.float(), targets), True).loss
        optimizer.step()
    assert loss < 0.02


def test_images_of_other_sizes_pass():
    model = ResNet(ResNetConfig(*SMALL["basic"], classes=7)).eval()
    assert model(torch.randn(1, 3, 97, 130)).shape == (1, 7)
    assert CifarResNet().eval()(torch.randn(1, 3, 15, 22)).shape == (1, 10)


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResNetConfig((2, 2, 2)), r"expected four positive numbers of blocks, got \(2, 2"),
        (lambda: ResNetConfig((2, 0, 2, 2)), r"four positive numbers of blocks, got \(2, 0"),
        (lambda: ResNetConfig(version="v2"), "expected version of v1, v1.5; got 'v2'"),
        (lambda: ResNetConfig(shortcut="D"), "expected shortcut of A, B, C, none; got 'D'"),
        (lambda: ResNetConfig(classes=0), "expected a positive number of classes, got 0"),
        (lambda: ResNetConfig.published(20), "expected a depth of 18, 34, 50, 101, 152, got 20"),
        (lambda: cifar.ResNetConfig(18), "expected a depth of 6n [+] 2, such as 8 or 20, got 18"),
        (lambda: cifar.ResNetConfig(2), "expected a depth of 6n [+] 2, such as 8 or 20, got 2"),
        (lambda: cifar.ResNetConfig(channels=0), "expected positive classes and channels"),
        (lambda: cifar.ResNetConfig(classes=0), "expected positive classes and channels"),
        (
            lambda: ResNet(ResNetConfig(*SMALL["basic"]))(torch.zeros(8, 1, 28, 28)),
            r"expected images \(B, 3, H, W\), got \(8, 1, 28, 28\)",
        ),
        (
            lambda: ResNet(ResNetConfig(*SMALL["basic"]))(torch.zeros(8, 3, 28)),
            r"expected images \(B, 3, H, W\), got \(8, 3, 28\)",
        ),
        (
            lambda: CifarResNet(cifar.ResNetConfig(8))(torch.zeros(8, 3, 28)),
            r"expected images \(B, 3, H, W\), got \(8, 3, 28\)",
        ),
        (
            lambda: CifarResNet(cifar.ResNetConfig(8))(torch.zeros(8, 1, 28, 28)),
            r"expected images \(B, 3, H, W\), got \(8, 1, 28, 28\)",
        ),
        (
            lambda: ten_crop(torch.zeros(1, 3, 200, 300)),
            "expected images of at least 224x224, got 200x300",
        ),
        (
            lambda: from_pretrained(18, "keras"),
            "expected library 'torchvision' or 'timm', got 'keras'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
