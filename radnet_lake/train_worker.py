"""One worker of a training run, inside Ray Train: the loop over epochs, streams and checkpoints.

It starts with the run's last checkpoint, if there is one, whoever ended before: a lost worker, a
killed driver, or nobody. Each worker streams its own part of every batch (stream.py), so that
nothing depends on how many there are.
"""

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayTaskError
from torch import Tensor

from radnet_lake.checkpoint import describe_network, load_foreign
from radnet_lake.errors import CheckpointError, RadnetLakeError
from radnet_lake.learner import Batch, Group, Learner, to_batch
from radnet_lake.network import RadNet
from radnet_lake.objective import Weights, summarise
from radnet_lake.resample import ResampleSettings
from radnet_lake.run_folder import RunFolder
from radnet_lake.stream import SeriesIndex, StreamConfig, stream_volumes
from radnet_lake.train_plan import TrainConfig

STREAM_TASKS = 2000
"""Read tasks of one dataset: Ray Data makes them all before it starts the first."""
TASK_VOLUMES = 64
"""Roughly, of a read task."""
BATCHES_AHEAD = 2
TELL_EVERY_S = 0.5
GO_BACK = "to go on from the best epoch, copy checkpoints/best.pt over checkpoints/last.pt"
"""What helps where last.pt is of no use. Only the optimiser's means of gradients are lost."""


class Job(NamedTuple):
    """What all workers of a run are told.

    lake: version of it that was indexed. train, validation: SeriesIndex.rows of each split in
    Ray's object store, and how many rows; None without any. about: what a checkpoint says of its
    run. board: actor that the driver reads (cluster.start_board).
    """

    config: TrainConfig
    run: str
    settings: ResampleSettings
    weights: Weights
    train: tuple[Any, int]
    validation: tuple[Any, int] | None
    about: dict[str, Any]
    board: Any

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch."""
        return self.train[1] // self.config.batch


@dataclass
class Progress:
    """Where a run stands; kept in its checkpoints.

    epoch: to do now; step: steps of it that are done; seconds: of it so far; sums: over its steps,
    of all workers. best_loss: least validation loss so far, of best_epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: list[list[float]] | None = None
    best_loss: float = math.inf
    best_epoch: int = -1

    def is_done(self, config: TrainConfig) -> bool:
        """Whether all epochs are over, or the loss has not fallen for long enough."""
        waited = self.epoch - 1 - self.best_epoch
        return self.epoch >= config.epochs or bool(config.patience and waited >= config.patience)


