"""Pre-train the BERT of level 3, on text without labels.

    python 08_BERT/paper/train.py
        the documentation of Python's standard library: guess masked tokens, and whether the second
        segment follows the first.

    python 08_BERT/paper/train.py --data imdb --vocabulary 8000 --longest 128 --batch-size 32 \\
        --epochs 2
        film reviews. IMDB has to be downloaded once: python -m utils.data_loaders --download imdb

--data reviews takes the template reviews of train_finetune.py, without their labels.

The run folder has what train_finetune.py goes on with: model.safetensors, vocab.txt (the WordPiece
vocabulary, learnt from the training text) and bert.json (the sizes).

test_mlm_loss and test_mlm_accuracy are of masked tokens of text that was not trained on,
test_nsp_accuracy of pairs of it; guessing has ln V, 1/V and 1/2. What was measured is in the
README. A batch's loss is the mean over its chosen tokens; with --grad-accumulation or several
processes, over those of each part.

attention.png shows where the heads of the last layer look.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/08_BERT-paper/.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import utils  # noqa: F401  (puts the other levels on the import path)
from bert_paper import BertConfig, BertModel
from heads_paper import BertForPreTraining
from masking_numpy import IGNORED, mask_tokens, pack_pairs
from pretraining_paper import linear_decay, masked_lm_loss, paper_optimizer, pretraining_loss
from utils.document_data import PackedTexts, load_documents
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import fit, set_seed
from utils.visualization import plot_attention
from wordpiece_numpy import WordPiece

Batch = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["python-docs", "reviews", "imdb"] = option("python-docs", "the text")
    epochs: int = option(40, "passes over the training pairs")
    batch_size: int = option(16, "pairs in one step")
    lr: float = option(1e-3, "highest learning rate; it rises at first and falls to 0 at the end")
    warmup: float = option(0.1, "share of the steps in which the learning rate rises", least=0)
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 = no clipping")
    vocabulary: int = option(1000, "tokens at most", least=300)
    longest: int = option(64, "tokens of a pair, special ones included", least=8)
    width: int = option(128, "D, width of the model")
    heads: int = option(4, "nH, attention heads")
    hidden: int = option(512, "F, width inside the layers")
    layers: int = option(2, "layers")
    dropout: float = option(0.1, "share dropped, of attention weights too")

    def __post_init__(self) -> None:
        self.network(self.vocabulary)  # refuses sizes that make no network

    def network(self, V: int) -> BertConfig:
        """The model for V tokens."""
        sizes = (V, self.width, self.heads, self.hidden, self.layers, self.longest)
        return BertConfig(*sizes, dropout=self.dropout, attention_dropout=self.dropout)


def hide(batch: Batch, tokenizer: WordPiece, rng: np.random.Generator) -> Batch:
    """Masked inputs, segments, mask and labels (B, T), and next-sentence labels (B,)."""
    tokens, segments, follows = batch
    plain = tokens.cpu().numpy()
    maskable = ~np.isin(plain, (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id))
    masked = mask_tokens(plain, maskable, len(tokenizer), tokenizer.mask_id, rng)
    inputs, labels = (torch.from_numpy(a).to(tokens.device) for a in masked)
    return inputs, segments, tokens != tokenizer.pad_id, labels, follows


@torch.no_grad()
def measure(
    model: BertForPreTraining, texts: PackedTexts, tokenizer: WordPiece, device: torch.device
) -> dict[str, float]:
    """Loss and accuracy on held-out pairs, masked in the same way each time."""
    rng, total, right, count, follow = np.random.default_rng(0), 0.0, 0, 0, 0
    for start in range(0, len(texts), 100):
        index = range(start, min(start + 100, len(texts)))
        batch = tuple(t.to(device) for t in texts.__getitems__(index))
        *inputs, labels, follows = hide(batch, tokenizer, rng)
        chosen = labels != IGNORED
        logits, next_logits = model(*inputs, chosen)
        n = int(chosen.sum())
        total, count = total + n * masked_lm_loss(logits, labels[chosen]).item(), count + n
        right += int((logits.argmax(dim=1) == labels[chosen]).sum())
        follow += int((next_logits.argmax(dim=1) == follows).sum())
    return {
        "test_mlm_loss": total / count,
        "test_mlm_accuracy": right / count,
        "test_nsp_accuracy": follow / len(texts),
    }


def draw_attention(
    model: BertForPreTraining, texts: PackedTexts, tokenizer: WordPiece, path: Path
) -> None:
    """Where the heads of the last layer look in one held-out pair."""
    device = next(model.parameters()).device
    tokens, segments = (t[:, :24].to(device) for t in texts.__getitems__([0])[:2])
    names = [tokenizer.tokens[i] for i in tokens[0].tolist()]
    maps = model.bert.attention_maps(tokens, segments)[-1, 0]  # (L, B, nH, T, T) -> (nH, T, T)
    plot_attention(maps, names, names, title="Attention in the last layer", path=path)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    documents = load_documents(options.data, options.data_dir)
    tokenizer = WordPiece.train((s for d in documents.train for s in d), options.vocabulary)
    rng = np.random.default_rng(options.seed)
    train_set, test_set = (
        PackedTexts(*pack_pairs(part, tokenizer, options.longest, rng))
        for part in (documents.train, documents.test)
    )
    set_seed(options.seed)
    model = BertForPreTraining(BertModel(options.network(len(tokenizer))))

    def loss_of_batch(
        model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        # fit seeds torch anew in each step; the masks depend on that seed alone.
        masks = np.random.default_rng(int(torch.randint(2**62, ())))
        *inputs, labels, follows = hide(batch, tokenizer, masks)
        chosen = labels != IGNORED
        logits, next_logits = model(*inputs, chosen)
        loss = pretraining_loss(logits, next_logits, labels[chosen], follows)
        return loss, {"mlm_loss": masked_lm_loss(logits, labels[chosen])}

    with Run(options, __file__, model="bert") as run:
        total = options.epochs * run.steps_per_epoch(len(train_set))
        fit(
            model,
            loss_of_batch,
            train_set,
            options,
            run,
            paper_optimizer(model, options.lr),
            linear_decay(total, round(options.warmup * total)),
            lambda model, device: measure(model, test_set, tokenizer, device),
        )
        run.finish()
        if run.is_main:
            vocabulary = "\n".join(tokenizer.tokens)
            (run.folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
            (run.folder / "bert.json").write_text(json.dumps(vars(model.bert.config)))
            draw_attention(model, test_set, tokenizer, run.folder / "attention.png")


if __name__ == "__main__":
    run_script(main)
