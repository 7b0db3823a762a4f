"""Generated sequences: are they what they say, and are the targets true? The Task made of them."""

import re
from collections import Counter

import numpy as np
import pytest

from utils import data_loaders, sequence_data
from utils.data_loaders import load_arrays, load_dataset
from utils.sequence_data import (
    ORDER_CLASSES,
    ORDER_SYMBOLS,
    REBER_LONGEST,
    REBER_SYMBOLS,
    adding,
    load_task,
    reber,
    reber_legal,
    temporal_order,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def real(lengths: np.ndarray, T: int) -> np.ndarray:
    return np.arange(T) < lengths[:, None]


# --- what holds for all of them


@pytest.mark.parametrize(
    ("name", "train", "test", "x_dtype", "y_dtype", "classes"),
    [
        ("adding", (10_000, 110, 2), 2_000, np.float32, np.float32, 0),
        ("reber", (256, REBER_LONGEST), 256, np.int64, np.int64, 7),
        ("temporal-order", (10_000, 110), 2_000, np.int64, np.int64, 4),
    ],
)
def test_shapes_types_and_classes(name, train, test, x_dtype, y_dtype, classes) -> None:
    data = load_arrays(name)
    assert data.x_train.shape == train and data.x_test.shape == (test, *train[1:])
    assert data.x_train.dtype == data.x_test.dtype == x_dtype
    assert data.y_train.dtype == data.y_test.dtype == y_dtype
    assert data.lengths_train is not None and data.lengths_test is not None
    assert len(data.lengths_train) == train[0] and len(data.lengths_test) == test
    assert len(data.classes) == classes


@pytest.mark.parametrize("name", ["adding", "reber", "temporal-order"])
def test_the_seed_decides_and_the_test_set_is_another_one(name: str) -> None:
    one, two, other = (load_arrays(name, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.x_train, two.x_train)
    np.testing.assert_array_equal(one.lengths_test, two.lengths_test)
    assert not np.array_equal(one.x_train, other.x_train)
    known = {row.tobytes() for row in one.x_train}
    assert not any(row.tobytes() in known for row in one.x_test)


# --- the grammar

# Two copies of the inner grammar, one for each second symbol: what has to be remembered is in the
# name of the node, where utils/sequence_data.py has one copy and looks back.
INNER = "0B1 1T2 1P3 2S2 2X4 3T3 3V5 4X3 4S6 5P4 5V6 6E7"
EDGES = [("start", "B", "second"), ("second", "T", "T0"), ("second", "P", "P0")]
EDGES += [(side + a, symbol, side + b) for side in "TP" for a, symbol, b in INNER.split()]
EDGES += [(side + "7", side, "last") for side in "TP"] + [("last", "E", "end")]

FROM_4 = "(?:XT*VP)*(?:S|XT*VV)"
EMBEDDED_REBER = re.compile(f"B([TP])B(?:TS*X{FROM_4}|PT*V(?:P{FROM_4}|V))E\\1E")


def ways_out(node: str) -> dict[str, str]:
    return {symbol: b for a, symbol, b in EDGES if a == node}


def spell(numbers: np.ndarray) -> str:
    return "".join(REBER_SYMBOLS[i] for i in numbers)


def strings(x: np.ndarray, lengths: np.ndarray, y: np.ndarray) -> list[str]:
    return [
        spell(row[:n]) + REBER_SYMBOLS[after[n - 1]]
        for row, n, after in zip(x, lengths, y, strict=True)
    ]


def test_every_string_is_of_the_grammar_and_none_comes_twice() -> None:
    x, lengths, y = reber(400, rng())
    whole = strings(x, lengths, y)
    wrong = [text for text in whole if not EMBEDDED_REBER.fullmatch(text)]
    assert wrong == []
    assert len(set(whole)) == 400
    assert min(map(len, whole)) == 9  # BTBTXSETE: the shortest there is
    assert {text[1] for text in whole} == {"T", "P"}
    assert not EMBEDDED_REBER.fullmatch("BTBTXSEPE")  # the check can fail
    assert not EMBEDDED_REBER.fullmatch("BTBTSXETE")


def test_targets_are_the_next_symbols() -> None:
    x, lengths, y = reber(50, rng())
    inside = real(lengths, REBER_LONGEST)
    np.testing.assert_array_equal(y[:, :-1][inside[:, 1:]], x[:, 1:][inside[:, 1:]])
    assert not x[~inside].any() and not y[~inside].any()


def test_a_test_string_is_never_in_the_training_set() -> None:
    train = reber(200, rng(0))
    test = reber(200, rng(0), apart_from=train[0])  # the same stream would give the same strings
    assert not set(strings(*train)) & set(strings(*test))


def test_each_way_out_of_a_node_is_as_likely_as_the_other() -> None:
    # Not of reber's strings, where a short one comes once as a long one does.
    generator = rng()
    taken: Counter[tuple[str, str]] = Counter()
    for _ in range(1_000):
        node = "start"
        for symbol in sequence_data._embedded_reber_string(generator):
            taken[node, symbol] += 1
            node = ways_out(node)[symbol]
    for node in {node for node, _ in taken}:
        counts = [taken[node, symbol] for symbol in ways_out(node)]
        assert np.ptp(counts) < 4 * sum(counts) ** 0.5, f"{node}: {counts}"


def test_legal_symbols_are_those_that_an_independent_walk_finds() -> None:
    x, lengths, _ = reber(300, rng())
    legal = reber_legal(x, lengths)
    assert legal.shape == (300, REBER_LONGEST, 7)
    for n, length in enumerate(lengths):
        node = "start"
        for t in range(length):
            node = ways_out(node)[REBER_SYMBOLS[x[n, t]]]
            got = {REBER_SYMBOLS[i] for i in np.flatnonzero(legal[n, t])}
            assert got == set(ways_out(node)), f"after {spell(x[n, : t + 1])}"
        assert not legal[n, length:].any()


# --- adding


def test_the_sums_are_true_and_the_marks_are_where_the_paper_has_them() -> None:
    T = 100
    x, lengths, y = adding(2_000, T, rng())
    values, markers = x[:, :, 0], x[:, :, 1]
    inside = real(lengths, T + T // 10)
    assert x.shape == (2_000, 110, 2) and not x[~inside].any()
    assert lengths.min() == T and lengths.max() == T + T // 10
    marked = markers == 1
    assert (marked.sum(axis=1) == 2).all()
    places = np.array([np.flatnonzero(row) for row in marked])
    # Both ranges are used to their ends; the second counts the steps that are not marked yet.
    assert set(places[:, 0]) == set(range(10)) and set(places[:, 1]) == set(range(1, T // 2))
    sums = np.where(marked, values, 0).sum(axis=1)
    np.testing.assert_allclose(y, 0.5 + sums / 4, rtol=0, atol=1e-6)
    first = marked[:, 0]
    assert first.any() and not values[first, 0].any()
    assert (values[~first, 0] != 0).all()
    assert (markers[~first, 0] == -1).all()
    assert (markers[np.arange(2_000), lengths - 1] == -1).all()
    rest = inside & ~marked
    rest[:, 0] = rest[np.arange(2_000), lengths - 1] = False
    assert not markers[rest].any()
    assert np.abs(values).max() <= 1 and np.abs(values[rest].mean()) < 0.01
    assert abs(values[rest].var() - 1 / 3) < 0.01  # uniform


def test_both_numbers_matter_for_the_sum() -> None:
    x, _, y = adding(4_000, 100, rng())
    places = np.array([np.flatnonzero(row) for row in x[:, :, 1] == 1])
    for which in (0, 1):
        marked = x[np.arange(4_000), places[:, which], 0]
        assert 0.5 < np.corrcoef(marked, y)[0, 1] < 0.85


def test_a_sequence_too_short_for_the_marks() -> None:
    with pytest.raises(ValueError, match="expected T of at least 20, got 19"):
        adding(5, 19, rng())
    _, lengths, _ = adding(500, 20, rng())
    assert lengths.min() == 20


# --- temporal order


def test_the_order_is_true_and_the_symbols_are_where_the_paper_has_them() -> None:
    x, lengths, y = temporal_order(2_000, rng())
    texts = ["".join(ORDER_SYMBOLS[i] for i in row[:n]) for row, n in zip(x, lengths, strict=True)]
    assert all(re.fullmatch("E[abcdXY]{98,108}B", text) for text in texts)
    found = [[(m.start() + 1, m.group()) for m in re.finditer("[XY]", text)] for text in texts]
    assert all(len(pair) == 2 for pair in found)
    for pair, label in zip(found, y, strict=True):
        assert ORDER_CLASSES[label] == pair[0][1] + pair[1][1]
    first, second = ({pair[k][0] for pair in found} for k in (0, 1))
    assert first == set(range(10, 21)) and second == set(range(50, 61))
    assert {len(text) for text in texts} == set(range(100, 111))
    assert np.bincount(y).min() > 400
    letters = "".join(texts)
    others = [letters.count(c) for c in "abcd"]
    assert max(others) < 1.05 * min(others)
    assert not x[~real(lengths, 110)].any()


# --- the Task


def test_tasks_say_what_goes_in_and_out() -> None:
    task = load_task("adding")
    assert (task.kind, task.features, task.vocabulary, task.outputs) == ("value", 2, 0, 1)
    task = load_task("reber")
    assert (task.kind, task.features, task.vocabulary, task.outputs) == ("next", 0, 7, 7)
    assert task.symbols == REBER_SYMBOLS
    task = load_task("temporal-order")
    assert (task.kind, task.features, task.vocabulary, task.outputs) == ("class", 0, 8, 4)


def test_reviews_as_a_task() -> None:
    task = load_task("reviews", max_length=20)
    assert (task.kind, task.features, task.outputs) == ("class", 0, 2)
    assert task.symbols[:2] == ("<padding>", "<unknown>")
    assert task.vocabulary == len(task.symbols) < 100
    assert task.x_train.max() < task.vocabulary and task.x_train.shape == (4_000, 20)
    assert load_task("reviews", vocabulary=10).vocabulary == 10


def test_texts_become_numbers_by_the_words_of_the_training_texts(monkeypatch) -> None:
    asked = []
    data = data_loaders.Arrays(
        np.array(["a b b c", "c b"], dtype=object),
        np.array([1, 0]),
        np.array(["d d d d a", "b c a", "b"], dtype=object),
        np.array([0, 1, 1]),
        ("negative", "positive"),
    )
    monkeypatch.setattr(data_loaders, "load_arrays", lambda *a, **k: asked.append((a, k)) or data)
    task = load_task("imdb", "folder", seed=5, vocabulary=4, max_length=2)
    assert asked == [(("imdb", "folder"), {"seed": 5})]
    assert task.symbols == ("<padding>", "<unknown>", "b", "c")  # d would be before c
    assert task.x_train.tolist() == [[2, 3], [3, 2]] and task.y_train.tolist() == [1, 0]
    assert task.x_test.tolist() == [[1, 1], [3, 1], [2, 0]]
    assert task.lengths_test.tolist() == [2, 2, 1] and task.y_test.tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["adding", "reber", "temporal-order"])
def test_a_task_has_what_the_data_set_has(name) -> None:
    task, data = load_task(name, seed=2), load_arrays(name, seed=2)
    for part in ("x_train", "lengths_train", "y_train", "x_test", "lengths_test", "y_test"):
        np.testing.assert_array_equal(getattr(task, part), getattr(data, part))


def test_a_batch_is_cut_to_its_longest() -> None:
    task = load_task("reber")
    index = np.array([3, 0, 8])
    x, lengths, y = task.batch(index)
    assert x.shape == y.shape == (3, lengths.max())
    np.testing.assert_array_equal(lengths, task.lengths_train[index])
    np.testing.assert_array_equal(x[1], task.x_train[0, : lengths.max()])


def test_another_name_is_refused() -> None:
    with pytest.raises(
        ValueError, match="adding, reber, temporal-order, reviews, imdb; got 'iris'"
    ):
        load_task("iris")
    with pytest.raises(ValueError, match="reviews holds texts"):
        load_dataset("reviews")


def test_measure_classes() -> None:
    task = load_task("temporal-order")
    answers = iter(np.array_split(task.y_test, 8))  # batches of 250

    def half_right(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        y = next(answers).copy()
        assert x.shape == (250, lengths.max())
        y[:125] = (y[:125] + 1) % 4
        return np.eye(4)[y]

    assert task.measure(half_right) == {"test_accuracy": 0.5}


def test_measure_values() -> None:
    task = load_task("adding")
    offset = 0.039
    at = 0

    def near(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        nonlocal at
        y = task.y_test[at : at + len(x)]
        at += len(x)
        return (y + offset)[:, None]

    measured = task.measure(near)
    assert measured["test_accuracy"] == 1.0
    assert measured["test_mse"] == pytest.approx(offset**2, rel=1e-4)
    offset, at = 0.041, 0
    assert task.measure(near)["test_accuracy"] == 0.0


def test_measure_strings() -> None:
    task = load_task("reber")

    def knows_all(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        outputs = np.where(reber_legal(x, lengths), 1.0, -1.0)
        outputs[~real(lengths, x.shape[1])] = np.nan  # padding must not count
        return outputs

    def forgets_the_second_symbol(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        outputs = knows_all(x, lengths)
        T, P = REBER_SYMBOLS.index("T"), REBER_SYMBOLS.index("P")
        rows = np.arange(len(x))
        # The step whose answer is the second symbol again: there it always says T.
        outputs[rows, lengths - 2, T], outputs[rows, lengths - 2, P] = 1.0, -1.0
        return outputs

    assert task.measure(knows_all) == {"test_accuracy": 1.0}
    share = np.mean(task.x_test[:, 1] == REBER_SYMBOLS.index("T"))
    assert task.measure(forgets_the_second_symbol)["test_accuracy"] == share
    assert 0.4 < share < 0.6
