"""`radnet-lake liver evaluate`: how well a segmenter's run finds the organ, case by case."""

import contextlib
import csv
import dataclasses
import io
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from liver_runs import (
    CASES,
    VOXEL_ML,
    make_box,
    make_case,
    make_row,
    rig_segmenter,
    write_cases,
    write_run,
)
from s3_server import S3Server

from radnet_lake.cli.app import main
from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.transfer.case_folder import CaseFolder
from radnet_lake.transfer.evaluate import LiverEvaluateConfig, evaluate_liver, evaluate_methods
from radnet_lake.transfer.inference import Method

ORGAN = make_box(20, slice(3, 17), slice(5, 15), slice(6, 20))
FILES = ("best.png", "cases.csv", "median.png", "summary.csv", "summary.md", "worst.png")


class Made(NamedTuple):
    cases: CaseFolder
    run: RunFolder


def make_test_cases() -> list[tuple[dict[str, Any], Any]]:
    """Found whole; a part outside of the windows; with a spot that is not the organ; gone."""
    whole, spotted = make_case(ORGAN), make_case(ORGAN)
    spotted.image[1:3, 20:23, 1:4] = 200
    return [
        (make_row("c-whole", whole) | {"is_known": True}, whole),
        (make_row("b-part", whole, chosen=[0, 1]), whole),
        (make_row("a-spot", spotted), spotted),
        (make_row("d-gone", whole), None),
        (make_row("e-learned", whole) | {"split": "train"}, whole),
        ({"case": "f-odd", "reason": "no_mask", "detail": "", "notes": []}, None),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Made:
    cases = write_cases(str(tmp_path_factory.mktemp("cases")), make_test_cases())
    return Made(cases, write_run(f"s3://{s3.bucket()}/runs/liver", cases.uri, freeze="scratch"))


@pytest.fixture(scope="module")
def printed(made: Made) -> str:
    """What the command prints of an evaluation; its files lie in the run's folder."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["liver", "evaluate", made.run.uri, "--largest", "--resamples", "200"]) == 0
    return out.getvalue()


def read_rows(run: RunFolder, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run.folder.read(f"evaluation/test/{name}").decode())))


def test_every_case_has_a_row_by_each_method(made: Made, printed: str) -> None:
    rows = {(row["case"], row["method"]): row for row in read_rows(made.run, "cases.csv")}
    assert len(rows) == 8
    whole = rows["c-whole", "plain"]
    assert (whole["dice"], whole["iou"], whole["windows"]) == ("1", "1", "4")
    assert float(whole["organ_ml"]) == float(whole["found_ml"]) == ORGAN.sum() * VOXEL_ML
    # Of slices 3 to 16, the windows 0 and 4 of 8 slices hold 3 to 11.
    part = rows["b-part", "plain"]
    assert float(part["missed_share"]) == pytest.approx(5 / 14, rel=1e-5)
    assert float(part["dice"]) == pytest.approx(2 * 9 / (9 + 14), rel=1e-5)
    assert float(part["iou"]) == pytest.approx(9 / 14, rel=1e-5)
    n, spot = int(ORGAN.sum()), 2 * 3 * 3
    plain, largest = (rows["a-spot", method] for method in ("plain", "largest"))
    assert float(plain["dice"]) == pytest.approx(2 * n / (2 * n + spot), rel=1e-5)
    assert float(plain["found_ml"]) == pytest.approx((n + spot) * VOXEL_ML, rel=1e-5)
    assert largest["dice"] == "1"
    for method in ("plain", "largest"):
        gone = rows["d-gone", method]
        assert (gone["dice"], gone["reason"]) == ("", "vanished")


def test_the_summary_is_of_the_cases_that_have_numbers(made: Made, printed: str) -> None:
    rows = read_rows(made.run, "cases.csv")
    numbers = {(row["method"], row["measure"]): row for row in read_rows(made.run, "summary.csv")}
    for method in ("plain", "largest"):
        for name in ("dice", "iou"):
            stated = [float(r[name]) for r in rows if r["method"] == method and r[name]]
            assert len(stated) == 3
            for measure, join in (("mean", statistics.mean), ("median", statistics.median)):
                number = numbers[method, f"{measure}_{name}"]
                value, low, high = (float(number[key]) for key in ("value", "low", "high"))
                assert value == pytest.approx(join(stated), rel=1e-5)
                assert low <= value <= high
                assert low >= min(stated) - 1e-6
                assert (number["cases"], number["patients"]) == ("3", "3")
    # The paper's row of a run from scratch.
    assert float(numbers["plain", "mean_dice"]["paper"]) == pytest.approx(0.418)
    errors = {row["case"]: float(row["found_ml"]) - float(row["organ_ml"]) for row in rows[:3]}
    error = float(numbers["plain", "volume_error_ml"]["value"])
    assert error == pytest.approx(statistics.mean(errors.values()), abs=1e-3)
    assert float(numbers["plain", "missed_share"]["value"]) == pytest.approx(5 / 14 / 3, rel=1e-5)


def test_people_are_told_what_the_numbers_rest_on(made: Made, printed: str) -> None:
    text = made.run.folder.read("evaluation/test/summary.md").decode()
    assert printed.startswith(text)
    assert made.run.folder.names("evaluation/") == [f"evaluation/test/{name}" for name in FILES]
    for words in (
        "ours: 3 cases of 3 patients, split test",
        "after 3 epochs; frozen: scratch",
        "FAILED, and in no number: 1 of 4 cases (vanished 1)",
        "in no split: 1 cases that could not be prepared",
        "KNOWN TO THE PRETRAINED NETWORK: 1 of these cases",
        "paper: No transfer learning | 41.8 % | 38.0 % | 43.0 % | 27.3 %",
        "3 patients, each with all cases; seed 0. Of so few patients they are too narrow",
    ):
        assert words in " ".join(text.split()), words
    assert "patient-of" not in text
    assert made.run.folder.read("evaluation/test/worst.png").startswith(b"\x89PNG")


def test_tasks_on_ray_say_the_same_and_a_trial_needs_no_ray(
    made: Made, printed: str, ray_local: str
) -> None:
    methods = (Method(), Method(largest=True))
    config = LiverEvaluateConfig(made.run.uri, workers=2)
    seen: list[tuple[object, ...]] = []
    by_tasks = evaluate_methods(config, methods, lambda *done: seen.append(done))
    assert seen == [(n, 4, "cases") for n in range(5)]
    assert by_tasks == evaluate_methods(dataclasses.replace(config, workers=1), methods)
    stated = {(o.case, o.method): f"{o.dice:.6g}" if o.dice is not None else "" for o in by_tasks}
    assert stated == {(r["case"], r["method"]): r["dice"] for r in read_rows(made.run, "cases.csv")}


def test_an_organ_that_is_not_there_counts_as_agreed(tmp_path: Path) -> None:
    nothing, spotted = make_case(np.zeros_like(ORGAN)), make_case(np.zeros_like(ORGAN))
    spotted.image[2, 2, 2] = 200
    rows = [(make_row("empty", nothing), nothing), (make_row("spot", spotted), spotted)]
    cases = write_cases(str(tmp_path / "cases"), rows)
    run = write_run(str(tmp_path / "run"), cases.uri)
    report = evaluate_liver(LiverEvaluateConfig(run.uri))
    found = {row["case"]: row for row in read_rows(run, "cases.csv")}
    assert {name: (row["dice"], row["missed_share"]) for name, row in found.items()} == {
        "empty": ("1", ""), "spot": ("0", ""),
    }  # fmt: skip
    assert "2 cases hold no liver" in report.table
    assert "paper: Froze all layers | 90.0 %" in " ".join(report.table.split())


def test_the_papers_row_is_of_livers_and_of_its_own_network(tmp_path: Path) -> None:
    whole = make_case(ORGAN)
    cases = write_cases(str(tmp_path / "cases"), [(make_row("a", whole), whole)])
    run = write_run(str(tmp_path / "run"), cases.uri, init="/weights/resnet_18.pth")
    table = evaluate_liver(LiverEvaluateConfig(run.uri)).table
    assert "paper:" not in table
    assert "the first weights, of /weights/resnet_18.pth, know these patients is not" in table
    kidneys = dataclasses.replace(CASES, organ="kidney")
    cases.write_settings(kidneys)
    run.write_config(run.read_config() | {"init": ""})
    run.write_checkpoint(run.read_checkpoint() | {"cases": kidneys.describe()}, "best")
    table = evaluate_liver(LiverEvaluateConfig(run.uri)).table
    assert "Kidney" in table
    assert "paper:" not in table


def test_patients_that_the_segmenter_learned_from_are_no_test(made: Made, tmp_path: Path) -> None:
    run = write_run(str(tmp_path / "run"), made.cases.uri)
    box = [0, 0, 0, 8, 24, 24]
    run.write_run({"examples": {"train": [["e-learned", *box]], "validation": [["b-part", *box]]}})
    report = evaluate_liver(LiverEvaluateConfig(run.uri, split="train"))
    assert "NOT A TEST: the segmenter learned from the patients of 1 cases" in report.table
    report = evaluate_liver(LiverEvaluateConfig(run.uri))
    assert "NOT A TEST: the segmenter was chosen by the patients of 1 cases" in report.table
    # A folder of its own counts by its patients, whatever its cases are called.
    whole = make_case(ORGAN)
    rows = [make_row(name, whole) for name in ("e-learned", "other")]
    rows[0]["patient"], rows[1]["patient"] = "a stranger", "patient-of-e-learned"
    cases = write_cases(str(tmp_path / "cases"), [(row, whole) for row in rows])
    config = LiverEvaluateConfig(run.uri, cases=cases.uri)
    assert evaluate_liver(config).facts.learned == 1
    # What a refining run learned from is no test either.
    refining = write_run(str(tmp_path / "refining"), made.cases.uri, refine=True)
    refining.write_run({"examples": {"train": [["a-spot", *box]], "validation": []}})
    report = evaluate_liver(LiverEvaluateConfig(run.uri, refine=refining.uri))
    assert "NOT A TEST: the segmenter learned from the patients of 1 cases" in report.table
    run.write_config(run.read_config() | {"cases": str(tmp_path / "gone")})
    assert "learned from these patients is not known" in evaluate_liver(config).table


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"organ": "kidney"}, "the organ is kidney, the run's liver"),
        ({"spacing_mm": 2.5}, "the slice spacing is 2.5 mm, the run's 5 mm"),
        (
            {"settings": dataclasses.replace(CASES.settings, rows=32)},
            "the input size is 8x32x24, the run's 8x24x24",
        ),
    ],
)
def test_cases_that_do_not_fit_the_run_are_refused(
    made: Made, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    other = write_cases(str(tmp_path), make_test_cases())
    other.write_settings(dataclasses.replace(CASES, **changes))
    with pytest.raises(SettingError, match=words):
        evaluate_liver(LiverEvaluateConfig(made.run.uri, cases=other.uri))


def test_what_cannot_be_evaluated_is_told(made: Made, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"no case of split validation.*test \(4\), train \(1\)"):
        evaluate_liver(LiverEvaluateConfig(made.run.uri, split="validation"))
    with pytest.raises(SettingError, match="radnet-lake liver prepare"):
        evaluate_liver(LiverEvaluateConfig(made.run.uri, cases=str(tmp_path / "none")))
    row = make_row("gone", make_case(ORGAN))
    gone = write_cases(str(tmp_path / "gone"), [(row, None)])
    with pytest.raises(SettingError, match="every case failed: vanished 1"):
        evaluate_liver(LiverEvaluateConfig(made.run.uri, cases=gone.uri))
    refining = write_run(str(tmp_path / "refining"), made.cases.uri, refine=True)
    with pytest.raises(SettingError, match="give it as --refine"):
        evaluate_liver(LiverEvaluateConfig(refining.uri))
    for setting in ({"threshold": 0.0}, {"batch": 0}, {"split": "all"}, {"workers": 0}):
        with pytest.raises(SettingError, match=f"--{next(iter(setting))}"):
            LiverEvaluateConfig(made.run.uri, **setting)


def test_damaged_files_and_swapped_ones_are_told_case_by_case(tmp_path: Path) -> None:
    whole, short = make_case(ORGAN), make_case(ORGAN[:15])
    rows = [(make_row(name, whole), whole) for name in ("a", "b", "c")]
    cases = write_cases(str(tmp_path / "cases"), rows)
    cases.write_case("b", short, rows[1][0])
    cases.folder.write("cases/c.arrow", cases.folder.read("cases/c.arrow")[:999])
    run = write_run(str(tmp_path / "run"), cases.uri)
    found = evaluate_methods(LiverEvaluateConfig(run.uri), [Method()])
    assert [o.reason for o in found] == [None, "changed", "unreadable"]
    assert str(tmp_path) not in "".join(o.detail or "" for o in found)


def test_a_network_without_numbers_ends_the_evaluation(made: Made, tmp_path: Path) -> None:
    run = write_run(str(tmp_path / "run"), made.cases.uri)
    state = run.read_checkpoint()
    network = rig_segmenter()
    network.decoder.tell.bias.data.fill_(float("nan"))
    run.write_checkpoint(state | {"model": network.state_dict()}, "best")
    with pytest.raises(CheckpointError, match="no numbers"):
        evaluate_liver(LiverEvaluateConfig(run.uri))
