"""Train an LSTM, a GRU or a vanilla RNN of level 2: tensors and autograd, all else by hand.

    python 06_LSTM_GRU/pytorch_lowlevel/train.py
        reviews made from templates, whose opinion hangs on a negation: whoever counts words
        guesses. About a minute; the README has the measured accuracy.

    python 06_LSTM_GRU/pytorch_lowlevel/train.py --data adding --epochs 3 --memory 50
    python 06_LSTM_GRU/pytorch_lowlevel/train.py --data temporal-order --epochs 3 --memory 50
    python 06_LSTM_GRU/pytorch_lowlevel/train.py --data reber --epochs 60 --batch-size 16 --width 32
        the tasks of 1997. --model gru and --model rnn take the LSTM's place; the latter fails.

    python 06_LSTM_GRU/pytorch_lowlevel/train.py --data imdb --pool mean --epochs 3 --lr 0.002
        film reviews; slow on a CPU, because every step is written out: level 3 is faster. IMDB has
        to be downloaded once: python -m utils.data_loaders --download imdb

test_accuracy is the share of test sequences that are right; see numpy/train.py.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to
runs/06_LSTM_GRU-pytorch_lowlevel/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

import gru_lowlevel
import lstm_lowlevel
import rnn_lowlevel
from updates_lowlevel import Adam, train_step
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.sequence_data import load_task
from utils.training_utils import pick_device

MODELS = {
    "lstm": (lstm_lowlevel, lstm_lowlevel.LSTMConfig),
    "gru": (gru_lowlevel, gru_lowlevel.GRUConfig),
    "rnn": (rnn_lowlevel, rnn_lowlevel.RNNConfig),
}


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["reviews", "adding", "reber", "temporal-order", "imdb"] = option(
        "reviews", "the task"
    )
    model: Literal["lstm", "gru", "rnn"] = option("lstm", "kind of layer")
    epochs: int = option(5, "passes over the training data")
    batch_size: int = option(32, "sequences in one step")
    lr: float = option(0.01, "learning rate at the start; falls to 0 like half a cosine")
    width: int = option(64, "M, recurrent width of each direction")
    embedding: int = option(32, "D, width of the embedding of symbols")
    layers: int = option(1, "layers, one above the other")
    bidirectional: bool = option(False, "read from both ends")
    pool: Literal["last", "mean"] = option("last", "what a classifier's head sees")
    dropout: float = option(0.0, "share of units dropped at the input of each layer and head")
    memory: int = option(0, "steps that new gates keep a state; 0 = forget bias 1", least=0)
    clip: float = option(1.0, "largest norm of the gradient", above=0)
    vocabulary: int = option(10_000, "for texts: most frequent words that are told apart", least=3)
    max_length: int = option(400, "for texts: only so many words from the end are read", above=0)

    def __post_init__(self) -> None:
        if self.bidirectional and self.data == "reber":
            raise ValueError("--bidirectional would read the symbols that --data reber predicts")
        self.network(1, 1, 1, "class")  # refuses sizes that make no network

    def network(
        self, features: int, vocabulary: int, outputs: int, kind: str
    ) -> lstm_lowlevel.LSTMConfig | gru_lowlevel.GRUConfig | rnn_lowlevel.RNNConfig:
        """The network for a task."""
        head = "every" if kind == "next" else self.pool
        sizes = (features or self.embedding, self.width, outputs, vocabulary, self.layers)
        biases = self.gate_biases()
        return MODELS[self.model][1](*sizes, self.bidirectional, head, self.dropout, **biases)

    def gate_biases(self) -> dict[str, float]:
        """Initial biases with which a state lasts ``memory`` steps: a forget or update gate of
        1 - 1/memory (eq. 6.35a), an input gate of 1/memory."""
        if self.memory == 0 or self.model == "rnn":
            return {}
        if self.memory == 1:
            raise ValueError("expected --memory above 1, or 0, got 1")
        beta = math.log(self.memory - 1)
        if self.model == "gru":
            return {"update_bias": beta}
        return {"forget_bias": beta, "input_bias": -beta}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    task = load_task(
        options.data,
        options.data_dir,
        seed=options.seed,
        vocabulary=options.vocabulary,
        max_length=options.max_length,
    )
    config = options.network(task.features, task.vocabulary, task.outputs, task.kind)
    module, _ = MODELS[options.model]
    generator = torch.Generator().manual_seed(options.seed)
    params = module.init_params(config, generator, device=device)
    optimizer = Adam(params, options.lr)

    @torch.no_grad()
    def predict(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        tokens, steps = (torch.from_numpy(a).to(device) for a in (x, lengths))
        return module.forward(params, tokens, config, steps)[0].cpu().numpy()

    with Run(options, __file__, model=options.model) as run:
        run.restore(params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(task.x_train))
        for _ in run.epochs():
            for index in run.batches(len(task.x_train)):
                batch = tuple(torch.from_numpy(a).to(device) for a in task.batch(index))
                optimizer.lr = options.lr * 0.5 * (1 + math.cos(math.pi * run.step / total))
                forward = partial(
                    module.forward, config=config, train=True, generator=run.torch_generator()
                )
                loss, _ = train_step(forward, params, optimizer, batch, options.clip)
                run.log(loss=loss)
            run.evaluate(**task.measure(predict))
        run.finish()


if __name__ == "__main__":
    run_script(main)
