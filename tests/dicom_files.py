"""DICOM files that tests make, and short ways to read them."""

import io
import struct
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset

from radnet_lake import schema
from radnet_lake.dicom import scan
from radnet_lake.dicom.header import Header, Reject, read_header
from radnet_lake.dicom.instances import Row, make_frame_rows

Data = bytes
FIRST = 4096
KEY = "0123456789abcdef" * 4
"""The key to pseudonymise with that the workers of `ray_local` have."""


def open_data(data: Data, first: int = FIRST, size: int | None = -1) -> Header | Reject:
    size = len(data) if size == -1 else size
    return read_header(lambda at, length: data[at : at + length], size, data[:first])


def read_rows(data: Data, first: int = FIRST) -> list[Row]:
    header = open_data(data, first)
    assert isinstance(header, Header), header
    rows = make_frame_rows(header)
    assert isinstance(rows, list), rows
    return rows


def read_row(data: Data) -> Row:
    (row,) = read_rows(data)
    return row


def read_reason(data: Data) -> str:
    header = open_data(data)
    assert isinstance(header, Reject)
    assert header.reason in schema.REJECT_REASONS
    return header.reason


def make_dataset(**elements: Any) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = uids.MRImageStorage
    ds.SOPInstanceUID = "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    ds.Modality = "MR"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.SamplesPerPixel = 4, 4, 16, 1
    ds.PixelRepresentation = 0
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def write(
    ds: Dataset,
    syntax: str = uids.ExplicitVRLittleEndian,
    pixels: bytes | None = b"\1\0" * 16,
    *,
    bare: bool = False,
) -> Data:
    """A DICOM file as pydicom writes it; bare has neither preamble nor meta group."""
    if pixels is not None:
        ds.PixelData = pixels
        ds["PixelData"].VR = "OW"
    if syntax not in uids.UncompressedTransferSyntaxes and pixels is not None:
        ds["PixelData"].is_undefined_length = True
        ds.PixelData = pydicom.encaps.encapsulate([pixels])
    stream = io.BytesIO()
    implicit, little = syntax == uids.ImplicitVRLittleEndian, syntax != uids.ExplicitVRBigEndian
    if bare:
        pydicom.dcmwrite(
            stream, ds, implicit_vr=implicit, little_endian=little, enforce_file_format=False
        )
    else:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One explicit little endian element, with a length that may lie."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    size = len(value) if length is None else length
    packed = struct.pack("<HI", 0, size) if vr in scan.LONG_VRS else struct.pack("<H", size)
    return head + packed + value


def file_of(*elements: bytes, syntax: str = uids.ExplicitVRLittleEndian, end: bytes = b"") -> Data:
    """A file made by hand: preamble, meta group, an MR instance's identity, then `elements`."""
    meta = element(0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    identity = element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.4\0") + element(
        0x00080018, b"UI", b"1.2.3.4\0"
    )
    return bytes(128) + b"DICM" + meta + identity + b"".join(elements) + end


PIXELS = element(0x7FE00010, b"OW", bytes(32))


def write_series(
    folder: Path, series: int, instances: int = 10, patient: str = "P1", **attributes: Any
) -> None:
    """A CT series of small real-looking files: `folder/<series>/<n>.dcm`."""
    source = pydicom.data.get_testdata_file("CT_small.dcm", read=True, download=False)
    source.PatientID = patient
    source.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in attributes.items():
        setattr(source, keyword, value)
    source.SeriesInstanceUID = f"1.2.3.{series}"
    source.StudyInstanceUID = f"1.2.{series // 4}"
    target = folder / f"s{series:04d}"
    target.mkdir(parents=True, exist_ok=True)
    for n in range(instances):
        source.SOPInstanceUID = f"1.2.3.{series}.{n}"
        source.InstanceNumber = n + 1
        source.ImagePositionPatient = [-158.0, -179.0, -75.0 + 5 * n]
        source.save_as(target / f"{n:04d}.dcm")


def make_header() -> dict[str, Any]:
    return {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]},
        "00080020": {"vr": "DA", "Value": ["20210304"]},
        "00080030": {"vr": "TM", "Value": ["100000"]},
        "00080032": {"vr": "TM", "Value": ["101640.500000"]},
        "00080033": {"vr": "TM", "Value": ["095959"]},
        "0008002A": {"vr": "DT", "Value": ["20210305101640.500000+0100"]},
        "00080050": {"vr": "SH", "Value": ["ZX-4417-B"]},
        "00080060": {"vr": "CS", "Value": ["MR"]},
        "00080080": {"vr": "LO", "Value": ["St. Elsewhere"]},
        "00080081": {"vr": "ST", "Value": ["1 Quimby Road"]},
        "00080090": {"vr": "LO", "Value": ["Grotowski"]},
        "0008103E": {"vr": "LO", "Value": ["AX T2 Quimby"]},
        "00081010": {"vr": "SH"},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "QUIMBY^ZARAH"}]},
        "00100020": {"vr": "LO", "Value": ["A7733219"]},
        "00100030": {"vr": "DA", "Value": ["19740101"]},
        "00100040": {"vr": "CS", "Value": ["F"]},
        "00101010": {"vr": "AS", "Value": ["047Y"]},
        "00104000": {"vr": "LT", "Value": ["Quimby fell"]},
        "00180081": {"vr": "DS", "Value": [90.5]},
        "00180083": {"vr": "DS", "Value": ["Quimby"]},
        "00181210": {"vr": "SH", "Value": ["B30f"]},
        "00204000": {"vr": "LT", "Value": ["Quimby"]},
        "00282000": {"vr": "OB", "InlineBinary": "UXVpbWJ5"},
        "00400275": {"vr": "SQ", "Value": [{"00400007": {"vr": "LO", "Value": ["HEAD"]}}]},
        "00081032": {
            "vr": "SQ",
            "Value": [
                {
                    "00080100": {"vr": "SH", "Value": ["T-D1100"]},
                    "00080102": {"vr": "SH", "Value": ["SRT"]},
                    "00080104": {"vr": "LO", "Value": ["MR Head Quimby"]},
                    "00080106": {"vr": "DT", "Value": ["20020904"]},
                    "00081070": {"vr": "PN", "Value": [{"Alphabetic": "Grotowski^Olaf"}]},
                }
            ],
        },
        "00190010": {"vr": "LO", "Value": ["SIEMENS MR HEADER"]},
        "0019100C": {"vr": "IS", "Value": [1000]},
        "0019100D": {"vr": "CS", "Value": ["NONE"]},
        "00290010": {"vr": "LO", "Value": ["QUIMBY PRIVATE"]},
        "00291010": {"vr": "OB", "InlineBinary": "UXVpbWJ5"},
        "60003000": {"vr": "OW", "BulkDataURI": "file:///Quimby"},
        "60000022": {"vr": "LO", "Value": ["HEAD"]},
        "52009229": {
            "vr": "SQ",
            "Value": [
                {"00289110": {"vr": "SQ", "Value": [{"00280030": {"vr": "DS", "Value": [1, 1]}}]}}
            ],
        },
    }
