"""The CSV files in which people say what series are: read, and every cell checked.

Spreadsheets write them as well as programs: with a byte order mark or without, lines ended by LF or
CRLF, commas, semicolons or tabs between, columns in any order. A file with one bad row is refused
as a whole, with all its bad lines. Messages never repeat a cell that could name staff or patients.
"""

import csv
import datetime
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import duckdb
import pyarrow as pa

from radnet_lake import schema
from radnet_lake.errors import SettingError

VALUES = {label: tuple(values) for label, values in schema.LABELS.items()}
LABELS = tuple(VALUES)
RULES, UNKNOWN, NONE = "rules", "unknown", "none"
"""In place of a value: back to the rules; cannot be told; none of the nine (coverage)."""
MATCH_ON = ("ProtocolName", "SeriesDescription", "StudyDescription", "ProcedureCode", "StationName")
MAX_FAULTS = 10
"""That one message tells of, and lines that it names for each."""
_OURS = {RULES, UNKNOWN, NONE, *LABELS, *(v.lower() for values in VALUES.values() for v in values)}
"""Cells that a message may repeat, for they are no one's words but ours."""

Row = dict[str, Any]
Cells = dict[str, str]
Faults = list[str]


class Kind(NamedTuple):
    """A kind of file: the lake's folder for it, and what its rows are.

    key: the columns that name what a row speaks of; of equal keys the latest `when` counts. values:
    the columns that hold what it sets. schema: the columns of the file, then the file and the line
    that a row is from.
    """

    folder: str
    key: tuple[str, ...]
    values: tuple[str, ...]
    check: Callable[[Cells, Faults], Row]
    schema: pa.Schema

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names[:-2])


def read_rows(data: bytes, kind: Kind, where: str) -> list[Row]:
    """The rows of one file. Raises SettingError that names `where` and every bad line."""
    rows: list[Row] = []
    faults: list[tuple[int, str]] = []
    for line, cells in _split_cells(data, kind, where, faults):
        wrong: Faults = []
        rows.append({**kind.check(cells, wrong), "file": where, "line": line})
        faults += [(line, text) for text in wrong]
    if kind is PROTOCOLS:
        faults += _try_patterns(rows)
    if faults:
        refuse(where, faults)
    return rows


def check_row(cells: Cells, kind: Kind, where: str) -> Row:
    """One row that is from no file, checked in the same way."""
    faults: Faults = []
    row = kind.check({name: text.strip() for name, text in cells.items()}, faults)
    if faults:
        raise SettingError("; ".join(faults), where, "correct it; nothing was added")
    return {**row, "file": where, "line": 1}


def write_rows(kind: Kind, rows: list[Row]) -> bytes:
    """A file that read_rows reads as these rows."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(kind.columns)
    for row in rows:
        writer.writerow([_write_cell(row[name], name) for name in kind.columns])
    return text.getvalue().encode()


def _write_cell(value: Any, column: str) -> str:
    if value == "" and column in ("value", "coverage"):
        return NONE
    if isinstance(value, datetime.date):  # of which datetime is a kind
        return value.isoformat()
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def refuse(where: str, faults: list[tuple[int, str]]) -> NoReturn:
    """Raise SettingError for these lines; equal faults are listed once."""
    lines_of: dict[str, list[int]] = defaultdict(list)
    for line, text in faults:
        lines_of[text].append(line)
    texts = []
    for text, lines in list(lines_of.items())[:MAX_FAULTS]:
        numbers = ", ".join(map(str, lines[:MAX_FAULTS])) + (", ..." if lines[MAX_FAULTS:] else "")
        texts.append(f"line{'s' if lines[1:] else ''} {numbers}: {text}")
    texts += ["..."] if len(lines_of) > MAX_FAULTS else []
    raise SettingError("; ".join(texts), where, "correct it; until then the file is not used")


def refuse_ties(kind: Kind, rows: list[Row]) -> None:
    """Raise SettingError where the latest rows about one thing are of one time and differ."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[key_of(kind, row)].append(row)
    for group in groups.values():
        latest = max(row["when"] for row in group)
        last = {tuple(r[c] for c in kind.values): r for r in group if r["when"] == latest}
        if len(last) > 1:
            places = " and ".join(f"{r['file']}, line {r['line']}" for r in last.values())
            what = f"of one `when` and about the same ({', '.join(kind.key)}), yet they differ"
            raise SettingError(what, places, "take one out, or add a later row that decides")


