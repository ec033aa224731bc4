"""A frozen label set: one file with every series' labels, rules and split, and its origin."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from radnet_lake import __version__
from radnet_lake.errors import SettingError
from radnet_lake.lake.freshness import warn_if_stale
from radnet_lake.lake.log import open_lake, utc_now
from radnet_lake.lake.settings import LakeSettings
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.views import connect
from radnet_lake.storage.folder import write_whole


@dataclass(frozen=True, kw_only=True)
class ExportConfig(LakeSettings):
    """Settings of one export."""

    output: str = field(metadata={"short": "-o"})
    """file to write, .parquet or .csv; a .csv gets its origin in FILE.json beside it"""

    def __post_init__(self) -> None:
        if Path(self.output).suffix not in (".parquet", ".csv"):
            raise SettingError("neither .parquet nor .csv", "--output", "name such a file")
        if "://" in self.output:
            raise SettingError("not a local file", "--output", "write it here, then copy it")


def export(config: ExportConfig) -> dict[str, Any]:
    """Write the label set; returns its origin, which the file carries too.

    The origin's `content` is a hash over all rows: equal labels, equal hash; `stale` says whether
    the lake was harvested since it was labelled. Raises LakeError where it is not labelled.
    """
    lake = open_lake(config.lake)
    stale = warn_if_stale(lake)
    with connect(lake.uri) as connection:
        rows = connection.sql(read_query("label_set")).to_arrow_table()
    digest = hashlib.sha256()
    for batch in rows.to_batches(max_chunksize=10_000):
        digest.update(json.dumps(batch.to_pylist()).encode())
    included = rows.num_rows - rows["excluded_by"].drop_null().length()
    origin = {
        "made_by": f"radnet_lake {__version__}",
        "made_at": utc_now().isoformat(timespec="seconds"),
        "lake_version": lake.snapshot.version,
        "labelled_at": lake.snapshot.labels["at"],
        "mode": lake.snapshot.labels["mode"],
        "rule_set": lake.snapshot.labels["rule_set"],
        "series": rows.num_rows,
        "included": included,
        "content": digest.hexdigest(),
        "stale": stale,
    }
    _write(rows, origin, Path(config.output))
    return origin


def _write(rows: pa.Table, origin: dict[str, Any], path: Path) -> None:
    with write_whole(path) as new:
        if path.suffix == ".parquet":
            metadata = {b"radnet_lake": json.dumps(origin).encode()}
            pq.write_table(rows.replace_schema_metadata(metadata), new, compression="zstd")
            return
        for name in ("coverage", "exclusions"):
            joined = ["|".join(v) if v is not None else None for v in rows[name].to_pylist()]
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, name, pa.array(joined, pa.string()))
        pyarrow.csv.write_csv(rows, new)
        path.with_name(path.name + ".json").write_text(json.dumps(origin, indent=1) + "\n")
