"""What a user of `radnet-lake harvest` relies on, with real DICOM, a real S3 server and a real
Ray.
"""

import gzip
import os
import shutil
import threading
import zipfile
from pathlib import Path

import pytest
from dicom_files import KEY, write_series
from harvest_runs import ask, everything, run
from s3_server import S3Server

from radnet_lake.cli.app import main
from radnet_lake.errors import LakeError, SettingError, StoreError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.lake import log

pytestmark = pytest.mark.usefixtures("ray_local")


def test_every_real_file_is_an_instance_or_a_reject(pydicom_files: Path, tmp_path: Path) -> None:
    report = run(pydicom_files, tmp_path / "lake")
    files = [p for p in pydicom_files.rglob("*") if p.is_file()]
    assert report.sums["files_listed"] == len(files)
    assert report.sums["known"] == 0
    rows = ask(
        tmp_path / "lake",
        "select coalesce(archive_uri, uri) from instances"
        " union select coalesce(archive_uri, uri) from rejects",
    )
    assert {r[0] for r in rows} == {str(p) for p in files}
    reasons = dict(ask(tmp_path / "lake", "select parse_filename(uri), reason from rejects"))
    assert reasons["rtplan_truncated.dcm"] == "header_truncated"
    assert reasons["rtplan.dump"] == "not_dicom"
    assert "CT_small.dcm" not in reasons


def test_bucket_and_folder_give_equal_rows(
    pydicom_files: Path, tmp_path: Path, s3: S3Server
) -> None:
    bucket = s3.bucket()
    for path in pydicom_files.rglob("*"):
        if path.is_file():
            s3.put(bucket, f"in/{path.relative_to(pydicom_files)}", path.read_bytes())
    run(pydicom_files, tmp_path / "lake")
    run(f"s3://{bucket}/in", f"s3://{bucket}/lake")
    local = everything(tmp_path / "lake", f"{pydicom_files}/")
    remote = everything(f"s3://{bucket}/lake", f"s3://{bucket}/in/")
    assert len(local) > 150
    assert local == remote
    rejects = "select parse_filename(uri), reason, detail from rejects order by all"
    assert ask(tmp_path / "lake", rejects) == ask(f"s3://{bucket}/lake", rejects)
    again = run(f"s3://{bucket}/in", f"s3://{bucket}/lake")
    assert again.sums["known"] == again.sums["objects_seen"]


def test_second_run_reads_only_what_is_new_or_changed(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, 30)
    run(tmp_path / "in", tmp_path / "lake")
    write_series(tmp_path / "in", 2, 5)
    changed = tmp_path / "in/s0001/0003.dcm"
    changed.write_bytes(changed.read_bytes().replace(b"1.2.3.1.3\0", b"1.2.3.1.9\0"))
    os.utime(changed, ns=(1, 1))
    report = run(tmp_path / "in", tmp_path / "lake")
    assert (report.sums["known"], report.sums["instances"]) == (29, 6)
    assert report.sums["superseded"] == 1
    rows = ask(tmp_path / "lake", "select count(*), count(distinct uri) from instances")
    assert rows == [(35, 35)]


def test_prune_marks_what_vanished_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_series(tmp_path / folder, 1, 10)
        run(tmp_path / folder, tmp_path / "lake")
    shutil.rmtree(tmp_path / "b/s0001")
    (tmp_path / "b/notes.txt").write_text("no DICOM")
    (tmp_path / "a/s0001/0000.dcm").unlink()
    report = run(tmp_path / "a", tmp_path / "lake", prune=True)
    assert report.sums["vanished"] == 1
    # b is another source: its files are not this run's business.
    assert ask(tmp_path / "lake", "select count(*) from instances") == [(19,)]
    report = run(tmp_path / "b", tmp_path / "lake", prune=True)
    assert report.sums["vanished"] == 10
    assert ask(tmp_path / "lake", "select count(*) from instances") == [(9,)]
    # What comes back is read again.
    write_series(tmp_path / "b", 1, 10)
    assert run(tmp_path / "b", tmp_path / "lake").sums["instances"] == 10


