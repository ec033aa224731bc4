"""Questions to a lake: SQL to a table, CSV, JSON or Parquet; a prompt; a series' files."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from radnet_lake.deidentify import Deidentifier, load_key
from radnet_lake.errors import RadnetLakeError, SettingError
from radnet_lake.lake import connect, locate_lake, open_lake

LABEL_VIEWS = "series|funnel|label_counts|training_set|rule_use|protocols|audit|filled_labels"
MAX_TABLE_ROWS = 1000
"""Rows that a table on a terminal shows; other formats give all."""


@dataclass(frozen=True)
class QueryConfig:
    """Settings of one question."""

    sql: str = field(metadata={"positional": "SQL"})
    """a DuckDB query over instances, series, funnel, training_set, rejects, runs, ..."""
    lake: str = ""
    """the lake's folder or s3://bucket/prefix (default: RADNET_LAKE)"""
    format: str = field(default="table", metadata={"choices": ("table", "csv", "json", "parquet")})
    """table for people, the others for programs"""
    output: str = field(default="", metadata={"short": "-o"})
    """file to write (default: standard output)"""

    def __post_init__(self) -> None:
        if self.format == "parquet" and not self.output and sys.stdout.isatty():
            raise SettingError("Parquet is not for a terminal", "--format", "name a file with -o")


@dataclass(frozen=True)
class ShellConfig:
    """Settings of the prompt."""

    lake: str = ""
    """the lake's folder or s3://bucket/prefix (default: RADNET_LAKE)"""


@dataclass(frozen=True)
class AttachConfig:
    """Settings of a DuckDB file with the lake's views."""

    lake: str = field(metadata={"positional": "LAKE"})
    """the lake's folder"""
    database: str = field(metadata={"positional": "FILE"})
    """the DuckDB file to write"""


@dataclass(frozen=True)
class LocateConfig:
    """Settings of a search for files."""

    series: str = field(metadata={"positional": "SERIES_UID"})
    """SeriesInstanceUID as the lake has it"""
    lake: str = ""
    """the lake's folder or s3://bucket/prefix (default: RADNET_LAKE)"""


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


def run_sql(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.RecordBatchReader | None:
    """The rows of a query, in batches; None where the statement gives none."""
    try:
        relation = connection.sql(sql)
        return relation.to_arrow_reader() if relation is not None else None
    except duckdb.Error as error:
        raise _sql_error(error) from None


def _sql_error(error: duckdb.Error) -> SettingError:
    remedy = "`describe instances` lists the columns"
    if re.search(rf"Table with name ({LABEL_VIEWS}) does not exist", str(error)):
        remedy = "it is made by: radnet-lake label"
    return SettingError(str(error).strip(), "SQL", remedy)


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


def _rows(reader: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    for batch in reader:
        yield from batch.to_pylist()


def _plain(value: Any) -> Any:
    """Lists and structs as JSON, so that a program can read them back out of CSV."""
    if isinstance(value, list | dict):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value


def write_table(reader: pa.RecordBatchReader, file: TextIO) -> None:
    """Aligned columns; values longer than a UID are cut, control characters shown as '?'."""
    names = reader.schema.names
    lines: list[list[str]] = []
    more = False
    for row in _rows(reader):
        if len(lines) == MAX_TABLE_ROWS:
            more = True
            break
        lines.append([_cell(v) for v in row.values()])
    widths = [max([len(n), *(len(line[i]) for line in lines)]) for i, n in enumerate(names)]
    right = [pa.types.is_integer(t) or pa.types.is_floating(t) for t in reader.schema.types]
    for cells in [names, ["-" * w for w in widths], *lines]:
        aligned = zip(cells, widths, right, strict=True)
        row_text = "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in aligned)
        file.write(row_text.rstrip() + "\n")
    if more:
        file.write(f"... more than {MAX_TABLE_ROWS} rows; --format csv gives all\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(_plain(value))
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 64 else text[:63] + "…"


def run_shell(config: ShellConfig) -> None:
    """A prompt: SQL ended by a semicolon; an error does not end it; \\q or end of input does."""
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
    """URIs of the files that hold a series, archive members as archive!/member.

    Raises SettingError where URIs are sealed and the key is missing or another one.
    """
    lake = open_lake(locate_lake(config.lake))
    with connect(lake.uri) as connection:
        rows = connection.execute(
            "select distinct uri from instances where SeriesInstanceUID = ? order by uri",
            [config.series],
        ).fetchall()
    if not rows:
        remedy = (
            "list them with: radnet-lake query 'select distinct SeriesInstanceUID from instances'"
        )
        raise SettingError("no such series in the lake", config.series, remedy)
    uris = [uri for (uri,) in rows]
    if lake.format.get("phi") == "keep":
        return uris
    deidentifier = Deidentifier(load_key(), frozenset())
    return sorted(deidentifier.open_uri(uri) for uri in uris)
