"""The pixel data element of one object -> the stored values of its frames.

Native pixels lie in the file as they are; compressed ones in fragments, one or several a frame.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from radnet_lake.dicom.header import BIG_ENDIAN, DEFLATED, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from radnet_lake.dicom.scan import UNDEFINED
from radnet_lake.errors import VolumeError
from radnet_lake.volume.codec import (
    CODESTREAM,
    DEFLATED_FRAME,
    IMAGE_SYNTAXES,
    JPEG_START,
    RLE,
    decode_frame,
    settle_bits,
)
from radnet_lake.volume.frame import Frame, Stored

MAX_SIDE = 65_535
"""Rows and Columns are 16-bit numbers (PS3.3 C.7.6.3)."""
MAX_FRAME_PIXELS = 16 << 20
"""4096 x 4096; clinical slices end at 2048 x 2048."""
MAX_EXPANSION = 2
"""A compressed frame this many times longer than its pixels is none; plus SLACK_BYTES."""
SLACK_BYTES = 1 << 20

GE_BIG_PIXELS = "1.2.840.113619.5.2"
"""GE's private syntax: implicit little endian, with pixels in big endian."""
NATIVE_SYNTAXES = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, BIG_ENDIAN, DEFLATED, GE_BIG_PIXELS})
ONE_FRAGMENT_A_FRAME = frozenset({RLE, DEFLATED_FRAME})
"""PS3.5 A.4.2 and A.4.12."""

Read = Callable[[int, int], bytes | memoryview]
"""(offset, length) -> bytes of the file, fewer only at its end; no offset is before the last."""

_READ_SYNTAXES = NATIVE_SYNTAXES | ONE_FRAGMENT_A_FRAME | IMAGE_SYNTAXES
_CELLS = {
    (0x0010, 8): "u1", (0x0010, 16): "u2", (0x0010, 32): "u4",
    (0x0008, 32): "f4", (0x0009, 64): "f8",
}  # fmt: skip
_PIXEL_VRS = frozenset((b"OB", b"OW", b"OF", b"OD", b"UN"))
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


class _Element(NamedTuple):
    """Head of the pixel data element. number: in group 7FE0; length: of its value."""

    number: int
    vr: bytes
    order: str
    start: int
    length: int


def check_declared(frame: Frame) -> None:
    """Raise VolumeError for declarations that no grey frame has, before anything is read."""
    rows, columns = frame.Rows, frame.Columns
    if not rows or not columns or not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
        raise VolumeError("bad_declaration", "Rows or Columns missing or out of range")
    if rows * columns > MAX_FRAME_PIXELS:
        detail = f"{rows} x {columns} pixels, the bound is {MAX_FRAME_PIXELS}"
        raise VolumeError("too_large", detail)
    if frame.SamplesPerPixel not in (None, 1):
        raise VolumeError("colour", f"{frame.SamplesPerPixel} samples per pixel")
    if not (frame.PhotometricInterpretation or "MONOCHROME").startswith("MONOCHROME"):
        raise VolumeError("colour", "PhotometricInterpretation is not MONOCHROME")
    if frame.BitsAllocated not in (8, 16, 32, 64):
        raise VolumeError("bad_declaration", f"BitsAllocated {frame.BitsAllocated}")
    if not 0 < (frame.frame_number or 1) <= count_frames(frame):
        raise VolumeError("bad_declaration", "fewer frames declared than described")
    if not frame.has_pixel_data or frame.header_bytes is None:
        raise VolumeError("truncated_pixels", "no pixel data")


def count_frames(frame: Frame) -> int:
    """Frames that its object declares."""
    return frame.NumberOfFrames or 1


def count_bytes(frame: Frame) -> int:
    """Bytes of its pixels, uncompressed."""
    return (frame.Rows or 0) * (frame.Columns or 0) * (frame.BitsAllocated or 0) // 8


def read_frames(read: Read, frame: Frame, numbers: Sequence[int]) -> Iterator[Stored]:
    """Read the frames `numbers`, ascending from 1, of the object that `frame` is one of.

    read: of the file, or of what its deflated data set expands to. Raises VolumeError.
    """
    if frame.TransferSyntaxUID not in _READ_SYNTAXES:
        raise VolumeError("unsupported_syntax", "no decoder for this transfer syntax")
    element = _read_element(read, frame)
    if element.length == UNDEFINED:
        yield from _read_encapsulated(read, element, frame, numbers)
    else:
        yield from _read_native(read, element, frame, numbers)


