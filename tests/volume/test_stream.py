"""Volumes into training: every series once an epoch, labels of the lake now, little held ahead."""

import csv
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from s3_server import S3Server

import radnet_lake
from radnet_lake import schema
from radnet_lake.errors import LakeError, SettingError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake.log import Lake, create_lake, open_lake
from radnet_lake.phantom.phantom import PhantomConfig, phantom
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.series_frames import stream_frames
from radnet_lake.volume.shard import Voxels, write_shard
from radnet_lake.volume.stream import (
    BLOCK_VOLUMES,
    BLOCKS_AHEAD_PER_CPU,
    StreamConfig,
    index_series,
    stream_volumes,
)
from radnet_lake.volume.volume import prepare_frames

SETTINGS = ResampleSettings(slices=6, rows=24, columns=20)
NOISE = ResampleSettings(slices=5, rows=20, columns=20)
"""Volumes of these are noise, which no compression makes smaller."""
WRONG = {"sequence": "STIR", "view": "oblique", "coverage": ["knee"]}
"""Labels in the shards; those of the lake count."""
Rows = list[dict[str, Any]]


class Stored(NamedTuple):
    lake: str
    volumes: dict[str, Voxels]


def store(lake: Lake, settings: ResampleSettings, volumes: dict[str, Voxels], size: int) -> None:
    """Shards of so many volumes, and the rows that name them."""
    parts, rows = [], []
    for n in range(0, len(volumes), size):
        some = list(volumes.items())[n : n + size]
        part = write_shard(lake, settings.version(), [(*one, WRONG) for one in some])
        parts.append(part)
        rows += [
            {"SeriesInstanceUID": uid, "preprocessing": settings.version()}
            | {"shard": part.name, "position": place}
            for place, (uid, _) in enumerate(some)
        ]
    table = pa.Table.from_pylist(rows, schema.TABLES["volumes"])
    lake.commit(add=[*parts, lake.write_part("volumes", table, "made")])


def list_series(lake: str) -> list[str]:
    with radnet_lake.connect(lake) as connection:
        rows = connection.sql("select SeriesInstanceUID from training_set order by all").fetchall()
    return [uid for (uid,) in rows]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, ray_local: str) -> Stored:
    """A labelled phantom lake; all volumes but one series' are in shards of five."""
    folder = tmp_path_factory.mktemp("stream")
    phantom(PhantomConfig(out=str(folder / "archive"), patients=1, seed=11, size=48))
    harvest(HarvestConfig((str(folder / "archive"),), lake=str(folder / "lake"), phi="keep"))
    label(LabelConfig(str(folder / "lake")))
    lake = open_lake(str(folder / "lake"))
    frames = stream_frames(lake, list_series(lake.uri)[1:])
    store(lake, SETTINGS, {uid: prepare_frames(f, SETTINGS).voxels for uid, f in frames}, 5)
    frames = stream_frames(lake, list_series(lake.uri))
    return Stored(lake.uri, {uid: prepare_frames(f, SETTINGS).voxels for uid, f in frames})


def configure(stored: Stored, **settings: Any) -> StreamConfig:
    return StreamConfig(**{"lake": stored.lake, "split": "", "settings": SETTINGS} | settings)


def read_rows(batches: Iterator[dict[str, Any]]) -> Rows:
    names_and_columns = ((list(b), zip(*b.values(), strict=True)) for b in batches)
    return [
        dict(zip(names, values, strict=True))
        for names, columns in names_and_columns
        for values in columns
    ]


def stream(stored: Stored, **settings: Any) -> Rows:
    dataset = stream_volumes(configure(stored, **settings))
    return read_rows(dataset.iter_batches(batch_size=8))


def orders(rows: Rows) -> dict[int, list[str]]:
    """Of each epoch; they must not mix."""
    epochs = itertools.groupby(rows, key=lambda row: int(row["epoch"]))
    return {epoch: [row["SeriesInstanceUID"] for row in of_epoch] for epoch, of_epoch in epochs}


def test_every_series_comes_once_an_epoch_with_its_volume(stored: Stored) -> None:
    kept = sorted(stored.volumes)[1:]
    config = configure(stored, epochs=3, seed=1)
    index = index_series(config)
    assert index.left_out == 1
    assert index.rows["SeriesInstanceUID"].to_pylist() == kept
    dataset = stream_volumes(config, index)
    assert dataset.count() == 3 * len(kept)
    rows = read_rows(dataset.iter_batches(batch_size=8))
    assert len(rows) == 3 * len(kept)
    found = orders(rows)
    assert [sorted(order) for order in found.values()] == [kept] * 3
    assert len({tuple(order) for order in found.values()}) == 3
    for row in rows:
        assert row["volume"].dtype == np.uint8
        np.testing.assert_array_equal(row["volume"], stored.volumes[row["SeriesInstanceUID"]])


