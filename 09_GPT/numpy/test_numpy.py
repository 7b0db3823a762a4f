"""Tests of level 1: gradients by central differences, PyTorch's own functions, properties."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gpt_numpy
from attention_numpy import layer_norm_forward
from gpt_numpy import (
    GPT,
    GPTConfig,
    block_backward,
    block_forward,
    causal_self_attention_backward,
    causal_self_attention_forward,
    cosine_rate,
    mlp_backward,
    mlp_forward,
)
from gpt_sampling_numpy import generate, next_distribution, pick
from optimizers_numpy import AdamW
from recurrent_numpy import sequence_cross_entropy_backward, sequence_cross_entropy_forward
from utils.gradient_check import GradientMismatch, check_backward, check_model
from utils.parity import ParityError, Result, assert_parity, max_difference, perturb
from utils.training_utils import cosine

B, T, D, NH = 4, 5, 6, 2  # Dh = 3
SIZES = {"vocabulary": 7, "context": 6, "width": 6, "heads": 2, "layers": 2, "dropout": 0.0}
NO_DROP = (0.0, None, False)


def rng(seed=0):
    return np.random.default_rng(seed)


def block_params(seed=0):
    generator = rng(seed)
    shapes = {
        "ln_1.weight": (D,), "ln_1.bias": (D,), "ln_2.weight": (D,), "ln_2.bias": (D,),
        "attn.c_attn.weight": (3 * D, D), "attn.c_attn.bias": (3 * D,),
        "attn.c_proj.weight": (D, D), "attn.c_proj.bias": (D,),
        "mlp.c_fc.weight": (4 * D, D), "mlp.c_fc.bias": (4 * D,),
        "mlp.c_proj.weight": (D, 4 * D), "mlp.c_proj.bias": (D,),
    }  # fmt: skip
    return {name: 0.4 * generator.standard_normal(shape) for name, shape in shapes.items()}


def part(p, prefix):
    return {n.removeprefix(prefix): v for n, v in p.items() if n.startswith(prefix)}


def check_part(forward, backward, p, *args):
    """Central differences for x and every parameter of a part that takes a dict."""
    names = list(p)

    def flat_forward(x, *values):
        return forward(x, dict(zip(names, values, strict=True)), *args)

    def flat_backward(dy, cache):
        dx, g = backward(dy, cache)
        assert set(g) == set(names)
        return (dx, *(g[name] for name in names))

    x = rng(1).standard_normal((B, T, D))
    return check_backward(flat_forward, flat_backward, {"x": x, **p})


# --- gradients


def test_attention_gradients():
    p = part(block_params(), "attn.")
    check_part(causal_self_attention_forward, causal_self_attention_backward, p, NH, NO_DROP)


def test_mlp_gradients():
    check_part(mlp_forward, mlp_backward, part(block_params(), "mlp."))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_block_gradients(norm):
    check_part(block_forward, block_backward, block_params(), NH, norm, NO_DROP)


class FixedDraws:
    """Stands for a generator: each pass draws the same masks again."""

    def __init__(self):
        self.drawn = rng(9)

    def random(self, shape):
        return self.drawn.random(shape)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_block_gradients_with_dropout(norm):
    def forward(x, p):
        return block_forward(x, p, NH, norm, (0.3, FixedDraws(), True))

    check_part(forward, block_backward, block_params())


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_model_gradients(norm):
    model = GPT(GPTConfig(**SIZES | {"norm": norm}), rng())
    perturb(model.params)
    tokens = rng().integers(7, size=(3, 5))
    errors = check_model(model, tokens)
    assert set(errors) == set(model.params)
    assert not model.backward(np.ones((3, 5, 7)))["wpe.weight"][5:].any()  # beyond the text


def test_model_gradients_with_dropout():
    model = GPT(GPTConfig(**SIZES | {"dropout": 0.3, "layers": 1}), rng())
    perturb(model.params)
    tokens = rng().integers(7, size=(2, 4))
    dy = rng(3).standard_normal((2, 4, 7))
    model.forward(tokens, train=True, rng=rng(5))
    grads = model.backward(dy)

    def value(name, at, h):
        model.params[name][at] += h
        y = (model.forward(tokens, train=True, rng=rng(5)) * dy).sum()
        model.params[name][at] -= h
        return y

    for name, at in (("wte.weight", (3, 2)), ("wpe.weight", (1, 4)), ("ln_f.bias", (2,))):
        want = (value(name, at, 1e-5) - value(name, at, -1e-5)) / 2e-5
        assert grads[name][at] == pytest.approx(want, rel=1e-7, abs=1e-9), name


def test_a_wrong_gradient_is_noticed():
    p = block_params()

    def no_shortcut(dy, cache):
        dx, g = block_backward(dy, cache)
        return dx - dy, g

    check_part(block_forward, block_backward, p, NH, "pre", NO_DROP)
    with pytest.raises(GradientMismatch):
        check_part(block_forward, no_shortcut, p, NH, "pre", NO_DROP)


# --- against PyTorch's functions


def torch_block(x, p, norm):
    """The block from torch's own functions, in float64."""

    def ln(x, name):
        return F.layer_norm(x, (D,), p[f"{name}.weight"], p[f"{name}.bias"])

    def attend(x):
        q, k, v = F.linear(x, p["attn.c_attn.weight"], p["attn.c_attn.bias"]).chunk(3, dim=-1)
        q, k, v = (a.unflatten(-1, (NH, -1)).transpose(1, 2) for a in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).flatten(2)
        return F.linear(y, p["attn.c_proj.weight"], p["attn.c_proj.bias"])

    def mlp(x):
        h = F.linear(x, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"])
        h = F.gelu(h, approximate="tanh")
        return F.linear(h, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])

    if norm == "pre":
        x = x + attend(ln(x, "ln_1"))
        return x + mlp(ln(x, "ln_2"))
    x = ln(x + attend(x), "ln_1")
    return ln(x + mlp(x), "ln_2")


