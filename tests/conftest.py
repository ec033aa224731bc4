"""Real parts that tests share: a SeaweedFS server on loopback that checks S3 signatures, and a Ray.

Several pytest-xdist workers share a machine; each has a server and a Ray of its own.
"""

import fcntl
import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import hypothesis
import pyarrow as pa
import pydicom
import pydicom.data
import pytest
import ray
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

import radnet_lake
from radnet_lake.lake import create_lake
from radnet_lake.rollup import refresh_rollup

START_TIMEOUT_S = 120
TAKEN = ("BucketAlreadyExists", "BucketAlreadyOwnedByYou")
KEY = "0123456789abcdef" * 4
"""The key to pseudonymise with that the workers of `ray_local` have."""
PORTS_PER_WORKER = 1_500
LONGEST_FIRST = (
    "test_train",
    "test_readme",
    "test_label",
    "test_preprocess",
    "test_killed",
    "test_network",
    "test_predict",
    "test_evaluate",
    "test_jobs",
    "test_harvest",
)

# Others use the processor too, so no example's time says anything.
hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared")
# Else torch's threads wait for each other by counting, on processors that other tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Without it each Ray that starts writes a token to the home folder, and two at once two.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: xdist workers take one file after the other, in this order."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def find_free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on now, outside the range that Ray's workers use.

    Of no other xdist worker's: it may be about to listen on one.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    found: list[int] = []
    while len(found) < count:
        port = 20_000 + worker % 8 * PORTS_PER_WORKER + secrets.randbelow(PORTS_PER_WORKER)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


class S3Server:
    """A SeaweedFS process of one's own: start, stop (SIGKILL), and the AWS_* environment for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.access_key = "test" + secrets.token_hex(8)
        self.secret_key = secrets.token_hex(20)
        self.ports = find_free_ports(8)
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self.process: subprocess.Popen[bytes] | None = None
        self.bucket_numbers = itertools.count()
        self.shared_client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(retries={"total_max_attempts": 2}, connect_timeout=2),
        )

    @property
    def env(self) -> dict[str, str]:
        """The environment that makes boto3, and so radnet_lake, talk to this server."""
        nowhere = str(self.folder / "no-such-file")
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start the server on its folder, which may hold the data of an earlier start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "tester", "credentials": credentials, "actions": actions}
        (self.folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
        # Else each new bucket takes seven volumes, and a server has no end of them.
        growth = "[master.volume_growth]\ncopy_1 = 1\n"
        (self.folder / "master.toml").write_text(growth)
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        options = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3": "true",
            "s3.config": self.folder / "identities.json",
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": self.folder / "s3.sock",
            "filer.localSocket": self.folder / "filer.sock",
            "master.telemetry": "false",
            # The only master there is elects itself, after a restart only when this is over.
            "master.electionTimeout": "1s",
            "master.heartbeatInterval": "100ms",
            "master.volumeSizeLimitMB": 256,
            "volume.max": 400,
            "s3.port": self.ports[0],
            "s3.port.grpc": self.ports[1],
            "master.port": self.ports[2],
            "master.port.grpc": self.ports[3],
            "volume.port": self.ports[4],
            "volume.port.grpc": self.ports[5],
            "filer.port": self.ports[6],
            "filer.port.grpc": self.ports[7],
        }
        command = [str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "server"]
        command += [f"-{name}={value}" for name, value in options.items()]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        self.await_answer()

    def await_answer(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            died = self.process is None or self.process.poll() is not None
            if died or time.monotonic() > deadline:
                log = (self.folder / "weed.log").read_text(errors="replace")
                self.stop()
                raise RuntimeError(f"SeaweedFS did not start:\n{log[-4000:]}")
            time.sleep(0.2)

    def answers(self) -> bool:
        """Whether an object can be stored and read: the port opens long before that."""
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            self.client().create_bucket(Bucket="radnet-probe")
        except ClientError as refusal:
            if refusal.response["Error"]["Code"] not in TAKEN:
                return False
        except BotoCoreError:
            return False
        try:
            self.client().put_object(Bucket="radnet-probe", Key="probe", Body=b"probe")
            stored = self.client().get_object(Bucket="radnet-probe", Key="probe")["Body"].read()
        except (ClientError, BotoCoreError):
            return False
        return bool(stored == b"probe")

    def stop(self) -> None:
        """Kill the process at once: it ignores SIGTERM for long."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self) -> Any:
        """The one client, for making another costs a hundred requests."""
        return self.shared_client

    def bucket(self) -> str:
        """Make a fresh bucket and return its name."""
        name = f"radnet-{next(self.bucket_numbers)}-{secrets.token_hex(3)}"
        self.client().create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store one object."""
        self.client().put_object(Bucket=bucket, Key=key, Body=data)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server; the AWS_* environment points to it for the session."""
    server = S3Server(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in server.env.items():
            patch.setenv(name, value)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def ray_local(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local Ray of two CPUs.

    Started after the S3 server: its workers inherit AWS_*, and KEY.
    """
    with (
        (tmp_path_factory.getbasetemp().parent / "ray.lock").open("w") as lock,
        pytest.MonkeyPatch.context() as patch,
    ):
        # One after the other: Ray's node dies if its agent takes longer than 15 s (ray#65983).
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.setenv("RADNET_LAKE_KEY", KEY)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            # As cluster.start_ray: else workers end after a second, and new ones import all again.
            _system_config={"num_workers_soft_limit": 7},
        )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def rollup_columns(tmp_path_factory: pytest.TempPathFactory) -> pa.Schema:
    """The columns of the roll-up, as an empty lake has them."""
    lake = create_lake(str(tmp_path_factory.mktemp("empty") / "lake"), "keep", "")
    refresh_rollup(lake)
    with radnet_lake.connect(lake.uri) as connection:
        return connection.sql("from stored.rollup").to_arrow_table().schema


@pytest.fixture(scope="session")
def pydicom_files() -> Path:
    """The folder of real DICOM files that ships with pydicom."""
    return Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False)).parent


def write_series(
    folder: Path, series: int, instances: int = 10, patient: str = "P1", **attributes: Any
) -> None:
    """A CT series of small real-looking files: `folder/<series>/<n>.dcm`."""
    source = pydicom.data.get_testdata_file("CT_small.dcm", read=True, download=False)
    source.PatientID = patient
    source.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in attributes.items():
        setattr(source, keyword, value)
    source.SeriesInstanceUID = f"1.2.3.{series}"
    source.StudyInstanceUID = f"1.2.{series // 4}"
    target = folder / f"s{series:04d}"
    target.mkdir(parents=True, exist_ok=True)
    for n in range(instances):
        source.SOPInstanceUID = f"1.2.3.{series}.{n}"
        source.InstanceNumber = n + 1
        source.ImagePositionPatient = [-158.0, -179.0, -75.0 + 5 * n]
        source.save_as(target / f"{n:04d}.dcm")
