"""Takes sql/attributes.csv, gives the lake's tables: columns with type, DICOM tag and meaning.

A header attribute is one row of sql/attributes.csv: the header scanner, the tables' columns, the
roll-up and sql/SCHEMA.md, which this module prints, follow from it.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

SCHEMA_VERSION = 1

_PACKAGED_SQL = Path(__file__).parent / "sql"
SQL_DIR = _PACKAGED_SQL if _PACKAGED_SQL.is_dir() else Path(__file__).parent.parent / "sql"
"""A wheel carries sql/ inside the package; a checkout and a Ray working directory beside it."""

CODE = pa.struct(
    [
        ("CodeValue", pa.string()),
        ("CodingSchemeDesignator", pa.string()),
        ("CodeMeaning", pa.string()),
    ]
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
"""How a value is stored. `time` is seconds since midnight, pseudonymised since StudyTime."""


class Attribute(NamedTuple):
    """One DICOM attribute that has a typed column in `instances`: a row of sql/attributes.csv.

    keyword: the DICOM keyword, and the column's name.
    tag: (group << 16) + element; private: the element's last two digits only (PS3.5 7.8).
    vr: value representation where the file does not say (PS3.6, or the vendor).
    kind: a key of KINDS.
    roll_up: how the rows of a series become one value in `series`: agreed, the value that all rows
    have, else NULL; number, the same for numbers within a tolerance; values, as number, with a
    column <keyword>_values of the distinct values beside it; none, in `instances` only.
    phi: what `--phi pseudonymise` does: keep, uid, hash, date, time, age, text, code.
    meaning: why it is kept, with the unit.
    creator: the private creator, empty for standard attributes.
    """

    keyword: str
    tag: int
    vr: str
    kind: str
    roll_up: str
    phi: str
    meaning: str
    creator: str = ""


def _read_attributes(path: Path) -> tuple[Attribute, ...]:
    found = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            number = int(row.pop("tag").replace(",", "").replace("xx", "00"), 16)
            found.append(Attribute(tag=number, **row))
    return tuple(found)


ATTRIBUTES = _read_attributes(SQL_DIR / "attributes.csv")
"""The rows of sql/attributes.csv; their order is that of the columns of `instances`."""


def _read_labels(path: Path) -> dict[str, dict[str, str]]:
    labels: dict[str, dict[str, str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            labels.setdefault(row["label"], {})[row["value"]] = row["meaning"]
    return labels


LABELS = _read_labels(SQL_DIR / "labels.csv")
"""Label -> value -> meaning: the rows of sql/labels.csv, in their order."""

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
"""Macros whose attributes belong to a frame (PS3.3 C.7.6.16): per frame over shared over top
level.
"""


class Column(NamedTuple):
    """One column of a lake table that is not a DICOM attribute."""

    name: str
    type: pa.DataType
    meaning: str


ORIGIN: tuple[Column, ...] = (
    Column(
        "uri",
        pa.string(),
        "the file, encrypted where identities are pseudonymised; archive!/member",
    ),
    Column("archive_uri", pa.string(), "the archive, where uri is a member of one; else NULL"),
    Column(
        "harvested_at", pa.timestamp("us"), "when this row was made; with uri, the row's identity"
    ),
    Column("run_id", pa.string(), "which run made it"),
    Column("collection", pa.string(), "the --collection given, or what --collection-from found"),
)
INSTANCE_FACTS: tuple[Column, ...] = (
    Column(
        "object_kind",
        pa.string(),
        "image, or dicomdir, sr, seg, rtstruct, pdf, raw, ... by SOP class",
    ),
    Column(
        "frame_number", pa.int32(), "1 to n in a multi-frame object; NULL in a single-frame one"
    ),
    Column("TransferSyntaxUID", pa.string(), "how the data set and the pixels are encoded"),
    Column("size_bytes", pa.int64(), "size of the file, or of the member"),
    Column(
        "modified",
        pa.timestamp("us"),
        "modification time, UTC; where pseudonymised, shifted by a keyed hash",
    ),
    Column("etag", pa.string(), "the store's content tag; NULL on disk and where pseudonymised"),
    Column("header_bytes", pa.int64(), "bytes up to the pixel data"),
    Column("has_pixel_data", pa.bool_(), "a pixel data element follows the header"),
    Column("has_modality_lut", pa.bool_(), "rescale by table, not by slope and intercept"),
    Column(
        "flags",
        pa.list_(pa.string()),
        "oddities met: no_preamble, no_file_meta, truncated, charset_trouble,"
        " frame_count_mismatch, read_by_pydicom, cut_at_long_value",
    ),
    Column("empty_keywords", pa.list_(pa.string()), "attributes that are present but empty"),
    Column(
        "unparseable_keywords", pa.list_(pa.string()), "attributes whose value could not be read"
    ),
    Column(
        "multivalued_keywords",
        pa.list_(pa.string()),
        "attributes with several unequal values instead of one",
    ),
)
HEADER_FACTS: tuple[Column, ...] = (
    Column("StudyInstanceUID", pa.string(), "study"),
    Column("SeriesInstanceUID", pa.string(), "series"),
    Column("SOPInstanceUID", pa.string(), "instance whose header this is"),
    Column("Modality", pa.string(), "modality"),
    Column(
        "header",
        pa.string(),
        "the whole header in the DICOM JSON model (PS3.18 F), without bulk values",
    ),
    Column(
        "omitted_keywords",
        pa.list_(pa.string()),
        "elements omitted for their size or for identity, as tags",
    ),
)
REJECT_FACTS: tuple[Column, ...] = (
    Column("size_bytes", pa.int64(), "size of the file, or of the member"),
    Column(
        "modified",
        pa.timestamp("us"),
        "modification time, UTC; where pseudonymised, shifted by a keyed hash",
    ),
    Column("etag", pa.string(), "the store's content tag; NULL on disk and where pseudonymised"),
    Column("reason", pa.string(), "one of the reject reasons below"),
    Column("detail", pa.string(), "technical detail; never text of a header"),
)
FILE_FACTS: tuple[Column, ...] = (
    Column("size_bytes", pa.int64(), "size of the file"),
    Column(
        "modified",
        pa.timestamp("us"),
        "modification time, UTC; where pseudonymised, shifted by a keyed hash",
    ),
    Column("etag", pa.string(), "the store's content tag; NULL on disk"),
    Column("is_archive", pa.bool_(), "a zip, tar or gzip file whose members were read"),
    Column("n_objects", pa.int64(), "1, or the members of an archive"),
    Column("n_instances", pa.int64(), "of these, objects that gave instance rows"),
    Column("n_rejects", pa.int64(), "of these, objects that gave a reject row"),
    Column(
        "is_final", pa.bool_(), "false: read again at the next harvest, after a transient error"
    ),
    Column("patient", pa.string(), "hash of the patient, to count patients per withheld word"),
    Column("withheld", pa.list_(pa.string()), "words withheld from free text, encrypted"),
)
REMOVAL_FACTS: tuple[Column, ...] = (
    Column(
        "removed_harvested_at", pa.timestamp("us"), "harvested_at of the rows that no longer count"
    ),
    Column(
        "reason",
        pa.string(),
        "changed: a newer row replaces it; vanished: --prune did not find the file",
    ),
)

VOLUME_FACTS: tuple[Column, ...] = (
    Column("SeriesInstanceUID", pa.string(), "series"),
    Column("preprocessing", pa.string(), "version of the preprocessing: its settings and code"),
    Column("made_at", pa.timestamp("us"), "when this row was made, UTC; the last row counts"),
    Column("reason", pa.string(), "NULL, or why there is no volume: one of the reasons below"),
    Column("detail", pa.string(), "technical detail; never text of a header"),
    Column("is_final", pa.bool_(), "false: tried again next time, after a transient error"),
    Column("harvested_at", pa.timestamp("us"), "of the series' youngest instance row then"),
    Column("n_rows", pa.int64(), "the series' instance rows then"),
    Column("shard", pa.string(), "file with the volume, below the lake"),
    Column("position", pa.int32(), "its place in the shard, from 0"),
    Column("spacing_mm", pa.list_(pa.float64()), "between slices, rows, columns once resized"),
    Column("position_mm", pa.list_(pa.float64()), "centre of the first resized voxel, mm LPS"),
    Column("steps_mm", pa.list_(pa.float64()), "from slice to slice, row to row, column to column"),
    Column("source_shape", pa.list_(pa.int32()), "slices, rows, columns before"),
    Column("source_spacing_mm", pa.list_(pa.float64()), "between slices, rows, columns before"),
    Column("blank_before", pa.int32(), "blank slices before the first; see slices_filled"),
    Column("slices_filled", pa.int32(), "slices that are not blank"),
    Column("value_min", pa.float64(), "value of grey level 0 (HU in CT)"),
    Column("value_max", pa.float64(), "value of grey level 255"),
    Column("grey_p01", pa.int32(), "1st percentile of the voxels that are not blank, grey levels"),
    Column("grey_p99", pa.int32(), "99th; low where a bright implant compressed the tissue"),
    Column("padded_share", pa.float64(), "share of source voxels that were padding"),
    Column("is_lossy", pa.bool_(), "a frame was compressed with loss"),
    Column("stack_digest", pa.string(), "hash of the frames used, in their order"),
    Column("label_mode", pa.string(), "mode of the labels then"),
    Column("rule_set", pa.string(), "rules of the labels then"),
    Column("version", pa.string(), "radnet_lake's version"),
)

SHARES = pa.map_(pa.string(), pa.float32())
"""Class by sql/classes.csv -> its probability."""
PREDICTION_FACTS: tuple[Column, ...] = (
    Column("SeriesInstanceUID", pa.string(), "series"),
    Column("checkpoint", pa.string(), "the network: a hash of its weights"),
    Column("run", pa.string(), "name of the training run's folder"),
    Column("preprocessing", pa.string(), "version of the preprocessing of its volumes"),
    Column("predicted_at", pa.timestamp("us"), "when this row was made, UTC; the last row counts"),
    Column("reason", pa.string(), "NULL, or why there is no volume, as in volumes"),
    Column("is_final", pa.bool_(), "false: tried again next time, after a transient error"),
    Column("harvested_at", pa.timestamp("us"), "of the series' youngest instance row then"),
    Column("n_rows", pa.int64(), "the series' instance rows then"),
    Column("sequence", pa.string(), "the most probable class; there is no class for any other"),
    Column("sequence_probability", pa.float32(), "of that class, among the classes"),
    Column("sequence_probabilities", SHARES, "class to probability: sequence_probabilities['CT']"),
    Column("view", pa.string(), "the most probable view"),
    Column("view_probability", pa.float32(), "of that view, among the three"),
    Column("view_probabilities", SHARES, "view to probability"),
    Column("contrast", pa.bool_(), "an agent in the vessels is more probable than none"),
    Column("contrast_probability", pa.float32(), "of what contrast says, 0.5 or more"),
    Column("contrast_probabilities", SHARES, "Contrast and No Contrast to probability"),
    Column("coverage", pa.list_(pa.string()), "regions that are more probable in than not"),
    Column("coverage_probability", pa.float32(), "of just these, as a product over all regions"),
    Column("coverage_probabilities", SHARES, "region to probability, each for itself"),
    Column("effective_spacing_mm", pa.float32(), "between slices once resized to `slices`, mm"),
    Column("slices", pa.int32(), "slices of the volumes: 48 in the paper, as in series"),
    Column("version", pa.string(), "radnet_lake's version"),
)
FEATURE_FACTS: tuple[Column, ...] = (
    Column("SeriesInstanceUID", pa.string(), "series"),
    Column("checkpoint", pa.string(), "the network: a hash of its weights"),
    Column("predicted_at", pa.timestamp("us"), "when this row was made, UTC; the last row counts"),
    Column(
        "features",
        pa.list_(pa.float32()),
        "the fully connected layer before the outputs: 1000 numbers, of one checkpoint comparable",
    ),
)

RUN_FACTS: tuple[Column, ...] = (
    Column("run_id", pa.string(), "the run's name: its start, UTC, and six random digits"),
    Column("status", pa.string(), "running, finished, or broken off; a killed run stays running"),
    Column("started_at", pa.timestamp("us"), "UTC"),
    Column("updated_at", pa.timestamp("us"), "when it last committed, UTC"),
    Column("sources", pa.list_(pa.string()), "what was crawled; encrypted like uri"),
    Column("collection", pa.string(), "--collection or --collection-from"),
    Column("phi", pa.string(), "pseudonymise or keep"),
    Column("files_listed", pa.int64(), "files or objects of the store that were listed"),
    Column("archives", pa.int64(), "of these, archives"),
    Column("objects_seen", pa.int64(), "files that are no archives, and archive members"),
    Column("instances", pa.int64(), "of these, objects that gave instance rows"),
    Column("rejects", pa.int64(), "of these, objects that gave a reject row"),
    Column(
        "known", pa.int64(), "of these, objects known already; the three add up to objects_seen"
    ),
    Column("rows", pa.int64(), "rows of instances: one per frame"),
    Column("superseded", pa.int64(), "files whose older rows no longer count"),
    Column("vanished", pa.int64(), "files that --prune did not find"),
    Column("bytes_listed", pa.int64(), "size of the listed files"),
    Column("version", pa.string(), "radnet_lake's version"),
)
RUN_SCHEMA = pa.schema([(c.name, c.type) for c in RUN_FACTS])

REJECT_REASONS: dict[str, str] = {
    "empty_file": "zero bytes",
    "not_dicom": "neither a DICOM file nor an archive",
    "header_truncated": "the file ends inside its header",
    "header_too_long": "the header is longer than the bound",
    "header_unparseable": "looks like DICOM, but neither reader can parse it",
    "no_sop_class": "a data set without a SOP class",
    "unreadable": "no permission, or the disk fails; tried again next time",
    "vanished": "listed, but gone when it was read; tried again next time",
    "not_a_file": "a pipe, socket or device; never opened",
    "link_cycle": "a link back to a folder above it; not followed",
    "archive_damaged": "the archive is truncated or its checksums are wrong",
    "archive_encrypted": "the member needs a password",
    "archive_unsupported": "an archive format or compression that is not supported (7z, ...)",
    "archive_unsafe_path": "a member name that points out of the archive",
    "archive_too_deep": "more nested archives than the bound",
    "archive_too_large": "more members, or more bytes, than the bound",
    "archive_ratio": "expands to more than the bound: an archive bomb",
    "archive_empty": "no member",
}

VOLUME_REASONS: dict[str, str] = {
    "no_frames": "no frame with pixels, position, orientation and spacing",
    "several_frames_at_a_place": "the frames are no single stack: a place has several",
    "mixed_photometric": "some frames are inverted (MONOCHROME1), others not",
    "colour": "colour pixels",
    "too_large": "declared sizes are past the bounds; nothing was read",
    "bad_declaration": "rows, columns, bits or frames are missing or contradict each other",
    "truncated_pixels": "fewer pixels than declared",
    "size_mismatch": "the compressed image has another size than declared",
    "unsupported_syntax": "a transfer syntax that holds no image or has no decoder",
    "undecodable": "the decoder refuses the compressed image",
    "bad_rescale": "rescale slope or intercept, or the lookup table, is no number or zero",
    "not_finite": "values are not finite",
    "constant": "all voxels are equal",
    "no_mask": "no mask of that organ, or none of it lies in the image",
    "mask_mismatch": "mask and image differ in size, orientation or frame of reference",
    "changed": "a file is not as it was harvested; harvest again",
    "unreadable": "no permission, or the disk fails; tried again next time",
    "vanished": "a file is gone; tried again next time",
}
TRANSIENT_REASONS = frozenset({"changed", "unreadable", "vanished"})
"""Transient read errors: retried at the next harvest; they do not exclude a series."""


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
    "volumes": _schema(VOLUME_FACTS),
    "predictions": _schema(PREDICTION_FACTS),
    "features": _schema(FEATURE_FACTS),
}
SERIES_TABLES = ("volumes", "predictions", "features")
"""Of these, tables whose rows are of a series, not of a file."""

DERIVED_TABLES = ("rollup", "series")
"""What labelling stores: one row per series. Their columns are those of the SQL that makes them."""


def _meanings(*parts: tuple[Column, ...] | tuple[Attribute, ...]) -> dict[str, str]:
    found = {}
    for part in parts:
        for c in part:
            if isinstance(c, Attribute):
                group, element = f"{c.tag >> 16:04X}", f"{c.tag & 0xFFFF:04X}"
                tag = f"{group},xx{element[2:]} {c.creator}" if c.creator else f"{group},{element}"
                found[c.keyword] = f"{c.meaning} ({tag})"
            else:
                found[c.name] = c.meaning
    return found


MEANINGS: dict[str, dict[str, str]] = {
    "instances": _meanings(ORIGIN, INSTANCE_FACTS, ATTRIBUTES),
    "series_headers": _meanings(ORIGIN, HEADER_FACTS),
    "rejects": _meanings(ORIGIN, REJECT_FACTS),
    "files": _meanings(ORIGIN, FILE_FACTS),
    "runs": _meanings(RUN_FACTS),
    "volumes": _meanings(VOLUME_FACTS),
    "predictions": _meanings(PREDICTION_FACTS),
    "features": _meanings(FEATURE_FACTS),
}
"""What each column of each view says; DuckDB shows it as the column's comment."""

