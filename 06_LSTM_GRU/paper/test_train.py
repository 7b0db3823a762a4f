"""The training scripts of level 3 do what plain loops do."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from gru_paper import GRU, GRUConfig
from lstm_paper import LSTM, LSTMConfig
from sequence_network_paper import (
    NetworkConfig,
    RNNConfig,
    SequenceNetwork,
    VanillaRNN,
    generate,
)
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.sequence_data import load_task
from utils.text_data import characters
from utils.weights import load_into, load_weights

HERE = Path(__file__).parent
train = load_module(HERE / "train.py", "train_recurrent_paper")
train_text = load_module(HERE / "train_text.py", "train_text_paper")

BETA = math.log(19)
BIASES = {"forget_bias": BETA, "input_bias": -BETA}


def seed_of_step(step):
    return int(np.random.SeedSequence([3, step, 0]).generate_state(1)[0])


def result(out):
    (folder,) = out.glob("*/*")
    return (
        [r["loss"] for r in read_metrics(folder) if "loss" in r],
        load_weights(folder / "model.safetensors"),
        json.loads((folder / "summary.json").read_text()),
    )


# data, kind of layer, options, network
CASES = [
    (
        "temporal-order",
        "lstm",
        "",
        lambda: SequenceNetwork(LSTM(LSTMConfig(3, 5, **BIASES)), NetworkConfig(4, 8)),
    ),
    (
        "reber",
        "peephole",
        "",
        lambda: SequenceNetwork(
            LSTM(LSTMConfig(3, 5, peepholes=True, **BIASES)), NetworkConfig(7, 7, "every")
        ),
    ),
    (
        "adding",
        "rnn",
        "--layers 2",
        lambda: SequenceNetwork(VanillaRNN(RNNConfig(2, 5, 2)), NetworkConfig(1)),
    ),
    (
        "reviews",
        "gru",
        "--bidirectional --pool mean --dropout 0.3 --vocabulary 40 --max-length 9",
        lambda: SequenceNetwork(
            GRU(GRUConfig(3, 5, 1, True, 0.3, update_bias=BETA)), NetworkConfig(2, 40, "mean", 0.3)
        ),
    ),
]


@pytest.mark.parametrize(("data", "kind", "words", "network"), CASES)
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, data, kind, words, network):
    task = load_task(data, seed=3, vocabulary=40, max_length=9)
    for name in ("x_test", "lengths_test", "y_test"):
        object.__setattr__(task, name, getattr(task, name)[:50])
    seen = []
    monkeypatch.setattr(train, "load_task", lambda *a, **k: seen.append((a, k)) or task)
    words = f"--data {data} --model {kind} {words} --width 5 --embedding 3 --memory 20 --seed 3"
    words += " --lr 0.02 --batch-size 8 --limit 20 --epochs 2 --clip-norm 0.5 --device cpu"
    train.main([*words.split(), "--data-dir", "elsewhere", "--out", str(tmp_path)])
    losses, trained, summary = result(tmp_path)
    cut = {"vocabulary": 40, "max_length": 9} if data == "reviews" else {}
    asked = {"seed": 3, "vocabulary": 20_000, "max_length": 400} | cut
    assert seen == [((data, Path("elsewhere")), asked)]

    torch.manual_seed(3)
    model = network()
    optimizer, wanted = torch.optim.Adam(model.parameters()), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(20)[8 * i : 8 * (i + 1)]
        x, lengths, y = (torch.from_numpy(a) for a in task.batch(index))
        torch.manual_seed(seed_of_step(step))
        iter(DataLoader([0]))  # as in fit: it takes a random number before dropout takes others
        outputs = model.train()(x, lengths)
        if data == "adding":
            loss = F.mse_loss(outputs[:, 0], y) / 2
        elif data == "reber":
            real = torch.arange(y.shape[1]) < lengths[:, None]
            loss = F.cross_entropy(outputs[real], y[real])
        else:
            loss = F.cross_entropy(outputs, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 6))
        optimizer.step()
        wanted.append(loss.item())
    assert losses == pytest.approx(wanted, rel=1e-4)
    assert set(trained) == set(model.state_dict())
    for name, p in model.state_dict().items():
        assert np.allclose(trained[name], p, atol=1e-4), name

    @torch.no_grad()
    def predict(x, lengths):
        return model.eval()(torch.from_numpy(x), torch.from_numpy(lengths)).numpy()

    load_into(model, trained)
    for name, value in task.measure(predict).items():
        assert summary["metrics"][name] == pytest.approx(value)


LAYERS = {
    "lstm": LSTMConfig(4, 5, **BIASES),
    "lstm1997": LSTMConfig.hochreiter1997(inputs=4, width=5, **BIASES),
    "lstm2000": LSTMConfig.gers2000(inputs=4, width=5, **BIASES),
    "peephole": LSTMConfig(4, 5, peepholes=True, **BIASES),
    "gru": GRUConfig(4, 5, update_bias=BETA),
    "cho2014": GRUConfig.cho2014(inputs=4, width=5, update_bias=BETA),
    "rnn": RNNConfig(4, 5),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_model_is_the_one_it_is_called(kind):
    options = train.Options(model=kind, width=5, embedding=4, memory=20)
    assert options.network(0, 7, 3, "class").rnn.config == LAYERS[kind]
    assert set(train.LAYERS) == set(LAYERS)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_dropout_asked_for_reaches_layers_and_head(kind):
    model = train.Options(model=kind, dropout=0.3).network(0, 7, 3, "class")
    assert model.rnn.config.dropout == model.config.dropout == 0.3
    if kind in ("lstm", "gru"):
        model = train_text.Options(model=kind, dropout=0.3).network(7)
        assert model.rnn.config.dropout == model.config.dropout == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 1}, "expected --memory above 1, or 0, got 1"),
        (
            {"data": "reber", "bidirectional": True},
            "--bidirectional would read the symbols that --data reber",
        ),
        ({"width": 0}, "expected width of at least 1, got 0"),
        ({"model": "cho2014", "dropout": 1.0}, r"expected dropout in \[0, 1\), got 1.0"),
        ({"model": "rnn", "layers": 0}, "expected layers of at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        train.Options(**options)


def test_without_memory_the_biases_are_the_usual_ones():
    config = train.Options(memory=0).network(1, 0, 1, "class").rnn.config
    assert (config.forget_bias, config.input_bias) == (1, 0)
    assert train.Options(memory=0, model="gru").network(1, 0, 1, "class").rnn.config == GRUConfig(
        1, 32
    )


# --- the language model

CORPUS = characters("to be, or not to be: that is the question. " * 20)
V = len(CORPUS.characters)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_language_model_is_trained_on_windows(tmp_path, monkeypatch, capsys, kind):
    seen = []
    monkeypatch.setattr(train_text, "load_corpus", lambda *a: seen.append(a) or CORPUS)
    words = f"--model {kind} --batch-size 7 --steps 43 --width 6 --embedding 4 --layers 2 --seed 3"
    words += " --lr 0.02 --clip-norm 0.5 --epochs 2 --temperature 0.5 --device cpu"
    words += f" --data tiny-shakespeare --data-dir elsewhere --out {tmp_path}"
    train_text.main(words.split())
    losses, trained, summary = result(tmp_path)
    assert seen == [("tiny-shakespeare", Path("elsewhere"))]

    torch.manual_seed(3)
    sizes = (4, 6, 2)
    rnn = LSTM(LSTMConfig(*sizes)) if kind == "lstm" else GRU(GRUConfig(*sizes))
    model = SequenceNetwork(rnn, NetworkConfig(V, V, "every"))
    optimizer, wanted = torch.optim.Adam(model.parameters()), []
    text = torch.from_numpy(CORPUS.train)
    count = (len(text) - 1) // 43
    assert count == 17 and len(text) == 18 * 43  # the last character has no next one
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(count)[7 * i : 7 * (i + 1)]
        windows = torch.stack([text[43 * n : 43 * n + 44] for n in index])
        torch.manual_seed(seed_of_step(step))
        logits = model.train()(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 6))
        optimizer.step()
        wanted.append(loss.item())
    assert losses == pytest.approx(wanted, rel=1e-4)
    for name, p in model.state_dict().items():
        assert np.allclose(trained[name], p, atol=1e-4), name

    load_into(model.eval(), trained)
    test = torch.from_numpy(CORPUS.test)
    bits = bits_in_one_go(model, test)
    assert summary["metrics"]["test_bits_per_character"] == pytest.approx(bits, rel=1e-5)
    written = generate(model, test[:100], 400, torch.Generator().manual_seed(3), 0.5)
    assert capsys.readouterr().out.endswith(f"by the model:\n{CORPUS.decode(written.numpy())}\n")


@torch.no_grad()
def bits_in_one_go(model, text):
    """The 32 rows of the test text read whole."""
    length = len(text) // 32
    table = text[: 32 * length].reshape(32, length)
    logits = model(table[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), table[:, 1:].flatten()).item() / math.log(2)


def test_bits_per_character_does_not_depend_on_the_pieces():
    torch.manual_seed(0)
    model = SequenceNetwork(GRU(GRUConfig(4, 6)), NetworkConfig(V, V, "every")).double()
    text = torch.randint(V, (32 * 50,))
    want = bits_in_one_go(model, text)
    assert abs(want - math.log2(V)) < 1  # a new model knows nothing
    for steps in (1, 13, 49, 200):
        got = train_text.bits_per_character(model, text.reshape(32, 50), steps)
        assert got == pytest.approx(want, rel=1e-12)


def test_the_recipes():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.model, o.epochs, o.batch_size) == ("temporal-order", "lstm", 3, 32)
    assert (o.lr, o.width, o.embedding, o.memory, o.clip_norm) == (0.01, 32, 16, 50, 1.0)
    o = train_text.Options()
    assert (o.data, o.model, o.epochs, o.batch_size) == ("python-docs", "lstm", 8, 32)
    assert (o.lr, o.steps, o.width, o.embedding, o.clip_norm) == (0.003, 100, 256, 32, 1.0)