def both(norm):
    p, x, dy = block_params(), rng(1).standard_normal((B, T, D)), rng(2).standard_normal((B, T, D))
    leaves = {n: torch.from_numpy(v).requires_grad_() for n, v in (p | {"x": x}).items()}
    want = torch_block(leaves["x"], leaves, norm)
    want.backward(torch.from_numpy(dy))

    def ours():
        y, cache = block_forward(x, p, NH, norm, NO_DROP)
        dx, g = block_backward(dy, cache)
        return Result(y, 0.0, g | {"x": dx})

    return ours, Result(want, 0.0, {n: v.grad for n, v in leaves.items()})


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_block_equals_torch(norm):
    ours, want = both(norm)
    assert_parity(ours(), want)


@pytest.mark.parametrize(
    "fault", ["exact gelu", "no mask", "wrong epsilon", "queries and keys exchanged", "norm moved"]
)
def test_the_comparison_notices(fault, monkeypatch):
    ours, want = both("pre")
    assert_parity(ours(), want)
    if fault == "exact gelu":
        from mlp_numpy import gelu_backward, gelu_forward

        monkeypatch.setattr(gpt_numpy, "gelu_tanh_forward", gelu_forward)
        monkeypatch.setattr(gpt_numpy, "gelu_tanh_backward", gelu_backward)
    elif fault == "no mask":
        monkeypatch.setattr(gpt_numpy, "causal_mask", lambda T: np.ones((T, T), dtype=bool))
    elif fault == "wrong epsilon":
        monkeypatch.setattr(
            gpt_numpy, "layer_norm_forward", lambda x, w, b: layer_norm_forward(x, w, b, 1e-6)
        )
    elif fault == "queries and keys exchanged":
        real = gpt_numpy.attention_forward
        monkeypatch.setattr(
            gpt_numpy, "attention_forward", lambda q, k, v, *rest: real(k, q, v, *rest)
        )
    else:
        ours, _ = both("post")
    with pytest.raises(ParityError):
        assert_parity(ours(), want)


# --- properties


def test_a_token_changes_nothing_before_it():
    model = GPT(GPTConfig(**SIZES), rng())
    perturb(model.params)
    tokens = rng().integers(7, size=(2, 6))
    before, changed = model.forward(tokens), tokens.copy()
    changed[:, 3] = (changed[:, 3] + 1) % 7
    after = model.forward(changed)
    assert np.array_equal(before[:, :3], after[:, :3])
    assert (np.abs(before - after)[:, 3:].max(axis=(0, 2)) > 1e-6).all()


