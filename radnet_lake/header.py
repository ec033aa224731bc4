"""The bytes of one DICOM file -> its header, or the reason why there is none; and the header -> typed rows.

The own scanner (`scan`) reads what is ordinary; pydicom reads what is not, and is the oracle in the tests.
Neither decodes pixels. Nothing here touches a disk or a network: bytes come through a `Read`.
"""

import io
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pydicom
from pydicom.dataelem import RawDataElement

from radnet_lake import scan, schema, values
from radnet_lake.scan import Found, NeedMore, Odd, Raw, Wanted, make_key

MAX_HEADER_BYTES = 64 << 20
"""Longest header that is read: 10,000 frames of enhanced MR take about 20 MB."""
MAX_FRAMES = 100_000
"""Most frames of one object; the largest real series have about as many instances."""
READ_STEP = 4096
"""Reads grow in whole disk pages."""

Read = Callable[[int, int], bytes]
"""(offset, length) -> bytes of the file, fewer only at its end."""


class Reject(NamedTuple):
    """Why a file gives no row: a key of schema.REJECT_REASONS, and technical detail without header text."""

    reason: str
    detail: str


@dataclass(slots=True)
class Header:
    """One parsed header. `data[start:]` is the data set; `dataset` is pydicom's where that had to read it."""

    data: bytes
    start: int = 0
    syntax: str = ""
    explicit: bool = True
    order: str = "<"
    found: Found = field(default_factory=Found)
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

IDENTIFIERS: tuple[int, ...] = (
    0x00100010, 0x00100020, 0x00101000, 0x00101001, 0x00101005, 0x00101060, 0x00100030,
    0x00080050, 0x00080090, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00321032,
)  # fmt: skip
"""Patient's, physicians' and operators' names and numbers: read only to be taken out of other text."""
MODALITY_LUT = make_key(0x00283000)
SHARED, PER_FRAME = make_key(0x52009229), make_key(0x52009230)
CODE_KEYS = {make_key(t): n for t, n in ((0x00080100, "CodeValue"), (0x00080119, "CodeValue"),
              (0x00080120, "CodeValue"), (0x00080102, "CodingSchemeDesignator"),
              (0x00080104, "CodeMeaning"))}  # fmt: skip
PIXEL_REPRESENTATION = make_key(0x00280103)
_CHARSET = make_key(0x00080005)


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
_PRIVATE_GROUPS = frozenset(group for _, group, _ in PRIVATE)


def read_header(read: Read, size: int | None, first: bytes) -> Header | Reject:
    """The header of a file, or why it has none.

    read: gives further bytes. size: of the file, None if unknown (a gzip member). first: its first bytes.
    Reads no further than the header, in steps, and at most MAX_HEADER_BYTES.
    """
    data = first
    if not data:
        return Reject("empty_file", "0 bytes")
    at_end = False
    while True:
        at_end = at_end or (size is not None and len(data) >= size)
        try:
            return _parse(data, size, at_end)
        except NeedMore as more:
            if at_end:
                return _truncated(data, more.offset)
            if more.offset > MAX_HEADER_BYTES and (size is None or more.offset <= size):
                return Reject("header_too_long", f"over {MAX_HEADER_BYTES} bytes")
            goal = max(more.offset, min(2 * len(data), MAX_HEADER_BYTES)) + READ_STEP
            goal = min(goal, MAX_HEADER_BYTES + READ_STEP) // READ_STEP * READ_STEP
            further = read(len(data), goal - len(data))
            data += further
            at_end = not further
        except Odd as odd:
            return _read_by_pydicom(read, size, data, str(odd))
        except zlib.error:
            return Reject("header_unparseable", "damaged deflate stream")


def _truncated(data: bytes, needed: int) -> Reject:
    if _find_start(data) is None:
        return Reject("not_dicom", "no DICOM prefix and no data set")
    return Reject("header_truncated", f"{len(data)} bytes, the next element needs {needed}")


def _find_start(data: bytes) -> tuple[int, list[str]] | None:
    """Where the file meta group or the bare data set begins, and flags (PS3.10 7.1)."""
    if data[128:132] == b"DICM":
        return 132, []
    if data[:4] == b"DICM":
        return 4, ["no_preamble"]
    little, big = data[:2], data[1::-1]
    element, low = int.from_bytes(data[2:4], "little"), int.from_bytes(data[2:4], "big")
    for group, number in ((little, element), (big, low)):
        if group in (b"\x02\x00", b"\x08\x00") and number <= 0x0120:
            return 0, ["no_preamble"]
    return None


