"""What labels rely on: the stored roll-up is the lake's, and only what changed is made anew."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from instance_rows import NOON, Row, frame, roll, stack

from radnet_lake import schema
from radnet_lake.errors import LakeError
from radnet_lake.label import rollup, rollup_plan
from radnet_lake.label.rollup import refresh_rollup
from radnet_lake.lake.compact import CompactConfig, compact
from radnet_lake.lake.log import Lake, create_lake, open_lake


def make(folder: Path | str, *parts: list[Row]) -> Lake:
    """A lake with one part of `instances` per list."""
    lake = create_lake(str(folder), "keep", "")
    for rows in parts:
        add(lake, rows)
    return lake


def add(lake: Lake, rows: list[Row], table: str = "instances") -> None:
    lake.commit(add=[lake.write_part(table, pa.Table.from_pylist(rows, schema.TABLES[table]), "p")])


def lake_rows(lake: Lake) -> list[Row]:
    return lake.dataset(lake.refresh().of("instances")).to_table().to_pylist()


def stored(lake: Lake | str) -> dict[str, Row]:
    """What the lake's roll-up holds."""
    lake = open_lake(lake if isinstance(lake, str) else lake.uri)
    rows = lake.dataset(lake.snapshot.of("rollup")).to_table().to_pylist()
    assert len({row["SeriesInstanceUID"] for row in rows}) == len(rows)
    return {row["SeriesInstanceUID"]: row for row in rows}


@pytest.mark.long
def test_only_what_changed_is_rolled_up(tmp_path: Path) -> None:
    lake = make(tmp_path, stack("a") + stack("b", 20), stack("b", 20, z=100, first=21) + stack("c"))
    first = refresh_rollup(lake)
    assert (first.series, first.rolled, first.frames) == (3, 3, 120)
    assert stored(lake)["b"]["slice_count"] == 40
    version = lake.refresh().version
    assert refresh_rollup(lake) == rollup.RollupReport(3, 0, 0, 0, 0)
    assert lake.refresh().version == version
    later = NOON + datetime.timedelta(hours=1)
    add(lake, stack("c", 1, z=200, first=41, harvested_at=later))
    second = refresh_rollup(lake)
    assert (second.series, second.rolled, second.frames) == (3, 1, 41)
    assert stored(lake)["c"]["slice_count"] == 41
    gone = {"uri": "/in/c/41.dcm", "removed_harvested_at": later, "reason": "vanished"}
    add(lake, [gone], "removals")
    assert refresh_rollup(lake).rolled == 1
    assert stored(lake)["c"]["slice_count"] == 40
    gone = [gone | {"uri": f"/in/a/{n}.dcm", "removed_harvested_at": NOON} for n in range(1, 41)]
    add(lake, gone, "removals")
    assert refresh_rollup(lake) == rollup.RollupReport(2, 0, 1, 0, 0)
    assert sorted(stored(lake)) == ["b", "c"]
    gone = [r | {"removed_harvested_at": r["harvested_at"]} for r in lake_rows(lake)]
    add(lake, [{k: r[k] for k in ("uri", "removed_harvested_at")} for r in gone], "removals")
    assert refresh_rollup(lake).removed == 2
    assert stored(lake) == {}
    assert refresh_rollup(lake) == rollup.RollupReport(0, 0, 0, 0, 0)


def test_new_rules_roll_up_everything_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make(tmp_path, stack("a") + stack("b"))
    refresh_rollup(lake)
    before = {p.name for p in lake.snapshot.of("rollup")}
    monkeypatch.setattr(rollup, "make_version", lambda: "new")
    assert refresh_rollup(lake).rolled == 2
    assert not before & {p.name for p in lake.refresh().of("rollup")}
    assert sorted(stored(lake)) == ["a", "b"]


@pytest.mark.long
def test_series_that_lie_in_many_parts_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(n) for n in range(7)]
    whole = {row["SeriesInstanceUID"]: row for row in roll(*(stack(n) for n in names)).values()}
    rows = [row for name in names for row in stack(name)]
    scattered = [rows[k::4] for k in range(4)]
    monkeypatch.setattr(rollup_plan, "ROWS_PER_TASK", 75)
    lake = make(tmp_path / "scattered", *scattered)
    assert refresh_rollup(lake, threads=2).rolled == 7
    assert stored(lake) == whole
    neighbours = make(tmp_path / "neighbours", *(rows[k : k + 70] for k in range(0, 280, 70)))
    assert refresh_rollup(neighbours).rolled == 7
    assert stored(neighbours) == whole