def test_initial_loss_is_that_of_equation_9_17():
    config = GPTConfig(500, 32, 128, 4, 2, 0.0)
    tokens, targets = rng().integers(500, size=(2, 16, 32))
    loss, _ = sequence_cross_entropy_forward(GPT(config, rng()).forward(tokens), targets)
    assert loss == pytest.approx(math.log(500) + 128 * 0.02**2 / 2, abs=0.02)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_initial_weights(norm):
    params = GPT(GPTConfig(300, 64, 96, 4, 8, norm=norm), rng()).params
    small = 0.02 / 4 if norm == "pre" else 0.02
    for name, p in params.items():
        if p.ndim == 1:
            assert (p == (0 if name.endswith("bias") else 1)).all()
        else:
            std = small if name.endswith("c_proj.weight") else 0.02
            assert p.std() == pytest.approx(std, rel=0.04), name
    assert ("ln_f.weight" in params) == (norm == "pre")


def test_the_sum_does_not_grow_with_the_depth():
    """Equations 9.14 and 9.15: what 2L parts add has the variance of what 2 parts add."""

    def added(layers):
        model = GPT(GPTConfig(50, 16, 64, 4, layers, 0.0), rng())
        model.forward(rng(1).integers(50, size=(4, 16)))
        _, _, (_x_hat, _, std), _ = model._caches["ends"]
        return np.square(std).mean() - 2 * 0.02**2

    assert added(12) == pytest.approx(added(1), rel=0.35)


def test_it_overfits_a_batch_in_float32():
    model = GPT(GPTConfig(**SIZES | {"width": 16}), rng(), dtype=np.float32)
    tokens, targets = rng().integers(7, size=(2, 3, 6))
    optimizer = AdamW(model.params, 0.01, weight_decay=0.0)
    for _ in range(200):
        loss, cache = sequence_cross_entropy_forward(model.forward(tokens), targets)
        optimizer.step(model.backward(sequence_cross_entropy_backward(cache)))
    # Two places with one beginning but two targets can't both be right; here there are none.
    assert loss < 0.05 and loss.dtype == np.float32
    assert all(p.dtype == np.float32 for p in model.params.values())


def test_dropout_is_for_training():
    model = GPT(GPTConfig(**SIZES | {"dropout": 0.5}), rng())
    tokens = rng().integers(7, size=(2, 6))
    assert np.array_equal(model.forward(tokens), model.forward(tokens))
    one, two = (model.forward(tokens, train=True, rng=rng(s)) for s in (0, 1))
    assert not np.allclose(one, two)


def test_dropout_falls_on_embeddings_weights_and_what_a_part_adds():
    class Shapes(FixedDraws):
        def random(self, shape):
            shapes.append(shape)
            return super().random(shape)

    shapes = []
    model = GPT(GPTConfig(**SIZES | {"dropout": 0.5}), rng())
    model.forward(rng().integers(7, size=(3, 5)), train=True, rng=Shapes())
    block = [(3, 2, 5, 5), (3, 5, 6), (3, 5, 6)]  # weights of two heads, attention, MLP
    assert shapes == [(3, 5, 6), *block, *block]


def test_the_defaults_are_gpt_2_small():
    assert GPTConfig() == GPTConfig(50_257, 1024, 768, 12, 12, 0.1, "pre")


@pytest.mark.parametrize("step", [0, 3, 4, 5, 17, 19, 30])
def test_the_learning_rate(step):
    assert cosine_rate(step, 20, 4) == pytest.approx(cosine(20, 4, 0.1)(step), rel=1e-12)
    assert cosine_rate(3, 20, 4) == cosine_rate(4, 20, 4) == 1
    assert cosine_rate(12, 20, 4) == pytest.approx(0.55) and cosine_rate(20, 20, 4) == 0.1
    assert cosine_rate(4, 4, 4) == cosine(4, 4, 0.1)(4)  # a warmup that never ends


# --- sampling


def test_distributions_by_hand():
    logits = np.log([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.5, 0.3]])
    want = np.array([[5 / 8, 3 / 8, 0, 0], [0, 0, 5 / 8, 3 / 8]])
    for how in ({"top_k": 2}, {"top_p": 0.6}, {"top_p": 0.8 - 1e-9}, {"top_k": 2, "top_p": 0.9}):
        assert max_difference(next_distribution(logits, **how), want) < 1e-12
    assert max_difference(next_distribution(logits, top_p=0.5)[0], [1, 0, 0, 0]) < 1e-12
    squares = np.array([0.25, 0.09, 0.0225, 0.0025])
    got = next_distribution(logits, temperature=0.5)[0]
    assert max_difference(got, squares / squares.sum()) < 1e-12
    assert max_difference(next_distribution(logits, top_k=9), np.exp(logits)) < 1e-12


