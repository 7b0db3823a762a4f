"""Judges the exercises: your files (skipped until you start) and the solutions."""

import math

import numpy as np
import pytest
import torch

from attention_numpy import attention_backward, attention_forward, causal_mask
from transformer_numpy import Transformer, TransformerConfig
from utils.exercises import diagnose, exercise
from utils.gradient_check import check_backward
from utils.parity import perturb

ex01 = exercise(__file__, "ex01_flash_attention")
ex02 = exercise(__file__, "ex02_rotary_embeddings")
ex03 = exercise(__file__, "ex03_kv_cache")
ex04 = exercise(__file__, "ex04_pre_norm")
ex05 = exercise(__file__, "ex05_rms_norm")


def rng():
    return np.random.default_rng(0)


# --- 01 flash attention


def two_tiles():
    """Scores of two tiles for queries (2, 3), the second with larger maxima for some of them."""
    generator = rng()
    scores = [3 * generator.standard_normal((2, 3, n)) for n in (4, 5)]
    scores[1][0] += 4
    return scores, [generator.standard_normal((2, n, 6)) for n in (4, 5)]


def test_add_tile(ex01):
    scores, values = two_tiles()
    top = scores[0].max(axis=-1)
    weights = np.exp(scores[0] - top[..., None])
    first_state = top, weights.sum(axis=-1), weights @ values[0]
    got = ex01.add_tile(ex01.start_state((2, 3), 6), scores[0], values[0])
    assert got is not None, "add_tile returned None: is a return statement missing?"
    state = ex01.add_tile(first_state, scores[1], values[1])
    whole, v = np.concatenate(scores, axis=-1), np.concatenate(values, axis=-2)
    m = whole.max(axis=-1)
    e = np.exp(whole - m[..., None])
    first_m, second_m = (a.max(axis=-1) for a in scores)
    first, second = (
        np.exp(a - top[..., None]) for a, top in zip(scores, (first_m, m), strict=True)
    )
    last = np.exp(scores[1] - second_m[..., None])
    inverse = np.exp(m - first_m)
    diagnose(state[0], m, {"keep the maximum of the last tile alone": second_m}, what="m")
    diagnose(
        state[1],
        e.sum(axis=-1),
        {
            "forget to rescale ell when the maximum rises": first.sum(-1) + second.sum(-1),
            "rescale ell by exp(new - old) instead of exp(old - new)": inverse * first.sum(-1)
            + second.sum(-1),
            "subtract the tile's own maximum instead of the new one": np.exp(first_m - m)
            * first.sum(-1)
            + last.sum(-1),
            "keep the sum of the last tile alone": second.sum(-1),
        },
        what="ell",
    )
    diagnose(
        state[2],
        e @ v,
        {
            "forget to rescale o when the maximum rises": first @ values[0] + second @ values[1],
            "rescale o by exp(new - old) instead of exp(old - new)": inverse[..., None]
            * (first @ values[0])
            + second @ values[1],
            "divide by ell already": e @ v / e.sum(axis=-1, keepdims=True),
            "subtract the tile's own maximum instead of the new one": np.exp(first_m - m)[..., None]
            * (first @ values[0])
            + last @ values[1],
        },
        what="o",
    )
    for name, mine, want in zip(("m", "ell", "o"), got, first_state, strict=True):
        diagnose(mine, want, what=f"{name} after the first tile, which begins with m = -inf")


def test_add_tile_with_huge_scores(ex01):
    scores = np.array([[1000.0, 998.0]])
    state = ex01.add_tile(ex01.start_state((1,), 1), scores, np.ones((2, 1)))
    state = ex01.add_tile(state, scores - 2000, np.ones((2, 1)))
    diagnose(
        state[1], [1 + np.exp(-2.0)], what="ell for scores of a thousand, which must not overflow"
    )


