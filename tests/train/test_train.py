"""What a user of `radnet-lake train` relies on: real Ray, real workers that are killed, real S3."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dicom_files import KEY, write_series
from ray_workers import kill_worker
from s3_server import S3Server

import radnet_lake
from radnet_lake import schema
from radnet_lake.cli.app import main
from radnet_lake.errors import CheckpointError, RadnetLakeError, SettingError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake.log import Lake, create_lake, open_lake
from radnet_lake.network.checkpoint import load_network
from radnet_lake.network.heads import read_heads
from radnet_lake.train.pretrain_plan import count_classes, weigh_classes
from radnet_lake.train.run_folder import METRICS, SERIES, RunFolder
from radnet_lake.train.train import TrainConfig, TrainReport, resume_config, train
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.shard import write_shard

COMMAND = str(Path(sys.executable).parent / "radnet-lake")
SETTINGS = ResampleSettings(slices=8, rows=24, columns=24)
SMALL: dict[str, Any] = {"depth": 10, "width": 4, "features": 16, "batch": 8, "workers": 2}
pytestmark = pytest.mark.timeout(900)
EPOCHS = 3
LONG = SMALL | {
    "epochs": EPOCHS,
    "augment": True,
    "learning_rate": 0.01,
    "checkpoint_minutes": 0.001,
}
"""As a run that is killed and the one that is not: a checkpoint about every tenth of a second."""
SERIES_COUNT = 160

_LABELS = """
select s.* replace (
    s.SeriesInstanceUID || '.' || n as SeriesInstanceUID,
    s.StudyInstanceUID || '.' || n as StudyInstanceUID,
    'P' || n as PatientID,
    null as FrameOfReferenceUID,
    case n % 4 when 0 then 'CT' when 1 then 'T1-SE' when 2 then 'T2-SE' end as sequence,
    case n % 2 when 0 then 'axial' else 'sagittal' end as "view",
    case n % 3 when 0 then true when 1 then false end as contrast,
    case n % 2 when 0 then ['brain'] else ['liver', 'kidney'] end as coverage,
    (1 + n % 5)::double as slice_spacing_mm
)
from stored.series as s, range({count}) as t(n)
"""


def draw_volume(series: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(D, H, W): noise, with a bar whose place tells the labels."""
    n = int(series.rpartition(".")[2])
    volume = np.random.default_rng(n).integers(0, 60, (8, 24, 24), dtype=np.uint8)
    volume[:, 6 * (n % 4) : 6 * (n % 4) + 5, :12] += 150
    volume[:, :, 14 + 5 * (n % 2) : 18 + 5 * (n % 2)] += 100
    return volume


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, ray_local: str) -> Lake:
    """A labelled lake of small volumes: a series of real headers, many times with other labels."""
    folder = tmp_path_factory.mktemp("train")
    write_series(folder / "in", 1, 18, SeriesDescription="Thorax 5.0 B31f")
    harvest(HarvestConfig((str(folder / "in"),), lake=str(folder / "one"), phi="keep"))
    label(LabelConfig(str(folder / "one")))
    with radnet_lake.connect(str(folder / "one")) as connection:
        series = connection.sql(_LABELS.format(count=SERIES_COUNT)).to_arrow_table()
    lake = create_lake(str(folder / "lake"), "keep", "")
    labels = open_lake(str(folder / "one")).snapshot.labels
    lake.commit(add=[lake.write_part("series", series, "copied")], labels=labels)
    uids, version = series["SeriesInstanceUID"].to_pylist(), SETTINGS.version()
    shard = write_shard(lake, version, [(uid, draw_volume(uid), {}) for uid in uids])
    rows = [
        {"SeriesInstanceUID": uid, "preprocessing": version, "shard": shard.name, "position": n}
        for n, uid in enumerate(uids)
    ]
    table = pa.Table.from_pylist(rows, schema.TABLES["volumes"])
    lake.commit(add=[shard, lake.write_part("volumes", table, "made")])
    record = json.dumps({"settings": dataclasses.asdict(SETTINGS)}).encode()
    lake.folder.write(f"tensors/{version}/settings.json", record)
    return lake


def run(lake: Lake, out: Path | str, **settings: Any) -> TrainReport:
    return train(TrainConfig(out=str(out), lake=lake.uri, **{**SMALL, **settings}))


@pytest.fixture(scope="module")
def whole(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, TrainReport]:
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    report = run(lake, out, **LONG)
    return RunFolder(str(out)), report


def read_losses(folder: RunFolder) -> list[tuple[Any, ...]]:
    """Everything of metrics.csv but times."""
    names = [name for name in METRICS.names if name not in ("seconds", "volumes_per_s")]
    return [tuple(row.values()) for row in folder.read_metrics().select(names).to_pylist()]


def assert_same_course(folder: RunFolder, whole: RunFolder) -> None:
    found, expected = read_losses(folder), read_losses(whole)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one[3:] == pytest.approx(other[3:], rel=1e-4, abs=1e-5)


