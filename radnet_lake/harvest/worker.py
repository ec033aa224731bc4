"""Takes one chunk of listed files, writes their rows as parts, gives parts and sums; without Ray.

Every file becomes instance rows or a reject row with its reason, or is known already.
"""

import datetime
import gc
import json
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radnet_lake import schema
from radnet_lake.dicom import header as headers
from radnet_lake.dicom.header import Header, Read, Reject, read_header
from radnet_lake.dicom.header_json import make_json
from radnet_lake.dicom.instances import Row, make_frame_rows, read_identifiers
from radnet_lake.errors import StoreError
from radnet_lake.harvest.file_index import FileIndex, compare_listing
from radnet_lake.lake.log import Lake, Part, name_partition, open_lake, utc_now
from radnet_lake.privacy.deidentifier import Deidentifier, load_key
from radnet_lake.privacy.free_text import load_vocabulary
from radnet_lake.storage.archive import ArchiveError, archive_kind, list_members
from radnet_lake.storage.sources import (
    Entry,
    ReadFailure,
    classify_os_error,
    open_file,
    read_heads,
    read_range,
)

FLUSH_ROWS = 50_000
"""Rows in memory before they are written; one multi-frame object can have 40,000."""
FIRST_READ_LOCAL, FIRST_READ_S3, MAX_FIRST_READ = 8 << 10, 32 << 10, 256 << 10
"""Bytes of the first read: the length of the last header, within these bounds."""
MIN_REFUSED = 20
"""If all objects of a chunk are refused and at least so many, a permission is missing."""
DEFAULT_COLLECTION = "default"


class HarvestJob(NamedTuple):
    """Settings of a run for every worker. phi: keep or pseudonymise."""

    lake: str
    run_id: str
    collection: str
    collection_from: str
    phi: str
    prune: bool
    file_index: FileIndex


class ChunkResult(NamedTuple):
    """Parts that were written for a chunk, and its sums, for the driver."""

    parts: list[Part]
    counts: dict[str, int]


@lru_cache(maxsize=2)
def _open_writer(uri: str) -> Lake:
    return open_lake(uri)


@lru_cache(maxsize=2)
def _open_deidentifier(approved: frozenset[str]) -> Deidentifier:
    """Encrypted words of the lake -> deidentifier with these words in its vocabulary."""
    plain = Deidentifier(load_key(), frozenset())
    words = {plain.decrypt_word(word) for word in approved}
    return Deidentifier(load_key(), load_vocabulary() | words)


def extract_chunk(job: HarvestJob, listed: pa.Table) -> ChunkResult:
    """Listed files -> their rows, written as new parts of the lake.

    listed: the columns of sources.Entry. Raises StoreError where a store stops answering; the next
    run then reads the chunk's files again, because its parts are not committed.
    """
    # Off, because the collector would scan the thousands of rows in memory again and again.
    gc.disable()
    try:
        return _ChunkReader(job).run(listed)
    finally:
        gc.enable()


