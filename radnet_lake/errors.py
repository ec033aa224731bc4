"""What can go wrong, as a small family. Each error names the thing, and the remedy.

RadnetLakeError
├── SettingError      a flag, an environment variable, a key or a path is wrong: exit status 2
├── StoreError        a folder or bucket cannot be read or written: exit status 1
│   └── MissingFileError  a file that should be there is not: exit status 1
├── LakeError         the lake itself is wrong: not a lake, newer schema, damaged: exit status 1
├── CheckpointError   a file of weights cannot be used: exit status 1
└── VolumeError       the pixels of one series make no volume: exit status 1
"""

import traceback
from collections.abc import Sequence
from pathlib import PurePath


class RadnetLakeError(Exception):
    """Base of all errors that radnet_lake raises on purpose.

    `what` says what is wrong, `where` names the file or setting, `remedy` what to do. None of them
    may hold text out of a DICOM header, nor a path below a source: those can name patients.
    """

    exit_status = 1

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.remedy}" if self.remedy else text


class SettingError(RadnetLakeError):
    """A flag, an environment variable, a key or a path is wrong."""

    exit_status = 2


class StoreError(RadnetLakeError):
    """A folder or bucket cannot be read or written."""


class MissingFileError(StoreError):
    """A file that should be in a folder is not there."""


class LakeError(RadnetLakeError):
    """The lake is not one, is of a newer schema, or is damaged."""


class CheckpointError(RadnetLakeError):
    """A file of weights is damaged, foreign, of a newer format, or does not fit the network."""


class VolumeError(RadnetLakeError):
    """The pixels of one series make no volume.

    `reason` is one of schema.VOLUME_REASONS, `detail` technical words; neither holds header text
    or a path, for both are stored in the lake.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


def describe_place(error: BaseException) -> str:
    """Class of an error and the line of code that raised it: "ValueError at scan.py:120".

    For errors that are not ours: their own text may quote a header or a path.
    """
    trace = traceback.extract_tb(error.__traceback__)
    place = f" at {PurePath(trace[-1].filename).name}:{trace[-1].lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


def encode_error(error: Exception) -> list[str]:
    """An error as JSON can hold it, for decode_error; of one that is not ours class and place."""
    if isinstance(error, RadnetLakeError):
        return [type(error).__name__, *error.args]
    what = f"a worker failed: {describe_place(error)}"
    return ["StoreError", what, "", "report it; what was committed stays"]


def decode_error(words: Sequence[str]) -> RadnetLakeError:
    """The error that encode_error was given, as one of ours."""
    kind, *arguments = words
    error: RadnetLakeError = globals().get(kind, RadnetLakeError)(*arguments)
    return error
