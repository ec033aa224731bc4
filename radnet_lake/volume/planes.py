"""Volumes in, PNG pictures out: planes in radiological orientation, and sheets of them.

The plane of the slices lies as it is stored; the other two as radiologists hang them: patient's
right on the left, front or head up.

Not matplotlib or Pillow, because the work here is the spacing of sagittal and coronal planes, not
the few lines that write a PNG.
"""

import itertools
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from radnet_lake.errors import VolumeError
from radnet_lake.storage.folder import write_whole
from radnet_lake.volume.frame import Stored, Vector

VIEWS = ("sagittal", "coronal", "axial")
"""The plane that stands upright on each patient axis."""
LETTER_SHARE = 0.17
"""A direction gets the letter of a patient axis that it is less than 80 degrees off."""
MIN_SPACING_MM, MAX_SPACING_MM = 1e-4, 1e4
BACKGROUND, OUTSIDE, INK, FAINT = "#1d2126", "#3b4652", "#f2f2f2", "#a9b1bb"
"""OUTSIDE: where a volume does not reach, so that it differs from the volume's own black."""
PNG_DPI, FONT, SMALL_FONT = 110, 8, 5.5
ROW_INCHES, PANEL_INCHES, CELL_INCHES, GAP, LINE = 11.0, 5.0, 3.0, 0.45, 0.18
CHARACTERS_PER_INCH = 15
RULER_MM = (500, 200, 100, 50, 20, 10, 5, 2, 1, 0)
PAGE_COLUMNS, CELL_WIDE, CELL_HIGH, CAPTION_CHARACTERS = 5, 3.0, 1.3, 62
MAX_PIXELS = 512
"""Of a plane on a sheet, per side; there it takes a hundred."""


class Plane(NamedTuple):
    """One plane of a volume in radiological orientation.

    pixels: (rows, columns). edges_mm: left, right, bottom, top from the point shown, rightwards and
    downwards. letters: the patient's directions (DICOM PS3.3 C.7.6.1.1.1) at the same four edges.
    """

    pixels: Stored
    edges_mm: tuple[float, float, float, float]
    letters: tuple[str, str, str, str]
    title: str


def lay_planes(values: Stored, position_mm: Vector, steps_mm: Vector, point: Vector) -> list[Plane]:
    """A volume and a point -> the three planes nearest to it: across slices, rows, columns.

    values: (D, H, W). position_mm (3,) of voxel [0,0,0]'s centre and steps_mm (3, 3) as in
    volume.Volume; point (3,): mm LPS. Raises VolumeError for spacing that cannot be drawn.
    """
    with np.errstate(over="ignore", under="ignore"):
        sizes = np.linalg.norm(steps_mm, axis=1)
    if not ((sizes >= MIN_SPACING_MM) & (sizes <= MAX_SPACING_MM)).all():
        raise VolumeError("bad_declaration", "spacing that cannot be drawn")
    units = steps_mm / sizes[:, None]
    first = np.linalg.solve(units.T, position_mm - point)
    last = first + (np.array(values.shape) - 1) * sizes
    places = np.clip(np.rint(-first / sizes), 0, np.array(values.shape) - 1).astype(int)
    # Axes of an oblique stack may share their nearest patient axis; the best permutation does not.
    nearest = max(
        itertools.permutations(range(3)), key=lambda p: sum(abs(units[a, p[a]]) for a in range(3))
    )
    planes = []
    for across, word in enumerate(("slice", "row", "column")):
        down, right = _hang(units, nearest, across)
        pixels = values.take(places[across], axis=across)
        if right[0] < down[0]:
            pixels = pixels.T
        pixels = pixels[:: down[1], :: right[1]]
        top, bottom = _find_edges(first, last, sizes, down)
        edges = (*_find_edges(first, last, sizes, right), bottom, top)
        rightwards, downwards = units[right[0]] * right[1], units[down[0]] * down[1]
        letters = (
            name_direction(-rightwards),
            name_direction(rightwards),
            name_direction(downwards),
            name_direction(-downwards),
        )
        title = f"{VIEWS[nearest[across]]}: {word} {places[across] + 1} of {values.shape[across]}"
        planes.append(Plane(pixels.copy(), edges, letters, title))
    return planes


