"""Fine-tune a BERT to tell good film reviews from bad ones, with or without pre-training.

    python 08_BERT/paper/train_finetune.py --pretrained RUN_FOLDER
        template reviews, whose opinion hangs on a negation; it begins with the weights of a run of
        train.py. With --fresh after it, the vocabulary and the sizes of that run, and new weights:
        the fair comparison. Without --pretrained everything is new, the vocabulary too.

    python 08_BERT/paper/train_finetune.py --data imdb --longest 128 --limit 2000 --epochs 5 \\
        --pretrained RUN_FOLDER
        IMDB. It has to be downloaded once: python -m utils.data_loaders --download imdb

--pretrained also takes the name of a published BERT, such as google-bert/bert-base-uncased, or a
folder that transformers' save_pretrained wrote.

The classifier is one linear layer on the pooled vector of [CLS]; all weights are trained. A review
that is too long keeps its end, where it says what it thinks; --longest cannot be more than the
positions of a pre-trained model.

test_accuracy is the share of the test reviews that are told right; guessing has 1/2. What was
measured with and without pre-training is in the README. The model in summary.json is called
bert-pretrained, bert-fresh or bert-scratch.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/08_BERT-paper/.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

import utils  # noqa: F401  (puts the other levels on the import path)
from bert_paper import BertConfig, BertModel, from_pretrained
from heads_paper import BertForSequenceClassification
from pretraining_paper import linear_decay, paper_optimizer
from utils.data_loaders import load_arrays
from utils.document_data import PackedTexts
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import fit, set_seed
from utils.weights import load_weights, to_torch
from wordpiece_numpy import WordPiece


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["reviews", "imdb"] = option("reviews", "the data set")
    pretrained: str = option("", "run folder of train.py, or name or folder of a published BERT")
    fresh: bool = option(False, "of --pretrained, take vocabulary and sizes, but not the weights")
    epochs: int = option(30, "passes over the training data")
    batch_size: int = option(32, "reviews in one step")
    lr: float = option(3e-4, "highest learning rate; it rises at first and falls to 0 at the end")
    warmup: float = option(0.1, "share of the steps in which the learning rate rises", least=0)
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 = no clipping")
    longest: int = option(64, "tokens of a review, special ones included", least=8)
    vocabulary: int = option(2000, "tokens at most, without --pretrained", least=300)
    width: int = option(128, "D, width of the model, without --pretrained")
    heads: int = option(4, "nH, attention heads, without --pretrained")
    hidden: int = option(512, "F, width inside the layers, without --pretrained")
    layers: int = option(2, "layers, without --pretrained")
    dropout: float = option(0.1, "share dropped, without --pretrained")

    def __post_init__(self) -> None:
        self.network(self.vocabulary)  # refuses sizes that make no network
        if self.fresh and not self.pretrained:
            raise ValueError("--fresh: expected --pretrained beside it, got none")

    def network(self, V: int) -> BertConfig:
        """The model for V tokens, without --pretrained."""
        sizes = (V, self.width, self.heads, self.hidden, self.layers, self.longest)
        return BertConfig(*sizes, dropout=self.dropout, attention_dropout=self.dropout)


def load_start(options: Options, texts: Sequence[str]) -> tuple[BertModel, WordPiece]:
    """The encoder to begin with, and its tokenizer."""
    folder = Path(options.pretrained)
    if not options.pretrained:
        tokenizer = WordPiece.train(texts, options.vocabulary)
        return BertModel(options.network(len(tokenizer))), tokenizer
    if (folder / "bert.json").is_file():
        tokens = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        bert = BertModel(BertConfig(**json.loads((folder / "bert.json").read_text())))
        weights = load_weights(folder / "model.safetensors")
        own = {n.removeprefix("bert."): w for n, w in weights.items() if n.startswith("bert.")}
        bert.load_state_dict(to_torch(own))
        tokenizer = WordPiece(tokens)
    else:
        bert, vocabulary = from_pretrained(options.pretrained)
        if vocabulary is None:
            raise ValueError(f"expected a vocabulary in {options.pretrained}, got none")
        tokenizer = WordPiece(**vocabulary)
    return BertModel(bert.config) if options.fresh else bert, tokenizer


def encode(texts: Sequence[str], labels: np.ndarray, tokenizer: WordPiece, T: int) -> PackedTexts:
    """The texts packed into T tokens at most; of a longer one the end."""
    plain = (text.replace("<br />", " ") for text in texts)
    rows = [tokenizer.pack(tokenizer.encode(text)[-(T - 2) :]) for text in plain]
    return PackedTexts(rows, labels, tokenizer.pad_id)


@torch.no_grad()
def accuracy(
    model: BertForSequenceClassification, texts: PackedTexts, pad_id: int, device: torch.device
) -> float:
    """Share of the texts whose label has the larger logit; like lengths go together."""
    order, right = texts.lengths.argsort(), 0
    for start in range(0, len(order), 100):
        tokens, segments, labels = (
            t.to(device) for t in texts.__getitems__(order[start : start + 100])
        )
        logits = model(tokens, segments, tokens != pad_id)
        right += int((logits.argmax(dim=1) == labels).sum())
    return right / len(order)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    data = load_arrays(options.data, options.data_dir)
    set_seed(options.seed)
    try:
        bert, tokenizer = load_start(options, data.x_train)
    except OSError as error:  # neither a run folder nor a model
        sys.exit(f"error: --pretrained: {error}")
    set_seed(options.seed)  # the head and dropout are the same, whatever the encoder drew
    model = BertForSequenceClassification(bert, len(data.classes))
    T = min(options.longest, bert.config.longest)
    # The reviews of IMDB come sorted by label: --limit should not see one kind alone.
    order = np.random.default_rng(0).permutation(len(data.x_train))
    train_set = encode(data.x_train[order], data.y_train[order], tokenizer, T)
    test_set = encode(data.x_test, data.y_test, tokenizer, T)

    def loss_of_batch(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        tokens, segments, labels = batch
        return F.cross_entropy(model(tokens, segments, tokens != tokenizer.pad_id), labels)

    kind = "scratch" if not options.pretrained else "fresh" if options.fresh else "pretrained"
    with Run(options, __file__, model=f"bert-{kind}") as run:
        n = min(len(train_set), options.limit or len(train_set))
        total = options.epochs * run.steps_per_epoch(n)
        fit(
            model,
            loss_of_batch,
            train_set,
            options,
            run,
            paper_optimizer(model, options.lr),
            linear_decay(total, round(options.warmup * total)),
            lambda model, device: {
                "test_accuracy": accuracy(model, test_set, tokenizer.pad_id, device)
            },
        )
        run.finish()


if __name__ == "__main__":
    run_script(main)
