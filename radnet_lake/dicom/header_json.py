"""Takes a header, gives all its elements in the DICOM JSON model (PS3.18 F.2)."""

import io
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.filereader import read_dataset

from radnet_lake.dicom import scan
from radnet_lake.dicom.header import CHARSET, Header
from radnet_lake.dicom.scan import BULK_VRS, UNDEFINED, NeedMore, Unsupported
from radnet_lake.dicom.values import BINARY_FORMATS, decode_text, quiet_pydicom, read_encodings

MAX_VALUE_BYTES = 64 << 10
"""Longest value that is stored; only binary private elements and lookup tables are longer."""
MAX_SEQUENCE_BYTES = 8 << 20
"""Longest sequence that is stored: about 4,000 frames of functional groups."""

_PIXEL_GROUP = 0x7FE0
_ONE_TEXT = frozenset({b"LT", b"ST", b"UT", b"UR"})
_AMBIGUOUS = {"US or SS": b"US", "OB or OW": b"OW", "US or OW": b"US", "US or SS or OW": b"US"}

JsonHeader = dict[str, dict[str, Any]]


def make_json(header: Header) -> tuple[JsonHeader, list[str]]:
    """Header -> {"GGGGEEEE": {"vr": ..., "Value": [...]}} without pixels, and the omitted tags.

    Omitted are binary values and those longer than the bounds above; their VR stays.
    """
    if header.dataset is not None:
        return _json_by_pydicom(header)
    omitted: list[str] = []
    try:
        found, _ = _read_level(
            header, header.start, header.found.end, header.explicit, omitted, header.encodings
        )
    except (Unsupported, NeedMore, struct.error):
        # Elements that the scanner skipped by their length are parsed here for the first time.
        header.dataset = _read_by_pydicom(header)
        return _json_by_pydicom(header)
    return found, omitted


def _read_by_pydicom(header: Header) -> pydicom.Dataset:
    file = io.BytesIO(header.data[header.start : header.found.end])
    try:
        with quiet_pydicom():
            return read_dataset(file, not header.explicit, True)
    except Exception:  # pydicom raises any type on damaged input; then the header is empty
        return pydicom.Dataset()


def _read_level(
    header: Header,
    position: int,
    finish: int | None,
    explicit: bool,
    omitted: list[str],
    encodings: Sequence[str],
    depth: int = 0,
) -> tuple[JsonHeader, int]:
    found: JsonHeader = {}
    creators: dict[tuple[int, int], str] = {}
    data = header.data
    if depth > scan.MAX_DEPTH:
        raise Unsupported("sequences nested too deep")
    while finish is None or position < finish:
        key, written, begin, length = scan.read_element(data, position, explicit)
        if key == scan.ITEM_END and finish is None:
            return found, begin
        group, element = key & 0xFFFF, key >> 16
        tag = f"{group:04X}{element:04X}"
        vr = written
        if not vr or vr == b"UN":
            vr = _dictionary_vr(header, group, element, creators)
        if length == UNDEFINED or vr == b"SQ":
            inside = explicit and written != b"UN"
            start = len(omitted)
            items, position = _read_items(header, begin, length, inside, omitted, encodings, depth)
            found[tag] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
            if position - begin > MAX_SEQUENCE_BYTES:
                found[tag] = {"vr": "SQ"}
                omitted[start:] = [tag]
            continue
        position = begin + length
        if element == 0:
            continue  # group lengths are redundant
        found[tag] = {"vr": vr.decode("ascii")}
        if vr in BULK_VRS or length >= MAX_VALUE_BYTES:
            if length:
                omitted.append(tag)
            continue
        if position > len(data):
            raise NeedMore(position)
        raw = data[begin:position]
        if group & 1 and 0x10 <= element <= 0xFF:
            creators[group, element] = raw.strip(b" \0").decode("latin-1")
        if key == CHARSET and depth and raw.strip(b" \0"):
            encodings, _ = read_encodings(raw)
        if parts := _read_values(raw, vr, encodings):
            found[tag]["Value"] = parts
    if position != finish:
        raise Unsupported("element longer than its item")
    return found, position


