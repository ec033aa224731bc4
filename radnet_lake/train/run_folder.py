"""The folder of a training run, on disk or S3: reads and writes settings, metrics, checkpoints.

    config.json               settings of the run, all of them
    run.json                  what it ran on: lake version, rule set, code, machine
    series.parquet            its series with split and labels, as they were at the start
    metrics.csv               a row per epoch and split
    checkpoints/last.pt       to resume from
    checkpoints/best.safetensors  of the lowest validation loss; runs of old versions have best.pt
    evaluation/<split>/       written by `radnet-lake evaluate`

Every file is replaced whole: readers, also those of a run under way, see the old or the new one.
"""

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from radnet_lake.errors import SettingError
from radnet_lake.network.checkpoint import BEST, decode_checkpoint, encode_checkpoint, read_file
from radnet_lake.network.weights_file import SUFFIX, encode_safetensors
from radnet_lake.storage.output_folder import OutputFolder

SERIES = pa.schema(
    [
        ("SeriesInstanceUID", pa.string()),
        ("split", pa.string()),
        ("sequence", pa.int8()),
        ("view", pa.int8()),
        ("contrast", pa.int8()),
        ("coverage", pa.list_(pa.int8())),
        ("spacing", pa.float32()),
    ]
)
"""sequence, view, contrast: index of the class in sql/classes.csv, -1 unknown; coverage: 1, 0 or
-1 for each class; spacing: mm between resized slices, null unknown.
"""
METRICS = pa.schema(
    [("epoch", pa.int64()), ("step", pa.int64()), ("split", pa.string())]
    + [
        (name, pa.float64())
        for name in (
            "loss",
            "loss_sequence",
            "loss_view",
            "loss_contrast",
            "loss_coverage",
            "loss_spacing",
            "accuracy_sequence",
            "accuracy_view",
            "accuracy_contrast",
            "accuracy_coverage",
            "coverage_exact",
            "spacing_mae_mm",
            "spacing_rmse_mm",
            "learning_rate",
            "seconds",
            "volumes_per_s",
        )
    ]
)
"""One row per epoch and split (train, validation). epoch counts from 0; step: optimiser steps from
the start of the run. accuracy_coverage: share of single labels that are correct; coverage_exact: of
series with all labels correct. Without any label a value is null.
"""

MASK_METRICS = pa.schema(
    [("epoch", pa.int64()), ("step", pa.int64()), ("split", pa.string())]
    + [
        (name, pa.float64())
        for name in ("loss", "dice", "iou", "learning_rate", "seconds", "volumes_per_s")
    ]
)
"""The same of a segmenter. loss: 1 - soft Dice; dice, iou: of masks; means over windows."""

CHECKPOINTS = {"best": BEST, "last": ("checkpoints/last.pt",)}
"""Name of a checkpoint -> its possible files; the first one is written."""


