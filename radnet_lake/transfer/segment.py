"""A trained segmenter over CT series of a lake, or over files: masks as DICOM SEG, NIfTI, pictures.

    NAME.seg.dcm       the mask as DICOM SEG that refers to its source series; holds patient data
    NAME.seg.nii.gz    the mask on the source's own grid, 0 and 1
    NAME.png           its outlines on the CT
    segments.csv       a row for each series: volume, windows, and why where there is no mask

NAME is the SeriesInstanceUID, as the lake has it, or the name of a NIfTI file. Wanted = segmented +
failed + known; known is what the folder has of the same weights, made of the same files. Files are
written whole or not; the same command finishes a killed run, and tries again what failed.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.csv
import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from radnet_lake.errors import SettingError, StoreError
from radnet_lake.lake.log import Lake, open_lake
from radnet_lake.lake.settings import LakeSettings
from radnet_lake.lake.sql import choose_rows
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.lake.views import connect
from radnet_lake.network.checkpoint import digest_weights
from radnet_lake.progress import Progress, list_failures, show_nothing
from radnet_lake.ray_cluster import fetch, start_ray
from radnet_lake.settings import check_least
from radnet_lake.storage.folder import Folder
from radnet_lake.storage.sources import absolute_uri, list_unit, list_units
from radnet_lake.transfer.case_folder import CASE_REASONS
from radnet_lake.transfer.inference import (
    Method,
    MethodSettings,
    Models,
    Trained,
    build_models,
    read_trained,
    use_threads,
)
from radnet_lake.transfer.pairs import read_series
from radnet_lake.transfer.segment_worker import (
    NIFTI,
    PICTURE,
    SEG,
    Job,
    Row,
    Scan,
    segment_scan,
    start_row,
)
from radnet_lake.transfer.sources import digest_value, name_case
from radnet_lake.volume.series_frames import count_rows, stream_frames

ENDINGS = {"seg": (SEG,), "nifti": (NIFTI,), "both": (SEG, NIFTI)}
NIFTI_FILES = (".nii", ".nii.gz")
KEPT = """
Modality = 'CT' and "view" = 'axial'
and SeriesInstanceUID in (select SeriesInstanceUID from training_set)
"""
TABLE = "segments.csv"
SEGMENTS = pa.schema(
    [
        ("name", pa.string()),
        ("SeriesInstanceUID", pa.string()),
        ("organ", pa.string()),
        ("organ_ml", pa.float64()),
        ("windows", pa.int32()),
        ("best_score", pa.float64()),
        ("network", pa.string()),
        ("method", pa.string()),
        ("files", pa.string()),
        ("notes", pa.string()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""windows: that were segmented; best_score: of the region proposal. network: digest of all weights.
source: digest of the files. files, notes: JSON lists."""
KEEP_EVERY_S = 15.0
TRIES = 2
"""At a series whose worker dies."""


@dataclass(frozen=True, kw_only=True)
class LiverSegmentConfig(LakeSettings, MethodSettings):
    """Settings of one segmentation."""

    out: str
    """folder of the masks, or s3://bucket/prefix; SEG files hold patient data"""
    images: tuple[str, ...] = field(default=(), metadata={"positional": "IMAGE"})
    """NIfTI files of CT, or folders of DICOM files; left out: series of --lake"""
    series: str = ""
    """SeriesInstanceUID as the lake has it; several are separated by commas"""
    where: str = ""
    """SQL condition over the lake's `series`, as: list_contains(coverage, 'Abdomen') (default: CT
    in axial slices that nothing excludes)"""
    format: str = field(default="both", metadata={"choices": tuple(ENDINGS)})
    """seg: DICOM SEG; nifti: NIfTI; of a NIfTI image there can be no SEG"""
    overlay: str = field(default="yes", metadata={"choices": ("yes", "no")})
    """draw the outlines as PNG"""
    workers: int = 1
    """series at a time, each a Ray task; 1: in this process, without Ray"""

    def __post_init__(self) -> None:
        check_least(self, batch=1, workers=1)
        if self.images and (self.lake or self.series or self.where):
            remedy = "name files, or series of a lake"
            raise SettingError("go with --lake, not with IMAGE", "--series, --where", remedy)
        if self.series and self.where:
            raise SettingError("a UID is given too", "--where", "give one of them")
        if self.format == "seg" and any(name.endswith(NIFTI_FILES) for name in self.images):
            what = "a NIfTI image has no DICOM series that a SEG could refer to"
            raise SettingError(what, "--format", "use nifti, or give the DICOM files")

    @property
    def endings(self) -> tuple[str, ...]:
        """Of the files that are wanted."""
        return ENDINGS[self.format] + ((PICTURE,) if self.overlay == "yes" else ())


