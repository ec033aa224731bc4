"""The trials of a sweep: settings, the rows of Tables 2 and 3 by seed, each trial's scores."""

import csv
import io
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from radnet_lake.errors import MissingFileError, SettingError
from radnet_lake.network.resnet import NetworkSettings
from radnet_lake.settings import check_least
from radnet_lake.storage.folder import Folder
from radnet_lake.transfer.sweep.statistics import PLAIN, Setting
from radnet_lake.transfer.train_plan import LiverTrainConfig, SegmenterSettings

SCORES = "scores.csv"
COLUMNS = ("method", "case", "dice", "iou")
SHARED = (
    "init", "decoder_width", "epochs", "batch", "learning_rate", "patience", "precision",
    "channels_last",
)  # fmt: skip
"""Settings that all trials have as the sweep has them; a sweep cannot go on with others."""
FOREIGN = ("medicalnet", "medicalnet_depth")
"""Settings that a sweep may be given later, but not others then."""
STEPS = ("average", "largest")
SHAPE = ("depth", "width", "norm", "encoder", "stem_stride", "standardise")
"""Of the encoder, as LiverTrainConfig has it."""


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """Which rows of Tables 2 and 3 a sweep fills."""

    freezes: str = "all,3,2,1,none,scratch"
    """rows of Table 2: what of the encoder stays as pretrained"""
    shares: str = "1,0.8,0.6,0.4,0.2"
    """rows of Table 3: shares of the training patients, all layers frozen; '': no Table 3"""
    scratch_shares: str = ""
    """shares of the training patients to learn from scratch with, too, as 0.4,0.2: where
    pretraining should matter most"""
    seeds: int = 3
    """trainings of each row: seeds 0, 1, ..."""
    medicalnet: str = ""
    """also start with these weights, a MedicalNet or MONAI file, frozen and not: the MED3D row"""
    medicalnet_depth: int = 18
    """depth of the 3D ResNet of these weights"""

    def list_settings(self) -> list[Setting]:
        """Rows of all tables, in their order."""
        frozen = [Setting(freeze=name) for name in _split(self.freezes)]
        parts = [Setting(share=share) for share in _read_shares("--shares", self.shares)]
        parts += [
            Setting("scratch", share)
            for share in _read_shares("--scratch-shares", self.scratch_shares)
        ]
        foreign = [Setting(freeze=name, encoder="medicalnet") for name in ("all", "none")]
        return list(dict.fromkeys([*frozen, *parts, *(foreign if self.medicalnet else [])]))


@dataclass(frozen=True, kw_only=True)
class LiverSweepConfig(SegmenterSettings, RowSettings):
    """Settings of one sweep. What it does not name is as in `radnet-lake liver train`."""

    out: str
    """folder of the sweep, or s3://bucket/prefix; the same command goes on with it"""
    cases: str = field()  # has to be named
    methods: str = "plain,average,largest,average+largest"
    """how each network is measured; plain is the paper's way"""
    refine: bool = False
    """train a second segmenter for the refining pass where all layers are frozen, and measure it"""
    init: str = ""
    """start encoders with the weights of this run (default: the network that chose the regions)"""
    parallel: int = 0
    """trials at a time (default: one for each CPU, or each GPU with --gpu)"""
    gpu: bool = False
    """one GPU for each trial"""
    retries: int = 2
    """how often to start a trial again whose process was lost"""
    note: str = ""
    """words above tables and pictures, as PHANTOM DATA"""

    def __post_init__(self) -> None:
        check_least(self, seeds=1, parallel=0, retries=0)
        if not self.list_settings():
            raise SettingError("names no row", "--freezes", "give all,3,2,1,none,scratch or some")
        for method in self.list_methods():
            words = method.split("+")
            if method != PLAIN and (len(set(words)) < len(words) or not set(words) <= set(STEPS)):
                remedy = "use plain, average, largest, average+largest; --refine is a flag"
                raise SettingError(f"{method!r} is unknown", "--methods", remedy)
        if self.refine and Setting() not in self.list_settings():
            remedy = "add all to --freezes, or 1 to --shares"
            raise SettingError("refines where all layers are frozen only", "--refine", remedy)
        plan_trials(self)

    def list_methods(self) -> list[str]:
        """Methods of every trial; plain is always among them."""
        # As inference.Method.label writes them.
        named = ["+".join(sorted(name.split("+"))) for name in _split(self.methods)]
        return list(dict.fromkeys([PLAIN, *named]))


