"""A whole header in the DICOM JSON model (PS3.18 F.2), so that any tag can be asked for later."""

import io
import json
import math
import struct
import warnings
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR, private_dictionary_VR

from radnet_lake import scan
from radnet_lake.header import Header
from radnet_lake.scan import UNDEFINED, NeedMore, Odd
from radnet_lake.values import BINARY_FORMATS, decode_text

MAX_VALUE_BYTES = 64 << 10
"""Longest value that is kept: private blobs and lookup tables are longer, words and numbers never."""
MAX_SEQUENCE_BYTES = 8 << 20
"""Longest sequence that is kept: about 4,000 frames of functional groups."""

_PIXEL_GROUP = 0x7FE0
_ONE_TEXT = frozenset({b"LT", b"ST", b"UT", b"UR"})
_BULK = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN"})
_AMBIGUOUS = {"US or SS": b"US", "OB or OW": b"OW", "US or OW": b"US", "US or SS or OW": b"US"}

JsonHeader = dict[str, dict[str, Any]]


def make_json(header: Header) -> tuple[JsonHeader, list[str]]:
    """The header without pixels: {"GGGGEEEE": {"vr": ..., "Value": [...]}}, and the tags left out.

    Left out are binary values and what is longer than the bounds above; their VR stays.
    """
    if header.dataset is not None:
        return _json_by_pydicom(header)
    omitted: list[str] = []
    try:
        found, _ = _read_level(header, header.start, len(header.data), header.explicit, omitted, 0)
    except (Odd, NeedMore, struct.error):
        # The scanner steps over what this walk reads in full, so oddities show here first.
        header.dataset = _read_again(header)
        return _json_by_pydicom(header)
    return found, omitted


def _read_again(header: Header) -> pydicom.Dataset:
    file = io.BytesIO(header.data[header.start : header.found.end])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.filereader.read_dataset(file, not header.explicit, True)
    except Exception:  # pydicom raises any kind on damaged input; an empty header is kept then
        return pydicom.Dataset()


def _read_level(
    header: Header,
    position: int,
    finish: int | None,
    explicit: bool,
    omitted: list[str],
    depth: int,
) -> tuple[JsonHeader, int]:
    found: JsonHeader = {}
    creators: dict[tuple[int, int], str] = {}
    data = header.data
    if depth > scan.MAX_DEPTH:
        raise Odd("sequences nested too deep")
    while finish is None or position < finish:
        if depth == 0 and position >= header.found.end:
            break
        key, vr, begin, length = scan.read_element(data, position, explicit)
        if key == scan.ITEM_END and finish is None:
            return found, begin
        group, element = key & 0xFFFF, key >> 16
        tag = f"{group:04X}{element:04X}"
        written = vr
        if not vr or vr == b"UN":
            vr = _dictionary_vr(header, group, element, creators)
        if length == UNDEFINED or vr == b"SQ":
            inside = explicit and written != b"UN"
            start = len(omitted)
            items, position = _read_items(header, begin, length, inside, omitted, depth)
            found[tag] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
            if position - begin > MAX_SEQUENCE_BYTES:
                found[tag] = {"vr": "SQ"}
                omitted[start:] = [tag]
            continue
        position = begin + length
        if position > len(data):
            raise NeedMore(position)
        if element == 0:
            continue  # group lengths say nothing
        raw = data[begin:position]
        if group & 1 and 0x10 <= element <= 0xFF:
            creators[group, element] = raw.strip(b" \0").decode("latin-1")
        found[tag] = {"vr": vr.decode("ascii")}
        if vr in _BULK or length > MAX_VALUE_BYTES:
            if length:
                omitted.append(tag)
        elif parts := _read_values(raw, vr, header):
            found[tag]["Value"] = parts
    return found, position


def _read_items(
    header: Header, position: int, length: int, explicit: bool, omitted: list[str], depth: int
) -> tuple[list[JsonHeader], int]:
    items: list[JsonHeader] = []
    finish = position + length if length != UNDEFINED else None
    while finish is None or position < finish:
        key, item_length, position = scan.read_item_head(header.data, position)
        if key == scan.SEQUENCE_END and finish is None:
            break
        if key != scan.ITEM:
            raise Odd("no item where one is due")
        end = position + item_length if item_length != UNDEFINED else None
        if end is not None and end > len(header.data):
            raise NeedMore(end)
        item, position = _read_level(header, position, end, explicit, omitted, depth + 1)
        items.append(item)
    return items, position


def _dictionary_vr(
    header: Header, group: int, element: int, creators: dict[tuple[int, int], str]
) -> bytes:
    tag = group << 16 | element
    try:
        if group & 1:
            if 0x10 <= element <= 0xFF:
                return b"LO"
            vr = private_dictionary_VR(tag, creators.get((group, element >> 8), ""))
        else:
            vr = dictionary_VR(tag)
    except KeyError:
        return b"UN"
    if vr == "US or SS" and header.found.values.get(scan.make_key(0x00280103)) == b"\1\0":
        return b"SS"
    return _AMBIGUOUS.get(vr, vr.encode("ascii"))


def _read_values(raw: bytes, vr: bytes, header: Header) -> list[Any]:
    if vr in BINARY_FORMATS:
        size = struct.calcsize(BINARY_FORMATS[vr])
        count = len(raw) // size
        numbers = struct.unpack(f"<{count}{BINARY_FORMATS[vr]}", raw[: count * size])
        return [n if math.isfinite(n) else None for n in numbers]
    if vr == b"AT":
        words = struct.unpack(f"<{len(raw) // 4 * 2}H", raw[: len(raw) // 4 * 4])
        return [f"{g:04X}{e:04X}" for g, e in zip(words[::2], words[1::2], strict=True)]
    text = decode_text(raw, header.encodings).rstrip(" \0")
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
    """A number, or the text itself where it is none: a lake shows what the file says."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number) or "_" in text:
        return text
    return int(number) if vr == b"IS" and number == int(number) else number


def _json_by_pydicom(header: Header) -> tuple[JsonHeader, list[str]]:
    omitted: list[str] = []
    found: JsonHeader = {}
    if header.dataset is None:
        return found, omitted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag in header.dataset.keys():
            name = f"{tag:08X}"
            try:
                element = header.dataset[tag]
                if element.VR.encode() in _BULK or tag >> 16 >= _PIXEL_GROUP:
                    found[name] = {"vr": element.VR}
                    omitted.append(name)
                    continue
                entry = element.to_json_dict(lambda _: "", MAX_VALUE_BYTES)
                json.dumps(entry)
            except Exception:  # pydicom raises any kind on values it cannot read; the rest stays
                omitted.append(name)
                continue
            if "BulkDataURI" in entry:
                omitted.append(name)
                entry = {"vr": entry["vr"]}
            found[name] = entry
    return found, omitted
