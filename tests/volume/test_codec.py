"""One compressed frame: every syntax gives the stored values, and no stream is believed blindly."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames

from radnet_lake.errors import VolumeError
from radnet_lake.schema import VOLUME_REASONS
from radnet_lake.volume.codec import DEFLATED_FRAME, RLE, decode_frame, settle_bits
from radnet_lake.volume.frame import Frame, Stored

JPEG_8, JPEG_12, LOSSLESS, LOSSLESS_1, LS, LS_NEAR, J2K, J2K_LOSSY, HTJ2K = (
    f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201)
)
ROWS, COLUMNS = 37, 53


def draw(low: int, high: int, dtype: str = "i4") -> Stored:
    """A smooth picture with noise, whose odd number of rows and columns differ."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    noise = np.random.default_rng(5).uniform(-0.05, 0.05, (ROWS, COLUMNS))
    wave = 0.5 + 0.4 * np.sin(x / 9) * np.cos(y / 7) + noise
    picture = np.rint(low + (high - low) * wave.clip(0, 1))
    picture[0, :2] = low, high
    return picture.astype(dtype)


def frame(syntax: str, bits: int = 16, **others: Any) -> Frame:
    facts: dict[str, Any] = {
        "uri": "",
        "TransferSyntaxUID": syntax,
        "Rows": ROWS,
        "Columns": COLUMNS,
        "BitsAllocated": 8 if bits <= 8 else 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    }
    return Frame(**facts | others)


def reason_of(data: bytes, of: Frame) -> str:
    with pytest.raises(VolumeError) as caught:
        decode_frame(data, of)
    assert caught.value.reason in VOLUME_REASONS
    return caught.value.reason


def encode_rle(values: Stored) -> bytes:
    """RLE Lossless: one PackBits segment for each byte of a cell, the highest first."""
    planes = values.astype(values.dtype.newbyteorder(">")).view(np.uint8)
    planes = planes.reshape(values.size, -1).T
    packed = [bytes(imagecodecs.packbits_encode(plane.tobytes())) for plane in planes]
    segments = [part + b"\0" * (len(part) % 2) for part in packed]
    starts = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    header = struct.pack("<16I", len(starts), *starts, *[0] * (15 - len(starts)))
    return header + b"".join(segments)


def deflate(values: Stored) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(values.tobytes()) + packer.flush()


def encode_j2k(values: Stored, **options: Any) -> bytes:
    options = {"level": 0, "reversible": True, "codecformat": "j2k"} | options
    return bytes(imagecodecs.jpeg2k_encode(values, **options))


def encode_lossless(values: Stored) -> bytes:
    """JPEG lossless, of 12 bits where there are no more."""
    bits = 16 if values.max() > 4095 else 12
    return bytes(imagecodecs.ljpeg_encode(values, bitspersample=bits))


Encode = Callable[[Stored], bytes]
LOSSLESS_CODES: dict[str, tuple[str, Encode]] = {
    "rle": (RLE, encode_rle),
    "deflated": (DEFLATED_FRAME, deflate),
    "jpeg lossless": (LOSSLESS, encode_lossless),
    "jpeg lossless, first-order": (LOSSLESS_1, encode_lossless),
    "jpeg lossless by libjpeg": (
        LOSSLESS_1,
        lambda v: imagecodecs.jpeg_encode(v, lossless=True, bitspersample=16),
    ),
    "jpeg-ls": (LS, imagecodecs.jpegls_encode),
    "jpeg-ls in the lossy syntax": (LS_NEAR, imagecodecs.jpegls_encode),
    "jpeg 2000": (J2K, encode_j2k),
    "jpeg 2000 in the lossy syntax": (J2K_LOSSY, encode_j2k),
    "htj2k": (HTJ2K, imagecodecs.htj2k_encode),
}


@pytest.mark.parametrize("name", LOSSLESS_CODES)
@pytest.mark.parametrize(("bits", "is_signed"), [(16, 0), (16, 1), (12, 0), (12, 1)])
def test_lossless_syntaxes_give_back_every_value(name: str, bits: int, is_signed: int) -> None:
    syntax, encode = LOSSLESS_CODES[name]
    low = -(1 << (bits - 1)) if is_signed else 0
    values = draw(low, low + (1 << bits) - 1)
    # Encoders know no sign: they are given the cell's bits, as toolkits do.
    data = encode((values & ((1 << bits) - 1)).astype(np.uint16))
    decoded = decode_frame(data, frame(syntax, bits, PixelRepresentation=is_signed))
    assert decoded.dtype == (np.int16 if is_signed else np.uint16)
    assert np.array_equal(decoded, values)


@pytest.mark.parametrize("name", ["rle", "deflated", "jpeg-ls", "jpeg 2000", "htj2k"])
def test_eight_bits(name: str) -> None:
    syntax, encode = LOSSLESS_CODES[name]
    values = draw(0, 255, "u1")
    assert np.array_equal(decode_frame(encode(values), frame(syntax, 8)), values)


