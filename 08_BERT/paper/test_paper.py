"""Tests of level 3: equal to levels 1 and 2 and to transformers' BERT; the paper's figures.

Every comparison perturbs all parameters first: fresh biases are zero and fresh gains one.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

import bert_lowlevel as low
import bert_numpy as np_level
import pretraining_lowlevel
import pretraining_numpy
from bert_layers_numpy import masked_cross_entropy_backward, masked_cross_entropy_forward
from bert_paper import BertConfig, BertModel, convert_transformers_state_dict, from_pretrained
from heads_paper import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    best_span,
    span_loss,
)
from mlp_numpy import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from pretraining_paper import linear_decay, masked_lm_loss, paper_optimizer, pretraining_loss
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch
from wordpiece_numpy import WordPiece

SIZES = {"vocabulary": 19, "width": 12, "heads": 3, "hidden": 7, "layers": 2, "longest": 8}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}


def make_model(**options):
    torch.manual_seed(0)
    config = BertConfig(**SIZES | NO_DROPOUT | options)
    model = BertForPreTraining(BertModel(config)).double()
    perturb(model)
    return model


def make_batch(seed=0):
    """Tokens, segments, mask (3, 6), labels (3, 6) and next labels (3,); text 2 has one token."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 19, (3, 6), generator=g)
    segments = (torch.arange(6) > torch.tensor([[2], [3], [6]])).long()
    mask = torch.arange(6) < torch.tensor([[6], [4], [1]])
    tokens[~mask] = 0
    labels = torch.where(torch.rand(3, 6, generator=g) < 0.5, tokens, -100)
    labels[~mask] = -100
    labels[0, 1] = 7
    return tokens, segments, mask, labels, torch.randint(2, (3,), generator=g)


def flat(logits, follows):
    return torch.cat([logits.flatten(), follows.flatten()])


def step(model, batch, chosen=False):
    tokens, segments, mask, labels, follows = batch
    model.zero_grad()
    kept = labels != -100 if chosen else None
    logits, next_logits = model(tokens, segments, mask, kept)
    loss = pretraining_loss(logits, next_logits, labels[kept] if chosen else labels, follows)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return Result(flat(logits, next_logits), loss, grads)


# --- across levels


def numpy_model(model):
    reference = np_level.BertForPreTraining(
        np_level.BertConfig(**vars(model.bert.config)), np.random.default_rng(0)
    )
    load_into(reference.params, model)
    return reference


def numpy_step(reference, batch, chosen=False):
    tokens, segments, mask, labels, follows = (t.numpy() for t in batch)
    kept = labels != -100 if chosen else None
    logits, next_logits = reference.forward(tokens, segments, mask, kept)
    loss, cache = masked_cross_entropy_forward(logits, labels[kept] if chosen else labels)
    next_loss, next_cache = softmax_cross_entropy_forward(next_logits, follows)
    grads = reference.backward(
        masked_cross_entropy_backward(cache), softmax_cross_entropy_backward(next_cache)
    )
    outputs = np.concatenate([logits.ravel(), next_logits.ravel()])
    return Result(outputs, loss + next_loss, grads)


def lowlevel_step(params, config, batch, chosen=False):
    tokens, segments, mask, labels, follows = batch
    for p in params.values():
        p.grad = None
    kept = labels != -100 if chosen else None
    logits, next_logits = low.forward(params, config, tokens, segments, mask, kept)
    loss = pretraining_lowlevel.masked_cross_entropy(logits, labels[kept] if chosen else labels)
    loss = loss + pretraining_lowlevel.masked_cross_entropy(next_logits, follows)
    loss.backward()
    return Result(flat(logits, next_logits), loss, {n: p.grad for n, p in params.items()})


