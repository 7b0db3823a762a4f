"""Pre-train the BERT of level 2: tensors and autograd, attention and update rule by hand.

    python 08_BERT/pytorch_lowlevel/train.py
        the documentation of Python's standard library: guess masked tokens, and whether the second
        segment follows the first.

test_mlm_loss and test_mlm_accuracy are of masked tokens of text that was not trained on,
test_nsp_accuracy of pairs of it; guessing has ln V, 1/V and 1/2. vocab.txt in the run folder is the
WordPiece vocabulary, which is learnt from the training text. What was measured is in the README.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/08_BERT-pytorch_lowlevel/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

import utils  # noqa: F401  (puts the other levels on the import path)
from bert_lowlevel import BertConfig, Params, forward, init_params
from masking_numpy import IGNORED, mask_tokens, pack_pairs
from pretraining_lowlevel import AdamW, linear_decay, masked_cross_entropy, update
from utils.document_data import PackedTexts, load_documents
from utils.options import TorchOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import pick_device
from wordpiece_numpy import WordPiece


@dataclass(frozen=True)
class Options(TorchOptions):
    data: Literal["python-docs"] = option("python-docs", "the text")
    epochs: int = option(6, "passes over the training pairs")
    batch_size: int = option(32, "pairs in one step")
    lr: float = option(2e-3, "highest learning rate; it rises at first and falls to 0 at the end")
    warmup: float = option(0.1, "share of the steps in which the learning rate rises", least=0)
    vocabulary: int = option(1000, "tokens at most", least=300)
    longest: int = option(32, "tokens of a pair, special ones included", least=8)
    width: int = option(64, "D, width of the model")
    heads: int = option(4, "nH, attention heads")
    hidden: int = option(128, "F, width inside the layers")
    layers: int = option(2, "layers")
    dropout: float = option(0.0, "share dropped, of attention weights too")

    def __post_init__(self) -> None:
        self.network(self.vocabulary)  # refuses sizes that make no network

    def network(self, V: int) -> BertConfig:
        """The model for V tokens."""
        sizes = (V, self.width, self.heads, self.hidden, self.layers, self.longest)
        return BertConfig(*sizes, dropout=self.dropout, attention_dropout=self.dropout)


Batch = tuple[torch.Tensor, ...]


def make_batch(
    texts: PackedTexts,
    index: np.ndarray,
    tokenizer: WordPiece,
    rng: np.random.Generator,
    device: torch.device,
) -> Batch:
    """Masked inputs, segments, mask and labels (B, T), and next-sentence labels (B,)."""
    tokens, segments, follows = texts.arrays(index)
    maskable = ~np.isin(tokens, (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id))
    inputs, labels = mask_tokens(tokens, maskable, len(tokenizer), tokenizer.mask_id, rng)
    arrays = (inputs, segments, tokens != tokenizer.pad_id, labels, follows)
    return tuple(torch.from_numpy(a).to(device) for a in arrays)


@torch.no_grad()
def measure(
    params: Params, config: BertConfig, texts: PackedTexts, tokenizer: WordPiece
) -> dict[str, float]:
    """Loss and accuracy on held-out pairs, masked in the same way each time."""
    device = params["cls.predictions.bias"].device
    rng, total, right, count, follow = np.random.default_rng(0), 0.0, 0, 0, 0
    for start in range(0, len(texts), 100):
        index = np.arange(start, min(start + 100, len(texts)))
        *inputs, labels, follows = make_batch(texts, index, tokenizer, rng, device)
        chosen = labels != IGNORED
        logits, next_logits = forward(params, config, *inputs, chosen)
        n = int(chosen.sum())
        total, count = total + n * masked_cross_entropy(logits, labels[chosen]).item(), count + n
        right += int((logits.argmax(dim=1) == labels[chosen]).sum())
        follow += int((next_logits.argmax(dim=1) == follows).sum())
    return {
        "test_mlm_loss": total / count,
        "test_mlm_accuracy": right / count,
        "test_nsp_accuracy": follow / len(texts),
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    device = pick_device(options.device)
    documents = load_documents(options.data, options.data_dir)
    tokenizer = WordPiece.train((s for d in documents.train for s in d), options.vocabulary)
    rng = np.random.default_rng(options.seed)
    train_set, test_set = (
        PackedTexts(*pack_pairs(part, tokenizer, options.longest, rng))
        for part in (documents.train, documents.test)
    )
    config = options.network(len(tokenizer))
    params = init_params(config, torch.Generator().manual_seed(options.seed), device=device)
    optimizer = AdamW(params)

    with Run(options, __file__, model="bert") as run:
        run.restore(params, optimizer.state)
        (run.folder / "vocab.txt").write_text("\n".join(tokenizer.tokens), encoding="utf-8")
        total = options.epochs * run.steps_per_epoch(len(train_set))
        schedule = linear_decay(total, round(options.warmup * total))
        for _ in run.epochs():
            for index in run.batches(len(train_set), train_set.lengths):
                batch = make_batch(train_set, index, tokenizer, run.rng(), device)
                *inputs, labels, follows = batch
                chosen = labels != IGNORED
                logits, next_logits = forward(
                    params, config, *inputs, chosen, run.torch_generator()
                )
                mlm_loss = masked_cross_entropy(logits, labels[chosen])
                loss = mlm_loss + masked_cross_entropy(next_logits, follows)
                optimizer.lr = options.lr * schedule(run.step)
                loss = update(optimizer, loss)
                run.log(loss=loss, mlm_loss=mlm_loss, lr=optimizer.lr)
            run.evaluate(**measure(params, config, test_set, tokenizer))
        run.finish()


if __name__ == "__main__":
    run_script(main)
