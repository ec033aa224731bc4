"""Every column, and the whole header as JSON, equals what pydicom reads from its test files."""

import datetime
import json
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_files import (
    open_data,
)
from pydicom import uid as uids
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import DA, DT, TM

from radnet_lake import schema
from radnet_lake.dicom import scan
from radnet_lake.dicom.header import Reject
from radnet_lake.dicom.header_json import make_json
from radnet_lake.dicom.instances import Row, make_frame_rows

ABSENT, EMPTY, UNPARSEABLE, SEVERAL = "absent", "empty", "unparseable", "multivalued"
REJECTED = {
    "README": "not_dicom",
    "crayons.icc": "not_dicom",
    "rtplan.dump": "not_dicom",
    "rtstruct.dump": "not_dicom",
    "zipMR.gz": "not_dicom",
    "no_meta.dcm": "not_dicom",
    "empty_charset_LEI.dcm": "no_sop_class",
    "meta_missing_tsyntax.dcm": "no_sop_class",
    "nested_priv_SQ.dcm": "no_sop_class",
    "rtplan_truncated.dcm": "header_truncated",
}
"""The files of pydicom that give no row: what is cut, or says not what it is."""


def list_real_files() -> list[Path]:
    """pydicom's own test files without the large ones, texts and folders."""
    paths = sorted({Path(name) for name in get_testdata_files()})
    return [p for p in paths if p.is_file() and p.suffix not in (".md", ".txt", ".py", ".json")]


def read_expected(ds: Dataset, a: schema.Attribute) -> Any:
    """The value of one column, or which state stands for it."""
    if a.creator:
        try:
            block = ds.private_block(a.tag >> 16, a.creator)
        except KeyError:
            return ABSENT
        if a.tag & 0xFF not in block:
            return ABSENT
        value = block[a.tag & 0xFF].value
        assert not isinstance(value, bytes), "the test files hold no private elements as UN"
    elif a.tag not in ds:
        return ABSENT
    else:
        try:
            value = ds[a.tag].value
        except (ValueError, TypeError, OverflowError):
            return UNPARSEABLE
    is_many = isinstance(value, MultiValue | list | Sequence)
    parts: list[Any] = list(value) if is_many else [] if value is None else [value]
    if a.kind == "codes":
        return [code for item in parts if (code := read_expected_code(item))] or EMPTY
    words = ["" if part is None else str(part).replace("\0", " ").strip() for part in parts]
    if not "".join(words):
        return EMPTY
    if a.kind in ("int", "number", "numbers"):
        return read_expected_numbers(words, a.kind)
    if a.kind in ("date", "time", "datetime"):
        return read_expected_time("\\".join(words), a.kind)
    return words if a.kind == "texts" else "\\".join(words)


def read_expected_code(item: Dataset) -> dict[str, str]:
    code = {}
    for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue"):
        if item.get(keyword):
            code["CodeValue"] = str(item[keyword].value)
    for keyword in ("CodingSchemeDesignator", "CodeMeaning"):
        if item.get(keyword):
            code[keyword] = str(item[keyword].value)
    return code


def read_expected_numbers(words: list[str], kind: str) -> Any:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return UNPARSEABLE
    if not all(math.isfinite(number) for number in numbers):
        return UNPARSEABLE
    if kind == "numbers":
        return numbers
    if len(set(numbers)) > 1:
        return SEVERAL
    return int(numbers[0]) if kind == "int" else numbers[0]


def read_expected_time(word: str, kind: str) -> Any:
    try:
        if kind == "date":
            return datetime.date.fromisoformat(DA(word).isoformat())
        if kind == "time":
            # ACR-NEMA wrote colons, which pydicom no longer takes.
            time = TM(word.replace(":", ""))
            return time.hour * 3600 + time.minute * 60 + time.second + time.microsecond / 1e6
        return datetime.datetime.fromisoformat(DT(word).isoformat()).replace(tzinfo=None)
    except ValueError:
        return UNPARSEABLE


def read_expected_rows(ds: Dataset) -> list[dict[str, Any]]:
    top = {a.keyword: read_expected(ds, a) for a in schema.ATTRIBUTES}
    frames = ds.get("PerFrameFunctionalGroupsSequence")
    if ds.get("SOPClassUID") in (uids.SegmentationStorage, uids.RTDoseStorage):
        return [top]  # their frames are no images
    if not frames:
        declared = top["NumberOfFrames"]
        return [top] * (declared if isinstance(declared, int) else 1)
    for item in ds.get("SharedFunctionalGroupsSequence") or []:
        top = overlay(top, item)
    return [overlay(top, frame) for frame in frames]