@pytest.mark.parametrize("name", ["rle", "deflated"])
def test_thirty_two_bits(name: str) -> None:
    syntax, encode = LOSSLESS_CODES[name]
    values = draw(-2_000_000_000, 2_000_000_000, "i4")
    of = frame(syntax, 32, BitsAllocated=32, PixelRepresentation=1)
    assert np.array_equal(decode_frame(encode(values), of), values)


@pytest.mark.parametrize(
    ("syntax", "bits", "encode"),
    [
        (JPEG_8, 8, lambda v: imagecodecs.jpeg_encode(v, level=98)),
        (JPEG_12, 8, lambda v: imagecodecs.jpeg_encode(v, level=98)),
        (JPEG_12, 12, lambda v: imagecodecs.jpeg_encode(v, level=98, bitspersample=12)),
        (LS_NEAR, 12, lambda v: imagecodecs.jpegls_encode(v, level=3)),
        (J2K_LOSSY, 12, lambda v: encode_j2k(v, level=90, reversible=False)),
    ],
)
def test_lossy_syntaxes_come_near(syntax: str, bits: int, encode: Encode) -> None:
    high = (1 << bits) - 1
    values = draw(0, high, "u1" if bits == 8 else "u2")
    decoded = decode_frame(encode(values), frame(syntax, bits))
    assert np.abs(decoded.astype(int) - values.astype(int)).mean() < 0.01 * high


@pytest.mark.parametrize("encode", [encode_j2k, imagecodecs.htj2k_encode])
@pytest.mark.parametrize("is_signed", [0, 1])
def test_sign_of_the_codestream_does_not_matter(encode: Encode, is_signed: int) -> None:
    values = draw(-1000, 1500)
    data = encode(values.astype(np.int16))
    decoded = decode_frame(data, frame(J2K, 16, PixelRepresentation=is_signed))
    assert np.array_equal(decoded, values if is_signed else values & 0xFFFF)


def test_unsigned_codestream_of_signed_pixels_is_read_as_pydicom_reads_it() -> None:
    # GDCM gives other values here: it takes bit 12 of this file for a value, not the sign.
    ds = get_testdata_file("J2K_pixelrep_mismatch.dcm", read=True, download=False)
    data = next(generate_frames(ds.PixelData, number_of_frames=1))
    of = frame(J2K, ds.BitsStored, Rows=ds.Rows, Columns=ds.Columns, PixelRepresentation=1)
    decoded = decode_frame(data, of)
    assert decoded[0, 0] == -2000
    assert decoded.min() >= -2000


def test_image_that_was_stored_as_a_jp2_file_is_read() -> None:
    values = draw(0, 4095, "u2")
    data = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="jp2")
    assert data[4:8] == b"jP  "
    assert np.array_equal(decode_frame(data, frame(J2K, 12)), values)


def test_padding_behind_the_image_is_no_harm() -> None:
    values = draw(0, 4095, "u2")
    for _, (syntax, encode) in LOSSLESS_CODES.items():
        data = encode(values)
        padded = data + b"\0" * (len(data) % 2)
        assert np.array_equal(decode_frame(padded, frame(syntax, 12)), values)


def cell(value: int) -> Stored:
    return np.array([[value]], np.uint16)


@pytest.mark.parametrize(
    ("bits", "high", "is_signed", "value", "expected"),
    [
        (16, 15, 0, 0xF001, 0xF001),
        (16, 15, 1, 0xF001, -4095),
        (12, 11, 0, 0x0ABC, 0x0ABC),
        (12, 11, 0, 0xFABC, 0x0ABC),  # an overlay in the high bits
        (12, 11, 1, 0xF7FF, 0x07FF),
        (12, 11, 1, 0x0800, -2048),
        (12, 11, 1, 0xFFFF, -1),
        (12, 15, 0, 0xABCF, 0x0ABC),  # aligned to the left
        (12, 15, 1, 0xABCF, 0xABC - 4096),
        (10, 12, 0, 0xFFFF, 0x03FF),
        (10, 12, 0, 0x0008, 1),
        (1, 0, 0, 0xFFFF, 1),
    ],
)
def test_bits_outside_the_stored_value_never_count(
    bits: int, high: int, is_signed: int, value: int, expected: int
) -> None:
    of = frame(RLE, bits, BitsAllocated=16, HighBit=high, PixelRepresentation=is_signed)
    for given in (cell(value), cell(value).view(np.int16)):
        assert settle_bits(given, of)[0, 0] == expected
        assert given.view(np.uint16)[0, 0] == value  # what was read is not changed


