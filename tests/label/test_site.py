"""What a user relies on when saying what series are: overrides, and the site's protocol table."""

import csv
import datetime
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from dicom_files import write_series
from s3_server import S3Server
from site_files import GOOD, HEADER, parse_overrides, write_protocols

import radnet_lake
from radnet_lake import schema
from radnet_lake.errors import LakeError, SettingError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.site import (
    OverrideConfig,
    ProtocolsConfig,
    find_unmatched,
    load_site,
    override,
    protocols,
    read_overrides,
    read_protocols,
)
from radnet_lake.label.site_csv import LABELS, OVERRIDES, PROTOCOLS, read_rows
from radnet_lake.lake import sql_files
from radnet_lake.lake.log import Lake, create_lake

CT = "1.2.840.10008.5.1.4.1.1.2"
SERIES = {
    "Modality": "CT", "SOPClassUID": CT, "object_kind": "image", "collection": "c",
    "geometry": "regular", "slice_count": 30, "slice_spacing_mm": 5.0, "Rows": 512, "Columns": 512,
    "PixelSpacing": [0.8, 0.8], "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0],
    "StudyInstanceUID": "1.2", "SeriesDescription": "a name", "n_studies": 1, "n_patients": 1,
    "varying_keywords": [], "empty_keywords": [], "unparseable_keywords": [], "flags": [],
    "multivalued_keywords": [], "mosaic": False, "image_types": [],
}  # fmt: skip


def make_lake(folder: Path, phi: str = "keep", series: tuple[str, ...] = ("1.2.3.1",)) -> Lake:
    lake = create_lake(str(folder / "lake"), phi, "" if phi == "keep" else "k")
    rows = [{"SeriesInstanceUID": uid, "uri": uid} for uid in series]
    table = pa.Table.from_pylist(rows, schema.TABLES["instances"])
    lake.commit(add=[lake.write_part("instances", table, "x")])
    return lake


def say(lake: Lake, **change: str) -> str:
    words = {"series": "1.2.3.1", "label": "view", "value": "axial", "who": "A.", "why": "seen"}
    return str(override(OverrideConfig(**(words | change), lake=lake.uri)))