class RunFolder(OutputFolder):
    """The folder of one training run, at a path or s3://bucket/prefix.

    Every method raises StoreError where the folder cannot be read or written.
    """

    what = "run folder"
    remedy = "give the folder that `radnet-lake train --out` wrote"

    def __init__(self, uri: str) -> None:
        if uri.endswith(SUFFIX):
            what, remedy = "is a file of weights", "give the folder of its run"
            raise SettingError(what, uri, remedy)
        super().__init__(uri)

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.folder.has("config.json")

    def read_config(self) -> dict[str, Any]:
        """The settings, fields of TrainConfig. Raises SettingError where there is no run."""
        return self.read_json("config.json")

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the settings; from then on the folder is a run."""
        self.write_json("config.json", config)

    def read_run(self) -> dict[str, Any]:
        """Provenance of the run, see provenance.py. Raises SettingError where there is no run."""
        return self.read_json("run.json")

    def write_run(self, run: dict[str, Any]) -> None:
        """Write the provenance of the run."""
        self.write_json("run.json", run)

    def read_series(self) -> pa.Table:
        """The series, as SERIES. Raises SettingError where there is no run."""
        file = pq.ParquetFile(pa.BufferReader(self.read("series.parquet")))
        # pq.read_table starts threads, which with torch loaded may abort Python at its end.
        return file.read(use_threads=False).cast(SERIES)

    def write_series(self, series: pa.Table) -> None:
        """Write the series with their labels, as SERIES."""
        sink = pa.BufferOutputStream()
        pq.write_table(series.select(SERIES.names).cast(SERIES), sink, compression="zstd")
        self.folder.write("series.parquet", memoryview(sink.getvalue()))

    def read_metrics(self) -> pa.Table:
        """The rows so far, as METRICS or MASK_METRICS; none before the end of the first epoch."""
        if not self.folder.has("metrics.csv"):
            return METRICS.empty_table()
        data = self.read("metrics.csv")
        columns = MASK_METRICS if b"dice" in data.partition(b"\n")[0] else METRICS
        types = pa.csv.ConvertOptions(column_types=columns)
        return pa.csv.read_csv(pa.BufferReader(data), convert_options=types).select(columns.names)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Add the rows of an epoch; older rows of this and of later epochs are replaced."""
        before = self.read_metrics().to_pylist()
        epoch = min(row["epoch"] for row in rows)
        kept = [row for row in before if row["epoch"] < epoch]
        sink = pa.BufferOutputStream()
        columns = MASK_METRICS if "dice" in rows[0] else METRICS
        pa.csv.write_csv(pa.Table.from_pylist(kept + rows, columns), sink)
        self.folder.write("metrics.csv", memoryview(sink.getvalue()))

    def has_checkpoint(self, name: str = "best") -> bool:
        """Whether the folder has the checkpoint `best` or `last`."""
        return any(self.folder.has(file) for file in CHECKPOINTS[name])

    def locate_checkpoint(self, name: str = "best") -> str:
        """The name of a checkpoint -> its file, for messages."""
        files = CHECKPOINTS[name]
        return f"{self.uri}/{next(filter(self.folder.has, files), files[0])}"

    def read_checkpoint(self, name: str = "best") -> dict[str, Any]:
        """The name of a checkpoint -> what checkpoint.decode_checkpoint reads from its file.

        Raises SettingError where there is none yet, CheckpointError where it is damaged.
        """
        where = self.locate_checkpoint(name)
        if not self.has_checkpoint(name):
            remedy = "train first, or wait for the end of the first epoch"
            raise SettingError("holds no checkpoint of that name", where, remedy)
        return decode_checkpoint(self.read(where.removeprefix(f"{self.uri}/")), where)

    def write_checkpoint(self, state: dict[str, Any], name: str) -> None:
        """Replace a checkpoint: best as safetensors, last as .pt; on failure the old one stays."""
        file, *older = CHECKPOINTS[name]
        encode = encode_safetensors if file.endswith(SUFFIX) else encode_checkpoint
        self.folder.write(file, encode(state))
        for other in filter(self.folder.has, older):
            self.folder.delete([other])


class TrainedNetwork(NamedTuple):
    """A checkpoint with the settings of its run. uri: of the run or the file; where: the file."""

    uri: str
    config: dict[str, Any]
    state: dict[str, Any]
    where: str


def read_trained_network(uri: str, checkpoint: str = "best") -> TrainedNetwork:
    """A run's folder, or a .safetensors file published from one -> its checkpoint and settings.

    Raises SettingError where there is none, CheckpointError where it is damaged, StoreError.
    """
    if uri.endswith(SUFFIX):
        data, where = read_file(uri)
        state = decode_checkpoint(data, where)
        run = state.get("run")
        config = run.get("config") if isinstance(run, dict) else None
        return TrainedNetwork(where, config if isinstance(config, dict) else {}, state, where)
    run_folder = RunFolder(uri)
    config, state = run_folder.read_config(), run_folder.read_checkpoint(checkpoint)
    where = run_folder.locate_checkpoint(checkpoint)
    return TrainedNetwork(run_folder.uri, config, state, where)
