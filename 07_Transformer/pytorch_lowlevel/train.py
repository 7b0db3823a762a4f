"""Train the Transformer of level 2: tensors and autograd, attention and update rule by hand.

    python 07_Transformer/pytorch_lowlevel/train.py
        number words to digits: "three hundred and seven" -> "3 0 7". 10,000 generated pairs to
        learn from, 500 to validate, 2,000 for the test. It should take minutes, and nearly all of
        the test numbers should come out right; the README has what was measured.

Input and output share one vocabulary, which numpy/bpe_numpy.py learns from the training pairs. At
the end the test numbers are translated by greedy search.

val_exact_match and test_exact_match are the share of numbers of which every digit is right. The
validation numbers are looked at after every epoch, the test numbers once.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to
runs/07_Transformer-pytorch_lowlevel/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

import utils  # noqa: F401  (puts the other levels on the import path)
from bpe_numpy import BPE
from decoding_lowlevel import greedy_search
from training_lowlevel import Adam, shift_right, smoothed_cross_entropy, update, warmup_rate
from transformer_lowlevel import Params, TransformerConfig, forward, init_params, predictor
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device
from utils.translation_data import encode_pairs, load_pairs, pad

TextPairs = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["number-words"] = option("number-words", "the data set")
    epochs: int = option(30, "passes over the training data")
    batch_size: int = option(64, "pairs in one step")
    lr: float = option(0.15, "factor of the paper's learning rate, which falls with the width")
    warmup: int = option(150, "steps over which the learning rate rises", above=0)
    vocabulary: int = option(200, "tokens at most, of both languages", least=50)
    width: int = option(64, "D, width of the model")
    heads: int = option(4, "nH, attention heads")
    hidden: int = option(128, "F, width inside the position-wise networks")
    layers: int = option(1, "in the encoder, and as many in the decoder")
    dropout: float = option(0.0, "share of each sub-layer's output dropped in training")
    label_smoothing: float = option(
        0.1, "share of the target spread over the vocabulary", least=0, below=1
    )

    def __post_init__(self) -> None:
        self.network(self.vocabulary)  # refuses sizes that make no network

    def network(self, V: int) -> TransformerConfig:
        """The model for V tokens."""
        return TransformerConfig(V, self.width, self.heads, self.hidden, self.layers, self.dropout)


@torch.no_grad()
def exact_match(
    params: Params, config: TransformerConfig, bpe: BPE, pairs: TextPairs, batch_size: int = 250
) -> float:
    """Share of the sources whose greedy translation is the target, letter by letter."""
    device, right = params["shared.weight"].device, 0
    for start in range(0, len(pairs[0]), batch_size):
        sources, targets = (side[start : start + batch_size] for side in pairs)
        tokens = torch.from_numpy(pad([[*bpe.encode(text), bpe.END] for text in sources]))
        log_probs = predictor(params, tokens.to(device), config)
        found = greedy_search(log_probs, len(tokens), 12, bpe.BEGIN, bpe.END, device)
        right += sum(bpe.decode(f) == t for f, t in zip(found, targets, strict=True))
    return right / len(pairs[0])


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    pairs = load_pairs(options.data, options.data_dir)
    bpe = BPE.train(np.concatenate(pairs.train), options.vocabulary)
    sources, targets = encode_pairs(pairs.train, bpe.encode, bpe.END)
    lengths = np.array([len(a) + len(b) for a, b in zip(sources, targets, strict=True)])

    config = options.network(len(bpe))
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    optimizer = Adam(params)

    with Run(options, __file__, model="transformer") as run:
        run.restore(params, optimizer.state)
        for _ in run.epochs():
            for index in run.batches(len(sources), lengths):
                source, labels = (
                    torch.from_numpy(pad([rows[i] for i in index])).to(device)
                    for rows in (sources, targets)
                )
                inputs = shift_right(labels, bpe.BEGIN)
                logits = forward(params, source, inputs, config, run.torch_generator())
                loss = smoothed_cross_entropy(logits, labels, bpe.PADDING, options.label_smoothing)
                optimizer.lr = options.lr * warmup_rate(run.step + 1, options.width, options.warmup)
                loss = update(optimizer, loss)
                run.log(loss=loss, lr=optimizer.lr)
            run.evaluate(val_exact_match=exact_match(params, config, bpe, pairs.val))
        run.finish(test_exact_match=exact_match(params, config, bpe, pairs.test))


if __name__ == "__main__":
    run_script(main)
