"""Pictures of training and of what a network does, as PNG files.

Every function takes NumPy arrays or tensors and returns a ``matplotlib.figure.Figure``; given
``path`` it writes the picture there too. Nothing opens a window and nothing stays open: figures are
made directly, without ``pyplot``, so a script on a machine without display may call these often.

    plot_loss_curves({"numpy": losses}, path="runs/loss.png")

Map of this file: loss curves, bars, image grid, mosaic, filters, feature maps, confusion matrix,
attention, decision boundary, gradient flow; then the helpers.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from utils.weights import to_array

# Okabe & Ito's colours, which people with any common colour blindness tell apart; their pale yellow
# is left out, because it can't be seen on white. The first three also differ in brightness.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("solid", (0, (3, 2)), (0, (4, 6)), (0, (4, 2, 1, 2)))
WRONG = "#D55E00"
DPI = 120


def plot_loss_curves(
    curves: Mapping[str, Any],
    *,
    title: str = "Training loss",
    xlabel: str = "step",
    ylabel: str = "loss",
    log_scale: bool = False,
    smooth: float = 0.0,
    path: str | Path | None = None,
) -> Figure:
    """The losses of one or several runs in one picture.

    Later runs are drawn with thinner, broken lines on top, so that runs that coincide all show.

    Args:
        curves: for each run its losses (T,), counted as steps 1 to T, or a tuple
            (steps (T,), losses (T,)).
        log_scale: logarithmic loss axis.
        smooth: share of the past in a running mean, in [0, 1); 0 draws the losses as they are. The
            unsmoothed losses stay visible behind, pale.

    Raises:
        ValueError: no run, an empty one, steps and losses of different shape, ``smooth`` outside
            [0, 1), or a loss of zero or less on a logarithmic axis.
    """
    if not curves:
        raise ValueError("expected at least one curve, got none")
    if not 0 <= smooth < 1:
        raise ValueError(f"expected smooth in [0, 1), got {smooth}")
    figure, axes = _one_axes(title, (6.4, 4.0))
    for i, (name, curve) in enumerate(curves.items()):
        steps, losses = _steps_and_losses(name, curve)
        if log_scale and (losses <= 0).any():
            raise ValueError(
                f"expected losses above 0 on a logarithmic axis, got {losses.min()} in {name!r}"
            )
        colour = COLOURS[i % len(COLOURS)]
        if smooth:
            axes.plot(steps, losses, color=colour, linewidth=0.8, alpha=0.25, label="_raw")
            losses = _running_mean(losses, smooth)
        below = min(len(curves), 4) - 1 - min(i, 3)  # how many lines will lie on top of this one
        axes.plot(
            steps,
            losses,
            color=colour,
            linestyle=DASHES[i % len(DASHES)],
            linewidth=1.6 + 1.2 * below,
            label=name,
            marker="o" if len(losses) == 1 else None,
        )
    if log_scale:
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    return _finish(figure, path)


def plot_bars(
    values: Any,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    path: str | Path | None = None,
) -> Figure:
    """One bar for each number, from zero, in the order given and counted from 1.

    Args:
        values: (N,).

    Raises:
        ValueError: not a row of numbers, or none.
    """
    values = _array(values)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"expected numbers (N,) with N > 0, got {values.shape}")
    figure, axes = _one_axes(title, (6.4, 3.2))
    axes.bar(np.arange(1, len(values) + 1), values, color=COLOURS[0])
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", alpha=0.3)
    return _finish(figure, path)


def plot_image_grid(
    images: Any,
    *,
    titles: Sequence[str] | None = None,
    labels: Any = None,
    predictions: Any = None,
    classes: Sequence[str] = (),
    columns: int = 8,
    title: str = "",
    path: str | Path | None = None,
) -> Figure:
    """Images side by side, with the right label and the network's answer above each.

    Args:
        images: (N, H, W), (N, 1, H, W) or (N, 3, H, W). Grey images share one range, from the
            smallest value to the largest; colours are in [0, 1], or uint8.
        titles: a text (N,) above each image.
        labels: the right labels (N,), integers.
        predictions: the network's labels (N,); a wrong one is shown in colour below the right one.
        classes: names of the labels; their numbers are shown if it is empty.

    Raises:
        ValueError: not images, colours outside [0, 1], or captions for more or fewer images.
    """
    pictures = _as_pictures(images)
    if predictions is not None and labels is None:
        raise ValueError("expected labels beside predictions, got predictions alone")
    captions = _captions(len(pictures), titles, labels, predictions, classes)
    lines = max((caption.count("\n") + 1 for caption, _ in captions if caption), default=0)
    figure, cells = _grid(len(pictures), columns, title, caption_lines=lines, margin=0.2)
    low, high = pictures.min(), pictures.max()
    for axes, picture, (caption, colour) in zip(cells, pictures, captions, strict=True):
        axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
        if caption:
            axes.set_title(caption, fontsize=8, color=colour)
    return _finish(figure, path)


def plot_mosaic(
    images: Any, *, columns: int = 10, title: str = "", path: str | Path | None = None
) -> Figure:
    """Many grey images as one picture, row by row, with a thin line between; fast for hundreds.

    Args:
        images: (N, H, W) or (N, 1, H, W). They share one range of grey, from 0 to the largest.

    Raises:
        ValueError: not grey images, or no column.
    """
    pictures = _as_pictures(images)
    if pictures.ndim != 3 or columns < 1:
        raise ValueError(
            f"expected grey images and at least one column, got {pictures.shape} and {columns}"
        )
    N, H, W = pictures.shape
    rows = -(-N // columns)
    cells = np.full((rows * columns, H + 1, W + 1), np.nan)  # nan: the lines
    cells[:, :H, :W] = 0  # what is left of the last row stays black
    cells[:N, :H, :W] = pictures
    grid = cells.reshape(rows, columns, H + 1, W + 1).transpose(0, 2, 1, 3)
    whole = grid.reshape(rows * (H + 1), columns * (W + 1))[:-1, :-1]
    size = 0.4 * columns, 0.4 * rows * H / W
    figure, axes = _one_axes(title, (max(3.0, size[0]), max(1.5, size[1]) + 0.4))
    grey = colormaps["gray"].with_extremes(bad="0.4")
    axes.imshow(whole, cmap=grey, vmin=0, vmax=pictures.max())
    axes.set_axis_off()
    return _finish(figure, path)


def plot_filters(
    weight: Any,
    *,
    title: str = "Filters",
    limit: int = 16,
    path: str | Path | None = None,
) -> Figure:
    """The weights of a convolution: orange adds, purple takes away, white is zero.

    With one input channel the filters are tiled; with more there is a row for each filter and a
    column for each input channel.

    Args:
        weight: (O, C, kH, kW).
        limit: if C > 1, show at most so many filters and so many input channels.

    Raises:
        ValueError: ``weight`` has not four axes, or is empty.
    """
    weight = _array(weight)
    if weight.ndim != 4 or not weight.size:
        raise ValueError(f"expected convolution weights (O, C, kH, kW), got {weight.shape}")
    filters, channels = weight.shape[:2]
    if channels == 1:
        figure, cells = _grid(filters, 8, title, caption_lines=1)
        shown = weight[:, 0]
        for o, axes in enumerate(cells):
            axes.set_title(str(o), fontsize=8)
    else:
        rows, columns = min(filters, limit), min(channels, limit)
        if (rows, columns) != (filters, channels):
            title += f"\nthe first {rows} of {filters} filters, {columns} of {channels} channels"
        figure, cells = _grid(rows * columns, columns, title, cell=0.5)
        shown = weight[:rows, :columns].reshape(rows * columns, *weight.shape[2:])
        for o in range(rows):
            cells[o * columns].set_ylabel(str(o), fontsize=8, rotation=0, ha="right", va="center")
        for c in range(columns):
            cells[c].set_title(str(c), fontsize=8)
        figure.supylabel("filter", fontsize=9)
        figure.supxlabel("input channel", fontsize=9)
    largest = np.abs(weight).max() or 1.0
    for axes, picture in zip(cells, shown, strict=True):
        drawn = axes.imshow(picture, cmap="PuOr_r", vmin=-largest, vmax=largest)
    figure.colorbar(drawn, ax=cells, label="weight", shrink=0.8)
    return _finish(figure, path)


def plot_feature_maps(
    maps: Any,
    *,
    columns: int = 8,
    title: str = "Feature maps",
    path: str | Path | None = None,
) -> Figure:
    """What each channel of a layer answers to one image, all on one scale.

    Args:
        maps: (C, H, W).

    Raises:
        ValueError: ``maps`` has not three axes, or is empty.
    """
    maps = _array(maps)
    if maps.ndim != 3 or not maps.size:
        raise ValueError(f"expected feature maps of one image (C, H, W), got {maps.shape}")
    figure, cells = _grid(len(maps), columns, title, caption_lines=1)
    for c, (axes, picture) in enumerate(zip(cells, maps, strict=True)):
        drawn = axes.imshow(picture, cmap="viridis", vmin=maps.min(), vmax=maps.max())
        axes.set_title(str(c), fontsize=8)
    figure.colorbar(drawn, ax=cells, label="activation", shrink=0.8)
    return _finish(figure, path)


def plot_confusion_matrix(
    labels: Any,
    predictions: Any,
    *,
    classes: Sequence[str] = (),
    title: str = "Confusion matrix",
    path: str | Path | None = None,
) -> Figure:
    """How often each class (row) was taken for each class (column): counts, shaded by row share.

    Args:
        labels: the right labels (N,), integers from 0.
        predictions: the network's labels (N,).
        classes: names of the labels; without them their numbers, as far as they occur.

    Raises:
        ValueError: the two differ in length, are empty, not integers, or beyond ``classes``.
    """
    labels = _labels("labels", labels, classes=classes)
    predictions = _labels("predictions", predictions, len(labels), classes)
    K = len(classes) or int(max(labels.max(), predictions.max())) + 1
    names = list(classes) or [str(k) for k in range(K)]
    counts = np.zeros((K, K), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    side = max(3.6, 2.0 + 0.42 * K)
    figure, axes = _one_axes(title, (side + 0.8, side))
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(
            column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8
        )
    axes.set_xticks(range(K), names)
    if max(map(len, names)) > 3:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(K), names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    return _finish(figure, path)


def plot_attention(
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    names: Sequence[str] = (),
    title: str = "Attention",
    path: str | Path | None = None,
) -> Figure:
    """Who looks at whom: a row for each query, a column for each key, dark for a large weight.

    Args:
        weights: (T, S), or (N, T, S) for several heads side by side; each row sums to 1.
        queries: (T,) the tokens that look. keys: (S,) the tokens looked at.
        names: (N,) written above the heads; without them their numbers.

    Raises:
        ValueError: not weights in [0, 1], or tokens or names of another number.
    """
    weights = _array(weights)
    weights = weights[None] if weights.ndim == 2 else weights
    if weights.ndim != 3 or weights.shape[1:] != (len(queries), len(keys)) or not weights.size:
        raise ValueError(
            f"expected weights (T, S) or (N, T, S) for {len(queries)} queries and {len(keys)} "
            f"keys, got {weights.shape}"
        )
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() <= 1 + 1e-5):
        raise ValueError(f"expected weights in [0, 1], got {weights.min()} to {weights.max()}")
    N, T, S = weights.shape
    if names and len(names) != N:
        raise ValueError(f"expected {N} names, got {len(names)}")
    # The keys' names stand upright below the heads, the queries' to their left.
    below, left = (0.1 * max(map(len, tokens)) for tokens in (keys, queries))
    width, height = N * (0.34 * S + 0.2) + left + 1.6, 0.34 * T + below + 1.4
    figure = Figure(figsize=(max(3.2, width), height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, N, squeeze=False, sharey=True)[0]
    for n, axes in enumerate(grid):
        drawn = axes.imshow(weights[n], cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(S), keys, rotation=90)
        axes.set_yticks(range(T), queries)
        if N > 1 or names:
            axes.set_title(names[n] if names else f"head {n}", fontsize=10)
    grid[0].set_ylabel("query")
    grid[N // 2].set_xlabel("key")
    figure.colorbar(drawn, ax=list(grid), label="weight", shrink=0.8)
    figure.suptitle(title)
    return _finish(figure, path)


def plot_decision_boundary(
    predict: Callable[[np.ndarray], Any],
    x: Any,
    y: Any,
    *,
    classes: Sequence[str] = (),
    resolution: int = 200,
    title: str = "Decision boundary",
    path: str | Path | None = None,
) -> Figure:
    """The regions that a classifier cuts the plane into, with the data on top.

    Args:
        predict: takes points (M, 2) in the dtype of ``x``; gives labels (M,), or scores (M, K)
            of which the highest wins.
        x: points (N, 2).
        y: their labels (N,), integers from 0.
        classes: names of the labels for the legend.
        resolution: grid points along each side.

    Raises:
        ValueError: ``x`` is not (N, 2), ``y`` does not match, or ``predict`` gives another shape.
    """
    x = _array(x)
    if x.ndim != 2 or x.shape[1] != 2 or not len(x):
        raise ValueError(f"expected points (N, 2), got {x.shape}")
    y = _labels("labels", y, len(x), classes)
    margin = 0.1 * np.maximum(np.ptp(x, axis=0), 1e-3)
    (left, bottom), (right, top) = x.min(axis=0) - margin, x.max(axis=0) + margin
    across, up = np.linspace(left, right, resolution), np.linspace(bottom, top, resolution)
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(x.dtype)
    answer = _array(predict(points))
    if answer.ndim not in (1, 2) or len(answer) != len(points):
        M = len(points)
        raise ValueError(f"expected predict to give ({M},) or ({M}, K), got {answer.shape}")
    regions = answer.argmax(axis=1) if answer.ndim == 2 else answer.astype(np.int64)
    regions = regions.reshape(resolution, resolution)

    K = len(classes) or int(max(y.max(), regions.max())) + 1
    names = list(classes) or [f"class {k}" for k in range(K)]
    if len(COLOURS) < K:
        raise ValueError(f"expected at most {len(COLOURS)} classes, got {K}")
    figure, axes = _one_axes(title, (5.6, 4.4))
    axes.imshow(
        regions,
        cmap=ListedColormap(COLOURS[:K]),
        vmin=-0.5,
        vmax=K - 0.5,
        alpha=0.25,
        extent=(left, right, bottom, top),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    for k in range(K):
        axes.scatter(
            x[y == k, 0],
            x[y == k, 1],
            s=22,
            color=COLOURS[k],
            marker=MARKERS[k],
            edgecolors="white",
            linewidths=0.6,
            label=names[k],
        )
    axes.set_xlabel("$x_1$")
    axes.set_ylabel("$x_2$")
    axes.legend()
    return _finish(figure, path)


def plot_gradient_flow(
    grads: Mapping[str, Any],
    *,
    title: str = "Gradient flow",
    path: str | Path | None = None,
) -> Figure:
    """Mean and largest magnitude of each parameter's gradient, from the first layer to the last.

    A fall over many powers of ten towards the first layer is a vanishing gradient. A parameter
    whose gradient is zero everywhere, or None, is marked: nothing reaches it.

    Args:
        grads: the gradient (any shape) of each parameter, or None if it has none.

    Raises:
        ValueError: there is no gradient, or one that is empty.
    """
    if not grads:
        raise ValueError("expected at least one gradient, got none")
    means, largest = np.zeros(len(grads)), np.zeros(len(grads))
    for i, (name, grad) in enumerate(grads.items()):
        if grad is None:
            continue
        magnitude = np.abs(_array(grad))
        if not magnitude.size:
            raise ValueError(
                f"expected a gradient for {name!r}, got an array of shape {magnitude.shape}"
            )
        means[i], largest[i] = magnitude.mean(), magnitude.max()

    figure, axes = _one_axes(title, (max(5.0, 2.0 + 0.4 * len(grads)), 4.4))
    place, alive = np.arange(len(grads)), largest > 0
    for values, name, marker, colour in (
        (largest, "largest", "^", COLOURS[1]),
        (means, "mean", "o", COLOURS[0]),
    ):
        shown = np.where(alive, values, np.nan)
        axes.plot(place, shown, marker=marker, color=colour, linewidth=1.2, label=name)
    if not alive.all():
        floor = means[alive].min() / 3 if alive.any() else 1e-8
        dead = place[~alive]
        axes.plot(dead, np.full(len(dead), floor), "X", color="black", label="zero or none")
    axes.set_yscale("log")
    axes.set_xticks(place, list(grads), rotation=90, fontsize=8)
    axes.set_xlim(-0.5, len(grads) - 0.5)
    axes.set_xlabel("parameter, from input to output")
    axes.set_ylabel("magnitude of the gradient")
    axes.grid(alpha=0.3)
    axes.legend()
    return _finish(figure, path)


# --- helpers


def _array(value: Any) -> np.ndarray:
    return to_array(value)


def _one_axes(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _grid(
    count: int,
    columns: int,
    title: str,
    *,
    cell: float = 0.9,
    caption_lines: int = 0,
    margin: float = 1.2,
) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` square cells without ticks, in rows of ``columns``.

    Args:
        cell: side of a cell, in inches.
        caption_lines: lines of text above each cell.
        margin: width beside the cells, in inches; a colour bar takes about one.
    """
    if columns < 1:
        raise ValueError(f"expected at least one column, got {columns}")
    columns = min(columns, count)
    rows = -(-count // columns)
    title_height = 0.3 * (title.count("\n") + 1) if title else 0.0
    height = rows * (cell + 0.17 * caption_lines) + title_height + 0.2
    size = (max(columns * cell, 2.4) + margin, height)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in cells[count:]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, cells[:count]


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)
    return figure


