"""Takes rows and headers of one lake, gives them without identity.

Each value is treated by its class in schema.Attribute.phi (PS3.15 Annex E with Clean Descriptors,
Retain Longitudinal Temporal Information with Modified Dates, Retain Patient Characteristics, Retain
Safe Private). Absent stays None and empty stays '' in every class.

keep  physics and geometry, unchanged; a number that is an identifier or a date is dropped.
uid   2.25.<128 bits of the hash>; one domain, so references survive; UIDs of DICOM itself stay.
hash  32 hex digits, one domain per attribute; PatientID is hashed together with IssuerOfPatientID.
date  1 to 3650 whole days back, constant per patient (per study where there is no PatientID).
time  seconds since StudyTime of the same header, negative before it; without StudyTime a constant
      offset per patient is added; never wrapped, so differences stay exact. DateTimes are shifted
      by the same days and seconds. The DICOM JSON header omits a time that falls on another day.
age   groups of 5 years, all from 90 years on are '090Y'; unreadable ages are dropped.
text  see free_text.py; `code` (CS) likewise: the vocabulary holds the terms of the standard.

Withheld words are returned encrypted (AES-SIV, RFC 5297, deterministic), so that words which many
patients share can be counted and added to the vocabulary; names never are. Subkeys for HMAC-SHA-256
and AES are derived from one key by HKDF (RFC 5869).
"""

import base64
import datetime
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from radnet_lake.errors import SettingError
from radnet_lake.privacy.dates import Clock, bin_age, parse_time, shift_date, shift_text
from radnet_lake.privacy.encryption import decrypt, derive_key, encrypt, map_parts
from radnet_lake.privacy.free_text import (
    Names,
    clean_text,
    collect_names,
    is_identifying,
    is_standard_code,
)
from radnet_lake.privacy.header_json import clean_dataset, first_text
from radnet_lake.schema import ATTRIBUTES, INSTANCE_FACTS, ORIGIN

_K = TypeVar("_K")
_V = TypeVar("_V")

MIN_KEY_BYTES = 32
PROMOTE_PATIENTS = 5
"""A word of at least this many patients identifies none (k-anonymity; k is our choice)."""
NAME_HASH_PREFIX = "n:"
"""Prefix of the hash of a name among withheld words; such a word is never promoted."""
NAME_BUCKETS = 256
"""A name is hashed into one of these buckets, so that hash counts don't reveal common surnames."""
ENCRYPTED_PREFIX = "sealed:"
"""Prefix of encrypted URIs in stored data."""
CACHE_ENTRIES = 4096
MAX_SHIFT_DAYS = 3650

_KEY_REMEDY = (
    "make one with `openssl rand -hex 32 > FILE; chmod 600 FILE; export RADNET_LAKE_KEY_FILE=FILE`"
    ", or harvest with --phi keep"
)
_COLUMNS = {a.keyword: a for a in ATTRIBUTES}
_ROW_COLUMNS = _COLUMNS.keys() | {c.name for c in (*ORIGIN, *INSTANCE_FACTS)}
_CLOCK_COLUMNS = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")
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
_NUMBERS = tuple(a.keyword for a in ATTRIBUTES if a.kind in ("int", "number"))
_NUMBER_LISTS = tuple(a.keyword for a in ATTRIBUTES if a.kind == "numbers")
_CLEANED = [a for a in ATTRIBUTES if a.phi in ("text", "code")]
_TEXTS = tuple(a.keyword for a in _CLEANED if a.kind == "text")
_LISTS = tuple(a.keyword for a in _CLEANED if a.kind == "texts")
_CODES = tuple(a.keyword for a in ATTRIBUTES if a.kind == "codes")
_NUMBER = re.compile(r"\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*")
_DICOM_UID = re.compile(r"1\.2\.840\.10008(?:\.[0-9]{1,4}){1,12}")
"""UIDs of the standard itself have short components; others below its root may not."""
_CLASS_UID = re.compile(
    r"1\.2\.840\.(?:10008|113619\.[45])(?:\.[0-9]{1,4}){1,12}"
    r"|1\.3\.(?:12\.2\.1107\.5\.9|46\.670589)(?:\.[0-9]{1,3}){1,7}"
)
"""SOP classes and transfer syntaxes: the standard's, GE's, Siemens' and Philips' own."""


