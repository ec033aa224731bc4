"""Takes sources, reads the headers of their files on Ray and commits the rows to the lake.

Listing tasks stream chunks of file names; each chunk is read by one task, which writes its own
Parquet parts and returns their names; the driver commits these names every few seconds. The driver
holds neither paths nor rows, and a killed run keeps what it committed. In the sums,
objects_seen = instances + rejects + known.
"""

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from radnet_lake import __version__
from radnet_lake.errors import SettingError, StoreError, encode_error
from radnet_lake.harvest.file_index import LISTED, FileIndex, write_vanished
from radnet_lake.harvest.report import HarvestReport
from radnet_lake.harvest.worker import ChunkResult, HarvestJob, extract_chunk
from radnet_lake.lake.compact import compact_small
from radnet_lake.lake.log import Lake, Part, create_lake, decode_part, utc_now
from radnet_lake.lake.settings import CommitSettings, locate_lake
from radnet_lake.lake.views import connect
from radnet_lake.privacy.deidentifier import Deidentifier, load_key
from radnet_lake.progress import Progress, show_nothing
from radnet_lake.ray_cluster import map_chunks, start_ray
from radnet_lake.settings import check_choices, check_least
from radnet_lake.storage.sources import Entry, Unit, absolute_uri, list_unit, list_units

