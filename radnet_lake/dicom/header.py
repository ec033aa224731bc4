"""Takes the bytes of one DICOM file, gives its header or a reject.

scan.py reads common encodings; pydicom reads the others, and is the oracle in the tests. Neither
decodes pixels. All bytes come through a `Read`, so nothing here opens a file or a connection.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import pydicom

from radnet_lake import schema
from radnet_lake.dicom import scan, values
from radnet_lake.dicom.pydicom_reader import END_OF_FILE, read_dataset
from radnet_lake.dicom.scan import Elements, NeedMore, Unsupported, Wanted, make_key

MAX_HEADER_BYTES = 64 << 20
"""Longest header that is read; 10,000 frames of enhanced MR take about 20 MB."""
MAX_FRAMES = 40_000
"""Most frames of one object, because a header of MAX_HEADER_BYTES cannot describe more."""
SKIP_BYTES = 64 << 10
"""A value that extends this far beyond the bytes read is skipped if it is not needed."""
READ_STEP = 4096
"""Reads end at a multiple of this, and exceed the known header by at most this, or by half of the
bytes read before."""

Read = Callable[[int, int], bytes]
"""(offset, length) -> bytes of the file, fewer only at its end."""


class Reject(NamedTuple):
    """Why a file gives no row: a key of schema.REJECT_REASONS, and a detail without header text."""

    reason: str
    detail: str


@dataclass(slots=True)
class Header:
    """One parsed header: its data set begins at `data[start]`, `found` holds its wanted elements.

    dataset: by pydicom, where the scanner declined the file. order: '<' or '>' of binary values.
    encodings: Python's, for SpecificCharacterSet. header_bytes: up to the pixel data, inflated.
    """

    data: bytes = b""
    start: int = 0
    syntax: str = ""
    explicit: bool = True
    order: str = "<"
    found: Elements = field(default_factory=Elements)
    media_storage_class: str = ""
    media_storage_instance: str = ""
    flags: list[str] = field(default_factory=list)
    dataset: pydicom.Dataset | None = None
    header_bytes: int = 0
    size_bytes: int = 0
    encodings: tuple[str, ...] = ("iso8859",)


IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_GE_IMPLICIT = "1.2.840.113619.5.2"  # implicit little endian header, big endian pixels
_STANDARD_CLASS = "1.2.840.10008."
_PYDICOM_CHUNK = 8192  # bytes that pydicom reads when it searches for a delimiter

IDENTIFIERS: tuple[int, ...] = (
    0x00100010, 0x00100020, 0x00101000, 0x00101001, 0x00101005, 0x00101060, 0x00100030,
    0x00080050, 0x00080090, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00321032,
)  # fmt: skip
"""Names and numbers of patient, physicians and operators: read only to remove them from texts."""
MODALITY_LUT = make_key(0x00283000)
SHARED, PER_FRAME = make_key(0x52009229), make_key(0x52009230)
CODE_KEYS = {make_key(t): n for t, n in ((0x00080100, "CodeValue"), (0x00080119, "CodeValue"),
              (0x00080120, "CodeValue"), (0x00080102, "CodingSchemeDesignator"),
              (0x00080104, "CodeMeaning"))}  # fmt: skip
PIXEL_REPRESENTATION = make_key(0x00280103)
CHARSET, _SOP_CLASS = make_key(0x00080005), make_key(0x00080016)


def _plan_wanted() -> Wanted:
    codes: Wanted = {key: (b"SH", {}) for key in CODE_KEYS}
    wanted: dict[int, tuple[bytes, Wanted]] = {}
    for a in schema.ATTRIBUTES:
        if not a.creator:
            wanted[make_key(a.tag)] = (a.vr.encode(), codes if a.kind == "codes" else {})
    groups: Wanted = {make_key(t): (b"SQ", dict(wanted)) for t in schema.FUNCTIONAL_GROUPS}
    wanted |= {make_key(t): (b"PN", {}) for t in IDENTIFIERS if make_key(t) not in wanted}
    wanted |= {SHARED: (b"SQ", groups), PER_FRAME: (b"SQ", groups), MODALITY_LUT: (b"SQ", {})}
    return wanted


WANTED = _plan_wanted()
PRIVATE = {
    (a.creator.encode(), a.tag >> 16, a.tag & 0xFF): a for a in schema.ATTRIBUTES if a.creator
}
_PRIVATE_DIGITS = {
    group: frozenset(digits for _, g, digits in PRIVATE if g == group) for _, group, _ in PRIVATE
}


_META_FIELDS = {
    0x00100002: "syntax",
    0x00020002: "media_storage_class",
    0x00030002: "media_storage_instance",
}


class _HeaderError(Exception):
    """The header cannot be read; holds the reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reject = Reject(reason, detail)


