"""Plan of the roll-up: takes a lake, gives the series to roll up, divided among tasks.

A series changed if the lake holds another number of its rows, or younger ones, than the stored
roll-up. The division is a map-reduce: a task reads consecutive parts (files). A series whose rows
lie in the parts of several tasks is shuffled by hash into buckets and aggregated there. Every row
is read once, whatever the order of the lake.
"""

import hashlib
import re
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from radnet_lake import schema
from radnet_lake.lake.log import Lake, Part
from radnet_lake.lake.sql_files import create_constants, list_keywords, read_query
from radnet_lake.lake.views import load_parts

ROWS_PER_TASK = 2_500_000
"""Of instances: about 1 GB and five seconds of work, of which half a second plans the queries."""
ROWS_WORTH_A_TASK = 400_000
"""From this many on, rows are divided among the workers even if one task could do them."""
SMALL_PART_SERIES = 2_000
"""Stored parts of fewer series are merged when one is written anyway."""
_FOLDERS = ("2_frame", "2_rollup")
_MACROS = ("0_macro/geometry.sql", "0_macro/series.sql")


@dataclass(frozen=True)
class RollupTask:
    """One task: parts to read, series to roll up, series whose rows are shuffled.

    wanted: SeriesInstanceUID. shuffled: SeriesInstanceUID, bucket. has_unnamed: some rows name no
    series, so that their folder must be read.
    """

    parts: list[Part]
    wanted: pa.Table
    shuffled: pa.Table
    has_unnamed: bool


def no_series() -> tuple[pa.Table, pa.Table]:
    """Empty tables, as RollupTask.wanted and RollupTask.shuffled."""
    columns = pa.schema([("SeriesInstanceUID", pa.string()), ("bucket", pa.int64())])
    return columns.empty_table().select(["SeriesInstanceUID"]), columns.empty_table()


@dataclass
class Plan:
    """The work of a refresh: tasks, and which stored parts stay, are rewritten or dropped.

    stale: SeriesInstanceUID of stored rows that go. frames, series: how many are rolled up.
    vanished: series that the lake no longer holds.
    """

    tasks: list[RollupTask] = field(default_factory=list)
    n_buckets: int = 1
    has_shuffled: bool = False
    frames: int = 0
    series: int = 0
    vanished: int = 0
    stale: pa.Table = field(default_factory=lambda: no_series()[0])
    keep: list[Part] = field(default_factory=list)
    rewrite: list[Part] = field(default_factory=list)
    drop: list[Part] = field(default_factory=list)


