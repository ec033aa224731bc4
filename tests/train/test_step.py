"""Training steps: the joint batch's gradient on any number of workers, and a falling loss."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from radnet_lake.errors import RadnetLakeError
from radnet_lake.network.losses import Objective
from radnet_lake.network.resnet import RadNet
from radnet_lake.train.pretrain_plan import TrainConfig
from radnet_lake.train.step import Batch, Group, TrainingStep

SMALL = TrainConfig(
    out="run", depth=10, width=4, features=16, norm="group", batch=8, learning_rate=0.01, clip=0.0
)


def make_batch() -> Batch:
    """(8, 8, 32, 32) volumes whose labels can be seen; unknown ones are spread unevenly."""
    torch.manual_seed(7)
    labels = {
        "sequence": torch.tensor([0, 1, 2, 3, 4, -1, -1, -1]),
        "view": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]),
        "contrast": torch.tensor([0, -1, -1, -1, -1, 1, 0, 1]),
        "coverage": torch.randint(0, 2, (8, 9)).float(),
        "spacing": torch.tensor([1.0, 2, 3, 4, 5, math.nan, math.nan, 9]),
    }
    labels["coverage"][3:6] = math.nan
    volumes = torch.randint(0, 40, (8, 8, 32, 32))
    for n in range(8):
        volumes[n, n, 4 * n : 4 * n + 4] += 200
    return Batch(volumes.byte(), labels)


def make_training(
    config: TrainConfig, group: Group | None = None, total: int = 100
) -> TrainingStep:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    network = RadNet(config.network)
    return TrainingStep(config, network, Objective(network.labels, {}), group or Group(), total)


def take_step(training: TrainingStep, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients that the optimiser gets, and the sums."""
    found: dict[str, Tensor] = {}

    def keep(*_: Any) -> None:
        for name, weight in training.network.named_parameters():
            assert weight.grad is not None
            found[name] = weight.grad.clone()

    hook = training.optimizer.register_step_pre_hook(keep)
    sums = training.step(batch, 0, 0, 0)
    hook.remove()
    return found, sums


def work(rank: int, workers: int, store: str, config: TrainConfig, out: str) -> None:
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=workers)
    batch = list(make_batch().split(workers))[rank]
    training = make_training(config, Group(rank, workers))
    gradients, sums = take_step(training, batch)
    sums = training.group.add_up(sums)
    if rank == 0:
        torch.save([gradients, sums, training.network.state_dict()], out)
    dist.destroy_process_group()


@pytest.mark.long
def test_two_workers_have_the_gradient_of_one(tmp_path: Path) -> None:
    training = make_training(SMALL)
    gradients, sums = take_step(training, make_batch())
    out = str(tmp_path / "found.pt")
    job = (2, f"file://{tmp_path}/store", SMALL, out)
    torch.multiprocessing.spawn(work, job, nprocs=2)
    found = torch.load(out, weights_only=True)
    torch.testing.assert_close(found[0], gradients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], sums, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[2], training.network.state_dict(), rtol=1e-4, atol=1e-4)


def test_pieces_of_a_batch_have_its_gradient_but_for_spacing() -> None:
    batch = make_batch()
    batch.labels["spacing"][:] = math.nan
    whole, sums = take_step(make_training(SMALL), batch)
    pieces, same = take_step(make_training(replace(SMALL, accumulate=4)), batch)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(same, sums, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_falls_on_eight_volumes(precision: str) -> None:
    config = replace(SMALL, precision=precision, norm="batch", channels_last=True, clip=5.0)
    training = make_training(config, total=40)
    losses = []
    for n in range(40):
        losses.append(training.objective.summarise(training.step(make_batch(), 0, n, n))["loss"])
    assert losses[-1] < 0.25 * losses[0]
    checked = training.objective.summarise(training.validate(make_batch()))
    assert checked["accuracy_view"] == 1
    assert checked["loss"] < losses[0]


def test_steps_repeat_after_saving_and_loading() -> None:
    config = replace(SMALL, augment=True, norm="batch")
    training = make_training(config)
    for n in range(2):
        training.step(make_batch(), 0, n, n)
    state = {"model": training.network.state_dict()} | training.save()
    state = torch.load(save(state), weights_only=True)
    further = [training.step(make_batch(), 0, n, n) for n in (2, 3)]
    other = make_training(config)
    other.load(state)
    again = [other.step(make_batch(), 0, n, n) for n in (2, 3)]
    torch.testing.assert_close(again, further, rtol=0, atol=0)


def save(state: object) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    training = make_training(SMALL)
    before = {name: weight.clone() for name, weight in training.network.state_dict().items()}
    batch = make_batch()
    batch.labels["spacing"][2] = math.inf
    with pytest.raises(RadnetLakeError, match=r"epoch 3, step 5: .*not finite; .*learning-rate"):
        training.step(batch, 3, 35, 5)
    torch.testing.assert_close(training.network.state_dict(), before, rtol=0, atol=0)


def test_learning_rate_rises_then_falls() -> None:
    config = replace(SMALL, learning_rate=1.0, warmup=0.1, final_rate=0.1)
    training = make_training(config, total=100)
    rates = [training.rate(step) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    flat = make_training(replace(config, warmup=0.0, final_rate=1.0))
    assert {flat.rate(step) for step in range(100)} == {1.0}
