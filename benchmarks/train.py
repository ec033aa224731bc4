"""Training, timed: the network's step against others' networks of the same size.

    python benchmarks/train.py --part step --rounds 5

Step: CPU seconds, both threads together, of forward and backward of two volumes 48x192x192; by the
clock about half of that where nobody else computes. All that is compared runs in turn in each
round, every other round backwards; ratios are medians of the rounds' own ratios. MONAI's ResNet-50
gets the same strides (its own default is a first stride of 1) and as many outputs; MedicalNet's
design is our encoder `medicalnet`, dilated where the classic one has strides.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from volumes import Figures, print_table, run_alone

from radnet_lake.network import NetworkConfig, RadNet

SHAPE = (48, 192, 192)
BATCH = 2
THREADS = 2
OURS = "ours"

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
    return make_step(RadNet(NetworkConfig(encoder=encoder)).train(), **choices)


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


PARTS: dict[str, Callable[[int], Figures]] = {"step": run_step}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training.")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for part in arguments.part or PARTS:
        print_table(PARTS[part](arguments.rounds))


if __name__ == "__main__":
    main()
