"""The training script of level 3 does what a plain loop does, averages, searches and scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch

from bpe_numpy import BPE
from decoding_paper import beam_search, greedy_search
from training_paper import paper_optimizer, shift_right, smoothed_cross_entropy, warmup_rate
from transformer_paper import Transformer, TransformerConfig
from utils.exercises import load_module
from utils.parity import perturb
from utils.runs import by_length, read_metrics
from utils.training_utils import _fetch, _seed_step
from utils.translation_data import Pairs, TokenPairs, encode_pairs, load_pairs
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_transformer_paper")
SMALL = "--device cpu --width 12 --heads 3 --hidden 10 --layers 2 --batch-size 16 --limit 40"


def cut(pairs):
    """All training pairs, and a few of the others."""
    return Pairs(pairs.train, *((a[:30], b[:30]) for a, b in (pairs.val, pairs.test)))


@pytest.fixture
def few_pairs(monkeypatch):
    pairs = cut(load_pairs("number-words"))
    monkeypatch.setattr(train, "load_pairs", lambda *_: pairs)
    return pairs


def test_the_script_is_the_plain_loop_and_averages_its_last_epochs(tmp_path, monkeypatch):
    # The other parts have letters that a tokenizer must not learn from them.
    val, test = (tuple(np.array(list(t), object) for t in s) for s in (("жд", "ßø"), ("éñ", "бю")))
    pairs, asked, translated = Pairs(load_pairs("number-words").train, val, test), [], []
    monkeypatch.setattr(train, "load_pairs", lambda *a: asked.append(a) or pairs)

    def translate(model, bpe, texts, extra, beam=1):
        weights = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
        translated.append((texts, extra, beam, model.training, weights))
        return ["ß", "x"] if texts is val[0] else ["б", "ю"]

    monkeypatch.setattr(train, "translate", translate)
    monkeypatch.setattr(train, "plot_attention", lambda *_, **__: None)
    words = f"{SMALL} --seed 3 --lr 0.7 --warmup 5 --label-smoothing 0.2 --average 2 --epochs 3"
    words += f" --dropout 0.2 --vocabulary 120 --beam 3 --out {tmp_path} --data-dir {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")
    assert asked == [("number-words", tmp_path)]

    bpe = BPE.train([*pairs.train[0], *pairs.train[1]], 120)
    data = TokenPairs(*encode_pairs(pairs.train, bpe.encode, bpe.END))
    torch.manual_seed(3)
    model = Transformer(TransformerConfig(len(bpe), 12, 3, 10, 2, dropout=0.2))
    optimizer, wanted, states = paper_optimizer(model.parameters()), [], []
    for step in range(9):  # 3 epochs of 3 batches
        epoch, i = divmod(step, 3)
        rng = np.random.default_rng([3, 0, epoch])
        index = by_length(rng.permutation(40), data.lengths, 16, rng)[i]
        optimizer.param_groups[0]["lr"] = 0.7 * warmup_rate(step + 1, 12, 5)
        _seed_step(3, step, 0)
        ((source, labels),) = _fetch(data, [index.tolist()])  # a loader draws a number too
        loss = smoothed_cross_entropy(model(source, shift_right(labels, 1)), labels, 0, 0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
        if i == 2:
            states.append({name: p.detach().numpy().copy() for name, p in model.named_parameters()})
    assert [r["loss"] for r in read_metrics(folder) if "loss" in r] == pytest.approx(
        wanted, rel=1e-5
    )
    trained = load_weights(folder / "model.safetensors")
    for name, value in trained.items():
        mean = (states[1][name] + states[2][name]) / 2
        np.testing.assert_allclose(value, mean, rtol=0, atol=1e-5)
    assert any(np.abs(trained[n] - states[2][n]).max() > 1e-3 for n in trained)
    assert len(list((folder / "averaged").iterdir())) == 2
    # Validation after each epoch, greedily; the test once, with the beam and the averaged weights.
    assert [texts is test[0] for texts, *_ in translated] == [False] * 3 + [True]
    assert all(texts is val[0] for texts, *_ in translated[:3])
    assert [call[1:4] for call in translated] == [(12, 1, False)] * 3 + [(12, 3, False)]
    assert all(np.array_equal(translated[3][4][n], trained[n]) for n in trained)
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert (metrics["val_exact_match"], metrics["test_exact_match"]) == (0.5, 1.0)
    assert (folder / "translations.txt").read_text(encoding="utf-8") == "б\nю\n"


def test_exact_match_is_that_of_the_averaged_weights(tmp_path, few_pairs, monkeypatch):
    plot_attention, drawn = train.plot_attention, []

    def plot(*arguments, **options):
        drawn.append(arguments)
        plot_attention(*arguments, **options)

    monkeypatch.setattr(train, "plot_attention", plot)
    train.main([*SMALL.split(), "--epochs", "1", "--out", str(tmp_path)])
    (folder,) = tmp_path.glob("*/*")
    bpe = BPE(*json.loads((folder / "bpe.json").read_text()))
    model = Transformer(TransformerConfig(len(bpe), 12, 3, 10, 2, dropout=0.0)).eval()
    weights = load_weights(folder / "model.safetensors")
    model.load_state_dict({n: torch.from_numpy(p) for n, p in weights.items()})
    found = train.translate(model, bpe, few_pairs.test[0], 12)
    assert (folder / "translations.txt").read_text().splitlines() == found
    summary = json.loads((folder / "summary.json").read_text())
    right = np.mean([a == b for a, b in zip(found, few_pairs.test[1], strict=True)])
    assert summary["metrics"]["test_exact_match"] == right
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    # What is drawn: the last decoder layer, while it writes the translation of the example.
    ((weights, queries, keys),) = drawn
    source = torch.tensor([[*bpe.encode(train.EXAMPLES["number-words"]), bpe.END]])
    (found,) = greedy_search(model.predictor(source), 1, source.shape[1] + 12, bpe.BEGIN, bpe.END)
    maps = model.attention_maps(source, torch.tensor([[bpe.BEGIN, *found]]))
    torch.testing.assert_close(weights, maps["decoder.layers.1.encoder_attn"][0].mean(dim=0))
    assert queries == [bpe.tokens[i] for i in (*found, bpe.END)]
    assert keys == [bpe.tokens[i] for i in source[0].tolist()]


GERMAN = ["ein hund", "eine katze", "zwei hunde", "ein hund und eine katze", "zwei katzen"]
ENGLISH = ["a dog", "a cat", "two dogs", "a dog and a cat", "two cats"]


def test_captions_are_scored_by_sacrebleu_and_the_signature_is_kept(tmp_path, monkeypatch):
    german, english = np.array(GERMAN * 8, dtype=object), np.array(ENGLISH * 8, dtype=object)
    parts = [(german[i:], english[i:]) for i in (0, 21, 33)]
    monkeypatch.setattr(train, "load_pairs", lambda *_: Pairs(*parts))
    calls = []

    def translate(model, bpe, texts, extra, beam=1):
        calls.append((len(texts), extra, beam))
        return [*parts[2][1][:-1], "a dog and two cats"]  # all but one right

    monkeypatch.setattr(train, "translate", translate)
    monkeypatch.setattr(train, "draw_attention", lambda *_: None)
    words = f"{SMALL} --data multi30k --vocabulary 60 --epochs 1 --beam 2 --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")
    summary = json.loads((folder / "summary.json").read_text())
    found = (folder / "translations.txt").read_text().splitlines()
    assert calls == [(7, 50, 2)]
    want = sacrebleu.corpus_bleu(found, [list(parts[2][1])]).score
    assert summary["metrics"]["test_bleu"] == want and 50 < want < 100
    bpe = BPE(*json.loads((folder / "bpe.json").read_text()))
    model = Transformer(TransformerConfig(len(bpe), 12, 3, 10, 2)).eval()
    weights = load_weights(folder / "model.safetensors")  # the mean of one epoch
    model.load_state_dict({n: torch.from_numpy(p) for n, p in weights.items()})
    val = TokenPairs(*encode_pairs(parts[1], bpe.encode, bpe.END))
    loss = train.mean_loss(model, val, torch.device("cpu"))
    assert summary["metrics"]["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert set(summary["metrics"]) == {"train_loss", "val_loss", "test_bleu"}
    for words in ("nrefs:1", "case:mixed", "tok:13a", f"version:{sacrebleu.__version__}"):
        assert words in summary["note"]


def test_translations_keep_their_order_and_the_beam_counts(few_pairs, monkeypatch):
    searched = []
    monkeypatch.setattr(
        train, "beam_search", lambda *a, **k: searched.append(k) or beam_search(*a, **k)
    )
    bpe = BPE.train([*few_pairs.train[0], *few_pairs.train[1]], 200)
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(len(bpe), 12, 3, 10, 1)).eval()
    perturb(model, scale=0.3)  # a fresh model writes the same for all
    texts = few_pairs.test[0][:12]
    tokens = [[*bpe.encode(text), bpe.END] for text in texts]
    limit = max(map(len, tokens)) + 4  # all are one batch
    for beam in (1, 3):
        want = []
        for row in tokens:
            search = model.predictor(torch.tensor([row])), 1, limit, 1, 2
            if beam == 1:
                want.append(bpe.decode(greedy_search(*search)[0]))
            else:
                want.append(bpe.decode(beam_search(*search, beam=3, alpha=0.6)[0][0]))
        assert train.translate(model, bpe, texts, 4, beam) == want
        assert len(set(want)) > 5
    assert searched == [{"beam": 3, "alpha": 0.6, "device": torch.device("cpu")}]


def test_mean_loss_counts_every_token():
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(20, 12, 3, 10, 1)).eval()
    rows = [[3 + (7 * i + j) % 17 for j in range(1 + i % 6)] + [2] for i in range(100)]
    total = sum(
        smoothed_cross_entropy(
            model(torch.tensor([row]), shift_right(torch.tensor([row]), 1)),
            torch.tensor([row]),
            0,
            0.0,
        ).item()
        * len(row)
        for row in rows
    )
    got = train.mean_loss(model, TokenPairs(rows, rows), torch.device("cpu"))
    assert got == pytest.approx(total / sum(map(len, rows)), rel=1e-5)


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.epochs, o.batch_size, o.lr, o.warmup, o.average) == (30, 64, 0.15, 150, 5)
    assert (o.width, o.heads, o.hidden, o.layers, o.dropout) == (64, 4, 128, 1, 0.0)
    assert (o.label_smoothing, o.beam, o.vocabulary) == (0.1, 1, 200)
    assert (o.data, o.extra, train.Options(data="multi30k").extra) == ("number-words", 12, 50)


def test_an_impossible_network_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--width", "10", "--heads", "4"])
    assert "an even width that 4 heads divide, got 10" in capsys.readouterr().err


def test_label_smoothing_of_1_or_more_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit):
        train.main(["--label-smoothing", "1"])
    assert "expected a number below 1, got 1" in capsys.readouterr().err
