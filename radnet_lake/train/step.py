"""The training step on one of several workers: a batch in, changed weights and sums of losses out.

The gradient is that of the joint batch of all workers, whatever their number. This module uses
torch's process group, but not Ray.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from radnet_lake.errors import RadnetLakeError
from radnet_lake.network.augment import augment
from radnet_lake.network.dice import DiceObjective
from radnet_lake.network.losses import Objective
from radnet_lake.train.config import TrainerConfig

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_SCALE = 2.0**-8
"""Loss scale of fp16 below which an overflow is an error: the gradients are wrong, not the type."""


class Group(NamedTuple):
    """The workers that train together, and the rank of this one among them."""

    rank: int = 0
    workers: int = 1
    device: torch.device = torch.device("cpu")

    def add_up(self, tensor: Tensor) -> Tensor:
        """A tensor -> its sum over all workers, in place."""
        if self.workers > 1:
            dist.all_reduce(tensor)
        return tensor


def stand_alone(gpu: bool) -> Group:
    """Whether to use a GPU -> the group of this process alone."""
    return Group(device=torch.device("cuda" if gpu else "cpu"))


class Batch(NamedTuple):
    """A worker's part of a batch. volumes: (B, D, H, W) uint8; labels: what the objective takes."""

    volumes: Tensor
    labels: dict[str, Tensor]

    def split(self, pieces: int) -> Iterator["Batch"]:
        """The batch in `pieces` equal parts; in fewer if it has fewer rows."""
        for rows in torch.arange(len(self.volumes)).tensor_split(pieces):
            if len(rows):
                some = slice(int(rows[0]), int(rows[-1]) + 1)
                yield Batch(self.volumes[some], {k: v[some] for k, v in self.labels.items()})


class TrainingStep:
    """A network in training, with its optimiser. total: optimiser steps of the whole run.

    Weights that require no gradient do not change.
    """

    def __init__(
        self,
        settings: TrainerConfig,
        network: nn.Module,
        objective: Objective | DiceObjective,
        group: Group,
        total: int,
    ) -> None:
        self.config, self.group, self.total = settings, group, total
        layout = torch.channels_last_3d if settings.channels_last else torch.preserve_format
        self.network: nn.Module = network.to(device=group.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.objective = objective
        objective.to(group.device)
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay
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
        """The objective's sums over no rows, on the device: zeros."""
        return self.objective.empty().to(self.group.device)

    def rate(self, step: int) -> float:
        """The number of a step -> its learning rate: linear warm-up, cosine decay to final_rate."""
        config = self.config
        rise = round(config.warmup * self.total)
        if step < rise:
            return float(config.learning_rate * (step + 1) / (rise + 1))
        share = (step - rise) / max(1, self.total - rise)
        fall = (1 + math.cos(math.pi * min(1.0, share))) / 2
        return float(config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall))

    def step(self, batch: Batch, epoch: int, number: int, place: int) -> Tensor:
        """One optimiser step on this worker's part of a batch -> the objective's sums over it.

        number: of the step from the start of the run; place: of the step in its epoch.
        Augmentation depends on the seed, epoch, place and rank only. Raises RadnetLakeError before
        any weight is changed if the loss or the gradient is not finite.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(number)
        weights = self.group.add_up(self.objective.weigh(batch.labels))
        sums, total = self.empty_sums(), torch.zeros((), device=self.group.device)
        pieces = list(batch.split(self.config.accumulate))
        for n, piece in enumerate(pieces):
            with self._no_sync(n + 1 < len(pieces)):
                volumes = piece.volumes[:, None]  # (B, D, H, W) -> (B, 1, D, H, W)
                if self.config.augment:
                    state = [self.config.seed, epoch, place, self.group.rank, n]
                    seed = np.random.SeedSequence(state).generate_state(1, np.uint64)[0]
                    volumes = augment(volumes, int(seed >> 1))
                with self._autocast():
                    output = self.model(volumes)
                losses, part = self.objective(output, piece.labels)
                loss = self.objective.join(losses, part, weights, self.group.add_up)
                # DDP averages over workers; the loss is a sum over them.
                torch.autograd.backward(self.scaler.scale(loss * self.group.workers))
                sums += part
                total += loss.detach()
        self._update(total, f"epoch {epoch}, step {place}")
        return sums

    def _update(self, loss: Tensor, where: str) -> None:
        self.scaler.unscale_(self.optimizer)
        max_norm = self.config.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), max_norm)
        may_skip = self.scaler.is_enabled() and self.scaler.get_scale() >= MIN_SCALE
        if not may_skip and not torch.isfinite(norm + loss):
            remedy = "the last checkpoint is kept; try a smaller --learning-rate, or more --warmup"
            raise RadnetLakeError("loss or gradient are not finite", where, remedy)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def validate(self, batch: Batch) -> Tensor:
        """A validation batch -> the objective's sums over it; no weight changes."""
        self.network.eval()
        sums = self.empty_sums()
        for piece in batch.split(self.config.accumulate):
            with self._autocast():
                output = self.network(piece.volumes[:, None])
            sums += self.objective(output, piece.labels)[1]
        return sums

    def share_buffers(self) -> None:
        """Copy the running statistics of rank 0 to all workers, whose volumes differ."""
        if self.group.workers > 1:
            for buffer in self.network.buffers():
                dist.broadcast(buffer, 0)

    def save(self) -> dict[str, Any]:
        """State of the optimiser and of the loss scale: what load needs beside the weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore weights from a checkpoint; optimiser and loss scale if it has them."""
        self.network.load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = TYPES[self.config.precision]
        return torch.autocast(self.group.device.type, dtype, enabled=dtype != torch.float32)

    def _no_sync(self, is_inner: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged with the last piece only: the others are accumulated locally."""
        if is_inner and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()
