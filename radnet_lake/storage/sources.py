"""Sources: list and read them with the same words, whether a local folder or s3://.

A file's URI is what the lake keeps. Local: the absolute path as it is, or `file://` and
percent-encoded bytes where the path is not UTF-8. S3: `s3://bucket/key` with the key as it is,
never normalised.

Reading one object raises OSError: FileNotFoundError when it is gone, else it alone cannot be read;
`read_trouble` turns that into a reject reason. A store that gives no answer raises StoreError, a
setting that the store refuses SettingError. No message holds a path or key below a source.
"""

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from radnet_lake.errors import SettingError
from radnet_lake.storage import s3
from radnet_lake.storage.s3 import READS_UNDER_WAY, is_s3, split_uri

T = TypeVar("T")

FOLDER_CHUNK = 10_000
"""Names of one folder that are held and sorted at a time."""
FOLDER_LOOK = 50_000
"""Names of one folder that list_units looks at; a longer folder stays one unit."""
HEADS_HELD = 2 * READS_UNDER_WAY
"""Heads that read_heads has asked S3 for and not yet given out."""
MAX_DEPTH = 256
"""Folders within folders; below, the folder is reported as unreadable."""
MAX_LINKS = 8
"""Links out of the source, one leading to the next; past that, reported as link_cycle."""


class Entry(NamedTuple):
    """A listed file, or what was met in place of one.

    `modified` is microseconds since the epoch, UTC; `etag` is None on disk; `trouble` is None or
    one of schema.REJECT_REASONS known without opening: not_a_file, link_cycle, unreadable.
    """

    uri: str
    size_bytes: int
    modified: int
    etag: str | None
    trouble: str | None


class Unit(NamedTuple):
    """A part of a source that one worker lists: a tree, one folder without those in it, a file.

    `passed` holds real paths as URIs: the source's, those of the folders that links led out of,
    and the unit's own; empty on S3.
    """

    uri: str
    reach: Literal["tree", "folder", "file"]
    passed: tuple[str, ...]


class ReadTrouble(NamedTuple):
    """Why one object gave no bytes: `reason` vanished or unreadable, `detail` technical words."""

    reason: str
    detail: str


def absolute_uri(text: str) -> str:
    """Turn the user's word for a source or a lake into its URI, without a trailing slash.

    Raises SettingError for another scheme than s3:// and file://, and for an empty name.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme and scheme[1].lower() == "s3":
        bucket, _, prefix = text[5:].partition("/")
        if not bucket:
            raise SettingError("no bucket is named", text, "write s3://bucket/prefix")
        return f"s3://{bucket}/{prefix}".rstrip("/")
    if scheme and scheme[1].lower() != "file":
        remedy = "give a local path or s3://bucket/prefix"
        raise SettingError(f"{scheme[1]}:// is not a known kind of store", text, remedy)
    path = local_path(text) if scheme else text
    if not path or "\0" in path:
        raise SettingError("not a path", repr(text), "give a local path or s3://bucket/prefix")
    return local_uri(os.path.normpath(Path(path).expanduser().absolute()))


def local_uri(path: str) -> str:
    """The URI of an absolute local path, whatever its bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return path


def local_path(uri: str) -> str:
    """The path that a local URI names, for the functions of `os`."""
    return os.fsdecode(unquote_to_bytes(uri[7:])) if uri.startswith("file://") else uri


def list_units(source: str, at_least: int = 64) -> list[Unit]:
    """Divide a source into units that together cover it exactly once.

    Looks at folders breadth first until there are about `at_least` units. A wide folder can give
    many more, some of them small: hand several to a worker. Memory is bounded by FOLDER_LOOK names.

    Raises SettingError where the source is not there or cannot be listed, StoreError where its
    store gives no answer.
    """
    source = absolute_uri(source)
    units = _split_prefix(source, at_least) if is_s3(source) else _split_folder(source, at_least)
    return sorted(units)


def list_unit(unit: Unit) -> Iterator[Entry]:
    """List the files of a unit, depth first, streaming.

    S3 gives key order; a local folder is sorted by name, FOLDER_CHUNK names at a time. Links to
    files are followed; links to folders too, unless the folder lies in the source (its files are
    listed under their own path) or above the link (a link_cycle).
    """
    if is_s3(unit.uri):
        yield from _list_prefix(unit)
    elif unit.reach == "file":
        path = local_path(unit.uri)
        try:
            status = Path(path).stat()
        except OSError:
            yield _troubled(path, "unreadable")
        else:
            yield _entry_of(path, status)
    else:
        yield from _list_folder(unit)