def test_each_rule_works_on_what_the_one_before_has_left():
    logits = np.log([[0.5, 0.3, 0.15, 0.05]])
    for how in ({"top_k": 2}, {"temperature": 0.5}):  # 0.5/0.8 and 0.25/0.365 are above 0.6
        assert np.array_equal(next_distribution(logits, top_p=0.6, **how), [[1, 0, 0, 0]])


def test_ties_at_the_last_place_are_kept():
    got = next_distribution(np.zeros((1, 4)), top_k=2)
    assert max_difference(got, np.full((1, 4), 0.25)) < 1e-12


def test_of_ties_the_first_count_for_top_p():
    logits = np.arange(40)[None] % 2.0  # the odd ones have 0.0366 each: nine have the share
    assert np.flatnonzero(next_distribution(logits, top_p=0.3)).tolist() == [*range(1, 18, 2)]


def test_greedy_and_drawn():
    logits = np.log([[0.5, 0.3, 0.15, 0.05]]).repeat(20_000, axis=0)
    assert (pick(logits, temperature=0) == 0).all()
    shares = np.bincount(pick(logits, rng=rng()), minlength=4) / 20_000
    assert np.abs(shares - [0.5, 0.3, 0.15, 0.05]).max() < 0.015


def test_generation_sees_the_last_tokens_of_the_context():
    model = GPT(GPTConfig(**SIZES), rng())
    perturb(model.params, scale=0.5)
    start = rng().integers(7, size=(2, 3))
    got = generate(model, start, 9, temperature=0)
    assert got.shape == (2, 12) and np.array_equal(got[:, :3], start)
    for t in range(3, 12):
        logits = model.forward(got[:, max(0, t - 6) : t])[:, -1]
        assert np.array_equal(got[:, t], logits.argmax(axis=1))


@pytest.mark.parametrize("how", [(0.5, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.6)])
def test_drawing_and_writing_follow_the_rules(how):
    logits = np.log([[0.5, 0.3, 0.15, 0.05]] * 50)
    draw, (p, *_) = rng(1), next_distribution(logits, *how)
    wanted = [draw.choice(4, p=p) for _ in range(50)]
    assert pick(logits, *how, rng=rng(1)).tolist() == wanted
    assert pick(logits.astype(np.float32), *how, rng=rng(1)).tolist() == wanted

    model = GPT(GPTConfig(**SIZES | {"dropout": 0.5}), rng())
    perturb(model.params, scale=0.5)
    start = want = rng().integers(7, size=(2, 3))
    draw = rng(1)
    for _ in range(12):
        new = pick(model.forward(want[:, -6:])[:, -1], *how, draw)
        want = np.concatenate([want, new[:, None]], axis=1)
    assert np.array_equal(generate(model, start, 12, *how, rng(1)), want)
    assert not np.array_equal(generate(model, start, 12, rng=rng(1)), want)


# --- bad input


def test_bad_input():
    model = GPT(GPTConfig(**SIZES), rng())
    with pytest.raises(RuntimeError, match="expected forward before backward"):
        model.backward(np.zeros((1, 2, 7)))
    with pytest.raises(ValueError, match=r"expected tokens \(B, T\), got \(5,\)"):
        model.forward(np.zeros(5, dtype=int))
    with pytest.raises(ValueError, match="sequence of 7 tokens exceeds the context of 6"):
        model.forward(np.zeros((2, 7), dtype=int))
    with pytest.raises(ValueError, match="expected int tokens 0 to 6"):
        model.forward(np.full((2, 3), 7))
    with pytest.raises(ValueError, match="expected at least one token"):
        generate(model, np.zeros((1, 0), dtype=int), 3)
    with pytest.raises(ValueError, match="expected rng to draw a token, got None"):
        pick(np.zeros((1, 3)))


@pytest.mark.parametrize("how", [(0.0, 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1)])
def test_bad_sampling(how):
    with pytest.raises(ValueError, match="expected temperature above 0, top_k of at least 0"):
        next_distribution(np.zeros((1, 3)), *how)
