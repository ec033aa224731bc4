"""A training task on Ray Train: starts and watches workers, restarts them if one is lost.

They continue from the run's last checkpoint.
"""

import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from radnet_lake.errors import RadnetLakeError, SettingError, describe_place
from radnet_lake.progress import Progress
from radnet_lake.train.config import TrainerConfig
from radnet_lake.train.loop import TrainTask, train_on_worker

WORKER_CPUS = 0.75
"""Logical CPUs of a worker; the rest of each CPU is for loading volumes."""
START_S = 90
"""Time after which a warning says that no worker has started: Ray waits for resources forever."""
LOOK_EVERY_S = 0.5
"""How often Ray Train checks its workers, and the driver their event queue."""

CLEANER_S = 2
"""How long Ray Train's cleaner waits for the dashboard."""


@dataclass
class TrainReport:
    """Progress and result of a training. Epochs count from 0, as in metrics.csv.

    warnings: about series, labels and weights. series: number of each split. steps: of an epoch, of
    `batch` series each. epoch, step: the current ones; begun: volumes that an earlier run had
    trained on, -1 before the workers have started. loss: of the epoch so far. best_epoch: that of
    the lowest validation loss, -1 before the first. rows: of metrics.csv, of epochs of this run.
    unit: what a split consists of. measured_by: the command to run next.
    """

    run: str
    warnings: list[str] = field(default_factory=list)
    series: dict[str, int] = field(default_factory=dict)
    epochs: int = 0
    steps: int = 0
    batch: int = 0
    epoch: int = 0
    step: int = 0
    begun: int = -1
    loss: float = math.nan
    best_epoch: int = -1
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    unit: str = "series"
    measured_by: str = "evaluate"

    @property
    def volumes(self) -> int:
        """Number of volumes trained on since the start of the run."""
        return (self.epoch * self.steps + self.step) * self.batch

    def __str__(self) -> str:
        """A summary: epochs, best epoch, warnings, the next command."""
        done = f"{self.epoch} of {self.epochs} epochs"
        is_whole = self.epoch >= self.epochs
        early = "" if is_whole else ", stopped early: the validation loss did not fall"
        lines = [
            f"run       {self.run}",
            f"trained   {done}, {self.seconds:.1f} s{early}",
            f"best      epoch {self.best_epoch + 1}: checkpoints/best.safetensors",
            *(f"warning   {text}" for text in self.warnings if not text.startswith("--")),
            f"next      radnet-lake {self.measured_by} {self.run} --split validation",
        ]
        return "\n".join(lines)


class _Shown:
    """Updates a progress display from a TrainReport, each message once."""

    def __init__(self, report: TrainReport, progress: Progress) -> None:
        self.report, self.progress = report, progress
        self.warnings = self.rows = 0
        counts = ", ".join(f"{n} {split}" for split, n in report.series.items())
        steps = f"{report.steps} steps of {report.batch} an epoch"
        messages = [f"{counts} {report.unit}; {steps}", "starting workers"]
        progress(0, None, "volumes", messages=messages)
        self.show()

    def show(self) -> None:
        """Show what is new since the last call."""
        r = self.report
        messages = [
            text if text.startswith("--") else f"WARNING: {text}"
            for text in r.warnings[self.warnings :]
        ]
        self.warnings = len(r.warnings)
        if r.begun < 0 or r.volumes == r.begun:
            self.progress(0, None, "volumes", messages=messages)
            return
        messages += [_describe_epoch(row, r.epochs) for row in r.rows[self.rows :]]
        self.rows = len(r.rows)
        # What an earlier run of the same folder did has no part in the rate.
        expected = r.epochs * r.steps * r.batch - r.begun
        epoch = f"{min(r.epoch + 1, r.epochs)}/{r.epochs}"
        notes = {"epoch": epoch, "loss": f"{r.loss:.3f}"}
        self.progress(r.volumes - r.begun, expected, "volumes", notes, messages)


def _describe_epoch(row: dict[str, Any], epochs: int) -> str:
    """A row of metrics.csv -> a line."""
    shares = ("accuracy_sequence", "accuracy_view", "accuracy_contrast", "coverage_exact")
    known = [
        f"{name.removeprefix('accuracy_').replace('_', ' ')} {row[name]:.3f}"
        for name in (*shares, "dice", "iou")
        if row.get(name) is not None
    ]
    if row.get("spacing_mae_mm") is not None:
        known.append(f"spacing {row['spacing_mae_mm']:.2f} mm")
    rate = f"{row['volumes_per_s']:.1f} volumes/s"
    head = f"epoch {row['epoch'] + 1}/{epochs} {row['split']:10} loss {row['loss']:.4f}"
    return ", ".join([head, *known, rate])


