"""What people say about series: overrides of one, and the site's protocol table for many.

    LAKE/overrides/*.csv    SeriesInstanceUID,label,value,who,when,why
    LAKE/protocols/*.csv    protocol,match_on,pattern, ... , approved_by,when,why

Both are kept for good: a later row replaces an earlier one about the same thing, and the value
`rules` takes it back. `label` reads them all, and stops where a row is wrong.
"""

import uuid
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from radnet_lake.errors import LakeError, SettingError
from radnet_lake.label.site_csv import (
    LABELS,
    OVERRIDES,
    PROTOCOLS,
    RULES,
    UNKNOWN,
    Kind,
    Row,
    check_row,
    key_of,
    read_rows,
    refuse,
    refuse_ties,
    write_rows,
)
from radnet_lake.lake.log import Lake, open_lake, utc_now
from radnet_lake.lake.query import QueryConfig, query
from radnet_lake.lake.settings import PrintSettings, SeriesSettings
from radnet_lake.lake.views import connect
from radnet_lake.settings import check_least

_TEXTS = {
    "ProtocolName": "ProtocolName",
    "SeriesDescription": "SeriesDescription",
    "StudyDescription": "StudyDescription",
    "ProcedureCode": "unnest(list_transform(ProcedureCodeSequence, lambda c: c.CodeValue))",
    "StationName": "StationName",
}
"""match_on -> what of stage.series a pattern is tried on."""
_WORD_VIEW = "create view site.words as " + " union all ".join(
    f"select SeriesInstanceUID, '{name}' as match_on, {column} as text from stage.series"
    for name, column in _TEXTS.items()
)


@dataclass(frozen=True, kw_only=True)
class OverrideConfig(SeriesSettings):
    """Settings of one override, or of a file of many."""

    series: str = field(default="", metadata={"positional": "SERIES_UID"})
    label: str = field(default="", metadata={"choices": LABELS})
    """which label to set"""
    value: str | None = None
    """as in `series`; coverage as a|b or none; unknown: cannot be told; rules: back to the rules"""
    who: str = ""
    """who says so"""
    why: str = ""
    """what it rests on"""
    from_file: str = ""
    """instead of these: a CSV file, SeriesInstanceUID,label,value,who,when,why; all or nothing"""

    def __post_init__(self) -> None:
        given = {"SERIES_UID": self.series, "--label": self.label, "--value": self.value}
        given |= {"--who": self.who, "--why": self.why}
        missing = [name for name, text in given.items() if text is None or text == ""]
        if self.value == "" and self.label == "coverage":
            missing.remove("--value")  # none of the nine
        if self.from_file and len(missing) < len(given):
            raise SettingError("stands alone", "--from-file", "leave out what sets one series")
        if missing and not self.from_file:
            raise SettingError("missing", ", ".join(missing), "give them, or --from-file FILE.csv")


@dataclass(frozen=True, kw_only=True)
class ProtocolsConfig(PrintSettings):
    """Settings of the list of unlabelled descriptions, or of adding a protocol table."""

    limit: int = 20
    """how many descriptions to list"""
    add: str = ""
    """instead: check this CSV file of protocols and store it in the lake"""

    def __post_init__(self) -> None:
        check_least(self, limit=1)


@dataclass(frozen=True)
class SiteReport:
    """What was added. late: rows that change nothing, for later ones stand."""

    rows: int
    late: int
    file: str

    def __str__(self) -> str:
        text = f"{self.rows} row{'s' if self.rows > 1 else ''} stored as {self.file}"
        text += f"; {self.late} without effect, for later ones stand" if self.late else ""
        return f"{text}\nnext: radnet-lake label, which applies it"


