"""One frame's compressed bytes -> its stored values.

The stream's own header decides how it is decoded, and must agree with what the DICOM header
declares before a decoder sees it: a stream that lies about its size allocates nothing. Decoders
fill what is missing with grey or zeros, so a stream without its end is refused.

Not pydicom.pixels, because it is slower and the size of a stream must be checked before memory is
allocated; pydicom is the oracle of the tests.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import imagecodecs
import numpy as np

from radnet_lake.errors import VolumeError
from radnet_lake.volume.frame import Frame, Stored

RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
IMAGE_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)
)
"""JPEG baseline, extended, lossless; JPEG-LS; JPEG 2000; high-throughput JPEG 2000 (PS3.5 A.4)."""

CODESTREAM = b"\xff\x4f\xff\x51"
"""How a JPEG 2000 codestream begins: SOC, SIZ (ISO/IEC 15444-1 A.4.1, A.5.1)."""
JPEG_START = b"\xff\xd8\xff"
END_MARKER = b"\xff\xd9"
"""EOI and EOC: bit stuffing keeps it out of the coded data of all three families."""
MORE_CODE = bytes(range(128))
"""Coded data without a marker; it begins with 0, which makes data of an FF before it."""
MAX_JP2_HEAD_BYTES = 64 << 10
"""Boxes before the codestream, where a frame was stored as a JP2 file, which DICOM forbids."""
MAX_JPEG_SEGMENTS = 1000
"""Segments and fill bytes before the frame header."""

_RLE_HEADER = struct.Struct("<16I")
_SIZ = struct.Struct(">6xIIII16xHBBB")  # behind SOC: SIZ, its length, capabilities
_SOF = struct.Struct(">BHHB")
_NO_SEGMENT = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RST0-7, SOI
_UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_SIGNED: dict[int, Any] = {1: np.int8, 2: np.int16, 4: np.int32}


class _Size(NamedTuple):
    """Size of the image by the stream's own header."""

    rows: int
    columns: int
    components: int
    bits: int


def decode_frame(data: bytes, frame: Frame) -> Stored:
    """Bytes of one frame -> its stored values, (Rows, Columns) integers, signed as declared.

    data: all of the frame's fragments, joined. Raises VolumeError: unsupported_syntax, colour,
    bad_declaration, size_mismatch, truncated_pixels, undecodable. Source: PS3.5 8.2 and annex A.4.
    """
    syntax = frame.TransferSyntaxUID
    if syntax in IMAGE_SYNTAXES:
        return _decode_image(data, frame)
    if syntax == RLE:
        return _decode_rle(data, frame)
    if syntax == DEFLATED_FRAME:
        return _inflate_frame(data, frame)
    raise VolumeError("unsupported_syntax", "no decoder for this transfer syntax")


def settle_bits(values: Stored, frame: Frame, bits: int | None = None) -> Stored:
    """Pixel cells -> stored values: no bits above HighBit, the sign as declared.

    values: integers, cells of their own width whatever their sign; bits: how many of the cell the
    compressed stream filled, None is all. What lies above HighBit was once used for overlays.
    Gives a new array or a view. Raises VolumeError bad_declaration. Source: PS3.5 8.1.1.
    """
    cell = values.dtype.itemsize
    width = 8 * cell
    filled = bits or width
    stored = frame.BitsStored or frame.BitsAllocated or 0
    high = stored - 1 if frame.HighBit is None else frame.HighBit
    if not 0 < stored <= high + 1 <= (frame.BitsAllocated or 0):
        raise VolumeError("bad_declaration", "BitsStored, HighBit and BitsAllocated contradict")
    if frame.PixelRepresentation not in (0, 1):
        raise VolumeError("bad_declaration", "PixelRepresentation is missing or neither 0 nor 1")
    if filled <= stored:
        # The encoder was given fewer bits than the header states: the sign is in the highest.
        stored, high = filled, filled - 1
    elif high >= filled:
        high = stored - 1
    plain: Stored = values.view(_UNSIGNED[cell])
    if high + 1 < width:
        plain = plain << plain.dtype.type(width - 1 - high)
    settled: Stored = plain.view(_SIGNED[cell]) if frame.PixelRepresentation else plain
    if stored == width:
        return settled
    shift = settled.dtype.type(width - stored)
    settled = np.right_shift(settled, shift, out=settled if high + 1 < width else None)
    return settled


def _decode_image(data: bytes, frame: Frame) -> Stored:
    data, size, decode = _open_stream(data)
    if size.components != 1:
        raise VolumeError("colour", f"{size.components} components in the compressed image")
    if (size.rows, size.columns) != (frame.Rows, frame.Columns):
        detail = f"{size.rows} x {size.columns} pixels, declared {frame.Rows} x {frame.Columns}"
        raise VolumeError("size_mismatch", detail)
    if size.bits > (frame.BitsAllocated or 0):
        raise VolumeError("size_mismatch", f"{size.bits} bits in cells of {frame.BitsAllocated}")
    if data.rfind(END_MARKER) < 0:
        raise VolumeError("truncated_pixels", "the compressed image has no end marker")
    try:
        values = decode(data)
    except Exception as error:  # each codec has errors of its own; their text may hold anything
        raise VolumeError("undecodable", type(error).__name__) from None
    if values.shape != (frame.Rows, frame.Columns) or values.dtype.itemsize not in _UNSIGNED:
        raise VolumeError("size_mismatch", "the decoder gives another size than its stream")
    if decode is imagecodecs.jpeg_decode and not _is_whole(data, values, size.bits):
        raise VolumeError("truncated_pixels", "the compressed image ends before its last pixel")
    return settle_bits(values, frame, size.bits)


