"""Prediction: a run and a lake in; labels with probabilities, and features, into the lake.

Not only over the training set: over every series that can become a volume and is out for nothing
that its pixels say. That is where a network helps most: a series without a description, or whose
headers cannot tell the sequence, still has a picture. Volumes come from the shards, and where there
is none out of the files. Wanted = predicted + failed + known; known is what has a prediction of the
same weights, made of the same files. A killed run leaves what it committed.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from radnet_lake import __version__, schema
from radnet_lake.errors import CheckpointError, SettingError, StoreError
from radnet_lake.evaluate.inference import PRECISIONS, stream_predictions, to_matrix
from radnet_lake.lake.freshness import warn_if_stale
from radnet_lake.lake.log import Lake, open_lake, utc_now
from radnet_lake.lake.settings import CommitSettings
from radnet_lake.lake.sql import choose_rows, run_sql
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.lake.views import connect
from radnet_lake.network.checkpoint import digest_weights, refuse_segmenter
from radnet_lake.network.weights_file import SUFFIX
from radnet_lake.progress import Progress, list_failures, show_nothing
from radnet_lake.settings import check_least
from radnet_lake.train.config import CheckpointSettings
from radnet_lake.train.run_folder import read_trained_network
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.stream import SeriesIndex, StreamConfig, add_sizes, index_wanted

_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class PredictConfig(CommitSettings, CheckpointSettings):
    """Settings of one prediction."""

    run: str
    """folder or s3://bucket/prefix of a training run, or a copy of its best.safetensors"""
    where: str = ""
    """SQL condition over series, and split of training_set, as "sequence is null" (default: every
    series that is in, or out only for nodesc, time, seq, stir, view or conflict)"""
    source: str = field(default="", metadata={"choices": ("tensors", "lake")})
    """tensors: stored volumes alone; lake: all out of the files (default: stored, else files)"""
    batch: int = 8
    """volumes that a worker takes at a time"""
    workers: int = 0
    """workers with a network each (0: one for each GPU, or one that uses all CPUs)"""
    precision: str = field(default="fp32", metadata={"choices": tuple(PRECISIONS)})
    """bf16 is faster where the processor knows it"""
    retry: bool = False
    """try again what failed"""

    def __post_init__(self) -> None:
        check_least(self, batch=1, workers=0)


@dataclass
class PredictReport:
    """What a prediction did so far. wanted = predicted + failed + known.

    checkpoint: hash of the weights. stale: what is newer than the labels, or ''. known: of these
    `known_failed` without a volume. stored: of what was to do, series with a stored volume.
    reasons: of the series that failed now.
    """

    lake: str
    checkpoint: str
    stale: str = ""
    wanted: int = 0
    known: int = 0
    known_failed: int = 0
    stored: int = 0
    predicted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return self.reasons.total()

    def __str__(self) -> str:
        """The sums that must match, failures by reason, what to type next."""
        done = self.predicted + self.failed
        rate = f", {done / self.seconds:.1f} series/s" if done else ""
        lines = [
            f"lake      {self.lake}",
            f"network   {self.checkpoint}, {self.seconds:.1f} s{rate}",
            f"wanted    {self.wanted} series = {self.predicted} predicted + {self.failed} failed"
            f" + {self.known} known",
        ]
        lines += list_failures(self.reasons, schema.VOLUME_REASONS)
        if self.known_failed:
            lines.append(
                f"known     {self.known_failed} of these failed before; --retry tries them again"
            )
        lines.append(f'next      radnet-lake query --lake {self.lake} "from audit limit 20"')
        return "\n".join(lines)


class Model(NamedTuple):
    """A checkpoint, and the columns of its rows that describe it."""

    state: dict[str, Any]
    settings: ResampleSettings
    digest: str
    run: str
    classes: dict[str, list[str]]


def predict(config: PredictConfig, progress: Progress = show_nothing) -> PredictReport:
    """Predict the series that the lake has no prediction of by this checkpoint -> a report.

    Raises SettingError for a wrong setting, a folder without a run, no series to predict, or a
    missing key; CheckpointError for a damaged checkpoint, LakeError for a lake without labels,
    StoreError where a store stops to answer (what was committed stays).
    """
    started = time.monotonic()
    model = read_model(config.run, config.checkpoint)
    lake = open_lake(config.lake)
    report = PredictReport(lake.uri, model.digest, warn_if_stale(lake))
    streams, facts = _plan(lake, config, model, report)
    due = report.wanted - report.known
    parts = f"{report.stored} from stored volumes, {due - report.stored} out of the files"
    messages = [f"WARNING: {report.stale}"] if report.stale else []
    messages.append(f"{due} series to predict, {parts}; {report.known} known")
    progress(0, due, "series", messages=messages)
    run = _Run(lake, model, facts, report, progress)
    predicted = partial(
        stream_predictions,
        model.state,
        batch=config.batch,
        workers=config.workers,
        gpu=config.gpu,
        precision=config.precision,
    )
    results = (rows for stream, index in streams for rows in predicted(stream, index))
    run.keep(results, config.commit_seconds)
    report.seconds = time.monotonic() - started
    return report


