"""Judges the exercises: your files (skipped until you start) and the solutions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from bert_paper import BertConfig, BertModel
from heads_paper import BertForPreTraining, BertForSequenceClassification
from utils.exercises import diagnose, exercise
from utils.gradient_check import check_backward
from utils.parity import perturb

ex01 = exercise(__file__, "ex01_mlm_training")
ex02 = exercise(__file__, "ex02_finetuning")
ex03 = exercise(__file__, "ex03_whole_word_masking")
ex04 = exercise(__file__, "ex04_attention_mask")
ex05 = exercise(__file__, "ex05_custom_pooling")
ex06 = exercise(__file__, "ex06_attention_patterns")
ex07 = exercise(__file__, "ex07_task_head")

SIZES = (19, 12, 3, 16, 2, 8, 2, 0.0, 0.0)


def rng():
    return np.random.default_rng(0)


def batch(seed=0):
    """Tokens (4, 6) and their mask."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 19, (4, 6), generator=g)
    mask = torch.arange(6) < torch.tensor([[6], [4], [5], [2]])
    return torch.where(mask, tokens, 0), mask


# --- 01 a training step


def test_hide(ex01):
    tokens, mask = batch()
    g = torch.Generator().manual_seed(1)
    chosen = (torch.rand(4, 6, generator=g) < 0.7) & mask
    fate, random_tokens = torch.rand(4, 6, generator=g), torch.full((4, 6), 77)
    fate[0] = torch.tensor([0.0, 0.79, 0.8, 0.85, 0.9, 0.99])
    chosen[0] = True
    given = tokens.clone()
    got = ex01.hide(given, chosen, fate, random_tokens, 4)
    assert torch.equal(given, tokens), "hide changed the tokens it was given: make new arrays"
    assert got is not None and len(got) == 2, "hide: expected inputs and labels"
    masked = chosen & (fate < 0.8)
    random = chosen & (fate >= 0.8) & (fate < 0.9)
    inputs = torch.where(masked, 4, torch.where(random, 77, tokens))
    shown = torch.where(fate < 0.8, 4, torch.where(fate < 0.9, 77, tokens))
    diagnose(
        got[0],
        inputs,
        {
            "mask every chosen token": torch.where(chosen, 4, tokens),
            "forget the random tokens": torch.where(masked, 4, tokens),
            "hide tokens that are not chosen": shown,
            "give the random token to all that are not masked": torch.where(
                masked, 4, torch.where(chosen, 77, tokens)
            ),
        },
        what="inputs",
    )
    diagnose(
        got[1],
        torch.where(chosen, tokens, -100),
        {
            "ask for what is shown instead of what was there": torch.where(chosen, inputs, -100),
            "ask for every token": tokens,
            "ask for masked tokens only": torch.where(masked, tokens, -100),
            "write 0 where nothing is asked": torch.where(chosen, tokens, 0),
        },
        what="labels",
    )


def test_mlm_loss(ex01):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=g).double().requires_grad_()
    labels = torch.tensor([[3, -100, -100, 6, 0], [-100, -100, 1, -100, -100]])
    rows, wanted = logits[labels >= 0].log_softmax(-1), labels[labels >= 0]
    losses = -rows.gather(1, wanted[:, None])
    diagnose(
        ex01.mlm_loss(logits, labels),
        losses.mean(),
        {
            "forget to divide by the number of labels": losses.sum(),
            "divide by the number of all tokens": losses.sum() / 10,
            "forget the minus": -losses.mean(),
            "take the probability instead of its logarithm": -losses.neg().exp().mean(),
            "mean over each text first": (losses[:3].mean() + losses[3]) / 2,
            "take the softmax over the places instead of the vocabulary": (
                -logits.log_softmax(1)[labels >= 0].gather(1, wanted[:, None]).mean()
            ),
        },
        what="loss",
    )
    empty = ex01.mlm_loss(logits, torch.full((2, 5), -100))
    diagnose(empty, 0.0, {"forget that a batch may have no labels": math.nan}, what="loss of none")
    (grad,) = torch.autograd.grad(empty, logits, allow_unused=True)
    assert grad is None or not grad.any(), "the gradient of a loss without labels has to be 0"


