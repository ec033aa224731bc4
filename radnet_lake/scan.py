"""Raw bytes of a DICOM data set -> raw values of the wanted elements: the fast path of harvesting.

Reads explicit and implicit little endian (PS3.5 7.1 to 7.5, A.1, A.2). Whatever is unusual raises `Odd`, and
the caller lets pydicom read the file instead. Nothing is converted, nothing is read past the buffer, and
what is not wanted is stepped over by its length.

Tags are keys here: an element's first four bytes read as one little-endian number, (element << 16) + group.
"""

import struct
from collections.abc import Mapping
from typing import Any

Raw = bytes | tuple[bytes, bytes] | list[dict[int, Any]]
"""A value: its bytes; (VR, bytes) where the file's VR is not the expected one; items of a sequence."""
Wanted = Mapping[int, tuple[bytes, "Wanted"]]
"""key -> (expected VR, what is wanted inside where it is a sequence)."""

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""VRs with a 32-bit length in explicit VR (PS3.5 7.1.2)."""
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())

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
    """The buffer ends too early; `offset` is how far it must reach at least."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class Odd(Exception):
    """Not what this scanner reads."""


def make_key(tag: int) -> int:
    """(group << 16) + element -> the key used here."""
    return (tag & 0xFFFF) << 16 | tag >> 16


class Found:
    """What a scan of the top level gives.

    values: raw values by key. private: raw values by (creator, group, element's last two digits).
    end: offset of the pixel data element, or of the end. pixel_vr, pixel_length: of that element, or None.
    """

    __slots__ = ("end", "pixel_length", "pixel_start", "pixel_vr", "private", "values")

    def __init__(self) -> None:
        self.values: dict[int, Raw] = {}
        self.private: dict[tuple[bytes, int, int], Raw] = {}
        self.end = 0
        self.pixel_start = 0
        self.pixel_vr: bytes | None = None
        self.pixel_length: int | None = None


def scan_top(
    data: bytes, start: int, explicit: bool, wanted: Wanted, private_groups: frozenset[int]
) -> Found:
    """Walk the top level from `start` to the pixel data or the end of `data`.

    Raises NeedMore where an element crosses the end of `data`; Odd for what is not read here.
    """
    found = Found()
    values = found.values
    creators: dict[tuple[int, int], bytes] = {}
    end_of_data = len(data)
    position = start
    while position < end_of_data:
        if position + 8 > end_of_data:
            raise NeedMore(position + 12)
        if explicit:
            key, vr, length = _explicit_head(data, position)
            if vr in SHORT_VRS:
                begin = position + 8
            elif vr in LONG_VRS:
                if position + 12 > end_of_data:
                    raise NeedMore(position + 12)
                (length,) = _length32(data, position + 8)
                begin = position + 12
            else:
                raise Odd("unknown VR")
        else:
            key, length = _implicit_head(data, position)
            vr, begin = b"", position + 8
        group = key & 0xFFFF
        if group >= 0x7FE0 and (key in PIXEL_KEYS or group == 0xFFFC):
            if key in PIXEL_KEYS:
                found.pixel_start, found.pixel_vr, found.pixel_length = begin, vr or b"OW", length
            found.end = position
            return found
        if group < 0x0004 or group == 0xFFFE:
            raise Odd("group that no data set has")
        finish = begin + length
        if key in wanted:
            expected, inside = wanted[key]
            if expected == b"SQ":
                nested_explicit = explicit and vr != b"UN"
                if vr not in (b"SQ", b"UN", b""):
                    raise Odd("a sequence under another VR")
                if length != UNDEFINED and finish > end_of_data:
                    raise NeedMore(finish)
                values[key], finish = read_items(data, begin, length, nested_explicit, inside)
            elif length == UNDEFINED:
                raise Odd("undefined length")
            else:
                if finish > end_of_data:
                    raise NeedMore(finish)
                value = data[begin:finish]
                values[key] = value if vr == expected or not vr else (vr, value)
        elif length == UNDEFINED:
            if vr not in (b"SQ", b"UN", b""):
                raise Odd("undefined length")
            _, finish = read_items(data, begin, length, explicit and vr != b"UN", {})
        elif group in private_groups:
            element = key >> 16
            if finish > end_of_data:
                raise NeedMore(finish)
            if 0x10 <= element <= 0xFF:
                creators[group, element] = data[begin:finish].strip(b" \0")
            elif element >= 0x1000 and (creator := creators.get((group, element >> 8))):
                value = data[begin:finish]
                found.private[creator, group, element & 0xFF] = (vr, value) if vr else value
        position = finish
    if position > end_of_data:
        raise NeedMore(position)
    found.end = position
    return found


def read_items(
    data: bytes, position: int, length: int, explicit: bool, wanted: Wanted, depth: int = 0
) -> tuple[list[dict[int, Any]], int]:
    """Items of a sequence whose value begins at `position` -> their wanted elements, and where it ends.

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
            if vr not in (b"SQ", b"UN", b""):
                raise Odd("undefined length")
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
