"""The pixel data element in every syntax, whole, cut, damaged or lying."""

import random
import struct
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import make_dataset, open_data, write
from image_files import (
    COLUMNS,
    ENCODERS,
    J2K,
    LOSSLESS,
    LS,
    NATIVE,
    RLE,
    ROWS,
    draw,
    frames_of,
    make,
    make_image,
    place,
    read_all,
    reason_of,
    wrap,
)
from pydicom import uid as uids
from pydicom.encaps import encapsulate, encapsulate_extended

from radnet_lake.dicom.header import Header
from radnet_lake.errors import VolumeError
from radnet_lake.schema import VOLUME_REASONS
from radnet_lake.volume.pixels import read_stored


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i2", "<u4", "<i4"])
@pytest.mark.parametrize("n_frames", [1, 5])
def test_native_values_are_those_written(
    syntax: str, dtype: str, n_frames: int, tmp_path: Path
) -> None:
    values = draw(n_frames, "<u4", 1 << 32).astype(dtype)
    frames = place(make(values, syntax), tmp_path / "a.dcm")
    found = read_all(frames)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


@pytest.mark.parametrize("syntax", [uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian])
def test_file_without_preamble_and_meta_group(syntax: str, tmp_path: Path) -> None:
    values = draw(2)
    bare = write(make_image(values, syntax), syntax, None, bare=True)
    frames = place(bare, tmp_path / "bare")
    assert np.array_equal(read_all(frames), values)


def test_implicit_file_that_declares_explicit(tmp_path: Path) -> None:
    values = draw()
    data = make(values, uids.ImplicitVRLittleEndian)
    old = b"UI\x12\x001.2.840.10008.1.2\0"
    assert old in data
    data = data.replace(old, b"UI\x14\x001.2.840.10008.1.2.1\0")
    frames = place(data, tmp_path / "liar.dcm")
    assert frames[0].flags == ["read_by_pydicom"]
    assert np.array_equal(read_all(frames), values)


def test_big_endian_pixels_of_ges_own_syntax(tmp_path: Path) -> None:
    values = draw(dtype="<i2")
    data = make(values.byteswap(), uids.ImplicitVRLittleEndian)
    frames = place(data, tmp_path / "ge.dcm")
    frames = [frame._replace(TransferSyntaxUID="1.2.840.113619.5.2") for frame in frames]
    assert np.array_equal(read_all(frames), values)


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("syntax", NATIVE[:3])
def test_floats_are_as_written(dtype: str, syntax: str, tmp_path: Path) -> None:
    keyword = "FloatPixelData" if dtype == "<f4" else "DoubleFloatPixelData"
    values = draw().astype(dtype) / 7
    ds = make_dataset(Rows=ROWS, Columns=COLUMNS, BitsAllocated=8 * values.dtype.itemsize)
    order = ">" if syntax == uids.ExplicitVRBigEndian else "<"
    setattr(ds, keyword, values.astype(values.dtype.newbyteorder(order)).tobytes())
    frames = place(write(ds, syntax, None), tmp_path / "float.dcm")
    found = read_all(frames)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


