"""DICOM masks on an image's grid: segmentations (SEG) and contours (RTSTRUCT).

Both are planes somewhere in the patient: frames of a SEG, of which empty ones are left out and
whose order means nothing, and contours. A plane is placed by its position alone. A slice of the
image takes the plane nearest to it, if that is no further than half a slice, or than half the gap
between planes where those lie further apart than the slices do: contours drawn on every second
slice fill those between.

Not highdicom's volumes, because they are not resampled to another grid; libraries for RTSTRUCT are
no longer maintained.
"""

import io
import re
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from highdicom.seg import Segmentation
from pydicom import filereader, uid
from pydicom.sr.codedict import codes

from radnet_lake.dicom.values import quiet_pydicom
from radnet_lake.errors import VolumeError
from radnet_lake.volume.frame import Vector
from radnet_lake.volume.volume import Volume

SEG_CLASS, LABEL_MAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
CONTOUR_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
MOST_BYTES = 2**31
"""Of a mask's file, also inflated."""
MOST_FRAME_VOXELS = 2**26
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""The contours that enclose something (PS3.3 C.8.8.6.3)."""
SAME_PLANE = 0.05
"""Slices that two planes, or two points of one contour, may be apart and still be one plane."""
MOST_LEAN = 0.25
"""Slices that a plane may rise from one side of it to the other and still be parallel to them."""
SIDES = {"left", "right", "l", "r", "lt", "rt"}

Mask = npt.NDArray[np.bool_]


def read_mask(
    data: bytes, image: Volume, organ: str | int = "liver", reference: str | None = None
) -> Mask:
    """The voxels of `image` that a SEG or RTSTRUCT file says belong to an organ, (D, H, W).

    data: the file. organ: a name, as "liver"; or the number of a segment or ROI. A name fits where
    it is the label, the ROI's name, or the meaning of the coded property type, cases and sides
    ignored ("kidney" is "Left kidney" and "kidney_right"), or where pydicom's SNOMED dictionary has
    it as the type's code; all that fit are united. reference: the image's FrameOfReferenceUID,
    if known; another one in the mask is an error.

    A SEG frame is sampled at the voxel centres, nearest neighbour; fractional ones count from one
    half. Contours of one plane and ROI are filled by the even-odd rule, so that one inside another
    is a hole (PS3.3 C.8.8.6.3); see fill_contours for what lies on the line.

    Raises VolumeError: no_mask where nothing fits, or nothing of it lies in the image;
    mask_mismatch for another frame of reference or orientation; others for a damaged file.
    """
    try:
        with quiet_pydicom():
            dataset = _parse(data)
            kind = dataset.get("SOPClassUID")
            if kind in (SEG_CLASS, LABEL_MAP_CLASS):
                mask = _read_segmentation(dataset, image, organ, reference)
            elif kind == CONTOUR_CLASS:
                mask = _read_contours(dataset, image, organ, reference)
            else:
                raise VolumeError("unsupported_syntax", "neither SEG nor RTSTRUCT")
    except VolumeError:
        raise
    except Exception as error:  # whatever pydicom and highdicom make of a damaged file
        raise VolumeError("undecodable", f"mask: {type(error).__name__}") from None
    if not mask.any():
        raise VolumeError("no_mask", "the mask has no voxel in the image")
    return mask


def names_organ(name: str, organ: str) -> bool:
    """Whether a label is the organ's name, but for case, sides and what stands between words."""
    words = re.findall(r"[^\W_]+", name.lower())
    return [w for w in words if w not in SIDES] == re.findall(r"[^\W_]+", organ.lower())


