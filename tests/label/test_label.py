"""Labelling a whole lake: the phantom archive's truth, the funnel, what a user reads of it."""

import csv
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from dicom_files import write_series
from pydicom.uid import SecondaryCaptureImageStorage
from s3_server import S3Server

import radnet_lake
from radnet_lake.cli.app import main
from radnet_lake.errors import LakeError, SettingError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.explain import ExplainConfig, explain
from radnet_lake.label.export import ExportConfig, export
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake import sql_files
from radnet_lake.lake.log import open_lake
from radnet_lake.phantom.phantom import PhantomConfig, phantom

PAPER = ("CT", "T1-SE", "T2-SE", "T1-FLAIR", "T2-FLAIR", "STIR")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory, ray_local: str) -> list[dict[str, str]]:
    """The truth of a phantom archive; its lake, labelled, is in `lake`."""
    folder = tmp_path_factory.mktemp("label")
    phantom(PhantomConfig(out=str(folder / "archive"), patients=4, seed=11, size=48))
    harvest(
        HarvestConfig(sources=(str(folder / "archive"),), lake=str(folder / "lake"), phi="keep")
    )
    label(LabelConfig(lake=str(folder / "lake")))
    with (folder / "archive.truth.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["lake"] = str(folder / "lake")
    return rows


@pytest.fixture(scope="module")
def lake(truth: list[dict[str, str]]) -> str:
    return truth[0]["lake"]


@pytest.fixture(scope="module")
def series(lake: str) -> dict[str, dict[str, Any]]:
    with radnet_lake.connect(lake) as connection:
        rows = connection.sql("from series").to_arrow_table().to_pylist()
    return {row["SeriesInstanceUID"]: row for row in rows}


def disagree(
    truth: list[dict[str, str]], series: dict[str, dict[str, Any]], name: str
) -> list[tuple[Any, ...]]:
    wrong = []
    for row in truth:
        got = series[row["SeriesInstanceUID"]][name]
        if isinstance(got, list):
            got = "|".join(got)
        due: Any = row[name]
        if name in ("contrast", "time_series"):
            due = {"True": True, "False": False, "": None}[due]
        if got != due and not (got is None and due == ""):
            wrong.append((row["SeriesDescription"], row["vendor"], row["oddity"], due, got))
    return wrong


@pytest.mark.parametrize(
    "name", ["sequence", "view", "contrast", "coverage", "time_series", "excluded_by"]
)
def test_labels_of_the_phantom_archive_are_its_truth(
    truth: list[dict[str, str]], series: dict[str, dict[str, Any]], name: str
) -> None:
    assert disagree(truth, series, name) == []


def test_slices_of_kept_series_are_counted_and_measured(
    truth: list[dict[str, str]], series: dict[str, dict[str, Any]]
) -> None:
    kept = [row for row in truth if not row["excluded_by"]]
    assert kept
    for row in kept:
        got = series[row["SeriesInstanceUID"]]
        assert got["geometry"] == "regular"
        assert got["slice_count"] == int(row["slice_count"])
        assert got["slice_spacing_mm"] == pytest.approx(float(row["slice_spacing_mm"]), abs=1e-3)


def test_the_funnel_is_the_truth_in_both_orders_and_adds_up(
    truth: list[dict[str, str]], lake: str
) -> None:
    default = Counter(row["excluded_by"] for row in truth)
    # The paper books a dynamic gradient echo under its sequence, for that comes first in print.
    paper = Counter(
        "seq" if row["excluded_by"] == "time" and row["sequence"] not in PAPER
        else row["excluded_by"]
        for row in truth
    )  # fmt: skip
    with radnet_lake.connect(lake) as connection:
        for attribution, due in (("default", default), ("paper", paper)):
            rows = connection.execute(
                "select reason, first_hit, marginal, remaining from funnel"
                " where attribution = ? order by step",
                [attribution],
            ).fetchall()
            (total,) = connection.execute("select count(*) from series").fetchall()[0]
            assert rows[0][3] == total
            for (_, _, _, before), (reason, first, marginal, after) in itertools.pairwise(rows):
                assert before - first == after
                assert marginal >= first
                if reason != "not_image":
                    assert first == due[reason], (attribution, reason)
            assert rows[-1][3] == due[""]


def test_no_patient_is_in_two_parts_of_the_training_set(lake: str) -> None:
    with radnet_lake.connect(lake) as connection:
        parts = connection.execute(
            "select PatientID, count(distinct split), count(distinct split_group)"
            " from training_set group by all"
        ).fetchall()
        kept = connection.execute(
            "select count(*) from series where excluded_by is null"
        ).fetchall()[0][0]
        count = connection.execute("select count(*) from training_set").fetchall()[0][0]
    assert parts
    assert all(splits == 1 and groups == 1 for _, splits, groups in parts)
    assert count == kept


def test_label_counts_are_those_of_the_training_set(lake: str) -> None:
    with radnet_lake.connect(lake) as connection:
        stated = connection.execute(
            "select value, total, train + validation + test from label_counts"
            " where division = 'hash' and label = 'sequence'"
        ).fetchall()
        counted = dict(
            connection.execute(
                "select sequence, count(*) from training_set group by all"
            ).fetchall()
        )
    assert {v: n for v, n, _ in stated if n} == counted
    assert all(n == total for _, n, total in stated)


def test_every_column_of_the_label_views_is_described(lake: str) -> None:
    with radnet_lake.connect(lake) as connection:
        bare = connection.execute(
            "select table_name, column_name from duckdb_columns() where schema_name = 'main'"
            " and table_name in ('series', 'funnel', 'label_counts', 'training_set', 'rule_use',"
            " 'protocols') and comment is null"
        ).fetchall()
    assert bare == []


def test_explain_says_rule_evidence_losers_and_reason(
    truth: list[dict[str, str]], lake: str
) -> None:
    mip = next(row for row in truth if row["oddity"] == "mip" or row["excluded_by"] == "stir")
    stated = explain(ExplainConfig(series=mip["SeriesInstanceUID"], lake=lake))
    assert f"sequence: {mip['sequence']}   [SEQ-" in stated
    assert "because " in stated
    assert f"excluded by {mip['excluded_by']}" in stated
    assert json.dumps(mip["SeriesDescription"], ensure_ascii=False) in stated
    kept = next(row for row in truth if not row["excluded_by"])
    stated = explain(ExplainConfig(series=kept["SeriesInstanceUID"], lake=lake))
    assert "included: nothing excludes it" in stated
    with pytest.raises(SettingError, match="no such series"):
        explain(ExplainConfig(series="1.2.3", lake=lake))


def test_export_is_frozen_with_its_origin_and_without_patients(lake: str, tmp_path: Path) -> None:
    origin = export(ExportConfig(output=str(tmp_path / "a.parquet"), lake=lake))
    again = export(ExportConfig(output=str(tmp_path / "b.csv"), lake=lake))
    assert origin["content"] == again["content"]
    table = pq.read_table(tmp_path / "a.parquet")
    kept = json.loads(table.schema.metadata[b"radnet_lake"])
    assert kept == origin
    assert table.num_rows == kept["series"]
    assert not {"PatientID", "SeriesDescription", "StudyDescription"} & set(table.column_names)
    assert {"sequence", "sequence_rule", "split", "excluded_by"} <= set(table.column_names)
    with (tmp_path / "b.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == kept["series"]
    assert json.loads((tmp_path / "b.csv.json").read_text())["rule_set"] == kept["rule_set"]


def test_modes_differ_and_a_second_run_rolls_nothing_up(
    lake: str, series: dict[str, dict[str, Any]]
) -> None:
    kept = {"default": sum(row["excluded_by"] is None for row in series.values())}
    for mode in ("strict", "paper"):
        report = label(LabelConfig(lake=lake, mode=mode))
        assert report.rollup.rolled == 0
        kept[mode] = report.kept
    with radnet_lake.connect(lake) as connection:
        assert connection.execute("select distinct label_mode from series").fetchall() == [
            ("paper",)
        ]
    assert 0 < kept["strict"] < kept["default"] <= kept["paper"]


def test_an_empty_lake_and_one_of_rejects_only_are_labelled_to_nothing(
    tmp_path: Path, ray_local: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.dcm").write_bytes(b"no DICOM")
    for name in ("empty", "junk"):
        lake = tmp_path / f"{name}.lake"
        harvest(HarvestConfig(sources=(str(tmp_path / name),), lake=str(lake), phi="keep"))
        with pytest.raises(LakeError, match="not labelled yet"):
            explain(ExplainConfig(series="1.2", lake=str(lake)))
        report = label(LabelConfig(lake=str(lake)))
        assert (report.series, report.kept) == (0, 0)
        with radnet_lake.connect(str(lake)) as connection:
            for view in ("series", "training_set", "rule_use", "protocols"):
                connection.execute(f"from {view}").fetchall()
            funnel = connection.execute("select sum(remaining) from funnel").fetchall()
        assert funnel == [(0,)]


HOSTILE = (
    "'; drop table series; --", 'T2 "TSE" \'ax\'', "\\x00\\x1b[31m", "T2 " * 20, "%s{}$$",
    "\uff21\uff38 \uff34\uff12",
    "Ünïcödé ß Ł İ", "--", "(((((((((", "[a-z]+*", "\u202eT2",
)  # fmt: skip


def test_hostile_descriptions_are_labelled_and_shown_without_harm(
    tmp_path: Path, ray_local: str
) -> None:
    for number, text in enumerate(HOSTILE):
        write_series(tmp_path / "in", number, 3, SeriesDescription=text[:64])
    lake = tmp_path / "lake"
    harvest(HarvestConfig(sources=(str(tmp_path / "in"),), lake=str(lake), phi="keep"))
    report = label(LabelConfig(lake=str(lake)))
    assert report.series == len(HOSTILE)
    with radnet_lake.connect(str(lake)) as connection:
        uids = connection.execute("select SeriesInstanceUID from series").fetchall()
    for (uid,) in uids:
        stated = explain(ExplainConfig(series=uid, lake=str(lake)))
        assert "\x1b" not in stated
        assert "\u202e" not in stated


def test_questions_before_labelling_name_the_remedy(
    tmp_path: Path, ray_local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in", 1, 3)
    lake = tmp_path / "lake"
    harvest(HarvestConfig(sources=(str(tmp_path / "in"),), lake=str(lake), phi="keep"))
    for words in (("query", "from series"), ("funnel",), ("explain", "1.2"), ("protocols",)):
        assert main([*words, "--lake", str(lake)]) != 0
        assert "radnet-lake label" in capsys.readouterr().err, words


def test_wrong_sql_in_the_house_names_its_file() -> None:
    with (
        duckdb.connect() as connection,
        pytest.raises(LakeError, match=r"9_main/10_series\.sql"),
    ):
        sql_files.run_folder(connection, "9_main")


def test_a_stray_screen_save_does_not_change_what_a_series_is(
    tmp_path: Path, ray_local: str
) -> None:
    write_series(tmp_path / "in", 1, 20, Rows=128)
    source = pydicom.dcmread(tmp_path / "in" / "s0001" / "0000.dcm")
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    source.SOPInstanceUID = "1.2.3.999"
    source.save_as(tmp_path / "in" / "s0001" / "save.dcm")
    lake = tmp_path / "lake"
    harvest(HarvestConfig(sources=(str(tmp_path / "in"),), lake=str(lake), phi="keep"))
    label(LabelConfig(lake=str(lake)))
    with radnet_lake.connect(str(lake)) as connection:
        row = connection.execute(
            "select sequence, geometry, is_salvageable, excluded_by, slice_count from series"
        ).fetchall()
    assert row == [("CT", "mixed_matrix", True, "geom", 20)]


def test_labels_that_other_rules_stored_leave_the_headers_readable(
    tmp_path: Path, ray_local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in", 1, 3)
    lake = str(tmp_path / "lake")
    harvest(HarvestConfig(sources=(str(tmp_path / "in"),), lake=lake, phi="keep"))
    opened = open_lake(lake)
    part = opened.write_part("series", pa.table({"SeriesInstanceUID": ["1.2"]}), "old")
    opened.commit(add=[part], labels={"mode": "default", "rule_set": "old", "at": "2020"})
    with radnet_lake.connect(lake) as connection:
        assert connection.execute("select count(*) from instances").fetchall() == [(3,)]
    assert main(["query", "from series", "--lake", lake]) == 2
    assert "radnet-lake label" in capsys.readouterr().err
    label(LabelConfig(lake=lake))
    with radnet_lake.connect(lake) as connection:
        assert connection.execute("select count(*) from series").fetchall() == [(1,)]


def test_a_lake_on_s3_is_labelled_and_explained(
    s3: S3Server, ray_local: str, tmp_path: Path
) -> None:
    for number in range(3):
        write_series(tmp_path / "in", number, 18, SeriesDescription="Thorax 5.0 B31f")
    lake = f"s3://{s3.bucket()}/lake"
    harvest(HarvestConfig(sources=(str(tmp_path / "in"),), lake=lake, phi="keep"))
    report = label(LabelConfig(lake=lake))
    assert (report.series, report.rollup.rolled) == (3, 3)
    assert label(LabelConfig(lake=lake)).rollup.rolled == 0
    assert "sequence: CT   [SEQ-CT, coded]" in explain(ExplainConfig(series="1.2.3.0", lake=lake))
    with radnet_lake.connect(lake) as connection:
        assert connection.execute("select max(remaining) from funnel").fetchall() == [(3,)]
