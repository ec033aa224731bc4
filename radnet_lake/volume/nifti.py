"""NIfTI files -> volumes in our axes, and volumes -> NIfTI files for viewers.

A file is read into the canonical axial array, whatever way it was stored: D from feet to head, H
from front to back, W from right to left, as a standard axial DICOM series is (frame.py). Axes are
swapped and flipped, never resampled; an oblique grid stays oblique. NIfTI's own places are to the
right, front and head (RAS); ours to the left, back and head (LPS), so x and y change their sign.
"""

import gzip
import zlib
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from nibabel.spatialimages import HeaderDataError

from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.storage.folder import Folder
from radnet_lake.storage.sources import absolute_uri, classify_os_error, open_file
from radnet_lake.volume.frame import Vector
from radnet_lake.volume.volume import MAX_VOXELS, Volume

MAX_HEADER_BYTES = 2**24
"""Header with its extensions, which are skipped."""
MAX_TAIL_BYTES = 2**20
DEFLATE_RATIO = 1032
"""What deflate can expand to at most: a shorter file cannot hold what its header declares."""
FARTHEST_MM = 1e6
FLATTEST = 1e-3
"""A voxel's share of the box of its edges' lengths; axes in one plane leave nothing."""
LABEL_TOLERANCE = 0.01
"""How far a label may be from an integer: label files stored as scaled floats are."""
MM = {"meter": 1000.0, "micron": 0.001}
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Nifti(NamedTuple):
    """A file in its own axes: voxels (i, j, k), scaled; affine (4, 4), from indices to RAS mm."""

    voxels: npt.NDArray[Any]
    affine: Vector


def read_nifti(path: str) -> Volume:
    """Read .nii or .nii.gz, on disk or s3://, as values (D, H, W) in the canonical axial array.

    The affine is the sform, else the qform, else what NIfTI-1 says of neither (method 1, x to the
    right turned as nibabel does). Dimensions of one voxel past the third are dropped. Raises
    SettingError where there is no such file, else VolumeError: not NIfTI, sizes past the bounds,
    more than one volume, no geometry, truncated or damaged data.
    """
    voxels, position_mm, steps_mm = orient(read_stored(path))
    return Volume(np.ascontiguousarray(voxels, np.float32), position_mm, steps_mm)


def read_labels(path: str) -> Nifti:
    """Read a mask of integers in its own axes, as uint16.

    Raises as read_nifti, and VolumeError where values are not integers from 0 to 65535.
    """
    voxels, affine = read_stored(path)
    if voxels.dtype.kind == "f":
        whole = np.rint(voxels)
        if not np.allclose(voxels, whole, rtol=0, atol=LABEL_TOLERANCE):
            raise VolumeError("bad_declaration", "labels that are no integers")
        voxels = whole
    if voxels.min() < 0 or voxels.max() > np.iinfo(np.uint16).max:
        raise VolumeError("bad_declaration", "labels that are not from 0 to 65535")
    return Nifti(voxels.astype(np.uint16), affine)


def write_nifti(path: str, voxels: npt.NDArray[Any], position_mm: Vector, steps_mm: Vector) -> None:
    """Write an array (D, H, W) of our axes to .nii or .nii.gz, on disk or s3://, whole or not.

    position_mm: LPS place of voxel [0, 0, 0]'s centre. steps_mm: (3, 3), the step per slice, row,
    column. The type is kept (booleans become uint8). The file's first axis are our columns. A
    sheared grid has its sform only, for a qform cannot tell shear. Raises SettingError for
    another ending, StoreError where it cannot be written.
    """
    folder, _, name = absolute_uri(path).rpartition("/")
    if not name.endswith((".nii", ".nii.gz")):
        raise SettingError("is not the name of a NIfTI file", name, "end it by .nii or .nii.gz")
    if voxels.dtype == np.bool_:
        voxels = voxels.astype(np.uint8)
    affine = make_affine(position_mm, steps_mm)
    image = nib.Nifti1Image(voxels.transpose(2, 1, 0), affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, "scanner")
    image.set_qform(affine, "scanner" if _is_orthogonal(steps_mm) else "unknown")
    data = image.to_bytes()
    if name.endswith(".gz"):
        data = gzip.compress(data, compresslevel=4, mtime=0)
    Folder(folder or "/").write(name, data)


def make_affine(position_mm: Vector, steps_mm: Vector) -> Vector:
    """The affine of an array (D, H, W) of our axes, stored as (W, H, D): indices to RAS mm."""
    to_lps = np.eye(4)
    to_lps[:3, :3], to_lps[:3, 3] = steps_mm[::-1].T, position_mm
    return LPS_RAS @ to_lps


def to_nifti(voxels: npt.NDArray[Any], position_mm: Vector, steps_mm: Vector) -> Nifti:
    """An array (D, H, W) of our axes and its position -> a view of it in the axes of its file."""
    return Nifti(voxels.transpose(2, 1, 0), make_affine(position_mm, steps_mm))


def orient(stored: Nifti) -> tuple[npt.NDArray[Any], Vector, Vector]:
    """A file in its own axes -> canonical axial view (D, H, W), LPS position (3,), steps (3, 3)."""
    axes = ornt_transform(io_orientation(stored.affine), axcodes2ornt(("S", "P", "L")))
    voxels = apply_orientation(stored.voxels, axes)
    to_lps = LPS_RAS @ stored.affine @ inv_ornt_aff(axes, stored.voxels.shape)
    return voxels, to_lps[:3, 3] + 0.0, to_lps[:3, :3].T + 0.0  # no minus zeros


