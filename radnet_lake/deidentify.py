"""One header without identity: keyed hashes, shifted dates, relative times, allow-listed text.

What becomes of a value follows its class in schema.Attribute.phi (PS3.15 Annex E with Clean
Descriptors, Retain Longitudinal Temporal Information with Modified Dates, Retain Patient
Characteristics, Retain Safe Private). Absent stays None and empty stays '' in every class.

keep  physics and geometry, as they are.
uid   2.25.<128 bits of the hash>; one domain, so references survive; UIDs of DICOM itself stay.
hash  32 hex digits, one domain per attribute; PatientID is hashed together with IssuerOfPatientID.
date  1 to 3650 whole days back, constant per patient (per study where there is no PatientID).
time  seconds since StudyTime of the same header, negative before it; without StudyTime a constant
      offset per patient is added; never wrapped, so differences stay exact. DateTimes move by the
      same days and seconds. A time that would leave its day is left out of the DICOM JSON header.
age   bins of 5 years, all from 90 years on are '090Y'; unreadable ages are dropped.
text  words of the vocabulary, single letters and short numbers stay; other words become <x>, and so
      does a word equal to a part of a name or identifier of this header, vocabulary or not.
code  as it is if it looks like a coded string and holds no identifier; else treated as text.

In the full header everything else is denied: only known value representations stay, group 0010
keeps sex, age and hashes, private elements stay only where schema.py lists them.

Withheld words are handed back sealed (AES-SIV, RFC 5297: equal words have equal seals), so that
words which many patients share can be counted and let through; words that look like numbers,
dates or addresses never are. Subkeys for HMAC-SHA-256 and AES come from one key by HKDF (RFC 5869).
"""

import base64
import csv
import datetime
import hmac
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from radnet_lake.errors import SettingError
from radnet_lake.schema import ATTRIBUTES, INSTANCE_FACTS, ORIGIN, SQL_DIR, Attribute

_K = TypeVar("_K")
_V = TypeVar("_V")
_D = TypeVar("_D", datetime.date, datetime.datetime)

MIN_KEY_BYTES = 32
PROMOTE_PATIENTS = 5
"""A word that this many patients share names none of them (k-anonymity, our choice of k)."""
WITHHELD = "<x>"
NAME_MARK = "n:"
"""Before a sealed word that was withheld as a name: never promoted, whoever has it."""
SEALED_URI = "sealed:"
CACHE_ENTRIES = 4096
MAX_SHIFT_DAYS = 3650
_DICOM_UIDS = "1.2.840.10008."

_KEY_REMEDY = (
    "make one with `openssl rand -hex 32 > FILE; chmod 600 FILE; export RADNET_LAKE_KEY_FILE=FILE`"
    ", or harvest with --phi keep"
)
_COLUMNS = {a.keyword: a for a in ATTRIBUTES}
_ROW_COLUMNS = _COLUMNS.keys() | {c.name for c in (*ORIGIN, *INSTANCE_FACTS)}
_CLOCK_COLUMNS = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")
_CODE_PARTS = {
    "CodeValue": "code value",
    "CodingSchemeDesignator": "code value",
    "CodeMeaning": "text",
}
_BY_TAG = {a.tag: a for a in ATTRIBUTES if not a.creator}
_PRIVATE = {(a.creator, a.tag): a for a in ATTRIBUTES if a.creator}
_CREATORS = {a.creator for a in ATTRIBUTES if a.creator}
_UIDS = tuple(a.keyword for a in ATTRIBUTES if a.phi == "uid")
_KEPT_UIDS = (
    "TransferSyntaxUID",
    *(a.keyword for a in ATTRIBUTES if a.phi == "keep" and a.kind == "uid"),
)
_HASHES = tuple(a.keyword for a in ATTRIBUTES if a.phi == "hash" and a.keyword != "PatientID")
_AGES = tuple(a.keyword for a in ATTRIBUTES if a.phi == "age")
_DATES = tuple(a.keyword for a in ATTRIBUTES if a.kind == "date")
_TIMES = tuple(a.keyword for a in ATTRIBUTES if a.kind == "time")
_DATETIMES = tuple(a.keyword for a in ATTRIBUTES if a.kind == "datetime")
_TEXTS = tuple(
    (a.keyword, a.phi) for a in ATTRIBUTES if a.phi in ("text", "code") and a.kind == "text"
)
_LISTS = tuple(
    (a.keyword, a.phi) for a in ATTRIBUTES if a.phi in ("text", "code") and a.kind == "texts"
)
_CODES = tuple(a.keyword for a in ATTRIBUTES if a.kind == "codes")

