"""Tests of level 2: the same weights as level 1, the same outputs, gradients, training, search."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import attention_numpy
import decoding_lowlevel
import decoding_numpy
import training_lowlevel as training
import transformer_layers_numpy
import transformer_lowlevel as low
import transformer_numpy as np_level
from optimizers_numpy import Adam
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, load_weights, save_weights, to_torch

SIZES = {"vocabulary": 11, "width": 12, "heads": 3, "hidden": 7, "layers": 2, "dropout": 0.0}


def make_batch(seed=0):
    """Sources (3, 6) and labels (3, 5), padded; one source is nothing but padding."""
    rng = np.random.default_rng(seed)
    source, labels = (rng.integers(3, 11, size=(3, n)) for n in (6, 5))
    source[1, 4:], source[2] = 0, 0
    labels[0, 4] = labels[1, 2] = labels[2, 3] = 2
    labels[1, 3:] = labels[2, 4:] = 0
    return source, labels


def make_numpy_model(**options):
    model = np_level.Transformer(
        np_level.TransformerConfig(**SIZES | options), np.random.default_rng(0)
    )
    perturb(model.params)
    return model


def numpy_step(model, source, labels, rng=None):
    train = rng is not None
    logits = model.forward(source, np_level.shift_right(labels, 1), train, rng)
    loss, cache = np_level.smoothed_cross_entropy_forward(logits, labels, 0)
    grads = model.backward(np_level.smoothed_cross_entropy_backward(cache))
    return Result(logits, loss, grads)


def lowlevel_step(params, batch, generator=None, **options):
    source, labels = (torch.from_numpy(a) for a in batch)
    config = low.TransformerConfig(**SIZES | options)
    logits = low.forward(params, source, training.shift_right(labels, 1), config, generator)
    loss = training.smoothed_cross_entropy(logits, labels, 0)
    for p in params.values():
        p.grad = None
    loss.backward()
    return Result(logits, loss, {name: p.grad for name, p in params.items()})


def compare(fault=lambda params: None, **options):
    model = make_numpy_model(**options)
    params = to_torch(model.params, requires_grad=True)
    fault(params)
    batch = make_batch()
    assert_parity(lowlevel_step(params, batch, **options), numpy_step(model, *batch))


# --- across levels


@pytest.mark.parametrize("positions", ["interleaved", "halves"])
def test_equals_level_1(positions):
    compare(positions=positions)


def marked(x):
    """In place of dropout: a pattern that says which array it met, by its width."""
    return 1 + 0.3 * np.sin(np.arange(x.shape[1] * x.shape[2])).reshape(x.shape[1:])


def with_dropout_inside(x, p, name):
    """After the ReLU, where torch's own layers have one and the paper has none."""
    h = torch.relu(low.linear(x, p, f"{name}fc1"))
    return low.linear(low.dropout(h, 0.25, None), p, f"{name}fc2")


def test_dropout_stands_in_the_same_places_as_at_level_1(monkeypatch):
    """Random masks differ from level to level; so a fixed one takes their place."""

    def forward(x, rate, rng, train):
        assert rate == 0.25 and train
        return x * marked(x), (marked(x),)

    for module in (np_level, transformer_layers_numpy):
        monkeypatch.setattr(module, "dropout_forward", forward)
    monkeypatch.setattr(low, "dropout", lambda x, rate, generator: x * torch.tensor(marked(x)))
    options = {"dropout": 0.25}
    model = make_numpy_model(**options)
    params = to_torch(model.params, requires_grad=True)
    batch = make_batch()
    want = numpy_step(model, *batch, np.random.default_rng(0))
    assert_parity(lowlevel_step(params, batch, torch.Generator(), **options), want)
    monkeypatch.setattr(low, "position_wise", with_dropout_inside)
    with pytest.raises(ParityError, match="outputs"):
        assert_parity(lowlevel_step(params, batch, torch.Generator(), **options), want)


def trajectories(**adam):
    """Losses of ten steps at both levels, with the paper's schedule on a warm-up of four."""
    model = make_numpy_model()
    params = to_torch(model.params, requires_grad=True)
    optimizer = Adam(model.params, betas=(0.9, 0.98), eps=1e-9)
    low_optimizer = training.Adam(params, **adam)
    losses, low_losses = [], []
    for step in range(1, 11):
        batch = make_batch(step)
        optimizer.lr = np_level.warmup_rate(step, 12, warmup=4)
        low_optimizer.lr = training.warmup_rate(step, 12, warmup=4)
        result = numpy_step(model, *batch)
        optimizer.step(result.grads)
        losses.append(result.loss)
        loss = lowlevel_step(params, batch).loss
        low_optimizer.step()
        low_losses.append(loss.detach())
    return low_losses, losses


