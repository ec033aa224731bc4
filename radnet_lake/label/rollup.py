"""The roll-up: takes instance rows, gives one row per series, stored in the lake as `rollup`.

Labels read these rows, one per series, and never the instances. Only series that changed since the
last time are rolled up, as Ray tasks where there are many rows; one commit puts the new rows in
the place of the old.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from radnet_lake.errors import LakeError, MissingFileError
from radnet_lake.label.rollup_plan import (
    Plan,
    RollupTask,
    create_own_macros,
    load_instances,
    make_plan,
    make_version,
    no_series,
)
from radnet_lake.lake.log import CommitConflict, Lake, Part, open_lake
from radnet_lake.lake.sql_files import run_folder
from radnet_lake.lake.views import load_parts
from radnet_lake.ray_cluster import fetch, start_ray

KEY = "SeriesInstanceUID"
SEEN = "_lake/rollup.json"
"""A digest of the last refresh's input and output; while they are the same, nothing is to do."""
RAY_ROWS = 200_000
"""Fewer rows are rolled up in this process: starting Ray takes five seconds."""
TASK_MEMORY = "2GB"
"""Memory of DuckDB in a task; more than this is spilled to disk."""
MAX_SERIES = 50_000
"""Series of a part that is written anew."""


@dataclass(frozen=True)
class RollupReport:
    """Counts of a refresh. series: in the roll-up now; rolled: of these, anew, from `frames` rows;
    removed: series that the lake no longer holds; parts_read: files of `instances`."""

    series: int
    rolled: int
    removed: int
    frames: int
    parts_read: int


@dataclass(frozen=True)
class Job:
    """What all tasks of a refresh share: the lake, the version of the SQL, removed rows."""

    lake: str
    version: str
    n_buckets: int
    removals: tuple[Part, ...]


def refresh_rollup(lake: Lake, cpus: int | None = None, threads: int = 0) -> RollupReport:
    """Bring the stored roll-up up to date with `instances`.

    cpus: of a local Ray; default all. threads: work in as many threads of this process instead. A
    run that is killed leaves the roll-up as it was. Raises LakeError where another run changed the
    roll-up meanwhile, or where sql/ is wrong; StoreError.
    """
    version = make_version()
    lake.refresh()
    inputs = [version, *(p.name for t in ("instances", "removals") for p in lake.snapshot.of(t))]
    stored = lake.snapshot.of("rollup")
    if stored and _is_seen(lake, _digest(inputs, stored)):
        return RollupReport(sum(p.rows for p in stored), 0, 0, 0, 0)
    plan = make_plan(lake, version, threads or cpus or os.cpu_count() or 1)
    added = _roll_all(lake, version, plan, cpus, threads)
    added += _rewrite(lake, version, plan)
    if not added and not plan.keep:
        # A lake without series has an empty roll-up, with its columns.
        added = [_roll_task(Job(lake.uri, version, 1, ()), RollupTask([], *no_series(), False))[0]]
    removed = plan.rewrite + plan.drop
    if added or removed:
        _commit(lake, added, removed, plan.keep)
    now = sorted(plan.keep + added, key=lambda p: p.name)
    lake.folder.write(SEEN, json.dumps({"seen": _digest(inputs, now)}).encode())
    read = sum(len(b.parts) for b in plan.tasks)
    return RollupReport(sum(p.rows for p in now), plan.series, plan.vanished, plan.frames, read)


