"""Tests of level 3: equal to levels 1 and 2 and to transformers' GPT-2 and GPT-1; the figures.

Every comparison perturbs all parameters first: fresh biases are zero and fresh gains one.
"""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

import gpt_lowlevel as low
import gpt_numpy as np_level
import gpt_paper
import gpt_sampling_numpy
import gpt_sampling_paper as sampling
import gpt_training_lowlevel
from byte_bpe_numpy import ByteBPE
from gpt_paper import (
    GPT,
    IGNORED,
    GPTConfig,
    convert_transformers_state_dict,
    from_pretrained,
    next_token_loss,
    paper_optimizer,
)
from optimizers_numpy import AdamW
from recurrent_numpy import sequence_cross_entropy_backward, sequence_cross_entropy_forward
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch

SIZES = {
    "vocabulary": 11,
    "context": 9,
    "width": 12,
    "heads": 3,
    "layers": 2,
    "dropout": 0.0,
}


def make_model(norm="pre", **options):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SIZES | {"norm": norm} | options)).double()
    perturb(model)
    return model


def make_batch(seed=0):
    """Tokens and targets (3, 7); the last of a row may be padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(11, (3, 8), generator=generator)
    x, y = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    y[1, 4:] = y[2, 6:] = IGNORED
    x[1, 5:] = 0
    return x, y


def step(model, batch):
    x, y = batch
    model.zero_grad()
    logits = model(x)
    loss = next_token_loss(logits, y)
    loss.backward()
    # A sabotaged model may leave a parameter out; its gradient is None then.
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
             for n, p in model.named_parameters()}  # fmt: skip
    return Result(logits, loss, grads)


# --- across levels


def numpy_model(model):
    config = np_level.GPTConfig(**vars(model.config))
    reference = np_level.GPT(config, np.random.default_rng(0))
    load_into(reference.params, model)
    return reference


def numpy_step(reference, batch):
    x, y = (t.numpy() for t in batch)
    logits = reference.forward(x)
    loss, cache = sequence_cross_entropy_forward(logits, y, y != IGNORED)
    return Result(logits, loss, reference.backward(sequence_cross_entropy_backward(cache)))


def lowlevel_step(params, batch, config):
    x, y = batch
    logits = low.forward(params, x, config)
    loss = gpt_training_lowlevel.next_token_loss(logits, y)
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_equals_levels_1_and_2(norm):
    model, batch = make_model(norm), make_batch()
    got = step(model, batch)
    assert_parity(got, numpy_step(numpy_model(model), batch))
    config = low.GPTConfig(**vars(model.config))
    assert_parity(got, lowlevel_step(to_torch(model, requires_grad=True), batch, config))


def trajectories(decay_everywhere=False):
    """Ten losses of ours and of level 1."""
    model, betas = make_model(), (0.9, 0.95)
    reference = numpy_model(model)
    optimizer = paper_optimizer(model, 0.01, 0.1, betas)
    vectors = 0.1 if decay_everywhere else 0.0
    parts = [{n: p for n, p in reference.params.items() if p.ndim == d} for d in (2, 1)]
    others = [
        AdamW(part, 0.01, betas, weight_decay=w)
        for part, w in zip(parts, (0.1, vectors), strict=True)
    ]
    losses, wanted = [], []
    for i in range(10):
        losses.append(step(model, make_batch(i)).loss.detach())
        optimizer.step()
        want = numpy_step(reference, make_batch(i))
        for other in others:
            other.step(want.grads)
        wanted.append(want.loss)
    return losses, wanted


def test_ten_steps_equal_level_1_and_notice_weight_decay_on_biases():
    assert_trajectory(*trajectories())
    with pytest.raises(ParityError, match="step 2"):
        assert_trajectory(*trajectories(decay_everywhere=True))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_dropout_stands_in_the_same_places_as_at_level_2(norm, monkeypatch):
    """Random masks differ from level to level; so a fixed one takes their place."""

    def marked(x):
        pattern = 1 + 0.3 * torch.sin(torch.arange(x[0].numel(), dtype=torch.float64))
        return x * pattern.view(x.shape[1:])

    def attention(q, k, v, mask, rate, is_causal):
        assert rate == 0.3 and is_causal
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        later = torch.ones(scores.shape[-2:]).bool().triu(1)
        return marked(scores.masked_fill(later, -math.inf).softmax(-1)) @ v

    monkeypatch.setattr(low, "dropout", lambda x, rate, generator: marked(x))
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: marked(x))
    monkeypatch.setattr(gpt_paper.F, "scaled_dot_product_attention", attention)
    model, batch = make_model(norm, dropout=0.3).train(), make_batch()
    config = low.GPTConfig(**vars(model.config))
    want = lowlevel_step(to_torch(model, requires_grad=True), batch, config)
    assert_parity(step(model, batch), want)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.3}


def test_no_dropout_in_eval_mode():
    model, (x, _) = make_model(dropout=0.5), make_batch()
    model.train()
    assert max_difference(model(x), model(x)) > 1e-3
    model.eval()
    still = make_model(dropout=0.0)
    assert max_difference(model(x), still(x)) == 0


# --- transformers


def make_reference(norm, **options):
    """A small GPT2LMHeadModel or OpenAIGPTLMHeadModel in float64, everything perturbed."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 11, "n_positions": 9, "n_embd": 12, "n_head": 3, "n_layer": 2}
    sizes |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    sizes |= {"bos_token_id": 10, "eos_token_id": 10}
    if norm == "pre":
        config = GPT2Config(**sizes | {"attn_implementation": "sdpa"} | options)
        model = GPT2LMHeadModel(config)
    else:
        model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes | options))
    model = model.double().eval()
    perturb(dict(model.named_parameters()))
    return model


