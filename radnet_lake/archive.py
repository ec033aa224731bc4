"""Archives inside archives: zip, tar and gzip, member by member, never unpacked under a name.

Every bound of `Limits` holds over the whole nest. What cannot be read is a member with a trouble,
so that it becomes a reject row. An OSError of the file itself, or of the temporary folder, is
passed on: it says nothing about the archive, and the file may be tried again.
"""

import hashlib
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from radnet_lake.errors import RadnetLakeError

MIB = 1 << 20
GIB = 1 << 30
HEAD_BYTES = 512
"""A tar header; every other magic number that is looked for inside archives lies before its end."""
PIECE_BYTES = 256 * 1024
GZIP_INPUT_BYTES = 16 * 1024
RATIO_FREE_BYTES = 64 * MIB
"""Expansion before the ratio counts: a blank series of 128 slices of 512x512 at 16 bit."""
MAX_NAME_CHARACTERS = 4096
MAX_EXTENSION_BYTES = MIB
"""Of one extended tar header (long names, pax records): names and xattrs fit many times."""
MAX_EXTRA_BYTES = 4096
"""Of one zip entry's extra field in the directory: zipfile's time grows with its square."""
MAX_GZIP_TAIL_BYTES = MIB

_UNSUPPORTED = re.compile(
    rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)|\xfd7zXZ\0"
    rb"|\x28\xb5\x2f\xfd|MSCF\0\0\0\0|\x04\x22\x4d\x18|\x1f\x9d|LZIP\x01"
)
"""7z, rar, bzip2, xz, zstd, cab, lz4, compress, lzip."""
_TAR_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_PAX_KEYS = {b"path": "path", b"linkpath": "linkpath", b"size": "size", b"mtime": "mtime"}
_CENTRAL_ENTRY = struct.Struct("<4s4xH18xHHH12x")
_UTF8_FLAG = 0x800
_STALE = "a member is read after the next one was asked for"
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
    budget = _Budget(limits or Limits(), size_bytes)
    place = _Place("", _make_printable(PurePosixPath(name).name), 1, budget)
    yield from _list_archive(kind, _Stream(file.read, file), place, file)


class _Budget:
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
            raise _too_large(self.limits.members, "members")
        if self.expanded_bytes > self.limits.total_bytes:
            raise _too_large(self.limits.total_bytes, "bytes in all")
        if self.expanded_bytes > self.most_by_ratio:
            detail = f"expands past {self.limits.ratio} times its size"
            raise ArchiveTrouble("archive_ratio", detail)


def _too_large(most: int, unit: str) -> ArchiveTrouble:
    return ArchiveTrouble("archive_too_large", f"more than {most} {unit}")


class _Place(NamedTuple):
    path: str
    name: str
    depth: int
    budget: _Budget

    def join(self, name: str) -> str:
        return f"{self.path}!/{name}" if self.path else name


class _Stream:
    """Bytes that are read forward only: of the file, of a member, of what gzip data expands to."""

    def __init__(self, read: Callable[[int], bytes], file: BinaryIO | None = None) -> None:
        self._read, self._file = read, file
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
        if self._file and n_bytes > PIECE_BYTES:
            target = self._file.tell() + n_bytes
            if target > self._file_bytes:
                raise ArchiveTrouble("archive_damaged", "ends inside a member")
            self._file.seek(target)
            return
        while n_bytes > 0:
            n_read = len(self.read(min(n_bytes, PIECE_BYTES)))
            if not n_read:
                raise ArchiveTrouble("archive_damaged", "ends inside a member")
            n_bytes -= n_read


def _list_archive(
    kind: str, stream: _Stream, place: _Place, file: BinaryIO | None = None
) -> Iterator[Member]:
    limits = place.budget.limits
    n_members = 0
    try:
        if kind == "unsupported":
            raise ArchiveTrouble("archive_unsupported", "an archive format that is not read")
        if place.depth > limits.depth:
            raise ArchiveTrouble("archive_too_deep", f"more than {limits.depth} archives deep")
        if kind == "zip":
            members = _list_zip(file, place) if file else _list_nested_zip(stream, place)
        else:
            members = {"tar": _list_tar, "gzip": _list_gzip}[kind](stream, place)
        for member in members:
            n_members += 1
            yield member
        if not n_members:
            raise ArchiveTrouble("archive_empty", "no member")
    except ArchiveTrouble as trouble:
        yield _refuse(place.path, trouble)


