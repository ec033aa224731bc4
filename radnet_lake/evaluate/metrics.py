"""The numbers of Table 1: labels and predictions of the same series in, numbers with intervals out.

Confidence intervals: cluster bootstrap over patients, because series of one patient are correlated.
Each resample is a weight vector, so all resamples are one matrix product. Not
scipy.stats.bootstrap, because it does not resample whole patients.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from radnet_lake.evaluate.bootstrap import TAIL, bound_draws, draw_counts
from radnet_lake.network.heads import Head

PRESENT = 0.5
"""A label of a multi-label head is given from this probability on; it was not tuned."""
BINS = 10
"""Of equal width, for calibration."""
WEIGHTS_AT_ONCE = 4_000_000
"""Resamples times series, 32 MB."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Outcome(NamedTuple):
    """Labels and predictions of n series, for one head.

    truth: kind single: (n,) class index, -1 unknown; multi: (n, classes) 1, 0, or -1 unknown;
    scalar: (n,) mm, NaN unknown. predicted: probabilities (n, classes); scalar: (n,) mm.
    """

    head: Head
    truth: npt.NDArray[Any]
    predicted: Floats


class Number(NamedTuple):
    """One number of Table 1; NaN where it does not exist.

    row: class, or total. measure: accuracy, auc, recall, precision, calibration_error: shares;
    mae_mm, rmse_mm; constant_...: of the best constant answer, which needs no image.
    accuracy of a class: against all others; total of a multi-label head: all labels right.
    samples: series of the class; of a total, series whose label is known. low, high: 95 % interval.
    """

    head: str
    row: str
    measure: str
    samples: int
    value: float
    low: float
    high: float


class Calibration(NamedTuple):
    """For each bin with answers: mean predicted probability, share of correct answers, answers."""

    probabilities: Floats
    shares: Floats
    answers: npt.NDArray[np.int64]

    def error(self) -> float:
        """Expected calibration error: mean distance of probability and share over all answers."""
        if not self.answers.sum():
            return float("nan")
        return float(np.average(abs(self.probabilities - self.shares), weights=self.answers))


class _Measure(NamedTuple):
    """sum(top) / sum(bottom), (n,) each; rmse_mm: the root of that. auc: see _rank."""

    row: str
    name: str
    samples: int
    top: npt.NDArray[Any]
    bottom: Flags


def measure(
    outcomes: Sequence[Outcome], patients: npt.NDArray[np.int64], resamples: int, seed: int
) -> list[Number]:
    """Outcomes of all heads -> the numbers of Table 1, in its order.

    patients: (n,) of whom each series is; equal numbers are drawn together. An interval is NaN
    where resampling tells nothing: for an AUC of exactly 0 or 1, and where fewer than two patients
    count. A share of exactly 0 or 1 has the exact (Clopper-Pearson) bound of as many independent
    series: every resample would say the same, as if nothing could ever go wrong.
    """
    _, patients = np.unique(patients, return_inverse=True)
    numbers = []
    for outcome in outcomes:
        measures = list(_list_measures(outcome))
        drawn = [
            np.stack([_compute(m, weights) for m in measures])
            for weights in _draw_weights(patients, resamples, seed)
        ]
        draws = np.concatenate(drawn, axis=1)  # (measures, resamples)
        once = np.ones((1, len(patients)))
        for m, draw in zip(measures, draws, strict=True):
            value = float(_compute(m, once)[0])
            low, high = _bound(m, value, draw, patients)
            numbers.append(Number(outcome.head.name, m.row, m.name, m.samples, value, low, high))
        if outcome.head.kind != "scalar":
            error = calibrate(outcome).error()
            known = int(find_known(outcome).sum())
            nan = float("nan")
            name = "calibration_error"
            numbers.append(Number(outcome.head.name, "total", name, known, error, nan, nan))
    return numbers


def format_value(value: float | None, is_share: bool, unit: bool = True) -> str:
    """A share in percent or a length in mm with one decimal; "-" for NaN or None."""
    if value is None or math.isnan(value):
        return "-"
    shown = 100 * value if is_share else value
    # Only an exact 100 % is printed as such.
    text = "99.9" if is_share and 99.95 <= shown < 100 else f"{shown:.1f}"
    return text + (" %" if is_share else " mm") * unit


def find_known(outcome: Outcome) -> Flags:
    """(n,): whether the label is known; of a multi-label head, every one."""
    if outcome.head.kind == "scalar":
        return np.isfinite(outcome.truth.astype(np.float64))
    known: Flags = outcome.truth.reshape(len(outcome.truth), -1).min(axis=1) >= 0
    return known


def split_classes(outcome: Outcome) -> Iterator[tuple[str, Flags, Flags, Floats]]:
    """An outcome -> for each class its name, and (n,) each: is known, is the class, probability."""
    for k, name in enumerate(outcome.head.classes):
        if outcome.head.kind == "single":
            yield name, outcome.truth >= 0, outcome.truth == k, outcome.predicted[:, k]
        else:
            yield name, outcome.truth[:, k] >= 0, outcome.truth[:, k] == 1, outcome.predicted[:, k]


