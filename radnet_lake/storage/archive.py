"""Takes a zip, tar or gzip file, yields its members and those of archives in it, without unpacking.

Each limit of `Limits` holds for the outer archive and all inner ones together. A member that cannot
be read carries an error, so that it becomes a reject row. An OSError of the file itself, or of the
temporary folder, is raised, because it is no property of the archive: the file is tried again.

Not libarchive or stream-unzip, because hostile archives need every one of these limits, and members
of a zip file on S3 are read in ranges.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from radnet_lake.storage.archive_stream import (
    MIB,
    ArchiveError,
    Budget,
    Gunzip,
    Item,
    Limits,
    Stream,
)
from radnet_lake.storage.archive_tar import list_tar
from radnet_lake.storage.archive_zip import list_zip

__all__ = ["ArchiveError", "Limits", "Member", "archive_kind", "list_members"]

HEAD_BYTES = 512
"""A tar header; the other magic numbers of nested archives lie within it."""
MAX_NAME_CHARACTERS = 4096
MAX_GZIP_TAIL_BYTES = MIB

_UNSUPPORTED = re.compile(
    rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)|\xfd7zXZ\0"
    rb"|\x28\xb5\x2f\xfd|MSCF\0\0\0\0|\x04\x22\x4d\x18|\x1f\x9d|LZIP\x01"
)
"""7z, rar, bzip2, xz, zstd, cab, lz4, compress, lzip."""


class Member(NamedTuple):
    """One file in an archive.

    path: its name, printable, nested ones joined with '!/'; '' is the outermost archive itself.
    size_bytes: uncompressed, as declared; -1 if it is known only after reading (gzip).
    modified: microseconds since the epoch, UTC (zip's zoneless times too); None if not stated.
    read: the next n bytes, fewer only at the end or before damage; after that it raises
        ArchiveError. Invalid once the next member was requested.
    error: (reject reason, detail) if it cannot be read at all.
    """

    path: str
    size_bytes: int
    modified: int | None
    read: Callable[[int], bytes]
    error: tuple[str, str] | None


def archive_kind(head: bytes) -> str | None:
    """First bytes of a file -> 'zip', 'gzip', 'tar', 'unsupported', or None for no archive.

    head: 512 bytes are enough; an ISO image needs 33,000. A file with the DICOM prefix is never an
    archive, because its preamble may look like one (PS3.10 7.1).
    """
    if head[128:132] == b"DICM":
        return None
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK\x03\x04")):
        return "zip"
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head[257:262] == b"ustar":
        return "tar"
    if _UNSUPPORTED.match(head) or head[32769:32774] == b"CD001":
        return "unsupported"
    return None


def list_members(
    file: BinaryIO, kind: str, size_bytes: int, name: str, limits: Limits | None = None
) -> Iterator[Member]:
    """Yield the members of an archive and of archives in it; unread bytes are skipped.

    file: seekable. kind: of archive_kind. size_bytes: the file's size, for the ratio. name: the
    file's name, from which the one member of a gzip file is named. Raises OSError when the file or
    the temporary folder fails; damage of the archive is a member with an error.
    """
    level = _Level("", _last_part(name), 1, Budget(limits or Limits(), size_bytes))
    yield from _list_archive(kind, Stream(file.read, file), level)


class _Level(NamedTuple):
    """One archive, outer or nested. path: prefix of its members' paths. name: its raw file name."""

    path: str
    name: str
    depth: int
    budget: Budget


class _UniquePaths:
    """Raw member names of one archive -> printable paths, unique by a number."""

    def __init__(self, archive_path: str) -> None:
        self._start = f"{archive_path}!/" if archive_path else ""
        self._counts: dict[bytes, int] = {}

    def add(self, name: str) -> str:
        """Raw name of a member -> its path from the outermost archive."""
        name = _make_printable(name[:MAX_NAME_CHARACTERS].removeprefix("./")) or "unnamed"
        digest = _digest(name)
        n_before = self._counts.get(digest, 0)
        unique = name
        while _digest(unique) in self._counts:
            n_before += 1
            unique = f"{name}#{n_before + 1}"
        self._counts[digest] = n_before
        self._counts.setdefault(_digest(unique), 0)
        return self._start + unique


def _list_archive(kind: str, stream: Stream, level: _Level) -> Iterator[Member]:
    limits = level.budget.limits
    names = _UniquePaths(level.path)
    is_empty = True
    try:
        if kind == "unsupported":
            raise ArchiveError("archive_unsupported", "an archive format that is not supported")
        if level.depth > limits.depth:
            raise ArchiveError("archive_too_deep", f"more than {limits.depth} archives deep")
        for item in _list_items(kind, stream, level):
            is_empty = False
            yield from _list_or_enter(item, names, level)
        if is_empty:
            raise ArchiveError("archive_empty", "no member")
    except ArchiveError as error:
        yield _refuse(level.path, error)


def _list_items(kind: str, stream: Stream, level: _Level) -> Iterator[Item]:
    if kind == "zip":
        return list_zip(stream, level.budget)
    if kind == "tar":
        return list_tar(stream, level.budget)
    return _list_gzip(stream, level)


def _list_gzip(stream: Stream, level: _Level) -> Iterator[Item]:
    seconds = int.from_bytes(stream.peek(10)[4:8], "little")
    gunzip = Gunzip(stream, level.budget)
    content = Stream(gunzip.read)
    if archive_kind(content.peek(HEAD_BYTES)) == "tar":
        yield from list_tar(content, level.budget)
        # Read on, because the gzip checksum of all expanded bytes lies behind the tar's padding.
        content.read(MAX_GZIP_TAIL_BYTES)
        return
    gunzip.max_bytes = level.budget.limits.member_bytes
    level.budget.count_member()
    name = re.sub(r"(?i)\.gz$", "", level.name)
    yield Item(name, -1, seconds * 1_000_000 or None, content)


def _list_or_enter(item: Item, names: _UniquePaths, level: _Level) -> Iterator[Member]:
    """Yield one member, or the members in it if its content is an archive."""
    path = names.add(item.name)
    try:
        content = _check_name(item.name) or item.content
        if isinstance(content, ArchiveError):
            raise content
        kind = archive_kind(content.peek(HEAD_BYTES))
    except ArchiveError as error:
        yield _refuse(path, error, item.size_bytes, item.modified)
        return
    if kind is None:
        yield Member(path, item.size_bytes, item.modified, content.read, None)
    else:
        inner = _Level(path, _last_part(item.name), level.depth + 1, level.budget)
        yield from _list_archive(kind, content, inner)


def _refuse(
    path: str, error: ArchiveError, size_bytes: int = -1, modified: int | None = None
) -> Member:
    reason, detail = error.reason, error.detail

    def read(n_bytes: int) -> bytes:
        raise ArchiveError(reason, detail)

    return Member(path, size_bytes, modified, read, (reason, detail))


def _digest(name: str) -> bytes:
    # Hashed, because a million names of any length must fit into memory.
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _check_name(name: str) -> ArchiveError | None:
    if len(name) > MAX_NAME_CHARACTERS:
        detail = f"a name of more than {MAX_NAME_CHARACTERS} characters"
        return ArchiveError("archive_unsafe_path", detail)
    is_absolute = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name)
    if is_absolute or ".." in re.split(r"[\\/]", name):
        return ArchiveError("archive_unsafe_path", "an absolute name, or one with '..'")
    return None


def _last_part(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _make_printable(name: str) -> str:
    """Percent-encode unprintable characters, '%' itself, and '!/', which separates nested names."""

    def encode(match: re.Match[str]) -> str:
        text = match[0]
        if text.isprintable() and text not in "%!":
            return text
        return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))

    return re.sub(r"!(?=/)|%|[^\x20-\x7e]", encode, name)
