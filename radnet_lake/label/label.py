"""Labels: the rules of sql/ applied to the roll-up, and stored as `series`, one row per series.

Excluded series are rows too, with their reasons. Studies stay whole in a chunk, for some rules look
at a series' siblings; a chunk bounds the memory.
"""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from radnet_lake import schema
from radnet_lake.errors import LakeError
from radnet_lake.label.rollup import RollupReport, refresh_rollup
from radnet_lake.label.site import find_unmatched, load_site, read_overrides, read_protocols
from radnet_lake.lake import sql_files
from radnet_lake.lake.freshness import MODES, list_overrides
from radnet_lake.lake.log import CommitConflict, Lake, Part, open_lake, utc_now
from radnet_lake.lake.settings import LakeSettings
from radnet_lake.lake.views import connect, load_parts, load_table

LAYERS = ("3_text", "4_evidence", "5_hit", "6_decision", "7_exclusion", "8_labelled")
CHUNK_SERIES = 125_000
"""A chunk of so many takes some 3 GB."""
MANY_SERIES = 20_000
"""More are divided among the cores: texts that two chunks share are normalised twice."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(LakeSettings):
    """Settings of one labelling."""

    mode: str = field(default="default", metadata={"choices": MODES})
    """paper: the paper's reading to the letter; strict: nothing contradicted or weak is kept"""


@dataclass(frozen=True)
class LabelReport:
    """What a labelling did. kept: series that nothing excludes; undescribed: CT and MR series
    without a description, of `images`; unmatched: file and line of overrides of no series."""

    lake: str
    mode: str
    rule_set: str
    rollup: RollupReport
    series: int
    images: int
    kept: int
    undescribed: int
    unmatched: list[str]
    seconds: float


def label(config: LabelConfig) -> LabelReport:
    """Bring the roll-up up to date, label every series, store `series`.

    Raises LakeError where there is no lake, where sql/ is wrong, or where another run labels at the
    same time; SettingError for a bad row of overrides/ or protocols/. What was stored before stays
    until the one commit at the end.
    """
    start = utc_now()
    lake = open_lake(config.lake)
    overrides, protocols = read_overrides(lake), read_protocols(lake)
    rolled = refresh_rollup(lake)
    old = lake.snapshot.of("series")
    rules = sql_files.rule_set()
    workers = os.cpu_count() or 1
    chunks = max(-(-rolled.series // CHUNK_SERIES), workers if rolled.series > MANY_SERIES else 1)

    def label_one(chunk: int) -> Part:
        # A query over one chunk keeps one core busy, not two: chunks side by side keep all.
        with label_chunk(lake, config.mode, overrides, protocols, (chunk, chunks)) as connection:
            rows = connection.sql("from labelled.series").to_arrow_table()
            connection.register("labelled_rows", rows)
            connection.execute("create or replace view labelled.series as from labelled_rows")
            check(connection)
        return lake.write_part("series", rows, f"chunk{chunk:04d}")

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(label_one, range(chunks)))
    record = {
        "mode": config.mode,
        "rule_set": rules,
        "at": start.isoformat(),
        "said": list_overrides(lake),
    }
    try:
        lake.commit(add=parts, remove=[p.name for p in old], labels=record, replace="series")
    except CommitConflict:
        lake.folder.delete([p.name for p in parts])
        remedy = "let the other run end, then label again"
        raise LakeError("another run labelled this lake meanwhile", lake.uri, remedy) from None
    with connect(lake.uri) as connection:
        series, images, kept, undescribed = connection.execute(
            "select count(*), count(*) filter (not list_contains(exclusions, 'not_image')),"
            " count(*) filter (excluded_by is null), count(*) filter (x_nodesc) from series"
        ).fetchall()[0]
        unmatched = find_unmatched(connection, overrides)
    seconds = (utc_now() - start).total_seconds()
    return LabelReport(
        lake.uri, config.mode, rules, rolled, series, images, kept, undescribed, unmatched, seconds
    )


@contextmanager
def label_chunk(
    lake: Lake,
    mode: str,
    overrides: pa.Table,
    protocols: pa.Table,
    chunk: tuple[int, int] = (0, 1),
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with every layer of sql/, up to the view labelled.series.

    chunk: number and count; a study lies in one chunk.
    """
    parts = lake.snapshot.of("rollup")
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("set temp_directory = ?", [spill])
        connection.execute(f"set threads = {max(1, (os.cpu_count() or 1) // chunk[1])}")
        connection.execute("create schema stored; create schema stage")
        load_parts(connection, lake, "rollup", parts)
        number, count = chunk
        connection.execute(
            "create table stage.series as select * from stored.rollup"
            " where ? = 1 or hash(StudyInstanceUID) % ? = ?",
            [count, count, number],
        )
        load_table(connection, lake, "volumes")
        run_layers(connection, mode, overrides, protocols)
        yield connection


def run_layers(
    connection: duckdb.DuckDBPyConnection, mode: str, overrides: pa.Table, protocols: pa.Table
) -> None:
    """Run the layers of sql/ over stage.series and stored.volumes.

    They become tables; the last one, which is read once, a view.
    """
    sql_files.create_tables(connection)
    sql_files.create_macros(connection)
    connection.execute(
        "create table rule.run as select ? as mode, ? as rule_set, now()::timestamp as labelled_at",
        [mode, sql_files.rule_set()],
    )
    load_site(connection, overrides, protocols)
    for folder in LAYERS:
        sql_files.run_folder(connection, folder, materialise=folder != LAYERS[-1])


def check(connection: duckdb.DuckDBPyConnection) -> None:
    """Run the queries of sql/check, each of which must find nothing. Raises LakeError."""
    for path in sorted((schema.SQL_DIR / "check").glob("*.sql")):
        offenders = connection.execute(path.read_text(encoding="utf-8")).fetchall()
        if offenders:
            where = str(path.relative_to(schema.SQL_DIR.parent))
            what = f"{len(offenders)} series break a check, the first: {offenders[0][0]}"
            raise LakeError(what, where, "correct the rules; nothing was stored")
