"""Headers against a network, in SQL: wrong headers first, what a person set left alone.

The predictions are made here; tests/test_predict.py has a network.
"""

import datetime
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from s3_server import S3Server

import radnet_lake
from radnet_lake import schema
from radnet_lake.errors import SettingError
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake.compact import CompactConfig, compact
from radnet_lake.lake.log import Lake, create_lake, open_lake
from radnet_lake.lake.sql import run_sql
from radnet_lake.network.heads import read_heads

CLASSES = {head.name: head.classes for head in read_heads()}
NOON = datetime.datetime(2026, 1, 1, 12)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> pa.Schema:
    """The columns of `series`, as a labelled lake without files has them."""
    lake = create_lake(str(tmp_path_factory.mktemp("none") / "lake"), "keep", "")
    label(LabelConfig(lake.uri))
    with radnet_lake.connect(lake.uri) as connection:
        return connection.sql("from stored.series").to_arrow_table().schema


def describe_series(number: int, **changes: Any) -> Row:
    """A series whose headers tell all."""
    draw = random.Random(number)
    return {
        "SeriesInstanceUID": f"1.2.{number}",
        "StudyInstanceUID": f"1.{number}",
        "PatientID": f"P{number}",
        "Modality": "MR",
        "n_frames": 24,
        "slice_count": 24,
        "slice_spacing_mm": draw.choice([1.5, 3.0, 5.0]),
        "sequence": draw.choice(CLASSES["sequence"]),
        "sequence_rule": "SEQ-SE-TR-TE",
        "sequence_tier": "numeric",
        "view": draw.choice(CLASSES["view"]),
        "contrast": draw.random() < 0.5,
        "coverage": draw.sample(CLASSES["coverage"], draw.randrange(3)),
        "exclusions": [],
    } | changes


def share(classes: tuple[str, ...], chosen: str, probability: float) -> list[tuple[str, float]]:
    rest = (1 - probability) / (len(classes) - 1)
    return [(c, probability if c == chosen else rest) for c in classes]


def see(series: Row, checkpoint: str = "first", **changes: Any) -> Row:
    """The prediction of a good network: right about a series, but never quite sure."""
    draw = random.Random(series["SeriesInstanceUID"] + checkpoint)
    sure = draw.uniform(0.8, 0.99)
    contrast = "Contrast" if series["contrast"] else "No Contrast"
    regions = [
        (region, draw.uniform(0.8, 1) if region in series["coverage"] else draw.uniform(0, 0.2))
        for region in CLASSES["coverage"]
    ]
    return {
        "SeriesInstanceUID": series["SeriesInstanceUID"],
        "checkpoint": checkpoint,
        "predicted_at": NOON,
        "is_final": True,
        "sequence": series["sequence"],
        "sequence_probability": sure,
        "sequence_probabilities": share(CLASSES["sequence"], series["sequence"], sure),
        "view": series["view"],
        "view_probability": sure,
        "view_probabilities": share(CLASSES["view"], series["view"], sure),
        "contrast": series["contrast"],
        "contrast_probability": sure,
        "contrast_probabilities": share(CLASSES["contrast"], contrast, sure),
        "coverage": series["coverage"],
        "coverage_probability": math.prod(max(p, 1 - p) for _, p in regions),
        "coverage_probabilities": regions,
        "effective_spacing_mm": series["slice_spacing_mm"] * draw.uniform(1.0, 1.2),
        "slices": 16,
    } | changes


def write(lake: Lake, columns: pa.Schema, series: list[Row], predictions: list[Row]) -> None:
    """Put rows into a lake, as `label` and `predict` do."""
    known = pa.Table.from_pylist(series, columns)
    stated = pa.Table.from_pylist(predictions, schema.TABLES["predictions"])
    parts = [
        lake.write_part("series", known, "made"),
        lake.write_part("predictions", stated, "made"),
    ]
    old = [p.name for p in lake.snapshot.of("series")]
    lake.commit(add=parts, remove=old, labels={"mode": "default", "rule_set": "", "at": ""})


def ask(lake: Lake, *questions: str) -> list[list[tuple[Any, ...]]]:
    with radnet_lake.connect(lake.uri) as connection:
        return [connection.execute(sql).fetchall() for sql in questions]


