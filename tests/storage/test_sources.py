"""What a harvest relies on in listing and reading local sources: nothing lost, nothing doubled."""

import os
import socket
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from listing import ODD_NAMES, list_all

from radnet_lake.errors import SettingError
from radnet_lake.schema import REJECT_REASONS
from radnet_lake.storage import sources
from radnet_lake.storage.sources import Entry, ReadFailure


def reject_reasons(source: Path) -> dict[str, str | None]:
    return {Path(entry.uri).name: entry.reject_reason for entry in list_all(str(source))}


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
    assert len(sources.list_units(str(tmp_path / "archive"), at_least)) >= expect_units


def test_every_listed_local_uri_leads_to_its_bytes(
    tmp_path: Path, archive: dict[str, bytes]
) -> None:
    for entry in list_all(str(tmp_path / "archive")):
        assert sources.read_range(entry.uri, 0, 1000) == archive[entry.uri]
        assert entry.size_bytes == len(archive[entry.uri])
        status = Path(sources.local_path(entry.uri)).stat()
        assert entry.modified == status.st_mtime_ns // 1000
        assert entry.etag is None
        with sources.open_file(entry.uri) as file:
            assert file.read() == archive[entry.uri]


def test_listing_is_sorted_and_depth_first(tmp_path: Path) -> None:
    for name in ["b/2", "b/1", "a", "c/x/1", "c/w"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    [unit] = sources.list_units(str(tmp_path), at_least=1)
    names = [entry.uri.removeprefix(f"{tmp_path}/") for entry in sources.list_unit(unit)]
    assert names == ["a", "b/1", "b/2", "c/w", "c/x/1"]


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(b"1234")
    assert [(e.uri, e.size_bytes) for e in list_all(str(path))] == [(str(path), 4)]


def test_a_folder_with_too_many_names_stays_one_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_NAMES_SCANNED", 10)
    monkeypatch.setattr(sources, "FOLDER_CHUNK", 7)
    for number in range(40):
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}" / "x").touch()
    assert len(sources.list_units(str(tmp_path))) == 1
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
            (entry.uri.removeprefix(f"{source}/"), entry.reject_reason)
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
    assert reject_reasons(source) == {"to_x": "link_cycle"}


def test_pipes_sockets_and_devices_are_reported_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path must be short
        listener.bind("socket")
        os.chdir(here)
        entries = list_all(str(tmp_path))
    assert {entry.reject_reason for entry in entries} == {"not_a_file"}
    assert len(entries) == 3
    read = [result for _, result in sources.read_heads(entries, lambda: 100)]
    assert all(isinstance(result, ReadFailure) for result in read)


def test_a_pipe_that_took_a_files_place_does_not_hang_the_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="seek"):
        sources.read_range(str(tmp_path / "pipe"), 0, 100)


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
        assert {Path(entry.uri).name: entry.reject_reason for entry in entries} == expected
    assert {entry.reject_reason for entry in entries if entry.reject_reason} <= set(REJECT_REASONS)


def test_folders_nested_without_end_are_reported_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_DEPTH", 5)
    (tmp_path / "/".join("abcdefgh")).mkdir(parents=True)
    [unit] = sources.list_units(str(tmp_path), at_least=1)
    assert [entry.reject_reason for entry in sources.list_unit(unit)] == ["unreadable"]


def test_a_source_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no-such-folder"):
        sources.list_units(str(tmp_path / "no-such-folder"))
    with pytest.raises(SettingError):
        sources.list_units("/dev/null")


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
def test_what_a_user_writes_becomes_one_uri_that_stays(text: str, uri: str) -> None:
    assert sources.absolute_uri(text) == uri
    assert sources.absolute_uri(uri) == uri


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.absolute_uri("x/./y") == f"{tmp_path}/x/y"


@pytest.mark.parametrize("text", ["gs://bucket/x", "http://host/x", "s3://", "s3:///x", "", "a\0b"])
def test_unknown_stores_are_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(SettingError, match="s3://"):
        sources.absolute_uri(text)


def test_local_ranges_are_short_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    assert sources.read_range(str(path), 90, 50) == bytes(range(90, 100))
    assert sources.read_range(str(path), 100, 5) == b""
    assert sources.read_range(str(path), 5, 0) == b""


def test_local_heads_come_in_order_with_their_errors(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}").write_bytes(b"%d" % number * 100)
    entries = list_all(str(tmp_path))
    (tmp_path / "05").unlink()
    (tmp_path / "06").unlink()
    (tmp_path / "06").mkdir()
    # /proc/self/mem exists and cannot be read at 0, even by root.
    entries.append(Entry("/proc/self/mem", 100, 0, None, None))
    lengths = iter(range(1, 1000))
    read = list(sources.read_heads(entries, lambda: next(lengths)))
    assert [entry for entry, _ in read] == entries
    reasons = {Path(e.uri).name: r.reason for e, r in read if isinstance(r, ReadFailure)}
    assert reasons == {"05": "vanished", "06": "unreadable", "mem": "unreadable"}
    assert read[9][1] == b"9" * 10


def test_errors_of_a_file_never_name_its_path(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "DOE^JOHN"), "/proc/self/mem"):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            sources.read_range(uri, 0, 10)
        assert "DOE" not in str(caught.value)
        assert "proc" not in str(caught.value)
        assert caught.value.filename is None
        error = sources.classify_os_error(caught.value)
        assert "DOE" not in error.detail


@pytest.mark.long
def test_listing_120_000_names_needs_little_memory(tmp_path: Path) -> None:
    for first in range(2):
        (tmp_path / f"flat{first}").mkdir()
        for number in range(60_000):
            os.mknod(tmp_path / f"flat{first}" / f"IM{number:06}")
    [unit] = sources.list_units(str(tmp_path), at_least=1)
    tracemalloc.start()
    count = sum(1 for _ in sources.list_unit(unit))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 120_000
    assert peak < 10_000_000
