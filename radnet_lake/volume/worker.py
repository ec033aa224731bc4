"""A chunk of series -> one shard of volumes, and a row of `volumes` each. What one worker does; no
Ray.

Every series ends as a volume or as a row that says why there is none.
"""

import re
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from typing import Any, NamedTuple

import pyarrow as pa

from radnet_lake import __version__, schema
from radnet_lake.errors import RadnetLakeError, VolumeError, describe_place
from radnet_lake.lake.log import Lake, Part, open_lake, utc_now
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.volume.frame import Frame
from radnet_lake.volume.nifti import write_nifti
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.series_frames import to_frames
from radnet_lake.volume.shard import LABEL_FIELDS, write_shard
from radnet_lake.volume.volume import Prepared, prepare_frames

MAX_DETAIL = 200
"""Characters; a detail is a few technical words."""

Row = dict[str, Any]


class Job(NamedTuple):
    """Settings of a run, passed to each worker.

    nifti: folder for NIfTI files, or ''. mode, rule_set: of the labels.
    """

    lake: str
    settings: ResampleSettings
    nifti: str
    mode: str
    rule_set: str


class Result(NamedTuple):
    """Rows of `volumes` for all series of a chunk, and the shard that they name, if any."""

    rows: pa.Table
    shard: Part | None


@lru_cache(maxsize=2)
def _open_writer(uri: str) -> Lake:
    return open_lake(uri)


def prepare_chunk(job: Job, frames: pa.Table, series: pa.Table, apart: bool = False) -> Result:
    """A chunk of series -> their volumes in a new shard, and rows; a commit must name the shard.

    series: SeriesInstanceUID, labels by the names of shard.LABEL_FIELDS, n_rows. frames: columns of
    Frame, paths as the lake has them, the n_rows of each series in the same order. apart: each
    series in a process of its own, as one of them may kill it.

    Raises StoreError where a store stops to answer, SettingError for a key that is missing here.
    """
    lake = _open_writer(job.lake)
    decrypt_uri = choose_decryptor(lake)
    rows: list[Row] = []
    volumes: list[tuple[str, Any, Row]] = []
    start = 0
    for facts in series.to_pylist():
        found = to_frames(frames.slice(start, facts["n_rows"]), decrypt_uri)
        start += facts["n_rows"]
        stamp = max((f.harvested_at for f in found if f.harvested_at), default=None)
        row = start_row(job, facts["SeriesInstanceUID"], stamp, len(found))
        result = (_prepare_apart if apart else _prepare)(found, job.settings)
        if isinstance(result, Prepared):
            row |= _describe(result) | {"position": len(volumes)}
            labels = facts | {"spacing_mm": result.spacing_mm, "rule_set": job.rule_set}
            chosen = {f.name: labels[f.name] for f in LABEL_FIELDS if f.name in labels}
            volumes.append((facts["SeriesInstanceUID"], result.voxels, chosen))
            if job.nifti:
                path = f"{job.nifti}/{name_file(facts['SeriesInstanceUID'])}"
                write_nifti(path, result.voxels, result.position_mm, result.steps_mm)
        else:
            row |= result
        rows.append(row)
    shard = write_shard(lake, job.settings.version(), volumes) if volumes else None
    for row in rows:
        if shard and "position" in row:
            row["shard"] = shard.name
    return Result(to_table(rows), shard)


def start_row(job: Job, series: str, harvested_at: Any, n_rows: int) -> Row:
    """The columns of `volumes` that a series has with a volume and without."""
    return {
        "SeriesInstanceUID": series,
        "preprocessing": job.settings.version(),
        "made_at": utc_now(),
        "is_final": True,
        "harvested_at": harvested_at,
        "n_rows": n_rows,
        "label_mode": job.mode,
        "rule_set": job.rule_set,
        "version": __version__,
    }


def describe_failure(reason: str, detail: str) -> Row:
    """A reason and its detail -> the columns of `volumes` of a series without a volume."""
    is_final = reason not in schema.TRANSIENT_REASONS
    return {"reason": reason, "detail": detail[:MAX_DETAIL], "is_final": is_final}


def to_table(rows: list[Row]) -> pa.Table:
    """Rows -> a table with the columns of `volumes`; missing values are NULL."""
    return pa.Table.from_pylist(rows, schema.TABLES["volumes"])


def name_file(series: str) -> str:
    """A SeriesInstanceUID -> a file name; the UID is header text and not trusted."""
    return re.sub(r"[^0-9A-Za-z.-]", "_", series).strip(".") + ".nii.gz"


def _prepare(frames: list[Frame], settings: ResampleSettings) -> Prepared | Row:
    try:
        return prepare_frames(frames, settings)
    except VolumeError as error:
        return describe_failure(error.reason, error.detail)
    except RadnetLakeError:
        raise
    except Exception as error:  # its text may quote a header: only kind and place go on
        return describe_failure("undecodable", describe_place(error))


def _prepare_apart(frames: list[Frame], settings: ResampleSettings) -> Prepared | Row:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_prepare, frames, settings).result()
        except BrokenProcessPool:
            return describe_failure("undecodable", "reading it kills the process")


def _describe(prepared: Prepared) -> Row:
    """The fields of Prepared that are columns of `volumes`."""
    row = prepared._asdict()
    del row["voxels"]
    row["steps_mm"] = prepared.steps_mm.ravel()
    return row
