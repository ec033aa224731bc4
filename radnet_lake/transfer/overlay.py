"""Outlines of organs on a CT: three planes through the organ's middle, at true aspect.

No name, description or path is in a picture, for pictures leave the lake.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from radnet_lake.volume.frame import Stored, Vector
from radnet_lake.volume.planes import FONT, INK, Plane, draw_rows, lay_planes

WINDOW = (-160.0, 240.0)
"""HU of black and white: soft tissue, centre 40, width 400."""
COLOURS = ("#ffb000", "#40c4ff", "#ff5fa2", "#7ddc63", "#c9a0ff")
"""Of the masks in their order; distinct on grey also for people who confuse red and green."""


def draw_overlay(
    image: Stored,
    masks: Mapping[str, npt.NDArray[Any]],
    position_mm: Vector,
    steps_mm: Vector,
    title: str,
) -> Figure:
    """An image with outlines of masks, in three planes through the middle of the first organ.

    image: HU, (D, H, W). masks: by the names of the legend, (D, H, W), above 0 is the organ; where
    the first is empty, the next tells the middle, and the image's where all are. position_mm (3,),
    steps_mm (3, 3): as in volume.Volume. Raises VolumeError for spacing that cannot be drawn.
    """
    found = next((mask for mask in masks.values() if mask.any()), None)
    middle = np.array(image.shape) // 2 if found is None else find_middle(found)
    point = position_mm + middle @ steps_mm
    planes = lay_planes(image, position_mm, steps_mm, point)
    figure = draw_rows([(title, planes, WINDOW)], [])
    handles = []
    for number, (name, mask) in enumerate(masks.items()):
        colour = COLOURS[number % len(COLOURS)]
        outlined = lay_planes(mask, position_mm, steps_mm, point)
        for axes, plane in zip(figure.axes, outlined, strict=True):
            _outline(axes, plane, colour)
        label = name if mask.any() else f"{name}: none"
        handles.append(Line2D([], [], color=colour, label=label))
    figure.legend(
        handles=handles, loc="lower right", ncols=max(1, len(handles)), frameon=False,
        labelcolor=INK, fontsize=FONT,
    )  # fmt: skip
    return figure


def find_middle(mask: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The slice, row and column that halve a mask's voxels; each of them goes through the organ."""
    filled = np.asarray(mask) > 0
    middle = []
    for axis in range(3):
        others = tuple(n for n in range(3) if n != axis)
        so_far = np.cumsum(filled.sum(axis=others))
        middle.append(int(np.searchsorted(so_far, so_far[-1] / 2)))
    return np.array(middle)


def _outline(axes: Axes, plane: Plane, colour: str) -> None:
    filled = np.pad(np.asarray(plane.pixels) > 0, 1)  # so that an outline closes at the rim
    if not filled.any():
        return
    left, right, bottom, top = plane.edges_mm
    across, down = (right - left) / plane.pixels.shape[1], (bottom - top) / plane.pixels.shape[0]
    columns = left + (np.arange(filled.shape[1]) - 0.5) * across
    rows = top + (np.arange(filled.shape[0]) - 0.5) * down
    axes.contour(columns, rows, filled, levels=[0.5], colors=colour, linewidths=1.2)
