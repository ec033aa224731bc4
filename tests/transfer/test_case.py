"""What a user relies on of cases: the mask lies on its image, whatever files the two came from."""

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from s3_server import S3Server

from radnet_lake.dicom.header import Reject, read_header
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.phantom.headers import build_frames, encode_dataset
from radnet_lake.phantom.objects import build_mask
from radnet_lake.phantom.phantom import (
    PhantomConfig,
    list_frames,
    mask_liver,
    plan_patient,
    render_series,
)
from radnet_lake.transfer.case import (
    LitsPair,
    LiverCase,
    list_lits,
    read_dicom_case,
    read_lits,
    read_nifti_case,
    resample_slices,
)
from radnet_lake.volume.frame import FRAME_COLUMNS, Frame
from radnet_lake.volume.nifti import write_nifti

AFFINE = np.array([[-0.7, 0, 0, 90], [0, 0.8, 0, -110], [0, 0, 2.5, -400], [0, 0, 0, 1.0]])
"""RAS, as LiTS has it: stored to the left, front and head."""


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def make_pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(-3000, 2000, (9, 8, 7)).astype(np.int16)
    mask = rng.integers(0, 3, image.shape).astype(np.uint8)
    return image, mask


def in_our_axes(stored: np.ndarray) -> np.ndarray:
    """An array stored to the left, front and head as (D, H, W)."""
    return stored.transpose(2, 1, 0)[:, ::-1]


def make_case(depth: int = 12, spacing: float = 2.0, seed: int = 0) -> LiverCase:
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 300, (depth, 4, 5)).astype(np.float32)
    mask = (rng.random(image.shape) < 0.5).astype(np.uint8)
    steps = np.array([[0, 0, spacing], [0, 0.8, 0], [0.7, 0, 0]])
    return LiverCase(image, mask, np.array([-10.0, 20, 300]), steps, "case")