def ours_of(reference):
    norm = "pre" if reference.config.model_type == "gpt2" else "post"
    model = GPT(GPTConfig(**SIZES | {"norm": norm})).double()
    model.load_state_dict(convert_transformers_state_dict(reference.state_dict()))
    return model


def reference_step(reference, batch):
    """Their logits with padding masked out; the loss from them, for theirs is in float32."""
    x, y = batch
    reference.zero_grad()
    real = torch.cat([torch.ones_like(y[:, :1]), (y[:, :-1] != IGNORED).long()], dim=1)
    logits = reference(x, attention_mask=real).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED)
    loss.backward()
    grads = {name: p.grad for name, p in reference.named_parameters()}
    return Result(logits, loss, convert_transformers_state_dict(grads))


def masked(result, y):
    """Logits at padding are whatever they are: attention masks differ there."""
    outputs = torch.where((y != IGNORED)[..., None], result.outputs, 0)
    return Result(outputs, result.loss, result.grads)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_equals_transformers_with_padding(norm):
    reference, batch = make_reference(norm), make_batch()
    model = ours_of(reference)
    got, want = step(model, batch), reference_step(reference, batch)
    assert_parity(masked(got, batch[1]), masked(want, batch[1]))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_their_own_loss_shifts_the_labels_itself(norm):
    reference, (x, y) = make_reference(norm), make_batch()
    tokens = torch.cat([x[:, :1], y], dim=1)[:1]  # a row without padding: x and its last target
    want = reference(tokens, labels=tokens).loss
    assert want.dtype == torch.float32  # whatever the model's: it is computed so
    assert max_difference(next_token_loss(ours_of(reference)(x[:1]), y[:1]), want) < 1e-6


def test_equals_the_eager_attention_of_transformers_too():
    reference, batch = make_reference("pre", attn_implementation="eager"), make_batch()
    got, want = step(ours_of(reference), batch), reference_step(reference, batch)
    assert_parity(masked(got, batch[1]), masked(want, batch[1]))