@pytest.mark.parametrize("chosen", [False, True], ids=["all", "chosen"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_equals_levels_1_and_2(activation, chosen):
    model, batch = make_model(activation=activation), make_batch()
    config = low.BertConfig(**vars(model.bert.config))
    got = step(model, batch, chosen)
    assert_parity(got, numpy_step(numpy_model(model), batch, chosen))
    params = to_torch(model, requires_grad=True)
    assert_parity(got, lowlevel_step(params, config, batch, chosen))


def test_logits_of_the_chosen_tokens_are_those_of_all():
    model, batch = make_model(), make_batch()
    tokens, segments, mask, labels, _ = batch
    every, _ = model(tokens, segments, mask)
    some, _ = model(tokens, segments, mask, labels != -100)
    assert max_difference(some, every[labels != -100]) < 1e-13
    all_grads, some_grads = (step(model, batch, c).grads for c in (False, True))
    assert all(max_difference(some_grads[n], g) < 1e-12 for n, g in all_grads.items())


def test_ten_steps_equal_levels_1_and_2():
    model = make_model()
    reference, params = numpy_model(model), to_torch(model, requires_grad=True)
    config = low.BertConfig(**vars(model.bert.config))
    schedule = linear_decay(10, 3)
    optimizers = (
        paper_optimizer(model),
        pretraining_numpy.BertAdam(reference.params),
        pretraining_lowlevel.AdamW(params),
    )
    losses = [], [], []
    for i in range(10):
        batch, lr = make_batch(i), 0.01 * schedule(i)
        for group in optimizers[0].param_groups:
            group["lr"] = lr
        optimizers[1].lr = optimizers[2].lr = lr
        losses[0].append(step(model, batch).loss.detach())
        optimizers[0].step()
        result = numpy_step(reference, batch)
        optimizers[1].step(result.grads)
        losses[1].append(result.loss)
        losses[2].append(lowlevel_step(params, config, batch).loss.detach())
        optimizers[2].step()
    assert_trajectory(losses[0], losses[1])
    assert_trajectory(losses[0], losses[2])
    assert losses[0][0] != losses[0][9]


def test_dropout_stands_in_the_same_places_at_all_levels(monkeypatch):
    """Random masks differ from level to level; so a fixed one takes their place."""

    def pattern(x, sin, arange):
        return 1 + 0.3 * sin(arange(math.prod(x.shape[1:])) * 1.0).reshape(x.shape[1:])

    def marked(x):
        return x * pattern(x, torch.sin, lambda n: torch.arange(n, dtype=torch.float64))

    def numpy_marked(x, rate, rng=None, train=False):
        factor = pattern(x, np.sin, np.arange) * np.ones_like(x)
        return x * factor, (factor,)

    for module in ("bert_layers_numpy", "attention_numpy", "bert_numpy"):
        monkeypatch.setattr(f"{module}.dropout_forward", numpy_marked)
    monkeypatch.setattr(low, "dropout", lambda x, rate, generator: marked(x))
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: marked(x))
    model, batch = make_model(), make_batch()
    got = step(model, batch)
    assert_parity(got, numpy_step(numpy_model(model), batch))
    config = low.BertConfig(**vars(model.bert.config))
    assert_parity(got, lowlevel_step(to_torch(model, requires_grad=True), config, batch))
    classifier = BertForSequenceClassification(model.bert, 4).double()
    reference = np_level.BertForSequenceClassification(
        np_level.BertConfig(**vars(config)), 4, np.random.default_rng(0)
    )
    load_into(reference.params, classifier)
    inputs = batch[:3]
    logits = classifier(*inputs)
    assert max_difference(logits, reference.forward(*(t.numpy() for t in inputs))) < 1e-12
    assert max_difference(logits, low.classify(to_torch(classifier), config, *inputs)) < 1e-12
    tagger = BertForTokenClassification(model.bert, 4).double()
    want = tagger.classifier(marked(model.bert(*inputs)[0]))
    assert max_difference(tagger(*inputs), want) < 1e-12
    reader = BertForQuestionAnswering(model.bert).double()  # has none of its own
    want = reader.qa_outputs(model.bert(*inputs)[0])
    assert max_difference(torch.stack(reader(*inputs), dim=-1), want) < 1e-12


@pytest.mark.parametrize(
    "head", [BertForPreTraining, BertForTokenClassification, BertForSequenceClassification]
)
def test_each_rate_of_dropout_stands_in_its_place(head):
    config = BertConfig(**SIZES, dropout=0.2, attention_dropout=0.3)
    modules = head(BertModel(config)).named_modules()
    rates = {name: m.p for name, m in modules if isinstance(m, nn.Dropout)}
    assert all(p == (0.3 if ".self." in name else 0.2) for name, p in rates.items())
    assert len(rates) == 7 + (head is not BertForPreTraining)


# --- transformers


def library_config(**options):
    return transformers.BertConfig(
        vocab_size=19,
        hidden_size=12,
        num_attention_heads=3,
        intermediate_size=7,
        num_hidden_layers=2,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
        **options,
    )


def make_library(kind="BertForPreTraining", **options):
    torch.manual_seed(1)
    theirs = getattr(transformers, kind)(library_config(**options)).double()
    perturb(theirs)
    return theirs


def load_from(model, theirs):
    state = convert_transformers_state_dict(theirs.state_dict())
    assert set(state) == set(model.state_dict())
    model.load_state_dict(state)
    return model


def library_step(theirs, batch):
    tokens, segments, mask, labels, follows = batch
    theirs.zero_grad()
    out = theirs(tokens, mask.long(), segments, labels=labels, next_sentence_label=follows)
    out.loss.backward()
    # Their labels are ignored at -100 by default, as ours.
    grads = {n: p.grad.clone() for n, p in theirs.named_parameters()}
    return Result(flat(out.prediction_logits, out.seq_relationship_logits), out.loss, grads)


def without_padding_rows(result, batch):
    """Logits at padding are nobody's business: a library may mask or leave them."""
    tokens, _, mask, _, _ = batch
    n = tokens.numel() * 19
    logits = result.outputs[:n].reshape(*tokens.shape, 19)[mask]
    return Result(flat(logits, result.outputs[n:]), result.loss, result.grads)


def compare_with_library(fault=None, seed=0, **options):
    theirs = make_library(**options)
    model = load_from(make_model(activation=options.get("hidden_act", "gelu")), theirs)
    if fault is not None:
        fault(model)
    batch = make_batch(seed)
    got, want = step(model, batch), library_step(theirs, batch)
    assert_parity(without_padding_rows(got, batch), without_padding_rows(want, batch))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_equals_transformers(activation):
    for seed in range(3):
        compare_with_library(seed=seed, hidden_act=activation)


def test_vectors_of_the_encoder_equal_transformers():
    theirs = make_library("BertModel")
    model = load_from(BertModel(BertConfig(**SIZES, **NO_DROPOUT)).double(), theirs)
    tokens, segments, mask, _, _ = make_batch()
    out = theirs(tokens, mask.long(), segments)
    x, pooled = model(tokens, segments, mask)
    assert max_difference(x[mask], out.last_hidden_state[mask]) < 1e-12
    assert max_difference(pooled, out.pooler_output) < 1e-12
    dx, dpooled = torch.randn_like(x) * mask[..., None], torch.randn_like(pooled)
    for outputs in ((x, pooled), (out.last_hidden_state, out.pooler_output)):
        torch.autograd.backward(outputs, (dx, dpooled))
    got = Result(pooled, 0.0, {n: p.grad for n, p in model.named_parameters()})
    want = {n: p.grad for n, p in theirs.named_parameters()}
    assert_parity(got, Result(out.pooler_output, 0.0, want))


HEADS = {
    "BertForSequenceClassification": BertForSequenceClassification,
    "BertForTokenClassification": BertForTokenClassification,
    "BertForQuestionAnswering": BertForQuestionAnswering,
}


def build(kind, classes):
    pooler = kind is BertForSequenceClassification
    bert = BertModel(BertConfig(**SIZES, **NO_DROPOUT), pooler=pooler)
    return (kind(bert) if kind is BertForQuestionAnswering else kind(bert, classes)).double()


@pytest.mark.parametrize("name", HEADS)
def test_heads_equal_transformers(name):
    classes = 2 if name == "BertForQuestionAnswering" else 4
    theirs = make_library(name, num_labels=classes)
    model = load_from(build(HEADS[name], classes), theirs)
    tokens, segments, mask, _, _ = make_batch()
    # The softmax of a span runs over padding too, and the library keeps a gradient from the row of
    # [PAD]; so another token stands there.
    tokens[~mask] = 9
    inputs = {"input_ids": tokens, "attention_mask": mask.long(), "token_type_ids": segments}
    out = model(tokens, segments, mask)
    if name == "BertForSequenceClassification":
        y = torch.tensor([0, 3, 2])
        loss, want = F.cross_entropy(out, y), theirs(**inputs, labels=y)
    elif name == "BertForTokenClassification":
        y = torch.where(mask, tokens % 4, -100)
        loss, want = masked_lm_loss(out, y), theirs(**inputs, labels=y)
        out, want.logits = out[mask], want.logits[mask]
    else:
        spans = torch.tensor([[1, 4], [0, 2], [0, 0]])
        loss = span_loss(*out, spans)
        want = theirs(**inputs, start_positions=spans[:, 0], end_positions=spans[:, 1])
        want.logits = torch.cat([want.start_logits, want.end_logits])
        out = torch.cat(out)
    loss.backward()
    want.loss.backward()
    got = Result(out, loss, {n: p.grad for n, p in model.named_parameters()})
    grads = {n: p.grad for n, p in theirs.named_parameters()}
    assert_parity(got, Result(want.logits, want.loss, grads))


def test_ten_steps_equal_transformers():
    theirs = make_library()
    model = load_from(make_model(), theirs)
    losses, wanted = [], []
    ours, reference = paper_optimizer(model, lr=0.01), paper_optimizer(theirs, lr=0.01)
    for i in range(10):
        batch = make_batch(i)
        losses.append(step(model, batch).loss.detach())
        wanted.append(library_step(theirs, batch).loss.detach())
        ours.step()
        reference.step()
    assert_trajectory(losses, wanted)


def tanh_gelu(model):
    model.bert.encoder["layer"][0].activation = lambda x: F.gelu(x, approximate="tanh")


def wrong_epsilon(model):
    model.bert.embeddings.LayerNorm.eps = 1e-5


def no_padding_mask(model):
    forward = model.bert.forward
    model.bert.forward = lambda tokens, segments, mask: forward(tokens, segments)


def no_segments(model):
    forward = model.bert.forward
    model.bert.forward = lambda tokens, segments, mask: forward(tokens, None, mask)


def pre_norm(model):
    layer = model.bert.encoder["layer"][1]

    def forward(x, mask):
        norm, out = layer.attention["output"].LayerNorm, layer.attention["output"].dense
        x = x + out(layer.attention["self"](norm(x), mask)[0])
        h = layer.intermediate["dense"](layer.output.LayerNorm(x))
        return x + layer.output.dense(F.gelu(h))

    layer.forward = forward


def untransformed_head(model):
    head = model.cls["predictions"]
    head.forward = lambda x, table: x @ table.T + head.bias


def pooled_by_mean(model):
    forward = model.bert.forward

    def mean(*inputs):
        x, _ = forward(*inputs)
        return x, model.bert.pooler["dense"](x.mean(dim=1)).tanh()

    model.bert.forward = mean


FAULTS = [tanh_gelu, wrong_epsilon, no_padding_mask, no_segments, pre_norm, untransformed_head]


@pytest.mark.parametrize("fault", [*FAULTS, pooled_by_mean])
def test_sabotage_is_noticed(fault):
    compare_with_library()
    # A part that has no influence any more has no gradient at all.
    with pytest.raises((ParityError, AttributeError), match="outputs|'NoneType'"):
        compare_with_library(fault)


def test_a_table_that_is_not_tied_is_noticed_by_its_gradient_alone():
    def untied(model):
        head, table = model.cls["predictions"], model.bert.embeddings.word_embeddings.weight
        copied, forward = table.detach().clone(), head.forward
        head.forward = lambda x, _: forward(x, copied)

    compare_with_library()
    with pytest.raises(ParityError, match="gradient of bert.embeddings.word_embeddings.weight"):
        compare_with_library(untied)


def test_the_library_gives_nan_where_nothing_is_masked():
    """And ours 0, with gradients of 0: such a batch changes nothing."""
    batch = make_batch()
    labels = torch.full_like(batch[3], -100)
    theirs = make_library()
    out = theirs(batch[0], labels=labels, next_sentence_label=batch[4])
    assert out.loss.isnan()
    model = load_from(make_model(), theirs)
    for chosen in (False, True):
        result = step(model, (*batch[:3], labels, batch[4]), chosen)
        want = F.cross_entropy(model(*batch[:3])[1], batch[4])
        assert max_difference(result.loss, want) < 1e-13
        assert all(g.isfinite().all() for g in result.grads.values())
        assert not result.grads["cls.predictions.bias"].any()


# --- checkpoints


VOCABULARY = [*WordPiece.SPECIAL, "the", "film", "was", "good", "bad", "##ly", "a", "b", "##b"]
VOCABULARY += ["not", ".", "un", "##un", "e"]


def save(folder, kind="BertForPreTraining", cased=False, **options):
    theirs = make_library(kind, **options).float()
    theirs.save_pretrained(folder)
    numbers = {token: i for i, token in enumerate(VOCABULARY)}
    transformers.BertTokenizer(vocab=numbers, do_lower_case=not cased).save_pretrained(folder)
    return theirs.eval()


@pytest.mark.parametrize("cased", [False, True], ids=["uncased", "cased"])
def test_from_pretrained_reads_what_the_library_saved(tmp_path, cased):
    theirs = save(tmp_path, cased=cased)
    model, vocabulary = from_pretrained(str(tmp_path), BertForPreTraining)
    tokens, segments, mask, _, _ = make_batch()
    out = theirs(tokens, mask.long(), segments)
    logits, follows = model(tokens, segments, mask)
    assert max_difference(logits[mask], out.prediction_logits[mask]) < 1e-5
    assert max_difference(follows, out.seq_relationship_logits) < 1e-5
    assert not model.training
    tokenizer = WordPiece(**vocabulary)
    assert list(tokenizer.tokens) == VOCABULARY and tokenizer.lower_case is not cased
    text = "The fílm was unbadly good."
    want = transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert tokenizer.pack(tokenizer.encode(text))[0] == want


@pytest.mark.parametrize("name", HEADS)
def test_from_pretrained_reads_fine_tuned_models(tmp_path, name):
    classes = 2 if name == "BertForQuestionAnswering" else 5
    theirs = save(tmp_path, name, num_labels=classes)
    model, _ = from_pretrained(str(tmp_path), HEADS[name])
    tokens = make_batch()[0]
    out = theirs(tokens)
    want = out.logits if classes == 5 else torch.stack([out.start_logits, out.end_logits])
    got = model(tokens) if classes == 5 else torch.stack(model(tokens))
    assert max_difference(got, want) < 1e-5


def test_from_pretrained_puts_a_new_head_on_the_encoder(tmp_path):
    theirs = save(tmp_path, "BertForMaskedLM")
    bert, _ = from_pretrained(str(tmp_path))
    assert isinstance(bert, BertModel)
    model, _ = from_pretrained(str(tmp_path), BertForSequenceClassification)
    tokens = make_batch()[0]
    want = theirs.bert(tokens).last_hidden_state
    assert max_difference(bert(tokens)[0], want) < 1e-5
    assert max_difference(model.bert(tokens)[0], want) < 1e-5
    assert model.classifier.weight.shape == (2, 12)


def test_from_pretrained_reads_every_size(tmp_path):
    theirs = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=23,
            hidden_size=12,
            num_attention_heads=6,
            intermediate_size=7,
            num_hidden_layers=3,
            max_position_embeddings=11,
            type_vocab_size=4,
            hidden_dropout_prob=0.2,
            attention_probs_dropout_prob=0.3,
            hidden_act="gelu_new",
            layer_norm_eps=0.5,
        )
    )
    perturb(theirs)
    theirs.save_pretrained(tmp_path)
    model, vocabulary = from_pretrained(str(tmp_path))
    config = BertConfig(
        vocabulary=23,
        width=12,
        heads=6,
        hidden=7,
        layers=3,
        longest=11,
        segments=4,
        dropout=0.2,
        attention_dropout=0.3,
        activation="gelu_new",
        eps=0.5,
    )
    assert model.config == config and not model.training
    assert vocabulary is None  # none was saved
    tokens = make_batch()[0]
    assert max_difference(model(tokens)[0], theirs.eval()(tokens).last_hidden_state) < 1e-5


