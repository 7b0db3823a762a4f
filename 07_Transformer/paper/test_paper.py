"""Tests of level 3: equal to levels 1 and 2, to torch's layers and to Marian; the paper's figures.

Every comparison perturbs all parameters first: fresh biases are zero and fresh gains one.
"""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import MarianConfig, MarianMTModel

import decoding_lowlevel
import decoding_numpy
import decoding_paper
import training_lowlevel
import training_paper as training
import transformer_lowlevel as low
import transformer_numpy as np_level
import transformer_paper
from optimizers_numpy import Adam
from transformer_paper import (
    DecoderLayer,
    EncoderLayer,
    Transformer,
    TransformerConfig,
    convert_marian_state_dict,
    sinusoidal_positions,
)
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, to_torch

SIZES = {"vocabulary": 11, "width": 12, "heads": 3, "hidden": 7, "layers": 2, "dropout": 0.0}


def make_model(**options):
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**SIZES | options)).double()
    perturb(model)
    return model


def make_batch(seed=0, empty=True):
    """Sources (3, 6) and labels (3, 5), padded; one source may be nothing but padding."""
    generator = torch.Generator().manual_seed(seed)
    source, labels = (torch.randint(3, 11, (3, n), generator=generator) for n in (6, 5))
    source[1, 4:] = 0
    if empty:
        source[2] = 0
    labels[0, 4] = labels[1, 2] = labels[2, 3] = 2
    labels[1, 3:] = labels[2, 4:] = 0
    return source, labels


def step(model, batch):
    source, labels = batch
    model.zero_grad()
    logits = model(source, training.shift_right(labels, 1))
    loss = training.smoothed_cross_entropy(logits, labels, 0)
    loss.backward()
    return Result(logits, loss, {name: p.grad.clone() for name, p in model.named_parameters()})


# --- across levels


def numpy_model(model):
    config = np_level.TransformerConfig(**vars(model.config))
    reference = np_level.Transformer(config, np.random.default_rng(0))
    load_into(reference.params, model)
    return reference


def numpy_step(reference, batch):
    source, labels = (t.numpy() for t in batch)
    logits = reference.forward(source, np_level.shift_right(labels, 1))
    loss, cache = np_level.smoothed_cross_entropy_forward(logits, labels, 0)
    grads = reference.backward(np_level.smoothed_cross_entropy_backward(cache))
    return Result(logits, loss, grads)


def lowlevel_step(params, batch, config):
    source, labels = batch
    logits = low.forward(params, source, training_lowlevel.shift_right(labels, 1), config)
    loss = training_lowlevel.smoothed_cross_entropy(logits, labels, 0)
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


@pytest.mark.parametrize("positions", transformer_paper.LAYOUTS)
def test_equals_levels_1_and_2(positions):
    model, batch = make_model(positions=positions), make_batch()
    config = low.TransformerConfig(**vars(model.config))
    got = step(model, batch)
    assert_parity(got, numpy_step(numpy_model(model), batch))
    assert_parity(got, lowlevel_step(to_torch(model, requires_grad=True), batch, config))


def test_ten_steps_with_the_papers_schedule_equal_level_1():
    model = make_model()
    reference = numpy_model(model)
    optimizer = training.paper_optimizer(model.parameters())
    numpy_optimizer = Adam(reference.params, betas=(0.9, 0.98), eps=1e-9)
    losses, numpy_losses = [], []
    for i in range(1, 11):
        batch = make_batch(i)
        optimizer.param_groups[0]["lr"] = training.warmup_rate(i, 12, warmup=4)
        numpy_optimizer.lr = np_level.warmup_rate(i, 12, warmup=4)
        losses.append(step(model, batch).loss.detach())
        optimizer.step()
        want = numpy_step(reference, batch)
        numpy_optimizer.step(want.grads)
        numpy_losses.append(want.loss)
    assert_trajectory(losses, numpy_losses)