def _list_or_enter(
    path: str, size_bytes: int, modified: int | None, stream: _Stream, place: _Place
) -> Iterator[Member]:
    """Yield one member, or, if it is an archive by its content, the members in it."""
    try:
        kind = archive_kind(stream.peek(HEAD_BYTES))
    except ArchiveTrouble as trouble:
        yield _refuse(path, trouble, size_bytes, modified)
        return
    if kind is None:
        yield Member(path, size_bytes, modified, stream.read, None)
    else:
        inner = _Place(path, PurePosixPath(path).name, place.depth + 1, place.budget)
        yield from _list_archive(kind, stream, inner)


def _refuse(
    path: str, trouble: ArchiveTrouble, size_bytes: int = -1, modified: int | None = None
) -> Member:
    reason, detail = trouble.reason, trouble.detail

    def read(n_bytes: int) -> bytes:
        raise ArchiveTrouble(reason, detail)

    return Member(path, size_bytes, modified, read, (reason, detail))


@contextmanager
def _name_damage() -> Iterator[None]:
    """Turn what the standard library raises over bad bytes into an ArchiveTrouble.

    Only the kind of exception is told: its text may hold a member's name.
    """
    try:
        yield
    except NotImplementedError:
        raise ArchiveTrouble("archive_unsupported", "a zip feature that is not read") from None
    except _DAMAGE as error:
        raise ArchiveTrouble("archive_damaged", f"broken data ({type(error).__name__})") from None


class _Names:
    """The names met in one archive, as printable paths that stay apart."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._counts: dict[bytes, int] = {}

    def add(self, name: str) -> tuple[str, ArchiveTrouble | None]:
        """Return the member's path in the nest, and what is wrong with its name."""
        trouble = None
        if _leads_out(name):
            trouble = ArchiveTrouble("archive_unsafe_path", "an absolute name, or one with '..'")
        if len(name) > MAX_NAME_CHARACTERS:
            detail = f"a name of more than {MAX_NAME_CHARACTERS} characters"
            trouble = ArchiveTrouble("archive_unsafe_path", detail)
        name = _make_printable(name[:MAX_NAME_CHARACTERS].removeprefix("./")) or "unnamed"
        return self._place.join(self._tell_apart(name)), trouble

    def _tell_apart(self, name: str) -> str:
        digest = _digest(name)
        n_before = self._counts.get(digest, 0)
        unique = name
        while _digest(unique) in self._counts:
            n_before += 1
            unique = f"{name}#{n_before + 1}"
        self._counts[digest] = n_before
        self._counts.setdefault(_digest(unique), 0)
        return unique


def _digest(name: str) -> bytes:
    # A million names of any length must fit into memory.
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _leads_out(name: str) -> bool:
    is_absolute = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name)
    return bool(is_absolute) or ".." in re.split(r"[\\/]", name)


def _make_printable(name: str) -> str:
    """Percent-encode what is not printable, '%' itself, and '!/', which parts nested names."""

    def encode(match: re.Match[str]) -> str:
        text = match[0]
        if text.isprintable() and text not in "%!":
            return text
        return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))

    return re.sub(r"!(?=/)|%|[^\x20-\x7e]", encode, name)


class _ZipFile:
    """The file as zipfile sees it: seeks and the central directory are checked first."""

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
            # zipfile expects OSError of seeks from the end, which find out how long the file is.
            raise OSError if whence else zipfile.BadZipFile
        return self._file.seek(target)

    def read(self, n_bytes: int = -1) -> bytes:
        if not self.is_opening:
            return self._file.read(n_bytes)
        left = self._size - self._file.tell()
        n_bytes = left if n_bytes < 0 else min(n_bytes, left)
        if n_bytes > self._limits.directory_bytes:
            raise _too_large(self._limits.directory_bytes, "bytes of directory")
        try:
            data = self._file.read(n_bytes)
        except OSError as error:
            self.failure = error  # which zipfile takes for "not a zip file"
            raise
        return self._check_directory(data) if data.startswith(b"PK\x01\x02") else data

    def _check_directory(self, data: bytes) -> bytes:
        mended: bytearray | None = None
        start = n_entries = 0
        while start + _CENTRAL_ENTRY.size <= len(data):
            magic, flags, n_name, n_extra, n_comment = _CENTRAL_ENTRY.unpack_from(data, start)
            n_entries += 1
            if n_entries > self._limits.members:
                raise _too_large(self._limits.members, "members")
            if magic != b"PK\x01\x02" or n_extra > MAX_EXTRA_BYTES:
                raise ArchiveTrouble("archive_damaged", "a directory entry that cannot be")
            if flags & _UTF8_FLAG and not _is_utf8(data[start + 46 : start + 46 + n_name]):
                # One such name would cost all members; as code page 437 any bytes are a name.
                mended = mended or bytearray(data)
                struct.pack_into("<H", mended, start + 8, flags & ~_UTF8_FLAG)
            start += _CENTRAL_ENTRY.size + n_name + n_extra + n_comment
        return bytes(mended) if mended else data


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _list_nested_zip(stream: _Stream, place: _Place) -> Iterator[Member]:
    # A zip file is read from its end. The temporary file has no name, so it cannot outlive a kill.
    spool_bytes = place.budget.limits.spool_bytes
    n_bytes = 0
    with tempfile.TemporaryFile() as spool:
        while part := stream.read(PIECE_BYTES):
            n_bytes += len(part)
            if n_bytes > spool_bytes:
                raise _too_large(spool_bytes, "bytes of zip file inside")
            spool.write(part)
        yield from _list_zip(spool, place)


