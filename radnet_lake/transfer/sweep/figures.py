"""Pictures of a sweep: Dice per test case by setting, and losses per epoch as Figure A1; all PNG.

No case is named in a picture.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from radnet_lake.evaluate.figures import COLOURS, DASHES, FAINT, STYLE, encode_figure, make_figure
from radnet_lake.evaluate.paper import TABLE2, TABLE3, SegmentationScores
from radnet_lake.transfer.sweep.statistics import PLAIN, Result, Results, Setting
from radnet_lake.transfer.sweep.tables import Facts, name_setting

Curves = Mapping[Setting, Mapping[int, Sequence[Mapping[str, Any]]]]
"""By setting and seed: rows of metrics.csv (epoch, split, loss)."""
PANELS_WIDE = 3
MARKS = {"train": "o", "validation": "x"}
LINES: Any = dict(zip(("train", "validation"), DASHES, strict=False))


def draw_pictures(results: Results, curves: Curves, facts: Facts, mark: str) -> dict[str, bytes]:
    """All pictures by file name, of what is done so far. mark: a word above each, or ""."""
    freezes, shares = facts.list_freezes(), facts.list_shares()
    by_freeze = {name_setting(s): (s, TABLE2.get(s.freeze)) for s in freezes}
    by_share = {f"{100 * s.share:g} %": (s, TABLE3.get(s.share)) for s in shares}
    with matplotlib.rc_context(STYLE):
        figures = {"dice_by_freeze.png": _draw_boxes(by_freeze, results, "")}
        if shares:
            what = "share of the training patients, all layers frozen"
            figures["dice_by_share.png"] = _draw_boxes(by_share, results, what)
        shown = [s for s in [*freezes, *facts.list_foreign()] if curves.get(s)]
        if shown:
            figures["losses.png"] = _draw_losses({s: curves[s] for s in shown})
        for name, figure in figures.items():
            what = "training and validation" if name == "losses.png" else "test cases, all seeds"
            figure.suptitle(f"{mark}: {what}" if mark else what)
        return {name: encode_figure(figure) for name, figure in figures.items()}


def _draw_boxes(
    rows: Mapping[str, tuple[Setting, SegmentationScores | None]], results: Results, what: str
) -> Figure:
    figure = make_figure(max(7.0, 1.7 * len(rows) + 1), 5.2)
    axes = figure.subplots()
    seeds = sorted({seed for result in results.values() for seed in result.seeds})
    colours = {seed: COLOURS[k % len(COLOURS)] for k, seed in enumerate(seeds)}
    names = []
    for place, (name, (setting, printed)) in enumerate(rows.items()):
        if result := results.get((setting, PLAIN)):
            _draw_box(axes, place, result, colours)
            mean = 100 * float(result.dice.mean())
            name = f"{name}\nmean {mean:.1f}"
        names.append(_break(name))
        if printed:
            axes.plot(place, printed.mean_dice, "D", color="black", markersize=6, zorder=5)
    axes.set_xticks(range(len(rows)), names)
    axes.grid(visible=False, axis="x")
    axes.set(xlim=(-0.6, len(rows) - 0.4), ylim=(-2, 102), xlabel=what, ylabel="Dice, %")
    marks = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=f"seed {seed}")
        for seed, colour in colours.items()
    ]
    marks += [
        Line2D([], [], color="black", linestyle=":", linewidth=2, label="mean"),
        Line2D([], [], marker="D", linestyle="", color="black", label="paper's mean (LiTS)"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return figure


def _draw_box(axes: Axes, place: int, result: Result, colours: Mapping[int, str]) -> None:
    """A box of all cases and seeds, each a point, the seeds side by side."""
    axes.boxplot(
        100 * result.dice.ravel(),
        positions=[place],
        widths=0.7,
        manage_ticks=False,
        showfliers=False,
        showmeans=True,
        meanline=True,
        medianprops={"color": "black", "linewidth": 1.5},
        meanprops={"color": "black", "linestyle": ":", "linewidth": 2},
        boxprops={"color": FAINT},
        whiskerprops={"color": FAINT},
        capprops={"color": FAINT},
    )
    count = len(result.seeds)
    for k, (seed, row) in enumerate(zip(result.seeds, result.dice, strict=True)):
        x = place + 0.5 * ((k + 0.5) / count - 0.5)
        spread = np.linspace(-0.15, 0.15, len(row)) / count if len(row) > 1 else 0
        axes.scatter(x + spread, 100 * row, s=12, color=colours[seed], alpha=0.6)


def _break(name: str) -> str:
    """Two words a line: six names stand side by side."""
    head, _, tail = name.partition("\n")
    words = head.split()
    lines = [" ".join(words[k : k + 2]) for k in range(0, len(words), 2)]
    return "\n".join([*lines, *([tail] if tail else [])])


def _draw_losses(curves: Curves) -> Figure:
    wide = min(PANELS_WIDE, len(curves))
    high = -(-len(curves) // wide)
    figure = make_figure(max(6.0, 4.2 * wide), 3.4 * high + 0.8)
    panels = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True).ravel()
    seeds = sorted({seed for by_seed in curves.values() for seed in by_seed})
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    for axes, (setting, by_seed) in zip(panels, curves.items(), strict=False):
        for seed, rows in by_seed.items():
            colour = COLOURS[seeds.index(seed) % len(COLOURS)]
            for split, dash in LINES.items():
                some = [r for r in rows if r["split"] == split and _is_number(r["loss"])]
                # Shown from 1 on: epoch 0 is the first.
                x, y = [r["epoch"] + 1 for r in some], [r["loss"] for r in some]
                axes.plot(
                    x, y, dash, color=colour, linewidth=1.5, marker=MARKS[split], markersize=3
                )
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.set(title=name_setting(setting), ylim=(0, 1.05), xlabel="epoch", ylabel="Dice loss")
        axes.tick_params(labelbottom=True, labelleft=True)
    marks = [
        Line2D(
            [], [], color="black", linestyle=dash, marker=MARKS[split], markersize=3, label=split
        )
        for split, dash in LINES.items()
    ]
    marks += [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], label=f"seed {seed}")
        for k, seed in enumerate(seeds)
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return figure


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
