"""Volumes, timed: a table on standard output, the same figures in benchmarks/volumes.json.

    make benchmark              # or: python benchmarks/volumes.py --part pipeline --rounds 3

Times are CPU time of the process with all its threads, page cache warm (wall time moves too much on
a shared machine): medians of rounds in which all that is compared runs in turn; ratios are medians
of the rounds' own ratios. The preprocess job: preprocess.py. Series are the phantom's. We start
from the lake's rows, MONAI from the series' folder; a line says what reading the headers costs on
top. Decoders take all slices of a series and do nothing else; we take those that the result depends
on, and make the volume.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from stacks import (
    BODY,
    NATIVE,
    STACKS,
    SYNTAXES,
    Image,
    draw_images,
    make_series,
    plan_series,
    read_frames,
    wrap_pixels,
    write_series,
)

from radnet_lake.volume.frame import Frame
from radnet_lake.volume.pixels import read_stored
from radnet_lake.volume.resample import Resampler, ResampleSettings
from radnet_lake.volume.volume import order_frames, prepare_frames

Figures = dict[str, dict[str, float]]
SETTINGS = ResampleSettings()


def prepare_folder(folder: Path) -> Image:
    return prepare_frames(read_frames(folder), SETTINGS).voxels


def load_monai(reader: str, slices: int) -> Callable[[Path], Image]:
    """MONAI's pipeline: folder -> grey levels in our axes, (D, H, W), not rounded."""
    import torch
    from monai.transforms import Compose, LoadImage, Resize, ScaleIntensity

    torch.set_num_threads(1)
    if reader == "ITKReader":
        import itk

        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    steps = Compose([
        LoadImage(reader=reader, image_only=True, ensure_channel_first=True),
        Resize((SETTINGS.columns, SETTINGS.rows, slices), mode="trilinear", align_corners=False),
        ScaleIntensity(0, 255),
    ])  # fmt: skip
    return lambda folder: np.asarray(steps(str(folder)))[0].transpose(2, 1, 0)


