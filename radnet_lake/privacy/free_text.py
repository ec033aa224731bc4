"""Takes free text of a header, gives known words and short numbers of it; the rest becomes <x>.

A word that equals a part of a name or identifier of the same header is removed too, known or not,
and so are dates, times, telephone numbers, e-mail and web addresses, and runs of 5 or more digits.

Not presidio or scrubadub, because they need language models whose recall on header text is unknown.
"""

import csv
import datetime
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from radnet_lake.schema import SQL_DIR

WITHHELD = "<x>"
_CUT = "\x00"

_MONTHS = (
    "JANUARY|JANUAR|JÄNNER|JANVIER|JANEIRO|JAN|FEBRUARY|FEBRUAR|FÉVRIER|FEVRIER|FEBRERO|"
    "FEBBRAIO|FEVEREIRO|FEB|FEV|MARCH|MÄRZ|MAERZ|MARS|MARZO|MARÇO|MAR|MRZ|APRIL|AVRIL|ABRIL|"
    "APRILE|APR|AVR|ABR|MAY|MAI|MAYO|MAGGIO|MAIO|MEI|JUNE|JUNI|JUIN|JUNIO|GIUGNO|JUNHO|JUN|"
    "JULY|JULI|JUILLET|JULIO|LUGLIO|JULHO|JUL|AUGUST|AOÛT|AOUT|AGOSTO|AUG|AGO|SEPTEMBER|"
    "SEPTEMBRE|SEPTIEMBRE|SETTEMBRE|SETEMBRO|SEPT|SEP|SET|OCTOBER|OKTOBER|OCTOBRE|OCTUBRE|"
    "OTTOBRE|OUTUBRO|OCT|OKT|NOVEMBER|NOVEMBRE|NOVIEMBRE|NOVEMBRO|NOV|DECEMBER|DEZEMBER|"
    "DÉCEMBRE|DECEMBRE|DICIEMBRE|DICEMBRE|DEZEMBRO|DEC|DEZ|ENERO|GENNAIO|ENE|DIC|STYCZNIA|"
    "LUTEGO|MARCA|KWIETNIA|MAJA|CZERWCA|LIPCA|SIERPNIA|WRZEŚNIA|PAŹDZIERNIKA|LISTOPADA|"
    "GRUDNIA|ЯНВАРЯ|ФЕВРАЛЯ|\u041c\u0410\u0420\u0422\u0410|АПРЕЛЯ|МАЯ|ИЮНЯ|ИЮЛЯ|АВГУСТА|"
    "СЕНТЯБРЯ|ОКТЯБРЯ|НОЯБРЯ|ДЕКАБРЯ"
)
_DAY, _MON, _ORDINAL = (
    "(?:0?[1-9]|[12][0-9]|3[01])",
    "(?:0?[1-9]|1[0-2])",
    "(?:ST|ND|RD|TH|ER|\\.)?",
)
_YEAR = "(?:19[0-9]{2}|20(?!00)[0-3][0-9])"
"""Without 2000, which alone is more often a b-value than a year; within a date it is removed."""
_STRIPPED = re.compile(
    "|".join(
        (
            r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*",  # e-mail
            r"(?:https?|ftp)://\S+",
            r"[0-9]+(?:\.[0-9]+){4,}",  # a UID
            r"\+[0-9][0-9 ()./-]{6,}[0-9]",  # telephone, with country
            r"\(?(?<![0-9])(?![1-9]00 [1-9]00 )[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}(?![0-9])",
            r"(?<![0-9.])0[1-9][0-9]{0,3}(?:[ /.-][0-9]{2,4}){3,}(?![0-9])",  # telephone, in pairs
            r"(?<![0-9])0[1-9][0-9]{1,3}[ /-][0-9]{3,}(?:[ -]?[0-9]+)*",  # and area code
            r"(?<![0-9-])[2-9][0-9]{2}-(?![0-9]{2}00)[0-9]{4}(?![0-9])",  # local; no b-values
            r"(?<![0-9-])[0-9]{2,}(?:-[0-9]{2,}){2,}",  # numbers such as those of social insurance
            r"(?:[0-9]{1,4}\s?[年月日]\s?)+",
            rf"(?<![^\W_])[0-9]{{1,2}}{_ORDINAL}[\W_]{{0,3}}(?:(?:OF|DE)[\W_])?(?:{_MONTHS})"
            r"(?:[\W_]{0,3}(?:DE[\W_])?(?:[0-9]{4}|[0-9]{2}))?(?![^\W_])",
            rf"(?<![^\W_])(?:{_MONTHS})[\W_]{{0,3}}[0-9]{{1,4}}{_ORDINAL}"
            r"(?:[\W_]{1,3}[0-9]{2,4})?(?![^\W_])",
            rf"(?<![0-9])(?:{_YEAR}|2000)([-./_ ]){_MON}\1{_DAY}(?![0-9])",
            rf"(?<![0-9])(?:{_DAY}([-./_ ]){_MON}\2|{_MON}([-./_ ]){_DAY}\3)"
            rf"(?:{_YEAR}|2000)(?![0-9])",
            rf"(?<![0-9.])(?:{_DAY}([-./]){_MON}\4|{_MON}([-./]){_DAY}\5)[0-9]{{2}}(?![0-9])",
            rf"(?<![0-9.])[0-9]{{2}}([-./]){_MON}\6{_DAY}(?![0-9])",
            rf"(?<![0-9.]){_DAY}\.{_MON}\.(?![0-9])",
            rf"(?<![^\W_])(?:[0-9]{{1,2}}[\W_]{{1,2}}){{0,2}}{_YEAR}(?:[\W_]{{1,2}}[0-9]{{1,2}}){{0,2}}"
            r"(?![0-9A-Za-z])",
            r"(?<![0-9])[0-2]?[0-9][:h][0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?(?![0-9])",  # time
            r"[0-9]{5,}",
        )
    ),
    re.IGNORECASE,
)
_IS_MONTH = re.compile(_MONTHS, re.IGNORECASE)
_TITLED = re.compile(
    r"(?<![A-Z])(?:DR|DRS|PROF|MRS|MISS|HERR|FRAU|MME|MLLE|DOTT|SIGRA)[ ._]+[^\W_]+", re.IGNORECASE
)
_INITIAL_FIRST = re.compile(r"(?<![^\W_])[A-Za-z]\.[ ]*([^\W\d_]{2,})(?!\.[^\W_])")
_INITIAL_LAST = re.compile(r"(?<![^\W_])([^\W\d_]{2,})(?:,?[ ]*[A-Za-z]\.|,[ ]*[A-Za-z])(?![^\W_])")
_ABBREVIATION = re.compile(r"(?<![^\W_])(?:[A-Za-z]\.)+[A-Za-z]\.?(?![^\W_])")
_NAME_LIKE = re.compile(r"\s*[^\W\d_]+\^[^\W\d_]+(?:\^[^\W\d_]*)*\s*")
_SEPARATORS = r"\x00-/:-@\[-`{-\x7f±°\u2013\u2014\u3001\u3002\uff0c\uff1a\uff08\uff09"
_RUN = re.compile(rf"[^{_SEPARATORS}]+")
_SPLITS = (
    re.compile(r"[0-9]+|[^0-9]+"),
    re.compile(r"[0-9]+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\x00-\x7f]+"),
    re.compile(r"[0-9]+|[A-Z]+|[a-z]+|[^\x00-\x7f]+"),
)
"""Ways to split a run of letters and digits: T|2, then Ax|FLAIR, then HEAD|to|FEET."""
_MAX_SHORT = 6
"""Digits and single letters in one run: T1W3D and b1000 stay, A12B3456 may be an identifier."""
_MAX_TEXT = 1024
"""Characters; DICOM allows 64 in short text. A longer text is withheld, to bound the time."""
_MIN_NUMBER = 10_000
"""Smaller numbers are common physics; larger ones can be an identifier or a date."""
_SIZE = re.compile(r"[0-9]{1,4}(?:[Xx][0-9]{1,4}){1,2}(?:[CcMm][Mm])?")
_NEIGHBOURS = re.compile(r"<x>(?:[ ,^_]*<x>)+")
_FOLDED = str.maketrans({"Ł": "L", "Ø": "O", "Đ": "D", "ẞ": "SS", "Æ": "AE", "Œ": "OE"})
_BASES = str.maketrans("ŁłØøĐđßÆæŒœ", "LlOoDdsAaOo")
_STANDARD_SCHEMES = frozenset(
    {"DCM", "SRT", "SCT", "SNM3", "99SDM", "RADLEX", "LN", "FMA", "UMLS", "MDC", "UCUM", "C4"}
)
_STANDARD_CODE = re.compile(r"(?=.*[0-9])(?!.*[A-Za-z]{5})[A-Za-z0-9.-]{1,18}")