_MONTH = "(?:JAN|FEB|MAR|APR|MAY|MAI|JUN|JUL|AUG|SEP|OCT|OKT|NOV|DEC|DEZ)[A-Z]{0,6}"
_DAY, _MON, _YEAR = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:0?[1-9]|1[0-2])", "(?:19|20)[0-9]{2}"
_FOLDED = str.maketrans({"Ł": "L", "Ø": "O", "Đ": "D", "ẞ": "SS", "Æ": "AE", "Œ": "OE"})
_BASES = str.maketrans("ŁłØøĐđßÆæŒœ", "LlOoDdsAaOo")
_STRIPPED = re.compile(
    "|".join(
        (
            r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*",  # e-mail
            r"(?:https?|ftp)://\S+",
            r"[0-9]+(?:\.[0-9]+){4,}",  # a UID
            r"\+[0-9][0-9 ()./-]{6,}[0-9]",  # telephone, with country
            r"\(?(?<![0-9])[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}(?![0-9])",  # telephone
            r"(?<![0-9.])0[1-9][0-9]{0,3}(?:[ /.-][0-9]{2,4}){3,}(?![0-9])",  # telephone, in pairs
            r"(?<![0-9])0[1-9][0-9]{1,3}[ /-][0-9]{3,}(?:[ -]?[0-9]+)*",  # and area code
            r"(?<![0-9-])[2-9][0-9]{2}-(?![0-9]{2}00)[0-9]{4}(?![0-9])",  # local; no b-values
            r"(?<![0-9-])[0-9]{2,}(?:-[0-9]{2,}){2,}",  # numbers such as those of social insurance
            rf"(?<![0-9]){_YEAR}([-./_ ]){_MON}\1{_DAY}(?![0-9])",
            rf"(?<![0-9]){_DAY}([-./_ ]){_MON}\2{_YEAR}(?![0-9])",
            rf"(?<![0-9]){_MON}([-./_ ]){_DAY}\3{_YEAR}(?![0-9])",
            rf"(?<![0-9.]){_DAY}([-./]){_MON}\4[0-9]{{2}}(?![0-9])",
            rf"(?<![0-9.]){_MON}([-./]){_DAY}\5[0-9]{{2}}(?![0-9])",
            rf"(?<![0-9])[0-9]{{1,2}}[ ._-]?{_MONTH}[ ,._-]*(?:{_YEAR}|[0-9]{{2}})(?![0-9])",
            rf"(?<![A-Z]){_MONTH}[ ._-]*[0-9]{{1,2}}[ ,._-]+{_YEAR}(?![0-9])",
            r"(?<![0-9])[0-2]?[0-9]:[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?(?![0-9])",  # time
            r"(?<![A-Z])(?:DR|DRS|PROF|MRS|MISS|HERR|FRAU|MME|MLLE|DOTT|SIGRA)[ ._]+[^\W_]+",
            r"[0-9]{5,}",
        )
    ),
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(r"(?<![^\W_])(?:[A-Za-z]\.)+[A-Za-z]\.?(?![^\W_])")
_NAME_LIKE = re.compile(r"\s*[^\W\d_]+\^[^\W\d_]+(?:\^[^\W\d_]*)*\s*")
_CUT = "\x00"
_SEPARATORS = r"\x00-/:-@\[-`{-\x7f±°\u2013\u2014\u3001\u3002\uff0c\uff1a\uff08\uff09"
_RUN = re.compile(rf"[^{_SEPARATORS}]+")
_SPLITS = (
    re.compile(r"[0-9]+|[^0-9]+"),
    re.compile(r"[0-9]+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\x00-\x7f]+"),
    re.compile(r"[0-9]+|[A-Z]+|[a-z]+|[^\x00-\x7f]+"),
)
"""A run of letters and digits is read as T|2, then as Ax|FLAIR, then as HEAD|to|FEET."""
_MAX_SHORT = 6
"""Digits and single letters in one run: T1W3D and b1000 pass, A12B3456 may be somebody's number."""
_SIZE = re.compile(r"[0-9]{1,4}(?:[Xx][0-9]{1,4}){1,2}(?:[CcMm][Mm])?")
_INITIAL = re.compile(
    r"(?<![^\W_])[A-Za-z]\.[ ]*<x>|<x>,?[ ]*(?<![^\W_])[A-Za-z]\.(?![^\W_])"
    r"|<x>,[ ]*[A-Za-z](?![^\W_])"
)
_NEIGHBOURS = re.compile(r"<x>(?:[ ,^_]*<x>)+")
_CODE = re.compile(r"[A-Z0-9_]{1,32}")
_CODE_VALUE = re.compile(r"[A-Za-z0-9._-]{1,16}")
_NUMBER = re.compile(r"\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*")

_DENIED_GROUPS = frozenset({0x0004, 0x0010, 0x0012, 0x0032, 0x0038, 0x0042, 0x0070, 0x0088, 0x0400})
_DENIED_FROM, _FUNCTIONAL_GROUPS = 0x3000, 0x5200
"""Radiotherapy plans, interpretations, overlays, curves, pixels, signatures."""
_DENIED = frozenset(
    int(tag, 16)
    for tags in {
        "physicians, operators, staff": "00080090 00080092 00080094 00080096 0008009C 0008009D"
        " 00081048 00081049 00081050 00081052 00081060 00081062 00081070 00081072"
        " 00400006 0040000B",
        "places": "00080081 00080082 00081040 00081041 00400011 00400243 00080201",
        "patient and diagnosis": "00081080 00081084 00081110 00081111 00081120 00400012",
        "orders and steps": "00080051 00081195 00200010 00400009 00400253 00400275 00400440",
        "stations and devices by number": "00181002 00181003 00181004 00181005 00181007 00181008"
        " 00181009 0018100A 00181010 00181011 0018700A 00203401 00203404 00400001 00400010 00400241"
        " 00400242",
        "comments": "00081088 00082111 00084000 00184000 00189424 00203406 00204000 00209158"
        " 00284000 00400280 00400310 00400400 0018A001 0018A003",
        "specimens and labels": "0040050A 00400512 00400551 00400555 00400560 00400600 22000002"
        " 22000005",
    }.values()
    for tag in tags.split()
)
"""What PS3.15 Table E.1-1 removes and value representation or group alone would not remove."""
_DENIED_RANGES = (
    (0x00401001, 0x00403FFF),
    (0x00404001, 0x00404FFF),
    (0x0040A000, 0x0040AFFF),
    (0x0040DB00, 0x0040FFFF),
)
"""Requests and recipients, staff, the content of structured reports, templates and documents."""
_BY_VR = {
    **dict.fromkeys(("DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), "number"),
    **dict.fromkeys(("LO", "SH", "UC"), "text"),
    **{
        "CS": "code",
        "UI": "uid",
        "AS": "age",
        "DA": "DA",
        "TM": "TM",
        "DT": "DT",
        "AT": "AT",
        "SQ": "SQ",
    },
}
"""How the value representations that may stay are cleaned: not PN, LT, ST, UT, UR, AE, UN, O*."""
_CODE_TAGS = frozenset({0x00080100, 0x00080102, 0x00080103})


class Names(NamedTuple):
    """What names the patient of one header: words, a pattern of whole values, and a cache."""

    words: frozenset[str]
    whole: re.Pattern[str] | None
    cache: dict[tuple[str, str], tuple[str, tuple[str, ...]]]


class _Clock(NamedTuple):
    days: datetime.timedelta
    seconds: float


class _Person(NamedTuple):
    names: Names
    clock: _Clock
    issuer: str | None


def load_key() -> bytes:
    """The key of this lake: the file that RADNET_LAKE_KEY_FILE names, else RADNET_LAKE_KEY itself.

    Raises SettingError where there is none, or fewer than 32 bytes of it.
    """
    if name := os.environ.get("RADNET_LAKE_KEY_FILE"):
        where = "RADNET_LAKE_KEY_FILE"
        try:
            key = Path(name).read_bytes().strip()
        except OSError as error:
            raise SettingError(f"cannot be read: {error.strerror}", where, _KEY_REMEDY) from error
    else:
        where = "RADNET_LAKE_KEY"
        key = os.environ.get("RADNET_LAKE_KEY", "").strip().encode()
    return _check_key(key, where)


def _check_key(key: bytes, where: str) -> bytes:
    if not key:
        raise SettingError("no key to pseudonymise with", where, _KEY_REMEDY)
    if len(key) < MIN_KEY_BYTES:
        raise SettingError(
            f"a key of {len(key)} bytes; at least {MIN_KEY_BYTES} are needed", where, _KEY_REMEDY
        )
    return key


def load_vocabulary() -> frozenset[str]:
    """The words that may stay in free text: upper case, without accents (sql/vocabulary.csv)."""
    with (SQL_DIR / "vocabulary.csv").open(encoding="utf-8", newline="") as file:
        return frozenset(row["word"] for row in csv.DictReader(file))


def fold_word(text: str) -> str:
    """`text` in upper case, accents off, as the label rules fold it."""
    if text.isascii():
        return text.upper()
    letters = (
        c for c in unicodedata.normalize("NFKD", text.upper()) if not unicodedata.combining(c)
    )
    return unicodedata.normalize("NFC", "".join(letters)).translate(_FOLDED)


def _collect_names(identifiers: Iterable[str]) -> Names:
    words: set[str] = set()
    bounded: set[str] = set()
    anywhere: set[str] = set()
    for identifier in identifiers:
        parts = _RUN.findall(unicodedata.normalize("NFKC", identifier))
        words.update(fold_word(p) for p in parts if len(p) >= (3 if p.isascii() else 2))
        squeezed = "".join(parts)
        if len(squeezed) >= 3:
            is_number = len(squeezed) >= 5 and any(c.isdigit() for c in squeezed)
            (anywhere if is_number else bounded).add(r"[\W_]*".join(map(re.escape, parts)))
    patterns = sorted(anywhere, key=len, reverse=True)
    if bounded:
        longest = sorted(bounded, key=len, reverse=True)
        patterns.append(rf"(?<![^\W_])(?:{'|'.join(longest)})(?![^\W_])")
    whole = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None
    return Names(frozenset(words), whole, {})


def clean_text(text: str, vocabulary: frozenset[str], names: Names) -> tuple[str, list[str]]:
    """`text` with every word that is not known replaced by <x>, and the words that could be learnt.

    Words that equal a part of an identifier carry NAME_MARK; separators and case of the rest stay.
    """
    found: list[str] = []

    def cut_name(match: re.Match[str]) -> str:
        found.extend(NAME_MARK + fold_word(w) for w in _RUN.findall(match[0]) if w.isalpha())
        return _CUT

    def cut_abbreviation(match: re.Match[str]) -> str:
        return match[0] if fold_word(match[0].replace(".", "")) in vocabulary else _CUT

    def cut_words(match: re.Match[str]) -> str:
        return _clean_run(match[0], vocabulary, names.words, found)

    given = text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or ord(c) > 0x7F else " " for c in text)
    if names.whole:
        text = names.whole.sub(cut_name, text)
    text = _ABBREVIATION.sub(cut_abbreviation, _STRIPPED.sub(_CUT, text))
    text = _RUN.sub(cut_words, text)
    if _CUT not in text:
        return text, found
    if _NAME_LIKE.fullmatch(given):
        return WITHHELD, found
    text = _INITIAL.sub(WITHHELD, text.replace(_CUT, WITHHELD))
    return _NEIGHBOURS.sub(WITHHELD, text), found


def _clean_run(
    run: str, vocabulary: frozenset[str], names: frozenset[str], found: list[str]
) -> str:
    def is_known(piece: str) -> bool:
        word = fold_word(piece)
        if word in names:
            return False
        if piece.isascii() and (piece.isdigit() or len(piece) == 1):
            return True
        return word in vocabulary or (word[0] > "\u2e7f" and _is_made_of(word, vocabulary))

    if is_known(run) or (_SIZE.fullmatch(run) and run.upper() not in names):
        return run
    whole = fold_word(run)
    if whole in names:
        found.append(NAME_MARK + whole)
        return _CUT
    bases = run if run.isascii() else "".join(map(_find_base, run))
    splits = [[run[m.start() : m.end()] for m in p.finditer(bases)] for p in _SPLITS]
    pieces = next((split for split in splits if all(map(is_known, split))), splits[1])
    if sum(len(p) for p in pieces if p.isdigit() or len(p) == 1) > _MAX_SHORT:
        return _CUT
    for i, piece in enumerate(pieces):
        if not is_known(piece):
            pieces[i] = _CUT
            word = fold_word(piece)
            is_name = word in names or any(name in word for name in names if len(name) > 3)
            if word.isalpha():
                found.append(NAME_MARK + word if is_name else word)
    return "".join(pieces)


def _find_base(letter: str) -> str:
    return unicodedata.normalize("NFKD", letter)[0].translate(_BASES)


def _is_made_of(word: str, vocabulary: frozenset[str]) -> bool:
    """Chinese, Japanese and Korean are written without blanks: words of the vocabulary in a row."""
    reached = {0}
    for start in range(len(word)):
        if start in reached:
            reached.update(
                end for end in range(start + 1, len(word) + 1) if word[start:end] in vocabulary
            )
    return len(word) in reached


def bin_age(age: str) -> str | None:
    """A DICOM age (PS3.5 AS) as the lower end of 5 years, '090Y' from 90 on; None if unreadable."""
    match = re.fullmatch(r"\s*([0-9]{1,3})([DWMY])\s*", age)
    if not match:
        return None
    years = int(int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]])
    return f"{min(years // 5 * 5, 90):03d}Y"