def test_dropout_stands_in_the_same_places_as_at_level_2(monkeypatch):
    """Random masks differ from level to level; so a fixed one takes their place."""

    def marked(x):
        pattern = 1 + 0.3 * torch.sin(torch.arange(x[0].numel(), dtype=torch.float64))
        return x * pattern.view(x.shape[1:])

    monkeypatch.setattr(low, "dropout", lambda x, rate, generator: marked(x))
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: marked(x))
    model, batch = make_model(dropout=0.3), make_batch()
    config = low.TransformerConfig(**vars(model.config))
    want = lowlevel_step(to_torch(model, requires_grad=True), batch, config)
    assert_parity(step(model, batch), want)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.3}


# --- torch's layers


def load_attention(theirs, ours):
    for kind in ("weight", "bias"):
        parts = [getattr(getattr(ours, f"{x}_proj"), kind) for x in "qkv"]
        getattr(theirs, f"in_proj_{kind}").data = torch.cat(parts).detach()
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


def torch_layer(ours, decoder):
    kind = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
    theirs = kind(12, 3, 7, dropout=0.0, batch_first=True, norm_first=False).double()
    load_attention(theirs.self_attn, ours.self_attn)
    norms = [ours.self_attn_layer_norm, ours.final_layer_norm]
    if decoder:
        load_attention(theirs.multihead_attn, ours.encoder_attn)
        norms.insert(1, ours.encoder_attn_layer_norm)
    for i, norm in enumerate(norms, start=1):
        getattr(theirs, f"norm{i}").load_state_dict(norm.state_dict())
    theirs.linear1.load_state_dict(ours.fc1.state_dict())
    theirs.linear2.load_state_dict(ours.fc2.state_dict())
    return theirs


def grads(layer, names):
    return [layer.get_parameter(name).grad for name in names]


@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
def test_layers_equal_torchs(decoder):
    torch.manual_seed(0)
    ours = (DecoderLayer if decoder else EncoderLayer)(TransformerConfig(**SIZES)).double()
    perturb(ours)
    theirs = torch_layer(ours, decoder)
    x, memory = torch.randn(3, 5, 12).double(), torch.randn(3, 6, 12).double()
    real = torch.tensor([6, 4, 5])[:, None] > torch.arange(6)
    causal = torch.ones(5, 5).bool().tril()
    # Torch's masks are True where one may NOT attend.
    if decoder:
        y = ours(x, causal, memory, real[:, None, None])
        want = theirs(x, memory, tgt_mask=~causal, memory_key_padding_mask=~real)
    else:
        y = ours(memory, real[:, None, None])
        want = theirs(memory, src_key_padding_mask=~real)
    dy = torch.randn_like(y)
    y.backward(dy)
    want.backward(dy)
    assert max_difference(y, want) < 1e-12
    pairs = [("fc1.weight", "linear1.weight"), ("fc2.bias", "linear2.bias")]
    pairs += [("self_attn.out_proj.weight", "self_attn.out_proj.weight")]
    pairs += [("self_attn_layer_norm.weight", "norm1.weight")]
    for got, reference in zip(
        grads(ours, [a for a, _ in pairs]), grads(theirs, [b for _, b in pairs]), strict=True
    ):
        assert max_difference(got, reference) < 1e-11
    parts = [ours.get_parameter(f"self_attn.{x}_proj.weight").grad for x in "qkv"]
    assert max_difference(torch.cat(parts), theirs.self_attn.in_proj_weight.grad) < 1e-11


# --- Marian


def make_marian(**options):
    """A small MarianMTModel in float64: ReLU, scaled embeddings, everything perturbed."""
    torch.manual_seed(1)
    sizes = {f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in (
        ("layers", 2), ("attention_heads", 3), ("ffn_dim", 7))}  # fmt: skip
    config = {
        "vocab_size": 11,
        "d_model": 12,
        "max_position_embeddings": 20,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "forced_eos_token_id": None,
        "decoder_start_token_id": 1,
        "scale_embedding": True,
        "activation_function": "relu",
        "dropout": 0.0,
        "attn_implementation": "sdpa",
    }
    marian = MarianMTModel(MarianConfig(**sizes | config | options)).double().eval()
    perturb(dict(marian.named_parameters()))
    # Marian keeps its table of positions in float32; the comparison needs the other digits too.
    table = sinusoidal_positions(20, 12, "halves")
    for stack in (marian.model.encoder, marian.model.decoder):
        assert stack.embed_positions.weight.shape == table.shape
        stack.embed_positions.weight.data = table.clone()
    return marian


