"""Train level 3: the LSTM of 1997, of 2000, of today, with peepholes; Cho's GRU and cuDNN's.

    python 06_LSTM_GRU/paper/train.py
        temporal order, task 6a of the 1997 paper, with today's LSTM: in which order did X and Y
        come, some forty symbols apart and at least forty before the end? Under a minute; all of
        the test set is right. With --model rnn a vanilla RNN guesses: a quarter is right.

    python 06_LSTM_GRU/paper/train.py --data adding
    python 06_LSTM_GRU/paper/train.py --data reber --epochs 60 --batch-size 16 --memory 0
        the adding problem and the embedded Reber grammar.

    python 06_LSTM_GRU/paper/train.py --data adding --model lstm1997
        the same with the cell and the gradient of 1997; other models are lstm2000, peephole, gru,
        cho2014, and rnn, which is there to fail.

    python 06_LSTM_GRU/paper/train.py --data imdb --pool mean --width 128 --embedding 128 \\
        --dropout 0.5 --epochs 4 --batch-size 64 --lr 0.002 --memory 0
        film reviews; the README has what was measured. IMDB has to be downloaded once:
        python -m utils.data_loaders --download imdb

--memory sets the gates' first biases, so that a new LSTM keeps a state for so many steps and lets
little in; the 1997 paper, too, biases its input gates (section 4). The paper trains on one sequence
at a time, by gradient descent; here it is Adam on mini-batches, with the gradient clipped.
test_accuracy is the share of test sequences that are right; see numpy/train.py.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/06_LSTM_GRU-paper/.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from gru_paper import GRU, GRUConfig
from lstm_paper import LSTM, LSTMConfig
from sequence_network_paper import (
    NetworkConfig,
    RNNConfig,
    SequenceNetwork,
    VanillaRNN,
    loss_function,
)
from utils.data_loaders import ArrayDataset
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.sequence_data import load_task
from utils.training_utils import cosine, fit, set_seed

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "lstm": lambda **sizes: LSTM(LSTMConfig(**sizes)),
    "lstm1997": lambda **sizes: LSTM(LSTMConfig.hochreiter1997(**sizes)),
    "lstm2000": lambda **sizes: LSTM(LSTMConfig.gers2000(**sizes)),
    "peephole": lambda **sizes: LSTM(LSTMConfig(peepholes=True, **sizes)),
    "gru": lambda **sizes: GRU(GRUConfig(**sizes)),
    "cho2014": lambda **sizes: GRU(GRUConfig.cho2014(**sizes)),
    "rnn": lambda **sizes: VanillaRNN(RNNConfig(**sizes)),
}


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["temporal-order", "adding", "reber", "reviews", "imdb"] = option(
        "temporal-order", "the task"
    )
    model: Literal["lstm", "lstm1997", "lstm2000", "peephole", "gru", "cho2014", "rnn"] = option(
        "lstm", "kind of layer"
    )
    epochs: int = option(3, "passes over the training data")
    batch_size: int = option(32, "sequences in one step")
    lr: float = option(0.01, "learning rate at the start; falls to 0 like half a cosine")
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 = no clipping")
    width: int = option(32, "M, recurrent width of each direction")
    embedding: int = option(16, "D, width of the embedding of symbols")
    layers: int = option(1, "layers, one above the other")
    bidirectional: bool = option(False, "read from both ends")
    pool: Literal["last", "mean"] = option("last", "what a classifier's head sees")
    dropout: float = option(0.0, "share of units dropped at the input of each layer and head")
    vocabulary: int = option(20_000, "for texts: most frequent words that are told apart", least=3)
    memory: int = option(
        50, "steps that new gates keep a state; 0 = forget bias 1, all others 0", least=0
    )
    max_length: int = option(400, "for texts: only so many words from the end are read", above=0)

    def __post_init__(self) -> None:
        if self.bidirectional and self.data == "reber":
            raise ValueError("--bidirectional would read the symbols that --data reber predicts")
        self.network(1, 1, 1, "class")  # refuses sizes that make no network

    def network(self, features: int, vocabulary: int, outputs: int, kind: str) -> SequenceNetwork:
        """The network for a task."""
        rnn = LAYERS[self.model](
            inputs=features or self.embedding,
            width=self.width,
            layers=self.layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            **self.gate_biases(),
        )
        head = "every" if kind == "next" else self.pool
        return SequenceNetwork(rnn, NetworkConfig(outputs, vocabulary, head, self.dropout))

    def gate_biases(self) -> dict[str, float]:
        """Initial biases with which a state lasts ``memory`` steps: a forget or update gate of
        1 - 1/memory (eq. 6.35a), an input gate of 1/memory."""
        if self.memory == 0 or self.model == "rnn":
            return {}
        if self.memory == 1:
            raise ValueError("expected --memory above 1, or 0, got 1")
        beta = math.log(self.memory - 1)
        if self.model in ("gru", "cho2014"):  # the latter has no biases, as printed
            return {"update_bias": beta}
        return {"forget_bias": beta, "input_bias": -beta}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    task = load_task(
        options.data,
        options.data_dir,
        seed=options.seed,
        vocabulary=options.vocabulary,
        max_length=options.max_length,
    )
    set_seed(options.seed)
    model = options.network(task.features, task.vocabulary, task.outputs, task.kind)
    train_set = ArrayDataset(task.x_train, task.lengths_train, task.y_train)

    @torch.no_grad()
    def evaluate(model: nn.Module, device: torch.device) -> dict[str, float]:
        def predict(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
            tokens, steps = (torch.from_numpy(a).to(device) for a in (x, lengths))
            return model(tokens, steps).float().cpu().numpy()

        return task.measure(predict)

    with Run(options, __file__, model=options.model) as run:
        fit(
            model,
            loss_function,
            train_set,
            options,
            run,
            torch.optim.Adam(model.parameters(), options.lr),
            cosine(options.epochs * run.steps_per_epoch(len(train_set))),
            evaluate,
        )
        run.finish()


if __name__ == "__main__":
    run_script(main)
