"""Tests of level 3: LeNet equal to levels 1 and 2 and to plain torch.nn; LeNet-5 as printed."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lenet5_paper
import lenet_lowlevel as low
import lenet_numpy as np_level
import lenet_paper
from conv_numpy import conv2d_forward
from lenet5_paper import (
    LeNet5,
    LeNet5Config,
    RBFOutput,
    ScaledTanh,
    SubSampling,
    TableConvolution,
    connection_table,
    digit_codes,
    map_loss,
    prepare,
)
from lenet_paper import LeNet, LeNetConfig
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import Adam
from utils.data_loaders import enlarge_digits, load_arrays
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch

CONFIGS = [
    LeNetConfig(activation, pooling)
    for activation, pooling in itertools.product(lenet_paper.ACTIVATIONS, lenet_paper.POOLINGS)
]
CONFIG_NAMES = [f"{c.activation}-{c.pooling}" for c in CONFIGS]

# Every LeNet-5 between the paper's and today's.
LADDER = [
    LeNet5Config(*choice)
    for choice in itertools.product(
        ("table1", "full"), ("trainable", "avg", "max"), ("scaled_tanh", "relu"), ("rbf", "linear")
    )
]
LADDER_NAMES = [
    "-".join([c.connection_table, c.subsampling, c.activation, c.output]) for c in LADDER
]


def make_batch(seed=0, size=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, 1, 28, 28, generator=generator, dtype=torch.float64)
    return x, torch.randint(10, (size,), generator=generator)


def make_model(config=None, scale=0.1):
    torch.manual_seed(0)
    model = LeNet(config).double()
    perturb(model, scale)
    return model


def make_lenet5(config=None):
    torch.manual_seed(0)
    model = LeNet5(config).double()
    codes = {name: b.clone() for name, b in model.named_buffers()}
    perturb(model, scale=0.05)
    for name, buffer in model.named_buffers():  # the codes are fixed: they stay +1 and -1
        buffer.copy_(codes[name])
    return model


def result_of(model, batch, loss_function=lenet_paper.loss_function):
    model.zero_grad()
    loss = loss_function(model, batch)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return Result(model(batch[0]), loss, grads)


def numpy_model(model):
    config = np_level.LeNetConfig(model.config.activation, model.config.pooling)
    reference = np_level.LeNet(config, np.random.default_rng(0))
    load_into(reference.params, model)
    return reference


def numpy_step(reference, batch):
    logits = reference.forward(batch[0].numpy())
    loss, cache = softmax_cross_entropy_forward(logits, batch[1].numpy())
    return Result(logits, loss, reference.backward(softmax_cross_entropy_backward(cache)))


def lowlevel_result(model, batch):
    params = to_torch(model, requires_grad=True)
    config = low.LeNetConfig(model.config.activation, model.config.pooling)
    logits = low.forward(params, batch[0], config)
    loss = low.cross_entropy(logits, batch[1])
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


# --- LeNet across levels


@pytest.mark.parametrize("config", CONFIGS, ids=CONFIG_NAMES)
def test_equals_levels_1_and_2(config):
    model, batch = make_model(config), make_batch()
    assert_parity(result_of(model, batch), numpy_step(numpy_model(model), batch))
    assert_parity(result_of(model, batch), lowlevel_result(model, batch))


def test_ten_steps_equal_level_1():
    model = make_model()
    reference = numpy_model(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    numpy_optimizer = Adam(reference.params, lr=0.003)
    losses, numpy_losses = [], []
    for step in range(10):
        batch = make_batch(step, size=8)
        optimizer.zero_grad()
        loss = lenet_paper.loss_function(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss)
        want = numpy_step(reference, batch)
        numpy_optimizer.step(want.grads)
        numpy_losses.append(want.loss)
    assert_trajectory(losses, numpy_losses)


# --- LeNet against the library


def plain_torch(config):
    """The network in the plainest torch.nn; the production library of this chapter."""
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[config.activation]
    pool = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[config.pooling]
    layers = [nn.Conv2d(1, 6, 5, padding=2), activation(), pool(2)]
    layers += [nn.Conv2d(6, 16, 5), activation(), pool(2), nn.Flatten()]
    layers += [nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation()]
    return nn.Sequential(*layers, nn.Linear(84, 10)).double()


def convert_plain_torch_state_dict(state):
    """Names of ``nn.Sequential``, which are places, to ours."""
    ours = {"0": "c1", "3": "c3", "7": "c5", "9": "f6", "11": "output"}
    return {f"{ours[n.split('.')[0]]}.{n.split('.')[1]}": value for n, value in state.items()}


def pair(config):
    """Our model and plain torch's with the same perturbed weights."""
    torch.manual_seed(1)
    sequential = plain_torch(config)
    perturb(sequential)
    model = make_model(config)
    load_into(model, convert_plain_torch_state_dict(sequential.state_dict()))
    return model, sequential


