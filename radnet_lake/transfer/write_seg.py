"""A mask on a series' frames -> a DICOM segmentation (SEG, PS3.3 A.51), by highdicom.

A SEG holds patient data: who the patient is, and which study, stands in it as in the source's own
files, as DICOM demands of a derived object. It belongs where the archive is, not beside a
pseudonymised lake.

What a SEG refers to is read out of the source's files, for a lake may hold pseudonyms; no pixels
are read. It has a frame for each slice that holds the organ, in the source's frame of reference,
orientation and pixels, and each names the source's frame that it lies on.
"""

import hashlib
import io
import logging
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import highdicom
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom import filereader, uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, TM, format_number_as_ds

from radnet_lake import __version__
from radnet_lake.dicom.header import Header, Reject
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.dicom.values import quiet_pydicom
from radnet_lake.errors import VolumeError
from radnet_lake.transfer.read_mask import SIDES
from radnet_lake.volume.frame import Frame, Vector
from radnet_lake.volume.pixels import read_headers

NAME = "radnet_lake"
REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Of patient and study, what each object must have, if only without a value (PS3.3 C.7.1, C.7.2).
"""
OPTIONAL = (
    "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved",
    "DeidentificationMethod", "StudyDescription", "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
)  # fmt: skip
SERIES_NUMBER = 900
"""Added to the source's, so that viewers list the SEG behind the images."""
MOST_NUMBER = 1_000_000
LABEL_LENGTH = 16

Mask = npt.NDArray[Any]


class Source(NamedTuple):
    """What a SEG takes over of its source series.

    identity: patient and study attributes, as the first file has them. references: SOP class, SOP
    instance and frame number (None in single-frame files) of each slice. made_up: names of the
    UIDs that the files do not have.
    """

    identity: Dataset
    study: str
    series: str
    space: str
    number: int
    references: tuple[tuple[str, str, int | None], ...]
    made_up: tuple[str, ...] = ()


def read_source(stack: Sequence[Frame]) -> Source:
    """Read what a SEG must say of a series, out of the headers of its files.

    stack: its slices, as volume.order_frames gives them. UIDs that the files lack are made up:
    under 2.25, and equal ones for equal slices, so that two SEG of one series name the same. A
    SEG then does not find its source by UID in a viewer, but by its frame of reference.

    Raises VolumeError for files that are gone or no longer hold a header, and StoreError.
    """
    found: dict[int, dict[str, Any]] = {}
    identity = Dataset()
    for some, header in read_headers(stack):
        rows = make_frame_rows(header)
        if isinstance(rows, Reject):
            raise VolumeError("undecodable", f"header: {rows.reason}")
        found.update(dict.fromkeys(some, rows[0]))
        if 0 in some:
            identity = _read_identity(header)
    first = found[0]
    seed = [(found[n].get("SOPInstanceUID"), f.ImagePositionPatient) for n, f in enumerate(stack)]
    made_up = []

    def name(keyword: str, row: dict[str, Any], *parts: object) -> str:
        known: str = row.get(keyword) or ""
        if not known:
            made_up.append(keyword)
        return known or _make_uid(keyword, seed, *parts)

    references = tuple(
        (
            found[n].get("SOPClassUID") or uid.CTImageStorage,
            name("SOPInstanceUID", found[n], n),
            frame.frame_number,
        )
        for n, frame in enumerate(stack)
    )
    number = first.get("SeriesNumber") or 0
    return Source(
        identity,
        study=name("StudyInstanceUID", first),
        series=name("SeriesInstanceUID", first),
        space=name("FrameOfReferenceUID", first),
        number=number if 0 <= number <= MOST_NUMBER else 0,
        references=references,
        made_up=tuple(dict.fromkeys(made_up)),
    )


def make_segmentation(
    mask: Mask, steps_mm: Vector, stack: Sequence[Frame], source: Source, organ: str, weights: str
) -> bytes:
    """The file of a SEG with one binary segment, found by an algorithm.

    mask: (D, H, W), on the slices of `stack`, not empty. steps_mm: (3, 3), as volume.Volume has it.
    organ: the segment's label, and its SNOMED code where pydicom's dictionary has that name (sides
    ignored), else "Tissue". weights: digest of the network's, kept as a parameter of the algorithm.
    The SEG's own UIDs depend on source, mask and weights: equal ones make an equal object.

    Raises VolumeError no_mask for an empty mask, bad_declaration for a header that highdicom
    refuses.
    """
    if not mask.any():
        raise VolumeError("no_mask", "an empty mask makes no SEG")
    filled = np.ascontiguousarray(mask, dtype=np.uint8)
    voxels = hashlib.blake2b(np.packbits(filled).tobytes(), digest_size=16).hexdigest()
    own = (source.series, source.references, organ, weights, voxels)
    label = organ[:1].upper() + organ[1:]
    # Its warnings quote the patient's name.
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    try:
        with quiet_pydicom():
            seg = highdicom.seg.Segmentation(
                source_images=_describe_slices(steps_mm, stack, source),
                pixel_array=filled,
                segmentation_type=SegmentationTypeValues.BINARY,
                segment_descriptions=[_describe_segment(organ, label, weights)],
                series_instance_uid=_make_uid("series", own),
                series_number=source.number + SERIES_NUMBER,
                sop_instance_uid=_make_uid("instance", own),
                instance_number=1,
                manufacturer=NAME,
                manufacturer_model_name=NAME,
                software_versions=__version__,
                device_serial_number=weights or "0",
                content_label=_make_label(organ),
                content_description=f"{label}, segmented by {NAME}",
                series_description=f"{label} segmentation",
                specific_character_set="ISO_IR 192",
            )
            _refer(seg, source)
            buffer = io.BytesIO()
            seg.save_as(buffer)
    except Exception as error:  # whatever pydicom and highdicom make of an odd header
        raise VolumeError("bad_declaration", f"as a SEG: {type(error).__name__}") from None
    return buffer.getvalue()


