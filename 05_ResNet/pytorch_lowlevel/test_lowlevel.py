"""Tests of level 2: the same weights as level 1, the same outputs, gradients and training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import resnet_lowlevel as low
import resnet_numpy as np_level
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
from utils.weights import load_into, load_weights, save_weights, to_torch

CASES = [
    pytest.param(residual, train, id=f"{'residual' if residual else 'plain'}-train={train}")
    for residual in (True, False)
    for train in (True, False)
]


def make_batch(seed=0, size=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((size, 3, 8, 9)), rng.integers(10, size=size)


def make_numpy_model(residual=True, depth=8):
    model = np_level.ResNet(np_level.ResNetConfig(depth, residual), np.random.default_rng(0))
    perturb(model.state())
    return model


def lowlevel_state(model):
    return to_torch(model.params, requires_grad=True), to_torch(model.buffers)


def numpy_step(model, x, targets, train=True):
    """Logits, loss and gradients of level 1; in training its running statistics move."""
    logits = model.forward(x, train)
    loss, cache = softmax_cross_entropy_forward(logits, targets)
    return Result(logits, loss, model.backward(softmax_cross_entropy_backward(cache)))


def lowlevel_step(params, buffers, batch, residual=True, train=True, depth=8):
    x, targets = (torch.from_numpy(a) for a in batch)
    for p in params.values():
        p.grad = None
    logits = low.forward(params, buffers, x, low.ResNetConfig(depth, residual), train)
    loss = low.cross_entropy(logits, targets)
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


def compare(residual=True, train=True, fault=lambda params, buffers: None, depth=8):
    """Two passes at both levels: outputs, gradients, and the running statistics afterwards."""
    model = make_numpy_model(residual, depth)
    params, buffers = lowlevel_state(model)
    fault(params, buffers)
    for seed in (0, 1):
        batch = make_batch(seed)
        got = lowlevel_step(params, buffers, batch, residual, train, depth)
        assert_parity(got, numpy_step(model, *batch, train))
    assert_same(buffers, model.buffers, what="buffer")


# --- across levels


@pytest.mark.parametrize(("residual", "train"), CASES)
def test_equals_level_1_running_statistics_included(residual, train):
    compare(residual, train)


def test_two_blocks_a_stage_equal_level_1():
    """With one block a stage, as above, a stride at the wrong block would not show."""
    compare(depth=14)


def trajectories(rule, residual=True):
    """Losses of ten steps at both levels, from the same weights over the same batches."""
    model = make_numpy_model(residual)
    params, buffers = lowlevel_state(model)
    optimizer = SGD(model.params, lr=0.05, momentum=0.9, weight_decay=0.01)
    low_optimizer = rule(params)
    losses, low_losses = [], []
    for step in range(10):
        x, targets = make_batch(step, size=8)
        result = numpy_step(model, x, targets)
        optimizer.step(result.grads)
        losses.append(result.loss)
        batch = torch.from_numpy(x), torch.from_numpy(targets)
        config = low.ResNetConfig(8, residual)
        low_losses.append(low.train_step(params, buffers, low_optimizer, *batch, config))
    return (low_losses, losses), (buffers, model.buffers)


@pytest.mark.parametrize("residual", [True, False])
def test_ten_steps_equal_level_1(residual):
    losses, buffers = trajectories(lambda p: low.SGD(p, 0.05, weight_decay=0.01), residual)
    assert_trajectory(*losses)
    assert_same(*buffers, what="buffer")


def test_a_file_of_level_1_loads_here(tmp_path):
    model = make_numpy_model()
    loaded = load_weights(save_weights(tmp_path / "model.safetensors", model.state()))
    config = low.ResNetConfig(8)
    params = low.init_params(config, dtype=torch.float64)
    buffers = low.init_buffers(config, dtype=torch.float64)
    load_into(params | buffers, loaded)
    batch = make_batch()
    got = lowlevel_step(params, buffers, batch, train=False)
    assert_parity(got, numpy_step(model, *batch, train=False), tol=1e-12)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_torch(train):
    generator = torch.Generator().manual_seed(0)
    x = 2 + torch.randn(3, 4, 5, 2, generator=generator, dtype=torch.float64)
    params = {f"bn.{n}": torch.randn(4, dtype=torch.float64) for n in ("weight", "bias")}
    ours = {
        "bn.running_mean": torch.randn(4, dtype=torch.float64),
        "bn.running_var": 0.5 + torch.rand(4, dtype=torch.float64),
        "bn.num_batches_tracked": torch.tensor(0),
    }
    theirs = {name: value.clone() for name, value in ours.items()}
    y = low.batch_norm(x, "bn", params, ours, train)
    want = F.batch_norm(
        x, theirs["bn.running_mean"], theirs["bn.running_var"], *params.values(), training=train
    )
    assert max_difference(y, want) < 1e-12
    theirs["bn.num_batches_tracked"] += int(train)
    assert_same(ours, theirs, tol=1e-13)


# --- the comparison can fail


def without_bias(params, buffers):
    params["layer2.0.bn2.bias"].data.zero_()


def flipped_kernels(params, buffers):
    params["layer1.0.conv2.weight"].data = params["layer1.0.conv2.weight"].data.flip(2, 3)


def swapped_norms(params, buffers):
    names = "layer1.0.bn1.weight", "layer1.0.bn2.weight"
    params[names[0]], params[names[1]] = params[names[1]], params[names[0]]


@pytest.mark.parametrize("fault", [without_bias, flipped_kernels, swapped_norms])
def test_sabotaged_weights_are_noticed(fault):
    compare()
    with pytest.raises(ParityError, match="outputs"):
        compare(fault=fault)


def wrong_running_statistics(params, buffers):
    buffers["layer3.0.bn1.running_var"] *= 1.01


def test_running_statistics_are_not_seen_in_train_mode_but_in_the_buffers():
    """The outputs of training do not depend on them: only comparing buffers finds this fault."""
    for train in (True, False):
        compare(train=train)
    with pytest.raises(ParityError, match="buffer layer3.0.bn1.running_var"):
        compare(train=True, fault=wrong_running_statistics)
    with pytest.raises(ParityError, match="outputs"):
        compare(train=False, fault=wrong_running_statistics)


def zeros_before_the_channels(x, name, stride, params, buffers, train, residual):
    """Option A with the zeros on the other side: the paper does not say on which they are."""
    h = F.conv2d(x, params[f"{name}conv1.weight"], stride=stride, padding=1)
    h = torch.relu(low.batch_norm(h, f"{name}bn1", params, buffers, train))
    h = F.conv2d(h, params[f"{name}conv2.weight"], padding=1)
    h = low.batch_norm(h, f"{name}bn2", params, buffers, train)
    seen = x[:, :, ::stride, ::stride]
    return torch.relu(h + F.pad(seen, (0, 0, 0, 0, h.shape[1] - x.shape[1], 0)))


def relu_before_the_sum(x, name, stride, params, buffers, train, residual):
    h = F.conv2d(x, params[f"{name}conv1.weight"], stride=stride, padding=1)
    h = torch.relu(low.batch_norm(h, f"{name}bn1", params, buffers, train))
    h = F.conv2d(h, params[f"{name}conv2.weight"], padding=1)
    h = torch.relu(low.batch_norm(h, f"{name}bn2", params, buffers, train))
    seen = x[:, :, ::stride, ::stride]
    return h + F.pad(seen, (0, 0, 0, 0, 0, h.shape[1] - x.shape[1]))


@pytest.mark.parametrize("fault", [zeros_before_the_channels, relu_before_the_sum])
def test_sabotaged_block_is_noticed(fault, monkeypatch):
    compare()
    monkeypatch.setattr(low, "basic_block", fault)
    with pytest.raises(ParityError, match="outputs"):
        compare()


def test_a_forgotten_decay_is_noticed_by_the_trajectory():
    assert_trajectory(*trajectories(lambda p: low.SGD(p, 0.05, weight_decay=0.01))[0])
    with pytest.raises(ParityError, match="loss at step 2"):
        assert_trajectory(*trajectories(lambda p: low.SGD(p, 0.05, weight_decay=0.0))[0])


# --- leaves


def test_every_parameter_is_a_leaf_and_receives_a_gradient():
    config = low.ResNetConfig(20)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    buffers = low.init_buffers(config)
    x, targets = (torch.from_numpy(a) for a in make_batch(size=8))
    logits = low.forward(params, buffers, x.float(), config, train=True)
    low.cross_entropy(logits, targets).backward()
    for name, p in params.items():
        assert p.is_leaf and p.requires_grad, name
        assert p.grad is not None and p.grad.abs().sum() > 0, name
    assert not any(b.requires_grad for b in buffers.values())


# --- properties


def test_initialisation_has_the_names_and_sizes_of_level_1():
    config = low.ResNetConfig(20)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    model = np_level.ResNet(np_level.ResNetConfig(20), np.random.default_rng(0))
    state = params | low.init_buffers(config)
    assert {n: tuple(p.shape) for n, p in state.items()} == {
        n: p.shape for n, p in model.state().items()
    }
    again = low.init_params(config, torch.Generator().manual_seed(0))
    assert_same(params, again, tol=0.0)


def test_initialisation():
    """He's deviation by the inputs of an output, gains 1, biases 0, statistics 0 and 1."""
    config = low.ResNetConfig(8)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    for name, value in (params | low.init_buffers(config)).items():
        if "conv" in name or name == "fc.weight":
            want = 0.01 if name == "fc.weight" else np.sqrt(2 / value[0].numel())
            assert abs(value.std().item() / want - 1) < 0.1, name
            assert abs(value.mean().item() / want) < 0.1, name
        else:
            ones = name.endswith(("running_var", ".weight"))
            assert (value == float(ones)).all(), name


