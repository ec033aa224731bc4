"""A segmenter's training as train/loop.py takes it: windows of cases, with the organ's mask.

Windows are cut when they are first needed and then held in memory, a few megabytes each; the next
batch is made while this one is learned from. Order and parts depend on seed and epoch, not on how
many workers there are.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from radnet_lake.errors import CheckpointError
from radnet_lake.network.checkpoint import describe_segmenter, load_foreign
from radnet_lake.network.dice import DiceObjective
from radnet_lake.network.resnet import NetworkSettings
from radnet_lake.network.vnet import Segmenter
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.train.step import Batch, Group
from radnet_lake.transfer.case_folder import CaseFolder, CaseSettings
from radnet_lake.transfer.train_plan import Example, LiverTrainConfig
from radnet_lake.transfer.windows import cut_image, cut_mask

MOST_HELD_BYTES = 4 << 30
"""Of windows, in each worker's memory; what is more is cut again in each epoch."""

Cut = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Grey levels and mask of a window, each (D, H, W)."""


class Job(NamedTuple):
    """What all workers of a segmenter's training are told. weights: where the first ones lie."""

    config: LiverTrainConfig
    run: RunFolder
    cases: str
    settings: CaseSettings
    network: NetworkSettings
    weights: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    about: dict[str, Any]
    board: Any

    @property
    def rows(self) -> tuple[int, int]:
        """Windows of the training and the validation split."""
        return len(self.train), len(self.validation)

    def begin(self, group: Group) -> "Segmenting":
        """What one worker learns."""
        return Segmenting(self, group)


class Segmenting:
    """See train_worker.Lesson."""

    def __init__(self, job: Job, group: Group) -> None:
        self.job, self.config, self.group = job, job.config, group
        self.network = Segmenter(job.network, job.config.decoder_width)
        self.network.freeze(job.config.freeze)
        self.goal = DiceObjective()
        self.lost: Counter[str] = Counter()
        self.windows = _Windows(job)

    def load_weights(self) -> list[str]:
        """Take the encoder's first weights; what became of them.

        Raises CheckpointError where some of the encoder's are not among them, or of another shape.
        """
        if not self.job.weights:
            return []
        report = load_foreign(self.network, self.job.weights)
        lacking = len(report.missing) + len(report.misshapen)
        if lacking:
            what = f"{lacking} weights of the encoder are not in it, or of another shape"
            remedy = "give the depth, the width and the kind of encoder that the file was made for"
            raise CheckpointError(what, self.job.weights, remedy)
        # Heads are not wanted here: what else the file holds is of no interest.
        lines = str(replace(report, unexpected=())).splitlines()
        return [f"--init: {line}" for line in lines]

    def describe(self) -> dict[str, Any]:
        """Of a checkpoint: what segmentation needs."""
        return describe_segmenter(self.network, self.job.settings.organ) | {
            "settings": asdict(self.job.settings.settings),
            "cases": self.job.settings.describe(),
            "refine": self.config.refine,
        }

    def stream_training(self, epoch: int, step: int) -> Iterator[Batch]:
        """This worker's parts of the batches from there on, of one epoch after the other."""
        config, n_rows = self.config, len(self.job.train)
        rank, workers = self.group.rank, self.group.workers
        own = slice(config.batch * rank // workers, config.batch * (rank + 1) // workers)

        def draw() -> Iterator[Sequence[Example]]:
            for at in range(epoch, config.epochs):
                order = np.random.default_rng([config.seed, at]).permutation(n_rows)
                for n in range(step if at == epoch else 0, n_rows // config.batch):
                    batch = order[n * config.batch : (n + 1) * config.batch]
                    yield [self.job.train[k] for k in batch[own]]

        return self._load(draw())

    def stream_validation(self) -> Iterator[Batch]:
        """This worker's part of the validation split, every window once."""
        own = self.job.validation[self.group.rank :: self.group.workers]
        most = max(1, self.config.batch // self.group.workers)
        return self._load(own[n : n + most] for n in range(0, len(own), most))

    def _load(self, batches: Iterator[Sequence[Example]]) -> Iterator[Batch]:
        device = self.group.device
        with ThreadPoolExecutor(1) as ahead:
            coming = (ahead.submit(self.windows.load, one) for one in batches)
            after = next(coming, None)
            while now := after:
                after = next(coming, None)
                volumes, masks = map(np.stack, zip(*now.result(), strict=True))
                labels = {"mask": torch.from_numpy(masks).to(device)}
                yield Batch(torch.from_numpy(volumes).to(device), labels)


class _Windows:
    """The windows of a run, cut out of its cases and held."""

    def __init__(self, job: Job) -> None:
        self.folder, self.settings = CaseFolder(job.cases), job.settings.settings
        self.of_case: dict[str, list[Example]] = {}
        for example in (*job.train, *job.validation):
            self.of_case.setdefault(example.case, []).append(example)
        size = self.settings.slices * self.settings.rows * self.settings.columns
        self.most = max(1, MOST_HELD_BYTES // (2 * size))
        self.held: OrderedDict[Example, Cut] = OrderedDict()

    def load(self, examples: Sequence[Example]) -> list[Cut]:
        """Grey levels and masks of some windows."""
        return [self._load(example) for example in examples]

    def _load(self, example: Example) -> Cut:
        if example not in self.held:
            case = self.folder.read_case(example.case)
            # Reading costs the most: all windows of the case are cut at once.
            for one in self.of_case[example.case]:
                grey = cut_image(case.image, one.region, self.settings)
                self.held[one] = grey, cut_mask(case.mask, one.region, self.settings)
            self.held.move_to_end(example)
            while len(self.held) > self.most:
                self.held.popitem(last=False)
        return self.held[example]
