"""What a harvest relies on in the store: nothing lost or doubled, whole files, clear errors."""

import io
import os
import pickle
import socket
import threading
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from conftest import S3Server

from radnet_lake import store
from radnet_lake.errors import LakeError, RadnetLakeError, SettingError, StoreError
from radnet_lake.schema import REJECT_REASONS
from radnet_lake.store import Entry, Folder, ReadTrouble, Unit

ODD_NAMES = [
    "a b",
    "line\nbreak",
    "100%",
    "%20",
    "Größe",
    "雪.dcm",
    "tab\there",
    "q'u\"o&t<e>",
    "~*()+",
]


def list_all(source: str, at_least: int = 64) -> list[Entry]:
    """Every entry of a source, listed unit by unit in threads, from units that crossed a wire."""
    units: list[Unit] = pickle.loads(pickle.dumps(store.list_units(source, at_least)))
    with ThreadPoolExecutor(4) as pool:
        return [
            entry for part in pool.map(lambda u: list(store.list_unit(u)), units) for entry in part
        ]


def troubles(source: Path) -> dict[str, str | None]:
    return {Path(entry.uri).name: entry.trouble for entry in list_all(str(source))}


@pytest.fixture
def archive(tmp_path: Path) -> dict[str, bytes]:
    """Three levels of folders with odd names; URI of each file -> content."""
    files = {}
    for first in ["p1", "p2", *ODD_NAMES]:
        for second in ["s1", "line\nbreak"]:
            for third in ["1.dcm", "ü 2", "%41"]:
                path = tmp_path / "archive" / first / second / third
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(str(path.relative_to(tmp_path)).encode())
                files[str(path)] = path.read_bytes()
    for folder in ["", "p1", "p2/s1"]:
        path = tmp_path / "archive" / folder / "beside.dcm"
        path.write_bytes(b"beside")
        files[str(path)] = b"beside"
    raw = os.fsencode(tmp_path) + b"/archive/p1/\xff\xfe latin \xe9"
    Path(os.fsdecode(raw)).mkdir()
    Path(os.fsdecode(raw + b"/\xe4.dcm")).write_bytes(b"not utf-8")
    encoded = str(tmp_path).replace("%", "%25")
    files[f"file://{encoded}/archive/p1/%FF%FE%20latin%20%E9/%E4.dcm"] = b"not utf-8"
    return files


@pytest.mark.parametrize("at_least", [1, 2, 5, 20, 64, 1000])
def test_units_of_a_folder_cover_it_exactly_once(
    tmp_path: Path, archive: dict[str, bytes], at_least: int
) -> None:
    found = Counter(entry.uri for entry in list_all(str(tmp_path / "archive"), at_least))
    assert found == Counter(list(archive))
    expect_units = min(at_least, 34)
    assert len(store.list_units(str(tmp_path / "archive"), at_least)) >= expect_units


def test_every_listed_local_uri_leads_to_its_bytes(
    tmp_path: Path, archive: dict[str, bytes]
) -> None:
    for entry in list_all(str(tmp_path / "archive")):
        assert store.read_range(entry.uri, 0, 1000) == archive[entry.uri]
        assert entry.size_bytes == len(archive[entry.uri])
        status = Path(store.local_path(entry.uri)).stat()
        assert entry.modified == status.st_mtime_ns // 1000
        assert entry.etag is None
        with store.open_file(entry.uri) as file:
            assert file.read() == archive[entry.uri]


def test_listing_is_sorted_and_depth_first(tmp_path: Path) -> None:
    for name in ["b/2", "b/1", "a", "c/x/1", "c/w"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    [unit] = store.list_units(str(tmp_path), at_least=1)
    names = [entry.uri.removeprefix(f"{tmp_path}/") for entry in store.list_unit(unit)]
    assert names == ["a", "b/1", "b/2", "c/w", "c/x/1"]


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(b"1234")
    assert [(e.uri, e.size_bytes) for e in list_all(str(path))] == [(str(path), 4)]


def test_a_folder_too_long_to_look_at_stays_one_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "FOLDER_LOOK", 10)
    monkeypatch.setattr(store, "FOLDER_CHUNK", 7)
    for number in range(40):
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}" / "x").touch()
    assert len(store.list_units(str(tmp_path))) == 1
    assert len({entry.uri for entry in list_all(str(tmp_path))}) == 40


