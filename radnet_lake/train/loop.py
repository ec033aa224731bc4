"""One worker of a training run: the loop over epochs, with checkpoints and metrics.

It starts with the run's last checkpoint, if there is one, whoever ended before: a lost worker, a
killed driver, or nobody. What it learns, and from what, is the lesson's.
"""

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayTaskError
from torch import Tensor, nn

from radnet_lake.errors import CheckpointError, RadnetLakeError
from radnet_lake.train.config import TrainerConfig
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.train.step import Batch, Goal, Group, Learner

TELL_EVERY_S = 0.5
GO_BACK = "to go on from the best epoch, copy checkpoints/best.pt over checkpoints/last.pt"
"""What helps where last.pt is of no use. Only the optimiser's means of gradients are lost."""


class Lesson(Protocol):
    """What one worker learns, and from what: train_lesson.Pretraining, liver_lesson.Segmenting."""

    @property
    def network(self) -> nn.Module:
        """What learns."""

    @property
    def goal(self) -> Goal:
        """What it is to minimise."""

    @property
    def lost(self) -> Counter[str]:
        """Why series gave this worker no volume, and how many; it empties it."""

    def load_weights(self) -> list[str]:
        """Take the weights that the run starts with; what became of them."""

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says of the network, its weights included."""

    def stream_training(self, epoch: int, step: int) -> Iterator[Batch]:
        """This worker's parts of the batches from there on, of one epoch after the other."""

    def stream_validation(self) -> Iterator[Batch]:
        """This worker's part of the validation split, everything once; maybe nothing."""


class Job(Protocol):
    """What all workers of a run are told: train_lesson.Job, liver_lesson.Job."""

    @property
    def config(self) -> TrainerConfig:
        """Of the run."""

    @property
    def run(self) -> RunFolder:
        """Its folder."""

    @property
    def rows(self) -> tuple[int, int]:
        """How many examples the training and the validation split have."""

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of its run."""

    @property
    def board(self) -> Any:
        """Actor that the driver reads (cluster.start_board), or None."""

    def begin(self, group: Group) -> Lesson:
        """What one worker learns."""


def count_steps(job: Job) -> int:
    """Optimiser steps of an epoch."""
    batch: int = job.config.batch
    return job.rows[0] // batch


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

    def is_done(self, config: TrainerConfig) -> bool:
        """Whether all epochs are over, or the loss has not fallen for long enough."""
        waited = self.epoch - 1 - self.best_epoch
        return self.epoch >= config.epochs or bool(config.patience and waited >= config.patience)


def train_on_worker(told: dict[str, Job]) -> None:
    """What Ray Train runs on each worker. Raises RadnetLakeError for what no retry can mend."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    job = told["job"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device() if job.config.gpu else torch.device("cpu")
    cores = os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // context.get_local_world_size()))
    try:
        learn(job, Group(context.get_world_rank(), context.get_world_size(), device))
    except RayTaskError as error:
        # What went wrong while volumes were loaded.
        cause = error.cause
        if isinstance(cause, RadnetLakeError):
            raise cause from None
        raise


def learn(job: Job, group: Group) -> None:
    """All that is left of a run, as one of its workers. Raises RadnetLakeError."""
    _Worker(job, group).train()


class _Worker:
    """The state of one worker: its learner, where the run stands, when it last said so."""

    def __init__(self, job: Job, group: Group) -> None:
        self.job, self.config, self.run, self.group = job, job.config, job.run, group
        self.steps = count_steps(job)
        torch.manual_seed(self.config.seed)
        self.lesson = job.begin(group)
        state = self.run.read_checkpoint("last") if self.run.has_checkpoint("last") else None
        if not state:
            self._tell(notes=self.lesson.load_weights())
        total = self.config.epochs * self.steps
        self.learner = Learner(
            self.config, self.lesson.network, self.lesson.goal, self.group, total
        )
        self.progress = self._restore(state) if state else Progress()
        self._check_place()
        self.told = self.saved = time.monotonic()

    def _check_place(self) -> None:
        """All workers must go on from the same step: one may have read a checkpoint's successor."""
        done = self.progress.epoch * self.steps + self.progress.step
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
        batches = self.lesson.stream_training(at.epoch, at.step)
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
        while progress.step < self.steps:
            number = progress.epoch * self.steps + progress.step
            sums += self.learner.step(next(batches), progress.epoch, number, progress.step)
            progress.step += 1
            progress.seconds = time.monotonic() - begun
            self._tell_step(sums)
            if progress.step < self.steps and self._is_time():
                progress.sums = self.group.add_up(sums.clone()).tolist()
                self._save("last")
        row = self._measure("train", self.group.add_up(sums))
        self.learner.share_buffers()
        checked = self._validate()
        self._end_epoch([row, checked] if checked else [row])

    def _validate(self) -> dict[str, Any] | None:
        if not self.job.rows[1]:
            return None
        begun = time.monotonic()
        sums = self.learner.empty_sums()
        for batch in self.lesson.stream_validation():
            sums += self.learner.validate(batch)
        self.progress.seconds = time.monotonic() - begun
        return self._measure("validation", self.group.add_up(sums))

    def _end_epoch(self, rows: list[dict[str, Any]]) -> None:
        progress = self.progress
        self._tell_lost()
        # Of validation series without any label nothing is known.
        loss = next((row["loss"] for row in reversed(rows) if row["loss"] is not None), None)
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
        n_rows = self.steps * self.config.batch if split == "train" else self.job.rows[1]
        step = (progress.epoch + 1) * self.steps
        return {
            "epoch": progress.epoch,
            "step": step,
            "split": split,
            "learning_rate": self.learner.rate(step - 1),
            "seconds": progress.seconds,
            "volumes_per_s": n_rows / max(progress.seconds, 1e-9),
        } | self.lesson.goal.summarise(sums)

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
        state = self.lesson.describe()
        state |= {"run": self.job.about, "progress": asdict(self.progress)}
        if name == "last":
            state |= self.learner.save()
        self.run.write_checkpoint(state, name)

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
        loss = self.lesson.goal.summarise(sums)["loss"]
        news = {} if loss is None else {"loss": loss}
        self._tell(epoch=self.progress.epoch, step=self.progress.step, **news)
        self.told = time.monotonic()

    def _tell_lost(self) -> None:
        """Say how many series of the epoch gave this worker no volume, and why."""
        lost = self.lesson.lost
        if lost:
            told = ", ".join(f"{n} {reason}" for reason, n in lost.most_common())
            notes = [f"epoch {self.progress.epoch + 1}: series without a volume: {told}"]
            self._post(notes=notes)
            lost.clear()

    def _tell(self, **news: Any) -> None:
        if self.group.rank == 0:
            self._post(**news)

    def _post(self, **news: Any) -> None:
        if self.job.board is not None:
            self.job.board.post.remote(news)
