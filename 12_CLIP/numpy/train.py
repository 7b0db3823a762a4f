"""Train CLIP at level 1: NumPy, every gradient by hand.

    python 12_CLIP/numpy/train.py
        6,000 generated images of one or two coloured shapes, with captions. Eight combinations of
        colour and shape never occur in training; after each epoch they are classified by their
        names. Three to five minutes on one core.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/12_CLIP-numpy/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from clip_layers_numpy import contrastive_loss_backward, contrastive_loss_forward
from clip_numpy import CLIP, CLIPConfig, class_vectors
from clip_tokenizer_numpy import CLIPTokenizer
from optimizers_numpy import AdamW
from utils.caption_data import (
    CLASSES,
    HELD_OUT,
    SHAPE_TEMPLATES,
    Captioned,
    load_captions,
    normalised,
)
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from vit_numpy import clip_gradients, warmup_cosine


@dataclass(frozen=True)
class Options(RunOptions):
    data: Literal["captions"] = option("captions", "the data set")
    epochs: int = option(40, "passes over the training images")
    batch_size: int = option(64, "images in one step, each with one of its captions")
    lr: float = option(0.001, "largest learning rate; rises at first, then falls along a cosine")
    warmup: int = option(100, "steps over which the learning rate rises", least=0)
    weight_decay: float = option(0.1, "decoupled, not on gains, biases, temperature", least=0)
    clip_norm: float = option(1.0, "largest norm of the gradient", above=0)
    vocabulary: int = option(600, "tokens to learn from the training captions", above=513)
    patch_size: int = option(8, "P, side of a patch")
    vision_width: int = option(64, "D of the image encoder")
    vision_layers: int = option(3, "its blocks")
    text_width: int = option(48, "D of the text encoder")
    text_layers: int = option(2, "its blocks")
    embed: int = option(48, "E, width of the common space")

    def __post_init__(self) -> None:
        self.network(self.vocabulary)  # refuses sizes that make no network, before any data

    def network(self, vocabulary: int) -> CLIPConfig:
        """Sizes for so many tokens."""
        return CLIPConfig(
            embed=self.embed,
            patch_size=self.patch_size,
            vision_width=self.vision_width,
            vision_layers=self.vision_layers,
            vocabulary=vocabulary,
            text_width=self.text_width,
            text_layers=self.text_layers,
        )


def accuracy(model: CLIP, data: Captioned, tokenizer: CLIPTokenizer) -> float:
    """Share of images of held-out combinations that are nearest to their own, of the eight.

    The vector of a class is made of two prompts.
    """
    assert isinstance(data.images, np.ndarray) and data.labels is not None

    def encode(texts: list[str]) -> np.ndarray:
        return model.encode_text(tokenizer.encode_batch(texts, model.config.context))

    names = [CLASSES[i] for i in HELD_OUT]
    classes = class_vectors(encode, names, SHAPE_TEMPLATES)  # (K, E)
    x = normalised(data.images)
    nearest = [
        (model.encode_image(x[i : i + 200]) @ classes.T).argmax(axis=1)
        for i in range(0, len(x), 200)
    ]
    return float((np.array(HELD_OUT)[np.concatenate(nearest)] == data.labels).mean())


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    splits = load_captions(options.data, options.data_dir, seed=options.seed)
    texts, owners = splits.train.texts()
    tokenizer = CLIPTokenizer.train(texts, options.vocabulary)
    config = options.network(len(tokenizer))
    tokens = tokenizer.encode_batch(texts, config.context)
    tokens = tokens[:, : (tokens == tokenizer.END).argmax(axis=1).max() + 1]
    first = np.searchsorted(owners, np.arange(len(splits.train) + 1))
    x_train = normalised(splits.train.images)

    model = CLIP(config, np.random.default_rng(options.seed), np.float32)
    # No decay on gains, biases, the class token and the scale.
    decayed = {n: p for n, p in model.params.items() if p.ndim >= 2}
    plain = {n: p for n, p in model.params.items() if p.ndim < 2}
    betas, eps = (0.9, 0.98), 1e-6
    optimizers = [
        AdamW(decayed, options.lr, betas, eps, options.weight_decay),
        AdamW(plain, options.lr, betas, eps, 0.0),
    ]
    state = {
        f"{i}.{name}": value
        for i, optimizer in enumerate(optimizers)
        for name, value in optimizer.state.items()
    }

    with Run(options, __file__, model="clip-vit") as run:
        run.restore(model.params, state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for index in run.batches(len(x_train)):
                # One of the captions of each image, at random.
                chosen = run.rng().integers(first[index], first[index + 1])
                outputs = model.forward(x_train[index], tokens[chosen])
                loss, cache = contrastive_loss_forward(*outputs)
                grads = model.backward(contrastive_loss_backward(cache))
                norm = clip_gradients(grads, options.clip_norm)
                for optimizer in optimizers:
                    optimizer.lr = options.lr * warmup_cosine(run.step, total, options.warmup)
                    optimizer.step(grads)
                model.clamp_scale()
                run.log(loss=loss, lr=optimizer.lr, grad_norm=norm)
            scale = np.exp(model.params["logit_scale"])
            run.evaluate(test_accuracy=accuracy(model, splits.test, tokenizer), scale=scale)
        run.finish()


if __name__ == "__main__":
    run_script(main)
