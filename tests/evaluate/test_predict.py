"""What a user of `radnet-lake predict` relies on, with real DICOM, a network and a real Ray."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest
import torch

import radnet_lake
from radnet_lake.cli.app import main
from radnet_lake.errors import CheckpointError, LakeError, SettingError
from radnet_lake.evaluate.evaluate import EvaluateConfig, evaluate
from radnet_lake.evaluate.predict import PredictConfig, PredictReport, predict, read_model
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake.log import create_lake, open_lake
from radnet_lake.network.checkpoint import build_network, describe_network
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.phantom.phantom import PhantomConfig, phantom
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.volume.preprocess import PreprocessConfig, preprocess
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.shard import read_volumes

SETTINGS = ResampleSettings(slices=16, rows=24, columns=24)
TELLING = (
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "SequenceName", "EchoTrainLength"),
    *("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle"),
    *("SeriesDescription", "StudyDescription", "ProtocolName"),
)
"""What a header can leave out, so that nothing tells the sequence."""
SILENT, DAMAGED = "1.2.826.1", "1.2.826.2"
"""Series that no header says the sequence of; one has pixels, the other too few of them."""
NUMBERS = ("sequence_probability", "view_probability", "contrast_probability")

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(900)]


class Made(NamedTuple):
    lake: Path
    run: str
    state: dict[str, Any]


def copy_series(files: list[Path], target: Path, change: Callable[[Any], None]) -> None:
    """The files of a series as another series, which they name after the target's folder."""
    target.mkdir()
    for n, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = target.name
        dataset.SOPInstanceUID = f"{target.name}.{n}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        change(dataset)
        dataset.save_as(target / str(n))


def silence(dataset: pydicom.Dataset) -> None:
    for keyword in TELLING:
        if keyword in dataset:
            del dataset[keyword]


def cut(dataset: pydicom.Dataset) -> None:
    silence(dataset)
    dataset.PixelData = dataset.PixelData[:-2000]


def write_run(folder: Path, seed: int, lake: str) -> Made:
    """A run's folder with a network that nobody trained, but that tells volumes apart."""
    torch.manual_seed(seed)
    network = RadNet(NetworkSettings(depth=10, width=4))
    places = ask(lake, "select shard, position from volumes order by all")
    volumes = [read_volumes(open_lake(lake), p["shard"], [p["position"]]) for p in places]
    batch = torch.from_numpy(np.stack(volumes))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                torch.nn.init.ones_(module.weight)
                module.momentum = 1.0
        network(batch)
        logits = network.eval()(batch).logits
        for name, head in network.heads.items():
            scale = 2 / logits[name].std(0)
            head.weight *= scale[:, None]
            head.bias.copy_((head.bias - logits[name].mean(0)) * scale)
    provenance = {"preprocessing": SETTINGS.version(), "settings": asdict(SETTINGS), "run": {}}
    state = describe_network(network) | provenance
    run = RunFolder(str(folder))
    run.write_config({})
    run.write_checkpoint(state, "best")
    return Made(Path(lake), str(folder), state)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ray_local: str) -> Made:
    """A lake with volumes of its training set, two series more that are not in it, and a run."""
    folder = tmp_path_factory.mktemp("predict")
    archive, lake = folder / "archive", str(folder / "lake")
    phantom(PhantomConfig(out=str(archive), patients=1, seed=11, size=48))
    files = sorted(next(archive.rglob("t2_tse_tra_0006")).iterdir())
    copy_series(files, archive / SILENT, silence)
    copy_series(files, archive / DAMAGED, cut)
    harvest(HarvestConfig((str(archive),), lake=lake, phi="keep"))
    label(LabelConfig(lake))
    preprocess(PreprocessConfig(lake, slices=16, rows=24, columns=24))
    return write_run(folder / "run", 1, lake)


def copy(made: Made, folder: Path) -> str:
    return str(shutil.copytree(made.lake, folder / "lake"))


def ask(lake: Path | str, sql: str) -> list[dict[str, Any]]:
    with radnet_lake.connect(str(lake)) as connection:
        rows: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
    return rows


def run(made: Made, lake: Path | str, **settings: Any) -> PredictReport:
    report = predict(PredictConfig(**{"run": made.run, "lake": str(lake)} | settings))
    assert report.wanted == report.predicted + report.failed + report.known
    return report


