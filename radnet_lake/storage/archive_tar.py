"""Takes a tar stream, yields its members.

Parsed here because tarfile's time for hostile headers has no bound; tarfile decodes each block.
"""

import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime

from radnet_lake.storage.archive_stream import (
    MIB,
    STALE,
    ArchiveError,
    Budget,
    Item,
    Stream,
    check_link,
    too_large,
    translate_damage,
)

MAX_EXTENSION_BYTES = MIB
"""Size of one extended header (long names, pax records); real ones are far smaller."""

_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_PAX_KEYS = {b"path": "path", b"linkpath": "linkpath", b"size": "size", b"mtime": "mtime"}


def list_tar(stream: Stream, budget: Budget) -> Iterator[Item]:
    """Yield files, and links that point out; directories, devices and other links are skipped.

    Raises ArchiveError where the stream as a whole is damaged or goes past the budget.
    """
    extended: dict[str, str] = {}
    while True:
        block = stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise ArchiveError("archive_damaged", "a tar file without its end marker")
        if not any(block):
            return
        with translate_damage():
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            budget.count_member()
            if info.type in _EXTENSIONS:
                extended |= _read_extension(info, stream)
                continue
            info.name = extended.get("path", info.name)
            info.linkname = extended.get("linkpath", info.linkname)
            info.size = int(extended.get("size", info.size))
        if info.size < 0:
            raise ArchiveError("archive_damaged", "a negative size")
        modified = _to_microseconds(extended.get("mtime", info.mtime))
        is_sparse = info.type == tarfile.GNUTYPE_SPARSE or "sparse" in extended
        extended = {}
        if info.isdir() or info.isdev():
            continue
        if info.issym() or info.islnk():
            base = info.name if info.issym() else ""
            if error := check_link(base, info.linkname):
                yield Item(info.name, -1, None, error)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE and block[482]:
            while stream.read(tarfile.BLOCKSIZE)[504:505].strip(b"\0"):
                pass  # blocks of the sparse map, each with a flag whether another one follows
        member = _MemberReader(stream, info.size)
        content: Stream | ArchiveError = Stream(member.read)
        if info.size > budget.limits.member_bytes:
            content = too_large(budget.limits.member_bytes, "bytes")
        elif is_sparse:
            content = ArchiveError("archive_unsupported", "a sparse tar member")
        yield Item(info.name, info.size, modified, content)
        member.close()
        stream.skip(-info.size % tarfile.BLOCKSIZE)


class _MemberReader:
    """One member's bytes in a tar stream."""

    def __init__(self, stream: Stream, n_bytes: int) -> None:
        self._stream, self._left = stream, n_bytes
        self._is_over = False

    def read(self, n_bytes: int) -> bytes:
        if self._is_over:
            raise ValueError(STALE)
        wanted = min(n_bytes, self._left)
        data = self._stream.read(wanted)
        if wanted and not data:
            raise ArchiveError("archive_damaged", "ends inside a member")
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._is_over = True
        self._stream.skip(self._left)


def _read_extension(info: tarfile.TarInfo, stream: Stream) -> dict[str, str]:
    """Extended header before a member -> its path, linkpath, size and mtime where stated."""
    if not 0 <= info.size <= MAX_EXTENSION_BYTES:
        raise ArchiveError("archive_damaged", f"a tar header of {info.size} bytes")
    data = stream.read(info.size)
    stream.skip(-info.size % tarfile.BLOCKSIZE)
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": _decode(data.rstrip(b"\0"))}
    if info.type == tarfile.GNUTYPE_LONGLINK:
        return {"linkpath": _decode(data.rstrip(b"\0"))}
    if info.type == tarfile.XGLTYPE:
        return {}
    # Parsed here, because tarfile's time grows with the square of the record's length.
    records, start = {}, 0
    while start < len(data) and data[start]:
        space = data.index(b" ", start, start + 12)
        end = start + int(data[start:space])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or not equals or data[end - 1 : end] != b"\n":
            raise ArchiveError("archive_damaged", "an invalid pax record")
        if key in _PAX_KEYS or key.startswith(b"GNU.sparse."):
            records[_PAX_KEYS.get(key, "sparse")] = _decode(value)
        start = end
    return records


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _to_microseconds(seconds: str | float) -> int | None:
    try:
        return int(datetime.fromtimestamp(float(seconds), UTC).timestamp() * 1_000_000)
    except (ValueError, OverflowError, OSError):
        return None  # not a number, or no year between 1 and 9999
