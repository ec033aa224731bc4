"""Pretraining as train/loop.py takes it: a network with five heads, volumes and labels streamed.

Each worker streams its own part of every batch (stream.py), so that nothing depends on how many
there are.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from radnet_lake.network.checkpoint import describe_network, load_foreign
from radnet_lake.network.losses import UNKNOWN, Objective, Weights
from radnet_lake.network.resnet import RadNet
from radnet_lake.train.pretrain_plan import TrainConfig
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.train.step import Batch, Group
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.stream import SeriesIndex, StreamConfig, stream_volumes

STREAM_TASKS = 2000
"""Read tasks of one dataset: Ray Data makes them all before it starts the first."""
TASK_VOLUMES = 64
"""Roughly, of a read task."""
BATCHES_AHEAD = 2


class Job(NamedTuple):
    """What all workers of a pretraining are told.

    lake: version of it that was indexed. train, validation: SeriesIndex.rows of each split in
    Ray's object store, and how many rows; None without any. about: what a checkpoint says of its
    run. board: actor that the driver reads (cluster.start_board).
    """

    config: TrainConfig
    run: RunFolder
    settings: ResampleSettings
    weights: Weights
    train: tuple[Any, int]
    validation: tuple[Any, int] | None
    about: dict[str, Any]
    board: Any

    @property
    def rows(self) -> tuple[int, int]:
        """Series of the training and the validation split."""
        return self.train[1], self.validation[1] if self.validation else 0

    def begin(self, group: Group) -> "Pretraining":
        """What one worker learns."""
        return Pretraining(self, group)


class Pretraining:
    """See train_worker.Lesson. lost: why series gave this worker no volume, and how many."""

    def __init__(self, job: Job, group: Group) -> None:
        self.job, self.config, self.group = job, job.config, group
        self.network = RadNet(job.config.network)
        self.goal = Objective(self.network.labels, job.weights)
        self.lost: Counter[str] = Counter()

    def load_weights(self) -> list[str]:
        """Take the weights of --init; what became of them."""
        if not self.config.init:
            return []
        report = load_foreign(self.network, self.config.init)
        return [f"--init: {line}" for line in str(report).splitlines()]

    def describe(self) -> dict[str, Any]:
        """Of a checkpoint: what prediction needs."""
        return describe_network(self.network) | {
            "preprocessing": self.job.settings.version(),
            "settings": asdict(self.job.settings),
        }

    def _stream(self, source: tuple[Any, int], config: StreamConfig) -> Iterator[Batch]:
        share = self._choose(self.config.batch).share
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

    def stream_training(self, epoch: int, step: int) -> Iterator[Batch]:
        """This worker's parts of the batches of all epochs to come, one epoch after the other."""
        config, at, skip = self.config, epoch, step * self.config.batch
        at_once = max(1, STREAM_TASKS * TASK_VOLUMES * self.group.workers // self.job.train[1])
        while at < config.epochs:
            epochs = min(at_once, config.epochs - at)
            wanted = self._choose(config.batch)
            wanted = replace(wanted, epochs=epochs, first_epoch=at, skip=skip)
            yield from self._stream(self.job.train, wanted)
            at, skip = at + epochs, 0

    def stream_validation(self) -> Iterator[Batch]:
        """This worker's part of the validation split, every series once."""
        assert self.job.validation
        if self.job.validation[1] <= self.group.rank:
            return
        wanted = replace(self._choose(0), shuffle=False)
        yield from self._stream(self.job.validation, wanted)

    def _choose(self, batch: int) -> StreamConfig:
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


def to_batch(columns: Mapping[str, Any], device: torch.device) -> Batch:
    """Columns of stream_volumes as arrays -> tensors on the device; they are copied.

    Labels of a series that gave no volume are unknown.
    """
    tensors = {}
    for name in ("volume", "sequence", "view", "contrast", "coverage", "spacing"):
        array = columns[name]
        tensor = torch.empty(
            array.shape,
            dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype,
            pin_memory=device.type == "cuda",
        )
        tensor.numpy()[...] = array
        if name != "volume" and "reason" in columns:
            is_lost = torch.tensor([reason is not None for reason in columns["reason"]])
            tensor[is_lost] = math.nan if tensor.is_floating_point() else UNKNOWN
        tensors[name] = tensor.to(device, non_blocking=True)
    return Batch(tensors.pop("volume"), tensors)