def test_from_pretrained_keeps_accents_if_the_tokenizer_does(tmp_path):
    make_library().save_pretrained(tmp_path)
    numbers = {token: i for i, token in enumerate([*VOCABULARY, "É", "é"])}
    made = transformers.BertTokenizer(vocab=numbers, do_lower_case=True, strip_accents=False)
    made.save_pretrained(tmp_path)
    tokenizer = WordPiece(**from_pretrained(str(tmp_path))[1])
    assert (tokenizer.lower_case, tokenizer.strip_accents) == (True, False)
    assert tokenizer.encode("É é e") == [numbers["é"], numbers["é"], numbers["e"]]


def test_old_checkpoints_hold_positions_that_are_no_weights():
    state = make_library().state_dict()
    want = convert_transformers_state_dict(state)
    for name in ("position_ids", "token_type_ids"):
        state[f"bert.embeddings.{name}"] = torch.arange(8)[None]
    assert set(convert_transformers_state_dict(state)) == set(want)


# --- the paper's figures


def count(kind, config):
    with torch.device("meta"):
        bert = BertModel(config)
        model = bert if kind is BertModel else kind(bert)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "config", "parameters"),
    [
        (BertModel, BertConfig.base(), 109_482_240),
        (BertForPreTraining, BertConfig.base(), 110_106_428),
        (BertModel, BertConfig.large(), 335_141_888),
    ],
    ids=["base", "base for pre-training", "large"],
)
def test_parameter_counts(kind, config, parameters):
    """Section 3 says 110 and 340 million."""
    assert count(kind, config) == parameters
    V, D, H, L = config.vocabulary, config.width, config.hidden, config.layers
    tables = (V + config.longest + config.segments) * D + 2 * D
    layer = 4 * (D * D + D) + 2 * D * H + H + D + 2 * 2 * D
    encoder = tables + L * layer + D * D + D
    heads = D * D + D + 2 * D + V + 2 * D + 2
    assert parameters == encoder + heads * (kind is BertForPreTraining)  # eq. 8.12