LIST_CPUS, READ_CPUS = 0.02, 0.9
"""Logical CPUs per task. A lister that waits for its consumer must not keep a reader from running.
The two values differ because Ray Data fuses operators with equal resources; listing and reading
must run as separate tasks.
"""
CPUS_PER_LISTER = 4
"""One lister lists files faster than eight readers read them."""
UNITS_PER_LISTER = 16
"""Units of a source per lister, so that all listers end at about the same time."""
FIRST_CHUNK = 500
"""Files of the first chunk; each next one has twice as many, so that all readers start soon."""
SUMS = (
    "files_listed", "archives", "objects_seen", "instances", "rejects", "known",
    "rows", "superseded", "vanished", "bytes_listed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HarvestConfig(CommitSettings):
    """Settings of one harvest."""

    sources: tuple[str, ...] = field(kw_only=False, metadata={"positional": "SOURCE"})
    """folders, files or s3://bucket/prefix, in any combination"""
    lake: str = ""
    """the lake's folder or s3://bucket/prefix; made if it is not there (default: RADNET_LAKE)"""
    collection: str = ""
    """name of the collection that these files belong to (default: "default")"""
    collection_from: str = ""
    """regular expression on each file's URI; its first group is the collection"""
    phi: str = field(default="pseudonymise", metadata={"choices": ("pseudonymise", "keep")})
    """pseudonymise: keyed hashes, shifted dates, cleaned text; keep: store headers unchanged"""
    prune: bool = False
    """mark rows as removed whose file is no longer in SOURCE"""
    chunk_files: int = 5000
    """maximum of files per task; the default takes about a second on local disk"""

    def __post_init__(self) -> None:
        if not self.sources:
            raise SettingError(
                "no source is named", "SOURCE", "give a folder or s3://bucket/prefix"
            )
        check_choices(self)
        if self.collection and self.collection_from:
            remedy = "give one of the two"
            raise SettingError("can't be combined with --collection-from", "--collection", remedy)
        check_least(self, chunk_files=1)
        try:
            groups = re.compile(self.collection_from).groups
        except re.error as error:
            raise SettingError(f"not a regular expression: {error}", "--collection-from") from None
        if self.collection_from and not groups:
            remedy = "put the collection's name in parentheses"
            raise SettingError("has no group", "--collection-from", remedy)


def harvest(config: HarvestConfig, progress: Progress = show_nothing) -> HarvestReport:
    """Harvest all sources into the lake; returns the sums.

    Raises SettingError for a wrong setting, StoreError where a store stops answering (committed
    rows stay; the same command continues from there), LakeError for a folder that is no lake.
    """
    started = time.monotonic()
    uris = sorted({absolute_uri(s) for s in config.sources})
    # Without nested sources, because their files would be listed and stored twice.
    sources = tuple(s for s in uris if not any(s.startswith(f"{other}/") for other in uris))
    deidentifier = Deidentifier(load_key(), frozenset()) if config.phi != "keep" else None
    _check_separate(sources, absolute_uri(locate_lake(config.lake)))
    units = [unit for source in sources for unit in list_units(source, 1)]
    lake = create_lake(
        locate_lake(config.lake), config.phi, deidentifier.key_id if deidentifier else ""
    )
    start_ray()
    listers = _count_listers()
    if listers > 1:
        at_least = UNITS_PER_LISTER * listers
        units = [unit for source in sources for unit in list_units(source, at_least)]
    run = _HarvestRun(config, sources, lake, deidentifier)
    run.crawl(units, progress)
    again = 0
    words = run.allow_words()
    if words:
        # Read again, because their rows withhold words that are in the vocabulary now.
        second = _HarvestRun(replace(config, prune=False), sources, lake, deidentifier)
        second.crawl(units, show_nothing)
        again = second.record["objects_seen"] - second.record["known"]
    if config.prune:
        run.prune()
    run.finish()
    compact_small(lake)
    reasons = _count_reasons(lake.uri, run.record["run_id"]) if run.record["rejects"] else {}
    return HarvestReport(
        lake=lake.uri,
        run_id=run.record["run_id"],
        sums={name: run.record[name] for name in SUMS},
        reject_reasons=reasons,
        words_allowed=words,
        files_read_again=again,
        seconds=time.monotonic() - started,
    )


def _check_separate(sources: tuple[str, ...], lake: str) -> None:
    """Raise SettingError where the lake contains a source or lies in one."""
    for source in sources:
        inner, outer = f"{lake}/", f"{source}/"
        if inner.startswith(outer) or outer.startswith(inner):
            remedy = "choose a lake outside of the source"
            raise SettingError("source and lake overlap", lake, remedy)


class _HarvestRun:
    """One crawl of the sources: its record in the log, and its parts that are not committed yet."""

    def __init__(
        self,
        config: HarvestConfig,
        sources: tuple[str, ...],
        lake: Lake,
        deidentifier: Deidentifier | None,
    ) -> None:
        self.config, self.sources, self.lake = config, sources, lake
        self.deidentifier = deidentifier
        stamp = utc_now()
        encrypt = deidentifier.encrypt_uri if deidentifier else str
        self.record: dict[str, Any] = {
            "run_id": f"{stamp:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}",
            "status": "running",
            "started_at": stamp.isoformat(),
            "updated_at": stamp.isoformat(),
            "sources": [encrypt(s) for s in sources],
            "collection": config.collection or config.collection_from or None,
            "phi": config.phi,
            "version": __version__,
            **dict.fromkeys(SUMS, 0),
        }
        self.waiting: list[Part] = []

    def crawl(self, units: list[Unit], progress: Progress) -> None:
        """List and read all units, with a commit every `commit_seconds`."""
        expected = _files_last_time(self.lake, self.record["sources"])
        lake = self.lake
        snapshot = lake.refresh()
        file_index = FileIndex(
            lake.uri,
            tuple(snapshot.of("files")),
            tuple(snapshot.of("removals")),
            frozenset(snapshot.words),
        )
        config = self.config
        job = HarvestJob(
            lake.uri,
            self.record["run_id"],
            config.collection,
            config.collection_from,
            config.phi,
            config.prune,
            file_index,
        )
        self.commit()
        progress(0, expected, "files")
        committed = time.monotonic()
        try:
            for result in _map_chunks(units, job, config.chunk_files):
                self.waiting += result.parts
                for name, n in result.counts.items():
                    self.record[name] += n
                notes = {"rejects": self.record["rejects"], "known": self.record["known"]}
                progress(self.record["files_listed"], expected, "files", notes)
                if time.monotonic() - committed > self.config.commit_seconds:
                    self.commit()
                    committed = time.monotonic()
        except BaseException:
            # Committed whatever ends the run, so that only SIGKILL loses the last seconds.
            self.record["status"] = "broken off"
            with suppress(StoreError):
                self.commit()
            raise
        self.record["status"] = "finished"
        self.commit()

    def commit(self) -> None:
        """Commit the waiting parts with the sums that belong to them."""
        self.record["updated_at"] = utc_now().isoformat()
        listed = [p for p in self.waiting if p.table != "listed"]
        self.lake.commit(add=listed, run=dict(self.record))
        self.waiting = [p for p in self.waiting if p.table == "listed"]

    def allow_words(self) -> int:
        """Add shared words to the vocabulary of the lake; returns the number of new ones."""
        if self.deidentifier is None:
            return 0
        with connect(self.lake.uri) as connection:
            counts = connection.execute(
                "select word, count(distinct patient) from"
                " (select patient, unnest(withheld) as word from files) group by all"
            ).fetchall()
        words = set(self.deidentifier.promote_words(counts)) - self.lake.refresh().words
        if words:
            self.lake.commit(words=sorted(words))
        return len(words)

    def prune(self) -> None:
        """Mark rows as removed whose file is no longer in the sources."""
        decrypt = self.deidentifier.decrypt_uri if self.deidentifier else str
        if not self.record["files_listed"]:
            what, remedy = "no file was listed: is a disk not mounted?", "run without --prune"
            raise SettingError(what, ", ".join(self.config.sources), remedy)
        part = write_vanished(self.lake, self.record, self.sources, self.waiting, decrypt)
        if part:
            self.waiting.append(part)
            self.record["vanished"] = part.rows
        self.lake.folder.delete([p.name for p in self.waiting if p.table == "listed"])

    def finish(self) -> None:
        """The last commit of the run."""
        self.waiting = [p for p in self.waiting if p.table != "listed"]
        self.commit()


class _ListingSource(Datasource):  # type: ignore[misc]
    """Ray Data source: units -> chunks of listed files, one chunk per row, by a few tasks."""

    def __init__(self, units: list[Unit], chunk_files: int, tasks: int) -> None:
        super().__init__()
        # Neighbours stay together, so that a chunk's URIs lie in few parts of the file index.
        bounds = [len(units) * i // tasks for i in range(tasks + 1)]
        self._groups = [units[a:b] for a, b in pairwise(bounds) if a < b]
        self._chunk_files = chunk_files

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(partial(_list_chunks, group, self._chunk_files), unknown)
            for group in self._groups
        ]


def _list_chunks(units: list[Unit], chunk_files: int) -> Iterator[pa.Table]:
    chunk: list[Entry] = []
    size = min(FIRST_CHUNK, chunk_files)
    for unit in units:
        for entry in list_unit(unit):
            chunk.append(entry)
            if len(chunk) >= size:
                yield _encode_chunk(chunk)
                chunk, size = [], min(2 * size, chunk_files)
    if chunk:
        yield _encode_chunk(chunk)


def _encode_chunk(chunk: list[Entry]) -> pa.Table:
    columns = dict(zip(Entry._fields, zip(*chunk, strict=True), strict=True))
    arrays = [pa.array([columns[f.name]], pa.list_(f.type)) for f in LISTED]
    return pa.table(arrays, names=LISTED.names)


def _extract_batch(batch: pa.Table, job: HarvestJob) -> pa.Table:
    results: list[str | None] = []
    failures: list[str | None] = []
    for n in range(batch.num_rows):
        listed = pa.table({name: batch[name][n].values for name in Entry._fields}, LISTED)
        result = failure = None
        try:
            result = json.dumps(extract_chunk(job, listed))
        except Exception as error:
            failure = json.dumps(encode_error(error))
        results.append(result)
        failures.append(failure)
    return pa.table(
        {"result": pa.array(results, pa.string()), "error": pa.array(failures, pa.string())}
    )


def _count_listers() -> int:
    cpus = int(ray.cluster_resources().get("CPU", 1))
    return max(1, -(-cpus // CPUS_PER_LISTER))


def _map_chunks(units: list[Unit], job: HarvestJob, chunk_files: int) -> Iterator[ChunkResult]:
    """Results of chunks as they finish, in any order."""
    tasks = min(len(units), _count_listers())
    source = _ListingSource(units, chunk_files, tasks)
    cpus = (LIST_CPUS, READ_CPUS)
    for row in map_chunks(source, tasks, _extract_batch, {"job": job}, cpus):
        parts, counts = json.loads(row["result"])
        yield ChunkResult([decode_part(p) for p in parts], counts)


def _files_last_time(lake: Lake, sources: list[str]) -> int | None:
    runs = [
        r
        for r in lake.snapshot.runs.values()
        if r["sources"] == sources and r["status"] == "finished"
    ]
    return max(runs, key=lambda r: r["started_at"])["files_listed"] if runs else None


def _count_reasons(uri: str, run_id: str) -> dict[str, int]:
    with connect(uri) as connection:
        rows = connection.execute(
            "select reason, count(*) from rejects where run_id = ? group by all order by 2 desc, 1",
            [run_id],
        ).fetchall()
    return dict(rows)