def wrong_attention(q, k, v, tile, causal):
    """What comes out of the usual mistakes in the loop."""
    T, S = q.shape[-2], k.shape[-2]
    mask = causal_mask(T) if causal else np.ones((T, S), dtype=bool)
    scale = math.sqrt(q.shape[-1])
    rows, columns = np.arange(T)[:, None], np.arange(S)
    parts = [
        attention_forward(q, k[..., j : j + tile, :], v[..., j : j + tile, :])[0]
        for j in range(0, S, tile)
    ]
    wrong = {
        "forget the factor 1/√Dh": attention_forward(q * scale, k, v, mask)[0],
        "leave out the last keys, which fill no whole tile": attention_forward(
            q, k, v, mask & (columns < S - S % tile)
        )[0],
        "average the softmaxes of the tiles": np.mean(parts, axis=0),
    }
    scores = np.where(mask, q @ k.swapaxes(-1, -2) / scale, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    wrong["forget to divide by ell at the end"] = e @ v
    if causal:
        wrong |= {
            "forget the mask": attention_forward(q, k, v)[0],
            "mask whole tiles only": attention_forward(q, k, v, columns // tile <= rows // tile)[0],
            "number queries and keys within their tiles": attention_forward(
                q, k, v, (columns // tile <= rows // tile) & (columns % tile <= rows % tile)
            )[0],
        }
    return wrong


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("tile", [1, 3, 5, 11, 64])
def test_flash_attention(ex01, tile, causal):
    generator = rng()
    q, k, v = (generator.standard_normal((2, 3, 11, n)) for n in (4, 4, 6))
    mask = causal_mask(11) if causal else None
    wrong = wrong_attention(q, k, v, tile, causal) if tile in (3, 5) else {}
    want, got = attention_forward(q, k, v, mask)[0], ex01.flash_attention(q, k, v, tile, causal)
    if causal and np.isnan(got[..., 0, :]).all():
        raise AssertionError(
            "y: the first query is NaN: is it masked from key 0, the only one it may see?"
        )
    diagnose(got, want, wrong, what="y")


def test_flash_attention_with_more_keys_than_queries(ex01):
    generator = rng()
    q, k, v = (generator.standard_normal((n, 4)) for n in (5, 9, 9))
    diagnose(ex01.flash_attention(q, k, v, 4), attention_forward(q, k, v)[0], what="y")


def test_it_needs_little_memory(ex01):
    generator = rng()
    q, k, v = (generator.standard_normal((1, 512, 16)) for _ in range(3))
    plain = ex01.peak_bytes(attention_forward, q, k, v)
    tiled = ex01.peak_bytes(ex01.flash_attention, q, k, v, tile=32)
    if not tiled < plain / 10:
        raise AssertionError(
            f"at its peak flash_attention holds {tiled / 2**20:.2f} MiB, plain attention "
            f"{plain / 2**20:.2f} MiB: does something of size T x S remain, or a list of all tiles?"
        )


def test_causal_attention_leaves_tiles_out(ex01, monkeypatch):
    tiles, add_tile = [], ex01.add_tile

    def counting(state, scores, v):
        tiles.append(scores.shape)
        return add_tile(state, scores, v)

    monkeypatch.setattr(ex01, "add_tile", counting)
    q, k, v = (rng().standard_normal((32, 4)) for _ in range(3))
    ex01.flash_attention(q, k, v, tile=4, causal=True)
    if len(tiles) != 36:
        raise AssertionError(
            f"8 tiles of queries look at 1 + 2 + ... + 8 = 36 tiles of keys; you added {len(tiles)}"
        )


# --- 02 rotary embeddings


def test_rotation_angles(ex02):
    i, t = np.arange(4), np.array([0, 1, 5, 70])[:, None]
    diagnose(
        ex02.rotation_angles([0, 1, 5, 70], 8),
        t * 10000.0 ** (-2 * i / 8),
        {
            "take i / Dh where 2i / Dh is meant": t * 10000.0 ** (-i / 8),
            "turn the sign of the exponent": t * 10000.0 ** (2 * i / 8),
            "take the positions 0, 1, 2, ... whatever is given": np.arange(4)[:, None]
            * 10000.0 ** (-2 * i / 8),
            "count the pairs from 1": t * 10000.0 ** (-2 * (i + 1) / 8),
        },
        what="table of angles",
    )


def rotated(x, angles):
    """The pairs as complex numbers, times e^(i angle)."""
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)


def rotary_case(ex02):
    generator = rng()
    x = generator.standard_normal((2, 3, 5, 8))
    return x, generator.uniform(-3, 3, (5, 4)), generator.standard_normal(x.shape)


def test_rotate_forward(ex02):
    x, angles, _ = rotary_case(ex02)
    halves = np.empty_like(x)
    a, b = x[..., :4], x[..., 4:]
    halves[..., :4] = np.cos(angles) * a - np.sin(angles) * b
    halves[..., 4:] = np.sin(angles) * a + np.cos(angles) * b
    even, odd = x[..., 0::2], x[..., 1::2]
    mirror = np.empty_like(x)
    mirror[..., 0::2] = np.cos(angles) * even + np.sin(angles) * odd
    mirror[..., 1::2] = np.sin(angles) * even + np.cos(angles) * odd
    diagnose(
        ex02.rotate_forward(x, angles)[0],
        rotated(x, angles),
        {
            "turn to the right": rotated(x, -angles),
            "pair feature i with i + Dh/2 (as LLaMA does, but here they are neighbours)": halves,
            "have no minus sign": mirror,
            "exchange sine and cosine": rotated(x, np.pi / 2 - angles),
        },
        what="y",
    )


def test_rotate_backward(ex02):
    x, angles, dy = rotary_case(ex02)
    cache = ex02.rotate_forward(x, angles)[1]
    diagnose(
        ex02.rotate_backward(dy, cache),
        rotated(dy, -angles),
        {"turn the gradient on instead of back": rotated(dy, angles), "return dy as it is": dy},
        what="dx",
    )


def rotary_reference(q, k, v, positions, mask):
    angles = np.asarray(positions)[:, None] * 10000.0 ** (-2 * np.arange(4) / 8)
    values = {"q": q, "k": k, "v": v}

    def attend(**signs):
        turned = {n: rotated(x, signs.get(n, 0) * angles) for n, x in values.items()}
        return attention_forward(turned["q"], turned["k"], turned["v"], mask)[0]

    return attend(q=1, k=1), {
        "turn the values too": attend(q=1, k=1, v=1),
        "turn the queries alone": attend(q=1),
        "turn the keys alone": attend(k=1),
        "turn queries and keys in opposite directions": attend(q=1, k=-1),
        "turn nothing": attend(),
        "forget the mask": attention_forward(rotated(q, angles), rotated(k, angles), v)[0],
    }


def test_rotary_attention(ex02):
    generator = rng()
    q, k, v = (generator.standard_normal((2, 3, 6, 8)) for _ in range(3))
    mask, positions = causal_mask(6), np.array([2, 3, 5, 8, 9, 11])
    want, wrong = rotary_reference(q, k, v, positions, mask)
    y, _ = ex02.rotary_attention_forward(q, k, v, positions, mask)
    diagnose(y, want, wrong, what="y")
    shifted, _ = ex02.rotary_attention_forward(q, k, v, positions + 17, mask)
    diagnose(shifted, y, what="y when all positions are 17 further (only distances may count)")


def test_rotary_attention_backward(ex02):
    generator = rng()
    q, k, v, dy = (generator.standard_normal((2, 6, 8)) for _ in range(4))
    positions, mask = np.arange(6), causal_mask(6)
    _, cache = ex02.rotary_attention_forward(q, k, v, positions, mask)
    angles = positions[:, None] * 10000.0 ** (-2 * np.arange(4) / 8)
    _, plain = attention_forward(rotated(q, angles), rotated(k, angles), v, mask)
    dq, dk, dv = attention_backward(dy, plain)
    got = ex02.rotary_attention_backward(dy, cache)
    for name, mine, gradient in zip("qk", got, (dq, dk), strict=False):
        diagnose(
            mine,
            rotated(gradient, -angles),
            {
                "forget to turn the gradient back": gradient,
                "turn the gradient on instead of back": rotated(gradient, angles),
            },
            what=f"d{name}",
        )
    diagnose(
        got[2],
        dv,
        {"turn dv, though the values were not turned": rotated(dv, -angles)},
        what="dv",
    )
    check_backward(
        lambda q, k, v: ex02.rotary_attention_forward(q, k, v, positions, mask),
        ex02.rotary_attention_backward,
        {"q": q, "k": k, "v": v},
    )


# --- 03 key-value cache


@pytest.fixture(scope="module")
def translator():
    model = Transformer(TransformerConfig(13, 12, 3, 10, 2), rng())
    perturb(model.params)
    generator = rng()
    source, target = generator.integers(3, 13, (3, 6)), generator.integers(3, 13, (3, 5))
    source[1, 4:] = 0
    target[:, 0] = model.config.bos_id
    return model, source, target


def test_start_cache(ex03, translator):
    model, source, _ = translator
    cache, memory = ex03.start_cache(model, source), model.encode(source)
    for i, layer in enumerate(cache["layers"]):
        for letter in "kv":
            name = f"decoder.layers.{i}.{{}}_attn.{letter}_proj.weight"
            keys = {
                kind: memory @ model.params[name.format(kind)].T
                + model.params[name.format(kind).replace("weight", "bias")]
                for kind in ("encoder", "self")
            }
            split = {kind: x.reshape(3, 6, 3, 4).transpose(0, 2, 1, 3) for kind, x in keys.items()}
            diagnose(
                layer[f"memory_{letter}"],
                split["encoder"],
                {
                    "take the parameters of self-attention": split["self"],
                    "leave the heads unsplit": keys["encoder"],
                },
                what=f"memory_{letter} of layer {i}",
            )


def test_decode_step(ex03, translator):
    model, source, target = translator
    want = model.decode(target, model.encode(source), source)
    wrong = faulty_logits(ex03, model, source, target)
    cache = ex03.start_cache(model, source)
    got = [ex03.decode_step(model, cache, target[:, t]) for t in range(5)]
    for t in (3, 4, 2, 1, 0):  # at step 3 each mistake shows, and none looks like another
        candidates = {mistake: steps[t] for mistake, steps in wrong.items()}
        what = f"array of logits at step {t}"
        diagnose(got[t], want[:, t], candidates if t == 3 else {}, what=what)


def faulty_logits(ex03, model, source, target):
    """The logits of each step after the usual mistakes."""
    D, shared = model.config.width, model.params["shared.weight"]
    memory, out = model.encode(source), {}
    table = ex03.sinusoidal_positions(9, D)
    row = np.arange(5)

    def decode(embedded, mask=None, hide_padding=True):
        x = embedded
        for i in range(model.config.layers):
            p = ex03.layer_params(model, i)
            for kind, other, allowed in (
                ("self", None, causal_mask(5) if mask is None else mask),
                ("encoder", memory, ex03.padding_mask(source, 0) if hide_padding else None),
            ):
                own = ex03.part(p, f"{kind}_attn.")
                kv = x if other is None else other
                q, k, v = (
                    project(a, own, n) for a, n in ((x, "q"), (kv, "k"), (kv, "v"))
                )  # (B, nH, T, Dh)
                h = attention_forward(q, k, v, allowed)[0].swapaxes(1, 2).reshape(x.shape)
                h = h @ own["out_proj.weight"].T + own["out_proj.bias"]
                norm = ex03.part(p, f"{kind}_attn_layer_norm.")
                x, _ = ex03.add_norm_forward(x, h, norm, (0.0, None, False))
            h, _ = ex03.position_wise_forward(x, p)
            norm = ex03.part(p, "final_layer_norm.")
            x, _ = ex03.add_norm_forward(x, h, norm, (0.0, None, False))
        return (x @ shared.T).swapaxes(0, 1)

    def project(x, p, letter):
        y = x @ p[f"{letter}_proj.weight"].T + p[f"{letter}_proj.bias"]
        return y.reshape(*x.shape[:2], 3, -1).swapaxes(1, 2)

    words, places = math.sqrt(D) * shared[target], table[:5]
    right = decode(words + places)
    np.testing.assert_allclose(
        right[3], model.decode(target, memory, source)[:, 3], rtol=0, atol=1e-9
    )
    out["put every symbol at position 0"] = decode(words + table[0])
    out["are one position ahead"] = decode(words + table[1:6])
    out["leave the positions out"] = decode(words)
    out["forget the factor √D"] = decode(shared[target] + places)
    out["look at the newest symbol alone, not at those before it"] = decode(
        words + places, np.eye(5, dtype=bool)
    )
    before = (row[:, None] > row) | (row[:, None] == 0)
    out["attend before the new symbol's key and value are in the cache"] = decode(
        words + places, before
    )
    out["look at padding of the source"] = decode(words + places, hide_padding=False)
    return out


def test_decode_step_follows_the_models_options(ex03):
    config = TransformerConfig(13, 12, 3, 10, 1, positions="halves")
    model = Transformer(config, rng(), np.float32)
    interleaved = Transformer(TransformerConfig(13, 12, 3, 10, 1), rng(), np.float32)
    source, target = rng().integers(3, 13, (2, 6)), rng().integers(3, 13, (2, 3))
    memory, cache = model.encode(source), ex03.start_cache(model, source)
    got = [ex03.decode_step(model, cache, target[:, t]) for t in range(3)][-1]
    want, wrong = (m.decode(target, memory, source)[:, -1] for m in (model, interleaved))
    mistake = "forget that a model may have another order of sines and cosines (config.positions)"
    diagnose(got, want, {mistake: wrong}, tol=1e-5, what="array of logits")
    if got.dtype != want.dtype:
        raise AssertionError(
            f"logits: expected {want.dtype}, as the model's table has, got {got.dtype}: is the "
            "table of positions of another dtype?"
        )


def test_a_step_computes_one_position(ex03, translator, monkeypatch):
    model, source, target = translator
    cache, rows, linear = ex03.start_cache(model, source), [], ex03.linear_forward

    def counting(x, weight, bias):
        rows.append(x.shape[0] * x.shape[1])
        return linear(x, weight, bias)

    for t in range(5):
        rows.clear()
        with monkeypatch.context() as patched:
            patched.setattr(ex03, "linear_forward", counting)
            ex03.decode_step(model, cache, target[:, t])
        # q, k, v, out of self-attention and q, out of the other, in 2 layers, for 3 sentences
        if sum(rows) > 36:
            raise AssertionError(
                f"step {t} sends {sum(rows)} rows through projections; 36 are enough: are keys and "
                "values of old symbols, or of the encoder's output, computed again?"
            )
    for layer in cache["layers"]:
        diagnose(np.shape(layer["k"]), (3, 3, 5, 4), what="shape of the cached k after 5 symbols")


def test_translations_are_the_same(ex03, translator):
    model, source, _ = translator
    found = ex03.greedy_with_cache(model, source, 7)
    log_probs, want = model.predictor(source), np.full((3, 1), model.config.bos_id)
    for _ in range(found.shape[1]):
        symbols = log_probs(want, np.arange(3)).argmax(axis=1)
        want = np.concatenate([want, symbols[:, None]], axis=1)
    diagnose(found, want[:, 1:], what="array of symbols")


# --- 04 pre-norm


def layer_case(ex04):
    torch.manual_seed(0)
    model = ex04.reader(ex04.PreNormStack, depth=2)
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return model, torch.randn(2, 5, 32), torch.ones(1, 1, 1, 5, dtype=torch.bool)


def test_pre_norm_layer(ex04):
    model, x, mask = layer_case(ex04)
    layer = model.encoder.layers[0]
    n1, n2 = layer.self_attn_layer_norm, layer.final_layer_norm

    def mlp(x):
        return layer.fc2(layer.fc1(x).relu())

    def attend(q, kv):
        return layer.self_attn(q, kv, mask)[0]

    with torch.no_grad():
        h = x + attend(n1(x), n1(x))
        want = h + mlp(n2(h))
        post = n1(x + attend(x, x))
        from_normed = n1(x) + attend(n1(x), n1(x))
        swapped = x + attend(n2(x), n2(x))
        keys_raw = x + attend(n1(x), x)
        wrong = {
            "leave the norms where they were, behind the sums": n2(post + mlp(post)),
            "add to the normalised x instead of x": n2(from_normed) + mlp(n2(from_normed)),
            "exchange the two norms": swapped + mlp(n1(swapped)),
            "normalise the queries but not the keys and values": keys_raw + mlp(n2(keys_raw)),
            "leave the second norm out": h + mlp(h),
            "normalise the branch instead of its input": ((a := x + n1(attend(x, x))) + n2(mlp(a))),
        }
        diagnose(layer(x, mask), want, wrong, what="output")


def test_pre_norm_layer_keeps_its_dropout(ex04):
    model, x, mask = layer_case(ex04)
    layer, dropped = model.encoder.layers[0], []
    layer.dropout.register_forward_hook(lambda _, inputs, y: dropped.append(inputs[0]))
    with torch.no_grad():
        layer(x, mask)
    if len(dropped) != 2:
        raise AssertionError(
            "self.dropout should be called on what each of the two sub-layers adds, so twice; got "
            f"{len(dropped)} calls"
        )


def test_pre_norm_stack(ex04):
    model, x, mask = layer_case(ex04)
    stack = model.encoder
    if not isinstance(getattr(stack, "layer_norm", None), torch.nn.LayerNorm):
        raise AssertionError("PreNormStack needs an nn.LayerNorm called self.layer_norm")
    with torch.no_grad():
        y = x
        for layer in stack.layers:
            y = layer(y, mask)
        wrong = {
            "leave the last norm out": y,
            "use it before the layers": ex04_first(stack, x, mask),
        }
        diagnose(stack(x, mask), stack.layer_norm(y), wrong, what="output")


def ex04_first(stack, x, mask):
    x = stack.layer_norm(x)
    for layer in stack.layers:
        x = layer(x, mask)
    return x


def test_gradient_norms(ex04):
    model = ex04.reader(None, depth=3)
    want = ex04_norms(ex04, model)
    for _ in range(2):  # the second time there are gradients of the first
        diagnose(
            ex04.gradient_norms(model),
            want,
            {
                "add to the gradients of an earlier call": 2 * np.array(want),
                "take the square of the norm": np.square(want),
                "begin with the last layer": want[::-1],
            },
            what="list of norms",
        )


def test_gradients_grow_towards_the_output_with_post_norm_alone(ex04):
    post, pre = (ex04.gradient_norms(ex04.reader(s)) for s in (None, ex04.PreNormStack))
    if not (post[-1] > 2 * post[0] and pre[-1] < pre[0]):
        raise AssertionError(
            "at the first step the last layer's gradient should be more than twice the first "
            f"layer's with post-norm, and smaller with pre-norm; got {post} and {pre}"
        )


def test_pre_norm_learns_without_warmup(ex04):
    post, pre = (
        np.mean(ex04.train_without_warmup(ex04.reader(s))[-10:]) for s in (None, ex04.PreNormStack)
    )
    guessing = math.log(9)  # nine symbols, equally frequent
    if not (pre < guessing - 0.25 and post > guessing - 0.05):
        raise AssertionError(
            f"guessing has a loss of {guessing:.2f}; expected to stay there with post-norm and get "
            f"well below it with pre-norm, got {post:.2f} and {pre:.2f}"
        )


def ex04_norms(ex04, model):
    weights = [layer.fc2.weight for layer in model.encoder.layers]
    return [float(g.norm()) for g in torch.autograd.grad(ex04.loss_of(model, 0), weights)]


# --- 05 root mean square normalisation


def test_rms_norm_forward(ex05):
    x, weight = 2 + rng().standard_normal((2, 3, 7)), rng().standard_normal(7)
    root = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)
    norm = np.sqrt(np.square(x).sum(axis=-1, keepdims=True) + 1e-5)
    y, (x_hat, _, r) = ex05.rms_norm_forward(x, weight)
    diagnose(
        y,
        weight * x / root,
        {
            "subtract the mean, as the layer norm does": weight
            * (x - x.mean(-1, keepdims=True))
            / np.sqrt(x.var(-1, keepdims=True) + 1e-5),
            "divide by the standard deviation": weight
            * x
            / np.sqrt(x.var(-1, keepdims=True) + 1e-5),
            "divide by the norm of x, without the mean": weight * x / norm,
            "forget the root": weight * x / root**2,
            "add eps behind the root": weight * x / (np.sqrt(root**2 - 1e-5) + 1e-5),
            "forget the gain": x / root,
            "take the mean over all vectors at once": weight
            * x
            / np.sqrt(np.square(x).mean() + 1e-5),
        },
        what="y",
    )
    diagnose(x_hat, x / root, {"keep y where x_hat belongs": y}, what="x_hat in the cache")
    diagnose(r, root, {"keep r²": root**2}, what="r in the cache")


def test_rms_norm_has_its_epsilon_under_the_root(ex05):
    x = np.full((1, 4), 1e-3)
    want = x / np.sqrt(1e-6 + 1e-2)
    wrong = {"add eps behind the root": x / (1e-3 + 1e-2), "leave eps out": x / 1e-3}
    diagnose(ex05.rms_norm_forward(x, np.ones(4), 1e-2)[0], want, wrong, what="y")


def test_rms_norm_backward(ex05):
    x, weight = 1 + rng().standard_normal((2, 3, 7)), rng().standard_normal(7)
    dy = np.random.default_rng(1).standard_normal(x.shape)
    r = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)
    x_hat = x / r
    dx, dweight = ex05.rms_norm_backward(dy, (x_hat, weight, r))
    diagnose(
        dweight,
        (dy * x_hat).sum(axis=(0, 1)),
        {
            "sum over the batch alone": (dy * x_hat).sum(axis=0),
            "average over the vectors": (dy * x_hat).mean(axis=(0, 1)),
            "forget x_hat": dy.sum(axis=(0, 1)),
        },
        what="dweight",
    )
    d = dy * weight
    along = (d * x_hat).mean(axis=-1, keepdims=True)
    diagnose(
        dx,
        (d - x_hat * along) / r,
        {
            "take r for a constant, which leaves the second term out": d / r,
            "forget the gain": (dy - x_hat * (dy * x_hat).mean(-1, keepdims=True)) / r,
            "sum where a mean over the features belongs": (d - 7 * x_hat * along) / r,
            "forget the factor 1/r": d - x_hat * along,
            "have the layer norm's third term too": (d - d.mean(-1, keepdims=True) - x_hat * along)
            / r,
            "add the second term instead of subtracting it": (d + x_hat * along) / r,
        },
        what="dx",
    )
    check_backward(ex05.rms_norm_forward, ex05.rms_norm_backward, {"x": x, "weight": weight})
