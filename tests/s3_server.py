"""A SeaweedFS server on loopback that checks S3 signatures; free ports on loopback."""

import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

START_TIMEOUT_S = 120
TAKEN = ("BucketAlreadyExists", "BucketAlreadyOwnedByYou")
PORTS_PER_WORKER = 1_500


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
