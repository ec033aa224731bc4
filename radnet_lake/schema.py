"""The lake's tables, column by column: DICOM tag, type, what becomes of it without identity, why it is kept.

One line here is all that a new header attribute needs. `sql/SCHEMA.md` is printed from this file.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

SCHEMA_VERSION = 1

_PACKAGED_SQL = Path(__file__).parent / "sql"
SQL_DIR = _PACKAGED_SQL if _PACKAGED_SQL.is_dir() else Path(__file__).parent.parent / "sql"
"""A wheel carries sql/ inside the package; a checkout, or a Ray working directory, has it beside."""

CODE = pa.struct(
    [("CodeValue", pa.string()), ("CodingSchemeDesignator", pa.string()), ("CodeMeaning", pa.string())]
)
KINDS: dict[str, pa.DataType] = {
    "uid": pa.string(),
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "int": pa.int64(),
    "number": pa.float64(),
    "numbers": pa.list_(pa.float64()),
    "date": pa.date32(),
    "time": pa.float64(),
    "datetime": pa.timestamp("us"),
    "codes": pa.list_(CODE),
    "bool": pa.bool_(),
}
"""How a value is stored. `time` is seconds: since midnight, or since StudyTime where dates are shifted."""


class Attribute(NamedTuple):
    """One DICOM attribute that has a typed column in `instances`.

    keyword: the DICOM keyword, and the column's name.
    tag: (group << 16) + element; of a private attribute the element's last two digits only (PS3.5 7.8).
    vr: value representation where the file does not say (PS3.6; of private ones the vendor's statement).
    kind: a key of KINDS.
    phi: what `--phi pseudonymise` does: keep, uid, hash, date, time, age, text (allow-list), code (CS).
    meaning: why it is kept, with the unit.
    creator: the private creator, empty for standard attributes.
    """

    keyword: str
    tag: int
    vr: str
    kind: str
    phi: str
    meaning: str
    creator: str = ""


ATTRIBUTES: tuple[Attribute, ...] = (
    # who and what
    Attribute("PatientID", 0x00100020, "LO", "text", "hash", "patient; split key"),
    Attribute("IssuerOfPatientID", 0x00100021, "LO", "text", "hash", "who gave PatientID; hashed together with it"),
    Attribute("PatientSex", 0x00100040, "CS", "text", "code", "M, F or O"),
    Attribute("PatientAge", 0x00101010, "AS", "text", "age", "as 045Y; extent gates differ for children"),
    Attribute("StudyInstanceUID", 0x0020000D, "UI", "uid", "uid", "study"),
    Attribute("SeriesInstanceUID", 0x0020000E, "UI", "uid", "uid", "series"),
    Attribute("SOPInstanceUID", 0x00080018, "UI", "uid", "uid", "instance"),
    Attribute("SOPClassUID", 0x00080016, "UI", "uid", "keep", "what kind of object this is"),
    Attribute("FrameOfReferenceUID", 0x00200052, "UI", "uid", "uid", "space that positions share"),
    Attribute("ConcatenationUID", 0x00209161, "UI", "uid", "uid", "multi-frame object in parts"),
    Attribute("InConcatenationNumber", 0x00209162, "US", "int", "keep", "part number in a concatenation"),
    Attribute("InConcatenationTotalNumber", 0x00209163, "US", "int", "keep", "parts in a concatenation"),
    Attribute("AccessionNumber", 0x00080050, "SH", "text", "hash", "order number of the study"),
    Attribute("Modality", 0x00080060, "CS", "text", "code", "CT, MR, ..."),
    Attribute("ImageType", 0x00080008, "CS", "texts", "code", "ORIGINAL or DERIVED, PRIMARY, vendor words"),
    Attribute("SeriesDescription", 0x0008103E, "LO", "text", "text", "words on the series"),
    Attribute("StudyDescription", 0x00081030, "LO", "text", "text", "words on the study"),
    Attribute("ProtocolName", 0x00181030, "LO", "text", "text", "words on the protocol"),
    Attribute("PerformedProcedureStepDescription", 0x00400254, "LO", "text", "text", "words on the step"),
    Attribute("BodyPartExamined", 0x00180015, "CS", "text", "text", "body part"),
    Attribute("AnatomicRegionSequence", 0x00082218, "SQ", "codes", "text", "coded body region"),
    Attribute("ProcedureCodeSequence", 0x00081032, "SQ", "codes", "text", "coded procedure"),
    Attribute("Laterality", 0x00200060, "CS", "text", "code", "side of a paired body part"),
    Attribute("ImageLaterality", 0x00200062, "CS", "text", "code", "side, per image"),
    Attribute("FrameLaterality", 0x00209072, "CS", "text", "code", "side, per frame"),
    Attribute("PatientPosition", 0x00185100, "CS", "text", "code", "HFS, FFP, ..."),
    Attribute("Manufacturer", 0x00080070, "LO", "text", "text", "vendor"),
    Attribute("ManufacturerModelName", 0x00081090, "LO", "text", "text", "scanner model"),
    Attribute("SoftwareVersions", 0x00181020, "LO", "texts", "text", "scanner software"),
    Attribute("InstitutionName", 0x00080080, "LO", "text", "hash", "site"),
    Attribute("StationName", 0x00081010, "SH", "text", "hash", "scanner"),
    Attribute("DeviceSerialNumber", 0x00181000, "LO", "text", "hash", "scanner"),
    Attribute("SpecificCharacterSet", 0x00080005, "CS", "texts", "code", "how text is encoded"),
    Attribute("SeriesNumber", 0x00200011, "IS", "int", "keep", "number of the series in the study"),
    Attribute("AcquisitionNumber", 0x00200012, "IS", "int", "keep", "number of the acquisition"),
    Attribute("InstanceNumber", 0x00200013, "IS", "int", "keep", "number of the instance; not a slice order"),
    # geometry
    Attribute("ImagePositionPatient", 0x00200032, "DS", "numbers", "keep", "first voxel's centre, x y z, mm LPS"),
    Attribute("ImageOrientationPatient", 0x00200037, "DS", "numbers", "keep", "row and column direction cosines"),
    Attribute("PixelSpacing", 0x00280030, "DS", "numbers", "keep", "between rows, between columns, mm"),
    Attribute("ImagerPixelSpacing", 0x00181164, "DS", "numbers", "keep", "spacing at the detector, mm; no substitute"),
    Attribute("Rows", 0x00280010, "US", "int", "keep", "rows"),
    Attribute("Columns", 0x00280011, "US", "int", "keep", "columns"),
    Attribute("NumberOfFrames", 0x00280008, "IS", "int", "keep", "frames that the header declares"),
    Attribute("SliceThickness", 0x00180050, "DS", "number", "keep", "nominal, mm"),
    Attribute("SpacingBetweenSlices", 0x00180088, "DS", "number", "keep", "nominal, mm; not to be trusted"),
    Attribute("SliceLocation", 0x00201041, "DS", "number", "keep", "relative, mm; not to be trusted"),
    Attribute("GantryDetectorTilt", 0x00181120, "DS", "number", "keep", "nominal tilt, degrees"),
    Attribute("ReconstructionDiameter", 0x00181100, "DS", "number", "keep", "field of view, mm"),
    Attribute("StackID", 0x00209056, "SH", "text", "code", "stack of a multi-frame object"),
    Attribute("InStackPositionNumber", 0x00209057, "UL", "int", "keep", "place in the stack"),
    Attribute("DimensionIndexValues", 0x00209157, "UL", "numbers", "keep", "place in each declared dimension"),
    # MR physics
    Attribute("ScanningSequence", 0x00180020, "CS", "texts", "code", "SE, IR, GR, EP, RM"),
    Attribute("SequenceVariant", 0x00180021, "CS", "texts", "code", "SK, SP, MP, ..."),
    Attribute("ScanOptions", 0x00180022, "CS", "texts", "code", "FS, PFP, ..."),
    Attribute("MRAcquisitionType", 0x00180023, "CS", "text", "code", "2D or 3D"),
    Attribute("SequenceName", 0x00180024, "SH", "text", "text", "vendor's sequence name"),
    Attribute("AngioFlag", 0x00180025, "CS", "text", "code", "Y or N"),
    Attribute("RepetitionTime", 0x00180080, "DS", "number", "keep", "TR, ms"),
    Attribute("EchoTime", 0x00180081, "DS", "number", "keep", "TE, ms"),
    Attribute("InversionTime", 0x00180082, "DS", "number", "keep", "TI, ms"),
    Attribute("NumberOfAverages", 0x00180083, "DS", "number", "keep", "averages"),
    Attribute("ImagingFrequency", 0x00180084, "DS", "number", "keep", "MHz; field strength where that is missing"),
    Attribute("EchoNumbers", 0x00180086, "IS", "numbers", "keep", "echo number"),
    Attribute("MagneticFieldStrength", 0x00180087, "DS", "number", "keep", "tesla, in old files gauss"),
    Attribute("EchoTrainLength", 0x00180091, "IS", "int", "keep", "lines per excitation"),
    Attribute("FlipAngle", 0x00181314, "DS", "number", "keep", "degrees"),
    Attribute("PulseSequenceName", 0x00189005, "SH", "text", "text", "vendor's sequence name, enhanced MR"),
    Attribute("EchoPulseSequence", 0x00189008, "CS", "text", "code", "SPIN, GRADIENT or BOTH"),
    Attribute("InversionRecovery", 0x00189009, "CS", "text", "code", "YES or NO"),
    Attribute("PhaseContrast", 0x00189014, "CS", "text", "code", "YES or NO"),
    Attribute("TimeOfFlightContrast", 0x00189015, "CS", "text", "code", "YES or NO"),
    Attribute("EchoPlanarPulseSequence", 0x00189018, "CS", "text", "code", "YES or NO"),
    Attribute("SteadyStatePulseSequence", 0x00189017, "CS", "text", "code", "NONE, FREE_PRECESSION, ..."),
    Attribute("InversionTimes", 0x00189079, "FD", "numbers", "keep", "TI, ms, enhanced MR"),
    Attribute("EffectiveEchoTime", 0x00189082, "FD", "number", "keep", "TE, ms, enhanced MR"),
    Attribute("DiffusionBValue", 0x00189087, "FD", "number", "keep", "b-value, s/mm2"),
    Attribute("DiffusionDirectionality", 0x00189075, "CS", "text", "code", "DIRECTIONAL, ISOTROPIC, NONE, BMATRIX"),
    Attribute("TransmitterFrequency", 0x00189098, "FD", "number", "keep", "MHz, enhanced MR"),
    Attribute("RFEchoTrainLength", 0x00189240, "US", "int", "keep", "0 is a pure gradient echo"),
    Attribute("GradientEchoTrainLength", 0x00189241, "US", "int", "keep", "gradient echoes per excitation"),
    Attribute("ArterialSpinLabelingContrast", 0x00189250, "CS", "text", "code", "CONTINUOUS, PULSED, ..."),
    Attribute("ComplexImageComponent", 0x00089208, "CS", "text", "code", "MAGNITUDE, PHASE, REAL, ..."),
    Attribute("AcquisitionContrast", 0x00089209, "CS", "text", "code", "DIFFUSION, FLUID_ATTENUATED, T1, ..."),
    Attribute("FrameType", 0x00089007, "CS", "texts", "code", "ImageType of one frame"),
    # time
    Attribute("StudyDate", 0x00080020, "DA", "date", "date", "study date"),
    Attribute("SeriesDate", 0x00080021, "DA", "date", "date", "series date"),
    Attribute("AcquisitionDate", 0x00080022, "DA", "date", "date", "acquisition date"),
    Attribute("StudyTime", 0x00080030, "TM", "time", "time", "study time, s"),
    Attribute("SeriesTime", 0x00080031, "TM", "time", "time", "series time, s"),
    Attribute("AcquisitionTime", 0x00080032, "TM", "time", "time", "acquisition time, s"),
    Attribute("ContentTime", 0x00080033, "TM", "time", "time", "image time, s"),
    Attribute("AcquisitionDateTime", 0x0008002A, "DT", "datetime", "date", "acquisition start"),
    Attribute("InstanceCreationDate", 0x00080012, "DA", "date", "date", "date the file was made; newest wins"),
    Attribute("InstanceCreationTime", 0x00080013, "TM", "time", "time", "time the file was made, s"),
    Attribute("FrameAcquisitionDateTime", 0x00189074, "DT", "datetime", "date", "frame's acquisition start"),
    Attribute("FrameReferenceDateTime", 0x00189151, "DT", "datetime", "date", "frame's reference time"),
    Attribute("TemporalPositionIdentifier", 0x00200100, "IS", "int", "keep", "place in a time series"),
    Attribute("NumberOfTemporalPositions", 0x00200105, "IS", "int", "keep", "prescribed time points"),
    Attribute("TemporalResolution", 0x00200110, "DS", "number", "keep", "between time points, ms"),
    Attribute("TemporalPositionIndex", 0x00209128, "UL", "int", "keep", "place in a time series, enhanced"),
    Attribute("TriggerTime", 0x00181060, "DS", "number", "keep", "after the R wave, ms"),
    Attribute("CardiacNumberOfImages", 0x00181090, "IS", "int", "keep", "images per cardiac cycle"),
    Attribute("NominalCardiacTriggerDelayTime", 0x00209153, "FD", "number", "keep", "after the R wave, ms, enhanced"),
    # contrast agent
    Attribute("ContrastBolusAgent", 0x00180010, "LO", "text", "text", "agent; NULL absent, '' empty"),
    Attribute("ContrastBolusAgentSequence", 0x00180012, "SQ", "codes", "text", "coded agent"),
    Attribute("ContrastBolusAdministrationRouteSequence", 0x00180014, "SQ", "codes", "text", "coded route"),
    Attribute("ContrastBolusRoute", 0x00181040, "LO", "text", "text", "route: IV, oral, rectal"),
    Attribute("ContrastBolusVolume", 0x00181041, "DS", "number", "keep", "ml"),
    Attribute("ContrastBolusStartTime", 0x00181042, "TM", "time", "time", "bolus start, s"),
    Attribute("ContrastBolusStopTime", 0x00181043, "TM", "time", "time", "bolus stop, s"),
    Attribute("ContrastBolusTotalDose", 0x00181044, "DS", "number", "keep", "ml"),
    Attribute("ContrastFlowRate", 0x00181046, "DS", "numbers", "keep", "ml/s"),
    Attribute("ContrastFlowDuration", 0x00181047, "DS", "numbers", "keep", "s"),
    Attribute("ContrastBolusIngredient", 0x00181048, "CS", "texts", "code", "IODINE, GADOLINIUM, BARIUM, ..."),
    Attribute("ContrastBolusIngredientConcentration", 0x00181049, "DS", "number", "keep", "mg/ml"),
    Attribute("RequestedContrastAgent", 0x00321070, "LO", "text", "text", "an intention only"),
    Attribute("ContrastBolusAgentAdministered", 0x00189342, "CS", "text", "code", "YES or NO, enhanced"),
    Attribute("ContrastBolusAgentDetected", 0x00189343, "CS", "text", "code", "YES or NO, enhanced"),
    Attribute("ContrastBolusAgentPhase", 0x00189344, "CS", "text", "code", "PRE_CONTRAST, ARTERIAL, ..., enhanced"),
    # pixels
    Attribute("SamplesPerPixel", 0x00280002, "US", "int", "keep", "1 grey, 3 colour"),
    Attribute("PhotometricInterpretation", 0x00280004, "CS", "text", "code", "MONOCHROME1 is inverted"),
    Attribute("BitsAllocated", 0x00280100, "US", "int", "keep", "bits per sample in the file"),
    Attribute("BitsStored", 0x00280101, "US", "int", "keep", "bits that count"),
    Attribute("HighBit", 0x00280102, "US", "int", "keep", "the highest of them"),
    Attribute("PixelRepresentation", 0x00280103, "US", "int", "keep", "1 signed"),
    Attribute("PixelPaddingValue", 0x00280120, "SS", "number", "keep", "stored value outside the image"),
    Attribute("PixelPaddingRangeLimit", 0x00280121, "SS", "number", "keep", "other end of the padding range"),
    Attribute("RescaleIntercept", 0x00281052, "DS", "number", "keep", "added after the slope"),
    Attribute("RescaleSlope", 0x00281053, "DS", "number", "keep", "value per stored unit"),
    Attribute("RescaleType", 0x00281054, "LO", "text", "text", "HU, US, ..."),
    Attribute("LossyImageCompression", 0x00282110, "CS", "text", "code", "01 was lossy"),
    Attribute("BurnedInAnnotation", 0x00280301, "CS", "text", "code", "YES: text in the pixels"),
    Attribute("RecognizableVisualFeatures", 0x00280302, "CS", "text", "code", "YES: a face"),
    # de-identification that was done before us
    Attribute("PatientIdentityRemoved", 0x00120062, "CS", "text", "code", "YES or NO"),
    Attribute("DeidentificationMethod", 0x00120063, "LO", "texts", "text", "words on the method"),
    Attribute("DeidentificationMethodCodeSequence", 0x00120064, "SQ", "codes", "text", "coded method"),
    Attribute("LongitudinalTemporalInformationModified", 0x00280303, "CS", "text", "code", "dates kept or shifted"),
    # vendors' own, found by private creator
    Attribute("GEMS_ACQU_01_xx9C", 0x0019009C, "LO", "text", "text", "GE sequence name", "GEMS_ACQU_01"),
    Attribute("GEMS_ACQU_01_xx9E", 0x0019009E, "LO", "text", "text", "GE internal sequence name", "GEMS_ACQU_01"),
    Attribute("GEMS_ACQU_01_xx17", 0x00190017, "SS", "numbers", "keep", "GE series plane; 256: 3-plane", "GEMS_ACQU_01"),
    Attribute("GEMS_PARM_01_xx39", 0x00430039, "IS", "numbers", "keep", "GE b-value first, mod 1e9", "GEMS_PARM_01"),
    Attribute("GEMS_RELA_01_xx4F", 0x0021004F, "SS", "numbers", "keep", "GE locations in acquisition", "GEMS_RELA_01"),
    Attribute("SIEMENS_MR_HEADER_xx0A", 0x0019000A, "US", "numbers", "keep", "images in a mosaic", "SIEMENS MR HEADER"),
    Attribute("SIEMENS_MR_HEADER_xx0C", 0x0019000C, "IS", "numbers", "keep", "b-value", "SIEMENS MR HEADER"),
    Attribute(
        "Philips_Imaging_DD_001_xx03", 0x20010003, "FL", "numbers", "keep", "b-value", "Philips Imaging DD 001"
    ),
    Attribute(
        "Philips_Imaging_DD_001_xx20", 0x20010020, "LO", "text", "text", "scan technique", "Philips Imaging DD 001"
    ),
    Attribute("Image_Private_Header_xx09", 0x00650009, "FD", "numbers", "keep", "UIH b-value", "Image Private Header"),
    Attribute("Image_Private_Header_xx50", 0x00650050, "DS", "numbers", "keep", "UIH tiles in a grid", "Image Private Header"),
)

FUNCTIONAL_GROUPS: frozenset[int] = frozenset(
    {
        0x00209113,  # PlanePositionSequence
        0x00209116,  # PlaneOrientationSequence
        0x00289110,  # PixelMeasuresSequence
        0x00209111,  # FrameContentSequence
        0x00209071,  # FrameAnatomySequence
        0x00289145,  # PixelValueTransformationSequence
        0x00189112,  # MRTimingAndRelatedParametersSequence
        0x00189114,  # MREchoSequence
        0x00189115,  # MRModifierSequence
        0x00189117,  # MRDiffusionSequence
        0x00189119,  # MRAveragesSequence
        0x00189006,  # MRImagingModifierSequence
        0x00189226,  # MRImageFrameTypeSequence
        0x00189329,  # CTImageFrameTypeSequence
        0x00189304,  # CTAcquisitionDetailsSequence
        0x00189314,  # CTReconstructionSequence
        0x00189118,  # CardiacSynchronizationSequence
        0x00189341,  # ContrastBolusUsageSequence
        0x00209310,  # TemporalPositionSequence
        0x00209170,  # UnassignedSharedConvertedAttributesSequence
        0x00209171,  # UnassignedPerFrameConvertedAttributesSequence
    }
)
"""Macros whose attributes belong to a frame (PS3.3 C.7.6.16): per frame over shared over top level."""


class Column(NamedTuple):
    """One column of a lake table that is not a DICOM attribute."""

    name: str
    type: pa.DataType
    meaning: str


ORIGIN: tuple[Column, ...] = (
    Column("uri", pa.string(), "the file, sealed with the key where identities are pseudonymised; archive!/member"),
    Column("archive_uri", pa.string(), "the archive, where uri is a member of one; else NULL"),
    Column("harvested_at", pa.timestamp("us"), "when this row was made; with uri, the row's identity"),
    Column("run_id", pa.string(), "which run made it"),
    Column("collection", pa.string(), "the --collection given, or what --collection-from found"),
)
INSTANCE_FACTS: tuple[Column, ...] = (
    Column("object_kind", pa.string(), "image, or dicomdir, sr, seg, rtstruct, pdf, raw, ... by SOP class"),
    Column("frame_number", pa.int32(), "1 to n in a multi-frame object; NULL in a single-frame one"),
    Column("TransferSyntaxUID", pa.string(), "how the data set and the pixels are encoded"),
    Column("size_bytes", pa.int64(), "size of the file, or of the member"),
    Column("modified", pa.timestamp("us"), "time of last change, UTC"),
    Column("etag", pa.string(), "the store's content tag; NULL on disk"),
    Column("header_bytes", pa.int64(), "bytes up to the pixel data"),
    Column("has_pixel_data", pa.bool_(), "a pixel data element follows the header"),
    Column("has_modality_lut", pa.bool_(), "rescale by table, not by slope and intercept"),
    Column(
        "flags",
        pa.list_(pa.string()),
        "oddities met: no_preamble, no_file_meta, truncated, charset_trouble, frame_count_mismatch, read_by_pydicom",
    ),
    Column("empty_keywords", pa.list_(pa.string()), "attributes that are there but empty"),
    Column("unparseable_keywords", pa.list_(pa.string()), "attributes whose value could not be read"),
    Column("multivalued_keywords", pa.list_(pa.string()), "attributes with several unequal values where one is due"),
)
HEADER_FACTS: tuple[Column, ...] = (
    Column("StudyInstanceUID", pa.string(), "study"),
    Column("SeriesInstanceUID", pa.string(), "series"),
    Column("SOPInstanceUID", pa.string(), "instance whose header this is"),
    Column("Modality", pa.string(), "modality"),
    Column("header", pa.string(), "the whole header in the DICOM JSON model (PS3.18 F), bulk values left out"),
    Column("omitted_keywords", pa.list_(pa.string()), "elements left out for their size or for identity, as tags"),
)
REJECT_FACTS: tuple[Column, ...] = (
    Column("size_bytes", pa.int64(), "size of the file, or of the member"),
    Column("modified", pa.timestamp("us"), "time of last change, UTC"),
    Column("etag", pa.string(), "the store's content tag; NULL on disk"),
    Column("reason", pa.string(), "one of the reject reasons below"),
    Column("detail", pa.string(), "what was found, in technical words; never a header's text"),
)
FILE_FACTS: tuple[Column, ...] = (
    Column("size_bytes", pa.int64(), "size of the file"),
    Column("modified", pa.timestamp("us"), "time of last change, UTC"),
    Column("etag", pa.string(), "the store's content tag; NULL on disk"),
    Column("is_archive", pa.bool_(), "a zip, tar or gzip file whose members were read"),
    Column("n_objects", pa.int64(), "1, or the members of an archive"),
    Column("n_instances", pa.int64(), "of these, objects that gave instance rows"),
    Column("n_rejects", pa.int64(), "of these, objects that gave a reject row"),
    Column("is_final", pa.bool_(), "false: read it again next time, for its trouble may pass"),
    Column("patient", pa.string(), "hash of the patient, to count patients per withheld word"),
    Column("withheld", pa.list_(pa.string()), "words that the cleaning of free text took out, sealed"),
)
REMOVAL_FACTS: tuple[Column, ...] = (
    Column("removed_harvested_at", pa.timestamp("us"), "harvested_at of the rows that no longer count"),
    Column("reason", pa.string(), "changed: a newer row stands; vanished: --prune did not find the file"),
)

REJECT_REASONS: dict[str, str] = {
    "empty_file": "zero bytes",
    "not_dicom": "neither a DICOM file nor an archive",
    "header_truncated": "the file ends inside its header",
    "header_too_long": "the header is longer than the bound",
    "header_unparseable": "looks like DICOM, but neither reader makes sense of it",
    "no_sop_class": "a data set without a SOP class",
    "unreadable": "no permission, or the disk fails; tried again next time",
    "vanished": "listed, but gone when it was read; tried again next time",
    "not_a_file": "a pipe, socket or device; never opened",
    "link_cycle": "a link back to a folder above it; not followed",
    "archive_damaged": "the archive breaks off or its checksums are wrong",
    "archive_encrypted": "the member wants a password",
    "archive_unsupported": "an archive format or compression method that is not read (7z, rar, ...)",
    "archive_unsafe_path": "a member name that leads out of the archive",
    "archive_too_deep": "archives in archives past the bound",
    "archive_too_large": "more members, or more bytes, than the bound",
    "archive_ratio": "expands past the bound: a bomb",
    "archive_empty": "no member",
}


def _schema(*parts: tuple[Column, ...] | tuple[Attribute, ...]) -> pa.Schema:
    fields = []
    for part in parts:
        for c in part:
            if isinstance(c, Attribute):
                fields.append(pa.field(c.keyword, KINDS[c.kind]))
            else:
                fields.append(pa.field(c.name, c.type))
    return pa.schema(fields)


TABLES: dict[str, pa.Schema] = {
    "instances": _schema(ORIGIN, INSTANCE_FACTS, ATTRIBUTES),
    "series_headers": _schema(ORIGIN, HEADER_FACTS),
    "rejects": _schema(ORIGIN, REJECT_FACTS),
    "files": _schema(ORIGIN, FILE_FACTS),
    "removals": _schema(ORIGIN, REMOVAL_FACTS),
}