def test_links_into_the_source_give_no_doubles_and_cycles_are_reported(tmp_path: Path) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    (source / "real" / "deep").mkdir(parents=True)
    (source / "real" / "deep" / "1.dcm").touch()
    outside.mkdir()
    (outside / "2.dcm").touch()
    (source / "again").symlink_to(source / "real")
    (source / "real" / "deep" / "up").symlink_to(source / "real")
    (source / "real" / "above").symlink_to(tmp_path)
    (source / "self").symlink_to("self")
    (source / "out").symlink_to(outside)
    (outside / "back").symlink_to(source)
    (outside / "in").symlink_to(source / "real" / "deep")
    (source / "file").symlink_to(outside / "2.dcm")
    for at_least in (1, 64):
        found = {
            (entry.uri.removeprefix(f"{source}/"), entry.trouble)
            for entry in list_all(str(source), at_least)
        }
        assert found == {
            ("real/deep/1.dcm", None),
            ("real/deep/up", "link_cycle"),
            ("real/above", "link_cycle"),
            ("self", "link_cycle"),
            ("out/2.dcm", None),
            ("out/back", "link_cycle"),
            ("file", None),
        }


def test_links_that_lead_around_outside_the_source_end(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("x", "y"):
        (tmp_path / name / "sub").mkdir(parents=True)
    (source / "to_x").symlink_to(tmp_path / "x")
    (tmp_path / "x" / "sub" / "to_y").symlink_to(tmp_path / "y")
    (tmp_path / "y" / "sub" / "to_x").symlink_to(tmp_path / "x")
    assert troubles(source) == {"to_x": "link_cycle"}


def test_pipes_sockets_and_devices_are_reported_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path must be short
        listener.bind("socket")
        os.chdir(here)
        entries = list_all(str(tmp_path))
    assert {entry.trouble for entry in entries} == {"not_a_file"}
    assert len(entries) == 3
    read = [result for _, result in store.read_heads(entries, 100)]
    assert all(isinstance(result, ReadTrouble) for result in read)


def test_a_pipe_that_took_a_files_place_does_not_hang_the_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="seek"):
        store.read_range(str(tmp_path / "pipe"), 0, 100)


def test_broken_links_and_unreadable_folders_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "1.dcm").touch()
    real_scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        # Root, whom no permission stops, may run this test.
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    expected = {"broken": "unreadable", "closed": "unreadable", "1.dcm": None}
    for at_least in (1, 64):
        entries = list_all(str(tmp_path), at_least)
        assert {Path(entry.uri).name: entry.trouble for entry in entries} == expected
    assert {entry.trouble for entry in entries if entry.trouble} <= set(REJECT_REASONS)


def test_folders_nested_without_end_are_reported_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_DEPTH", 5)
    (tmp_path / "/".join("abcdefgh")).mkdir(parents=True)
    [unit] = store.list_units(str(tmp_path), at_least=1)
    assert [entry.trouble for entry in store.list_unit(unit)] == ["unreadable"]


def test_a_source_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no-such-folder"):
        store.list_units(str(tmp_path / "no-such-folder"))
    with pytest.raises(SettingError):
        store.list_units("/dev/null")


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("/data/x/", "/data/x"),
        ("/data/../y//z", "/y/z"),
        ("/with space/%41", "/with space/%41"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a b/../c/", "s3://bucket/a b/../c"),
        ("file:///a%20b", "/a b"),
        ("file:///a%FF", "file:///a%FF"),
        ("/a\udcff", "file:///a%FF"),
    ],
)
def test_a_users_word_becomes_one_uri_that_stays(text: str, uri: str) -> None:
    assert store.absolute_uri(text) == uri
    assert store.absolute_uri(uri) == uri


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.absolute_uri("x/./y") == f"{tmp_path}/x/y"


