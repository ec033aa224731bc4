"""Tables 2 and 3: numbers against what is known of made-up scores, and what the words say."""

import csv
import io
from itertools import product

import numpy as np
import pytest

from radnet_lake.evaluate.paper import SPLIT, TABLE2, TABLE3
from radnet_lake.transfer.sweep.figures import draw_pictures
from radnet_lake.transfer.sweep.statistics import (
    Results,
    Score,
    Setting,
    compare,
    gather,
    summarise,
)
from radnet_lake.transfer.sweep.tables import Facts, format_tables, judge_shares, judge_transfer

ALL, SCRATCH = Setting(), Setting("scratch")


def make_scores(
    setting: Setting, level: float, seeds: int = 3, method: str = "plain"
) -> list[Score]:
    """20 cases of 10 patients whose Dice are spread about a level, a little by seed."""
    places = np.linspace(-0.1, 0.1, 20)
    return [
        Score(setting, seed, method, f"c{n:02}", f"p{n // 2}", dice, dice / (2 - dice))
        for seed, (n, place) in product(range(seeds), enumerate(places))
        for dice in [level + place + 0.01 * seed]
    ]


def make_facts(*planned: Setting, **more: object) -> Facts:
    return Facts("liver", planned, 3, dict(SPLIT), 3 * len(planned), 3 * len(planned), **more)