def assign_planes(places: Vector, depth: int, gap: float | None = None) -> dict[int, list[int]]:
    """Which planes each slice takes: slice -> indices into places, of one plane all.

    places: (n,) where planes lie, in slices. gap: between neighbouring planes, if the file says;
    the smallest that there is counts if it is smaller, or if the file does not say and there are
    three planes or more. Half-way between two planes a slice takes the one before it, so that
    planes have as many slices as they are thick.
    """
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-np.inf) > SAME_PLANE)
    groups = np.split(order, starts[1:])
    centres = places[order[starts]]
    gaps = np.diff(centres).tolist()
    if gap is None:
        gap = min(gaps) if len(gaps) > 1 else 1.0
    reach = max(1.0, min([gap, *gaps])) / 2
    taken = {}
    for k in range(depth):
        # The thousandth makes a tie of what arithmetic left of one.
        distances = np.abs(centres - k + 1e-3)
        nearest = int(distances.argmin())
        if distances[nearest] <= reach:
            taken[k] = groups[nearest].tolist()
    return taken


def fill_contours(contours: Iterable[Vector], shape: tuple[int, ...]) -> Mask:
    """The voxels (H, W) that closed contours enclose, by the even-odd rule over all of them.

    contours: (n, 2) rows and columns, voxel centres being whole numbers. A voxel counts where its
    centre is enclosed. Of centres on the line those at the upper and left side do, those at the
    lower and right side do not: so that a contour through centres encloses as many voxels as its
    area says, and neighbours share none.
    """
    height, width = shape
    toggles = np.zeros((height, width + 1), np.int32)
    for contour in contours:
        ends = np.roll(contour, -1, axis=0)
        for start in range(0, len(contour), 1024):
            _toggle(toggles, contour[start : start + 1024], ends[start : start + 1024])
    inside: Mask = (np.cumsum(toggles[:, :width], axis=1) & 1).astype(np.bool_)
    return inside


def _toggle(toggles: npt.NDArray[np.int32], starts: Vector, ends: Vector) -> None:
    """Where lines cross the rows, what lies to the right changes sides."""
    height, width = toggles.shape[0], toggles.shape[1] - 1
    upper = np.minimum(starts[:, 0], ends[:, 0])
    lower = np.maximum(starts[:, 0], ends[:, 0])
    first = np.clip(np.ceil(upper), 0, height).astype(np.int64)
    counts = np.clip(np.ceil(lower), 0, height).astype(np.int64) - first
    line = np.repeat(np.arange(len(starts)), counts)
    row = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts) + first[line]
    along = (row - starts[line, 0]) / (ends[line, 0] - starts[line, 0])
    column = starts[line, 1] + along * (ends[line, 1] - starts[line, 1])
    # Rounded, so that a line through centres is on them whatever the arithmetic left.
    column = np.clip(np.ceil(np.round(column, 6)), 0, width).astype(np.int64)
    np.add.at(toggles, (row, column), 1)


def _parse(data: bytes) -> pydicom.Dataset:
    """A file's data set; a deflated one is inflated here, for pydicom would without bound."""
    if len(data) > MOST_BYTES:
        raise VolumeError("too_large", f"a mask of more than {MOST_BYTES} bytes")
    # The group of the file meta information begins with its length (PS3.10 7.1).
    start = 144 + int.from_bytes(data[140:144], "little")
    meta = pydicom.Dataset()
    if data[128:138] == b"DICM\x02\x00\x00\x00UL":
        meta = filereader.read_dataset(io.BytesIO(data[132:start]), False, True)
    elif b"\x02\x00" in (data[:2], data[132:134]):
        raise VolumeError("undecodable", "file meta information without its length")
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return pydicom.dcmread(io.BytesIO(data), force=True)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(data[start:], MOST_BYTES)
    if inflater.unconsumed_tail:
        raise VolumeError("too_large", f"a mask that inflates past {MOST_BYTES} bytes")
    dataset = filereader.read_dataset(io.BytesIO(plain), False, True)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return dataset