@pytest.fixture(scope="module")
def lits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two batches as the challenge hands them out, one case without a mask."""
    folder = tmp_path_factory.mktemp("lits")
    for number, batch, ending in ((0, "Batch 1", "nii"), (28, "Batch 2", "nii.gz")):
        image, mask = make_pair(number)
        save(folder / batch / f"volume-{number}.{ending}", image)
        save(folder / batch / f"segmentation-{number}.{ending}", mask)
    save(folder / "Batch 2" / "volume-100.nii", make_pair()[0])
    save(folder / "test" / "test-volume-3.nii", make_pair()[0])
    (folder / "Batch 2" / "volume-notes.txt").write_text("no case")
    return folder


def test_lits_is_listed_by_number_with_what_is_missing(lits: Path) -> None:
    pairs = list_lits(str(lits))
    assert [(p.number, bool(p.volume), bool(p.segmentation)) for p in pairs] == [
        (0, True, True), (28, True, True), (100, True, False),
    ]  # fmt: skip
    with pytest.raises(SettingError, match=r"segmentation-100\.nii: is missing"):
        read_lits(pairs[2])


def test_a_lits_case_has_its_values_and_mask_in_our_axes(lits: Path) -> None:
    pairs = list_lits(str(lits))
    for pair in pairs[:2]:
        image, mask = make_pair(pair.number)
        case = read_lits(pair)
        assert (case.image == np.maximum(in_our_axes(image), -1024)).all()
        assert (case.mask == (in_our_axes(mask) > 0)).all()
        assert (read_lits(pair, tumour=True).mask == in_our_axes(mask)).all()
        assert case.position_mm == pytest.approx([-90, 110 - 7 * 0.8, -400], abs=1e-4)
        assert case.steps_mm == pytest.approx(np.diag([2.5, 0.8, 0.7])[:, ::-1])
        assert (case.name, case.notes) == (f"lits-{pair.number}", ())
        assert (case.image.dtype, case.mask.dtype) == (np.float32, np.uint8)


def test_lits_on_s3_is_read_as_on_disk(lits: Path, s3: S3Server) -> None:
    bucket = s3.bucket()
    for path in (lits / "Batch 2").glob("*-28.nii.gz"):
        s3.put(bucket, f"lits/b 2/{path.name}", path.read_bytes())
    (pair,) = list_lits(f"s3://{bucket}/lits")
    local = next(p for p in list_lits(str(lits)) if p.number == 28)
    assert (read_lits(pair).image == read_lits(local).image).all()


def test_a_folder_that_is_no_lits_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no LiTS file"):
        list_lits(str(tmp_path))
    with pytest.raises(SettingError):
        list_lits(str(tmp_path / "nowhere"))
    save(tmp_path / "a" / "volume-3.nii", make_pair()[0])
    save(tmp_path / "b" / "volume-3.nii.gz", make_pair()[0])
    with pytest.raises(SettingError, match="volume-3 is there twice"):
        list_lits(str(tmp_path))


def test_masks_that_do_not_match_are_refused_and_wrong_headers_noted(tmp_path: Path) -> None:
    image, mask = make_pair()
    pair = LitsPair(1, save(tmp_path / "volume-1.nii", image), str(tmp_path / "segmentation-1.nii"))
    turned = AFFINE * np.array([[-1], [-1], [1], [1]])
    moved = AFFINE.copy()
    moved[2, 3] += 40
    for affine, words in ((turned, "apart"), (moved, "40 mm"), (np.eye(4), "apart")):
        save(tmp_path / "segmentation-1.nii", mask, affine)
        case = read_lits(pair)
        assert (case.mask == (in_our_axes(mask) > 0)).all()
        assert words in case.notes[0]
        with pytest.raises(VolumeError, match="mask_mismatch"):
            read_nifti_case(pair.volume or "", pair.segmentation or "")
    save(tmp_path / "segmentation-1.nii", mask[..., :-1])
    with pytest.raises(
        VolumeError, match="mask_mismatch: the image has 9x8x7 voxels, the mask 9x8x6"
    ):
        read_lits(pair)
    save(tmp_path / "segmentation-1.nii", mask * 0)
    with pytest.raises(VolumeError, match="no_mask"):
        read_lits(pair)


def test_headers_that_differ_by_rounding_are_one_grid(tmp_path: Path) -> None:
    image, mask = make_pair()
    near = AFFINE + 0.002 * np.eye(4)
    near[3, 3] = 1
    case = read_nifti_case(save(tmp_path / "i.nii", image), save(tmp_path / "m.nii", mask, near))
    assert (case.mask == (in_our_axes(mask) > 0)).all()
    assert case.notes == ()


def test_a_mask_stored_in_another_orientation_lands_on_its_image(tmp_path: Path) -> None:
    image, mask = make_pair()
    affine = AFFINE @ nib.orientations.inv_ornt_aff(
        np.array([[2, -1], [0, 1], [1, -1]]), mask.shape
    )
    stored = nib.orientations.apply_orientation(mask, np.array([[2, -1], [0, 1], [1, -1]]))
    assert stored.shape != mask.shape
    path = save(tmp_path / "m.nii.gz", np.ascontiguousarray(stored), affine)
    case = read_nifti_case(save(tmp_path / "i.nii", image), path, {2: 1})
    assert (case.mask == (in_our_axes(mask) == 2)).all()


def test_a_label_is_chosen_out_of_many(tmp_path: Path) -> None:
    image, mask = make_pair()
    mask = mask * 50 + 5
    paths = save(tmp_path / "i.nii", image), save(tmp_path / "m.nii", mask)
    assert (read_nifti_case(*paths, {55: 1}).mask == (in_our_axes(mask) == 55)).all()
    both = read_nifti_case(*paths, {55: 2, 105: 1}).mask
    assert (both == (in_our_axes(mask) == 55) * 2 + (in_our_axes(mask) == 105)).all()
    with pytest.raises(VolumeError, match="no_mask"):
        read_nifti_case(*paths, {7: 1})
    with pytest.raises(SettingError, match="no label"):
        read_nifti_case(*paths, {0: 1})


def test_a_spacing_that_got_lost_is_noted(tmp_path: Path) -> None:
    image, mask = make_pair()
    paths = (save(tmp_path / f"{n}.nii", v, np.eye(4)) for n, v in (("i", image), ("m", mask)))
    assert "1 mm in every direction" in read_nifti_case(*paths).notes[0]


@pytest.mark.parametrize(
    ("depth", "spacing"), [(12, 2.0), (30, 1.0), (7, 7.5), (1, 2.0), (41, 0.8)]
)
def test_resampled_slices_are_numpys_interpolation_and_keep_their_place(
    depth: int, spacing: float
) -> None:
    case = make_case(depth, spacing)
    out = resample_slices(case)
    old, new = 300 + spacing * np.arange(depth), out.position_mm[2] + 5 * np.arange(len(out.image))
    assert len(out.image) == max(1, np.floor(depth * spacing / 5 + 0.5))
    assert new[0] - 2.5 == pytest.approx(old[0] - spacing / 2)
    assert new[-1] <= old[-1] + spacing / 2 + 1e-6 or depth == 1
    for h in range(4):
        expected = np.interp(new, old, case.image[:, h, 2])
        assert out.image[:, h, 2] == pytest.approx(expected, abs=1e-2)
    apart = np.abs(new[:, None] - old)
    for k, plane in enumerate(out.mask):
        nearest = np.flatnonzero(apart[k] < apart[k].min() + 1e-6)
        assert any((plane == case.mask[n]).all() for n in nearest)
    assert out.steps_mm == pytest.approx(case.steps_mm * [[5 / spacing], [1], [1]])
    assert (out.position_mm[:2] == case.position_mm[:2]).all()
    assert (out.image.dtype, out.mask.dtype) == (np.float32, np.uint8)


def test_a_ramp_through_the_patient_is_the_same_ramp_after_resampling() -> None:
    case = make_case(40, 1.3)
    lean = np.array([[0, 0.4, 1.3], [0, 0.8, -0.02], [0.7, 0, 0]])
    index = np.moveaxis(np.indices(case.image.shape), 0, -1)
    case = case._replace(steps_mm=lean)
    ramp = (index @ lean + case.position_mm) @ (0.5, -2, 3)
    out = resample_slices(case._replace(image=ramp.astype(np.float32)))
    index = np.moveaxis(np.indices(out.image.shape), 0, -1)
    expected = (index @ out.steps_mm + out.position_mm) @ (0.5, -2, 3)
    assert out.image == pytest.approx(expected, abs=2e-3)
    normal = np.cross(lean[2], lean[1]) / np.linalg.norm(np.cross(lean[2], lean[1]))
    assert abs(out.steps_mm[0] @ normal) == pytest.approx(5)


def test_five_millimetres_stay_as_they_are() -> None:
    case = make_case(6, 5.0004)
    assert resample_slices(case) is case
    assert len(resample_slices(case, 2.5).image) == 12
    with pytest.raises(SettingError, match="spacing_mm"):
        resample_slices(case, 0)


def read_rows(path: Path, archive: Path | None = None, member: str = "") -> list[Frame]:
    data = zipfile.ZipFile(archive).read(member) if archive else path.read_bytes()
    header = read_header(lambda start, length: data[start : start + length], len(data), data[:8192])
    assert not isinstance(header, Reject)
    rows = make_frame_rows(header)
    assert isinstance(rows, list)
    facts = [{k: v for k, v in row.items() if k in FRAME_COLUMNS} for row in rows]
    place = f"{archive}!/{member}" if archive else str(path)
    origin = {"uri": place, "archive_uri": str(archive) if archive else None}
    return [Frame(**{**row, **origin, "size_bytes": len(data)}) for row in facts]


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory):
    """A phantom's CT and liver SEG as files, with what the generator knows of them."""
    folder = tmp_path_factory.mktemp("scanned")
    plans = plan_patient(PhantomConfig("unused", size=48), 1)
    series = next(s for s in plans if s.kind == "CT" and s.view == "axial" and not s.oddity)
    stacks = render_series(series)
    frames = []
    for number, ds in enumerate(build_frames(series, stacks)):
        path = folder / f"ct-{(7 * number) % 61}.dcm"
        path.write_bytes(encode_dataset(ds, series.study.syntax))
        frames += read_rows(path)
    mask = build_mask(series)
    (folder / "seg.dcm").write_bytes(encode_dataset(mask, "explicit"))
    return folder, series, stacks[0], frames


