"""What a user relies on of a case folder: what was written is read again, and damage is said."""

from pathlib import Path

import numpy as np
import pytest
from s3_server import S3Server

from radnet_lake.errors import SettingError, StoreError
from radnet_lake.network.checkpoint import build_network, describe_network
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.transfer.case_folder import (
    CASES,
    CaseFolder,
    CaseSettings,
    StoredCase,
    decode_settings,
)
from radnet_lake.volume.resample import ResampleSettings

SETTINGS = CaseSettings(
    "liver", ResampleSettings(24, 64, 64), 10.0, 4, 0.9, "liver", "5b" * 8, "lits", 3
)


def make_case(seed: int = 0) -> StoredCase:
    rng = np.random.default_rng(seed)
    image = rng.integers(-1024, 3000, (5, 6, 7)).astype(np.int16)
    mask = (rng.random(image.shape) < 0.3).astype(np.uint8)
    return StoredCase(image, mask, np.array([-1.5, 2, 300]), np.diag([10.0, 0.7, 0.7])[::-1])


def make_row(name: str, **values: object) -> dict[str, object]:
    return {field: None for field in CASES.names} | {"case": name, "patient": "p"} | values


def check(folder: CaseFolder) -> None:
    assert not folder.exists()
    assert not folder.is_begun()
    folder.write_settings(SETTINGS)
    assert folder.is_begun()
    assert folder.read_settings() == SETTINGS
    for n in range(2):
        folder.write_case(f"c{n}", make_case(n), make_row(f"c{n}", starts=[0, 4]))
    assert [row["case"] for row in folder.read_finished()] == ["c0", "c1"]
    for found, wanted in zip(folder.read_case("c1"), make_case(1), strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype
    assert not folder.exists()
    with pytest.raises(SettingError, match=r"cases\.parquet is missing.*liver prepare"):
        folder.read_cases()
    folder.write_cases([*folder.read_finished(), make_row("c2", reason="no_mask")])
    assert folder.exists()
    rows = folder.read_cases()
    assert rows.schema.equals(CASES)
    assert rows["starts"].to_pylist() == [[0, 4], [0, 4], None]


def test_on_disk(tmp_path: Path) -> None:
    check(CaseFolder(str(tmp_path / "cases")))


def test_on_s3(s3: S3Server) -> None:
    check(CaseFolder(f"s3://{s3.bucket()}/cases"))


def test_settings_survive_a_checkpoint() -> None:
    assert decode_settings(SETTINGS.describe(), "x") == SETTINGS
    with pytest.raises(SettingError, match=r"the checkpoint: holds no settings of cases"):
        decode_settings({"organ": "liver"}, "the checkpoint")


def test_the_network_is_kept_without_what_training_went_on_from(tmp_path: Path) -> None:
    folder = CaseFolder(str(tmp_path))
    assert folder.read_network() is None
    network = RadNet(NetworkSettings(depth=10, width=4, features=8))
    folder.write_network(describe_network(network) | {"optimiser": {"state": {}}, "epoch": 3})
    state = folder.read_network()
    assert state is not None
    assert set(state) == set(describe_network(network))
    assert build_network(state).config == network.config


@pytest.mark.parametrize("where", ["cases/c0.arrow", "cases.parquet", "settings.json"])
def test_damage_is_said(tmp_path: Path, where: str) -> None:
    folder = CaseFolder(str(tmp_path))
    folder.write_settings(SETTINGS)
    folder.write_case("c0", make_case(), make_row("c0"))
    folder.write_cases([make_row("c0")])
    path = tmp_path / where
    whole = path.read_bytes()
    read = {
        "cases/c0.arrow": lambda: folder.read_case("c0"),
        "cases.parquet": folder.read_cases,
        "settings.json": folder.read_settings,
    }[where]
    for data in (whole[: len(whole) // 2], b"", b"x" * len(whole)):
        path.write_bytes(data)
        with pytest.raises(StoreError, match=f"{where}: the file is damaged; restore it"):
            read()
    path.unlink()
    with pytest.raises(SettingError, match="is missing"):
        read()


def test_a_size_that_a_file_only_claims_takes_no_memory(tmp_path: Path) -> None:
    folder = CaseFolder(str(tmp_path))
    folder.write_case("c0", make_case(), make_row("c0"))
    path = tmp_path / "cases" / "c0.arrow"
    data = path.read_bytes()
    claim = b"[5, 6, 7]"
    assert claim in data
    path.write_bytes(data.replace(claim, b"[5,6,9e9]"))
    with pytest.raises(StoreError, match="damaged"):
        folder.read_case("c0")
