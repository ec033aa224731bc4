"""Numbers of an evaluation -> Table 1 as Markdown and as CSV, beside the paper's numbers."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from radnet_lake.evaluate.markdown import FEW, NONE, lay_table
from radnet_lake.evaluate.metrics import Number, format_value
from radnet_lake.evaluate.paper import SPACING_MM, TABLE1

COLUMNS = ("label", "class", "measure", "samples", "value", "low", "high", "paper", "paper_samples")
MEASURES = ("accuracy", "auc", "recall", "precision")
TITLES = {
    ("coverage", "accuracy"): "coverage, all nine right",
    ("spacing", "mae_mm"): "spacing, mean absolute error",
    ("spacing", "rmse_mm"): "spacing, root-mean-square error",
}
MAX_COLLECTIONS = 8
FLATTERING = {
    "train": "the network was trained on these series",
    "validation": "the best checkpoint was chosen by these series",
}


@dataclass(frozen=True)
class Facts:
    """Facts about an evaluation, printed above its table.

    epoch: after how many, None unknown. series: evaluated; missing: wanted, but without a volume
    now. patients: of the series; unidentified: series without PatientID, whose study stands for the
    patient. unknown: series left out of a head, for their label is unknown. collections: series of
    each. note: the run's own.
    """

    run: str
    checkpoint: str
    epoch: int | None
    lake: str
    split: str
    series: int
    missing: int
    patients: int
    unidentified: int
    resamples: int
    seed: int
    unknown: dict[str, int] = field(default_factory=dict)
    collections: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def is_phantom(self) -> bool:
        """Whether a collection's name says that its images were made by `radnet-lake phantom`."""
        return any("phantom" in name.lower() for name in self.collections)


def format_csv(numbers: Sequence[Number]) -> str:
    """One line per number: shares from 0 to 1, spacing in mm; empty where there is none."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    for n in numbers:
        paper, samples = find_printed(n)
        values = ("" if v is None or math.isnan(v) else f"{v:.6g}" for v in (*n[4:], paper))
        writer.writerow((*n[:4], *values, "" if samples is None else samples))
    return sink.getvalue()


def find_printed(number: Number) -> tuple[float | None, int | None]:
    """The paper's number, in the unit of ours, and its samples; None where it prints none."""
    if number.head == "spacing":
        return SPACING_MM.get(number.measure), None
    row = TABLE1.get((number.head, number.row))
    percent = getattr(row, number.measure, None)
    samples = row.samples if row and percent is not None else None
    return None if percent is None else percent / 100, samples