def test_section_3():
    base, large = BertConfig.base(), BertConfig.large()
    assert (base.layers, base.width, base.heads, base.hidden) == (12, 768, 12, 4 * 768)
    assert (large.layers, large.width, large.heads, large.hidden) == (24, 1024, 16, 4 * 1024)
    assert BertConfig.large(dropout=0.2).dropout == 0.2
    for config in (base, large, BertConfig()):
        assert (config.dropout, config.attention_dropout) == (0.1, 0.1)
        assert (config.activation, config.eps) == ("gelu", 1e-12)
    optimizer = paper_optimizer(make_model())
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0]
    assert optimizer.defaults["betas"] == (0.9, 0.999) and optimizer.defaults["lr"] == 1e-4
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    names = [n for n, p in make_model().named_parameters() if p.ndim == 1]
    assert all("LayerNorm" in n or n.endswith("bias") for n in names) and len(decayed) == 18


def test_schedule_of_section_a2():
    schedule = linear_decay(1_000_000, 10_000)
    assert [schedule(i) for i in (0, 4_999, 9_999)] == [1e-4, 0.5, 1.0]
    assert schedule(10_000) == 1.0 and schedule(505_000) == 0.5 and schedule(1_000_000) == 0.0
    others = pretraining_lowlevel.linear_decay(90, 7), pretraining_numpy.linear_decay(90, 7)
    assert all(
        [s(i) for i in range(100)] == [linear_decay(90, 7)(i) for i in range(100)] for s in others
    )