def test_the_run_folder_tells_all(whole: tuple[RunFolder, TrainReport], lake: Lake) -> None:
    folder, report = whole
    series = folder.read_series()
    assert series.schema.equals(SERIES)
    assert series.num_rows == SERIES_COUNT
    about = folder.read_run()
    assert about["series"] == report.series
    assert sum(report.series.values()) == SERIES_COUNT
    assert about["lake_version"] == lake.snapshot.version
    assert about["mode"] == "default"
    assert about["preprocessing"] == SETTINGS.version()
    assert about["machine"]["workers"] == 2
    assert about["classes"]["train"]["sequence"]["T2-FLAIR"] == 0
    assert any("T2-FLAIR" in text for text in report.warnings)
    config = folder.read_config()
    assert (config["lake"], config["epochs"], config["seed"]) == (lake.uri, EPOCHS, 0)
    rows = folder.read_metrics().to_pylist()
    assert [(row["epoch"], row["split"]) for row in rows] == [
        (epoch, split) for epoch in range(EPOCHS) for split in ("train", "validation")
    ]
    steps = report.series["train"] // 8
    assert [row["step"] for row in rows[::2]] == [steps * n for n in range(1, EPOCHS + 1)]
    assert rows[-2]["loss"] < 0.8 * rows[0]["loss"]
    best = min(rows[1::2], key=lambda row: row["loss"])["epoch"]
    assert report.best_epoch == best
    assert folder.read_checkpoint("best")["progress"]["best_epoch"] == best
    state = folder.read_checkpoint("last")
    assert state["progress"]["epoch"] == EPOCHS
    # All but the condition, which may name patients.
    assert state["run"]["config"] | {"where": ""} == config
    assert state["settings"] == dataclasses.asdict(SETTINGS)
    assert not load_network(folder.uri).training
    text = json.dumps([about, config])
    assert "PatientID" not in text
    assert ".dcm" not in text


def await_metrics(folder: RunFolder, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 200
    while not folder.read_metrics().num_rows:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_neither_a_killed_driver_nor_a_killed_worker_changes_the_course(
    lake: Lake,
    whole: tuple[RunFolder, TrainReport],
    s3: S3Server,
    ray_local: str,
    tmp_path: Path,
) -> None:
    folder = RunFolder(f"s3://{s3.bucket()}/run")
    flags = [
        word
        for name, value in LONG.items()
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]
    command = [COMMAND, "train", "--lake", lake.uri, "--out", folder.uri, *flags]
    env = {**os.environ, "RADNET_LAKE_KEY": KEY, "RAY_ADDRESS": ray_local}
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env=env, start_new_session=True)
    try:
        await_metrics(folder, process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    left = (
        folder.read_checkpoint("last")["progress"]["epoch"] if folder.has_checkpoint("last") else 0
    )
    assert left < EPOCHS
    killed: list[tuple[int, int]] = []

    def kill_one(done: int, expected: int | None, *_: Any, **__: Any) -> None:
        if done and not killed:
            assert kill_worker("RayTrainWorker")
            killed.append((done, expected or 0))

    report = train(resume_config(folder.uri), kill_one)
    assert killed
    assert 0 < killed[0][0] < killed[0][1]
    assert report.epoch == EPOCHS
    assert_same_course(folder, whole[0])


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_at_once(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["--depth", "10", "--width", "4", "--batch", "8", "--learning-rate", "1e30"]
    status = main(["train", "--lake", lake.uri, "--out", str(out), "--warmup", "0", *flags])
    assert status == 1
    stated = capsys.readouterr().err.strip().splitlines()
    assert stated[-1].startswith("error: epoch 0, step ")
    assert "not finite" in stated[-1]
    assert "Traceback" not in "".join(stated)
    assert not RunFolder(str(out)).has_checkpoint("last")


def copy_run(whole: tuple[RunFolder, TrainReport], tmp_path: Path) -> str:
    return str(shutil.copytree(whole[0].uri, tmp_path / "run"))


def test_settings_of_a_run_cannot_change(
    whole: tuple[RunFolder, TrainReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_run(whole, tmp_path)
    assert main(["train", "--resume", "--out", out, "--width", "8"]) == 2
    assert "error: --width: the run was started with 4, not 8" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", out, "--no-augment"]) == 2
    assert "error: --augment: the run was started with True, not False" in capsys.readouterr().err
    with pytest.raises(SettingError, match="is no run folder"):
        resume_config(str(tmp_path / "other"))
    folder = RunFolder(out)
    folder.write_config(folder.read_config() | {"depht": 10})
    with pytest.raises(SettingError, match=r"config\.json: unknown settings: depht; take them out"):
        resume_config(out)


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_epochs_and_from_its_best_checkpoint(
    whole: tuple[RunFolder, TrainReport], tmp_path: Path
) -> None:
    out = copy_run(whole, tmp_path)
    with pytest.raises(SettingError, match=r"holds a run already.*--resume --out"):
        train(TrainConfig(out=out, lake=whole[0].read_config()["lake"], **LONG))
    last, best = (Path(out, "checkpoints", name) for name in ("last.pt", "best.safetensors"))
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"last\.pt.*copy checkpoints/best\.safetensors"):
        train(resume_config(out))
    shutil.copy(best, last)
    report = train(resume_config(out, epochs=EPOCHS + 1, workers=1))
    assert report.epoch == EPOCHS + 1
    assert RunFolder(out).read_metrics()["epoch"].to_pylist()[::2] == list(range(EPOCHS + 1))


@pytest.mark.parametrize(
    ("wrong", "stated"),
    [
        ({"batch": 5, "accumulate": 3}, "--batch: 5 are too few for 2 workers x 3"),
        ({"batch": 512}, "--batch: the training split has"),
        ({"depth": 11}, "--depth: 11 is unknown"),
        ({"precision": "fp16"}, "--precision: fp16 needs a GPU"),
        ({"preprocessing": "16x32x32"}, "has a stored volume of .*radnet-lake preprocess"),
        ({"preprocessing": "1-none"}, "--preprocessing: 1-none is not in the lake; name one of"),
        ({"where": "sequence = 'nothing'"}, "the training set holds no such series"),
        ({"where": "sequens is null"}, "(?s)where.*sequens.*describe training_set"),
        ({"elastic": 4}, "--elastic: is more than --workers"),
        ({"learning_rate": -1.0}, "--learning-rate: -1.0 is too small"),
    ],
)
def test_wrong_settings_are_told_before_any_work(
    wrong: dict[str, Any], stated: str, lake: Lake, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=stated):
        run(lake, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def make_counts(change: Callable[[str, int], int]) -> dict[str, dict[str, int]]:
    heads = read_heads()
    return {
        head.name: {"known": change("known", 0), "unknown": 0}
        if head.kind == "scalar"
        else {name: change(name, n) for n, name in enumerate(head.classes)} | {"unknown": 0}
        for head in heads
    }


def test_rare_classes_count_more_and_absent_ones_nothing() -> None:
    counts = make_counts(lambda name, n: 0 if name in ("T2-FLAIR", "breast") else 1000 >> n)
    weights, warnings = weigh_classes(counts, read_heads(), balance=True)
    sequence = weights["sequence"]
    assert sequence[0] < sequence[1] < sequence[2] < sequence[3]
    assert sequence[1] / sequence[0] == pytest.approx(2**0.5)
    assert sequence[4] == 0
    assert sum(w * (1000 >> n) for n, w in enumerate(sequence[:4])) == pytest.approx(1875)
    assert weights["coverage"][0] == 1
    assert weights["coverage"][3] > weights["coverage"][2] > 1
    assert [text.rpartition(": ")[2] for text in warnings] == ["T2-FLAIR", "breast"]
    plain, _ = weigh_classes(counts, read_heads(), balance=False)
    assert plain["sequence"] == [1, 1, 1, 1, 0]
    with pytest.raises(SettingError, match="no series of the training split has a label"):
        weigh_classes(make_counts(lambda name, n: 0), read_heads(), balance=False)


def test_unknown_labels_are_counted_as_such() -> None:
    rows = [
        {"SeriesInstanceUID": "1", "sequence": -1, "view": 0, "contrast": 1, "spacing": None}
        | {"coverage": [-1] * 9},
        {"SeriesInstanceUID": "2", "sequence": 4, "view": 0, "contrast": 0, "spacing": 2.0}
        | {"coverage": [1, *[0] * 8]},
    ]
    counts = count_classes(pa.Table.from_pylist(rows), read_heads())
    assert (counts["sequence"]["T2-FLAIR"], counts["sequence"]["unknown"]) == (1, 1)
    assert (counts["coverage"]["brain"], counts["coverage"]["unknown"]) == (1, 1)
    assert counts["spacing"] == {"known": 1, "unknown": 1}


def test_settings_come_from_a_file_and_flags_overrule_them(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"lake": lake.uri, "batch": 1, "workers": 2}))
    words = ["train", "--out", str(tmp_path / "run"), "--config", str(file)]
    assert main(words) == 2
    assert "1 are too few for 2 workers" in capsys.readouterr().err
    assert main([*words, "--batch", "512"]) == 2
    assert "fewer than a batch of 512" in capsys.readouterr().err
    file.write_text(json.dumps({"batches": 9}))
    assert main(words) == 2
    assert "unknown settings: batches" in capsys.readouterr().err


def test_errors_of_strangers_are_a_line() -> None:
    from ray.train.v2.api.exceptions import WorkerGroupError

    from radnet_lake.train.ray_train import _to_own

    error = _to_own(WorkerGroupError("long trace", {0: MemoryError("out of memory\nmore")}))
    assert isinstance(error, RadnetLakeError)
    assert str(error).startswith("training: a worker failed: MemoryError: out of memory; ")
