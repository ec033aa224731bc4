"""One CT, a series or a NIfTI file -> an organ's mask on its own grid, as files; no Ray."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from radnet_lake.errors import RadnetLakeError, VolumeError, describe_place
from radnet_lake.evaluate.figures import encode_figure
from radnet_lake.storage.folder import Folder
from radnet_lake.transfer.case import LiverCase, refuse_beyond_hu, resample_slices
from radnet_lake.transfer.inference import Mask, Method, Models, Trained, segment_image
from radnet_lake.transfer.overlay import draw_overlay
from radnet_lake.transfer.sources import check_ct
from radnet_lake.transfer.write_seg import make_segmentation, read_source
from radnet_lake.volume.frame import Frame, Vector
from radnet_lake.volume.nifti import LPS_RAS, Nifti, orient, read_stored, to_nifti, write_nifti
from radnet_lake.volume.volume import CT_LOWEST, MAX_VOXELS, Volume, order_frames, read_volume_of
from radnet_lake.volume.worker import MAX_DETAIL

SEG, NIFTI, PICTURE = ".seg.dcm", ".seg.nii.gz", ".png"
"""Endings of the files; what stands before them names the series."""
MOST_APART = 0.1
"""Slices that a slice may lie off an even step."""

Row = dict[str, Any]


class Scan(NamedTuple):
    """What is to be segmented: frames of a series, or the path of a NIfTI file.

    name: of its files. series: SeriesInstanceUID as the lake or the files have it, '' of NIfTI.
    digest: changes with its files.
    """

    name: str
    series: str
    digest: str
    frames: Sequence[Frame] = ()
    nifti: str = ""


class Job(NamedTuple):
    """What each worker gets. endings: of the files to write. network: digest of all weights.

    threads: of torch; 0: as they are.
    """

    out: str
    trained: Trained
    network: str
    method: Method
    endings: tuple[str, ...]
    batch: int
    device: str
    threads: int


def segment_scan(job: Job, models: Models, scan: Scan) -> Row:
    """Segment one scan and write its files; its row, which says why where there is no mask.

    A row's reason is null where all went well: a mask without a voxel has no SEG, and organ_ml 0.
    Where only the SEG cannot be written, the other files are there. Raises StoreError where the
    store does not take the files, CheckpointError and SettingError as inference.segment_image.
    """
    row = start_row(job, scan)
    try:
        image, stored = read_scan(scan)
        mask, facts = _find_mask(job, models, image)
        row |= facts
        own, position_mm, steps_mm = _turn_back(mask, stored)
        stack = order_frames(scan.frames) if scan.frames else []
        row["notes"] += _note_gaps(stack, position_mm, steps_mm)
        if NIFTI in job.endings:
            write_nifti(f"{job.out}/{scan.name}{NIFTI}", own, position_mm, steps_mm)
            row["files"].append(scan.name + NIFTI)
        if PICTURE in job.endings:
            _write_picture(job, scan, image, mask, row)
        if SEG in job.endings and stack and mask.any():
            _write_seg(job, scan, stack, own, steps_mm, row)
    except VolumeError as error:
        return row | {"reason": error.reason, "detail": error.detail[:MAX_DETAIL]}
    except RadnetLakeError:
        raise
    except Exception as error:  # its text may quote a header: only kind and place go on
        return row | {"reason": "undecodable", "detail": describe_place(error)}
    return row


def read_scan(scan: Scan) -> tuple[Volume, Nifti]:
    """The image in HU, in the canonical axial array (nifti.py), and in its source's own axes.

    Raises VolumeError not_ct, and as volume.read_volume_of or nifti.read_nifti.
    """
    if scan.nifti:
        stored = read_stored(scan.nifti)
    else:
        stored = to_nifti(*read_volume_of(check_ct(list(scan.frames))))
    values, position_mm, steps_mm = orient(stored)
    hounsfield = np.ascontiguousarray(values, np.float32)
    np.maximum(hounsfield, np.float32(CT_LOWEST), out=hounsfield)
    return Volume(hounsfield, position_mm, steps_mm), stored


def start_row(job: Job, scan: Scan) -> Row:
    """What a row says of any scan, whether it gets a mask or not."""
    return {
        "name": scan.name,
        "SeriesInstanceUID": scan.series or None,
        "organ": job.trained.cases.organ,
        "network": job.network,
        "method": job.method.label,
        "source": scan.digest,
        "files": [],
        "notes": [],
        "reason": None,
        "detail": None,
    }


def restore_slices(mask: Mask, depth: int, old_mm: float, new_mm: float) -> Mask:
    """The mask of a case with slices every new_mm on the grid it was resampled from.

    mask: (d, H, W), of case.resample_slices. depth: slices of the grid, old_mm apart. A slice
    takes the one that it lies in, as a mask's voxels are not blended.
    """
    index = ((np.arange(depth) + 0.5) * old_mm / new_mm).astype(np.int64)
    taken: Mask = mask[np.minimum(index, len(mask) - 1)]
    return taken


def _find_mask(job: Job, models: Models, image: Volume) -> tuple[Mask, Row]:
    """The mask on the image's grid, and what a row says of it."""
    cases = job.trained.cases
    values, position_mm, steps_mm = image
    old_mm = image.spacing_mm[0]
    if values.size * old_mm / cases.spacing_mm > MAX_VOXELS:
        raise VolumeError("too_large", f"slices of {old_mm:g} mm become too many")
    refuse_beyond_hu(values)
    nothing = np.broadcast_to(np.uint8(0), values.shape)
    whole = LiverCase(values, nothing, position_mm, steps_mm, "")
    case = resample_slices(whole, cases.spacing_mm)
    hounsfield = np.rint(case.image).astype(np.int16)
    found = segment_image(hounsfield, case.steps_mm, models, cases, (job.method,))
    mask = found.masks[job.method]
    if case is not whole:
        mask = restore_slices(mask, len(values), old_mm, cases.spacing_mm)
    scores = found.proposal.scores
    notes = []
    if values.min() >= 0:
        notes.append("no value is below 0: these may be no Hounsfield units")
    if scores and max(scores) <= cases.threshold:
        notes.append("no window's score is above the threshold: the organ may not be in it")
    return mask, {
        "organ_ml": float(mask.sum(dtype=np.int64) * abs(np.linalg.det(steps_mm)) / 1000),
        "windows": len(found.proposal.chosen),
        "best_score": max(scores) if scores else None,
        "notes": notes,
    }


