"""Takes one header, gives its typed `instances` rows: one, or one per frame of a multi-frame image.

An attribute of a frame replaces the shared one, and that the one of the top level (PS3.3 C.7.6.16).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from radnet_lake import schema
from radnet_lake.dicom import header as headers
from radnet_lake.dicom import values
from radnet_lake.dicom.header import Header, Reject
from radnet_lake.dicom.scan import UNDEFINED, Raw, make_key

Row = dict[str, Any]

MAX_PLAIN_FRAMES = 20_000
"""Most frames of an object without functional groups, whose rows differ by number only."""
_MEMO_LIMIT = 50_000
"""Values in the memo, about 20 MB; most occur in one series only."""

_Plan = tuple[str, Callable[..., Any], bytes, bool]
_PLANS: dict[int, _Plan] = {
    make_key(a.tag): (a.keyword, values.READERS[a.kind], a.vr.encode(), a.kind in ("text", "texts"))
    for a in schema.ATTRIBUTES
    if not a.creator and a.kind != "codes"
}
_CODES = {make_key(a.tag): a.keyword for a in schema.ATTRIBUTES if a.kind == "codes"}
_FRAME_GROUPS = [make_key(t) for t in sorted(schema.FUNCTIONAL_GROUPS)]
_PIXEL_PADDING = (make_key(0x00280120), make_key(0x00280121))

OBJECT_KINDS: tuple[tuple[str, str], ...] = (
    ("1.2.840.10008.1.3.10", "dicomdir"),
    ("1.2.840.10008.5.1.4.1.1.88.59", "ko"),
    ("1.2.840.10008.5.1.4.1.1.88.", "sr"),
    ("1.2.840.10008.5.1.4.1.1.66.4", "seg"),
    ("1.2.840.10008.5.1.4.1.1.66.5", "seg"),
    ("1.2.840.10008.5.1.4.1.1.66.", "registration"),
    ("1.2.840.10008.5.1.4.1.1.66", "raw"),
    ("1.2.840.10008.5.1.4.1.1.67", "rwvm"),
    ("1.2.840.10008.5.1.4.1.1.104.1", "pdf"),
    ("1.2.840.10008.5.1.4.1.1.104.", "document"),
    ("1.2.840.10008.5.1.4.1.1.11.", "pr"),
    ("1.2.840.10008.5.1.4.1.1.9.", "waveform"),
    ("1.2.840.10008.5.1.4.1.1.4.2", "spectroscopy"),
    ("1.2.840.10008.5.1.4.1.1.481.2", "rtdose"),
    ("1.2.840.10008.5.1.4.1.1.481.3", "rtstruct"),
    ("1.2.840.10008.5.1.4.1.1.481.5", "rtplan"),
    ("1.2.840.10008.5.1.4.1.1.481.8", "rtplan"),
    ("1.2.840.10008.5.1.4.1.1.481.4", "rtrecord"),
)
"""SOP class, or its prefix that ends with a dot -> object_kind (PS3.4 B.5); first match wins."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."

_Memo = dict[bytes, Any]
_memos: dict[tuple[str, tuple[str, ...]], dict[int, tuple[*_Plan, _Memo]]] = {}
_memo_count = 0


def make_frame_rows(header: Header) -> list[Row] | Reject:
    """Header -> typed rows with the columns of INSTANCE_FACTS and ATTRIBUTES that have a value.

    Attributes that are present without one are listed in empty_keywords, unparseable_keywords and
    multivalued_keywords. Returns a reject for errors that read_header does not find.
    """
    top: Row = {}
    states: dict[str, list[str]] = {}
    _assign(header.found.values, header, top, states)
    for place, raw in header.found.private.items():
        a = headers.PRIVATE.get(place)
        if a is not None:
            _set_value(top, states, a.keyword, _read_private(a, raw, header))
    for keyword, stored in (
        ("SOPClassUID", header.media_storage_class),
        ("SOPInstanceUID", header.media_storage_instance),
    ):
        if stored and not top.get(keyword):
            top[keyword] = stored
            states = {s: [n for n in names if n != keyword] for s, names in states.items()}
    top |= {
        "TransferSyntaxUID": header.syntax,
        "header_bytes": header.header_bytes,
        "has_pixel_data": header.found.pixel_length is not None,
        "has_modality_lut": headers.MODALITY_LUT in header.found.values,
    }
    top["object_kind"] = _object_kind(top)
    rows = _frames(header, top, states)
    if isinstance(rows, Reject):
        return rows
    if _is_truncated(header, top):
        header.flags.append("truncated")
    for row in rows:
        row["flags"] = header.flags + row.get("flags", [])
    return rows


