"""What is stored of a patient, and what never is."""

import copy
import csv
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file

from radnet_lake.deidentify import (
    NAME_MARK,
    PROMOTE_PATIENTS,
    Deidentifier,
    bin_age,
    fold_word,
    load_key,
    load_vocabulary,
)
from radnet_lake.errors import SettingError
from radnet_lake.schema import ATTRIBUTES, SQL_DIR

KEY = b"0123456789abcdef0123456789abcdef"
OTHER_KEY = b"fedcba9876543210fedcba9876543210"
NAMES = ["QUIMBY^ZARAH^^DR^", "Grotowski^Olaf", "ZX-4417-B", "A7733219"]
VOCABULARY = load_vocabulary()


@pytest.fixture
def deidentifier() -> Deidentifier:
    return Deidentifier(KEY, VOCABULARY)


def clean_text(deidentifier: Deidentifier, text: str, identifiers: list[str] | None = None) -> str:
    row: dict[str, Any] = {"SeriesDescription": text}
    deidentifier.clean_row(row, identifiers or [])
    return str(row["SeriesDescription"])


def make_row() -> dict[str, Any]:
    return {
        "PatientID": "A7733219",
        "IssuerOfPatientID": "ST ELSEWHERE",
        "PatientSex": "F",
        "PatientAge": "047Y",
        "StudyInstanceUID": "1.3.6.1.4.1.9999.1",
        "SeriesInstanceUID": "1.3.6.1.4.1.9999.1.2",
        "SOPInstanceUID": "1.3.6.1.4.1.9999.1.2.3",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        "FrameOfReferenceUID": "",
        "AccessionNumber": "ZX-4417-B",
        "InstitutionName": "St. Elsewhere",
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "QUIMBY", "ND"],
        "SeriesDescription": "AX T2 FLAIR +C Quimby",
        "StudyDescription": "MRI BRAIN W/WO for Dr. Grotowski 2021-03-04",
        "SequenceName": "*tse2d1_9",
        "AnatomicRegionSequence": [
            {"CodeValue": "T-A0100", "CodingSchemeDesignator": "SRT", "CodeMeaning": "Brain Quimby"}
        ],
        "StudyDate": datetime.date(2021, 3, 4),
        "AcquisitionDate": datetime.date(2021, 3, 5),
        "StudyTime": 36000.0,
        "AcquisitionTime": 37000.5,
        "ContrastBolusStartTime": 36990.25,
        "AcquisitionDateTime": datetime.datetime(2021, 3, 5, 10, 16, 40, 500000),
        "EchoTime": 90.0,
        "ImagePositionPatient": [1.0, 2.0, 3.0],
        "uri": "file",
    }


def test_row_keeps_physics_and_loses_identity(deidentifier: Deidentifier) -> None:
    row = make_row()
    deidentifier.clean_row(row, NAMES)
    text = json.dumps(row, default=str).upper()
    for word in ("QUIMBY", "GROTOWSKI", "A7733219", "4417", "ELSEWHERE", "2021", "1.3.6.1"):
        assert word not in text
    assert (row["EchoTime"], row["ImagePositionPatient"]) == (90.0, [1.0, 2.0, 3.0])
    assert (row["PatientSex"], row["PatientAge"]) == ("F", "045Y")
    assert row["SeriesDescription"] == "AX T2 FLAIR +C <x>"
    assert row["StudyDescription"].startswith("MRI BRAIN W/WO for <x>")
    assert row["SequenceName"] == "*tse2d1_9"
    assert row["ImageType"] == ["ORIGINAL", "PRIMARY", "<x>", "ND"]
    assert row["AnatomicRegionSequence"][0] == {
        "CodeValue": "T-A0100",
        "CodingSchemeDesignator": "SRT",
        "CodeMeaning": "Brain <x>",
    }
    assert row["SOPClassUID"] == "1.2.840.10008.5.1.4.1.1.4"
    assert all(len(row[c]) == 32 for c in ("PatientID", "AccessionNumber", "InstitutionName"))


