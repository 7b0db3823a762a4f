"""Tests of level 2: equal to level 1 and to PyTorch; update rule, sampling, properties."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gpt_lowlevel as low
import gpt_numpy
import gpt_sampling_lowlevel as sampling
import gpt_sampling_numpy
import gpt_training_lowlevel as training
from gpt_lowlevel import GPTConfig, forward, init_params
from optimizers_numpy import AdamW
from recurrent_numpy import (
    clip_by_norm,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into

SIZES = {"vocabulary": 11, "context": 9, "width": 12, "heads": 3, "layers": 2, "dropout": 0.0}


def make_params(config, seed=0):
    params = init_params(config, torch.Generator().manual_seed(seed), torch.float64)
    perturb(params)
    return params


def make_batch(seed=0):
    """Tokens and targets (3, 7); the last targets of a row may not count."""
    tokens = torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(seed))
    x, y = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    y[1, 4:] = y[2, 6:] = training.IGNORED
    return x, y


def step(params, config, batch):
    x, y = batch
    for p in params.values():
        p.grad = None
    logits = forward(params, x, config)
    loss = training.next_token_loss(logits, y)
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


def numpy_step(model, batch):
    x, y = (t.numpy() for t in batch)
    logits = model.forward(x)
    loss, cache = sequence_cross_entropy_forward(logits, y, y != training.IGNORED)
    return Result(logits, loss, model.backward(sequence_cross_entropy_backward(cache)))


def numpy_model(params, config):
    model = gpt_numpy.GPT(gpt_numpy.GPTConfig(**vars(config)), np.random.default_rng(0))
    load_into(model.params, params)
    return model


# --- level 1


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_equals_level_1(norm):
    config = GPTConfig(**SIZES | {"norm": norm})
    params, batch = make_params(config), make_batch()
    assert_parity(step(params, config, batch), numpy_step(numpy_model(params, config), batch))


def trajectories(decay_everywhere=False):
    config = GPTConfig(**SIZES)
    params = make_params(config)
    model = numpy_model(params, config)
    optimizer = training.AdamW(params, 0.01, 0.1, (0.9, 0.95))
    others = [
        AdamW(
            {n: p for n, p in model.params.items() if p.ndim == d}, 0.01, (0.9, 0.95),
            weight_decay=0.1 if d == 2 or decay_everywhere else 0.0,
        )
        for d in (1, 2)
    ]  # fmt: skip
    losses, wanted = [], []
    for i in range(10):
        x, y = make_batch(i)
        loss = training.next_token_loss(forward(params, x, config), y)
        optimizer.lr = 0.01 * training.cosine_rate(i, 10, 3)
        losses.append(training.update(optimizer, loss, clip=0.5)[0])
        want = numpy_step(model, (x, y))
        clip_by_norm(want.grads, 0.5)
        for other in others:
            other.lr = 0.01 * gpt_numpy.cosine_rate(i, 10, 3)
            other.step(want.grads)
        wanted.append(want.loss)
    return losses, wanted


def test_ten_steps_equal_level_1_and_notice_weight_decay_on_biases():
    assert_trajectory(*trajectories())
    with pytest.raises(ParityError, match="step 2"):
        assert_trajectory(*trajectories(decay_everywhere=True))


def test_dropout_stands_in_the_same_places_as_at_level_1(monkeypatch):
    """Random masks differ from level to level; so a fixed one takes their place."""
    shapes = []

    def pattern(shape):
        return 1 + 0.3 * np.sin(np.arange(math.prod(shape))).reshape(shape)

    def marked(x, rate, generator):
        shapes.append(tuple(x.shape))
        return x * torch.from_numpy(pattern(tuple(x.shape)))

    def marked_numpy(x, rate, rng, train):
        assert rate == 0.3 and train
        return x * pattern(x.shape), (pattern(x.shape),)

    import attention_numpy

    monkeypatch.setattr(low, "dropout", marked)
    for module in (gpt_numpy, attention_numpy):
        monkeypatch.setattr(module, "dropout_forward", marked_numpy)
    config = GPTConfig(**SIZES | {"dropout": 0.3})
    params, (x, y) = make_params(config), make_batch()
    got = step(params, config, (x, y))
    model = numpy_model(params, config)
    logits = model.forward(x.numpy(), train=True, rng=np.random.default_rng(0))
    loss, cache = sequence_cross_entropy_forward(logits, y.numpy(), y.numpy() >= 0)
    want = Result(logits, loss, model.backward(sequence_cross_entropy_backward(cache)))
    assert_parity(got, want)
    one = [(3, 3, 7, 7), (3, 7, 12), (3, 7, 12)]  # weights, attention, MLP
    assert shapes == [(3, 7, 12), *one, *one]


# --- PyTorch


def test_parts_equal_torch():
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(4, 12, dtype=torch.float64, generator=generator)
    assert max_difference(low.gelu(x), F.gelu(x, approximate="tanh")) < 1e-13
    p = {"n.weight": torch.randn(12).double(), "n.bias": torch.randn(12).double()}
    want = F.layer_norm(x, (12,), p["n.weight"], p["n.bias"])
    assert max_difference(low.layer_norm(x, p, "n"), want) < 1e-13
    logits, (_, y) = torch.randn(3, 7, 11).double(), make_batch()
    want = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100)
    assert max_difference(training.next_token_loss(logits, y), want) < 1e-13


def torch_rule(params, optimizer_class, **options):
    groups = [
        {"params": [p for p in params.values() if p.ndim == 2]},
        {"params": [p for p in params.values() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return optimizer_class(groups, **options)


def losses_of(rule):
    config = GPTConfig(**SIZES)
    params = make_params(config)
    if rule == "ours":
        optimizer = training.AdamW(params, 0.01, 0.2, (0.8, 0.9), 1e-6)
    else:
        kind = {"AdamW": torch.optim.AdamW, "Adam": torch.optim.Adam}[rule]
        options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.2}
        optimizer = torch_rule(params, kind, **options)
    losses = []
    for i in range(10):
        losses.append(step(params, config, make_batch(i)).loss.detach())
        optimizer.step()
    return losses


def test_the_update_rule_is_torchs_adamw():
    ours = losses_of("ours")
    assert_trajectory(ours, losses_of("AdamW"))
    with pytest.raises(ParityError):  # coupled decay shows in the second step already
        assert_trajectory(ours, losses_of("Adam"))


def test_clipping():
    params = {"a": torch.zeros(2, requires_grad=True), "b": torch.zeros(1, requires_grad=True)}
    for limit, want in ((10.0, [3.0, 0.0, 4.0]), (1.0, [0.6, 0.0, 0.8])):
        params["a"].grad, params["b"].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
        assert training.clip_by_norm(params, limit) == 5
        got = torch.cat([params["a"].grad, params["b"].grad])
        assert max_difference(got, want) < 1e-6


@pytest.mark.parametrize("fault", ["exact gelu", "post-norm", "no mask", "no scale", "no wpe"])
def test_the_comparison_notices(fault, monkeypatch):
    config = GPTConfig(**SIZES)
    params, batch = make_params(config), make_batch()
    want = numpy_step(numpy_model(params, config), batch)
    assert_parity(step(params, config, batch), want)
    if fault == "exact gelu":
        monkeypatch.setattr(low, "gelu", F.gelu)
    elif fault == "post-norm":
        block = low.block
        post = GPTConfig(**SIZES | {"norm": "post"})
        monkeypatch.setattr(low, "block", lambda x, p, n, _, g: block(x, p, n, post, g))
    elif fault == "no mask":
        monkeypatch.setattr(torch.Tensor, "masked_fill", lambda self, mask, value: self)
    elif fault == "no scale":
        monkeypatch.setattr(low.math, "sqrt", lambda x: 1.0)
    else:
        with torch.no_grad():
            params["wpe.weight"].zero_()
    with pytest.raises(ParityError):
        assert_parity(step(params, config, batch), want)


# --- initial weights, properties


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_initial_weights(norm):
    config = GPTConfig(300, 64, 96, 4, 8, norm=norm)
    params = init_params(config, torch.Generator().manual_seed(0))
    small = 0.02 / 4 if norm == "pre" else 0.02
    for name, p in params.items():
        assert p.is_leaf and p.requires_grad and p.dtype == torch.float32
        if p.ndim == 1:
            assert (p == (0 if name.endswith("bias") else 1)).all()
        else:
            std = small if name.endswith("c_proj.weight") else 0.02
            assert p.std().item() == pytest.approx(std, rel=0.04), name
    same = init_params(config, torch.Generator().manual_seed(0))
    assert all(torch.equal(p, same[name]) for name, p in params.items())
    level_1 = gpt_numpy.initial_params(
        gpt_numpy.GPTConfig(300, 64, 96, 4, 8, norm=norm), np.random.default_rng(0)
    )
    assert {n: p.shape for n, p in level_1.items()} == {n: p.shape for n, p in params.items()}


def test_the_defaults_are_those_of_the_papers():
    assert vars(GPTConfig()) == vars(gpt_numpy.GPTConfig())  # GPT-2 small
    o = training.AdamW({})  # GPT-1, section 4.1; Adam's own for the rest
    assert (o.lr, o.weight_decay, o.betas, o.eps) == (2.5e-4, 0.01, (0.9, 0.999), 1e-8)


def test_an_update_clips_to_1_unless_told():
    p = {"w": torch.zeros(4, requires_grad=True)}
    loss, norm = training.update(training.AdamW(p), 3 * p["w"].sum())
    assert (loss.item(), norm.item()) == (0, 6) and not loss.requires_grad
    assert max_difference(p["w"].grad, torch.full((4,), 0.5)) < 1e-6


@pytest.mark.parametrize("step", [0, 3, 4, 12, 20, 30])
def test_the_learning_rate_is_that_of_level_1(step):
    for total in (20, 4):  # of 4 steps, all are warmup
        want = gpt_numpy.cosine_rate(step, total, 4)
        assert training.cosine_rate(step, total, 4) == pytest.approx(want, rel=1e-12)


def test_initial_loss_is_guessing():
    config = GPTConfig(200, 32, 64, 4, 3, 0.0)
    params = init_params(config, torch.Generator().manual_seed(0))
    x, y = torch.randint(200, (2, 16, 32), generator=torch.Generator().manual_seed(1))
    loss = training.next_token_loss(forward(params, x, config), y).item()
    assert loss == pytest.approx(math.log(200), abs=0.03)


def test_it_overfits_a_batch():
    config = GPTConfig(**SIZES | {"width": 24})
    params = init_params(config, torch.Generator().manual_seed(0))
    optimizer, (x, y) = training.AdamW(params, 0.01, 0.0), make_batch()
    for _ in range(150):
        loss, _ = training.update(
            optimizer, training.next_token_loss(forward(params, x, config), y)
        )
    assert loss < 0.05


def test_a_token_changes_nothing_before_it():
    config = GPTConfig(**SIZES)
    params, (x, _) = make_params(config), make_batch()
    before, changed = forward(params, x, config), x.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    after = forward(params, changed, config)
    assert torch.equal(before[:, :4], after[:, :4])
    assert ((before - after)[:, 4:].abs().amax(dim=(0, 2)) > 1e-6).all()


def test_dropout_needs_a_generator():
    config = GPTConfig(**SIZES | {"dropout": 0.5})
    params, (x, _) = make_params(config), make_batch()
    assert torch.equal(forward(params, x, config), forward(params, x, config))
    one, two, again = (
        forward(params, x, config, torch.Generator().manual_seed(s)) for s in (0, 1, 0)
    )
    assert torch.equal(one, again) and max_difference(one, two) > 1e-3
    kept = low.dropout(torch.ones(20_000), 0.25, torch.Generator().manual_seed(0))
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert sorted(set(kept.tolist())) == [0, pytest.approx(4 / 3)]


# --- sampling


@pytest.mark.parametrize(
    "how", [(1.0, 0, 1.0), (0.7, 3, 1.0), (1.3, 0, 0.6), (1.0, 5, 0.8), (1.0, 20, 1.0)]
)
def test_the_distribution_is_that_of_level_1(how):
    logits = 2 * torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = gpt_sampling_numpy.next_distribution(logits.numpy(), *how)
    assert max_difference(sampling.next_distribution(logits, *how), want) < 1e-12


@pytest.mark.parametrize("how", [(1.0, 20, 1.0), (1.0, 0, 0.3)])
def test_ties_are_kept_or_dropped_as_at_level_1(how):
    logits = torch.arange(40, dtype=torch.float64)[None] % 2
    want = gpt_sampling_numpy.next_distribution(logits.numpy(), *how)
    assert max_difference(sampling.next_distribution(logits, *how), want) < 1e-12


@pytest.mark.parametrize("how", [(0.5, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.6)])
def test_drawing_and_writing_follow_the_rules(how):
    def seed():
        return torch.Generator().manual_seed(1)

    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(50, 4)
    p = sampling.next_distribution(logits, *how)
    drawn = sampling.pick(logits, *how, seed())
    assert torch.equal(drawn, torch.multinomial(p, 1, generator=seed())[:, 0])

    config = GPTConfig(**SIZES)
    params, (x, _) = make_params(config), make_batch()
    logits_of, want, generator = partial(forward, params, config=config), x, seed()
    for _ in range(12):
        new = sampling.pick(logits_of(want[:, -9:])[:, -1], *how, generator)
        want = torch.cat([want, new[:, None]], dim=1)
    assert torch.equal(sampling.generate(logits_of, x, 12, 9, *how, seed()), want)
    assert not torch.equal(sampling.generate(logits_of, x, 12, 9, generator=seed()), want)


def test_greedy_generation_is_that_of_level_1():
    config = GPTConfig(**SIZES)
    params, (x, _) = make_params(config), make_batch()
    logits_of = partial(forward, params, config=config)
    got = sampling.generate(logits_of, x[:, :3], 12, 9, temperature=0)
    want = gpt_sampling_numpy.generate(
        numpy_model(params, config), x[:, :3].numpy(), 12, temperature=0
    )
    assert np.array_equal(got, want)
    draws = [
        sampling.generate(
            logits_of, x, 5, 9, generator=torch.Generator().manual_seed(s)
        )
        for s in (0, 0, 1)
    ]  # fmt: skip
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


# --- bad input


def test_bad_input():
    config = GPTConfig(**SIZES)
    params = make_params(config)
    with pytest.raises(ValueError, match=r"expected tokens \(B, T\), got \(5,\)"):
        forward(params, torch.zeros(5, dtype=torch.long), config)
    with pytest.raises(ValueError, match="sequence of 10 tokens exceeds the context of 9"):
        forward(params, torch.zeros(2, 10, dtype=torch.long), config)
    with pytest.raises(ValueError, match="expected targets that count, got none"):
        training.next_token_loss(torch.zeros(1, 2, 3), torch.full((1, 2), -100))
    with pytest.raises(ValueError, match="expected at least one token"):
        sampling.generate(lambda x: x, torch.zeros(2, 0, dtype=torch.long), 3, 9)


@pytest.mark.parametrize("how", [(0.0, 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1)])
def test_bad_sampling(how):
    with pytest.raises(ValueError, match="expected temperature above 0, top_k of at least 0"):
        sampling.next_distribution(torch.zeros(1, 3), *how)
