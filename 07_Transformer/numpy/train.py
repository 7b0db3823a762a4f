"""Train the Transformer of level 1: NumPy, every gradient and the update rule by hand.

    python 07_Transformer/numpy/train.py
        number words to digits: "three hundred and seven" -> "3 0 7". 10,000 generated pairs to
        learn from, 500 to validate, 2,000 for the test. It should take minutes, and nearly all of
        the test numbers should come out right; the README has what was measured.

Input and output share one vocabulary, which bpe_numpy.py learns from the training pairs. At the end
the test numbers are translated by greedy search, and attention.png in the run folder shows where
the decoder looks while it writes a number.

val_exact_match and test_exact_match are the share of numbers of which every digit is right. The
validation numbers are looked at after every epoch, the test numbers once.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/07_Transformer-numpy/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from bpe_numpy import BPE
from decoding_numpy import greedy_search
from optimizers_numpy import Adam
from transformer_numpy import (
    Transformer,
    TransformerConfig,
    shift_right,
    smoothed_cross_entropy_backward,
    smoothed_cross_entropy_forward,
    warmup_rate,
)
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from utils.translation_data import encode_pairs, load_pairs, pad
from utils.visualization import plot_attention

TextPairs = tuple[np.ndarray, np.ndarray]
EXAMPLE = "four thousand and seventy-two"  # what attention.png shows


@dataclass(frozen=True)
class Options(RunOptions):
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


def exact_match(model: Transformer, bpe: BPE, pairs: TextPairs, batch_size: int = 250) -> float:
    """Share of the sources whose greedy translation is the target, letter by letter."""
    right = 0
    for start in range(0, len(pairs[0]), batch_size):
        sources, targets = (side[start : start + batch_size] for side in pairs)
        tokens = pad([[*bpe.encode(text), bpe.END] for text in sources])
        found = greedy_search(
            model.predictor(tokens), len(tokens), limit=12, bos_id=bpe.BEGIN, eos_id=bpe.END
        )
        right += sum(bpe.decode(f) == t for f, t in zip(found, targets, strict=True))
    return right / len(pairs[0])


def draw_attention(model: Transformer, bpe: BPE, path: str) -> None:
    """What each head of the last decoder layer looks at while it translates the example."""
    source = pad([[*bpe.encode(EXAMPLE), bpe.END]])
    (found,) = greedy_search(model.predictor(source), 1, 12, bpe.BEGIN, bpe.END)
    labels = np.array([[*found, bpe.END]])
    model.forward(source, shift_right(labels, bpe.BEGIN))
    last = f"decoder.layers.{model.config.layers - 1}.encoder_attn"
    plot_attention(
        model.attention_maps()[last][0],  # (1, nH, T, S) -> (nH, T, S)
        [bpe.tokens[i] for i in labels[0]],
        [bpe.tokens[i] for i in source[0]],
        title="Attention of the decoder to the words",
        path=path,
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    pairs = load_pairs(options.data, options.data_dir)
    bpe = BPE.train(np.concatenate(pairs.train), options.vocabulary)
    sources, targets = encode_pairs(pairs.train, bpe.encode, bpe.END)
    lengths = np.array([len(a) + len(b) for a, b in zip(sources, targets, strict=True)])

    model = Transformer(
        options.network(len(bpe)), np.random.default_rng(options.seed), dtype=np.float32
    )
    optimizer = Adam(model.params, betas=(0.9, 0.98), eps=1e-9)

    with Run(options, __file__, model="transformer") as run:
        run.restore(model.params, optimizer.state)
        for _ in run.epochs():
            for index in run.batches(len(sources), lengths):
                source, labels = pad([sources[i] for i in index]), pad([targets[i] for i in index])
                logits = model.forward(
                    source, shift_right(labels, bpe.BEGIN), train=True, rng=run.rng()
                )
                loss, cache = smoothed_cross_entropy_forward(
                    logits, labels, bpe.PADDING, options.label_smoothing
                )
                grads = model.backward(smoothed_cross_entropy_backward(cache))
                optimizer.lr = options.lr * warmup_rate(run.step + 1, options.width, options.warmup)
                optimizer.step(grads)
                run.log(loss=loss, lr=optimizer.lr)
            run.evaluate(val_exact_match=exact_match(model, bpe, pairs.val))
        run.finish(test_exact_match=exact_match(model, bpe, pairs.test))
        draw_attention(model, bpe, run.folder / "attention.png")


if __name__ == "__main__":
    run_script(main)
