"""A training run's folder, on disk or on S3: what it was made of, how it went, its checkpoints.

    config.json               settings of the run, all of them
    run.json                  what it ran on: lake version, rule set, code, machine
    series.parquet            its series with split and labels, as they were at the start
    metrics.csv               a row per epoch and split
    checkpoints/last.pt       to go on from; best.pt: of the lowest validation loss
    evaluation/<split>/       written by `radnet-lake evaluate`

Every file is replaced whole: readers, also those of a run under way, see the old or the new one.
"""

from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from radnet_lake.errors import SettingError
from radnet_lake.network.checkpoint import decode_checkpoint, encode_checkpoint
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
the start of the run. accuracy_coverage: share of single labels that are right; coverage_exact: of
series with all labels right. What no series of an epoch tells is null.
"""

MASK_METRICS = pa.schema(
    [("epoch", pa.int64()), ("step", pa.int64()), ("split", pa.string())]
    + [
        (name, pa.float64())
        for name in ("loss", "dice", "iou", "learning_rate", "seconds", "volumes_per_s")
    ]
)
"""The same of a segmenter. loss: 1 - soft Dice; dice, iou: of masks; means over windows."""


class RunFolder(OutputFolder):
    """The folder of one training run, at a path or s3://bucket/prefix.

    Every method raises StoreError where the folder cannot be read or written.
    """

    what = "run folder"
    remedy = "give the folder that `radnet-lake train --out` wrote"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.folder.has("config.json")

    def read_config(self) -> dict[str, Any]:
        """The settings, fields of TrainConfig. Raises SettingError where there is no run."""
        return self.read_json("config.json")

    def write_config(self, config: dict[str, Any]) -> None:
        """Keep the settings; from then on the folder is a run."""
        self.write_json("config.json", config)

    def read_run(self) -> dict[str, Any]:
        """Provenance of the run, see provenance.py. Raises SettingError where there is no run."""
        return self.read_json("run.json")

    def write_run(self, run: dict[str, Any]) -> None:
        """Keep the provenance of the run."""
        self.write_json("run.json", run)

    def read_series(self) -> pa.Table:
        """The series, as SERIES. Raises SettingError where there is no run."""
        file = pq.ParquetFile(pa.BufferReader(self.read("series.parquet")))
        # pq.read_table starts threads, which with torch loaded may abort Python at its end.
        return file.read(use_threads=False).cast(SERIES)

    def write_series(self, series: pa.Table) -> None:
        """Keep the series with their labels, as SERIES."""
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
        """Add the rows of an epoch, in place of those that a run which went back had written."""
        before = self.read_metrics().to_pylist()
        epoch = min(row["epoch"] for row in rows)
        kept = [row for row in before if row["epoch"] < epoch]
        sink = pa.BufferOutputStream()
        columns = MASK_METRICS if "dice" in rows[0] else METRICS
        pa.csv.write_csv(pa.Table.from_pylist(kept + rows, columns), sink)
        self.folder.write("metrics.csv", memoryview(sink.getvalue()))

    def has_checkpoint(self, name: str = "best") -> bool:
        """Whether checkpoints/<name>.pt is there."""
        return self.folder.has(f"checkpoints/{name}.pt")

    def read_checkpoint(self, name: str = "best") -> dict[str, Any]:
        """checkpoints/<name>.pt as checkpoint.decode_checkpoint gives it.

        Raises SettingError where there is none yet, CheckpointError where it is damaged.
        """
        where = f"checkpoints/{name}.pt"
        if not self.has_checkpoint(name):
            remedy = "train first, or wait for the end of the first epoch"
            raise SettingError("holds no checkpoint of that name", f"{self.uri}/{where}", remedy)
        return decode_checkpoint(self.read(where), f"{self.uri}/{where}")

    def write_checkpoint(self, state: dict[str, Any], name: str) -> None:
        """Replace checkpoints/<name>.pt; the one before stays where that fails."""
        self.folder.write(f"checkpoints/{name}.pt", encode_checkpoint(state))
