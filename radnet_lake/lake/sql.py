"""Takes a connection and a query, gives Arrow batches, or a table as text."""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

import duckdb
import pyarrow as pa

from radnet_lake.errors import SettingError

LABEL_VIEWS = "series|funnel|label_counts|training_set|rule_use|protocols|audit|filled_labels"
MAX_TABLE_ROWS = 1000
"""Rows of a table on a terminal; other formats give all."""


def run_sql(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.RecordBatchReader | None:
    """SQL -> rows in batches; None for a statement without a result. Raises SettingError."""
    try:
        relation = connection.sql(sql)
        return relation.to_arrow_reader() if relation is not None else None
    except duckdb.Error as error:
        raise _sql_error(error) from None


def choose_rows(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    where: str,
    described: str,
    columns: str = "*",
    setting: str = "--where",
) -> None:
    """Create the temp table `wanted`: the rows of a relation that meet a user's condition.

    where: SQL, or '' for all rows. described: the view whose columns the error refers to. Raises
    SettingError that names the setting.
    """
    condition = f"(\n{where or 'true'}\n)"
    try:
        run_sql(
            connection,
            f"create temp table wanted as select {columns} from {relation} where {condition}",
        )
    except SettingError as error:
        remedy = f"`describe {described}` lists the columns"
        raise SettingError(error.what, setting, remedy) from None


def refuse_unknown_series(series: str, view: str = "instances") -> NoReturn:
    """Raise SettingError: a view of the lake has no row of this series."""
    remedy = f"list them with: radnet-lake query 'select distinct SeriesInstanceUID from {view}'"
    raise SettingError("no such series in the lake", series, remedy)


def _sql_error(error: duckdb.Error) -> SettingError:
    remedy = "`describe instances` lists the columns"
    if re.search(rf"Table with name ({LABEL_VIEWS}) does not exist", str(error)):
        remedy = "it is made by: radnet-lake label"
    return SettingError(str(error).strip(), "SQL", remedy)


def describe_label(value: Any) -> str:
    """A label's value for people: NULL, booleans and lists in words."""
    if isinstance(value, list):
        return ", ".join(value) or "none of the nine"
    return {None: "cannot be told", True: "yes", False: "no"}.get(value, str(value))


def clean_line(text: str, length: int | None = None) -> str:
    """One printable line, cut after `length` characters: header text is untrusted."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if length is None or len(text) <= length else text[: length - 1] + "…"


def _rows(reader: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    for batch in reader:
        yield from batch.to_pylist()


def _plain(value: Any) -> Any:
    """Value -> the value, lists and structs as JSON, so that programs can read them from CSV."""
    if isinstance(value, list | dict):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value


def write_table(reader: pa.RecordBatchReader, file: TextIO) -> None:
    """Rows -> aligned columns; values longer than a UID are cut, control characters become '?'."""
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
