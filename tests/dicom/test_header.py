"""Whatever a file does with its encoding, it ends as the right rows, or a reject that says why."""

import json
import random
import struct
import zlib

import pytest
from dicom_files import (
    FIRST,
    PIXELS,
    Data,
    element,
    file_of,
    make_dataset,
    open_data,
    read_reason,
    read_row,
    read_rows,
    write,
)
from pydicom import uid as uids
from pydicom.dataset import Dataset

from radnet_lake.dicom import header as headers
from radnet_lake.dicom import scan
from radnet_lake.dicom.header import Header, Reject, read_header
from radnet_lake.dicom.header_json import make_json
from radnet_lake.dicom.instances import make_frame_rows, read_identifiers


@pytest.mark.parametrize("syntax", sorted(uids.AllTransferSyntaxes))
def test_every_transfer_syntax_is_read_without_its_pixels(syntax: str) -> None:
    row = read_row(write(make_dataset(EchoTime="90.5"), syntax))
    assert (row["TransferSyntaxUID"], row["EchoTime"], row["Rows"]) == (syntax, 90.5, 4)
    assert row["has_pixel_data"]
    assert "truncated" not in row["flags"]


@pytest.mark.parametrize(
    "syntax",
    [uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian],
)
def test_files_without_preamble_and_meta_group_are_read(syntax: str) -> None:
    row = read_row(write(make_dataset(EchoTime="90.5"), syntax, bare=True))
    assert (row["EchoTime"], row["Rows"], row["TransferSyntaxUID"]) == (90.5, 4, syntax)
    assert {"no_preamble", "no_file_meta"} <= set(row["flags"])


def test_a_missing_preamble_before_the_prefix_is_read() -> None:
    row = read_row(write(make_dataset())[128:])
    assert row["flags"] == ["no_preamble"]


def test_explicit_values_under_an_implicit_transfer_syntax_are_read() -> None:
    data = file_of(element(0x00180081, b"DS", b"90"), PIXELS, syntax=uids.ImplicitVRLittleEndian)
    assert read_row(data)["EchoTime"] == 90.0


def test_big_endian_numbers_and_nested_values_are_read() -> None:
    ds = make_dataset(EchoTrainLength=12, PixelPaddingValue=-2000, PixelRepresentation=1)
    ds.AnatomicRegionSequence = [make_code("T-A0100", "SRT", "Brain")]
    row = read_row(write(ds, uids.ExplicitVRBigEndian))
    assert (row["Rows"], row["EchoTrainLength"], row["PixelPaddingValue"]) == (4, 12, -2000.0)
    assert row["AnatomicRegionSequence"][0]["CodeMeaning"] == "Brain"
    assert (row["PixelRepresentation"], row.get("unparseable_keywords")) == (1, None)


@pytest.mark.parametrize("syntax", [uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian])
@pytest.mark.parametrize(("signed", "expected"), [(1, -2000.0), (0, 63536.0)])
def test_padding_is_signed_where_the_pixels_are(syntax: str, signed: int, expected: float) -> None:
    ds = make_dataset(PixelRepresentation=signed)
    ds.PixelPaddingValue = -2000 if signed else 63536
    assert read_row(write(ds, syntax))["PixelPaddingValue"] == expected


def test_a_deflated_header_longer_than_the_first_read_is_read() -> None:
    noise = random.Random(5).randbytes(10_000)
    ds = make_dataset(EchoTime="90.5")
    ds.add_new(0x00091010, "OB", noise)
    ds.add_new(0x00282000, "OB", noise)
    data = write(ds, uids.DeflatedExplicitVRLittleEndian)
    assert len(data) > 2 * FIRST
    for first in (200, FIRST, len(data)):
        (row,) = read_rows(data, first)
        assert (row["EchoTime"], row["has_pixel_data"]) == (90.5, True)