@dataclass
class LiverSegmentReport:
    """What a segmentation did so far. wanted = segmented + failed + known.

    empty: of the segmented, without a voxel of the organ. noted: rows with a note.
    """

    folder: str
    organ: str
    wanted: int = 0
    known: int = 0
    segmented: int = 0
    empty: int = 0
    noted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return self.reasons.total()

    def __str__(self) -> str:
        """The sums that must match, failures by reason, where to look."""
        done = self.segmented + self.failed
        rate = f", {done / self.seconds:.2f} series/s" if done else ""
        lines = [
            f"masks     {self.folder}, {self.organ}, {self.seconds:.1f} s{rate}",
            f"wanted    {self.wanted} = {self.segmented} segmented + {self.failed} failed"
            f" + {self.known} known",
        ]
        if self.empty:
            lines.append(f"empty     {self.empty} of these have no voxel of it, so no SEG")
        if self.noted:
            lines.append(f"notes     of {self.noted} in the column notes")
        lines += list_failures(self.reasons, CASE_REASONS)
        return "\n".join([*lines, f"table     {self.folder}/{TABLE}"])


def segment_liver(
    config: LiverSegmentConfig, progress: Progress = show_nothing
) -> LiverSegmentReport:
    """Segment what the folder lacks; returns the sums.

    Raises SettingError for a wrong setting, no series, a missing key; CheckpointError for damaged
    weights, LakeError, StoreError. What was written stays.
    """
    started = time.monotonic()
    trained = read_trained(config.run, config.refine, config.checkpoint)
    method = Method(config.average, config.largest, bool(config.refine))
    device = "cuda" if config.gpu else "cpu"
    folder = Folder(config.out)
    job = Job(
        folder.uri, trained, _digest(trained), method, config.endings, config.batch, device, 0
    )
    report = LiverSegmentReport(folder.uri, trained.cases.organ)
    lake = None if config.images else open_lake(config.lake)
    scans = _list_series(lake, config) if lake else _list_images(config)
    rows = _read_rows(folder)
    there = set(folder.names())
    due = [scan for scan in scans if not _is_known(job, scan, rows.get(scan.name), there)]
    report.wanted, report.known = len(scans), len(scans) - len(due)
    messages = [f"{len(due)} series to segment, {report.known} known"]
    progress(0, len(due), "series", messages=messages)
    _write_rows(folder, rows)  # from here on the folder is one of this command
    kept = time.monotonic()
    try:
        for row in _segment(job, _stream_scans(lake, due), config.workers) if due else ():
            rows[row["name"]] = row
            _count(row, report)
            done = report.segmented + report.failed
            progress(done, len(due), "series", {"failed": report.failed})
            if time.monotonic() - kept > KEEP_EVERY_S:
                _write_rows(folder, rows)
                kept = time.monotonic()
    finally:
        _write_rows(folder, rows)
    report.seconds = time.monotonic() - started
    return report


def _digest(trained: Trained) -> str:
    states = (trained.first, trained.refining, trained.regions)
    return digest_value([digest_weights({"heads": ()} | s) if s else None for s in states])


def _list_series(lake: Lake, config: LiverSegmentConfig) -> list[Scan]:
    """The series asked for, without their frames. Raises SettingError where there are none."""
    choose_decryptor(lake)  # a missing key is an error before any work
    if config.series:
        uids = list(dict.fromkeys(filter(None, map(str.strip, config.series.split(",")))))
    else:
        with connect(lake.uri) as connection:
            choose_rows(connection, "series", config.where or KEPT, "series", "SeriesInstanceUID")
            chosen = connection.sql("from wanted order by all").to_arrow_table()
            uids = chosen.column(0).to_pylist()
    if not uids:
        remedy = "check --where, or name series by --series"
        raise SettingError("the lake holds no such series", lake.uri, remedy)
    counted = {row["SeriesInstanceUID"]: row for row in count_rows(lake, uids).to_pylist()}
    return [
        Scan(name_case(one), one, digest_value(sorted(counted.get(one, {}).items())))
        for one in uids
    ]


def _list_images(config: LiverSegmentConfig) -> list[Scan]:
    """The NIfTI files, and the series of the folders. Raises SettingError for two of one name."""
    scans = []
    for number, image in enumerate(config.images, 1):
        uri = absolute_uri(image)
        if uri.endswith(NIFTI_FILES):
            entries = [entry for unit in list_units(uri, 1) for entry in list_unit(unit)]
            stem = uri.rpartition("/")[2].removesuffix(".gz").removesuffix(".nii")
            facts = [(entry.size_bytes, entry.modified, entry.etag) for entry in entries]
            scans.append(Scan(name_case(stem), "", digest_value(facts), nifti=uri))
            continue
        found = read_series(uri)
        if not found:
            raise SettingError("holds no DICOM image", f"IMAGE {number}", "name another folder")
        for series, frames in found.items():
            digest = digest_value(
                [(f.SOPInstanceUID, f.ImagePositionPatient, f.size_bytes) for f in frames]
            )
            name = name_case(series or f"no-uid-{digest}")
            scans.append(Scan(name, series, digest, frames))
    twice = [name for name, n in Counter(scan.name for scan in scans).items() if n > 1]
    if twice:
        raise SettingError(f"{twice[0]} is there twice", "IMAGE", "segment them one by one")
    return scans