def test_train_step(ex01):
    torch.manual_seed(0)
    model = BertForPreTraining(BertModel(BertConfig(*SIZES)))
    perturb(model)  # fresh weights are so small that padding hardly shows
    tokens, mask = batch()
    labels = torch.where((torch.arange(24).view(4, 6) % 3 == 0) & mask, tokens, -100)
    inputs = torch.where(labels >= 0, 4, tokens)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        before = [p.detach().clone() for p in model.parameters()]
        logits, _ = model(inputs, None, mask)
        want = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        blind = F.cross_entropy(model(inputs)[0].flatten(0, 1), labels.flatten())
        grads = torch.autograd.grad(want, list(model.parameters()), allow_unused=True)
        losses.append(ex01.train_step(model, optimizer, inputs, mask, labels))
        diagnose(
            losses[-1],
            want.item(),
            {"forget to give the mask to the model": blind.item()},
            what="loss before the step",
            tol=1e-5,
        )
        for p, b, g in zip(model.parameters(), before, grads, strict=True):
            if g is not None:
                moved = p.detach() - b
                assert (moved + 0.1 * g).abs().max() < 1e-4, (
                    "the weights did not move by -lr times the gradient: was optimizer.step() "
                    "called, once, and zero_grad() before backward()?"
                )
    assert losses[2] < losses[0]


# --- 02 fine-tuning


def classifier():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertModel(BertConfig(*SIZES)), 3)


def true_depth(name):
    if name.startswith("bert.embeddings"):
        return 0
    return int(name.split(".")[3]) + 1 if ".layer." in name else 3


def test_depth(ex02):
    names = [name for name, _ in classifier().named_parameters()]
    want = np.array([true_depth(name) for name in names])
    got = [ex02.depth(name, 2) for name in names]
    assert None not in got, "depth returned None: is a return statement missing?"
    pooler = np.array(["pooler" in name for name in names])
    diagnose(
        got,
        want,
        {
            "give layer i the depth i": np.where((want > 0) & (want < 3), want - 1, want),
            "give the pooler the depth of the last layer": np.where(pooler, 2, want),
            "give the head the depth L": np.minimum(want, 2),
        },
        what="depths",
    )
    assert ex02.depth("bert.encoder.layer.11.output.dense.weight", 12) == 12, (
        "layer 11 has the depth 12: take the whole number, not its first digit"
    )


def test_parameter_groups(ex02):
    model = classifier()
    groups = ex02.parameter_groups(model, 0.01, 0.5, 0.1)
    named = list(model.named_parameters())
    assert [id(g["params"][0]) for g in groups] == [id(p) for _, p in named]
    depths = np.array([true_depth(name) for name, _ in named])
    rates, want = np.array([g["lr"] for g in groups]), 0.01 * 0.5 ** (3.0 - depths)
    diagnose(
        rates,
        want,
        {
            "turn the order round: the embeddings have the largest rate": 0.01 * 0.5**depths,
            "be off by one: the head has factor * lr": 0.5 * want,
            "use one rate for all": np.full_like(want, 0.01),
            "multiply by the distance instead of raising to its power": 0.01 * 0.5 * (3 - depths),
        },
        what="learning rates",
    )
    bias = np.array([name.endswith("bias") for name, _ in named])
    norm = np.array(["LayerNorm" in name for name, _ in named])
    decays = np.array([g["weight_decay"] for g in groups])
    diagnose(
        decays,
        np.where(bias | norm, 0.0, 0.1),
        {
            "let biases decay": np.where(norm, 0.0, 0.1),
            "let layer norms decay": np.where(bias, 0.0, 0.1),
            "let everything decay": np.full(len(named), 0.1),
            "scale the decay with the rate": np.where(bias | norm, 0.0, 0.1 * want / 0.01),
        },
        what="weight decays",
    )
    torch.optim.AdamW(groups)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_freeze(ex02, count):
    model = classifier()
    ex02.freeze(model, count)
    depths = np.array([true_depth(name) for name, _ in model.named_parameters()])
    got = np.array([p.requires_grad for p in model.parameters()])
    diagnose(
        got,
        depths > count,
        {
            "freeze what should be trained": depths <= count,
            "forget the embeddings": (depths > count) | (depths == 0),
            "freeze a layer too few": depths >= count,
            "freeze a layer too many": depths > count + 1,
        },
        what="requires_grad",
    )


