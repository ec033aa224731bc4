"""Table of a segmenter: takes outcomes of cases, gives mean and median Dice and IoU with intervals.

For people (Markdown) and for programs (CSV). No patient and no path of an image is named in either.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from radnet_lake.evaluate.bootstrap import bound_draws, draw_counts
from radnet_lake.evaluate.markdown import FEW, NONE, lay_table
from radnet_lake.evaluate.metrics import format_value
from radnet_lake.evaluate.paper import TABLE2, TABLE3, SegmentationScores

Floats = npt.NDArray[np.float64]


class Outcome(NamedTuple):
    """One case by one method; what failed has a reason, and no numbers.

    patient: a digest. dice, iou: over the whole case, on its own grid. organ_ml, found_ml: volume
    of the truth, and of what was found. windows: how many were segmented. missed_share: of the
    organ's voxels, how many lie outside of them; None where there is no organ. is_known: whether
    the pretrained network has learned from the patient, None unknown.
    """

    case: str
    patient: str
    method: str
    dice: float | None = None
    iou: float | None = None
    organ_ml: float | None = None
    found_ml: float | None = None
    windows: int | None = None
    missed_share: float | None = None
    is_known: bool | None = None
    reason: str | None = None
    detail: str | None = None


class Number(NamedTuple):
    """One number of a method: a share, or ml; NaN where it does not exist.

    low, high: 95 % interval. paper: that of the row that fits the run, None without one.
    """

    method: str
    measure: str
    cases: int
    patients: int
    value: float
    low: float
    high: float
    paper: float | None


@dataclass(frozen=True)
class Facts:
    """What the numbers were measured on.

    epoch: after how many, None unknown. init: first weights that the run was given, '' of the
    network of the regions. unprepared: cases of the folder that are in no split, for
    they could not be made. learned: cases whose patients the segmenter learned from, None unknown;
    chose: by whose the best checkpoint was chosen.
    """

    run: str
    checkpoint: str
    epoch: int | None
    organ: str
    freeze: str
    share: float
    init: str
    cases: str
    split: str
    unprepared: int
    learned: int | None
    chose: int
    resamples: int
    seed: int


MEASURES: dict[str, tuple[Callable[[Outcome], float | None], Callable[[Floats], float]]] = {
    "mean_dice": (lambda o: o.dice, lambda v: float(v.mean())),
    "mean_iou": (lambda o: o.iou, lambda v: float(v.mean())),
    "median_dice": (lambda o: o.dice, lambda v: float(np.median(v))),
    "median_iou": (lambda o: o.iou, lambda v: float(np.median(v))),
    "volume_error_ml": (lambda o: _differ(o), lambda v: float(v.mean())),
    "volume_absolute_error_ml": (lambda o: _differ(o), lambda v: float(abs(v).mean())),
    "missed_share": (lambda o: o.missed_share, lambda v: float(v.mean())),
}
"""Name -> what of a case, and how cases make one number."""
PRINTED = ("mean_dice", "mean_iou", "median_dice", "median_iou")


def measure(
    outcomes: Sequence[Outcome], paper: SegmentationScores | None, resamples: int, seed: int
) -> list[Number]:
    """All numbers of each method, in their order. Cases that failed do not count.

    Bootstrap over patients, each with all cases; an interval is NaN for fewer than two patients.
    """
    numbers = []
    for method in dict.fromkeys(o.method for o in outcomes):
        done = [o for o in outcomes if o.method == method and o.reason is None]
        for name, (take, join) in MEASURES.items():
            known = [(o.patient, value) for o in done if (value := take(o)) is not None]
            values = np.array([value for _, value in known], np.float64)
            patients = np.array([patient for patient, _ in known])
            printed = getattr(paper, name, None)
            low, high = _bound(values, patients, join, resamples, seed)
            numbers.append(
                Number(
                    method,
                    name,
                    len(values),
                    len(set(patients)),
                    join(values) if len(values) else math.nan,
                    low,
                    high,
                    None if printed is None else printed / 100,
                )
            )
    return numbers


def find_printed(facts: Facts) -> SegmentationScores | None:
    """The row of the paper's Tables 2 and 3 for what a run froze and learned from, if any."""
    if facts.organ != "liver" or facts.init:
        return None
    if facts.share == 1:
        return TABLE2.get(facts.freeze)
    return TABLE3.get(facts.share) if facts.freeze == "all" else None


def format_csv(rows: Sequence[Outcome] | Sequence[Number]) -> str:
    """One line per row, under the names of its fields; empty where there is nothing."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(rows[0]._fields)
    for row in rows:
        writer.writerow([_to_field(value) for value in row])
    return sink.getvalue()


def format_markdown(outcomes: Sequence[Outcome], numbers: Sequence[Number], facts: Facts) -> str:
    """The numbers of each method with the paper's below, then cases, then how to read it."""
    parts = [
        f"# {facts.organ.capitalize()}: split {facts.split}",
        "\n".join(_describe(outcomes, facts)),
        lay_table(_list_methods(numbers, facts), "lrrrrrrr"),
        "## Cases",
        lay_table(_list_cases(outcomes), "lrrrrrr"),
        "\n".join(_explain(outcomes, numbers, facts)),
    ]
    return "\n\n".join(parts) + "\n"


