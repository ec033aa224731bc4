"""Settings of every training: classes to inherit, and checks that raise SettingError."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from radnet_lake.errors import SettingError
from radnet_lake.settings import check_choices, name_flag
from radnet_lake.train.run_folder import RunFolder

SPLITS = ("train", "validation", "test")
PRECISIONS = ("fp32", "bf16", "fp16")
NOT_KEPT = ("out", "config", "resume")
"""Settings that config.json does not hold: of the command, not of the run."""
MAY_CHANGE = (
    *NOT_KEPT,
    "lake",
    "cases",
    "workers",
    "elastic",
    "gpu",
    "epochs",
    "patience",
    "retries",
    "checkpoint_minutes",
)
"""Settings that a resumed run may have otherwise than before. lake, cases: they may have moved."""


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """Whether workers have GPUs."""

    gpu: bool = False
    """one GPU for each worker"""


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(GpuSettings):
    """Which network of a run is used, and on what."""

    checkpoint: str = field(default="best", metadata={"choices": ("best", "last")})
    """best: of the lowest validation loss; last: of the last epoch"""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(GpuSettings):
    """The processes that train together."""

    accumulate: int = 1
    """pieces in which a worker takes its part of a batch, if memory is short"""
    workers: int = 1
    """processes that train together (DDP), each with a part of the batch"""
    elastic: int = 0
    """go on with as few workers as this while others are lost (default: wait for all)"""
    compile: bool = False
    """compile the network with torch.compile: minutes at the start, faster steps"""
    sync_norm: bool = False
    """batch normalisation over all workers' parts of a batch; GPUs only"""
    checkpoint_minutes: float = 10.0
    """time between checkpoints within an epoch; 0: only at its end"""
    retries: int = 3
    """how often to start the workers again after one was lost"""


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How weights are changed, and for how long; a sweep has these for each of its trainings."""

    learning_rate: float = 0.001
    """largest learning rate of Adam"""
    patience: int = 0
    """stop after so many epochs in which the validation loss did not fall; 0: never"""
    precision: str = field(default="fp32", metadata={"choices": PRECISIONS})
    """bf16: half the time on new processors and GPUs; fp16: on GPUs without bf16"""
    channels_last: bool = False
    """memory layout that is faster on most processors and GPUs"""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(WorkerSettings, StepSettings):
    """Settings of every training. The defaults are the paper's, where it states them."""

    out: str
    """folder of the run, or s3://bucket/prefix; on a cluster one that all nodes share"""
    resume: bool = False
    """go on with the run in --out, with its settings, from its last checkpoint"""
    init: str = ""
    """start the encoder with these weights: a MedicalNet or MONAI file, or the folder of a run"""
    epochs: int = 30
    """how often all series of the training split are seen"""
    batch: int = 16
    """series of an optimiser step, over all workers"""
    weight_decay: float = 0.0
    """decoupled from the rate of learning (AdamW)"""
    warmup: float = 0.05
    """share of all steps in which the learning rate rises"""
    final_rate: float = 0.01
    """learning rate at the end, as share of the largest, by a cosine; 1: no decay"""
    clip: float = 5.0
    """most that the gradient's norm may be, else it is scaled down; 0: no limit"""
    seed: int = 0
    """of first weights, order and augmentation"""

    @property
    def augment(self) -> bool:
        """Whether volumes change at random."""
        return False

    @classmethod
    def read_defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Flags -> the settings of the run that --resume names, as defaults for the other flags."""
        return read_run_settings(values["out"], cls) if values["resume"] else {}


def check_settings(config: TrainerConfig) -> None:
    """Raise SettingError for the first setting of a training that is wrong.

    Each is as its default, and of `choices` if its metadata have that.
    """
    check_choices(config)
    _check_ranges(config)
    if config.batch < config.workers * config.accumulate:
        what = f"{config.batch} are too few for {config.workers} workers x {config.accumulate}"
        raise SettingError(what, "--batch", "change --batch, --workers or --accumulate")
    if config.elastic > config.workers:
        raise SettingError("is more than --workers", "--elastic", "give fewer")
    if config.precision == "fp16" and not config.gpu:
        raise SettingError("fp16 needs a GPU", "--precision", "use bf16, or --gpu")
    if config.sync_norm and not config.gpu:
        raise SettingError("needs GPUs", "--sync-norm", "use --norm group, or --gpu")


def _check_ranges(config: TrainerConfig) -> None:
    least = {"epochs": 1, "batch": 1, "accumulate": 1, "workers": 1}
    for one in fields(config):
        value = getattr(config, one.name)
        kind = type(one.default) if one.default is not MISSING else str
        kinds = (int, float) if kind is float else (kind,)
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kinds):
            what = f"{value!r} is no {kind.__name__}"
            raise SettingError(what, name_flag(one.name), "correct the settings")
        if isinstance(value, int | float) and not value >= (low := least.get(one.name, 0)):
            raise SettingError(f"{value} is too small", name_flag(one.name), f"give at least {low}")
    if not 0 < config.learning_rate < float("inf"):
        raise SettingError("must be above 0", "--learning-rate", "try 0.001")
    for name in ("warmup", "final_rate"):
        if getattr(config, name) > 1:
            raise SettingError("is a share", name_flag(name), "give 0 to 1")


def read_run_settings(out: str, kind: type) -> dict[str, Any]:
    """A run's folder -> its settings, fields of `kind`. Raises SettingError."""
    run = RunFolder(out)
    return refuse_unknown(run.read_config(), f"{run.uri}/config.json", kind)


def refuse_unknown(values: Any, where: str, kind: Any) -> dict[str, Any]:
    known = {f.name for f in fields(kind)} - set(NOT_KEPT)
    unknown = sorted(set(values) - known) if isinstance(values, dict) else ["it is no object"]
    if unknown:
        remedy = "take them out, or use the radnet_lake and the command that wrote them"
        raise SettingError(f"unknown settings: {', '.join(unknown)}", where, remedy)
    return dict(values)


def refuse_changes(kept: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Raise SettingError that names the first setting that may not differ from the run's."""
    for name, value in kept.items():
        if name not in MAY_CHANGE and name in before and before[name] != value:
            what = f"the run was started with {before[name]!r}, not {value!r}"
            free = [other for other in MAY_CHANGE if other in kept]
            remedy = f"leave it out; others than {', '.join(free)} cannot change"
            raise SettingError(what, name_flag(name), remedy)
