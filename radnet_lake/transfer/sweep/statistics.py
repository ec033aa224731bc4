"""The numbers of Tables 2 and 3: Dice and IoU over cases and seeds, their intervals, differences.

All settings of a sweep are measured on the same test cases, so that differences are taken case by
case: what makes a case hard for both falls out.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from radnet_lake.evaluate.bootstrap import bound_draws, draw_counts

PLAIN = "plain"
"""The paper's way: chosen windows, no step beyond."""
RESAMPLES = 2000

Floats = npt.NDArray[np.float64]


class Setting(NamedTuple):
    """What a network was trained with, seeds apart: a row of a table.

    freeze: as `liver train --freeze`; share: of the training patients; encoder: radnet, the
    pretrained network's, or medicalnet, foreign weights.
    """

    freeze: str = "all"
    share: float = 1.0
    encoder: str = "radnet"


class Score(NamedTuple):
    """One test case as one trained network finds it by one method. dice, iou: shares."""

    setting: Setting
    seed: int
    method: str
    case: str
    patient: str
    dice: float
    iou: float


class Result(NamedTuple):
    """One setting by one method. dice, iou: (seeds, cases), shares; patients: (cases,).

    left_out: cases that not every seed has a number for.
    """

    seeds: tuple[int, ...]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    dice: Floats
    iou: Floats
    left_out: int


class Summary(NamedTuple):
    """Percent, means over seeds of the mean or median over cases.

    low, high: 95 % interval of the mean Dice over patients, the seeds as they are; spread: standard
    deviation of the seeds' mean Dice. NaN where one patient or one seed cannot tell.
    """

    seeds: int
    cases: int
    patients: int
    mean_dice: float
    low: float
    high: float
    spread: float
    mean_iou: float
    median_dice: float
    median_iou: float


class Difference(NamedTuple):
    """Mean Dice of one less that of another, points of percent, over the seeds and cases of both.

    low, high: 95 % interval, patients and seeds drawn anew. by_seed: of each seed. better: share of
    the cases (mean over seeds) in which the one is ahead.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    cases: int
    better: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero; False where there is none."""
        return self.low > 0 or self.high < 0


Results = dict[tuple[Setting, str], Result]
"""By setting and method."""


def gather(scores: Iterable[Score]) -> Results:
    """Scores as matrices of seeds and cases, of the cases that every seed has a number for."""
    gathered: dict[tuple[Setting, str], dict[int, dict[str, Score]]] = defaultdict(dict)
    for one in scores:
        gathered[one.setting, one.method].setdefault(one.seed, {})[one.case] = one
    results = {}
    for key, by_seed in gathered.items():
        has = [
            {case for case, one in rows.items() if math.isfinite(one.dice + one.iou)}
            for rows in by_seed.values()
        ]
        seeds, cases = tuple(sorted(by_seed)), tuple(sorted(set.intersection(*has)))
        if not cases:
            continue
        rows = [[by_seed[seed][case] for case in cases] for seed in seeds]
        every = {case for some in by_seed.values() for case in some}
        results[key] = Result(
            seeds,
            cases,
            tuple(one.patient for one in rows[0]),
            np.array([[one.dice for one in row] for row in rows]),
            np.array([[one.iou for one in row] for row in rows]),
            len(every) - len(cases),
        )
    return results


def summarise(result: Result, seed: int = 0) -> Summary:
    """The numbers of one row. seed: of the resamples."""
    by_seed = result.dice.mean(axis=1)
    rng = np.random.default_rng(seed)
    # The seeds are averaged first: drawn are patients only.
    low, high = _bound(_draw(result.dice.mean(axis=0, keepdims=True), result.patients, rng))
    return Summary(
        len(result.seeds),
        len(result.cases),
        len(set(result.patients)),
        100 * float(by_seed.mean()),
        low,
        high,
        100 * float(by_seed.std(ddof=1)) if len(by_seed) > 1 else math.nan,
        100 * float(result.iou.mean()),
        100 * float(np.median(result.dice, axis=1).mean()),
        100 * float(np.median(result.iou, axis=1).mean()),
    )


def compare(one: Result, other: Result, seed: int = 0) -> Difference | None:
    """How far `one` is ahead of `other`; None where they share no seed or no case."""
    seeds = sorted(set(one.seeds) & set(other.seeds))
    cases = sorted(set(one.cases) & set(other.cases))
    if not seeds or not cases:
        return None
    taken = [
        r.dice[np.ix_([r.seeds.index(s) for s in seeds], [r.cases.index(c) for c in cases])]
        for r in (one, other)
    ]
    ahead = taken[0] - taken[1]  # (seeds, cases)
    patients = tuple(one.patients[one.cases.index(case)] for case in cases)
    low, high = _bound(_draw(ahead, patients, np.random.default_rng(seed)))
    return Difference(
        100 * float(ahead.mean()),
        low,
        high,
        tuple((100 * ahead.mean(axis=1)).tolist()),
        len(cases),
        float((ahead.mean(axis=0) > 0).mean()),
    )


def _draw(values: Floats, patients: tuple[str, ...], rng: np.random.Generator) -> Floats:
    """(resamples,): the mean of values (seeds, cases) where patients and seeds are drawn anew.

    A patient is drawn with all cases, a seed with all cases too. Empty for one patient.
    """
    names, of_whom = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return np.empty(0)
    seeds, people = len(values), len(names)
    drawn = draw_counts(rng, people, RESAMPLES)[:, of_whom]
    runs = draw_counts(rng, seeds, RESAMPLES)
    means: Floats = ((runs @ values) * drawn).sum(axis=1) / (seeds * drawn.sum(axis=1))
    return means


def _bound(draws: Floats) -> tuple[float, float]:
    """95 % interval, percent; NaN where nothing was drawn."""
    low, high = bound_draws(draws)
    return 100 * low, 100 * high
