"""A lake in, a Ray Data dataset of volumes with labels out: from shards, or made from the files.

The index, a small table of all series with their labels, lies in Ray's object store. Each read task
takes a stretch of an epoch's order, loads its volumes and yields blocks of BLOCK_VOLUMES; Ray Data
holds tasks back when the consumer is slow. Blocks come in the index's order, so equal settings give
equal batches. Each of several training workers has a stream of its own, its share of every global
batch: so the k-th batch holds the same series however many workers there are.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.extensions import ArrowTensorArray

from radnet_lake.errors import LakeError, RadnetLakeError, SettingError, VolumeError
from radnet_lake.lake.log import Lake, open_lake
from radnet_lake.lake.settings import LakeSettings
from radnet_lake.lake.sql import choose_rows, run_sql
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.lake.views import connect
from radnet_lake.ray_cluster import start_ray
from radnet_lake.volume.frame import Frame
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.series_frames import stream_rows, to_frames
from radnet_lake.volume.shard import Place, Voxels, read_places
from radnet_lake.volume.volume import prepare_frames

BLOCK_VOLUMES = 16
"""Volumes of a block, 28 MB of the paper's size: a batch is a view of one, not a copy."""
TASK_BLOCKS = 4
"""Blocks of a read task. Longer tasks cost less, but with ordered output blocks of later tasks are
buffered until the first task ends: longer tasks need more memory.
"""
TASKS_PER_CPU = 2
"""One waits for its store or the consumer while the other computes."""
LOAD_CPUS = 0.01
"""Logical CPUs of a task: so few that tasks of a paused stream do not keep those of another stream
from starting, for which the same consumer may be waiting.
"""
BLOCKS_AHEAD_PER_CPU = TASKS_PER_CPU * TASK_BLOCKS
"""Blocks that Ray Data may hold for each CPU of the cluster: those of the tasks under way."""
MAX_STORE_SHARE = 0.5
"""Share of Ray's object store that the blocks ahead may take at most."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VolumeSettings(LakeSettings):
    """Which volumes of the training set."""

    where: str = field(default="", kw_only=True)
    """SQL condition over training_set, as: Modality = 'MR' (default: all of it)"""
    source: str = field(default="tensors", kw_only=True, metadata={"choices": ("tensors", "lake")})
    """tensors: volumes that `radnet-lake preprocess` stored; lake: made now, out of the files"""


@dataclass(frozen=True, kw_only=True)
class StreamConfig(VolumeSettings):
    """Which volumes, in which order."""

    split: str = "train"
    """train, validation or test; "" for all"""
    settings: ResampleSettings = field(default_factory=ResampleSettings)
    """preprocessing of the volumes"""
    epochs: int = 1
    """how often all series come, one epoch after the other without a pause"""
    first_epoch: int = 0
    """number of the first epoch: the order of an epoch depends on the seed and its number alone"""
    skip: int = 0
    """series of the first epoch to leave out at its start: a resumed run has seen them"""
    seed: int = 0
    """of the order"""
    shuffle: bool = True
    """each epoch in an order of its own; else in that of the series' UIDs"""
    uids: bool = True
    """give the column SeriesInstanceUID too; text is nothing that iter_torch_batches can convert"""
    batch: int = 0
    """series of a batch over all workers; of an epoch only whole batches come (0: all series)"""
    workers: int = 1
    """how many streams share an epoch"""
    rank: int = 0
    """which of them: gives the rank-th part of each batch; of batch 0, every workers-th series"""
    failures: bool = False
    """give series without a volume too, blank, and the column `reason`, else NULL (source lake)"""

    def __post_init__(self) -> None:
        if self.split not in ("", "train", "validation", "test"):
            remedy = "use train, validation, test, or nothing for all"
            raise SettingError(f"{self.split!r} is unknown", "split", remedy)
        if self.source not in ("tensors", "lake"):
            raise SettingError(f"{self.source!r} is unknown", "source", "use tensors or lake")
        for name, least in (("epochs", 1), ("first_epoch", 0), ("skip", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise SettingError(f"must be at least {least}", name, "give a larger number")
        if not 0 <= self.rank < self.workers:
            raise SettingError(f"{self.rank} is out of range", "rank", "give 0 to workers - 1")
        if self.batch and (self.batch < self.workers or self.skip % self.batch):
            what = f"{self.batch} with {self.workers} workers, skip {self.skip}"
            remedy = "give a series to each worker, and skip whole batches"
            raise SettingError(what, "batch", remedy)

    @property
    def share(self) -> slice:
        """This worker's part of a batch; some workers have one series more than others."""
        first, last = (n * self.batch // self.workers for n in (self.rank, self.rank + 1))
        return slice(first, last)

    @property
    def block_volumes(self) -> int:
        """Volumes of a block: whole batches of this worker, BLOCK_VOLUMES if they are small."""
        own = self.share.stop - self.share.start or 1
        return own * max(1, BLOCK_VOLUMES // own)


class SeriesIndex(NamedTuple):
    """The series of a stream, in the order of their UIDs, with labels as the lake has them now.

    rows: SeriesInstanceUID; sequence, view, contrast: index of the class in sql/classes.csv, -1
    unknown; coverage: 1 or 0 for each class, -1 unknown; spacing: mm between resized slices; and
    where volumes are stored, shard, size_bytes, position. left_out: series of the training set that
    are wanted, but no volume of them is stored.
    """

    rows: pa.Table
    left_out: int


def stream_volumes(config: StreamConfig, index: SeriesIndex | None = None) -> ray.data.Dataset:
    """Volumes and labels as a dataset, for iter_batches, iter_torch_batches, streaming_split.

    index: as index_series gives it, where that was asked already.

    Columns: volume (D, H, W) uint8; SeriesInstanceUID; epoch int64; sequence, view, contrast int64,
    class by sql/classes.csv, -1 unknown; coverage (9,) float32, 0 or 1, NaN unknown;
    spacing float32, mm between the resized slices, NaN unknown. Arrays are views that must not be
    written to. A series that gives no volume (source lake) is left out, with a line in the log; or,
    with config.failures, it is there with its reason, as in `volumes`.

    Raises as index_series does. What goes wrong while volumes are loaded comes out of the
    iteration: LakeError for a damaged shard, StoreError for a store without an answer.
    """
    index = index or index_series(config)
    start_ray()
    source = _Volumes(config, index.rows)
    tasks = len(source.get_read_tasks(0))
    if not tasks:
        what = f"of {index.rows.num_rows} series nothing is left to stream"
        raise SettingError(what, "batch, skip", "give a smaller batch, or skip less")
    cpus = ray.cluster_resources().get("CPU", 1) / config.workers
    dataset = ray.data.read_datasource(
        source,
        override_num_blocks=tasks,
        num_cpus=LOAD_CPUS,
        concurrency=min(tasks, math.ceil(TASKS_PER_CPU * cpus)),
    )
    _bound(dataset.context, math.ceil(BLOCKS_AHEAD_PER_CPU * cpus) * source.block_bytes, source)
    return dataset


def index_series(config: StreamConfig) -> SeriesIndex:
    """Settings -> the series that a stream gives in each epoch, and how many it leaves out.

    Raises SettingError for a wrong condition, or where no series or no stored volume is left,
    LakeError where the lake is not labelled or damaged.
    """
    with connect(config.lake) as connection:
        lake = open_lake(config.lake)
        chosen = f"split = '{config.split}'" if config.split else "true"
        run_sql(connection, f"create temp view candidate as from training_set where {chosen}")
        choose_rows(connection, "candidate", config.where, "training_set", setting="where")
        version = config.settings.version()
        rows = index_wanted(connection, config.settings)
    wanted = rows.num_rows
    if not wanted:
        remedy = "check split and where, or harvest and label more"
        raise SettingError("the training set holds no such series", lake.uri, remedy)
    if config.source == "lake":
        choose_decryptor(lake)
        return SeriesIndex(rows.drop(["shard", "position"]).combine_chunks(), 0)
    rows = rows.filter(rows["shard"].is_valid())
    if not rows.num_rows:
        what = f"none of {wanted} series has a stored volume of preprocessing {version}"
        raise SettingError(what, lake.uri, f"run: radnet-lake preprocess --lake {lake.uri}")
    return SeriesIndex(add_sizes(rows.combine_chunks(), lake), wanted - rows.num_rows)


def locate_series(config: StreamConfig, labelled: pa.Table) -> SeriesIndex:
    """Series with labels, as a training run froze them -> their index; see index_series.

    labelled: columns of SeriesIndex.rows before shard. Raises as index_series does.
    """
    lake = open_lake(config.lake)
    if config.source == "lake":
        choose_decryptor(lake)
        return SeriesIndex(labelled.sort_by("SeriesInstanceUID").combine_chunks(), 0)
    version = config.settings.version()
    with connect(config.lake) as connection:
        connection.register("labelled", labelled)
        query = read_query("volume_places")
        rows = connection.sql(query, params={"version": version}).to_arrow_table()
    if not rows.num_rows:
        what = f"none of {labelled.num_rows} series has a stored volume of preprocessing {version}"
        raise SettingError(what, lake.uri, f"run: radnet-lake preprocess --lake {lake.uri}")
    rows = add_sizes(rows.combine_chunks(), lake)
    return SeriesIndex(rows, labelled.num_rows - rows.num_rows)


def index_wanted(connection: Any, settings: ResampleSettings) -> pa.Table:
    """SeriesIndex.rows of a lake's connection, of the table `wanted` with columns of `series`.

    Sizes are left out, and shard and position are NULL where no volume is stored.
    """
    values = {"slices": settings.slices, "preprocessing": settings.version()}
    query = read_query("series_index")
    table: pa.Table = connection.sql(query, params=values).to_arrow_table()
    return table


def add_sizes(rows: pa.Table, lake: Lake) -> pa.Table:
    """Rows of index_wanted that all have a shard -> its name as a dictionary, and its size too.

    Raises LakeError for a shard that the lake does not name.
    """
    shards = rows["shard"].combine_chunks().dictionary_encode()
    parts = lake.snapshot.parts
    for name in shards.dictionary.to_pylist():
        if name not in parts:
            remedy = "make its volumes again: radnet-lake preprocess"
            raise LakeError("the lake does not name this shard", f"{lake.uri}/{name}", remedy)
    sizes = pa.array([parts[name].size_bytes for name in shards.dictionary.to_pylist()])
    rows = rows.set_column(rows.schema.get_field_index("shard"), "shard", shards)
    return rows.append_column("size_bytes", sizes.take(shards.indices))


class _Job(NamedTuple):
    """Settings for each read task. index: SeriesIndex.rows in the object store."""

    lake: str
    version: int
    config: StreamConfig
    index: Any


class _Volumes(Datasource):  # type: ignore[misc]
    """Ray Data source: a read task for each range of each epoch."""

    def __init__(self, config: StreamConfig, rows: pa.Table) -> None:
        super().__init__()
        settings = config.settings
        self.volume_bytes = settings.slices * settings.rows * settings.columns
        self.block_bytes = config.block_volumes * self.volume_bytes
        self._config, self._n_rows = config, rows.num_rows
        lake = open_lake(config.lake)
        self._job = _Job(lake.uri, lake.snapshot.version, config, ray.put(rows))

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(partial(_load, self._job, *stretch), self._describe(*stretch))
            for stretch in _plan_stretches(self._config, self._n_rows)
        ]

    def _describe(self, epoch: int, first: int, last: int) -> BlockMetadata:
        is_known = self._config.source == "tensors"
        rows = last - first if is_known else None
        size = (last - first) * self.volume_bytes if is_known else None
        return BlockMetadata(num_rows=rows, size_bytes=size, input_files=None, exec_stats=None)


def _bound(context: Any, ahead_bytes: float, source: _Volumes) -> None:
    """Ray Data's settings for this dataset: blocks in order, few of them ahead."""
    share = ahead_bytes / ray.cluster_resources().get("object_store_memory", ahead_bytes)
    context.op_resource_reservation_enabled = True
    context.override_object_store_memory_limit_fraction = min(share, MAX_STORE_SHARE)
    context.execution_options.preserve_order = True
    # Ray Data joins what is smaller, and cuts what is larger by half.
    context.target_max_block_size = int(0.9 * source.block_bytes)
    # A consumer that validates, or a person at a prompt, may take its time.
    context.execution_no_progress_timeout_s = -1


def _plan_stretches(config: StreamConfig, n_rows: int) -> Iterator[tuple[int, int, int]]:
    """Epoch, first and last place in this worker's order, of each read task."""
    length = TASK_BLOCKS * config.block_volumes
    for epoch in range(config.first_epoch, config.first_epoch + config.epochs):
        own = len(_draw_order(config, n_rows, epoch))
        for first in range(0, own, length):
            yield epoch, first, min(first + length, own)


@lru_cache(maxsize=4)
def _draw_order(config: StreamConfig, n_rows: int, epoch: int) -> npt.NDArray[np.int64]:
    """Places in the index of the series that this worker gives in an epoch, in its order."""
    order = np.arange(n_rows)
    if config.shuffle:
        order = np.random.default_rng([config.seed, epoch]).permutation(n_rows)
    if config.batch:
        order = order[: n_rows - n_rows % config.batch]
    if epoch == config.first_epoch:
        order = order[config.skip :]
    if not config.batch:
        return order[config.rank :: config.workers]
    return order.reshape(-1, config.batch)[:, config.share].ravel()


def _load(job: _Job, epoch: int, first: int, last: int) -> Iterator[pa.Table]:
    """A range of an epoch's order -> its blocks."""
    rows = ray.get(job.index)
    rows = rows.take(_draw_order(job.config, rows.num_rows, epoch)[first:last])
    load = _read_stored if job.config.source == "tensors" else _prepare
    for some, volumes in load(job, rows):
        yield _encode(some, volumes, epoch, job.config)


def _read_stored(job: _Job, rows: pa.Table) -> Iterator[tuple[pa.Table, Voxels]]:
    for start in range(0, rows.num_rows, job.config.block_volumes):
        some = rows.slice(start, job.config.block_volumes)
        columns = (some[name].to_pylist() for name in Place._fields)
        places = [Place(*place) for place in zip(*columns, strict=True)]
        yield some, read_places(job.lake, places)


def _prepare(job: _Job, rows: pa.Table) -> Iterator[tuple[pa.Table, Voxels]]:
    lake = _open_lake(job.lake, job.version)
    decrypt_uri = choose_decryptor(lake)
    held = dict(stream_rows(lake, rows))
    settings = job.config.settings
    blank = np.zeros((settings.slices, settings.rows, settings.columns), np.uint8)
    made: list[_Made] = []
    for n, series in enumerate(rows["SeriesInstanceUID"].to_pylist()):
        frames = to_frames(held.pop(series), decrypt_uri) if series in held else []
        voxels, reason = _try_prepare(frames, settings)
        if voxels is not None or job.config.failures:
            made.append(_Made(n, blank if voxels is None else voxels, reason))
        else:
            _log.warning("series %s is left out: %s", series, reason)
        if len(made) == job.config.block_volumes:
            yield _stack(rows, made)
            made = []
    if made:
        yield _stack(rows, made)


class _Made(NamedTuple):
    """A volume and its place in the rows; a blank one with the reason where there is none."""

    place: int
    voxels: Voxels
    reason: str | None


def _stack(rows: pa.Table, made: list[_Made]) -> tuple[pa.Table, Voxels]:
    some = rows.take([m.place for m in made])
    reasons = pa.array([m.reason for m in made], pa.string())
    return some.append_column("reason", reasons), np.stack([m.voxels for m in made])


def _try_prepare(
    frames: list[Frame], settings: ResampleSettings
) -> tuple[Voxels, None] | tuple[None, str]:
    try:
        return prepare_frames(frames, settings).voxels, None
    except VolumeError as error:
        return None, error.reason
    except RadnetLakeError:
        raise
    except Exception:  # its text may quote a header
        return None, "undecodable"


@lru_cache(maxsize=2)
def _open_lake(uri: str, version: int) -> Lake:
    """The lake as it was when the stream was made, or later."""
    return open_lake(uri)


def _encode(rows: pa.Table, volumes: Voxels, epoch: int, config: StreamConfig) -> pa.Table:
    columns: dict[str, Any] = {"volume": ArrowTensorArray.from_numpy(volumes)}
    if config.failures:
        is_made = config.source == "lake"
        columns["reason"] = rows["reason"] if is_made else pa.nulls(rows.num_rows, pa.string())
    if config.uids:
        columns["SeriesInstanceUID"] = rows["SeriesInstanceUID"]
    columns["epoch"] = np.full(rows.num_rows, epoch)
    for head in ("sequence", "view", "contrast"):
        columns[head] = rows[head].cast(pa.int64())
    coverage = rows["coverage"].combine_chunks().flatten().to_numpy().astype(np.float32)
    coverage[coverage < 0] = np.nan
    columns["coverage"] = ArrowTensorArray.from_numpy(coverage.reshape(rows.num_rows, -1))
    columns["spacing"] = rows["spacing"]
    return pa.table(columns)
