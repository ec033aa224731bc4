"""The grid of Tables 2 and 3 as Ray Tune trials: each trains one segmenter and measures it.

    OUT/sweep.json                          settings that all trials share
    OUT/trials/<name>/                      run folder of a trial, and its scores.csv, written last
    OUT/trials/<name>-refine/               run folder of its refining segmenter
    OUT/tables.md, table2.csv, table3.csv, transfer.csv, extras.csv, dice_by_freeze.png,
        dice_by_share.png, losses.png       of what is done so far, made anew after every trial

A trial runs in one process, with one CPU or GPU. Validation and test cases, and all settings but
those of its row, are the same for all; a share of the training patients is drawn by seed.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback

from radnet_lake.errors import RadnetLakeError, SettingError, StoreError
from radnet_lake.network.foreign import read_network_config
from radnet_lake.progress import Progress, show_nothing
from radnet_lake.ray_cluster import start_ray
from radnet_lake.storage.folder import Folder
from radnet_lake.storage.sources import absolute_uri
from radnet_lake.train.config import SPLITS
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.transfer.case_folder import CaseFolder
from radnet_lake.transfer.evaluate import LiverEvaluateConfig, evaluate_methods
from radnet_lake.transfer.inference import Method
from radnet_lake.transfer.sweep.figures import draw_pictures
from radnet_lake.transfer.sweep.statistics import Score, Setting, gather
from radnet_lake.transfer.sweep.tables import Facts, format_tables
from radnet_lake.transfer.sweep.trials import (
    FOREIGN,
    SHARED,
    LiverSweepConfig,
    Trial,
    is_measured,
    plan_trials,
    read_scores,
    write_scores,
)
from radnet_lake.transfer.sweep.worker import run_trial
from radnet_lake.transfer.train import train_here
from radnet_lake.transfer.train_plan import draw_cases

__all__ = ["LiverSweepConfig", "SweepReport", "sweep_liver"]

LOOK_EVERY_S = 5.0
WRITE_EVERY_S = 20.0
"""Least time between two versions of tables and pictures, which take a second."""
QUIET = {
    # Tables of Ray Tune, its own result files, and its own end at Ctrl-C.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


@dataclass
class SweepReport:
    """How a sweep goes. trials: planned; known: of them measured before this command; done: now.

    failed: trial -> reason. epochs: of trainings, by this command; expected: if none stops early.
    table: tables.md, of what is done.
    """

    out: str
    trials: int = 0
    known: int = 0
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    epochs: int = 0
    expected: int = 0
    table: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        """Tables 2 and 3, then what failed, and where the files are."""
        sums = f"{self.done} measured + {len(self.failed)} failed + {self.known} known"
        lines = [
            self.table,
            f"trials    {self.trials} = {sums}",
            f"written   {self.out}: tables.md, table2.csv, table3.csv, extras.csv, *.png",
            f"took      {self.seconds:.1f} s",
        ]
        if self.failed:
            lines.append("next      put right what failed, then run the same command")
        return "\n".join(lines)


_SAME = (
    "case", "patient", "split", "depth", "rows", "columns", "organ_voxels", "starts", "scores",
    "chosen", "window_organ",
)  # fmt: skip
"""What of a case tells it from one that was prepared otherwise, or of other files."""
Learn = Callable[[Trial], None]
"""Trains a trial, goes on with it if it was begun, and writes its scores."""


def sweep_liver(
    config: LiverSweepConfig, progress: Progress = show_nothing, learn: Learn | None = None
) -> SweepReport:
    """Run all trials that are not measured yet; write tables and pictures after each.

    A trial that fails is reported with its reason, and the others go on. learn: for tests.

    Raises SettingError for a wrong setting, cases that are not prepared, or a folder whose sweep
    has other settings; RadnetLakeError where every trial failed; StoreError.
    """
    started = time.monotonic()
    config = replace(
        config,
        out=absolute_uri(config.out),
        cases=absolute_uri(config.cases),
        init=config.init and absolute_uri(config.init),
        medicalnet=config.medicalnet and absolute_uri(config.medicalnet),
    )
    sweep = _Sweep(config)
    sweep.keep_settings()
    todo = [trial for trial in sweep.trials if not is_measured(sweep.folder, trial)]
    report = sweep.report
    report.known = len(sweep.trials) - len(todo)
    report.expected = sum(config.epochs * (2 if trial.refine else 1) for trial in todo)
    if todo:
        _run_trials(sweep, todo, progress, learn or learn_trial)
    sweep.write_tables()
    report.seconds = time.monotonic() - started
    if report.failed and not report.known + report.done:
        name, reason = next(iter(report.failed.items()))
        raise RadnetLakeError(f"no trial could be measured: {reason}", f"trials/{name}")
    return report


def learn_trial(trial: Trial) -> None:
    """Train and measure a trial, in this process. Raises as train_here, evaluate_methods."""
    folder = Folder(trial.train.out)
    rows: list[dict[str, Any]] = []
    for train, methods in ((trial.train, trial.methods), (trial.refine, trial.late)):
        if train is None:
            continue
        train_here(replace(train, resume=RunFolder(train.out).exists()))
        asked = LiverEvaluateConfig(
            trial.train.out,
            cases=train.cases,
            refine=train.out if train.refine else "",
            gpu=train.gpu,
        )
        outcomes = evaluate_methods(asked, [_read_method(label) for label in methods])
        for failed in (outcome for outcome in outcomes if outcome.reason):
            # All rows of the tables have the same test cases.
            what = f"cannot be measured: {failed.reason}, {failed.detail}"
            remedy = "prepare it again, then give the same command"
            raise RadnetLakeError(what, f"case {failed.case}", remedy)
        rows += [outcome._asdict() for outcome in outcomes]
        # What needs no second segmenter counts, even if that fails.
        write_scores(folder, rows)


def _read_method(label: str) -> Method:
    """The method of a label: Method.label the other way round."""
    return Method(*(step in label.split("+") for step in ("average", "largest", "refine")))


class _Sweep:
    """A sweep's folder, its trials, and how it goes."""

    def __init__(self, config: LiverSweepConfig) -> None:
        self.config, self.folder = config, Folder(config.out)
        cases = CaseFolder(config.cases)
        self.made_with = cases.read_settings()
        self.table = cases.read_cases()
        self.cases = [row for row in self.table.to_pylist() if row["reason"] is None]
        if not any(row["split"] == "test" for row in self.cases):
            remedy = "prepare more cases: radnet-lake liver prepare"
            raise SettingError("no case is of split test", config.cases, remedy)
        shape = read_network_config(config.init) if config.init else None
        self.trials = plan_trials(config, shape)
        self.report = SweepReport(config.out, len(self.trials))

    def keep_settings(self) -> None:
        """Write sweep.json. Raises SettingError where trials were made with other settings."""
        kept = {name: getattr(self.config, name) for name in SHARED}
        digests = [
            self.made_with.describe(),
            sorted([row[key] for key in _SAME] for row in self.cases),
        ]
        kept["cases"] = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
        if self.config.medicalnet:
            kept |= {name: getattr(self.config, name) for name in FOREIGN}
        if "sweep.json" in self.folder.names("sweep.json"):
            before = self._read_settings()
            kept = {name: before[name] for name in FOREIGN if name in before} | kept
            for name, value in kept.items():
                if before.get(name, value if name in FOREIGN else None) != value:
                    what = f"the trials in {self.config.out} have another value"
                    flag = "--" + name.replace("_", "-")
                    raise SettingError(what, flag, "give it again, or name another folder")
        self.folder.write("sweep.json", json.dumps(kept, indent=1).encode())

    def _read_settings(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.folder.read("sweep.json")))
        except (ValueError, TypeError):
            remedy = "sweep into another folder, or delete it if the settings are those of before"
            raise StoreError("is damaged", f"{self.folder.uri}/sweep.json", remedy) from None

    def write_tables(self) -> None:
        """Tables and pictures of what is done so far."""
        patients = {row["case"]: row["patient"] for row in self.cases}
        scores: list[Score] = []
        curves: dict[Setting, dict[int, Any]] = {}
        for trial in self.trials:
            scores += [
                Score(trial.setting, trial.seed, patient=patients.get(row["case"], ""), **row)
                for row in read_scores(self.folder, trial)
            ]
            if rows := RunFolder(trial.train.out).read_metrics().to_pylist():
                curves.setdefault(trial.setting, {})[trial.seed] = rows
        results, facts = gather(scores), self._describe()
        files = format_tables(results, facts)
        self.report.table = files["tables.md"].decode()
        for name, data in (files | draw_pictures(results, curves, facts, self.config.note)).items():
            self.folder.write(name, data)

    def _describe(self) -> Facts:
        counts = {split: sum(row["split"] == split for row in self.cases) for split in SPLITS}
        sizes: dict[Setting, list[int]] = {}
        for t in self.trials:
            names = draw_cases(self.table, "train", t.train.share, t.train.seed)
            sizes.setdefault(t.setting, []).append(len(names))
        c = self.config
        settings = f"{c.epochs} epochs, batch {c.batch}, learning rate {c.learning_rate:g}"
        known = sum(row["split"] == "test" and bool(row["is_known"]) for row in self.cases)
        return Facts(
            organ=self.made_with.organ,
            planned=tuple(c.list_settings()),
            seeds=c.seeds,
            cases=counts,
            trials=len(self.trials),
            done=self.report.known + self.report.done,
            training=f"{settings}, decoder width {c.decoder_width}, {c.precision}",
            known=known,
            unknown=sum(row["split"] == "test" and row["is_known"] is None for row in self.cases),
            init=c.init,
            train_cases={s: (min(n), max(n)) for s, n in sizes.items()},
            failed=self.report.failed,
            notes=(c.note,) if c.note else (),
        )