def key_of(kind: Kind, row: Row) -> tuple[Any, ...]:
    """What the row speaks of."""
    return tuple(row[column] for column in kind.key)


def _split_cells(
    data: bytes, kind: Kind, where: str, faults: list[tuple[int, str]]
) -> Iterator[tuple[int, Cells]]:
    """First line, and trimmed cells by column, of each row that is not blank."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        remedy = "save it as CSV with the encoding UTF-8"
        raise SettingError(f"line {line}: not UTF-8", where, remedy) from None
    delimiter = _find_delimiter(text, kind)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    ended = 0
    try:
        for values in lines:
            line, ended = ended + 1, lines.line_num
            cells = [value.strip(" \t\r\n\0") for value in values]
            if not any(cells):
                continue
            if not header:
                header = cells
                _check_header(header, kind, where, line)
            elif len(cells) != len(header):
                faults.append((line, f"has {len(cells)} cells, the header {len(header)}"))
            else:
                yield line, dict(zip(header, cells, strict=True))
    except csv.Error:
        what = "not CSV: a quote out of place or not closed, or a huge cell"
        refuse(where, [*faults, (ended + 1, what)])
    if not header:
        _check_header(header, kind, where, 1)


def _find_delimiter(text: str, kind: Kind) -> str:
    first = text.lstrip().partition("\n")[0]
    known = {
        mark: sum(cell.strip(' "\r') in kind.columns for cell in first.split(mark))
        for mark in ",;\t"
    }
    return max(known, key=lambda mark: known[mark])


def _check_header(header: list[str], kind: Kind, where: str, line: int) -> None:
    if sorted(header) == sorted(kind.columns):
        return
    missing = [name for name in kind.columns if name not in header]
    odd = len(header) - len(set(header) & set(kind.columns))
    lacks = f"lacks {', '.join(missing)}" if missing else f"has {odd} cells too many"
    remedy = f"the columns are {','.join(kind.columns)}, with commas, semicolons or tabs between"
    raise SettingError(f"line {line}: the header {lacks}", where, remedy)


def _check_override(cells: Cells, faults: Faults) -> Row:
    label = _check_word(cells, "label", LABELS, faults)
    return {
        "SeriesInstanceUID": _check_text(cells, "SeriesInstanceUID", faults),
        "label": label,
        "value": _check_value(cells, "value", label, faults) if label else None,
        "who": _check_text(cells, "who", faults),
        "when": _check_when(cells, faults),
        "why": _check_text(cells, "why", faults),
    }


def _check_protocol(cells: Cells, faults: Faults) -> Row:
    row: Row = {
        "protocol": _check_text(cells, "protocol", faults),
        "match_on": _check_word(cells, "match_on", MATCH_ON, faults),
        "pattern": _check_text(cells, "pattern", faults),
        "modality": _check_modality(cells, faults),
        "valid_from": _check_day(cells, "valid_from", faults),
        "valid_to": _check_day(cells, "valid_to", faults),
    }
    if row["valid_from"] and row["valid_to"] and row["valid_from"] > row["valid_to"]:
        faults.append("valid_to: before valid_from")
    if not any(cells[label] for label in LABELS):
        faults.append(f"no label: all of {', '.join(LABELS)} are empty; `{RULES}` takes a row back")
    for label in LABELS:
        value = _check_value(cells, label, label, faults) if cells[label] else None
        row[label] = None if value == RULES else value
    trust = cells["trust_extent"] and _check_word(cells, "trust_extent", ("true", "false"), faults)
    return row | {
        "trust_extent": trust == "true",
        "approved_by": _check_text(cells, "approved_by", faults),
        "when": _check_when(cells, faults),
        "why": _check_text(cells, "why", faults),
    }


def _tell(cells: Cells, column: str, allowed: str) -> str:
    """What is wrong with a cell, without the cell, unless it is a word of ours."""
    text = cells[column]
    found = f"{len(text)} characters" if text else "nothing"
    if text.lower() in _OURS:
        found = f"`{text}`"
    return f"{column}: found {found}, allowed is {allowed}"


def _check_text(cells: Cells, column: str, faults: Faults) -> str:
    if not cells[column]:
        faults.append(_tell(cells, column, "any text but none"))
    return cells[column]


def _check_word(cells: Cells, column: str, allowed: tuple[str, ...], faults: Faults) -> str | None:
    """The allowed word, however its letters are cased: spreadsheets write TRUE."""
    found = {word.lower(): word for word in allowed}.get(cells[column].lower())
    if found is None:
        faults.append(_tell(cells, column, ", ".join(allowed)))
    return found


def _check_value(cells: Cells, column: str, label: str, faults: Faults) -> str | None:
    """A label's value as the lake writes it, or RULES or UNKNOWN."""
    if label != "coverage":
        return _check_word(cells, column, (*VALUES[label], UNKNOWN, RULES), faults)
    text = cells[column].lower()
    if text in (UNKNOWN, RULES):
        return text
    parts = {part.strip() for part in text.split("|")} - ({"", NONE} if "|" not in text else set())
    if not parts <= set(VALUES[label]):
        allowed = f"{', '.join(VALUES[label])}, joined by |; or {NONE}, {UNKNOWN}, {RULES}"
        faults.append(_tell(cells, column, allowed))
    return "|".join(value for value in VALUES[label] if value in parts)


