"""Tables of the documentation: takes a page with blocks, gives it with the tables of sql/ anew.

A block is `<!-- kind: name -->` to `<!-- end -->`; kinds: rules, lexicon, file, view.
"""

import re
from functools import cache
from pathlib import Path

import duckdb

from radnet_lake import schema
from radnet_lake.label.rollup import open_task, roll_up
from radnet_lake.lake.sql_files import create_macros, create_tables, read_csv, run_folder

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = ("labels.md", "evidence.md")
_BLOCK = re.compile(r"(<!-- (\w+): ([\w.]+) -->\n)(.*?)(<!-- end -->)", re.S)


def refresh(page: str) -> str:
    """The page with every block `<!-- kind: name --> ... <!-- end -->` made anew."""
    return _BLOCK.sub(lambda m: m[1] + _table(m[2], m[3]) + m[5], page)


def _table(kind: str, name: str) -> str:
    columns, rows = {
        "rules": _list_rules,
        "lexicon": _list_lexicons,
        "file": _list_file,
        "view": _list_columns,
    }[kind](name)
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(_cell(c) for c in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _list_rules(label: str) -> tuple[list[str], list[list[str]]]:
    rows = [
        row
        for path in sorted((schema.SQL_DIR / "rules").glob("*.csv"))
        for row in read_csv(path)
        if row["label"] == label
    ]
    rows.sort(key=lambda row: (int(row["rank"]), row["rule_id"]))
    columns = ["rank", "rule_id", "tier", "modes", "meaning", "source"]
    return columns, [[row[c].replace("|", ", ") for c in columns] for row in rows]


def _list_lexicons(file: str) -> tuple[list[str], list[list[str]]]:
    found: dict[str, tuple[set[str], list[str]]] = {}
    for row in read_csv(schema.SQL_DIR / "lexicon" / f"{file}.csv"):
        languages, examples = found.setdefault(row["lexicon"], (set(), []))
        languages.add(row["language"])
        examples.append(row["matches"])
    meanings = {row["lexicon"]: row["meaning"] for row in read_csv(schema.SQL_DIR / "lexicons.csv")}
    columns = ["lexicon", "meaning", "languages", "rows", "for example"]
    return columns, [
        [
            name,
            meanings[name],
            ", ".join(sorted(languages)),
            str(len(examples)),
            "; ".join(examples[:3]),
        ]
        for name, (languages, examples) in found.items()
    ]


def _list_file(name: str) -> tuple[list[str], list[list[str]]]:
    rows = read_csv(schema.SQL_DIR / f"{name}.csv")
    columns = list(rows[0])
    return columns, [[row[c].replace("|", ", ") for c in columns] for row in rows]


def _list_columns(view: str) -> tuple[list[str], list[list[str]]]:
    rows = [[name, kind, meaning] for v, name, kind, meaning in describe_evidence() if v == view]
    return ["column", "type", "meaning"], rows


@cache
def describe_evidence() -> list[tuple[str, str, str, str]]:
    """View, column, type and meaning of all that rules are written against: `text`, `evidence`.

    The meaning is the comment in the view's file; else that of the lexicon or of the attribute
    whose name the column has; else ''.
    """
    instances = schema.TABLES["instances"].empty_table()
    with open_task(1) as connection:
        connection.register("instances", instances)
        series = roll_up(connection, instances.select(["SeriesInstanceUID"]))
    with duckdb.connect() as connection:
        connection.register("rolled", series)
        connection.execute("create schema stage; create table stage.series as from rolled")
        create_tables(connection)
        create_macros(connection)
        connection.execute("create table rule.run as select 'default' as mode")
        for folder in ("3_text", "4_evidence"):
            run_folder(connection, folder)
        columns = connection.sql(
            "select schema_name || '.' || table_name, column_name, data_type, comment"
            " from duckdb_columns() where schema_name in ('text', 'evidence')"
            " order by table_oid, column_index"
        ).fetchall()
    return [
        (view, name, _shorten(kind), comment or _find_meaning(name))
        for view, name, kind, comment in columns
    ]


def _find_meaning(column: str) -> str:
    for a in schema.ATTRIBUTES:
        if a.keyword == column:
            return a.meaning
    for row in read_csv(schema.SQL_DIR / "lexicons.csv"):
        # Columns drop the first word of a lexicon: contrast_after is `after` in text.contrast.
        if column in (row["lexicon"], row["lexicon"].partition("_")[2]):
            return f"word: {row['meaning']}"
    return _OTHER_MEANINGS.get(column, "")


_OTHER_MEANINGS = {c.name: c.meaning for c in (*schema.ORIGIN, *schema.INSTANCE_FACTS)} | {
    "slice_count": "distinct slice locations of the main stack",
    "EchoTime_values": "distinct echo times, ms",
}


def _shorten(kind: str) -> str:
    return re.sub(r"STRUCT\(.*\)", "STRUCT", kind)
