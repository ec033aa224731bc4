"""Volumes into training, timed: stored forms, the stream, and a training step that it feeds.

    make benchmark              # or: python benchmarks/feeding.py --part stream --volumes 3000

Volumes/s by the clock, of 48x192x192 uint8, page cache warm, the first 256 left out; CPU is what
all processes together compute for a volume, which tells more on a machine that others use too. The
consumer takes batches of 8 from `streaming_split(1)`, as Ray Train's get_dataset_shard does.
"""

import argparse
import importlib.util
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from preprocess import read_bucket
from volumes import Figures, print_table, run_alone

from radnet_lake import schema
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake.log import create_lake, open_lake
from radnet_lake.lake.views import connect
from radnet_lake.phantom.phantom import PhantomConfig, phantom
from radnet_lake.ray_cluster import start_ray
from radnet_lake.volume.preprocess import PreprocessConfig, preprocess
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.shard import Voxels, read_volumes, write_shard
from radnet_lake.volume.stream import StreamConfig, stream_volumes

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
PREPROCESSING = ResampleSettings().version()
SHAPE = (48, 192, 192)
BATCH = 8
SHARD_VOLUMES = 32
WARM_UP = 256
FORM_VOLUMES = 128
TRAINING_ROUNDS = 7
COPIES = """
select s.* replace (
    concat(SeriesInstanceUID, '.', k) as SeriesInstanceUID,
    concat(StudyInstanceUID, '.', k) as StudyInstanceUID,
    concat(FrameOfReferenceUID, '.', k) as FrameOfReferenceUID,
    concat(PatientID, k) as PatientID
)
from stored.series as s semi join volumes using (SeriesInstanceUID), range({copies}) as t(k)
where excluded_by is null
order by hash(SeriesInstanceUID, k)
"""


def make_base(folder: Path) -> str:
    """The lake of a phantom archive, labelled, with its volumes."""
    lake = str(folder / "base")
    phantom(PhantomConfig(out=str(folder / "archive"), patients=2, seed=11, size=160))
    start_ray(2)
    harvest(HarvestConfig((str(folder / "archive"),), lake=lake, phi="keep"))
    label(LabelConfig(lake))
    preprocess(PreprocessConfig(lake))
    return lake


def read_base(base: str) -> dict[str, Voxels]:
    """Its volumes, by series."""
    with connect(base) as connection:
        rows = connection.sql(
            "select SeriesInstanceUID, shard, position from volumes where shard is not null"
        ).fetchall()
    lake = open_lake(base)
    return {series: read_volumes(lake, shard, [place])[0] for series, shard, place in rows}


def copy_lake(base: str, target: str, volumes: int) -> None:
    """A lake of so many volumes: those of the base over and over, each a series of its own."""
    held = read_base(base)
    with connect(base) as connection:
        series = connection.sql(COPIES.format(copies=-(-volumes // len(held)))).to_arrow_table()
    series = series.slice(0, volumes)
    lake = create_lake(target, "keep", "")
    uids = series["SeriesInstanceUID"].to_pylist()
    parts, rows = [], []
    for start in range(0, len(uids), SHARD_VOLUMES):
        some = uids[start : start + SHARD_VOLUMES]
        shard = write_shard(
            lake, PREPROCESSING, [(uid, held[uid.rpartition(".")[0]], {}) for uid in some]
        )
        parts.append(shard)
        rows += [
            {"SeriesInstanceUID": uid, "preprocessing": PREPROCESSING, "shard": shard.name}
            | {"position": n}
            for n, uid in enumerate(some)
        ]
    table = pa.Table.from_pylist(rows, schema.TABLES["volumes"])
    parts += [
        lake.write_part("series", series, "copies"),
        lake.write_part("volumes", table, "copies"),
    ]
    lake.commit(add=parts, labels=open_lake(base).snapshot.labels)


def as_tensor(voxels: Voxels) -> pa.Array:
    values = pa.FixedSizeListArray.from_arrays(pa.array(voxels.reshape(-1)), voxels.size)
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), SHAPE), values)


def as_binary(voxels: Voxels) -> pa.Array:
    return pa.array([voxels.tobytes()], pa.large_binary())


def write_ipc(codec: str | None, volumes: list[Voxels], path: Path) -> None:
    content = pa.schema([("volume", as_tensor(volumes[0]).type)])
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_file(path, content, options=options) as writer:
        for voxels in volumes:
            writer.write_batch(pa.record_batch([as_tensor(voxels)], schema=content))