class _HeaderBuffer(io.RawIOBase):
    """The first bytes of a file, read further on demand; also a file object for pydicom."""

    name = END_OF_FILE

    def __init__(self, read: Read, size: int | None, first: bytes, can_skip: bool = True) -> None:
        self._read, self._size, self.data = read, size, first
        self._can_skip, self.is_cut = can_skip, False
        self._n_read = len(first)
        self._position, self.ended = 0, False
        self.is_short, self._searched = False, False
        self.error: Exception | None = None

    def reach(self, offset: int) -> bool:
        """Read until `data` has `offset` bytes; False where the file ends before.

        Raises _HeaderError for an offset beyond MAX_HEADER_BYTES.
        """
        length = len(self.data)
        if offset <= length:
            return True
        if self._size is not None and offset > self._size:
            return False
        if offset > MAX_HEADER_BYTES:
            self.error = _HeaderError("header_too_long", f"over {MAX_HEADER_BYTES} bytes")
            raise self.error
        goal = max(offset, length + self._n_read // 2)
        goal = min((goal + READ_STEP - 1) // READ_STEP * READ_STEP, MAX_HEADER_BYTES)
        try:
            further = b"" if self.ended else self._read(length, goal - length)
        except Exception as error:  # kept, because pydicom replaces it by one of its own
            self.error = error
            raise
        self.data += further
        self._n_read += len(further)
        self.ended = len(further) < goal - length
        return offset <= len(self.data)

    def skip(self, offset: int) -> bool:
        """Skip a long value that is not needed; False where it ends the header.

        Zeros replace it in `data`, so that nothing is read and offsets stay those of the file.
        """
        if offset - len(self.data) < SKIP_BYTES or not self._can_skip:
            self.need(offset)
            return True
        if self._size is not None and offset >= self._size:
            if offset > self._size:
                self.need(offset)
            return False
        if offset > MAX_HEADER_BYTES and self._size is not None:
            self.is_cut = True
            return False
        if offset > MAX_HEADER_BYTES:
            self.need(offset)
        self.data += bytes(offset - len(self.data))
        return True

    def need(self, offset: int) -> None:
        """As `reach`, but the end of the file is an error."""
        if not self.reach(offset):
            detail = f"{len(self.data)} bytes, the next element needs {offset}"
            raise _HeaderError("header_truncated", detail)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 2:
            raise OSError("the end is not known")
        self._position = max(0, offset + (self._position if whence == 1 else 0))
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            # Refused, because pydicom would inflate the whole file; `_open_deflated` has bounds.
            _give_up("a deflated data set after an odd file meta group")
        goal = self._position + size
        if not self.reach(goal):
            # Up to the end of the file, because `reach` reads nothing for an offset beyond it.
            self.reach(min(goal, self._size or goal))
        part = self.data[self._position : goal]
        # pydicom accepts a truncated value. An element's head, or a search for a delimiter, may end
        # with the file without damage.
        searching = size == _PYDICOM_CHUNK
        if len(part) < size and not (searching or self._searched) and (part or size > 8):
            self.is_short = True
        self._searched = searching and len(part) < size
        self._position += len(part)
        return part


def read_header(read: Read, size: int | None, first: bytes) -> Header | Reject:
    """First bytes of a file -> its header, or a reject.

    read: gives further bytes. size: of the file, None if unknown (a gzip member). Reads no further
    than the header, in steps, and at most MAX_HEADER_BYTES.
    """
    if not first:
        return Reject("empty_file", "0 bytes")
    source = _HeaderBuffer(read, size, first)
    header = Header(size_bytes=size or 0)
    try:
        try:
            _open_header(source, header)
            if header.syntax == DEFLATED:
                source = _open_deflated(source, header.start)
                header.start = 0
            _scan(source, header)
        except Unsupported as declined:
            _read_by_pydicom(source, header, str(declined))
        return _check(header)
    except _HeaderError as error:
        return error.reject
    except zlib.error:
        return Reject("header_unparseable", "damaged deflate stream")


def _open_header(source: _HeaderBuffer, header: Header) -> None:
    """Set where the data set begins, and how it is encoded (PS3.10 7.1)."""
    source.reach(132)
    start = _find_start(source.data)
    if start is None:
        raise _HeaderError("not_dicom", "no DICOM prefix and no data set")
    if start < 132:
        header.flags.append("no_preamble")
    header.start = _read_meta(source, start, header)
    if not header.syntax:
        header.flags.append("no_file_meta")
    head = source.data[header.start : header.start + 6]
    if not header.syntax:
        header.syntax = _guess_syntax(head)
    if header.syntax == BIG_ENDIAN:
        raise Unsupported("big endian")
    header.explicit = header.syntax not in (IMPLICIT_LITTLE, _GE_IMPLICIT)
    if not header.explicit and (head[4:6] in scan.SHORT_VRS or head[4:6] in scan.LONG_VRS):
        raise Unsupported("explicit VR where implicit is declared")


def _find_start(data: bytes) -> int | None:
    """Data -> offset of the file meta group, or of a data set without one; None for no DICOM."""
    if data[128:132] == b"DICM":
        return 132
    if data[:4] == b"DICM":
        return 4
    little, big = data[:2], data[1::-1]
    element, low = int.from_bytes(data[2:4], "little"), int.from_bytes(data[2:4], "big")
    for group, number in ((little, element), (big, low)):
        if group in (b"\x02\x00", b"\x08\x00") and number <= 0x0120:
            return 0
    return None


def _read_meta(source: _HeaderBuffer, position: int, header: Header) -> int:
    """Read the file meta group into `header`; returns the offset of its end."""
    while True:
        if position + 6 > len(source.data):
            source.reach(position + 6)
        data = source.data
        if data[position : position + 2] != b"\x02\x00":
            return position
        try:
            key, _, begin, length = scan.read_element(data, position, True)
        except NeedMore as more:
            source.need(more.offset)
            continue
        position = begin + length
        if position > len(data):
            source.need(position)
        if key in _META_FIELDS:
            value = source.data[begin:position].strip(b" \0").decode("ascii", "replace")
            setattr(header, _META_FIELDS[key], value)


def _guess_syntax(head: bytes) -> str:
    if int.from_bytes(head[:2], "little") > 0x00FF:
        return BIG_ENDIAN
    if head[4:6] in scan.SHORT_VRS or head[4:6] in scan.LONG_VRS:
        return EXPLICIT_LITTLE
    return IMPLICIT_LITTLE


def _open_deflated(source: _HeaderBuffer, start: int) -> _HeaderBuffer:
    """Deflated data set from `start` on -> buffer of its inflated bytes (PS3.5 A.5).

    Inflates only requested bytes, so that a bomb costs no more than MAX_HEADER_BYTES.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pending = source.data[start:]

    def inflate(_: int, length: int) -> bytes:
        nonlocal pending
        plain = bytearray()
        while len(plain) < length and not inflater.eof:
            seen = len(source.data)
            if not pending and source.reach(seen + 1):
                pending = source.data[seen:]
            part = inflater.decompress(pending, length - len(plain))
            if not part and not pending:
                break
            plain += part
            pending = inflater.unconsumed_tail
        return bytes(plain)

    return _HeaderBuffer(inflate, None, b"", can_skip=False)


def _scan(source: _HeaderBuffer, header: Header) -> None:
    header.found = found = Elements(header.start)
    while True:
        needed = len(source.data) + 1
        try:
            scan.scan_top(source.data, found, header.explicit, WANTED, _PRIVATE_DIGITS)
            # Read on, because the buffer may end between two elements.
            if found.is_complete or not source.reach(needed):
                break
        except NeedMore as more:
            if not more.is_skippable:
                source.need(more.offset)
            elif not source.skip(more.offset):
                # An encapsulated document or raw data, behind which no element of a header follows.
                header.flags += ["cut_at_long_value"] if source.is_cut else []
                break
    header.data, header.header_bytes = source.data, found.end


def _check(header: Header) -> Header | Reject:
    """Parsed header -> the header with its encodings, or a reject where it makes no row."""
    sop_class = _read_sop_class(header)
    if not sop_class:
        return Reject("no_sop_class", "neither in the data set nor in the file meta group")
    if "no_preamble" in header.flags and not sop_class.startswith(_STANDARD_CLASS):
        return Reject("not_dicom", "no DICOM prefix, and no standard SOP class")
    raw = header.found.values.get(CHARSET, b"")
    raw = raw[1] if isinstance(raw, tuple) else raw
    if isinstance(raw, bytes) and raw.strip(b" \0"):
        header.encodings, known = values.read_encodings(raw)
        if not known:
            header.flags.append("charset_trouble")
    per_frame = header.found.values.get(PER_FRAME)
    if isinstance(per_frame, list) and len(per_frame) > MAX_FRAMES:
        return Reject("header_too_long", f"{len(per_frame)} frames, the bound is {MAX_FRAMES}")
    return header


def _read_sop_class(header: Header) -> str:
    raw = header.found.values.get(_SOP_CLASS, b"")
    raw = raw[1] if isinstance(raw, tuple) else raw
    uid = values.read_uid(raw, b"UI", "<", ()) if isinstance(raw, bytes) else ""
    return uid if isinstance(uid, str) else header.media_storage_class


def _read_by_pydicom(source: _HeaderBuffer, header: Header, why: str) -> None:
    """Fill `header` by pydicom. why: the scanner's reason. Raises _HeaderError."""
    header.flags.append("read_by_pydicom")
    source.seek(0)
    try:
        reading = read_dataset(source, header.syntax == DEFLATED, WANTED, PRIVATE)
    except Exception as error:  # pydicom raises any type on damaged input: its name is the detail
        if source.error is not None:
            raise source.error from None
        _give_up(f"{why}; pydicom: {type(error).__name__}")
    if source.is_short or reading.is_truncated:
        raise _HeaderError("header_truncated", f"{why}; pydicom meets the end of the file")
    header.dataset, header.header_bytes, header.data = reading.dataset, source.tell(), source.data
    header.explicit, header.order = reading.explicit, reading.order
    header.found = Elements(header.header_bytes, values=reading.values, private=reading.private)
    if header.syntax != DEFLATED:
        header.syntax, header.media_storage_class, header.media_storage_instance = reading.meta
    if not header.syntax:
        header.syntax = EXPLICIT_LITTLE if header.explicit else IMPLICIT_LITTLE
        if header.order == ">":
            header.syntax = BIG_ENDIAN
        if "no_file_meta" not in header.flags:
            header.flags.append("no_file_meta")
    if not len(reading.dataset) and not header.media_storage_class:
        _give_up(f"{why}; pydicom finds no element")
    source.reach(header.header_bytes + 12)
    _find_pixels(header, source.data)


def _give_up(detail: str) -> NoReturn:
    raise _HeaderError("header_unparseable", detail)


def _find_pixels(header: Header, data: bytes) -> None:
    """Read the head of the pixel data element, before which pydicom stops, into `header`."""
    here = data[header.header_bytes : header.header_bytes + 12]
    byteorder: Any = "little" if header.order == "<" else "big"
    group, element = (int.from_bytes(here[i : i + 2], byteorder) for i in (0, 2))
    if group == 0x7FE0 and element in (0x0008, 0x0009, 0x0010):
        explicit = here[4:6] in scan.LONG_VRS
        length = here[8:12] if explicit else here[4:8]
        header.found.pixel_vr = here[4:6] if explicit else b"OW"
        header.found.pixel_length = int.from_bytes(length, byteorder)
        header.found.pixel_start = header.header_bytes + (12 if explicit else 8)
