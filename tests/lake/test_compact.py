"""What a user relies on when compacting: the same answers from fewer files."""

from pathlib import Path
from typing import Any

import pytest
from dicom_files import write_series
from s3_server import S3Server

import radnet_lake
from radnet_lake.errors import LakeError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.lake.compact import CompactConfig, compact
from radnet_lake.lake.log import open_lake

pytestmark = pytest.mark.usefixtures("ray_local")


def run(source: Path, lake: Path | str, **settings: Any) -> None:
    harvest(HarvestConfig((str(source),), lake=str(lake), phi="keep", chunk_files=5, **settings))


def ask(lake: Path | str) -> list[Any]:
    with radnet_lake.connect(str(lake)) as connection:
        return [
            connection.execute(f"select * from {view} order by all").fetchall()
            for view in ("instances", "files", "rejects", "runs")
        ]


def test_compacted_lake_gives_the_same_answers_from_fewer_files(tmp_path: Path) -> None:
    for series in range(4):
        write_series(tmp_path / "in", series, 10)
    lake = tmp_path / "lake"
    run(tmp_path / "in", lake)
    (tmp_path / "in/s0000/0000.dcm").unlink()
    run(tmp_path / "in", lake, prune=True)
    before = ask(lake)
    parts = len(open_lake(str(lake)).snapshot.parts)
    report = compact(CompactConfig(str(lake), grace_hours=0))
    assert report.files_after < parts
    assert report.rows_dropped > 0
    assert report.files_deleted >= parts
    assert ask(lake) == before
    on_disk = {str(p.relative_to(lake)) for p in lake.rglob("*.parquet")}
    assert on_disk == set(open_lake(str(lake)).snapshot.parts)
    # The next run still knows every file, also one that was removed and came back.
    write_series(tmp_path / "in", 0, 1)
    run(tmp_path / "in", lake)
    with radnet_lake.connect(str(lake)) as connection:
        known = connection.execute(
            "select known, instances from runs order by started_at"
        ).fetchall()
    assert known[-1] == (39, 1)


def test_readers_keep_their_files_during_the_grace(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, 20)
    lake = tmp_path / "lake"
    run(tmp_path / "in", lake)
    with radnet_lake.connect(str(lake)) as connection:
        assert compact(CompactConfig(str(lake))).files_deleted == 0
        assert connection.execute("select count(*) from instances").fetchall() == [(20,)]


def test_merged_rows_of_a_series_lie_together(tmp_path: Path) -> None:
    for series in range(6):
        write_series(tmp_path / "in", series, 7)
    lake = tmp_path / "lake"
    run(tmp_path / "in", lake)
    compact(CompactConfig(str(lake)))
    opened = open_lake(str(lake))
    (part,) = opened.snapshot.of("instances")
    rows = opened.dataset([part]).to_table(columns=["SeriesInstanceUID", "InstanceNumber"])
    pairs = [tuple(r.values()) for r in rows.to_pylist()]
    assert pairs == sorted(pairs)


def test_lake_on_s3_is_compacted_too(tmp_path: Path, s3: S3Server) -> None:
    write_series(tmp_path / "in", 1, 20)
    lake = f"s3://{s3.bucket()}/lake"
    run(tmp_path / "in", lake)
    before = ask(lake)
    report = compact(CompactConfig(lake, grace_hours=0))
    assert report.files_after < report.files_before
    assert ask(lake) == before


def test_no_lake_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="no lake there"):
        compact(CompactConfig(str(tmp_path)))
