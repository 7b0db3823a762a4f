"""Judges the exercises: your files (skipped until you start) and the solutions."""

import math

import numpy as np
import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process

from attention_numpy import attention_backward, attention_forward, causal_mask
from gpt_numpy import GPT, GPTConfig
from utils.exercises import diagnose, exercise
from utils.gradient_check import check_backward
from utils.parity import perturb

ex01 = exercise(__file__, "ex01_text_generation")
ex02 = exercise(__file__, "ex02_kv_cache")
ex03 = exercise(__file__, "ex03_alibi")
ex04 = exercise(__file__, "ex04_byte_pairs")
ex05 = exercise(__file__, "ex05_grouped_queries")
ex06 = exercise(__file__, "ex06_logits_processor")
ex07 = exercise(__file__, "ex07_window_attention")
ex08 = exercise(__file__, "ex08_sink_cache")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def writer():
    model = GPT(GPTConfig(11, 8, 12, 3, 2, 0.0), rng())
    perturb(model.params, scale=0.4)
    return model


# --- 01 text generation


def test_penalise(ex01):
    logits, written = np.array([2.0, -1.0, 0.5, -3.0, 4.0]), np.array([0, 1, 0, 3])
    before = logits.copy()
    want = np.array([1.25, -1.6, 0.5, -4.8, 4.0])
    diagnose(
        ex01.penalise(logits, written, 1.6),
        want,
        {
            "divide negative logits too, which makes them larger": [1.25, -0.625, 0.5, -1.875, 4],
            "penalise a token once for each time it occurs": [2 / 1.6**2, -1.6, 0.5, -4.8, 4],
            "penalise the tokens that were not written": [2, -1, 0.3125, -3, 2.5],
            "multiply where dividing is meant": [3.2, -0.625, 0.5, -1.875, 4],
            "subtract the penalty": [0.4, -2.6, 0.5, -4.6, 4],
            "return the logits as they came": before,
        },
        what="logits",
    )
    assert np.array_equal(logits, before), "penalise changed the array it was given; copy it first"
    processor = logits_process.RepetitionPenaltyLogitsProcessor(1.6)
    theirs = processor(torch.tensor(written)[None], torch.tensor(logits)[None])[0]
    diagnose(ex01.penalise(logits, written, 1.6), theirs, what="logits, beside transformers'")


def test_keep_min_p(ex01):
    p = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    diagnose(
        ex01.keep_min_p(p, 0.3),
        np.array([0.4, 0.25, 0.2, 0, 0]) / 0.85,
        {
            "compare with min_p itself instead of min_p times the largest": [1, 0, 0, 0, 0],
            "forget to make the rest sum to 1": [0.4, 0.25, 0.2, 0, 0],
            "keep the improbable ones": np.array([0, 0, 0, 0.1, 0.05]) / 0.15,
        },
        what="p",
    )
    diagnose(ex01.keep_min_p(p, 0), p, what="p with min_p = 0, which keeps all")
    best = ex01.keep_min_p(p, 1)
    if best is not None and np.isnan(best).any():
        raise AssertionError("with min_p = 1 nothing is left: a token at the limit stays (>=)")
    diagnose(best, [1, 0, 0, 0, 0], what="p with min_p = 1")
    warped = logits_process.MinPLogitsWarper(0.3)(None, torch.log(torch.tensor(p))[None])
    diagnose(ex01.keep_min_p(p, 0.3), warped.softmax(-1)[0], what="p, beside transformers'")