def test_a_phantom_ct_with_its_seg_is_the_generators_image_and_mask(scanned) -> None:
    folder, series, stack, frames = scanned
    case = read_dicom_case(frames, read_rows(folder / "seg.dcm")[0], name="phantom")
    assert (case.mask == mask_liver(series)).all()
    inside = case.mask > 0
    assert np.abs(case.image - stack)[inside].max() <= 0.51
    assert case.position_mm == pytest.approx(list_frames(series)[0][0][0], abs=1e-3)
    assert case.steps_mm == pytest.approx(series.grids[0].steps, abs=1e-3)
    shuffled = read_dicom_case(frames[::-1], Frame(uri=str(folder / "seg.dcm")), 1)
    assert (shuffled.mask == case.mask).all()


def test_a_patient_scanned_feet_first_is_the_case_of_one_scanned_head_first(
    scanned, tmp_path: Path
) -> None:
    folder, series, _, frames = scanned
    head_first = read_dicom_case(frames, Frame(uri=str(folder / "seg.dcm")))
    turned = []
    for number, path in enumerate(sorted(folder.glob("ct-*"))):
        ds = pydicom.dcmread(path)
        ds.ImageOrientationPatient = [-x for x in ds.ImageOrientationPatient[:3]] + list(
            ds.ImageOrientationPatient[3:]
        )
        step = series.grids[0].steps[2]
        ds.ImagePositionPatient = list(ds.ImagePositionPatient + (ds.Columns - 1) * step)
        ds.PixelData = ds.pixel_array[:, ::-1].tobytes()
        ds.save_as(tmp_path / f"{number}.dcm")
        turned += read_rows(tmp_path / f"{number}.dcm")
    case = read_dicom_case(turned, Frame(uri=str(folder / "seg.dcm")))
    assert (case.image == head_first.image).all()
    assert (case.mask == head_first.mask).all()
    assert case.position_mm == pytest.approx(head_first.position_mm, abs=1e-3)
    assert case.steps_mm == pytest.approx(head_first.steps_mm, abs=1e-6)


