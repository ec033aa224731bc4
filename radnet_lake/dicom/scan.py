"""Takes the bytes of a DICOM data set, gives the raw values of the wanted elements.

Reads explicit and implicit little endian (PS3.5 7.1 to 7.5, A.1, A.2). Any other encoding raises
`Unsupported`, and the caller reads the file by pydicom. Nothing is converted, nothing is read past
the buffer, and other elements are skipped by their length.

Written here, with pydicom as fallback and test oracle, because a harvest of millions of files is
bound by the time per header. A tag is a key here: the first four bytes of an element read as one
little-endian number, (element << 16) + group.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Raw = bytes | tuple[bytes, bytes] | list[dict[int, Any]]
"""A value: its bytes; (VR, bytes) where the VR is not the expected one; items of a sequence."""
Wanted = Mapping[int, tuple[bytes, "Wanted"]]
"""key -> (expected VR, wanted elements of the items if it is a sequence)."""

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""VRs with a 32-bit length in explicit VR (PS3.5 7.1.2)."""
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())

BULK_VRS = frozenset(b"OB OD OF OL OV OW UN".split())
"""Binary values, which neither a column nor a JSON header holds."""

UNDEFINED = 0xFFFFFFFF
MAX_DEPTH = 16
"""Nested sequences; real headers stay below 8."""

ITEM, ITEM_END, SEQUENCE_END = 0xE000FFFE, 0xE00DFFFE, 0xE0DDFFFE
PIXEL_KEYS = frozenset({0x00107FE0, 0x00087FE0, 0x00097FE0})
"""PixelData, FloatPixelData, DoubleFloatPixelData: the end of a header."""

_explicit_head = struct.Struct("<I2sH").unpack_from
_implicit_head = struct.Struct("<II").unpack_from
_length32 = struct.Struct("<I").unpack_from


class NeedMore(Exception):
    """The buffer is too short; it needs at least `offset` bytes.

    is_skippable: the bytes before the offset are not needed.
    """

    def __init__(self, offset: int, is_skippable: bool = False) -> None:
        super().__init__(offset)
        self.offset, self.is_skippable = offset, is_skippable


class Unsupported(Exception):
    """An encoding that this scanner does not read."""


def make_key(tag: int) -> int:
    """Tag, (group << 16) + element -> key of this module."""
    return (tag & 0xFFFF) << 16 | tag >> 16


@dataclass(slots=True)
class Elements:
    """Elements of the top level, and where the scan continues with more bytes.

    values: raw values by key. private: raw values by (creator, group, element's last two digits).
    creators: of private blocks, by (group, element). end: offset of the pixel data element, or of
    the next element to scan. is_complete: the header ends there. pixel_*: of the pixel data.
    """

    end: int = 0
    is_complete: bool = False
    values: dict[int, Raw] = field(default_factory=dict)
    private: dict[tuple[bytes, int, int], Raw] = field(default_factory=dict)
    creators: dict[tuple[int, int], bytes] = field(default_factory=dict)
    pixel_start: int = 0
    pixel_vr: bytes | None = None
    pixel_length: int | None = None


def scan_top(
    data: bytes,
    found: Elements,
    explicit: bool,
    wanted: Wanted,
    private: Mapping[int, frozenset[int]],
) -> None:
    """Add to `found` the top-level elements from its end to the pixel data or the end of `data`.

    private: group -> last two digits of the wanted private elements, of any creator. Raises
    NeedMore where an element crosses the end of `data`: call again with the same `found` and more
    bytes. Raises Unsupported for encodings that are not read here.
    """
    end_of_data = len(data)
    position = found.end
    try:
        while position < end_of_data:
            if position + 8 > end_of_data:
                raise NeedMore(position + 8)
            if explicit:
                key, vr, length = _explicit_head(data, position)
                begin = position + 8
                if vr not in SHORT_VRS:
                    if vr not in LONG_VRS:
                        raise Unsupported("unknown VR")
                    begin += 4
                    if begin > end_of_data:
                        raise NeedMore(begin)
                    (length,) = _length32(data, position + 8)
            else:
                key, length = _implicit_head(data, position)
                vr, begin = b"", position + 8
            group = key & 0xFFFF
            if not 0x0004 <= group < 0x7FE0 and _ends_here(found, key, vr, begin, length):
                break
            finish = begin + length
            if key in wanted:
                plan = wanted[key]
                if vr == plan[0] and vr != b"SQ" and finish <= end_of_data:
                    found.values[key] = data[begin:finish]
                    position = finish
                else:
                    position = _keep_wanted(data, found, key, vr, begin, length, explicit, plan)
            elif length == UNDEFINED:
                _check_sequence_vr(vr)
                _, position = read_items(data, begin, length, explicit and vr != b"UN", {})
            else:
                if group in private:
                    element = key >> 16
                    if element <= 0xFF or element & 0xFF in private[group]:
                        if finish > end_of_data:
                            raise NeedMore(finish)
                        _keep_private(found, group, element, vr, data[begin:finish])
                position = finish
        if position > end_of_data:
            raise NeedMore(position, vr in BULK_VRS)
    finally:
        found.end = position