def name_direction(vector: Vector) -> str:
    """A direction (3,), LPS -> its letters: L or R, P or A, H or F, the nearest axis first."""
    unit = vector / np.linalg.norm(vector)
    order = sorted(range(3), key=lambda axis: -abs(unit[axis]))
    return "".join(
        ("LPH" if unit[axis] > 0 else "RAF")[axis]
        for axis in order
        if abs(unit[axis]) >= LETTER_SHARE
    )


def _hang(
    units: Vector, nearest: tuple[int, ...], across: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """A plane's axes -> which array axis runs down, which to the right; -1: reversed."""
    if across == 0:
        return (1, 1), (2, 1)
    right, down = sorted((a for a in range(3) if a != across), key=lambda a: nearest[a])
    # Right is the patient's left or back, down is the back or the feet.
    right_sign = 1 if units[right, nearest[right]] > 0 else -1
    down_sign = 1 if (units[down, nearest[down]] > 0) == (nearest[down] == 1) else -1
    return (down, down_sign), (right, right_sign)


def _find_edges(
    first: Vector, last: Vector, sizes: Vector, axis: tuple[int, int]
) -> tuple[float, float]:
    number, sign = axis
    ends = sorted((sign * first[number], sign * last[number]))
    return float(ends[0] - sizes[number] / 2), float(ends[1] + sizes[number] / 2)


def draw_rows(rows: list[tuple[str, list[Plane], tuple[float, float]]], notes: list[str]) -> Figure:
    """Rows of a caption, three planes and their window -> a figure with all planes at one scale."""
    # Equal limits in a column: what lies below one another is the same place in the patient.
    edges = np.array([[plane.edges_mm for plane in planes] for _, planes, _ in rows])
    left, right = edges[..., 0].min(axis=0), edges[..., 1].max(axis=0)
    bottom, top = edges[..., 2].max(axis=0), edges[..., 3].min(axis=0)
    scale = min(ROW_INCHES / (right - left).sum(), PANEL_INCHES / (bottom - top).max())
    widths, heights = (right - left) * scale, (bottom - top) * scale
    cells, tall = np.maximum(widths, CELL_INCHES), heights.max()
    wrapper = textwrap.TextWrapper(int(cells.sum() * CHARACTERS_PER_INCH), break_on_hyphens=False)
    lines = [part for note in notes for part in wrapper.wrap(note)]
    size = np.array(
        (cells.sum() + 4 * GAP, len(lines) * LINE + len(rows) * (tall + 6 * LINE) + 3 * LINE)
    )
    figure = _make_figure(size)
    y = size[1] - 1.5 * LINE
    for line in lines:
        _write_text(figure, GAP, y, line)
        y -= LINE
    for caption, planes, window in rows:
        y -= LINE
        for line in wrapper.wrap(caption):
            _write_text(figure, GAP, y, line)
            y -= LINE
        y -= 2 * LINE + tall
        x = GAP
        for n, plane in enumerate(planes):
            corner = (x + (cells[n] - widths[n]) / 2, y + (tall - heights[n]) / 2)
            box = np.array((*corner, widths[n], heights[n])) / np.tile(size, 2)
            axes = figure.add_axes(tuple(box), facecolor=OUTSIDE)
            _draw_plane(axes, plane, window)
            axes.set(xlim=(left[n], right[n]), ylim=(bottom[n], top[n]))
            x += cells[n] + GAP
        y -= LINE
    length = next(mm for mm in RULER_MM if mm * scale <= 1.5)
    figure.add_artist(
        Line2D(
            (GAP / size[0], (GAP + length * scale) / size[0]),
            (0.8 * LINE / size[1],) * 2,
            color=INK,
        )
    )
    _write_text(figure, GAP + length * scale + 0.1, 0.5 * LINE, f"{length:g} mm")
    return figure


def _draw_plane(axes: Axes, plane: Plane, window: tuple[float, float]) -> None:
    _draw_pixels(axes, plane.pixels, plane.edges_mm, window)
    axes.set(xticks=[], yticks=[])
    axes.set_title(plane.title, fontsize=FONT, color=FAINT, pad=1.6 * FONT)
    places = ((0, 0.5, -4, 0), (1, 0.5, 4, 0), (0.5, 0, 0, -3), (0.5, 1, 0, 3))
    sides = (("right", "center"), ("left", "center"), ("center", "top"), ("center", "bottom"))
    for letters, (x, y, dx, dy), (ha, va) in zip(plane.letters, places, sides, strict=True):
        axes.annotate(
            letters, (x, y), (dx, dy), xycoords="axes fraction", textcoords="offset points",
            ha=ha, va=va, fontsize=FONT, color=INK,
        )  # fmt: skip


def _draw_pixels(
    axes: Axes,
    pixels: Stored,
    edges: tuple[float, float, float, float],
    window: tuple[float, float],
) -> None:
    axes.imshow(
        pixels, cmap="gray", vmin=window[0], vmax=window[1], extent=edges, interpolation="nearest"
    )


def _make_figure(size: Vector) -> Figure:
    # The object interface: no window system, nothing global that a notebook would notice.
    figure = Figure((float(size[0]), float(size[1])), dpi=PNG_DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    return figure


def _write_text(figure: Figure, x: float, y: float, text: str, font: float = FONT) -> None:
    wide, high = figure.get_size_inches()
    figure.text(x / wide, y / high, text, fontsize=font, color=INK, parse_math=False)


def draw_sheet(cells: list[tuple[str, list[Plane] | str]]) -> Figure:
    """Captions with three planes, or the reason why there are none -> a figure, one sheet."""
    lines = -(-len(cells) // PAGE_COLUMNS)
    size = np.array((PAGE_COLUMNS * CELL_WIDE, lines * CELL_HIGH))
    figure = _make_figure(size)
    for n, (caption, middles) in enumerate(cells):
        x, y = n % PAGE_COLUMNS * CELL_WIDE, size[1] - (n // PAGE_COLUMNS + 1) * CELL_HIGH
        _write_text(figure, x + 0.05, y + CELL_HIGH - 0.15, _cut(caption), SMALL_FONT)
        box = np.array((x + 0.05, y + 0.05, CELL_WIDE - 0.1, CELL_HIGH - 0.25)) / np.tile(size, 2)
        axes = figure.add_axes((*box,), xticks=[], yticks=[])
        if isinstance(middles, str):
            axes.set_facecolor("gray")
            axes.text(0.5, 0.5, middles, ha="center", va="center", fontsize=FONT)
        else:
            axes.set_axis_off()
            _draw_strip(axes, middles)
    return figure


def _cut(caption: str) -> str:
    return (
        caption if len(caption) <= CAPTION_CHARACTERS else caption[: CAPTION_CHARACTERS - 1] + "…"
    )


def _draw_strip(axes: Axes, planes: list[Plane]) -> None:
    """Draw planes side by side at one scale."""
    wide = [plane.edges_mm[1] - plane.edges_mm[0] for plane in planes]
    gap, x = 0.03 * sum(wide), 0.0
    for plane, width in zip(planes, wide, strict=True):
        high = (plane.edges_mm[2] - plane.edges_mm[3]) / 2
        down, right = (max(1, side // MAX_PIXELS) for side in plane.pixels.shape)
        _draw_pixels(axes, plane.pixels[::down, ::right], (x, x + width, high, -high), (0, 255))
        x += width + gap
    tall = max(plane.edges_mm[2] - plane.edges_mm[3] for plane in planes) / 2
    axes.set(xlim=(0, x - gap), ylim=(tall, -tall))


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. Raises SettingError where it cannot be written."""
    with write_whole(path) as new:
        figure.savefig(new, format="png")
