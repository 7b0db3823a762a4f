"""Tests of level 1: every part and the model against central differences and torch; masking.

Level 3's tests hold this level to transformers.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bert_layers_numpy import (
    embeddings_backward,
    embeddings_forward,
    layer_backward,
    layer_forward,
    masked_cross_entropy_backward,
    masked_cross_entropy_forward,
    masked_lm_head_backward,
    masked_lm_head_forward,
    pooler_backward,
    pooler_forward,
)
from bert_numpy import BertConfig, BertForPreTraining, BertForSequenceClassification
from masking_numpy import IGNORED, mask_tokens, next_sentence_pairs, pack_pairs
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from pretraining_numpy import BertAdam, linear_decay
from transformer_layers_numpy import part
from utils.gradient_check import GradientMismatch, check_backward
from utils.parity import max_difference, perturb
from wordpiece_numpy import WordPiece

RNG = np.random.default_rng(0)
B, T, nH, Dh, HIDDEN = 2, 5, 3, 2, 7
D = nH * Dh
SMALL = BertConfig(11, D, nH, HIDDEN, 2, longest=6, dropout=0.0, attention_dropout=0.0)
EPS = 1e-12


class SameNumbers:
    """Draws the same numbers at every call: dropout that a difference quotient can follow."""

    def random(self, shape):
        return np.random.default_rng(5).random(shape)


PLAIN, DROPPING = (None, False), (SameNumbers(), True)


def make(kind=BertForPreTraining, config=SMALL, seed=0):
    rng = np.random.default_rng(seed)
    model = kind(config, rng) if kind is BertForPreTraining else kind(config, 3, rng)
    perturb(model.params)
    return model


def texts(config=SMALL, seed=0):
    """Tokens, segments and mask (2, 5)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(config.vocabulary, size=(B, T))
    segments = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 1, 0]])
    mask = np.array([[True] * 5, [True, True, True, True, False]])
    return tokens, segments, mask


def check_dict(forward, backward, inputs, p, **kwargs):
    """check_backward for a pair that takes its parameters, and gives their gradients, as a dict.

    The bias of the keys is left out of the differences: its gradient is zero (07's theory, section
    9), and a quotient of rounding errors would be compared with it.
    """
    names = [name for name in p if not name.endswith("key.bias")]

    def flat_forward(*values):
        x, rest = values[: len(inputs)], values[len(inputs) :]
        return forward(*x, p | dict(zip(names, rest, strict=True)), **kwargs)

    def flat_backward(dy, cache):
        *dx, g = backward(dy, cache)
        assert set(g) == set(p)
        assert all(np.abs(g[name]).max() < 1e-12 for name in p if name not in names)
        return *dx, *(g[name] for name in names)

    check_backward(flat_forward, flat_backward, inputs | {name: p[name] for name in names})


# --- gradients, by central differences


@pytest.mark.parametrize("drop", [PLAIN, DROPPING], ids=["plain", "dropout"])
def test_embeddings_gradients(drop):
    tokens, segments, _ = texts()
    tokens[0, :2] = 3  # a token that occurs twice gets both gradients
    p = part(make().params, "bert.embeddings.")

    def forward(p):
        return embeddings_forward(tokens, segments, p, 0.3, EPS, drop)

    check_dict(forward, lambda dy, cache: (embeddings_backward(dy, cache),), {}, p)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("drop", [PLAIN, DROPPING], ids=["plain", "dropout"])
def test_layer_gradients(activation, drop):
    options = {"n_heads": nH, "mask": texts()[2][:, None, None], "activation": activation}
    options |= {"dropouts": (0.3, 0.2), "eps": EPS, "drop": drop}
    p = part(make().params, "bert.encoder.layer.0.")
    check_dict(layer_forward, layer_backward, {"x": RNG.standard_normal((B, T, D))}, p, **options)


def test_pooler_gradients():
    p = part(make().params, "bert.pooler.")
    check_dict(pooler_forward, pooler_backward, {"x": RNG.standard_normal((B, T, D))}, p)


@pytest.mark.parametrize("shape", [(B, T), (4,)], ids=["all", "chosen"])
def test_head_gradients(shape):
    p = part(make().params, "cls.predictions.")
    x, table = RNG.standard_normal((*shape, D)), RNG.standard_normal((11, D))
    check_dict(
        masked_lm_head_forward,
        masked_lm_head_backward,
        {"x": x, "table": table},
        p,
        activation="gelu",
        eps=EPS,
    )


