"""Plan of a pretraining: settings and a lake in; labelled series, weights, provenance out."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from radnet_lake.errors import SettingError
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.settings import locate_lake
from radnet_lake.lake.views import connect
from radnet_lake.network.heads import Head
from radnet_lake.network.resnet import NetworkSettings
from radnet_lake.settings import take_settings
from radnet_lake.storage.sources import absolute_uri
from radnet_lake.train.config import (
    NOT_KEPT,
    SPLITS,
    TrainerConfig,
    check_settings,
    read_run_settings,
    refuse_unknown,
)
from radnet_lake.train.provenance import describe_code
from radnet_lake.train.run_folder import SERIES
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.stream import StreamConfig, VolumeSettings, index_series


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainerConfig, NetworkSettings, VolumeSettings):
    """Settings of one training. The defaults are the paper's, where it states them."""

    config: str = ""
    """take settings from this config.json, as of another run; flags overrule it"""
    preprocessing: str = ""
    """stored volumes to take: a name as in the view volumes, or 24x64x64 (default: the only one)"""
    balance: bool = False
    """rare classes count more: by the inverse square root of their frequency"""
    augment: bool = False
    """change volumes a little at random, in ways that leave all labels true"""

    def __post_init__(self) -> None:
        check_settings(self)
        _ = self.network

    @property
    def network(self) -> NetworkSettings:
        """Shape of the network. Raises SettingError."""
        return take_settings(NetworkSettings, self)

    @classmethod
    def read_defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Flags -> the settings of --config or of the run that --resume names, as defaults."""
        if values["resume"] or not values["config"]:
            return super().read_defaults(values)
        return _read_file(values["config"])


def _read_file(path: str) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"cannot be read ({type(error).__name__})"
        raise SettingError(what, path, "give a config.json as a run has it") from None
    return refuse_unknown(values, path, TrainConfig)


def keep_config(config: TrainConfig) -> dict[str, Any]:
    """Settings -> what config.json holds: all settings of the run."""
    init = config.init and absolute_uri(config.init)
    kept = asdict(replace(config, lake=absolute_uri(locate_lake(config.lake)), init=init))
    return {name: value for name, value in kept.items() if name not in NOT_KEPT}


def resume_config(out: str, **changes: Any) -> TrainConfig:
    """A run's folder -> its settings, to resume it; `changes` of those in MAY_CHANGE."""
    return TrainConfig(**read_run_settings(out, TrainConfig) | changes, out=out, resume=True)


def choose_settings(config: TrainConfig) -> ResampleSettings:
    """Settings -> the preprocessing of the volumes to train on.

    Raises SettingError where the lake does not hold it, or holds several and none was named.
    """
    wanted = config.preprocessing
    if "x" in wanted:
        try:
            slices, rows, columns = map(int, wanted.split("x"))
            return ResampleSettings(slices, rows, columns)
        except ValueError:
            remedy = "write it as 48x192x192"
            raise SettingError(f"{wanted} is no size", "--preprocessing", remedy) from None
    if config.source == "lake" and not wanted:
        return ResampleSettings()
    lake = open_lake(config.lake)
    with connect(lake.uri) as connection:
        query = "select distinct preprocessing from volumes where shard is not null order by all"
        held = [name for (name,) in connection.sql(query).fetchall()]
    if not held:
        remedy = f"run: radnet-lake preprocess --lake {lake.uri}"
        raise SettingError("the lake holds no volumes", lake.uri, remedy)
    if (wanted or len(held) > 1) and wanted not in held:
        what = f"{wanted} is not in the lake" if wanted else "the lake holds several"
        raise SettingError(what, "--preprocessing", f"name one of: {', '.join(held)}")
    name = wanted or held[0]
    record = json.loads(lake.folder.read(f"tensors/{name}/settings.json"))
    settings = ResampleSettings(**record["settings"])
    if settings.version() != name:
        what = f"{name} was made by another version of the preprocessing"
        remedy = "make the volumes again: radnet-lake preprocess"
        raise SettingError(what, "--preprocessing", remedy)
    return settings


