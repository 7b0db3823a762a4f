"""Cases of 08_BERT: a pre-training step at each level, and the tokenizer."""

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import bert_lowlevel
import bert_numpy
import bert_paper
from benchmarks.case import Case, Work, array_step, module_step, tensor_step
from bert_layers_numpy import masked_cross_entropy_backward, masked_cross_entropy_forward
from heads_paper import BertForPreTraining
from masking_numpy import mask_tokens
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from pretraining_lowlevel import masked_cross_entropy
from pretraining_paper import pretraining_loss
from utils.text_data import python_docs
from wordpiece_numpy import WordPiece

SIZES = (2000, 128, 4, 512, 2, 64)
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}


def _batch() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, SIZES[0], size=(16, 64))
    inputs, labels = mask_tokens(tokens, tokens > 0, SIZES[0], 4, rng)
    segments = np.tile(np.arange(64) > 31, (16, 1)).astype(np.int64)
    return inputs, segments, labels, rng.integers(2, size=16)


def numpy_step() -> Work:
    inputs, segments, labels, follows = _batch()
    config = bert_numpy.BertConfig(*SIZES, **NO_DROPOUT)
    model = bert_numpy.BertForPreTraining(config, np.random.default_rng(0), np.float32)
    chosen = labels >= 0

    def gradients() -> dict[str, np.ndarray]:
        logits, pair = model.forward(inputs, segments, None, chosen)
        _, cache = masked_cross_entropy_forward(logits, labels[chosen])
        _, pair_cache = softmax_cross_entropy_forward(pair, follows)
        return model.backward(
            masked_cross_entropy_backward(cache), softmax_cross_entropy_backward(pair_cache)
        )

    return array_step(model.params, gradients)


def lowlevel_step() -> Work:
    inputs, segments, labels, follows = (torch.from_numpy(a) for a in _batch())
    config = bert_lowlevel.BertConfig(*SIZES, **NO_DROPOUT)
    params, chosen = bert_lowlevel.init_params(config), labels >= 0

    def loss() -> torch.Tensor:
        logits, pair = bert_lowlevel.forward(params, config, inputs, segments, None, chosen)
        return masked_cross_entropy(logits, labels[chosen]) + masked_cross_entropy(pair, follows)

    return tensor_step(params, loss)


def paper_step() -> Work:
    inputs, segments, labels, follows = (torch.from_numpy(a) for a in _batch())
    torch.manual_seed(0)
    config = bert_paper.BertConfig(*SIZES, **NO_DROPOUT)
    model, chosen = BertForPreTraining(bert_paper.BertModel(config)), labels >= 0

    def loss() -> torch.Tensor:
        logits, pair = model(inputs, segments, None, chosen)
        return pretraining_loss(logits, pair, labels[chosen], follows)

    return module_step(model, loss)


def transformers_step() -> Work:
    inputs, segments, labels, follows = (torch.from_numpy(a) for a in _batch())
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=SIZES[0],
        hidden_size=SIZES[1],
        num_attention_heads=SIZES[2],
        intermediate_size=SIZES[3],
        num_hidden_layers=SIZES[4],
        max_position_embeddings=SIZES[5],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForPreTraining(config)
    answers = {"labels": labels, "next_sentence_label": follows}
    return module_step(model, lambda: model(inputs, token_type_ids=segments, **answers).loss)


def _tokenizer() -> tuple[WordPiece, str]:
    text = python_docs()[:100_000]
    return WordPiece.train([text[:20_000]], 800), text


def our_tokenizer() -> Work:
    tokenizer, text = _tokenizer()
    return lambda: tokenizer.encode(text)


def library_tokenizer() -> Work:
    tokenizer, text = _tokenizer()
    numbers = {token: i for i, token in enumerate(tokenizer.tokens)}
    made = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return lambda: made.encode(text)


_STEP = "pre-training step, 2 layers of width 128, V = 2000, batch 16 of 64 tokens, float32"
CASES = [
    # Missed: two thirds of level 1's time is GELU's erf, which NumPy lacks.
    Case("08 numpy step", _STEP, numpy_step, paper_step, "our torch.nn modules", 6.0),
    Case("08 lowlevel step", _STEP, lowlevel_step, paper_step, "our torch.nn modules", 1.5),
    Case("08 paper step", _STEP, paper_step, transformers_step, "transformers' BERT", 1.0),
    Case(
        "08 wordpiece",
        "encode 100,000 characters",
        our_tokenizer,
        library_tokenizer,
        "tokenizers (Rust)",
        3.0,
    ),
]