def test_loss_gradients():
    labels = np.array([[3, IGNORED, IGNORED, 0, 10], [IGNORED] * 5])
    logits = {"logits": RNG.standard_normal((2, 5, 11))}
    check_backward(
        masked_cross_entropy_forward, masked_cross_entropy_backward, logits, labels=labels
    )


@pytest.mark.parametrize("chosen", [False, True], ids=["all", "chosen"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_model_gradients(chosen, rate):
    config = BertConfig(7, 4, 2, 3, 2, longest=6, dropout=rate, attention_dropout=rate)
    model = make(config=config)
    tokens, segments, mask = texts(config)
    kept = np.array([[True, False, False, True, False], [False, True, False, False, False]])

    def forward(p):
        model.params = p
        kept_or_all = kept if chosen else None
        logits, follows = model.forward(tokens, segments, mask, kept_or_all, True, SameNumbers())
        return np.concatenate([logits.ravel(), follows.ravel()]), logits.shape

    def backward(dy, shape):
        return (model.backward(dy[:-4].reshape(shape), dy[-4:].reshape(2, 2)),)

    check_dict(forward, backward, {}, model.params)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_classifier_gradients(rate):
    config = BertConfig(7, 4, 2, 3, 1, longest=6, dropout=rate, attention_dropout=rate)
    model = make(BertForSequenceClassification, config)
    inputs = texts(config)

    def forward(p):
        model.params = p
        return model.forward(*inputs, train=True, rng=SameNumbers()), None

    check_dict(forward, lambda dy, _: (model.backward(dy),), {}, model.params)


# --- the gradient check can fail


def pooler_without_tanh(dy, cache):
    dx, g = pooler_backward(dy / (1 - cache[2][0] ** 2), cache)
    return dx, g


def head_without_its_table(dlogits, cache):
    dx, dtable, g = masked_lm_head_backward(dlogits, cache)
    return dx, np.zeros_like(dtable), g


def tanh_gelus_derivative(dy, cache):
    return layer_backward(dy, (*cache[:4], "gelu_tanh", *cache[5:]))


def check_pooler(backward):
    x = {"x": np.random.default_rng(1).standard_normal((B, T, D))}
    check_dict(pooler_forward, backward, x, part(make().params, "bert.pooler."))


def check_head(backward):
    rng = np.random.default_rng(1)
    x = {"x": rng.standard_normal((B, T, D)), "table": rng.standard_normal((11, D))}
    p = part(make().params, "cls.predictions.")
    check_dict(masked_lm_head_forward, backward, x, p, activation="gelu", eps=EPS)


def check_layer(backward):
    x = {"x": np.random.default_rng(1).standard_normal((B, T, D))}
    options = {"n_heads": nH, "mask": None, "activation": "gelu", "eps": EPS}
    options |= {"dropouts": (0.0, 0.0), "drop": PLAIN}
    check_dict(layer_forward, backward, x, part(make().params, "bert.encoder.layer.0."), **options)


@pytest.mark.parametrize(
    ("check", "right", "fault"),
    [
        (check_pooler, pooler_backward, pooler_without_tanh),
        (check_head, masked_lm_head_backward, head_without_its_table),
        (check_layer, layer_backward, tanh_gelus_derivative),
    ],
)
def test_the_gradient_check_can_fail(check, right, fault):
    check(right)
    with pytest.raises(GradientMismatch):
        check(fault)


def test_the_table_gets_the_gradients_of_both_uses():
    model = make()
    tokens, segments, mask = texts()
    logits, follows = model.forward(tokens, segments, mask)
    dlogits, dfollows = RNG.standard_normal(logits.shape), RNG.standard_normal(follows.shape)
    name = "bert.embeddings.word_embeddings.weight"
    both = model.backward(dlogits, dfollows)[name]
    as_input = model._cache
    _, dtable, _ = masked_lm_head_backward(dlogits, as_input[3])
    rows = sorted(set(range(11)) - set(tokens.ravel().tolist()))
    assert rows and np.abs(both - dtable)[rows].max() < 1e-15  # never read: output use alone
    assert np.abs(both - dtable).max() > 1e-3


# --- loss


def test_loss_equals_torch_and_is_finite_whatever_the_mask():
    logits = RNG.standard_normal((3, 4, 11))
    for labels in (RNG.integers(11, size=(3, 4)), np.where(RNG.random((3, 4)) < 0.5, 5, IGNORED)):
        loss, cache = masked_cross_entropy_forward(logits, labels)
        leaf = torch.tensor(logits, requires_grad=True)
        want = F.cross_entropy(leaf.flatten(0, 1), torch.tensor(labels).flatten())
        want.backward()
        assert max_difference(loss, want) < 1e-13
        assert max_difference(masked_cross_entropy_backward(cache), leaf.grad) < 1e-12
    loss, cache = masked_cross_entropy_forward(logits, np.full((3, 4), IGNORED))
    dlogits = masked_cross_entropy_backward(cache)
    assert loss == 0 and dlogits.shape == logits.shape and not dlogits.any()


@pytest.mark.parametrize("chosen", [False, True])
def test_a_batch_without_masked_tokens_changes_the_other_task_alone(chosen):
    model = make()
    tokens, segments, mask = texts()
    labels = np.full(tokens.shape, IGNORED)
    kept = labels != IGNORED
    logits, follows = model.forward(tokens, segments, mask, kept if chosen else None)
    loss, cache = masked_cross_entropy_forward(logits, labels[kept] if chosen else labels)
    _, next_cache = softmax_cross_entropy_forward(follows, np.array([0, 1]))
    grads = model.backward(
        masked_cross_entropy_backward(cache), softmax_cross_entropy_backward(next_cache)
    )
    assert loss == 0 and all(np.isfinite(g).all() for g in grads.values())
    assert not grads["cls.predictions.bias"].any() and grads["bert.pooler.dense.bias"].any()


# --- masking


def a_batch(rows=400, columns=100):
    tokens = np.random.default_rng(0).integers(5, 1000, size=(rows, columns))
    tokens[:, 0], tokens[:, -1] = 2, 3
    maskable = np.ones(tokens.shape, dtype=bool)
    maskable[:, [0, -1]] = False
    maskable[1, 40:] = False
    maskable[2, 15:] = False
    return tokens, maskable


def test_80_10_10():
    tokens, maskable = a_batch()
    inputs, labels = mask_tokens(tokens, maskable, 1000, 4, np.random.default_rng(1))
    chosen = labels != IGNORED
    assert not chosen[~maskable].any()
    assert set(chosen.sum(axis=1)) == {15, 6, 2}  # 15 % of 98, 39 and 14, rounded to the nearest
    assert np.array_equal(labels[chosen], tokens[chosen])
    assert np.array_equal(inputs[~chosen], tokens[~chosen])
    masked, kept = inputs[chosen] == 4, inputs[chosen] == tokens[chosen]
    n = chosen.sum()
    for share, want in ((masked.mean(), 0.8), (kept.mean(), 0.1), ((~masked & ~kept).mean(), 0.1)):
        assert abs(share - want) < 4 * math.sqrt(want * (1 - want) / n)
    others = inputs[chosen][~masked & ~kept]
    assert others.min() < 20 and others.max() > 980  # of the whole vocabulary
    places = chosen[3:, 1:-1].mean(axis=0)
    assert abs(places - 15 / 98).max() < 0.08  # no place is preferred
    fives = np.full((40, 100), 5)
    inputs, _ = mask_tokens(fives, fives > 0, 6, 4, np.random.default_rng(1))
    assert set(inputs.ravel()) == set(range(6))  # [PAD] and its like may be drawn too


def test_a_short_text_has_one_chosen_token_and_an_empty_one_none():
    tokens = np.array([[2, 7, 3, 0], [2, 3, 0, 0]])
    _, labels = mask_tokens(tokens, tokens > 4, 10, 4, np.random.default_rng(0))
    assert labels.tolist() == [[IGNORED, 7, IGNORED, IGNORED], [IGNORED] * 4]
    unchanged, labels = mask_tokens(tokens, tokens > 4, 10, 4, np.random.default_rng(0), share=0.0)
    assert np.array_equal(unchanged, tokens) and (labels == IGNORED).all()
    _, labels = mask_tokens(tokens, tokens > 4, 10, 4, np.random.default_rng(0), share=1.0)
    assert (labels != IGNORED).sum() == 1


def test_masking_depends_on_the_generator_alone():
    tokens, maskable = a_batch(20)
    one, two = (mask_tokens(tokens, maskable, 99, 4, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def documents(count=30, sentences=9):
    """Sentence i of document d consists of the number 1000 d + i, one to four times."""
    rng = np.random.default_rng(0)
    return [
        [[1000 * d + i] * int(rng.integers(1, 5)) for i in range(sentences)] for d in range(count)
    ]


def test_next_sentence_pairs():
    pairs = next_sentence_pairs(documents(), 12, np.random.default_rng(0))
    labels = [label for _, _, label in pairs]
    assert 0.3 < np.mean(labels) < 0.7 and len(pairs) > 60
    for first, second, label in pairs:
        assert 0 < len(first) <= 6 and len(second) > 0 and len(first) + len(second) <= 12
        assert first == sorted(first) and second == sorted(second)
        follows = second[0] == first[-1] + 1
        assert follows == (label == 0)


class Scripted:
    """A generator that draws what it is told to, and notes how many places it draws from."""

    def __init__(self, shares, places):
        self.shares, self.places, self.counts = list(shares), list(places), []

    def random(self):
        return self.shares.pop(0)

    def integers(self, count):
        self.counts.append(count)
        return self.places.pop(0)


def test_next_sentence_pairs_by_hand():
    rng = Scripted([0.55, 0.45, 0.5], [2, 0, 7, 3])
    pairs = next_sentence_pairs([[[1], [2], [], [3], [4], [5]], [[]], [[6], [7], [8]]], 5, rng)
    # Places 2 and 7 are what follows, and drawn anew. What a foreign segment took the place of is
    # not lost: it begins the next pair.
    assert pairs == [([1, 2], [1, 2, 3], 1), ([3, 4], [5], 0), ([6, 7], [4, 5], 1)]
    assert rng.counts == [8] * 4 and not rng.shares and not rng.places


def test_pack_pairs_by_hand():
    tokenizer = WordPiece([*WordPiece.SPECIAL, *"abcde"])
    rows, labels = pack_pairs(
        [["a", "b", "c"], ["d", "e"]], tokenizer, 6, Scripted([0.1, 0.9], [4, 0])
    )
    assert rows == [
        ([2, 5, 3, 6, 7, 3], [0, 0, 0, 1, 1, 1]),
        ([2, 8, 3, 5, 6, 3], [0, 0, 0, 1, 1, 1]),
    ]
    assert labels == [0, 1]


def test_sentences_that_are_too_long_are_cut():
    pairs = next_sentence_pairs([[[1] * 50, [2] * 50, [3] * 50]], 10, np.random.default_rng(0))
    assert all(len(a) == 5 and len(b) == 5 for a, b, _ in pairs)


# --- the model


def test_the_defaults_are_those_of_the_paper():
    c, optimizer = BertConfig(), BertAdam({"weight": np.zeros((1, 1))})
    assert (c.vocabulary, c.longest, c.segments) == (30_522, 512, 2)
    assert (c.layers, c.width, c.heads, c.hidden) == (12, 768, 12, 3072)
    assert (c.dropout, c.attention_dropout, c.activation, c.eps) == (0.1, 0.1, "gelu", 1e-12)
    assert (optimizer.lr, optimizer.parts[0].weight_decay) == (1e-4, 0.01)


KINDS = {"pre-training": BertForPreTraining, "classifier": BertForSequenceClassification}


def fresh(kind, config, *dtype):
    classes = [3] if kind is BertForSequenceClassification else []
    return kind(config, *classes, np.random.default_rng(0), *dtype)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_fresh_weights(kind):
    params = fresh(kind, BertConfig(97, 48, 4, 80, 2, longest=37)).params
    firsts = set()
    for name, p in params.items():
        if "LayerNorm.weight" in name:
            assert (p == 1).all()
        elif name.endswith("bias"):
            assert not p.any()
        else:
            assert abs(p.mean()) < 4 * 0.02 / math.sqrt(p.size)
            assert abs(p.std() / 0.02 - 1) < 4 / math.sqrt(2 * p.size)
            firsts.add(p.flat[0])
    assert len(firsts) == sum(p.ndim == 2 for p in params.values())  # each is drawn by itself


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_each_rate_of_dropout_stands_in_its_place(monkeypatch, kind):
    calls = []

    def recorded(x, rate, rng, train):
        calls.append((rate, rng, train))
        return x, (None,)

    for module in ("bert_layers_numpy", "attention_numpy", "bert_numpy"):
        monkeypatch.setattr(f"{module}.dropout_forward", recorded)
    model = fresh(kind, BertConfig(11, D, nH, HIDDEN, 2, 6, dropout=0.2, attention_dropout=0.3))
    rates = [0.2, *[0.3, 0.2, 0.2] * 2] + [0.2] * (kind is BertForSequenceClassification)
    for train in (False, True):
        calls.clear()
        model.forward(*texts(), train=train, rng=RNG)
        assert calls == [(rate, RNG, train) for rate in rates]


def test_initial_loss_is_that_of_guessing():
    model = BertForPreTraining(BertConfig(500, 64, 4, 128, 2), np.random.default_rng(0))
    tokens = np.random.default_rng(1).integers(5, 500, size=(8, 20))
    loss, _ = masked_cross_entropy_forward(model.forward(tokens)[0], tokens)
    assert abs(loss - math.log(500)) < 0.2


def test_overfits_one_batch():
    config = BertConfig(11, 24, 3, 16, 1, longest=6)
    model = BertForPreTraining(config, np.random.default_rng(0))
    optimizer, (tokens, segments, mask) = BertAdam(model.params, lr=5e-3), texts()
    labels = np.where([[0, 1, 0, 0, 1], [0, 0, 1, 0, 0]], tokens, IGNORED)
    inputs = np.where(labels == IGNORED, tokens, 4)
    for _ in range(80):
        logits, follows = model.forward(inputs, segments, mask)
        loss, cache = masked_cross_entropy_forward(logits, labels)
        next_loss, next_cache = softmax_cross_entropy_forward(follows, np.array([0, 1]))
        optimizer.step(
            model.backward(
                masked_cross_entropy_backward(cache), softmax_cross_entropy_backward(next_cache)
            )
        )
    assert loss + next_loss < 0.05


def test_padding_changes_nothing():
    model = make()
    tokens, segments, mask = texts()
    logits, follows = model.forward(tokens, segments, mask)
    alone, alone_follows = model.forward(tokens[1:, :4], segments[1:, :4])
    assert max_difference(alone[0], logits[1, :4]) < 1e-13
    assert max_difference(alone_follows[0], follows[1]) < 1e-13


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_float32_stays(kind):
    config = BertConfig(11, D, nH, HIDDEN, 2, longest=6)  # with dropout
    model = fresh(kind, config, np.float32)
    outputs = model.forward(*texts(), train=True, rng=np.random.default_rng(0))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = model.backward(*outputs)
    assert {a.dtype for a in (*outputs, *grads.values())} == {np.dtype(np.float32)}


def test_only_what_has_two_axes_decays():
    params = {"weight": np.ones((2, 2)), "bias": np.ones(2)}
    optimizer = BertAdam(params, lr=0.1, weight_decay=0.5)
    optimizer.step({"weight": np.zeros((2, 2)), "bias": np.zeros(2)})
    assert np.allclose(params["weight"], 0.95) and (params["bias"] == 1).all()
    assert linear_decay(10, 0)(0) == 1


@pytest.mark.parametrize(
    "name", ["vocabulary", "width", "heads", "hidden", "layers", "longest", "segments"]
)
def test_sizes_below_1_are_refused(name):
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        BertConfig(**{name: 0})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BertConfig(heads=5), "a width that 5 heads divide, got 768"),
        (lambda: BertConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: BertConfig(attention_dropout=1), r"expected attention_dropout in \[0, 1\), got 1"),
        (lambda: BertConfig(activation="tanh"), "activation of gelu, gelu_new, relu"),
        (lambda: make().forward(np.zeros((1, 7), dtype=int)), r"T of at most 6, got \(1, 7\)"),
        (lambda: make().forward(np.zeros(3, dtype=int)), r"expected tokens \(B, T\) .*got \(3,\)"),
        (lambda: make().forward(np.full((1, 3), 11)), "expected int tokens 0 to 10"),
        (lambda: make().forward(np.zeros((1, 3), int), np.full((1, 3), 2)), "int tokens 0 to 1"),
        (
            lambda: mask_tokens(np.ones((1, 1)), np.ones((1, 1)) > 0, 9, 4, RNG, share=1.5),
            r"expected a share in \[0, 1\], got 1.5",
        ),
        (lambda: next_sentence_pairs([[[1], [2]]], 9, RNG), "2 tokens and 3 sentences, got 9 and"),
        (lambda: next_sentence_pairs(documents(), 1, RNG), "2 tokens and 3 sentences, got 1 and"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_backward_before_forward():
    for model in (make(), make(BertForSequenceClassification)):
        with pytest.raises(RuntimeError, match="expected forward before backward"):
            model.backward(*[np.zeros((1, 2))] * (2 if hasattr(model, "attention_maps") else 1))
