"""Merge the small files that runs leave, drop rows that no longer count, delete unnamed files.

Each merge is one task and one commit: old files out, one new file in, rows sorted by series. A
merge that another writer overtook is thrown away. Shards of volumes are never merged: one goes when
no row of `volumes` that counts names it any more. Predictions and features go with their series.
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
"""A merged file: large enough to read well; its rows, decoded, fit into 2 GB of a worker."""
_MADE = re.compile(r"[-/]([0-9a-f]{14})-[0-9a-f]{8}\.(?:parquet|arrow)$")
MANY_PARTS = 100
"""A harvest that leaves more small files than this merges them before it ends."""
_PART_ROWS = {"volumes": FULL_ROWS, "predictions": FULL_ROWS // 4, "features": 16_384}
"""Of 0.2, 1 and 4 kB a row."""
_SORTED_BY = {
    "instances": ["SeriesInstanceUID", "StudyInstanceUID", "InstanceNumber", "uri", "frame_number"],
    "series_headers": ["SeriesInstanceUID", "uri"],
    "rejects": ["reason", "uri"],
}


@dataclass(frozen=True, kw_only=True)
class CompactConfig(LakeSettings):
    """Settings of one compaction."""

    grace_hours: float = 24.0
    """files that are no longer named are deleted after this time, for readers may still use them"""

    def __post_init__(self) -> None:
        check_least(self, grace_hours=0)


@dataclass(frozen=True)
class CompactReport:
    """What a compaction did."""

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
    """Merge small files of each partition, drop removed rows, delete what is past its grace.

    Raises LakeError where there is no lake, StoreError where it cannot be written.
    """
    lake = open_lake(config.lake)
    before = len(lake.snapshot.parts)
    dropped = _merge_all(lake, with_removals=True)
    for table in schema.SERIES_TABLES:
        dropped += _drop_replaced(lake, table)
    deleted = _delete_unnamed(lake, config.grace_hours)
    return CompactReport(lake.uri, before, len(lake.refresh().parts), dropped, deleted)


def compact_small(lake: Lake) -> None:
    """What a harvest does at its end: nothing, or merge if it left many small files."""
    parts = lake.refresh().parts.values()
    small = [p for p in parts if p.table != "tensors" and not _is_full(p)]
    if len(small) > MANY_PARTS:
        _merge_all(lake, with_removals=False)


def _merge_all(lake: Lake, with_removals: bool) -> int:
    removals = lake.snapshot.of("removals")
    bins = [
        names
        for table in schema.TABLES
        if table != "removals"
        for names in _plan_bins(
            lake.snapshot.of(table),
            bool(removals and with_removals) and table not in schema.SERIES_TABLES,
        )
    ]
    if not bins:
        return 0
    start_ray()
    merge = ray.remote(num_cpus=1)(_merge_bin)
    gone = removals if with_removals else []
    tasks = {merge.remote(lake.uri, b, gone): b for b in bins}
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
        # Every row that these removals name is gone from the files now.
        lake.commit(remove=[p.name for p in removals])
    return dropped


def _drop_replaced(lake: Lake, table: str) -> int:
    """Drop rows that a later one replaced or whose series is gone; returns how many.

    table: of schema.SERIES_TABLES. Of volumes also the shards that only such rows name.
    """
    # First the parts, then the rows: a shard of a run that commits in between is not looked at.
    old = lake.refresh().of(table)
    shards = lake.snapshot.of("tensors") if table == "volumes" else []
    if not old or not lake.snapshot.of("series"):
        return 0
    with connect(lake.uri) as connection:
        connection.execute(
            "create temp view alive as"
            f" from {table} semi join stored.series using (SeriesInstanceUID)"
        )
        (count,) = connection.sql("select count(*) from alive").fetchall()[0]
        named = connection.sql("select shard from alive").fetchall() if shards else []
        alive = {name for (name,) in named}
        dead = [p.name for p in shards if p.name not in alive]
        dropped = sum(p.rows for p in old) - count
        if dropped <= 0 and not dead:
            return 0
        batches = connection.sql("from alive").to_arrow_reader(_PART_ROWS[table])
        tables = (pa.Table.from_batches([batch]) for batch in batches)
        parts = [lake.write_part(table, rows, "compacted") for rows in tables]
    try:
        lake.commit(add=parts, remove=[*(p.name for p in old), *dead])
    except CommitConflict:
        lake.folder.delete([p.name for p in parts])
        return 0
    return int(dropped)


def _is_full(part: Part) -> bool:
    return part.size_bytes >= FULL_BYTES // 2 or part.rows >= FULL_ROWS // 2


def _plan_bins(parts: list[Part], every: bool) -> list[list[Part]]:
    """Parts to merge into one, per partition; `every`: also such as stand alone, to drop rows."""
    folders: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        if every or not _is_full(part):
            folders[part.name.rpartition("/")[0]].append(part)
    bins: list[list[Part]] = []
    for members in folders.values():
        current: list[Part] = []
        for part in members:
            size, rows = sum(p.size_bytes for p in current), sum(p.rows for p in current)
            if current and (size + part.size_bytes > FULL_BYTES or rows + part.rows > FULL_ROWS):
                bins.append(current)
                current = []
            current.append(part)
        bins.append(current)
    return [b for b in bins if every or len(b) > 1]


def _merge_bin(uri: str, parts: list[Part], removals: list[Part]) -> tuple[list[Part], int]:
    """Rows of these parts that still count -> one new part, or none; and how many were dropped."""
    lake = open_lake(uri)
    table = parts[0].table
    rows = lake.dataset(parts).to_table()
    before = rows.num_rows
    if removals and table not in schema.SERIES_TABLES:
        gone = lake.dataset(removals).to_table()
        if table == "series_headers":
            # The header of a series outlives the one file that it was read from.
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
    """Without the rows that a removal names by file and harvested_at."""
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


def _delete_unnamed(lake: Lake, grace_hours: float) -> int:
    """Delete parts that no commit names any more, or never did, once they are past their grace."""
    lake.folder.sweep(grace_hours * 3600)
    grace = datetime.timedelta(hours=grace_hours)
    # A running harvest names its parts within seconds; what it has written is not an orphan yet.
    orphan_grace = max(grace, datetime.timedelta(hours=1))
    named, removed, now = lake.refresh().parts, lake.find_removed(), utc_now()
    unnamed = []
    for name in lake.folder.names(""):
        made = _MADE.search(name)
        if name in removed and name not in named and removed[name] <= now - grace:
            unnamed.append(name)
        elif made and name not in named and name not in removed:
            stamp = datetime.datetime(1970, 1, 1) + datetime.timedelta(
                microseconds=int(made[1], 16)
            )
            if stamp < now - orphan_grace:
                unnamed.append(name)
    lake.folder.delete(unnamed)
    return len(unnamed)
