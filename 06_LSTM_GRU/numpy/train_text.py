"""Train a character language model of level 1, by truncated backpropagation through time.

    python 06_LSTM_GRU/numpy/train_text.py
        the documentation of Python's standard library: guess each next character. A few minutes;
        at the end the model writes some lines itself.

    python 06_LSTM_GRU/numpy/train_text.py --data tiny-shakespeare --model gru
        Shakespeare has to be downloaded once:
        python -m utils.data_loaders --download tiny-shakespeare

The text is cut into --batch-size rows, which are read side by side, --steps characters at a time.
Each piece goes on from the state in which the piece before it ended; its gradient stops there.
Therefore the pieces come in the order of the text, and are not shuffled.

test_bits_per_character is the mean of -log2 of the probability of the right character; a model that
knows nothing has log2(V), between 6 and 7.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/06_LSTM_GRU-numpy/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from gru_numpy import GRUNetwork
from lstm_numpy import LSTMNetwork
from optimizers_numpy import Adam
from recurrent_network_numpy import RecurrentConfig, RNNNetwork, generate
from recurrent_numpy import (
    clip_by_norm,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from utils.text_data import load_corpus, rows

MODELS = {"lstm": LSTMNetwork, "gru": GRUNetwork, "rnn": RNNNetwork}


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["python-docs", "tiny-shakespeare"] = option("python-docs", "the text")
    model: Literal["lstm", "gru", "rnn"] = option("lstm", "kind of layer")
    epochs: int = option(5, "passes over the text")
    batch_size: int = option(32, "rows read side by side")
    steps: int = option(64, "characters in a piece; the gradient goes no further back", above=0)
    lr: float = option(0.004, "learning rate at the start; falls to 0 like half a cosine")
    width: int = option(128, "M, recurrent width")
    embedding: int = option(32, "D, width of the embedding of characters")
    layers: int = option(1, "layers, one above the other")
    dropout: float = option(0.0, "share of units dropped at the input of each layer and head")
    clip: float = option(1.0, "largest norm of the gradient", above=0)
    temperature: float = option(0.7, "of what the model writes at the end", above=0)

    def __post_init__(self) -> None:
        self.network(1)  # refuses sizes that make no network

    def network(self, V: int) -> RecurrentConfig:
        """The language model for V characters."""
        sizes = (self.embedding, self.width, V, V, self.layers)
        return RecurrentConfig(*sizes, head="every", dropout=self.dropout)


def bits_per_character(model: RNNNetwork, text: np.ndarray, steps: int = 200) -> float:
    """Mean of -log2 p(right character) over a text (N,), read in 32 rows with the state kept."""
    table, state, total = rows(text, 32), None, 0.0
    for start in range(0, table.shape[1] - 1, steps):
        piece = table[:, start : start + steps + 1]
        logits = model.forward(piece[:, :-1], state=state)
        loss, _ = sequence_cross_entropy_forward(logits, piece[:, 1:])
        total += float(loss) * piece[:, 1:].size
        state = model.state
    return total / table[:, 1:].size / math.log(2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    corpus = load_corpus(options.data, options.data_dir)
    text, T = rows(corpus.train, options.batch_size), options.steps
    pieces = (text.shape[1] - 1) // T

    rng = np.random.default_rng(options.seed)
    model = MODELS[options.model](options.network(len(corpus.characters)), rng, dtype=np.float32)
    optimizer = Adam(model.params, options.lr)
    # The state is handed on from piece to piece, so it belongs in the checkpoint, like Adam's.
    shape = (options.layers, options.batch_size, options.width)
    state = tuple(np.zeros(shape, dtype=np.float32) for _ in range(model.STATES))
    kept = {f"state.{i}": array for i, array in enumerate(state)}

    with Run(options, __file__, model=f"{options.model}-text") as run:
        run.restore(model.params, optimizer.state | kept)
        examples = pieces * options.batch_size
        each = run.steps_per_epoch(examples)
        for _ in run.epochs():
            for _ in run.batches(examples):  # the shuffled numbers are not used: order matters
                at = run.step % each * T
                piece = text[:, at : at + T + 1]
                if at == 0:
                    state = tuple(np.zeros_like(array) for array in state)
                logits = model.forward(piece[:, :-1], state=state, train=True, rng=run.rng())
                loss, cache = sequence_cross_entropy_forward(logits, piece[:, 1:])
                grads = model.backward(sequence_cross_entropy_backward(cache))
                norm = clip_by_norm(grads, options.clip)
                optimizer.lr = (
                    options.lr * 0.5 * (1 + math.cos(math.pi * run.step / (options.epochs * each)))
                )
                optimizer.step(grads)
                state = model.state  # eq. 6.16
                for array, new in zip(kept.values(), state, strict=True):
                    array[...] = new
                run.log(loss=loss, grad_norm=norm)
            run.evaluate(test_bits_per_character=bits_per_character(model, corpus.test))
        run.finish()

    start = corpus.test[:100]
    written = generate(model, start, 400, np.random.default_rng(options.seed), options.temperature)
    print(f"--- from the text:\n{corpus.decode(start)}\n--- written by the model:")
    print(corpus.decode(written))


if __name__ == "__main__":
    run_script(main)