class Recorder:
    """Stands for a generator: takes the most probable token and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def choice(self, n, p=None, **_):
        assert p is not None, "rng.choice(len(p)) takes all tokens alike; give it p=p"
        self.asked.append(np.asarray(p))
        return int(np.argmax(p))


def next_p(model, tokens, temperature, min_p, penalty, place=-1):
    logits = model.forward(tokens[None, -8:])[0, place].copy()
    seen = np.unique(tokens)
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    logits /= temperature
    p = np.exp(logits - logits.max())
    p /= p.sum()
    p = np.where(p >= min_p * p.max(), p, 0)
    return p / p.sum()


def test_write(ex01, writer):
    start, recorder = rng(1).integers(11, size=6), Recorder()
    got = ex01.write(writer, start, 7, recorder, 0.7, 0.1, 1.4)
    assert got is not None and len(got) == 13, "expected the 6 given tokens and 7 more"
    assert np.array_equal(got[:6], start), "the given tokens come first"
    assert len(recorder.asked) == 7, "each token is one rng.choice(len(p), p=p)"
    for t in range(7):
        before = got[: 6 + t]
        diagnose(
            recorder.asked[t],
            next_p(writer, before, 0.7, 0.1, 1.4),
            {
                "forget the penalty": next_p(writer, before, 0.7, 0.1, 1),
                "forget the temperature": next_p(writer, before, 1, 0.1, 1.4),
                "forget min-p": next_p(writer, before, 0.7, 0, 1.4),
                "multiply by the temperature": next_p(writer, before, 1 / 0.7, 0.1, 1.4),
                "take the logits of the first place, not of the last": next_p(
                    writer, before, 0.7, 0.1, 1.4, place=0
                ),
                "penalise only what stands within the context": next_p(
                    writer, before[-8:], 0.7, 0.1, 1.4
                ),
            },
            what=f"probabilities of token {t}",
        )


def test_write_ends_at_stop(ex01, writer):
    start = rng(1).integers(11, size=6)
    whole = ex01.write(writer, start, 7, Recorder())
    stop = whole[8]
    want = whole[: 6 + int(np.argmax(whole[6:] == stop)) + 1]
    got = ex01.write(writer, start, 7, Recorder(), stop=stop)
    diagnose(got, want, {"go on after stop": whole, "leave stop out": want[:-1]}, what="text")


# --- 02 key-value cache


@pytest.mark.parametrize("parts", [(1,) * 7, (7,), (4, 1, 2), (2, 5)], ids=str)
def test_forward_cached(ex02, writer, parts):
    tokens = rng(2).integers(11, size=(3, 7))
    want, at = writer.forward(tokens), 0
    cache = ex02.empty_cache(writer, 3)
    for n in parts:
        piece = tokens[:, at : at + n]
        got = ex02.forward_cached(writer, piece, cache)
        wrong = {"see the new tokens alone, not those in the cache": writer.forward(piece)}
        if at == 0 and n > 1:
            everything = np.ones((n, n), dtype=bool)
            wrong = {"let a new token look at later ones": with_mask(writer, piece, everything)}
        elif at:
            rows = np.tri(at + n, dtype=bool)
            rows[at:] = rows[:n]
            first = with_mask(writer, tokens[:, : at + n], rows)[:, at:]
            wrong |= {
                "number the new tokens from place 0": misplaced(writer, tokens, at, n, 0),
                "take the mask's first rows for the new tokens, not its last": first,
            }
        wrong |= {"are one place ahead": misplaced(writer, tokens, at, n, at + 1)}
        diagnose(got, want[:, at : at + n], wrong, what=f"logits of tokens {at} to {at + n - 1}")
        at += n
        shape = cache[0][0].shape
        if shape == (3, 3, 0, 4):
            raise AssertionError("the cache is as empty as before: put what attend returns in it")
        diagnose(shape, (3, 3, at, 4), what="shape of the cached keys")


def with_mask(model, tokens, mask):
    import gpt_numpy

    kept = gpt_numpy.causal_mask
    gpt_numpy.causal_mask = lambda T, S=None: mask
    try:
        return model.forward(tokens)
    finally:
        gpt_numpy.causal_mask = kept


def misplaced(model, tokens, at, n, place):
    """Logits of tokens at ... at + n - 1 if these, and only these, stand at another place."""
    table = model.params["wpe.weight"].copy()
    try:
        moved = np.take(table, np.arange(place, place + n), axis=0, mode="clip")
        model.params["wpe.weight"] = np.concatenate([table[:at], moved, table[at + n :]])
        return model.forward(tokens[:, : at + n])[:, at:]
    finally:
        model.params["wpe.weight"] = table


def test_each_token_is_computed_once(ex02, monkeypatch):
    writer = GPT(GPTConfig(11, 40, 12, 3, 2, 0.0), rng())  # room for a text that goes in again
    perturb(writer.params, scale=0.4)
    rows, linear = [], ex02.linear_forward

    def counting(x, weight, bias):
        rows.append(x.shape[0] * x.shape[1])
        return linear(x, weight, bias)

    monkeypatch.setattr(ex02, "linear_forward", counting)
    start = rng(3).integers(11, size=(2, 3))
    got = ex02.write_greedily(writer, start, 5)
    want = start
    for _ in range(5):
        new = writer.forward(want)[:, -1].argmax(axis=-1)
        want = np.concatenate([want, new[:, None]], axis=1)
    assert got is not None and got.shape == want.shape, "expected 5 tokens behind those given"
    # 3 + 4 tokens of 2 texts, through c_attn and c_proj of 2 blocks
    if sum(rows) != 2 * 7 * 2 * 2:
        raise AssertionError(
            f"{sum(rows)} rows went through the layers of attention; 56 are enough: does a token "
            "go in that the cache holds already?"
        )
    diagnose(got, want, what="text")


# --- 03 ALiBi


def test_slopes(ex03):
    for nH, want in ((4, [2**-2, 2**-4, 2**-6, 2**-8]), (8, 2.0 ** -np.arange(1, 9))):
        diagnose(
            ex03.slopes(nH),
            want,
            {
                "count the heads from 0": 2.0 ** (-8 * np.arange(nH) / nH),
                "forget to divide by the number of heads": 2.0 ** (-8.0 * np.arange(1, nH + 1)),
                "turn the sign of the exponent": 2.0 ** (8 * np.arange(1, nH + 1) / nH),
            },
            what=f"slopes of {nH} heads",
        )
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 2), 16, torch.float64)[:, 0, 1]
    diagnose(ex03.slopes(16), theirs, tol=1e-7, what="slopes, beside BLOOM's")


def wanted_bias(T, nH):
    steps = np.arange(T)[:, None] - np.arange(T)
    return -(2.0 ** (-8 * np.arange(1, nH + 1) / nH))[:, None, None] * steps


def test_distance_bias(ex03):
    want = np.tril(wanted_bias(5, 4))
    got = ex03.distance_bias(5, 4)
    diagnose(np.shape(got), (4, 5, 5), what="shape of the bias")
    diagnose(
        np.tril(got),
        want,
        {
            "reward distance instead of lowering the score": -want,
            "exchange queries and keys": np.tril(-wanted_bias(5, 4)),
            "count the distance from 1": np.tril(wanted_bias(5, 4) + wanted_bias(2, 4)[:, 1:, :1]),
            "give every head the same slope": np.tril(np.repeat(wanted_bias(5, 4)[:1], 4, axis=0)),
            "leave the slopes out": np.tril(-(np.arange(5)[:, None] - np.arange(5)) + 0 * want),
        },
        what="bias of the keys up to the query",
    )


def heads(T=6, seed=4):
    generator = rng(seed)
    return [generator.standard_normal((2, 4, T, 3)) for _ in range(4)]


def biased(q, k, v, bias, scale=3**-0.5):
    scores = np.where(causal_mask(q.shape[2]), q @ k.swapaxes(-1, -2) * scale + bias, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True) @ v


def test_alibi_attention(ex03):
    q, k, v, _ = heads()
    bias = wanted_bias(6, 4)
    y, _ = ex03.alibi_attention_forward(q, k, v)
    diagnose(
        y,
        biased(q, k, v, bias),
        {
            "leave the bias out": attention_forward(q, k, v, causal_mask(6))[0],
            "divide the bias by √Dh too": biased(q, k, v, bias / math.sqrt(3)),
            "forget the factor 1/√Dh": biased(q, k, v, bias, 1),
            "add the distance instead of subtracting it": biased(q, k, v, -bias),
        },
        what="y",
    )


def test_alibi_backward(ex03):
    q, k, v, dy = heads()
    _, cache = ex03.alibi_attention_forward(q, k, v)
    got = ex03.alibi_attention_backward(dy, cache)
    _, plain = attention_forward(q, k, v, causal_mask(6))
    without = attention_backward(dy, plain)
    weights = cache[3]
    dweights = dy @ v.swapaxes(-1, -2)
    dscores = weights * dweights
    dscores = dscores - weights * dscores.sum(axis=-1, keepdims=True)
    want = [dscores @ k, dscores.swapaxes(-1, -2) @ q]
    raw = [dweights @ k, dweights.swapaxes(-1, -2) @ q]
    mixed = [dscores.swapaxes(-1, -2) @ k, dscores @ q]
    for i, (name, mine, right, plain_one) in enumerate(zip("qk", got, want, without, strict=False)):
        diagnose(
            mine,
            right / math.sqrt(3),
            {
                "forget the factor 1/√Dh": right,
                "leave the bias out of the weights": plain_one,
                "turn the sign": -right / math.sqrt(3),
                "forget the way back of the softmax": raw[i] / math.sqrt(3),
                "mix up queries and keys in the scores' gradient": mixed[i] / math.sqrt(3),
            },
            what=f"d{name}",
        )
    dv = weights.swapaxes(-1, -2) @ dy
    diagnose(got[2], dv, {"forget to transpose the weights": weights @ dy}, what="dv")
    check_backward(
        ex03.alibi_attention_forward,
        ex03.alibi_attention_backward,
        {"q": q, "k": k, "v": v},
    )


# --- 04 byte pairs


def test_count_pairs(ex04):
    pieces = [[1, 2, 1, 2], [2, 1, 1, 1], [7], []]
    diagnose_dict(
        ex04.count_pairs(pieces),
        {(1, 2): 2, (2, 1): 2, (1, 1): 2},
        {
            "count a pair across two pieces": {
                (1, 2): 2,
                (2, 1): 2,
                (1, 1): 2,
                (2, 2): 1,
                (1, 7): 1,
            },
            "count each pair once in a piece": {(1, 2): 1, (2, 1): 2, (1, 1): 1},
            "leave out places that overlap": {(1, 2): 2, (2, 1): 2, (1, 1): 1},
        },
    )


def diagnose_dict(got, want, wrong):
    got = {tuple(pair): n for pair, n in (got or {}).items()}
    if got == want:
        return
    match = [mistake for mistake, value in wrong.items() if got == value]
    if match:
        raise AssertionError(f"counts: that is what comes out if you {match[0]}")
    raise AssertionError(f"counts: expected {want}, got {got}")


def test_merge(ex04):
    for tokens, want, wrong in (
        ([5, 5, 5, 5, 5], [9, 9, 5], [5, 9, 9]),
        ([1, 5, 5], [1, 9], [1, 5, 5]),
        ([5, 5, 1, 5], [9, 1, 5], [9, 1]),
    ):
        got = ex04.merge(tokens, (5, 5), 9)
        assert got != wrong, f"{tokens} became {got}: the ends are not treated right"
        assert len(got) <= len(want), f"{tokens} became {got}: a merge takes two tokens, not one"
        assert got == want, f"merging (5, 5) in {tokens} gives {want}, got {got}"
    assert ex04.merge([], (5, 5), 9) == []


def plain_training(pieces, count, ties=lambda pair: pair):
    coded, merges = [list(p.encode()) for p in pieces], []
    for n in range(count):
        counts = {}
        for tokens in coded:
            for i in range(len(tokens) - 1):
                counts[tuple(tokens[i : i + 2])] = counts.get(tuple(tokens[i : i + 2]), 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], ties(pair)), default=None)
        if best is None or counts[best] < 2:
            break
        for tokens in coded:
            i = 0
            while i < len(tokens) - 1:
                if tuple(tokens[i : i + 2]) == best:
                    tokens[i : i + 2] = [256 + n]
                i += 1
        merges.append(best)
    return merges, coded


TEXTS = (
    ["aaabdaaabac"],
    ["low", " lower", " newest", " newest", " widest", " low"],
    ["déjà", " vu", " déjà", " vécu"],
    ["abcabcabc", "xyz"],
)


@pytest.mark.parametrize("pieces", TEXTS, ids=lambda pieces: pieces[0])
def test_train_and_encode(ex04, pieces):
    merges, coded = plain_training(pieces, 12)
    got = [tuple(pair) for pair in ex04.train(pieces, 12)]
    if got[: len(merges)] == merges and len(got) > len(merges):
        raise AssertionError("training goes on though no pair occurs twice any more")
    usual = {
        "the pair met first": lambda pair: 0,
        "the pair of highest numbers": lambda pair: (-pair[0], -pair[1]),
    }
    for mistake, ties in usual.items():
        if got != merges and got == plain_training(pieces, 12, ties)[0]:
            raise AssertionError(f"of equally frequent pairs, you take {mistake}, not the lowest")
    assert got == merges, f"expected the merges {merges}, got {got}"
    assert ex04.train(pieces, 2) == merges[:2], "with count = 2 there are two merges"
    for piece, tokens in zip(pieces, coded, strict=True):
        mine = ex04.encode(piece, merges)
        assert mine == tokens, f"{piece!r}: training made {tokens} of it, encode {mine}"
        back = ex04.decode(mine, merges)
        assert back == piece, f"{piece!r} came back as {back!r}"


def test_encode_keeps_the_order_of_the_merges(ex04):
    merges = [(98, 99), (97, 98)]  # bc before ab
    got = ex04.encode("abc", merges)
    assert got != [257, 99], "ab was joined before bc, though bc was learnt first"
    assert got == [97, 256], f"expected [97, 256], got {got}"


def test_decode_joins_the_bytes_first(ex04):
    tokens = list("日本".encode())
    got = ex04.decode(tokens, [])
    assert "\ufffd" not in got, "each token was decoded by itself; a character has several bytes"
    assert got == "日本"
    assert ex04.decode(tokens[:4], []) == "日\ufffd"


# --- 05 grouped queries


def test_repeat_heads(ex05):
    x = rng().standard_normal((2, 3, 4, 5))
    dy = rng(1).standard_normal((2, 6, 4, 5))
    y, cache = ex05.repeat_heads_forward(x, 2)
    diagnose(
        y,
        x[:, [0, 0, 1, 1, 2, 2]],
        {"put all groups behind each other, again and again": x[:, [0, 1, 2, 0, 1, 2]]},
        what="y",
    )
    pairs = dy.reshape(2, 3, 2, 4, 5)
    diagnose(
        ex05.repeat_heads_backward(dy, cache),
        pairs.sum(axis=2),
        {
            "take the mean where the sum is meant": pairs.mean(axis=2),
            "take one head of each group alone": dy[:, ::2],
            "sum heads that lie apart": dy.reshape(2, 2, 3, 4, 5).sum(axis=1),
        },
        what="dx",
    )


def test_grouped_attention(ex05):
    generator = rng(2)
    q, dy = (generator.standard_normal((2, 6, 5, 4)) for _ in range(2))
    k, v = (generator.standard_normal((2, 3, 5, 4)) for _ in range(2))
    y, _ = ex05.grouped_attention_forward(q, k, v)
    order, tiled, mask = [0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2], causal_mask(5)
    diagnose(
        y,
        attention_forward(q, k[:, order], v[:, order], mask)[0],
        {
            "forget the mask": attention_forward(q, k[:, order], v[:, order])[0],
            "give neighbouring heads different groups": attention_forward(
                q, k[:, tiled], v[:, tiled], mask
            )[0],
            "exchange keys and values": attention_forward(q, v[:, order], k[:, order], mask)[0],
        },
        what="y",
    )
    _, cache = ex05.grouped_attention_forward(q, k, v)
    dq, dk, dv = ex05.grouped_attention_backward(dy, cache)
    _, plain = attention_forward(q, k[:, order], v[:, order], mask)
    want = attention_backward(dy, plain)
    diagnose(dq, want[0], what="dq")
    for name, mine, gradient in (("dk", dk, want[1]), ("dv", dv, want[2])):
        pairs = gradient.reshape(2, 3, 2, 5, 4)
        diagnose(
            mine,
            pairs.sum(axis=2),
            {
                "forget to sum over the heads of a group": gradient,
                "take the mean where the sum is meant": pairs.mean(axis=2),
            },
            what=name,
        )
    check_backward(
        ex05.grouped_attention_forward,
        ex05.grouped_attention_backward,
        {"q": q, "k": k, "v": v},
    )


def test_cache_numbers(ex05):
    diagnose(
        ex05.cache_numbers(12, 4, 64, 1000),
        6_144_000,
        {
            "forget that keys and values are both kept": 3_072_000,
            "forget the layers": 512_000,
            "forget the width of a head": 96_000,
            "forget the tokens": 6_144,
        },
        what="count",
    )
    diagnose(ex05.cache_numbers(12, 12, 64, 1024), 18_874_368, what="count for GPT-2 small")


# --- 06, 07 and 08 modifications of transformers


def small_gpt2(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "n_positions": 40, "n_embd": 12, "n_head": 3, "n_layer": 2}
    sizes |= {"bos_token_id": None, "eos_token_id": None}
    sizes |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(**sizes | options)).double().eval()
    perturb(dict(model.named_parameters()))
    return model


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_forbidden(ex06, n):
    for tokens in ([1, 2, 3, 1, 2], [4, 4, 4], [1, 2, 1, 2, 1], [5], [], [1, 2, 3, 1, 2, 4, 1, 2]):
        want = {
            w for w in range(11)
            if tuple([*tokens[len(tokens) - n + 1 :], w] if n > 1 else [w])
            in {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
            and len(tokens) >= n - 1
        }  # fmt: skip
        got = ex06.forbidden(tokens, n)
        assert got is not None, "forbidden returned None: is a return statement missing?"
        if n == 1 and len(tokens) > 1 and not got:
            raise AssertionError(
                f"after {tokens}, with n = 1, nothing is forbidden: the end that has to match is "
                "empty then, and tokens[-0:] is the whole list"
            )
        assert set(got) == want, f"after {tokens}, with n = {n}: expected {want}, got {set(got)}"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_processor_is_that_of_transformers(ex06, n):
    tokens = torch.tensor([[1, 2, 3, 1, 2], [4, 4, 5, 4, 4], [1, 2, 3, 4, 5]])
    scores = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    got = ex06.NoRunTwice(n)(tokens, scores)
    assert torch.equal(scores, before), "the scores were changed in place; clone them first"
    want = logits_process.NoRepeatNGramLogitsProcessor(n)(tokens, before.clone())
    assert got is not None, "__call__ returned None: is a return statement missing?"
    assert not torch.equal(got, before), "the scores are as they were"
    mine, theirs = torch.isinf(got), torch.isinf(want)
    if not mine.any() and torch.equal(got != before, theirs):
        raise AssertionError("the right tokens, but a forbidden score is -inf, nothing else")
    rows = mine[:1].expand(3, 11)
    if not torch.equal(mine, theirs) and torch.equal(mine, rows):
        raise AssertionError("all texts of the batch got the same forbidden tokens")
    assert torch.equal(mine, theirs), "other tokens are forbidden than in transformers"
    diagnose(got[~mine], want[~theirs], what="scores of what is allowed")


def test_generate_with_the_rule(ex06):
    model, tokens = small_gpt2(), torch.tensor([[1, 2, 3], [4, 4, 4]])
    how = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 20, "do_sample": False}
    free = model.generate(tokens, pad_token_id=0, **how)
    want = model.generate(tokens, pad_token_id=0, no_repeat_ngram_size=2, **how)
    assert not torch.equal(free, want)
    got = ex06.write(model, tokens, 20, 2)
    diagnose(got, want, {"leave the processor out": free}, what="text")


def test_window_mask(ex07):
    steps = torch.arange(6)[:, None] - torch.arange(6)
    want = ((steps >= 0) & (steps < 3)).double()
    diagnose(
        ex07.window_mask(6, 6, 3).double(),
        want,
        {
            "have one token too many": ((steps >= 0) & (steps <= 3)).double(),
            "look ahead too": (steps.abs() < 3).double(),
            "look ahead instead of back": want.T,
            "forget the window": (steps >= 0).double(),
            "forget that later keys are hidden": (steps < 3).double(),
            "turn True and False": 1 - want,
        },
        what="mask",
    )
    diagnose(
        ex07.window_mask(2, 6, 3).double(),
        want[4:],
        {"take the queries for the first places": want[:2]},
        what="mask of the last 2 queries",
    )
    diagnose(ex07.window_mask(1, 6, 100).double(), torch.ones(1, 6), what="mask of a wide window")


def test_window_attention(ex07):
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 3, 6, 4, generator=generator).double() for _ in range(3))
    module = torch.nn.Module()
    module.config = GPT2Config(window=3)
    result = ex07.window_attention(module.eval(), q, k, v, None, scaling=0.5)
    assert isinstance(result, tuple) and len(result) == 2, "expected two results, y and the weights"
    steps = torch.arange(6)[:, None] - torch.arange(6)
    hidden = (steps < 0) | (steps >= 3)

    def weights(scores, later=hidden):
        return scores.masked_fill(later, -torch.inf).softmax(dim=-1)

    want = weights(q @ k.mT * 0.5)
    y = (want @ v).transpose(1, 2)
    diagnose(
        result[1],
        want,
        {
            "forget the scaling": weights(q @ k.mT),
            "forget the mask": weights(q @ k.mT * 0.5, hidden & False),
            "mask after the softmax": (q @ k.mT * 0.5).softmax(dim=-1).masked_fill(hidden, 0),
        },
        what="weights",
    )
    if result[0].shape == (2, 3, 6, 4):
        raise AssertionError("y is (B, nH, T, Dh); transformers wants the heads behind the places")
    diagnose(result[0], y, {"leave the weights out": v.transpose(1, 2)}, what="y")


@pytest.fixture
def ordinary_attention():
    """Forgets what an exercise registers, so that tests do not depend on their order."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    yield
    for mapping in (
        ALL_ATTENTION_FUNCTIONS._global_mapping,
        ALL_ATTENTION_FUNCTIONS._local_mapping,
    ):
        mapping.pop("window", None)