def read_ipc(path: Path, order: list[int]) -> Iterator[Voxels]:
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    for n in order:
        yield file.get_batch(n).column(0).storage.flatten().to_numpy().reshape(SHAPE)


def write_parquet(
    make: Callable[[Voxels], pa.Array], codec: str, volumes: list[Voxels], path: Path
) -> None:
    content = pa.schema([("volume", make(volumes[0]).type)])
    with pq.ParquetWriter(path, content, compression=codec, use_dictionary=False) as writer:
        for voxels in volumes:
            writer.write_table(pa.table([make(voxels)], schema=content), row_group_size=1)


def read_parquet(path: Path, order: list[int]) -> Iterator[Voxels]:
    file = pq.ParquetFile(path, memory_map=True)
    for n in order:
        column = file.read_row_group(n, use_threads=False)["volume"].chunk(0)
        if column.type == pa.large_binary():
            yield np.frombuffer(column.buffers()[2], np.uint8).reshape(SHAPE)
        else:
            yield column.storage.flatten().to_numpy().reshape(SHAPE)


FORMS: dict[str, tuple[Callable[[list[Voxels], Path], None], Any]] = {
    "Arrow IPC, a batch each, plain": (partial(write_ipc, None), read_ipc),
    "Arrow IPC, a batch each, lz4 (ours)": (partial(write_ipc, "lz4"), read_ipc),
    "Arrow IPC, a batch each, zstd": (partial(write_ipc, "zstd"), read_ipc),
    "Parquet of binary, zstd": (partial(write_parquet, as_binary, "zstd"), read_parquet),
    "Parquet of tensors, zstd": (partial(write_parquet, as_tensor, "zstd"), read_parquet),
}


def time_reads(read: Callable[[list[int]], Iterator[Voxels]], order: list[int]) -> float:
    """Of a core's time, the better of two; into arrays of 16."""
    seconds = []
    for _ in range(2):
        started = time.process_time()
        for start in range(0, len(order), 16):
            np.stack(list(read(order[start : start + 16])))
        seconds.append(time.process_time() - started)
    return len(order) / min(seconds)


def sum_cpu_ms(driver: int) -> float:
    """Of a process and all that it started, as Ray's are."""
    own = psutil.Process(driver)
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return 1e3 * sum(t.user + t.system for t in times)


def consume(shard: Any, driver: int) -> dict[str, float]:
    """Take all batches and do nothing with them, as a Ray Train worker would take them."""
    own = psutil.Process()
    total = ray.cluster_resources()["object_store_memory"]
    private = stored = volumes = 0
    for batch in shard.iter_torch_batches(batch_size=BATCH, prefetch_batches=2):
        volumes += len(batch["volume"])
        if volumes == WARM_UP:
            started, used = time.perf_counter(), sum_cpu_ms(driver)
        if volumes % WARM_UP == 0:
            private = max(private, own.memory_full_info().uss)
            stored = max(stored, total - ray.available_resources()["object_store_memory"])
    timed = volumes - WARM_UP
    return {
        "volumes/s (target >= 400 from shards)": timed / (time.perf_counter() - started),
        "CPU ms a volume (400/s on 2 cores: 5)": (sum_cpu_ms(driver) - used) / timed,
        "memory of the consumer, MB": private / 1e6,
        "object store in use, MB": stored / 1e6,
    }


def feed(lake: str, source: str, epochs: int) -> dict[str, float]:
    """A stream into a consumer, on a Ray of two CPUs."""
    start_ray(2)
    config = StreamConfig(lake, split="", source=source, epochs=epochs, uids=False)
    (shard,) = stream_volumes(config).streaming_split(1, equal=True)
    import feeding  # by a name that Ray's workers can import

    task = ray.remote(num_cpus=0)(feeding.consume)
    return ray.get(task.remote(shard, os.getpid()))


