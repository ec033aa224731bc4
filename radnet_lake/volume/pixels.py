"""Frames of the lake -> their stored values, from local files, S3 and archives.

The lake says where the pixel data element begins, so no header is parsed again. All of it goes
through a `Read` that only ever goes forward: a file is never held as a whole, nor read twice.
"""

import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pydicom
from pydicom import filereader

from radnet_lake.dicom import scan
from radnet_lake.dicom.header import DEFLATED, MAX_HEADER_BYTES, Header, Reject, read_header
from radnet_lake.dicom.values import quiet_pydicom
from radnet_lake.errors import VolumeError
from radnet_lake.storage.archive import HEAD_BYTES, ArchiveError, archive_kind, list_members
from radnet_lake.storage.s3 import is_s3
from radnet_lake.storage.sources import classify_os_error, open_file, read_range, run_concurrently
from radnet_lake.volume.frame import Frame, Stored, Vector
from radnet_lake.volume.pixel_data import (
    NATIVE_SYNTAXES,
    Read,
    check_declared,
    count_bytes,
    count_frames,
    read_frames,
)

PIECE_BYTES = 2 << 20
"""What is read at a time of S3 objects and streams; CONCURRENT_READS of them are held."""
PROBED_OBJECTS, SLOW_OBJECT_S = 8, 0.001
"""A local disk is fast when an object takes less time than this on average: 0.1 ms from memory, a
few ms from a network disk or a spindle."""
META_BYTES = 64 << 10
"""A file meta group ends before this."""
FIRST_BYTES = 8 << 10
"""What is read of a header at once; a CT's mostly ends there."""

Piece = tuple[int, bytes]
"""Offset in the file, bytes."""

_LOOKUP, _PIXEL_REPRESENTATION = 0x00283000, 0x00280103
_OTHER_SIZE = "the file has another size than when it was harvested"
_ARCHIVE_REASONS = {
    "archive_damaged": "truncated_pixels",
    "archive_too_large": "too_large",
    "archive_ratio": "too_large",
}


def read_stored(
    frames: Sequence[Frame], wanted: Sequence[int] | None = None
) -> Iterator[tuple[int, Stored]]:
    """Read the stored values of frames: (index into `frames`, (Rows, Columns) values), any order.

    wanted: indexes, each given once; None is all. Values are integers with sign and bits settled,
    or the floats of Float Pixel Data; arrays may be read-only. Few frames are held at a time, on S3
    up to CONCURRENT_READS pieces. Raises VolumeError with a reason of schema.VOLUME_REASONS;
    StoreError or SettingError where a store does not serve. Source: PS3.5 8 and annex A, PS3.3
    C.7.6.3 and C.7.6.24.
    """
    indexes = range(len(frames)) if wanted is None else wanted
    files: dict[tuple[str | None, str], list[int]] = {}
    for index in indexes:
        frame = frames[index]
        check_declared(frame)
        files.setdefault((frame.archive_uri, frame.uri), []).append(index)
    with _translating():
        for some, read in _open_objects(frames, files.values(), is_whole=False):
            yield from _read_object(read, frames, some)


def read_headers(frames: Sequence[Frame]) -> Iterator[tuple[list[int], Header]]:
    """Read the header of each file that frames lie in: (indexes of its frames, header), any order.

    An archive is gone through once; of other files no more is read than the header. Raises as
    read_stored, and VolumeError undecodable for a file without a header.
    """
    files: dict[tuple[str | None, str], list[int]] = {}
    for index, frame in enumerate(frames):
        files.setdefault((frame.archive_uri, frame.uri), []).append(index)
    plain = [some for (archive, _), some in files.items() if not archive]
    calls = (partial(_read_header, partial(read_range, frames[some[0]].uri)) for some in plain)
    is_far = any(is_s3(frames[some[0]].uri) for some in plain)
    with _translating():
        yield from zip(
            plain, run_concurrently(calls) if is_far else (call() for call in calls), strict=True
        )
        members = [some for (archive, _), some in files.items() if archive]
        for some, read in _open_objects(frames, members, is_whole=True):
            yield some, _read_header(read)


def _read_header(read: Read) -> Header:
    def read_bytes(offset: int, length: int) -> bytes:
        return bytes(read(offset, length))

    header = read_header(read_bytes, None, read_bytes(0, FIRST_BYTES))
    if isinstance(header, Reject):
        raise VolumeError("undecodable", f"header: {header.reason}")
    return header


def _open_objects(
    frames: Sequence[Frame], files: Iterable[list[int]], is_whole: bool
) -> Iterator[tuple[list[int], Read]]:
    """Objects, by frames' indexes -> a reader of each. is_whole: reads begin at its first byte."""
    local: list[list[int]] = []
    remote: list[list[int]] = []
    archives: dict[str, dict[str, list[int]]] = {}
    for some in files:
        frame = frames[some[0]]
        if frame.archive_uri:
            member = frame.uri[len(frame.archive_uri) + 2 :]
            archives.setdefault(frame.archive_uri, {})[member] = some
        else:
            (remote if is_s3(frame.uri) else local).append(some)
    yield from _open_local(frames, local, is_whole)
    yield from _open_ahead(frames, remote, is_whole)
    for archive_uri, members in archives.items():
        yield from _open_members(archive_uri, members, frames)