def masked_logits(model, tokens, allowed, places=None):
    """transformers' own eager model, given the mask (T, T) from outside."""
    reference = small_gpt2(attn_implementation="eager")
    reference.load_state_dict(model.state_dict())
    T = tokens.shape[1]
    mask = torch.zeros(T, T).double().masked_fill(~allowed, -torch.inf)
    mask = mask.expand(len(tokens), 1, T, T)
    return reference(tokens, attention_mask=mask, position_ids=places).logits


def reference_logits(model, tokens, window, causal=True):
    steps = torch.arange(tokens.shape[1])[:, None] - torch.arange(tokens.shape[1])
    allowed = (steps >= 0) & (steps < window) if causal else steps.abs() < window
    return masked_logits(model, tokens, allowed)


def test_use_window(ex07, ordinary_attention):
    model = small_gpt2()
    tokens = torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(1))
    want, plain = reference_logits(model, tokens, 4), model(tokens).logits
    changed = ex07.use_window(model, 4)
    assert changed is not None, "use_window returned None: is a return statement missing?"
    diagnose(
        changed(tokens).logits,
        want,
        {
            "leave the model as it was": plain,
            "look ahead too": reference_logits(model, tokens, 4, causal=False),
            "have one token too many in the window": reference_logits(model, tokens, 5),
        },
        what="logits",
    )
    wide = ex07.use_window(model, 100)(tokens).logits
    diagnose(wide, plain, what="logits with a window as wide as the text")


