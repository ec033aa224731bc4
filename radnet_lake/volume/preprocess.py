"""Series of the training set -> volumes in shards, on Ray. Wanted = made + failed + known.

One task streams chunks of series with their frames out of the lake; each chunk is prepared by one
worker, which writes one shard and returns a row per series; the driver commits rows and shards
together every few seconds. So a killed run leaves what it committed; the next one does the rest.
Two runs at once do no harm: of two rows of a series the later counts, and compact deletes a shard
that only dead rows name.
"""

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from radnet_lake import __version__
from radnet_lake.errors import SettingError, StoreError, encode_error
from radnet_lake.lake.freshness import MODES, warn_if_stale
from radnet_lake.lake.log import Lake, Part, decode_part, open_lake
from radnet_lake.lake.settings import CommitSettings
from radnet_lake.lake.sql import choose_rows, run_sql
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.lake.views import connect
from radnet_lake.progress import Progress, show_nothing
from radnet_lake.ray_cluster import count_attempts, map_chunks, start_ray
from radnet_lake.settings import check_choices, take_settings
from radnet_lake.storage.sources import absolute_uri
from radnet_lake.volume.report import PreprocessReport
from radnet_lake.volume.resample import PREPROCESSING_VERSION, ResampleSettings
from radnet_lake.volume.series_frames import count_rows, stream_rows
from radnet_lake.volume.worker import (
    Job,
    Result,
    describe_failure,
    prepare_chunk,
    start_row,
    to_table,
)

LIST_CPUS, PREPARE_CPUS = 0.02, 0.95
"""Logical CPUs: listing must not take a worker's place. The two values differ because Ray Data
fuses operators with equal resources; listing and reading must run as separate tasks."""
CHUNK_SERIES, CHUNK_ROWS = 32, 20_000
"""Most of a chunk: a shard of some 57 MB before compression; a few seconds of work."""
CHUNKS_PER_CPU = 4
"""Of a small lake, so that all workers start soon and end at about the same time."""

_LABELS = 'SeriesInstanceUID, sequence, "view", contrast, coverage, effective_spacing_mm'


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(ResampleSettings, CommitSettings):
    """Settings of one preprocessing. The defaults are the paper's."""

    where: str = ""
    """SQL condition over training_set, as "sequence = 'T2-FLAIR'" (default: all of it)"""
    mode: str = field(default="", metadata={"choices": MODES})
    """refuse labels of another mode than this (default: whatever they are)"""
    nifti: str = ""
    """folder, or s3://bucket/prefix: also write each volume that is made, as <series>.nii.gz"""
    retry: bool = False
    """try again what failed, also series that `label` excluded for it"""

    def __post_init__(self) -> None:
        check_choices(self)
        ResampleSettings.__post_init__(self)

    @property
    def settings(self) -> ResampleSettings:
        """The settings that determine the volumes."""
        return take_settings(ResampleSettings, self)


def preprocess(config: PreprocessConfig, progress: Progress = show_nothing) -> PreprocessReport:
    """Make the volumes that the lake does not have yet -> a report.

    Raises SettingError for a wrong setting or a missing key, LakeError for a lake without labels,
    StoreError where a store stops to answer (what was committed stays; the same command goes on
    from there).
    """
    started = time.monotonic()
    lake = open_lake(config.lake)
    stale = warn_if_stale(lake)
    labels = lake.snapshot.labels
    if config.mode and config.mode != labels["mode"]:
        remedy = f"run: radnet-lake label --mode {config.mode} --lake {lake.uri}"
        raise SettingError(f"the labels are of mode {labels['mode']}", "--mode", remedy)
    choose_decryptor(lake)  # a missing key is an error before any work
    report = PreprocessReport(lake.uri, config.settings.version(), stale)
    pending = _plan(lake, config, report)
    messages = [f"WARNING: {stale}"] if stale else []
    messages.append(f"{pending.num_rows} volumes to make, {report.known} series known")
    progress(0, pending.num_rows, "volumes", messages=messages)
    if pending.num_rows:
        _keep_settings(lake, config.settings)
        nifti = absolute_uri(config.nifti) if config.nifti else ""
        job = Job(lake.uri, config.settings, nifti, labels["mode"], labels["rule_set"])
        start_ray()
        _Run(lake, job, report, progress, config.commit_seconds).make(pending)
    report.seconds = time.monotonic() - started
    return report