def test_ten_steps_equal_transformers():
    reference = make_reference("pre")
    model = ours_of(reference)
    ours, theirs = paper_optimizer(model, 0.01, 0.1), paper_optimizer(reference, 0.01, 0.1)
    losses, wanted = [], []
    for i in range(10):
        losses.append(step(model, make_batch(i)).loss.detach())
        ours.step()
        wanted.append(reference_step(reference, make_batch(i)).loss.detach())
        theirs.step()
    assert_trajectory(losses, wanted)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_greedy_generation_equals_transformers_token_for_token(norm):
    reference = make_reference(norm, n_positions=30)
    model = GPT(GPTConfig(**SIZES | {"norm": norm, "context": 30})).double()
    model.load_state_dict(convert_transformers_state_dict(reference.state_dict()))
    x = make_batch()[0][:, :4]
    want = reference.generate(
        x, attention_mask=torch.ones_like(x), max_new_tokens=26, min_new_tokens=26,
        do_sample=False, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    assert torch.equal(sampling.generate(model, x, 26, temperature=0), want)
    assert torch.equal(sampling.generate(model, x, 26, temperature=0, use_cache=False), want)
    assert len(set(want[0].tolist())) > 2  # no endless repetition of one token


# --- sabotage: each of these faults must be noticed


def without_bias(model, name):
    layer = model.get_submodule(name)
    layer.forward = lambda x: nn.functional.linear(x, layer.weight)


def sabotage(model, fault, monkeypatch):
    blocks = list(model.h)
    if fault == "exact gelu":
        gelu = nn.functional.gelu
        monkeypatch.setattr(gpt_paper.F, "gelu", lambda x, approximate: gelu(x))
    elif fault == "swapped norms":
        for block in blocks:
            one, two = block.ln_1.forward, block.ln_2.forward
            block.ln_1.forward, block.ln_2.forward = two, one
    elif fault == "no bias in attention":
        without_bias(model, "h.0.attn.c_attn")
    elif fault == "no last norm":
        model.ln_f.forward = lambda x: x
    elif fault == "post-norm":
        for block in blocks:
            block.pre = False
    elif fault == "wrong epsilon":
        model.ln_f.eps = 1e-6
    elif fault == "keys and queries exchanged":
        for block in blocks:
            w = block.attn.c_attn.weight.data
            w[:12], w[12:24] = w[12:24].clone(), w[:12].clone()


FAULTS = [
    "exact gelu",
    "swapped norms",
    "no bias in attention",
    "no last norm",
    "post-norm",
    "wrong epsilon",
    "keys and queries exchanged",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_notices(fault, monkeypatch):
    reference, batch = make_reference("pre"), make_batch()
    model, want = ours_of(reference), masked(reference_step(reference, batch), batch[1])
    assert_parity(masked(step(model, batch), batch[1]), want)
    sabotage(model, fault, monkeypatch)
    with pytest.raises(ParityError):
        assert_parity(masked(step(model, batch), batch[1]), want)


def test_a_weight_that_was_not_turned_is_noticed():
    reference = make_reference("pre")
    model, state, batch = ours_of(reference), dict(reference.state_dict()), make_batch()
    want = masked(reference_step(reference, batch), batch[1])
    assert_parity(masked(step(model, batch), batch[1]), want)
    square = "transformer.h.0.attn.c_proj.weight"  # (D, D): no shape gives the fault away
    state[square] = state[square].T
    model.load_state_dict(convert_transformers_state_dict(state))
    with pytest.raises(ParityError):
        assert_parity(masked(step(model, batch), batch[1]), want)


# --- from_pretrained


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_from_pretrained_reads_a_folder_that_transformers_wrote(norm, tmp_path):
    reference = make_reference(norm, resid_pdrop=0.2)
    reference.save_pretrained(tmp_path)
    model = from_pretrained(tmp_path)
    assert model.config == GPTConfig(**SIZES | {"norm": norm, "dropout": 0.2})
    assert not model.training
    x, _ = make_batch()
    assert max_difference(model(x), reference(x).logits) < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_function": "relu"}, "expected activation_function of .* got 'relu'"),
        ({"activation_function": "gelu"}, "expected activation_function"),  # the exact form
        ({"n_inner": 5}, "expected n_inner"),
        ({"layer_norm_epsilon": 1e-6}, "expected layer_norm_epsilon"),
        ({"scale_attn_by_inverse_layer_idx": True}, "expected scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "expected scale_attn_weights"),
        ({"add_cross_attention": True}, "expected add_cross_attention"),
        ({"afn": "relu"}, "expected afn of .* got 'relu'"),  # GPT-1's name for the activation
    ],
)
def test_from_pretrained_refuses_what_ours_does_not_have(options, message, tmp_path):
    make_reference("post" if "afn" in options else "pre", **options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("options", [{"n_inner": 48}, {"activation_function": "gelu_pytorch_tanh"}])
def test_from_pretrained_takes_what_is_the_same_by_another_name(options, tmp_path):
    reference, (x, _) = make_reference("pre", **options), make_batch()
    reference.save_pretrained(tmp_path)
    assert max_difference(from_pretrained(tmp_path)(x), reference(x).logits) < 1e-12


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_masks_that_old_versions_stored_are_left_out(norm):
    state = dict(make_reference(norm).state_dict())
    masks = {"h.1.attn.bias": torch.ones(1, 1, 9, 9).tril(), "position_ids": torch.arange(9)}
    masks["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    old = state | {f"transformer.{name}": value for name, value in masks.items()}
    make_model(norm).load_state_dict(convert_transformers_state_dict(old))  # strict


def test_from_pretrained_refuses_another_kind_of_model(tmp_path):
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=11, hidden_size=12, num_hidden_layers=1, ffn_dim=8, num_attention_heads=3,
        max_position_embeddings=9, word_embed_proj_dim=12,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a gpt2 or openai-gpt model, got opt"):
        from_pretrained(tmp_path)


def test_an_output_with_a_table_of_its_own_is_refused():
    state = dict(make_reference("pre").state_dict())
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(ValueError, match="expected an output tied to the embedding"):
        convert_transformers_state_dict(state)


def test_a_published_tokenizer_serves_with_the_weights(tmp_path):
    """vocab.json and merges.txt as transformers' own tokenizer saves them."""
    from tokenizers import Tokenizer, models

    bpe = ByteBPE.train(["the cat and the hat and the bat"] * 3, 270)
    vocabulary = {token: i for i, token in enumerate(bpe.tokens)}
    Tokenizer(models.BPE(vocabulary, list(bpe.merges))).model.save(str(tmp_path))
    read = ByteBPE.from_published(
        (tmp_path / "vocab.json").read_text(), (tmp_path / "merges.txt").read_text()
    )
    assert read.tokens == bpe.tokens and read.encode("the cat") == bpe.encode("the cat")
    assert json.loads((tmp_path / "vocab.json").read_text())["<|endoftext|>"] == read.END


# --- the papers' figures


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GPTConfig.gpt1(), 116_534_784),
        (GPTConfig.gpt2(), 124_439_808),
        (GPTConfig.gpt2("medium"), 354_823_168),
        (GPTConfig.gpt2("large"), 774_030_080),
        (GPTConfig.gpt2("xl"), 1_557_611_200),
    ],
)
def test_parameter_counts(config, parameters):
    with torch.device("meta"):
        model = GPT(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    V, D, L, T = config.vocabulary, config.width, config.layers, config.context
    last = 2 * D if config.norm == "pre" else 0
    assert V * D + T * D + L * (12 * D * D + 13 * D) + last == parameters  # eq. 9.13


def test_sizes_of_the_presets():
    sizes = [vars(GPTConfig.gpt2(s)) for s in ("small", "medium", "large", "xl")]
    assert [(s["layers"], s["width"], s["heads"]) for s in sizes] == [
        (12, 768, 12), (24, 1024, 16), (36, 1280, 20), (48, 1600, 25)]  # fmt: skip
    assert {(s["vocabulary"], s["context"], s["norm"], s["dropout"]) for s in sizes} == {
        (50_257, 1024, "pre", 0.1)
    }
    one = GPTConfig.gpt1()
    assert (one.vocabulary, one.context, one.norm, one.dropout) == (40_478, 512, "post", 0.1)
    assert (one.width, one.heads, one.layers) == (768, 12, 12)
    assert GPTConfig.gpt1(dropout=0.0).dropout == 0 and GPTConfig() == GPTConfig.gpt2("small")


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_initial_weights(norm):
    torch.manual_seed(0)
    sizes = {"vocabulary": 500, "context": 100, "width": 128, "heads": 4, "layers": 8}
    model = GPT(GPTConfig(**sizes, norm=norm))
    small = 0.02 / math.sqrt(16) if norm == "pre" else 0.02
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        elif p.ndim == 1:
            assert (p == 1).all()
        else:
            std = small if name.endswith("c_proj.weight") else 0.02
            assert p.std().item() == pytest.approx(std, rel=0.03), name


# --- properties


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_token_changes_nothing_before_it(norm):
    model, (x, _) = make_model(norm), make_batch()
    before, changed = model(x), x.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    after = model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert ((before - after)[:, 4:].abs().amax(dim=(0, 2)) > 1e-6).all()


def test_padding_at_the_end_changes_nothing():
    model = make_model()
    x, y = make_batch()
    whole = step(model, (x, y))
    longer = torch.cat([x, torch.zeros_like(x[:, :2])], dim=1)
    targets = torch.cat([y, torch.full_like(y[:, :2], IGNORED)], dim=1)
    padded = step(model, (longer, targets))
    assert_parity(Result(padded.outputs[:, :7], padded.loss, padded.grads), whole)


def test_initial_loss_is_guessing():
    torch.manual_seed(0)
    model = GPT(GPTConfig(200, 32, 64, 4, 3, 0.0))
    x = torch.randint(200, (16, 32))
    loss = next_token_loss(model(x), torch.randint(200, (16, 32))).item()
    assert loss == pytest.approx(math.log(200), abs=0.03)


def test_it_overfits_a_batch():
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SIZES | {"width": 24}))
    x, y = make_batch()
    optimizer = paper_optimizer(model, 0.01, 0.0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = next_token_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_weight_decay_is_for_matrices():
    matrices, vectors = paper_optimizer(make_model()).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2} and len(matrices["params"]) == 10
    assert {p.ndim for p in vectors["params"]} == {1}
    assert matrices["lr"] == 2.5e-4 and matrices["betas"] == (0.9, 0.999)


