"""A network that learns, on one of several workers: one optimiser step, one validation batch.

The gradient is that of the joint batch of all workers, whatever their number. It knows torch's
process group, but not Ray.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from radnet_lake.errors import RadnetLakeError
from radnet_lake.network.augment import augment
from radnet_lake.network.losses import AddUp
from radnet_lake.train.config import TrainerConfig

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SCALE = 2.0**-8
"""Of fp16's loss. Below it, gradients overflow because they are wrong, not because of fp16."""


class Group(NamedTuple):
    """The workers that train together, and which of them this one is."""

    rank: int = 0
    workers: int = 1
    device: torch.device = torch.device("cpu")

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over all workers, in place."""
        if self.workers > 1:
            dist.all_reduce(tensor)
        return tensor


def stand_alone(gpu: bool) -> Group:
    """The only worker there is, on a GPU if one is asked for."""
    return Group(device=torch.device("cuda" if gpu else "cpu"))


class Goal(Protocol):
    """What is minimised and measured, an nn.Module: objective.Objective, overlap.DiceObjective."""

    def to(self, device: torch.device) -> Any:
        """Move to a device."""

    def weigh(self, labels: Mapping[str, Tensor]) -> Tensor:
        """What the losses of these rows are divided by."""

    def __call__(self, output: Any, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums of the rows' losses, with gradient; all that is summed, float64, without."""

    def join(self, losses: Tensor, sums: Tensor, weights: Tensor, add_up: AddUp) -> Tensor:
        """What a worker has to differentiate: over all workers, gradients sum to the loss's."""

    def empty(self) -> Tensor:
        """The sums of no row."""

    def summarise(self, sums: Tensor) -> dict[str, float | None]:
        """Joined sums as columns of metrics.csv; "loss" is None where nothing was known."""


class Batch(NamedTuple):
    """A worker's part of a batch. volumes: (B, D, H, W) uint8; labels: as the goal takes them."""

    volumes: Tensor
    labels: dict[str, Tensor]

    def split(self, pieces: int) -> Iterator["Batch"]:
        """Equal pieces; fewer of a batch that has fewer rows."""
        for rows in torch.arange(len(self.volumes)).tensor_split(pieces):
            if len(rows):
                some = slice(int(rows[0]), int(rows[-1]) + 1)
                yield Batch(self.volumes[some], {k: v[some] for k, v in self.labels.items()})


class Learner:
    """A network in training, with its optimiser. total: optimiser steps of the whole run.

    Weights that require no gradient stay as they are.
    """

    def __init__(
        self, settings: TrainerConfig, network: nn.Module, goal: Goal, group: Group, total: int
    ) -> None:
        self.config, self.group, self.total = settings, group, total
        layout = torch.channels_last_3d if settings.channels_last else torch.preserve_format
        self.network: nn.Module = network.to(device=group.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.goal = goal
        goal.to(group.device)
        learning = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            learning, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        scale = settings.precision == "fp16" and group.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=scale)
        self.model = self._wrap()

    def _wrap(self) -> nn.Module:
        network: nn.Module = self.network
        if self.config.sync_norm and self.group.workers > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        if self.config.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        if self.group.workers == 1:
            return network
        devices = [self.group.device] if self.group.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices)

    def empty_sums(self) -> Tensor:
        """The goal's sums of no row."""
        return self.goal.empty().to(self.group.device)

    def rate(self, step: int) -> float:
        """Learning rate of a step: a linear rise, then half a cosine down to final_rate."""
        config = self.config
        rise = round(config.warmup * self.total)
        if step < rise:
            return float(config.learning_rate * (step + 1) / (rise + 1))
        share = (step - rise) / max(1, self.total - rise)
        fall = (1 + math.cos(math.pi * min(1.0, share))) / 2
        return float(config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall))

    def step(self, batch: Batch, epoch: int, number: int, place: int) -> Tensor:
        """Learn from this worker's part of a batch; the goal's sums of it.

        number: of the step from the start of the run; place: of the step in its epoch. Random
        changes depend on the seed, epoch, place and rank alone. Raises RadnetLakeError, before any
        weight is changed, where loss or gradient are not finite.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(number)
        weights = self.group.add_up(self.goal.weigh(batch.labels))
        sums, total = self.empty_sums(), torch.zeros((), device=self.group.device)
        pieces = list(batch.split(self.config.accumulate))
        for n, piece in enumerate(pieces):
            with self._quiet(n + 1 < len(pieces)):
                volumes = piece.volumes[:, None]  # (B, D, H, W) -> (B, 1, D, H, W)
                if self.config.augment:
                    state = [self.config.seed, epoch, place, self.group.rank, n]
                    seed = np.random.SeedSequence(state).generate_state(1, np.uint64)[0]
                    volumes = augment(volumes, int(seed >> 1))
                with self._autocast():
                    output = self.model(volumes)
                losses, some = self.goal(output, piece.labels)
                loss = self.goal.join(losses, some, weights, self.group.add_up)
                # DDP takes the mean over workers, the loss is a sum over them.
                torch.autograd.backward(self.scaler.scale(loss * self.group.workers))
                sums += some
                total += loss.detach()
        self._update(total, f"epoch {epoch}, step {place}")
        return sums

    def _update(self, loss: Tensor, where: str) -> None:
        self.scaler.unscale_(self.optimizer)
        most = self.config.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), most)
        may_skip = self.scaler.is_enabled() and self.scaler.get_scale() >= LEAST_SCALE
        if not may_skip and not torch.isfinite(norm + loss):
            remedy = "the last checkpoint is kept; try a smaller --learning-rate, or more --warmup"
            raise RadnetLakeError("loss or gradient are not finite", where, remedy)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def validate(self, batch: Batch) -> Tensor:
        """The goal's sums of a batch, with the network as it is."""
        self.network.eval()
        sums = self.empty_sums()
        for piece in batch.split(self.config.accumulate):
            with self._autocast():
                output = self.network(piece.volumes[:, None])
            sums += self.goal(output, piece.labels)[1]
        return sums

    def share_buffers(self) -> None:
        """Running means of rank 0 for all: each worker has seen other volumes."""
        if self.group.workers > 1:
            for buffer in self.network.buffers():
                dist.broadcast(buffer, 0)

    def save(self) -> dict[str, Any]:
        """What load needs beside the network's weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on as saved: weights; optimiser and scale of the loss, if they were kept."""
        self.network.load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = TYPES[self.config.precision]
        return torch.autocast(self.group.device.type, dtype, enabled=dtype != torch.float32)

    def _quiet(self, is_inner: bool) -> AbstractContextManager[Any]:
        """Gradients of all but the last piece stay with the worker."""
        if is_inner and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()