def test_overlay_in_the_high_bits_is_no_value(tmp_path: Path) -> None:
    values = draw(2)
    data = make(values | 0x9000, BitsStored=12, HighBit=11)
    assert np.array_equal(read_all(place(data, tmp_path / "a.dcm")), values)
    signed = ((values.astype(int) ^ 0x800) - 0x800).astype("<i2")
    data = make((signed & 0xFFF).astype("<i2"), BitsStored=12, HighBit=11)
    assert np.array_equal(read_all(place(data, tmp_path / "b.dcm")), signed)


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("table", ["none", "basic", "extended"])
def test_compressed_frames_however_they_are_cut(
    syntax: str, fragments: int, table: str, tmp_path: Path
) -> None:
    values = draw(4)
    packed = [bytes(ENCODERS[syntax](value)) for value in values]
    others: dict[str, Any] = {}
    if table == "extended":
        if fragments > 1:
            return  # PS3.3 C.7.6.3.1.8: one fragment a frame
        body, offsets, lengths = encapsulate_extended(packed)
        others = {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    else:
        body = encapsulate(packed, fragments_per_frame=fragments, has_bot=table == "basic")
    frames = place(wrap(body, syntax, values, **others), tmp_path / "a.dcm")
    assert len(frames) == 4
    assert np.array_equal(read_all(frames), values)
    assert np.array_equal(read_all(frames, [2]), values[[2]])


def test_wrong_offset_table_and_missing_delimiter_cost_nothing(tmp_path: Path) -> None:
    values = draw(3)
    body = bytearray(encapsulate([bytes(ENCODERS[J2K](value)) for value in values], has_bot=True))
    body[12:16] = b"\xff\xff\0\0"
    data = wrap(bytes(body), J2K, values)
    assert data.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    assert np.array_equal(read_all(place(data[:-8], tmp_path / "a.dcm")), values)


@pytest.mark.parametrize("syntax", ENCODERS)
def test_one_image_in_many_fragments(syntax: str, tmp_path: Path) -> None:
    values = draw()
    packed = bytes(ENCODERS[syntax](values[0]))
    body = encapsulate([packed], fragments_per_frame=5, has_bot=False)
    assert np.array_equal(read_all(place(wrap(body, syntax, values), tmp_path / "a.dcm")), values)


SAME_IMAGES = [
    ("MR_small.dcm", "MR_small_RLE.dcm"),
    ("MR_small.dcm", "MR_small_bigendian.dcm"),
    ("MR_small.dcm", "MR_small_expb.dcm"),
    ("MR_small.dcm", "MR_small_implicit.dcm"),
    ("MR_small.dcm", "MR_small_jp2klossless.dcm"),
    ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    ("rtdose.dcm", "rtdose_expb.dcm"),
    ("rtdose.dcm", "rtdose_rle.dcm"),
]


def test_real_images_are_equal_in_every_syntax(pydicom_files: Path) -> None:
    for names in SAME_IMAGES:
        paths = [pydicom_files / name for name in names if (pydicom_files / name).exists()]
        found = [read_all(frames_of(path.read_bytes(), str(path))) for path in paths]
        for values in found:
            assert np.array_equal(values, found[0]), names


ODD_FILES = {
    "MR_small_padded.dcm": "bad_declaration",  # 128 bytes more than its rows
    "MR_truncated.dcm": "truncated_pixels",
    "badVR.dcm": "bad_declaration",
    "liver_1frame.dcm": "bad_declaration",  # one bit a pixel: a segmentation
    "liver_expb_1frame.dcm": "bad_declaration",
}


def test_real_native_images_are_what_pydicom_reads(pydicom_files: Path) -> None:
    n_equal = 0
    for path in sorted(p for p in pydicom_files.rglob("*") if p.is_file()):
        data = path.read_bytes()
        header = open_data(data)
        if not isinstance(header, Header) or header.found.pixel_length is None:
            continue
        frames = frames_of(data, str(path))
        if frames[0].TransferSyntaxUID not in (*NATIVE, RLE):
            continue
        if frames[0].SamplesPerPixel == 3 or frames[0].PhotometricInterpretation == "PALETTE COLOR":
            assert reason_of(frames) == "colour"
            continue
        if path.name in ODD_FILES:
            assert reason_of(frames) == ODD_FILES[path.name]
            continue
        ds = pydicom.dcmread(path, force=True)
        ds.file_meta.TransferSyntaxUID = frames[0].TransferSyntaxUID
        expected = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)[: len(frames)]
        assert np.array_equal(read_all(frames), expected), path.name
        n_equal += 1
    assert n_equal >= 40


