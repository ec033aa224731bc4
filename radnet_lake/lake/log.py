"""Takes Parquet files and commits, gives a snapshot of the files that belong to the lake.

    LAKE/_lake/format.json                       schema version, kind of de-identification, key id
    LAKE/_lake/log/000000000042.json             one commit: files added, files removed, the run
    LAKE/_lake/checkpoint/000000000040.json      the snapshot after commit 40
    LAKE/instances/collection=C/modality=MR/*.parquet, and so on for each table

Files that no commit names are ignored, so what a killed writer left is never read. A commit is
created under the next free number, so two writers never overwrite each other.

Not Delta, Iceberg or DuckLake, because a commit here is atomic over several tables: Delta has no
such commit, Iceberg and DuckLake need a catalog service.
"""

import datetime
import hashlib
import json
import random
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from radnet_lake import __version__, schema
from radnet_lake.errors import LakeError, SettingError
from radnet_lake.lake.settings import locate_lake
from radnet_lake.storage.folder import Folder

_FORMAT, _LOG, _CHECKPOINT = "_lake/format.json", "_lake/log/", "_lake/checkpoint/"
CHECKPOINT_EVERY = 64
MAX_FOLDER_NAME = 150
"""Bytes of a collection's folder name; file systems end at 255. The column has the whole name."""
ROW_GROUP_ROWS = 16_384
"""About a hundred series: small, so that a query for one series reads little."""


class Part(NamedTuple):
    """One Parquet file of the lake.

    bounds: pairs of the first and last URI of its rows, as stored, in the order of the decrypted
    URIs; only for the tables `files` and `removals`, else empty.
    """

    table: str
    name: str
    rows: int
    size_bytes: int
    bounds: tuple[tuple[str, str], ...] = ()


def decode_part(fields: list[Any]) -> Part:
    """JSON list of a commit -> part."""
    table, name, rows, size_bytes, bounds = fields
    return Part(table, name, rows, size_bytes, tuple((first, last) for first, last in bounds))


@dataclass
class Snapshot:
    """Contents of the lake after commit `version`.

    parts: by name. runs: the last record of each run. words: encrypted words of free text that were
    added to the vocabulary. labels: mode, rules and time of the last labelling.
    """

    version: int = 0
    parts: dict[str, Part] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    labels: dict[str, Any] = field(default_factory=dict)

    def of(self, table: str) -> list[Part]:
        """The parts of one table, in the order of their names."""
        return sorted((p for p in self.parts.values() if p.table == table), key=lambda p: p.name)


class CommitConflict(Exception):
    """Another writer removed or replaced the parts that this commit replaces."""


