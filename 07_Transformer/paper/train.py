"""Train the Transformer of level 3, and translate with it.

    python 07_Transformer/paper/train.py
        number words to digits: "three hundred and seven" -> "3 0 7". 10,000 generated pairs to
        learn from, 500 to validate, 2,000 for the test. It should take minutes, and nearly all of
        the test numbers should come out right; the README has what was measured.

    python 07_Transformer/paper/train.py --data multi30k --width 256 --hidden 512 --layers 3 \\
        --dropout 0.2 --vocabulary 8000 --epochs 9 --lr 1 --warmup 1500 --average 3 --beam 4
        German captions to English ones, 29,000 pairs; the README has the score. Multi30k has to be
        downloaded once: python -m utils.data_loaders --download multi30k

What the paper does in training is here: Adam with the warm-up schedule, dropout, label smoothing,
batches of sentences of like length, and at the end the mean of the last checkpoints (--average,
here of the last epochs). --lr is a factor of the paper's learning rate. Source and target share a
vocabulary, which numpy/bpe_numpy.py learns from the training pairs; bpe.json in the run folder has
it. A batch's loss is the mean over its tokens; with --grad-accumulation or several processes, over
the tokens of each part.

Validation sentences are looked at after every epoch, test sentences once, with the averaged
weights: by greedy search, or with --beam 4 by beam search with a length penalty of 0.6. Numbers are
right if every digit is (test_exact_match); captions are scored by sacrebleu on plain text
(test_bleu, 0 to 100), whose signature is in the note of summary.json. translations.txt in the run
folder has all translations, attention.png shows where the decoder looks.

Ctrl-C saves; --resume RUN_FOLDER goes on. Everything is written to runs/07_Transformer-paper/.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sacrebleu.metrics import BLEU

import utils  # noqa: F401  (puts the other levels on the import path)
from bpe_numpy import BPE
from decoding_paper import beam_search, greedy_search
from training_paper import (
    average_checkpoints,
    paper_optimizer,
    shift_right,
    smoothed_cross_entropy,
    warmup_rate,
)
from transformer_paper import Transformer, TransformerConfig
from utils.options import TrainerOptions, option, parse_options
from utils.runs import Run, run_script
from utils.training_utils import fit, set_seed
from utils.translation_data import TokenPairs, encode_pairs, load_pairs, pad
from utils.visualization import plot_attention
from utils.weights import load_weights, save_weights, to_torch

EXAMPLES = {
    "number-words": "four thousand and seventy-two",
    "multi30k": "Ein kleines Mädchen klettert in ein Spielhaus aus Holz.",
}


@dataclass(frozen=True)
class Options(TrainerOptions):
    data: Literal["number-words", "multi30k"] = option("number-words", "the data set")
    epochs: int = option(30, "passes over the training data")
    batch_size: int = option(64, "pairs in one step")
    lr: float = option(0.15, "factor of the paper's learning rate, which falls with the width")
    warmup: int = option(150, "steps over which the learning rate rises", above=0)
    vocabulary: int = option(200, "tokens at most, of both languages", least=50)
    width: int = option(64, "D, width of the model")
    heads: int = option(4, "nH, attention heads")
    hidden: int = option(128, "F, width inside the position-wise networks")
    layers: int = option(1, "in the encoder, and as many in the decoder")
    dropout: float = option(0.0, "share of each sub-layer's output dropped in training")
    label_smoothing: float = option(
        0.1, "share of the target spread over the vocabulary", least=0, below=1
    )
    average: int = option(5, "epochs at the end whose weights are averaged", above=0)
    beam: int = option(1, "beginnings that the final search follows; 1 = greedy search", above=0)

    def __post_init__(self) -> None:
        self.network(self.vocabulary)  # refuses sizes that make no network

    def network(self, V: int) -> TransformerConfig:
        """The model for V tokens."""
        return TransformerConfig(V, self.width, self.heads, self.hidden, self.layers, self.dropout)

    @property
    def extra(self) -> int:
        """Tokens by which a translation may be longer than its source (section 6.1: 50)."""
        return 50 if self.data == "multi30k" else 12


def translate(
    model: Transformer, bpe: BPE, texts: Sequence[str], extra: int, beam: int = 1
) -> list[str]:
    """The model's translations, in the order of the texts; like lengths are translated together."""
    device = model.shared.weight.device
    tokens = [[*bpe.encode(text), bpe.END] for text in texts]
    by_length = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    size = max(1, 100 // beam)  # at a time: each beginning needs logits at all of its places
    found: dict[int, str] = {}
    for start in range(0, len(tokens), size):
        part = by_length[start : start + size]
        source = torch.from_numpy(pad([tokens[i] for i in part])).to(device)
        limit = source.shape[1] + extra
        search = model.predictor(source), len(part), limit, bpe.BEGIN, bpe.END
        if beam > 1:
            sentences = [s for s, _ in beam_search(*search, beam=beam, alpha=0.6, device=device)]
        else:
            sentences = greedy_search(*search, device=device)
        found |= {i: bpe.decode(s) for i, s in zip(part, sentences, strict=True)}
    return [found[i] for i in range(len(tokens))]


@torch.no_grad()
def mean_loss(model: Transformer, pairs: TokenPairs, device: torch.device) -> float:
    """Cross-entropy of a token of the targets in nats, without label smoothing."""
    total, count = 0.0, 0
    for start in range(0, len(pairs), 64):
        index = range(start, min(start + 64, len(pairs)))
        source, labels = (side.to(device) for side in pairs.__getitems__(index))
        logits = model(source, shift_right(labels, BPE.BEGIN))
        tokens = int((labels != BPE.PADDING).sum())
        total += tokens * smoothed_cross_entropy(logits, labels, BPE.PADDING, 0.0).item()
        count += tokens
    return total / count


def keep_weights(model: Transformer, folder: Path, epoch: int, average: int) -> None:
    """Save an epoch's weights, and remove those that are too old to be averaged."""
    folder.mkdir(exist_ok=True)
    save_weights(folder / f"epoch-{epoch:04d}.safetensors", model)
    for old in sorted(folder.glob("epoch-*.safetensors"))[:-average]:
        old.unlink()


def draw_attention(model: Transformer, bpe: BPE, text: str, extra: int, path: Path) -> None:
    """What the last decoder layer looks at while it translates a text: the mean of its heads."""
    device = model.shared.weight.device
    source = torch.tensor([[*bpe.encode(text), bpe.END]], device=device)
    limit = source.shape[1] + extra
    (found,) = greedy_search(model.predictor(source), 1, limit, bpe.BEGIN, bpe.END, device=device)
    labels = torch.tensor([[*found, bpe.END]], device=device)
    maps = model.attention_maps(source, shift_right(labels, bpe.BEGIN))
    last = maps[f"decoder.layers.{model.config.layers - 1}.encoder_attn"]
    plot_attention(
        last[0].mean(dim=0),  # (1, nH, T, S) -> (T, S)
        [bpe.tokens[i] for i in labels[0].tolist()],
        [bpe.tokens[i] for i in source[0].tolist()],
        title="Attention of the decoder to the source",
        path=path,
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    pairs = load_pairs(options.data, options.data_dir)
    bpe = BPE.train(np.concatenate(pairs.train), options.vocabulary)
    train_set, val_set = (
        TokenPairs(*encode_pairs(part, bpe.encode, bpe.END)) for part in (pairs.train, pairs.val)
    )
    set_seed(options.seed)
    model = Transformer(options.network(len(bpe)))

    def loss_of_batch(
        model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        source, labels = batch
        logits = model(source, shift_right(labels, bpe.BEGIN))
        return smoothed_cross_entropy(logits, labels, bpe.PADDING, options.label_smoothing)

    with Run(options, __file__, model="transformer") as run:
        kept = run.folder / "averaged"

        def evaluate(model: Transformer, device: torch.device) -> dict[str, float]:
            if run.is_main:
                keep_weights(model, kept, run.epoch, options.average)
            if options.data == "multi30k":
                return {"val_loss": mean_loss(model, val_set, device)}
            found = translate(model, bpe, pairs.val[0], options.extra)
            return {"val_exact_match": float(np.mean(np.array(found) == pairs.val[1]))}

        fit(
            model,
            loss_of_batch,
            train_set,
            options,
            run,
            paper_optimizer(model.parameters(), options.lr),
            lambda step: warmup_rate(step + 1, options.width, options.warmup),
            evaluate,
        )
        if not run.is_main:
            return
        files = sorted(kept.glob("epoch-*.safetensors"))
        model.load_state_dict(average_checkpoints(to_torch(load_weights(f)) for f in files))
        found = translate(model, bpe, pairs.test[0], options.extra, options.beam)
        if options.data == "multi30k":
            bleu = BLEU()
            score = bleu.corpus_score(found, [pairs.test[1].tolist()]).score
            run.finish(note=f"sacrebleu {bleu.get_signature()}", test_bleu=score)
        else:
            run.finish(test_exact_match=float(np.mean(np.array(found) == pairs.test[1])))
        (run.folder / "translations.txt").write_text("\n".join(found) + "\n", encoding="utf-8")
        (run.folder / "bpe.json").write_text(json.dumps([bpe.alphabet, bpe.merges]))
        example = EXAMPLES[options.data]
        draw_attention(model, bpe, example, options.extra, run.folder / "attention.png")


if __name__ == "__main__":
    run_script(main)
