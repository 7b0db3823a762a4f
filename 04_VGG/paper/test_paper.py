"""Tests of level 3: VGG equal to levels 1 and 2 and to torchvision's; the paper's uses of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import vgg as torchvision_vgg

import vgg_lowlevel as low
import vgg_numpy as np_level
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import SGD
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
from vgg_dense_paper import dense_scores, linear_as_convolution, score_map
from vgg_paper import (
    TABLE_1,
    VGG,
    LocalResponseNorm,
    VGGConfig,
    initialise,
    initialise_from_net_a,
    loss_function,
)

SMALL = {"width": 2, "hidden": 6, "classes": 5, "image_size": 32}
SIZES = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}


class SameNumbers:
    """Gives level 1 the random numbers that PyTorch draws from this seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, shape):
        return torch.rand(shape, generator=self.generator).numpy()


class SeededDropout(nn.Module):
    """``nn.Dropout`` whose mask comes from a generator, as at level 2."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, x):
        return x * (torch.rand(x.shape, generator=self.generator) >= 0.5) / 0.5


def make_batch(seed=0, size=3, side=32, classes=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, 3, side, side, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (size,), generator=generator)


def make_model(net="A", **sizes):
    torch.manual_seed(0)
    model = VGG(VGGConfig(net, **(SMALL | sizes))).double()
    perturb(model)
    return model.eval()


def with_seeded_dropout(model, seed):
    """The model in training, its dropout drawn from a generator with this seed."""
    generator = torch.Generator().manual_seed(seed)
    model.classifier[2] = model.classifier[5] = SeededDropout(generator)
    return model.train()


def result_of(model, batch):
    model.zero_grad()
    x, targets = batch
    logits = model(x)
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    return Result(logits, loss, {n: p.grad.clone() for n, p in model.named_parameters()})


def level_config(model, cls):
    c = model.config
    return cls(c.net, c.width, c.hidden, c.classes, c.image_size, c.dropout)


def numpy_model(model):
    reference = np_level.VGG(level_config(model, np_level.VGGConfig), np.random.default_rng(0))
    load_into(reference.params, model)
    return reference


def numpy_step(reference, batch, seed=None):
    x, targets = (a.numpy() for a in batch)
    logits = reference.forward(x) if seed is None else reference.forward(x, True, SameNumbers(seed))
    loss, cache = softmax_cross_entropy_forward(logits, targets)
    return Result(logits, loss, reference.backward(softmax_cross_entropy_backward(cache)))


def lowlevel_result(model, batch):
    params = to_torch(model, requires_grad=True)
    logits = low.forward(params, batch[0], level_config(model, low.VGGConfig))
    loss = low.cross_entropy(logits, batch[1])
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


# --- across levels


@pytest.mark.parametrize("net", TABLE_1)
def test_equals_levels_1_and_2(net):
    model, batch = make_model(net), make_batch()
    assert_parity(result_of(model, batch), numpy_step(numpy_model(model), batch))
    assert_parity(result_of(model, batch), lowlevel_result(model, batch))


def test_equals_level_1_in_training_with_the_same_dropout():
    model, batch = make_model(hidden=16), make_batch()
    want = numpy_step(numpy_model(model), batch, seed=7)
    assert_parity(result_of(with_seeded_dropout(model, 7), batch), want)


def test_ten_steps_equal_level_1():
    model = make_model(hidden=16)
    reference = numpy_model(model)
    rates = {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), **rates)
    numpy_optimizer = SGD(reference.params, **rates)
    losses, numpy_losses = [], []
    for step in range(10):
        batch = make_batch(step, size=6)
        optimizer.zero_grad()
        loss = loss_function(with_seeded_dropout(model, step), batch)
        loss.backward()
        optimizer.step()
        losses.append(loss)
        want = numpy_step(reference, batch, seed=step)
        numpy_optimizer.step(want.grads)
        numpy_losses.append(want.loss)
    assert_trajectory(losses, numpy_losses)


# --- against torchvision


def torchvision_model(net, batch_norm, width=4, hidden=12, classes=5):
    """torchvision's class and layers with fewer channels, perturbed; images stay 224x224."""
    full = torchvision_vgg.cfgs[net]  # torchvision has the paper's letters inside
    narrow = [word if word == "M" else word * width // 64 for word in full]
    features = torchvision_vgg.make_layers(narrow, batch_norm)
    with torch.device("meta"):  # its linear layers alone are 500 MB; smaller ones take their place
        model = torchvision_vgg.VGG(features, num_classes=classes, init_weights=False)
    sizes = {0: (8 * width * 49, hidden), 3: (hidden, hidden), 6: (hidden, classes)}
    for place, (inputs, outputs) in sizes.items():
        model.classifier[place] = nn.Linear(inputs, outputs)
    initialise(model)  # any scheme: small enough numbers, all of them random
    model = model.double()
    perturb(model, scale=0.02)
    return model


def pair(net, batch_norm):
    """Ours and torchvision's with the same weights."""
    theirs = torchvision_model(net, batch_norm)
    ours = VGG(VGGConfig(net, batch_norm, width=4, hidden=12, classes=5)).double()
    load_into(ours, theirs)
    return ours, theirs


def seeded(model, batch, seed=3):
    torch.manual_seed(seed)  # nn.Dropout draws from the global generator
    return result_of(model, batch)


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "bn"])
@pytest.mark.parametrize("net", SIZES)
def test_equals_torchvision(net, batch_norm):
    """Outputs and every gradient, in eval mode and in training with the same dropout."""
    ours, theirs = pair(net, batch_norm)
    batch = make_batch(size=2, side=224)
    for mode in (False, True):
        assert_parity(seeded(ours.train(mode), batch), seeded(theirs.train(mode), batch))
    # the running statistics, which training has moved
    assert_same(ours.state_dict(), theirs.state_dict(), what="state")


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "bn"])
@pytest.mark.parametrize("net", SIZES)
def test_the_keys_and_shapes_are_torchvisions(net, batch_norm):
    make = getattr(torchvision.models, SIZES[net] + ("_bn" if batch_norm else ""))
    with torch.device("meta"):
        theirs, ours = make(), VGG(VGGConfig(net, batch_norm))
    assert {n: p.shape for n, p in ours.state_dict().items()} == {
        n: p.shape for n, p in theirs.state_dict().items()
    }


