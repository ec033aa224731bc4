"""Takes a local folder or an s3:// prefix, gives its files (`Entry`) and their bytes.

The lake stores each file by its URI. Local: the absolute path unchanged, or `file://` and
percent-encoded bytes where the path is not UTF-8. S3: `s3://bucket/key` with the key unchanged,
never normalised.

A read that fails for one object only raises OSError (FileNotFoundError where it is gone);
`classify_os_error` turns it into a reject reason. A store that gives no answer raises StoreError,
a setting that the store refuses SettingError. No message holds a path or key below a source.
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
from radnet_lake.storage.s3 import CONCURRENT_READS, is_s3, split_uri

T = TypeVar("T")

FOLDER_CHUNK = 10_000
"""Names of one folder that are read into memory and sorted at a time."""
MAX_NAMES_SCANNED = 50_000
"""list_units reads at most this many names of a folder; a longer folder stays one unit."""
MAX_HEADS_BUFFERED = 2 * CONCURRENT_READS
"""File heads that read_heads has requested from S3 and not yet yielded."""
MAX_DEPTH = 256
"""Depth of nested folders; a deeper folder is reported as unreadable."""
MAX_LINKS = 8
"""Chained links that leave the source; one more is reported as link_cycle."""


class Entry(NamedTuple):
    """One listed file, or another directory entry that cannot be read as a file.

    `modified` is microseconds since the epoch, UTC; `etag` is None on disk; `reject_reason` is None
    or one of schema.REJECT_REASONS known without opening: not_a_file, link_cycle, unreadable.
    """

    uri: str
    size_bytes: int
    modified: int
    etag: str | None
    reject_reason: str | None


class Unit(NamedTuple):
    """A part of a source that one worker lists.

    scope: 'tree' is a folder with all below it, 'folder' its own files only, 'file' one file.
    visited: resolved paths, as URIs, of the source, of the folders whose links were followed and
    of this unit, to stop loops of symbolic links; empty on S3.
    """

    uri: str
    scope: Literal["tree", "folder", "file"]
    visited: tuple[str, ...]


class ReadFailure(NamedTuple):
    """Why one object could not be read: `reason` vanished or unreadable, `detail` the error."""

    reason: str
    detail: str


def absolute_uri(text: str) -> str:
    """A path or URI as the user wrote it -> the absolute URI, without a trailing slash.

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
    """Absolute local path, of any bytes -> URI."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return path


def local_path(uri: str) -> str:
    """Local URI -> path, for the functions of `os`."""
    return os.fsdecode(unquote_to_bytes(uri[7:])) if uri.startswith("file://") else uri


def list_units(source: str, at_least: int = 64) -> list[Unit]:
    """Divide a source into units that together cover it exactly once.

    Opens folders breadth first until there are about `at_least` units; a wide folder can give many
    more, also small ones. Memory holds at most MAX_NAMES_SCANNED names.

    Raises SettingError where the source does not exist or cannot be listed, StoreError where its
    store gives no answer.
    """
    source = absolute_uri(source)
    units = _split_prefix(source, at_least) if is_s3(source) else _split_folder(source, at_least)
    return sorted(units)


def list_unit(unit: Unit) -> Iterator[Entry]:
    """Yield the files of a unit, depth first.

    S3 gives key order; a local folder is sorted by name, FOLDER_CHUNK names at a time. Links to
    files are followed; links to folders too, unless the folder lies in the source (its files are
    listed under their own path) or contains the link (a link_cycle).
    """
    if is_s3(unit.uri):
        yield from _list_prefix(unit)
    elif unit.scope == "file":
        path = local_path(unit.uri)
        try:
            status = Path(path).stat()
        except OSError:
            yield _reject(path, "unreadable")
        else:
            yield _entry_of(path, status)
    else:
        yield from _list_folder(unit)


def read_range(uri: str, start: int, length: int) -> bytes:
    """Read `length` bytes from byte `start`; fewer, or none, where the file ends before.

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
) -> Iterator[tuple[Entry, bytes | ReadFailure]]:
    """Yield each entry with its first bytes, or with why they cannot be read, in the same order.

    length: called before each read for the number of bytes. On S3 reads run at once, with at most
    MAX_HEADS_BUFFERED results waiting. Raises StoreError or SettingError where the store fails.
    """
    for is_remote, group in groupby(entries, key=lambda entry: is_s3(entry.uri)):
        if is_remote:
            calls = (partial(_read_entry, entry, length()) for entry in group)
            yield from run_concurrently(calls, MAX_HEADS_BUFFERED)
        else:
            for entry in group:
                yield _read_entry(entry, length())


