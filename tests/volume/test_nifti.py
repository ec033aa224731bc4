"""What a user relies on of NIfTI files: each voxel at its place, and bad files are refused."""

import gzip
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from s3_server import S3Server

from radnet_lake.errors import RadnetLakeError, SettingError, VolumeError
from radnet_lake.volume.nifti import orient, read_labels, read_nifti, read_stored, write_nifti

STORED = ((2.0, 3.0, 4.0), (0.7, 0.8, 5.0))
"""Voxel sizes in mm, per stored axis."""


def turn(degrees: tuple[float, float, float]) -> np.ndarray:
    """A rotation about x, then y, then z."""
    out = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        out = one @ out
    return out


def make_affine(codes: str, angles: tuple[float, float, float], sizes: tuple[float, ...]):
    """RAS affine of a file stored along `codes` (as LAS), tilted by `angles`."""
    start = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt(tuple(codes)), nib.orientations.axcodes2ornt(tuple("RAS"))
        ),
        (5, 6, 7),
    )
    affine = np.eye(4)
    affine[:3, :3] = turn(angles) @ np.linalg.inv(start)[:3, :3] * sizes
    affine[:3, 3] = (-31, 47, 902)
    return affine


def save(path: Path, voxels: np.ndarray, affine: np.ndarray, kind: type = nib.Nifti1Image) -> str:
    nib.save(kind(voxels, affine, dtype=voxels.dtype), path)
    return str(path)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "SPR", "ARI", "PIR"])
@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -7, 20)])
@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("a.nii", "<i2", nib.Nifti1Image),
        ("a.nii.gz", "<f4", nib.Nifti1Image),
        ("a.nii", "<u1", nib.Nifti2Image),
    ],
)
def test_each_voxel_keeps_its_place_however_the_file_is_stored(
    tmp_path: Path, codes: str, angles, name: str, dtype: str, kind: type
) -> None:
    voxels = np.arange(5 * 6 * 7).reshape(5, 6, 7).astype(dtype)
    affine = make_affine(codes, angles, STORED[angles != (0, 0, 0)])
    assert "".join(nib.aff2axcodes(affine)) == codes
    volume = read_nifti(save(tmp_path / name, voxels, affine, kind))
    back = np.linalg.inv(affine)
    for index in product(*map(range, volume.values.shape)):
        lps = volume.position_mm + index @ volume.steps_mm
        i, j, k = np.rint(nib.affines.apply_affine(back, lps * (-1, -1, 1))).astype(int)
        assert volume.values[index] == voxels[i, j, k]
    # Slices to the head, rows to the back, columns to the left: the standard axial array.
    assert (volume.steps_mm[[0, 1, 2], [2, 1, 0]] > 0).all()
    assert volume.values.dtype == np.float32
    assert volume.values.flags.c_contiguous


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "int64", "bool"])
def test_a_written_file_has_the_world_coordinates_that_nibabel_reads(
    tmp_path: Path, name: str, dtype: str
) -> None:
    voxels = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(dtype)
    steps = np.diag([0.9, 0.7, 2.5])[::-1] @ turn((5, 8, -3)).T
    position = np.array([-120.5, 33.25, 80.0])
    write_nifti(str(tmp_path / "new" / name), voxels, position, steps)
    image = nib.load(tmp_path / "new" / name)
    data = np.asarray(image.dataobj)
    assert data.dtype == ("uint8" if dtype == "bool" else dtype)
    for d, h, w in product(range(3), range(4), range(5)):
        assert data[w, h, d] == voxels[d, h, w]
        ras = nib.affines.apply_affine(image.affine, (w, h, d))
        lps = position + np.array([d, h, w]) @ steps
        assert ras == pytest.approx(lps * (-1, -1, 1), abs=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    assert image.header.get_qform() == pytest.approx(image.header.get_sform(), abs=1e-4)


def test_an_axial_array_written_and_read_is_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32)
    steps = np.array([[0, 0.4, 5.0], [0.01, 0.8, -0.06], [0.7, 0, 0]])
    steps[0] *= 5 / np.linalg.norm(steps[0])
    write_nifti(str(tmp_path / "a.nii.gz"), values, np.array([1.5, -2, 3]), steps)
    volume = read_nifti(str(tmp_path / "a.nii.gz"))
    assert (volume.values == values).all()
    assert volume.steps_mm == pytest.approx(steps, abs=1e-5)
    assert volume.position_mm == pytest.approx([1.5, -2, 3], abs=1e-5)