def test_masks_in_archives_and_frames_of_reference_are_read(scanned, tmp_path: Path) -> None:
    folder, series, _, frames = scanned
    archive = tmp_path / "masks.zip"
    other = build_mask(series)
    other.FrameOfReferenceUID = "1.2.3.4"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "seg.dcm", "study/SEG 1")
        file.writestr("study/SEG 2", encode_dataset(other, "deflated"))
    first, second = (read_rows(folder, archive, f"study/SEG {n}")[0] for n in (1, 2))
    # In a lake the image's frame of reference is a pseudonym: the files themselves are compared.
    hidden = [frame._replace(FrameOfReferenceUID="2.25.99") for frame in frames]
    assert (read_dicom_case(hidden, first).mask == mask_liver(series)).all()
    with pytest.raises(VolumeError, match=r"mask_mismatch: .*frames of reference"):
        read_dicom_case(frames, second)
    with pytest.raises(VolumeError, match="vanished"):
        read_dicom_case(frames, first._replace(uri=f"{archive}!/study/SEG 3"))
    with pytest.raises(VolumeError, match="vanished"):
        read_dicom_case(frames, Frame(uri=str(tmp_path / "gone.dcm")))


def test_a_nifti_mask_fits_a_dicom_series(scanned, tmp_path: Path) -> None:
    _, series, _, frames = scanned
    mask, position = mask_liver(series), list_frames(series)[0][0][0]
    path = str(tmp_path / "mask.nii.gz")
    write_nifti(path, mask.astype(np.uint8) * 5 + 1, position, series.grids[0].steps)
    case = read_dicom_case(frames, path, 6)
    assert (case.mask == mask).all()
    assert read_dicom_case(frames, path, (6, 1)).mask.all()
    assert case.steps_mm == pytest.approx(series.grids[0].steps, abs=1e-3)