def time_rounds(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each piece of work in each round; a first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if number:
                times[name].append((time.process_time() - started) * 1e3)
    return times


def compare(times: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def use_one_core() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)


def run_pipeline(folder: Path, rounds: int) -> Figures:
    """From files to grey levels, against MONAI; and by how many grey levels the two differ.

    In the padded series MONAI takes the padding for tissue.
    """
    use_one_core()
    found: Figures = {}
    sources = {name: make_series(folder / name, stack) for name, stack in STACKS.items()}
    sources["JPEG 2000, CT 120x512x512"] = make_series(folder / "J2K", BODY, "JPEG 2000")
    for name, source in sources.items():
        frames = read_frames(source)
        filled = min(SETTINGS.slices, len(frames))
        ours = prepare_frames(frames, SETTINGS)
        readers = {f"MONAI {r}": load_monai(r, filled) for r in ("PydicomReader", "ITKReader")}
        works: dict[str, Callable[[], Any]] = {
            "radnet_lake, from the lake's rows": partial(prepare_frames, frames, SETTINGS),
            "radnet_lake, headers read too": partial(prepare_folder, source),
        }
        works |= {f"{reader}": partial(load, source) for reader, load in readers.items()}
        times = time_rounds(works, max(1, rounds // 2) if len(frames) > 200 else rounds)
        figures = {f"{what}, ms": statistics.median(ms) for what, ms in times.items()}
        own, whole, *peers = works
        voxels = ours.voxels[ours.blank_before :][:filled].astype(int)
        figures["volumes/s per core"] = 1000 / figures[f"{own}, ms"]
        for peer in peers:
            goal = " (target >= 8)" if source.parent.name == "CT 120x512x512" else ""
            figures[f"ratio of {peer} to ours{goal}"] = compare(times, peer, own)
            figures[f"ratio of {peer} to ours with headers"] = compare(times, peer, whole)
            other = np.floor(readers[peer](source) + 0.5).astype(int)
            gap = np.abs(voxels - other)
            figures[f"grey levels between us and {peer}, most"] = float(gap.max())
            figures[f"grey levels between us and {peer}, mean"] = float(gap.mean())
        found[name] = figures
    return found


def list_decoders() -> dict[str, Callable[[str], Any]]:
    """Readers of one file's pixels that others offer; each as fast as it goes."""
    import dicomsdl
    import gdcm
    import pydicom
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def read_gdcm(path: str) -> Any:
        reader = gdcm.ImageReader()
        reader.SetFileName(path)
        assert reader.Read()
        return reader.GetImage().GetBuffer()

    return {
        "gdcm": read_gdcm,
        "SimpleITK": lambda path: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)),
        "pydicom, pylibjpeg": lambda path: pydicom.dcmread(path).pixel_array,
        "dicomsdl": lambda path: dicomsdl.open(path).pixelData(storedvalue=True),
    }


def read_all(read: Callable[[str], Any], paths: list[str]) -> None:
    for path in paths:
        read(path)


def run_compressed(folder: Path, rounds: int) -> Figures:
    """One CT in each compressed syntax: our volume against bare decoding of its slices."""
    use_one_core()
    found: Figures = {}
    for syntax in SYNTAXES:
        source = make_series(folder / syntax, BODY, syntax)
        frames = read_frames(source)
        works: dict[str, Callable[[], Any]] = {
            "radnet_lake, the volume": partial(prepare_frames, frames, SETTINGS)
        }
        for name, read in list_decoders().items():
            try:
                read(frames[0].uri)
            except Exception as error:  # any kind: they come from four libraries
                print(f"{syntax}: {name} cannot ({type(error).__name__})", file=sys.stderr)
                continue
            works[f"{name}, all slices"] = partial(read_all, read, [f.uri for f in frames])
        times = time_rounds(works, rounds)
        own, *peers = works
        fastest = min(peers, key=lambda peer: statistics.median(times[peer]))
        ratio = compare(times, own, fastest)
        needed = len(Resampler(BODY.shape, SETTINGS).needed) / len(frames)
        figures = {f"{what}, ms": statistics.median(ms) for what, ms in times.items()}
        figures[f"ratio of ours to {fastest} (target <= 1.2)"] = ratio
        figures["the same, for as many slices"] = ratio / needed
        found[f"CT 120x512x512, {syntax}"] = figures
    return found


def read_only(frames: list[Frame]) -> None:
    for f in frames:
        descriptor = os.open(f.uri, os.O_RDONLY)
        os.pread(descriptor, f.size_bytes or 0, f.header_bytes or 0)
        os.close(descriptor)


def resize(frames: list[Frame], stored: dict[int, Image], stop: str = "") -> None:
    resampler = Resampler((len(frames), *stored[0].shape), SETTINGS)
    for k in resampler.needed:
        resampler.add(k, stored[k], None, 1.0, -1024.0)
    if stop != "before grey levels":
        resampler.finish()


def run_stages(folder: Path, rounds: int) -> Figures:
    """Where the time goes: each stage alone, over the slices that the volume needs."""
    use_one_core()
    found: Figures = {}
    for name in ("native", "JPEG 2000", "RLE"):
        frames = order_frames(read_frames(make_series(folder / name, BODY, name)))
        needed = Resampler(BODY.shape, SETTINGS).needed
        stored = dict(read_stored(frames, needed))
        works: dict[str, Callable[[], Any]] = {
            "all": partial(prepare_frames, frames, SETTINGS),
            "order": partial(order_frames, frames),
            "read": partial(read_only, [frames[k] for k in needed]),
            "decode": partial(exhaust_stored, frames, needed),
            "resize": partial(resize, frames, stored, "before grey levels"),
            "finish": partial(resize, frames, stored),
        }
        ms = {what: statistics.median(t) for what, t in time_rounds(works, rounds).items()}
        parts = {
            "ordering": ms["order"],
            "reading bytes": ms["read"],
            "decoding": ms["decode"] - ms["read"],
            "resizing": ms["resize"],
            "grey levels": ms["finish"] - ms["resize"],
        }
        parts["rest: rescale, padding, geometry"] = ms["all"] - sum(parts.values())
        figures = {f"{what}, ms": t for what, t in parts.items()}
        figures |= {"all, ms": ms["all"], "ratio of reading alone to all": ms["read"] / ms["all"]}
        found[f"stages, CT 120x512x512, {name}"] = figures
    return found


def exhaust_stored(frames: list[Frame], needed: list[int]) -> None:
    for _ in read_stored(frames, needed):
        pass


def run_alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a fresh process, so that memory, threads and Ray start from nothing."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measure_memory(folder: Path, volumes: int = 1) -> tuple[float, float]:
    """MB of a fresh process: what preparing adds to the rows in memory, at most and at the end."""
    frames = read_frames(folder)
    prepare_frames(frames[:2], SETTINGS, strict=False)  # what libraries load is no part of it
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = read_status("VmRSS")
    for _ in range(volumes):
        prepare_frames(frames, SETTINGS, strict=False)
    return read_status("VmHWM") - before, read_status("VmRSS") - before


def read_status(name: str) -> float:
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


def run_memory(folder: Path, rounds: int) -> Figures:
    """Peak memory of one volume by the length of its series, and of many volumes in a row."""
    deep = BODY._replace(shape=(2000, 512, 512), spacing_mm=(0.15, 0.74))
    small = BODY._replace(shape=(25, 64, 64), spacing_mm=(10, 5.9))
    elements = [wrap_pixels(image.tobytes(), NATIVE) for image in draw_images(small)] * 2000
    sources = {
        "120 slices of 512x512": make_series(folder / "body", BODY),
        "2,000 slices of 512x512": make_series(folder / "deep", deep),
        "50,000 instances of 64x64, 4D": write_series(folder / "4D", plan_series(small), elements),
    }
    figures = {
        f"{what}, peak MB": run_alone(measure_memory, source)[0] for what, source in sources.items()
    }
    body = sources["120 slices of 512x512"]
    for volumes in (20, 200):
        figures[f"left after {volumes} volumes, MB"] = run_alone(measure_memory, body, volumes)[1]
    return {"memory added to a process": figures}


def print_table(found: Figures) -> None:
    for title, figures in found.items():
        print(title)
        for what, figure in figures.items():
            form = "10,.0f" if abs(figure) >= 100 else "#10.3g" if abs(figure) >= 0.1 else "10.1g"
            print(f"  {what:<64} {figure:>{form}}", flush=True)


PARTS: dict[str, Callable[[Path, int], Figures]] = {
    "pipeline": run_pipeline,
    "compressed": run_compressed,
    "stages": run_stages,
    "memory": run_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time volumes: reading, decoding, resizing.")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to make the files; they are deleted again")
    arguments = parser.parse_args()
    found: Figures = {}
    for part in arguments.part or PARTS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            figures = run_alone(PARTS[part], Path(folder), arguments.rounds)
        found |= figures
        print_table(figures)
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(found, indent=1))
    print(f"written: {target}")


if __name__ == "__main__":
    main()