def test_a_sheared_grid_is_told_by_the_sform_alone(tmp_path: Path) -> None:
    steps = np.array([[0, 1.5, 5.0], [0, 0.8, 0], [0.8, 0, 0]])
    write_nifti(str(tmp_path / "a.nii"), np.zeros((3, 4, 5), np.uint8), np.zeros(3), steps)
    header = nib.load(tmp_path / "a.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    assert read_nifti(str(tmp_path / "a.nii")).steps_mm == pytest.approx(steps, abs=1e-5)


def test_another_name_than_nifti_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"end it by \.nii"):
        write_nifti(str(tmp_path / "a.nrrd"), np.zeros((1, 1, 1)), np.zeros(3), np.eye(3))


def test_files_on_s3_are_written_and_read(s3: S3Server) -> None:
    path = f"s3://{s3.bucket()}/some where/a.nii.gz"
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    write_nifti(path, voxels, np.array([1.0, 2, 3]), np.diag([5.0, 1, 1])[:, ::-1])
    assert (read_nifti(path).values == voxels).all()
    with pytest.raises(SettingError, match="no such file"):
        read_nifti(path + "x")


def test_scaled_values_and_labels_are_what_the_header_makes_of_them(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([1, 1, 1, 1]))
    image.header.set_slope_inter(0.5, -1024)
    image.to_filename(tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([0.5, -1024], "<f4").tobytes()  # nibabel scales on writing as well
    (tmp_path / "a.nii").write_bytes(raw)
    stored = read_stored(str(tmp_path / "a.nii")).voxels
    assert (stored == np.asarray(nib.load(tmp_path / "a.nii").dataobj)).all()
    assert read_nifti(str(tmp_path / "a.nii")).values.min() == stored.min()
    labels = np.array([[[0.0, 1.0], [2.004, 4.997]]], np.float32)
    read = read_labels(save(tmp_path / "b.nii", labels, np.eye(4)))
    assert read.voxels.ravel().tolist() == [0, 1, 2, 5]
    for wrong in (0.4, -1.0, 70_000.0):
        labels[0, 0, 0] = wrong
        with pytest.raises(VolumeError, match="labels that are no"):
            read_labels(save(tmp_path / "c.nii", labels, np.eye(4)))


def test_a_fourth_dimension_of_one_is_dropped_and_of_more_refused(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1, 1)
    volume = read_nifti(save(tmp_path / "a.nii", voxels, np.eye(4)))
    assert volume.values.shape == (4, 3, 2)
    with pytest.raises(VolumeError, match="several volumes"):
        read_nifti(save(tmp_path / "b.nii", voxels.reshape(2, 3, 2, 2), np.eye(4)))


def test_units_of_the_header_become_millimetres(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.diag([0.001, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    image.to_filename(tmp_path / "a.nii")
    assert read_nifti(str(tmp_path / "a.nii")).spacing_mm == pytest.approx((3, 2, 1))


def test_a_header_with_a_quaternion_alone_is_read_by_it(tmp_path: Path) -> None:
    affine = make_affine("LAS", (4, 0, 9), (1, 2, 3))
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), affine)
    image.set_sform(None, code=0)
    image.set_qform(affine, code=1)
    image.to_filename(tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii")
    volume = read_nifti(str(tmp_path / "a.nii"))
    corner = nib.affines.apply_affine(stored.affine, (0, 2, 0)) * (-1, -1, 1)
    assert volume.position_mm == pytest.approx(corner, abs=1e-4)


def damage(data: bytes, what: str) -> bytes:
    """A NIfTI-1 file of 8x9x10 int16, spoilt."""
    raw = bytearray(data)
    if what == "zero affine":
        raw[280:328] = bytes(48)
    elif what == "NaN affine":
        raw[280:284] = np.float32(np.nan).tobytes()
    elif what == "flat affine":
        raw[296:312] = raw[280:296]
    elif what == "huge":
        raw[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    elif what == "longer than the file":
        raw[42:48] = np.array([900, 900, 900], "<i2").tobytes()
    elif what == "negative":
        raw[42:44] = np.int16(-3).tobytes()
    elif what == "pair":
        raw[344:348] = b"ni1\0"
    elif what == "colours":
        raw[70:74] = np.array([128, 24], "<i2").tobytes()
    elif what == "no type":
        raw[70:72] = np.int16(999).tobytes()
    elif what == "no offset":
        raw[108:112] = np.float32(np.inf).tobytes()
    elif what == "inside the header":
        raw[108:112] = np.float32(16).tobytes()
    elif what == "truncated":
        raw = raw[:-100]
    elif what == "header alone":
        raw = raw[:200]
    elif what == "other":
        raw = bytearray(b"\x89PNG" + bytes(2000))
    elif what == "empty":
        raw = bytearray()
    return bytes(raw)


@pytest.mark.parametrize("is_gzip", [False, True])
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("zero affine", "bad_declaration"),
        ("NaN affine", "bad_declaration"),
        ("flat affine", "bad_declaration"),
        ("huge", "too_large"),
        ("longer than the file", "truncated_pixels"),
        ("negative", "bad_declaration"),
        ("pair", "bad_declaration"),
        ("colours", "colour"),
        ("no type", "bad_declaration"),
        ("no offset", "bad_declaration"),
        ("inside the header", "bad_declaration"),
        ("truncated", "truncated_pixels"),
        ("header alone", "bad_declaration"),
        ("other", "bad_declaration"),
        ("empty", "bad_declaration"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(
    tmp_path: Path, what: str, reason: str, is_gzip: bool
) -> None:
    path = tmp_path / "Doe_John.nii"
    save(path, np.zeros((8, 9, 10), np.int16), np.diag([1.0, 2, 3, 1]))
    data = damage(path.read_bytes(), what)
    path.write_bytes(gzip.compress(data) if is_gzip else data)
    with pytest.raises(VolumeError) as caught:
        read_nifti(str(path))
    assert caught.value.reason == reason
    assert "Doe" not in str(caught.value)


def test_damaged_gzip_and_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    voxels = np.random.default_rng(0).integers(0, 1000, (8, 9, 10)).astype(np.int16)
    save(path, voxels, np.eye(4))
    whole = path.read_bytes()
    for data, reason in (
        (whole[: len(whole) // 2], "truncated_pixels"),
        (whole[:-8] + bytes(4) + whole[-4:], "undecodable"),  # another checksum
        (whole[:400] + bytes(100) + whole[500:], "undecodable"),
    ):
        path.write_bytes(data)
        with pytest.raises(VolumeError) as caught:
            read_nifti(str(path))
        assert caught.value.reason == reason
    voxels = np.full((2, 2, 2), np.nan, np.float32)
    with pytest.raises(VolumeError, match="not_finite"):
        read_nifti(save(path, voxels, np.eye(4)))


def test_a_missing_file_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^a\.nii: there is no such file"):
        read_nifti(str(tmp_path / "a.nii"))
    with pytest.raises(RadnetLakeError):
        read_nifti(str(tmp_path))


def test_turning_is_a_view_and_keeps_integers(tmp_path: Path) -> None:
    stored = read_labels(save(tmp_path / "a.nii", np.eye(3, dtype=np.uint8)[..., None], np.eye(4)))
    voxels, _, _ = orient(stored)
    assert voxels.base is not None
    assert voxels.dtype == np.uint16
