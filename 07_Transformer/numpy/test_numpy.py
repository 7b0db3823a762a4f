"""Tests of level 1: attention, layer norm, layers and model against differences and torch.

The searches are held to a brute force over all sentences of a tiny language.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transformer_numpy
from attention_numpy import (
    attention_backward,
    attention_forward,
    attention_weights,
    causal_mask,
    layer_norm_backward,
    layer_norm_forward,
    masked_softmax_backward,
    masked_softmax_forward,
    merge_heads,
    multi_head_attention_backward,
    multi_head_attention_forward,
    padding_mask,
    sinusoidal_positions,
    split_heads,
)
from decoding_numpy import beam_search, greedy_search, length_penalty
from mlp_numpy import linear_forward
from optimizers_numpy import Adam
from transformer_layers_numpy import (
    add_norm_backward,
    add_norm_forward,
    decoder_layer_backward,
    decoder_layer_forward,
    encoder_layer_backward,
    encoder_layer_forward,
    part,
    position_wise_backward,
    position_wise_forward,
)
from transformer_numpy import (
    Transformer,
    TransformerConfig,
    shift_right,
    smoothed_cross_entropy_backward,
    smoothed_cross_entropy_forward,
    warmup_rate,
)
from utils.gradient_check import GradientMismatch, check_backward
from utils.parity import ParityError, Result, assert_parity, max_difference, perturb

RNG = np.random.default_rng(0)

# All sizes differ, so that a wrong transpose shows.
B, T, S, nH, Dh = 2, 5, 6, 3, 4
D, HIDDEN = nH * Dh, 7
SMALL = TransformerConfig(11, width=6, heads=3, hidden=5, layers=2, dropout=0.0)


def heads():
    return {
        "q": RNG.standard_normal((B, nH, T, Dh)),
        "k": RNG.standard_normal((B, nH, S, Dh)),
        "v": RNG.standard_normal((B, nH, S, Dh + 1)),
    }


def some_mask(rows=T, keys=S):
    """Half of the keys; one query may attend to nothing."""
    mask = np.random.default_rng(1).random((B, 1, rows, keys)) < 0.5
    mask[1, 0, 2] = False
    return mask


def attention_params(names=("q", "k", "v", "out"), prefix=""):
    p = {}
    for name in names:
        p[f"{prefix}{name}_proj.weight"] = 0.4 * RNG.standard_normal((D, D))
        p[f"{prefix}{name}_proj.bias"] = RNG.standard_normal(D)
    return p


def layer_params(attentions):
    p = {}
    for name in attentions:
        p |= attention_params(prefix=f"{name}.")
    for name in (*attentions, "final"):
        p[f"{name}_layer_norm.weight"] = 1 + 0.3 * RNG.standard_normal(D)
        p[f"{name}_layer_norm.bias"] = RNG.standard_normal(D)
    p["fc1.weight"], p["fc1.bias"] = RNG.standard_normal((HIDDEN, D)), RNG.standard_normal(HIDDEN)
    p["fc2.weight"], p["fc2.bias"] = RNG.standard_normal((D, HIDDEN)), RNG.standard_normal(D)
    return p


class SameNumbers:
    """Draws the same numbers at every call: dropout that a difference quotient can follow."""

    def random(self, shape):
        return np.random.default_rng(5).random(shape)


NO_DROPOUT, DROPOUT = (0.0, None, False), (0.3, SameNumbers(), True)


def check_dict(forward, backward, inputs, p, **kwargs):
    """check_backward for a pair that takes its parameters, and gives their gradients, as a dict.

    The bias of the keys is left out of the differences: its gradient is zero (theory, section 9),
    and a quotient of rounding errors would be compared with it.
    """
    names = [name for name in p if not name.endswith("k_proj.bias")]

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


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_gradients(masked):
    mask = some_mask() if masked else None
    scores = {"scores": 2 * RNG.standard_normal((B, nH, T, S))}
    check_backward(masked_softmax_forward, masked_softmax_backward, scores, mask=mask)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_attention_gradients(masked, dropout):
    mask = some_mask() if masked else None
    options = {"dropout": dropout, "rng": SameNumbers(), "train": True}
    check_backward(attention_forward, attention_backward, heads(), mask=mask, **options)


def test_multi_head_attention_gradients():
    inputs = {"x_q": RNG.standard_normal((B, T, D)), "x_kv": RNG.standard_normal((B, S, D))}
    check_dict(
        multi_head_attention_forward,
        multi_head_attention_backward,
        inputs,
        attention_params(),
        n_heads=nH,
        mask=some_mask(),
    )


def norm_inputs():
    return {
        "x": 2 + 3 * RNG.standard_normal((B, T, D)),
        "weight": RNG.standard_normal(D),
        "bias": RNG.standard_normal(D),
    }


@pytest.mark.parametrize("eps", [1e-5, 1e-12, 0.1])
def test_layer_norm_gradients(eps):
    check_backward(layer_norm_forward, layer_norm_backward, norm_inputs(), eps=eps)


@pytest.mark.parametrize("drop", [NO_DROPOUT, DROPOUT], ids=["plain", "dropout"])
def test_gradients_of_the_layers_parts(drop):
    x, branch = RNG.standard_normal((2, B, T, D))
    norm = {"weight": RNG.standard_normal(D), "bias": RNG.standard_normal(D)}
    check_dict(add_norm_forward, add_norm_backward, {"x": x, "branch": branch}, norm, drop=drop)
    mlp = {n: v for n, v in layer_params(()).items() if n.startswith("fc")}
    check_dict(position_wise_forward, position_wise_backward, {"x": x}, mlp)


@pytest.mark.parametrize("drop", [NO_DROPOUT, DROPOUT], ids=["plain", "dropout"])
def test_encoder_layer_gradients(drop):
    check_dict(
        encoder_layer_forward,
        encoder_layer_backward,
        {"x": RNG.standard_normal((B, S, D))},
        layer_params(("self_attn",)),
        n_heads=nH,
        mask=some_mask(S, S),
        drop=drop,
    )


@pytest.mark.parametrize("drop", [NO_DROPOUT, DROPOUT], ids=["plain", "dropout"])
def test_decoder_layer_gradients(drop):
    check_dict(
        decoder_layer_forward,
        decoder_layer_backward,
        {"x": RNG.standard_normal((B, T, D)), "memory": RNG.standard_normal((B, S, D))},
        layer_params(("self_attn", "encoder_attn")),
        n_heads=nH,
        mask=causal_mask(T),
        memory_mask=some_mask(T, S),
        drop=drop,
    )


def sentences(config=SMALL, seed=0):
    """Sources (2, 6) and labels (2, 5), padded, the labels with an end."""
    rng = np.random.default_rng(seed)
    source, labels = (rng.integers(3, config.vocabulary, size=(2, n)) for n in (6, 5))
    source[1, 4:] = config.pad_id
    labels[0, 4] = labels[1, 2] = config.eos_id
    labels[1, 3:] = config.pad_id
    return source, labels


def make_model(config=SMALL, seed=0, dtype=np.float64):
    model = Transformer(config, np.random.default_rng(seed), dtype)
    perturb(model.params)
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_model_gradients(dropout):
    model = make_model(TransformerConfig(8, 4, 2, 3, 2, dropout))
    source, labels = sentences(model.config)

    def forward(p):
        model.params = p
        target = shift_right(labels, model.config.bos_id)
        return model.forward(source, target, train=True, rng=SameNumbers()), None

    check_dict(forward, lambda dy, _: (model.backward(dy),), {}, model.params)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_gradients(label_smoothing):
    _, labels = sentences()
    logits = {"logits": RNG.standard_normal((2, 5, 11))}
    check_backward(
        smoothed_cross_entropy_forward,
        smoothed_cross_entropy_backward,
        logits,
        labels=labels,
        pad_id=0,
        label_smoothing=label_smoothing,
    )


# --- the gradient check can fail


def softmax_without_its_second_term(dweights, cache):
    return dweights * cache[0]


def softmax_summed_over_queries(dweights, cache):
    (weights,) = cache
    return weights * (dweights - (dweights * weights).sum(axis=-2, keepdims=True))


def norm_without_the_mean(dy, cache):
    x_hat, weight, std = cache
    _, dweight, dbias = layer_norm_backward(dy, cache)
    dx_hat = dy * weight
    return (dx_hat - x_hat * (dx_hat * x_hat).mean(-1, keepdims=True)) / std, dweight, dbias


def norm_with_the_means_of_dy(dy, cache):
    """The gain taken out of the means, as (5.16) may: there one gain holds for all of them."""
    x_hat, weight, std = cache
    _, dweight, dbias = layer_norm_backward(dy, cache)
    means = dy.mean(-1, keepdims=True) + x_hat * (dy * x_hat).mean(-1, keepdims=True)
    return weight / std * (dy - means), dweight, dbias


def unscaled_attention(dy, cache):
    dq, dk, dv = attention_backward(dy, cache)
    return dq / cache[3], dk, dv


def keys_and_values_swapped(dy, cache):
    dx_q, dx_kv, g = multi_head_attention_backward(dy, cache)
    swapped = g | {"k_proj.weight": g["v_proj.weight"], "v_proj.weight": g["k_proj.weight"]}
    return dx_q, dx_kv, swapped


FAULTS = [
    (masked_softmax_forward, softmax_without_its_second_term, "scores"),
    (masked_softmax_forward, softmax_summed_over_queries, "scores"),
    (layer_norm_forward, norm_without_the_mean, "dx"),
    (layer_norm_forward, norm_with_the_means_of_dy, "dx"),
    (attention_forward, unscaled_attention, "dq"),
    (multi_head_attention_forward, keys_and_values_swapped, "dk_proj.weight"),
]


@pytest.mark.parametrize(("forward", "fault", "message"), FAULTS)
def test_the_gradient_check_can_fail(forward, fault, message):
    with pytest.raises(GradientMismatch, match=message):
        if forward is multi_head_attention_forward:
            x = {"x_q": RNG.standard_normal((B, T, D)), "x_kv": RNG.standard_normal((B, S, D))}
            check_dict(forward, fault, x, attention_params(), n_heads=nH)
        elif forward is attention_forward:
            check_backward(forward, fault, heads())
        elif forward is layer_norm_forward:
            check_backward(forward, fault, norm_inputs())
        else:
            check_backward(forward, fault, {"scores": RNG.standard_normal((B, nH, T, S))})


# --- primitives against torch


def leaves(arrays):
    return {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()}


def test_attention_equals_torch():
    inputs, mask = heads(), some_mask()
    mask[1, 0, 2] = True  # torch has no answer of ours for an empty row
    y, cache = attention_forward(**inputs, mask=mask)
    theirs = leaves(inputs)
    want = F.scaled_dot_product_attention(*theirs.values(), attn_mask=torch.tensor(mask))
    dy = RNG.standard_normal(y.shape)
    want.backward(torch.tensor(dy))
    grads = dict(zip(inputs, attention_backward(dy, cache), strict=True))
    reference = Result(want, 0.0, {name: leaf.grad for name, leaf in theirs.items()})
    assert_parity(Result(y, 0.0, grads), reference, tol=1e-12)


def test_layer_norm_equals_torch():
    inputs = norm_inputs()
    y, cache = layer_norm_forward(**inputs, eps=1e-3)
    theirs = leaves(inputs)
    want = F.layer_norm(theirs["x"], (D,), theirs["weight"], theirs["bias"], eps=1e-3)
    dy = RNG.standard_normal(y.shape)
    want.backward(torch.tensor(dy))
    grads = dict(zip(inputs, layer_norm_backward(dy, cache), strict=True))
    reference = Result(want, 0.0, {name: leaf.grad for name, leaf in theirs.items()})
    assert_parity(Result(y, 0.0, grads), reference, tol=1e-12)


def fused(p, kind):
    """q, k and v of ours as torch's one in_proj."""
    return np.concatenate([p[f"{name}_proj.{kind}"] for name in "qkv"])