def marian_step(marian, batch):
    source, labels = batch
    marian.zero_grad()
    logits = marian(
        input_ids=source,
        attention_mask=(source != 0).long(),
        decoder_input_ids=training.shift_right(labels, 1),
    ).logits
    loss = training.smoothed_cross_entropy(logits, labels, 0)
    loss.backward()
    grads = {
        name.removeprefix("model."): p.grad
        for name, p in marian.named_parameters()
        if p.requires_grad
    }
    return Result(logits, loss, grads)


def compare_with_marian(fault=lambda model: None, **options):
    marian = make_marian()
    model = make_model(positions="halves", **options)
    model.load_state_dict(convert_marian_state_dict(marian.state_dict()))
    fault(model)
    batch = make_batch(empty=False)
    want = marian_step(marian, batch)
    real = batch[1] != 0
    got = step(model, batch)
    assert_parity(
        Result(got.outputs[real], got.loss, got.grads),
        Result(want.outputs[real], want.loss, want.grads),
    )


def test_marians_table_of_positions_is_ours_in_halves():
    fresh = MarianMTModel(MarianConfig(vocab_size=11, d_model=12, pad_token_id=0,
        encoder_layers=1, decoder_layers=1, encoder_ffn_dim=7, decoder_ffn_dim=7,
        encoder_attention_heads=3, decoder_attention_heads=3))  # fmt: skip
    table = fresh.model.encoder.embed_positions.weight
    assert max_difference(table, sinusoidal_positions(len(table), 12, "halves")) < 1e-7


def test_equals_marian():
    compare_with_marian()


def test_greedy_search_equals_marians():
    found = set()
    for seed in range(3):
        marian, model = make_marian(), make_model(positions="halves")
        perturb(dict(marian.named_parameters()), scale=0.3, seed=seed)
        table = sinusoidal_positions(20, 12, "halves")
        marian.model.encoder.embed_positions.weight.data = table
        marian.model.decoder.embed_positions.weight.data = table
        model.load_state_dict(convert_marian_state_dict(marian.state_dict()))
        source, _ = make_batch(seed, empty=False)
        want = marian.generate(
            input_ids=source,
            attention_mask=(source != 0).long(),
            max_new_tokens=9,
            num_beams=1,
            do_sample=False,
            suppress_tokens=[0, 1],
        )
        got = decoding_paper.greedy_search(model.predictor(source), 3, 9, 1, 2)
        for ours, theirs in zip(got, want[:, 1:].tolist(), strict=True):
            assert ours == [token for token in theirs if token not in (0, 2)]
            found.add(len(ours))
    assert len(found) > 1  # some sentences ended, others did not


def wrong_epsilon(model):
    model.encoder.layers[0].final_layer_norm.eps = 1e-6


def interleaved_positions(model):
    model.config = TransformerConfig(**vars(model.config) | {"positions": "interleaved"})


def unscaled_embedding(model):
    def embed(tokens):
        positions = sinusoidal_positions(tokens.shape[1], 12, "halves")
        return model.shared(tokens) + positions

    model.embed = embed


def pre_norm(model):
    layer = model.encoder.layers[1]

    def forward(x, mask):
        h = layer.self_attn_layer_norm(x)
        x = x + layer.self_attn(h, h, mask)[0]
        return x + layer.fc2(layer.fc1(layer.final_layer_norm(x)).relu())

    layer.forward = forward


def no_padding_mask(model):
    model.padding_mask = lambda source: torch.ones_like(source).bool()[:, None, None]


def no_causal_mask(model):
    for layer in model.decoder.layers:
        forward = layer.forward
        layer.forward = lambda x, mask, *rest, forward=forward: forward(
            x, torch.ones_like(mask), *rest
        )


def swapped_norms(model):
    layer = model.decoder.layers[0]
    layer.self_attn_layer_norm, layer.encoder_attn_layer_norm = (
        layer.encoder_attn_layer_norm,
        layer.self_attn_layer_norm,
    )


