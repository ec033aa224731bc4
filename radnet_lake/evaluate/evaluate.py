"""Evaluation of a run: a split of its series in, Table 1 and figures out.

Labels are those of the run's own series.parquet: a lake that was labelled again since does not
change the result. Written into RUN/evaluation/<split>/: predictions.parquet, table1.md, table1.csv,
and confusion, roc, reliability, spacing and losses as PNG. No patient is named in any of them.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.evaluate.figures import draw_pictures
from radnet_lake.evaluate.inference import stream_predictions, to_matrix
from radnet_lake.evaluate.metrics import Outcome, find_known, measure
from radnet_lake.evaluate.table1 import Facts, format_csv, format_markdown
from radnet_lake.lake.freshness import warn_if_stale
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.views import connect
from radnet_lake.network.checkpoint import SEGMENTER, build_network
from radnet_lake.network.heads import Head
from radnet_lake.progress import Progress, show_nothing
from radnet_lake.settings import check_choices, check_least
from radnet_lake.train.config import SPLITS, CheckpointSettings
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.stream import StreamConfig, locate_series


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(CheckpointSettings):
    """What of a run is measured, and how often its cases are drawn again for the intervals."""

    split: str = field(default="test", metadata={"choices": SPLITS})
    """which of the run's series"""
    resamples: int = 1000
    """bootstrap resamples for the intervals"""
    seed: int = 0
    """of the resamples"""


