"""Volumes of the phantom archive, as the lake describes it, against the arrays it was made of."""

import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from dicom_files import open_data

from radnet_lake.dicom.header import Header
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.errors import VolumeError
from radnet_lake.phantom.headers import find_padding
from radnet_lake.phantom.phantom import (
    PhantomConfig,
    list_frames,
    phantom,
    plan_patient,
    render_series,
)
from radnet_lake.phantom.plan import Series
from radnet_lake.volume.frame import FRAME_COLUMNS, Frame
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.volume import (
    Volume,
    order_frames,
    prepare_frames,
    prepare_values,
    read_volume_of,
)


class Truth(NamedTuple):
    """What a series must be read as. tolerance: half a step of stored values, (D, 1, 1)."""

    series: Series
    frames: list[Frame]
    volume: Volume
    tolerance: np.ndarray


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Series, list[Frame]]]:
    """All planned series of a phantom archive, with their frames as the lake describes them."""
    config = PhantomConfig(str(tmp_path_factory.mktemp("volume") / "in"), 3, seed=52, size=36)
    phantom(config)
    frames: dict[str, list[Frame]] = defaultdict(list)
    for uri, archive_uri, data in list_files(Path(config.out)):
        header = open_data(data)
        rows = make_frame_rows(header) if isinstance(header, Header) else []
        where = {"uri": uri, "archive_uri": archive_uri, "size_bytes": len(data)}
        for row in rows if isinstance(rows, list) else []:
            known = {name: row.get(name) for name in FRAME_COLUMNS} | where
            frames[row.get("SeriesInstanceUID", "")].append(Frame(**known))
    shuffle = np.random.default_rng(0).permutation
    plans = [s for number in range(config.patients) for s in plan_patient(config, number)]
    return [(s, [frames[s.uid][i] for i in shuffle(len(frames[s.uid]))]) for s in plans]


def list_files(folder: Path) -> Iterator[tuple[str, str | None, bytes]]:
    """URI, URI of the archive it lies in, content of all files, those in zip files too."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix != ".zip":
            yield str(path), None, path.read_bytes()
            continue
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                yield f"{path}!/{member}", str(path), archive.read(member)


@pytest.fixture(scope="module")
def truths(phantoms: list[tuple[Series, list[Frame]]]) -> list[Truth]:
    """Of the series that are one stack."""
    return [
        Truth(series, frames, *draw_volume(series))
        for series, frames in phantoms
        if len(series.grids) == 1 and len(series.scans) == 1
    ]


def draw_volume(series: Series) -> tuple[Volume, np.ndarray]:
    """The generator's array as it must be read, and how far stored values may be from it."""
    (grid,), (values,), (places,) = series.grids, render_series(series), list_frames(series)
    is_ct, vendor = series.study.modality == "CT", series.study.vendor.name
    normal = np.cross(grid.steps[1], grid.steps[2])
    normal /= np.linalg.norm(normal)
    # To the left, the back or the head; the oblique stack lies halfway, and is read upwards.
    normal *= np.sign(normal[2] if abs(normal[2]) > 0.7 else normal[np.argmax(np.abs(normal))])
    positions = np.array([place for place, _ in places])
    along = np.argsort(positions @ normal)
    values, positions = values[along], positions[along]
    step = np.full(len(along), 1.0)
    if vendor == "philips" and not is_ct:
        step = np.maximum(values.max(axis=(1, 2)), 1) / 4095
    if is_ct:
        values = np.maximum(values, -1024)
    padding = find_padding(series, grid)
    values = np.where(padding, values[:, ~padding].min(), values).astype(np.float32)
    steps = np.array(grid.steps)
    spans = positions[-1] - positions[0]
    steps[0] = spans / (len(along) - 1) if len(along) > 1 else normal * np.linalg.norm(steps[1])
    return Volume(values, positions[0], steps), 0.501 * step[:, None, None]


def name(series: Series) -> tuple[Any, ...]:
    study = series.study
    return study.vendor.name, study.modality, study.syntax, series.view, series.oddity, study.disc


def test_volumes_are_what_the_phantom_drew(truths: list[Truth]) -> None:
    wrong = []
    for truth in truths:
        read = read_volume_of(truth.frames)
        due = truth.volume
        same = read.values.shape == due.values.shape and (
            (np.abs(read.values - due.values) <= truth.tolerance).all()
            and np.allclose(read.position_mm, due.position_mm, atol=1e-3)
            and np.allclose(read.steps_mm, due.steps_mm, atol=1e-4)
        )
        if not same:
            wrong.append(name(truth.series))
    assert wrong == []


def test_prepared_volumes_are_the_resized_truth(truths: list[Truth]) -> None:
    wrong = []
    settings = ResampleSettings(slices=24, rows=56, columns=32)
    for truth in truths:
        prepared = prepare_frames(truth.frames, settings)
        due = prepare_values(truth.volume, settings)
        # Rounded stored values move the ends of the range, and each voxel between them.
        grey = 255 * 4 * truth.tolerance.max() / (due.value_max - due.value_min) + 1
        if (
            np.abs(prepared.voxels.astype(int) - due.voxels).max() > grey
            or not np.allclose(prepared.position_mm, due.position_mm, atol=1e-2)
            or prepared.blank_before != due.blank_before
        ):
            wrong.append(name(truth.series))
    assert wrong == []


def test_the_archive_shows_every_style_plane_syntax_and_oddity(truths: list[Truth]) -> None:
    seen = [set(values) for values in zip(*(name(t.series) for t in truths), strict=True)]
    assert seen[0] == {"siemens", "ge", "philips", "canon", "uih"}
    assert seen[1] == {"CT", "MR"}
    assert seen[2] == {"explicit", "implicit", "deflated", "rle", "big"}
    assert seen[3] == {"axial", "coronal", "sagittal"}
    assert seen[4] >= {"", "enhanced", "flipped", "feet", "copies", "oblique", "tilt", "few"}
    assert seen[5] == {"", "folder", "zip"}
    numbers = [[f.InstanceNumber for f in order_frames(t.frames)] for t in truths]
    ways = {(n[0] < n[-1]) - (n[0] > n[-1]) for n in numbers if None not in n}  # type: ignore[operator]
    assert ways >= {1, -1}


def test_series_of_several_time_points_are_refused(
    phantoms: list[tuple[Series, list[Frame]]],
) -> None:
    repeated = [(s, frames) for s, frames in phantoms if len(s.scans) > 1]
    assert {s.oddity for s, _ in repeated} >= {"dynamic", "two_b"}
    for series, frames in repeated:
        with pytest.raises(VolumeError, match="several_frames_at_a_place"):
            read_volume_of(frames)
        assert len(order_frames(frames, strict=False)) == len(series.slices)
