"""Rows of tests/cases as roll-up rows, and the labels that all SQL layers give them."""

from typing import Any

import duckdb
import pyarrow as pa

from radnet_lake.label import label
from radnet_lake.label.site import read_overrides, read_protocols
from radnet_lake.lake.views import create_empty

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
NOTHING_SAID = (read_overrides(None), read_protocols(None))


EXPECTED = ("expect_value", "expect_rule_id", "expect_conflict", "mode", "siblings", "why", "uid")


DEFAULTS: dict[str, Any] = {
    "Modality": "MR", "object_kind": "image", "collection": "default", "geometry": "regular",
    "SeriesDescription": "a name that says nothing", "PatientID": "P", "PatientPosition": "HFS",
    "FrameOfReferenceUID": "1.2.3", "n_frames": 30, "n_instances": 30, "n_stacks": 1,
    "stack_frames": 30, "slice_count": 30, "slice_spacing_mm": 5.0, "Rows": 256, "Columns": 256,
    "PixelSpacing": [1.5, 1.5], "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0],
    "repeats_min": 1, "repeats_max": 1, "n_invalid_frames": 0, "n_studies": 1, "n_patients": 1,
    "varying_keywords": [], "empty_keywords": [], "unparseable_keywords": [], "flags": [],
    "multivalued_keywords": [], "mosaic": False, "is_salvageable": False, "gap_deviation_mm": 0.0,
    "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "image_types": ["ORIGINAL\\PRIMARY\\OTHER"],
}  # fmt: skip


def parse(text: str, kind: pa.DataType) -> Any:
    if text in ("NULL", "EMPTY"):
        return None if text == "NULL" else ""
    if pa.types.is_list(kind):
        return [parse(part, kind.value_type) for part in text.split("\\") if part]
    if pa.types.is_struct(kind):  # a code: value^scheme^meaning
        return dict(zip(kind.names, [*text.split("^"), "", ""], strict=False))
    if pa.types.is_boolean(kind):
        return text.lower() == "true"
    if pa.types.is_integer(kind):
        return int(text)
    return float(text) if pa.types.is_floating(kind) else text


def make_row(case: dict[str, str], columns: pa.Schema) -> dict[str, Any]:
    row = dict.fromkeys(columns.names) | DEFAULTS
    for name, text in case.items():
        if name not in EXPECTED and text:
            row[name] = parse(text, columns.field(name).type)
    if not case.get("SOPClassUID"):
        row["SOPClassUID"] = {"CT": CT, "MR": MR}.get(row["Modality"])
    if case.get("ImageType") and not case.get("image_types"):
        row["image_types"] = ["\\".join(row["ImageType"])]
    return row


def decide(cases: list[dict[str, str]], mode: str, columns: pa.Schema) -> duckdb.DuckDBPyConnection:
    """All layers over the cases of one mode; series UIDs are their `uid` or else their numbers."""
    rows = []
    for number, case in enumerate(cases):
        if (case.get("mode") or "default") != mode:
            continue
        for sibling in range(int(case.get("siblings") or 1)):
            row = make_row(case, columns)
            uid = case.get("uid") or str(number)
            row["SeriesInstanceUID"] = uid if sibling == 0 else f"{uid}.{sibling}"
            row["StudyInstanceUID"] = row["StudyInstanceUID"] or f"study {uid}"
            rows.append(row)
    return label_rows(pa.Table.from_pylist(rows, columns), mode)


def label_rows(rows: pa.Table, mode: str) -> duckdb.DuckDBPyConnection:
    """All layers over rows of the roll-up, of a lake without volumes, overrides and protocols."""
    connection = duckdb.connect()
    connection.execute("create schema stage; create schema stored")
    create_empty(connection, "volumes")
    connection.register("rows", rows)
    connection.execute("create table stage.series as from rows")
    label.run_layers(connection, mode, *NOTHING_SAID)
    return connection
