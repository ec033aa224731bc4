"""What archives are read from: streams that go forward only, and the budget of a whole nest."""

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
PIECE_BYTES = 256 * 1024
GZIP_INPUT_BYTES = 16 * 1024
RATIO_FREE_BYTES = 64 * MIB
"""Expansion before the ratio counts: a blank series of 128 slices of 512x512 at 16 bit."""
STALE = "a member is read after the next one was asked for"

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, ValueError)


class Limits(NamedTuple):
    """How far an archive is followed.

    depth: archives one inside the other, the outermost counted; a tar in a gzip is one.
    members: entries of all archives in the nest, directories and links counted.
    member_bytes: one member, expanded.
    total_bytes: all that is expanded, read or skipped through; zip members count when read.
    ratio: expanded bytes over the outermost file's bytes. One deflate ends at 1032, which only
        endless zeros reach; a blank 512x512 image stays near 500 by its header. More is a bomb.
    spool_bytes: a nested zip file, which has to lie in a temporary file to be read.
    directory_bytes: a zip file's central directory, which zipfile holds in memory several times.
    """

    depth: int = 3
    members: int = 1_000_000
    member_bytes: int = 4 * GIB
    total_bytes: int = 256 * GIB
    ratio: int = 1000
    spool_bytes: int = 4 * GIB
    directory_bytes: int = 64 * MIB


class ArchiveTrouble(RadnetLakeError):
    """A member cannot be read: a reason of schema.REJECT_REASONS and a technical detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.args = (reason, detail)  # so that it survives pickling
        self.reason, self.detail = reason, detail


class Budget:
    """What the whole nest may use. Once it is used up, every later step raises that again."""

    def __init__(self, limits: Limits, outer_bytes: int) -> None:
        self.limits = limits
        self.members = self.expanded_bytes = 0
        self.most_by_ratio = max(RATIO_FREE_BYTES, limits.ratio * outer_bytes)

    def count_member(self) -> None:
        self.members += 1
        self.expand(0)

    def expand(self, n_bytes: int) -> None:
        self.expanded_bytes += n_bytes
        if self.members > self.limits.members:
            raise too_large(self.limits.members, "members")
        if self.expanded_bytes > self.limits.total_bytes:
            raise too_large(self.limits.total_bytes, "bytes in all")
        if self.expanded_bytes > self.most_by_ratio:
            detail = f"expands past {self.limits.ratio} times its size"
            raise ArchiveTrouble("archive_ratio", detail)


class Stream:
    """Bytes that are read forward only: of the file, of a member, of what gzip data expands to.

    file: the file itself where it can seek, for what is not read is then not fetched.
    """

    def __init__(self, read: Callable[[int], bytes], file: BinaryIO | None = None) -> None:
        self._read, self.file = read, file
        self._file_bytes = file.seek(0, 2) if file else 0
        if file:
            file.seek(0)
        self._head = b""
        self._trouble: ArchiveTrouble | None = None

    def read(self, n_bytes: int) -> bytes:
        parts = [self._head[:n_bytes]]
        self._head = self._head[n_bytes:]
        left = n_bytes - len(parts[0])
        while left > 0:
            if self._trouble:
                raise self._trouble
            try:
                part = self._read(left)
            except ArchiveTrouble as trouble:
                # What came before the break may hold a whole header: it is given out first.
                if left == n_bytes:
                    raise
                self._trouble = trouble
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
        if self.file and n_bytes > PIECE_BYTES:
            target = self.file.tell() + n_bytes
            if target > self._file_bytes:
                raise ArchiveTrouble("archive_damaged", "ends inside a member")
            self.file.seek(target)
            return
        while n_bytes > 0:
            n_read = len(self.read(min(n_bytes, PIECE_BYTES)))
            if not n_read:
                raise ArchiveTrouble("archive_damaged", "ends inside a member")
            n_bytes -= n_read


class Item(NamedTuple):
    """One member as its archive has it, with its raw name, before that and the content are judged.

    content: to be read before the next item is asked for; or why it cannot be. size_bytes and
    modified as in archive.Member.
    """

    name: str
    size_bytes: int
    modified: int | None
    content: Stream | ArchiveTrouble


class Gunzip:
    """What a gzip stream, of one part or several, expands to; counted as it is read."""

    def __init__(self, stream: Stream, budget: Budget) -> None:
        self._stream, self._budget = stream, budget
        self._inflater = zlib.decompressobj(wbits=31)
        self._input = b""
        self.n_bytes, self.most_bytes = 0, budget.limits.total_bytes

    def read(self, n_bytes: int) -> bytes:
        while True:
            if self._inflater.eof and not self._start_next_part():
                return b""
            self._input = self._input or self._stream.read(GZIP_INPUT_BYTES)
            if not self._input:
                raise ArchiveTrouble("archive_damaged", "gzip data that breaks off")
            with translate_damage():
                data = self._inflater.decompress(self._input, n_bytes)
            self._input = self._inflater.unconsumed_tail
            if data:
                break
        self._budget.expand(len(data))
        self.n_bytes += len(data)
        if self.n_bytes > self.most_bytes:
            raise too_large(self.most_bytes, "bytes")
        return data

    def _start_next_part(self) -> bool:
        self._input = self._inflater.unused_data.lstrip(b"\0")
        while not self._input:
            padding = self._stream.read(GZIP_INPUT_BYTES)
            if not padding:
                return False
            self._input = padding.lstrip(b"\0")
        self._budget.count_member()
        self._inflater = zlib.decompressobj(wbits=31)
        return True


def too_large(most: int, unit: str) -> ArchiveTrouble:
    """The trouble of what goes past a bound of Limits."""
    return ArchiveTrouble("archive_too_large", f"more than {most} {unit}")


@contextmanager
def translate_damage() -> Iterator[None]:
    """Turn what the standard library raises over bad bytes into an ArchiveTrouble.

    Only the kind of exception is told: its text may hold a member's name.
    """
    try:
        yield
    except NotImplementedError:
        raise ArchiveTrouble("archive_unsupported", "a zip feature that is not read") from None
    except _DAMAGE as error:
        raise ArchiveTrouble("archive_damaged", f"broken data ({type(error).__name__})") from None


def judge_link(name: str, target: str) -> ArchiveTrouble | None:
    """The trouble of a link that leads out of its archive. No link is followed, in or out."""
    trouble = ArchiveTrouble("archive_unsafe_path", "a link that leads out of the archive")
    if target.startswith("/"):
        return trouble
    level = 0
    for part in (*PurePosixPath(name).parent.parts, *PurePosixPath(target).parts):
        level += -1 if part == ".." else 1
        if level < 0:
            return trouble
    return None