class Names(NamedTuple):
    """Names and identifiers of the patient, physicians and operators of one header.

    words: folded parts of 3 characters or more. numbers: of 5 digits or more. whole: a pattern of
    whole identifiers. bucket: of NAME_BUCKETS. cache: text -> cleaned text and withheld words.
    """

    words: frozenset[str]
    numbers: frozenset[int]
    whole: re.Pattern[str] | None
    bucket: int
    cache: dict[str, tuple[str, tuple[str, ...]]]


class Cleaned(NamedTuple):
    """A text without identity; its withheld words that may be promoted, and its names."""

    text: str
    words: set[str]
    names: set[str]


def load_vocabulary() -> frozenset[str]:
    """sql/vocabulary.csv -> words that may stay in free text: upper case, without accents."""
    with (SQL_DIR / "vocabulary.csv").open(encoding="utf-8", newline="") as file:
        return frozenset(row["word"] for row in csv.DictReader(file))


def fold_word(text: str) -> str:
    """Text -> upper case without accents, as the label rules normalise it."""
    if text.isascii():
        return text.upper()
    letters = (
        c for c in unicodedata.normalize("NFKD", text.upper()) if not unicodedata.combining(c)
    )
    return unicodedata.normalize("NFC", "".join(letters)).translate(_FOLDED)


