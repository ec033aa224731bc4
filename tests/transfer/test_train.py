"""A segmenter's training: what is frozen stays, what is interrupted goes on, shares are nested."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from radnet_lake.errors import CheckpointError, RadnetLakeError, SettingError
from radnet_lake.evaluate.evaluate import EvaluateConfig, evaluate
from radnet_lake.evaluate.predict import read_model
from radnet_lake.network.checkpoint import describe_network
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.network.vnet import load_segmenter
from radnet_lake.train import loop
from radnet_lake.train.pretrain_plan import resume_config
from radnet_lake.train.run_folder import MASK_METRICS, RunFolder
from radnet_lake.transfer.case_folder import CaseFolder, CaseSettings, StoredCase
from radnet_lake.transfer.train import train_here, train_liver
from radnet_lake.transfer.train_plan import LiverTrainConfig, draw_cases, list_examples
from radnet_lake.volume.resample import ResampleSettings

SIZE = ResampleSettings(16, 24, 24)
SETTINGS = CaseSettings("liver", SIZE, 15.0, 4, 0.9, "liver", "0123", "lake", 0)
SPLIT = ["train"] * 10 + ["validation"] * 2 + ["test"] * 2
NETWORK = NetworkSettings(depth=10, width=4, features=8, stem_stride=1)


def write_case(folder: CaseFolder, n: int, split: str) -> dict[str, Any]:
    """A bright ball in noise, somewhere in 20 slices; two windows, of which both are chosen."""
    rng = np.random.default_rng(n)
    middle, radius = rng.uniform((7, 9, 9), (13, 21, 21)), rng.uniform(4, 7)
    place = np.stack(np.meshgrid(*map(np.arange, (20, 30, 30)), indexing="ij"), -1)
    mask = np.linalg.norm(place - middle, axis=-1) < radius
    image = rng.normal(0, 30, mask.shape) + 300 * mask
    steps = np.diag([15.0, 4.0, 4.0])[:, ::-1]
    case = StoredCase(image.astype(np.int16), mask.astype(np.uint8), np.zeros(3), steps)
    row = {
        "case": f"c{n:02d}", "patient": f"p{n // 2}", "split": split, "depth": 20, "rows": 30,
        "columns": 30, "starts": [0, 4], "scores": [0.95, 0.97], "chosen": [0, 1],
        "is_known": False, "notes": [], "reason": None,
    }  # fmt: skip
    folder.write_case(row["case"], case, row)
    return row


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(3)
    torch.set_num_threads(1)
    folder = CaseFolder(str(tmp_path_factory.mktemp("cases")))
    folder.write_settings(SETTINGS)
    folder.write_network(describe_network(RadNet(NETWORK)) | {"settings": {}})
    rows = [write_case(folder, n, split) for n, split in enumerate(SPLIT)]
    rows.append({"case": "bad", "patient": "p", "reason": "no_mask", "notes": []})
    folder.write_cases(rows)
    return folder.uri


def small(cases: str, out: Path, **changes: Any) -> LiverTrainConfig:
    common = {"decoder_width": 4, "epochs": 4, "learning_rate": 0.02, "freeze": "all"}
    return LiverTrainConfig(out=str(out), cases=cases, **common | changes)


def read_rows(out: Path) -> list[dict[str, Any]]:
    rows = RunFolder(str(out)).read_metrics().to_pylist()
    return [{k: v for k, v in row.items() if k not in ("seconds", "volumes_per_s")} for row in rows]


@pytest.mark.long
def test_a_frozen_encoder_stays_and_the_decoder_learns(cases: str, tmp_path: Path) -> None:
    report = train_here(small(cases, tmp_path / "run", epochs=8))
    assert report.series == {"train": 10, "validation": 2}
    run = RunFolder(report.run)
    metrics = run.read_metrics()
    assert metrics.schema.names == MASK_METRICS.names
    checked = [row for row in metrics.to_pylist() if row["split"] == "validation"]
    assert checked[-1]["dice"] > 0.8 > checked[0]["dice"]
    pretrained = CaseFolder(cases).read_network()["model"]
    found = run.read_checkpoint("best")
    for name, weight in found["model"].items():
        if name.startswith("encoder."):
            torch.testing.assert_close(weight, pretrained[name], rtol=0, atol=0)
    assert found["organ"] == "liver"
    assert found["cases"] == SETTINGS.describe()
    assert not load_segmenter(report.run).training
    assert run.folder.read("regions.pt")


@pytest.mark.long
@pytest.mark.parametrize(("freeze", "kept"), [("2", 2), ("none", -1), ("scratch", -1)])
def test_what_is_frozen_stays_with_its_statistics(
    cases: str, tmp_path: Path, freeze: str, kept: int
) -> None:
    train_here(small(cases, tmp_path, epochs=1, freeze=freeze))
    pretrained = CaseFolder(cases).read_network()["model"]
    model = RunFolder(str(tmp_path)).read_checkpoint("best")["model"]
    stages = ["conv1", "bn1.running_mean", *(f"layer{n}.0.bn1.running_mean" for n in range(1, 5))]
    for n, stage in zip((0, 0, 1, 2, 3, 4), stages, strict=True):
        name = next(name for name in model if name.startswith(f"encoder.{stage}"))
        assert torch.equal(model[name], pretrained[name]) == (n <= kept), name


@pytest.mark.long
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    cases: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small(cases, tmp_path / "whole", freeze="3")
    train_here(whole)
    stopped = replace(whole, out=str(tmp_path / "stopped"))
    save = loop._Worker._save

    def stop(worker: Any, name: str) -> None:
        save(worker, name)
        if name == "last" and worker.progress.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Worker, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            train_here(stopped)
    assert len(read_rows(tmp_path / "stopped")) == 4
    train_here(replace(stopped, resume=True))
    assert read_rows(tmp_path / "stopped") == read_rows(tmp_path / "whole")


@pytest.mark.usefixtures("ray_local")
def test_two_workers_on_ray_learn_what_one_does(cases: str, tmp_path: Path) -> None:
    alone = small(cases, tmp_path / "alone", epochs=1, clip=0.0)
    train_here(alone)
    report = train_liver(replace(alone, out=str(tmp_path / "two"), workers=2))
    assert report.rows[-1]["split"] == "validation"
    found, wanted = read_rows(tmp_path / "two"), read_rows(tmp_path / "alone")
    for row, other in zip(found, wanted, strict=True):
        assert row.pop("split") == other.pop("split")
        assert row == pytest.approx(other, rel=1e-3)


def test_a_segmenter_s_run_is_not_taken_for_a_pretraining(cases: str, tmp_path: Path) -> None:
    train_here(small(cases, tmp_path, epochs=1))
    with pytest.raises(SettingError, match="liver evaluate"):
        evaluate(EvaluateConfig(str(tmp_path)))
    with pytest.raises(CheckpointError, match="segmenter"):
        read_model(str(tmp_path), "best")
    with pytest.raises(SettingError, match="and the command that wrote them"):
        resume_config(str(tmp_path))


def test_boxes_to_refine_in_hold_the_organ(cases: str, tmp_path: Path) -> None:
    config = small(cases, tmp_path, refine=True, margin_mm=12.0)
    folder = CaseFolder(cases)
    examples = list_examples(config, folder, SETTINGS, "train")
    assert len(examples) == 20
    for case, region in examples:
        mask = folder.read_case(case).mask
        assert mask[region.clip(20)].sum() == mask.sum()
        assert region.shape[1] <= 30
    assert list_examples(config, folder, SETTINGS, "train") == examples
    train_here(replace(config, epochs=1))
    assert RunFolder(str(tmp_path)).read_checkpoint("best")["refine"] is True


def test_shares_are_nested_and_drawn_by_seed(cases: str) -> None:
    rows = CaseFolder(cases).read_cases()
    drawn = {share: set(draw_cases(rows, "train", share, 5)) for share in (0.2, 0.4, 0.6, 1.0)}
    assert [len(some) for some in drawn.values()] == [2, 4, 6, 10]
    assert drawn[0.2] < drawn[0.4] < drawn[0.6] < drawn[1.0]
    assert len({tuple(draw_cases(rows, "train", 0.2, seed)) for seed in range(9)}) > 1
    assert set(draw_cases(rows, "validation", 1.0, 5)) == {"c10", "c11"}


def test_a_share_is_one_of_patients_whatever_cases_each_has() -> None:
    patients = ["p0"] * 10 + [f"p{n}" for n in range(1, 11)]
    rows = pa.table(
        {
            "case": [f"c{n:02d}" for n in range(20)],
            "patient": patients,
            "split": ["train"] * 20,
            "reason": pa.nulls(20, pa.string()),
        }
    )
    for seed in range(9):
        drawn = draw_cases(rows, "train", 0.2, seed)
        assert len({patients[int(name[1:])] for name in drawn}) == 2
        assert len(drawn) in (2, 11)


@pytest.mark.long
def test_a_run_goes_on_with_cases_that_were_moved_but_not_with_others(
    cases: str, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(cases, moved)
    config = small(str(moved), tmp_path / "run", epochs=2, freeze="none")
    train_here(config)
    (tmp_path / "run/checkpoints/last.pt").unlink()  # as if killed before the first one
    shutil.rmtree(moved)
    config = replace(config, cases=cases, resume=True)
    train_here(config)
    whole = small(cases, tmp_path / "whole", epochs=2, freeze="none")
    train_here(whole)
    assert read_rows(tmp_path / "run") == read_rows(tmp_path / "whole")
    other = CaseFolder(str(tmp_path / "other"))
    other.write_settings(replace(SETTINGS, spacing_mm=5.0))
    with pytest.raises(SettingError, match="slice spacing is 5 mm, the run's 15 mm"):
        train_here(replace(config, cases=other.uri))
    other.write_settings(SETTINGS)
    rows = CaseFolder(cases).read_cases().to_pylist()
    other.write_cases([row | {"columns": 29} for row in rows])
    with pytest.raises(SettingError, match="case c00 is not the one that the run learned from"):
        train_here(replace(config, cases=other.uri))


def test_what_does_not_fit_is_told(cases: str, tmp_path: Path) -> None:
    config = small(cases, tmp_path / "run")
    with pytest.raises(SettingError, match=r"--depth: the weights .* have depth 10, not 50"):
        train_here(replace(config, depth=50))
    with pytest.raises(SettingError, match=r"--batch: .* 20 windows, fewer than a batch of 32"):
        train_here(replace(config, batch=32))
    with pytest.raises(SettingError, match="no cases are named"):
        train_here(replace(config, cases=""))
    with pytest.raises(SettingError, match="liver prepare"):
        train_here(replace(config, cases=str(tmp_path)))
    assert not (tmp_path / "run").exists()
    other = tmp_path / "other.pt"
    torch.save({"conv1.weight": torch.zeros(4, 1, 7, 7, 7)}, other)
    wanted = replace(config, init=str(other), depth=10, width=4, stem_stride=1)
    for freeze in ("all", "none"):
        with pytest.raises(CheckpointError, match="weights of the encoder are not in it"):
            train_here(replace(wanted, freeze=freeze))
    train_here(replace(config, epochs=1))
    with pytest.raises(SettingError, match="holds a run already"):
        train_here(config)
    with pytest.raises(SettingError, match="--freeze: the run was started with 'all'"):
        train_here(replace(config, epochs=1, freeze="1", resume=True))
    with pytest.raises(RadnetLakeError, match="run"):
        train_here(replace(config, resume=True, out=str(tmp_path / "nothing")))