# --- 03 whole-word masking

PIECES = [
    "[CLS]",
    "un",
    "##aff",
    "##able",
    ".",
    "the",
    "[SEP]",
    "lo",
    "##w",
    "good",
    "##ly",
    "##s",
    "[SEP]",
    "[PAD]",
    "[PAD]",
]
WORDS = np.array([-1, 0, 0, 0, 1, 2, -1, 3, 3, 4, 4, 4, -1, -1, -1])


def test_word_numbers(ex03):
    counted = np.where(WORDS < 0, 0, WORDS)
    starts = np.cumsum([not p.startswith("##") for p in PIECES]) - 1
    diagnose(
        ex03.word_numbers(PIECES),
        WORDS,
        {
            "give special tokens a word of their own": starts,
            "give special tokens the number 0": counted,
            "count from 1": np.where(WORDS < 0, -1, WORDS + 1),
            "begin a new word at every piece": np.where(WORDS < 0, -1, np.cumsum(WORDS >= 0) - 1),
        },
        what="word numbers",
    )
    diagnose(
        ex03.word_numbers(["[CLS]", "[", "x", "##y", "[UNK]", "[SEP]"]),
        np.array([-1, 0, 1, 1, 2, -1]),
        {"take all that begins with a bracket for special": np.array([-1, -1, 0, 0, -1, -1])},
        what="word numbers of a text with a bracket and an unknown word",
    )


@pytest.mark.parametrize(
    ("order", "share", "words"),
    [([1, 0, 2, 3, 4], 0.1, [1]), ([4, 1, 0, 2, 3], 0.3, [4]), ([1, 3, 0, 4, 2], 0.4, [1, 3, 0])],
)
def test_choose_words(ex03, order, share, words):
    order = np.array(order)
    wanted = max(1, round(share * 10))
    first = np.isin(WORDS, order[:wanted])
    under = np.zeros(len(WORDS), dtype=bool)
    for word in order:
        if (under | (word == WORDS)).sum() > wanted:
            break
        under |= word == WORDS
    over = np.isin(WORDS, order[: len(words) + 1])
    diagnose(
        ex03.choose_words(WORDS, order, share),
        np.isin(WORDS, words),
        {
            "count words instead of tokens": first,
            "stop before there are enough": under,
            "take one word too many": over,
            "choose special tokens": np.isin(WORDS, [*words, -1]),
            "choose the first piece of each word only": np.isin(WORDS, words)
            & ~np.array([p.startswith("##") for p in PIECES]),
        },
        what="chosen",
    )


def test_hide_words(ex03):
    tokens, random_tokens = np.arange(100, 115), np.arange(200, 215)
    chosen = np.isin(WORDS, [0, 3, 4])
    fate = np.array([0.5, 0.1, 0.1, 0.85, 0.95])
    want = tokens.copy()
    want[WORDS == 0], want[WORDS == 3] = 4, random_tokens[WORDS == 3]
    every = np.where(fate[WORDS] < 0.8, 4, want)
    swapped = tokens.copy()
    swapped[WORDS == 0], swapped[WORDS == 4] = 4, random_tokens[WORDS == 4]
    given = tokens.copy()
    got = ex03.hide_words(given, WORDS, chosen, fate, random_tokens, 4)
    assert np.array_equal(given, tokens), "hide_words changed the tokens it was given: copy them"
    diagnose(
        got,
        want,
        {
            "mask every chosen word": np.where(chosen, 4, tokens),
            "hide words that are not chosen": every,
            "take a fate for each place instead of each word": np.where(
                chosen & (np.resize(fate, 15) < 0.8), 4, tokens
            ),
            "keep from 0.8 and randomise from 0.9": swapped,
        },
        what="inputs",
    )


