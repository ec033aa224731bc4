"""Pretraining on Ray: settings in, a run folder with checkpoints and metrics out.

config = TrainConfig(out="run", lake="lake", depth=18, width=16)
report = train(config)
"""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.lake.freshness import warn_if_stale
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.settings import locate_lake
from radnet_lake.network.heads import read_heads
from radnet_lake.progress import Progress, show_nothing
from radnet_lake.ray_cluster import start_event_queue, start_ray
from radnet_lake.storage.sources import absolute_uri
from radnet_lake.train.config import refuse_changes
from radnet_lake.train.loop import GO_BACK, count_steps
from radnet_lake.train.pretrain_plan import (
    TrainConfig,
    choose_settings,
    describe_run,
    freeze_series,
    keep_config,
    resume_config,
    weigh_classes,
)
from radnet_lake.train.pretrain_task import PretrainTask
from radnet_lake.train.ray_train import TrainReport, check_resources, run_workers
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.stream import StreamConfig, locate_series

__all__ = ["TrainConfig", "TrainReport", "resume_config", "train"]


def train(config: TrainConfig, progress: Progress = show_nothing) -> TrainReport:
    """Train a network, or resume a run -> a report; the run's folder holds the results.

    Raises SettingError for a wrong setting, a lake without volumes or labels to learn from, a
    folder that holds a run already; CheckpointError for a damaged last checkpoint; RadnetLakeError
    where loss or gradient are not finite, or the workers fail more often than `retries`; StoreError
    where the folder cannot be written. What the last checkpoint has stays; resume goes on from it.
    """
    # Ray Train gives each worker a working folder of its own.
    init = config.init and absolute_uri(config.init)
    config = replace(config, lake=absolute_uri(locate_lake(config.lake)), init=init)
    run = RunFolder(config.out)
    task, report = _resume(config, run) if config.resume else _start(config, run)
    start_ray()
    check_resources(config)
    task = replace(
        task,
        train=(ray.put(task.train[0]), task.train[1]),
        validation=task.validation and (ray.put(task.validation[0]), task.validation[1]),
        events=start_event_queue(),
    )
    run_workers(task, report, progress)
    return report


def _start(config: TrainConfig, run: RunFolder) -> tuple[PretrainTask, TrainReport]:
    """Write series, labels and settings of a new run into its folder -> its task and report."""
    if run.exists() or run.has_checkpoint("last"):
        remedy = f"go on with it by --resume --out {run.uri}, or name another folder"
        raise SettingError("holds a run already", run.uri, remedy)
    settings = choose_settings(config)
    heads = read_heads()
    series, left_out = freeze_series(config, settings)
    about = describe_run(config, settings, series, heads)
    counts = about["classes"]["train"]
    weights, warnings = weigh_classes(counts, heads, config.balance)
    if left_out:
        remedy = "run: radnet-lake preprocess"
        warnings.append(f"{left_out} series of the training set have no stored volume; {remedy}")
    if stale := warn_if_stale(open_lake(config.lake)):
        warnings.append(stale)
    about |= {"weights": weights, "warnings": warnings}
    task, report = _plan(config, run, about, series)
    run.write_series(series)
    run.write_run(about)
    run.write_config(keep_config(config))
    return task, report


def _resume(config: TrainConfig, run: RunFolder) -> tuple[PretrainTask, TrainReport]:
    """Read a run's folder -> its task and report, with the series and labels of its start."""
    refuse_changes(keep_config(config), run.read_config())
    about = run.read_run()
    if run.has_checkpoint("last"):
        try:
            run.read_checkpoint("last")
        except CheckpointError as error:
            raise CheckpointError(error.what, error.where, GO_BACK) from None
    task, report = _plan(config, run, about, run.read_series())
    run.write_config(keep_config(config))
    return task, report


def _plan(
    config: TrainConfig, run: RunFolder, about: dict[str, Any], series: pa.Table
) -> tuple[PretrainTask, TrainReport]:
    settings = ResampleSettings(**about["settings"])
    stream = StreamConfig(
        config.lake, split="", where=config.where, source=config.source, settings=settings
    )
    rows = locate_series(stream, series)
    if rows.left_out and config.resume:
        what = f"{rows.left_out} of the run's series have no stored volume any more"
        remedy = "make them again: radnet-lake preprocess"
        raise SettingError(what, "--resume", remedy)
    split = {
        name: rows.rows.filter(pc.equal(rows.rows["split"], name)).drop("split").combine_chunks()
        for name in ("train", "validation")
    }
    n_train, n_checked = split["train"].num_rows, split["validation"].num_rows
    if n_train < config.batch:
        what = f"the training split has {n_train} series, fewer than a batch of {config.batch}"
        raise SettingError(what, "--batch", "give a smaller one, or label and preprocess more")
    names = ("lake", "lake_version", "rule_set", "mode", "series", "seed", "radnet_lake", "git")
    # A condition may name patients, and weights are passed on without the run's folder.
    kept = {name: value for name, value in keep_config(config).items() if name != "where"}
    provenance = {name: about[name] for name in names} | {"config": kept}
    task = PretrainTask(
        config=config,
        run=run,
        settings=settings,
        weights=about["weights"],
        train=(split["train"], n_train),
        validation=(split["validation"], n_checked) if n_checked else None,
        about=provenance,
    )
    warnings = list(about["warnings"])
    if not n_checked:
        warnings.append("no series to validate with: the best epoch is that of the training loss")
    steps = count_steps(task)
    report = TrainReport(run.uri, warnings, about["series"], config.epochs, steps, config.batch)
    return task, report