def test_ten_steps_with_the_papers_schedule_equal_level_1():
    losses, want = trajectories()
    assert_trajectory(losses, want)
    assert losses[-1] < losses[0]


def test_another_beta_is_noticed_by_the_trajectory():
    with pytest.raises(ParityError, match="loss at step 3"):
        assert_trajectory(*trajectories(betas=(0.9, 0.999)))


def test_adam_equals_torch():
    torch.manual_seed(0)
    ours = {"a": torch.randn(3, 4).requires_grad_()}
    theirs = ours["a"].detach().clone().requires_grad_()
    optimizer, reference = (
        training.Adam(ours, lr=0.1),
        torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.98), eps=1e-9),
    )
    for _ in range(5):
        training.update(optimizer, (ours["a"] ** 3).sum())
        reference.zero_grad()
        (theirs**3).sum().backward()
        reference.step()
    assert max_difference(ours["a"], theirs) < 1e-6


def test_a_file_of_level_1_loads_here(tmp_path):
    model = make_numpy_model()
    loaded = load_weights(save_weights(tmp_path / "model.safetensors", model.params))
    params = low.init_params(low.TransformerConfig(**SIZES), dtype=torch.float64)
    load_into(params, loaded)
    batch = make_batch()
    assert_parity(lowlevel_step(params, batch), numpy_step(model, *batch), tol=1e-12)


def test_positions_equal_level_1():
    for layout in low.LAYOUTS:
        want = attention_numpy.sinusoidal_positions(40, 10, layout)
        assert max_difference(low.sinusoidal_positions(40, 10, layout), want) < 1e-13


# --- the parts against torch


def test_attention_and_layer_norm_equal_torch():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (5, 6, 6))
    mask = torch.rand(2, 1, 5, 6) < 0.6
    mask[..., 0] = True
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert max_difference(low.attention(q, k, v, mask), want) < 1e-12
    x, p = 3 + q, {"n.weight": torch.randn(4).double(), "n.bias": torch.randn(4).double()}
    want = F.layer_norm(x, (4,), *p.values())
    assert max_difference(low.layer_norm(x, p, "n"), want) < 1e-12


def test_a_query_that_may_attend_to_nothing_gets_zeros_and_finite_gradients():
    q = torch.randn(2, 3, 5, 4, requires_grad=True)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, 2] = False
    with torch.autograd.set_detect_anomaly(True):  # raises where a gradient becomes NaN
        y = low.attention(q, q, q, mask)
        y.square().sum().backward()
    assert not y[1, :, 2].any() and q.grad.isfinite().all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_equals_torch(label_smoothing):
    labels = torch.from_numpy(make_batch()[1])
    logits = torch.randn(3, 5, 11, dtype=torch.float64)
    want = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=0, label_smoothing=label_smoothing
    )
    loss = training.smoothed_cross_entropy(logits, labels, 0, label_smoothing)
    assert max_difference(loss, want) < 1e-12


# --- the comparison can fail


def swapped_norms(params):
    names = [f"decoder.layers.0.{n}_attn_layer_norm.weight" for n in ("self", "encoder")]
    params[names[0]], params[names[1]] = params[names[1]], params[names[0]]


def without_bias(params):
    params["encoder.layers.1.self_attn.v_proj.bias"].data.zero_()


@pytest.mark.parametrize("fault", [swapped_norms, without_bias])
def test_sabotaged_weights_are_noticed(fault):
    compare()
    with pytest.raises(ParityError, match="outputs"):
        compare(fault)


def no_scale(q, k, v, mask):
    return attention(q * math.sqrt(q.shape[-1]), k, v, mask)