# --- 04 the attention mask


def attention_inputs():
    g = rng()
    return {
        "q": g.standard_normal((2, 3, 5, 4)),
        "k": g.standard_normal((2, 3, 6, 4)),
        "v": g.standard_normal((2, 3, 6, 7)),
    }


BIAS_SHAPES = [(2, 3, 5, 6), (3, 5, 6), (1, 3, 1, 6), (5, 6), (2, 1, 1, 6), (6,)]


@pytest.mark.parametrize("shape", BIAS_SHAPES)
def test_biased_attention_forward(ex04, shape):
    x = attention_inputs()
    bias = 2 * rng().standard_normal(shape)
    y, _ = ex04.biased_attention_forward(**x, bias=bias)
    assert y is not None, "y is None"
    q, k, v = (torch.from_numpy(a) for a in x.values())
    b = torch.from_numpy(bias)

    def answer(scores):
        return scores.softmax(dim=-1) @ v

    diagnose(
        y,
        answer(q @ k.mT / 2 + b),
        {
            "forget the factor 1/√Dh": answer(q @ k.mT + b),
            "scale the bias too": answer((q @ k.mT + b) / 2),
            "forget the bias": answer(q @ k.mT / 2),
            "multiply by the bias instead of adding it": answer(q @ k.mT / 2 * b),
            "softmax over the queries": (q @ k.mT / 2 + b).softmax(dim=-2) @ v,
        },
        what="y",
    )


def test_huge_scores_stay_finite(ex04):
    x = attention_inputs()
    bias = np.where(np.arange(6) < 3, 1000.0, -1e9)
    y, _ = ex04.biased_attention_forward(**x, bias=bias)
    assert np.isfinite(y).all(), "y is not finite: subtract the largest score of each row first"
    low = np.array([0.0, -2000.0, 0.0, 2000.0, 0.0])[:, None]
    y, _ = ex04.biased_attention_forward(**x, bias=low)
    plain, _ = ex04.biased_attention_forward(**x, bias=np.zeros((5, 1)))
    assert np.isfinite(y).all(), "y is not finite: each row has a largest score of its own"
    diagnose(y, plain, what="y with one number added to a whole row", tol=1e-6)


@pytest.mark.parametrize("shape", BIAS_SHAPES)
def test_sum_to_shape(ex04, shape):
    x = rng().standard_normal((2, 3, 5, 6))
    leaf = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    (torch.broadcast_to(leaf, x.shape) * torch.from_numpy(x)).sum().backward()
    got = ex04.sum_to_shape(x, shape)
    assert np.shape(got) == shape, f"expected shape {shape}, got {np.shape(got)}"
    means = leaf.grad.numpy() * math.prod(shape) / x.size
    wrong = {"take the mean instead of the sum": means} if math.prod(shape) < x.size else {}
    diagnose(got, leaf.grad, wrong, what="sum")


