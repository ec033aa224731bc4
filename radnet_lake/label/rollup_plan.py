"""Which series the stored roll-up lacks or has wrong, and which task rolls which of them.

A series changed if the lake holds another number of its rows, or younger ones, than the roll-up
says. Parts lie in order in bins, one task each. A series of several bins is scattered: each bin
hands on the rows that it has, and a second task, one per bucket, puts them together. So no row is
read more than once, however the lake is ordered.
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
from radnet_lake.lake.sql_files import create_constants, list_keywords
from radnet_lake.lake.views import load_parts

ROWS_PER_TASK = 2_500_000
"""Of instances: about 1 GB and five seconds of work, of which half a second plans the queries."""
ROWS_WORTH_A_TASK = 400_000
"""So many are divided among the workers even if one task could do them."""
SMALL_PART_SERIES = 2_000
"""Stored parts of fewer series are merged when one is written anyway."""
_FOLDERS = ("2_frame", "2_rollup")
_MACROS = ("0_macro/geometry.sql", "0_macro/series.sql")

_HELD = """
create table held as
select SeriesInstanceUID, part, count(*) as n, max(harvested_at) as newest
from instances group by all
"""

# Rows that name no series are those of a folder; only for them uri and Modality are read.
_UNNAMED = """
delete from held where is_blank(SeriesInstanceUID);
insert into held
select folder_key(uri, Modality) as named, part, count(*), max(harvested_at)
from instances
where is_blank(SeriesInstanceUID) and object_kind <> 'dicomdir'
group by all
"""

_COMPARE = """
create table changed as
select h.SeriesInstanceUID, h.n, h.first_part, h.last_part
from (
    select
        SeriesInstanceUID, sum(n) as n, max(newest) as newest,
        min(part) as first_part, max(part) as last_part
    from held group by all
) as h
left join (
    select SeriesInstanceUID, n_frames as n, last_harvested_at as newest, count(*) as n_rows
    from rolled group by all
) as r using (SeriesInstanceUID)
where r.n is distinct from h.n or r.newest is distinct from h.newest or r.n_rows > 1;