FAULTS = [
    wrong_epsilon,
    interleaved_positions,
    unscaled_embedding,
    pre_norm,
    no_padding_mask,
    no_causal_mask,
    swapped_norms,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_sabotage_is_noticed(fault):
    compare_with_marian()
    with pytest.raises(ParityError, match=r"outputs|gradient names"):
        compare_with_marian(fault)


def untied(model):
    table = copy.deepcopy(model.shared.weight).detach()

    def decode(target, memory, source):
        causal = torch.ones(target.shape[1], target.shape[1]).bool().tril()
        x = model.decoder(model.embed(target), causal, memory, model.padding_mask(source))
        return x @ table.T

    model.decode = decode


def test_a_table_that_is_not_tied_is_noticed_by_its_gradient_alone():
    with pytest.raises(ParityError, match="gradient of shared.weight"):
        compare_with_marian(untied)


def test_a_fresh_model_hides_a_missing_bias():
    """Why everything is perturbed: a bias that starts at zero may be left out unnoticed."""
    torch.manual_seed(0)
    fresh, faulty = Transformer(TransformerConfig(**SIZES)), None
    faulty = copy.deepcopy(fresh)
    faulty.encoder.layers[0].fc1.bias = None
    source, labels = make_batch()
    assert torch.equal(fresh(source, labels), faulty(source, labels))
    perturb(fresh)
    perturb(faulty)
    assert max_difference(fresh(source, labels), faulty(source, labels)) > 1e-3


# --- the paper's figures


def count(config):
    with torch.device("meta"):
        model = Transformer(config)
    return model, sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(TransformerConfig.base(), 63_082_496), (TransformerConfig.big(), 214_245_376)],
    ids=["base", "big"],
)
def test_parameter_counts(config, parameters):
    """Table 3 gives 65 and 213 million for this vocabulary of "about 37000"."""
    model, total = count(config)
    assert total == parameters
    V, D, F, L = config.vocabulary, config.width, config.hidden, config.layers
    attention, mlp, norm = 4 * (D * D + D), 2 * D * F + F + D, 2 * D
    assert total == V * D + L * (3 * attention + 2 * mlp + 5 * norm)  # eq. 7.26
    with torch.device("meta"):
        tokens = torch.zeros(2, 7, dtype=torch.long)
        assert model.eval()(tokens, tokens[:, :5]).shape == (2, 5, 37_000)


def test_table_3():
    base, big = TransformerConfig.base(), TransformerConfig.big()
    assert (base.layers, base.width, base.hidden, base.heads) == (6, 512, 2048, 8)
    assert (big.layers, big.width, big.hidden, big.heads) == (6, 1024, 4096, 16)
    assert (base.dropout, big.dropout) == (0.1, 0.3)
    assert vars(base) == vars(np_level.TransformerConfig()) == vars(TransformerConfig())
    assert TransformerConfig.big(dropout=0.1).dropout == 0.1
    norms = [name for name, _ in count(base)[0].named_modules() if name.endswith("layer_norm")]
    assert len(norms) == 30  # 2 and 3 a layer; none after the last