def read_stored(path: str) -> Nifti:
    """Read a file in its own axes; float32 where its header scales. Raises as read_nifti does."""
    uri = absolute_uri(path)
    try:
        with open_file(uri) as file:
            size = file.seek(0, 2)
            file.seek(0)
            is_gzip = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not is_gzip:
                return _read(file, size)
            with gzip.GzipFile(fileobj=file) as plain:
                return _read(plain, size * DEFLATE_RATIO, is_gzip)  # type: ignore[arg-type]
    except FileNotFoundError:
        name = PurePosixPath(path).name
        raise SettingError("there is no such file", name, "check the path") from None
    except EOFError:
        raise VolumeError("truncated_pixels", "the gzip stream ends early") from None
    except (gzip.BadGzipFile, zlib.error):
        raise VolumeError("undecodable", "damaged gzip stream") from None
    except OSError as error:
        raise VolumeError(*classify_os_error(error)) from None


def _read(file: BinaryIO, max_bytes: int, is_gzip: bool = False) -> Nifti:
    header = _read_header(file)
    try:
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype = header.get_data_dtype()
        offset = int(header.get_data_offset()) or header.single_vox_offset
        slope, intercept = header.get_slope_inter()
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise VolumeError("bad_declaration", f"NIfTI header: {type(error).__name__}") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise VolumeError("colour" if dtype.names else "bad_declaration", f"type {dtype.kind}")
    if not shape or min(shape) < 1:
        raise VolumeError("bad_declaration", "a dimension below 1")
    if any(n > 1 for n in shape[3:]):
        raise VolumeError("bad_declaration", f"{len(shape)} dimensions: several volumes in a file")
    shape = (*shape, 1, 1)[:3]
    n_voxels = shape[0] * shape[1] * shape[2]
    if n_voxels > MAX_VOXELS or not 0 <= offset <= MAX_HEADER_BYTES:
        raise VolumeError("too_large", f"{n_voxels} voxels from byte {offset}")
    if offset + n_voxels * dtype.itemsize > max_bytes:
        raise VolumeError("truncated_pixels", "the file is shorter than its header declares")
    affine = _find_affine(header)
    _skip(file, offset - len(header.binaryblock))
    voxels = np.empty(n_voxels, dtype)
    _fill(file, voxels.data.cast("B"))
    # A gzip stream's checksum is compared at its end, which little may come before.
    if is_gzip and len(file.read(MAX_TAIL_BYTES)) == MAX_TAIL_BYTES:
        raise VolumeError("bad_declaration", "more data than the header declares")
    voxels = voxels.astype(dtype.newbyteorder("="), copy=False)
    if slope is not None and (slope, intercept) != (1, 0):
        with np.errstate(over="ignore", invalid="ignore"):
            voxels = voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise VolumeError("not_finite", "NaN or infinite values")
    return Nifti(voxels.reshape(shape, order="F"), affine)


def _read_header(file: BinaryIO) -> Any:
    start = file.read(4)
    sizes = {int.from_bytes(start, "little"), int.from_bytes(start, "big")}
    kind = nib.Nifti1Header if 348 in sizes else nib.Nifti2Header if 540 in sizes else None
    if kind is None or len(start) < 4:
        raise VolumeError("bad_declaration", "not a NIfTI file")
    block = start + file.read(kind.sizeof_hdr - 4)
    if len(block) < kind.sizeof_hdr:
        raise VolumeError("bad_declaration", "the file ends in its header")
    header = kind(block, check=False)  # nibabel's check corrects by guessing, and quotes in the log
    if not bytes(header["magic"]).startswith((b"n+1", b"n+2")):
        raise VolumeError("bad_declaration", "header without its voxels (.hdr with .img)")
    if header["pixdim"][0] not in (1, -1):
        header["pixdim"][0] = 1  # the quaternion's sign; 0 is 1 (nifti1.h, method 2)
    return header


def _find_affine(header: Any) -> Vector:
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
        scale = MM.get(header.get_xyzt_units()[0], 1.0)
    except (HeaderDataError, ValueError, KeyError, OverflowError):
        affine, scale = np.full((4, 4), np.nan), 1.0
    affine[:3] *= scale
    if not np.abs(affine).max() < FARTHEST_MM:  # NaN is not either
        raise VolumeError("bad_declaration", "the affine is no number, or beyond a room")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(affine[:3, :3])) <= FLATTEST * lengths.prod():
        raise VolumeError("bad_declaration", "the affine is singular")
    return affine


def _skip(file: BinaryIO, n_bytes: int) -> None:
    if n_bytes < 0:
        raise VolumeError("bad_declaration", "voxels begin inside the header")
    if len(file.read(n_bytes)) < n_bytes:
        raise VolumeError("truncated_pixels", "the file ends in its header")


def _fill(file: BinaryIO, view: memoryview) -> None:
    done = 0
    while done < len(view):
        part = file.read(min(len(view) - done, 1 << 24))
        if not part:
            raise VolumeError("truncated_pixels", f"{done} bytes of {len(view)}")
        view[done : done + len(part)] = part
        done += len(part)


def _is_orthogonal(steps_mm: Vector) -> bool:
    unit = steps_mm / np.linalg.norm(steps_mm, axis=1, keepdims=True)
    return bool(np.allclose(unit @ unit.T, np.eye(3), atol=1e-4))