@pytest.mark.parametrize("syntax", [*NATIVE, J2K])
def test_cut_file_names_its_reason(syntax: str, tmp_path: Path) -> None:
    values = draw(3)
    if syntax == J2K:
        packed = [bytes(ENCODERS[J2K](value)) for value in values]
        data = wrap(encapsulate(packed, has_bot=False), syntax, values)[:-8]
    else:
        data = make(values, syntax)
    frames = place(data[:-20], tmp_path / "cut.dcm")
    assert reason_of(frames) == "truncated_pixels"
    if syntax != uids.DeflatedExplicitVRLittleEndian:
        assert np.array_equal(read_all(frames, [0, 1]), values[:2])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"Rows": ROWS - 1}, "bad_declaration"),
        ({"Rows": ROWS + 1}, "truncated_pixels"),
        ({"Columns": 2 * COLUMNS}, "truncated_pixels"),
        ({"NumberOfFrames": 2}, "bad_declaration"),
        ({"NumberOfFrames": 4}, "truncated_pixels"),
        ({"Rows": None}, "bad_declaration"),
        ({"Columns": 0}, "bad_declaration"),
        ({"Columns": 70_000}, "bad_declaration"),
        ({"Rows": 60_000, "Columns": 60_000}, "too_large"),
        ({"BitsAllocated": 12}, "bad_declaration"),
        ({"BitsAllocated": 1}, "bad_declaration"),
        ({"BitsAllocated": None}, "bad_declaration"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"TransferSyntaxUID": J2K}, "bad_declaration"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.4.102"}, "unsupported_syntax"),
        ({"has_pixel_data": False}, "truncated_pixels"),
        ({"header_bytes": 140}, "changed"),
    ],
)
def test_what_is_declared_wrongly_names_its_reason(
    wrong: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    frames = place(make(draw(3)), tmp_path / "a.dcm")
    assert reason_of([frame._replace(**wrong) for frame in frames]) == reason


@pytest.mark.parametrize("syntax", [J2K, LS, LOSSLESS])
def test_compressed_size_and_number_must_be_as_declared(syntax: str, tmp_path: Path) -> None:
    values = draw(3)
    packed = [bytes(ENCODERS[syntax](value)) for value in values]
    frames = place(wrap(encapsulate(packed), syntax, values), tmp_path / "a.dcm")
    assert reason_of([f._replace(Rows=ROWS - 1) for f in frames]) == "size_mismatch"
    more = frames[2]._replace(NumberOfFrames=5, frame_number=5)
    assert reason_of([more]) == "truncated_pixels"
    fewer = [f._replace(NumberOfFrames=2) for f in frames[:2]]
    assert reason_of(fewer) == "bad_declaration"
    unknown = [f._replace(TransferSyntaxUID="1.2.840.10008.1.2.4.102") for f in frames]
    assert reason_of(unknown) == "unsupported_syntax"


def test_odd_number_of_bytes_is_padded(tmp_path: Path) -> None:
    values = draw(3)[:, :5, :9].astype("u1")
    frames = place(make(values), tmp_path / "a.dcm")
    assert np.array_equal(read_all(frames), values)


def test_lying_lengths_allocate_nothing(tmp_path: Path) -> None:
    data = wrap(encapsulate([b"\xff\xd8\xff" + bytes(61)], has_bot=False), LS, draw())
    at = data.index(b"\xfe\xff\x00\xe0", data.index(b"\xfe\xff\x00\xe0") + 1)
    lying = data[: at + 4] + struct.pack("<I", 0xF0000000) + data[at + 8 :]
    frames = place(lying, tmp_path / "a.dcm")
    tracemalloc.start()
    assert reason_of(frames) == "too_large"
    shallow = data[: at + 4] + struct.pack("<I", 1_000_000) + data[at + 8 :]
    assert reason_of(place(shallow, tmp_path / "b.dcm")) == "truncated_pixels"
    bomb = make(draw(), uids.DeflatedExplicitVRLittleEndian)
    far = [f._replace(header_bytes=1 << 40) for f in place(bomb, tmp_path / "bomb")]
    assert reason_of(far) == "changed"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


SEEDS = [make(draw(2), syntax) for syntax in NATIVE] + [
    wrap(encapsulate([bytes(encode(v)) for v in draw(2)], has_bot=has_bot), syntax, draw(2))
    for syntax, encode in ENCODERS.items()
    for has_bot in (False, True)
]


def damage(whole: bytes, begin: int, rng: random.Random) -> bytes:
    changed = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(begin, len(whole))
        changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xD9, 0xFE, 0xFF, rng.randrange(256)])
    if rng.random() < 0.3:
        del changed[rng.randrange(begin, len(whole)) :]
    return bytes(changed)


def test_damaged_files_give_a_reason_or_the_declared_shape(tmp_path: Path) -> None:
    rng = random.Random(4)
    outcomes: Counter[str] = Counter()
    for seed in SEEDS:
        frames = frames_of(seed, "")
        is_deflated = frames[0].TransferSyntaxUID == uids.DeflatedExplicitVRLittleEndian
        begin = 330 if is_deflated else frames[0].header_bytes or 0
        for number in range(60):
            path = tmp_path / str(number)
            path.write_bytes(damage(seed, begin, rng))
            facts = {"uri": str(path), "size_bytes": path.stat().st_size}
            try:
                for _, values in read_stored([frame._replace(**facts) for frame in frames]):
                    outcomes[str(values.shape)] += 1
            except VolumeError as error:
                outcomes[error.reason] += 1
    shape = str((ROWS, COLUMNS))
    assert set(outcomes) <= {shape, *VOLUME_REASONS}
    assert outcomes[shape] > 100
    assert outcomes["truncated_pixels"] > 20
    assert outcomes["undecodable"] > 20
