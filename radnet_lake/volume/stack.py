"""Frames of a series in, its main stack of slices out: which frames, in what order."""

import datetime
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from radnet_lake.errors import VolumeError
from radnet_lake.volume.frame import Frame, Vector

UNIT_LENGTH_TOLERANCE = 0.01
RIGHT_ANGLE_TOLERANCE = 0.01
ORIENTATION_TOLERANCE = 0.001
PIXEL_SPACING_TOLERANCE = 0.001
MERGE_DISTANCE_MM = 0.05
MAX_STACK_ORIENTATIONS = 256
"""Of sql/thresholds.csv, with units and sources: the same as in labelling, so that a series that
labelling kept gives the stack that it measured."""


def find_stack(frames: Sequence[Frame], strict: bool) -> tuple[list[Frame], Vector]:
    """Frames -> those of the main stack along its normal, one for each position; its orientation
    (6,), row and column cosines.

    The main stack is the largest set of image frames that share matrix, SOP class, frame of
    reference (a missing one joins), orientation and pixel spacing; others are left out. Of copies
    one stays: of one SOP instance in several files the newest whole file, of instances that are
    equal in all but their UID the lowest UID. strict: other frames at one place are refused; else
    the first by acquisition, temporal position, instance number and UID stays.

    Raises VolumeError no_frames, several_frames_at_a_place.
    """
    images = [
        f for f in frames if f.object_kind in ("image", None) and f.has_pixel_data is not False
    ]
    positions = _table([f.ImagePositionPatient for f in images], 3)
    orientations = _table([f.ImageOrientationPatient for f in images], 6)
    spacings = _table([f.PixelSpacing for f in images], 2)
    row, column = orientations[:, :3], orientations[:, 3:]
    lengths = np.linalg.norm([row, column], axis=2)
    # NaN fails every comparison.
    is_plane = (np.abs(lengths - 1) <= UNIT_LENGTH_TOLERANCE).all(axis=0)
    is_plane &= np.abs((row * column).sum(axis=1)) <= RIGHT_ANGLE_TOLERANCE
    is_plane &= np.isfinite(positions).all(axis=1)
    is_plane &= (np.isfinite(spacings) & (spacings > 0)).all(axis=1)
    chosen = _drop_older(images, np.flatnonzero(is_plane))
    if not len(chosen):
        raise VolumeError("no_frames", f"none of {len(frames)} is a placed image")
    row[chosen] /= lengths[0, chosen, None]
    column[chosen] /= lengths[1, chosen, None]
    members, leader = _find_main(
        [images[i] for i in chosen], orientations[chosen], spacings[chosen]
    )
    chosen, orientation = chosen[members], orientations[chosen[leader]]
    distances = positions[chosen] @ find_normal(orientation)
    along = np.argsort(distances, kind="stable")
    starts = np.flatnonzero(np.diff(distances[along], prepend=-np.inf) > MERGE_DISTANCE_MM)
    ordered = [images[i] for i in chosen[along]]
    return (ordered if len(starts) == len(ordered) else _pick(ordered, starts, strict)), orientation


def _table(rows: Iterable[list[float] | None], width: int) -> Vector:
    missing = [math.nan] * width
    found = [row if row is not None and len(row) == width else missing for row in rows]
    return np.array(found, np.float64).reshape(-1, width)


def find_normal(orientation: Vector) -> Vector:
    """Unit normal, to the left, back or head; where two are as near, to the later of these."""
    normal: Vector = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    nearest = max(range(3), key=lambda axis: (round(abs(float(normal[axis])), 3), axis))
    return normal if normal[nearest] > 0 else -normal


def _drop_older(images: Sequence[Frame], chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Of one SOP instance in several files the newest whole one stays; of equals the last path."""
    newest: dict[Any, tuple[Any, ...]] = {}
    for i in chosen:
        f = images[i]
        age = (
            "truncated" not in (f.flags or ()),
            f.InstanceCreationDate or datetime.date.min,
            f.InstanceCreationTime or 0.0,
            f.harvested_at or datetime.datetime.min,
            f.uri,  # rows come in any order, the choice is the same
            i,
        )
        # An empty UID names nothing.
        key = (f.SOPInstanceUID, f.frame_number or 1) if f.SOPInstanceUID else i
        newest[key] = max(age, newest.get(key, age))
    return np.array(sorted(age[-1] for age in newest.values()), np.intp)


def _find_main(
    images: Sequence[Frame], orientations: Vector, spacings: Vector
) -> tuple[npt.NDArray[np.intp], int]:
    """Indices of the frames of the largest stack, and of one that it is measured by.

    As sql/2_rollup/65_stack_orientation.sql: the most frequent orientation and spacing starts a
    stack, others join one within tolerance, or start their own.
    """
    space = max(f.FrameOfReferenceUID or "" for f in images)
    codes: dict[Any, int] = {}
    kinds = [
        codes.setdefault(
            (f.Rows, f.Columns, f.SOPClassUID, f.SamplesPerPixel, f.FrameOfReferenceUID or space),
            len(codes),
        )
        for f in images
    ]
    geometry = np.column_stack([kinds, np.round(orientations, 4), np.round(spacings, 4)])
    orientation_keys, first, key_of, counts = np.unique(
        geometry, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    o, s, rest = orientations[first], spacings[first], np.ones(len(orientation_keys), bool)
    best, best_size, best_leader = rest, 0, 0
    for leader in np.argsort(-counts, kind="stable")[:MAX_STACK_ORIENTATIONS]:
        if best_size >= counts[rest].sum():
            break
        near = rest & (orientation_keys[:, 0] == orientation_keys[leader, 0])
        near &= 1 - o[:, :3] @ o[leader, :3] <= ORIENTATION_TOLERANCE
        near &= 1 - o[:, 3:] @ o[leader, 3:] <= ORIENTATION_TOLERANCE
        near &= (np.abs(s - s[leader]) <= PIXEL_SPACING_TOLERANCE * s[leader]).all(axis=1)
        if rest[leader] and (size := counts[near].sum()) > best_size:
            best, best_size, best_leader = near, size, first[leader]
        rest &= ~near
    return np.flatnonzero(best[key_of.reshape(-1)]), int(best_leader)


def _pick(ordered: Sequence[Frame], starts: npt.NDArray[np.intp], strict: bool) -> list[Frame]:
    """Frames in order -> one of each position; starts: index of each position's first frame."""
    picked, crowded = [], 0
    for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True):
        copies = defaultdict(list)
        for i, f in enumerate(ordered[start:end]):
            copies[_content(f) or i].append(f)
        crowded += len(copies) > 1
        singles = [min(same, key=lambda f: f.SOPInstanceUID or "") for same in copies.values()]
        picked.append(min(singles, key=_rank))
    if strict and crowded:
        detail = f"{crowded} of {len(starts)} places have several"
        raise VolumeError("several_frames_at_a_place", detail)
    return picked


def _content(f: Frame) -> Any:
    """A key that is equal for two objects of equal content; None if that is unknown."""
    if not f.SOPInstanceUID or f.InstanceNumber is None:
        return None
    where = (f.ImagePositionPatient, f.ImageOrientationPatient, f.PixelSpacing)
    numbers = f.InstanceNumber, f.AcquisitionNumber, f.TemporalPositionIdentifier, f.frame_number
    return repr((*where, *numbers))


def _rank(f: Frame) -> Any:
    numbers = f.AcquisitionNumber, f.TemporalPositionIdentifier, f.InstanceNumber
    return [(n is None, n or 0) for n in numbers], f.SOPInstanceUID or ""