def test_windows_work_with_the_cache(ex07, ordinary_attention):
    model = ex07.use_window(small_gpt2(), 4)
    tokens = torch.randint(11, (2, 3), generator=torch.Generator().manual_seed(1))
    how = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 12, "do_sample": False}
    got = model.generate(tokens, pad_token_id=0, **how)
    want = tokens
    for _ in range(12):
        new = reference_logits(model, want, 4)[:, -1].argmax(dim=-1)
        want = torch.cat([want, new[:, None]], dim=1)
    diagnose(got, want, what="text written with a cache")


def test_window_weights_get_dropout_in_training(ex07, ordinary_attention):
    model = ex07.use_window(small_gpt2(attn_pdrop=0.5), 4)
    tokens = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(1))
    one, two = model.train()(tokens).logits, model(tokens).logits
    assert not torch.equal(one, two), "in training the weights need dropout, by the rate given"
    assert torch.equal(model.eval()(tokens).logits, model(tokens).logits), "no dropout in eval mode"


def tokens_of(x, places):
    """x (B, nH, S, Dh) at these places of axis 2."""
    return x[:, :, list(places)]


@pytest.mark.parametrize(("sinks", "recent"), [(2, 2), (1, 3), (3, 1), (0, 4)], ids=str)
def test_keep(ex08, sinks, recent):
    x = torch.randn(2, 3, 9, 4, generator=torch.Generator().manual_seed(0)).double()
    both = sinks + recent
    first, last = x[:, :, :sinks], x[:, :, 9 - recent :]
    wrong = {
        "keep the last ones only": tokens_of(x, range(9 - both, 9)),
        "keep the last ones only, and no sinks": last,
        "keep the first ones only, which drops the newest": x[:, :, :both],
        "drop the newest": tokens_of(x, [*range(sinks), *range(8 - recent, 8)]),
        "keep one token too many": tokens_of(x, [*range(sinks), *range(8 - recent, 9)]),
        "put the sinks behind the last ones": torch.cat([last, first], dim=2),
        "cut the heads instead of the tokens": torch.cat([x[:, :sinks], x[:, -recent:]], dim=1),
        "keep all": x,
    }
    if sinks == recent:  # of other sizes torch.cat refuses these
        wrong |= {
            "join the two ends on axis 1, the heads; tokens are on axis 2": torch.cat(
                [first, last], dim=1
            ),
            "join the two ends on axis 0, the texts; tokens are on axis 2": torch.cat(
                [first, last], dim=0
            ),
            "join the two ends on the last axis, inside a head; tokens are on axis 2": torch.cat(
                [first, last], dim=3
            ),
        }
    got = cat_or_say(lambda: ex08.keep(x, sinks, recent))
    diagnose(got, torch.cat([first, last], dim=2), wrong, what="kept of 9 tokens")
    for S in (1, both - 1, both):
        short = x[:, :, :S]
        diagnose(
            cat_or_say(lambda short=short: ex08.keep(short, sinks, recent)),
            short,
            {
                "keep a token twice where the two ends overlap": torch.cat(
                    [short[:, :, :sinks], short[:, :, -recent:]], dim=2
                )
            },
            what=f"kept of {S} tokens, which is no more than {both}",
        )


