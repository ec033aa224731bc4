"""What a lake relies on in its folder, on disk and on a real S3 server: whole files or none."""

import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from s3_server import S3Server

from radnet_lake.errors import MissingFileError, StoreError
from radnet_lake.storage.folder import Folder


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    """One for all tests here: a new one takes the server a moment."""
    return s3.bucket()


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An output folder, on disk and on S3 in turn."""
    if request.param == "local":
        return Folder(str(tmp_path / "lake with space"))
    return Folder(f"s3://{request.getfixturevalue('bucket')}/{tmp_path.name}/lake with space")


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


def test_a_folder_is_empty_until_a_file_is_in_it(folder: Folder) -> None:
    assert folder.is_empty()
    assert folder.create("_lake/format.json", b"{}")
    assert not folder.is_empty()
    folder.delete(["_lake/format.json"])
    assert folder.is_empty()


def test_what_a_writer_killed_at_its_first_file_left_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "left").write_bytes(b"half")
    (tmp_path / "_lake" / "log").mkdir(parents=True)
    folder = Folder(str(tmp_path))
    assert folder.is_empty()
    (tmp_path / "_lake" / "log" / "notes").touch()
    assert not folder.is_empty()


def test_a_file_or_a_folder_that_cannot_be_read_is_not_taken_for_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Not a directory"):
        Folder(str(tmp_path / "file")).is_empty()

    def refuse(path: str) -> None:
        # Root, whom no permission stops, may run this test.
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        Folder(str(tmp_path)).is_empty()


def test_a_bucket_that_others_fill_is_not_empty_but_a_folder_mark_is_no_file(
    s3: S3Server, bucket: str
) -> None:
    s3.put(bucket, "lake-of-others/x", b"1")
    s3.put(bucket, "lake/", b"")
    assert Folder(f"s3://{bucket}/lake").is_empty()
    assert not Folder(f"s3://{bucket}/lake-of-others").is_empty()
    assert not Folder(f"s3://{bucket}").is_empty()


def test_a_missing_file_is_named(folder: Folder) -> None:
    with pytest.raises(MissingFileError, match=r"manifests/7\.json"):
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
    folder.write("t/1.parquet", buffer.getbuffer())
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