def read_range(uri: str, start: int, length: int) -> bytes:
    """Read at most `length` bytes from byte `start`; fewer, or none, where the file ends before.

    Raises OSError for this one object, StoreError or SettingError for its store.
    """
    if length <= 0:
        return b""
    if is_s3(uri):
        return s3.read_range(uri, start, length)
    descriptor = _open_local(uri)
    parts = []
    try:
        while length > 0 and (part := os.pread(descriptor, length, start)):
            parts.append(part)
            start, length = start + len(part), length - len(part)
    except OSError as error:
        raise _without_path(error) from None
    finally:
        os.close(descriptor)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_heads(
    entries: Iterable[Entry], length: Callable[[], int]
) -> Iterator[tuple[Entry, bytes | ReadTrouble]]:
    """Read the first bytes of many files, in the order given.

    length: says how many bytes, asked again before each read. On S3 many reads are under way at
    once, in a bounded window; on disk they come one after the other. Raises StoreError or
    SettingError where a store does not serve at all.
    """
    for is_remote, some in groupby(entries, key=lambda entry: is_s3(entry.uri)):
        if is_remote:
            calls = (partial(_read_entry, entry, length()) for entry in some)
            yield from run_ahead(calls, HEADS_HELD)
        else:
            for entry in some:
                yield _read_entry(entry, length())