@pytest.fixture(scope="module")
def stated(made: Made) -> dict[str, dict[str, Any]]:
    """What the command predicts of the whole lake: SeriesInstanceUID -> row, with features."""
    assert main(["predict", "--run", made.run, "--lake", str(made.lake)]) == 0
    rows = ask(
        made.lake,
        "select p.*, f.features from predictions as p"
        " left join features as f using (SeriesInstanceUID, checkpoint)",
    )
    return {row["SeriesInstanceUID"]: row for row in rows}


def test_predictions_are_what_the_network_says_of_the_stored_volumes(
    made: Made, stated: dict[str, dict[str, Any]]
) -> None:
    network, lake = build_network(made.state), open_lake(str(made.lake))
    stored = ask(made.lake, "select SeriesInstanceUID, shard, position from volumes")
    assert len(stored) > 10
    classes = {head.name: head.classes for head in network.labels}
    for place in stored:
        volume = read_volumes(lake, place["shard"], [place["position"]])
        with torch.inference_mode():
            output = network(torch.from_numpy(volume)[:, None])
        row = stated[place["SeriesInstanceUID"]]
        for name in ("sequence", "view", "contrast"):
            shares = output.logits[name][0].softmax(0)
            expected = dict(zip(classes[name], shares.tolist(), strict=True))
            assert dict(row[f"{name}_probabilities"]) == pytest.approx(expected, abs=1e-3)
            best = max(expected, key=lambda c: expected[c])
            assert row[name] == ({"Contrast": True, "No Contrast": False}.get(best, best))
            assert row[f"{name}_probability"] == pytest.approx(expected[best], abs=1e-3)
        shares = output.logits["coverage"][0].sigmoid()
        assert [p for _, p in row["coverage_probabilities"]] == pytest.approx(
            shares.tolist(), abs=1e-3
        )
        assert row["coverage"] == [r for r, p in row["coverage_probabilities"] if p >= 0.5]
        spacing = float(output.logits["spacing"][0, 0]) * 10
        assert row["effective_spacing_mm"] == pytest.approx(spacing, rel=1e-3, abs=1e-2)
        np.testing.assert_allclose(row["features"], output.features[0], rtol=1e-3, atol=1e-4)
        assert len(row["features"]) == 1000
    # The network tells volumes apart, or all this says little.
    assert (
        np.ptp([row["sequence_probability"] for row in stated.values() if not row["reason"]]) > 0.1
    )


def test_series_out_for_their_headers_alone_are_predicted(
    made: Made, stated: dict[str, dict[str, Any]]
) -> None:
    out = ask(made.lake, "select SeriesInstanceUID, exclusions from series")
    harmless = {"nodesc", "time", "seq", "stir", "view", "conflict"}
    assert set(stated) == {r["SeriesInstanceUID"] for r in out if harmless >= {*r["exclusions"]}}
    assert {r["excluded_by"] for r in ask(made.lake, "from series")} > {"nodesc", "time", "geom"}
    filled = ask(made.lake, f"from filled_labels where SeriesInstanceUID = '{SILENT}'")
    assert [(row["label"], row["value"]) for row in filled] == [
        ("sequence", stated[SILENT]["sequence"])
    ]
    assert (stated[DAMAGED]["reason"], stated[DAMAGED]["is_final"]) == ("truncated_pixels", True)
    assert stated[DAMAGED]["sequence"] is None
    assert stated[DAMAGED]["features"] is None