create table stale as
select distinct SeriesInstanceUID from rolled semi join changed using (SeriesInstanceUID)
union all
select distinct SeriesInstanceUID from rolled anti join held using (SeriesInstanceUID);
"""


@dataclass(frozen=True)
class Bin:
    """One task: parts to read, series to roll up, series whose rows are handed on.

    wanted: SeriesInstanceUID. scattered: SeriesInstanceUID, bucket. has_unnamed: some rows name no
    series, so that their folder must be read.
    """

    parts: list[Part]
    wanted: pa.Table
    scattered: pa.Table
    has_unnamed: bool


def no_series() -> tuple[pa.Table, pa.Table]:
    """Empty tables, as Bin.wanted and Bin.scattered."""
    columns = pa.schema([("SeriesInstanceUID", pa.string()), ("bucket", pa.int64())])
    return columns.empty_table().select(["SeriesInstanceUID"]), columns.empty_table()


@dataclass
class Plan:
    """What is to be done with the series, and with the stored parts.

    stale: SeriesInstanceUID of stored rows that go. frames, series: how many are rolled up.
    vanished: series that the lake no longer holds.
    """

    bins: list[Bin] = field(default_factory=list)
    n_buckets: int = 1
    has_scattered: bool = False
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
        connection.execute(_HELD)
        if connection.execute("from held where is_blank(SeriesInstanceUID)").fetchone():
            connection.execute(_UNNAMED)
        connection.execute(_COMPARE)
        _plan_bins(connection, plan, parts, workers)
        _plan_stored(connection, plan, current)
    return plan


def _load_rolled(connection: duckdb.DuckDBPyConnection, lake: Lake, parts: list[Part]) -> None:
    """Table `rolled`: what the stored roll-up says of each series; part: its number in `parts`."""
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


def _plan_bins(
    connection: duckdb.DuckDBPyConnection, plan: Plan, parts: list[Part], workers: int
) -> None:
    """Divide the parts that hold changed series into bins, and these series among the bins."""
    connection.execute(
        "create table load as select part, sum(h.n) as n from held as h"
        " semi join changed using (SeriesInstanceUID) group by all"
    )
    loads = connection.execute("select part, n from load order by part").fetchall()
    total, done = sum(n for _, n in loads), 0
    tasks = max(-(-total // ROWS_PER_TASK), min(workers, total // ROWS_WORTH_A_TASK))
    if tasks > 1:
        tasks = -(-tasks // workers) * workers  # so that all workers end at about the same time
    bins: dict[int, int] = {}
    for part, n in loads:
        bins[part] = int((done + n / 2) * tasks / total)
        done += n
    connection.register("bins", pa.table({"part": list(bins), "bin": list(bins.values())}))
    connection.execute(
        "create table divided as"
        " select c.SeriesInstanceUID, c.n, a.bin as first_bin, b.bin as last_bin"
        " from changed as c join bins as a on c.first_part = a.part"
        " join bins as b on c.last_part = b.part"
    )
    scattered, plan.series, plan.frames = connection.execute(
        "select coalesce(sum(n) filter (where first_bin <> last_bin), 0)::bigint, count(*),"
        " coalesce(sum(n), 0)::bigint from divided"
    ).fetchall()[0]
    plan.has_scattered = scattered > 0
    plan.n_buckets = max(1, -(-scattered // ROWS_PER_TASK))
    for number in sorted(set(bins.values())):
        wanted = connection.sql(
            "select SeriesInstanceUID from divided where first_bin = ? and last_bin = ?",
            params=[number, number],
        ).to_arrow_table()
        handed_on = connection.sql(
            "select SeriesInstanceUID, (hash(SeriesInstanceUID) % ?)::bigint as bucket"
            " from divided where first_bin < last_bin and ? between first_bin and last_bin",
            params=[plan.n_buckets, number],
        ).to_arrow_table()
        names = pa.concat_tables([wanted, handed_on.select(["SeriesInstanceUID"])])
        unnamed = pc.starts_with(names["SeriesInstanceUID"], "no-uid/")
        chosen = [parts[part] for part, place in bins.items() if place == number]
        plan.bins.append(Bin(chosen, wanted, handed_on, bool(pc.any(unnamed).as_py())))


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

    has_unnamed: rows that name no series get the name of their folder's. for_plan: few columns will
    be read, so that it does not pay to look which have no values.
    """
    connection.execute("create schema if not exists stored")
    columns = schema.TABLES["instances"]
    replaced: dict[str, str] = {}
    if not parts:
        connection.register("instance_parts", columns.empty_table())
        source = "(select *, 0 as part from instance_parts)"
    elif lake.folder.is_s3:
        connection.register("instance_parts", _number_parts(lake, parts))
        source = "instance_parts"
    else:
        files = [f"{lake.uri}/{p.name}" for p in parts]
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        read = f"read_parquet([{listed}], hive_partitioning = false)"
        source = f"(select *, file_index as part from {read})"
        void = set() if for_plan else _find_void(files)
        connection.register("columns", columns.empty_table())
        for name, kind, *_ in connection.execute("describe from columns").fetchall():
            if name in void:
                replaced[name] = f"null::{kind}"
    if has_unnamed:
        replaced["SeriesInstanceUID"] = (
            "if(is_blank(SeriesInstanceUID), if(object_kind <> 'dicomdir',"
            " folder_key(uri, Modality), null), SeriesInstanceUID)"
        )
    chosen = ", ".join(f'{value} as "{name}"' for name, value in replaced.items())
    connection.execute(
        f"create view stored.instances as select * {f'replace ({chosen})' if chosen else ''}"
        f" from {source}"
    )
    if removals:
        load_parts(connection, lake, "removals", removals)
        path = schema.SQL_DIR / "1_header" / "instances.sql"
        connection.execute(path.read_text(encoding="utf-8"))
    else:
        connection.execute("create view instances as from stored.instances")


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


def _find_void(files: list[str]) -> set[str]:
    """Columns without any value in these files, as their footers say.

    Half of the columns belong to another modality, and it takes time to read nothing from them.
    """
    void: set[str] = set(schema.TABLES["instances"].names) if files else set()
    for file in files:
        footer = pq.read_metadata(file)
        paths = [footer.schema.column(n).path.partition(".")[0] for n in range(footer.num_columns)]
        for n in range(footer.num_row_groups):
            group = footer.row_group(n)
            void -= {
                name
                for leaf, name in enumerate(paths)
                if name in void and _has_value(group.column(leaf))
            }
    return void


def _has_value(chunk: pq.ColumnChunkMetaData) -> bool:
    found = chunk.statistics
    return found is None or not found.has_null_count or found.null_count < chunk.num_values
