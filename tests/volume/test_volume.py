"""Volumes of series that are written here as DICOM files and read as the lake reads them."""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import make_dataset, read_rows, write
from instance_rows import AXIAL, placed, stack, to_frames

from radnet_lake.errors import VolumeError
from radnet_lake.volume import volume
from radnet_lake.volume.frame import Frame
from radnet_lake.volume.resample import Resampler, ResampleSettings
from radnet_lake.volume.volume import (
    Prepared,
    Volume,
    prepare_frames,
    prepare_values,
    read_volume_of,
)

SMALL = ResampleSettings(slices=8, rows=12, columns=10)
HALF = 0.5 + 1e-3


def draw(shape: Sequence[int], low: int = 0, high: int = 4000) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, shape).astype(np.int16)


def write_frames(
    folder: Path,
    stored: np.ndarray,
    change: Callable[[int], dict[str, Any]] = lambda _: {},
    **attributes: Any,
) -> list[Frame]:
    """A series of one file a slice, 2.5 mm apart, and its frames as harvested, shuffled.

    change: slice -> what is different there.
    """
    frames = []
    for k in np.random.default_rng(1).permutation(len(stored)):
        plane = stored[k]
        elements: dict[str, Any] = {
            "SOPInstanceUID": f"1.2.3.1.{k}",
            "InstanceNumber": str(k),
            "ImageOrientationPatient": AXIAL,
            "ImagePositionPatient": [-30.5, 12, 2.5 * int(k) - 7],
            "PixelSpacing": [0.75, 0.5],
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsStored": 8 * plane.itemsize,
            "HighBit": 8 * plane.itemsize - 1,
            "PixelRepresentation": int(plane.dtype.kind == "i"),
        }
        elements["Rows"], elements["Columns"] = plane.shape
        elements |= attributes | change(int(k))
        path = folder / f"{k}.dcm"
        path.write_bytes(write(make_dataset(**elements), pixels=plane.tobytes()))
        frames += read_frames(path)
    return frames


def read_frames(path: Path) -> list[Frame]:
    data = path.read_bytes()
    return to_frames(
        [row | {"uri": str(path), "size_bytes": len(data)} for row in read_rows(data, len(data))]
    )


def test_each_frame_is_rescaled_by_its_own_numbers(tmp_path: Path) -> None:
    stored = draw((9, 12, 10))

    def rescale(k: int) -> dict[str, Any]:
        return {"RescaleSlope": str(0.5 + k), "RescaleIntercept": str(-10 * k)} if k else {}

    frames = write_frames(tmp_path, stored, rescale)
    k = np.arange(9)[:, None, None]
    due = np.where(k, stored * (0.5 + k) - 10.0 * k, stored)
    read = read_volume_of(frames)
    assert read.values.dtype == np.float32
    assert np.array_equal(read.values, due)
    assert read.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    assert read.position_mm.tolist() == [-30.5, 12, -7]
    assert read.steps_mm.tolist() == [[0, 0, 2.5], [0, 0.75, 0], [0.5, 0, 0]]


def test_what_lies_below_air_in_ct_is_air(tmp_path: Path) -> None:
    stored = draw((9, 12, 10), -3024, 1000)
    frames = write_frames(tmp_path, stored, Modality="CT", RescaleSlope="1", RescaleIntercept="24")
    assert np.array_equal(read_volume_of(frames).values, np.maximum(stored + 24.0, -1024))
    as_mr = [f._replace(Modality="MR") for f in frames]
    assert np.array_equal(read_volume_of(as_mr).values, stored + 24.0)


