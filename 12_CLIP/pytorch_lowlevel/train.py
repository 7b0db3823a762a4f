"""Train CLIP at level 2: tensors and autograd, AdamW by hand.

    python 12_CLIP/pytorch_lowlevel/train.py
        Generated images of one or two coloured shapes, with captions. Eight combinations of colour
        and shape never occur in training; at the end they are classified by their names. Four to
        five minutes on one core.

    python 12_CLIP/pytorch_lowlevel/train.py --loss sigmoid
        Every pair on its own, as SigLIP has it.

The image encoder is a Vision Transformer. Files of one's own, ResNets and published weights are at
level 3.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to
runs/12_CLIP-pytorch_lowlevel/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

import utils  # noqa: F401  (puts the other levels on the import path)
from clip_lowlevel import (
    CLIPConfig,
    Params,
    clamp_scale,
    contrastive_loss,
    encode_image,
    encode_text,
    forward,
    init_params,
    sigmoid_loss,
    unit,
)
from clip_tokenizer_numpy import CLIPTokenizer
from clip_training_lowlevel import AdamW, crop, update, warmup_cosine
from utils.caption_data import (
    CLASSES,
    HELD_OUT,
    SHAPE_TEMPLATES,
    Captioned,
    load_captions,
    normalised,
)
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["captions"] = option("captions", "the data set")
    epochs: int = option(40, "passes over the training images")
    batch_size: int = option(64, "images in one step, each with one of its captions")
    lr: float = option(0.001, "largest learning rate; rises at first, then falls along a cosine")
    warmup: int = option(100, "steps over which the learning rate rises", least=0)
    weight_decay: float = option(0.1, "decoupled, not on gains, biases, temperature", least=0)
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 = no clipping", least=0)
    loss: Literal["contrastive", "sigmoid"] = option("contrastive", "CLIP's, or SigLIP's")
    augment: bool = option(True, "crop training images at random")
    vocabulary: int = option(600, "tokens to learn from the training captions", above=513)
    patch_size: int = option(8, "P, side of a patch")
    vision_width: int = option(96, "D of the image encoder")
    vision_layers: int = option(4, "its blocks")
    text_width: int = option(64, "D of the text encoder")
    text_layers: int = option(2, "its blocks")
    embed: int = option(64, "E, width of the common space")

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


@torch.no_grad()
def accuracy(
    params: Params, data: Captioned, tokenizer: CLIPTokenizer, config: CLIPConfig
) -> float:
    """Share of images of held-out combinations that are nearest to their own, of the eight.

    The vector of a class is made of two prompts.
    """
    assert isinstance(data.images, np.ndarray) and data.labels is not None
    device = params["logit_scale"].device
    names = [CLASSES[i] for i in HELD_OUT]
    prompts = [template.replace("{}", name) for name in names for template in SHAPE_TEMPLATES]
    tokens = torch.from_numpy(tokenizer.encode_batch(prompts, config.context)).to(device)
    vectors = encode_text(params, tokens, config).unflatten(0, (len(names), len(SHAPE_TEMPLATES)))
    classes = unit(vectors.mean(dim=1))  # (K, templates, E) -> (K, E)
    parts = torch.from_numpy(normalised(data.images)).split(256)
    nearest = [(encode_image(params, x.to(device), config) @ classes.T).argmax(1) for x in parts]
    found = torch.tensor(HELD_OUT)[torch.cat(nearest).cpu()]
    return (found == torch.from_numpy(data.labels)).float().mean().item()


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    splits = load_captions(options.data, options.data_dir, seed=options.seed)
    texts, owners = splits.train.texts()
    tokenizer = CLIPTokenizer.train(texts, options.vocabulary)
    config = options.network(len(tokenizer))
    tokens = torch.from_numpy(tokenizer.encode_batch(texts, config.context))
    tokens = tokens[:, : int((tokens == tokenizer.END).int().argmax(dim=1).max()) + 1].to(device)
    first = torch.from_numpy(np.searchsorted(owners, np.arange(len(splits.train) + 1)))
    x_train = torch.from_numpy(normalised(splits.train.images)).to(device)
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    if options.loss == "sigmoid":
        params["logit_bias"] = torch.tensor(-10.0, device=device, requires_grad=True)
        params["logit_scale"].data.fill_(float(np.log(10)))
    optimizer = AdamW(params, options.lr, weight_decay=options.weight_decay)

    with Run(options, __file__, model="clip-vit") as run:
        run.restore(params, optimizer.state)
        total = options.epochs * run.steps_per_epoch(len(x_train))
        for _ in run.epochs():
            for numbers in run.batches(len(x_train)):
                index = torch.from_numpy(numbers)
                generator = run.torch_generator()
                # One of the captions of each image, at random.
                count = first[index + 1] - first[index]
                chosen = first[index] + (torch.rand(len(index), generator=generator) * count).long()
                x = x_train[index.to(device)]
                if options.augment:
                    x = crop(x, generator)
                outputs = forward(params, x, tokens[chosen.to(device)], config)
                if options.loss == "sigmoid":
                    loss = sigmoid_loss(*outputs, params["logit_bias"])
                else:
                    loss = contrastive_loss(*outputs)
                optimizer.lr = options.lr * warmup_cosine(run.step, total, options.warmup)
                loss = update(optimizer, loss, options.clip_norm)
                clamp_scale(params)
                run.log(loss=loss, lr=optimizer.lr)
            scale = params["logit_scale"].detach().exp()
            run.evaluate(
                test_accuracy=accuracy(params, splits.test, tokenizer, config), scale=scale
            )
        run.finish()


if __name__ == "__main__":
    run_script(main)
