"""What a user relies on of a written SEG: the mask lies where it was found, on frames it names."""

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset

from radnet_lake.dicom.header import Reject, read_header
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.dicom.values import quiet_pydicom
from radnet_lake.errors import VolumeError
from radnet_lake.phantom.headers import encode_dataset
from radnet_lake.phantom.objects import build_enhanced
from radnet_lake.phantom.phantom import PhantomConfig, mask_liver, plan_patient, render_series
from radnet_lake.transfer.read_mask import read_mask
from radnet_lake.transfer.write_seg import make_segmentation, read_source
from radnet_lake.volume.frame import FRAME_COLUMNS, Frame
from radnet_lake.volume.volume import Volume, order_frames, read_volume_of

SHAPE = (7, 12, 10)
POSITION = np.array([-31.5, 17.25, -404.0])
ACROSS, DOWN = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
HALF = np.sqrt(0.5)
WAYS = {
    "axial": (ACROSS, DOWN, (0, 0, 2.5)),
    "flipped": (-ACROSS, -DOWN, (0, 0, 2.5)),
    "feet first": (-ACROSS, DOWN, (0, 0, -2.5)),
    "coronal": (ACROSS, np.array([0, 0, -1.0]), (0, 2.5, 0)),
    "oblique": (
        np.array([0.8, 0, 0.6]), np.array([0.36, 0.8, -0.48]), (-1.2, 1.5, 1.6),
    ),
    "leaning gantry": (ACROSS, np.array([0, HALF, -HALF]), (0, 0, 2.5)),
}  # fmt: skip
"""Cosines along a row and down a column, and the step from file to file."""


def write_scan(folder: Path, way: str = "axial", **attributes: Any) -> np.ndarray:
    """CT files of SHAPE, in a shuffled order of names; gives the steps (file, row, column)."""
    across, down, along = WAYS[way]
    ds = pydicom.data.get_testdata_file("CT_small.dcm", read=True, download=False)
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "Müller^Jürgen=山田^太郎"
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = "1.2.3", "1.2", "1.9"
    ds.Rows, ds.Columns = SHAPE[1:]
    ds.PixelSpacing, ds.ImageOrientationPatient = [0.8, 0.7], [*across, *down]
    with quiet_pydicom():
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    folder.mkdir(exist_ok=True)
    for n in range(SHAPE[0]):
        instance = attributes.get("SOPInstanceUID", f"1.2.3.{n + 1}")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = instance
        ds.InstanceNumber = n + 1
        ds.ImagePositionPatient = [f"{x:.8g}" for x in POSITION + n * np.array(along)]
        ds.PixelData = np.full(SHAPE[1:], n, "<i2").tobytes()
        ds.save_as(folder / f"{5 * n % 7}.dcm", enforce_file_format=False)
    return np.array([along, down * 0.8, across * 0.7])


def read_frames(folder: Path) -> list[Frame]:
    frames = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        header = read_header(lambda o, n, d=data: d[o : o + n], len(data), data[:4096])
        assert not isinstance(header, Reject)
        rows = make_frame_rows(header)
        assert not isinstance(rows, Reject)
        kept = [{k: v for k, v in row.items() if k in FRAME_COLUMNS} for row in rows]
        frames += [Frame(uri=str(path), size_bytes=len(data), **row) for row in kept]
    return frames