def _plan(lake: Lake, config: PreprocessConfig, report: PreprocessReport) -> pa.Table:
    """The wanted series without a current volume: labels, harvested_at and n_rows of each."""
    shards = lake.folder.names(f"tensors/{report.preprocessing}/")
    with connect(lake.uri) as connection:
        run_sql(connection, read_query("preprocess_candidates"))
        candidates = f"preprocess_candidates({config.retry})"
        choose_rows(connection, candidates, config.where, "training_set", _LABELS)
        wanted = connection.sql("from wanted").to_arrow_table()
        connection.register("held", count_rows(lake, wanted))
        connection.register("shards", pa.table({"shard": pa.array(shards, pa.string())}))
        known = {"retry": config.retry, "preprocessing": report.preprocessing}
        state = connection.sql(read_query("volume_state"), params=known).to_arrow_table()
    stands = state.filter(state["is_known"])
    report.wanted, report.known = state.num_rows, stands.num_rows
    report.known_failed = len(stands["reason"].drop_null())
    return state.filter(pc.invert(state["is_known"])).drop(["reason", "is_known"])


def _keep_settings(lake: Lake, settings: ResampleSettings) -> None:
    """Write the settings that the name of the preprocessing stands for, unless they are there."""
    record = {
        "preprocessing": settings.version(),
        "settings": asdict(settings),
        "preprocessing_version": PREPROCESSING_VERSION,
        "made_by": f"radnet_lake {__version__}",
    }
    name = f"tensors/{settings.version()}/settings.json"
    lake.folder.create(name, json.dumps(record, indent=1).encode())


class _Run:
    """One run: its report, and the rows and shards that are not committed yet."""

    def __init__(
        self, lake: Lake, job: Job, report: PreprocessReport, progress: Progress, every_s: float
    ) -> None:
        self.lake, self.job, self.report, self.progress = lake, job, report, progress
        self.every_s = every_s
        self.committed = time.monotonic()
        self.rows: list[pa.Table] = []
        self.shards: list[Part] = []

    def make(self, pending: pa.Table) -> None:
        """Prepare these series and commit at intervals."""
        cpus = int(ray.cluster_resources().get("CPU", 1))
        at_once = min(CHUNK_SERIES, -(-pending.num_rows // (CHUNKS_PER_CPU * cpus)))
        try:
            taken = [self._take(result) for result in _map_chunks(self.job, pending, at_once)]
            done = pa.concat_arrays([pa.array([], pa.string()), *taken])
            is_done = pc.is_in(pending["SeriesInstanceUID"], value_set=done)
            lost = pending.filter(pc.invert(is_done))
            if lost.num_rows:
                self._take(_miss(self.job, lost))
        except BaseException:
            # What is made is kept, whatever ends the run; only SIGKILL loses the last seconds.
            with suppress(StoreError):
                self._commit()
            raise
        self._commit()

    def _take(self, result: Result) -> pa.Array:
        rows, shard = result
        self.rows.append(rows)
        if shard:
            self.shards.append(shard)
            self.report.size_bytes += shard.size_bytes
        reasons = Counter(rows["reason"].to_pylist())
        self.report.made += reasons.pop(None, 0)
        self.report.reasons.update(reasons)
        r = self.report
        self.progress(r.made + r.failed, r.wanted - r.known, "volumes", {"failed": r.failed})
        if time.monotonic() - self.committed > self.every_s:
            self._commit()
        return rows["SeriesInstanceUID"].combine_chunks()

    def _commit(self) -> None:
        """Commit the finished shards with their rows."""
        if self.rows:
            part = self.lake.write_part("volumes", pa.concat_tables(self.rows), "made")
            self.lake.commit(add=[part, *self.shards])
            self.rows, self.shards = [], []
        self.committed = time.monotonic()


def _miss(job: Job, lost: pa.Table) -> Result:
    failure = describe_failure("vanished", "its rows left the lake during the run")
    facts = lost.select(["SeriesInstanceUID", "harvested_at", "n_rows"]).to_pylist()
    return Result(to_table([start_row(job, *f.values()) | failure for f in facts]), None)


class _Listing(Datasource):  # type: ignore[misc]
    """Ray Data source: chunks of series with their frames, one a row, streamed by one task."""

    def __init__(self, lake: str, pending: ray.ObjectRef, most: int) -> None:
        super().__init__()
        self._list = partial(_list_chunks, lake, pending, most)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._list, unknown)]