@pytest.mark.parametrize(
    ("kind", "marks", "mark", "limit"),
    [
        (np.int16, [-2000], -2000, None),
        (np.int16, [-2000], 63536, None),  # written as unsigned
        (np.uint16, [63536], -2000, None),  # written as signed
        (np.uint16, [0], 0, None),
        (np.int16, [-2000, -1999, -1990], -2000, -1990),
        (np.int16, [-2000, -1999, -1990], -1990, -2000),
    ],
)
def test_padding_takes_the_lowest_other_value(
    tmp_path: Path, kind: type, marks: list[int], mark: int, limit: int | None
) -> None:
    stored = draw((9, 12, 10), 100, 900).astype(kind)
    stored[1, 2, 3] = 50
    for n, value in enumerate(marks):
        stored[3:, :3, n] = value
    padding = {"PixelPaddingValue": float(mark), "PixelPaddingRangeLimit": limit}
    frames = [f._replace(**padding) for f in write_frames(tmp_path, stored)]
    due = stored.astype(np.float32)
    due[3:, :3, : len(marks)] = 50
    assert np.array_equal(read_volume_of(frames).values, due)
    prepared = prepare_frames(frames, ResampleSettings(slices=9, rows=12, columns=10))
    assert prepared.value_min == 50
    assert not prepared.voxels[3:, :3, : len(marks)].any()
    assert prepared.padded_share == pytest.approx(6 * 3 * len(marks) / stored.size)


def test_a_padding_value_that_no_pixel_can_have_is_none(tmp_path: Path) -> None:
    stored = draw((3, 12, 10)).astype(np.uint16)
    stored[0, 0, 0] = 2096  # bone; -2000 modulo 4096
    unsigned = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    frames = [
        f._replace(PixelPaddingValue=-2000.0, **unsigned) for f in write_frames(tmp_path, stored)
    ]
    assert np.array_equal(read_volume_of(frames).values, stored.astype(np.float32))


def test_monochrome1_is_inverted_within_its_range(tmp_path: Path) -> None:
    stored = draw((9, 12, 10), 100, 900)
    stored[0, 0] = -7
    frames = write_frames(
        tmp_path, stored, PhotometricInterpretation="MONOCHROME1", RescaleSlope="2"
    )
    frames = [f._replace(PixelPaddingValue=-7.0) for f in frames]
    values = 2.0 * stored
    low, high = values[stored != -7].min(), values.max()
    due = low + high - np.where(stored == -7, high, values)
    assert np.array_equal(read_volume_of(frames).values, due)
    prepared = prepare_frames(frames, ResampleSettings(slices=9, rows=12, columns=10))
    assert np.abs(prepared.voxels - (due - low) / (high - low) * 255).max() <= HALF


def test_a_lookup_table_takes_the_place_of_slope_and_intercept(tmp_path: Path) -> None:
    stored = draw((3, 12, 10), 0, 20).astype(np.uint16)
    table = np.arange(16, dtype=np.uint16)[::-1] * 7 + 3
    lookup = pydicom.Dataset()
    lookup.LUTDescriptor, lookup.ModalityLUTType = [16, 2, 16], "US"
    lookup.LUTData = table.tobytes()
    lookup["LUTDescriptor"].VR, lookup["LUTData"].VR = "US", "OW"
    frames = write_frames(tmp_path, stored, ModalityLUTSequence=[lookup])
    due = table[np.clip(stored.astype(int) - 2, 0, 15)]
    assert np.array_equal(read_volume_of(frames).values, due)
    assert prepare_frames(frames, SMALL).value_max == table.max()