def draw_mask(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    mask = np.random.default_rng(seed).random(shape) < 0.3
    mask[[0, 3]] = False
    return mask


def write_seg(
    frames: list[Frame], mask: np.ndarray, organ: str = "liver"
) -> tuple[bytes, Volume, list[Frame]]:
    volume, stack = read_volume_of(frames), order_frames(frames)
    data = make_segmentation(mask, volume.steps_mm, stack, read_source(stack), organ, "c0ffee")
    return data, volume, stack


def list_places(seg: Dataset) -> np.ndarray:
    """Where the voxels of a SEG lie, (n, 3) LPS mm, by PS3.3 C.7.6.2.1.1 alone."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    places = []
    planes = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for plane, groups in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        row, column = np.nonzero(plane)
        steps = np.outer(row, cosines[3:]) * down + np.outer(column, cosines[:3]) * across
        places.append(corner + steps)
    return sort_places(np.concatenate(places))


def sort_places(places: np.ndarray) -> np.ndarray:
    return places[np.lexsort(places.round(2).T)]


@pytest.mark.parametrize("way", WAYS)
def test_the_mask_lies_in_place_on_the_frames_it_names(way: str, tmp_path: Path) -> None:
    steps = write_scan(tmp_path, way)
    frames, mask = read_frames(tmp_path), draw_mask(SHAPE)
    data, volume, stack = write_seg(frames, mask)
    seg = highdicom.seg.segread(io.BytesIO(data))
    # Of the test's own steps, by what the pixels say of the file a slice comes from.
    n, (_, row, column) = volume.values[mask].astype(int) + 1024, np.nonzero(mask)
    places = POSITION + np.stack([n, row, column], 1) @ steps
    assert list_places(seg) == pytest.approx(sort_places(places), abs=1e-3)
    assert (read_mask(data, volume, "liver", "1.9") == mask).all()
    assert seg.FrameOfReferenceUID == "1.9"
    slices = np.flatnonzero(mask.any((1, 2)))
    named = [
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for groups in seg.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(named) == sorted(stack[k].SOPInstanceUID for k in slices)
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[0]


def test_a_seg_says_what_made_it_and_whose_it_is(tmp_path: Path, caplog) -> None:
    write_scan(tmp_path, PatientSex="W", PatientBirthDate="unknown", StudyDate="20240131")
    with caplog.at_level(logging.DEBUG):
        data, _, _ = write_seg(read_frames(tmp_path), draw_mask(SHAPE))
    assert "Müller" not in caplog.text
    seg = pydicom.dcmread(io.BytesIO(data))
    assert str(seg.PatientName) == "Müller^Jürgen=山田^太郎"
    assert (seg.StudyInstanceUID, seg.StudyDate, seg.PatientSex) == ("1.2", "20240131", "")
    assert (seg.Modality, seg.SegmentationType, seg.ContentLabel) == ("SEG", "BINARY", "LIVER")
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Liver", "AUTOMATIC")
    assert segment.SegmentAlgorithmName == "radnet_lake"
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("10200004", "SCT")


@pytest.mark.parametrize(
    ("organ", "meaning"), [("right kidney", "Kidney"), ("unheard of", "Tissue")]
)
def test_other_organs_are_found_again_by_their_name(
    organ: str, meaning: str, tmp_path: Path
) -> None:
    write_scan(tmp_path)
    mask = draw_mask(SHAPE)
    data, volume, _ = write_seg(read_frames(tmp_path), mask, organ)
    segment = pydicom.dcmread(io.BytesIO(data)).SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == meaning
    name = organ.removeprefix("right ")
    assert (read_mask(data, volume, name) == mask).all()


def test_enhanced_objects_are_named_frame_by_frame(tmp_path: Path) -> None:
    plans = plan_patient(PhantomConfig("unused", size=48), 0)
    series = next(s for s in plans if s.kind == "CT" and s.view == "axial" and not s.oddity)
    ds = build_enhanced(series, render_series(series)[0])
    (tmp_path / "1.dcm").write_bytes(encode_dataset(ds, "explicit"))
    frames, mask = read_frames(tmp_path), mask_liver(series)
    data, volume, stack = write_seg(frames[::-1], mask)
    assert (read_mask(data, volume) == mask).all()
    seg = highdicom.seg.segread(io.BytesIO(data))
    for groups in seg.PerFrameFunctionalGroupsSequence:
        item = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert item.ReferencedSOPInstanceUID == ds.SOPInstanceUID
        assert item.ReferencedSOPClassUID == ds.SOPClassUID
        named = next(f for f in stack if f.frame_number == item.ReferencedFrameNumber)
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        assert named.ImagePositionPatient == pytest.approx([float(x) for x in place])
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1


def test_files_without_uids_get_equal_ones_each_time(tmp_path: Path) -> None:
    empty = dict.fromkeys(("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"), "")
    write_scan(tmp_path, FrameOfReferenceUID="", **empty)
    frames, mask = read_frames(tmp_path), draw_mask(SHAPE)
    stack = order_frames(frames)
    source = read_source(stack)
    assert set(source.made_up) == {*empty, "FrameOfReferenceUID"}
    assert len({instance for _, instance, _ in source.references}) == SHAPE[0]
    data, volume, _ = write_seg(frames, mask)
    assert (read_mask(data, volume) == mask).all()
    again = pydicom.dcmread(io.BytesIO(write_seg(frames[::-1], mask)[0]))
    other = pydicom.dcmread(io.BytesIO(write_seg(frames, draw_mask(SHAPE, 1))[0]))
    first = pydicom.dcmread(io.BytesIO(data))
    assert first.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert first.StudyInstanceUID == other.StudyInstanceUID == source.study


def test_a_series_in_an_archive_is_read_there(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan")
    frames = read_frames(tmp_path / "scan")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for frame in frames:
            archive.write(frame.uri, f"in/{Path(frame.uri).name}")
    packed = f"{tmp_path}/scan.zip"
    inside = [
        f._replace(uri=f"{packed}!/in/{Path(f.uri).name}", archive_uri=packed) for f in frames
    ]
    found, expected = read_source(inside), read_source(frames)
    assert found == expected
    assert found.identity.PatientName == "Müller^Jürgen=山田^太郎"


def test_what_makes_no_seg_is_told(tmp_path: Path) -> None:
    write_scan(tmp_path)
    frames = read_frames(tmp_path)
    with pytest.raises(VolumeError, match="no_mask"):
        write_seg(frames, np.zeros(SHAPE, bool))
    Path(frames[2].uri).unlink()
    with pytest.raises(VolumeError, match="vanished"):
        read_source(frames)