@contextmanager
def _translating() -> Iterator[None]:
    """Turn errors of files, archives and deflate streams into VolumeError."""
    try:
        yield
    except OSError as error:
        trouble = classify_os_error(error)
        raise VolumeError(trouble.reason, trouble.detail) from None
    except ArchiveError as trouble:
        reason = _ARCHIVE_REASONS.get(trouble.reason, "changed")
        raise VolumeError(reason, trouble.reason) from None
    except zlib.error:
        raise VolumeError("undecodable", "a damaged deflate stream") from None


def _open_local(
    frames: Sequence[Frame], files: list[list[int]], is_whole: bool
) -> Iterator[tuple[list[int], Read]]:
    """Read one after the other while the disk is fast, because threads would only cost CPU time."""
    took = 0.0

    def read(offset: int, length: int) -> bytes:
        nonlocal took
        started = time.perf_counter()
        # Never more than there is: the bytes are allocated before they are read.
        data = os.pread(descriptor, max(0, min(length, size - offset)), offset)
        took += time.perf_counter() - started
        return data

    for n_opened, some in enumerate(files):
        if n_opened >= PROBED_OBJECTS and took > n_opened * SLOW_OBJECT_S:
            yield from _open_ahead(frames, files[n_opened:], is_whole)
            return
        started = time.perf_counter()
        with open_file(frames[some[0]].uri) as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            took += time.perf_counter() - started
            if frames[some[0]].size_bytes not in (None, size):
                raise VolumeError("changed", _OTHER_SIZE)
            yield some, read


def _open_ahead(
    frames: Sequence[Frame], files: list[list[int]], is_whole: bool
) -> Iterator[tuple[list[int], Read]]:
    """Read many objects at once, for stores with latency."""
    plans = (_plan_pieces(frames, some, is_whole) for some in files)
    answers = run_concurrently(partial(read_range, *piece) for plan in plans for piece in plan)
    for some in files:
        arriving = _take_pieces(answers, _plan_pieces(frames, some, is_whole), frames[some[0]])
        yield some, _read_forward(arriving)
        for _ in arriving:
            pass  # what nobody asked for stands before the next file's pieces


def _plan_pieces(
    frames: Sequence[Frame], some: list[int], is_whole: bool
) -> Iterator[tuple[str, int, int]]:
    """The wanted frames of one object -> the ranges (URI, start, length) that hold them.

    The last goes one byte past the end, for its answer tells whether that is still the end.
    """
    frame = frames[some[0]]
    size, start = frame.size_bytes or 0, frame.header_bytes or 0
    ranges = []
    if is_whole or frame.TransferSyntaxUID == DEFLATED:
        start = 0
    elif frame.TransferSyntaxUID in NATIVE_SYNTAXES and count_frames(frame) > 1:
        n_bytes = count_bytes(frame)
        numbers = sorted({frames[index].frame_number or 1 for index in some})
        # The element's head has 8 bytes or 12.
        ranges = [(start + 8 + (n - 1) * n_bytes, n_bytes + 4) for n in numbers]
        ranges.insert(0, (start, 12))
        start = max(size - 1, 0)
    for first, length in [*ranges, (start, size + 1 - start)]:
        for at in range(first, first + length, PIECE_BYTES):
            yield frame.uri, at, min(PIECE_BYTES, first + length - at)


def _take_pieces(
    answers: Iterator[bytes], plan: Iterator[tuple[str, int, int]], frame: Frame
) -> Iterator[Piece]:
    size = frame.size_bytes or 0
    for (_, start, length), data in zip(plan, answers, strict=False):
        if len(data) != max(0, min(length, size - start)):
            raise VolumeError("changed", _OTHER_SIZE)
        yield start, data


def _open_members(
    archive_uri: str, members: dict[str, list[int]], frames: Sequence[Frame]
) -> Iterator[tuple[list[int], Read]]:
    """Members in the archive's order, in one pass that ends with the last one wanted."""
    with open_file(archive_uri) as file:
        kind = archive_kind(file.read(HEAD_BYTES))
        if kind is None:
            raise VolumeError("changed", "the archive is none any more")
        name = PurePosixPath(archive_uri).name
        for member in list_members(file, kind, file.seek(0, os.SEEK_END), name):
            some = members.pop(member.path, None)
            if some is None:
                continue
            if member.error:
                raise ArchiveError(*member.error)
            if member.size_bytes not in (-1, frames[some[0]].size_bytes):
                raise VolumeError("changed", _OTHER_SIZE)
            yield some, _read_forward(_cut_pieces(member.read))
            if not members:
                return
    raise VolumeError("changed", "the archive has fewer members than when it was harvested")