_GRAINS = {
    "instances": "One row per frame of a multi-frame image, single-frame instance, other object.",
    "series_headers": "One row per series, or per file without series UID: the whole header.",
    "rejects": "One row per file or archive member that gave no instance.",
    "files": "One row per listed file: what a later run need not read again.",
    "runs": "One row per run.",
    "volumes": "One row per series and preprocessing: the resized volume, or why there is none.",
    "predictions": "One row per series and checkpoint: the labels by the network, or why not.",
    "features": "One row per series and checkpoint: the network's features.",
}


def describe() -> str:
    """The schema page, sql/SCHEMA.md, as Markdown."""
    lines = [
        "# The lake's schema",
        "",
        f"Version {SCHEMA_VERSION}. Made by `make docs` out of schema.py and attributes.csv.",
        "",
        "Header columns carry the DICOM keyword. NULL is absent; of text, '' is present but empty;",
        "`empty_keywords`, `unparseable_keywords` and `multivalued_keywords` name the attributes",
        "that are NULL for that reason. `pseudonymise` says what becomes of a column under",
        "`--phi pseudonymise`; under `--phi keep` all are as in the file.",
    ]
    for view, meanings in MEANINGS.items():
        types = RUN_SCHEMA if view == "runs" else TABLES[view]
        phi = {a.keyword: a.phi for a in ATTRIBUTES} if view == "instances" else {}
        lines += [
            "",
            f"## {view}",
            "",
            _GRAINS[view],
            "",
            "| column | type | pseudonymise | meaning |",
        ]
        lines += ["|---|---|---|---|"]
        for name, meaning in meanings.items():
            kind = str(types.field(name).type).replace("element: ", "")
            lines.append(f"| {name} | {kind} | {phi.get(name, '')} | {meaning} |")
    lines += ["", "## Reject reasons", "", "| reason | meaning |", "|---|---|"]
    lines += [f"| {reason} | {meaning} |" for reason, meaning in REJECT_REASONS.items()]
    lines += ["", "## Why there is no volume", "", "| reason | meaning |", "|---|---|"]
    lines += [f"| {reason} | {meaning} |" for reason, meaning in VOLUME_REASONS.items()]
    return "\n".join(lines) + "\n"