@pytest.mark.parametrize("store", ["disk", "s3"])
def test_wrong_headers_come_first(
    store: str, columns: pa.Schema, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path / "lake")
    if store == "s3":
        server: S3Server = request.getfixturevalue("s3")
        uri = f"s3://{server.bucket()}/lake"
    lake = create_lake(uri, "keep", "")
    truth = [describe_series(n) for n in range(200)]
    headers = [dict(row) for row in truth]
    spoilt = {}
    for n in range(0, 40, 4):
        for row, name in zip(headers[n : n + 4], ("sequence", "view", "contrast", "coverage"),
                             strict=True):  # fmt: skip
            spoilt[row["SeriesInstanceUID"], name] = None
            row[name] = {
                "sequence": next(c for c in CLASSES["sequence"] if c != row["sequence"]),
                "view": next(c for c in CLASSES["view"] if c != row["view"]),
                "contrast": not row["contrast"],
                "coverage": [r for r in CLASSES["coverage"] if r not in row["coverage"]][:1],
            }[name]
    for row in headers[40:50]:
        spoilt[row["SeriesInstanceUID"], "spacing"] = None
        row["slice_spacing_mm"] *= 3
    write(lake, columns, headers, [see(row) for row in truth])
    found, counts, stated = ask(
        lake,
        "select SeriesInstanceUID, label from audit limit 50",
        "select count(*), count(distinct (SeriesInstanceUID, label)) from audit",
        "select header_value, network_value, rule_id, tier, round(exp(-surprise) - probability, 6)"
        " from audit where SeriesInstanceUID = '1.2.0' and label = 'sequence'",
    )
    assert len(spoilt) == 50
    assert set(found) == set(spoilt)
    # Every label of every series is compared, once.
    assert counts == [(1000, 1000)]
    wrong, right = headers[0]["sequence"], truth[0]["sequence"]
    assert stated == [(wrong, right, "SEQ-SE-TR-TE", "numeric", 0.0)]


def test_what_cannot_be_compared_or_was_judged_is_left_out(
    columns: pa.Schema, tmp_path: Path
) -> None:
    truth = [describe_series(n, contrast=True, coverage=["brain"]) for n in range(6)]
    changes: list[Row] = [
        {"sequence": "CT", "sequence_rule": "SITE-SERIES-SEQUENCE"},
        {"sequence": "STIR", "exclusions": ["stir"], "excluded_by": "stir"},
        {"view": "oblique", "exclusions": ["view"], "excluded_by": "view"},
        {"sequence": None, "exclusions": ["seq"], "excluded_by": "seq"},
        {"contrast": None, "coverage": None, "slice_spacing_mm": None},
        {},
    ]
    lake = create_lake(str(tmp_path / "lake"), "keep", "")
    headers = [row | change for row, change in zip(truth, changes, strict=True)]
    predictions = [see(row) for row in truth[:5]]
    failed = {"SeriesInstanceUID": "1.2.5", "checkpoint": "first", "reason": "constant"}
    write(lake, columns, headers, [*predictions, failed])
    labels = {"sequence", "view", "contrast", "coverage", "spacing"}
    left = [{"sequence"}, {"sequence"}, {"view"}, {"sequence"}, {"contrast", "coverage", "spacing"}]
    compared, filled, likely, splits = ask(
        lake,
        "select SeriesInstanceUID, label from audit",
        "select SeriesInstanceUID, label, value, excluded_by from filled_labels",
        "select probability from filled_labels where label = 'sequence'",
        "select distinct SeriesInstanceUID, split from audit",
    )
    assert sorted(compared) == sorted(
        (f"1.2.{n}", name) for n, missing in enumerate(left) for name in labels - missing
    )
    assert sorted(filled) == [
        ("1.2.3", "sequence", truth[3]["sequence"], "seq"),
        ("1.2.4", "contrast", "true", None),
        ("1.2.4", "coverage", "brain", None),
    ]
    assert likely[0][0] == pytest.approx(predictions[3]["sequence_probability"], rel=1e-6)
    # Series that are no part of the training set are compared too, and say so.
    assert [dict(splits)[f"1.2.{n}"] is None for n in range(5)] == [False, True, True, True, False]


