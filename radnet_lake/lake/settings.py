"""Settings of commands that read a lake: --lake or RADNET_LAKE comes in, the lake's place goes
out."""

import os
from dataclasses import dataclass, field

from radnet_lake.errors import SettingError

LAKE_VARIABLE = "RADNET_LAKE"


def locate_lake(uri: str | None) -> str:
    """The lake that the user named, or that RADNET_LAKE names. Raises SettingError."""
    uri = uri or os.environ.get(LAKE_VARIABLE)
    if not uri:
        raise SettingError("no lake is named", "--lake", f"give --lake LAKE or set {LAKE_VARIABLE}")
    return uri


@dataclass(frozen=True)
class LakeSettings:
    """Which lake."""

    lake: str = ""
    """the lake's folder or s3://bucket/prefix (default: RADNET_LAKE)"""


@dataclass(frozen=True, kw_only=True)
class SeriesSettings(LakeSettings):
    """Which series of which lake."""

    series: str = field(metadata={"positional": "SERIES_UID"})
    """SeriesInstanceUID as the lake has it"""


@dataclass(frozen=True, kw_only=True)
class PrintSettings(LakeSettings):
    """How rows of a lake are printed."""

    format: str = field(default="table", metadata={"choices": ("table", "csv", "json")})
    """table for people, the others for programs"""


@dataclass(frozen=True, kw_only=True)
class CommitSettings(LakeSettings):
    """How often a command that writes into a lake commits."""

    commit_seconds: float = 15.0
    """time between commits: what a killed run loses at most"""