def load(module, p):
    """Our parameters in torch's nn.MultiheadAttention."""
    module.load_state_dict(
        {
            "in_proj_weight": torch.tensor(fused(p, "weight")),
            "in_proj_bias": torch.tensor(fused(p, "bias")),
            "out_proj.weight": torch.tensor(p["out_proj.weight"]),
            "out_proj.bias": torch.tensor(p["out_proj.bias"]),
        }
    )


def test_multi_head_attention_equals_torch():
    p, x_q, x_kv = (
        attention_params(),
        RNG.standard_normal((B, T, D)),
        RNG.standard_normal((B, S, D)),
    )
    real = np.array([6, 4])[:, None] > np.arange(S)
    y, cache = multi_head_attention_forward(x_q, x_kv, p, nH, real[:, None, None, :])
    module = nn.MultiheadAttention(D, nH, batch_first=True).double()
    load(module, p)
    theirs = leaves({"x_q": x_q, "x_kv": x_kv})
    # Torch's masks are True where one may NOT attend.
    want, maps = module(
        *theirs.values(), theirs["x_kv"], ~torch.tensor(real), average_attn_weights=False
    )
    assert max_difference(attention_weights(cache[-1]), maps) < 1e-12
    dy = RNG.standard_normal(y.shape)
    want.backward(torch.tensor(dy))
    dx_q, dx_kv, g = multi_head_attention_backward(dy, cache)
    got = {"x_q": dx_q, "x_kv": dx_kv, "in": fused(g, "weight"), "in_bias": fused(g, "bias")}
    got |= {"out": g["out_proj.weight"], "out_bias": g["out_proj.bias"]}
    grads = {name: leaf.grad for name, leaf in theirs.items()}
    grads |= {"in": module.in_proj_weight.grad, "in_bias": module.in_proj_bias.grad}
    grads |= {"out": module.out_proj.weight.grad, "out_bias": module.out_proj.bias.grad}
    assert_parity(Result(y, 0.0, got), Result(want, 0.0, grads), tol=1e-12)


