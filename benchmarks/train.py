"""Training, timed: the step against others' networks, what loading costs it, two workers for one.

    python benchmarks/train.py --part step --rounds 5

Step: CPU seconds, both threads together, of forward and backward of two volumes 48x192x192; by the
clock about half of that where nobody else computes. All that is compared runs in turn in each
round, every other round backwards; ratios are medians of the rounds' own ratios. MONAI's ResNet-50
gets the same strides (its own default is a first stride of 1) and as many outputs; MedicalNet's
design is our encoder `medicalnet`, dilated where the classic one has strides.

Loader: seconds by the clock of a training step on batches that stream out of shards, against the
same batch from memory, in turn; a new stream each round. DDP: volumes/s of two workers of one
thread (gloo) against one worker of two threads, the same global batch, in turn in one run; start-up
is left out. By the clock: only where nobody else computes do they tell anything.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from feeding import copy_lake, make_base
from torch import Tensor, nn
from volumes import Figures, print_table, run_alone

from radnet_lake.network.losses import Objective
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.train.pretrain_plan import TrainConfig
from radnet_lake.train.step import Batch, Group, TrainingStep, to_batch
from radnet_lake.volume.stream import StreamConfig, stream_volumes

SHAPE = (48, 192, 192)
BATCH = 2
THREADS = 2
OURS = "ours"
LOADED = TrainConfig(out="", depth=18, width=16, batch=8)
"""Ten times cheaper than the paper's network, so that loading weighs ten times more."""
LOADED_VOLUMES, LOADED_STEPS = 512, 8
SHARED = TrainConfig(out="", depth=50, width=32, batch=8)
SHARED_SHAPE, SHARED_STEPS = (48, 96, 96), 3

Step = Callable[[], None]


def make_step(network: nn.Module, channels_last: bool = False, bf16: bool = False) -> Step:
    """Forward and backward of one batch, as a training loop would run it."""
    torch.manual_seed(0)
    volume = torch.randint(0, 256, (BATCH, 1, *SHAPE), dtype=torch.uint8).float()
    if channels_last:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        volume = volume.contiguous(memory_format=torch.channels_last_3d)

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            output = network(volume)
        loss = output.square().mean() if isinstance(output, Tensor) else sum_up(output)
        loss.backward()

    return step


def sum_up(output: Any) -> Tensor:
    return torch.stack([logits.square().mean() for logits in output.logits.values()]).sum()


def make_monai(**choices: bool) -> Step:
    from monai.networks.nets import resnet50

    network = resnet50(
        n_input_channels=1, conv1_t_stride=2, num_classes=1000, bias_downsample=False
    )
    return make_step(network.train(), **choices)


def make_ours(encoder: str = "resnet", **choices: bool) -> Step:
    return make_step(RadNet(NetworkSettings(encoder=encoder)).train(), **choices)