@pytest.mark.parametrize("shape", BIAS_SHAPES)
def test_biased_attention_backward(ex04, shape):
    x = attention_inputs()
    bias = 2 * rng().standard_normal(shape)
    leaves = [torch.tensor(a, requires_grad=True) for a in (*x.values(), bias)]
    q, k, v, b = leaves
    weights = (q @ k.mT / 2 + b).softmax(dim=-1)
    weights.retain_grad()
    y, dy = weights @ v, np.random.default_rng(3).standard_normal((2, 3, 5, 7))
    y.backward(torch.from_numpy(dy))
    _, cache = ex04.biased_attention_forward(**x, bias=bias)
    got = ex04.biased_attention_backward(dy, cache)
    dweights, w = weights.grad, weights.detach()
    without = w * dweights
    ones = w * (1 - w) * dweights
    right = w * (dweights - (dweights * w).sum(-1, keepdim=True))
    wrong = {
        "dv": {
            "take the scores instead of the weights": (q @ k.mT / 2 + b).mT @ torch.from_numpy(dy)
        },
        "dq": {
            "forget the factor 1/√Dh": 2 * q.grad,
            "leave out the second term of the softmax": without @ k.detach() / 2,
            "keep only the diagonal of the softmax's derivative": ones @ k.detach() / 2,
        },
        "dk": {
            "forget the factor 1/√Dh": 2 * k.grad,
            "leave out the second term of the softmax": without.mT @ q.detach() / 2,
        },
        "dbias": {
            "scale it like the scores": b.grad / 2,
            "leave out the second term of the softmax": torch.autograd.grad(
                (torch.broadcast_to(b, w.shape) * without).sum(), b
            )[0],
            "forget the sum over what was repeated": right.numpy()
            if shape != w.shape
            else b.grad + 1,
        },
    }
    for name, mine, leaf in zip(("dq", "dk", "dv", "dbias"), got, leaves, strict=True):
        same = {n: w for n, w in wrong[name].items() if np.shape(w) == tuple(leaf.shape)}
        if name == "dbias" and np.shape(mine) != shape:
            raise AssertionError(
                f"dbias has the shape {np.shape(mine)}, the bias had {shape}: if you forget to sum "
                "over what was repeated, that is what comes out"
            )
        diagnose(mine, leaf.grad, same, what=name)
    check_backward(
        ex04.biased_attention_forward, ex04.biased_attention_backward, x | {"bias": bias}
    )


# --- 05 custom pooling


def library(kind="BertModel", attention="sdpa", **options):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=19,
        hidden_size=12,
        num_attention_heads=3,
        intermediate_size=16,
        num_hidden_layers=2,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=attention,
    )
    model = getattr(transformers, kind)(config, **options).double().eval()
    perturb(model)
    return model


def test_mean_pool(ex05):
    mask = batch()[1]
    vectors = torch.randn(4, 6, 12, generator=torch.Generator().manual_seed(0)).double()
    want = torch.stack([v[m].mean(dim=0) for v, m in zip(vectors, mask, strict=True)])
    weighted = vectors * mask[..., None]
    diagnose(
        ex05.mean_pool(vectors, mask.long()),
        want,
        {
            "average over padding too": vectors.mean(dim=1),
            "divide by T instead of the number of real tokens": weighted.mean(dim=1),
            "forget to divide": weighted.sum(dim=1),
            "divide by the number of real tokens of the whole batch": weighted.sum(1) / mask.sum(),
            "take [CLS] alone": vectors[:, 0],
        },
        what="pooled",
    )


def test_max_pool(ex05):
    mask = batch()[1]
    vectors = 50 * torch.randn(4, 6, 12, generator=torch.Generator().manual_seed(0)).double() - 100
    want = torch.stack([v[m].max(dim=0).values for v, m in zip(vectors, mask, strict=True)])
    diagnose(
        ex05.max_pool(vectors, mask.long()),
        want,
        {
            "let padding win": vectors.amax(dim=1),
            "set padding to 0, which is more than any negative value": (
                vectors * mask[..., None]
            ).amax(dim=1),
        },
        what="pooled",
    )


