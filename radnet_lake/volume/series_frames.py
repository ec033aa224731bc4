"""Series of a lake -> their frames, series by series, in bounded memory."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from radnet_lake import schema
from radnet_lake.lake.log import Lake, open_lake
from radnet_lake.lake.sql import refuse_unknown_series
from radnet_lake.lake.sql_files import create_macros, read_query
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.lake.views import load_parts
from radnet_lake.volume.frame import FRAME_COLUMNS, Frame
from radnet_lake.volume.volume import Volume, read_volume_of

MEMORY = "2GB"
"""Of the query; it sorts the rows of all series asked for, and what is more goes to disk."""
BATCH_ROWS = 16_384
"""Rows that come out of the query at a time."""
UNNAMED = "no-uid/"
"""Series of files without SeriesInstanceUID: one per folder and modality (sql/0_macro/series.sql).
"""

_NAME = "if(is_blank({0}) and object_kind <> 'dicomdir', folder_key(uri, Modality), {0})"


def read_volume(series: str, lake: str | None = None) -> Volume:
    """A SeriesInstanceUID -> its volume: all slices, values after rescale, position in space.

    series: SeriesInstanceUID as the lake has it. lake: folder or s3:// URI; default RADNET_LAKE.
    Raises SettingError for a series that the lake does not have, VolumeError where its pixels make
    no volume, LakeError, StoreError.
    """
    for _, frames in stream_frames(open_lake(lake), [series]):
        return read_volume_of(frames)
    refuse_unknown_series(series)


def stream_frames(
    lake: Lake, series: Sequence[str] | pa.Table
) -> Iterator[tuple[str, list[Frame]]]:
    """Series -> UID and frames of each that the lake holds, in any order, each complete.

    series: names, or a table with a column SeriesInstanceUID. Series of one archive follow each
    other. Raises SettingError where paths are encrypted and the key is missing or another one.
    """
    decrypt_uri = choose_decryptor(lake)
    for name, rows in stream_rows(lake, series):
        yield name, to_frames(rows, decrypt_uri)


def stream_rows(lake: Lake, series: Sequence[str] | pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """As stream_frames, but a table with the columns of Frame, paths as stored."""
    with _open_frames(lake, series) as connection:
        connection.execute(read_query("series_places"))
        names = connection.sql("select SeriesInstanceUID from places order by place")
        uids = names.to_arrow_table().column(0)
        columns = ", ".join(f'f."{name}"' for name in FRAME_COLUMNS)
        reader = connection.sql(
            f"select p.place, {columns} from frames as f join places as p using (SeriesInstanceUID)"
            " order by p.place"
        ).to_arrow_reader(BATCH_ROWS)
        held: list[pa.RecordBatch] = []
        current = 0
        for batch in reader:
            for place, piece in _split(batch):
                if held and place != current:
                    yield uids[current].as_py(), pa.Table.from_batches(held)
                    held = []
                held.append(piece)
                current = place
        if held:
            yield uids[current].as_py(), pa.Table.from_batches(held)


def count_rows(lake: Lake, series: Sequence[str] | pa.Table) -> pa.Table:
    """SeriesInstanceUID, harvested_at of the youngest row, n_rows of each that the lake holds."""
    with _open_frames(lake, series) as connection:
        return connection.sql(read_query("series_rows")).to_arrow_table()


def to_frames(rows: pa.Table, decrypt_uri: Callable[[str], str] | None) -> list[Frame]:
    """Rows with the columns of Frame -> frames; decrypt_uri: as choose_decryptor gives it."""
    columns = [rows.column(name).to_pylist() for name in FRAME_COLUMNS]
    if decrypt_uri is not None:
        for name in ("uri", "archive_uri"):
            n = FRAME_COLUMNS.index(name)
            columns[n] = [decrypt_uri(uri) if uri else uri for uri in columns[n]]
    return [Frame(*values) for values in zip(*columns, strict=True)]


def _split(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A batch of rows -> its runs of equal `place`, without that column."""
    places = batch.column("place").to_numpy()
    rest = batch.select(list(FRAME_COLUMNS))
    starts = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
    for start, end in pairwise(starts):
        if start < end:
            yield int(places[start]), rest.slice(start, end - start)


@contextmanager
def _open_frames(
    lake: Lake, series: Sequence[str] | pa.Table
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with `wanted`, and `frames`: rows that stand, under the name of their series."""
    wanted = series
    if not isinstance(wanted, pa.Table):
        wanted = pa.table({"SeriesInstanceUID": pa.array(series, pa.string())})
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'; set preserve_insertion_order = false")
        connection.execute("set temp_directory = ?", [spill])
        connection.execute(f"set memory_limit = '{MEMORY}'")
        connection.execute("create schema stored")
        connection.register("wanted", wanted.select(["SeriesInstanceUID"]))
        _load_instances(connection, lake)
        name = "SeriesInstanceUID"
        if pc.any(pc.starts_with(wanted[name], UNNAMED)).as_py():
            create_macros(connection)
            name = _NAME.format(name)
        columns = ", ".join(f'"{column}"' for column in FRAME_COLUMNS)
        connection.execute(
            f"create view frames as select {columns}, {name} as SeriesInstanceUID from instances"
        )
        yield connection


def _load_instances(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    """The view `instances` as sql/1_header has it, without the views that are not needed here."""
    parts, removals = lake.snapshot.of("instances"), lake.snapshot.of("removals")
    if not parts:
        connection.register("instances", schema.TABLES["instances"].empty_table())
        return
    load_parts(connection, lake, "instances", parts)
    if not removals:
        connection.execute("create view instances as from stored.instances")
        return
    load_parts(connection, lake, "removals", removals)
    path = schema.SQL_DIR / "1_header" / "instances.sql"
    connection.execute(path.read_text(encoding="utf-8"))