@dataclass(frozen=True)
class EvaluateConfig(EvaluationSettings):
    """Settings of one evaluation."""

    run: str = field(metadata={"positional": "RUN"})
    """folder or s3://bucket/prefix that `radnet-lake train` wrote"""
    lake: str = ""
    """the lake with the volumes, where it is not where the run found it"""
    batch: int = 8
    """volumes at a time"""
    workers: int = 0
    """actors that hold the network (default: one for each GPU, or one)"""

    def __post_init__(self) -> None:
        check_least(self, batch=1, workers=0, resamples=100, seed=0)
        check_choices(self)


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation wrote. folder: where its files are. table: Markdown, with the paper's."""

    folder: str
    files: tuple[str, ...]
    table: str
    seconds: float

    def __str__(self) -> str:
        """The table, then where the files are."""
        return (
            f"{self.table}\nwritten   {self.folder}: {', '.join(self.files)}"
            f"\ntook      {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class EvaluateReport(EvaluationReport):
    """What an evaluation found. table: Table 1."""

    facts: Facts


def evaluate(config: EvaluateConfig, progress: Progress = show_nothing) -> EvaluateReport:
    """Predict one split, compare with its labels, write the evaluation's files.

    Series without a volume are left out and counted.

    Raises SettingError where there is no run, no checkpoint yet, no series in the split or no
    volume of any; CheckpointError where the checkpoint is damaged or gives NaN; and as
    inference.stream_predictions does.
    """
    started = time.monotonic()
    run = RunFolder(config.run)
    if run.read_run().get("kind") == SEGMENTER:
        what, remedy = "is a segmenter's run", "use: radnet-lake liver evaluate"
        raise SettingError(what, run.uri, remedy)
    wanted = _choose_series(run, config.split)
    state = run.read_checkpoint(config.checkpoint)
    where = run.locate_checkpoint(config.checkpoint)
    # Here too, not in each worker only: an inconsistent checkpoint is an error before they start.
    heads = build_network(state).labels
    stream = _plan_stream(run, state, config, where)
    people = _read_people(stream.lake, wanted["SeriesInstanceUID"])
    predicted = _predict(config, state, stream, wanted, progress)
    outcomes = [_make_outcome(head, predicted) for head in heads]
    _check_finite(outcomes, where)
    people = people.take(pc.index_in(*(t["SeriesInstanceUID"] for t in (predicted, people))))
    numbers = measure(outcomes, people["patient"].to_numpy(), config.resamples, config.seed)
    facts = Facts(
        run=run.uri,
        checkpoint=config.checkpoint,
        epoch=_count_epochs(state),
        lake=stream.lake,
        split=config.split,
        series=predicted.num_rows,
        missing=wanted.num_rows - predicted.num_rows,
        patients=pc.count_distinct(people["patient"]).as_py(),
        unidentified=pc.sum(people["is_unidentified"].cast(pa.int64())).as_py(),
        resamples=config.resamples,
        seed=config.seed,
        unknown={o.head.name: int((~find_known(o)).sum()) for o in outcomes},
        collections=Counter(people["collection"].to_pylist()),
        note=str(run.read_run().get("note") or ""),
    )
    table = format_markdown(numbers, facts)
    mark = "PHANTOM DATA" if facts.is_phantom else ""
    files = {
        "predictions.parquet": _encode(predicted),
        "table1.md": table.encode(),
        "table1.csv": format_csv(numbers).encode(),
        **draw_pictures(outcomes, numbers, run.read_metrics(), config.split, mark),
    }
    folder = f"evaluation/{config.split}"
    for name, data in files.items():
        run.folder.write(f"{folder}/{name}", data)
    seconds = time.monotonic() - started
    return EvaluateReport(f"{run.uri}/{folder}", tuple(files), table, seconds, facts)


def _plan_stream(
    run: RunFolder, state: dict[str, Any], config: EvaluateConfig, where: str
) -> StreamConfig:
    """A run -> the settings to stream its volumes: from its lake, by its preprocessing."""
    settings = run.read_config()
    return StreamConfig(
        lake=config.lake or str(settings["lake"]),
        split="",
        source=str(settings.get("source") or "tensors"),
        settings=_read_settings(state, where),
        shuffle=False,
    )


def _choose_series(run: RunFolder, split: str) -> pa.Table:
    series = run.read_series()
    chosen = series.filter(pc.equal(series["split"], split)).drop(["split"])
    if not chosen.num_rows:
        there = Counter(series["split"].to_pylist())
        available = ", ".join(f"{name} ({count})" for name, count in there.items()) or "no split"
        remedy = f"use --split of what it has: {available}"
        raise SettingError(f"the run has no series of split {split}", run.uri, remedy)
    return chosen.sort_by("SeriesInstanceUID")


def _read_settings(state: dict[str, Any], where: str) -> ResampleSettings:
    try:
        return ResampleSettings(**state["settings"])
    except (KeyError, TypeError, SettingError) as error:
        what = f"it does not say what volumes it wants ({type(error).__name__})"
        raise CheckpointError(what, where, "use another checkpoint of the run") from None


def _predict(
    config: EvaluateConfig,
    state: dict[str, Any],
    stream: StreamConfig,
    wanted: pa.Table,
    progress: Progress,
) -> pa.Table:
    """Series -> those that have a volume: UID, labels, and predictions of the network."""
    index = locate_series(stream, wanted)
    expected = wanted.num_rows - index.left_out
    tables: list[pa.Table] = []
    progress(0, expected, "volumes")
    for table in stream_predictions(
        state, stream, index, batch=config.batch, workers=config.workers, gpu=config.gpu
    ):
        tables.append(table.drop(["features"]))
        progress(sum(t.num_rows for t in tables), expected, "volumes")
    if not tables:
        remedy = 'look at it: radnet-lake query "from volumes"'
        raise SettingError(f"none of {expected} series gave a volume", stream.lake, remedy)
    predicted = pa.concat_tables(tables).sort_by("SeriesInstanceUID")
    uids = predicted["SeriesInstanceUID"].combine_chunks()
    labels = wanted.take(pc.index_in(uids, wanted["SeriesInstanceUID"].combine_chunks()))
    for name in predicted.column_names[1:]:
        labels = labels.append_column(name, predicted[name])
    return labels.combine_chunks()


def _make_outcome(head: Head, table: pa.Table) -> Outcome:
    if head.kind == "scalar":
        # A null becomes NaN.
        truth, predicted = (table[name].to_numpy() for name in (head.name, f"{head.name}_mm"))
        return Outcome(head, truth.astype(np.float64), predicted.astype(np.float64))
    truth = to_matrix(table[head.name]) if head.kind == "multi" else table[head.name].to_numpy()
    predicted = to_matrix(table[f"{head.name}_probabilities"]).astype(np.float64)
    return Outcome(head, truth, predicted)


def _check_finite(outcomes: Sequence[Outcome], where: str) -> None:
    rows = np.stack(
        [np.isfinite(o.predicted).reshape(len(o.predicted), -1).all(axis=1) for o in outcomes]
    )
    bad = int((~rows.all(axis=0)).sum())
    if bad:
        what = f"the network gives no number for {bad} of {rows.shape[1]} series"
        remedy = "evaluate the other checkpoint, or train with a lower learning rate"
        raise CheckpointError(what, where, remedy)


def _read_people(lake: str, series: pa.ChunkedArray) -> pa.Table:
    """SeriesInstanceUID; patient, a number; is_unidentified; collection.

    Who the patients are stays in the lake.
    """
    warn_if_stale(open_lake(lake))
    with connect(lake) as connection:
        connection.register("evaluated", pa.table({"SeriesInstanceUID": series}))
        people: pa.Table = connection.sql(read_query("evaluated_patients")).to_arrow_table()
    return people


def _count_epochs(state: dict[str, Any]) -> int | None:
    epoch = (state.get("progress") or {}).get("epoch")
    return epoch if isinstance(epoch, int) else None


def _encode(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