class _Follow(TrialProgressCallback):  # type: ignore[misc]
    """Keeps the report and the tables as trials go on and end.

    In the place of Ray Tune's own callback, which prints a line for each trial, however quiet.
    """

    def __init__(self, sweep: _Sweep, todo: list[Trial], progress: Progress) -> None:
        self.sweep, self.todo, self.progress = sweep, todo, progress
        self.looked = self.written = time.monotonic()
        self.shown: set[str] = set()
        self.begun = sum(map(_count_epochs, todo))
        self.epochs = {trial.name: _count_epochs(trial) for trial in todo}

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:
        if reason := result.get("failed"):
            self.sweep.report.failed[self._find(trial).name] = reason

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        self._end(self._find(trial))

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        lost = 1 + self.sweep.config.retries
        reason = f"its process was lost {lost} times: memory may be short, try --parallel 1"
        self.sweep.report.failed[self._find(trial).name] = reason
        self._end(self._find(trial))

    def on_step_end(self, *, trials: list[Any], **_: Any) -> None:
        if time.monotonic() - self.looked < LOOK_EVERY_S:
            return
        for trial in trials:
            if trial.status == "RUNNING":
                self._count(self._find(trial))
        self._look()

    def _find(self, trial: Any) -> Trial:
        index: int = trial.config["trial"]
        return self.todo[index]

    def _count(self, trial: Trial) -> None:
        self.epochs[trial.name] = _count_epochs(trial)
        self.sweep.report.epochs = sum(self.epochs.values()) - self.begun

    def _end(self, trial: Trial) -> None:
        self.sweep.report.done += trial.name not in self.sweep.report.failed
        self._count(trial)
        if time.monotonic() - self.written > WRITE_EVERY_S:
            self.sweep.write_tables()
            self.written = time.monotonic()
        self._look()

    def _look(self) -> None:
        self.looked = time.monotonic()
        report = self.sweep.report
        failed = [name for name in report.failed if name not in self.shown]
        self.shown.update(failed)
        self.progress(
            report.epochs,
            report.expected,
            "epochs",
            {"trials": f"{report.done} of {len(self.todo)}", "failed": len(report.failed)},
            [f"FAILED: {name}: {report.failed[name]}" for name in failed],
        )


