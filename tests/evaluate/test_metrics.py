"""Table 1: its numbers are the paper's arithmetic, its intervals honest, its pictures drawn."""

import csv
import io
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from radnet_lake.evaluate.figures import draw_pictures
from radnet_lake.evaluate.metrics import Number, Outcome, calibrate, measure
from radnet_lake.evaluate.paper import TABLE1
from radnet_lake.evaluate.table1 import Facts, format_csv, format_markdown
from radnet_lake.network.heads import Head, read_heads
from radnet_lake.train.run_folder import METRICS

HEADS = {head.name: head for head in read_heads()}
PICTURES = ("confusion.png", "roc.png", "reliability.png", "spacing.png", "losses.png")
PAPER_CONFUSION = {
    # (truth, predicted): the only counts that give every printed digit.
    "sequence": ((117, 0, 0, 0, 0), (0, 47, 4, 0, 0), (0, 0, 100, 1, 0), (0, 0, 0, 27, 0),
                 (0, 3, 5, 0, 12)),
    "view": ((265, 0, 2), (0, 32, 0), (0, 0, 17)),
    "contrast": ((182, 34), (14, 86)),
}  # fmt: skip
PAPER_COVERAGE = {
    # Found, missed, predicted wrongly, of 316 series.
    "brain": (195, 5, 0), "upper_head_neck": (38, 4, 0), "lower_head_neck": (34, 4, 0),
    "lung": (60, 4, 1), "breast": (79, 3, 1), "liver": (51, 1, 2), "kidney": (52, 0, 4),
    "intestine": (41, 5, 1), "pelvis": (53, 2, 4),
}  # fmt: skip


def number(numbers: Sequence[Number], head: str, row: str, name: str) -> Number:
    (found,) = [n for n in numbers if (n.head, n.row, n.measure) == (head, row, name)]
    return found


def measure_all(outcomes: list[Outcome], resamples: int = 200) -> list[Number]:
    return measure(outcomes, np.arange(len(outcomes[0].truth)), resamples, seed=1)