def _list_zip(file: BinaryIO, place: _Place) -> Iterator[Member]:
    guarded = _ZipFile(file, place.budget.limits)
    try:
        with _name_damage():
            archive = zipfile.ZipFile(guarded)
    except ArchiveTrouble:
        if guarded.failure:
            raise guarded.failure from None
        raise
    guarded.is_opening = False
    names = _Names(place)
    # In the file's order: ranged reads go forward, and shared bytes show.
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    for i, info in enumerate(infos):
        place.budget.count_member()
        if info.filename.endswith("/"):
            continue
        next_offset = infos[i + 1].header_offset if i + 1 < len(infos) else archive.start_dir
        path, trouble = names.add(info.filename)
        trouble = trouble or _find_zip_trouble(info, next_offset, place.budget.limits)
        modified = _read_zip_time(info)
        try:
            if trouble:
                raise trouble
            with _name_damage():
                opened = cast(zipfile.ZipExtFile, archive.open(info))
        except ArchiveTrouble as refused:
            yield _refuse(path, refused, info.file_size, modified)
            continue
        with opened:
            stream = _Stream(_make_zip_read(opened, place.budget))
            if stat.S_ISLNK(info.external_attr >> 16):
                yield from _refuse_bad_link(path, info.filename, stream)
            else:
                yield from _list_or_enter(path, info.file_size, modified, stream, place)


