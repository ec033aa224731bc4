"""A run's folder: what is written is read again, and what is no run is refused."""

import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from s3_server import S3Server

from radnet_lake.errors import CheckpointError, SettingError, StoreError
from radnet_lake.network.checkpoint import describe_network
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.train.run_folder import METRICS, SERIES, RunFolder

SERIES_ROWS: list[dict[str, Any]] = [
    {"SeriesInstanceUID": "1.2.3", "split": "train", "sequence": 4, "view": -1, "contrast": 1}
    | {"coverage": [1, 0, -1, 0, 0, 0, 0, 0, 1], "spacing": 2.5},
    {"SeriesInstanceUID": "1.2.4", "split": "test", "sequence": -1, "view": 2, "contrast": -1}
    | {"coverage": [-1] * 9, "spacing": None},
]


def make_row(epoch: int, split: str, loss: float | None) -> dict[str, Any]:
    return dict.fromkeys(METRICS.names) | {"epoch": epoch, "step": 3, "split": split, "loss": loss}


def make_checkpoint(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    return describe_network(RadNet(NetworkSettings(depth=10, width=4, features=8)))


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> RunFolder:
    return RunFolder(str(tmp_path / "run") if request.param == "local" else f"s3://{s3.bucket()}/r")


def test_what_is_written_is_read_again(run: RunFolder) -> None:
    assert not run.exists()
    run.write_series(pa.Table.from_pylist(SERIES_ROWS, SERIES))
    run.write_run({"seed": 3})
    run.write_config({"epochs": 2})
    assert run.exists()
    assert run.read_series().to_pylist() == SERIES_ROWS
    assert run.read_run() == {"seed": 3}
    assert run.read_config() == {"epochs": 2}
    run.write_checkpoint(make_checkpoint(), "best")
    assert run.has_checkpoint("best")
    assert not run.has_checkpoint("last")
    model = run.read_checkpoint("best")["model"]
    torch.testing.assert_close(model, make_checkpoint()["model"])


def test_epochs_that_are_made_again_replace_their_rows(run: RunFolder) -> None:
    assert run.read_metrics().num_rows == 0
    for epoch, loss in ((0, 5.0), (1, 4.0), (2, 3.0), (1, 3.5)):
        run.write_metrics([make_row(epoch, "train", loss), make_row(epoch, "validation", None)])
    found = run.read_metrics().to_pylist()
    assert [(row["epoch"], row["split"], row["loss"]) for row in found] == [
        (0, "train", 5.0),
        (0, "validation", None),
        (1, "train", 3.5),
        (1, "validation", None),
    ]


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for read in (run.read_config, run.read_run, run.read_series):
        with pytest.raises(SettingError, match=r"is no run folder.*radnet-lake train --out"):
            read()
    with pytest.raises(SettingError, match=r"checkpoints/best\.safetensors.*train first"):
        run.read_checkpoint()


def test_damage_is_told(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    run.write_checkpoint(make_checkpoint(), "last")
    path = tmp_path / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"checkpoints/last\.pt"):
        run.read_checkpoint("last")
    (tmp_path / "config.json").write_text('{"epochs"')
    with pytest.raises(StoreError, match=r"config\.json: the file is damaged"):
        run.read_config()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    run.write_checkpoint(make_checkpoint(1), "last")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"checkpoints/last\.pt.*free space"):
            run.write_checkpoint(make_checkpoint(2), "last")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    model = run.read_checkpoint("last")["model"]
    torch.testing.assert_close(model, make_checkpoint(1)["model"])
    assert not list((tmp_path / ".tmp").iterdir())


def test_what_was_put_aside_is_no_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    run.folder.write("checkpoints/last.pt.bad", b"")
    run.folder.write("config.json.old", b"")
    assert not run.has_checkpoint("last")
    assert not run.exists()