def no_bias(model):
    nn.init.zeros_(model.features[3].bias)


def average_pooling(model):
    model.features[2] = nn.AvgPool2d(2)


def relu_left_out(model):
    model.features[4] = nn.Identity()


def replicated_frame(model):
    model.features[0].padding_mode = "replicate"
    model.features[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]


def swapped_convolutions(model):
    """The two of the last block have the same shape."""
    model.features[16], model.features[18] = model.features[18], model.features[16]


@pytest.mark.parametrize(
    "fault", [no_bias, average_pooling, relu_left_out, replicated_frame, swapped_convolutions]
)
def test_sabotage_is_noticed(fault):
    ours, theirs = (model.eval() for model in pair("A", batch_norm=False))
    batch = make_batch(size=1, side=224)
    assert max_difference(ours(batch[0]), theirs(batch[0])) < 1e-9
    names = list(ours.state_dict())
    fault(ours)
    assert list(ours.state_dict()) == names  # nothing but the numbers gives it away
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(result_of(ours, batch), result_of(theirs, batch))


def test_local_response_norm_equals_torch_whose_alpha_is_divided_by_n():
    x = torch.randn(2, 7, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = LocalResponseNorm(alpha=0.3), nn.LocalResponseNorm(5, 5 * 0.3, 0.75, 2.0)
    assert max_difference(ours(x), theirs(x)) < 1e-13
    assert max_difference(ours(x), nn.LocalResponseNorm(5, 0.3, 0.75, 2.0)(x)) > 1e-3
    x *= 100  # so large that the paper's alpha counts
    papers = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    assert max_difference(LocalResponseNorm()(x), papers(x)) < 1e-13


# --- the paper's figures

# Table 2 in millions, and to the last parameter; with batch normalisation, torchvision's figures.
PARAMETERS = {
    ("A", False): (133, 132_863_336),
    ("A-LRN", False): (133, 132_863_336),
    ("B", False): (133, 133_047_848),
    ("C", False): (134, 133_638_952),
    ("D", False): (138, 138_357_544),
    ("E", False): (144, 143_667_240),
    ("A", True): (133, 132_868_840),
    ("B", True): (133, 133_053_736),
    ("D", True): (138, 138_365_992),
    ("E", True): (144, 143_678_248),
}


@pytest.mark.parametrize(("net", "batch_norm"), PARAMETERS)
def test_parameters_of_table_2(net, batch_norm):
    with torch.device("meta"):
        model = VGG(VGGConfig(net, batch_norm))
    count = sum(p.numel() for p in model.parameters())
    assert (round(count / 1e6), count) == PARAMETERS[net, batch_norm]


@pytest.mark.parametrize("net", TABLE_1)
def test_sizes_of_every_stage(net):
    with torch.device("meta"):
        model = VGG(VGGConfig(net))
        found = model.features_at(
            torch.empty(2, 3, 224, 224), [*(f"pool{b}" for b in range(1, 6)), "fc6", "fc7", "fc8"]
        )
    assert [tuple(y.shape[1:]) for y in found.values()] == [
        (64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7),
        (4096,), (4096,), (1000,),
    ]  # fmt: skip


def test_multiply_adds_of_the_theory():
    """Eq. 4.3, layer by layer, in the table of theory.md (in 10^9)."""
    counted = {}
    for net in TABLE_1:
        with torch.device("meta"):
            model = VGG(VGGConfig(net))
            total = 0
            for name, y in model.features_at(
                torch.empty(1, 3, 224, 224),
                [n for n in model.layer_names if n.startswith(("conv", "fc"))],
            ).items():
                weight = model.get_submodule(model.layer_names[name]).weight
                total += weight.numel() * y[0, 0].numel()
        counted[net] = round(total / 1e9, 2)
    assert counted == {
        "A": 7.61, "A-LRN": 7.61, "B": 11.31, "C": 11.77, "D": 15.47, "E": 19.63,
    }  # fmt: skip


def test_cifar_variant():
    with torch.device("meta"):
        model = VGG(VGGConfig.cifar("D"))
        assert model(torch.empty(4, 3, 32, 32)).shape == (4, 10)
    assert sum(p.numel() for p in model.parameters()) == 15_253_578
    assert VGGConfig.cifar() == model.config == VGGConfig("D", True, 64, 512, 10, 32, 0.5)


def test_the_defaults_are_the_papers():
    assert VGGConfig() == VGGConfig("A", False, 64, 4096, 1000, 224, 0.5)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_both_dropouts_have_the_configured_rate(rate):
    model = VGG(VGGConfig("A", **SMALL, dropout=rate))
    places = [model.layer_names[name] for name in ("drop6", "drop7")]
    assert [model.get_submodule(place).p for place in places] == [rate, rate]


# --- features


def test_layer_names_are_the_papers():
    names = list(VGG(VGGConfig("C", **SMALL)).layer_names)
    assert [n for n in names if n.startswith("conv3")] == ["conv3_1", "conv3_2", "conv3_3"]
    assert names[:5] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    assert names[-8:] == ["pool5", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"]
    assert "lrn1_1" in VGG(VGGConfig("A-LRN", **SMALL)).layer_names
    assert "bn5_2" in VGG(VGGConfig("A", True, **SMALL)).layer_names


def test_features_are_those_of_the_forward_pass():
    model, (x, _) = make_model("D"), make_batch()
    seen = {}
    for name, place in model.layer_names.items():
        model.get_submodule(place).register_forward_hook(
            lambda _, args, y, name=name: seen.__setitem__(name, y.clone())
        )
    logits = model(x)
    found = model.features_at(x, list(model.layer_names))
    assert list(found) == list(seen)
    assert all(torch.equal(found[name], seen[name]) for name in seen)
    assert torch.equal(found["fc8"], logits)


def test_features_stop_at_the_last_layer_that_is_asked_for():
    model, (x, _) = make_model(), make_batch(side=48)
    model.get_submodule(model.layer_names["conv3_2"]).register_forward_hook(
        lambda *_: pytest.fail("computed more than needed")
    )
    assert list(model.features_at(x, ["relu2_1", "conv1_1"])) == ["conv1_1", "relu2_1"]


# --- dense evaluation


def test_dense_equals_the_crop_at_the_training_size():
    model, (x, _) = make_model("B", image_size=64), make_batch(side=64)
    scores = score_map(model, x)
    assert scores.shape == (3, 5, 1, 1)
    assert max_difference(scores[:, :, 0, 0], model(x)) < 1e-12
    assert max_difference(dense_scores(model, x, flip=False), model(x).softmax(dim=1)) < 1e-12


def test_dense_equals_torchvision_at_224():
    ours, theirs = (model.eval() for model in pair("A", batch_norm=False))
    x = make_batch(size=1, side=224)[0]
    assert max_difference(score_map(ours, x)[:, :, 0, 0], theirs(x)) < 1e-9
    assert max_difference(score_map(theirs, x)[:, :, 0, 0], theirs(x)) < 1e-9


@pytest.mark.parametrize(("H", "W", "places"), [(64, 64, (1, 1)), (96, 130, (2, 3))])
def test_each_place_of_the_score_map_is_the_classifier_on_its_window(H, W, places):
    """Eq. 4.20, and what each of its places holds."""
    model = make_model(image_size=64)
    x = torch.rand(2, 3, H, W, dtype=torch.float64)
    scores, maps = score_map(model, x), model.features(x)
    assert scores.shape == (2, 5, *places)
    for i in range(places[0]):
        for j in range(places[1]):
            window = maps[:, :, i : i + 2, j : j + 2].flatten(start_dim=1)
            assert max_difference(scores[:, :, i, j], model.classifier(window)) < 1e-12


def test_dense_and_crop_differ_at_the_rim():
    """A crop is framed by zeros; in the whole image the neighbouring pixels are there (3.2)."""
    model = make_model(image_size=32)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    crop = model(x[:, :, :32, :32])
    assert max_difference(score_map(model, x)[:, :, 0, 0], crop) > 1e-4


def test_dense_scores_average_places_and_mirror_image():
    """Logits over the places, eq. 4.21, then the softmax; probabilities over the two views."""
    torch.manual_seed(0)
    # A network of one layer each, whose places and views do not agree (an untrained VGG's do).
    features, classifier = nn.Conv2d(3, 4, 32, stride=32), nn.Sequential(nn.Linear(4, 5))
    nn.init.normal_(features.weight, std=0.05)
    nn.init.normal_(classifier[0].weight)
    model = SimpleNamespace(features=features.double(), classifier=classifier.double())
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    views = [score_map(model, view).flatten(2).mean(2).softmax(1) for view in (x, x.flip(3))]
    p = dense_scores(model, x)
    assert max_difference(p, (views[0] + views[1]) / 2) < 1e-12
    assert max_difference(p, dense_scores(model, x.flip(3))) < 1e-12
    assert max_difference(dense_scores(model, x, flip=False), views[0]) < 1e-12
    # The usual other ways give other numbers here.
    assert max_difference(p, views[0]) > 1e-3
    assert max_difference(views[0], score_map(model, x).softmax(1).flatten(2).mean(2)) > 1e-3


def test_the_kernels_share_their_numbers_with_the_linear_layer():
    layer = nn.Linear(4 * 9, 5)
    kernels = linear_as_convolution(layer, 4)
    assert kernels.shape == (5, 4, 3, 3) and kernels.data_ptr() == layer.weight.data_ptr()


# --- initial weights


def test_schemes_have_their_variances():
    """Of convolutions and linear layers; by how many come in, and for Glorot's, go out."""
    torch.manual_seed(0)
    model = VGG(VGGConfig("A", **(SMALL | {"width": 32, "hidden": 100})))
    sizes = {  # inputs and outputs of a unit
        model.features[3]: (9 * 32, 9 * 64),
        model.features[8]: (9 * 128, 9 * 128),
        model.classifier[0]: (256, 100),
    }
    for words in ((), ("he",), ("glorot",), ("paper",)):
        initialise(model, *words)
        scheme = words[0] if words else "he"
        for layer, (D, M) in sizes.items():
            variance = {"glorot": 2 / (D + M), "paper": 1e-2, "he": 2 / D}[scheme]
            assert layer.weight.var().item() == pytest.approx(variance, rel=0.05), scheme
        assert all(not p.any() for n, p in model.named_parameters() if n.endswith("bias"))


def logits_mean_square(net, scheme):
    """Of random images through an untrained network of the paper's widths up to pool5."""
    torch.manual_seed(0)
    model = VGG(VGGConfig(net, hidden=64, classes=10, image_size=32)).eval()
    initialise(model, scheme)
    with torch.no_grad():
        return model.features(torch.randn(4, 3, 32, 32)).square().mean().item()


def test_only_he_keeps_the_signal_through_nineteen_layers():
    """Eq. 4.16: He's factor is 1 a layer, Glorot's about 1/2; the paper's numbers explode."""
    assert 1e-2 < logits_mean_square("E", "he") < 1e2
    assert logits_mean_square("E", "glorot") < 1e-3
    assert logits_mean_square("E", "paper") > 1e10


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "bn"])
@pytest.mark.parametrize("net", ["B", "C", "D", "E"])
def test_a_deep_net_starts_from_net_a(net, batch_norm):
    shallow, deep = make_model("A", batch_norm=batch_norm), make_model(net, batch_norm=batch_norm)
    perturb(shallow, seed=5)
    before = {name: p.clone() for name, p in deep.state_dict().items()}
    copied = initialise_from_net_a(deep, shallow.state_dict())
    kinds = ("conv", "bn") if batch_norm else ("conv",)
    features = [f"{kind}{place}" for place in ("1_1", "2_1", "3_1", "3_2") for kind in kinds]
    assert copied == [*features, "fc6", "fc7", "fc8"]
    for name, place in deep.layer_names.items():
        for key, value in deep.get_submodule(place).state_dict().items():
            if name in copied:
                want = shallow.get_submodule(shallow.layer_names[name]).state_dict()[key]
            else:
                want = before[f"{place}.{key}"]
            assert torch.equal(value, want), name
    deep(make_batch()[0])  # it still is a network


