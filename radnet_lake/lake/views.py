"""Takes a lake's URI, gives a DuckDB connection with all views, or a DuckDB file."""

import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset

from radnet_lake import schema
from radnet_lake.errors import LakeError, SettingError
from radnet_lake.lake.log import Lake, Part, open_lake
from radnet_lake.lake.sql_files import create_macros, create_tables, rule_set, run_folder
from radnet_lake.storage.folder import write_whole


def connect(lake: str | None = None) -> duckdb.DuckDBPyConnection:
    """Lake -> DuckDB connection with its views: instances, rejects, series, runs, ...

    lake: local path or s3:// URI; default RADNET_LAKE. The connection shows the lake at this time;
    connect again to see later runs. Raises LakeError, StoreError.
    """
    opened = open_lake(lake)
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    load_views(connection, opened)
    return connection


def attach(lake: str | None, database: str) -> None:
    """Write a DuckDB file with the same views, for the plain duckdb command line.

    The file holds no data, only the names of the lake's files: write it again after a harvest.
    Raises SettingError for a lake that is not on disk, or where `database` cannot be written.
    """
    opened = open_lake(lake)
    if opened.folder.is_s3:
        remedy = "use radnet-lake query, or radnet_lake.connect(lake) in Python"
        raise SettingError("a DuckDB file cannot hold views of an s3:// lake", opened.uri, remedy)
    path = Path(database)
    if not path.parent.is_dir():
        raise SettingError(
            "the folder does not exist", database, "name a file in an existing folder"
        )
    with write_whole(path) as new, duckdb.connect(str(new)) as connection:
        load_views(connection, opened)


def load_views(connection: duckdb.DuckDBPyConnection, opened: Lake) -> None:
    """Create the raw tables `stored.*`, the views of headers and, in a labelled lake, of labels."""
    connection.execute("create schema if not exists stored")
    for table in (*schema.TABLES, *schema.DERIVED_TABLES):
        if table in schema.TABLES or opened.snapshot.of(table):
            load_table(connection, opened, table)
        elif table == "series":
            # Empty, because views of predictions join it in a lake that is not labelled.
            connection.execute("create table stored.series (SeriesInstanceUID varchar)")
    runs = pa.Table.from_pylist(
        [_typed_run(r) for r in opened.snapshot.runs.values()], schema.RUN_SCHEMA
    )
    connection.register("run_records", runs)
    connection.execute("create table stored.runs as select * from run_records")
    connection.unregister("run_records")
    run_folder(connection, "1_header")
    meanings = dict(schema.MEANINGS)
    if opened.snapshot.of("series"):
        create_tables(connection)
        create_macros(connection)
        try:
            run_folder(connection, "9_main")
            meanings["series"] = _series_meanings(connection)
        except LakeError:
            # Labels stored by other rules may lack a column; the views of headers stay usable.
            if opened.snapshot.labels.get("rule_set") == rule_set():
                raise
            _drop_main_views(connection)
    for view, columns in meanings.items():
        for name, meaning in columns.items():
            connection.execute(f'comment on column {view}."{name}" is {_quote(meaning)}')


def load_table(connection: duckdb.DuckDBPyConnection, opened: Lake, table: str) -> None:
    """Make `stored.<table>` of all its parts; where the lake has none, an empty table."""
    parts = opened.snapshot.of(table)
    if parts:
        load_parts(connection, opened, table, parts)
    else:
        create_empty(connection, table)


def create_empty(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Make the table `stored.<table>` with the columns of schema.TABLES and no row."""
    connection.register("empty_table", schema.TABLES[table].empty_table())
    connection.execute(f"create table stored.{table} as from empty_table")
    connection.unregister("empty_table")


def load_parts(
    connection: duckdb.DuckDBPyConnection, opened: Lake, table: str, parts: list[Part]
) -> None:
    """Create the view `stored.<table>` of these parts of one table."""
    if opened.folder.is_s3:
        connection.register(f"{table}_parts", opened.dataset(parts))
        connection.execute(f"create view stored.{table} as select * from {table}_parts")
    else:
        files = ", ".join(_quote(f"{opened.uri}/{p.name}") for p in parts)
        read = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
        connection.execute(f"create view stored.{table} as select * from {read}")
        if missing := _list_missing(connection, table):
            connection.execute(
                f"create or replace view stored.{table} as select *, {missing} from {read}"
            )


def _list_missing(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """Columns of a table that no part has, for they are newer than all of them: NULLs, as SQL."""
    found = connection.execute(
        "select column_name from duckdb_columns() where schema_name = 'stored' and table_name = ?",
        [table],
    ).fetchall()
    present = {name for (name,) in found}
    fields = [field for field in schema.TABLES.get(table, ()) if field.name not in present]
    if not fields:
        return ""
    connection.register("missing_columns", pa.schema(fields).empty_table())
    types = connection.execute("describe from missing_columns").fetchall()
    connection.unregister("missing_columns")
    return ", ".join(f'null::{kind} as "{name}"' for name, kind, *_ in types)


def _drop_main_views(connection: duckdb.DuckDBPyConnection) -> None:
    for view in reversed(sorted((schema.SQL_DIR / "9_main").glob("*.sql"))):
        connection.execute(f"drop view if exists {view.stem.lstrip('0123456789_')}")


def _series_meanings(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Comments of columns that are header attributes; sql/9_main has those of the others."""
    names = [row[0] for row in connection.execute("describe stored.series").fetchall()]
    known = schema.MEANINGS["instances"]
    return {name: f"{known[name]}; NULL where it varies" for name in names if name in known}


def _typed_run(run: dict[str, Any]) -> dict[str, Any]:
    typed = {name: run.get(name) for name in schema.RUN_SCHEMA.names}
    for name in ("started_at", "updated_at"):
        typed[name] = datetime.datetime.fromisoformat(run[name]) if run.get(name) else None
    return typed


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