def test_a_fused_projection_is_made_of_the_same_parts():
    """One product for q, k and v, as GPT and ViT have it, gives what three give."""
    p, x = attention_params(), RNG.standard_normal((B, T, D))
    qkv, _ = linear_forward(x, fused(p, "weight"), fused(p, "bias"))  # (B, T, 3 D)
    q, k, v = (split_heads(a, nH) for a in np.split(qkv, 3, axis=-1))
    y, _ = attention_forward(q, k, v, causal_mask(T))
    got, _ = linear_forward(merge_heads(y), p["out_proj.weight"], p["out_proj.bias"])
    want, _ = multi_head_attention_forward(x, x, p, nH, causal_mask(T))
    assert max_difference(got, want) < 1e-13


def torch_layer(p, decoder):
    """torch's own post-norm layer with our parameters."""
    kind = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
    module = kind(D, nH, HIDDEN, dropout=0.0, batch_first=True, norm_first=False).double()
    load(module.self_attn, part(p, "self_attn."))
    norms = ["self_attn", "final"]
    if decoder:
        load(module.multihead_attn, part(p, "encoder_attn."))
        norms.insert(1, "encoder_attn")
    for i, name in enumerate(norms, start=1):
        norm = getattr(module, f"norm{i}")
        norm.weight.data = torch.tensor(p[f"{name}_layer_norm.weight"])
        norm.bias.data = torch.tensor(p[f"{name}_layer_norm.bias"])
    for ours, theirs in (("fc1", module.linear1), ("fc2", module.linear2)):
        theirs.weight.data = torch.tensor(p[f"{ours}.weight"])
        theirs.bias.data = torch.tensor(p[f"{ours}.bias"])
    return module


