"""Train a GPT of level 3, and let it write.

    python 09_GPT/paper/train.py
        the source of Python's standard library, character by character: it learns to write what
        looks like Python. It takes minutes; the README has what was measured.

    python 09_GPT/paper/train.py --vocabulary 1000
        the same with tokens of the byte-level encoding that numpy/byte_bpe_numpy.py learns from the
        training text; bpe.json in the run folder has its merges.

    python 09_GPT/paper/train.py --data tiny-shakespeare
        Shakespeare has to be downloaded once:
        python -m utils.data_loaders --download tiny-shakespeare

The model is GPT-2's in small: 4 layers, 4 heads, width 128, a context of 64 characters. A step is
--batch-size windows of the text, at places drawn at random; an epoch is --steps steps, 2,000 steps
in all. The learning rate rises for --warmup steps, then falls like half a cosine to a tenth.

val_loss is the mean over a held-out tenth of the text, cut into windows (of more than 2,000 an even
choice), of -log of the probability of the right token, in nats; val_bits_per_character is the same
in bits for each character, which two encodings share. sample.txt in the run folder, shown at the
end too, is what the model writes after --prompt.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/09_GPT-paper/.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import utils  # noqa: F401  (puts the other levels on the import path)
from byte_bpe_numpy import ByteBPE
from gpt_paper import GPT, GPTConfig, next_token_loss, paper_optimizer
from gpt_sampling_paper import generate
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.text_data import PROMPTS, even_starts, load_corpus, windows
from utils.training_utils import cosine, fit, set_seed


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["python-source", "python-docs", "tiny-shakespeare"] = option(
        "python-source", "the text"
    )
    epochs: int = option(5, "times that --steps steps are made and the model is looked at")
    steps: int = option(400, "steps in an epoch", above=0)
    batch_size: int = option(12, "windows in one step")
    context: int = option(64, "tokens in a window, and the most that the model can look at")
    vocabulary: int = option(0, "tokens of a byte-level encoding; 0 = characters", least=0)
    lr: float = option(0.003, "largest learning rate")
    warmup: int = option(100, "steps over which the learning rate rises", above=0)
    weight_decay: float = option(0.1, "share of lr by which matrices shrink in a step", least=0)
    beta2: float = option(0.99, "how much of the running square Adam keeps", above=0, below=1)
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 = no clipping")
    width: int = option(128, "D, width of the model")
    heads: int = option(4, "nH, attention heads")
    layers: int = option(4, "blocks, one above the other")
    dropout: float = option(0.0, "share dropped in training")
    norm: Literal["pre", "post"] = option("pre", "place of the norms: GPT-2's or GPT-1's")
    temperature: float = option(0.8, "of the sample; 0 = always the most probable token", least=0)
    top_k: int = option(0, "draw from so many most probable tokens; 0 = from all", least=0)
    top_p: float = option(
        1.0, "draw from the fewest tokens with this share; 1 = from all", above=0, most=1
    )
    prompt: str = option("", "what the sample goes on from; empty = one that fits the data")

    def __post_init__(self) -> None:
        self.network(1)  # refuses sizes that make no network
        if 0 < self.vocabulary < 257:
            raise ValueError(f"expected a vocabulary of 0 or at least 257, got {self.vocabulary}")

    def network(self, V: int) -> GPTConfig:
        """The model for V tokens."""
        sizes = (V, self.context, self.width, self.heads, self.layers)
        return GPTConfig(*sizes, self.dropout, self.norm)


@dataclass(frozen=True)
class Text:
    """A corpus as tokens: (N,) each, how many there are, and the ways there and back."""

    train: np.ndarray
    val: np.ndarray
    vocabulary: int
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Any], str]
    bpe: ByteBPE | None = None


def load_text(options: Options) -> Text:
    """The corpus that the options name; its characters, or tokens learnt from its first part."""
    corpus = load_corpus(options.data, options.data_dir)
    if not options.vocabulary:
        size = len(corpus.characters)
        return Text(corpus.train, corpus.test, size, corpus.encode, corpus.decode)
    train = corpus.decode(corpus.train)
    bpe = ByteBPE.train([train], options.vocabulary)
    parts = (np.array(bpe.encode(text)) for text in (train, corpus.decode(corpus.test)))
    return Text(*parts, len(bpe), bpe.encode, bpe.decode, bpe)


class RandomWindows:
    """Windows at places drawn anew for each batch; fit seeds the draw by the step."""

    def __init__(self, text: np.ndarray, T: int, length: int) -> None:
        if len(text) <= T:
            raise ValueError(f"expected a text of more than {T} tokens, got {len(text)}")
        self.text, self.T, self.length = torch.from_numpy(text), T, length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(x, y) for each index; its value means nothing."""
        starts = torch.randint(len(self.text) - self.T, (len(indices),)).tolist()
        return [(self.text[at : at + self.T], self.text[at + 1 : at + 1 + self.T]) for at in starts]


def loss_function(model: torch.nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """The mean over a batch of windows (x, y), both (B, T)."""
    x, y = batch
    return next_token_loss(model(x), y)


@torch.no_grad()
def measure(
    model: GPT, text: Text, device: torch.device, most: int = 2000, batch_size: int = 100
) -> dict[str, float]:
    """val_loss and val_bits_per_character on up to ``most`` windows of the held-out text."""
    T = model.config.context
    starts, total, characters = even_starts(text.val, T, most), 0.0, 0
    for i in range(0, len(starts), batch_size):
        x, y = windows(text.val, starts[i : i + batch_size], T)
        logits = model(torch.from_numpy(x).to(device))
        total += next_token_loss(logits, torch.from_numpy(y).to(device)).item() * y.size
        characters += y.size if text.bpe is None else sum(len(text.decode(row)) for row in y)
    nats = total / (len(starts) * T)
    return {"val_loss": nats, "val_bits_per_character": total / characters / math.log(2)}


def write_sample(model: GPT, text: Text, options: Options, folder: Path, count: int = 500) -> None:
    """Let the model go on after the prompt; show it, and keep it as sample.txt."""
    prompt = options.prompt or PROMPTS[options.data]
    device = next(model.parameters()).device
    start = torch.from_numpy(np.array(text.encode(prompt)))[None].to(device)
    generator = torch.Generator().manual_seed(options.seed)
    how = (options.temperature, options.top_k, options.top_p, generator)
    written = text.decode(generate(model, start, count, *how)[0].tolist())
    (folder / "sample.txt").write_text(written + "\n", encoding="utf-8")
    print(f"--- written by the model:\n{written}")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    text = load_text(options)
    try:
        text.encode(options.prompt)  # better now than after the training
    except ValueError as error:
        sys.exit(f"error: --prompt: {error}")
    set_seed(options.seed)
    model = GPT(options.network(text.vocabulary))
    train_set = RandomWindows(text.train, options.context, options.steps * options.batch_size)
    betas = (0.9, options.beta2)
    optimizer = paper_optimizer(model, options.lr, options.weight_decay, betas)

    with Run(options, __file__, model="gpt-bpe" if options.vocabulary else "gpt") as run:
        if text.bpe is not None and run.is_main:
            (run.folder / "bpe.json").write_text(json.dumps({"merges": text.bpe.merges}) + "\n")
        fit(
            model,
            loss_function,
            train_set,
            options,
            run,
            optimizer,
            cosine(options.epochs * run.steps_per_epoch(len(train_set)), options.warmup, 0.1),
            lambda model, device: measure(model, text, device),
        )
        run.finish()
        if run.is_main:
            write_sample(model, text, options, run.folder)


if __name__ == "__main__":
    run_script(main)
