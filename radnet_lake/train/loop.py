"""The training loop of one worker: a TrainTask in, checkpoints and rows of metrics.csv out.

It starts from the run's last checkpoint if there is one: after a lost worker and a killed driver
alike. Network, objective and batches come from the task.

Not Lightning or accelerate, because the loss must be exact over the global batch, a run must resume
within an epoch, and the number of workers may change.
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
from radnet_lake.network.dice import DiceObjective
from radnet_lake.network.losses import Objective
from radnet_lake.ray_cluster import unwrap_error
from radnet_lake.train.config import TrainerConfig
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.train.step import Batch, Group, TrainingStep

PROGRESS_EVERY_S = 0.5
GO_BACK = "to go on from the best epoch, copy checkpoints/best.safetensors over checkpoints/last.pt"
"""Remedy if last.pt cannot be used. Only the state of the optimiser is lost by it."""


class TrainTask(Protocol):
    """What a run trains, and on what: pretrain_task.PretrainTask, train_task.SegmentTask.

    It is made by the driver and passed to each worker, whose first call is `start`.
    """

    @property
    def config(self) -> TrainerConfig:
        """Settings of the run."""

    @property
    def run(self) -> RunFolder:
        """Folder of the run."""

    @property
    def rows(self) -> tuple[int, int]:
        """Number of examples of the training and of the validation split."""

    @property
    def about(self) -> dict[str, Any]:
        """Provenance that each checkpoint holds."""

    @property
    def events(self) -> Any:
        """Event queue that the driver reads (ray_cluster.start_event_queue), or None."""

    def start(self, group: Group) -> None:
        """Build the network and the objective of this worker; they are there from then on."""

    @property
    def network(self) -> nn.Module:
        """The network to train."""

    @property
    def objective(self) -> Objective | DiceObjective:
        """Loss and metrics."""

    @property
    def skipped(self) -> Counter[str]:
        """Reason -> number of series of this worker that gave no volume; the loop empties it."""

    def load_weights(self) -> list[str]:
        """Load the initial weights -> notes on how they matched, for the user."""

    def describe(self) -> dict[str, Any]:
        """Network, weights and preprocessing, as a checkpoint holds them."""

    def stream_training(self, epoch: int, step: int) -> Iterator[Batch]:
        """This worker's parts of all batches from that epoch and step to the end of the run."""

    def stream_validation(self) -> Iterator[Batch]:
        """This worker's part of the validation split, each example once; it may be empty."""


def count_steps(task: TrainTask) -> int:
    """A task -> the optimiser steps of an epoch."""
    batch: int = task.config.batch
    return task.rows[0] // batch


@dataclass
class Progress:
    """How far a run is; each checkpoint holds it.

    epoch: the current one; of it, step: steps done, seconds: time so far, sums: over the steps, of
    all workers. best_loss: lowest validation loss so far, that of best_epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: list[list[float]] | None = None
    best_loss: float = math.inf
    best_epoch: int = -1

    def is_done(self, config: TrainerConfig) -> bool:
        """Whether all epochs are over, or `patience` epochs brought no lower loss."""
        waited = self.epoch - 1 - self.best_epoch
        return self.epoch >= config.epochs or bool(config.patience and waited >= config.patience)


def train_on_worker(passed: dict[str, TrainTask]) -> None:
    """Run a task on one worker of Ray Train. Raises RadnetLakeError for what no retry can solve."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    task = passed["task"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device() if task.config.gpu else torch.device("cpu")
    cores = os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // context.get_local_world_size()))
    try:
        run_task(task, Group(context.get_world_rank(), context.get_world_size(), device))
    except RayTaskError as error:
        # An error while volumes were loaded.
        raise unwrap_error(error) from None


def run_task(task: TrainTask, group: Group) -> None:
    """Train all epochs that a run still needs, as one of its workers. Raises RadnetLakeError."""
    _Worker(task, group).train()