def test_pooled_classifier(ex05):
    tokens, mask = batch()
    bert = library(add_pooling_layer=False)
    for pool in (ex05.mean_pool, ex05.max_pool):
        torch.manual_seed(1)
        model = ex05.PooledClassifier(bert, 3, pool).double()
        assert isinstance(getattr(model, "classifier", None), nn.Linear), "no linear classifier"
        weight, bias = model.classifier.weight, model.classifier.bias
        assert weight.shape == (3, 12), f"classifier: expected 12 -> 3, got {tuple(weight.shape)}"
        x = bert(tokens, mask.long()).last_hidden_state
        blind = bert(tokens).last_hidden_state
        got = model(tokens, mask.long())
        diagnose(
            got,
            pool(x, mask.long()) @ weight.T + bias,
            {
                "forget to give the mask to the encoder": pool(blind, mask.long()) @ weight.T
                + bias,
                "classify [CLS] instead of the pooled vector": x[:, 0] @ weight.T + bias,
            },
            what="logits",
        )
        alone = model(tokens[1:2, :4], mask[1:2, :4].long())
        diagnose(alone[0], got[1], what="logits of a text without its padding")


# --- 06 attention patterns


def test_attention_of(ex06):
    tokens, mask = batch()
    model = library(attention="eager")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train()
    got = ex06.attention_of(model, tokens, mask.long())
    assert isinstance(got, torch.Tensor), f"expected one tensor, got {type(got).__name__}"
    assert tuple(got.shape) == (2, 4, 3, 6, 6), f"expected (L, B, nH, T, T), got {got.shape}"
    assert not got.requires_grad, "no gradients are needed"
    model.train()
    again = ex06.attention_of(model, tokens, mask.long())
    assert torch.equal(got, again), (
        "the model has to be in eval mode, or dropout changes the weights"
    )
    model.eval()
    want = torch.stack(model(tokens, mask.long(), output_attentions=True).attentions)
    blind = torch.stack(model(tokens, output_attentions=True).attentions)
    diagnose(got, want, {"forget to give the mask": blind}, what="attention", tol=1e-6)


def brute_shares(attention, mask, padding=False):
    B, T = mask.shape
    shares = {}
    for name, shift in (("self", 0), ("previous", -1), ("next", 1), ("first", None)):
        values = []
        for b in range(B):
            n = T if padding else int(mask[b].sum())
            for t in range(n):
                key = 0 if shift is None else t + shift
                if 0 <= key < n:
                    values.append(attention[:, b, :, t, key])
        shares[name] = torch.stack(values).mean(dim=0)
    return shares


@pytest.mark.parametrize("name", ["self", "previous", "next", "first"])
def test_pattern_shares(ex06, name):
    mask = batch()[1]
    g = torch.Generator().manual_seed(0)
    attention = torch.rand(2, 4, 3, 6, 6, generator=g).double()
    attention = attention * mask[None, :, None, None, :]
    attention = attention / attention.sum(dim=-1, keepdim=True)
    got = ex06.pattern_shares(attention, mask.long())
    assert set(got) == {"self", "previous", "next", "first"}
    want = brute_shares(attention, mask)
    place, real = torch.arange(6), mask[None, :, None, :]
    shift = {"self": place, "previous": place - 1, "next": place + 1, "first": place * 0}[name]
    weights = attention[..., place, shift.clamp(0, 5)]
    other = {"previous": "next", "next": "previous"}.get(name)
    per_text = (weights * real).sum(-1) / real.sum(-1)
    wrong = {
        "count queries at padding": brute_shares(attention, mask, padding=True)[name],
        "divide by all places": (weights * real).mean(dim=(1, 3)),
        "average each text first": per_text.mean(dim=1),
        "sum instead of averaging": (weights * real).sum(dim=(1, 3)),
    }
    queries = {"previous": mask & (place > 0), "next": F.pad(mask[:, 1:], (0, 1))}.get(name, mask)
    wrong["sum over all queries, those that do not count too"] = weights.sum((1, 3)) / queries.sum()
    if name == "next":
        inside = (mask & (place < 5))[None, :, None, :]
        wrong["let the last real token look at padding"] = (weights * inside).sum(
            (1, 3)
        ) / inside.sum()
    if other:
        wrong["confuse queries and keys"] = want[other]
        wrong["count the token that has no neighbour"] = (weights * real).sum((1, 3)) / mask.sum()
    diagnose(got[name], want[name], wrong, what=name)


