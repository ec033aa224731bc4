"""Evaluation of a segmenter: takes its run and cases, gives Dice and IoU (3D-RADNet 3.2).

Each case is segmented as a whole, on its own grid, by the windows that `liver prepare` chose, and
compared with its truth. Written into RUN/evaluation/<split>/: cases.csv, summary.csv, summary.md,
and outlines of the worst, the median and the best case as PNG. No patient is named in any of them.
"""

import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.exceptions import OutOfMemoryError, RayError, WorkerCrashedError

from radnet_lake.errors import RadnetLakeError, SettingError, StoreError, VolumeError
from radnet_lake.evaluate.evaluate import EvaluationReport, EvaluationSettings
from radnet_lake.evaluate.figures import encode_figure
from radnet_lake.network.dice import measure_overlap
from radnet_lake.network.weights_file import SUFFIX
from radnet_lake.progress import Progress, show_nothing
from radnet_lake.ray_cluster import fetch, start_ray
from radnet_lake.settings import check_choices, check_least
from radnet_lake.train.config import SPLITS
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.transfer.case_folder import CaseFolder, StoredCase, check_alike
from radnet_lake.transfer.inference import (
    Mask,
    Method,
    MethodSettings,
    Models,
    Proposal,
    Trained,
    build_models,
    read_trained,
    segment_image,
    use_threads,
)
from radnet_lake.transfer.overlay import draw_overlay
from radnet_lake.transfer.table import (
    Facts,
    Outcome,
    find_printed,
    format_csv,
    format_markdown,
    measure,
    rank,
)
from radnet_lake.transfer.windows import Region

TRIES = 2
"""At a case whose worker dies."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LiverEvaluateConfig(MethodSettings, EvaluationSettings):
    """Settings of one evaluation."""

    cases: str = ""
    """the folder that `radnet-lake liver prepare` wrote (default: that of the run)"""
    split: str = field(default="test", metadata={"choices": SPLITS})
    """which of the cases"""
    threshold: float = 0.5
    """probability from which on a voxel is the organ's"""
    workers: int = 1
    """cases at a time, each a Ray task; 1: in this process, without Ray"""

    def __post_init__(self) -> None:
        check_least(self, batch=1, workers=1, resamples=100, seed=0)
        check_choices(self)
        if not 0 < self.threshold < 1:
            what = f"{self.threshold} is no probability"
            raise SettingError(what, "--threshold", "give more than 0, less than 1")

    @property
    def methods(self) -> tuple[Method, ...]:
        """The plain way, and, last, the one that is asked for."""
        plain = Method(threshold=self.threshold)
        asked = plain._replace(average=self.average, largest=self.largest, refine=bool(self.refine))
        return tuple(dict.fromkeys((plain, asked)))


@dataclass(frozen=True)
class LiverEvaluateReport(EvaluationReport):
    """What an evaluation found. table: summary.md."""

    facts: Facts


class _Plan(NamedTuple):
    """What is evaluated. table: all rows of the cases; rows: those of the split, by name."""

    trained: Trained
    folder: CaseFolder
    table: list[Row]
    rows: list[Row]


class _Job(NamedTuple):
    """What each worker gets. threads: of torch, 0 as they are; keeps: the last method's mask."""

    trained: Trained
    cases: str
    methods: tuple[Method, ...]
    batch: int
    device: str
    threads: int
    keeps: bool


class _Found(NamedTuple):
    """A case's outcomes, one for each method. mask: the last method's, packed, where it is kept."""

    outcomes: list[Outcome]
    mask: bytes = b""


def evaluate_liver(
    config: LiverEvaluateConfig, progress: Progress = show_nothing
) -> LiverEvaluateReport:
    """Segment the cases of one split, compare with the truth, write the evaluation's files.

    A case that fails has a row with its reason and is in no number.

    Raises SettingError where there is no run, no checkpoint yet, no case in the split, cases that
    do not fit the run, or where all cases fail; CheckpointError where a checkpoint is damaged or
    gives NaN; StoreError.
    """
    started = time.monotonic()
    run, where = RunFolder(config.run), f"evaluation/{config.split}"
    plan = _plan(config)
    found = _evaluate(config, config.methods, plan, True, progress)
    outcomes = [outcome for one in found for outcome in one.outcomes]
    reasons = Counter(outcome.reason for outcome in outcomes)
    if None not in reasons:
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        remedy = "prepare the cases again: radnet-lake liver prepare"
        raise SettingError(f"every case failed: {counts}", plan.folder.uri, remedy)
    # By method, as people read them; cases keep their order.
    outcomes.sort(key=lambda o: [m.label for m in config.methods].index(o.method))
    facts = _gather_facts(config, plan)
    paper = find_printed(facts)
    numbers = measure(outcomes, paper, config.resamples, config.seed)
    table = format_markdown(outcomes, numbers, facts)
    files: dict[str, bytes] = {
        "cases.csv": format_csv(outcomes).encode(),
        "summary.csv": format_csv(numbers).encode(),
        "summary.md": table.encode(),
        **_draw_cases(plan.folder, outcomes, found),
    }
    for name, data in files.items():
        run.folder.write(f"{where}/{name}", data)
    seconds = time.monotonic() - started
    return LiverEvaluateReport(f"{run.uri}/{where}", tuple(files), table, seconds, facts)


def evaluate_methods(
    config: LiverEvaluateConfig, methods: Sequence[Method], progress: Progress = show_nothing
) -> list[Outcome]:
    """Outcomes of each case of a split by each method; its windows are segmented once for all.

    config.average, largest and threshold do not count; config.refine is the run for methods that
    refine. Writes nothing; with one worker it needs no Ray. Raises as evaluate_liver, but failed
    cases are only marked in their outcomes.
    """
    found = _evaluate(config, methods, _plan(config), False, progress)
    return [outcome for one in found for outcome in one.outcomes]


def _plan(config: LiverEvaluateConfig) -> _Plan:
    trained = read_trained(config.run, config.refine, config.checkpoint)
    folder = CaseFolder(config.cases or str(trained.config.get("cases", "")))
    check_alike(folder.read_settings(), trained.cases, folder.uri)
    table = folder.read_cases().to_pylist()
    rows = sorted((row for row in table if row["split"] == config.split), key=lambda r: r["case"])
    if not rows:
        there = Counter(row["split"] for row in table if row["split"])
        available = ", ".join(f"{name} ({count})" for name, count in there.items()) or "none"
        remedy = f"use --split of what there is: {available}"
        raise SettingError(f"there is no case of split {config.split}", folder.uri, remedy)
    # The windows are known already.
    return _Plan(trained._replace(regions=None), folder, table, rows)


def _evaluate(
    config: LiverEvaluateConfig,
    methods: Sequence[Method],
    plan: _Plan,
    keeps: bool,
    progress: Progress,
) -> list[_Found]:
    """All cases, in the order of the plan."""
    device = "cuda" if config.gpu else "cpu"
    job = _Job(plan.trained, plan.folder.uri, tuple(methods), config.batch, device, 0, keeps)
    if config.workers > 1:
        build_models(job.trained)  # what is wrong with it is raised here, not by each worker
        stream = _stream_tasks(job, plan.rows, config.workers)
    else:
        models = build_models(job.trained, job.batch, job.device)
        stream = ((n, _evaluate_case(job, models, row)) for n, row in enumerate(plan.rows))
    found: dict[int, _Found] = {}
    progress(0, len(plan.rows), "cases")
    for n, one in stream:
        found[n] = one
        progress(len(found), len(plan.rows), "cases")
    return [found[n] for n in sorted(found)]


def _evaluate_case(job: _Job, models: Models, row: Row) -> _Found:
    try:
        case = _read_case(CaseFolder(job.cases), row)
        slices = job.trained.cases.settings.slices
        regions = [
            Region((start, 0, 0), (slices, row["rows"], row["columns"])) for start in row["starts"]
        ]
        proposal = Proposal(regions, row["scores"] or [], row["chosen"])
        masks = segment_image(
            case.image, case.steps_mm, models, job.trained.cases, job.methods, proposal
        ).masks
    except VolumeError as error:
        return _fail(job, row, error.reason, error.detail)
    truth = case.mask > 0
    inside = np.zeros(len(truth), bool)
    for place in row["chosen"]:
        inside[regions[place].clip(len(truth))[0]] = True
    organ = int(np.count_nonzero(truth))
    voxel_ml = abs(float(np.linalg.det(case.steps_mm))) / 1000
    outcomes = [
        _start_outcome(row, method)._replace(
            **measure_overlap(mask > 0, truth)._asdict(),
            organ_ml=organ * voxel_ml,
            found_ml=int(np.count_nonzero(mask)) * voxel_ml,
            windows=len(row["chosen"]),
            missed_share=int(np.count_nonzero(truth[~inside])) / organ if organ else None,
        )
        for method, mask in masks.items()
    ]
    return _Found(outcomes, _pack(masks[job.methods[-1]]) if job.keeps else b"")


def _read_case(folder: CaseFolder, row: Row) -> StoredCase:
    """Raises VolumeError for one whose file is not what the table says."""
    try:
        case = folder.read_case(row["case"])
    except SettingError:
        raise VolumeError("vanished", "the case's file") from None
    except StoreError as error:
        raise VolumeError("unreadable", f"the case's file: {error.what}") from None
    if case.image.shape != (row["depth"], row["rows"], row["columns"]):
        raise VolumeError("changed", "the case's file has another size than the table says")
    return case


def _start_outcome(row: Row, method: Method) -> Outcome:
    return Outcome(row["case"], row["patient"], method.label, is_known=row["is_known"])


def _fail(job: _Job, row: Row, reason: str, detail: str) -> _Found:
    failed = (_start_outcome(row, method) for method in job.methods)
    return _Found([one._replace(reason=reason, detail=detail) for one in failed])


def _stream_tasks(job: _Job, rows: list[Row], workers: int) -> Iterator[tuple[int, _Found]]:
    """The cases as Ray tasks, so many at a time, as they end; with the place of each."""
    start_ray()
    resources = ray.cluster_resources()
    gpu = job.device == "cuda"
    if gpu and resources.get("GPU", 0) < 1:
        raise SettingError("the Ray cluster has no GPU", "--gpu", "leave it out")
    cpus = max(1, int(resources.get("CPU", 1)) // workers)
    task = ray.remote(num_cpus=cpus, num_gpus=int(gpu), max_retries=TRIES - 1)(_evaluate_remotely)
    shared_job = ray.put(job._replace(threads=cpus))
    waiting = list(enumerate(rows))[::-1]
    running: dict[Any, tuple[int, Row]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                n, row = waiting.pop()
                running[task.remote(shared_job, row)] = n, row
            (done,), _ = ray.wait(list(running), num_returns=1)
            n, row = running.pop(done)
            try:
                yield n, fetch(done)
            except (WorkerCrashedError, OutOfMemoryError):
                yield n, _fail(job, row, "killed", "its worker died at each try")
    finally:
        for task in running:
            # Else Ray would print what became of it.
            with suppress(RayError):
                ray.cancel(task)
                ray.get(task)


def _evaluate_remotely(job: _Job, row: Row) -> _Found:
    use_threads(job.threads)
    return _evaluate_case(job, build_models(job.trained, job.batch, job.device), row)


def _gather_facts(config: LiverEvaluateConfig, plan: _Plan) -> Facts:
    trained = plan.trained
    learned, chose = _count_seen(plan)
    epoch = (trained.first.get("progress") or {}).get("epoch")
    return Facts(
        run=trained.run,
        checkpoint=config.checkpoint,
        epoch=epoch if isinstance(epoch, int) else None,
        organ=trained.cases.organ,
        freeze=str(trained.config.get("freeze")),
        share=float(trained.config.get("share", 1)),
        init=str(trained.config.get("init") or ""),
        cases=plan.folder.uri,
        split=config.split,
        unprepared=sum(row["reason"] is not None for row in plan.table),
        learned=learned,
        chose=chose,
        resamples=config.resamples,
        seed=config.seed,
    )


def _count_seen(plan: _Plan) -> tuple[int | None, int]:
    """How many of the cases are of patients that the segmenter was trained or selected on.

    None where the checkpoint does not list them. A refining run counts too. Patients are compared,
    because names of cases are unique within one folder only.
    """
    seen: dict[str, set[str]] = {"train": set(), "validation": set()}
    for uri in filter(None, (plan.trained.run, plan.trained.refined_by)):
        if uri.endswith(SUFFIX):
            return None, 0
        run = RunFolder(uri)
        own, table = CaseFolder(str(run.read_config().get("cases", ""))), plan.table
        if own.uri != plan.folder.uri:
            try:
                table = own.read_cases().to_pylist()
            except RadnetLakeError:
                return None, 0
        examples = run.read_run().get("examples") or {}
        for split, patients in seen.items():
            names = {name for name, *_ in examples.get(split, ())}
            patients |= {row["patient"] for row in table if row["case"] in names}
    train, validation = (
        sum(row["patient"] in patients for row in plan.rows) for patients in seen.values()
    )
    return train, validation


def _draw_cases(
    folder: CaseFolder, outcomes: Sequence[Outcome], found: Sequence[_Found]
) -> dict[str, bytes]:
    """PNG files: truth and mask of the worst, the best and the median case."""
    ranked = rank(outcomes)
    masks = {one.outcomes[-1].case: one.mask for one in found}
    files = {}
    last = len(ranked) - 1
    # Of fewer than three cases, each once.
    for place, word in {last // 2: "median", last: "best", 0: "worst"}.items():
        o = ranked[place]
        case = folder.read_case(o.case)
        mask = _unpack(masks[o.case], case.mask.shape)
        title = f"{word} of {len(ranked)} cases, {o.method}: Dice {100 * (o.dice or 0):.1f} %"
        drawn = draw_overlay(
            case.image, {"truth": case.mask, "found": mask}, case.position_mm, case.steps_mm, title
        )
        files[f"{word}.png"] = encode_figure(drawn)
    return files


def _pack(mask: Mask) -> bytes:
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def _unpack(packed: bytes, shape: tuple[int, ...]) -> Mask:
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)
