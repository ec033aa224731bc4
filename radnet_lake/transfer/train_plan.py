"""Plan of a segmenter's training: takes settings and cases, gives examples and first weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from radnet_lake.errors import SettingError
from radnet_lake.network.foreign import read_network_config
from radnet_lake.network.resnet import NORMS, NetworkSettings
from radnet_lake.network.vnet import FREEZE
from radnet_lake.settings import name_flag
from radnet_lake.storage.sources import absolute_uri
from radnet_lake.train.config import NOT_KEPT, StepSettings, TrainerConfig, check_settings
from radnet_lake.transfer.case_folder import CaseFolder, CaseSettings
from radnet_lake.transfer.windows import Region, bound_mask

REGIONS = "regions.pt"
"""In a folder of cases, and in a segmenter's run: the network that proposes regions."""
BOXES = 2
"""Boxes of different margins around each training case's organ, for the refining pass."""
MARGINS = (0.5, 1.5)
"""Of them, shares of the margin: a first mask is never as true as the one learned from."""


@dataclass(frozen=True, kw_only=True)
class SegmenterSettings(StepSettings):
    """What each training of a segmenter has, alone or in a sweep."""

    cases: str = ""
    """the folder that `radnet-lake liver prepare` wrote"""
    decoder_width: int = 16
    """channels of the decoder at half size"""
    epochs: int = 50
    """how often all windows of the training cases are seen"""
    batch: int = 4
    """windows of an optimiser step, over all workers"""


@dataclass(frozen=True, kw_only=True)
class LiverTrainConfig(SegmenterSettings, TrainerConfig):
    """Settings of one training of a segmenter. The defaults are the paper's, where it states them.

    What is not stated of the encoder is as the weights to start with have it.
    """

    freeze: str = field(default="all", metadata={"choices": tuple(FREEZE)})
    """what of the encoder stays as pretrained: all, up to block 3, 2 or 1; none: its weights are
    only where it begins; scratch: not even that"""
    init: str = ""
    """start the encoder with these weights: the folder of a run, or a MedicalNet or MONAI file
    (default: the network that chose the regions)"""
    share: float = 1.0
    """share of the training patients, drawn by seed (Table 3)"""
    refine: bool = False
    """train for the refining pass: on boxes around the organ, not on windows"""
    margin_mm: float = 20.0
    """of these boxes, on each side of the organ, about"""
    depth: int = 0
    """depth of the 3D ResNet (default: that of the weights to start with)"""
    width: int = 0
    """channels of its first layer (default: as the weights)"""
    norm: str = field(default="", metadata={"choices": ("", *NORMS)})
    """normalisation of the encoder (default: as the weights)"""
    encoder: str = ""
    """resnet, or medicalnet: dilated layers 3 and 4 (default: as the weights)"""
    stem_stride: int = 0
    """stride of the first convolution (default: as the weights)"""
    standardise: bool = False
    """zero mean, unit deviation in each window: what MedicalNet's weights want"""
    seed: int = 0
    """of first weights, order, and the share of cases"""

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.share <= 1:
            raise SettingError(
                f"{self.share} is no share", "--share", "give more than 0, at most 1"
            )
        if self.freeze == "scratch" and self.init:
            what = "scratch starts with no weights, --init with some"
            raise SettingError(what, "--freeze", "use none, or leave --init out")


class Example(NamedTuple):
    """A region of a case to learn from."""

    case: str
    region: Region


def keep_liver_config(config: LiverTrainConfig) -> dict[str, Any]:
    """What config.json holds: the settings of the run, all of them."""
    init = config.init and absolute_uri(config.init)
    kept = asdict(replace(config, cases=absolute_uri(config.cases), init=init))
    return {name: value for name, value in kept.items() if name not in NOT_KEPT}


def find_weights(config: LiverTrainConfig, cases: CaseFolder) -> str:
    """Where the encoder's first weights lie; '' of scratch. Raises SettingError without any."""
    if config.freeze == "scratch":
        return ""
    if config.init:
        return absolute_uri(config.init)
    if cases.read_network() is None:
        what = "the cases were prepared without a pretrained network"
        remedy = "name weights by --init, or use --freeze scratch"
        raise SettingError(what, "--freeze", remedy)
    return f"{cases.uri}/{REGIONS}"


def choose_network(config: LiverTrainConfig, cases: CaseFolder) -> NetworkSettings:
    """Shape of the encoder: that of our own weights to start with; else flags rule.

    Without weights, flags change the shape of the network of the regions. Raises SettingError where
    a flag contradicts the weights, CheckpointError for damaged weights.
    """
    names = ("depth", "width", "norm", "encoder", "stem_stride", "standardise")
    flags = {name: value for name in names if (value := getattr(config, name))}
    uri = find_weights(config, cases)
    own = read_network_config(uri) if uri else None
    for name, value in flags.items():
        if own and getattr(own, name) != value:
            what = f"the weights to start with have {name} {getattr(own, name)}, not {value}"
            raise SettingError(what, name_flag(name), "leave it out, or start with other weights")
    if own:
        return own
    state = None if config.init else cases.read_network()
    like = NetworkSettings(**state["network"]) if state else NetworkSettings()
    return replace(like, **flags)


def draw_cases(cases: pa.Table, split: str, share: float = 1.0, seed: int = 0) -> list[str]:
    """Names of a split's cases, or of those of a share of its patients.

    A share are the first of all patients in an order that the seed draws: 20 % are among the 40 %
    of the same seed. As many as the share says, rounded, but at least one.
    """
    rows = [row for row in cases.to_pylist() if row["reason"] is None and row["split"] == split]
    rows.sort(key=lambda row: row["case"])
    if share < 1:
        patients = sorted({row["patient"] for row in rows})
        order = np.random.default_rng(seed).permutation(len(patients))
        drawn = {patients[n] for n in order[: max(1, round(share * len(patients)))]}
        rows = [row for row in rows if row["patient"] in drawn]
    return sorted(row["case"] for row in rows)


def list_examples(
    config: LiverTrainConfig, folder: CaseFolder, settings: CaseSettings, split: str
) -> list[Example]:
    """What there is to learn from, or to validate with: chosen windows, or boxes to refine in."""
    cases = folder.read_cases()
    share = config.share if split == "train" else 1.0
    names = draw_cases(cases, split, share, config.seed)
    rows = {row["case"]: row for row in cases.to_pylist()}
    if config.refine:
        return [one for name in names for one in _list_boxes(config, folder, settings, name, split)]
    return [
        Example(name, Region((rows[name]["starts"][n], 0, 0), _window(rows[name], settings)))
        for name in names
        for n in rows[name]["chosen"]
    ]


def _window(row: Mapping[str, Any], settings: CaseSettings) -> tuple[int, int, int]:
    return settings.settings.slices, row["rows"], row["columns"]


def _list_boxes(
    config: LiverTrainConfig, folder: CaseFolder, settings: CaseSettings, name: str, split: str
) -> list[Example]:
    case = folder.read_case(name)
    margins = [1.0]
    if split == "train":
        seed = [config.seed, *name.encode()]
        margins = np.random.default_rng(seed).uniform(*MARGINS, BOXES).tolist()
    boxes = [
        bound_mask(case.mask, config.margin_mm * share, case.steps_mm, settings.settings)
        for share in margins
    ]
    return [Example(name, box) for box in boxes if box]
