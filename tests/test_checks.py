"""The checking machinery itself: gradient check, parity, perturbation, weights, options."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from utils.gradient_check import (
    GradientMismatch,
    check_backward,
    check_model,
    numerical_gradient,
    relative_error,
)
from utils.options import (
    RunOptions,
    TrainerOptions,
    command_line,
    from_json,
    option,
    parse_options,
    to_json,
)
from utils.parity import (
    ParityError,
    Result,
    assert_parity,
    assert_same,
    assert_trajectory,
    max_difference,
    perturb,
)
from utils.weights import load_into, load_weights, save_weights, to_numpy, to_torch

RNG = np.random.default_rng(0)


# --- gradient check


def cube_forward(x):
    return x**3, (x,)


def cube_backward(dy, cache):
    (x,) = cache
    return dy * 3 * x**2


def test_numerical_gradient_of_a_known_function():
    x = RNG.standard_normal((3, 4))
    kept = x.copy()
    gradient = numerical_gradient(lambda a: float((a**3).sum()), x)
    assert relative_error(gradient, 3 * x**2) < 1e-9
    assert np.array_equal(x, kept)


def test_float32_is_refused():
    with pytest.raises(ValueError, match="expected a float64 array, got float32"):
        numerical_gradient(lambda a: 0.0, np.zeros(2, dtype=np.float32))


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda dy, cache: dy * 3 * cache[0], r"dx: relative error .* worst at \(\d, \d\): got"),
        (lambda dy, cache: 1.000001 * cube_backward(dy, cache), "dx: relative error"),
        (lambda dy, cache: np.ones_like(dy) * 3 * cache[0] ** 2, "dx"),
        (lambda dy, cache: cube_backward(dy, cache).T, r"dx: expected shape \(3, 4\)"),
        (lambda dy, cache: np.full_like(dy, np.nan), "dx: relative error nan"),
        (lambda dy, cache: (dy, dy), "expected 1 gradients, got 2"),
    ],
)
def test_a_wrong_backward_is_named(backward, message):
    inputs = {"x": RNG.standard_normal((3, 4))}
    assert check_backward(cube_forward, cube_backward, inputs)["x"] < 1e-7
    with pytest.raises(GradientMismatch, match=message):
        check_backward(cube_forward, backward, inputs)


def test_the_upstream_gradient_is_not_all_ones():
    # With all ones, softmax's gradient is zero and any backward that returns zero would pass.
    def softmax(x):
        p = np.exp(x) / np.exp(x).sum()
        return p, (p,)

    with pytest.raises(GradientMismatch):
        check_backward(softmax, lambda dy, cache: np.zeros_like(dy), {"x": RNG.random(4)})


def test_check_model_checks_the_keys():
    class Model:
        def __init__(self):
            self.params = {"a": np.ones(3), "b": np.ones(3)}

        def forward(self, x):
            self.x = x
            return self.params["a"] * x + self.params["b"]

        def backward(self, dy):
            return {"a": (dy * self.x).sum(axis=0), "b": dy.sum(axis=0)}

    class Forgets(Model):
        def backward(self, dy):
            return {"a": (dy * self.x).sum(axis=0)}

    x = RNG.standard_normal((2, 3))
    assert set(check_model(Model(), x)) == {"a", "b"}
    with pytest.raises(GradientMismatch, match="differ in their keys: b"):
        check_model(Forgets(), x)


# --- parity


def test_max_difference_is_relative_and_never_lets_nan_pass():
    assert max_difference(np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])) == 0
    assert max_difference(np.array([1e6]), np.array([1e6 + 1])) == pytest.approx(1e-6)
    assert max_difference(np.array([1e-3]), np.array([1.1e-3])) == pytest.approx(0.1 / 1.1)
    assert max_difference(np.array([1e-18]), np.array([-1e-18])) < 1e-14
    nan = np.array([np.nan])
    assert max_difference(nan, nan) == np.inf
    assert max_difference(np.ones(2), np.ones(3)) == np.inf


def test_perturb_changes_every_tensor_and_keeps_variances_positive():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    before = to_numpy(model)
    perturb(model, scale=2.0)
    after = to_numpy(model)
    for name in before:
        changed = not np.array_equal(before[name], after[name])
        assert changed == (name != "1.num_batches_tracked"), name
    assert (after["1.running_var"] > 0).all()
    again = {name: array.copy() for name, array in before.items()}
    perturb(again, scale=2.0)
    assert all(np.allclose(again[name], after[name]) for name in after)


def test_parity_names_the_first_tensor_that_differs():
    want = Result(np.ones(2), 1.0, {"a": np.ones(3), "b": np.ones(3)})
    assert_parity(
        Result(torch.ones(2), torch.tensor(1.0), {"a": np.ones(3), "b": np.ones(3)}), want
    )
    with pytest.raises(ParityError, match=r"outputs differs by 1\.000e-08"):
        assert_parity(Result(np.ones(2) - 1e-8, 1.0, want.grads), want)
    with pytest.raises(ParityError, match="loss differs"):
        assert_parity(Result(np.ones(2), 1.1, want.grads), want)
    with pytest.raises(ParityError, match="gradient of b differs"):
        assert_parity(Result(np.ones(2), 1.0, {"a": np.ones(3), "b": np.zeros(3)}), want)
    with pytest.raises(ParityError, match="gradient names differ: b"):
        assert_parity(Result(np.ones(2), 1.0, {"a": np.ones(3)}), want)
    with pytest.raises(ParityError, match=r"gradient of a: expected shape \(3,\), got \(1, 3\)"):
        assert_parity(Result(np.ones(2), 1.0, {"a": np.ones((1, 3)), "b": np.ones(3)}), want)


def test_trajectories_name_the_step():
    with pytest.raises(ParityError, match="loss at step 3 differs"):
        assert_trajectory([1.0, 0.5, 0.3], [1.0, 0.5, 0.2])
    with pytest.raises(ParityError, match="expected 3 steps, got 2"):
        assert_trajectory([1.0, 0.5], [1.0, 0.5, 0.2])


def test_assert_same_compares_names():
    with pytest.raises(ParityError, match=r"missing \['b'\], unexpected \['c'\]"):
        assert_same({"a": np.ones(1), "c": np.ones(1)}, {"a": np.ones(1), "b": np.ones(1)})


# --- weights


def test_weights_go_round_the_levels_unchanged(tmp_path):
    module = torch.nn.Linear(3, 4).double()
    arrays = to_numpy(module)
    tensors = to_torch(arrays, requires_grad=True)
    assert all(t.is_leaf and t.requires_grad for t in tensors.values())
    file = save_weights(tmp_path / "model.safetensors", tensors, metadata={"step": 3})
    other = torch.nn.Linear(3, 4).double()
    load_into(other, load_weights(file))
    assert_same(other, module, tol=0)


def test_copies_do_not_share_memory():
    module = torch.nn.Linear(3, 4)
    arrays, tensors = to_numpy(module), to_torch(module)
    with torch.no_grad():
        module.weight.zero_()
    assert np.abs(arrays["weight"]).sum() > 0 and tensors["weight"].abs().sum() > 0


def test_a_tied_weight_counts_once_under_its_first_name(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    module, other = Tied(), Tied()
    assert list(to_numpy(module)) == ["embedding.weight"]
    before = to_numpy(module)["embedding.weight"]
    perturb(module, scale=0.1)
    assert 0.03 < (to_numpy(module)["embedding.weight"] - before).std() < 0.13  # once, not twice
    load_into(other, load_weights(save_weights(tmp_path / "tied.safetensors", module)))
    assert torch.equal(other.head.weight, module.head.weight)


def test_dtypes_are_cast_where_asked_and_integers_are_left():
    module = torch.nn.BatchNorm1d(4)
    assert to_numpy(module, np.float64)["running_var"].dtype == np.float64
    assert to_torch(module, torch.float64)["num_batches_tracked"].dtype == torch.int64


def test_weights_that_do_not_fit_are_named_and_nothing_is_copied():
    target = {"a": np.zeros(3), "b": np.zeros(2)}
    with pytest.raises(ValueError, match=r"missing b; unexpected c; a: expected shape \(3,\)"):
        load_into(target, {"a": np.ones(4), "c": np.ones(2)})
    assert not target["a"].any()


def test_files_that_are_no_safetensors_are_named(tmp_path):
    file = save_weights(tmp_path / "model.safetensors", {"a": np.ones(3)})
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"model\.safetensors is cut short"):
        load_weights(file)
    with pytest.raises(FileNotFoundError, match="found nothing at"):
        load_weights(tmp_path / "other.safetensors")


# --- options


@dataclass(frozen=True)
class Everything(RunOptions):
    data: Literal["digits", "mnist"] = option("digits", "the data set")
    hidden: tuple[int, ...] = option((128,), "widths")
    flag: bool = option(False, "a switch, 100 % documented")
    lr: float = option(0.5, "overrides the base's and keeps its limit")
    share: float = option(0.5, "a number", least=0, most=1)
    rate: float = option(0.5, "another", above=0, below=1)


def test_options_get_the_types_of_their_fields():
    words = "--hidden 512,256 --lr 1e-3 --flag --data mnist --data-dir some/where --limit 7"
    options = parse_options(Everything, words.split())
    assert options.hidden == (512, 256) and options.lr == 1e-3 and options.flag is True
    assert options.data == "mnist" and options.data_dir == Path("some/where")
    assert options.limit == 7 and options.epochs == RunOptions.epochs
    assert parse_options(Everything, ["--no-flag"]).flag is False
    ends = parse_options(Everything, ["--share", "1", "--rate", "0.99"])
    assert (ends.share, ends.rate) == (1.0, 0.99)


def test_options_survive_json():
    options = parse_options(Everything, ["--hidden", "3,4", "--data-dir", "x"])
    assert Everything(**from_json(Everything, to_json(options))) == options


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_options(Everything, ["--help"], "What it does.")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "What it does." in text and "--hidden" in text and "(default: 128)" in text
    assert "100 % documented" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hiden", "3"], "did you mean --hidden?"),
        (["--hidden", "3,x"], "expected numbers such as 512,256, got '3,x'"),
        (["--data", "cifar"], "invalid choice: 'cifar'"),
        (["--lr", "0"], "expected a number above 0, got 0"),
        (["--lr", "nan"], "expected a number above 0, got nan"),
        (["--limit", "-5"], "expected a number of at least 0, got -5"),
        (["--share", "-1"], "expected a number of at least 0, got -1"),
        (["--share", "1.5"], "expected a number of at most 1, got 1.5"),
        (["--share", "nan"], "expected a number of at least 0, got nan"),
        (["--rate", "1"], "expected a number below 1, got 1"),
        (["--rate", "0"], "expected a number above 0, got 0"),
        (["--epochs", "2.5"], "invalid int value: '2.5'"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_wrong_options_are_named(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_options(Everything, words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_resume_takes_the_runs_options_and_refuses_others(tmp_path, capsys):
    import json

    stored = to_json(parse_options(Everything, ["--hidden", "3,4", "--lr", "0.5"]))
    (tmp_path / "config.json").write_text(json.dumps({"options": stored}))
    resumed = parse_options(Everything, ["--resume", str(tmp_path), "--epochs", "99"])
    assert resumed.hidden == (3, 4) and resumed.lr == 0.5 and resumed.epochs == 99
    with pytest.raises(SystemExit):
        parse_options(Everything, ["--resume", str(tmp_path), "--lr", "0.1"])
    assert "--lr 0.1: the run in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_options(Everything, ["--resume", str(tmp_path), "--epochs", "2"])
    assert "has 10 already" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SystemExit):
        parse_options(Everything, ["--resume", str(tmp_path)])
    assert "does not hold this script's options" in capsys.readouterr().err


def test_the_recorded_command_names_no_place_of_this_machine():
    words = ["02_MLP/numpy/train.py", "--data", "mnist", "--data-dir", "/home/me", "--out=/x"]
    assert command_line(words) == "python 02_MLP/numpy/train.py --data mnist"
    assert command_line(["/somewhere/else/train.py"]) == "python train.py"
    assert command_line(["train.py", "--hidden", ""]) == "python train.py --hidden ''"


class Affine:
    def __init__(self, size=1.0):
        self.params, self.size = {"a": RNG.standard_normal(3), "b": RNG.standard_normal(3)}, size

    def forward(self, x, power=1):
        self.x = x**power
        return self.size * (self.params["a"] * self.x + self.params["b"])

    def backward(self, dy):
        return {"a": self.size * (dy * self.x).sum(axis=0), "b": self.size * dy.sum(axis=0)}


class Wrong(Affine):
    def backward(self, dy):
        grads = super().backward(dy)
        return grads | {"b": 1.00001 * grads["b"]}


def test_check_model_names_a_wrong_gradient_and_obeys_its_arguments():
    x = RNG.standard_normal((2, 3))
    with pytest.raises(GradientMismatch, match="db: relative error"):
        check_model(Wrong(), x)
    assert check_model(Wrong(), x, tolerance=1e-3)["b"] == pytest.approx(1e-5, rel=1e-2)
    assert max(check_model(Affine(), x, power=2).values()) < 1e-7


def test_check_model_does_not_use_an_upstream_gradient_of_ones():
    class Softmax:
        def __init__(self):
            self.params = {"a": RNG.standard_normal(4)}

        def forward(self, x):
            return np.exp(self.params["a"]) / np.exp(self.params["a"]).sum()

        def backward(self, dy):
            return {"a": np.zeros_like(dy)}

    with pytest.raises(GradientMismatch):
        check_model(Softmax(), np.zeros(1))


def test_the_upstream_gradient_is_not_what_tests_draw_from_seed_0():
    def unit(x):  # its gradient along x is zero
        return x / np.sqrt((x * x).sum()), ()

    with pytest.raises(GradientMismatch):
        check_backward(
            unit,
            lambda dy, cache: np.zeros_like(dy),
            {"x": np.random.default_rng(0).standard_normal(5)},
        )


def test_small_gradients_are_compared_relatively():
    with pytest.raises(GradientMismatch, match="dx"):
        check_backward(
            lambda x: (3e-8 * x, ()),
            lambda dy, cache: 6e-8 * dy,
            {"x": RNG.standard_normal((3, 4))},
        )


def test_further_arguments_reach_forward_and_the_inputs_stay():
    x = RNG.standard_normal((3, 4))
    x.flags.writeable = False
    errors = check_backward(
        lambda x, power=1: (x**power, (x, power)),
        lambda dy, cache: dy * cache[1] * cache[0] ** (cache[1] - 1),
        {"x": x},
        power=3,
    )
    assert errors["x"] < 1e-7


def test_every_input_is_checked():
    x, y = RNG.standard_normal(3), RNG.standard_normal(3)
    with pytest.raises(GradientMismatch, match="dy"):
        check_backward(lambda x, y: (x * y, (x, y)), lambda d, c: (d * c[1], d), {"x": x, "y": y})


# --- parity


def test_parity_uses_the_tolerance_asked_for_and_refuses_further_names():
    want = Result(np.ones(2), 1.0, {"a": np.ones(3)})
    near = Result(np.ones(2) + 1e-6, 1.0 + 1e-6, {"a": np.ones(3) + 1e-6})
    assert_parity(near, want, tol=1e-5)
    with pytest.raises(ParityError):
        assert_parity(near, want)
    with pytest.raises(ParityError, match="gradient names differ: b"):
        assert_parity(Result(np.ones(2), 1.0, want.grads | {"b": np.ones(1)}), want)
    with pytest.raises(ParityError, match=r"missing \[\], unexpected \['b'\]"):
        assert_same({"a": np.ones(1), "b": np.ones(1)}, {"a": np.ones(1)})


def test_max_difference_takes_the_larger_scale_and_refuses_infinities():
    assert max_difference(np.array([2.0]), np.array([1.0])) == 0.5
    assert max_difference(np.array([1.0]), np.array([2.0])) == 0.5
    infinite = np.array([np.inf])
    assert max_difference(infinite, infinite) == np.inf


def test_perturb_draws_anew_for_each_tensor():
    arrays = {"a": np.zeros((3, 4)), "b": np.zeros((3, 4))}
    perturb(arrays)
    assert not np.array_equal(arrays["a"], arrays["b"])


# --- weights


def test_a_transposed_matrix_does_not_fit():
    target = {"a": np.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"a: expected shape \(2, 3\), got \(3, 2\)"):
        load_into(target, {"a": np.ones((3, 2))})
    with pytest.raises(ValueError, match="unexpected b"):
        load_into(target, {"a": np.ones((2, 3)), "b": np.ones(1)})
    assert not target["a"].any()


def test_integers_stay_integers():
    assert to_numpy(torch.nn.BatchNorm1d(4), np.float64)["num_batches_tracked"].dtype == np.int64


def test_a_file_holds_metadata_and_the_values_of_any_memory_layout(tmp_path):
    from safetensors import safe_open

    weight = np.arange(6.0).reshape(2, 3)
    file = save_weights(
        tmp_path / "x.safetensors", {"t": weight.T, "s": weight[:, ::2]}, {"step": 3}
    )
    loaded = load_weights(file)
    assert np.array_equal(loaded["t"], weight.T) and np.array_equal(loaded["s"], weight[:, ::2])
    with safe_open(str(file), "numpy") as opened:
        assert json.loads(opened.metadata()["step"]) == 3


# --- options


@dataclass(frozen=True)
class Picky(RunOptions):
    width: int = option(3, "width")

    def __post_init__(self):
        if self.width == 13:
            raise ValueError("expected another width, got 13")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--seed", "1"], 2),
        (["--batch-size", "1"], 2),
        (["--limit", "1"], 2),
        (["--width", "1"], 2),
        (["--epochs", "9"], 2),
        (["--epochs", "11"], 0),
        (["--device", "cpu"], 0),
        (["--data-dir", "x"], 0),
        (["--out", "x"], 0),
    ],
)
def test_resume_lets_only_what_teaches_nothing_else_change(tmp_path, words, code):
    @dataclass(frozen=True)
    class Torch(Picky, TrainerOptions):
        pass

    (tmp_path / "config.json").write_text(json.dumps({"options": to_json(Torch())}))
    words = ["--resume", str(tmp_path), *words]
    if code == 0:
        assert str(getattr(parse_options(Torch, words), words[2][2:].replace("-", "_"))) == words[3]
    else:
        with pytest.raises(SystemExit):
            parse_options(Torch, words)


def test_a_bad_value_that_the_options_themselves_refuse_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_options(Picky, ["--width", "13"])
    assert stopped.value.code == 2
    assert "error: expected another width, got 13\n" in capsys.readouterr().err


def test_resuming_another_scripts_run_names_the_option(tmp_path, capsys):
    stored = to_json(RunOptions()) | {"height": 3}
    (tmp_path / "config.json").write_text(json.dumps({"options": stored}))
    with pytest.raises(SystemExit):
        parse_options(Picky, ["--resume", str(tmp_path)])
    assert "unknown options height" in capsys.readouterr().err


def test_the_recorded_command_has_no_run_folder():
    assert (
        command_line(["/x/train.py", "--resume", "runs/a", "--epochs", "3"])
        == "python train.py --epochs 3"
    )
    assert command_line(["/x/train.py", "--resume=runs/a", "--out", "b"]) == "python train.py"


def test_defaults_that_every_script_inherits():
    o = TrainerOptions()
    assert (o.lr, o.seed, o.limit, o.epochs, o.batch_size) == (0.1, 0, 0, 10, 64)
    assert (o.grad_accumulation, o.clip_norm, o.checkpoint_steps, o.mixed_precision) == (
        1,
        0.0,
        0,
        "no",
    )