def cat_or_say(call):
    try:
        return call()
    except RuntimeError as error:
        raise AssertionError(
            f"do you join on axis 2 of (B, nH, S, Dh), the tokens? PyTorch says: {error}"
        ) from error


PIECES = [(1,) * 11, (7, 1, 1, 1, 1), (2, 3, 4, 2), (1, 8, 2)]


@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_sink_layer(ex08, pieces):
    generator, sinks, recent, at = torch.Generator().manual_seed(3), 2, 3, 0
    keys, values = (torch.randn(2, 3, 11, 4, generator=generator).double() for _ in range(2))
    layer = ex08.SinkLayer(sinks, recent)
    for T in pieces:
        before = [j for j in range(at) if j < sinks or j >= at - recent]
        stored = [j for j in range(at + T) if j < sinks or j >= at + T - recent]
        seen = [j for j in range(at + T) if j < sinks or j > at - recent]
        new = keys[:, :, at : at + T], values[:, :, at : at + T]
        got = cat_or_say(lambda new=new: layer.update(*new))
        assert isinstance(got, tuple) and len(got) == 2, "update returns two: keys and values"
        at += T
        for name, x, other, mine, out in (
            ("keys", keys, values, layer.keys, got[0]),
            ("values", values, keys, layer.values, got[1]),
        ):
            piece = x[:, :, at - T : at]
            mistakes = {
                "let the memory grow, or drop before you join": x[:, :, :at],
                "keep the last ones only": tokens_of(x, range(max(at - sinks - recent, 0), at)),
                "keep the last ones only, and no sinks": tokens_of(x, range(at)[-recent:]),
                "keep the first ones only, which drops the newest": x[:, :, : sinks + recent],
                "drop the newest": tokens_of(
                    x, [j for j in range(at - 1) if j < sinks or j >= at - 1 - recent]
                ),
                "store the new ones alone": piece,
                "take keys for values, or values for keys": tokens_of(other, stored),
                "store what update returns, which may be more": tokens_of(x, seen),
            }
            if len(before) == T:
                joined = [tokens_of(x, before), piece]
                mistakes |= {
                    "join on axis 1, the heads; tokens are on axis 2": torch.cat(joined, dim=1),
                    "join on axis 0, the texts; tokens are on axis 2": torch.cat(joined, dim=0),
                    "join on the last axis; tokens are on axis 2": torch.cat(joined, dim=3),
                }
            diagnose(mine, tokens_of(x, stored), mistakes, what=f"{name} stored of {at} tokens")
            diagnose(
                out,
                tokens_of(x, seen),
                {
                    "return only what is stored, so that the first new ones see too little": (
                        tokens_of(x, stored)
                    ),
                    "return the oldest too, which is one more than the last n": tokens_of(
                        x, [*before, *range(at - T, at)]
                    ),
                    "return the new ones alone": piece,
                    "return all that came": x[:, :, :at],
                },
                what=f"{name} returned for tokens {at - T} to {at - 1}",
            )


