"""What a user relies on of DICOM masks: SEG and RTSTRUCT land where they lie in the patient."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from radnet_lake.errors import VolumeError
from radnet_lake.phantom.headers import encode_dataset, make_item
from radnet_lake.phantom.objects import build_mask
from radnet_lake.phantom.phantom import PhantomConfig, list_frames, mask_liver, plan_patient
from radnet_lake.transfer.read_mask import assign_planes, fill_contours, names_organ, read_mask
from radnet_lake.volume.volume import Volume

REFERENCE = "1.2.3.4"


def make_volume(
    shape: Sequence[int] = (12, 40, 50), spacing: Sequence[float] = (5.0, 0.8, 0.7),
    position: Sequence[float] = (-17.5, 12.0, -600.0),
) -> Volume:  # fmt: skip
    steps = np.diag(np.array(spacing, float))[:, ::-1]
    return Volume(np.zeros(shape, np.float32), np.array(position, float), steps)


@pytest.fixture(scope="module")
def phantom() -> tuple[Volume, np.ndarray, Dataset]:
    """A phantom's CT grid, its liver, and the SEG file that the phantom archive holds of it."""
    plans = plan_patient(PhantomConfig("unused", size=48), 0)
    series = next(s for s in plans if s.kind == "CT" and s.view == "axial" and not s.oddity)
    mask = mask_liver(series)
    position, steps = list_frames(series)[0][0][0], series.grids[0].steps
    assert 0 < mask.any((1, 2)).sum() < len(mask)
    volume = Volume(np.zeros(mask.shape, np.float32), position, steps)
    return volume, mask, build_mask(series)


def encode(dataset: Dataset) -> bytes:
    return encode_dataset(dataset, "explicit")


def reorder(seg: Dataset, frames: Sequence[int]) -> Dataset:
    """The SEG with these frames, in this order."""
    out = pydicom.dcmread(io.BytesIO(encode(seg)))
    planes = out.pixel_array.reshape(-1, out.Rows, out.Columns)[list(frames)]
    groups = out.PerFrameFunctionalGroupsSequence
    out.PerFrameFunctionalGroupsSequence = [groups[n] for n in frames]
    out.NumberOfFrames = len(frames)
    bits = np.packbits(planes.ravel(), bitorder="little").tobytes()
    out.PixelData = bits + b"\0" * (len(bits) % 2)
    return out