@pytest.mark.usefixtures("ray_local")
def test_ray_and_s3_give_the_same(tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [stack("a") + stack("b", 20), stack("b", 20, z=100, first=21) + stack("c")]
    unnamed = [frame("", [0, 0, 5 * n], n, uri=f"/in/x/{n}.dcm") for n in range(20)]
    here = make(tmp_path / "lake", *parts, unnamed)
    refresh_rollup(here)
    monkeypatch.setattr(rollup, "RAY_ROWS", 0)
    monkeypatch.setattr(rollup_plan, "ROWS_PER_TASK", 50)
    for place in (str(tmp_path / "by ray"), f"s3://{s3.bucket()}/lake"):
        lake = make(place, *parts, unnamed)
        assert refresh_rollup(lake).rolled == 4
        assert stored(lake) == stored(here)
    # A compaction moves rows of instances to other parts, and lets the roll-up be.
    compact(CompactConfig(lake.uri))
    assert stored(lake) == stored(here)
    assert refresh_rollup(lake).rolled == 0


def test_rows_without_series_uid_are_apart_by_folder(tmp_path: Path) -> None:
    rows = []
    for folder in ("sealed:Zm9v", "/in/case 1", "sealed:YQ/Yg!/ZGly"):
        for n in range(5):
            one = frame("", [0, 0, 5 * n], n, uri=f"{folder}/f{n}", StudyInstanceUID=None)
            rows += [one | {"SeriesInstanceUID": None if n % 2 else " "}]
    rows += [frame("", [], 9, uri="/in/case 1/sr", Modality="SR", object_kind="sr")]
    rows += [frame("", [], 9, uri="/in/case 1/DICOMDIR", object_kind="dicomdir")]
    lake = make(tmp_path, stack("named"), rows)
    report = refresh_rollup(lake)
    assert (report.series, report.frames) == (5, 56)
    rolled = stored(lake)
    unnamed = [row for row in rolled.values() if "no_series_uid" in row["flags"]]
    assert sorted(row["n_frames"] for row in unnamed) == [1, 5, 5, 5]
    images = [row for row in unnamed if row["object_kind"] == "image"]
    assert {row["geometry"] for row in images} == {"regular"}
    assert all(row["StudyInstanceUID"] == row["SeriesInstanceUID"] for row in images)
    assert refresh_rollup(lake).rolled == 0


@pytest.mark.long
def test_empty_lake_has_an_empty_rollup_with_columns(tmp_path: Path) -> None:
    full = make(tmp_path / "full", stack("a"))
    refresh_rollup(full)
    for lake in (make(tmp_path / "empty"), make(tmp_path / "rejects")):
        if "rejects" in lake.uri:
            add(lake, [{"uri": "/in/x", "reason": "not_dicom", "harvested_at": NOON}], "rejects")
        assert refresh_rollup(lake).series == 0
        assert stored(lake) == {}
        (part,) = lake.snapshot.of("rollup")
        columns = lake.dataset([part]).schema
        assert columns == full.dataset(full.snapshot.of("rollup")).schema
        add(lake, stack("late"))
        assert refresh_rollup(lake).rolled == 1
        assert list(stored(lake)) == ["late"]


def test_killed_refresh_leaves_the_lake_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make(tmp_path, stack("a"))
    refresh_rollup(lake)
    before = stored(lake)
    add(lake, stack("b"))
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            refresh_rollup(lake)
    assert stored(lake) == before
    assert refresh_rollup(open_lake(lake.uri)).rolled == 1
    assert sorted(stored(lake)) == ["a", "b"]


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.long
def test_two_refreshes_at_once_do_not_both_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    lake = make(tmp_path, stack("a"))
    if not is_new:
        refresh_rollup(lake)
        add(lake, stack("b"))
    rewrite = rollup._rewrite

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(rollup, "_rewrite", rewrite)
        refresh_rollup(open_lake(lake.uri))
        return rewrite(*arguments)

    monkeypatch.setattr(rollup, "_rewrite", overtaken)
    with pytest.raises(LakeError, match="another run"):
        refresh_rollup(lake)
    assert sorted(stored(lake)) == (["a"] if is_new else ["a", "b"])
    named = set(open_lake(lake.uri).snapshot.parts)
    assert {n for n in lake.folder.names("rollup/")} <= named | lake.find_removed().keys()