class Lake:
    """An open lake: its folder, its format, and the snapshot of the last refresh."""

    def __init__(self, folder: Folder, lake_format: dict[str, Any]) -> None:
        self.folder = folder
        self.format = lake_format
        self.snapshot = Snapshot()
        self.refresh()

    @property
    def uri(self) -> str:
        return self.folder.uri

    def refresh(self) -> Snapshot:
        """Read the commits since the last refresh; returns the new snapshot."""
        names = self.folder.names(_LOG)
        checkpoints = self.folder.names(_CHECKPOINT)
        newest = _parse_version(checkpoints[-1]) if checkpoints else 0
        if newest > self.snapshot.version:
            self.snapshot = _decode_snapshot(self._read_json(checkpoints[-1]))
        for name in names:
            if _parse_version(name) > self.snapshot.version:
                if _parse_version(name) != self.snapshot.version + 1:
                    missing = f"{_LOG}{self.snapshot.version + 1:012d}.json"
                    raise LakeError("a commit is missing", f"{self.uri}/{missing}", "restore it")
                _apply_commit(self.snapshot, self._read_json(name))
        return self.snapshot

    def commit(
        self,
        add: list[Part] | None = None,
        remove: list[str] | None = None,
        run: dict[str, Any] | None = None,
        words: list[str] | None = None,
        labels: dict[str, Any] | None = None,
        replace: str = "",
        keep: list[str] | None = None,
    ) -> int:
        """Add and remove files in one atomic step; returns the commit's number.

        replace: a table whose parts must be exactly `remove` and `keep`, so that of two runs which
        both replace it only one succeeds. Raises CommitConflict where they are not, or where a file
        of `remove` is removed already; nothing is changed then.
        """
        entry = {
            "at": utc_now().isoformat(),
            "add": [list(p) for p in add or []],
            "remove": remove or [],
            "run": run,
            "words": words or [],
            "labels": labels,
        }
        data = json.dumps(entry).encode()
        attempt = 0
        while True:
            self.refresh()
            if remove and not all(name in self.snapshot.parts for name in remove):
                raise CommitConflict(f"{len(remove)} files")
            expected = {*(remove or []), *(keep or [])}
            if replace and {p.name for p in self.snapshot.of(replace)} != expected:
                raise CommitConflict(replace)
            version = self.snapshot.version + 1
            if self.folder.create(f"{_LOG}{version:012d}.json", data):
                break
            attempt += 1
            time.sleep(random.uniform(0, min(0.05 * attempt, 2)))
        _apply_commit(self.snapshot, {"version": version, **entry})
        if version % CHECKPOINT_EVERY == 0:
            self.write_checkpoint()
        return version

    def find_removed(self) -> dict[str, datetime.datetime]:
        """Names of removed parts -> time of removal; older readers may still use them."""
        removed: dict[str, datetime.datetime] = {}
        for name in self.folder.names(_LOG):
            entry = self._read_json(name)
            stamp = datetime.datetime.fromisoformat(entry["at"])
            removed.update(dict.fromkeys(entry["remove"], stamp))
        return removed

    def write_checkpoint(self) -> None:
        """Write the current snapshot as one file, so that a reader skips the commits before it."""
        name = f"{_CHECKPOINT}{self.snapshot.version:012d}.json"
        self.folder.write(name, json.dumps(_encode_snapshot(self.snapshot)).encode())

    def write_part(
        self, table: str, rows: pa.Table, name: str, bounds: tuple[tuple[str, str], ...] = ()
    ) -> Part:
        """Write rows as a new Parquet file `table/name-<unique>.parquet`; a commit must name it."""
        sink = pa.BufferOutputStream()
        pq.write_table(
            rows.cast(schema.TABLES.get(table, rows.schema)),
            sink,
            compression="zstd",
            row_group_size=ROW_GROUP_ROWS,
            store_schema=True,
        )
        data = sink.getvalue()
        # The time in the name orders parts by creation, and gives the age of an orphan.
        full = f"{table}/{name}-{time.time_ns() // 1000:014x}-{uuid.uuid4().hex[:8]}.parquet"
        self.folder.write(full, memoryview(data))
        return Part(table, full, rows.num_rows, data.size, bounds)

    def dataset(self, parts: list[Part]) -> pyarrow.dataset.Dataset:
        """A pyarrow dataset over parts of one table."""
        filesystem, base = self.folder.filesystem()
        return pyarrow.dataset.dataset(
            [f"{base}/{p.name}" for p in parts],
            schema=schema.TABLES.get(parts[0].table),
            format="parquet",
            filesystem=filesystem,
        )

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            entry = json.loads(self.folder.read(name))
        except ValueError:
            raise LakeError("not JSON", f"{self.uri}/{name}", "restore the file") from None
        return {"version": _parse_version(name), **entry}