@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_sink_lengths(ex08, pieces):
    layer, came, x = ex08.SinkLayer(2, 3), 0, torch.randn(2, 3, 11, 4)
    for T in pieces:
        check_lengths(layer, came, T, 5)
        piece = x[:, :, came : came + T]
        cat_or_say(lambda piece=piece: layer.update(piece, piece))
        came += T
    check_lengths(layer, came, 1, 5)
    layer.reset()
    check_lengths(layer, 0, 4, 5)


def check_lengths(layer, came, T, bound):
    """Of a layer that has seen ``came`` tokens and waits for T."""
    diagnose(
        layer.get_seq_length(),
        came,
        {
            "count the tokens that were kept, not those that came: places repeat": min(came, bound),
            "forget to count the new tokens": 0,
        },
        what=f"get_seq_length after {came} tokens",
    )
    length = min(came, bound - 1) + T
    stored = min(came, bound) + T
    diagnose(
        layer.get_mask_sizes(T),
        (length, came + T - length),
        {
            "count keys that update does not return": (came + T, 0),
            "put the first key at place 0, so that new tokens see later ones": (length, 0),
            "count the oldest too, which update does not return": (stored, came + T - stored),
            "count the oldest too, and begin at place 0": (stored, 0),
            "forget the new tokens": (length - T, came + T - length),
            "exchange the two numbers": (came + T - length, length),
        },
        what=f"get_mask_sizes({T}) after {came} tokens",
    )