def read_model(run: str, name: str) -> Model:
    """A run's folder or a .safetensors file -> its network's checkpoint, settings and classes.

    Raises SettingError where there is none, CheckpointError for a damaged or inconsistent one.
    """
    uri, _, state, where = read_trained_network(run, name)
    refuse_segmenter(state)
    try:
        settings = ResampleSettings(**state["settings"])
        classes = {head: list(values) for head, _, values in state["heads"]}
        made_for = state["preprocessing"]
        digest = digest_weights(state)
    except (KeyError, TypeError, ValueError, AttributeError, SettingError) as error:
        what = f"its settings cannot be read ({type(error).__name__})"
        raise CheckpointError(what, where, "use another checkpoint of the run") from None
    if settings.version() != made_for:
        what = f"it was trained on volumes {made_for}, this program makes {settings.version()}"
        raise SettingError(what, uri, "use the radnet_lake that trained it, or train again")
    return Model(state, settings, digest, uri.rpartition("/")[2].removesuffix(SUFFIX), classes)


def _plan(
    lake: Lake, config: PredictConfig, model: Model, report: PredictReport
) -> tuple[list[tuple[StreamConfig, SeriesIndex]], pa.Table]:
    """The streams to predict, and the state of their series: sql/query/prediction_state.sql."""
    version = model.settings.version()
    state, rows = _list_series(lake, config, model)
    if not state.num_rows:
        remedy = "check --where; `from funnel` says why series are excluded"
        raise SettingError("the lake holds no such series that can be a volume", lake.uri, remedy)
    if config.source == "tensors":
        stored = state["is_stored"]
        if not pc.any(stored).as_py():
            what = f"none of {state.num_rows} series has a stored volume of {version}"
            remedy = "run radnet-lake preprocess, or leave --source out: then files are read"
            raise SettingError(what, lake.uri, remedy)
        state, rows = state.filter(stored), rows.filter(stored)
    known = state["is_known"]
    report.wanted, report.known = state.num_rows, pc.sum(known).as_py()
    report.known_failed = len(state.filter(known)["reason"].drop_null())
    state, rows = state.filter(pc.invert(known)), rows.filter(pc.invert(known))
    read = pc.invert(state["is_stored"])
    if config.source == "lake":
        read = pa.array([True] * state.num_rows, pa.bool_())
    stream = StreamConfig(
        lake.uri, split="", settings=model.settings, shuffle=False, uids=True, failures=True
    )
    streams = []
    held, lacking = rows.filter(pc.invert(read)), rows.filter(read)
    if held.num_rows:
        streams.append((stream, SeriesIndex(add_sizes(held.combine_chunks(), lake), 0)))
    if lacking.num_rows:
        choose_decryptor(lake)  # a missing key is an error before any work
        lacking = lacking.drop(["shard", "position"]).combine_chunks()
        streams.append((replace(stream, source="lake"), SeriesIndex(lacking, 0)))
    report.stored = held.num_rows
    return streams, state


def _list_series(lake: Lake, config: PredictConfig, model: Model) -> tuple[pa.Table, pa.Table]:
    """Facts of the wanted series, and their rows of an index, in the same order."""
    with connect(lake.uri) as connection:
        run_sql(connection, read_query("predict_candidate"))
        choose_rows(connection, "candidate", config.where, "series")
        known = {
            "preprocessing": model.settings.version(),
            "checkpoint": model.digest,
            "retry": config.retry,
        }
        state = connection.sql(read_query("prediction_state"), params=known).to_arrow_table()
        return state, index_wanted(connection, model.settings)


