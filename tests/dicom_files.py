"""DICOM files that tests make, and short ways to read them."""

import io
import struct
from typing import Any

import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset

from radnet_lake import scan, schema
from radnet_lake.header import Header, Reject, read_header
from radnet_lake.rows import Row, frame_rows

Data = bytes
FIRST = 4096


def open_data(data: Data, first: int = FIRST, size: int | None = -1) -> Header | Reject:
    size = len(data) if size == -1 else size
    return read_header(lambda at, length: data[at : at + length], size, data[:first])


def read_rows(data: Data, first: int = FIRST) -> list[Row]:
    header = open_data(data, first)
    assert isinstance(header, Header), header
    rows = frame_rows(header)
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
