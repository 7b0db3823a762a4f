"""Tests of level 2: equal to level 1, outputs, losses, gradients and ten steps; sabotage.

Level 3's tests hold both to transformers.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bert_lowlevel as low
import bert_numpy as np_level
from bert_layers_numpy import masked_cross_entropy_backward, masked_cross_entropy_forward
from bert_lowlevel import BertConfig, classify, forward, head_params, init_params
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from pretraining_lowlevel import AdamW, linear_decay, masked_cross_entropy, update
from pretraining_numpy import BertAdam
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch

CONFIG = BertConfig(13, 12, 3, 7, 2, longest=8, dropout=0.0, attention_dropout=0.0)


def make_numpy(seed=0):
    config = np_level.BertConfig(**vars(CONFIG))
    model = np_level.BertForPreTraining(config, np.random.default_rng(seed))
    perturb(model.params)
    return model


def make_batch(seed=0):
    """Tokens, segments, mask, labels (3, 6), next labels (3,); the last text is padding alone."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 13, size=(3, 6))
    segments = (np.arange(6) > np.array([[2], [3], [6]])).astype(np.int64)
    mask = np.arange(6) < np.array([[6], [4], [0]])
    labels = np.where((rng.random((3, 6)) < 0.5) & mask, tokens, -100)
    labels[0, 1] = 7
    return tokens, segments, mask, labels, rng.integers(2, size=3)


def numpy_step(model, batch):
    tokens, segments, mask, labels, follows = batch
    logits, next_logits = model.forward(tokens, segments, mask)
    loss, cache = masked_cross_entropy_forward(logits, labels)
    next_loss, next_cache = softmax_cross_entropy_forward(next_logits, follows)
    grads = model.backward(
        masked_cross_entropy_backward(cache), softmax_cross_entropy_backward(next_cache)
    )
    outputs = np.concatenate([logits.ravel(), next_logits.ravel()])
    return Result(outputs, loss + next_loss, grads)


def step(params, batch):
    tokens, segments, mask, labels, follows = (torch.from_numpy(a) for a in batch)
    for p in params.values():
        p.grad = None
    logits, next_logits = forward(params, CONFIG, tokens, segments, mask)
    loss = masked_cross_entropy(logits, labels) + masked_cross_entropy(next_logits, follows)
    loss.backward()
    outputs = torch.cat([logits.flatten(), next_logits.flatten()])
    return Result(outputs, loss, {n: p.grad for n, p in params.items()})


def compare():
    model = make_numpy()
    assert_parity(
        step(to_torch(model.params, requires_grad=True), make_batch()),
        numpy_step(model, make_batch()),
    )


def test_equals_level_1():
    compare()


def test_ten_steps_equal_level_1():
    model = make_numpy()
    params = to_torch(model.params, requires_grad=True)
    optimizer, reference = AdamW(params), BertAdam(model.params)
    losses, wanted = [], []
    for i in range(10):
        optimizer.lr = reference.lr = 0.01 * linear_decay(10, 3)(i)
        losses.append(step(params, make_batch(i)).loss.detach())
        optimizer.step()
        want = numpy_step(model, make_batch(i))
        reference.step(want.grads)
        wanted.append(want.loss)
    assert_trajectory(losses, wanted)


def test_classifier_equals_level_1():
    config = np_level.BertConfig(**vars(CONFIG))
    model = np_level.BertForSequenceClassification(config, 4, np.random.default_rng(0))
    perturb(model.params)
    params = to_torch(model.params, requires_grad=True)
    inputs, labels = make_batch()[:3], np.array([0, 3, 1])
    logits = model.forward(*inputs)
    loss, cache = softmax_cross_entropy_forward(logits, labels)
    want = Result(logits, loss, model.backward(softmax_cross_entropy_backward(cache)))
    got = classify(params, CONFIG, *(torch.from_numpy(a) for a in inputs))
    got_loss = F.cross_entropy(got, torch.from_numpy(labels))
    got_loss.backward()
    assert_parity(Result(got, got_loss, {n: p.grad for n, p in params.items()}), want)