def _list_chunks(lake: str, pending: ray.ObjectRef, most: int) -> Iterator[pa.Table]:
    """Chunks of at most so many series and, but for one long series, of CHUNK_ROWS rows."""
    series = ray.get(pending)
    places = {uid: n for n, uid in enumerate(series["SeriesInstanceUID"].to_pylist())}
    held: list[tuple[int, pa.Table]] = []
    n_rows = 0
    try:
        for uid, rows in stream_rows(open_lake(lake), series):
            if held and (len(held) == most or n_rows + rows.num_rows > CHUNK_ROWS):
                yield _encode_chunk(held, series)
                held, n_rows = [], 0
            held.append((places[uid], rows))
            n_rows += rows.num_rows
        if held:
            yield _encode_chunk(held, series)
    except Exception as error:
        yield _encode(chunk=b"", frames=b"", series=b"", error=_encode_error(error))


def _encode_chunk(held: list[tuple[int, pa.Table]], series: pa.Table) -> pa.Table:
    counts = pa.array([rows.num_rows for _, rows in held], pa.int64())
    chosen = series.take([place for place, _ in held])
    chosen = chosen.set_column(chosen.column_names.index("n_rows"), "n_rows", counts)
    frames = pa.concat_tables(rows for _, rows in held)
    name = uuid.uuid4().bytes
    return _encode(chunk=name, frames=_to_bytes(frames), series=_to_bytes(chosen), error=b"")


def _prepare_batch(batch: pa.Table, job: Job, attempts: Any) -> pa.Table:
    return pa.concat_tables(_prepare_encoded(chunk, job, attempts) for chunk in batch.to_pylist())


def _prepare_encoded(chunk: dict[str, bytes], job: Job, attempts: Any) -> pa.Table:
    error = chunk["error"]
    if not error:
        try:
            # A file can kill the decoder, and with it whoever reads it: not each time all of us.
            apart = ray.get(attempts.begin.remote(chunk["chunk"])) > 1
            frames, series = _to_table(chunk["frames"]), _to_table(chunk["series"])
            rows, shard = prepare_chunk(job, frames, series, apart)
            return _encode(rows=_to_bytes(rows), shard=json.dumps(shard).encode(), error=b"")
        except Exception as trouble:
            error = _encode_error(trouble)
    return _encode(rows=b"", shard=b"", error=error)


def _encode(**fields: bytes) -> pa.Table:
    """Fields -> a table of one row, because a chunk must not be split."""
    return pa.table({name: pa.array([data], pa.binary()) for name, data in fields.items()})


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def _encode_error(error: Exception) -> bytes:
    return json.dumps(encode_error(error)).encode()


def _to_table(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def _map_chunks(job: Job, pending: pa.Table, most: int) -> Iterator[Result]:
    """Results of chunks as they end, in any order."""
    source = _Listing(job.lake, ray.put(pending), most)
    arguments = {"job": job, "attempts": count_attempts()}
    for row in map_chunks(source, 1, _prepare_batch, arguments, (LIST_CPUS, PREPARE_CPUS)):
        shard = json.loads(row["shard"])
        yield Result(_to_table(row["rows"]), decode_part(shard) if shard else None)
