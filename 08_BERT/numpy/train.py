"""Pre-train the BERT of level 1: NumPy, every gradient and the update rule by hand.

    python 08_BERT/numpy/train.py
        the documentation of Python's standard library: guess masked tokens, and whether the second
        segment follows the first.

test_mlm_loss and test_mlm_accuracy are of masked tokens of text that was not trained on,
test_nsp_accuracy of pairs of it; guessing has ln V, 1/V and 1/2. vocab.txt in the run folder is the
WordPiece vocabulary, which is learnt from the training text. What was measured is in the README.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/08_BERT-numpy/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

import utils  # noqa: F401  (puts the earlier chapters on the import path)
from bert_layers_numpy import masked_cross_entropy_backward, masked_cross_entropy_forward
from bert_numpy import BertConfig, BertForPreTraining
from masking_numpy import IGNORED, mask_tokens, pack_pairs
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from pretraining_numpy import BertAdam, linear_decay
from utils.document_data import PackedTexts, load_documents
from utils.options import RunOptions, option, parse_options
from utils.runs import Run, run_script
from wordpiece_numpy import WordPiece


@dataclass(frozen=True)
class Options(RunOptions):
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


def hide(
    tokens: np.ndarray, tokenizer: WordPiece, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Masked inputs and labels for tokens (B, T)."""
    kept = (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id)
    maskable = ~np.isin(tokens, kept)
    return mask_tokens(tokens, maskable, len(tokenizer), tokenizer.mask_id, rng)


def measure(
    model: BertForPreTraining, texts: PackedTexts, tokenizer: WordPiece
) -> dict[str, float]:
    """Loss and accuracy on held-out pairs, masked in the same way each time."""
    rng, total, right, count, follow = np.random.default_rng(0), 0.0, 0, 0, 0
    for start in range(0, len(texts), 100):
        index = np.arange(start, min(start + 100, len(texts)))
        tokens, segments, follows = texts.arrays(index)
        inputs, labels = hide(tokens, tokenizer, rng)
        chosen = labels != IGNORED
        logits, next_logits = model.forward(inputs, segments, tokens != tokenizer.pad_id, chosen)
        loss, _ = masked_cross_entropy_forward(logits, labels[chosen])
        n = int(chosen.sum())
        total, count = total + n * float(loss), count + n
        right += int((logits.argmax(axis=1) == labels[chosen]).sum())
        follow += int((next_logits.argmax(axis=1) == follows).sum())
    return {
        "test_mlm_loss": total / count,
        "test_mlm_accuracy": right / count,
        "test_nsp_accuracy": follow / len(texts),
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    documents = load_documents(options.data, options.data_dir)
    tokenizer = WordPiece.train((s for d in documents.train for s in d), options.vocabulary)
    rng = np.random.default_rng(options.seed)
    train_set, test_set = (
        PackedTexts(*pack_pairs(part, tokenizer, options.longest, rng))
        for part in (documents.train, documents.test)
    )
    model = BertForPreTraining(options.network(len(tokenizer)), rng, np.float32)
    optimizer = BertAdam(model.params)

    with Run(options, __file__, model="bert") as run:
        run.restore(model.params, optimizer.state)
        (run.folder / "vocab.txt").write_text("\n".join(tokenizer.tokens), encoding="utf-8")
        total = options.epochs * run.steps_per_epoch(len(train_set))
        schedule = linear_decay(total, round(options.warmup * total))
        for _ in run.epochs():
            for index in run.batches(len(train_set), train_set.lengths):
                tokens, segments, follows = train_set.arrays(index)
                rng = run.rng()
                inputs, labels = hide(tokens, tokenizer, rng)
                chosen, mask = labels != IGNORED, tokens != tokenizer.pad_id
                logits, next_logits = model.forward(inputs, segments, mask, chosen, True, rng)
                loss, cache = masked_cross_entropy_forward(logits, labels[chosen])
                next_loss, next_cache = softmax_cross_entropy_forward(next_logits, follows)
                grads = model.backward(
                    masked_cross_entropy_backward(cache), softmax_cross_entropy_backward(next_cache)
                )
                optimizer.lr = options.lr * schedule(run.step)
                optimizer.step(grads)
                run.log(loss=loss + next_loss, mlm_loss=loss, lr=optimizer.lr)
            run.evaluate(**measure(model, test_set, tokenizer))
        run.finish()


if __name__ == "__main__":
    run_script(main)