def test_a_second_run_predicts_nothing_and_failures_are_tried_again_when_asked(
    made: Made, stated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    again = run(made, made.lake)
    assert (again.known, again.known_failed, again.wanted) == (len(stated), 1, len(stated))
    where = f"SeriesInstanceUID in ('{SILENT}', '{DAMAGED}')"
    once_more = run(made, copy(made, tmp_path), where=where, retry=True)
    assert (once_more.known, dict(once_more.reasons)) == (1, {"truncated_pixels": 1})


@pytest.mark.slow
def test_files_give_the_predictions_of_the_stored_volumes(
    made: Made, stated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    lake, second = copy(made, tmp_path / "first"), copy(made, tmp_path / "second")
    other = write_run(tmp_path / "run", 2, lake)
    stored = run(other, second, source="tensors", where="\"view\" <> 'coronal'")
    read = run(other, lake, source="lake", where="\"view\" <> 'coronal' and excluded_by is null")
    assert stored.predicted == read.predicted > 5
    assert (stored.failed, read.failed, stored.known, read.known) == (0, 0, 0, 0)
    query = "select * exclude (predicted_at) from predictions where checkpoint = '{}' order by all"
    rows = [ask(uri, query.format(stored.checkpoint)) for uri in (second, lake)]
    assert len(rows[0]) == stored.predicted
    for one, same in zip(*rows, strict=True):
        for name in NUMBERS:
            assert one.pop(name) == pytest.approx(same.pop(name), abs=1e-3)
        assert one["SeriesInstanceUID"] == same["SeriesInstanceUID"]
        assert one["slices"] == same["slices"] == SETTINGS.slices
    # The first network's predictions stay beside them.
    counts = ask(second, "select checkpoint, count(*) as n from predictions group by all")
    assert sorted(row["n"] for row in counts) == sorted([stored.predicted, len(stated)])


def test_an_interrupted_run_keeps_what_it_committed_and_is_finished_by_the_next(
    made: Made, stated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    lake = copy(made, tmp_path)
    other = write_run(tmp_path / "run", 3, lake)

    def interrupt(done: int, *_: Any, **__: Any) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(PredictConfig(run=other.run, lake=lake, source="tensors"), interrupt)
    mine = f"where checkpoint <> '{stated[SILENT]['checkpoint']}'"
    kept = ask(lake, f"select SeriesInstanceUID from predictions {mine}")
    assert kept
    assert len(ask(lake, f"from features {mine}")) == len(kept)
    rest = run(other, lake, source="tensors")
    assert (rest.known, rest.wanted) == (len(kept), rest.predicted + len(kept))


def test_a_series_whose_files_changed_is_predicted_anew(
    made: Made, stated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    lake = open_lake(copy(made, tmp_path))
    changed = f"if(SeriesInstanceUID = '{SILENT}', n_frames + 1, n_frames) as n_frames"
    with radnet_lake.connect(lake.uri) as connection:
        rows = connection.sql(f"select * replace ({changed}) from stored.series").to_arrow_table()
    old = [part.name for part in lake.snapshot.of("series")]
    lake.commit(add=[lake.write_part("series", rows, "made")], remove=old)
    report = run(made, lake.uri)
    assert (report.predicted, report.known) == (1, len(stated) - 1)
    assert len(ask(lake.uri, "from predictions")) == len(stated)


@pytest.mark.parametrize(
    ("settings", "stated"),
    [
        ({"run": "/nowhere"}, "is no run folder"),
        ({"checkpoint": "last"}, "no checkpoint of that name"),
        ({"where": "no_such_column = 1"}, "--where: .*describe series"),
        ({"where": "Modality = 'US'"}, "no such series that can be a volume"),
        ({"where": f"SeriesInstanceUID = '{SILENT}'", "source": "tensors"}, "none of 1 series"),
        ({"gpu": True}, "--gpu: the Ray cluster has 0 GPUs"),
        ({"batch": 0}, "--batch: must be at least 1"),
    ],
)
def test_what_cannot_be_predicted_is_told_with_the_remedy(
    made: Made, settings: dict[str, Any], stated: str, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "run", 9, str(made.lake)).run
    with pytest.raises(SettingError, match=f"(?s){stated}"):
        run(made, made.lake, **{"run": other} | settings)


def test_a_published_file_is_the_model_of_its_run(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "radnet10.safetensors"
    file.write_bytes(RunFolder(made.run).folder.read("checkpoints/best.safetensors"))
    published, own = read_model(str(file), "best"), read_model(made.run, "best")
    assert published.run == "radnet10"
    assert (published.digest, published.classes) == (own.digest, own.classes)
    with pytest.raises(SettingError, match="is a file of weights; give the folder of its run"):
        evaluate(EvaluateConfig(str(file)))


def test_a_damaged_or_outdated_checkpoint_is_told(made: Made, tmp_path: Path) -> None:
    other = write_run(tmp_path / "run", 1, str(made.lake))
    folder = RunFolder(other.run)
    folder.write_checkpoint(made.state | {"preprocessing": "0-abc"}, "best")
    with pytest.raises(SettingError, match="trained on volumes 0-abc, this program makes 1-"):
        run(other, made.lake)
    folder.write_checkpoint(made.state | {"settings": {"slices": 4, "depth": 3}}, "best")
    with pytest.raises(CheckpointError, match="its settings cannot be read"):
        run(other, made.lake)
    path = tmp_path / "run" / "checkpoints" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        run(other, made.lake)


def test_a_lake_without_labels_is_told(made: Made, tmp_path: Path) -> None:
    lake = create_lake(str(tmp_path / "lake"), "keep", "")
    with pytest.raises(LakeError, match="not labelled yet"):
        run(made, lake.uri)
