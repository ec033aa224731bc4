"""Real parts that tests share: a SeaweedFS server on loopback that checks S3 signatures, and a Ray.

Several pytest-xdist workers share a machine; each has a server and a Ray of its own.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pyarrow as pa
import pydicom
import pydicom.data
import pytest
import ray
from dicom_files import KEY
from s3_server import S3Server

import radnet_lake
from radnet_lake.label.rollup import refresh_rollup
from radnet_lake.lake.log import create_lake

TESTS = Path(__file__).parent
TIERS = {"ray_local": "ray", "s3": "s3", "phantoms": "long"}
"""The marker that a test has for a fixture that it uses; `make quick` leaves these tests out."""
LONGEST_FIRST = (
    "test_readme.py",
    "train/test_train.py",
    "volume/test_preprocess.py",
    "harvest/test_killed.py",
    "test_jobs.py",
    "evaluate/test_predict.py",
    "transfer/test_train.py",
    "label/test_label.py",
    "storage/test_s3.py",
    "volume/test_stream.py",
    "transfer/sweep/test_sweep.py",
    "transfer/test_prepare.py",
    "label/test_rollup_refresh.py",
    "transfer/test_evaluate.py",
    "evaluate/test_evaluate.py",
    "phantom/test_phantom.py",
    "harvest/test_harvest.py",
)
"""Files that take more than 15 seconds."""

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
    """Mark each test with its tiers, and put long files first.

    xdist workers take one file after the other, in this order.
    """
    for item in items:
        for tier in _list_tiers(item):
            item.add_marker(tier)
    rank = {TESTS / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def _list_tiers(item: pytest.Item) -> set[str]:
    """By its fixtures, and by a parameter "s3", where a fixture is asked for by name only then."""
    tiers = {TIERS[name] for name in getattr(item, "fixturenames", ()) if name in TIERS}
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return tiers | {"s3" for value in values if isinstance(value, str) and value == "s3"}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test without the marker `ray` that would start a Ray of its own fails."""
    ray.init = _start_ray if item.get_closest_marker("ray") else _refuse_ray


_start_ray = ray.init


def _refuse_ray(*_: object, **__: object) -> None:
    raise AssertionError("this test needs Ray: let it use the fixture ray_local")


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