class _Person(NamedTuple):
    names: Names
    clock: Clock
    issuer: str | None


def load_key() -> bytes:
    """Environment -> the key: the file of RADNET_LAKE_KEY_FILE, else RADNET_LAKE_KEY itself.

    Raises SettingError for a missing key or one of fewer than 32 bytes.
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


def _cache_value(cache: dict[_K, _V], key: _K, value: _V, entries: int = CACHE_ENTRIES) -> _V:
    if len(cache) >= entries:
        cache.clear()
    cache[key] = value
    return value


class Deidentifier:
    """Removes identity from rows and headers of one lake; one per worker process.

    key: at least 32 bytes, see load_key.
    vocabulary: words that may stay in free text, see load_vocabulary.
    Raises SettingError for a short key.
    """

    def __init__(self, key: bytes, vocabulary: frozenset[str]) -> None:
        _check_key(key, "key")
        self.vocabulary = vocabulary
        self.key_id = derive_key(key, "key id", 8).hex()
        self._uid_key, self._hash_key = derive_key(key, "uid", 32), derive_key(key, "hash", 32)
        self._date_key, self._name_key = derive_key(key, "date", 32), derive_key(key, "name", 32)
        self._file_time_key = derive_key(key, "file time", 32)
        self._word_cipher = AESSIV(derive_key(key, "word", 64))
        self._uri_cipher = AESSIV(derive_key(key, "uri", 64))
        self._uids: dict[str, str] = {}
        self._hashes: dict[tuple[str, str], str] = {}
        self._clocks: dict[str, Clock] = {}
        self._names: dict[tuple[str, ...], Names] = {}

    def encrypt_word(self, word: str) -> str:
        """Word -> its encrypted form, equal for equal words; '' stays ''."""
        return encrypt(self._word_cipher, word)

    def decrypt_word(self, encrypted: str) -> str:
        """Inverse of encrypt_word. Raises SettingError for another key or damaged text."""
        return decrypt(self._word_cipher, encrypted)

    def encrypt_uri(self, uri: str) -> str:
        """URI -> prefix, encrypted folder, '/', encrypted name; members behind !/ likewise.

        URIs of one folder share a prefix, so that sorting keeps them together.
        """
        return ENCRYPTED_PREFIX + map_parts(uri, lambda part: encrypt(self._uri_cipher, part))

    def decrypt_uri(self, uri: str) -> str:
        """Inverse of encrypt_uri; a plain URI is returned unchanged. Raises as decrypt_word."""
        if not uri.startswith(ENCRYPTED_PREFIX):
            return uri
        encrypted = uri.removeprefix(ENCRYPTED_PREFIX)
        return map_parts(encrypted, lambda part: decrypt(self._uri_cipher, part))

    def shift_modified(self, microseconds: int) -> int:
        """A file's modification time, microseconds of Unix time -> the same 1 to 3650 days earlier.

        The shift is a hash of the time itself, because a common shift could be inferred: files are
        often written when the patient is scanned, and the newest when the lake is made. Equal times
        stay equal and unequal ones unequal, which is all that an incremental harvest compares.
        """
        digest = hmac.digest(self._file_time_key, str(microseconds).encode(), "sha256")
        day = 86400 * 1_000_000
        return microseconds - day - int.from_bytes(digest[:16]) % ((MAX_SHIFT_DAYS - 1) * day)

    def hash_names(self, identifiers: Sequence[str]) -> list[str]:
        """Identifiers of a header -> hashes of the names in them, for promote_words.

        identifiers: as for clean_row. Store them at least once per series, because a physician who
        is named in one header and mentioned in five others would look like a shared word.
        """
        names = self._collect_names(identifiers)
        return sorted({self._hash_name(w, names.bucket) for w in names.words if w.isalpha()})

    def promote_words(self, counts: Iterable[tuple[str, int]]) -> list[str]:
        """Withheld words with numbers of patients -> those for the vocabulary, still encrypted.

        Words of at least PROMOTE_PATIENTS patients, never a name. counts: output of clean_row and
        hash_names, each with the number of its patients.
        """
        name_hashes, shared = set(), []
        for withheld, patients in counts:
            if withheld.startswith(NAME_HASH_PREFIX):
                name_hashes.add(withheld)
            elif patients >= PROMOTE_PATIENTS:
                shared.append(withheld)
        return sorted(word for word in shared if not self._is_name(word, name_hashes))

    def _is_name(self, encrypted: str, name_hashes: set[str]) -> bool:
        word = self.decrypt_word(encrypted)
        return any(self._hash_name(word, bucket) in name_hashes for bucket in range(NAME_BUCKETS))

    def _hash_name(self, word: str, bucket: int) -> str:
        digest = hmac.digest(self._name_key, f"{bucket}:{word}".encode(), "sha256")
        return NAME_HASH_PREFIX + base64.urlsafe_b64encode(digest[:9]).decode()

    def hash_patient(
        self, patient_id: str | None, issuer: str | None = None, study_uid: str | None = None
    ) -> str:
        """PatientID and its issuer, else the study -> hash; '' where there is neither."""
        if patient_id and (patient := patient_id.strip()):
            issuer = (issuer or "").strip()
            return self._hash("PatientID", f"{len(issuer)}:{issuer}{patient}")
        return self._hash("study as patient", study_uid) if study_uid else ""

    def clean_row(self, row: dict[str, Any], identifiers: Sequence[str]) -> list[str]:
        """Remove identity from one `instances` row, in place; returns its withheld words.

        They are encrypted and sorted, with hashes of names among them.
        row: typed values by column, as in schema.KINDS; a column that the schema lacks is dropped;
        uri is the caller's task (encrypt_uri).
        identifiers: all person names and direct identifiers of the same header, as raw text.
        """
        names = self._collect_names(identifiers)
        clock = self._set_clock(row, row.get("StudyTime"))
        for column in row.keys() - _ROW_COLUMNS:
            del row[column]
        _shift_times(row, clock)
        _drop_numbers(row, names)
        if row.get("PatientID"):
            row["PatientID"] = self.hash_patient(row["PatientID"], row.get("IssuerOfPatientID"))
        for columns, change in (
            (_HASHES, self._hash),
            (_UIDS, lambda _, uid: self._hash_uid(uid)),
            (_KEPT_UIDS, lambda _, uid: self._keep_uid(uid)),
            (_AGES, lambda _, age: bin_age(age)),
        ):
            for column in columns:
                if row.get(column):
                    row[column] = change(column, row[column])
        withheld: set[str] = set()
        for column in _TEXTS:
            if row.get(column):
                row[column] = self._clean(row[column], names, withheld)
        for column in _LISTS:
            if row.get(column):
                row[column] = [text and self._clean(text, names, withheld) for text in row[column]]
        for column in _CODES:
            if row.get(column):
                row[column] = [self._clean_code(code, names, withheld) for code in row[column]]
        return sorted(withheld) if withheld else []

    def _clean_code(
        self, code: dict[str, str | None], names: Names, withheld: set[str]
    ) -> dict[str, str | None]:
        value, scheme = code.get("CodeValue"), code.get("CodingSchemeDesignator")
        cleaned = {
            part: text and self._clean(text, names, withheld)
            for part, text in code.items()
            if part in ("CodingSchemeDesignator", "CodeMeaning")
        }
        if "CodeValue" in code:
            is_kept = not value or is_standard_code(value, scheme, names)
            cleaned["CodeValue"] = value if is_kept else self._clean(value or "", names, withheld)
        return cleaned

    def clean_header(self, header: dict[str, Any], identifiers: Sequence[str]) -> list[str]:
        """Remove identity from one DICOM JSON header (PS3.18 F), in place; returns omitted tags.

        A tag within a sequence is a path, 00081115.0020000E. `identifiers` as for clean_row.
        """
        patient = {k: first_text(header, f"{_COLUMNS[k].tag:08X}") for k in _CLOCK_COLUMNS}
        person = _Person(
            self._collect_names(identifiers),
            self._set_clock(patient, parse_time(first_text(header, "00080030"))),
            patient["IssuerOfPatientID"],
        )
        return list(dict.fromkeys(clean_dataset(header, partial(self._clean_value, person))))

    def _clean_value(
        self, person: _Person, kind: str, keyword: str, value: Any, scheme: str | None
    ) -> Any:
        """Header value -> without identity, by the kinds of header_json.py; None to omit it."""
        if kind == "number":
            is_number = not isinstance(value, bool) and _NUMBER.fullmatch(str(value))
            return value if is_number and not is_identifying(float(value), person.names) else None
        if not isinstance(value, str):
            return None
        if value == "" or kind == "creator":
            return value.strip()
        if kind in ("DA", "TM", "DT"):
            return shift_text(kind, value, person.clock)
        if kind == "hash":
            is_patient = keyword == "PatientID"
            return (
                self.hash_patient(value, person.issuer)
                if is_patient
                else self._hash(keyword, value)
            )
        if kind == "uid":
            return self._hash_uid(value)
        if kind == "kept uid":
            return self._keep_uid(value)
        if kind == "age":
            return bin_age(value)
        if kind == "AT":
            is_tag = re.fullmatch("[0-9A-Fa-f]{8}", value) and value not in person.names.words
            return value if is_tag else None
        if kind == "code value" and is_standard_code(value, scheme, person.names):
            return value
        return self._clean(value, person.names, set())

    def _clean(self, text: str, names: Names, withheld: set[str]) -> str:
        known = names.cache.get(text)
        if known is None:
            cleaned = clean_text(text, self.vocabulary, names)
            encrypted = [self.encrypt_word(word) for word in cleaned.words]
            encrypted += [self._hash_name(word, names.bucket) for word in cleaned.names]
            known = _cache_value(names.cache, text, (cleaned.text, tuple(encrypted)))
        withheld.update(known[1])
        return known[0]

    def _collect_names(self, identifiers: Sequence[str]) -> Names:
        key = tuple(identifiers)
        known = self._names.get(key)
        if known is None:
            text = "\0".join(key).encode(errors="surrogatepass")
            bucket = hmac.digest(self._name_key, text, "sha256")[0] % NAME_BUCKETS
            known = _cache_value(self._names, key, collect_names(key, bucket), entries=256)
        return known

    def _set_clock(self, patient: dict[str, Any], study_time: float | None) -> Clock:
        patient_hash = self.hash_patient(*(patient.get(column) for column in _CLOCK_COLUMNS))
        clock = self._clocks.get(patient_hash)
        if clock is None:
            digest = hmac.digest(self._date_key, patient_hash.encode(), "sha256")
            days = 1 + int.from_bytes(digest[:8]) % MAX_SHIFT_DAYS
            offset = 1 + int.from_bytes(digest[8:16]) % 86399
            clock = Clock(datetime.timedelta(days=-days), -float(offset))
            _cache_value(self._clocks, patient_hash, clock)
        return clock if study_time is None else Clock(clock.days, study_time)

    def _hash(self, domain: str, text: str) -> str:
        known = self._hashes.get((domain, text))
        if known is None:
            message = f"{domain}\0{text.strip()}".encode(errors="surrogatepass")
            digest = hmac.digest(self._hash_key, message, "sha256").hex()[:32]
            known = _cache_value(self._hashes, (domain, text), digest)
        return known

    def _hash_uid(self, uid: str) -> str:
        known = self._uids.get(uid)
        if known is None:
            known = text = uid.strip(" \0")
            if text and not _DICOM_UID.fullmatch(text):
                digest = hmac.digest(self._uid_key, text.encode(errors="surrogatepass"), "sha256")
                known = f"2.25.{int.from_bytes(digest[:16])}"
            _cache_value(self._uids, uid, known)
        return known

    def _keep_uid(self, uid: str) -> str:
        text = uid.strip(" \0")
        return text if _CLASS_UID.fullmatch(text) else self._hash_uid(text)


def _shift_times(row: dict[str, Any], clock: Clock) -> None:
    for column in _DATES:
        if row.get(column) is not None:
            row[column] = shift_date(row[column], clock.days)
    for column in _DATETIMES:
        if row.get(column) is not None:
            shift = clock.days - datetime.timedelta(seconds=clock.seconds)
            row[column] = shift_date(row[column], shift)
    for column in _TIMES:
        if row.get(column) is not None:
            row[column] = round(row[column] - clock.seconds, 6)


def _drop_numbers(row: dict[str, Any], names: Names) -> None:
    for column in _NUMBERS:
        if row.get(column) is not None and is_identifying(row[column], names):
            row[column] = None
    for column in _NUMBER_LISTS:
        if row.get(column) and any(is_identifying(n, names) for n in row[column]):
            row[column] = None
