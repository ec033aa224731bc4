"""Harvests whose process, workers or store die: the lake stays whole, the next run completes it."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dicom_files import write_series
from harvest_runs import ask, everything, run
from ray_workers import kill_worker
from s3_server import S3Server

from radnet_lake.cli.app import main
from radnet_lake.errors import StoreError

COMMAND = str(Path(sys.executable).parent / "radnet-lake")


OFTEN = ["--phi", "keep", "--chunk-files", "20", "--commit-seconds", "0"]


def await_commits(lake: Path, count: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until a lake has `count` commits; fail where the process that makes them has ended."""
    deadline, ended = time.monotonic() + 200, None
    while len(list(lake.glob("_lake/log/*.json"))) < count:
        assert ended is None, Path(f"{lake}.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
        ended = process.poll() if process else None


def test_killed_harvest_leaves_readable_lake_and_next_run_finishes_it(
    tmp_path: Path, ray_local: str
) -> None:
    for series in range(30):
        write_series(tmp_path / "in", series, 20)
    source, lake = tmp_path / "in", tmp_path / "lake"
    command = [COMMAND, "harvest", str(source), "--lake", str(lake), *OFTEN]
    seen = []
    # First with all of a Ray of its own, then alone.
    for commits, ray_address in ((3, {}), (8, {"RAY_ADDRESS": ray_local})):
        env = os.environ | ray_address
        with Path(f"{lake}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=env, start_new_session=True
            )
        await_commits(lake, commits, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (counts,) = ask(lake, "select count(*), count(distinct uri) from instances")
        assert counts[0] == counts[1]
        seen.append(counts[0])
    assert 0 < seen[-1] < 600
    report = run(source, lake, chunk_files=200)
    assert report.sums["known"] >= seen[-1]
    assert report.sums["known"] + report.sums["instances"] == 600
    clean = tmp_path / "clean"
    run(source, clean, chunk_files=200)
    assert everything(lake, f"{source}/") == everything(clean, f"{source}/")


@pytest.mark.usefixtures("ray_local")
def test_killed_worker_costs_nothing(tmp_path: Path) -> None:
    for series in range(20):
        write_series(tmp_path / "in", series, 20)
    lake = tmp_path / "lake"
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(main, ["harvest", str(tmp_path / "in"), "--lake", str(lake), *OFTEN])
        await_commits(lake, 3)
        # Killed while they read; the agents beside them are Ray's own and end the node with them.
        killed: set[int] = set()
        while len(killed) < 2 and not ended.done():
            if pid := kill_worker("ray::MapBatches"):
                killed.add(pid)
        assert len(killed) == 2
        assert ended.result(timeout=120) == 0
    assert ask(lake, "select count(*), count(distinct uri) from instances") == [(400, 400)]
    assert ask(lake, "select status, adds_up from runs") == [("finished", True)]


def test_store_that_dies_gives_a_clear_error_and_a_resumed_run_completes(
    tmp_path: Path, s3: S3Server, ray_local: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bucket, lake = s3.bucket(), tmp_path / "lake"
    write_series(tmp_path / "in", 1, 30)
    for path in (tmp_path / "in").rglob("*.dcm"):
        for copy in range(20):
            s3.put(bucket, f"in/{copy}/{path.name}", path.read_bytes())
    command = ["harvest", f"s3://{bucket}/in", "--lake", str(lake), *OFTEN]
    capfd.readouterr()
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(main, command)
        await_commits(lake, 3)
        s3.stop()
        try:
            assert ended.result(timeout=200) == StoreError.exit_status
        finally:
            s3.start()
    errors = capfd.readouterr().err
    (line,) = [x for x in errors.splitlines() if x.startswith("error:")]
    assert bucket in line
    assert "Traceback" not in errors
    assert ask(lake, "select status from runs") == [("broken off",)]
    assert main(command) == 0
    assert "600 objects" in capfd.readouterr().out
    assert ask(lake, "select count(*), count(distinct uri) from instances") == [(600, 600)]