def _parse(data: bytes, size: int | None, at_end: bool) -> Header | Reject:
    if len(data) < 132 and not at_end:
        raise NeedMore(132)
    found_start = _find_start(data)
    if found_start is None:
        return Reject("not_dicom", "no DICOM prefix and no data set")
    header = Header(data, size_bytes=size or 0)
    header.start, header.flags = found_start
    _read_meta(header)
    if not header.syntax:
        header.flags.append("no_file_meta")
        _guess_syntax(header)
    if header.syntax == BIG_ENDIAN:
        raise Odd("big endian")
    header.explicit = header.syntax not in (IMPLICIT_LITTLE, _GE_IMPLICIT)
    if header.syntax == DEFLATED:
        _inflate(header, at_end)
    header.found = scan.scan_top(
        header.data, header.start, header.explicit, WANTED, _PRIVATE_GROUPS
    )
    if header.found.pixel_length is None and not at_end and header.syntax != DEFLATED:
        # The buffer ends between two elements: what follows is not known yet.
        raise NeedMore(len(data) + 1)
    header.header_bytes = header.found.end
    return _check(header)


def _check(header: Header) -> Header | Reject:
    """What must hold of any data set that becomes a row."""
    sop_class = _plain_uid(header, 0x00080016) or header.media_storage_class
    if not sop_class:
        return Reject("no_sop_class", "neither in the data set nor in the file meta group")
    if "no_preamble" in header.flags and not sop_class.startswith(_STANDARD_CLASS):
        return Reject("not_dicom", "no DICOM prefix, and no standard SOP class")
    raw = header.found.values.get(_CHARSET, b"")
    if isinstance(raw, bytes) and raw.strip(b" \0"):
        encodings, known = values.read_encodings(raw)
        header.encodings = tuple(encodings)
        if not known:
            header.flags.append("charset_trouble")
    per_frame = header.found.values.get(PER_FRAME)
    if isinstance(per_frame, list) and len(per_frame) > MAX_FRAMES:
        return Reject("header_too_long", f"{len(per_frame)} frames, the bound is {MAX_FRAMES}")
    return header


def _plain_uid(header: Header, tag: int) -> str:
    raw = header.found.values.get(make_key(tag), b"")
    raw = raw[1] if isinstance(raw, tuple) else raw
    return raw.strip(b" \0").decode("ascii", "replace") if isinstance(raw, bytes) else ""


def _read_meta(header: Header) -> None:
    data, position = header.data, header.start
    while data[position : position + 2] == b"\x02\x00":
        key, _, begin, length = scan.read_element(data, position, True)
        position = begin + length
        if position > len(data):
            raise NeedMore(position)
        value = data[begin:position].strip(b" \0")
        if key == 0x00100002:
            header.syntax = value.decode("ascii", "replace")
        elif key == 0x00020002:
            header.media_storage_class = value.decode("ascii", "replace")
        elif key == 0x00030002:
            header.media_storage_instance = value.decode("ascii", "replace")
    header.start = position


def _guess_syntax(header: Header) -> None:
    head = header.data[header.start : header.start + 6]
    if len(head) < 6:
        return
    if int.from_bytes(head[:2], "little") > 0x00FF:
        header.syntax = BIG_ENDIAN
    elif head[4:6] in scan.SHORT_VRS or head[4:6] in scan.LONG_VRS:
        header.syntax = EXPLICIT_LITTLE
    else:
        header.syntax = IMPLICIT_LITTLE