def plain_result(sequential, batch):
    logits = sequential(batch[0])
    loss = F.cross_entropy(logits, batch[1])
    loss.backward()
    grads = {name: p.grad for name, p in sequential.named_parameters()}
    return Result(logits, loss, convert_plain_torch_state_dict(grads))


@pytest.mark.parametrize("config", CONFIGS, ids=CONFIG_NAMES)
def test_equals_plain_torch(config):
    model, sequential = pair(config)
    batch = make_batch()
    assert_parity(result_of(model, batch), plain_result(sequential, batch))


def no_bias(model):
    nn.init.zeros_(model.c1.bias)


def average_pooling(model):
    model.pool = nn.AvgPool2d(2)


def wrong_activation(model):
    model.activation = nn.GELU()


def no_padding_of_zeros(model):
    model.c1.padding_mode = "replicate"
    model.c1._reversed_padding_repeated_twice = [2, 2, 2, 2]


def flipped_kernels(model):
    model.c3.weight.data = model.c3.weight.data.flip(2, 3)


@pytest.mark.parametrize(
    "fault", [no_bias, average_pooling, wrong_activation, no_padding_of_zeros, flipped_kernels]
)
def test_sabotage_of_lenet_is_noticed(fault):
    model, sequential = pair(LeNetConfig())
    batch = make_batch()
    fault(model)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(result_of(model, batch), plain_result(sequential, batch))


# --- LeNet-5 against a second implementation, in NumPy and straight from the equations


def lenet5_in_numpy(model, images):
    """Penalties (B, 10) of the paper's network, from the equations and level 1's convolution."""
    p = {name: value.detach().numpy() for name, value in model.named_parameters()}

    def squash(a):
        return 1.7159 * np.tanh(2 / 3 * a)

    def subsample(x, name):
        total = x[:, :, ::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, ::2] + x[:, :, 1::2, 1::2]
        return squash(total * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None])

    x = squash(conv2d_forward(images, p["c1.weight"], p["c1.bias"])[0])
    x = subsample(x, "s2")
    maps, used = [], 0
    for o, line in enumerate(zip(*lenet5_paper.TABLE_I.split(), strict=True)):
        seen = [c for c, mark in enumerate(line) if mark == "X"]
        kernels = p["c3.weight"][used : used + len(seen)]
        used += len(seen)
        maps.append(conv2d_forward(x[:, seen], kernels[None], p["c3.bias"][o : o + 1])[0])
    x = subsample(squash(np.concatenate(maps, axis=1)), "s4")
    x = squash(conv2d_forward(x, p["c5.weight"], p["c5.bias"])[0]).reshape(len(x), 120)
    x = squash(x @ p["f6.weight"].T + p["f6.bias"])
    return np.square(x[:, None] - digit_codes().numpy()).sum(axis=2)