# --- torchvision's weights


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "bn"])
@pytest.mark.parametrize("net", SIZES)
def test_from_pretrained_takes_torchvisions_file(net, batch_norm, monkeypatch):
    """A stand-in for the download: the right names and shapes, a number each, and no memory."""
    make = getattr(torchvision.models, SIZES[net] + ("_bn" if batch_norm else ""))
    asked, file = [], {}

    def get_state_dict(self, **options):
        asked.append((self, options))
        with torch.device("meta"):
            file.update({name: p.shape for name, p in make().state_dict().items()})
        return {
            name: torch.tensor(float(number)).expand(shape)
            for number, (name, shape) in enumerate(file.items())
        }

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    model = VGG.from_pretrained(net, batch_norm)
    assert not model.training and model.config == VGGConfig(net, batch_norm)
    for number, name in enumerate(file):
        value = model.state_dict()[name]
        assert value.device.type == "cpu" and value.flatten()[-1] == number, name
    ((weights, options),) = asked
    assert str(weights).lower() == f"{make.__name__}_weights.imagenet1k_v1"
    assert options == {"check_hash": True, "weights_only": True}


# --- properties


@pytest.mark.parametrize("net", ["A-LRN", "C", "E"])
def test_every_parameter_receives_a_gradient(net):
    model = VGG(VGGConfig(net, **(SMALL | {"width": 8, "hidden": 32})))
    x, targets = make_batch()
    loss_function(model, (x.float(), targets)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_initial_loss_is_that_of_guessing():
    torch.manual_seed(0)
    model = VGG(VGGConfig.cifar("A", batch_norm=False, width=4)).eval()
    nn.init.normal_(model.classifier[6].weight, std=1e-3)
    x, targets = make_batch(size=64, classes=10)
    assert abs(loss_function(model, (x.float(), targets)).item() - np.log(10)) < 0.05


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "bn"])
def test_overfits_one_batch(batch_norm):
    torch.manual_seed(0)
    config = VGGConfig("A", batch_norm, width=8, hidden=32, classes=5, image_size=32, dropout=0.0)
    model = VGG(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, targets = make_batch(size=12)
    for _ in range(80):
        optimizer.zero_grad()
        loss = loss_function(model, (x.float() - 0.5, targets))
        loss.backward()
        optimizer.step()
    assert loss < 0.02


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VGGConfig("F"), "expected a net of A, A-LRN, B, C, D, E; got 'F'"),
        (lambda: VGGConfig(image_size=200), "five halvings divide .* got 200"),
        (lambda: VGGConfig(image_size=0), "five halvings divide .* got 0"),
        (lambda: VGGConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: VGGConfig(dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: VGGConfig(width=0), "of at least 1, got 0, 4096 and 1000"),
        (lambda: VGGConfig(hidden=0), "of at least 1, got 64, 0 and 1000"),
        (lambda: VGGConfig(classes=0), "of at least 1, got 64, 4096 and 0"),
        (
            lambda: make_model()(torch.zeros(2, 3, 64, 64)),
            r"expected images \(B, 3, 32, 32\), got \(2, 3, 64, 64\); vgg_dense_paper.py takes",
        ),
        (
            lambda: make_model().features_at(torch.zeros(2, 3, 32, 32), ["conv1_2", "pool1"]),
            "expected layers of conv1_1, relu1_1, .*; got conv1_2",
        ),
        (lambda: initialise(make_model(), "lecun"), "expected a scheme of he, glorot, paper"),
        (
            lambda: initialise_from_net_a(make_model("B"), make_model(width=4).state_dict()),
            r"expected conv1_1 of net A as features.0.weight \(2, 3, 3, 3\), got \(4, 3, 3, 3\)",
        ),
        (lambda: initialise_from_net_a(make_model("B"), {}), "features.0.weight .* got nothing"),
        (
            lambda: score_map(make_model(image_size=64), torch.zeros(1, 3, 32, 32).double()),
            r"expected maps of 2x2 or more, got \(1, 1\)",
        ),
        (
            lambda: score_map(make_model(image_size=64), torch.zeros(1, 3, 64, 32).double()),
            r"expected maps of 2x2 or more, got \(2, 1\)",
        ),
        (lambda: linear_as_convolution(nn.Linear(20, 3), 4), "reads 4 square maps, got 20 inputs"),
        (lambda: VGG.from_pretrained("C"), "torchvision has weights of A, B, D and E; got 'C'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