def test_loss_is_told(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, draw((9, 12, 10)))
    assert not prepare_frames(frames, SMALL).is_lossy
    frames = write_frames(
        tmp_path, draw((9, 12, 10)), lambda k: {"LossyImageCompression": "01"} if k == 4 else {}
    )
    assert prepare_frames(frames, SMALL).is_lossy


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "mixed_photometric"),
        ({"RescaleSlope": 0.0}, "bad_rescale"),
        ({"RescaleSlope": float("nan")}, "bad_rescale"),
        ({"RescaleIntercept": float("inf")}, "bad_rescale"),
        ({"unparseable_keywords": ["RescaleSlope"]}, "bad_rescale"),
        ({"multivalued_keywords": ["RescaleIntercept"]}, "bad_rescale"),
        ({"RescaleSlope": 1e300}, "not_finite"),
        ({"PhotometricInterpretation": "RGB"}, "colour"),
        ({"SamplesPerPixel": 3}, None),
        ({"BitsAllocated": None}, "bad_declaration"),
        ({"uri": "/nowhere/1.dcm"}, "vanished"),
        ({"size_bytes": 77}, "changed"),
    ],
)
def test_one_bad_frame_gives_the_series_its_reason(
    tmp_path: Path, spoiled: dict[str, Any], reason: str | None
) -> None:
    frames = write_frames(tmp_path, draw((9, 12, 10)))
    frames[4] = frames[4]._replace(**spoiled)
    settings = ResampleSettings(slices=9, rows=12, columns=10)
    if reason is None:
        # Of another kind than the others: no part of the stack.
        assert read_volume_of(frames).values.shape[0] == 8
        return
    for read in (read_volume_of, lambda frames: prepare_frames(frames, settings)):
        with pytest.raises(VolumeError) as caught:
            read(frames)
        assert caught.value.reason == reason
        assert "nowhere" not in str(caught.value)


def test_a_slice_without_weight_that_is_known_to_be_cut_gives_the_series_its_reason(
    tmp_path: Path,
) -> None:
    frames = write_frames(tmp_path, draw((30, 12, 10)))
    assert len(Resampler((30, 12, 10), SMALL).needed) < 30
    for k in range(30):
        spoiled = [f._replace(flags=["truncated"]) if f.InstanceNumber == k else f for f in frames]
        if k in Resampler((30, 12, 10), SMALL).needed:
            prepare_frames(spoiled, SMALL)  # read, and whole after all
            continue
        with pytest.raises(VolumeError, match="truncated_pixels"):
            prepare_frames(spoiled, SMALL)


def test_declared_sizes_are_checked_before_anything_is_allocated() -> None:
    allocated = {"BitsAllocated": 16, "has_pixel_data": True, "header_bytes": 500}
    rows = [row | allocated for row in stack("1", 2000)]
    with pytest.raises(VolumeError, match="too_large"):
        read_volume_of(placed([row | {"Rows": 1024, "Columns": 1024} for row in rows]))
    for height, width, reason in ((65535, 65535, "too_large"), (None, 9, "bad_declaration")):
        frames = placed([row | {"Rows": height, "Columns": width} for row in rows])
        for read in (read_volume_of, lambda frames: prepare_frames(frames, SMALL)):
            with pytest.raises(VolumeError, match=reason):
                read(frames)