def test_column_unknown_to_schema_is_dropped(deidentifier: Deidentifier) -> None:
    row = {"PatientName": "QUIMBY^ZARAH", "Rows": 512}
    deidentifier.clean_row(row, [])
    assert row == {"Rows": 512}


def test_empty_stays_empty_and_absent_stays_absent(deidentifier: Deidentifier) -> None:
    texts = [a.keyword for a in ATTRIBUTES if a.kind in ("uid", "text") and a.phi != "age"]
    row: dict[str, Any] = dict.fromkeys(texts, "")
    deidentifier.clean_row(row, [])
    assert set(row.values()) == {""}
    row = dict.fromkeys((a.keyword for a in ATTRIBUTES), None)
    deidentifier.clean_row(row, [])
    assert set(row.values()) == {None}
    row = {}
    deidentifier.clean_row(row, [])
    assert row == {}


def test_same_key_in_another_process_gives_same_row_and_seals(deidentifier: Deidentifier) -> None:
    row = make_row()
    withheld = deidentifier.clean_row(row, NAMES)
    program = (
        "import datetime, sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from test_deidentify import *\n"
        "d = Deidentifier(KEY, VOCABULARY); row = make_row(); words = d.clean_row(row, NAMES)\n"
        "print(json.dumps([row, words, d.key_id, d.seal_uri('a/b')], default=str, sort_keys=True))"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(here.parent), str(here)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    ours = [row, withheld, deidentifier.key_id, deidentifier.seal_uri("a/b")]
    assert done.stdout.strip() == json.dumps(ours, default=str, sort_keys=True)


def test_other_key_shares_no_hash_no_uid_no_seal(deidentifier: Deidentifier) -> None:
    ours, theirs = make_row(), make_row()
    other = Deidentifier(OTHER_KEY, VOCABULARY)
    words, other_words = deidentifier.clean_row(ours, NAMES), other.clean_row(theirs, NAMES)
    for column in ("PatientID", "AccessionNumber", "StudyInstanceUID", "SOPInstanceUID"):
        assert ours[column] != theirs[column]
    assert not set(words) & set(other_words)
    assert deidentifier.key_id != other.key_id
    assert deidentifier.seal_uri("x/y") != other.seal_uri("x/y")


def test_wrong_key_and_damage_are_told(deidentifier: Deidentifier) -> None:
    sealed = deidentifier.seal_uri("s3://bucket/Quimby/1.dcm")
    for damaged in (sealed[:-1], sealed[:12] + "!" + sealed[13:], "sealed:é/é"):
        with pytest.raises(SettingError, match="does not open"):
            deidentifier.open_uri(damaged)
    with pytest.raises(SettingError, match="the key that the lake was made with") as caught:
        Deidentifier(OTHER_KEY, VOCABULARY).open_uri(sealed)
    assert "Quimby" not in str(caught.value)
    with pytest.raises(SettingError):
        deidentifier.open_sealed(sealed.removeprefix("sealed:").partition("/")[0])


@given(st.text(max_size=40))
def test_whoever_has_the_key_gets_every_path_back(uri: str) -> None:
    deidentifier = Deidentifier(KEY, frozenset())
    sealed = deidentifier.seal_uri(uri)
    assert deidentifier.open_uri(sealed) == uri
    assert sealed == deidentifier.seal_uri(uri)
    assert deidentifier.open_sealed(deidentifier.seal(uri)) == uri


def test_paths_of_one_folder_share_a_prefix(deidentifier: Deidentifier) -> None:
    one, two = (deidentifier.seal_uri(f"/pacs/Quimby Zarah/{n}.dcm") for n in "12")
    folder = one.rpartition("/")[0]
    assert folder == two.rpartition("/")[0]
    assert one != two
    assert "Quimby" not in one
    member, other = (deidentifier.seal_uri(f"/pacs/a.zip!/Quimby/{n}") for n in "12")
    assert member.count("!/") == 1
    assert member.rpartition("/")[0] == other.rpartition("/")[0]
    assert deidentifier.open_uri(member) == "/pacs/a.zip!/Quimby/1"
    odd = b"/pacs/\xff\xfe name\n".decode(errors="surrogateescape")
    assert deidentifier.open_uri(deidentifier.seal_uri(odd)) == odd
    assert deidentifier.open_uri("/a/plain/uri") == "/a/plain/uri"


def test_key_comes_from_file_before_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RADNET_LAKE_KEY_FILE", raising=False)
    monkeypatch.setenv("RADNET_LAKE_KEY", f" {OTHER_KEY.decode()}\n")
    assert load_key() == OTHER_KEY
    file = tmp_path / "key"
    file.write_bytes(KEY + b"\n")
    monkeypatch.setenv("RADNET_LAKE_KEY_FILE", str(file))
    assert load_key() == KEY
    file.write_bytes(b"short secret\n")
    with pytest.raises(SettingError, match="openssl rand -hex 32") as caught:
        load_key()
    assert "short secret" not in str(caught.value)
    monkeypatch.setenv("RADNET_LAKE_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingError, match="cannot be read"):
        load_key()
    monkeypatch.delenv("RADNET_LAKE_KEY_FILE")
    monkeypatch.delenv("RADNET_LAKE_KEY")
    with pytest.raises(SettingError, match="--phi keep"):
        load_key()
    with pytest.raises(SettingError, match="32"):
        Deidentifier(b"too short", VOCABULARY)


def test_one_patient_is_one_hash_unless_another_issuer_reuses_the_id(
    deidentifier: Deidentifier,
) -> None:
    rows = [make_row() for _ in range(3)]
    rows[1]["IssuerOfPatientID"] = "ELSEWHERE"
    rows[2]["StudyInstanceUID"] = "1.2.3"
    for row in rows:
        deidentifier.clean_row(row, NAMES)
    assert rows[0]["PatientID"] == rows[2]["PatientID"]
    assert rows[0]["PatientID"] != rows[1]["PatientID"]
    assert rows[0]["StudyDate"] == rows[2]["StudyDate"]
    assert rows[0]["PatientID"] == deidentifier.patient_hash("A7733219", "ST ELSEWHERE")
    assert deidentifier.patient_hash("12", "3") != deidentifier.patient_hash("2", "31")
    assert deidentifier.patient_hash("", None, "1.2") == deidentifier.patient_hash(None, "", "1.2")
    assert deidentifier.patient_hash("", "issuer") == ""


def test_equal_text_in_two_attributes_has_two_hashes(deidentifier: Deidentifier) -> None:
    row = {"StationName": "CT1", "InstitutionName": "CT1", "PatientID": "CT1"}
    deidentifier.clean_row(row, [])
    assert len(set(row.values())) == 3


def test_references_between_objects_survive(deidentifier: Deidentifier) -> None:
    row = make_row()
    header = {
        "0020000D": {"vr": "UI", "Value": [row["StudyInstanceUID"]]},
        "00081115": {
            "vr": "SQ",
            "Value": [{"0020000E": {"vr": "UI", "Value": [row["SeriesInstanceUID"]]}}],
        },
        "00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
    }
    deidentifier.clean_row(row, NAMES)
    deidentifier.clean_header(header, NAMES)
    assert header["0020000D"]["Value"] == [row["StudyInstanceUID"]]
    inner = header["00081115"]["Value"][0]
    assert isinstance(inner, dict)
    assert inner["0020000E"]["Value"] == [row["SeriesInstanceUID"]]
    assert header["00081150"]["Value"] == ["1.2.840.10008.5.1.4.1.1.2"]
    assert row["SeriesInstanceUID"].startswith("2.25.")
    assert len(row["SeriesInstanceUID"]) <= 64


def test_differences_between_dates_and_times_survive(deidentifier: Deidentifier) -> None:
    before, row = make_row(), make_row()
    deidentifier.clean_row(row, NAMES)
    shift = before["StudyDate"] - row["StudyDate"]
    assert 1 <= shift.days <= 3650
    assert before["AcquisitionDate"] - row["AcquisitionDate"] == shift
    assert row["StudyTime"] == 0
    assert row["AcquisitionTime"] - row["ContrastBolusStartTime"] == 10.25
    moment = datetime.datetime.combine(row["AcquisitionDate"], datetime.time())
    moment += datetime.timedelta(seconds=row["AcquisitionTime"])
    assert moment == row["AcquisitionDateTime"]


@given(st.floats(0, 86399.999), st.floats(0, 86399.999))
def test_times_without_study_time_keep_their_difference(one: float, two: float) -> None:
    row = {"AcquisitionTime": one, "ContrastBolusStartTime": two, "PatientID": "1"}
    Deidentifier(KEY, frozenset()).clean_row(row, [])
    assert row["AcquisitionTime"] != one
    difference = float(row["AcquisitionTime"]) - float(row["ContrastBolusStartTime"])
    assert difference == pytest.approx(one - two, abs=2e-6)


def test_date_before_the_calendar_is_dropped(deidentifier: Deidentifier) -> None:
    row = {"StudyDate": datetime.date(1, 1, 1), "AcquisitionDateTime": datetime.datetime.min}
    deidentifier.clean_row(row, [])
    assert row == {"StudyDate": None, "AcquisitionDateTime": None}


@pytest.mark.parametrize(
    ("age", "binned"),
    [
        ("045Y", "045Y"),
        ("049Y", "045Y"),
        ("012M", "000Y"),
        ("120M", "010Y"),
        ("003W", "000Y"),
        ("010D", "000Y"),
        ("089Y", "085Y"),
        ("090Y", "090Y"),
        ("104Y", "090Y"),
        ("born 1931", None),
        ("45", None),
    ],
)
def test_ages_are_binned(age: str, binned: str | None) -> None:
    assert bin_age(age) == binned


@pytest.mark.parametrize(
    "text",
    [
        "AX T2 FLAIR +C",
        "C- 3 PLANE LOC",
        "CT CHEST W/O CONTRAST",
        "3-pl T2* FGRE S",
        "Thorax^04_0_CAP_Routine (Adult)",
        "t2_tse_tra_p2",
        "ISPY2: Ph6/Ax VIBRANT MPh +C",
        "NON-IONIC",
        "Contrast/Bolus Agent: nonionic",
        "AxFLAIR",
        "bodyCE",
        "HEADtoFEET",
        "ep2d_diff_b0_100_400_800__ADC",
        "Thorax Wo  3.0  Br59 LUNG",
        "_T2_I.A.C.     * T2 TSE",
        "COR T1 SE+C F.S.",
        "P.Venous pha  3.0  B40f",
        "PESCOÇO SAGIT",
        "Abdomen^KlpBrzuchMiednica (Adult)",
        "MiednicaPOZNE  1.5  I30f   iMAR",
        "W&W/O",
        "11 ml Omniscan",
        "ISOVUE300/100",
        "胸部平扫",
        "\u0441 контрастом",
        "THORAX 1X1X2 2.5MM",
        "T=16%,PR=11% -> 20%,AR(cm)=-0.28 -> 1.01  4D CT",
        "ST+ N16/13/18 A20/30",
        "Apparent Diffusion Coefficient (mm2/s)",
        "*tfl3d1_16ns",
        "SIEMENS",
        "GE MEDICAL SYSTEMS",
        "DISCOVERY MR750",
        "syngo MR E11",
        "<x>",
    ],
)
def test_words_of_the_label_rules_survive(deidentifier: Deidentifier, text: str) -> None:
    assert clean_text(deidentifier, text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("CT CHEST 2021-03-04", "CT CHEST <x>"),
        ("CT CHEST 20210304", "CT CHEST <x>"),
        ("CT CHEST 04.03.21", "CT CHEST <x>"),
        ("CT CHEST 03/04/2021", "CT CHEST <x>"),
        ("CT CHEST 4 Mar 2021", "CT CHEST <x>"),
        ("CT CHEST Mar 4, 2021", "CT CHEST <x>"),
        ("ADC 10:42:07", "ADC <x>"),
        ("MRN12345 HEAD", "MRN<x> HEAD"),
        ("A1B2C3D4 HEAD", "<x> HEAD"),
        ("HEAD jane@ward.example.org", "HEAD <x>"),
        ("HEAD call +49 30 1234-567", "HEAD <x>"),
        ("HEAD (212) 555-0147", "HEAD <x>"),
        ("HEAD 06 12 34 56 78", "HEAD <x>"),
        ("HEAD 555-0147", "HEAD <x>"),
        ("HEAD Dr. Hand", "HEAD <x>"),
        ("HEAD_DR_HEAD", "HEAD_<x>"),
        ("HEAD J. Quimby", "HEAD <x>"),
        ("HEAD Quimby, J.", "HEAD <x>"),
        ("QUIMBY^ART", "<x>"),
        ("HEAD J.Q.", "HEAD <x>"),
        ("ZarahHead", "<x>Head"),
        ("Zarah\x00\x01Quimby", "<x>"),
        ("HEAD M\u00fcllerova", "HEAD <x>"),
        ("HEAD Mu\u0308llerova", "HEAD <x>"),
        ("\uff11\uff12\uff13\uff14\uff15\uff16 HEAD", "<x> HEAD"),
        ("金太郎 HEAD", "<x> HEAD"),
        ("1.2.840.113619.2.55 HEAD", "<x> HEAD"),
    ],
)
def test_what_looks_like_a_person_is_cut(
    deidentifier: Deidentifier, text: str, cleaned: str
) -> None:
    assert clean_text(deidentifier, text) == cleaned


def test_a_patient_named_like_a_body_part_is_withheld(deidentifier: Deidentifier) -> None:
    assert clean_text(deidentifier, "MR Head Neck", ["HEAD^JOHN"]) == "MR <x> Neck"
    assert clean_text(deidentifier, "MR Head Neck", ["NECK^JOHN"]) == "MR Head <x>"
    assert clean_text(deidentifier, "study 12-34 LUNG", ["12-34"]) == "study <x> LUNG"
    assert clean_text(deidentifier, "CTLÁszló LUNG", ["LASZLO^"]) in ("<x> LUNG", "CT<x> LUNG")
    row = {"BodyPartExamined": "CHEST", "Modality": "CT", "ImageType": ["CHEST_AX", "CHEST"]}
    deidentifier.clean_row(row, ["Chest^Ann"])
    assert row == {
        "BodyPartExamined": "<x>",
        "Modality": "CT",
        "ImageType": ["<x>_AX", "<x>"],
    }


def test_words_of_many_patients_are_let_through_but_names_never(
    deidentifier: Deidentifier,
) -> None:
    row = {"SeriesDescription": "AX ZZSPIN Quimby 12345678"}
    withheld = deidentifier.clean_row(row, ["QUIMBY^ZARAH"])
    plain = [w for w in withheld if not w.startswith(NAME_MARK)]
    named = [w for w in withheld if w.startswith(NAME_MARK)]
    assert [deidentifier.open_sealed(w) for w in plain] == ["ZZSPIN"]
    assert [deidentifier.open_sealed(w.removeprefix(NAME_MARK)) for w in named] == ["QUIMBY"]
    quimby = deidentifier.seal("QUIMBY")
    counts = [(plain[0], PROMOTE_PATIENTS), (named[0], 1), (quimby, 900)]
    assert deidentifier.promote(counts) == plain
    assert deidentifier.promote([(plain[0], PROMOTE_PATIENTS - 1)]) == []
    with pytest.raises(SettingError):
        Deidentifier(OTHER_KEY, VOCABULARY).promote(counts)
    learnt = Deidentifier(KEY, VOCABULARY | {"ZZSPIN"})
    assert clean_text(learnt, "AX zzSpin") == "AX zzSpin"


def make_header() -> dict[str, Any]:
    return {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]},
        "00080020": {"vr": "DA", "Value": ["20210304"]},
        "00080030": {"vr": "TM", "Value": ["100000"]},
        "00080032": {"vr": "TM", "Value": ["101640.500000"]},
        "00080033": {"vr": "TM", "Value": ["095959"]},
        "0008002A": {"vr": "DT", "Value": ["20210305101640.500000+0100"]},
        "00080050": {"vr": "SH", "Value": ["ZX-4417-B"]},
        "00080060": {"vr": "CS", "Value": ["MR"]},
        "00080080": {"vr": "LO", "Value": ["St. Elsewhere"]},
        "00080081": {"vr": "ST", "Value": ["1 Quimby Road"]},
        "00080090": {"vr": "LO", "Value": ["Grotowski"]},
        "0008103E": {"vr": "LO", "Value": ["AX T2 Quimby"]},
        "00081010": {"vr": "SH"},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "QUIMBY^ZARAH"}]},
        "00100020": {"vr": "LO", "Value": ["A7733219"]},
        "00100030": {"vr": "DA", "Value": ["19740101"]},
        "00100040": {"vr": "CS", "Value": ["F"]},
        "00101010": {"vr": "AS", "Value": ["047Y"]},
        "00104000": {"vr": "LT", "Value": ["Quimby fell"]},
        "00180081": {"vr": "DS", "Value": [90.5]},
        "00180083": {"vr": "DS", "Value": ["Quimby"]},
        "00181210": {"vr": "SH", "Value": ["B30f"]},
        "00204000": {"vr": "LT", "Value": ["Quimby"]},
        "00282000": {"vr": "OB", "InlineBinary": "UXVpbWJ5"},
        "00400275": {"vr": "SQ", "Value": [{"00400007": {"vr": "LO", "Value": ["HEAD"]}}]},
        "00081032": {
            "vr": "SQ",
            "Value": [
                {
                    "00080100": {"vr": "SH", "Value": ["MRHEAD"]},
                    "00080104": {"vr": "LO", "Value": ["MR Head Quimby"]},
                    "00081070": {"vr": "PN", "Value": [{"Alphabetic": "Grotowski^Olaf"}]},
                }
            ],
        },
        "00190010": {"vr": "LO", "Value": ["SIEMENS MR HEADER"]},
        "0019100C": {"vr": "IS", "Value": [1000]},
        "0019100D": {"vr": "CS", "Value": ["NONE"]},
        "00290010": {"vr": "LO", "Value": ["QUIMBY PRIVATE"]},
        "00291010": {"vr": "OB", "InlineBinary": "UXVpbWJ5"},
        "60003000": {"vr": "OW", "BulkDataURI": "file:///Quimby"},
        "60000022": {"vr": "LO", "Value": ["HEAD"]},
        "52009229": {
            "vr": "SQ",
            "Value": [
                {"00289110": {"vr": "SQ", "Value": [{"00280030": {"vr": "DS", "Value": [1, 1]}}]}}
            ],
        },
    }


