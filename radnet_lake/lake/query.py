"""Takes SQL and a lake, writes rows as a table, CSV, JSON or Parquet; also the SQL prompt."""

import csv
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from radnet_lake.errors import RadnetLakeError, SettingError
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.settings import LakeSettings, PrintSettings, SeriesSettings
from radnet_lake.lake.sql import (
    _plain,
    _rows,
    _sql_error,
    refuse_unknown_series,
    run_sql,
    write_table,
)
from radnet_lake.lake.views import attach, connect
from radnet_lake.privacy.deidentifier import Deidentifier, load_key


@dataclass(frozen=True, kw_only=True)
class QueryConfig(PrintSettings):
    """Settings of one query."""

    sql: str = field(metadata={"positional": "SQL"})
    """a DuckDB query over instances, series, funnel, training_set, rejects, runs, ..."""
    format: str = field(default="table", metadata={"choices": ("table", "csv", "json", "parquet")})
    output: str = field(default="", metadata={"short": "-o"})
    """file to write (default: standard output)"""

    def __post_init__(self) -> None:
        if self.format == "parquet" and not self.output and sys.stdout.isatty():
            raise SettingError("Parquet is not for a terminal", "--format", "name a file with -o")


@dataclass(frozen=True)
class ShellConfig(LakeSettings):
    """Settings of the SQL prompt."""


@dataclass(frozen=True)
class AttachConfig:
    """Settings of a DuckDB file with the lake's views."""

    lake: str = field(metadata={"positional": "LAKE"})
    """the lake's folder"""
    database: str = field(metadata={"positional": "FILE"})
    """the DuckDB file to write"""


@dataclass(frozen=True)
class LocateConfig(SeriesSettings):
    """Settings of a search for files."""


def write_database(config: AttachConfig) -> str:
    """Write the DuckDB file; returns a line with the next command. Raises as attach does."""
    attach(config.lake, config.database)
    query = "from instances limit 5"
    return f'{config.database} is written; try: duckdb {config.database} "{query}"'


def query(config: QueryConfig) -> None:
    """Run one query and write its rows. Raises SettingError for wrong SQL, and LakeError."""
    with connect(config.lake) as connection:
        reader = run_sql(connection, config.sql)
        if reader is None:
            return
        try:
            if config.format == "parquet":
                sink = config.output or sys.stdout.buffer
                with pq.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
                    for batch in reader:
                        writer.write_batch(batch)
            elif config.output:
                with Path(config.output).open("w", newline="", encoding="utf-8") as file:
                    _write_rows(reader, config.format, file)
            else:
                _write_rows(reader, config.format, sys.stdout)
        except duckdb.Error as error:
            raise _sql_error(error) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            remedy = "name another file"
            raise SettingError(error.strerror or "cannot write", config.output, remedy) from None


def _write_rows(reader: pa.RecordBatchReader, kind: str, file: TextIO) -> None:
    if kind == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(reader.schema.names)
        for row in _rows(reader):
            writer.writerow([_plain(v) for v in row.values()])
    elif kind == "json":
        for row in _rows(reader):
            file.write(json.dumps(row, default=str, ensure_ascii=False) + "\n")
    else:
        write_table(reader, file)


def run_shell(config: ShellConfig) -> None:
    """Read SQL statements, each ended by ;, and print their rows, until \\q or end of input."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  # gives input() its history and editing
    with connect(config.lake) as connection:
        if sys.stdin.isatty():
            print("`show tables` lists the views, `describe series` its columns; end with ;")
        statement = ""
        while True:
            try:
                line = (
                    input("   ...> " if statement else "lake> ") if sys.stdin.isatty() else input()
                )
            except EOFError:
                line = "\\q"
            if not statement and line.strip() in ("\\q", "exit", "quit"):
                return
            ended = line.strip() == "\\q"
            statement += "" if ended else line + "\n"
            if statement.strip() and (ended or statement.rstrip().endswith(";")):
                try:
                    reader = run_sql(connection, statement)
                    if reader is not None:
                        write_table(reader, sys.stdout)
                except (RadnetLakeError, duckdb.Error) as error:
                    print(f"error: {error}", file=sys.stderr)
                statement = ""
            if ended:
                return


def locate(config: LocateConfig) -> list[str]:
    """Series -> URIs of its files, archive members as archive!/member.

    Raises SettingError where URIs are encrypted and the key is missing or another one.
    """
    lake = open_lake(config.lake)
    with connect(lake.uri) as connection:
        rows = connection.execute(
            "select distinct uri from instances where SeriesInstanceUID = ? order by uri",
            [config.series],
        ).fetchall()
    if not rows:
        refuse_unknown_series(config.series)
    uris = [uri for (uri,) in rows]
    if lake.format.get("phi") == "keep":
        return uris
    deidentifier = Deidentifier(load_key(), frozenset())
    return sorted(deidentifier.decrypt_uri(uri) for uri in uris)
