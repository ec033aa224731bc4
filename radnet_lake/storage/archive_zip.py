"""Takes a zip file, yields its members.

Read by the standard library's zipfile, with sizes and offsets checked before it sees them.
"""

import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO, cast

from radnet_lake.storage.archive_stream import (
    CHUNK_BYTES,
    STALE,
    ArchiveError,
    Budget,
    Item,
    Limits,
    Stream,
    check_link,
    too_large,
    translate_damage,
)

MAX_EXTRA_BYTES = 4096
"""Size of an entry's extra field; bounded, because zipfile's time grows with its square."""
MAX_LINK_CHARACTERS = 4096

_CENTRAL_ENTRY = struct.Struct("<4s4xH18xHHH12x")
_UTF8_FLAG = 0x800


def list_zip(stream: Stream, budget: Budget) -> Iterator[Item]:
    """Yield files, and links that point out, in the file's order; directories are skipped.

    Raises ArchiveError where the file as a whole is damaged or goes past the budget, OSError
    where the file or the temporary folder fails.
    """
    if stream.file:
        yield from _list_file(stream.file, budget)
        return
    # A zip file is read from its end. A killed process leaves nothing: the file has no name.
    max_bytes = budget.limits.spool_bytes
    n_bytes = 0
    with tempfile.TemporaryFile() as spool:
        while part := stream.read(CHUNK_BYTES):
            n_bytes += len(part)
            if n_bytes > max_bytes:
                raise too_large(max_bytes, "bytes of nested zip file")
            spool.write(part)
        yield from _list_file(spool, budget)


def _list_file(file: BinaryIO, budget: Budget) -> Iterator[Item]:
    archive = _open_zip(file, budget.limits)
    # In the file's order, so that ranged reads go forward and overlapping members are found.
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [*(info.header_offset for info in infos[1:]), archive.start_dir]
    for info, end in zip(infos, ends, strict=False):
        budget.count_member()
        if info.filename.endswith("/"):
            continue
        modified = _read_time(info)
        try:
            if error := _find_error(info, end, budget.limits):
                raise error
            with translate_damage():
                opened = cast(zipfile.ZipExtFile, archive.open(info))
        except ArchiveError as refused:
            yield Item(info.filename, info.file_size, modified, refused)
            continue
        with opened:
            content = Stream(_make_read(opened, budget))
            if not stat.S_ISLNK(info.external_attr >> 16):
                yield Item(info.filename, info.file_size, modified, content)
            elif error := _read_link(info.filename, content):
                yield Item(info.filename, -1, None, error)


def _open_zip(file: BinaryIO, limits: Limits) -> zipfile.ZipFile:
    guarded = _GuardedFile(file, limits)
    try:
        with translate_damage():
            archive = zipfile.ZipFile(guarded)
    except ArchiveError:
        if guarded.failure:
            raise guarded.failure from None
        raise
    guarded.is_opening = False
    return archive


class _GuardedFile:
    """File object for zipfile that checks seeks and the central directory first."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file, self._limits = file, limits
        self._size = file.seek(0, 2)
        self.is_opening = True
        self.failure: OSError | None = None

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        target = offset + (0, self._file.tell(), self._size)[whence]
        if not 0 <= target <= self._size:
            # zipfile expects OSError from a seek relative to the end of a short file.
            raise OSError if whence else zipfile.BadZipFile
        return self._file.seek(target)

    def read(self, n_bytes: int = -1) -> bytes:
        if not self.is_opening:
            return self._file.read(n_bytes)
        left = self._size - self._file.tell()
        n_bytes = left if n_bytes < 0 else min(n_bytes, left)
        if n_bytes > self._limits.directory_bytes:
            raise too_large(self._limits.directory_bytes, "bytes of directory")
        try:
            data = self._file.read(n_bytes)
        except OSError as error:
            self.failure = error  # kept, because zipfile reports it as "not a zip file"
            raise
        return self._check_directory(data) if data.startswith(b"PK\x01\x02") else data

    def _check_directory(self, data: bytes) -> bytes:
        corrected: bytearray | None = None
        start = n_entries = 0
        while start + _CENTRAL_ENTRY.size <= len(data):
            magic, flags, n_name, n_extra, n_comment = _CENTRAL_ENTRY.unpack_from(data, start)
            n_entries += 1
            if n_entries > self._limits.members:
                raise too_large(self._limits.members, "members")
            if magic != b"PK\x01\x02" or n_extra > MAX_EXTRA_BYTES:
                raise ArchiveError("archive_damaged", "an invalid directory entry")
            if flags & _UTF8_FLAG and not _is_utf8(data[start + 46 : start + 46 + n_name]):
                # As code page 437, where any bytes are valid; zipfile would reject all members.
                corrected = corrected or bytearray(data)
                struct.pack_into("<H", corrected, start + 8, flags & ~_UTF8_FLAG)
            start += _CENTRAL_ENTRY.size + n_name + n_extra + n_comment
        return bytes(corrected) if corrected else data


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _find_error(info: zipfile.ZipInfo, end: int, limits: Limits) -> ArchiveError | None:
    if info.flag_bits & 0x1:
        return ArchiveError("archive_encrypted", "the member needs a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Refused, because zipfile expands bzip2 and LZMA without a bound on the output.
        return ArchiveError("archive_unsupported", f"compression method {info.compress_type}")
    if info.file_size > limits.member_bytes:
        return too_large(limits.member_bytes, "bytes")
    if info.header_offset + 30 + info.compress_size > end:
        return ArchiveError("archive_ratio", "shares its bytes with another member")
    return None


def _make_read(opened: zipfile.ZipExtFile, budget: Budget) -> Callable[[int], bytes]:
    def read(n_bytes: int) -> bytes:
        if opened.closed:
            raise ValueError(STALE)
        with translate_damage():
            data = opened.read1(n_bytes)
        budget.expand(len(data))
        return data

    return read


def _read_link(name: str, content: Stream) -> ArchiveError | None:
    try:
        target = content.read(MAX_LINK_CHARACTERS).decode("utf-8", "surrogateescape")
    except ArchiveError as error:
        return error
    return check_link(name, target)


def _read_time(info: zipfile.ZipInfo) -> int | None:
    extra, start = info.extra, 0
    while start + 9 <= len(extra):
        tag, n_bytes = struct.unpack_from("<HH", extra, start)
        if tag == 0x5455 and n_bytes >= 5 and extra[start + 4] & 1:
            return int(struct.unpack_from("<i", extra, start + 5)[0]) * 1_000_000
        start += 4 + n_bytes
    try:
        return int(datetime(*info.date_time, tzinfo=UTC).timestamp()) * 1_000_000
    except ValueError:
        return None