def _inflate(header: Header, at_end: bool) -> None:
    """Deflated data set (PS3.5 A.5) -> its plain bytes, at most MAX_HEADER_BYTES of them."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(header.data[header.start :], MAX_HEADER_BYTES)
    try:
        found = scan.scan_top(plain, 0, True, WANTED, _PRIVATE_GROUPS)
        complete = found.pixel_length is not None or inflater.eof
    except NeedMore:
        complete = False
    if not complete and not at_end and len(plain) < MAX_HEADER_BYTES:
        raise NeedMore(len(header.data) + READ_STEP)
    header.data, header.start = plain, 0


class _BoundedFile(io.RawIOBase):
    """What pydicom reads from: grows by need, and ends at MAX_HEADER_BYTES."""

    def __init__(self, read: Read, data: bytes) -> None:
        self._read, self.data, self._position, self.bounded = read, data, 0, False

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
        goal = MAX_HEADER_BYTES if size < 0 else self._position + size
        if goal > MAX_HEADER_BYTES:
            goal, self.bounded = MAX_HEADER_BYTES, True
        if goal > len(self.data):
            self.data += self._read(len(self.data), goal - len(self.data))
        part = self.data[self._position : goal]
        self._position += len(part)
        return part


def _read_by_pydicom(read: Read, size: int | None, data: bytes, why: str) -> Header | Reject:
    file = _BoundedFile(read, data)
    header = Header(data, size_bytes=size or 0, flags=["read_by_pydicom"])
    start = _find_start(data)
    if start is not None:
        header.flags += start[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)  # type: ignore[arg-type]
            meta = dataset.file_meta
            header.syntax = str(meta.get("TransferSyntaxUID", ""))
            header.media_storage_class = str(meta.get("MediaStorageSOPClassUID", ""))
            header.media_storage_instance = str(meta.get("MediaStorageSOPInstanceUID", ""))
            little = dataset.original_encoding[1] is not False
            header.order = "<" if little else ">"
            header.found.values, header.found.private = _collect(dataset)
    except (
        Exception
    ) as error:  # pydicom raises any kind on damaged input; the class name is the detail
        reason = "header_too_long" if file.bounded else "header_unparseable"
        return Reject(reason, f"{why}; pydicom: {type(error).__name__}")
    if not header.syntax:
        header.flags.append("no_file_meta")
        implicit, _ = dataset.original_encoding
        header.syntax = (
            BIG_ENDIAN if not little else IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE
        )
    header.dataset, header.header_bytes = dataset, file.tell()
    _find_pixels(header, file.data)
    if not len(dataset) and not header.media_storage_class:
        return Reject("header_unparseable", f"{why}; pydicom finds no element")
    return _check(header)


def _find_pixels(header: Header, data: bytes) -> None:
    """pydicom stops before the pixel data; read that element's head."""
    here = data[header.header_bytes : header.header_bytes + 12]
    byteorder: Any = "little" if header.order == "<" else "big"
    group, element = (int.from_bytes(here[i : i + 2], byteorder) for i in (0, 2))
    if group == 0x7FE0 and element in (0x0008, 0x0009, 0x0010):
        explicit = here[4:6] in scan.LONG_VRS
        length = here[8:12] if explicit else here[4:8]
        header.found.pixel_vr = here[4:6] if explicit else b"OW"
        header.found.pixel_length = int.from_bytes(length, byteorder)
        header.found.pixel_start = header.header_bytes + (12 if explicit else 8)


def _collect(
    dataset: pydicom.Dataset,
) -> tuple[dict[int, Raw], dict[tuple[bytes, int, int], Raw]]:
    """pydicom's raw elements in the scanner's form."""
    found = _collect_wanted(dataset, WANTED)
    private: dict[tuple[bytes, int, int], Raw] = {}
    for creator, group, element in PRIVATE:
        try:
            block = dataset.private_block(group, creator.decode())
        except KeyError:
            continue
        raw = _raw_of(dataset, block.get_tag(element))
        if raw is not None:
            private[creator, group, element] = raw
    return found, private


def _collect_wanted(dataset: pydicom.Dataset, wanted: Wanted) -> dict[int, Raw]:
    found: dict[int, Raw] = {}
    for key, (vr, inside) in wanted.items():
        tag = (key & 0xFFFF) << 16 | key >> 16
        if tag not in dataset:
            continue
        if vr == b"SQ":
            items = dataset[tag].value
            if isinstance(items, pydicom.Sequence):
                found[key] = [_collect_wanted(item, inside) for item in items]
            continue
        raw = _raw_of(dataset, tag)
        if raw is not None:
            found[key] = raw[1] if isinstance(raw, tuple) and raw[0] in (vr, b"") else raw
    return found


def _raw_of(dataset: pydicom.Dataset, tag: Any) -> Raw | None:
    if tag not in dataset:
        return None
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        return ((element.VR or "").encode(), element.value or b"")
    if element is None or element.VR == "SQ":
        return None
    value = element.value
    if isinstance(value, bytes):
        return (element.VR.encode(), value)
    parts = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return (b"", "\\".join("" if p is None else str(p) for p in parts).encode("utf-8", "replace"))