# --- sabotage


def unscaled_scores(monkeypatch):
    monkeypatch.setattr(low, "math", SimpleNamespace(sqrt=lambda x: 1.0, inf=math.inf))


def tanh_gelu(monkeypatch):
    monkeypatch.setitem(low.ACTIVATIONS, "gelu", lambda x: F.gelu(x, approximate="tanh"))


def other_epsilon(monkeypatch):
    right = low.layer_norm
    monkeypatch.setattr(low, "layer_norm", lambda x, p, name, eps: right(x, p, name, 1e-5))


def no_shortcut(monkeypatch):
    monkeypatch.setattr(
        low,
        "add_norm",
        lambda h, x, p, name, c, generator: low.layer_norm(
            low.linear(h, p, f"{name}.dense"), p, f"{name}.LayerNorm", c.eps
        ),
    )


def large_negative_mask(monkeypatch):
    right = torch.Tensor.masked_fill
    monkeypatch.setattr(
        torch.Tensor,
        "masked_fill",
        lambda x, mask, value: right(x, mask, -5.0 if value == -math.inf else value),
    )


@pytest.mark.parametrize(
    "fault", [unscaled_scores, tanh_gelu, other_epsilon, no_shortcut, large_negative_mask]
)
def test_sabotage_is_noticed(fault, monkeypatch):
    compare()
    fault(monkeypatch)
    with pytest.raises(ParityError):
        compare()


def test_coupled_weight_decay_shows_in_the_trajectory():
    losses = []
    for coupled in (False, True):
        params = to_torch(make_numpy().params, requires_grad=True)
        optimizer = AdamW(params, lr=0.01, weight_decay=0.0 if coupled else 0.5)
        of_one = []
        for i in range(4):
            of_one.append(step(params, make_batch(i)).loss.detach())
            if coupled:
                for p in params.values():
                    p.grad += 0.5 * p.detach() * (p.ndim > 1)
            optimizer.step()
        losses.append(of_one)
    assert max_difference(losses[0][0], losses[1][0]) < 1e-12
    assert max_difference(losses[0][3], losses[1][3]) > 1e-3


# --- properties


def test_names_and_shapes_are_level_1s():
    params = init_params(CONFIG, torch.Generator().manual_seed(0))
    model = make_numpy()
    load_into(model.params, params)
    assert all(p.is_leaf and p.requires_grad for p in params.values())
    assert set(head_params("classifier", 3, 12)) == {"classifier.weight", "classifier.bias"}