def freeze_series(config: TrainConfig, settings: ResampleSettings) -> tuple[pa.Table, int]:
    """Series of all splits with their current labels, as run_folder.SERIES; how many are left out.

    Left out is what has no stored volume. Raises SettingError where the condition is wrong, or none
    of them can be trained on.
    """
    stream = StreamConfig(
        config.lake, split="", where=config.where, source=config.source, settings=settings
    )
    index = index_series(stream)
    rows = index.rows.drop(["shard"]) if "shard" in index.rows.column_names else index.rows
    with connect(config.lake) as connection:
        connection.register("held", rows)
        joined = connection.sql(
            "select h.*, t.split from held as h inner join training_set as t"
            " using (SeriesInstanceUID) order by h.SeriesInstanceUID"
        )
        return joined.to_arrow_table().select(SERIES.names).cast(SERIES), index.left_out


def count_classes(series: pa.Table, heads: tuple[Head, ...]) -> dict[str, dict[str, int]]:
    """Series -> by head and class their number; `unknown` too; of a scalar head `known`."""
    counts = {}
    for head in heads:
        values = series[head.name].to_pylist()
        if head.kind == "scalar":
            known = sum(value is not None for value in values)
            counts[head.name] = {"known": known, "unknown": len(values) - known}
            continue
        if head.kind == "multi":
            by_class = Counter(n for row in values for n, value in enumerate(row) if value == 1)
            by_class[-1] = sum(-1 in row for row in values)
        else:
            by_class = Counter(values)
        counts[head.name] = {name: by_class[n] for n, name in enumerate(head.classes)}
        counts[head.name]["unknown"] = by_class[-1]
    return counts


def weigh_classes(
    counts: Mapping[str, Mapping[str, int]], heads: tuple[Head, ...], balance: bool
) -> tuple[dict[str, list[float]], list[str]]:
    """Counts of the classes in training -> their weights, and warnings of classes without series.

    balance: by the inverse square root of the frequency, so that their mean over the known series
    is 1; of coverage the square root of absent to present, from 1 to 10. Else all weights are 1. A
    class without a series has weight 0. Raises SettingError where no series has any label.
    """
    weights, warnings = {}, []
    for head in heads:
        if head.kind == "scalar":
            continue
        n_series = [counts[head.name][name] for name in head.classes]
        missing = [name for name, n in zip(head.classes, n_series, strict=True) if not n]
        if missing:
            is_all = len(missing) == len(n_series)
            what = "any class" if is_all else ", ".join(missing)
            warnings.append(f"no series to learn {head.name} from: {what}")
        if head.kind == "multi":
            total = counts["spacing"]["known"] + counts["spacing"]["unknown"]
            known = total - counts[head.name]["unknown"]
            ratio = [(max(known - n, 0) / n) ** 0.5 if n else 1.0 for n in n_series]
            weights[head.name] = [min(max(r, 1.0), 10.0) if balance else 1.0 for r in ratio]
            continue
        raw = [(n**-0.5 if balance else 1.0) if n else 0.0 for n in n_series]
        mean = sum(w * n for w, n in zip(raw, n_series, strict=True)) / max(sum(n_series), 1)
        weights[head.name] = [w / (mean or 1.0) for w in raw]
    n_labels = [n for head in heads for name, n in counts[head.name].items() if name != "unknown"]
    if not any(n_labels):
        remedy = "label the lake, or check --where"
        raise SettingError("no series of the training split has a label", "the run", remedy)
    return weights, warnings


def describe_run(
    config: TrainConfig, settings: ResampleSettings, series: pa.Table, heads: tuple[Head, ...]
) -> dict[str, Any]:
    """A run -> its provenance for run.json: enough to repeat it; no paths of files, no patients."""
    lake = open_lake(config.lake)
    split = {name: series.filter(pc.equal(series["split"], name)) for name in SPLITS}
    labels = lake.snapshot.labels
    return {
        "lake": lake.uri,
        "lake_version": lake.snapshot.version,
        "labelled_at": labels["at"],
        "mode": labels["mode"],
        "rule_set": labels["rule_set"],
        "preprocessing": settings.version(),
        "settings": asdict(settings),
        "series": {name: rows.num_rows for name, rows in split.items()},
        "classes": {name: count_classes(rows, heads) for name, rows in split.items()},
        "seed": config.seed,
    } | describe_code()