def _ends_here(found: Elements, key: int, vr: bytes, begin: int, length: int) -> bool:
    """Whether the header ends before this element; records the pixel data."""
    group = key & 0xFFFF
    if group < 0x0004 or group == 0xFFFE:
        raise Unsupported("group that no data set has")
    if key in PIXEL_KEYS:
        found.pixel_start, found.pixel_vr, found.pixel_length = begin, vr or b"OW", length
    found.is_complete = key in PIXEL_KEYS or group > 0x7FE0
    return found.is_complete


def _keep_wanted(
    data: bytes,
    found: Elements,
    key: int,
    vr: bytes,
    begin: int,
    length: int,
    explicit: bool,
    plan: tuple[bytes, Wanted],
) -> int:
    expected, inside = plan
    finish = begin + length
    if expected == b"SQ":
        _check_sequence_vr(vr)
        if length != UNDEFINED and finish > len(data):
            raise NeedMore(finish)
        nested_explicit = explicit and vr != b"UN"
        found.values[key], finish = read_items(data, begin, length, nested_explicit, inside)
        return finish
    if length == UNDEFINED:
        raise Unsupported("undefined length")
    if finish > len(data):
        raise NeedMore(finish)
    value = data[begin:finish]
    found.values[key] = value if vr == expected or not vr else (vr, value)
    return finish


def _check_sequence_vr(vr: bytes) -> None:
    if vr not in (b"SQ", b"UN", b""):
        raise Unsupported("a sequence, or an undefined length, under another VR")


def _keep_private(found: Elements, group: int, element: int, vr: bytes, value: bytes) -> None:
    if 0x10 <= element <= 0xFF:
        found.creators[group, element] = value.strip(b" \0")
    elif element >= 0x1000 and (creator := found.creators.get((group, element >> 8))):
        found.private[creator, group, element & 0xFF] = (vr, value) if vr else value


def read_items(
    data: bytes, position: int, length: int, explicit: bool, wanted: Wanted, depth: int = 0
) -> tuple[list[dict[int, Any]], int]:
    """Sequence whose value begins at `position` -> wanted elements of its items, and its end.

    Raises NeedMore, Unsupported. Source: PS3.5 7.5.
    """
    if depth > MAX_DEPTH:
        raise Unsupported("sequences nested too deep")
    items: list[dict[int, Any]] = []
    finish = position + length if length != UNDEFINED else None
    while finish is None or position < finish:
        key, item_length, position = read_item_head(data, position)
        if key == SEQUENCE_END and finish is None:
            return items, position
        if key != ITEM:
            raise Unsupported("no item where one is due")
        if item_length != UNDEFINED and not wanted:
            position += item_length
            continue
        values, position = _read_item(data, position, item_length, explicit, wanted, depth)
        if wanted:
            items.append(values)
    if position != finish:
        raise Unsupported("items longer than their sequence")
    return items, position


def read_item_head(data: bytes, position: int) -> tuple[int, int, int]:
    """Head at `position` of an item or delimiter -> (key, length, offset of its value).

    Raises NeedMore.
    """
    if position + 8 > len(data):
        raise NeedMore(position + 8)
    key, length = _implicit_head(data, position)
    return key, length, position + 8


def _read_item(
    data: bytes, position: int, length: int, explicit: bool, wanted: Wanted, depth: int
) -> tuple[dict[int, Any], int]:
    values: dict[int, Any] = {}
    finish = position + length if length != UNDEFINED else None
    if finish is not None and finish > len(data):
        raise NeedMore(finish)
    while finish is None or position < finish:
        key, vr, begin, element_length = read_element(data, position, explicit)
        if key == ITEM_END and finish is None:
            return values, begin
        expected, inside = wanted.get(key, (b"", {}))
        if element_length == UNDEFINED or expected == b"SQ":
            _check_sequence_vr(vr)
            nested, position = read_items(
                data, begin, element_length, explicit and vr != b"UN", inside, depth + 1
            )
            if expected:
                values[key] = nested
        else:
            position = begin + element_length
            if expected:
                if position > len(data):
                    raise NeedMore(position)
                value = data[begin:position]
                values[key] = value if vr == expected or not vr else (vr, value)
    if position != finish:
        raise Unsupported("element longer than its item")
    return values, position


def read_element(data: bytes, position: int, explicit: bool) -> tuple[int, bytes, int, int]:
    """Head of an element at `position` -> (key, VR, offset of its value, length of its value).

    VR is b"" in implicit VR and for delimiters. Raises NeedMore; Unsupported for an unknown VR.
    """
    if position + 8 > len(data):
        raise NeedMore(position + 8)
    key, length = _implicit_head(data, position)
    if not explicit or key & 0xFFFF == 0xFFFE:
        if key in (ITEM, SEQUENCE_END):
            raise Unsupported("delimiter out of place")
        return key, b"", position + 8, length
    vr = data[position + 4 : position + 6]
    if vr in SHORT_VRS:
        return key, vr, position + 8, length >> 16
    if vr not in LONG_VRS:
        raise Unsupported("unknown VR")
    if position + 12 > len(data):
        raise NeedMore(position + 12)
    return key, vr, position + 12, _length32(data, position + 8)[0]