def test_lenet5_equals_its_equations():
    model, (images, targets) = make_lenet5(), make_batch()
    x = prepare(images)
    penalties = lenet5_in_numpy(model, x.numpy())
    assert max_difference(-model(x), penalties) < 1e-12
    # equation (9) as printed, without the stable logarithm
    right = penalties[np.arange(3), targets.numpy()]
    want = np.mean(right + np.log(np.exp(-1.0) + np.exp(-penalties).sum(axis=1)))
    assert max_difference(lenet5_paper.loss_function(model, (x, targets)), want) < 1e-12


def shuffled_table(monkeypatch):
    rows = lenet5_paper.TABLE_I.split()
    monkeypatch.setattr(lenet5_paper, "TABLE_I", "\n".join(rows[1:] + rows[:1]))
    return make_lenet5()


def plain_tanh(monkeypatch):
    return make_lenet5(LeNet5Config(activation="tanh"))


def mean_for_sum(monkeypatch):
    monkeypatch.setattr(
        SubSampling,
        "forward",
        lambda self, x: self.activation(
            F.avg_pool2d(x, 2) * self.weight[:, None, None] + self.bias[:, None, None]
        ),
    )
    return make_lenet5()


def subsampling_not_squashed(monkeypatch):
    model = make_lenet5()
    model.s2.activation = nn.Identity()
    return model


def frame_of_zeros(monkeypatch):
    model = make_lenet5()
    model.register_forward_pre_hook(lambda _, args: F.pad(args[0][..., 2:-2, 2:-2], (2,) * 4))
    return model


@pytest.mark.parametrize(
    "fault", [shuffled_table, plain_tanh, mean_for_sum, subsampling_not_squashed, frame_of_zeros]
)
def test_sabotage_of_lenet5_is_noticed(fault, monkeypatch):
    x = prepare(make_batch()[0])
    want = lenet5_in_numpy(make_lenet5(), x.numpy())
    assert max_difference(-fault(monkeypatch)(x), want) > 1e-6


def test_modern_lenet5_is_lenet():
    """With every difference undone the two files hold one function: c5 as convolution or linear."""
    model = make_model()
    other = LeNet5(LeNet5Config.modern()).double()
    state = {name: p.clone() for name, p in model.state_dict().items()}
    state["c5.weight"] = state["c5.weight"].reshape(120, 16, 5, 5)
    load_into(other, state)
    images, targets = make_batch()
    framed = F.pad(images, (2, 2, 2, 2))
    want = result_of(model, (images, targets))
    want.grads["c5.weight"] = want.grads["c5.weight"].reshape(120, 16, 5, 5)
    assert_parity(result_of(other, (framed, targets), lenet5_paper.loss_function), want)


# --- the parts of LeNet-5


def test_scaled_tanh_passes_through_plus_and_minus_one():
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(ScaledTanh()(x), x, atol=1e-4)


def test_connection_table_as_the_paper_describes_it():
    table = connection_table()
    seen = [tuple(row.nonzero().flatten().tolist()) for row in table]

    def neighbours(first, count):
        return tuple(sorted((first + i) % 6 for i in range(count)))

    assert seen[:6] == [neighbours(i, 3) for i in range(6)]
    assert seen[6:12] == [neighbours(i, 4) for i in range(6)]
    assert all(len(s) == 4 and s not in seen[6:12] for s in seen[12:15])
    assert seen[15] == tuple(range(6))
    assert table.sum() == 60 and len(set(seen)) == 16


