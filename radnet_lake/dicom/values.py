"""Takes the raw bytes of one element, gives a typed value by schema.Attribute.kind.

Four states are distinguished, because for contrast agents absent and empty differ: absent (no
call), `EMPTY`, `UNPARSEABLE`, and a value; `SEVERAL` is several unequal values instead of one.
"""

import contextlib
import datetime
import logging
import math
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS


class State:
    """Why an attribute has no value; <name>_keywords is the column that lists such attributes."""

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
UNDECLARED: Final = ("iso8859",)
"""Encodings where SpecificCharacterSet is absent or empty, which means ASCII."""
_ENCODINGS = frozenset(python_encoding.values())
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMERIC_PADDING = b" \0\t\r\n"
_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})$")
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6})\d*)?$")
_DATETIME = re.compile(
    r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:\.(\d{1,6})\d*)?(?:[+-]\d{4})?$"
)
_UID = re.compile(rb"[0-9.]{1,64}$")


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[list[str]]:
    """Collect pydicom's warnings in a list instead of the log, because they quote the header."""
    logger = logging.getLogger("pydicom")
    before, messages = logger.disabled, []  # type: bool, list[str]
    logger.disabled = True
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
            messages += [str(warning.message) for warning in caught]
    finally:
        logger.disabled = before


def decode_text(raw: bytes, encodings: Sequence[str]) -> str:
    """Bytes and the encodings of `read_encodings` -> text (PS3.5 6.1.2).

    Bytes that are invalid in the declared SpecificCharacterSet, or above 0x7F where none is
    declared, are read as UTF-8, and as Latin-1 where they are not UTF-8.
    """
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    text = _decode_declared(raw, encodings)
    if text is not None:
        return text
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def is_declared(raw: bytes, encodings: Sequence[str]) -> bool:
    """Whether the bytes are valid in the declared SpecificCharacterSet."""
    if raw.isascii() and b"\x1b" not in raw:
        return True
    return _decode_declared(raw, encodings) is not None


def _decode_declared(raw: bytes, encodings: Sequence[str]) -> str | None:
    if tuple(encodings) == UNDECLARED and not raw.isascii():
        return None
    try:
        with quiet_pydicom() as warned:
            text: str = decode_bytes(raw, encodings, TEXT_VR_DELIMS | PN_DELIMS)
    except (LookupError, UnicodeError):
        return None
    # GB18030 can encode surrogates, which are invalid in UTF-8.
    return None if warned or (not text.isprintable() and _SURROGATE.search(text)) else text


@lru_cache(maxsize=256)
def read_encodings(raw: bytes) -> tuple[tuple[str, ...], bool]:
    """Bytes of SpecificCharacterSet -> Python encodings, and whether all its terms are known."""
    terms = [t.strip() for t in raw.decode("latin-1").strip(" \0").split("\\")]
    if terms == [""]:
        return UNDECLARED, True
    try:
        with quiet_pydicom():
            encodings = tuple(convert_encodings(terms))
    except (LookupError, ValueError):
        return UNDECLARED, False
    # Checked, because pydicom accepts any codec of Python, such as unicode_escape.
    if not _ENCODINGS.issuperset(encodings):
        return UNDECLARED, False
    misspelt = [t for t in terms if t not in python_encoding]
    return encodings, not misspelt or encodings != UNDECLARED


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
    # UIDs with letters are accepted; others than ASCII could make two UIDs equal.
    text = uid.decode("latin-1")
    return text if text.isascii() and text.isprintable() and len(text) <= 128 else UNPARSEABLE


def read_text(raw: bytes, vr: bytes, order: str, encodings: Sequence[str]) -> Any:
    if vr in BINARY_FORMATS:
        return UNPARSEABLE
    text = decode_text(raw, encodings).replace("\0", " ").strip()
    return text if text.strip("\\ ") else EMPTY


def read_texts(raw: bytes, vr: bytes, order: str, encodings: Sequence[str]) -> Any:
    # Decoded before splitting, because a second byte of Shift-JIS or GB18030 can be a backslash.
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
"""kind -> reader(raw bytes, VR, byte order '<' or '>', encodings); instances.py reads codes."""