def _read_segmentation(
    dataset: pydicom.Dataset, image: Volume, organ: str | int, reference: str | None
) -> Mask:
    _check_pixels(dataset)
    _check_reference(dataset.get("FrameOfReferenceUID"), reference)
    seg = Segmentation.from_dataset(dataset, copy=False)
    numbers = [s.segment_number for s in seg.SegmentSequence if _is_segment(s, organ)]
    if not numbers:
        raise VolumeError("no_mask", f"none of {len(seg.SegmentSequence)} segments is the organ")
    mask = np.zeros(image.values.shape, np.bool_)
    frames = [n for n in range(seg.number_of_frames) if _segment_of(seg, n) in (None, *numbers)]
    if not frames:
        return mask
    corners, steps, spacing = _place_frames(seg, frames, image)
    if np.abs(steps[:, 0]) @ (seg.Rows, seg.Columns) > MOST_LEAN:
        raise VolumeError("mask_mismatch", "the mask's planes are not parallel to the slices")
    half = 0.5
    if seg.get("SegmentationType") == "FRACTIONAL":
        half = max(1, seg.MaximumFractionalValue) / 2
    is_map = seg.SOPClassUID == LABEL_MAP_CLASS
    back = np.asarray(np.linalg.inv(steps[:, 1:]), np.float64)
    for k, members in assign_planes(corners[:, 0], len(mask), spacing).items():
        for member in members:
            stored = _decode(seg, frames[member])
            plane = np.isin(stored, numbers) if is_map else stored >= half
            mask[k] |= _sample_plane(plane, corners[member, 1:], back, mask[k].shape)
    return mask


def _decode(seg: Segmentation, frame: int) -> npt.NDArray[Any]:
    try:
        stored: npt.NDArray[Any] = seg.get_stored_frame(frame, as_index=True)
    except Exception as error:
        detail = f"a frame of the mask: {type(error).__name__}"
        is_native = not seg.transfer_syntax_uid.is_compressed
        raise VolumeError("undecodable" if is_native else "unsupported_syntax", detail) from None
    if stored.shape != (seg.Rows, seg.Columns):
        raise VolumeError("size_mismatch", "a frame of the mask has another size than declared")
    return stored


def _check_pixels(dataset: pydicom.Dataset) -> None:
    n_pixels = dataset.Rows * dataset.Columns
    if not 0 < n_pixels <= MOST_FRAME_VOXELS:
        raise VolumeError("too_large", f"a mask of {dataset.Rows}x{dataset.Columns}")
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax or not syntax.is_little_endian:
        raise VolumeError("unsupported_syntax", "a mask in big endian, or newer than pydicom")
    if not syntax.is_compressed:
        n_bits = n_pixels * int(dataset.get("NumberOfFrames", 1)) * dataset.BitsAllocated
        if len(dataset.PixelData) * 8 < n_bits:
            raise VolumeError("truncated_pixels", "fewer mask pixels than declared")


def _check_reference(of_mask: str | None, of_image: str | None) -> None:
    if of_mask and of_image and of_mask != of_image:
        raise VolumeError("mask_mismatch", "mask and image are of different frames of reference")


def _is_segment(segment: Any, organ: str | int) -> bool:
    if isinstance(organ, int):
        return bool(segment.segment_number == organ)
    kind = segment.segmented_property_type
    code = getattr(codes.SCT, organ.title().replace(" ", ""), None)
    return (
        names_organ(segment.segment_label, organ)
        or names_organ(kind.meaning, organ)
        or (code is not None and kind == code)
    )


def _segment_of(seg: Segmentation, frame: int) -> int | None:
    """The segment that a frame shows; None in a label map, whose frames may show all."""
    item = _find_item(seg, frame, "SegmentIdentificationSequence")
    return None if item is None else int(item.ReferencedSegmentNumber)


def _find_item(seg: Segmentation, frame: int, keyword: str) -> Any:
    """A functional group of a frame, its own or the shared one."""
    shared, own = seg.SharedFunctionalGroupsSequence, seg.get("PerFrameFunctionalGroupsSequence")
    found = (own[frame].get(keyword) if own else None) or shared[0].get(keyword)
    return found[0] if found else None


