"""Takes a chunk of listed files and the `files` table, gives the new, changed and vanished ones.

Each worker queries the table for its own chunk. A file is known if a final row has its URI, size,
modification time and content tag. Every other file is read, and rows of its older state are marked
as removed.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from radnet_lake.lake.log import Lake, Part, open_lake, utc_now
from radnet_lake.lake.views import connect
from radnet_lake.schema import TABLES
from radnet_lake.storage.sources import Entry

_COLUMNS = [
    "uri", "harvested_at", "size_bytes", "modified", "etag", "is_final", "is_archive",
    "n_objects", "n_instances", "n_rejects", "withheld",
]  # fmt: skip


LISTED = pa.schema(
    [
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("modified", pa.int64()),
        ("etag", pa.string()),
        ("reject_reason", pa.string()),
    ]
)
"""The fields of sources.Entry."""


class ListingDiff(NamedTuple):
    """Listed files against the index: known objects and archives, what to read and remove.

    pending: entries to read. removed: (URI, harvested_at) of superseded rows.
    """

    objects: int
    archives: int
    pending: list[Entry]
    removed: list[tuple[str, Any]]


class FileIndex(NamedTuple):
    """Parts of the tables `files` and `removals`, and the words that are in the vocabulary now."""

    lake: str
    files: tuple[Part, ...]
    removals: tuple[Part, ...]
    approved: frozenset[str]


@lru_cache(maxsize=2)
def _open(uri: str) -> Lake:
    return open_lake(uri)


@lru_cache(maxsize=8)
def _read_part(uri: str, part: Part, columns: tuple[str, ...]) -> pa.Table:
    return _open(uri).dataset([part]).to_table(columns=list(columns))


_plain_bounds: dict[str, list[tuple[str, str]]] = {}


def _may_contain(part: Part, low: str, high: str, decrypt: Callable[[str], str]) -> bool:
    """Whether a part may hold a URI between `low` and `high`, by its decrypted bounds."""
    bounds = _plain_bounds.get(part.name)
    if bounds is None:
        bounds = [(decrypt(first), decrypt(last)) for first, last in part.bounds]
        _plain_bounds[part.name] = bounds
    return any(first <= high and last >= low for first, last in bounds)


def _select(lake: str, parts: Iterable[Part], columns: Sequence[str], uris: pa.Array) -> pa.Table:
    """Parts -> their rows whose URI is one of `uris`."""
    found = []
    for part in parts:
        table = _read_part(lake, part, tuple(columns))
        hits = table.filter(pc.is_in(table["uri"], value_set=uris))
        if hits.num_rows:
            found.append(hits)
    fields = TABLES["files" if "is_final" in columns else "removals"]
    empty = pa.schema([fields.field(name) for name in columns]).empty_table()
    return pa.concat_tables([empty, *found])


def compare_listing(
    file_index: FileIndex,
    listed: pa.Table,
    encrypt: Callable[[str], str] | None,
    decrypt: Callable[[str], str] | None,
    shift: Callable[[int], int] | None,
) -> ListingDiff:
    """Listed files -> which are known, which must be read, which rows are superseded.

    listed: the columns of sources.Entry. encrypt, decrypt: URI to its stored form and back. shift:
    modification time to its stored form. All three are None where the lake stores plain values.
    """
    if not file_index.files or not listed.num_rows:
        return ListingDiff(0, 0, to_entries(listed), [])
    bounds, plain = pc.min_max(listed["uri"]).as_py(), decrypt or str
    low, high = bounds["min"], bounds["max"]
    near = [p for p in file_index.files if _may_contain(p, low, high, plain)]
    uris = listed["uri"].combine_chunks()
    stored = pa.array([encrypt(u) for u in uris.to_pylist()]) if encrypt else uris
    modified = listed["modified"]
    if shift:
        modified = pa.array([shift(m) for m in modified.to_pylist()], pa.int64())
    facts = listed.set_column(0, "uri", stored).set_column(2, "modified", modified)
    rows = _select(file_index.lake, near, _COLUMNS, stored)
    near = [p for p in file_index.removals if _may_contain(p, low, high, plain)]
    gone = _select(file_index.lake, near, ["uri", "removed_harvested_at"], stored)
    matched, same = _match_unique(facts, rows, gone, file_index.approved)
    objects = pc.sum(pc.if_else(same, matched["n_objects"], 0)).as_py() or 0
    archives = pc.sum(pc.if_else(same, pc.cast(matched["is_archive"], pa.int64()), 0)).as_py() or 0
    rest = pc.invert(same)
    known = _compare_rows(listed.filter(rest), facts.filter(rest), rows, gone, file_index.approved)
    return known._replace(objects=known.objects + objects, archives=known.archives + archives)


def to_listed(entries: Sequence[Entry]) -> pa.Table:
    """Entries -> table with the columns of Entry."""
    columns = zip(*entries, strict=True) if entries else [()] * len(LISTED)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, LISTED, strict=True)]
    return pa.table(arrays, schema=LISTED)


def to_entries(listed: pa.Table) -> list[Entry]:
    """Table with the columns of Entry -> entries."""
    columns = [listed[name].to_pylist() for name in Entry._fields]
    return [Entry(*fields) for fields in zip(*columns, strict=True)]


def _match_unique(
    facts: pa.Table, rows: pa.Table, gone: pa.Table, approved: frozenset[str]
) -> tuple[pa.Table, pa.Array]:
    """Files -> the row of each, and whether by that row the file is known; only unambiguous files.

    Ambiguous, for _compare_rows: several rows for a file, a removal, a withheld word that may be in
    the vocabulary now.
    """
    counts = pc.value_counts(rows["uri"].combine_chunks())
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    ambiguous = pc.or_(pc.is_in(rows["uri"], value_set=several), pc.is_in(rows["uri"], gone["uri"]))
    if approved:
        ambiguous = pc.or_(ambiguous, pc.is_valid(rows["withheld"]))
    unique = rows.filter(pc.invert(ambiguous))
    matched = unique.take(pc.index_in(facts["uri"], value_set=unique["uri"].combine_chunks()))
    etags = (facts["etag"], matched["etag"])
    same_etag = pc.or_(pc.and_(*map(pc.is_null, etags)), pc.fill_null(pc.equal(*etags), False))
    same = pc.and_(matched["is_final"], pc.equal(facts["size_bytes"], matched["size_bytes"]))
    stamps = pc.cast(matched["modified"], pa.int64())
    same = pc.and_(same, pc.equal(facts["modified"], stamps))
    same = pc.and_(pc.fill_null(same, False), same_etag)
    unread = pc.fill_null(pc.equal(facts["reject_reason"], "unreadable"), False)
    return matched, pc.and_not(same, unread)


def _compare_rows(
    listed: pa.Table, facts: pa.Table, rows: pa.Table, gone: pa.Table, approved: frozenset[str]
) -> ListingDiff:
    """The same, file by file, for the new, changed and ambiguous files."""
    removed_before = set(zip(*(gone[n].to_pylist() for n in gone.schema.names), strict=True))
    live: dict[str, list[dict[str, Any]]] = {}
    for row in rows.filter(pc.is_in(rows["uri"], value_set=facts["uri"])).to_pylist():
        if (row["uri"], row["harvested_at"]) not in removed_before:
            live.setdefault(row["uri"], []).append(row)
    objects = archives = 0
    pending: list[Entry] = []
    removed: list[tuple[str, Any]] = []
    for entry, fact in zip(to_entries(listed), to_entries(facts), strict=True):
        # Two rows for one file are from two runs at the same time: the older one is removed.
        old = sorted(live.get(fact.uri, []), key=lambda r: r["harvested_at"])
        if old and _is_same(old[-1], fact, approved):
            last = old.pop()
            objects, archives = objects + last["n_objects"], archives + last["is_archive"]
            # Not rows with the same stamp, because a removal identifies rows by file and stamp.
            old = [r for r in old if r["harvested_at"] != last["harvested_at"]]
        else:
            pending.append(entry)
        removed += [(fact.uri, r["harvested_at"]) for r in old]
    return ListingDiff(objects, archives, pending, removed)


def _is_same(row: dict[str, Any], fact: Entry, approved: frozenset[str]) -> bool:
    if not row["is_final"] or fact.reject_reason == "unreadable":
        return False
    if row["size_bytes"] != fact.size_bytes or row["etag"] != fact.etag:
        return False
    if row["modified"] is None or as_microseconds(row["modified"]) != fact.modified:
        return False
    return not (approved and approved.intersection(row["withheld"] or []))


def write_vanished(
    lake: Lake,
    run: dict[str, Any],
    sources: Sequence[str],
    listed: Sequence[Part],
    decrypt: Callable[[str], str],
) -> Part | None:
    """Known files below `sources` that the run did not list -> a part of removals, or None.

    run: its record. listed: parts with one column, uri: all files of the run. Files below a folder
    that could not be read stay, and so do files that other runs added since this run began.
    """
    run_id = run["run_id"]
    filesystem, base = lake.folder.filesystem()
    names = [f"{base}/{p.name}" for p in listed]
    stamp = utc_now()
    bounds: list[tuple[str, str]] = []
    rows: dict[str, list[Any]] = {name: [] for name in TABLES["removals"].names}
    with connect(lake.uri) as connection:
        seen = pyarrow.dataset.dataset(names, format="parquet", filesystem=filesystem)
        connection.register("seen", seen if names else pa.table({"uri": pa.array([], pa.string())}))
        unread = connection.execute(
            "select uri from files where run_id = ? and not is_final", [run_id]
        ).fetchall()
        closed = [f"{decrypt(uri)}/" for (uri,) in unread]
        reader = connection.sql(
            "select uri, harvested_at, collection from files anti join seen using (uri)"
            f" where harvested_at < timestamp '{run['started_at']}'"
        ).to_arrow_reader()
        for batch in reader:
            for row in batch.to_pylist():
                plain = decrypt(row["uri"])
                if any(plain.startswith(folder) for folder in closed):
                    continue
                if any(plain == s or plain.startswith(f"{s.rstrip('/')}/") for s in sources):
                    bounds.append((plain, row["uri"]))
                    rows["uri"].append(row["uri"])
                    rows["removed_harvested_at"].append(row["harvested_at"])
                    rows["collection"].append(row["collection"])
    count = len(rows["uri"])
    if not count:
        return None
    rows |= {"reason": ["vanished"] * count, "run_id": [run_id] * count}
    rows |= {"harvested_at": [stamp] * count, "archive_uri": [None] * count}
    between = ((min(bounds)[1], max(bounds)[1]),)
    return lake.write_part("removals", pa.table(rows, TABLES["removals"]), run_id, between)


def as_microseconds(stamp: Any) -> int:
    """A naive UTC datetime -> microseconds since the epoch."""
    return int(pa.scalar(stamp, pa.timestamp("us")).value)
