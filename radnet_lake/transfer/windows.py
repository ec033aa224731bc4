"""Regions: takes boxes of a case, gives network inputs, and puts outputs back on the grid.

A window is the region of so many slices of a case that the pretrained network looks at (3D-RADNet
2.3: 48 slices, every 8). What is cut has the size of the network's input: an image exactly as
resample.py makes it of a series (linear, half-pixel centres, min-max to 256 grey levels, blank
slices 0 around fewer slices than wanted), a mask linear and then from one half on. `paste` goes the
same way back. Axes: frame.py.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.volume.frame import Array, Vector
from radnet_lake.volume.resample import Resampler, ResampleSettings

THRESHOLD = 0.9
"""Score above which a window is taken (3D-RADNet 2.3)."""

Grey = npt.NDArray[np.uint8]
Slices = tuple[slice, slice, slice]


class Region(NamedTuple):
    """A box of a case's grid: first voxel and size, each (slices, rows, columns).

    It may stick out along the slices, where it is blank, but not in plane.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    def clip(self, depth: int) -> Slices:
        """The part of it that lies in a case of so many slices."""
        (k, row, column), (n, height, width) = self
        inside = slice(min(max(k, 0), depth), min(max(k + n, 0), depth))
        return inside, slice(row, row + height), slice(column, column + width)


