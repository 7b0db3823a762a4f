"""The training scripts of level 1 do what plain loops do."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gru_numpy import GRUNetwork
from linear_numpy import squared_error_backward, squared_error_forward
from lstm_numpy import LSTMNetwork
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import Adam
from recurrent_network_numpy import RecurrentConfig, RNNNetwork, generate
from recurrent_numpy import (
    clip_by_norm,
    length_mask,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from utils.exercises import load_module
from utils.runs import Interrupted, Run, read_metrics
from utils.sequence_data import load_task
from utils.text_data import characters
from utils.weights import load_weights

HERE = Path(__file__).parent
train = load_module(HERE / "train.py", "train_recurrent_numpy")
train_text = load_module(HERE / "train_text.py", "train_text_numpy")

MODELS = {
    "lstm": lambda config, rng, beta: LSTMNetwork(
        config, rng, np.float32, forget_bias=beta, input_bias=-beta
    ),
    "gru": lambda config, rng, beta: GRUNetwork(config, rng, np.float32, update_bias=beta),
    "rnn": lambda config, rng, beta: RNNNetwork(config, rng, np.float32),
}
# data, kind of layer, options, network
CASES = [
    ("reber", "lstm", "", RecurrentConfig(3, 5, 7, 7, head="every")),
    ("adding", "rnn", "--layers 2", RecurrentConfig(2, 5, 1, layers=2)),
    (
        "reviews",
        "gru",
        "--bidirectional --pool mean --dropout 0.3 --vocabulary 40 --max-length 9",
        RecurrentConfig(3, 5, 2, 40, 1, True, "mean", 0.3),
    ),
    ("temporal-order", "lstm", "--dropout 0.2", RecurrentConfig(3, 5, 4, 8, dropout=0.2)),
]


def result(out):
    (folder,) = out.glob("*/*")
    return (
        [r for r in read_metrics(folder) if "loss" in r],
        load_weights(folder / "model.safetensors"),
        json.loads((folder / "summary.json").read_text()),
    )


def loss_of(task, outputs, y, lengths):
    if task.kind == "value":
        loss, cache = squared_error_forward(outputs, y[:, None])
        return loss, squared_error_backward(cache)
    if task.kind == "class":
        loss, cache = softmax_cross_entropy_forward(outputs, y)
        return loss, softmax_cross_entropy_backward(cache)
    mask = length_mask(lengths, y.shape[1])
    loss, cache = sequence_cross_entropy_forward(outputs, y, mask)
    return loss, sequence_cross_entropy_backward(cache)


@pytest.mark.parametrize(("data", "kind", "words", "config"), CASES)
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, data, kind, words, config):
    task = load_task(data, seed=3, vocabulary=40, max_length=9)
    small = {name: getattr(task, name)[:50] for name in ("x_test", "lengths_test", "y_test")}
    for name, value in small.items():
        object.__setattr__(task, name, value)
    seen = []
    monkeypatch.setattr(train, "load_task", lambda *a, **k: seen.append((a, k)) or task)
    words = f"--data {data} --model {kind} {words} --width 5 --embedding 3 --memory 20 --seed 3"
    words += " --lr 0.02 --batch-size 8 --limit 20 --epochs 2 --clip 0.5 --data-dir elsewhere"
    words += f" --out {tmp_path}"
    train.main(words.split())
    steps, trained, summary = result(tmp_path)
    assert seen[0][0] == (data, Path("elsewhere")) and seen[0][1]["seed"] == 3

    model = MODELS[kind](config, np.random.default_rng(3), math.log(19))
    optimizer, losses, norms = Adam(model.params), [], []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(20)[8 * i : 8 * (i + 1)]
        x, lengths, y = task.batch(index)
        outputs = model.forward(x, lengths, train=True, rng=np.random.default_rng([3, 1, step]))
        loss, doutputs = loss_of(task, outputs, y, lengths)
        grads = model.backward(doutputs)
        norms.append(clip_by_norm(grads, 0.5))
        optimizer.lr = 0.01 * (1 + math.cos(math.pi * step / 6))
        optimizer.step(grads)
        losses.append(float(loss))
    assert [r["loss"] for r in steps] == losses
    assert [r["grad_norm"] for r in steps] == norms
    assert all(np.array_equal(trained[name], p) for name, p in model.params.items())
    assert {p.dtype for p in trained.values()} == {np.dtype(np.float32)}
    for name, value in task.measure(model.forward).items():
        assert summary["metrics"][name] == pytest.approx(value)


def test_texts_are_cut_as_asked(monkeypatch, tmp_path):
    seen = []

    def stop(name, data_dir, **options):
        seen.append((name, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load_task", stop)
    for words in ("--data imdb --vocabulary 50 --max-length 7 --seed 2", "--data reviews"):
        with pytest.raises(KeyboardInterrupt):
            train.main([*words.split(), "--out", str(tmp_path)])
    assert seen == [
        ("imdb", {"seed": 2, "vocabulary": 50, "max_length": 7}),
        ("reviews", {"seed": 0, "vocabulary": 10_000, "max_length": 400}),
    ]


def test_memory_is_how_long_a_state_lasts():
    """Forget and update gates of 1 - 1/memory, an input gate of 1/memory; 0 = the usual biases."""

    def gate(a):
        return 1 / (1 + math.exp(-a))

    lstm = train.Options(memory=50).gate_biases()
    assert gate(lstm["forget_bias"]) == pytest.approx(0.98, rel=1e-12)
    assert gate(lstm["input_bias"]) == pytest.approx(0.02, rel=1e-12)
    gru = train.Options(memory=50, model="gru").gate_biases()
    assert gate(gru["update_bias"]) == pytest.approx(0.98, rel=1e-12)
    assert train.Options(memory=50, model="rnn").gate_biases() == {}
    assert train.Options(memory=0).gate_biases() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 1}, "expected --memory above 1, or 0, got 1"),
        ({"bidirectional": True}, "--bidirectional would read the symbols that --data reber"),
        ({"width": 0}, "expected width of at least 1, got 0"),
        ({"dropout": 1.0}, r"expected dropout in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        train.Options(**options)


# --- the language model

CORPUS = characters("to be, or not to be: that is the question. " * 20)
V = len(CORPUS.characters)


@pytest.fixture
def small_corpus(monkeypatch):
    seen = []
    monkeypatch.setattr(train_text, "load_corpus", lambda *a: seen.append(a) or CORPUS)
    return seen


def test_the_script_is_truncated_backpropagation_through_time(tmp_path, capsys, small_corpus):
    words = "--batch-size 3 --steps 43 --width 6 --embedding 4 --layers 2 --dropout 0.2 --seed 3"
    words += " --lr 0.02 --clip 0.5 --epochs 2 --temperature 0.5 --data tiny-shakespeare"
    words += f" --data-dir elsewhere --out {tmp_path}"
    train_text.main(words.split())
    steps, trained, summary = result(tmp_path)
    assert small_corpus == [("tiny-shakespeare", Path("elsewhere"))]

    config = RecurrentConfig(4, 6, V, V, 2, head="every", dropout=0.2)
    model = LSTMNetwork(config, np.random.default_rng(3), np.float32)
    optimizer, losses = Adam(model.params), []
    row = len(CORPUS.train) // 3  # three rows, read side by side
    text = CORPUS.train[: 3 * row].reshape(3, row)
    each = (row - 1) // 43
    assert each == 5 and row == 6 * 43  # the last character of a row has no next one
    for step in range(2 * each):
        if step % each == 0:  # a new epoch begins at the beginning of the text, with no memory
            state = tuple(np.zeros((2, 3, 6), np.float32) for _ in range(2))
        at = 43 * (step % each)
        x, y = text[:, at : at + 43], text[:, at + 1 : at + 44]
        rng = np.random.default_rng([3, 1, step])
        logits = model.forward(x, state=state, train=True, rng=rng)
        loss, cache = sequence_cross_entropy_forward(logits, y)
        grads = model.backward(sequence_cross_entropy_backward(cache))
        clip_by_norm(grads, 0.5)
        optimizer.lr = 0.01 * (1 + math.cos(math.pi * step / (2 * each)))
        optimizer.step(grads)
        state = model.state
        losses.append(float(loss))
    assert [r["loss"] for r in steps] == losses
    assert all(np.array_equal(trained[name], p) for name, p in model.params.items())

    bits = bits_in_one_go(model, CORPUS.test)
    assert summary["metrics"]["test_bits_per_character"] == pytest.approx(bits, rel=1e-5)
    written = generate(model, CORPUS.test[:100], 400, np.random.default_rng(3), 0.5)
    assert capsys.readouterr().out.endswith(f"by the model:\n{CORPUS.decode(written)}\n")


def test_resumed_in_the_middle_of_an_epoch_it_has_its_memory_back(
    tmp_path, monkeypatch, small_corpus
):
    words = ["--batch-size", "3", "--steps", "43", "--width", "6", "--epochs", "2", "--out"]
    train_text.main([*words, str(tmp_path / "whole")])
    with monkeypatch.context() as patched:
        patched.setattr(Run, "should_stop", lambda run: run.step == 3)  # of 5 in an epoch
        with pytest.raises(Interrupted):
            train_text.main([*words, str(tmp_path / "cut")])
    (folder,) = (tmp_path / "cut").glob("*/*")
    train_text.main(["--resume", str(folder)])
    (steps, weights, _), (got, got_weights, _) = (result(tmp_path / n) for n in ("whole", "cut"))
    assert [r["loss"] for r in got] == [r["loss"] for r in steps]
    assert all(np.array_equal(got_weights[name], p) for name, p in weights.items())


def test_each_model_is_the_one_it_is_called():
    models = {"lstm": LSTMNetwork, "gru": GRUNetwork, "rnn": RNNNetwork}
    assert train.MODELS == train_text.MODELS == models


def bits_in_one_go(model, text):
    """The 32 rows of the test text read whole."""
    length = len(text) // 32
    table = text[: 32 * length].reshape(32, length)
    loss, _ = sequence_cross_entropy_forward(model.forward(table[:, :-1]), table[:, 1:])
    return float(loss) / math.log(2)


def test_bits_per_character_does_not_depend_on_the_pieces():
    config = RecurrentConfig(4, 6, V, V, head="every")
    model = GRUNetwork(config, np.random.default_rng(0))
    text = np.random.default_rng(0).integers(V, size=32 * 50 + 7)
    want = bits_in_one_go(model, text)
    assert abs(want - math.log2(V)) < 1  # a new model knows nothing
    for steps in (1, 13, 49, 200):
        assert train_text.bits_per_character(model, text, steps) == pytest.approx(want, rel=1e-12)


def test_the_recipes():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.model, o.epochs, o.batch_size, o.lr) == ("reber", "lstm", 60, 16, 0.01)
    assert (o.width, o.embedding, o.memory, o.clip, o.pool) == (32, 16, 0, 1.0, "last")
    o = train_text.Options()
    assert (o.data, o.model, o.epochs, o.batch_size) == ("python-docs", "lstm", 5, 32)
    assert (o.lr, o.steps, o.width, o.embedding, o.clip) == (0.004, 64, 128, 32, 1.0)