def _read_element(read: Read, frame: Frame) -> _Element:
    """The head of the pixel data element, explicit or implicit, little or big endian."""
    start = frame.header_bytes or 0
    head = bytes(read(start, 12))
    order: Literal["little", "big"] = "big" if head[:2] == b"\x7f\xe0" else "little"
    group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
    if len(head) < 8 or group != 0x7FE0 or element not in (0x0008, 0x0009, 0x0010):
        # The harvest saw it here, in a file of this size.
        raise VolumeError("changed", "no pixel data where it was when harvested")
    vr = head[4:6] if head[4:6] in _PIXEL_VRS and head[6:8] == b"\0\0" else b""
    length = int.from_bytes(head[8:12] if vr else head[4:8], order)
    start += 12 if vr else 8
    if frame.TransferSyntaxUID == GE_BIG_PIXELS:
        order = "big"
    return _Element(element, vr, order, start, length)


def _read_native(
    read: Read, element: _Element, frame: Frame, numbers: Sequence[int]
) -> Iterator[Stored]:
    """Frames as they lie in the file (PS3.5 8.1.1 and A.1 to A.5)."""
    if frame.TransferSyntaxUID not in NATIVE_SYNTAXES:
        raise VolumeError("bad_declaration", "native pixels in a syntax of compressed ones")
    n_bytes, kind = count_bytes(frame), _CELLS.get((element.number, frame.BitsAllocated or 0))
    if kind is None:
        raise VolumeError("bad_declaration", f"{frame.BitsAllocated} bits in this pixel data")
    expected = n_bytes * count_frames(frame)
    if element.length < expected:
        raise VolumeError("truncated_pixels", f"{element.length} of {expected} bytes")
    if element.length > expected + 1:
        detail = f"{element.length} bytes of pixels, declared are {expected}"
        raise VolumeError("bad_declaration", detail)
    order = ">" if element.order == "big" else "<"
    swaps_words = order == ">" and kind == "u1" and element.vr == b"OW"
    if swaps_words and n_bytes % 2:
        raise VolumeError("unsupported_syntax", "an odd number of bytes in big endian words")
    for number in numbers:
        data = read(element.start + (number - 1) * n_bytes, n_bytes)
        if len(data) < n_bytes:
            raise VolumeError("truncated_pixels", f"frame {number}: {len(data)} of {n_bytes} bytes")
        values: Stored = np.frombuffer(data, order + kind)
        if swaps_words:
            values = values.view(np.uint16).byteswap().view(np.uint8)
        values = values.reshape(frame.Rows or 0, frame.Columns or 0)
        if order == ">":
            values = values.astype(kind)
        yield values if kind[0] == "f" else settle_bits(values, frame)


def _read_encapsulated(
    read: Read, element: _Element, frame: Frame, numbers: Sequence[int]
) -> Iterator[Stored]:
    """Frames out of fragments (PS3.5 A.4)."""
    if frame.TransferSyntaxUID in NATIVE_SYNTAXES:
        raise VolumeError("bad_declaration", "fragments in a syntax of native pixels")
    for data in _join_fragments(read, element.start, frame, set(numbers)):
        yield decode_frame(data, frame)


def _join_fragments(read: Read, at: int, frame: Frame, numbers: set[int]) -> Iterator[bytes]:
    """The compressed bytes of each wanted frame.

    Where a frame begins is seen in its fragment, not looked up in an offset table: tables are often
    missing and sometimes wrong, and an image stream's first bytes occur nowhere else in it.
    """
    n_frames, last = count_frames(frame), max(numbers)
    most = MAX_EXPANSION * count_bytes(frame) + SLACK_BYTES
    is_alone = frame.TransferSyntaxUID in ONE_FRAGMENT_A_FRAME
    number = n_bytes = 0
    parts: list[bytes | memoryview] = []
    for start, length, first in _walk_fragments(read, at):
        begins = is_alone or first == CODESTREAM or first.startswith(JPEG_START)
        if begins if n_frames > 1 else not number:
            if number in numbers:
                yield b"".join(parts)
            number, n_bytes, parts = number + 1, 0, []
            if number > n_frames:
                raise VolumeError("bad_declaration", f"more than {n_frames} compressed frames")
            if number > last:
                return
        if number in numbers:
            n_bytes += length
            if n_bytes > most:
                raise VolumeError("too_large", f"a compressed frame of more than {most} bytes")
            parts.append(read(start, length))
            if len(parts[-1]) < length:
                raise VolumeError("truncated_pixels", f"frame {number} ends inside a fragment")
    if number < last:
        raise VolumeError("truncated_pixels", f"{number} of {n_frames} compressed frames")
    yield b"".join(parts)


def _walk_fragments(read: Read, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Offset, length and first four bytes of each fragment behind the offset table."""
    is_table = True
    while True:
        head = bytes(read(at, 12))
        # The end of the file in place of the delimiter costs no pixel.
        if len(head) < 8 or head[:4] == _SEQUENCE_END:
            return
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != _ITEM or length == UNDEFINED:
            raise VolumeError("undecodable", "no item where a fragment is due")
        if not is_table:
            yield at + 8, length, head[8:12]
        is_table = False
        at += 8 + length