def test_draw_best_head(ex06, tmp_path):
    attention = torch.full((3, 1, 4, 4, 4), 0.25)
    share = torch.tensor([[0.1, 0.2, 0.3, 0.1], [0.2, 0.1, 0.6, 0.1], [0.1, 0.4, 0.2, 0.5]])
    shares = {"previous": share}
    path = tmp_path / "head.png"
    found = ex06.draw_best_head(attention, shares, "previous", list("abcd"), path)
    assert tuple(found) == (1, 2), (
        f"expected layer 1, head 2, got {found}: argmax counts through all rows"
    )
    assert path.read_bytes().startswith(b"\x89PNG")


# --- 07 a new head


def task_model(ex07):
    torch.manual_seed(0)
    model = ex07.BertForReplacedTokens(library().config).double().eval()
    for name in ("bert", "dense", "score"):
        assert hasattr(model, name), f"the model has no {name}"
    return model


def test_the_new_head_is_initialised_by_the_library(ex07):
    model = task_model(ex07)
    assert model.bert.pooler is None, "the encoder needs no pooler: add_pooling_layer=False"
    assert model.score.weight.shape == (1, 12) and model.dense.weight.shape == (12, 12)
    std = model.dense.weight.std().item()
    assert std < 0.03, f"dense starts with a deviation of {std:.2f}: was post_init() called?"


def test_the_new_heads_logits_and_loss(ex07):
    model = task_model(ex07)
    perturb(model)
    tokens, mask = batch()
    labels = (tokens % 3 == 0).long()
    out = model(tokens, mask.long())
    assert out.loss is None, "without labels the loss is None"
    x = model.bert(tokens, mask.long()).last_hidden_state
    blind = model.bert(tokens).last_hidden_state

    def head(x, activation=F.gelu):
        return model.score(activation(model.dense(x)))[..., 0]

    assert tuple(out.logits.shape) == (4, 6), f"expected logits (B, T), got {out.logits.shape}"
    diagnose(
        out.logits[mask],
        head(x)[mask],
        {
            "forget to give the mask to the encoder": head(blind)[mask],
            "forget GELU": head(x, lambda h: h)[mask],
            "forget the layer before": model.score(x)[..., 0][mask],
        },
        what="logits",
    )
    out = model(tokens, mask.long(), labels=labels)
    logits, y = out.logits, labels.double()
    losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    diagnose(
        out.loss,
        losses[mask].mean(),
        {
            "count padding": losses.mean(),
            "divide by all tokens": losses[mask].sum() / mask.numel(),
            "turn the labels round": F.binary_cross_entropy_with_logits(logits[mask], 1 - y[mask]),
            "apply the sigmoid twice": F.binary_cross_entropy_with_logits(
                logits[mask].sigmoid(), y[mask]
            ),
            "sum instead of averaging": losses[mask].sum(),
        },
        what="loss",
        tol=1e-6,  # the labels may have become float32
    )


def test_the_new_model_is_saved_and_loaded_and_takes_published_weights(ex07, tmp_path):
    model = task_model(ex07).float()
    perturb(model)
    tokens, mask = batch()
    model.save_pretrained(tmp_path / "ours")
    again = ex07.BertForReplacedTokens.from_pretrained(tmp_path / "ours").eval()
    diagnose(
        again(tokens, mask.long()).logits,
        model(tokens, mask.long()).logits,
        what="logits",
        tol=1e-5,
    )
    published = library("BertForPreTraining").float()
    published.save_pretrained(tmp_path / "published")
    started = ex07.BertForReplacedTokens.from_pretrained(tmp_path / "published").eval()
    want = published.bert(tokens, mask.long()).last_hidden_state
    got = started.bert(tokens, mask.long()).last_hidden_state
    diagnose(got, want, what="vectors of published weights", tol=1e-5)
