"""Takes --lake or RADNET_LAKE, gives the lake's URI; settings that commands on a lake share."""

import os
from dataclasses import dataclass, field

from radnet_lake.errors import SettingError

LAKE_VARIABLE = "RADNET_LAKE"


def locate_lake(uri: str | None) -> str:
    """Value of --lake, else of RADNET_LAKE -> URI. Raises SettingError where neither is set."""
    uri = uri or os.environ.get(LAKE_VARIABLE)
    if not uri:
        raise SettingError("no lake is named", "--lake", f"give --lake LAKE or set {LAKE_VARIABLE}")
    return uri


@dataclass(frozen=True)
class LakeSettings:
    """The lake that a command works on."""

    lake: str = ""
    """the lake's folder or s3://bucket/prefix (default: RADNET_LAKE)"""


@dataclass(frozen=True, kw_only=True)
class SeriesSettings(LakeSettings):
    """One series of a lake."""

    series: str = field(metadata={"positional": "SERIES_UID"})
    """SeriesInstanceUID as the lake has it"""


@dataclass(frozen=True, kw_only=True)
class PrintSettings(LakeSettings):
    """Format of printed rows."""

    format: str = field(default="table", metadata={"choices": ("table", "csv", "json")})
    """table for people, the others for programs"""


@dataclass(frozen=True, kw_only=True)
class CommitSettings(LakeSettings):
    """Time between commits of a command that writes to a lake."""

    commit_seconds: float = 15.0
    """seconds between commits, and of work that a killed run can lose"""