def _write_picture(job: Job, scan: Scan, image: Volume, mask: Mask, row: Row) -> None:
    title = f"{row['organ']}, {row['organ_ml']:.0f} ml found"
    drawn = draw_overlay(
        image.values, {row["organ"]: mask}, image.position_mm, image.steps_mm, title
    )
    Folder(job.out).write(scan.name + PICTURE, encode_figure(drawn))
    row["files"].append(scan.name + PICTURE)


def _turn_back(mask: Mask, stored: Nifti) -> tuple[Mask, Vector, Vector]:
    """A mask of the canonical array in its source's own axes, placed as in write_nifti."""
    voxels = np.zeros(stored.voxels.shape, np.uint8)
    # A view: what is written to it lands in the source's order.
    orient(Nifti(voxels, stored.affine))[0][...] = mask
    to_lps = LPS_RAS @ stored.affine + 0.0  # no minus zeros
    return voxels.transpose(2, 1, 0), to_lps[:3, 3], to_lps[:3, :3].T[::-1]


def _note_gaps(stack: Sequence[Frame], position_mm: Vector, steps_mm: Vector) -> list[str]:
    """What a person should know where even steps do not lead to where the slices lie."""
    if len(stack) < 3:
        return []
    places = np.array([frame.ImagePositionPatient for frame in stack], np.float64)
    even = position_mm + np.arange(len(stack))[:, None] * steps_mm[0]
    apart_mm = float(np.linalg.norm(places - even, axis=1).max())
    if apart_mm <= MOST_APART * np.linalg.norm(steps_mm[0]):
        return []
    return [
        f"the slices are not evenly spaced: in NIfTI, picture and organ_ml they lie up to"
        f" {apart_mm:.1f} mm off; the SEG has each in its place"
    ]


def _write_seg(
    job: Job, scan: Scan, stack: Sequence[Frame], mask: Mask, steps_mm: Vector, row: Row
) -> None:
    source = read_source(stack)
    organ = job.trained.cases.organ
    data = make_segmentation(mask, steps_mm, stack, source, organ, job.network)
    if source.made_up:
        missing = ", ".join(source.made_up)
        row["notes"].append(f"the files have no {missing}: the SEG names made-up ones")
    Folder(job.out).write(scan.name + SEG, data)
    row["files"].append(scan.name + SEG)
