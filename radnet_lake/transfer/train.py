"""Training of a segmenter: takes settings and cases, gives a run folder with checkpoints.

    config = LiverTrainConfig(out="liver", cases="cases", freeze="all")
    report = train_liver(config)

The run's folder is that of a pretraining (run_folder.py), with the network that proposes regions
beside it, so that a segmenter can be used without the cases that it learned from.
"""

from dataclasses import asdict, replace
from typing import Any

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network.checkpoint import encode_checkpoint
from radnet_lake.network.resnet import NetworkSettings
from radnet_lake.progress import Progress, show_nothing
from radnet_lake.ray_cluster import start_event_queue, start_ray
from radnet_lake.storage.sources import absolute_uri
from radnet_lake.train.config import refuse_changes
from radnet_lake.train.loop import GO_BACK, count_steps, run_task
from radnet_lake.train.provenance import describe_code
from radnet_lake.train.ray_train import TrainReport, check_resources, run_workers
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.train.step import Group, stand_alone
from radnet_lake.transfer.case_folder import CaseFolder, check_alike, decode_settings
from radnet_lake.transfer.train_plan import (
    REGIONS,
    Example,
    LiverTrainConfig,
    choose_network,
    draw_cases,
    find_weights,
    keep_liver_config,
    list_examples,
)
from radnet_lake.transfer.train_task import SegmentTask
from radnet_lake.transfer.windows import Region

__all__ = ["LiverTrainConfig", "TrainReport", "train_here", "train_liver"]

SPLITS = ("train", "validation")


def train_liver(config: LiverTrainConfig, progress: Progress = show_nothing) -> TrainReport:
    """Train a segmenter on Ray Train, or go on with it; returns how it went (3D-RADNet 2.3).

    Raises SettingError for a wrong setting, cases that do not fit it, a folder that holds a run
    already; CheckpointError for weights of another network, or a damaged last checkpoint;
    RadnetLakeError where loss or gradient are not finite, or the workers fail more often than
    `retries`; StoreError. What the last checkpoint has stays; resume goes on from it.
    """
    task, report = _prepare(config)
    start_ray()
    check_resources(config)
    run_workers(replace(task, events=start_event_queue()), report, progress)
    return report


def train_here(config: LiverTrainConfig) -> TrainReport:
    """The same in this process alone, as for the trials of a sweep. Raises as train_liver."""
    task, report = _prepare(config)
    run_task(task, stand_alone(config.gpu))
    return report


def _prepare(config: LiverTrainConfig) -> tuple[SegmentTask, TrainReport]:
    run = RunFolder(config.out)
    return _resume(config, run) if config.resume else _start(config, run)


def _start(config: LiverTrainConfig, run: RunFolder) -> tuple[SegmentTask, TrainReport]:
    if run.exists() or run.has_checkpoint("last"):
        remedy = f"go on with it by --resume --out {run.uri}, or name another folder"
        raise SettingError("holds a run already", run.uri, remedy)
    if not config.cases:
        remedy = "name the folder that `radnet-lake liver prepare` wrote"
        raise SettingError("no cases are named", "--cases", remedy)
    config = replace(config, cases=absolute_uri(config.cases))
    folder = CaseFolder(config.cases)
    settings = folder.read_settings()
    examples = {split: list_examples(config, folder, settings, split) for split in SPLITS}
    network, weights = choose_network(config, folder), find_weights(config, folder)
    names = {split: {one.case for one in some} for split, some in examples.items()}
    known = [row["case"] for row in folder.read_cases().to_pylist() if row["is_known"]]
    about: dict[str, Any] = {
        "kind": "segmenter",
        "organ": settings.organ,
        "cases": settings.describe(),
        "network": asdict(network),
        # Of the run's own copy, which stays where the cases are moved.
        "weights": REGIONS if weights == f"{folder.uri}/{REGIONS}" else weights,
        "series": {split: len(some) for split, some in names.items()},
        "examples": {
            split: [[one.case, *one.region.start, *one.region.shape] for one in some]
            for split, some in examples.items()
        },
        "warnings": _warn(config, folder, names, known),
        "seed": config.seed,
    } | describe_code()
    task, report = _plan(config, run, about)
    # Errors in the weights are raised before there is a run.
    trial = replace(task, weights=weights)
    trial.start(Group())
    trial.load_weights()
    if (regions := folder.read_network()) is not None:
        run.folder.write(REGIONS, encode_checkpoint(regions))
    run.write_run(about)
    run.write_config(keep_liver_config(config))
    return task, report


