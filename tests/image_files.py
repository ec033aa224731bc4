"""Image files that tests make in every syntax, and short ways to read their stored values."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import make_dataset, open_data, write
from pydicom import uid as uids

from radnet_lake.dicom.header import Header
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.errors import VolumeError
from radnet_lake.schema import VOLUME_REASONS
from radnet_lake.volume.frame import FRAME_COLUMNS, Frame, Stored
from radnet_lake.volume.pixels import read_stored

ROWS, COLUMNS = 6, 10
J2K, LOSSLESS, LS, RLE = (
    uids.JPEG2000Lossless,
    uids.JPEGLosslessSV1,
    uids.JPEGLSLossless,
    uids.RLELossless,
)
Encode = Callable[[Stored], bytes]
ENCODERS: dict[str, Encode] = {
    J2K: lambda v: imagecodecs.jpeg2k_encode(v, level=0, reversible=True, codecformat="j2k"),
    LOSSLESS: lambda v: imagecodecs.ljpeg_encode(v, bitspersample=16),
    LS: imagecodecs.jpegls_encode,
}


def draw(n_frames: int = 1, dtype: str = "<u2", high: int = 4096) -> Stored:
    shape = (n_frames, ROWS, COLUMNS)
    return np.random.default_rng(n_frames).integers(0, high, shape).astype(dtype)


def make_image(values: Stored, syntax: str, **others: Any) -> pydicom.Dataset:
    """A data set with frames, (frames, rows, columns), as a native syntax holds them."""
    bits = 8 * values.dtype.itemsize
    facts = {
        "Rows": values.shape[1],
        "Columns": values.shape[2],
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
        "NumberOfFrames": len(values),
    }
    ds = make_dataset(**facts | others)
    data = values.tobytes() + b"\0" * (values.nbytes % 2)
    if syntax == uids.ExplicitVRBigEndian:
        # Words are swapped, of pixels of 8 bits too (PS3.5 A.3).
        data = np.frombuffer(data, f"<u{max(2, bits // 8)}").byteswap().tobytes()
    ds.PixelData = data
    ds["PixelData"].VR = "OW"
    return ds


def make(values: Stored, syntax: str = uids.ExplicitVRLittleEndian, **others: Any) -> bytes:
    """A file of such a data set."""
    return write(make_image(values, syntax, **others), syntax, None)


def wrap(body: bytes, syntax: str, values: Stored, **others: Any) -> bytes:
    """A file with an encapsulated pixel data element of this value, without the delimiter."""
    ds = make_image(values, syntax, **others)
    ds.PixelData = body
    ds["PixelData"].is_undefined_length = True
    return write(ds, syntax, None)


def frames_of(data: bytes, uri: str, **others: Any) -> list[Frame]:
    """The rows that a harvest makes of a file."""
    header = open_data(data)
    assert isinstance(header, Header), header
    rows = make_frame_rows(header)
    assert isinstance(rows, list)
    facts = {"uri": uri, "size_bytes": len(data)} | others
    return [Frame(**{k: (row | facts).get(k) for k in FRAME_COLUMNS}) for row in rows]


def place(data: bytes, path: Path) -> list[Frame]:
    path.write_bytes(data)
    return frames_of(data, str(path))


def read_all(frames: Sequence[Frame], wanted: Sequence[int] | None = None) -> Stored:
    """All that is wanted, in its order."""
    found = dict(read_stored(frames, wanted))
    indexes = range(len(frames)) if wanted is None else wanted
    assert sorted(found) == sorted(indexes)
    return np.stack([found[index] for index in indexes])


def reason_of(frames: Sequence[Frame], wanted: Sequence[int] | None = None) -> str:
    with pytest.raises(VolumeError) as caught:
        list(read_stored(frames, wanted))
    assert caught.value.reason in VOLUME_REASONS
    for frame in frames:
        assert Path(frame.uri).name not in str(caught.value)
    return caught.value.reason


NATIVE = (
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
)