def _digest(inputs: list[str], stored: list[Part]) -> str:
    names = [*inputs, *(p.name for p in stored)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _is_seen(lake: Lake, digest: str) -> bool:
    """Whether the last refresh ended at just these files."""
    try:
        return bool(json.loads(lake.folder.read(SEEN))["seen"] == digest)
    except (MissingFileError, ValueError, KeyError, TypeError):
        return False  # without the digest, the refresh compares the tables


def _commit(lake: Lake, added: list[Part], removed: list[Part], kept: list[Part]) -> None:
    try:
        lake.commit(
            add=added,
            remove=[p.name for p in removed],
            replace="rollup",
            keep=[p.name for p in kept],
        )
    except CommitConflict:
        lake.folder.delete([p.name for p in added])
        what = "another run changed the roll-up meanwhile"
        remedy = "let the other run end, then run the same command again"
        raise LakeError(what, lake.uri, remedy) from None


def _roll_all(lake: Lake, version: str, plan: Plan, cpus: int | None, threads: int) -> list[Part]:
    """Roll up the series of the plan; the parts are written, no commit names them yet."""
    job = Job(lake.uri, version, plan.n_buckets, tuple(lake.snapshot.of("removals")))
    if not threads and plan.frames >= RAY_ROWS:
        return _roll_on_ray(job, plan.tasks, plan.has_shuffled, cpus)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        results = list(pool.map(lambda b: _roll_task(job, b, threads), plan.tasks))
        parts = [r[0] for r in results]
        if plan.has_shuffled:
            buckets = list(zip(*(r[1:] for r in results), strict=True))
            parts += pool.map(lambda rows: _roll_bucket(job, *rows), buckets)
    return [Part(*part) for part in parts if part]


def _roll_on_ray(
    job: Job, tasks: list[RollupTask], has_shuffled: bool, cpus: int | None
) -> list[Part]:
    start_ray(cpus)
    roll_task = ray.remote(num_cpus=1, num_returns=1 + job.n_buckets)(_roll_task)
    roll_bucket = ray.remote(num_cpus=1)(_roll_bucket)
    results = [roll_task.remote(job, task) for task in tasks]
    running = [r[0] for r in results]
    if has_shuffled:
        buckets = zip(*(r[1:] for r in results), strict=True)
        running += [roll_bucket.remote(job, *rows) for rows in buckets]
    return [Part(*part) for part in fetch(running) if part]


def _roll_task(job: Job, task: RollupTask, threads: int = 1) -> tuple[Any, ...]:
    """The part of the series that lie in this task alone, or None; then shuffled rows by bucket.

    threads: 0 for all of this machine's, else one.
    """
    lake = open_lake(job.lake)
    with open_task(threads) as connection:
        load_instances(connection, lake, task.parts, list(job.removals), task.has_unnamed)
        buckets = _shuffle(connection, task.shuffled, job.n_buckets)
        part = None
        if task.wanted.num_rows or not task.parts:
            rows = roll_up(connection, task.wanted)
            part = lake.write_part("rollup", rows, f"{job.version}/rolled")
    return part, *buckets


def _roll_bucket(job: Job, *shuffled: bytes) -> Part | None:
    """The part of the series of one bucket, whose rows several tasks shuffled; None without any."""
    tables = [pq.read_table(io.BytesIO(data)) for data in shuffled if data]
    if not tables:
        return None
    rows = pa.concat_tables(tables)
    with open_task(1) as connection:
        connection.register("bucket_rows", rows)
        connection.execute("create view instances as from bucket_rows")
        rolled = roll_up(connection, rows.select([KEY]))
    return open_lake(job.lake).write_part("rollup", rolled, f"{job.version}/rolled")


@contextmanager
def open_task(threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of bounded memory that spills to disk, with the macros."""
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'; set preserve_insertion_order = false")
        connection.execute("set parquet_metadata_cache = true")
        connection.execute("set temp_directory = ?", [spill])
        connection.execute(f"set memory_limit = '{TASK_MEMORY}'")
        if threads:
            connection.execute("set threads = 1")
        create_own_macros(connection)
        yield connection


def _shuffle(
    connection: duckdb.DuckDBPyConnection, shuffled: pa.Table, n_buckets: int
) -> list[bytes]:
    """Of each bucket the rows that this task read, as Parquet; b"" without any."""
    if not shuffled.num_rows:
        return [b""] * n_buckets
    connection.register("shuffled", shuffled)
    connection.execute(
        f"create temp table to_shuffle as select i.*, s.bucket from instances as i"
        f" join shuffled as s on i.{KEY} = s.{KEY}"
    )
    packed = []
    for bucket in range(n_buckets):
        rows = connection.sql(
            "select * exclude (bucket) from to_shuffle where bucket = ?", params=[bucket]
        ).to_arrow_table()
        sink = io.BytesIO()
        if rows.num_rows:
            pq.write_table(rows, sink, compression="zstd")
        packed.append(sink.getvalue())
    connection.execute("drop table to_shuffle")
    return packed


def roll_up(connection: duckdb.DuckDBPyConnection, wanted: pa.Table) -> pa.Table:
    """Run sql/2_frame and sql/2_rollup over the wanted series of the view `instances`.

    wanted: a column SeriesInstanceUID. Raises LakeError that names the file.
    """
    connection.register("wanted", wanted)
    connection.execute("create schema frame")
    connection.execute(f"create table frame.wanted as select distinct {KEY} from wanted")
    run_folder(connection, "2_frame")
    run_folder(connection, "2_rollup", materialise=True)
    return connection.sql(f"from rollup.series order by {KEY}").to_arrow_table()


def _rewrite(lake: Lake, version: str, plan: Plan) -> list[Part]:
    """Stored rows that still hold, out of the parts in which others do not."""
    batches: list[list[Part]] = []
    for part in plan.rewrite:
        if not batches or sum(p.rows for p in batches[-1]) + part.rows > MAX_SERIES:
            batches.append([])
        batches[-1].append(part)
    written = [_rewrite_batch(lake, version, batch, plan.stale) for batch in batches]
    lake.folder.delete([part.name for part in written if not part.rows])
    return [part for part in written if part.rows]


def _rewrite_batch(lake: Lake, version: str, parts: list[Part], stale: pa.Table) -> Part:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'; create schema stored")
        load_parts(connection, lake, "rollup", parts)
        connection.register("stale", stale)
        rows = connection.sql(
            f"from stored.rollup anti join stale using ({KEY}) order by {KEY}"
        ).to_arrow_table()
    return lake.write_part("rollup", rows, f"{version}/kept")