def test_an_override_is_kept_with_who_when_and_why(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    assert read_overrides(lake).num_rows == read_overrides(None).num_rows == 0
    before = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    stated = say(lake, label="coverage", value="", who='A. "R"', why="seen;\nthrice")
    (row,) = read_overrides(lake).to_pylist()
    assert row["file"] in stated
    assert (row["value"], row["who"], row["why"]) == ("", 'A. "R"', "seen;\nthrice")
    assert before <= row["when"] <= before + datetime.timedelta(minutes=1)
    say(lake, label="coverage", value="pelvis|BRAIN")
    assert {r["value"] for r in read_overrides(lake).to_pylist()} == {"", "brain|pelvis"}


def test_what_the_lake_does_not_hold_or_no_label_has_is_not_added(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    with pytest.raises(SettingError, match="no such series"):
        say(lake, series="1.2.3.99")
    with pytest.raises(SettingError, match="value: found `axial`, allowed is true, false"):
        say(lake, label="contrast")
    for missing in ("series", "label", "value", "who", "why"):
        with pytest.raises(SettingError, match="missing"):
            say(lake, **{missing: ""})
    with pytest.raises(SettingError, match="stands alone"):
        say(lake, from_file="x.csv")
    assert not lake.folder.names("overrides/")


def test_a_file_of_many_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    path = tmp_path / "many.csv"
    config = OverrideConfig(from_file=str(path), lake=lake.uri)
    path.write_text(f"{HEADER}\n{GOOD}\n{GOOD.replace('.1,', '.7,')}\n{GOOD.replace('.1,', '.8,')}")
    with pytest.raises(SettingError, match="lines 3, 4: SeriesInstanceUID: not in the lake"):
        override(config)
    path.write_text(f"{HEADER}\n{GOOD}\n{GOOD.replace('axial', 'coronal')}")
    with pytest.raises(SettingError, match=r"many\.csv, line 2 and .*many\.csv, line 3: of one"):
        override(config)
    path.write_text(HEADER)
    with pytest.raises(SettingError, match="no row"):
        override(config)
    path.unlink()
    with pytest.raises(SettingError, match="No such file"):
        override(config)
    assert not lake.folder.names("overrides/")
    say(lake)
    path.write_text(f"{HEADER}\n{GOOD}\n{GOOD.replace('view,axial', 'contrast,true')}")
    report = override(config)
    assert (report.rows, report.late) == (2, 1)
    assert "1 without effect" in str(report)
    assert read_overrides(lake).num_rows == 3


def test_many_people_at_once_lose_nothing(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: say(lake, who=f"reader {n}"), range(16)))
    assert len(set(read_overrides(lake)["who"].to_pylist())) == 16


def test_equal_times_that_differ_are_refused_until_a_later_row_decides(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.folder.write("overrides/a.csv", f"{HEADER}\n{GOOD}".encode())
    lake.folder.write("overrides/b.csv", f"{HEADER}\n{GOOD}\n".encode())
    assert read_overrides(lake).num_rows == 2
    lake.folder.write("overrides/b.csv", f"{HEADER}\n{GOOD.replace('axial', 'coronal')}".encode())
    with pytest.raises(
        SettingError, match=r"overrides/a\.csv, line 2 and .*overrides/b\.csv, line"
    ):
        read_overrides(lake)
    say(lake)
    assert read_overrides(lake).num_rows == 3


def test_what_lies_in_the_folder_is_used_or_refused(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.folder.write("overrides/.DS_Store", b"x")
    lake.folder.write("overrides/~$a.xlsx", b"x")
    lake.folder.write("overrides/A.CSV", f"{HEADER}\n{GOOD}".encode())
    assert read_overrides(lake).num_rows == 1
    for name, read in (
        ("overrides/a.xlsx", read_overrides),
        ("overrides/old/a.csv", read_overrides),
        ("protocols/a.csv.gz", read_protocols),
    ):
        lake.folder.write(name, f"{HEADER}\n{GOOD}".encode())
        with pytest.raises(SettingError, match=r"not a file NAME\.csv"):
            read(lake)
        lake.folder.delete([name])


def test_a_bad_protocol_file_is_not_stored_and_a_good_one_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = make_lake(tmp_path)
    path = tmp_path / "p.csv"
    config = ProtocolsConfig(add=str(path), lake=lake.uri)
    path.write_bytes(write_protocols({"sequence": "", "view": ""}))
    with pytest.raises(SettingError, match="line 2: no label"):
        protocols(config)
    assert not lake.folder.names("protocols/")
    path.write_bytes(write_protocols({"valid_from": "2020-01-01", "coverage": "none"}))
    protocols(config)
    assert "1 row stored as" in capsys.readouterr().out
    (row,) = read_protocols(lake).to_pylist()
    assert (row["coverage"], row["view"], row["trust_extent"]) == ("", None, False)
    assert row["valid_from"] == datetime.date(2020, 1, 1)


def test_shifted_dates_are_not_compared_with_true_ones(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, phi="pseudonymise")
    lake.folder.write("protocols/p.csv", write_protocols({}, {"valid_to": "2020-01-01"}))
    with pytest.raises(SettingError, match=r"p\.csv: line 3: valid_from, valid_to: .* shifted"):
        read_protocols(lake)


def test_protocols_before_labelling_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="radnet-lake label"):
        protocols(ProtocolsConfig(lake=make_lake(tmp_path).uri))


def test_a_lake_on_s3_keeps_overrides_too(s3: S3Server) -> None:
    lake = create_lake(f"s3://{s3.bucket()}/lake", "keep", "")
    table = pa.Table.from_pylist([{"SeriesInstanceUID": "1.2.3.1"}], schema.TABLES["instances"])
    lake.commit(add=[lake.write_part("instances", table, "x")])
    say(lake, value="coronal")
    with pytest.raises(SettingError, match="no such series"):
        say(lake, series="1.2.3.2")
    s3.put(lake.uri.split("/")[2], "lake/overrides/mine.csv", f"{HEADER}\n{GOOD}".encode())
    assert set(read_overrides(lake)["value"].to_pylist()) == {"axial", "coronal"}


@pytest.fixture
def decide(rollup_columns: pa.Schema) -> Any:
    """(series, override lines, protocol rows) -> (series UID, label) -> value, rule, conflict,
    evidence."""

    def run(
        series: list[dict[str, Any]], lines: tuple[str, ...] = (), *changes: dict[str, str]
    ) -> dict[tuple[str, str], tuple[Any, ...]]:
        rows = [dict.fromkeys(rollup_columns.names) | SERIES | row for row in series]
        stage = pa.Table.from_pylist(rows, rollup_columns)
        table = pa.Table.from_pylist(parse_overrides(*lines), OVERRIDES.schema)
        protocols = read_rows(write_protocols(*changes), PROTOCOLS, "p.csv")
        with duckdb.connect() as connection:
            connection.register("given", stage)
            connection.execute("create schema stage; create table stage.series as from given")
            sql_files.create_tables(connection)
            sql_files.create_macros(connection)
            connection.execute("create table rule.run as select 'default' as mode")
            load_site(connection, table, pa.Table.from_pylist(protocols, PROTOCOLS.schema))
            for folder in ("3_text", "4_evidence", "5_hit", "6_decision"):
                sql_files.run_folder(connection, folder, materialise=True)
            found = connection.execute(
                "select SeriesInstanceUID, label, value, rule_id, conflict, evidence"
                " from decision.decision where tier = 'site'"
            ).fetchall()
        return {
            (uid, label): (value, rule, conflict, json.loads(evidence))
            for uid, label, value, rule, conflict, evidence in found
        }

    return run


def test_the_latest_word_on_a_series_wins_over_every_rule(decide: Any) -> None:
    series = [{"SeriesInstanceUID": f"1.{n}", "SeriesDescription": "CHEST"} for n in range(4)]
    stated = decide(
        series,
        (
            "1.0,view,coronal,A.,2026-01-01,first",
            "1.0,view,sagittal,B.,2026-01-02,second",
            "1.1,view,coronal,A.,2026-01-01,first",
            "1.1,view,rules,A.,2026-01-01T00:00:01,mistaken",
            "1.2,view,unknown,A.,2026-01-01,blurred",
            "1.2,coverage,,A.,2026-01-01,a phantom",
            "1.3,sequence,OTHER,A.,2026-01-01,x",
            "1.3,contrast,true,A.,2026-01-01,x",
            "1.3,time_series,true,A.,2026-01-01,x",
            "9.9,view,axial,A.,2026-01-01,a series that went",
        ),
    )
    second = {"who": "B.", "when": "2026-01-02 00:00:00", "why": "second"}
    assert stated["1.0", "view"] == ("sagittal", "SITE-SERIES-VIEW", False, second)
    assert ("1.1", "view") not in stated
    assert stated["1.2", "view"][:3] == (None, "SITE-SERIES-VIEW", False)
    assert stated["1.2", "coverage"][:2] == ("", "SITE-SERIES-COVERAGE")
    assert [stated["1.3", name][0] for name in ("sequence", "contrast", "time_series")] == [
        "OTHER", "true", "true",
    ]  # fmt: skip
    assert {uid for uid, _ in stated} == {"1.0", "1.2", "1.3"}


@pytest.mark.parametrize(
    ("match_on", "column", "value"),
    [
        ("ProtocolName", "ProtocolName", "6.1 FLAIR\0"),
        ("SeriesDescription", "SeriesDescription", "x'); drop table stage.series; -- \"Flair"),
        ("StudyDescription", "StudyDescription", "a\nFlair "),
        ("StationName", "StationName", "ÄFLAIR2"),
        (
            "ProcedureCode",
            "ProcedureCodeSequence",
            [{"CodeValue": "X1"}, {"CodeValue": "FLAIR"}, {"CodeValue": "2FLAIR"}],
        ),
    ],
)
def test_a_protocol_reads_the_text_that_it_names(
    decide: Any, match_on: str, column: str, value: Any
) -> None:
    stated = decide(
        [{"SeriesInstanceUID": "1.1", column: value}, {"SeriesInstanceUID": "1.2"}],
        (),
        {"match_on": match_on, "pattern": r"fLAir\d?$", "modality": "ct"},
        {"match_on": match_on, "pattern": "FLAIR", "protocol": "of MR", "modality": "MR"},
    )
    ((key, (answer, rule, conflict, evidence)),) = stated.items()
    assert key == ("1.1", "sequence")
    assert (answer, rule, conflict) == ("T2-FLAIR", "SITE-PROTOCOL-SEQUENCE", False)
    assert evidence.pop("protocol") == "brain"
    assert (evidence.pop("approved_by"), evidence.pop("why")) == ("B. Physicist", "house protocol")
    seen = evidence[column]
    assert ([c["CodeValue"] for c in seen] if match_on == "ProcedureCode" else seen) == (
        ["X1", "FLAIR", "2FLAIR"] if match_on == "ProcedureCode" else value
    )


def test_patterns_are_patterns_and_never_sql(decide: Any) -> None:
    hostile = "'; drop table stage.series; --"
    stated = decide(
        [{"SeriesInstanceUID": "1.1", "SeriesDescription": f"x{hostile.upper()}"}],
        (),
        {"pattern": hostile, "protocol": hostile, "why": "$$ ' {} %s"},
    )
    assert stated["1.1", "sequence"][3]["protocol"] == hostile


@pytest.mark.long
def test_a_protocol_holds_between_its_dates(decide: Any) -> None:
    days = ["2020-01-01", "2020-06-01", "2020-12-31", "2021-01-01"]
    series = [
        {"SeriesInstanceUID": f"1.{n}", "SeriesDescription": "FLAIR", "StudyDate": day}
        for n, day in enumerate([*map(datetime.date.fromisoformat, days), None])
    ]
    stated = decide(series, (), {"valid_from": "2020-06-01", "valid_to": "2020-12-31"})
    assert sorted(uid for uid, _ in stated) == ["1.1", "1.2"]
    assert len(decide(series, (), {})) == 5


def test_protocols_that_disagree_give_no_answer_and_show_both(decide: Any) -> None:
    series = [{"SeriesInstanceUID": f"1.{n}", "SeriesDescription": "AX FLAIR"} for n in range(2)]
    stated = decide(
        series,
        ("1.1,sequence,STIR,A.,2026-01-01,seen",),
        {"contrast": "true", "view": "axial", "time_series": "false"},
        {"protocol": "old", "pattern": "^AX", "sequence": "T1-FLAIR", "contrast": "true"},
    )
    value, rule, conflict, evidence = stated["1.0", "sequence"]
    assert (value, rule, conflict) == (None, "SITE-PROTOCOL-SEQUENCE", True)
    assert evidence["protocol"] == "brain; old"
    assert evidence["says"] == "T2-FLAIR; T1-FLAIR"
    assert stated["1.1", "sequence"][:3] == ("STIR", "SITE-SERIES-SEQUENCE", False)
    assert stated["1.0", "contrast"][:3] == ("true", "SITE-PROTOCOL-CONTRAST", False)
    assert stated["1.0", "view"][:3] == ("axial", "SITE-PROTOCOL-VIEW", False)
    assert stated["1.0", "time_series"][:3] == ("false", "SITE-PROTOCOL-TIME", False)


@pytest.mark.long
def test_a_later_row_about_the_same_texts_replaces_a_protocol(decide: Any) -> None:
    series = [{"SeriesInstanceUID": "1.1", "SeriesDescription": "FLAIR"}]
    later = {"when": "2026-02-01T12:00"}
    assert decide(series, (), {}, {**later, "sequence": "STIR"})["1.1", "sequence"][0] == "STIR"
    assert decide(series, (), {}, {**later, "sequence": "rules"}) == {}
    stated = decide(series, (), {**later, "sequence": "unknown"}, {})
    assert stated["1.1", "sequence"][:3] == (None, "SITE-PROTOCOL-SEQUENCE", False)


@pytest.mark.long
def test_coverage_by_protocol_must_fit_the_stack_unless_trusted(decide: Any) -> None:
    series = [{"SeriesInstanceUID": "1.1", "SeriesDescription": "FLAIR", "slice_count": 28}]
    whole = {"sequence": "", "coverage": "brain|lung|kidney"}
    value, rule, conflict, evidence = decide(series, (), whole)["1.1", "coverage"]
    assert (value, rule, conflict) == ("brain|kidney", "SITE-PROTOCOL-COVERAGE", False)
    assert evidence["too_short"] == ["lung"]
    trusted = decide(series, (), whole | {"trust_extent": "TRUE"})["1.1", "coverage"]
    assert trusted[0] == "brain|lung|kidney"
    assert "too_short" not in trusted[3]
    none = decide(series, (), {"sequence": "", "coverage": "none"})["1.1", "coverage"]
    assert (none[0], none[3]["says"]) == ("", "none")


def test_every_registered_site_rule_decides(decide: Any) -> None:
    values = dict(zip(LABELS, ("OTHER", "oblique", "true", "brain", "true"), strict=True))
    series = [{"SeriesInstanceUID": f"1.{n}", "SeriesDescription": "FLAIR"} for n in range(2)]
    lines = (f"1.1,{name},{value},A.,2026-01-01,x" for name, value in values.items())
    stated = decide(series, tuple(lines), values)
    rules = sql_files.read_csv(schema.SQL_DIR / "rules" / "site.csv")
    deciding = {(rule, name) for (_, name), (_, rule, *_) in stated.items()}
    assert deciding == {(row["rule_id"], row["label"]) for row in rules}


def test_what_lacks_most_labels_is_listed_first() -> None:
    plain = {f"{name}_tier": "series_text" for name in LABELS}
    plain |= {f"{name}_conflict": False for name in LABELS}
    plain |= {"Modality": "MR", "StudyDescription": "Brain 1", "ProtocolName": "P"}
    plain |= {"sequence": "T2-SE", "view": "axial", "contrast": True, "coverage": ["brain"]}
    plain |= {"time_series": False, "exclusions": []}
    rows = [
        *[{"SeriesDescription": f"Tête {n} T2", "contrast": None} for n in (1, 22, 333)],
        *[{"SeriesDescription": "scout", "contrast": None, "exclusions": ["geom"]}] * 4,
        *[{"SeriesDescription": "x", "sequence": None, "exclusions": ["seq"]}] * 2,
        {"SeriesDescription": "known", "contrast": None, "sequence": "DWI", "exclusions": ["seq"]},
        {"SeriesDescription": "site", "contrast": None, "contrast_tier": "site"},
        {"SeriesDescription": "tie", "contrast": None, "contrast_conflict": True},
        {"SeriesDescription": "report", "contrast": None, "exclusions": ["not_image"]},
        {"SeriesDescription": "fine"},
        {"SeriesDescription": "moves", "time_series_conflict": True, "exclusions": ["time"]},
        {"SeriesDescription": "odd", "sequence_conflict": True, "exclusions": ["conflict"]},
    ]
    series = [plain | row | {"SeriesInstanceUID": f"1.{n:02d}"} for n, row in enumerate(rows)]
    series[7]["StudyDescription"] = series[8]["StudyDescription"] = ""
    series[11]["contrast_tier"] = "site"
    with duckdb.connect() as connection:
        sql_files.create_macros(connection)
        connection.register("series", pa.Table.from_pylist(series))
        path = schema.SQL_DIR / "9_main" / "60_protocols.sql"
        connection.execute(path.read_text(encoding="utf-8"))
        listed = connection.execute(
            "select series_pattern, study_pattern, study_keyword, labels_to_win, n_series,"
            " no_contrast, no_sequence, n_conflict, example from protocols"
        ).fetchall()
    assert listed == [
        ("TETE # T#", "BRAIN #", "StudyDescription", 3, 3, 3, 0, 0, "1.00"),
        ("X", "P", "ProtocolName", 2, 2, 0, 2, 0, "1.07"),
        ("MOVES", "BRAIN #", "StudyDescription", 1, 1, 0, 0, 1, "1.14"),
        ("ODD", "BRAIN #", "StudyDescription", 1, 1, 0, 0, 1, "1.15"),
        ("TIE", "BRAIN #", "StudyDescription", 1, 1, 0, 0, 1, "1.11"),
        ("SCOUT", "BRAIN #", "StudyDescription", 0, 4, 4, 0, 0, "1.03"),
        ("KNOWN", "BRAIN #", "StudyDescription", 0, 1, 1, 0, 0, "1.09"),
    ]


def test_a_lake_labelled_with_what_people_said(
    tmp_path: Path, ray_local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from radnet_lake.label.explain import ExplainConfig, explain
    from radnet_lake.label.label import LabelConfig, label

    for number in range(3):
        write_series(tmp_path / "in", number, 4, SeriesDescription=f"x {number}")
    uri = str(tmp_path / "lake")
    harvest(HarvestConfig((str(tmp_path / "in"),), lake=uri, phi="keep"))
    say(Lake(create_lake(uri, "keep", "").folder, {}), label="contrast", value="true")
    path = tmp_path / "p.csv"
    path.write_bytes(write_protocols({"pattern": "^x 2$", "sequence": "", "contrast": "false"}))
    protocols(ProtocolsConfig(add=str(path), lake=uri))
    label(LabelConfig(lake=uri))
    with radnet_lake.connect(uri) as connection:
        rows = connection.execute(
            "select SeriesDescription, contrast, contrast_tier = 'site' from series order by all"
        ).fetchall()
        unmatched = find_unmatched(connection, read_overrides(create_lake(uri, "keep", "")))
    assert rows[1:] == [("x 1", True, True), ("x 2", False, True)]
    assert rows[0][2] is not True
    assert unmatched == []
    stated = explain(ExplainConfig(series="1.2.3.1", lake=uri))
    assert "contrast: yes   [SITE-SERIES-CONTRAST, site]" in stated
    assert 'who = "A."' in stated
    capsys.readouterr()
    protocols(ProtocolsConfig(lake=uri, format="csv"))
    listed = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert all(row["series_pattern"] == "X #" for row in listed)
