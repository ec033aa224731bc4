"""Pictures of an evaluation: confusion, ROC curves, calibration, spacing, losses; all PNG.

Colours differ for the colour-blind, and lines by dashes too. No series is named in a picture.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from radnet_lake.evaluate.metrics import (
    Number,
    Outcome,
    calibrate,
    find_known,
    format_value,
    split_classes,
)

STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "figure.titlesize": 12,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
}
COLOURS = (
    "#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933",
    "#aa4499",
)  # fmt: skip
DASHES = ("-", "--", ":")
FAINT = "#9a9a9a"
LOSSES = {"loss": "loss: sum of the heads", "loss_spacing": "spacing (RMSE, cm)"}
Numbers = dict[tuple[str, str, str], Number]


def draw_pictures(
    outcomes: Sequence[Outcome], numbers: Sequence[Number], metrics: pa.Table, split: str, mark: str
) -> dict[str, bytes]:
    """Outcomes, numbers and metrics.csv of a run -> PNG files by name. mark: text above each."""
    by_key = {(n.head, n.row, n.measure): n for n in numbers}
    single = [o for o in outcomes if o.head.kind == "single"]
    classified = [o for o in outcomes if o.head.kind != "scalar"]
    scalar = next(o for o in outcomes if o.head.kind == "scalar")
    with matplotlib.rc_context(STYLE):
        figures = {
            "confusion.png": _draw_confusion(single, by_key),
            "roc.png": _draw_roc(classified, by_key),
            "reliability.png": _draw_reliability(classified, by_key),
            "spacing.png": _draw_spacing(scalar, by_key),
            "losses.png": _draw_losses(metrics),
        }
        for name, figure in figures.items():
            what = "training and validation" if name == "losses.png" else f"split {split}"
            figure.suptitle(f"{mark}: {what}" if mark else what)
        return {name: encode_figure(figure) for name, figure in figures.items()}


def encode_figure(figure: Figure) -> bytes:
    """A figure -> its PNG file."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def make_figure(wide: float, high: float) -> Figure:
    """Width and height in inches -> an empty figure."""
    # The object interface: no window system, nothing global that a notebook would notice.
    figure = Figure((wide, high))
    FigureCanvasAgg(figure)
    return figure


def _format(number: Number | None) -> str:
    return "-" if number is None else format_value(number.value, not number.measure.endswith("_mm"))


def _draw_confusion(outcomes: Sequence[Outcome], numbers: Numbers) -> Figure:
    figure = make_figure(13, 5.2)
    sizes = [len(o.head.classes) + 1 for o in outcomes]
    panels = figure.subplots(1, len(outcomes), width_ratios=sizes, squeeze=False)[0]
    for axes, outcome in zip(panels, outcomes, strict=True):
        known, classes = find_known(outcome), outcome.head.classes
        counts = np.zeros((len(classes), len(classes)), np.int64)  # (truth, predicted)
        np.add.at(counts, (outcome.truth[known], outcome.predicted[known].argmax(axis=1)), 1)
        rows = counts.sum(axis=1, keepdims=True)
        share = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts):
            text = f"{count}\n{100 * share[i, j]:.0f} %" if count else "0" if rows[i, 0] else "-"
            colour = "white" if share[i, j] > 0.55 else "black" if count else FAINT
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
        places = range(len(classes))
        axes.set_xticks(places, classes, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, [f"{c} ({n})" for c, n in zip(classes, rows[:, 0], strict=True)])
        axes.set(xlabel="network")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        accuracy = numbers.get((outcome.head.name, "total", "accuracy"))
        axes.set_title(f"{outcome.head.name}\n{_format(accuracy)} of {known.sum()} right")
    panels[0].set_ylabel("header (series)")
    return figure


def _draw_roc(outcomes: Sequence[Outcome], numbers: Numbers) -> Figure:
    figure = make_figure(10, 10)
    for axes, outcome in _lay_squares(figure, outcomes):
        axes.plot((0, 1), (0, 1), color=FAINT, linewidth=1)
        for k, (name, known, is_class, probability) in enumerate(split_classes(outcome)):
            auc = numbers[outcome.head.name, name, "auc"]
            colour, dash = COLOURS[k % len(COLOURS)], DASHES[k % len(DASHES)]
            x, y = [np.nan], [np.nan]
            if not math.isnan(auc.value):
                x, y, _ = roc_curve(is_class[known], probability[known])
            label = f"{name} ({auc.samples}): {_format(auc)}"
            axes.plot(x, y, label=label, color=colour, linestyle=dash, linewidth=2, clip_on=False)
        axes.legend(loc="lower right", title="class (series): AUC")
        axes.set(xlabel="false positive rate", ylabel="recall", title=outcome.head.name)
    return figure


