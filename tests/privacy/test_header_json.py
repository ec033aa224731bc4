"""What stays of a full header: only what is known, and of that nothing that names a person."""

import json
import re
from typing import Any

import pytest
from dicom_files import make_header
from pydicom import dcmread
from pydicom.data import get_testdata_file

from radnet_lake.privacy.deidentifier import Deidentifier
from radnet_lake.privacy.free_text import load_vocabulary

KEY = b"0123456789abcdef0123456789abcdef"
NAMES = ["QUIMBY^ZARAH^^DR^", "Grotowski^Olaf", "ZX-4417-B", "A7733219"]


@pytest.fixture
def deidentifier() -> Deidentifier:
    return Deidentifier(KEY, load_vocabulary())


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
            "00080100": {"vr": "SH", "Value": ["T-D1100"]},
            "00080102": {"vr": "SH", "Value": ["SRT"]},
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
        "00081032.00080106",
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


def test_code_of_a_site_is_text_like_any_other(deidentifier: Deidentifier) -> None:
    for scheme in ("99SITE", "QUIMBY", ""):
        header = {
            "00080100": {"vr": "SH", "Value": ["QUIMBY", "HEAD", "7733219"]},
            "00080102": {"vr": "SH", "Value": [scheme]},
        }
        deidentifier.clean_header(header, [])
        assert header["00080100"]["Value"] == ["<x>", "HEAD", "<x>"]
    header = {
        "00080100": {"vr": "SH", "Value": ["A7733219", "12738006"]},
        "00080102": {"vr": "SH", "Value": ["SCT"]},
    }
    deidentifier.clean_header(header, NAMES)
    assert header["00080100"]["Value"] == ["<x>", "12738006"]


def test_dates_that_all_patients_share_do_not_reveal_the_shift(deidentifier: Deidentifier) -> None:
    tags = {
        "00181200": "DA",
        "00181203": "DT",
        "0018700C": "DA",
        "00080106": "DT",
        "00181205": "DA",
    }
    header = {tag: {"vr": vr, "Value": ["20150102"]} for tag, vr in tags.items()}
    assert sorted(deidentifier.clean_header(header, NAMES)) == sorted(tags)


@pytest.mark.parametrize("group", ["0010", "0012", "0014", "0016", "0032", "0038", "0040", "0042"])
def test_group_that_is_not_listed_is_left_out_whatever_it_holds(
    deidentifier: Deidentifier, group: str
) -> None:
    header = {
        f"{group}7777": {"vr": "LO", "Value": ["HEAD"]},
        f"{group}7778": {"vr": "DS", "Value": [1.5]},
        f"{group}7779": {"vr": "SQ", "Value": [{"00180015": {"vr": "CS", "Value": ["HEAD"]}}]},
    }
    deidentifier.clean_header(header, [])
    assert header == {}