def override(config: OverrideConfig) -> SiteReport:
    """Add one override, or a file of many, to the lake; `label` applies them.

    Raises SettingError, and adds nothing, where a row is wrong or names a series that the lake does
    not hold; LakeError where there is no lake.
    """
    lake = open_lake(config.lake)
    if config.from_file:
        rows = _read_local(config.from_file, OVERRIDES)
    else:
        cells = {"SeriesInstanceUID": config.series, "label": config.label}
        cells |= {"value": config.value or "", "who": config.who, "why": config.why}
        rows = [check_row({**cells, "when": utc_now().isoformat()}, OVERRIDES, "override")]
    known = _find_known(lake, {row["SeriesInstanceUID"] for row in rows})
    unknown = [row["line"] for row in rows if row["SeriesInstanceUID"] not in known]
    if unknown and config.from_file:
        what = "SeriesInstanceUID: not in the lake (a pseudonymised lake holds other UIDs)"
        refuse(config.from_file, [(line, what) for line in unknown])
    if unknown:
        remedy = "a pseudonymised lake holds other UIDs: look them up with radnet-lake query"
        raise SettingError("no such series in the lake", "SERIES_UID", remedy)
    return _add(lake, OVERRIDES, rows)


def protocols(config: ProtocolsConfig) -> None:
    """Print the descriptions that most series without a label share, or store a protocol table.

    Raises SettingError, and stores nothing, where a row of the table is wrong; LakeError where
    there is no lake, or where it was not labelled yet.
    """
    lake = open_lake(config.lake)
    if config.add:
        rows = _read_local(config.add, PROTOCOLS)
        _refuse_shifted_dates(lake, rows)
        print(_add(lake, PROTOCOLS, rows))
        return
    if not lake.snapshot.of("series"):
        raise LakeError("not labelled yet", lake.uri, f"run: radnet-lake label --lake {lake.uri}")
    sql = f"from protocols limit {config.limit}"
    query(QueryConfig(sql=sql, lake=lake.uri, format=config.format))
    if config.format == "table":
        print(f"\nnext: write rows of {','.join(PROTOCOLS.columns)}")
        print("      in a CSV file, then: radnet-lake protocols --add FILE.csv; radnet-lake label")


def read_overrides(lake: Lake | None) -> pa.Table:
    """All overrides of a lake, checked; without a lake, none.

    Columns: those of the file, `when` in UTC, then file and line. Raises SettingError that names
    the file and the lines that are wrong.
    """
    rows = _read_folder(lake, OVERRIDES) if lake else []
    refuse_ties(OVERRIDES, rows)
    return pa.Table.from_pylist(rows, OVERRIDES.schema)


def read_protocols(lake: Lake | None) -> pa.Table:
    """The site's protocol table, checked; without a lake, an empty one.

    Columns as of read_overrides; a label is NULL where the row says nothing about it. Raises
    SettingError that names the file and the lines that are wrong.
    """
    rows = _read_folder(lake, PROTOCOLS) if lake else []
    if lake:
        _refuse_shifted_dates(lake, rows)
    refuse_ties(PROTOCOLS, rows)
    return pa.Table.from_pylist(rows, PROTOCOLS.schema)


def load_site(
    connection: duckdb.DuckDBPyConnection, overrides: pa.Table, protocols: pa.Table
) -> None:
    """Make the schema `site` beside stage.series, for sql/5_hit/override.sql.

    site.overrides: one row per series and label that a person decides; value NULL: cannot be told.
    site.protocols: one row per row of the protocol table that counts. site.words: one row per
    series and text that a pattern is tried on. site.protocol_text: the texts that each protocol
    matches. overrides, protocols: of read_overrides and read_protocols.
    """
    connection.execute("create schema site")
    connection.execute(_WORD_VIEW)
    for kind, rows in ((OVERRIDES, overrides), (PROTOCOLS, protocols)):
        key = ", ".join(f'"{name}"' for name in kind.key)
        connection.register("site_rows", rows)
        connection.execute(
            f"create table site.{kind.folder} as"
            f" select row_number() over (order by {key}) as number, * from site_rows"
            f' qualify row_number() over (partition by {key} order by "when" desc, file, line) = 1'
        )
        connection.unregister("site_rows")
    connection.execute("delete from site.overrides where value = ?", [RULES])
    connection.execute("update site.overrides set value = null where value = ?", [UNKNOWN])
    connection.execute("create table site.protocol_text (number bigint, match_on text, text text)")
    patterns = connection.execute("select number, match_on, pattern from site.protocols").fetchall()
    if not patterns:
        return
    connection.execute("create table site.texts as select distinct match_on, text from site.words")
    for number, match_on, pattern in patterns:
        # A bound pattern is a constant; one that comes out of a column is 400 times slower.
        connection.execute(
            "insert into site.protocol_text select ?, match_on, text from site.texts"
            " where match_on = ? and regexp_matches(trim(text, ' ' || chr(0)), ?, 'i')",
            [number, match_on, pattern],
        )