def collect_names(identifiers: Iterable[str], bucket: int = 0) -> Names:
    """Raw names and identifiers of a header -> the words, numbers and patterns to remove."""
    words: set[str] = set()
    numbers: set[int] = set()
    bounded: set[str] = set()
    anywhere: set[str] = set()
    for identifier in identifiers:
        parts = _RUN.findall(unicodedata.normalize("NFKC", identifier))
        words.update(fold_word(p) for p in parts if len(p) >= (3 if p.isascii() else 2))
        squeezed = "".join(parts)
        digits = re.sub("[^0-9]", "", squeezed)
        numbers.update(int(n) for n in (digits, *re.findall("[0-9]+", squeezed)) if len(n) >= 5)
        if len(digits) >= 5:
            anywhere.add(r"[\W_]*".join(digits))
        if len(squeezed) >= 5 and digits:
            # With any separators, because A7733219 is written A-773-3219 too.
            anywhere.add(r"[\W_]*".join(map(re.escape, squeezed)))
        elif len(squeezed) >= 3:
            bounded.add(r"[\W_]*".join(map(re.escape, parts)))
    patterns = sorted(anywhere, key=len, reverse=True)
    if bounded:
        longest = sorted(bounded, key=len, reverse=True)
        patterns.append(rf"(?<![^\W_])(?:{'|'.join(longest)})(?![^\W_])")
    whole = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None
    return Names(frozenset(words), frozenset(numbers), whole, bucket, {})


