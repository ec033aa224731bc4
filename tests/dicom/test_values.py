"""One element's bytes become a value, or say that they are empty, unreadable or several."""

import datetime
import logging

import pytest

from radnet_lake.dicom import values
from radnet_lake.dicom.values import EMPTY, SEVERAL, UNDECLARED, UNPARSEABLE, read_encodings


def read(
    kind: str, raw: bytes, vr: bytes = b"LO", order: str = "<", charset: bytes = b""
) -> object:
    return values.READERS[kind](raw, vr, order, read_encodings(charset)[0])


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"1.5 ", 1.5),
        (b" -0", 0.0),
        (b"2,5", 2.5),
        (b"1.0E+02 ", 100.0),
        (b"+3\0", 3.0),
        (b"0.000000000000000000001234567", 1.234567e-21),
        (b"5\\5", 5.0),
        (b"10\\90", SEVERAL),
        (b"", EMPTY),
        (b"   ", EMPTY),
        (b"\0\0", EMPTY),
        (b"\\", EMPTY),
        (b"NaN", UNPARSEABLE),
        (b"inf", UNPARSEABLE),
        (b"1e999", UNPARSEABLE),
        (b"1_0", UNPARSEABLE),
        (b"1\\", UNPARSEABLE),
        (b"1.2.3", UNPARSEABLE),
        (b"12 mm", UNPARSEABLE),
        (b"\xff", UNPARSEABLE),
    ],
)
def test_decimal_strings_are_read_tolerantly_and_never_as_nan(raw: bytes, expected: object) -> None:
    assert read("number", raw, b"DS") == expected


def test_lists_of_numbers_keep_their_order() -> None:
    assert read("numbers", b"-1.5\\2 \\ 3e1", b"DS") == [-1.5, 2.0, 30.0]
    assert read("numbers", b"1\\x", b"DS") == UNPARSEABLE


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"12 ", 12),
        (b"1.0", 1),
        (b"1.5", UNPARSEABLE),
        (b"-7\0", -7),
        (b"99999999999999999999", UNPARSEABLE),
    ],
)
def test_integer_strings_are_whole_numbers_that_fit_the_column(
    raw: bytes, expected: object
) -> None:
    assert read("int", raw, b"IS") == expected


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("vr", "size", "number"), [(b"US", 2, 300), (b"SS", 2, -2), (b"UL", 4, 70_000), (b"SL", 4, -5)]
)
def test_binary_numbers_follow_byte_order_and_sign(
    vr: bytes, size: int, number: int, order: str
) -> None:
    raw = number.to_bytes(size, "little" if order == "<" else "big", signed=number < 0)
    assert read("int", raw, vr, order) == number
    assert read("int", raw + b"\0", vr, order) == UNPARSEABLE
    assert read("int", b"", vr, order) == EMPTY


def test_binary_nan_is_unparseable() -> None:
    assert read("number", b"\0\0\0\0\0\0\xf8\x7f", b"FD") == UNPARSEABLE


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"101530", 36930.0),
        (b"10", 36000.0),
        (b"1015 ", 36900.0),
        (b"101530.123456", 36930.123456),
        (b"101530.1234567", 36930.123456),
        (b"11:20:00", 40800.0),
        (b"235960", 86400.0),
        (b"10153", UNPARSEABLE),
        (b"245959", UNPARSEABLE),
        (b"1015-1100", UNPARSEABLE),
        (b"", EMPTY),
    ],
)
def test_times_are_seconds_since_midnight(raw: bytes, expected: object) -> None:
    assert read("time", raw, b"TM") == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"20210131", datetime.date(2021, 1, 31)),
        (b"1997.04.24", datetime.date(1997, 4, 24)),
        (b"20210231", UNPARSEABLE),
        (b"00000000", UNPARSEABLE),
        (b"2021", UNPARSEABLE),
        (b"20200101-20210101", UNPARSEABLE),
        (b"\0\0", EMPTY),
    ],
)
def test_dates_are_days_of_the_calendar(raw: bytes, expected: object) -> None:
    assert read("date", raw, b"DA") == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"20220711121251.665000", datetime.datetime(2022, 7, 11, 12, 12, 51, 665_000)),
        (b"20220711121251.5+0100", datetime.datetime(2022, 7, 11, 12, 12, 51, 500_000)),
        (b"2022", datetime.datetime(2022, 1, 1)),
        (b"20220732", UNPARSEABLE),
        (b" ", EMPTY),
    ],
)
def test_datetimes_are_the_scanners_wall_clock(raw: bytes, expected: object) -> None:
    assert read("datetime", raw, b"DT") == expected


