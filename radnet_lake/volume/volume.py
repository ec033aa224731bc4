"""Frames of one series -> a volume in space: order, values, geometry.

`order_frames` finds the stack, `read_volume_of` gives all its values, `prepare_frames` resizes it
as the network wants it, slice by slice. Axes: frame.py.

Value = RescaleSlope * stored + RescaleIntercept, each frame by its own (PS3.3 C.11.1), or its
Modality LUT. CT below -1024 HU becomes that: some scanners write -2000 or -3024 around the field
of view and do not say so. Padding (PS3.3 C.7.5.1.1.2) takes the lowest other value. MONOCHROME1 is
inverted: v -> max + min - v.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from radnet_lake.errors import VolumeError
from radnet_lake.volume import pixels
from radnet_lake.volume.frame import Array, Frame, Stored, Vector
from radnet_lake.volume.pixel_data import check_declared
from radnet_lake.volume.resample import Resampler, ResampleSettings
from radnet_lake.volume.stack import find_normal, find_stack

CT_LOWEST = -1024.0
"""HU; air is -1000."""
MAX_VOXELS = 2**30
"""Of read_volume_of, 4 GiB; prepare_frames holds planes of the target's size only."""
LOSSY_SYNTAXES = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
"""JPEG Baseline and Extended; in other syntaxes LossyImageCompression states it."""


class Volume(NamedTuple):
    """A volume in space. values: (D, H, W). position_mm: centre of voxel [0, 0, 0], LPS.

    steps_mm: (3, 3), LPS; its rows lead from slice to slice, row to row, column to column.
    """

    values: Array
    position_mm: Vector
    steps_mm: Vector

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between slices (along the normal, however sheared), rows, columns."""
        return _measure_spacing(self.steps_mm)


class Prepared(NamedTuple):
    """A volume as input of the network. The fields are columns of `volumes`: see
    schema.VOLUME_FACTS; `voxels` (slices, rows, columns) is what lies in the shard."""

    voxels: npt.NDArray[np.uint8]
    position_mm: Vector
    steps_mm: Vector
    spacing_mm: tuple[float, float, float]
    source_shape: tuple[int, int, int]
    source_spacing_mm: tuple[float, float, float]
    blank_before: int
    slices_filled: int
    value_min: float
    value_max: float
    grey_p01: int
    grey_p99: int
    padded_share: float
    is_lossy: bool
    stack_digest: str


class _Stack(NamedTuple):
    """Frames along the normal, one for each position, and their geometry."""

    frames: list[Frame]
    shape: tuple[int, int, int]
    position_mm: Vector
    steps_mm: Vector
    is_inverted: bool


class _Slice(NamedTuple):
    """One frame's values: slope * numbers + intercept, at least lowest, but where padding is."""

    numbers: Stored
    padding: npt.NDArray[np.bool_] | None
    slope: float
    intercept: float
    lowest: float


def order_frames(frames: Sequence[Frame], strict: bool = True) -> list[Frame]:
    """Frames -> those of the main stack along its normal, one for each position; see find_stack.

    Raises VolumeError no_frames, several_frames_at_a_place.
    """
    return find_stack(frames, strict)[0]


def read_volume_of(frames: Sequence[Frame], strict: bool = True) -> Volume:
    """Frames -> the volume of their main stack, all slices in memory.

    Raises VolumeError: as order_frames, for bad declarations and pixels, not_finite, and too_large
    past MAX_VOXELS.
    """
    stack = _place_stack(frames, strict)
    if math.prod(stack.shape) > MAX_VOXELS:
        raise VolumeError("too_large", f"{' x '.join(map(str, stack.shape))} voxels")
    values = np.empty(stack.shape, np.float32)
    padded, low, high = [], math.inf, -math.inf
    for k, one in _read_slices(stack.frames, range(len(stack.frames))):
        plane = values[k]
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(one.numbers, np.float32(one.slope), out=plane, casting="unsafe")
            plane += np.float32(one.intercept)
            np.maximum(plane, np.float32(one.lowest), out=plane)
        kept = plane if one.padding is None else plane[~one.padding]
        if not np.isfinite(kept).all():
            raise VolumeError("not_finite", "values that are no finite numbers")
        if kept.size:
            low, high = min(low, float(kept.min())), max(high, float(kept.max()))
        if one.padding is not None:
            plane[one.padding] = np.nan
            padded.append(k)
    if low > high:
        raise VolumeError("constant", "all voxels are padding")
    for k in padded:
        fill = np.float32(high if stack.is_inverted else low)
        np.copyto(values[k], fill, where=np.isnan(values[k]))
    if stack.is_inverted:
        np.subtract(np.float32(low + high), values, out=values)
    return Volume(values, stack.position_mm, stack.steps_mm)


def prepare_frames(
    frames: Sequence[Frame], settings: ResampleSettings, strict: bool = True
) -> Prepared:
    """Frames -> the resized volume of their main stack, a few frames at a time in memory.

    Raises VolumeError as read_volume_of does, but too_large for a single frame only; constant.
    """
    stack = _place_stack(frames, strict)
    resampler = Resampler(stack.shape, settings, _measure_spacing(stack.steps_mm)[1:])
    for k, one in _read_slices(stack.frames, resampler.needed):
        resampler.add(k, *one)
    prepared = _finish(resampler, stack)
    return prepared._replace(
        is_lossy=any(
            f.LossyImageCompression == "01" or f.TransferSyntaxUID in LOSSY_SYNTAXES
            for f in stack.frames
        ),
        stack_digest=_digest(stack.frames),
    )