def test_memory_does_not_grow_with_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plane = draw((256, 256))
    read: list[int] = []

    def stream(_: Sequence[Frame], wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for k in wanted:
            read.append(k)
            yield k, plane + np.int16(k)

    monkeypatch.setattr(volume.pixels, "read_stored", stream)
    declared = {"Rows": 256, "Columns": 256, "BitsAllocated": 16, "header_bytes": 500}
    frames = placed(stack("1", 2000, 0.3, **declared))
    tracemalloc.start()
    try:
        prepared = prepare_frames(frames, ResampleSettings())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(read) <= 96
    assert peak < 25 << 20  # the planes are 7 MB; all slices would be 262 MB
    assert prepared.source_shape == (2000, 256, 256)
    assert prepared.spacing_mm[0] == pytest.approx(0.3 * 2000 / 48)


def ramp(shape: tuple[int, int, int], steps: np.ndarray, slope: np.ndarray) -> Volume:
    """A volume whose value is a linear function of the place in space."""
    position = np.array([11.0, -7.0, 30.0])
    indexes = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    values = (position + indexes @ steps) @ slope
    return Volume(values.astype(np.float32), position, steps)


@pytest.mark.parametrize("shape", [(100, 40, 36), (20, 40, 100), (48, 11, 13), (47, 192, 192)])
@pytest.mark.parametrize("pad_to_square", [False, True])
def test_each_voxel_knows_its_place_in_space(
    shape: tuple[int, int, int], pad_to_square: bool
) -> None:
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    steps = turned * np.array([[2.0], [0.7], [0.5]])
    slope = np.array([3.0, -2.0, 1.5])
    settings = ResampleSettings(slices=48, rows=64, columns=50, pad_to_square=pad_to_square)
    prepared = prepare_values(ramp(shape, steps, slope), settings)
    grey = prepared.voxels.astype(np.float64) / 255
    values = prepared.value_min + grey * (prepared.value_max - prepared.value_min)
    indexes = np.stack(np.meshgrid(*map(np.arange, grey.shape), indexing="ij"), axis=-1)
    places = prepared.position_mm + indexes @ prepared.steps_mm
    source = (places - np.array([11.0, -7.0, 30.0])) @ np.linalg.inv(steps)
    # Beyond the outermost centres a ramp goes on and an image does not.
    inside = ((source >= 0) & (source <= np.array(shape) - 1)).all(axis=-1)
    assert inside.any(axis=(1, 2)).sum() >= min(shape[0], 46)
    half = 0.51 * (prepared.value_max - prepared.value_min) / 255
    assert np.abs(values - places @ slope)[inside].max() <= half
    assert prepared.spacing_mm == pytest.approx(np.linalg.norm(prepared.steps_mm, axis=1))
    assert prepared.source_spacing_mm == pytest.approx((2.0, 0.7, 0.5))
    if shape[0] >= 48:
        assert prepared.spacing_mm[0] == pytest.approx(2.0 * shape[0] / 48)


def test_spacing_is_along_the_normal_even_where_slices_are_sheared() -> None:
    lean = np.array([[0.0, 1.0, 4.0], [0, 0.7, 0], [0.5, 0, 0]])
    assert Volume(np.empty(0, np.float32), np.zeros(3), lean).spacing_mm == (4.0, 0.7, 0.5)


def test_arrays_are_prepared_as_their_files_are(tmp_path: Path) -> None:
    stored = draw((60, 40, 36), -2000, 2000)
    frames = write_frames(
        tmp_path, stored, lambda k: {"RescaleSlope": str(1 + k / 8)}, Modality="CT"
    )
    by_file = prepare_frames(frames, SMALL)
    by_array = prepare_values(read_volume_of(frames), SMALL)
    assert np.abs(by_file.voxels.astype(int) - by_array.voxels).max() <= 1
    for name in Prepared._fields[1:-1]:
        assert np.allclose(getattr(by_file, name), getattr(by_array, name)), name


def test_the_digest_names_the_frames_and_their_order(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, draw((9, 12, 10)))
    digest = prepare_frames(frames, SMALL).stack_digest
    assert digest == prepare_frames(frames[::-1], SMALL).stack_digest
    changed = [f._replace(SOPInstanceUID=f"{f.SOPInstanceUID}.1") for f in frames[:1]] + frames[1:]
    assert digest != prepare_frames(changed, SMALL).stack_digest
    assert digest != prepare_frames(frames[1:], SMALL).stack_digest


def test_a_single_slice_steps_as_far_as_its_rows(tmp_path: Path) -> None:
    read = read_volume_of(write_frames(tmp_path, draw((1, 12, 10))))
    assert read.values.shape == (1, 12, 10)
    assert read.spacing_mm == pytest.approx((0.75, 0.75, 0.5))


def test_a_real_ct_slice_is_what_pydicom_reads(pydicom_files: Path) -> None:
    path = pydicom_files / "CT_small.dcm"
    ds = pydicom.dcmread(path)
    hounsfield = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    assert np.array_equal(
        read_volume_of(read_frames(path)).values[0], np.maximum(hounsfield, -1024)
    )
