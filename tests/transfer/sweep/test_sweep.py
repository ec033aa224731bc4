"""A sweep: its trials, how they run on Ray Tune, what is reported of those that fail, going on."""

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from liver_runs import make_box, make_case, make_row, write_run
from liver_runs import write_cases as make_cases
from s3_server import S3Server

from radnet_lake.errors import RadnetLakeError, SettingError, StoreError
from radnet_lake.storage.folder import Folder
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.transfer.case_folder import CaseFolder, CaseSettings
from radnet_lake.transfer.sweep import sweep
from radnet_lake.transfer.sweep.sweep import LiverSweepConfig, learn_trial, sweep_liver
from radnet_lake.transfer.sweep.trials import Trial, is_measured, plan_trials, write_scores
from radnet_lake.volume.resample import ResampleSettings

Learn = Callable[[Trial], None]
DICE = {"all": 0.9, "2": 0.8, "none": 0.5, "scratch": 0.4}


@pytest.fixture
def config(tmp_path: Path) -> LiverSweepConfig:
    """Three rows, two seeds, two shares, over a folder of ten prepared cases."""
    write_cases(tmp_path / "cases")
    return LiverSweepConfig(
        out=str(tmp_path / "sweep"),
        cases=str(tmp_path / "cases"),
        freezes="all,2,scratch",
        shares="1,0.5",
        seeds=2,
        methods="plain,largest",
        epochs=2,
    )


def write_cases(folder: Path) -> None:
    """What a sweep reads of a case folder: who is in which split."""
    cases = CaseFolder(str(folder))
    settings = ResampleSettings(24, 64, 64)
    cases.write_settings(CaseSettings("liver", settings, 10.0, 4, 0.9, "liver", "", "pairs", 0))
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 4
    rows: list[dict[str, Any]] = [
        {"case": f"c{n}", "patient": f"p{n}", "split": split, "is_known": n == 9}
        for n, split in enumerate(splits)
    ]
    cases.write_cases([*rows, {"case": "broken", "reason": "not_ct"}])


def make_learn(log: Path, fail: str = "", die_once: str = "") -> Learn:
    """Stands for training: an epoch's metrics, and scores that only row and seed decide."""

    # Inside, so that Ray sends it whole: its workers know no module of tests.
    def learn(trial: Trial) -> None:
        with log.open("a") as file:
            file.write(f"{trial.name}\n")
        if trial.name == die_once and log.read_text().split().count(trial.name) == 1:
            os._exit(1)
        if trial.name == fail:
            raise RadnetLakeError("loss is not finite", "epoch 0", "give a lower --learning-rate")
        metrics = {"epoch": 0, "step": 1, "loss": 0.5, "dice": 0.5, "iou": 0.4}
        RunFolder(trial.train.out).write_metrics(
            [metrics | {"split": split} for split in ("train", "validation")]
        )
        dice = DICE[trial.setting.freeze] * trial.setting.share**0.1 + 0.01 * trial.seed
        rows = [
            {"method": m, "case": f"c{n}", "dice": dice + 0.01 * n - 0.05, "iou": dice - 0.1}
            for m in (*trial.methods, *trial.late)
            for n in range(6, 10)
        ]
        write_scores(Folder(trial.train.out), rows)

    return learn


def read_rows(sweep: str, name: str) -> dict[str, dict[str, str]]:
    """A table by row: what is frozen, and the share."""
    with Path(sweep, name).open(newline="") as file:
        return {f"{row['freeze']} {row['share']}": row for row in csv.DictReader(file)}