def in_pieces(model, cache, tokens, pieces):
    """Logits of the tokens, given one piece after the other."""
    logits = []
    for piece in tokens.split(pieces, dim=1):
        try:
            logits.append(model(piece, past_key_values=cache, use_cache=True).logits)
        except RuntimeError as error:
            raise AssertionError(
                "does update join on axis 2, the tokens, and does get_mask_sizes say how many it "
                f"returns? The model stops: {error}"
            ) from error
    return torch.cat(logits, dim=1)


def sink_mask(pieces, sinks, recent):
    """True where token t may see token j, (T, T): from ``recent`` - 1 before its piece begins."""
    starts = torch.tensor([sum(pieces[:i]) for i, n in enumerate(pieces) for _ in range(n)])
    t, j = torch.arange(sum(pieces))[:, None], torch.arange(sum(pieces))
    return (j <= t) & ((j < sinks) | (j > starts[:, None] - recent))


def test_sink_cache(ex08):
    model = small_gpt2()
    cache = ex08.sink_cache(model, 2, 3)
    assert cache is not None, "sink_cache returned None: is a return statement missing?"
    kinds = [type(layer).__name__ for layer in cache.layers]
    assert kinds == ["SinkLayer"] * 2, f"expected a SinkLayer for each of 2 blocks, got {kinds}"
    assert cache.layers[0] is not cache.layers[1], (
        "all blocks share one layer, and mix their keys; make one SinkLayer for each"
    )
    sizes = [(layer.sinks, layer.recent) for layer in cache.layers]
    assert sizes == [(2, 3)] * 2, f"expected 2 sinks and 3 recent tokens, got {sizes}"


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("pieces", [(1,) * 9, (9,), (4, 1, 3, 1)], ids=str)
def test_sinks_change_nothing_within_their_room(ex08, pieces, implementation):
    model = small_gpt2(attn_implementation=implementation)
    tokens = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1))
    want = in_pieces(model, DynamicCache(config=model.config), tokens, pieces)
    got = in_pieces(model, ex08.sink_cache(model, 4, 5), tokens, pieces)
    at_zero = torch.tensor([i for n in pieces for i in range(n)])[None]
    everything = sink_mask(pieces, 4, 5)
    diagnose(
        got,
        want,
        {
            "number the new tokens from place 0": masked_logits(model, tokens, everything, at_zero),
            "drop what still has room": masked_logits(model, tokens, sink_mask(pieces, 0, 5)),
        },
        what="logits of 9 tokens, with room for 4 + 5",
    )


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("pieces", [(1,) * 15, (12, 1, 1, 1), (2, 6, 4, 3)], ids=str)
def test_sinks_beyond_their_room(ex08, pieces, implementation):
    model = small_gpt2(attn_implementation=implementation)
    tokens = torch.randint(11, (3, 15), generator=torch.Generator().manual_seed(1))
    cache = ex08.sink_cache(model, 2, 3)
    got = in_pieces(model, cache, tokens, pieces)
    allowed = sink_mask(pieces, 2, 3)
    kept = [min(sum(pieces[:i]), 5) + j for i, n in enumerate(pieces) for j in range(n)]
    wrong = {
        "count the tokens that were kept, so that places repeat": masked_logits(
            model, tokens, allowed, torch.tensor(kept)[None]
        ),
        "keep the last ones only": masked_logits(model, tokens, sink_mask(pieces, 0, 5)),
        "keep the last ones only, and no sinks": masked_logits(
            model, tokens, sink_mask(pieces, 0, 3)
        ),
        "have one token too many": masked_logits(model, tokens, sink_mask(pieces, 2, 4)),
        "keep all": model(tokens).logits,
    }
    if max(pieces) == 1:
        wrong["keep the first ones only, which drops the newest"] = masked_logits(
            model, tokens, torch.ones(15, 15).tril().bool() & (torch.arange(15) < 5)
        )
    diagnose(got, masked_logits(model, tokens, allowed), wrong, what="logits of 15 tokens")
    for layer in cache.layers:
        diagnose(layer.keys.shape, (3, 3, 5, 4), what="shape of the keys stored")


def test_generate_with_sinks(ex08):
    model = small_gpt2()
    start = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(1))
    how = {"attention_mask": torch.ones_like(start), "max_new_tokens": 20, "do_sample": False}
    cache = ex08.sink_cache(model, 2, 3)
    got = model.generate(start, pad_token_id=0, past_key_values=cache, **how)
    want = start
    for t in range(20):
        allowed = sink_mask((8,) + (1,) * t, 2, 3)
        new = masked_logits(model, want, allowed)[:, -1].argmax(dim=-1)
        want = torch.cat([want, new[:, None]], dim=1)
    free = model.generate(start, pad_token_id=0, **how)
    assert not torch.equal(free, want)
    diagnose(got, want, {"keep all": free}, what="text written with the cache")


def test_places_still_run_out(ex08):
    model, tokens = small_gpt2(), torch.zeros(1, 41, dtype=torch.int64)
    cache = ex08.sink_cache(model, 2, 3)
    in_pieces(model, cache, tokens[:, :40], (1,) * 40)
    try:
        model(tokens[:, 40:], past_key_values=cache, use_cache=True)
    except IndexError:
        return
    raise AssertionError(
        "a table of 40 places had one for token 41: places repeat. Do you count the tokens that "
        "were kept, not those that came?"
    )
