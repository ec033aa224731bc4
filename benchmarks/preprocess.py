"""The preprocess job, timed: one worker against two, from disk and from S3.

    make benchmark              # or: python benchmarks/preprocess.py --volumes 600 --rounds 3

Volumes/s by the clock, of CT of 120 slices of 512x512, explicit little endian, page cache warm.
Start-up and planning fall out as the difference between a long run and a short one. Plain processes
prepare the same frames and store nothing: what two cores can give. The S3 server shares the cores.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import psutil
from stacks import BODY, make_series, read_frames
from volumes import SETTINGS, Figures, print_table, run_alone

from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.views import connect
from radnet_lake.ray_cluster import start_ray
from radnet_lake.volume.frame import Frame
from radnet_lake.volume.preprocess import PreprocessConfig, preprocess
from radnet_lake.volume.resample import Resampler
from radnet_lake.volume.volume import prepare_frames

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
SERIES = 6
"""On disk, 63 MB each; the lake names each of them many times."""
WARM_UP = 2
"""Copies of them in a first run, which starts the worker processes."""
COPIES = """
select i.* replace (
    concat(SeriesInstanceUID, '.', 10000 + k) as SeriesInstanceUID,
    concat(StudyInstanceUID, '.', 10000 + k) as StudyInstanceUID
)
from instances as i, range(1, {copies}) as t(k)
order by SeriesInstanceUID
"""


def plan_lake(source: str, lake: str, copies: int) -> None:
    """A labelled lake of so many series for each of the source, all of the same files."""
    start_ray(2)
    harvest(HarvestConfig((source,), lake=lake, phi="keep"))
    with connect(lake) as connection:
        rows = connection.sql(COPIES.format(copies=copies)).to_arrow_table()
    writer = open_lake(lake)
    writer.commit(add=[writer.write_part("instances", rows, "copies")])
    label(LabelConfig(lake))


def time_job(lake: str, copies: int, workers: int) -> tuple[float, float]:
    """Between a run over a fifth of the series and one over the rest: volumes/s, and how many
    milliseconds all processes together compute for one volume."""
    start_ray(workers)
    borders = (1, WARM_UP, WARM_UP + copies // 5, copies)
    reports, used = [], []
    for first, last in pairwise(borders):
        number = "try_cast(split_part(SeriesInstanceUID, '.', 4) as int) - 10000"
        where = f"{number} >= {first} and {number} < {last}"
        before = sum_cpu_ms()
        reports.append(preprocess(PreprocessConfig(lake, where=where)))
        used.append(sum_cpu_ms() - before)
        assert reports[-1].made == (last - first) * SERIES, reports[-1]
    _, short, long = reports
    volumes = long.made - short.made
    return volumes / (long.seconds - short.seconds), (used[2] - used[1]) / volumes


def sum_cpu_ms() -> float:
    """Of this process and all that it started, as Ray's are."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return 1e3 * sum(t.user + t.system for t in times)


def scale_job(source: str, folder: Path, copies: int, rounds: int) -> dict[str, float]:
    """The job with one worker and with two, in turn, each time on a fresh copy of the lake."""
    run_alone(plan_lake, source, str(folder / "planned"), copies)
    runs: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, found in runs.items():
            lake = shutil.copytree(folder / "planned", folder / "lake")
            found.append(run_alone(time_job, str(lake), copies, workers))
            shutil.rmtree(lake)
    one, two = ([rate for rate, _ in found] for found in runs.values())
    return {
        "job, 1 worker, volumes/s": statistics.median(one),
        "job, 2 workers, volumes/s": statistics.median(two),
        "ratio of 2 workers to 1 (target >= 1.8)": divide_pairs(two, one),
        "job, 1 worker, CPU ms a volume": statistics.median(cpu for _, cpu in runs[1]),
        "job, 2 workers, CPU ms a volume": statistics.median(cpu for _, cpu in runs[2]),
    }


def divide_pairs(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def prepare_series(frames: list[list[Frame]]) -> float:
    started = time.process_time()
    for of_series in frames:
        prepare_frames(of_series, SETTINGS)
    return time.process_time() - started


def time_plain(frames: list[list[Frame]], workers: int) -> tuple[float, float]:
    """Of plain processes that prepare the same and store nothing: volumes/s, CPU ms a volume."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        list(pool.map(prepare_series, [frames[:1]] * workers))
        started = time.perf_counter()
        used = sum(pool.map(prepare_series, [frames[n::workers] for n in range(workers)]))
        return len(frames) / (time.perf_counter() - started), 1e3 * used / len(frames)


def run_local(folder: Path, rounds: int, copies: int) -> Figures:
    make_series(folder / "archive", BODY, count=SERIES)
    frames = [read_frames(one) for one in (folder / "archive").iterdir()] * (copies // 4)
    runs = [(time_plain(frames, 1), time_plain(frames, 2)) for _ in range(rounds)]
    one, two = [first[0] for first, _ in runs], [second[0] for _, second in runs]
    figures = {
        "plain processes, 1, CPU ms a volume": statistics.median(first[1] for first, _ in runs),
        "plain processes, 1, volumes/s": statistics.median(one),
        "plain processes, 2, volumes/s": statistics.median(two),
        "ratio of 2 plain processes to 1": divide_pairs(two, one),
    }
    figures |= scale_job(str(folder / "archive"), folder / "local", copies, rounds)
    return {"preprocess job, local disk": figures}


def run_s3(folder: Path, rounds: int, copies: int) -> Figures:
    """The same archive in a bucket; the lake stays on disk."""
    from s3_server import S3Server

    server = S3Server(folder / "seaweedfs")
    server.start()
    os.environ.update(server.env)
    try:
        bucket = server.bucket()
        paths = list((folder / "archive").rglob("*.dcm"))
        keys = [str(path.relative_to(folder)) for path in paths]
        n_needed = SERIES * len(Resampler(BODY.shape, SETTINGS).needed)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda p, key: server.put(bucket, key, p.read_bytes()), paths, keys))
        seconds, cpu_ms = run_alone(read_bucket, bucket, keys[:n_needed])
        figures = {
            "bare obstore, 32 reads at once, volumes/s": SERIES / seconds,
            "bare obstore, CPU ms a volume": cpu_ms / SERIES,
        }
        figures |= scale_job(f"s3://{bucket}/archive", folder / "s3", copies, rounds)
        return {"preprocess job, S3": figures}
    finally:
        server.stop()


def read_bucket(bucket: str, keys: list[str]) -> tuple[float, float]:
    """Seconds, and CPU ms of this process, that reading the objects by bare obstore takes."""
    import obstore
    from obstore.store import S3Store

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    store = S3Store(bucket, endpoint=endpoint, client_options={"allow_http": True})
    started, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(32) as pool:
        for data in pool.map(lambda key: obstore.get(store, key).bytes(), keys):
            assert data
    return time.perf_counter() - started, 1e3 * (time.process_time() - used)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the preprocess job.")
    parser.add_argument("--volumes", type=int, default=600, help="in a run; a third on S3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to make the files; they are deleted again")
    arguments = parser.parse_args()
    copies = arguments.volumes // SERIES
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print_table(run_local(Path(folder), arguments.rounds, copies))
        print_table(run_s3(Path(folder), arguments.rounds, copies // 3))


if __name__ == "__main__":
    main()