def _stream_scans(lake: Lake | None, scans: list[Scan]) -> Iterator[Scan]:
    """The same, with frames; those of a lake are held a series at a time."""
    if not lake:
        yield from scans
        return
    waiting = {scan.series: scan for scan in scans}
    for series, frames in stream_frames(lake, list(waiting)):
        yield waiting.pop(series)._replace(frames=frames)
    yield from waiting.values()  # series that the lake does not hold: no_frames


def _is_known(job: Job, scan: Scan, row: Row | None, there: set[str]) -> bool:
    if row is None or row["reason"]:
        return False
    if any(row[key] != value for key, value in start_row(job, scan).items() if key in _SAME):
        return False
    has_seg = bool(row["organ_ml"]) and not scan.nifti
    wanted = {scan.name + ending for ending in job.endings if ending != SEG or has_seg}
    return wanted <= there


_SAME = ("organ", "network", "method", "source")


def _segment(job: Job, scans: Iterable[Scan], workers: int) -> Iterator[Row]:
    """The rows of all scans, in any order."""
    if workers == 1:
        models = build_models(job.trained, job.batch, job.device)
        yield from (segment_scan(job, models, scan) for scan in scans)
        return
    start_ray()
    resources = ray.cluster_resources()
    if job.device == "cuda" and resources.get("GPU", 0) < 1:
        raise SettingError("the Ray cluster has no GPU", "--gpu", "leave it out")
    cpus = max(1, int(resources.get("CPU", 1)) // workers)
    task = ray.remote(
        num_cpus=cpus, num_gpus=int(job.device == "cuda"), max_retries=TRIES - 1
    )(_segment_remotely)  # fmt: skip
    shared_job = ray.put(job._replace(threads=cpus))
    running: dict[Any, Scan] = {}

    def take(limit: int) -> Iterator[Row]:
        while len(running) > limit:
            (done,), _ = ray.wait(list(running), num_returns=1)
            yield _await_row(done, job, running.pop(done))

    for scan in scans:
        yield from take(workers - 1)
        running[task.remote([shared_job], scan)] = scan
    yield from take(0)


def _await_row(task: Any, job: Job, scan: Scan) -> Row:
    try:
        row: Row = fetch(task)
    except (WorkerCrashedError, OutOfMemoryError):
        detail = "its worker died at each try"
        return start_row(job, scan) | {"reason": "killed", "detail": detail}
    return row


def _segment_remotely(shared_job: list[Any], scan: Scan) -> Row:
    job, models = _open_models(shared_job[0])
    return segment_scan(job, models, scan)


@lru_cache(maxsize=1)
def _open_models(shared_job: Any) -> tuple[Job, Models]:
    """Of one run of this command; a worker process serves many series."""
    job: Job = ray.get(shared_job)
    use_threads(job.threads)
    return job, build_models(job.trained, job.batch, job.device)


def _count(row: Row, report: LiverSegmentReport) -> None:
    if row["reason"]:
        report.reasons.update([row["reason"]])
        return
    report.segmented += 1
    report.empty += not row["organ_ml"]
    report.noted += bool(row["notes"])


def _read_rows(folder: Folder) -> dict[str, Row]:
    """The rows of an earlier run. Raises StoreError where the table is damaged."""
    if TABLE not in folder.names(TABLE):
        if not folder.is_empty():
            remedy = "name an empty or new folder, or one of this command"
            raise SettingError("the folder holds other files", folder.uri, remedy)
        return {}
    data = pa.BufferReader(folder.read(TABLE))
    types = pa.csv.ConvertOptions(column_types=SEGMENTS, strings_can_be_null=True)
    try:
        table = pa.csv.read_csv(data, convert_options=types).select(SEGMENTS.names)
        rows = table.to_pylist()
        for row in rows:
            row["files"], row["notes"] = (
                json.loads(row[key] or "[]") for key in ("files", "notes")
            )
    except (pa.ArrowException, KeyError, ValueError):
        remedy = "delete it: then all is segmented anew"
        raise StoreError("the file is damaged", f"{folder.uri}/{TABLE}", remedy) from None
    return {row["name"]: row for row in rows}


def _write_rows(folder: Folder, rows: dict[str, Row]) -> None:
    listed = [
        row | {"files": json.dumps(row["files"]), "notes": json.dumps(row["notes"])}
        for _, row in sorted(rows.items())
    ]
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(pa.Table.from_pylist(listed, SEGMENTS), sink)
    folder.write(TABLE, memoryview(sink.getvalue()))
