"""Cases for transfer learning: a CT in Hounsfield units with the mask of an organ on its grid.

From LiTS folders and other NIfTI pairs, and from DICOM CT with a SEG or RTSTRUCT. Arrays are the
canonical axial ones (nifti.py), however the patient lay. The paper (2.3) resamples LiTS to slices
of 5 mm and says no more of intensities than for pretraining; so values stay HU here, but for what
lies below -1024, which becomes that as in volume.py.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from radnet_lake.dicom.header import Reject, read_header
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.storage.archive import ArchiveError, archive_kind, list_members
from radnet_lake.storage.sources import classify_os_error, list_unit, list_units, open_file
from radnet_lake.transfer.read_mask import MOST_BYTES, read_mask
from radnet_lake.volume.frame import Array, Frame, Vector
from radnet_lake.volume.nifti import Nifti, orient, read_labels, read_stored, to_nifti
from radnet_lake.volume.volume import CT_LOWEST, read_volume_of

SLICE_SPACING_MM = 5.0
"""Of the paper (2.3)."""
ORGAN, TUMOUR = 1, 2
LITS_LABELS = {1: ORGAN, 2: TUMOUR}
"""LiTS: 1 is liver, 2 a lesion in it."""
N_LABELS = 2**16
MAX_HU = np.iinfo(np.int16).max
PIECE_BYTES = 1 << 24
FIRST_BYTES = 1 << 13
MOST_APART = 0.5
"""Voxels that the headers of image and mask may put a corner apart: rounding."""

_LITS_NAME = re.compile(r"(volume|segmentation)-(\d{1,6})\.nii(\.gz)?")

Mask = npt.NDArray[np.uint8]
Organ = str | int | tuple[int, ...]
"""Its name, or its number in the mask, or several numbers."""


class LiverCase(NamedTuple):
    """An image with its mask.

    image: HU, (D, H, W). mask: 0 background, 1 organ, 2 lesion where they were asked for.
    position_mm, steps_mm: as in volume.Volume. notes: what a person should know of the files.
    """

    image: Array
    mask: Mask
    position_mm: Vector
    steps_mm: Vector
    name: str
    notes: tuple[str, ...] = ()


class LitsPair(NamedTuple):
    """The files of one LiTS case, as URIs; None where one is missing."""

    number: int
    volume: str | None
    segmentation: str | None


def list_lits(folder: str) -> list[LitsPair]:
    """The cases below a folder, on disk or s3://, by number; both training batches may lie in it.

    Pairs volume-N.nii[.gz] with segmentation-N.nii[.gz], wherever below the folder they are. Raises
    SettingError where the folder is missing, holds neither, or holds one file twice.
    """
    found: dict[tuple[int, str], str] = {}
    for unit in list_units(folder, 1):
        for entry in list_unit(unit):
            name = _LITS_NAME.fullmatch(PurePosixPath(entry.uri).name)
            if not name or entry.reject_reason:
                continue
            key = int(name[2]), name[1]
            if key in found:
                what = f"{name[1]}-{name[2]} is there twice"
                raise SettingError(what, folder, "leave one of each in the folder")
            found[key] = entry.uri
    if not found:
        remedy = "name the folder of volume-0.nii and segmentation-0.nii"
        raise SettingError("no LiTS file lies in it", folder, remedy)
    return [
        LitsPair(number, found.get((number, "volume")), found.get((number, "segmentation")))
        for number in sorted({number for number, _ in found})
    ]


def read_lits(pair: LitsPair, tumour: bool = False) -> LiverCase:
    """Read a LiTS case; the lesions count as liver, or are 2 where `tumour`.

    Where the two headers place their voxels differently, the volume's is believed and a note says
    so: LiTS masks were drawn voxel by voxel, and some headers are not the scanner's. Volumes 28 to
    47 declare 1 mm in every direction (github.com/PatrickChrist/LITS-CHALLENGE, issue 14), which a
    note says too; what they declare is used.

    Raises SettingError where one file of the pair is missing, VolumeError for bad files, for
    mask_mismatch where the shapes differ, for no_mask where no voxel is liver.
    """
    if not pair.volume or not pair.segmentation:
        missing = f"{'segmentation' if pair.volume else 'volume'}-{pair.number}.nii"
        raise SettingError("is missing", missing, "put it beside its pair, or leave both out")
    labels = LITS_LABELS if tumour else None
    name = f"lits-{pair.number}"
    return read_nifti_case(pair.volume, pair.segmentation, labels, name, believes_image=True)


def read_nifti_case(
    image: str, mask: str, labels: Mapping[int, int] | None = None, name: str = "",
    believes_image: bool = False,
) -> LiverCase:  # fmt: skip
    """Read a CT and its mask from NIfTI; either may be stored in any orientation.

    labels: what of the mask's file is what here, as {5: 1} for the liver of TotalSegmentator; None
    takes all above 0 as organ. believes_image: where the headers disagree, but not the shapes,
    take the mask voxel by voxel. Raises VolumeError: as read_nifti, mask_mismatch, no_mask.
    """
    return _pair(read_stored(image), read_labels(mask), labels, name, believes_image)


def read_dicom_case(
    frames: Sequence[Frame], mask: Frame | str, organ: Organ = "liver", name: str = ""
) -> LiverCase:
    """Read a CT series with its SEG or RTSTRUCT, which comes onto the series' main stack.

    frames: the series' rows. mask: any row of the mask's file (of a file outside a lake
    Frame(uri=...)), or the path of a NIfTI mask on the same grid. organ: its name, or the number of
    the segment, ROI or label (read_mask.read_mask), or several, united; by name all labels of a
    NIfTI mask count.

    Frames of reference are compared as the files have them. Raises VolumeError as
    volume.read_volume_of, mask_mismatch, no_mask, and others for a damaged mask.
    """
    volume = read_volume_of(frames)
    numbers = organ if isinstance(organ, tuple) else (organ,)
    if isinstance(mask, str):
        labels = {number: ORGAN for number in numbers if isinstance(number, int)} or None
        return _pair(to_nifti(*volume), read_labels(mask), labels, name, False)
    data, reference = _read_object(mask), _read_reference(frames[0])
    found = [read_mask(data, volume, number, reference) for number in numbers]
    united = np.logical_or.reduce(found).astype(np.uint8)
    values, position_mm, steps_mm = orient(to_nifti(*volume))
    turned, *_ = orient(to_nifti(united, *volume[1:]))
    values, turned = np.ascontiguousarray(values), np.ascontiguousarray(turned)
    return LiverCase(values, turned, position_mm, steps_mm, name)


def refuse_beyond_hu(image: npt.NDArray[np.floating]) -> None:
    """Raise VolumeError for values that are no Hounsfield units, because int16 cannot hold them."""
    if not (image.max() <= MAX_HU and image.min() >= -MAX_HU):
        raise VolumeError("bad_declaration", f"values beyond {MAX_HU} are no Hounsfield units")


def resample_slices(case: LiverCase, spacing_mm: float = SLICE_SPACING_MM) -> LiverCase:
    """Resample along the slices, image linear, mask nearest; rows and columns stay.

    The first slice's lower face stays where it is: new slice i has its centre (i + 0.5) spacings
    above it, at old index x = (i + 0.5) s - 0.5 with s = new over old spacing, between the old
    slices floor(x) and floor(x) + 1; beyond the outermost centres the outermost slice counts. Of n
    slices become round(n / s), at least one, so that no centre lies outside of what was scanned.
    The mask takes old slice floor(x + 0.5). The paper says "linearly interpolated into 5mm spacing"
    and no more: as with it, finer slices between are skipped, not averaged. A case that has the
    spacing within 0.001 mm is given back as it is. Spacing is measured along the normal.
    """
    if not 0 < spacing_mm < np.inf:
        raise SettingError(f"{spacing_mm} is no spacing", "spacing_mm", "give one above 0, in mm")
    steps = case.steps_mm
    normal = np.cross(steps[1], steps[2])
    old_mm = abs(float(steps[0] @ normal)) / float(np.linalg.norm(normal))
    if abs(old_mm - spacing_mm) <= 1e-3:
        return case
    scale, depth = spacing_mm / old_mm, len(case.image)
    n_slices = max(1, int(depth / scale + 0.5 + 1e-6))  # a half rounds up, whatever arithmetic left
    index = (np.arange(n_slices) + 0.5) * scale - 0.5
    nearest = np.clip(np.floor(index + 0.5).astype(int), 0, depth - 1)
    inside = np.clip(index, 0, depth - 1)
    below = np.minimum(inside.astype(int), max(depth - 2, 0))
    above = np.minimum(below + 1, depth - 1)
    weight = (inside - below).astype(np.float32)[:, None, None]
    image = case.image[below]
    image += weight * (case.image[above] - image)
    return case._replace(
        image=image,
        mask=case.mask[nearest],
        position_mm=case.position_mm + index[0] * steps[0],
        steps_mm=np.stack([steps[0] * scale, steps[1], steps[2]]),
    )


def _pair(
    stored: Nifti, mask: Nifti, labels: Mapping[int, int] | None, name: str, believes_image: bool
) -> LiverCase:
    values, position_mm, steps_mm = orient(stored)
    placed, notes = _place_mask(mask, stored, believes_image)
    table = np.zeros(N_LABELS, np.uint8)
    table[1:] = ORGAN if labels is None else 0
    for label, value in (labels or {}).items():
        if not 0 < label < N_LABELS:
            raise SettingError("is no label", str(label), f"give 1 to {N_LABELS - 1}")
        table[label] = value
    found = np.ascontiguousarray(table[placed])
    if not found.any():
        raise VolumeError("no_mask", "the mask has no voxel of the organ")
    if (np.linalg.norm(steps_mm, axis=1) == 1).all():
        notes.append("the header says 1 mm in every direction, as one that lost its geometry does")
    hounsfield = np.maximum(values, np.float32(CT_LOWEST), dtype=np.float32, order="C")
    return LiverCase(hounsfield, found, position_mm, steps_mm, name, tuple(notes))


def _place_mask(
    mask: Nifti, image: Nifti, believes_image: bool
) -> tuple[npt.NDArray[np.uint16], list[str]]:
    voxels, *place = orient(mask)
    values, position_mm, steps_mm = orient(image)
    if voxels.shape == values.shape:
        ends = np.stack(np.meshgrid(*[(0, n - 1) for n in values.shape]), -1).reshape(-1, 3)
        apart = (ends @ steps_mm + position_mm) - (ends @ place[1] + place[0])
        apart_mm = float(np.linalg.norm(apart, axis=1).max())
        if apart_mm <= MOST_APART * np.linalg.norm(steps_mm, axis=1).min():
            return voxels, []
        detail = f"their headers put them up to {apart_mm:.0f} mm apart"
    else:
        detail = "their headers turn them differently"
    is_as_large = mask.voxels.shape == image.voxels.shape
    if voxels.shape != values.shape and not is_as_large:
        sizes = ["x".join(map(str, stored.voxels.shape)) for stored in (image, mask)]
        raise VolumeError("mask_mismatch", f"the image has {sizes[0]} voxels, the mask {sizes[1]}")
    if not (believes_image and is_as_large):
        raise VolumeError("mask_mismatch", f"image and mask: {detail}")
    note = f"image and mask: {detail}; the image's is believed"
    return orient(mask._replace(affine=image.affine))[0], [note]


def _read_reference(frame: Frame) -> str | None:
    """FrameOfReferenceUID as the image's file has it: in a lake it may be a pseudonym."""
    with _open_object(frame) as read_next:
        done = 0

        def read(start: int, length: int) -> bytes:
            nonlocal done
            while done < start and (passed := read_next(min(start - done, PIECE_BYTES))):
                done += len(passed)
            data = read_next(length) if done == start else b""
            done += len(data)
            return data

        header = read_header(read, None, read(0, FIRST_BYTES))
    rows = header if isinstance(header, Reject) else make_frame_rows(header)
    return None if isinstance(rows, Reject) else rows[0].get("FrameOfReferenceUID")


def _read_object(frame: Frame) -> bytes:
    """A whole DICOM file, or archive member; at most one byte more than a mask may have."""
    pieces, left = [], MOST_BYTES + 1
    with _open_object(frame) as read_next:
        while left and (piece := read_next(min(left, PIECE_BYTES))):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)


@contextmanager
def _open_object(frame: Frame) -> Iterator[Callable[[int], bytes]]:
    try:
        with open_file(frame.archive_uri or frame.uri) as file:
            if not frame.archive_uri:
                yield file.read
                return
            kind = archive_kind(file.read(512)) or "unsupported"
            name, size = PurePosixPath(frame.archive_uri).name, file.seek(0, 2)
            for member in list_members(file, kind, size, name):
                if frame.uri == f"{frame.archive_uri}!/{member.path}" and not member.error:
                    yield member.read
                    return
            raise VolumeError("vanished", "no longer in its archive")
    except ArchiveError as trouble:
        raise VolumeError("unreadable", trouble.reason) from None
    except OSError as error:
        raise VolumeError(*classify_os_error(error)) from None