# --- the cache


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("parts", [(1,) * 7, (4, 1, 1, 1), (3, 4), (7,), (2, 3, 2)], ids=str)
def test_the_cache_changes_no_logits(norm, parts):
    model, (x, _) = make_model(norm).eval(), make_batch()
    cache, got, at = model.empty_cache(3), [], 0
    for n in parts:
        got.append(model(x[:, at : at + n], cache))
        at += n
        assert cache.length == at and not cache.store.requires_grad
    assert max_difference(torch.cat(got, dim=1), model(x)) < 1e-12


def test_a_full_cache_is_an_error():
    model, (x, _) = make_model(), make_batch()
    cache = model.empty_cache(3)
    model(x, cache)
    with pytest.raises(ValueError, match="sequence of 10 tokens exceeds the context of 9"):
        model(x[:, :3], cache)


@pytest.mark.parametrize("T", [3, 9, 12])
def test_generation_beyond_the_context_is_the_same_with_and_without_a_cache(T):
    model = make_model()
    x = torch.randint(11, (2, T), generator=torch.Generator().manual_seed(5))
    how = {"temperature": 0.9, "top_k": 7, "top_p": 0.95}
    texts = [
        sampling.generate(
            model, x, 14, **how, generator=torch.Generator().manual_seed(3), use_cache=use
        )
        for use in (True, False)
    ]
    assert texts[0].shape == (2, T + 14) and torch.equal(*texts)
    assert torch.equal(texts[0][:, :T], x)


