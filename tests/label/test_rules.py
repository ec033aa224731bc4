"""The label rules, by tables: tests/cases/<label>.csv, one row per case.

Columns are those of the roll-up that matter, as text; then expect_value, expect_rule_id,
expect_conflict (true or empty), mode (default `default`), siblings (how many equal series the
study has; default 1), why. Lists are written a\\b\\c; an empty cell is the default of DEFAULTS;
NULL is no value, EMPTY the empty text.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from rule_cases import decide, label_rows

from radnet_lake import schema
from radnet_lake.label import label
from radnet_lake.lake import sql_files

CASES = Path(__file__).parent.parent / "cases"


def read_cases(name: str) -> list[dict[str, str]]:
    with (CASES / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows, name
    return rows


def read_decisions(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, tuple[Any, ...]]:
    """What was decided about one label in the cases of its own table, by their numbers there."""
    rows = connection.execute(
        "select split_part(SeriesInstanceUID, ' ', 2), value, rule_id, conflict"
        " from decision.decision where label = $1 and starts_with(SeriesInstanceUID, $1 || ' ')",
        [name],
    ).fetchall()
    return {uid: (value, rule, conflict) for uid, value, rule, conflict in rows}


def expected(case: dict[str, str]) -> tuple[Any, ...]:
    value = {"NULL": None, "EMPTY": ""}.get(case["expect_value"], case["expect_value"])
    return value, case["expect_rule_id"] or None, case.get("expect_conflict") == "true"


@pytest.fixture(scope="module")
def decided(rollup_columns: pa.Schema) -> Iterator[dict[str, duckdb.DuckDBPyConnection]]:
    """mode -> a connection with the cases of all labels decided."""
    cases = [
        case | {"uid": f"{name} {number}"}
        for name in schema.LABELS
        for number, case in enumerate(read_cases(name))
    ]
    made = {mode: decide(cases, mode, rollup_columns) for mode in label.MODES}
    yield made
    for connection in made.values():
        connection.close()


@pytest.mark.parametrize("name", schema.LABELS)
def test_every_case_is_decided_as_the_table_says(
    decided: dict[str, duckdb.DuckDBPyConnection], name: str
) -> None:
    decisions = {mode: read_decisions(decided[mode], name) for mode in decided}
    wrong = []
    for number, case in enumerate(read_cases(name)):
        found = decisions[case.get("mode") or "default"]
        got = found.get(str(number), (None, None, False))
        if got != expected(case):
            wrong.append((number + 2, case["why"], "expected", expected(case), "got", got))
    assert not wrong


@pytest.mark.parametrize("name", schema.LABELS)
def test_every_rule_decides_a_case_and_is_missed_when_switched_off(
    decided: dict[str, duckdb.DuckDBPyConnection], name: str
) -> None:
    rules = {
        row["rule_id"]: row["modes"].split("|")
        for row in sql_files.read_csv(schema.SQL_DIR / "rules" / f"{name}.csv")
        if row["label"] == name
    }
    before = {mode: read_decisions(decided[mode], name) for mode in decided}
    deciding = {rule for found in before.values() for _, rule, _ in found.values()}
    assert set(rules) <= deciding, "rules that decide no case"
    idle = []
    for rule, modes in rules.items():
        changed = False
        for mode in modes:
            if rule not in {r for _, r, _ in before[mode].values()}:
                continue
            connection = decided[mode]
            connection.execute("begin")
            connection.execute("delete from rule.rules where rule_id = ?", [rule])
            connection.execute("drop table decision.decision")
            sql_files.run_folder(connection, "6_decision")
            after = read_decisions(connection, name)
            connection.execute("rollback")
            drop_rule = {k: v for k, v in after.items() if v != before[mode].get(k)}
            changed |= bool(drop_rule) or after.keys() != before[mode].keys()
        if not changed:
            idle.append(rule)
    assert not idle


def test_shuffled_input_changes_nothing(
    decided: dict[str, duckdb.DuckDBPyConnection],
) -> None:
    connection = decided["default"]
    rows = connection.sql("from stage.series order by md5(SeriesInstanceUID)").to_arrow_table()
    with label_rows(rows, "default") as other:
        query = "from decision.decision order by SeriesInstanceUID, label"
        assert other.execute(query).fetchall() == connection.execute(query).fetchall()


def lexicon_rows() -> list[tuple[str, dict[str, str]]]:
    return [
        (path.stem, row)
        for path in sorted((schema.SQL_DIR / "lexicon").glob("*.csv"))
        for row in sql_files.read_csv(path)
    ]


def test_every_lexicon_row_meets_its_own_two_examples() -> None:
    examples = defaultdict(list)
    for file, row in lexicon_rows():
        pattern = (r" (?:{})\b" if row["place"] == "token" else "(?:{})").format(row["pattern"])
        for text, due in ((row["matches"], True), (row["must_not_match"], False)):
            assert text, (file, row)
            examples[file, row["lexicon"]].append((text, pattern, due))
    wrong = []
    with duckdb.connect() as connection:
        sql_files.create_macros(connection)
        for (file, name), rows in examples.items():
            found = connection.execute(
                f"select regexp_matches(normalise_{file}(e.text), e.pattern),"
                f" find_{name}(normalise_{file}(e.text)) is not null"
                " from (select unnest($1::struct(text text, pattern text)[]) as e)",
                [[{"text": text, "pattern": pattern} for text, pattern, _ in rows]],
            ).fetchall()
            for (matches, finds), (text, pattern, due) in zip(found, rows, strict=True):
                if matches != due or (due and not finds):
                    wrong.append((file, name, pattern, text, due))
    assert not wrong


def test_every_rule_and_threshold_is_told_once_and_has_a_source() -> None:
    rules = [
        row
        for path in sorted((schema.SQL_DIR / "rules").glob("*.csv"))
        for row in sql_files.read_csv(path)
    ]
    ids = [row["rule_id"] for row in rules]
    assert len(ids) == len(set(ids))
    tiers = {"site", "coded", "numeric", "series_text", "study_text", "body_part", "collection"}
    for row in rules:
        assert re.fullmatch(r"[A-Z]+(-[A-Z0-9]+)+", row["rule_id"]), row
        assert row["tier"] in tiers | {"assumed"}, row
        assert set(row["modes"].split("|")) <= set(label.MODES), row
        assert row["meaning"], row
        assert row["source"], row
    thresholds = sql_files.read_csv(schema.SQL_DIR / "thresholds.csv")
    names = [row["name"] for row in thresholds]
    assert len(names) == len(set(names))
    text = "".join(p.read_text(encoding="utf-8") for p in schema.SQL_DIR.rglob("*.sql"))
    for row in thresholds:
        assert row["source"], row
        assert row["unit"], row
        assert f"{row['name']}()" in text, f"{row['name']} is used nowhere"