def test_the_usual_network_is_that_of_level_1():
    config, one = low.ResNetConfig(), np_level.ResNetConfig()
    assert vars(config) == vars(one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_the_one_asked_for(dtype):
    config = low.ResNetConfig(8)
    state = low.init_params(config, dtype=dtype) | low.init_buffers(config, dtype)
    assert {v.dtype for n, v in state.items() if not n.endswith("tracked")} == {dtype}


def test_unless_told_to_train_the_running_statistics_are_used_and_kept():
    params, buffers = lowlevel_state(make_numpy_model())
    before = {name: value.clone() for name, value in buffers.items()}
    config, x = low.ResNetConfig(8), torch.from_numpy(make_batch()[0])
    got = low.forward(params, buffers, x, config)
    assert_same(buffers, before, tol=0.0)
    assert torch.equal(got, low.forward(params, buffers, x, config, train=False))


@pytest.mark.parametrize("decay", [{}, {"weight_decay": 0.01}], ids=["usual", "decay"])
def test_the_update_rule_equals_torch(decay):
    generator = torch.Generator().manual_seed(0)
    ours = {n: torch.randn(3, 4, generator=generator, dtype=torch.float64) for n in ("a", "b")}
    theirs = {name: value.clone() for name, value in ours.items()}
    optimizer = low.SGD(ours, 0.1, **decay)
    reference = torch.optim.SGD(theirs.values(), 0.1, momentum=0.9, **decay)
    for _ in range(3):
        for name, value in ours.items():
            value.grad = torch.randn(3, 4, generator=generator, dtype=torch.float64)
            theirs[name].grad = value.grad.clone()
        optimizer.step()
        reference.step()
    assert_same(ours, theirs, tol=1e-12)


def test_cross_entropy_equals_torch_for_large_logits_too():
    logits = 1800 * torch.eye(4, dtype=torch.float64)[:3] - 600
    targets = torch.tensor([0, 3, 1])
    want = F.cross_entropy(logits, targets)
    assert max_difference(low.cross_entropy(logits, targets), want) < 1e-12


def test_overfits_one_batch():
    config = low.ResNetConfig(8)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    buffers = low.init_buffers(config)
    optimizer = low.SGD(params, lr=0.05)
    x, targets = (torch.from_numpy(a) for a in make_batch(size=16))
    for _ in range(40):
        loss = low.train_step(params, buffers, optimizer, x.float(), targets, config)
    assert loss < 0.02 and not loss.requires_grad


def test_augmented_images_are_crops_or_their_mirror_images():
    """Every image draws its own of the 162 cases, rows apart from columns; half are mirrored."""
    images = torch.rand(2000, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    padded = F.pad(images, (4, 4, 4, 4))
    changed = low.augment(images, torch.Generator().manual_seed(1))
    counts = torch.zeros(2, 9, 9, dtype=torch.int64)
    for top in range(9):
        for left in range(9):
            crop = padded[:, :, top : top + 6, left : left + 7]
            for mirrored, want in ((0, crop), (1, crop.flip(3))):
                counts[mirrored, top, left] = (changed == want).flatten(1).all(dim=1).sum()
    assert counts.sum() == 2000 and counts.min() > 0
    assert 900 < counts[1].sum() < 1100
    assert torch.equal(changed, low.augment(images, torch.Generator().manual_seed(1)))


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low.ResNetConfig(18), "expected a depth of 6n [+] 2, such as 8 or 20, got 18"),
        (lambda: low.ResNetConfig(2), "expected a depth of 6n [+] 2, such as 8 or 20, got 2"),
        (lambda: low.ResNetConfig(channels=0), "expected positive classes and channels"),
        (lambda: low.ResNetConfig(classes=0), "expected positive classes and channels"),
        (
            lambda: low.forward({}, {}, torch.zeros(8, 3, 28), low.ResNetConfig()),
            r"expected images \(B, 3, H, W\), got \(8, 3, 28\)",
        ),
        (
            lambda: low.cross_entropy(torch.zeros(3), torch.zeros(3, dtype=torch.long)),
            r"expected logits \(B, K\) and targets \(B,\), got \(3,\) and \(3,\)",
        ),
        (
            lambda: low.forward({}, {}, torch.zeros(8, 1, 28, 28), low.ResNetConfig()),
            r"expected images \(B, 3, H, W\), got \(8, 1, 28, 28\)",
        ),
        (
            lambda: low.cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
            r"expected logits \(B, K\) and targets \(B,\), got \(2, 3\) and \(3,\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