def train_on_worker(told: dict[str, Job]) -> None:
    """What Ray Train runs on each worker. Raises RadnetLakeError for what no retry can mend."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        _Worker(told["job"]).train()
    except RayTaskError as error:
        # What went wrong while volumes were loaded.
        cause = error.cause
        if isinstance(cause, RadnetLakeError):
            raise cause from None
        raise


class _Worker:
    """The state of one worker: its learner, where the run stands, when it last said so."""

    def __init__(self, job: Job) -> None:
        self.job, self.config = job, job.config
        context = ray.train.get_context()
        device = ray.train.torch.get_device() if self.config.gpu else torch.device("cpu")
        self.group = Group(context.get_world_rank(), context.get_world_size(), device)
        cores = os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // context.get_local_world_size()))
        torch.manual_seed(self.config.seed)
        network = RadNet(self.config.network)
        self.run = RunFolder(job.run)
        state = self.run.read_checkpoint("last") if self.run.has_checkpoint("last") else None
        if self.config.init and not state:
            report = load_foreign(network, self.config.init)
            self._tell(notes=[f"--init: {line}" for line in str(report).splitlines()])
        total = self.config.epochs * job.steps
        self.learner = Learner(self.config, network, job.weights, self.group, total)
        self.progress = self._restore(state) if state else Progress()
        self._check_place()
        self.lost: Counter[str] = Counter()
        self.told = self.saved = time.monotonic()

    def _check_place(self) -> None:
        """All workers must go on from the same step: one may have read a checkpoint's successor."""
        done = self.progress.epoch * self.job.steps + self.progress.step
        place = torch.tensor(float(done), dtype=torch.float64, device=self.group.device)
        total = self.group.add_up(place)
        if int(total) != done * self.group.workers:
            raise RuntimeError("workers read different checkpoints")  # Ray starts them again

    def _restore(self, state: dict[str, Any]) -> Progress:
        try:
            self.learner.load(state)
            return Progress(**state["progress"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            what = f"it is of another network or run ({type(error).__name__})"
            raise CheckpointError(what, f"{self.run.uri}/checkpoints/last.pt", GO_BACK) from None

    def train(self) -> None:
        """All epochs that are left."""
        self._describe_machine()
        at = self.progress
        self._tell(epoch=at.epoch, step=at.step, best_epoch=at.best_epoch)
        if self.progress.is_done(self.config):
            return
        batches = self._stream_training()
        try:
            while not self.progress.is_done(self.config):
                self._train_epoch(batches)
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _train_epoch(self, batches: Iterator[Batch]) -> None:
        progress = self.progress
        begun = time.monotonic() - progress.seconds
        sums = self.learner.empty_sums()
        if progress.sums and self.group.rank == 0:
            sums += torch.tensor(progress.sums, dtype=sums.dtype, device=sums.device)
        while progress.step < self.job.steps:
            number = progress.epoch * self.job.steps + progress.step
            sums += self.learner.step(next(batches), progress.epoch, number, progress.step)
            progress.step += 1
            progress.seconds = time.monotonic() - begun
            self._tell_step(sums)
            if progress.step < self.job.steps and self._is_time():
                progress.sums = self.group.add_up(sums.clone()).tolist()
                self._save("last")
        row = self._measure("train", self.group.add_up(sums))
        self.learner.share_buffers()
        checked = self._validate()
        self._end_epoch([row, checked] if checked else [row])

    def _validate(self) -> dict[str, Any] | None:
        if not self.job.validation:
            return None
        begun = time.monotonic()
        sums = self.learner.empty_sums()
        for batch in self._stream_validation():
            sums += self.learner.validate(batch)
        self.progress.seconds = time.monotonic() - begun
        return self._measure("validation", self.group.add_up(sums))

    def _end_epoch(self, rows: list[dict[str, Any]]) -> None:
        progress = self.progress
        self._tell_lost()
        # Of validation series without any label nothing is known.
        loss = next((row["loss"] for row in reversed(rows) if _is_told(row)), None)
        if loss is None or not math.isfinite(loss):
            what = "no series gave a volume with a label" if loss is None else "loss is not finite"
            remedy = "the last checkpoint is kept; check volumes and labels, or --learning-rate"
            raise RadnetLakeError(what, f"epoch {progress.epoch}", remedy)
        is_best = loss < progress.best_loss or progress.best_epoch < 0
        if is_best:
            progress.best_loss, progress.best_epoch = loss, progress.epoch
        progress.epoch, progress.step, progress.seconds, progress.sums = (
            progress.epoch + 1,
            0,
            0,
            None,
        )
        if self.group.rank == 0:
            # last.pt comes last: what is missing after a kill is made once more.
            self.run.write_metrics(rows)
        if is_best:
            self._save("best")
        self._save("last")
        self._tell(rows=rows, epoch=progress.epoch, step=0, best_epoch=progress.best_epoch)

    def _measure(self, split: str, sums: Tensor) -> dict[str, Any]:
        """A row of metrics.csv out of the sums of all workers."""
        progress = self.progress
        n_rows = self.job.steps * self.config.batch
        if split != "train":
            assert self.job.validation
            n_rows = self.job.validation[1]
        step = (progress.epoch + 1) * self.job.steps
        return {
            "epoch": progress.epoch,
            "step": step,
            "split": split,
            "learning_rate": self.learner.rate(step - 1),
            "seconds": progress.seconds,
            "volumes_per_s": n_rows / max(progress.seconds, 1e-9),
        } | summarise(self.learner.network.labels, sums)

    def _is_time(self) -> bool:
        """Whether rank 0 finds that a checkpoint is due: clocks differ, so all ask it."""
        if not self.config.checkpoint_minutes:
            return False
        due = time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes
        flag = torch.tensor(float(due and self.group.rank == 0), device=self.group.device)
        return bool(self.group.add_up(flag) > 0)

    def _save(self, name: str) -> None:
        self.saved = time.monotonic()
        if self.group.rank:
            return
        state = describe_network(self.learner.network) | {
            "preprocessing": self.job.settings.version(),
            "settings": asdict(self.job.settings),
            "run": self.job.about,
            "progress": asdict(self.progress),
        }
        if name == "last":
            state |= self.learner.save()
        self.run.write_checkpoint(state, name)

    def _stream(self, source: tuple[Any, int], config: StreamConfig) -> Iterator[Batch]:
        share = self._stream_config(self.config.batch).share
        rows = share.stop - share.start
        dataset = stream_volumes(config, SeriesIndex(ray.get(source[0]), 0))
        for columns in dataset.iter_batches(
            batch_size=rows,
            batch_format="numpy",
            prefetch_batches=BATCHES_AHEAD,
        ):
            if "reason" in columns:
                self.lost.update(reason for reason in columns["reason"] if reason is not None)
            yield to_batch(columns, self.group.device)

    def _stream_training(self) -> Iterator[Batch]:
        """This worker's parts of the batches of all epochs to come, one epoch after the other."""
        config, at = self.config, self.progress.epoch
        skip = self.progress.step * config.batch
        at_once = max(1, STREAM_TASKS * TASK_VOLUMES * self.group.workers // self.job.train[1])
        while at < config.epochs:
            epochs = min(at_once, config.epochs - at)
            wanted = self._stream_config(config.batch)
            wanted = replace(wanted, epochs=epochs, first_epoch=at, skip=skip)
            yield from self._stream(self.job.train, wanted)
            at, skip = at + epochs, 0

    def _stream_validation(self) -> Iterator[Batch]:
        """This worker's part of the validation split, every series once."""
        assert self.job.validation
        if self.job.validation[1] <= self.group.rank:
            return
        wanted = replace(self._stream_config(0), shuffle=False)
        yield from self._stream(self.job.validation, wanted)

    def _stream_config(self, batch: int) -> StreamConfig:
        config = self.config
        return StreamConfig(
            lake=config.lake,
            source=config.source,
            settings=self.job.settings,
            seed=config.seed,
            uids=False,
            failures=config.source == "lake",
            batch=batch,
            workers=self.group.workers,
            rank=self.group.rank,
        )

    def _describe_machine(self) -> None:
        """Add to run.json on what the workers run."""
        if self.group.rank:
            return
        is_cuda = self.group.device.type == "cuda"
        machine = {
            "workers": self.group.workers,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        }
        self.run.write_run(self.run.read_run() | {"machine": machine})

    def _tell_step(self, sums: Tensor) -> None:
        if self.group.rank or time.monotonic() - self.told < TELL_EVERY_S:
            return
        loss = summarise(self.learner.network.labels, sums)["loss"]
        self._tell(epoch=self.progress.epoch, step=self.progress.step, loss=loss)
        self.told = time.monotonic()

    def _tell_lost(self) -> None:
        """Say how many series of the epoch gave this worker no volume, and why."""
        if self.lost:
            told = ", ".join(f"{n} {reason}" for reason, n in self.lost.most_common())
            notes = [f"epoch {self.progress.epoch + 1}: series without a volume: {told}"]
            self.job.board.post.remote({"notes": notes})
            self.lost.clear()

    def _tell(self, **news: Any) -> None:
        if self.group.rank == 0:
            self.job.board.post.remote(news)


def _is_told(row: dict[str, Any]) -> bool:
    """Whether any label was known in a row of metrics.csv."""
    return any(row[name] is not None for name in row if name.startswith("loss_"))