def test_a_deflated_data_set_that_only_pydicom_reads_is_read() -> None:
    odd = element(0x00180081, b"DS", b"90.5") + element(0x00181030, b"QQ", b"T2  ")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = file_of(odd, PIXELS)
    start = plain.index(element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.4\0"))
    meta = element(0x00020010, b"UI", uids.DeflatedExplicitVRLittleEndian.encode())
    data = bytes(128) + b"DICM" + meta + packer.compress(plain[start:]) + packer.flush()
    row = read_row(data)
    assert row["EchoTime"] == 90.5
    assert "read_by_pydicom" in row["flags"]


def test_a_deflate_bomb_costs_no_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_HEADER_BYTES", 1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = element(0x00080005, b"CS", b"") + element(0x00091010, b"OB", bytes(50 << 20))
    for start in (b"", element(0x00080001, b"??", b"")):
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        meta = element(0x00020010, b"UI", uids.DeflatedExplicitVRLittleEndian.encode())
        body = packer.compress(start + plain) + packer.flush()
        assert len(body) < 100_000
        assert read_reason(bytes(128) + b"DICM" + meta + body) == "header_too_long"


def test_a_damaged_deflate_stream_is_a_reject() -> None:
    meta = element(0x00020010, b"UI", uids.DeflatedExplicitVRLittleEndian.encode())
    assert read_reason(bytes(128) + b"DICM" + meta + b"\xff" * 500) == "header_unparseable"


def make_code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


ITEM = b"\xfe\xff\x00\xe0"
ITEM_END, SEQUENCE_END = b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
ENDLESS = b"\xff\xff\xff\xff"


def nest(depth: int) -> bytes:
    """Sequences and items of undefined length in each other."""
    value = b""
    for _ in range(depth):
        value = element(0x00081140, b"SQ", b"", 0xFFFFFFFF) + ITEM + ENDLESS + value
        value += ITEM_END + SEQUENCE_END
    return value


def test_nested_sequences_of_undefined_length_are_stepped_over() -> None:
    after = element(0x00180081, b"DS", b"90")
    for depth in (1, 5, 15, 17, 40):
        assert read_row(file_of(nest(depth), after, PIXELS))["EchoTime"] == 90.0


def test_a_thousand_nested_sequences_end_as_row_or_reject() -> None:
    for depth in (300, 3000):
        header = open_data(file_of(nest(depth), PIXELS))
        if isinstance(header, Header):
            assert isinstance(make_frame_rows(header), list)
            json.dumps(make_json(header))


@pytest.mark.parametrize("length", [None, 0xFFFFFFFF])
def test_sequences_written_as_unknown_are_read_as_implicit(length: int | None) -> None:
    inner = b"".join(
        struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
        for tag, value in ((0x00080100, b"T-A0100 "), (0x00080104, b"Brain "))
    )
    item = ITEM + struct.pack("<I", len(inner)) + inner
    if length:
        item = ITEM + ENDLESS + inner + ITEM_END + SEQUENCE_END
    data = file_of(element(0x00082218, b"UN", item, length), PIXELS)
    assert read_row(data)["AnatomicRegionSequence"] == [
        {"CodeValue": "T-A0100", "CodeMeaning": "Brain"}
    ]


def test_known_attributes_written_as_unknown_are_read_by_the_dictionary() -> None:
    data = file_of(element(0x00180081, b"UN", b"90.5"), element(0x00280010, b"UN", b"\4\0"), PIXELS)
    row = read_row(data)
    assert (row["EchoTime"], row["Rows"]) == (90.5, 4)


def test_text_follows_the_declared_character_set() -> None:
    ds = make_dataset(SpecificCharacterSet=["", "ISO 2022 IR 87"], SeriesDescription="頭部 T2")
    assert read_row(write(ds))["SeriesDescription"] == "頭部 T2"
    ds = make_dataset(SpecificCharacterSet="GB18030", ImageType=["ORIGINAL", "PRIMARY"])
    ds.StudyDescription = "誠 CT"
    row = read_row(write(ds))
    assert (row["StudyDescription"], row["ImageType"]) == ("誠 CT", ["ORIGINAL", "PRIMARY"])
    assert row["flags"] == []


@pytest.mark.parametrize("raw", [b"OBL\xcdQUO", "OBLÍQUO".encode() + b" "])
def test_undeclared_letters_are_read_and_flagged_each_time(raw: bytes) -> None:
    data = file_of(element(0x0008103E, b"LO", raw + b" " * (len(raw) % 2)), PIXELS)
    for _ in range(2):
        row = read_row(data)
        assert row["SeriesDescription"] == "OBLÍQUO"
        assert row["flags"] == ["charset_trouble"]


def test_contrast_agent_absent_empty_and_given_stay_apart() -> None:
    assert "ContrastBolusAgent" not in read_row(file_of(PIXELS))
    empty = read_row(file_of(element(0x00180010, b"LO", b"  "), PIXELS))
    assert empty["ContrastBolusAgent"] == ""
    assert empty["empty_keywords"] == ["ContrastBolusAgent"]
    given = read_row(file_of(element(0x00180010, b"LO", b"Gd "), PIXELS))
    assert given["ContrastBolusAgent"] == "Gd"
    assert not given.get("empty_keywords")


def test_the_four_states_of_a_number_stay_apart() -> None:
    row = read_row(
        file_of(
            element(0x00180050, b"DS", b"5\\5 "),
            element(0x00180080, b"DS", b""),
            element(0x00180081, b"DS", b"NaN "),
            element(0x00180082, b"DS", b"10\\90 "),
            PIXELS,
        )
    )
    assert row["SliceThickness"] == 5.0
    assert row["empty_keywords"] == ["RepetitionTime"]
    assert row["unparseable_keywords"] == ["EchoTime"]
    assert row["multivalued_keywords"] == ["InversionTime"]
    assert not {"RepetitionTime", "EchoTime", "InversionTime"} & set(row)


def make_enhanced(n_frames: int = 3, declared: int | None = None) -> Dataset:
    ds = make_dataset(SOPClassUID=uids.EnhancedMRImageStorage)
    ds.NumberOfFrames = n_frames if declared is None else declared
    ds.SliceThickness, ds.EchoTime = "9", ""
    shared, timing, measures = Dataset(), Dataset(), Dataset()
    timing.RepetitionTime = 500.0
    measures.SliceThickness, measures.PixelSpacing = "5", [1, 1]
    shared.MRTimingAndRelatedParametersSequence = [timing]
    shared.PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [make_frame(n) for n in range(n_frames)]
    return ds


def make_frame(number: int) -> Dataset:
    frame, position, echo = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [0, 0, 5 * number]
    frame.PlanePositionSequence = [position]
    echo.EchoTime = str(10 + number)
    frame.MREchoSequence = [echo]
    if number == 1:
        measures = Dataset()
        measures.SliceThickness = "7"
        frame.PixelMeasuresSequence = [measures]
    return frame


@pytest.mark.parametrize("syntax", [uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian])
def test_frames_resolve_per_frame_over_shared_over_top_level(syntax: str) -> None:
    rows = read_rows(write(make_enhanced(), syntax, bytes(96)))
    assert [row["frame_number"] for row in rows] == [1, 2, 3]
    assert [row["ImagePositionPatient"][2] for row in rows] == [0.0, 5.0, 10.0]
    assert [row["SliceThickness"] for row in rows] == [5.0, 7.0, 5.0]
    assert [row["EchoTime"] for row in rows] == [10.0, 11.0, 12.0]
    assert {row["RepetitionTime"] for row in rows} == {500.0}
    assert all(row["PixelSpacing"] == [1.0, 1.0] for row in rows)
    # The top level's empty echo time is no longer what these rows say.
    assert not any(row.get("empty_keywords") for row in rows)


def test_frames_that_do_not_match_their_number_are_flagged() -> None:
    rows = read_rows(write(make_enhanced(3, declared=5), pixels=bytes(160)))
    assert len(rows) == 3
    assert all("frame_count_mismatch" in row["flags"] for row in rows)


def test_a_billion_declared_frames_are_one_flagged_row() -> None:
    row = read_row(write(make_dataset(NumberOfFrames=10**9)))
    assert {"frame_count_mismatch", "truncated"} <= set(row["flags"])


def test_more_frames_than_a_header_can_hold_are_a_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_FRAMES", 2)
    assert read_reason(write(make_enhanced(3), pixels=bytes(96))) == "header_too_long"


@pytest.mark.parametrize("block", [0x10, 0x11, 0x7F])
def test_private_elements_are_found_by_creator_wherever_their_block_is(block: int) -> None:
    ds = make_dataset()
    ds.add_new(0x00190000 + block - 1, "LO", "SOMEBODY ELSE") if block > 0x10 else None
    ds.add_new(0x00190000 + block, "LO", "SIEMENS MR HEADER")
    ds.add_new(0x00190000 + (block << 8) + 0x0C, "IS", "1000")
    assert read_row(write(ds))["SIEMENS_MR_HEADER_xx0C"] == [1000.0]


def test_private_elements_of_another_creator_are_not_taken() -> None:
    ds = make_dataset()
    ds.add_new(0x00190010, "LO", "SOMEBODY ELSE")
    ds.add_new(0x0019100C, "IS", "1000")
    assert "SIEMENS_MR_HEADER_xx0C" not in read_row(write(ds))


def test_empty_uids_are_empty_not_missing() -> None:
    row = read_row(file_of(element(0x0020000E, b"UI", b""), PIXELS))
    assert row["SeriesInstanceUID"] == ""
    assert "SeriesInstanceUID" in row["empty_keywords"]


def test_a_header_is_the_same_wherever_the_first_read_ends() -> None:
    ds = make_dataset(EchoTime="90.5", SeriesDescription="T2 TSE")
    ds.AnatomicRegionSequence = [make_code("T-A0100", "SRT", "Brain")]
    for syntax in (uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian, uids.JPEG2000):
        data = write(ds, syntax)
        whole = read_rows(data, len(data))
        for first in range(1, len(data)):
            assert read_rows(data, first) == whole, first


class CountingReader:
    """Bytes of a file, and how far they were asked for."""

    def __init__(self, data: Data) -> None:
        self.data, self.reach, self.calls, self.bytes_read = data, 0, 0, 0

    def __call__(self, offset: int, length: int) -> bytes:
        self.reach, self.calls = max(self.reach, offset + length), self.calls + 1
        part = self.data[offset : offset + length]
        self.bytes_read += len(part)
        return part


@pytest.mark.parametrize(
    "syntax", [uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian, uids.ExplicitVRBigEndian]
)
def test_pixels_are_never_read(syntax: str) -> None:
    ds = make_dataset(EchoTime="90.5")
    for number in range(3):
        ds.add_new(0x00291010 + number, "OB", bytes(200_000))
    data = write(ds, syntax, bytes(8 << 20))
    reader = CountingReader(data)
    header = read_header(reader, len(data), data[:FIRST])
    assert isinstance(header, Header)
    assert header.header_bytes > 600_000
    assert data[header.header_bytes :][:4] in (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")
    # A page past the header, or half of what was there when more was wanted.
    assert reader.reach <= header.header_bytes * 1.5 + headers.READ_STEP
    assert reader.calls <= 8


def test_short_headers_take_one_read() -> None:
    data = write(make_dataset(), pixels=bytes(1 << 20))
    reader = CountingReader(data)
    assert isinstance(read_header(reader, len(data), data[:FIRST]), Header)
    assert reader.calls == 0


def test_a_length_past_the_end_of_the_file_reads_nothing_more() -> None:
    data = file_of(element(0x00091010, b"OB", b"", 0xFFFFFFF0), end=bytes(1 << 20))
    reader = CountingReader(data)
    header = read_header(reader, len(data), data[:FIRST])
    assert isinstance(header, Reject)
    assert (header.reason, reader.calls) == ("header_truncated", 0)


def test_headers_past_the_bound_are_a_reject_of_unknown_size_too() -> None:
    data = file_of(element(0x00091010, b"OB", b"", 0xFFFFFFF0), end=bytes(1 << 20))
    header = open_data(data, size=None)
    assert isinstance(header, Reject)
    assert header.reason == "header_too_long"


def test_private_data_behind_the_image_group_is_not_header() -> None:
    data = file_of(element(0x00280010, b"US", b"\4\0"), element(0x7FE11010, b"OB", bytes(1 << 20)))
    reader = CountingReader(data)
    header = read_header(reader, len(data), data[:FIRST])
    assert isinstance(header, Header)
    assert reader.calls == 0
    rows = make_frame_rows(header)
    assert isinstance(rows, list)
    assert (rows[0]["Rows"], rows[0]["has_pixel_data"]) == (4, False)


def test_cut_pixel_data_is_a_flagged_row() -> None:
    data = write(make_dataset())
    assert read_row(data)["flags"] == []
    assert read_row(data[:-4])["flags"] == ["truncated"]
    short = write(make_dataset(Rows=400))
    assert read_row(short)["flags"] == ["truncated"]


@pytest.mark.parametrize(
    "syntax",
    [
        uids.ExplicitVRLittleEndian,
        uids.ImplicitVRLittleEndian,
        uids.ExplicitVRBigEndian,
    ],
)
def test_a_file_cut_inside_its_header_is_a_reject(syntax: str) -> None:
    ds = make_dataset(SeriesDescription="T2 TSE SAG " * 4)
    ds.ImageComments = "x" * 300
    data = write(ds, syntax)
    cut = data.index(b"T2 TSE SAG") + 20
    assert read_reason(data[:cut]) == "header_truncated"
    assert read_reason(data[: data.index(b"xxxx") + 20]) == "header_truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"\0", "not_dicom"),
        (bytes(5000), "not_dicom"),
        (b"hello, this is a text\n" * 50, "not_dicom"),
        (b"<?xml version='1.0'?>" + b" " * 300, "not_dicom"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "not_dicom"),
        (bytes(128) + b"DICM", "no_sop_class"),
        (bytes(128) + b"DICM\2\0\x10\0UI", "header_truncated"),
        (b"\x08\0\x05\0" + b"CS\x00\x00", "no_sop_class"),
    ],
)
def test_what_is_no_dicom_says_so(data: Data, reason: str) -> None:
    assert read_reason(data) == reason