class _ChunkReader:
    """Reads the files of one chunk and holds their rows until they are written."""

    def __init__(self, job: HarvestJob) -> None:
        self.job = job
        self.lake = _open_writer(job.lake)
        self.stamp = utc_now()
        self.counts: dict[str, int] = defaultdict(int)
        self.parts: list[Part] = []
        self.rows: dict[str, list[Row]] = defaultdict(list)
        self.held = 0
        self.seen_series: set[tuple[str, str]] = set()
        self.collection = ""
        self.archive_uri: str | None = None
        self.last_header = 0
        self.deidentifier = (
            _open_deidentifier(job.file_index.approved) if job.phi == "pseudonymise" else None
        )

    def run(self, listed: pa.Table) -> ChunkResult:
        """Compare listed files with the index, read the new ones, write all rows."""
        forms = (self.encrypt, self.decrypt, self.shift) if self.deidentifier else (None,) * 3
        diff = compare_listing(self.job.file_index, listed, *forms)
        self.counts["files_listed"] += listed.num_rows
        self.counts["bytes_listed"] += pc.sum(listed["size_bytes"]).as_py() or 0
        self.counts["known"] += diff.objects
        self.counts["objects_seen"] += diff.objects
        self.counts["archives"] += diff.archives
        self.counts["superseded"] += len(diff.removed)
        for uri, stamp in diff.removed:
            self.add("removals", uri, {"removed_harvested_at": stamp, "reason": "changed"})
        readable = []
        for entry in diff.pending:
            if entry.reject_reason:
                self.read_entry(entry, Reject(entry.reject_reason, "seen when listing"))
            else:
                readable.append(entry)
        refused = 0
        for entry, head in read_heads(readable, self.next_read):
            refused += isinstance(head, ReadFailure) and head.reason == "unreadable"
            self.read_entry(entry, head)
        if refused == len(readable) >= MIN_REFUSED and readable[0].uri.startswith("s3://"):
            remedy = "allow s3:GetObject, then run again"
            bucket = readable[0].uri.split("/")[2]
            raise StoreError("objects are listed, but reading is denied", f"s3://{bucket}", remedy)
        self.flush()
        if self.job.prune:
            self.parts.append(self.note_listed(listed["uri"].to_pylist()))
        return ChunkResult(self.parts, dict(self.counts))

    def note_listed(self, uris: list[str]) -> Part:
        """Write the URIs of this chunk to a file, with which the driver finds vanished files."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"uri": [self.encrypt(uri) for uri in uris]}), sink)
        stamp = time.time_ns() // 1000
        name = f"_lake/listed/{self.job.run_id}-{stamp:014x}-{uuid.uuid4().hex[:8]}.parquet"
        self.lake.folder.write(name, sink.getvalue().to_pybytes())
        return Part("listed", name, len(uris), 0)

    def encrypt(self, uri: str) -> str:
        return self.deidentifier.encrypt_uri(uri) if self.deidentifier else uri

    def decrypt(self, uri: str) -> str:
        return self.deidentifier.decrypt_uri(uri) if self.deidentifier else uri

    def shift(self, microseconds: int) -> int:
        """Modification time -> its stored form, because a file is often as old as the scan."""
        return self.deidentifier.shift_modified(microseconds) if self.deidentifier else microseconds

    def file_facts(self, size: int, modified: int | None, etag: str | None) -> Row:
        """Size, modification time and content tag of a file or member -> columns of the lake."""
        when = None if modified is None else _to_datetime(self.shift(modified))
        known_size = size if 0 <= size < 1 << 63 else None
        return {"size_bytes": known_size, "modified": when, "etag": etag}

    def next_read(self) -> int:
        """Bytes of the next first read: neighbouring files have headers of similar length."""
        floor = FIRST_READ_S3 if self.first_is_remote else FIRST_READ_LOCAL
        step = headers.READ_STEP
        return min(max(floor, (self.last_header // step + 1) * step), MAX_FIRST_READ)

    first_is_remote = False

    def add(self, table: str, uri: str, row: Row) -> None:
        """Hold a row, with its origin, until the next flush."""
        row["uri"], row["harvested_at"] = uri, self.stamp
        row["run_id"], row["collection"] = self.job.run_id, self.collection
        row["archive_uri"] = self.archive_uri
        self.rows[table].append(row)
        self.held += 1

    def name_collection(self, uri: str) -> str:
        if self.job.collection_from:
            match = re.search(self.job.collection_from, uri)
            return (match[1] if match else None) or DEFAULT_COLLECTION
        return self.job.collection or DEFAULT_COLLECTION

    def read_entry(self, entry: Entry, head: bytes | ReadFailure | Reject) -> None:
        """Read one listed file: an object, or an archive of objects."""
        self.collection = self.name_collection(entry.uri)
        self.first_is_remote = entry.uri.startswith("s3://")
        listed = self.file_facts(entry.size_bytes, entry.modified, entry.etag)
        facts = listed | {"etag": None} if self.deidentifier else listed
        before = (self.counts["instances"], self.counts["rejects"])
        file: Row = {**listed, "is_archive": False, "is_final": True, "withheld": []}
        if not isinstance(head, bytes):
            self.reject(self.encrypt(entry.uri), facts, head.reason, head.detail)
            file["is_final"] = head.reason not in ("vanished", "unreadable")
        else:
            kind = archive_kind(head)
            if kind is None or kind == "unsupported":
                self.read_object(entry.uri, facts, partial(read_range, entry.uri), head, file)
            else:
                self.read_archive(entry, kind, facts, file)
        self.archive_uri = None
        file["n_instances"] = self.counts["instances"] - before[0]
        file["n_rejects"] = self.counts["rejects"] - before[1]
        file["n_objects"] = file["n_instances"] + file["n_rejects"]
        self.counts["objects_seen"] += file["n_objects"]
        self.counts["archives"] += file["is_archive"]
        file["withheld"] = sorted(set(file["withheld"])) or None
        self.add("files", self.encrypt(entry.uri), file | {"plain_uri": entry.uri})
        if self.held >= FLUSH_ROWS:
            self.flush()

    def read_archive(self, entry: Entry, kind: str, facts: Row, file: Row) -> None:
        """Read each member as an object of its own; the archive itself only on an error."""
        file["is_archive"] = True
        self.archive_uri = self.encrypt(entry.uri)
        name = PurePosixPath(entry.uri).name
        try:
            with open_file(entry.uri) as stream:
                for member in list_members(stream, kind, entry.size_bytes, name):
                    uri = f"{entry.uri}!/{member.path}" if member.path else entry.uri
                    stamp = member.modified if member.path else entry.modified
                    size = member.size_bytes if member.path else entry.size_bytes
                    own = self.file_facts(size, stamp, facts["etag"])
                    if member.error:
                        self.reject(self.encrypt(uri), own, *member.error)
                        continue
                    self.read_member(uri, own, member.read, file)
                    if self.held >= FLUSH_ROWS:
                        self.flush()
        except OSError as error:
            failure = classify_os_error(error)
            self.reject(self.encrypt(entry.uri), facts, failure.reason, failure.detail)
            file["is_final"] = False

    def read_member(
        self, uri: str, facts: Row, read_next: Callable[[int], bytes], file: Row
    ) -> None:
        """Read a member, whose bytes come once and in order, so that skipped ones are read too."""
        done = 0

        def read(offset: int, length: int) -> bytes:
            nonlocal done
            while done < offset:
                skipped = read_next(min(offset - done, 1 << 20))
                if not skipped:
                    return b""
                done += len(skipped)
            data = read_next(length)
            done += len(data)
            return data

        try:
            head = read(0, FIRST_READ_LOCAL)
            self.read_object(uri, facts, read, head, file)
        except ArchiveError as error:
            self.reject(self.encrypt(uri), facts, error.reason, error.detail)

    def read_object(self, uri: str, facts: Row, read: Read, head: bytes, file: Row) -> None:
        """Read one object -> instance rows, or a reject row."""
        stored = self.encrypt(uri)
        if archive_kind(head) == "unsupported":
            self.reject(stored, facts, "archive_unsupported", "by its first bytes")
            return
        try:
            header = read_header(read, facts["size_bytes"], head)
            rows = header if isinstance(header, Reject) else make_frame_rows(header)
        except OSError as error:
            failure = classify_os_error(error)
            self.reject(stored, facts, failure.reason, failure.detail)
            file["is_final"] = False
            return
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            # A reject with the type of the error, because one file must not end a whole run.
            self.reject(stored, facts, "header_unparseable", type(error).__name__)
            return
        if isinstance(rows, Reject) or isinstance(header, Reject):
            reject = rows if isinstance(rows, Reject) else header
            self.reject(stored, facts, reject.reason, reject.detail)  # type: ignore[union-attr]
            return
        self.last_header = header.header_bytes
        try:
            self.add_instance(stored, facts, header, rows, file)
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            # As above; nothing was added to `instances`, because rows are cleaned before.
            self.reject(stored, facts, "header_unparseable", type(error).__name__)

    def add_instance(
        self, stored: str, facts: Row, header: Header, rows: list[Row], file: Row
    ) -> None:
        """Add rows without identity, and the whole header at the first object of its series."""
        first = rows[0]
        series = (first.get("StudyInstanceUID") or "", first.get("SeriesInstanceUID") or "")
        identifiers = read_identifiers(header) if self.deidentifier else []
        if first["object_kind"] != "dicomdir" and (not series[1] or series not in self.seen_series):
            self.seen_series.add(series)
            self.add_header(stored, header, first, identifiers)
            if self.deidentifier:
                file["withheld"] += self.deidentifier.hash_names(identifiers)
        if self.deidentifier:
            for row in rows:
                file["withheld"] += self.deidentifier.clean_row(row, identifiers)
            file["patient"] = rows[0].get("PatientID")
        for row in rows:
            self.add("instances", stored, row | facts)
        self.counts["instances"] += 1
        self.counts["rows"] += len(rows)

    def add_header(
        self, stored: str, header: Header, first: Row, identifiers: Sequence[str]
    ) -> None:
        """Add one row of series_headers; its UIDs are treated as in the instance rows."""
        found, omitted = make_json(header)
        ids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality")
        row = {name: first.get(name) for name in ids}
        if self.deidentifier:
            omitted = omitted + self.deidentifier.clean_header(found, identifiers)
            subject = {n: first[n] for n in (*ids, "PatientID") if first.get(n) is not None}
            self.deidentifier.clean_row(subject, identifiers)
            row = {name: subject.get(name) for name in ids}
        row["header"] = json.dumps(found, separators=(",", ":"))
        row["omitted_keywords"] = sorted(set(omitted)) or None
        self.add("series_headers", stored, row)

    def reject(self, stored: str, facts: Row, reason: str, detail: str) -> None:
        self.add("rejects", stored, {**facts, "reason": reason, "detail": detail})
        self.counts["rejects"] += 1

    def flush(self) -> None:
        """Write the held rows: instances as one part per partition, sorted by series."""
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.rows.pop("instances", []):
            where = name_partition(row["collection"], row.get("Modality") or "")
            groups["instances", where].append(row)
        for row in self.rows.pop("series_headers", []):
            collection = name_partition(row["collection"], "").partition("/")[0]
            groups["series_headers", collection].append(row)
        for table, rows in self.rows.items():
            groups[table, ""].extend(rows)
        self.rows.clear()
        self.held = 0
        for (table, where), rows in groups.items():
            bounds: tuple[tuple[str, str], ...] = ()
            if table == "instances":
                rows.sort(key=_series_order)
            elif table == "files":
                rows.sort(key=lambda r: r["plain_uri"])
                bounds = ((rows[0]["uri"], rows[-1]["uri"]),)
            elif table == "removals":
                rows.sort(key=lambda r: self.decrypt(r["uri"]))
                bounds = ((rows[0]["uri"], rows[-1]["uri"]),)
            name = f"{where}/{self.job.run_id}" if where else self.job.run_id
            self.parts.append(self.lake.write_part(table, to_table(rows, table), name, bounds))


def _series_order(row: Row) -> tuple[Any, ...]:
    return (
        row.get("SeriesInstanceUID") or "",
        row.get("StudyInstanceUID") or "",
        row.get("InstanceNumber") or 0,
        row["uri"],
        row.get("frame_number") or 0,
    )


def to_table(rows: list[Row], table: str) -> pa.Table:
    """Rows as dicts -> Arrow table of the lake's schema; a missing key is NULL."""
    fields = schema.TABLES[table]
    # About 70 of 165 columns are filled; the others are NULL without a pass over the rows.
    filled = set().union(*rows)
    columns = [
        pa.array([row.get(f.name) for row in rows], f.type)
        if f.name in filled
        else pa.nulls(len(rows), f.type)
        for f in fields
    ]
    return pa.Table.from_arrays(columns, schema=fields)


def _to_datetime(microseconds: int) -> datetime.datetime | None:
    try:
        return datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=microseconds)
    except OverflowError:
        # Disks and tar files can hold a year past 9999; such a file is read at each harvest.
        return None
