"""What the lake knows of each listed file: the `files` table, asked by every worker for its chunk.

A file is known if its URI, size, change time and content tag stand in a row that is final.
Everything else is read, and rows that an older state of the file left are marked as removed.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from radnet_lake.lake import Lake, Part, connect, open_lake, utc_now
from radnet_lake.schema import TABLES
from radnet_lake.store import Entry

_COLUMNS = [
    "uri", "harvested_at", "size_bytes", "modified", "etag", "is_final", "is_archive",
    "n_objects", "n_instances", "n_rejects", "withheld",
]  # fmt: skip


class Known(NamedTuple):
    """What became of a chunk's files: objects known, entries to read, rows that no longer count."""

    objects: int
    files: int
    archives: int
    pending: list[Entry]
    removed: list[tuple[str, Any]]


class Ledger(NamedTuple):
    """The parts a worker must ask, with the bounds of their URIs in plain text."""

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


def _is_near(part: Part, low: str, high: str, unseal: Callable[[str], str]) -> bool:
    """Whether a part can hold a URI between `low` and `high`."""
    bounds = _plain_bounds.get(part.name)
    if bounds is None:
        bounds = [(unseal(first), unseal(last)) for first, last in part.bounds]
        _plain_bounds[part.name] = bounds
    return any(first <= high and last >= low for first, last in bounds)


def _select(lake: str, parts: Iterable[Part], columns: Sequence[str], uris: pa.Array) -> pa.Table:
    """Rows of these parts whose URI is one of `uris`."""
    found = []
    for part in parts:
        table = _read_part(lake, part, tuple(columns))
        hits = table.filter(pc.is_in(table["uri"], value_set=uris))
        if hits.num_rows:
            found.append(hits)
    return pa.concat_tables(found) if found else pa.table({name: [] for name in columns})


def find_known(
    ledger: Ledger,
    entries: list[Entry],
    seal: Callable[[str], str],
    unseal: Callable[[str], str],
    shift: Callable[[int], int],
) -> Known:
    """Which of these files need not be read again.

    seal, unseal: from a URI to its form in the lake and back. shift: a time of change likewise.
    """
    if not ledger.files or not entries:
        return Known(0, 0, 0, entries, [])
    low, high = min(e.uri for e in entries), max(e.uri for e in entries)
    near = [p for p in ledger.files if _is_near(p, low, high, unseal)]
    stored = [seal(e.uri) for e in entries]
    uris = pa.array(stored, pa.string())
    rows: dict[str, list[dict[str, Any]]] = {}
    removals = ["uri", "removed_harvested_at"]
    gone = {
        (r["uri"], r["removed_harvested_at"])
        for r in _select(ledger.lake, ledger.removals, removals, uris).to_pylist()
    }
    for row in _select(ledger.lake, near, _COLUMNS, uris).to_pylist():
        if (row["uri"], row["harvested_at"]) not in gone:
            rows.setdefault(row["uri"], []).append(row)
    objects = files = archives = 0
    pending: list[Entry] = []
    removed: list[tuple[str, Any]] = []
    for entry, uri in zip(entries, stored, strict=True):
        # Two rows for one file can only come from two runs at once: the older one goes.
        live = sorted(rows.get(uri, []), key=lambda r: r["harvested_at"])
        if live and _is_same(live[-1], entry, ledger.approved, shift):
            objects += live[-1]["n_objects"]
            files += 1
            archives += live[-1]["is_archive"]
            live.pop()
        else:
            pending.append(entry)
        removed += [(uri, r["harvested_at"]) for r in live]
    return Known(objects, files, archives, pending, removed)


def _is_same(
    row: dict[str, Any], entry: Entry, approved: frozenset[str], shift: Callable[[int], int]
) -> bool:
    if not row["is_final"] or (entry.trouble and entry.trouble != "not_a_file"):
        return False
    if row["size_bytes"] != entry.size_bytes or row["etag"] != entry.etag:
        return False
    if row["modified"] is None or as_microseconds(row["modified"]) != shift(entry.modified):
        return False
    return not (approved and approved.intersection(row["withheld"] or []))


def write_vanished(
    lake: Lake,
    run_id: str,
    sources: Sequence[str],
    listed: Sequence[Part],
    unseal: Callable[[str], str],
) -> Part | None:
    """A part of removals for files below `sources` that are known but not among `listed`.

    listed: parts with one column, uri: all that the run saw.
    """
    filesystem, base = lake.folder.filesystem()
    names = [f"{base}/{p.name}" for p in listed]
    stamp = utc_now()
    rows: dict[str, list[Any]] = {name: [] for name in TABLES["removals"].names}
    with connect(lake.uri) as connection:
        seen = pyarrow.dataset.dataset(names, format="parquet", filesystem=filesystem)
        connection.register("seen", seen if names else pa.table({"uri": pa.array([], pa.string())}))
        reader = connection.sql(
            "select uri, harvested_at, collection from files anti join seen using (uri)"
        ).to_arrow_reader()
        for batch in reader:
            for row in batch.to_pylist():
                plain = unseal(row["uri"])
                if any(plain == s or plain.startswith(f"{s}/") for s in sources):
                    rows["uri"].append(row["uri"])
                    rows["removed_harvested_at"].append(row["harvested_at"])
                    rows["collection"].append(row["collection"])
    count = len(rows["uri"])
    if not count:
        return None
    rows |= {"reason": ["vanished"] * count, "run_id": [run_id] * count}
    rows |= {"harvested_at": [stamp] * count, "archive_uri": [None] * count}
    return lake.write_part("removals", pa.table(rows, TABLES["removals"]), run_id)


def as_microseconds(stamp: Any) -> int:
    """A naive UTC datetime -> microseconds since the epoch."""
    return int(pa.scalar(stamp, pa.timestamp("us")).value)
