"""What a harvest relies on with S3, on a real server: right bytes, errors that name a remedy."""

import io
import os
import pickle
import socket
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from listing import ODD_NAMES, list_all
from s3_server import S3Server

from radnet_lake.errors import RadnetLakeError, SettingError, StoreError
from radnet_lake.storage import sources
from radnet_lake.storage.folder import Folder
from radnet_lake.storage.sources import Entry, ReadFailure, Unit


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    """For tests that do not list it: the server's volumes are few, each new bucket takes seven."""
    return s3.bucket()


@pytest.fixture(scope="module")
def archive(s3: S3Server) -> tuple[str, list[str]]:
    """A bucket with odd keys below in/, those keys as stored, and one object beside in/."""
    bucket = s3.bucket()
    keys = [f"in/{a}/{b}/{c}" for a in ["p1", *ODD_NAMES] for b in ("s 1", "s%2") for c in "12"]
    keys += ["in/beside", "in/p1/beside", "in/a//b", "in/p1/s 1/deep/er/x"]
    # SeaweedFS itself stores a//b as a/b.
    stored = [key.replace("a//b", "a/b") for key in keys]
    for key, stored_key in zip(keys, stored, strict=True):
        s3.put(bucket, key, stored_key.encode())
    s3.put(bucket, "in/marker/", b"")
    s3.put(bucket, "inside", b"another prefix")
    return bucket, stored


@pytest.mark.parametrize("at_least", [1, 5, 64])
def test_units_of_a_bucket_cover_it_exactly_once(
    archive: tuple[str, list[str]], at_least: int
) -> None:
    bucket, keys = archive
    found = list_all(f"s3://{bucket}/in/", at_least)
    listed = [entry.uri.removeprefix(f"s3://{bucket}/") for entry in found]
    assert Counter(listed) == Counter(keys)
    assert all(entry.etag and entry.modified > 1.7e15 for entry in found)
    for entry, data in sources.read_heads(found, lambda: 1000):
        assert data == entry.uri.removeprefix(f"s3://{bucket}/").encode()
        assert entry.size_bytes == len(data)
    assert len(list_all(f"s3://{bucket}")) == len(keys) + 1
    assert len(list_all(f"s3://{bucket}/in/beside")) == 1


def test_a_listed_key_order_and_pages_beyond_one(s3: S3Server) -> None:
    bucket = s3.bucket()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Folder(f"s3://{bucket}").write(f"x/{n:04}", b"."), range(1100)))
    [unit] = sources.list_units(f"s3://{bucket}/x", at_least=1)
    uris = [entry.uri for entry in sources.list_unit(unit)]
    assert uris == [f"s3://{bucket}/x/{n:04}" for n in range(1100)]
    folder = Folder(f"s3://{bucket}/x")
    folder.delete(folder.names())
    assert folder.names() == []


@pytest.mark.parametrize("key", ["plain/x.dcm", "odd\nkey", "Größe 100%/+&?#"])
def test_ranges_of_an_object_are_short_at_its_end(s3: S3Server, bucket: str, key: str) -> None:
    s3.put(bucket, key, bytes(range(100)))
    uri = f"s3://{bucket}/{key}"
    assert sources.read_range(uri, 0, 10) == bytes(range(10))
    assert sources.read_range(uri, 90, 50) == bytes(range(90, 100))
    assert sources.read_range(uri, 100, 5) == b""
    s3.put(bucket, key, b"")
    assert sources.read_range(uri, 0, 5) == b""
    with sources.open_file(uri) as file:
        assert file.read() == b""


def test_heads_of_objects_come_in_order_with_their_errors(s3: S3Server) -> None:
    bucket = s3.bucket()
    lake = Folder(f"s3://{bucket}")
    for number in range(150):
        lake.write(f"{number:03}", b"" if number == 7 else b"%03d" % number * 50)
    entries = list_all(f"s3://{bucket}")
    lake.delete(["005", "149"])
    read = list(sources.read_heads(iter(entries), lambda: 6))
    assert [entry for entry, _ in read] == entries
    for number, (_, result) in enumerate(read):
        if number in (5, 149):
            assert isinstance(result, ReadFailure)
            assert result.reason == "vanished"
        else:
            assert result == (b"" if number == 7 else b"%03d" % number * 2)