def test_optimizer_and_schedule_of_section_5_3():
    optimizer = training.paper_optimizer([nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults["betas"] == (0.9, 0.98) and optimizer.defaults["eps"] == 1e-9
    rates = [training.warmup_rate(i, 512) for i in range(1, 10_001)]
    assert int(np.argmax(rates)) == 3999 and math.isclose(max(rates), 6.9877e-4, rel_tol=1e-4)
    assert rates == [np_level.warmup_rate(i, 512) for i in range(1, 10_001)]


# --- properties


def test_the_decoder_is_causal_and_padding_changes_nothing():
    model = make_model()
    source, labels = make_batch(empty=False)
    target = training.shift_right(labels, 1)
    before = model(source, target)
    changed = target.clone()
    changed[:, 3] = 7
    assert torch.equal(before[:, :3], model(source, changed)[:, :3])
    assert max_difference(before[:, 3:], model(source, changed)[:, 3:]) > 1e-3
    alone = model(source[1:2, :4], target[1:2, :3])
    assert max_difference(alone, before[1:2, :3]) < 1e-13


def test_the_encoder_without_positions_is_permutation_equivariant(monkeypatch):
    model = make_model()
    source, order = torch.tensor([[3, 4, 5, 6, 7]]), torch.tensor([4, 2, 0, 1, 3])
    with_positions = model.encode(source)
    assert max_difference(model.encode(source[:, order]), with_positions[:, order]) > 1e-3
    monkeypatch.setattr(
        transformer_paper, "sinusoidal_positions", lambda T, D, layout: torch.zeros(T, D)
    )
    y = model.encode(source)
    assert max_difference(model.encode(source[:, order]), y[:, order]) < 1e-13


def test_an_empty_source_gives_finite_gradients():
    model = make_model()
    with torch.autograd.set_detect_anomaly(True):  # raises where a gradient becomes NaN
        result = step(model, make_batch())
    assert all(grad.isfinite().all() for grad in result.grads.values())


def test_attention_maps_equal_level_1s():
    model = make_model()
    reference = numpy_model(model)
    source, labels = make_batch()
    target = training.shift_right(labels, 1)
    maps = model.attention_maps(source, target)
    reference.forward(source.numpy(), target.numpy())
    want = reference.attention_maps()
    assert set(maps) == set(want)
    assert all(max_difference(maps[name], want[name]) < 1e-12 for name in want)
    assert not any(m._forward_hooks for m in model.modules())


def test_initial_loss_is_a_little_more_than_guessing():
    """Equation 7.30: logits of variance one cost half a nat beyond ln V."""
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(500, 64, 4, 128, 2)).eval()
    source, labels = torch.randint(3, 500, (2, 8, 20))
    loss = training.smoothed_cross_entropy(
        model(source, training.shift_right(labels, 1)), labels, 0
    )
    assert abs(loss.item() - (math.log(500) + 0.5)) < 0.2


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(20, 32, 4, 64, 1, dropout=0.0))
    optimizer = training.paper_optimizer(model.parameters())
    source, labels = torch.randint(3, 20, (2, 6, 7))
    labels[:, -1] = 2
    for i in range(1, 121):
        optimizer.param_groups[0]["lr"] = training.warmup_rate(i, 32, warmup=100) / 2
        optimizer.zero_grad()
        logits = model(source, training.shift_right(labels, 1))
        loss = training.smoothed_cross_entropy(logits, labels, 0, label_smoothing=0.0)
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    found = decoding_paper.beam_search(model.predictor(source), 6, 10, 1, 2)
    assert [tokens for tokens, _ in found] == labels[:, :-1].tolist()


def test_fresh_weights_follow_their_rules():
    """Glorot's bound by each shape, biases 0, gains 1, and a deviation of 1/√D in the table."""
    torch.manual_seed(0)
    params = dict(Transformer(TransformerConfig(400, 48, 3, 90, 2)).named_parameters())
    assert abs(params.pop("shared.weight").std() * 48**0.5 - 1) < 0.03
    for name, p in params.items():
        if p.ndim == 1:
            assert (p == name.endswith("norm.weight")).all(), name
        else:
            bound = (6 / sum(p.shape)) ** 0.5
            assert 0.98 * bound < p.abs().max() <= bound, name
            assert abs(p.std() * 3**0.5 / bound - 1) < 0.06, name


def test_average_of_checkpoints():
    states = [
        {"a": torch.full((2,), float(i)), "b": torch.tensor([i, 2.0 * i]).half()} for i in range(5)
    ]
    mean = training.average_checkpoints(iter(states))
    assert mean["a"].tolist() == [2.0, 2.0] and mean["b"].tolist() == [2.0, 4.0]
    assert mean["a"].dtype == torch.float32 and mean["b"].dtype == torch.float16
    large = [{"a": torch.tensor([40_000.0]).half()} for _ in range(3)]  # their sum is no half
    assert training.average_checkpoints(large)["a"] == large[0]["a"]
    models = [make_model() for _ in range(2)]
    perturb(models[1], seed=7)
    make_model().load_state_dict(training.average_checkpoints(m.state_dict() for m in models))