@pytest.mark.parametrize(
    ("use_cache", "want"), [(True, [4, 1, 1, 1, 1, 1, 9, 9]), (False, [4, 5, 6, 7, 8, 9, 9, 9])]
)
def test_a_cache_spares_the_model_the_tokens_that_it_has(use_cache, want, monkeypatch):
    model, seen = make_model(), []
    forward = model.forward

    def counted(tokens, *rest):
        seen.append(tokens.shape[1])
        return forward(tokens, *rest)

    monkeypatch.setattr(model, "forward", counted)
    sampling.generate(model, make_batch()[0][:, :4], 8, temperature=0, use_cache=use_cache)
    assert seen == want  # the context is 9


# --- sampling


def some_logits():
    return 2 * torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 0.01])
@pytest.mark.parametrize("top_k", [0, 1, 4, 100])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_the_distribution_is_that_of_transformers_and_of_level_1(temperature, top_k, top_p):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = some_logits()
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    got = sampling.next_distribution(logits, temperature, top_k, top_p)
    assert max_difference(got, warped.softmax(dim=-1)) < 1e-12
    want = gpt_sampling_numpy.next_distribution(logits.numpy(), temperature, top_k, top_p)
    assert max_difference(got, want) < 1e-12


def test_tokens_are_drawn_by_their_probabilities():
    logits = some_logits()[:1].expand(20_000, 9)
    drawn = sampling.pick(logits, 1.5, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=9) / len(drawn)
    assert (shares - sampling.next_distribution(logits[:1], 1.5)[0]).abs().max() < 0.015
    assert torch.equal(sampling.pick(some_logits(), 0), some_logits().argmax(dim=-1))


