"""Sources listed to the end, and names that are hard to list."""

import pickle
from concurrent.futures import ThreadPoolExecutor

from radnet_lake.storage import sources
from radnet_lake.storage.sources import Entry, Unit

ODD_NAMES = [
    "a b",
    "line\nbreak",
    "100%",
    "%20",
    "Größe",
    "雪.dcm",
    "tab\there",
    "q'u\"o&t<e>",
    "~*()+",
]


def list_all(source: str, at_least: int = 64) -> list[Entry]:
    """Every entry of a source, listed unit by unit in threads, from units that crossed a wire."""
    units: list[Unit] = pickle.loads(pickle.dumps(sources.list_units(source, at_least)))
    with ThreadPoolExecutor(4) as pool:
        return [
            entry
            for part in pool.map(lambda u: list(sources.list_unit(u)), units)
            for entry in part
        ]