def test_the_defaults_are_level_1s():
    assert vars(BertConfig()) == vars(np_level.BertConfig())
    optimizer = AdamW({"weight": torch.zeros(1)})
    assert (optimizer.lr, optimizer.weight_decay, optimizer.eps) == (1e-4, 0.01, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fresh_weights(dtype):
    config, firsts = BertConfig(97, 48, 4, 80, 2, longest=37), set()
    params = init_params(config, torch.Generator().manual_seed(0), dtype)
    params |= head_params("classifier", 5, 48, torch.Generator().manual_seed(1), dtype)
    for name, p in params.items():
        assert p.dtype == dtype and p.is_leaf and p.requires_grad
        p = p.detach().double()
        if "LayerNorm.weight" in name:
            assert (p == 1).all()
        elif name.endswith("bias"):
            assert not p.any()
        else:
            assert abs(p.mean()) < 4 * 0.02 / math.sqrt(p.numel())
            assert abs(p.std() / 0.02 - 1) < 4 / math.sqrt(2 * p.numel())
            firsts.add(p.flatten()[0].item())
    assert len(firsts) == sum(p.ndim == 2 for p in params.values())  # each is drawn by itself


def test_fresh_weights_follow_the_generator():
    one, two = (init_params(CONFIG, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_dropout_by_hand():
    x = torch.arange(1.0, 2001).reshape(40, 50)
    y = low.dropout(x, 0.25, torch.Generator().manual_seed(0))
    kept = y != 0
    assert torch.allclose(y[kept], x[kept] / 0.75, rtol=1e-6)
    assert abs(kept.double().mean() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 2000)
    assert low.dropout(x, 0.25, None) is x


def test_each_rate_of_dropout_stands_in_its_place(monkeypatch):
    calls = []
    monkeypatch.setattr(low, "dropout", lambda x, rate, g: calls.append((rate, g)) or x)
    config = BertConfig(**vars(CONFIG) | {"dropout": 0.2, "attention_dropout": 0.3})
    params = init_params(config) | head_params("classifier", 4, 12)
    tokens, generator = torch.from_numpy(make_batch()[0]), torch.Generator()
    rates = [0.2, *[0.3, 0.2, 0.2] * 2]
    for model, want in ((forward, rates), (classify, [*rates, 0.2])):
        for g in (None, generator):
            calls.clear()
            model(params, config, tokens, generator=g)
            assert calls == [(rate, g) for rate in want]


def test_update_goes_down_the_gradient_of_this_loss_alone():
    params = {name: torch.ones(2, 2, requires_grad=True) for name in ("used", "unused")}
    optimizer = AdamW(params, lr=0.1, weight_decay=0.5)
    for factor in (1.0, 2.0):
        loss = update(optimizer, factor * params["used"].sum())
        assert not loss.requires_grad and (params["used"].grad == factor).all()
    assert (params["unused"] == 1).all() and int(optimizer.state["step"]) == 2
    assert loss.item() == pytest.approx(2 * 4 * (1 * 0.95 - 0.1), rel=1e-4)


def test_dropout_needs_a_generator_and_follows_it():
    config = BertConfig(**vars(CONFIG) | {"dropout": 0.3, "attention_dropout": 0.3})
    params = to_torch(make_numpy().params)
    tokens = torch.from_numpy(make_batch()[0])
    plain, _ = forward(params, config, tokens)
    assert torch.equal(plain, forward(params, CONFIG, tokens)[0])
    one, two, three = (
        forward(params, config, tokens, generator=torch.Generator().manual_seed(s))[0]
        for s in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, three) and not torch.equal(one, plain)


def test_loss_is_finite_whatever_the_mask():
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full((2, 3), -100))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
    labels = torch.tensor([[1, -100, 2], [-100, -100, 4]])
    want = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert max_difference(masked_cross_entropy(logits, labels), want) < 1e-12


def test_overfits_one_batch():
    config = BertConfig(**vars(CONFIG) | {"width": 24})
    params = init_params(config, torch.Generator().manual_seed(0))
    tokens, segments, mask, labels, follows = (torch.from_numpy(a) for a in make_batch())
    optimizer = AdamW(params, lr=5e-3)
    for _ in range(60):
        logits, next_logits = forward(params, config, tokens, segments, mask, labels != -100)
        loss = masked_cross_entropy(logits, labels[labels != -100])
        loss = update(optimizer, loss + masked_cross_entropy(next_logits[:2], follows[:2]))
    assert loss < 0.05


@pytest.mark.parametrize(
    "name", ["vocabulary", "width", "heads", "hidden", "layers", "longest", "segments"]
)
def test_sizes_below_1_are_refused(name):
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        BertConfig(**{name: 0})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BertConfig(heads=7), "a width that 7 heads divide, got 768"),
        (lambda: BertConfig(dropout=1), r"expected dropout in \[0, 1\), got 1"),
        (lambda: BertConfig(attention_dropout=-1), r"attention_dropout in \[0, 1\), got -1"),
        (
            lambda: forward(init_params(CONFIG), CONFIG, torch.zeros(3).long()),
            r"expected tokens \(B, T\) .*got \(3,\)",
        ),
        (lambda: BertConfig(activation="x"), "activation of gelu, gelu_new, relu, got 'x'"),
        (
            lambda: forward(init_params(CONFIG), CONFIG, torch.zeros(1, 9).long()),
            r"T of at most 8, got \(1, 9\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