def test_archive_members_are_objects_of_their_own(tmp_path: Path) -> None:
    write_series(tmp_path / "files", 1, 6)
    source = tmp_path / "in"
    source.mkdir()
    with zipfile.ZipFile(source / "study.zip", "w") as archive:
        for path in sorted((tmp_path / "files/s0001").iterdir()):
            archive.write(path, f"IMAGES/{path.stem}")
        archive.writestr("README.TXT", "burned by a PACS")
        archive.writestr("../../etc/passwd", "x")
    member = (tmp_path / "files/s0001/0000.dcm").read_bytes()
    (source / "one.gz").write_bytes(gzip.compress(member))
    report = run(source, tmp_path / "lake")
    assert report.sums["files_listed"] == report.sums["archives"] == 2
    assert (report.sums["instances"], report.sums["rejects"]) == (7, 2)
    assert set(report.reject_reasons) == {"not_dicom", "archive_unsafe_path"}
    uris = [u for (u,) in ask(tmp_path / "lake", "select uri from instances order by uri")]
    assert uris[-1] == f"{source}/study.zip!/IMAGES/0005"
    again = run(source, tmp_path / "lake")
    assert again.sums["known"] == again.sums["objects_seen"] == 9
    # A changed archive replaces all its members, also those it no longer has.
    with zipfile.ZipFile(source / "study.zip", "w") as archive:
        archive.writestr("IMAGES/0000", member)
    run(source, tmp_path / "lake")
    assert ask(tmp_path / "lake", "select count(*) from instances") == [(2,)]
    assert ask(tmp_path / "lake", "select count(*) from rejects") == [(0,)]


def test_empty_uids_never_merge_files(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, 3)
    for path in (tmp_path / "in").rglob("*.dcm"):
        data = path.read_bytes()
        for uid in (b"1.2.3.1", b"1.2.0"):
            data = data.replace(uid, b"\0" * len(uid))
        path.write_bytes(data)
    run(tmp_path / "in", tmp_path / "lake")
    sql = "select count(*), count(distinct uri) from {} where SeriesInstanceUID = ''"
    assert ask(tmp_path / "lake", sql.format("instances")) == [(3, 3)]
    assert ask(tmp_path / "lake", sql.format("series_headers")) == [(3, 3)]


def test_collection_comes_from_the_path(tmp_path: Path) -> None:
    for name in ("TCGA-LIHC", "PROSTATEx 2"):
        write_series(tmp_path / "in" / name, 1, 2)
    run(tmp_path / "in", tmp_path / "lake", collection_from="/in/([^/]+)/")
    rows = ask(tmp_path / "lake", "select distinct collection from instances order by all")
    assert rows == [("PROSTATEx 2",), ("TCGA-LIHC",)]
    assert (tmp_path / "lake/instances/collection=TCGA-LIHC/modality=CT").is_dir()


def test_odd_names_and_odd_things_are_survived(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_series(source, 1, 1)
    data = (source / "s0001/0000.dcm").read_bytes()
    names = [b"a b.dcm", b"line\nbreak", b"caf\xc3\xa9", b"latin\xe9.dcm", b"100%.dcm", b"'q'.dcm"]
    for name in names:
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(data)
    (source / "empty.dcm").touch()
    (source / "loop").symlink_to(source, target_is_directory=True)
    (source / "dangling").symlink_to(source / "nowhere")
    os.mkfifo(source / "pipe")
    report = run(source, tmp_path / "lake")
    assert report.sums["instances"] == 1 + len(names)
    reasons = report.reject_reasons
    assert reasons["empty_file"] == 1
    assert reasons["not_a_file"] == 1
    assert sum(reasons.values()) >= 3
    uris = {u for (u,) in ask(tmp_path / "lake", "select uri from instances")}
    assert f"file://{source}/latin%E9.dcm" in uris
    assert f"{source}/line\nbreak" in uris


def test_pseudonymised_lake_holds_no_identity_and_leads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RADNET_LAKE_KEY", KEY)
    source = tmp_path / "in" / "DOE^JANE"
    write_series(source, 1, 4, patient="MRN-4711007")
    lake = tmp_path / "lake"
    run(tmp_path / "in", lake, phi="pseudonymise")
    # Zstandard hides text from a search of the raw files: look at every value instead.
    for table in ("instances", "series_headers", "files", "rejects", "runs"):
        text = str(ask(lake, f"select * from {table}"))
        for secret in ("DOE", "JANE", "4711007", "1.2.3.1", KEY, str(tmp_path)):
            assert secret not in text, (table, secret)
    log = "".join(p.read_text() for p in (lake / "_lake").rglob("*.json"))
    for secret in ("DOE", "4711007", KEY, str(tmp_path)):
        assert secret not in log
    (series,) = ask(lake, "select distinct SeriesInstanceUID from instances")[0]
    capsys.readouterr()
    assert main(["locate", series, "--lake", str(lake)]) == 0
    found = capsys.readouterr().out.splitlines()
    assert found == sorted(str(p) for p in source.rglob("*.dcm"))
    assert run(tmp_path / "in", lake, phi="pseudonymise").sums["known"] == 4


def test_another_key_or_phi_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in", 1, 1)
    run(tmp_path / "in", tmp_path / "kept")
    monkeypatch.setenv("RADNET_LAKE_KEY", KEY)
    with pytest.raises(SettingError, match="--phi keep"):
        run(tmp_path / "in", tmp_path / "kept", phi="pseudonymise")
    monkeypatch.delenv("RADNET_LAKE_KEY")
    with pytest.raises(SettingError, match="RADNET_LAKE_KEY_FILE"):
        run(tmp_path / "in", tmp_path / "new", phi="pseudonymise")
    assert not (tmp_path / "new").exists()


def test_wrong_places_are_named(tmp_path: Path, s3: S3Server) -> None:
    write_series(tmp_path / "in", 1, 1)
    with pytest.raises(SettingError, match="nowhere"):
        run(tmp_path / "nowhere", tmp_path / "lake")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(LakeError, match="not a lake"):
        run(tmp_path / "in", tmp_path / "other")
    with pytest.raises(SettingError, match="no-such-bucket"):
        run("s3://no-such-bucket/x", tmp_path / "lake")
    with pytest.raises(LakeError, match="no lake there"):
        ask(tmp_path / "in", "from instances")
    with pytest.raises(SettingError, match="has no group"):
        run(tmp_path / "in", tmp_path / "lake", collection_from="abc")


def test_newer_lake_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, 1)
    run(tmp_path / "in", tmp_path / "lake")
    file = tmp_path / "lake/_lake/format.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(LakeError, match="version 99"):
        ask(tmp_path / "lake", "from instances")