def test_the_order_depends_on_the_seed_and_the_number_of_the_epoch_alone(stored: Stored) -> None:
    whole = orders(stream(stored, epochs=2, seed=4))
    resumed = orders(stream(stored, first_epoch=1, seed=4, skip=3))
    assert resumed == {1: whole[1][3:]}
    assert orders(stream(stored, seed=5))[0] != whole[0]
    assert orders(stream(stored, shuffle=False))[0] == sorted(stored.volumes)[1:]


def test_workers_share_the_batches_that_one_would_have(stored: Stored) -> None:
    settings: dict[str, Any] = {"epochs": 2, "seed": 2, "batch": 5}
    alone = orders(stream(stored, **settings))
    assert {len(order) for order in alone.values()} == {(len(stored.volumes) - 1) // 5 * 5}
    parts = [orders(stream(stored, **settings, skip=5, workers=2, rank=rank)) for rank in (0, 1)]
    for epoch, order in alone.items():
        kept = order[5:] if epoch == 0 else order
        batches = [kept[n : n + 5] for n in range(0, len(kept), 5)]
        assert parts[0][epoch] == [uid for batch in batches for uid in batch[:2]]
        assert parts[1][epoch] == [uid for batch in batches for uid in batch[2:]]
    rows = [row for rank in (0, 1) for row in stream(stored, workers=2, rank=rank, shuffle=False)]
    assert sorted(row["SeriesInstanceUID"] for row in rows) == sorted(stored.volumes)[1:]
    with pytest.raises(SettingError, match="nothing is left to stream"):
        stream(stored, batch=10_000)


def test_batches_are_views_without_text_where_torch_wants_numbers(stored: Stored) -> None:
    dataset = stream_volumes(configure(stored, uids=False))
    batch = next(iter(dataset.iter_batches(batch_size=8)))
    kinds = {name: (column.dtype.name, column.shape[1:]) for name, column in batch.items()}
    assert kinds == {
        "volume": ("uint8", (6, 24, 20)),
        "epoch": ("int64", ()),
        "sequence": ("int64", ()),
        "view": ("int64", ()),
        "contrast": ("int64", ()),
        "coverage": ("float32", (9,)),
        "spacing": ("float32", ()),
    }
    assert not batch["volume"].flags.owndata
    assert batch["volume"].flags.c_contiguous


def read_classes() -> dict[str, list[str]]:
    with (schema.SQL_DIR / "classes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    heads = dict.fromkeys(row["head"] for row in rows)
    return {head: [r["value"] for r in rows if r["head"] == head] for head in heads}


def test_labels_are_those_of_the_lake_now_as_the_classes_number_them(stored: Stored) -> None:
    with radnet_lake.connect(stored.lake) as connection:
        stated = connection.sql("from training_set").to_arrow_table().to_pylist()
    truth = {row["SeriesInstanceUID"]: row for row in stated}
    classes = read_classes()
    for row in stream(stored):
        label_of = truth[row["SeriesInstanceUID"]]
        contrast = classes["contrast"][row["contrast"]]
        assert classes["sequence"][row["sequence"]] == label_of["sequence"]
        assert classes["view"][row["view"]] == label_of["view"]
        assert {"Contrast": True, "No Contrast": False}[contrast] == label_of["contrast"]
        covered = [classes["coverage"][n] for n in np.flatnonzero(row["coverage"])]
        assert covered == sorted(label_of["coverage"], key=classes["coverage"].index)
        expected = label_of["slice_spacing_mm"] * max(1, label_of["slice_count"] / SETTINGS.slices)
        assert row["spacing"] == pytest.approx(expected, rel=1e-6)


def copy_labels(stored: Stored, uri: str, changes: str) -> Lake:
    """A lake of the same series, some columns of them changed, without files."""
    with radnet_lake.connect(stored.lake) as connection:
        series = connection.sql(f"select * {changes} from stored.series").to_arrow_table()
    lake = create_lake(uri, "keep", "")
    labels = open_lake(stored.lake).snapshot.labels
    lake.commit(add=[lake.write_part("series", series, "copied")], labels=labels)
    return lake


def test_what_cannot_be_told_is_minus_one_or_nan(stored: Stored, tmp_path: Path) -> None:
    changes = (
        "replace (null::boolean as contrast, null::varchar[] as coverage,"
        " null::varchar as sequence, null::double as slice_spacing_mm)"
    )
    lake = copy_labels(stored, str(tmp_path / "lake"), changes)
    store(lake, SETTINGS, stored.volumes, 9)
    for row in stream(Stored(lake.uri, {})):
        assert (row["sequence"], row["contrast"]) == (-1, -1)
        assert row["view"] >= 0
        assert np.isnan(row["coverage"]).all()
        assert np.isnan(row["spacing"])


def test_shards_stream_from_s3(stored: Stored, s3: S3Server) -> None:
    lake = copy_labels(stored, f"s3://{s3.bucket()}/lake", "")
    store(lake, SETTINGS, stored.volumes, 4)
    rows = stream(Stored(lake.uri, {}))
    assert sorted(row["SeriesInstanceUID"] for row in rows) == sorted(stored.volumes)
    for row in rows:
        np.testing.assert_array_equal(row["volume"], stored.volumes[row["SeriesInstanceUID"]])


@pytest.mark.parametrize(
    ("settings", "stated"),
    [
        ({"where": "sequence ="}, "where: .*describe training_set"),
        ({"where": "no_such_column = 1"}, "where: .*no_such_column"),
        ({"where": "Modality = 'US'"}, "holds no such series; check split and where"),
        ({"settings": ResampleSettings(slices=7)}, "none of .* run: radnet-lake preprocess"),
        ({"split": "trian"}, "split: 'trian' is unknown; use train, validation"),
        ({"source": "disk"}, "source: 'disk' is unknown; use tensors or lake"),
        ({"epochs": 0}, "epochs: must be at least 1"),
    ],
)
def test_what_leaves_nothing_to_stream_is_told_with_the_remedy(
    stored: Stored, settings: dict[str, Any], stated: str
) -> None:
    with pytest.raises(SettingError, match=rf"(?s){stated}"):
        index_series(configure(stored, **settings))


def test_a_lake_without_labels_is_told_with_the_remedy(tmp_path: Path) -> None:
    lake = create_lake(str(tmp_path / "lake"), "keep", "")
    with pytest.raises(SettingError, match="radnet-lake label"):
        index_series(StreamConfig(lake.uri))


def test_a_missing_shard_ends_the_stream_and_is_named(stored: Stored, tmp_path: Path) -> None:
    lake = copy_labels(stored, str(tmp_path / "lake"), "")
    store(lake, SETTINGS, stored.volumes, 20)
    (part,) = lake.snapshot.of("tensors")
    lake.folder.delete([part.name])
    with pytest.raises(LakeError, match=rf"{part.name}: the shard is missing; make its volumes"):
        stream(Stored(lake.uri, {}))


def test_training_workers_share_an_epoch_without_overlap(stored: Stored) -> None:
    shards = stream_volumes(configure(stored, epochs=6)).streaming_split(2, equal=True)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda s: read_rows(s.iter_batches(batch_size=4)), shards)
    kept = sorted(stored.volumes)[1:]
    assert len(first) == len(second) == 6 * len(kept) // 2
    seen = Counter((int(r["epoch"]), r["SeriesInstanceUID"]) for r in first + second)
    assert set(seen.values()) == {1}


def test_the_lake_itself_gives_the_volumes_of_the_shards_and_leaves_bad_series_out(
    stored: Stored,
) -> None:
    expected = stream(stored, seed=2, where="slice_count > 0")
    with radnet_lake.connect(stored.lake) as connection:
        bad, path = connection.execute(
            "select SeriesInstanceUID, min(uri) from instances where SeriesInstanceUID = ?"
            " group by all",
            [expected[0]["SeriesInstanceUID"]],
        ).fetchall()[0]
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:-200])
    try:
        made = stream(stored, source="lake", seed=2)
    finally:
        Path(path).write_bytes(whole)
    assert sorted(row["SeriesInstanceUID"] for row in made) == sorted({*stored.volumes} - {bad})
    for row in made:
        np.testing.assert_array_equal(row["volume"], stored.volumes[row["SeriesInstanceUID"]])