def time_step(rounds: int) -> Figures:
    torch.set_num_threads(THREADS)
    makers: dict[str, Callable[[], Step]] = {
        OURS: make_ours,
        "ours, channels_last_3d": partial(make_ours, channels_last=True),
        "ours, bf16": partial(make_ours, bf16=True),
        "ours, bf16 and channels_last_3d": partial(make_ours, bf16=True, channels_last=True),
        "MedicalNet's design": partial(make_ours, encoder="medicalnet"),
    }
    if importlib.util.find_spec("monai"):
        makers["MONAI"] = make_monai
    else:
        print("MONAI is not installed: its ResNet-50 is left out")
    steps = {name: make() for name, make in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            steps[name]()
            if number:  # the first round is a warm-up
                seconds[name].append(time.process_time() - start)
    figures = {f"{name}, CPU s": statistics.median(some) for name, some in seconds.items()}
    for name in steps:
        if name != OURS:
            ratios = [mine / its for mine, its in zip(seconds[OURS], seconds[name], strict=True)]
            figures[f"{OURS} / {name}"] = statistics.median(ratios)
    return {"training step, ResNet-50": figures}


def run_step(rounds: int) -> Figures:
    return run_alone(time_step, rounds)


def draw_batch(count: int, shape: tuple[int, int, int]) -> Batch:
    torch.manual_seed(0)
    labels = {
        "sequence": torch.randint(0, 5, (count,)),
        "view": torch.randint(0, 3, (count,)),
        "contrast": torch.randint(0, 2, (count,)),
        "coverage": torch.randint(0, 2, (count, 9)).float(),
        "spacing": torch.rand(count) * 9,
    }
    return Batch(torch.randint(0, 256, (count, *shape), dtype=torch.uint8), labels)


def stream_batches(lake: str) -> Iterator[Batch]:
    config = StreamConfig(lake, split="", epochs=10, uids=False, batch=LOADED.batch)
    for columns in stream_volumes(config).iter_batches(
        batch_size=LOADED.batch, batch_format="numpy", prefetch_batches=2
    ):
        yield to_batch(columns, torch.device("cpu"))


def begin_training(config: TrainConfig, group: Group, total: int) -> TrainingStep:
    network = RadNet(config.network)
    return TrainingStep(config, network, Objective(network.labels, {}), group, total)


def time_steps(training: TrainingStep, batches: Iterator[Batch], steps: int) -> float:
    """Seconds of a step, the first left out."""
    for n in range(steps + 1):
        if n == 1:
            start = time.perf_counter()
        training.step(next(batches), 0, n, n)
    return (time.perf_counter() - start) / steps


def time_loader(rounds: int) -> Figures:
    torch.set_num_threads(THREADS)
    training = begin_training(LOADED, Group(), 1000)
    held = draw_batch(LOADED.batch, SHAPE)
    seconds: dict[str, list[float]] = {"streamed": [], "from memory": []}
    with tempfile.TemporaryDirectory() as folder:
        copy_lake(make_base(Path(folder)), f"{folder}/lake", LOADED_VOLUMES)
        for _ in range(rounds):
            stream = stream_batches(f"{folder}/lake")
            seconds["streamed"].append(time_steps(training, stream, LOADED_STEPS))
            stream.close()  # type: ignore[attr-defined]
            seconds["from memory"].append(time_steps(training, repeat(held), LOADED_STEPS))
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    figures = {f"{name}, s a step": statistics.median(some) for name, some in seconds.items()}
    return {"loading, ResNet-18": figures | {"streamed / from memory": statistics.median(ratios)}}


def work(rank: int, folder: str, rounds: int) -> None:
    """A process of two: both together, then rank 0 alone while the other waits, in turn."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=THREADS
    )
    whole = draw_batch(SHARED.batch, SHARED_SHAPE)
    own = list(whole.split(THREADS))[rank]
    together = begin_training(SHARED, Group(rank, THREADS), 1000)
    alone = begin_training(SHARED, Group(), 1000)
    rates = []
    for _ in range(rounds):
        dist.barrier()
        torch.set_num_threads(1)
        shared = time_steps(together, repeat(own), SHARED_STEPS)
        dist.barrier()
        if rank == 0:
            torch.set_num_threads(THREADS)
            single = time_steps(alone, repeat(whole), SHARED_STEPS)
            rates.append([SHARED.batch / shared, SHARED.batch / single])
    if rank == 0:
        torch.save(torch.tensor(rates), f"{folder}/rates.pt")
    dist.barrier()
    dist.destroy_process_group()


def run_ddp(rounds: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (folder, rounds), nprocs=THREADS)
        rates = torch.load(f"{folder}/rates.pt", weights_only=True)
    two, one = rates.median(0).values.tolist()
    return {
        f"DDP, ResNet-50 of width {SHARED.width}": {
            "2 workers of 1 thread, volumes/s": two,
            "1 worker of 2 threads, volumes/s": one,
            "2 workers / 1 worker": (rates[:, 0] / rates[:, 1]).median().item(),
        }
    }


def run_loader(rounds: int) -> Figures:
    return run_alone(time_loader, rounds)


PARTS: dict[str, Callable[[int], Figures]] = {
    "step": run_step,
    "loader": run_loader,
    "ddp": run_ddp,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training.")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for part in arguments.part or PARTS:
        print_table(PARTS[part](arguments.rounds))


if __name__ == "__main__":
    main()