def check_resources(config: TrainerConfig) -> None:
    """Raise SettingError if a local Ray has fewer CPUs or GPUs than the workers need."""
    if os.environ.get("RAY_ADDRESS"):
        return
    kind, each = ("GPU", 1.0) if config.gpu else ("CPU", WORKER_CPUS)
    held = ray.cluster_resources().get(kind, 0)
    least = config.elastic or config.workers
    if held < least * each:
        what = f"{least} workers need {least * each:g} {kind}, this machine has {held:g}"
        raise SettingError(what, "--workers", "give fewer, or train on a cluster: RAY_ADDRESS")


def _describe_wait() -> str:
    held = ray.available_resources()
    free = ", ".join(f"{held.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
    return f"no worker has begun for {START_S} s; free in the Ray cluster: {free}"


def run_workers(task: TrainTask, report: TrainReport, progress: Progress) -> None:
    """Train until the run is over; meanwhile update the report and show it.

    Raises RadnetLakeError: that of a worker, or one that says why workers failed too often.
    """
    started = time.monotonic()
    with _following(task.events, report, progress):
        _fit(task)
    report.seconds = time.monotonic() - started


def _fit(task: TrainTask) -> None:
    config = task.config
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(LOOK_EVERY_S))
    if not os.environ.get("RAY_ADDRESS"):
        # A local machine is not preempted; the watcher would be one more process to start.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    workers: Any = (config.elastic, config.workers) if config.elastic else config.workers
    with tempfile.TemporaryDirectory(prefix="radnet-train-") as unused:
        trainer = _Trainer(
            train_on_worker,
            train_loop_config={"task": task},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=config.gpu,
                resources_per_worker={"CPU": WORKER_CPUS} | ({"GPU": 1} if config.gpu else {}),
                # Added workers start at the last checkpoint: not more often than one is written.
                elastic_resize_monitor_interval_s=max(60, 60 * config.checkpoint_minutes),
            ),
            run_config=RunConfig(
                # Checkpoints are files of the run's folder: Ray Train stores nothing.
                storage_path=unused,
                failure_config=FailureConfig(max_failures=config.retries),
                callbacks=[_StopWithoutRetry()],
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )
        # Ctrl-C must raise KeyboardInterrupt: Ray Train would end the process as if all were done.
        trainer._register_sigint_handler = lambda controller: None
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _to_own(error) from error


class _Trainer(TorchTrainer):  # type: ignore[misc]
    def _create_default_callbacks(self) -> list[Any]:
        """Ray Train's callbacks, without the cleaner of placement groups or with a short time-out.

        Measured on Ray 2.60: without a dashboard the cleaner, which asks it for live actors, kept
        each finished run waiting for 10 s. A local Ray ends with the run and needs no cleaner.
        """
        kept = []
        for callback in super()._create_default_callbacks():
            if type(callback).__name__ == "PlacementGroupCleanerCallback":
                if not os.environ.get("RAY_ADDRESS"):
                    continue
                callback._get_actor_timeout_s = CLEANER_S
            kept.append(callback)
        return kept


class _StopWithoutRetry(UserCallback):  # type: ignore[misc]
    """Ends the run at a RadnetLakeError, because each retry would raise it again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in map(_unwrap, worker_exceptions.values()):
            if isinstance(error, RadnetLakeError):
                raise error


def _unwrap(error: BaseException) -> BaseException:
    return getattr(error, "_base_exc", error)


def _to_own(error: TrainingFailedError) -> RadnetLakeError:
    """The error of a run as one of ours; of a stranger only kind, place, and torch's own words."""
    causes: list[BaseException] = [error]
    if isinstance(error, ControllerError):
        causes = [_unwrap(error.controller_failure)]
    elif isinstance(error, WorkerGroupError):
        causes = [_unwrap(cause) for cause in error.worker_failures.values()]
    for cause in causes:
        if isinstance(cause, RadnetLakeError):
            return cause
    first = causes[0]
    text = f": {str(first).splitlines()[0][:200]}" if str(first) else ""
    what = f"a worker failed: {describe_place(first)}{text}"
    return RadnetLakeError(what, "training", "remove the cause, then go on with --resume")


@contextmanager
def _following(queue: Any, report: TrainReport, progress: Progress) -> Iterator[None]:
    """Update the report from the workers' events and show it, until the block ends."""
    over = threading.Event()
    late = time.monotonic() + START_S
    shown = _Shown(report, progress)

    def look() -> None:
        for event in ray.get(queue.take.remote()):
            report.rows += event.pop("rows", [])
            report.warnings += event.pop("notes", [])
            for name, value in event.items():
                setattr(report, name, value)
            if report.begun < 0 and "step" in event:
                report.begun = report.volumes
        nonlocal late
        if report.begun < 0 and time.monotonic() > late:
            late = math.inf
            report.warnings.append(_describe_wait())
        shown.show()

    def follow() -> None:
        with suppress(ray.exceptions.RayError):
            while not over.wait(LOOK_EVERY_S):
                look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(ray.exceptions.RayError):
            look()