def test_little_is_loaded_ahead_of_a_slow_consumer(stored: Stored) -> None:
    """What the shard holds is changed while the consumer pauses: old volumes came before that."""
    lake = open_lake(stored.lake)
    noise = np.random.default_rng(0).integers(0, 128, (5, 20, 20), np.uint8)
    uids = sorted(stored.volumes)
    store(lake, NOISE, dict.fromkeys(uids, noise), len(uids))
    (old,) = (p for p in lake.snapshot.of("tensors") if NOISE.version() in p.name)
    new = write_shard(lake, NOISE.version(), [(uid, noise + 128, WRONG) for uid in uids])
    assert new.size_bytes == old.size_bytes
    epochs = 4 * BLOCKS_AHEAD_PER_CPU
    dataset = stream_volumes(configure(stored, settings=NOISE, epochs=epochs))
    batches = iter(dataset.iter_batches(batch_size=BLOCK_VOLUMES))
    next(batches)
    time.sleep(2)
    Path(lake.uri, new.name).replace(Path(lake.uri, old.name))
    rows = read_rows(batches)
    ahead = sum(row["volume"].max() < 128 for row in rows)
    # One block an epoch, two CPUs; and what the tasks and the iterator have in hand.
    assert 0 < ahead <= (2 * BLOCKS_AHEAD_PER_CPU + 8) * len(uids)
    assert rows[-1]["volume"].max() >= 128