def make_version() -> str:
    """A digest of the roll-up's SQL, thresholds and attributes; rows of another are made anew.

    It is the folder of the parts under rollup/.
    """
    paths = [schema.SQL_DIR / name for name in (*_MACROS, "1_header/instances.sql")]
    paths += sorted(p for folder in _FOLDERS for p in (schema.SQL_DIR / folder).glob("*.sql"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    named = set(re.findall(r"\b([a-z_]+)\(\)", "\n".join(texts)))
    lines = (schema.SQL_DIR / "thresholds.csv").read_text(encoding="utf-8").splitlines()
    used = [fields[:2] for fields in (line.split(",") for line in lines) if fields[0] in named]
    return hashlib.sha256(repr((texts, used, list_keywords())).encode()).hexdigest()[:12]


def create_own_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """The macros that the roll-up uses, and make_version covers; no lexicons."""
    create_constants(connection)
    for name in _MACROS:
        connection.execute((schema.SQL_DIR / name).read_text(encoding="utf-8"))


def make_plan(lake: Lake, version: str, workers: int = 1) -> Plan:
    """Compare the lake with its roll-up; divide the work among so many workers.

    Reads three columns of `instances`, and uri where files were removed.
    """
    stored, parts = lake.snapshot.of("rollup"), lake.snapshot.of("instances")
    current = [p for p in stored if p.name.startswith(f"rollup/{version}/")]
    plan = Plan(drop=[p for p in stored if p not in current])
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'; set preserve_insertion_order = false")
        create_own_macros(connection)
        load_instances(connection, lake, parts, lake.snapshot.of("removals"), for_plan=True)
        _load_rolled(connection, lake, current)
        connection.execute(read_query("rollup_held"))
        if connection.execute("from held where is_blank(SeriesInstanceUID)").fetchone():
            connection.execute(read_query("rollup_held_unnamed"))
        connection.execute(read_query("rollup_changed"))
        _plan_tasks(connection, plan, parts, workers)
        _plan_stored(connection, plan, current)
    return plan


def _load_rolled(connection: duckdb.DuckDBPyConnection, lake: Lake, parts: list[Part]) -> None:
    """Make the table `rolled`: frames and age of stored series; part: its number in `parts`."""
    connection.execute(
        "create table rolled (SeriesInstanceUID text, n_frames bigint, last_harvested_at timestamp,"
        " part bigint)"
    )
    columns = ["SeriesInstanceUID", "n_frames", "last_harvested_at"]
    for number, part in enumerate(parts):
        rows = lake.dataset([part]).to_table(columns=columns)
        connection.register("rows", rows)
        connection.execute("insert into rolled select *, ? from rows", [number])
        connection.unregister("rows")


def _plan_tasks(
    connection: duckdb.DuckDBPyConnection, plan: Plan, parts: list[Part], workers: int
) -> None:
    """Divide the parts that hold changed series, and these series, among tasks."""
    connection.execute(
        "create table load as select part, sum(h.n) as n from held as h"
        " semi join changed using (SeriesInstanceUID) group by all"
    )
    loads = connection.execute("select part, n from load order by part").fetchall()
    total, done = sum(n for _, n in loads), 0
    n_tasks = max(-(-total // ROWS_PER_TASK), min(workers, total // ROWS_WORTH_A_TASK))
    if n_tasks > 1:
        n_tasks = -(-n_tasks // workers) * workers  # so that all workers end at about the same time
    task_of: dict[int, int] = {}
    for part, n in loads:
        task_of[part] = int((done + n / 2) * n_tasks / total)
        done += n
    division = pa.table({"part": list(task_of), "task": list(task_of.values())})
    connection.register("division", division)
    connection.execute(read_query("rollup_divided"))
    shuffled, plan.series, plan.frames = connection.execute(
        "select coalesce(sum(n) filter (where first_task <> last_task), 0)::bigint, count(*),"
        " coalesce(sum(n), 0)::bigint from divided"
    ).fetchall()[0]
    plan.has_shuffled = shuffled > 0
    plan.n_buckets = max(1, -(-shuffled // ROWS_PER_TASK))
    for number in sorted(set(task_of.values())):
        wanted = connection.sql(
            "select SeriesInstanceUID from divided where first_task = ? and last_task = ?",
            params=[number, number],
        ).to_arrow_table()
        in_several = connection.sql(
            "select SeriesInstanceUID, (hash(SeriesInstanceUID) % ?)::bigint as bucket"
            " from divided where first_task < last_task and ? between first_task and last_task",
            params=[plan.n_buckets, number],
        ).to_arrow_table()
        names = pa.concat_tables([wanted, in_several.select(["SeriesInstanceUID"])])
        unnamed = pc.starts_with(names["SeriesInstanceUID"], "no-uid/")
        chosen = [parts[part] for part, task in task_of.items() if task == number]
        plan.tasks.append(RollupTask(chosen, wanted, in_several, bool(pc.any(unnamed).as_py())))


def _plan_stored(connection: duckdb.DuckDBPyConnection, plan: Plan, current: list[Part]) -> None:
    """Which stored parts stay, and which are written anew without their stale rows."""
    plan.stale = connection.sql("from stale").to_arrow_table()
    plan.vanished = connection.execute(
        "select count(*) from stale anti join held using (SeriesInstanceUID)"
    ).fetchall()[0][0]
    touched = connection.execute(
        "select distinct part from rolled semi join stale using (SeriesInstanceUID)"
    ).fetchall()
    numbers = {number for (number,) in touched}
    if plan.series or numbers:
        small = (n for n, part in enumerate(current) if part.rows < SMALL_PART_SERIES)
        numbers.update(small)
    plan.rewrite = [part for n, part in enumerate(current) if n in numbers]
    plan.keep = [part for n, part in enumerate(current) if n not in numbers]


def load_instances(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    parts: list[Part],
    removals: list[Part],
    has_unnamed: bool = False,
    for_plan: bool = False,
) -> None:
    """Make the view `instances` over these parts, as sql/1_header has it; part: its number here.

    has_unnamed: rows that name no series get the name of their folder's. for_plan: few columns are
    read, so that finding those without values would cost more than it saves.
    """
    connection.execute("create schema if not exists stored")
    columns, empty = schema.TABLES["instances"], set[str]()
    if not parts:
        connection.register("instance_parts", columns.empty_table())
        source = "(select *, 0 as part from instance_parts)"
    elif lake.folder.is_s3:
        connection.register("instance_parts", _number_parts(lake, parts))
        source = "instance_parts"
    else:
        files = [f"{lake.uri}/{p.name}" for p in parts]
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        # By name, because older files lack the columns of newer attributes.
        options = f"hive_partitioning = false, union_by_name = {not for_plan}"
        source = f"(select *, file_index as part from read_parquet([{listed}], {options}))"
        empty = set() if for_plan else _find_empty_columns(files)
    chosen = "*" if for_plan else _choose_columns(connection, empty, has_unnamed)
    connection.execute(f"create view stored.instances as select {chosen} from {source}")
    if removals:
        load_parts(connection, lake, "removals", removals)
        path = schema.SQL_DIR / "1_header" / "instances.sql"
        connection.execute(path.read_text(encoding="utf-8"))
    else:
        connection.execute("create view instances as from stored.instances")


def _choose_columns(
    connection: duckdb.DuckDBPyConnection, empty: set[str], has_unnamed: bool
) -> str:
    """The columns of `instances` and part, as SQL: always in one order; NULL for the empty ones."""
    connection.register("columns", schema.TABLES["instances"].empty_table())
    chosen = {
        name: f"null::{kind}" if name in empty else f'"{name}"'
        for name, kind, *_ in connection.execute("describe from columns").fetchall()
    }
    if has_unnamed:
        chosen["SeriesInstanceUID"] = (
            "if(is_blank(SeriesInstanceUID), if(object_kind <> 'dicomdir',"
            " folder_key(uri, Modality), null), SeriesInstanceUID)"
        )
    return ", ".join([*(f'{value} as "{name}"' for name, value in chosen.items()), "part"])


def _number_parts(lake: Lake, parts: list[Part]) -> ds.Dataset:
    """A dataset with one more column, part: the place in `parts`."""
    filesystem, base = lake.folder.filesystem()
    kind, number = ds.ParquetFileFormat(), ds.field("part")
    fragments = [
        kind.make_fragment(f"{base}/{p.name}", filesystem, partition_expression=number == n)
        for n, p in enumerate(parts)
    ]
    columns = schema.TABLES["instances"].append(pa.field("part", pa.int64()))
    return ds.FileSystemDataset(fragments, columns, kind, filesystem)


def _find_empty_columns(files: list[str]) -> set[str]:
    """Columns without any value in these files, by their footers.

    Half of the columns belong to another modality, and reading a column of nulls takes time.
    """
    empty: set[str] = set(schema.TABLES["instances"].names) if files else set()
    for file in files:
        footer = pq.read_metadata(file)
        paths = [footer.schema.column(n).path.partition(".")[0] for n in range(footer.num_columns)]
        for n in range(footer.num_row_groups):
            group = footer.row_group(n)
            empty -= {
                name
                for leaf, name in enumerate(paths)
                if name in empty and _has_value(group.column(leaf))
            }
    return empty


def _has_value(chunk: pq.ColumnChunkMetaData) -> bool:
    found = chunk.statistics
    return found is None or not found.has_null_count or found.null_count < chunk.num_values