def test_header_keeps_what_is_known_and_denies_the_rest(deidentifier: Deidentifier) -> None:
    header = make_header()
    left_out = deidentifier.clean_header(header, NAMES)
    text = json.dumps(header).upper()
    for word in ("QUIMBY", "GROTOWSKI", "OLAF", "A7733219", "4417", "ELSEWHERE", "2021", "UXVP"):
        assert word not in text
    assert header["0008103E"]["Value"] == ["AX T2 <x>"]
    assert header["00101010"]["Value"] == ["045Y"]
    assert header["00180081"]["Value"] == [90.5]
    assert header["00181210"]["Value"] == ["B30f"]
    assert header["00081010"] == {"vr": "SH"}
    assert header["00080030"]["Value"] == ["000000"]
    assert header["00080032"]["Value"] == ["001640.500000"]
    assert header["0008002A"]["Value"][0].endswith("001640.500000+0100")
    assert header["00081032"]["Value"] == [
        {
            "00080100": {"vr": "SH", "Value": ["MRHEAD"]},
            "00080104": {"vr": "LO", "Value": ["MR Head <x>"]},
        }
    ]
    assert header["0019100C"]["Value"] == [1000]
    assert header["00190010"]["Value"] == ["SIEMENS MR HEADER"]
    inner = header["52009229"]["Value"][0]["00289110"]["Value"][0]
    assert inner["00280030"]["Value"] == [1, 1]
    assert sorted(left_out) == [
        "00080033",
        "00080081",
        "00080090",
        "00081032.00081070",
        "00100010",
        "00100030",
        "00104000",
        "00180083",
        "0019100D",
        "00204000",
        "00282000",
        "00290010",
        "00291010",
        "00400275",
        "60000022",
        "60003000",
    ]