def calibrate(outcome: Outcome) -> Calibration:
    """An outcome -> for bins of the predicted probability, how often the prediction is correct.

    Single-label heads: of the predicted class; multi-label heads: of each label by itself.
    """
    known = outcome.truth >= 0
    if outcome.head.kind == "single":
        probability = outcome.predicted.max(axis=1)[known]
        correct = (outcome.predicted.argmax(axis=1) == outcome.truth)[known]
    else:
        probability, correct = outcome.predicted[known], outcome.truth[known] == 1
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)
    answers = np.bincount(bins, minlength=BINS)
    filled = answers > 0
    sums = (np.bincount(bins, weights=values, minlength=BINS) for values in (probability, correct))
    mean_probability, share_correct = (total[filled] / answers[filled] for total in sums)
    return Calibration(mean_probability, share_correct, answers[filled])


def _list_measures(outcome: Outcome) -> Iterator[_Measure]:
    if outcome.head.kind == "scalar":
        yield from _list_distances(outcome)
        return
    chosen = outcome.predicted >= PRESENT
    if outcome.head.kind == "single":
        chosen = np.eye(len(outcome.head.classes), dtype=bool)[outcome.predicted.argmax(axis=1)]
    wrong = np.zeros(len(chosen), dtype=bool)
    for k, (name, known, is_class, probability) in enumerate(split_classes(outcome)):
        is_said, samples = chosen[:, k] & known, int(is_class.sum())
        yield _Measure(name, "accuracy", samples, known & (is_said == is_class), known)
        yield _Measure(name, "auc", samples, np.where(known, probability, np.nan), is_class)
        yield _Measure(name, "recall", samples, is_class & is_said, is_class)
        yield _Measure(name, "precision", samples, is_class & is_said, is_said)
        wrong |= is_said != is_class
    known = find_known(outcome)
    samples = int(known.sum())
    yield _Measure("total", "accuracy", samples, known & ~wrong, known)
    is_commonest = _find_commonest(outcome.truth, known)
    yield _Measure("total", "constant_accuracy", samples, is_commonest, known)


def _list_distances(outcome: Outcome) -> Iterator[_Measure]:
    known = find_known(outcome)
    samples = int(known.sum())
    truth = np.where(known, outcome.truth, 0.0).astype(float)
    middle, mean = (np.median(truth[known]), truth[known].mean()) if samples else (0.0, 0.0)
    for name, predicted, power in (
        ("mae_mm", outcome.predicted, 1),
        ("rmse_mm", outcome.predicted, 2),
        ("constant_mae_mm", middle, 1),
        ("constant_rmse_mm", mean, 2),
    ):
        yield _Measure("total", name, samples, known * abs(predicted - truth) ** power, known)


def _find_commonest(truth: npt.NDArray[Any], known: Flags) -> Flags:
    """(n,): whether the answer is the commonest one; of several labels, all of them together."""
    if not known.any():
        return known
    values, counts = np.unique(truth[known], axis=0, return_counts=True)
    same: Flags = (truth == values[counts.argmax()]).reshape(len(truth), -1).all(axis=1)
    return known & same


def _draw_weights(patients: npt.NDArray[np.int64], resamples: int, seed: int) -> Iterator[Floats]:
    """(some resamples, n): how often each series is drawn, with its patient."""
    rng = np.random.default_rng(seed)
    people = int(patients.max()) + 1
    step = max(1, WEIGHTS_AT_ONCE // len(patients))
    for first in range(0, resamples, step):
        some = min(step, resamples - first)
        yield draw_counts(rng, people, some)[:, patients].astype(np.float64)


def _compute(m: _Measure, weights: Floats) -> Floats:
    """(resamples,): the measure with weights (resamples, n)."""
    with np.errstate(invalid="ignore"):
        if m.name == "auc":
            return _rank(m.top, m.bottom, weights)
        ratio: Floats = (weights @ m.top) / (weights @ m.bottom)
    return np.sqrt(ratio) if m.name.endswith("rmse_mm") else ratio


def _rank(score: Floats, is_class: Flags, weights: Floats) -> Floats:
    """Area under the ROC curve: how often one of the class ranks above one that is not.

    score: NaN where the label is unknown. Ties count half. 19 classes, 1,000 resamples, 316 series:
    0.1 s; sklearn.metrics.roc_auc_score in a loop 50 s.
    """
    order = np.argsort(score)[: np.isfinite(score).sum()]
    if not len(order):
        return np.full(len(weights), np.nan)
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    of_class = np.add.reduceat((weights * is_class)[:, order], starts, axis=1)
    others = np.add.reduceat((weights * ~is_class)[:, order], starts, axis=1)
    below = np.cumsum(others, axis=1) - others / 2
    pairs = of_class.sum(axis=1) * others.sum(axis=1)
    area: Floats = (of_class * below).sum(axis=1) / pairs
    return area


def _bound(
    m: _Measure, value: float, draws: Floats, patients: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """The interval of a measure, as described in `measure`."""
    is_auc, is_whole = m.name == "auc", value in (0.0, 1.0)
    counted = np.unique(patients[m.bottom]).size  # patients
    if is_auc:
        counted = min(counted, np.unique(patients[~m.bottom & np.isfinite(m.top)]).size)
    if is_whole and counted and not is_auc and not m.name.endswith("_mm"):
        reach = float(TAIL ** (1 / m.bottom.sum()))
        return (0.0, 1 - reach) if value == 0 else (reach, 1.0)
    if counted < 2 or (is_auc and is_whole):
        return float("nan"), float("nan")
    return bound_draws(draws[np.isfinite(draws)])
