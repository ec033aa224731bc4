"""Takes a lake, merges its small files, drops superseded rows and deletes unreferenced files.

Each merge is one task and one commit: several parts are replaced by one, sorted by series. A merge
is discarded where another writer changed these parts meanwhile. Shards of volumes are never merged;
a shard is deleted when no current row of `volumes` refers to it, predictions and features when
their series is gone.
"""

import datetime
import re
from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import ray

from radnet_lake import schema
from radnet_lake.lake.log import CommitConflict, Lake, Part, open_lake, utc_now
from radnet_lake.lake.settings import LakeSettings
from radnet_lake.lake.views import connect
from radnet_lake.ray_cluster import start_ray
from radnet_lake.settings import check_least

FULL_BYTES, FULL_ROWS = 64 << 20, 400_000
"""Target of a merged file: large enough to read fast; decoded it fits into 2 GB of a worker."""
_PART_NAME = re.compile(r"[-/]([0-9a-f]{14})-[0-9a-f]{8}\.(?:parquet|arrow)$")
MANY_PARTS = 100
"""A harvest merges small files at its end if there are more than this."""
_PART_ROWS = {"volumes": FULL_ROWS, "predictions": FULL_ROWS // 4, "features": 16_384}
"""Rows of 0.2, 1 and 4 kB, so parts have similar sizes."""
_SORTED_BY = {
    "instances": ["SeriesInstanceUID", "StudyInstanceUID", "InstanceNumber", "uri", "frame_number"],
    "series_headers": ["SeriesInstanceUID", "uri"],
    "rejects": ["reason", "uri"],
}


@dataclass(frozen=True, kw_only=True)
class CompactConfig(LakeSettings):
    """Settings of one compaction."""

    grace_hours: float = 24.0
    """unreferenced files are deleted after this time, because readers may still use them"""

    def __post_init__(self) -> None:
        check_least(self, grace_hours=0)


@dataclass(frozen=True)
class CompactReport:
    """Counts of one compaction."""

    lake: str
    files_before: int
    files_after: int
    rows_dropped: int
    files_deleted: int

    def __str__(self) -> str:
        return (
            f"{self.files_before} files became {self.files_after};"
            f" {self.rows_dropped} rows dropped, {self.files_deleted} files deleted"
        )


def compact(config: CompactConfig) -> CompactReport:
    """Merge small files of each partition, drop removed rows, delete old unreferenced files.

    Raises LakeError where there is no lake, StoreError where it cannot be written.
    """
    lake = open_lake(config.lake)
    before = len(lake.snapshot.parts)
    dropped = _merge_all(lake, with_removals=True)
    for table in schema.SERIES_TABLES:
        dropped += _drop_replaced(lake, table)
    deleted = _delete_unreferenced(lake, config.grace_hours)
    return CompactReport(lake.uri, before, len(lake.refresh().parts), dropped, deleted)


def compact_small(lake: Lake) -> None:
    """Merge the small files of a lake if there are more than MANY_PARTS; a harvest ends with it."""
    parts = lake.refresh().parts.values()
    small = [p for p in parts if p.table != "tensors" and not _is_full(p)]
    if len(small) > MANY_PARTS:
        _merge_all(lake, with_removals=False)


def _merge_all(lake: Lake, with_removals: bool) -> int:
    removals = lake.snapshot.of("removals")
    merges = [
        names
        for table in schema.TABLES
        if table != "removals"
        for names in _plan_merges(
            lake.snapshot.of(table),
            bool(removals and with_removals) and table not in schema.SERIES_TABLES,
        )
    ]
    if not merges:
        return 0
    start_ray()
    merge = ray.remote(num_cpus=1)(_merge_parts)
    gone = removals if with_removals else []
    tasks = {merge.remote(lake.uri, b, gone): b for b in merges}
    dropped, complete = 0, True
    while tasks:
        (done,), _ = ray.wait(list(tasks), num_returns=1)
        parts, n_dropped = ray.get(done)
        old = tasks.pop(done)
        try:
            lake.commit(add=parts, remove=[p.name for p in old])
            dropped += n_dropped
        except CommitConflict:
            lake.folder.delete([p.name for p in parts])
            complete = False
    if with_removals and removals and complete:
        # Every row that these removals refer to is dropped now.
        lake.commit(remove=[p.name for p in removals])
    return dropped


def _drop_replaced(lake: Lake, table: str) -> int:
    """Drop rows that were replaced or whose series is gone; returns their number.

    table: of schema.SERIES_TABLES; for `volumes` also the shards that only such rows refer to.
    """
    # Parts are listed before rows are read, so that shards of a later commit are not deleted.
    old = lake.refresh().of(table)
    shards = lake.snapshot.of("tensors") if table == "volumes" else []
    if not old or not lake.snapshot.of("series"):
        return 0
    with connect(lake.uri) as connection:
        connection.execute(
            "create temp view current_rows as"
            f" from {table} semi join stored.series using (SeriesInstanceUID)"
        )
        (count,) = connection.sql("select count(*) from current_rows").fetchall()[0]
        referenced = connection.sql("select shard from current_rows").fetchall() if shards else []
        used = {name for (name,) in referenced}
        unused = [p.name for p in shards if p.name not in used]
        dropped = sum(p.rows for p in old) - count
        if dropped <= 0 and not unused:
            return 0
        batches = connection.sql("from current_rows").to_arrow_reader(_PART_ROWS[table])
        tables = (pa.Table.from_batches([batch]) for batch in batches)
        parts = [lake.write_part(table, rows, "compacted") for rows in tables]
    try:
        lake.commit(add=parts, remove=[*(p.name for p in old), *unused])
    except CommitConflict:
        lake.folder.delete([p.name for p in parts])
        return 0
    return int(dropped)


def _is_full(part: Part) -> bool:
    return part.size_bytes >= FULL_BYTES // 2 or part.rows >= FULL_ROWS // 2


def _plan_merges(parts: list[Part], include_full: bool) -> list[list[Part]]:
    """Parts -> groups to merge, each within one partition.

    include_full: also large and single parts, so that rows are dropped from them.
    """
    folders: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        if include_full or not _is_full(part):
            folders[part.name.rpartition("/")[0]].append(part)
    merges: list[list[Part]] = []
    for members in folders.values():
        current: list[Part] = []
        for part in members:
            size, rows = sum(p.size_bytes for p in current), sum(p.rows for p in current)
            if current and (size + part.size_bytes > FULL_BYTES or rows + part.rows > FULL_ROWS):
                merges.append(current)
                current = []
            current.append(part)
        merges.append(current)
    return [b for b in merges if include_full or len(b) > 1]


def _merge_parts(uri: str, parts: list[Part], removals: list[Part]) -> tuple[list[Part], int]:
    """Parts -> one new part of their current rows, or none; and the number of dropped rows."""
    lake = open_lake(uri)
    table = parts[0].table
    rows = lake.dataset(parts).to_table()
    before = rows.num_rows
    if removals and table not in schema.SERIES_TABLES:
        gone = lake.dataset(removals).to_table()
        if table == "series_headers":
            # A series keeps its header when the file that it was read from has vanished.
            gone = gone.filter(pc.equal(gone["reason"], "changed"))
        rows = _drop_removed(rows, gone)
    dropped = before - rows.num_rows
    if not rows.num_rows:
        return [], dropped
    if table in _SORTED_BY:
        rows = rows.sort_by([(name, "ascending") for name in _SORTED_BY[table]])
    folder = parts[0].name.rpartition("/")[0].partition("/")[2]
    name = f"{folder}/compacted" if folder else "compacted"
    bounds = tuple(pair for part in parts for pair in part.bounds)
    return [lake.write_part(table, rows, name, bounds)], dropped


def _drop_removed(rows: pa.Table, removals: pa.Table) -> pa.Table:
    """Rows without those that a removal identifies by file and harvested_at."""
    keys = pa.table(
        {
            "uri": pc.coalesce(rows["archive_uri"], rows["uri"]),
            "stamp": rows["harvested_at"],
            "position": pa.array(range(rows.num_rows)),
        }
    )
    gone = pa.table({"uri": removals["uri"], "stamp": removals["removed_harvested_at"]})
    kept = keys.join(gone, ["uri", "stamp"], join_type="left anti")["position"]
    return rows.take(kept.take(pc.sort_indices(kept)))


def _delete_unreferenced(lake: Lake, grace_hours: float) -> int:
    """Delete parts that no commit refers to, after the grace time; returns their number."""
    lake.folder.sweep(grace_hours * 3600)
    grace = datetime.timedelta(hours=grace_hours)
    # At least an hour, because a running harvest commits its parts some seconds after writing.
    orphan_grace = max(grace, datetime.timedelta(hours=1))
    referenced, removed, now = lake.refresh().parts, lake.find_removed(), utc_now()
    unreferenced = []
    for name in lake.folder.names(""):
        made = _PART_NAME.search(name)
        if name in removed and name not in referenced and removed[name] <= now - grace:
            unreferenced.append(name)
        elif made and name not in referenced and name not in removed:
            stamp = datetime.datetime(1970, 1, 1) + datetime.timedelta(
                microseconds=int(made[1], 16)
            )
            if stamp < now - orphan_grace:
                unreferenced.append(name)
    lake.folder.delete(unreferenced)
    return len(unreferenced)