def say(head: Head, predicted: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Probabilities that choose these classes."""
    return np.eye(len(head.classes))[predicted] * 0.6 + 0.4 / len(head.classes)


def draw_outcomes(
    n: int, seed: int, skill: float = 1.0, heads: Sequence[Head] = tuple(HEADS.values())
) -> list[Outcome]:
    """Random labels, and predictions that know more of them the greater the skill."""
    rng, outcomes = np.random.default_rng(seed), []
    for head in heads:
        k = len(head.classes)
        if head.kind == "scalar":
            mm = rng.uniform(1, 12, n)
            outcomes.append(Outcome(head, mm, skill * mm + rng.normal(0, 2, n)))
        elif head.kind == "multi":
            truth = rng.integers(0, 2, (n, k))
            score = 1 / (1 + np.exp(-rng.normal(0, 1, (n, k)) - skill * (4 * truth - 2)))
            outcomes.append(Outcome(head, truth, score))
        else:
            truth = rng.integers(0, k, n)
            score = np.exp(rng.normal(0, 1, (n, k)) + 3 * skill * np.eye(k)[truth])
            outcomes.append(Outcome(head, truth, score / score.sum(axis=1, keepdims=True)))
    return outcomes


@pytest.mark.parametrize("name", PAPER_CONFUSION)
def test_definitions_give_every_digit_that_the_paper_prints_for_classes(name: str) -> None:
    head, counts = HEADS[name], np.array(PAPER_CONFUSION[name])
    truth, predicted = np.repeat(np.indices(counts.shape).reshape(2, -1), counts.ravel(), axis=1)
    numbers = measure_all([Outcome(head, truth, say(head, predicted))])
    for row in (*head.classes, "total"):
        printed = TABLE1[name, row]
        assert number(numbers, name, row, "accuracy").samples == printed.samples
        for what in ("accuracy", "recall", "precision"):
            if (digits := getattr(printed, what)) is not None:
                ours = 100 * number(numbers, name, row, what).value
                assert ours == pytest.approx(digits, abs=0.0501), (row, what)


def test_definitions_give_every_digit_that_the_paper_prints_for_coverage() -> None:
    head = HEADS["coverage"]
    truth, predicted = np.zeros((2, 316, len(head.classes)), int)
    for k, (found, missed, wrong) in enumerate(PAPER_COVERAGE[name] for name in head.classes):
        truth[: found + missed, k] = 1
        predicted[:found, k] = 1
        predicted[found + missed :][:wrong, k] = 1
    numbers = measure_all([Outcome(head, truth, 0.2 + 0.6 * predicted)])
    for row in head.classes:
        printed = TABLE1["coverage", row]
        assert number(numbers, "coverage", row, "recall").samples == printed.samples
        for what in ("accuracy", "recall", "precision"):
            ours = 100 * number(numbers, "coverage", row, what).value
            assert ours == pytest.approx(getattr(printed, what), abs=0.0501), (row, what)


def test_every_class_has_a_row_of_the_paper() -> None:
    rows = {(h.name, row) for h in HEADS.values() for row in (*h.classes, "total")}
    assert set(TABLE1) == {row for row in rows if row[0] != "spacing"}


def test_a_hand_computed_case() -> None:
    head = HEADS["contrast"]
    # Of No Contrast: right, right, wrong; of Contrast: right; and one that nobody knows.
    predicted = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.0, 1.0]])
    spacing = Outcome(HEADS["spacing"], np.array([1, 2, np.nan, 4, 5]), np.array([1, 4, 9, 4, 3.0]))
    numbers = measure_all([Outcome(head, np.array([0, 0, 0, 1, -1]), predicted), spacing])
    want = {"accuracy": 3 / 4, "auc": 2 / 3, "recall": 1, "precision": 1 / 2}
    for name, value in want.items():
        found = number(numbers, "contrast", "Contrast", name)
        assert (found.value, found.samples) == (pytest.approx(value), 1)
    total = number(numbers, "contrast", "total", "accuracy")
    assert (total.value, total.samples) == (0.75, 4)
    assert number(numbers, "contrast", "total", "constant_accuracy").value == 0.75
    # |0.85-1| for 0.9 and 0.8 in two bins, and so on: 0.1, 0.2, 0.7, 0.4 off.
    assert number(numbers, "contrast", "total", "calibration_error").value == pytest.approx(0.35)
    assert number(numbers, "spacing", "total", "mae_mm").value == 1
    assert number(numbers, "spacing", "total", "rmse_mm").value == pytest.approx(2**0.5)
    assert number(numbers, "spacing", "total", "constant_mae_mm").value == 1.5
    assert number(numbers, "spacing", "total", "mae_mm").samples == 4


def test_coverage_is_right_only_if_all_labels_are_and_counts_only_if_all_are_known() -> None:
    head = HEADS["coverage"]
    truth = np.zeros((4, 9), int)
    truth[3, 0] = -1
    predicted = np.full((4, 9), 0.1)
    predicted[1, 5] = 0.5  # given: from one half on
    numbers = measure_all([Outcome(head, truth, predicted)])
    assert number(numbers, "coverage", "total", "accuracy").samples == 3
    assert number(numbers, "coverage", "total", "accuracy").value == pytest.approx(2 / 3)
    assert number(numbers, "coverage", "liver", "accuracy").value == pytest.approx(3 / 4)
    assert number(numbers, "coverage", "brain", "accuracy").value == 1


def test_numbers_are_those_of_scikit_learn() -> None:
    outcomes = draw_outcomes(200, seed=5, skill=0.3)
    numbers = measure_all(outcomes)
    for outcome in outcomes[:-1]:
        is_multi = outcome.head.kind == "multi"
        # Rounded, so that some are equal.
        predicted = outcome.predicted.round(1)
        rounded = measure_all([outcome._replace(predicted=predicted)])
        for k, name in enumerate(outcome.head.classes):
            is_class = outcome.truth[:, k] if is_multi else outcome.truth == k
            given = predicted[:, k] >= 0.5 if is_multi else predicted.argmax(axis=1) == k
            want = {
                "auc": roc_auc_score(is_class, predicted[:, k]),
                "recall": recall_score(is_class, given),
                "precision": precision_score(is_class, given),
            }
            for what, value in want.items():
                ours = number(rounded, outcome.head.name, name, what).value
                assert ours == pytest.approx(value), (name, what)
    bins = calibrate(outcomes[3])
    share, probability = calibration_curve(
        outcomes[3].truth.ravel(), outcomes[3].predicted.ravel(), n_bins=10
    )
    np.testing.assert_allclose(bins.shares, share)
    np.testing.assert_allclose(bins.probabilities, probability)
    assert bins.answers.sum() == outcomes[3].truth.size
    assert len(numbers) == len({n[:3] for n in numbers})


def test_chance_is_told_from_skill() -> None:
    blind = measure_all(draw_outcomes(2000, seed=3, skill=0.0))
    for head in ("sequence", "view", "contrast"):
        found = number(blind, head, "total", "accuracy")
        assert found.low < 1 / len(HEADS[head].classes) < found.high
    for n in blind:
        if n.measure == "auc":
            assert 0.45 < n.value < 0.55
    assert "NOT SHOWN TO BE BETTER THAN BLIND: sequence, accuracy" in format_markdown(
        blind, make_facts()
    )
    perfect = measure_all(draw_outcomes(50, seed=3, skill=20))
    shares = [n for n in perfect if n.measure in ("accuracy", "auc", "recall", "precision")]
    assert {n.value for n in shares} == {1.0}
    assert "NOT SHOWN" not in format_markdown(
        [n for n in perfect if n.head != "spacing"], make_facts()
    )


def test_intervals_hold_the_value_and_shrink_with_the_series() -> None:
    few, many = (measure_all(draw_outcomes(n, seed=2, skill=0.5)) for n in (60, 960))
    for n in few + many:
        assert np.isnan(n.low) or n.low <= n.value <= n.high, n
    names = ("accuracy", "auc", "recall", "precision", "mae_mm", "rmse_mm")
    pairs = [(a, b) for a, b in zip(few, many, strict=True) if a.measure in names]
    ratios = [(b.high - b.low) / (a.high - a.low) for a, b in pairs]
    assert len(ratios) > 60
    assert 0.15 < np.nanmedian(ratios) < 0.35  # sixteen times the series: a quarter


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    head, hits = HEADS["contrast"], 0
    rng = np.random.default_rng(8)
    for seed in range(200):
        truth = rng.integers(0, 2, 100)
        predicted = np.where(rng.random(100) < 0.8, truth, 1 - truth)
        numbers = measure(
            [Outcome(head, truth, say(head, predicted))], np.arange(100), resamples=200, seed=seed
        )
        total = number(numbers, "contrast", "total", "accuracy")
        hits += total.low <= 0.8 <= total.high
    assert 0.88 <= hits / 200 <= 0.99


def test_series_of_one_patient_do_not_feign_certainty() -> None:
    outcomes = draw_outcomes(50, seed=4, skill=0.4)
    repeated = [
        o._replace(truth=np.repeat(o.truth, 8, 0), predicted=np.repeat(o.predicted, 8, 0))
        for o in outcomes
    ]
    patients = np.repeat(np.arange(50), 8)
    once = measure(outcomes, np.arange(50), 300, seed=0)
    honest = measure(repeated, patients, 300, seed=0)
    # The same patients are drawn, so eight copies of each tell what one did.
    for a, b in zip(once, honest, strict=True):
        np.testing.assert_allclose(a[4:], b[4:], rtol=1e-9)
    feigned = measure(repeated, np.arange(400), 300, seed=0)
    for name in ("sequence", "contrast"):
        wide, thin = (number(n, name, "total", "accuracy") for n in (honest, feigned))
        assert wide.high - wide.low > 2 * (thin.high - thin.low)


def test_no_error_among_few_is_no_proof_of_none() -> None:
    head = HEADS["view"]
    truth = np.tile([0, 1, 2], 10)
    outcome = Outcome(head, truth, say(head, truth))
    numbers = measure([outcome], np.repeat(np.arange(10), 3), 200, seed=0)
    total = number(numbers, "view", "total", "accuracy")
    # Clopper-Pearson of 30 of 30.
    assert (total.value, total.high) == (1, 1)
    assert total.low == pytest.approx(0.8843, abs=1e-4)
    auc = number(numbers, "view", "axial", "auc")
    assert auc.value == 1
    assert np.isnan(auc.low)
    alone = measure([Outcome(head, truth, say(head, 2 - truth))], np.zeros(30, int), 200, seed=0)
    assert np.isnan(number(alone, "view", "total", "accuracy").low)


def test_same_seed_gives_same_intervals() -> None:
    outcomes = draw_outcomes(40, seed=1, skill=0.3)
    one, two, other = (measure(outcomes, np.arange(40), 100, seed=s) for s in (1, 1, 2))
    assert repr(one) == repr(two) != repr(other)


def make_facts(**changes: object) -> Facts:
    facts = {
        "run": "RUN", "checkpoint": "best", "epoch": 3, "lake": "LAKE", "split": "test",
        "series": 40, "missing": 0, "patients": 40, "unidentified": 0, "resamples": 200, "seed": 1,
    }  # fmt: skip
    return Facts(**facts | changes)  # type: ignore[arg-type]


def make_odd_outcomes() -> list[Outcome]:
    """Three series, all of one class, all without contrast known, no spacing known."""
    outcomes = []
    for outcome in draw_outcomes(3, seed=0):
        truth = np.zeros_like(outcome.truth)
        if outcome.head.name == "contrast":
            truth[:] = -1
        if outcome.head.name == "spacing":
            truth[:] = np.nan
        outcomes.append(outcome._replace(truth=truth))
    return outcomes


def test_what_does_not_exist_is_a_dash_in_the_table_and_empty_in_the_file() -> None:
    outcomes = make_odd_outcomes()
    numbers = measure_all(outcomes)
    for row, name in (("T2-FLAIR", "recall"), ("T2-FLAIR", "auc"), ("CT", "auc")):
        assert np.isnan(number(numbers, "sequence", row, name).value)
    assert number(numbers, "contrast", "total", "accuracy").samples == 0
    text = format_markdown(numbers, make_facts(unknown={"contrast": 3, "spacing": 3, "view": 0}))
    assert "nan" not in text.lower()
    assert "unknown: contrast 3, spacing 3 series" in text
    (row,) = [line for line in text.splitlines() if "| T2-FLAIR " in line]
    cells = [cell.strip() for cell in row.split("|")]
    # No sample: neither ranked nor found; and it may have been predicted, wrongly.
    assert (cells[3], cells[5], cells[6]) == ("0", "-", "-")
    assert "nan" not in format_csv(numbers)


def test_markdown_and_csv_say_the_same() -> None:
    numbers = measure_all(draw_outcomes(80, seed=6, skill=0.4))
    rows = {
        (r["label"], r["class"], r["measure"]): r
        for r in csv.DictReader(io.StringIO(format_csv(numbers)))
    }
    assert len(rows) == len(numbers)
    text = format_markdown(numbers, make_facts())
    lines = [
        [c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line
    ]
    label, compared = "", 0
    for cells in lines:
        if len(cells) != 12 or not cells[2].isdigit():
            continue
        label = cells[0] or label
        printed = TABLE1[label, cells[1]]
        for place, name in enumerate(("accuracy", "auc", "recall", "precision"), 3):
            row = rows[label, cells[1], name]
            shown = cells[place].replace("(", "").replace(")", "").replace("to", "").split()
            stated = [row[column] for column in ("value", "low", "high")][: len(shown)]
            for a, b in zip(shown, stated, strict=True):
                assert float(a) == pytest.approx(100 * float(b), abs=0.0501)
            assert float(cells[place + 5]) == pytest.approx(100 * float(row["paper"]), abs=1e-9)
            assert float(cells[place + 5]) == getattr(printed, name)
            compared += 1
        assert cells[2] == rows[label, cells[1], "accuracy"]["samples"]
        assert int(cells[7]) == printed.samples
    assert compared == 19 * 4
    (mae,) = [cells for cells in lines if cells[0].startswith("spacing, mean")]
    assert mae[1] == f"{float(rows['spacing', 'total', 'mae_mm']['value']):.1f} mm"
    assert mae[3] == "3.1 mm"


def test_only_what_is_whole_is_said_to_be() -> None:
    head = HEADS["contrast"]
    truth = np.tile([0, 1], 2000)
    predicted = truth.copy()
    predicted[0] = 1
    text = format_markdown(measure_all([Outcome(head, truth, say(head, predicted))]), make_facts())
    assert "| contrast, accuracy | 99.9 % |" in text


def test_table_says_plainly_on_what_it_rests() -> None:
    numbers = measure_all(draw_outcomes(40, seed=1))
    plain = format_markdown(numbers, make_facts())
    assert "PHANTOM" not in plain
    assert "NOT A TEST" not in plain
    facts = make_facts(
        split="validation", missing=7, patients=12, unidentified=2, note="one\n# two",
        collections={"Phantom archive": 30, "": 10},
    )  # fmt: skip
    text = format_markdown(numbers, facts)
    assert text.splitlines()[2].startswith("**PHANTOM DATA")
    for words in (
        "collections: Phantom archive 30, without a name 10",
        "LEFT OUT: 7 series",
        "of 12 patients",
        "of so few patients",
        "2 series have no PatientID",
        "NOT A TEST",
        "- note: one # two\n",
    ):
        assert words.lower() in text.lower(), words


def make_metrics(epochs: int) -> pa.Table:
    rows = [
        {"epoch": n, "split": split, "loss": 5 / (n + 1), "loss_view": 1 / (n + 1)}
        for n in range(epochs)
        for split in ("train", "validation")
    ]
    return pa.Table.from_pylist(rows, METRICS)


@pytest.mark.parametrize("case", ["usual", "odd", "none known"])
def test_pictures_are_drawn_of_whatever_there_is(case: str) -> None:
    outcomes = draw_outcomes(60, seed=9) if case == "usual" else make_odd_outcomes()
    if case == "none known":
        outcomes = [o._replace(truth=o.truth * 0 - 1) for o in outcomes]
    epochs = {"usual": 12, "odd": 1, "none known": 0}[case]
    pictures = draw_pictures(outcomes, measure_all(outcomes), make_metrics(epochs), "test", "")
    assert tuple(pictures) == PICTURES
    for name, data in pictures.items():
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        wide, high = struct.unpack(">II", data[16:24])
        assert 600 <= wide <= 1600, name
        assert 500 <= high <= 1300, name
        assert len(data) > 8_000, name