def list_windows(depth: int, slices: int, stride: int, rows: int, columns: int) -> list[Region]:
    """The windows of a case of depth x rows x columns: every stride, the last one flush with the
    end. A case shorter than a window has one, with (slices - depth) // 2 blank slices before it.
    """
    if depth <= slices:
        starts = [-((slices - depth) // 2)]
    else:
        starts = [*range(0, depth - slices, stride), depth - slices]
    return [Region((start, 0, 0), (slices, rows, columns)) for start in starts]


def choose_windows(scores: Sequence[float], threshold: float = THRESHOLD) -> list[int]:
    """Indices of the scores above the threshold; where there is none, of the first highest."""
    above = [n for n, score in enumerate(scores) if score > threshold]
    return above or [int(np.argmax(scores))]


def bound_mask(
    mask: npt.NDArray[Any], margin_mm: float, steps_mm: Vector, settings: ResampleSettings
) -> Region | None:
    """The box around a mask (D, H, W) for the refining pass; None where the mask is empty.

    margin_mm: added on each side, by steps_mm of the case. The box ends at the rim in plane; along
    slices it has at least settings.slices, and sticks out of a case with fewer only.
    """
    if not mask.any():
        return None
    start, shape = [], []
    for axis, length in enumerate(mask.shape):
        others = tuple(n for n in range(3) if n != axis)
        found = np.flatnonzero(mask.any(axis=others))
        margin = math.ceil(margin_mm / float(np.linalg.norm(steps_mm[axis])))
        low, high = max(0, int(found[0]) - margin), min(length, int(found[-1]) + 1 + margin)
        start.append(low)
        shape.append(high - low)
    depth, least = len(mask), settings.slices
    if depth <= least:
        start[0], shape[0] = -((least - depth) // 2), least
    elif shape[0] < least:
        start[0] = min(max(0, start[0] - (least - shape[0]) // 2), depth - least)
        shape[0] = least
    return Region((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))


def cut_image(image: npt.NDArray[Any], region: Region, settings: ResampleSettings) -> Grey:
    """The region of a CT (D, H, W) as the network takes it: grey levels of the settings' size.

    Each region has its own minimum and maximum, as each series had in pretraining. Where all of it
    has one value, all is 0. Raises SettingError for settings with pad_to_square, ValueError for a
    region that does not fit the image.
    """
    before, inside = _check(region, image.shape, settings)
    part = image[inside]
    resampler = Resampler((len(part), *region.shape[1:]), settings)
    try:
        for k in resampler.needed:
            resampler.add(k, part[k])
        grey = resampler.finish()
    except VolumeError as error:
        if error.reason != "constant":
            raise
        return np.zeros((settings.slices, settings.rows, settings.columns), np.uint8)
    # The resampler stands fewer slices in the middle; here they stay where they are.
    return _move(grey.voxels, grey.blank_before, before, grey.slices_filled)


def cut_mask(mask: npt.NDArray[Any], region: Region, settings: ResampleSettings) -> Grey:
    """The region of a mask (D, H, W) in the settings' size, 0 or 1; what is not 0 counts.

    Raises as cut_image.
    """
    before, inside = _check(region, mask.shape, settings)
    planes = _resize_planes(mask[inside] != 0, (settings.rows, settings.columns))
    if len(planes) > settings.slices:
        planes = _resize_slices(planes, settings.slices)
    cut = np.zeros((settings.slices, settings.rows, settings.columns), np.uint8)
    cut[before : before + len(planes)] = planes >= 0.5
    return cut


def paste(values: npt.NDArray[Any], region: Region, shape: tuple[int, ...]) -> tuple[Array, Slices]:
    """What the network gave for a region, on the case's grid, and where there it belongs.

    values: (slices, rows, columns) of the network's input. shape: of the case, (D, H, W). Gives the
    part of the region that lies in the case, float32, linear, and its place: case[place] = part.
    """
    inside = region.clip(shape[0])
    n, wanted = region.shape[0], len(values)
    if n > wanted:
        values = _resize_slices(np.asarray(values, np.float32), n)
        before = 0
    else:
        before = (wanted - n) // 2
    first = before + inside[0].start - region.start[0]
    kept = values[first : first + inside[0].stop - inside[0].start]
    return _resize_planes(kept, region.shape[1:]), inside


def _check(
    region: Region, shape: tuple[int, ...], settings: ResampleSettings
) -> tuple[int, Slices]:
    """How many blank slices come before, and the region's part in the case."""
    if settings.pad_to_square:
        remedy = "use a run whose volumes were made without --pad-to-square"
        raise SettingError("is not supported for regions", "pad_to_square", remedy)
    inside = region.clip(shape[0])
    n_inside = inside[0].stop - inside[0].start
    ends = zip(region.start[1:], region.shape[1:], shape[1:], strict=True)
    if n_inside < 1 or any(start < 0 or start + n > length for start, n, length in ends):
        raise ValueError(f"{region} does not lie in {shape}")
    if region.shape[0] <= settings.slices:
        before = (settings.slices - region.shape[0]) // 2 + inside[0].start - region.start[0]
        return before, inside
    if n_inside < region.shape[0]:
        raise ValueError(f"{region} sticks out and has more than {settings.slices} slices")
    return 0, inside


def _move(voxels: Grey, old: int, new: int, n: int) -> Grey:
    """Slices old to old + n at `new`, blank elsewhere."""
    if old == new:
        return voxels
    moved = np.zeros_like(voxels)
    moved[new : new + n] = voxels[old : old + n]
    return moved


def _resize_planes(values: npt.NDArray[Any], size: tuple[int, ...]) -> Array:
    """(D, H, W) -> (D, *size), linear with half-pixel centres, edges replicated."""
    planes = np.empty((len(values), *size), np.float32)
    for plane, source in zip(planes, values, strict=True):
        cv2.resize(
            source.astype(np.float32), (size[1], size[0]), plane, interpolation=cv2.INTER_LINEAR
        )
    return planes


def _resize_slices(values: Array, n_slices: int) -> Array:
    """(D, H, W) -> (n_slices, H, W), in the same way."""
    depth = len(values)
    place = np.clip((np.arange(n_slices) + 0.5) * depth / n_slices - 0.5, 0, depth - 1)
    below = np.minimum(place.astype(int), max(depth - 2, 0))
    above = np.minimum(below + 1, depth - 1)
    weight = (place - below).astype(np.float32)[:, None, None]
    resized: Array = values[below] * (1 - weight) + values[above] * weight
    return resized