def _steps_and_losses(name: str, curve: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(curve, tuple):
        if len(curve) != 2:
            raise ValueError(f"expected (steps, losses) for {name!r}, got {len(curve)} items")
        steps, losses = _array(curve[0]), _array(curve[1])
    else:
        losses = _array(curve)
        steps = np.arange(1, losses.size + 1)
    if losses.ndim != 1 or not losses.size or steps.shape != losses.shape:
        raise ValueError(
            f"expected steps and losses (T,) with T > 0 for {name!r}, "
            f"got {steps.shape} and {losses.shape}"
        )
    return steps, losses


def _running_mean(values: np.ndarray, past: float) -> np.ndarray:
    """Exponential running mean, corrected for its start at zero."""
    result = np.empty(len(values))
    mean = 0.0
    for t, value in enumerate(values):
        mean = past * mean + (1 - past) * value
        result[t] = mean / (1 - past ** (t + 1))
    return result


def _as_pictures(images: Any) -> np.ndarray:
    """(N, H, W), (N, 1, H, W) -> (N, H, W); (N, 3, H, W) -> (N, H, W, 3)."""
    images = _array(images)
    grey = images.ndim == 3 or (images.ndim == 4 and images.shape[1] == 1)
    if not images.size or not (grey or (images.ndim == 4 and images.shape[1] == 3)):
        raise ValueError(f"expected images (N, H, W) or (N, 1 or 3, H, W), got {images.shape}")
    if grey:
        return images if images.ndim == 3 else images[:, 0]
    if images.dtype != np.uint8 and (images.min() < 0 or images.max() > 1):
        raise ValueError(f"expected colours in [0, 1], got {images.min()} to {images.max()}")
    return images.transpose(0, 2, 3, 1)


def _captions(
    count: int,
    titles: Sequence[str] | None,
    labels: Any,
    predictions: Any,
    classes: Sequence[str],
) -> list[tuple[str, str]]:
    """Text and colour above each image."""
    if titles is not None and len(titles) != count:
        raise ValueError(f"expected {count} titles, got {len(titles)}")
    if labels is not None:
        labels = _labels("labels", labels, count, classes)
    if predictions is not None:
        predictions = _labels("predictions", predictions, count, classes)

    def name(label: int) -> str:
        return classes[label] if classes else str(label)

    captions = []
    for i in range(count):
        lines, colour = [], "black"
        if titles is not None:
            lines.append(titles[i])
        if labels is not None:
            lines.append(name(labels[i]))
            if predictions is not None and predictions[i] != labels[i]:
                lines.append(f"got {name(predictions[i])}")
                colour = WRONG
        captions.append(("\n".join(lines), colour))
    return captions


def _labels(
    what: str, values: Any, count: int | None = None, classes: Sequence[str] = ()
) -> np.ndarray:
    """The values as an array, if they are labels (count,) that ``classes`` has names for."""
    labels = _array(values)
    if labels.ndim != 1 or not len(labels) or (count is not None and len(labels) != count):
        raise ValueError(f"expected {what} ({count or 'N'},), got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(f"expected {what} to be integers from 0, got {labels.dtype} {labels[:5]}")
    if classes and labels.max() >= len(classes):
        raise ValueError(f"expected {what} below {len(classes)}, got {labels.max()}")
    return labels
