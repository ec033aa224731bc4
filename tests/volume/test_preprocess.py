"""What a user of `radnet-lake preprocess` relies on, with real DICOM, a real S3 server and a real
Ray.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from threading import Thread
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest
from dicom_files import KEY, write_series
from ray_workers import kill_worker
from s3_server import S3Server

import radnet_lake
from radnet_lake.cli.app import main
from radnet_lake.errors import LakeError, SettingError, StoreError, VolumeError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.explain import ExplainConfig, explain
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake.compact import CompactConfig, compact
from radnet_lake.lake.log import open_lake
from radnet_lake.phantom.phantom import PhantomConfig, phantom
from radnet_lake.volume import preprocess as preprocessing
from radnet_lake.volume.preprocess import PreprocessConfig, PreprocessReport, preprocess
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.series_frames import stream_frames, stream_rows
from radnet_lake.volume.shard import read_volumes
from radnet_lake.volume.volume import prepare_frames
from radnet_lake.volume.worker import Job, prepare_chunk

COMMAND = str(Path(sys.executable).parent / "radnet-lake")
SMALL = {"rows": 32, "columns": 32}

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(900)]


def run(lake: Path | str, **settings: Any) -> PreprocessReport:
    report = preprocess(PreprocessConfig(str(lake), **{**SMALL, **settings}))
    assert report.wanted == report.made + report.failed + report.known
    return report


def ask(lake: Path | str, sql: str) -> list[tuple[Any, ...]]:
    with radnet_lake.connect(str(lake)) as connection:
        return connection.execute(sql).fetchall()


def read_rows(lake: Path | str) -> dict[str, dict[str, Any]]:
    with radnet_lake.connect(str(lake)) as connection:
        rows = connection.sql("from volumes").to_arrow_table().to_pylist()
    return {row["SeriesInstanceUID"]: row for row in rows}


def write_archive(folder: Path, series: int, **attributes: Any) -> None:
    """CT series of 18 small slices that labelling keeps: folder/s0001/0000.dcm and on."""
    for number in range(1, series + 1):
        text = {"SeriesDescription": "Thorax 5.0 B31f", **attributes}
        write_series(folder, number, 18, f"P{number}", **text)


def take_in(source: Path | str, lake: Path | str, phi: str = "keep") -> None:
    harvest(HarvestConfig(sources=(str(source),), lake=str(lake), phi=phi))
    label(LabelConfig(lake=str(lake)))


def replace_in(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes of a file, not its size."""
    data = path.read_bytes()
    assert data.count(old) == 1
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, ray_local: str) -> str:
    """A labelled lake of phantoms, with its volumes."""
    folder = tmp_path_factory.mktemp("preprocess")
    phantom(PhantomConfig(out=str(folder / "archive"), patients=1, seed=11, size=32))
    take_in(folder / "archive", folder / "lake")
    run(folder / "lake", nifti=str(folder / "nifti"))
    return str(folder / "lake")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, ray_local: str) -> Path:
    """A folder with `in`, seven CT series and one that has no UID, and its labelled `lake`."""
    folder = tmp_path_factory.mktemp("plain")
    write_archive(folder / "in", 8)
    for path in (folder / "in/s0008").iterdir():
        data = path.read_bytes()
        path.write_bytes(data.replace(b"1.2.3.8\0", b"\0" * 8, 1))
    take_in(folder / "in", folder / "lake")
    return folder


def test_rows_and_shards_hold_what_prepare_frames_gives(lake: str) -> None:
    wanted = dict(ask(lake, "select SeriesInstanceUID, sequence from training_set"))
    rows = read_rows(lake)
    assert rows.keys() == wanted.keys()
    opened = open_lake(lake)
    settings = ResampleSettings(rows=32, columns=32)
    for series, frames in stream_frames(opened, list(wanted)):
        row, due = rows[series], prepare_frames(frames, settings)
        assert row["preprocessing"] == settings.version()
        stored = read_volumes(opened, row["shard"], [row["position"]])[0]
        np.testing.assert_array_equal(stored, due.voxels)
        np.testing.assert_array_equal(np.reshape(row["steps_mm"], (3, 3)), due.steps_mm)
        for name in ("spacing_mm", "source_shape", "source_spacing_mm"):
            assert tuple(row[name]) == getattr(due, name)
        for name in ("value_min", "value_max", "blank_before", "slices_filled", "stack_digest"):
            assert row[name] == getattr(due, name)
        assert row["n_rows"] == len(frames)
    shard = pa.ipc.open_file(Path(lake, rows[series]["shard"])).read_all()
    assert dict(zip(*shard.select([0, 2]).to_pydict().values(), strict=True)).items() <= (
        wanted.items()
    )
    kept = json.loads(Path(lake, "tensors", settings.version(), "settings.json").read_text())
    assert kept["settings"]["rows"] == 32