class _Worker:
    """The state of one worker: its training step, the progress, when it last reported and saved."""

    def __init__(self, task: TrainTask, group: Group) -> None:
        self.task, self.config, self.run, self.group = task, task.config, task.run, group
        self.steps = count_steps(task)
        torch.manual_seed(self.config.seed)
        task.start(group)
        state = self.run.read_checkpoint("last") if self.run.has_checkpoint("last") else None
        if not state:
            self._report(notes=task.load_weights())
        total = self.config.epochs * self.steps
        self.training = TrainingStep(self.config, task.network, task.objective, group, total)
        self.progress = self._restore(state) if state else Progress()
        self._check_place()
        self.reported = self.saved = time.monotonic()

    def _check_place(self) -> None:
        """Fail if workers start from different steps: one of them has read a newer checkpoint."""
        done = self.progress.epoch * self.steps + self.progress.step
        place = torch.tensor(float(done), dtype=torch.float64, device=self.group.device)
        total = self.group.add_up(place)
        if int(total) != done * self.group.workers:
            raise RuntimeError("workers read different checkpoints")  # Ray starts them again

    def _restore(self, state: dict[str, Any]) -> Progress:
        try:
            self.training.load(state)
            return Progress(**state["progress"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            what = f"it is of another network or run ({type(error).__name__})"
            raise CheckpointError(what, f"{self.run.uri}/checkpoints/last.pt", GO_BACK) from None

    def train(self) -> None:
        """Train all epochs that are left."""
        self._describe_machine()
        at = self.progress
        self._report(epoch=at.epoch, step=at.step, best_epoch=at.best_epoch)
        if self.progress.is_done(self.config):
            return
        batches = self.task.stream_training(at.epoch, at.step)
        try:
            while not self.progress.is_done(self.config):
                self._train_epoch(batches)
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _train_epoch(self, batches: Iterator[Batch]) -> None:
        progress = self.progress
        begun = time.monotonic() - progress.seconds
        sums = self.training.empty_sums()
        if progress.sums and self.group.rank == 0:
            sums += torch.tensor(progress.sums, dtype=sums.dtype, device=sums.device)
        while progress.step < self.steps:
            number = progress.epoch * self.steps + progress.step
            sums += self.training.step(next(batches), progress.epoch, number, progress.step)
            progress.step += 1
            progress.seconds = time.monotonic() - begun
            self._report_step(sums)
            if progress.step < self.steps and self._is_time():
                progress.sums = self.group.add_up(sums.clone()).tolist()
                self._save("last")
        row = self._measure("train", self.group.add_up(sums))
        self.training.share_buffers()
        checked = self._validate()
        self._end_epoch([row, checked] if checked else [row])

    def _validate(self) -> dict[str, Any] | None:
        if not self.task.rows[1]:
            return None
        begun = time.monotonic()
        sums = self.training.empty_sums()
        for batch in self.task.stream_validation():
            sums += self.training.validate(batch)
        self.progress.seconds = time.monotonic() - begun
        return self._measure("validation", self.group.add_up(sums))

    def _end_epoch(self, rows: list[dict[str, Any]]) -> None:
        progress = self.progress
        self._report_skipped()
        # The validation loss is None if no series of the split has a label.
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
            # last.pt is written last: a run killed before that repeats what is missing.
            self.run.write_metrics(rows)
        if is_best:
            self._save("best")
        self._save("last")
        self._report(rows=rows, epoch=progress.epoch, step=0, best_epoch=progress.best_epoch)

    def _measure(self, split: str, sums: Tensor) -> dict[str, Any]:
        """A split and the sums of all workers -> its row of metrics.csv."""
        progress = self.progress
        n_rows = self.steps * self.config.batch if split == "train" else self.task.rows[1]
        step = (progress.epoch + 1) * self.steps
        return {
            "epoch": progress.epoch,
            "step": step,
            "split": split,
            "learning_rate": self.training.rate(step - 1),
            "seconds": progress.seconds,
            "volumes_per_s": n_rows / max(progress.seconds, 1e-9),
        } | self.task.objective.summarise(sums)

    def _is_time(self) -> bool:
        """Whether a checkpoint is due by the clock of rank 0; all ask it, because clocks differ."""
        if not self.config.checkpoint_minutes:
            return False
        due = time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes
        flag = torch.tensor(float(due and self.group.rank == 0), device=self.group.device)
        return bool(self.group.add_up(flag) > 0)

    def _save(self, name: str) -> None:
        self.saved = time.monotonic()
        if self.group.rank:
            return
        state = self.task.describe()
        state |= {"run": self.task.about, "progress": asdict(self.progress)}
        if name == "last":
            state |= self.training.save()
        self.run.write_checkpoint(state, name)

    def _describe_machine(self) -> None:
        """Add hardware and versions of the workers to run.json."""
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

    def _report_step(self, sums: Tensor) -> None:
        if self.group.rank or time.monotonic() - self.reported < PROGRESS_EVERY_S:
            return
        loss = self.task.objective.summarise(sums)["loss"]
        event = {} if loss is None else {"loss": loss}
        self._report(epoch=self.progress.epoch, step=self.progress.step, **event)
        self.reported = time.monotonic()

    def _report_skipped(self) -> None:
        """Report how many series of the epoch gave this worker no volume, by reason."""
        skipped = self.task.skipped
        if skipped:
            reasons = ", ".join(f"{n} {reason}" for reason, n in skipped.most_common())
            notes = [f"epoch {self.progress.epoch + 1}: series without a volume: {reasons}"]
            self._post(notes=notes)
            skipped.clear()

    def _report(self, **event: Any) -> None:
        if self.group.rank == 0:
            self._post(**event)

    def _post(self, **event: Any) -> None:
        if self.task.events is not None:
            self.task.events.post.remote(event)
