"""The training script of level 2 does what a plain loop does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gru_lowlevel
import lstm_lowlevel
import rnn_lowlevel
from utils.exercises import load_module
from utils.runs import read_metrics
from utils.sequence_data import load_task
from utils.weights import load_weights

train = load_module(Path(__file__).parent / "train.py", "train_recurrent_lowlevel")

BETA = math.log(19)
# data, kind of layer, options, module, config
CASES = [
    (
        "reber",
        "lstm",
        "",
        lstm_lowlevel,
        lstm_lowlevel.LSTMConfig(
            3, 5, 7, 7, head="every", forget_bias=BETA, input_bias=-BETA
        ),
    ),
    ("adding", "rnn", "--layers 2", rnn_lowlevel, rnn_lowlevel.RNNConfig(2, 5, 1, layers=2)),
    (
        "reviews",
        "gru",
        "--bidirectional --pool mean --dropout 0.3 --vocabulary 40 --max-length 9",
        gru_lowlevel,
        gru_lowlevel.GRUConfig(3, 5, 2, 40, 1, True, "mean", 0.3, update_bias=BETA),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "kind", "words", "module", "config"), CASES)
def test_the_script_is_the_plain_loop(tmp_path, monkeypatch, data, kind, words, module, config):
    task = load_task(data, seed=3, vocabulary=40, max_length=9)
    for name in ("x_test", "lengths_test", "y_test"):
        object.__setattr__(task, name, getattr(task, name)[:50])
    seen = []
    monkeypatch.setattr(train, "load_task", lambda *a, **k: seen.append((a, k)) or task)
    words = f"--data {data} --model {kind} {words} --width 5 --embedding 3 --memory 20 --seed 3"
    words += " --lr 0.02 --batch-size 8 --limit 20 --epochs 2 --clip 0.05 --device cpu"
    train.main([*words.split(), "--data-dir", "elsewhere", "--out", str(tmp_path)])
    (folder,) = tmp_path.glob("*/*")
    cut = {"vocabulary": 40, "max_length": 9} if data == "reviews" else {}
    asked = {"seed": 3, "vocabulary": 10_000, "max_length": 400} | cut
    assert seen == [((data, Path("elsewhere")), asked)]

    params = module.init_params(config, torch.Generator().manual_seed(3))
    optimizer, wanted = torch.optim.Adam(params.values()), []
    for step in range(6):  # 2 epochs of 3 batches
        epoch, i = divmod(step, 3)
        index = np.random.default_rng([3, 0, epoch]).permutation(20)[8 * i : 8 * (i + 1)]
        x, lengths, y = (torch.from_numpy(a) for a in task.batch(index))
        noise = int(np.random.default_rng([3, 1, step]).integers(2**63))
        generator = torch.Generator().manual_seed(noise)
        outputs, _ = module.forward(params, x, config, lengths, train=True, generator=generator)
        if data == "adding":
            loss = F.mse_loss(outputs[:, 0], y) / 2
        elif data == "reviews":
            loss = F.cross_entropy(outputs, y)
        else:
            real = torch.arange(y.shape[1]) < lengths[:, None]
            loss = F.cross_entropy(outputs[real], y[real])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(params.values()), 0.05)
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 6))
        optimizer.step()
        wanted.append(loss.item())
    steps = [r["loss"] for r in read_metrics(folder) if "loss" in r]
    assert steps == pytest.approx(wanted, rel=1e-4)
    trained = load_weights(folder / "model.safetensors")
    assert set(trained) == set(params)
    for name, p in params.items():
        assert np.allclose(trained[name], p.detach(), atol=1e-4), name

    @torch.no_grad()
    def predict(x, lengths):
        weights = {name: torch.from_numpy(p) for name, p in trained.items()}
        steps = torch.from_numpy(lengths)
        return module.forward(weights, torch.from_numpy(x), config, steps)[0].numpy()

    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    for name, value in task.measure(predict).items():
        assert metrics[name] == pytest.approx(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 1}, "expected --memory above 1, or 0, got 1"),
        (
            {"data": "reber", "bidirectional": True},
            "--bidirectional would read the symbols that --data reber",
        ),
        ({"width": 0}, "expected width of at least 1, got 0"),
        ({"model": "rnn", "layers": 0}, "expected layers of at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        train.Options(**options)


def test_without_memory_the_biases_are_the_usual_ones():
    for kind, biases in (("lstm", (1.0, 0.0)), ("gru", None), ("rnn", None)):
        config = train.Options(model=kind).network(1, 1, 1, "class")
        if biases:
            assert (config.forget_bias, config.input_bias) == biases
    assert train.Options(model="gru").network(1, 1, 1, "class").update_bias == 0


def test_the_recipe():
    o = train.Options()  # the README's measured figures are of these
    assert (o.data, o.model, o.epochs, o.batch_size, o.lr) == ("reviews", "lstm", 5, 32, 0.01)
    assert (o.width, o.embedding, o.memory, o.clip, o.pool) == (64, 32, 0, 1.0, "last")