def _parse_time(text: Any) -> float | None:
    match = (
        re.fullmatch(r"(\d\d):?(\d\d)?:?(\d\d)?(\.\d{1,6})?", text.strip())
        if isinstance(text, str)
        else None
    )
    if not match:
        return None
    hours, minutes, seconds = (int(match[i] or 0) for i in (1, 2, 3))
    return hours * 3600 + minutes * 60 + seconds + float(match[4] or 0)


def _format_time(seconds: float) -> str | None:
    micros = round(seconds * 1_000_000)
    if not 0 <= micros < 86400 * 1_000_000:
        return None
    rest, whole = micros % 1_000_000, micros // 1_000_000
    text = f"{whole // 3600:02d}{whole // 60 % 60:02d}{whole % 60:02d}"
    return f"{text}.{rest:06d}" if rest else text


def _derive_key(key: bytes, purpose: str, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=f"radnet_lake {purpose}".encode()).derive(key)


def _encrypt(cipher: AESSIV, text: str) -> str:
    if not text:
        return ""
    sealed = cipher.encrypt(text.encode(errors="surrogatepass"), None)
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def _decrypt(cipher: AESSIV, sealed: str) -> str:
    if not sealed:
        return ""
    try:
        data = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
        return cipher.decrypt(data, None).decode(errors="surrogatepass")
    except (InvalidTag, ValueError) as error:
        raise SettingError(
            "a sealed text does not open with this key",
            "RADNET_LAKE_KEY_FILE",
            "use the key that the lake was made with",
        ) from error