def _check_modality(cells: Cells, faults: Faults) -> str | None:
    """A DICOM code string; one, for a list would match no series."""
    modality = cells["modality"].upper()
    if not re.fullmatch("[A-Z0-9_ ]{0,16}", modality):
        faults.append(_tell(cells, "modality", "one modality such as MR, or nothing for any"))
    return modality or None


def _check_when(cells: Cells, faults: Faults) -> datetime.datetime | None:
    """In UTC, without zone. A `when` to come would outrank every row until then."""
    try:
        when = datetime.datetime.fromisoformat(cells["when"])
        if when.tzinfo:
            when = when.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        faults.append(_tell(cells, "when", "a date or time: 2026-01-31, 2026-01-31T18:00 (UTC)"))
        return None
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    if when > now + datetime.timedelta(days=1):
        faults.append("when: lies in the future")
    return when


def _check_day(cells: Cells, column: str, faults: Faults) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(cells[column]) if cells[column] else None
    except ValueError:
        faults.append(_tell(cells, column, "a date, 2026-01-31, or nothing"))
        return None


def _try_patterns(rows: list[Row]) -> list[tuple[int, str]]:
    """Lines whose pattern DuckDB cannot read, or that would match every series."""
    faults = []
    with duckdb.connect() as connection:
        for row in rows:
            if not row["pattern"]:
                continue  # reported already
            try:
                found = connection.execute("select regexp_matches('', ?, 'i')", [row["pattern"]])
                if found.fetchall() == [(True,)]:
                    faults.append(
                        (row["line"], "pattern: matches all, even no text; . is any text")
                    )
            except duckdb.Error as error:
                # After its second colon the message repeats the pattern.
                reason = str(error).partition(": ")[2].partition(":")[0].strip()
                faults.append((row["line"], f"pattern: not an RE2 regular expression ({reason})"))
    return faults


def _make_schema(columns: str, **types: pa.DataType) -> pa.Schema:
    fields = [(name, types.get(name, pa.string())) for name in columns.split(",")]
    return pa.schema([*fields, ("file", pa.string()), ("line", pa.int64())])


OVERRIDES = Kind(
    "overrides",
    ("SeriesInstanceUID", "label"),
    ("value",),
    _check_override,
    _make_schema("SeriesInstanceUID,label,value,who,when,why", when=pa.timestamp("us")),
)
PROTOCOLS = Kind(
    "protocols",
    ("protocol", "match_on", "pattern", "modality", "valid_from", "valid_to"),
    (*LABELS, "trust_extent"),
    _check_protocol,
    _make_schema(
        "protocol,match_on,pattern,modality,valid_from,valid_to,"
        f"{','.join(LABELS)},trust_extent,approved_by,when,why",
        valid_from=pa.date32(),
        valid_to=pa.date32(),
        trust_extent=pa.bool_(),
        when=pa.timestamp("us"),
    ),
)