# --- searching


def test_the_predictor_equals_level_1s():
    model, (source, _) = make_model(), make_batch()
    beginnings, rows = torch.tensor([[1, 4, 5], [1, 6, 7], [1, 4, 5]]), torch.tensor([1, 0, 0])
    got = model.predictor(source)(beginnings, rows)
    want = numpy_model(model).predictor(source.numpy())(beginnings.numpy(), rows.numpy())
    assert (got[:, :2] == -math.inf).all()  # padding and begin are never written
    assert max_difference(got[:, 2:], want[:, 2:]) < 1e-12


class Steady:
    """The same probabilities after every beginning; keeps what it was asked."""

    def __init__(self, *p):
        self.p, self.asked = torch.tensor(p), []

    def __call__(self, beginnings, rows):
        self.asked.append(beginnings.tolist())
        return self.p.log().expand(len(rows), -1)


def test_the_searches_end_as_soon_as_nothing_can_win():
    greedy, beam = Steady(0, 0, 0.97, 0.02, 0.01), Steady(0, 0, 0.97, 0.02, 0.01)
    assert decoding_paper.greedy_search(greedy, 2, 10, 1, 2) == [[], []]
    assert [s for s, _ in decoding_paper.beam_search(beam, 2, 10, 1, 2)] == [[], []]
    assert len(greedy.asked) == len(beam.asked) == 1


def test_a_sentence_that_ends_takes_no_place_in_the_beam():
    log_probs = Steady(0, 0, 0.4, 0.35, 0.25)
    decoding_paper.beam_search(log_probs, 2, 8, 1, 2, beam=2)
    assert log_probs.asked[1] == 2 * [[1, 3], [1, 4]]


def tiny_language(V=5, seed=0):
    """Random log-probabilities of the next symbol, fixed by the beginning and the sentence."""

    def log_probs(beginnings, rows):
        result = []
        for row, tokens in zip(rows.tolist(), beginnings.tolist(), strict=True):
            logits = 2 * np.random.default_rng([seed, row, *tokens]).standard_normal(V)
            log_p = torch.tensor(logits).log_softmax(dim=0)
            log_p[:2] = -math.inf  # padding and begin
            result.append(log_p)
        return torch.stack(result)

    return log_probs


def brute_force(log_probs, row, limit, alpha):
    best, best_score = None, -math.inf
    waiting = [([1], 0.0)]
    while waiting:
        tokens, log_p = waiting.pop()
        if tokens[-1] == 2 or len(tokens) - 1 == limit:
            score = log_p / ((5 + len(tokens) - 1) / 6) ** alpha
            if score > best_score:
                best, best_score = [t for t in tokens[1:] if t != 2], score
            continue
        following = log_probs(torch.tensor([tokens]), torch.tensor([row]))[0]
        waiting += [([*tokens, s], log_p + following[s].item()) for s in (2, 3, 4)]
    return best, best_score


@pytest.mark.parametrize("search", [decoding_paper.beam_search, decoding_lowlevel.beam_search])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_what_brute_force_finds(search, alpha):
    log_probs = tiny_language()
    got = search(log_probs, 3, 3, 1, 2, beam=9, alpha=alpha)
    for row, (tokens, score) in enumerate(got):
        want, best = brute_force(log_probs, row, 3, alpha)
        assert tokens == want and math.isclose(score, best, rel_tol=1e-12)


def late_riser(beginnings, rows):
    """The end at once with 0.5; or, with 0.4, five symbols 3 and then the end, all certain."""
    p = torch.zeros(len(beginnings), 5)
    for n, tokens in enumerate(beginnings.tolist()):
        p[n, 2:4] = torch.tensor([0.5, 0.4]) if len(tokens) == 1 else torch.tensor(
            [0.0, 1.0] if len(tokens) < 6 else [1.0, 0.0]
        )  # fmt: skip
    return p.log()