class _Run:
    """One run: its report, and the rows that no commit holds yet."""

    def __init__(
        self, lake: Lake, model: Model, facts: pa.Table, report: PredictReport, progress: Progress
    ) -> None:
        self.lake, self.model, self.report, self.progress = lake, model, report, progress
        self.facts = facts.select(["harvested_at", "n_rows"])
        uids = facts["SeriesInstanceUID"].to_pylist()
        self.places = {uid: n for n, uid in enumerate(uids)}
        self.committed = time.monotonic()
        self.predictions: list[pa.Table] = []
        self.features: list[pa.Table] = []

    def keep(self, results: Iterator[pa.Table], every_s: float) -> None:
        """Results of the workers -> commits to the lake, every `every_s` seconds."""
        try:
            for rows in results:
                self._take(rows)
                if time.monotonic() - self.committed > every_s:
                    self._commit()
        except BaseException:
            # What is predicted is kept, whatever ends the run; only SIGKILL loses the last seconds.
            with suppress(StoreError):
                self._commit()
            raise
        self._commit()

    def _take(self, rows: pa.Table) -> None:
        described = describe_rows(self.model, rows)
        uids = described["SeriesInstanceUID"].to_pylist()
        facts = self.facts.take(pa.array([self.places[uid] for uid in uids], pa.int64()))
        for name in ("harvested_at", "n_rows"):
            described = described.append_column(name, facts[name])
        reasons = Counter(described["reason"].to_pylist())
        self.report.predicted += reasons.pop(None, 0)
        self.report.reasons.update(reasons)
        self.predictions.append(described.select(schema.TABLES["predictions"].names))
        made = described.filter(described["reason"].is_null())
        self.features.append(made.select(schema.TABLES["features"].names))
        r = self.report
        self.progress(r.predicted + r.failed, r.wanted - r.known, "series", {"failed": r.failed})

    def _commit(self) -> None:
        if self.predictions:
            tables = {"predictions": self.predictions, "features": self.features}
            parts = [
                self.lake.write_part(name, pa.concat_tables(rows), "made")
                for name, rows in tables.items()
            ]
            self.lake.commit(add=parts)
            self.predictions, self.features = [], []
        self.committed = time.monotonic()


def describe_rows(model: Model, rows: pa.Table) -> pa.Table:
    """Rows of stream_predictions -> columns of `predictions` and `features`, but for the files'.

    A row whose numbers are not finite is a failure, not_finite.
    """
    reasons = rows["reason"].fill_null("")
    numbers = [name for name in rows.column_names if name not in ("SeriesInstanceUID", "reason")]
    is_finite = np.all([np.isfinite(to_matrix(rows[n])).all(axis=1) for n in numbers], axis=0)
    reasons = pc.if_else(
        pc.and_(pc.equal(reasons, ""), pc.invert(is_finite)), "not_finite", reasons
    )
    is_made = pc.equal(reasons, "")
    made, failed = rows.filter(is_made), rows.filter(pc.invert(is_made))
    lost = reasons.filter(pc.invert(is_made))
    is_final = pc.invert(pc.is_in(lost, value_set=pa.array(sorted(schema.TRANSIENT_REASONS))))
    failures = {"SeriesInstanceUID": failed["SeriesInstanceUID"], "reason": lost}
    described = pa.concat_tables(
        [_describe_made(model, made), pa.table(failures | {"is_final": is_final})],
        promote_options="default",
    )
    return _describe_run(model, described)


def _describe_made(model: Model, rows: pa.Table) -> pa.Table:
    columns: dict[str, Any] = {"SeriesInstanceUID": rows["SeriesInstanceUID"]}
    for head in ("sequence", "view", "contrast"):
        shares, classes = to_matrix(rows[f"{head}_probabilities"]), model.classes[head]
        best = shares.argmax(axis=1)
        columns[head] = pa.array([classes[n] for n in best], pa.string())
        columns[f"{head}_probability"] = shares.max(axis=1)
        columns[f"{head}_probabilities"] = _to_map(shares, classes)
    columns["contrast"] = pc.equal(columns["contrast"], "Contrast")
    shares, regions = to_matrix(rows["coverage_probabilities"]), model.classes["coverage"]
    covered = shares >= _HALF
    columns["coverage"] = pa.array(
        [[region for region, is_in in zip(regions, row, strict=True) if is_in] for row in covered],
        pa.list_(pa.string()),
    )
    columns["coverage_probability"] = np.maximum(shares, 1 - shares).prod(axis=1)
    columns["coverage_probabilities"] = _to_map(shares, regions)
    columns["effective_spacing_mm"] = rows["spacing_mm"]
    columns["features"] = rows["features"]
    columns["is_final"] = np.ones(rows.num_rows, bool)
    return pa.table(columns)


def _describe_run(model: Model, rows: pa.Table) -> pa.Table:
    """With the columns that all rows share, in the types of the tables."""
    shared = {
        "checkpoint": model.digest,
        "run": model.run,
        "preprocessing": model.settings.version(),
        "predicted_at": utc_now(),
        "slices": model.settings.slices,
        "version": __version__,
    }
    for name, value in shared.items():
        kind = schema.TABLES["predictions"].field(name).type
        rows = rows.append_column(name, pa.repeat(pa.scalar(value, kind), rows.num_rows))
    return rows


def _to_map(shares: npt.NDArray[np.float32], classes: list[str]) -> pa.Array:
    """(rows, classes) -> class to probability."""
    n_rows, length = shares.shape[0], len(classes)
    offsets = np.arange(0, (n_rows + 1) * length, length, dtype=np.int32)
    keys = pa.array(classes * n_rows, pa.string())
    return pa.MapArray.from_arrays(offsets, keys, pa.array(shares.reshape(-1), pa.float32()))
