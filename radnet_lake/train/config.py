"""Settings that every training has: takes settings, raises SettingError for what cannot be."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from radnet_lake.errors import SettingError
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


def check_settings(config: Any) -> None:
    """Raise SettingError for the first setting of a training that cannot be: see TrainConfig.

    Each is as its default, and of `choices` if its metadata have that.
    """
    _check_choices(config)
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


def _check_choices(config: Any) -> None:
    for one in fields(config):
        choices = one.metadata.get("choices")
        if choices and (value := getattr(config, one.name)) not in choices:
            remedy = f"use {', '.join(map(str, choices))}"
            raise SettingError(f"{value!r} is unknown", _flag(one.name), remedy)


def _check_ranges(config: Any) -> None:
    least = {"epochs": 1, "batch": 1, "accumulate": 1, "workers": 1}
    for one in fields(config):
        value = getattr(config, one.name)
        kind = type(one.default) if one.default is not MISSING else str
        kinds = (int, float) if kind is float else (kind,)
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kinds):
            what = f"{value!r} is no {kind.__name__}"
            raise SettingError(what, _flag(one.name), "mend the settings")
        if isinstance(value, int | float) and not value >= (low := least.get(one.name, 0)):
            raise SettingError(f"{value} is too small", _flag(one.name), f"give at least {low}")
    if not 0 < config.learning_rate < float("inf"):
        raise SettingError("must be above 0", "--learning-rate", "try 0.001")
    for name in ("warmup", "final_rate"):
        if getattr(config, name) > 1:
            raise SettingError("is a share", _flag(name), "give 0 to 1")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def read_run_settings(out: str, kind: type) -> dict[str, Any]:
    """The settings of the run in `out`, fields of `kind`. Raises SettingError."""
    run = RunFolder(out)
    return _refuse_unknown(run.read_config(), f"{run.uri}/config.json", kind)


def _refuse_unknown(values: Any, where: str, kind: Any) -> dict[str, Any]:
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
            raise SettingError(what, _flag(name), remedy)