@pytest.mark.parametrize("text", ["gs://bucket/x", "http://host/x", "s3://", "s3:///x", "", "a\0b"])
def test_unknown_stores_are_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(SettingError, match="s3://"):
        store.absolute_uri(text)


def test_local_ranges_are_short_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    assert store.read_range(str(path), 90, 50) == bytes(range(90, 100))
    assert store.read_range(str(path), 100, 5) == b""
    assert store.read_range(str(path), 5, 0) == b""


def test_local_heads_come_in_order_with_their_troubles(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}").write_bytes(b"%d" % number * 100)
    entries = list_all(str(tmp_path))
    (tmp_path / "05").unlink()
    (tmp_path / "06").unlink()
    (tmp_path / "06").mkdir()
    # /proc/self/mem exists and cannot be read at 0, even by root.
    entries.append(Entry("/proc/self/mem", 100, 0, None, None))
    lengths = iter(range(1, 1000))
    read = list(store.read_heads(entries, lambda: next(lengths)))
    assert [entry for entry, _ in read] == entries
    reasons = {Path(e.uri).name: r.reason for e, r in read if isinstance(r, ReadTrouble)}
    assert reasons == {"05": "vanished", "06": "unreadable", "mem": "unreadable"}
    assert read[9][1] == b"9" * 10


def test_errors_of_a_file_never_name_its_path(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "DOE^JOHN"), "/proc/self/mem"):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            store.read_range(uri, 0, 10)
        assert "DOE" not in str(caught.value)
        assert "proc" not in str(caught.value)
        assert caught.value.filename is None
        trouble = store.read_trouble(caught.value)
        assert "DOE" not in trouble.detail