def format_markdown(numbers: Sequence[Number], facts: Facts) -> str:
    """Numbers and facts -> Table 1 in Markdown: totals, each class as in the paper, notes."""
    by_key = {(n.head, n.row, n.measure): n for n in numbers}
    parts = [
        f"# Table 1: split {facts.split}",
        *_describe(facts),
        lay_table(_list_totals(by_key), "lrlrrrr"),
        _judge(by_key),
        "## By class",
        lay_table(_list_classes(numbers, by_key), "llrrrrrrrrrr"),
        *_explain(facts),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _describe(facts: Facts) -> list[str]:
    warning = (
        "**PHANTOM DATA: images drawn by a program. The numbers show how far training works;"
        " they say nothing about patients.**"
    )
    named = sorted(facts.collections.items(), key=lambda item: -item[1])
    listed = [f"{_clean(name)} {count}" for name, count in named[:MAX_COLLECTIONS]]
    more = [f"{len(named) - MAX_COLLECTIONS} more"] if len(named) > MAX_COLLECTIONS else []
    where = f"split {facts.split} of {facts.lake}"
    lines = [f"- ours: {facts.series} series of {facts.patients} patients, {where}"]
    if named:
        lines.append(f"- collections: {', '.join(listed + more)}")
    if facts.missing:
        lines.append(f"- LEFT OUT: {facts.missing} series of the split have no volume now")
    epoch = "" if facts.epoch is None else f", after {facts.epoch} epoch" + "s" * (facts.epoch != 1)
    lines.append(f"- network: checkpoint {facts.checkpoint} of {facts.run}{epoch}")
    if facts.split in FLATTERING:
        lines.append(f"- NOT A TEST: {FLATTERING[facts.split]}")
    if facts.note:
        lines.append(f"- note: {_clean(facts.note)}")
    lines.append("- paper: 316 series of other patients, so no like-for-like comparison")
    return ([warning] if facts.is_phantom else []) + ["\n".join(lines)]


def _list_totals(by_key: dict[tuple[str, str, str], Number]) -> list[list[str]]:
    rows = [["", "ours", "95 % interval", "paper", "blind", "calibration error", "series"]]
    for number in _find_totals(by_key):
        is_share = number.measure == "accuracy"
        error = by_key.get((number.head, "total", "calibration_error"))
        blind = by_key[number.head, "total", f"constant_{number.measure}"].value
        paper, _ = find_printed(number)
        interval = NONE
        if not math.isnan(number.low):
            low = format_value(number.low, is_share, unit=False)
            interval = f"{low} to {format_value(number.high, is_share)}"
        values = (number.value, paper, blind, error.value if error else None)
        ours, printed, constant, off = (format_value(v, is_share) for v in values)
        rows.append([_name(number), ours, interval, printed, constant, off, str(number.samples)])
    return rows


def _find_totals(by_key: dict[tuple[str, str, str], Number]) -> list[Number]:
    shown = ("accuracy", "mae_mm", "rmse_mm")
    return [n for n in by_key.values() if n.row == "total" and n.measure in shown]


def _name(number: Number) -> str:
    return TITLES.get((number.head, number.measure), f"{number.head}, {number.measure}")


def _judge(by_key: dict[tuple[str, str, str], Number]) -> str:
    """Numbers -> a sentence that names those whose interval holds the constant answer's."""
    poor = []
    for number in _find_totals(by_key):
        blind = by_key[number.head, "total", f"constant_{number.measure}"].value
        is_share = number.measure == "accuracy"
        worst = number.low if is_share else number.high
        worst = number.value if math.isnan(worst) else worst
        if worst <= blind if is_share else worst >= blind:
            poor.append(_name(number))
    return f"**NOT SHOWN TO BE BETTER THAN BLIND: {'; '.join(poor)}.**" if poor else ""


def _list_classes(
    numbers: Sequence[Number], by_key: dict[tuple[str, str, str], Number]
) -> list[list[str]]:
    titles = ["samples", "accuracy", "AUC", "recall", "precision"]
    rows = [["label", "class", *titles, *(f"paper: {titles[0]}", *titles[1:])]]
    last = ""
    for head, row in dict.fromkeys((n.head, n.row) for n in numbers if n.row != "total"):
        cells, printed = [], []
        for name in MEASURES:
            number = by_key[head, row, name]
            paper, samples = find_printed(number)
            cells.append(
                _format_with_interval(number)
                if name in MEASURES[:2]
                else _format_share(number.value)
            )
            printed.append(_format_share(paper))
        printed_samples = NONE if samples is None else str(samples)
        shown = head if head != last else ""
        rows.append([shown, row, str(number.samples), *cells, printed_samples, *printed])
        last = head
    return rows


def _explain(facts: Facts) -> list[str]:
    drawn = f"{facts.patients} patients, each with all series"
    if facts.unidentified:
        drawn += f" ({facts.unidentified} series have no PatientID: their study stands for it)"
    few = " Of so few patients they are too narrow." if facts.patients < FEW else ""
    unknown = ", ".join(f"{head} {count}" for head, count in facts.unknown.items() if count)
    lines = [
        "- Shares in percent. The class of the greatest probability is the answer; of coverage"
        " every class from 0.5 on. Nothing was tuned on this split.",
        "- Accuracy of a class: it against all others. A rare class scores high there even if the"
        " network never finds it; recall says how many it finds.",
        "- blind: what the best answer would score that is the same for every image.",
        f"- 95 % intervals: {facts.resamples} bootstrap resamples of {drawn}; seed {facts.seed}."
        f"{few} If all or none are correct, resampling gives no interval: the exact bound of as"
        f" many independent series. Where there is no interval at all: {NONE}.",
        "- Calibration error: how far the stated probability is from the share that is right.",
        "- The labels are what headers say by rule, not a reader's truth.",
        "- The paper's Table 1 counts 100 series with contrast, 216 without; its Table A3 the other"
        " way round. It prints one contrast accuracy, with both classes.",
    ]
    if unknown:
        lines.insert(0, f"- Left out of a label, where it is unknown: {unknown} series.")
    return ["\n".join(lines)]


def _clean(text: str) -> str:
    """One line, whatever was written."""
    return " ".join(text.split()) or "without a name"


def _format_share(value: float | None) -> str:
    return format_value(value, is_share=True, unit=False)


def _format_with_interval(number: Number) -> str:
    value, low, high = (_format_share(v) for v in (number.value, number.low, number.high))
    return value if low == NONE else f"{value} ({low} to {high})"
