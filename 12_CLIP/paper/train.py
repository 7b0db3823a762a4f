r"""Train CLIP on images with captions: generated, Flickr8k's, or your own (level 3).

    python 12_CLIP/paper/train.py
        Generated images of one or two coloured shapes ("a small red circle left of a blue
        square"). Eight combinations of colour and shape never occur in training; after each epoch
        they are classified by their names. Five minutes on one core.

    python 12_CLIP/paper/train.py --encoder vit
        A Vision Transformer in place of the modified ResNet.

Your own: a CSV file with the columns image_path and caption, one row for each caption, and the
folder that the paths start from. A column split (train, val, test) divides the images; without
one, a tenth of them becomes the validation set, unless --val-csv has it.

    python 12_CLIP/paper/train.py --data csv --csv mine.csv --image-root my_images

Flickr8k, in the folder flickr8k below --data-dir (images/ and captions.csv, or its own files), 42
minutes on one core:

    python 12_CLIP/paper/train.py --data flickr8k --image-size 64 --vision-width 32 \
        --text-width 128 --embed 128 --context 32 --epochs 40

Fine-tuning, from a run of this script, a folder of transformers' CLIPModel, or a published name;
sizes and vocabulary are then the checkpoint's:

    python 12_CLIP/paper/train.py --data csv --csv mine.csv --image-root my_images \
        --pretrained ViT-B/32 --lr 0.00001 --epochs 3

Several processes work on one batch, each on its share, with all the others' pairs as negatives:

    torchrun --nproc-per-node 2 12_CLIP/paper/train.py --device cpu

zero_shot.py and evaluate.py, beside this file, take the run folder as --model. Ctrl-C saves;
--resume RUN_FOLDER goes on. Everything is written to runs/12_CLIP-paper/.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ftfy
import numpy as np
import torch

import utils  # noqa: F401  (puts the chapters on the import path)
from clip_loss_paper import contrastive_loss, paper_optimizer, sigmoid_loss
from clip_paper import CLIP, CLIPConfig
from clip_tokenizer_numpy import CLIPTokenizer
from evaluate import retrieval, zero_shot_accuracy
from utils.caption_data import (
    HELD_OUT,
    SHAPE_TEMPLATES,
    BadCaptions,
    CaptionDataset,
    Captioned,
    CaptionSplits,
    load_captions,
    read_csv,
)
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import cosine, fit, set_seed
from zero_shot import build, load_model, load_tokenizer

# With --pretrained these are the checkpoint's.
SIZES = ("vocabulary", "encoder", "image_size", "patch_size", "context", "embed")
SIZES += ("vision_width", "vision_layers", "vision_heads")
SIZES += ("text_width", "text_layers", "text_heads")


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["captions", "flickr8k", "csv"] = option("captions", "the data set")
    csv: Path | None = option(None, "with --data csv: the file with image_path,caption")
    val_csv: Path | None = option(None, "with --data csv: another one, for validation")
    image_root: Path | None = option(None, "where image_path starts; else the folder of the file")
    skip_bad: bool = option(False, "leave out rows that can't be used, and count them")
    epochs: int = option(40, "passes over the training images")
    batch_size: int = option(64, "images in one step, each with one of its captions")
    lr: float = option(0.001, "largest learning rate; rises at first, then falls along a cosine")
    warmup: int = option(100, "steps over which the learning rate rises", least=0)
    weight_decay: float = option(0.1, "decoupled, not on gains, biases, temperature", least=0)
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 = no clipping", least=0)
    max_scale: float = option(100.0, "largest factor of the cosines", above=0)
    loss: Literal["contrastive", "sigmoid"] = option("contrastive", "CLIP's, or SigLIP's")
    augment: bool = option(True, "crop training images at random")
    pretrained: str = option("", "start from this run, folder or published model")
    tokenizer: Path | None = option(None, "vocabulary to use instead of learning one")
    vocabulary: int = option(4096, "tokens to learn from the training captions", above=513)
    encoder: Literal["vit", "resnet"] = option("resnet", "the image encoder")
    image_size: int = option(32, "side of the images")
    patch_size: int = option(8, "P of a ViT")
    vision_width: int = option(0, "D of a ViT, channels of a ResNet; 0 = 96 or 16", least=0)
    vision_layers: tuple[int, ...] = option((), "blocks: one number, or a ResNet's four")
    vision_heads: int = option(4, "nH of the ViT, or of the attention pooling")
    context: int = option(24, "tokens of a text at most", above=1)
    text_width: int = option(64, "D of the text encoder")
    text_layers: int = option(2, "its blocks")
    text_heads: int = option(4, "its heads")
    embed: int = option(64, "E, width of the common space")

    def __post_init__(self) -> None:
        if (self.data == "csv") != (self.csv is not None):
            raise ValueError("expected --csv FILE with --data csv, and only with it")
        if self.data != "csv" and (self.val_csv or self.image_root or self.skip_bad):
            raise ValueError("expected --val-csv, --image-root, --skip-bad only with --data csv")
        if self.pretrained:
            sizes = {f.name: f.default for f in dataclasses.fields(self) if f.name in SIZES}
            given = [name for name, default in sizes.items() if getattr(self, name) != default]
            if given:
                names = ", ".join("--" + name.replace("_", "-") for name in given)
                raise ValueError(f"expected sizes of the checkpoint with --pretrained, got {names}")
        if self.grad_accumulation != 1:
            raise ValueError(
                "expected --grad-accumulation 1: pairs in different parts of a batch can't be "
                "each other's negatives; more processes can"
            )
        self.network(self.vocabulary)  # refuses sizes that make no network, before any data

    def network(self, vocabulary: int) -> CLIPConfig:
        """Sizes for so many tokens."""
        vit = self.encoder == "vit"
        layers = self.vision_layers or ((4,) if vit else (1, 1, 1, 1))
        return CLIPConfig(
            embed=self.embed,
            image_size=self.image_size,
            patch_size=self.patch_size if vit else 0,
            vision_width=self.vision_width or (96 if vit else 16),
            vision_layers=layers[0] if vit and len(layers) == 1 else layers,
            vision_heads=self.vision_heads,
            context=self.context,
            vocabulary=vocabulary,
            text_width=self.text_width,
            text_layers=self.text_layers,
            text_heads=self.text_heads,
            logit_bias=self.loss == "sigmoid",
        )


def load(options: Options) -> CaptionSplits:
    """Training, validation and test set; of a file without a test set, that for validation."""
    if options.csv is None:
        return load_captions(options.data, options.data_dir, seed=options.seed)

    talks = os.environ.get("RANK", "0") == "0"  # of several processes, one

    def read(file: Path) -> dict[str, Captioned]:
        parts, skipped = read_csv(file, options.image_root, options.skip_bad)
        for line in skipped if talks else []:
            print(f"left out: {line}")
        if skipped and talks:
            print(f"left out {len(skipped)} rows of {file}")
        return parts

    parts = read(options.csv)
    if "" in parts and len(parts) > 1:
        raise BadCaptions(
            f"{options.csv}: expected a split in every row or in none; {len(parts[''])} images "
            "have an empty one"
        )
    if "" in parts:
        whole = parts.pop("")
        if options.val_csv is not None:
            parts["train"] = whole
        else:
            order = np.random.default_rng(0).permutation(len(whole))
            held = max(1, len(whole) // 10)
            # Of a single image, training and validation are the same one.
            parts["train"] = whole.part(np.sort(order[held:])) if len(whole) > 1 else whole
            parts["val"] = whole.part(np.sort(order[:held]))
    if options.val_csv is not None:
        other = read(options.val_csv)
        parts["val"] = other.get("", other.get("val", next(iter(other.values()))))
    if "train" not in parts or not {"val", "test"} & set(parts):
        raise BadCaptions(f"{options.csv}: expected the splits train and val, got {[*parts]}")
    val = parts.get("val") or parts["test"]
    both = {*parts["train"].images} & {*val.images}
    if both and options.val_csv is None and len(parts["train"]) > 1:
        raise BadCaptions(f"{options.csv}: {min(both)} is there to train and to validate")
    if talks:
        texts = len(parts["train"].texts()[0])
        print(f"{len(parts['train'])} images with {texts} captions; {len(val)} to validate")
    return CaptionSplits(parts["train"], val, parts.get("test") or val)


def start(options: Options, texts: list[str]) -> tuple[CLIP, CLIPTokenizer]:
    """Model and tokenizer: a checkpoint's, or fresh ones.

    Raises:
        CheckpointError: no such checkpoint or vocabulary.
    """
    if options.pretrained:
        model, tokenizer = load_model(options.pretrained, options.tokenizer)
        if model.config.logit_bias and options.loss == "contrastive":
            model.logit_bias.requires_grad_(False)  # a bias of all logits cancels in a softmax
        if options.loss == "sigmoid" and not model.config.logit_bias:
            fresh = build(**(vars(model.config) | {"logit_bias": True}))
            learnt = model.state_dict()
            del learnt["logit_scale"]  # at its old value most pairs would seem to belong together
            fresh.load_state_dict(learnt, strict=False)
            model = fresh
        return model, tokenizer
    if options.tokenizer is not None:
        tokenizer = load_tokenizer(options.tokenizer)
    else:
        tokenizer = CLIPTokenizer.train(texts, options.vocabulary, repair=ftfy.fix_text)
    return build(**vars(options.network(len(tokenizer)))), tokenizer


def make_loss(
    options: Options, tokenizer: CLIPTokenizer
) -> Callable[[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """The loss of a batch (images, tokens)."""

    def loss_of_batch(
        model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        images, tokens = batch
        # What stands behind the longest text changes nothing, and takes time.
        longest = int((tokens == tokenizer.END).int().argmax(dim=1).max()) + 1
        image, text, scale, *bias = model(images, tokens[:, :longest])
        if options.loss == "sigmoid":
            return sigmoid_loss(image, text, scale, *bias)
        return contrastive_loss(image, text, scale)

    return loss_of_batch


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    splits = load(options)
    set_seed(options.seed)
    model, tokenizer = start(options, splits.train.texts()[0])
    side, generated = model.config.image_size, options.data == "captions"

    def encode(texts: list[str]) -> np.ndarray:
        return tokenizer.encode_batch(texts, model.config.context)

    train_set = CaptionDataset(splits.train, encode, side, options.augment)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    rest = min(len(train_set), options.limit or len(train_set)) % options.batch_size
    if 0 < rest < processes:  # one of them would have no pair, and add one twice
        raise BadCaptions(
            f"the last batch has {rest} pairs for {processes} processes; choose another size"
        )

    def measure(model: torch.nn.Module, data: Captioned, name: str) -> dict[str, float]:
        found = retrieval(model, tokenizer, data, same_text=generated)  # type: ignore[arg-type]
        return {f"{name}_{metric}": value for metric, value in found.items()}

    def evaluate(model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        metrics = measure(model, splits.val, "val")
        if generated:
            # Among the eight held-out names, and among all forty.
            case = (model, tokenizer, splits.test, SHAPE_TEMPLATES)
            metrics["test_accuracy"] = zero_shot_accuracy(*case, among=HELD_OUT)  # type: ignore[arg-type]
            metrics["among_all_accuracy"] = zero_shot_accuracy(*case)  # type: ignore[arg-type]
        return metrics | {"scale": model.logit_scale.exp().item()}  # type: ignore[operator]

    kind = "vit" if model.config.patch_size else "resnet"
    with Run(options, __file__, model=f"clip-{kind}") as run:
        if run.is_main:  # what zero_shot.py and evaluate.py need beside the weights
            sizes = dataclasses.asdict(model.config)
            (run.folder / "clip.json").write_text(json.dumps(sizes, indent=1) + "\n")
            (run.folder / "merges.txt").write_text(tokenizer.published_merges(), encoding="utf-8")
        total = options.epochs * run.steps_per_epoch(len(train_set))
        fit(
            model,
            make_loss(options, tokenizer),
            train_set,  # type: ignore[arg-type]
            options,
            run,
            paper_optimizer(model, options.lr, options.weight_decay),
            cosine(total, options.warmup),
            evaluate,
            after_step=lambda model: model.clamp_scale(options.max_scale),  # type: ignore[operator]
        )
        run.finish(**({} if generated else measure(model, splits.test, "test")))


if __name__ == "__main__":
    run_script(main)
