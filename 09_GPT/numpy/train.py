"""Train a GPT of level 1: NumPy, every gradient and the update rule by hand.

    python 09_GPT/numpy/train.py
        the source of Python's standard library, character by character: it learns to write what
        looks like Python. It takes minutes; the README has what was measured.

    python 09_GPT/numpy/train.py --data tiny-shakespeare
        Shakespeare has to be downloaded once:
        python -m utils.data_loaders --download tiny-shakespeare

The model is GPT-2's in small: 4 layers, 4 heads, width 128, a context of 64 characters. A step is
--batch-size windows of the text, at places drawn at random; an epoch is --steps steps, 2,000 steps
in all. The learning rate rises for --warmup steps, then falls like half a cosine to a tenth.

val_loss is the mean over a held-out tenth of the text, cut into windows (of more than 2,000 an even
choice), of -log of the probability of the right character, in nats; val_bits_per_character is the
same in bits. sample.txt in the run folder, shown at the end too, is what the model writes.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/09_GPT-numpy/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from gpt_numpy import GPT, GPTConfig, cosine_rate
from gpt_sampling_numpy import generate
from optimizers_numpy import AdamW
from recurrent_numpy import (
    clip_by_norm,
    sequence_cross_entropy_backward,
    sequence_cross_entropy_forward,
)
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from utils.text_data import PROMPTS, even_starts, load_corpus, windows


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["python-source", "python-docs", "tiny-shakespeare"] = option(
        "python-source", "the text"
    )
    epochs: int = option(5, "times that --steps steps are made and the model is looked at")
    steps: int = option(400, "steps in an epoch", above=0)
    batch_size: int = option(12, "windows in one step")
    context: int = option(64, "characters in a window, and the most that the model can look at")
    lr: float = option(0.003, "largest learning rate")
    warmup: int = option(100, "steps over which the learning rate rises", above=0)
    weight_decay: float = option(0.1, "share of lr by which matrices shrink in a step", least=0)
    beta2: float = option(0.99, "how much of the running square Adam keeps", above=0, below=1)
    clip: float = option(1.0, "largest norm of the gradient", above=0)
    width: int = option(128, "D, width of the model")
    heads: int = option(4, "nH, attention heads")
    layers: int = option(4, "blocks, one above the other")
    dropout: float = option(0.0, "share dropped in training")
    norm: Literal["pre", "post"] = option("pre", "place of the norms: GPT-2's or GPT-1's")
    temperature: float = option(0.8, "of the sample; 0 = always the most probable", least=0)

    def __post_init__(self) -> None:
        self.network(1)  # refuses sizes that make no network

    def network(self, V: int) -> GPTConfig:
        """The model for V characters."""
        sizes = (V, self.context, self.width, self.heads, self.layers)
        return GPTConfig(*sizes, self.dropout, self.norm)


def measure(
    model: GPT, text: np.ndarray, most: int = 2000, batch_size: int = 100
) -> dict[str, float]:
    """val_loss and val_bits_per_character on up to ``most`` windows of a text (N,)."""
    T = model.config.context
    starts, total = even_starts(text, T, most), 0.0
    for i in range(0, len(starts), batch_size):
        x, y = windows(text, starts[i : i + batch_size], T)
        loss, _ = sequence_cross_entropy_forward(model.forward(x), y)
        total += float(loss) * y.size
    nats = total / (len(starts) * T)
    return {"val_loss": nats, "val_bits_per_character": nats / math.log(2)}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    corpus, T = load_corpus(options.data, options.data_dir), options.context
    config = options.network(len(corpus.characters))
    model = GPT(config, np.random.default_rng(options.seed), dtype=np.float32)
    # Weight decay is for the matrices: biases and gains have no reason to be small.
    betas = (0.9, options.beta2)
    matrices = {name: p for name, p in model.params.items() if p.ndim == 2}
    vectors = {name: p for name, p in model.params.items() if p.ndim == 1}
    optimizers = {
        "matrices": AdamW(matrices, betas=betas, weight_decay=options.weight_decay),
        "vectors": AdamW(vectors, betas=betas, weight_decay=0.0),
    }
    state = {f"{k}.{n}": array for k, o in optimizers.items() for n, array in o.state.items()}

    with Run(options, __file__, model="gpt") as run:
        run.restore(model.params, state)
        examples = options.steps * options.batch_size
        total = options.epochs * run.steps_per_epoch(examples)
        for _ in run.epochs():
            for index in run.batches(examples):  # how many; the places are drawn anew each time
                rng = run.rng()
                starts = rng.integers(len(corpus.train) - T, size=len(index))
                x, y = windows(corpus.train, starts, T)
                logits = model.forward(x, train=True, rng=rng)
                loss, cache = sequence_cross_entropy_forward(logits, y)
                grads = model.backward(sequence_cross_entropy_backward(cache))
                norm = clip_by_norm(grads, options.clip)
                lr = options.lr * cosine_rate(run.step, total, options.warmup)
                for optimizer in optimizers.values():
                    optimizer.lr = lr
                    optimizer.step(grads)
                run.log(loss=loss, lr=lr, grad_norm=norm)
            run.evaluate(**measure(model, corpus.test))
        run.finish()

        start = corpus.encode(PROMPTS[options.data])[None]
        rng = np.random.default_rng(options.seed)
        written = corpus.decode(generate(model, start, 500, options.temperature, rng=rng)[0])
        (run.folder / "sample.txt").write_text(written + "\n", encoding="utf-8")
        print(f"--- written by the model:\n{written}")


if __name__ == "__main__":
    run_script(main)