def run_ahead(calls: Iterable[Callable[[], T]], most_held: int = READS_UNDER_WAY) -> Iterator[T]:
    """Results of calls, in order; READS_UNDER_WAY run at once, and `most_held` results are held."""
    window: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(READS_UNDER_WAY)
    try:
        for call in calls:
            window.append(pool.submit(call))
            if len(window) == most_held:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_trouble(error: OSError) -> ReadTrouble:
    """Say as a reject reason why one object could not be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ReadTrouble("vanished", "gone when it was to be read")
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return ReadTrouble("unreadable", f"{name}: {os.strerror(error.errno) if error.errno else ''}")


def open_file(uri: str) -> BinaryIO:
    """Open a file for reading and seeking, as archives need.

    Raises as read_range does, on opening and on each read.
    """
    if is_s3(uri):
        return s3.open_object(uri)
    return os.fdopen(_open_local(uri), "rb")


def _open_local(uri: str) -> int:
    # O_NONBLOCK: a pipe that took a file's place since the listing must not hang the open.
    try:
        return os.open(local_path(uri), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _without_path(error) from None


def _without_path(error: OSError) -> OSError:
    # The path may name a patient. OSError picks FileNotFoundError and the like by the number.
    return OSError(error.errno, os.strerror(error.errno or errno.EIO))


def _entry_of(path: str, status: os.stat_result) -> Entry:
    modified = status.st_mtime_ns // 1000
    trouble = None if stat.S_ISREG(status.st_mode) else "not_a_file"
    return Entry(local_uri(path), status.st_size, modified, None, trouble)


def _troubled(path: str, reason: str) -> Entry:
    try:
        status = Path(path).lstat()
    except OSError:
        return Entry(local_uri(path), 0, 0, None, reason)
    return Entry(local_uri(path), status.st_size, status.st_mtime_ns // 1000, None, reason)


class _Place(NamedTuple):
    path: str
    passed: tuple[str, ...]


def _split_folder(source: str, at_least: int) -> list[Unit]:
    path = local_path(source)
    try:
        if Path(path).is_file():
            return [Unit(source, "file", ())]
        os.scandir(path).close()
    except OSError as error:
        what = f"cannot be listed: {os.strerror(error.errno or errno.EIO)}"
        raise SettingError(what, source, "name a folder or file that can be read") from None
    root = os.path.realpath(path)
    finished: list[Unit] = []
    pending = deque([_Place(path, (root,))])
    while pending and len(finished) + len(pending) < at_least:
        place = pending.popleft()
        inner = _inner_places(place, root)
        finished.append(_unit_of(place, root, "folder" if inner else "tree"))
        pending.extend(inner)
    return finished + [_unit_of(place, root, "tree") for place in pending]


def _unit_of(place: _Place, root: str, reach: Literal["tree", "folder"]) -> Unit:
    return Unit(local_uri(place.path), reach, tuple(map(local_uri, (root, *place.passed))))


def _inner_places(place: _Place, root: str) -> list[_Place]:
    """The folders to enter; none where the folder is too long to look at, or cannot be read."""
    inner = []
    try:
        for count, item in enumerate(_read_folder(place.path)):
            if count >= FOLDER_LOOK:
                return []
            if item.is_dir() and isinstance(found := _enter(item, place, root), _Place):
                inner.append(found)
    except OSError:
        return []
    return inner


def _read_folder(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as items:
        while chunk := sorted(islice(items, FOLDER_CHUNK), key=attrgetter("name"), reverse=True):
            # An item keeps its status once that was asked for, so none is held longer than needed.
            while chunk:
                yield chunk.pop()


def _list_folder(unit: Unit) -> Iterator[Entry]:
    root, *passed = map(local_path, unit.passed)
    start = _Place(local_path(unit.uri), tuple(passed))
    stack = [(start, _read_folder(start.path))]
    while stack:
        place, items = stack[-1]
        try:
            item = next(items, None)
        except OSError as error:
            stack.pop()
            # A folder that has gone since it was seen holds nothing to report.
            if not isinstance(error, FileNotFoundError):
                yield _troubled(place.path, "unreadable")
            continue
        if item is None:
            stack.pop()
            continue
        found = _inspect(item, place, root)
        if isinstance(found, Entry):
            yield found
        elif found and unit.reach == "tree":
            if len(stack) < MAX_DEPTH:
                stack.append((found, _read_folder(found.path)))
            else:
                yield _troubled(found.path, "unreadable")


def _inspect(item: os.DirEntry[str], place: _Place, root: str) -> _Place | Entry | None:
    try:
        if item.is_dir():
            return _enter(item, place, root)
        return _entry_of(item.path, item.stat())
    except FileNotFoundError:
        return _troubled(item.path, "unreadable") if item.is_symlink() else None
    except OSError as error:
        return _troubled(item.path, "link_cycle" if error.errno == errno.ELOOP else "unreadable")


def _enter(item: os.DirEntry[str], place: _Place, root: str) -> _Place | Entry | None:
    """The folder to go into, or a link_cycle, or nothing where the folder has its own path here."""
    if not item.is_symlink():
        return _Place(item.path, (*place.passed[:-1], str(Path(place.passed[-1], item.name))))
    target = os.path.realpath(item.path)
    if len(place.passed) > MAX_LINKS or any(_lies_in(passed, target) for passed in place.passed):
        return _troubled(item.path, "link_cycle")
    return None if _lies_in(target, root) else _Place(item.path, (*place.passed, target))


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _split_prefix(source: str, at_least: int) -> list[Unit]:
    bucket, key = split_uri(source)
    finished: list[Unit] = []
    first = next(s3.list_keys(bucket, key), None)
    if key and first and first["Key"] == key:
        finished.append(Unit(source, "file", ()))
    prefix = f"{key}/" if key else ""
    if key and next(s3.list_keys(bucket, prefix), None) is None:
        if finished:
            return finished
        raise SettingError("there is no object below this prefix", source, "check it")
    pending = deque([prefix])
    while pending and len(finished) + len(pending) < at_least:
        prefix = pending.popleft()
        inner = _inner_prefixes(bucket, prefix)
        finished.append(Unit(f"s3://{bucket}/{prefix}", "folder" if inner else "tree", ()))
        pending.extend(inner)
    return finished + [Unit(f"s3://{bucket}/{prefix}", "tree", ()) for prefix in pending]


def _inner_prefixes(bucket: str, prefix: str) -> list[str]:
    """The prefixes one level down; none where there is too much to look at."""
    inner: list[str] = []
    for count, page in enumerate(s3.list_pages(bucket, prefix, "/")):
        if count >= FOLDER_LOOK // 1000:
            return []
        inner += [found["Prefix"] for found in page.get("CommonPrefixes", [])]
    return inner


def _list_prefix(unit: Unit) -> Iterator[Entry]:
    bucket, prefix = split_uri(unit.uri)
    for item in s3.list_keys(bucket, prefix, "/" if unit.reach == "folder" else ""):
        key, size = item["Key"], item["Size"]
        if unit.reach == "file" and key != prefix:
            return
        # Consoles and some tools write these to show an empty folder.
        if key.endswith("/") and size == 0:
            continue
        modified = round(item["LastModified"].timestamp() * 1_000_000)
        yield Entry(f"s3://{bucket}/{key}", size, modified, item["ETag"].strip('"'), None)


def _read_entry(entry: Entry, length: int) -> tuple[Entry, bytes | ReadTrouble]:
    if entry.trouble:
        return entry, ReadTrouble(entry.trouble, "not opened")
    if is_s3(entry.uri) and entry.size_bytes == 0:
        return entry, b""
    try:
        return entry, read_range(entry.uri, 0, length)
    except OSError as error:
        return entry, read_trouble(error)