# --- properties


def test_padding_changes_nothing():
    model = make_model()
    tokens, segments, mask, _, _ = make_batch()
    logits, follows = model(tokens, segments, mask)
    alone, alone_follows = model(tokens[1:2, :4], segments[1:2, :4])
    assert max_difference(alone[0], logits[1, :4]) < 1e-12
    assert max_difference(alone_follows[0], follows[1]) < 1e-12
    changed = tokens.clone()
    changed[~mask] = 11
    assert max_difference(model(changed, segments, mask)[0][mask], logits[mask]) < 1e-12


def test_every_token_sees_both_directions():
    model = make_model()
    tokens, segments, _, _, _ = make_batch()
    before = model(tokens, segments)[0]
    for place in (0, 5):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 19
        after = model(changed, segments)[0]
        assert all(max_difference(after[:, t], before[:, t]) > 1e-6 for t in range(6))


def test_without_positions_and_segments_the_encoder_is_permutation_equivariant():
    bert = make_model().bert
    tokens, order = make_batch()[0], torch.tensor([4, 2, 5, 0, 1, 3])
    assert max_difference(bert(tokens[:, order])[0], bert(tokens)[0][:, order]) > 1e-3
    bert.embeddings.position_embeddings.weight.data[:] = 0.1
    assert max_difference(bert(tokens[:, order])[0], bert(tokens)[0][:, order]) < 1e-12


