"""Output folder of a command: takes settings, parts and a done mark, gives them back, checked.

Training runs and prepared cases are such folders: they may have been killed half-way, moved,
damaged, or be of another command.
"""

import json
from typing import Any, ClassVar

from radnet_lake.errors import MissingFileError, SettingError, StoreError
from radnet_lake.storage.folder import Folder


class OutputFolder:
    """An output folder at a path or s3://bucket/prefix.

    Every method raises StoreError where the folder cannot be read or written.
    """

    what: ClassVar[str]
    """What the folder should be, for messages."""
    remedy: ClassVar[str]
    """What to do where a file is missing."""

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)

    @property
    def uri(self) -> str:
        return self.folder.uri

    def read(self, name: str) -> bytes:
        """A whole file. Raises SettingError where it is missing."""
        try:
            return self.folder.read(name)
        except MissingFileError:
            what = f"is no {self.what}: {name} is missing"
            raise SettingError(what, self.uri, self.remedy) from None

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object. Raises SettingError where it is missing, StoreError if damaged."""
        try:
            values = json.loads(self.read(name))
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise refuse_damage(f"{self.uri}/{name}")
        return values

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write or replace a JSON object."""
        self.folder.write(name, json.dumps(values, indent=1).encode())


def refuse_damage(where: str) -> StoreError:
    """The error for a file whose content cannot be what was written."""
    return StoreError("the file is damaged", where, "restore it, or delete it and run what made it")