def test_header_and_row_agree(deidentifier: Deidentifier) -> None:
    row, header = make_row(), make_header()
    header["00100021"] = {"vr": "LO", "Value": [row["IssuerOfPatientID"]]}
    deidentifier.clean_row(row, NAMES)
    deidentifier.clean_header(header, NAMES)
    assert header["00100020"]["Value"] == [row["PatientID"]]
    assert header["00100021"]["Value"] == [row["IssuerOfPatientID"]]
    assert header["00080080"]["Value"] == [row["InstitutionName"]]
    assert header["00080050"]["Value"] == [row["AccessionNumber"]]
    assert header["00080020"]["Value"] == [row["StudyDate"].strftime("%Y%m%d")]
    assert header["0008002A"]["Value"][0][:8] == row["AcquisitionDateTime"].strftime("%Y%m%d")


@pytest.mark.parametrize(
    "header",
    [
        {"nonsense": {"vr": "LO", "Value": ["HEAD"]}},
        {"00080060": "QUIMBY"},
        {"00080060": {"vr": "CS", "Value": "QUIMBY"}},
        {"00080060": {"vr": "CS", "Value": [{"Alphabetic": "QUIMBY"}]}},
        {"00080060": {"vr": "CS", "BulkDataURI": "QUIMBY"}},
        {"00081140": {"vr": "SQ", "Value": ["QUIMBY"]}},
        {"00080016": {"vr": "UI", "Value": ["QUIMBY"]}},
        {"00080020": {"vr": "DA", "Value": ["QUIMBY", "20211399"]}},
        {"00080030": {"vr": "TM", "Value": ["QUIMBY", 3]}},
        {"00280009": {"vr": "AT", "Value": ["QUIMBY"]}},
        {"00180088": {"vr": "QUIMBY", "Value": ["QUIMBY"]}},
        {"00181030": {"vr": "PN", "Value": [{"Alphabetic": "QUIMBY"}]}},
    ],
)
def test_malformed_header_neither_leaks_nor_fails(
    deidentifier: Deidentifier, header: dict[str, Any]
) -> None:
    deidentifier.clean_header(header, [])
    assert "QUIMBY" not in json.dumps(header)


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm", "reportsi.dcm"],
)
def test_no_name_of_a_real_file_survives(deidentifier: Deidentifier, name: str) -> None:
    found = get_testdata_file(name, download=False)
    assert found is not None
    dataset = dcmread(str(found), stop_before_pixels=True)
    identifiers = sorted({str(e.value) for e in dataset.iterall() if e.VR == "PN" and e.value})
    identifiers += [str(dataset.get(k)) for k in ("PatientID", "StudyID") if dataset.get(k)]
    header = dataset.to_json_dict()
    sop_class = header["00080016"]
    left_out = deidentifier.clean_header(header, identifiers)
    text = json.dumps(header).upper()
    words = {w for i in identifiers for w in re.split(r"[^A-Za-z]+", i.upper()) if len(w) > 3}
    assert [w for w in words if w in text] == []
    assert "00100010" in left_out
    assert header["00080016"] == sop_class
    assert header["0020000D"]["Value"][0].startswith("2.25.")