class Trial(NamedTuple):
    """One training and what is measured of it. refine: settings of the refining segmenter.

    late: methods that need it.
    """

    name: str
    setting: Setting
    seed: int
    train: LiverTrainConfig
    methods: tuple[str, ...]
    refine: LiverTrainConfig | None
    late: tuple[str, ...]


def plan_trials(config: LiverSweepConfig, shape: NetworkSettings | None = None) -> list[Trial]:
    """All trials, one seed of every row after the other: early tables have all rows.

    shape: of --init, which the network from scratch must have too.
    """
    methods = tuple(config.list_methods())
    shared = {name: getattr(config, name) for name in SHARED}
    trials = []
    for seed in range(config.seeds):
        for setting in config.list_settings():
            own: dict[str, Any] = {"freeze": setting.freeze, "share": setting.share, "seed": seed}
            if setting.encoder == "medicalnet":
                own |= {"init": config.medicalnet, "depth": config.medicalnet_depth}
                own |= {"encoder": "medicalnet", "standardise": True}
            elif setting.freeze == "scratch":
                own |= {"init": ""} | {name: getattr(shape, name) for name in SHAPE if shape}
            name = _name_trial(setting, seed)
            out = f"{config.out}/trials/{name}"
            common = shared | own | {"cases": config.cases, "gpu": config.gpu}
            train = LiverTrainConfig(out=out, **common)
            refine, late = None, list[str]()
            if config.refine and setting == Setting():
                refine = LiverTrainConfig(out=f"{out}-refine", refine=True, **common)
                # Of the paper's way, and of the last: between them is little to learn.
                named = dict.fromkeys((methods[0], methods[-1]))
                late = ["refine" if m == PLAIN else f"{m}+refine" for m in named]
            trials.append(Trial(name, setting, seed, train, methods, refine, tuple(late)))
    return trials


def _name_trial(setting: Setting, seed: int) -> str:
    words = [] if setting.encoder == "radnet" else [setting.encoder]
    words += [setting.freeze] + ([f"{100 * setting.share:g}pc"] if setting.share < 1 else [])
    return "-".join([*words, f"seed{seed}"])


def write_scores(folder: Folder, rows: list[dict[str, Any]]) -> None:
    """Write a trial's scores.csv: rows of COLUMNS, dice and iou as shares."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    folder.write(SCORES, sink.getvalue().encode())


def read_scores(folder: Folder, trial: Trial) -> list[dict[str, Any]]:
    """Rows of a trial in the sweep's folder, of the methods wanted now.

    No row where it is not measured yet, or the file is damaged: then it is measured again.
    """
    wanted = {*trial.methods, *trial.late}
    try:
        text = folder.read(f"trials/{trial.name}/{SCORES}").decode()
        rows = [{name: row[name] for name in COLUMNS} for row in csv.DictReader(io.StringIO(text))]
        numbers = [{name: float(row[name]) for name in ("dice", "iou")} for row in rows]
    except (MissingFileError, ValueError, KeyError, TypeError, csv.Error):
        return []
    numbered = [row | number for row, number in zip(rows, numbers, strict=True)]
    return [row for row in numbered if row["method"] in wanted]


def is_measured(folder: Folder, trial: Trial) -> bool:
    """Whether all methods that are wanted now have scores."""
    return {row["method"] for row in read_scores(folder, trial)} == {*trial.methods, *trial.late}


def _read_shares(flag: str, text: str) -> list[float]:
    try:
        return [float(share) for share in _split(text)]
    except ValueError:
        remedy = "give numbers with commas between"
        raise SettingError(f"{text!r} is no list", flag, remedy) from None


def _split(text: str) -> list[str]:
    return [word for word in text.replace(" ", "").split(",") if word]
