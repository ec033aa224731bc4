"""The pretraining task for the training loop: batches of streamed volumes with their labels.

Each worker streams its own part of every batch (volume/stream.py), so that the course of a training
does not depend on their number.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import ray
import torch

from radnet_lake.network.checkpoint import describe_network
from radnet_lake.network.foreign import load_foreign
from radnet_lake.network.losses import UNKNOWN, Objective, Weights
from radnet_lake.network.resnet import RadNet
from radnet_lake.train.pretrain_plan import TrainConfig
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.train.step import Batch, Group
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.stream import SeriesIndex, StreamConfig, stream_volumes

STREAM_TASKS = 2000
"""At most, of one dataset: Ray Data makes all of its read tasks before it starts the first."""
TASK_VOLUMES = 64
"""Approximate number of volumes of a read task."""
BATCHES_AHEAD = 2


@dataclass(eq=False)
class PretrainTask:
    """A network with a head for each label, trained on the volumes of a lake; see loop.TrainTask.

    train, validation: SeriesIndex.rows of each split (on workers: their reference in Ray's object
    store), and their number; validation is None without any. weights: of the classes. about:
    provenance for checkpoints. events: event queue that the driver reads.
    """

    config: TrainConfig
    run: RunFolder
    settings: ResampleSettings
    weights: Weights
    train: tuple[Any, int]
    validation: tuple[Any, int] | None
    about: dict[str, Any]
    events: Any = None
    group: Group = field(init=False)
    network: RadNet = field(init=False)
    objective: Objective = field(init=False)
    skipped: Counter[str] = field(init=False, default_factory=Counter)

    @property
    def rows(self) -> tuple[int, int]:
        """Number of series of the training and of the validation split."""
        return self.train[1], self.validation[1] if self.validation else 0

    def start(self, group: Group) -> None:
        """Build the network and the objective of this worker."""
        self.group = group
        self.network = RadNet(self.config.network)
        self.objective = Objective(self.network.labels, self.weights)

    def load_weights(self) -> list[str]:
        """Load the weights of --init -> notes on how they matched."""
        if not self.config.init:
            return []
        report = load_foreign(self.network.encoder, self.config.init)
        return [f"--init: {line}" for line in str(report).splitlines()]

    def describe(self) -> dict[str, Any]:
        """Network, weights and preprocessing: the part of a checkpoint that prediction needs."""
        return describe_network(self.network) | {
            "preprocessing": self.settings.version(),
            "settings": asdict(self.settings),
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
                self.skipped.update(reason for reason in columns["reason"] if reason is not None)
            yield to_batch(columns, self.group.device)

    def stream_training(self, epoch: int, step: int) -> Iterator[Batch]:
        """This worker's parts of all batches from that epoch and step to the end of the run."""
        config, at, skip = self.config, epoch, step * self.config.batch
        at_once = max(1, STREAM_TASKS * TASK_VOLUMES * self.group.workers // self.train[1])
        while at < config.epochs:
            epochs = min(at_once, config.epochs - at)
            wanted = self._choose(config.batch)
            wanted = replace(wanted, epochs=epochs, first_epoch=at, skip=skip)
            yield from self._stream(self.train, wanted)
            at, skip = at + epochs, 0

    def stream_validation(self) -> Iterator[Batch]:
        """This worker's part of the validation split, each series once."""
        assert self.validation
        if self.validation[1] <= self.group.rank:
            return
        wanted = replace(self._choose(0), shuffle=False)
        yield from self._stream(self.validation, wanted)

    def _choose(self, batch: int) -> StreamConfig:
        config = self.config
        return StreamConfig(
            lake=config.lake,
            source=config.source,
            settings=self.settings,
            seed=config.seed,
            uids=False,
            failures=config.source == "lake",
            batch=batch,
            workers=self.group.workers,
            rank=self.group.rank,
        )


def to_batch(columns: Mapping[str, Any], device: torch.device) -> Batch:
    """Columns of stream_volumes as arrays -> copies of them as tensors on the device.

    Labels of a series without a volume are set to unknown.
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