def _resume(config: LiverTrainConfig, run: RunFolder) -> tuple[SegmentTask, TrainReport]:
    kept = keep_liver_config(config)
    refuse_changes(kept, run.read_config())
    about = run.read_run()
    if about.get("kind") != "segmenter":
        what, remedy = "it is no run of a segmenter", "go on with it by: radnet-lake train --resume"
        raise SettingError(what, run.uri, remedy)
    if run.has_checkpoint("last"):
        try:
            run.read_checkpoint("last")
        except CheckpointError as error:
            raise CheckpointError(error.what, error.where, GO_BACK) from None
    task, report = _plan(replace(config, cases=absolute_uri(config.cases)), run, about)
    _refuse_other_cases(task)
    run.write_config(kept)
    return task, report


def _refuse_other_cases(task: SegmentTask) -> None:
    """Raise SettingError where the cases are not those that the run began with."""
    folder = CaseFolder(task.cases)
    check_alike(folder.read_settings(), task.settings, folder.uri)
    planes = {row["case"]: (row["rows"], row["columns"]) for row in folder.read_cases().to_pylist()}
    for name, region in (*task.train, *task.validation):
        ends = [at + size for at, size in zip(region.start[1:], region.shape[1:], strict=True)]
        whole = planes.get(name) or (None, None)
        is_other = None in whole or any(end > size for end, size in zip(ends, whole, strict=True))
        if is_other or (not task.config.refine and region.shape[1:] != whole):
            what = f"case {name} is not the one that the run learned from"
            raise SettingError(what, folder.uri, "name the run's own cases, or train anew")


def _warn(
    config: LiverTrainConfig, folder: CaseFolder, names: dict[str, set[str]], known: list[str]
) -> list[str]:
    warnings = []
    if (
        len(lost := set(draw_cases(folder.read_cases(), "train")) - names["train"])
        and config.share == 1
    ):
        warnings.append(f"{len(lost)} training cases have nothing to learn from")
    if not names["validation"]:
        warnings.append("no case to validate with: the best epoch is that of the training loss")
    if known:
        text = f"{len(known)} cases are of patients that the network of the regions was trained on"
        warnings.append(f"{text}: results on these cases are optimistic")
    return warnings


def _plan(
    config: LiverTrainConfig, run: RunFolder, about: dict[str, Any]
) -> tuple[SegmentTask, TrainReport]:
    where = f"{run.uri}/run.json"
    try:
        settings = decode_settings(about["cases"], where)
        network = NetworkSettings(**about["network"])
        examples = {
            split: tuple(
                Example(name, Region((*box[:3],), (*box[3:],)))
                for name, *box in about["examples"][split]
            )
            for split in SPLITS
        }
        weights, series, warnings = about["weights"], about["series"], list(about["warnings"])
        if weights == REGIONS:
            weights = f"{run.uri}/{REGIONS}"
    except (KeyError, TypeError, ValueError) as error:
        what = f"it describes no run of a segmenter ({type(error).__name__})"
        raise CheckpointError(
            what, where, "restore the file, or train into another folder"
        ) from None
    if len(examples["train"]) < config.batch:
        n = len(examples["train"])
        what = f"the training cases have {n} windows, fewer than a batch of {config.batch}"
        raise SettingError(what, "--batch", "give a smaller one, or prepare more cases")
    names = ("organ", "series", "seed", "radnet_lake", "git")
    kept = {name: about[name] for name in names} | {"config": keep_liver_config(config)}
    task = SegmentTask(
        config=config,
        run=run,
        cases=config.cases,
        settings=settings,
        shape=network,
        weights=weights,
        train=examples["train"],
        validation=examples["validation"],
        about=kept,
    )
    steps = count_steps(task)
    return task, TrainReport(
        run.uri, warnings, series, config.epochs, steps, config.batch,
        unit="cases", measured_by="liver evaluate",
    )  # fmt: skip