def _draw_reliability(outcomes: Sequence[Outcome], numbers: Numbers) -> Figure:
    figure = make_figure(10, 10)
    for axes, outcome in _lay_squares(figure, outcomes):
        bins, is_single = calibrate(outcome), outcome.head.kind == "single"
        axes.plot((0, 1), (0, 1), color=FAINT, linewidth=1)
        if len(bins.answers):
            share = bins.answers / bins.answers.sum()
            axes.bar(
                bins.probabilities, share, width=0.03, color="#d5d5d5", label="share of the answers"
            )
            axes.plot(bins.probabilities, bins.shares, color=FAINT, linewidth=1, clip_on=False)
            # The more answers, the larger: a bin of three says little.
            sizes = {"s": 20 + 200 * share, "zorder": 3, "clip_on": False}
            axes.scatter(bins.probabilities, bins.shares, color=COLOURS[0], label="is so", **sizes)
            axes.legend(loc="upper left")
        what = "probability of the class given" if is_single else "probability of each label"
        error = numbers.get((outcome.head.name, "total", "calibration_error"))
        title = f"{outcome.head.name}: calibration error {_format(error)}"
        ylabel = "share that is right" if is_single else "share that has the label"
        axes.set(xlabel=what, ylabel=ylabel, title=title)
    return figure


def _lay_squares(figure: Figure, outcomes: Sequence[Outcome]) -> list[tuple[Axes, Outcome]]:
    """Panels from 0 to 1 on both sides, two in a row."""
    panels = figure.subplots(-(-len(outcomes) // 2), 2, squeeze=False).ravel()
    for axes in panels:
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axes in panels[len(outcomes) :]:
        axes.set_visible(False)
    return list(zip(panels, outcomes, strict=False))


def _draw_spacing(outcome: Outcome, numbers: Numbers) -> Figure:
    figure = make_figure(6.5, 6.8)
    axes = figure.subplots()
    known = find_known(outcome)
    truth, predicted = outcome.truth[known], outcome.predicted[known]
    high = 1.05 * max([1.0, *truth, *predicted])
    low = min([0.0, *(predicted - 0.05 * high)])
    axes.plot((low, high), (low, high), color=FAINT, linewidth=1)
    axes.scatter(truth, predicted, s=18, color=COLOURS[0], alpha=0.5, linewidths=0)
    mae, rmse = (numbers.get(("spacing", "total", name)) for name in ("mae_mm", "rmse_mm"))
    title = f"slice spacing of {known.sum()} series: MAE {_format(mae)}"
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.yaxis.set_major_locator(MaxNLocator(8))
    axes.set(xlabel="header, mm", ylabel="network, mm", title=f"{title}, RMSE {_format(rmse)}")
    return figure


def _draw_losses(metrics: pa.Table) -> Figure:
    figure = make_figure(12, 5.2)
    names = ["loss", *(name for name in metrics.column_names if name.startswith("loss_"))]
    right = names[1:] + [""] * (len(names) % 2 == 0)
    half = len(right) // 2
    mosaic = [["loss", "loss", *some] for some in (right[:half], right[half:])]
    panels = figure.subplot_mosaic(mosaic, empty_sentinel="")
    rows = metrics.to_pylist()
    epochs = max((r["epoch"] + 1 for r in rows), default=1)
    for name, axes in panels.items():
        highest = 0.0
        for k, split in enumerate(("train", "validation")):
            # Shown from 1 on: epoch 0 is the first.
            some = [r for r in rows if r["split"] == split and r[name] is not None]
            x, y = [r["epoch"] + 1 for r in some], [r[name] for r in some]
            axes.plot(x, y, "o" + DASHES[k], color=COLOURS[k], markersize=3, label=split)
            highest = max([highest, *filter(math.isfinite, y)])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.set(xlim=(0.5, epochs + 0.5), ylim=(0, 1.05 * highest or 1), xlabel="epoch")
        axes.set_title(LOSSES.get(name, name.removeprefix("loss_")))
    seen = [r for r in rows if r["split"] == "validation" and r["loss"] is not None]
    if seen:
        best = min(seen, key=lambda r: r["loss"])["epoch"] + 1
        panels["loss"].axvline(best, color=FAINT, linewidth=1, label=f"lowest at epoch {best}")
    panels["loss"].legend(loc="upper right")
    return figure