def _map_parts(uri: str, convert: Callable[[str], str]) -> str:
    parts = (part.rpartition("/") for part in uri.split("!/"))
    return "!/".join(f"{convert(folder)}{slash}{convert(name)}" for folder, slash, name in parts)


def _remember(cache: dict[_K, _V], key: _K, value: _V, entries: int = CACHE_ENTRIES) -> _V:
    if len(cache) >= entries:
        cache.clear()
    cache[key] = value
    return value


def _move(when: _D, shift: datetime.timedelta) -> _D | None:
    try:
        return when + shift
    except OverflowError:
        return None


def _move_text(kind: str, text: str, days: datetime.timedelta, seconds: float) -> str | None:
    """A DICOM date, or a date and time with its seconds and zone as far as they go, shifted."""
    match = re.fullmatch(
        r"(\d{4})\.?(\d\d)\.?(\d\d)(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?", text.strip()
    )
    if not match or (kind == "DA" and (match[4] or match[5])):
        return None
    try:
        when = datetime.datetime(int(match[1]), int(match[2]), int(match[3])) + days
        if match[4]:
            when += datetime.timedelta(seconds=(_parse_time(match[4]) or 0) - seconds)
    except (ValueError, OverflowError):
        return None
    date = when.date().isoformat().replace("-", "")
    time = _format_time((when - when.min).seconds + when.microsecond / 1e6) if match[4] else ""
    return f"{date}{time}{match[5] or ''}"