def test_two_harvests_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for series in range(6):
            write_series(tmp_path / name, series, 10)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            run(tmp_path / name, tmp_path / "lake", collection=name, commit_seconds=0.0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    rows = ask(
        tmp_path / "lake", "select collection, count(*) from instances group by all order by all"
    )
    assert rows == [("a", 60), ("b", 60)]
    assert ask(tmp_path / "lake", "select bool_and(adds_up) from runs") == [(True,)]


def test_lake_survives_writers_that_race_for_a_number(tmp_path: Path) -> None:
    log.create_lake(str(tmp_path), "keep", "")

    def write(n: int) -> None:
        lake = log.open_lake(str(tmp_path))
        for i in range(20):
            lake.commit(add=[log.Part("files", f"files/{n}-{i}", 1, 1)])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = log.open_lake(str(tmp_path)).snapshot
    assert snapshot.version == len(snapshot.parts) == 120
    assert (tmp_path / "_lake/checkpoint").is_dir()


def refuse_work(source: str, lake: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status of a harvest that cannot be, and the one line that it says."""
    capsys.readouterr()
    status = main(["harvest", source, "--lake", str(lake), "--phi", "keep"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error:")
    assert not lake.exists()
    return status, line


def test_unreachable_store_is_named_before_work_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    status, line = refuse_work("s3://bucket/in", tmp_path / "lake", capsys)
    assert status == StoreError.exit_status
    assert "bucket" in line


def test_a_source_inside_another_gives_its_files_once(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, 3)
    for _ in range(2):
        config = HarvestConfig(
            (str(tmp_path / "in"), str(tmp_path / "in/s0001")),
            lake=str(tmp_path / "lake"),
            phi="keep",
        )
        assert harvest(config).sums["files_listed"] == 3
        assert ask(tmp_path / "lake", "select count(*) from instances") == [(3,)]


def test_lake_and_source_are_kept_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, 1)
    for lake in (tmp_path / "in", tmp_path / "in/lake", tmp_path):
        with pytest.raises((SettingError, LakeError), match="overlap"):
            run(tmp_path / "in", lake)


def test_prune_of_an_empty_mount_point_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, 3)
    run(tmp_path / "in", tmp_path / "lake")
    shutil.rmtree(tmp_path / "in/s0001")
    with pytest.raises(SettingError, match="not mounted"):
        run(tmp_path / "in", tmp_path / "lake", prune=True)
    assert ask(tmp_path / "lake", "select count(*) from instances") == [(3,)]


def test_long_and_foreign_collection_names_are_kept_whole(tmp_path: Path) -> None:
    name = "肝" * 80
    write_series(tmp_path / "in", 1, 1)
    run(tmp_path / "in", tmp_path / "lake", collection=name)
    assert ask(tmp_path / "lake", "select collection from instances") == [(name,)]


def test_numbers_past_any_range_are_survived_in_both_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "in", 1, 2)
    path = tmp_path / "in/s0001/0000.dcm"
    data = path.read_bytes()
    assert data.count(b"DS\x06\x00-1024 ") == 1
    path.write_bytes(data.replace(b"DS\x06\x00-1024 ", b"DS\x06\x001e999 "))
    monkeypatch.setenv("RADNET_LAKE_KEY", KEY)
    for mode in ("keep", "pseudonymise"):
        run(tmp_path / "in", tmp_path / mode, phi=mode)
        assert ask(tmp_path / mode, "select count(*) from instances") == [(2,)]


def test_wrong_credentials_are_reported_before_work_starts(
    tmp_path: Path,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "in/a", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
    status, line = refuse_work(f"s3://{bucket}/in", tmp_path / "lake", capsys)
    assert status == SettingError.exit_status
    assert bucket in line
    assert "AWS_SECRET_ACCESS_KEY" in line