def _find_zip_trouble(
    info: zipfile.ZipInfo, next_offset: int, limits: Limits
) -> ArchiveTrouble | None:
    if info.flag_bits & 0x1:
        return ArchiveTrouble("archive_encrypted", "the member wants a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile would read bzip2 and LZMA, but expands their input without a bound on the output.
        return ArchiveTrouble("archive_unsupported", f"compression method {info.compress_type}")
    if info.file_size > limits.member_bytes:
        return _too_large(limits.member_bytes, "bytes")
    if info.header_offset + 30 + info.compress_size > next_offset:
        return ArchiveTrouble("archive_ratio", "shares its bytes with another member")
    return None


def _make_zip_read(opened: zipfile.ZipExtFile, budget: _Budget) -> Callable[[int], bytes]:
    def read(n_bytes: int) -> bytes:
        if opened.closed:
            raise ValueError(_STALE)
        with _name_damage():
            data = opened.read1(n_bytes)
        budget.expand(len(data))
        return data

    return read


def _refuse_bad_link(path: str, name: str, stream: _Stream) -> Iterator[Member]:
    try:
        target = stream.read(MAX_NAME_CHARACTERS).decode("utf-8", "surrogateescape")
        if _link_leads_out(name, target):
            raise ArchiveTrouble("archive_unsafe_path", "a link that leads out of the archive")
    except ArchiveTrouble as trouble:
        yield _refuse(path, trouble)


def _link_leads_out(name: str, target: str) -> bool:
    if target.startswith("/"):
        return True
    level = 0
    for part in (*PurePosixPath(name).parent.parts, *PurePosixPath(target).parts):
        level += -1 if part == ".." else 1
        if level < 0:
            return True
    return False


def _read_zip_time(info: zipfile.ZipInfo) -> int | None:
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


class _Part:
    """One member's bytes in a tar stream."""

    def __init__(self, stream: _Stream, n_bytes: int) -> None:
        self._stream, self._left = stream, n_bytes
        self._is_over = False

    def read(self, n_bytes: int) -> bytes:
        if self._is_over:
            raise ValueError(_STALE)
        wanted = min(n_bytes, self._left)
        data = self._stream.read(wanted)
        if wanted and not data:
            raise ArchiveTrouble("archive_damaged", "ends inside a member")
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._is_over = True
        self._stream.skip(self._left)


def _list_tar(stream: _Stream, place: _Place) -> Iterator[Member]:
    names = _Names(place)
    extended: dict[str, str] = {}
    while True:
        block = stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise ArchiveTrouble("archive_damaged", "a tar file without its end mark")
        if not any(block):
            return
        with _name_damage():
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            place.budget.count_member()
            if info.type in _TAR_EXTENSIONS:
                extended |= _read_extension(info, stream)
                continue
            name = extended.get("path", info.name)
            size_bytes = int(extended.get("size", info.size))
        modified = _to_microseconds(extended.get("mtime", info.mtime))
        if size_bytes < 0:
            raise ArchiveTrouble("archive_damaged", "a negative size")
        link = extended.get("linkpath", info.linkname)
        is_sparse = info.type == tarfile.GNUTYPE_SPARSE or "sparse" in extended
        extended = {}
        if info.isdir() or info.isdev():
            continue
        path, trouble = names.add(name)
        if info.issym() or info.islnk():
            if trouble or _link_leads_out(name if info.issym() else "", link):
                detail = "a link that leads out of the archive"
                yield _refuse(path, ArchiveTrouble("archive_unsafe_path", detail))
            continue
        if info.type == tarfile.GNUTYPE_SPARSE and block[482]:
            while stream.read(tarfile.BLOCKSIZE)[504:505].strip(b"\0"):
                pass  # blocks of its map lie before the data, each telling if another follows
        part = _Part(stream, size_bytes)
        if size_bytes > place.budget.limits.member_bytes:
            trouble = _too_large(place.budget.limits.member_bytes, "bytes")
        elif is_sparse:
            trouble = ArchiveTrouble("archive_unsupported", "a sparse tar member")
        if trouble:
            yield _refuse(path, trouble, size_bytes, modified)
        else:
            yield from _list_or_enter(path, size_bytes, modified, _Stream(part.read), place)
        part.close()
        stream.skip(-size_bytes % tarfile.BLOCKSIZE)


def _read_extension(info: tarfile.TarInfo, stream: _Stream) -> dict[str, str]:
    """Read the extended header before a member: what it says of path, linkpath, size and mtime."""
    if not 0 <= info.size <= MAX_EXTENSION_BYTES:
        raise ArchiveTrouble("archive_damaged", f"a tar header of {info.size} bytes")
    data = stream.read(info.size)
    stream.skip(-info.size % tarfile.BLOCKSIZE)
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if info.type == tarfile.GNUTYPE_LONGLINK:
        return {"linkpath": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if info.type == tarfile.XGLTYPE:
        return {}
    # Not by tarfile: its time for a hostile header grows with the square of the length.
    records, start = {}, 0
    while start < len(data) and data[start]:
        space = data.index(b" ", start, start + 12)
        end = start + int(data[start:space])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or not equals or data[end - 1 : end] != b"\n":
            raise ArchiveTrouble("archive_damaged", "a pax record that cannot be")
        if key in _PAX_KEYS or key.startswith(b"GNU.sparse."):
            records[_PAX_KEYS.get(key, "sparse")] = value.decode("utf-8", "surrogateescape")
        start = end
    return records


def _to_microseconds(seconds: str | float) -> int | None:
    try:
        return int(datetime.fromtimestamp(float(seconds), UTC).timestamp() * 1_000_000)
    except (ValueError, OverflowError, OSError):
        return None  # not a number, or no year between 1 and 9999


class _Gunzip:
    """What a gzip stream, of one part or several, expands to; counted as it is read."""

    def __init__(self, stream: _Stream, budget: _Budget) -> None:
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
            with _name_damage():
                data = self._inflater.decompress(self._input, n_bytes)
            self._input = self._inflater.unconsumed_tail
            if data:
                break
        self._budget.expand(len(data))
        self.n_bytes += len(data)
        if self.n_bytes > self.most_bytes:
            raise _too_large(self.most_bytes, "bytes")
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


def _list_gzip(stream: _Stream, place: _Place) -> Iterator[Member]:
    seconds = int.from_bytes(stream.peek(10)[4:8], "little")
    gunzip = _Gunzip(stream, place.budget)
    content = _Stream(gunzip.read)
    if archive_kind(content.peek(HEAD_BYTES)) == "tar":
        yield from _list_tar(content, place)
        # Past the tar's end lie padding and the checksum of all that was expanded.
        content.read(MAX_GZIP_TAIL_BYTES)
        return
    gunzip.most_bytes = place.budget.limits.member_bytes
    place.budget.count_member()
    path = place.join(re.sub(r"(?i)\.gz$", "", place.name) or "unnamed")
    yield from _list_or_enter(path, -1, seconds * 1_000_000 or None, content, place)
