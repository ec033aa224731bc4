"""Takes the bytes of an archive, gives forward-only streams and counts them against limits."""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from radnet_lake.errors import RadnetLakeError

MIB = 1 << 20
GIB = 1 << 30
CHUNK_BYTES = 256 * 1024
GZIP_INPUT_BYTES = 16 * 1024
RATIO_FREE_BYTES = 64 * MIB
"""Expansion before the ratio counts: a blank series of 128 slices of 512x512 at 16 bit."""
STALE = "a member is read after the next one was requested"

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, ValueError)


class Limits(NamedTuple):
    """Bounds on one outer archive together with all archives nested in it.

    depth: nested archives, the outermost counted; a tar in a gzip is one.
    members: entries of all these archives, directories and links counted.
    member_bytes: one member, expanded.
    total_bytes: all expanded bytes, read or skipped; zip members count when read.
    ratio: expanded bytes over the outermost file's bytes. Deflate ends at 1032, which only long
        runs of zeros reach; a blank 512x512 image stays near 500 by its header. More is a bomb.
    spool_bytes: a nested zip file, which is copied to a temporary file to be read.
    directory_bytes: a zip file's central directory, which zipfile holds in memory several times.
    """

    depth: int = 3
    members: int = 1_000_000
    member_bytes: int = 4 * GIB
    total_bytes: int = 256 * GIB
    ratio: int = 1000
    spool_bytes: int = 4 * GIB
    directory_bytes: int = 64 * MIB


class ArchiveError(RadnetLakeError):
    """A member cannot be read: a reason of schema.REJECT_REASONS and a technical detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.args = (reason, detail)  # because pickle calls __init__ with args
        self.reason, self.detail = reason, detail


class Budget:
    """Counts members and bytes against Limits; once past one, every later call raises again."""

    def __init__(self, limits: Limits, outer_bytes: int) -> None:
        self.limits = limits
        self.members = self.expanded_bytes = 0
        self.max_by_ratio = max(RATIO_FREE_BYTES, limits.ratio * outer_bytes)

    def count_member(self) -> None:
        self.members += 1
        self.expand(0)

    def expand(self, n_bytes: int) -> None:
        self.expanded_bytes += n_bytes
        if self.members > self.limits.members:
            raise too_large(self.limits.members, "members")
        if self.expanded_bytes > self.limits.total_bytes:
            raise too_large(self.limits.total_bytes, "bytes in all")
        if self.expanded_bytes > self.max_by_ratio:
            detail = f"expands past {self.limits.ratio} times its size"
            raise ArchiveError("archive_ratio", detail)


class Stream:
    """Forward-only bytes of a file, of a member, or of expanded gzip data.

    file: the file itself where it can seek, so that skipped bytes are not fetched.
    """

    def __init__(self, read: Callable[[int], bytes], file: BinaryIO | None = None) -> None:
        self._read, self.file = read, file
        self._file_bytes = file.seek(0, 2) if file else 0
        if file:
            file.seek(0)
        self._head = b""
        self._error: ArchiveError | None = None

    def read(self, n_bytes: int) -> bytes:
        parts = [self._head[:n_bytes]]
        self._head = self._head[n_bytes:]
        left = n_bytes - len(parts[0])
        while left > 0:
            if self._error:
                raise self._error
            try:
                part = self._read(left)
            except ArchiveError as error:
                # Raised at the next read, because the bytes before it may hold a whole header.
                if left == n_bytes:
                    raise
                self._error = error
                break
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def peek(self, n_bytes: int) -> bytes:
        head = self.read(n_bytes)
        self._head = head + self._head
        return head

    def skip(self, n_bytes: int) -> None:
        n_held = min(n_bytes, len(self._head))
        self._head = self._head[n_held:]
        n_bytes -= n_held
        if self.file and n_bytes > CHUNK_BYTES:
            target = self.file.tell() + n_bytes
            if target > self._file_bytes:
                raise ArchiveError("archive_damaged", "ends inside a member")
            self.file.seek(target)
            return
        while n_bytes > 0:
            n_read = len(self.read(min(n_bytes, CHUNK_BYTES)))
            if not n_read:
                raise ArchiveError("archive_damaged", "ends inside a member")
            n_bytes -= n_read


class Item(NamedTuple):
    """One member with its raw name, before name and content are checked.

    content: to be read before the next item is requested, or why it cannot be read. size_bytes and
    modified as in archive.Member.
    """

    name: str
    size_bytes: int
    modified: int | None
    content: Stream | ArchiveError


class Gunzip:
    """gzip stream of one or several gzip members -> expanded bytes, counted as they are read."""

    def __init__(self, stream: Stream, budget: Budget) -> None:
        self._stream, self._budget = stream, budget
        self._inflater = zlib.decompressobj(wbits=31)
        self._input = b""
        self.n_bytes, self.max_bytes = 0, budget.limits.total_bytes

    def read(self, n_bytes: int) -> bytes:
        while True:
            if self._inflater.eof and not self._start_next_member():
                return b""
            self._input = self._input or self._stream.read(GZIP_INPUT_BYTES)
            if not self._input:
                raise ArchiveError("archive_damaged", "truncated gzip data")
            with translate_damage():
                data = self._inflater.decompress(self._input, n_bytes)
            self._input = self._inflater.unconsumed_tail
            if data:
                break
        self._budget.expand(len(data))
        self.n_bytes += len(data)
        if self.n_bytes > self.max_bytes:
            raise too_large(self.max_bytes, "bytes")
        return data

    def _start_next_member(self) -> bool:
        self._input = self._inflater.unused_data.lstrip(b"\0")
        while not self._input:
            padding = self._stream.read(GZIP_INPUT_BYTES)
            if not padding:
                return False
            self._input = padding.lstrip(b"\0")
        self._budget.count_member()
        self._inflater = zlib.decompressobj(wbits=31)
        return True


def too_large(limit: int, unit: str) -> ArchiveError:
    """The error for more than a bound of Limits."""
    return ArchiveError("archive_too_large", f"more than {limit} {unit}")


@contextmanager
def translate_damage() -> Iterator[None]:
    """Raise the standard library's errors about bad bytes as ArchiveError.

    It holds only the type of the exception, because the message may hold a member's name.
    """
    try:
        yield
    except NotImplementedError:
        raise ArchiveError("archive_unsupported", "a zip feature that is not supported") from None
    except _DAMAGE as error:
        raise ArchiveError("archive_damaged", f"broken data ({type(error).__name__})") from None


def check_link(name: str, target: str) -> ArchiveError | None:
    """The error of a link that points out of its archive, else None; no link is followed."""
    error = ArchiveError("archive_unsafe_path", "a link that points out of the archive")
    if target.startswith("/"):
        return error
    level = 0
    for part in (*PurePosixPath(name).parent.parts, *PurePosixPath(target).parts):
        level += -1 if part == ".." else 1
        if level < 0:
            return error
    return None