def _place_frames(
    seg: Segmentation, frames: list[int], image: Volume
) -> tuple[Vector, Vector, float | None]:
    """Where frames lie in the image's indices (k, row, column).

    Corners (n, 3): centres of their first voxels; steps (2, 3): per row and column; the gap
    between planes in slices, if the file says it.
    """
    into = np.linalg.inv(image.steps_mm)
    places, planes = [], set()
    for frame in frames:
        measures = _find_item(seg, frame, "PixelMeasuresSequence")
        plane = _find_item(seg, frame, "PlaneOrientationSequence").ImageOrientationPatient
        places.append(_find_item(seg, frame, "PlanePositionSequence").ImagePositionPatient)
        planes.add((*plane, *measures.PixelSpacing))
    if len(planes) > 1:
        raise VolumeError("mask_mismatch", "the mask's planes differ in orientation or spacing")
    *plane, down, across = map(float, planes.pop())
    steps = np.array([plane[3:], plane[:3]]) * [[down], [across]] @ into
    corners = (np.array(places, np.float64) - image.position_mm) @ into
    if not (np.isfinite(corners).all() and np.isfinite(steps).all()):
        raise VolumeError("bad_declaration", "the mask's places are no finite numbers")
    spacing = measures.get("SpacingBetweenSlices")
    return corners, steps, float(spacing) / image.spacing_mm[0] if spacing else None


def _sample_plane(plane: Mask, corner: Vector, back: Vector, shape: tuple[int, ...]) -> Mask:
    """The plane's voxels nearest to the centres of a slice's; none beyond its rim.

    corner: the plane's first voxel in the slice's rows and columns; back: (2, 2), from the slice's
    rows and columns to the plane's.
    """
    start = -corner @ back
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    # Rounded first, so that centres half-way between two voxels always take the same one.
    row, column = (
        np.floor(np.round(start[i] + rows * back[0, i] + columns * back[1, i], 6) + 0.5)
        for i in (0, 1)
    )
    inside = (row >= 0) & (row < plane.shape[0]) & (column >= 0) & (column < plane.shape[1])
    sampled = np.zeros(shape, np.bool_)
    sampled[inside] = plane[row[inside].astype(np.int64), column[inside].astype(np.int64)]
    return sampled


def _read_contours(
    dataset: pydicom.Dataset, image: Volume, organ: str | int, reference: str | None
) -> Mask:
    rois = [r for r in dataset.StructureSetROISequence if _is_roi(r, organ)]
    if not rois:
        n_rois = len(dataset.StructureSetROISequence)
        raise VolumeError("no_mask", f"none of {n_rois} contoured structures is the organ")
    mask = np.zeros(image.values.shape, np.bool_)
    into = np.linalg.inv(image.steps_mm)
    for roi in rois:
        _check_reference(roi.get("ReferencedFrameOfReferenceUID"), reference)
        contours: list[Vector] = [
            np.asarray((points - image.position_mm) @ into).round(6)
            for points in _list_contours(dataset, roi.ROINumber)
        ]
        if not contours:
            continue
        if any(np.ptp(c[:, 0]) > MOST_LEAN for c in contours):
            raise VolumeError("mask_mismatch", "contours are not parallel to the slices")
        places = np.array([c[:, 0].mean() for c in contours])
        for k, members in assign_planes(places, len(mask)).items():
            mask[k] |= fill_contours([contours[i][:, 1:] for i in members], mask.shape[1:])
    return mask


def _is_roi(roi: pydicom.Dataset, organ: str | int) -> bool:
    if isinstance(organ, int):
        return bool(roi.ROINumber == organ)
    return names_organ(str(roi.get("ROIName") or ""), organ)


def _list_contours(dataset: pydicom.Dataset, number: int) -> Iterable[Vector]:
    """Closed contours of a ROI as points (n, 3), LPS mm; points and open lines enclose nothing."""
    for item in dataset.ROIContourSequence:
        if item.ReferencedROINumber != number:
            continue
        for contour in item.get("ContourSequence") or ():
            if contour.ContourGeometricType not in CLOSED or not contour.get("ContourData"):
                continue
            points = np.array(contour.ContourData, np.float64).reshape(-1, 3)
            if not np.isfinite(points).all():
                raise VolumeError("bad_declaration", "a contour whose places are no numbers")
            yield points