def test_trials_differ_by_what_their_row_says_alone(config: LiverSweepConfig) -> None:
    config = replace(config, refine=True, medicalnet="/weights/resnet_18.pth", epochs=7, batch=2)
    trials = plan_trials(config)
    assert [trial.name for trial in trials[:6]] == [
        "all-seed0", "2-seed0", "scratch-seed0", "all-50pc-seed0", "medicalnet-all-seed0",
        "medicalnet-none-seed0",
    ]  # fmt: skip
    assert len(trials) == 12
    assert len({trial.train.out for trial in trials}) == 12
    own = ("out", "freeze", "share", "seed", "refine")
    like = replace(trials[0].train, out="", freeze="all", share=1.0, seed=0)
    for trial in trials:
        same = {name: getattr(like, name) for name in own}
        if trial.setting.encoder == "medicalnet":
            assert trial.train.init == config.medicalnet
            assert (trial.train.encoder, trial.train.depth) == ("medicalnet", 18)
            assert trial.train.standardise
            same |= {"init": "", "encoder": "", "depth": 0, "standardise": False}
        assert replace(trial.train, **same) == like
    refining = {trial.name: trial.late for trial in trials if trial.refine}
    assert refining == dict.fromkeys(["all-seed0", "all-seed1"], ("refine", "largest+refine"))
    assert trials[0].refine == replace(
        trials[0].train, refine=True, out=f"{trials[0].train.out}-refine"
    )


@pytest.mark.parametrize(
    ("name", "value", "stated"),
    [
        ("freezes", "all,4", "--freeze"),
        ("freezes", " ", "--freezes"),
        ("shares", "1,half", "--shares"),
        ("shares", "1,1.5", "--share"),
        ("methods", "plain,refine", "--methods"),
        ("seeds", 0, "--seeds"),
        ("learning_rate", 0.0, "--learning-rate"),
        ("refine", True, "--refine"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: Any, stated: str) -> None:
    row = {"freezes": " ", "shares": ""} if name == "freezes" and value == " " else {name: value}
    if name == "refine":
        row |= {"freezes": "none,scratch", "shares": "0.5"}
    with pytest.raises(SettingError) as caught:
        LiverSweepConfig(out="sweep", cases="cases", **row)
    assert caught.value.where == stated


@pytest.mark.usefixtures("ray_local")
def test_one_that_fails_is_told_and_the_same_command_goes_on(
    config: LiverSweepConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    seen: list[str] = []

    def watch(done: int, expected: int, unit: str, notes: Any = None, *_: Any, **__: Any) -> None:
        seen.append(notes["trials"] if notes else "")

    learn = make_learn(log, fail="2-seed1", die_once="all-seed1")
    report = sweep_liver(config, watch, learn)
    begun = log.read_text().split()
    # Eight, and once more the one whose process died.
    assert sorted(begun) == sorted([trial.name for trial in plan_trials(config)] + ["all-seed1"])
    assert (report.trials, report.known, report.done) == (8, 0, 7)
    assert list(report.failed) == ["2-seed1"]
    assert "loss is not finite" in report.table
    assert "7 of 8 trials" in report.table
    assert seen[-1] == "7 of 8"
    assert report.epochs == 7
    out = Path(config.out)
    rows = read_rows(config.out, "table2.csv")
    assert {key: row["seeds"] for key, row in rows.items()} == {
        "all 1": "2", "2 1": "1", "scratch 1": "2"
    }  # fmt: skip
    # Cases 6 to 9 are 0.01 to 0.04 above the dice of row and seed; seeds 0 and 1 are 0.01 apart.
    assert float(rows["all 1"]["mean_dice"]) == pytest.approx(90 + 2.5 + 0.5)
    assert float(rows["scratch 1"]["mean_dice"]) == pytest.approx(40 + 2.5 + 0.5)
    assert rows["2 1"]["paper_mean_dice"] == "84.3"
    shares = read_rows(config.out, "table3.csv")
    sizes = {key: row["train_cases"] for key, row in shares.items()}
    assert sizes == {"all 1": "4", "all 0.5": "2"}
    assert "1 test cases were in the pretraining" in report.table
    pictures = {file.name for file in out.glob("*.png")}
    assert pictures == {"dice_by_freeze.png", "dice_by_share.png", "losses.png"}
    assert "_run_trial" not in "".join(capfd.readouterr())

    log.write_text("")
    report = sweep_liver(config, learn=make_learn(log))
    assert log.read_text().split() == ["2-seed1"]
    assert (report.known, report.done, report.failed) == (7, 1, {})
    assert "UNFINISHED" not in report.table

    log.write_text("")
    assert sweep_liver(config, learn=make_learn(log)).known == 8
    assert log.read_text() == ""


@pytest.mark.usefixtures("ray_local")
def test_where_all_fail_the_sweep_does(config: LiverSweepConfig, tmp_path: Path) -> None:
    def learn(trial: Trial) -> None:
        raise OSError("/archive/Doe^Jane is missing")

    config = replace(config, freezes="all", shares="", seeds=1)
    with pytest.raises(RadnetLakeError, match="no trial could be measured: OSError at") as caught:
        sweep_liver(config, learn=learn)
    assert "Doe" not in str(caught.value)
    assert "Doe" not in Path(config.out, "tables.md").read_text()


def test_other_settings_or_cases_than_the_trials_had_are_refused(
    config: LiverSweepConfig, tmp_path: Path, s3: S3Server
) -> None:
    config = replace(config, out=f"s3://{s3.bucket()}/sweep")
    kept = plan_trials(config)
    for trial in kept:
        make_learn(tmp_path / "log")(trial)
    assert sweep_liver(config).known == 8
    with pytest.raises(SettingError) as caught:
        sweep_liver(replace(config, epochs=3))
    assert caught.value.where == "--epochs"
    # More rows are no other settings: what is measured stays.
    table = sweep_liver(replace(config, freezes="scratch", shares="", seeds=1)).table
    assert "Froze all layers" not in table
    cases = CaseFolder(config.cases)
    rows = cases.read_cases().to_pylist()
    # Another split, another mask, windows that another network chose.
    for change in ({"split": "test"}, {"organ_voxels": 7}, {"chosen": [1]}):
        cases.write_cases([row | change if row["case"] == "c0" else row for row in rows])
        with pytest.raises(SettingError) as caught:
            sweep_liver(config)
        assert caught.value.where == "--cases"
    cases.write_cases(rows)
    made_with = cases.read_settings()
    cases.write_settings(replace(made_with, network="0" * 16))
    with pytest.raises(SettingError) as caught:
        sweep_liver(config)
    assert caught.value.where == "--cases"
    cases.write_settings(made_with)
    # Weights of others may come later, but stay then.
    foreign = replace(config, medicalnet="/weights/resnet_18.pth")
    for trial in plan_trials(foreign):
        make_learn(tmp_path / "log")(trial)
    assert sweep_liver(foreign).known == 12
    assert sweep_liver(config).known == 8
    with pytest.raises(SettingError) as caught:
        sweep_liver(replace(foreign, medicalnet="/weights/resnet_10.pth"))
    assert caught.value.where == "--medicalnet"
    Folder(config.out).write("sweep.json", b"[")
    with pytest.raises(StoreError, match=r"sweep\.json: is damaged"):
        sweep_liver(config)


def test_a_test_case_that_cannot_be_measured_fails_the_trial(
    config: LiverSweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_case(make_box(20, slice(3, 17), slice(5, 15), slice(6, 20)))
    rows = [(make_row(name, whole), whole) for name in ("a", "b")]
    cases = make_cases(str(tmp_path / "of-two"), rows)
    trial = plan_trials(replace(config, cases=cases.uri))[0]
    write_run(trial.train.out, cases.uri)
    monkeypatch.setattr(sweep, "train_here", lambda config: None)
    data = cases.folder.read("cases/b.arrow")
    cases.folder.write("cases/b.arrow", data[:999])
    with pytest.raises(RadnetLakeError, match="case b: cannot be measured: unreadable"):
        learn_trial(trial)
    assert not is_measured(Folder(config.out), trial)
    cases.folder.write("cases/b.arrow", data)
    learn_trial(trial)
    assert is_measured(Folder(config.out), trial)


@pytest.mark.parametrize(
    "data", [b"", b"method,case\nplain,c6\n", b"\xff\xfe", b"method,case,dice,iou\nplain,c6,x,\n"]
)
def test_damaged_scores_are_made_again(config: LiverSweepConfig, data: bytes) -> None:
    trial = plan_trials(config)[0]
    make_learn(Path(config.out).parent / "log")(trial)
    assert is_measured(Folder(config.out), trial)
    Folder(trial.train.out).write("scores.csv", data)
    assert not is_measured(Folder(config.out), trial)