def _cut_pieces(read_next: Callable[[int], bytes]) -> Iterator[Piece]:
    at = 0
    while data := read_next(PIECE_BYTES):
        yield at, data
        at += len(data)


def _inflate(read: Read, start: int) -> Iterator[Piece]:
    """The deflated data set that begins at `start`, no further than it is asked for (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pending, at = b"", 0
    while not inflater.eof:
        if not pending:
            pending = bytes(read(start, PIECE_BYTES))
            start += len(pending)
        data = inflater.decompress(pending, PIECE_BYTES)
        if not data and not pending:
            return
        pending = inflater.unconsumed_tail
        if data:
            yield at, data
            at += len(data)


def _read_forward(pieces: Iterator[Piece]) -> Read:
    """A Read of pieces in order, of which only those behind the last offset are held."""
    held: deque[Piece] = deque()

    def read(offset: int, length: int) -> bytes | memoryview:
        while held and held[0][0] + len(held[0][1]) <= offset:
            held.popleft()
        while not held or held[-1][0] + len(held[-1][1]) < offset + length:
            piece = next(pieces, None)
            if piece is None:
                break
            if piece[0] + len(piece[1]) > offset:
                held.append(piece)
        parts = []
        at, end = offset, offset + length
        for start, data in held:
            if start <= at < end:
                parts.append(memoryview(data)[at - start : end - start])
                at += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    return read


def _read_object(
    read: Read, frames: Sequence[Frame], some: list[int]
) -> Iterator[tuple[int, Stored]]:
    """The wanted frames of one object, in its order."""
    frame = frames[some[0]]
    if frame.TransferSyntaxUID == DEFLATED:
        read = _read_forward(_inflate(read, _find_data_set(read)))
    ordered = sorted((frames[index].frame_number or 1, index) for index in some)
    wanted = [(n, [index for _, index in same]) for n, same in groupby(ordered, itemgetter(0))]
    stored = read_frames(read, frame, [n for n, _ in wanted])
    for (_, indexes), values in zip(wanted, stored, strict=True):
        for index in indexes:
            yield index, values


def _find_data_set(read: Read) -> int:
    """Where the data set begins, behind the file meta group (PS3.10 7.1)."""
    data = bytes(read(0, META_BYTES))
    at = 132 if data[128:132] == b"DICM" else 4 if data[:4] == b"DICM" else 0
    try:
        while data[at : at + 2] == b"\x02\x00":
            _, _, begin, length = scan.read_element(data, at, True)
            at = begin + length
    except (scan.NeedMore, scan.Unsupported):
        raise VolumeError("changed", "no file meta group") from None
    return at


def read_lookup(frame: Frame) -> tuple[Vector, int]:
    """Read the Modality LUT of a frame's file: (entries, the stored value of the first).

    A stored value below the first or above the last takes that one's entry. Raises VolumeError as
    read_stored does, and bad_rescale where the table is no table. Source: PS3.3 C.11.1.
    """
    end = frame.header_bytes or 0
    if end > MAX_HEADER_BYTES:
        raise VolumeError("too_large", f"a header of more than {MAX_HEADER_BYTES} bytes")
    data = b""
    with _translating():
        for _, read in _open_objects([frame], [[0]], is_whole=True):
            if frame.TransferSyntaxUID == DEFLATED:
                read = _read_forward(_inflate(read, _find_data_set(read)))
            data = bytes(read(0, end))
    try:
        return _parse_lookup(data, frame)
    except Exception as error:  # pydicom raises any kind on damaged input
        raise VolumeError("bad_rescale", f"lookup table: {type(error).__name__}") from None


def _parse_lookup(data: bytes, frame: Frame) -> tuple[Vector, int]:
    tags: list[Any] = [_LOOKUP, _PIXEL_REPRESENTATION]
    with quiet_pydicom():
        if frame.TransferSyntaxUID == DEFLATED:
            dataset = filereader.read_dataset(BytesIO(data), False, True, specific_tags=tags)
        else:
            dataset = pydicom.dcmread(BytesIO(data), force=True, specific_tags=tags)
        item = dataset.ModalityLUTSequence[0]
        count, first, _ = (int(number) & 0xFFFF for number in item.LUTDescriptor)
        entries = item.LUTData
    count = count or 1 << 16
    if not isinstance(entries, bytes):
        entries = np.asarray(entries, np.int64).astype("<u2").tobytes()
    elif dataset.original_encoding[1] is False and len(entries) > count + 1:
        entries = np.frombuffer(entries, ">u2").astype("<u2").tobytes()
    # Entries of 8 bits are stored two to a word, or one.
    kind = "<u2" if len(entries) >= 2 * count else "u1"
    if frame.PixelRepresentation and first >= 1 << 15:
        first -= 1 << 16
    return np.frombuffer(entries, kind, count).astype(np.float64), first