def rank(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The cases of the last method that have a number, the lowest Dice first."""
    done = [o for o in outcomes if o.method == outcomes[-1].method and o.dice is not None]
    return sorted(done, key=lambda o: (o.dice, o.case))


def _differ(outcome: Outcome) -> float | None:
    if outcome.found_ml is None or outcome.organ_ml is None:
        return None
    return outcome.found_ml - outcome.organ_ml


def _bound(
    values: Floats,
    patients: npt.NDArray[np.str_],
    join: Callable[[Floats], float],
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    names, of_whom = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    drawn = draw_counts(rng, len(names), resamples)[:, of_whom]
    return bound_draws([join(np.repeat(values, counts)) for counts in drawn])


def _to_field(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _describe(outcomes: Sequence[Outcome], facts: Facts) -> list[str]:
    first = [o for o in outcomes if o.method == outcomes[0].method]
    failed = Counter(o.reason for o in first if o.reason)
    known = sum(bool(o.is_known) for o in first)
    n_done, patients = len(first) - failed.total(), len({o.patient for o in first if not o.reason})
    epoch = "" if facts.epoch is None else f", after {facts.epoch} epoch" + "s" * (facts.epoch != 1)
    share = f", {100 * facts.share:g} % of the training patients" if facts.share < 1 else ""
    lines = [
        f"- ours: {n_done} cases of {patients} patients, split {facts.split} of {facts.cases}",
        f"- network: checkpoint {facts.checkpoint} of {facts.run}{epoch}; frozen:"
        f" {facts.freeze}{share}",
    ]
    if failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in failed.most_common())
        lines.append(
            f"- FAILED, and in no number: {failed.total()} of {len(first)} cases ({reasons})"
        )
    if facts.unprepared:
        lines.append(f"- in no split: {facts.unprepared} cases that could not be prepared")
    if facts.learned is None:
        lines.append("- whether the segmenter learned from these patients is not known")
    for count, what in ((facts.learned, "learned from"), (facts.chose, "was chosen by")):
        if count:
            lines.append(f"- NOT A TEST: the segmenter {what} the patients of {count} cases")
    if known:
        lines.append(
            f"- KNOWN TO THE PRETRAINED NETWORK: {known} of these cases are of patients that it"
            " was trained on; results on these cases are optimistic"
        )
    elif any(o.is_known is None for o in first):
        lines.append("- whether the pretrained network knows these patients is not known")
    if facts.init:
        lines.append(
            f"- whether the first weights, of {facts.init}, know these patients is not known"
        )
    if find_printed(facts):
        lines.append("- paper: 20 LiTS cases, other patients, so no like-for-like comparison")
    return lines


def _list_methods(numbers: Sequence[Number], facts: Facts) -> list[list[str]]:
    titles = ["mean Dice", "mean IoU", "median Dice", "median IoU", "volume error, ml"]
    rows = [["method", *titles, "absolute, ml", "missed"]]
    for method in dict.fromkeys(n.method for n in numbers):
        rows.append([method, *(_say(n) for n in numbers if n.method == method)])
    if paper := find_printed(facts):
        printed = (format_value(getattr(paper, name) / 100, True) for name in PRINTED)
        rows.append([f"paper: {paper.title}", *printed, NONE, NONE, NONE])
    return rows


def _say(number: Number) -> str:
    is_share = not number.measure.endswith("_ml")

    value = format_value(number.value, is_share, unit=is_share)
    if math.isnan(number.low):
        return value
    low, high = (format_value(v, is_share, unit=False) for v in (number.low, number.high))
    return f"{value} ({low} to {high})"


def _list_cases(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """The last method's: worst first, then what failed."""
    rows = [["case", "Dice", "IoU", "organ, ml", "found, ml", "windows", "missed"]]
    for o in rank(outcomes):
        shares = (format_value(value, True) for value in (o.dice, o.iou))
        volumes = (format_value(value, False, unit=False) for value in (o.organ_ml, o.found_ml))
        missed = format_value(o.missed_share, True)
        rows.append([o.case, *shares, *volumes, str(o.windows), missed])
    failed = [o for o in outcomes if o.method == outcomes[-1].method and o.reason]
    rows += [[o.case, f"failed: {o.reason}", *[NONE] * 5] for o in failed]
    return rows


def _explain(outcomes: Sequence[Outcome], numbers: Sequence[Number], facts: Facts) -> list[str]:
    patients = numbers[0].patients
    few = " Of so few patients they are too narrow." if patients < FEW else ""
    empty = sum(o.organ_ml == 0 for o in outcomes if o.method == outcomes[0].method)
    lines = [
        "- Dice and IoU of whole cases, on their own grid: what lies outside of the chosen windows"
        " counts as background. Nothing was tuned on this split.",
        f"- In brackets, 95 % intervals: {facts.resamples} bootstrap resamples of {patients}"
        f" patients, each with all cases; seed {facts.seed}.{few}",
        "- volume error: found less truth, mean over cases. missed: share of the organ outside of"
        " the chosen windows, mean over cases.",
        f"- Cases: by {outcomes[-1].method}, the lowest Dice first.",
    ]
    if empty:
        lines.append(
            f"- {empty} cases hold no {facts.organ}: Dice and IoU are 1 where none was found, else"
            " 0."
        )
    return lines