def read(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def test_the_paper_is_as_printed() -> None:
    means = {name: row.mean_dice for name, row in TABLE2.items()}
    assert means == {"all": 90.0, "3": 72.1, "2": 84.3, "1": 77.6, "none": 44.8, "scratch": 41.8}
    shares = {share: (row.cases, row.mean_dice) for share, row in TABLE3.items()}
    assert shares == {
        1: (92, 90.0), 0.8: (74, 84.7), 0.6: (55, 84.2), 0.4: (37, 87.0), 0.2: (18, 80.0)
    }  # fmt: skip
    # A slip of the pen shows: median IoU follows from median Dice, but for the rounding of both.
    for row in (*TABLE2.values(), *TABLE3.values()):
        dice = row.median_dice / 100
        assert row.median_iou == pytest.approx(100 * dice / (2 - dice), abs=0.3)


def test_a_row_is_the_mean_over_seeds_of_that_over_cases() -> None:
    scores = make_scores(ALL, 0.8)
    row = summarise(gather(scores)[ALL, "plain"])
    dice = np.array([s.dice for s in scores]).reshape(3, 20)
    iou = np.array([s.iou for s in scores]).reshape(3, 20)
    assert (row.seeds, row.cases, row.patients) == (3, 20, 10)
    assert row.mean_dice == pytest.approx(81.0)
    assert row.mean_iou == pytest.approx(100 * iou.mean())
    assert row.median_dice == pytest.approx(100 * np.median(dice, axis=1).mean())
    assert row.spread == pytest.approx(1.0)
    # Ten patients' means are evenly spread over 0.19: their standard error is 0.0192 by hand.
    assert row.high - row.low == pytest.approx(2 * 1.96 * 1.915, rel=0.1)


def test_a_patient_with_many_cases_widens_the_interval() -> None:
    scores = make_scores(ALL, 0.8)
    alone = gather([s._replace(patient=s.case) for s in scores])[ALL, "plain"]
    paired = gather(scores)[ALL, "plain"]
    widths = [(s := summarise(result)).high - s.low for result in (alone, paired)]
    assert widths[1] > 1.2 * widths[0]
    one = summarise(gather([s._replace(patient="p") for s in scores])[ALL, "plain"])
    assert np.isnan([one.low, one.high]).all()


def test_a_case_that_a_seed_has_no_number_for_is_left_out_and_counted() -> None:
    scores = make_scores(ALL, 0.8)
    scores[25] = scores[25]._replace(dice=float("nan"), iou=float("nan"))
    result = gather(scores)[ALL, "plain"]
    assert (len(result.cases), result.left_out) == (19, 1)
    assert "c05" not in result.cases
    stated = format_tables(gather(scores), make_facts(ALL))["tables.md"].decode()
    assert "up to 1 test cases" in stated


def test_differences_are_paired_by_case_and_seed() -> None:
    """Cases differ by 20 points, so that unpaired the 2 points between the two would drown."""
    results = gather([*make_scores(ALL, 0.82), *make_scores(SCRATCH, 0.80, seeds=2)])
    found = compare(results[ALL, "plain"], results[SCRATCH, "plain"])
    assert found is not None
    assert found.mean == pytest.approx(2.0)
    assert found.by_seed == pytest.approx((2.0, 2.0))
    assert found.is_clear
    assert (found.low, found.high) == pytest.approx((2.0, 2.0))
    back = compare(results[SCRATCH, "plain"], results[ALL, "plain"])
    assert back is not None
    assert (back.mean, back.better) == pytest.approx((-2.0, 0.0))
    other = gather(make_scores(SCRATCH, 0.8))[SCRATCH, "plain"]._replace(seeds=(7, 8, 9))
    assert compare(results[ALL, "plain"], other) is None


def test_an_interval_holds_seeds_that_disagree() -> None:
    scores = make_scores(ALL, 0.8)
    scores = [s._replace(dice=s.dice + (0.2, -0.2, 0.1)[s.seed]) for s in scores]
    results = gather([*scores, *make_scores(SCRATCH, 0.8)])
    found = compare(results[ALL, "plain"], results[SCRATCH, "plain"])
    assert found is not None
    assert found.low < -10
    assert found.high > 10
    assert "NOT SHOWN TO DIFFER" in judge_transfer(results)


@pytest.mark.parametrize(("frozen", "word"), [(0.85, "ahead of"), (0.4, "BEHIND")])
def test_words_say_who_is_ahead(frozen: float, word: str) -> None:
    results = gather([*make_scores(ALL, frozen), *make_scores(SCRATCH, 0.5)])
    text = judge_transfer(results)
    assert (
        f"{abs(100 * (frozen - 0.5)):.1f} points of mean Dice {word} training from scratch" in text
    )
    assert "The paper: 48.2 points" in text
    assert "NOT SHOWN" not in text


def make_shares(levels: dict[float, float]) -> tuple[Results, Facts]:
    settings = {share: Setting(share=share) for share in levels}
    scores = [s for share, one in settings.items() for s in make_scores(one, levels[share])]
    return gather(scores), make_facts(*settings.values())


def test_words_say_whether_more_cases_help() -> None:
    text = judge_shares(*make_shares({1: 0.85, 0.6: 0.8, 0.2: 0.7}))
    assert "order of the shares holds" in text
    assert "100 % against 20 % +15.0" in text
    text = judge_shares(*make_shares({1: 0.85, 0.6: 0.86, 0.2: 0.7}))
    assert "DOES NOT HOLD" in text
    assert "100 % against 60 % -1.0" in text


def test_tables_hold_ours_and_the_papers_and_what_is_missing() -> None:
    foreign = Setting(encoder="medicalnet")
    planned = (ALL, Setting("2"), SCRATCH, Setting(share=0.2), foreign)
    scores = [
        *make_scores(ALL, 0.85),
        *make_scores(ALL, 0.87, method="average"),
        *make_scores(SCRATCH, 0.5, seeds=2),
        *make_scores(Setting(share=0.2), 0.7),
        *make_scores(foreign, 0.84),
    ]
    facts = make_facts(
        *planned,
        failed={"scratch-seed2": "loss is not finite"},
        train_cases={ALL: (92, 92), Setting(share=0.2): (18, 18)},
        notes=("PHANTOM DATA",),
    )
    files = format_tables(gather(scores), facts)
    table2 = {row["freeze"]: row for row in read(files["table2.csv"])}
    assert list(table2) == ["all", "2", "scratch"]
    assert float(table2["all"]["mean_dice"]) == pytest.approx(86.0)
    assert table2["all"]["paper_mean_dice"] == "90"
    assert (table2["2"]["seeds"], table2["2"]["mean_dice"]) == ("0", "")
    assert table2["2"]["paper_median_dice"] == "90.3"
    assert table2["scratch"]["seeds"] == "2"
    table3 = read(files["table3.csv"])
    assert [(row["share"], row["train_cases"]) for row in table3] == [("1", "92"), ("0.2", "18")]
    assert [row["paper_mean_iou"] for row in table3] == ["81.6", "69.3"]
    extras = {(row["encoder"], row["method"]): row for row in read(files["extras.csv"])}
    assert float(extras["radnet", "average"]["difference"]) == pytest.approx(2.0)
    assert float(extras["medicalnet", "plain"]["difference"]) == pytest.approx(-1.0)
    text = files["tables.md"].decode()
    assert "**PHANTOM DATA**" in text
    assert "FAILED: scratch-seed2: loss is not finite" in text
    assert "94.6 (MED3D)" in text
    assert "20 % (n=18)" in text
    assert len({line.count("|") for line in text.splitlines() if "Froze to block 2" in line}) == 1


def test_a_single_share_has_its_table() -> None:
    half = Setting(share=0.5)
    files = format_tables(gather(make_scores(half, 0.7)), make_facts(half))
    assert [row["share"] for row in read(files["table3.csv"])] == ["0.5"]
    assert make_facts(ALL, SCRATCH).list_shares() == []


def test_few_patients_are_compared_frozen_and_from_scratch() -> None:
    few = Setting(share=0.2), Setting("scratch", 0.2)
    levels = {ALL: 0.85, SCRATCH: 0.84, few[0]: 0.7, few[1]: 0.4}
    scores = [score for setting, level in levels.items() for score in make_scores(setting, level)]
    facts = make_facts(*levels, Setting("scratch", 0.4), train_cases={few[1]: (18, 18)})
    files = format_tables(gather(scores), facts)
    rows = read(files["transfer.csv"])
    assert [row["share"] for row in rows] == ["1", "0.2"]
    assert [float(row["difference"]) for row in rows] == pytest.approx([1.0, 30.0])
    assert [float(row["scratch_mean_dice"]) for row in rows] == pytest.approx([85.0, 41.0])
    text = files["tables.md"].decode()
    (line,) = [x for x in text.splitlines() if "20 % (n=18)" in x]
    assert "+30.0, +30.0, +30.0" in line
    # The two of one share are no rows of Tables 2 and 3.
    assert [row["freeze"] for row in read(files["table2.csv"])] == ["all", "scratch"]
    assert [row["freeze"] for row in read(files["table3.csv"])] == ["all", "all"]
    missing = format_tables(gather(make_scores(ALL, 0.8)), facts)
    assert [row["difference"] for row in read(missing["transfer.csv"])] == ["", ""]
    plain = format_tables(gather(scores), make_facts(ALL, SCRATCH))["tables.md"].decode()
    assert "frozen against scratch" not in plain


def test_pictures_are_made_of_whatever_is_done() -> None:
    facts = make_facts(ALL, SCRATCH, Setting(share=0.2))
    assert set(draw_pictures({}, {}, facts, "")) == {"dice_by_freeze.png", "dice_by_share.png"}
    rows = [
        {"epoch": epoch, "split": split, "loss": 1 - 0.1 * epoch}
        for epoch, split in product(range(3), ("train", "validation"))
    ]
    some = gather(make_scores(ALL, 0.8, seeds=1)[:1])
    files = draw_pictures(some, {ALL: {0: rows}, SCRATCH: {1: rows[:1]}}, facts, "PHANTOM DATA")
    assert set(files) == {"dice_by_freeze.png", "dice_by_share.png", "losses.png"}
    assert all(data.startswith(b"\x89PNG") for data in files.values())
