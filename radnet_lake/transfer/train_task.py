"""The segmentation task for the training loop: batches of windows of cases with organ masks.

Windows are cut when they are first needed and then kept in memory, a few megabytes each; the next
batch is made while the network trains on this one. Their order depends on seed and epoch, not on
the number of workers.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radnet_lake.errors import CheckpointError
from radnet_lake.network.dice import DiceObjective
from radnet_lake.network.foreign import load_foreign
from radnet_lake.network.resnet import NetworkSettings
from radnet_lake.network.vnet import Segmenter, describe_segmenter
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.train.step import Batch, Group
from radnet_lake.transfer.case_folder import CaseFolder, CaseSettings
from radnet_lake.transfer.train_plan import Example, LiverTrainConfig
from radnet_lake.transfer.windows import cut_image, cut_mask

MAX_CACHE_BYTES = 4 << 30
"""Of windows, in each worker's memory; windows beyond it are cut again in each epoch."""

Window = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Grey levels and mask of a window, each (D, H, W)."""


@dataclass(eq=False)
class SegmentTask:
    """A segmenter, trained on windows of cases; see loop.TrainTask.

    weights: location of the encoder's initial weights, or ''.
    """

    config: LiverTrainConfig
    run: RunFolder
    cases: str
    settings: CaseSettings
    shape: NetworkSettings
    weights: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    about: dict[str, Any]
    events: Any = None
    group: Group = field(init=False)
    network: Segmenter = field(init=False)
    objective: DiceObjective = field(init=False)
    windows: "_Windows" = field(init=False)
    skipped: Counter[str] = field(init=False, default_factory=Counter)

    @property
    def rows(self) -> tuple[int, int]:
        """Number of windows of the training and of the validation split."""
        return len(self.train), len(self.validation)

    def start(self, group: Group) -> None:
        """Build the network and the objective of this worker."""
        self.group = group
        self.network = Segmenter(self.shape, self.config.decoder_width)
        self.network.freeze(self.config.freeze)
        self.objective = DiceObjective()
        self.windows = _Windows(self)

    def load_weights(self) -> list[str]:
        """Load the encoder's initial weights -> notes on how they matched.

        Raises CheckpointError where some of the encoder's are missing or of another shape.
        """
        if not self.weights:
            return []
        report = load_foreign(self.network.encoder, self.weights)
        lacking = len(report.missing) + len(report.misshapen)
        if lacking:
            what = f"{lacking} weights of the encoder are not in it, or of another shape"
            remedy = "give the depth, the width and the kind of encoder that the file was made for"
            raise CheckpointError(what, self.weights, remedy)
        # The file's heads are not used here: no note about them.
        lines = str(replace(report, unexpected=())).splitlines()
        return [f"--init: {line}" for line in lines]

    def describe(self) -> dict[str, Any]:
        """Network, weights, organ and preprocessing: the part that segmentation needs."""
        return describe_segmenter(self.network, self.settings.organ) | {
            "settings": asdict(self.settings.settings),
            "cases": self.settings.describe(),
            "refine": self.config.refine,
        }

    def stream_training(self, epoch: int, step: int) -> Iterator[Batch]:
        """This worker's parts of all batches from that epoch and step to the end of the run."""
        config, n_rows = self.config, len(self.train)
        rank, workers = self.group.rank, self.group.workers
        own = slice(config.batch * rank // workers, config.batch * (rank + 1) // workers)

        def draw() -> Iterator[Sequence[Example]]:
            for at in range(epoch, config.epochs):
                order = np.random.default_rng([config.seed, at]).permutation(n_rows)
                for n in range(step if at == epoch else 0, n_rows // config.batch):
                    batch = order[n * config.batch : (n + 1) * config.batch]
                    yield [self.train[k] for k in batch[own]]

        return self._load(draw())

    def stream_validation(self) -> Iterator[Batch]:
        """This worker's part of the validation split, each window once."""
        own = self.validation[self.group.rank :: self.group.workers]
        size = max(1, self.config.batch // self.group.workers)
        return self._load(own[n : n + size] for n in range(0, len(own), size))

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
    """A cache of the windows of a run, cut out of its cases when they are first needed."""

    def __init__(self, task: SegmentTask) -> None:
        self.folder, self.settings = CaseFolder(task.cases), task.settings.settings
        self.of_case: dict[str, list[Example]] = {}
        for example in (*task.train, *task.validation):
            self.of_case.setdefault(example.case, []).append(example)
        size = self.settings.slices * self.settings.rows * self.settings.columns
        self.max_windows = max(1, MAX_CACHE_BYTES // (2 * size))
        self.cache: OrderedDict[Example, Window] = OrderedDict()

    def load(self, examples: Sequence[Example]) -> list[Window]:
        """Examples -> grey levels and masks of their windows."""
        return [self._load(example) for example in examples]

    def _load(self, example: Example) -> Window:
        if example not in self.cache:
            case = self.folder.read_case(example.case)
            # Reading is the expensive part: all windows of the case are cut at once.
            for one in self.of_case[example.case]:
                grey = cut_image(case.image, one.region, self.settings)
                self.cache[one] = grey, cut_mask(case.mask, one.region, self.settings)
            self.cache.move_to_end(example)
            while len(self.cache) > self.max_windows:
                self.cache.popitem(last=False)
        return self.cache[example]