SYLLABLES = ("ZU", "KRA", "VEL", "MOQ", "TIX", "WUB", "YEG", "JAF")
NAME = st.lists(st.sampled_from(SYLLABLES), min_size=2, max_size=4).map("".join)
ROW_TEXTS = [a for a in ATTRIBUTES if a.kind in ("uid", "text", "texts", "codes")]
TEXT_TAGS = ("0008103E", "00080070", "00080008", "00180010", "00189999", "00080100", "00080018")
TEMPLATES = st.sampled_from(
    [
        "{}",
        "AX T2 {}",
        "{}^head",
        "x_{}_2mm",
        "Dr. {} 12",
        "{0}{0}",
        "LUNG-{}-3",
        "T2{}",
        "3.0{} B30f",
    ]
)
STYLES = st.sampled_from([str.upper, str.lower, str.title])


def plant(attribute: Any, text: str) -> Any:
    if attribute.kind == "texts":
        return ["ORIGINAL", text]
    if attribute.kind == "codes":
        return [{"CodeValue": text, "CodingSchemeDesignator": text, "CodeMeaning": text}]
    return text


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(NAME, NAME, TEMPLATES, STYLES, st.sampled_from(TEXT_TAGS))
def test_planted_identifiers_never_survive(
    family: str, first: str, template: str, style: Any, tag: str
) -> None:
    deidentifier = Deidentifier(KEY, VOCABULARY)
    identifiers = [f"{family}^{first}^^DR^", f"{family[:2]}-{first}-77"]
    text = style(template.format(family)) + " " + style(first)
    row = {a.keyword: plant(a, text) for a in ROW_TEXTS}
    header = {t: {"vr": "LO", "Value": [text, family, identifiers[1]]} for t in (*TEXT_TAGS, tag)}
    header["00081140"] = {"vr": "SQ", "Value": [copy.deepcopy(header)]}
    deidentifier.clean_row(row, identifiers)
    deidentifier.clean_header(header, identifiers)
    for stored in (json.dumps(row).upper(), json.dumps(header).upper()):
        assert family not in stored
        assert first not in stored


def test_vocabulary_is_well_formed() -> None:
    with (SQL_DIR / "vocabulary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    words = [row["word"] for row in rows]
    assert words == sorted(set(words))
    assert all(row["source"] for row in rows)
    assert [w for w in words if fold_word(w) != w or not w.isalnum() or w.isdigit()] == []
    assert [w for w in words if w.isascii() and len(w) < 2] == []


def test_common_names_are_not_in_the_vocabulary() -> None:
    names = """SMITH JONES MILLER MUELLER MULLER SCHMIDT MEYER WEBER WAGNER KLEIN KOCH LANGE GROSS
    WHITE BLACK BROWN GREEN YOUNG LONG KING HILL WOOD STONE HART PRICE MARK TIM MAY JUNE APRIL ROSE
    GRACE HOPE RENE MARIE ANNA GARCIA LOPEZ CORTES SILVA SANTOS COSTA ROSSI RUSSO NOWAK KOWALSKI
    WANG LI WU ZHANG CHEN LIU KIM PARK LEE NGUYEN SINGH KUMAR ALI AHMED DICK DUNN LEONARDO"""
    assert VOCABULARY.isdisjoint(names.split())
