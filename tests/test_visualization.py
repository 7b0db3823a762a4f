"""Pictures: what is drawn is the data, bad shapes are refused, and a file is written."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import utils
from utils.visualization import (
    COLOURS,
    WRONG,
    plot_attention,
    plot_bars,
    plot_confusion_matrix,
    plot_decision_boundary,
    plot_feature_maps,
    plot_filters,
    plot_gradient_flow,
    plot_image_grid,
    plot_loss_curves,
    plot_mosaic,
)

RNG = np.random.default_rng(0)


def visible_lines(figure: Figure) -> dict[str, Any]:
    return {
        line.get_label(): line
        for line in figure.axes[0].get_lines()
        if not str(line.get_label()).startswith("_")
    }


def pictures(figure: Figure) -> list[np.ndarray]:
    """The image arrays in the order of their cells (a colour bar has none)."""
    return [
        np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes if axes.get_images()
    ]


def colour_range(figure: Figure, cell: int = 0) -> tuple[float, float]:
    return figure.axes[cell].get_images()[0].get_clim()


# --- loss curves


def test_loss_curves_draw_each_run() -> None:
    figure = plot_loss_curves({"a": [3.0, 2.0, 1.0], "b": ([10, 20], torch.tensor([5.0, 4.0]))})
    lines = visible_lines(figure)
    assert list(lines) == ["a", "b"]
    np.testing.assert_array_equal(lines["a"].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(lines["a"].get_ydata(), [3, 2, 1])
    np.testing.assert_array_equal(lines["b"].get_xdata(), [10, 20])
    np.testing.assert_array_equal(lines["b"].get_ydata(), [5, 4])
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_runs_that_coincide_all_show() -> None:
    lines = list(visible_lines(plot_loss_curves({name: [2.0, 1.0] for name in "abc"})).values())
    assert len({line.get_color() for line in lines}) == 3
    widths = [line.get_linewidth() for line in lines]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 3  # drawn one on top of the other: a later one must be thinner
    assert lines[0].get_linestyle() == "-"
    assert all(line.get_linestyle() != "-" for line in lines[1:])


def test_titles_axes_and_scale() -> None:
    axes = plot_loss_curves({"a": [1.0, 2.0]}, title="T", xlabel="X", ylabel="Y").axes[0]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("T", "X", "Y")
    assert axes.get_yscale() == "linear"
    assert axes.get_legend() is None  # one run needs none
    assert plot_loss_curves({"a": [1.0, 2.0]}, log_scale=True).axes[0].get_yscale() == "log"


def test_smoothing_is_a_running_mean_without_bias() -> None:
    figure = plot_loss_curves({"a": [4.0, 2.0, 2.0]}, smooth=0.5)
    # By hand: 4; (0.5·4 + 2) / 1.5; (0.25·4 + 0.5·2 + 2) / 1.75.
    np.testing.assert_allclose(visible_lines(figure)["a"].get_ydata(), [4, 8 / 3, 16 / 7])
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), [4, 2, 2])


@pytest.mark.parametrize(
    ("curves", "options", "message"),
    [
        ({}, {}, "at least one curve, got none"),
        ({"a": []}, {}, r"T > 0 for 'a', got \(0,\) and \(0,\)"),
        ({"a": np.ones((2, 2))}, {}, r"got \(4,\) and \(2, 2\)"),
        ({"a": ([1, 2], [1.0])}, {}, r"got \(2,\) and \(1,\)"),
        ({"a": ([1], [1.0], [1.0])}, {}, r"\(steps, losses\) for 'a', got 3 items"),
        ({"a": [1.0]}, {"smooth": 1.0}, r"smooth in \[0, 1\), got 1.0"),
        ({"a": [1.0, 0.0]}, {"log_scale": True}, "above 0 on a logarithmic axis, got 0.0 in 'a'"),
    ],
)
def test_loss_curves_refuse(curves, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_loss_curves(curves, **options)


# --- bars


def test_bars_stand_on_zero_in_their_order() -> None:
    axes = plot_bars([2.0, 0.5, 1.0], title="T", xlabel="X", ylabel="Y").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [2.0, 0.5, 1.0]
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == [1, 2, 3]
    assert axes.get_ylim()[0] == 0
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("T", "X", "Y")


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_bars_refuse(values) -> None:
    with pytest.raises(ValueError, match=r"expected numbers \(N,\) with N > 0"):
        plot_bars(values)


# --- image grid


def test_grey_images_share_one_range() -> None:
    images = RNG.random((3, 1, 4, 5))
    figure = plot_image_grid(torch.tensor(images), columns=2)
    assert len(figure.axes) == 4  # two rows of two, the last cell empty
    for shown, image in zip(pictures(figure), images, strict=True):
        np.testing.assert_array_equal(shown, image[0])
    assert {colour_range(figure, i) for i in range(3)} == {(images.min(), images.max())}


def test_colour_images_have_their_channels_last() -> None:
    images = RNG.random((2, 3, 4, 5))
    shown = pictures(plot_image_grid(images))
    np.testing.assert_array_equal(shown[1], images[1].transpose(1, 2, 0))


def test_captions_tell_right_from_wrong() -> None:
    figure = plot_image_grid(
        np.zeros((2, 4, 4)),
        titles=["one", "two"],
        labels=torch.tensor([0, 1]),
        predictions=[0, 0],
        classes=("cat", "dog"),
    )
    right, wrong = (axes.title for axes in figure.axes)
    assert right.get_text() == "one\ncat"
    assert right.get_color() == "black"
    assert wrong.get_text() == "two\ndog\ngot cat"
    assert wrong.get_color() == WRONG


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 4)), {}, r"\(N, H, W\) or \(N, 1 or 3, H, W\), got \(2, 4\)"),
        (np.zeros((2, 2, 4, 4)), {}, r"got \(2, 2, 4, 4\)"),
        (np.zeros((0, 4, 4)), {}, r"got \(0, 4, 4\)"),
        (np.full((1, 3, 4, 4), 1.5), {}, r"colours in \[0, 1\], got 1.5 to 1.5"),
        (np.zeros((2, 4, 4)), {"titles": ["a"]}, "expected 2 titles, got 1"),
        (np.zeros((2, 4, 4)), {"labels": [1]}, r"expected labels \(2,\), got \(1,\)"),
        (np.zeros((2, 4, 4)), {"predictions": [1, 1]}, "expected labels beside predictions"),
        (np.zeros((1, 4, 4)), {"labels": [0.5]}, "integers from 0, got float64"),
        (np.zeros((1, 4, 4)), {"labels": [2], "classes": "ab"}, "labels below 2, got 2"),
        (np.zeros((1, 4, 4)), {"columns": 0}, "at least one column, got 0"),
    ],
)
def test_image_grid_refuses(images, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_image_grid(images, **options)


# --- mosaic


def test_a_mosaic_has_its_images_row_by_row() -> None:
    images = RNG.random((5, 1, 2, 3))
    (whole,) = pictures(plot_mosaic(images, columns=2))
    assert whole.shape == (2 + 1 + 2 + 1 + 2, 3 + 1 + 3)  # with a line between
    np.testing.assert_array_equal(whole[3:5, 0:3], images[2, 0])
    np.testing.assert_array_equal(whole[3:5, 4:7], images[3, 0])
    np.testing.assert_array_equal(whole[6:8, 4:7], 0)
    assert np.isnan(whole[[2, 5]]).all() and np.isnan(whole[:, 3]).all()


@pytest.mark.parametrize(
    ("images", "columns"), [(np.ones((2, 3, 4, 4)), 2), (np.ones((2, 4, 4)), 0)]
)
def test_a_mosaic_refuses(images, columns: int) -> None:
    with pytest.raises(ValueError, match="expected grey images and at least one column"):
        plot_mosaic(images, columns=columns)


# --- filters and feature maps


def test_filters_of_one_channel_are_tiled() -> None:
    weight = RNG.normal(size=(6, 1, 5, 5))
    figure = plot_filters(torch.tensor(weight, requires_grad=True))
    for shown, filter_ in zip(pictures(figure), weight, strict=True):
        np.testing.assert_array_equal(shown, filter_[0])
    largest = np.abs(weight).max()
    assert {colour_range(figure, i) for i in range(6)} == {(-largest, largest)}  # zero is white


def test_filters_of_many_channels_are_rows_and_columns() -> None:
    weight = RNG.normal(size=(3, 2, 5, 5))
    figure = plot_filters(weight)
    shown = pictures(figure)
    assert len(shown) == 6
    np.testing.assert_array_equal(shown[3], weight[1, 1])
    assert [figure.axes[i].get_ylabel() for i in (0, 2, 4)] == ["0", "1", "2"]
    assert [figure.axes[i].get_title() for i in (0, 1)] == ["0", "1"]


def test_filters_beyond_the_limit_are_left_out_and_it_says_so() -> None:
    weight = RNG.normal(size=(5, 4, 3, 3))
    figure = plot_filters(weight, limit=2)
    np.testing.assert_array_equal(pictures(figure)[2], weight[1, 0])
    assert len(pictures(figure)) == 4
    assert "first 2 of 5 filters, 2 of 4 channels" in figure.get_suptitle()
    assert "first" not in plot_filters(weight).get_suptitle()


def test_feature_maps_share_one_scale() -> None:
    maps = RNG.normal(size=(5, 6, 7))
    figure = plot_feature_maps(maps, columns=3)
    for shown, channel in zip(pictures(figure), maps, strict=True):
        np.testing.assert_array_equal(shown, channel)
    assert {colour_range(figure, i) for i in range(5)} == {(maps.min(), maps.max())}
    assert [axes.get_title() for axes in figure.axes[:5]] == list("01234")


@pytest.mark.parametrize(
    ("plot", "shape", "message"),
    [
        (plot_filters, (6, 5, 5), r"\(O, C, kH, kW\), got \(6, 5, 5\)"),
        (plot_filters, (0, 1, 5, 5), r"got \(0, 1, 5, 5\)"),
        (plot_feature_maps, (1, 6, 5, 5), r"one image \(C, H, W\), got \(1, 6, 5, 5\)"),
    ],
)
def test_filters_and_maps_refuse(plot, shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot(np.zeros(shape))


# --- confusion matrix


def test_confusion_matrix_has_true_classes_in_its_rows() -> None:
    figure = plot_confusion_matrix(
        [0, 0, 0, 1], torch.tensor([0, 2, 2, 1]), classes=("a", "b", "c")
    )
    axes = figure.axes[0]
    np.testing.assert_allclose(pictures(figure)[0], [[1 / 3, 0, 2 / 3], [0, 1, 0], [0, 0, 0]])
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "1", (2, 0): "2", (1, 1): "1"}  # (column, row)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")


@pytest.mark.parametrize(
    ("labels", "predictions", "classes", "message"),
    [
        ([0, 1], [0], (), r"expected predictions \(2,\), got \(1,\)"),
        ([], [], (), r"expected labels \(N,\), got \(0,\)"),
        ([0.5], [0], (), "labels to be integers from 0, got float64"),
        ([0], [-1], (), "predictions to be integers from 0, got int64"),
        ([0], [2], ("a", "b"), "predictions below 2, got 2"),
    ],
)
def test_confusion_matrix_refuses(labels, predictions, classes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_confusion_matrix(labels, predictions, classes=classes)


# --- attention

ROW = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])


def test_attention_has_queries_in_its_rows() -> None:
    figure = plot_attention(torch.tensor(ROW), ["drei", "</s>"], ["three", "and", "</s>"])
    (picture,) = [p for p in pictures(figure) if p.shape == (2, 3)]
    np.testing.assert_array_equal(picture, ROW)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["three", "and", "</s>"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["drei", "</s>"]
    assert colour_range(figure) == (0, 1)  # so that pictures can be compared


def test_attention_of_several_heads() -> None:
    heads = np.stack([ROW, ROW[:, ::-1]])
    figure = plot_attention(heads, "ab", "cde")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["head 0", "head 1"]
    np.testing.assert_array_equal(pictures(figure)[1], ROW[:, ::-1])
    named = plot_attention(heads, "ab", "cde", names=["layer 0", "layer 1"])
    assert [axes.get_title() for axes in named.axes[:2]] == ["layer 0", "layer 1"]


@pytest.mark.parametrize(
    ("weights", "names", "message"),
    [
        (ROW.T, (), "for 2 queries and 3 keys, got"),
        (np.zeros((0, 2, 3)), (), "for 2 queries and 3 keys"),
        (10 * ROW, (), "weights in \\[0, 1\\], got 0.0 to 10.0"),
        (ROW * np.nan, (), "weights in \\[0, 1\\]"),
        (ROW, ("a", "b"), "expected 1 names, got 2"),
    ],
)
def test_attention_refuses(weights, names, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_attention(weights, "ab", "cde", names=names)


# --- decision boundary


@pytest.mark.parametrize("scores", [False, True])
def test_decision_boundary_shows_the_regions_and_the_data(scores: bool) -> None:
    x = np.array([[-1.0, 0.0], [-0.5, 2.0], [1.0, 1.0]], dtype=np.float32)
    seen = []

    def predict(points: np.ndarray):
        seen.append(points)
        right = (points[:, 0] > 0).astype(np.int64)
        return torch.tensor(np.stack([1 - right, right], axis=1)) if scores else right

    figure = plot_decision_boundary(predict, x, [0, 0, 1], resolution=21, classes=("left", "right"))
    assert seen[0].dtype == np.float32
    assert seen[0].shape == (441, 2)
    regions = pictures(figure)[0]
    np.testing.assert_array_equal(regions, np.tile(np.linspace(-1.2, 1.2, 21) > 1e-6, (21, 1)))
    assert figure.axes[0].get_images()[0].get_extent() == pytest.approx([-1.2, 1.2, -0.2, 2.2])
    left, right = figure.axes[0].collections
    np.testing.assert_array_equal(left.get_offsets(), x[:2])
    np.testing.assert_array_equal(right.get_offsets(), x[2:])
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["left", "right"]


def test_decision_boundary_up_is_up() -> None:
    x = np.array([[0.0, 0.0], [1.0, 1.0]])
    figure = plot_decision_boundary(lambda p: (p[:, 1] > 0.5).astype(int), x, [0, 1], resolution=10)
    image = figure.axes[0].get_images()[0]
    assert image.origin == "lower"
    assert image.get_array()[0].max() == 0  # the first row lies at the bottom
    assert image.get_array()[-1].min() == 1


@pytest.mark.parametrize(
    ("x", "y", "predict", "message"),
    [
        (np.zeros((3, 3)), [0, 0, 0], len, r"points \(N, 2\), got \(3, 3\)"),
        (np.zeros((3, 2)), [0, 0], len, r"expected labels \(3,\), got \(2,\)"),
        (np.zeros((2, 2)), [0, 1], lambda p: np.zeros(3), r"to give \(100,\) or .*, got \(3,\)"),
        (np.zeros((1, 2)), [len(COLOURS)], lambda p: np.zeros(100), "at most 7 classes, got 8"),
    ],
)
def test_decision_boundary_refuses(x, y, predict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_decision_boundary(predict, x, y, resolution=10)


# --- gradient flow


def test_gradient_flow_shows_mean_and_largest_magnitude() -> None:
    grads = {"first": np.array([[-4.0, 2.0]]), "second": torch.tensor([0.5, -0.5])}
    figure = plot_gradient_flow(grads)
    lines = visible_lines(figure)
    np.testing.assert_array_equal(lines["mean"].get_ydata(), [3.0, 0.5])
    np.testing.assert_array_equal(lines["largest"].get_ydata(), [4.0, 0.5])
    assert "zero or none" not in lines
    assert figure.axes[0].get_yscale() == "log"
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["first", "second"]


def test_gradient_flow_marks_what_nothing_reaches() -> None:
    figure = plot_gradient_flow({"a": np.ones(2), "b": np.zeros(3), "c": None})
    lines = visible_lines(figure)
    np.testing.assert_array_equal(lines["zero or none"].get_xdata(), [1, 2])
    np.testing.assert_array_equal(lines["mean"].get_ydata(), [1.0, np.nan, np.nan])


def test_gradient_flow_without_any_gradient_still_draws(tmp_path: Path) -> None:
    figure = plot_gradient_flow({"a": None}, path=tmp_path / "flow.png")
    np.testing.assert_array_equal(visible_lines(figure)["zero or none"].get_xdata(), [0])


@pytest.mark.parametrize(
    ("grads", "message"),
    [({}, "at least one gradient"), ({"a": np.zeros((0, 3))}, r"for 'a', got .* \(0, 3\)")],
)
def test_gradient_flow_refuses(grads, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_gradient_flow(grads)


# --- files


def draw_all(folder: Path) -> None:
    plot_loss_curves({"a": [1.0, 2.0]}, path=folder / "loss.png")
    plot_image_grid(np.eye(4)[None], path=folder / "images.png")
    plot_filters(np.ones((2, 2, 3, 3)), path=folder / "filters.png")
    plot_feature_maps(np.zeros((2, 3, 3)), path=folder / "maps.png")
    plot_confusion_matrix([0, 1], [0, 1], path=folder / "confusion.png")
    plot_attention(ROW, "ab", "cde", path=folder / "attention.png")
    plot_decision_boundary(lambda p: p[:, 0] > 0, [[0.0, 1.0]], [0], path=folder / "boundary.png")
    plot_gradient_flow({"a": np.ones(2)}, path=folder / "flow.png")


def test_every_picture_becomes_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    draw_all(folder)
    files = sorted(folder.iterdir())
    assert len(files) == 8
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_no_pyplot_no_display_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from utils.visualization import plot_loss_curves;"
        f"plot_loss_curves({{'a': [1.0, 2.0]}}, path={str(tmp_path / 'loss.png')!r});"
        "assert not {'matplotlib.pyplot', 'torch', 'tkinter'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=utils.ROOT)
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_a_region_has_the_colour_of_its_points():
    from matplotlib.colors import to_rgb

    x = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    figure = plot_decision_boundary(
        lambda p: np.clip(p[:, 0].round(), 0, 2).astype(int), x, [0, 1, 2]
    )
    axes = figure.axes[0]
    image = axes.get_images()[0]
    for k, points in enumerate(axes.collections):
        assert image.cmap(image.norm(k))[:3] == pytest.approx(to_rgb(COLOURS[k]))
        assert tuple(points.get_facecolor()[0][:3]) == pytest.approx(to_rgb(COLOURS[k]))


def test_uint8_colours_are_drawn_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    shown = plot_image_grid(images).axes[1].get_images()[0].get_array()
    np.testing.assert_array_equal(shown, images[1].transpose(1, 2, 0))


def test_counts_can_be_read_on_dark_cells():
    texts = plot_confusion_matrix([0, 0, 0, 1, 1], [0, 0, 1, 1, 1]).axes[0].texts
    assert [t.get_color() for t in texts] == ["white", "black", "white"]


def test_a_picture_has_enough_pixels(tmp_path):
    from matplotlib.image import imread

    plot_loss_curves({"a": [1.0, 2.0]}, path=tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[:2] == (480, 768)  # 6.4 x 4 inches at 120