def _read_items(
    header: Header,
    position: int,
    length: int,
    explicit: bool,
    omitted: list[str],
    encodings: Sequence[str],
    depth: int,
) -> tuple[list[JsonHeader], int]:
    items: list[JsonHeader] = []
    finish = position + length if length != UNDEFINED else None
    while finish is None or position < finish:
        key, item_length, position = scan.read_item_head(header.data, position)
        if key == scan.SEQUENCE_END and finish is None:
            return items, position
        if key != scan.ITEM:
            raise Unsupported("no item where one is due")
        end = position + item_length if item_length != UNDEFINED else None
        if end is not None and end > len(header.data):
            raise NeedMore(end)
        item, position = _read_level(header, position, end, explicit, omitted, encodings, depth + 1)
        items.append(item)
    if position != finish:
        raise Unsupported("items longer than their sequence")
    return items, position


def _dictionary_vr(
    header: Header, group: int, element: int, creators: dict[tuple[int, int], str]
) -> bytes:
    tag = group << 16 | element
    try:
        if group & 1:
            if 0x10 <= element <= 0xFF:
                return b"LO"
            vr: str = private_dictionary_VR(tag, creators.get((group, element >> 8), ""))
        else:
            vr = dictionary_VR(tag)
    except KeyError:
        return b"UN"
    if vr == "US or SS" and header.found.values.get(scan.make_key(0x00280103)) == b"\1\0":
        return b"SS"
    return _AMBIGUOUS.get(vr, vr.encode("ascii"))


def _read_values(raw: bytes, vr: bytes, encodings: Sequence[str]) -> list[Any]:
    if vr in BINARY_FORMATS:
        size = struct.calcsize(BINARY_FORMATS[vr])
        count = len(raw) // size
        numbers = struct.unpack(f"<{count}{BINARY_FORMATS[vr]}", raw[: count * size])
        return [n if math.isfinite(n) else None for n in numbers]
    if vr == b"AT":
        words = struct.unpack(f"<{len(raw) // 4 * 2}H", raw[: len(raw) // 4 * 4])
        return [f"{g:04X}{e:04X}" for g, e in zip(words[::2], words[1::2], strict=True)]
    text = decode_text(raw, encodings).rstrip(" \0")
    if not text:
        return []
    if vr in _ONE_TEXT:
        return [text]
    parts = [part.strip(" \0") for part in text.split("\\")]
    if vr == b"PN":
        return [_person(part) for part in parts]
    if vr in (b"DS", b"IS"):
        return [_number(part, vr) for part in parts]
    return [part or None for part in parts]


def _person(text: str) -> dict[str, str] | None:
    names = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return {kind: name for kind, name in names if name} or None


def _number(text: str, vr: bytes) -> float | int | str | None:
    """Text of a number -> the number, or the text where it is none, so that it can be queried."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number) or "_" in text:
        return text
    return int(number) if vr == b"IS" and number.is_integer() and abs(number) < 2**63 else number


def _json_by_pydicom(header: Header) -> tuple[JsonHeader, list[str]]:
    omitted: list[str] = []
    found: JsonHeader = {}
    if header.dataset is None:
        return found, omitted
    with quiet_pydicom():
        for tag in list(header.dataset.keys()):
            name = f"{tag:08X}"
            if tag >> 16 >= _PIXEL_GROUP or not tag & 0xFFFF:
                continue
            start = len(omitted)
            try:
                entry = header.dataset[tag].to_json_dict(lambda _: "", MAX_VALUE_BYTES)
                _drop_binary(name, entry, omitted)
                length = len(json.dumps(entry, allow_nan=False))
            except Exception:  # pydicom raises any type on invalid values; the others stay
                omitted[start:] = [name]
                continue
            if length > MAX_SEQUENCE_BYTES:
                omitted[start:] = [name]
                entry = {"vr": entry["vr"]}
            found[name] = entry
    return found, omitted


def _drop_binary(name: str, entry: dict[str, Any], omitted: list[str]) -> None:
    """Remove binary and overlong values from an element and from the items of a sequence."""
    for kind in ("InlineBinary", "BulkDataURI"):
        if entry.pop(kind, None) is not None:
            omitted.append(name)
    if entry["vr"] == "SQ":
        for item in entry.get("Value", ()):
            for inner_name, inner in item.items():
                _drop_binary(inner_name, inner, omitted)