@pytest.mark.parametrize(
    "wrong",
    [
        {"HighBit": 10},
        {"HighBit": 16},
        {"BitsStored": 17, "HighBit": 16},
        {"BitsStored": 0, "HighBit": 0},
        {"PixelRepresentation": None},
        {"PixelRepresentation": 2},
    ],
)
def test_contradicting_bits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(VolumeError, match="bad_declaration"):
        settle_bits(cell(1), frame(RLE, 12)._replace(**wrong))


def test_missing_high_bit_is_the_usual_one() -> None:
    assert settle_bits(cell(0xFABC), frame(RLE, 12, HighBit=None))[0, 0] == 0xABC


def lie(data: bytes, rows: int, columns: int) -> bytes:
    """The same stream, with another size in its header."""
    mended = bytearray(data)
    if data.startswith(b"\xff\x4f"):
        struct.pack_into(">II", mended, 8, columns, rows)
    else:
        markers = (b"\xff\xc3", b"\xff\xf7")
        at = next(data.index(marker) for marker in markers if marker in data)
        struct.pack_into(">HH", mended, at + 5, rows, columns)
    return bytes(mended)


@pytest.mark.parametrize("name", ["jpeg lossless", "jpeg-ls", "jpeg 2000", "htj2k"])
def test_stream_of_another_size_is_not_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    syntax, encode = LOSSLESS_CODES[name]
    data = encode(draw(0, 4095, "u2"))
    assert reason_of(data, frame(syntax, 12, Rows=ROWS + 1)) == "size_mismatch"
    assert reason_of(data, frame(syntax, 12, BitsAllocated=8, BitsStored=8)) == "size_mismatch"
    for decoder in ("jpeg", "jpegls", "jpeg2k"):
        monkeypatch.setattr(imagecodecs, f"{decoder}_decode", None)
    assert reason_of(lie(data, 65_000, 65_000), frame(syntax, 12)) == "size_mismatch"


def test_rle_that_expands_past_the_declared_size_is_refused() -> None:
    data = encode_rle(draw(0, 4095, "u2"))
    assert reason_of(data, frame(RLE, 12, Rows=ROWS - 1)) == "undecodable"
    assert reason_of(data, frame(RLE, 12, Rows=ROWS + 1)) == "truncated_pixels"
    assert reason_of(data, frame(RLE, 8)) == "size_mismatch"
    bomb = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 1_000_000
    assert reason_of(bomb, frame(RLE, 8)) == "undecodable"


def test_deflated_frame_that_expands_past_the_declared_size_is_refused() -> None:
    of = frame(DEFLATED_FRAME, 16)
    assert reason_of(deflate(np.zeros(20_000_000, np.uint8)), of) == "size_mismatch"
    assert reason_of(deflate(draw(0, 9, "u2")[1:]), of) == "truncated_pixels"
    assert reason_of(b"\xff" * 100, of) == "undecodable"


@pytest.mark.parametrize("name", LOSSLESS_CODES)
def test_cut_stream_gives_no_picture_with_blanks(name: str) -> None:
    syntax, encode = LOSSLESS_CODES[name]
    data = encode(draw(0, 4095, "u2"))
    for length in (0, 1, 3, 20, 63, 90, len(data) // 2, len(data) - 10):
        assert reason_of(data[:length], frame(syntax, 12)) in ("truncated_pixels", "undecodable")


@pytest.mark.parametrize(
    ("bits", "lossless"), [(8, False), (12, False), (8, True), (12, True), (16, True)]
)
def test_jpeg_cut_before_its_end_marker_gives_no_grey(bits: int, lossless: bool) -> None:
    syntax = LOSSLESS_1 if lossless else JPEG_8 if bits == 8 else JPEG_12
    options = {"lossless": True} if lossless else {"level": 95}
    values = draw(0, (1 << bits) - 1, "u1" if bits == 8 else "u2")
    data = bytes(imagecodecs.jpeg_encode(values, bitspersample=bits, **options))
    start = data.index(b"\xff\xda") + 30
    for length in range(start, len(data) * 3 // 4):
        assert reason_of(data[:length] + b"\xff\xd9", frame(syntax, bits)) == "truncated_pixels"
    # Middle grey at the end of a whole image is what it is.
    values[-16:] = 1 << bits - 1
    data = bytes(imagecodecs.jpeg_encode(values, bitspersample=bits, **options))
    assert decode_frame(data, frame(syntax, bits))[-1, -1] == values[-1, -1]


def test_colour_and_unknown_syntaxes_are_named() -> None:
    rgb = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    assert reason_of(imagecodecs.jpeg_encode(rgb), frame(JPEG_8, 8)) == "colour"
    assert reason_of(encode_j2k(rgb), frame(J2K, 8)) == "colour"
    assert reason_of(b"", frame("1.2.840.10008.1.2.4.100", 8)) == "unsupported_syntax"
    assert reason_of(bytes(500), frame(J2K, 8)) == "undecodable"
    assert reason_of(b"\xff\xd8" + b"\xff" * 500_000, frame(JPEG_8, 8)) == "undecodable"