def layer_gradients(g, module, decoder):
    """The gradients of a layer, ours and torch's, under common names."""
    attentions = {"self_attn": module.self_attn}
    if decoder:
        attentions["encoder_attn"] = module.multihead_attn
    ours, theirs = {}, {}
    for name, attention in attentions.items():
        ours[name] = fused(part(g, f"{name}."), "weight")
        theirs[name] = attention.in_proj_weight.grad
        ours[f"{name}.out"] = g[f"{name}.out_proj.bias"]
        theirs[f"{name}.out"] = attention.out_proj.bias.grad
    for i, name in enumerate([*attentions, "final"], start=1):
        ours[f"norm{i}"] = g[f"{name}_layer_norm.weight"]
        theirs[f"norm{i}"] = getattr(module, f"norm{i}").weight.grad
    for i in (1, 2):
        ours[f"fc{i}"] = g[f"fc{i}.weight"]
        theirs[f"fc{i}"] = getattr(module, f"linear{i}").weight.grad
    return ours, theirs


def compare_layer(decoder, fault=lambda p: None):
    """Our layer and torch's: outputs, gradients of inputs and parameters."""
    p = layer_params(("self_attn", "encoder_attn") if decoder else ("self_attn",))
    inputs = {"x": RNG.standard_normal((B, T, D))}
    real = np.array([5, 3])[:, None] > np.arange(T)
    module, theirs = torch_layer(p, decoder), None
    fault(p)
    if decoder:
        inputs["memory"] = RNG.standard_normal((B, S, D))
        masks = (causal_mask(T), None)
        y, cache = decoder_layer_forward(*inputs.values(), p, nH, *masks, NO_DROPOUT)
        theirs = leaves(inputs)
        want = module(*theirs.values(), tgt_mask=~torch.tensor(causal_mask(T)))
    else:
        y, cache = encoder_layer_forward(
            *inputs.values(), p, nH, real[:, None, None, :], NO_DROPOUT
        )
        theirs = leaves(inputs)
        want = module(theirs["x"], src_key_padding_mask=~torch.tensor(real))
    dy = RNG.standard_normal(y.shape)
    want.backward(torch.tensor(dy))
    *dx, g = (decoder_layer_backward if decoder else encoder_layer_backward)(dy, cache)
    ours, reference = layer_gradients(g, module, decoder)
    ours |= dict(zip(inputs, dx, strict=True))
    reference |= {name: leaf.grad for name, leaf in theirs.items()}
    assert_parity(Result(y, 0.0, ours), Result(want, 0.0, reference), tol=1e-11)


@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
def test_layers_equal_torchs_post_norm_layers(decoder):
    compare_layer(decoder)


def swapped_norms(p):
    p["self_attn_layer_norm.weight"] = p["final_layer_norm.weight"]


def missing_bias(p):
    p["self_attn.v_proj.bias"] = np.zeros(D)


def queries_for_keys(p):
    p["self_attn.q_proj.weight"] = p["self_attn.k_proj.weight"]


@pytest.mark.parametrize("fault", [swapped_norms, missing_bias, queries_for_keys])
def test_sabotage_is_noticed(fault):
    compare_layer(decoder=False)
    with pytest.raises(ParityError, match="outputs"):
        compare_layer(decoder=False, fault=fault)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_equals_torch(label_smoothing):
    _, labels = sentences()
    logits = RNG.standard_normal((2, 5, 11))
    loss, cache = smoothed_cross_entropy_forward(logits, labels, 0, label_smoothing)
    leaf = torch.tensor(logits, requires_grad=True)
    want = F.cross_entropy(
        leaf.flatten(0, 1),
        torch.tensor(labels).flatten(),
        ignore_index=0,
        label_smoothing=label_smoothing,
    )
    want.backward()
    got = Result(logits, loss, {"logits": smoothed_cross_entropy_backward(cache)})
    assert_parity(got, Result(leaf, want, {"logits": leaf.grad}), tol=1e-12)


# --- properties of attention


def test_a_query_that_may_attend_to_nothing_gets_zeros():
    inputs, mask = heads(), some_mask()
    with np.errstate(all="raise"):
        y, cache = attention_forward(**inputs, mask=mask)
        grads = attention_backward(RNG.standard_normal(y.shape), cache)
    assert not y[1, :, 2].any() and y[1, :, 1].all()
    assert all(np.isfinite(dx).all() for dx in grads)
    assert not grads[0][1, :, 2].any()


def test_masked_weights_are_exactly_zero_and_the_others_sum_to_one():
    mask = some_mask()
    _, cache = attention_forward(**heads(), mask=mask)
    weights = attention_weights(cache)
    assert not (weights * ~mask).any()
    sums = weights.sum(axis=-1)
    assert np.allclose(sums, mask.any(axis=-1), rtol=0, atol=1e-12)


