"""Stored volumes: what is written comes back, from disk and S3; damage is an error."""

from contextlib import suppress
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import S3Server

from radnet_lake.errors import LakeError
from radnet_lake.lake.log import Lake, Part, create_lake
from radnet_lake.volume import shard
from radnet_lake.volume.shard import Place, Voxels, read_places, read_volumes, write_shard

SHAPE = (4, 6, 5)


def make_volumes(count: int, first: int = 0) -> Voxels:
    """Half of it blank, half noise."""
    volumes = np.zeros((count, *SHAPE), np.uint8)
    noise = np.random.default_rng(first).integers(0, 256, (count, 2, 6, 5), np.uint8)
    volumes[:, 1:3] = noise
    return volumes


def store(lake: Lake, volumes: Voxels, first: int = 0) -> Part:
    rows = [(f"1.2.{first + n}", voxels, {"sequence": "CT"}) for n, voxels in enumerate(volumes)]
    part = write_shard(lake, "1-abc", rows)
    lake.commit(add=[part])
    return part


@pytest.fixture(params=["disk", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "disk":
        return create_lake(str(tmp_path / "lake"), "keep", "")
    server: S3Server = request.getfixturevalue("s3")
    return create_lake(f"s3://{server.bucket()}/lake", "keep", "")


def test_any_volumes_of_a_shard_come_back_in_the_order_asked_for(lake: Lake) -> None:
    volumes = make_volumes(9)
    part = store(lake, volumes)
    assert part.table == "tensors"
    assert part.name.startswith("tensors/1-abc/")
    assert (part.rows, part.size_bytes) == (9, len(lake.folder.read(part.name)))
    for positions in ([0], [8], [5, 2, 2, 7], range(9)):
        read = read_volumes(lake, part.name, list(positions))
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, volumes[list(positions)])


def test_volumes_of_several_shards_come_back_together(lake: Lake) -> None:
    first, second = make_volumes(3), make_volumes(70, first=3)
    shards = [store(lake, first), store(lake, second, first=3)]
    wanted = [(1, 69), (0, 2), (1, 0), (0, 0)]
    places = [Place(shards[s].name, shards[s].size_bytes, n) for s, n in wanted]
    expected = np.stack([(first, second)[s][n] for s, n in wanted])
    np.testing.assert_array_equal(read_places(lake.uri, places), expected)


def test_a_volume_costs_one_read_once_the_footer_is_known(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = store(lake, make_volumes(200))
    lengths: list[int] = []
    read_range = shard.read_range

    def count(uri: str, start: int, length: int) -> bytes:
        data = read_range(uri, start, length)
        lengths.append(len(data))
        return data

    monkeypatch.setattr(shard, "read_range", count)
    read_volumes(lake, part.name, [7])
    assert len(lengths) == 2
    read_volumes(lake, part.name, [7, 150])
    assert len(lengths) == 4
    assert max(lengths[1:]) < part.size_bytes / 20


def test_arrow_and_duckdb_read_a_shard_without_us(tmp_path: Path) -> None:
    lake = create_lake(str(tmp_path / "lake"), "keep", "")
    volumes = make_volumes(2)
    labels = {
        "sequence": "T1-SE",
        "view": "axial",
        "contrast": True,
        "coverage": ["brain"],
        "effective_spacing_mm": 5.0,
        "spacing_mm": [5.0, 1.0, 1.5],
        "rule_set": "r1",
    }
    part = write_shard(lake, "1-abc", [("1.2.3", volumes[0], labels), ("1.2.4", volumes[1], {})])
    table = pa.ipc.open_file(f"{lake.uri}/{part.name}").read_all()
    assert table.schema.metadata == {b"preprocessing": b"1-abc"}
    np.testing.assert_array_equal(table["volume"].combine_chunks().to_numpy_ndarray(), volumes)
    rows = table.drop(["volume"]).to_pylist()
    assert rows[0] == {"SeriesInstanceUID": "1.2.3"} | labels
    assert rows[1] == {"SeriesInstanceUID": "1.2.4"} | dict.fromkeys(labels)
    plain = table.drop(["volume"])
    assert duckdb.sql("select sequence, coverage[1] from plain").fetchall() == [
        ("T1-SE", "brain"),
        (None, None),
    ]
    assert plain.num_rows == 2


def test_a_shard_that_is_missing_or_unknown_is_named_with_the_remedy(lake: Lake) -> None:
    part = store(lake, make_volumes(2))
    with pytest.raises(LakeError, match=r"no place 2; .*radnet-lake preprocess"):
        read_volumes(lake, part.name, [2])
    with pytest.raises(LakeError, match="no place -1"):
        read_volumes(lake, part.name, [-1])
    with pytest.raises(LakeError, match="does not name this shard"):
        read_volumes(lake, "tensors/1-abc/none.arrow", [0])
    lake.folder.delete([part.name])
    with pytest.raises(LakeError, match=rf"{part.name}: the shard is missing; .*preprocess"):
        read_volumes(lake, part.name, [0])


def test_a_shard_that_breaks_off_is_named_with_the_remedy(lake: Lake) -> None:
    part = store(lake, make_volumes(40))
    whole = lake.folder.read(part.name)
    for kept in (0, 5, len(whole) // 2, len(whole) - 1):
        lake.folder.write(part.name, whole[:kept])
        with pytest.raises(LakeError, match=rf"{part.name}: the shard is damaged.*preprocess"):
            read_volumes(lake, part.name, [30])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Part, bytes]:
    lake = create_lake(str(tmp_path_factory.mktemp("fuzz") / "lake"), "keep", "")
    part = store(lake, make_volumes(3))
    return lake, part, lake.folder.read(part.name)


@settings(max_examples=150)
@given(data=st.data())
def test_damage_anywhere_gives_a_lake_error_or_volumes(
    written: tuple[Lake, Part, bytes], data: st.DataObject
) -> None:
    lake, part, whole = written
    damaged = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    Path(lake.uri, part.name).write_bytes(damaged)
    shard._read_footer.cache_clear()
    with suppress(LakeError):
        read = read_volumes(lake, part.name, [0, 1, 2])
        assert read.dtype == np.uint8
        assert len(read) == 3