def test_nifti_files_are_the_volumes_at_their_place(lake: str) -> None:
    opened = open_lake(lake)
    rows = read_rows(lake)
    files = sorted(Path(lake).with_name("nifti").glob("*.nii.gz"))
    assert [file.name.removesuffix(".nii.gz") for file in files] == sorted(rows)
    row = rows[files[0].name.removesuffix(".nii.gz")]
    image = nib.load(files[0])
    voxels = read_volumes(opened, row["shard"], [row["position"]])[0]
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, voxels)
    place = np.array([-1, -1, 1]) * image.affine[:3, 3]
    np.testing.assert_allclose(place, row["position_mm"], atol=1e-3)


def test_second_run_has_nothing_to_do(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(preprocessing, "_map_chunks", refuse)
    before = open_lake(lake).snapshot.version
    report = run(lake)
    assert report.known == report.wanted > 0
    assert open_lake(lake).snapshot.version == before


def test_a_condition_chooses_and_other_settings_are_other_volumes(lake: str) -> None:
    ((due,),) = ask(lake, "select count(*) from training_set where \"view\" = 'coronal'")
    report = run(lake, where="view = 'coronal' -- of the head", slices=8, pad_to_square=True)
    assert report.made == due > 0
    assert ask(lake, "select count(distinct preprocessing) from volumes") == [(2,)]
    ((shard, position),) = ask(
        lake,
        f"select shard, position from volumes where preprocessing = '{report.preprocessing}'"
        " limit 1",
    )
    assert read_volumes(open_lake(lake), shard, [position]).shape == (1, 8, 32, 32)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"where": "no_such_column = 1"}, "--where"),
        ({"where": "sequence = "}, "--where"),
        ({"where": "sequence::int = 3"}, "--where"),
        ({"mode": "strict"}, "label --mode strict"),
        ({"mode": "loose"}, "--mode"),
        ({"slices": 0}, "--slices"),
        ({"clip": "99,1"}, "--clip"),
    ],
)
def test_wrong_settings_are_named_before_any_work(
    lake: str, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(SettingError, match=named):
        run(lake, **settings)


def test_a_lake_without_labels_says_what_to_run(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, 3)
    harvest(HarvestConfig(sources=(str(tmp_path / "in"),), lake=str(tmp_path / "lake"), phi="keep"))
    with pytest.raises(LakeError, match="radnet-lake label"):
        run(tmp_path / "lake")


def test_read_volume_is_what_a_notebook_needs(lake: str) -> None:
    for series, row in list(read_rows(lake).items())[:3]:
        volume = radnet_lake.read_volume(series, lake)
        assert volume.values.shape == tuple(row["source_shape"])
        assert volume.spacing_mm == pytest.approx(row["source_spacing_mm"])
    with pytest.raises(SettingError, match=r"1\.2\.3: no such series"):
        radnet_lake.read_volume("1.2.3", lake)


def test_failures_are_rows_with_reasons_and_leave_the_training_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, lake = tmp_path / "in", str(tmp_path / "lake")
    write_archive(source, 6)
    size = 128 * 128 * 2
    whole = (source / "s0001/0007.dcm").read_bytes()
    (source / "s0001/0007.dcm").write_bytes(whole[:-10_000])
    for path in (source / "s0002").iterdir():
        data = path.read_bytes()
        at = data.rindex(b"\xe0\x7f\x10\x00") + 12
        path.write_bytes(data[:at] + b"\1\0" * (size // 2) + data[at + size :])
    for path in (source / "s0003").iterdir():
        replace_in(path, b"\x28\0\x10\0US\2\0\x80\0", b"\x28\0\x10\0US\2\0\xff\0")
    take_in(source, lake)
    (source / "s0004/0002.dcm").unlink()
    path = source / "s0005/0002.dcm"
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert main(["preprocess", "--lake", lake, "--rows", "32", "--columns", "32"]) == 0
    stated = capsys.readouterr().out
    assert "6 series = 1 made + 5 failed + 0 known" in stated
    assert f"next      radnet-lake label --lake {lake}" in stated
    reasons = {uid: row["reason"] for uid, row in read_rows(lake).items()}
    assert reasons["1.2.3.1"] == "truncated_pixels"
    assert reasons["1.2.3.2"] == "constant"
    assert reasons["1.2.3.3"] in ("bad_declaration", "truncated_pixels")
    assert (reasons["1.2.3.4"], reasons["1.2.3.5"]) == ("vanished", "changed")
    assert reasons["1.2.3.6"] is None
    # Troubles that may pass are tried again; the others stand, and are no longer in the way.
    again = run(lake)
    assert (again.known, again.known_failed, again.reasons) == (
        4, 3, Counter(vanished=1, changed=1),
    )  # fmt: skip
    label(LabelConfig(lake=lake))
    sql = "select SeriesInstanceUID from series where excluded_by = 'pixel' order by all"
    assert ask(lake, sql) == [("1.2.3.1",), ("1.2.3.2",), ("1.2.3.3",)]
    assert "EXC-PIXEL" in explain(ExplainConfig(series="1.2.3.2", lake=lake))
    assert "(constant)" in explain(ExplainConfig(series="1.2.3.2", lake=lake))
    assert run(lake).wanted == 3
    retried = run(lake, retry=True)
    assert (retried.wanted, retried.known, retried.failed) == (6, 1, 5)
    with pytest.raises(VolumeError, match="truncated_pixels"):
        radnet_lake.read_volume("1.2.3.1", lake)
    # A better file clears it.
    (source / "s0001/0007.dcm").write_bytes(whole)
    take_in(source, lake)
    assert ask(lake, sql) == [("1.2.3.2",), ("1.2.3.3",)]
    assert run(lake, where="SeriesInstanceUID = '1.2.3.1'").made == 1


def test_a_folder_that_cannot_be_written_ends_the_run_with_its_name(
    plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/nifti"):
        run(plain / "lake", slices=9, nifti=str(tmp_path / "file/nifti"))


def test_volumes_follow_the_files(tmp_path: Path) -> None:
    source, lake = tmp_path / "in", tmp_path / "lake"
    write_archive(source, 3)
    take_in(source, lake)
    assert run(lake).made == 3
    before = read_rows(lake)
    # A file that changed is read again, whether labels know of it or not.
    path = source / "s0002/0003.dcm"
    path.write_bytes(path.read_bytes()[:-2000] + bytes(2000))
    os.utime(path, ns=(1, 1))
    settings = {"sources": (str(source),), "lake": str(lake), "phi": "keep"}
    harvest(HarvestConfig(**settings))
    report = run(lake)
    assert "newer than the labels" in report.stale
    assert (report.made, report.known) == (1, 2)
    rows = read_rows(lake)
    assert [s for s in rows if rows[s]["shard"] != before[s]["shard"]] == ["1.2.3.2"]
    # So is what a lost shard held.
    lost = rows["1.2.3.1"]["shard"]
    (lake / lost).unlink()
    assert run(lake).made == sum(row["shard"] == lost for row in rows.values())
    # Compacting drops rows and shards that no longer count, and no others.
    rows = read_rows(lake)
    compact(CompactConfig(str(lake), grace_hours=0))
    assert read_rows(lake) == rows
    shards = {row["shard"] for row in rows.values()}
    assert {p.name for p in open_lake(str(lake)).snapshot.of("tensors")} == shards
    assert {str(p.relative_to(lake)) for p in lake.rglob("*.arrow")} == shards
    assert ask(lake, "select count(*) from stored.volumes") == [(3,)]
    assert run(lake).known == 3
    # A series that is gone takes its volume along.
    shutil.rmtree(source / "s0003")
    harvest(HarvestConfig(**settings, prune=True))
    label(LabelConfig(lake=str(lake)))
    compact(CompactConfig(str(lake), grace_hours=0))
    assert read_rows(lake).keys() == {"1.2.3.1", "1.2.3.2"}
    shards = {row["shard"] for row in read_rows(lake).values()}
    assert {str(p.relative_to(lake)) for p in lake.rglob("*.arrow")} == shards
    assert run(lake).known == 2


def test_killed_run_leaves_a_readable_lake_and_the_next_finishes_it(
    lake: str, tmp_path: Path, ray_local: str
) -> None:
    command = [COMMAND, "preprocess", "--lake", lake, "--commit-seconds", "0", "--rows", "160"]
    env = os.environ | {"RAY_ADDRESS": ray_local}
    before = len(open_lake(lake).snapshot.of("tensors"))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    deadline = time.monotonic() + 240
    while len(open_lake(lake).snapshot.of("tensors")) < before + 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    report = run(lake, rows=160, columns=192)
    assert 0 < report.known < report.wanted
    opened = open_lake(lake)
    rows = ask(
        lake,
        "select SeriesInstanceUID, shard, position from stored.volumes"
        f" where preprocessing = '{report.preprocessing}'",
    )
    assert len(rows) == len({series for series, *_ in rows}) == report.wanted
    for _, shard, position in rows:
        assert read_volumes(opened, shard, [position]).max() == 255


def test_sealed_paths_open_with_the_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADNET_LAKE_KEY", KEY)
    write_archive(tmp_path / "in", 1)
    take_in(tmp_path / "in", tmp_path / "lake", phi="pseudonymise")
    monkeypatch.delenv("RADNET_LAKE_KEY")
    with pytest.raises(SettingError, match="RADNET_LAKE_KEY_FILE"):
        run(tmp_path / "lake")
    monkeypatch.setenv("RADNET_LAKE_KEY", "another" * 8)
    with pytest.raises(SettingError, match="another pseudonymisation key"):
        run(tmp_path / "lake")
    monkeypatch.setenv("RADNET_LAKE_KEY", KEY)
    assert run(tmp_path / "lake").made == 1
    opened = open_lake(str(tmp_path / "lake"))
    series = [uid for (uid,) in ask(opened.uri, "select SeriesInstanceUID from training_set")]
    for _, rows in stream_rows(opened, series):
        assert str(tmp_path) not in str(rows["uri"].to_pylist())


def test_lake_and_archives_on_s3_give_the_same_volumes(
    plain: Path, tmp_path: Path, s3: S3Server
) -> None:
    bucket = s3.bucket()
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for number in (2, 1):
            for path in sorted((plain / f"in/s{number:04d}").iterdir()):
                archive.write(path, f"{number}/{path.name}")
    s3.put(bucket, "in/two.zip", (tmp_path / "two.zip").read_bytes())
    for path in (plain / "in/s0003").iterdir():
        s3.put(bucket, f"in/3/{path.name}", path.read_bytes())
    lake = f"s3://{bucket}/lake"
    take_in(f"s3://{bucket}/in", lake)
    assert run(lake).made == 3
    opened, rows = open_lake(lake), read_rows(lake)
    settings = ResampleSettings(**SMALL)
    local = open_lake(str(plain / "lake"))
    for series, frames in stream_frames(local, ["1.2.3.1", "1.2.3.2", "1.2.3.3"]):
        stored = read_volumes(opened, rows[series]["shard"], [rows[series]["position"]])[0]
        np.testing.assert_array_equal(stored, prepare_frames(frames, settings).voxels)
    assert run(lake).known == 3
    # Series of one archive come one after the other.
    order = [series for series, _ in stream_frames(opened, sorted(rows))]
    assert order == ["1.2.3.3", "1.2.3.1", "1.2.3.2"]


class Deadly(ResampleSettings):
    """Ends the process that it is sent to."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)


def test_a_series_that_kills_its_process_is_a_row(plain: Path) -> None:
    opened = open_lake(str(plain / "lake"))
    ((name, frames),) = stream_rows(opened, ["1.2.3.1"])
    job = Job(opened.uri, Deadly(), "", "default", "rules")
    series = pa.table({"SeriesInstanceUID": [name], "n_rows": [frames.num_rows]})
    rows, shard = prepare_chunk(job, frames, series, apart=True)
    assert shard is None
    assert rows["reason"].to_pylist() == ["undecodable"]


def kill_a_worker(killed: list[int]) -> None:
    """End the first worker that makes volumes, as soon as there is one."""
    until = time.monotonic() + 120
    while not killed and time.monotonic() < until:
        if pid := kill_worker("ray::MapBatches"):
            killed.append(pid)


def test_a_killed_worker_costs_nothing(plain: Path) -> None:
    lake, killed = str(plain / "lake"), list[int]()
    killer = Thread(target=kill_a_worker, args=(killed,), daemon=True)
    killer.start()
    report = preprocess(PreprocessConfig(lake))
    assert len(killed) == 1
    assert report.made == 8
    (unnamed,) = read_rows(lake).keys() - {f"1.2.3.{n}" for n in range(1, 8)}
    folder = f"{plain / 'in/s0008'}/"
    assert unnamed == "no-uid/" + hashlib.md5(f"{folder}|CT".encode()).hexdigest()
    assert run(lake, rows=192, columns=192).known == 8
