"""What is stored of a patient, and what never is."""

import copy
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dicom_files import make_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radnet_lake.errors import SettingError
from radnet_lake.privacy.deidentifier import Deidentifier, bin_age, load_key
from radnet_lake.privacy.free_text import load_vocabulary
from radnet_lake.schema import ATTRIBUTES

KEY = b"0123456789abcdef0123456789abcdef"
OTHER_KEY = b"fedcba9876543210fedcba9876543210"
NAMES = ["QUIMBY^ZARAH^^DR^", "Grotowski^Olaf", "ZX-4417-B", "A7733219"]
VOCABULARY = load_vocabulary()


@pytest.fixture
def deidentifier() -> Deidentifier:
    return Deidentifier(KEY, VOCABULARY)


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


def test_same_key_in_another_process_gives_same_values(
    deidentifier: Deidentifier,
) -> None:
    row = make_row()
    withheld = deidentifier.clean_row(row, NAMES)
    program = (
        "import datetime, sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from privacy.test_deidentifier import *\n"
        "d = Deidentifier(KEY, VOCABULARY); row = make_row(); words = d.clean_row(row, NAMES)\n"
        "found = [row, words, d.key_id, d.encrypt_uri('a/b')]\n"
        "print(json.dumps(found, default=str, sort_keys=True))"
    )
    here = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(here.parent), str(here)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    ours = [row, withheld, deidentifier.key_id, deidentifier.encrypt_uri("a/b")]
    assert done.stdout.strip() == json.dumps(ours, default=str, sort_keys=True)


def test_other_key_shares_no_hash_no_uid_no_encrypted_text(deidentifier: Deidentifier) -> None:
    ours, theirs = make_row(), make_row()
    other = Deidentifier(OTHER_KEY, VOCABULARY)
    words, other_words = deidentifier.clean_row(ours, NAMES), other.clean_row(theirs, NAMES)
    for column in ("PatientID", "AccessionNumber", "StudyInstanceUID", "SOPInstanceUID"):
        assert ours[column] != theirs[column]
    assert not set(words) & set(other_words)
    assert deidentifier.key_id != other.key_id
    assert deidentifier.encrypt_uri("x/y") != other.encrypt_uri("x/y")


def test_wrong_key_and_damage_are_reported(deidentifier: Deidentifier) -> None:
    encrypted = deidentifier.encrypt_uri("s3://bucket/Quimby/1.dcm")
    for damaged in (encrypted[:-1], encrypted[:12] + "!" + encrypted[13:], "sealed:é/é"):
        with pytest.raises(SettingError, match="cannot be decrypted"):
            deidentifier.decrypt_uri(damaged)
    with pytest.raises(SettingError, match="the key that the lake was made with") as caught:
        Deidentifier(OTHER_KEY, VOCABULARY).decrypt_uri(encrypted)
    assert "Quimby" not in str(caught.value)
    with pytest.raises(SettingError):
        deidentifier.decrypt_word(encrypted.removeprefix("sealed:").partition("/")[0])


@given(st.text(max_size=40))
def test_whoever_has_the_key_gets_every_path_back(uri: str) -> None:
    deidentifier = Deidentifier(KEY, frozenset())
    encrypted = deidentifier.encrypt_uri(uri)
    assert deidentifier.decrypt_uri(encrypted) == uri
    assert encrypted == deidentifier.encrypt_uri(uri)
    assert deidentifier.decrypt_word(deidentifier.encrypt_word(uri)) == uri


def test_paths_of_one_folder_share_a_prefix(deidentifier: Deidentifier) -> None:
    one, two = (deidentifier.encrypt_uri(f"/pacs/Quimby Zarah/{n}.dcm") for n in "12")
    folder = one.rpartition("/")[0]
    assert folder == two.rpartition("/")[0]
    assert one != two
    assert "Quimby" not in one
    member, other = (deidentifier.encrypt_uri(f"/pacs/a.zip!/Quimby/{n}") for n in "12")
    assert member.count("!/") == 1
    assert member.rpartition("/")[0] == other.rpartition("/")[0]
    assert deidentifier.decrypt_uri(member) == "/pacs/a.zip!/Quimby/1"
    odd = b"/pacs/\xff\xfe name\n".decode(errors="surrogateescape")
    assert deidentifier.decrypt_uri(deidentifier.encrypt_uri(odd)) == odd
    assert deidentifier.decrypt_uri("/a/plain/uri") == "/a/plain/uri"


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
    assert rows[0]["PatientID"] == deidentifier.hash_patient("A7733219", "ST ELSEWHERE")
    assert deidentifier.hash_patient("12", "3") != deidentifier.hash_patient("2", "31")
    assert deidentifier.hash_patient("", None, "1.2") == deidentifier.hash_patient(None, "", "1.2")
    assert deidentifier.hash_patient("", "issuer") == ""


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


def test_class_uids_stay_but_numbers_behind_a_standard_root_do_not(
    deidentifier: Deidentifier,
) -> None:
    siemens = "1.3.12.2.1107.5.9.1"
    for uid in ("1.2.840.10008.5.1.4.1.1.2", siemens):
        row = {"SOPClassUID": uid, "TransferSyntaxUID": uid}
        deidentifier.clean_row(row, [])
        assert set(row.values()) == {uid}
    row = dict.fromkeys(("SOPClassUID", "SOPInstanceUID"), "1.2.840.10008.7741903.20170623")
    deidentifier.clean_row(row, [])
    assert all(uid.startswith("2.25.") for uid in row.values())


def test_number_that_is_the_patients_is_dropped_from_physics(deidentifier: Deidentifier) -> None:
    row = {"SeriesNumber": 7733219, "EchoTime": 20210304.0, "DiffusionBValue": 1000.0}
    row |= {"EchoNumbers": [1.0, 7733219.0], "ImagePositionPatient": [1.0, 2.0, 3.0]}
    deidentifier.clean_row(row, NAMES)
    assert row == {
        "SeriesNumber": None,
        "EchoTime": None,
        "DiffusionBValue": 1000.0,
        "EchoNumbers": None,
        "ImagePositionPatient": [1.0, 2.0, 3.0],
    }


def test_time_of_a_file_does_not_reveal_when_it_was_made(deidentifier: Deidentifier) -> None:
    now, day = 1_700_000_000_000_000, 86400 * 1_000_000
    shifts = {now + n - deidentifier.shift_modified(now + n) for n in range(100)}
    assert len(shifts) == 100
    assert all(day <= shift <= 3650 * day for shift in shifts)
    again = Deidentifier(KEY, frozenset())
    assert deidentifier.shift_modified(now) == again.shift_modified(now)
    assert deidentifier.shift_modified(now) != Deidentifier(OTHER_KEY, frozenset()).shift_modified(
        now
    )