def _count_epochs(trial: Trial) -> int:
    runs = [RunFolder(train.out) for train in (trial.train, trial.refine) if train]
    return sum(max(run.read_metrics()["epoch"].to_pylist(), default=-1) + 1 for run in runs)


def _run_trials(sweep: _Sweep, todo: list[Trial], progress: Progress, learn: Learn) -> None:
    config = sweep.config
    start_ray()
    kind = "GPU" if config.gpu else "CPU"
    held = int(ray.cluster_resources().get(kind, 0))
    if not held:
        what, remedy = "no GPU is in the Ray cluster", "leave it out, or check the driver"
        raise SettingError(what, "--gpu", remedy)
    os.environ |= QUIET
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="radnet-sweep-") as unused:
        follow = _Follow(sweep, todo, progress)
        report = sweep.report
        due = f"{len(todo)} trials to run, {report.known} known; tables: {report.out}/tables.md"
        progress(0, report.expected, "epochs", messages=[due])
        run = tune.with_parameters(run_trial, trials=todo, learn=learn)
        tune.Tuner(
            tune.with_resources(run, {"CPU": 1} | ({"GPU": 1} if config.gpu else {})),
            param_space={"trial": tune.grid_search(list(range(len(todo))))},
            tune_config=tune.TuneConfig(
                # The next trial needs the same modules: importing them takes seconds.
                reuse_actors=True,
                max_concurrent_trials=min(config.parallel or held, len(todo)),
            ),
            run_config=tune.RunConfig(
                # Our results are files of the sweep's folder: Ray Tune has nothing to store.
                storage_path=unused,
                failure_config=tune.FailureConfig(max_failures=config.retries),
                callbacks=[follow],
                verbose=0,
            ),
        ).fit()
