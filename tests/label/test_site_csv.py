"""What a user relies on when writing files of overrides and protocols, in whatever program."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_files import GOOD, HEADER, parse_overrides, write_protocols

from radnet_lake.errors import SettingError
from radnet_lake.label.site_csv import OVERRIDES, PROTOCOLS, read_rows, write_rows

SECRET = "Dr. Eleonora Quill"


def test_spreadsheets_and_programs_are_read_alike() -> None:
    plain = parse_overrides(
        "1.2.3.1,coverage,brain|lung,A. Reader,2026-01-31T08:00:00,seen",
        "1.2.3.2,contrast,true,A. Reader,2026-01-31,seen",
        "1.2.3.3,coverage,none,A. Reader,2026-01-31,seen",
    )
    sheet = (
        "\ufefflabel;SeriesInstanceUID;value;who;when;why\r\n"
        '"coverage";1.2.3.1;Lung | brain;A. Reader;2026-01-31T09:00:00+01:00; seen \r\n'
        "contrast;1.2.3.2;TRUE;A. Reader;2026-01-31;seen\r\n"
        "coverage;1.2.3.3;;A. Reader;2026-01-31;seen\r\n;;;;;\r\n"
    )
    assert read_rows(sheet.encode(), OVERRIDES, "a.csv") == plain
    assert [row["value"] for row in plain] == ["brain|lung", "true", ""]
    assert plain[0]["when"] == datetime.datetime(2026, 1, 31, 8)


@pytest.mark.parametrize(
    ("line", "stated"),
    [
        (
            f"1.2.3.1,{SECRET},axial,A.,2026-01-31,seen",
            "label: found 18 characters, allowed is seq",
        ),
        (
            f"1.2.3.1,view,{SECRET},A.,2026-01-31,seen",
            "value: found 18 characters, allowed is axial",
        ),
        ("1.2.3.1,view,T2-SE,A.,2026-01-31,seen", "value: found `T2-SE`, allowed is axial"),
        ("1.2.3.1,view,,A.,2026-01-31,seen", "value: found nothing, allowed is axial"),
        ("1.2.3.1,coverage,brain|,A.,2026-01-31,seen", "value: found 6 characters, allowed is br"),
        ("1.2.3.1,coverage,none|brain,A.,2026-01-31,seen", "joined by |"),
        (",view,axial,A.,2026-01-31,seen", "SeriesInstanceUID: found nothing"),
        ("1.2.3.1,view,axial,,2026-01-31,seen", "who: found nothing"),
        ("1.2.3.1,view,axial,A.,2026-01-31, ", "why: found nothing"),
        ("1.2.3.1,view,axial,A.,31.01.2026,seen", "when: found 10 characters, allowed is a date"),
        ("1.2.3.1,view,axial,A.,2999-01-31,seen", "when: lies in the future"),
        (f"1.2.3.1,view,axial,A.,2026-01-31,seen,{SECRET}", "has 7 cells, the header 6"),
        (f'1.2.3.1,view,axial,A.,2026-01-31,"{SECRET}', "not CSV"),
        (f'1.2.3.1,view,axial,A.,2026-01-31,"{SECRET}"x', "not CSV"),
    ],
)
def test_a_bad_row_is_refused_by_file_line_and_column_without_its_text(
    line: str, stated: str
) -> None:
    with pytest.raises(SettingError) as refusal:
        parse_overrides(GOOD, "", GOOD.replace("seen", '"two\nlines"'), line)
    assert str(refusal.value).startswith("a.csv: line 6: ")
    assert stated in str(refusal.value)
    assert "correct it" in str(refusal.value)
    assert "Quill" not in str(refusal.value)
    assert refusal.value.exit_status == 2


def test_all_bad_lines_of_a_file_are_told_at_once() -> None:
    with pytest.raises(SettingError) as refusal:
        parse_overrides(*["1.2.3.1,view,,A.,2026-01-31,seen", GOOD, "1.2.3.1,x,,A.,,"] * 2)
    stated = str(refusal.value)
    assert "lines 2, 5: value: found nothing" in stated
    assert "lines 4, 7: when: found nothing" in stated


@pytest.mark.parametrize(
    ("data", "stated"),
    [
        (b"", "line 1: the header lacks SeriesInstanceUID, label"),
        (HEADER.replace("when", "date").encode(), "line 1: the header lacks when"),
        (f"{HEADER},note\n{GOOD},x".encode(), "the header has 1 cells too many"),
        (f"{HEADER}\n{GOOD}\n1.2.3.1,view,axial,J\xf6rg".encode("latin-1"), "line 3: not UTF-8"),
        (f"{HEADER}\n{GOOD}".encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_what_is_no_such_file_is_refused(data: bytes, stated: str) -> None:
    with pytest.raises(SettingError, match=stated):
        read_rows(data, OVERRIDES, "a.csv")


@given(st.text(), st.text())
def test_any_text_survives_being_stored(who: str, why: str) -> None:
    blank = " \t\r\n\0"
    row = {
        "SeriesInstanceUID": "1.2", "label": "coverage", "value": "",
        "who": who.strip(blank) or "A.", "why": why.strip(blank) or "seen",
        "when": datetime.datetime(2026, 1, 31, 8, 0, 0, 12), "file": "a.csv", "line": 2,
    }  # fmt: skip
    assert read_rows(write_rows(OVERRIDES, [row]), OVERRIDES, "a.csv") == [row]


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        ({"pattern": "flair(?=ax)"}, r"pattern: not an RE2 regular expression (invalid perl op"),
        ({"pattern": f"({SECRET}"}, r"pattern: not an RE2 regular expression (missing ))"),
        ({"pattern": "flair|"}, "pattern: matches all"),
        ({"pattern": ""}, "pattern: found nothing"),
        ({"match_on": "PatientName"}, "match_on: found 11 characters, allowed is ProtocolName, "),
        ({"modality": "MR|CT"}, "modality: found 5 characters, allowed is one modality"),
        ({"valid_from": "2026"}, "valid_from: found 4 characters, allowed is a date"),
        ({"valid_from": "2026-02-01", "valid_to": "2026-01-01"}, "valid_to: before valid_from"),
        ({"sequence": ""}, "no label: all of sequence, view"),
        ({"sequence": "axial"}, "sequence: found `axial`, allowed is CT, T1-SE"),
        ({"trust_extent": "2"}, "trust_extent: found 1 characters, allowed is true, false"),
        ({"approved_by": ""}, "approved_by: found nothing"),
    ],
)
def test_a_bad_protocol_is_refused_by_line_and_column(change: dict[str, str], stated: str) -> None:
    with pytest.raises(SettingError) as refusal:
        read_rows(write_protocols({}, {"protocol": SECRET, **change}), PROTOCOLS, "p.csv")
    assert str(refusal.value).startswith(f"p.csv: line 3: {stated}")
    assert "Quill" not in str(refusal.value)