def test_large_scores_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        weights, _ = masked_softmax_forward(np.array([[1e4, 0.0, -1e4]]))
    assert np.array_equal(weights, [[1.0, 0.0, 0.0]])


def test_masks():
    assert np.array_equal(causal_mask(3), [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    assert np.array_equal(causal_mask(2, 4), [[1, 1, 1, 0], [1, 1, 1, 1]])
    tokens = np.array([[5, 0, 7], [5, 7, 0]])
    assert np.array_equal(padding_mask(tokens, 0)[:, 0, 0], [[1, 0, 1], [1, 1, 0]])


def test_heads_split_and_merge():
    x = RNG.standard_normal((B, T, D))
    y = split_heads(x, nH)
    assert y.shape == (B, nH, T, Dh) and np.array_equal(y[1, 2, 3], x[1, 3, 8:])
    assert np.array_equal(merge_heads(y), x)


def test_attention_without_positions_is_permutation_equivariant():
    """Equation 7.11: other words in the same order, or the same in another, it cannot tell."""
    p, x, order = attention_params(), RNG.standard_normal((B, T, D)), np.array([3, 0, 4, 1, 2])
    y, _ = multi_head_attention_forward(x, x, p, nH)
    shuffled, _ = multi_head_attention_forward(x[:, order], x[:, order], p, nH)
    assert max_difference(shuffled, y[:, order]) < 1e-13
    positions = sinusoidal_positions(T, D)
    with_places, _ = multi_head_attention_forward(x + positions, x + positions, p, nH)
    moved = x[:, order] + positions
    shuffled, _ = multi_head_attention_forward(moved, moved, p, nH)
    assert max_difference(shuffled, with_places[:, order]) > 0.01


def test_scores_of_unscaled_products_saturate():
    """Why √Dh: without it the largest weight of wide heads is nearly all (section 2)."""
    q, k = RNG.standard_normal((2, 1000, 1, 256))
    scores = q[:, 0] @ k[:20, 0].T  # 1000 queries, 20 keys
    assert abs(scores.var() / 256 - 1) < 0.1
    sharp, _ = masked_softmax_forward(scores)
    soft, _ = masked_softmax_forward(scores / 16)
    assert sharp.max(axis=-1).mean() > 0.8 and soft.max(axis=-1).mean() < 0.35


# --- positions and layer norm


def test_positions_are_the_papers():
    table = sinusoidal_positions(50, 8)
    for t, i in itertools.product((0, 1, 17, 49), range(4)):
        angle = t / 10000 ** (2 * i / 8)
        assert abs(table[t, 2 * i] - np.sin(angle)) < 1e-12
        assert abs(table[t, 2 * i + 1] - np.cos(angle)) < 1e-12
    halves = sinusoidal_positions(50, 8, "halves")
    assert np.array_equal(halves, table[:, [0, 2, 4, 6, 1, 3, 5, 7]])


@pytest.mark.parametrize("shift", [1, 7, -3])
def test_a_shift_of_position_is_a_rotation(shift):
    """Equations 7.13 and 7.14: the same matrix for every place, and products of distance alone."""
    table = sinusoidal_positions(60, 8, "halves")
    angles = shift * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    cos, sin = np.diag(np.cos(angles)), np.diag(np.sin(angles))
    rotation = np.block([[cos, sin], [-sin, cos]])
    places = np.arange(10, 50)
    assert np.allclose(table[places] @ rotation.T, table[places + shift], rtol=0, atol=1e-12)
    products = (table[places] * table[places + shift]).sum(axis=1)
    assert np.allclose(products, np.cos(angles).sum(), rtol=0, atol=1e-12)


def test_layer_norm_sees_one_vector_at_a_time():
    x, ones, zeros = 3 + RNG.standard_normal((B, T, D)), np.ones(D), np.zeros(D)
    y, _ = layer_norm_forward(x, ones, zeros, eps=0.0)
    assert np.allclose(y.mean(axis=-1), 0, rtol=0, atol=1e-12)
    assert np.allclose(y.var(axis=-1), 1, rtol=0, atol=1e-12)
    alone, _ = layer_norm_forward(x[1, 3], ones, zeros, eps=0.0)
    assert np.allclose(alone, y[1, 3], rtol=0, atol=1e-12)
    stretched, _ = layer_norm_forward(5 * x - 2, ones, zeros, eps=0.0)
    assert np.allclose(stretched, y, rtol=0, atol=1e-12)


# --- properties of the model


def test_the_decoder_is_causal():
    model = make_model()
    source, labels = sentences()
    target = shift_right(labels, 1)
    before = model.forward(source, target)
    target[:, 3] = (target[:, 3] + 1) % 11
    after = model.forward(source, target)
    assert np.array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 1e-3


def test_padding_changes_nothing():
    model = make_model()
    source, labels = sentences()
    target = shift_right(labels, 1)
    together = model.forward(source, target)
    alone = model.forward(source[1:, :4], target[1:, :3])  # sentence 1 without its padding
    assert max_difference(alone, together[1:, :3]) < 1e-13
    model.forward(source, target)
    dy = RNG.standard_normal(together.shape)
    dy[1, 3:] = 0
    grads = model.backward(dy)
    wider = [np.pad(a, ((0, 0), (0, 2))) for a in (source, target)]
    model.forward(*wider)
    padded = model.backward(np.pad(dy, ((0, 0), (0, 2), (0, 0))))
    for name, grad in grads.items():
        assert max_difference(padded[name], grad) < 1e-12, name


def test_the_tied_table_gets_the_gradients_of_all_three_uses():
    """A symbol only of the source, one only of the target, and one only among the outputs."""
    model = make_model()
    source, target = np.array([[3, 4]]), np.array([[1, 5]])
    logits = model.forward(source, target)
    dy = np.zeros_like(logits)
    dy[0, 1, 6] = 1.0
    rows = np.abs(model.backward(dy)["shared.weight"]).sum(axis=1)
    assert set(np.flatnonzero(rows)) == {1, 3, 4, 5, 6}


def test_attention_maps():
    model = make_model()
    source, labels = sentences()
    model.forward(source, shift_right(labels, 1))
    maps = model.attention_maps()
    assert maps["encoder.layers.1.self_attn"].shape == (2, 3, 6, 6)
    assert maps["decoder.layers.0.self_attn"].shape == (2, 3, 5, 5)
    assert maps["decoder.layers.1.encoder_attn"].shape == (2, 3, 5, 6)
    assert len(maps) == 6
    assert not maps["decoder.layers.1.encoder_attn"][1, :, :, 4:].any()  # padding of source 1
    assert not np.triu(maps["decoder.layers.0.self_attn"], k=1).any()


def test_dropout_is_drawn_by_the_generator_and_only_in_training():
    model = make_model(TransformerConfig(11, 6, 3, 5, 2, dropout=0.5))
    source, labels = sentences()
    target = shift_right(labels, 1)
    plain = model.forward(source, target)
    assert np.array_equal(plain, model.forward(source, target))
    one, two, again = (
        model.forward(source, target, train=True, rng=np.random.default_rng(seed))
        for seed in (1, 2, 1)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, two)


def test_initial_loss_is_a_little_more_than_guessing():
    """Equation 7.30: logits of variance one cost half a nat beyond ln V."""
    config = TransformerConfig(500, width=64, heads=4, hidden=128, layers=2)
    model = Transformer(config, np.random.default_rng(0))
    source, labels = RNG.integers(3, 500, size=(2, 8, 20))
    logits = model.forward(source, shift_right(labels, 1))
    loss, _ = smoothed_cross_entropy_forward(logits, labels, 0)
    assert abs(loss - (np.log(500) + 0.5)) < 0.2


def test_overfits_one_batch():
    config = TransformerConfig(20, width=32, heads=4, hidden=64, layers=1, dropout=0.0)
    model = Transformer(config, np.random.default_rng(0), np.float32)
    optimizer = Adam(model.params, betas=(0.9, 0.98), eps=1e-9)
    source, labels = np.random.default_rng(0).integers(3, 20, size=(2, 6, 7))
    labels[:, -1] = 2
    for step in range(1, 121):
        optimizer.lr = warmup_rate(step, 32, warmup=100) / 2
        logits = model.forward(source, shift_right(labels, 1), train=True)
        loss, cache = smoothed_cross_entropy_forward(logits, labels, 0, label_smoothing=0.0)
        optimizer.step(model.backward(smoothed_cross_entropy_backward(cache)))
    assert loss < 0.05
    found = greedy_search(model.predictor(source), 6, 10, 1, 2)
    assert found == labels[:, :-1].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_parameters(dtype):
    model = make_model(dtype=dtype)
    source, labels = sentences()
    logits = model.forward(source, shift_right(labels, 1))
    loss, cache = smoothed_cross_entropy_forward(logits, labels, 0)
    grads = model.backward(smoothed_cross_entropy_backward(cache))
    assert logits.dtype == dtype and loss.dtype == dtype
    assert {g.dtype for g in grads.values()} == {np.dtype(dtype)}


def test_fresh_weights_follow_their_rules():
    """Glorot's bound by each shape, biases 0, gains 1, and a deviation of 1/√D in the table."""
    config = TransformerConfig(400, width=48, heads=3, hidden=90, layers=2)
    params = Transformer(config, np.random.default_rng(0)).params
    assert abs(params.pop("shared.weight").std() * 48**0.5 - 1) < 0.03
    for name, p in params.items():
        if p.ndim == 1:
            assert (p == name.endswith("norm.weight")).all(), name
        else:
            bound = (6 / sum(p.shape)) ** 0.5
            assert 0.98 * bound < np.abs(p).max() <= bound, name
            assert abs(p.std() * 3**0.5 / bound - 1) < 0.06, name


def test_the_defaults_are_the_base_model():
    values = dataclasses.astuple(TransformerConfig())
    assert values == (37_000, 512, 8, 2048, 6, 0.1, "interleaved", 0, 1, 2)


def test_parameter_count_by_hand():
    """Equation 7.26, for the small model; level 3 has the paper's."""
    V, D, F, L = 11, 6, 5, 2
    attention, mlp, norm = 4 * (D * D + D), 2 * D * F + F + D, 2 * D
    want = V * D + L * (3 * attention + 2 * mlp + 5 * norm)
    assert sum(p.size for p in make_model().params.values()) == want


# --- training


def test_the_schedule_rises_falls_and_has_the_papers_peak():
    rates = [warmup_rate(step, 512) for step in range(1, 20_001)]
    assert np.argmax(rates) == 3999
    assert abs(rates[3999] - 512**-0.5 * 4000**-0.5) < 1e-12  # eq. 7.54: about 7.0e-4
    assert np.allclose(rates[:4000], rates[0] * np.arange(1, 4001))
    assert np.isclose(rates[15_999], rates[3999] / 2)


def test_label_smoothing_prefers_a_finite_gap():
    """Equation 7.29: the best logit of the label is ln((V(1 - ε) + ε)/ε) above the others."""
    labels, V, epsilon = np.array([[4]]), 11, 0.1

    def loss(gap):
        logits = np.zeros((1, 1, V))
        logits[0, 0, 4] = gap
        return smoothed_cross_entropy_forward(logits, labels, 0, epsilon)[0]

    best = np.log((V * (1 - epsilon) + epsilon) / epsilon)
    assert loss(best) < min(loss(best - 0.1), loss(best + 0.1))
    q = np.full(V, epsilon / V)
    q[4] += 1 - epsilon
    assert np.isclose(loss(best), -(q * np.log(q)).sum())  # eq. 7.28


# --- searching


def test_the_predictor_gives_log_probabilities_for_the_rows_asked_for():
    model = make_model()
    source, _ = sentences()
    beginnings, rows = np.array([[1, 4, 5], [1, 6, 7], [1, 4, 5]]), np.array([1, 0, 0])
    got = model.predictor(source)(beginnings, rows)
    want = model.forward(source[rows], beginnings)[:, -1]
    want = want - np.log(np.exp(want).sum(axis=1, keepdims=True))
    assert (got[:, :2] == -np.inf).all()  # padding and begin are never written
    assert max_difference(got[:, 2:], want[:, 2:]) < 1e-12


def tiny_language(V=5, seed=0):
    """Random log-probabilities of the next symbol, fixed by the beginning and the sentence."""
    tables = {}

    def log_probs(beginnings, rows):
        result = np.empty((len(rows), V))
        for n, (row, tokens) in enumerate(zip(rows, beginnings, strict=True)):
            key = (int(row), *map(int, tokens))
            if key not in tables:
                rng = np.random.default_rng([seed, *key])
                logits = 2 * rng.standard_normal(V)
                tables[key] = logits - np.log(np.exp(logits).sum())
                tables[key][:2] = -np.inf  # padding and begin
            result[n] = tables[key]
        return result

    return log_probs


def brute_force(log_probs, row, limit, alpha):
    """The best of all sentences up to ``limit`` symbols, by its score."""
    best, best_score = None, -np.inf

    def visit(tokens, log_p):
        nonlocal best, best_score
        ended = tokens[-1] == 2 or len(tokens) - 1 == limit
        if ended:
            score = log_p / length_penalty(len(tokens) - 1, alpha)
            if score > best_score:
                best, best_score = tokens[1:], score
            return
        following = log_probs(np.array([tokens]), np.array([row]))[0]
        for symbol in (2, 3, 4):
            visit([*tokens, symbol], log_p + following[symbol])

    visit([1], 0.0)
    return [t for t in best if t != 2], best_score


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_what_brute_force_finds(seed, alpha):
    log_probs, limit = tiny_language(seed=seed), 4
    got = beam_search(log_probs, 3, limit, 1, 2, beam=3**limit, alpha=alpha)
    for row, (tokens, score) in enumerate(got):
        want, best = brute_force(log_probs, row, limit, alpha)
        assert tokens == want and np.isclose(score, best)


def test_a_beam_of_four_is_better_than_one_and_no_better_than_all():
    scores = np.zeros(3)
    for seed in range(20):
        log_probs = tiny_language(seed=seed)
        for i, beam in enumerate((1, 4, 3**5)):
            scores[i] += beam_search(log_probs, 1, 5, 1, 2, beam)[0][1]
    assert scores[0] < scores[1] <= scores[2]


def test_greedy_search_takes_the_most_probable_symbol():
    log_probs = tiny_language()
    found = greedy_search(log_probs, 5, 6, 1, 2)
    for row, tokens in enumerate(found):
        want = [1]
        while len(want) < 7 and want[-1] != 2:
            following = log_probs(np.array([want]), np.array([row]))[0]
            want.append(int(following.argmax()))
        assert tokens == [t for t in want[1:] if t != 2]
    assert len({len(tokens) for tokens in found}) > 1  # some ended earlier than others


def test_a_beam_of_one_follows_greedy_search_but_may_end_before_it():
    log_probs = tiny_language()
    greedy = greedy_search(log_probs, 5, 6, 1, 2)
    for row, (tokens, _) in enumerate(beam_search(log_probs, 5, 6, 1, 2, beam=1, alpha=0.0)):
        assert tokens == greedy[row][: len(tokens)]


def late_riser(beginnings, rows):
    """The end at once with 0.5; or, with 0.4, five symbols 3 and then the end, all certain."""
    p = np.zeros((len(beginnings), 5))
    for n, tokens in enumerate(beginnings):
        p[n, 2:4] = (0.5, 0.4) if len(tokens) == 1 else (0, 1) if len(tokens) < 6 else (1, 0)
    with np.errstate(divide="ignore"):
        return np.log(p)


def test_the_search_does_not_end_while_a_longer_sentence_can_win():
    """Equation 7.61: ln 0.4 divided by the penalty of six symbols beats ln 0.5."""
    ((tokens, score),) = beam_search(late_riser, 1, 8, 1, 2)
    assert tokens == [3] * 5 and np.isclose(score, np.log(0.4) / (11 / 6) ** 0.6)


class Steady:
    """The same probabilities after every beginning; keeps what it was asked."""

    def __init__(self, *p):
        self.p, self.asked = np.array(p), []

    def __call__(self, beginnings, rows):
        self.asked.append(beginnings.tolist())
        with np.errstate(divide="ignore"):
            return np.log(np.tile(self.p, (len(rows), 1)))


def test_the_searches_end_as_soon_as_nothing_can_win():
    greedy, beam = Steady(0, 0, 0.97, 0.02, 0.01), Steady(0, 0, 0.97, 0.02, 0.01)
    assert greedy_search(greedy, 2, 10, 1, 2) == [[], []]
    assert beam_search(beam, 1, 10, 1, 2)[0][0] == []
    assert len(greedy.asked) == len(beam.asked) == 1


def test_a_sentence_that_ends_takes_no_place_in_the_beam():
    log_probs = Steady(0, 0, 0.4, 0.35, 0.25)
    beam_search(log_probs, 1, 8, 1, 2, beam=2)
    assert log_probs.asked[1] == [[1, 3], [1, 4]]


def test_the_length_penalty_favours_longer_sentences():
    """GNMT's numbers: (5 + 1)/6 is 1, and a sentence twice as long is divided by more."""
    assert length_penalty(1) == 1 and np.isclose(length_penalty(7, 0.6), 2**0.6)
    lengths = []
    for alpha in (0.0, 2.0):
        found = [beam_search(tiny_language(seed=s), 1, 6, 1, 2, 4, alpha)[0][0] for s in range(20)]
        lengths.append(sum(map(len, found)))
    assert lengths[0] < lengths[1]


# --- bad input

X = np.zeros((2, 3, 6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TransformerConfig(layers=0), "expected layers of at least 1, got 0"),
        (lambda: TransformerConfig(width=511), "an even width that 8 heads divide, got 511"),
        (lambda: TransformerConfig(width=15, heads=3), "an even width that 3 heads divide, got 15"),
        (lambda: TransformerConfig(dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: TransformerConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: TransformerConfig(positions="learned"), "expected positions of .*, got 'learned'"),
        (lambda: TransformerConfig(eos_id=0), "three different special symbols below 37000"),
        (lambda: TransformerConfig(pad_id=-1), "three different special symbols .* got -1, 1, 2"),
        (lambda: TransformerConfig(2), "three different special symbols below 2"),
        (lambda: attention_forward(X, X[..., :5], X), r"got \(2, 3, 6\), \(2, 3, 5\)"),
        (lambda: attention_forward(X, X, X[:, :1]), r"got \(2, 3, 6\), .*, \(2, 1, 6\)"),
        (lambda: split_heads(X, 4), "expected a width that 4 heads divide, got 6"),
        (
            lambda: layer_norm_forward(X, np.ones(5), np.ones(5)),
            r"expected vectors of width 5, got shape \(2, 3, 6\)",
        ),
        (lambda: sinusoidal_positions(3, 5), "expected an even width and a layout of .* got 5"),
        (lambda: sinusoidal_positions(3, 6, "x"), "expected an even width .* got 6, 'x'"),
        (lambda: make_model().encode(np.zeros(3, int)), r"expected tokens \(B, T\), got \(3,\)"),
        (lambda: make_model().encode(np.full((2, 3), 11)), "expected int tokens 0 to 10"),
        (
            lambda: smoothed_cross_entropy_forward(np.zeros((1, 2, 3)), np.zeros((1, 2), int), 0),
            "expected labels other than padding, got none",
        ),
        (lambda: warmup_rate(0, 512), "expected steps counted from 1, got 0"),
        (lambda: beam_search(tiny_language(), 1, 3, 1, 2, beam=0), "expected beam of at least 1"),
        (
            lambda: beam_search(tiny_language(), 1, 3, 1, 2, alpha=-1.0),
            "alpha of at least 0, got 4, -1.0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("size", ["vocabulary", "width", "heads", "hidden", "layers"])
def test_every_size_is_at_least_1(size):
    with pytest.raises(ValueError, match=f"expected {size} of at least 1, got 0"):
        TransformerConfig(**{size: 0})


def test_backward_needs_forward():
    with pytest.raises(RuntimeError, match="expected forward before backward"):
        transformer_numpy.Transformer(SMALL, RNG).backward(np.zeros((2, 3, 11)))