def test_listing_200_000_names_needs_little_memory(tmp_path: Path) -> None:
    for first in range(2):
        (tmp_path / f"flat{first}").mkdir()
        for number in range(100_000):
            os.mknod(tmp_path / f"flat{first}" / f"IM{number:06}")
    [unit] = store.list_units(str(tmp_path), at_least=1)
    tracemalloc.start()
    count = sum(1 for _ in store.list_unit(unit))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 200_000
    assert peak < 10_000_000


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An output folder, on disk and on S3 in turn."""
    if request.param == "local":
        return Folder(str(tmp_path / "lake with space"))
    server = request.getfixturevalue("s3")
    return Folder(f"s3://{server.bucket()}/lake with space")


def test_a_written_file_is_read_back_listed_and_deleted(folder: Folder) -> None:
    assert folder.names() == []
    folder.write("a/collection=x y/modality=CT/1.parquet", b"one")
    folder.write("b.json", b"old")
    folder.write("b.json", b"two")
    assert folder.read("b.json") == b"two"
    assert folder.names() == ["a/collection=x y/modality=CT/1.parquet", "b.json"]
    assert folder.names("a/coll") == ["a/collection=x y/modality=CT/1.parquet"]
    assert folder.names("nothing/here") == []
    folder.delete(["b.json", "never-there"])
    assert folder.names() == ["a/collection=x y/modality=CT/1.parquet"]
    assert pickle.loads(pickle.dumps(folder)).names() == folder.names()


def test_a_missing_file_is_named(folder: Folder) -> None:
    with pytest.raises(LakeError, match=r"manifests/7\.json"):
        folder.read("manifests/7.json")


def test_of_eight_writers_exactly_one_creates_a_file(folder: Folder) -> None:
    contents = [bytes([number]) * 300_000 for number in range(8)]
    for attempt in range(3):
        together = threading.Barrier(8)

        def create(
            content: bytes, name: str = f"runs/{attempt}", gate: threading.Barrier = together
        ) -> bool:
            gate.wait()
            return folder.create(name, content)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, contents))
        assert sum(won) == 1
        assert folder.read(f"runs/{attempt}") == contents[won.index(True)]
        assert folder.create(f"runs/{attempt}", b"late") is False


def test_readers_see_an_old_or_a_new_file_but_no_half_one(folder: Folder) -> None:
    contents = {bytes([number]) * 400_000 for number in range(2)}
    folder.write("x", min(contents))
    done = threading.Event()

    def rewrite() -> None:
        for _ in range(10):
            for content in contents:
                folder.write("x", content)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(rewrite)
        while not done.is_set() and not writing.done():
            assert folder.read("x") in contents
            assert folder.names() == ["x"]
        writing.result()


def test_pyarrow_reads_and_writes_the_folder(folder: Folder) -> None:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"n": [1, 2, 3]}), buffer)
    folder.write("t/1.parquet", buffer.getvalue())
    filesystem, base = folder.filesystem()
    dataset = pyarrow.dataset.dataset([f"{base}/t/1.parquet"], filesystem=filesystem)
    assert dataset.to_table()["n"].to_pylist() == [1, 2, 3]
    with filesystem.open_output_stream(f"{base}/t/2.parquet") as out:
        out.write(buffer.getvalue())
    assert folder.read("t/2.parquet") == buffer.getvalue()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("x", b"old")
    with pytest.raises(TypeError):
        folder.write("x", "text")  # type: ignore[arg-type]
    (tmp_path / "taken").write_bytes(b"a file, not a folder")
    with pytest.raises(StoreError, match="taken"):
        folder.write("taken/y", b"new")
    assert folder.read("x") == b"old"
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_what_a_killed_writer_left_is_not_seen_and_is_swept(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("x", b"1")
    left = tmp_path / ".tmp" / "left"
    left.write_bytes(b"half")
    assert folder.names() == ["x"]
    folder.sweep()
    assert left.exists()
    folder.sweep(older_than_s=-1)
    assert not left.exists()
    assert folder.local_path("x") == str(tmp_path / "x")


@pytest.mark.parametrize("at_least", [1, 5, 64])
def test_units_of_a_bucket_cover_it_exactly_once(s3: S3Server, at_least: int) -> None:
    bucket = s3.bucket()
    keys = [f"in/{a}/{b}/{c}" for a in ["p1", *ODD_NAMES] for b in ("s 1", "s%2") for c in "12"]
    keys += ["in/beside", "in/p1/beside", "in/a//b", "in/p1/s 1/deep/er/x"]
    for key in keys:
        s3.put(bucket, key, key.encode())
    s3.put(bucket, "in/marker/", b"")
    s3.put(bucket, "inside", b"another prefix")
    found = list_all(f"s3://{bucket}/in/", at_least)
    listed = [entry.uri.removeprefix(f"s3://{bucket}/") for entry in found]
    # SeaweedFS itself stores a//b as a/b.
    assert Counter(listed) == Counter(key.replace("a//b", "a/b") for key in keys)
    assert all(entry.etag and entry.modified > 1.7e15 for entry in found)
    for entry, data in store.read_heads(found, 1000):
        key = entry.uri.removeprefix(f"s3://{bucket}/")
        assert data == key.replace("in/a/b", "in/a//b").encode()
        assert entry.size_bytes == len(data)
    assert len(list_all(f"s3://{bucket}")) == len(keys) + 1
    assert len(list_all(f"s3://{bucket}/in/beside")) == 1


def test_a_listed_key_order_and_pages_beyond_one(s3: S3Server) -> None:
    bucket = s3.bucket()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Folder(f"s3://{bucket}").write(f"x/{n:04}", b"."), range(1100)))
    [unit] = store.list_units(f"s3://{bucket}/x", at_least=1)
    uris = [entry.uri for entry in store.list_unit(unit)]
    assert uris == [f"s3://{bucket}/x/{n:04}" for n in range(1100)]
    folder = Folder(f"s3://{bucket}/x")
    folder.delete(folder.names())
    assert folder.names() == []


@pytest.mark.parametrize("key", ["plain/x.dcm", "odd\nkey", "Größe 100%/+&?#"])
def test_ranges_of_an_object_are_short_at_its_end(s3: S3Server, key: str) -> None:
    bucket = s3.bucket()
    s3.put(bucket, key, bytes(range(100)))
    uri = f"s3://{bucket}/{key}"
    assert store.read_range(uri, 0, 10) == bytes(range(10))
    assert store.read_range(uri, 90, 50) == bytes(range(90, 100))
    assert store.read_range(uri, 100, 5) == b""
    s3.put(bucket, key, b"")
    assert store.read_range(uri, 0, 5) == b""
    with store.open_file(uri) as file:
        assert file.read() == b""


def test_heads_of_objects_come_in_order_with_their_troubles(s3: S3Server) -> None:
    bucket = s3.bucket()
    lake = Folder(f"s3://{bucket}")
    for number in range(150):
        lake.write(f"{number:03}", b"" if number == 7 else b"%03d" % number * 50)
    entries = list_all(f"s3://{bucket}")
    lake.delete(["005", "149"])
    read = list(store.read_heads(iter(entries), 6))
    assert [entry for entry, _ in read] == entries
    for number, (_, result) in enumerate(read):
        if number in (5, 149):
            assert isinstance(result, ReadTrouble)
            assert result.reason == "vanished"
        else:
            assert result == (b"" if number == 7 else b"%03d" % number * 2)


def test_a_zip_archive_on_s3_is_read_by_seeking(s3: S3Server) -> None:
    bucket = s3.bucket()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}", os.urandom(1_500_000))
    s3.put(bucket, "a.zip", buffer.getvalue())
    with store.open_file(f"s3://{bucket}/a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 3
    with pytest.raises(FileNotFoundError):
        store.open_file(f"s3://{bucket}/none.zip")


def every_way(bucket: str) -> dict[str, object]:
    """Each kind of request there is, to see that each gives the clear error."""
    entry = Entry(f"s3://{bucket}/DOE", 10, 0, "x", None)
    folder = Folder(f"s3://{bucket}/lake")
    return {
        "list_units": lambda: store.list_units(f"s3://{bucket}"),
        "list_unit": lambda: list(store.list_unit(Unit(f"s3://{bucket}/", "tree", ()))),
        "read_range": lambda: store.read_range(entry.uri, 0, 10),
        "read odd key": lambda: store.read_range(f"s3://{bucket}/DOE\n", 0, 10),
        "read_heads": lambda: list(store.read_heads([entry] * 3, 10)),
        "open_file": lambda: store.open_file(entry.uri),
        "write": lambda: folder.write("x", b"1"),
        "create": lambda: folder.create("x", b"1"),
        "read": lambda: folder.read("x"),
        "names": lambda: folder.names(),
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
def test_wrong_credentials_are_told_apart(
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
    monkeypatch.setattr(store, "SERVER_PATIENCE_S", 2.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        expect_error(way, "bucket", StoreError, "no answer")


@pytest.mark.parametrize("way", ["list_unit", "read_range", "create"])
def test_a_server_that_says_nothing_is_a_store_error(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(store, "SERVER_PATIENCE_S", 2.0)
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
    assert [data for _, data in store.read_heads(list_all(f"s3://{bucket}"), 10)] == [b"data"]


def test_a_server_killed_while_heads_are_read_ends_the_run_and_a_restart_goes_on(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "SERVER_PATIENCE_S", 4.0)
    server = S3Server(tmp_path / "own")
    server.start()
    try:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket()
        lake = Folder(f"s3://{bucket}")
        for number in range(120):
            lake.write(f"{number:03}", b"x" * 1000)
        entries = list_all(f"s3://{bucket}")
        heads = store.read_heads(entries, 100)
        assert next(heads)[1] == b"x" * 100
        server.stop()
        with pytest.raises(StoreError, match="no answer"):
            list(heads)
        with pytest.raises(StoreError, match="no answer"):
            lake.names()
        server.start()
        assert all(data == b"x" * 100 for _, data in store.read_heads(entries, 100))
    finally:
        server.stop()