def finite_mask(q, k, v, mask):
    """-10 in the place of minus infinity: a little of the forbidden comes through."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -10.0).softmax(dim=-1) @ v


def softmax_over_queries(q, k, v, mask):
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -1e9)
    return scores.softmax(dim=-2) @ v


attention = low.attention
layer_norm = low.layer_norm


@pytest.mark.parametrize("fault", [no_scale, finite_mask, softmax_over_queries])
def test_sabotaged_attention_is_noticed(fault, monkeypatch):
    compare()
    monkeypatch.setattr(low, "attention", fault)
    with pytest.raises(ParityError, match="outputs"):
        compare()


def wrong_epsilon(x, p, name, eps=1e-6):
    return layer_norm(x, p, name, eps)


def divided_by_one_less(x, p, name):
    return (x - x.mean(-1, True)) / x.std(-1, keepdim=True) * p[f"{name}.weight"] + p[
        f"{name}.bias"
    ]


@pytest.mark.parametrize("fault", [wrong_epsilon, divided_by_one_less])
def test_sabotaged_layer_norm_is_noticed(fault, monkeypatch):
    compare()
    monkeypatch.setattr(low, "layer_norm", fault)
    with pytest.raises(ParityError, match="outputs"):
        compare()


def unscaled_embedding(p, tokens, config, generator):
    x = p["shared.weight"][tokens]
    return x + low.sinusoidal_positions(x.shape[1], x.shape[2], config.positions)


def test_an_unscaled_embedding_is_noticed(monkeypatch):
    monkeypatch.setattr(low, "embed", unscaled_embedding)
    with pytest.raises(ParityError, match="outputs"):
        compare()


# --- properties


def test_every_parameter_is_a_leaf_and_receives_a_gradient():
    config = low.TransformerConfig(**SIZES | {"dropout": 0.1})
    params = low.init_params(config, torch.Generator().manual_seed(0))
    source, labels = (torch.from_numpy(a) for a in make_batch())
    generator = torch.Generator().manual_seed(1)
    logits = low.forward(params, source, training.shift_right(labels, 1), config, generator)
    training.smoothed_cross_entropy(logits, labels, 0).backward()
    for name, p in params.items():
        assert p.is_leaf and p.requires_grad, name
        # The bias of the keys moves all scores of a query alike, which changes no weight.
        assert name.endswith("k_proj.bias") or p.grad.abs().sum() > 0, name


def test_initialisation_has_the_names_and_sizes_of_level_1():
    sizes = SIZES | {"width": 48, "vocabulary": 100}
    params = low.init_params(low.TransformerConfig(**sizes), torch.Generator().manual_seed(0))
    model = np_level.Transformer(np_level.TransformerConfig(**sizes), np.random.default_rng(0))
    assert {n: tuple(p.shape) for n, p in params.items()} == {
        n: p.shape for n, p in model.params.items()
    }
    assert vars(low.TransformerConfig()) == vars(np_level.TransformerConfig())


def test_fresh_weights_follow_their_rules():
    """Glorot's bound by each shape, biases 0, gains 1, and a deviation of 1/√D in the table."""
    config = low.TransformerConfig(400, width=48, heads=3, hidden=90, layers=2)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    assert abs(params.pop("shared.weight").std() * 48**0.5 - 1) < 0.03
    for name, p in params.items():
        if p.ndim == 1:
            assert (p == name.endswith("norm.weight")).all(), name
        else:
            bound = (6 / sum(p.shape)) ** 0.5
            assert 0.98 * bound < p.abs().max() <= bound, name
            assert abs(p.std() * 3**0.5 / bound - 1) < 0.06, name


def test_the_decoder_is_causal_and_padding_changes_nothing():
    config = low.TransformerConfig(**SIZES)
    params = to_torch(make_numpy_model().params)
    source, labels = (torch.from_numpy(a) for a in make_batch())
    target = training.shift_right(labels, 1)
    before = low.forward(params, source, target, config)
    target[:, 3] = 7
    assert torch.equal(before[:, :3], low.forward(params, source, target, config)[:, :3])
    alone = low.forward(params, source[1:2, :4], target[1:2, :3], config)
    assert max_difference(alone, before[1:2, :3]) < 1e-13


def test_dropout_keeps_the_mean():
    x = torch.ones(200, 200)
    y = low.dropout(x, 0.3, torch.Generator().manual_seed(0))
    assert abs(y.mean() - 1) < 0.02 and abs((y == 0).float().mean() - 0.3) < 0.02
    assert low.dropout(x, 0.3, None) is x