def find_unmatched(connection: duckdb.DuckDBPyConnection, overrides: pa.Table) -> list[str]:
    """File and line of each override whose series is not in `series` of a labelled lake."""
    connection.register("site_rows", overrides)
    found = connection.execute(
        "select o.file || ', line ' || o.line from site_rows as o"
        " anti join series as s on o.SeriesInstanceUID = s.SeriesInstanceUID"
        " order by o.file, o.line"
    ).fetchall()
    connection.unregister("site_rows")
    return [place for (place,) in found]


def _add(lake: Lake, kind: Kind, rows: list[Row]) -> SiteReport:
    """Store checked rows as a file of their own."""
    standing = _read_folder(lake, kind)
    refuse_ties(kind, standing + rows)
    latest = {key_of(kind, row): row["when"] for row in sorted(standing, key=lambda r: r["when"])}
    late = sum(latest.get(key_of(kind, row), row["when"]) > row["when"] for row in rows)
    data = write_rows(kind, rows)
    while True:
        name = f"{kind.folder}/{utc_now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.csv"
        if lake.folder.create(name, data):
            return SiteReport(len(rows), late, f"{lake.uri}/{name}")


def _find_known(lake: Lake, series: set[str]) -> set[str]:
    """Those of these series that the lake holds: by the roll-up, else by the instances."""
    found: set[str] = set()
    with connect(lake.uri) as connection:
        for relation in ("stored.rollup", "instances"):
            sought = sorted(series - found)
            if sought and (relation == "instances" or lake.snapshot.of("rollup")):
                # Bound one by one, so that parts and row groups that cannot hold them are skipped.
                marks = ", ".join("?" * len(sought))
                rows = connection.execute(
                    f"select distinct SeriesInstanceUID from {relation}"
                    f" where SeriesInstanceUID in ({marks})",
                    sought,
                ).fetchall()
                found |= {uid for (uid,) in rows}
    return found


def _read_folder(lake: Lake, kind: Kind) -> list[Row]:
    rows = []
    for name in lake.folder.names(f"{kind.folder}/"):
        inner = name.removeprefix(f"{kind.folder}/")
        if inner.startswith((".", "~")):
            continue  # what editors and desktops leave
        if "/" in inner or not inner.lower().endswith(".csv"):
            remedy = "save it as CSV (UTF-8) in that folder itself, or take it out"
            raise SettingError("not a file NAME.csv", f"{lake.uri}/{name}", remedy)
        rows += read_rows(lake.folder.read(name), kind, f"{lake.uri}/{name}")
    return rows


def _read_local(path: str, kind: Kind) -> list[Row]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SettingError(error.strerror or "cannot read", path, "name a CSV file") from None
    rows = read_rows(data, kind, path)
    if not rows:
        raise SettingError("no row below the header", path, "write rows; nothing was added")
    return rows


def _refuse_shifted_dates(lake: Lake, rows: list[Row]) -> None:
    """A pseudonymised lake's dates are shifted, each patient's by another span."""
    lines: dict[str, list[int]] = {}
    for row in rows:
        if row["valid_from"] or row["valid_to"]:
            lines.setdefault(row["file"], []).append(row["line"])
    if lines and lake.format.get("phi") != "keep":
        what = "valid_from, valid_to: the lake's dates are shifted, so they cannot be compared"
        file, numbers = min(lines.items())
        refuse(file, [(number, what) for number in numbers])
