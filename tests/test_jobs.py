"""`ray job submit` for real: a cluster with the job API on loopback, token and all."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_files import write_series
from s3_server import find_free_ports

import radnet_lake
from radnet_lake.cli.app import main

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
AGENTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
FACTS = (
    "select * exclude (uri, archive_uri, harvested_at, run_id, modified), parse_filename(uri) as f"
    " from instances order by SOPInstanceUID"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head with the dashboard; yields the environment of a client."""
    gcs, dashboard, *agents = find_free_ports(6)
    folder = tmp_path_factory.mktemp("ray")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RADNET_"))},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RADNET_LAKE_KEY": "ab" * 32,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "ignore",
    }
    start = ["ray", "start", "--head", f"--port={gcs}", "--num-cpus=2", "--block"]
    start += ["--include-dashboard=true", "--dashboard-host=127.0.0.1"]
    start += [f"--dashboard-port={dashboard}"]
    # Of ports that it must ask for, the node waits 15 s at most and then dies (ray#65983).
    start += [f"--{name}-port={port}" for name, port in zip(AGENTS, agents, strict=True)]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            start, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 200
        while subprocess.run(
            ["ray", "job", "list"], env=environment, capture_output=True
        ).returncode:
            assert time.monotonic() < deadline, (folder / "head.log").read_text()[-3000:]
            assert head.poll() is None, (folder / "head.log").read_text()[-3000:]
            time.sleep(1)
        yield environment
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def submit(cluster: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = ["ray", "job", "submit", "--working-dir", str(ROOT), "--", "python", *words]
    return subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=240)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("ray_local")
def test_submitted_job_makes_the_same_lake_as_the_command(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    for series in range(3):
        write_series(tmp_path / "in", series, 10)
    options = [str(tmp_path / "in"), "--collection", "job", "--phi", "keep", "--lake"]
    done = submit(cluster, "jobs/harvest.py", *options, str(tmp_path / "by_job"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 instances" in done.stdout
    assert main(["harvest", *options, str(tmp_path / "by_command")]) == 0
    found = []
    for name in ("by_job", "by_command"):
        with radnet_lake.connect(str(tmp_path / name)) as connection:
            found.append(connection.execute(FACTS).fetchall())
    assert len(found[0]) == 30
    assert found[0] == found[1]


@pytest.mark.timeout(400)
def test_submitted_job_fails_with_a_clear_error(cluster: dict[str, str], tmp_path: Path) -> None:
    done = submit(cluster, "jobs/harvest.py", str(tmp_path / "nothing"), "--lake", str(tmp_path))
    assert done.returncode != 0
    assert "error:" in done.stdout + done.stderr
    assert "nothing" in done.stdout + done.stderr


def test_job_api_refuses_a_caller_without_the_token(cluster: dict[str, str]) -> None:
    wrong = cluster | {"RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(["ray", "job", "list"], env=wrong, capture_output=True, text=True)
    assert done.returncode != 0