def test_overfits_one_batch():
    config = low.TransformerConfig(20, width=32, heads=4, hidden=64, layers=1, dropout=0.0)
    params = low.init_params(config, torch.Generator().manual_seed(0))
    optimizer = training.Adam(params)
    generator = torch.Generator().manual_seed(0)
    source, labels = torch.randint(3, 20, (2, 6, 7), generator=generator)
    labels[:, -1] = 2
    for step in range(1, 121):
        optimizer.lr = training.warmup_rate(step, 32, warmup=100) / 2
        logits = low.forward(params, source, training.shift_right(labels, 1), config)
        loss = training.update(
            optimizer, training.smoothed_cross_entropy(logits, labels, 0, label_smoothing=0.0)
        )
    assert loss < 0.05
    log_probs = low.predictor(params, source, config)
    assert decoding_lowlevel.greedy_search(log_probs, 6, 10, 1, 2) == labels[:, :-1].tolist()


# --- searching


def test_the_predictor_equals_level_1s():
    model, (source, _) = make_numpy_model(), make_batch()
    config, params = low.TransformerConfig(**SIZES), to_torch(model.params)
    asked = np.array([[1, 4, 5], [1, 6, 7], [1, 4, 5]]), np.array([1, 0, 0])
    got = low.predictor(params, torch.from_numpy(source), config)(*map(torch.from_numpy, asked))
    want = model.predictor(source)(*asked)
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
    assert decoding_lowlevel.greedy_search(greedy, 2, 10, 1, 2) == [[], []]
    assert decoding_lowlevel.beam_search(beam, 1, 10, 1, 2)[0][0] == []
    assert len(greedy.asked) == len(beam.asked) == 1


def test_a_sentence_that_ends_takes_no_place_in_the_beam():
    log_probs = Steady(0, 0, 0.4, 0.35, 0.25)
    decoding_lowlevel.beam_search(log_probs, 1, 8, 1, 2, beam=2)
    assert log_probs.asked[1] == [[1, 3], [1, 4]]


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_searches_equal_level_1(alpha):
    """On random models; the perturbed table makes their choices far from even."""
    lengths = set()
    for seed in range(3):
        model = make_numpy_model()
        perturb(model.params, scale=0.3, seed=seed)
        source, _ = make_batch(seed)
        predictor = low.predictor(
            to_torch(model.params), torch.from_numpy(source), low.TransformerConfig(**SIZES)
        )
        arguments = 3, 8, 1, 2
        greedy = decoding_lowlevel.greedy_search(predictor, *arguments)
        assert greedy == decoding_numpy.greedy_search(model.predictor(source), *arguments)
        got = decoding_lowlevel.beam_search(predictor, *arguments, alpha=alpha)
        want = decoding_numpy.beam_search(model.predictor(source), *arguments, alpha=alpha)
        assert [tokens for tokens, _ in got] == [tokens for tokens, _ in want]
        assert max_difference([s for _, s in got], [s for _, s in want]) < 1e-6
        lengths |= {len(tokens) for tokens, _ in got}
    assert len(lengths) > 1


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low.TransformerConfig(heads=0), "expected heads of at least 1, got 0"),
        (lambda: low.TransformerConfig(width=510), "an even width that 8 heads divide, got 510"),
        (lambda: low.TransformerConfig(width=15, heads=3), "that 3 heads divide, got 15"),
        (lambda: low.TransformerConfig(dropout=-0.1), r"expected dropout in \[0, 1\), got -0.1"),
        (lambda: low.TransformerConfig(dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: low.TransformerConfig(positions="x"), "expected positions of .*, got 'x'"),
        (lambda: low.TransformerConfig(bos_id=37_000), "three different special symbols below"),
        (lambda: low.TransformerConfig(pad_id=1), "three different special symbols below 37000"),
        (
            lambda: low.encode({}, torch.zeros(3).long(), low.TransformerConfig()),
            r"expected tokens \(B, T\), got \(3,\)",
        ),
        (
            lambda: training.smoothed_cross_entropy(
                torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), 0
            ),
            "expected labels other than padding, got none",
        ),
        (lambda: training.warmup_rate(0, 512), "expected steps counted from 1, got 0"),
        (
            lambda: decoding_lowlevel.beam_search(None, 1, 3, 1, 2, alpha=-1.0),
            "expected beam of at least 1 and alpha of at least 0, got 4, -1.0",
        ),
        (
            lambda: decoding_lowlevel.beam_search(None, 1, 3, 1, 2, beam=0),
            "expected beam of at least 1 and alpha of at least 0, got 0, 0.6",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("size", ["vocabulary", "width", "heads", "hidden", "layers"])
def test_every_size_is_at_least_1(size):
    with pytest.raises(ValueError, match=f"expected {size} of at least 1, got 0"):
        low.TransformerConfig(**{size: 0})
