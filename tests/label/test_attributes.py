"""A header attribute is one row of sql/attributes.csv: scanned, stored, rolled up, described."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from instance_rows import stack

import radnet_lake
from radnet_lake import schema
from radnet_lake.label import rollup_plan
from radnet_lake.label.rollup import refresh_rollup
from radnet_lake.lake.log import create_lake
from radnet_lake.lake.sql_files import list_keywords, read_csv

ROOT = Path(__file__).parent.parent.parent
ROWS = [
    ["KVP", "0018,0060", "DS", "number", "values", "keep", "peak kilovoltage, kV", ""],
    ["ConvolutionKernel", "0018,1210", "SH", "texts", "agreed", "text", "kernel", ""],
    ["FilterType", "0018,1160", "SH", "text", "agreed", "text", "filter", ""],
]
PROGRAM = """
import json
import duckdb
from dicom_files import make_dataset, read_row, write
from instance_rows import roll, stack
from radnet_lake import schema

row = read_row(write(make_dataset(KVP="120", FilterType="BODY", ConvolutionKernel=["B30f", "3"])))
one = {name: row[name] for name in ("KVP", "FilterType", "ConvolutionKernel")}
rows = stack("same", 20, **one)
rows += stack("two", 10, **one)
rows += stack("two", 10, z=50, first=11, **one | {"FilterType": "HEAD", "KVP": 80.0})
rolled = roll(rows)
names = ("KVP", "KVP_values", "FilterType", "ConvolutionKernel", "varying_keywords")
print(json.dumps({uid: {n: r[n] for n in names} for uid, r in rolled.items()}))
print(json.dumps("| KVP | double | keep | peak kilovoltage, kV (0018,0060) |" in schema.describe()))
"""


def test_a_new_row_is_scanned_stored_rolled_up_and_described(tmp_path: Path) -> None:
    for name in ("radnet_lake", "sql"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "sql" / "attributes.csv").open("a", newline="") as file:
        csv.writer(file).writerows(ROWS)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rolled, is_described = map(json.loads, done.stdout.splitlines())
    kernel = ["B30f", "3"]
    assert rolled["same"] == {
        "KVP": 120, "KVP_values": [120], "FilterType": "BODY", "ConvolutionKernel": kernel,
        "varying_keywords": [],
    }  # fmt: skip
    # Rows that differ in the new attribute alone are not taken for one.
    assert rolled["two"] == {
        "KVP": None, "KVP_values": [80, 120], "FilterType": None, "ConvolutionKernel": kernel,
        "varying_keywords": ["FilterType", "KVP"],
    }  # fmt: skip
    assert is_described


def test_a_lake_from_before_a_new_row_has_nulls_until_more_is_harvested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = create_lake(str(tmp_path / "lake"), "keep", "")

    def add(rows: list[dict[str, object]]) -> None:
        table = pa.Table.from_pylist(rows, schema.TABLES["instances"])
        lake.commit(add=[lake.write_part("instances", table, "p")])

    def ask(relation: str) -> dict[str, float | None]:
        """Series -> KVP."""
        with radnet_lake.connect(lake.uri) as connection:
            sql = f"select distinct SeriesInstanceUID, KVP from {relation} where KVP is not null"
            return dict(connection.execute(sql).fetchall())

    add(stack("old", 20) + stack("both", 20))
    refresh_rollup(lake, threads=1)
    kvp = schema.Attribute("KVP", 0x00180060, "DS", "number", "number", "keep", "kV")
    monkeypatch.setattr(schema, "ATTRIBUTES", (kvp, *schema.ATTRIBUTES))
    columns = schema.TABLES["instances"].insert(8, pa.field("KVP", pa.float64()))
    monkeypatch.setitem(schema.TABLES, "instances", columns)
    monkeypatch.setitem(schema.MEANINGS["instances"], "KVP", "kV")
    assert refresh_rollup(lake, threads=1).rolled == 2
    assert ask("instances") == ask("stored.rollup") == {}
    # Tasks of one part each, so that rows of both kinds are shuffled and meet.
    monkeypatch.setattr(rollup_plan, "ROWS_PER_TASK", 40)
    add(stack("both", 20, z=100, first=21, KVP=120.0) + stack("new", 20, KVP=80.0))
    assert refresh_rollup(lake, threads=1).rolled == 2
    assert ask("instances") == ask("stored.rollup") == {"both": 120, "new": 80}


def test_the_rollup_has_each_attribute_that_has_a_way_to_roll_up(
    rollup_columns: pa.Schema,
) -> None:
    for a in schema.ATTRIBUTES:
        assert (a.keyword in rollup_columns.names) >= (a.roll_up != "none"), a
        assert (f"{a.keyword}_values" in rollup_columns.names) == (a.roll_up == "values"), a


def test_every_row_has_a_known_kind_and_way_to_roll_up() -> None:
    for a in schema.ATTRIBUTES:
        assert a.kind in schema.KINDS, a
        assert a.roll_up in ("agreed", "number", "values", "none"), a
        assert a.phi in ("keep", "uid", "hash", "date", "time", "age", "text", "code"), a
        assert a.meaning, a
        if a.roll_up in ("number", "values"):
            assert a.kind in ("int", "number"), a
    keywords = [a.keyword for a in schema.ATTRIBUTES]
    assert len(keywords) == len(set(keywords))
    assert list_keywords()["values_keywords"].startswith("^(RepetitionTime|")


def test_every_lexicon_and_every_class_of_the_network_is_listed_once() -> None:
    listed = [(row["file"], row["lexicon"]) for row in read_csv(schema.SQL_DIR / "lexicons.csv")]
    used = {
        (path.stem, row["lexicon"])
        for path in (schema.SQL_DIR / "lexicon").glob("*.csv")
        for row in read_csv(path)
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == used
    assert list(schema.LABELS) == ["sequence", "view", "contrast", "coverage", "time_series"]
    for row in read_csv(schema.SQL_DIR / "classes.csv"):
        if row["head"] in ("sequence", "view", "coverage"):
            assert row["value"] in schema.LABELS[row["head"]]