def utc_now() -> datetime.datetime:
    """Current UTC time without zone, as the lake stores timestamps."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def _parse_version(name: str) -> int:
    match = re.search(r"(\d{12})\.json$", name)
    return int(match[1]) if match else 0


def _apply_commit(snapshot: Snapshot, entry: dict[str, Any]) -> None:
    for part in map(decode_part, entry["add"]):
        snapshot.parts[part.name] = part
    for name in entry["remove"]:
        snapshot.parts.pop(name, None)
    if entry["run"]:
        snapshot.runs[entry["run"]["run_id"]] = entry["run"]
    snapshot.words.update(entry["words"])
    snapshot.labels = entry.get("labels") or snapshot.labels
    snapshot.version = entry["version"]


def _encode_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "parts": [list(p) for p in snapshot.parts.values()],
        "runs": snapshot.runs,
        "words": sorted(snapshot.words),
        "labels": snapshot.labels,
    }


def _decode_snapshot(entry: dict[str, Any]) -> Snapshot:
    parts = {p[1]: decode_part(p) for p in entry["parts"]}
    words, labels = set(entry["words"]), entry.get("labels", {})
    return Snapshot(entry["version"], parts, entry["runs"], words, labels)


def open_lake(uri: str | None) -> Lake:
    """URI, or None for that of RADNET_LAKE -> the existing lake.

    Raises LakeError where there is none, or one of a newer schema; SettingError without a URI.
    """
    folder = Folder(locate_lake(uri))
    if _FORMAT not in folder.names(_FORMAT):
        remedy = "check --lake, or make one with: radnet-lake harvest SOURCE --lake LAKE"
        raise LakeError("no lake there", folder.uri, remedy)
    try:
        lake_format = json.loads(folder.read(_FORMAT))
    except ValueError:
        raise LakeError("not JSON", f"{folder.uri}/{_FORMAT}", "restore the file") from None
    found = lake_format.get("schema_version", 0)
    if found > schema.SCHEMA_VERSION:
        raise LakeError(
            f"the lake's schema is version {found}, this program reads {schema.SCHEMA_VERSION}",
            folder.uri,
            "install a newer radnet_lake",
        )
    return Lake(folder, lake_format)


def create_lake(uri: str, phi: str, key_id: str) -> Lake:
    """Open a lake for writing, or create it in an empty or missing folder.

    phi: keep or pseudonymise. key_id: fingerprint of the key, "" for keep. Raises LakeError where
    the folder holds something else, SettingError where the lake was made with another phi or key,
    because then one patient would have two pseudonyms in one lake.
    """
    folder = Folder(uri)
    if _FORMAT not in folder.names(_FORMAT):
        # Checked again, because another harvest may have created the lake meanwhile.
        if not folder.is_empty() and _FORMAT not in folder.names(_FORMAT):
            remedy = "give an empty or new folder as --lake"
            raise LakeError("the folder is not empty and not a lake", folder.uri, remedy)
        lake_format = {
            "format": "radnet_lake",
            "schema_version": schema.SCHEMA_VERSION,
            "phi": phi,
            "key_id": key_id,
            "made_by": __version__,
        }
        folder.create(_FORMAT, json.dumps(lake_format).encode())
    lake = open_lake(uri)
    if lake.format.get("phi") != phi:
        raise SettingError(
            f"the lake was made with --phi {lake.format.get('phi')}, not {phi}",
            lake.uri,
            "use the same --phi, or another lake",
        )
    if lake.format.get("key_id") != key_id:
        raise SettingError(
            "the lake was made with another pseudonymisation key",
            lake.uri,
            "set RADNET_LAKE_KEY_FILE to that key's file, or use another lake",
        )
    return lake


def name_partition(collection: str, modality: str) -> str:
    """Collection and modality -> folder; an invalid modality, which is header text, gives OTHER."""
    safe = modality if re.fullmatch(r"[A-Z0-9]{1,16}", modality) else "OTHER"
    folder = quote(collection, safe=" -_.")
    if len(folder) > MAX_FOLDER_NAME:
        digest = hashlib.sha256(collection.encode()).hexdigest()[:16]
        folder = re.sub("%[0-9A-F]?$", "", folder[: MAX_FOLDER_NAME - 20]) + f"-{digest}"
    return f"collection={folder}/modality={safe}"