@pytest.mark.parametrize("kind", [BertForPreTraining, *HEADS.values()])
def test_fresh_weights(kind):
    torch.manual_seed(0)
    model, firsts = kind(BertModel(BertConfig(97, 48, 4, 80, 2, longest=37))), set()
    for name, p in model.named_parameters():
        p = p.detach().double()
        if "LayerNorm.weight" in name:
            assert (p == 1).all()
        elif name.endswith("bias"):
            assert not p.any()
        else:
            assert abs(p.mean()) < 4 * 0.02 / math.sqrt(p.numel())
            assert abs(p.std() / 0.02 - 1) < 4 / math.sqrt(2 * p.numel())
            firsts.add(p.flatten()[0].item())
    assert len(firsts) == sum(p.ndim == 2 for p in model.parameters())  # each is drawn by itself


def test_initial_loss_is_that_of_guessing():
    """Equation 8.16: small weights give logits near zero."""
    torch.manual_seed(0)
    model = BertForPreTraining(BertModel(BertConfig(500, 64, 4, 128, 2))).eval()
    tokens = torch.randint(5, 500, (8, 20))
    logits, follows = model(tokens)
    assert abs(masked_lm_loss(logits, tokens).item() - math.log(500)) < 0.2
    assert abs(F.cross_entropy(follows, torch.zeros(8).long()).item() - math.log(2)) < 0.05


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = BertForPreTraining(BertModel(BertConfig(**SIZES | {"width": 24}, **NO_DROPOUT)))
    optimizer, batch = paper_optimizer(model, lr=5e-3), make_batch()
    for _ in range(60):
        loss = step(model, batch).loss
        optimizer.step()
    assert loss < 0.05


