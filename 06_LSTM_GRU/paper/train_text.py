"""Train a character language model of level 3, and let it write.

    python 06_LSTM_GRU/paper/train_text.py
        the documentation of Python's standard library: guess each next character. Some minutes; at
        the end the model writes some lines itself.

    python 06_LSTM_GRU/paper/train_text.py --data tiny-shakespeare
        Shakespeare has to be downloaded once:
        python -m utils.data_loaders --download tiny-shakespeare

Unlike numpy/train_text.py, which hands the state on from piece to piece, the text is cut into
windows of --steps characters that are shuffled and begin with a state of zeros, so that the shared
loop can cut a batch in all its ways (several processes, gradient accumulation).

test_bits_per_character is the mean of -log2 of the probability of the right character, the test
text read in one go; a model that knows nothing has log2(V), between 6 and 7.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/06_LSTM_GRU-paper/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gru_paper import GRU, GRUConfig
from lstm_paper import LSTM, LSTMConfig
from sequence_network_paper import NetworkConfig, SequenceNetwork, generate, loss_function
from utils.data_loaders import ArrayDataset
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.text_data import load_corpus, rows
from utils.training_utils import cosine, fit, set_seed


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["python-docs", "tiny-shakespeare"] = option("python-docs", "the text")
    model: Literal["lstm", "gru"] = option("lstm", "kind of layer")
    epochs: int = option(8, "passes over the text")
    batch_size: int = option(32, "windows in one step")
    steps: int = option(100, "characters in a window", above=0)
    lr: float = option(0.003, "learning rate at the start; falls to 0 like half a cosine")
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 = no clipping")
    width: int = option(256, "M, recurrent width")
    embedding: int = option(32, "D, width of the embedding of characters")
    layers: int = option(1, "layers, one above the other")
    dropout: float = option(0.0, "share of units dropped at the input of each layer and head")
    temperature: float = option(0.7, "of what the model writes at the end", above=0)

    def __post_init__(self) -> None:
        self.network(1)  # refuses sizes that make no network

    def network(self, V: int) -> SequenceNetwork:
        """The language model for V characters."""
        sizes = (self.embedding, self.width, self.layers, False, self.dropout)
        rnn = LSTM(LSTMConfig(*sizes)) if self.model == "lstm" else GRU(GRUConfig(*sizes))
        return SequenceNetwork(rnn, NetworkConfig(V, V, "every", self.dropout))


def windows(text: np.ndarray, T: int) -> ArrayDataset:
    """(x, lengths, y) for windows of T characters; y is x one character later."""
    count = (len(text) - 1) // T
    x, y = (text[at : at + count * T].reshape(count, T) for at in (0, 1))
    return ArrayDataset(x, np.full(count, T), y)


@torch.no_grad()
def bits_per_character(model: nn.Module, text: torch.Tensor, steps: int = 200) -> float:
    """Mean of -log2 p(right character) over rows (B, N) that are read from their beginning."""
    state, total = None, 0.0
    for start in range(0, text.shape[1] - 1, steps):
        piece = text[:, start : start + steps + 1]
        logits = model(piece[:, :-1], state=state)
        state = model.state
        targets = piece[:, 1:].flatten()
        total += F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").item()
    return total / text[:, 1:].numel() / math.log(2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    corpus = load_corpus(options.data, options.data_dir)
    set_seed(options.seed)
    model = options.network(len(corpus.characters))
    train_set = windows(corpus.train, options.steps)
    test_rows = torch.from_numpy(rows(corpus.test, 32))

    def evaluate(model: nn.Module, device: torch.device) -> dict[str, float]:
        return {"test_bits_per_character": bits_per_character(model, test_rows.to(device))}

    with Run(options, __file__, model=f"{options.model}-text") as run:
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

    device = next(model.parameters()).device
    start = torch.from_numpy(corpus.test[:100]).to(device)
    generator = torch.Generator().manual_seed(options.seed)
    written = generate(model, start, 400, generator, options.temperature)
    print(f"--- from the text:\n{corpus.decode(start.cpu().numpy())}\n--- written by the model:")
    print(corpus.decode(written.cpu().numpy()))


if __name__ == "__main__":
    run_script(main)
