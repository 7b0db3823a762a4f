"""The training script of level 3 is the plain loop that its docstring describes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from byte_bpe_numpy import ByteBPE
from gpt_paper import GPT, GPTConfig, next_token_loss, paper_optimizer
from gpt_sampling_paper import generate
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.text_data import characters, even_starts, windows
from utils.training_utils import cosine
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_gpt_paper")
SMALL = "--lr 0.02 --warmup 2 --width 12 --heads 3 --layers 2 --context 8 --batch-size 4"
SMALL += " --steps 3 --device cpu"


TEXT = "def f(x):\n    return x + 1\n\n" * 30


@pytest.fixture
def corpus(monkeypatch, tmp_path):
    corpus = characters(TEXT)
    texts = {("python-source", tmp_path): corpus, ("python-source", None): corpus}
    monkeypatch.setattr(train, "load_corpus", lambda name, folder: texts[name, folder])
    return corpus


def test_the_script_is_the_plain_loop(tmp_path, corpus):
    words = f"{SMALL} --seed 3 --epochs 2 --dropout 0.2 --beta2 0.9 --clip-norm 0.5"
    words += " --weight-decay 0.3 --norm post --temperature 0.7 --top-k 9 --top-p 0.9"
    train.main([*words.split(), "--out", str(tmp_path), "--data-dir", str(tmp_path)])
    (folder,) = tmp_path.glob("*/*")

    train.set_seed(3)
    model = GPT(GPTConfig(len(corpus.characters), 8, 12, 3, 2, 0.2, "post"))
    optimizer, wanted, val = paper_optimizer(model, 0.02, 0.3, (0.9, 0.9)), [], []
    rate, text = cosine(6, 2, 0.1), torch.from_numpy(corpus.train)
    for step in range(6):
        torch.manual_seed(int(np.random.SeedSequence([3, step, 0]).generate_state(1)[0]))
        torch.empty((), dtype=torch.int64).random_()  # the loader's own draw
        starts = torch.randint(len(text) - 8, (4,))
        x = torch.stack([text[at : at + 8] for at in starts])
        y = torch.stack([text[at + 1 : at + 9] for at in starts])
        loss = next_token_loss(model.train()(x), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * rate(step)
        optimizer.step()
        wanted.append(loss.item())
        if step % 3 == 2:
            measured = train.measure(model.eval(), train.load_text(train.Options()), "cpu")
            val.append(measured["val_loss"])
    lines = read_metrics(folder)
    assert [r["loss"] for r in lines if "loss" in r] == pytest.approx(wanted, rel=1e-5)
    assert [r["val_loss"] for r in lines if "val_loss" in r] == pytest.approx(val, rel=1e-5)
    trained = load_weights(folder / "model.safetensors")
    for name, p in model.named_parameters():
        assert np.allclose(trained[name], p.detach(), atol=1e-5), name
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["metrics"]) == {"train_loss", "val_loss", "val_bits_per_character"}
    start = torch.from_numpy(corpus.encode("def "))[None]
    want = generate(model, start, 500, 0.7, 9, 0.9, torch.Generator().manual_seed(3))
    sample = (folder / "sample.txt").read_text()
    assert sample.startswith("def ") and len(sample) == 505
    assert sample[:60] == corpus.decode(want[0].tolist())[:60]
    assert summary["model"] == "gpt"


def test_windows_differ_from_batch_to_batch_and_reach_the_whole_text():
    data = train.RandomWindows(np.arange(20), 4, 3)
    torch.manual_seed(0)
    batches = [data.__getitems__([0, 1, 2]) for _ in range(100)]
    starts = {int(x[0]) for batch in batches for x, _ in batch}
    assert starts == set(range(16)) and len(data) == 3
    assert all(torch.equal(y, x + 1) and len(x) == 4 for batch in batches for x, y in batch)
    with pytest.raises(ValueError, match="expected a text of more than 20 tokens, got 20"):
        train.RandomWindows(np.arange(20), 20, 3)


def test_tokens_of_a_byte_level_encoding(tmp_path, monkeypatch):
    corpus = characters(TEXT + "z" * 84)  # a pair of z is frequent, but in the held-out part alone
    monkeypatch.setattr(train, "load_corpus", lambda *_: corpus)
    words = f"{SMALL} --vocabulary 270 --epochs 1 --prompt return --out {tmp_path}"
    train.main(words.split())
    (folder,) = tmp_path.glob("*/*")
    bpe = ByteBPE.train([corpus.decode(corpus.train)], 270)
    merges = json.loads((folder / "bpe.json").read_text())["merges"]
    assert ByteBPE(merges).tokens == bpe.tokens
    assert load_weights(folder / "model.safetensors")["wte.weight"].shape == (len(bpe), 12)
    assert (folder / "sample.txt").read_text().startswith("return")
    assert json.loads((folder / "summary.json").read_text())["model"] == "gpt-bpe"
    text = train.load_text(train.Options(vocabulary=270))
    assert text.bpe.tokens == bpe.tokens and text.vocabulary == 270
    assert text.decode(text.train) == corpus.decode(corpus.train)
    assert text.decode(text.val) == corpus.decode(corpus.test)


def test_a_prompt_that_the_text_lacks_is_an_error_before_training(tmp_path, corpus):
    with pytest.raises(SystemExit, match="--prompt: expected characters of the corpus, got 'é'"):
        train.main([*f"{SMALL} --epochs 1 --out {tmp_path}".split(), "--prompt", "dé"])
    assert not list(tmp_path.iterdir())


def test_measure_looks_at_2000_windows():
    places = np.random.default_rng(1).integers(30, size=4001)
    text = train.Text(places[:0], places, 30, list, str)
    torch.manual_seed(0)
    model = GPT(GPTConfig(30, 1, 12, 3, 1)).eval()
    got, fewer = (train.measure(model, text, "cpu", **m) for m in ({}, {"most": 1999}))
    assert got == train.measure(model, text, "cpu", most=2000) != fewer


def test_measure_counts_the_characters_behind_the_tokens(corpus):
    text = train.load_text(train.Options(vocabulary=270))
    torch.manual_seed(0)
    model = GPT(GPTConfig(text.vocabulary, 4, 12, 3, 1)).eval()
    x, y = windows(text.val, even_starts(text.val, 4, 5), 4)
    want = next_token_loss(model(torch.from_numpy(x)), torch.from_numpy(y)).item()
    got = train.measure(model, text, "cpu", most=5, batch_size=2)
    assert got["val_loss"] == pytest.approx(want, rel=1e-6)
    count = sum(len(text.decode(row)) for row in y)
    assert count > y.size
    bits = want * y.size / count / math.log(2)
    assert got["val_bits_per_character"] == pytest.approx(bits, rel=1e-6)


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.epochs, o.steps, o.batch_size, o.context) == ("python-source", 5, 400, 12, 64)
    assert (o.width, o.heads, o.layers, o.dropout, o.norm) == (128, 4, 4, 0.0, "pre")
    assert (o.lr, o.warmup, o.weight_decay, o.beta2, o.clip_norm) == (0.003, 100, 0.1, 0.99, 1.0)
    assert (o.vocabulary, o.temperature, o.top_k, o.top_p, o.prompt) == (0, 0.8, 0, 1.0, "")
    assert o.network(9) == GPTConfig(9, 64, 128, 4, 4, 0.0, "pre")
    prompts = {"python-source": "def ", "python-docs": "Return ", "tiny-shakespeare": "ROMEO:"}
    assert prompts == train.PROMPTS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--heads 3", "expected a width that 3 heads divide, got 128"),
        ("--vocabulary 256", "expected a vocabulary of 0 or at least 257, got 256"),
        ("--top-p 1.5", "expected a number of at most 1, got 1.5"),
        ("--beta2 1", "expected a number below 1, got 1"),
    ],
)
def test_an_impossible_option_is_an_error_of_one_line(words, message, capsys):
    with pytest.raises(SystemExit):
        train.main(words.split())
    assert message in capsys.readouterr().err
