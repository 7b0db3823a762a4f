"""Judges the exercises: your files (skipped until you start) and the solutions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

import utils  # noqa: F401  (puts the chapters on the import path)
from clip_layers_numpy import contrastive_loss_backward, contrastive_loss_forward, unit_forward
from clip_retrieval_paper import recall_at
from utils.exercises import diagnose, exercise
from utils.gradient_check import GradientMismatch, check_backward
from utils.parity import perturb

ex01 = exercise(__file__, "ex01_zero_shot")
ex02 = exercise(__file__, "ex02_retrieval")
ex03 = exercise(__file__, "ex03_siglip_loss")
ex04 = exercise(__file__, "ex04_temperature")
ex05 = exercise(__file__, "ex05_linear_probe")
ex06 = exercise(__file__, "ex06_prompt_ensembling")
ex07 = exercise(__file__, "ex07_attention_maps")

V, T = 40, 9


def rng(seed=0):
    return np.random.default_rng(seed)


def rows(*shape, seed=0):
    return unit_forward(rng(seed).standard_normal(shape))[0]


def require(result, name):
    assert result is not None, f"{name} returned None: is a return statement missing?"
    return result


def make_clip(layers=2):
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "vocab_size": V, "max_position_embeddings": T}
    vision = {"hidden_size": 12, "num_hidden_layers": layers, "num_attention_heads": 3}
    vision |= {"intermediate_size": 48, "image_size": 24, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config=text | {"eos_token_id": V - 1, "bos_token_id": V - 2, "projection_dim": 10},
        vision_config=vision | {"projection_dim": 10},
        projection_dim=10,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).double().eval()
    perturb(model, scale=0.3)
    return model


def images(B=3, side=24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, 3, side, side, generator=generator, dtype=torch.float64)


def texts(B=3):
    tokens = torch.zeros(B, T, dtype=torch.long)
    for i in range(B):
        tokens[i, : 4 + i] = torch.tensor([V - 2, *range(5 + i, 7 + 2 * i), V - 1])
    return tokens


# --- 01 zero-shot


def test_class_weights(ex01):
    table = {f"a {name}, here": 3 * rng(i).standard_normal(5) for i, name in enumerate("xyz")}
    asked = []

    def encode(sentences):
        asked.append(list(sentences))
        unknown = [s for s in sentences if s not in table]
        assert not unknown, f"the encoder was asked for {unknown[0]!r}: is the template filled?"
        return np.array([table[s] for s in sentences])

    raw = np.array([table[s] for s in table])
    want = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    got = require(ex01.class_weights(encode, ["x", "y", "z"], "a {}, here"), "class_weights")
    wrong = {
        "forget to bring the vectors to length 1": raw,
        "divide by the length of the whole matrix": raw / np.linalg.norm(raw),
        "divide by the lengths of the columns": raw / np.linalg.norm(raw, axis=0),
        "divide by the sum of the components": raw / raw.sum(axis=1, keepdims=True),
        "divide by the squared length": raw / np.square(raw).sum(axis=1, keepdims=True),
    }
    diagnose(got, want, wrong, what="weights")
    assert asked == [list(table)], "expected one call of the encoder, with all sentences"


def test_probabilities(ex01):
    x, weights, scale = 2 * rng().standard_normal((4, 5)), rows(3, 5, seed=1), 9.0
    u = x / np.linalg.norm(x, axis=1, keepdims=True)

    def softmax(logits, axis=1):
        p = np.exp(logits - logits.max(axis=axis, keepdims=True))
        return p / p.sum(axis=axis, keepdims=True)

    want = softmax(scale * u @ weights.T)
    together = want / want.max(axis=1, keepdims=True)  # as after subtracting each row's largest
    wrong = {
        "forget to bring the images to length 1": softmax(scale * x @ weights.T),
        "forget the scale": softmax(u @ weights.T),
        "divide by the scale: it is the inverse of the temperature": softmax(u @ weights.T / scale),
        "take the softmax over the images": softmax(scale * u @ weights.T, axis=0),
        "divide by the sum over all images and classes": together / together.sum(),
        "divide the images by the length of the whole matrix": softmax(
            scale * x @ weights.T / np.linalg.norm(x)
        ),
        "take the exponential of the scale, which is given as it multiplies": softmax(
            np.exp(scale) * u @ weights.T
        ),
        "give the logits instead of probabilities": scale * u @ weights.T,
    }
    got = require(ex01.probabilities(x, weights, scale), "probabilities")
    diagnose(got, want, wrong, what="probabilities")
    large = ex01.probabilities(x, weights, 5000.0)
    assert np.isfinite(large).all(), "a large scale overflows: subtract each row's largest logit"


def test_top_classes(ex01):
    p = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])
    got = [list(r) for r in require(ex01.top_classes(p, ["a", "b", "c"], 2), "top_classes")]
    if got == [["a", "c"], ["b", "a"]]:
        raise AssertionError("these are the least probable ones: sort the other way")
    if got == [["c", "b"], ["a", "c"]]:
        raise AssertionError("these are the right ones, worst first: sort the other way")
    if got == [[1, 2], [0, 2]]:
        raise AssertionError("these are the numbers of the classes; their names are wanted")
    if got == [["b", "c"], ["c", "a"]]:
        raise AssertionError("of equal ones the first in names comes first: sort -p, stably")
    assert got == [["b", "c"], ["a", "c"]], f"expected b, c and a, c; got {got}"
    more, _ = ex01.top_classes(p, ["a", "b", "c"], 5)
    assert list(more) == ["b", "c", "a"], "with k above K expected all names"
    names = [str(i) for i in range(99)]  # so many that an unstable sort shows
    got = ex01.top_classes(np.tile([0.2, 0.0, 0.1], (1, 33)), names, 66)[0]
    assert list(got) == names[::3] + names[2::3], (
        "of equal ones the first in names comes first: sort -p, stably"
    )


# --- 02 retrieval


def retrieval_case():
    scores = rng().standard_normal((6, 9))
    positives = rng(1).random((6, 9)) < 0.3
    positives[:, 2] |= ~positives.any(axis=1)
    return scores, positives


def test_rank_of_best(ex02):
    scores, positives = retrieval_case()
    order = np.argsort(-scores, axis=1)
    right = np.take_along_axis(positives, order, axis=1)
    want = right.argmax(axis=1)
    last = right.shape[1] - 1 - right[:, ::-1].argmax(axis=1)
    best = np.where(positives, scores, -np.inf).max(axis=1, keepdims=True)
    wrong = {
        "count the best right answer too (the rank from 1)": want + 1,
        "take the worst right answer": last,
        "sort upwards": (scores < best).sum(axis=1),
        "take the first right answer of the row, whatever its score": (
            scores > np.take_along_axis(scores, positives.argmax(1)[:, None], 1)
        ).sum(axis=1),
    }
    got = require(ex02.rank_of_best(scores, positives), "rank_of_best")
    diagnose(got, want, wrong, what="ranks")


@pytest.mark.parametrize("k", [1, 2, 5, 50])
def test_recall(ex02, k):
    scores, positives = retrieval_case()
    want = recall_at(torch.tensor(scores), torch.tensor(positives), [k])[k]
    top = np.argsort(-scores, axis=1)[:, :k]
    hits = np.take_along_axis(positives, top, axis=1)
    ranks = np.take_along_axis(positives, np.argsort(-scores, axis=1), axis=1).argmax(axis=1)
    wrong = {
        "compare with <= k: ranks count from 0": (ranks <= k).mean(),
        "count hits instead of questions": hits.sum(axis=1).mean(),
        "divide the hits by all right answers": (hits.sum(1) / positives.sum(1)).mean(),
        "give a number of questions, not a share": want * len(scores),
    }
    diagnose(require(ex02.recall(scores, positives, k), "recall"), want, wrong, what="recall")


def test_both_ways(ex02):
    u, v, owners = rows(4, 6), rows(10, 6, seed=1), np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    scores, positives = torch.tensor(u @ v.T), torch.tensor(owners[None] == np.arange(4)[:, None])
    want = [recall_at(scores, positives, [2])[2], recall_at(scores.T, positives.T, [2])[2]]
    got = list(require(ex02.both_ways(u, v, owners, 2), "both_ways"))
    diagonal = torch.zeros_like(positives)
    diagonal[range(4), range(4)] = True
    first = recall_at(scores, diagonal, [2])[2]
    # Only the first four texts have a right answer then.
    second = 0.4 * recall_at(scores.T[:4], diagonal.T[:4], [2])[2]
    wrong = {
        "give the same direction twice": [want[0], want[0]],
        "give text to image first": want[::-1],
        "take the diagonal for the right answers": [first, second],
    }
    diagnose(np.array(got), np.array(want), wrong, what="recall both ways")


def test_median_rank(ex02):
    scores, positives = retrieval_case()
    ranks = np.take_along_axis(positives, np.argsort(-scores, axis=1), axis=1).argmax(axis=1)
    wrong = {"count from 0": np.median(ranks), "take the mean": (ranks + 1).mean()}
    got = require(ex02.median_rank(scores, positives), "median_rank")
    diagnose(got, np.median(ranks + 1), wrong, what="median rank")


# --- 03 the sigmoid loss


def sigmoid_case(B=4):
    return rows(B, 5), rows(B, 5, seed=1), 3.0, -2.0


def reference_sigmoid(image, text, scale, bias, target=None):
    logits = torch.as_tensor(scale * image @ text.T + bias)
    target = torch.eye(len(image), dtype=torch.float64) if target is None else target
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(image)


def test_sigmoid_loss_forward(ex03):
    case = sigmoid_case()
    want = reference_sigmoid(*case).item()
    diagonal = -F.logsigmoid(torch.tensor(np.diagonal(3.0 * case[0] @ case[1].T - 2.0))).sum() / 4
    wrong = {
        "average over all pairs: sum over the texts, mean over the images": want / 4,
        "forget the mean over the images": want * 4,
        "forget the bias": reference_sigmoid(*case[:3], 0.0).item(),
        "forget the scale": reference_sigmoid(*case[:2], 1.0, case[3]).item(),
        "multiply the bias with the scale too": reference_sigmoid(*case[:3], 3 * case[3]).item(),
        "take the exponential of the scale, which is given as it multiplies": reference_sigmoid(
            *case[:2], np.exp(case[2]), case[3]
        ).item(),
        "leave out the pairs that do not belong together": diagonal.item(),
        "take every sign the wrong way round": reference_sigmoid(
            *case, 1 - torch.eye(4, dtype=torch.float64)
        ).item(),
    }
    loss, _ = require(ex03.sigmoid_loss_forward(*case), "sigmoid_loss_forward")
    diagnose(loss, want, wrong, what="loss")
    loss, _ = ex03.sigmoid_loss_forward(case[0], -case[0], 1e4, 0.0)
    assert np.isfinite(loss), "large logits overflow: np.logaddexp(0, -z) is log(1 + exp(-z))"


def test_sigmoid_loss_backward(ex03):
    image, text, scale, bias = sigmoid_case()
    inputs = {"image": image, "text": text, "scale": np.array(scale), "bias": np.array(bias)}
    leaves = [torch.tensor(v, requires_grad=True) for v in inputs.values()]
    reference_sigmoid(*leaves).backward()
    want = [leaf.grad.numpy() for leaf in leaves]
    logits = scale * image @ text.T + bias
    dlogits = (1 / (1 + np.exp(-logits)) - np.eye(4)) / 4
    _, cache = ex03.sigmoid_loss_forward(image, text, scale, bias)
    got = require(ex03.sigmoid_loss_backward(cache), "sigmoid_loss_backward")
    assert len(got) == 4, f"expected dimage, dtext, dscale, dbias, got {len(got)} values"
    wrong = [
        {"forget the scale": want[0] / scale, "forget to divide by B": 4 * want[0],
         "exchange rows and columns of the logits": scale * dlogits.T @ text},
        {"forget the scale": want[1] / scale, "forget to divide by B": 4 * want[1],
         "exchange rows and columns of the logits": scale * dlogits @ image},
        {"multiply with the logits instead of the cosines": (dlogits * logits).sum(),
         "multiply with scaled cosines": scale * want[2], "forget to divide by B": 4 * want[2]},
        {"take the mean instead of the sum": want[3] / 16, "forget to divide by B": 4 * want[3]},
    ]  # fmt: skip
    for name, g, w, mistakes in zip(inputs, got, want, wrong, strict=True):
        diagnose(g, w, mistakes, what=f"d{name}")
    try:
        check_backward(ex03.sigmoid_loss_forward, ex03.sigmoid_loss_backward, inputs)
    except GradientMismatch as error:
        raise AssertionError(str(error)) from None


def test_loss_in_pieces(ex03):
    image, text, scale, bias = sigmoid_case(7)
    want = reference_sigmoid(image, text, scale, bias).item()
    cut = [slice(0, 3), slice(3, 5), slice(5, 7)]
    own = sum(
        reference_sigmoid(image[c], text[c], scale, bias).item() * (c.stop - c.start) for c in cut
    )
    never = reference_sigmoid(image, text, scale, bias, torch.zeros(7, 7).double()).item()
    logits = scale * image @ text.T + bias
    piece = np.array([0, 0, 0, 1, 1, 2, 2])
    same = torch.tensor(piece[:, None] == piece).double()
    signs = 2 * np.eye(7) - 1
    twice = (np.logaddexp(0, -signs * logits) / np.bincount(piece)[piece][:, None]).sum()
    every = want * 7
    for a in cut:
        for b in cut:
            if a != b:
                n = min(a.stop - a.start, b.stop - b.start)
                block = logits[a, b]
                every -= block[range(n), range(n)].sum()  # log σ(o) - log σ(-o) = o
    got = require(
        ex03.loss_in_pieces([image[c] for c in cut], [text[c] for c in cut], scale, bias),
        "loss_in_pieces",
    )
    wrong = {
        "forget the pairs of different pieces": own / 7,
        "take the diagonal of every block for pairs that belong together": every / 7,
        "forget that pairs of the same piece belong together": never,
        "take all of a piece for pairs that belong together": reference_sigmoid(
            image, text, scale, bias, same
        ).item(),
        "divide by the size of the piece as well": twice / 7,
    }
    diagnose(got, want, wrong, what="loss")


# --- 04 the temperature


@pytest.mark.parametrize("theta", [0.0, 2.0])
def test_gradient_of_theta(ex04, theta):
    image, text = rows(5, 6), rows(5, 6, seed=1)
    logits = torch.tensor(image @ text.T)
    leaf = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    scaled = leaf.exp() * logits
    labels = torch.arange(5)
    loss = (F.cross_entropy(scaled, labels) + F.cross_entropy(scaled.T, labels)) / 2
    loss.backward()
    want = leaf.grad.item()
    dscale = want / np.exp(theta)
    _, cache = contrastive_loss_forward(image, text, theta)
    of_theta = contrastive_loss_backward(cache)[2]
    wrong = {
        "take the gradient with the wrong sign": -want,
        "multiply with theta instead of the scale": theta * dscale,
        "give theta to the loss instead of its exponential": of_theta,
    }
    if theta:
        wrong["give theta to the loss instead of its exponential, with which you multiply"] = (
            np.exp(theta) * of_theta
        )
        wrong["forget that theta is the logarithm: multiply with the scale"] = dscale
        wrong["divide by the scale instead of multiplying"] = dscale / np.exp(theta)
    got = require(ex04.gradient_of_theta(image, text, theta), "gradient_of_theta")
    diagnose(got, want, wrong, what="gradient")

    o = np.exp(theta) * image @ text.T
    p = torch.tensor(o).softmax(1).numpy()
    rows_only = (p * o).sum(1).mean() - np.diagonal(o).mean()
    got = require(ex04.gradient_from_means(o), "gradient_from_means")
    wrong = {
        "take right minus expected": -want,
        "forget the half": 2 * want,
        "look at the rows only": rows_only,
        "sum over the pairs instead of averaging": 5 * want,
    }
    diagnose(got, want, wrong, what="gradient from means")


def test_train_temperature(ex04):
    image = rows(6, 8)
    text = unit_forward(image + 0.2 * rng(1).standard_normal(image.shape))[0]

    def follow(text, start, lr, clamp_theta, sign=-1, early=False, plain=False):
        theta, scales = np.log(start), [start]
        for _ in range(60):
            theta = min(theta, clamp_theta) if early else theta
            scale = np.exp(theta)
            _, cache = contrastive_loss_forward(image, text, scale)
            slope = contrastive_loss_backward(cache)[2] * (1.0 if plain else scale)
            theta = theta + sign * lr * slope
            theta = theta if early else min(theta, clamp_theta)
            scales.append(np.exp(theta))
        return np.array(scales)

    def judge(text, start, lr):
        case = text, start, lr
        got = ex04.train_temperature(image, text, np.log(start), lr, 60, 12.0)
        got = require(got, "train_temperature")
        want, free = follow(*case, np.log(12.0)), follow(*case, np.inf)
        wrong = {
            "forget the clamp, or clamp theta at the scale instead of at its logarithm": free,
            "clamp what you return and not theta itself, which runs on": np.append(
                start, np.minimum(free[1:], 12)
            ),
            "clamp the first scale too, which is from before any step": np.minimum(want, 12),
            "clamp all that you return at the end, and not theta itself": np.minimum(free, 12),
            "clamp before the step": follow(*case, np.log(12.0), early=True),
            "go up the gradient": follow(*case, np.log(12.0), +1),
            "take the gradient of the scale for that of theta": follow(
                *case, np.log(12.0), plain=True
            ),
            "return theta instead of the scale": np.log(want),
        }
        diagnose(got, want, wrong, what=f"scales from {start:g} on")
        return want, free

    want, free = judge(text, 5.0, 2.0)
    assert want[-1] == pytest.approx(12) and free[-1] > 13
    # Here the best scale is below the clamp, and the start above it.
    noisy = unit_forward(image + 0.6 * rng(1).standard_normal(image.shape))[0]
    want, free = judge(noisy, 20.0, 0.05)
    assert want[0] == 20 and want[1] == pytest.approx(12) and want[-1] < 11 and free[2] > 12


def test_share_of_largest(ex04):
    d = rng().standard_normal((5, 4)) * np.array([1, 2, 3, 1, 0.5])[:, None]
    lengths, columns = np.linalg.norm(d, axis=1), np.linalg.norm(d, axis=0)
    sums, plain = np.abs(d).sum(axis=1), np.abs(d.sum(axis=1))
    wrong = {
        "divide by the mean instead of the sum": lengths.max() / lengths.mean(),
        "add up squares": lengths.max() ** 2 / np.square(lengths).sum(),
        "take the largest component": np.abs(d).max() / np.abs(d).sum(),
        "divide by the length of the whole matrix": lengths.max() / np.linalg.norm(d),
        "divide by the length of the sum of the rows": lengths.max() / np.linalg.norm(d.sum(0)),
        "take the lengths of the columns: a pair is a row": columns.max() / columns.sum(),
        "add up absolute values for a length": sums.max() / sums.sum(),
        "add up the components for a length": plain.max() / plain.sum(),
        "take the smallest": lengths.min() / lengths.sum(),
        "take the first pair": lengths[0] / lengths.sum(),
        "take the mean instead of the largest": 1 / len(d),
        "return the number of the pair": lengths.argmax(),
        "return the largest length, without dividing": lengths.max(),
    }
    got = require(ex04.share_of_largest(d), "share_of_largest")
    diagnose(got, lengths.max() / lengths.sum(), wrong, what="share")
    image, text = rows(8, 4), rows(8, 4, seed=1)
    shares = []
    for scale in (1.0, 1000.0):
        _, cache = contrastive_loss_forward(image, text, scale)
        shares.append(ex04.share_of_largest(contrastive_loss_backward(cache)[0]))
    assert shares[0] < shares[1]  # what the exercise is about


# --- 05 a linear probe


def test_linear_probe(ex05):
    clip, x = make_clip(), images()
    probe = ex05.LinearProbe(clip, 4).double()
    want = clip.vision_model(pixel_values=x)
    projected = clip.get_image_features(pixel_values=x).pooler_output
    got = require(probe.features(x), "features")
    if got.shape == projected.shape:
        raise AssertionError("these come after the projection; the probe is on what comes before")
    wrong = {"take the class token before the last norm": want.last_hidden_state[:, 0],
             "take the mean of the tokens": want.last_hidden_state.mean(dim=1)}  # fmt: skip
    diagnose(got, want.pooler_output, wrong, what="features")
    got = probe.features(x.clone().requires_grad_())
    assert not got.requires_grad, "the features carry a gradient: torch.no_grad()"
    trained = {n for n, p in probe.named_parameters() if p.requires_grad}
    assert trained == {"head.weight", "head.bias"}, (
        f"expected head.weight and head.bias to be trained, and nothing else; got {sorted(trained)}"
    )
    assert tuple(probe.head.weight.shape) == (4, 12), "the head maps D features to K classes"
    logits = require(probe(x), "forward")
    diagnose(logits, got @ probe.head.weight.T + probe.head.bias, {}, what="logits")


def test_the_encoder_stays_in_eval_mode(ex05):
    clip = make_clip()
    clip.vision_model.encoder.layers[0].self_attn.dropout = 0.9
    probe = ex05.LinearProbe(clip, 4)
    want = probe.double().eval().features(images())
    got = probe.train().features(images())
    assert torch.allclose(got, want, atol=1e-6), (
        "probe.train() reached the encoder: its dropout is on"
    )


def test_fit_probe(ex05):
    clip, x = make_clip(), images(12)
    labels = torch.arange(12) % 3
    torch.manual_seed(0)
    probe = ex05.LinearProbe(clip, 3).double()
    before = {n: p.clone() for n, p in clip.vision_model.named_parameters()}
    loss = require(ex05.fit_probe(probe, x, labels, decay=0.3), "fit_probe")
    features = clip.vision_model(pixel_values=x).pooler_output.detach()
    weight = probe.head.weight.detach().clone().requires_grad_()
    bias = probe.head.bias.detach().clone().requires_grad_()
    cross = F.cross_entropy(features @ weight.T + bias, labels)
    total = cross + 0.15 * weight.square().sum()
    wrong = {
        "forget the decay": cross.item(),
        "forget the half of the decay": (cross + 0.3 * weight.square().sum()).item(),
        "decay the bias too": (total + 0.15 * bias.square().sum()).item(),
        "forget to square the length of the weight": (cross + 0.15 * weight.norm()).item(),
        "average the squares of the weight": (cross + 0.15 * weight.square().mean()).item(),
        "sum the cross-entropies over the images": (total + 11 * cross).item(),
    }
    diagnose(loss, total.item(), wrong, what="loss", tol=1e-4)
    total.backward()
    assert weight.grad.abs().max() < 0.02, "this is no minimum: is the decay on the weight alone?"
    assert bias.grad.abs().max() < 0.02
    assert all(torch.equal(p, before[n]) for n, p in clip.vision_model.named_parameters())


# --- 06 prompt ensembling


def test_text_vectors(ex06):
    clip, tokens = make_clip(), texts()
    mask = (tokens != 0).long()
    raw = clip.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output
    want = raw / raw.norm(dim=-1, keepdim=True)
    got = require(ex06.text_vectors(clip, tokens, mask), "text_vectors")
    assert isinstance(got, torch.Tensor), "the model returns an object; its pooler_output is wanted"
    assert got.shape != (3, 8), "these come before the projection: use clip.get_text_features"
    wrong = {
        "forget to bring them to length 1": raw,
        "divide by the length of the whole matrix": raw / raw.norm(),
    }
    diagnose(got, want, wrong, what="vectors")
    assert not got.requires_grad, "the vectors carry a gradient: torch.no_grad()"


def ensemble_case():
    vectors = torch.tensor(rows(6, 5))
    return vectors, torch.tensor(rows(4, 5, seed=1))


def test_ensemble(ex06):
    vectors, _ = ensemble_case()
    mean = vectors.view(3, 2, 5).mean(dim=1)
    other = vectors.view(2, 3, 5).mean(dim=0)
    wrong = {
        "forget to bring the mean to length 1": mean,
        "take every second prompt for a class: those of a class stand together": F.normalize(
            other, dim=-1
        ),
        "add up without bringing to length 1": 2 * mean,
    }
    got = require(ex06.ensemble(vectors, 2), "ensemble")
    diagnose(got, F.normalize(mean, dim=-1), wrong, what="classes")


def test_ensemble_of_probabilities(ex06):
    vectors, x = ensemble_case()
    logits = 9 * torch.einsum("ne,kre->nkr", x, vectors.view(3, 2, 5))
    want = logits.softmax(dim=1).mean(dim=2)
    other = 9 * torch.einsum("ne,rke->nkr", x, vectors.view(2, 3, 5))
    wrong = {
        "take every second prompt for a class: those of a class stand together": other.softmax(
            dim=1
        ).mean(dim=2),
        "average the cosines first": logits.mean(dim=2).softmax(dim=1),
        "take the softmax over the templates": logits.softmax(dim=2).mean(dim=2),
        "take the softmax over all prompts": logits.flatten(1)
        .softmax(1)
        .unflatten(1, (3, 2))
        .sum(2),
        "forget the scale": (logits / 9).softmax(dim=1).mean(dim=2),
    }
    got = require(ex06.ensemble_of_probabilities(x, vectors, 2, 9.0), "ensemble_of_probabilities")
    diagnose(got, want, wrong, what="probabilities")


# --- 07 pictures


def test_class_token_attention(ex07):
    clip, x = make_clip(), images()
    got = require(ex07.class_token_attention(clip, x), "class_token_attention")
    assert clip.vision_model.config._attn_implementation == "sdpa"
    eager = make_clip()
    eager.vision_model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = eager.vision_model(pixel_values=x, output_attentions=True).attentions

    def picture(weights):
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.unflatten(-1, (3, 3))

    row = maps[-1][:, :, 0, 1:].mean(dim=1)
    wrong = {
        "take the first block": picture(maps[0][:, :, 0, 1:].mean(dim=1)),
        "forget to divide by the sum": row.unflatten(-1, (3, 3)),
        "take the column: who looks at the class token": picture(maps[-1][:, :, 1:, 0].mean(dim=1)),
        "keep the class token and drop the last patch": picture(maps[-1][:, :, 0, :9].mean(dim=1)),
        "take one head instead of the mean": picture(maps[-1][:, 0, 0, 1:]),
        "divide every head by its sum before the mean": picture(
            maps[-1][:, :, 0, 1:] / maps[-1][:, :, 0, 1:].sum(dim=-1, keepdim=True)
        ).mean(dim=1),
        "divide by the sum over the whole batch": (row / row.sum()).unflatten(-1, (3, 3)),
        "leave out the class token's row instead of its column": picture(
            maps[-1][:, :, 1:, 1:].mean(dim=(1, 2))
        ),
        "take another softmax instead of dividing by the sum": picture(row.softmax(dim=-1)),
    }
    diagnose(got, picture(row), wrong, what="pictures")
    assert not got.requires_grad, "the pictures carry a gradient: torch.no_grad(), or detach()"


def test_text_saliency(ex07):
    clip, x, tokens = make_clip(), images(), texts()
    got = require(ex07.text_saliency(clip, x, tokens), "text_saliency")
    kept = []
    norm = clip.vision_model.encoder.layers[-1].layer_norm1
    hook = norm.register_forward_hook(lambda module, args, output: kept.append((*args, output)))
    image = clip.get_image_features(pixel_values=x).pooler_output
    hook.remove()
    text = clip.get_text_features(input_ids=tokens).pooler_output.detach()
    ((before, z),) = kept

    def product(scores, z=z):
        (g,) = torch.autograd.grad(scores.sum(), z, retain_graph=True)
        return (z * g).sum(dim=-1).detach(), g

    both, g = product(F.cosine_similarity(image, text, dim=-1))
    plain, _ = product((image * text).sum(dim=-1))
    crossed, _ = product(F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T)

    def picture(values):
        return values.unflatten(-1, (3, 3)).detach()

    want = picture(both[:, 1:].relu())
    wrong = {
        "forget the relu": picture(both[:, 1:]),
        "keep the class token and drop the last patch": picture(both[:, :9].relu()),
        "take the gradient alone": picture(g.sum(dim=-1)[:, 1:].relu()),
        "take products before the relu is over the sum": picture((z * g).relu().sum(-1)[:, 1:]),
        "take inner products instead of cosines": picture(plain[:, 1:].relu()),
        "take the absolute value instead of the relu": picture(both[:, 1:].abs()),
        "take the mean over D instead of the sum": want / 12,
        "take the mean over the batch instead of the sum": want / 3,
        "compare every image with every text": picture(crossed[:, 1:].relu()),
    }
    diagnose(got, want, wrong, what="pictures")
    in_front, _ = product(F.cosine_similarity(image, text, dim=-1), before)
    assert want.max() > 1e-2 and in_front[:, 1:].abs().max() < 1e-5  # the page says why
    assert not got.requires_grad, "the pictures carry a gradient: detach() them"
    assert not norm._forward_hooks, "a hook was left behind"
    assert not torch.allclose(got, ex07.text_saliency(clip, x, texts().flip(0)))
