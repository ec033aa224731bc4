"""Volumes of any folder as read here and by SimpleITK (GDCM): where they are equal, where not.

    python benchmarks/readers.py FOLDER

Both read each series on their own: SimpleITK finds, sorts and rescales the files itself. What is
compared is what lies where in space, so an opposite slice order is no difference, and values after
rescale. Voxels that we set on purpose are counted apart: padding, and CT below -1024 HU.
A line per series, then sums. Numbers in brackets: how many voxels, and the largest difference.
"""

import argparse
import os
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

import radnet_lake
from radnet_lake.errors import VolumeError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.volume.frame import FRAME_COLUMNS, Array, Frame, Vector
from radnet_lake.volume.volume import CT_LOWEST, Volume, order_frames, read_volume_of

PLACE_MM = 1e-2
"""Of the first and of the last voxel's centre."""
RELATIVE = 1e-5
"""Of the largest value: both end in float32, SimpleITK by way of double or of integers."""

Series = tuple[str, list[Frame]]


class Seen(NamedTuple):
    """What SimpleITK makes of a series: values (D, H, W), place and steps as in Volume."""

    values: Array
    position_mm: Vector
    steps_mm: Vector


def list_series(folder: str, lake: str) -> list[Series]:
    """All series of images, by UID; files without one by their folder."""
    harvest(HarvestConfig(sources=(folder,), lake=lake, phi="keep"))
    columns = ", ".join(f'"{name}"' for name in FRAME_COLUMNS)
    found: dict[tuple[str, str], list[Frame]] = defaultdict(list)
    with radnet_lake.connect(lake) as connection:
        rows = connection.sql(
            f"select coalesce(SeriesInstanceUID, '') as series, {columns} from instances"
            " where object_kind = 'image' and archive_uri is null"
        )
        for row in rows.to_arrow_table().to_pylist():
            series = row.pop("series")
            where = "" if series else str(Path(row["uri"]).parent)
            found[series, where].append(Frame(**row))
    return [(series or "(no UID)", frames) for (series, _), frames in sorted(found.items())]


def read_by_simpleitk(uid: str, frames: list[Frame]) -> Seen:
    """Raises RuntimeError where SimpleITK does, ValueError where it sees no single volume."""
    files = sorted({f.uri for f in frames})
    if len(files) > 1:
        folder = os.path.commonpath([str(Path(f).parent) for f in files])
        named = "" if uid == "(no UID)" else uid
        found = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, named, recursive=True)
        files = list(found) or files
    reader = sitk.ImageSeriesReader() if len(files) > 1 else sitk.ImageFileReader()
    if isinstance(reader, sitk.ImageSeriesReader):
        reader.SetFileNames(files)
    else:
        reader.SetFileName(files[0])
        reader.SetImageIO("GDCMImageIO")
    image = reader.Execute()
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() != 3:
        raise ValueError("colour, or no volume")
    direction = np.array(image.GetDirection()).reshape(3, 3).T
    steps = (direction * np.array(image.GetSpacing())[:, None])[::-1]
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    return Seen(values, np.array(image.GetOrigin()), steps)


def align_slices(seen: Seen, ours: Volume) -> Seen:
    """The same voxels with slices in our order."""
    if seen.steps_mm[0] @ ours.steps_mm[0] >= 0:
        return seen
    steps = seen.steps_mm * np.array([[-1], [1], [1]])
    last = seen.position_mm + (len(seen.values) - 1) * seen.steps_mm[0]
    return Seen(seen.values[::-1], last, steps)


def compare(ours: Volume, seen: Seen, stack: list[Frame]) -> list[str]:
    """How SimpleITK's volume differs from ours; nothing where they are equal."""
    if ours.values.shape != seen.values.shape:
        return [f"shape {ours.values.shape} against {seen.values.shape}"]
    found, seen = [], align_slices(seen, ours)
    depth = len(ours.values)
    first = np.abs(ours.position_mm - seen.position_mm).max()
    if first > PLACE_MM:
        found.append(f"first voxel {first:.3f} mm apart")
    corner = np.array(ours.values.shape) - 1
    # One slice has no step.
    parts = slice(0 if depth > 1 else 1, 3)
    ends = [corner[parts] @ v.steps_mm[parts] for v in (ours, seen)]
    last = np.abs(ends[0] - ends[1]).max()
    if last > PLACE_MM:
        spacings = [Volume(v.values, *v[1:]).spacing_mm for v in (ours, seen)]
        shown = [" ".join(f"{s:.4f}" for s in spacing) for spacing in spacings]
        found.append(f"extent {last:.3f} mm apart, spacing {shown[0]} against {shown[1]}")
    return found + compare_values(ours.values, seen.values, stack)


def compare_values(ours: Array, seen: Array, stack: list[Frame]) -> list[str]:
    bound = RELATIVE * max(1.0, float(np.abs(seen).max()))
    differs, found = np.abs(ours - seen) > bound, []
    slope, intercept = stack[0].RescaleSlope or 1.0, stack[0].RescaleIntercept or 0.0
    marks = {f.PixelPaddingValue for f in stack if f.PixelPaddingValue is not None}
    for what, is_meant in (
        ("padding", np.isin(seen, [slope * mark + intercept for mark in marks])),
        ("below -1024 HU", (seen < CT_LOWEST) & (ours == CT_LOWEST)),
    ):
        if count := np.count_nonzero(differs & is_meant):
            found.append(f"{what} ({count})")
        differs &= ~is_meant
    if differs.any():
        most = np.abs(ours - seen)[differs].max()
        found.append(f"VALUES ({np.count_nonzero(differs)}, {most:g})")
    return found


def judge(uid: str, frames: list[Frame]) -> tuple[str, str]:
    """Verdict and what there is to say about it."""
    try:
        ours = read_volume_of(frames)
    except VolumeError as error:
        return "not read here", str(error)
    try:
        seen = read_by_simpleitk(uid, frames)
    except (RuntimeError, ValueError) as error:
        return "not read by SimpleITK", str(error).strip().splitlines()[-1][:80]
    differences = compare(ours, seen, order_frames(frames))
    return ("differs", "; ".join(differences)) if differences else ("equal", "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="DICOM files, in folders of any depth")
    folder = parser.parse_args().folder
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    sums: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for uid, frames in list_series(folder, f"{scratch}/lake"):
            verdict, detail = judge(uid, frames)
            sums[verdict] += 1
            print(f"{verdict:22}{len(frames):6} frames  {uid}  {detail}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in sums.most_common()))


if __name__ == "__main__":
    main()