def test_the_network_that_was_asked_last_is_the_one_that_audits(
    columns: pa.Schema, tmp_path: Path
) -> None:
    series = describe_series(1)
    later = NOON + datetime.timedelta(hours=1)
    lake = create_lake(str(tmp_path / "lake"), "keep", "")
    write(lake, columns, [series], [see(series), see(series, "second", predicted_at=later)])
    assert ask(
        lake,
        "select distinct checkpoint from audit",
        "select checkpoint from predictions order by all",
        "select sequence_probabilities[sequence] = sequence_probability from predictions",
    ) == [[("second",)], [("first",), ("second",)], [(True,), (True,)]]


def test_a_lake_without_predictions_has_their_views(columns: pa.Schema, tmp_path: Path) -> None:
    lake = create_lake(str(tmp_path / "lake"), "keep", "")
    with radnet_lake.connect(lake.uri) as connection:
        for view in ("predictions", "features"):
            assert connection.execute(f"from {view}").fetchall() == []
        with pytest.raises(SettingError, match="it is made by: radnet-lake label"):
            run_sql(connection, "from audit")
    label(LabelConfig(lake.uri))
    views = ("predictions", "features", "audit", "filled_labels")
    bare = (
        "select table_name, column_name from duckdb_columns() where schema_name = 'main'"
        f" and table_name in {views} and comment is null"
    )
    assert ask(lake, bare, *(f"from {view}" for view in views)) == [[]] * 5


@pytest.mark.usefixtures("ray_local")
def test_predictions_end_with_their_series(columns: pa.Schema, tmp_path: Path) -> None:
    """What a series gave disappears with it, from the views at once and from disk by compact."""
    lake = create_lake(str(tmp_path / "lake"), "keep", "")
    series = [describe_series(n) for n in range(3)]
    later = NOON + datetime.timedelta(hours=1)
    write(lake, columns, series, [see(row) for row in series])
    write(lake, columns, series, [see(series[0], predicted_at=later, run="again")])
    for stamp, rows in ((NOON, series), (later, series[:1])):
        stored = [
            {"SeriesInstanceUID": row["SeriesInstanceUID"], "checkpoint": "first"}
            | {"predicted_at": stamp, "features": [1.0, stamp.hour]}
            for row in rows
        ]
        table = pa.Table.from_pylist(stored, schema.TABLES["features"])
        lake.commit(add=[lake.write_part("features", table, "made")])
    stated = "select SeriesInstanceUID, run from predictions order by all"
    marks = "select SeriesInstanceUID, features from features order by all"
    write(lake, columns, series[:2], [])
    before = ask(lake, stated, marks)
    assert before == [
        [("1.2.0", "again"), ("1.2.1", None)],
        [("1.2.0", [1.0, 13.0]), ("1.2.1", [1.0, 12.0])],
    ]
    assert compact(CompactConfig(lake.uri, grace_hours=0)).rows_dropped == 4
    assert ask(lake, stated, marks) == before
    for table in ("predictions", "features"):
        parts = open_lake(lake.uri).snapshot.of(table)
        assert sum(p.rows for p in parts) == 2
        assert sorted((tmp_path / "lake" / table).iterdir()) == [
            tmp_path / "lake" / p.name for p in parts
        ]


def test_features_find_the_series_that_look_alike(columns: pa.Schema, tmp_path: Path) -> None:
    lake = create_lake(str(tmp_path / "lake"), "keep", "")
    write(lake, columns, [describe_series(n) for n in range(4)], [])
    vectors = [[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [2.0, 0.1]]
    rows = [
        {"SeriesInstanceUID": f"1.2.{n}", "checkpoint": "first", "features": vector}
        for n, vector in enumerate(vectors)
    ]
    table = pa.Table.from_pylist(rows, schema.TABLES["features"])
    lake.commit(add=[lake.write_part("features", table, "made")])
    (near,) = ask(
        lake,
        "select b.SeriesInstanceUID from features as a join features as b using (checkpoint)"
        " where a.SeriesInstanceUID = '1.2.0' and b.SeriesInstanceUID <> a.SeriesInstanceUID"
        " order by list_cosine_similarity(a.features, b.features) desc",
    )
    assert near == [("1.2.3",), ("1.2.2",), ("1.2.1",)]