def save(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def expect(reason: str, data: bytes, image: Volume, *options: object) -> str:
    with pytest.raises(VolumeError) as caught:
        read_mask(data, image, *options)  # type: ignore[arg-type]
    assert caught.value.reason == reason
    return str(caught.value)


def test_the_phantom_seg_is_the_generators_mask(phantom) -> None:
    image, mask, seg = phantom
    assert (read_mask(encode(seg), image) == mask).all()
    assert (read_mask(encode(seg), image, 1, seg.FrameOfReferenceUID) == mask).all()


def test_frames_are_placed_by_position_not_by_order(phantom) -> None:
    image, mask, seg = phantom
    order = np.random.default_rng(0).permutation(seg.NumberOfFrames)
    assert (read_mask(save(reorder(seg, order)), image) == mask).all()
    # Turned round, or with slices left out, the image takes from each frame what is its own.
    part = image._replace(
        values=image.values[4::2],
        position_mm=image.position_mm + 4 * image.steps_mm[0],
        steps_mm=image.steps_mm * [[2], [1], [1]],
    )
    assert (read_mask(encode(seg), part) == mask[4::2]).all()
    turned = image._replace(
        position_mm=image.position_mm + (len(mask) - 1) * image.steps_mm[0],
        steps_mm=image.steps_mm * [[-1], [1], [1]],
    )
    assert (read_mask(encode(seg), turned) == mask[::-1]).all()


def test_a_frame_that_is_left_out_stays_empty(phantom) -> None:
    image, mask, seg = phantom
    filled = np.flatnonzero(mask.any((1, 2)))
    expected = mask.copy()
    expected[filled[[2, 3, 4]]] = False
    kept = [n for n in range(seg.NumberOfFrames) if n not in (2, 3, 4)]
    assert (read_mask(save(reorder(seg, kept)), image) == expected).all()
    expected[:] = False
    expected[filled[5]] = mask[filled[5]]
    assert (read_mask(save(reorder(seg, [5])), image) == expected).all()


def test_a_seg_on_another_grid_is_taken_at_the_nearest_voxel(phantom) -> None:
    image, mask, seg = phantom
    # The image has half the seg's rows and columns and twice its slices, and is wider.
    finer = Volume(
        np.zeros((2 * len(mask), mask.shape[1] // 2 + 3, mask.shape[2] // 2 + 2), np.float32),
        image.position_mm - 0.25 * image.steps_mm[0] - 2 * image.steps_mm[1:].sum(0),
        image.steps_mm * [[0.5], [2], [2]],
    )
    found = read_mask(encode(seg), finer)
    expected = np.zeros(finer.values.shape, bool)
    inner = mask[:, ::2, ::2].repeat(2, 0)
    n_rows, n_columns = inner.shape[1:]
    expected[:, 1 : 1 + n_rows, 1 : 1 + n_columns] = inner
    assert (found == expected).all()


def test_each_mismatch_has_its_reason(phantom) -> None:
    image, _, seg = phantom
    data = encode(seg)
    assert "frame" in expect("mask_mismatch", data, image, "liver", "1.2.3")
    assert "1 segments" in expect("no_mask", data, image, "kidney")
    expect("no_mask", data, image, 7)
    away = image._replace(position_mm=image.position_mm + np.array([0, 0, 5000]))
    expect("no_mask", data, away)
    sagittal = image._replace(steps_mm=image.steps_mm[[2, 1, 0]])
    assert "parallel" in expect("mask_mismatch", data, sagittal)
    expect("truncated_pixels", save_short(seg), image)
    expect("undecodable", data[: len(data) // 3], image)
    expect("unsupported_syntax", b"no DICOM at all" * 100, image)
    seg = reorder(seg, range(seg.NumberOfFrames))
    del seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    expect("undecodable", save(seg), image)
    seg.Rows, seg.Columns = 65535, 65535
    expect("too_large", save(seg), image)


def save_short(seg: Dataset) -> bytes:
    out = reorder(seg, range(seg.NumberOfFrames))
    out.PixelData = out.PixelData[:-100]
    return save(out)


def test_a_deflated_mask_is_read_within_a_bound(phantom, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask, seg = phantom
    data = encode_dataset(seg, "deflated")
    assert len(data) < len(encode(seg))
    assert (read_mask(data, image) == mask).all()
    monkeypatch.setattr("radnet_lake.transfer.read_mask.MOST_BYTES", len(data))
    expect("too_large", data, image)
    expect("undecodable", data[:300] + bytes(50) + data[350:], image)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_of_highdicoms_own_files_are_chosen_by_code_name_or_number(
    kind: str, pydicom_files: Path
) -> None:
    image = make_volume((5, 16, 16))
    labels = np.zeros((5, 16, 16), np.uint8)
    labels[1:4, 3:9, 4:12] = 1
    labels[2:, 10:14, 2:8] = 2
    labels[:2, 10:14, 9:15] = 3
    seg = write_highdicom(image, labels, kind, pydicom_files)
    assert (read_mask(seg, image) == (labels == 1)).all()
    assert (read_mask(seg, image, "kidney") == (labels >= 2)).all()
    assert (read_mask(seg, image, 3) == (labels == 3)).all()


def write_highdicom(image: Volume, labels: np.ndarray, kind: str, folder: Path) -> bytes:
    codes = pydicom.sr.codedict.codes
    sources = []
    for k in range(len(labels)):
        source = pydicom.dcmread(folder / "CT_small.dcm")
        source.Rows, source.Columns = labels.shape[1:]
        source.PixelSpacing = [float(image.spacing_mm[1]), float(image.spacing_mm[2])]
        source.ImagePositionPatient = list(image.position_mm + k * image.steps_mm[0])
        source.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        source.SOPInstanceUID = f"1.2.3.{k + 1}"
        source.PixelData = bytes(2 * labels[0].size)
        sources.append(source)
    names = (("Leber", codes.SCT.Liver), ("kidney_left", codes.SCT.Kidney), ("Right kidney", None))
    descriptions = [
        highdicom.seg.SegmentDescription(
            number, name, codes.SCT.Organ, code or codes.SCT.Organ, "MANUAL"
        )
        for number, (name, code) in enumerate(names, 1)
    ]
    pixels = labels if kind != "FRACTIONAL" else np.stack([labels == n for n in (1, 2, 3)], -1)
    seg = highdicom.seg.Segmentation(
        sources, pixels if kind != "FRACTIONAL" else pixels * 0.7, kind, descriptions,
        pydicom.uid.generate_uid(), 2, pydicom.uid.generate_uid(), 1, "m", "m", "1", "1",
    )  # fmt: skip
    buffer = io.BytesIO()
    seg.save_as(buffer)
    return buffer.getvalue()


def test_pydicoms_real_liver_is_read_as_pydicom_reads_it(pydicom_files: Path) -> None:
    path = pydicom_files / "liver_1frame.dcm"
    seg = pydicom.dcmread(path)
    place = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    image = make_volume((3, 512, 512), (1, *measures.PixelSpacing), np.array(place) - [0, 0, 1])
    found = read_mask(path.read_bytes(), image)
    assert (found[1] == seg.pixel_array).all()
    assert not found[[0, 2]].any()
    data = (pydicom_files / "liver_expb_1frame.dcm").read_bytes()
    assert "big endian" in expect("unsupported_syntax", data, image)


def test_pydicoms_real_structure_is_read_by_name_and_its_points_are_no_mask(
    pydicom_files: Path,
) -> None:
    data = (pydicom_files / "rtstruct.dcm").read_bytes()
    image = make_volume((3, 80, 80), (10, 5, 5), (-200, -200, -200))
    area_mm2 = read_mask(data, image, "patient").sum((1, 2)) * 25
    assert area_mm2.tolist() == [400 * 300] * 3
    expect("no_mask", data, image, "isocenter 1")
    expect("no_mask", data, image, "liver")


def make_structure(
    image: Volume, contours: Sequence[np.ndarray], name: str = "LIVER", geometry="CLOSED_PLANAR"
) -> Dataset:
    """RTSTRUCT of contours given as (n, 3) slices, rows, columns of the image."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3"
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.Modality = "RTSTRUCT"
    item = {"ReferencedFrameOfReferenceUID": REFERENCE}
    ds.StructureSetROISequence = [
        make_item(ROINumber=3, ROIName="BODY", **item), make_item(ROINumber=8, ROIName=name, **item)
    ]  # fmt: skip
    items = []
    for contour in contours:
        points = image.position_mm + contour @ image.steps_mm
        data = [f"{value:.10g}"[:16] for value in points.ravel()]
        items.append(make_item(ContourGeometricType=geometry, ContourData=data))
    ds.ROIContourSequence = [
        make_item(ReferencedROINumber=3), make_item(ReferencedROINumber=8, ContourSequence=items)
    ]  # fmt: skip
    return ds


def circle(k: float, radius: float, centre: tuple[float, float] = (19.3, 24.6)) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    rows, columns = centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)
    return np.stack([np.full_like(angle, k), rows, columns], 1)


def square(k: float, low: int, high: int) -> np.ndarray:
    return np.array([(k, low, low), (k, low, high), (k, high, high), (k, high, low)], float)


def test_circles_have_their_area_and_holes_stay_open() -> None:
    image = make_volume((6, 120, 130))
    centre = (60.2, 63.7)
    contours = [circle(k, 40, centre) for k in (1, 2, 3)] + [circle(2, 15, centre)]
    found = read_mask(save(make_structure(image, contours)), image, "liver", REFERENCE)
    assert found.sum((1, 2)) == pytest.approx(
        np.pi * np.array([0, 1600, 1600 - 225, 1600, 0, 0]), rel=0.005
    )
    assert not found[2, 60, 64]
    assert found[1, 60, 64]


def test_a_contour_through_voxel_centres_encloses_its_area_exactly() -> None:
    image = make_volume()
    found = read_mask(save(make_structure(image, [square(4, 10, 20)])), image)
    expected = np.zeros(image.values.shape, bool)
    expected[4, 10:20, 10:20] = True
    assert (found == expected).all()
    # Two that share an edge share no voxel, and leave none out.
    left, right = square(0, 5, 15)[:, 1:], square(0, 5, 15)[:, 1:] + [0, 10]
    both = fill_contours([left], (30, 40)).astype(int) + fill_contours([right], (30, 40))
    assert both.max() == 1
    assert both.sum() == 200


def test_contours_beyond_the_image_are_cut_at_its_rim() -> None:
    rows, columns = np.array([-1e6, -1e6, 1e6, 1e6]), np.array([-1e6, 1e6, 1e6, -1e6])
    assert fill_contours([np.stack([rows, columns], 1)], (7, 9)).all()
    assert not fill_contours([np.stack([rows, columns + 3e6], 1)], (7, 9)).any()
    triangle = np.array([[-10, -10], [-10, 10.0], [10, -10]])
    assert (fill_contours([triangle], (8, 8)) == (np.add.outer(range(8), range(8)) < 0)).all()


def test_an_oblique_and_sheared_image_takes_its_contours_in_place() -> None:
    image = make_volume()
    lean = np.array([[0, 1.2, 4.8], [0.1, 0.79, 0.0], [0.69, -0.09, 0.0]])
    image = image._replace(steps_mm=lean)
    found = read_mask(save(make_structure(image, [square(4, 10.25, 20.25)])), image)
    assert found.sum() == 100
    assert found[4, 11:21, 11:21].all()


@pytest.mark.parametrize(
    ("places", "filled"),
    [
        ([2, 3, 4, 5], [2, 3, 4, 5]),
        ([2.3, 3.3, 4.3], [2, 3, 4]),  # off the slices, within half a spacing
        ([2, 4, 6, 8], [2, 3, 4, 5, 6, 7, 8, 9]),  # drawn on every second slice
        ([2, 3, 6, 7], [2, 3, 6, 7]),  # two parts
        ([2, 6], [2, 6]),  # nothing says that they belong together
        ([2, 2.5, 3, 3.5, 4], [2, 3, 4]),  # drawn more finely
        ([1.5, 2.5, 3.5 - 1e-9], [2, 3, 4]),  # half-way
        ([20, 21, -5], []),
    ],
)
def test_slices_take_the_plane_nearest_to_them(places: list[float], filled: list[int]) -> None:
    taken = assign_planes(np.array(places, float), 12)
    assert sorted(taken) == filled
    for k, members in taken.items():
        assert abs(places[members[0]] - k) == pytest.approx(min(abs(p - k) for p in places))


def test_what_the_file_says_of_its_gap_counts_up_to_the_smallest_there_is() -> None:
    assert sorted(assign_planes(np.array([2.0, 8.0]), 12, gap=2.0)) == [2, 3, 8, 9]
    assert sorted(assign_planes(np.array([2.0, 3.0]), 12, gap=4.0)) == [2, 3]
    assert sorted(assign_planes(np.array([4.0]), 12, gap=4.0)) == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda ds, image: None, "no_mask"),
        (lambda ds, image: ds.ROIContourSequence.__delitem__(1), "no_mask"),
        (lambda ds, image: setattr(ds, "StructureSetROISequence", []), "no_mask"),
        (lambda ds, image: delattr(ds, "ROIContourSequence"), "undecodable"),
    ],
)
def test_a_structure_without_contours_has_no_mask(
    spoil: Callable[[Dataset, Volume], None], reason: str
) -> None:
    image = make_volume()
    ds = make_structure(image, [])
    spoil(ds, image)
    expect(reason, save(ds), image)


def test_contours_that_do_not_fit_have_their_reason() -> None:
    image = make_volume()
    leaning = square(4, 10, 20) * np.array([[1, 1, 1], [1, 1, 1], [2, 1, 1], [2, 1, 1]])
    assert "parallel" in expect("mask_mismatch", save(make_structure(image, [leaning])), image)
    data = save(make_structure(image, [square(4, 10, 20)]))
    expect("mask_mismatch", data, image, "liver", "9.9")
    expect("no_mask", save(make_structure(image, [square(4, 10, 20)], geometry="POINT")), image)
    # What encloses nothing is no trouble beside what does.
    odd = [square(4, 10, 20), square(5, 10, 20)[:1], square(6, 10, 20)[:2]]
    assert read_mask(save(make_structure(image, odd)), image).sum() == 100
    ds = make_structure(image, [square(4, 10, 20)])
    ds.ROIContourSequence[1].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
    expect("undecodable", save(ds), image)


def test_names_fit_an_organ_whatever_their_case_and_side() -> None:
    for name in ("Liver", "LIVER", " liver ", "liver_l", "Left_Liver"):
        assert names_organ(name, "liver")
    for name in ("Liver lesion", "GTV liver", "deliver", "liver2", ""):
        assert not names_organ(name, "liver")
    assert names_organ("Kidney, left", "kidney")
    assert names_organ("small-bowel", "Small Bowel")
