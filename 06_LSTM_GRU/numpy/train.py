"""Train a recurrent network of level 1: NumPy, backpropagation through time by hand.

    python 06_LSTM_GRU/numpy/train.py
        the embedded Reber grammar: predict at each step which symbols may come next. Under a
        minute; the LSTM gets all 256 strings of the test set right.

    python 06_LSTM_GRU/numpy/train.py --model rnn
        the same with a vanilla RNN, which gets the inner grammar and forgets the symbol before it:
        half of the strings right, as by chance.

    python 06_LSTM_GRU/numpy/train.py --data adding --epochs 3 --batch-size 32 --memory 50
    python 06_LSTM_GRU/numpy/train.py --data temporal-order --epochs 3 --batch-size 32 --memory 50
    python 06_LSTM_GRU/numpy/train.py --data reviews --epochs 5 --batch-size 32
        the other tasks; the README has what was measured. --model gru and --model rnn take the
        LSTM's place. With --memory the gates start so that a state lasts some fifty steps; with the
        usual biases an LSTM has forgotten the first symbol long before the answer.

test_accuracy is the share of test sequences that are right: for the grammar, strings in which every
legal symbol is ahead of every other at each step; for adding, sums that are off by less than 0.04.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/06_LSTM_GRU-numpy/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from gru_numpy import GRUNetwork
from linear_numpy import squared_error_backward, squared_error_forward
from lstm_numpy import LSTMNetwork
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from optimizers_numpy import Adam
from recurrent_network_numpy import RecurrentConfig, RNNNetwork
from recurrent_numpy import (
    clip_by_norm,
    length_mask,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from utils.sequence_data import Task, load_task

MODELS = {"lstm": LSTMNetwork, "gru": GRUNetwork, "rnn": RNNNetwork}


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["reber", "adding", "temporal-order", "reviews", "imdb"] = option(
        "reber", "the task"
    )
    model: Literal["lstm", "gru", "rnn"] = option("lstm", "kind of layer")
    epochs: int = option(60, "passes over the training data")
    batch_size: int = option(16, "sequences in one step")
    lr: float = option(0.01, "learning rate at the start; falls to 0 like half a cosine")
    width: int = option(32, "M, recurrent width of each direction")
    embedding: int = option(16, "D, width of the embedding of symbols")
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
        self.gate_biases()

    def network(self, features: int, vocabulary: int, outputs: int, kind: str) -> RecurrentConfig:
        """The network for a task."""
        head = "every" if kind == "next" else self.pool
        sizes = (features or self.embedding, self.width, outputs, vocabulary, self.layers)
        return RecurrentConfig(*sizes, self.bidirectional, head, self.dropout)

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


def loss_and_gradient(
    kind: str, outputs: np.ndarray, y: np.ndarray, lengths: np.ndarray
) -> tuple[np.floating, np.ndarray]:
    """The task's loss, and its gradient with respect to the outputs."""
    if kind == "value":
        loss, cache = squared_error_forward(outputs, y[:, None])  # targets (B,) -> (B, 1)
        return loss, squared_error_backward(cache)
    if kind == "class":
        loss, cache = softmax_cross_entropy_forward(outputs, y)
        return loss, softmax_cross_entropy_backward(cache)
    loss, cache = sequence_cross_entropy_forward(outputs, y, length_mask(lengths, y.shape[1]))
    return loss, sequence_cross_entropy_backward(cache)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    task: Task = load_task(
        options.data,
        options.data_dir,
        seed=options.seed,
        vocabulary=options.vocabulary,
        max_length=options.max_length,
    )
    config = options.network(task.features, task.vocabulary, task.outputs, task.kind)
    rng = np.random.default_rng(options.seed)
    model = MODELS[options.model](config, rng, np.float32, **options.gate_biases())
    optimizer = Adam(model.params, options.lr)

    with Run(options, __file__, model=options.model) as run:
        run.restore(model.params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(task.x_train))
        for _ in run.epochs():
            for index in run.batches(len(task.x_train)):
                x, lengths, y = task.batch(index)
                outputs = model.forward(x, lengths, train=True, rng=run.rng())
                loss, doutputs = loss_and_gradient(task.kind, outputs, y, lengths)
                grads = model.backward(doutputs)
                norm = clip_by_norm(grads, options.clip)
                optimizer.lr = options.lr * 0.5 * (1 + math.cos(math.pi * run.step / total))
                optimizer.step(grads)
                run.log(loss=loss, grad_norm=norm)
            run.evaluate(**task.measure(model.forward))
        run.finish()


if __name__ == "__main__":
    run_script(main)
