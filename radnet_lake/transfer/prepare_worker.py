"""A candidate -> a stored case with its windows and their scores. What one worker does; no Ray."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from radnet_lake.errors import CheckpointError, RadnetLakeError, VolumeError, describe_place
from radnet_lake.network.checkpoint import build_network, digest_weights
from radnet_lake.network.resnet import RadNet
from radnet_lake.transfer.case import LiverCase, refuse_beyond_hu, resample_slices
from radnet_lake.transfer.case_folder import CaseFolder, CaseSettings, StoredCase
from radnet_lake.transfer.proposal import score_regions
from radnet_lake.transfer.sources import Candidate, digest_value
from radnet_lake.transfer.windows import choose_windows, list_windows
from radnet_lake.volume.volume import MAX_VOXELS, Volume
from radnet_lake.volume.worker import MAX_DETAIL

LEAST_AIR = -500
"""HU that air, in the lung or around the patient, is always below."""

Row = dict[str, Any]


def prepare_case(out: str, settings: CaseSettings, candidate: Candidate) -> Row:
    """Make one case and write it to the folder `out`; its row, which says why where it is none.

    Raises StoreError where a store stops to answer, SettingError for a key that is missing here.
    """
    row = start_row(candidate)
    try:
        case = _resample(candidate.read(), settings.spacing_mm)
        stored, facts = _describe_case(case, settings, out)
    except VolumeError as error:
        return row | {"reason": error.reason, "detail": error.detail[:MAX_DETAIL]}
    except RadnetLakeError:
        raise
    except Exception as error:  # its text may quote a header: only kind and place go on
        return row | {"reason": "undecodable", "detail": describe_place(error)}
    row |= facts
    CaseFolder(out).write_case(candidate.name, stored, row)
    return row


def start_row(candidate: Candidate) -> Row:
    """What a row says of any candidate, whether it makes a case or not."""
    return {
        "case": candidate.name,
        "digest": candidate.digest,
        "patient": digest_value(candidate.patient),
        "SeriesInstanceUID": candidate.SeriesInstanceUID,
        "StudyInstanceUID": candidate.StudyInstanceUID,
        "reason": None,
        "detail": None,
    }


def _resample(case: LiverCase, spacing_mm: float) -> LiverCase:
    old_mm = Volume(*case[:1], case.position_mm, case.steps_mm).spacing_mm[0]
    if case.image.size * old_mm / spacing_mm > MAX_VOXELS:
        raise VolumeError("too_large", f"slices of {old_mm:g} mm become too many")
    refuse_beyond_hu(case.image)
    case = resample_slices(case, spacing_mm)
    if not case.mask.any():
        raise VolumeError("no_mask", "the organ is thinner than a slice")
    if case.image.min() > LEAST_AIR:
        note = f"no value is below {LEAST_AIR}, as air is: these may be no Hounsfield units"
        return case._replace(notes=(*case.notes, note))
    return case


def _describe_case(case: LiverCase, settings: CaseSettings, out: str) -> tuple[StoredCase, Row]:
    """The case as it is stored, and what its row says of it."""
    image = np.rint(case.image).astype(np.int16)
    mask = (case.mask > 0).astype(np.uint8)
    depth, rows, columns = image.shape
    regions = list_windows(depth, settings.settings.slices, settings.stride, rows, columns)
    scores, above, chosen = None, [*range(len(regions))], [*range(len(regions))]
    if settings.network:
        network = _open_network(out, settings.network)
        label = settings.region_label
        scores = score_regions(network, image, regions, settings.settings, label)
        above = [n for n, score in enumerate(scores) if score > settings.threshold]
        chosen = choose_windows(scores, settings.threshold)
    organ = mask.sum(axis=(1, 2), dtype=np.int64)
    voxel_ml = abs(float(np.linalg.det(case.steps_mm))) / 1000
    inside = [region.clip(depth)[0] for region in regions]

    def cover(windows: Iterable[int]) -> float:
        is_covered = np.zeros(depth, np.bool_)
        for n in windows:
            is_covered[inside[n]] = True
        return float(organ[is_covered].sum() / organ.sum())

    return StoredCase(image, mask, case.position_mm, case.steps_mm), {
        "depth": depth,
        "rows": rows,
        "columns": columns,
        "spacing_mm": list(Volume(case.image, case.position_mm, case.steps_mm).spacing_mm),
        "organ_voxels": int(organ.sum()),
        "organ_ml": float(organ.sum() * voxel_ml),
        "starts": [region.start[0] for region in regions],
        "scores": scores,
        "chosen": chosen,
        "window_organ": [cover([n]) for n in range(len(regions))],
        "covered_above": cover(above),
        "covered": cover(chosen),
        "notes": list(case.notes),
    }


@lru_cache(maxsize=1)
def _open_network(out: str, digest: str) -> RadNet:
    """The network that the case folder keeps; digest: so that another one is opened anew."""
    state = CaseFolder(out).read_network()
    if state is None or digest_weights(state) != digest:
        remedy = "run the same command again, which writes it"
        raise CheckpointError("is not the network of the settings", f"{out}/regions.pt", remedy)
    return build_network(state)