@pytest.mark.parametrize("how", [(0.5, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.6)])
def test_drawing_and_writing_follow_the_rules(how):
    def seed():
        return torch.Generator().manual_seed(1)

    logits = some_logits()[:1].expand(50, 9)
    p = sampling.next_distribution(logits, *how)
    drawn = sampling.pick(logits, *how, seed())
    assert torch.equal(drawn, torch.multinomial(p, 1, generator=seed())[:, 0])

    model, (x, _) = make_model().eval(), make_batch()
    want, generator = x, seed()
    for _ in range(12):
        new = sampling.pick(model(want[:, -9:])[:, -1], *how, generator)
        want = torch.cat([want, new[:, None]], dim=1)
    assert torch.equal(sampling.generate(model, x, 12, *how, seed()), want)
    assert not torch.equal(sampling.generate(model, x, 12, generator=seed()), want)


@pytest.mark.parametrize("how", [(1.0, 20, 1.0), (1.0, 0, 0.3)])
def test_ties_are_kept_or_dropped_as_at_level_1(how):
    logits = torch.arange(40, dtype=torch.float64)[None] % 2
    want = gpt_sampling_numpy.next_distribution(logits.numpy(), *how)
    assert max_difference(sampling.next_distribution(logits, *how), want) < 1e-12


def test_generation_ends_when_every_sequence_has_stopped():
    model, (x, _) = make_model(context=40), make_batch()
    whole = sampling.generate(model, x, 30, generator=torch.Generator().manual_seed(0))
    written = whole[:, 7:]
    stop = next(t for t in range(11) if (written == t).any(dim=1).all())
    first = (written == stop).int().argmax(dim=1).max().item()
    got = sampling.generate(model, x, 30, generator=torch.Generator().manual_seed(0), stop=stop)
    assert torch.equal(got, whole[:, : 7 + first + 1]) and first < 29


def test_generation_leaves_the_mode_as_it_was():
    model, (x, _) = make_model(dropout=0.5).train(), make_batch()
    one, two = (sampling.generate(model, x, 4, temperature=0) for _ in range(2))
    assert torch.equal(one, two) and model.training
    sampling.generate(model.eval(), x, 1)
    assert not model.training


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 13}, "expected a width that 3 heads divide, got 13"),
        *(({n: 0}, f"expected {n} of at least 1, got 0") for n in SIZES if n != "dropout"),
        ({"dropout": 1.0}, r"expected dropout in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"expected dropout in \[0, 1\), got -0.1"),
        ({"norm": "both"}, "expected norm 'pre' or 'post', got 'both'"),
    ],
)
@pytest.mark.parametrize("module", [gpt_paper, low, np_level], ids=lambda m: m.__name__)
def test_bad_sizes(module, options, message):
    with pytest.raises(ValueError, match=message):
        module.GPTConfig(**SIZES | options)


def test_bad_input():
    model = make_model()
    with pytest.raises(ValueError, match=r"expected tokens \(B, T\), got \(5,\)"):
        model(torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="sequence of 10 tokens exceeds the context of 9"):
        model(torch.zeros(2, 10, dtype=torch.long))
    with pytest.raises(ValueError, match="expected a size of small, .* got 'tiny'"):
        GPTConfig.gpt2("tiny")
    with pytest.raises(ValueError, match="expected at least one token"):
        sampling.generate(model, torch.zeros(2, 0, dtype=torch.long), 3)


@pytest.mark.parametrize("how", [(0.0, 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1)])
def test_bad_sampling(how):
    with pytest.raises(ValueError, match="expected temperature above 0, top_k of at least 0"):
        sampling.next_distribution(some_logits(), *how)