def test_a_zip_archive_on_s3_is_read_by_seeking(s3: S3Server, bucket: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}", os.urandom(1_500_000))
    s3.put(bucket, "a.zip", buffer.getvalue())
    with sources.open_file(f"s3://{bucket}/a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 3
    with pytest.raises(FileNotFoundError):
        sources.open_file(f"s3://{bucket}/none.zip")


def every_way(bucket: str) -> dict[str, object]:
    """Each kind of request there is, to see that each gives the clear error."""
    entry = Entry(f"s3://{bucket}/DOE", 10, 0, "x", None)
    folder = Folder(f"s3://{bucket}/lake")
    return {
        "list_units": lambda: sources.list_units(f"s3://{bucket}"),
        "list_unit": lambda: list(sources.list_unit(Unit(f"s3://{bucket}/", "tree", ()))),
        "read_range": lambda: sources.read_range(entry.uri, 0, 10),
        "read odd key": lambda: sources.read_range(f"s3://{bucket}/DOE\n", 0, 10),
        "read_heads": lambda: list(sources.read_heads([entry] * 3, lambda: 10)),
        "open_file": lambda: sources.open_file(entry.uri),
        "write": lambda: folder.write("x", b"1"),
        "create": lambda: folder.create("x", b"1"),
        "read": lambda: folder.read("x"),
        "names": lambda: folder.names(),
        "is_empty": lambda: folder.is_empty(),
        "delete": lambda: folder.delete(["x"]),
    }


WAYS = list(every_way("bucket"))


def expect_error(way: str, bucket: str, kind: type[RadnetLakeError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        every_way(bucket)[way]()  # type: ignore[operator]
    assert f"s3://{bucket}" in str(caught.value)
    assert caught.value.remedy
    assert "DOE" not in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.mark.parametrize("way", WAYS)
def test_wrong_credentials_are_reported_by_kind(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    bucket = s3.bucket()
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        expect_error(way, bucket, SettingError, "secret key is wrong.*AWS_SECRET_ACCESS_KEY")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        expect_error(way, bucket, SettingError, "access key is unknown")
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        expect_error(way, bucket, SettingError, "no credentials")
        patch.setenv("AWS_PROFILE", "no-such-profile")
        expect_error(way, bucket, SettingError, "ProfileNotFound")


@pytest.mark.parametrize("way", WAYS)
def test_a_missing_bucket_is_named(s3: S3Server, way: str) -> None:
    expect_error(way, "no-such-bucket", SettingError, "no such bucket")


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_server_is_a_store_error(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("radnet_lake.storage.s3.SERVER_TIMEOUT_S", 2.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        expect_error(way, "bucket", StoreError, "no answer")


@pytest.mark.parametrize("way", ["list_unit", "read_range", "create"])
def test_a_server_that_does_not_answer_is_a_store_error(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("radnet_lake.storage.s3.SERVER_TIMEOUT_S", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        expect_error(way, "bucket", StoreError, "no answer")


def test_credentials_come_from_a_profile_too(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "x", b"data")
    (tmp_path / "credentials").write_text(
        f"[pacs]\naws_access_key_id={s3.access_key}\naws_secret_access_key={s3.secret_key}\n"
    )
    (tmp_path / "config").write_text(
        f"[profile pacs]\nendpoint_url={s3.endpoint}\nregion=eu-west-3\n"
    )
    for name in s3.env:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "pacs")
    assert [data for _, data in sources.read_heads(list_all(f"s3://{bucket}"), lambda: 10)] == [
        b"data"
    ]


def test_a_server_killed_while_heads_are_read_ends_the_run_and_a_restart_goes_on(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radnet_lake.storage.s3.SERVER_TIMEOUT_S", 2.0)
    bucket = s3.bucket()
    lake = Folder(f"s3://{bucket}")
    for number in range(120):
        lake.write(f"{number:03}", b"x" * 1000)
    entries = list_all(f"s3://{bucket}")
    heads = sources.read_heads(entries, lambda: 100)
    assert next(heads)[1] == b"x" * 100
    s3.stop()
    try:
        with pytest.raises(StoreError, match="no answer"):
            list(heads)
        with pytest.raises(StoreError, match="no answer"):
            lake.names()
    finally:
        s3.start()
    assert all(data == b"x" * 100 for _, data in sources.read_heads(entries, lambda: 100))
