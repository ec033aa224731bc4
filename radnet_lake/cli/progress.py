"""How a person watches a run: a progress bar on a terminal, lines in a job log, a summary."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from radnet_lake import schema

if TYPE_CHECKING:
    from radnet_lake.evaluate.evaluate import EvaluateReport
    from radnet_lake.evaluate.predict import PredictReport
    from radnet_lake.harvest.harvest import HarvestReport
    from radnet_lake.train.train import TrainReport
    from radnet_lake.transfer.evaluate import LiverEvaluateReport
    from radnet_lake.transfer.prepare import LiverPrepareReport
    from radnet_lake.transfer.segment import LiverSegmentReport
    from radnet_lake.transfer.sweep.sweep import SweepReport
    from radnet_lake.volume.preprocess import PreprocessReport

LINE_EVERY_S = 10.0


class _Progress:
    """A bar on a terminal, else a line every LINE_EVERY_S: how many, how many a second, ETA."""

    def __init__(self, verb: str, unit: str) -> None:
        self.verb, self.unit = verb, unit
        self.started = self.last_line = time.monotonic()
        is_terminal = sys.stderr.isatty()
        self.bar = tqdm(unit=f" {unit}", desc=verb, smoothing=0.1) if is_terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: int, expected: int | None, notes: Mapping[str, int | str]) -> None:
        """Show how many are done, of how many if that is known, and counts by their names."""
        if self.bar is not None:
            if expected and expected >= done:
                self.bar.total = expected
            self.bar.set_postfix(notes, refresh=False)
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if now - self.last_line < LINE_EVERY_S:
            return
        self.last_line = now
        rate = done / (now - self.started)
        a_second = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        told = "".join(f", {count} {name}" for name, count in notes.items())
        left = f", about {(expected - done) / rate:.0f} s left" if expected and rate else ""
        self.say(f"{done} {self.unit}, {a_second} {self.unit}/s{told}{left}")

    def say(self, text: str) -> None:
        """One line on stderr."""
        tqdm.write(f"{self.verb}: {text}", file=sys.stderr)


class HarvestWatch(_Progress):
    """Called with the sums after each chunk; shows files, files/s, rejects, and the ETA."""

    def __init__(self) -> None:
        super().__init__("harvest", "files")

    def __call__(self, sums: dict[str, int], expected: int | None) -> None:
        """Show the sums; `expected` files, if an earlier run of the same sources tells."""
        notes = {"rejects": sums["rejects"], "known": sums["known"]}
        self.show(sums["files_listed"], expected, notes)


class PreprocessWatch(_Progress):
    """Called with the report as it grows; shows volumes, volumes/s, failures, and the ETA."""

    def __init__(self) -> None:
        super().__init__("preprocess", "volumes")

    def __call__(self, report: "PreprocessReport") -> None:
        """Show the report; its first state says what is to be done."""
        done, due = report.made + report.failed, report.wanted - report.known
        if not done:
            self.started = time.monotonic()
            if report.stale:
                self.say(f"WARNING: {report.stale}")
            self.say(f"{due} volumes to make, {report.known} series known")
        self.show(done, due, {"failed": report.failed})


class PredictWatch(_Progress):
    """Called with the report as it grows; shows series, series/s, failures, and the ETA."""

    def __init__(self) -> None:
        super().__init__("predict", "series")

    def __call__(self, report: "PredictReport") -> None:
        """Show the report; its first state says what is to be done."""
        done, due = report.predicted + report.failed, report.wanted - report.known
        if not done:
            self.started = time.monotonic()
            if report.stale:
                self.say(f"WARNING: {report.stale}")
            told = f"{report.stored} from stored volumes, {due - report.stored} out of the files"
            self.say(f"{due} series to predict, {told}; {report.known} known")
        self.show(done, due, {"failed": report.failed})


class LiverPrepareWatch(_Progress):
    """Called with the report as it grows; shows cases, cases/s, failures, and the ETA."""

    def __init__(self) -> None:
        super().__init__("prepare", "cases")

    def __call__(self, report: "LiverPrepareReport") -> None:
        """Show the report; its first state says what is to be done."""
        done, due = report.cases + report.failed, report.seen - report.known
        if not done:
            self.started = time.monotonic()
            self.say(f"{due} cases to make, {report.known} known")
        self.show(done, due, {"failed": report.failed})


class LiverSegmentWatch(_Progress):
    """Called with the report as it grows; shows series, series/s, failures, and the ETA."""

    def __init__(self) -> None:
        super().__init__("segment", "series")

    def __call__(self, report: "LiverSegmentReport") -> None:
        """Show the report; its first state says what is to be done."""
        done, due = report.segmented + report.failed, report.wanted - report.known
        if not done:
            self.started = time.monotonic()
            self.say(f"{due} series to segment, {report.known} known")
        self.show(done, due, {"failed": report.failed})


class TrainWatch(_Progress):
    """Called with the report as it grows; shows volumes/s, loss, the ETA, and each epoch's end.

    what: of what a split has so many.
    """

    def __init__(self, what: str = "series") -> None:
        super().__init__("train", "volumes")
        self.what = what
        self.seen: TrainReport | None = None
        self.told = self.warned = 0

    def __call__(self, report: "TrainReport") -> None:
        """Show the report; its first state says what is to be done."""
        if self.seen is None:
            counts = ", ".join(f"{n} {split}" for split, n in report.series.items())
            self.say(f"{counts} {self.what}; {report.steps} steps of {report.batch} an epoch")
            self.say("starting workers")
        self.seen = report
        for text in report.warnings[self.warned :]:
            self.say(text if text.startswith("--") else f"WARNING: {text}")
        self.warned = len(report.warnings)
        if report.begun < 0 or report.volumes == report.begun:
            self.started = time.monotonic()
            return
        for row in report.rows[self.told :]:
            self.say(_describe_epoch(row, report.epochs))
        self.told = len(report.rows)
        # What an earlier run of the same folder did has no part in the rate.
        expected = report.epochs * report.steps * report.batch - report.begun
        notes = {"epoch": f"{min(report.epoch + 1, report.epochs)}/{report.epochs}"}
        self.show(report.volumes - report.begun, expected, notes | {"loss": f"{report.loss:.3f}"})


def _describe_epoch(row: dict[str, Any], epochs: int) -> str:
    """A row of metrics.csv in a line."""
    shares = ("accuracy_sequence", "accuracy_view", "accuracy_contrast", "coverage_exact")
    told = [
        f"{name.removeprefix('accuracy_').replace('_', ' ')} {row[name]:.3f}"
        for name in (*shares, "dice", "iou")
        if row.get(name) is not None
    ]
    if row.get("spacing_mae_mm") is not None:
        told.append(f"spacing {row['spacing_mae_mm']:.2f} mm")
    rate = f"{row['volumes_per_s']:.1f} volumes/s"
    head = f"epoch {row['epoch'] + 1}/{epochs} {row['split']:10} loss {row['loss']:.4f}"
    return ", ".join([head, *told, rate])


class EvaluateWatch(_Progress):
    """Called with volumes, or cases, done and expected; shows them, their rate and the ETA."""

    def __init__(self, unit: str = "volumes") -> None:
        super().__init__("evaluate", unit)

    def __call__(self, done: int, expected: int) -> None:
        """Show how many are predicted."""
        self.show(done, expected, {})


class LiverSweepWatch(_Progress):
    """Called with the report as it grows; shows epochs, trials, the ETA, and what fails."""

    def __init__(self) -> None:
        super().__init__("sweep", "epochs")
        self.told: set[str] = set()
        self.is_begun = False

    def __call__(self, report: "SweepReport") -> None:
        """Show the report; its first state says what is to be done."""
        due = report.trials - report.known
        if not self.is_begun:
            self.is_begun = True
            self.started = time.monotonic()
            self.say(f"{due} trials to run, {report.known} known; tables: {report.out}/tables.md")
        for name in report.failed.keys() - self.told:
            self.say(f"FAILED: {name}: {report.failed[name]}")
        self.told |= report.failed.keys()
        told = {"trials": f"{report.done} of {due}", "failed": str(len(report.failed))}
        self.show(report.epochs, report.expected, told)


def print_harvest(report: "HarvestReport") -> None:
    """The closing summary: the sums that must match, the rejects by reason, what to type next."""
    s = report.sums
    rate = s["files_listed"] / report.seconds if report.seconds else 0
    print(f"lake      {report.lake}")
    print(f"run       {report.run_id}, {report.seconds:.1f} s, {rate:.0f} files/s")
    print(f"listed    {s['files_listed']} files, {s['bytes_listed'] / 1e6:.1f} MB", end="")
    print(f", {s['archives']} of them archives" if s["archives"] else "")
    print(
        f"seen      {s['objects_seen']} objects = {s['instances']} instances"
        f" + {s['rejects']} rejects + {s['known']} known"
    )
    print(f"rows      {s['rows']} (one per frame)")
    if s["superseded"]:
        print(f"changed   {s['superseded']} files; their old rows no longer count")
    if s["vanished"]:
        print(f"vanished  {s['vanished']} files; their rows no longer count")
    for reason, count in report.reject_reasons.items():
        print(f"reject    {count:>8}  {reason}")
    if report.words_allowed:
        print(
            f"words     {report.words_allowed} more words occur in 5 patients or more and are kept"
            f" now; {report.files_read_again} objects were read again for them"
        )
    print(f'next      radnet-lake query --lake {report.lake} "from runs"')


def print_preprocess(report: "PreprocessReport") -> None:
    """The closing summary: the sums that must match, failures by reason, what to type next."""
    r = report
    done = r.made + r.failed
    rate = f", {done / r.seconds:.1f} volumes/s" if done else ""
    print(f"lake      {r.lake}")
    print(f"volumes   tensors/{r.preprocessing}, {r.seconds:.1f} s{rate}")
    print(f"wanted    {r.wanted} series = {r.made} made + {r.failed} failed + {r.known} known")
    if r.made:
        print(f"stored    {r.size_bytes / 1e6:.1f} MB")
    for reason, count in r.reasons.most_common():
        print(f"failed    {count:>8}  {reason}: {schema.VOLUME_REASONS[reason]}")
    if r.passing:
        print(f"passing   {r.passing} of these are tried again next time; where files changed or")
        print("          are gone for good, harvest again, with --prune")
    if r.known_failed:
        print(f"known     {r.known_failed} of these failed before; --retry tries them again")
    if r.failed > r.passing:
        print("excluded  by the next radnet-lake label: until then training_set lists what failed")
    if r.failed > r.passing or r.stale:
        print(f"next      radnet-lake label --lake {r.lake}")
    else:
        print(f'next      radnet-lake query --lake {r.lake} "from volumes limit 5"')


def print_train(report: "TrainReport", after: str = "evaluate") -> None:
    """The closing summary: where it stopped, what was best, what to type next."""
    r = report
    print(f"run       {r.run}")
    done = f"{r.epoch} of {r.epochs} epochs"
    early = "" if r.epoch >= r.epochs else ", stopped early: the validation loss did not fall"
    print(f"trained   {done}, {r.seconds:.1f} s{early}")
    print(f"best      epoch {r.best_epoch + 1}: checkpoints/best.pt")
    for text in r.warnings:
        if not text.startswith("--"):
            print(f"warning   {text}")
    print(f"next      radnet-lake {after} {r.run} --split validation")


def print_evaluate(report: "EvaluateReport | LiverEvaluateReport") -> None:
    """The table, then where the files are."""
    print(report.table)
    print(f"written   {report.folder}: {', '.join(report.files)}")
    print(f"took      {report.seconds:.1f} s")


def print_predict(report: "PredictReport") -> None:
    """The closing summary: the sums that must match, failures by reason, what to type next."""
    r = report
    done = r.predicted + r.failed
    rate = f", {done / r.seconds:.1f} series/s" if done else ""
    print(f"lake      {r.lake}")
    print(f"network   {r.checkpoint}, {r.seconds:.1f} s{rate}")
    print(f"wanted    {r.wanted} series = {r.predicted} predicted + {r.failed} failed", end="")
    print(f" + {r.known} known")
    for reason, count in r.reasons.most_common():
        print(f"failed    {count:>8}  {reason}: {schema.VOLUME_REASONS[reason]}")
    if r.known_failed:
        print(f"known     {r.known_failed} of these failed before; --retry tries them again")
    print(f'next      radnet-lake query --lake {r.lake} "from audit limit 20"')


def print_liver_segment(report: "LiverSegmentReport") -> None:
    """The closing summary: the sums that must match, failures by reason, where to look."""
    # It needs torch, which other commands do without.
    from radnet_lake.transfer.case_folder import CASE_REASONS

    r = report
    done = r.segmented + r.failed
    rate = f", {done / r.seconds:.2f} series/s" if done else ""
    print(f"masks     {r.folder}, {r.organ}, {r.seconds:.1f} s{rate}")
    print(f"wanted    {r.wanted} = {r.segmented} segmented + {r.failed} failed + {r.known} known")
    if r.empty:
        print(f"empty     {r.empty} of these have no voxel of it, so no SEG")
    if r.noted:
        print(f"notes     of {r.noted} in the column notes")
    for reason, count in r.reasons.most_common():
        print(f"failed    {count:>8}  {reason}: {CASE_REASONS[reason]}")
    print(f"table     {r.folder}/segments.csv")


def print_liver_prepare(report: "LiverPrepareReport") -> None:
    """The closing summary: the sums that must match, the split, how well windows were chosen."""
    # It needs torch, which other commands do without.
    from radnet_lake.transfer.case_folder import CASE_REASONS

    r = report
    done = r.cases + r.failed
    rate = f", {done / r.seconds:.1f} cases/s" if done else ""
    size = "x".join(str(getattr(r.settings.settings, n)) for n in ("slices", "rows", "columns"))
    print(f"cases     {r.folder}, {r.seconds:.1f} s{rate}")
    print(f"seen      {r.seen} = {r.cases} cases + {r.failed} failed + {r.known} known")
    for reason, count in r.reasons.most_common():
        print(f"failed    {count:>8}  {reason}: {CASE_REASONS[reason]}")
    print(f"split     {', '.join(f'{count} {split}' for split, count in r.splits.items())}")
    print(f"windows   {size}, slices {r.settings.spacing_mm:g} mm apart, every {r.settings.stride}")
    if r.proposal:
        groups = f"{'whole organ in it':>22}{'some of it in it':>22}{'organ':>11}"
        print(f"proposal{'windows':>22}{'picked':>9}{groups}")
        words = (*("recall", "precision") * 2, "covered")
        print(f"{'':39}{''.join(f'{word:>11}' for word in words)}")
    for row in r.proposal:
        shares = [row[f"{n}_{m}"] for n in ("whole", "any") for m in ("recall", "precision")]
        told = [*shares, row["organ_share"]]
        cells = "".join(f"{'-' if v is None else f'{v:.3f}':>11}" for v in told)
        rule = f"> {r.settings.threshold:g}" if row["rule"] == "above" else "or highest"
        name = f"{row['patients'].replace('_', ' ')}, {rule}"
        print(f"  {name:21}{row['windows']:>7}{row['picked']:>9}{cells}")
    for text in r.warnings:
        print(f"warning   {text}")
    print(f"next      radnet-lake liver train --cases {r.folder} --out RUN")


def print_liver_sweep(report: "SweepReport") -> None:
    """Tables 2 and 3, then what failed, and where the files are."""
    r = report
    print(r.table)
    print(f"trials    {r.trials} = {r.done} measured + {len(r.failed)} failed + {r.known} known")
    print(f"written   {r.out}: tables.md, table2.csv, table3.csv, extras.csv, *.png")
    print(f"took      {r.seconds:.1f} s")
    if r.failed:
        print("next      mend what failed, then run the same command")
