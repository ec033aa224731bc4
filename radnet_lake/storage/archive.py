"""Archives inside archives: zip, tar and gzip, member by member, never unpacked under a name.

Every bound of `Limits` holds over the whole nest. What cannot be read is a member with a trouble,
so that it becomes a reject row. An OSError of the file itself, or of the temporary folder, is
passed on: it says nothing about the archive, and the file may be tried again.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from radnet_lake.storage.archive_stream import (
    MIB,
    ArchiveTrouble,
    Budget,
    Gunzip,
    Item,
    Limits,
    Stream,
)
from radnet_lake.storage.archive_tar import list_tar
from radnet_lake.storage.archive_zip import list_zip

__all__ = ["ArchiveTrouble", "Limits", "Member", "archive_kind", "list_members"]

HEAD_BYTES = 512
"""A tar header; every other magic number that is looked for inside archives lies before its end."""
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
    size_bytes: uncompressed, as declared; -1 if only reading would tell (gzip).
    modified: microseconds since the epoch, UTC (zip's zoneless times too); None if not told.
    read: the next n bytes, fewer only at the end or before a break; after that ArchiveTrouble is
        raised. Not to be called once the next member was asked for.
    trouble: (reject reason, detail) if it cannot be read at all.
    """

    path: str
    size_bytes: int
    modified: int | None
    read: Callable[[int], bytes]
    trouble: tuple[str, str] | None


def archive_kind(head: bytes) -> str | None:
    """Tell 'zip', 'gzip', 'tar' or 'unsupported' by magic bytes; None is no archive.

    head: the first bytes of the file; 512 are enough, an ISO image needs 33,000. A DICOM file is
    never an archive, for its preamble may look like one (PS3.10 7.1).
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
    """Yield the members of an archive, and of archives in it; what is not read is skipped.

    file: seekable. kind: what archive_kind said. size_bytes: the file's size, for the ratio. name:
    the file's name, from which a gzip file's one member has its own. Raises OSError when the file
    or the temporary folder fails; what is wrong with the archive is a member with a trouble.
    """
    place = _Place("", _last_part(name), 1, Budget(limits or Limits(), size_bytes))
    yield from _list_archive(kind, Stream(file.read, file), place)


class _Place(NamedTuple):
    """An archive in the nest. path: its members' paths start with it; name: its raw file name."""

    path: str
    name: str
    depth: int
    budget: Budget


class _Names:
    """The names met in one archive, as printable paths that stay apart."""

    def __init__(self, archive_path: str) -> None:
        self._start = f"{archive_path}!/" if archive_path else ""
        self._counts: dict[bytes, int] = {}

    def add(self, name: str) -> str:
        """Return the path, in the nest, of a member with this raw name."""
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


def _list_archive(kind: str, stream: Stream, place: _Place) -> Iterator[Member]:
    limits = place.budget.limits
    names = _Names(place.path)
    is_empty = True
    try:
        if kind == "unsupported":
            raise ArchiveTrouble("archive_unsupported", "an archive format that is not read")
        if place.depth > limits.depth:
            raise ArchiveTrouble("archive_too_deep", f"more than {limits.depth} archives deep")
        for item in _list_items(kind, stream, place):
            is_empty = False
            yield from _list_or_enter(item, names, place)
        if is_empty:
            raise ArchiveTrouble("archive_empty", "no member")
    except ArchiveTrouble as trouble:
        yield _refuse(place.path, trouble)


def _list_items(kind: str, stream: Stream, place: _Place) -> Iterator[Item]:
    if kind == "zip":
        return list_zip(stream, place.budget)
    if kind == "tar":
        return list_tar(stream, place.budget)
    return _list_gzip(stream, place)


def _list_gzip(stream: Stream, place: _Place) -> Iterator[Item]:
    seconds = int.from_bytes(stream.peek(10)[4:8], "little")
    gunzip = Gunzip(stream, place.budget)
    content = Stream(gunzip.read)
    if archive_kind(content.peek(HEAD_BYTES)) == "tar":
        yield from list_tar(content, place.budget)
        # Past the tar's end lie padding and the checksum of all that was expanded.
        content.read(MAX_GZIP_TAIL_BYTES)
        return
    gunzip.most_bytes = place.budget.limits.member_bytes
    place.budget.count_member()
    name = re.sub(r"(?i)\.gz$", "", place.name)
    yield Item(name, -1, seconds * 1_000_000 or None, content)


def _list_or_enter(item: Item, names: _Names, place: _Place) -> Iterator[Member]:
    """Yield one member, or, if it is an archive by its content, the members in it."""
    path = names.add(item.name)
    try:
        content = _judge_name(item.name) or item.content
        if isinstance(content, ArchiveTrouble):
            raise content
        kind = archive_kind(content.peek(HEAD_BYTES))
    except ArchiveTrouble as trouble:
        yield _refuse(path, trouble, item.size_bytes, item.modified)
        return
    if kind is None:
        yield Member(path, item.size_bytes, item.modified, content.read, None)
    else:
        inner = _Place(path, _last_part(item.name), place.depth + 1, place.budget)
        yield from _list_archive(kind, content, inner)


def _refuse(
    path: str, trouble: ArchiveTrouble, size_bytes: int = -1, modified: int | None = None
) -> Member:
    reason, detail = trouble.reason, trouble.detail

    def read(n_bytes: int) -> bytes:
        raise ArchiveTrouble(reason, detail)

    return Member(path, size_bytes, modified, read, (reason, detail))


def _digest(name: str) -> bytes:
    # A million names of any length must fit into memory.
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _judge_name(name: str) -> ArchiveTrouble | None:
    if len(name) > MAX_NAME_CHARACTERS:
        detail = f"a name of more than {MAX_NAME_CHARACTERS} characters"
        return ArchiveTrouble("archive_unsafe_path", detail)
    is_absolute = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name)
    if is_absolute or ".." in re.split(r"[\\/]", name):
        return ArchiveTrouble("archive_unsafe_path", "an absolute name, or one with '..'")
    return None


def _last_part(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _make_printable(name: str) -> str:
    """Percent-encode what is not printable, '%' itself, and '!/', which parts nested names."""

    def encode(match: re.Match[str]) -> str:
        text = match[0]
        if text.isprintable() and text not in "%!":
            return text
        return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))

    return re.sub(r"!(?=/)|%|[^\x20-\x7e]", encode, name)
