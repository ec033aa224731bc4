"""Takes dates, times and ages of a patient, gives them shifted, relative, or as age groups."""

import datetime
import re
from typing import Any, NamedTuple, TypeVar

_D = TypeVar("_D", datetime.date, datetime.datetime)
_DAY_MICROSECONDS = 86400 * 1_000_000


class Clock(NamedTuple):
    """Whole days (negative) to add to a patient's dates, seconds to subtract from times."""

    days: datetime.timedelta
    seconds: float


def bin_age(age: str) -> str | None:
    """DICOM age (PS3.5 AS) -> lower end of its 5 years, '090Y' from 90 on; None if unreadable."""
    match = re.fullmatch(r"\s*([0-9]{1,3})([DWMY])\s*", age)
    if not match:
        return None
    years = int(int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]])
    return f"{min(years // 5 * 5, 90):03d}Y"


def parse_time(text: Any) -> float | None:
    """DICOM time (PS3.5 TM) -> seconds since midnight; None if unreadable."""
    match = (
        re.fullmatch(r"(\d\d):?(\d\d)?:?(\d\d)?(\.\d{1,6})?", text.strip())
        if isinstance(text, str)
        else None
    )
    if not match:
        return None
    hours, minutes, seconds = (int(match[i] or 0) for i in (1, 2, 3))
    return hours * 3600 + minutes * 60 + seconds + float(match[4] or 0)


def format_time(seconds: float) -> str | None:
    """Seconds since midnight -> DICOM time; None outside of one day."""
    micros = round(seconds * 1_000_000)
    if not 0 <= micros < _DAY_MICROSECONDS:
        return None
    rest, whole = micros % 1_000_000, micros // 1_000_000
    text = f"{whole // 3600:02d}{whole // 60 % 60:02d}{whole % 60:02d}"
    return f"{text}.{rest:06d}" if rest else text


def shift_date(when: _D, shift: datetime.timedelta) -> _D | None:
    """`when` plus `shift`; None outside of the calendar."""
    try:
        return when + shift
    except OverflowError:
        return None


def shift_text(vr: str, text: str, clock: Clock) -> str | None:
    """DICOM DA, TM or DT value -> the shifted value of the same precision; None if unreadable."""
    if vr == "TM":
        time = parse_time(text)
        return None if time is None else format_time(time - clock.seconds)
    match = re.fullmatch(
        r"(\d{4})\.?(\d\d)\.?(\d\d)(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?", text.strip()
    )
    if not match or (vr == "DA" and (match[4] or match[5])):
        return None
    try:
        when = datetime.datetime(int(match[1]), int(match[2]), int(match[3])) + clock.days
        if match[4]:
            when += datetime.timedelta(seconds=(parse_time(match[4]) or 0) - clock.seconds)
    except (ValueError, OverflowError):
        return None
    date = when.date().isoformat().replace("-", "")
    time_text = format_time((when - when.min).seconds + when.microsecond / 1e6) if match[4] else ""
    return f"{date}{time_text}{match[5] or ''}"
