"""One frame of a series, as the lake's `instances` row describes it: where its pixels lie and what
they mean.

Axes, defined here for all modules of volumes. Arrays are (D, H, W): D slices along the normal, H
rows from the first to the last, W columns. Places are DICOM's patient coordinates: x to the left, y
to the back, z to the head, mm (LPS, PS3.3 C.7.6.2.1.1). The slice axis runs to the left, the back
or the head, whichever the normal is nearest to, so index 0 is the right-most, front-most or lowest.
"""

import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]
"""Stored values of one frame, (H, W): the integers (or floats) of the file, not rescaled."""
Vector = npt.NDArray[np.float64]


class Frame(NamedTuple):
    """Columns of `instances`, by name; `uri` and `archive_uri` are plain, never encrypted."""

    uri: str
    archive_uri: str | None = None
    frame_number: int | None = None
    object_kind: str | None = None
    Modality: str | None = None
    SOPClassUID: str | None = None
    SOPInstanceUID: str | None = None
    FrameOfReferenceUID: str | None = None
    TransferSyntaxUID: str | None = None
    size_bytes: int | None = None
    header_bytes: int | None = None
    has_pixel_data: bool | None = None
    has_modality_lut: bool | None = None
    flags: list[str] | None = None
    unparseable_keywords: list[str] | None = None
    multivalued_keywords: list[str] | None = None
    harvested_at: datetime.datetime | None = None
    InstanceCreationDate: datetime.date | None = None
    InstanceCreationTime: float | None = None
    InstanceNumber: int | None = None
    AcquisitionNumber: int | None = None
    TemporalPositionIdentifier: int | None = None
    NumberOfFrames: int | None = None
    Rows: int | None = None
    Columns: int | None = None
    SamplesPerPixel: int | None = None
    PhotometricInterpretation: str | None = None
    BitsAllocated: int | None = None
    BitsStored: int | None = None
    HighBit: int | None = None
    PixelRepresentation: int | None = None
    PixelPaddingValue: float | None = None
    PixelPaddingRangeLimit: float | None = None
    RescaleSlope: float | None = None
    RescaleIntercept: float | None = None
    LossyImageCompression: str | None = None
    PixelSpacing: list[float] | None = None
    ImagePositionPatient: list[float] | None = None
    ImageOrientationPatient: list[float] | None = None


FRAME_COLUMNS = Frame._fields