def _keep_uid(uid: str) -> str:
    return uid if re.fullmatch(r"[0-9.]{1,64}[ \0]?", uid) else ""


def _first_text(dataset: dict[str, Any], tag: str) -> str | None:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else None


def _is_denied(tag: int) -> bool:
    group = tag >> 16
    if group in _DENIED_GROUPS or (group >= _DENIED_FROM and group != _FUNCTIONAL_GROUPS):
        return True
    return tag in _DENIED or any(first <= tag <= last for first, last in _DENIED_RANGES)


def _choose_cleaning(tag: int, vr: str, attribute: Attribute | None) -> str | None:
    if tag in _CODE_TAGS:
        return "code value"
    if attribute is None or attribute.vr in ("SQ", "DA", "TM", "DT"):
        return _BY_VR.get(vr)
    if attribute.phi == "keep":
        return "kept uid" if attribute.kind == "uid" else "number"
    return attribute.phi


def _is_code(kind: str, text: str, vocabulary: frozenset[str], names: Names) -> bool:
    if any(fold_word(run) in names.words for run in _RUN.findall(text)) or (
        names.whole and names.whole.search(text)
    ):
        return False
    if kind == "code value":
        return bool(_CODE_VALUE.fullmatch(text))
    return text in vocabulary or (bool(_CODE.fullmatch(text)) and not re.search("[0-9]{6}", text))


