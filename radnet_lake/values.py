"""Raw bytes of one element -> a typed value, by schema.Attribute.kind.

Four states stay apart (rules: contrast): absent (no call), `EMPTY`, `UNPARSEABLE` and a value; `SEVERAL` says
that several unequal values stand where one is due.
"""

import datetime
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS


class State:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


EMPTY: Final = State("empty")
UNPARSEABLE: Final = State("unparseable")
SEVERAL: Final = State("multivalued")

BINARY_FORMATS: dict[bytes, str] = {
    b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"FL": "f", b"FD": "d", b"UV": "Q", b"SV": "q",
}  # fmt: skip
_NUMERIC_PADDING = b" \0\t\r\n"
_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})$")
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?\d*$")
_DATETIME = re.compile(
    r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:\.(\d{1,6})\d*)?(?:[+-]\d{4})?$"
)
_UID = re.compile(rb"[0-9.]{1,64}$")


def decode_text(raw: bytes, encodings: Sequence[str]) -> str:
    """Text of a value; `encodings` are Python's names as `read_encodings` gives them (PS3.5 6.1.2).

    Undeclared bytes above 0x7F are read as UTF-8, and as Latin-1 where they are not that.
    """
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    if list(encodings) in (["iso8859"], ["ascii"], []):
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")
    try:
        return decode_bytes(raw, encodings, TEXT_VR_DELIMS | PN_DELIMS)
    except (LookupError, UnicodeError):
        return raw.decode("latin-1")


def read_encodings(raw: bytes) -> tuple[list[str], bool]:
    """SpecificCharacterSet's bytes -> Python encodings, and whether all its terms are known."""
    terms = [t.strip() for t in raw.decode("latin-1").strip(" \0").split("\\")]
    if terms == [""]:
        return ["iso8859"], True
    try:
        encodings: list[str] = convert_encodings(terms)
    except LookupError:
        return ["iso8859"], False
    return encodings, True


def _numbers_of(raw: bytes, vr: bytes, order: str) -> list[float] | State:
    if vr in BINARY_FORMATS:
        size = struct.calcsize(BINARY_FORMATS[vr])
        if len(raw) % size:
            return UNPARSEABLE
        return list(struct.unpack(f"{order}{len(raw) // size}{BINARY_FORMATS[vr]}", raw)) or EMPTY
    text = raw.strip(_NUMERIC_PADDING)
    if not text.replace(b"\\", b"").strip(_NUMERIC_PADDING):
        return EMPTY
    numbers = []
    for part in text.split(b"\\"):
        part = part.strip(_NUMERIC_PADDING)
        try:
            number = float(part if b"," not in part else part.replace(b",", b".", 1))
        except ValueError:
            return UNPARSEABLE
        if b"_" in part or not math.isfinite(number):
            return UNPARSEABLE
        numbers.append(number)
    return numbers


def read_numbers(raw: bytes, vr: bytes, order: str, _: Sequence[str]) -> Any:
    numbers = _numbers_of(raw, vr, order)
    if isinstance(numbers, list) and not all(map(math.isfinite, numbers)):
        return UNPARSEABLE
    return [float(n) for n in numbers] if isinstance(numbers, list) else numbers


def read_number(raw: bytes, vr: bytes, order: str, encodings: Sequence[str]) -> Any:
    numbers = read_numbers(raw, vr, order, encodings)
    if not isinstance(numbers, list):
        return numbers
    return numbers[0] if all(n == numbers[0] for n in numbers) else SEVERAL


def read_int(raw: bytes, vr: bytes, order: str, encodings: Sequence[str]) -> Any:
    number = read_number(raw, vr, order, encodings)
    if isinstance(number, State):
        return number
    return int(number) if number == int(number) and abs(number) < 2**63 else UNPARSEABLE


def read_uid(raw: bytes, vr: bytes, order: str, _: Sequence[str]) -> Any:
    uid = raw.strip(b" \0")
    if not uid:
        return EMPTY
    if _UID.match(uid):
        return uid.decode("ascii")
    printable = uid.decode("ascii", "replace")
    return printable if printable.isprintable() and len(printable) <= 128 else UNPARSEABLE


def read_text(raw: bytes, vr: bytes, order: str, encodings: Sequence[str]) -> Any:
    if vr in BINARY_FORMATS:
        return UNPARSEABLE
    text = decode_text(raw, encodings).replace("\0", " ").strip()
    return text if text.strip("\\ ") else EMPTY


def read_texts(raw: bytes, vr: bytes, order: str, encodings: Sequence[str]) -> Any:
    # Decode before splitting: a second byte of Shift-JIS or GB18030 can be a backslash.
    text = read_text(raw, vr, order, encodings)
    return text if isinstance(text, State) else [part.strip() for part in text.split("\\")]


def read_date(raw: bytes, vr: bytes, order: str, _: Sequence[str]) -> Any:
    text = raw.strip(_NUMERIC_PADDING).decode("latin-1")
    if not text:
        return EMPTY
    if match := _DATE.match(text):
        try:
            return datetime.date(int(match[1]), int(match[2]), int(match[3]))
        except ValueError:
            return UNPARSEABLE
    return UNPARSEABLE


def read_time(raw: bytes, vr: bytes, order: str, _: Sequence[str]) -> Any:
    text = raw.strip(_NUMERIC_PADDING).decode("latin-1")
    if not text:
        return EMPTY
    match = _TIME.match(text)
    if not match:
        return UNPARSEABLE
    hours, minutes, seconds = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    if hours > 23 or minutes > 59 or seconds > 60:
        return UNPARSEABLE
    return hours * 3600 + minutes * 60 + seconds + float(f"0.{match[4] or 0}")


def read_datetime(raw: bytes, vr: bytes, order: str, _: Sequence[str]) -> Any:
    text = raw.strip(_NUMERIC_PADDING).decode("latin-1")
    if not text:
        return EMPTY
    match = _DATETIME.match(text)
    if not match:
        return UNPARSEABLE
    year, month, day, hour, minute, second = (int(g) if g else None for g in match.groups()[:6])
    microsecond = int((match[7] or "0").ljust(6, "0"))
    try:
        return datetime.datetime(
            year or 0,
            month or 1,
            day or 1,
            hour or 0,
            minute or 0,
            min(second or 0, 59),
            microsecond,
        )
    except ValueError:
        return UNPARSEABLE


READERS: dict[str, Callable[[bytes, bytes, str, Sequence[str]], Any]] = {
    "uid": read_uid,
    "text": read_text,
    "texts": read_texts,
    "int": read_int,
    "number": read_number,
    "numbers": read_numbers,
    "date": read_date,
    "time": read_time,
    "datetime": read_datetime,
}
"""kind -> reader(raw bytes, VR, byte order '<' or '>', encodings); codes are read by header.py."""