def _read_identity(header: Header) -> Dataset:
    """Patient and study of a file, in Unicode; what cannot be read stays empty."""
    identity = Dataset()
    with quiet_pydicom():
        dataset = _parse(header)
        for keyword in (*REQUIRED, *OPTIONAL):
            text = _read_text(dataset, keyword)
            if text or keyword in REQUIRED:
                setattr(identity, keyword, text)
    return identity


def _parse(header: Header) -> Dataset:
    if header.dataset is not None:
        return header.dataset
    data = header.data[header.start : header.header_bytes]
    try:
        return filereader.read_dataset(io.BytesIO(data), not header.explicit, True)
    except Exception:  # pydicom raises any kind on damaged input
        return Dataset()


def _read_text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
        if isinstance(value, pydicom.multival.MultiValue):
            value = "\\".join(map(str, value))
        text = "" if value is None else str(value)
        if keyword == "PatientSex" and text not in ("M", "F", "O"):
            return ""
        if keyword.endswith("Date"):
            DA(text)
        elif keyword.endswith("Time"):
            TM(text)
    except Exception:  # pydicom raises any kind on damaged values
        return ""
    return text


def _describe_slices(steps_mm: Vector, stack: Sequence[Frame], source: Source) -> list[Dataset]:
    """The slices as if each were a CT image of its own, for highdicom to place its frames by.

    Their SOPInstanceUID are numbers, in place of which _refer puts what they stand for: highdicom
    takes one multi-frame object or many single ones, of equal orientation to the last digit.
    """
    lengths = np.linalg.norm(steps_mm, axis=1)
    units = steps_mm / lengths[:, None]
    normal = np.cross(units[2], units[1])
    between = abs(float(steps_mm[0] @ normal)) / float(np.linalg.norm(normal))
    slices = []
    for n, frame in enumerate(stack, 1):
        one = Dataset()
        one.update(source.identity)
        one.SOPClassUID, one.SOPInstanceUID = uid.CTImageStorage, f"1.{n}"
        one.StudyInstanceUID, one.SeriesInstanceUID = source.study, source.series
        one.FrameOfReferenceUID, one.Modality = source.space, "CT"
        one.Rows, one.Columns = frame.Rows, frame.Columns
        one.PixelSpacing = [_format(mm) for mm in lengths[1:]]
        one.ImageOrientationPatient = [_format(x) for x in (*units[2], *units[1])]
        one.ImagePositionPatient = [_format(mm) for mm in frame.ImagePositionPatient or ()]
        one.SliceThickness = one.SpacingBetweenSlices = _format(between)
        if frame.LossyImageCompression == "01":
            one.LossyImageCompression = "01"
        slices.append(one)
    return slices


def _describe_segment(organ: str, label: str, weights: str) -> SegmentDescription:
    name = "".join(word.title() for word in organ.split() if word.lower() not in SIDES)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=NAME,
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        parameters={"weights": weights} if weights else None,
    )
    return SegmentDescription(
        segment_number=1,
        segment_label=label[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=getattr(codes.SCT, name, None) or codes.SCT.Tissue,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )


def _refer(seg: Dataset, source: Source) -> None:
    """Put the source's own instances and frames where _describe_slices left numbers."""
    instances = dict.fromkeys((kind, instance) for kind, instance, _ in source.references)
    seg.SourceImageSequence = [_refer_to(*one) for one in instances]
    series = Dataset()
    series.SeriesInstanceUID = source.series
    series.ReferencedInstanceSequence = [_refer_to(*one) for one in instances]
    seg.ReferencedSeriesSequence = [series]
    for groups in seg.PerFrameFunctionalGroupsSequence:
        for item in groups.DerivationImageSequence[0].SourceImageSequence:
            n = int(item.ReferencedSOPInstanceUID.rpartition(".")[2]) - 1
            kind, instance, number = source.references[n]
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, instance
            if number is not None:
                item.ReferencedFrameNumber = number


def _refer_to(kind: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, instance
    return item


def _format(number: float) -> str:
    text: str = format_number_as_ds(float(number))
    return text


def _make_label(organ: str) -> str:
    """A code string (PS3.5 6.2): capitals, digits, underscores."""
    label = "".join(c if c.isascii() and c.isalnum() else "_" for c in organ.upper())
    return label[:LABEL_LENGTH]


def _make_uid(*parts: object) -> str:
    """A UID under 2.25 that depends on the parts only (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)).int}"