@pytest.mark.parametrize("search", [decoding_paper.beam_search, decoding_lowlevel.beam_search])
def test_the_search_does_not_end_while_a_longer_sentence_can_win(search):
    """Equation 7.61: ln 0.4 divided by the penalty of six symbols beats ln 0.5."""
    ((tokens, score),) = search(late_riser, 1, 8, 1, 2)
    assert tokens == [3] * 5
    assert math.isclose(score, math.log(0.4) / (11 / 6) ** 0.6, rel_tol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("beam", [1, 2, 4])
def test_many_at_a_time_equal_level_1s_one_by_one(beam, alpha):
    lengths = set()
    for seed in range(3):
        model = make_model()
        perturb(model, scale=0.3, seed=seed)
        source, _ = make_batch(seed)
        arguments = {"sentences": 3, "limit": 8, "bos_id": 1, "eos_id": 2, "beam": beam}
        got = decoding_paper.beam_search(model.predictor(source), alpha=alpha, **arguments)
        reference = numpy_model(model).predictor(source.numpy())
        want = decoding_numpy.beam_search(reference, alpha=alpha, **arguments)
        assert [tokens for tokens, _ in got] == [tokens for tokens, _ in want]
        assert max_difference([s for _, s in got], [s for _, s in want]) < 1e-9
        lengths |= {len(tokens) for tokens, _ in got}
    assert len(lengths) > 1


def without_penalty(length, alpha):
    return 1.0


def marians_penalty(length, alpha):
    """What transformers divides by: the length itself to the power of alpha."""
    return length**alpha


@pytest.mark.parametrize("fault", [without_penalty, marians_penalty])
def test_another_length_penalty_is_noticed(fault, monkeypatch):
    arguments = tiny_language(seed=3), 8, 4, 1, 2
    want = decoding_lowlevel.beam_search(*arguments)
    assert max_difference([s for _, s in decoding_paper.beam_search(*arguments)],
        [s for _, s in want]) < 1e-9  # fmt: skip
    monkeypatch.setattr(decoding_paper, "length_penalty", fault)
    scores = [s for _, s in decoding_paper.beam_search(*arguments)]
    assert max_difference(scores, [s for _, s in want]) > 0.01


# --- bad input


def biased_marian():
    marian = make_marian()
    marian.final_logits_bias += 1
    return convert_marian_state_dict(marian.state_dict())


def untied_marian():
    state = make_marian().state_dict()
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    return convert_marian_state_dict(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TransformerConfig(vocabulary=0), "expected vocabulary of at least 1, got 0"),
        (lambda: TransformerConfig(heads=7), "an even width that 7 heads divide, got 512"),
        (lambda: TransformerConfig(width=15, heads=3), "an even width that 3 heads divide, got 15"),
        (lambda: TransformerConfig(dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: TransformerConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: TransformerConfig(positions="x"), "expected positions of .*, got 'x'"),
        (lambda: TransformerConfig(pad_id=1), "three different special symbols below 37000"),
        (lambda: TransformerConfig(pad_id=-1), "three different special symbols .* got -1, 1, 2"),
        (lambda: make_model().encode(torch.zeros(3).long()), r"expected tokens \(B, T\), got"),
        (lambda: training.warmup_rate(0, 512), "expected steps counted from 1, got 0"),
        (lambda: training.average_checkpoints([]), "expected at least one state, got none"),
        (
            lambda: training.average_checkpoints([{"a": torch.ones(1)}, {"b": torch.ones(1)}]),
            "expected states with the same names, got others",
        ),
        (lambda: decoding_paper.beam_search(None, 1, 3, 1, 2, beam=0), "expected beam of at least"),
        (
            lambda: decoding_paper.beam_search(None, 1, 3, 1, 2, alpha=-1.0),
            "alpha of at least 0, got 4, -1.0",
        ),
        (biased_marian, "expected final_logits_bias of zeros"),
        (untied_marian, "expected one shared table, got another as lm_head.weight"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("size", ["vocabulary", "width", "heads", "hidden", "layers"])
def test_every_size_is_at_least_1(size):
    with pytest.raises(ValueError, match=f"expected {size} of at least 1, got 0"):
        TransformerConfig(**{size: 0})
