"""Train a GPT of level 2: tensors and autograd, attention and update rule by hand.

    python 09_GPT/pytorch_lowlevel/train.py
        the source of Python's standard library, character by character: it learns to write what
        looks like Python. It takes minutes; the README has what was measured.

    python 09_GPT/pytorch_lowlevel/train.py --data tiny-shakespeare
        Shakespeare has to be downloaded once:
        python -m utils.data_loaders --download tiny-shakespeare

The model is GPT-2's in small: 4 layers, 4 heads, width 128, a context of 64 characters. A step is
--batch-size windows of the text, at places drawn at random; an epoch is --steps steps, 2,000 steps
in all. The learning rate rises for --warmup steps, then falls like half a cosine to a tenth.

val_loss is the mean over a held-out tenth of the text, cut into windows (of more than 2,000 an even
choice), of -log of the probability of the right character, in nats; val_bits_per_character is the
same in bits. sample.txt in the run folder, shown at the end too, is what the model writes.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/09_GPT-pytorch_lowlevel/.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

import utils  # noqa: F401  (puts the other levels on the import path)
from gpt_lowlevel import GPTConfig, Params, forward, init_params
from gpt_sampling_lowlevel import generate
from gpt_training_lowlevel import AdamW, cosine_rate, next_token_loss, update
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.text_data import PROMPTS, even_starts, load_corpus, windows
from utils.training_utils import pick_device


@dataclass(frozen=True)
class Options(TorchOptions):
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


@torch.no_grad()
def measure(
    params: Params, config: GPTConfig, text: np.ndarray, most: int = 2000, batch_size: int = 100
) -> dict[str, float]:
    """val_loss and val_bits_per_character on up to ``most`` windows of a text (N,)."""
    T, device = config.context, params["wte.weight"].device
    starts, total = even_starts(text, T, most), 0.0
    for i in range(0, len(starts), batch_size):
        x, y = (
            torch.from_numpy(part).to(device)
            for part in windows(text, starts[i : i + batch_size], T)
        )
        total += next_token_loss(forward(params, x, config), y).item() * y.numel()
    nats = total / (len(starts) * T)
    return {"val_loss": nats, "val_bits_per_character": nats / math.log(2)}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    corpus, T = load_corpus(options.data, options.data_dir), options.context
    config = options.network(len(corpus.characters))
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    optimizer = AdamW(params, options.lr, options.weight_decay, (0.9, options.beta2))

    with Run(options, __file__, model="gpt") as run:
        run.restore(params, optimizer.state)
        examples = options.steps * options.batch_size
        total = options.epochs * run.steps_per_epoch(examples)
        for _ in run.epochs():
            for index in run.batches(examples):  # how many; the places are drawn anew each time
                generator = run.torch_generator()
                starts = torch.randint(
                    len(corpus.train) - T, (len(index),), generator=generator
                ).numpy()
                x, y = (
                    torch.from_numpy(part).to(device) for part in windows(corpus.train, starts, T)
                )
                loss = next_token_loss(forward(params, x, config, generator), y)
                optimizer.lr = options.lr * cosine_rate(run.step, total, options.warmup)
                loss, norm = update(optimizer, loss, options.clip)
                run.log(loss=loss, lr=optimizer.lr, grad_norm=norm)
            run.evaluate(**measure(params, config, corpus.test))
        run.finish()

        start = torch.from_numpy(corpus.encode(PROMPTS[options.data]))[None].to(device)
        generator = torch.Generator().manual_seed(options.seed)
        logits_of = partial(forward, params, config=config)
        written = generate(logits_of, start, 500, T, options.temperature, generator=generator)
        text = corpus.decode(written[0].tolist())
        (run.folder / "sample.txt").write_text(text + "\n", encoding="utf-8")
        print(f"--- written by the model:\n{text}")


if __name__ == "__main__":
    run_script(main)
