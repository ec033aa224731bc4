"""The files of sql/ by themselves: what each must begin with, and that each is used."""

import re
from pathlib import Path

import duckdb
import pytest

import radnet_lake
from radnet_lake import schema
from radnet_lake.lake.sql_files import create_macros, create_tables

FILES = sorted(schema.SQL_DIR.rglob("*.sql"))


def test_every_file_begins_with_grain_and_meaning() -> None:
    wrong = []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        head = lines[: next(n for n, line in enumerate(lines) if not line.startswith("--"))]
        if not head or not head[0].startswith("-- grain: "):
            wrong.append(f"{path.name}: its first line is not its grain")
        if not any(line.startswith("-- meaning: ") for line in head):
            wrong.append(f"{path.name}: no meaning")
    assert not wrong


def test_every_query_is_read_by_the_code() -> None:
    package = Path(radnet_lake.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    queries = [path.stem for path in FILES if path.parent.name == "query"]
    assert [name for name in queries if f'"{name}"' not in code] == []


def test_each_select_of_a_hit_names_its_columns() -> None:
    hits = [path for path in FILES if path.parent.name == "5_hit"]
    texts = {path.name: path.read_text(encoding="utf-8") for path in hits}
    assert [name for name in texts if re.search(r"union all(?! by name)", texts[name])] == []
    assert sum(text.count("union all by name") for text in texts.values()) > len(texts)


@pytest.mark.parametrize(
    ("column", "value", "is_allowed"),
    [
        ("sequence", "'CT'", True),
        ("sequence", "''", False),
        ("sequence", "'T3'", False),
        ("contrast", "true", True),
        ("coverage", "[]", True),
        ("coverage", "['brain', 'lung']", True),
        ("coverage", "['brain', 'foot']", False),
    ],
)
def test_a_value_that_no_label_has_is_an_offender(
    column: str, value: str, is_allowed: bool
) -> None:
    names = {"sequence": "text", "view": "text", "contrast": "boolean", "time_series": "boolean"}
    chosen = ", ".join(
        f'{value if name == column else "null"}::{kind} as "{name}"'
        for name, kind in (names | {"coverage": "text[]"}).items()
    )
    with duckdb.connect() as connection:
        create_tables(connection)
        create_macros(connection)
        connection.execute("create schema labelled")
        connection.execute(
            f"create table labelled.series as select '1.2' as SeriesInstanceUID, {chosen}"
        )
        path = schema.SQL_DIR / "check" / "values_are_allowed.sql"
        found = connection.execute(path.read_text(encoding="utf-8")).fetchall()
    assert (not found) == is_allowed