def test_a_text_of_padding_alone_gives_finite_gradients():
    model = make_model()
    tokens, segments, mask, labels, follows = make_batch()
    mask[2] = False
    with torch.autograd.set_detect_anomaly(True):
        result = step(model, (tokens, segments, mask, labels, follows))
    assert all(g.isfinite().all() for g in result.grads.values())


def test_attention_maps_equal_level_1s():
    model = make_model()
    tokens, segments, mask, _, _ = make_batch()
    reference = numpy_model(model)
    reference.forward(tokens.numpy(), segments.numpy(), mask.numpy())
    maps = model.bert.attention_maps(tokens, segments, mask)
    assert maps.shape == (2, 3, 3, 6, 6)
    assert max_difference(maps, reference.attention_maps()) < 1e-12
    assert not any(m._forward_hooks for m in model.modules())


def test_best_span_equals_trying_all():
    g = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 40, 7, generator=g)
    allowed = torch.rand(40, 7, generator=g) < 0.8
    allowed[:, 3] = True
    got = best_span(start, end, allowed, longest=3)
    for n in range(40):
        spans = [
            (start[n, i] + end[n, j], i, j)
            for i in range(7)
            for j in range(i, min(7, i + 3))
            if allowed[n, i] and allowed[n, j]
        ]
        assert tuple(got[n].tolist()) == max(spans)[1:]
    greedy = torch.stack([start.argmax(1), end.argmax(1)], dim=1)
    assert (greedy[:, 0] > greedy[:, 1]).any()  # what the search is for