def make_small(torch: Any) -> tuple[Any, int]:
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv3d(1, 16, 5, stride=4), nn.ReLU(), nn.Conv3d(16, 32, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    return net, BATCH


def make_monai(torch: Any) -> tuple[Any, int]:
    from monai.networks.nets import resnet50

    return resnet50(n_input_channels=1, num_classes=5, conv1_t_stride=2), 2


def train(shard: Any, make: Callable[[Any], tuple[Any, int]], steps: int) -> dict[str, float]:
    """The same steps on tensors that are there and on streamed ones, in turn."""
    import torch

    torch.set_num_threads(1)
    net, batch_size = make(torch)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-4)

    def time_steps(batches: Iterator[Any]) -> tuple[float, float]:
        """Medians of so many steps: s a step, of these s until its batch was there."""
        seconds, waits = [], []
        for _ in range(steps):
            started = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - started)
            outputs = net(batch["volume"].unsqueeze(1).float() / 255)
            known = batch["sequence"].clamp(min=0)
            loss = torch.nn.functional.cross_entropy(outputs, known)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds), statistics.median(waits)

    streamed = iter(shard.iter_torch_batches(batch_size=batch_size, prefetch_batches=2))
    # More of them than a cache holds.
    ready = cycle([{k: v.clone() for k, v in next(streamed).items()} for _ in range(4)])
    time_steps(streamed)
    rounds = [(time_steps(ready)[0], *time_steps(streamed)) for _ in range(TRAINING_ROUNDS)]
    alone, fed, waits = zip(*rounds, strict=True)
    return {
        "step on ready tensors, s": statistics.median(alone),
        "step on the stream, s": statistics.median(fed),
        "of that waiting for the batch, s": statistics.median(waits),
        "ratio (target <= 1.05)": statistics.median(map(truediv, fed, alone)),
    }


def feed_training(lake: str, network: str, steps: int) -> Any:
    start_ray(2)
    config = StreamConfig(lake, split="", epochs=50, uids=False)
    (shard,) = stream_volumes(config).streaming_split(1, equal=True)
    import feeding

    task = ray.remote(num_cpus=1)(feeding.train)
    return ray.get(task.remote(shard, getattr(feeding, network), steps))


def run_forms(folder: Path, base: str, volumes: int) -> Figures:
    """Each way to store volumes: written once, read whole and in random order."""
    held = list(read_base(base).values())
    some = [held[n % len(held)] for n in range(FORM_VOLUMES)]
    in_order = list(range(FORM_VOLUMES))
    at_random = random.Random(0).sample(in_order, FORM_VOLUMES)
    found: Figures = {}
    for name, (write, read) in FORMS.items():
        path = folder / "form"
        write(some, path)
        found[f"stored as {name}"] = {
            "MB a volume": path.stat().st_size / FORM_VOLUMES / 1e6,
            "read in order, volumes/s of a core": time_reads(partial(read, path), in_order),
            "read at random, volumes/s of a core": time_reads(partial(read, path), at_random),
        }
        path.unlink()
    return found


def run_stream(folder: Path, base: str, volumes: int) -> Figures:
    lake = str(folder / "local")
    copy_lake(base, lake, volumes)
    epochs = -(-2 * WARM_UP // len(read_base(base)))
    return {
        "shards on local disk": run_alone(feed, lake, "tensors", 2),
        "straight from the lake (small phantom series)": run_alone(feed, base, "lake", epochs),
    }


def run_s3(folder: Path, base: str, volumes: int) -> Figures:
    from s3_server import S3Server

    server = S3Server(folder / "seaweedfs")
    server.start()
    os.environ.update(server.env)
    try:
        bucket = server.bucket()
        copy_lake(base, f"s3://{bucket}/lake", volumes // 3)
        shards = open_lake(f"s3://{bucket}/lake").snapshot.of("tensors")
        seconds, _ = run_alone(read_bucket, bucket, [f"lake/{part.name}" for part in shards])
        bare = sum(part.rows for part in shards) / seconds
        figures = {"bare obstore reads of the shards, volumes/s": bare}
        figures |= run_alone(feed, f"s3://{bucket}/lake", "tensors", 3)
        return {"shards on S3, the server on the same cores": figures}
    finally:
        server.stop()


def run_training(folder: Path, base: str, volumes: int) -> Figures:
    found = {"training step, a small 3D network": run_alone(feed_training, base, "make_small", 8)}
    if importlib.util.find_spec("monai"):
        found["training step, MONAI's ResNet-50"] = run_alone(feed_training, base, "make_monai", 1)
    else:
        print("MONAI is not installed: its ResNet-50 is left out")
    return found


PARTS: dict[str, Callable[[Path, str, int], Figures]] = {
    "forms": run_forms,
    "stream": run_stream,
    "s3": run_s3,
    "training": run_training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time what feeds training.")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--volumes", type=int, default=2400, help="of the lake; a third on S3")
    parser.add_argument("--folder", help="where to make the files; they are deleted again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        base = run_alone(make_base, Path(name))
        for part in arguments.part or PARTS:
            print_table(PARTS[part](Path(name), base, arguments.volumes))


if __name__ == "__main__":
    main()