def overlay(row: dict[str, Any], groups: Dataset) -> dict[str, Any]:
    """`row` with what the functional groups say instead."""
    row = dict(row)
    for tag in sorted(schema.FUNCTIONAL_GROUPS):
        for item in list(groups[tag].value)[:1] if tag in groups else []:
            stated = {a.keyword: read_expected(item, a) for a in schema.ATTRIBUTES if not a.creator}
            row |= {keyword: value for keyword, value in stated.items() if value != ABSENT}
    return row


def state_or_value(row: Row, keyword: str) -> Any:
    for state in (EMPTY, UNPARSEABLE, SEVERAL):
        if keyword in row.get(f"{state}_keywords", ()):
            return state
    return row.get(keyword, ABSENT)


def find_differences(rows: list[Row], ds: Dataset) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    all_expected = read_expected_rows(ds)
    if len(rows) != len(all_expected):
        return [("rows", len(rows), len(all_expected))]
    for row, expected in zip(rows, all_expected, strict=True):
        for a in schema.ATTRIBUTES:
            ours, theirs = state_or_value(row, a.keyword), expected[a.keyword]
            if a.keyword in ("SOPClassUID", "SOPInstanceUID") and theirs in (ABSENT, EMPTY):
                theirs = ds.file_meta.get(f"MediaStorage{a.keyword}", theirs)
            if a.kind == "time" and isinstance(theirs, float):
                theirs = pytest.approx(theirs)
            if ours != theirs:
                found.append((a.keyword, ours, theirs))
    return found


def compare_all(flag: str | None = None) -> None:
    """Every real file gives the rows that pydicom's values make, or the reject that is due."""
    differences: list[tuple[Any, ...]] = []
    rejected = {}
    for path in list_real_files():
        header = open_data(path.read_bytes())
        if isinstance(header, Reject):
            rejected[path.name] = header.reason
            continue
        rows = make_frame_rows(header)
        assert isinstance(rows, list), path.name
        assert flag is None or flag in rows[0]["flags"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            differences += [(path.name, *d) for d in find_differences(rows, ds)]
    assert differences == []
    assert rejected == REJECTED


def test_every_column_equals_what_pydicom_reads() -> None:
    compare_all()


def test_the_way_through_pydicom_gives_the_same_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise scan.Unsupported("forced")

    monkeypatch.setattr(scan, "scan_top", refuse)
    compare_all("read_by_pydicom")


def test_header_json_equals_pydicoms() -> None:
    differences: list[tuple[Any, ...]] = []
    n_elements = 0
    for path in list_real_files():
        header = open_data(path.read_bytes())
        if isinstance(header, Reject):
            continue
        found, omitted = make_json(header)
        json.dumps(found, allow_nan=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            for theirs in list_json(ds):
                n_elements += 1
                ours = found.get(theirs[0])
                if not is_same_json(ours, theirs[1], theirs[0] in omitted):
                    differences.append((path.name, ours, theirs))
    assert differences == []
    assert n_elements > 5000


def list_json(ds: Dataset) -> Iterable[tuple[str, dict[str, Any]]]:
    for tag in list(ds.keys()):
        if tag.element and tag.group < 0x7FE0:
            try:
                yield f"{tag:08X}", ds[tag].to_json_dict(lambda _: "", 1 << 16)
            except (ValueError, TypeError, OverflowError):
                continue


def is_same_json(ours: dict[str, Any] | None, theirs: dict[str, Any], is_omitted: bool) -> bool:
    if ours is None or ours["vr"] != theirs["vr"]:
        return False
    if "InlineBinary" in theirs or "BulkDataURI" in theirs:
        return "Value" not in ours and is_omitted
    a, b = ours.get("Value", []), theirs.get("Value", [])
    if theirs["vr"] != "SQ":
        # Spaces at the end of a text, and several empty values, say nothing.
        b = [v.rstrip(" \0") if isinstance(v, str) else v for v in b]
        return [v or None for v in a] == [v or None for v in b] or not (any(a) or any(b))
    return len(a) == len(b) and all(
        is_same_json(x.get(tag), y[tag], True)
        for x, y in zip(a, b, strict=True)
        for tag in y
        if not tag.endswith("0000")
    )