def run_concurrently(
    calls: Iterable[Callable[[], T]], max_held: int = CONCURRENT_READS
) -> Iterator[T]:
    """Yield results of calls in order: CONCURRENT_READS run at once, at most `max_held` wait."""
    window: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(CONCURRENT_READS)
    try:
        for call in calls:
            window.append(pool.submit(call))
            if len(window) == max_held:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def classify_os_error(error: OSError) -> ReadFailure:
    """Error of one object -> its reject reason and detail, without the path."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ReadFailure("vanished", "gone when it was to be read")
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return ReadFailure("unreadable", f"{name}: {os.strerror(error.errno) if error.errno else ''}")


def open_file(uri: str) -> BinaryIO:
    """Open a file for reading and seeking; opening and reading raise as read_range does."""
    if is_s3(uri):
        return s3.open_object(uri)
    return os.fdopen(_open_local(uri), "rb")


def _open_local(uri: str) -> int:
    # O_NONBLOCK, because opening a pipe that replaced the file since the listing would wait.
    try:
        return os.open(local_path(uri), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _without_path(error) from None


def _without_path(error: OSError) -> OSError:
    # Because the path may name a patient. OSError chooses its subclass by the number.
    return OSError(error.errno, os.strerror(error.errno or errno.EIO))


def _entry_of(path: str, status: os.stat_result) -> Entry:
    modified = status.st_mtime_ns // 1000
    reason = None if stat.S_ISREG(status.st_mode) else "not_a_file"
    return Entry(local_uri(path), status.st_size, modified, None, reason)


def _reject(path: str, reason: str) -> Entry:
    try:
        status = Path(path).lstat()
    except OSError:
        return Entry(local_uri(path), 0, 0, None, reason)
    return Entry(local_uri(path), status.st_size, status.st_mtime_ns // 1000, None, reason)


class _Folder(NamedTuple):
    path: str
    visited: tuple[str, ...]  # as in Unit, without the source's own path


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
    pending = deque([_Folder(path, (root,))])
    while pending and len(finished) + len(pending) < at_least:
        folder = pending.popleft()
        inner = _list_subfolders(folder, root)
        finished.append(_unit_of(folder, root, "folder" if inner else "tree"))
        pending.extend(inner)
    return finished + [_unit_of(folder, root, "tree") for folder in pending]


def _unit_of(folder: _Folder, root: str, scope: Literal["tree", "folder"]) -> Unit:
    return Unit(local_uri(folder.path), scope, tuple(map(local_uri, (root, *folder.visited))))


def _list_subfolders(folder: _Folder, root: str) -> list[_Folder]:
    """Subfolders to list; none where there are too many names, or the folder cannot be read."""
    inner = []
    try:
        for count, item in enumerate(_read_folder(folder.path)):
            if count >= MAX_NAMES_SCANNED:
                return []
            if item.is_dir() and isinstance(found := _enter(item, folder, root), _Folder):
                inner.append(found)
    except OSError:
        return []
    return inner


def _read_folder(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as items:
        while chunk := sorted(islice(items, FOLDER_CHUNK), key=attrgetter("name"), reverse=True):
            # Items are dropped one by one, because each keeps the status that it was asked for.
            while chunk:
                yield chunk.pop()


def _list_folder(unit: Unit) -> Iterator[Entry]:
    root, *visited = map(local_path, unit.visited)
    start = _Folder(local_path(unit.uri), tuple(visited))
    stack = [(start, _read_folder(start.path))]
    while stack:
        folder, items = stack[-1]
        try:
            item = next(items, None)
        except OSError as error:
            stack.pop()
            # A folder that was deleted since its parent was listed holds nothing to report.
            if not isinstance(error, FileNotFoundError):
                yield _reject(folder.path, "unreadable")
            continue
        if item is None:
            stack.pop()
            continue
        found = _inspect(item, folder, root)
        if isinstance(found, Entry):
            yield found
        elif found and unit.scope == "tree":
            if len(stack) < MAX_DEPTH:
                stack.append((found, _read_folder(found.path)))
            else:
                yield _reject(found.path, "unreadable")


def _inspect(item: os.DirEntry[str], folder: _Folder, root: str) -> _Folder | Entry | None:
    try:
        if item.is_dir():
            return _enter(item, folder, root)
        return _entry_of(item.path, item.stat())
    except FileNotFoundError:
        return _reject(item.path, "unreadable") if item.is_symlink() else None
    except OSError as error:
        return _reject(item.path, "link_cycle" if error.errno == errno.ELOOP else "unreadable")


def _enter(item: os.DirEntry[str], folder: _Folder, root: str) -> _Folder | Entry | None:
    """The folder to list, a link_cycle, or None where it is listed under its own path."""
    if not item.is_symlink():
        return _Folder(item.path, (*folder.visited[:-1], str(Path(folder.visited[-1], item.name))))
    target = os.path.realpath(item.path)
    if len(folder.visited) > MAX_LINKS or any(_lies_in(v, target) for v in folder.visited):
        return _reject(item.path, "link_cycle")
    return None if _lies_in(target, root) else _Folder(item.path, (*folder.visited, target))


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
        inner = _list_subprefixes(bucket, prefix)
        finished.append(Unit(f"s3://{bucket}/{prefix}", "folder" if inner else "tree", ()))
        pending.extend(inner)
    return finished + [Unit(f"s3://{bucket}/{prefix}", "tree", ()) for prefix in pending]


def _list_subprefixes(bucket: str, prefix: str) -> list[str]:
    """The prefixes one level down; none where there are too many names."""
    inner: list[str] = []
    for count, page in enumerate(s3.list_pages(bucket, prefix, "/")):
        if count >= MAX_NAMES_SCANNED // 1000:
            return []
        inner += [found["Prefix"] for found in page.get("CommonPrefixes", [])]
    return inner


def _list_prefix(unit: Unit) -> Iterator[Entry]:
    bucket, prefix = split_uri(unit.uri)
    for item in s3.list_keys(bucket, prefix, "/" if unit.scope == "folder" else ""):
        key, size = item["Key"], item["Size"]
        if unit.scope == "file" and key != prefix:
            return
        # S3 consoles write such objects to show an empty folder.
        if key.endswith("/") and size == 0:
            continue
        modified = round(item["LastModified"].timestamp() * 1_000_000)
        yield Entry(f"s3://{bucket}/{key}", size, modified, item["ETag"].strip('"'), None)


def _read_entry(entry: Entry, length: int) -> tuple[Entry, bytes | ReadFailure]:
    if entry.reject_reason:
        return entry, ReadFailure(entry.reject_reason, "not opened")
    if is_s3(entry.uri) and entry.size_bytes == 0:
        return entry, b""
    try:
        return entry, read_range(entry.uri, 0, length)
    except OSError as error:
        return entry, classify_os_error(error)