def prepare_values(volume: Volume, settings: ResampleSettings) -> Prepared:
    """A volume in memory -> the resized volume, equal to prepare_frames of its frames."""
    depth, height, width = volume.values.shape
    stack = _Stack([], (depth, height, width), volume.position_mm, volume.steps_mm, False)
    resampler = Resampler(stack.shape, settings, volume.spacing_mm[1:])
    for k in resampler.needed:
        resampler.add(k, volume.values[k])
    return _finish(resampler, stack)


def _finish(resampler: Resampler, stack: _Stack) -> Prepared:
    grey = resampler.finish(stack.is_inverted)
    spacing = _measure_spacing(stack.steps_mm)
    steps = stack.steps_mm * np.array(grey.scale)[:, None]
    return Prepared(
        voxels=grey.voxels,
        position_mm=stack.position_mm + np.array(grey.origin) @ stack.steps_mm,
        steps_mm=steps,
        spacing_mm=_measure_spacing(steps),
        source_shape=stack.shape,
        source_spacing_mm=spacing,
        blank_before=grey.blank_before,
        slices_filled=grey.slices_filled,
        value_min=grey.value_min,
        value_max=grey.value_max,
        grey_p01=grey.grey_p01,
        grey_p99=grey.grey_p99,
        padded_share=grey.padded_share,
        is_lossy=False,
        stack_digest="",
    )


def _measure_spacing(steps: Vector) -> tuple[float, float, float]:
    row, column = (float(np.linalg.norm(step)) for step in steps[1:])
    normal = np.cross(steps[1], steps[2])
    return abs(float(steps[0] @ normal)) / float(np.linalg.norm(normal)), row, column


def _digest(frames: Sequence[Frame]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for f in frames:
        digest.update(repr((f.SOPInstanceUID, f.frame_number, f.ImagePositionPatient)).encode())
    return digest.hexdigest()


def _place_stack(frames: Sequence[Frame], strict: bool) -> _Stack:
    """The main stack, its declarations checked."""
    stack, orientation = find_stack(frames, strict)
    first, last = (np.array(f.ImagePositionPatient, np.float64) for f in (stack[0], stack[-1]))
    row, column = np.array(stack[0].PixelSpacing, np.float64)
    # A single slice steps as far as its rows: slice thickness is not spacing.
    along = (last - first) / (len(stack) - 1) if len(stack) > 1 else find_normal(orientation) * row
    steps = np.stack([along, orientation[3:] * row, orientation[:3] * column])
    check_declared(stack[0])
    shape = (len(stack), stack[0].Rows or 0, stack[0].Columns or 0)
    return _Stack(stack, shape, first, steps, _check_photometric(stack))


def _check_photometric(stack: Sequence[Frame]) -> bool:
    """Whether the stack is inverted."""
    count = sum(f.PhotometricInterpretation == "MONOCHROME1" for f in stack)
    if 0 < count < len(stack):
        raise VolumeError("mixed_photometric", f"{count} of {len(stack)} frames are inverted")
    return count > 0


def _read_slices(stack: Sequence[Frame], wanted: Sequence[int]) -> Iterator[tuple[int, _Slice]]:
    unread = set(range(len(stack))).difference(wanted)
    for k, frame in enumerate(stack):
        _read_rescale(frame)
        if k not in unread:
            continue
        # A slice without weight: what the lake knows of it counts all the same.
        check_declared(frame)
        if "truncated" in (frame.flags or ()):
            raise VolumeError("truncated_pixels", "a file ended early when it was harvested")
    for k, stored in pixels.read_stored(stack, wanted):
        yield k, _rescale(stored, stack[k])


def _read_rescale(frame: Frame) -> tuple[float, float]:
    # What the lake could not read is not the same as absent.
    unread = (*(frame.unparseable_keywords or ()), *(frame.multivalued_keywords or ()))
    if "RescaleSlope" in unread or "RescaleIntercept" in unread:
        raise VolumeError("bad_rescale", "slope or intercept is no number")
    slope = 1.0 if frame.RescaleSlope is None else frame.RescaleSlope
    intercept = 0.0 if frame.RescaleIntercept is None else frame.RescaleIntercept
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise VolumeError("bad_rescale", f"slope {slope:g}, intercept {intercept:g}")
    return slope, intercept


def _rescale(stored: Stored, frame: Frame) -> _Slice:
    slope, intercept = _read_rescale(frame)
    padding = None
    marks = _find_padding(frame)
    if marks and stored.min() <= marks[1] and stored.max() >= marks[0]:
        padding = (stored >= marks[0]) & (stored <= marks[1])
        padding = padding if padding.any() else None
    if frame.has_modality_lut:
        entries, first = pixels.read_lookup(frame)
        places = np.clip(stored.astype(np.int64) - first, 0, len(entries) - 1)
        stored, slope, intercept = entries[places], 1.0, 0.0
    lowest = CT_LOWEST if frame.Modality == "CT" else -math.inf
    return _Slice(stored, padding, slope, intercept, lowest)


def _find_padding(frame: Frame) -> tuple[int, int] | None:
    """Range of stored values that are padding, both ends in it."""
    if frame.PixelPaddingValue is None or not frame.BitsStored:
        return None
    marks = [_fold(mark, frame) for mark in (frame.PixelPaddingValue, frame.PixelPaddingRangeLimit)]
    found = [mark for mark in marks if mark is not None]
    return (min(found), max(found)) if marks[0] is not None else None


def _fold(mark: float | None, frame: Frame) -> int | None:
    """A padding mark as a stored value, for some files write it as if of the other signedness."""
    bits, allocated = frame.BitsStored or 16, frame.BitsAllocated or 16
    if mark is None or not math.isfinite(mark):
        return None
    low = -(1 << bits - 1) if frame.PixelRepresentation else 0
    value = int(mark)
    for folded in (value, value % (1 << allocated), value % (1 << allocated) - (1 << allocated)):
        if low <= folded < low + (1 << bits):
            return folded
    return None
