"""What a user relies on when asking a lake, on disk and on S3, and when a question is wrong."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from dicom_files import write_series
from s3_server import S3Server

import radnet_lake
from radnet_lake import schema
from radnet_lake.cli.app import main
from radnet_lake.harvest.harvest import HarvestConfig, harvest

COMMAND = str(Path(sys.executable).parent / "radnet-lake")


@pytest.fixture(scope="module")
def lake(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query")
    for series in range(3):
        write_series(folder / "in", series, 4)
    (folder / "in/notes.txt").write_text("no DICOM")
    harvest(HarvestConfig((str(folder / "in"),), lake=str(folder / "lake"), phi="keep"))
    return folder / "lake"


Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command; gives its exit status, what it prints, and what it says on stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(words)
        return status, *capsys.readouterr()

    return run


def test_formats_hold_the_same_rows(lake: Path, tmp_path: Path, ask: Ask) -> None:
    sql = "select SeriesInstanceUID, ImagePositionPatient, Rows from instances order by uri"
    with radnet_lake.connect(str(lake)) as connection:
        rows = connection.execute(sql).fetchall()
    assert len(rows) == 12
    _, by_csv, _ = ask("query", sql, "--lake", str(lake), "--format", "csv")
    table = list(csv.DictReader(io.StringIO(by_csv)))
    assert [r["SeriesInstanceUID"] for r in table] == [r[0] for r in rows]
    assert [json.loads(r["ImagePositionPatient"]) for r in table] == [r[1] for r in rows]
    _, by_json, _ = ask("query", sql, "--lake", str(lake), "--format", "json")
    assert [json.loads(x)["Rows"] for x in by_json.splitlines()] == [r[2] for r in rows]
    target = tmp_path / "out.parquet"
    ask("query", sql, "--lake", str(lake), "--format", "parquet", "-o", str(target))
    assert pq.read_table(target).num_rows == 12
    _, shown, _ = ask("query", sql, "--lake", str(lake))
    assert len(shown.splitlines()) == 14


def test_lake_on_s3_answers_the_same(lake: Path, s3: S3Server) -> None:
    bucket = s3.bucket()
    for path in lake.rglob("*"):
        if path.is_file() and ".tmp" not in path.parts:
            s3.put(bucket, f"copy/{path.relative_to(lake)}", path.read_bytes())
    sql = "select count(*), count(distinct SeriesInstanceUID), min(RescaleSlope) from instances"
    answers = []
    for uri in (str(lake), f"s3://{bucket}/copy"):
        with radnet_lake.connect(uri) as connection:
            answers.append(connection.execute(sql).fetchall())
            assert connection.execute("select count(*) from series_headers").fetchall() == [(3,)]
            assert connection.execute("select reason from rejects").fetchall() == [("not_dicom",)]
    assert answers[0] == answers[1] == [(12, 3, 1.0)]


def test_any_tag_can_be_asked_for_later(lake: Path) -> None:
    with radnet_lake.connect(str(lake)) as connection:
        rows = connection.execute(
            "select header->>'$.00180060.Value[0]', header->>'$.00180060.vr' from series_headers"
        ).fetchall()
    assert rows == [("120.0", "DS")] * 3


def test_attached_file_serves_plain_duckdb_from_any_folder(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    target = tmp_path / "lake.duckdb"
    for _ in range(2):
        assert ask("attach", str(lake), str(target))[0] == 0
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(str(target), read_only=True) as connection:
        assert connection.execute("select count(*) from instances").fetchall() == [(12,)]


def test_shell_goes_on_after_an_error(lake: Path) -> None:
    text = "select nonsense;\nselect count(*) as n\nfrom instances;\n\\q\n"
    done = subprocess.run(
        [COMMAND, "shell", "--lake", str(lake)], capture_output=True, text=True, input=text
    )
    assert done.returncode == 0
    assert "error:" in done.stderr
    assert "12" in done.stdout


def test_wrong_questions_get_one_line(lake: Path, tmp_path: Path, ask: Ask) -> None:
    for words in (
        ("query", "select nothing from nowhere", "--lake", str(lake)),
        ("query", "from runs"),
        ("query", "from runs", "--lake", str(lake), "-o", str(tmp_path / "no/such/folder/x")),
        ("locate", "1.2.3.not.there", "--lake", str(lake)),
        ("attach", str(lake), str(tmp_path / "no/such/x.duckdb")),
    ):
        status, _, errors = ask(*words)
        assert status == 2, words
        assert errors.startswith("error: "), words
        assert "Traceback" not in errors
    status, _, errors = ask("query", "from runs", "--lake", str(tmp_path / "nothing"))
    assert status == 1
    assert "no lake there" in errors


def test_lake_may_come_from_the_environment(
    lake: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADNET_LAKE", str(lake))
    question = "select count(*) as n from instances"
    assert ask("query", question, "--format", "csv") == (0, "n\n12\n", "")


def test_every_column_says_what_it_is(lake: Path) -> None:
    with radnet_lake.connect(str(lake)) as connection:
        silent = connection.execute(
            "select table_name, column_name from duckdb_columns()"
            " where database_name = current_database() and schema_name = 'main' and comment is null"
        ).fetchall()
    assert silent == []


def test_tables_on_disk_have_the_documented_columns(lake: Path) -> None:
    for table, expected in schema.TABLES.items():
        for path in (lake / table).rglob("*.parquet"):
            assert pq.read_schema(path).equals(expected), path