def test_an_answer_has_30_tokens_at_most():
    start, end = torch.zeros(1, 40), torch.zeros(1, 40)
    start[0, 2], end[0, 32], end[0, 31] = 9, 9, 8
    assert best_span(start, end, torch.ones(1, 40).bool()).tolist() == [[2, 31]]


# --- bad input


def untied_library(kind="weight"):
    state = make_library().state_dict()
    name = f"cls.predictions.decoder.{kind}"
    state[name] = state[name] + 1
    return convert_transformers_state_dict(state)


def causal(tmp_path):
    transformers.BertLMHeadModel(library_config(is_decoder=True)).save_pretrained(tmp_path)
    return from_pretrained(str(tmp_path))


def no_pooler(head):
    return head(BertModel(BertConfig(**SIZES), pooler=False))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.RobertaConfig(), "got roberta with gelu, is_decoder=False"),
        (transformers.BertConfig(hidden_act="silu"), "got bert with silu, is_decoder=False"),
    ],
)
def test_another_model_is_refused(tmp_path, config, message):
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"expected a BERT encoder with gelu.*{message}"):
        from_pretrained(str(tmp_path))


def test_a_decoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a BERT encoder with gelu.*is_decoder=True"):
        causal(tmp_path)


@pytest.mark.parametrize(
    "name", ["vocabulary", "width", "heads", "hidden", "layers", "longest", "segments"]
)
def test_sizes_below_1_are_refused(name):
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        BertConfig(**{name: 0})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BertConfig(heads=7), "expected a width that 7 heads divide, got 768"),
        (lambda: BertConfig(attention_dropout=1.0), r"attention_dropout in \[0, 1\), got 1.0"),
        (lambda: BertConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: BertConfig(activation="silu"), "activation of gelu, gelu_new, relu, got 'silu'"),
        (lambda: make_model()(torch.zeros(2, 9).long()), r"T of at most 8, got \(2, 9\)"),
        (lambda: make_model()(torch.zeros(3).long()), r"expected tokens \(B, T\)"),
        (lambda: no_pooler(BertForPreTraining), "expected an encoder with a pooler"),
        (lambda: no_pooler(BertForSequenceClassification), "expected an encoder with a pooler"),
        (
            lambda: best_span(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3).bool()),
            "expected an allowed token in every text",
        ),
        (untied_library, "expected cls.predictions.decoder.weight to be bert.embeddings"),
        (
            lambda: untied_library("bias"),
            "expected cls.predictions.decoder.bias to be cls.predictions.bias",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
