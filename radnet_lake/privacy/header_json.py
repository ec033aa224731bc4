"""Takes a whole DICOM JSON header (PS3.18 F), gives it without identity.

An allow list: an element stays only if its group (for group 0040 its tag), its value representation
and, where private, its creator and element are listed; then its value is cleaned by kind. `_DENIED`
holds what PS3.15 Table E.1-1 removes of the elements that these lists would allow.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from radnet_lake.schema import ATTRIBUTES, Attribute

Clean = Callable[[str, str, Any, str | None], Any]
"""(kind, keyword, value, coding scheme) -> the value without identity, None to omit it."""

_BY_TAG = {a.tag: a for a in ATTRIBUTES if not a.creator}
_PRIVATE = {(a.creator, a.tag): a for a in ATTRIBUTES if a.creator}
_CREATORS = {a.creator for a in ATTRIBUTES if a.creator}
_DATES = ("DA", "TM", "DT")

_GROUPS = frozenset({0x0008, 0x0018, 0x0020, 0x0028, 0x0054, 0x0062, 0x2050, 0x5200})
"""Identification, acquisition, relations, pixels, nuclear medicine, segments, frames."""
_GROUP_0040_RANGES = (
    (0x00400008, 0x00400008),  # scheduled protocol codes
    (0x00400260, 0x00400260),  # performed protocol codes
    (0x004008EA, 0x004008EA),  # units
    (0x00409092, 0x00409FFF),  # real world values, parametric maps
    (0x0040A043, 0x0040A043),  # name of a concept, beside
    (0x0040A168, 0x0040A168),  # its code
    (0x0040A30A, 0x0040A30A),  # or its number
)
_DENIED = frozenset(
    int(tag, 16)
    for tags in {
        "physicians, operators": "00080090 00080092 00080094 00080096 0008009C 0008009D 00081048"
        " 00081049 00081050 00081052 00081060 00081062 00081070 00081072",
        "places": "00080081 00080082 00081040 00081041 00080201",
        "patient and diagnosis": "00081080 00081084 00081110 00081111 00081120",
        "orders": "00080051 00081195 00200010",
        "stations and devices by number": "00080054 00080055 00081000 00181002 00181003 00181004"
        " 00181005 00181006 00181007 00181008 00181009 0018100A 0018100B 00181010 00181011 00185011"
        " 0018700A 00189367 00189371 00189373 00203401 00203404",
        "comments": "00081088 00082111 00184000 00189424 00203406 00204000 00209158 00284000"
        " 0018A001 0018A003",
        "labels": "00200027 00189937",
    }.values()
    for tag in tags.split()
)
"""Removed by PS3.15 Table E.1-1, and not excluded for certain by the lists, whatever VR is stated.

Dates of a device or a coding scheme are equal for all patients and would reveal the shift, so only
the dates that schema.py lists stay.
"""
_BY_VR = {
    **dict.fromkeys(("DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), "number"),
    **dict.fromkeys(("LO", "SH", "UC", "CS"), "text"),
    **{"UI": "uid", "AS": "age", "AT": "AT", "SQ": "SQ"},
}
"""VR -> kind of cleaning; others are omitted: PN, LT, ST, UT, UR, AE, UN, O*."""
_CODE_VALUES, _CODE_SCHEME = frozenset({0x00080100, 0x00080119}), "00080102"


def clean_dataset(dataset: dict[str, Any], clean: Clean, path: str = "") -> Iterator[str]:
    """Remove identity from one data set, in place; yields the omitted tags, as paths from the top.

    clean: called for each value of an allowed element. Items of sequences are cleaned likewise.
    """
    creators = {
        (int(tag[:4], 16), int(tag[6:], 16)): (first_text(dataset, tag) or "").strip()
        for tag in dataset
        if re.fullmatch("[0-9A-Fa-f]{3}[13579BDFbdf]00[0-9A-Fa-f]{2}", tag)
    }
    scheme = first_text(dataset, _CODE_SCHEME)
    for tag in list(dataset):
        allowed = _find_kind(dataset[tag], tag, creators)
        values = dataset[tag].get("Value", []) if allowed else None
        if allowed is None or not isinstance(values, list):
            del dataset[tag]
            yield path + tag
            continue
        kind, vr, keyword = allowed
        kept: list[Any]
        if kind == "SQ":
            kept = [item for item in values if isinstance(item, dict)]
            for item in kept:
                yield from clean_dataset(item, clean, f"{path}{tag}.")
        else:
            kept = [None if v is None else clean(kind, keyword, v, scheme) for v in values]
            if any(v is not None for v in values) and all(v is None for v in kept):
                del dataset[tag]
                yield path + tag
                continue
        dataset[tag] = {"vr": vr, "Value": kept} if kept else {"vr": vr}


def first_text(dataset: dict[str, Any], tag: str) -> str | None:
    """Tag -> the first value of its element if that is text, else None."""
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else None


def _find_kind(
    element: Any, tag: str, creators: dict[tuple[int, int], str]
) -> tuple[str, str, str] | None:
    """Element -> kind of cleaning, VR and keyword; None to omit it."""
    if not re.fullmatch("[0-9A-Fa-f]{8}", tag) or not isinstance(element, dict):
        return None
    if "Value" not in element and len(element) > 1:
        return None  # bulk data, inline or by reference
    number = int(tag, 16)
    group, low = number >> 16, number & 0xFFFF
    attribute = _BY_TAG.get(number)
    if group % 2:
        if low < 0x100:
            is_known = creators.get((group, low)) in _CREATORS
            return ("creator", "LO", "") if is_known else None
        attribute = _PRIVATE.get((creators.get((group, low >> 8), ""), number & 0xFFFF00FF))
        if attribute is None:
            return None
    elif attribute is None and not _is_allowed(number):
        return None
    vr = attribute.vr if attribute else str(element.get("vr"))
    kind = _choose_kind(number, vr, attribute)
    return (kind, vr, attribute.keyword if attribute else "") if kind else None


def _is_allowed(tag: int) -> bool:
    if tag >> 16 == 0x0040:
        return any(first <= tag <= last for first, last in _GROUP_0040_RANGES)
    return tag >> 16 in _GROUPS and tag not in _DENIED


def _choose_kind(tag: int, vr: str, attribute: Attribute | None) -> str | None:
    if tag in _CODE_VALUES:
        return "code value"
    if attribute is None or vr == "SQ":
        return _BY_VR.get(vr)
    if vr in _DATES:
        return vr
    if attribute.phi == "keep":
        return "kept uid" if attribute.kind == "uid" else "number"
    return "text" if attribute.phi == "code" else attribute.phi