@lru_cache(maxsize=256)
def _find_kind(sop_class: str) -> str:
    for start, kind in OBJECT_KINDS:
        if sop_class == start or (start.endswith(".") and sop_class.startswith(start)):
            return kind
    return ""


def _object_kind(row: Row) -> str:
    sop_class = row.get("SOPClassUID", "")
    if kind := _find_kind(sop_class):
        return kind
    is_image = sop_class.startswith(_STORAGE) or row["has_pixel_data"] or row.get("Rows")
    return "image" if is_image else "other"


def _frames(header: Header, top: Row, states: dict[str, list[str]]) -> list[Row] | Reject:
    per_frame = header.found.values.get(headers.PER_FRAME)
    declared = top.get("NumberOfFrames") or 1
    if top["object_kind"] != "image" or (not per_frame and declared <= 1):
        return [_finish(top, states)]
    if not isinstance(per_frame, list) or not per_frame:
        # Without functional groups the rows of all frames are equal but for the number.
        plausible = min(MAX_PLAIN_FRAMES, max(1, header.size_bytes // 64))
        if declared > plausible:
            return [_finish(top, states) | {"flags": ["frame_count_mismatch"]}]
        row = _finish(top, states)
        return [row | {"frame_number": n} for n in range(1, declared + 1)]
    shared: Row = dict(top)
    shared_states = {k: list(v) for k, v in states.items()}
    for item in _items(header.found.values.get(headers.SHARED)):
        _assign_groups(item, header, shared, shared_states)
    rows = []
    for number, item in enumerate(per_frame, start=1):
        row, row_states = dict(shared), {k: list(v) for k, v in shared_states.items()}
        _assign_groups(item, header, row, row_states)
        row["frame_number"] = number
        rows.append(_finish(row, row_states))
    if declared != len(per_frame):
        for row in rows:
            row["flags"] = ["frame_count_mismatch"]
    return rows


def _items(raw: Raw | None) -> Sequence[dict[int, Any]]:
    return raw[:1] if isinstance(raw, list) else []


def _assign_groups(
    groups: dict[int, Any], header: Header, row: Row, states: dict[str, list[str]]
) -> None:
    for key in _FRAME_GROUPS:
        for item in _items(groups.get(key)):
            if states:
                # Removed, because a value of this level replaces the state of a higher level.
                present = {_PLANS[k][0] for k in item if k in _PLANS}
                for state, names in states.items():
                    states[state] = [name for name in names if name not in present]
            _assign(item, header, row, states)


def _finish(row: Row, states: dict[str, list[str]]) -> Row:
    return row | {f"{state}_keywords": sorted(names) for state, names in states.items() if names}


def _assign(found: dict[int, Raw], header: Header, row: Row, states: dict[str, list[str]]) -> None:
    """Convert raw values into `row`; memoised, because a series repeats most of its values."""
    global _memo_count
    if _memo_count > _MEMO_LIMIT:
        _memos.clear()
        _memo_count = 0
    order, encodings = header.order, header.encodings
    plans = _memos.get((order, encodings))
    if plans is None:
        plans = _memos[order, encodings] = {key: (*plan, {}) for key, plan in _PLANS.items()}
    for key, raw in found.items():
        plan = plans.get(key)
        if plan is None:
            if key in _CODES and isinstance(raw, list):
                _set_value(row, states, _CODES[key], _read_codes(raw, header))
            continue
        keyword, reader, vr, is_text, memo = plan
        if type(raw) is bytes and raw in memo:
            value = memo[raw]
        elif isinstance(raw, list):
            value = values.UNPARSEABLE
        else:
            written, data = raw if isinstance(raw, tuple) else (b"", raw)
            if key in _PIXEL_PADDING and (written == b"UN" or not header.explicit):
                written = _padding_vr(header)
            elif written in (b"", b"UN"):
                written = vr
            value = reader(data, written, order, encodings)
            if is_text and not values.is_declared(data, encodings):
                if "charset_trouble" not in header.flags:
                    header.flags.append("charset_trouble")
            elif type(raw) is bytes and len(raw) <= 256 and key not in _PIXEL_PADDING:
                memo[raw] = value
                _memo_count += 1
        if type(value) is values.State:
            _set_value(row, states, keyword, value)
        else:
            row[keyword] = value


def _set_value(row: Row, states: dict[str, list[str]], keyword: str, value: Any) -> None:
    if type(value) is not values.State:
        row[keyword] = value
        return
    row.pop(keyword, None)
    if value is values.EMPTY and keyword in _TEXT_KEYWORDS:
        row[keyword] = ""
    states.setdefault(value.name, []).append(keyword)


_TEXT_KEYWORDS = {a.keyword for a in schema.ATTRIBUTES if a.kind in ("text", "uid")}


def _padding_vr(header: Header) -> bytes:
    """VR of PixelPaddingValue, signed if the pixels are; implicit VR states none (PS3.5 A.1)."""
    raw = header.found.values.get(headers.PIXEL_REPRESENTATION, b"")
    vr, data = raw if isinstance(raw, tuple) else (b"US", raw)
    is_signed = isinstance(data, bytes) and values.read_int(data, vr, header.order, ()) == 1
    return b"SS" if is_signed else b"US"


def _read_private(a: schema.Attribute, raw: Raw, header: Header) -> Any:
    vr, value = raw if isinstance(raw, tuple) else (b"", raw)
    if not isinstance(value, bytes):
        return values.UNPARSEABLE
    # The vendor's VR for UN, because archives rewrite private elements as UN.
    vr = a.vr.encode() if vr in (b"", b"UN") else vr
    return values.READERS[a.kind](value, vr, header.order, header.encodings)


def _read_codes(items: list[dict[int, Any]], header: Header) -> Any:
    codes = []
    for item in items:
        code: dict[str, str | None] = {}
        for key, raw in item.items():
            raw = raw[1] if isinstance(raw, tuple) else raw
            if isinstance(raw, bytes) and (name := headers.CODE_KEYS.get(key)):
                text = values.read_text(raw, b"LO", header.order, header.encodings)
                if isinstance(text, str):
                    code[name] = text
        if code:
            codes.append(code)
    return codes or values.EMPTY


def read_identifiers(header: Header) -> list[str]:
    """Header -> names and numbers of the patient, physicians and operators, as text."""
    found = []
    for tag in headers.IDENTIFIERS:
        raw = header.found.values.get(make_key(tag))
        raw = raw[1] if isinstance(raw, tuple) else raw
        if isinstance(raw, bytes) and raw.strip(b" \0"):
            found += values.decode_text(raw, header.encodings).split("\\")
    return [text.strip(" \0") for text in found if text.strip(" \0^=")]


def _is_truncated(header: Header, row: Row) -> bool:
    """Whether the file ends inside the pixel data, or these are shorter than the image."""
    length = header.found.pixel_length
    if length is None or header.syntax == headers.DEFLATED:
        return False
    if length == UNDEFINED:
        return 0 < header.size_bytes <= header.found.pixel_start
    if header.size_bytes and header.found.pixel_start + length > header.size_bytes:
        return True
    if row.get("PhotometricInterpretation") == "YBR_FULL_422":
        return False
    bits = row.get("BitsAllocated") or 0
    for keyword in ("Rows", "Columns"):
        bits *= row.get(keyword) or 0
    for keyword in ("SamplesPerPixel", "NumberOfFrames"):
        bits *= row.get(keyword) or 1
    return bool(length < bits // 8)