class Deidentifier:
    """Takes identity out of rows and headers of one lake; made once per worker process.

    key: at least 32 bytes, see load_key.
    vocabulary: words that may stay in free text, see load_vocabulary.
    Raises SettingError for a short key.
    """

    def __init__(self, key: bytes, vocabulary: frozenset[str]) -> None:
        _check_key(key, "key")
        self.vocabulary = vocabulary
        self.key_id = _derive_key(key, "key id", 8).hex()
        self._uid_key, self._hash_key = _derive_key(key, "uid", 32), _derive_key(key, "hash", 32)
        self._date_key = _derive_key(key, "date", 32)
        self._word_cipher = AESSIV(_derive_key(key, "word", 64))
        self._uri_cipher = AESSIV(_derive_key(key, "uri", 64))
        self._uids: dict[str, str] = {}
        self._hashes: dict[tuple[str, str], str] = {}
        self._clocks: dict[str, _Clock] = {}
        self._names: dict[tuple[str, ...], Names] = {}

    def seal(self, text: str) -> str:
        """`text` encrypted so that equal texts have equal seals; '' stays ''."""
        return _encrypt(self._word_cipher, text)

    def open_sealed(self, sealed: str) -> str:
        """What `seal` was given. Raises SettingError for another key's seal, or a damaged one."""
        return _decrypt(self._word_cipher, sealed)

    def seal_uri(self, uri: str) -> str:
        """`uri` as sealed:<folder>/<name>, members behind !/ likewise; one folder, one prefix."""
        return SEALED_URI + _map_parts(uri, lambda part: _encrypt(self._uri_cipher, part))

    def open_uri(self, sealed: str) -> str:
        """What `seal_uri` was given; a plain uri as it is. SettingError as open_sealed."""
        if not sealed.startswith(SEALED_URI):
            return sealed
        return _map_parts(
            sealed.removeprefix(SEALED_URI), lambda part: _decrypt(self._uri_cipher, part)
        )

    def promote(self, counts: Iterable[tuple[str, int]]) -> list[str]:
        """The words that may join the vocabulary, still sealed: 5 patients or more, never a name.

        counts: sealed words as clean_row hands them out, each with the number of its patients.
        """
        names, words = set(), set()
        for sealed, patients in counts:
            if sealed.startswith(NAME_MARK):
                names.add(sealed.removeprefix(NAME_MARK))
            elif patients >= PROMOTE_PATIENTS:
                self.open_sealed(
                    sealed
                )  # not ours, or damaged: better known now than by each reader
                words.add(sealed)
        return sorted(words - names)

    def patient_hash(
        self, patient_id: str | None, issuer: str | None = None, study_uid: str | None = None
    ) -> str:
        """The hash of PatientID and its issuer, else of the study; '' where there is neither."""
        if patient_id and (patient := patient_id.strip()):
            issuer = (issuer or "").strip()
            return self._hash("PatientID", f"{len(issuer)}:{issuer}{patient}")
        return self._hash("study as patient", study_uid) if study_uid else ""

    def clean_row(self, row: dict[str, Any], identifiers: Sequence[str]) -> list[str]:
        """Take identity out of one `instances` row, in place; the withheld words, sealed, sorted.

        row: typed values by column, as schema.KINDS says; a column the schema lacks is dropped,
        and uri is left to the caller (seal_uri).
        identifiers: all person names and direct identifiers of the same header, as raw text.
        """
        names = self._collect_names(identifiers)
        days, seconds = self._set_clock(row, row.get("StudyTime"))
        for column in row.keys() - _ROW_COLUMNS:
            del row[column]
        for column in _DATES:
            if row.get(column) is not None:
                row[column] = _move(row[column], days)
        for column in _DATETIMES:
            if row.get(column) is not None:
                row[column] = _move(row[column], days - datetime.timedelta(seconds=seconds))
        for column in _TIMES:
            if row.get(column) is not None:
                row[column] = round(row[column] - seconds, 6)
        if row.get("PatientID"):
            row["PatientID"] = self.patient_hash(row["PatientID"], row.get("IssuerOfPatientID"))
        for column in _HASHES:
            if row.get(column):
                row[column] = self._hash(column, row[column])
        for column in _UIDS:
            if row.get(column):
                row[column] = self._hash_uid(row[column])
        for column in _KEPT_UIDS:
            if row.get(column):
                row[column] = _keep_uid(row[column])
        for column in _AGES:
            if row.get(column):
                row[column] = bin_age(row[column])
        withheld: set[str] = set()
        for column, phi in _TEXTS:
            if row.get(column):
                row[column] = self._clean(phi, row[column], names, withheld)
        for column, phi in _LISTS:
            if row.get(column):
                row[column] = [
                    text and self._clean(phi, text, names, withheld) for text in row[column]
                ]
        for column in _CODES:
            if row.get(column):
                row[column] = [
                    {
                        k: v and self._clean(_CODE_PARTS[k], v, names, withheld)
                        for k, v in code.items()
                        if k in _CODE_PARTS
                    }
                    for code in row[column]
                ]
        return sorted(withheld) if withheld else []

    def clean_header(self, header: dict[str, Any], identifiers: Sequence[str]) -> list[str]:
        """Take identity out of one DICOM JSON header (PS3.18 F), in place; the tags left out.

        A tag within a sequence is a path, 00081115.0020000E. `identifiers` as for clean_row.
        """
        patient = {k: _first_text(header, f"{_COLUMNS[k].tag:08X}") for k in _CLOCK_COLUMNS}
        person = _Person(
            self._collect_names(identifiers),
            self._set_clock(patient, _parse_time(_first_text(header, "00080030"))),
            patient["IssuerOfPatientID"],
        )
        left_out: dict[str, None] = {}
        self._clean_dataset(header, person, "", left_out)
        return list(left_out)

    def _clean_dataset(
        self, dataset: dict[str, Any], person: _Person, path: str, left_out: dict[str, None]
    ) -> None:
        creators = {
            (int(tag[:4], 16), int(tag[6:], 16)): (_first_text(dataset, tag) or "").strip()
            for tag in dataset
            if re.fullmatch("[0-9A-Fa-f]{3}[13579BDFbdf]00[0-9A-Fa-f]{2}", tag)
        }
        for tag in list(dataset):
            element = self._clean_element(dataset, tag, creators, person, path, left_out)
            if element is None:
                del dataset[tag]
                left_out[path + tag] = None
            else:
                dataset[tag] = element

    def _clean_element(
        self,
        dataset: dict[str, Any],
        tag: str,
        creators: dict[tuple[int, int], str],
        person: _Person,
        path: str,
        left_out: dict[str, None],
    ) -> dict[str, Any] | None:
        if not re.fullmatch("[0-9A-Fa-f]{8}", tag) or not isinstance(dataset[tag], dict):
            return None
        number, element = int(tag, 16), dataset[tag]
        group, low = number >> 16, number & 0xFFFF
        attribute = _BY_TAG.get(number)
        if group % 2:
            if low < 0x100:
                creator = creators.get((group, low), "")
                return {"vr": "LO", "Value": [creator]} if creator in _CREATORS else None
            attribute = _PRIVATE.get((creators.get((group, low >> 8), ""), number & 0xFFFF00FF))
            if attribute is None:
                return None
        elif attribute is None and _is_denied(number):
            return None
        vr = attribute.vr if attribute else str(element.get("vr"))
        kind = _choose_cleaning(number, vr, attribute)
        values = element.get("Value", [])
        if (
            kind is None
            or not isinstance(values, list)
            or ("Value" not in element and len(element) > 1)
        ):
            return None
        if kind == "SQ":
            items = [item for item in values if isinstance(item, dict)]
            for item in items:
                self._clean_dataset(item, person, f"{path}{tag}.", left_out)
            return {"vr": vr, "Value": items} if items else {"vr": vr}
        keyword = attribute.keyword if attribute else ""
        cleaned = [
            None if v is None else self._clean_value(kind, keyword, v, person) for v in values
        ]
        if any(v is not None for v in values) and all(v is None for v in cleaned):
            return None
        return {"vr": vr, "Value": cleaned} if cleaned else {"vr": vr}

    def _clean_value(self, kind: str, keyword: str, value: Any, person: _Person) -> Any:
        if kind == "number":
            text = str(value)
            is_name = len(text.strip()) >= 5 and text.strip() in person.names.words
            return (
                value
                if not is_name and not isinstance(value, bool) and _NUMBER.fullmatch(text)
                else None
            )
        if not isinstance(value, str):
            return None
        if value == "":
            return value
        days, seconds = person.clock
        if kind == "hash" and keyword == "PatientID":
            return self.patient_hash(value, person.issuer)
        if kind == "hash":
            return self._hash(keyword, value)
        if kind in ("text", "code", "code value"):
            return self._clean(kind, value, person.names, set())
        if kind == "uid":
            return self._hash_uid(value)
        if kind == "kept uid":
            return _keep_uid(value) or None
        if kind == "age":
            return bin_age(value)
        if kind == "AT":
            return value if re.fullmatch("[0-9A-Fa-f]{8}", value) else None
        if kind == "TM":
            time = _parse_time(value)
            return None if time is None else _format_time(time - seconds)
        return _move_text(kind, value, days, seconds)

    def _clean(self, kind: str, text: str, names: Names, withheld: set[str]) -> str:
        known = names.cache.get((kind, text))
        if known is None:
            if kind == "text" or not _is_code(kind, text, self.vocabulary, names):
                cleaned, words = clean_text(text, self.vocabulary, names)
            else:
                cleaned, words = text, []
            seals = {
                NAME_MARK + self.seal(w.removeprefix(NAME_MARK))
                if w.startswith(NAME_MARK)
                else self.seal(w)
                for w in words
            }
            known = _remember(names.cache, (kind, text), (cleaned, tuple(seals)))
        withheld.update(known[1])
        return known[0]

    def _collect_names(self, identifiers: Sequence[str]) -> Names:
        key = tuple(identifiers)
        return self._names.get(key) or _remember(self._names, key, _collect_names(key), entries=256)

    def _set_clock(self, patient: dict[str, Any], study_time: float | None) -> _Clock:
        who = self.patient_hash(*(patient.get(column) for column in _CLOCK_COLUMNS))
        clock = self._clocks.get(who)
        if clock is None:
            digest = hmac.digest(self._date_key, who.encode(), "sha256")
            days = 1 + int.from_bytes(digest[:8]) % MAX_SHIFT_DAYS
            offset = 1 + int.from_bytes(digest[8:16]) % 86399
            clock = _remember(
                self._clocks, who, _Clock(datetime.timedelta(days=-days), -float(offset))
            )
        return clock if study_time is None else _Clock(clock.days, study_time)

    def _hash(self, domain: str, text: str) -> str:
        known = self._hashes.get((domain, text))
        if known is None:
            message = f"{domain}\0{text.strip()}".encode(errors="surrogatepass")
            digest = hmac.digest(self._hash_key, message, "sha256").hex()[:32]
            known = _remember(self._hashes, (domain, text), digest)
        return known

    def _hash_uid(self, uid: str) -> str:
        known = self._uids.get(uid)
        if known is None:
            text = uid.strip(" \0")
            if text.startswith(_DICOM_UIDS) and _keep_uid(text):
                known = text
            elif text:
                digest = hmac.digest(self._uid_key, text.encode(errors="surrogatepass"), "sha256")
                known = f"2.25.{int.from_bytes(digest[:16])}"
            else:
                known = ""
            _remember(self._uids, uid, known)
        return known