def test_uids_that_are_no_text_never_merge_two_files() -> None:
    assert read("uid", b"1.2.840\0") == "1.2.840"
    assert read("uid", b"1.2.local-7") == "1.2.local-7"
    assert read("uid", b"\0") == EMPTY
    assert read("uid", b"1.2.\xff") == UNPARSEABLE
    assert read("uid", b"1.2\n3") == UNPARSEABLE
    assert read("uid", b"1" * 200) == UNPARSEABLE


@pytest.mark.parametrize(
    ("charset", "raw", "expected"),
    [
        (b"ISO_IR 100", b"T\xeate", "Tête"),
        (b"ISO_IR 144", b"\xb3\xbe\xbb\xbe\xb2\xb0", "ГОЛОВА"),
        (b"ISO_IR 192", "頭部".encode(), "頭部"),
        (b"GB18030", "頭部".encode("gb18030"), "頭部"),
        (b"\\ISO 2022 IR 87", b"\x1b$B" + b"F,It" + b"\x1b(B MR", "頭部 MR"),
        (b"\\ISO 2022 IR 149", b"\x1b$)C" + "머리".encode("euc_kr"), "머리"),
        (b"ISO_IR 13", b"\xc4\xb3", "ﾄｳ"),
        # Not what is declared, or nothing is: UTF-8, then Latin-1.
        (b"", b"OBL\xcdQUO", "OBLÍQUO"),
        (b"", "Schädel".encode(), "Schädel"),
        (b"ISO_IR 192", b"Sch\xe4del", "Schädel"),
        (b"KLINGON", "Schädel".encode(), "Schädel"),
    ],
)
def test_text_is_decoded_as_declared_then_as_utf8_then_as_latin1(
    charset: bytes, raw: bytes, expected: str
) -> None:
    assert read("text", raw, charset=charset) == expected


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [(b"ISO_IR 13", "shift_jis", "表示"), (b"GB18030", "gb18030", "誠")],
)
def test_a_backslash_inside_a_character_does_not_split_a_value(
    charset: bytes, codec: str, text: str
) -> None:
    raw = text.encode(codec)
    assert b"\\" in raw, "the case needs a second byte of 0x5C"
    assert read("texts", raw + b"\\B ", charset=charset) == [text, "B"]


@pytest.mark.parametrize(
    "term",
    [b"unicode_escape", b"punycode", b"raw_unicode_escape", b"idna", b"zlib", b"utf_7", b"a\0b"],
)
def test_python_codecs_are_no_character_sets(term: bytes) -> None:
    assert read_encodings(term) == (UNDECLARED, False)


def test_lone_surrogates_never_reach_a_row() -> None:
    text = read("text", b"\x83\x36\xc7\x38 \xed\xa0\x80", charset=b"GB18030")
    assert isinstance(text, str)
    text.encode("utf-8")


def test_misspelt_character_sets_are_understood() -> None:
    assert read_encodings(b"ISO-IR 100") == (("latin_1",), True)


def test_odd_text_is_never_logged(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with caplog.at_level(logging.DEBUG):
        read("text", b"DOE^JANE\xff", charset=b"DOE^JOHN")
        read("text", b"DOE^JANE\xff", charset=b"ISO_IR 192")
        read("text", b"\x1b$B\xff\xffDOE^JANE", charset=b"\\ISO 2022 IR 87")
    assert not caplog.text
    assert not recwarn.list


def test_empty_text_is_not_a_value() -> None:
    for raw in (b"", b"  ", b"\0", b"\\\\"):
        assert read("text", raw) == EMPTY
        assert read("texts", raw) == EMPTY
