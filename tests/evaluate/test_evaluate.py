"""`radnet-lake evaluate`: Table 1 of a run, against the labels that the run froze."""

import contextlib
import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from s3_server import S3Server

import radnet_lake
from radnet_lake import schema
from radnet_lake.cli.app import main
from radnet_lake.errors import CheckpointError, LakeError, SettingError
from radnet_lake.evaluate.evaluate import EvaluateConfig, evaluate
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake.log import open_lake
from radnet_lake.network.checkpoint import describe_network
from radnet_lake.network.heads import read_heads
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.phantom.phantom import PhantomConfig, phantom
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.shard import write_shard
from radnet_lake.volume.stream import StreamConfig, index_series

SETTINGS = ResampleSettings(slices=8, rows=24, columns=24)
FILES = {
    "predictions.parquet", "table1.md", "table1.csv", "confusion.png", "roc.png",
    "reliability.png", "spacing.png", "losses.png",
}  # fmt: skip
SPACING_CM = 0.5


class Made(NamedTuple):
    """A labelled lake; its series with the labels that runs are given, all but one with volumes."""

    lake: str
    series: pa.Table
    patients: list[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ray_local: str) -> Made:
    folder = tmp_path_factory.mktemp("evaluate")
    phantom(PhantomConfig(out=str(folder / "archive"), patients=2, seed=3, size=48))
    uri = str(folder / "lake")
    harvest(HarvestConfig((str(folder / "archive"),), lake=uri, phi="keep", collection="a phantom"))
    label(LabelConfig(uri))
    lake = open_lake(uri)
    with radnet_lake.connect(uri) as connection:
        rows = connection.sql(
            "select SeriesInstanceUID, PatientID from training_set order by all"
        ).fetchall()
    rng = np.random.default_rng(0)
    shape = (SETTINGS.slices, SETTINGS.rows, SETTINGS.columns)
    volumes = [(uid, rng.integers(0, 256, shape, np.uint8)) for uid, _ in rows]
    labels = {"sequence": "CT", "view": "axial", "coverage": ["brain"]}
    part = write_shard(lake, SETTINGS.version(), [(*one, labels) for one in volumes])
    stored = [
        {"SeriesInstanceUID": uid, "preprocessing": SETTINGS.version(), "position": n}
        | {"shard": part.name}
        for n, (uid, _) in enumerate(volumes)
    ]
    # The last series has no volume.
    table = pa.Table.from_pylist(stored[:-1], schema.TABLES["volumes"])
    lake.commit(add=[part, lake.write_part("volumes", table, "made")])
    series = index_series(StreamConfig(uri, split="", source="lake", settings=SETTINGS)).rows
    split = ["train", "test"] * (series.num_rows // 2) + ["test"] * (series.num_rows % 2)
    split[-1] = "test"
    # As a run froze them: the lake's own labels of sequence say otherwise.
    frozen = pa.array([n % 3 - 1 for n in range(series.num_rows)], pa.int8())
    place = series.schema.get_field_index("sequence")
    series = series.set_column(place, "sequence", frozen).append_column("split", pa.array(split))
    return Made(uri, series, [patient for _, patient in rows])


def rig_network() -> RadNet:
    """It says the same of every volume: T1-SE, sagittal, contrast, brain and liver, 5 mm."""
    network = RadNet(NetworkSettings(depth=10, width=4, features=16))
    said = {
        "sequence": [0, 2, 0, 0, 0],
        "view": [0, 0, 3],
        "contrast": [0, 1],
        "coverage": [1, -1, -1, -1, -1, 1, -1, -1, -1],
        "spacing": [SPACING_CM],
    }
    with torch.no_grad():
        for name, bias in said.items():
            network.heads[name].weight.zero_()
            network.heads[name].bias.copy_(torch.tensor(bias, dtype=torch.float32))
    return network


def write_run(made: Made, uri: str, lake: str = "", **changes: Any) -> RunFolder:
    """A run's folder as `train` leaves it, without the training. changes: of the checkpoint."""
    run = RunFolder(uri)
    run.write_config({"lake": lake or made.lake, "source": "tensors"})
    run.write_run({"lake": made.lake})
    run.write_series(made.series)
    run.write_metrics([{"epoch": 0, "step": 1, "split": s, "loss": 2.0} for s in ("train", "test")])
    state = describe_network(rig_network())
    state |= {"preprocessing": SETTINGS.version(), "settings": asdict(SETTINGS)}
    run.write_checkpoint(state | {"run": {}, "progress": {"epoch": 1}} | changes, "best")
    return run


def read_numbers(run: RunFolder) -> dict[tuple[str, str, str], dict[str, str]]:
    text = run.folder.read("evaluation/test/table1.csv").decode()
    rows = csv.DictReader(io.StringIO(text))
    return {(row["label"], row["class"], row["measure"]): row for row in rows}


class Evaluated(NamedTuple):
    """An evaluation by the command, and what it printed."""

    run: RunFolder
    out: str


@pytest.fixture(scope="module")
def evaluated(made: Made, s3: S3Server) -> Evaluated:
    """Of a run on S3 whose lake has moved since."""
    run = write_run(made, f"s3://{s3.bucket()}/runs/one", lake="/gone")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["evaluate", run.uri, "--lake", made.lake, "--resamples", "100"]) == 0
    return Evaluated(run, out.getvalue())


