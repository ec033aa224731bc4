"""Mutated real files: whatever they hold, reading them ends soon, as rows or as a reject."""

import json
import random
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from pydicom.data import get_testdata_files

from radnet_lake import schema
from radnet_lake.dicom.header import Reject, read_header
from radnet_lake.dicom.header_json import make_json
from radnet_lake.dicom.instances import make_frame_rows, read_identifiers
from radnet_lake.harvest.worker import to_table

CASES, SEED = 3000, 20
MOST_SECONDS = 5.0
MOST_BYTES = 400 << 20
EXTREMES = (0, 1, 7, 8, 0x7F, 0xFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF)
WORDS = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\x0d\xe0\x00\x00\x00\x00",
    b"\xfe\xff\xdd\xe0\x00\x00\x00\x00",
    b"SQ\x00\x00\xff\xff\xff\xff",
    b"UN\x00\x00\xff\xff\xff\xff",
    b"1e400\\-inf\\nan",
    b"\\\\\\\x00\x1b$B\x1b(B",
    b"\x08\x00\x05\x00CS\x0e\x00unicode_escape",
    b"\x28\x00\x08\x00IS\x0a\x001000000000",
    b"1.2.840.10008.1.2.1.99",
    b"1.2.840.10008.1.2.2\x00",
)


def load_seeds() -> list[bytes]:
    """Headers of pydicom's own test files, each with some bytes of its pixels."""
    paths = sorted(Path(p) for p in get_testdata_files() if Path(p).is_file())
    found = []
    for path in paths:
        data = path.read_bytes()
        if 0 < len(data) < 1 << 20:
            found.append(data[:12_000])
    return found


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to five changes of the kinds that transfers, disks and attackers make."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            other = rng.choice(others)
            begin = rng.randrange(len(other))
            changed[at:at] = other[begin : begin + rng.randint(1, 2000)]
        elif kind == 3:
            value = rng.choice(EXTREMES)
            changed[at : at + 4] = value.to_bytes(4, rng.choice(("little", "big")))
        elif kind == 4:
            chunk = changed[at : at + rng.randint(1, 300)]
            changed[at:at] = chunk * rng.randint(1, 60)
        elif kind == 5:
            word = rng.choice(WORDS)
            changed[at : at + len(word)] = word * rng.choice((1, 1, 1, 300))
        else:
            del changed[at : at + rng.randint(1, 40)]
    return bytes(changed)


def read_all(data: bytes) -> str:
    """All that a harvest does with one file; the reason, or "row"."""
    header = read_header(lambda at, length: data[at : at + length], len(data), data[:4096])
    rows = header if isinstance(header, Reject) else make_frame_rows(header)
    if isinstance(rows, Reject) or isinstance(header, Reject):
        reject = rows if isinstance(rows, Reject) else header
        assert isinstance(reject, Reject)
        assert reject.reason in schema.REJECT_REASONS
        return reject.reason
    assert to_table(rows, "instances").num_rows == len(rows) >= 1
    found, omitted = make_json(header)
    text = json.dumps(found, allow_nan=False)
    text.encode("utf-8")
    to_table([{"header": text, "omitted_keywords": omitted}], "series_headers")
    for identifier in read_identifiers(header):
        identifier.encode("utf-8")
    return "row"


def run_cases(seed: int, count: int) -> tuple[Counter[str], float]:
    """Outcomes of `count` cases, and the seconds of the slowest."""
    seeds, rng = load_seeds(), random.Random(seed)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number in range(count):
        data = mutate(rng.choice(seeds), seeds, rng)
        start = time.perf_counter()
        try:
            outcomes[read_all(data)] += 1
        except Exception as error:
            error.add_note(f"seed {seed}, case {number}, {len(data)} bytes")
            raise
        slowest = max(slowest, time.perf_counter() - start)
    return outcomes, slowest


@pytest.mark.long
def test_damaged_files_end_as_rows_or_rejects_in_bounded_time() -> None:
    outcomes, slowest = run_cases(SEED, CASES)
    assert outcomes.total() == CASES
    assert slowest < MOST_SECONDS
    # Damage of all kinds: the cases would say little if all of them ended in the same way.
    assert {"row", "not_dicom", "header_truncated", "header_unparseable"} <= set(outcomes)
    assert outcomes["row"] > CASES // 20


def test_damaged_files_do_not_fill_memory() -> None:
    tracemalloc.start()
    try:
        run_cases(SEED + 1, 300)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES
