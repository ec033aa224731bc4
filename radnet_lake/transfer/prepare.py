"""CT with masks of an organ -> prepared cases with the windows to segment (3D-RADNet 2.3), on Ray.

One task reads one case, resamples its slices, lets the pretrained network score its windows, and
writes it to the case folder; what makes no case is a row with its reason. Seen = cases + failed +
known. A killed run leaves what it wrote, and the same command does the rest; what failed is tried
again. To make a case anew, delete its files below cases/.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow.compute as pc
import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from radnet_lake.errors import CheckpointError, RadnetLakeError, SettingError
from radnet_lake.lake.log import Lake, open_lake
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.network.checkpoint import build_network, digest_weights
from radnet_lake.network.weights_file import SUFFIX
from radnet_lake.progress import Progress, list_failures, show_nothing
from radnet_lake.ray_cluster import fetch, start_ray
from radnet_lake.settings import name_flag
from radnet_lake.train.config import SPLITS
from radnet_lake.train.run_folder import RunFolder, read_trained_network
from radnet_lake.transfer.case_folder import CASE_REASONS, CaseFolder, CaseSettings
from radnet_lake.transfer.pairs import list_pairs
from radnet_lake.transfer.prepare_worker import prepare_case, start_row
from radnet_lake.transfer.proposal import find_class, format_proposal, measure_proposal
from radnet_lake.transfer.sources import (
    Candidate,
    Listing,
    digest_value,
    find_known,
    list_lake_cases,
    list_lits_cases,
    stream_candidates,
)
from radnet_lake.transfer.windows import THRESHOLD
from radnet_lake.volume.resample import ResampleSettings

WINDOW_MM = 240.0
"""Height of a window: the paper's 48 slices of 5 mm."""
STRIDES = 6
"""Steps from a window to the next that does not overlap it: 48 slices by 8."""
TASK_BYTES = 4 << 30
"""Memory of one case, a long one with 512 x 512 voxels a slice."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """How large the windows of a case are, where they lie, and which are chosen."""

    region_label: str = ""
    """class of the run's coverage that windows are chosen by (default: the organ)"""
    slices: int = 0
    """slices of a window (default: the run's, else 48)"""
    rows: int = 0
    """rows that windows are resized to (default: the run's, else 192)"""
    columns: int = 0
    """columns that windows are resized to (default: the run's, else 192)"""
    spacing_mm: float = 0.0
    """space between the slices of a case (default: 240 / slices, which is 5 of 48)"""
    stride: int = 0
    """slices from a window to the next (default: slices / 6, which is 8 of 48)"""
    threshold: float = THRESHOLD
    """score above which a window is chosen; where none is, the highest is"""


@dataclass(frozen=True, kw_only=True)
class LiverPrepareConfig(WindowSettings):
    """Settings of one preparation. The defaults are the paper's."""

    out: str = field(kw_only=False)
    """folder of the cases, or s3://bucket/prefix"""
    lits: str = ""
    """take the cases of this LiTS folder (volume-N.nii, segmentation-N.nii), on disk or s3://"""
    pairs: str = ""
    """take the cases of this CSV file: image,mask[,label,patient]; an image is a NIfTI file, a
    folder of DICOM files, or a SeriesInstanceUID of --lake"""
    lake: str = ""
    """take the CT series of this lake that a SEG or RTSTRUCT belongs to (default: RADNET_LAKE)"""
    where: str = ""
    """SQL condition over the lake's series, as: collection = 'pacs' (default: all of them)"""
    run: str = ""
    """run that was trained on the lake's labels: its network chooses the windows, its volumes'
    size is the windows' (default: all windows are taken)"""
    organ: str = "liver"
    """name of the organ in SEG and RTSTRUCT objects"""
    seed: int = 0
    """of the split of the patients, 70 : 15 : 15"""

    def __post_init__(self) -> None:
        for name in ("slices", "rows", "columns", "spacing_mm", "stride"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingError(
                    "is no size", name_flag(name), "give more than 0, or leave it out"
                )
        if self.lits and self.pairs:
            raise SettingError("are two sources", "--lits, --pairs", "prepare them one by one")
        if self.where and (self.lits or self.pairs):
            raise SettingError("is for cases of a lake", "--where", "leave it out")

    @property
    def source(self) -> str:
        """lits, pairs or lake."""
        return "lits" if self.lits else "pairs" if self.pairs else "lake"


@dataclass
class LiverPrepareReport:
    """What a preparation did so far. seen = cases + failed + known.

    cases: made now; known: made before. reasons: of what failed. splits: cases of each, once all
    are there. proposal: rows of proposal.csv.
    """

    folder: str
    source: str
    settings: CaseSettings
    seen: int = 0
    known: int = 0
    cases: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    splits: dict[str, int] = field(default_factory=dict)
    proposal: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return self.reasons.total()

    def __str__(self) -> str:
        """The sums that must match, the split, how well windows were chosen."""
        done = self.cases + self.failed
        rate = f", {done / self.seconds:.1f} cases/s" if done else ""
        made = self.settings
        size = "x".join(str(getattr(made.settings, n)) for n in ("slices", "rows", "columns"))
        lines = [
            f"cases     {self.folder}, {self.seconds:.1f} s{rate}",
            f"seen      {self.seen} = {self.cases} cases + {self.failed} failed"
            f" + {self.known} known",
            *list_failures(self.reasons, CASE_REASONS),
            f"split     {', '.join(f'{count} {split}' for split, count in self.splits.items())}",
            f"windows   {size}, slices {made.spacing_mm:g} mm apart, every {made.stride}",
            *format_proposal(self.proposal, made.threshold),
            *(f"warning   {text}" for text in self.warnings),
            f"next      radnet-lake liver train --cases {self.folder} --out RUN",
        ]
        return "\n".join(lines)


def prepare_cases(
    config: LiverPrepareConfig, progress: Progress = show_nothing
) -> LiverPrepareReport:
    """Prepare the cases of a source that the folder lacks; returns the sums.

    Raises SettingError for a wrong setting, a folder of other settings, a source without cases, or
    one of which nothing makes a case (why is in cases.parquet then); CheckpointError for a run
    whose weights cannot be used; LakeError, StoreError. What was written stays.
    """
    started = time.monotonic()
    settings, state = _choose_settings(config)
    folder = CaseFolder(config.out)
    _refuse_changes(folder, settings)
    lake = _open_lake(config)
    listing = _list_candidates(config, lake)
    patients = _find_trained(config.run, lake)
    report = LiverPrepareReport(folder.uri, config.source, settings, len(listing.candidates))
    if listing.orphans:
        report.warnings.append(f"{listing.orphans} masks belong to no image that the lake holds")
    folder.write_settings(settings)
    if state:
        folder.write_network(state)
    finished = {row["case"]: row for row in folder.read_finished()}
    rows = {
        c.name: finished[c.name]
        for c in listing.candidates
        if finished.get(c.name, {}).get("digest") == c.digest
    }
    report.known = len(rows)
    due = [c for c in listing.candidates if c.name not in rows]
    messages = [f"{len(due)} cases to make, {report.known} known"]
    progress(0, len(due), "cases", messages=messages)
    for row in _run_tasks(folder.uri, settings, stream_candidates(lake, due)) if due else ():
        rows[row["case"]] = row
        report.cases += row["reason"] is None
        report.reasons.update([row["reason"]] if row["reason"] else [])
        progress(report.cases + report.failed, len(due), "cases", {"failed": report.failed})
    rows_now = [_describe_patient(rows[c.name], c, patients) for c in listing.candidates]
    _finish(folder, rows_now, report)
    report.seconds = time.monotonic() - started
    return report


def split_patients(patients: Iterable[str], seed: int, before: Mapping[str, str]) -> dict[str, str]:
    """Patient -> train, validation or test, 70 : 15 : 15 (3D-RADNet 2.3: of 131 92, 19, 20).

    Of n patients round(0.7 n) train, floor(0.15 n) validate, the rest tests; of three or more at
    least one validates and one tests, of fewer all train. before: patients keep their split as far
    as it goes; new ones fill what lacks.
    """
    everyone = set(patients)
    kept = {patient: split for patient, split in before.items() if patient in everyone}
    order = sorted(everyone - set(kept), key=lambda name: digest_value((seed, name)))
    n = len(kept) + len(order)
    validation = max(1, int(0.15 * n)) if n > 2 else 0
    test = max(1, n - round(0.7 * n) - validation) if n > 2 else 0
    lacking = Counter({"train": n - validation - test, "validation": validation, "test": test})
    lacking.subtract(kept.values())
    room = [split for split in SPLITS for _ in range(lacking[split])]
    return kept | dict(zip(order, room, strict=False))


def _choose_settings(config: LiverPrepareConfig) -> tuple[CaseSettings, dict[str, Any] | None]:
    """What the cases are made with, and the pretrained network's checkpoint."""
    state, digest = None, ""
    label = config.region_label or config.organ
    base = ResampleSettings()
    if config.run:
        state = read_trained_network(config.run).state
        find_class(build_network(state), label)
        base, digest = _read_size(state, config.run), digest_weights(state)
    chosen = {}
    for name in ("slices", "rows", "columns"):
        size, wanted = getattr(base, name), getattr(config, name)
        if config.run and wanted not in (0, size):
            what = f"the run's network was trained on {size}, not {wanted}"
            raise SettingError(what, name_flag(name), "leave it out, or name another --run")
        chosen[name] = wanted or size
    settings = ResampleSettings(**chosen, clip=base.clip, anti_alias=base.anti_alias)
    stride = config.stride or max(1, settings.slices // STRIDES)
    if stride > settings.slices:
        raise SettingError("leaves gaps", "--stride", f"give at most {settings.slices}")
    spacing_mm = config.spacing_mm or WINDOW_MM / settings.slices
    return CaseSettings(
        config.organ, settings, spacing_mm, stride, config.threshold,
        label if config.run else "", digest, config.source, config.seed,
    ), state  # fmt: skip


def _read_size(state: Mapping[str, Any], run: str) -> ResampleSettings:
    try:
        settings = ResampleSettings(**state["settings"])
        made_for = state["preprocessing"]
    except (KeyError, TypeError, SettingError) as error:
        what = f"its settings cannot be read ({type(error).__name__})"
        raise CheckpointError(what, run, "use another run") from None
    if settings.version() != made_for:
        what = f"it was trained on volumes {made_for}, this program makes {settings.version()}"
        raise SettingError(what, run, "use the radnet_lake that trained it, or train again")
    if settings.pad_to_square:
        remedy = "train on volumes that were made without --pad-to-square"
        raise SettingError("its volumes have margins, which windows cannot have", run, remedy)
    return settings


def _refuse_changes(folder: CaseFolder, settings: CaseSettings) -> None:
    if not folder.is_begun():
        if not folder.folder.is_empty():
            raise SettingError("the folder holds other files", folder.uri, "choose another --out")
        return
    before = folder.read_settings()
    for one in fields(CaseSettings):
        old, new = getattr(before, one.name), getattr(settings, one.name)
        if old != new:
            what = f"its cases were made with {one.name} {old!r}, not {new!r}"
            raise SettingError(what, folder.uri, "repeat that, or choose another --out")


def _open_lake(config: LiverPrepareConfig) -> Lake | None:
    if config.source == "lits" or (config.source == "pairs" and not config.lake):
        return None
    lake = open_lake(config.lake)
    choose_decryptor(lake)  # a missing key is an error before any work
    return lake


def _list_candidates(config: LiverPrepareConfig, lake: Lake | None) -> Listing:
    if config.lits:
        return list_lits_cases(config.lits)
    if config.pairs:
        return list_pairs(config.pairs, lake, config.organ)
    assert lake
    return list_lake_cases(lake, config.organ, config.where)


def _find_trained(run: str, lake: Lake | None) -> set[str] | None:
    """Patients of the run's training split, as the lake names them; None where it is unknown."""
    if not run or not lake or run.endswith(SUFFIX):
        return None
    folder = RunFolder(run)
    series = folder.read_series()
    series = series.filter(pc.equal(series["split"], "train"))
    if known := find_known(lake, series):
        return known
    # Another lake's patients can be compared where both have true names, or the same pseudonyms.
    try:
        other = open_lake(str(folder.read_config().get("lake")))
    except RadnetLakeError:
        return None
    alike = all(other.format.get(key) == lake.format.get(key) for key in ("phi", "key_id"))
    return find_known(other, series) if alike else None


def _run_tasks(out: str, settings: CaseSettings, candidates: Iterable[Candidate]) -> Iterable[Row]:
    """The rows of all candidates, in any order. Whose worker dies is tried once more, alone."""
    start_ray()
    resources = ray.cluster_resources()
    most = min(resources.get("CPU", 1), resources.get("memory", 0) // TASK_BYTES)
    at_once = max(1, int(most))
    prepare = ray.remote(prepare_case).options(num_cpus=1, max_retries=0)
    waiting: dict[Any, Candidate] = {}
    lost: list[Candidate] = []

    def take(limit: int) -> Iterable[Row]:
        while len(waiting) > limit:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            candidate = waiting.pop(done)
            row = _await_row(done)
            if row:
                yield row
            else:
                lost.append(candidate)

    for candidate in candidates:
        yield from take(at_once - 1)
        waiting[prepare.remote(out, settings, candidate)] = candidate
    yield from take(0)
    for candidate in lost:
        row = _await_row(prepare.remote(out, settings, candidate))
        yield row or start_row(candidate) | {"reason": "killed", "detail": "twice, then alone"}


def _await_row(task: Any) -> Row | None:
    """What a task gave; None where its worker died."""
    try:
        row: Row = fetch(task)
    except (WorkerCrashedError, OutOfMemoryError):
        return None
    return row


def _describe_patient(row: Row, candidate: Candidate, trained: set[str] | None) -> Row:
    """The row with the patient and split of today's listing, whenever the case was made."""
    is_comparable = trained is not None and candidate.SeriesInstanceUID is not None
    is_known = candidate.patient in (trained or ()) if is_comparable and not row["reason"] else None
    patient = {"patient": digest_value(candidate.patient), "is_known": is_known}
    return row | patient | {"StudyInstanceUID": candidate.StudyInstanceUID}


def _finish(folder: CaseFolder, rows: list[Row], report: LiverPrepareReport) -> None:
    """Split the cases, measure the proposal, and write both down."""
    made = [row for row in rows if not row["reason"]]
    before = {}
    if folder.exists():
        table = folder.read_cases().select(["patient", "split"]).to_pylist()
        before = {row["patient"]: row["split"] for row in table if row["split"]}
    patients = [row["patient"] for row in made]
    splits = split_patients(patients, report.settings.seed, before)
    for row in made:
        row["split"] = splits[row["patient"]]
    counts = Counter(row["split"] for row in made)
    report.splits = {name: counts[name] for name in SPLITS}
    report.proposal = measure_proposal(made, report.settings.threshold)
    report.warnings += _warn(made, report.settings)
    if report.proposal:
        folder.write_proposal(report.proposal)
    folder.write_cases(rows)
    if not made:
        reasons = ", ".join(f"{n} {reason}" for reason, n in report.reasons.most_common())
        remedy = "the columns reason and detail of cases.parquet say more"
        raise SettingError(f"none of {len(rows)} makes a case: {reasons}", folder.uri, remedy)


def _warn(made: list[Row], settings: CaseSettings) -> list[str]:
    warnings = []
    known = Counter(row["split"] for row in made if row["is_known"])
    if known:
        counts = ", ".join(f"{known[split]} {split}" for split in SPLITS if known[split])
        warnings.append(
            f"the network was trained on patients of {known.total()} cases ({counts}):"
            " results on these cases are optimistic"
        )
    if settings.network and any(row["is_known"] is None for row in made):
        warnings.append(
            "the checkpoint doesn't list its training patients: leakage cannot be excluded"
        )
    n_patients = len({row["patient"] for row in made})
    if 0 < n_patients < len(SPLITS):
        warnings.append(f"of {n_patients} patients all are in train: nothing validates or tests")
    return warnings