def test_the_command_prints_table_1_and_writes_all_files_to_s3(
    made: Made, evaluated: Evaluated
) -> None:
    run, out = evaluated
    names = run.folder.names("evaluation/")
    assert names == sorted(f"evaluation/test/{name}" for name in FILES)
    assert out.startswith(run.folder.read("evaluation/test/table1.md").decode())
    assert f"{run.uri}/evaluation/test" in out
    wanted = made.series["split"].to_pylist().count("test")
    for words in (
        "PHANTOM DATA",
        f"{wanted - 1} series of 2 patients, split test of {made.lake}",
        f"a phantom {wanted - 1}",
        "LEFT OUT: 1 series",
        f"checkpoint best of {run.uri}, after 1 epoch",
    ):
        assert words in out, words


def test_labels_are_those_that_the_run_froze_and_units_are_mm(
    made: Made, evaluated: Evaluated
) -> None:
    test = [r for r in made.series.to_pylist() if r["split"] == "test"][:-1]
    numbers = read_numbers(evaluated.run)
    for head, said in (("sequence", 1), ("view", 2), ("contrast", 1)):
        known = np.array([r[head] for r in test if r[head] >= 0])
        total = numbers[head, "total", "accuracy"]
        assert int(total["samples"]) == len(known)
        assert float(total["value"]) == pytest.approx(np.mean(known == said), abs=1e-5)
    unknown = sum(r["sequence"] < 0 for r in test)
    assert unknown
    assert f"sequence {unknown}" in evaluated.out
    mm = np.array([r["spacing"] for r in test if r["spacing"] is not None])
    value = float(numbers["spacing", "total", "mae_mm"]["value"])
    assert value == pytest.approx(np.mean(abs(mm - 10 * SPACING_CM)), abs=1e-4)


def test_predictions_are_kept_with_labels_and_without_patients(
    made: Made, evaluated: Evaluated
) -> None:
    run = evaluated.run
    data = run.folder.read("evaluation/test/predictions.parquet")
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    frozen = {r["SeriesInstanceUID"]: r for r in made.series.to_pylist()}
    assert len(rows) == made.series["split"].to_pylist().count("test") - 1
    for row in rows:
        assert {"features", "PatientID"}.isdisjoint(row)
        assert row["sequence"] == frozen[row["SeriesInstanceUID"]]["sequence"]
        assert row["coverage"] == frozen[row["SeriesInstanceUID"]]["coverage"]
        assert sum(row["view_probabilities"]) == pytest.approx(1, abs=1e-5)
        assert row["coverage_probabilities"][5] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-5)
        assert row["spacing_mm"] == pytest.approx(10 * SPACING_CM, abs=1e-4)
    written = [run.folder.read(f"evaluation/test/{name}") for name in FILES]
    assert not any(p.encode() in data for p in set(made.patients) for data in written)


def test_what_cannot_be_evaluated_is_said_with_a_remedy(made: Made, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"is no run folder.*radnet-lake train"):
        evaluate(EvaluateConfig(str(tmp_path / "none")))
    run = write_run(made, str(tmp_path / "run"))
    with pytest.raises(SettingError, match=r"last\.pt: holds no checkpoint"):
        evaluate(EvaluateConfig(run.uri, checkpoint="last"))
    with pytest.raises(SettingError, match=r"no series of split validation.*test \(\d+\)"):
        evaluate(EvaluateConfig(run.uri, split="validation"))
    with pytest.raises(SettingError, match="--resamples: must be at least 100"):
        EvaluateConfig(run.uri, resamples=1)
    with pytest.raises(SettingError, match="--split: 'tset' is unknown; use train, validation"):
        EvaluateConfig(run.uri, split="tset")
    write_run(made, run.uri, settings=asdict(ResampleSettings(slices=9)))
    with pytest.raises(SettingError, match=r"has a stored volume.*radnet-lake preprocess"):
        evaluate(EvaluateConfig(run.uri))
    write_run(made, run.uri, settings={"slices": 9, "colour": "red"})
    with pytest.raises(CheckpointError, match=r"best\.safetensors: it does not say what volumes"):
        evaluate(EvaluateConfig(run.uri))
    write_run(made, run.uri, lake=str(tmp_path / "gone"))
    with pytest.raises(LakeError, match="gone"):
        evaluate(EvaluateConfig(run.uri))
    assert not run.folder.names("evaluation/")


def test_a_network_that_gives_nan_gets_no_table(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(made, str(tmp_path / "run"))

    def predict(*_: object, **__: object) -> Iterator[pa.Table]:
        uids = made.series.filter(pc.equal(made.series["split"], "test"))["SeriesInstanceUID"]
        columns: dict[str, Any] = {"SeriesInstanceUID": uids, "features": [[0.0]] * len(uids)}
        for head in read_heads()[:-1]:
            columns[f"{head.name}_probabilities"] = [[0.5] * len(head.classes)] * len(uids)
        columns["spacing_mm"] = [float("nan")] + [1.0] * (len(uids) - 1)
        yield pa.table(columns)

    monkeypatch.setattr("radnet_lake.evaluate.evaluate.stream_predictions", predict)
    with pytest.raises(CheckpointError, match=r"best\.safetensors: .* no number for 1 of"):
        evaluate(EvaluateConfig(run.uri, resamples=100))
    assert not run.folder.names("evaluation/")