def test_a_failing_disk_stays_a_failing_disk_on_every_way() -> None:
    def fail(offset: int, length: int) -> bytes:
        raise OSError("Input/output error")

    for syntax in (uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian):
        ds = make_dataset()
        ds.add_new(0x00291010, "OB", bytes(20_000))
        data = write(ds, syntax)
        with pytest.raises(OSError, match="Input/output error"):
            read_header(fail, len(data), data[:FIRST])


def test_reject_details_never_quote_the_header() -> None:
    ds = make_dataset(PatientName="DOE^JANE", PatientID="SECRET77")
    data = write(ds, uids.ExplicitVRBigEndian)
    for cut in range(140, len(data) - 40, 3):
        header = open_data(data[:cut])
        if isinstance(header, Reject):
            assert "DOE" not in header.detail
            assert "SECRET" not in header.detail


def test_identifiers_are_found_for_the_cleaning_of_text() -> None:
    ds = make_dataset(PatientName="DOE^JANE", PatientID="SECRET77", OperatorsName="ROE^JIM")
    for syntax in (uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian):
        header = open_data(write(ds, syntax))
        assert isinstance(header, Header)
        assert {"DOE^JANE", "SECRET77", "ROE^JIM"} <= set(read_identifiers(header))


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        (uids.MRImageStorage, "image"),
        (uids.EnhancedCTImageStorage, "image"),
        (uids.SecondaryCaptureImageStorage, "image"),
        (uids.BasicTextSRStorage, "sr"),
        (uids.KeyObjectSelectionDocumentStorage, "ko"),
        (uids.SegmentationStorage, "seg"),
        (uids.RTStructureSetStorage, "rtstruct"),
        (uids.RTDoseStorage, "rtdose"),
        (uids.EncapsulatedPDFStorage, "pdf"),
        (uids.RawDataStorage, "raw"),
        (uids.TwelveLeadECGWaveformStorage, "waveform"),
        (uids.MediaStorageDirectoryStorage, "dicomdir"),
    ],
)
def test_object_kinds_follow_the_sop_class(sop_class: str, kind: str) -> None:
    row = read_row(write(make_dataset(SOPClassUID=sop_class), pixels=None))
    assert row["object_kind"] == kind


def test_long_binary_values_are_stepped_over_not_read() -> None:
    blob = element(0x00291010, b"OB", bytes(1 << 20))
    data = file_of(blob, element(0x00300010, b"LO", b"behind"), PIXELS, end=bytes(1 << 20))
    reader = CountingReader(data)
    header = read_header(reader, len(data), data[:FIRST])
    assert isinstance(header, Header)
    assert header.header_bytes == len(data) - len(PIXELS) - (1 << 20)
    assert reader.bytes_read < 64 << 10
    found, omitted = make_json(header)
    assert found["00300010"]["Value"] == ["behind"]
    assert omitted == ["00291010"]


def test_an_encapsulated_document_of_any_size_is_a_row() -> None:
    for length, flags in ((20 << 20, []), (scan.UNDEFINED - 15, ["cut_at_long_value"])):
        data = file_of(element(0x00420011, b"OB", b"", length))
        size = len(data) + length + (8 if flags else 0)
        header = read_header(lambda at, n: b"", size, data)
        assert isinstance(header, Header)
        assert header.flags == flags
        assert make_json(header)[1] == ["00420011"]
