"""Raw bytes of a DICOM data set -> raw values of the wanted elements: the fast path of harvesting.

Reads explicit and implicit little endian (PS3.5 7.1 to 7.5, A.1, A.2). Whatever is unusual raises
`Odd`, and the caller lets pydicom read the file instead. Nothing is converted, nothing is read past
the buffer, and what is not wanted is stepped over by its length.

Tags are keys here: an element's first four bytes read as one little-endian number,
(element << 16) + group.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Raw = bytes | tuple[bytes, bytes] | list[dict[int, Any]]
"""A value: its bytes; (VR, bytes) where the VR is not the expected one; or a sequence's items."""
Wanted = Mapping[int, tuple[bytes, "Wanted"]]
"""key -> (expected VR, what is wanted inside where it is a sequence)."""

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""VRs with a 32-bit length in explicit VR (PS3.5 7.1.2)."""
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())

BULK_VRS = frozenset(b"OB OD OF OL OV OW UN".split())
"""Binary values, which no column and no JSON header holds."""

UNDEFINED = 0xFFFFFFFF
MAX_DEPTH = 16
"""Sequences in sequences; real headers stay below 8."""

ITEM, ITEM_END, SEQUENCE_END = 0xE000FFFE, 0xE00DFFFE, 0xE0DDFFFE
PIXEL_KEYS = frozenset({0x00107FE0, 0x00087FE0, 0x00097FE0})
"""PixelData, FloatPixelData, DoubleFloatPixelData: where a header ends."""

_explicit_head = struct.Struct("<I2sH").unpack_from
_implicit_head = struct.Struct("<II").unpack_from
_length32 = struct.Struct("<I").unpack_from


class NeedMore(Exception):
    """The buffer ends too early; `offset` is how far it must reach at least.

    is_blind: what lies before the offset will not be looked at.
    """

    def __init__(self, offset: int, is_blind: bool = False) -> None:
        super().__init__(offset)
        self.offset, self.is_blind = offset, is_blind


class Odd(Exception):
    """Not what this scanner reads."""


def make_key(tag: int) -> int:
    """(group << 16) + element -> the key used here."""
    return (tag & 0xFFFF) << 16 | tag >> 16


@dataclass(slots=True)
class Found:
    """What a scan of the top level gives, and where it goes on when there are more bytes.

    values: raw values by key. private: raw values by (creator, group, element's last two digits).
    creators: of private blocks, by (group, element). end: offset of the pixel data element, or how
    far the scan has come. is_complete: the header ends there. pixel_*: of the pixel data element.
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
    found: Found,
    explicit: bool,
    wanted: Wanted,
    private: Mapping[int, frozenset[int]],
) -> None:
    """Walk the top level from `found.end` to the pixel data or the end of `data`, filling `found`.

    private: group -> last two digits of the private elements that are wanted, of any creator.
    Raises NeedMore where an element crosses the end of `data`: call again with the same `found` and
    more bytes. Raises Odd for what is not read here.
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
                        raise Odd("unknown VR")
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


def _ends_here(found: Found, key: int, vr: bytes, begin: int, length: int) -> bool:
    """Whether the header ends before this element; only offset tables stand before pixel data."""
    group = key & 0xFFFF
    if group < 0x0004 or group == 0xFFFE:
        raise Odd("group that no data set has")
    if key in PIXEL_KEYS:
        found.pixel_start, found.pixel_vr, found.pixel_length = begin, vr or b"OW", length
    found.is_complete = key in PIXEL_KEYS or group > 0x7FE0
    return found.is_complete


def _keep_wanted(
    data: bytes,
    found: Found,
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
        raise Odd("undefined length")
    if finish > len(data):
        raise NeedMore(finish)
    value = data[begin:finish]
    found.values[key] = value if vr == expected or not vr else (vr, value)
    return finish


def _check_sequence_vr(vr: bytes) -> None:
    if vr not in (b"SQ", b"UN", b""):
        raise Odd("a sequence, or an undefined length, under another VR")


def _keep_private(found: Found, group: int, element: int, vr: bytes, value: bytes) -> None:
    if 0x10 <= element <= 0xFF:
        found.creators[group, element] = value.strip(b" \0")
    elif element >= 0x1000 and (creator := found.creators.get((group, element >> 8))):
        found.private[creator, group, element & 0xFF] = (vr, value) if vr else value


def read_items(
    data: bytes, position: int, length: int, explicit: bool, wanted: Wanted, depth: int = 0
) -> tuple[list[dict[int, Any]], int]:
    """Items of the sequence whose value begins at `position` -> wanted elements, and where it ends.

    Raises NeedMore, Odd. Source: PS3.5 7.5.
    """
    if depth > MAX_DEPTH:
        raise Odd("sequences nested too deep")
    items: list[dict[int, Any]] = []
    finish = position + length if length != UNDEFINED else None
    while finish is None or position < finish:
        key, item_length, position = read_item_head(data, position)
        if key == SEQUENCE_END and finish is None:
            return items, position
        if key != ITEM:
            raise Odd("no item where one is due")
        if item_length != UNDEFINED and not wanted:
            position += item_length
            continue
        values, position = _read_item(data, position, item_length, explicit, wanted, depth)
        if wanted:
            items.append(values)
    if position != finish:
        raise Odd("items longer than their sequence")
    return items, position


def read_item_head(data: bytes, position: int) -> tuple[int, int, int]:
    """An item's or delimiter's (key, length, offset behind its head). Raises NeedMore."""
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
        raise Odd("element longer than its item")
    return values, position


def read_element(data: bytes, position: int, explicit: bool) -> tuple[int, bytes, int, int]:
    """Head of the element at `position`: (key, VR, offset of its value, length of its value).

    VR is b"" in implicit VR and for delimiters. Raises NeedMore; Odd for an unknown VR.
    """
    if position + 8 > len(data):
        raise NeedMore(position + 8)
    key, length = _implicit_head(data, position)
    if not explicit or key & 0xFFFF == 0xFFFE:
        if key in (ITEM, SEQUENCE_END):
            raise Odd("delimiter out of place")
        return key, b"", position + 8, length
    vr = data[position + 4 : position + 6]
    if vr in SHORT_VRS:
        return key, vr, position + 8, length >> 16
    if vr not in LONG_VRS:
        raise Odd("unknown VR")
    if position + 12 > len(data):
        raise NeedMore(position + 12)
    return key, vr, position + 12, _length32(data, position + 8)[0]