def clean_text(text: str, vocabulary: frozenset[str], names: Names) -> Cleaned:
    """Text -> the text with each unknown word as <x>; separators and case of the rest stay."""
    found = Cleaned("", set(), set())

    def cut_name(match: re.Match[str]) -> str:
        found.names.update(fold_word(w) for w in _RUN.findall(match[0]) if w.isalpha())
        return _CUT

    def cut_initialled(match: re.Match[str]) -> str:
        word = fold_word(match[1])
        return match[0] if word in vocabulary and word not in names.words else cut_name(match)

    def cut_abbreviation(match: re.Match[str]) -> str:
        return match[0] if fold_word(match[0].replace(".", "")) in vocabulary else _CUT

    def cut_words(match: re.Match[str]) -> str:
        return _clean_run(match[0], vocabulary, names.words, found)

    if len(text) > _MAX_TEXT:
        return Cleaned(WITHHELD, set(), set())
    raw = text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or ord(c) > 0x7F else " " for c in text)
    if names.whole:
        text = names.whole.sub(cut_name, text)
    text = _INITIAL_FIRST.sub(cut_initialled, _TITLED.sub(cut_name, text))
    text = _INITIAL_LAST.sub(cut_initialled, text)
    text = _ABBREVIATION.sub(cut_abbreviation, _STRIPPED.sub(_CUT, text))
    text = _RUN.sub(cut_words, text)
    if _CUT not in text:
        return found._replace(text=text)
    if _NAME_LIKE.fullmatch(raw):
        parts = {fold_word(w) for w in _RUN.findall(raw)}
        if not parts & vocabulary:
            found.names.update(parts)
        return Cleaned(WITHHELD, found.words - found.names, found.names)
    text = _NEIGHBOURS.sub(WITHHELD, text.replace(_CUT, WITHHELD))
    return Cleaned(text, found.words - found.names, found.names)


def _clean_run(run: str, vocabulary: frozenset[str], names: frozenset[str], found: Cleaned) -> str:
    def is_known(token: str) -> bool:
        word = fold_word(token)
        if word in names:
            return False
        if token.isascii() and (token.isdigit() or len(token) == 1):
            return True
        return word in vocabulary or (word[0] > "\u2e7f" and _is_made_of(word, vocabulary))

    if is_known(run) or (_SIZE.fullmatch(run) and run.upper() not in names):
        return run
    whole = fold_word(run)
    if whole in names:
        found.names.add(whole)
        return _CUT
    bases = run if run.isascii() else "".join(map(_find_base, run))
    splits = [[run[m.start() : m.end()] for m in p.finditer(bases)] for p in _SPLITS]
    tokens = next((split for split in splits if all(map(is_known, split))), splits[1])
    if sum(len(p) for p in tokens if p.isdigit() or len(p) == 1) > _MAX_SHORT:
        return _CUT
    for i, token in enumerate(tokens):
        if not is_known(token):
            tokens[i] = _CUT
            word = fold_word(token)
            if word in names or any(name in word for name in names if len(name) > 3):
                found.names.add(word)
            elif word.isalpha() and not _IS_MONTH.fullmatch(token):
                found.words.add(word)
    return "".join(tokens)


def _find_base(letter: str) -> str:
    return unicodedata.normalize("NFKD", letter)[0].translate(_BASES)


def _is_made_of(word: str, vocabulary: frozenset[str]) -> bool:
    """Whether a Chinese, Japanese or Korean word is a concatenation of vocabulary words."""
    reached = {0}
    for start in range(len(word)):
        if start in reached:
            reached.update(
                end for end in range(start + 1, len(word) + 1) if word[start:end] in vocabulary
            )
    return len(word) in reached


def is_standard_code(code: str, scheme: str | None, names: Names) -> bool:
    """Whether a code value may stay: of a published scheme (PS3.16 8), and no identifier.

    A site's own codes are treated as free text.
    """
    if scheme not in _STANDARD_SCHEMES or not _STANDARD_CODE.fullmatch(code):
        return False
    return not any(w in names.words for w in _RUN.findall(code.upper())) and not (
        names.whole and names.whole.search(code)
    )


def is_identifying(number: float, names: Names) -> bool:
    """Whether a number is one of the header's identifiers, or begins with a date: 20210304."""
    if not math.isfinite(number) or abs(number) < _MIN_NUMBER or number != int(number):
        return False
    if abs(int(number)) in names.numbers:
        return True
    digits = str(abs(int(number)))
    try:
        return digits[:2] in ("19", "20") and bool(datetime.date.fromisoformat(digits[:8]))
    except ValueError:
        return False