def _is_whole(data: bytes, values: Stored, bits: int) -> bool:
    """Whether a JPEG reaches its last pixel: libjpeg fills what is missing with middle grey.

    More code before the end marker changes nothing but in an image that still waits for some.
    """
    if values[-1, -1] != 1 << bits - 1:
        return True
    end = data.rfind(END_MARKER)
    return np.array_equal(values, imagecodecs.jpeg_decode(data[:end] + MORE_CODE + data[end:]))


def _open_stream(data: bytes) -> tuple[bytes, _Size, Callable[[bytes], Stored]]:
    """The bare stream, its size, and its decoder."""
    if data.startswith(JPEG_START):
        size, is_jpeg_ls = _read_jpeg_size(data)
        return data, size, imagecodecs.jpegls_decode if is_jpeg_ls else imagecodecs.jpeg_decode
    start = data.find(CODESTREAM, 0, MAX_JP2_HEAD_BYTES)
    if start < 0:
        raise VolumeError("undecodable", "neither a JPEG nor a JPEG 2000 stream")
    # OpenJPEG for high-throughput JPEG 2000 too: it is slower there than OpenJPH, whose wrapper
    # swallows the decoder's errors and gives out what lay in the memory.
    data = data[start:]
    return data, _read_codestream_size(data), imagecodecs.jpeg2k_decode


def _read_jpeg_size(data: bytes) -> tuple[_Size, bool]:
    """Size in the frame header, and whether it is JPEG-LS (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    at = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        if at + 10 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _NO_SEGMENT:
            at += 2
        elif marker in (0xC0, 0xC1, 0xC3, 0xF7):
            bits, rows, columns, components = _SOF.unpack_from(data, at + 4)
            return _Size(rows, columns, components, bits), marker == 0xF7
        elif marker in (0xD9, 0xDA) or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xCC)):
            break
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise VolumeError("undecodable", "no frame header of a JPEG process that DICOM uses")


def _read_codestream_size(data: bytes) -> _Size:
    """Size in the SIZ segment (ISO/IEC 15444-1 A.5.1)."""
    if len(data) < _SIZ.size + 2:
        raise VolumeError("truncated_pixels", "the compressed image ends in its header")
    right, bottom, left, top, components, depth, dx, dy = _SIZ.unpack_from(data, 2)
    if components == 1 and (dx, dy) != (1, 1):
        raise VolumeError("size_mismatch", "the component is subsampled")
    return _Size(bottom - top, right - left, components, (depth & 0x7F) + 1)


def _decode_rle(data: bytes, frame: Frame) -> Stored:
    cell = (frame.BitsAllocated or 0) // 8
    if len(data) < _RLE_HEADER.size:
        raise VolumeError("truncated_pixels", "shorter than the RLE header")
    n_segments, *offsets = _RLE_HEADER.unpack_from(data)
    if n_segments != cell or cell not in _UNSIGNED:
        detail = f"{n_segments} RLE segments for {frame.BitsAllocated} bits"
        raise VolumeError("size_mismatch", detail)
    if max(offsets[:n_segments]) >= len(data):
        raise VolumeError("truncated_pixels", "an RLE segment begins past the end")
    # Exactly as long as declared, so that what expands further is an error and no memory.
    plain = np.empty(_count_pixels(frame) * cell, np.uint8)
    try:
        filled = imagecodecs.dicomrle_decode(data, f"<u{cell}", out=plain.data)
    except Exception as error:
        raise VolumeError("undecodable", type(error).__name__) from None
    if len(filled) != len(plain):
        raise VolumeError("truncated_pixels", f"{len(filled)} of {len(plain)} bytes")
    return _shape_cells(plain, frame)


def _inflate_frame(data: bytes, frame: Frame) -> Stored:
    n_bytes = _count_pixels(frame) * (frame.BitsAllocated or 0) // 8
    try:
        plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, n_bytes + 2)
    except zlib.error:
        raise VolumeError("undecodable", "a damaged deflate stream") from None
    if len(plain) < n_bytes:
        raise VolumeError("truncated_pixels", f"{len(plain)} of {n_bytes} bytes")
    if len(plain) > n_bytes + n_bytes % 2:
        raise VolumeError("size_mismatch", f"more than {n_bytes} bytes")
    return _shape_cells(np.frombuffer(plain, np.uint8, n_bytes), frame)


def _count_pixels(frame: Frame) -> int:
    return (frame.Rows or 0) * (frame.Columns or 0)


def _shape_cells(plain: Stored, frame: Frame) -> Stored:
    values = plain.view(f"<u{(frame.BitsAllocated or 0) // 8}")
    return settle_bits(values.reshape(frame.Rows or 0, frame.Columns or 0), frame)