def test_a_map_of_c3_sees_only_the_maps_of_its_row():
    layer = TableConvolution(connection_table()).double()
    perturb(layer)
    x = torch.randn(1, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    for o, row in enumerate(connection_table()):
        (dx,) = torch.autograd.grad(layer(x)[0, o].sum(), x)
        assert torch.equal(dx.abs().sum(dim=(0, 2, 3)) > 0, row)


def test_codes_are_bitmaps_of_plus_and_minus_one():
    codes = digit_codes()
    assert codes.shape == (10, 84) and set(codes.unique().tolist()) == {-1.0, 1.0}
    differing_pixels = (codes[:, None] != codes).sum(dim=2) + 84 * torch.eye(10)
    assert differing_pixels.min() >= 8


def test_penalty_is_the_squared_distance():
    codes = digit_codes()
    penalties = RBFOutput(codes)(codes)
    assert torch.equal(penalties.diagonal(), torch.zeros(10))
    differing_pixels = (codes[3] != codes[8]).sum()
    assert penalties[3, 8] == 4 * differing_pixels


@pytest.mark.parametrize("rubbish_penalty", [0.5, 3.0, 40.0])
def test_map_loss_is_cross_entropy_with_a_rubbish_class(rubbish_penalty):
    generator = torch.Generator().manual_seed(0)
    penalties = 60 * torch.rand(5, 10, generator=generator, dtype=torch.float64)
    targets = torch.arange(5)
    rubbish = torch.full((5, 1), -rubbish_penalty, dtype=torch.float64)
    want = F.cross_entropy(torch.cat([-penalties, rubbish], dim=1), targets)
    assert max_difference(map_loss(penalties, targets, rubbish_penalty), want) < 1e-13


def test_gradient_of_the_map_loss_is_that_of_the_theory():
    x = torch.randn(4, 84, dtype=torch.float64, requires_grad=True)
    codes, targets = digit_codes().double(), torch.tensor([3, 1, 4, 1])
    penalties = RBFOutput(codes)(x)
    (got,) = torch.autograd.grad(map_loss(penalties, targets, 2.0), x)
    weights = torch.exp(-penalties)
    p = weights / (np.exp(-2.0) + weights.sum(dim=1, keepdim=True))
    pull = F.one_hot(targets, 10) - p  # eq. 3.30
    want = 2 * (pull[:, :, None] * (x[:, None] - codes)).sum(dim=1) / 4  # eq. 3.31, mean over 4
    assert max_difference(got, want) < 1e-12


def test_map_loss_is_positive_and_finite_far_away():
    targets = torch.tensor([0])
    near, far = torch.zeros(1, 10), torch.full((1, 10), 1e4)
    near[0, 1:] = 1e4
    assert 0 < map_loss(near, targets) < 0.4
    assert map_loss(far, targets) == pytest.approx(1e4 - 1, rel=1e-4)


@pytest.mark.parametrize("config", LADDER, ids=LADDER_NAMES)
def test_every_parameter_of_every_variant_receives_a_gradient(config):
    model, (images, targets) = make_lenet5(config), make_batch()
    lenet5_paper.loss_function(model, (prepare(images), targets)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


# --- the paper's figures


def test_trainable_parameters_layer_by_layer():
    with torch.device("meta"):
        modern, one_more = LeNet(), plain_torch(LeNetConfig())
    assert sum(p.numel() for p in modern.parameters()) == 61_706
    assert sum(p.numel() for p in one_more.parameters()) == 61_706
    counts = {
        name: sum(p.numel() for p in getattr(LeNet5(), name).parameters())
        for name in ("c1", "s2", "c3", "s4", "c5", "f6", "output")
    }
    assert counts == {
        "c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 0,
    }  # fmt: skip
    assert sum(p.numel() for p in LeNet5(LeNet5Config.lecun1998()).parameters()) == 60_000
    assert sum(p.numel() for p in LeNet5(LeNet5Config.modern()).parameters()) == 61_706


def test_connections_and_map_sizes_layer_by_layer():
    """Section II.B counts connections: 340,908 in all, those to the RBF units included."""
    sizes = {}
    model = LeNet5()
    for name in ("c1", "s2", "c3", "s4", "c5", "f6", "output"):
        getattr(model, name).register_forward_hook(
            lambda _, args, y, name=name: sizes.__setitem__(name, tuple(y.shape[1:]))
        )
    model(torch.zeros(1, 1, 32, 32))
    assert sizes == {
        "c1": (6, 28, 28), "s2": (6, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5),
        "c5": (120, 1, 1), "f6": (84,), "output": (10,),
    }  # fmt: skip
    connections = {
        name: sum(np.prod(sizes[name][1:], dtype=int) * p.numel() for p in layer.parameters())
        for name, layer in model.named_children()
        if name in ("c1", "c3", "c5", "f6")
    }
    for name in ("s2", "s4"):  # four units and a bias each
        connections[name] = 5 * np.prod(sizes[name], dtype=int)
    assert connections == {
        "c1": 122_304, "s2": 5_880, "c3": 151_600, "s4": 2_000, "c5": 48_120, "f6": 10_164,
    }  # fmt: skip
    assert sum(connections.values()) + model.output.codes.numel() == 340_908


def test_initial_weights_lie_within_their_bounds():
    model = LeNet5()
    bounds = {"c1": 25, "s2": 4, "s4": 4, "c5": 400, "f6": 120}
    for name, fan_in in bounds.items():
        for p in getattr(model, name).parameters():
            assert 0.5 * 2.4 / fan_in < p.abs().max() <= 2.4 / fan_in, name
    fan_in = 25 * connection_table().sum(dim=1)
    assert (model.c3.dense_weight().abs().amax(dim=(1, 2, 3)) <= 2.4 / fan_in).all()
    assert (model.c3.dense_weight().abs().amax(dim=(1, 2, 3)) > 0.9 * 2.4 / fan_in).all()


def test_prepared_images():
    x = prepare(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 28, 28))
    assert x.shape == (2, 1, 32, 32)
    assert torch.allclose(x[0], torch.tensor(-0.1))
    assert torch.allclose(x[1, :, 2:30, 2:30], torch.tensor(1.175))
    assert torch.allclose(x[1, :, :2], torch.tensor(-0.1))


# --- properties


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_initialisation_has_the_size_of_level_1(activation):
    torch.manual_seed(0)
    model = LeNet(LeNetConfig(activation))
    reference = np_level.LeNet(np_level.LeNetConfig(activation), np.random.default_rng(0))
    for name in ("c3.weight", "c5.weight", "f6.weight"):
        got, want = model.state_dict()[name].std().item(), reference.params[name].std()
        assert abs(got / want - 1) < 0.06, name


@pytest.mark.parametrize("config", [LeNet5Config(), LeNet5Config.modern()], ids=["1998", "modern"])
def test_lenet5_learns_a_batch_of_digits(config):
    data = load_arrays("digits")
    x = prepare(torch.from_numpy(enlarge_digits(data.x_train[:32])))
    targets = torch.from_numpy(data.y_train[:32])
    torch.manual_seed(0)
    model = LeNet5(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(100):
        optimizer.zero_grad()
        lenet5_paper.loss_function(model, (x, targets)).backward()
        optimizer.step()
    assert (model(x).argmax(dim=1) == targets).all()


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LeNetConfig("gelu"), "expected activation 'relu' or 'tanh', got 'gelu'"),
        (lambda: LeNetConfig(pooling="min"), "expected pooling 'max' or 'avg', got 'min'"),
        (
            lambda: LeNet()(torch.zeros(8, 3, 28, 28)),
            r"expected images \(B, 1, 28, 28\), got \(8, 3, 28, 28\)",
        ),
        (
            lambda: LeNet5()(torch.zeros(8, 1, 28, 28)),
            r"expected images \(B, 1, 32, 32\), got \(8, 1, 28, 28\)",
        ),
        (
            lambda: prepare(torch.zeros(8, 1, 32, 32)),
            r"expected images \(B, 1, 28, 28\), got \(8, 1, 32, 32\)",
        ),
        (
            lambda: LeNet5Config(connection_table="table2"),
            r"expected connection_table of \('table1', 'full'\), got 'table2'",
        ),
        (
            lambda: LeNet5Config(output="softmax"),
            r"expected output of \('rbf', 'linear'\), got 'softmax'",
        ),
        (
            lambda: LeNet5Config(rubbish_penalty=0),
            "expected a positive rubbish_penalty, got 0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
