"""Agreement with expert readings of real series descriptions of collections foreign to the rules.

tests/data/readings.csv: 960 distinct descriptions of public collections (metadata of the NCI
Imaging Data Commons, CC BY), read by us as a radiologist would, blind to the rules; about ten words
were added to the lexicons after a first comparison. Only the words are given to the rules; geometry
is regular. Floors are a little below what is measured, so that a change that costs agreement shows.
"""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from rule_cases import decide

DATA = Path(__file__).parent.parent / "data" / "readings.csv"
SAME = {
    "CT": {"CT"}, "T1_SE": {"T1-SE"}, "T2_SE": {"T2-SE"}, "T1_FLAIR": {"T1-FLAIR"},
    "T2_FLAIR": {"T2-FLAIR"}, "STIR": {"STIR"}, "PD_SE": {"PD-SE"}, "GR": {"GR"},
    "DWI": {"DWI", "EP"}, "ADC_OR_MAP": {"ADC", "DERIVED"}, "PERFUSION": {"PERFUSION"},
    "MRA": {"MRA"}, "FMRI": {"FMRI", "EP"}, "SWI": {"SWI", "GR"}, "LOCALIZER": {"LOCALIZER"},
    "DERIVED_OTHER": {"DERIVED", "ADC"},
}  # fmt: skip
"""What the reader called it -> labels that say the same."""
ORIENTATION = {
    "coronal": "1\\0\\0\\0\\0\\-1",
    "sagittal": "0\\1\\0\\0\\0\\-1",
    "oblique": "0.7071068\\0.7071068\\0\\0\\0\\-1",
}


def make_case(reading: dict[str, str]) -> dict[str, str]:
    """Header facts as text: the words, and a stack long enough for any gate."""
    count = max(1, min(24, round(float(reading["median_instanceCount"] or 24))))
    is_ct = reading["Modality"] == "CT"
    facts = {
        "collection": reading["collection_id"],
        "Modality": reading["Modality"],
        "Manufacturer": reading["Manufacturer"],
        "ImageType": "ORIGINAL\\PRIMARY\\AXIAL" if is_ct else "ORIGINAL\\PRIMARY\\OTHER",
        "ImageOrientationPatient": ORIENTATION.get(reading["view"], ""),
        "slice_count": str(count),
        "n_frames": str(count),
        "slice_spacing_mm": str((600 if is_ct else 400) / 24) if count > 1 else "NULL",
        "geometry": "regular" if count > 1 else "single_slice",
        "PixelSpacing": "1.75\\1.75" if is_ct else "1.56\\1.56",
    }
    for keyword in ("StudyDescription", "SeriesDescription"):
        facts[keyword] = reading[keyword][:64] or "EMPTY"
    return facts | {"BodyPartExamined": reading["BodyPartExamined"]}


def judge(reading: dict[str, str], got: dict[str, Any]) -> dict[str, bool]:
    """Per label whether the rules say what the reader said; only where the reader could tell."""
    right = {}
    if reading["sequence_class"] in SAME:
        classes = [reading["sequence_class"], *reading["also_acceptable"].split("|")]
        right["sequence"] = got.get("sequence") in set().union(*(SAME.get(c, ()) for c in classes))
    if reading["view"] in ("axial", "coronal", "sagittal"):
        right["view"] = got.get("view") == reading["view"]
    for name in ("contrast", "time_series"):
        if reading[name] in ("yes", "no"):
            right[name] = got.get(name) == {"yes": "true", "no": "false"}[reading[name]]
    if reading["coverage"] != "unknown":
        due = set(reading["coverage"].split("|")) - {"none", ""}
        unsure = set(reading["coverage_unsure"].split("|")) - {"none", ""}
        found = got.get("coverage")
        have = set((found or "").split("|")) - {""}
        right["coverage"] = found is not None and due <= have <= due | unsure
    return right


@pytest.fixture(scope="module")
def agreement(rollup_columns: pa.Schema) -> dict[str, float]:
    with DATA.open(newline="", encoding="utf-8") as file:
        readings = list(csv.DictReader(file))
    connection: duckdb.DuckDBPyConnection = decide(
        [make_case(r) for r in readings], "default", rollup_columns
    )
    answers: dict[str, dict[str, Any]] = {}
    query = "select SeriesInstanceUID, label, value from decision.decision"
    for uid, name, value in connection.execute(query).fetchall():
        answers.setdefault(uid, {})[name] = value
    connection.close()
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for number, reading in enumerate(readings):
        for name, is_right in judge(reading, answers.get(str(number), {})).items():
            total[name] += 1
            right[name] += is_right
    assert min(total.values()) > 300
    return {name: right[name] / total[name] for name in total}


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("sequence", 0.97),
        ("view", 0.99),
        ("contrast", 0.96),
        ("time_series", 0.97),
        ("coverage", 0.94),
    ],
)
def test_rules_agree_with_expert_readings(
    agreement: dict[str, float], name: str, floor: float
) -> None:
    assert agreement[name] >= floor, agreement
