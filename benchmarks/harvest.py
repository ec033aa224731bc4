"""Harvesting, timed: a table on standard output, the same figures in benchmarks/harvest.json.

    make benchmark              # or: python benchmarks/harvest.py --files 60000 --objects 6000

Rates are files/s, from one run on one machine: compare them, do not quote them alone. The corpus
is pydicom's CT_small and MR_small with small pixel data, 100 files a series.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import gdcm
import pydicom
import pydicom.data

from radnet_lake import schema
from radnet_lake.dicom.header import Header, read_header
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.harvest.file_index import FileIndex, to_listed
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.harvest.worker import HarvestJob, extract_chunk, to_table
from radnet_lake.lake.log import create_lake
from radnet_lake.ray_cluster import start_ray
from radnet_lake.storage.sources import Entry, list_unit, list_units, read_heads, read_range

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
PER_SERIES = 100
CHUNK_FILES = 5000
STANDARD = [a for a in schema.ATTRIBUTES if not a.creator]


def make_corpus(folder: Path, files: int) -> None:
    """Real headers, 100 files a series, UIDs and positions of their own, 16x16 pixels."""
    originals = []
    for name in ("CT_small.dcm", "MR_small.dcm"):
        dataset = pydicom.data.get_testdata_file(name, read=True, download=False)
        dataset.Rows = dataset.Columns = 16
        dataset.PixelData = b"\0" * 512
        originals.append(dataset)
    for series in range(files // PER_SERIES):
        dataset = originals[series % 2]
        target = folder / f"{series // 100:03d}" / f"{series:06d}"
        target.mkdir(parents=True)
        dataset.SeriesInstanceUID = f"1.2.826.0.1.{series}"
        for n in range(PER_SERIES):
            dataset.SOPInstanceUID = f"1.2.826.0.1.{series}.{n}"
            dataset.InstanceNumber = n + 1
            dataset.ImagePositionPatient = [-158.1, -179.0, -75.7 + 2.5 * n]
            dataset.save_as(target / f"{n:04d}.dcm")


def find_files(folder: Path) -> list[str]:
    return sorted(str(p) for p in folder.rglob("*.dcm"))


def measure_rate(work: Callable[[], int]) -> float:
    """Files per second of `work`, which returns how many it did."""
    started = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - started)


def read_only(files: list[str], length: int) -> int:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.pread(descriptor, length, 0)
        os.close(descriptor)
    return len(files)


def extract_rows(files: list[str]) -> int:
    """All columns of `instances`, typed, as an Arrow table a thousand files."""
    rows: list[dict[str, Any]] = []
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        size, head = os.fstat(descriptor).st_size, os.pread(descriptor, 8192, 0)
        os.close(descriptor)
        header = read_header(partial(read_range, path), size, head)
        assert isinstance(header, Header)
        found = make_frame_rows(header)
        assert isinstance(found, list)
        rows += found
        if len(rows) >= 1000:
            to_table(rows, "instances")
            rows = []
    return len(files)


def read_with_pydicom(files: list[str], only_wanted: bool) -> int:
    tags: list[Any] = [a.tag for a in STANDARD]
    for path in files:
        dataset = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=tags if only_wanted else None
        )
        for a in STANDARD:
            dataset.get(a.keyword)
    return len(files)


def read_with_gdcm(files: list[str]) -> int:
    scanner = gdcm.Scanner()
    tags = [gdcm.Tag(a.tag >> 16, a.tag & 0xFFFF) for a in STANDARD]
    for tag in tags:
        scanner.AddTag(tag)
    scanner.Scan(files)
    for path in files:
        for tag in tags:
            scanner.GetValue(path, tag)
    return len(files)


def time_extraction(files: list[str]) -> dict[str, float]:
    """One process, no lake: the reader against its peers and against the read limit."""
    few = files[:: max(1, len(files) // 1500)]
    extract_rows(few)
    found = {
        "read limit: open, read 8 KB, close": measure_rate(partial(read_only, files, 8192)),
        "radnet_lake, all columns, to Arrow": measure_rate(partial(extract_rows, files[:12000])),
        "gdcm.Scanner, the same tags": measure_rate(partial(read_with_gdcm, few)),
        "pydicom specific_tags, values": measure_rate(partial(read_with_pydicom, few, True)),
        "pydicom stop_before_pixels, values": measure_rate(partial(read_with_pydicom, few, False)),
    }
    limit, own, scanner, wanted, _ = found.values()
    return found | {
        "ratio to specific_tags": own / wanted,
        "ratio to gdcm.Scanner": own / scanner,
        "ratio to the read limit": own / limit,
    }


def extract_plain(lake: str, entries: list[Entry]) -> int:
    file_index = FileIndex(lake, (), (), frozenset())
    job = HarvestJob(lake, "plain", "", "", "keep", False, file_index)
    return extract_chunk(job, to_listed(entries)).counts["files_listed"]


def time_plain(source: str, lake: str, workers: int) -> float:
    """What Ray is measured against: plain processes that list, extract and write the same."""
    create_lake(lake, "keep", "")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        list(pool.map(extract_plain, [lake] * workers, [[]] * workers))  # imports are start-up

        def work() -> int:
            entries = (e for unit in list_units(source) for e in list_unit(unit))
            chunks = list(iter(lambda: list(islice(entries, CHUNK_FILES)), []))
            return sum(pool.map(extract_plain, [lake] * len(chunks), chunks))

        return measure_rate(work)


def time_ray(source: str, lake: str, workers: int, warm_up: str) -> dict[str, float]:
    """harvest() on a local Ray that is up already; first run, then over the unchanged archive."""
    import ray

    start_ray(workers)
    harvest(HarvestConfig((warm_up,), lake=f"{lake}-warm", phi="keep"))
    first = harvest(HarvestConfig((source,), lake=lake, phi="keep"))
    again = harvest(HarvestConfig((source,), lake=lake, phi="keep"))
    ray.shutdown()
    files = first.sums["files_listed"]
    assert again.sums["known"] == files
    return {
        "first": files / first.seconds,
        "unchanged": files / again.seconds,
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def time_bare_s3(uris: list[str], length: int) -> dict[str, float]:
    """Bare obstore: ranged reads, 32 at a time, nothing done with the bytes; and a boto3 loop."""
    import boto3
    import obstore
    from obstore.store import S3Store

    bucket = uris[0].split("/")[2]
    keys = [u.split("/", 3)[3] for u in uris]
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    store = S3Store(bucket, endpoint=endpoint, client_options={"allow_http": True})

    def read(key: str) -> int:
        return len(obstore.get_range(store, key, start=0, length=length))

    def read_bare() -> int:
        with ThreadPoolExecutor(32) as pool:
            return sum(1 for _ in pool.map(read, keys))

    def read_ours() -> int:
        entries = [Entry(u, 1 << 20, 0, None, None) for u in uris]
        return sum(1 for _ in read_heads(entries, lambda: length))

    client = boto3.client("s3")

    def read_boto3() -> int:
        for key in keys[:500]:
            answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{length - 1}")
            answer["Body"].read()
        return len(keys[:500])

    found = {}
    for name, job in (("bare", read_bare), ("heads", read_ours), ("boto3", read_boto3)):
        job()
        started = time.process_time()
        found[name] = measure_rate(job)
        count = len(keys[:500]) if name == "boto3" else len(keys)
        found[f"{name}_cpu_us"] = (time.process_time() - started) / count * 1e6
    return found


def run_alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a fresh process, so that memory and Ray start from nothing."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def link_files(original: str, folder: Path, count: int) -> None:
    for n in range(count):
        target = folder / f"{n // 1000:04d}"
        if n % 1000 == 0:
            target.mkdir(parents=True)
            source = shutil.copy(original, target / f"{n:07d}")  # a file may have 65,000 links
        else:
            (target / f"{n:07d}").hardlink_to(source)


def run_local(folder: Path, files: int) -> dict[str, Any]:
    corpus, warm = folder / "corpus", str(folder / "warm")
    make_corpus(corpus, files)
    make_corpus(Path(warm), 2000)
    paths = find_files(corpus)
    found: dict[str, Any] = {"one process": run_alone(time_extraction, paths)}
    for workers in (1, 2):
        plain = time_plain(str(corpus), str(folder / f"plain{workers}"), workers)
        lake = str(folder / f"ray{workers}")
        on_ray = run_alone(time_ray, str(corpus), lake, workers, warm)
        found[f"{workers} workers, local disk"] = {
            "plain processes": plain,
            "harvest on Ray": on_ray["first"],
            "harvest, unchanged archive": on_ray["unchanged"],
            "ratio Ray / plain": on_ray["first"] / plain,
            "ratio unchanged / first": on_ray["unchanged"] / on_ray["first"],
        }
    return found


def run_memory(folder: Path) -> dict[str, Any]:
    memory = {}
    for count in (10_000, 200_000):
        source, lake = folder / f"links{count}", str(folder / f"links-lake{count}")
        link_files(find_files(folder / "warm")[0], source, count)
        got = run_alone(time_ray, str(source), lake, 2, str(folder / "warm"))
        memory[f"{count} files"] = got["driver_mb"]
    few, many = memory.values()
    return {"driver memory, MB": memory | {"more": many - few}}


def run_s3(folder: Path, objects: int) -> dict[str, Any]:
    from s3_server import S3Server

    server = S3Server(folder / "seaweedfs")
    server.start()
    os.environ.update(server.env)
    try:
        bucket = server.bucket()
        client = server.client()

        def put(path: str) -> str:
            key = f"in/{Path(path).relative_to(folder / 'corpus')}"
            client.put_object(Bucket=bucket, Key=key, Body=Path(path).read_bytes())
            return f"s3://{bucket}/{key}"

        with ThreadPoolExecutor(8) as pool:
            uris = list(pool.map(put, find_files(folder / "corpus")[:objects]))
        bare = run_alone(time_bare_s3, uris, 32 << 10)
        # As Ray's two workers do, two processes read at once.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            halves = list(pool.map(time_bare_s3, [uris[::2], uris[1::2]], [32 << 10] * 2))
        found: dict[str, Any] = {
            "client CPU per object, us": {
                "obstore, bare": bare["bare_cpu_us"],
                "radnet_lake read_heads": bare["heads_cpu_us"],
                "boto3 loop": bare["boto3_cpu_us"],
                "ratio to boto3": bare["heads_cpu_us"] / bare["boto3_cpu_us"],
            }
        }
        for workers, limit in ((1, bare["bare"]), (2, sum(h["bare"] for h in halves))):
            lake = str(folder / f"s3-lake{workers}")
            got = run_alone(time_ray, f"s3://{bucket}/in", lake, workers, str(folder / "warm"))
            found[f"{workers} workers, S3"] = {
                "bare obstore ranged reads": limit,
                "harvest on Ray": got["first"],
                "harvest, unchanged bucket": got["unchanged"],
                "ratio Ray / bare": got["first"] / limit,
            }
        return found
    finally:
        server.stop()


def print_table(found: dict[str, Any]) -> None:
    for title, figures in found.items():
        print(title)
        for what, figure in figures.items():
            print(f"  {what:<40} {figure:>12,.{2 if 'ratio' in what else 0}f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=60_000, help="local files")
    parser.add_argument("--objects", type=int, default=6_000, help="S3 objects")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for part in (
            partial(run_local, Path(name), arguments.files),
            partial(run_s3, Path(name), arguments.objects),
            partial(run_memory, Path(name)),
        ):
            figures = part()
            found |= figures
            print_table(figures)
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(found, indent=1))
    print(f"written: {target}")


if __name__ == "__main__":
    main()
